//! What has come from the client and is not yet on its way: the routable unit, up to a Query, Sync or Flush.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;

use super::prepared::{Prepared, StatementId};
use super::transaction::Modes;
use super::{Ruled, temp_buffers};
use crate::catalog::Change;
use crate::routing::{Intent, Reason, RuleSet, Ruling};
use crate::sql::{CopyDirection, Draws, Leftovers, Pin, SessionChange, Statement};
use crate::wire::frame;

/// The unit as far as it has been looked at.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Bytes of whole messages looked at.
    pub size: usize,
    /// How many changes of the catalogs had been acknowledged when its first message was looked at.
    pub judged_at: u64,
    /// Where its statements may go together; None while it has none.
    pub intent: Option<Intent>,
    /// How it ends; None while it is not whole.
    pub end: Option<End>,
    /// How many messages in it run a statement, and do not only prepare or describe one.
    pub executes: u32,
    /// What each Parse in it prepares, in order.
    pub parsed: VecDeque<Arc<Prepared>>,
    /// What each Query in it is, in order.
    pub queries: VecDeque<Arc<Statement>>,
    /// What in it holds a PREPARE, in order.
    pub preparing: Vec<Arc<Statement>>,
    /// Names it gives (Some) and closes (None).
    pub names: HashMap<Box<[u8]>, Option<Arc<Prepared>>>,
    /// The unnamed statement it leaves: None: untouched.
    pub unnamed: Option<Option<Arc<Prepared>>>,
    /// Named statements that it uses, of those whose columns have been told.
    pub uses: Vec<Arc<Prepared>>,
    /// Those of them that were prepared anew for it on the server connection.
    pub verified: Vec<StatementId>,
    /// A replica would not refuse it, and its answer would be wrong there.
    pub is_wrong_on_replica: bool,
    /// It may run what nobody has heard of.
    pub runs_unseen: bool,
    /// It runs code that its text does not show, of which nobody knows what it does.
    pub hides_code: bool,
    /// It changes something in the session, such as a setting, or begins a transaction.
    pub changes_session: bool,
    /// It draws from a sequence; None: nothing in it has been looked at for that.
    pub draws: Option<Draws>,
    /// It asks for the current value of a sequence, or may; only this session's own nextval gives one.
    pub asks_sequence: bool,
    /// It is placed by itself, and not at once: something must be made ready for it, or looked at.
    pub is_apart: bool,
    /// What was drawn by others on its server connection is forgotten in the same string, ahead of its Query.
    pub discards_ahead: bool,
    /// It asks for a setting of Trunkline's own.
    pub asks_wishes: bool,
    /// It sets temp_buffers.
    pub sets_temp_buffers: bool,
    /// Bytes of its last message that have not come yet: it is too large to be waited for.
    pub missing: usize,
    /// The catalogs that it may change.
    pub catalog_change: Change,
    /// What code that it runs may leave in the session.
    pub leftovers: Option<Box<Leftovers>>,
    /// More has been noted of it than of a plain read in a Query: names, what is prepared, what a rule looks at.
    pub has_more: bool,
    /// Databases that nobody else may be connected to while it runs.
    pub empties: Vec<Arc<str>>,
    /// BEGIN is in it.
    pub begins: bool,
    /// Something in it ends a transaction.
    pub ends: bool,
    /// How many of its messages ran a statement before one was bound that ends a transaction.
    pub ends_behind: Option<u32>,
    /// The last statement bound in it that begins or ends a transaction, and how many of its messages ran one before.
    pub control: Option<(u32, Arc<Statement>)>,
    /// The BEGIN is of a transaction that may write, where none is open.
    pub begins_to_write: bool,
    /// Another statement is in it beside the BEGIN.
    pub begins_more: bool,
    /// On a replica it would bind its transaction to that node.
    pub binds: bool,
    /// Something that takes data from the client is bound in it.
    pub binds_copy_in: bool,
    /// COMMIT is in it.
    pub commits: bool,
    /// Before it is refused, or ends the session, what has been sent of its batch has been asked to be answered.
    pub is_flushed: bool,
    /// It is refused within a transaction that its batch has begun, and that promises this.
    pub(super) refused_in: Option<Modes>,
    /// What decides whether it is part of a rule's share.
    pub draw: Option<u64>,
    /// What rules have to do with its statements, in order.
    pub rulings: Vec<Ruled>,
    /// The first statement in it, to be named in records and counters.
    pub first: Option<Arc<Statement>>,
}

/// What makes a unit whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A Query.
    Query,
    /// A Sync.
    Sync,
    /// A Flush: the batch goes on.
    Flush,
    /// What stands behind it is looked at once this is done: the batch goes on.
    Cut,
    /// A FunctionCall.
    FunctionCall,
    /// The client says goodbye.
    Terminate,
    /// Copy data outside a copy: PostgreSQL ignores it.
    StrayCopy,
}

