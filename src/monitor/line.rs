//! The monitor's own connection to a node: prepares its two queries once, then asks them.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::backend::Login;
use crate::net::Stream;
use crate::net::timers::timeout_at;
use crate::wire::frontend::{self, Bind, Name, Parse};
use crate::wire::{ErrorFields, Header, SqlState, backend, frame};

/// A connection to a node on which the monitor's queries are prepared.
pub(super) struct Line {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    /// The end of its last answer was not waited for.
    owes: bool,
}

/// One row of text columns; None for NULL.
pub(super) type Row = Vec<Option<String>>;

/// Why a query brought no row.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    #[error("no answer in time")]
    Timeout,
    #[error("connection lost")]
    Lost(#[source] io::Error),
    #[error("{message} ({code})")]
    Server { code: SqlState, message: String },
    #[error("not understood: {0}")]
    Protocol(&'static str),
}

impl Line {
    /// Prepares `queries` on a new connection: (name, text) each.
    pub(super) async fn prepare(login: Login, queries: &[(&str, &str)], deadline: Instant) -> Result<Self, LineError> {
        let mut line = Self { stream: login.stream, input: BytesMut::new(), output: BytesMut::new(), owes: false };
        for (name, text) in queries {
            let parse = Parse { name: Name(name.as_bytes()), text: text.as_bytes(), types: NO_TYPES };
            frontend::put_parse(&mut line.output, parse);
        }
        match in_time(deadline, line.exchange()).await {
            Ok(None) => Ok(line),
            Ok(Some(_)) => Err(LineError::Protocol("a row where none was asked for")),
            Err(error) => Err(error),
        }
    }

    /// Asks a prepared query of one row. An answer that is still owed is heard out first, and tells nothing: it was asked
    /// for too long ago.
    pub(super) async fn ask(&mut self, name: &str, deadline: Instant) -> Result<Row, LineError> {
        let answer = in_time(deadline, async {
            if self.owes {
                match self.hear_out().await {
                    Ok(_) | Err(LineError::Server { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            let bind = Bind { portal: Name(b""), statement: Name(name.as_bytes()), rest: NO_VALUES };
            frontend::put_bind(&mut self.output, bind, 0);
            frontend::put_execute(&mut self.output, b"");
            self.exchange().await
        });
        answer.await?.ok_or(LineError::Protocol("no row"))
    }

    /// Where it goes.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.stream.socket().peer_address()
    }

    /// Its last question was not answered in time: it may be yet.
    pub(super) fn owes(&self) -> bool {
        self.owes
    }

    /// It can be used again behind this: nothing has come that cannot be understood, and no question is sent in part.
    pub(super) fn outlives(&self, error: &LineError) -> bool {
        match error {
            LineError::Server { .. } => true,
            LineError::Timeout => self.output.is_empty(),
            LineError::Lost(_) | LineError::Protocol(_) => false,
        }
    }

    /// Waits until the node says something unasked, or hangs up. Dropping this loses nothing: what has come is kept, and
    /// the next probe meets it.
    pub(super) async fn stirred(&mut self) {
        if self.input.is_empty() {
            let _ = self.stream.read_buf(&mut self.input).await;
        }
    }

    /// The node has hung up, or said something that nobody asked for. Answers at once.
    pub(super) fn has_stirred(&mut self) -> bool {
        !self.input.is_empty() || !self.stream.is_quiet()
    }

    async fn exchange(&mut self) -> Result<Option<Row>, LineError> {
        frontend::put_bare(&mut self.output, frontend::SYNC);
        self.stream.write_all(&self.output).await.map_err(LineError::Lost)?;
        self.output.clear();
        self.owes = true;
        self.hear_out().await
    }

    /// To the end of the answer that is owed.
    async fn hear_out(&mut self) -> Result<Option<Row>, LineError> {
        let (mut row, mut failure) = (None, None);
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                backend::DATA_ROW => row = Some(read_row(&body)?),
                backend::ERROR_RESPONSE => {
                    let fields = ErrorFields::read(&body);
                    let message = String::from_utf8_lossy(fields.message).into_owned();
                    failure = Some(LineError::Server { code: fields.code, message });
                    if fields.ends_connection() {
                        return Err(LineError::Lost(io::ErrorKind::ConnectionAborted.into()));
                    }
                }
                backend::READY_FOR_QUERY => {
                    self.owes = false;
                    return failure.map_or(Ok(row), Err);
                }
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<(u8, BytesMut), LineError> {
        loop {
            let header = Header::peek(&self.input).map_err(|_| LineError::Protocol("impossible message length"))?;
            if header.is_some_and(|header| header.size > LARGEST_ANSWER) {
                return Err(LineError::Protocol("answer is too long"));
            }
            if let Some(header) = header.filter(|header| self.input.len() >= header.size) {
                let mut message = self.input.split_to(header.size);
                message.advance(frame::HEADER);
                return Ok((header.tag, message));
            }
            // Room for the whole answer: one that fits is read in one call.
            self.input.reserve(USUAL_ANSWER);
            if self.stream.read_buf(&mut self.input).await.map_err(LineError::Lost)? == 0 {
                return Err(LineError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // So that the node does not log a lost connection.
        self.stream.leave_with(&frontend::GOODBYE);
    }
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = Result<T, LineError>>) -> Result<T, LineError> {
    timeout_at(deadline, work).await.unwrap_or(Err(LineError::Timeout))
}

fn read_row(body: &[u8]) -> Result<Row, LineError> {
    let columns = backend::data_row(body).map_err(|_| LineError::Protocol("truncated row"))?;
    Ok(columns.into_iter().map(|column| column.map(|text| String::from_utf8_lossy(text).into_owned())).collect())
}

/// A Parse that leaves every parameter's type to the node: there are none.
const NO_TYPES: &[u8] = &[0, 0];
/// A Bind without formats and values; every column comes as text.
const NO_VALUES: &[u8] = &[0, 0, 0, 0, 0, 0];
/// Most answers are shorter.
const USUAL_ANSWER: usize = 2 * 1024;
/// The rows asked for have a few hundred bytes; an error message may have a few thousand.
const LARGEST_ANSWER: usize = 64 * 1024;
