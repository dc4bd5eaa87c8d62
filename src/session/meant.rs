//! What a name of a prepared statement may mean by the time that an EXECUTE, or a Bind, comes to it: not all that gives and takes
//! names need be answered.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::Session;
use crate::sql::{Statement, query_of};

/// What the EXECUTEs of a statement may run, each once, however often they name it.
pub(super) struct MayRun<'a> {
    pub(super) known: SmallVec<[(&'a Arc<Statement>, Text<'a>); 1]>,
    /// Of one of the names nobody knows anything.
    pub(super) has_unknown: bool,
}

/// Where the text of a prepared statement stands.
pub(super) enum Text<'a> {
    /// Behind this PREPARE.
    OfSql(&'a Arc<str>),
    /// In a Parse.
    OfProtocol(&'a [u8]),
}

impl<'a> Text<'a> {
    /// The text of what is run.
    pub(super) fn query(&self) -> Cow<'a, str> {
        match self {
            Self::OfSql(text) => Cow::Borrowed(query_of(text)),
            Self::OfProtocol(text) => String::from_utf8_lossy(text),
        }
    }
}

impl Session {
    /// What EXECUTEs of these names by SQL may run, whether SQL or the protocol has given them. A string of many PREPAREs and
    /// EXECUTEs is gone through once.
    #[cold]
    pub(super) fn may_run<'a>(&'a self, names: impl Iterator<Item = &'a Arc<str>>) -> MayRun<'a> {
        let (mut known, mut places, mut order) = (SmallVec::new(), HashMap::new(), SmallVec::<[_; 1]>::new());
        for name in names {
            places.entry(&**name).or_insert_with(|| {
                order.push(&**name);
                order.len() - 1
            });
        }
        let mut is_found: SmallVec<[bool; 1]> = SmallVec::from_elem(false, order.len());
        for (name, is_found) in order.iter().zip(&mut is_found) {
            let by_sql = self.settled_by_sql(name).map(|(statement, text)| (statement, Text::OfSql(text)));
            let by_protocol = self.gathered_name(name.as_bytes());
            let by_protocol = by_protocol.map(|prepared| (&prepared.statement, Text::OfProtocol(&prepared.text)));
            *is_found = by_sql.is_some() || by_protocol.is_some();
            known.extend(by_sql.into_iter().chain(by_protocol));
        }
        let mut seen = HashSet::new();
        for statement in self.gathered.preparing.iter().rev().chain(self.owed.preparing()) {
            if !seen.insert(Arc::as_ptr(statement)) {
                continue;
            }
            for (name, statement, text) in statement.prepared_names().rev() {
                let Some(is_found) = places.get(&**name).and_then(|place| is_found.get_mut(*place)) else { continue };
                *is_found = true;
                known.push((statement, Text::OfSql(text)));
            }
        }
        MayRun { known, has_unknown: is_found.contains(&false) }
    }

    /// What each EXECUTE in the statement may run, by a name that was given by SQL or by the protocol; None: nobody knows.
    pub(super) fn executed_by_sql(&self, statement: &Statement) -> SmallVec<[Option<Arc<Statement>>; 1]> {
        if !statement.executes_by_name() {
            return SmallVec::new();
        }
        let MayRun { known, has_unknown } = self.may_run(statement.executed_names());
        let known = known.into_iter().map(|(inner, _)| Some(Arc::clone(inner)));
        known.chain(has_unknown.then_some(None)).collect()
    }

    /// What was prepared under this name by SQL, and has been answered.
    fn settled_by_sql(&self, name: &str) -> Option<(&Arc<Statement>, &Arc<str>)> {
        self.sql_prepared.get(name).map(|prepared| (&prepared.statement, &prepared.text))
    }

    /// What was prepared under this name by SQL, or will be by what stands before, with the text of that PREPARE: the
    /// protocol finds it by the same name. Should that fail, nothing of the name is run.
    #[cold]
    pub(super) fn given_by_sql<'a>(
        &'a self,
        name: &'a [u8],
    ) -> impl Iterator<Item = (&'a Arc<Statement>, &'a Arc<str>)> {
        let name = std::str::from_utf8(name).unwrap_or_default();
        let settled = self.settled_by_sql(name);
        let others = self.gathered.preparing.iter().rev().chain(self.owed.preparing());
        settled.into_iter().chain(others.flat_map(move |statement| statement.prepares(name).rev()))
    }

    /// The one of them that a Bind which is sent now finds, if all before it in its batch is done. None, too, where that hangs
    /// on what another batch or a Query comes to: it may be anything then.
    #[cold]
    pub(super) fn bound_by_sql(&self, name: &[u8]) -> Option<Arc<Statement>> {
        let name = std::str::from_utf8(name).ok()?;
        let in_batch = self.owed.preparing_in_batch().find_map(|statement| statement.prepares(name).next_back());
        let settled = self.settled_by_sql(name);
        let mut given = settled.into_iter().chain(self.owed.preparing().flat_map(|statement| statement.prepares(name)));
        let only = match (given.next(), given.next()) {
            (only, None) => only,
            _ => None,
        };
        in_batch.or(only).map(|(statement, _)| Arc::clone(statement))
    }
}

