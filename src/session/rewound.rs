//! A session that goes back to what its client has last been shown, or with its transaction to the BEGIN: what is forgotten can be
//! run on another node then.

use std::sync::Arc;

use super::aborted::Aborted;
use super::failure::Circumstances;
use super::known::UnnamedId;
use super::prepared::{Names, Prepared};
use super::transaction::Ended;
use super::{Gathered, Session};
use crate::sql::PreparedNames;
use crate::wire::backend::TransactionStatus;

/// What a session had prepared when its transaction began.
#[derive(Debug)]
pub(super) struct AtBegin {
    unnamed: Option<(Arc<Prepared>, UnnamedId)>,
    sql_prepared: PreparedNames,
    /// None: the same as now.
    names: Option<Names>,
}

impl Session {
    /// What is under way is forgotten, to be surveyed and translated anew for another node.
    pub fn rewind(&mut self) {
        while self.owed.pop().is_some() {}
        self.rewind_statements();
        self.gathered = Gathered::default();
        self.flow.batch_open = false;
        (self.flow.copy_in, self.flow.is_astray) = (false, false);
        self.flow.skipping = false;
    }

    /// The same, and with it goes whatever was bound.
    pub(super) fn rewind_all(&mut self) {
        self.rewind();
        self.portals.clear();
    }

    /// Statements are as the client has last been shown them.
    pub(super) fn rewind_statements(&mut self) {
        self.owed.goes_elsewhere();
        self.names.rewind();
        if let Some(before) = self.unshown_unnamed.take() {
            self.settled_unnamed = before;
        }
        self.unnamed.clone_from(&self.settled_unnamed);
        while let Some(before) = self.unshown_sql.pop() {
            self.sql_prepared.take_back(before);
        }
        self.settle_doubts();
        self.undescribed = None;
    }

    /// The transaction can be run again elsewhere as if nothing had happened, if its statements are at hand: nothing of it
    /// can have been committed, and it has left nothing outside itself on the server connection.
    pub fn may_replay(&self, how: &Circumstances) -> bool {
        let is_refused = how.proves_nothing_done() && !self.commits_before_the_end();
        self.at_begin.is_some()
            && self.transaction.status() != TransactionStatus::Idle
            && self.pins.is_empty()
            && !self.keeps_lease
            && self.transaction.ended() == Ended::No
            && !how.forwarded
            && !self.flow.copy_in
            && (is_refused || !how.sent || !self.commit_is_under_way())
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

    /// Everything since BEGIN is forgotten, to be surveyed and translated anew for another node.
    pub fn begin_again(&mut self) {
        self.rewind_all();
        self.transaction.ends();
        let Some(at_begin) = &self.at_begin else { return };
        self.unnamed.clone_from(&at_begin.unnamed);
        self.settled_unnamed.clone_from(&at_begin.unnamed);
        self.sql_prepared = at_begin.sql_prepared.clone();
        if let Some(names) = &at_begin.names {
            self.names = names.clone();
        }
    }

    /// A transaction that has begun is begun again, with the unit that it is in.
    pub fn has_not_begun(&mut self) {
        self.transaction.ends();
        self.forget_begin();
    }

    /// No transaction is there that could be run again.
    pub fn forget_begin(&mut self) {
        self.at_begin = None;
    }

    /// The transaction was run again and did not come out the same. Its next statement is told that it was lost.
    pub fn lose_replayed(&mut self) {
        self.rewind_all();
        self.forget_begin();
        self.transaction.forget_modes();
        self.transaction.is_lost(Aborted::NotTold);
    }
}

#[cfg(test)]
mod tests {
    use crate::session::failure::Circumstances;
    use crate::session::story::Story;

    #[test]
    fn what_was_prepared_by_sql_goes_back_to_what_the_client_has_been_shown() {
        let mut story = Story::begin();
        for text in ["prepare a as select 1", "deallocate a", "prepare b as select 2"] {
            story.send(b'Q', format!("{text}\0").as_bytes());
            story.hear(b'C', b"?\0");
            story.hear_all("Z");
            if text.contains("select 1") {
                story.session.shown();
            }
        }
        story.session.rewind();
        let is_there = ["a", "b"].map(|name| story.session.sql_prepared.get(name).is_some());
        assert_eq!(is_there, [true, false]);
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
}
