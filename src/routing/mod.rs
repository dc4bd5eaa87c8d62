//! Where a statement may go: [`weigh`] says whether it needs the primary, [`place()`] finds the node.

mod advice;
pub mod decision;
mod executed;
pub mod freshness;
pub mod hints;
pub mod place;
pub mod rules;
pub mod safety;
pub mod terms;

use std::sync::Arc;

pub use advice::advice;
pub use decision::{Intent, Reason};
pub use executed::weigh_whole;
pub use freshness::Freshness;
pub use place::{Placement, place};
pub use rules::{RuleSet, Sender, Standing};
pub use safety::ReplicaSafe;
pub use terms::Terms;

use smallvec::SmallVec;

use crate::catalog::{FunctionLists, Path, Picture};
use crate::sql::{Isolation, MemoKey, PreparedNames, Statement};
use hints::Hints;
use rules::{Action, Moment, Rule};

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

/// What a session's reads must have seen; a later one is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consistency {
    /// Anything within `max_lag`.
    Eventual,
    /// The session's own writes, and never less than it has read before.
    Session,
    /// Everything that was acknowledged to anybody before the read came, or was let go by what had held it back.
    Strong,
}

impl Reads {
    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Replicas => "replicas",
            Self::Any => "any",
            Self::Primary => "primary",
        }
    }
}

impl Consistency {
    /// Every one by its name in configuration, rules and hints.
    pub const NAMES: [(&'static str, Self); 3] =
        [("eventual", Self::Eventual), ("session", Self::Session), ("strong", Self::Strong)];

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, consistency)| consistency)
    }

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }
}

/// Where transactions live that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transactions {
    /// On the primary.
    Primary,
    /// Those at READ COMMITTED read from a replica until something cannot be done there; then they are begun on the
    /// primary, which nobody can tell: what asks for the transaction's own time or process goes there, too.
    Optimistic,
}

/// What routing may know of a session.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The rules that may match what its client sends.
    pub standing: &'a Standing,
    /// Minutes since midnight UTC, for rules that look at it.
    pub minute: u16,
    /// Any number, for rules that take a share; of [`rules::EVERY_SHARE`] they take all.
    pub draw: u64,
    /// Hints in comments count.
    pub heeds_hints: bool,
    /// Where reads go by configuration.
    pub reads: Reads,
    /// The transaction that the statement is in.
    pub transaction: InTransaction,
    /// For rules that look at it: it is in one once all is done that stands before it, such as a BEGIN in its own batch.
    pub is_within: bool,
    /// `routing.transactions`: those that may write may read from a replica until they do.
    pub optimistic: bool,
    /// How the session's transactions begin where they do not say it themselves.
    pub defaults: Defaults,
    /// What the session has prepared by SQL.
    pub prepared: &'a PreparedNames,
    /// What is known of the database's objects.
    pub catalog: Catalog<'a>,
}

/// What is known of the database's objects by whoever asks for a route.
#[derive(Clone, Copy, Debug)]
pub enum Catalog<'a> {
    /// No catalog is asked: a table is taken for a table, and a function that is not PostgreSQL's own for unknown.
    NotAsked,
    /// It is not known yet, or has just changed: nothing is believed of what is not PostgreSQL's own. What was known
    /// before is good for what only costs a question too many.
    Unknown {
        /// What was known before.
        last: Option<&'a Picture>,
        /// Where the session's names are looked for, PostgreSQL's own come first, as far as is known.
        own_first: bool,
        /// What the configuration says of functions.
        lists: &'a FunctionLists,
    },
    /// What is known.
    Known {
        /// The picture in force.
        picture: &'a Picture,
        /// Where the session's names are looked for.
        path: &'a Path,
        /// The key under which the answer is noted beside the statement, if it may be.
        key: Option<MemoKey>,
    },
}

/// The transaction that a statement is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InTransaction {
    /// None.
    #[default]
    No,
    /// One that may write: it lives on the primary.
    ReadWrite,
    /// One that can live on a replica.
    ReadOnly,
    /// One that may write and has only read so far, on a replica.
    Optimistic,
}

/// How transactions begin where they do not say it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The session's default_transaction_read_only.
    pub read_only: bool,
    /// The session's default_transaction_isolation.
    pub isolation: Isolation,
}

impl Defaults {
    /// The settings that say it.
    pub const SETTINGS: [&'static str; 2] = ["default_transaction_read_only", "default_transaction_isolation"];

    /// As settings say whose values `get` knows.
    pub fn of<'v>(get: impl Fn(&str) -> Option<&'v str>) -> Self {
        let [read_only, isolation] = Self::SETTINGS;
        Self {
            read_only: get(read_only) == Some("on"),
            isolation: get(isolation).and_then(Isolation::from_setting).unwrap_or(Self::default().isolation),
        }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self { read_only: false, isolation: Isolation::ReadCommitted }
    }
}

/// What routing says of a statement, and which rules had a part in it.
#[derive(Clone, Debug)]
pub struct Weighed {
    /// Where it may go.
    pub intent: Intent,
    /// What rules had to do with it.
    pub ruling: Ruling,
}

