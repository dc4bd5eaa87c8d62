//! The accounting of one pool: who is idle, how many there are, who waits, in order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::connection::Connection;
use super::quota::Quota;

/// The slots of one pool. Every connection holds one; so does whoever is opening one.
#[derive(Debug)]
pub struct Slots {
    state: Mutex<State>,
    /// What it shares with other pools: its database's quota, then its user's.
    quotas: Vec<Arc<Quota>>,
}

#[derive(Debug)]
struct State {
    bounds: Bounds,
    /// Idle connections of each worker, newest last: the newest is the warmest.
    #[expect(clippy::vec_box, reason = "a lease holds the box: lending moves a pointer")]
    idle: Vec<Vec<Box<Connection>>>,
    /// Slots in use: idle, leased or being opened.
    total: usize,
    waiters: VecDeque<Waiter>,
    room: Option<Room>,
    /// No more connections are taken back.
    retired: bool,
    /// Nothing is lent or opened any more.
    forgotten: bool,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    sender: oneshot::Sender<Grant>,
}

/// How many connections a pool may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// At any time.
    pub size: usize,
    /// So many more for those who have waited for `reserve_timeout`.
    pub reserve: usize,
    /// See `reserve`.
    pub reserve_timeout: Duration,
    /// One of the quotas has a limit.
    pub is_limited: bool,
}

/// What a node that has no room for one more connection has had room for. Time widens it, quicker and quicker: so few logins
/// are in vain, and others may have left.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// For so many, those that are being opened among them.
    most: usize,
    /// For so many more from then on.
    more: usize,
    until: Instant,
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

/// Whose connection will do for whoever asks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This node's alone: its room for one more is waited for.
    ThisNode,
    /// Another node's as well: its room is not waited for.
    AnyNode,
}

/// What [`Slots::take`] answers.
#[derive(Debug)]
pub enum Taken {
    /// A connection or a slot, at once.
    Now(Grant),
    /// A place in the queue.
    Wait(Place),
    /// Nothing for now: the node has just had no room for one more connection.
    NoRoom,
    /// Nothing, now or later: the pool has been forgotten.
    Never,
}

/// A place in the queue: what is granted to it, or nothing if the place is gone. Dropping it leaves the queue; a connection that
/// has been granted meanwhile goes to the next.
#[derive(Debug)]
pub struct Place {
    granted: oneshot::Receiver<Grant>,
    slots: Arc<Slots>,
}

impl Future for Place {
    type Output = Option<Grant>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.granted).poll(cx).map(Result::ok)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.granted.close();
        // The right to open one passes itself on.
        if let Ok(Grant::Connection(connection)) = self.granted.try_recv() {
            self.slots.put(connection);
        }
    }
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
    /// Most connections, without the reserve.
    pub size: usize,
    /// Those that were opened.
    pub openings: Openings,
}

/// Connections that were opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Openings {
    /// Under way now.
    pub under_way: usize,
    /// So many have been opened so far.
    pub done: u64,
    /// So many could not be.
    pub failed: u64,
}

impl Counts {
    /// Connections that are open or being opened.
    pub fn total(&self) -> usize {
        self.idle + self.busy
    }
}

/// Which limit keeps a pool from opening a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Crowd {
    /// Its own size.
    #[error("all {0} server connections are in use")]
    Pool(usize),
    /// What its database may have at the node.
    #[error("all {0} server connections that max_connections gives the database are in use")]
    Database(usize),
    /// What its user may have at the node.
    #[error("all {0} server connections that max_connections gives the user are in use")]
    User(usize),
    /// What the node has room for.
    #[error("all {0} server connections that the node has room for are in use")]
    Node(usize),
}

/// Who waits this much longer in another pool of the same quota goes first. Less would have two busy pools close and open
/// connections all the time.
const PATIENCE: Duration = Duration::from_millis(100);

/// A node that has had no room is asked for more after this.
const ROOM_PAUSE: Duration = Duration::from_millis(500);

