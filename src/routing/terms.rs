//! On which terms a read may run, where a rule or a hint says more than the configuration.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::Consistency;
use crate::balancing::Strategy;

/// What a rule or a hint asks for a read. Whatever is not given is as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The nodes that may take it, first choice first; empty: as configured.
    pub choices: SmallVec<[Nodes; 2]>,
    /// What happens when none of them can.
    pub otherwise: Otherwise,
    /// A replica further behind does not take it.
    pub max_lag: Option<Duration>,
    /// What it must have seen.
    pub consistency: Option<Consistency>,
    /// What travels with it asks for no consistency, and must have seen what the session's reads must have.
    pub has_plain_company: bool,
    /// It is cancelled after this.
    pub timeout: Option<Duration>,
    /// How one of the nodes is picked.
    pub strategy: Option<Strategy>,
}

/// Some nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// Its replicas.
    Replicas,
    /// Replicas and primary alike.
    Any,
    /// Those of a group: `NAME`, `tag:NAME` or `zone:NAME`. The primary may be among them.
    Group(Arc<str>),
}

/// What happens to a read that none of its nodes can take; a later one is stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Otherwise {
    /// It goes to the primary.
    #[default]
    Primary,
    /// It is refused.
    Refuse,
}

impl Terms {
    /// The terms of two statements that travel together: of each the stricter one; of nodes, those of the first.
    pub fn and(mut self, other: &Self) -> Self {
        if self.choices.is_empty() {
            self.choices = other.choices.clone();
        }
        self.otherwise = self.otherwise.max(other.otherwise);
        self.max_lag = strictest(self.max_lag, other.max_lag, Duration::min);
        self.timeout = strictest(self.timeout, other.timeout, Duration::min);
        let is_one_plain = self.consistency.is_none() != other.consistency.is_none();
        self.has_plain_company |= other.has_plain_company || is_one_plain;
        self.consistency = strictest(self.consistency, other.consistency, Consistency::max);
        self.strategy = self.strategy.or(other.strategy);
        self
    }

    /// What it must have seen, in a session whose reads must have seen this where nothing else is asked.
    pub fn consistency_in(&self, own: Consistency) -> Consistency {
        match self.consistency {
            Some(asked) if self.has_plain_company => asked.max(own),
            asked => asked.unwrap_or(own),
        }
    }
}

/// The stricter one of two that may not be given.
pub(super) fn strictest<T>(ours: Option<T>, theirs: Option<T>, stricter: impl Fn(T, T) -> T) -> Option<T> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => Some(stricter(ours, theirs)),
        (ours, theirs) => ours.or(theirs),
    }
}
