//! What others can see of a client: who it is, what it does, since when. Kept by its worker, without a lock.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::backend::cancel::{Cancellable, OnItsWay};
use crate::config::Limits;
use crate::net::Encryption;
use crate::session::{Identity, SessionId};
use crate::wire::Replication;

/// What others can see of a client.
#[derive(Debug)]
pub struct Card {
    id: SessionId,
    peer: Cell<Option<SocketAddr>>,
    /// Shared by those that have come to the same address.
    local: Option<Rc<SocketAddr>>,
    /// Microseconds since the epoch of Unix.
    connected: u64,
    notes: RefCell<Notes>,
    replication: Cell<Replication>,
    encryption: Cell<Option<Encryption>>,
    doing: Cell<Doing>,
    since: Cell<Instant>,
    ending: Cell<Option<Ending>>,
    /// What it runs is a read by the proof, alone on its server connection: it may be cancelled when its time is over.
    is_timed: Cell<bool>,
    /// It has been cancelled for that, by this.
    overdue: Cell<Option<Overdue>>,
    /// What its task is to do when it is polled next.
    wish: Cell<Wish>,
    /// How often it has spoken soon after it was parked: the longer it is waited for the next time.
    restlessness: Cell<u8>,
}

/// What changes of it and is no copy of a number. In one cell, for a worker has thousands of cards.
#[derive(Debug, Default)]
struct Notes {
    /// User and database, which a client that is still logging in only claims; the address that belongs to them is the peer's.
    identity: Option<(Arc<str>, Arc<str>)>,
    /// None: it is empty.
    application_name: Option<Arc<str>>,
    node: Option<Arc<str>>,
    /// Wakes its task.
    waker: Option<Waker>,
    /// What cancels its statement.
    cancellable: Option<Arc<Cancellable>>,
}

/// What a client's task is wanted to do, asked once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Nothing,
    /// To be parked, unless it has something to say.
    Park,
    /// To look whether what it waits for is still of use.
    Look,
    /// To let go of the server connection on which it has only prepared.
    LetGo,
}

/// A client that has said nothing for so long is parked.
const PATIENCE: Duration = Duration::from_millis(500);

/// What has been cancelled is over by then, unless something keeps the node from heeding it.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Most that wait have what they wait for by then, and most that prepare have run it.
const A_WHILE: Duration = Duration::from_millis(100);

/// Soon is within so many times that.
const SOON: u32 = 8;

/// Every second time that it speaks soon after it was parked, it is waited for so many times longer: parking would cost it
/// more than it gives.
const GROWTH: u32 = 4;

/// So often its being restless is counted.
const MOST_RESTLESSNESS: u8 = 8;

/// Why a client is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An operator wants it.
    Killed,
    /// It has sent nothing for `client_idle_timeout`.
    Idle,
    /// It has sent nothing for `idle_in_transaction_timeout`.
    IdleInTransaction,
    /// Its statement has been cancelled because its time was over, by this, and goes on.
    Overdue(Overdue),
}

/// What has cancelled a read when its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// `query_timeout`.
    Limit,
    /// The `timeout` of its rule.
    Rule,
}

impl Overdue {
    /// What its client is told.
    pub fn words(self) -> &'static str {
        match self {
            Self::Limit => "canceling statement due to query_timeout",
            Self::Rule => "canceling statement due to the timeout of its rule",
        }
    }

    /// What it is told if the statement goes on all the same.
    pub fn last_words(self) -> &'static str {
        match self {
            Self::Limit => "terminating connection because its statement has not ended when query_timeout canceled it",
            Self::Rule => {
                "terminating connection because its statement has not ended when the timeout of its rule canceled it"
            }
        }
    }
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It proves who it is.
    LoggingIn,
    /// Nothing, for all that Trunkline knows.
    Idle,
    /// It waits for a server connection, a primary, freshness or the end of a pause.
    Waiting,
    /// It holds a server connection, and something runs on it.
    Active,
    /// It holds a server connection, and nothing runs on it.
    Resting,
    /// The same, in a transaction, be it that of a batch without its Sync.
    InTransaction,
    /// It holds a server connection, and has only prepared something there, in a batch without its Sync.
    Prepared,
    /// It is at the console.
    AtConsole,
}

