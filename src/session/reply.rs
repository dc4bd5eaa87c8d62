//! Replies of the node: what each changes, and whether the client sees it.

use std::sync::Arc;

use bytes::BytesMut;
use hashbrown::HashMap;

use super::known::{Known, UnnamedId};
use super::owed::{Asker, Done, Owed};
use super::prepared::{Prepared, StatementId};
use super::sequences::Drawn;
use super::transaction::Ended;
use super::translate::{RESERVED, closed_names};
use super::woven::Woven;
use super::{PutBack, Session};
use crate::catalog::Change;
use crate::sql::Statement;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::{self, ErrorFields};
use crate::wire::{SqlState, frame};

/// What becomes of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// It goes to the client as it is.
    Forward,
    /// It was for us.
    Hide,
    /// These bytes go to the client in its place.
    Replace(BytesMut),
    /// An error that need not be the last word: the same statement on the primary may succeed. See [`Session::rewind`]. If it
    /// is the last, these bytes go to the client, or else the reply.
    Refused(SqlState, Option<BytesMut>),
    /// The columns of a statement have changed on this node, which is told with these bytes in place of the reply. On the
    /// primary they may not have.
    Stale(BytesMut),
    /// The node ends the connection, for this reason; no more will come.
    NodeEnds(SqlState),
    /// The node ends this session, by a limit that is the session's own or for what it has sent into a COPY: it goes on as it
    /// is, and is the last.
    SessionEnds,
    /// An error of a statement whose parallel worker was told to go, which mostly means that the node stops: another node
    /// may answer it.
    WorkerEnds(SqlState),
    /// The node is torn down and says so in a warning about its own connection: no more will come, and whether anything
    /// was done is not known.
    NodeDies,
}

impl Reply {
    /// The same of a message of which only the beginning is here: its rest goes the same way unseen, so nothing takes its place.
    pub fn of_beginning(self) -> Self {
        match self {
            Self::Hide | Self::Replace(_) | Self::NodeDies => Self::Forward,
            Self::Refused(code, _) => Self::Refused(code, None),
            Self::Stale(_) => Self::Refused(SqlState::FEATURE_NOT_SUPPORTED, None),
            Self::Forward | Self::NodeEnds(_) | Self::SessionEnds | Self::WorkerEnds(_) => self,
        }
    }
}

/// The node's words make no sense here: its connection has lost the beat and must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node sent message '{}' where it cannot be", char::from(*tag))]
pub struct OutOfStep {
    /// The message's tag.
    pub tag: u8,
}

/// A message with this tag can change a state; all others are forwarded unseen.
#[inline]
pub fn matters(tag: u8) -> bool {
    !matches!(tag, backend::DATA_ROW | backend::COPY_DATA)
}

