//! The running program: a checked configuration in, clients served until a signal ends it. Knows all parts.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tracing::{debug, error, info, warn};

use crate::admin::console::{Desk, Reload, Shutdown};
use crate::admin::{self, AdminState};
use crate::backend::PoolKey;
use crate::backend::cancel::CancelKeys;
use crate::catalogs::Catalogs;
use crate::client::{Fleet, Server};
use crate::config::{self, Config, Source};
use crate::drain::{self, Stops};
use crate::handover::{Others, Predecessor, Sockets, Stop, Successor};
use crate::metrics::{
    CatalogCounts, CatalogPicture, Limit, Metrics, PoolCounts, PoolName, Refusal, Scrape, WorkerMetrics,
};
use crate::net::{descriptors, listener, timers};
use crate::reload::{InForce, OnSwap, SetLevel, Standing};
use crate::routing::Reason;
use crate::systemd;

/// Why the program could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operating system refuses a thread, a signal or a runtime.
    #[error("cannot start")]
    Start(#[from] io::Error),
    /// An address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The process that has started this one hands nothing over.
    #[error("cannot take over from the process that has started this one")]
    TakeOver(#[source] io::Error),
    /// A socket in the file system cannot be listened at.
    #[error("cannot listen at {}", path.display())]
    ListenAt {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Server connections that are over are looked for this often.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// Databases that are gone are looked for this often.
const MISSING_INTERVAL: Duration = Duration::from_secs(5);

/// A file descriptor or buffer that is missing now may be there again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until a signal ends it.
pub fn run(config: Config, source: Source) -> Result<(), Failure> {
    let set_level = start_log(&config.log);
    descriptors::allow_for(config.max_clients);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, source, set_level))
}

/// Starts the log; what is returned changes its level.
fn start_log(log: &config::Log) -> SetLevel {
    use tracing_subscriber::prelude::*;
    use tracing_subscriber::{EnvFilter, fmt, registry, reload};
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&log.level));
    let lines = fmt::layer().with_writer(io::stderr).with_target(false).with_ansi(io::stderr().is_terminal());
    let lines = if log.json { lines.json().boxed() } else { lines.boxed() };
    // A log that is already there (in tests) stays.
    let _ = registry().with(filter).with(lines).try_init();
    Box::new(move |level| drop(handle.reload(EnvFilter::new(level))))
}

/// Those that are heeded, from the first moment on.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    /// A successor is to take over.
    restart: Signal,
    /// With PgBouncer it pauses. Here it does not, nor does it end the process.
    pause: Signal,
}

impl Signals {
    fn caught() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            restart: signal(SignalKind::user_defined2())?,
            pause: signal(SignalKind::user_defined1())?,
        })
    }
}

