//! Makes a server connection and logs in: from an address to a connection that is ready for its first query.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::endpoint::{Endpoint, Way};
use super::hashing;
use super::strays::Strays;
use crate::auth::{AuthError, LoginStep, NodeTls, SaltedPassword, Secret, ServerLogin, TlsMode};
use crate::net::Stream;
use crate::net::timers::timeout_at;
use crate::wire::error_response::as_fatal;
use crate::wire::writer::Writer;
use crate::wire::{CancelKey, ErrorFields, Header, Replication, Severity, SqlState, backend, frame, frontend, startup};

/// Whom to connect to, and as whom.
#[derive(Clone)]
pub struct Target {
    /// How the node is reached.
    pub endpoint: Endpoint,
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

impl Target {
    /// What the connection is for.
    pub fn replication(&self) -> Replication {
        let asked = self.parameters.iter().rfind(|(name, _)| name == "replication");
        asked.and_then(|(_, value)| Replication::read(value).ok()).unwrap_or_default()
    }
}

/// A server connection that is ready for its first query; nothing is left unread.
pub struct Login {
    /// The connection: no delay, keepalive on.
    pub stream: Stream,
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

    /// Waits until the monitor has met the node where the connection leads, if it has met it elsewhere, and until that is in force.
    /// What leads astray even then is closed. None: so is this one, for the node [has been fenced](super::Gate::is_fenced_since)
    /// since it was begun.
    pub async fn at_home(
        self,
        strays: &Strays,
        is_fenced: impl Fn() -> bool,
        deadline: Instant,
    ) -> Result<Option<Self>, ConnectError> {
        let peer = self.stream.socket().peer_address();
        let is_home = strays.leads_home(peer, &is_fenced, deadline).await;
        if is_fenced() {
            return Ok(None);
        }
        if is_home { Ok(Some(self)) } else { Err(ConnectError::Astray(peer)) }
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
    /// Whoever resolves names has not answered in time: nobody has asked the node.
    #[error("its name was not resolved in time")]
    LookupTimeout,
    /// It leads to where the monitor has not met the node: the name may have come to lead to another server, or have done so for
    /// a moment.
    #[error(
        "its name has led to {}, where the monitor has not found it",
        .0.map_or_else(|| "a socket".to_owned(), |peer| peer.to_string())
    )]
    Astray(Option<SocketAddr>),
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
        /// All that it says, as an ErrorResponse has it.
        fields: Box<[u8]>,
    },
    /// The node asks for something that we cannot prove or do not speak, or could not prove itself.
    #[error("login failed")]
    Auth(#[source] AuthError),
    /// It does not speak TLS, or not as we demand it: it has another certificate, or none that we trust.
    #[error("TLS with the node failed: {0}")]
    Tls(#[source] io::Error),
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
    /// What address it has could not be found out, or not surely: it tells nothing of the node.
    NotLookedUp,
    /// Silence: frozen, overloaded, or cut off.
    Silent,
    /// The connection broke; the next attempt may tell more.
    Lost,
    /// We have no file descriptor, port or memory left for it: it tells nothing of the node.
    Short,
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
            Self::LookupTimeout | Self::Astray(_) => ConnectClass::NotLookedUp,
            Self::Io(error) if is_shortage(error) => ConnectClass::Short,
            Self::Io(_) => ConnectClass::Lost,
            Self::Server { code, .. } => class_of(*code),
            Self::Auth(_) | Self::Tls(_) => ConnectClass::Denied,
            Self::Protocol(_) => ConnectClass::Broken,
        }
    }

    /// What a client is told of a login that is [denied](ConnectClass::Denied): the node's own words where they are about the
    /// client, else that it was the node's, for its own proof may have been right.
    pub fn denial(&self) -> (SqlState, String) {
        match self {
            Self::Server { code, message, .. } if is_about_client(*code) => (*code, message.to_string()),
            error => {
                let message = format!("the node refused the login: {error}");
                (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
            }
        }
    }

    /// The node's own words for that in full, where a client's connection ends with them.
    pub fn denial_in_full(&self) -> Option<Box<[u8]>> {
        match self {
            Self::Server { code, fields, .. } if is_about_client(*code) => Some(as_fatal(fields)),
            _ => None,
        }
    }

    /// The same once more, if the node has said it.
    pub(super) fn repeated(&self) -> Option<Self> {
        let Self::Server { severity, code, message, fields } = self else { return None };
        Some(Self::Server { severity: *severity, code: *code, message: message.clone(), fields: fields.clone() })
    }
}