#[cfg(test)]
mod tests {
    use crate::session::Reply;
    use crate::session::story::Story;

    #[test]
    fn an_execute_may_run_whatever_its_name_may_mean_by_then() {
        let may_run = |story: &Story, name: &str| {
            let names = [std::sync::Arc::from(name)];
            let run = story.session.may_run(names.iter());
            run.known.iter().map(|(_, text)| text.query().into_owned()).collect::<Vec<_>>()
        };
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        assert_eq!(may_run(&story, "a"), ["select 1"]);
        story.send(b'Q', b"prepare b as select 2\0");
        assert_eq!(may_run(&story, "b"), ["select 2"], "it is under way");
        story.hear(b'C', b"PREPARE\0");
        story.hear_all("Z");
        story.survey(b'Q', b"deallocate b; prepare b as select 3; execute b\0");
        assert_eq!(may_run(&story, "b"), ["select 2", "select 3"]);
        story.session.gathered.clear();
        assert_eq!(may_run(&story, "b"), ["select 2"]);
        // Bound in the same batch, and parsed before that.
        story.parse("prepares", "prepare c as select 4");
        story.sync();
        story.hear_all("1nZ");
        story.survey(b'B', b"\0prepares\0\0\0\0\0\0\0");
        assert_eq!(may_run(&story, "c"), ["select 4"]);
        story.session.gathered.clear();
        story.survey(b'P', b"d\0select 5\0\0\0");
        assert_eq!(may_run(&story, "d"), ["select 5"]);
    }

    /// Were each EXECUTE to meet each PREPARE of its name, this would fill the memory.
    #[test]
    fn what_a_string_prepares_and_executes_again_and_again_is_met_once() {
        let mut story = Story::begin();
        let text = format!("{}{}", "prepare a as select 1;".repeat(500), "execute a;".repeat(500));
        story.survey(b'Q', &[text.as_bytes(), b"\0"].concat());
        let names = [std::sync::Arc::from("a"), "b".into(), "a".into()];
        let run = story.session.may_run(names.iter());
        assert_eq!((run.known.len(), run.has_unknown), (500, true));
    }

    #[test]
    fn what_its_own_batch_prepares_anew_is_what_a_bind_finds() {
        let mut story = Story::begin();
        story.send(b'Q', b"prepare b as select 1\0");
        story.hear(b'C', b"PREPARE\0");
        story.hear_all("Z");
        for text in ["deallocate b", "prepare b as select 2"] {
            story.parse("", text);
            story.bind("");
            story.execute();
        }
        let all: Vec<_> = story.session.given_by_sql(b"b").map(|(_, text)| &**text).collect();
        assert_eq!(all, ["prepare b as select 1", "prepare b as select 2"]);
        let found = story.session.bound_by_sql(b"b").unwrap();
        assert!(story.session.given_by_sql(b"b").nth(1).is_some_and(|(last, _)| std::sync::Arc::ptr_eq(last, &found)));
        // A Query may fail by itself, and be done: nobody knows which it is then.
        let mut story = Story::begin();
        story.send(b'Q', b"prepare b as select 1\0");
        story.hear(b'C', b"PREPARE\0");
        story.hear_all("Z");
        story.send(b'Q', b"prepare b as select 2\0");
        assert!(story.session.bound_by_sql(b"b").is_none());
        story.hear(b'E', b"SERROR\0C42P05\0M?\0\0");
        story.hear_all("Z");
        assert!(story.session.bound_by_sql(b"b").is_some(), "the one that is there");
    }

    #[test]
    fn a_name_that_the_protocol_has_given_is_not_given_by_sql() {
        for (is_closed, is_refused) in [(false, true), (true, false)] {
            let mut story = Story::begin();
            story.parse("a", "select 1");
            story.sync();
            story.hear_all("1nZ");
            if is_closed {
                story.send(b'C', b"Sa\0");
            }
            story.parse("", "prepare a as select 2");
            story.bind("");
            assert_eq!(story.execute(), if is_refused { "CD" } else { "E" });
            story.sync();
            if is_closed {
                story.hear_all("3");
            }
            story.hear_all("12");
            if is_refused {
                story.hear_all("3");
                let Reply::Replace(told) = story.hear(b'E', b"SERROR\0C26000\0M?\0\0") else { panic!("it is ours") };
                assert!(String::from_utf8_lossy(&told).contains("42P05\0Mprepared statement \"a\" already exists"));
            } else {
                story.hear_all("C");
            }
            story.hear_all("Z");
            assert_eq!(story.session.has_prepared_by_sql(), !is_refused);
            assert_eq!(story.session.names.get(b"a").is_some(), is_refused);
        }
    }
}
