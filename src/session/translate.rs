//! From the client's messages to the node's: names changed to ours, what the server connection lacks put before.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use super::doubt::closes_names;
use super::known::{Known, UnnamedId};
use super::owed::{Asker, Owed};
use super::portals::Portal;
use super::prepared::{Prepared, StatementId};
use super::sequences::DISCARD_AHEAD;
use super::woven::Woven;
use crate::catalog::Change;
use crate::sql::{Doubt, Draws, Kind, Leftovers, SessionChange, Statement};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, Bind, Name, Parse, Target};
use crate::wire::reader::Truncated;
use crate::wire::{Header, SqlState, frame};

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

/// The messages of a unit that has been looked at; the end of the last may be missing.
#[inline]
pub fn messages(unit: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = unit;
    std::iter::from_fn(move || {
        let header = Header::peek(rest).ok()??;
        let (whole, behind) = rest.split_at_checked(header.size.min(rest.len()))?;
        rest = behind;
        let body = whole.get(frame::HEADER..).unwrap_or_default();
        Some(Message { tag: header.tag, body, whole, missing: header.size - whole.len() })
    })
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
            self.undescribed = None;
            self.drop_gathered(message.tag);
            return Ok(());
        }
        if let Some((name, prepared)) = self.undescribed.take()
            && !describes(&message, &name)
        {
            self.describe_ours(&prepared, out);
        }
        if !self.catalog.on_replica {
            self.catalog.may_change.join(self.gathered.catalog_change);
        }
        if let Some(left) = self.gathered.leftovers.take() {
            if left.doubt != Doubt::None {
                known.unseen = Some(self.id);
            }
            self.doubts.by_code |= left.may_read_otherwise();
            if !left.is_clean() {
                self.may_be_left(&left);
                self.expect_change_by_code(message.tag == frontend::QUERY);
            }
        }
        if self.gathered.runs_unseen || self.gathered.hides_code {
            known.unseen = Some(self.id);
            self.draws(Draws::Maybe, known);
            if self.gathered.hides_code {
                self.transaction.writes();
            }
        }
        match message.tag {
            frontend::QUERY => self.translate_query(message, known, out),
            frontend::PARSE => {
                self.translate_parse(message.whole, Parse::read(message.body)?, known, prepared_limit, out)
            }
            frontend::BIND => self.translate_bind(message, Bind::read(message.body)?, known, prepared_limit, out),
            frontend::DESCRIBE => self.translate_describe(message, known, prepared_limit, out)?,
            frontend::CLOSE => self.translate_close(message, known, out)?,
            frontend::EXECUTE => {
                let portal = frontend::execute_portal(message.body)?;
                let bound = self.portals.get(portal);
                let (statement, draws, closed) = bound.map_or((None, None, None), |bound| {
                    (Some(Arc::clone(&bound.statement)), bound.draws, bound.closes.clone())
                });
                if !statement.as_ref().is_some_and(|statement| statement.is_plain_read()) {
                    if let Some(name) = statement.as_deref().and_then(|statement| self.taken_name(statement, known)) {
                        let message = format!("prepared statement \"{name}\" already exists");
                        self.put_refusal(SqlState::DUPLICATE_PREPARED_STATEMENT, &message, out);
                        return Ok(());
                    }
                    let by_text = || statement.as_deref().map_or(Draws::Maybe, Draws::of_text);
                    self.draws(self.gathered.draws.or(draws).unwrap_or_else(by_text), known);
                    if statement.as_ref().is_none_or(|statement| statement.ends_transaction()) {
                        self.owed.expect_end();
                    }
                    statement.iter().for_each(|statement| self.owed.may_prepare(statement, false));
                }
                self.expect_names_closed(statement.as_deref());
                if let Some(statement) = &statement {
                    self.expect_change(statement, false);
                }
                let goes_on = statement.as_deref().map(|statement| self.goes_on_behind(statement)).unwrap_or_default();
                self.send(message.whole, Owed::Execute(statement), out);
                goes_on.iter().for_each(|set| self.put_executed(set, Owed::OurSet, out));
                closed.iter().for_each(|name| self.close_mirror_of(name, known, out));
            }
            frontend::SYNC => self.translate_sync(message, out),
            frontend::FLUSH => out.extend_from_slice(message.whole),
            frontend::FUNCTION_CALL => self.translate_function_call(message, known, out),
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

    /// What is run, or has been, is not known, or not what it does.
    #[cold]
    pub(super) fn may_do_anything(&mut self, known: &mut Known) {
        if !self.catalog.on_replica {
            self.catalog.may_change.join(Change::Opaque);
            self.transaction.writes();
        }
        known.unseen = Some(self.id);
        self.may_be_left(&Leftovers::doubtful(Doubt::Opaque));
    }

    /// The bytes go as they are, in an extended batch.
    fn send(&mut self, bytes: &[u8], owed: Owed, out: &mut BytesMut) {
        self.flow.batch_open = true;
        self.owed.push(owed);
        out.extend_from_slice(bytes);
    }

    fn translate_query(&mut self, message: Message<'_>, known: &mut Known, out: &mut BytesMut) {
        let Some(statement) = self.gathered.queries.pop_front() else { return };
        // PostgreSQL drops the unnamed statement with every Query.
        self.unnamed = None;
        known.unnamed = None;
        self.doubts.query_drops_unnamed(&self.owed, self.flow.batch_open);
        if statement.is_plain_read() && !self.gathered.discards_ahead {
            out.extend_from_slice(message.whole);
            self.flow.batch_open = false;
            self.owed.push(Owed::Query { statement, completed: 0, woven: None });
            return;
        }
        self.draws(self.gathered.draws.unwrap_or(Draws::Maybe), known);
        self.put_mirrors(&statement, known, out);
        let (mut stand_ins, mut woven) = (Vec::new(), None);
        // Of a name that it cuts the node warns, so it must read that itself.
        let ours = self.deallocates_ours(&statement, known).filter(|name| !Name::may_be_cut(name));
        if let Some(name) = ours {
            self.close_mirror_of(&name, known, out);
            self.put_ours(EMPTY, out);
            frontend::put_query(out, DEALLOCATE_RESERVED);
        } else {
            stand_ins = self.stand_ins(&statement, known);
            stand_ins.iter().for_each(|name| self.put_stand_in(name, out));
            let with_sets = self.weave(&statement, message.body);
            if self.gathered.discards_ahead {
                let (text, mut with) = match with_sets {
                    Some((text, with)) => (Cow::Owned(text.into_bytes()), with),
                    None => (Cow::Borrowed(frontend::query_text(message.body).unwrap_or_default()), Woven::default()),
                };
                with.stands_ahead(DISCARD_AHEAD);
                frontend::put_query(out, [DISCARD_AHEAD.as_bytes(), &text].concat());
                woven = Some(Box::new(with));
            } else if let Some((text, with)) = with_sets {
                frontend::put_query(out, &text);
                woven = Some(Box::new(with));
            } else {
                out.extend_from_slice(message.whole);
            }
        }
        if statement.parts.iter().flat_map(|part| &part.session).any(closes_names) {
            self.doubts.query_closes_names(self.owed.moment());
        }
        self.expect_change(&statement, true);
        self.flow.batch_open = false;
        if statement.ends_transaction() {
            self.owed.expect_end();
        }
        if !statement.is_plain_read() {
            self.owed.may_prepare(&statement, true);
        }
        self.owed.push(Owed::Query { statement, completed: 0, woven });
        if !stand_ins.is_empty() {
            stand_ins.iter().for_each(|name| self.put_close_of_mirror(name, out));
            frontend::put_bare(out, frontend::FLUSH);
        }
    }

    /// Names of statements of ours that a Query closes among other things, or wants to give once more: what it finds on
    /// the server connection are empty statements of these names, which are there for this Query only. Where a mirror has
    /// the name, that is met.
    #[cold]
    fn stand_ins(&self, statement: &Statement, known: &Known) -> Vec<Arc<str>> {
        let changes = statement.parts.iter().flat_map(|part| &part.session);
        let named = changes.filter_map(|change| match change {
            SessionChange::Deallocate(name) | SessionChange::Prepare { name, .. } => Some(name),
            _ => None,
        });
        let is_mirrored = |name: &Arc<str>| {
            known.has_mirror(self.id, name) || self.executed(statement).any(|(executed, _)| executed == name)
        };
        named.filter(|name| self.names.get(name.as_bytes()).is_some() && !is_mirrored(name)).cloned().collect()
    }

    /// The name that this PREPARE wants to give though a statement of the protocol has it: on the server connection nothing is in its
    /// way. In a transaction that has failed PostgreSQL refuses it before that.
    #[cold]
    fn taken_name<'a>(&self, statement: &'a Statement, known: &Known) -> Option<&'a str> {
        let part = statement.only().filter(|_| self.transaction.status() != TransactionStatus::Failed)?;
        let [SessionChange::Prepare { name, .. }] = &*part.session else { return None };
        let is_taken = self.names.get(name.as_bytes()).is_some() && !known.has_mirror(self.id, name);
        is_taken.then_some(name)
    }

    /// DEALLOCATE by SQL, and nothing else, of a statement that was prepared through the protocol: on the server
    /// connection it has a name of ours, and stays there for other sessions, as with Close.
    /// Its mirror goes under its own name.
    fn deallocates_ours(&self, statement: &Statement, known: &Known) -> Option<Arc<str>> {
        let part = statement.only().filter(|part| part.kind == Kind::Deallocate)?;
        let [SessionChange::Deallocate(name)] = &*part.session else { return None };
        let is_ours = self.names.get(name.as_bytes()).is_some() && !known.has_mirror(self.id, name);
        is_ours.then(|| Arc::clone(name))
    }

    /// A mirror of this name is on its way, of which nobody can tell yet whether it will be there, or has come to be there since
    /// what deallocates it was bound: none is left.
    fn close_mirror_of(&mut self, name: &Arc<str>, known: &Known, out: &mut BytesMut) {
        let is_it = |owed: &Owed| matches!(owed, Owed::Mirror(mirror) if mirror.name == *name);
        if known.has_mirror(self.id, name) || self.owed.iter().any(is_it) {
            self.flow.batch_open = true;
            self.put_close_of_mirror(name, out);
        }
    }

    /// What this statement closes does not exist for what comes behind it in the batch.
    fn expect_names_closed(&mut self, statement: Option<&Statement>) {
        let now = self.owed.moment();
        match statement.and_then(closed_names) {
            Some(SessionChange::Deallocate(name)) => self.names.expect_closed(name.as_bytes(), now),
            Some(_) => {
                self.names.expect_none_left(now);
                self.doubts.none_will_be_left(now);
            }
            None => {}
        }
    }

    /// A statement of ours under a reserved name, to be used at once.
    #[cold]
    pub(super) fn put_ours(&mut self, Parse { name, text, types }: Parse<'_>, out: &mut BytesMut) {
        self.put_our_close(name.0, out);
        self.put_parse(Parse { name, text, types }, out);
        self.owed.push(Owed::OurParse);
    }

    /// A statement of ours that is executed at once, within a batch.
    #[cold]
    pub(super) fn put_executed(&mut self, sql: &str, owed: Owed, out: &mut BytesMut) {
        self.put_ours(Parse { text: sql.as_bytes(), ..EMPTY }, out);
        frontend::put_bind(out, Bind { portal: Name(RESERVED), statement: Name(RESERVED), rest: &[0; 6] }, 0);
        self.owed.push(Owed::OurBind);
        frontend::put_execute(out, RESERVED);
        self.owed.push(owed);
        frontend::put_target(out, frontend::CLOSE, Target::Portal, RESERVED);
        self.owed.push(Owed::OurClose);
    }

    /// An empty statement under a client's name, for one Query.
    #[cold]
    fn put_stand_in(&mut self, name: &Arc<str>, out: &mut BytesMut) {
        self.put_close_of_mirror(name, out);
        self.put_parse(Parse { name: Name(name.as_bytes()), ..EMPTY }, out);
        self.owed.push(Owed::OurParse);
    }

    fn translate_parse(&mut self, whole: &[u8], parse: Parse<'_>, known: &mut Known, limit: usize, out: &mut BytesMut) {
        let Some(prepared) = self.gathered.parsed.pop_front() else { return };
        let name = parse.name.kept();
        self.preparing.asked += 1;
        self.put_mirrors(&prepared.statement, known, out);
        self.flow.batch_open = true;
        if name.is_empty() {
            self.preparing.sent += 1;
            self.unnamed_count += 1;
            let id = UnnamedId(self.id, self.unnamed_count);
            self.unnamed = Some((Arc::clone(&prepared), id));
            out.extend_from_slice(whole);
            self.owes_unnamed(prepared, id, Asker::Client, known);
        } else if self.names.get(name).is_some() || self.sql_prepared_has(name) {
            // The name is taken: PostgreSQL says so, or what else is wrong. The statement that has it must not be touched.
            self.put_ours(EMPTY, out);
            self.put_parse(Parse { name: Name(RESERVED), ..parse }, out);
            self.owed.push(Owed::ParseTaken(parse.name.0.into()));
        } else {
            if known.uses(prepared.id) || self.owed.is_in_doubt(prepared.id) {
                self.close_ours(prepared.id, known, out);
            }
            self.names.expect(name, Arc::clone(&prepared), self.owed.moment());
            self.parse_named(name, &prepared, Asker::Client, known, limit, out);
            self.undescribed = Some((name.into(), prepared));
        }
    }

    /// The node fails where it is asked for this, as it would of what is refused in its place: what is undone with that is undone
    /// there.
    #[cold]
    pub(super) fn put_refusal(&mut self, code: SqlState, message: &str, out: &mut BytesMut) {
        self.undescribed = None;
        self.put_our_close(RESERVED, out);
        frontend::put_target(out, frontend::DESCRIBE, Target::Statement, RESERVED);
        self.flow.batch_open = true;
        self.owed.push(Owed::Refused(code, message.into()));
    }

    /// A reserved name is nobody's.
    fn put_our_close(&mut self, name: &[u8], out: &mut BytesMut) {
        frontend::put_target(out, frontend::CLOSE, Target::Statement, name);
        self.owed.push(Owed::OurClose);
    }

    fn sql_prepared_has(&self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.sql_prepared.get(name).is_some())
    }

    /// A Parse of the unnamed statement has been put: notes what it leaves, and that it will be answered.
    fn owes_unnamed(&mut self, prepared: Arc<Prepared>, id: UnnamedId, by: Asker, known: &mut Known) {
        known.unnamed = Some(id);
        self.doubts.unnamed_changes(self.owed.moment());
        self.owed.push(Owed::Parse { name: [].into(), prepared, unnamed: Some(id), by });
    }

    /// The server connection gets this statement under our name, which it does not have.
    pub(super) fn parse_named(
        &mut self,
        name: &[u8],
        prepared: &Arc<Prepared>,
        by: Asker,
        known: &mut Known,
        limit: usize,
        out: &mut BytesMut,
    ) {
        if let Some(oldest) = known.add(prepared.id, limit) {
            self.put_close(oldest, out);
        }
        self.preparing.remade += usize::from(by == Asker::Us);
        let ours = prepared.id.server_name();
        self.put_parse(Parse { name: Name(&ours), text: &prepared.text, types: prepared.types() }, out);
        let owed = Owed::Parse { name: name.into(), prepared: Arc::clone(prepared), unnamed: None, by };
        self.owed.push_making((prepared.id, true), owed);
    }

    fn translate_bind(
        &mut self,
        message: Message<'_>,
        bind: Bind<'_>,
        known: &mut Known,
        limit: usize,
        out: &mut BytesMut,
    ) {
        let name = bind.statement.kept();
        self.preparing.bound += 1;
        self.put_mirrors_of(name, known, out);
        let goes_by_ours = self.goes_by_ours(name, known);
        let statement = self.prepared_for_use(name, known, limit, out);
        self.portals.remove(bind.portal);
        let (mut bound, mut closes, mut called) = (None, None, None);
        match statement {
            Some(prepared) if goes_by_ours && prepared.has_changed(known) => {
                self.put_our_close(RESERVED, out);
                frontend::put_bind(out, Bind { statement: Name(RESERVED), ..bind }, message.missing);
                self.flow.batch_open = true;
                self.owed.push(Owed::Stale);
                return;
            }
            Some(prepared) => {
                bound = Some(Arc::clone(&prepared.statement));
                closes = self.deallocates_ours(&prepared.statement, known);
                if closes.is_some() {
                    let text = DEALLOCATE_RESERVED.as_bytes();
                    self.put_ours(Parse { name: Name(DEALLOCATES), text, ..EMPTY }, out);
                    self.put_ours(EMPTY, out);
                    frontend::put_bind(out, Bind { statement: Name(DEALLOCATES), ..bind }, message.missing);
                } else if !goes_by_ours {
                    out.extend_from_slice(message.whole);
                } else {
                    called = bind.statement.is_cut().then(|| bind.statement.0.into());
                    let bind = Bind { statement: Name(&prepared.id.server_name()), ..bind };
                    frontend::put_bind(out, bind, message.missing);
                }
            }
            None if is_ours(name) => {
                self.put_our_close(RESERVED, out);
                frontend::put_bind(out, Bind { statement: Name(RESERVED), ..bind }, message.missing);
            }
            None => {
                bound = self.bound_by_sql(name);
                out.extend_from_slice(message.whole);
            }
        }
        if let Some(statement) = bound {
            // Behind what of ours stands before it: that is answered though the Bind may fail.
            self.binds(bind.portal, statement, closes);
        }
        self.flow.batch_open = true;
        self.owed.push(Owed::Bind(called));
    }

    /// A portal of this name is bound now.
    pub(super) fn binds(&mut self, portal: Name<'_>, statement: Arc<Statement>, closes: Option<Arc<str>>) {
        let (draws, bound) = (self.gathered.draws, self.owed.moment());
        self.portals.put(portal, Portal { statement, draws, closes, bound });
    }

    /// The same as [`Session::put_mirrors`] for the statement of this name.
    #[inline]
    fn put_mirrors_of(&mut self, name: &[u8], known: &Known, out: &mut BytesMut) {
        if !self.executes_by_sql {
            return;
        }
        let prepared = match name.is_empty() {
            true => self.unnamed.as_ref().map(|(prepared, _)| prepared),
            false => self.names.get(name),
        };
        if let Some(statement) = prepared.map(|prepared| Arc::clone(&prepared.statement)) {
            self.put_mirrors(&statement, known, out);
        }
    }

    fn translate_describe(
        &mut self,
        message: Message<'_>,
        known: &mut Known,
        limit: usize,
        out: &mut BytesMut,
    ) -> Result<(), Truncated> {
        let mut of = None;
        let (target, name) = frontend::target_fields(message.body)?;
        let name = name.kept();
        if target == Target::Statement {
            self.put_mirrors_of(name, known, out);
        }
        self.flow.batch_open = true;
        match (target, name) {
            (Target::Statement, name) => {
                if let Some(prepared) = self.absent_without_rows(name, known) {
                    // An empty statement tells the same, in a failed transaction too, where none but that can be prepared.
                    self.put_ours(Parse { types: prepared.types(), ..EMPTY }, out);
                    frontend::put_target(out, frontend::DESCRIBE, Target::Statement, RESERVED);
                    self.owed.push(Owed::Describe { of: None, by: Asker::Client });
                    return Ok(());
                }
                match (self.goes_by_ours(name, known), self.prepared_for_use(name, known, limit, out)) {
                    (true, Some(prepared)) if prepared.has_changed(known) => {
                        // PostgreSQL tells the parameters before it finds that out.
                        frontend::put_target(out, frontend::DESCRIBE, Target::Statement, &prepared.id.server_name());
                        self.owed.push(Owed::DescribeParameters);
                        self.put_our_close(RESERVED, out);
                        frontend::put_target(out, frontend::DESCRIBE, Target::Statement, RESERVED);
                        self.owed.push(Owed::Stale);
                        return Ok(());
                    }
                    (true, Some(prepared)) => {
                        if prepared.has_columns_of_another() && self.owed.will_have(prepared.id) != Some(true) {
                            // It may have been prepared here when the name was another session's.
                            self.close_ours(prepared.id, known, out);
                            self.parse_named(b"", &prepared, Asker::Us, known, limit, out);
                        }
                        let ours = prepared.id.server_name();
                        frontend::put_target(out, frontend::DESCRIBE, Target::Statement, &ours);
                        of = Some(prepared);
                    }
                    (_, None) if is_ours(name) => {
                        self.put_our_close(RESERVED, out);
                        frontend::put_target(out, frontend::DESCRIBE, Target::Statement, RESERVED);
                    }
                    (false, Some(prepared)) => {
                        out.extend_from_slice(message.whole);
                        self.owed.push(Owed::DescribeUnnamed(prepared));
                        return Ok(());
                    }
                    (_, None) => out.extend_from_slice(message.whole),
                }
            }
            (Target::Portal, _) => out.extend_from_slice(message.whole),
        }
        self.owed.push(Owed::Describe { of, by: Asker::Client });
        Ok(())
    }

    /// The statement of this name, if the server connection does not have it and the client has been told that it answers
    /// no rows: so it stays, whatever becomes of its tables.
    fn absent_without_rows(&self, name: &[u8], known: &mut Known) -> Option<Arc<Prepared>> {
        let prepared = self.names.get(name).filter(|prepared| prepared.answers_no_rows())?;
        (self.owed.is_in_doubt(prepared.id) || !known.uses(prepared.id)).then(|| Arc::clone(prepared))
    }

    /// Our statements stay on the server connection for other sessions; the client's own name does not exist there, and
    /// closing what does not exist is answered with CloseComplete.
    fn translate_close(
        &mut self,
        message: Message<'_>,
        known: &mut Known,
        out: &mut BytesMut,
    ) -> Result<(), Truncated> {
        let owed = match frontend::target_fields(message.body)? {
            (Target::Statement, name) => {
                let (name, now) = (name.kept(), self.owed.moment());
                if name.is_empty() {
                    self.unnamed = None;
                    known.unnamed = None;
                    self.doubts.unnamed_changes(now);
                }
                self.names.expect_closed(name, now);
                if is_ours(name) {
                    self.flow.batch_open = true;
                    self.owed.push(Owed::CloseStatement(name.into()));
                    frontend::put_target(out, frontend::CLOSE, Target::Statement, RESERVED);
                    return Ok(());
                }
                Owed::CloseStatement(name.into())
            }
            (Target::Portal, name) => {
                self.portals.remove(name);
                Owed::ClosePortal
            }
        };
        self.send(message.whole, owed, out);
        Ok(())
    }

    fn translate_sync(&mut self, message: Message<'_>, out: &mut BytesMut) {
        out.extend_from_slice(message.whole);
        if self.flow.copy_in {
            self.owed.eats_sync();
            return;
        }
        self.owes_sync();
    }

    /// The client's batch ends with what has been put.
    pub(super) fn owes_sync(&mut self) {
        self.flow.skipping = false;
        self.flow.batch_open = false;
        self.owed.push(Owed::Sync(Asker::Client));
    }

    /// A Sync of our own: ends the batch on this node, so that it may go on at another, or anew.
    pub fn end_batch(&mut self, out: &mut BytesMut) {
        frontend::put_bare(out, frontend::SYNC);
        self.undescribed = None;
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
            let named = Arc::clone(self.names.get(name)?);
            let prepared = match self.apart_from_others(&named, known) {
                Some(reading) => self.reread(name, &named, reading),
                None => self.read_as_now(name, named),
            };
            self.ensure(&prepared, known, limit, out);
            return Some(prepared);
        }
        let goes_by_ours = self.goes_by_ours(name, known);
        match &self.unnamed {
            Some((prepared, id)) if known.unnamed == Some(*id) => Some(Arc::clone(prepared)),
            Some((prepared, _)) if goes_by_ours => {
                let mut prepared = Arc::clone(prepared);
                if let Some(reading) = self.apart_from_others(&prepared, known) {
                    prepared = Arc::new(prepared.reread(reading));
                }
                self.ensure(&prepared, known, limit, out);
                Some(prepared)
            }
            Some((prepared, id)) => {
                let (prepared, id) = (Arc::clone(prepared), *id);
                self.preparing.remade += 1;
                self.put_parse(Parse { name: Name(b""), text: &prepared.text, types: prepared.types() }, out);
                self.owes_unnamed(Arc::clone(&prepared), id, Asker::Us, known);
                Some(prepared)
            }
            None => {
                // Another session's unnamed statement may be there: it must not be met.
                known.unnamed = None;
                self.doubts.unnamed_changes(self.owed.moment());
                frontend::put_target(out, frontend::CLOSE, Target::Statement, b"");
                self.owed.push(Owed::CloseUnnamed);
                None
            }
        }
    }

    /// The server connection will have this statement under our name.
    fn ensure(&mut self, prepared: &Arc<Prepared>, known: &mut Known, limit: usize, out: &mut BytesMut) {
        let is_doubtful = self.owed.is_in_doubt(prepared.id) || self.will_be_deallocated(prepared.id);
        if known.uses(prepared.id) && !is_doubtful {
            return;
        }
        if is_doubtful {
            self.close_ours(prepared.id, known, out);
        }
        self.parse_named(b"", prepared, Asker::Us, known, limit, out);
    }

    /// What closes all statements is on its way, and nothing behind it that makes this one anew. It does not close the
    /// unnamed statement, which may go by a name of ours.
    fn will_be_deallocated(&self, id: StatementId) -> bool {
        // A long pipeline is not gone through for each of its messages.
        if !self.doubts.may_none_be_left(&self.owed) {
            return false;
        }
        let mut latest = self.owed.iter().rev().filter_map(|owed| match owed {
            Owed::Execute(Some(statement)) if !statement.is_plain_read() => closed_names(statement)
                .is_some_and(|change| !matches!(change, SessionChange::Deallocate(_)))
                .then_some(true),
            _ => owed.makes_or_closes().is_some_and(|(made, will_be)| made == id && will_be).then_some(false),
        });
        latest.next() == Some(true)
    }

    #[cold]
    pub(super) fn close_ours(&mut self, id: StatementId, known: &mut Known, out: &mut BytesMut) {
        known.remove(id);
        self.put_close(id, out);
    }

    fn put_close(&mut self, id: StatementId, out: &mut BytesMut) {
        frontend::put_target(out, frontend::CLOSE, Target::Statement, &id.server_name());
        self.owed.push_making((id, false), Owed::CloseOurs(id));
    }

    /// A message that is dropped takes along what the survey has put aside for it.
    #[cold]
    fn drop_gathered(&mut self, tag: u8) {
        match tag {
            frontend::QUERY => drop(self.gathered.queries.pop_front()),
            frontend::PARSE => drop(self.gathered.parsed.pop_front()),
            _ => {}
        }
    }
}

