//! A batch that is lost while its client waits for nothing: all that it has asked for is answered, and no Sync has come. What the
//! client must know of that, it is told in answer to its next message, as drivers take an error for the answer to what they have
//! asked, and one that nobody has asked for as the end of the connection, or for a mere notice.

use bytes::BytesMut;

use super::failure::Circumstances;
use super::owed::Done;
use super::{Loss, Session};
use crate::wire::error_response::{Severity, put_error};
use crate::wire::{SqlState, backend, frontend};

/// What is lost with such a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// Nothing but what it has bound.
    CutShort,
    /// What it has done is undone.
    Undone,
    /// The same, and something of it has committed by itself, or may have.
    Unknown,
    /// The transaction that AND CHAIN has begun in it.
    Chained,
}

impl Untold {
    pub(super) fn code(self) -> SqlState {
        match self {
            Self::CutShort => SqlState::CONNECTION_FAILURE,
            Self::Undone => SqlState::SERIALIZATION_FAILURE,
            Self::Unknown | Self::Chained => SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::CutShort => "the batch was lost with its server connection; please try it again",
            Self::Undone => {
                "the batch was lost with its server connection, and what it had done is undone; please try it again"
            }
            Self::Unknown => {
                "the batch was lost with its server connection, and how much stands of what it had done is not known"
            }
            Self::Chained => {
                "the transaction that AND CHAIN has begun was lost with its node; the one before it has ended as it was \
                 told"
            }
        }
    }
}

impl Session {
    /// All that was sent of the open batch is answered, and of that the server connection has nothing but what was prepared, which
    /// is the session's: the batch may end there at any moment, and goes on anywhere. Reads that are answered, and bound no more,
    /// have left nothing either.
    pub fn has_only_prepared(&self) -> bool {
        self.flow.batch_open
            && self.owed.is_empty()
            && self.portals.is_empty()
            && self.owed.done() == Done::Nothing
            && !self.flow.skipping
    }

    /// The server connection is gone, and with it the batch that may be open. All that was answered, the client has been shown.
    pub(super) fn leave_batch(&mut self) {
        self.flow.batch_open = false;
        self.rewind_statements();
    }

    /// The client waits for nothing, and the batch that it has open, outside of a transaction, is lost with what it has done.
    #[cold]
    pub(super) fn lost_unasked(&mut self, how: Circumstances) -> Loss {
        // That has begun in the batch, for all that the client knows.
        if self.transaction.modes().is_some() {
            return self.lose_transaction_untold();
        }
        self.tell_later(match self.owed.done() {
            _ if how.is_read => Untold::CutShort,
            Done::Nothing => Untold::CutShort,
            Done::Begun | Done::Undoable => Untold::Undone,
            Done::Standing => Untold::Unknown,
        })
    }

    /// This is told with the next answer; unless the batch has failed, which has been told, and was its end.
    pub(super) fn tell_later(&mut self, untold: Untold) -> Loss {
        self.leave_batch();
        if !std::mem::replace(&mut self.flow.skipping, true) {
            self.flow.untold = Some(untold);
        }
        Loss::Report(untold.code(), BytesMut::new())
    }

    /// What is lost, and the client does not know of yet, by the SQLSTATE that it will be told.
    pub fn untold_loss(&self) -> Option<SqlState> {
        match self.flow.untold {
            Some(untold) => Some(untold.code()),
            None => self.has_untold_transaction().then_some(SqlState::SERIALIZATION_FAILURE),
        }
    }

