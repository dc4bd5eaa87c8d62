//! What an authority beside the nodes (Patroni) says of a cluster: who holds its lock, and how members are to be used.
//!
//! It supports claims and breaks ties. It never makes a primary of a node that does not claim to be one, nor unmakes one
//! that answers: about a node only the node itself is believed.

use std::time::{Duration, Instant};

use super::view::NodeId;

/// One word of the authority, as most of its members say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// When we began to ask for it.
    pub begun: Instant,
    /// Who holds the lock.
    pub lock: Lock,
    /// Members that an operator has taken out of reads (`noloadbalance`).
    pub without_reads: Vec<NodeId>,
    /// All its members that are among the nodes.
    pub listed: Vec<NodeId>,
    /// An operator has stopped it from acting.
    pub is_paused: bool,
}

/// Who holds the lock of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nobody, or a member that is not among the nodes.
    Nobody,
    /// This node, as the primary.
    Primary(NodeId),
    /// This node, as the first of a standby cluster, which has no primary: it follows another cluster.
    Standby(NodeId),
}

impl Lock {
    fn with_numbers(self, number: impl Fn(NodeId) -> Option<NodeId>) -> Self {
        let renumbered = match self {
            Self::Nobody => None,
            Self::Primary(node) => number(node).map(Self::Primary),
            Self::Standby(node) => number(node).map(Self::Standby),
        };
        renumbered.unwrap_or(Self::Nobody)
    }
}

impl Word {
    fn stands(&self) -> bool {
        matches!(self.lock, Lock::Standby(_))
    }
}

/// The last word, and how long it counts.
#[derive(Debug, Default)]
pub(super) struct Authority {
    word: Option<Word>,
}

impl Authority {
    /// Takes over the last word that was said to another watch of the same cluster; `number` is a node's in this one.
    pub(super) fn remember(&mut self, before: &Self, number: impl Fn(NodeId) -> Option<NodeId>) {
        self.word = before.word.as_ref().map(|word| Word {
            lock: word.lock.with_numbers(&number),
            without_reads: word.without_reads.iter().copied().filter_map(&number).collect(),
            listed: word.listed.iter().copied().filter_map(&number).collect(),
            ..*word
        });
    }

    /// Takes in a word, unless it is older than what is known.
    pub(super) fn said(&mut self, word: Word) {
        if self.word.as_ref().is_none_or(|known| known.begun < word.begun) {
            self.word = Some(word);
        }
    }

    /// Who holds the lock, as far as that has been said lately. That a cluster follows another one stands until something
    /// else is said or [seen](Self::is_led): a silence makes it no primary's.
    pub(super) fn lock(&self, now: Instant) -> Option<Lock> {
        let word = self.word.as_ref()?;
        (word.stands() || now < word.begun + BELIEVED_FOR).then_some(word.lock)
    }

    /// The cluster has a primary, whatever was said before.
    pub(super) fn is_led(&mut self, now: Instant) {
        if let Some(word) = self.word.as_mut().filter(|word| now >= word.begun + BELIEVED_FOR) {
            word.lock = Lock::Nobody;
        }
    }

    /// The node that holds the lock as the primary.
    pub(super) fn primary(&self, now: Instant) -> Option<NodeId> {
        match self.lock(now) {
            Some(Lock::Primary(node)) => Some(node),
            _ => None,
        }
    }

    /// An operator has stopped it from acting, as far as that has been said lately.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.word.as_ref().is_some_and(|word| word.is_paused && now < word.begun + BELIEVED_FOR)
    }

    /// When the last word was asked for.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.word.as_ref().map(|word| word.begun)
    }

    /// The cluster follows another one, and has no primary of its own.
    pub(super) fn is_standby_cluster(&self, now: Instant) -> bool {
        matches!(self.lock(now), Some(Lock::Standby(_)))
    }

    /// Whether the node is a member, as far as is known.
    pub(super) fn lists(&self, node: NodeId) -> bool {
        self.word.as_ref().is_none_or(|word| word.listed.contains(&node))
    }

    /// Whether the node is to take no reads. What an operator wished stands until another word is said.
    pub(super) fn forbids_reads(&self, node: NodeId) -> bool {
        self.word.as_ref().is_some_and(|word| word.without_reads.contains(&node))
    }
}

/// Patroni is asked every second, and who has not answered again after three: what one round misses is no silence. Its own
/// lock lives for 20 to 30 s.
const BELIEVED_FOR: Duration = Duration::from_secs(6);
