//! What all clients share: who may connect, to which clusters, through which pools, by which rules.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::attempts::Attempts;
use super::auth_query::AuthQuery;
use super::census::Census;
use super::console::Console;
use super::directory::Directory;
use super::host_names::HostNames;
use super::pause::{Pause, Pauses};
use super::welcome::Welcomes;
use crate::auth::hba::{Network, Rules};
use crate::auth::{ClientTls, NodeTls, Secret, Verifier};
use crate::backend::cancel::CancelKeys;
use crate::backend::{Absence, Away, Endpoint, Gate, LastWrite, Pool, PoolKey, Pools};
use crate::balancing::{Balance, Strategy};
use crate::catalog::{Change, Current, FunctionLists, Known, Upkeep};
use crate::complaints::Complaints;
use crate::config::{self, Allowance, Certificate, Limits, PoolMode};
use crate::metrics::Scrape;
use crate::routing::{Consistency, Reads, RuleSet};
use crate::topology::{Doubt, NodeId, NodeView, View};
use crate::wire::Replication;

/// What all clients share: an immutable picture of the configuration in force, and what outlives it. A reload makes
/// another one; each client picks it up at its next unit (see [`Worker::renew`](super::Worker::renew)).
pub struct Server {
    /// The clusters, in the order of the configuration.
    pub clusters: Vec<Cluster>,
    /// The databases by the names that clients ask for.
    pub databases: HashMap<Arc<str>, Arc<Database>>,
    /// What stands for every other name.
    pub any_database: Option<AnyDatabase>,
    /// TLS towards clients; None: off.
    pub tls: Option<ClientTls>,
    /// Every certificate that we show to anybody.
    pub certificates: Vec<Certificate>,
    /// Why handshakes of TLS have failed.
    pub tls_complaints: Mutex<Complaints>,
    /// What many newcomers meet at once: they are turned away for want of room, or by a stop.
    pub complaints: Mutex<Complaints>,
    /// What many clients lose at once, with a node.
    pub losses: Mutex<Complaints>,
    /// How clients prove who they are.
    pub rules_of_access: Rules,
    /// Load balancers whose word for a client's address is taken.
    pub proxies: Vec<Network>,
    /// Asks LDAP servers about passwords.
    pub directory: Directory,
    /// Names of the hosts that clients come from. Outlives a reload.
    pub host_names: Arc<HostNames>,
    /// Failed logins. Outlives a reload.
    pub attempts: Arc<Attempts>,
    /// Who may connect.
    pub users: HashMap<Arc<str>, User>,
    /// Makes the answers about unknown users stable and indistinguishable.
    pub mock_secret: [u8; 32],
    /// Server connections. Outlives a reload.
    pub pools: Arc<Pools>,
    /// Who can be cancelled. Outlives a reload.
    pub cancel_keys: Arc<CancelKeys>,
    /// What clients are told of the server at login. Outlives a reload.
    pub welcomes: Arc<Welcomes>,
    /// Which databases are paused. Outlives a reload.
    pub pauses: Arc<Pauses>,
    /// Answers clients of the console. Outlives a reload.
    pub console: Arc<OnceLock<Console>>,
    /// Who may change things at the console.
    pub console_users: Vec<Arc<str>>,
    /// Who may look at things there.
    pub stats_users: Vec<Arc<str>>,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// Hints in comments count.
    pub hints: bool,
    /// What the configuration says of functions, for whoever is judged without catalogs.
    pub functions: Arc<FunctionLists>,
    /// Where reads go.
    pub reads: Reads,
    /// What a session's reads must have seen.
    pub consistency: Consistency,
    /// Transactions that may write may read from a replica until they do.
    pub optimistic: bool,
    /// How long one read may wait for a replica to catch up with its session.
    pub freshness_wait: Duration,
    /// How long statements wait for a primary.
    pub hold: Duration,
    /// How far behind the last primary a replica may have been that answers what no replica is fresh enough for, once there
    /// has been no primary for `hold`; None: nobody does.
    pub stale_reads: Option<Duration>,
    /// Bytes of a transaction that are kept to run it again when its node is lost; None: it is not.
    pub replay: Option<usize>,
    /// How long PAUSE waits for open transactions.
    pub pause_timeout: Duration,
    /// How long statements wait while their database is paused.
    pub pause_hold: Duration,
    /// How long a session waits for a server connection.
    pub queue_timeout: Duration,
    /// When a server connection goes back to its pool, where neither a user nor a database has it otherwise.
    pub mode: PoolMode,
    /// Most prepared statements on one server connection.
    pub prepared_statements: usize,
    /// Limits on clients.
    pub limits: Limits,
    /// Most clients at once.
    pub max_clients: usize,
    /// Each client is logged that comes or leaves.
    pub logs_connections: bool,
    /// How many there are. Outlives a reload.
    pub census: Arc<Census>,
}

