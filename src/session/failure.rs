//! What the loss of a node means for the session that it served.

use bytes::BytesMut;

use super::aborted::Aborted;
use super::owed::{Asker, Done, Owed};
use super::untold::Untold;
use super::{AtBegin, Ended, Gathered, Session};
use crate::broken;
use crate::sql::{Kind, Part, Statement, TransactionControl};
use crate::wire::SqlState;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::{Severity, put_error};
use crate::wire::frontend;

/// What becomes of the session.
#[derive(Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing was done, or nothing that counts: the same bytes go to another node, and the client notices nothing.
    RunAgain,
    /// Everything that counts has been answered; what the node has not said any more are these bytes.
    Answered(BytesMut),
    /// The client is told with these bytes, and the session goes on. Where there are none, it waits for nothing: what it must know,
    /// it is told with its next answer.
    Report(SqlState, BytesMut),
    /// What the session had on its server connection is gone: it must end, with this message. What of it is lost besides, by the
    /// SQLSTATE that one would be told who could go on; None: nothing was under way.
    End(&'static str, Option<SqlState>),
}

/// How the node was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// The SQLSTATE of a FATAL ErrorResponse, if the node said goodbye.
    pub farewell: Option<SqlState>,
    /// Something of the present unit that may be done has been written to the node's socket.
    pub sent: bool,
    /// Something of its replies has been forwarded.
    pub forwarded: bool,
    /// The unit is a read that any node answers alike.
    pub is_read: bool,
    /// It is the only one under way, and its messages are still at hand.
    pub at_hand: bool,
}

impl Session {
    /// The node is lost. The session holds no lease any more.
    pub fn lost(&mut self, how: Circumstances) -> Loss {
        // What has been looked at stands in the input still, and is looked at anew.
        self.gathered = Gathered::default();
        let ended = self.leave_what_has_ended();
        if !self.pins.is_empty() || self.keeps_lease {
            let cost = self.cost_of_ending(how, ended);
            return Loss::End("the server connection that held this session's state was lost", cost);
        }
        // All that the client has asked for is answered: what was to come is the end that we have put to its batch.
        let is_ours = |owed: &Owed| matches!(owed, Owed::Sync(Asker::Us));
        if how.forwarded && !self.flow.batch_open && self.owed.iter().all(is_ours) {
            while self.owed.pop().is_some() {}
        }
        // The client has the answer to all that it has asked for, and has asked for nothing since.
        let is_unasked = self.owed.is_empty() && how.forwarded && !self.may_be_answered_more();
        if is_unasked && (self.has_only_prepared() || ended == Ended::Yes) {
            self.leave_batch();
        }
        let is_left = self.may_lose_remains() && (self.owed.is_empty() || self.touched_for_good);
        let is_committed = self.transaction.status == TransactionStatus::Idle || self.touched_for_good;
        if is_committed && (is_left || !self.touched.is_empty()) {
            let cost = self.cost_of_ending(how, ended);
            return Loss::End("the session's settings were lost with its server connection", cost);
        }
        let can_begin_anew = self.can_begin_anew();
        self.forget_remains();
        match ended {
            Ended::Yes if self.owes_only_ends() => return self.end_answered(),
            Ended::Chained if !self.owed.is_empty() || self.flow.batch_open => return self.lost_chained(is_unasked),
            _ => {}
        }
        let is_untold = self.owed.is_empty() && !self.flow.batch_open || how.at_hand && !how.forwarded;
        if is_untold && can_begin_anew {
            self.begin_anew();
            return Loss::RunAgain;
        }
        self.portals.clear();
        if self.owed.are_only_closes() && !self.flow.batch_open {
            return self.close_what_is_owed();
        }
        if self.transaction.status != TransactionStatus::Idle {
            return self.lost_transaction(how, is_unasked);
        }
        let refused = how.farewell.is_some_and(proves_nothing_done) && !self.can_commit_inside();
        let is_harmless = refused && !self.ends_sessions() || self.runs_nothing();
        let has_done_nothing = !how.sent || how.is_read || is_harmless || broken::has_begun();
        if how.at_hand && !how.forwarded && has_done_nothing {
            self.rewind();
            return Loss::RunAgain;
        }
        if self.owed.is_empty() && !self.flow.batch_open {
            return Loss::Report(SqlState::CONNECTION_FAILURE, BytesMut::new());
        }
        if is_unasked {
            return self.lost_unasked(how);
        }
        if self.waits_for_copy_data() {
            let (code, message) = cut_copy(how);
            return self.report(code, message);
        }
        if refused && how.farewell == Some(SqlState::ADMIN_SHUTDOWN) && !how.forwarded {
            return self.report(SqlState::ADMIN_SHUTDOWN, TERMINATED);
        }
        if !how.sent {
            return self.report(
                SqlState::ADMIN_SHUTDOWN,
                "the server connection was lost before the statement was sent, which has not been run",
            );
        }
        let leaves_nothing = self.runs_nothing() && self.owed.done() == Done::Nothing;
        if how.is_read || leaves_nothing {
            return self.report(
                SqlState::CONNECTION_FAILURE,
                "the server connection was lost while its answer was on the way",
            );
        }
        self.report(
            SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            "the server connection was lost and the outcome of the statement is not known",
        )
    }

