//! Pick one node from those allowed.

use crate::topology::NodeId;

/// A node that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its leases now.
    pub leases: usize,
}

/// The less busy of two candidates; `turn` says which two, one in each half of its bits, and the first wins a tie.
///
/// Looking at two only keeps a burst of clients from piling onto the one node that looked idle to all of them; turns
/// that go round spread what is equally busy evenly.
pub fn choose(candidates: &[Candidate], turn: u64) -> Option<NodeId> {
    let count = u64::try_from(candidates.len()).ok()?;
    let draw = |bits: u64| candidates.get(usize::try_from(bits.checked_rem(count)?).ok()?);
    let first = draw(turn & 0xFFFF_FFFF)?;
    let second = draw(turn >> 32)?;
    Some(if second.leases < first.leases { second.node } else { first.node })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(leases: &[usize]) -> Vec<Candidate> {
        leases
            .iter()
            .enumerate()
            .map(|(i, &leases)| Candidate { node: NodeId(u16::try_from(i).unwrap()), leases })
            .collect()
    }

    #[test]
    fn nothing_is_chosen_of_nothing() {
        assert_eq!(choose(&[], 42), None);
    }

    #[test]
    fn the_less_busy_of_two_wins() {
        assert_eq!(choose(&candidates(&[5, 2]), 1 << 32), Some(NodeId(1)));
        assert_eq!(choose(&candidates(&[2, 5]), 1 << 32), Some(NodeId(0)));
    }

    #[test]
    fn equal_nodes_are_all_chosen() {
        let nodes = candidates(&[0, 0, 0]);
        let chosen: std::collections::HashSet<_> =
            (0..3).filter_map(|turn| choose(&nodes, turn | (turn + 1) << 32)).collect();
        assert_eq!(chosen.len(), 3);
    }
}
