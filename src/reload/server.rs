//! From a checked configuration to what clients share.

use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::cluster::RunningCluster;
use crate::backend::cancel::CancelKeys;
use crate::backend::{Plan, PoolSettings, Pools, Share};
use crate::catalogs::Handle;
use crate::client::attempts::Attempts;
use crate::client::console::Console;
use crate::client::directory::Directory;
use crate::client::host_names::HostNames;
use crate::client::welcome::Welcomes;
use crate::client::{self, AnyDatabase, Census, DatabaseCatalog, Pauses, Server};
use crate::complaints::{Complaints, Repeats};
use crate::config::{self, Allowance, Config};
use crate::routing::Transactions;

/// What outlives every reload.
pub(super) struct Lasting {
    pub(super) mock_secret: [u8; 32],
    pub(super) pools: Arc<Pools>,
    cancel_keys: Arc<CancelKeys>,
    pub(super) welcomes: Arc<Welcomes>,
    pub(super) pauses: Arc<Pauses>,
    host_names: Arc<HostNames>,
    attempts: Arc<Attempts>,
    console: Arc<OnceLock<Console>>,
    pub(super) census: Arc<Census>,
    newcomers: UnboundedSender<Arc<str>>,
}

/// Who may connect.
pub(super) type Users = HashMap<Arc<str>, client::User>;

impl Lasting {
    /// What lasts; and the names of databases that clients have been let in for without their standing in the
    /// configuration.
    pub(super) fn new(pools: Pools) -> (Self, UnboundedReceiver<Arc<str>>) {
        let (newcomers, names) = unbounded_channel();
        let lasting = Self {
            newcomers,
            mock_secret: rand::random(),
            pools: Arc::new(pools),
            cancel_keys: Arc::default(),
            welcomes: Arc::default(),
            pauses: Arc::default(),
            host_names: Arc::default(),
            attempts: Arc::default(),
            console: Arc::default(),
            census: Arc::default(),
        };
        (lasting, names)
    }
}

impl Lasting {
    /// The console can be opened once: what comes later is left out.
    pub(super) fn open_console(&self, console: Console) {
        drop(self.console.set(console));
    }

    /// A client is there for this database, or an operator holds it back.
    pub(super) fn is_needed(&self, database: &Arc<str>) -> bool {
        self.census.has_database(database) || self.pauses.is_held(database)
    }

    fn newcomer(&self) -> Box<dyn Fn(Arc<str>) + Send + Sync> {
        let newcomers = self.newcomers.clone();
        // While the program stops nobody listens any more.
        Box::new(move |name| drop(newcomers.send(name)))
    }
}

/// What clients share by this configuration.
pub(super) fn make(
    config: &Config,
    users: Users,
    clusters: &[RunningCluster],
    catalogs: &[Handle],
    lasting: &Lasting,
) -> Server {
    let databases = config.databases.iter().filter(|database| !database.is_any()).map(|database| {
        let number = clusters.get(database.cluster).map(|running| running.number);
        let is_its = |handle: &&Handle| Some(handle.cluster) == number && handle.database == database.server_name;
        let catalog = catalogs.iter().find(is_its);
        let catalog = catalog.map(|handle| {
            DatabaseCatalog::new(Arc::clone(&handle.current), Arc::clone(&handle.wake), Arc::clone(&handle.absence))
        });
        let entry = client::Database {
            name: Arc::clone(&database.name),
            allowance: database.allowance,
            cluster: database.cluster,
            server_name: Arc::clone(&database.server_name),
            catalog: catalog.unwrap_or_default(),
            pause: lasting.pauses.of(&database.name),
        };
        (Arc::clone(&database.name), Arc::new(entry))
    });
    let databases: HashMap<_, _> = databases.collect();
    lasting.pauses.are_of(databases.values());
    Server {
        clusters: clusters.iter().map(|cluster| cluster.for_clients(&lasting.mock_secret)).collect(),
        databases,
        any_database: config
            .databases
            .iter()
            .find(|database| database.is_any())
            .map(|database| AnyDatabase { configured: database.clone(), newcomer: lasting.newcomer() }),
        tls: config.tls.clone(),
        certificates: config.certificates.clone(),
        tls_complaints: Mutex::new(Complaints::new(Repeats::EachMinute)),
        complaints: Mutex::new(Complaints::new(Repeats::EachMinute)),
        losses: Mutex::new(Complaints::new(Repeats::EachMinute)),
        rules_of_access: config.access.clone(),
        directory: Directory::new(config.ldap_tls.clone()),
        host_names: Arc::clone(&lasting.host_names),
        attempts: Arc::clone(&lasting.attempts),
        proxies: config.proxies.clone(),
        users,
        mock_secret: lasting.mock_secret,
        pools: Arc::clone(&lasting.pools),
        cancel_keys: Arc::clone(&lasting.cancel_keys),
        welcomes: Arc::clone(&lasting.welcomes),
        pauses: Arc::clone(&lasting.pauses),
        console: Arc::clone(&lasting.console),
        console_users: config.console_users.clone(),
        stats_users: config.stats_users.clone(),
        rules: Arc::clone(&config.routing.rules),
        hints: config.routing.hints,
        functions: Arc::clone(&config.routing.functions),
        reads: config.routing.reads,
        consistency: config.routing.consistency,
        optimistic: config.routing.transactions == Transactions::Optimistic,
        freshness_wait: config.routing.freshness_wait,
        hold: config.failover.hold,
        stale_reads: config.failover.stale_reads,
        replay: config.failover.replay.then_some(config.failover.replay_bytes),
        pause_timeout: config.failover.pause_timeout,
        pause_hold: config.failover.pause_hold,
        queue_timeout: config.pool.queue_timeout,
        mode: config.pool.mode,
        prepared_statements: config.pool.prepared_statements,
        limits: config.limits.clone(),
        max_clients: config.max_clients,
        logs_connections: config.log.connections,
        census: Arc::clone(&lasting.census),
    }
}

