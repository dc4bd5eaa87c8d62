//! A transaction that was lost with its node: only its end is accepted, and we answer in the node's place.

use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use crate::sql::{Statement, TransactionControl};
use crate::wire::SqlState;
use crate::wire::backend;
use crate::wire::error_response::{Severity, put_error, put_error_explained};
use crate::wire::frontend::{self, Bind, Name, Parse, Target};
use crate::wire::reader::Truncated;

/// How much the client knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aborted {
    /// It has not been told yet: the next statement is.
    NotTold,
    /// It has been told.
    Told,
}

/// How a statement ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// As the client says, or as it knows.
    RolledBack,
    /// A COMMIT, whose client knows of nothing: it must not look as if it had succeeded.
    Untold,
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
        classify: &mut dyn FnMut(&[u8]) -> Arc<Statement>,
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
                told = match self.ending(&statement) {
                    Some(ending) => self.end_aborted(ending, out),
                    None if self.knows_of_abort() && statement.parts.is_empty() => {
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
                let ends = self.ending(&statement).is_some();
                self.prepare_alone(parse, ends.then_some(statement));
                match ends {
                    true => backend::put_bare(out, backend::PARSE_COMPLETE),
                    false => told = Some(self.refuse_batch(out)),
                }
            }
            frontend::BIND => {
                let bind = Bind::read(body)?;
                match self.prepared_end(bind.statement) {
                    Some(statement) => {
                        self.binds(bind.portal, statement, None);
                        backend::put_bare(out, backend::BIND_COMPLETE);
                    }
                    None => told = Some(self.refuse_batch(out)),
                }
            }
            frontend::DESCRIBE => match frontend::target_fields(body)? {
                (Target::Statement, name) if self.prepared_end(name).is_some() => {
                    backend::put_no_parameters(out);
                    backend::put_bare(out, backend::NO_DATA);
                }
                (Target::Portal, name) if self.bound_ending(name).is_some() => {
                    backend::put_bare(out, backend::NO_DATA);
                }
                _ => told = Some(self.refuse_batch(out)),
            },
            frontend::EXECUTE => match self.bound_ending(frontend::execute_portal(body)?) {
                Some(ending) => {
                    told = self.end_aborted(ending, out);
                    self.flow.skipping = told.is_some();
                }
                None => told = Some(self.refuse_batch(out)),
            },
            frontend::CLOSE => {
                match frontend::target_fields(body)? {
                    (Target::Statement, name) => self.close_alone(name.kept()),
                    (Target::Portal, name) => self.portals.remove(name),
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

    /// The transaction is lost, and the client has been told.
    fn knows_of_abort(&self) -> bool {
        self.transaction.aborted() == Some(Aborted::Told)
    }

    /// The statement of this name, if it ends the lost transaction and does no more.
    fn prepared_end(&self, name: Name<'_>) -> Option<Arc<Statement>> {
        let prepared = match name.is_empty() {
            true => &self.unnamed.as_ref()?.0,
            false => self.names.get(name.kept())?,
        };
        self.ending(&prepared.statement).map(|_| Arc::clone(&prepared.statement))
    }

    /// How what is bound to this portal would end the lost transaction, if it does.
    fn bound_ending(&self, portal: Name<'_>) -> Option<Ending> {
        self.ending(&self.portals.get(portal)?.statement)
    }

    /// This ends the lost transaction and goes on behind that, as AND CHAIN does, which only a node can do: there the transaction
    /// fails anew first. Answers whether it is one; it is not answered alone then.
    pub fn ends_and_goes_on(
        &mut self,
        tag: u8,
        body: &[u8],
        classify: &mut dyn FnMut(&[u8]) -> Arc<Statement>,
    ) -> bool {
        if !self.knows_of_abort() || self.flow.skipping || self.transaction.modes().is_none() {
            return false;
        }
        let statement = match tag {
            frontend::QUERY => frontend::query_text(body).ok().map(classify),
            frontend::PARSE => Parse::read(body).ok().map(|parse| classify(parse.text)),
            frontend::BIND => Bind::read(body).ok().and_then(|bind| {
                let prepared = self.names.get(bind.statement.kept())?;
                Some(Arc::clone(&prepared.statement))
            }),
            _ => None,
        };
        let Some(statement) = statement else { return false };
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

    /// How this statement would end the transaction, if it does, and does no more.
    fn ending(&self, statement: &Statement) -> Option<Ending> {
        match &statement.only()?.transaction {
            TransactionControl::Rollback { chain: false } => Some(Ending::RolledBack),
            TransactionControl::Commit { chain: false } | TransactionControl::Prepare => {
                Some(match self.knows_of_abort() {
                    true => Ending::RolledBack,
                    false => Ending::Untold,
                })
            }
            _ => None,
        }
    }

    fn end_aborted(&mut self, ending: Ending, out: &mut BytesMut) -> Option<SqlState> {
        let told = (ending == Ending::Untold).then_some(SqlState::SERIALIZATION_FAILURE);
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
        self.portals.clear();
        self.forget_touched();
    }

    fn refuse_batch(&mut self, out: &mut BytesMut) -> SqlState {
        self.flow.skipping = true;
        self.refuse(out)
    }

    fn refuse(&mut self, out: &mut BytesMut) -> SqlState {
        let (code, message) = match self.transaction.aborted() {
            Some(Aborted::NotTold) => (SqlState::SERIALIZATION_FAILURE, LOST),
            _ => (SqlState::IN_FAILED_SQL_TRANSACTION, FAILED),
        };
        self.transaction.client_knows();
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

    fn bound(portal: &str, statement: &str) -> Vec<u8> {
        format!("{portal}\0{statement}\0\0\0\0\0\0\0").into_bytes()
    }

    fn parsed(name: &str, text: &str) -> Vec<u8> {
        format!("{name}\0{text}\0\0\0").into_bytes()
    }

    fn executed(portal: &str) -> Vec<u8> {
        format!("{portal}\0\0\0\0\0").into_bytes()
    }

    #[test]
    fn a_commit_of_what_is_lost_is_told_whatever_is_prepared_or_bound_beside_it() {
        let rollback = [(b'P', parsed("", "rollback")), (b'B', bound("", ""))];
        let named = [(b'P', parsed("c", "commit")), (b'B', bound("c", "c"))];
        let unnamed = [(b'P', parsed("", "commit")), (b'B', bound("", ""))];
        for (before, last, told_by) in [
            (&rollback[..1], (b'Q', b"commit\0".to_vec()), "1ESZ"),
            (&rollback, (b'Q', b"commit\0".to_vec()), "12ESZ"),
            (&rollback[..1], (b'Q', b"select 1\0".to_vec()), "1ESZ"),
            (&[&named[..], &rollback].concat(), (b'E', executed("c")), "1212ES"),
            (&[&named[..], &rollback].concat(), (b'E', executed("")), "1212CS"),
            (&[&rollback[..], &unnamed].concat(), (b'E', executed("")), "1212ES"),
            (&[&rollback[..], &[(b'D', b"P\0".to_vec())]].concat(), (b'E', executed("")), "12nCS"),
        ] {
            let mut story = begun();
            story.session.transaction.is_lost(super::Aborted::NotTold);
            let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
            let mut out = BytesMut::new();
            for (tag, body) in before.iter().chain([&last]) {
                story.session.answer_alone(*tag, body, &mut classify, &mut out).unwrap();
            }
            assert_eq!(told(&out), told_by, "{before:?} {last:?}");
        }
    }

    #[test]
    fn what_chains_another_transaction_to_a_lost_one_is_a_nodes_to_do_however_it_comes() {
        let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
        for (tag, body, goes_on) in [
            (b'Q', b"rollback and chain\0".to_vec(), true),
            (b'P', parsed("", "rollback and chain"), true),
            (b'B', bound("", "chains"), true),
            (b'P', parsed("", "rollback"), false),
            (b'P', parsed("", "select 1"), false),
            (b'B', bound("", "ends"), false),
        ] {
            let mut story = Story::begin();
            for (name, text) in [("chains", "rollback and chain"), ("ends", "rollback")] {
                story.parse(name, text);
                story.sync();
                story.hear_all("1nZ");
            }
            story.session.shown();
            story.open_transaction();
            story.session.transaction.is_lost(super::Aborted::NotTold);
            assert!(!story.session.ends_and_goes_on(tag, &body, &mut classify), "it is told first");
            story.session.transaction.client_knows();
            let text = String::from_utf8_lossy(&body);
            assert_eq!(story.session.ends_and_goes_on(tag, &body, &mut classify), goes_on, "{text}");
            assert_eq!(story.session.answers_alone(), !goes_on, "{text}");
        }
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