async fn serve(config: Config, source: Source, set_level: SetLevel) -> Result<(), Failure> {
    let Signals { hangup, interrupt, terminate, restart, pause } = Signals::caught()?;
    let metrics = Arc::new(Metrics::new(config.workers, Reason::CODES));
    let mut predecessor = Predecessor::find().map_err(Failure::TakeOver)?;
    let doors = Doors::open(&config, &mut predecessor)?;
    let sockets = doors.sockets()?;
    let (workers, has_outbox, path) = (config.workers, config.io_uring, source.0.clone());
    let standing = Standing::start(config, source.0, Catalogs::start()?);
    let in_force = Arc::clone(standing.in_force());
    let shown = Arc::clone(&in_force);
    metrics.add_source(move |scrape| show(&shown.load(), scrape));

    await_catalogs(&in_force.load_full()).await;

    let fleet = Arc::new(Fleet::start(workers, has_outbox, &in_force.load_full(), &metrics)?);
    let state = Arc::new(AdminState::new(Arc::clone(&metrics), &in_force.load()));
    let keys = Arc::clone(&in_force.load().cancel_keys);
    if predecessor.is_some() {
        doubt_writes(&in_force.load());
    }
    let entrance = doors.entrance(&fleet, &in_force, &state, &metrics);
    let bond = match predecessor {
        Some(predecessor) => Some(predecessor.serves(&keys).await.map_err(Failure::TakeOver)?),
        None => None,
    };
    let others = Arc::new(Others::new(bond));
    tokio::spawn(reap(Arc::clone(&in_force), Arc::clone(&fleet), Arc::clone(&others)));
    let (reloads, ordered_reloads) = unbounded_channel();
    let (stops, ordered_stops) = unbounded_channel();
    let orders = (reloads, stops.clone());
    let desk = Desk::new(Arc::clone(&in_force), Arc::clone(&fleet), Arc::clone(standing.settings()), orders);
    standing.open_console(desk.console());
    tokio::spawn(async move { desk.keep_averages().await });
    tokio::spawn(say_what_is_not_heeded(pause));
    tokio::spawn(keep_up((ordered_reloads, hangup), standing, Arc::clone(&fleet), Arc::clone(&state), set_level));
    let watchdog = tokio::spawn(systemd::keep_watchdog(metrics)).abort_handle();
    let (handed_over, has_handed_over) = oneshot::channel();
    let restart = Restart { ordered: restart, sockets, entrance, watchdog, in_force: Arc::clone(&in_force), keys };
    let stop = move |how| {
        // Who stops is there for as long as the program runs.
        let _ = stops.send(how);
    };
    tokio::spawn(restart.when_ordered(Arc::clone(&others), handed_over, stop));
    info!(config = %path.display(), version = env!("CARGO_PKG_VERSION"), workers, "trunkline serves");
    systemd::ready();

    let stops = Stops { ordered: ordered_stops, interrupt, terminate };
    drain::until_stopped(&in_force, &fleet, &state, stops, (&others, has_handed_over)).await;
    in_force.load().pools.retire();
    info!("trunkline stops");
    Ok(())
}

/// Who comes in the first moment waits in the listener's queue: without the catalogs, its reads would go to the primary.
async fn await_catalogs(server: &Server) {
    /// A database that takes longer is served without its catalogs until they are there.
    const LONGEST: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    let all_tried = || server.databases.values().all(|database| database.catalog.was_tried());
    while !all_tried() && begun.elapsed() < LONGEST {
        timers::sleep(Duration::from_millis(5)).await;
    }
}

/// Where others come in, each by its name in a [handover](crate::handover).
struct Doors {
    clients: Vec<(String, TcpListener)>,
    local: Vec<(String, UnixListener)>,
    admin: Option<(String, TcpListener)>,
}

/// What goes on at the doors.
struct Entrance {
    tasks: Vec<AbortHandle>,
    /// Closes that of operators.
    admin: oneshot::Sender<()>,
}

impl Doors {
    /// Those of the configuration: the predecessor's where it has them.
    fn open(config: &Config, predecessor: &mut Option<Predecessor>) -> Result<Self, Failure> {
        let mut listen = |address: SocketAddr, name: String| {
            let opened = match predecessor.as_mut().and_then(|predecessor| predecessor.take(&name)) {
                Some(socket) => listener::inherited(socket),
                None => listener::listen(address),
            };
            opened.map(|listener| (name, listener)).map_err(|source| Failure::Listen { address, source })
        };
        let clients = config.listen.iter().map(|address| listen(*address, format!("clients {address}")));
        let clients = clients.collect::<Result<_, _>>()?;
        let admin = config.admin_listen.map(|address| listen(address, format!("admin {address}"))).transpose()?;
        let mut local = Vec::new();
        for path in &config.listen_sockets {
            let name = format!("clients {}", path.display());
            let opened = match predecessor.as_mut().and_then(|predecessor| predecessor.take(&name)) {
                Some(socket) => listener::inherited_local(socket),
                None => listener::listen_at(path),
            };
            local.push((name, opened.map_err(|source| Failure::ListenAt { path: path.clone(), source })?));
        }
        Ok(Self { clients, local, admin })
    }