impl Slots {
    /// Slots within these bounds, used by this many workers.
    pub fn new(bounds: Bounds, workers: usize, quotas: Vec<Arc<Quota>>) -> Arc<Self> {
        let idle = (0..workers.max(1)).map(|_| Vec::new()).collect();
        let state =
            State { bounds, idle, total: 0, waiters: VecDeque::new(), room: None, retired: false, forgotten: false };
        let slots = Arc::new(Self { state: Mutex::new(state), quotas });
        slots.quotas.iter().for_each(|quota| quota.join(&slots));
        slots
    }

    /// An idle connection, a free slot, or a place in the queue. Nobody overtakes who waits.
    pub fn take(self: &Arc<Self>, worker: usize, now: Instant, wanted: Wanted) -> Taken {
        let (place, is_starved) = {
            let mut state = self.state.lock();
            if state.forgotten {
                return Taken::Never;
            }
            let room = state.room(now);
            let is_without_room = room < state.bounds.size && state.total >= room;
            if state.nobody_waits() {
                if let Some(connection) = state.pop_idle(worker) {
                    return Taken::Now(Grant::Connection(connection));
                }
                if state.total < state.bounds.size.min(room) && Quota::claim(&self.quotas) {
                    state.total += 1;
                    return Taken::Now(Grant::Open(Slot(Some(Arc::clone(self)))));
                }
            }
            if is_without_room && (state.total == 0 || wanted == Wanted::AnyNode) {
                return Taken::NoRoom;
            }
            let place = self.line_up(&mut state, now);
            (place, state.bounds.is_limited && state.total < state.bounds.size.min(room))
        };
        if is_starved {
            self.make_room();
        }
        Taken::Wait(place)
    }

    /// A place in the queue, if nothing ends the wait there but a connection that comes back, or its end.
    pub fn plain_place(self: &Arc<Self>, now: Instant) -> Option<Place> {
        let mut state = self.state.lock();
        let is_full = state.total >= state.bounds.size && state.idle.iter().all(Vec::is_empty);
        let may_change = state.bounds.is_limited || state.bounds.reserve > 0 || state.room.is_some();
        if !is_full || may_change || state.retired || state.forgotten {
            return None;
        }
        Some(self.line_up(&mut state, now))
    }

    fn line_up(self: &Arc<Self>, state: &mut State, now: Instant) -> Place {
        let (sender, granted) = oneshot::channel();
        state.waiters.push_back(Waiter { since: now, sender });
        Place { granted, slots: Arc::clone(self) }
    }

    /// The right to open a connection that nobody asks for yet, while there are fewer than this.
    pub fn open_ahead(self: &Arc<Self>, least: usize, now: Instant) -> Option<Slot> {
        let mut state = self.state.lock();
        let is_wanted =
            state.total < least.min(state.bounds.size).min(state.room(now)) && state.nobody_waits() && !state.retired;
        if !is_wanted || !Quota::claim(&self.quotas) {
            return None;
        }
        state.total += 1;
        Some(Slot(Some(Arc::clone(self))))
    }

    /// There may be so many connections from now on. More than that are closed as they come back.
    pub fn set(self: &Arc<Self>, bounds: Bounds, now: Instant) {
        self.state.lock().bounds = bounds;
        self.serve_or_make_room(now);
    }

    /// The node has no room for what somebody is opening. To be called before that one gives its slot up.
    pub fn no_room(&self, now: Instant) {
        let mut state = self.state.lock();
        let most = state.total.saturating_sub(1);
        state.room = Some(Room { most, more: 1, until: now + ROOM_PAUSE });
    }

    /// Whether one who asks now would have to wait.
    pub fn is_crowded(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        let may_open =
            state.total < state.bounds.size.min(state.room(now)) && !self.quotas.iter().any(|quota| quota.is_full());
        !state.nobody_waits() || !may_open && state.idle.iter().all(Vec::is_empty)
    }

    /// The node has lately had no room for one more.
    pub fn lacks_room(&self) -> bool {
        self.state.lock().room.is_some()
    }

    /// Gives what may be opened to those who wait.
    pub fn serve(self: &Arc<Self>, now: Instant) {
        self.serve_first(&mut self.state.lock(), now);
    }

    /// The same; where only a quota is in the way, idle connections of other pools are closed for them. To be called when
    /// somebody has waited for the reserve's timeout.
    pub fn serve_or_make_room(self: &Arc<Self>, now: Instant) {
        let is_starved = || {
            self.serve(now);
            self.state.lock().bounds.is_limited && self.waits_since(now).is_some()
        };
        while is_starved() && self.make_room() {}
    }

