//! From the client's messages to the node's: names changed to ours, what the server connection lacks put before.

use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use super::known::{Known, UnnamedId};
use super::owed::{Asker, Owed};
use super::prepared::Prepared;
use crate::sql::{Kind, SessionChange, Statement};
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::reader::Truncated;

/// One message as it came: its tag, its body, and all of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What it is.
    pub tag: u8,
    /// What it says.
    pub body: &'a [u8],
    /// The header and the body.
    pub whole: &'a [u8],
    /// Bytes at its end that have not come yet, and will go on as they come.
    pub missing: usize,
}

impl Session {
    /// Appends to `out` what the node must get for this message, which has been surveyed, and notes what it will owe.
    pub fn translate(
        &mut self,
        message: Message<'_>,
        known: &mut Known,
        prepared_limit: usize,
        out: &mut BytesMut,
    ) -> Result<(), Truncated> {
        if self.flow.skipping && message.tag != frontend::SYNC {
            self.drop_gathered(message.tag);
            return Ok(());
        }
        self.catalog.may_change |= self.gathered.may_change_catalog || message.tag == frontend::FUNCTION_CALL;
        match message.tag {
            frontend::QUERY => self.translate_query(message, known, prepared_limit, out),
            frontend::PARSE => self.translate_parse(Parse::read(message.body)?, known, prepared_limit, out),
            frontend::BIND => self.translate_bind(message, Bind::read(message.body)?, known, prepared_limit, out),
            frontend::DESCRIBE => self.translate_describe(message, known, prepared_limit, out)?,
            frontend::CLOSE => self.translate_close(message, out)?,
            frontend::EXECUTE => {
                let portal = frontend::execute_portal(message.body)?;
                let statement =
                    self.portals.iter().rev().find(|(name, _)| **name == *portal).map(|(_, s)| Arc::clone(s));
                if statement.as_ref().is_none_or(|statement| may_call_nextval(statement)) {
                    known.last_writer = Some(self.id);
                }
                self.send(message.whole, Owed::Execute(statement), out);
            }
            frontend::SYNC => self.translate_sync(message, out),
            frontend::FLUSH => out.extend_from_slice(message.whole),
            frontend::FUNCTION_CALL => {
                self.transaction.may_have_written = true;
                known.last_writer = Some(self.id);
                self.owed.push(Owed::FunctionCall);
                out.extend_from_slice(message.whole);
            }
            frontend::COPY_DATA => out.extend_from_slice(message.whole),
            frontend::COPY_DONE | frontend::COPY_FAIL => {
                if !std::mem::take(&mut self.flow.copy_in) {
                    self.owed.mark_copy_end();
                }
                out.extend_from_slice(message.whole);
            }
            _ => return Err(Truncated),
        }
        Ok(())
    }

    /// The bytes go as they are, in an extended batch.
    fn send(&mut self, bytes: &[u8], owed: Owed, out: &mut BytesMut) {
        self.flow.batch_open = true;
        self.owed.push(owed);
        out.extend_from_slice(bytes);
    }

    fn translate_query(&mut self, message: Message<'_>, known: &mut Known, limit: usize, out: &mut BytesMut) {
        let Some(statement) = self.gathered.queries.pop_front() else { return };
        // PostgreSQL drops the unnamed statement with every Query.
        self.unnamed = None;
        known.unnamed = None;
        if may_call_nextval(&statement) {
            known.last_writer = Some(self.id);
        }
        match self.deallocates_ours(&statement) {
            Some(prepared) => {
                self.ensure(&prepared, known, limit, out);
                frontend::put_query(out, &deallocate_text(&prepared));
            }
            None => out.extend_from_slice(message.whole),
        }
        self.flow.batch_open = false;
        self.owed.push(Owed::Query { statement, completed: 0 });
    }

    /// DEALLOCATE by SQL of a statement that was prepared through the protocol, where it has a name of ours.
    fn deallocates_ours(&self, statement: &Statement) -> Option<Arc<Prepared>> {
        let part = statement.only().filter(|part| part.kind == Kind::Deallocate)?;
        match &*part.session {
            [SessionChange::Deallocate(name)] => self.names.get(name.as_bytes()).cloned(),
            _ => None,
        }
    }