impl End {
    /// Its batch goes on behind it.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::Flush | Self::Cut | Self::StrayCopy)
    }
}

impl Gathered {
    /// The end of a transaction that was bound in it is executed.
    pub fn has_ended(&self) -> bool {
        self.ends_behind.is_some_and(|before| self.executes > before)
    }

    /// Rules have to do with a statement of its next message.
    pub(super) fn is_ruled(&mut self, statement: &Statement, reason: Reason, ruling: Ruling) {
        self.rulings.push(Ruled::new(self.size, statement, reason, ruling));
    }

    /// What rules have to do with the statement that decides where it goes: of several the one that gives the reason.
    pub fn deciding_ruling(&self) -> Option<&Ruled> {
        let is_one = self.executes <= 1;
        let reason = self.intent.as_ref().map(Intent::reason);
        self.rulings.iter().find(|ruled| is_one || reason == Some(ruled.reason))
    }

    /// Other rules come into force than these, by which it has been judged so far.
    #[cold]
    pub fn keep_rules(&mut self, rules: &Arc<RuleSet>) {
        self.rulings.iter_mut().for_each(|ruled| ruled.keeps(rules));
    }

    #[inline(never)]
    fn forget_rulings(&mut self) {
        self.rulings.clear();
        self.refused_in = None;
    }

    /// It is refused within a transaction that its batch has begun: that has failed.
    pub fn is_refused_within(&self) -> bool {
        self.refused_in.is_some()
    }

    /// The last that begins or ends a transaction in it, if what comes next stands behind that.
    pub(super) fn executed_control(&self) -> Option<&Statement> {
        let (before, statement) = self.control.as_ref()?;
        (self.executes > *before).then_some(&**statement)
    }

    /// Its batch goes on behind it.
    pub fn goes_on(&self) -> bool {
        self.end.is_some_and(End::goes_on)
    }

    /// It is a Flush by itself, which nothing answers.
    pub fn asks_nothing(&self) -> bool {
        self.end == Some(End::Flush) && self.size <= frame::HEADER
    }

    /// One more intent: the unit goes where the strictest of them may go.
    pub fn join(&mut self, intent: Intent) {
        self.intent = Some(match self.intent.take() {
            Some(before) => before.and(intent),
            None => intent,
        });
    }

    /// One more statement: what it prepares by SQL, an EXECUTE behind it may run.
    pub fn may_prepare(&mut self, statement: &Arc<Statement>) {
        let is_noted = self.preparing.last().is_some_and(|last| Arc::ptr_eq(last, statement));
        if !is_noted && statement.prepares_by_name() {
            self.preparing.push(Arc::clone(statement));
        }
    }

    /// One more statement, which draws from a sequence or not.
    pub fn draws(&mut self, draws: Draws) {
        self.draws = Some(self.draws.unwrap_or_default().max(draws));
    }

    /// It asks for a sequence's current value, or makes one that may be asked for.
    #[inline]
    pub fn needs_own_sequences(&self) -> bool {
        self.asks_sequence || self.draws == Some(Draws::Surely)
    }

    /// One more statement, which does something to its session.
    pub fn does_to_session(&mut self, statement: &Statement) {
        self.asks_sequence |=
            statement.parts.iter().any(|part| part.session.contains(&SessionChange::Pin(Pin::Sequence)));
        if temp_buffers::are_set_by(statement) {
            self.sets_temp_buffers();
        }
    }

    /// One more statement, which asks for a setting of Trunkline's own.
    #[cold]
    pub fn asks_wishes(&mut self) {
        self.asks_wishes = true;
        self.is_apart = true;
    }

    /// Trunkline may answer it by itself.
    #[cold]
    pub fn may_need_no_node(&mut self) {
        self.is_apart = true;
    }

    #[cold]
    fn sets_temp_buffers(&mut self) {
        self.sets_temp_buffers = true;
        self.is_apart = true;
    }

    /// Code that it runs may leave this, and ask for what there is.
    pub fn leaves(&mut self, left: Option<Box<Leftovers>>) {
        let Some(left) = left else { return };
        if temp_buffers::are_set_with(&left) {
            self.sets_temp_buffers();
        }
        self.asks_sequence |= left.may_ask_sequence();
        // What is left on a replica would keep its transaction there.
        if left.opens_cursor || !left.is_clean() {
            self.bind();
        }
        if !left.is_clean() || left.reads_otherwise {
            self.leftovers.get_or_insert_default().join(&left);
        }
    }

    /// On a replica something in it would bind its transaction to that node. A transaction that may write begins on the primary
    /// then: what it has been bound to, its first write would not find there.
    #[cold]
    pub fn bind(&mut self) {
        self.binds = true;
        if self.begins_to_write {
            self.join(Intent::Primary(Reason::Transaction));
        }
    }

