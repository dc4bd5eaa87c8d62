//! What must go to the primary whatever rules say; the only maker of the [`ReplicaSafe`] proof.

use super::{Facts, Reason};
use crate::sql::{Isolation, SessionChange, Statement, TransactionControl, TransactionModes};

/// The proof that a replica gives the same answer as the primary; only [`prove`] can make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaSafe(());

/// The proof for a unit without any statement (a Close, a Sync): it reads nothing and does nothing.
pub fn of_nothing() -> ReplicaSafe {
    ReplicaSafe(())
}

/// The proof for every statement of the string, or why it must go to the primary.
pub fn prove(statement: &Statement, facts: &Facts<'_>) -> Result<ReplicaSafe, Reason> {
    if facts.serializable_by_default {
        return Err(Reason::Serializable);
    }
    if let Some(why) = statement.needs_primary() {
        return Err(Reason::from(why));
    }
    for part in &statement.parts {
        match &part.transaction {
            TransactionControl::Begin(modes) => begin_on_replica(modes)?,
            TransactionControl::Set(modes) => set_on_replica(modes)?,
            // Ends the transaction that a READ ONLY BEGIN of the same string began, or warns that there is none.
            TransactionControl::None
            | TransactionControl::Commit { .. }
            | TransactionControl::Rollback { .. }
            | TransactionControl::Savepoint
            | TransactionControl::Release
            | TransactionControl::RollbackTo => {}
            TransactionControl::Prepare => return Err(Reason::TwoPhase),
        }
        for change in &part.session {
            executes_on_replica(change, statement, facts)?;
        }
    }
    Ok(ReplicaSafe(()))
}

/// The string begins a READ ONLY transaction that a replica can hold.
pub fn begins_read_only(statement: &Statement) -> bool {
    statement
        .parts
        .iter()
        .any(|part| matches!(&part.transaction, TransactionControl::Begin(modes) if begin_on_replica(modes).is_ok()))
}

fn begin_on_replica(modes: &TransactionModes) -> Result<(), Reason> {
    if modes.isolation == Some(Isolation::Serializable) {
        return Err(Reason::Serializable);
    }
    if modes.read_only == Some(true) { Ok(()) } else { Err(Reason::Transaction) }
}

fn set_on_replica(modes: &TransactionModes) -> Result<(), Reason> {
    if modes.isolation == Some(Isolation::Serializable) {
        return Err(Reason::Serializable);
    }
    if modes.read_only == Some(false) { Err(Reason::Transaction) } else { Ok(()) }
}

/// EXECUTE is what its statement is: one that this session has prepared, or that this very string prepares.
fn executes_on_replica(change: &SessionChange, statement: &Statement, facts: &Facts<'_>) -> Result<(), Reason> {
    let name = match change {
        SessionChange::Execute(name) => name,
        // The prepared statement will be judged when it is executed; preparing it is harmless anywhere.
        SessionChange::Prepare { .. } | SessionChange::Set(_) | SessionChange::SetLocal(_) => return Ok(()),
        SessionChange::Pin(pin) => return Err(Reason::from(*pin)),
        _ => return Ok(()),
    };
    let in_string = statement.parts.iter().flat_map(|part| &part.session).find_map(|change| match change {
        SessionChange::Prepare { name: prepared, needs_primary, .. } if prepared == name => {
            Some(needs_primary.as_ref())
        }
        _ => None,
    });
    let known = facts.prepared.get(name).map(|prepared| prepared.needs_primary.as_ref());
    // Both may be meant, by the order of the string: the stricter one counts.
    match (known, in_string) {
        (Some(Some(why)), _) | (_, Some(Some(why))) => Err(Reason::from(why)),
        (Some(None), _) | (_, Some(None)) => Ok(()),
        (None, None) => Err(Reason::UnknownName),
    }
}