    fn translate_parse(&mut self, parse: Parse<'_>, known: &mut Known, limit: usize, out: &mut BytesMut) {
        let Some(prepared) = self.gathered.parsed.pop_front() else { return };
        let mut owed = Owed::Parse {
            name: parse.name.into(),
            prepared: Arc::clone(&prepared),
            unnamed: None,
            by: Asker::Client,
            is_new: true,
        };
        if parse.name.is_empty() {
            self.unnamed_count += 1;
            let unnamed = UnnamedId(self.id, self.unnamed_count);
            owed = Owed::Parse {
                name: [].into(),
                prepared: Arc::clone(&prepared),
                unnamed: Some(unnamed),
                by: Asker::Client,
                is_new: true,
            };
            let text = self.deallocates_ours(&prepared.statement).map(|ours| {
                self.ensure(&ours, known, limit, out);
                deallocate_text(&ours)
            });
            self.unnamed = Some((prepared, unnamed));
            known.unnamed = Some(unnamed);
            let text = text.as_ref().map_or(parse.text, |text| text.as_bytes());
            frontend::put_parse(out, Parse { text, ..parse });
        } else {
            // The name is taken: PostgreSQL refuses, and so will it under the name of the statement that has it.
            let id = match self.names.get(parse.name).cloned() {
                Some(taken) => {
                    self.ensure(&taken, known, limit, out);
                    let id = taken.id;
                    owed = Owed::Parse {
                        name: parse.name.into(),
                        prepared: taken,
                        unnamed: None,
                        by: Asker::Client,
                        is_new: false,
                    };
                    id
                }
                None => {
                    if known.uses(prepared.id) {
                        self.close_ours(&prepared, known, out);
                    }
                    self.make_room(&prepared, known, limit, out);
                    self.names.expect(parse.name, Arc::clone(&prepared));
                    prepared.id
                }
            };
            frontend::put_parse(out, Parse { name: &id.server_name(), ..parse });
        }
        self.flow.batch_open = true;
        self.owed.push(owed);
    }

    fn translate_bind(
        &mut self,
        message: Message<'_>,
        bind: Bind<'_>,
        known: &mut Known,
        limit: usize,
        out: &mut BytesMut,
    ) {
        let statement = self.prepared_for_use(bind.statement, known, limit, out);
        self.portals.retain(|(name, _)| **name != *bind.portal);
        match statement {
            Some(prepared) => {
                self.portals.push((bind.portal.into(), Arc::clone(&prepared.statement)));
                if bind.statement.is_empty() {
                    out.extend_from_slice(message.whole);
                } else {
                    let bind = Bind { statement: &prepared.id.server_name(), ..bind };
                    frontend::put_bind(out, bind, message.missing);
                }
            }
            None => out.extend_from_slice(message.whole),
        }
        self.flow.batch_open = true;
        self.owed.push(Owed::Bind);
    }

    fn translate_describe(
        &mut self,
        message: Message<'_>,
        known: &mut Known,
        limit: usize,
        out: &mut BytesMut,
    ) -> Result<(), Truncated> {
        match frontend::target_fields(message.body)? {
            (Target::Statement, name) => match self.prepared_for_use(name, known, limit, out) {
                Some(prepared) if !name.is_empty() => {
                    let ours = prepared.id.server_name();
                    frontend::put_target(out, frontend::DESCRIBE, Target::Statement, &ours);
                }
                _ => out.extend_from_slice(message.whole),
            },
            (Target::Portal, _) => out.extend_from_slice(message.whole),
        }
        self.flow.batch_open = true;
        self.owed.push(Owed::Describe);
        Ok(())
    }

    /// Our statements stay on the server connection for other sessions; the client's own name does not exist there, and
    /// closing what does not exist is answered with CloseComplete.
    fn translate_close(&mut self, message: Message<'_>, out: &mut BytesMut) -> Result<(), Truncated> {
        let owed = match frontend::target_fields(message.body)? {
            (Target::Statement, name) => {
                if name.is_empty() {
                    self.unnamed = None;
                }
                self.names.expect_closed(name);
                Owed::CloseStatement(name.into())
            }
            (Target::Portal, name) => {
                self.portals.retain(|(portal, _)| **portal != *name);
                Owed::ClosePortal
            }
        };
        self.send(message.whole, owed, out);
        Ok(())
    }

    fn translate_sync(&mut self, message: Message<'_>, out: &mut BytesMut) {
        out.extend_from_slice(message.whole);
        if self.flow.copy_in {
            return; // eaten by the copy
        }
        self.flow.skipping = false;
        self.flow.batch_open = false;
        self.owed.push(Owed::Sync(Asker::Client));
    }

    /// The current values of sequences on this server connection are another session's: it must forget them first.
    pub fn meets_foreign_sequences(&self, known: &Known) -> bool {
        self.gathered.asks_sequence && known.last_writer.is_some_and(|writer| writer != self.id)
    }