impl Doing {
    /// It holds a server connection.
    pub fn holds_lease(self) -> bool {
        matches!(self, Self::Active | Self::Resting | Self::InTransaction | Self::Prepared)
    }
}

/// A login that waits, until this is dropped.
#[must_use = "dropping it goes on with the login"]
pub struct LoginWaits<'c>(&'c Card);

impl Drop for LoginWaits<'_> {
    fn drop(&mut self) {
        self.0.doing.set(Doing::LoggingIn);
        self.0.since.set(Instant::now());
    }
}

/// A copy of a card, to be shown elsewhere.
#[derive(Clone, Debug)]
pub struct ClientReport {
    /// The session.
    pub id: SessionId,
    /// Its address.
    pub peer: Option<SocketAddr>,
    /// Ours.
    pub local: Option<SocketAddr>,
    /// When it connected.
    pub connected: SystemTime,
    /// Who it is, or claims to be while it is logging in; None: it has not said.
    pub identity: Option<Identity>,
    /// Its application_name.
    pub application_name: Arc<str>,
    /// What it has come for.
    pub replication: Replication,
    /// How its connection is encrypted, if it is.
    pub encryption: Option<Encryption>,
    /// What it does.
    pub doing: Doing,
    /// Since when.
    pub since: Instant,
    /// The node whose connection it holds.
    pub node: Option<Arc<str>>,
    /// The number of that connection.
    pub server: Option<u64>,
}

impl ClientReport {
    /// Who it is; None: it has not proved it.
    pub fn proved(&self) -> Option<&Identity> {
        self.identity.as_ref().filter(|_| self.doing != Doing::LoggingIn)
    }
}

