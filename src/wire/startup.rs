//! The untagged packets a connection begins with.

use bytes::{BufMut, BytesMut};

use super::cancel_key::{CancelKey, LONG_SECRET, SHORT_SECRET};
use super::reader::{Reader, Truncated};
use super::writer::{Writer, put_cstr};

/// PostgreSQL's limit on a startup packet, with its length, which MAX_STARTUP_PACKET_LENGTH does not count: a longer one is not a
/// startup packet.
pub const LARGEST: usize = 4 + 10_000;

/// The newest minor version of protocol 3 that we speak to clients, as PostgreSQL 18 does.
pub const NEWEST_MINOR: u16 = 2;

/// The names of options of the protocol itself begin so.
const OPTION: &str = "_pq_.";

const PROTOCOL_3: u32 = 3 << 16;
const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// What a client may begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Begin a session.
    Startup(Startup),
    /// Ask for TLS.
    SslRequest,
    /// Ask for GSSAPI encryption.
    GssEncRequest,
    /// Cancel what the key's owner runs.
    Cancel(CancelKey),
}

/// Names and values, in order.
pub type Parameters = Vec<(Box<str>, Box<str>)>;

/// A StartupMessage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// The minor version of protocol 3 that the client asks for.
    pub minor: u16,
    /// user, database, replication, options and settings, in order.
    pub parameters: Parameters,
}

/// What a NegotiateProtocolVersion says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated<'a> {
    /// The minor version that is spoken.
    pub minor: u16,
    /// The options asked for that we do not know.
    pub unknown: Vec<&'a str>,
}

/// The bytes do not begin a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// The length is impossible: the peer does not speak our protocol.
    #[error("invalid length of startup packet")]
    Length,
    /// Not version 3.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    Version {
        /// The major version asked for.
        major: u32,
        /// The minor version asked for.
        minor: u32,
    },
    /// It ends inside a name or value, or has bytes behind its end.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
}

impl From<Truncated> for StartupError {
    fn from(_: Truncated) -> Self {
        Self::Layout
    }
}

impl Packet {
    /// The packet at the front of `bytes` and its size; None until it is whole.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, StartupError> {
        let Some(&length) = bytes.first_chunk::<4>() else { return Ok(None) };
        let size = usize::try_from(u32::from_be_bytes(length)).map_err(|_| StartupError::Length)?;
        if !(8..=LARGEST).contains(&size) {
            return Err(StartupError::Length);
        }
        let Some(body) = bytes.get(4..size) else { return Ok(None) };
        Self::read_body(body).map(|packet| Some((packet, size)))
    }

    fn read_body(body: &[u8]) -> Result<Self, StartupError> {
        let mut reader = Reader::new(body);
        let code = reader.i32()?.cast_unsigned();
        match code {
            SSL => Ok(Self::SslRequest),
            GSSENC => Ok(Self::GssEncRequest),
            CANCEL => {
                let process_id = reader.i32()?.cast_unsigned();
                Ok(Self::Cancel(CancelKey { process_id, secret: reader.rest().into() }))
            }
            _ if code & 0xFFFF_0000 == PROTOCOL_3 => {
                let minor = u16::try_from(code & 0xFFFF).map_err(|_| StartupError::Layout)?;
                Ok(Self::Startup(Startup { minor, parameters: read_parameters(reader)? }))
            }
            _ => Err(StartupError::Version { major: code >> 16, minor: code & 0xFFFF }),
        }
    }
}

fn read_parameters(mut reader: Reader<'_>) -> Result<Parameters, StartupError> {
    let mut parameters = Vec::new();
    loop {
        let name = reader.text()?;
        if name.is_empty() {
            return if reader.is_empty() { Ok(parameters) } else { Err(StartupError::Layout) };
        }
        parameters.push((name.into(), reader.text()?.into()));
    }
}

impl Startup {
    /// Options of the protocol that are asked for; we know none.
    pub fn unknown_options(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|(name, _)| &**name).filter(|name| is_option(name))
    }

    /// What the client is told that it must do without: None if it gets all that it asks for.
    pub fn negotiated(&self) -> Option<Negotiated<'_>> {
        let unknown: Vec<&str> = self.unknown_options().collect();
        // There is no 3.1, but PostgreSQL lets it pass for 3.0, and a client could not go back to it.
        let minor = if self.minor >= NEWEST_MINOR { NEWEST_MINOR } else { 0 };
        (self.minor > NEWEST_MINOR || !unknown.is_empty()).then_some(Negotiated { minor, unknown })
    }

    /// Bytes of the secret in its cancel key: before 3.2, clients read four.
    pub fn secret_size(&self) -> usize {
        if self.minor >= 2 { LONG_SECRET } else { SHORT_SECRET }
    }

    /// The value of a parameter; of two, the last.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }
}

