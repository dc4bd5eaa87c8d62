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

/// The name of a prepared statement or of a portal, as it is sent; empty: the unnamed one.
///
/// PostgreSQL keeps no more than the first bytes of it: names that have these in common are one. Its errors tell all of it.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(pub &'a [u8]);

impl<'a> Name<'a> {
    /// What PostgreSQL keeps of it, and knows it by.
    #[inline]
    pub fn kept(self) -> &'a [u8] {
        self.0.get(..LONGEST_NAME).unwrap_or(self.0)
    }

    /// It has more bytes than are kept of it.
    #[inline]
    pub fn is_cut(self) -> bool {
        self.0.len() > LONGEST_NAME
    }

    /// This one, of SQL, may be what has been kept of a longer one.
    pub fn may_be_cut(name: &str) -> bool {
        name.len() > LONGEST_NAME - char::MAX.len_utf8()
    }

    /// It is the unnamed one.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Bytes of a name: NAMEDATALEN less one. In messages it is cut behind this byte, though it may be in the midst of a letter; in
/// SQL it is cut before that letter.
pub const LONGEST_NAME: usize = 63;

/// The text of a Query.
pub fn query_text(body: &[u8]) -> Result<&[u8], Truncated> {
    Reader::new(body).cstr()
}

/// A Parse: the statement's name, its text, and the parameter types as they stand.
#[derive(Clone, Copy, Debug)]
pub struct Parse<'a> {
    /// The statement's name.
    pub name: Name<'a>,
    /// The query string.
    pub text: &'a [u8],
    /// The count and the types of parameters, as they stand in the message.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of a Parse.
    pub fn read(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        Ok(Self { name: Name(reader.cstr()?), text: reader.cstr()?, types: reader.rest() })
    }

    /// The types of the parameters that it declares, in order; 0 where the server is to find it.
    pub fn declared(&self) -> impl Iterator<Item = u32> {
        let (types, _) = self.types.get(2..).unwrap_or_default().as_chunks();
        types.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// A Bind: its portal, its statement, and the formats and values as they stand.
#[derive(Clone, Copy, Debug)]
pub struct Bind<'a> {
    /// The portal's name.
    pub portal: Name<'a>,
    /// The statement's name.
    pub statement: Name<'a>,
    /// Formats and values, as they stand in the message.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the body of a Bind, or as much of it as holds the names.
    pub fn read(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        Ok(Self { portal: Name(reader.cstr()?), statement: Name(reader.cstr()?), rest: reader.rest() })
    }
}

/// What a Describe or Close speaks of, and its name.
pub fn target_fields(body: &[u8]) -> Result<(Target, Name<'_>), Truncated> {
    let mut reader = Reader::new(body);
    let target = match reader.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(Truncated),
    };
    Ok((target, Name(reader.cstr()?)))
}

/// The portal of an Execute.
pub fn execute_portal(body: &[u8]) -> Result<Name<'_>, Truncated> {
    Reader::new(body).cstr().map(Name)
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
pub fn execute_fields(body: &[u8]) -> Result<(Name<'_>, i32), Truncated> {
    let mut reader = Reader::new(body);
    Ok((Name(reader.cstr()?), reader.i32()?))
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
        put_cstr(body, parse.name.0);
        put_cstr(body, parse.text);
        body.put_slice(parse.types);
    });
}

/// Appends a Bind. Of its end, `missing` bytes are not in `bind` and will follow.
pub fn put_bind(out: &mut BytesMut, bind: Bind<'_>, missing: usize) {
    let begin = out.len();
    Writer::new(out).message(BIND, |body| {
        put_cstr(body, bind.portal.0);
        put_cstr(body, bind.statement.0);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_its_first_bytes_are_kept() {
        for (length, kept) in [(0, 0), (62, 62), (63, 63), (64, 63), (1000, 63)] {
            let sent = "n".repeat(length);
            let name = Name(sent.as_bytes());
            assert_eq!((name.kept().len(), name.is_cut(), name.is_empty()), (kept, length > kept, length == 0));
        }
        let (mut out, sent) = (BytesMut::new(), "é".repeat(40));
        put_target(&mut out, CLOSE, Target::Statement, sent.as_bytes());
        let (_, name) = target_fields(out.get(5..).unwrap()).unwrap();
        assert_eq!(
            (name.0, name.kept()),
            (sent.as_bytes(), sent.as_bytes().get(..63).unwrap()),
            "in the midst of a letter"
        );
    }

    #[test]
    fn what_sql_keeps_of_a_longer_name_ends_with_a_letter() {
        for (letters, kept) in [("a", 63), ("é", 62), ("€", 63), ("𝄞", 60)] {
            let name = letters.repeat(63);
            let statement =
                crate::sql::classify_bytes(format!("deallocate \"{name}\"").as_bytes(), &Default::default());
            let session = &statement.only().unwrap().session;
            let [crate::sql::SessionChange::Deallocate(name)] = &**session else { panic!("{session:?}") };
            assert_eq!((name.len(), Name::may_be_cut(name)), (kept, true));
        }
        assert!(!Name::may_be_cut(&"n".repeat(59)));
    }
}
