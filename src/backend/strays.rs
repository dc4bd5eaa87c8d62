//! Connections that have led elsewhere than the monitor's own: the name of their node may have come to lead to another server, while
//! the one before goes on. No session gets one before the monitor has met the node where it leads.

use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::net::timers;
use crate::topology::{PostmasterStart, SystemId};

/// Shared by those who watch a node, two of them while a reload waits, and those who connect to it.
#[derive(Debug, Default)]
pub struct Strays {
    seen: Mutex<Seen>,
    asked: Notify,
    looked: Notify,
}

#[derive(Debug, Default)]
struct Seen {
    /// Who has answered a monitor's newest connection; None: no monitor has one to it any more.
    newest: Option<Server>,
    /// How often that was another, while the one before went on.
    moves: u32,
    /// After how many moves every connection was closed.
    left: u32,
    /// Each connection of a monitor's that goes on: whom it has met.
    held: Vec<Server>,
    home: Home,
    /// How often each monitor was asked to look where the name leads.
    asks: u64,
    /// How often one has, and met the node.
    looks: u64,
    /// How often one has, and met nobody.
    vain: u64,
    /// Where the connection has led for which one was asked last, and where none has begun to log in since.
    wanted: Option<IpAddr>,
}

/// Where the node has been met, by what views show.
#[derive(Debug, Default)]
struct Home {
    /// The server that it is now.
    server: Option<Server>,
    /// Where that was; a name may have several addresses of one server. None: it is not known, or a socket in the file system.
    addresses: Vec<IpAddr>,
}

/// A server, from one start to the next.
type Server = (SystemId, PostmasterStart);

/// What a monitor's new connection has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// What this monitor is asked is done: it should look again where there are more of [them](Strays::asks).
    pub asks: u64,
    /// How often the name has moved.
    pub moves: u32,
    /// It has moved now.
    pub has_moved: bool,
}

impl Strays {
    /// For a monitor: this server has answered its new connection, which takes the place of one to the other, unless that has
    /// [ended](Self::ended). Where the name has moved, all who watch the node are asked to look, and whatever is opened is nobody's
    /// until [what was open is left](super::Gate::leave_former).
    pub fn met(&self, server: Server, in_place_of: Option<Server>) -> Met {
        let mut seen = self.seen.lock();
        let has_moved = seen.newest.replace(server).is_some_and(|before| before != server);
        seen.held.push(server);
        if let Some(before) = in_place_of {
            seen.is_given_up(before);
        }
        if has_moved {
            seen.moves += 1;
            self.ask(&mut seen);
        }
        Met { asks: seen.asks, moves: seen.moves, has_moved }
    }

    /// For a monitor, once for each that it has [met](Self::met): its connection to this server has ended, or is given up. Who
    /// answers next may be the same, started again, unless another monitor's goes on.
    pub fn ended(&self, server: Server) {
        self.seen.lock().is_given_up(server);
    }

    /// For a monitor: its new connection goes there, and has met this server. Answers whether that is the one of before.
    pub(super) fn found_at(&self, peer: Option<SocketAddr>, server: Server) -> bool {
        let mut seen = self.seen.lock();
        seen.looks += 1;
        let home = &mut seen.home;
        let is_same = home.server.replace(server) == Some(server);
        if !is_same || peer.is_none() {
            home.addresses.clear();
        }
        if let Some(address) = peer.map(|peer| peer.ip()).filter(|address| !home.addresses.contains(address)) {
            home.addresses.push(address);
        }
        drop(seen);
        self.looked.notify_waiters();
        is_same
    }

    /// For a monitor: it has looked, and has met nobody. Who waits holds a server process there, and waits no longer.
    pub fn looked_in_vain(&self) {
        self.seen.lock().vain += 1;
        self.looked.notify_waiters();
    }

    /// For who fences the node: by what is in force the name has moved so often, and connections may still lead where it led
    /// before, whoever watched the node when it moved.
    pub(super) fn are_to_be_left(&self, moves: u32) -> bool {
        moves > self.seen.lock().left
    }

    /// These are closed.
    pub(super) fn have_been_left(&self, moves: u32) {
        let mut seen = self.seen.lock();
        seen.left = seen.left.max(moves);
        drop(seen);
        self.looked.notify_waiters();
    }

    /// A connection that goes there is one to the node, as far as is known, and what is in force is of the same server.
    pub(super) fn is_home(&self, peer: Option<SocketAddr>) -> bool {
        let seen = self.seen.lock();
        !seen.is_moving() && seen.home.has(peer)
    }

    /// A connection goes elsewhere than where a monitor has met the node.
    pub(super) fn is_astray(&self, peer: Option<SocketAddr>) -> bool {
        !self.seen.lock().home.has(peer)
    }

    /// A new connection goes there; false: not to the node, as far as is known, and all who watch it are asked to look.
    pub fn led_home(&self, peer: Option<SocketAddr>) -> bool {
        let is_home = self.is_home(peer);
        if !is_home {
            self.ask_for(peer);
        }
        is_home
    }