    /// Puts what is still to be told, if this message is answered at all. What ends its batch is answered by that, and behind
    /// anything else the batch is skipped.
    #[cold]
    pub(super) fn tell_untold(&mut self, tag: u8, out: &mut BytesMut) -> Option<SqlState> {
        if matches!(tag, frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL) {
            return None;
        }
        let untold = self.flow.untold.take()?;
        put_error(out, Severity::Error, untold.code(), untold.words(), None);
        self.tell_what_is_undone(out);
        if matches!(tag, frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL) {
            self.flow.skipping = false;
            backend::put_ready(out, self.transaction.status());
        }
        Some(untold.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::story::Story;
    use crate::session::{Known, Reply};
    use crate::sql::{ParseSettings, classify_bytes};
    use crate::wire::Header;

    impl Story {
        /// Parse, Bind and Execute of this statement, which is completed with this tag.
        fn run(&mut self, text: &str, tag: &str) {
            self.parse("", text);
            self.bind("");
            self.execute();
            self.send(b'H', b"");
            self.hear_all("12");
            self.hear(b'C', format!("{tag}\0").as_bytes());
            self.session.shown();
        }

        /// The node is lost without a word behind what has been forwarded; answers what the client will be told, which it is
        /// not yet.
        fn lose_unasked(&mut self) -> SqlState {
            let how = Circumstances { farewell: None, sent: true, forwarded: true, is_read: false, at_hand: false };
            let Loss::Report(code, told) = self.session.lost(how) else { panic!("it goes on") };
            assert!(told.is_empty(), "nobody has asked");
            self.session.check_invariants();
            self.known = Known::default();
            code
        }

        /// The tags of what is answered to these in a node's place, with the status of a ReadyForQuery.
        fn answered(&mut self, messages: &[(u8, &[u8])]) -> String {
            let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
            let mut out = BytesMut::new();
            for (tag, body) in messages {
                assert!(self.session.answers_alone());
                self.session.answer_alone(*tag, body, &mut classify, &mut out).unwrap();
            }
            let (mut tags, mut rest) = (String::new(), &out[..]);
            while let Some(header) = Header::peek(rest).unwrap() {
                tags.push(header.tag.into());
                if header.tag == b'Z' {
                    tags.push(rest[header.size - 1].into());
                }
                rest = &rest[header.size..];
            }
            tags
        }
    }

    const BIND: (u8, &[u8]) = (b'B', b"\0\0\0\0\0\0\0\0");
    const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
    const FLUSH: (u8, &[u8]) = (b'H', b"");
    const SYNC: (u8, &[u8]) = (b'S', b"");

    #[test]
    fn a_batch_that_has_only_prepared_is_lost_unnoticed() {
        for name in ["a", ""] {
            let mut story = Story::begin();
            story.parse(name, "insert into t values (1)");
            story.send(b'D', format!("S{name}\0").as_bytes());
            story.send(b'H', b"");
            assert!(!story.session.has_only_prepared(), "it is not answered");
            story.hear_all("1");
            story.hear(b't', &[0, 0]);
            story.hear_all("n");
            story.session.shown();
            assert!(story.session.has_only_prepared());
            assert_eq!(story.lose_unasked(), SqlState::CONNECTION_FAILURE);
            assert!(story.session.is_idle() && !story.session.answers_alone() && story.session.untold_loss().is_none());
            let sent = story.bind(name) + &story.execute() + &story.sync();
            assert!(sent.ends_with("PBES"), "it is prepared where it is run: {sent}");
        }
    }

    #[test]
    fn a_batch_that_has_only_prepared_ends_unnoticed_by_a_sync_of_ours() {
        let mut story = Story::begin();
        story.parse("a", "insert into t values (1)");
        story.send(b'H', b"");
        story.hear_all("1tn");
        story.session.shown();
        assert!(story.session.has_only_prepared() && !story.session.may_release());
        story.session.end_batch(&mut BytesMut::new());
        assert!(!story.session.has_only_prepared());
        assert_eq!(story.hear(b'Z', b"I"), Reply::Hide);
        assert!(story.session.may_release());
        story.bind("a");
        assert!(!story.session.has_only_prepared(), "something is bound");
        story.execute();
        story.sync();
        story.hear_all("2");
        story.hear(b'C', b"INSERT 0 1\0");
        assert_eq!(story.hear(b'Z', b"I"), Reply::Forward);
    }

    #[test]
    fn what_a_batch_has_done_that_is_lost_is_told_undone_in_answer_to_whatever_comes_next() {
        for (messages, told) in [
            (&[SYNC][..], "EZI"),
            (&[FLUSH, SYNC], "EZI"),
            (&[BIND, EXECUTE, FLUSH, SYNC], "EZI"),
            (&[(b'Q', b"select 1\0")], "EZI"),
        ] {
            let mut story = Story::begin();
            story.run("insert into t values (1)", "INSERT 0 1");
            assert!(!story.session.has_only_prepared());
            assert_eq!(story.lose_unasked(), SqlState::SERIALIZATION_FAILURE);
            assert_eq!(story.session.untold_loss(), Some(SqlState::SERIALIZATION_FAILURE));
            assert_eq!(story.answered(messages), told, "{messages:?}");
            assert!(!story.session.answers_alone() && story.session.is_idle() && story.session.untold_loss().is_none());
        }
    }

    #[test]
    fn what_has_committed_within_a_lost_batch_may_stand() {
        let mut story = Story::begin();
        story.run("vacuum", "VACUUM");
        assert_eq!(story.lose_unasked(), SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
        // Once that is told, it says nothing of the next batch.
        assert_eq!(story.answered(&[SYNC]), "EZI");
        story.run("insert into t values (1)", "INSERT 0 1");
        assert_eq!(story.lose_unasked(), SqlState::SERIALIZATION_FAILURE);
    }

    #[test]
    fn what_an_earlier_batch_has_done_is_none_of_a_later_ones() {
        for ends_by in ["sync", "query"] {
            let mut story = Story::begin();
            story.run("insert into t values (1)", "INSERT 0 1");
            if ends_by == "sync" {
                story.sync();
            } else {
                story.send(b'Q', b"select 1\0");
                story.hear(b'C', b"SELECT 1\0");
            }
            story.hear_all("Z");
            story.parse("a", "select 1");
            story.send(b'H', b"");
            story.hear_all("1tn");
            story.session.shown();
            assert!(story.session.has_only_prepared(), "{ends_by}");
        }
    }

    #[test]
    fn a_batch_that_has_failed_is_lost_with_nothing_more_to_tell() {
        let mut story = Story::begin();
        story.parse("", "insert into t values (1)");
        story.bind("");
        story.execute();
        story.send(b'H', b"");
        story.hear_all("12E");
        assert!(!story.session.has_only_prepared(), "what comes up to its Sync is skipped");
        story.lose_unasked();
        assert!(story.session.untold_loss().is_none());
        assert_eq!(story.answered(&[BIND, SYNC]), "ZI");
    }

    #[test]
    fn a_transaction_that_is_lost_within_an_answered_batch_is_told_by_what_comes_next_of_it() {
        let begun_within = |story: &mut Story| story.run("begin", "BEGIN");
        let begun_before = |story: &mut Story| {
            story.send(b'Q', b"begin\0");
            story.hear(b'C', b"BEGIN\0");
            story.hear(b'Z', b"T");
            story.session.transaction.acts(true); // it cannot be begun anew
        };
        for begin in [begun_within as fn(&mut Story), begun_before] {
            let mut story = Story::begin();
            begin(&mut story);
            story.run("insert into t values (1)", "INSERT 0 1");
            assert_eq!(story.lose_unasked(), SqlState::SERIALIZATION_FAILURE);
            assert_eq!(story.session.untold_loss(), Some(SqlState::SERIALIZATION_FAILURE));
            assert_eq!(story.answered(&[SYNC]), "ZE");
            assert_eq!(story.answered(&[(b'Q', b"commit\0")]), "EZI", "not the tag of one that is done");
        }
    }

    #[test]
    fn behind_a_commit_that_is_told_nothing_is_lost_with_its_batch() {
        let mut story = Story::begin();
        for (text, tag) in [("begin", "BEGIN"), ("insert into t values (1)", "INSERT 0 1"), ("commit", "COMMIT")] {
            story.run(text, tag);
        }
        let how = Circumstances { farewell: None, sent: true, forwarded: true, is_read: false, at_hand: false };
        assert_eq!(story.session.lost(how), Loss::Answered(BytesMut::new()));
        assert!(story.session.is_idle() && !story.session.answers_alone());
    }

    #[test]
    fn what_and_chain_has_begun_is_not_told_as_if_the_transaction_before_had_failed() {
        let mut story = Story::begin();
        story.run("begin", "BEGIN");
        story.run("commit and chain", "COMMIT");
        assert_eq!(story.lose_unasked(), SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
        assert_eq!(story.answered(&[BIND, EXECUTE, SYNC]), "EZE");
        assert_eq!(story.answered(&[(b'Q', b"rollback\0")]), "CZI");
    }
}
