//! Connections that have led elsewhere than the monitor's own: the name of their node may have come to lead to another server.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Shared by the one who watches a node, and those who connect to it.
#[derive(Debug, Default)]
pub struct Strays {
    /// Where the monitor's own connection goes; None where that is not known, or is a socket in the file system.
    watched: Mutex<Option<IpAddr>>,
    /// A connection went elsewhere since that was opened.
    are_there: AtomicBool,
    met: Notify,
}

impl Strays {
    /// For the monitor: its new connection goes there.
    pub fn watched_at(&self, peer: Option<SocketAddr>) {
        *self.watched.lock() = peer.map(|peer| peer.ip());
        self.are_there.store(false, Ordering::Release);
    }

    /// A new connection goes there.
    pub fn led_to(&self, peer: Option<SocketAddr>) {
        let watched = *self.watched.lock();
        let is_elsewhere = watched.zip(peer).is_some_and(|(watched, peer)| watched != peer.ip());
        if is_elsewhere && !self.are_there.swap(true, Ordering::AcqRel) {
            self.met.notify_one();
        }
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
    use super::*;

    #[test]
    fn what_leads_elsewhere_than_the_monitors_own_is_a_stray_until_that_is_made_anew() {
        let [here, there] = ["10.0.0.1:5432", "10.0.0.2:5432"].map(|peer| peer.parse().ok());
        let strays = Strays::default();
        strays.led_to(there);
        assert!(!strays.are_there(), "nobody knows where it should lead");
        strays.watched_at(here);
        for (peer, are_there) in [(here, false), (None, false), (there, true), (here, true)] {
            strays.led_to(peer);
            assert_eq!(strays.are_there(), are_there, "{peer:?}");
        }
        strays.watched_at(there);
        strays.led_to(there);
        assert!(!strays.are_there());
    }
}
