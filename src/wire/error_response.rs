//! ErrorResponse and NoticeResponse: their fields, reading and building.

use bytes::{BufMut, BytesMut};

use super::reader::Reader;
use super::sqlstate::SqlState;
use super::writer::{Writer, put_cstr};
use super::{backend, frame};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
    /// The server ends.
    Panic,
    /// A warning: the statement goes on.
    Warning,
    /// A notice of some kind.
    Notice,
}

/// The fields of an ErrorResponse or NoticeResponse that we act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// How bad it is.
    pub severity: Severity,
    /// What went wrong.
    pub code: SqlState,
    /// The message for people.
    pub message: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Reads the body of an ErrorResponse or NoticeResponse; what is missing is taken for an internal error.
    pub fn read(body: &'a [u8]) -> Self {
        let mut fields = Self { severity: Severity::Notice, code: SqlState::INTERNAL_ERROR, message: b"" };
        let mut localized = None;
        let mut reader = Reader::new(body);
        while let Ok(field @ 1..) = reader.u8() {
            let Ok(value) = reader.cstr() else { break };
            match field {
                b'V' => localized = Some(Severity::read(value)),
                b'S' => localized = localized.or(Some(Severity::read(value))),
                b'C' => fields.code = SqlState::from_bytes(value).unwrap_or(SqlState::INTERNAL_ERROR),
                b'M' => fields.message = value,
                _ => {}
            }
        }
        fields.severity = localized.unwrap_or(Severity::Error);
        fields
    }

    /// The connection does not survive it.
    pub fn ends_connection(&self) -> bool {
        matches!(self.severity, Severity::Fatal | Severity::Panic)
    }
}

impl Severity {
    fn read(word: &[u8]) -> Self {
        match word {
            b"ERROR" => Self::Error,
            b"FATAL" => Self::Fatal,
            b"PANIC" => Self::Panic,
            _ => Self::Notice,
        }
    }

    fn word(self) -> &'static [u8] {
        match self {
            Self::Error => b"ERROR",
            Self::Fatal => b"FATAL",
            Self::Panic => b"PANIC",
            Self::Warning => b"WARNING",
            Self::Notice => b"NOTICE",
        }
    }
}

/// Appends an ErrorResponse.
pub fn put_error(out: &mut BytesMut, severity: Severity, code: SqlState, message: &str, detail: Option<&str>) {
    let more = detail.map(|detail| (b'D', detail));
    put(out, backend::ERROR_RESPONSE, severity, code, message, more.as_slice());
}

/// Appends an ErrorResponse with a hint.
pub fn put_error_with_hint(out: &mut BytesMut, severity: Severity, code: SqlState, message: &str, hint: &str) {
    put(out, backend::ERROR_RESPONSE, severity, code, message, &[(b'H', hint)]);
}

/// Appends an ErrorResponse with a detail and a hint, each unless it is empty.
pub fn put_error_explained(
    out: &mut BytesMut,
    severity: Severity,
    code: SqlState,
    message: &str,
    [detail, hint]: [&str; 2],
) {
    put(out, backend::ERROR_RESPONSE, severity, code, message, &[(b'D', detail), (b'H', hint)]);
}

/// Appends an ErrorResponse that names the routine of PostgreSQL which says so: some drivers go by that.
pub fn put_error_of(out: &mut BytesMut, severity: Severity, code: SqlState, message: &str, routine: &str) {
    put(out, backend::ERROR_RESPONSE, severity, code, message, &[(b'R', routine)]);
}

/// Appends an ErrorResponse whose fields are these bytes.
pub fn put_body(out: &mut BytesMut, fields: &[u8]) {
    Writer::new(out).message(backend::ERROR_RESPONSE, |body| body.put_slice(fields));
}

/// These fields of an ErrorResponse as the end of a connection: what a server says of a setting at login.
pub fn as_fatal(fields: &[u8]) -> Box<[u8]> {
    let (mut fatal, mut reader) = (BytesMut::with_capacity(fields.len() + 2), Reader::new(fields));
    while let Ok(field @ 1..) = reader.u8() {
        let Ok(value) = reader.cstr() else { break };
        // Where in a statement of ours it was is nothing to the client.
        if !matches!(field, b'P' | b'p' | b'q' | b'W') {
            fatal.put_u8(field);
            put_cstr(&mut fatal, if matches!(field, b'S' | b'V') { Severity::Fatal.word() } else { value });
        }
    }
    fatal.put_u8(0);
    (&*fatal).into()
}

