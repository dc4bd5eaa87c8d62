//! The configuration in force: made into what clients share, and swapped for another while they go on.
//!
//! A reload is checked as a whole first; what is wrong leaves the old configuration in force.

mod changes;
mod cluster;
mod server;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};

use crate::backend::{Gate, Pool, PoolKey, Pools};
use crate::catalogs::{self, Catalogs};
use crate::client::console::Console;
use crate::client::{Fleet, Server};
use crate::config::{self, Certificate, Config, Problems, Shown, Validity};
use crate::monitor::Limits;
use crate::net::{apart, descriptors};
use crate::topology::MadeAnew;
use cluster::RunningCluster;
use server::Lasting;

/// Databases that stand in the configuration only as `*` and get a place of their own: each has a picture of its catalogs.
const MOST_ADOPTED: usize = 1000;

/// What clients share by the configuration in force.
pub type InForce = Arc<ArcSwap<Server>>;

/// Sets the log's level; what it was given is a filter that has been checked.
pub type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Called with what is in force, after it is.
pub type OnSwap = Box<dyn Fn(&Server) + Send + Sync>;

/// The configuration in force, and all that runs because of it.
pub struct Standing {
    source: PathBuf,
    config: Config,
    clusters: Vec<RunningCluster>,
    lasting: Lasting,
    catalogs: Catalogs,
    in_force: InForce,
    settings: Arc<ArcSwap<Vec<Shown>>>,
    next_number: usize,
    /// Databases that clients have been let in for, and that stand in the configuration only as `*`.
    newcomers: UnboundedReceiver<Arc<str>>,
    adopted: Vec<Arc<str>>,
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// There was no thread to read it, or reading it was cut off.
    #[error("the configuration could not be read to its end: {0}")]
    CutOff(#[source] io::Error),
    /// By it a cluster would have no primary, and what it serves has one now.
    #[error(
        "by this configuration no primary is found in cluster \"{cluster}\", and what it serves has one now; so the old one stays in force: {because}"
    )]
    NoPrimary {
        /// The cluster.
        cluster: Arc<str>,
        /// Why none is found.
        because: String,
    },
}

/// What a reload has come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Settings that have changed in the file and count only after a restart.
    pub need_restart: Vec<&'static str>,
    /// What may be meant otherwise.
    pub warnings: Vec<String>,
}

impl Reloaded {
    /// What whoever has asked for it is to know, in words.
    pub fn remarks(self) -> Vec<String> {
        let need_restart = Some(self.need_restart).filter(|settings| !settings.is_empty());
        let need_restart = need_restart.map(|settings| format!("only a restart changes: {}", settings.join(", ")));
        need_restart.into_iter().chain(self.warnings).collect()
    }
}

impl Standing {
    /// Everything that runs by this configuration. Call on the main runtime.
    pub fn start(config: Config, source: PathBuf, mut catalogs: Catalogs) -> Self {
        say_what_is_doubtful(&config.warnings());
        say_what_ends(&config.certificates);
        let (lasting, newcomers) = Lasting::new(Pools::new(server::plan(&config)));
        let start = |(number, cluster)| RunningCluster::start(number, cluster, Limits::of(&config), None);
        let clusters: Vec<RunningCluster> = config.clusters.iter().enumerate().map(start).collect();
        clusters.iter().for_each(RunningCluster::encrypts_as_configured);
        clusters.iter().for_each(RunningCluster::take_over);
        let users = server::make_users(&config, &lasting.mock_secret);
        let pictures = keep_catalogs(&mut catalogs, &config, &clusters);
        let server = server::make(&config, users, &clusters, pictures, &lasting);
        let in_force = Arc::new(ArcSwap::from_pointee(server));
        let next_number = clusters.len();
        let settings = Arc::new(ArcSwap::from_pointee(config.shown()));
        let adopted = Vec::new();
        Self { source, config, clusters, lasting, catalogs, in_force, settings, next_number, newcomers, adopted }
    }

