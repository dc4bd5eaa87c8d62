//! One pool: the server connections of one (node, database, user).

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::Rng;
use tracing::warn;

use super::cancel::CancelTarget;
use super::connect::{self, ConnectClass, ConnectError, Target};
use super::connection::Connection;
use super::gate::{About, Era, Gate};
use super::lease::Lease;
use super::plan::PoolSettings;
use super::quota::Quota;
use super::slots::{Counts, Crowd, Grant, Openings, Place, Slot, Slots, Taken, Wanted};
use crate::auth::{SaltedPassword, Secret};
use crate::complaints::{Complaints, Repeats};
use crate::net::timers;
use crate::routing::Freshness;
use crate::session::Known;
use crate::topology::{NodeId, View};
use crate::wire::SqlState;

/// The server connections of one (node, database, user).
pub struct Pool {
    node: NodeId,
    target: Target,
    gate: Arc<Gate>,
    slots: Arc<Slots>,
    settings: ArcSwap<PoolSettings>,
    /// The lifetime of the settings; milliseconds. Apart, because each lease asks for it when it comes back.
    lifetime: AtomicU64,
    /// Connections of an earlier [`Era`] are closed instead of lent again.
    newest: Arc<AtomicU64>,
    /// What the node must have replayed, so that a connection that is opened then is lent for good; None: nothing.
    awaited: Mutex<Option<Freshness>>,
    /// There is something: a look before the lock.
    awaits: AtomicBool,
    /// What the last login cost to derive: the next needs not.
    salted_password: Mutex<Option<SaltedPassword>>,
    /// What is proved to the node.
    password: Mutex<Option<Secret>>,
    /// Connections are not opened ahead before this: the last attempt has failed.
    ahead_again: Mutex<Option<Instant>>,
    openings: OpeningCounts,
    /// What the node said when it had no room for one more connection.
    no_room: Mutex<Option<ConnectError>>,
    /// The password that a node has refused last.
    refused: Mutex<Option<Secret>>,
    /// Why the node does not let the role in; None: it has let it in since.
    denial: Mutex<Option<SqlState>>,
    /// Why one more connection could not be opened, where that need not be so for the node's other pools: each client that
    /// meets it is told, or served elsewhere, and the log now and then.
    troubles: Mutex<Complaints>,
    /// By which limit all connections were in use for too long.
    crowds: Mutex<Complaints>,
    /// Since when it has been seen to be unused, and the connections that had been tried by then.
    vacancy: Mutex<Option<(Instant, u64)>>,
}

/// The worker of a connection that was opened for nobody: whoever leases it first takes it over.
const NO_WORKER: usize = usize::MAX;

/// What could not be opened ahead is not tried again at each turn: a node that refuses a login logs it.
const AHEAD_PAUSE: Duration = Duration::from_secs(30);

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// All connections were in use until the deadline.
    #[error(transparent)]
    Full(#[from] Crowd),
    /// The node could not be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The node was fenced while connecting.
    #[error("the node lost its role while connecting")]
    Fenced,
    /// A reload has forgotten the pool: what it opens connections with may not be true any more.
    #[error("the pool was forgotten by a reload")]
    Forgotten,
}

#[derive(Debug, Default)]
struct OpeningCounts {
    begun: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

/// One that is under way; if nobody waits for it any more, it has failed.
struct Opening<'a> {
    counts: &'a OpeningCounts,
    is_done: bool,
}

impl<'a> Opening<'a> {
    fn begin(counts: &'a OpeningCounts) -> Self {
        counts.begun.fetch_add(1, Ordering::Relaxed);
        Self { counts, is_done: false }
    }

