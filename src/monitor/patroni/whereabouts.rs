//! Which configured node is meant by an address that a member is listed with: spelt the same, or of the same numbers now.
//!
//! An address may come to be another node's, as those of pods do. So names are looked up again from time to time and whenever
//! members are listed otherwise; what cannot be looked up just now stays as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::net::{apart, timers};
use crate::topology::NodeId;

/// The configured nodes, and whose an address was when it was last looked up.
pub(super) struct Whereabouts {
    nodes: Vec<Arc<str>>,
    /// The members that were listed last.
    listed: BTreeSet<Listed>,
    /// None: not one of the nodes'.
    known: BTreeMap<String, Option<NodeId>>,
    look_again: Instant,
    /// A look at what is known already: nobody waits for it.
    looking: JoinSet<Numbers>,
}

/// What names stand for, as far as it could be found.
type Numbers = BTreeMap<String, Vec<SocketAddr>>;

/// A member's name and its address.
pub(super) type Listed = (String, String);

/// What a name stands for; None: that could not be looked up.
type Resolved = Option<Vec<SocketAddr>>;

/// Between two looks at what stays listed the same.
const INTERVAL: Duration = Duration::from_secs(10);

impl Whereabouts {
    pub(super) fn new(nodes: &[Arc<str>]) -> Self {
        Self {
            nodes: nodes.to_vec(),
            listed: BTreeSet::new(),
            known: BTreeMap::new(),
            look_again: Instant::now(),
            looking: JoinSet::new(),
        }
    }

    /// Whose this address is, if it is a node's.
    pub(super) fn node_of(&self, address: &str) -> Option<NodeId> {
        self.spelt_like(address).or_else(|| self.known.get(address).copied().flatten())
    }

    /// These members are listed now. Answers those at addresses that are new and no node's. Only new ones are waited for, and
    /// what takes longer than is given counts as not to be looked up: the lock's word must not wait for it.
    pub(super) async fn are_listed(
        &mut self,
        listed: BTreeSet<Listed>,
        now: Instant,
        patience: Duration,
    ) -> Vec<Listed> {
        if let Some(Ok(numbers)) = self.looking.try_join_next() {
            self.know(&numbers);
        }
        let is_same = self.listed == listed;
        self.listed = listed;
        if is_same && now < self.look_again {
            return Vec::new();
        }
        self.look_again = now + INTERVAL;
        let others = self.others();
        if others.is_empty() {
            self.known.clear();
            return Vec::new();
        }
        let names = self.nodes.iter().map(|node| node.to_string()).chain(others.iter().cloned());
        let look = look_up(names.collect(), patience);
        let before = self.known.clone();
        // One that is under way is of what was listed before: it ends here.
        self.looking = JoinSet::new();
        if others.iter().all(|other| before.contains_key(other)) {
            self.looking.spawn(look);
            return Vec::new();
        }
        self.know(&look.await);
        let is_strange = |address: &String| self.known.get(address) == Some(&None) && !before.contains_key(address);
        self.listed.iter().filter(|(_, address)| is_strange(address)).cloned().collect()
    }

    /// Addresses of members that are not spelt as a node's.
    fn others(&self) -> BTreeSet<String> {
        let addresses = self.listed.iter().map(|(_, address)| address);
        addresses.filter(|address| self.spelt_like(address).is_none()).cloned().collect()
    }

    /// These were found for the nodes' names and the members' addresses.
    fn know(&mut self, numbers: &Numbers) {
        let nodes: Vec<Resolved> = self.nodes.iter().map(|node| numbers.get(&**node).cloned()).collect();
        let now_of = |other: String| {
            let before = self.known.get(&other).copied().flatten();
            let whose = whose(before, numbers.get(&other).map(Vec::as_slice), &nodes);
            (other, whose)
        };
        self.known = self.others().into_iter().map(now_of).collect();
    }

    fn spelt_like(&self, address: &str) -> Option<NodeId> {
        NodeId::at(self.nodes.iter().position(|node| **node == *address)?)
    }
}