    /// The next databases that clients have been let in for and that have no place in the configuration in force; each client says
    /// so, at each of its logins until it has one. None: none come any more. Cancel-safe: what is not received stays.
    pub async fn newcomers(&mut self) -> Option<Vec<Arc<str>>> {
        let mut names = Vec::new();
        self.newcomers.recv_many(&mut names, usize::MAX).await;
        names.sort_unstable();
        names.dedup();
        (!names.is_empty()).then_some(names)
    }

    /// Gives databases that stand in the configuration only as `*` places of their own: they have catalogs and can be paused.
    pub async fn adopt(&mut self, names: Vec<Arc<str>>, fleet: &Fleet, on_swap: &OnSwap) {
        let mut is_any_kept = false;
        for name in names {
            is_any_kept |= self.adopt_one(name);
        }
        // Once for all: each client looks at what is in force then.
        if is_any_kept {
            self.swap(fleet, on_swap).await;
        }
    }

    fn adopt_one(&mut self, name: Arc<str>) -> bool {
        let Some(any) = self.config.databases.iter().find(|database| database.is_any()) else { return false };
        if self.config.databases.iter().any(|database| database.name == name) || self.adopted.len() >= MOST_ADOPTED {
            return false;
        }
        let database = any.named(&name);
        let wanted = wanted_catalog(&database, &self.config, &self.clusters);
        self.adopted.push(name);
        self.config.databases.push(database);
        let Some(wanted) = wanted else { return false };
        let routing = &self.config.routing;
        self.catalogs.keep_also(wanted, routing.catalog_refresh, &routing.functions);
        true
    }