/// How pools keep their connections by this configuration.
pub(super) fn plan(config: &Config) -> Plan {
    let share = |allowance: &Allowance| Share { size: allowance.pool_size, max_connections: allowance.max_connections };
    let databases = config.databases.iter().map(|one| (Arc::clone(&one.name), share(&one.allowance)));
    let users = config.users.iter().map(|one| (Arc::clone(&one.name), share(&one.allowance)));
    Plan { default: pool_settings(config), databases: databases.collect(), users: users.collect() }
}

fn pool_settings(config: &Config) -> PoolSettings {
    PoolSettings {
        size: config.pool.size,
        min_size: config.pool.min_size,
        reserve_size: config.pool.reserve_size,
        reserve_timeout: config.pool.reserve_timeout,
        of_database: None,
        of_user: None,
        workers: config.workers,
        connect_timeout: config.pool.connect_timeout,
        idle_timeout: config.pool.idle_timeout,
        lifetime: config.pool.lifetime,
    }
}

/// Who may connect by this configuration. Takes a millisecond for each user with a plain password.
pub(super) fn make_users(config: &Config, mock_secret: &[u8; 32]) -> Users {
    config.users.iter().map(|user| (Arc::clone(&user.name), make_user(user, mock_secret))).collect()
}

fn make_user(user: &config::User, mock_secret: &[u8; 32]) -> client::User {
    let made = client::User::new(&user.name, user.password.clone(), user.server_password.clone(), mock_secret);
    client::User { allowance: user.allowance, ..made }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use super::*;
    use crate::backend::cancel::CancelOutcome;
    use crate::client::Worker;
    use crate::client::card::Card;
    use crate::client::places::{Count, Place};
    use crate::metrics::Metrics;
    use crate::session::SessionId;

    #[tokio::test]
    async fn a_client_whose_task_ends_by_a_fault_leaves_neither_its_key_nor_its_count_behind() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config/reference.toml");
        let config = config::load(&path).unwrap();
        let (lasting, _newcomers) = Lasting::new(Pools::new(plan(&config)));
        let server = Arc::new(make(&config, Users::default(), &[], &[], &lasting));
        let (metrics, count) = (Metrics::new(1, &[]), Count::default());
        let worker = Worker::new(0, metrics.worker(0), Arc::clone(&server), count.clone());
        let place = Place::take(&worker, Card::new(SessionId(1), None, None), count.one_more());
        let session = server.cancel_keys.issue(4);
        place.card.is_cancelled_by(&session);
        assert_eq!(server.cancel_keys.cancel(session.key()).await, CancelOutcome::Idle);
        let breaks = move || {
            let _place = place;
            panic!("as it is meant to");
        };
        assert!(catch_unwind(AssertUnwindSafe(breaks)).is_err());
        assert_eq!(server.cancel_keys.cancel(session.key()).await, CancelOutcome::Unknown);
        let text = metrics.render();
        assert!(count.now() == 0 && text.contains("\ntrunkline_clients 0\n"), "{text}");
        assert!(text.contains("\ntrunkline_clients_accepted_total 1\n"), "{text}");
    }
}
