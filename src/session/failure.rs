//! What the loss of a node means for the session that it served.

use bytes::BytesMut;

use super::aborted::Aborted;
use super::owed::{Asker, Owed};
use super::transaction::Ended;
use super::untold::Untold;
use super::{Gathered, Session};
use crate::broken;
use crate::wire::SqlState;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::{Severity, put_error};

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

impl Circumstances {
    /// A fast shutdown says goodbye before anything of an autocommit statement is done; so does a node that is no primary, and one
    /// on whose connection nothing had come for too long.
    pub(super) fn proves_nothing_done(&self) -> bool {
        let before_all = [SqlState::ADMIN_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW, SqlState::IDLE_SESSION_TIMEOUT];
        self.farewell.is_some_and(|code| before_all.contains(&code))
    }
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
        let is_committed = self.transaction.status() == TransactionStatus::Idle || self.touched_for_good;
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
        if self.transaction.status() != TransactionStatus::Idle {
            return self.lost_transaction(how, is_unasked);
        }
        let refused = how.proves_nothing_done() && !self.can_commit_inside();
        let leaves_nothing = self.leaves_nothing();
        let is_harmless = refused && !self.ends_sessions() || leaves_nothing;
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
        let refused = how.proves_nothing_done() && !how.forwarded;
        if self.transaction.status() != TransactionStatus::Idle {
            return Some(match how.sent && self.commit_is_under_way() && !refused && !self.writes_nothing() {
                true => SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                false => SqlState::SERIALIZATION_FAILURE,
            });
        }
        if !how.sent || self.leaves_nothing() {
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

    /// The outcome of a transaction that has ended stands, and the client has been told: what goes wrong now is only what
    /// comes after it.
    pub(super) fn leave_what_has_ended(&mut self) -> Ended {
        let ended = self.transaction.leave_what_has_ended();
        if ended.is_over() {
            self.forget_begin();
        }
        ended
    }

    /// The ReadyForQuery that the node would have sent.
    fn end_answered(&mut self) -> Loss {
        let mut out = BytesMut::new();
        self.tell_what_is_undone(&mut out); // what was set for the transaction only
        while let Some(owed) = self.owed.pop() {
            if owed.asker() == Asker::Client {
                backend::put_ready(&mut out, self.transaction.status());
            }
        }
        self.portals.clear();
        Loss::Answered(out)
    }

    /// COMMIT AND CHAIN has committed, and the transaction that it has begun is lost. That is no reason to try the first
    /// one again, so it is not told as a transaction that was rolled back.
    fn lost_chained(&mut self, is_unasked: bool) -> Loss {
        self.forget_begin();
        self.portals.clear();
        self.transaction.fails(Aborted::Told);
        match is_unasked {
            true => self.tell_later(Untold::Chained),
            false => self.report(Untold::Chained.code(), Untold::Chained.words()),
        }
    }

    fn lost_transaction(&mut self, how: Circumstances, is_unasked: bool) -> Loss {
        if self.commit_is_under_way() {
            self.forget_begin();
            self.ends_without_node();
            // A node that says goodbye in place of the COMMIT's completion has rolled back: once it has committed it lets
            // nothing come before the completion. And one that has not been sent it has nothing to commit, nor has a replica.
            if !how.sent || self.writes_nothing() || how.proves_nothing_done() && !how.forwarded {
                self.transaction.is_undone();
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
        self.transaction.is_lost(Aborted::Told);
        self.report(SqlState::SERIALIZATION_FAILURE, super::aborted::LOST)
    }

    /// The client waits for nothing: its next statement is told. An error that its batch has met is told already.
    pub(super) fn lose_transaction_untold(&mut self) -> Loss {
        self.transaction.is_lost(Aborted::NotTold);
        self.leave_batch();
        Loss::Report(SqlState::SERIALIZATION_FAILURE, BytesMut::new())
    }

    /// What is to be closed is closed, and the client is told so. That its transaction is lost is told to its next statement: drivers close
    /// without looking at the answer, and the client would take the tag ROLLBACK of its COMMIT for success.
    fn close_what_is_owed(&mut self) -> Loss {
        if self.transaction.status() != TransactionStatus::Idle {
            self.transaction.is_lost(Aborted::NotTold);
        }
        let (mut out, mut closed) = (BytesMut::new(), Vec::new());
        while let Some(owed) = self.owed.pop() {
            match owed {
                Owed::CloseStatement(name) => {
                    backend::put_bare(&mut out, backend::CLOSE_COMPLETE);
                    closed.push(name);
                }
                Owed::ClosePortal => backend::put_bare(&mut out, backend::CLOSE_COMPLETE),
                Owed::Sync(Asker::Client) => backend::put_ready(&mut out, self.transaction.status()),
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
        if self.transaction.status() == TransactionStatus::Idle {
            self.transaction.forget_modes(); // of a BEGIN that is lost with what is reported
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
                backend::put_ready(&mut out, self.transaction.status());
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::session::story::Story;
    use crate::sql::{ParseSettings, classify_bytes};

    impl Story {
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
    fn a_batch_that_has_written_is_not_run_again_though_only_its_end_is_owed() {
        let how = Circumstances { farewell: None, sent: true, forwarded: false, is_read: false, at_hand: true };
        for (texts, is_run_again) in [
            (&["insert into t values (1)"][..], false),
            (&["begin"], true),
            (&["insert into t values (1)", "fails"], true), // undone with its batch
            (&["call p()", "fails"], false),
        ] {
            for is_kept in [false, true] {
                let mut story = Story::begin();
                for text in texts {
                    story.parse("", text);
                    story.bind("");
                    story.execute();
                }
                story.sync();
                for text in texts {
                    story.hear_all(if *text == "fails" { "E" } else { "12C" });
                }
                if is_kept {
                    story.session.keep_lease();
                    let cost = if is_run_again { None } else { Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN) };
                    assert!(matches!(story.session.lost(how), Loss::End(_, told) if told == cost), "{texts:?}");
                } else {
                    assert_eq!(story.session.lost(how) == Loss::RunAgain, is_run_again, "{texts:?}");
                }
            }
        }
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
    fn what_a_commit_has_chained_is_not_told_as_if_the_commit_had_failed() {
        let mut story = Story::begin();
        story.open_transaction();
        story.complete("commit and chain", "COMMIT");
        let Loss::Report(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, told) = story.lose() else { panic!("it is lost") };
        assert!(told.ends_with(b"Z\0\0\0\x05E"));
        assert!(story.session.answers_alone());
    }
}
