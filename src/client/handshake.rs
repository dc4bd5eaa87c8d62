//! From a client's first byte to its first ReadyForQuery: startup, authentication, what it is told of the server.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::acquire;
use super::farewell::Farewell;
use super::greeting;
use super::server::{Database, Server, User};
use super::startup_settings::startup_settings;
use super::welcome::{self, Reported, Welcome};
use super::worker::Worker;
use crate::auth::{AuthError, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramServer, TlsMode, Verifier, scram_server};
use crate::backend::exchange::{self, ExchangeError};
use crate::metrics::LoginFailure;
use crate::net::{ReadBuffer, Stream};
use crate::session::{Identity, Settings};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::startup::Startup;
use crate::wire::{Header, SqlState, frame, frontend};

/// A client that has proved who it is.
pub struct Admitted {
    /// Who it is.
    pub identity: Identity,
    /// The database it asked for.
    pub database: Database,
    /// What it is there.
    pub user: User,
    /// The settings it asked for.
    pub settings: Settings,
}

/// Authentication messages are short; PostgreSQL itself takes no more.
const LARGEST_LOGIN_MESSAGE: usize = 65_536;

const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_SASL: u32 = 10;
const AUTHENTICATION_SASL_CONTINUE: u32 = 11;
const AUTHENTICATION_SASL_FINAL: u32 = 12;

/// Startup and authentication on the stream in `place`, which is another one if the client wants TLS. Nothing is left in
/// a buffer: a client waits for its answers here.
pub async fn admit(place: &mut Option<Stream>, server: &Server, worker: &Worker) -> Result<Admitted, Farewell> {
    let mut buffer = ReadBuffer::default();
    let startup = greeting::read_startup(place, &mut buffer, server, worker).await?;
    let stream = place.as_mut().ok_or(Farewell::Left)?;
    let user = startup.parameter("user").filter(|user| !user.is_empty());
    let user: Arc<str> = user.map(Into::into).ok_or_else(|| {
        Farewell::told(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name specified in startup packet",
        )
    })?;
    let database: Arc<str> =
        startup.parameter("database").filter(|name| !name.is_empty()).map_or_else(|| Arc::clone(&user), Into::into);
    if startup.parameter("replication").is_some_and(|value| !matches!(value, "false" | "off" | "no" | "0")) {
        return Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, "replication connections are not supported yet"));
    }
    let settings = startup_settings(&startup).map_err(|word| {
        Farewell::told(
            SqlState::PROTOCOL_VIOLATION,
            format!("invalid command-line argument for server process: {word}"),
        )
    })?;
    negotiate(stream, &startup).await?;
    check_certificate(stream, &user, server, worker)?;
    authenticate(stream, &mut buffer, &user, server, worker).await?;
    let Some(known) = server.users.get(&user) else {
        return Err(wrong_password(&user));
    };
    let Some(entry) = server.databases.get(&database) else {
        worker.metrics.login_failed(LoginFailure::UnknownDatabase);
        let message = format!("database \"{database}\" does not exist");
        return Err(Farewell::told(SqlState::INVALID_CATALOG_NAME, message));
    };
    let identity = Identity { user, database, address: stream.peer_ip() };
    Ok(Admitted { identity, database: entry.clone(), user: known.clone(), settings })
}

/// A newer minor version or unknown protocol options are not refused: the client is told what we speak.
async fn negotiate(stream: &mut Stream, startup: &Startup) -> Result<(), Farewell> {
    let unknown: Vec<&str> =
        startup.parameters.iter().map(|(name, _)| &**name).filter(|n| n.starts_with("_pq_.")).collect();
    if startup.minor == 0 && unknown.is_empty() {
        return Ok(());
    }
    let mut out = BytesMut::new();
    backend::put_negotiate(&mut out, 3 << 16, &unknown);
    Ok(stream.write_all(&out).await?)
}

/// Where clients must show certificates that name them, this one does.
fn check_certificate(stream: &Stream, user: &str, server: &Server, worker: &Worker) -> Result<(), Farewell> {
    let must_name_user = server.tls.as_ref().is_some_and(|tls| tls.mode() == TlsMode::VerifyFull);
    if !must_name_user || !stream.is_encrypted() || stream.peer_name().as_deref() == Some(user) {
        return Ok(());
    }
    worker.metrics.login_failed(LoginFailure::NotAllowed);
    let message = format!("certificate authentication failed for user \"{user}\"");
    Err(Farewell::told(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message))
}

