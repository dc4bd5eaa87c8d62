//! Statements prepared through the protocol, as EXECUTE by SQL finds them; and those of SQL, as Bind finds them.
//!
//! PostgreSQL has one namespace for what is prepared by SQL and through the protocol. On server connections the protocol's
//! statements have names of ours, so that sessions share them. Where a session executes one of its own by SQL, it is prepared
//! there once more under its own name, as a mirror. [`Known::sql_prepared`] names mirrors among what the session has prepared
//! by SQL, so that they are taken away before anybody else gets the server connection, or a newer statement of that name.

use std::sync::Arc;

use bytes::BytesMut;
use hashbrown::HashSet;

use super::Session;
use super::known::Known;
use super::owed::{Asker, Owed};
use super::prepared::{Prepared, StatementId};
use crate::sql::{Kind, Statement};
use crate::wire::frontend::{self, Name, Parse};

/// A statement to be prepared under the client's own name.
#[derive(Debug)]
pub struct Mirror {
    /// The name.
    pub name: Arc<str>,
    /// What it is.
    pub id: StatementId,
}

impl Session {
    /// The statements of the protocol that this one executes by SQL, by name.
    pub(super) fn executed<'a>(
        &'a self,
        statement: &'a Statement,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Prepared>)> {
        let named = statement.executed_names().filter_map(|name| Some((name, self.names.get(name.as_bytes())?)));
        named.filter(|(_, prepared)| can_be_mirrored(&prepared.statement))
    }

    /// Before a message that has to do with this statement: what it executes by SQL will be there under the client's names.
    pub(super) fn put_mirrors(&mut self, statement: &Statement, known: &Known, out: &mut BytesMut) {
        if statement.is_plain_read() {
            return;
        }
        let lacks = |(name, prepared): &(&Arc<str>, &Arc<Prepared>)| !known.mirrors(self.id, name, prepared.id);
        let lacking: Vec<_> =
            self.executed(statement).filter(lacks).map(|(n, p)| (Arc::clone(n), Arc::clone(p))).collect();
        let is_apart = !self.flow.batch_open;
        for (name, prepared) in &lacking {
            self.put_close_of_mirror(name, out);
            self.put_parse(Parse { name: Name(name.as_bytes()), text: &prepared.text, types: prepared.types() }, out);
            self.owed.push(Owed::Mirror(Mirror { name: Arc::clone(name), id: prepared.id }));
            if is_apart {
                frontend::put_bare(out, frontend::SYNC);
                self.owed.push(Owed::Sync(Asker::Us));
            }
        }
    }

    /// Nothing has this name on the server connection from now on, whether it had or not.
    pub(super) fn put_close_of_mirror(&mut self, name: &Arc<str>, out: &mut BytesMut) {
        frontend::put_target(out, frontend::CLOSE, frontend::Target::Statement, name.as_bytes());
        self.owed.push(Owed::CloseMirror(Arc::clone(name)));
    }

    /// What a statement leaves in the session that was executed by SQL, as it was prepared when this was done.
    pub(super) fn executed_is_done(&mut self, name: &str, known: &mut Known) {
        if let Some(prepared) = self.sql_prepared.get(name) {
            let statement = Arc::clone(&prepared.statement);
            return self.done(&statement, 0, b"", known);
        }
        let Some(prepared) = self.names.confirmed(name.as_bytes()) else { return };
        if can_be_mirrored(&prepared.statement) {
            let statement = Arc::clone(&prepared.statement);
            self.done(&statement, 0, b"", known);
        }
    }
}

impl Known {
    /// It has this statement under the session's own name.
    fn mirrors(&self, session: super::SessionId, name: &str, id: StatementId) -> bool {
        let Some((owner, all)) = &self.sql_prepared else { return false };
        let ours = id.server_name();
        *owner == session && all.iter().any(|(known, text)| **known == *name && text.as_bytes() == ours)
    }

    /// It has a mirror of this name.
    pub(super) fn has_mirror(&self, session: super::SessionId, name: &str) -> bool {
        let is_mirror = |(known, text): &(Arc<str>, Arc<str>)| **known == *name && text.starts_with("tl_");
        self.sql_prepared.as_ref().is_some_and(|(owner, all)| *owner == session && all.iter().any(is_mirror))
    }

    /// It has this mirror now.
    pub(super) fn is_mirrored(&mut self, session: super::SessionId, mirror: &Mirror) {
        let text = String::from_utf8_lossy(&mirror.id.server_name()).as_ref().into();
        let all = match &mut self.sql_prepared {
            Some((owner, all)) if *owner == session => all,
            other => &mut other.insert((session, Vec::new())).1,
        };
        all.push((Arc::clone(&mirror.name), text));
    }

    /// Nothing of this name is there by SQL.
    pub fn has_no_sql(&mut self, name: &str) {
        self.has_sql_only_of(|known| *known != *name);
    }

    /// Nothing of these names is.
    pub fn have_no_sql(&mut self, names: &[Arc<str>]) {
        let names: HashSet<&str> = names.iter().map(|name| &**name).collect();
        self.has_sql_only_of(|known| !names.contains(known));
    }

    /// Where nothing is left, it is as good as if there had never been anything.
    fn has_sql_only_of(&mut self, stays: impl Fn(&str) -> bool) {
        let Some((_, all)) = &mut self.sql_prepared else { return };
        all.retain(|(known, _)| stays(known));
        if all.is_empty() {
            self.sql_prepared = None;
        }
    }
}

