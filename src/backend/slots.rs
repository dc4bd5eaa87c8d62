//! The accounting of one pool: who is idle, how many there are, who waits, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connection::Connection;

/// The slots of one pool. Every connection holds one; so does whoever is opening one.
#[derive(Debug)]
pub struct Slots {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    size: usize,
    /// Idle connections of each worker, newest last: the newest is the warmest.
    #[expect(clippy::vec_box, reason = "a lease holds the box: lending moves a pointer")]
    idle: Vec<Vec<Box<Connection>>>,
    /// Slots in use: idle, leased or being opened.
    total: usize,
    waiters: VecDeque<oneshot::Sender<Grant>>,
    /// No more connections are taken back.
    retired: bool,
}

/// The right to one connection; dropping it passes the right on to the next who waits.
#[derive(Debug)]
pub struct Slot(Option<Arc<Slots>>);

/// What a waiter gets.
#[derive(Debug)]
pub enum Grant {
    /// A connection.
    Connection(Box<Connection>),
    /// The right to open one.
    Open(Slot),
}

/// What [`Slots::take`] answers.
#[derive(Debug)]
pub enum Taken {
    /// A connection or a slot, at once.
    Now(Grant),
    /// A place in the queue.
    Wait(oneshot::Receiver<Grant>),
}

/// What a pool has at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that nobody uses.
    pub idle: usize,
    /// Connections leased or being opened.
    pub busy: usize,
    /// Sessions in the queue.
    pub waiting: usize,
}

impl Slots {
    /// Slots for this many connections, used by this many workers.
    pub fn new(size: usize, workers: usize) -> Arc<Self> {
        let idle = (0..workers.max(1)).map(|_| Vec::new()).collect();
        let state = State { size, idle, total: 0, waiters: VecDeque::new(), retired: false };
        Arc::new(Self { state: Mutex::new(state) })
    }

    /// An idle connection, a free slot, or a place in the queue. Nobody overtakes who waits.
    pub fn take(self: &Arc<Self>, worker: usize) -> Taken {
        let mut state = self.state.lock();
        if state.waiters.is_empty() {
            if let Some(connection) = state.pop_idle(worker) {
                return Taken::Now(Grant::Connection(connection));
            }
            if state.total < state.size {
                state.total += 1;
                return Taken::Now(Grant::Open(Slot(Some(Arc::clone(self)))));
            }
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.push_back(sender);
        Taken::Wait(receiver)
    }

    /// There may be this many connections from now on. More than that are closed as they come back.
    pub fn resize(self: &Arc<Self>, size: usize) {
        let mut granted = Vec::new();
        {
            let mut state = self.state.lock();
            state.size = size;
            while state.total < size
                && let Some(waiter) = state.waiters.pop_front()
            {
                state.total += 1;
                granted.push((waiter, Slot(Some(Arc::clone(self)))));
            }
        }
        for (waiter, slot) in granted {
            // Whoever has left the queue meanwhile drops the slot, and the next gets it.
            drop(waiter.send(Grant::Open(slot)));
        }
    }

    /// An idle connection at once, or nothing.
    pub fn take_idle(&self, worker: usize) -> Option<Box<Connection>> {
        let mut state = self.state.lock();
        if state.waiters.is_empty() { state.pop_idle(worker) } else { None }
    }

    /// The idle connection that this test accepts.
    pub fn take_idle_where(&self, accepts: impl Fn(&Connection) -> bool) -> Option<Box<Connection>> {
        let mut state = self.state.lock();
        state.idle.iter_mut().find_map(|idle| {
            let at = idle.iter().rposition(|connection| accepts(connection))?;
            Some(idle.remove(at))
        })
    }

    /// A connection comes back, clean: to the first who waits, or to the idle ones.
    pub fn put(&self, connection: Box<Connection>) {
        let mut state = self.state.lock();
        if state.retired || state.total > state.size {
            drop(state);
            return drop(connection);
        }
        let mut grant = Grant::Connection(connection);
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(grant) {
                Ok(()) => return,
                Err(back) => grant = back,
            }
        }
        let Grant::Connection(connection) = grant else { return };
        let worker = connection.worker;
        if let Some(idle) = state.idle.get_mut(worker) {
            idle.push(connection);
        }
    }

