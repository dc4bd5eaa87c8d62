//! Settings that what is on its way may change: what comes behind is looked at by them, and so waits until they are known.
//!
//! In the same batch nothing can wait. What is prepared there is read as nobody but the node knows, and so under an identity
//! that nobody else has.

use super::Session;
use super::anew::mentions_clock;
use super::known::Known;
use super::owed::Moment;
use super::prepared::{ParseId, Prepared, Reading};
use crate::sql::{Part, SessionChange, Statement, decides_literals, is_carried, words};

/// When settings are changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    sent: Moment,
    /// Nothing else stands in its batch.
    is_query: bool,
    changes: Changes,
}

impl Change {
    /// Literals may be read otherwise behind it.
    pub(super) fn reads_otherwise(self) -> bool {
        self.changes == Changes::Reading
    }
}

/// What a statement changes in its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Changes {
    /// No setting.
    #[default]
    Nothing,
    /// Settings that are to be read back.
    Settings,
    /// Such as decide how literals are read, too.
    Reading,
}

impl Session {
    /// Settings are being changed, or put back, by something before the present batch: what comes next is looked at by what
    /// they are then, and is not to meet what the server connection began with where the session began with something else.
    #[inline]
    pub(super) fn settings_are_under_way(&self) -> bool {
        let is_under_way = |change: Change| match change.is_query {
            true => !self.owed.is_settled(change.sent),
            false => self.owed.batch_is_under_way(change.sent),
        };
        self.doubts.settings.is_some_and(is_under_way)
    }

    /// This statement is looked at, or sent now, as a Query or in a batch: it may change settings.
    pub(super) fn expect_change(&mut self, statement: &Statement, is_query: bool) {
        if statement.is_plain_read() {
            return;
        }
        // What EXECUTE runs is looked at, and not what that executes: a statement may name itself.
        let executed = self.executed_by_sql(statement);
        let parts = statement.parts.iter().chain(executed.iter().flatten().flat_map(|inner| inner.parts.iter()));
        let changes = parts.map(|part| self.change_by(part)).max().unwrap_or_default();
        if changes != Changes::Nothing {
            self.expect(changes, is_query);
        }
    }

    /// Code that may change settings is sent to a replica now: what that refuses of it, or behind it, runs elsewhere.
    #[cold]
    pub(super) fn expect_change_by_code(&mut self, is_query: bool) {
        if self.catalog.on_replica {
            self.expect(Changes::Settings, is_query);
        }
    }

    fn expect(&mut self, changes: Changes, is_query: bool) {
        let before = self.doubts.settings.map(|change| change.changes);
        let all = changes.max(before.unwrap_or_default());
        self.doubts.settings = Some(Change { sent: self.owed.moment(), is_query, changes: all });
        if changes == Changes::Reading {
            self.reading = self.doubtful_reading();
        }
    }

    /// What this part of a statement changes, by itself or because it ends what has changed settings before.
    fn change_by(&self, part: &Part) -> Changes {
        let ends = part.transaction.ends_or_takes_back();
        let by_session = part.session.iter().map(|change| match change {
            SessionChange::Setting { name, .. } if decides_literals(name) => Changes::Reading,
            SessionChange::Setting { name, .. } if !change.is_local() && is_carried(name) => Changes::Settings,
            SessionChange::ResetAll | SessionChange::DiscardAll if self.has_own_settings() => Changes::Reading,
            _ => Changes::Nothing,
        });
        by_session.chain(ends.then(|| self.changed_before())).max().unwrap_or_default()
    }

    /// The session has set something, or has come with it.
    fn has_own_settings(&self) -> bool {
        !self.settings.is_empty() || !self.startup.is_empty() || self.changed_before() != Changes::Nothing
    }

    /// What has been changed in the open transaction, as far as anybody knows.
    fn changed_before(&self) -> Changes {
        if self.reported.is_unsettled() || self.reading.is_doubtful() {
            Changes::Reading
        } else if self.has_touched() {
            Changes::Settings
        } else {
            Changes::Nothing
        }
    }

