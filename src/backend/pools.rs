//! All pools: made when first needed, reaped from time to time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use dashmap::DashMap;

use super::connect::Target;
use super::endpoint::Endpoint;
use super::gate::Gate;
use super::pool::{Pool, PoolSettings};
use super::slots::Counts;
use crate::auth::Secret;
use crate::topology::NodeId;

/// What a pool is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The cluster, by the number it got when it was first configured so.
    pub cluster: usize,
    /// The node.
    pub node: NodeId,
    /// The database's name on the nodes.
    pub database: Arc<str>,
    /// The role.
    pub user: Arc<str>,
}

/// All pools of this process.
pub struct Pools {
    pools: DashMap<PoolKey, Arc<Pool>>,
    settings: ArcSwap<PoolSettings>,
    /// What was proved last, by cluster and user.
    keyring: DashMap<(usize, Arc<str>), Secret>,
    made: Instant,
    /// When a session's write was last seen to end, in microseconds since `made`; 0: never.
    last_write: AtomicU64,
}

impl Pools {
    /// No pools yet.
    pub fn new(settings: PoolSettings) -> Self {
        Self {
            pools: DashMap::new(),
            settings: ArcSwap::from_pointee(settings),
            keyring: DashMap::new(),
            made: Instant::now(),
            last_write: AtomicU64::new(0),
        }
    }

    /// A session has written, and has been told so by now.
    pub fn wrote(&self, now: Instant) {
        let since = now.saturating_duration_since(self.made).as_micros();
        self.last_write.fetch_max(u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1), Ordering::Relaxed);
    }

    /// When a session last wrote: a client that comes back on a new connection must find it.
    pub fn last_write(&self) -> Option<Instant> {
        match self.last_write.load(Ordering::Relaxed) {
            0 => None,
            since => self.made.checked_add(Duration::from_micros(since)),
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
            database: Arc::clone(&key.database),
            password: None,
            salted_password: None,
            parameters: Vec::new(),
        };
        let proved = self.keyring.get(&(key.cluster, Arc::clone(&key.user))).map(|secret| secret.clone());
        let target = Target { password: proved.or_else(|| password.cloned()), ..target };
        let make = || Pool::new(key.node, target, Arc::clone(gate), self.settings.load_full());
        Arc::clone(&self.pools.entry(key.clone()).or_insert_with(make))
    }

    /// Every pool keeps its connections by these settings from now on.
    pub fn set(&self, settings: PoolSettings) {
        let settings = Arc::new(settings);
        self.settings.store(Arc::clone(&settings));
        for pool in &self.pools {
            pool.set(Arc::clone(&settings));
        }
    }

    /// How pools keep their connections.
    pub fn settings(&self) -> Arc<PoolSettings> {
        self.settings.load_full()
    }

    /// Pools of the cluster `from` at these nodes become pools of the cluster `to`.
    pub fn move_to(&self, from: usize, to: usize, nodes: impl Fn(NodeId) -> bool) {
        let is_moved = |key: &PoolKey| key.cluster == from && nodes(key.node);
        let keys: Vec<PoolKey> = self.pools.iter().map(|pool| pool.key().clone()).filter(is_moved).collect();
        for key in keys {
            if let Some((key, pool)) = self.pools.remove(&key) {
                self.pools.insert(PoolKey { cluster: to, ..key }, pool);
            }
        }
    }

    /// Forgets the pools that are not wanted any more: idle connections are closed, leased ones when they come back.
    pub fn retain(&self, is_wanted: impl Fn(&PoolKey) -> bool) {
        // Passwords may be others now: what is proved next counts, and until then what each session has proved.
        self.keyring.clear();
        let keys: Vec<PoolKey> =
            self.pools.iter().map(|pool| pool.key().clone()).filter(|key| !is_wanted(key)).collect();
        for key in keys {
            if let Some((_, pool)) = self.pools.remove(&key) {
                pool.retire();
            }
        }
    }

    /// Closes the idle connections of these pools, and leased ones when they come back.
    pub fn reconnect(&self, is_meant: impl Fn(&PoolKey) -> bool, now: Instant) {
        for pool in self.pools.iter().filter(|pool| is_meant(pool.key())) {
            pool.reconnect(now);
        }
    }

    /// Closes idle connections that are too old, idle for too long, or closed by their node.
    pub fn reap(&self, now: Instant) -> usize {
        self.pools.iter().map(|pool| pool.reap(now)).sum()
    }

    /// What each pool has now.
    pub fn counts(&self) -> Vec<(PoolKey, Counts)> {
        self.pools.iter().map(|pool| (pool.key().clone(), pool.counts())).collect()
    }

    /// Closes all idle connections, and takes none back.
    pub fn retire(&self) {
        for pool in &self.pools {
            pool.retire();
        }
    }
}