    /// For a successor.
    fn sockets(&self) -> io::Result<Sockets> {
        let tcp = self.clients.iter().chain(&self.admin).map(|(name, listener)| (name, listener.as_fd()));
        let local = self.local.iter().map(|(name, listener)| (name, listener.as_fd()));
        tcp.chain(local).map(|(name, socket)| Ok((name.clone(), socket.try_clone_to_owned()?))).collect()
    }

    /// Lets others in.
    fn entrance(self, fleet: &Arc<Fleet>, in_force: &InForce, state: &Arc<AdminState>, metrics: &Metrics) -> Entrance {
        let (admin, is_closed) = oneshot::channel();
        if let Some((_, listener)) = self.admin {
            tokio::spawn(admin::serve(listener, Arc::clone(state), async { drop(is_closed.await) }));
        }
        let mut tasks = Vec::new();
        for (_, listener) in self.clients {
            let served = accept(listener, Arc::clone(fleet), Arc::clone(in_force), metrics.worker(0));
            tasks.push(tokio::spawn(served).abort_handle());
        }
        for (_, listener) in self.local {
            let served = accept_local(listener, Arc::clone(fleet), Arc::clone(in_force), metrics.worker(0));
            tasks.push(tokio::spawn(served).abort_handle());
        }
        Entrance { tasks, admin }
    }
}

/// An online restart.
struct Restart {
    ordered: Signal,
    sockets: Sockets,
    entrance: Entrance,
    watchdog: AbortHandle,
    in_force: InForce,
    keys: Arc<CancelKeys>,
}

impl Restart {
    /// SIGUSR2 starts a successor. Once that serves, this process takes nobody any more. If it never does, nothing has
    /// happened. Clients may come to both meanwhile.
    async fn when_ordered(mut self, others: Arc<Others>, handed_over: oneshot::Sender<()>, stop: impl Fn(Shutdown)) {
        let mut successor = loop {
            if self.ordered.recv().await.is_none() {
                return;
            }
            info!("a successor is started");
            others.may_succeed(true);
            doubt_writes(&self.in_force.load());
            match self.succeeded().await {
                Ok(successor) => break successor,
                Err(error) => error!(%error, "there is no successor: all goes on here"),
            }
            others.may_succeed(false);
        };
        let process = successor.process();
        systemd::is_succeeded_by(process);
        self.watchdog.abort();
        self.entrance.tasks.iter().for_each(AbortHandle::abort);
        // Whoever asks just now is answered.
        let _ = self.entrance.admin.send(());
        drop(self.sockets);
        successor.goes_on_alone().await;
        info!(successor = process, "the successor serves: this process goes on for the clients that it has");
        let _ = handed_over.send(());
        let stop = |how| {
            stop(match how {
                Stop::AfterTransactions => Shutdown::AfterTransactions,
                Stop::Now => Shutdown::Now,
            });
        };
        successor.serve(&self.keys, stop).await;
    }

    async fn succeeded(&self) -> io::Result<Successor> {
        let mut successor = Successor::start(&self.sockets)?;
        successor.until_it_serves().await?;
        Ok(successor)
    }
}

/// Another process may write for its clients, at any time.
fn doubt_writes(server: &Server) {
    let now = Instant::now();
    server.clusters.iter().for_each(|cluster| cluster.last_write.lost(now));
}