impl Card {
    /// A client that has just connected.
    pub fn new(id: SessionId, peer: Option<SocketAddr>, local: Option<Rc<SocketAddr>>) -> Self {
        Self {
            id,
            peer: Cell::new(peer),
            local,
            connected: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros),
            notes: RefCell::default(),
            replication: Cell::default(),
            encryption: Cell::default(),
            doing: Cell::new(Doing::LoggingIn),
            since: Cell::new(Instant::now()),
            ending: Cell::new(None),
            is_timed: Cell::new(false),
            overdue: Cell::new(None),
            wish: Cell::new(Wish::Nothing),
            restlessness: Cell::new(0),
        }
    }

    /// A load balancer has said that it speaks for a client there. Of that one's port it is not asked.
    pub fn comes_from(&self, address: IpAddr) {
        self.peer.set(Some(SocketAddr::new(address, 0)));
    }

    /// It claims to be this user, and wants this database.
    pub fn claims(&self, user: &Arc<str>, database: &Arc<str>) {
        self.notes.borrow_mut().identity = Some((Arc::clone(user), Arc::clone(database)));
    }

    /// It has proved that it is this user of this database, over a stream that is encrypted like this.
    pub fn is_of(&self, user: &Arc<str>, database: &Arc<str>, encryption: Option<Encryption>) {
        self.claims(user, database);
        self.encryption.set(encryption);
        self.idles(Instant::now());
    }

    /// Its application_name is this now.
    pub fn is_called(&self, application_name: Option<&str>) {
        let name = application_name.filter(|name| !name.is_empty());
        let mut notes = self.notes.borrow_mut();
        if notes.application_name.as_deref() != name {
            notes.application_name = name.map(Into::into);
        }
    }

    /// It has come for this.
    pub fn wants(&self, replication: Replication) {
        self.replication.set(replication);
    }

    /// It waits from now on.
    pub fn waits(&self, now: Instant) {
        self.doing.set(Doing::Waiting);
        self.since.set(now);
    }

    /// The same in the midst of its login.
    pub fn waits_to_log_in(&self) -> LoginWaits<'_> {
        self.waits(Instant::now());
        LoginWaits(self)
    }

    /// It is at the console from now on, where nobody hurries it.
    pub fn visits_console(&self) {
        self.doing.set(Doing::AtConsole);
    }

    /// Its statements are cancelled by this.
    pub fn is_cancelled_by(&self, cancellable: &Arc<Cancellable>) {
        self.notes.borrow_mut().cancellable = Some(Arc::clone(cancellable));
    }

    /// It holds a connection to this node from now on.
    #[inline]
    pub fn runs_on(&self, node: &Arc<str>, now: Instant, is_timed: bool) {
        self.doing.set(Doing::Active);
        self.since.set(now);
        self.is_timed.set(is_timed);
        self.overdue.set(None);
        let place = &mut self.notes.borrow_mut().node;
        if !place.as_ref().is_some_and(|known| Arc::ptr_eq(known, node)) {
            *place = Some(Arc::clone(node));
        }
    }

    /// Something more runs on the connection that it holds; its time is limited from the moment that is given.
    #[inline]
    pub fn goes_on(&self, timed_from: Option<Instant>) {
        self.doing.set(Doing::Active);
        self.overdue.set(None);
        self.is_timed.set(timed_from.is_some());
        if let Some(now) = timed_from {
            self.since.set(now);
        }
    }

    /// Everything is answered on the connection that it holds, and goes on holding.
    #[inline]
    pub fn rests(&self, in_transaction: bool, now: Instant) {
        self.doing.set(if in_transaction { Doing::InTransaction } else { Doing::Resting });
        self.since.set(now);
    }

    /// The same of a batch that has only prepared: it may end there if nothing follows for a while.
    pub fn has_prepared(&self, now: Instant) {
        self.doing.set(Doing::Prepared);
        self.since.set(now);
        self.is_wanted_to(Wish::LetGo); // what was wanted of the batch before
    }

    /// A part of a message has come from it: it does something. What runs already has begun before that.
    pub fn stirs(&self, now: Instant) {
        if self.doing.get() != Doing::Active {
            self.since.set(now);
        }
    }

    /// It holds none any more.
    #[inline]
    pub fn idles(&self, now: Instant) {
        self.doing.set(Doing::Idle);
        self.since.set(now);
    }

    /// What it does.
    #[inline]
    pub fn doing(&self) -> Doing {
        self.doing.get()
    }

    /// Ends it, whatever it does.
    pub fn end(&self, why: Ending) {
        self.ending.set(Some(why));
        self.wake();
    }

    /// What it runs has been cancelled because its time was over, by this.
    #[inline]
    pub fn overdue(&self) -> Option<Overdue> {
        self.overdue.get()
    }

    /// The time of what it runs is over, by this. Answers the cancel that is to be sent to the node, once: the next could hit
    /// something else.
    pub fn cancel(&self, by: Overdue) -> Option<OnItsWay> {
        self.is_timed.set(false);
        if self.overdue.get().is_some() {
            return None;
        }
        let notes = self.notes.borrow();
        let cancel = notes.cancellable.as_ref().and_then(|cancellable| cancellable.begin_cancel());
        self.overdue.set(cancel.is_some().then_some(by));
        cancel
    }

    /// What it runs is answered as a whole, and its client has yet to take that: nothing is left to be cancelled. Who never does
    /// is idle.
    pub fn is_answered(&self, now: Instant) {
        self.is_timed.set(false);
        self.overdue.set(None);
        if self.doing.get() == Doing::Active {
            self.rests(false, now);
        }
    }

    /// Does what the limits ask for by now. Answers the cancel that is to be sent to the node, if there is one.
    pub fn heed(&self, limits: &Limits, now: Instant) -> Option<OnItsWay> {
        let is_over = |limit: Option<Duration>| limit.is_some_and(|limit| self.has_lasted(limit, now));
        match self.doing.get() {
            Doing::Idle | Doing::Resting | Doing::Prepared if is_over(limits.client_idle_timeout) => {
                self.end(Ending::Idle);
            }
            Doing::InTransaction if is_over(limits.idle_in_transaction_timeout) => self.end(Ending::IdleInTransaction),
            Doing::Active if self.is_timed.get() && is_over(limits.query_timeout) => {
                return self.cancel(Overdue::Limit);
            }
            // The node cannot stop what it sends to a client that does not take it.
            Doing::Active
                if self.overdue.get() == Some(Overdue::Limit)
                    && is_over(limits.query_timeout.map(|limit| limit + GRACE)) =>
            {
                self.end(Ending::Overdue(Overdue::Limit));
            }
            // It looks whether its client is still there.
            Doing::Waiting if self.waits_long(now) => {
                self.wish.set(Wish::Look);
                self.wake();
            }
            // Others may wait for its server connection.
            Doing::Prepared if self.has_lasted(A_WHILE, now) => {
                self.wish.set(Wish::LetGo);
                self.wake();
            }
            _ => {}
        }
        None
    }

    /// It is to let go of the server connection on which it has only prepared. Asked once.
    pub fn is_to_let_go(&self) -> bool {
        self.is_wanted_to(Wish::LetGo)
    }

    /// It is to look whether what it waits for is still of use. Asked once.
    pub fn is_to_look(&self) -> bool {
        self.is_wanted_to(Wish::Look)
    }

    #[inline]
    fn is_wanted_to(&self, wish: Wish) -> bool {
        let is_wanted = self.wish.get() == wish;
        if is_wanted {
            self.wish.set(Wish::Nothing);
        }
        is_wanted
    }

    /// It has waited for a while.
    pub fn waits_long(&self, now: Instant) -> bool {
        self.doing.get() == Doing::Waiting && self.has_lasted(A_WHILE, now)
    }

    /// Has its task look whether something is wanted of it.
    pub fn wake(&self) {
        let waker = self.notes.borrow_mut().waker.take();
        waker.into_iter().for_each(Waker::wake);
    }

    /// It is to be ended.
    pub fn is_ended(&self) -> bool {
        self.ending.get().is_some()
    }

    /// Is to be parked if it has said nothing for long; answers whether that is so.
    pub fn park_if_quiet(&self, now: Instant) -> bool {
        // Over TLS it keeps its task.
        let may_be_parked = self.encryption.get().is_none();
        let is_quiet = may_be_parked && self.doing.get() == Doing::Idle && self.has_lasted(self.patience(), now);
        if is_quiet {
            self.wish.set(Wish::Park);
        } else {
            self.is_wanted_to(Wish::Park);
        }
        is_quiet
    }

    /// It is to be parked. Asked once: then it is parked, or has something to say.
    #[inline]
    pub fn is_to_park(&self) -> bool {
        self.is_wanted_to(Wish::Park)
    }

    /// It is parked: nobody is woken for it.
    pub fn parks(&self) {
        self.notes.borrow_mut().waker = None;
    }

    /// It has been parked, and speaks now.
    pub fn speaks_again(&self, now: Instant) {
        let (patience, restlessness) = (self.patience(), self.restlessness.get());
        self.restlessness.set(match self.has_lasted(patience * SOON, now) {
            false => (restlessness + 1).min(MOST_RESTLESSNESS),
            true if self.has_lasted(patience * SOON * SOON, now) => restlessness.saturating_sub(1),
            true => restlessness,
        });
    }

    fn patience(&self) -> Duration {
        PATIENCE * GROWTH.pow(u32::from(self.restlessness.get() / 2))
    }

    /// It has done the same for so long.
    fn has_lasted(&self, time: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since.get()) >= time
    }

    /// Ready once it is to be ended. Call whenever its task is polled: by this it is [woken](Self::wake).
    #[inline]
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ending> {
        if let Some(why) = self.ending.get() {
            return Poll::Ready(why);
        }
        let waker = &mut self.notes.borrow_mut().waker;
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Returns once it is to be ended. Cancel-safe: it changes nothing but whom it wakes.
    pub async fn until_ended(&self) -> Ending {
        std::future::poll_fn(|cx| self.poll_ended(cx)).await
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Its address.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer.get()
    }

    /// It came for this database, or wants to log in to it.
    pub fn came_for(&self, database: &str) -> bool {
        self.notes.borrow().identity.as_ref().is_some_and(|(_, known)| &**known == database)
    }

    /// It has proved who it is.
    pub fn has_logged_in(&self) -> bool {
        self.doing.get() != Doing::LoggingIn
    }

    /// Who it is, or claims to be while it is logging in; None: it has not said.
    pub fn identity(&self) -> Option<Identity> {
        let (user, database) = self.notes.borrow().identity.clone()?;
        Some(Identity { user, database, address: self.peer.get().map(|peer| peer.ip()) })
    }

    /// What cancels its statements, once it has logged in.
    pub fn cancellable(&self) -> Option<Arc<Cancellable>> {
        self.notes.borrow().cancellable.clone()
    }

    /// A copy of it.
    pub fn report(&self) -> ClientReport {
        let (doing, notes) = (self.doing.get(), self.notes.borrow());
        ClientReport {
            id: self.id,
            peer: self.peer.get(),
            local: self.local.as_deref().copied(),
            connected: UNIX_EPOCH + Duration::from_micros(self.connected),
            identity: self.identity(),
            application_name: notes.application_name.clone().unwrap_or_default(),
            replication: self.replication.get(),
            encryption: self.encryption.get(),
            doing,
            since: self.since.get(),
            node: notes.node.clone().filter(|_| doing.holds_lease()),
            server: notes.cancellable.as_ref().and_then(|session| session.server()).filter(|_| doing.holds_lease()),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMITS: Limits = Limits {
        client_idle_timeout: None,
        idle_in_transaction_timeout: None,
        query_timeout: None,
        login_timeout: Duration::ZERO,
        statement_bytes: 0,
        buffer_bytes: 0,
        drain_timeout: Duration::ZERO,
        statement_cache_bytes: 0,
    };

    #[test]
    fn each_limit_is_for_one_thing_that_a_client_does() {
        let limits = Limits {
            client_idle_timeout: Some(Duration::from_secs(10)),
            idle_in_transaction_timeout: Some(Duration::from_secs(20)),
            ..NO_LIMITS
        };
        let now = Instant::now();
        let card = Card::new(SessionId(1), None, None);
        let after = |seconds| {
            card.heed(&limits, now + Duration::from_secs(seconds));
            card.ending.take()
        };
        assert_eq!(after(1000), None, "a login has a limit of its own");
        card.idles(now);
        assert_eq!((after(9), after(10)), (None, Some(Ending::Idle)));
        card.rests(false, now);
        assert_eq!((after(9), after(10)), (None, Some(Ending::Idle)));
        card.rests(true, now);
        assert_eq!((after(19), after(20)), (None, Some(Ending::IdleInTransaction)));
        card.goes_on(None);
        assert_eq!(after(1000), None);
        card.waits(now);
        assert_eq!(after(1000), None);
        card.visits_console();
        assert_eq!(after(1000), None);
        card.idles(now);
        card.stirs(now + Duration::from_secs(5));
        assert_eq!((after(14), after(15)), (None, Some(Ending::Idle)));
    }

    #[test]
    fn who_has_only_prepared_lets_go_after_a_while_and_is_idle_meanwhile() {
        let limits = Limits { client_idle_timeout: Some(Duration::from_secs(10)), ..NO_LIMITS };
        let (card, now) = (Card::new(SessionId(1), None, None), Instant::now());
        let lets_go_after = |milliseconds| {
            card.heed(&limits, now + Duration::from_millis(milliseconds));
            card.is_to_let_go()
        };
        card.has_prepared(now);
        assert!(!lets_go_after(99) && lets_go_after(100) && !card.is_to_let_go());
        card.heed(&limits, now + Duration::from_secs(1));
        card.has_prepared(now);
        assert!(!card.is_to_let_go(), "that was wanted of what it has prepared before");
        card.goes_on(None);
        assert!(!lets_go_after(1_000));
        card.rests(false, now);
        assert!(!lets_go_after(1_000), "it keeps its server connection for another reason");
        card.has_prepared(now);
        assert!(!lets_go_after(10_000) && card.is_ended());
    }

    #[test]
    fn what_runs_is_given_no_more_time_by_what_comes_behind_it() {
        let (card, now) = (Card::new(SessionId(1), None, None), Instant::now());
        card.goes_on(Some(now));
        card.stirs(now + Duration::from_secs(5));
        assert!(card.has_lasted(Duration::from_secs(6), now + Duration::from_secs(6)));
    }

    #[test]
    fn who_is_logging_in_is_known_by_what_it_claims() {
        let balancer = "127.0.0.1:4711".parse().unwrap();
        let card = Card::new(SessionId(1), Some(balancer), None);
        assert!(card.report().identity.is_none() && !card.came_for("shop"));
        let (ada, shop): (Arc<str>, Arc<str>) = ("ada".into(), "shop".into());
        card.comes_from("10.0.0.7".parse().unwrap());
        card.claims(&ada, &shop);
        let report = card.report();
        assert_eq!(report.peer, Some("10.0.0.7:0".parse().unwrap()));
        assert_eq!(report.identity.as_ref().map(|claimed| (&*claimed.user, &*claimed.database)), Some(("ada", "shop")));
        assert!(report.proved().is_none() && !card.has_logged_in());
        assert!(card.came_for("shop") && !card.came_for("ada"));
        card.is_of(&ada, &shop, None);
        assert!(card.report().proved().is_some() && card.has_logged_in());
        assert_eq!(card.report().peer, report.peer);
    }

    #[test]
    fn who_speaks_soon_after_it_was_parked_is_waited_for_longer() {
        let card = Card::new(SessionId(1), None, None);
        let mut now = Instant::now();
        let is_parked_after = |now: Instant, milliseconds| {
            card.park_if_quiet(now + Duration::from_millis(milliseconds));
            card.is_to_park()
        };
        assert!(!is_parked_after(now, 1_000_000), "it has not logged in");
        card.idles(now);
        assert!(!is_parked_after(now, 499) && is_parked_after(now, 500) && !card.is_to_park());
        for is_second in [false, true] {
            assert!(is_parked_after(now, 500));
            now += Duration::from_millis(3_999);
            card.speaks_again(now);
            card.idles(now);
            assert_eq!(is_parked_after(now, 1_999), !is_second);
        }
        assert!(is_parked_after(now, 2_000));
        // Neither soon nor late.
        now += Duration::from_secs(20);
        card.speaks_again(now);
        card.idles(now);
        assert!(!is_parked_after(now, 1_999));
        now += Duration::from_secs(200);
        card.speaks_again(now);
        card.idles(now);
        assert!(is_parked_after(now, 500));
        for _ in 0..20 {
            card.speaks_again(now);
        }
        assert!(!is_parked_after(now, 127_999) && is_parked_after(now, 128_000));
    }

    #[test]
    fn what_has_been_cancelled_is_cancelled_once_and_by_one() {
        use crate::backend::cancel::{CancelKeys, CancelTarget};
        use crate::backend::endpoint::Endpoint;
        use crate::wire::CancelKey;

        let session = CancelKeys::default().issue(4);
        let key = CancelKey { process_id: 1, secret: Box::default() };
        session.runs_at(&CancelTarget::new(Endpoint::plain("127.0.0.1:1".into()), key));
        let limits = Limits { query_timeout: Some(Duration::from_secs(1)), ..NO_LIMITS };
        let (card, now) = (Card::new(SessionId(1), None, None), Instant::now());
        card.is_cancelled_by(&session);
        let later = |seconds| now + Duration::from_secs(seconds);
        card.goes_on(Some(now));
        assert!(card.cancel(Overdue::Rule).is_some() && card.overdue() == Some(Overdue::Rule));
        assert!(card.cancel(Overdue::Rule).is_none() && card.heed(&limits, later(2)).is_none());
        card.heed(&limits, later(100));
        assert_eq!(card.ending.take(), None, "its rule sees to that");
        card.goes_on(Some(now));
        assert!(card.overdue().is_none() && card.heed(&limits, later(2)).is_some());
        assert!(card.cancel(Overdue::Rule).is_none() && card.overdue() == Some(Overdue::Limit));
        card.heed(&limits, later(12));
        assert_eq!(card.ending.take(), Some(Ending::Overdue(Overdue::Limit)));
    }
}