    /// What the transaction or statement that is under way comes to, if the session ends with the node.
    fn cost_of_ending(&self, how: Circumstances, ended: Ended) -> Option<SqlState> {
        if ended == Ended::Yes && self.owes_only_ends() {
            return None;
        }
        let refused = how.farewell.is_some_and(proves_nothing_done) && !how.forwarded;
        if self.transaction.status != TransactionStatus::Idle {
            return Some(match how.sent && self.commit_is_under_way() && !refused && !self.writes_nothing() {
                true => SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                false => SqlState::SERIALIZATION_FAILURE,
            });
        }
        if !how.sent || self.runs_nothing() {
            None
        } else if self.waits_for_copy_data() {
            Some(cut_copy(how).0)
        } else if refused && !self.can_commit_inside() {
            Some(SqlState::ADMIN_SHUTDOWN)
        } else if how.is_read || self.only_reads() {
            Some(SqlState::CONNECTION_FAILURE)
        } else {
            Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN)
        }
    }

    /// All that is under way is a COPY of which the node has not been sent the end of its data: nothing of it has been done, nor of
    /// what stands before it in its batch.
    fn waits_for_copy_data(&self) -> bool {
        self.flow.copy_in && !self.can_commit_inside() && self.owed.done() != Done::Standing
    }

    /// Whatever becomes of what is under way, it has written nothing: it waits for copy data, or is on a replica. Of what stands
    /// behind the end of a transaction there that is not said.
    pub fn writes_nothing(&self) -> bool {
        self.waits_for_copy_data() || self.catalog.on_replica && !self.runs_behind_an_end()
    }

    /// More is under way behind the end of a transaction.
    fn runs_behind_an_end(&self) -> bool {
        let mut has_ended = false;
        self.owed.iter().any(|owed| {
            let is_unseen = matches!(owed, Owed::Execute(None) | Owed::FunctionCall);
            is_unseen && has_ended
                || owed.undone().iter().any(|part| {
                    let is_behind = has_ended;
                    has_ended |= part.transaction.ends();
                    is_behind
                })
        })
    }

    /// Nothing that is under way writes, nor what it executes by name.
    fn only_reads(&self) -> bool {
        let reads = |statement: &Statement| statement.needs_primary().is_none();
        self.owed.iter().all(|owed| match owed {
            Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                let executed = self.may_run(statement.run_names());
                reads(statement) && !executed.has_unknown && executed.known.iter().all(|(inner, _)| reads(inner))
            }
            Owed::Execute(None) | Owed::FunctionCall => false,
            _ => true,
        })
    }

    /// The outcome of a transaction that has ended stands, and the client has been told: what goes wrong now is only what
    /// comes after it.
    fn leave_what_has_ended(&mut self) -> Ended {
        let ended = std::mem::take(&mut self.transaction.ended);
        if matches!(ended, Ended::Yes | Ended::Followed) {
            self.transaction.status = TransactionStatus::Idle;
            self.at_begin = None;
            self.forget_modes();
        }
        ended
    }

    /// What has been gathered is to be refused. Answers whether what was sent of its batch before can be undone with its lease;
    /// else something commits there, and must have been answered first: it is asked for.
    pub fn may_be_refused(&mut self, out: &mut BytesMut) -> bool {
        let commits_inside = self
            .owed
            .iter()
            .filter_map(Owed::statement)
            .flat_map(|statement| &statement.parts)
            .any(|part| part.commits_inside);
        if commits_inside || self.commit_is_under_way() {
            if !std::mem::replace(&mut self.gathered.is_flushed, true) {
                frontend::put_bare(out, frontend::FLUSH);
            }
            return false;
        }
        self.leave_what_has_ended();
        true
    }

    /// What is under way is forgotten, to be surveyed and translated anew for another node.
    pub fn rewind(&mut self) {
        while self.owed.pop().is_some() {}
        self.rewind_statements();
        self.gathered = Gathered::default();
        self.flow.batch_open = false;
        (self.flow.copy_in, self.flow.is_astray) = (false, false);
        self.flow.skipping = false;
    }

    /// Statements are as the client has last been shown them.
    pub(super) fn rewind_statements(&mut self) {
        self.owed.goes_elsewhere();
        self.names.rewind();
        if let Some(before) = self.unshown_unnamed.take() {
            self.settled_unnamed = before;
        }
        self.unnamed.clone_from(&self.settled_unnamed);
        if let Some(before) = self.unshown_sql.take() {
            self.sql_prepared = *before;
        }
        self.settle_doubts();
        self.undescribed = None;
    }

    /// The transaction can be run again elsewhere as if nothing had happened, if its statements are at hand: nothing of it
    /// can have been committed, and it has left nothing outside itself on the server connection.
    pub fn may_replay(&self, how: &Circumstances) -> bool {
        let is_refused = how.farewell.is_some_and(proves_nothing_done) && !self.commits_before_the_end();
        self.at_begin.is_some()
            && self.transaction.status != TransactionStatus::Idle
            && self.pins.is_empty()
            && !self.keeps_lease
            && self.transaction.ended == Ended::No
            && !how.forwarded
            && !self.flow.copy_in
            && (is_refused || !how.sent || !self.commit_is_under_way())
    }

    /// More is under way behind a COMMIT: a goodbye says nothing of the COMMIT then.
    fn commits_before_the_end(&self) -> bool {
        let executed = self.owed.iter().filter(|owed| matches!(owed, Owed::Query { .. } | Owed::Execute(_)));
        executed.count() > 1 && self.commit_is_under_way()
    }

    /// Everything since BEGIN is forgotten, to be surveyed and translated anew for another node.
    pub fn begin_again(&mut self) {
        self.rewind();
        self.portals.clear();
        self.transaction.status = TransactionStatus::Idle;
        self.forget_modes();
        let Some(at_begin) = &self.at_begin else { return };
        self.unnamed.clone_from(&at_begin.unnamed);
        self.settled_unnamed.clone_from(&at_begin.unnamed);
        self.sql_prepared = at_begin.sql_prepared.clone();
        if let Some(names) = &at_begin.names {
            self.names = names.clone();
        }
    }

    /// A transaction begins with what is gathered, and may have to be run again.
    pub fn note_begin(&mut self) {
        let (unnamed, sql_prepared) = (self.unnamed.clone(), self.sql_prepared.clone());
        self.at_begin = Some(Box::new(AtBegin { unnamed, sql_prepared, names: None }));
    }

    /// What is gathered is about to be sent in a transaction that may have to be run again.
    pub fn note_names(&mut self) {
        if let Some(at_begin) = self.at_begin.as_mut().filter(|_| !self.gathered.names.is_empty()) {
            at_begin.names.get_or_insert_with(|| self.names.clone());
        }
    }

    /// A transaction that has begun is begun again, with the unit that it is in.
    pub fn has_not_begun(&mut self) {
        self.transaction.status = TransactionStatus::Idle;
        self.forget_modes();
        self.at_begin = None;
    }

    /// No transaction is there that could be run again.
    pub fn forget_begin(&mut self) {
        self.at_begin = None;
    }

    /// The transaction was run again and did not come out the same. Its next statement is told that it was lost.
    pub fn lose_replayed(&mut self) {
        self.rewind();
        self.portals.clear();
        self.at_begin = None;
        self.forget_modes();
        self.transaction.status = TransactionStatus::Failed;
        self.transaction.may_have_written = false;
        self.transaction.aborted = Some(Aborted::NotTold);
    }

    pub(super) fn forget_modes(&mut self) {
        self.transaction.modes = None;
        self.transaction.is_bound = false;
        self.transaction.has_acted = false;
        self.transaction.is_homeless = false;
    }

    /// A COMMIT has been, or is being, sent and is not answered, or what may hold one.
    pub fn commit_is_under_way(&self) -> bool {
        // What stands behind the end of the transaction is none of it.
        let mut has_ended = false;
        let mut commits = |part: &Part| {
            let commits = may_commit(part) || has_ended && part.needs_primary.is_some();
            has_ended |= part.transaction.ends();
            commits
        };
        self.owed.iter().any(|owed| match owed {
            Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                !statement.is_plain_read() && statement.parts.iter().any(&mut commits)
            }
            Owed::Execute(None) => true,
            _ => false,
        })
    }

    /// Every statement that was sent has been completed: only the ends of units are owed.
    fn owes_only_ends(&self) -> bool {
        !self.flow.batch_open
            && self.owed.iter().all(|owed| match owed {
                Owed::Query { statement, completed, woven } => {
                    *completed == statement.parts.len() && woven.as_ref().is_none_or(|woven| woven.is_done())
                }
                Owed::Sync(_) => true,
                _ => false,
            })
    }

    /// The ReadyForQuery that the node would have sent.
    fn end_answered(&mut self) -> Loss {
        let mut out = BytesMut::new();
        self.tell_what_is_undone(&mut out); // what was set for the transaction only
        while let Some(owed) = self.owed.pop() {
            if owed.asker() == Asker::Client {
                backend::put_ready(&mut out, self.transaction.status);
            }
        }
        self.portals.clear();
        Loss::Answered(out)
    }

    /// COMMIT AND CHAIN has committed, and the transaction that it has begun is lost. That is no reason to try the first
    /// one again, so it is not told as a transaction that was rolled back.
    fn lost_chained(&mut self, is_unasked: bool) -> Loss {
        self.at_begin = None;
        self.portals.clear();
        self.transaction.status = TransactionStatus::Failed;
        self.transaction.aborted = Some(Aborted::Told);
        match is_unasked {
            true => self.tell_later(Untold::Chained),
            false => self.report(Untold::Chained.code(), Untold::Chained.words()),
        }
    }

    fn lost_transaction(&mut self, how: Circumstances, is_unasked: bool) -> Loss {
        if self.commit_is_under_way() {
            self.at_begin = None;
            self.ends_without_node();
            // A node that says goodbye in place of the COMMIT's completion has rolled back: once it has committed it lets
            // nothing come before the completion. And one that has not been sent it has nothing to commit, nor has a replica.
            if !how.sent || self.writes_nothing() || how.farewell.is_some_and(proves_nothing_done) && !how.forwarded {
                self.transaction.may_have_written = false;
                return self.report(SqlState::SERIALIZATION_FAILURE, super::aborted::LOST);
            }
            return self.report(
                SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                "the server connection was lost during COMMIT and its outcome is not known",
            );
        }
        if is_unasked || self.owed.is_empty() && !self.flow.batch_open {
            return self.lose_transaction_untold();
        }
        self.transaction.status = TransactionStatus::Failed;
        self.transaction.may_have_written = false;
        self.transaction.aborted = Some(Aborted::Told);
        self.report(SqlState::SERIALIZATION_FAILURE, super::aborted::LOST)
    }

    /// The client waits for nothing: its next statement is told. An error that its batch has met is told already.
    pub(super) fn lose_transaction_untold(&mut self) -> Loss {
        self.transaction.status = TransactionStatus::Failed;
        self.transaction.may_have_written = false;
        self.transaction.aborted = Some(Aborted::NotTold);
        self.leave_batch();
        Loss::Report(SqlState::SERIALIZATION_FAILURE, BytesMut::new())
    }

    /// What is to be closed is closed, and the client is told so. That its transaction is lost is told to its next statement: drivers close
    /// without looking at the answer, and the client would take the tag ROLLBACK of its COMMIT for success.
    fn close_what_is_owed(&mut self) -> Loss {
        if self.transaction.status != TransactionStatus::Idle {
            self.transaction.status = TransactionStatus::Failed;
            self.transaction.may_have_written = false;
            self.transaction.aborted = Some(Aborted::NotTold);
        }
        let (mut out, mut closed) = (BytesMut::new(), Vec::new());
        while let Some(owed) = self.owed.pop() {
            match owed {
                Owed::CloseStatement(name) => {
                    backend::put_bare(&mut out, backend::CLOSE_COMPLETE);
                    closed.push(name);
                }
                Owed::ClosePortal => backend::put_bare(&mut out, backend::CLOSE_COMPLETE),
                Owed::Sync(Asker::Client) => backend::put_ready(&mut out, self.transaction.status),
                _ => {}
            }
        }
        self.rewind_statements();
        closed.iter().for_each(|name| self.close_alone(name));
        Loss::Answered(out)
    }

    /// An error for each ReadyForQuery that is owed, and for a batch without its Sync, which is skipped up to it.
    fn report(&mut self, code: SqlState, message: &str) -> Loss {
        let is_open = self.flow.batch_open;
        if self.transaction.status == TransactionStatus::Idle {
            self.forget_modes(); // of a BEGIN that is lost with what is reported
        }
        let mut out = BytesMut::new();
        put_error(&mut out, Severity::Error, code, message, None);
        self.tell_what_is_undone(&mut out);
        let mut readies = 0;
        while let Some(owed) = self.owed.pop() {
            if owed.ends_with_ready() && owed.asker() == Asker::Client {
                if readies > 0 {
                    put_error(&mut out, Severity::Error, code, message, None);
                }
                readies += 1;
                backend::put_ready(&mut out, self.transaction.status);
            }
        }
        if is_open && readies > 0 {
            put_error(&mut out, Severity::Error, code, message, None);
        }
        self.flow.skipping = is_open;
        self.flow.batch_open = false;
        self.flow.copy_in = false;
        self.rewind_statements();
        Loss::Report(code, out)
    }

    /// Something under way may have been done though the node says that it was not asked to finish: more than one
    /// statement, or one that commits in its middle. What is only prepared or closed does nothing.
    pub(super) fn can_commit_inside(&self) -> bool {
        let mut executed = 0;
        for owed in self.owed.iter() {
            let statement = match owed {
                Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => statement,
                Owed::Execute(None) | Owed::FunctionCall => return true,
                _ => continue,
            };
            executed += statement.parts.len();
            if statement.parts.iter().any(|part| part.commits_inside || part.kind == Kind::Commit) {
                return true;
            }
        }
        executed > 1
    }

    /// Something under way ends sessions of the node, perhaps its own: run again it would end others, and again its own.
    fn ends_sessions(&self) -> bool {
        let parts = self.owed.iter().filter_map(Owed::statement).flat_map(|statement| &statement.parts);
        parts.flat_map(|part| &part.functions).any(|function| &*function.name == "pg_terminate_backend")
    }

    /// What a replica has refused of it can be run at another node: alone, or with its transaction, which goes on.
    pub fn can_be_run_elsewhere(&self) -> bool {
        let ends = |owed: &Owed| match owed {
            Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                statement.parts.iter().any(|part| part.transaction != TransactionControl::None)
            }
            Owed::Execute(None) | Owed::FunctionCall => true,
            _ => false,
        };
        match self.transaction.status {
            TransactionStatus::Idle => self.pins.is_empty(),
            _ => self.can_begin_anew() && !self.owed.iter().any(ends),
        }
    }

    /// Nothing under way runs a statement, but for one that begins a transaction: it can be asked anew whatever became of it.
    fn runs_nothing(&self) -> bool {
        self.owed.iter().all(|owed| match owed {
            Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                statement.parts.iter().all(|part| part.kind == Kind::Begin)
            }
            Owed::Execute(None) | Owed::FunctionCall => false,
            _ => true,
        })
    }

    /// All that is under way begins a transaction, and nothing else is parsed or bound beside that: whether it was done, and what
    /// becomes of it with its node, is all the same.
    pub fn only_begins(&self) -> bool {
        let count = |what: fn(&Owed) -> bool| self.owed.iter().filter(|owed| what(owed)).count();
        count(|owed| matches!(owed, Owed::Query { .. } | Owed::Execute(_))) == 1
            && count(|owed| matches!(owed, Owed::Parse { .. } | Owed::ParseTaken(_))) <= 1
            && count(|owed| matches!(owed, Owed::Bind | Owed::Stale)) <= 1
            && self.runs_nothing()
    }

    /// Nothing is owed but the replies to a batch whose end has not been sent: they may not come before it.
    pub fn owes_only_open_batch(&self) -> bool {
        self.flow.batch_open && !self.owed.iter().any(Owed::ends_with_ready)
    }

    /// The batch that is open cannot go on: an error in place of what is owed of it. It is undone with its lease.
    pub fn fail_batch(&mut self, code: SqlState, message: &str, end: super::End, out: &mut BytesMut) {
        let begun = self.gathered.refused_in;
        self.rewind();
        self.gathered.refused_in = begun;
        self.portals.clear();
        self.forget_modes(); // of a BEGIN that is undone with it
        self.refuse_unit(code, message, end, out);
    }

    /// An error in place of what the unit would have been answered, given by us and not by a node; the unit has been
    /// taken off the client's hands. A batch without its Sync is skipped up to it. Behind a BEGIN in its batch it leaves a
    /// transaction that has failed, as by a server; but not where the session keeps a server connection, which has not begun it.
    pub fn refuse_unit(&mut self, code: SqlState, message: &str, end: super::End, out: &mut BytesMut) {
        put_error(out, Severity::Error, code, message, None);
        self.tell_what_is_undone(out);
        let begun = self.gathered.refused_in.take().filter(|_| !self.keeps_lease());
        if self.transaction.status != TransactionStatus::Idle || begun.is_some() {
            // Without a lease: it was to be begun anew.
            self.transaction.status = TransactionStatus::Failed;
            self.transaction.is_homeless = false;
            self.transaction.modes = begun;
            self.transaction.aborted = Some(Aborted::Told);
        }
        match end.goes_on() {
            true => self.flow.skipping = true,
            false => backend::put_ready(out, self.transaction.status),
        }
        self.gathered.clear();
    }

    /// The same on a server connection that the session keeps: its batch and its transaction fail there, and nothing else of the
    /// session is lost.
    pub fn refuse_at_node(&mut self, code: SqlState, message: &str, end: super::End, out: &mut BytesMut) {
        self.put_refusal(code, message, out);
        match end.goes_on() {
            true => frontend::put_bare(out, frontend::FLUSH),
            false => {
                frontend::put_bare(out, frontend::SYNC);
                self.owes_sync();
            }
        }
        self.gathered.clear();
    }
}