    /// Literals that mean the time are made that time once, by the Parse: no other session is to have this one's.
    pub(super) fn parse_of_its_own(&mut self, text: &[u8]) -> Option<ParseId> {
        if !words::may_have_literal(text) || !mentions_clock(text) || !words::has_literal(text, mentions_clock) {
            return None;
        }
        self.unnamed_count += 1;
        Some((self.id, self.unnamed_count))
    }

    /// How literals are read by what is on its way is known when that is answered: until then, no other session reads them so.
    fn doubtful_reading(&mut self) -> Reading {
        self.unnamed_count += 1;
        Reading::of_nobody_else(self.id, self.unnamed_count)
    }

    /// Code that is on its way may change how literals are read, and goes on to be looked at by nothing else.
    #[inline]
    fn code_may_read_otherwise(&self) -> bool {
        self.doubts.by_code || self.gathered.leftovers.as_ref().is_some_and(|left| left.may_read_otherwise())
    }

    /// How literals are read by what is prepared now.
    pub(super) fn reading_to_prepare(&mut self) -> Reading {
        if self.code_may_read_otherwise() { self.doubtful_reading() } else { self.reading }
    }

    /// This statement would be made on the server connection for everybody, behind code that may change how it is read: by
    /// what it is read there in place of that.
    pub(super) fn apart_from_others(&mut self, prepared: &Prepared, known: &mut Known) -> Option<Reading> {
        let is_apart = self.doubts.by_code && !prepared.reading.is_doubtful() && !known.uses(prepared.id);
        is_apart.then(|| self.reading_to_prepare())
    }

    /// What a session has prepared behind such code stays its own for the batch.
    pub(super) fn is_read_so_now(&self, reading: Reading) -> bool {
        reading == self.reading || self.doubts.by_code && reading.is_doubtful()
    }

    /// How the session reads literals, as far as that is known.
    pub(super) fn reading_now(&mut self) -> Reading {
        let is_doubtful =
            self.doubts.read_otherwise() || self.touched.iter().any(|name| Reading::is_never_reported(name));
        match is_doubtful {
            true if self.reading.is_doubtful() => self.reading,
            true => self.doubtful_reading(),
            false => Reading::of(|name| self.reported.get(name), &self.settings),
        }
    }

