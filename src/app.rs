//! The running program: a checked configuration in, clients served until a signal ends it. Knows all parts.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::admin::{self, AdminState};
use crate::auth::{Secret, Verifier};
use crate::backend::{Gate, PoolSettings, Pools};
use crate::client::{self, Fleet, Server};
use crate::config::{self, Config, Source};
use crate::metrics::{Metrics, PoolCounts, PoolName};
use crate::monitor::{Monitor, MonitorHandle};
use crate::net::listener;
use crate::routing::Reason;
use crate::topology::{NodeState, Role, View};

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
}

/// Server connections that are over are looked for this often.
const REAP_INTERVAL: Duration = Duration::from_secs(1);

/// A file descriptor or buffer that is missing now may be there again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves clients until a signal ends it.
pub fn run(config: Config, source: Source) -> Result<(), Failure> {
    start_log(&config.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, source))
}

fn start_log(log: &config::Log) {
    let filter = tracing_subscriber::EnvFilter::new(&log.level);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A log that is already there (in tests) stays.
    let _ = if log.json { lines.json().try_init() } else { lines.try_init() };
}

async fn serve(config: Config, source: Source) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::new(config.workers, Reason::CODES));
    let pools = Pools::new(config.clusters.iter().map(|cluster| cluster.nodes.len()), pool_settings(&config));
    let start = |(index, cluster)| start_monitor(cluster, pools.gates(index).to_vec(), config.routing.max_lag);
    let monitors: Vec<Monitor> = config.clusters.iter().enumerate().map(start).collect();
    let handles: Vec<MonitorHandle> = monitors.iter().map(Monitor::handle).collect();
    let server = Arc::new(make_server(&config, &handles, pools));
    add_sources(&metrics, &config, &server, &handles);

    let mut listeners = Vec::new();
    for &address in &config.listen {
        listeners.push(listen(address)?);
    }
    let fleet = Arc::new(Fleet::start(config.workers, &server, &metrics)?);
    let views = handles.iter().map(|handle| Arc::clone(&handle.view)).collect();
    let state = Arc::new(AdminState { metrics: Arc::clone(&metrics), views, draining: false.into() });
    if let Some(address) = config.admin_listen {
        tokio::spawn(admin::serve(listen(address)?, Arc::clone(&state), std::future::pending()));
    }
    for listener in listeners {
        tokio::spawn(accept(listener, Arc::clone(&fleet), config.max_clients));
    }
    tokio::spawn(reap(Arc::clone(&server)));
    info!(config = %source.0.display(), version = env!("CARGO_PKG_VERSION"), workers = config.workers, "trunkline serves");

    until_stopped(&config, &fleet, &state).await?;
    server.pools.retire();
    info!("trunkline stops");
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    listener::listen(address).map_err(|source| Failure::Listen { address, source })
}

fn pool_settings(config: &Config) -> PoolSettings {
    PoolSettings {
        size: config.pool.size,
        workers: config.workers,
        connect_timeout: config.pool.connect_timeout,
        idle_timeout: config.pool.idle_timeout,
        lifetime: config.pool.lifetime,
    }
}

/// Watches a cluster. A node that has lost the primary's role is fenced before the view that says so is published; so
/// is one that is down, for what was asked of a frozen node would be waited for as long as it is frozen.
fn start_monitor(cluster: &config::Cluster, gates: Vec<Arc<Gate>>, max_lag: Duration) -> Monitor {
    let on_view = Box::new(move |old: &View, new: &View| {
        if old.epoch != new.epoch {
            info!(cluster = %new.cluster, epoch = new.epoch, primary = primary_address(new), "a new epoch begins");
        }
        for ((before, now), gate) in old.nodes.iter().zip(&new.nodes).zip(&gates) {
            gate.admit_writes(now.role == Role::Primary);
            // One that is stopping, while no other has its role, ends its sessions by itself and says how far they came.
            let says_goodbye = now.state == NodeState::Starting && new.primary.is_none();
            if gate.is_to_be_fenced() && now.role != Role::Primary && !says_goodbye {
                let closed = gate.sever();
                warn!(cluster = %new.cluster, node = %before.address, connections = closed, "node lost the primary's role and is fenced");
            } else if before.state != NodeState::Down && now.state == NodeState::Down {
                let closed = gate.sever();
                warn!(cluster = %new.cluster, node = %before.address, connections = closed, "node is down and its connections are closed");
            }
        }
    });
    Monitor::start(cluster, max_lag, on_view, &tokio::runtime::Handle::current())
}

