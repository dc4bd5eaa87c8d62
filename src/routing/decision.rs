//! What routing answers: the intent, and the reason with its stable code.

use std::sync::Arc;
use std::time::Duration;

use super::Consistency;
use super::safety::ReplicaSafe;
use super::terms::{Nodes, Otherwise, Terms, strictest};
use crate::catalog::Why;
use crate::sql::{NeedsPrimary, Pin};

/// Where a statement may go, before any node is looked at.
#[derive(Clone, Debug)]
pub enum Intent {
    /// To the primary and nowhere else.
    Primary(Reason),
    /// The same, of a read by the proof, outside of a transaction: it is kept there by the configuration, a rule or a hint,
    /// or because a replica could not end it.
    Kept {
        /// The proof that it is a read.
        safe: ReplicaSafe,
        /// What keeps it there.
        reason: Reason,
        /// It is cancelled after this, if its rule says so.
        timeout: Option<Duration>,
    },
    /// A read that a replica may answer; a replica cannot be named without the proof.
    Read {
        /// The proof that a replica gives the same answer.
        safe: ReplicaSafe,
        /// Why.
        reason: Reason,
        /// What a rule or a hint asks for; None: everything as configured.
        terms: Option<Arc<Terms>>,
    },
    /// Nowhere: a rule refuses it.
    Refuse {
        /// The rule.
        rule: Arc<str>,
        /// What the client is told.
        message: Arc<str>,
        /// With this SQLSTATE.
        sqlstate: Arc<str>,
    },
}

impl Intent {
    /// Why.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Primary(reason) | Self::Kept { reason, .. } | Self::Read { reason, .. } => *reason,
            Self::Refuse { .. } => Reason::Refused,
        }
    }

    /// The stricter of two, for statements that travel together: refused, then primary, then read.
    pub fn and(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Refuse { .. }, _) => self,
            (_, Self::Refuse { .. }) => other,
            (Self::Primary(_), _) => self,
            (_, Self::Primary(_)) => other,
            (Self::Kept { safe, reason, .. }, _) | (_, Self::Kept { safe, reason, .. }) => {
                let timeout = strictest(self.timeout(), other.timeout(), Duration::min);
                Self::Kept { safe: *safe, reason: *reason, timeout }
            }
            (Self::Read { terms: None, .. }, Self::Read { terms: Some(terms), .. }) => {
                let terms = in_plain_company(terms);
                other.on(terms)
            }
            (Self::Read { terms: Some(terms), .. }, Self::Read { terms: None, .. }) => {
                let terms = in_plain_company(terms);
                self.on(terms)
            }
            (Self::Read { safe, reason, terms: Some(ours) }, Self::Read { terms: Some(theirs), .. })
                if !Arc::ptr_eq(ours, theirs) =>
            {
                let terms = Some(Arc::new(Terms::clone(ours).and(theirs)));
                Self::Read { safe: *safe, reason: *reason, terms }
            }
            _ => self,
        }
    }

    /// The same read, on these terms.
    fn on(self, terms: Arc<Terms>) -> Self {
        match self {
            Self::Read { safe, reason, .. } => Self::Read { safe, reason, terms: Some(terms) },
            elsewhere => elsewhere,
        }
    }

    /// What it must have seen, in a session whose reads must have seen this where nothing else is asked.
    pub fn consistency_in(&self, own: Consistency) -> Consistency {
        self.terms().map_or(own, |terms| terms.consistency_in(own))
    }

    /// On what terms a read may run, if they are not as configured.
    pub fn terms(&self) -> Option<&Terms> {
        match self {
            Self::Read { terms, .. } => terms.as_deref(),
            _ => None,
        }
    }

    /// Its rule refuses what its nodes cannot take: it goes to no other.
    pub fn keeps_to_its_nodes(&self) -> bool {
        self.terms().is_some_and(|terms| terms.otherwise == Otherwise::Refuse)
    }

    /// The same, and the primary is none of them.
    pub fn is_for_replicas_alone(&self) -> bool {
        let names_none_else = |terms: &Terms| terms.choices.iter().all(|nodes| *nodes == Nodes::Replicas);
        self.keeps_to_its_nodes() && self.terms().is_some_and(names_none_else)
    }

    /// It is a read by the proof, and cancelled after this, if its rule says so.
    pub fn timeout(&self) -> Option<Duration> {
        match self {
            Self::Kept { timeout, .. } => *timeout,
            Self::Read { terms, .. } => terms.as_ref().and_then(|terms| terms.timeout),
            Self::Primary(_) | Self::Refuse { .. } => None,
        }
    }

    /// No replica may have it.
    pub fn needs_primary(&self) -> bool {
        matches!(self, Self::Primary(_) | Self::Kept { .. })
    }

    /// It is a read by the proof.
    pub fn is_proven(&self) -> bool {
        matches!(self, Self::Kept { .. } | Self::Read { .. })
    }

    /// A rule or a hint says more of it than where it goes: it is run by itself.
    pub fn has_terms(&self) -> bool {
        matches!(self, Self::Read { terms: Some(_), .. } | Self::Kept { timeout: Some(_), .. })
    }

    /// Sends the statement where `other` sends it, whatever the reasons are.
    pub fn goes_like(&self, other: &Self) -> bool {
        match (self, other) {
            _ if self.needs_primary() && other.needs_primary() => self.timeout() == other.timeout(),
            (Self::Read { terms: ours, .. }, Self::Read { terms: theirs, .. }) => ours == theirs,
            (Self::Refuse { sqlstate, .. }, Self::Refuse { sqlstate: other, .. }) => sqlstate == other,
            _ => false,
        }
    }
}

