//! How the nodes of one cluster share reads, by configuration.

use std::time::{Duration, Instant};

use super::Strategy;
use crate::topology::NodeId;

/// How the nodes of one cluster share reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// How a node is chosen.
    pub strategy: Strategy,
    /// A node that takes reads again gets its full part of them only after this.
    pub slow_start: Duration,
    /// A session stays with the replica that it has read from, as long as that can take its reads.
    pub sticky: bool,
    /// The nodes, in the order of the configuration; one that is missing is like any other.
    pub seats: Vec<Seat>,
}

/// A node's place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its part of the reads, compared with the others'; 0: only when no other can take them.
    pub weight: u16,
    /// It is in the preferred zone, or there is none.
    pub is_near: bool,
}

impl Default for Seat {
    fn default() -> Self {
        Self { weight: 1, is_near: true }
    }
}

/// A whole weight is this many parts, so that a slow start has steps.
const PARTS: u32 = 100;

/// Where a slow start begins: the first reads fill caches, and must be there to do so.
const FIRST_PARTS: u32 = 10;

impl Balance {
    /// The node's weight now, in parts. `reads_since` says since when it takes reads.
    pub fn weight(&self, node: NodeId, reads_since: Option<Instant>, now: Instant) -> u32 {
        let weight = u32::from(self.seat(node).weight);
        if self.slow_start.is_zero() {
            return weight * PARTS;
        }
        let since = reads_since.map(|since| now.saturating_duration_since(since));
        match since {
            Some(since) if since < self.slow_start => {
                let done = u128::from(PARTS) * since.as_micros() / self.slow_start.as_micros().max(1);
                weight * u32::try_from(done).unwrap_or(PARTS).clamp(FIRST_PARTS, PARTS)
            }
            _ => weight * PARTS,
        }
    }

    /// Whether the node is in the preferred zone, or there is none.
    pub fn is_near(&self, node: NodeId) -> bool {
        self.seat(node).is_near
    }

    /// Whether one may take what is meant for the other where that is busy: both in the preferred zone or not, both with a
    /// weight or not.
    pub fn are_alike(&self, one: NodeId, other: NodeId) -> bool {
        let rank = |node| (self.seat(node).weight > 0, self.seat(node).is_near);
        rank(one) == rank(other)
    }

    fn seat(&self, node: NodeId) -> Seat {
        self.seats.get(usize::from(node.0)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_comes_back_gets_its_part_little_by_little() {
        let balance = Balance {
            slow_start: Duration::from_secs(100),
            seats: vec![Seat { weight: 3, is_near: true }],
            ..Balance::default()
        };
        let begun = Instant::now();
        let weight = |seconds| balance.weight(NodeId(0), Some(begun), begun + Duration::from_secs(seconds));
        assert_eq!([weight(0), weight(50), weight(100), weight(1000)], [30, 150, 300, 300]);
        assert_eq!(balance.weight(NodeId(0), None, begun), 300);
        assert_eq!(balance.weight(NodeId(9), None, begun), 100);
    }
}
