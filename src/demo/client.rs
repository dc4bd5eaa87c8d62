//! A blocking client of the smallest kind: logs in by password, runs simple queries, reads values as text.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BytesMut};

use crate::auth::{AuthError, LoginStep, Secret, ServerLogin};
use crate::wire::reader::Truncated;
use crate::wire::writer::Writer;
use crate::wire::{ErrorFields, FrameError, Header, Reader, SqlState, backend, frame, frontend, startup};

/// A connection to a port of this machine.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: BytesMut,
}

/// The rows of an answer; None is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server said why; the connection goes on.
    #[error("{code}: {message}")]
    Refused {
        /// What went wrong.
        code: SqlState,
        /// The server's words.
        message: String,
    },
    /// The server ended the connection, and said why.
    #[error("connection ended by {code}: {message}")]
    Ended {
        /// What went wrong.
        code: SqlState,
        /// The server's words.
        message: String,
    },
    /// The connection broke.
    #[error("the connection was lost")]
    Lost(#[from] io::Error),
    /// The login failed on our side.
    #[error("login")]
    Login(#[from] AuthError),
    /// The server does not speak the protocol.
    #[error("the answer breaks the protocol")]
    Framing(#[from] FrameError),
    /// A message of the server ends too early.
    #[error("the answer breaks the protocol")]
    Message(#[from] Truncated),
}

/// A message of the server: its tag and its body.
type Message = (u8, BytesMut);

impl Client {
    /// Connects and logs in.
    pub fn connect(port: u16, user: &str, password: &str, database: &str) -> Result<Self, ClientError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut client = Self { stream, received: BytesMut::new() };
        let mut packet = BytesMut::new();
        startup::put_startup(&mut packet, [("user", user), ("database", database), ("application_name", "demo")]);
        client.stream.write_all(&packet)?;
        client.log_in(user, password)?;
        client.answer()?;
        Ok(client)
    }

    /// Runs a query string and returns the rows of all its statements; the first error is the answer if there is one.
    pub fn query(&mut self, text: &str) -> Result<Rows, ClientError> {
        let mut message = BytesMut::new();
        frontend::put_query(&mut message, text);
        self.stream.write_all(&message)?;
        self.answer()
    }

    fn log_in(&mut self, user: &str, password: &str) -> Result<(), ClientError> {
        let secret = Secret::new(password.to_owned());
        let mut login = ServerLogin::new(user.to_owned(), Some(secret), nonce());
        loop {
            let (tag, body) = self.message()?;
            if tag == backend::ERROR_RESPONSE {
                return Err(told(&body));
            }
            let mut reader = Reader::new(&body);
            match login.handle(reader.i32()?, reader.rest())? {
                LoginStep::Send(answer) => self.send_password(&answer)?,
                LoginStep::Wait => {}
                LoginStep::Done => return Ok(()),
            }
        }
    }

    fn send_password(&mut self, answer: &[u8]) -> io::Result<()> {
        let mut message = BytesMut::new();
        Writer::new(&mut message).message(frontend::PASSWORD, |body| body.extend_from_slice(answer));
        self.stream.write_all(&message)
    }

    /// Reads up to ReadyForQuery.
    fn answer(&mut self) -> Result<Rows, ClientError> {
        let mut rows = Rows::new();
        let mut problem = None;
        loop {
            let (tag, body) = self.message()?;
            match tag {
                backend::DATA_ROW => rows.push(backend::data_row(&body)?.into_iter().map(text).collect()),
                backend::ERROR_RESPONSE => match told(&body) {
                    ended @ ClientError::Ended { .. } => return Err(ended),
                    refused => problem = problem.or(Some(refused)),
                },
                backend::READY_FOR_QUERY => return problem.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<Message, ClientError> {
        loop {
            if let Some(header) = Header::peek(&self.received)?
                && self.received.len() >= header.size
            {
                let mut message = self.received.split_to(header.size);
                message.advance(frame::HEADER);
                return Ok((header.tag, message));
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut piece = [0; 8192];
        let length = self.stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend(piece.iter().take(length));
        Ok(())
    }
}

fn told(body: &[u8]) -> ClientError {
    let fields = ErrorFields::read(body);
    let (code, message) = (fields.code, String::from_utf8_lossy(fields.message).into_owned());
    if fields.ends_connection() { ClientError::Ended { code, message } } else { ClientError::Refused { code, message } }
}

fn text(value: Option<&[u8]>) -> Option<String> {
    value.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Printable and fresh for each login, as SCRAM wants it.
fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The server is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than Trunkline holds a statement for want of a primary.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