    /// An idle connection at once, or nothing.
    pub fn take_idle(&self, worker: usize) -> Option<Box<Connection>> {
        let mut state = self.state.lock();
        if state.nobody_waits() { state.pop_idle(worker) } else { None }
    }

    /// The idle connection that this test accepts.
    pub fn take_idle_where(&self, accepts: impl Fn(&Connection) -> bool) -> Option<Box<Connection>> {
        let mut state = self.state.lock();
        state.idle.iter_mut().find_map(|idle| {
            let at = idle.iter().rposition(|connection| accepts(connection))?;
            Some(idle.remove(at))
        })
    }

    /// A connection comes back, clean: to the first who waits, or to the idle ones. One that is too many is closed.
    pub fn put(&self, connection: Box<Connection>) {
        let mut state = self.state.lock();
        if state.bounds.is_limited && self.may_be_short() {
            let first = state.first_waiter();
            drop(state);
            if self.yields_to_others(first) {
                return drop(connection);
            }
            state = self.state.lock();
        }
        if state.retired || state.total > state.bounds.size + state.bounds.reserve {
            drop(state);
            return drop(connection);
        }
        let mut grant = Grant::Connection(connection);
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.sender.send(grant) {
                Ok(()) => return,
                Err(back) => grant = back,
            }
        }
        let Grant::Connection(connection) = grant else { return };
        if state.total > state.bounds.size {
            // Of the reserve, which nobody needs any more.
            drop(state);
            return drop(connection);
        }
        // One that was opened ahead belongs to no worker yet.
        let place = connection.worker.min(state.idle.len().saturating_sub(1));
        if let Some(idle) = state.idle.get_mut(place) {
            idle.push(connection);
        }
        let is_limited = state.bounds.is_limited;
        drop(state);
        // Who has come to wait because of a quota since that was looked at has not found it idle.
        if is_limited && self.may_be_short() && self.yields_to_others(None) {
            drop(self.take_longest_idle());
        }
    }

    /// Closes idle connections that are too old, idle for too long as long as there are more than `least`, more than there
    /// may be, or closed by their node; who waits for room at the node may ask for it. Answers how many.
    pub fn reap(
        self: &Arc<Self>,
        now: Instant,
        idle_timeout: Duration,
        least: usize,
        is_too_old: impl Fn(&Connection) -> bool,
    ) -> usize {
        let mut ended = Vec::new();
        let has_room = self.state.lock().room.is_some();
        if has_room {
            self.serve_or_make_room(now);
        }
        {
            let mut state = self.state.lock();
            let (mut left, size) = (state.total, state.bounds.size);
            for idle in &mut state.idle {
                let is_over = |connection: &mut Box<Connection>| {
                    let has_idled = now.saturating_duration_since(connection.returned) > idle_timeout;
                    let is_too_many = left > size || has_idled && left > least;
                    let is_over = is_too_many || is_too_old(connection) || !connection.is_quiet();
                    left = left.saturating_sub(usize::from(is_over));
                    is_over
                };
                ended.extend(idle.extract_if(.., is_over));
            }
        }
        // Each gives its slot back, which takes the lock again.
        ended.len()
    }

    /// All idle connections.
    pub fn take_all_idle(&self) -> Vec<Box<Connection>> {
        self.state.lock().idle.iter_mut().flat_map(std::mem::take).collect()
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

    /// The same, and lends and opens nothing any more: who waits is sent away.
    pub fn forget(&self) {
        self.retire();
        let waiters = {
            let mut state = self.state.lock();
            state.forgotten = true;
            std::mem::take(&mut state.waiters)
        };
        drop(waiters);
    }

    /// There is no connection, nobody waits, and nothing is remembered of the node's room for one.
    pub fn is_unused(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.total == 0 && state.nobody_waits() && state.room(now) == usize::MAX
    }

    /// It has been forgotten.
    pub fn is_forgotten(&self) -> bool {
        self.state.lock().forgotten
    }

    /// What there is now.
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        let idle = state.idle.iter().map(Vec::len).sum();
        let waiting = state.waiters.iter().filter(|waiter| !waiter.sender.is_closed()).count();
        Counts {
            idle,
            busy: state.total.saturating_sub(idle),
            waiting,
            size: state.bounds.size,
            openings: Openings::default(),
        }
    }

    /// What keeps it from opening one more.
    pub fn crowd(&self) -> Crowd {
        let (total, size) = {
            let state = self.state.lock();
            if let Some(room) = state.room.filter(|room| room.most <= state.total && room.most < state.bounds.size) {
                return Crowd::Node(room.most);
            }
            (state.total, state.bounds.size)
        };
        let limit = |at: usize| self.quotas.get(at).filter(|quota| quota.is_full()).and_then(|quota| quota.limit());
        match (limit(0), limit(1)) {
            _ if total >= size => Crowd::Pool(size),
            (Some(limit), _) => Crowd::Database(limit),
            (None, Some(limit)) => Crowd::User(limit),
            (None, None) => Crowd::Pool(size),
        }
    }

    /// A slot is free: to whoever has waited for it longest, here or in the pools that share a quota with this one.
    fn free(self: &Arc<Self>) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            state.total = state.total.saturating_sub(1);
            Quota::release(&self.quotas);
            if state.total == 0 && state.room(now) == 0 {
                // Nothing will come back to them: they ask elsewhere.
                state.waiters.clear();
            }
            if !state.bounds.is_limited {
                return self.serve_first(&mut state, now);
            }
        }
        let mut pools = relatives(&self.quotas);
        if self.quotas.is_empty() {
            pools.push(Arc::clone(self));
        }
        serve_in_order(pools, now);
    }

    /// Rights to open go to those who wait, in order, as long as there are any.
    fn serve_first(self: &Arc<Self>, state: &mut State, now: Instant) {
        while !state.nobody_waits() {
            let Some(first) = state.waiters.front() else { return };
            let since = first.since;
            if state.total >= state.most(since, now) {
                return;
            }
            if !Quota::claim(&self.quotas) {
                // Whoever gives one back looks whether it is wanted here.
                return self.quotas.iter().for_each(|quota| quota.set_short(true));
            }
            state.total += 1;
            let Some(waiter) = state.waiters.pop_front() else { return };
            // It may have left since it was looked at.
            if let Err(Grant::Open(mut slot)) = waiter.sender.send(Grant::Open(Slot(Some(Arc::clone(self))))) {
                // Not by dropping: that would come here again.
                slot.0 = None;
                state.total = state.total.saturating_sub(1);
                Quota::release(&self.quotas);
            }
        }
    }

    /// Closes the connection that has been idle longest among those that take the place this pool needs. Answers whether
    /// there was one.
    fn make_room(&self) -> bool {
        // Of all: one that has just been freed may be another's before it is served here.
        self.quotas.iter().for_each(|quota| quota.set_short(true));
        let full = self.quotas.iter().filter(|quota| quota.is_full());
        full.filter(|quota| quota.close_longest_idle(|pool| !std::ptr::eq(pool, self))).count() > 0
    }

    /// Somebody may wait because of a quota.
    fn may_be_short(&self) -> bool {
        self.quotas.iter().any(|quota| quota.is_short())
    }

    /// Somebody else needs the place of a connection that has come back more than those who wait here, the first of them
    /// since `first`.
    fn yields_to_others(&self, first: Option<Instant>) -> bool {
        let now = Instant::now();
        self.quotas.iter().filter(|quota| quota.is_short()).any(|quota| {
            quota.set_short(false);
            if !quota.is_full() {
                return false; // nobody waits because of it
            }
            let others = quota.pools().into_iter().filter(|pool| !std::ptr::eq(&**pool, self));
            let since = others.filter_map(|pool| pool.waits_since(now)).min();
            let is_over = quota.is_over();
            // The connection serves one of those who wait here.
            if is_over || since.is_some() || self.waits_since(now).is_some() {
                quota.set_short(true);
            }
            let goes_first = |since: Instant| first.is_none_or(|first| since + PATIENCE < first);
            is_over || since.is_some_and(goes_first)
        })
    }

    /// Since when somebody waits here for a right to open, which its own size would give.
    fn waits_since(&self, now: Instant) -> Option<Instant> {
        let mut state = self.state.lock();
        let since = state.first_waiter()?;
        (state.total < state.most(since, now)).then_some(since)
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.state.lock().idle.iter().filter_map(|idle| idle.first()).map(|connection| connection.returned).min()
    }

    pub(super) fn take_longest_idle(&self) -> Option<Box<Connection>> {
        let mut state = self.state.lock();
        let lists = state.idle.iter_mut().filter(|idle| !idle.is_empty());
        let longest = lists.min_by_key(|idle| idle.first().map(|connection| connection.returned))?;
        Some(longest.remove(0))
    }
}