/// A cluster, as far as clients go.
pub struct Cluster {
    /// Its configured name.
    pub name: Arc<str>,
    /// Its number, in [`PoolKey`]s: another one if its nodes have become others.
    pub number: usize,
    /// The gates of its nodes, in order.
    pub gates: Arc<[Arc<Gate>]>,
    /// Where users are looked for that stand in no configuration.
    pub auth_query: Option<Arc<AuthQuery>>,
    /// TLS towards its nodes, for every connection that is made from now on.
    pub tls: Arc<ArcSwap<NodeTls>>,
    /// When a session has written to it last.
    pub last_write: Arc<LastWrite>,
    /// Its picture now.
    pub view: Arc<ArcSwap<View>>,
    /// Changes whenever the picture does.
    pub changed: watch::Receiver<u64>,
    /// Asks for a position of this node, sampled from now on.
    pub request_sample: Box<dyn Fn(NodeId) + Send + Sync>,
    /// Asks for this node's positions as they come, until then.
    pub follow_until: Box<dyn Fn(NodeId, Instant) + Send + Sync>,
    /// Tells that a session has reason to doubt this node.
    pub doubt: Box<dyn Fn(NodeId, Doubt) + Send + Sync>,
    /// Takes a node out of reading, or puts it back; false: that changed nothing.
    pub set_drained: Box<dyn Fn(NodeId, bool) -> bool + Send + Sync>,
    /// Addresses of the nodes that have been taken out of it.
    pub drained: Box<dyn Fn() -> Vec<Arc<str>> + Send + Sync>,
    /// Has Patroni switch over, to the member of this name or to the one that it finds best, while nobody new is let in at
    /// the primary. Answers Patroni's words, or why it is not done. Dropped before Patroni is asked, it lets everybody in again;
    /// dropped later, it does so if Patroni does not.
    pub switch_over: Box<dyn Fn(Option<Arc<str>>, IsAsked) -> Switchover + Send + Sync>,
    /// Shows what probing its nodes has brought.
    pub show_probes: Box<dyn Fn(&mut Scrape) + Send + Sync>,
    /// Named groups of nodes.
    pub groups: Vec<(Arc<str>, Vec<u16>)>,
    /// How its nodes share reads.
    pub balance: Balance,
}

/// Becomes true when Patroni is asked for a switchover: from then on there is no way back.
pub type IsAsked = Arc<AtomicBool>;

/// A switchover under way.
pub type Switchover = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// A database that clients ask for.
#[derive(Clone, Debug)]
pub struct Database {
    /// The name that clients ask for.
    pub name: Arc<str>,
    /// What it may take.
    pub allowance: Allowance,
    /// Its cluster.
    pub cluster: usize,
    /// Its name on the nodes.
    pub server_name: Arc<str>,
    /// Whether its statements wait.
    pub pause: Arc<Pause>,
    /// What is known of its objects.
    pub catalog: DatabaseCatalog,
}

/// A database that stands for every name that is not configured.
pub struct AnyDatabase {
    /// What is configured of it.
    pub configured: config::Database,
    /// Told of a name that a client has been let in for: it has a place in the next picture of the configuration.
    pub newcomer: Box<dyn Fn(Arc<str>) + Send + Sync>,
}

/// What is known of a database's objects, and whom to tell that it may not be true any more.
#[derive(Clone, Debug, Default)]
pub struct DatabaseCatalog {
    current: Arc<Current>,
    wake: Arc<Notify>,
    absence: Arc<Absence>,
    /// Somebody looks at it: the database has a place of its own.
    is_kept: bool,
}

