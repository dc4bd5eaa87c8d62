//! Makes a server connection and logs in: from an address to a connection that is ready for its first query.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::auth::{AuthError, LoginStep, SaltedPassword, Secret, ServerLogin};
use crate::wire::writer::Writer;
use crate::wire::{CancelKey, ErrorFields, Header, Severity, SqlState, backend, frame, frontend, startup};

/// Whom to connect to, and as whom.
#[derive(Clone)]
pub struct Target {
    /// `host:port`; the name is resolved for every connection.
    pub address: Arc<str>,
    /// The role to log in as.
    pub user: Arc<str>,
    /// The database on the node.
    pub database: Arc<str>,
    /// Its password; None where the node trusts.
    pub password: Option<Secret>,
    /// [`Login::salted_password`] of an earlier login: saves a few milliseconds of hashing.
    pub salted_password: Option<SaltedPassword>,
    /// Further startup parameters: names and values.
    pub parameters: Vec<(String, String)>,
}

/// A server connection that is ready for its first query; nothing is left unread.
pub struct Login {
    /// The connection: no delay, keepalive on.
    pub stream: TcpStream,
    /// What the node reported of its settings, in order.
    pub parameters: Vec<(Box<str>, Box<str>)>,
    /// What cancels its queries.
    pub cancel_key: CancelKey,
    /// To keep for later logins to this node as this role.
    pub salted_password: Option<SaltedPassword>,
}

impl Login {
    /// The server process behind the connection.
    pub fn process_id(&self) -> u32 {
        self.cancel_key.process_id
    }

    /// What the node reported of this setting.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing listens there, or no way leads there.
    #[error("connection refused")]
    Refused(#[source] io::Error),
    /// Not done before the deadline.
    #[error("no answer in time")]
    Timeout,
    /// The name has no address.
    #[error("name has no address")]
    Dns(#[source] io::Error),
    /// The connection broke on the way.
    #[error("connection lost while logging in")]
    Io(#[source] io::Error),
    /// The node says no.
    #[error("{message} ({code})")]
    Server {
        /// How bad it is.
        severity: Severity,
        /// What is wrong.
        code: SqlState,
        /// In the node's words.
        message: Box<str>,
    },
    /// The node asks for something that we cannot prove or do not speak, or could not prove itself.
    #[error("login failed")]
    Auth(#[source] AuthError),
    /// It does not speak PostgreSQL's protocol.
    #[error("not PostgreSQL's protocol: {0}")]
    Protocol(&'static str),
}

/// What a failure to connect means for who wanted the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectClass {
    /// Nobody is there: the node is down.
    Down,
    /// The name has no address.
    Unresolved,
    /// Silence: frozen, overloaded, or cut off.
    Silent,
    /// The connection broke; the next attempt may tell more.
    Lost,
    /// It starts, recovers or stops (57P01 to 57P03): try again soon.
    Starting,
    /// 53300: it lives, and has no room.
    Full,
    /// It does not let this role in: trying again changes nothing until somebody changes the configuration.
    Denied,
    /// Its answer is none we know how to act on.
    Broken,
}

impl ConnectError {
    /// What this failure means.
    pub fn class(&self) -> ConnectClass {
        match self {
            Self::Refused(_) => ConnectClass::Down,
            Self::Timeout => ConnectClass::Silent,
            Self::Dns(_) => ConnectClass::Unresolved,
            Self::Io(_) => ConnectClass::Lost,
            Self::Server { code, .. } => class_of(*code),
            Self::Auth(_) => ConnectClass::Denied,
            Self::Protocol(_) => ConnectClass::Broken,
        }
    }
}

fn class_of(code: SqlState) -> ConnectClass {
    match code {
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => ConnectClass::Starting,
        SqlState::TOO_MANY_CONNECTIONS => ConnectClass::Full,
        SqlState::INVALID_CATALOG_NAME | SqlState::INSUFFICIENT_PRIVILEGE => ConnectClass::Denied,
        SqlState([b'2', b'8', ..]) => ConnectClass::Denied,
        _ => ConnectClass::Broken,
    }
}

/// Connects, logs in and waits until the node is ready for a query.
pub async fn connect(target: &Target, deadline: Instant) -> Result<Login, ConnectError> {
    let mut stream = within(deadline, open(&target.address)).await?;
    prepare(&stream).map_err(ConnectError::Io)?;
    let (parameters, cancel_key, salted_password) = within(deadline, log_in(&mut stream, target)).await?;
    Ok(Login { stream, parameters, cancel_key, salted_password })
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    timeout_at(deadline, work).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Tries every address of the name; the last one's failure counts.
async fn open(address: &str) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(address).await.map_err(ConnectError::Dns)?.collect();
    let mut failure = ConnectError::Dns(io::ErrorKind::NotFound.into());
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = refusal(error),
        }
    }
    Err(failure)
}

fn refusal(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => ConnectError::Refused(error),
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ => ConnectError::Io(error),
    }
}

/// Small messages go out at once; a peer that vanished without a word is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

type LoggedIn = (Vec<(Box<str>, Box<str>)>, CancelKey, Option<SaltedPassword>);

async fn log_in(stream: &mut TcpStream, target: &Target) -> Result<LoggedIn, ConnectError> {
    send_startup(stream, target).await?;
    let nonce = STANDARD.encode(rand::random::<[u8; 18]>());
    let login = ServerLogin::new(target.user.as_ref().to_owned(), target.password.clone(), nonce);
    let mut login = login.with_cache(target.salted_password.clone());
    authenticate(stream, &mut login).await?;
    let (parameters, cancel_key) = until_ready(stream).await?;
    Ok((parameters, cancel_key, login.salted_password().cloned()))
}

async fn send_startup(stream: &mut TcpStream, target: &Target) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    let further = target.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    startup::put_startup(
        &mut out,
        [("user", &*target.user), ("database", &*target.database)].into_iter().chain(further),
    );
    stream.write_all(&out).await.map_err(ConnectError::Io)
}

