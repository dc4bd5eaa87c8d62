//! What a prepared statement takes and answers, as a client is told it once: the types of its parameters, and its columns'
//! names, types and modifiers.
//!
//! PostgreSQL holds a prepared statement to the types of parameters that it found when it was prepared, and to its columns:
//! it refuses to run it (0A000) when a table has changed so that these would be others. A session's statement is prepared on
//! many server connections at many times; so where one of them is not known to have what the session's own Parse found, it
//! is prepared anew there before it is used, with just those types. If its columns have changed, the session is told what
//! PostgreSQL would have told it. Of a FETCH or an EXECUTE no columns are promised: PostgreSQL never plans it anew, and it
//! answers with those of the cursor or the statement that it finds.

use std::sync::Arc;

use bytes::BytesMut;
use sha2::{Digest, Sha256};

use super::Session;
use super::known::Known;
use super::owed::{Asker, Owed};
use super::prepared::{Prepared, StatementId, half};
use crate::wire::backend::TransactionStatus;
use crate::wire::error_response::{Severity, put_error, put_error_of};
use crate::wire::frontend::{self, Name, Parse, Target};
use crate::wire::reader::{Reader, Truncated};
use crate::wire::{SqlState, backend};

/// A digest of the columns; None of them where the statement answers no rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns(Option<[u8; 16]>);

impl Columns {
    /// What a RowDescription or a NoData tells. Of a column's origin and its format nothing is kept: neither is promised.
    pub fn told(tag: u8, body: &[u8]) -> Result<Self, Truncated> {
        if tag == backend::NO_DATA {
            return Ok(Self(None));
        }
        let mut reader = Reader::new(body);
        let mut digest = Sha256::new();
        for _ in 0..reader.i16()? {
            let name = reader.cstr()?;
            let (_table, _number) = (reader.i32()?, reader.i16()?);
            let (type_oid, _size, modifier, _format) = (reader.i32()?, reader.i16()?, reader.i32()?, reader.i16()?);
            digest.update(name);
            digest.update([0]);
            digest.update(type_oid.to_be_bytes());
            digest.update(modifier.to_be_bytes());
        }
        Ok(Self(Some(half(digest))))
    }

    /// There are rows to be promised.
    pub fn has_rows(self) -> bool {
        self.0.is_some()
    }
}

/// A digest of the types of the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters([u8; 16]);

impl Parameters {
    /// What a ParameterDescription tells; a Parse says it in the same form.
    pub fn told(types: &[u8]) -> Self {
        Self(half(Sha256::new_with_prefix(types)))
    }
}

/// What a node tells of a statement.
#[derive(Debug)]
pub struct Told {
    /// The types of its parameters, as a ParameterDescription has them.
    pub types: Box<[u8]>,
    /// Whether a RowDescription or NoData follows.
    pub tag: u8,
    /// What that says.
    pub columns: Box<[u8]>,
}

impl Session {
    /// Statements of the gathered unit must be prepared anew on this server connection before they are used.
    pub fn must_verify(&self, known: &Known) -> bool {
        !self.flow.skipping && self.unverified(known).next().is_some()
    }

    pub(super) fn unverified(&self, known: &Known) -> impl Iterator<Item = &Arc<Prepared>> {
        let gathered = &self.gathered;
        let is_open = |prepared: &Prepared| !gathered.verified.contains(&prepared.id);
        let is_there = |prepared: &Arc<Prepared>| self.is_unnamed(prepared) && !self.goes_by_ours(b"", known);
        let uses = gathered.uses.iter();
        uses.filter(move |prepared| is_open(prepared) && !prepared.is_alike(known) && !is_there(prepared))
    }

    fn is_unnamed(&self, prepared: &Arc<Prepared>) -> bool {
        self.unnamed.as_ref().is_some_and(|(unnamed, _)| Arc::ptr_eq(unnamed, prepared))
    }

    /// The statement of this name is met under our name on the server connection: each that has a name, and the unnamed one
    /// where it is not the server connection's and its columns have been told. There it would be parsed anew, with whatever
    /// columns it has by now.
    pub(super) fn goes_by_ours(&self, name: &[u8], known: &Known) -> bool {
        if !name.is_empty() {
            return true;
        }
        let unnamed = self.unnamed.as_ref();
        unnamed.is_some_and(|(prepared, id)| {
            prepared.is_promised() && prepared.reading == self.reading && known.unnamed != Some(*id)
        })
    }

