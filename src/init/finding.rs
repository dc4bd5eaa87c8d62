//! What was seen of a cluster: what a configuration is drafted from.

use super::place::Place;
use crate::topology::{PostmasterStart, SystemId};

/// Everything that was seen.
#[derive(Debug)]
pub(super) struct Finding {
    /// At least one, the primary first.
    pub(super) nodes: Vec<Node>,
    /// Where a node was looked for, and is none of this cluster.
    pub(super) absent: Vec<Absent>,
    /// Replicas that nodes have told of, and that were not found.
    pub(super) unfound: Vec<Unfound>,
    /// Members of Patroni whose REST API answers, if it manages this cluster.
    pub(super) patroni: Vec<Place>,
    /// Patroni lists every one of the nodes, so that it can be left to find them.
    pub(super) patroni_lists_all: bool,
}

/// A node, as it says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) system: SystemId,
    pub(super) start: PostmasterStart,
    pub(super) role: Role,
    /// As in `server_version`.
    pub(super) version: String,
    /// The port that it listens on itself, which may be another one than that of its place.
    pub(super) port: u16,
    pub(super) max_connections: usize,
    /// Of those, for superusers and the like.
    pub(super) reserved: usize,
    pub(super) password_encryption: String,
    /// The version of TLS by which it was spoken to.
    pub(super) tls: Option<String>,
    /// The role that asked may see everything of replication.
    pub(super) sees_replication: bool,
    /// The role that asked may read passwords.
    pub(super) reads_passwords: bool,
    /// Replicas that stream from it.
    pub(super) followers: Vec<Follower>,
    /// Those that the role that asked may connect to.
    pub(super) databases: Vec<String>,
    /// Where else it answers.
    pub(super) also: Vec<Place>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Role {
    /// Out of recovery.
    Primary,
    /// In recovery.
    Replica {
        /// Where it takes the log from, as far as it tells.
        upstream: Vec<Place>,
        /// The age of what it has replayed last, in seconds; 0: it has replayed all that it has received.
        behind: Option<f64>,
    },
}

/// A replica, as the node that it streams from tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Follower {
    /// Its `application_name`.
    pub(super) name: String,
    /// None: on a socket of the node's own machine.
    pub(super) host: Option<String>,
    /// The role that asked may not see where it is.
    pub(super) is_hidden: bool,
}

/// Why somebody was looked for somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The URL.
    Url,
    /// A replica takes the log from there.
    UpstreamOf(Place),
    /// A replica streams from this node, and may listen there.
    FollowerOf(Place),
    /// Patroni's REST API here.
    Patroni(Place),
}

/// Where no node of this cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Absent {
    pub(super) place: Place,
    pub(super) source: Source,
    pub(super) why: String,
}

/// Replicas on one host that were not found, not all of them at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfound {
    /// Whom they stream from.
    pub(super) upstream: Place,
    /// Their names; they may be the same.
    pub(super) names: Vec<String>,
    /// Where they are; None: it may not be seen.
    pub(super) host: Option<String>,
    /// How many of them were found.
    pub(super) found: usize,
    /// The ports of that host that were tried, and who is there.
    pub(super) tried: Vec<(u16, String)>,
}

impl Node {
    /// Server connections that it has for others than superusers.
    pub(super) fn room(&self) -> usize {
        self.max_connections.saturating_sub(self.reserved)
    }

    /// Both are the same server, by whatever address.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.system == other.system && self.start == other.start && self.port == other.port
    }

    pub(super) fn is_primary(&self) -> bool {
        self.role == Role::Primary
    }
}

/// Nodes for tests.
#[cfg(test)]
pub(super) mod examples {
    use super::*;

    pub(in crate::init) fn place(address: &str) -> Place {
        Place::parse(address).unwrap()
    }

    pub(in crate::init) fn primary(address: &str, followers: Vec<Follower>) -> Node {
        Node {
            system: SystemId(7),
            // Two nodes never start in the same microsecond.
            start: PostmasterStart(address.bytes().map(i64::from).sum()),
            role: Role::Primary,
            version: "15.18".to_owned(),
            port: place(address).port,
            max_connections: 100,
            reserved: 3,
            password_encryption: "scram-sha-256".to_owned(),
            tls: None,
            sees_replication: true,
            reads_passwords: false,
            followers,
            databases: vec!["postgres".to_owned(), "shop".to_owned()],
            also: Vec::new(),
            place: place(address),
        }
    }

    pub(in crate::init) fn replica(address: &str, upstream: &str) -> Node {
        let role = Role::Replica { upstream: vec![place(upstream)], behind: Some(0.0) };
        Node { role, ..primary(address, Vec::new()) }
    }

    pub(in crate::init) fn follower(name: &str, host: &str) -> Follower {
        Follower { name: name.to_owned(), host: Some(host.to_owned()), is_hidden: false }
    }
}