/// The parameter is an option of the protocol itself.
pub fn is_option(name: &str) -> bool {
    name.starts_with(OPTION)
}

/// Appends a StartupMessage of protocol 3.0.
pub fn put_startup<'a>(out: &mut BytesMut, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    Writer::new(out).counted(|body| {
        body.put_u32(PROTOCOL_3);
        for (name, value) in parameters {
            put_cstr(body, name.as_bytes());
            put_cstr(body, value.as_bytes());
        }
        body.put_u8(0);
    });
}

/// Appends an SSLRequest.
pub fn put_ssl_request(out: &mut BytesMut) {
    Writer::new(out).counted(|body| body.put_u32(SSL));
}

/// Appends a CancelRequest.
pub fn put_cancel(out: &mut BytesMut, key: &CancelKey) {
    Writer::new(out).counted(|body| {
        body.put_u32(CANCEL);
        body.put_u32(key.process_id);
        body.put_slice(&key.secret);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_startup_message_reads_back() {
        let mut out = BytesMut::new();
        put_startup(&mut out, [("user", "ada"), ("database", "shop")]);
        let (packet, size) = Packet::read(&out).unwrap().unwrap();
        assert_eq!(size, out.len());
        let Packet::Startup(startup) = packet else { panic!("a startup message") };
        assert_eq!(startup.parameter("database"), Some("shop"));
        assert_eq!(Packet::read(&out[..out.len() - 1]), Ok(None));
    }

    #[test]
    fn a_startup_message_is_as_long_as_postgresql_lets_it_be_and_no_longer() {
        let of_size = |size: usize| {
            let mut out = BytesMut::new();
            put_startup(&mut out, [("user", "a".repeat(size - 15).as_str())]);
            assert_eq!(out.len(), size);
            Packet::read(&out).map(|packet| packet.map(|(_, size)| size))
        };
        assert_eq!((of_size(10_004), of_size(10_005)), (Ok(Some(10_004)), Err(StartupError::Length)));
    }

    #[test]
    fn a_cancel_request_reads_back() {
        let key = CancelKey { process_id: 7, secret: [1, 2, 3, 4].into() };
        let mut out = BytesMut::new();
        put_cancel(&mut out, &key);
        assert_eq!(Packet::read(&out), Ok(Some((Packet::Cancel(key), 16))));
    }

    fn asking(minor: u16, names: &[&str]) -> Startup {
        Startup { minor, parameters: names.iter().map(|&name| (name.into(), "".into())).collect() }
    }

    #[test]
    fn what_is_not_spoken_is_negotiated() {
        let negotiated = |minor, unknown| Some(Negotiated { minor, unknown });
        assert_eq!(asking(0, &["user"]).negotiated(), None);
        assert_eq!(asking(1, &["user"]).negotiated(), None);
        assert_eq!(asking(2, &["user"]).negotiated(), None);
        assert_eq!(asking(3, &["user"]).negotiated(), negotiated(2, vec![]));
        assert_eq!(asking(0, &["_pq_.a", "user", "_pq_.b"]).negotiated(), negotiated(0, vec!["_pq_.a", "_pq_.b"]));
        assert_eq!(asking(1, &["_pq_.a"]).negotiated(), negotiated(0, vec!["_pq_.a"]));
        assert_eq!(asking(9999, &["_pq_.a"]).negotiated(), negotiated(2, vec!["_pq_.a"]));
        assert_eq!([0, 1, 2, 9999].map(|minor| asking(minor, &[]).secret_size()), [4, 4, 32, 32]);
    }

    #[test]
    fn other_protocols_are_refused() {
        assert_eq!(Packet::read(b"GET / HTTP/1.1\r\n"), Err(StartupError::Length));
        assert_eq!(Packet::read(b"\0\0\0\x08\0\x09\0\x09"), Err(StartupError::Version { major: 9, minor: 9 }));
        assert_eq!(Packet::read(b"\0\0\0\x07\0\0\0"), Err(StartupError::Length));
        assert_eq!(Packet::read(b"\0\0\0\x0a\0\x03\0\0ab"), Err(StartupError::Layout));
    }
}