    /// Prepares them anew, and asks for their columns. Once: what they turn out to be decides.
    pub fn verify(&mut self, known: &mut Known, limit: usize, out: &mut BytesMut) {
        let mut unverified: Vec<_> = self.unverified(known).cloned().collect();
        unverified.iter_mut().for_each(|prepared| self.set_apart(prepared));
        let limit = limit.max(unverified.len()); // none of them makes room for another
        // What has been parsed last may have to make room, so it is asked for its columns before.
        if let Some((_, prepared)) = self.undescribed.take() {
            self.describe_ours(&prepared, out);
        }
        for prepared in unverified {
            if self.gathered.verified.contains(&prepared.id) {
                continue;
            }
            self.gathered.verified.push(prepared.id);
            if known.uses(prepared.id) || self.owed.is_in_doubt(prepared.id) {
                self.close_ours(prepared.id, known, out);
            }
            self.parse_named(b"", &prepared, Asker::Us, known, limit, out);
            self.describe_ours(&prepared, out);
        }
        self.flow.batch_open = true;
        frontend::put_bare(out, frontend::FLUSH);
    }

    /// Behind code that may change how it is read, it is made for this session alone.
    fn set_apart(&mut self, prepared: &mut Arc<Prepared>) {
        if !self.doubts.by_code || prepared.reading.is_doubtful() {
            return;
        }
        let Some(name) = self.names.name_of(prepared.id).map(<[u8]>::to_vec) else { return };
        let reading = self.reading_to_prepare();
        let reread = self.reread(&name, prepared, reading);
        for used in self.gathered.uses.iter_mut().filter(|used| Arc::ptr_eq(used, prepared)) {
            *used = Arc::clone(&reread);
        }
        *prepared = reread;
    }

    /// The answer of [`Session::verify`] has not come yet.
    pub fn is_verifying(&self) -> bool {
        !self.gathered.verified.is_empty()
            && self.owed.iter().any(|owed| matches!(owed, Owed::Describe { by: Asker::Us, .. }))
    }

    /// Asks for the columns of a statement that has just been parsed in the same batch, so that it cannot fail.
    pub(super) fn describe_ours(&mut self, prepared: &Arc<Prepared>, out: &mut BytesMut) {
        frontend::put_target(out, frontend::DESCRIBE, Target::Statement, &prepared.id.server_name());
        self.owed.push(Owed::Describe { of: Some(Arc::clone(prepared)), by: Asker::Us });
    }

    /// The node has told the types of the parameters of what was to be described next. Answers who has asked.
    pub(super) fn described_parameters(&self, types: &[u8], known: &mut Known) -> Option<Asker> {
        let asked = self.owed.front()?;
        // Of very many, which go on to the client as they come, only the first are here: they tell nothing.
        let are_all = backend::are_all_parameters(types);
        if let Owed::Describe { of: Some(prepared), .. } | Owed::DescribeUnnamed(prepared) = asked
            && are_all
        {
            prepared.tell_types(types);
            if let Owed::Describe { .. } = asked {
                known.described_parameters(prepared.id, Parameters::told(types));
            }
        }
        Some(asked.asker())
    }

    /// The node has told the columns of what was to be described next. Answers who has asked; None: nobody.
    pub(super) fn described(&mut self, tag: u8, body: &[u8], known: &mut Known) -> Option<Asker> {
        if matches!(self.owed.front(), Some(Owed::DescribeParameters)) {
            self.owed.pop();
            return Some(Asker::Us);
        }
        if !matches!(self.owed.front(), Some(Owed::Describe { .. } | Owed::DescribeUnnamed(_))) {
            return None;
        }
        let (of, by) = match self.owed.pop()? {
            Owed::Describe { of, by } => (of, by),
            Owed::DescribeUnnamed(prepared) => {
                if let Ok(columns) = Columns::told(tag, body) {
                    prepared.tell(columns);
                }
                return Some(Asker::Client);
            }
            _ => return None,
        };
        if let Some(prepared) = of
            && let Ok(columns) = Columns::told(tag, body)
        {
            known.described(prepared.id, columns);
            prepared.tell(columns);
        }
        Some(by)
    }