impl DatabaseCatalog {
    /// Reads `current`, tells `wake`, and sends away by `absence` whoever keeps it.
    pub fn new(current: Arc<Current>, wake: Arc<Notify>, absence: Arc<Absence>) -> Self {
        Self { current, wake, absence, is_kept: true }
    }

    /// Whoever keeps it must have no connection to the database, and looks first of all when it comes back. What is known counts
    /// until then: without a primary nobody could confirm it, and what waits meanwhile is judged by it.
    pub fn leave(&self) -> Away {
        self.absence.begin()
    }

    /// The same where it may be another database when it is looked at next: what is known of it is not believed any more.
    pub fn send_away(&self) -> Away {
        let away = self.leave();
        self.changed();
        away
    }

    /// Whoever keeps it opens its connections anew, and looks first of all then.
    pub fn reconnect(&self) {
        self.absence.renew();
    }

    /// The nodes had no such database when they were asked last.
    pub fn is_missing(&self) -> bool {
        self.current.is_missing()
    }

    /// What is known now.
    pub fn look(&self) -> Known {
        self.current.look()
    }

    /// How many changes have been acknowledged: what is judged by other ones may be another thing by now.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.current.changes()
    }

    /// How far they are: another one says that something in them has changed. Where nobody looks at them, nothing is known of that.
    pub fn stamp(&self) -> Stamp {
        let current = &self.current;
        if !self.is_kept {
            return Stamp::OUTDATED;
        }
        Stamp { changes: current.changes(), elsewhere: current.changes_elsewhere(), loads: current.upkeep().loads }
    }

    /// What keeping it has come to.
    pub fn upkeep(&self) -> Upkeep {
        self.current.upkeep()
    }

    /// Its catalogs have been asked for, whether they came or not.
    pub fn was_tried(&self) -> bool {
        self.current.was_tried()
    }

    /// A change has been acknowledged by a node, and nobody has been told yet.
    pub fn changed(&self) {
        self.current.changed();
        self.wake.notify_one();
    }

    /// Code that has run in another database may have changed what sessions begin with: who logs in next finds out.
    pub fn changed_elsewhere(&self) {
        self.current.changed_elsewhere();
    }

    /// A node has given an error that another picture might have kept from it.
    pub fn suspected(&self) {
        self.current.suspected();
        self.wake.notify_one();
    }

    /// What has run may have changed what the picture shows, and mostly has not: a look tells, soon. Nobody is woken: it may
    /// be run all the time.
    pub fn may_have_changed(&self) {
        self.current.doubted();
    }

    /// A statement names what the picture has not: it may have been made since, past Trunkline. Whoever names again and
    /// again what there is not makes nobody look all the time.
    pub fn missed(&self, now: Instant) {
        let checked = self.current.upkeep().checked;
        if checked.is_none_or(|checked| now.saturating_duration_since(checked) >= BETWEEN_MISSES) {
            self.suspected();
        }
    }
}

/// How far catalogs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    changes: u64,
    elsewhere: u64,
    loads: u64,
}

impl Stamp {
    /// Of before, whatever they are now.
    pub(super) const OUTDATED: Self = Self { changes: u64::MAX, elsewhere: u64::MAX, loads: u64::MAX };

    /// They are this far now: nothing has changed since.
    pub(super) fn is_still(self, now: Self) -> bool {
        self == now && self != Self::OUTDATED
    }
}

/// Looking whether catalogs have changed takes a node about a second where there are a million objects.
const BETWEEN_MISSES: Duration = Duration::from_secs(5);

/// Who may connect.
#[derive(Clone, Debug)]
pub struct User {
    /// What is known of its password.
    pub secret: Secret,
    /// What a client must prove.
    pub verifier: Verifier,
    /// What we prove to nodes.
    pub server_password: Option<Secret>,
    /// What it may take.
    pub allowance: Allowance,
}

impl Server {
    /// What nodes take for reads of this database decides where others go.
    pub fn weighs_latency(&self, database: &Database) -> bool {
        self.cluster(database).balance.strategy == Strategy::Latency || self.rules.balances_by_latency()
    }

