//! A node's gate: every server connection to it is known here, so that all can be closed at once when it is fenced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cancel::CancelTarget;
use super::connect::Target;
use super::strays::Strays;
use crate::complaints::{Complaints, Repeats};
use crate::net::{Encryption, Socket, Stream, Unwatched, timers};
use crate::topology::{PostmasterStart, SystemId};
use crate::wire::Replication;

/// One node's connections, over all pools.
#[derive(Debug, Default)]
pub struct Gate {
    generation: AtomicU64,
    leases: AtomicUsize,
    /// The node is the primary of the newest epoch, also before anybody can read that in a view.
    takes_writes: AtomicBool,
    /// It has been the primary since it was last fenced.
    has_taken_writes: AtomicBool,
    belief: Belief,
    shown: Mutex<Shown>,
    strays: Strays,
    troubles: Troubles,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Entry>>,
    /// Somebody holds it: a look before the lock.
    is_held: AtomicBool,
    /// One of each holder.
    holds: Mutex<Vec<Hold>>,
    released: Notify,
}

/// What the node was by the view that its gate was last told of, whoever watched it then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// It was down, and not only for who watched it.
    pub answers_nobody: bool,
    /// It let nobody in: it was starting, or stopping.
    pub is_starting: bool,
    /// It was about to be stopped; that was said when it was asked then. What is older does not call that off.
    pub leaving_since: Option<Instant>,
}

/// How long the node may be believed to be what it is by name: the primary, or a replica that takes reads.
#[derive(Debug)]
struct Belief {
    made: Instant,
    /// Nanoseconds since it was made.
    until: AtomicU64,
    /// It lasts longer.
    renewed: Notify,
}

/// It is neither by any view, or nobody watches it: whoever has a lease of it may go on.
const FOR_EVER: u64 = u64::MAX;

impl Default for Belief {
    fn default() -> Self {
        Self { made: Instant::now(), until: AtomicU64::new(FOR_EVER), renewed: Notify::new() }
    }
}

impl Belief {
    fn lasts_until(&self, until: Option<Instant>) {
        let until = until.map_or(FOR_EVER, |until| self.nanos(until));
        if self.until.swap(until, Ordering::AcqRel) < until {
            self.renewed.notify_waiters();
        }
    }

    #[inline]
    fn is_over(&self, now: Instant) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != FOR_EVER && self.nanos(now) >= until
    }

    fn nanos(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.made).as_nanos()).unwrap_or(FOR_EVER)
    }
}

/// Why connections to the node could not be opened: what is the node's own, all its pools meet.
#[derive(Debug)]
struct Troubles(Mutex<Complaints>);

impl Default for Troubles {
    fn default() -> Self {
        Self(Mutex::new(Complaints::new(Repeats::EachTenMinutes)))
    }
}

/// Nobody new is let in for a time; what holds a lease goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Whose it is.
    pub holder: Holder,
    /// It ends by itself then, so that whoever began it and is gone stops nobody for ever.
    pub until: Instant,
}

/// Who keeps everybody out because the primary is about to be stopped. Who gives that up ends no other's hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The node, which has said so itself.
    Node,
    /// Whoever has scheduled it in Patroni.
    Schedule,
    /// An operator's SWITCHOVER; each has its number.
    Command(u64),
}