/// The terms of a read that a read on none travels with.
fn in_plain_company(terms: &Arc<Terms>) -> Arc<Terms> {
    match terms.consistency.is_none() || terms.has_plain_company {
        true => Arc::clone(terms),
        false => Arc::new(Terms { has_plain_company: true, ..Terms::clone(terms) }),
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $words:literal;)*) => {
        /// Why a statement went where it went. Each has a stable code, used in metrics, logs and explanations.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name),* }

        impl Reason {
            /// Every reason, in the order of [`Reason::index`].
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The codes of all reasons, in the order of [`Reason::index`].
            pub const CODES: &'static [&'static str] = &[$($code),*];

            /// The stable code.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What it means, for people.
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words),* }
            }
        }
    };
}

reasons! {
    /// Nothing in it needs the primary.
    Read = "read", "a read that any replica answers alike";
    /// In a READ ONLY transaction.
    ReadOnlyTransaction = "read_only_transaction", "in a READ ONLY transaction, which lives on one replica";
    /// In a transaction that may write and has only read so far; `routing.transactions = "optimistic"`.
    OptimisticTransaction = "optimistic_transaction", "in a transaction that may write and has not yet, on a replica until it does";
    /// In a transaction that may write.
    Transaction = "transaction", "in a transaction that may write, which lives on the primary";
    /// A rule says so.
    Rule = "rule", "a rule says so";
    /// A hint in a comment says so.
    Hint = "hint", "a hint in its comment says so";
    /// A rule refuses it.
    Refused = "refused", "a rule refuses it";
    /// `routing.reads = "primary"`.
    ReadsPrimary = "reads_primary", "the configuration sends reads to the primary";
    /// No replica can take reads.
    NoReplica = "no_replica", "no replica can take reads now";
    /// No replica has replayed what the session must see.
    NotFresh = "not_fresh", "no replica has yet replayed what this session must see";
    /// Every replica is further behind than it may be read.
    TooFarBehind = "too_far_behind", "no replica is within the max_lag that its rule or hint gives";
    /// `failover.stale_reads`: there is no primary, and no replica is known to have what the session must see.
    Stale = "stale", "there is no primary, so a replica answers that may be behind";
    /// None of the nodes that were the first choice can take it.
    FellBack = "fell_back", "none of the nodes that its rule or hint names first can take it now";
    /// A replica refused it, cancelled it for the sake of replay, or lacks what its session has set.
    Retried = "retried", "a replica could not answer it, so the primary was asked";
    /// SERIALIZABLE cannot be given by a standby.
    Serializable = "serializable", "a standby cannot give SERIALIZABLE isolation";
    /// See [`NeedsPrimary::Writes`].
    Writes = "writes", "it changes rows";
    /// See [`NeedsPrimary::LocksRows`].
    LocksRows = "locks_rows", "it locks rows";
    /// See [`NeedsPrimary::LocksTable`].
    LocksTable = "locks_table", "it locks a table";
    /// See [`NeedsPrimary::ChangesSchema`].
    ChangesSchema = "changes_schema", "it changes the schema";
    /// See [`NeedsPrimary::Function`].
    Function = "function", "it calls a function that writes or that only the primary can answer";
    /// See [`NeedsPrimary::UnknownFunction`].
    UnknownFunction = "unknown_function", "it calls a function that nobody vouches for";
    /// See [`NeedsPrimary::Relation`].
    Relation = "relation", "it reads a relation whose answer differs on a replica";
    /// See [`NeedsPrimary::Temporary`].
    Temporary = "temporary", "it makes or uses temporary objects";
    /// See [`NeedsPrimary::Notifications`].
    Notifications = "notifications", "a standby has no notifications";
    /// See [`NeedsPrimary::CopyIn`].
    CopyIn = "copy_in", "it copies data in";
    /// See [`NeedsPrimary::CopyFile`].
    CopyFile = "copy_file", "it reads or writes a file or program of the server";
    /// See [`NeedsPrimary::HoldCursor`].
    HoldCursor = "hold_cursor", "its cursor outlives the transaction";
    /// See [`NeedsPrimary::UnknownName`].
    UnknownName = "unknown_name", "it names something that this session has not made";
    /// See [`NeedsPrimary::Procedural`].
    Procedural = "procedural", "it runs a procedure or a block of code";
    /// See [`NeedsPrimary::Maintenance`].
    Maintenance = "maintenance", "it is maintenance";
    /// See [`NeedsPrimary::TwoPhase`].
    TwoPhase = "two_phase", "it is part of a two-phase commit";
    /// See [`NeedsPrimary::NodeSetting`].
    NodeSetting = "node_setting", "the setting differs between nodes or a standby refuses it";
    /// See [`NeedsPrimary::LoadsLibrary`].
    LoadsLibrary = "loads_library", "it loads a library";
    /// See [`NeedsPrimary::Unparsed`].
    Unparsed = "unparsed", "it is not SQL that PostgreSQL's grammar accepts";
    /// See [`NeedsPrimary::TooLarge`].
    TooLarge = "too_large", "it is too large to be looked at";
    /// See [`NeedsPrimary::UnknownStatement`].
    UnknownStatement = "unknown_statement", "it is a statement that Trunkline does not know";
    /// The catalogs are not loaded, or have just changed.
    CatalogUnknown = "catalog_unknown", "the database's catalogs are not known yet or have just changed";
    /// See [`Why::UnknownRelation`].
    UnknownRelation = "unknown_relation", "it names a relation that the catalogs do not have";
    /// See [`Why::Unlogged`].
    Unlogged = "unlogged", "it reads an unlogged table, which a standby does not have";
    /// See [`Why::Foreign`].
    ForeignTable = "foreign_table", "it reads a foreign table";
    /// See [`Why::View`].
    View = "view", "it reads a view that calls or reads what needs the primary";
    /// See [`Why::Policy`].
    Policy = "policy", "row-level security calls or reads what needs the primary";
    /// See [`Why::Operator`].
    Operator = "operator", "it uses an operator or comparison whose function needs the primary";
    /// See [`Why::Cast`].
    Cast = "cast", "it may use a cast whose function needs the primary";
    /// See [`Why::Domain`].
    Domain = "domain", "it may make a value of a type whose checks need the primary";
    /// A FunctionCall message: what it calls is a number, not a name.
    FunctionCall = "function_call", "a FunctionCall message may do anything";
    /// See [`Pin::Temporary`].
    PinnedTemporary = "pinned_temporary", "the session has temporary objects on its server connection";
    /// See [`Pin::Listen`].
    PinnedListen = "pinned_listen", "the session listens on its server connection";
    /// See [`Pin::AdvisoryLock`].
    PinnedAdvisoryLock = "pinned_advisory_lock", "the session may hold an advisory lock on its server connection";
    /// See [`Pin::HoldCursor`].
    PinnedHoldCursor = "pinned_hold_cursor", "the session has a cursor WITH HOLD on its server connection";
    /// See [`Pin::Load`].
    PinnedLoad = "pinned_load", "the session has loaded a library into its server connection";
    /// See [`Pin::UnknownSetting`].
    PinnedUnknownSetting = "pinned_unknown_setting", "the session has changed a setting whose name or value is unknown, or which it may not set again";
    /// See [`Pin::State`].
    PinnedState = "pinned_state", "the session keeps something on its server connection that only its end takes away";
    /// See [`Pin::Sequence`].
    PinnedSequence = "pinned_sequence", "the session asks for its sequence's current value";
    /// `pool.mode = "session"`.
    SessionMode = "session_mode", "the pool mode gives the session a server connection of its own";
}