    /// Makes the server connection forget them. Only between batches.
    pub fn discard_sequences(&mut self, known: &mut Known, out: &mut BytesMut) {
        frontend::put_query(out, DISCARD_SEQUENCES);
        known.last_writer = None;
        known.unnamed = None;
        self.owed.push(Owed::DiscardSequences);
    }

    /// A Sync of our own: ends the batch on this node, so that it may go on at another.
    pub fn end_batch(&mut self, out: &mut BytesMut) {
        frontend::put_bare(out, frontend::SYNC);
        self.flow.batch_open = false;
        self.owed.push(Owed::Sync(Asker::Us));
    }

    /// The statement of this name, made known to the server connection; None if the client has no such statement, and
    /// then the node will say so.
    fn prepared_for_use(
        &mut self,
        name: &[u8],
        known: &mut Known,
        limit: usize,
        out: &mut BytesMut,
    ) -> Option<Arc<Prepared>> {
        if !name.is_empty() {
            let mut prepared = Arc::clone(self.names.get(name)?);
            if prepared.reading != self.reading {
                prepared = Arc::new(prepared.reread(self.reading));
                self.names.rekey(name, &prepared);
            }
            self.ensure(&prepared, known, limit, out);
            return Some(prepared);
        }
        match &self.unnamed {
            Some((prepared, id)) if known.unnamed == Some(*id) => Some(Arc::clone(prepared)),
            Some((prepared, id)) => {
                let (prepared, id) = (Arc::clone(prepared), *id);
                known.unnamed = Some(id);
                let parse = Parse { name: b"", text: &prepared.text, types: &prepared.types };
                frontend::put_parse(out, parse);
                self.owed.push(Owed::Parse {
                    name: [].into(),
                    prepared: Arc::clone(&prepared),
                    unnamed: Some(id),
                    by: Asker::Us,
                    is_new: false,
                });
                Some(prepared)
            }
            None => {
                // Another session's unnamed statement may be there: it must not be met.
                known.unnamed = None;
                frontend::put_target(out, frontend::CLOSE, Target::Statement, b"");
                self.owed.push(Owed::CloseUnnamed);
                None
            }
        }
    }

    /// The server connection will have this statement under our name.
    fn ensure(&mut self, prepared: &Arc<Prepared>, known: &mut Known, limit: usize, out: &mut BytesMut) {
        if known.uses(prepared.id) {
            return;
        }
        self.make_room(prepared, known, limit, out);
        let name = prepared.id.server_name();
        frontend::put_parse(out, Parse { name: &name, text: &prepared.text, types: &prepared.types });
        self.owed.push(Owed::Parse {
            name: [].into(),
            prepared: Arc::clone(prepared),
            unnamed: None,
            by: Asker::Us,
            is_new: true,
        });
    }

    fn make_room(&mut self, prepared: &Prepared, known: &mut Known, limit: usize, out: &mut BytesMut) {
        if let Some(oldest) = known.add(prepared.id, limit) {
            frontend::put_target(out, frontend::CLOSE, Target::Statement, &oldest.server_name());
            self.owed.push(Owed::CloseOurs(oldest));
        }
    }

    fn close_ours(&mut self, prepared: &Prepared, known: &mut Known, out: &mut BytesMut) {
        known.remove(prepared.id);
        frontend::put_target(out, frontend::CLOSE, Target::Statement, &prepared.id.server_name());
        self.owed.push(Owed::CloseOurs(prepared.id));
    }

    /// A message that is dropped takes along what the survey has put aside for it.
    fn drop_gathered(&mut self, tag: u8) {
        match tag {
            frontend::QUERY => drop(self.gathered.queries.pop_front()),
            frontend::PARSE => drop(self.gathered.parsed.pop_front()),
            _ => {}
        }
    }
}

/// It may call nextval, by itself or through a default, a trigger or a function: also when it fails in the end.
fn may_call_nextval(statement: &Statement) -> bool {
    statement
        .parts
        .iter()
        .any(|part| part.needs_primary.is_some() || matches!(part.kind, Kind::Execute | Kind::Explain))
}

/// Makes a server connection forget what currval and lastval would answer.
pub const DISCARD_SEQUENCES: &str = "DISCARD SEQUENCES";

fn deallocate_text(prepared: &Prepared) -> String {
    let name = prepared.id.server_name();
    format!("DEALLOCATE {}", std::str::from_utf8(&name).unwrap_or_default())
}
