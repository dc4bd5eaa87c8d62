//! From an intent to a node: role, freshness, health, balance.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::terms::{Nodes, Terms};
use super::{Freshness, Intent, Reads, Reason};
use crate::balancing::{self, Balance, Candidate, Strategy};
use crate::topology::{NodeId, NodeView, Role, View};

/// What [`place`] must know beside the intent and the view.
pub struct Circumstances<'a> {
    /// Where reads go by configuration.
    pub reads: Reads,
    /// What the session must see, settled against the same view; None: anything (`eventual`).
    pub freshness: Option<&'a Freshness>,
    /// The nodes of a group, by its name; None if the cluster has none of this name.
    pub group: &'a dyn Fn(&str) -> Option<&'a [u16]>,
    /// How the cluster's nodes share reads.
    pub balance: &'a Balance,
    /// Leases of each node now, by its index.
    pub leases: &'a dyn Fn(NodeId) -> usize,
    /// How long a node has taken to answer lately; None: it has not been asked.
    pub latency: &'a dyn Fn(NodeId) -> Option<Duration>,
    /// The node that the session stays with, if it can take the read.
    pub stays_with: Option<NodeId>,
    /// Nodes that have just failed this statement.
    pub excluded: &'a [NodeId],
    /// Whether the statement may wait for a replica to become fresh.
    pub may_wait: bool,
    /// Whose turn it is; see [`balancing::choose`].
    pub turn: u64,
    /// The present moment: nodes that were last seen too long ago take nothing.
    pub now: Instant,
}

/// Where a statement goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To this node.
    Node(NodeId, Reason),
    /// It must wait for a primary, or for a view that is believed.
    AwaitPrimary(Reason),
    /// Replicas are there, and one may soon have what the session must see.
    AwaitFreshness,
    /// Nowhere: none of the nodes that its rule names can take it, and the rule wants no other.
    Refused,
}

impl Placement {
    /// What a client is told of [`Placement::Refused`].
    pub const REFUSED: &'static str = "none of the nodes that a rule gives for this read can take it now";
}

/// Finds the node for an intent that is not refused.
pub fn place(intent: &Intent, view: &View, now: &Circumstances<'_>) -> Placement {
    let reason = intent.reason();
    let Intent::Read { terms, .. } = intent else { return on_primary(view, now, reason) };
    let terms = terms.as_deref();
    if terms.is_none()
        && let Some(node) = pick_usual(view, now)
    {
        return Placement::Node(node, reason);
    }
    let configured = [if now.reads == Reads::Any { Nodes::Any } else { Nodes::Replicas }];
    let choices = terms.map(|terms| &*terms.choices).filter(|choices| !choices.is_empty()).unwrap_or(&configured);
    let mut why_not = WhyNot::Missing;
    for (position, nodes) in choices.iter().enumerate() {
        match pick(nodes, terms, view, now) {
            Ok(node) if position == 0 => return Placement::Node(node, reason),
            Ok(node) => return Placement::Node(node, Reason::FellBack),
            Err(WhyNot::Stale) if now.may_wait => return Placement::AwaitFreshness,
            Err(why) => why_not = why_not.max(why),
        }
    }
    if intent.keeps_to_its_nodes() {
        // Who is not believed now may be so in a moment.
        let is_named = |node: &NodeView| {
            choices.iter().any(|nodes| match nodes {
                Nodes::Group(name) => (now.group)(name).unwrap_or_default().contains(&node.id.0),
                Nodes::Replicas | Nodes::Any => true,
            })
        };
        let may_come = why_not == WhyNot::Unbelieved || view.nodes.iter().any(|node| node.is_silent && is_named(node));
        return if may_come { Placement::AwaitPrimary(reason) } else { Placement::Refused };
    }
    let is_named = matches!(choices.first(), Some(Nodes::Group(_)));
    on_primary(
        view,
        now,
        match why_not {
            WhyNot::Missing | WhyNot::Unbelieved if is_named => Reason::FellBack,
            WhyNot::Missing | WhyNot::Unbelieved => Reason::NoReplica,
            WhyNot::TooFarBehind => Reason::TooFarBehind,
            WhyNot::Stale => Reason::NotFresh,
        },
    )
}

/// The replica for a read on no terms, where one or two may take it and nothing else counts than who is less busy: most
/// reads. None: it takes the long way.
#[inline]
fn pick_usual(view: &View, now: &Circumstances<'_>) -> Option<NodeId> {
    let strategy = now.balance.strategy;
    if now.reads != Reads::Replicas
        || !view.trusts_replicas(now.now)
        || strategy != Strategy::LeastLeases
        || !now.excluded.is_empty()
        || now.stays_with.is_some()
    {
        return None;
    }
    let is_allowed = |node: &&NodeView| now.freshness.is_none_or(|freshness| freshness.allows(node));
    let mut nodes = view.readable_replicas().filter(is_allowed);
    let first = nodes.next()?;
    let Some(second) = nodes.next() else { return Some(first.id) };
    if nodes.next().is_some() {
        return None;
    }
    balancing::choose(&[candidate(first, strategy, now), candidate(second, strategy, now)], strategy, now.turn)
}

