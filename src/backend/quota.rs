//! How many server connections several pools may have together: those of one database, or of one user, at a node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;

use super::slots::{self, Slots};

/// A limit over several pools. Every slot in use counts in each quota of its pool.
///
/// Locks are taken in this order: a pool's, its database's quota, its user's quota. Nobody who holds one of them takes
/// that of another pool.
#[derive(Debug)]
pub struct Quota {
    state: Mutex<State>,
    /// Somebody may wait because of it: a look before the lock.
    is_short: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// None: as many as the pools may have.
    limit: Option<usize>,
    used: usize,
    pools: Vec<Weak<Slots>>,
}

impl State {
    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.used >= limit)
    }
}

/// A connection of no pool, counted in these quotas until this is dropped.
#[derive(Debug)]
pub struct Claim(Vec<Arc<Quota>>);

impl Drop for Claim {
    fn drop(&mut self) {
        Quota::release(&self.0);
        slots::serve_in_order(slots::relatives(&self.0), Instant::now());
    }
}

impl Quota {
    /// Nothing of it is used yet.
    pub fn new(limit: Option<usize>) -> Arc<Self> {
        let state = State { limit, used: 0, pools: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), is_short: AtomicBool::new(false) })
    }

    /// This is the limit from now on. What is over it is closed as it comes back.
    pub fn set(&self, limit: Option<usize>) {
        let mut state = self.state.lock();
        state.limit = limit;
        self.is_short.store(state.is_full(), Ordering::Release);
    }

    /// The limit.
    pub fn limit(&self) -> Option<usize> {
        self.state.lock().limit
    }

    /// No more connection may be opened.
    pub fn is_full(&self) -> bool {
        self.state.lock().is_full()
    }

    /// There are more than there may be: the limit has been lowered.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state.lock();
        state.limit.is_some_and(|limit| state.used > limit)
    }

    /// This pool counts in it.
    pub(super) fn join(&self, slots: &Arc<Slots>) {
        let mut state = self.state.lock();
        state.pools.retain(|pool| pool.strong_count() > 0);
        state.pools.push(Arc::downgrade(slots));
    }

    /// The pools that count in it.
    pub(super) fn pools(&self) -> Vec<Arc<Slots>> {
        self.state.lock().pools.iter().filter_map(Weak::upgrade).collect()
    }

    /// Closes the connection that has been idle longest in these of its pools. Answers whether there was one.
    pub(super) fn close_longest_idle(&self, is_meant: impl Fn(&Slots) -> bool) -> bool {
        let pools = self.pools().into_iter().filter(|pool| is_meant(pool));
        let longest = pools.filter_map(|pool| Some((pool.idle_since()?, pool))).min_by_key(|(since, _)| *since);
        longest.and_then(|(_, pool)| pool.take_longest_idle()).is_some()
    }

    /// Somebody may wait because of it.
    pub(super) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Acquire)
    }

    /// Somebody waits because of it, or nobody does. Whoever waits says so after it has joined its queue, and whoever
    /// denies it looks at the queues after that: so nobody is forgotten.
    pub(super) fn set_short(&self, is_short: bool) {
        self.is_short.store(is_short, Ordering::Release);
    }

    /// One more connection in all of these, or in none.
    pub(super) fn claim(quotas: &[Arc<Self>]) -> bool {
        let mut states: smallvec::SmallVec<[_; 2]> = quotas.iter().map(|quota| quota.state.lock()).collect();
        let is_free = states.iter().all(|state| !state.is_full());
        if is_free {
            states.iter_mut().for_each(|state| state.used += 1);
        }
        is_free
    }

    /// The same for a connection of no pool: pools close an idle one for it, if need be.
    pub(super) fn claim_apart(quotas: Vec<Arc<Self>>) -> Option<Claim> {
        if Self::claim(&quotas) {
            return Some(Claim(quotas));
        }
        for quota in quotas.iter().filter(|quota| quota.is_full()) {
            quota.close_longest_idle(|_| true);
        }
        // Not eagerly: dropping one gives back what it has not claimed.
        let is_claimed = Self::claim(&quotas);
        is_claimed.then(|| Claim(quotas))
    }

    /// One connection less in all of these.
    pub(super) fn release(quotas: &[Arc<Self>]) {
        for quota in quotas {
            let mut state = quota.state.lock();
            state.used = state.used.saturating_sub(1);
        }
    }
}
