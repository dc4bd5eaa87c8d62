//! Failed logins, counted by where they come from: whoever tries passwords waits longer and longer for the next attempt.

use std::cell::Cell;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::auth::Throttle;
use crate::net::timers;

/// Failed logins of this process. Outlives a reload.
#[derive(Debug)]
pub struct Attempts {
    /// By address and user: somebody tries passwords of one user, and no other user of that machine is slowed.
    by_user: Mutex<Throttle<(IpAddr, Arc<str>)>>,
    /// By address: somebody tries many users.
    by_address: Mutex<Throttle<IpAddr>>,
}

/// One login that may fail.
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    /// None: from this machine's file system, which is not slowed.
    key: Option<(IpAddr, Arc<str>)>,
    /// It has waited for its turn.
    has_had_turn: Cell<bool>,
}

/// Failures in a minute that cost nothing, of a user and of an address: a person mistypes a few, and behind one address
/// may be a house of people.
const FREE_OF_USER: u32 = 10;
const FREE_OF_ADDRESS: u32 = 200;

impl Default for Attempts {
    fn default() -> Self {
        Self {
            by_user: Mutex::new(Throttle::new(FREE_OF_USER)),
            by_address: Mutex::new(Throttle::new(FREE_OF_ADDRESS)),
        }
    }
}

impl<'a> Attempt<'a> {
    /// A login of this user from this address.
    pub fn new(attempts: &'a Attempts, address: Option<IpAddr>, user: &Arc<str>) -> Self {
        let key = address.map(|address| (neighbourhood(address), Arc::clone(user)));
        Self { attempts, key, has_had_turn: Cell::new(false) }
    }

    /// Waits as long as its predecessors' failures ask for, once; false: that would be longer than this. To be called again
    /// before the client learns whether it was right: many may have begun while all was free.
    pub async fn wait_for_turn(&self, longest: Duration) -> bool {
        let Some(key) = self.key.as_ref().filter(|_| !self.has_had_turn.get()) else { return true };
        let now = Instant::now();
        let of_user = self.attempts.by_user.lock().turn(key, now, longest);
        let of_address = self.attempts.by_address.lock().turn(&key.0, now, longest);
        let Some(wait) = of_user.max(of_address) else { return true };
        if wait >= longest {
            return false;
        }
        self.has_had_turn.set(true);
        if !wait.is_zero() {
            timers::sleep(wait).await;
        }
        true
    }

    /// It has failed.
    pub fn failed(&self, now: Instant) {
        let Some(key) = &self.key else { return };
        self.attempts.by_user.lock().failed(key, now);
        self.attempts.by_address.lock().failed(&key.0, now);
    }
}

/// Whoever has one address of IPv6 has a whole network of them.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        canonical => canonical,
    }
}
