//! The cluster as one look at its nodes has shown it, and where it takes a read.

use std::sync::Arc;
use std::time::Instant;

use crate::balancing::Balance;
use crate::config::Cluster;
use crate::routing::place::Circumstances;
use crate::routing::{Intent, Placement, Reads, place};
use crate::topology::{NodeId, View};

/// What the look has shown.
pub(super) struct Seen {
    view: Arc<View>,
    /// Its moment: later, nothing of it has changed.
    at: Instant,
    reads: Reads,
    groups: Vec<(Arc<str>, Vec<u16>)>,
    balance: Balance,
}

impl Seen {
    /// `reads` is where they go by configuration.
    pub(super) fn new(view: Arc<View>, at: Instant, cluster: &Cluster, reads: Reads) -> Self {
        Self { view, at, reads, groups: cluster.groups.clone(), balance: cluster.balance.clone() }
    }

    /// Where it would go as the first statement of a session, of which no replica lacks anything.
    pub(super) fn place(&self, intent: &Intent) -> Placement {
        let group = |name: &str| self.groups.iter().find(|(group, _)| **group == *name).map(|(_, nodes)| &**nodes);
        let circumstances = Circumstances {
            reads: self.reads,
            freshness: None,
            group: &group,
            balance: &self.balance,
            latency: &|_| None,
            stays_with: None,
            leases: &|_| 0,
            excluded: &[],
            may_wait: false,
            now: self.at,
            turn: 0,
        };
        place(intent, &self.view, &circumstances)
    }

    pub(super) fn is_primary(&self, node: NodeId) -> bool {
        self.view.primary == Some(node)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::topology::{NodeState, Role};

    /// A primary and two replicas, of which so many take reads.
    pub(in crate::explain) fn cluster(readable: usize, reads: Reads) -> Seen {
        let mut view = View::unknown("c", &["a:1".into(), "b:1".into(), "c:1".into()]);
        for (number, node) in view.nodes.iter_mut().enumerate() {
            node.role = if number == 0 { Role::Primary } else { Role::Replica };
            node.state = NodeState::Up;
            node.takes_reads = (1..=readable).contains(&number);
        }
        view.primary = Some(NodeId(0));
        let balance = Balance::default();
        Seen { view: Arc::new(view), at: Instant::now(), reads, groups: Vec::new(), balance }
    }
}
