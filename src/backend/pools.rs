//! All pools: made when first needed, reaped from time to time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use parking_lot::Mutex;

use super::connect::Target;
use super::endpoint::Endpoint;
use super::gate::Gate;
use super::plan::Plan;
use super::pool::Pool;
use super::quota::{Claim, Quota};
use super::slots::{Counts, Crowd};
use crate::auth::Secret;
use crate::net::timers;
use crate::routing::Freshness;
use crate::topology::{NodeId, View};

/// What a pool is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The cluster, by the number it got when it was first configured so.
    pub cluster: usize,
    /// The node.
    pub node: NodeId,
    /// The database, as clients ask for it: what one may have it may have under each name.
    pub database: Arc<str>,
    /// Its name on the nodes.
    pub server_name: Arc<str>,
    /// The role.
    pub user: Arc<str>,
}

/// Whose connections at a node are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Owner {
    Database(Arc<str>),
    User(Arc<str>),
}

impl Owner {
    fn limit(&self, plan: &Plan) -> Option<usize> {
        match self {
            Self::Database(name) => plan.of_database(name).max_connections,
            Self::User(name) => plan.of_user(name).max_connections,
        }
    }
}

/// A cluster's number, a node, and whose connections are meant.
type QuotaKey = (usize, NodeId, Owner);

/// All pools of this process.
pub struct Pools {
    pools: DashMap<PoolKey, Arc<Pool>>,
    /// Those that are not wanted any more and still have leases.
    retired: Mutex<Vec<(PoolKey, Arc<Pool>)>>,
    quotas: DashMap<QuotaKey, Arc<Quota>>,
    plan: ArcSwap<Plan>,
    /// What was proved last, by cluster and user.
    keyring: DashMap<(usize, Arc<str>), Secret>,
    /// Of logins that have been changed on the primary, what a node has replayed that shows it, until all nodes have.
    changed: DashMap<LoginKey, Freshness>,
}

/// A cluster's number, a database by its name on the nodes, and a role.
pub type LoginKey = (usize, Arc<str>, Arc<str>);

/// Changes that some node has not replayed; beyond, all are forgotten.
const MOST_CHANGED: usize = 4096;

/// What comes back, or is just being opened, is there within milliseconds: who asks this often costs nothing.
const LOOK: Duration = Duration::from_millis(1);

impl Pools {
    /// No pools yet.
    pub fn new(plan: Plan) -> Self {
        Self {
            pools: DashMap::new(),
            retired: Mutex::default(),
            quotas: DashMap::new(),
            plan: ArcSwap::from_pointee(plan),
            keyring: DashMap::new(),
            changed: DashMap::new(),
        }
    }

    /// A client of this user has just proved this, and connections to the nodes of this cluster are opened by it from now
    /// on: its password may be another one than before.
    pub fn learn(&self, cluster: usize, user: &Arc<str>, secret: &Secret) {
        let key = (cluster, Arc::clone(user));
        if self.keyring.get(&key).is_some_and(|known| known.is_same(secret)) {
            return;
        }
        self.keyring.insert(key, secret.clone());
        for pool in self.pools.iter().filter(|pool| pool.key().cluster == cluster && pool.key().user == *user) {
            pool.learn(secret);
        }
    }

    /// The pool for this key, made if it is the first time.
    pub fn get(&self, key: &PoolKey, gate: &Arc<Gate>, endpoint: &Endpoint, password: Option<&Secret>) -> Arc<Pool> {
        if let Some(pool) = self.pools.get(key) {
            return Arc::clone(&pool);
        }
        let target = Target {
            endpoint: endpoint.clone(),
            user: Arc::clone(&key.user),
            database: Arc::clone(&key.server_name),
            password: None,
            salted_password: None,
            parameters: Vec::new(),
        };
        let proved = self.proved(key.cluster, &key.user);
        let target = Target { password: proved.or_else(|| password.cloned()), ..target };
        let make = || {
            let settings = self.plan.load().of(key);
            let quotas = self.quotas_of(key);
            let pool = Pool::new(key.node, target, Arc::clone(gate), settings, quotas);
            // Under the lock that a change goes through on its way to each pool.
            if let Some(floor) = self.changed.get(&login_of(key)) {
                pool.await_replay(floor.clone());
            }
            pool
        };
        Arc::clone(&self.pools.entry(key.clone()).or_insert_with(make))
    }