    fn ends(mut self, is_done: bool) {
        self.is_done = is_done;
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let count = if self.is_done { &self.counts.done } else { &self.counts.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The node does not take this proof of who it is.
fn is_refusal(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Server { code: SqlState([b'2', b'8', ..]), .. })
}

impl Pool {
    /// An empty pool.
    pub fn new(
        node: NodeId,
        target: Target,
        gate: Arc<Gate>,
        settings: PoolSettings,
        quotas: Vec<Arc<Quota>>,
    ) -> Arc<Self> {
        let slots = Slots::new(settings.bounds(), settings.workers, quotas);
        Arc::new(Self {
            node,
            password: Mutex::new(target.password.clone()),
            target,
            gate,
            slots,
            lifetime: AtomicU64::new(millis(settings.lifetime)),
            settings: ArcSwap::from_pointee(settings),
            newest: Arc::default(),
            awaited: Mutex::default(),
            awaits: AtomicBool::new(false),
            salted_password: Mutex::new(None),
            ahead_again: Mutex::new(None),
            openings: OpeningCounts::default(),
            no_room: Mutex::default(),
            refused: Mutex::default(),
            denial: Mutex::default(),
            troubles: Mutex::new(Complaints::new(Repeats::EachTenMinutes)),
            crowds: Mutex::new(Complaints::new(Repeats::EachMinute)),
            vacancy: Mutex::default(),
        })
    }

    /// Keeps its connections by these settings from now on.
    pub fn set(&self, settings: PoolSettings, now: Instant) {
        let bounds = settings.bounds();
        self.lifetime.store(millis(settings.lifetime), Ordering::Relaxed);
        self.settings.store(Arc::new(settings));
        self.slots.set(bounds, now);
    }

    /// Connections opened before are closed: idle ones now, leased ones when they come back.
    pub fn reconnect(&self, now: Instant) {
        self.begin_anew();
        self.reap(now, false);
    }

    /// Connections that are opened while the node may lack this are lent until it has it, and not beyond.
    pub(super) fn await_replay(&self, floor: Freshness) {
        let mut awaited = self.awaited.lock();
        *awaited = Some(floor);
        self.awaits.store(true, Ordering::Release);
    }

    /// Looks whether the node has replayed what is awaited.
    pub fn settle(&self, view: &View) {
        if !self.awaits_replay() {
            return;
        }
        let mut awaited = self.awaited.lock();
        let Some(floor) = awaited.as_mut() else { return };
        floor.settle(view);
        if view.node(self.node).is_some_and(|node| floor.allows(node)) {
            *awaited = None;
            self.begin_anew();
            self.awaits.store(false, Ordering::Release);
        }
    }

    /// The node is not known to have replayed what is awaited.
    #[inline]
    pub fn awaits_replay(&self) -> bool {
        self.awaits.load(Ordering::Acquire)
    }

    /// All idle connections, to be closed; leased ones are when they come back.
    pub fn empty(&self) -> Vec<Box<Connection>> {
        self.begin_anew();
        self.slots.take_all_idle()
    }

    fn begin_anew(&self) {
        self.newest.fetch_add(1, Ordering::AcqRel);
    }

    /// How many of its connections are to be closed, and are still open.
    pub(super) fn leaving(&self) -> usize {
        self.gate.leaving(&self.newest)
    }

    /// A warm connection at once, or nothing: the quick way, without a future.
    pub fn try_lease(self: Arc<Self>, worker: usize) -> Option<Lease> {
        loop {
            let connection = self.slots.take_idle(worker)?;
            if let Some(connection) = Self::ready(connection, worker) {
                return Some(Lease::new(connection, self));
            }
        }
    }

    /// The connection that this test accepts, if it is idle.
    pub fn try_lease_where(self: &Arc<Self>, worker: usize, accepts: impl Fn(&Connection) -> bool) -> Option<Lease> {
        let connection = self.slots.take_idle_where(accepts)?;
        self.lend(connection, worker)
    }

    /// A connection, warm or new, waiting in the queue up to the deadline.
    pub async fn lease(self: &Arc<Self>, worker: usize, deadline: Instant) -> Result<Lease, LeaseError> {
        self.lease_by(worker, deadline, Wanted::ThisNode, None).await
    }

    /// The same where another node may serve as well: the node's room for one more is not waited for.
    pub async fn lease_or_elsewhere(self: &Arc<Self>, worker: usize, deadline: Instant) -> Result<Lease, LeaseError> {
        self.lease_by(worker, deadline, Wanted::AnyNode, None).await
    }

    /// The same for one who has this of the pool already.
    pub async fn lease_further(
        self: &Arc<Self>,
        worker: usize,
        deadline: Instant,
        taken: Taken,
    ) -> Result<Lease, LeaseError> {
        self.lease_by(worker, deadline, Wanted::ThisNode, Some(taken)).await
    }

    /// A place in the queue, where its deadline is all that there is to look after.
    pub fn plain_place(&self, now: Instant) -> Option<Place> {
        self.slots.plain_place(now)
    }

    /// Whether one who asks now would have to wait.
    pub fn is_crowded(&self, now: Instant) -> bool {
        self.slots.is_crowded(now)
    }

    /// The node has lately had no room for one more.
    pub fn lacks_room(&self) -> bool {
        self.slots.lacks_room()
    }

    async fn lease_by(
        self: &Arc<Self>,
        worker: usize,
        deadline: Instant,
        wanted: Wanted,
        mut had: Option<Taken>,
    ) -> Result<Lease, LeaseError> {
        loop {
            let now = Instant::now();
            let grant = match had.take().unwrap_or_else(|| self.slots.take(worker, now, wanted)) {
                Taken::Now(grant) => grant,
                Taken::Wait(place) => match self.wait(place, now, deadline).await? {
                    Some(grant) => grant,
                    None => continue,
                },
                Taken::NoRoom => {
                    let said = self.no_room.lock().as_ref().and_then(ConnectError::repeated);
                    return Err(said.map_or_else(|| self.slots.crowd().into(), LeaseError::Connect));
                }
                Taken::Never => return Err(LeaseError::Forgotten),
            };
            match grant {
                Grant::Connection(connection) => {
                    if let Some(lease) = self.lend(connection, worker) {
                        return Ok(lease);
                    }
                }
                Grant::Open(slot) => {
                    let opened = self.open(slot, worker).await;
                    return opened
                        .map_err(|error| if self.slots.is_forgotten() { LeaseError::Forgotten } else { error });
                }
            }
        }
    }

    /// What is granted to a place in the queue by the deadline; None: the place is gone. Cancel-safe: a grant that is sent
    /// and not received gives itself back.
    async fn wait(&self, mut place: Place, begun: Instant, deadline: Instant) -> Result<Option<Grant>, Crowd> {
        let reserve = {
            let settings = self.settings.load();
            (settings.reserve_size > 0).then(|| begun + settings.reserve_timeout).filter(|moment| *moment < deadline)
        };
        if let Some(moment) = reserve {
            match timers::timeout_at(moment.into(), &mut place).await {
                Ok(granted) => return Ok(granted),
                Err(_) => self.slots.serve_or_make_room(Instant::now()),
            }
        }
        match timers::timeout_at(deadline.into(), place).await {
            Ok(granted) => Ok(granted),
            Err(_) => Err(self.slots.crowd()),
        }
    }

    /// Opens one connection that nobody asks for yet, if there are fewer than are to be kept open. Answers whether it did.
    pub async fn open_ahead(self: &Arc<Self>) -> Result<bool, LeaseError> {
        let now = Instant::now();
        if self.awaits_replay() || self.ahead_again.lock().is_some_and(|moment| now < moment) {
            return Ok(false);
        }
        let Some(slot) = self.slots.open_ahead(self.settings.load().min_size, now) else { return Ok(false) };
        match self.open(slot, NO_WORKER).await {
            Ok(lease) => {
                lease.give_back(Instant::now());
                Ok(true)
            }
            Err(error) => {
                *self.ahead_again.lock() = Some(Instant::now() + AHEAD_PAUSE);
                Err(error)
            }
        }
    }

    /// A node has refused the password that a connection was opened with. Whoever was refused for it has another: that counts
    /// from now on, unless somebody has taught the pool one meanwhile. Answers whether another attempt may succeed.
    pub fn relearn(&self, error: &ConnectError, own: Option<&Secret>) -> bool {
        let Some(own) = own.filter(|_| is_refusal(error)) else { return false };
        let is_same = |one: &Option<Secret>, other: &Secret| one.as_ref().is_some_and(|one| one.is_same(other));
        let mut password = self.password.lock();
        if let Some(refused) = &*self.refused.lock()
            && !is_same(&password, refused)
        {
            return true;
        }
        let is_another = !is_same(&password, own);
        if is_another {
            *password = Some(own.clone());
        }
        is_another
    }

    /// The node has denied the role a login: whether it has not done so before, or for another reason.
    pub fn is_denied_anew(&self, error: &ConnectError) -> bool {
        let (code, _) = error.denial();
        self.denial.lock().replace(code) != Some(code)
    }

    /// Connections are opened with this.
    #[cfg(test)]
    pub(super) fn proves(&self, secret: &Secret) -> bool {
        self.password.lock().as_ref().is_some_and(|password| password.is_same(secret))
    }

    /// Connections are opened with this from now on.
    pub(super) fn learn(&self, secret: &Secret) {
        *self.password.lock() = Some(secret.clone());
    }

    /// A connection of the pool's that has been granted; None: it is none any more.
    pub fn lend(self: &Arc<Self>, connection: Box<Connection>, worker: usize) -> Option<Lease> {
        Some(Lease::new(Self::ready(connection, worker)?, Arc::clone(self)))
    }

    /// An idle connection as it is lent to somebody on this worker; None: it is closed.
    fn ready(mut connection: Box<Connection>, worker: usize) -> Option<Box<Connection>> {
        // How old it is was looked at when it came back, and each second since.
        if connection.pass.about().is_outdated() || !connection.pass.is_sound() || !connection.is_quiet() {
            return None;
        }
        connection.adopt(worker).ok()
    }

    async fn open(self: &Arc<Self>, slot: Slot, worker: usize) -> Result<Lease, LeaseError> {
        let opening = Opening::begin(&self.openings);
        let opened = self.open_now(slot, worker).await;
        opening.ends(opened.is_ok());
        opened
    }

    async fn open_now(self: &Arc<Self>, slot: Slot, worker: usize) -> Result<Lease, LeaseError> {
        let opened = Instant::now();
        let fenced = self.gate.generation();
        let era = Era::now(&self.newest);
        let deadline = tokio::time::Instant::now() + self.settings.load().connect_timeout;
        let target = Target {
            password: self.password.lock().clone(),
            salted_password: self.salted_password.lock().clone(),
            ..self.target.clone()
        };
        let login = connect::connect(&target, deadline)
            .await
            .inspect_err(|error| self.failed(error, target.password.as_ref()))?;
        if login.salted_password.is_some() {
            self.salted_password.lock().clone_from(&login.salted_password);
        }
        *self.denial.lock() = None;
        let is_fenced = || self.gate.is_fenced_since(fenced);
        let login = login.at_home(self.gate.strays(), is_fenced, deadline).await;
        let login = login.inspect_err(|error| self.say_not_opened(error))?.ok_or(LeaseError::Fenced)?;
        let second_handle = login.stream.second_handle().map_err(ConnectError::Io)?;
        let reached = self.target.endpoint.reached_by(&login.stream);
        let cancel_target = CancelTarget::new(reached, login.cancel_key);
        let about = About::new(&self.target, Some(&login.stream), &cancel_target, Some(era));
        let pass = self.gate.enter(second_handle, fenced, about).ok_or(LeaseError::Fenced)?;
        let now = Instant::now();
        // Not all at once: connections opened together would otherwise end together.
        let jitter = self.settings.load().lifetime.mul_f64(rand::rng().random_range(0.0..0.1));
        let connection = Connection {
            stream: login.stream,
            known: Known::of(cancel_target.process(), &login.parameters),
            node: self.node,
            parameters: login.parameters.into(),
            cancel_target,
            pass,
            opened,
            ages_from: now.checked_sub(jitter).unwrap_or(now),
            returned: now,
            worker,
            slot,
            awaits_answer: false,
        };
        Ok(Lease::new(Box::new(connection), Arc::clone(self)))
    }

    /// It could not be opened with this password; its slot is still its own.
    fn failed(&self, error: &ConnectError, password: Option<&Secret>) {
        if is_refusal(error) {
            *self.refused.lock() = password.cloned();
        }
        if error.class() == ConnectClass::Full {
            *self.no_room.lock() = error.repeated();
            self.slots.no_room(Instant::now());
        }
        self.say_not_opened(error);
    }

    /// Logs why a connection could not be opened, now and then.
    fn say_not_opened(&self, error: &ConnectError) {
        let (class, now) = (error.class(), Instant::now());
        // Names that clients have chosen, and words that may quote them: as strings they begin no line of the log.
        let error = in_full(error);
        let said = match class {
            // Whoever is told of it says it: see [`Self::is_denied_anew`].
            ConnectClass::Denied => None,
            ConnectClass::Full | ConnectClass::Short | ConnectClass::Broken => self.troubles.lock().meet(&error, now),
            ConnectClass::Down
            | ConnectClass::Unresolved
            | ConnectClass::NotLookedUp
            | ConnectClass::Silent
            | ConnectClass::Lost
            | ConnectClass::Starting => self.gate.meet_trouble(&error, now),
        };
        let Some(times) = said else { return };
        let (node, database, user) = self.names();
        match class {
            ConnectClass::Full | ConnectClass::Short => {
                warn!(node, database, user, error, times, "there is no room for one more connection to the node");
            }
            _ => warn!(node, database, user, error, times, "a server connection could not be opened"),
        }
    }

    /// Logs that a statement has waited for a connection in vain.
    #[cold]
    pub fn say_crowded(&self, crowd: Crowd) {
        let crowd = crowd.to_string();
        let said = self.crowds.lock().meet(&crowd, Instant::now());
        if let Some(times) = said {
            let (node, database, user) = self.names();
            warn!(node, database, user, crowd, times, "no server connection was free for a statement in time");
        }
    }

    /// A client has waited for so long, and does no more: said if others would have to wait, too.
    #[cold]
    pub fn say_if_crowded(&self, now: Instant, waited: Duration) {
        if !self.is_crowded(now) {
            return;
        }
        let crowd = self.slots.crowd().to_string();
        let said = self.crowds.lock().meet(&format!("given up: {crowd}"), now);
        if let Some(times) = said {
            let (node, database, user) = self.names();
            warn!(node, database, user, crowd, ?waited, times, "a client gave up its wait for a server connection");
        }
    }

    /// Node, database and role, for the log.
    fn names(&self) -> (&str, &str, &str) {
        (self.address(), &self.target.database, &self.target.user)
    }

    /// A connection comes back, clean; one on which an answer to us is still on its way, because whoever waited for it was
    /// ended, is closed.
    pub(super) fn put(&self, mut connection: Box<Connection>, now: Instant) {
        if connection.awaits_answer || self.is_too_old(&connection, now) || !connection.pass.is_sound() {
            return;
        }
        connection.returned = now;
        self.slots.put(connection);
    }

    fn is_too_old(&self, connection: &Connection, now: Instant) -> bool {
        connection.pass.about().is_outdated()
            || now.saturating_duration_since(connection.ages_from).as_millis()
                > u128::from(self.lifetime.load(Ordering::Relaxed))
    }

    /// Closes idle connections that are too old, idle for too long, or closed by their node.
    /// While a client is there for it, so many are kept as the settings say.
    pub fn reap(&self, now: Instant, is_in_use: bool) -> usize {
        let settings = self.settings.load();
        let least = if is_in_use { settings.min_size.min(settings.size) } else { 0 };
        let is_over = |connection: &Connection| self.is_too_old(connection, now) || !connection.pass.is_sound();
        self.slots.reap(now, settings.idle_timeout, least, is_over)
    }

    /// It has nothing, and nobody waits for anything; see [`Slots::is_unused`].
    pub(super) fn is_unused(&self, now: Instant) -> bool {
        self.slots.is_unused(now)
    }

    /// For how long that has been so, as far as this has been asked, and no connection been tried; None: it is in use.
    pub(super) fn unused_for(&self, now: Instant) -> Option<Duration> {
        let begun = self.openings.begun.load(Ordering::Relaxed);
        let is_unused = self.is_unused(now);
        let mut vacancy = self.vacancy.lock();
        let since = match *vacancy {
            Some((since, openings)) if is_unused && openings == begun => since,
            _ => now,
        };
        *vacancy = is_unused.then_some((since, begun));
        is_unused.then(|| now.saturating_duration_since(since))
    }

    /// Closes all idle connections, and takes none back.
    pub fn retire(&self) {
        self.slots.retire();
    }

    /// Lends nothing any more: idle connections are closed now, others when they come back, and who waits is sent away.
    pub(super) fn forget(&self) {
        self.begin_anew();
        self.slots.forget();
    }

    /// What there is now.
    pub fn counts(&self) -> Counts {
        Counts { openings: self.openings(), ..self.slots.counts() }
    }

    /// Connections that were opened.
    fn openings(&self) -> Openings {
        let [begun, done, failed] = [&self.openings.begun, &self.openings.done, &self.openings.failed]
            .map(|count| count.load(Ordering::Relaxed));
        let under_way = usize::try_from(begun.saturating_sub(done + failed)).unwrap_or(usize::MAX);
        Openings { under_way, done, failed }
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

/// With what has led to it.
fn in_full(error: &ConnectError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::Endpoint;
    use crate::topology::{PostmasterStart, SystemId};

    const SOON: Duration = Duration::from_secs(10);

    /// AuthenticationOk, BackendKeyData, ReadyForQuery.
    const COME_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

    /// What comes next is let in.
    async fn lets_in(node: &TcpListener) -> TcpStream {
        let (mut stream, _) = node.accept().await.unwrap();
        let size = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
        stream.read_exact(&mut vec![0; size - 4]).await.unwrap();
        stream.write_all(COME_IN).await.unwrap();
        stream
    }

    fn pool(gate: &Arc<Gate>, node: SocketAddr) -> Arc<Pool> {
        let target = Target {
            endpoint: Endpoint::plain(node.to_string().into()),
            user: "u".into(),
            database: "d".into(),
            password: None,
            salted_password: None,
            parameters: Vec::new(),
        };
        let settings = PoolSettings {
            size: 1,
            min_size: 0,
            reserve_size: 0,
            reserve_timeout: Duration::ZERO,
            of_database: None,
            of_user: None,
            workers: 1,
            connect_timeout: SOON,
            idle_timeout: SOON * 10,
            lifetime: SOON * 10,
        };
        Pool::new(NodeId(0), target, Arc::clone(gate), settings, Vec::new())
    }

    #[tokio::test]
    async fn what_keeps_connections_of_a_node_from_being_opened_is_said_once_for_all_its_pools() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gate: Arc<Gate> = Arc::default();
        let pool = pool(&gate, node.local_addr().unwrap());
        let hangs_up = async { drop(node.accept().await.unwrap()) };
        let (refused, ()) = tokio::join!(pool.lease(0, Instant::now() + SOON), hangs_up);
        let Some(LeaseError::Connect(error)) = refused.err() else { panic!("it is lent") };
        assert_eq!(error.class(), ConnectClass::Lost, "{error}");
        assert_eq!(gate.meet_trouble(&in_full(&error), Instant::now()), None, "another pool meets what has been said");
        assert_eq!(gate.meet_trouble("no answer in time", Instant::now()), Some(1));
    }

    #[tokio::test]
    async fn a_connection_that_leads_elsewhere_than_the_monitors_own_is_nobodys_before_the_node_is_met_there() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (here, elsewhere) = (node.local_addr().unwrap(), "192.0.2.1:5432".parse().unwrap());
        let gate: Arc<Gate> = Arc::default();
        let pool = pool(&gate, here);
        let deadline = Instant::now() + SOON;
        let [former, other] = [1, 2].map(|start| (SystemId(1), PostmasterStart(start)));
        gate.found_at(Some(elsewhere), former);
        // The name leads to the former server again.
        let look = async {
            let stream = lets_in(&node).await;
            while gate.strays().asks() == 0 {
                timers::sleep(Duration::from_millis(1)).await;
            }
            gate.found_at(Some(elsewhere), former);
            stream
        };
        let (refused, _) = tokio::join!(pool.lease(0, deadline), look);
        let Some(LeaseError::Connect(error)) = refused.err() else { panic!("it is lent") };
        assert_eq!(error.class(), ConnectClass::NotLookedUp, "{error}");
        assert_eq!((pool.counts().busy, gate.connections().len()), (0, 0));
        // It has moved.
        let asked = async { tokio::join!(pool.lease(0, deadline), lets_in(&node)) };
        tokio::pin!(asked);
        assert!(timers::timeout(Duration::from_millis(100), &mut asked).await.is_err());
        gate.found_at(Some(here), other);
        let (lease, _stream) = asked.await;
        lease.unwrap().give_back(Instant::now());
        Arc::clone(&pool).try_lease(0).unwrap().give_back(Instant::now());
        // And back, without a connection of the monitor's that goes on to tell.
        gate.found_at(Some(elsewhere), former);
        assert!(Arc::clone(&pool).try_lease(0).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_is_granted_to_one_who_leaves_is_not_closed() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = pool(&Arc::default(), node.local_addr().unwrap());
        let (lease, _stream) = tokio::join!(pool.lease(0, Instant::now() + SOON), lets_in(&node));
        let number = |lease: &mut Lease| lease.connection().cancel_target.number();
        let mut lease = lease.unwrap();
        let first = number(&mut lease);
        let mut waits = std::pin::pin!(pool.lease(0, Instant::now() + SOON));
        let mut places = Vec::new();
        for _ in 0..2 {
            let is_waiting = timers::timeout(Duration::from_millis(10), &mut waits).await.is_err();
            assert!(is_waiting);
            places.push(pool.plain_place(Instant::now()).unwrap());
        }
        // In line are the one who waits, and two whose places are given up with what they are granted.
        lease.give_back(Instant::now());
        let mut lease = waits.await.unwrap();
        assert_eq!(number(&mut lease), first);
        lease.give_back(Instant::now());
        drop(places);
        let mut lease = Arc::clone(&pool).try_lease(0).expect("it is idle again");
        assert_eq!((number(&mut lease), pool.counts().total()), (first, 1));
        assert!(pool.plain_place(Instant::now()).is_some(), "all there may be are in use");
    }
}