async fn authenticate(
    stream: &mut Stream,
    buffer: &mut ReadBuffer,
    user: &Arc<str>,
    server: &Server,
    worker: &Worker,
) -> Result<(), Farewell> {
    let (verifier, is_real) = match server.users.get(user) {
        Some(known) => (known.verifier.clone(), true),
        None => (Verifier::mock(user, &server.mock_secret), false),
    };
    let nonce = STANDARD_NO_PAD.encode(rand::random::<[u8; 18]>());
    let end_point = server.tls.as_ref().filter(|_| stream.is_encrypted()).and_then(|tls| tls.end_point());
    let offer = match end_point {
        Some(_) => format!("{SCRAM_SHA_256_PLUS}\0{SCRAM_SHA_256}\0\0"),
        None => format!("{SCRAM_SHA_256}\0\0"),
    };
    let mut scram = ScramServer::new(verifier, is_real, nonce).bound_to(end_point.map(|bytes| (&**bytes).into()));
    send_authentication(stream, AUTHENTICATION_SASL, offer.as_bytes()).await?;
    let refused = |error: AuthError| {
        worker.metrics.login_failed(if is_real { LoginFailure::Password } else { LoginFailure::UnknownUser });
        match SqlState::from_bytes(error.sqlstate().as_bytes()) {
            Some(code) if code != SqlState::INVALID_PASSWORD => Farewell::told(code, error.to_string()),
            _ => wrong_password(user),
        }
    };
    let message = read_login_message(stream, buffer).await?;
    let first = scram_server::initial_response(&message)
        .and_then(|(mechanism, data)| scram.client_first_by(mechanism, data))
        .map_err(refused)?;
    send_authentication(stream, AUTHENTICATION_SASL_CONTINUE, first.as_bytes()).await?;
    let message = read_login_message(stream, buffer).await?;
    let (last, _proof) = scram.client_final(&message).map_err(refused)?;
    send_authentication(stream, AUTHENTICATION_SASL_FINAL, last.as_bytes()).await
}

fn wrong_password(user: &str) -> Farewell {
    Farewell::told(SqlState::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""))
}

async fn send_authentication(stream: &mut Stream, code: u32, body: &[u8]) -> Result<(), Farewell> {
    let mut out = BytesMut::new();
    backend::put_authentication(&mut out, code, body);
    Ok(stream.write_all(&out).await?)
}

/// The body of the next password message.
async fn read_login_message(stream: &mut Stream, buffer: &mut ReadBuffer) -> Result<Vec<u8>, Farewell> {
    loop {
        if let Some(header) = Header::peek(buffer.filled()).map_err(|error| Farewell::violation(&error.to_string()))? {
            if header.tag != frontend::PASSWORD {
                return Err(Farewell::violation(&format!("expected SASL response, got message type {}", header.tag)));
            }
            if header.size > LARGEST_LOGIN_MESSAGE {
                return Err(Farewell::violation("invalid message length"));
            }
            if let Some(body) = buffer.filled().get(frame::HEADER..header.size) {
                let body = body.to_vec();
                buffer.consume(header.size);
                return Ok(body);
            }
        }
        if buffer.is_full() {
            buffer.grow();
        }
        if buffer.fill(stream).await? == 0 {
            return Err(Farewell::Left);
        }
    }
}

/// AuthenticationOk, the server's settings, the cancel key, ReadyForQuery.
pub async fn welcome(
    stream: &mut Stream,
    admitted: &mut Admitted,
    key: &crate::wire::CancelKey,
    server: &Server,
    worker: &Worker,
) -> Result<Reported, Farewell> {
    let Welcome { reported, settings } = reported(admitted, server, worker).await?;
    admitted.settings = settings;
    let mut out = BytesMut::with_capacity(1024);
    backend::put_authentication(&mut out, AUTHENTICATION_OK, b"");
    for (name, value) in &*reported {
        backend::put_parameter_status(&mut out, name, value);
    }
    backend::put_backend_key(&mut out, key);
    backend::put_ready(&mut out, TransactionStatus::Idle);
    stream.write_all(&out).await?;
    worker.metrics.login_ok();
    Ok(reported)
}

/// What a server connection reports with the settings that the client asked for.
async fn reported(admitted: &Admitted, server: &Server, worker: &Worker) -> Result<Welcome, Farewell> {
    let (cluster, user) = (server.cluster(&admitted.database).number, &admitted.identity.user);
    let (database, settings) = (&admitted.database.server_name, &admitted.settings);
    if let Some(welcome) = server.welcomes.get(cluster, database, user, settings) {
        return Ok(welcome);
    }
    let mut lease = acquire::any_node(admitted, server, worker).await?;
    let connection = lease.connection();
    let parameters = if settings.is_empty() && connection.known.settings.is_empty() {
        connection.parameters.to_vec()
    } else {
        with_settings(connection, settings, server).await?
    };
    lease.give_back(Instant::now());
    let welcome = Welcome { reported: welcome::as_primary(parameters), settings: settings.clone() };
    server.welcomes.put(cluster, database, user, &welcome);
    Ok(welcome)
}

/// Makes the settings the connection's, and asks it for everything it would have reported.
async fn with_settings(
    connection: &mut crate::backend::Connection,
    settings: &Settings,
    server: &Server,
) -> Result<crate::wire::startup::Parameters, Farewell> {
    let deadline = tokio::time::Instant::now() + server.queue_timeout;
    let refused = |error: ExchangeError| match error {
        ExchangeError::Refused { code, message } => Farewell::told(code, message),
        other => Farewell::told(SqlState::CANNOT_CONNECT_NOW, other.to_string()),
    };
    if let Some(sql) = settings.sql_from(&connection.known.settings) {
        exchange::query(&mut connection.stream, &sql, deadline).await.map_err(refused)?;
        connection.known.settings = settings.clone();
    }
    let names: Vec<Arc<str>> = connection.parameters.iter().map(|(name, _)| (&**name).into()).collect();
    let sql = crate::session::settings::sql_to_read(&names);
    let answer = exchange::query(&mut connection.stream, &sql, deadline).await.map_err(refused)?;
    let values = answer.rows.into_iter().next().unwrap_or_default();
    let value = |value: Option<Arc<str>>| value.map_or_else(|| "".into(), |value| (&*value).into());
    Ok(names.iter().zip(values).map(|(name, v)| ((&**name).into(), value(v))).collect())
}
