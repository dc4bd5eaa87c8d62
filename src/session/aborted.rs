//! A transaction that was lost with its node: only its end is accepted, and we answer in the node's place.

use bytes::BytesMut;

use super::Session;
use crate::sql::{Statement, TransactionControl};
use crate::wire::SqlState;
use crate::wire::backend;
use crate::wire::error_response::{Severity, put_error, put_error_explained};
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::reader::Truncated;

/// How much the client knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// It has not been told yet: the next statement is.
    NotTold,
    /// It has been told.
    Told,
    /// A statement that ends the transaction is being prepared or bound, and what it answers will be true: the client
    /// has been told, or rolls back itself.
    Ending,
    /// A COMMIT is being prepared or bound, and the client has not been told.
    Committing,
}

/// What the client is told, once.
pub const LOST: &str = "the transaction was lost with its server connection; please try it again";

pub(super) const FAILED: &str = "current transaction is aborted, commands ignored until end of transaction block";

impl Session {
    /// We answer in the node's place: the transaction is lost, or an error of ours is being skipped.
    pub fn answers_alone(&self) -> bool {
        self.transaction.aborted().is_some() || self.flow.skipping
    }

    /// The transaction cannot go on where it is: it is lost, and the client is told with this message.
    pub fn abort_transaction(&mut self, code: SqlState, message: &str, out: &mut BytesMut) {
        self.abort_transaction_explained(code, message, ["", ""], out);
    }

    /// The same, with a detail and a hint.
    pub fn abort_transaction_explained(
        &mut self,
        code: SqlState,
        message: &str,
        detail_and_hint: [&str; 2],
        out: &mut BytesMut,
    ) {
        put_error_explained(out, Severity::Error, code, message, detail_and_hint);
        self.tell_what_is_undone(out);
        while self.owed.pop().is_some() {}
        self.rewind_statements();
        self.portals.clear();
        self.transaction.fails(Aborted::Told);
        self.flow.batch_open = false;
    }

    /// What the transaction has set is what it was before, and the client is told so: as by a server, behind the error that
    /// undoes it and before the ReadyForQuery.
    pub(super) fn tell_what_is_undone(&mut self, out: &mut BytesMut) {
        let undone = self.reported.take_back();
        for (name, value) in &undone {
            backend::put_parameter_status(out, name, value);
        }
        if !undone.is_empty() {
            self.read_anew();
        }
    }

    /// The unit that met the abort has ended so: the client gets its ReadyForQuery, now or at its Sync.
    pub fn end_aborted_unit(&mut self, end: Option<super::End>, out: &mut BytesMut) {
        match end.is_none_or(super::End::goes_on) {
            true => self.flow.skipping = true,
            false => backend::put_ready(out, self.transaction.status()),
        }
    }

    /// The transaction is lost, and the client does not know yet: its next statement is told.
    pub(super) fn has_untold_transaction(&self) -> bool {
        self.transaction.aborted() == Some(Aborted::NotTold)
    }

