//! What others can see of a client: who it is, what it does, since when. Kept by its worker, without a lock.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use crate::backend::cancel::{Cancellable, OnItsWay};
use crate::config::Limits;
use crate::session::{Identity, SessionId};
use crate::wire::Replication;

/// What others can see of a client.
#[derive(Debug)]
pub struct Card {
    id: SessionId,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    connected: SystemTime,
    identity: RefCell<Option<Identity>>,
    application_name: RefCell<Arc<str>>,
    replication: Cell<Replication>,
    doing: Cell<Doing>,
    since: Cell<Instant>,
    node: RefCell<Option<Arc<str>>>,
    ending: Cell<Option<Ending>>,
    waker: RefCell<Option<Waker>>,
    /// What cancels its statement.
    cancellable: RefCell<Option<Arc<Cancellable>>>,
    /// What it runs is a read by the proof, alone on its server connection: it may be cancelled when its time is over.
    is_timed: Cell<bool>,
    /// It has been cancelled for that.
    is_overdue: Cell<bool>,
}

/// Why a client is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// An operator wants it.
    Killed,
    /// It has sent nothing for `client_idle_timeout`.
    Idle,
    /// It has sent nothing for `idle_in_transaction_timeout`.
    IdleInTransaction,
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
    /// The same, in a transaction.
    InTransaction,
    /// It is at the console.
    AtConsole,
}

impl Doing {
    /// It holds a server connection.
    pub fn holds_lease(self) -> bool {
        matches!(self, Self::Active | Self::Resting | Self::InTransaction)
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
    /// Who it is; None: it has not said.
    pub identity: Option<Identity>,
    /// Its application_name.
    pub application_name: Arc<str>,
    /// What it has come for.
    pub replication: Replication,
    /// What it does.
    pub doing: Doing,
    /// Since when.
    pub since: Instant,
    /// The node whose connection it holds.
    pub node: Option<Arc<str>>,
}

impl Card {
    /// A client that has just connected.
    pub fn new(id: SessionId, peer: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        Self {
            id,
            peer,
            local,
            connected: SystemTime::now(),
            identity: RefCell::default(),
            application_name: RefCell::new("".into()),
            replication: Cell::default(),
            doing: Cell::new(Doing::LoggingIn),
            since: Cell::new(Instant::now()),
            node: RefCell::default(),
            ending: Cell::new(None),
            waker: RefCell::default(),
            cancellable: RefCell::default(),
            is_timed: Cell::new(false),
            is_overdue: Cell::new(false),
        }
    }

    /// It has proved who it is.
    pub fn is_of(&self, identity: &Identity) {
        *self.identity.borrow_mut() = Some(identity.clone());
        self.idles(Instant::now());
    }

    /// Its application_name is this now.
    pub fn is_called(&self, application_name: Option<&str>) {
        let name = application_name.unwrap_or_default();
        if **self.application_name.borrow() != *name {
            *self.application_name.borrow_mut() = name.into();
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

    /// It is at the console from now on, where nobody hurries it.
    pub fn visits_console(&self) {
        self.doing.set(Doing::AtConsole);
    }

    /// Its statements are cancelled by this.
    pub fn is_cancelled_by(&self, cancellable: &Arc<Cancellable>) {
        *self.cancellable.borrow_mut() = Some(Arc::clone(cancellable));
    }

    /// It holds a connection to this node from now on.
    #[inline]
    pub fn runs_on(&self, node: &Arc<str>, now: Instant, is_timed: bool) {
        self.doing.set(Doing::Active);
        self.since.set(now);
        self.is_timed.set(is_timed);
        self.is_overdue.set(false);
        let mut place = self.node.borrow_mut();
        if !place.as_ref().is_some_and(|known| Arc::ptr_eq(known, node)) {
            *place = Some(Arc::clone(node));
        }
    }

    /// Something more runs on the connection that it holds; its time is limited from the moment that is given.
    #[inline]
    pub fn goes_on(&self, timed_from: Option<Instant>) {
        self.doing.set(Doing::Active);
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

    /// A part of a message has come from it: it does something.
    pub fn stirs(&self, now: Instant) {
        self.since.set(now);
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
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// What it runs has been cancelled because its time was over.
    #[inline]
    pub fn is_overdue(&self) -> bool {
        self.is_overdue.get()
    }

    /// Does what the limits ask for by now. Answers the cancel that is to be sent to the node, if there is one.
    pub fn heed(&self, limits: &Limits, now: Instant) -> Option<OnItsWay> {
        let is_over = |limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(self.since.get()) >= limit)
        };
        match self.doing.get() {
            Doing::Idle | Doing::Resting if is_over(limits.client_idle_timeout) => self.end(Ending::Idle),
            Doing::InTransaction if is_over(limits.idle_in_transaction_timeout) => self.end(Ending::IdleInTransaction),
            // Once: the next cancel could hit something else.
            Doing::Active if is_over(limits.query_timeout) && self.is_timed.replace(false) => {
                let cancel = self.cancellable.borrow().as_ref().and_then(|cancellable| cancellable.begin_cancel());
                self.is_overdue.set(cancel.is_some());
                return cancel;
            }
            _ => {}
        }
        None
    }

    /// Ready once it is to be ended. Call whenever its task is polled.
    #[inline]
    pub fn poll_ended(&self, cx: &Context<'_>) -> Poll<Ending> {
        if let Some(why) = self.ending.get() {
            return Poll::Ready(why);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// It came for this database.
    pub fn came_for(&self, database: &str) -> bool {
        self.identity.borrow().as_ref().is_some_and(|identity| &*identity.database == database)
    }

    /// A copy of it.
    pub fn report(&self) -> ClientReport {
        let doing = self.doing.get();
        ClientReport {
            id: self.id,
            peer: self.peer,
            local: self.local,
            connected: self.connected,
            identity: self.identity.borrow().clone(),
            application_name: Arc::clone(&self.application_name.borrow()),
            replication: self.replication.get(),
            doing,
            since: self.since.get(),
            node: self.node.borrow().clone().filter(|_| doing.holds_lease()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_for_one_thing_that_a_client_does() {
        let limits = Limits {
            client_idle_timeout: Some(Duration::from_secs(10)),
            idle_in_transaction_timeout: Some(Duration::from_secs(20)),
            query_timeout: None,
            login_timeout: Duration::ZERO,
            statement_bytes: 0,
            buffer_bytes: 0,
            drain_timeout: Duration::ZERO,
            statement_cache_bytes: 0,
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
}