    /// The same, once a monitor has looked where the name leads, and what is in force is of the server that it has met; that is not
    /// waited for beyond the deadline, nor once the node has been fenced, which closes the connection. Dropping this loses nothing.
    pub async fn leads_home(&self, peer: Option<SocketAddr>, is_fenced: impl Fn() -> bool, deadline: Instant) -> bool {
        let before = self.seen.lock().looked();
        loop {
            let looked = self.looked.notified();
            if is_fenced() {
                return false;
            }
            if self.is_home(peer) {
                return true;
            }
            if self.has_been_answered_since(before) {
                return false;
            }
            self.ask_for(peer);
            if timers::timeout_at(deadline, looked).await.is_err() {
                return false;
            }
        }
    }

    fn has_been_answered_since(&self, (looks, vain): (u64, u64)) -> bool {
        let seen = self.seen.lock();
        seen.vain > vain || seen.looks > looks && !seen.is_moving()
    }

    fn ask_for(&self, peer: Option<SocketAddr>) {
        let mut seen = self.seen.lock();
        seen.wanted = peer.map(|peer| peer.ip());
        self.ask(&mut seen);
    }

    fn ask(&self, seen: &mut Seen) {
        seen.asks += 1;
        self.asked.notify_waiters();
    }

    /// For a monitor: this address of the node's name goes before its others where it logs in now. Once only: it may be one where
    /// nobody answers any more.
    pub fn take_wanted(&self) -> Option<IpAddr> {
        self.seen.lock().wanted.take()
    }

    /// How often those who watch the node were asked to look where its name leads.
    pub fn asks(&self) -> u64 {
        self.seen.lock().asks
    }

    /// For a monitor: waits until it is asked after this call. Dropping this loses nothing: it is counted.
    pub fn asked(&self) -> impl Future<Output = ()> {
        self.asked.notified()
    }
}

impl Seen {
    /// A monitor has seen the name move, and what is in force does not say so yet.
    fn is_moving(&self) -> bool {
        self.moves > self.left
    }

    /// A monitor's connection to this server is no more.
    fn is_given_up(&mut self, server: Server) {
        if let Some(place) = self.held.iter().position(|held| *held == server) {
            self.held.swap_remove(place);
        }
        self.newest = self.newest.filter(|newest| self.held.contains(newest));
    }

    /// How often a monitor has looked, with success and in vain.
    fn looked(&self) -> (u64, u64) {
        (self.looks, self.vain)
    }
}

