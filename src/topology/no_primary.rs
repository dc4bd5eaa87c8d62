//! Why a cluster has no primary: one of few causes, and the words for it.

use std::sync::Arc;

/// Why there is no primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPrimary {
    /// What it comes down to.
    pub cause: Cause,
    /// With the nodes that it is about, in words for an operator.
    pub words: Arc<str>,
}

/// What it comes down to that there is no primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Not every node has been asked: Trunkline has just begun, or stood still.
    NotAsked,
    /// Nodes belong to different database systems, and no majority tells which one is meant.
    MixedSystems,
    /// By design: the cluster follows another one.
    Standby,
    /// No node that answers claims to be primary on the present timeline.
    Unclaimed,
    /// One claims it, and nothing confirms it yet.
    Unconfirmed,
    /// Two or more claim it, or did, and cannot be told apart.
    Ambiguous,
}

impl Cause {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::NotAsked, Self::MixedSystems, Self::Standby, Self::Unclaimed, Self::Unconfirmed, Self::Ambiguous];

    /// Its stable code.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotAsked => "not_asked",
            Self::MixedSystems => "mixed_systems",
            Self::Standby => "standby",
            Self::Unclaimed => "unclaimed",
            Self::Unconfirmed => "unconfirmed",
            Self::Ambiguous => "ambiguous",
        }
    }

    /// It is this, in these words.
    pub fn because(self, words: impl Into<Arc<str>>) -> NoPrimary {
        NoPrimary { cause: self, words: words.into() }
    }
}