    /// What the connections of a pool count in: its database's quota, then its user's.
    fn quotas_of(&self, key: &PoolKey) -> Vec<Arc<Quota>> {
        let quota = |owner: Owner| {
            // The plan is looked at under the lock through which another one goes to each quota.
            let limit = owner.clone();
            let make = || Quota::new(limit.limit(&self.plan.load()));
            Arc::clone(&self.quotas.entry((key.cluster, key.node, owner)).or_insert_with(make))
        };
        vec![quota(Owner::Database(Arc::clone(&key.database))), quota(Owner::User(Arc::clone(&key.user)))]
    }

    /// A connection beside the pool of this key counts in the same limits; Err: one of them is met.
    pub fn claim_apart(&self, key: &PoolKey) -> Result<Claim, Crowd> {
        let settings = self.plan.load().of(key);
        let (of_database, of_user) = (settings.of_database, settings.of_user);
        Quota::claim_apart(self.quotas_of(key)).ok_or(match (of_database, of_user) {
            (_, Some(most)) if of_database.is_none_or(|other| other > most) => Crowd::User(most),
            (most, _) => Crowd::Database(most.unwrap_or_default()),
        })
    }

    /// What a user has proved last in this cluster.
    pub fn proved(&self, cluster: usize, user: &Arc<str>) -> Option<Secret> {
        self.keyring.get(&(cluster, Arc::clone(user))).map(|secret| secret.clone())
    }

    /// Every pool keeps its connections by this plan from now on.
    pub fn set(&self, plan: Plan) {
        let plan = Arc::new(plan);
        self.plan.store(Arc::clone(&plan));
        for quota in &self.quotas {
            quota.set(quota.key().2.limit(&plan));
        }
        let now = Instant::now();
        for pool in &self.pools {
            pool.set(plan.of(pool.key()), now);
        }
    }

    /// How pools keep their connections.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// Pools of the cluster `from` at these nodes become pools of the cluster `to`, where what is known of logins counts, too.
    pub fn move_to(&self, from: usize, to: usize, nodes: impl Fn(NodeId) -> bool) {
        // Who counts leases meanwhile would miss one, or see it twice.
        let _retired = self.retired.lock();
        let is_moved = |key: &PoolKey| key.cluster == from && nodes(key.node);
        let keys: Vec<PoolKey> = self.pools.iter().map(|pool| pool.key().clone()).filter(is_moved).collect();
        for key in keys {
            if let Some((key, pool)) = self.pools.remove(&key) {
                self.pools.insert(PoolKey { cluster: to, ..key }, pool);
            }
        }
        let changed = self.changed.iter().filter(|change| change.key().0 == from);
        let changed: Vec<_> = changed.map(|change| (change.key().clone(), change.value().clone())).collect();
        for ((_, server_name, user), floor) in changed {
            self.changed.insert((to, server_name, user), floor);
        }
        let proved = self.keyring.iter().filter(|proved| proved.key().0 == from);
        let proved: Vec<_> = proved.map(|proved| (Arc::clone(&proved.key().1), proved.value().clone())).collect();
        for (user, secret) in proved {
            self.keyring.entry((to, user)).or_insert(secret);
        }
        let is_moved = |key: &QuotaKey| key.0 == from && nodes(key.1);
        let keys: Vec<QuotaKey> = self.quotas.iter().map(|quota| quota.key().clone()).filter(is_moved).collect();
        for key in keys {
            if let Some(((_, node, owner), quota)) = self.quotas.remove(&key) {
                self.quotas.insert((to, node, owner), quota);
            }
        }
    }