    /// The cluster of a database.
    pub fn cluster(&self, database: &Database) -> &Cluster {
        #[expect(clippy::indexing_slicing, reason = "the configuration was checked: a database names a cluster it has")]
        &self.clusters[database.cluster]
    }

    /// The number that a cluster of another configuration has in this one, where it may have another name, or other nodes.
    pub fn number_of(&self, cluster: &Cluster) -> usize {
        let is_there = self.clusters.iter().any(|here| here.number == cluster.number);
        let of_its_name = self.clusters.iter().find(|here| here.name == cluster.name).filter(|_| !is_there);
        of_its_name.map_or(cluster.number, |here| here.number)
    }

    /// What a client gets that asks for this name. What stands for every name has no catalogs, and is paused with all only,
    /// until it has a place of its own.
    pub fn database(&self, name: &Arc<str>) -> Option<Arc<Database>> {
        if let Some(database) = self.databases.get(name) {
            return Some(Arc::clone(database));
        }
        let found = self.any_database.as_ref()?.configured.named(name);
        Some(Arc::new(Database {
            name: found.name,
            allowance: found.allowance,
            cluster: found.cluster,
            server_name: found.server_name,
            pause: self.pauses.of_any(name),
            catalog: DatabaseCatalog::default(),
        }))
    }

    /// Where a client goes that asks for this name. One for replication alone asks for none: `replication`, which most
    /// send, need not be configured while there is only one cluster to go to.
    pub fn destination(&self, name: &Arc<str>, replication: Replication) -> Option<Arc<Database>> {
        let is_clear = replication == Replication::Physical && self.clusters.len() == 1;
        self.database(name).or_else(|| {
            let unconfigured = || Database {
                name: Arc::clone(name),
                allowance: Allowance::default(),
                cluster: 0,
                server_name: Arc::clone(name),
                pause: self.pauses.of_any(name),
                catalog: DatabaseCatalog::default(),
            };
            is_clear.then(|| Arc::new(unconfigured()))
        })
    }

    /// A client has been let in for this database.
    pub fn has_let_in(&self, name: &Arc<str>) {
        if let Some(any) = self.any_database.as_ref().filter(|_| !self.databases.contains_key(name)) {
            (any.newcomer)(Arc::clone(name));
        }
    }

    /// When a server connection of this user goes back to its pool of this database.
    pub fn mode_of(&self, database: &Database, user: &str) -> PoolMode {
        let of_user = self.users.get(user).and_then(|user| user.allowance.pool_mode);
        of_user.or(database.allowance.pool_mode).unwrap_or(self.mode)
    }

    /// The pool of a user of this database at a node; None if there is no such node.
    pub fn pool(
        &self,
        database: &Database,
        user: &Arc<str>,
        node: &NodeView,
        password: Option<&Secret>,
    ) -> Option<Arc<Pool>> {
        let cluster = self.cluster(database);
        let key = self.pool_key(database, user, node.id);
        let endpoint = Endpoint::new(Arc::clone(&node.address), Arc::clone(&cluster.tls));
        Some(self.pools.get(&key, cluster.gate(node.id)?, &endpoint, password))
    }

    /// Clients of this configuration have this pool. Whoever waits while it is read anew may make one of those before again.
    pub fn has_pool(&self, key: &PoolKey) -> bool {
        self.database(&key.database).is_some_and(|database| {
            database.server_name == key.server_name && self.cluster(&database).number == key.cluster
        })
    }

    /// The gate of the node that a pool is of.
    pub fn gate_of(&self, key: &PoolKey) -> Option<&Arc<Gate>> {
        self.clusters.iter().find(|cluster| cluster.number == key.cluster)?.gate(key.node)
    }

    /// What tells the pool of this user in this database at this node from others.
    pub fn pool_key(&self, database: &Database, user: &Arc<str>, node: NodeId) -> PoolKey {
        PoolKey {
            cluster: self.cluster(database).number,
            node,
            database: Arc::clone(&database.name),
            server_name: Arc::clone(&database.server_name),
            user: Arc::clone(user),
        }
    }

