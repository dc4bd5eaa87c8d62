//! What a statement leaves in the session when it has been done, or has failed.

use std::sync::Arc;

use bytes::BytesMut;

use super::known::{Known, UnnamedId};
use super::prepared::{Prepared, Reading, StatementId};
use super::wishes::is_wish;
use super::{End, PutBack, Session, Settings};
use crate::sql::{
    Kind, NeedsPrimary, Part, Pin, SessionChange, SetTo, Statement, TransactionControl, is_identity,
    only_asks_connection,
};
use crate::wire::backend;
use crate::wire::frontend::Parse;

impl Session {
    /// Notes what a statement leaves in the session although it has failed: a lock of the session outlives the error, and so
    /// does the state of random().
    pub(super) fn undone(&mut self, statement: &Statement, known: &mut Known) {
        if statement.parts.iter().any(may_have_seeded) {
            self.pins.add(Pin::State);
        }
        for change in statement.parts.iter().flat_map(|part| &part.session) {
            match change {
                SessionChange::Pin(Pin::AdvisoryLock) => {
                    self.pins.add(Pin::AdvisoryLock);
                    self.may_have_unpinned(); // or it was not reached, or waited for in vain
                }
                SessionChange::Pin(Pin::Temporary) => known.has_used_temporary = true,
                SessionChange::Execute(name) => {
                    if let Some(prepared) = self.sql_prepared.get(name) {
                        let statement = Arc::clone(&prepared.statement);
                        self.undone(&statement, known);
                    }
                }
                _ => {}
            }
        }
    }

    /// Notes what a statement that has been done, with this tag, leaves in the session.
    pub(super) fn done(&mut self, statement: &Statement, part_index: usize, tag: &[u8], known: &mut Known) {
        if statement.is_plain_read() {
            return;
        }
        let Some(part) = statement.parts.get(part_index) else { return };
        let owed = &self.owed;
        self.transaction.has_done(&part.transaction, self.defaults, || owed.runs_more());
        let is_proven_read = self.is_proven_read();
        let reads_there = self.catalog.on_replica && only_reads_there(part);
        if !(is_proven_read || reads_there || part.only_cleans())
            && (part.needs_primary.is_some() || matches!(part.kind, Kind::Execute | Kind::Explain))
            && !(self.catalog.on_replica && only_asks_connection(part))
        {
            self.transaction.writes();
        }
        let is_unseen = part.kind == Kind::Unparsed
            || matches!(part.needs_primary, Some(NeedsPrimary::UnknownFunction(_) | NeedsPrimary::Procedural));
        if is_unseen && !is_proven_read {
            known.unseen = Some(self.id);
        }
        match part.transaction {
            TransactionControl::Rollback { .. } | TransactionControl::RollbackTo => self.role_is_reset = false,
            // An aborted transaction is rolled back by it.
            TransactionControl::Commit { .. } | TransactionControl::Prepare if tag.starts_with(b"ROLLBACK") => {
                self.role_is_reset = false;
            }
            // Another transaction may have begun, and the one before is there for all to see.
            TransactionControl::Commit { .. } | TransactionControl::Prepare => {
                self.settings_are_committed();
                self.catalog.has_changed.join(self.catalog.may_change);
                self.settled_writes |= self.transaction.may_have_written();
            }
            _ => {}
        }
        if part.changes_catalog && self.makes_temporary_first() {
            self.pins.add(Pin::Temporary);
            known.has_used_temporary = true;
            self.may_have_unpinned();
        }
        if part.needs_primary == Some(NeedsPrimary::TooLarge) {
            // What it has left in the session is not known.
            self.pins.add(Pin::UnknownSetting);
        }
        self.doubt_pins(part);
        for change in &part.session {
            self.change_sql_prepared(change);
            match change {
                SessionChange::Setting { name, .. } if change.is_local() => self.set_locally(name),
                SessionChange::Setting { name, to: SetTo::Value, .. } => {
                    if part.kind != Kind::Set {
                        self.puts_back(PutBack::Code);
                    }
                    self.is_set(name);
                }
                SessionChange::Setting { name, to: SetTo::Default, .. } => {
                    self.may_not_go_on();
                    self.is_reset(name);
                }
                SessionChange::ResetAll => {
                    self.may_not_go_on();
                    self.touch_all();
                }
                SessionChange::DiscardSequences => self.forgets_drawn(known),
                SessionChange::DiscardAll => {
                    self.forgets_drawn(known);
                    self.touch_all();
                    if self.settings.has_identity() || self.startup.has_identity() {
                        self.is_reset(&"session_authorization".into());
                    }
                    self.pins.discard();
                    self.told_pins.discard();
                    self.all_deallocated(known);
                }
                SessionChange::DeallocateAll => self.all_deallocated(known),
                SessionChange::Deallocate(name) => self.deallocated(name, known),
                SessionChange::Prepare { name, text, .. } => {
                    let prepared = (Arc::clone(name), Arc::clone(text));
                    match &mut known.sql_prepared {
                        Some((owner, all)) if *owner == self.id => all.push(prepared),
                        other => *other = Some((self.id, vec![prepared])),
                    }
                }
                SessionChange::Pin(pin) => {
                    known.has_used_temporary |= *pin == Pin::Temporary;
                    self.pinned_by(*pin, statement);
                }
                SessionChange::Execute(name) => {
                    self.executed_is_done(name, known);
                    if part.kind == Kind::Explain {
                        self.may_have_unpinned(); // or never pinned: it may only have been planned
                    }
                }
                SessionChange::DiscardSome | SessionChange::Ask => {}
            }
        }
    }