    /// Forgets the pools that are not wanted any more: idle connections are closed, leased ones when they come back. So is what
    /// was proved last in a cluster, but of users who are `the_same` there: a session may have proved what was good before.
    pub fn retain(&self, is_wanted: impl Fn(&PoolKey, &Pool) -> bool, the_same: impl Fn(usize, &str) -> bool) {
        self.keyring.retain(|(cluster, user), _| the_same(*cluster, user));
        let unwanted = self.pools.iter().filter(|pool| !is_wanted(pool.key(), pool.value()));
        let keys: Vec<PoolKey> = unwanted.map(|pool| pool.key().clone()).collect();
        for key in keys {
            // Whoever counts leases finds it in one of both.
            let mut retired = self.retired.lock();
            if let Some((key, pool)) = self.pools.remove(&key) {
                retired.push((key, Arc::clone(&pool)));
                drop(retired);
                pool.forget();
            }
        }
        self.forget_unused_quotas();
    }

    /// Who counts in one holds it, and takes it under the lock that is held here.
    fn forget_unused_quotas(&self) {
        self.quotas.retain(|_, quota| Arc::strong_count(quota) > 1);
    }

    /// Closes the idle connections of these pools, and leased ones when they come back.
    pub fn reconnect(&self, is_meant: impl Fn(&PoolKey) -> bool, now: Instant) {
        for pool in self.pools.iter().filter(|pool| is_meant(pool.key())) {
            pool.reconnect(now);
        }
    }

    /// This login is another role's now, or has other defaults, by what its primary has told. Connections of before are closed
    /// as by [`Self::reconnect`]; those that are opened at a node which may not have replayed that are lent until it has.
    pub fn login_changed(&self, login: LoginKey, now: Instant) {
        let mut floor = Freshness::default();
        floor.wrote(now);
        if self.changed.len() >= MOST_CHANGED {
            self.changed.clear();
        }
        self.changed.insert(login.clone(), floor.clone());
        for pool in self.pools.iter().filter(|pool| login_of(pool.key()) == login) {
            pool.await_replay(floor.clone());
            pool.reconnect(now);
        }
    }

    /// Looks which nodes have replayed what logins were changed by. To be called once a second.
    pub fn settle(&self, view_of: impl Fn(usize) -> Option<Arc<View>>) {
        for pool in self.pools.iter().filter(|pool| pool.awaits_replay()) {
            view_of(pool.key().cluster).into_iter().for_each(|view| pool.settle(&view));
        }
        self.changed.retain(|(cluster, ..), floor| {
            let Some(view) = view_of(*cluster) else { return false };
            floor.settle(&view);
            !view.shown_nodes().all(|node| floor.allows(node))
        });
    }

    /// Closes the connections of these pools: idle ones now, leased ones when they come back. Returns when their server
    /// processes are gone, or at the deadline. Call on this worker.
    pub async fn empty(&self, is_meant: impl Fn(&PoolKey) -> bool, worker: usize, deadline: tokio::time::Instant) {
        loop {
            let pools = self.select(&is_meant);
            let mut leaving: Vec<_> = pools.iter().flat_map(|pool| pool.empty()).collect();
            for connection in &mut leaving {
                connection.say_goodbye();
            }
            for connection in leaving {
                connection.until_closed(worker, deadline).await;
            }
            let is_empty = pools.iter().all(|pool| pool.counts().total() == 0);
            if is_empty || tokio::time::Instant::now() >= deadline {
                return;
            }
            timers::sleep(LOOK).await;
        }
    }

    /// Closes idle connections that are too old, idle for too long, or closed by their node.
    /// While a client is there for a pool, so many of it are kept as the plan says.
    pub fn reap(&self, now: Instant, is_in_use: impl Fn(&PoolKey) -> bool) -> usize {
        // One that somebody has yet may be leasing from it in this moment.
        self.retired.lock().retain(|(_, pool)| Arc::strong_count(pool) > 1 || pool.counts().busy > 0);
        self.pools.iter().map(|pool| pool.reap(now, is_in_use(pool.key()))).sum()
    }

    /// Forgets the pools that have nothing and that nobody has, each when that has been so for as long as it may stay so; None:
    /// for ever. Whoever asks for names that there are not leaves nothing behind. To be called once a second.
    pub fn forget_unused(&self, now: Instant, may_stay: impl Fn(&PoolKey) -> Option<Duration>) {
        let is_over = |pool: &Arc<Pool>, longest: Duration| {
            Arc::strong_count(pool) == 1 && pool.unused_for(now).is_some_and(|unused| unused >= longest)
        };
        let over = self.pools.iter().filter_map(|pool| {
            let longest = may_stay(pool.key())?;
            is_over(&pool, longest).then(|| (pool.key().clone(), longest))
        });
        for (key, longest) in over.collect::<Vec<_>>() {
            // Whoever gets a pool takes it under the lock that is held here: none is forgotten that somebody has just got.
            self.pools.remove_if(&key, |_, pool| is_over(pool, longest));
        }
        self.forget_unused_quotas();
    }