/// The pools that count in these quotas, each once.
pub(super) fn relatives(quotas: &[Arc<Quota>]) -> Vec<Arc<Slots>> {
    let mut pools: Vec<Arc<Slots>> = quotas.iter().flat_map(|quota| quota.pools()).collect();
    pools.sort_by_key(|pool| Arc::as_ptr(pool).addr());
    pools.dedup_by(|one, other| Arc::ptr_eq(one, other));
    pools
}

/// Gives what may be opened to those who wait in these pools, to the longest first.
pub(super) fn serve_in_order(pools: Vec<Arc<Slots>>, now: Instant) {
    let mut waiting: Vec<_> = pools.into_iter().filter_map(|pool| Some((pool.waits_since(now)?, pool))).collect();
    waiting.sort_by_key(|(since, _)| *since);
    waiting.iter().for_each(|(_, pool)| pool.serve(now));
}

impl State {
    fn pop_idle(&mut self, worker: usize) -> Option<Box<Connection>> {
        if let Some(connection) = self.idle.get_mut(worker).and_then(Vec::pop) {
            return Some(connection);
        }
        self.idle.iter_mut().find_map(Vec::pop)
    }

    /// As many as the node is thought to have room for.
    fn room(&mut self, now: Instant) -> usize {
        let enough = self.bounds.size + self.bounds.reserve;
        while let Some(room) = self.room.filter(|room| now >= room.until) {
            let Room { most, more, until } = room;
            let wider = Room { most: most + more, more: more * 2, until: until + ROOM_PAUSE };
            self.room = Some(wider).filter(|room| room.most < enough);
        }
        self.room.map_or(usize::MAX, |room| room.most)
    }