/// A fast shutdown says goodbye before anything of an autocommit statement is done; so does a node that is no primary, and one
/// on whose connection nothing had come for too long.
fn proves_nothing_done(code: SqlState) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW, SqlState::IDLE_SESSION_TIMEOUT].contains(&code)
}

/// What is said of a COPY whose node is lost while it waits for data.
fn cut_copy(how: Circumstances) -> (SqlState, &'static str) {
    match how.farewell {
        Some(SqlState::ADMIN_SHUTDOWN) => (SqlState::ADMIN_SHUTDOWN, TERMINATED),
        _ => (
            SqlState::CONNECTION_FAILURE,
            "the server connection was lost before COPY had all of its data: nothing of it has been done",
        ),
    }
}

/// In PostgreSQL's words.
const TERMINATED: &str = "terminating connection due to administrator command";

/// A statement that ends a transaction for good, or one that nobody has read.
fn may_commit(part: &Part) -> bool {
    matches!(part.kind, Kind::Commit | Kind::PrepareTransaction | Kind::Unparsed)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::session::Held;
    use crate::session::reply::Reply;
    use crate::session::story::Story;
    use crate::sql::{ParseSettings, classify_bytes};

    #[test]
    fn a_begin_that_is_undone_with_its_batch_says_nothing_of_the_next() {
        let mut story = Story::begin();
        story.parse("", "begin");
        story.bind("");
        story.execute();
        story.hear_all("12");
        story.hear(b'C', b"BEGIN\0");
        assert!(story.session.transaction.modes.is_some());
        let mut out = BytesMut::new();
        story.session.fail_batch(SqlState::INSUFFICIENT_PRIVILEGE, "no", crate::session::End::Sync, &mut out);
        assert!(story.session.transaction.modes.is_none());
    }

    #[test]
    fn what_is_refused_on_a_server_connection_that_is_kept_fails_there_in_our_words() {
        let missing = b"SERROR\0C26000\0M?\0\0";
        let mut refusal = BytesMut::new();
        put_error(&mut refusal, Severity::Error, SqlState::INSUFFICIENT_PRIVILEGE, "no", None);
        for (end, is_whole) in [(crate::session::End::Sync, true), (crate::session::End::Flush, false)] {
            let mut story = Story::begin();
            story.open_transaction();
            story.parse("", "insert into t values (1)");
            story.bind("");
            story.execute();
            let mut out = BytesMut::new();
            story.session.refuse_at_node(SqlState::INSUFFICIENT_PRIVILEGE, "no", end, &mut out);
            story.hear_all("12");
            story.hear(b'C', b"INSERT 0 1\0");
            assert_eq!(story.hear(b'3', b""), Reply::Hide);
            assert_eq!(story.hear(b'E', missing), Reply::Replace(refusal.clone()));
            assert_eq!(story.session.is_skipping(), !is_whole);
            if !is_whole {
                assert_eq!(story.parse("", "insert into t values (2)"), "");
                story.sync();
            }
            assert_eq!(story.hear(b'Z', b"E"), Reply::Forward);
            assert_eq!(story.session.status(), TransactionStatus::Failed);
            assert!(story.session.all_answered() && !story.session.answers_alone());
        }
    }

    impl Story {
        fn open_transaction(&mut self) {
            self.send(b'Q', b"begin\0");
            self.hear(b'C', b"BEGIN\0");
            self.hear(b'Z', b"T");
        }

        /// Parse, Bind, Execute and Sync of this statement, which is completed with this tag and no ReadyForQuery.
        fn complete(&mut self, text: &str, tag: &str) {
            self.parse("", text);
            self.bind("");
            self.execute();
            self.sync();
            self.hear(b'1', b"");
            self.hear(b'2', b"");
            self.hear(b'C', format!("{tag}\0").as_bytes());
        }

        fn lose(&mut self) -> Loss {
            let farewell = Some(SqlState::ADMIN_SHUTDOWN);
            let how = Circumstances { farewell, sent: true, forwarded: true, is_read: false, at_hand: false };
            assert!(!self.session.may_replay(&how));
            self.session.lost(how)
        }
    }

    #[test]
    fn a_commit_that_was_told_before_the_node_was_lost_is_not_taken_back() {
        let mut story = Story::begin();
        story.open_transaction();
        story.complete("commit", "COMMIT");
        assert_eq!(story.lose(), Loss::Answered(BytesMut::from(&b"Z\0\0\0\x05I"[..])));
        assert!(story.session.is_idle() && story.session.may_release());
    }

    #[test]
    fn a_node_that_is_lost_behind_the_end_that_we_have_put_to_a_batch_is_told_to_nobody() {
        let mut story = Story::begin();
        story.parse("", "select 1");
        story.bind("");
        story.execute();
        story.hear_all("12");
        story.hear(b'C', b"SELECT 1\0");
        story.session.end_batch(&mut BytesMut::new());
        assert_eq!(story.lose(), Loss::Report(SqlState::CONNECTION_FAILURE, BytesMut::new()));
        assert!(story.session.is_idle() && story.session.may_release());
    }

    #[test]
    fn what_is_only_prepared_or_begun_when_the_node_is_lost_leaves_no_doubt() {
        let how = Circumstances { farewell: None, sent: true, forwarded: false, is_read: false, at_hand: false };
        for (has_run, under_way) in [(false, "P"), (false, "begin"), (true, "P"), (true, "S"), (false, "insert")] {
            let mut story = Story::begin();
            if has_run {
                story.parse("", "insert into t values (1)");
                story.bind("");
                story.execute();
                story.hear_all("12");
                story.hear(b'C', b"INSERT 0 1\0");
            }
            match under_way {
                "P" => drop(story.parse("a", "insert into t values (2)")),
                "S" => drop(story.sync()),
                "begin" => drop(story.send(b'Q', b"begin\0")),
                _ => drop(story.send(b'Q', b"insert into t values (2)\0")),
            }
            let Loss::Report(code, _) = story.session.lost(how) else { panic!("{under_way}") };
            let is_in_doubt = has_run || under_way == "insert";
            assert_eq!(code == SqlState::TRANSACTION_RESOLUTION_UNKNOWN, is_in_doubt, "{has_run} {under_way}");
            assert!(is_in_doubt || code == SqlState::CONNECTION_FAILURE);
        }
    }

    #[test]
    fn a_copy_that_has_not_got_all_of_its_data_is_in_no_doubt_when_the_node_is_lost() {
        let (unknown, cut) = (SqlState::TRANSACTION_RESOLUTION_UNKNOWN, SqlState::CONNECTION_FAILURE);
        let goodbye = Some(SqlState::ADMIN_SHUTDOWN);
        for (before, has_ended, farewell, told) in [
            (None, false, None, cut),
            (None, false, goodbye, SqlState::ADMIN_SHUTDOWN),
            (None, true, None, unknown),
            (Some("insert into t values (1)"), false, None, cut),
            (Some("call p()"), false, None, unknown),
        ] {
            for is_kept in [false, true] {
                let mut story = Story::begin();
                if is_kept {
                    story.session.keep_lease();
                }
                for text in before.into_iter().chain(["copy t from stdin"]) {
                    story.parse("", text);
                    story.bind("");
                    story.execute();
                    story.hear_all("12");
                    story.hear(if text.starts_with("copy") { b'G' } else { b'C' }, b"?\0");
                }
                if has_ended {
                    story.send(b'c', b"");
                }
                assert_eq!(story.session.writes_nothing(), told != unknown);
                let how = Circumstances { farewell, sent: true, forwarded: true, is_read: false, at_hand: false };
                let code = match story.session.lost(how) {
                    Loss::Report(code, _) => Some(code),
                    Loss::End(_, cost) => cost,
                    loss => panic!("{loss:?}"),
                };
                assert_eq!(code, Some(told), "{before:?} {has_ended} {farewell:?} {is_kept}");
            }
        }
        // What stands beside it in its string may be done.
        let mut story = Story::begin();
        story.send(b'Q', b"copy t from stdin; call p()\0");
        story.hear(b'G', b"?\0");
        assert!(!story.session.writes_nothing());
    }

    #[test]
    fn what_an_execute_runs_says_what_is_lost_with_the_end_of_its_session() {
        let (unknown, cut) = (SqlState::TRANSACTION_RESOLUTION_UNKNOWN, SqlState::CONNECTION_FAILURE);
        let how = Circumstances { farewell: None, sent: true, forwarded: false, is_read: false, at_hand: false };
        for (text, told) in [
            ("execute reads", cut),
            ("execute writes", unknown),
            ("explain execute writes", cut),
            ("explain analyze execute writes", unknown),
            ("execute nothing", unknown),
        ] {
            let mut story = Story::begin();
            story.session.keep_lease();
            for prepare in ["prepare reads as select 1", "prepare writes as insert into t values (1)"] {
                story.send(b'Q', format!("{prepare}\0").as_bytes());
                story.hear(b'C', b"PREPARE\0");
                story.hear_all("Z");
            }
            story.send(b'Q', format!("{text}\0").as_bytes());
            let Loss::End(_, cost) = story.session.lost(how) else { panic!("{text}") };
            assert_eq!(cost, Some(told), "{text}");
        }
    }

    #[test]
    fn a_commit_on_a_replica_is_in_no_doubt_when_that_is_lost() {
        let (lost, unknown) = (SqlState::SERIALIZATION_FAILURE, SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
        let how = Circumstances { farewell: None, sent: true, forwarded: false, is_read: false, at_hand: false };
        for (held, text, told) in [
            (Held::Replica, "commit", lost),
            (Held::Replica, "select 1; commit", lost),
            (Held::Replica, "commit; insert into t values (1)", unknown),
            (Held::Primary, "commit", unknown),
        ] {
            for is_kept in [false, true] {
                let mut story = Story::begin();
                story.session.served_on(held);
                if is_kept {
                    story.session.keep_lease();
                }
                story.open_transaction();
                story.send(b'Q', format!("{text}\0").as_bytes());
                assert_eq!(story.session.writes_nothing(), told == lost, "{held:?} {text}");
                let code = match story.session.lost(how) {
                    Loss::Report(code, _) => Some(code),
                    Loss::End(_, cost) => cost,
                    loss => panic!("{loss:?}"),
                };
                assert_eq!(code, Some(told), "{held:?} {text} {is_kept}");
            }
        }
        // In parts, the end stands in another message.
        let mut story = Story::begin();
        story.session.served_on(Held::Replica);
        story.open_transaction();
        for text in ["commit", "select 1"] {
            assert!(story.session.writes_nothing());
            story.parse("", text);
            story.bind("");
            story.execute();
        }
        assert!(!story.session.writes_nothing());
    }

    #[test]
    fn what_was_done_behind_a_commit_in_its_batch_is_in_doubt_when_the_node_is_lost() {
        let mut story = Story::begin();
        story.open_transaction();
        for text in ["commit", "insert into t values (1)"] {
            story.parse("", text);
            story.bind("");
            story.execute();
        }
        story.sync();
        for tag in ["COMMIT\0", "INSERT 0 1\0"] {
            story.hear_all("12");
            story.hear(b'C', tag.as_bytes());
        }
        let Loss::Report(code, _) = story.lose() else { panic!("its outcome is not known") };
        assert_eq!(code, SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
    }

    #[test]
    fn what_stands_behind_a_rollback_is_in_doubt_when_the_node_is_lost() {
        for (text, code) in [
            ("rollback; insert into t values (1)", SqlState::TRANSACTION_RESOLUTION_UNKNOWN),
            ("rollback; select 1", SqlState::SERIALIZATION_FAILURE),
            ("insert into t values (1)", SqlState::SERIALIZATION_FAILURE),
        ] {
            let mut story = Story::begin();
            story.open_transaction();
            story.session.transaction.has_acted = true; // it cannot be begun anew
            story.send(b'Q', format!("{text}\0").as_bytes());
            let Loss::Report(told, _) = story.lose() else { panic!("{text}") };
            assert_eq!(told, code, "{text}");
        }
    }

    #[test]
    fn a_lost_transaction_is_not_told_in_answer_to_a_close() {
        let mut story = Story::begin();
        story.open_transaction();
        story.send(b'C', b"Ss1\0");
        story.sync();
        assert_eq!(story.lose(), Loss::Answered(BytesMut::from(&b"3\0\0\0\x04Z\0\0\0\x05E"[..])));
        assert!(story.session.untold_loss().is_some());
        let mut out = BytesMut::new();
        let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
        let told = story.session.answer_alone(b'Q', b"commit\0", &mut classify, &mut out).unwrap();
        assert_eq!(out.first(), Some(&b'E'), "not the tag ROLLBACK, which looks like success");
        assert_eq!(told, Some(SqlState::SERIALIZATION_FAILURE));
        assert!(!story.session.answers_alone());
    }

    #[test]
    fn of_a_batch_whose_sync_has_not_come_nothing_is_done_behind_the_loss() {
        let mut story = Story::begin();
        for _ in 0..2 {
            story.parse("", "insert into t values (1)");
            story.bind("");
            story.execute();
            story.sync();
        }
        story.parse("", "insert into t values (2)");
        story.bind("");
        story.execute();
        story.survey(b'P', b"\0insert into t values (3)\0\0\0");
        let Loss::Report(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, told) = story.lose() else { panic!("it is lost") };
        let mut rest = &told[..];
        let mut tags = String::new();
        while let Ok(Some(header)) = crate::wire::Header::peek(rest) {
            tags.push(header.tag.into());
            rest = &rest[header.size..];
        }
        assert_eq!(tags, "EZEZE", "one for each batch, the open one too");
        assert!(story.session.is_skipping(), "the rest of it is passed over up to its Sync");
        assert_eq!(story.session.gathered.size, 0, "what was looked at is looked at anew");
    }

    #[test]
    fn what_a_transaction_ends_behind_is_not_run_elsewhere() {
        let mut story = Story::begin();
        assert!(story.session.can_be_run_elsewhere());
        story.open_transaction();
        assert!(story.session.can_be_run_elsewhere());
        story.send(b'Q', b"commit\0");
        assert!(!story.session.can_be_run_elsewhere(), "it would run outside of its transaction");
        story.hear(b'C', b"COMMIT\0");
        story.hear(b'Z', b"I");
        assert!(story.session.can_be_run_elsewhere());
    }

    #[test]
    fn a_transaction_that_its_rule_keeps_from_the_primary_is_lost_with_its_replica() {
        let farewell = Some(SqlState::ADMIN_SHUTDOWN);
        let how = Circumstances { farewell, sent: false, forwarded: false, is_read: true, at_hand: false };
        for is_kept in [false, true] {
            let mut story = Story::begin();
            story.session.is_kept_from_primary(); // in none there is nothing to be kept
            story.open_transaction();
            if is_kept {
                story.session.is_kept_from_primary();
            }
            assert_eq!(story.session.lost(how) == Loss::RunAgain, !is_kept);
            assert_eq!(story.session.untold_loss().is_some(), is_kept);
        }
    }

    #[test]
    fn a_begin_that_was_lost_without_a_word_is_run_again() {
        let how = Circumstances { farewell: None, sent: true, forwarded: false, is_read: false, at_hand: true };
        for (text, is_run_again) in [("begin isolation level serializable", true), ("begin; delete from t", false)] {
            let mut story = Story::begin();
            assert!(!story.session.only_begins(), "nothing is under way");
            story.send(b'Q', format!("{text}\0").as_bytes());
            assert_eq!(story.session.only_begins(), is_run_again, "{text}");
            assert_eq!(story.session.lost(how) == Loss::RunAgain, is_run_again, "{text}");
        }
    }

    #[test]
    fn what_ends_sessions_is_not_run_again_when_it_has_ended_its_own() {
        let farewell = Some(SqlState::ADMIN_SHUTDOWN);
        let how = Circumstances { farewell, sent: true, forwarded: false, is_read: false, at_hand: true };
        for (text, is_run_again) in [("select pg_terminate_backend(pg_backend_pid())", false), ("delete from t", true)]
        {
            let mut story = Story::begin();
            story.send(b'Q', format!("{text}\0").as_bytes());
            match story.session.lost(how) {
                Loss::RunAgain => assert!(is_run_again, "{text}"),
                loss => assert!(matches!(loss, Loss::Report(SqlState::ADMIN_SHUTDOWN, _)) && !is_run_again, "{text}"),
            }
        }
    }

    /// On a lease that is kept: what stands before it was answered.
    #[test]
    fn what_was_not_sent_is_in_no_doubt() {
        let how = Circumstances { farewell: None, sent: false, forwarded: false, is_read: false, at_hand: false };
        for (is_inside, text, code, status) in [
            (true, "commit", SqlState::SERIALIZATION_FAILURE, b"I"),
            (true, "insert into t values (2)", SqlState::SERIALIZATION_FAILURE, b"E"),
            (false, "insert into t values (2)", SqlState::ADMIN_SHUTDOWN, b"I"),
        ] {
            let mut story = Story::begin();
            if is_inside {
                story.open_transaction();
            }
            let before = if is_inside { b"T" } else { b"I" };
            story.send(b'Q', b"insert into t values (1)\0");
            story.hear(b'C', b"INSERT 0 1\0");
            story.hear(b'Z', before);
            story.send(b'Q', format!("{text}\0").as_bytes());
            let Loss::Report(told, out) = story.session.lost(how) else { panic!("{text}") };
            assert_eq!((told, out.last()), (code, status.last()), "{text}");
        }
    }

    #[test]
    fn a_transaction_whose_commit_was_not_sent_can_be_run_again() {
        for sent in [true, false] {
            let how = Circumstances { farewell: None, sent, forwarded: false, is_read: false, at_hand: false };
            let mut story = Story::begin();
            story.session.note_begin();
            story.open_transaction();
            story.send(b'Q', b"commit\0");
            assert_eq!(story.session.may_replay(&how), !sent);
        }
    }

    #[test]
    fn a_transaction_that_had_not_come_to_its_commit_is_rolled_back() {
        let mut story = Story::begin();
        story.open_transaction();
        story.complete("insert into t values (1)", "INSERT 0 1");
        let Loss::Report(SqlState::SERIALIZATION_FAILURE, told) = story.lose() else { panic!("it is lost") };
        assert!(told.ends_with(b"Z\0\0\0\x05E"));
    }

    #[test]
    fn settings_that_are_committed_and_not_read_back_end_the_session_with_their_node() {
        for (ends, is_committed) in [
            (&["commit and chain"][..], true),
            (&["commit; begin"], true),
            (&["commit and chain", "rollback and chain"], true),
            (&["rollback and chain"], false),
            (&[], false),
        ] {
            let mut story = Story::begin();
            story.open_transaction();
            for text in [&["set work_mem = '1MB'"], ends].concat() {
                story.send(b'Q', format!("{text}\0").as_bytes());
                text.split(';').for_each(|_| drop(story.hear(b'C', b"COMMIT\0")));
                story.hear(b'Z', b"T");
            }
            assert_eq!(matches!(story.lose(), Loss::End(..)), is_committed, "{ends:?}");
        }
    }

    #[test]
    fn what_code_has_set_and_a_commit_has_made_stand_ends_the_session_whatever_is_under_way() {
        for (end, is_committed) in [("commit and chain", true), ("rollback and chain", false)] {
            let mut story = Story::begin();
            story.open_transaction();
            for text in ["call p()", end] {
                story.send(b'Q', format!("{text}\0").as_bytes());
                story.hear(b'C', b"?\0");
                story.hear(b'Z', b"T");
            }
            story.send(b'Q', b"insert into t values (1)\0");
            assert_eq!(matches!(story.lose(), Loss::End(..)), is_committed, "{end}");
        }
    }

    #[test]
    fn what_an_aborted_transaction_has_set_is_not_committed_by_its_commit() {
        let mut story = Story::begin();
        story.open_transaction();
        story.send(b'Q', b"set work_mem = '1MB'; selekt\0");
        story.hear(b'C', b"SET\0");
        story.hear_all("E");
        story.hear(b'Z', b"E");
        story.send(b'Q', b"commit and chain\0");
        story.hear(b'C', b"ROLLBACK\0");
        story.hear(b'Z', b"T");
        assert!(!story.session.has_touched_for_good());
    }

    #[test]
    fn what_has_been_committed_is_not_run_again_with_what_was_chained_to_it() {
        let how = Circumstances { farewell: None, sent: true, forwarded: false, is_read: false, at_hand: true };
        for (end, may_be) in [("commit and chain", false), ("savepoint s", true)] {
            let mut story = Story::begin();
            story.session.note_begin();
            story.open_transaction();
            assert!(story.session.may_replay(&how));
            story.send(b'Q', format!("{end}\0").as_bytes());
            story.hear(b'C', b"COMMIT\0");
            story.hear(b'Z', b"T");
            assert_eq!(story.session.may_replay(&how), may_be, "{end}");
        }
    }

    #[test]
    fn what_a_commit_has_chained_is_not_told_as_if_the_commit_had_failed() {
        let mut story = Story::begin();
        story.open_transaction();
        story.complete("commit and chain", "COMMIT");
        let Loss::Report(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, told) = story.lose() else { panic!("it is lost") };
        assert!(told.ends_with(b"Z\0\0\0\x05E"));
        assert!(story.session.answers_alone());
    }
}
