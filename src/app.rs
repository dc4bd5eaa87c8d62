//! The running program: a checked configuration in, clients served until a signal ends it. Knows all parts.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::admin::AdminState;
use crate::admin::console::{Desk, Reload};
use crate::backend::PoolKey;
use crate::catalogs::Catalogs;
use crate::client::{self, Fleet, Server};
use crate::config::{self, Config, Source};
use crate::drain::{self, Stops};
use crate::entrance::restart::{Restart, doubt_writes, keep_doubting_writes};
use crate::entrance::{Closed, Doors, House};
use crate::handover::{Others, Predecessor, Stop};
use crate::metrics::{CatalogCounts, CatalogPicture, Metrics, PoolCounts, PoolName, Scrape};
use crate::net::{descriptors, timers};
use crate::reload::{InForce, OnSwap, Reloaded, SetLevel, Standing};
use crate::routing::Reason;
use crate::systemd;

/// Why the program could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The operating system refuses a thread, a signal or a runtime.
    #[error("cannot start")]
    Start(#[from] io::Error),
    /// Clients or operators cannot come in.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The process that has started this one hands nothing over.
    #[error("cannot take over from the process that has started this one")]
    TakeOver(#[source] io::Error),
    /// The process that has started this one serves better than this could.
    #[error("no node of cluster {0} is seen to be of use: what serves it already is not to end")]
    Blind(Arc<str>),
    /// Each thread that serves clients has ended by a fault of ours.
    #[error("no worker thread is left: nobody can be served")]
    NoWorkers,
    /// The process that has taken over from this one has died while this one was told to stop.
    #[error("the process that had taken over has died: nobody serves any more")]
    Orphaned,
}

/// Server connections that are over are looked for this often.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// Pools of users that stand in no configuration keep what they have counted for so long when nobody needs them any more: for
/// whoever asks what has been counted in the last minutes. There may be ever new ones.
const COUNTS_STAY: Duration = Duration::from_secs(60 * 60);

/// Databases that are gone are looked for this often.
const MISSING_INTERVAL: Duration = Duration::from_secs(5);

/// Serves clients until a signal ends it.
pub fn run(config: Config, source: Source) -> Result<(), Failure> {
    let set_level = start_log(&config.log);
    descriptors::allow_for(config.max_clients, config.most_server_connections());
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
    /// As SIGINT, and as with PgBouncer: by itself it would write out the memory, with all that is secret in it.
    quit: Signal,
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
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
            restart: signal(SignalKind::user_defined2())?,
            pause: signal(SignalKind::user_defined1())?,
        })
    }
}

async fn serve(config: Config, source: Source, set_level: SetLevel) -> Result<(), Failure> {
    let Signals { hangup, interrupt, quit, terminate, restart, pause } = Signals::caught()?;
    let metrics = Arc::new(Metrics::new(config.workers, Reason::CODES));
    let mut predecessor = Predecessor::find().map_err(Failure::TakeOver)?;
    let doors = Doors::open(&config, &mut predecessor)?;
    let sockets = doors.sockets()?;
    let (workers, has_outbox, path) = (config.workers, config.io_uring, source.0.clone());
    let standing = Standing::start(config, source.0, Catalogs::start()?);
    let in_force = Arc::clone(standing.in_force());
    let shown = Arc::clone(&in_force);
    metrics.add_source(move |scrape| show(&shown.load(), scrape));

    let server = in_force.load_full();
    match &mut predecessor {
        Some(predecessor) => {
            await_nodes(&server).await?;
            await_catalogs(&server, NOBODY_WAITS).await;
            doubt_writes(&server);
            predecessor.is_asked_for(&server.cancel_keys);
        }
        None => await_catalogs(&server, ALL_WAIT).await,
    }

    let fleet = Arc::new(Fleet::start(workers, has_outbox, &server, &metrics)?);
    let state = Arc::new(AdminState::new(Arc::clone(&metrics), &server));
    let house = House {
        fleet: Arc::clone(&fleet),
        in_force: Arc::clone(&in_force),
        state: Arc::clone(&state),
        metrics: Arc::clone(&metrics),
    };
    let bond = match predecessor {
        Some(predecessor) => Some(predecessor.serves().await.map_err(Failure::TakeOver)?),
        None => None,
    };
    let others = Arc::new(Others::new(bond));
    let shown = Arc::clone(&others);
    metrics.add_source(move |scrape| scrape.predecessor(shown.have_predecessor()));
    let entrance = doors.entrance(&house);
    tokio::spawn(reap(Arc::clone(&in_force), Arc::clone(&fleet), Arc::clone(&others)));
    let (reloads, ordered_reloads) = unbounded_channel();
    let (stops, ordered_stops) = unbounded_channel();
    let orders = (reloads, stops.clone());
    let settings = Arc::clone(standing.settings());
    let desk = Desk::new(Arc::clone(&in_force), Arc::clone(&fleet), settings, Arc::clone(&others), orders);
    standing.open_console(desk.console());
    tokio::spawn(async move { desk.keep_averages().await });
    tokio::spawn(say_what_is_not_heeded(pause));
    tokio::spawn(keep_up((ordered_reloads, hangup), standing, Arc::clone(&fleet), Arc::clone(&state), set_level));
    let watchdog = tokio::spawn(systemd::keep_watchdog(metrics)).abort_handle();
    let (handed_over, is_handed_over) = watch::channel(false);
    let restart = Restart { ordered: restart, sockets, house, others: Arc::clone(&others), watchdog, handed_over };
    let stop = move |how| {
        // Who stops is there for as long as the program runs.
        let _ = stops.send(how);
    };
    tokio::spawn(restart.when_ordered(entrance, stop));
    info!(config = %path.display(), version = env!("CARGO_PKG_VERSION"), workers, "trunkline serves");
    systemd::ready();

    let stops = Stops { ordered: ordered_stops, interrupt, quit, terminate };
    let stopped = drain::until_stopped(&in_force, &fleet, &state, stops, (&others, is_handed_over));
    // Dropping either loses nothing: without workers there is nothing to wait for.
    let has_workers = tokio::select! {
        () = stopped => true,
        () = fleet.all_gone() => false,
    };
    in_force.load().pools.retire();
    info!("trunkline stops");
    if !has_workers {
        if others.have_taken_over() {
            // The predecessor lets nobody in again, and nobody else could tell it to stop.
            others.stop_predecessor(Stop::AfterTransactions);
        }
        return Err(Failure::NoWorkers);
    }
    if others.is_orphaned() { Err(Failure::Orphaned) } else { Ok(()) }
}

