//! Messages that a client sends: their tags, the fields we read, and building them towards nodes.

use bytes::{BufMut, BytesMut};

use super::reader::{Reader, Truncated};
use super::writer::{Writer, put_cstr};

#[expect(missing_docs, reason = "each is the message of its name")]
mod tags {
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}
pub use tags::*;

/// A client that has logged in may send a message with this tag.
pub fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        BIND | CLOSE
            | COPY_DATA
            | COPY_DONE
            | COPY_FAIL
            | DESCRIBE
            | EXECUTE
            | FLUSH
            | FUNCTION_CALL
            | PARSE
            | QUERY
            | SYNC
            | TERMINATE
    )
}

/// The most bytes of a message that cannot be large, its tag included: servers from PostgreSQL 14 on end the connection for more.
pub const SMALL: usize = 10_001;

/// A message with this tag may carry texts or data, and be larger than [`SMALL`].
pub fn may_be_large(tag: u8) -> bool {
    matches!(tag, BIND | COPY_DATA | FUNCTION_CALL | PARSE | QUERY)
}

/// What Describe and Close speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// The text of a Query.
pub fn query_text(body: &[u8]) -> Result<&[u8], Truncated> {
    Reader::new(body).cstr()
}

/// A Parse: the statement's name, its text, and the parameter types as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty: the unnamed one.
    pub name: &'a [u8],
    /// The query string.
    pub text: &'a [u8],
    /// The count and the types of parameters, as they stand in the message.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of a Parse.
    pub fn read(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        Ok(Self { name: reader.cstr()?, text: reader.cstr()?, types: reader.rest() })
    }

    /// The types of the parameters that it declares, in order; 0 where the server is to find it.
    pub fn declared(&self) -> impl Iterator<Item = u32> {
        let (types, _) = self.types.get(2..).unwrap_or_default().as_chunks();
        types.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// A Bind: its portal, its statement, and the formats and values as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty: the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name; empty: the unnamed one.
    pub statement: &'a [u8],
    /// Formats and values, as they stand in the message.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the body of a Bind, or as much of it as holds the names.
    pub fn read(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        Ok(Self { portal: reader.cstr()?, statement: reader.cstr()?, rest: reader.rest() })
    }
}

/// What a Describe or Close speaks of, and its name.
pub fn target_fields(body: &[u8]) -> Result<(Target, &[u8]), Truncated> {
    let mut reader = Reader::new(body);
    let target = match reader.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(Truncated),
    };
    Ok((target, reader.cstr()?))
}

/// The portal of an Execute.
pub fn execute_portal(body: &[u8]) -> Result<&[u8], Truncated> {
    Reader::new(body).cstr()
}

/// The formats that a Bind asks its results in, of the bytes behind its names; and how many parameters it has.
pub fn bind_formats(rest: &[u8]) -> Result<(usize, Vec<i16>), Truncated> {
    let mut reader = Reader::new(rest);
    let count = |reader: &mut Reader<'_>| usize::try_from(reader.i16()?).map_err(|_| Truncated);
    for _ in 0..count(&mut reader)? {
        reader.i16()?;
    }
    let parameters = count(&mut reader)?;
    for _ in 0..parameters {
        if let Ok(length) = usize::try_from(reader.i32()?) {
            reader.bytes(length)?;
        }
    }
    let formats = count(&mut reader)?;
    let formats = (0..formats).map(|_| reader.i16()).collect::<Result<_, _>>()?;
    Ok((parameters, formats))
}

/// The portal of an Execute, and how many rows it wants; 0: all.
pub fn execute_fields(body: &[u8]) -> Result<(&[u8], i32), Truncated> {
    let mut reader = Reader::new(body);
    Ok((reader.cstr()?, reader.i32()?))
}

/// The number of the function that a FunctionCall calls.
pub fn called_function(body: &[u8]) -> Result<u32, Truncated> {
    body.first_chunk().map(|oid| u32::from_be_bytes(*oid)).ok_or(Truncated)
}

/// A Terminate: the connection is over.
pub const GOODBYE: [u8; 5] = [TERMINATE, 0, 0, 0, 4];

/// Appends a Query.
pub fn put_query(out: &mut BytesMut, text: impl AsRef<[u8]>) {
    Writer::new(out).message(QUERY, |body| put_cstr(body, text.as_ref()));
}

/// Appends a Parse.
pub fn put_parse(out: &mut BytesMut, parse: Parse<'_>) {
    Writer::new(out).message(PARSE, |body| {
        put_cstr(body, parse.name);
        put_cstr(body, parse.text);
        body.put_slice(parse.types);
    });
}

/// Appends a Bind. Of its end, `missing` bytes are not in `bind` and will follow.
pub fn put_bind(out: &mut BytesMut, bind: Bind<'_>, missing: usize) {
    let begin = out.len();
    Writer::new(out).message(BIND, |body| {
        put_cstr(body, bind.portal);
        put_cstr(body, bind.statement);
        body.put_slice(bind.rest);
    });
    if missing > 0
        && let Some(length) = out.get_mut(begin + 1..begin + 5)
    {
        let given = begin_length(length) + missing;
        length.copy_from_slice(&u32::try_from(given).unwrap_or(u32::MAX).to_be_bytes());
    }
}

fn begin_length(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
}

/// Appends an Execute of all rows of a portal.
pub fn put_execute(out: &mut BytesMut, portal: &[u8]) {
    Writer::new(out).message(EXECUTE, |body| {
        put_cstr(body, portal);
        body.put_u32(0);
    });
}

/// Appends a Describe or a Close.
pub fn put_target(out: &mut BytesMut, tag: u8, target: Target, name: &[u8]) {
    Writer::new(out).message(tag, |body| {
        body.put_u8(match target {
            Target::Statement => b'S',
            Target::Portal => b'P',
        });
        put_cstr(body, name);
    });
}

/// Appends a message without a body: Sync, Flush, Terminate, CopyDone.
pub fn put_bare(out: &mut BytesMut, tag: u8) {
    Writer::new(out).message(tag, |_| {});
}