impl Home {
    fn has(&self, peer: Option<SocketAddr>) -> bool {
        self.addresses.is_empty() || peer.is_none_or(|peer| self.addresses.contains(&peer.ip()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FORMER: Server = (SystemId(1), PostmasterStart(1));
    const OTHER: Server = (SystemId(1), PostmasterStart(2));

    fn peers() -> [Option<SocketAddr>; 2] {
        ["10.0.0.1:5432", "10.0.0.2:5432"].map(|peer| peer.parse().ok())
    }

    fn after(millis: u64) -> Instant {
        Instant::now() + Duration::from_millis(millis)
    }

    #[test]
    fn what_leads_elsewhere_than_a_monitors_own_is_a_stray_until_the_node_is_met_there() {
        let [here, there] = peers();
        let strays = Strays::default();
        assert!(strays.led_home(there) && strays.asks() == 0, "nobody knows where it should lead");
        strays.found_at(here, FORMER);
        for (peer, is_home, asks) in [(here, true, 0), (None, true, 0), (there, false, 1), (here, true, 1)] {
            assert_eq!((strays.led_home(peer), strays.asks()), (is_home, asks), "{peer:?}");
        }
        assert_eq!(strays.met(FORMER, None).asks, 1, "that is done");
        strays.found_at(here, FORMER);
        assert!(!strays.led_home(there), "the monitor has been led to the former server once more");
        assert_eq!(strays.asks(), 2);
        strays.found_at(there, FORMER);
        assert!(strays.led_home(here) && strays.led_home(there), "both lead to one server");
        strays.found_at(there, OTHER);
        assert!(strays.led_home(there) && !strays.led_home(here), "it has ended, and the name has moved");
        strays.found_at(None, OTHER);
        assert!(strays.led_home(here) && strays.led_home(there));
        assert_eq!(strays.asks(), 3, "what leads home asks nothing");
    }

    #[tokio::test]
    async fn a_stray_waits_until_the_monitor_has_looked_and_no_longer() {
        let [here, there] = peers();
        let strays = Strays::default();
        strays.found_at(here, FORMER);
        assert!(strays.leads_home(here, || false, after(0)).await);
        assert!(!strays.leads_home(there, || false, after(10)).await);
        for (found, server, is_home) in [(here, FORMER, false), (there, OTHER, true)] {
            let look = async { strays.found_at(found, server) };
            assert_eq!(tokio::join!(strays.leads_home(there, || false, after(60_000)), look).0, is_home, "{found:?}");
        }
    }

    #[tokio::test]
    async fn a_monitor_that_is_asked_looks_where_the_connection_has_led_and_does_so_once() {
        let [here, there] = peers();
        let strays = Strays::default();
        strays.found_at(here, FORMER);
        assert!(strays.leads_home(here, || false, after(0)).await);
        assert_eq!(strays.take_wanted(), None, "nobody has asked");
        let look = async {
            let wanted = strays.take_wanted();
            assert_eq!((wanted, strays.take_wanted()), (there.map(|peer| peer.ip()), None));
            strays.found_at(there, FORMER);
        };
        assert!(tokio::join!(biased; strays.leads_home(there, || false, after(60_000)), look).0);
        assert!(strays.led_home(here), "both are its addresses");
    }

    #[tokio::test]
    async fn a_look_in_vain_lets_nobody_wait_any_longer() {
        let [here, there] = peers();
        let strays = Strays::default();
        strays.found_at(here, FORMER);
        strays.looked_in_vain();
        let look = async {
            assert_eq!(strays.asks(), 1);
            strays.looked_in_vain();
        };
        assert!(!tokio::join!(biased; strays.leads_home(there, || false, after(60_000)), look).0);
        let look = async { strays.found_at(there, FORMER) };
        let waits = strays.leads_home(there, || false, after(60_000));
        assert!(tokio::join!(biased; waits, look).0, "both lead to one server");
    }

    #[tokio::test]
    async fn each_of_two_monitors_is_asked_by_a_stray_and_by_the_other_that_has_met_another_server() {
        let [here, there] = peers();
        let strays = Strays::default();
        let old = strays.met(FORMER, None);
        strays.found_at(here, FORMER);
        assert_eq!(strays.met(FORMER, None), old, "both have met the same");
        let both = [strays.asked(), strays.asked()];
        assert!(!strays.led_home(there));
        for asked in both {
            asked.await;
        }
        let both = [strays.asked(), strays.asked()];
        let new = strays.met(OTHER, Some(FORMER));
        assert_eq!(new, Met { asks: old.asks + 2, moves: 1, has_moved: true });
        for asked in both {
            asked.await;
        }
        assert_eq!(strays.met(OTHER, Some(FORMER)), Met { has_moved: false, ..new }, "it has moved once");
    }

    #[test]
    fn a_name_has_moved_where_another_server_answers_and_the_one_before_is_not_known_to_have_ended() {
        let strays = Strays::default();
        assert!(!strays.met(FORMER, None).has_moved, "nobody was there before");
        assert!(!strays.met(FORMER, Some(FORMER)).has_moved, "by whichever address");
        assert!(strays.met(OTHER, Some(FORMER)).has_moved);
        strays.ended(FORMER);
        assert!(strays.met(FORMER, Some(OTHER)).has_moved, "what has ended is not who has answered last");
        strays.ended(FORMER);
        assert!(!strays.met(OTHER, None).has_moved, "it was started again");
        assert_eq!(strays.met(OTHER, Some(OTHER)).moves, 2);
    }

    #[test]
    fn a_name_has_moved_as_long_as_one_of_two_monitors_is_connected_to_the_server_before() {
        let strays = Strays::default();
        for _ in 0..2 {
            strays.met(FORMER, None);
        }
        strays.ended(FORMER);
        assert!(strays.met(OTHER, None).has_moved, "the other's goes on");
        assert!(strays.met(FORMER, Some(FORMER)).has_moved, "and is led back");
        strays.ended(OTHER);
        assert!(strays.met(OTHER, None).has_moved);
        strays.ended(OTHER);
        assert!(!strays.met(FORMER, Some(FORMER)).has_moved, "nobody is connected to who has answered last");
    }

    #[test]
    fn who_takes_over_leaves_a_server_once_and_only_if_that_was_not_done_before() {
        let strays = Strays::default();
        let told = [0, 1, 1, 0, 1, 2].map(|moves| {
            let is_news = strays.are_to_be_left(moves);
            strays.have_been_left(moves);
            is_news
        });
        assert_eq!(told, [false, true, false, false, false, true], "a new monitor has seen none at first");
    }

    /// A reload's new monitor sees it first.
    #[tokio::test]
    async fn where_a_name_has_moved_nobody_is_home_until_what_is_in_force_says_so() {
        let [here, there] = peers();
        let strays = Strays::default();
        strays.met(FORMER, None);
        strays.found_at(here, FORMER);
        let moves = strays.met(OTHER, None).moves;
        strays.found_at(there, OTHER);
        assert!(![here, there, None].into_iter().any(|peer| strays.led_home(peer)));
        assert!(!strays.is_astray(there) && strays.is_astray(here));
        let in_force = async {
            strays.met(OTHER, Some(FORMER));
            strays.have_been_left(moves);
            strays.found_at(there, OTHER);
        };
        assert!(tokio::join!(biased; strays.leads_home(there, || false, after(60_000)), in_force).0);
        assert!(!strays.led_home(here));
    }
}