/// How long a database's catalogs may take where everybody waits for them; one that takes longer is served without.
const ALL_WAIT: Duration = Duration::from_secs(1);

/// The same where a predecessor serves meanwhile.
const NOBODY_WAITS: Duration = Duration::from_secs(20);

/// Who comes in the first moment waits in the listener's queue: without the catalogs, its reads would go to the primary.
async fn await_catalogs(server: &Server, longest: Duration) {
    let begun = Instant::now();
    let all_tried = || server.databases.values().all(|database| database.catalog.was_tried());
    while !all_tried() && begun.elapsed() < longest {
        timers::sleep(Duration::from_millis(5)).await;
    }
}

/// A successor serves once it sees what to serve with: by a configuration that is wrong it never does.
async fn await_nodes(server: &Server) -> Result<(), Failure> {
    let begun = Instant::now();
    let is_blind = |cluster: &&client::Cluster| !cluster.view.load().serves();
    while let Some(cluster) = server.clusters.iter().find(is_blind) {
        if begun.elapsed() > NOBODY_WAITS {
            return Err(Failure::Blind(Arc::clone(&cluster.name)));
        }
        timers::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What only the parts in force know of themselves.
fn show(server: &Server, scrape: &mut Scrape) {
    for certificate in &server.certificates {
        let shown_to = &certificate.shown_to;
        scrape.certificate(shown_to.code(), shown_to.cluster(), certificate.ends.seconds());
    }
    for cluster in &server.clusters {
        scrape.view(&cluster.view.load());
        (cluster.show_probes)(scrape);
    }
    for (name, database) in &server.databases {
        scrape.paused(name, database.pause.is_paused());
        scrape.disabled(name, database.pause.is_disabled());
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

async fn reap(in_force: InForce, fleet: Arc<Fleet>, others: Arc<Others>) {
    let mut interval = timers::interval(REAP_INTERVAL);
    let mut were_there = false;
    loop {
        interval.tick().await;
        let (server, now) = (in_force.load_full(), Instant::now());
        fleet.heed_limits(now);
        let are_there = others.are_there();
        match (std::mem::replace(&mut were_there, are_there), are_there) {
            (_, true) => keep_doubting_writes(&server),
            // Nobody has told what they have done last.
            (true, false) => doubt_writes(&server),
            (false, false) => {}
        }
        let has_client = |key: &PoolKey| server.has_pool(key) && server.census.has(&key.database, &key.user);
        server.pools.settle(|number| {
            let cluster = server.clusters.iter().find(|cluster| cluster.number == number);
            cluster.map(|cluster| cluster.view.load_full())
        });
        server.pools.reap(now, has_client);
        server.pools.forget_unused(now, |key| {
            let is_of_configuration = server.databases.contains_key(&key.database) && server.has_pool(key);
            match is_of_configuration {
                _ if has_client(key) => None,
                // Those of the configuration keep what they have counted.
                true if server.users.contains_key(&key.user) => None,
                true => Some(COUNTS_STAY),
                false => Some(Duration::ZERO),
            }
        });
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
    let shown = Arc::clone(&state);
    let on_swap: OnSwap = Box::new(move |server| shown.show(server));
    let mut look_for_missing = timers::interval(MISSING_INTERVAL);
    loop {
        // All are cancel-safe: what has not been received stays.
        let told = tokio::select! {
            _ = hangup.recv() => oneshot::channel().0,
            Some(told) = ordered.recv() => told,
            Some(names) = standing.newcomers() => {
                standing.adopt(names, &fleet, &on_swap).await;
                continue;
            }
            _ = look_for_missing.tick() => {
                standing.disown_missing(&fleet, &on_swap).await;
                continue;
            }
        };
        systemd::reloading();
        state.reloads.fetch_add(1, Ordering::Relaxed);
        let reloaded = standing.reload(&fleet, &set_level, &on_swap).await;
        systemd::ready();
        state.metrics.reload_ended(reloaded.is_ok());
        if let Err(problems) = &reloaded {
            error!(%problems, "the configuration is wrong: the old one stays in force");
        }
        // Whoever has asked may have gone.
        let _ = told.send(reloaded.map(Reloaded::remarks).map_err(|problems| problems.to_string()));
    }
}