    /// Databases that had been given a place lose it when the nodes have none of this name, no client is there for it, and no
    /// operator holds it back.
    pub async fn disown_missing(&mut self, fleet: &Fleet, on_swap: &OnSwap) {
        // By now clients may have let go of what was in force before.
        self.lasting.pauses.forget_unused();
        let server = self.in_force.load_full();
        let is_missing = |name: &Arc<str>| server.database(name).is_some_and(|database| database.catalog.is_missing());
        let is_gone = |name: &Arc<str>| is_missing(name) && !self.lasting.is_needed(name);
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.adopted).into_iter().partition(is_gone);
        self.adopted = kept;
        if gone.is_empty() {
            return;
        }
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.config.databases).into_iter().partition(|database| gone.contains(&database.name));
        self.config.databases = kept;
        for database in gone {
            self.forget_welcomes(&database);
            let is_same = |other: &config::Database| {
                (other.cluster, &other.server_name) == (database.cluster, &database.server_name)
            };
            // By another name its picture may be wanted still.
            if let Some(cluster) = self.clusters.get(database.cluster)
                && !self.config.databases.iter().any(is_same)
            {
                self.catalogs.keep_no_more(cluster.number, &database.server_name);
            }
        }
        self.swap(fleet, on_swap).await;
    }

    /// The database's next place counts its looks and changes from the beginning: by those, what clients of this one were told
    /// could pass for what they would be told now.
    fn forget_welcomes(&self, database: &config::Database) {
        if let Some(cluster) = self.clusters.get(database.cluster) {
            self.lasting.welcomes.forget_database(cluster.number, &database.server_name);
        }
    }

    /// The configuration has more databases or fewer than the one in force: it takes its place.
    async fn swap(&self, fleet: &Fleet, on_swap: &OnSwap) {
        let users = self.in_force.load().users.clone();
        let pictures = self.catalogs.handles();
        let server = Arc::new(server::make(&self.config, users, &self.clusters, pictures, &self.lasting));
        self.in_force.store(Arc::clone(&server));
        on_swap(&server);
        fleet.renew(&server).await;
    }

    /// What clients share, now and after each reload.
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// The settings in force, now and after each reload.
    pub fn settings(&self) -> &Arc<ArcSwap<Vec<Shown>>> {
        &self.settings
    }

    /// Clients of the console are answered by this.
    pub fn open_console(&self, console: Console) {
        self.lasting.open_console(console);
    }

    /// Reads the configuration anew and swaps it in, if nothing is wrong with it. Clients go on, each by the new one from
    /// its next unit; those whose database or user is gone end when they are idle.
    pub async fn reload(&mut self, fleet: &Fleet, set_level: &SetLevel, on_swap: &OnSwap) -> Result<Reloaded, Failure> {
        let (path, mock_secret) = (self.source.clone(), self.lasting.mock_secret);
        // Files are read and verifiers derived off this thread: it also watches the nodes.
        let read = apart::run(move || {
            let config = config::load(&path)?;
            let users = server::make_users(&config, &mock_secret);
            Ok::<_, Problems>((config, users))
        });
        let (mut config, users) = read.await.map_err(Failure::CutOff)??;
        if let Some(rules) = Arc::into_inner(std::mem::take(&mut config.routing.rules)) {
            config.routing.rules = Arc::new(rules.counting_on(&self.config.routing.rules));
        }
        let adopted = self.adopted_again(&mut config);
        config.keep_authorities_of(&self.config);
        let need_restart = changes::keep_what_is_made_once(&self.config, &mut config);
        let reloaded = Reloaded { need_restart, warnings: config.warnings() };

        let clusters = self.renew_clusters(&config).await?;
        // Nothing is refused from here on.
        clusters.iter().for_each(RunningCluster::encrypts_as_configured);
        for name in std::mem::replace(&mut self.adopted, adopted) {
            if !self.adopted.contains(&name)
                && let Some(database) = self.config.databases.iter().find(|database| database.name == name)
            {
                self.forget_welcomes(database);
            }
        }
        let pictures = keep_catalogs(&mut self.catalogs, &config, &clusters);
        let server = Arc::new(server::make(&config, users, &clusters, pictures, &self.lasting));
        self.lasting.pools.set(server::plan(&config));
        let before = std::mem::replace(&mut self.clusters, clusters);
        self.clusters.iter().for_each(RunningCluster::take_over);
        self.in_force.store(Arc::clone(&server));
        on_swap(&server);
        set_level(&config.log.level);
        // Every worker has it when this returns: whoever is woken now finds it.
        fleet.renew(&server).await;
        before.iter().for_each(RunningCluster::wake_all);
        // An operator's last order may have gone to the monitor before.
        self.clusters.iter().for_each(RunningCluster::settle_drained);
        self.forget_pools(&server, &config);
        let leaving: Vec<_> = before.iter().flat_map(|cluster| cluster.gates_without(&self.clusters)).collect();
        // From here on nobody watches those nodes, and says what is to be believed of them.
        drop(before);
        leaving.into_iter().for_each(|gate| drop(tokio::spawn(leave(gate, config.limits.drain_timeout))));
        self.settings.store(Arc::new(config.shown()));
        self.config = config;
        for setting in &reloaded.need_restart {
            warn!(setting, "a changed setting counts only after a restart");
        }
        say_what_is_doubtful(&reloaded.warnings);
        say_what_ends(&self.config.certificates);
        descriptors::allow_for(self.config.max_clients, self.config.most_server_connections());
        info!(config = %self.source.display(), "the configuration has been reloaded");
        Ok(reloaded)
    }

    /// Databases that clients are there for, or that an operator holds back, keep their place, if what stands for every name is
    /// still there.
    fn adopted_again(&self, config: &mut Config) -> Vec<Arc<str>> {
        let any = config.databases.iter().find(|database| database.is_any()).cloned();
        let is_named = |name: &Arc<str>| config.databases.iter().any(|database| database.name == *name);
        let is_kept = |name: &&Arc<str>| any.is_some() && !is_named(name) && self.lasting.is_needed(name);
        let adopted: Vec<Arc<str>> = self.adopted.iter().filter(is_kept).cloned().collect();
        config.databases.extend(any.iter().flat_map(|any| adopted.iter().map(|name| any.named(name))));
        adopted
    }

    /// The clusters of a new configuration: those that have not changed go on as they are, the others are watched anew
    /// before they take over, all together.
    async fn renew_clusters(&mut self, config: &Config) -> Result<Vec<RunningCluster>, Failure> {
        let limits = Limits::of(config);
        let (mut clusters, mut renewed) = (Vec::with_capacity(config.clusters.len()), Vec::new());
        for wanted in &config.clusters {
            let before = went_before(wanted, &self.clusters, config, &clusters);
            let same = before.filter(|running| !is_made_anew(running));
            clusters.push(match same {
                Some(running) if running.is_as(wanted, limits) => running.with_groups(wanted),
                Some(running) if running.has_nodes_of(wanted) => {
                    renewed.push((clusters.len(), running, wanted));
                    RunningCluster::start(running.number, wanted, limits, Some(running))
                }
                _ => {
                    renewed.extend(before.map(|running| (clusters.len(), running, wanted)));
                    self.next_number += 1;
                    RunningCluster::start(self.next_number - 1, wanted, limits, before)
                }
            });
        }
        let renewed =
            || renewed.iter().filter_map(|(at, running, wanted)| Some((clusters.get(*at)?, *running, *wanted)));
        for (cluster, running, wanted) in renewed() {
            let ready = cluster.ready_as(running).await;
            ready.map_err(|because| Failure::NoPrimary { cluster: Arc::clone(&wanted.name), because })?;
        }
        for (cluster, running) in self.moves(config, &clusters) {
            let ready = cluster.ready_as(running).await;
            ready.map_err(|because| Failure::NoPrimary { cluster: cluster.name().into(), because })?;
        }
        for (cluster, running, wanted) in renewed() {
            cluster.follow(running);
            if cluster.number != running.number {
                self.lasting.pools.move_to(running.number, cluster.number, |node| running.keeps(node, wanted));
            }
        }
        Ok(clusters)
    }

    /// The clusters that databases move to, each with one that serves such a database now.
    fn moves<'a>(
        &'a self,
        config: &Config,
        clusters: &'a [RunningCluster],
    ) -> impl Iterator<Item = (&'a RunningCluster, &'a RunningCluster)> {
        let named = |config: &Config, name: &str| {
            config.databases.iter().find(|database| *database.name == *name).map(|database| database.cluster)
        };
        let any = config.databases.iter().find(|database| database.is_any()).map(|database| database.cluster);
        // Also those that fall to `*` now. What came from there and is of use has a place of its own.
        let places: BTreeSet<(usize, usize)> = self
            .config
            .databases
            .iter()
            .filter_map(|database| Some((named(config, &database.name).or(any)?, database.cluster)))
            .collect();
        let moves = places.into_iter().filter_map(|(to, from)| Some((clusters.get(to)?, self.clusters.get(from)?)));
        moves.filter(|(to, from)| to.number != from.number)
    }

    /// Pools of clusters and databases that are gone, and of users that are or whose password has changed; and of nodes that
    /// Patroni has listed while two monitors watched: they may have other numbers by now, and are fenced by other gates.
    fn forget_pools(&self, server: &Server, config: &Config) {
        let is_same_user = |name: &str| {
            let password = |config: &Config| {
                let user = config.users.iter().find(|user| &*user.name == name)?;
                let plain = user.server_password.as_ref().unwrap_or(&user.password).plain();
                Some(plain.map(str::to_owned))
            };
            // Of those that stand in no configuration, neither before nor now, the cluster keeps the passwords.
            password(config) == password(&self.config)
        };
        let is_wanted = |key: &PoolKey, pool: &Pool| {
            let is_fenced = || server.gate_of(key).is_some_and(|gate| Arc::ptr_eq(gate, pool.gate()));
            server.has_pool(key) && is_fenced() && is_same_user(&key.user)
        };
        // Sessions go on, and may have proved what has been changed on the cluster since.
        let the_same = |cluster: usize, user: &str| server.may_have_in(user, cluster) && is_same_user(user);
        self.lasting.pools.retain(is_wanted, the_same);
    }
}