    /// The pools that are meant.
    pub fn select(&self, is_meant: impl Fn(&PoolKey) -> bool) -> Vec<Arc<Pool>> {
        self.pools.iter().filter(|pool| is_meant(pool.key())).map(|pool| Arc::clone(&pool)).collect()
    }

    /// What each pool has now.
    pub fn counts(&self) -> Vec<(PoolKey, Counts)> {
        self.pools.iter().map(|pool| (pool.key().clone(), pool.counts())).collect()
    }

    /// Leases of the pools that are meant, also of those that have been forgotten.
    pub fn leases(&self, is_meant: impl Fn(&PoolKey) -> bool) -> usize {
        self.count(is_meant, |pool| pool.counts().busy)
    }

    /// Connections of them that are to be closed, and are still open.
    pub fn leaving(&self, is_meant: impl Fn(&PoolKey) -> bool) -> usize {
        self.count(is_meant, Pool::leaving)
    }

    fn count(&self, is_meant: impl Fn(&PoolKey) -> bool, of: impl Fn(&Pool) -> usize) -> usize {
        // While it is locked none is moved or forgotten.
        let retired = self.retired.lock();
        let forgotten = retired.iter().filter(|(key, _)| is_meant(key)).map(|(_, pool)| of(pool));
        let others = self.pools.iter().filter(|pool| is_meant(pool.key())).map(|pool| of(&pool));
        forgotten.sum::<usize>() + others.sum::<usize>()
    }

    /// Closes all idle connections, and takes none back.
    pub fn retire(&self) {
        for pool in &self.pools {
            pool.retire();
        }
    }
}