/// Whose these numbers are, by those of the nodes.
fn whose(before: Option<NodeId>, numbers: Option<&[SocketAddr]>, nodes: &[Resolved]) -> Option<NodeId> {
    let Some(numbers) = numbers else { return before };
    let shares = |node: &Resolved| node.iter().flatten().any(|number| numbers.contains(number));
    if let Some(index) = nodes.iter().position(shares) {
        return NodeId::at(index);
    }
    before.filter(|node| nodes.get(usize::from(node.0)).is_none_or(Option::is_none))
}

/// What these names stand for, as far as that can be told in time.
async fn look_up(names: Vec<String>, patience: Duration) -> Numbers {
    let deadline = tokio::time::Instant::now() + patience;
    let mut under_way = JoinSet::new();
    for name in names {
        under_way.spawn(async move {
            // Dropping it loses an answer that nobody waits for any more.
            let found = timers::timeout_at(deadline, apart::look_up(&name)).await;
            (name, found.ok().and_then(Result::ok))
        });
    }
    let mut resolved = BTreeMap::new();
    while let Some(joined) = under_way.join_next().await {
        // What has panicked has found nothing.
        if let Ok((name, Some(numbers))) = joined {
            resolved.insert(name, numbers);
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        ([10, 0, 0, last], 5432).into()
    }

    #[test]
    fn an_address_is_the_nodes_that_has_it_now_and_stays_its_while_nothing_can_be_looked_up() {
        let (first, second) = (Some(NodeId(0)), Some(NodeId(1)));
        let nodes = [Some(vec![at(1)]), Some(vec![at(2), at(3)])];
        assert_eq!(whose(None, Some(&[at(1)]), &nodes), first);
        assert_eq!(whose(first, Some(&[at(3)]), &nodes), second, "it has moved");
        assert_eq!(whose(first, Some(&[at(4)]), &nodes), None, "it is nobody's any more");
        assert_eq!(whose(first, None, &nodes), first, "it cannot be looked up");
        let first_is_unknown = [None, Some(vec![at(2), at(3)])];
        assert_eq!(whose(first, Some(&[at(1)]), &first_is_unknown), first);
        assert_eq!(whose(first, Some(&[at(2)]), &first_is_unknown), second);
        assert_eq!(whose(second, Some(&[at(1)]), &first_is_unknown), None);
        assert_eq!(whose(None, Some(&[at(1)]), &first_is_unknown), None);
    }

    #[tokio::test]
    async fn names_and_numbers_of_the_same_node_are_one() {
        let nodes: [Arc<str>; 2] = ["localhost:5432".into(), "127.0.0.1:5433".into()];
        let mut whereabouts = Whereabouts::new(&nodes);
        let addresses = ["127.0.0.1:5432", "127.0.0.1:5433", "127.0.0.1:9"];
        let listed = || addresses.iter().zip(["a", "b", "c"]).map(|(at, name)| (name.into(), (*at).into())).collect();
        let (now, patience) = (Instant::now(), Duration::from_secs(10));
        assert_eq!(whereabouts.are_listed(listed(), now, patience).await, [("c".into(), "127.0.0.1:9".into())]);
        let whose = |whereabouts: &Whereabouts| addresses.map(|at| whereabouts.node_of(at));
        assert_eq!(whose(&whereabouts), [Some(NodeId(0)), Some(NodeId(1)), None]);
        assert!(whereabouts.are_listed(listed(), now + INTERVAL, patience).await.is_empty(), "that is known already");
        // Whoever was there comes back as another.
        whereabouts.nodes = vec!["localhost:9".into(), "127.0.0.1:5433".into()];
        let mut again = now + INTERVAL * 2;
        while whose(&whereabouts)[2].is_none() {
            whereabouts.are_listed(listed(), again, patience).await;
            tokio::task::yield_now().await;
            again += INTERVAL / 1000;
        }
        assert_eq!(whose(&whereabouts), [None, Some(NodeId(1)), Some(NodeId(0))]);
    }
}
