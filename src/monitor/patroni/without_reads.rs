//! Which nodes an operator has taken out of reads by a tag (`noloadbalance`), as each was listed last.

use std::collections::BTreeSet;

use crate::topology::NodeId;

/// A member whose Patroni is stopped is listed no more, while its PostgreSQL goes on: what an operator wished of it stands until
/// it is listed otherwise.
#[derive(Debug, Default)]
pub(super) struct WithoutReads(BTreeSet<NodeId>);

impl WithoutReads {
    /// These are, until they are listed otherwise.
    pub(super) fn new(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        Self(nodes.into_iter().collect())
    }

    /// What is listed now: nodes, and whether a member there has the tag. Where two members are at one node, as after one has
    /// got another name, one tag is enough.
    pub(super) fn listed(&mut self, members: &[(NodeId, bool)]) {
        for (node, _) in members {
            self.0.remove(node);
        }
        self.0.extend(members.iter().filter(|(_, is_tagged)| *is_tagged).map(|(node, _)| *node));
    }

    /// All of them.
    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.0.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: NodeId = NodeId(0);
    const REPLICA: NodeId = NodeId(1);

    #[test]
    fn a_tag_stands_until_its_member_is_listed_without_it() {
        let mut without = WithoutReads::default();
        without.listed(&[(LEADER, false), (REPLICA, true)]);
        assert_eq!(without.nodes(), [REPLICA]);
        // Its Patroni is stopped.
        without.listed(&[(LEADER, false)]);
        assert_eq!(without.nodes(), [REPLICA]);
        without.listed(&[]);
        assert_eq!(without.nodes(), [REPLICA]);
        // It is there again, and the tag is gone.
        without.listed(&[(LEADER, false), (REPLICA, false)]);
        assert!(without.nodes().is_empty());
    }

    #[test]
    fn of_two_members_at_one_node_one_tag_is_enough() {
        let mut without = WithoutReads::new([LEADER]);
        without.listed(&[(REPLICA, true), (REPLICA, false)]);
        assert_eq!(without.nodes(), [LEADER, REPLICA]);
    }
}
