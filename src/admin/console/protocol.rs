//! The console's side of the protocol: simple and extended queries, answered from tables.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use hashbrown::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::command::{self, Command};
use super::control::{self, Answer, Giver, Mistake, Undone};
use super::table::{Formats, Table};
use super::wish::Wish;
use super::{Desk, Shutdown};
use crate::backend::cancel::Issued;
use crate::client::card::Card;
use crate::client::console::Visitor;
use crate::client::farewell::Farewell;
use crate::net::{Stream, timers};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::{Severity, put_error, put_error_with_hint, put_notice};
use crate::wire::frontend::{self, Bind, Name, Parse, Target};
use crate::wire::{CancelKey, Header, SqlState, frame};

/// Commands are short.
const LARGEST_MESSAGE: usize = 1 << 20;

/// Statements and portals that one client may have at the console: drivers close what they no longer need.
const MOST_NAMES: usize = 1000;

/// More than this is written before the next command is answered: many commands come in one message.
const MUCH: usize = 64 * 1024;

/// Bytes of a key's secret that each version of the protocol has room for.
const SECRET_SIZE: usize = 4;

const AUTHENTICATION_OK: u32 = 0;

/// How long a client may take for what was answered before its end.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Answers a client until it leaves, is out of step or is ended. Whoever has sent it here says why it ends, which stands behind
/// whole messages.
pub(super) async fn serve(visitor: Visitor, desk: &Arc<Desk>) -> (Farewell, Stream) {
    let Visitor { mut stream, unread, address, user, card } = visitor;
    let from = address.map(|address| address.to_string()).unwrap_or_default();
    let mut session = Session {
        desk,
        key: desk.in_force.load().cancel_keys.issue_ahead(SECRET_SIZE),
        giver: Giver { user, from },
        card,
        names: HashMap::new(),
        portals: HashMap::new(),
        skips: false,
        stop: None,
        status: TransactionStatus::Idle,
    };
    let mut out = BytesMut::new();
    put_welcome(session.key.key(), &mut out);
    let mut input = BytesMut::from(&*unread);
    let farewell = loop {
        let answered = session.answer_all(&mut input, &mut out, &mut stream).await;
        let written = session.write(&mut out, &mut stream).await;
        if let Some(how) = session.stop.take() {
            // Nobody takes it when the program is stopping already.
            let _ = desk.stops.send(how);
        }
        if let Err(farewell) = answered.and(written) {
            break farewell;
        }
        if let Err(farewell) = session.read(&mut input, &mut stream).await {
            break farewell;
        }
    };
    // Whoever does not take what was answered would take the end for a part of it. Dropping it loses nothing: it is closed next.
    let is_taken =
        !farewell.is_told() || matches!(timers::timeout(LAST_ANSWER, stream.write_all_buf(&mut out)).await, Ok(Ok(())));
    (if is_taken { farewell } else { Farewell::Left }, stream)
}

fn put_welcome(key: &CancelKey, out: &mut BytesMut) {
    backend::put_authentication(out, AUTHENTICATION_OK, b"");
    let parameters = [
        ("server_version", concat!(env!("CARGO_PKG_VERSION"), "/trunkline")),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("is_superuser", "on"),
    ];
    for (name, value) in parameters {
        backend::put_parameter_status(out, name, value);
    }
    backend::put_backend_key(out, key);
    backend::put_ready(out, TransactionStatus::Idle);
}

struct Session<'d> {
    desk: &'d Arc<Desk>,
    /// Cancels what it waits for; given back with this.
    key: Issued,
    giver: Giver,
    /// It is ended by this, by an operator: at the console nobody is hurried by limits.
    card: Rc<Card>,
    names: HashMap<Box<[u8]>, Command>,
    portals: HashMap<Box<[u8]>, Portal>,
    /// After an error: everything is skipped up to Sync.
    skips: bool,
    /// To be ordered once what has been answered is written.
    stop: Option<Shutdown>,
    /// Transactions mean nothing here; but drivers that begin them want to hear that they are in one, and keep portals.
    status: TransactionStatus,
}

struct Portal {
    command: Command,
    formats: Formats,
    /// What its first Execute has found, and the rows that have been fetched of it.
    found: Option<(Table, usize)>,
}

