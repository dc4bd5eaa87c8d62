//! Messages that a node sends: their tags, the fields we read, and building them towards clients.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::cancel_key::CancelKey;
use super::reader::{Reader, Truncated};
use super::startup::Negotiated;
use super::writer::{Writer, put_cstr};

#[expect(missing_docs, reason = "each is the message of its name")]
mod tags {
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}
pub use tags::*;

/// The transaction as ReadyForQuery tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionStatus {
    /// In no transaction.
    #[default]
    Idle,
    /// In a transaction.
    Open,
    /// In a failed transaction: only its end is accepted.
    Failed,
}

impl TransactionStatus {
    /// Reads the body of a ReadyForQuery.
    pub fn read(body: &[u8]) -> Result<Self, Truncated> {
        match body {
            [b'I'] => Ok(Self::Idle),
            [b'T'] => Ok(Self::Open),
            [b'E'] => Ok(Self::Failed),
            _ => Err(Truncated),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

/// The name and value of a ParameterStatus.
pub fn parameter_status_fields(body: &[u8]) -> Result<(&[u8], &[u8]), Truncated> {
    let mut reader = Reader::new(body);
    Ok((reader.cstr()?, reader.cstr()?))
}

/// The key of a BackendKeyData.
pub fn backend_key(body: &[u8]) -> Result<CancelKey, Truncated> {
    let mut reader = Reader::new(body);
    Ok(CancelKey { process_id: reader.i32()?.cast_unsigned(), secret: reader.rest().into() })
}

/// The columns of a DataRow; None for NULL.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Truncated> {
    let mut reader = Reader::new(body);
    let count = usize::try_from(reader.i16()?).map_err(|_| Truncated)?;
    let mut columns = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let length = reader.i32()?;
        columns.push(match usize::try_from(length) {
            Ok(length) => Some(reader.bytes(length)?),
            Err(_) => None,
        });
    }
    Ok(columns)
}

/// Appends a ReadyForQuery.
pub fn put_ready(out: &mut BytesMut, status: TransactionStatus) {
    Writer::new(out).message(READY_FOR_QUERY, |body| body.put_u8(status.byte()));
}

/// Appends a CommandComplete.
pub fn put_command_complete(out: &mut BytesMut, tag: &str) {
    Writer::new(out).message(COMMAND_COMPLETE, |body| put_cstr(body, tag.as_bytes()));
}

/// Appends a message without a body: ParseComplete, BindComplete, CloseComplete, NoData, EmptyQueryResponse.
pub fn put_bare(out: &mut BytesMut, tag: u8) {
    Writer::new(out).message(tag, |_| {});
}

/// The body of a ParameterDescription is here as a whole.
pub fn are_all_parameters(body: &[u8]) -> bool {
    body.split_first_chunk().is_some_and(|(count, types)| types.len() == 4 * usize::from(u16::from_be_bytes(*count)))
}

/// Appends a ParameterDescription of no parameters.
pub fn put_no_parameters(out: &mut BytesMut) {
    Writer::new(out).message(PARAMETER_DESCRIPTION, |body| body.put_u16(0));
}

/// Appends a RowDescription of columns, each with its name, its type and its format code, that come from no table.
pub fn put_row_description<'a>(out: &mut BytesMut, columns: impl ExactSizeIterator<Item = (&'a str, ColumnType, i16)>) {
    Writer::new(out).message(ROW_DESCRIPTION, |body| {
        body.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for (name, kind, format) in columns {
            put_cstr(body, name.as_bytes());
            body.put_u32(0);
            body.put_i16(0);
            body.put_u32(kind.oid());
            body.put_i16(kind.size());
            body.put_i32(-1);
            body.put_i16(format);
        }
    });
}

/// Appends a DataRow; None for NULL.
pub fn put_data_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<Cow<'a, [u8]>>>) {
    Writer::new(out).message(DATA_ROW, |body| {
        body.put_u16(u16::try_from(values.len()).unwrap_or(u16::MAX));
        for value in values {
            match value {
                Some(value) => Writer::new(body).value(&value),
                None => body.put_i32(-1),
            }
        }
    });
}

/// The type of a column that we make ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `text`.
    Text,
    /// `int8`.
    Int8,
}

impl ColumnType {
    fn oid(self) -> u32 {
        match self {
            Self::Text => 25,
            Self::Int8 => 20,
        }
    }

    fn size(self) -> i16 {
        match self {
            Self::Text => -1,
            Self::Int8 => 8,
        }
    }
}

/// Appends a ParameterStatus.
pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    Writer::new(out).message(PARAMETER_STATUS, |body| {
        put_cstr(body, name.as_bytes());
        put_cstr(body, value.as_bytes());
    });
}

/// Appends a NotificationResponse of this sender, with a channel and a payload as another one had them.
pub fn put_notification(out: &mut BytesMut, process_id: u32, rest: &[u8]) {
    Writer::new(out).message(NOTIFICATION_RESPONSE, |body| {
        body.put_u32(process_id);
        body.put_slice(rest);
    });
}

/// Appends a BackendKeyData.
pub fn put_backend_key(out: &mut BytesMut, key: &CancelKey) {
    Writer::new(out).message(BACKEND_KEY_DATA, |body| {
        body.put_u32(key.process_id);
        body.put_slice(&key.secret);
    });
}

/// Appends an Authentication message of this code with this body behind it.
pub fn put_authentication(out: &mut BytesMut, code: u32, rest: &[u8]) {
    Writer::new(out).message(AUTHENTICATION, |body| {
        body.put_u32(code);
        body.put_slice(rest);
    });
}

/// Appends a NegotiateProtocolVersion.
pub fn put_negotiate(out: &mut BytesMut, negotiated: &Negotiated<'_>) {
    Writer::new(out).message(NEGOTIATE_PROTOCOL_VERSION, |body| {
        body.put_u16(3);
        body.put_u16(negotiated.minor);
        body.put_u32(u32::try_from(negotiated.unknown.len()).unwrap_or(0));
        for name in &negotiated.unknown {
            put_cstr(body, name.as_bytes());
        }
    });
}
