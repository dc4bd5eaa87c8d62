//! A query of many rows, read one by one as they come.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::Login;
use crate::net::Stream;
use crate::session::reported::names_told;
use crate::wire::{ErrorFields, Header, SqlState, backend, frame, frontend};

/// A connection of ours to one node, for catalogs.
pub(super) struct Reader {
    stream: Stream,
    input: BytesMut,
    /// The names of what is told of its node at a login.
    told: Vec<Arc<str>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection is lost.
    #[error("the connection was lost")]
    Io(#[from] io::Error),
    /// The node refused.
    #[error("{message} ({code})")]
    Refused {
        /// The SQLSTATE.
        code: SqlState,
        /// The message.
        message: String,
    },
    /// The node's words make no sense.
    #[error("the node does not keep to the protocol")]
    Protocol,
}

/// A row of text columns.
pub(super) struct Row<'a>(Vec<Option<&'a [u8]>>);

impl Row<'_> {
    /// The column's text; empty for NULL.
    pub(super) fn text(&self, column: usize) -> &str {
        self.maybe(column).unwrap_or_default()
    }

    /// The column's text; None for NULL, or where it is no UTF-8.
    pub(super) fn maybe(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.0.get(column).copied().flatten()?).ok()
    }

    /// The column as a number; 0 for anything else.
    pub(super) fn number<T: std::str::FromStr + Default>(&self, column: usize) -> T {
        self.text(column).parse().unwrap_or_default()
    }

    /// The column as a boolean.
    pub(super) fn is(&self, column: usize) -> bool {
        self.text(column) == "t"
    }

    /// The column as numbers, whatever stands between them.
    pub(super) fn numbers(&self, column: usize) -> Vec<u32> {
        self.text(column).split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    }
}

impl Reader {
    pub(super) fn new(login: Login) -> Self {
        let told = names_told(login.parameters.iter().map(|(name, _)| &**name));
        Self { stream: login.stream, input: BytesMut::new(), told }
    }

    /// The names of what is told of its node at a login.
    pub(super) fn told(&self) -> &[Arc<str>] {
        &self.told
    }

    /// Asks, and shows each row. Not cancel-safe: a reader on which it was dropped in the middle must be closed.
    pub(super) async fn rows(&mut self, sql: &str, mut each: impl FnMut(&Row<'_>)) -> Result<(), ReadError> {
        let mut query = BytesMut::new();
        frontend::put_query(&mut query, sql);
        self.stream.write_all(&query).await?;
        let mut refused = None;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                backend::DATA_ROW => each(&Row(backend::data_row(&body).map_err(|_| ReadError::Protocol)?)),
                backend::ERROR_RESPONSE => {
                    let fields = ErrorFields::read(&body);
                    let message = String::from_utf8_lossy(fields.message).into_owned();
                    refused = Some(ReadError::Refused { code: fields.code, message });
                    if fields.ends_connection() {
                        return refused.map_or(Ok(()), Err);
                    }
                }
                backend::READY_FOR_QUERY => return refused.map_or(Ok(()), Err),
                _ => {}
            }
        }
    }

    /// The first column of the first row.
    pub(super) async fn value(&mut self, sql: &str) -> Result<Option<String>, ReadError> {
        let mut value = None;
        self.rows(sql, |row| value = value.take().or_else(|| row.maybe(0).map(str::to_owned))).await?;
        Ok(value)
    }

    /// Says goodbye, and waits until the node has closed the connection: its server process is gone then.
    pub(super) async fn close(mut self) {
        let _ = self.stream.write_all(&frontend::GOODBYE).await;
        self.input.clear();
        while self.stream.read_buf(&mut self.input).await.is_ok_and(|count| count > 0) {
            self.input.clear();
        }
    }

    async fn message(&mut self) -> Result<(u8, BytesMut), ReadError> {
        loop {
            let header = Header::peek(&self.input).map_err(|_| ReadError::Protocol)?;
            if let Some(header) = header.filter(|header| self.input.len() >= header.size) {
                let mut message = self.input.split_to(header.size);
                let body = message.split_off(frame::HEADER);
                return Ok((header.tag, body));
            }
            if header.is_some_and(|header| header.size > LARGEST_ROW) {
                return Err(ReadError::Protocol);
            }
            self.input.reserve(READ_SIZE);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // So that the node does not log a lost connection.
        self.stream.leave_with(&frontend::GOODBYE);
    }
}

/// The body of a function, or the tree of a view: PostgreSQL's own limit for a value is 1 GB, but nobody writes that.
const LARGEST_ROW: usize = 64 << 20;
/// Bytes asked for at once.
const READ_SIZE: usize = 64 * 1024;