impl Session {
    /// Takes one message of the node that [`matters`]: a whole one, or the beginning of one that is large.
    pub fn reply(&mut self, tag: u8, body: &[u8], known: &mut Known) -> Result<Reply, OutOfStep> {
        match tag {
            backend::READY_FOR_QUERY => self.ready(body, known),
            backend::COMMAND_COMPLETE | backend::EMPTY_QUERY_RESPONSE | backend::PORTAL_SUSPENDED => {
                if matches!(self.owed.front(), Some(Owed::DiscardSequences { .. })) {
                    return Ok(Reply::Hide);
                }
                if matches!(self.owed.front(), Some(Owed::OurDiscard | Owed::OurSet)) {
                    return self.answered(tag, |_| true).map(|_| Reply::Hide);
                }
                if self.owed.woven().is_some_and(Woven::is_next) {
                    return Ok(Reply::Hide);
                }
                self.completed(body, known);
                self.catalog_settles();
                Ok(Reply::Forward)
            }
            backend::ERROR_RESPONSE => Ok(self.failed(body, known)),
            backend::PARSE_COMPLETE => self.parsed(known),
            backend::BIND_COMPLETE if matches!(self.owed.front(), Some(Owed::OurBind)) => {
                self.answered(tag, |_| true).map(|_| Reply::Hide)
            }
            backend::BIND_COMPLETE => self.answered(tag, |owed| matches!(owed, Owed::Bind(_))),
            backend::CLOSE_COMPLETE => self.closed(known),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                let asker = self.described(tag, body, known);
                Ok(if asker == Some(Asker::Us) { Reply::Hide } else { Reply::Forward })
            }
            backend::PARAMETER_DESCRIPTION => {
                let asker = self.described_parameters(body, known);
                Ok(if asker == Some(Asker::Us) { Reply::Hide } else { Reply::Forward })
            }
            backend::COPY_IN_RESPONSE | backend::COPY_BOTH_RESPONSE => {
                self.flow.copy_in = self.owed.copy_begins();
                // The Sync behind its Execute is eaten: another one ends the batch, also where the data has come ahead.
                self.flow.batch_open |=
                    matches!(self.owed.front(), Some(Owed::Execute(_))) && !self.owed.iter().any(Owed::ends_with_ready);
                Ok(Reply::Forward)
            }
            backend::NOTICE_RESPONSE => Ok(self.noticed(body)),
            backend::NOTIFICATION_RESPONSE => Ok(self.notified(body, known)),
            backend::PARAMETER_STATUS => Ok(self.reported_anew(body, known)),
            _ => Ok(Reply::Forward),
        }
    }

    /// The warning of a server that is being torn down is about its own connection, which is not the client's.
    fn noticed(&mut self, body: &[u8]) -> Reply {
        let code = ErrorFields::read(body).code;
        if tells_of_death(code) {
            return Reply::NodeDies;
        }
        let is_ours = match self.owed.front() {
            Some(Owed::Query { woven: Some(woven), .. }) => !woven.is_done(),
            front => matches!(front, Some(Owed::OurSet)),
        };
        // A SET LOCAL of ours does as little as the client's own, which has been warned of.
        if is_ours && code.as_str() == "25P01" {
            return Reply::Hide;
        }
        // What a text is warned of when it is parsed, the client has been told at its own Parse.
        let is_parsed_again =
            matches!(self.owed.front(), Some(Owed::Parse { by: Asker::Us, .. } | Owed::Mirror(_) | Owed::OurParse));
        if is_parsed_again {
            return Reply::Hide;
        }
        self.unwoven(backend::NOTICE_RESPONSE, body).map_or(Reply::Forward, Reply::Replace)
    }

    fn ready(&mut self, body: &[u8], known: &mut Known) -> Result<Reply, OutOfStep> {
        let out_of_step = OutOfStep { tag: backend::READY_FOR_QUERY };
        let status = TransactionStatus::read(body).map_err(|_| out_of_step)?;
        if self.owed.may_be_exceeded() {
            self.owed.owes_for_ready();
            if self.owed.len() == 1 {
                // It ends the batch, whether the client knows that its Sync was not eaten or sends another one.
                self.flow.skipping = false;
                self.flow.batch_open = false;
            }
        }
        let owed = self.owed.pop().filter(Owed::ends_with_ready).ok_or(out_of_step)?;
        if matches!(owed, Owed::Query { .. } | Owed::DiscardSequences { .. }) {
            self.settle_unnamed(None);
            known.unnamed_settles(None);
        }
        if owed.asker() == Asker::Client {
            self.refused_mirror = None;
        }
        let ended = self.transaction.stands_at(status);
        (self.flow.copy_in, self.flow.is_astray) = (false, false);
        if ended == Ended::Chained {
            self.reported.settle();
        }
        if status == TransactionStatus::Idle {
            self.reported.settle();
            self.settled_writes |= self.transaction.may_have_written();
            self.transaction.is_closed(!self.owed.is_empty());
            self.acts_as_another &= !self.owed.is_empty();
            // Those of batches that are on their way already stay.
            self.portals.retain(|portal| !self.owed.is_settled(portal.bound));
        }
        if self.owed.is_empty() {
            self.settle_doubts();
        }
        self.catalog_settles();
        self.check_invariants();
        Ok(if owed.asker() == Asker::Us { Reply::Hide } else { Reply::Forward })
    }

    /// Clients tell what they have notified themselves by its sender: the process that BackendKeyData named to them. Who
    /// listens holds the server connection, so nobody else has notified by it.
    #[cold]
    fn notified(&self, body: &[u8], known: &Known) -> Reply {
        match body.split_first_chunk() {
            Some((sender, rest)) if u32::from_be_bytes(*sender) == known.process_id => {
                let mut own = BytesMut::with_capacity(body.len() + frame::HEADER);
                backend::put_notification(&mut own, self.process_id, rest);
                Reply::Replace(own)
            }
            _ => Reply::Forward,
        }
    }

    /// A suspended portal counts too: INSERT … RETURNING has done all of its work by then.
    fn completed(&mut self, tag: &[u8], known: &mut Known) {
        match self.owed.front_mut() {
            Some(Owed::Query { statement, completed, woven }) => {
                let part = *completed;
                *completed += 1;
                self.flow.copy_in = false;
                if statement.is_plain_read() {
                    return;
                }
                if let Some(woven) = woven {
                    woven.stands_behind(part);
                }
                let statement = Arc::clone(statement);
                self.owed.is_not_exceeded();
                self.unseen_is_done(&statement, tag);
                self.done(&statement, part, tag, known);
                if statement.discards_all() {
                    self.puts_back(PutBack::Discard);
                }
            }
            Some(Owed::Execute(_)) => {
                self.flow.copy_in = false;
                match self.owed.pop() {
                    Some(Owed::Execute(Some(statement))) if !statement.is_plain_read() => {
                        self.owed.is_not_exceeded();
                        self.owed.has_done(Done::by(&statement));
                        if closed_names(&statement).is_some() {
                            self.names.settle();
                        }
                        self.unseen_is_done(&statement, tag);
                        self.done(&statement, 0, tag, known);
                        if statement.discards_all() {
                            self.puts_back(PutBack::Batch);
                        }
                    }
                    // What was bound by a name that only the node knows.
                    Some(Owed::Execute(None)) => {
                        self.owed.has_done(Done::Standing);
                        self.may_do_anything(known);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// What was too large to be looked at is known by the tag that it has answered with.
    fn unseen_is_done(&mut self, statement: &Statement, tag: &[u8]) {
        // Not SELECT: CREATE TABLE AS answers with it, too.
        const ROWS: [&[u8]; 5] = [b"INSERT ", b"UPDATE ", b"DELETE ", b"MERGE ", b"COPY "];
        if statement.is_too_large() && !ROWS.iter().any(|rows| tag.starts_with(rows)) {
            self.catalog.may_change.join(Change::Opaque);
        }
    }

    fn parsed(&mut self, known: &mut Known) -> Result<Reply, OutOfStep> {
        match self.owed.pop() {
            Some(Owed::Parse { name, prepared, unnamed: None, by }) => {
                self.settle_statement(prepared.id, true, known);
                if by == Asker::Us {
                    return Ok(Reply::Hide);
                }
                self.names.confirm(&name, prepared);
                Ok(Reply::Forward)
            }
            Some(Owed::Parse { prepared, unnamed: Some(id), by, .. }) => {
                known.unnamed_settles(Some(id));
                if by == Asker::Us {
                    return Ok(Reply::Hide);
                }
                self.settle_unnamed(Some((prepared, id)));
                Ok(Reply::Forward)
            }
            Some(Owed::OurParse) => Ok(Reply::Hide),
            Some(Owed::Mirror(mirror)) => {
                known.is_mirrored(self.id, &mirror);
                Ok(Reply::Hide)
            }
            _ => Err(OutOfStep { tag: backend::PARSE_COMPLETE }),
        }
    }

    fn closed(&mut self, known: &mut Known) -> Result<Reply, OutOfStep> {
        match self.owed.pop() {
            Some(Owed::CloseStatement(name)) => {
                self.names.closed(&name);
                self.sql_closed(&name, known);
                if name.is_empty() {
                    self.settle_unnamed(None);
                    known.unnamed_settles(None);
                }
                Ok(Reply::Forward)
            }
            Some(Owed::ClosePortal) => {
                self.may_have_unpinned(); // it may be a cursor of SQL, WITH HOLD
                Ok(Reply::Forward)
            }
            Some(Owed::CloseOurs(id)) => {
                self.settle_statement(id, false, known);
                Ok(Reply::Hide)
            }
            Some(Owed::CloseUnnamed) => {
                known.unnamed_settles(None);
                Ok(Reply::Hide)
            }
            Some(Owed::CloseMirror(name)) => {
                known.has_no_sql(&name);
                Ok(Reply::Hide)
            }
            Some(Owed::OurClose) => Ok(Reply::Hide),
            _ => Err(OutOfStep { tag: backend::CLOSE_COMPLETE }),
        }
    }

    /// The server connection has this statement now, or not: so it will be, unless something behind changes it again.
    pub(super) fn settle_statement(&self, id: StatementId, is_there: bool, known: &mut Known) {
        match self.owed.will_have(id).unwrap_or(is_there) {
            true => known.has(id),
            false => known.remove(id),
        }
    }

    /// All that is under way is what our grammar has not accepted, and nothing of it has been done: if the server's has not
    /// either, nothing will be.
    fn has_done_nothing_unparsed(&self) -> bool {
        self.transaction.status() == TransactionStatus::Idle
            && self.owed.iter().all(|owed| match owed {
                Owed::Query { statement, completed, .. } => *completed == 0 && statement.is_unparsed(),
                Owed::Execute(statement) => statement.as_ref().is_some_and(|statement| statement.is_unparsed()),
                Owed::FunctionCall => false,
                _ => true,
            })
    }

    /// Up to the next Sync, all that is owed is ours.
    fn is_in_batch_of_ours(&self) -> bool {
        let is_sync = |owed: &&Owed| matches!(owed, Owed::Sync(_));
        let last = self.owed.iter().find(|owed| is_sync(owed) || owed.asker() == Asker::Client);
        matches!(last, Some(Owed::Sync(Asker::Us))) && !self.owed.front().is_some_and(|front| is_sync(&front))
    }

    /// The node has given or dropped the session's unnamed statement.
    fn settle_unnamed(&mut self, unnamed: Option<(Arc<Prepared>, UnnamedId)>) {
        if unnamed.is_none() && self.settled_unnamed.is_none() {
            return; // as it was
        }
        let before = std::mem::replace(&mut self.settled_unnamed, unnamed);
        self.unshown_unnamed.get_or_insert(before);
    }

    fn answered(&mut self, tag: u8, is_due: impl Fn(&Owed) -> bool) -> Result<Reply, OutOfStep> {
        if self.owed.front().is_some_and(is_due) {
            self.owed.pop();
            return Ok(Reply::Forward);
        }
        Err(OutOfStep { tag })
    }

    #[cold]
    fn failed(&mut self, body: &[u8], known: &mut Known) -> Reply {
        let fields = ErrorFields::read(body);
        // What has come behind it is not undone, and may change them as well.
        let is_last = self.owed.iter().filter(|owed| owed.ends_with_ready()).count() <= 1;
        if is_last && fields.code == SqlState::SYNTAX_ERROR && self.has_done_nothing_unparsed() {
            self.catalog.may_change = Change::None;
        } else if is_last && self.transaction.status() == TransactionStatus::Idle && !self.can_commit_inside() {
            // What it has changed is undone, unless code has done it elsewhere.
            self.catalog.may_change = self.catalog.may_change.min(Change::Suspected);
        }
        self.catalog_settles();
        let is_violation = fields.code == SqlState::PROTOCOL_VIOLATION;
        if fields.ends_connection() {
            let is_its_own = self.is_ended_by_limit(fields.code) || is_violation && self.flow.is_astray;
            return if is_its_own { Reply::SessionEnds } else { Reply::NodeEnds(fields.code) };
        }
        self.flow.is_astray = is_violation && self.flow.copy_in;
        self.flow.copy_in = false;
        let was_run = !matches!(fields.code.as_str(), "34000" | "25P02");
        if was_run && matches!(self.owed.front(), Some(Owed::Execute(None))) {
            self.may_do_anything(known);
        }
        self.commits_inside_failed(known);
        if self.is_in_batch_of_ours() {
            // Nothing of it has the client asked for: whoever executes a mirror that was refused is told so then.
            if matches!(self.owed.front(), Some(Owed::Mirror(_))) {
                self.refused_mirror = Some(body.into());
            }
            self.skip_failed(known);
            return Reply::Hide;
        }
        if let Some(Owed::Refused(code, message)) = self.owed.front() {
            let mut told = BytesMut::new();
            error_response::put_error(&mut told, error_response::Severity::Error, *code, message, None);
            self.skip_failed(known);
            return Reply::Replace(told);
        }
        if matches!(fields.code.as_str(), "26000" | "25P02")
            && let Some(refusal) = self.refused_mirror.take()
        {
            return self.failed_for(&refusal, known);
        }
        if matches!(self.owed.front(), Some(Owed::Stale)) {
            let told = self.changed_columns();
            self.skip_failed(known);
            return Reply::Stale(told);
        }
        if let Some(Owed::DiscardSequences { is_asked }) = self.owed.front() {
            known.drawn = Drawn::unknown();
            if !is_asked {
                return Reply::Hide; // what draws behind it is done, and says so
            }
        }
        if self.owed.woven().is_some_and(|woven| woven.is_ahead()) {
            known.drawn = Drawn::unknown();
        }
        self.role_is_reset = false;
        let ours = self.name_in_error(body, &fields, known);
        if fields.code == SqlState::READ_ONLY_SQL_TRANSACTION {
            self.refused_writer = self.owed.front().and_then(Owed::shared_statement).cloned();
        }
        let sets = self.owed.front().is_some_and(Owed::sets);
        self.skip_failed(known);
        if matches!(fields.code, SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN) {
            return Reply::WorkerEnds(fields.code);
        }
        let unwoven = self.unwoven(backend::ERROR_RESPONSE, body);
        if worth_a_retry(fields.code) || sets && may_be_taken_elsewhere(fields.code) {
            return Reply::Refused(fields.code, unwoven);
        }
        if let Some(told) = unwoven {
            return Reply::Replace(told);
        }
        match ours {
            Some((ours, name)) => Reply::Replace(with_client_name(body, &ours, &name)),
            None => Reply::Forward,
        }
    }

    /// The node has ended the connection for this reason, which is a limit of the session's own.
    fn is_ended_by_limit(&self, code: SqlState) -> bool {
        match code {
            // Its transaction has been left open, or has lasted, for too long. Run again, it would be so again.
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT | SqlState::TRANSACTION_TIMEOUT => true,
            // It has sent nothing for too long. What has been sent meanwhile is lost as with any node.
            SqlState::IDLE_SESSION_TIMEOUT => self.is_idle() && self.keeps_lease(),
            _ => false,
        }
    }

    /// The node has failed for this reason, and tells another one, or none.
    fn failed_for(&mut self, body: &[u8], known: &mut Known) -> Reply {
        let mut told = BytesMut::new();
        error_response::put_body(&mut told, body);
        match self.failed(body, known) {
            Reply::Forward => Reply::Replace(told),
            Reply::Refused(code, None) => Reply::Refused(code, Some(told)),
            other => other,
        }
    }

    /// What commits in the middle may have written, though it failed in the end.
    fn commits_inside_failed(&mut self, known: &mut Known) {
        let Some(Owed::Query { statement, .. } | Owed::Execute(Some(statement))) = self.owed.front() else { return };
        let statement = Arc::clone(statement);
        self.undone(&statement, known);
        if statement.parts.iter().any(|part| part.commits_inside) {
            self.transaction.writes();
        }
    }

    /// The node skips what was sent up to Sync: of what stands there nothing is made, given or closed.
    pub(super) fn skip_failed(&mut self, known: &mut Known) {
        let Some(failed) = self.owed.front() else { return };
        if matches!(failed, Owed::Query { .. } | Owed::FunctionCall | Owed::DiscardSequences { .. }) {
            self.owed.has_failed();
            return;
        }
        // PostgreSQL drops it before it looks at the new one.
        if let Owed::Parse { unnamed: Some(_), by, .. } = failed {
            known.unnamed_settles(None);
            if *by == Asker::Client {
                self.settle_unnamed(None);
            }
        }
        let settled = self.owed.settled();
        let names = &mut self.names;
        // What was to be closed first is still there, what was to be made first is not.
        let mut untouched = HashMap::new();
        let sync_is_sent = self.owed.skip_to_sync(|owed| {
            if let Some((id, will_be)) = owed.makes_or_closes() {
                untouched.entry(id).or_insert(!will_be);
            }
            match owed {
                Owed::Parse { unnamed: None, by: Asker::Client, .. } | Owed::CloseStatement(_) => names.settle(),
                Owed::Execute(Some(statement)) if closed_names(&statement).is_some() => names.settle(),
                Owed::OurDiscard => known.drawn = Drawn::unknown(),
                _ => {}
            }
        });
        for (id, is_there) in untouched {
            self.settle_statement(id, is_there, known);
        }
        // What was bound by the same name before may still be there: nobody knows it any more.
        self.portals.retain(|portal| portal.bound.is_before(settled) || !self.owed.is_settled(portal.bound));
        self.flow.skipping = !sync_is_sent;
        if !sync_is_sent {
            // Also where a Query has been sent behind: the node waits for a Sync.
            self.flow.batch_open = true;
            self.undescribed = None;
        }
        self.unnamed = self.unnamed_to_be();
        if !self.owed.iter().any(Owed::changes_unnamed) {
            known.unnamed_stays();
        }
    }

    /// The unnamed statement as everything that is still on its way will leave it.
    fn unnamed_to_be(&self) -> Option<(Arc<Prepared>, UnnamedId)> {
        for owed in self.owed.iter().rev() {
            match owed {
                Owed::Parse { unnamed: Some(id), prepared, by: Asker::Client, .. } => {
                    return Some((Arc::clone(prepared), *id));
                }
                Owed::Query { .. } => return None,
                Owed::CloseStatement(name) if name.is_empty() => return None,
                _ => {}
            }
        }
        self.settled_unnamed.clone()
    }

    /// An error that names one of our statement names must speak of the client's.
    fn name_in_error(&self, body: &[u8], fields: &ErrorFields<'_>, known: &mut Known) -> Option<(Vec<u8>, Box<[u8]>)> {
        if !matches!(fields.code.as_str(), "42P05" | "26000" | "08P01") {
            return None;
        }
        if let Some(Owed::ParseTaken(name)) = self.owed.front() {
            return Some((RESERVED.to_vec(), name.clone()));
        }
        let id = StatementId::first_in(body)?;
        let name = match self.owed.front() {
            Some(Owed::Parse { name, by: Asker::Client, .. }) if !name.is_empty() => name.clone(),
            Some(Owed::Bind(Some(name))) => name.clone(),
            _ => match self.names.name_of(id) {
                Some(name) => name.into(),
                None => {
                    let mut unnamed = self.unnamed.iter().chain(&self.settled_unnamed);
                    unnamed.find(|(prepared, _)| prepared.id == id).map(|_| Box::default())?
                }
            },
        };
        if fields.code.as_str() == "26000" {
            known.remove(id); // closed behind our back, as by a function
        }
        Some((id.server_name().to_vec(), name))
    }

    /// Whether a node is a standby is not the client's business: to it Trunkline is the primary.
    fn reported_anew(&mut self, body: &[u8], known: &mut Known) -> Reply {
        let Ok((name, value)) = backend::parameter_status_fields(body) else { return Reply::Forward };
        if name == b"in_hot_standby" {
            return Reply::Hide;
        }
        let Ok(name) = std::str::from_utf8(name) else { return Reply::Forward };
        known.reports_now(name, std::str::from_utf8(value).ok());
        if let Ok(value) = std::str::from_utf8(value) {
            // DISCARD ALL puts back what the server connection began with; for the client that is what it came with itself.
            let is_reset = self.has_discarded() && self.startup.get(&name.to_ascii_lowercase()).is_some();
            if let Some(at_login) = self.reported.at_login(name).filter(|_| is_reset) {
                if self.reported.get(name) == Some(at_login) {
                    return Reply::Hide;
                }
                let mut out = BytesMut::new();
                backend::put_parameter_status(&mut out, name, at_login);
                let at_login = at_login.to_owned();
                self.reported.change(name, &at_login);
                self.read_anew();
                return Reply::Replace(out);
            }
            self.reported.change(name, value);
            self.read_anew();
        }
        Reply::Forward
    }
}

/// Errors that another node may not make: a standby's refusals, a recovery conflict, and an object that the standby
/// may not have yet.
fn worth_a_retry(code: SqlState) -> bool {
    [
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::SERIALIZATION_FAILURE,
        // Against what is replayed there.
        SqlState::DEADLOCK_DETECTED,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_COLUMN,
        SqlState::UNDEFINED_OBJECT,
        SqlState::UNDEFINED_FILE,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::INTERNAL_ERROR,
    ]
    .contains(&code)
}

/// A node refuses with this a value that another may take: it has not got the role, the tablespace or the time zone, or does not
/// know yet who may have it.
pub fn may_be_taken_elsewhere(code: SqlState) -> bool {
    matches!(code, SqlState::INVALID_PARAMETER_VALUE | SqlState::UNDEFINED_OBJECT | SqlState::INSUFFICIENT_PRIVILEGE)
}

/// A warning of this kind comes from a server that is being torn down.
pub fn tells_of_death(code: SqlState) -> bool {
    code == SqlState::ADMIN_SHUTDOWN || code == SqlState::CRASH_SHUTDOWN
}

fn with_client_name(body: &[u8], ours: &[u8], name: &[u8]) -> BytesMut {
    let mut changed = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.windows(ours.len()).position(|window| window == ours) {
        let (before, after) = rest.split_at(at);
        changed.extend_from_slice(before);
        changed.extend_from_slice(name);
        rest = after.get(ours.len()..).unwrap_or_default();
    }
    changed.extend_from_slice(rest);
    let mut out = BytesMut::with_capacity(changed.len() + frame::HEADER);
    error_response::put_body(&mut out, &changed);
    out
}

#[cfg(test)]
mod tests {
    use super::Reply;
    use crate::session::story::Story;
    use crate::wire::SqlState;

    #[test]
    fn what_is_sent_into_a_copy_ends_its_session_and_tells_nothing_of_the_node() {
        let (error, fatal) = (b"SERROR\0C08P01\0M?\0\0", b"SFATAL\0C08P01\0M?\0\0");
        let mut story = Story::begin();
        story.send(b'Q', b"copy t from stdin\0");
        story.send(b'Q', b"select 1\0");
        story.hear_all("G");
        for (tags, is_out_of_place) in [("QPBDECF", true), ("dcfSHX", false)] {
            for tag in tags.bytes() {
                assert_eq!(story.session.must_wait(tag, b""), is_out_of_place, "{}", char::from(tag));
                assert_eq!(story.session.is_out_of_place(tag), is_out_of_place, "{}", char::from(tag));
            }
        }
        assert_eq!((story.hear(b'E', error), story.hear(b'E', fatal)), (Reply::Forward, Reply::SessionEnds));
        // Elsewhere it is the node that has lost the beat.
        let mut story = Story::begin();
        story.send(b'Q', b"select 1\0");
        let goodbye = Reply::NodeEnds(SqlState::PROTOCOL_VIOLATION);
        assert_eq!((story.hear(b'E', error), story.hear(b'E', fatal)), (Reply::Forward, goodbye));
    }

    #[test]
    fn a_value_that_a_node_does_not_take_may_be_taken_by_another() {
        for (text, done, is_worth_it) in [
            ("set role fresh", 0, true),
            ("begin; set local role fresh; commit", 1, true),
            ("select set_config('role', 'fresh', false)", 0, true),
            ("select make_date(0, 0, 0)", 0, false),
            ("set role fresh; select make_date(0, 0, 0)", 1, false),
        ] {
            let mut story = Story::begin();
            story.send(b'Q', format!("{text}\0").as_bytes());
            (0..done).for_each(|_| drop(story.hear(b'C', b"?\0")));
            let reply = story.hear(b'E', b"SERROR\0C22023\0M?\0\0");
            assert_eq!(matches!(reply, Reply::Refused(..)), is_worth_it, "{text}: {reply:?}");
        }
    }

    #[test]
    fn a_server_connection_that_rests_for_too_long_ends_the_session_that_keeps_it_and_asks_nothing() {
        for (keeps, asks, ends) in [(true, false, true), (false, false, false), (true, true, false)] {
            let mut story = Story::begin();
            if keeps {
                story.session.keep_lease();
            }
            if asks {
                story.send(b'Q', b"select 1\0");
            }
            let reply = story.hear(b'E', b"SFATAL\0VFATAL\0C57P05\0M?\0\0");
            assert_eq!(reply == Reply::SessionEnds, ends, "{reply:?}");
        }
    }
}
