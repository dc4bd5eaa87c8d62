//! A client that sends bytes as it is told to, and tells what came back in short words.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use trunkline::auth::Secret;
use trunkline::backend::{Endpoint, Target, connect};
use trunkline::net::{Stream, Unwatched};
use trunkline::wire::frontend::{self, Bind, Name, Parse};
use trunkline::wire::{CancelKey, ErrorFields, Header, backend, frame, startup};

/// A logged-in connection that knows nothing of the protocol but its frames.
pub(crate) struct RawClient {
    stream: TcpStream,
    unread: Vec<u8>,
    port: u16,
    key: CancelKey,
}

impl RawClient {
    /// Logs in as `bench` to `bench`, with these startup parameters.
    pub(crate) fn connect(port: u16, parameters: &[(&str, &str)]) -> Self {
        Self::login(port, "bench", parameters)
    }

    /// The same as this role, whose password is its name.
    pub(crate) fn login(port: u16, role: &str, parameters: &[(&str, &str)]) -> Self {
        Self::login_to(port, role, "bench", parameters)
    }

    /// As `bench` at the console.
    pub(crate) fn console(port: u16) -> Self {
        Self::login_to(port, "bench", "trunkline", &[])
    }

    fn login_to(port: u16, role: &str, database: &str, parameters: &[(&str, &str)]) -> Self {
        let target = Target {
            endpoint: Endpoint::plain(format!("127.0.0.1:{port}").into()),
            user: role.into(),
            database: database.into(),
            password: Some(Secret::new(role.to_owned())),
            salted_password: None,
            parameters: parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stream, key) = runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            let login = connect(&target, deadline).await.unwrap();
            let Stream::Plain(socket) = login.stream else { panic!("TLS was not asked for") };
            let Unwatched::Tcp(stream) = socket.unwatched().unwrap() else { panic!("TCP was asked for") };
            (stream, login.cancel_key)
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, unread: Vec::new(), port, key }
    }

    /// Begins with this packet where no password is asked for. Answers what came up to ReadyForQuery or an error, each
    /// message by its tag and its body.
    pub(crate) fn begin(port: u16, packet: &[u8]) -> (Self, Vec<(u8, Vec<u8>)>) {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let key = CancelKey { process_id: 0, secret: Box::default() };
        let mut client = Self { stream, unread: Vec::new(), port, key };
        client.send(&[packet]);
        let mut told = Vec::new();
        loop {
            let (tag, body) = client.message();
            if tag == b'K' {
                client.key = backend::backend_key(&body).unwrap();
            }
            told.push((tag, body));
            if matches!(tag, b'Z' | b'E') {
                return (client, told);
            }
        }
    }

    /// What cancels its statements.
    pub(crate) fn key(&self) -> &CancelKey {
        &self.key
    }

    /// Sends these messages in one write.
    pub(crate) fn send(&mut self, messages: &[&[u8]]) {
        self.stream.write_all(&messages.concat()).unwrap();
    }

    /// Sends these messages and tells what came back up to so many ReadyForQuery.
    pub(crate) fn ask(&mut self, messages: &[&[u8]], readies: usize) -> Vec<String> {
        self.send(messages);
        let mut told = Vec::new();
        for _ in 0..readies {
            told.extend(self.until(b'Z'));
        }
        told
    }

    /// Sends these bytes, and then those, from another thread, while this one reads.
    pub(crate) fn meanwhile<T>(&mut self, first: Vec<u8>, then: &[u8], read: impl FnOnce(&mut Self) -> T) -> T {
        let (mut stream, then) = (self.stream.try_clone().unwrap(), then.to_vec());
        let sending = thread::spawn(move || {
            stream.write_all(&first).unwrap();
            stream.write_all(&then).unwrap();
        });
        let told = read(self);
        sending.join().unwrap();
        told
    }

    /// Sends these bytes again and again and reads nothing, until nobody has taken any for two seconds, or so many are sent.
    /// Answers how many.
    pub(crate) fn send_until_it_waits(&mut self, bytes: &[u8], most: usize) -> usize {
        self.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let (mut sent, mut rest) = (0, bytes);
        while sent < most {
            match self.stream.write(rest) {
                Ok(count) => {
                    sent += count;
                    rest = if count == rest.len() { bytes } else { &rest[count..] };
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.stream.set_write_timeout(None).unwrap();
        sent
    }

    /// The answer to one simple query.
    pub(crate) fn query(&mut self, sql: &str) -> Vec<String> {
        self.ask(&[&query(sql)], 1)
    }

    /// The server process that BackendKeyData named.
    pub(crate) fn process_id(&self) -> u32 {
        self.key.process_id
    }

    /// What comes, up to a message with this tag.
    pub(crate) fn until(&mut self, tag: u8) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let (next, body) = self.message();
            told.push(words(next, &body));
            if next == tag {
                return told;
            }
        }
    }

    /// What comes until the server closes.
    pub(crate) fn until_end(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next_message()).map(|(tag, body)| words(tag, &body)).collect()
    }

    /// What has come of a message that is not whole.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// Sends nothing any more, and goes on reading.
    pub(crate) fn close_half(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        self.next_message().expect("the connection was closed")
    }

    /// The next message; None: the server has closed.
    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(header) = Header::peek(&self.unread).unwrap().filter(|h| h.size <= self.unread.len()) {
                let message: Vec<u8> = self.unread.drain(..header.size).collect();
                return Some((header.tag, message[frame::HEADER..].to_vec()));
            }
            let mut bytes = [0; 1 << 16];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                // With a timeout, a read is not begun again by the system when a signal has come.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What asks the server to cancel this client's statement; call it from another thread.
    pub(crate) fn canceller(&self) -> impl FnOnce() + Send + 'static {
        let (port, key) = (self.port, self.key.clone());
        move || cancel(port, &key)
    }
}