/// What PREPARE takes too: of anything else, EXECUTE by SQL finds nothing.
fn can_be_mirrored(statement: &Statement) -> bool {
    let is_plannable = |kind| matches!(kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete | Kind::Merge);
    statement.only().is_some_and(|part| is_plannable(part.kind))
}

#[cfg(test)]
mod tests {
    use crate::session::reply::Reply;
    use crate::session::story::Story;

    fn prepared() -> Story {
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        story
    }

    #[test]
    fn what_is_executed_by_sql_is_prepared_under_its_own_name_once() {
        let mut story = prepared();
        assert_eq!(story.send(b'Q', b"execute a\0"), "CPSQ");
        assert_eq!(story.hear(b'3', b""), Reply::Hide);
        assert_eq!(story.hear(b'1', b""), Reply::Hide);
        assert_eq!(story.hear(b'Z', b"I"), Reply::Hide);
        story.hear(b'C', b"SELECT 1\0");
        assert_eq!(story.hear(b'Z', b"I"), Reply::Forward);
        assert_eq!(story.send(b'Q', b"execute a\0"), "Q");
        story.hear_all("Z");
        assert!(!story.session.is_at_home(&story.known), "it is taken away before the server connection is lent again");
        assert_eq!(story.session.strange_statements(&story.known), ["a".into()]);
        assert_eq!(story.send(b'Q', b"execute b\0"), "Q", "it has prepared nothing of that name");
    }

    #[test]
    fn deallocate_takes_the_mirror_and_close_too() {
        for way in 0..2 {
            let mut story = prepared();
            story.send(b'Q', b"execute a\0");
            story.hear_all("31ZZ");
            if way == 0 {
                assert_eq!(story.send(b'Q', b"deallocate a\0"), "Q");
                story.hear(b'C', b"DEALLOCATE\0");
            } else {
                assert_eq!(story.send(b'C', b"Sa\0"), "C");
                story.sync();
                story.hear_all("3");
            }
            story.hear_all("Z");
            assert!(!story.known.has_mirror(story.session.id, "a"));
            assert_eq!(story.send(b'Q', b"execute a\0"), "Q");
        }
    }

    #[test]
    fn a_server_connection_whose_last_statement_of_sql_is_gone_is_as_one_that_never_had_any() {
        for (tag, body) in [(b'Q', &b"deallocate p\0"[..]), (b'Q', b"deallocate all\0"), (b'C', b"Sp\0")] {
            let mut story = Story::begin();
            story.send(b'Q', b"prepare p as select 1\0");
            story.hear(b'C', b"PREPARE\0");
            story.hear_all("Z");
            assert!(!story.session.is_at_home(&story.known));
            story.send(tag, body);
            if tag == b'C' {
                story.sync();
                story.hear_all("3");
            } else {
                story.hear(b'C', b"DEALLOCATE\0");
            }
            story.hear_all("Z");
            assert!(story.session.is_at_home(&story.known), "{body:?}");
        }
    }

    #[test]
    fn what_was_prepared_by_sql_leaves_what_it_does_where_it_is_bound_by_its_name() {
        const SETS: &str = "prepare s(text) as select set_config('app.tenant', $1, false)";
        const LOCKS: &str = "prepare s(int) as select pg_advisory_lock($1)";
        for (text, is_pinned) in [(SETS, false), (LOCKS, true)] {
            for is_pipelined in [false, true] {
                let mut story = Story::begin();
                story.send(b'Q', format!("{text}\0").as_bytes());
                if !is_pipelined {
                    story.hear(b'C', b"PREPARE\0");
                    story.hear_all("Z");
                }
                assert_eq!(story.bind("s"), "B");
                story.execute();
                story.sync();
                if is_pipelined {
                    story.hear(b'C', b"PREPARE\0");
                    story.hear_all("Z");
                }
                story.hear_all("2CZ");
                assert_eq!(story.session.pin().is_some(), is_pinned, "{text}");
                assert_eq!(story.session.take_touched().len(), usize::from(!is_pinned), "{text}");
            }
        }
    }

    #[test]
    fn a_mirror_that_the_node_refuses_is_not_there() {
        let mut story = prepared();
        story.send(b'Q', b"execute a\0");
        story.hear_all("3");
        let (why, told) = (b"SERROR\0C42P01\0M?\0\0", |code| match code {
            Reply::Refused(code, Some(told)) => (code.to_string(), told.to_vec()),
            other => panic!("{other:?}"),
        });
        assert_eq!(story.hear(b'E', why), Reply::Hide);
        assert_eq!(story.hear(b'Z', b"I"), Reply::Hide);
        let (code, told) = told(story.hear(b'E', b"SERROR\0C26000\0M?\0\0"));
        assert_eq!((&*code, told.get(5..)), ("42P01", Some(&why[..])), "why there is none");
        assert_eq!(story.hear(b'Z', b"I"), Reply::Forward);
        // It was told once.
        assert_eq!(story.send(b'Q', b"execute b\0"), "Q");
        assert_eq!(story.hear(b'E', b"SERROR\0C26000\0M?\0\0"), Reply::Forward);
        story.hear_all("Z");
        assert!(!story.known.has_mirror(story.session.id, "a"));
    }

    #[test]
    fn in_a_batch_it_stands_before_the_parse_and_before_the_bind() {
        let mut story = prepared();
        assert_eq!(story.parse("", "execute a"), "CPSP");
        assert_eq!(story.bind(""), "CPB", "what has not been answered is not believed");
        story.execute();
        story.sync();
        story.hear_all("31Z1312CZ");
        assert_eq!(story.bind(""), "B");
    }
}