/// The name of an empty statement that is there only to be deallocated, or to be in the way of another.
pub(super) const RESERVED: &[u8] = b"tl_reserved";

const EMPTY: Parse<'static> = Parse { name: Name(RESERVED), text: b"", types: &[0, 0] };

const DEALLOCATE_RESERVED: &str = "DEALLOCATE tl_reserved";

/// This message describes the statement of this name.
fn describes(message: &Message<'_>, name: &[u8]) -> bool {
    let is_target = |(target, described): (Target, Name<'_>)| target == Target::Statement && *described.kept() == *name;
    message.tag == frontend::DESCRIBE && frontend::target_fields(message.body).is_ok_and(is_target)
}

/// No client's names reach names of ours: what they stand for is other sessions'.
fn is_ours(name: &[u8]) -> bool {
    name == RESERVED || name == DEALLOCATES || StatementId::is_of(name)
}

/// The name of a statement that deallocates the reserved one.
const DEALLOCATES: &[u8] = b"tl_deallocates";

/// The change by which the only statement closes names, if it does.
pub(super) fn closed_names(statement: &Statement) -> Option<&SessionChange> {
    statement.only()?.session.iter().find(|change| closes_names(change))
}

#[cfg(test)]
mod tests {
    use super::messages;
    use crate::session::Reply;
    use crate::session::story::Story;
    use crate::wire::frontend::LONGEST_NAME;

    #[test]
    fn the_last_message_of_a_unit_may_lack_its_end() {
        let there = messages(b"S\0\0\0\x04Q\0\0\0\x09sel");
        let there: Vec<_> =
            there.map(|message| (message.tag, message.body, message.whole.len(), message.missing)).collect();
        assert_eq!(there, [(b'S', &b""[..], 5, 0), (b'Q', b"sel", 8, 2)]);
        assert_eq!(messages(b"Q\0\0").count(), 0);
    }

    #[test]
    fn a_copy_whose_data_has_come_ahead_behind_its_sync_is_done_by_another_sync() {
        let mut story = Story::begin();
        story.parse("", "copy t from stdin");
        let _ = (story.bind(""), story.execute(), story.sync());
        let _ = (story.send(b'd', b"1\n"), story.send(b'c', b""));
        story.hear_all("12G");
        story.hear(b'C', b"COPY 1\0");
        assert!(!story.session.is_idle(), "the node waits for a Sync still");
        story.sync();
        story.hear_all("Z");
        assert!(story.session.is_idle());
    }

    #[test]
    fn a_copy_whose_data_and_next_sync_have_come_ahead_is_done_by_that() {
        let mut story = Story::begin();
        story.parse("", "copy t from stdin");
        let _ = (story.bind(""), story.execute(), story.sync());
        let _ = (story.send(b'd', b"1\n"), story.send(b'c', b""), story.sync());
        story.hear_all("12G");
        story.hear(b'C', b"COPY 1\0");
        story.hear_all("Z");
        assert!(story.session.is_idle());
    }

    #[test]
    fn a_mirror_that_has_come_to_be_since_a_deallocate_of_its_name_was_bound_goes_with_it() {
        for is_there in [true, false] {
            let mut story = Story::begin();
            story.parse("a", "select 1");
            story.sync();
            story.hear_all("1tnZ");
            assert_eq!(story.send(b'Q', b"execute a\0"), "CPSQ");
            story.parse("", "deallocate a");
            assert_eq!(story.bind(""), "CPCPB", "ours stays");
            let before = |story: &mut Story| {
                story.hear_all("31Z");
                story.hear(b'C', b"SELECT 1\0");
                story.hear_all("Z131312");
            };
            if is_there {
                before(&mut story);
            }
            assert_eq!(story.execute(), "EC", "{is_there}");
            story.sync();
            if !is_there {
                before(&mut story);
            }
            story.hear(b'C', b"DEALLOCATE\0");
            story.hear_all("3Z");
            assert!(!story.known.has_mirror(story.session.id, "a"));
        }
    }

    #[test]
    fn a_portal_that_is_there_because_a_message_was_skipped_may_have_done_anything() {
        const SKIPPED: [&[(u8, &[u8])]; 4] = [
            &[(b'C', b"Pp\0")],
            &[(b'P', b"\0select 1\0\0\0"), (b'B', b"p\0\0\0\0\0\0\0\0")],
            &[],
            &[(b'P', b"\0deallocate a\0\0\0"), (b'B', b"p\0\0\0\0\0\0\0\0")],
        ];
        for skipped in SKIPPED {
            let mut story = Story::begin();
            story.parse("a", "select 1");
            story.sync();
            story.hear_all("1tnZ");
            story.send(b'Q', b"begin\0");
            story.hear(b'C', b"BEGIN\0");
            story.hear(b'Z', b"T");
            story.parse("", "set my.x = 1");
            story.send(b'B', b"p\0\0\0\0\0\0\0\0");
            story.sync();
            story.hear_all("12");
            story.hear(b'Z', b"T");
            story.bind("nowhere");
            skipped.iter().for_each(|(tag, body)| drop(story.send(*tag, body)));
            story.sync();
            story.hear(b'E', b"SERROR\0C26000\0M?\0\0");
            story.hear(b'Z', b"E");
            story.send(b'Q', b"rollback to s\0");
            story.hear(b'C', b"ROLLBACK\0");
            story.hear(b'Z', b"T");
            story.send(b'E', b"p\0\0\0\0\0");
            story.hear(b'C', b"SET\0");
            let is_known = skipped.is_empty();
            assert_eq!(story.known.unseen, (!is_known).then_some(story.session.id), "{skipped:?}");
            assert_eq!(story.session.touched.len(), usize::from(is_known), "{skipped:?}");
            assert!(is_known || story.session.wants_look(), "{skipped:?}");
        }
    }

    /// The longest name that is kept whole, and two that are kept as this is.
    fn long_names() -> [String; 3] {
        ["", "_1", "_2"].map(|end| "n".repeat(LONGEST_NAME) + end)
    }

    #[test]
    fn what_is_not_kept_of_a_name_tells_no_statement_from_another() {
        let names = long_names();
        for (given, called) in names.iter().flat_map(|given| names.iter().map(move |called| (given, called))) {
            let prepared = || {
                let mut story = Story::begin();
                story.parse(given, "insert into t values (1)");
                story.sync();
                story.hear_all("1tnZ");
                story
            };
            let mut story = prepared();
            assert_eq!((story.bind(called), story.execute(), story.sync()), ("B".into(), "E".into(), "S".into()));
            story.hear_all("2CZ");
            assert!(story.session.has_written(true), "it is known what was bound");
            assert_eq!(story.known.unseen, None, "{given} {called}");
            assert_eq!(story.send(b'Q', format!("execute {called}\0").as_bytes()), "CPSQ", "{given} {called}");
            for close in [(b'C', format!("S{called}\0")), (b'Q', format!("deallocate {called}\0"))] {
                let mut story = prepared();
                story.send(close.0, close.1.as_bytes());
                match close.0 {
                    b'C' => drop(story.sync()),
                    _ => story.hear_all("31"),
                }
                story.hear_all(if close.0 == b'C' { "3Z" } else { "CZ" });
                assert!(story.session.names.get(names[0].as_bytes()).is_none(), "{given} {called}");
            }
        }
    }

    #[test]
    fn an_error_tells_all_of_a_name() {
        let [kept, given, called] = long_names();
        let mut story = Story::begin();
        story.parse(&given, "select $1::int");
        story.sync();
        story.hear_all("1tTZ");
        let ours =
            String::from_utf8(story.session.names.get(kept.as_bytes()).unwrap().id.server_name().into()).unwrap();
        let told = |story: &mut Story, code: &str, words: [&str; 2], name: &str| {
            let body = |name| format!("SERROR\0C{code}\0M{} \"{name}\" {}\0\0", words[0], words[1]);
            let Reply::Replace(told) = story.hear(b'E', body(name).as_bytes()) else { panic!("{code}") };
            assert_eq!(told.get(5..), Some(body(&called).as_bytes()));
            story.hear_all("Z");
        };
        assert_eq!(story.parse(&called, "select 2"), "CPP");
        story.sync();
        story.hear_all("31");
        told(&mut story, "42P05", ["prepared statement", "already exists"], "tl_reserved");
        story.bind(&called);
        story.sync();
        let words = ["bind message supplies 0 parameters, but prepared statement", "requires 1"];
        told(&mut story, "08P01", words, &ours);
    }

    #[test]
    fn what_was_prepared_by_sql_is_bound_by_all_of_its_name() {
        let [kept, given, called] = long_names();
        for name in [kept, called] {
            let mut story = Story::begin();
            story.send(b'Q', format!("prepare {given} as select pg_advisory_lock(1)\0").as_bytes());
            story.hear(b'C', b"PREPARE\0");
            story.hear_all("Z");
            assert_eq!((story.parse(&name, "select 2"), story.sync()), ("CPP".into(), "S".into()), "it is taken");
            story.hear_all("31EZ");
            assert_eq!(story.bind(&name), "B");
            story.execute();
            story.sync();
            story.hear_all("2CZ");
            assert_eq!(story.known.unseen, None, "it is known what was bound");
            assert!(story.session.pin().is_some());
        }
    }

    #[test]
    fn what_is_not_kept_of_a_name_tells_no_portal_from_another() {
        let [_, one, two] = long_names();
        for closed in [&one, &two] {
            let mut story = Story::begin();
            story.parse("a", "select 1");
            story.parse("b", "set my.x = 1");
            story.send(b'B', format!("{one}\0a\0\0\0\0\0\0\0").as_bytes());
            story.send(b'C', format!("P{closed}\0").as_bytes());
            story.send(b'B', format!("{two}\0b\0\0\0\0\0\0\0").as_bytes());
            story.send(b'E', format!("{one}\0\0\0\0\0").as_bytes());
            story.sync();
            story.hear_all("1n1n232");
            story.hear(b'C', b"SET\0");
            story.hear_all("Z");
            assert_eq!(story.session.touched.len(), 1, "it is known what was run");
            assert_eq!(story.known.unseen, None);
        }
    }

    /// Were each of its messages to look at all that are owed, it would take minutes.
    #[test]
    fn a_long_pipeline_is_not_gone_through_for_each_of_its_messages() {
        let mut story = Story::begin();
        story.parse("a", "insert into t values (1)");
        story.sync();
        story.hear_all("1tnZ");
        let begun = std::time::Instant::now();
        for _ in 0..200_000 {
            story.bind("a");
            story.execute();
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    /// The same of names: those that are on their way, and those that the node is to make or close.
    #[test]
    fn a_batch_of_many_names_is_not_gone_through_for_each_of_them() {
        const NAMES: usize = 60_000;
        let mut story = Story::begin();
        let begun = std::time::Instant::now();
        for number in 0..NAMES {
            story.parse(&format!("a{number}"), "select 1");
        }
        for _ in 0..NAMES {
            story.bind("a0");
        }
        story.send(b'Q', b"deallocate all\0");
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