    /// Closes idle connections that are too old, idle for too long, or closed by their node. Answers how many.
    pub fn reap(&self, now: Instant, idle_timeout: Duration, is_too_old: impl Fn(&Connection) -> bool) -> usize {
        let mut ended = Vec::new();
        {
            let mut state = self.state.lock();
            for idle in &mut state.idle {
                let is_over = |connection: &mut Box<Connection>| {
                    now.saturating_duration_since(connection.returned) > idle_timeout
                        || is_too_old(connection)
                        || !connection.is_quiet()
                };
                ended.extend(idle.extract_if(.., is_over));
            }
        }
        // Each gives its slot back, which takes the lock again.
        ended.len()
    }

    /// Closes all idle connections, and takes none back.
    pub fn retire(&self) {
        let idle = {
            let mut state = self.state.lock();
            state.retired = true;
            std::mem::take(&mut state.idle)
        };
        drop(idle);
    }

    /// What there is now.
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        let idle = state.idle.iter().map(Vec::len).sum();
        Counts { idle, busy: state.total.saturating_sub(idle), waiting: state.waiters.len() }
    }
}

impl State {
    fn pop_idle(&mut self, worker: usize) -> Option<Box<Connection>> {
        if let Some(connection) = self.idle.get_mut(worker).and_then(Vec::pop) {
            return Some(connection);
        }
        self.idle.iter_mut().find_map(Vec::pop)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(slots) = self.0.take() else { return };
        let mut state = slots.state.lock();
        let mut slot = Self(Some(Arc::clone(&slots)));
        while state.total <= state.size
            && let Some(waiter) = state.waiters.pop_front()
        {
            match waiter.send(Grant::Open(slot)) {
                Ok(()) => return,
                Err(Grant::Open(back)) => slot = back,
                Err(Grant::Connection(_)) => return,
            }
        }
        // Not by dropping: that would come here again.
        slot.0 = None;
        state.total = state.total.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(taken: Taken) -> Slot {
        match taken {
            Taken::Now(Grant::Open(slot)) => slot,
            other => panic!("a free slot, not {other:?}"),
        }
    }

    #[test]
    fn a_slot_that_is_given_up_goes_to_the_first_who_waits() {
        let slots = Slots::new(1, 1);
        let held = slot(slots.take(0));
        let Taken::Wait(mut first) = slots.take(0) else { panic!("the pool is full") };
        let Taken::Wait(mut second) = slots.take(0) else { panic!("the pool is full") };
        drop(held);
        let granted = first.try_recv().unwrap();
        assert!(second.try_recv().is_err());
        drop(granted);
        assert!(matches!(second.try_recv(), Ok(Grant::Open(_))));
        assert_eq!(slots.counts(), Counts::default());
    }

    #[test]
    fn who_has_left_the_queue_is_passed_over() {
        let slots = Slots::new(1, 1);
        let held = slot(slots.take(0));
        let Taken::Wait(gone) = slots.take(0) else { panic!("the pool is full") };
        let Taken::Wait(mut waits) = slots.take(0) else { panic!("the pool is full") };
        drop(gone);
        drop(held);
        assert!(matches!(waits.try_recv(), Ok(Grant::Open(_))));
    }

    #[test]
    fn a_grant_that_is_never_received_is_not_lost() {
        let slots = Slots::new(1, 1);
        let held = slot(slots.take(0));
        let Taken::Wait(gone) = slots.take(0) else { panic!("the pool is full") };
        drop(held);
        drop(gone);
        assert_eq!(slots.counts(), Counts::default());
        slot(slots.take(0));
    }
}