/// An ErrorResponse or NoticeResponse of these fields, with another position in the query string in place of the one they tell;
/// None if they tell none.
pub fn with_position(tag: u8, body: &[u8], other: impl Fn(usize) -> usize) -> Option<BytesMut> {
    let (mut changed, mut is_told) = (BytesMut::with_capacity(frame::HEADER + body.len()), false);
    Writer::new(&mut changed).message(tag, |out| {
        let mut reader = Reader::new(body);
        while let Ok(field @ 1..) = reader.u8() {
            let Ok(value) = reader.cstr() else { break };
            out.put_u8(field);
            match std::str::from_utf8(value).ok().and_then(|value| value.parse().ok()).filter(|_| field == b'P') {
                Some(position) => {
                    is_told = true;
                    put_cstr(out, other(position).to_string().as_bytes());
                }
                None => put_cstr(out, value),
            }
        }
        out.put_u8(0);
    });
    is_told.then_some(changed)
}

/// Appends a NoticeResponse.
pub fn put_notice(out: &mut BytesMut, code: SqlState, message: &str) {
    put(out, backend::NOTICE_RESPONSE, Severity::Notice, code, message, &[]);
}

/// Appends a NoticeResponse that warns.
pub fn put_warning(out: &mut BytesMut, code: SqlState, message: &str, detail: &str) {
    put(out, backend::NOTICE_RESPONSE, Severity::Warning, code, message, &[(b'D', detail)]);
}

fn put(out: &mut BytesMut, tag: u8, severity: Severity, code: SqlState, message: &str, more: &[(u8, &str)]) {
    out.reserve(frame::HEADER + 40 + message.len());
    Writer::new(out).message(tag, |body| {
        let mut field = |key: u8, value: &[u8]| {
            body.put_u8(key);
            put_cstr(body, value);
        };
        field(b'S', severity.word());
        field(b'V', severity.word());
        field(b'C', &code.0);
        field(b'M', message.as_bytes());
        for (key, value) in more.iter().filter(|(_, value)| !value.is_empty()) {
            field(*key, value.as_bytes());
        }
        body.put_u8(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut out = BytesMut::new();
        put_error(&mut out, Severity::Fatal, SqlState::ADMIN_SHUTDOWN, "going down", Some("soon"));
        let fields = ErrorFields::read(&out[frame::HEADER..]);
        assert_eq!(fields.severity, Severity::Fatal);
        assert_eq!(fields.code, SqlState::ADMIN_SHUTDOWN);
        assert_eq!(fields.message, b"going down");
        assert!(fields.ends_connection());
    }

    #[test]
    fn an_error_becomes_the_end_of_a_connection() {
        let fields = b"SERROR\0VERROR\0C22023\0Mno\0Hyes\0P7\0WSQL statement\0\0";
        assert_eq!(&*as_fatal(fields), b"SFATAL\0VFATAL\0C22023\0Mno\0Hyes\0\0");
        assert_eq!(&*as_fatal(b"Cshort"), b"\0");
    }

    #[test]
    fn another_position_is_told_in_place_of_the_one_that_is() {
        let fields = b"SERROR\0C42601\0Mno\0P17\0Fscan.l\0\0";
        let told = with_position(backend::ERROR_RESPONSE, fields, |position| position - 10).unwrap();
        assert_eq!(&told[frame::HEADER..], b"SERROR\0C42601\0Mno\0P7\0Fscan.l\0\0");
        assert_eq!(with_position(backend::ERROR_RESPONSE, b"SERROR\0Mno\0\0", |position| position), None);
    }

    #[test]
    fn garbage_is_an_internal_error() {
        assert_eq!(ErrorFields::read(b"Cshort").code, SqlState::INTERNAL_ERROR);
        assert_eq!(ErrorFields::read(b"").severity, Severity::Error);
    }
}