impl Reason {
    /// Its place in [`Reason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

impl From<&NeedsPrimary> for Reason {
    fn from(why: &NeedsPrimary) -> Self {
        match why {
            NeedsPrimary::Writes => Self::Writes,
            NeedsPrimary::LocksRows => Self::LocksRows,
            NeedsPrimary::LocksTable => Self::LocksTable,
            NeedsPrimary::ChangesSchema => Self::ChangesSchema,
            NeedsPrimary::Function(_) => Self::Function,
            NeedsPrimary::UnknownFunction(_) => Self::UnknownFunction,
            NeedsPrimary::Relation(_) => Self::Relation,
            NeedsPrimary::Temporary => Self::Temporary,
            NeedsPrimary::Notifications => Self::Notifications,
            NeedsPrimary::CopyIn => Self::CopyIn,
            NeedsPrimary::CopyFile => Self::CopyFile,
            NeedsPrimary::HoldCursor => Self::HoldCursor,
            NeedsPrimary::UnknownName => Self::UnknownName,
            NeedsPrimary::Procedural => Self::Procedural,
            NeedsPrimary::Maintenance => Self::Maintenance,
            NeedsPrimary::TwoPhase => Self::TwoPhase,
            NeedsPrimary::NodeSetting(_) => Self::NodeSetting,
            NeedsPrimary::LoadsLibrary => Self::LoadsLibrary,
            NeedsPrimary::Unparsed => Self::Unparsed,
            NeedsPrimary::TooLarge => Self::TooLarge,
            NeedsPrimary::UnknownStatement => Self::UnknownStatement,
        }
    }
}

impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        match why {
            Why::Function | Why::Writes => Self::Function,
            Why::UnknownFunction => Self::UnknownFunction,
            Why::UnknownRelation => Self::UnknownRelation,
            Why::Relation => Self::Relation,
            Why::Unlogged => Self::Unlogged,
            Why::Foreign => Self::ForeignTable,
            Why::View => Self::View,
            Why::Policy => Self::Policy,
            Why::Operator => Self::Operator,
            Why::Cast => Self::Cast,
            Why::Domain => Self::Domain,
        }
    }
}

