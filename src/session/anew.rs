//! A transaction on a replica that can be begun anew elsewhere: nothing in it has been bound to its node yet, so the
//! client cannot tell. It moves to the primary for a statement that a replica cannot answer, and off a lost node.

use std::fmt::Write as _;
use std::sync::Arc;

use super::owed::Owed;
use super::transaction::{Ended, Modes};
use super::{Held, Session};
use crate::routing::{InTransaction, safety};
use crate::sql::{Kind, Part, Statement, TransactionControl};
use crate::wire::SqlState;
use crate::wire::backend::TransactionStatus;

impl Session {
    /// The transaction can be begun anew elsewhere, now.
    pub fn can_begin_anew(&self) -> bool {
        self.transaction.status() == TransactionStatus::Open && !self.transaction.is_bound() && self.can_end_anew()
    }

    /// The transaction has failed, and what has been gathered does not end it first: it fails, too.
    pub fn only_fails(&self) -> bool {
        let ends = self.first_control().is_some_and(TransactionControl::ends_or_takes_back);
        self.transaction.status() == TransactionStatus::Failed && self.owed.is_empty() && !ends
    }

    /// What has been gathered ends the transaction first: what that was bound to, nothing behind it sees, so it can be begun
    /// and ended elsewhere. One that has failed is rolled back by whatever ends it.
    pub fn ends_before_all_else(&self) -> bool {
        let ends = self.first_control().is_some_and(|control| self.is_ended_by(control));
        ends && self.all_answered() && !self.batch_is_open() && self.can_end_anew()
    }

    /// The same, and more stands behind it in its string: that is in no transaction.
    pub fn leaves_transaction(&self) -> bool {
        self.gathered.first.as_ref().is_some_and(|first| first.parts.len() > 1) && self.ends_before_all_else()
    }

    /// What stands behind the first statement of this string is not in the transaction that is open on a replica.
    pub(super) fn is_left_by(&self, statement: &Statement) -> bool {
        let is_open = self.transaction.status() != TransactionStatus::Idle && self.gathered.first.is_none();
        let first = statement.parts.first().filter(|_| is_open && statement.parts.len() > 1);
        first.is_some_and(|first| self.is_ended_by(&first.transaction))
    }

    fn is_ended_by(&self, control: &TransactionControl) -> bool {
        match control {
            TransactionControl::Commit { chain: false } | TransactionControl::Rollback { chain: false } => true,
            control => control.ends() && self.transaction.status() == TransactionStatus::Failed,
        }
    }

    /// What the first statement that has been gathered does to the transaction.
    fn first_control(&self) -> Option<&TransactionControl> {
        let first = self.gathered.first.as_ref()?.parts.first()?;
        Some(&first.transaction)
    }

    fn can_end_anew(&self) -> bool {
        self.transaction.modes().is_some()
            && !self.transaction.has_acted()
            && self.pins.is_empty()
            && !self.has_touched()
            && self.transaction.aborted().is_none()
    }

    /// It will be begun anew, on the next lease, with what is under way: nothing of that has been seen.
    pub fn begin_anew(&mut self) {
        self.rewind_all();
        self.transaction.begins_anew();
    }

    /// Its node is lost, and its rule has it begin at no other but those it names: what is open goes on nowhere.
    pub fn is_kept_from_primary(&mut self) {
        let is_open = self.transaction.status() == TransactionStatus::Open;
        self.transaction.binds(is_open);
    }

    /// The same, as open or as failed as it is.
    pub fn lose_place(&mut self) {
        self.rewind_all();
        self.transaction.loses_place();
    }

    /// What begins the transaction on a new lease; None if there is none to be begun. Whether it writes, if it has not said so,
    /// is as a transaction begins on the primary now, and not as the session took that to be when its BEGIN was answered.
    pub fn beginning(&self, held: Held) -> Option<String> {
        let modes = self.transaction.modes().filter(|_| self.transaction.is_homeless())?;
        let access = match held {
            // Servers before 14 do not tell what their sessions begin with.
            Held::Primary if modes.has_access_by_default() => "",
            _ if modes.is_read_only() => " READ ONLY",
            _ => " READ WRITE",
        };
        let mut sql = format!("BEGIN ISOLATION LEVEL {}{access}", modes.isolation.sql());
        if let Some(deferrable) = modes.deferrable {
            let _ = write!(sql, " {}DEFERRABLE", if deferrable { "" } else { "NOT " });
        }
        if self.transaction.status() == TransactionStatus::Failed {
            let _ = write!(sql, "; {FAIL}");
        }
        Some(sql)
    }

