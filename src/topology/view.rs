//! The immutable picture of a cluster that routing reads; made by [`super::Topology`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::SystemId;
use super::lsn::{Lsn, Timeline};
use super::no_primary::{Cause, NoPrimary};

/// A node of one cluster: its place in the configured list, stable while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The node at this place of the list.
    pub fn at(index: usize) -> Option<Self> {
        u16::try_from(index).ok().map(Self)
    }
}

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one node that takes writes: confirmed, not merely claimed.
    Primary,
    /// Follows the primary.
    Replica,
    /// Not known: never answered, or claims a role that is not accepted.
    Unknown,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// No probe has answered yet.
    Unknown,
    /// Answers and is usable.
    Up,
    /// Answers 57P03: starting, or not yet accepting connections.
    Starting,
    /// Missed a probe, or a session lost it; the next probes decide.
    Suspect,
    /// Does not answer.
    Down,
    /// Says it is a primary, but of a timeline below the highest seen: fenced.
    StalePrimary,
    /// Says it is a primary and cannot be told apart from another one, or is not yet supported.
    UnconfirmedPrimary,
    /// Is the accepted primary's server by another address: used by that one alone.
    Duplicate,
    /// Belongs to another cluster (its system identifier differs): never used.
    Foreign,
}

/// A position read from a node, by our own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When we began to ask: whatever was acknowledged to us before is at or below `lsn` on this node.
    pub begun: Instant,
    /// Of a primary the insert position (less an empty page's header), of a replica the replayed one.
    pub lsn: Lsn,
    /// The history that `lsn` belongs to; None when the node would not tell.
    pub timeline: Option<Timeline>,
}

/// One node in a view.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its place in the configured list.
    pub id: NodeId,
    /// `host:port` as configured.
    pub address: Arc<str>,
    /// What it is.
    pub role: Role,
    /// How it is.
    pub state: NodeState,
    /// A replica that may take reads now: up, streaming (or no primary is there to stream from), not over `max_lag`.
    pub takes_reads: bool,
    /// It took reads before we stood still, and has not answered since: others are read from without waiting for it. What is
    /// known of it is not believed.
    pub is_silent: bool,
    /// Since when it takes reads, without a break but of silence; None while it takes none.
    pub reads_since: Option<Instant>,
    /// It is about to be stopped, by the announcement of whoever stops it.
    pub is_leaving: bool,
    /// When who watches it now began to ask for its last report. None: it has not answered that one; what is known of it is from
    /// before.
    pub reported: Option<Instant>,
    /// It was found, is listed no more, and is silent or another cluster's, for long or as its member is elsewhere: operators do not
    /// see it.
    pub is_forgotten: bool,
    /// Its newest position.
    pub position: Option<Sample>,
    /// Since when it has surely run without a restart: one that was started again may have gone back to an earlier
    /// position, and what was asked of it before this moment proves nothing. None before it has answered.
    pub up_since: Option<Instant>,
    /// How often its address has come to lead to another server while the one before went on: connections that were made
    /// before lead to that one. All who watch it count together; 0 until who does so now has seen one, or been told of it.
    pub moves: u32,
    /// It is down, and whoever waits for it may wait for ever: it is silent, or has answered who watches it now, and does not any
    /// more. One that has never let that one in, for it is full or refuses the monitor's role, may be as well as ever.
    pub answers_nobody: bool,
    /// Bytes behind what the primary has flushed; None while unknown, and for the primary itself.
    pub lag_bytes: Option<u64>,
    /// Time behind the primary by our clock; None while unknown, and for the primary itself.
    pub lag: Option<Duration>,
    /// Why it is as it is, in words for an operator.
    pub why: Arc<str>,
}

/// Why there is no primary at first.
pub(super) const NOT_PROBED: &str = "no node has been probed yet";

/// A cluster as it was at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The cluster's configured name.
    pub cluster: Arc<str>,
    /// Rises by one whenever the primary changes, is lost, or is found again.
    pub epoch: u64,
    /// The accepted primary; None while there is none, or none that can be told apart.
    pub primary: Option<NodeId>,
    /// Until when the primary may be believed without newer evidence: a write that begins later, because we or the
    /// monitor stood still, must wait for a view that believes it. After a standstill that is one in which every node has been
    /// asked since; until then this moment stays where it was.
    pub primary_until: Option<Instant>,
    /// Until when what is said of replicas may be believed without newer evidence: a read that begins later must wait for a
    /// view in which all who answer have been asked since, and the primary, if there is one, is believed, or has answered anew and
    /// only waits for who [is silent](NodeView::is_silent). Where a replica is says nothing as long as nobody knows where the
    /// others are.
    pub replicas_until: Option<Instant>,
    /// Why there is no primary, when there is none.
    pub no_primary_because: Option<NoPrimary>,
    /// Since when there is no primary, when there is none.
    pub no_primary_since: Option<Instant>,
    /// The cluster follows another one: that there is no primary is as it should be.
    pub is_standby: bool,
    /// The cluster's database system, once it is fixed.
    pub system: Option<SystemId>,
    /// When a timeline above the present one was found to have been given up: what was seen of it before is gone.
    pub gave_up: Option<Instant>,
    /// Every configured node, in order: index = [`NodeId`].
    pub nodes: Vec<NodeView>,
    /// The primary's recent samples of its present timeline, oldest first. In a standby cluster, how far the node had
    /// received the log that the others have theirs from: nobody shows more than that.
    pub primary_samples: Arc<[Sample]>,
}