    /// Answers one message in the node's place, and the error that the client is told, if it is one.
    pub fn answer_alone(
        &mut self,
        tag: u8,
        body: &[u8],
        classify: &mut dyn FnMut(&[u8]) -> std::sync::Arc<Statement>,
        out: &mut BytesMut,
    ) -> Result<Option<SqlState>, Truncated> {
        if self.flow.skipping {
            if let Some(told) = self.tell_untold(tag, out) {
                return Ok(Some(told));
            }
            if tag == frontend::SYNC {
                self.flow.skipping = false;
                backend::put_ready(out, self.transaction.status());
            }
            return Ok(None);
        }
        let mut told = None;
        match tag {
            frontend::QUERY => {
                let statement = classify(frontend::query_text(body)?);
                let is_told = self.transaction.aborted() == Some(Aborted::Told);
                told = match self.ending(&statement) {
                    Some(ending) => self.end_aborted(ending, out),
                    None if is_told && statement.parts.is_empty() => {
                        backend::put_bare(out, backend::EMPTY_QUERY_RESPONSE);
                        None
                    }
                    None => Some(self.refuse(out)),
                };
                backend::put_ready(out, self.transaction.status());
            }
            frontend::PARSE => {
                let parse = Parse::read(body)?;
                let statement = classify(parse.text);
                let ending = self.ending(&statement);
                self.prepare_alone(parse, ending.map(|_| statement));
                if let Some(ending) = ending {
                    self.transaction.client_knows(ending);
                    backend::put_bare(out, backend::PARSE_COMPLETE);
                } else {
                    told = Some(self.refuse_batch(out));
                }
            }
            frontend::BIND => match self.bound_ending(Bind::read(body)?.statement.kept()) {
                Some(ending) => {
                    self.transaction.client_knows(ending);
                    backend::put_bare(out, backend::BIND_COMPLETE);
                }
                None => told = Some(self.refuse_batch(out)),
            },
            frontend::DESCRIBE if self.is_ending() => {
                if frontend::target_fields(body)?.0 == Target::Statement {
                    backend::put_no_parameters(out);
                }
                backend::put_bare(out, backend::NO_DATA);
            }
            frontend::EXECUTE if self.transaction.aborted() == Some(Aborted::Committing) => {
                told = self.end_aborted(Aborted::Committing, out);
                self.flow.skipping = true;
            }
            frontend::EXECUTE if self.is_ending() => told = self.end_aborted(Aborted::Ending, out),
            frontend::CLOSE => {
                if let (Target::Statement, name) = frontend::target_fields(body)? {
                    self.close_alone(name.kept());
                }
                backend::put_bare(out, backend::CLOSE_COMPLETE);
            }
            frontend::SYNC => backend::put_ready(out, self.transaction.status()),
            frontend::FUNCTION_CALL => {
                told = Some(self.refuse(out));
                backend::put_ready(out, self.transaction.status());
            }
            frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => {}
            _ => told = Some(self.refuse_batch(out)),
        }
        self.shown(); // no node can take it back
        Ok(told)
    }

    fn is_ending(&self) -> bool {
        matches!(self.transaction.aborted(), Some(Aborted::Ending | Aborted::Committing))
    }

    fn bound_ending(&self, name: &[u8]) -> Option<Aborted> {
        if name.is_empty() {
            return self.transaction.aborted().filter(|_| self.is_ending());
        }
        self.ending(&self.names.get(name)?.statement)
    }

    /// This Query ends the lost transaction and goes on behind that, which only a node can do: there the transaction fails
    /// anew first. Answers whether it is one; it is not answered alone then.
    pub fn ends_and_goes_on(
        &mut self,
        tag: u8,
        body: &[u8],
        classify: &mut dyn FnMut(&[u8]) -> std::sync::Arc<Statement>,
    ) -> bool {
        let is_told = self.transaction.aborted() == Some(Aborted::Told) && !self.flow.skipping;
        if tag != frontend::QUERY || !is_told || self.transaction.modes().is_none() {
            return false;
        }
        let Ok(text) = frontend::query_text(body) else { return false };
        let statement = classify(text);
        let ends = statement.parts.first().is_some_and(|part| part.transaction.ends());
        if !ends || self.ending(&statement).is_some() {
            return false;
        }
        self.forget_touched();
        self.forget_begin();
        self.rewind_all();
        self.transaction.fails_anew();
        true
    }

    /// How this statement would end the transaction, if it does. A COMMIT must not look as if it had succeeded to a
    /// client that knows of nothing.
    fn ending(&self, statement: &Statement) -> Option<Aborted> {
        let is_told = !matches!(self.transaction.aborted(), Some(Aborted::NotTold | Aborted::Committing));
        match &statement.only()?.transaction {
            TransactionControl::Rollback { chain: false } => Some(Aborted::Ending),
            TransactionControl::Commit { chain: false } | TransactionControl::Prepare if is_told => {
                Some(Aborted::Ending)
            }
            TransactionControl::Commit { chain: false } | TransactionControl::Prepare => Some(Aborted::Committing),
            _ => None,
        }
    }

    fn end_aborted(&mut self, ending: Aborted, out: &mut BytesMut) -> Option<SqlState> {
        let told = (ending == Aborted::Committing).then_some(SqlState::SERIALIZATION_FAILURE);
        match told {
            Some(code) => put_error(out, Severity::Error, code, LOST, None),
            None => backend::put_command_complete(out, "ROLLBACK"),
        }
        self.tell_what_is_undone(out);
        self.ends_without_node();
        told
    }

    /// The transaction is over, and its server connection gone: nothing of it is left for the next one.
    pub(super) fn ends_without_node(&mut self) {
        self.transaction.ends_without_node();
        self.forget_touched();
    }

    fn refuse_batch(&mut self, out: &mut BytesMut) -> SqlState {
        self.flow.skipping = true;
        self.refuse(out)
    }