    /// Nothing is on its way any more.
    #[inline]
    pub(super) fn settle_doubts(&mut self) {
        if !self.doubts.are_none() && std::mem::take(&mut self.doubts).read_otherwise() {
            self.read_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::session::story::Story;

    #[test]
    fn what_comes_behind_a_change_of_settings_waits_for_what_they_are_then() {
        let began_with = [("search_path", "app")];
        for (text, is_awaited, sets) in [
            ("reset all", true, 1),
            ("discard all", true, 1),
            ("reset search_path", true, 1),
            ("reset work_mem", true, 0),
            ("set work_mem = '1MB'", true, 0),
            ("select set_config('work_mem', '1MB', false)", true, 0),
            ("set local datestyle = 'German'", true, 0),
            ("set local work_mem = '1MB'", false, 0),
            ("set transaction read only", false, 0),
        ] {
            let discards = text == "discard all";
            let hear_sets = |story: &mut Story, each: &str| {
                let count = if discards && each == "C" { 0 } else { sets };
                (0..count).for_each(|_| story.hear_all(each));
            };
            let mut story = Story::begin_with(&began_with);
            story.send(b'Q', format!("{text}\0").as_bytes());
            assert_eq!(story.session.settings_are_under_way(), is_awaited, "{text}");
            story.hear(b'C', b"SET\0");
            assert_eq!(story.session.settings_are_under_way(), is_awaited, "{text}");
            hear_sets(&mut story, "C");
            story.hear_all("Z");
            assert!(!story.session.settings_are_under_way());
            assert_eq!(story.session.has_discarded(), discards, "{text}");

            let mut story = Story::begin_with(&began_with);
            story.parse("", text);
            story.bind("");
            story.execute();
            assert!(!story.session.settings_are_under_way(), "its own batch goes on");
            story.sync();
            assert_eq!(story.session.settings_are_under_way(), is_awaited, "{text}");
            story.hear_all("12");
            story.hear(b'C', b"SET\0");
            hear_sets(&mut story, "312C3");
            assert_eq!(
                story.session.settings_are_under_way(),
                is_awaited,
                "{text}: it is told at the end of its batch"
            );
            story.hear_all("Z");
            assert!(!story.session.settings_are_under_way());
        }
    }

    #[test]
    fn a_sync_behind_a_reset_is_answered_before_what_comes_next_is_looked_at() {
        let mut story = Story::begin_with(&[("search_path", "app")]);
        story.send(b'Q', b"discard all\0");
        story.sync();
        story.hear(b'C', b"DISCARD ALL\0");
        story.hear_all("Z");
        assert!(story.session.must_wait(b'Q', b"select a from t\0"));
        story.hear_all("Z");
        assert!(!story.session.must_wait(b'Q', b"select a from t\0"));
    }

    #[test]
    fn what_is_executed_by_sql_changes_what_it_would_by_itself() {
        for (text, is_awaited) in [("execute sets", true), ("execute itself", false)] {
            let mut story = Story::begin();
            story.parse("sets", "select set_config('work_mem', '1MB', false)");
            story.parse("itself", "execute itself");
            story.sync();
            story.hear_all("1n1nZ");
            story.send(b'Q', format!("{text}\0").as_bytes());
            assert_eq!(story.session.settings_are_under_way(), is_awaited, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_transaction_that_has_set_something_is_waited_for() {
        for (sets, is_awaited) in [("set work_mem = '1MB'", true), ("select 1", false)] {
            let mut story = Story::begin();
            for text in ["begin", sets] {
                story.send(b'Q', format!("{text}\0").as_bytes());
                story.hear(b'C', b"SET\0");
                story.hear(b'Z', b"T");
            }
            assert!(!story.session.settings_are_under_way());
            story.send(b'Q', b"rollback\0");
            assert_eq!(story.session.settings_are_under_way(), is_awaited, "{sets}");
        }
    }

    /// The name that the statement `a` has on the server connection, prepared behind this in one batch.
    fn name_behind(story: &mut Story, text: &str) -> [u8; 35] {
        story.parse("", text);
        story.bind("");
        story.execute();
        story.parse("a", "select '01/02/2020'::date");
        let name = story.session.names.get(b"a").unwrap().id.server_name();
        story.send(b'C', b"Sa\0");
        story.sync();
        story.hear_all("12");
        story.hear(b'C', b"SET\0");
        story.hear_all("1n3Z");
        name
    }

    #[test]
    fn what_is_prepared_behind_what_decides_how_it_is_read_is_nobody_elses() {
        let begin = || {
            let mut story = Story::begin();
            story.session.told(std::sync::Arc::default());
            story
        };
        let usual = name_behind(&mut begin(), "set work_mem = '1MB'");
        for text in [
            "set datestyle = 'German'",
            "set local time zone 'UTC'",
            "set names 'latin1'",
            "select set_config('datestyle', 'German', true)",
            "set local xmloption = 'document'",
            "do $$ begin set datestyle = 'German'; end $$",
            "do $$ begin set local datestyle = 'German'; end $$",
            "do $$ begin perform set_config('datestyle', 'German', true); end $$",
            "select unknown_function()",
        ] {
            let mut story = begin();
            let (first, second) = (name_behind(&mut story, text), name_behind(&mut story, text));
            assert!(first != usual && second != usual && first != second, "{text}");
            story.session.take_touched();
            assert_eq!(story.session.settings_read(&[], vec![]), story.session.settings);
            assert_eq!(name_behind(&mut story, "select 1"), usual, "{text}: what it was is known again");
        }
    }
}