impl From<Pin> for Reason {
    fn from(pin: Pin) -> Self {
        match pin {
            Pin::Temporary => Self::PinnedTemporary,
            Pin::Listen => Self::PinnedListen,
            Pin::AdvisoryLock => Self::PinnedAdvisoryLock,
            Pin::HoldCursor => Self::PinnedHoldCursor,
            Pin::Load => Self::PinnedLoad,
            Pin::UnknownSetting => Self::PinnedUnknownSetting,
            Pin::State => Self::PinnedState,
            Pin::Sequence => Self::PinnedSequence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::safety;

    fn read(consistency: Option<Option<Consistency>>) -> Intent {
        let terms = consistency.map(|consistency| Arc::new(Terms { consistency, ..Terms::default() }));
        Intent::Read { safe: safety::of_nothing(), reason: Reason::Read, terms }
    }

    #[test]
    fn what_a_replica_was_asked_for_is_not_for_it_once_it_is_the_primary_where_a_rule_wants_replicas_alone() {
        let by = |choices: &[Nodes], otherwise| {
            let terms = Terms { choices: choices.into(), otherwise, ..Terms::default() };
            Intent::Read { safe: safety::of_nothing(), reason: Reason::Rule, terms: Some(Arc::new(terms)) }
        };
        let group = || Nodes::Group("g".into());
        assert!(by(&[Nodes::Replicas], Otherwise::Refuse).is_for_replicas_alone());
        for other in [
            by(&[Nodes::Replicas], Otherwise::Primary),
            by(&[Nodes::Replicas, group()], Otherwise::Refuse),
            by(&[Nodes::Any], Otherwise::Refuse),
            read(None),
            Intent::Primary(Reason::Writes),
        ] {
            assert!(!other.is_for_replicas_alone(), "{other:?}");
        }
    }

    #[test]
    fn a_read_that_asks_for_nothing_keeps_what_its_session_has_beside_one_that_asks_for_less() {
        use Consistency::{Eventual, Session, Strong};
        let (eventual, strong) = (|| read(Some(Some(Eventual))), || read(Some(Some(Strong))));
        let on_other_terms = || read(Some(None));
        for plain in [|| read(None), on_other_terms] {
            for both in [plain().and(eventual()), eventual().and(plain()), eventual().and(eventual()).and(plain())] {
                assert_eq!(
                    [Eventual, Session, Strong].map(|own| both.consistency_in(own)),
                    [Eventual, Session, Strong]
                );
            }
            for both in [plain().and(strong()), strong().and(plain()), plain().and(eventual()).and(strong())] {
                assert_eq!([Eventual, Strong].map(|own| both.consistency_in(own)), [Strong, Strong]);
            }
            // Whichever is joined last.
            let three = eventual().and(plain()).and(eventual());
            assert_eq!(three.consistency_in(Session), Session);
        }
        assert_eq!(eventual().and(eventual()).consistency_in(Strong), Eventual);
        assert_eq!(read(None).and(on_other_terms()).consistency_in(Session), Session);
    }
}
