//! Where a statement may go.

pub mod rules;

pub use rules::RuleSet;

/// Where reads go that a replica may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// To replicas; to the primary only when no replica can take them.
    Replicas,
    /// To any node.
    Any,
    /// To the primary.
    Primary,
}

/// What a session's reads must have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Anything within `max_lag`.
    Eventual,
    /// The session's own writes, and never less than it has read before.
    Session,
    /// Everything that was acknowledged to anybody before the read began.
    Strong,
}