    /// The beginning of a transaction that has failed is refused so, and with that it has failed anew.
    pub fn has_failed_anew(&self, code: SqlState) -> bool {
        self.transaction.status() == TransactionStatus::Failed && code == SqlState::INVALID_SAVEPOINT_SPECIFICATION
    }

    /// It has been begun on the new lease.
    pub fn has_begun(&mut self) {
        self.transaction.has_begun();
    }

    /// What has been gathered goes to a replica now.
    pub fn goes_to_replica(&mut self) {
        self.transaction.binds(self.gathered.binds);
        self.has_read = self.transaction.status() != TransactionStatus::Idle && self.has_read_here();
    }

    #[cold]
    fn has_read_here(&self) -> bool {
        let reads = |part: &Part| matches!(part.kind, Kind::Select | Kind::Explain | Kind::Copy);
        let ends = self.gathered.ends || self.transaction.ended() != Ended::No;
        !ends && (self.has_read || self.gathered.first.iter().flat_map(|first| &first.parts).any(reads))
    }

    /// What has been gathered sets the transaction's modes, behind a query: elsewhere it could be begun with them, and the
    /// client is to be told what a server tells it.
    pub fn sets_modes_too_late(&self) -> bool {
        if !self.has_read || self.transaction.status() != TransactionStatus::Open || self.gathered.executes > 1 {
            return false;
        }
        let only = self.gathered.first.as_ref().and_then(|first| first.only());
        let (Some(TransactionControl::Set(named)), Some(modes)) =
            (only.map(|part| &part.transaction), self.transaction.modes())
        else {
            return false;
        };
        // What sets them to what they are is no error.
        named.isolation.is_some_and(|isolation| isolation != modes.isolation)
            || named.deferrable.is_some()
            || named.read_only == Some(false) && modes.is_read_only()
    }

    /// What has been gathered goes to the primary now. It may write, and of a primary that is lost nothing is done anew but
    /// a BEGIN alone.
    pub fn goes_to_primary(&mut self) {
        let is_begin = self.gathered.begins && !self.gathered.begins_more && !self.gathered.binds;
        self.transaction.acts(self.gathered.intent.is_some() && !is_begin);
    }

    /// What has been gathered would bind a transaction to a replica that may still have to move to the primary. In one that has
    /// failed nothing is done that could.
    pub fn must_leave_replica(&self) -> bool {
        self.gathered.binds
            && self.transaction.status() == TransactionStatus::Open
            && self.in_transaction(Held::Replica) == InTransaction::Optimistic
    }

    /// A BEGIN is on its way: what comes behind it cannot be judged before it is answered. Nor can one that stands behind
    /// something else, which may end a transaction.
    pub fn awaits_begin(&self) -> bool {
        self.gathered.begins && !self.owed.is_empty() || self.owes_begin()
    }

    /// A BEGIN has been sent and is not answered.
    pub fn owes_begin(&self) -> bool {
        self.owed.iter().filter_map(Owed::statement).any(Statement::begins_transaction)
    }

    /// A COMMIT or ROLLBACK is on its way: what comes behind it is not in the transaction.
    pub fn awaits_end(&self) -> bool {
        self.owed.has_an_end() || self.transaction.has_ended() && !self.owed.is_empty()
    }

    /// A transaction has ended within the open batch: what comes behind it is not in it, wherever it goes.
    pub fn has_ended_in_batch(&self) -> bool {
        self.flow.batch_open && self.transaction.has_ended()
    }

    /// The transaction that a statement stands in which is looked at now, once all is done that has come before it; None: it
    /// stands in none.
    #[cold]
    pub(super) fn stands_in(&self) -> Option<Modes> {
        let transaction = &self.transaction;
        let is_under_way = self.flow.batch_open || !self.owed.is_empty();
        let is_open = match transaction.status() {
            // Its BEGIN has been answered, and the ReadyForQuery that says so has not come.
            TransactionStatus::Idle => is_under_way && transaction.modes().is_some(),
            _ => !transaction.has_ended(),
        };
        let answered = is_open.then(|| transaction.modes().unwrap_or_else(|| Modes::of(self.defaults)));
        let gathered = self.gathered.executed_control().into_iter().flat_map(|control| &control.parts);
        let parts = self.owed.iter().flat_map(Owed::undone).chain(gathered);
        parts.fold(answered, |before, part| match &part.transaction {
            TransactionControl::Begin(named) => before.or_else(|| Some(Modes::of(self.defaults).with(*named))),
            TransactionControl::Commit { chain: false }
            | TransactionControl::Rollback { chain: false }
            | TransactionControl::Prepare => None,
            // Each begins the next.
            TransactionControl::Commit { .. } | TransactionControl::Rollback { .. } => {
                before.or_else(|| Some(Modes::of(self.defaults)))
            }
            _ => before,
        })
    }