    fn refuse(&mut self, out: &mut BytesMut) -> SqlState {
        let (code, message) = match self.transaction.aborted() {
            Some(Aborted::NotTold | Aborted::Committing) => (SqlState::SERIALIZATION_FAILURE, LOST),
            _ => (SqlState::IN_FAILED_SQL_TRANSACTION, FAILED),
        };
        self.transaction.client_knows(Aborted::Told);
        put_error(out, Severity::Error, code, message, None);
        self.tell_what_is_undone(out);
        code
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use crate::session::Loss;
    use crate::session::failure::Circumstances;
    use crate::session::story::Story;
    use crate::sql::{ParseSettings, classify_bytes};
    use crate::wire::{Header, SqlState, frame};

    /// In a transaction that has set its time zone.
    fn begun() -> Story {
        let mut story = Story::begin();
        story.session.told(vec![("TimeZone".into(), "UTC".into()), ("DateStyle".into(), "ISO, MDY".into())].into());
        for text in ["begin", "set local timezone = 'Asia/Tokyo'"] {
            story.send(b'Q', format!("{text}\0").as_bytes());
            story.hear(b'C', b"SET\0");
            if text != "begin" {
                story.hear(b'S', b"TimeZone\0Asia/Tokyo\0");
            }
            story.hear(b'Z', b"T");
        }
        story.session.transaction.acts(true); // it cannot be begun anew
        story
    }

    /// The tags of these messages, and what the client is told of its time zone.
    fn told(mut bytes: &[u8]) -> String {
        let mut told = String::new();
        while let Some(header) = Header::peek(bytes).unwrap() {
            told.push(header.tag.into());
            if header.tag == b'S' {
                assert_eq!(&bytes[frame::HEADER..header.size], b"TimeZone\0UTC\0");
            }
            bytes = &bytes[header.size..];
        }
        told
    }

    #[test]
    fn a_transaction_that_we_end_tells_what_its_settings_were_with_the_error() {
        let (mut story, mut out) = (begun(), BytesMut::new());
        story.session.abort_transaction(SqlState::FEATURE_NOT_SUPPORTED, "?", &mut out);
        assert_eq!(told(&out), "ES");
        out.clear();
        let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
        story.session.answer_alone(b'Q', b"-- are you there?\0", &mut classify, &mut out).unwrap();
        assert_eq!(told(&out), "IZ", "as a server does");
        out.clear();
        story.session.answer_alone(b'Q', b"rollback\0", &mut classify, &mut out).unwrap();
        assert_eq!(told(&out), "CZ", "once");
    }

    #[test]
    fn what_is_closed_without_a_node_stays_closed() {
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        story.session.shown();
        let mut out = BytesMut::new();
        story.session.answer_alone(b'C', b"Sa\0", &mut |_| unreachable!("nothing is prepared"), &mut out).unwrap();
        assert_eq!(told(&out), "3");
        story.parse("b", "select 2");
        story.session.rewind();
        assert!(story.session.names.get(b"a").is_none());
    }

    #[test]
    fn a_transaction_that_is_lost_tells_it_with_the_error_or_with_its_end() {
        let how = Circumstances { farewell: None, sent: true, forwarded: true, is_read: false, at_hand: false };
        let mut story = begun();
        story.send(b'Q', b"select 1\0");
        let Loss::Report(_, out) = story.session.lost(how) else { panic!("it is lost") };
        assert_eq!(told(&out), "ESZ");
        let mut story = begun();
        let Loss::Report(_, mut out) = story.session.lost(how) else { panic!("it is lost") };
        assert!(out.is_empty(), "nobody has asked");
        let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
        story.session.answer_alone(b'Q', b"rollback\0", &mut classify, &mut out).unwrap();
        assert_eq!(told(&out), "CSZ");
    }

    #[test]
    fn what_a_transaction_has_left_is_not_taken_back_with_the_next() {
        for end in ["commit", "commit and chain"] {
            let mut story = begun();
            story.send(b'Q', format!("{end}\0").as_bytes());
            story.hear(b'C', b"COMMIT\0");
            story.hear(b'Z', if end == "commit" { b"I" } else { b"T" });
            let mut out = BytesMut::new();
            story.session.abort_transaction(SqlState::FEATURE_NOT_SUPPORTED, "?", &mut out);
            assert_eq!(told(&out), "E", "{end}");
        }
    }
}