    /// Whoever the session acts as may not be let set what has been put back.
    fn may_not_go_on(&mut self) {
        if !self.startup.is_empty() && self.may_be_somebody_else() {
            self.puts_back(PutBack::Code);
        }
    }

    /// It is back to what it was when the transaction has ended, and of some only reading tells what that is.
    fn set_locally(&mut self, name: &Arc<str>) {
        self.acts_as_another |= is_identity(name);
        if Reading::is_never_reported(name) {
            self.touch(name);
        }
        if is_wish(name) {
            self.is_wished_locally(name);
        }
    }

    /// What the transaction has set stands from now on, and it is not run again, also where another one has begun.
    fn settings_are_committed(&mut self) {
        self.touched_for_good |= !self.touched.is_empty() || self.may_lose_remains();
        self.forget_begin();
    }

    /// What is made without a schema's name may be temporary, by its search_path.
    fn makes_temporary_first(&self) -> bool {
        let path = self.settings.get("search_path").or(self.startup.get("search_path"));
        let is_temporary = |path: &str| path.to_ascii_lowercase().contains("pg_temp");
        self.catalog.path_is_uncertain || path.map_or(self.makes_temporary_first, is_temporary)
    }

    /// Not the unnamed statement, which only a Query drops.
    fn all_deallocated(&mut self, known: &mut Known) {
        self.names.clear();
        known.forget_statements(|id| self.owed.will_have(id) == Some(true));
        self.owed.forget_closes();
    }

    /// Our statement of this name stays on the server connection. One that was prepared by SQL is gone, and one of ours
    /// that was called by our own name too.
    fn deallocated(&mut self, name: &Arc<str>, known: &mut Known) {
        self.names.remove(name.as_bytes());
        if let Some(id) = StatementId::first_in(name.as_bytes()) {
            known.remove(id);
        }
        known.has_no_sql(name);
    }

    /// A Close also takes what was prepared by SQL.
    pub(super) fn sql_closed(&mut self, name: &[u8], known: &mut Known) {
        if self.sql_prepared.is_empty() && known.sql_prepared.is_none() {
            return;
        }
        let Ok(name) = std::str::from_utf8(name) else { return };
        let name: Arc<str> = name.into();
        self.deallocated(&name, known);
        self.change_sql_prepared(&SessionChange::Deallocate(name));
    }

