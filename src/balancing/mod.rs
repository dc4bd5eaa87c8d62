//! Pick one node from those allowed.

mod balance;
mod latency;

use std::time::Duration;

use smallvec::SmallVec;

use crate::topology::NodeId;

pub use balance::{Balance, Seat};
pub use latency::PeakLatency;

/// A node that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Its leases now.
    pub leases: usize,
    /// How long it has taken to answer lately; None: nothing is known.
    pub latency: Option<Duration>,
    /// Its part of the reads, compared with the others'. Nothing goes to a node of weight 0 while another can take it.
    pub weight: u32,
    /// It is in the zone that is preferred: the others are for when no such node can take the read.
    pub is_near: bool,
}

/// How a node is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The less busy of two, by leases for its weight.
    #[default]
    LeastLeases,
    /// Each by its weight, however busy it is.
    Weighted,
    /// The quicker of two, by what it has taken lately and what it has to do now.
    Latency,
}

impl Strategy {
    /// Every one by its name in configuration and rules.
    pub const NAMES: [(&'static str, Self); 3] =
        [("least_leases", Self::LeastLeases), ("weighted", Self::Weighted), ("latency", Self::Latency)];
}

/// One of the candidates. `turn` rises by one each time: the nodes that come into question follow it evenly.
///
/// Looking at two only keeps a burst of clients from piling onto the one node that looked idle to all of them.
pub fn choose(candidates: &[Candidate], strategy: Strategy, turn: u64) -> Option<NodeId> {
    let best = candidates.iter().map(Candidate::rank).max()?;
    if candidates.iter().all(|candidate| candidate.rank() == best) {
        return choose_alike(candidates, strategy, turn);
    }
    let eligible: SmallVec<[Candidate; 8]> =
        candidates.iter().filter(|candidate| candidate.rank() == best).copied().collect();
    choose_alike(&eligible, strategy, turn)
}

/// The same among candidates of one rank.
fn choose_alike(candidates: &[Candidate], strategy: Strategy, turn: u64) -> Option<NodeId> {
    let first = match candidates {
        [only] => return Some(only.node),
        several => draw(several.iter(), turn.wrapping_mul(FIRST))?,
    };
    if strategy == Strategy::Weighted {
        return Some(first.node);
    }
    let others = candidates.iter().filter(|candidate| candidate.node != first.node);
    let second = match candidates {
        [one, other] => {
            if one.node == first.node {
                other
            } else {
                one
            }
        }
        _ => draw(others, turn.wrapping_mul(SECOND))?,
    };
    let second_wins = match strategy {
        Strategy::Latency => cost(second) < cost(first),
        _ => busyness(second, first) < busyness(first, second),
    };
    Some(if second_wins { second.node } else { first.node })
}

impl Candidate {
    /// Those with a weight come before those without, those near before those far.
    #[inline]
    fn rank(&self) -> (bool, bool) {
        (self.weight > 0, self.is_near)
    }

    #[inline]
    fn part(&self) -> u64 {
        u64::from(self.weight.max(1))
    }
}

/// The candidate at this place of all their weights laid end to end; the place is of 2^64.
#[inline]
fn draw<'a>(candidates: impl Iterator<Item = &'a Candidate> + Clone, place: u64) -> Option<&'a Candidate> {
    let total: u64 = candidates.clone().map(Candidate::part).sum();
    let mut left = ((u128::from(place) * u128::from(total)) >> u64::BITS) as u64;
    let mut last = None;
    for candidate in candidates {
        if left < candidate.part() {
            return Some(candidate);
        }
        left -= candidate.part();
        last = Some(candidate);
    }
    last
}

/// Leases for its weight, multiplied by the other's weight so that no division is needed.
fn busyness(candidate: &Candidate, other: &Candidate) -> u64 {
    (candidate.leases as u64).saturating_mul(other.part())
}