impl Holder {
    /// One more SWITCHOVER.
    pub fn of_command() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self::Command(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What others can see of a connection.
#[derive(Debug)]
pub struct About {
    /// The database on the node.
    pub database: Arc<str>,
    /// The role.
    pub user: Arc<str>,
    /// The node's address as configured.
    pub address: Arc<str>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The node's end.
    pub peer: Option<SocketAddr>,
    /// How it is encrypted, if it is.
    pub encryption: Option<Encryption>,
    /// The server process.
    pub process: u32,
    /// Its number in this process.
    pub number: u64,
    /// When it was opened.
    pub opened: SystemTime,
    /// What it is for.
    pub replication: Replication,
    /// None: it is in no pool.
    era: Option<Era>,
    standing: Standing,
    /// A session holds it.
    is_leased: AtomicBool,
    /// Named statements that were on it when it was last given back.
    statements: AtomicU32,
}

/// The time of a pool that a connection is of: what was opened before the newest is not lent again.
#[derive(Debug)]
pub struct Era {
    number: u64,
    newest: Arc<AtomicU64>,
}

impl Era {
    /// The newest.
    pub fn now(newest: &Arc<AtomicU64>) -> Self {
        Self { number: newest.load(Ordering::Acquire), newest: Arc::clone(newest) }
    }

    fn is_over(&self) -> bool {
        self.number != self.newest.load(Ordering::Acquire)
    }
}

impl About {
    /// A connection that has just been opened, for a session.
    pub fn new(target: &Target, stream: Option<&Stream>, itself: &CancelTarget, era: Option<Era>) -> Arc<Self> {
        let socket = stream.map(Stream::socket);
        Arc::new(Self {
            database: Arc::clone(&target.database),
            user: Arc::clone(&target.user),
            address: Arc::clone(&target.endpoint.address),
            local: socket.and_then(Socket::local_address),
            peer: socket.and_then(Socket::peer_address),
            encryption: stream.and_then(Stream::encryption),
            process: itself.process(),
            number: itself.number(),
            opened: SystemTime::now(),
            replication: target.replication(),
            era,
            standing: Standing::default(),
            is_leased: AtomicBool::new(true),
            statements: AtomicU32::new(0),
        })
    }

    /// A session holds it.
    pub fn is_leased(&self) -> bool {
        self.is_leased.load(Ordering::Relaxed)
    }

    /// Its pool opens others in its place.
    pub fn is_outdated(&self) -> bool {
        self.era.as_ref().is_some_and(Era::is_over)
    }

    /// It is closed as soon as nobody holds it.
    pub fn is_leaving(&self) -> bool {
        self.standing.now() != SOUND || self.is_outdated()
    }

    fn is_of(&self, newest: &Arc<AtomicU64>) -> bool {
        self.era.as_ref().is_some_and(|era| Arc::ptr_eq(&era.newest, newest))
    }

    /// How many named statements were on it when it was last given back.
    pub fn statements(&self) -> u32 {
        self.statements.load(Ordering::Relaxed)
    }

    /// A session holds it from now on.
    #[inline]
    pub(super) fn is_lent(&self) {
        self.is_leased.store(true, Ordering::Relaxed);
    }

    /// No session holds it any more, and so many named statements are on it.
    #[inline]
    pub(super) fn is_back(&self, statements: usize) {
        self.is_leased.store(false, Ordering::Relaxed);
        self.statements.store(u32::try_from(statements).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Entry {
    about: Arc<About>,
    /// A second handle to the socket: shutting it down wakes whoever waits on the first.
    socket: Unwatched,
}

/// How the node stands to a connection; it only gets worse.
#[derive(Debug, Default)]
struct Standing(AtomicU8);

/// The connection may be used.
const SOUND: u8 = 0;
/// It is to be closed as soon as nobody uses it.
const RECALLED: u8 = 1;
/// It has been closed.
const SEVERED: u8 = 2;

impl Standing {
    fn now(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn falls_to(&self, worse: u8) {
        self.0.fetch_max(worse, Ordering::AcqRel);
    }
}

/// A connection's place at its gate; leaving is dropping it.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    id: u64,
    about: Arc<About>,
}

impl Gate {
    /// Every connection to the node that is open.
    pub fn connections(&self) -> Vec<Arc<About>> {
        self.open.lock().values().map(|entry| Arc::clone(&entry.about)).collect()
    }

    /// How many of a pool's connections are to be closed, and are still open. A pool is known by its newest era.
    pub fn leaving(&self, pool: &Arc<AtomicU64>) -> usize {
        self.open.lock().values().filter(|entry| entry.about.is_of(pool) && entry.about.is_leaving()).count()
    }

    /// The generation that a connection begun now belongs to; see [`Gate::enter`].
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// A connection that was begun at this generation is not let in any more.
    pub fn is_fenced_since(&self, generation: u64) -> bool {
        self.generation() != generation
    }

    /// A connection that was begun at this generation is open. None: the node has been fenced since, or found elsewhere.
    pub fn enter(self: &Arc<Self>, socket: Unwatched, generation: u64, about: Arc<About>) -> Option<Pass> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.open.lock();
        // Under the lock that `sever` holds: nobody slips in between its count and its sweep, nor so with `found_at`.
        if self.is_fenced_since(generation) || !self.strays.is_home(about.peer) {
            return None;
        }
        open.insert(id, Entry { about: Arc::clone(&about), socket });
        Some(Pass { gate: Arc::clone(self), id, about })
    }

    /// Connections that have led elsewhere than the monitor's own.
    pub fn strays(&self) -> &Strays {
        &self.strays
    }

    /// A connection could not be opened for this reason, which is the node's own. Some: it is to be said, and so often it was met.
    pub(super) fn meet_trouble(&self, reason: &str, now: Instant) -> Option<u64> {
        self.troubles.0.lock().meet(reason, now)
    }

    /// For the monitor, once a view shows what it has found: the node is there, and this server from one start to the next. Where
    /// that is another one than before, connections of sessions that lead elsewhere are lent to nobody any more.
    pub fn found_at(&self, peer: Option<SocketAddr>, server: (SystemId, PostmasterStart)) {
        if !self.strays.found_at(peer, server) {
            self.recall_where(|about| self.strays.is_astray(about.peer));
        }
    }

    /// For who fences the node: by what is in force its name has moved so often. Closes every connection that may lead where it led
    /// before, and answers how many there were; None: that was done, whoever watched the node then.
    pub fn leave_former(&self, moves: u32) -> Option<usize> {
        if !self.strays.are_to_be_left(moves) {
            return None;
        }
        let closed = self.sever();
        // Behind the fence: who waits for it must not be let through to be closed.
        self.strays.have_been_left(moves);
        Some(closed)
    }

    /// Closes every connection to the node, leased or idle. When this returns, none of them can bring an answer that
    /// would be taken for an acknowledgement. Answers how many there were.
    pub fn sever(&self) -> usize {
        self.has_taken_writes.store(false, Ordering::Release);
        self.sever_where(|_| true)
    }

    /// The same for those of sessions: what is passed through for replication ends by itself.
    pub fn sever_sessions(&self) -> usize {
        self.sever_where(|about| about.replication == Replication::None)
    }

    fn sever_where(&self, is_meant: impl Fn(&About) -> bool) -> usize {
        let mut open = self.open.lock();
        self.generation.fetch_add(1, Ordering::AcqRel);
        let ended = open.extract_if(|_, entry| is_meant(&entry.about)).map(|(_, entry)| {
            entry.about.standing.falls_to(SEVERED);
            entry.socket.end();
        });
        ended.count()
    }

    /// The node ends as soon as nobody is connected to it: idle connections are closed within a second, and those that
    /// sessions hold as they come back. What is passed through for replication is left to the node.
    pub fn recall(&self) {
        self.recall_where(|_| true);
    }

    fn recall_where(&self, is_meant: impl Fn(&About) -> bool) {
        let open = self.open.lock();
        let of_sessions =
            open.values().map(|entry| &entry.about).filter(|about| about.replication == Replication::None);
        of_sessions.filter(|about| is_meant(about)).for_each(|about| about.standing.falls_to(RECALLED));
    }

    /// The node has won or lost the primary's role. Said before the view that says so is published: a connection opened
    /// in between must not be taken for one to the primary.
    pub fn admit_writes(&self, takes_writes: bool) {
        self.takes_writes.store(takes_writes, Ordering::Release);
        if takes_writes {
            self.has_taken_writes.store(true, Ordering::Release);
        }
    }

    /// The node is this by the newest view, and by what it was before; answers that.
    pub fn note(&self, now: impl FnOnce(Shown) -> Shown) -> Shown {
        let mut shown = self.shown.lock();
        let before = *shown;
        *shown = now(before);
        before
    }

    /// It has been the primary since it was last fenced: connections of that time may still be open.
    pub fn is_to_be_fenced(&self) -> bool {
        self.has_taken_writes.load(Ordering::Acquire)
    }

    /// The node may be written to.
    pub fn takes_writes(&self) -> bool {
        self.takes_writes.load(Ordering::Acquire)
    }

    /// The node is the primary or a replica that takes reads, and may be believed to be it until then; None: it is neither, or
    /// nobody watches it, and whoever still has a lease of it may go on. Of one that is fenced, said only once it is.
    pub fn believe(&self, until: Option<Instant>) {
        self.belief.lasts_until(until);
    }

    /// It is the primary, or takes reads, by name alone: what was known of it has run out, because we or the monitor stood still.
    /// Another may have been promoted meanwhile, and a replica be far behind.
    #[inline]
    pub fn is_unbelieved(&self, now: Instant) -> bool {
        self.belief.is_over(now)
    }

    /// Waits until the node is believed again, or there is nothing to believe any more. Dropping this loses nothing.
    pub async fn until_believed(&self) {
        loop {
            let renewed = self.belief.renewed.notified();
            if !self.is_unbelieved(Instant::now()) {
                return;
            }
            renewed.await;
        }
    }

    /// From now on nobody new is let in, until [`Gate::release`] or the hold's own end. One of the same holder gives way.
    pub fn hold(&self, hold: Hold) {
        let (mut holds, now) = (self.holds.lock(), Instant::now());
        holds.retain(|other| other.holder != hold.holder && now < other.until);
        holds.push(hold);
        self.is_held.store(true, Ordering::SeqCst);
    }

    /// Whoever waits is let in, unless another holds the gate, too.
    pub fn release(&self, holder: Holder) {
        self.release_where(|hold| hold.holder == holder);
    }

    /// Whoever waits is let in: what everybody has held it for has happened.
    pub fn release_all(&self) {
        self.release_where(|_| true);
    }

    fn release_where(&self, is_meant: impl Fn(&Hold) -> bool) {
        let mut holds = self.holds.lock();
        holds.retain(|hold| !is_meant(hold));
        self.is_held.store(!holds.is_empty(), Ordering::SeqCst);
        drop(holds);
        self.released.notify_waiters();
    }

    /// The hold in force; of several, the one that ends last.
    pub fn held(&self, now: Instant) -> Option<Hold> {
        if !self.is_held.load(Ordering::SeqCst) {
            return None;
        }
        let holds = self.holds.lock();
        holds.iter().filter(|hold| now < hold.until).max_by_key(|hold| hold.until).copied()
    }

    /// Waits for the end of the hold. Dropping this loses nothing.
    pub async fn until_released(&self) {
        let released = self.released.notified();
        let Some(hold) = self.held(Instant::now()) else { return };
        // Whichever comes first; the caller looks again.
        let _ = timers::timeout_at(hold.until.into(), released).await;
    }

    /// Waits until nobody has a lease any more, but not beyond the deadline. Answers how many still have one.
    pub async fn drained(&self, deadline: Instant) -> usize {
        while self.leases() > 0 && Instant::now() < deadline {
            timers::sleep(DRAIN_POLL).await;
        }
        self.leases()
    }

    /// Leases now, over all pools.
    pub fn leases(&self) -> usize {
        self.leases.load(Ordering::Relaxed)
    }

    /// One more lease.
    pub fn leased(&self) {
        self.leases.fetch_add(1, Ordering::Relaxed);
    }

    /// One lease less.
    pub fn returned(&self) {
        self.leases.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A transaction takes a millisecond or more; who asks this often costs nothing.
const DRAIN_POLL: Duration = Duration::from_millis(1);

impl Pass {
    /// The node was fenced: nothing that the connection still says counts.
    pub fn is_severed(&self) -> bool {
        self.about.standing.now() == SEVERED
    }

    /// The connection may be lent.
    #[inline]
    pub fn is_sound(&self) -> bool {
        self.about.standing.now() == SOUND
    }

    /// What others can see of the connection.
    #[inline]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.open.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::Endpoint;
    use crate::wire::CancelKey;

    #[test]
    fn a_hold_ends_by_itself_or_when_it_is_released() {
        let (gate, now) = (Gate::default(), Instant::now());
        let hold = Hold { holder: Holder::of_command(), until: now + Duration::from_secs(60) };
        assert_eq!(gate.held(now), None);
        gate.hold(hold);
        assert_eq!((gate.held(now), gate.held(hold.until)), (Some(hold), None));
        gate.release(hold.holder);
        assert_eq!(gate.held(now), None);
    }

    #[test]
    fn who_gives_up_a_hold_lets_nobody_past_those_of_others() {
        let (gate, now) = (Gate::default(), Instant::now());
        let hold = |holder, seconds| Hold { holder, until: now + Duration::from_secs(seconds) };
        let first = hold(Holder::of_command(), 60);
        let second = hold(Holder::of_command(), 70);
        let third = hold(Holder::Node, 80);
        [first, second, third].into_iter().for_each(|hold| gate.hold(hold));
        gate.release(third.holder);
        assert_eq!(gate.held(now), Some(second));
        gate.release(first.holder);
        assert_eq!(gate.held(now), Some(second));
        gate.release(second.holder);
        assert_eq!(gate.held(now), None);
        // The other way round, and again by one that holds it already.
        [first, second, hold(first.holder, 90)].into_iter().for_each(|hold| gate.hold(hold));
        gate.release(second.holder);
        assert_eq!(gate.held(now), Some(hold(first.holder, 90)));
        gate.hold(third);
        gate.release_all();
        assert_eq!(gate.held(now), None);
    }

    #[tokio::test]
    async fn what_a_node_is_is_believed_until_its_time_is_over_and_that_it_is_nothing_for_ever() {
        let (gate, now) = (Gate::default(), Instant::now());
        let later = now + Duration::from_secs(3600);
        assert!(!gate.is_unbelieved(later));
        gate.believe(Some(later));
        assert_eq!((gate.is_unbelieved(now), gate.is_unbelieved(later)), (false, true));
        for until in [Some(later), None] {
            gate.believe(Some(now));
            assert!(gate.is_unbelieved(Instant::now()));
            let mut waits = std::pin::pin!(gate.until_believed());
            assert!(timers::timeout(Duration::from_millis(10), &mut waits).await.is_err());
            gate.believe(until);
            assert!(timers::timeout(Duration::from_secs(10), waits).await.is_ok());
        }
        assert!(!gate.is_unbelieved(later), "nobody watches it");
    }

    /// The look that was waited for finds that the name has moved.
    #[tokio::test]
    async fn who_waits_to_be_led_home_is_told_of_a_fence_at_once_and_asks_no_more() {
        let (gate, server) = (Gate::default(), |start| (SystemId(1), PostmasterStart(start)));
        let [here, there] = ["10.0.0.1:5432", "10.0.0.2:5432"].map(|peer| peer.parse().ok());
        gate.strays.met(server(1), None);
        gate.found_at(here, server(1));
        let begun = gate.generation();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let waits = gate.strays.leads_home(there, || gate.is_fenced_since(begun), deadline);
        let look = async {
            let met = gate.strays.met(server(2), Some(server(1)));
            assert!(met.has_moved && met.asks == gate.strays.asks());
            gate.leave_former(met.moves);
            met.asks
        };
        let (is_home, asks) = tokio::join!(biased; waits, look);
        assert_eq!((is_home, gate.strays.asks()), (false, asks));
        assert!(tokio::time::Instant::now() < deadline);
        gate.found_at(there, server(2));
        assert!(!gate.strays.leads_home(there, || gate.is_fenced_since(begun), deadline).await, "it is closed");
        assert!(gate.strays.leads_home(there, || gate.is_fenced_since(gate.generation()), deadline).await);
    }

    #[test]
    fn a_fenced_node_lets_nobody_in_from_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut ours = socket.try_clone().unwrap();
        let gate = Arc::new(Gate::default());
        let before = gate.generation();
        let about = || {
            let target = Target {
                endpoint: Endpoint::plain("a:5432".into()),
                user: "u".into(),
                database: "d".into(),
                password: None,
                salted_password: None,
                parameters: Vec::new(),
            };
            let itself =
                CancelTarget::new(target.endpoint.clone(), CancelKey { process_id: 1, secret: Box::default() });
            About::new(&target, None, &itself, None)
        };
        let pass = gate.enter(socket.try_clone().unwrap().into(), before, about()).unwrap();
        assert_eq!(gate.connections().len(), 1);
        assert_eq!(gate.sever(), 1);
        assert!(pass.is_severed());
        assert_eq!(ours.read(&mut [0; 8]).unwrap(), 0, "whoever waits on the socket is woken");
        let about = about();
        assert!(gate.enter(socket.into(), before, about).is_none());
    }
}
