//! A query of our own on a server connection, and its whole answer: short, and between sessions' statements only.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::{Stream, timers};
use crate::session::columns::Told;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::ErrorFields;
use crate::wire::frontend::Name;
use crate::wire::{FrameError, Header, SqlState, frame, frontend};

/// The answer to a query of our own.
#[derive(Debug, Default)]
pub struct Answer {
    /// All rows of all results.
    pub rows: Vec<Vec<Option<Arc<str>>>>,
    /// What became of statements that were to be described.
    pub described: Described,
    /// ParameterStatus messages that came with it.
    pub parameters: Vec<(Box<str>, Box<str>)>,
    /// Whole NotificationResponse messages that came with it: they are for the session that listens there, if one does.
    pub notifications: Vec<Bytes>,
    /// The transaction as ReadyForQuery told it.
    pub status: TransactionStatus,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection is lost.
    #[error("the server connection was lost")]
    Io(#[from] io::Error),
    /// The node refused; the connection goes on.
    #[error("the node refused: {message} ({code})")]
    Refused {
        /// The SQLSTATE.
        code: SqlState,
        /// The message.
        message: String,
        /// All that it says, as an ErrorResponse has it.
        fields: Box<[u8]>,
        /// What else has come.
        answer: Box<Answer>,
    },
    /// The node's words make no sense.
    #[error("the node does not keep to the protocol")]
    Protocol,
    /// It took too long.
    #[error("the node did not answer in time")]
    Timeout,
    /// The answer to the query before has not been read: this one would be taken for it.
    #[error("an earlier query of Trunkline's own has not been answered")]
    Unanswered,
}

impl ExchangeError {
    /// The whole answer has come.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl From<FrameError> for ExchangeError {
    fn from(_: FrameError) -> Self {
        Self::Protocol
    }
}

/// Largest message of an answer to our own queries. They are some hundred bytes, but for a setting that a session has put a
/// document into, which is kept for it and sent along: a longer one ends it.
const LARGEST_MESSAGE: usize = 16 << 20;

/// Sends one simple query and reads its answer up to ReadyForQuery. Not cancel-safe: a connection on which it was
/// dropped in the middle must be closed; [`super::connection::Connection::query`] sees to that.
pub async fn query(stream: &mut Stream, sql: &str, deadline: tokio::time::Instant) -> Result<Answer, ExchangeError> {
    let whole = async {
        let mut buffer = send_query(stream, sql).await?;
        read_answer(stream, &mut buffer).await
    };
    timers::timeout_at(deadline, whole).await.map_err(|_| ExchangeError::Timeout)?
}

/// The same for a statement with one value, `$1`, as text.
pub async fn query_with(
    stream: &mut Stream,
    sql: &str,
    value: &str,
    deadline: tokio::time::Instant,
) -> Result<Answer, ExchangeError> {
    let whole = async {
        let mut buffer = BytesMut::with_capacity(1024);
        let length = u32::try_from(value.len()).map_err(|_| ExchangeError::Protocol)?;
        // Text in, one value, text out.
        let values = [&[0, 0, 0, 1], &length.to_be_bytes()[..], value.as_bytes(), &[0, 0]].concat();
        frontend::put_parse(&mut buffer, frontend::Parse { name: Name(b""), text: sql.as_bytes(), types: &[0, 0] });
        frontend::put_bind(&mut buffer, frontend::Bind { portal: Name(b""), statement: Name(b""), rest: &values }, 0);
        frontend::put_execute(&mut buffer, b"");
        frontend::put_bare(&mut buffer, frontend::SYNC);
        stream.write_all(&buffer).await?;
        buffer.clear();
        read_answer(stream, &mut buffer).await
    };
    timers::timeout_at(deadline, whole).await.map_err(|_| ExchangeError::Timeout)?
}

/// Reads what still comes of what was sent before, up to the answer to a query of our own; answers how many ReadyForQuery
/// that were, too. Not cancel-safe either.
pub async fn regain_step(
    stream: &mut Stream,
    deadline: tokio::time::Instant,
) -> Result<(Answer, usize), ExchangeError> {
    let whole = async {
        let mut buffer = send_query(stream, "SELECT 1").await?;
        let (mut before, mut count) = (Answer::default(), 0);
        loop {
            // In a transaction that has failed it is refused.
            let (mut answer, refused) = read_to_ready(stream, &mut buffer).await?;
            before.parameters.append(&mut answer.parameters);
            before.notifications.append(&mut answer.notifications);
            if refused.is_some() || !answer.rows.is_empty() {
                return Ok((before, count));
            }
            count += 1;
        }
    };
    timers::timeout_at(deadline, whole).await.map_err(|_| ExchangeError::Timeout)?
}

/// What became of the statements that were to be parsed and described, in their order.
#[derive(Debug, Default)]
pub struct Described {
    /// How many were parsed.
    pub parsed: usize,
    /// What was told of each.
    pub told: Vec<Told>,
}

/// Sends messages of ours that end with a Sync, and answers what became of the statements in them. What the node refuses
/// ends that early: what it has answered before stands in the refusal. Not cancel-safe either.
pub async fn describe(
    stream: &mut Stream,
    messages: &[u8],
    deadline: tokio::time::Instant,
) -> Result<Answer, ExchangeError> {
    let whole = async {
        stream.write_all(messages).await?;
        read_answer(stream, &mut BytesMut::with_capacity(1024)).await
    };
    timers::timeout_at(deadline, whole).await.map_err(|_| ExchangeError::Timeout)?
}

/// Sends a Query; answers an empty buffer for what comes.
async fn send_query(stream: &mut Stream, sql: &str) -> io::Result<BytesMut> {
    let mut buffer = BytesMut::with_capacity(1024);
    frontend::put_query(&mut buffer, sql);
    stream.write_all(&buffer).await?;
    buffer.clear();
    Ok(buffer)
}

async fn read_answer(stream: &mut Stream, buffer: &mut BytesMut) -> Result<Answer, ExchangeError> {
    match read_to_ready(stream, buffer).await? {
        (answer, None) => Ok(answer),
        (answer, Some(fields)) => {
            let ErrorFields { code, message, .. } = ErrorFields::read(&fields);
            let message = String::from_utf8_lossy(message).into_owned();
            Err(ExchangeError::Refused { code, message, fields, answer: Box::new(answer) })
        }
    }
}

/// The answer as far as it came, and what the node has refused with, if it has refused.
async fn read_to_ready(
    stream: &mut Stream,
    buffer: &mut BytesMut,
) -> Result<(Answer, Option<Box<[u8]>>), ExchangeError> {
    let mut answer = Answer::default();
    let mut refused = None;
    let mut types: Box<[u8]> = Box::default();
    loop {
        let Some(header) = Header::peek(buffer)?.filter(|header| buffer.len() >= header.size) else {
            if buffer.len() > LARGEST_MESSAGE {
                return Err(ExchangeError::Protocol);
            }
            let least = least_to_come(buffer)?;
            if stream.read_buf(&mut buffer.limit(least)).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            continue;
        };
        let message = buffer.split_to(header.size);
        let body = message.get(frame::HEADER..).unwrap_or_default();
        match header.tag {
            backend::DATA_ROW => answer.rows.push(read_row(body)?),
            backend::PARSE_COMPLETE => answer.described.parsed += 1,
            backend::PARAMETER_DESCRIPTION => types = body.into(),
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                let told = Told { types: std::mem::take(&mut types), tag: header.tag, columns: body.into() };
                answer.described.told.push(told);
            }
            backend::PARAMETER_STATUS => answer.parameters.push(read_parameter(body)?),
            backend::NOTIFICATION_RESPONSE => answer.notifications.push(message.freeze()),
            backend::ERROR_RESPONSE => {
                if ErrorFields::read(body).ends_connection() {
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
                }
                refused = Some(body.into());
            }
            backend::READY_FOR_QUERY => {
                answer.status = TransactionStatus::read(body).map_err(|_| ExchangeError::Protocol)?;
                return Ok((answer, refused));
            }
            _ => {}
        }
    }
}