/// What rules have to do with a decision; they are told by their numbers in [`RuleSet::rules`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// The rule that matched. What is stricter, and a hint, may still have decided otherwise.
    pub rule: Option<usize>,
    /// The shadow rules that would have come before it, and whether the statement would have gone elsewhere by them.
    pub shadows: SmallVec<[(usize, bool); 2]>,
}

impl Ruling {
    /// No rule had a part.
    pub fn is_empty(&self) -> bool {
        self.rule.is_none() && self.shadows.is_empty()
    }
}

/// Whether a statement needs the primary, may be read from a replica, or is refused; and the rules that had a part in it.
pub fn weigh(statement: &Statement, text: &str, facts: &Facts<'_>, rules: &RuleSet) -> Weighed {
    let moment = Moment { minute: facts.minute, in_transaction: facts.is_within, draw: facts.draw };
    let matched = rules.matching(facts.standing, statement, text, &moment);
    let hints = if facts.heeds_hints { Hints::of(statement, rules) } else { None };
    let hints = hints.filter(|hints| !hints.is_empty());
    let by = |rule: Option<&Rule>| intend_by(rule, hints.as_ref(), statement, facts);
    let intent = by(matched.rule.and_then(|rule| rules.rule(rule)));
    let shadow = |number: usize| (number, !by(rules.rule(number)).goes_like(&intent));
    let shadows = matched.shadows.into_iter().map(shadow).collect();
    Weighed { intent, ruling: Ruling { rule: matched.rule, shadows } }
}

/// It must have seen more, or be behind less, than what a session's reads must.
fn asks_for_more(action: Option<&Action>, hints: Option<&Hints>) -> bool {
    let terms = match action {
        Some(Action::Read(terms)) => Some(&**terms),
        _ => None,
    };
    let asks = |terms: &Terms| terms.max_lag.is_some() || terms.consistency == Some(Consistency::Strong);
    match hints {
        Some(hints) => asks(&hints.over(terms)),
        None => terms.is_some_and(asks),
    }
}

/// The first check that answers wins.
fn intend_by(rule: Option<&Rule>, hints: Option<&Hints>, statement: &Statement, facts: &Facts<'_>) -> Intent {
    let action = rule.map(|rule| &rule.action);
    if let (Some(rule), Some(Action::Refuse { message, sqlstate })) = (rule, action) {
        return Intent::Refuse {
            rule: Arc::clone(&rule.name),
            message: Arc::clone(message),
            sqlstate: Arc::clone(sqlstate),
        };
    }
    if facts.transaction == InTransaction::ReadWrite {
        return Intent::Primary(Reason::Transaction);
    }
    let safe = match safety::prove(statement, facts) {
        Ok(safe) => safe,
        Err(reason) => return Intent::Primary(reason),
    };
    // What its replica has seen at its BEGIN is all that is known of it within an optimistic transaction.
    let is_kept =
        || action == Some(&Action::Primary) || hints.is_some_and(|hints| hints.primary) || asks_for_more(action, hints);
    match facts.transaction {
        InTransaction::ReadOnly => return Intent::Read { safe, reason: Reason::ReadOnlyTransaction, terms: None },
        InTransaction::Optimistic if safety::leaves_no_bond(statement) && !is_kept() => {
            return Intent::Read { safe, reason: Reason::OptimisticTransaction, terms: None };
        }
        InTransaction::Optimistic => return Intent::Primary(Reason::Transaction),
        InTransaction::No | InTransaction::ReadWrite => {}
    }
    let terms = match action {
        Some(Action::Read(terms)) => Some(terms),
        _ => None,
    };
    let timeout = terms.and_then(|terms| terms.timeout);
    let kept = |reason| Intent::Kept { safe, reason, timeout };
    if let Some(hints) = hints {
        let is_moved = !hints.terms.choices.is_empty();
        if hints.primary {
            return kept(Reason::Hint);
        }
        let terms = hints.over(terms.map(|terms| &**terms));
        if is_moved || (action != Some(&Action::Primary) && stays_readable(&terms, facts)) {
            return Intent::Read { safe, reason: Reason::Hint, terms: Some(Arc::new(terms)) };
        }
    }
    match action {
        Some(Action::Primary) => kept(Reason::Rule),
        Some(Action::Read(terms)) if stays_readable(terms, facts) => {
            Intent::Read { safe, reason: Reason::Rule, terms: Some(Arc::clone(terms)) }
        }
        _ if facts.reads == Reads::Primary => kept(Reason::ReadsPrimary),
        _ => Intent::Read { safe, reason: read_reason(statement, facts), terms: None },
    }
}

/// Where no nodes are named, reads go where the configuration sends them.
fn stays_readable(terms: &Terms, facts: &Facts<'_>) -> bool {
    !terms.choices.is_empty() || facts.reads != Reads::Primary
}

fn read_reason(statement: &Statement, facts: &Facts<'_>) -> Reason {
    match safety::begins(statement, facts) {
        Some(true) => Reason::ReadOnlyTransaction,
        Some(false) => Reason::OptimisticTransaction,
        None => Reason::Read,
    }
}
