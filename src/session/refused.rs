//! A unit that is refused by us behind what has been sent, or before anything is: its batch and its transaction fail as by a node.

use bytes::BytesMut;

use super::owed::Owed;
use super::{End, Session};
use crate::wire::SqlState;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::{Severity, put_error};
use crate::wire::frontend;

impl Session {
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

    /// The batch that is open cannot go on: an error in place of what is owed of it. It is undone with its lease.
    pub fn fail_batch(&mut self, code: SqlState, message: &str, end: End, out: &mut BytesMut) {
        let begun = self.gathered.refused_in;
        self.rewind_all();
        self.gathered.refused_in = begun;
        self.transaction.forget_modes(); // of a BEGIN that is undone with it
        self.refuse_unit(code, message, end, out);
    }

    /// An error in place of what the unit would have been answered, given by us and not by a node; the unit has been
    /// taken off the client's hands. A batch without its Sync is skipped up to it. Behind a BEGIN in its batch it leaves a
    /// transaction that has failed, as by a server; but not where the session keeps a server connection, which has not begun it.
    pub fn refuse_unit(&mut self, code: SqlState, message: &str, end: End, out: &mut BytesMut) {
        put_error(out, Severity::Error, code, message, None);
        self.tell_what_is_undone(out);
        let begun = self.gathered.refused_in.take().filter(|_| !self.keeps_lease());
        if self.transaction.status() != TransactionStatus::Idle || begun.is_some() {
            self.transaction.is_refused(begun);
        }
        match end.goes_on() {
            true => self.flow.skipping = true,
            false => backend::put_ready(out, self.transaction.status()),
        }
        self.gathered.clear();
    }

    /// The same on a server connection that the session keeps: its batch and its transaction fail there, and nothing else of the
    /// session is lost.
    pub fn refuse_at_node(&mut self, code: SqlState, message: &str, end: End, out: &mut BytesMut) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Reply;
    use crate::session::story::Story;

    #[test]
    fn a_begin_that_is_undone_with_its_batch_says_nothing_of_the_next() {
        let mut story = Story::begin();
        story.parse("", "begin");
        story.bind("");
        story.execute();
        story.hear_all("12");
        story.hear(b'C', b"BEGIN\0");
        assert!(story.session.transaction.modes().is_some());
        let mut out = BytesMut::new();
        story.session.fail_batch(SqlState::INSUFFICIENT_PRIVILEGE, "no", End::Sync, &mut out);
        assert!(story.session.transaction.modes().is_none());
    }

    #[test]
    fn what_is_refused_on_a_server_connection_that_is_kept_fails_there_in_our_words() {
        let missing = b"SERROR\0C26000\0M?\0\0";
        let mut refusal = BytesMut::new();
        put_error(&mut refusal, Severity::Error, SqlState::INSUFFICIENT_PRIVILEGE, "no", None);
        for (end, is_whole) in [(End::Sync, true), (End::Flush, false)] {
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
}