/// This machine, or this process, lacks what a connection takes.
fn is_shortage(error: &io::Error) -> bool {
    use libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | EADDRNOTAVAIL | ENOBUFS | ENOMEM))
}

/// There is no such database, nobody may connect to it, or this role may not: no matter how it proves who it is.
fn is_about_client(code: SqlState) -> bool {
    matches!(
        code,
        SqlState::INVALID_CATALOG_NAME | SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE | SqlState::INSUFFICIENT_PRIVILEGE
    )
}

fn class_of(code: SqlState) -> ConnectClass {
    match code {
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => ConnectClass::Starting,
        SqlState::TOO_MANY_CONNECTIONS => ConnectClass::Full,
        code if is_about_client(code) => ConnectClass::Denied,
        SqlState([b'2', b'8', ..]) => ConnectClass::Denied,
        _ => ConnectClass::Broken,
    }
}

/// Connects, logs in and waits until the node is ready for a query.
pub async fn connect(target: &Target, deadline: Instant) -> Result<Login, ConnectError> {
    let tls = target.endpoint.tls();
    let failed = match attempt(target, &tls, first_way(&tls), deadline).await {
        Ok(login) => return Ok(login),
        Err(failed) => failed,
    };
    let Some(way) = failed.other_way(&target.endpoint, &tls) else { return Err(failed.error) };
    attempt(target, &tls, way, deadline).await.map_err(|again| in_both_words(failed.error, way, again.error))
}

/// An attempt that has failed.
struct Failed {
    error: ConnectError,
    /// The node was spoken to over TLS.
    is_encrypted: bool,
    /// It had asked for a proof, which may have been a password, or had needed none.
    was_answered: bool,
}

impl Failed {
    /// As libpq: what does not want us one way may want us the other, if that is another.
    fn other_way(&self, endpoint: &Endpoint, tls: &NodeTls) -> Option<Way> {
        match (tls.mode(), &self.error) {
            (TlsMode::Allow, ConnectError::Server { code, .. }) if code.0.starts_with(b"28") => {
                endpoint.may_have_tls().then_some(Way::Encrypted)
            }
            (TlsMode::Prefer, ConnectError::Tls(_)) => Some(Way::Plain),
            // It may have a rule for us that wants no encryption. What TLS has kept secret, as a password that LDAP has not
            // taken, is not sent in the open.
            (TlsMode::Prefer, ConnectError::Server { code, .. })
                if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION =>
            {
                (self.is_encrypted && !self.was_answered).then_some(Way::Plain)
            }
            _ => None,
        }
    }
}

/// Neither way has led in. Where the node's rules are why, what it has said of the first is not hidden by what came of the
/// `second` way.
fn in_both_words(first: ConnectError, way: Way, second: ConnectError) -> ConnectError {
    let ConnectError::Server { severity, code, message, fields } = first else { return second };
    let again = match &second {
        ConnectError::Server { code, message, .. } if code.0.starts_with(b"28") => message.to_string(),
        ConnectError::Auth(why) => why.to_string(),
        ConnectError::Tls(_) => second.to_string(),
        // It has come further, or tells of the node.
        _ => return second,
    };
    let way = if way == Way::Plain { "without TLS" } else { "over TLS" };
    let message = if *message == *again { message } else { format!("{message}; {way}: {again}").into() };
    ConnectError::Server { severity, code, message, fields }
}

fn first_way(tls: &NodeTls) -> Way {
    match tls.mode() {
        TlsMode::Off | TlsMode::Allow => Way::Plain,
        TlsMode::Prefer => Way::EncryptedIfPossible,
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => Way::Encrypted,
    }
}

/// A connection on which nothing has been said yet, encrypted as the settings want it.
pub(super) async fn open(endpoint: &Endpoint, deadline: Instant) -> Result<Stream, ConnectError> {
    let tls = endpoint.tls();
    match (tls.mode(), endpoint.open(&tls, first_way(&tls), deadline).await) {
        (TlsMode::Prefer, Err(ConnectError::Tls(_))) => endpoint.open(&tls, Way::Plain, deadline).await,
        (_, done) => done,
    }
}