    /// As many as may be open for one who waits since then.
    fn most(&mut self, since: Instant, now: Instant) -> usize {
        let has_waited = now.saturating_duration_since(since) >= self.bounds.reserve_timeout;
        let most = self.bounds.size + if has_waited { self.bounds.reserve } else { 0 };
        most.min(self.room(now))
    }

    /// Nobody is in the queue, once those have been taken out of it who have left while they were first.
    fn nobody_waits(&mut self) -> bool {
        while self.waiters.front().is_some_and(|first| first.sender.is_closed()) {
            self.waiters.pop_front();
        }
        self.waiters.is_empty()
    }

    fn first_waiter(&self) -> Option<Instant> {
        self.waiters.iter().find(|waiter| !waiter.sender.is_closed()).map(|waiter| waiter.since)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.free();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted::{AnyNode, ThisNode};
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn slot(taken: Taken) -> Slot {
        match taken {
            Taken::Now(Grant::Open(slot)) => slot,
            other => panic!("a free slot, not {other:?}"),
        }
    }

    fn place(taken: Taken) -> Place {
        match taken {
            Taken::Wait(place) => place,
            other => panic!("a place in the queue, not {other:?}"),
        }
    }

    fn granted(place: &mut Place) -> Option<Slot> {
        match place.granted.try_recv() {
            Ok(Grant::Open(slot)) => Some(slot),
            _ => None,
        }
    }

    fn of_size(size: usize) -> Arc<Slots> {
        Slots::new(Bounds { size, ..Bounds::default() }, 1, Vec::new())
    }

    /// Pools of this size that share a quota.
    fn sharing(limit: usize, size: usize) -> [Arc<Slots>; 2] {
        let quota = Quota::new(Some(limit));
        let bounds = Bounds { size, is_limited: true, ..Bounds::default() };
        [(); 2].map(|()| Slots::new(bounds, 1, vec![Arc::clone(&quota)]))
    }

    fn counts(size: usize) -> Counts {
        Counts { size, ..Counts::default() }
    }

    #[test]
    fn a_slot_that_is_given_up_goes_to_the_first_who_waits() {
        let (slots, now) = (of_size(1), Instant::now());
        let held = slot(slots.take(0, now, ThisNode));
        let Taken::Wait(mut first) = slots.take(0, now, ThisNode) else { panic!("the pool is full") };
        let Taken::Wait(mut second) = slots.take(0, now, ThisNode) else { panic!("the pool is full") };
        drop(held);
        let granted = first.granted.try_recv().unwrap();
        assert!(second.granted.try_recv().is_err());
        drop(granted);
        assert!(matches!(second.granted.try_recv(), Ok(Grant::Open(_))));
        assert_eq!(slots.counts(), counts(1));
    }

    #[test]
    fn a_pool_is_crowded_where_one_more_would_wait() {
        let ([slots, other], now) = (sharing(2, 5), Instant::now());
        assert!(!slots.is_crowded(now));
        let held = slot(slots.take(0, now, ThisNode));
        assert!(!slots.is_crowded(now));
        let _others = slot(other.take(0, now, ThisNode));
        assert!(slots.is_crowded(now), "the quota is used up");
        let waits = place(slots.take(0, now, ThisNode));
        drop(waits);
        drop(held);
        assert!(!slots.is_crowded(now));
        let small = of_size(1);
        let _held = slot(small.take(0, now, ThisNode));
        assert!(small.is_crowded(now));
    }

    #[test]
    fn a_node_without_room_is_asked_for_more_by_few_and_by_more_if_it_has_some() {
        let (slots, begun) = (of_size(20), Instant::now());
        let mut held: Vec<Slot> = (0..5).map(|_| slot(slots.take(0, begun, ThisNode))).collect();
        slots.no_room(begun);
        held.pop(); // the one that was refused
        let mut places: Vec<_> = (0..15).map(|_| place(slots.take(0, begun, ThisNode))).collect();
        assert_eq!(slots.crowd(), Crowd::Node(4));
        slots.serve(begun + ROOM_PAUSE / 2);
        let mut grants = || places.iter_mut().filter_map(granted).collect::<Vec<Slot>>();
        assert!(grants().is_empty(), "nothing has changed");
        let (mut asked, mut at) = (Vec::new(), begun);
        for expected in [1, 2, 4, 8] {
            at += ROOM_PAUSE;
            slots.serve(at);
            let more = grants();
            assert_eq!(more.len(), expected);
            asked.extend(more);
        }
        // Refused again: what is open stays, and the slots that are given up go to nobody.
        slots.no_room(at);
        asked.pop();
        assert_eq!(slots.counts().busy, 18);
        let mut one_more = place(slots.take(0, at, ThisNode));
        slots.serve(at);
        assert!(granted(&mut one_more).is_none());
        drop(held.pop());
        assert!(granted(&mut one_more).is_some(), "one that was open is given up: its place is free");
    }

    #[test]
    fn who_may_go_elsewhere_does_not_wait_for_room_and_a_long_pause_makes_some() {
        let (slots, begun) = (of_size(20), Instant::now());
        let mut held: Vec<Slot> = (0..4).map(|_| slot(slots.take(0, begun, ThisNode))).collect();
        slots.no_room(begun);
        held.pop();
        assert!(matches!(slots.take(0, begun, AnyNode), Taken::NoRoom));
        let waits = place(slots.take(0, begun, ThisNode));
        assert!(matches!(slots.take(0, begun, AnyNode), Taken::NoRoom), "behind who waits, too");
        drop(waits);
        let late = begun + 100 * ROOM_PAUSE;
        held.extend((0..17).map(|_| slot(slots.take(0, late, AnyNode))));
        place(slots.take(0, late, AnyNode));
    }

    #[test]
    fn the_last_slot_of_a_full_node_goes_to_who_waits_for_the_same_quota() {
        let ([one, other], now) = (sharing(1, 5), Instant::now());
        let opening = slot(one.take(0, now, ThisNode));
        let mut waits = place(other.take(0, now, ThisNode));
        one.no_room(now);
        drop(opening);
        assert!(granted(&mut waits).is_some());
    }

    #[test]
    fn where_a_node_has_no_room_at_all_nobody_waits_and_one_asks_at_a_time() {
        let (slots, begun) = (of_size(20), Instant::now());
        let first = slot(slots.take(0, begun, ThisNode));
        slots.no_room(begun);
        drop(first);
        assert!(matches!(slots.take(0, begun, ThisNode), Taken::NoRoom));
        let later = begun + ROOM_PAUSE;
        let next = slot(slots.take(0, later, ThisNode));
        let mut waits = place(slots.take(0, later, ThisNode));
        slots.no_room(later);
        drop(next);
        assert!(granted(&mut waits).is_none());
        assert!(
            matches!(waits.granted.try_recv(), Err(oneshot::error::TryRecvError::Closed)),
            "it is sent on to ask elsewhere"
        );
    }

    #[test]
    fn who_has_left_the_queue_is_passed_over() {
        let (slots, now) = (of_size(1), Instant::now());
        let held = slot(slots.take(0, now, ThisNode));
        let Taken::Wait(gone) = slots.take(0, now, ThisNode) else { panic!("the pool is full") };
        let Taken::Wait(mut waits) = slots.take(0, now, ThisNode) else { panic!("the pool is full") };
        drop(gone);
        drop(held);
        assert!(matches!(waits.granted.try_recv(), Ok(Grant::Open(_))));
    }

    #[test]
    fn a_grant_that_is_never_received_is_not_lost() {
        let (slots, now) = (of_size(1), Instant::now());
        let held = slot(slots.take(0, now, ThisNode));
        let Taken::Wait(gone) = slots.take(0, now, ThisNode) else { panic!("the pool is full") };
        drop(held);
        drop(gone);
        assert_eq!(slots.counts(), counts(1));
        slot(slots.take(0, now, ThisNode));
    }

    #[test]
    fn the_reserve_is_for_those_who_have_waited_and_for_no_more_than_it_has() {
        let bounds = Bounds { size: 1, reserve: 1, reserve_timeout: TIMEOUT, ..Bounds::default() };
        let (slots, now) = (Slots::new(bounds, 1, Vec::new()), Instant::now());
        let held = slot(slots.take(0, now, ThisNode));
        let mut places = [(); 3].map(|()| place(slots.take(0, now, ThisNode)));
        slots.serve(now + TIMEOUT / 2);
        assert!(granted(&mut places[0]).is_none(), "it has not waited long enough");
        slots.serve(now + TIMEOUT);
        let reserve = granted(&mut places[0]).expect("it has waited");
        assert!(granted(&mut places[1]).is_none(), "the reserve is one");
        drop(reserve);
        assert!(granted(&mut places[1]).is_none(), "one over the size is given up, and this one has not waited");
        drop(held);
        assert!(granted(&mut places[1]).is_some());
    }

    #[test]
    fn who_waits_for_a_quota_is_served_when_another_pool_gives_up_a_slot() {
        let ([one, other], now) = (sharing(2, 2), Instant::now());
        let (first, second) = (slot(one.take(0, now, ThisNode)), slot(one.take(0, now, ThisNode)));
        let mut waits = place(other.take(0, now, ThisNode));
        assert_eq!(other.crowd(), Crowd::Database(2));
        assert_eq!(one.crowd(), Crowd::Pool(2));
        drop(first);
        let served = granted(&mut waits).expect("there is room");
        let mut next = place(one.take(0, now, ThisNode));
        assert!(granted(&mut next).is_none());
        drop(served);
        assert!(granted(&mut next).is_some());
        drop(second);
        assert_eq!((one.counts(), other.counts()), (counts(2), counts(2)));
        assert!([(); 2].map(|()| one.take(0, now, ThisNode)).iter().all(|taken| matches!(taken, Taken::Now(_))));
    }

    #[test]
    fn of_two_pools_that_share_a_quota_the_one_that_has_waited_longer_goes_first() {
        let ([one, other], now) = (sharing(1, 2), Instant::now());
        let held = slot(one.take(0, now, ThisNode));
        let mut later = place(one.take(0, now + TIMEOUT, ThisNode));
        let mut earlier = place(other.take(0, now, ThisNode));
        drop(held);
        let served = granted(&mut earlier).expect("it came first");
        assert!(granted(&mut later).is_none());
        drop(served);
        assert!(granted(&mut later).is_some());
    }

    #[test]
    fn nobody_waits_for_somebody_who_has_left_the_queue() {
        let ([one, _], now) = (sharing(1, 1), Instant::now());
        let held = slot(one.take(0, now, ThisNode));
        let gone = place(one.take(0, now, ThisNode));
        // As when a failover closes what is leased, and drops what waits.
        drop(gone);
        drop(held);
        let held = slot(one.take(0, now, ThisNode));
        drop(place(one.take(0, now, ThisNode)));
        drop(held);
        drop(one.open_ahead(1, Instant::now()).expect("nobody waits"));
        assert_eq!(one.counts(), counts(1));
    }

    #[test]
    fn a_connection_that_comes_back_goes_to_who_waits_elsewhere_also_behind_one_that_did_not() {
        let ([one, other], now) = (sharing(2, 2), Instant::now());
        let (_held, _others) = (slot(one.take(0, now, ThisNode)), slot(other.take(0, now, ThisNode)));
        let _waiting = [(); 2].map(|()| place(one.take(0, now, ThisNode)));
        // One comes back to `one`, and serves the first of the two.
        assert!(!one.yields_to_others(Some(now)));
        assert!(other.quotas[0].is_short() && other.yields_to_others(None));
    }

    #[test]
    fn two_quotas_are_claimed_together_or_not_at_all() {
        let (database, user) = (Quota::new(Some(5)), Quota::new(Some(1)));
        let quotas = vec![Arc::clone(&database), Arc::clone(&user)];
        let bounds = Bounds { size: 9, is_limited: true, ..Bounds::default() };
        let (slots, now) = (Slots::new(bounds, 1, quotas), Instant::now());
        let other = Slots::new(bounds, 1, vec![database, Quota::new(None)]);
        let held = slot(slots.take(0, now, ThisNode));
        let _waits = [(); 9].map(|()| place(slots.take(0, now, ThisNode)));
        assert_eq!(slots.crowd(), Crowd::User(1));
        let others = [(); 4].map(|()| slot(other.take(0, now, ThisNode)));
        drop(place(other.take(0, now, ThisNode)));
        drop((others, held));
    }

    #[test]
    fn a_quota_that_is_raised_lets_in_who_waits_and_one_that_is_lowered_nobody() {
        let quota = Quota::new(Some(1));
        let bounds = Bounds { size: 3, is_limited: true, ..Bounds::default() };
        let (slots, now) = (Slots::new(bounds, 1, vec![Arc::clone(&quota)]), Instant::now());
        let held = slot(slots.take(0, now, ThisNode));
        let mut waits = place(slots.take(0, now, ThisNode));
        quota.set(Some(2));
        slots.set(bounds, now);
        let second = granted(&mut waits).expect("there is room");
        quota.set(Some(1));
        assert!(quota.is_over() && quota.is_short());
        drop(second);
        assert!(!quota.is_over());
        place(slots.take(0, now, ThisNode));
        drop(held);
    }

    #[test]
    fn who_waits_when_its_pool_is_forgotten_is_sent_away_and_nobody_waits_there_again() {
        let (slots, now) = (of_size(1), Instant::now());
        let held = slot(slots.take(0, now, ThisNode));
        let mut waits = place(slots.take(0, now, ThisNode));
        slots.forget();
        assert_eq!(waits.granted.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
        assert!(matches!(slots.take(0, now, ThisNode), Taken::Never));
        drop(held);
        assert!(matches!(slots.take(0, now, ThisNode), Taken::Never));
        assert_eq!(slots.counts().busy, 0);
    }

    #[test]
    fn connections_are_opened_ahead_up_to_the_least_and_the_size() {
        let slots = of_size(2);
        let ahead = [(); 3].map(|()| slots.open_ahead(3, Instant::now()));
        assert_eq!(ahead.iter().flatten().count(), 2);
        drop(ahead);
        assert!(slots.open_ahead(0, Instant::now()).is_none());
    }
}