    /// A node has acknowledged what changes the catalogs, and nobody has been told yet. Other databases of the cluster are
    /// told of what they share with this one. Of code it is seldom known, and most changes nothing of that: their logins
    /// find out.
    pub fn catalogs_changed(&self, cluster: usize, server_name: &str, change: Change) {
        if change <= Change::Suspected {
            return;
        }
        let of_cluster = || self.databases.values().filter(|other| self.cluster(other).number == cluster);
        of_cluster().filter(|other| *other.server_name == *server_name).for_each(|database| database.catalog.changed());
        let others = of_cluster().filter(|other| *other.server_name != *server_name);
        match change {
            Change::Shared => others.for_each(|other| other.catalog.changed()),
            Change::Opaque | Change::Roles => others.for_each(|other| other.catalog.changed_elsewhere()),
            Change::None | Change::Suspected | Change::OfDatabase => {}
        }
        if change >= Change::Roles {
            let its = self.clusters.iter().filter(|its| its.number == cluster);
            its.filter_map(|its| its.auth_query.as_deref()).for_each(AuthQuery::doubt_all);
        }
    }

    /// How long a node may take for a short question of Trunkline's own, however short the wait for a connection is.
    pub fn answer_timeout(&self) -> Duration {
        self.queue_timeout.max(self.pools.plan().default.connect_timeout)
    }

    /// The user is configured, or may be asked for in the cluster.
    pub fn may_have(&self, user: &str, database: &Database) -> bool {
        self.is_known_in(user, self.cluster(database))
    }

    /// The same, in the cluster of this number.
    pub fn may_have_in(&self, user: &str, cluster: usize) -> bool {
        self.clusters.iter().any(|its| its.number == cluster && self.is_known_in(user, its))
    }

    fn is_known_in(&self, user: &str, cluster: &Cluster) -> bool {
        self.users.contains_key(user) || cluster.auth_query.is_some()
    }
}

impl Cluster {
    /// What is remembered of this user's password may be of before: who logs in next has it asked again.
    pub fn doubt_password(&self, user: &str) {
        self.auth_query.iter().for_each(|asked| asked.doubt(user));
    }

    /// Its nodes are those of this one by another configuration, each with its number: Patroni may have listed some in another
    /// order to whoever watches them now.
    pub fn has_nodes_of(&self, other: &Self) -> bool {
        let is_watched_on = Arc::ptr_eq(&self.view, &other.view);
        let address =
            |cluster: &Self, node: &NodeView| cluster.view.load().node(node.id).map(|node| Arc::clone(&node.address));
        let has_same = |node: &NodeView| address(self, node).is_some_and(|address| address == node.address);
        self.number == other.number && (is_watched_on || other.view.load().nodes.iter().all(has_same))
    }

    /// It is this one by another configuration, and surely of one database system with it: positions mean the same in both.
    pub fn has_history_of(&self, other: &Self) -> bool {
        let (own, theirs) = (self.view.load().system, other.view.load().system);
        self.name == other.name && own.is_some() && own == theirs
    }

    /// Positions of all nodes that are in use are sampled from now on.
    pub(super) fn ask_for_positions(&self) {
        let view = self.view.load();
        let nodes = view.primary.into_iter().chain(view.readable_replicas().map(|replica| replica.id));
        nodes.for_each(|node| (self.request_sample)(node));
    }

    /// Positions of replicas are sampled as they come, until then.
    pub(super) fn follow_replicas(&self, until: Instant) {
        self.view.load().readable_replicas().for_each(|replica| (self.follow_until)(replica.id, until));
    }

    /// The gate of a node.
    pub fn gate(&self, node: NodeId) -> Option<&Arc<Gate>> {
        self.gates.get(usize::from(node.0))
    }

    /// The nodes of this group.
    pub fn group(&self, name: &str) -> Option<&[u16]> {
        self.groups.iter().find(|(group, _)| **group == *name).map(|(_, nodes)| &**nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_for_unchanged_that_nobody_looks_at() {
        let nobodys = DatabaseCatalog::default();
        assert!(!nobodys.stamp().is_still(nobodys.stamp()));
        let kept = DatabaseCatalog::new(Arc::default(), Arc::default(), Arc::default());
        let before = kept.stamp();
        assert!(before.is_still(kept.stamp()));
        kept.changed_elsewhere();
        assert!(!before.is_still(kept.stamp()));
    }
}