/// Why none of some nodes can take a read; a later one tells more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum WhyNot {
    /// None of them is there.
    Missing,
    /// Those that are there are too far behind.
    TooFarBehind,
    /// Those that are there lack what the session must see.
    Stale,
    /// Of those that are there nothing is believed, for we have stood still.
    Unbelieved,
}

fn pick(nodes: &Nodes, terms: Option<&Terms>, view: &View, now: &Circumstances<'_>) -> Result<NodeId, WhyNot> {
    let group = match nodes {
        Nodes::Group(name) => Some((now.group)(name).unwrap_or_default()),
        Nodes::Replicas | Nodes::Any => None,
    };
    let is_meant = |node: &NodeView| group.is_none_or(|group| group.contains(&node.id.0));
    let with_primary = *nodes != Nodes::Replicas;
    let max_lag = terms.and_then(|terms| terms.max_lag);
    let strategy = terms.and_then(|terms| terms.strategy).unwrap_or(now.balance.strategy);
    let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
    let mut why_not = WhyNot::Missing;
    // One that was last seen too long ago may be none any more, or far behind.
    let is_trusted = |node: &&NodeView| with_primary && view.trusted_primary(now.now) == Some(node.id);
    let trusts_replicas = view.trusts_replicas(now.now);
    let readable = view.readable_replicas().chain(view.primary().filter(is_trusted));
    for node in readable.filter(|node| is_meant(node) && !now.excluded.contains(&node.id)) {
        if node.role == Role::Replica && !trusts_replicas {
            why_not = WhyNot::Unbelieved;
        } else if let Some(why) = lacks(node, max_lag, now.freshness) {
            why_not = why_not.max(why);
        } else if now.stays_with == Some(node.id) {
            return Ok(node.id);
        } else {
            candidates.push(candidate(node, strategy, now));
        }
    }
    balancing::choose(&candidates, strategy, now.turn).ok_or(why_not)
}

/// By a newer view, a node that a read was placed at may take it still. Settle what the session must see against that view
/// before.
pub fn may_still_take(intent: &Intent, node: &NodeView, freshness: Option<&Freshness>) -> bool {
    let max_lag = intent.terms().and_then(|terms| terms.max_lag);
    (node.takes_reads || node.role == Role::Primary) && lacks(node, max_lag, freshness).is_none()
}

/// Why a node that is there does not take a read, if it does not.
#[inline]
fn lacks(node: &NodeView, max_lag: Option<Duration>, freshness: Option<&Freshness>) -> Option<WhyNot> {
    if !is_within(max_lag, node) {
        Some(WhyNot::TooFarBehind)
    } else if freshness.is_some_and(|freshness| !freshness.allows(node)) {
        Some(WhyNot::Stale)
    } else {
        None
    }
}

/// A lag that is not known may be any.
fn is_within(max_lag: Option<Duration>, node: &NodeView) -> bool {
    max_lag.is_none_or(|most| node.role == Role::Primary || node.lag.is_some_and(|lag| lag <= most))
}

fn candidate(node: &NodeView, strategy: Strategy, now: &Circumstances<'_>) -> Candidate {
    Candidate {
        node: node.id,
        leases: (now.leases)(node.id),
        latency: (strategy == Strategy::Latency).then(|| (now.latency)(node.id)).flatten(),
        weight: now.balance.weight(node.id, node.reads_since, now.now),
        is_near: now.balance.is_near(node.id),
    }
}