impl View {
    /// A view of nodes of which nothing is known.
    pub fn unknown(cluster: &str, addresses: &[Arc<str>]) -> Self {
        let unknown = |(index, address): (usize, &Arc<str>)| NodeView {
            id: NodeId(u16::try_from(index).expect("configuration allows at most 128 nodes")),
            address: Arc::clone(address),
            role: Role::Unknown,
            state: NodeState::Unknown,
            takes_reads: false,
            is_silent: false,
            reads_since: None,
            is_leaving: false,
            reported: None,
            is_forgotten: false,
            position: None,
            up_since: None,
            moves: 0,
            answers_nobody: false,
            lag_bytes: None,
            lag: None,
            why: "not probed yet".into(),
        };
        Self {
            cluster: cluster.into(),
            epoch: 0,
            primary: None,
            primary_until: None,
            replicas_until: None,
            no_primary_because: Some(Cause::NotAsked.because(NOT_PROBED)),
            no_primary_since: None,
            is_standby: false,
            system: None,
            gave_up: None,
            nodes: addresses.iter().enumerate().map(unknown).collect(),
            primary_samples: Arc::new([]),
        }
    }

    /// The node with this id; None if the id is of another configuration.
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.get(usize::from(id.0))
    }

    /// The nodes that operators see.
    pub fn shown_nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|node| !node.is_forgotten)
    }

    /// The accepted primary.
    pub fn primary(&self) -> Option<&NodeView> {
        self.primary.and_then(|id| self.node(id))
    }

    /// Why there is no primary, in words, when there is none.
    pub fn why_no_primary(&self) -> Option<&str> {
        self.no_primary_because.as_ref().map(|because| &*because.words)
    }

    /// It has no primary by design, and nothing speaks against that.
    pub fn is_without_primary_by_design(&self) -> bool {
        self.no_primary_because.as_ref().is_some_and(|because| because.cause == Cause::Standby)
    }

    /// Why a write that begins now goes nowhere, in words: there is no primary, or the one there is is not believed.
    pub fn why_no_writes(&self, now: Instant) -> String {
        match (self.why_no_primary(), self.primary()) {
            (Some(words), _) if !self.trusts_replicas(now) => {
                format!("Trunkline stood still, and not all nodes have been asked since; {words}")
            }
            (Some(words), _) => words.to_owned(),
            (None, Some(primary)) if self.trusted_primary(now).is_none() => {
                format!("{} is not believed to be it: {}", primary.address, primary.why)
            }
            (None, _) => "it cannot be connected to".to_owned(),
        }
    }

    /// The accepted primary, while its evidence is fresh enough to send it a write that begins now.
    pub fn trusted_primary(&self, now: Instant) -> Option<NodeId> {
        self.primary.filter(|_| self.primary_until.is_none_or(|until| now < until))
    }

    /// What is said of replicas is fresh enough to send one a read that begins now.
    #[inline]
    pub fn trusts_replicas(&self, now: Instant) -> bool {
        self.replicas_until.is_none_or(|until| now < until)
    }

    /// The replicas that may take a read that begins now.
    pub fn trusted_replicas(&self, now: Instant) -> impl Iterator<Item = &NodeView> {
        let is_trusted = self.trusts_replicas(now);
        self.readable_replicas().filter(move |_| is_trusted)
    }

    /// The replicas that may take reads, as long as that is believed.
    pub fn readable_replicas(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.iter().filter(|node| node.role == Role::Replica && node.takes_reads)
    }

    /// There is a primary, or a replica that takes reads.
    pub fn serves(&self) -> bool {
        self.primary().is_some() || self.readable_replicas().next().is_some()
    }

    /// Why there is no primary, and what its nodes say, in words for an operator.
    pub fn without_primary(&self) -> String {
        let nodes = self.shown_nodes().map(|node| format!("{}: {}", node.address, node.why));
        let because = self.why_no_primary().map(str::to_owned);
        because.into_iter().chain(nodes).collect::<Vec<_>>().join("; ")
    }

    /// The earliest sample of the present primary that was begun at or after `moment`: at or past every write that was
    /// acknowledged to us before `moment`.
    pub fn primary_sample_since(&self, moment: Instant) -> Option<Sample> {
        // Of most moments that are asked for there is none yet.
        if self.primary_samples.last().is_none_or(|sample| sample.begun < moment) {
            return None;
        }
        let at = self.primary_samples.partition_point(|sample| sample.begun < moment);
        self.primary_samples.get(at).copied()
    }
}
