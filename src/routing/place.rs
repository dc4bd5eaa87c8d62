//! From an intent to a node: role, freshness, health, balance.

use std::time::Instant;

use smallvec::SmallVec;

use super::{Freshness, Intent, Reads, Reason};
use crate::balancing::{self, Candidate};
use crate::topology::{NodeId, NodeView, View};

/// What [`place`] must know beside the intent and the view.
pub struct Circumstances<'a> {
    /// Where reads go by configuration.
    pub reads: Reads,
    /// What the session must see, settled against the same view; None: anything (`eventual`).
    pub freshness: Option<&'a Freshness>,
    /// The nodes of the intent's group, if it names one.
    pub group: Option<&'a [u16]>,
    /// Leases of each node now, by its index.
    pub leases: &'a dyn Fn(NodeId) -> usize,
    /// Nodes that have just failed this statement.
    pub excluded: &'a [NodeId],
    /// Whether the statement may wait for a replica to become fresh.
    pub may_wait: bool,
    /// Whose turn it is; see [`balancing::choose`].
    pub turn: u64,
    /// The present moment: a primary that was last seen too long ago takes nothing.
    pub now: Instant,
}

/// Where a statement goes now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// To this node.
    Node(NodeId, Reason),
    /// It must wait for a primary.
    AwaitPrimary(Reason),
    /// Replicas are there, and one may soon have what the session must see.
    AwaitFreshness,
}

/// Finds the node for an intent that is not refused.
pub fn place(intent: &Intent, view: &View, now: &Circumstances<'_>) -> Placement {
    let reason = intent.reason();
    if !matches!(intent, Intent::Read { .. }) {
        return on_primary(view, now, reason);
    }
    let mut candidates: SmallVec<[Candidate; 8]> = SmallVec::new();
    let mut stale = false;
    let with_primary = now.reads == Reads::Any && now.group.is_none();
    let readable = view.readable_replicas().chain(view.primary().filter(|_| with_primary || in_group(now, view)));
    for node in readable.filter(|node| allowed(node, now)) {
        if now.freshness.is_none_or(|freshness| freshness.allows(node)) {
            candidates.push(Candidate { node: node.id, leases: (now.leases)(node.id) });
        } else {
            stale = true;
        }
    }
    match balancing::choose(&candidates, now.turn) {
        Some(node) => Placement::Node(node, reason),
        None if stale && now.may_wait => Placement::AwaitFreshness,
        None if stale => on_primary(view, now, Reason::NotFresh),
        None => on_primary(view, now, Reason::NoReplica),
    }
}

fn on_primary(view: &View, now: &Circumstances<'_>, reason: Reason) -> Placement {
    match view.trusted_primary(now.now) {
        Some(node) if !now.excluded.contains(&node) => Placement::Node(node, reason),
        _ => Placement::AwaitPrimary(reason),
    }
}

/// The group names the primary itself: then it may be read.
fn in_group(now: &Circumstances<'_>, view: &View) -> bool {
    now.group.is_some_and(|group| view.primary.is_some_and(|primary| group.contains(&primary.0)))
}

fn allowed(node: &NodeView, now: &Circumstances<'_>) -> bool {
    !now.excluded.contains(&node.id) && now.group.is_none_or(|group| group.contains(&node.id.0))
}