/// The running cluster that this one goes on from: the same one by its name, or under a name that no other keeps it by; or else
/// that of its name, which has other nodes now and goes on by no other. None goes on as two.
fn went_before<'a>(
    wanted: &config::Cluster,
    running: &'a [RunningCluster],
    config: &Config,
    made: &[RunningCluster],
) -> Option<&'a RunningCluster> {
    let has_name = |running: &RunningCluster, wanted: &config::Cluster| running.name() == &*wanted.name;
    let is_its_own =
        |running: &RunningCluster, other: &config::Cluster| has_name(running, other) && running.is_same(other);
    let is_kept = |running: &RunningCluster| config.clusters.iter().any(|other| is_its_own(running, other));
    let keeps_its_own = |other: &config::Cluster| running.iter().any(|running| is_its_own(running, other));
    let is_taken =
        |taken: &&RunningCluster| config.clusters.iter().any(|other| taken.is_same(other) && !keeps_its_own(other));
    let is_free = |running: &&RunningCluster| !made.iter().any(|other| other.number == running.number);
    let of_its_name = running.iter().find(|running| has_name(running, wanted));
    of_its_name
        .filter(|running| running.is_same(wanted))
        .or_else(|| running.iter().filter(is_free).find(|running| running.is_same(wanted) && !is_kept(running)))
        .or(of_its_name.filter(|running| is_free(running) && !is_taken(running)))
}