    fn change_sql_prepared(&mut self, change: &SessionChange) {
        self.unshown_sql.extend(self.sql_prepared.apply(change));
    }

    /// Prepares a statement in the node's place; None: it is refused, which leaves no unnamed statement.
    pub(super) fn prepare_alone(&mut self, parse: Parse<'_>, statement: Option<Arc<Statement>>) {
        let prepared = statement.map(|statement| {
            let by = self.parse_of_its_own(parse.text);
            Arc::new(Prepared::new(parse.text, parse.types, statement, self.reading, by))
        });
        match prepared {
            Some(prepared) if !parse.name.is_empty() => self.names.put(parse.name.kept(), prepared),
            None if !parse.name.is_empty() => {}
            prepared => {
                self.unnamed_count += 1;
                let id = UnnamedId(self.id, self.unnamed_count);
                self.unnamed = prepared.map(|prepared| (prepared, id));
                self.settled_unnamed.clone_from(&self.unnamed);
            }
        }
    }

    /// Closes a statement in the node's place.
    pub(super) fn close_alone(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
            self.settled_unnamed = None;
        }
        self.names.remove(name);
    }

    /// The unit is DEALLOCATE ALL in a Query, and closes only what the protocol has prepared under a name: that is the session's, and
    /// no server connection's.
    pub fn deallocates_without_node(&self) -> bool {
        let gathered = &self.gathered;
        gathered.end == Some(End::Query)
            && gathered.missing == 0
            && gathered.rulings.is_empty()
            && gathered.queries.front().is_some_and(|statement| deallocates_all(statement))
            && self.is_idle()
            && !self.has_prepared_by_sql()
            && !self.executes_by_sql
    }

    /// Answers such a one in the node's place. A Query drops the unnamed statement, too.
    pub fn deallocate_alone(&mut self, out: &mut BytesMut) {
        self.close_alone(b"");
        self.names.clear();
        self.shown(); // no node can take it back
        backend::put_command_complete(out, "DEALLOCATE ALL");
        backend::put_ready(out, self.transaction.status());
    }

    /// This setting may have changed. It is noted once: a session that keeps its server connection may not be asked for long.
    pub(super) fn touch(&mut self, name: &Arc<str>) {
        if !self.touched.contains(name) {
            self.touched.push(Arc::clone(name));
        }
        if **name == *"session_authorization" {
            self.touch(&"role".into()); // PostgreSQL puts it back
        }
    }

    /// This setting is what the session has set it to.
    fn is_set(&mut self, name: &Arc<str>) {
        self.role_is_reset &= !is_identity(name); // with a session authorization, PostgreSQL leaves no role
        self.touch(name);
    }

    /// This setting is back at what the session began with.
    fn is_reset(&mut self, name: &Arc<str>) {
        // With the session authorization, PostgreSQL puts back the role.
        self.role_is_reset |= is_identity(name) && self.startup.get("role").is_none();
        self.touch(name);
    }

    /// Every setting that was ever changed may be back at its beginning, but for who the session is.
    fn touch_all(&mut self) {
        let names = |settings: &Settings| -> Vec<Arc<str>> {
            settings.iter().filter(|(name, _)| !is_identity(name)).map(|(name, _)| Arc::clone(name)).collect()
        };
        self.touched.extend(names(&self.settings));
        self.touched.extend(names(&self.startup));
        self.touched.sort_unstable();
        self.touched.dedup();
    }
}

/// Done in a transaction on a replica, it has only read: what it names was opened or prepared before, and a write fails there.
fn only_reads_there(part: &Part) -> bool {
    match part.kind {
        Kind::Fetch => true,
        Kind::Execute | Kind::Explain => part.needs_primary.is_none(),
        _ => false,
    }
}