fn login_of(key: &PoolKey) -> LoginKey {
    (key.cluster, Arc::clone(&key.server_name), Arc::clone(&key.user))
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;

    use super::super::plan::{PoolSettings, Share};
    use super::*;
    use crate::topology::{Lsn, Role, Sample};

    fn pools() -> Pools {
        let default = PoolSettings {
            size: 2,
            min_size: 0,
            reserve_size: 0,
            reserve_timeout: Duration::ZERO,
            of_database: Some(1),
            of_user: None,
            workers: 1,
            connect_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            lifetime: Duration::ZERO,
        };
        let share = Share { size: None, max_connections: Some(1) };
        Pools::new(Plan { default, databases: [("*".into(), share)].into(), users: HashMap::new() })
    }

    fn key(database: &str) -> PoolKey {
        let database: Arc<str> = database.into();
        PoolKey { cluster: 0, node: NodeId(0), server_name: Arc::clone(&database), database, user: "ada".into() }
    }

    #[test]
    fn a_pool_that_has_nothing_is_forgotten_once_nobody_has_it() {
        let (pools, now) = (pools(), Instant::now());
        let (gate, endpoint) = (Arc::new(Gate::default()), Endpoint::plain("127.0.0.1:1".into()));
        let get = |database| pools.get(&key(database), &gate, &endpoint, None);
        let held = get("held");
        drop((get("left"), get("shop")));
        let known = || {
            let mut names: Vec<_> = pools.pools.iter().map(|pool| pool.key().database.to_string()).collect();
            names.sort();
            (names.join(" "), pools.quotas.len())
        };
        // Each database has a quota, and so has the user.
        assert_eq!(known(), ("held left shop".to_owned(), 4));
        let unless = |stays: bool| (!stays).then_some(Duration::ZERO);
        pools.forget_unused(now, |key| unless(&*key.database == "shop"));
        assert_eq!(known(), ("held shop".to_owned(), 3));
        drop(held);
        pools.forget_unused(now, |_| None);
        assert_eq!(known(), ("held shop".to_owned(), 3));
        pools.forget_unused(now, |_| Some(Duration::ZERO));
        assert_eq!(known(), (String::new(), 0));
    }

    #[tokio::test]
    async fn a_pool_that_may_stay_for_a_while_goes_when_it_has_not_been_used_for_as_long() {
        let (pools, begun) = (pools(), Instant::now());
        let (gate, endpoint) = (Arc::new(Gate::default()), Endpoint::plain("127.0.0.1:1".into()));
        let get = || pools.get(&key("shop"), &gate, &endpoint, None);
        let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3600));
        let is_there_at = |moment: Instant| {
            pools.forget_unused(moment, |_| Some(hour));
            !pools.pools.is_empty()
        };
        drop(get());
        assert!((0..60).all(|number| is_there_at(begun + minute * number)));
        // A connection is tried, and nobody is there.
        assert!(get().lease(0, Instant::now() + minute).await.is_err());
        assert!(is_there_at(begun + hour) && is_there_at(begun + hour + 59 * minute));
        assert!(!is_there_at(begun + 2 * hour));
    }

    #[test]
    fn pools_of_a_login_that_was_changed_await_its_replay_also_where_they_are_made_later() {
        let (pools, now) = (pools(), Instant::now());
        let (gate, endpoint) = (Arc::new(Gate::default()), Endpoint::plain("127.0.0.1:1".into()));
        let get = |key: &PoolKey| pools.get(key, &gate, &endpoint, None);
        let before = get(&key("shop"));
        pools.login_changed(login_of(&key("shop")), now);
        let later = get(&PoolKey { database: "alias".into(), ..key("shop") });
        assert!(before.awaits_replay() && later.awaits_replay() && !get(&key("other")).awaits_replay());
        let at = |lsn| Sample { begun: now, lsn: Lsn(lsn), timeline: None };
        let mut view = View::unknown("main", &["127.0.0.1:1".into()]);
        view.primary_samples = [at(20)].into();
        view.nodes[0].role = Role::Replica;
        for (replayed, awaits) in [(10, true), (20, false)] {
            view.nodes[0].position = Some(at(replayed));
            let seen = Arc::new(view.clone());
            pools.settle(|_| Some(Arc::clone(&seen)));
            assert_eq!([&before, &later].map(|pool| pool.awaits_replay()), [awaits; 2]);
        }
        assert!(pools.changed.is_empty());
    }

    #[test]
    fn what_was_proved_last_counts_on_for_who_is_the_same_behind_a_reload() {
        let (pools, [ada, bob]) = (pools(), ["ada", "bob"].map(Arc::<str>::from));
        let [old, new] = ["old", "new"].map(|password| Secret::new(password.to_owned()));
        for user in [&ada, &bob] {
            pools.learn(0, user, &old);
            pools.learn(0, user, &new);
        }
        pools.move_to(0, 1, |_| false);
        pools.retain(|_, _| true, |cluster, user| cluster == 1 && user == "ada");
        let proved = |cluster, user| pools.proved(cluster, user).is_some_and(|secret| secret.is_same(&new));
        assert_eq!(
            [(0, &ada), (0, &bob), (1, &ada), (1, &bob)].map(|(cluster, user)| proved(cluster, user)),
            [false, false, true, false]
        );
        // A session of before meets what is good now, though its node has no pool yet.
        let (gate, endpoint) = (Arc::new(Gate::default()), Endpoint::plain("127.0.0.1:1".into()));
        let pool = pools.get(&PoolKey { cluster: 1, ..key("shop") }, &gate, &endpoint, Some(&old));
        assert!(pool.proves(&new));
    }

    #[test]
    fn a_limit_counts_on_as_long_as_somebody_counts_in_it() {
        let (pools, now) = (pools(), Instant::now());
        let claim = pools.claim_apart(&key("shop")).expect("there is room for one");
        pools.forget_unused(now, |_| Some(Duration::ZERO));
        for _ in 0..2 {
            assert_eq!(pools.claim_apart(&key("shop")).err(), Some(Crowd::Database(1)));
        }
        drop(claim);
        pools.forget_unused(now, |_| Some(Duration::ZERO));
        assert!(pools.quotas.is_empty() && pools.claim_apart(&key("shop")).is_ok());
    }
}