async fn authenticate(stream: &mut TcpStream, login: &mut ServerLogin) -> Result<(), ConnectError> {
    loop {
        let (tag, body) = read_message(stream).await?;
        match tag {
            backend::AUTHENTICATION => {}
            backend::NEGOTIATE_PROTOCOL_VERSION | backend::NOTICE_RESPONSE => continue,
            _ => return Err(unexpected(tag, &body)),
        }
        let Some((code, rest)) = body.split_first_chunk() else { return Err(ConnectError::Protocol("short message")) };
        match login.handle(i32::from_be_bytes(*code), rest).map_err(ConnectError::Auth)? {
            LoginStep::Send(answer) => {
                let mut out = BytesMut::new();
                Writer::new(&mut out).message(frontend::PASSWORD, |body| body.put_slice(&answer));
                stream.write_all(&out).await.map_err(ConnectError::Io)?;
            }
            LoginStep::Wait => {}
            LoginStep::Done => return Ok(()),
        }
    }
}

async fn until_ready(stream: &mut TcpStream) -> Result<(Vec<(Box<str>, Box<str>)>, CancelKey), ConnectError> {
    let mut parameters = Vec::new();
    let mut key = CancelKey { process_id: 0, secret: Box::default() };
    loop {
        let (tag, body) = read_message(stream).await?;
        match tag {
            backend::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status_fields(&body).map_err(|_| TRUNCATED)?;
                parameters.push((text(name), text(value)));
                if parameters.len() > MOST_PARAMETERS {
                    return Err(ConnectError::Protocol("too many parameters"));
                }
            }
            backend::BACKEND_KEY_DATA => key = backend::backend_key(&body).map_err(|_| TRUNCATED)?,
            backend::NOTICE_RESPONSE => {}
            backend::READY_FOR_QUERY => return Ok((parameters, key)),
            _ => return Err(unexpected(tag, &body)),
        }
    }
}

/// Reads one message and not a byte more: what follows belongs to whoever gets the connection.
async fn read_message(stream: &mut TcpStream) -> Result<(u8, Vec<u8>), ConnectError> {
    let mut head = [0; frame::HEADER];
    stream.read_exact(&mut head).await.map_err(ConnectError::Io)?;
    let header = Header::peek(&head).ok().flatten().ok_or(ConnectError::Protocol("impossible message length"))?;
    if header.body_size() > LARGEST_MESSAGE {
        return Err(ConnectError::Protocol("message too long for a login"));
    }
    let mut body = vec![0; header.body_size()];
    stream.read_exact(&mut body).await.map_err(ConnectError::Io)?;
    Ok((header.tag, body))
}

fn unexpected(tag: u8, body: &[u8]) -> ConnectError {
    if tag != backend::ERROR_RESPONSE {
        return ConnectError::Protocol("unexpected message in a login");
    }
    let fields = ErrorFields::read(body);
    ConnectError::Server { severity: fields.severity, code: fields.code, message: text(fields.message) }
}

fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).into()
}

const TRUNCATED: ConnectError = ConnectError::Protocol("truncated message");
/// Real login messages have at most some hundred bytes; an error message of a node may have a few thousand.
const LARGEST_MESSAGE: usize = 64 * 1024;
/// PostgreSQL reports about 15.
const MOST_PARAMETERS: usize = 1000;
/// Silence after which the kernel asks whether the node is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_RETRIES: u32 = 3;
/// What we sent and nobody acknowledged for so long ends the connection: as long as keepalive takes, and a little more.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_what_to_do_next() {
        let server = |code: &[u8; 5]| ConnectError::Server {
            severity: Severity::Fatal,
            code: SqlState(*code),
            message: "no".into(),
        };
        for (error, class) in [
            (ConnectError::Timeout, ConnectClass::Silent),
            (refusal(io::ErrorKind::ConnectionRefused.into()), ConnectClass::Down),
            (refusal(io::ErrorKind::HostUnreachable.into()), ConnectClass::Down),
            (refusal(io::ErrorKind::ConnectionReset.into()), ConnectClass::Lost),
            (server(b"57P03"), ConnectClass::Starting),
            (server(b"53300"), ConnectClass::Full),
            (server(b"28P01"), ConnectClass::Denied),
            (server(b"28000"), ConnectClass::Denied),
            (server(b"3D000"), ConnectClass::Denied),
            (server(b"53200"), ConnectClass::Broken),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