    /// It runs something, and may take data from the client.
    pub fn takes_data(&self) -> bool {
        // Where its Parse is here, its Bind has not been looked at by itself.
        let takes =
            |prepared: &Arc<Prepared>| prepared.statement.parts.iter().any(|part| part.copy == CopyDirection::In);
        self.executes > 0 && (self.binds_copy_in || self.parsed.back().is_some_and(takes))
    }

    /// What is noted of statements that are no plain reads.
    fn clear_what_reads_lack(&mut self) {
        self.draws = None;
        self.runs_unseen = false;
        self.hides_code = false;
        self.changes_session = false;
        self.begins = false;
        self.ends = false;
        self.ends_behind = None;
        self.control = None;
        self.begins_to_write = false;
        self.begins_more = false;
        self.asks_wishes = false;
        self.discards_ahead = false;
        self.sets_temp_buffers = false;
        self.preparing.clear();
    }

    /// What is noted of messages that are no plain reads in a Query.
    fn clear_more(&mut self) {
        self.has_more = false;
        if !self.rulings.is_empty() {
            self.forget_rulings();
        }
        self.catalog_change = Change::None;
        self.leftovers = None;
        self.binds = false;
        self.binds_copy_in = false;
        self.commits = false;
        self.asks_sequence = false;
        self.is_apart = false;
        self.is_wrong_on_replica = false;
        self.missing = 0;
        self.draw = None;
        self.parsed.clear();
        self.empties.clear();
        self.names.clear();
        self.uses.clear();
        self.verified.clear();
        if self.draws.is_some() {
            self.clear_what_reads_lack();
        }
    }

    /// Looks at nothing again.
    pub fn clear(&mut self) {
        self.size = 0;
        self.intent = None;
        self.end = None;
        self.executes = 0;
        self.is_flushed = false;
        self.first = None;
        self.unnamed = None;
        self.queries.clear();
        if self.has_more {
            self.clear_more();
        }
        debug_assert!(self.has_nothing(), "what is noted of it is said to be");
    }

    /// Nothing is left of what has been looked at. It names every field, so that no new one is forgotten.
    fn has_nothing(&self) -> bool {
        let Self {
            // These mean nothing while nothing has been looked at.
            judged_at: _,
            refused_in: _,
            size,
            intent,
            end,
            executes,
            parsed,
            queries,
            preparing,
            names,
            unnamed,
            uses,
            verified,
            is_wrong_on_replica,
            runs_unseen,
            hides_code,
            changes_session,
            draws,
            asks_sequence,
            discards_ahead,
            is_apart,
            asks_wishes,
            sets_temp_buffers,
            missing,
            catalog_change,
            leftovers,
            has_more,
            empties,
            begins,
            ends,
            ends_behind,
            control,
            begins_to_write,
            begins_more,
            binds,
            binds_copy_in,
            commits,
            is_flushed,
            draw,
            rulings,
            first,
        } = self;
        let flags =
            [is_wrong_on_replica, runs_unseen, hides_code, changes_session, asks_sequence, is_apart, asks_wishes];
        let more_flags = [
            discards_ahead,
            sets_temp_buffers,
            has_more,
            begins,
            ends,
            begins_to_write,
            begins_more,
            binds,
            binds_copy_in,
        ];
        let has_flag = flags.into_iter().chain(more_flags).chain([commits, is_flushed]).any(|flag| *flag);
        let is_counted = *size > 0 || *executes > 0 || *missing > 0;
        let is_decided = intent.is_some() || end.is_some() || unnamed.is_some() || first.is_some() || draw.is_some();
        let is_noted = draws.is_some() || leftovers.is_some() || control.is_some() || ends_behind.is_some();
        let is_listed = !parsed.is_empty() || !queries.is_empty() || !preparing.is_empty() || !names.is_empty();
        let is_ruled = !rulings.is_empty() || !uses.is_empty() || !verified.is_empty() || !empties.is_empty();
        *catalog_change == Change::None && !(has_flag || is_counted || is_decided || is_noted || is_listed || is_ruled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Doubt;

    #[test]
    fn what_may_leave_something_is_not_read_on_a_replica_where_its_transaction_may_have_to_move() {
        let named = Leftovers { settings: vec!["work_mem".into()], ..Leftovers::default() };
        let cursor = Leftovers { opens_cursor: true, ..Leftovers::default() };
        for left in [Leftovers::doubtful(Doubt::Opaque), Leftovers::doubtful(Doubt::Unnamed), named, cursor] {
            let mut gathered = Gathered { begins_to_write: true, ..Gathered::default() };
            gathered.leaves(Some(Box::new(left)));
            assert!(gathered.binds && matches!(gathered.intent, Some(Intent::Primary(Reason::Transaction))));
        }
        let mut gathered = Gathered { begins_to_write: true, ..Gathered::default() };
        gathered.leaves(Some(Box::new(Leftovers { asks_sequence: true, ..Leftovers::default() })));
        assert!(!gathered.binds && gathered.intent.is_none());
    }
}