/// What only the parts in force know of themselves.
fn show(server: &Server, scrape: &mut Scrape) {
    for cluster in &server.clusters {
        scrape.view(&cluster.view.load());
        (cluster.show_probes)(scrape);
    }
    for (name, database) in &server.databases {
        scrape.paused(name, database.pause.is_paused());
        let known = database.catalog.look();
        let picture = CatalogPicture {
            is_current: known.picture().is_some(),
            objects: known.last().map_or(0, |picture| picture.objects()),
            bytes: known.last().map_or(0, |picture| picture.bytes()),
        };
        let upkeep = database.catalog.upkeep();
        let counts = CatalogCounts {
            loads: upkeep.loads,
            confirmations: upkeep.confirmations,
            failures: upkeep.failures,
            load_time: upkeep.load_time,
            age: upkeep.checked.map(|checked| checked.elapsed()),
        };
        scrape.catalog(name, picture, counts);
    }
    for rule in server.rules.rules() {
        scrape.rule_matches(&rule.name, rule.counts.matched());
        scrape.rule_would_change(&rule.name, rule.counts.would_change());
    }
    // Another pool of the same database and user is of no configuration any more: one set of labels stands for one.
    for (key, counts) in server.pools.counts().into_iter().filter(|(key, _)| server.has_pool(key)) {
        let Some(cluster) = server.clusters.iter().find(|cluster| cluster.number == key.cluster) else { continue };
        let view = cluster.view.load();
        let Some(node) = view.node(key.node) else { continue };
        let name = PoolName { cluster: &cluster.name, node: &node.address, database: &key.database, user: &key.user };
        scrape.pool(
            name,
            PoolCounts {
                idle: counts.idle,
                leased: counts.busy.saturating_sub(counts.openings.under_way),
                opening: counts.openings.under_way,
                waiting: counts.waiting,
                size: counts.size,
                opened: counts.openings.done,
                open_failures: counts.openings.failed,
            },
        );
    }
}

async fn accept(listener: TcpListener, fleet: Arc<Fleet>, in_force: InForce, counts: Arc<WorkerMetrics>) {
    loop {
        let accepted = listener.accept().await.and_then(|(client, _)| {
            // One that is gone already takes no options; whoever serves it finds out.
            let _ = listener::set_options(&client);
            client.into_std()
        });
        match accepted {
            Ok(client) if has_room(&fleet, &in_force) => fleet.dispatch(client.into()),
            Ok(client) => refuse(&client, &counts),
            Err(error) => could_not_accept(&error, &counts).await,
        }
    }
}

async fn accept_local(listener: UnixListener, fleet: Arc<Fleet>, in_force: InForce, counts: Arc<WorkerMetrics>) {
    loop {
        match listener.accept().await.and_then(|(client, _)| client.into_std()) {
            Ok(client) if has_room(&fleet, &in_force) => fleet.dispatch(client.into()),
            Ok(client) => refuse(&client, &counts),
            Err(error) => could_not_accept(&error, &counts).await,
        }
    }
}

/// Not for want of memory or file descriptors only: one that has left again before it was accepted is an error, too, and
/// nobody is turned away then.
async fn could_not_accept(error: &io::Error, counts: &WorkerMetrics) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    counts.client_refused(Refusal::System);
    warn!(%error, "a client could not be accepted");
    timers::sleep(ACCEPT_PAUSE).await;
}

/// Whether there is room for one more connection. Beside the clients, there must be some for those who come to cancel, to
/// the console, or to be told that there are too many clients.
fn has_room(fleet: &Fleet, in_force: &InForce) -> bool {
    /// As few as these cost nothing, and a flood is stopped by it.
    const BESIDE: usize = 100;
    fleet.clients() < in_force.load().max_clients.saturating_add(BESIDE)
}

/// A connection too many is told so at once, before anything else.
fn refuse(mut client: impl io::Write, counts: &WorkerMetrics) {
    counts.client_refused(Refusal::TooManyClients);
    counts.limit_met(Limit::Clients);
    counts.error_sent("53300");
    use crate::wire::error_response::{Severity, put_error};
    let mut out = bytes::BytesMut::new();
    put_error(
        &mut out,
        Severity::Fatal,
        crate::wire::SqlState::TOO_MANY_CONNECTIONS,
        "sorry, too many clients already",
        None,
    );
    // The socket does not block: a client whose buffer is full on the first byte is no loss.
    let _ = client.write(&out);
}

