//! What all clients share: who may connect, to which clusters, through which pools, by which rules.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use tokio::sync::watch;

use super::welcome::Welcomes;
use crate::auth::{Secret, Verifier};
use crate::backend::Pools;
use crate::backend::cancel::CancelKeys;
use crate::config::{Limits, PoolMode};
use crate::routing::{Consistency, Reads, RuleSet};
use crate::topology::{Doubt, NodeId, View};

/// What all clients share.
pub struct Server {
    /// The clusters, in the order of the configuration.
    pub clusters: Vec<Cluster>,
    /// The databases by the names that clients ask for.
    pub databases: HashMap<Arc<str>, Database>,
    /// Who may connect.
    pub users: HashMap<Arc<str>, User>,
    /// Makes the answers about unknown users stable and indistinguishable.
    pub mock_secret: [u8; 32],
    /// Server connections.
    pub pools: Pools,
    /// Who can be cancelled.
    pub cancel_keys: CancelKeys,
    /// What clients are told of the server at login.
    pub welcomes: Welcomes,
    /// The rules in force.
    pub rules: Arc<RuleSet>,
    /// Where reads go.
    pub reads: Reads,
    /// What a session's reads must have seen.
    pub consistency: Consistency,
    /// How long one read may wait for a replica to catch up with its session.
    pub freshness_wait: Duration,
    /// How long statements wait for a primary.
    pub hold: Duration,
    /// How long a session waits for a server connection.
    pub queue_timeout: Duration,
    /// When a server connection goes back to its pool.
    pub mode: PoolMode,
    /// Most prepared statements on one server connection.
    pub prepared_statements: usize,
    /// Limits on clients.
    pub limits: Limits,
}

/// A cluster, as far as clients go.
pub struct Cluster {
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
    /// Named groups of nodes.
    pub groups: Vec<(Arc<str>, Vec<u16>)>,
}

/// A database that clients ask for.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its cluster.
    pub cluster: usize,
    /// Its name on the nodes.
    pub server_name: Arc<str>,
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct User {
    /// What a client must prove.
    pub verifier: Verifier,
    /// What we prove to nodes.
    pub server_password: Option<Secret>,
}

impl Cluster {
    /// The nodes of this group.
    pub fn group(&self, name: &str) -> Option<&[u16]> {
        self.groups.iter().find(|(group, _)| **group == *name).map(|(_, nodes)| &**nodes)
    }
}
