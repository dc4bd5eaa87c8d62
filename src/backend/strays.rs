//! Connections that have led elsewhere than the monitor's own: the name of their node may have come to lead to another server. Nobody
//! gets one before the monitor has met the node where it leads.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::net::timers;
use crate::topology::{PostmasterStart, SystemId};

/// Shared by the one who watches a node, and those who connect to it.
#[derive(Debug, Default)]
pub struct Strays {
    home: Mutex<Home>,
    /// A connection went elsewhere since the monitor has met the node last.
    are_there: AtomicBool,
    met: Notify,
    looked: Notify,
}

/// Where the monitor has met the node.
#[derive(Debug, Default)]
struct Home {
    /// The server that it is now.
    server: Option<Server>,
    /// Where that was. None: it is not known, or a socket in the file system.
    addresses: Vec<IpAddr>,
}

/// A server, from one start to the next.
type Server = (SystemId, PostmasterStart);

impl Strays {
    /// For the monitor: its new connection goes there, and has met this server. Answers whether that is the one of before.
    pub(super) fn found_at(&self, peer: Option<SocketAddr>, server: Server) -> bool {
        let mut home = self.home.lock();
        let is_same = home.server.replace(server) == Some(server);
        if !is_same || peer.is_none() {
            home.addresses.clear();
        }
        // A name may have several addresses of one server.
        if let Some(address) = peer.map(|peer| peer.ip()).filter(|address| !home.addresses.contains(address)) {
            home.addresses.push(address);
        }
        drop(home);
        self.are_there.store(false, Ordering::Release);
        self.looked.notify_waiters();
        is_same
    }

    /// A connection that goes there is one to the node, as far as is known.
    pub(super) fn is_home(&self, peer: Option<SocketAddr>) -> bool {
        let home = self.home.lock();
        home.addresses.is_empty() || peer.is_none_or(|peer| home.addresses.contains(&peer.ip()))
    }

    /// A new connection goes there; false: not to the node, as far as is known, and the monitor is asked to look.
    pub fn led_home(&self, peer: Option<SocketAddr>) -> bool {
        let is_home = self.is_home(peer);
        if !is_home && !self.are_there.swap(true, Ordering::AcqRel) {
            self.met.notify_one();
        }
        is_home
    }

    /// The same, once the monitor has looked where the name leads, which is not waited for beyond the deadline. Dropping this loses
    /// nothing.
    pub async fn leads_home(&self, peer: Option<SocketAddr>, deadline: Instant) -> bool {
        let looked = self.looked.notified();
        self.led_home(peer) || timers::timeout_at(deadline, looked).await.is_ok() && self.is_home(peer)
    }

    /// For the monitor: it should look where the name leads.
    pub fn are_there(&self) -> bool {
        self.are_there.load(Ordering::Acquire)
    }

    /// For the monitor: waits for the first one. Dropping this loses nothing: they are still there.
    pub async fn met(&self) {
        self.met.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PEERS: [&str; 2] = ["10.0.0.1:5432", "10.0.0.2:5432"];
    const FORMER: Server = (SystemId(1), PostmasterStart(1));
    const OTHER: Server = (SystemId(1), PostmasterStart(2));

    #[test]
    fn what_leads_elsewhere_than_the_monitors_own_is_a_stray_until_the_node_is_met_there() {
        let [here, there] = PEERS.map(|peer| peer.parse().ok());
        let strays = Strays::default();
        assert!(strays.led_home(there) && !strays.are_there(), "nobody knows where it should lead");
        strays.found_at(here, FORMER);
        for (peer, is_home, are_there) in
            [(here, true, false), (None, true, false), (there, false, true), (here, true, true)]
        {
            assert_eq!((strays.led_home(peer), strays.are_there()), (is_home, are_there), "{peer:?}");
        }
        strays.found_at(here, FORMER);
        assert!(
            !strays.are_there() && !strays.led_home(there),
            "the monitor has been led to the former server once more"
        );
        strays.found_at(there, FORMER);
        assert!(strays.led_home(here) && strays.led_home(there), "both lead to one server");
        strays.found_at(there, OTHER);
        assert!(strays.led_home(there) && !strays.led_home(here), "the name has moved");
        strays.found_at(None, OTHER);
        assert!(strays.led_home(here) && strays.led_home(there));
    }

    #[tokio::test]
    async fn a_stray_waits_until_the_monitor_has_looked_and_no_longer() {
        let [here, there] = PEERS.map(|peer| peer.parse().ok());
        let strays = Strays::default();
        strays.found_at(here, FORMER);
        let after = |millis| Instant::now() + Duration::from_millis(millis);
        assert!(strays.leads_home(here, after(0)).await);
        assert!(!strays.leads_home(there, after(10)).await);
        for (found, server, is_home) in [(here, FORMER, false), (there, OTHER, true)] {
            let look = async { strays.found_at(found, server) };
            assert_eq!(tokio::join!(strays.leads_home(there, after(60_000)), look).0, is_home, "{found:?}");
        }
    }
}