    /// What PostgreSQL says where the columns of a statement have changed.
    pub(super) fn changed_columns(&self) -> BytesMut {
        let mut out = BytesMut::new();
        if self.transaction.status() == TransactionStatus::Failed {
            put_error(&mut out, Severity::Error, SqlState::IN_FAILED_SQL_TRANSACTION, super::aborted::FAILED, None);
        } else {
            // By this routine's name drivers know that they must prepare the statement anew.
            let (code, words) = (SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type");
            put_error_of(&mut out, Severity::Error, code, words, "RevalidateCachedQuery");
        }
        out
    }

    /// The messages by which a server connection between units verifies the gathered one's statements, up to a Sync; and
    /// those statements, in their order.
    pub fn verification(&self, known: &mut Known, limit: usize) -> (BytesMut, Vec<Arc<Prepared>>) {
        let (mut out, mut asked): (_, Vec<Arc<Prepared>>) = (BytesMut::new(), Vec::new());
        let unverified: Vec<_> = self.unverified(known).cloned().collect();
        let limit = limit.max(unverified.len()); // none of them makes room for another
        let put_close = |id: StatementId, out: &mut BytesMut| {
            frontend::put_target(out, frontend::CLOSE, Target::Statement, &id.server_name());
        };
        for prepared in unverified {
            if asked.iter().any(|other| other.id == prepared.id) {
                continue;
            }
            // All Closes come first: what comes behind may fail.
            put_close(prepared.id, &mut out);
            if let Some(oldest) = known.add(prepared.id, limit) {
                put_close(oldest, &mut out);
            }
            asked.push(prepared);
        }
        for prepared in &asked {
            let name = prepared.id.server_name();
            frontend::put_parse(&mut out, Parse { name: Name(&name), text: &prepared.text, types: prepared.types() });
            frontend::put_target(&mut out, frontend::DESCRIBE, Target::Statement, &name);
        }
        frontend::put_bare(&mut out, frontend::SYNC);
        (out, asked)
    }

    /// What became of the statements asked for: so many have been parsed, and this was told of the first ones. What the
    /// server connection has not come to is not there: one of them is wrong by now, and is told so when it is used.
    pub fn verified(&self, known: &mut Known, asked: &[Arc<Prepared>], parsed: usize, told: &[Told]) {
        for prepared in asked.iter().skip(parsed) {
            known.remove(prepared.id);
        }
        for (prepared, told) in asked.iter().zip(told) {
            known.described_parameters(prepared.id, Parameters::told(&told.types));
            if let Ok(columns) = Columns::told(told.tag, &told.columns) {
                known.described(prepared.id, columns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::reply::Reply;
    use crate::session::story::Story;

    fn row_description(name: &str, type_oid: i32) -> Vec<u8> {
        let mut body = vec![0, 1];
        body.extend_from_slice(name.as_bytes());
        body.extend([0, 0, 0, 0, 9, 0, 1]);
        body.extend(type_oid.to_be_bytes());
        body.extend([0, 4, 255, 255, 255, 255, 0, 0]);
        body
    }

    #[test]
    fn drivers_know_by_postgresqls_routine_that_a_statement_is_to_be_prepared_anew() {
        let told = Story::begin().session.changed_columns();
        let routine = b"RRevalidateCachedQuery\0";
        assert!(told.windows(routine.len()).any(|there| there == routine));
    }

    /// Prepares `select * from t` as `a`, with one column of this type.
    fn prepared() -> Story {
        let mut story = Story::begin();
        story.parse("a", "select * from t");
        assert_eq!(story.sync(), "DS", "its columns are asked for");
        story.hear_all("1");
        for tag in [b't', b'T'] {
            assert_eq!(story.hear(tag, &row_description("a", 23)), Reply::Hide);
        }
        story.hear_all("Z");
        story
    }

    #[test]
    fn a_statement_is_used_at_once_where_its_columns_are_known() {
        let mut story = prepared();
        assert_eq!(story.bind("a"), "B");
        assert_eq!(story.execute(), "E");
    }

    #[test]
    fn what_the_client_describes_itself_is_not_described_twice() {
        let mut story = Story::begin();
        story.parse("a", "select * from t");
        assert_eq!(story.send(b'D', b"Sa\0"), "D");
        story.sync();
        story.hear_all("1");
        assert_eq!(story.hear(b'T', &row_description("a", 23)), Reply::Forward);
        story.hear_all("Z");
        assert_eq!(story.bind("a"), "B");
    }

    #[test]
    fn elsewhere_it_is_prepared_anew_and_used_if_its_columns_are_the_same() {
        for (type_oid, is_same) in [(23, true), (25, false)] {
            let mut story = prepared();
            // Another has it on that server connection, from a time when the table had other columns.
            let id = story.session.names.get(b"a").unwrap().id;
            story.known = Known::default();
            story.known.has(id);
            assert_eq!(story.survey_bind("a"), "CPDH");
            story.hear_all("31");
            assert_eq!(story.hear(b'T', &row_description("a", type_oid)), Reply::Hide);
            assert!(!story.session.is_verifying());
            assert_eq!(story.bind("a"), if is_same { "B" } else { "CB" });
            story.sync();
            if !is_same {
                story.hear_all("3");
                let Reply::Stale(told) = story.hear(b'E', b"SERROR\0C26000\0M?\0\0") else { panic!("it is stale") };
                assert!(told.windows(5).any(|code| code == b"0A000"));
            }
        }
    }

    #[test]
    fn the_columns_of_a_cursor_or_of_what_is_executed_are_not_promised() {
        for text in ["fetch 100 from c", "execute s"] {
            let mut story = Story::begin();
            story.parse("a", text);
            assert_eq!(story.send(b'D', b"Sa\0"), "D", "it has just been parsed");
            story.sync();
            story.hear_all("1");
            assert_eq!(story.hear(b't', &[0, 0]), Reply::Forward);
            assert_eq!(story.hear(b'T', &row_description("a", 23)), Reply::Forward);
            story.hear_all("Z");
            let prepared = Arc::clone(story.session.names.get(b"a").unwrap());
            // Another has prepared it on that server connection, where the name was another's.
            story.known = Known::default();
            story.known.has(prepared.id);
            story.known.described(prepared.id, Columns::told(b'T', &row_description("b", 25)).unwrap());
            assert!(!prepared.is_promised() && prepared.is_alike(&story.known));
            assert_eq!(story.bind("a"), "B", "{text}");
            assert_eq!(story.send(b'D', b"Sa\0"), "CPD", "{text}: by what is there now");
        }
    }

    #[test]
    fn types_of_which_only_the_first_are_here_tell_nothing() {
        let mut story = Story::begin();
        story.parse("a", "insert into t values ($1)");
        story.send(b'D', b"Sa\0");
        story.sync();
        story.hear_all("1");
        assert_eq!(story.hear(b't', &[78, 32, 0, 0, 0, 23]), Reply::Forward);
        story.hear_all("nZ");
        let prepared = Arc::clone(story.session.names.get(b"a").unwrap());
        assert_eq!(prepared.types(), [0, 0]);
        assert!(prepared.is_alike(&Known::default()));
    }

    #[test]
    fn elsewhere_it_is_prepared_with_the_types_of_parameters_that_were_found() {
        let mut story = Story::begin();
        story.parse("a", "insert into t values ($1)");
        assert_eq!(story.sync(), "DS");
        story.hear_all("1");
        let types = [0, 1, 0, 0, 2, 188];
        assert_eq!(story.hear(b't', &types), Reply::Hide);
        assert_eq!(story.hear(b'n', b""), Reply::Hide);
        story.hear_all("Z");
        assert_eq!(story.bind("a"), "B", "here they are the same");
        story.sync();
        story.hear_all("2Z");
        story.known = Known::default();
        assert_eq!(story.survey_bind("a"), "PDH");
        assert_eq!(story.session.names.get(b"a").unwrap().types(), types);
        story.hear_all("1");
        assert_eq!(story.hear(b't', &types), Reply::Hide);
        assert_eq!(story.hear(b'n', b""), Reply::Hide);
        assert_eq!(story.bind("a"), "B");
    }
}