fn primary_address(view: &View) -> &str {
    view.primary().map_or("none", |node| &node.address)
}

fn make_server(config: &Config, handles: &[MonitorHandle], pools: Pools) -> Server {
    let mock_secret = rand::random();
    let clusters = config.clusters.iter().zip(handles).map(|(cluster, handle)| make_cluster(cluster, handle)).collect();
    let databases = config.databases.iter().map(|database| {
        let entry = client::Database { cluster: database.cluster, server_name: Arc::clone(&database.server_name) };
        (Arc::clone(&database.name), entry)
    });
    let users = config.users.iter().map(|user| (Arc::clone(&user.name), make_user(user, &mock_secret)));
    Server {
        clusters,
        databases: databases.collect(),
        users: users.collect(),
        mock_secret,
        pools,
        cancel_keys: Default::default(),
        welcomes: Default::default(),
        rules: Arc::clone(&config.routing.rules),
        reads: config.routing.reads,
        consistency: config.routing.consistency,
        freshness_wait: config.routing.freshness_wait,
        hold: config.failover.hold,
        queue_timeout: config.pool.queue_timeout,
        mode: config.pool.mode,
        prepared_statements: config.pool.prepared_statements,
        limits: config.limits.clone(),
    }
}

fn make_cluster(cluster: &config::Cluster, handle: &MonitorHandle) -> client::Cluster {
    let (sampler, follower, doubter) = (handle.clone(), handle.clone(), handle.clone());
    client::Cluster {
        view: Arc::clone(&handle.view),
        changed: handle.changed.clone(),
        request_sample: Box::new(move |node| sampler.request_sample(node)),
        follow_until: Box::new(move |node, until| follower.follow_until(node, until)),
        doubt: Box::new(move |node, cause| doubter.doubt(node, cause)),
        groups: cluster.groups.clone(),
    }
}

/// A verifier is made of a plain password once, here: making it costs a millisecond.
fn make_user(user: &config::User, mock_secret: &[u8; 32]) -> client::User {
    let verifier = user.password.verifier(Verifier::mock_salt(&user.name, mock_secret));
    let plain = |secret: &Secret| secret.plain().map(|_| secret.clone());
    client::User { verifier, server_password: user.server_password.clone().or_else(|| plain(&user.password)) }
}

fn add_sources(metrics: &Metrics, config: &Config, server: &Arc<Server>, handles: &[MonitorHandle]) {
    let views: Vec<_> = handles.iter().map(|handle| Arc::clone(&handle.view)).collect();
    metrics.add_source(move |scrape| views.iter().for_each(|view| scrape.view(&view.load())));
    let (server, clusters, size) = (Arc::clone(server), config.clusters.clone(), config.pool.size);
    metrics.add_source(move |scrape| {
        for (key, counts) in server.pools.counts() {
            let Some(cluster) = clusters.get(key.cluster) else { continue };
            let Some(node) = cluster.nodes.get(usize::from(key.node.0)) else { continue };
            let name = PoolName { cluster: &cluster.name, node, database: &key.database, user: &key.user };
            scrape.pool(
                name,
                PoolCounts {
                    idle: counts.idle,
                    leased: counts.busy,
                    waiting: counts.waiting,
                    size,
                    ..PoolCounts::default()
                },
            );
        }
    });
}

async fn accept(listener: TcpListener, fleet: Arc<Fleet>, max_clients: usize) {
    loop {
        let accepted = listener.accept().await.and_then(|(client, _)| client.into_std());
        match accepted {
            Ok(client) if fleet.clients() < max_clients => fleet.dispatch(client),
            Ok(client) => refuse(&client),
            Err(error) => {
                warn!(%error, "a client could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client too many is told so at once, before anything else.
fn refuse(mut client: &std::net::TcpStream) {
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
    let _ = io::Write::write(&mut client, &out);
}

async fn reap(server: Arc<Server>) {
    let mut interval = tokio::time::interval(REAP_INTERVAL);
    loop {
        interval.tick().await;
        server.pools.reap(Instant::now());
    }
}

/// SIGINT stops at once. SIGTERM stops when the last transaction has ended, or after `drain_timeout`.
async fn until_stopped(config: &Config, fleet: &Fleet, state: &AdminState) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Whichever comes first; the other signal, if it comes too, is not lost but not needed.
    tokio::select! {
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => {}
    }
    info!(clients = fleet.clients(), "draining");
    state.draining.store(true, Ordering::Relaxed);
    fleet.drain();
    let deadline = Instant::now() + config.limits.drain_timeout;
    while fleet.clients() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
