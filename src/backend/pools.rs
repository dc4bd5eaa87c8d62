//! All pools: made when first needed, reaped from time to time.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;

use super::connect::Target;
use super::gate::Gate;
use super::pool::{Pool, PoolSettings};
use super::slots::Counts;
use crate::auth::Secret;
use crate::topology::NodeId;

/// What a pool is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The cluster, by its place in the configuration.
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
    gates: Vec<Vec<Arc<Gate>>>,
    settings: PoolSettings,
}

impl Pools {
    /// No pools yet, for clusters of these numbers of nodes.
    pub fn new(nodes: impl IntoIterator<Item = usize>, settings: PoolSettings) -> Self {
        let gates = nodes.into_iter().map(|count| (0..count).map(|_| Arc::default()).collect()).collect();
        Self { pools: DashMap::new(), gates, settings }
    }

    /// The pool for this key, made if it is the first time.
    pub fn get(&self, key: &PoolKey, address: &Arc<str>, password: Option<&Secret>) -> Option<Arc<Pool>> {
        if let Some(pool) = self.pools.get(key) {
            return Some(Arc::clone(&pool));
        }
        let gate = Arc::clone(self.gate(key.cluster, key.node)?);
        let target = Target {
            address: Arc::clone(address),
            user: Arc::clone(&key.user),
            database: Arc::clone(&key.database),
            password: password.cloned(),
            salted_password: None,
            parameters: Vec::new(),
        };
        let make = || Pool::new(key.node, target, gate, self.settings.clone());
        Some(Arc::clone(&self.pools.entry(key.clone()).or_insert_with(make)))
    }

    /// The gate of a node.
    pub fn gate(&self, cluster: usize, node: NodeId) -> Option<&Arc<Gate>> {
        self.gates.get(cluster)?.get(usize::from(node.0))
    }

    /// The gates of a cluster's nodes, in order.
    pub fn gates(&self, cluster: usize) -> &[Arc<Gate>] {
        self.gates.get(cluster).map_or(&[], Vec::as_slice)
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