    /// Notes the transactions that this statement of a unit ends and begins.
    pub(super) fn note_begins(&mut self, statement: &Statement) {
        for part in &statement.parts {
            self.gathered.ends |= part.transaction.ends();
            let TransactionControl::Begin(modes) = &part.transaction else { continue };
            let is_read_only = modes.read_only.unwrap_or(self.defaults.read_only);
            let is_within = self.transaction.status() != TransactionStatus::Idle && !self.gathered.ends;
            self.gathered.begins = true;
            self.gathered.begins_to_write |= !is_within && !is_read_only;
        }
    }

    /// Notes what this statement of a unit would bind its transaction to, were it sent to a replica.
    pub(super) fn note_bonds(&mut self, statement: &Arc<Statement>, bytes: &[u8], held: Held) {
        let is_inside =
            held == Held::Replica && (self.transaction.status() != TransactionStatus::Idle || !self.owed.is_empty());
        if !is_inside && !self.gathered.begins {
            return;
        }
        let is_another = statement.parts.len() > 1
            || self.gathered.first.as_ref().is_some_and(|first| !Arc::ptr_eq(first, statement))
            || held == Held::Replica && self.flow.batch_open;
        self.gathered.begins_more |= self.gathered.begins && is_another;
        let is_bond = match self.gathered.begins_to_write {
            // What stands before it in its batch is in its transaction, too.
            true if statement.begins_transaction() => is_another,
            true => !safety::leaves_no_bond(statement),
            // What stands behind a BEGIN READ ONLY in the same unit is not looked at closely.
            false if self.gathered.begins_more => true,
            false => statement.parts.iter().any(|part| self.is_bond(part)),
        };
        if is_bond || mentions_clock(bytes) {
            self.gathered.bind();
        }
    }

    fn is_bond(&self, part: &Part) -> bool {
        let has_one_snapshot = self.transaction.modes().is_none_or(|modes| modes.isolation.has_one_snapshot());
        let is_harmless = match part.kind {
            Kind::Begin | Kind::SetTransaction | Kind::Show => true,
            Kind::Commit | Kind::Rollback => !matches!(part.transaction, TransactionControl::RollbackTo),
            Kind::Select | Kind::Explain | Kind::Copy => !has_one_snapshot && !part.asks_for_own,
            _ => false,
        };
        !is_harmless || !part.session.is_empty()
    }
}

/// What nothing but a transaction that is to fail meets; a server's log has its words.
const FAIL: &str = "ROLLBACK TO \"the transaction that has failed elsewhere\"";

/// A literal or a parameter may be read as the time at which the transaction began: 'now', 'today' and their kin.
pub(super) fn mentions_clock(bytes: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    let is_letter = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphabetic);
    let begins = |at: &[u8], word: &[u8]| {
        at.get(..word.len()).is_some_and(|there| there.eq_ignore_ascii_case(word)) && !is_letter(at.get(word.len()))
    };
    (0..bytes.len()).any(|start| {
        let (before, rest) = bytes.split_at_checked(start).unwrap_or_default();
        matches!(rest.first(), Some(b'n' | b'N' | b't' | b'T' | b'y' | b'Y'))
            // PostgreSQL takes a run of letters as one word: `unknown` is no time.
            && !is_letter(before.last())
            && WORDS.iter().any(|word| begins(rest, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_time_are_found_in_any_case() {
        assert!(mentions_clock(b"select 'NoW'::timestamptz"));
        assert!(mentions_clock(b"\0\0tomorrow"));
        assert!(mentions_clock(b"'now'") && mentions_clock(b"'now1'") && mentions_clock(b"' today '"));
        assert!(!mentions_clock(b"select nothing, to, day from no_where"));
        assert!(!mentions_clock(b"select known_at, snow from t where a in ('unknown', 'acknowledged', 'nowhere')"));
    }
}