/// What one more read there may take. A node that has not been asked yet is asked once, and not by everybody at once.
fn cost(candidate: &Candidate) -> Duration {
    match candidate.latency {
        Some(latency) => latency.saturating_mul(u32::try_from(candidate.leases + 1).unwrap_or(u32::MAX)),
        None if candidate.leases == 0 => Duration::ZERO,
        None => Duration::MAX,
    }
}

/// Multiples of these, modulo 2^64, are spread as evenly in the plane as numbers can be: the powers of 1/1.3247…
const FIRST: u64 = 0xC13F_A9A9_02A6_328F;
const SECOND: u64 = 0x91E1_0DA5_C79E_7B1D;

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u16) -> Candidate {
        Candidate { node: NodeId(node), leases: 0, latency: None, weight: 1, is_near: true }
    }

    fn shares(candidates: &[Candidate], strategy: Strategy) -> Vec<u32> {
        let mut counts = vec![0; candidates.len()];
        for turn in 0..10_000 {
            counts[usize::from(choose(candidates, strategy, turn).unwrap().0)] += 1;
        }
        counts
    }

    #[test]
    fn nothing_is_chosen_of_nothing() {
        assert_eq!(choose(&[], Strategy::LeastLeases, 42), None);
    }

    #[test]
    fn the_less_busy_of_two_wins() {
        let busy = Candidate { leases: 5, ..candidate(0) };
        let idle = Candidate { leases: 2, ..candidate(1) };
        assert_eq!(shares(&[busy, idle], Strategy::LeastLeases), [0, 10_000]);
        let strong = Candidate { weight: 3, ..busy };
        assert_eq!(shares(&[strong, idle], Strategy::LeastLeases), [10_000, 0]);
    }

    #[test]
    fn equal_nodes_are_chosen_one_after_the_other() {
        for count in 2..6 {
            let nodes: Vec<_> = (0..count).map(candidate).collect();
            let even = 10_000 / u32::from(count);
            for strategy in [Strategy::LeastLeases, Strategy::Weighted] {
                let shares = shares(&nodes, strategy);
                assert!(shares.iter().all(|share| share.abs_diff(even) < 50), "{shares:?}");
            }
        }
    }

    #[test]
    fn weights_are_kept_to() {
        let nodes = [Candidate { weight: 3, ..candidate(0) }, candidate(1), Candidate { weight: 0, ..candidate(2) }];
        for strategy in [Strategy::LeastLeases, Strategy::Weighted] {
            let shares = shares(&nodes, strategy);
            assert!(shares[0].abs_diff(7_500) < 50 && shares[2] == 0, "{shares:?}");
        }
        assert_eq!(shares(&nodes[..], Strategy::Weighted).iter().sum::<u32>(), 10_000);
        assert_eq!(choose(&nodes[2..], Strategy::Weighted, 1), Some(NodeId(2)));
    }

    #[test]
    fn who_is_near_comes_first() {
        let far = Candidate { is_near: false, ..candidate(0) };
        let near = Candidate { leases: 100, ..candidate(1) };
        assert_eq!(shares(&[far, near], Strategy::LeastLeases), [0, 10_000]);
        let useless = Candidate { weight: 0, ..near };
        assert_eq!(shares(&[far, useless], Strategy::LeastLeases), [10_000, 0]);
    }

    #[test]
    fn the_quicker_of_two_wins_until_it_has_more_to_do() {
        let slow = Candidate { latency: Some(Duration::from_millis(20)), ..candidate(0) };
        let quick = Candidate { latency: Some(Duration::from_millis(2)), ..candidate(1) };
        assert_eq!(shares(&[slow, quick], Strategy::Latency), [0, 10_000]);
        let crowded = Candidate { leases: 10, ..quick };
        assert_eq!(shares(&[slow, crowded], Strategy::Latency), [10_000, 0]);
        let unknown = Candidate { latency: None, leases: 1, ..candidate(0) };
        assert_eq!(shares(&[unknown, crowded], Strategy::Latency), [0, 10_000]);
    }
}