async fn reap(in_force: InForce, fleet: Arc<Fleet>, others: Arc<Others>) {
    let mut interval = timers::interval(REAP_INTERVAL);
    loop {
        interval.tick().await;
        let (server, now) = (in_force.load_full(), Instant::now());
        fleet.heed_limits(now);
        if others.are_there() {
            doubt_writes(&server);
        }
        let has_client = |key: &PoolKey| server.has_pool(key) && server.census.has(&key.database, &key.user);
        server.pools.reap(now, has_client);
        // Those of the configuration keep what they have counted.
        let is_of_configuration = |key: &PoolKey| server.databases.contains_key(&key.database) && server.has_pool(key);
        let is_to_stay = |key: &PoolKey| is_of_configuration(key) || has_client(key);
        server.pools.forget_unused(now, is_to_stay);
        if server.pools.plan().default.min_size > 0 {
            open_ahead(&server);
        }
    }
}

/// Opens a connection of each pool that has fewer than are to be kept, where a client is there for it, its node is in use,
/// and nobody holds the node or has paused the database.
fn open_ahead(server: &Server) {
    let now = Instant::now();
    let is_meant = |key: &PoolKey| {
        let cluster = server.clusters.iter().find(|cluster| cluster.number == key.cluster);
        let is_in_use = cluster.is_some_and(|cluster| {
            let view = cluster.view.load();
            let is_of_use = view.primary == Some(key.node) || view.node(key.node).is_some_and(|node| node.takes_reads);
            is_of_use && cluster.gate(key.node).is_some_and(|gate| gate.held(now).is_none())
        });
        let is_paused = || server.database(&key.database).is_none_or(|database| database.pause.is_paused());
        is_in_use && server.has_pool(key) && server.census.has(&key.database, &key.user) && !is_paused()
    };
    for pool in server.pools.select(is_meant) {
        tokio::spawn(async move {
            if let Err(error) = pool.open_ahead().await {
                debug!(node = %pool.address(), error = error.to_string(), "a connection could not be opened ahead");
            }
        });
    }
}

/// A signal that PgBouncer knows and Trunkline does not: whoever sends it learns it, and no client does.
async fn say_what_is_not_heeded(mut pause: Signal) {
    while pause.recv().await.is_some() {
        warn!("SIGUSR1 is not heeded: say PAUSE at the console");
    }
}

/// SIGHUP and the console's RELOAD read the configuration anew. What is wrong with it is logged and answered, and the old
/// one stays in force.
async fn keep_up(
    (mut ordered, mut hangup): (UnboundedReceiver<Reload>, Signal),
    mut standing: Standing,
    fleet: Arc<Fleet>,
    state: Arc<AdminState>,
    set_level: SetLevel,
) {
    let on_swap: OnSwap = Box::new(move |server| state.show(server));
    let mut look_for_missing = timers::interval(MISSING_INTERVAL);
    loop {
        // All are cancel-safe: what has not been received stays.
        let told = tokio::select! {
            _ = hangup.recv() => oneshot::channel().0,
            Some(told) = ordered.recv() => told,
            Some(name) = standing.newcomer() => {
                standing.adopt(name, &fleet, &on_swap).await;
                continue;
            }
            _ = look_for_missing.tick() => {
                standing.disown_missing(&fleet, &on_swap).await;
                continue;
            }
        };
        systemd::reloading();
        let reloaded = standing.reload(&fleet, &set_level, &on_swap).await;
        systemd::ready();
        if let Err(problems) = &reloaded {
            error!(%problems, "the configuration is wrong: the old one stays in force");
        }
        // Whoever has asked may have gone.
        let _ = told.send(reloaded.map(|done| done.need_restart).map_err(|problems| problems.to_string()));
    }
}