impl Session<'_> {
    /// Reads some more. Err: there is nothing more to be read.
    async fn read(&self, input: &mut BytesMut, stream: &mut Stream) -> Result<(), Farewell> {
        tokio::select! {
            // Dropping either loses nothing: an end stays, and what is not read stays where it is.
            _ = self.card.until_ended() => Err(Farewell::sent_away()),
            read = stream.read_buf(input) => if read? == 0 { Err(Farewell::Left) } else { Ok(()) },
        }
    }

    /// Writes what has been answered.
    async fn write(&self, out: &mut BytesMut, stream: &mut Stream) -> Result<(), Farewell> {
        tokio::select! {
            biased;
            // Dropping it loses nothing: what it has not written stays in `out`.
            written = stream.write_all_buf(out) => Ok(written?),
            _ = self.card.until_ended() => Err(Farewell::sent_away()),
        }
    }

    /// Writes what has been answered if it is much.
    async fn write_much(&self, out: &mut BytesMut, stream: &mut Stream) -> Result<(), Farewell> {
        if out.len() < MUCH { Ok(()) } else { self.write(out, stream).await }
    }

    /// Answers every whole message.
    async fn answer_all(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
        stream: &mut Stream,
    ) -> Result<(), Farewell> {
        while let Some(header) = Header::peek(input).map_err(invalid)? {
            if header.size > LARGEST_MESSAGE {
                return Err(invalid(header));
            }
            let Some(body) = input.get(frame::HEADER..header.size) else { break };
            let body = body.to_vec();
            input.advance(header.size);
            if header.tag == frontend::TERMINATE {
                return Err(Farewell::Left);
            }
            self.answer(header.tag, &body, out, stream).await?;
            self.write_much(out, stream).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, tag: u8, body: &[u8], out: &mut BytesMut, stream: &mut Stream) -> Result<(), Farewell> {
        if tag == frontend::SYNC {
            self.skips = false;
            self.put_ready(out);
            return Ok(());
        }
        if self.skips {
            return Ok(());
        }
        match tag {
            frontend::QUERY => self.answer_query(frontend::query_text(body).map_err(invalid)?, out, stream).await?,
            frontend::PARSE => self.parse(Parse::read(body).map_err(invalid)?, out),
            frontend::BIND => self.bind(Bind::read(body).map_err(invalid)?, out)?,
            frontend::DESCRIBE => self.describe(frontend::target_fields(body).map_err(invalid)?, out, stream).await?,
            frontend::EXECUTE => self.execute(frontend::execute_fields(body).map_err(invalid)?, out, stream).await?,
            frontend::CLOSE => self.close(frontend::target_fields(body).map_err(invalid)?, out),
            frontend::FLUSH | frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => {}
            frontend::FUNCTION_CALL => {
                put_error(out, Severity::Error, SqlState::FEATURE_NOT_SUPPORTED, "the console has no functions", None);
                self.put_ready(out);
            }
            _ => return Err(invalid(tag)),
        }
        Ok(())
    }

    async fn answer_query(&mut self, text: &[u8], out: &mut BytesMut, stream: &mut Stream) -> Result<(), Farewell> {
        let text = String::from_utf8_lossy(text);
        let commands = command::split(&text);
        if commands.is_empty() {
            backend::put_bare(out, backend::EMPTY_QUERY_RESPONSE);
        }
        for text in commands {
            let answered = match command::read(text) {
                Ok(command) => self.obey(&command, stream).await,
                Err(unknown) => Err(Mistake::from(unknown).into()),
            };
            match answered {
                Ok(Answer::Rows(table)) => {
                    let formats = Formats::default();
                    table.put_columns(&formats, out);
                    (0..table.len()).for_each(|row| table.put_row(row, &formats, out));
                    backend::put_command_complete(out, "SHOW");
                }
                Ok(Answer::Done { tag, notice }) => self.put_done(tag, notice.as_deref(), out),
                Err(Undone::Mistaken(mistake)) => {
                    put_mistake(&mistake, out);
                    break;
                }
                Err(Undone::Over(farewell)) => return Err(farewell),
            }
            self.write_much(out, stream).await?;
        }
        self.put_ready(out);
        Ok(())
    }

    fn put_ready(&mut self, out: &mut BytesMut) {
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        backend::put_ready(out, self.status);
    }

    /// Does what is asked; what must wait until the client has been answered is noted.
    async fn obey(&mut self, command: &Command, stream: &Stream) -> Result<Answer, Undone> {
        let answer = control::answer(command, &self.giver, self.desk, self.wish(stream)).await?;
        self.stop = command.stop_after().or(self.stop.take());
        Ok(answer)
    }

    fn wish<'v>(&'v self, stream: &'v Stream) -> Wish<'v> {
        Wish { key: &self.key, socket: stream.socket(), card: &self.card }
    }

    fn put_done(&mut self, tag: &str, notice: Option<&str>, out: &mut BytesMut) {
        match tag {
            "BEGIN" | "START TRANSACTION" => self.status = TransactionStatus::Open,
            "COMMIT" | "ROLLBACK" => self.status = TransactionStatus::Idle,
            _ => {}
        }
        if let Some(notice) = notice {
            put_notice(out, SqlState::SUCCESSFUL_COMPLETION, notice);
        }
        backend::put_command_complete(out, tag);
    }

    fn parse(&mut self, parse: Parse<'_>, out: &mut BytesMut) {
        let text = String::from_utf8_lossy(parse.text);
        let command = match &*command::split(&text) {
            [] => Ok(Command::Empty),
            [one] => command::read(one).map_err(Mistake::from),
            _ => Err(Mistake::new(SqlState::SYNTAX_ERROR, "cannot insert multiple commands into a prepared statement")),
        };
        match command {
            Ok(_) if self.names.len() >= MOST_NAMES && !parse.name.is_empty() => {
                self.fail(&Mistake::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many prepared statements"), out);
            }
            Ok(command) => {
                self.names.insert(parse.name.kept().into(), command);
                backend::put_bare(out, backend::PARSE_COMPLETE);
            }
            Err(mistake) => self.fail(&mistake, out),
        }
    }

    fn bind(&mut self, bind: Bind<'_>, out: &mut BytesMut) -> Result<(), Farewell> {
        let (parameters, formats) = frontend::bind_formats(bind.rest).map_err(invalid)?;
        if parameters > 0 {
            self.fail(&Mistake::new(SqlState::PROTOCOL_VIOLATION, "commands of the console have no parameters"), out);
            return Ok(());
        }
        let Some(command) = self.names.get(bind.statement.kept()).cloned() else {
            self.fail(&no_such_statement(bind.statement), out);
            return Ok(());
        };
        if self.portals.len() >= MOST_NAMES && !self.portals.contains_key(bind.portal.kept()) {
            self.fail(&Mistake::new(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many portals"), out);
            return Ok(());
        }
        self.portals.insert(bind.portal.kept().into(), Portal { command, formats: Formats(formats), found: None });
        backend::put_bare(out, backend::BIND_COMPLETE);
        Ok(())
    }

    async fn describe(
        &mut self,
        (target, name): (Target, Name<'_>),
        out: &mut BytesMut,
        stream: &Stream,
    ) -> Result<(), Farewell> {
        let (command, formats) = match target {
            Target::Statement => (self.names.get(name.kept()), Formats::default()),
            Target::Portal => {
                let portal = self.portals.get(name.kept());
                (portal.map(|portal| &portal.command), portal.map(|portal| portal.formats.clone()).unwrap_or_default())
            }
        };
        let Some(command) = command.cloned() else {
            self.fail(&no_such_statement(name), out);
            return Ok(());
        };
        // What would change something is not run to be described: it has no rows.
        let found = match command.has_rows() {
            true => control::answer(&command, &self.giver, self.desk, self.wish(stream)).await,
            false => Ok(Answer::Done { tag: "", notice: None }),
        };
        match found {
            Ok(answer) => {
                if target == Target::Statement {
                    backend::put_no_parameters(out);
                }
                match answer {
                    Answer::Rows(table) => table.put_columns(&formats, out),
                    Answer::Done { .. } => backend::put_bare(out, backend::NO_DATA),
                }
                Ok(())
            }
            Err(undone) => self.fail_unless_over(undone, out),
        }
    }

    async fn execute(
        &mut self,
        (name, wanted): (Name<'_>, i32),
        out: &mut BytesMut,
        stream: &Stream,
    ) -> Result<(), Farewell> {
        let Some(mut portal) = self.portals.remove(name.kept()) else {
            let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name.0));
            self.fail(&Mistake::new(SqlState::INVALID_CURSOR_NAME, message), out);
            return Ok(());
        };
        if portal.found.is_none() {
            match self.obey(&portal.command, stream).await {
                Ok(Answer::Rows(table)) => portal.found = Some((table, 0)),
                Ok(Answer::Done { tag, notice }) => {
                    match tag {
                        "" => backend::put_bare(out, backend::EMPTY_QUERY_RESPONSE),
                        _ => self.put_done(tag, notice.as_deref(), out),
                    }
                    return Ok(());
                }
                Err(undone) => return self.fail_unless_over(undone, out),
            }
        }
        if let Some((table, at)) = &mut portal.found {
            let most = usize::try_from(wanted).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
            let end = at.saturating_add(most).min(table.len());
            (*at..end).for_each(|row| table.put_row(row, &portal.formats, out));
            *at = end;
            match end < table.len() {
                true => backend::put_bare(out, backend::PORTAL_SUSPENDED),
                false => backend::put_command_complete(out, "SHOW"),
            }
        }
        self.portals.insert(name.kept().into(), portal);
        Ok(())
    }

    fn close(&mut self, (target, name): (Target, Name<'_>), out: &mut BytesMut) {
        match target {
            Target::Statement => drop(self.names.remove(name.kept())),
            Target::Portal => drop(self.portals.remove(name.kept())),
        }
        backend::put_bare(out, backend::CLOSE_COMPLETE);
    }

    fn fail(&mut self, mistake: &Mistake, out: &mut BytesMut) {
        self.skips = true;
        put_mistake(mistake, out);
    }

    fn fail_unless_over(&mut self, undone: Undone, out: &mut BytesMut) -> Result<(), Farewell> {
        match undone {
            Undone::Mistaken(mistake) => {
                self.fail(&mistake, out);
                Ok(())
            }
            Undone::Over(farewell) => Err(farewell),
        }
    }
}

/// What is said of a message that cannot be read, whatever is wrong with it.
fn invalid<T>(_: T) -> Farewell {
    Farewell::violation("invalid message")
}

fn no_such_statement(name: Name<'_>) -> Mistake {
    let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name.0));
    Mistake::new(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

fn put_mistake(mistake: &Mistake, out: &mut BytesMut) {
    match &mistake.hint {
        Some(hint) => put_error_with_hint(out, Severity::Error, mistake.code, &mistake.message, hint),
        None => put_error(out, Severity::Error, mistake.code, &mistake.message, None),
    }
}