/// Its nodes are another database system's, and a reload takes them for the cluster from now on: who has reloaded for something
/// else is to know of it.
fn is_made_anew(running: &RunningCluster) -> bool {
    let made_anew = running.made_anew();
    if let Some(MadeAnew { former, system }) = made_anew {
        warn!(
            cluster = running.name(),
            %former,
            %system,
            "the nodes are of another database system than before: the cluster is taken for made anew"
        );
    }
    made_anew.is_some()
}

/// What is no mistake, and may be meant otherwise: PostgreSQL warns of such a thing, too.
fn say_what_is_doubtful(warnings: &[String]) {
    for warning in warnings {
        warn!(warning, "the configuration may be meant otherwise");
    }
}

/// What is no mistake of the configuration's either, and cuts somebody off, now or soon.
fn say_what_ends(certificates: &[Certificate]) {
    let now = SystemTime::now();
    for certificate in certificates {
        let (shown_to, cluster) = (certificate.shown_to.code(), certificate.shown_to.cluster());
        match certificate.validity(now) {
            Validity::Good => {}
            Validity::EndsSoon => {
                warn!(shown_to, cluster, ends = %certificate.ends, "a certificate ends within 14 days");
            }
            Validity::Ended => {
                warn!(shown_to, cluster, ended = %certificate.ends, "a certificate has ended: whoever looks at it refuses it");
            }
        }
    }
}

/// Nobody watches the gate's node any more, and so nobody would fence it: what is under way there may end until the time is
/// over, then its connections are closed.
async fn leave(gate: Arc<Gate>, timeout: Duration) {
    gate.believe(None);
    gate.drained(Instant::now() + timeout).await;
    let closed = gate.sever_sessions();
    if closed > 0 {
        warn!(connections = closed, "connections to a node that is no longer in the configuration are closed");
    }
}

/// The pictures of every database that clients may ask for.
fn keep_catalogs<'a>(
    catalogs: &'a mut Catalogs,
    config: &Config,
    clusters: &[RunningCluster],
) -> &'a [catalogs::Handle] {
    let databases = config.databases.iter().filter(|database| !database.is_any());
    let wanted = databases.filter_map(|database| wanted_catalog(database, config, clusters));
    catalogs.keep(wanted.collect(), config.routing.catalog_refresh, &config.routing.functions)
}

fn wanted_catalog(
    database: &config::Database,
    config: &Config,
    clusters: &[RunningCluster],
) -> Option<catalogs::Wanted> {
    let running = clusters.get(database.cluster)?;
    Some(catalogs::Wanted {
        cluster: running.number,
        database: Arc::clone(&database.server_name),
        monitor: config.clusters.get(database.cluster)?.monitor.clone(),
        view: running.for_catalogs(),
    })
}