/// How many bytes the answer still has at least. No more may be read: a node that stops says goodbye right behind an answer,
/// and that belongs to whoever has the connection next, who would take the answer to what it sends then for lost.
fn least_to_come(buffer: &BytesMut) -> Result<usize, FrameError> {
    /// A ReadyForQuery, which ends the answer.
    const READY: usize = frame::HEADER + 1;
    Ok(match Header::peek(buffer)? {
        Some(header) if header.tag == backend::READY_FOR_QUERY => header.size - buffer.len(),
        Some(header) => header.size - buffer.len() + READY,
        None => READY - buffer.len(),
    })
}

fn read_row(body: &[u8]) -> Result<Vec<Option<Arc<str>>>, ExchangeError> {
    let columns = backend::data_row(body).map_err(|_| ExchangeError::Protocol)?;
    Ok(columns.into_iter().map(|column| column.map(|bytes| String::from_utf8_lossy(bytes).into())).collect())
}

fn read_parameter(body: &[u8]) -> Result<(Box<str>, Box<str>), ExchangeError> {
    let (name, value) = backend::parameter_status_fields(body).map_err(|_| ExchangeError::Protocol)?;
    Ok((String::from_utf8_lossy(name).into(), String::from_utf8_lossy(value).into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::UnixStream;

    use super::*;
    use crate::wire::error_response::{Severity, put_error};

    #[tokio::test]
    async fn a_goodbye_right_behind_the_answer_is_left_for_whoever_reads_next() {
        let (ours, mut node) = UnixStream::pair().unwrap();
        let mut stream = Stream::from(ours);
        let (mut said, mut goodbye) = (BytesMut::new(), BytesMut::new());
        put_error(&mut goodbye, Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "going down", None);
        backend::put_parameter_status(&mut said, "application_name", "a");
        backend::put_command_complete(&mut said, "SELECT 1");
        backend::put_ready(&mut said, TransactionStatus::Idle);
        said.extend_from_slice(&goodbye);
        node.write_all(&said).await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        let answer = query(&mut stream, "SELECT set_config('application_name', 'a', false)", deadline).await.unwrap();
        assert_eq!(answer.parameters, [("application_name".into(), "a".into())]);
        assert!(!stream.is_quiet(), "nobody would know that the node has said goodbye");
        let mut left = vec![0; goodbye.len() - 1];
        stream.read_exact(&mut left).await.unwrap();
        assert_eq!(left, goodbye[1..], "looking has taken one byte");
    }
}
