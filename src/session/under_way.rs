//! What is under way, sent and not answered: what it may do, or have done already, for all that its node has said.

use super::owed::{Done, Owed};
use super::{End, Session};
use crate::sql::{Kind, Part, Statement, TransactionControl};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend;

impl Session {
    /// All that is under way is a COPY of which the node has not been sent the end of its data: nothing of it has been done, nor of
    /// what stands before it in its batch.
    pub(super) fn waits_for_copy_data(&self) -> bool {
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

    /// Nothing that is under way writes, nor what it executes by name, nor has what is answered of its batch.
    pub(super) fn only_reads(&self) -> bool {
        let reads = |statement: &Statement| statement.needs_primary().is_none();
        self.owed.done() <= Done::Begun
            && self.owed.iter().all(|owed| match owed {
                Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                    let executed = self.may_run(statement.run_names());
                    reads(statement) && !executed.has_unknown && executed.known.iter().all(|(inner, _)| reads(inner))
                }
                Owed::Execute(None) | Owed::FunctionCall => false,
                _ => true,
            })
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

    /// More is under way behind a COMMIT: a goodbye says nothing of the COMMIT then.
    pub(super) fn commits_before_the_end(&self) -> bool {
        let executed = self.owed.iter().filter(|owed| matches!(owed, Owed::Query { .. } | Owed::Execute(_)));
        executed.count() > 1 && self.commit_is_under_way()
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

    /// What a replica has refused of it can be run at another node: alone, or with its transaction, which goes on.
    pub fn can_be_run_elsewhere(&self) -> bool {
        let ends = |owed: &Owed| match owed {
            Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                statement.parts.iter().any(|part| part.transaction != TransactionControl::None)
            }
            Owed::Execute(None) | Owed::FunctionCall => true,
            _ => false,
        };
        match self.transaction.status() {
            TransactionStatus::Idle => self.pins.is_empty(),
            _ => self.can_begin_anew() && !self.owed.iter().any(ends),
        }
    }

    /// Something under way ends sessions of the node, perhaps its own: run again it would end others, and again its own.
    pub(super) fn ends_sessions(&self) -> bool {
        let parts = self.owed.iter().filter_map(Owed::statement).flat_map(|statement| &statement.parts);
        parts.flat_map(|part| &part.functions).any(|function| &*function.name == "pg_terminate_backend")
    }

    /// Nothing under way runs a statement, but for one that begins a transaction: it can be asked anew whatever became of it.
    pub(super) fn runs_nothing(&self) -> bool {
        self.owed.iter().all(|owed| match owed {
            Owed::Query { statement, .. } | Owed::Execute(Some(statement)) => {
                statement.parts.iter().all(|part| part.kind == Kind::Begin)
            }
            Owed::Execute(None) | Owed::FunctionCall => false,
            _ => true,
        })
    }

    /// The same, and nothing of its batch that has been answered has done anything that its end could commit.
    pub(super) fn leaves_nothing(&self) -> bool {
        self.runs_nothing() && self.owed.done() <= Done::Begun
    }

    /// All that is under way begins a transaction, and nothing else is parsed or bound beside that: whether it was done, and what
    /// becomes of it with its node, is all the same.
    pub fn only_begins(&self) -> bool {
        let count = |what: fn(&Owed) -> bool| self.owed.iter().filter(|owed| what(owed)).count();
        count(|owed| matches!(owed, Owed::Query { .. } | Owed::Execute(_))) == 1
            && count(|owed| matches!(owed, Owed::Parse { .. } | Owed::ParseTaken(_))) <= 1
            && count(|owed| matches!(owed, Owed::Bind(_) | Owed::Stale)) <= 1
            && self.runs_nothing()
    }

    /// Every statement that was sent has been completed: only the ends of units are owed.
    pub(super) fn owes_only_ends(&self) -> bool {
        !self.flow.batch_open
            && self.owed.iter().all(|owed| match owed {
                Owed::Query { statement, completed, woven } => {
                    *completed == statement.parts.len() && woven.as_ref().is_none_or(|woven| woven.is_done())
                }
                Owed::Sync(_) => true,
                _ => false,
            })
    }

    /// What has been gathered, which stands at the front of this, ends with a Query or a FunctionCall within a batch: if something of
    /// that fails, the node skips it up to the Sync, and no ReadyForQuery comes for it.
    #[inline]
    pub fn may_be_skipped(&self, unit: &[u8]) -> bool {
        let ends_itself = |tag| matches!(tag, frontend::QUERY | frontend::FUNCTION_CALL);
        matches!(self.gathered.end, Some(End::Query | End::FunctionCall))
            && (self.flow.batch_open || unit.first().is_some_and(|&tag| !ends_itself(tag)))
    }

    /// Nothing is owed but the replies to a batch whose end has not been sent: they may not come before it.
    pub fn owes_only_open_batch(&self) -> bool {
        self.flow.batch_open && !self.owed.iter().any(Owed::ends_with_ready)
    }
}

/// A statement that ends a transaction for good, or one that nobody has read.
fn may_commit(part: &Part) -> bool {
    matches!(part.kind, Kind::Commit | Kind::PrepareTransaction | Kind::Unparsed)
}

#[cfg(test)]
mod tests {
    use crate::session::failure::Circumstances;
    use crate::session::story::Story;
    use crate::session::{Held, Loss};
    use crate::wire::SqlState;

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
                let code = story.told_of_loss(how);
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
                let code = story.told_of_loss(how);
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
    fn what_stands_behind_a_rollback_is_in_doubt_when_the_node_is_lost() {
        for (text, code) in [
            ("rollback; insert into t values (1)", SqlState::TRANSACTION_RESOLUTION_UNKNOWN),
            ("rollback; select 1", SqlState::SERIALIZATION_FAILURE),
            ("insert into t values (1)", SqlState::SERIALIZATION_FAILURE),
        ] {
            let mut story = Story::begin();
            story.open_transaction();
            story.session.transaction.acts(true); // it cannot be begun anew
            story.send(b'Q', format!("{text}\0").as_bytes());
            let Loss::Report(told, _) = story.lose() else { panic!("{text}") };
            assert_eq!(told, code, "{text}");
        }
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
}