/// Asks for what has this key to be cancelled, and waits until the server has taken it.
pub(crate) fn cancel(port: u16, key: &CancelKey) {
    let mut packet = BytesMut::new();
    startup::put_cancel(&mut packet, key);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(&packet).unwrap();
    let _ = stream.read(&mut [0]);
}

/// A StartupMessage of protocol 3 with this minor version.
pub(crate) fn startup_packet(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut packet = BytesMut::new();
    startup::put_startup(&mut packet, parameters.iter().copied());
    packet[6..8].copy_from_slice(&minor.to_be_bytes());
    packet.to_vec()
}

fn words(tag: u8, body: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').replace('\0', "=");
    match tag {
        b'D' => format!("row {}", first_column(body)),
        b'E' | b'N' => {
            let fields = ErrorFields::read(body);
            format!("{} {}", fields.code.as_str(), text(fields.message))
        }
        b'C' | b'S' | b'Z' => text(body),
        b'A' => format!("notified by {} {}", u32::from_be_bytes(body[..4].try_into().unwrap()), text(&body[4..])),
        _ => char::from(tag).to_string(),
    }
}

fn first_column(body: &[u8]) -> String {
    let length = i32::from_be_bytes(body[2..6].try_into().unwrap());
    usize::try_from(length).map_or("null".to_owned(), |length| String::from_utf8_lossy(&body[6..6 + length]).into())
}

fn built(build: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    build(&mut out);
    out.to_vec()
}

/// A Query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    built(|out| frontend::put_query(out, sql))
}

/// A Parse without parameter types.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    let parse = Parse { name: Name(name.as_bytes()), text: sql.as_bytes(), types: &[0, 0] };
    built(|out| frontend::put_parse(out, parse))
}

/// A Parse that declares these types of its parameters.
pub(crate) fn parse_declaring(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut declared = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
    declared.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    let parse = Parse { name: Name(name.as_bytes()), text: sql.as_bytes(), types: &declared };
    built(|out| frontend::put_parse(out, parse))
}

/// A Bind of the unnamed portal, with these values as text.
pub(crate) fn bind(statement: &str, values: &[&[u8]]) -> Vec<u8> {
    bind_formats(statement, &[0, 0], values)
}

/// The same, with these values in binary.
pub(crate) fn bind_binary(statement: &str, values: &[&[u8]]) -> Vec<u8> {
    bind_formats(statement, &[0, 1, 0, 1], values)
}

fn bind_formats(statement: &str, formats: &[u8], values: &[&[u8]]) -> Vec<u8> {
    let mut rest = formats.to_vec();
    rest.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        rest.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        rest.extend_from_slice(value);
    }
    rest.extend([0, 0]);
    built(|out| {
        frontend::put_bind(out, Bind { portal: Name(b""), statement: Name(statement.as_bytes()), rest: &rest }, 0)
    })
}

/// An Execute of the unnamed portal.
pub(crate) fn execute() -> Vec<u8> {
    b"E\0\0\0\x09\0\0\0\0\0".to_vec()
}

/// What runs a statement without values that is not prepared before, up to its Sync.
pub(crate) fn run_unnamed(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", &[]), execute()].concat()
}

/// A Bind of a portal of this name, without values.
pub(crate) fn bind_portal(portal: &str, statement: &str) -> Vec<u8> {
    let (portal, statement) = (Name(portal.as_bytes()), Name(statement.as_bytes()));
    built(|out| frontend::put_bind(out, Bind { portal, statement, rest: &[0; 6] }, 0))
}

/// An Execute of a portal of this name, for so many rows at most.
pub(crate) fn execute_portal(portal: &str, most: u32) -> Vec<u8> {
    let length = u32::try_from(portal.len() + 9).unwrap().to_be_bytes();
    [b"E", &length[..], portal.as_bytes(), b"\0", &most.to_be_bytes()].concat()
}

/// A Describe of a statement.
pub(crate) fn describe(statement: &str) -> Vec<u8> {
    built(|out| frontend::put_target(out, frontend::DESCRIBE, frontend::Target::Statement, statement.as_bytes()))
}

/// A Close of a statement.
pub(crate) fn close(statement: &str) -> Vec<u8> {
    built(|out| frontend::put_target(out, frontend::CLOSE, frontend::Target::Statement, statement.as_bytes()))
}

/// A Close of a portal.
pub(crate) fn close_portal(portal: &str) -> Vec<u8> {
    built(|out| frontend::put_target(out, frontend::CLOSE, frontend::Target::Portal, portal.as_bytes()))
}

/// A CopyData.
pub(crate) fn copy_data(bytes: &[u8]) -> Vec<u8> {
    [b"d".as_slice(), &u32::try_from(bytes.len() + 4).unwrap().to_be_bytes(), bytes].concat()
}

/// A FunctionCall with these arguments as text.
pub(crate) fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        body.extend(u32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
    }
    body.extend([0, 0]);
    [b"F".as_slice(), &u32::try_from(body.len() + 4).unwrap().to_be_bytes(), &body].concat()
}

/// A Sync.
pub(crate) const SYNC: &[u8] = b"S\0\0\0\x04";

/// A Flush.
pub(crate) const FLUSH: &[u8] = b"H\0\0\0\x04";

/// A CopyDone.
pub(crate) const COPY_DONE: &[u8] = b"c\0\0\0\x04";

/// A Terminate.
pub(crate) const TERMINATE: &[u8] = b"X\0\0\0\x04";
