//! Where a statement may go: [`intend`] says whether it needs the primary, [`place()`] finds the node.

pub mod decision;
pub mod freshness;
pub mod place;
pub mod rules;
pub mod safety;

use std::sync::Arc;

pub use decision::{Intent, Reason};
pub use freshness::Freshness;
pub use place::{Placement, place};
pub use rules::{RuleSet, Sender};
pub use safety::ReplicaSafe;

use crate::catalog::{Path, Picture};
use crate::sql::{MemoKey, PreparedNames, Statement};
use rules::Action;

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

/// What routing may know of a session.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Who sends.
    pub sender: Sender<'a>,
    /// Where reads go by configuration.
    pub reads: Reads,
    /// The transaction that the statement is in.
    pub transaction: InTransaction,
    /// The session's default_transaction_isolation is serializable, which a standby cannot give.
    pub serializable_by_default: bool,
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
    /// It is not known yet, or has just changed: nothing is believed of what is not PostgreSQL's own.
    Unknown,
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
}

/// Whether a statement needs the primary, may be read from a replica, or is refused. The first check that answers wins.
pub fn intend(statement: &Statement, text: &str, facts: &Facts<'_>, rules: &RuleSet) -> Intent {
    let rule = rules.first_match(facts.sender, statement, text);
    if let Some(rule) = rule
        && let Action::Refuse { message, sqlstate } = &rule.action
    {
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
    if facts.transaction == InTransaction::ReadOnly {
        return Intent::Read { safe, reason: Reason::ReadOnlyTransaction, group: None };
    }
    match rule.map(|rule| &rule.action) {
        Some(Action::Primary) => Intent::Primary(Reason::Rule),
        Some(Action::Replicas) => Intent::Read { safe, reason: Reason::Rule, group: None },
        Some(Action::Group(group)) => Intent::Read { safe, reason: Reason::Rule, group: Some(Arc::clone(group)) },
        Some(Action::Refuse { .. }) | None if facts.reads == Reads::Primary => Intent::Primary(Reason::ReadsPrimary),
        Some(Action::Refuse { .. }) | None => Intent::Read { safe, reason: read_reason(statement), group: None },
    }
}

fn read_reason(statement: &Statement) -> Reason {
    if safety::begins_read_only(statement) { Reason::ReadOnlyTransaction } else { Reason::Read }
}