async fn attempt(target: &Target, tls: &NodeTls, way: Way, deadline: Instant) -> Result<Login, Failed> {
    let opened = within(deadline, target.endpoint.open(tls, way, deadline)).await;
    let mut stream = opened.map_err(|error| Failed { error, is_encrypted: false, was_answered: false })?;
    let is_encrypted = stream.is_encrypted();
    let mut was_answered = false;
    match within(deadline, log_in(&mut stream, target, &mut was_answered)).await {
        Ok((parameters, cancel_key, salted_password)) => Ok(Login { stream, parameters, cancel_key, salted_password }),
        Err(error) => Err(Failed { error, is_encrypted, was_answered }),
    }
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    timeout_at(deadline, work).await.unwrap_or(Err(ConnectError::Timeout))
}

type LoggedIn = (Vec<(Box<str>, Box<str>)>, CancelKey, Option<SaltedPassword>);

/// `was_answered` becomes true once the node asks for a proof, or needs none.
async fn log_in(stream: &mut Stream, target: &Target, was_answered: &mut bool) -> Result<LoggedIn, ConnectError> {
    send_startup(stream, target).await?;
    let nonce = STANDARD.encode(rand::random::<[u8; 18]>());
    let login = ServerLogin::new(target.user.as_ref().to_owned(), target.password.clone(), nonce);
    let login = login.with_cache(target.salted_password.clone()).bound_to(stream.peer_end_point());
    let login = authenticate(stream, login, was_answered).await?;
    let (parameters, cancel_key) = until_ready(stream).await?;
    Ok((parameters, cancel_key, login.salted_password().cloned()))
}

async fn send_startup(stream: &mut Stream, target: &Target) -> Result<(), ConnectError> {
    let mut out = BytesMut::new();
    let further = target.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    startup::put_startup(
        &mut out,
        [("user", &*target.user), ("database", &*target.database)].into_iter().chain(further),
    );
    stream.write_all(&out).await.map_err(ConnectError::Io)
}

async fn authenticate(
    stream: &mut Stream,
    mut login: ServerLogin,
    was_answered: &mut bool,
) -> Result<ServerLogin, ConnectError> {
    loop {
        let (tag, body) = read_message(stream).await?;
        match tag {
            backend::AUTHENTICATION => *was_answered = true,
            backend::NEGOTIATE_PROTOCOL_VERSION | backend::NOTICE_RESPONSE => continue,
            _ => return Err(unexpected(tag, &body)),
        }
        let Some((code, rest)) = body.split_first_chunk() else { return Err(ConnectError::Protocol("short message")) };
        let code = i32::from_be_bytes(*code);
        let step;
        (login, step) = match login.takes_long(code, rest) {
            true => handle_apart(login, code, rest.to_vec()).await?,
            false => {
                let step = login.handle(code, rest);
                (login, step)
            }
        };
        match step.map_err(ConnectError::Auth)? {
            LoginStep::Send(answer) => {
                let mut out = BytesMut::new();
                Writer::new(&mut out).message(frontend::PASSWORD, |body| body.put_slice(&answer));
                stream.write_all(&out).await.map_err(ConnectError::Io)?;
            }
            LoginStep::Wait => {}
            LoginStep::Done => return Ok(login),
        }
    }
}

type Handled = (ServerLogin, Result<LoginStep, AuthError>);

/// The same where nobody waits for it but this login.
async fn handle_apart(mut login: ServerLogin, code: i32, body: Vec<u8>) -> Result<Handled, ConnectError> {
    let handled = hashing::apart(move || {
        let step = login.handle(code, &body);
        (login, step)
    });
    handled.await.ok_or_else(|| ConnectError::Io(io::ErrorKind::Interrupted.into()))
}