/// It is nothing but DEALLOCATE ALL.
pub(super) fn deallocates_all(statement: &Statement) -> bool {
    let is_it = |part: &Part| part.kind == Kind::Deallocate && *part.session == [SessionChange::DeallocateAll];
    statement.only().is_some_and(is_it)
}

/// It may have seeded random() before it has failed. A SET by itself has not.
fn may_have_seeded(part: &Part) -> bool {
    let seeds = |name: &str| matches!(name, "set_config" | "setseed");
    let may_seed = || part.kind == Kind::Do || part.functions.iter().any(|function| seeds(&function.name));
    part.session.contains(&SessionChange::Pin(Pin::State)) && may_seed()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use crate::session::Held;
    use crate::session::story::Story;

    #[test]
    fn who_has_fetched_executed_or_explained_in_a_transaction_on_a_replica_has_written_nothing() {
        let executed = ["execute a", "explain analyze execute a", "explain insert into t values (1)"];
        for text in ["fetch c", "move c"].into_iter().chain(executed) {
            for (held, may_have_written) in [(Held::Replica, false), (Held::Primary, true)] {
                let mut story = Story::begin();
                story.session.served_on(held);
                for (text, status) in [
                    ("begin read only", b"T"),
                    ("declare c cursor for select 1", b"T"),
                    ("prepare a as select 1", b"T"),
                    (text, b"T"),
                    ("commit", b"I"),
                ] {
                    story.send(b'Q', format!("{text}\0").as_bytes());
                    story.hear(b'C', b"?\0");
                    story.hear(b'Z', status);
                }
                assert_eq!(story.session.has_written(true), may_have_written, "{held:?} {text}");
            }
        }
    }

    #[test]
    fn deallocate_all_of_what_the_protocol_has_prepared_needs_no_node() {
        let deallocates = |story: &mut Story, text: &str| {
            story.survey(b'Q', format!("{text}\0").as_bytes());
            let deallocates = story.session.deallocates_without_node();
            story.session.gathered.clear();
            deallocates
        };
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.parse("", "select 2");
        story.sync();
        assert!(!deallocates(&mut story, "deallocate all"), "it has not been answered");
        story.hear_all("1n1Z");
        for (text, expected) in [
            ("deallocate all", true),
            ("/* of a pool */ Deallocate Prepare All;", true),
            ("deallocate a", false),
            ("deallocate all; select 1", false),
            ("discard all", false),
        ] {
            assert_eq!(deallocates(&mut story, text), expected, "{text}");
        }
        let mut out = BytesMut::new();
        story.session.deallocate_alone(&mut out);
        assert_eq!((out.first(), &out[out.len() - 6..]), (Some(&b'C'), &b"Z\0\0\0\x05I"[..]));
        story.session.rewind();
        assert!(story.session.names.get(b"a").is_none() && story.session.unnamed.is_none());
        for (text, status) in [("prepare p as select 1", b"I"), ("begin", b"T")] {
            let mut story = Story::begin();
            story.send(b'Q', format!("{text}\0").as_bytes());
            story.hear(b'C', b"?\0");
            story.hear(b'Z', status);
            assert!(!deallocates(&mut story, "deallocate all"), "{text}");
        }
    }

    #[test]
    fn what_a_session_that_keeps_its_server_connection_sets_again_and_again_is_noted_once() {
        let mut story = Story::begin_with(&[("work_mem", "1MB")]);
        for sql in
            ["listen a", "set app.x = 1", "set app.x = 2", "set session authorization u", "reset all", "reset all"]
        {
            story.send(b'Q', format!("{sql}\0").as_bytes());
            story.hear(b'C', b"?\0");
            story.hear(b'Z', b"I");
        }
        story.send(b'Q', b"set session authorization u\0");
        story.hear(b'C', b"?\0");
        assert_eq!(story.session.touched.len(), 4, "{:?}", story.session.touched);
    }
}
