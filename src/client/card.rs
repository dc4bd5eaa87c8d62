//! What others can see of a client: who it is, what it does, since when. Kept by its worker, without a lock.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use crate::session::{Identity, SessionId};

/// What others can see of a client.
#[derive(Debug)]
pub struct Card {
    id: SessionId,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    connected: SystemTime,
    identity: RefCell<Option<Identity>>,
    application_name: RefCell<Arc<str>>,
    doing: Cell<Doing>,
    since: Cell<Instant>,
    node: RefCell<Option<Arc<str>>>,
    is_killed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
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
    /// It holds a server connection.
    Active,
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
            doing: Cell::new(Doing::LoggingIn),
            since: Cell::new(Instant::now()),
            node: RefCell::default(),
            is_killed: Cell::new(false),
            waker: RefCell::default(),
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

    /// It waits from now on.
    pub fn waits(&self, now: Instant) {
        self.doing.set(Doing::Waiting);
        self.since.set(now);
    }

    /// It holds a connection to this node from now on.
    #[inline]
    pub fn runs_on(&self, node: &Arc<str>, now: Instant) {
        self.doing.set(Doing::Active);
        self.since.set(now);
        let mut place = self.node.borrow_mut();
        if !place.as_ref().is_some_and(|known| Arc::ptr_eq(known, node)) {
            *place = Some(Arc::clone(node));
        }
    }

    /// It holds none any more.
    #[inline]
    pub fn idles(&self, now: Instant) {
        self.doing.set(Doing::Idle);
        self.since.set(now);
    }

    /// Ends it, whatever it does.
    pub fn kill(&self) {
        self.is_killed.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready once it is to be ended. Call whenever its task is polled.
    #[inline]
    pub fn poll_killed(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_killed.get() {
            return Poll::Ready(());
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
            doing,
            since: self.since.get(),
            node: self.node.borrow().clone().filter(|_| doing == Doing::Active),
        }
    }
}