async fn until_ready(stream: &mut Stream) -> Result<(Vec<(Box<str>, Box<str>)>, CancelKey), ConnectError> {
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
async fn read_message(stream: &mut Stream) -> Result<(u8, Vec<u8>), ConnectError> {
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
    ConnectError::Server {
        severity: fields.severity,
        code: fields.code,
        message: text(fields.message),
        fields: body.into(),
    }
}

fn text(bytes: &[u8]) -> Box<str> {
    String::from_utf8_lossy(bytes).into()
}

const TRUNCATED: ConnectError = ConnectError::Protocol("truncated message");
/// Real login messages have at most some hundred bytes; an error message of a node may have a few thousand.
const LARGEST_MESSAGE: usize = 64 * 1024;
/// PostgreSQL reports about 15.
const MOST_PARAMETERS: usize = 1000;

#[cfg(test)]
mod tests {
    use super::super::endpoint;
    use super::*;
    use crate::auth::{TlsTexts, TlsVersion};

    fn refusal(code: SqlState, message: &str) -> ConnectError {
        ConnectError::Server { severity: Severity::Fatal, code, message: message.into(), fields: Box::default() }
    }

    #[test]
    fn another_way_is_tried_only_if_it_is_another_and_nothing_was_kept_secret_on_the_first() {
        const TCP: &str = "db1:5432";
        const SOCKET: &str = "/run/postgresql:5432";
        let (role, password) = (SqlState::INVALID_AUTHORIZATION_SPECIFICATION, SqlState::INVALID_PASSWORD);
        for (mode, address, code, is_encrypted, was_answered, expected) in [
            (TlsMode::Prefer, TCP, role, true, false, Some(Way::Plain)),
            (TlsMode::Prefer, TCP, role, true, true, None),
            (TlsMode::Prefer, TCP, role, false, false, None),
            (TlsMode::Prefer, SOCKET, role, false, false, None),
            (TlsMode::Prefer, TCP, password, true, true, None),
            (TlsMode::Require, TCP, role, true, false, None),
            (TlsMode::Allow, TCP, role, false, false, Some(Way::Encrypted)),
            (TlsMode::Allow, TCP, password, false, true, Some(Way::Encrypted)),
            (TlsMode::Allow, SOCKET, role, false, false, None),
            (TlsMode::Allow, TCP, SqlState::INVALID_CATALOG_NAME, false, true, None),
        ] {
            let tls = NodeTls::new(mode, TlsVersion::V1_2, TlsTexts::default()).unwrap();
            let endpoint = Endpoint::plain(address.into());
            let failed = Failed { error: refusal(code, "no"), is_encrypted, was_answered };
            let case = (mode, address, code, is_encrypted, was_answered);
            assert_eq!(failed.other_way(&endpoint, &tls), expected, "{case:?}");
        }
    }

    #[test]
    fn of_two_ways_that_a_node_refuses_both_are_told() {
        let role = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        let told = |second| in_both_words(refusal(role, "no rule"), Way::Plain, second).to_string();
        assert_eq!(told(refusal(role, "no other rule")), "no rule; without TLS: no other rule (28000)");
        assert_eq!(told(refusal(role, "no rule")), "no rule (28000)");
        assert_eq!(told(refusal(SqlState::INVALID_CATALOG_NAME, "no database")), "no database (3D000)");
        assert_eq!(told(ConnectError::Timeout), "no answer in time");
        let (first, second) = (refusal(SqlState::INVALID_PASSWORD, "wrong"), io::Error::other("it does not speak TLS"));
        assert_eq!(
            in_both_words(first, Way::Encrypted, ConnectError::Tls(second)).to_string(),
            "wrong; over TLS: TLS with the node failed: it does not speak TLS (28P01)"
        );
    }

    #[test]
    fn a_failure_tells_what_to_do_next() {
        let server = |code: &[u8; 5]| refusal(SqlState(*code), "no");
        for (error, class) in [
            (ConnectError::Timeout, ConnectClass::Silent),
            (ConnectError::LookupTimeout, ConnectClass::NotLookedUp),
            (endpoint::refusal(io::ErrorKind::ConnectionRefused.into()), ConnectClass::Down),
            (endpoint::refusal(io::ErrorKind::HostUnreachable.into()), ConnectClass::Down),
            (endpoint::refusal(io::ErrorKind::ConnectionReset.into()), ConnectClass::Lost),
            (endpoint::refusal(io::Error::from_raw_os_error(libc::EMFILE)), ConnectClass::Short),
            (endpoint::refusal(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)), ConnectClass::Short),
            (server(b"57P03"), ConnectClass::Starting),
            (server(b"53300"), ConnectClass::Full),
            (server(b"28P01"), ConnectClass::Denied),
            (server(b"28000"), ConnectClass::Denied),
            (server(b"3D000"), ConnectClass::Denied),
            (server(b"55000"), ConnectClass::Denied),
            (server(b"53200"), ConnectClass::Broken),
        ] {
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
