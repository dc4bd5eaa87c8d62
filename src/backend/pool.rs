//! One pool: the server connections of one (node, database, user).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::Rng;

use super::cancel::CancelTarget;
use super::connect::{self, ConnectError, Target};
use super::connection::Connection;
use super::gate::{About, Gate};
use super::lease::Lease;
use super::slots::{Counts, Grant, Slot, Slots, Taken};
use crate::auth::{SaltedPassword, Secret};
use crate::session::Known;
use crate::topology::NodeId;

/// How a pool keeps its connections.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Most connections.
    pub size: usize,
    /// Workers that lease from it.
    pub workers: usize,
    /// How long opening one may take.
    pub connect_timeout: Duration,
    /// An idle one is closed after this.
    pub idle_timeout: Duration,
    /// One is closed at this age, once idle.
    pub lifetime: Duration,
}

/// The server connections of one (node, database, user).
pub struct Pool {
    node: NodeId,
    target: Target,
    gate: Arc<Gate>,
    slots: Arc<Slots>,
    settings: ArcSwap<PoolSettings>,
    /// Connections of an earlier generation are closed instead of lent again.
    generation: AtomicU64,
    /// What the last login cost to derive: the next needs not.
    salted_password: Mutex<Option<SaltedPassword>>,
    /// What is proved to the node.
    password: Mutex<Option<Secret>>,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// All connections were in use until the deadline.
    #[error("all {size} server connections are in use")]
    Full {
        /// The pool's size.
        size: usize,
    },
    /// The node could not be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node was fenced while connecting.
    #[error("the node lost its role while connecting")]
    Fenced,
}

impl Pool {
    /// An empty pool.
    pub fn new(node: NodeId, target: Target, gate: Arc<Gate>, settings: Arc<PoolSettings>) -> Arc<Self> {
        let slots = Slots::new(settings.size, settings.workers);
        Arc::new(Self {
            node,
            password: Mutex::new(target.password.clone()),
            target,
            gate,
            slots,
            settings: ArcSwap::new(settings),
            generation: AtomicU64::new(0),
            salted_password: Mutex::new(None),
        })
    }

    /// Keeps its connections by these settings from now on.
    pub fn set(&self, settings: Arc<PoolSettings>) {
        self.slots.resize(settings.size);
        self.settings.store(settings);
    }

    /// Connections opened before are closed: idle ones now, leased ones when they come back.
    pub fn reconnect(&self, now: Instant) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.reap(now);
    }

    /// A warm connection at once, or nothing: the quick way, without a future.
    pub fn try_lease(self: &Arc<Self>, worker: usize, now: Instant) -> Option<Lease> {
        loop {
            let connection = self.slots.take_idle(worker)?;
            if let Some(lease) = self.lend(connection, worker, now) {
                return Some(lease);
            }
        }
    }

    /// The connection that this test accepts, if it is idle.
    pub fn try_lease_where(
        self: &Arc<Self>,
        worker: usize,
        now: Instant,
        accepts: impl Fn(&Connection) -> bool,
    ) -> Option<Lease> {
        let connection = self.slots.take_idle_where(accepts)?;
        self.lend(connection, worker, now)
    }

    /// A connection, warm or new, waiting in the queue up to the deadline.
    pub async fn lease(self: &Arc<Self>, worker: usize, deadline: Instant) -> Result<Lease, LeaseError> {
        loop {
            let grant = match self.slots.take(worker) {
                Taken::Now(grant) => grant,
                // Cancel-safe: a grant that is sent and not received gives itself back.
                Taken::Wait(receiver) => match tokio::time::timeout_at(deadline.into(), receiver).await {
                    Ok(Ok(grant)) => grant,
                    Ok(Err(_)) => continue,
                    Err(_) => return Err(LeaseError::Full { size: self.settings.load().size }),
                },
            };
            match grant {
                Grant::Connection(connection) => {
                    if let Some(lease) = self.lend(connection, worker, Instant::now()) {
                        return Ok(lease);
                    }
                }
                Grant::Open(slot) => return self.open(slot, worker).await,
            }
        }
    }

    /// Connections are opened with this from now on.
    pub(super) fn learn(&self, secret: &Secret) {
        *self.password.lock() = Some(secret.clone());
    }

    fn lend(self: &Arc<Self>, mut connection: Box<Connection>, worker: usize, now: Instant) -> Option<Lease> {
        if self.is_too_old(&connection, now) || connection.pass.is_severed() || !connection.is_quiet() {
            return None;
        }
        let connection = connection.adopt(worker).ok()?;
        Some(Lease::new(connection, Arc::clone(self)))
    }

    async fn open(self: &Arc<Self>, slot: Slot, worker: usize) -> Result<Lease, LeaseError> {
        let fenced = self.gate.generation();
        let generation = self.generation.load(Ordering::Acquire);
        let deadline = tokio::time::Instant::now() + self.settings.load().connect_timeout;
        let target = Target {
            password: self.password.lock().clone(),
            salted_password: self.salted_password.lock().clone(),
            ..self.target.clone()
        };
        let login = connect::connect(&target, deadline).await?;
        if login.salted_password.is_some() {
            self.salted_password.lock().clone_from(&login.salted_password);
        }
        let second_handle = login.stream.second_handle().map_err(ConnectError::Io)?;
        let about = About::new(&self.target, Some(login.stream.socket()), login.cancel_key.process_id);
        let pass = self.gate.enter(second_handle, fenced, about).ok_or(LeaseError::Fenced)?;
        let now = Instant::now();
        // Not all at once: connections opened together would otherwise end together.
        let jitter = self.settings.load().lifetime.mul_f64(rand::rng().random_range(0.0..0.1));
        let connection = Connection {
            stream: login.stream,
            known: Known::of(login.cancel_key.process_id),
            node: self.node,
            parameters: login.parameters.into(),
            cancel_target: CancelTarget::new(&self.target.endpoint, login.cancel_key),
            pass,
            generation,
            opened: now.checked_sub(jitter).unwrap_or(now),
            returned: now,
            worker,
            slot,
        };
        Ok(Lease::new(Box::new(connection), Arc::clone(self)))
    }

    /// A connection comes back, clean.
    pub(super) fn put(&self, mut connection: Box<Connection>, now: Instant) {
        if self.is_too_old(&connection, now) || connection.pass.is_severed() {
            return;
        }
        connection.returned = now;
        self.slots.put(connection);
    }

    fn is_too_old(&self, connection: &Connection, now: Instant) -> bool {
        connection.generation != self.generation.load(Ordering::Acquire)
            || now.saturating_duration_since(connection.opened) > self.settings.load().lifetime
    }

    /// Closes idle connections that are too old, idle for too long, or closed by their node.
    pub fn reap(&self, now: Instant) -> usize {
        self.slots.reap(now, self.settings.load().idle_timeout, |connection| self.is_too_old(connection, now))
    }

    /// Closes all idle connections, and takes none back.
    pub fn retire(&self) {
        self.slots.retire();
    }

    /// What there is now.
    pub fn counts(&self) -> Counts {
        self.slots.counts()
    }

    /// The node it goes to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// `host:port` of the node.
    pub fn address(&self) -> &Arc<str> {
        &self.target.endpoint.address
    }

    /// The node's gate.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}