fn on_primary(view: &View, now: &Circumstances<'_>, reason: Reason) -> Placement {
    match view.trusted_primary(now.now) {
        Some(node) if !now.excluded.contains(&node) => Placement::Node(node, reason),
        _ => Placement::AwaitPrimary(reason),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::{Strategy as _, any, prop_assert_eq, proptest};
    use proptest::sample::select;

    use super::*;
    use crate::balancing::Seat;
    use crate::routing::safety;
    use crate::routing::terms::Otherwise;

    const PRIMARY: NodeId = NodeId(0);
    const GROUP: &[u16] = &[1, 2];
    const SOON: Duration = Duration::from_secs(1);

    /// A primary and two replicas, all believed for a second.
    fn view(now: Instant) -> View {
        let mut view = View::unknown("test", &["a:1".into(), "b:1".into(), "c:1".into()]);
        for node in &mut view.nodes {
            node.role = if node.id == PRIMARY { Role::Primary } else { Role::Replica };
            node.takes_reads = node.role == Role::Replica;
        }
        (view.primary, view.primary_until, view.replicas_until) = (Some(PRIMARY), Some(now + SOON), Some(now + SOON));
        view
    }

    fn read(terms: Option<Terms>) -> Intent {
        Intent::Read { safe: safety::of_nothing(), reason: Reason::Read, terms: terms.map(Arc::new) }
    }

    fn placed(intent: &Intent, view: &View, now: Instant) -> Placement {
        let circumstances = Circumstances {
            reads: Reads::Replicas,
            freshness: None,
            group: &|_| Some(GROUP),
            balance: &Balance::default(),
            leases: &|_| 0,
            latency: &|_| None,
            stays_with: None,
            excluded: &[],
            may_wait: true,
            turn: 0,
            now,
        };
        place(intent, view, &circumstances)
    }

    proptest! {
        #[test]
        fn a_read_on_no_terms_goes_where_the_long_way_leads(
            seats in vec((0..3_u16, any::<bool>(), any::<bool>(), 0..4_usize), 1..6),
            trusts in (any::<bool>(), any::<bool>()),
            strategy in select(vec![Strategy::LeastLeases, Strategy::Weighted, Strategy::Latency]),
            excluded in vec((0..5_u16).prop_map(NodeId), 0..2),
            stays_with in option::of((0..5_u16).prop_map(NodeId)),
            turn in any::<u64>(),
        ) {
            let now = Instant::now();
            let addresses: Vec<_> = (0..=seats.len()).map(|at| format!("n{at}:1").into()).collect();
            let mut view = View::unknown("test", &addresses);
            let until = |is_trusted: bool| Some(if is_trusted { now + SOON } else { now });
            (view.primary, view.primary_until, view.replicas_until) = (Some(PRIMARY), until(trusts.0), until(trusts.1));
            view.nodes[0].role = Role::Primary;
            let mut balance = Balance { strategy, ..Balance::default() };
            balance.seats.push(Seat::default());
            for (node, (weight, is_near, takes_reads, _)) in view.nodes[1..].iter_mut().zip(&seats) {
                (node.role, node.takes_reads) = (Role::Replica, *takes_reads);
                balance.seats.push(Seat { weight: *weight, is_near: *is_near });
            }
            let leases = |node: NodeId| usize::from(node.0).checked_sub(1).map_or(0, |at| seats[at].3);
            for reads in [Reads::Replicas, Reads::Any] {
                let circumstances = Circumstances {
                    reads,
                    freshness: None,
                    group: &|_| None,
                    balance: &balance,
                    leases: &leases,
                    latency: &|node| Some(Duration::from_millis(1 + u64::from(node.0))),
                    stays_with,
                    excluded: &excluded,
                    may_wait: true,
                    turn,
                    now,
                };
                let [short, long] = [None, Some(Terms::default())].map(|terms| place(&read(terms), &view, &circumstances));
                prop_assert_eq!(short, long);
            }
        }
    }

    #[test]
    fn what_is_not_believed_any_more_takes_no_read_and_refuses_none() {
        let begun = Instant::now();
        let choices = [Nodes::Group("g".into())].into_iter().collect();
        let strict = Terms { choices, otherwise: Otherwise::Refuse, ..Terms::default() };
        let (plain, ruled, strict) = (read(None), read(Some(Terms::default())), read(Some(strict)));
        let mut view = view(begun);
        for intent in [&plain, &ruled, &strict] {
            assert!(matches!(placed(intent, &view, begun), Placement::Node(NodeId(1 | 2), _)), "{intent:?}");
            assert!(matches!(placed(intent, &view, begun + SOON), Placement::AwaitPrimary(_)), "{intent:?}");
        }
        // The primary has been heard of since.
        view.primary_until = Some(begun + 2 * SOON);
        for intent in [&plain, &ruled] {
            let later = placed(intent, &view, begun + SOON);
            assert_eq!(later, Placement::Node(PRIMARY, Reason::NoReplica), "{intent:?}");
        }
        assert!(matches!(placed(&strict, &view, begun + SOON), Placement::AwaitPrimary(_)));
        // None is there to be believed.
        view.nodes.iter_mut().for_each(|node| node.takes_reads = false);
        assert_eq!(placed(&strict, &view, begun + SOON), Placement::Refused);
        view.nodes[1].is_silent = true;
        assert!(matches!(placed(&strict, &view, begun + SOON), Placement::AwaitPrimary(_)));
    }

    #[test]
    fn a_read_that_has_waited_for_a_node_is_held_to_what_was_asked_for_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let within = |max_lag| read(Some(Terms { max_lag, ..Terms::default() }));
        let (plain, near) = (within(None), within(Some(Duration::from_millis(500))));
        let mut node = View::unknown("test", &["a:1".into()]).nodes.remove(0);
        (node.role, node.takes_reads, node.up_since) = (Role::Replica, true, Some(start));
        node.lag = Some(Duration::from_millis(500));
        let mut session = Freshness::default();
        session.read(node.id, at(10), at(11));
        assert!(may_still_take(&near, &node, Some(&session)));

        node.lag = Some(Duration::from_millis(501));
        assert!(may_still_take(&plain, &node, Some(&session)) && !may_still_take(&near, &node, Some(&session)));
        node.lag = None;
        assert!(!may_still_take(&near, &node, None), "it may be any");

        node.up_since = Some(at(20));
        assert!(!may_still_take(&plain, &node, Some(&session)), "it was started again");
        assert!(may_still_take(&plain, &node, None), "nothing is asked of it");
        node.takes_reads = false;
        assert!(!may_still_take(&plain, &node, None));
        node.role = Role::Primary;
        assert!(may_still_take(&near, &node, Some(&session)), "it was promoted");
    }
}
