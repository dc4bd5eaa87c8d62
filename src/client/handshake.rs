//! From a client's first byte to its first ReadyForQuery: startup, authentication, what it is told of the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::authentication::{self, Claim};
use super::awaited::Awaited;
use super::card::Card;
use super::census::Seat;
use super::console;
use super::farewell::Farewell;
use super::first_lease::any_node;
use super::greeting;
use super::patience::{Patience, await_resume_to_log_in};
use super::renewal::Gone;
use super::server::{Cluster, Database, Server, Stamp, User};
use super::startup_settings::startup_settings;
use super::unserved::Unserved;
use super::welcome::{self, Welcome};
use super::worker::{Worker, until};
use crate::backend::exchange::{Answer, ExchangeError};
use crate::backend::{Connection, Lease, LoginKey};
use crate::metrics::{Limit, LoginFailure, Refusal};
use crate::net::{ReadBuffer, Stream, timers};
use crate::session::ReportedAtLogin;
use crate::session::reported::{NEVER_REPORTED, names_told};
use crate::session::settings::{at_read_committed, quote_literal, sql_to_read};
use crate::session::{Identity, Session, Settings};
use crate::topology::NodeId;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::as_fatal;
use crate::wire::startup::Startup;
use crate::wire::{Replication, SqlState, replication};

/// A client that has proved who it is.
pub struct Admitted {
    /// Who it is.
    pub identity: Identity,
    /// The database it asked for.
    pub database: Arc<Database>,
    /// What it is there.
    pub user: User,
    /// The settings it asked for.
    pub settings: Settings,
    /// Its place among those that there may be.
    pub seat: Seat,
    /// What it has begun with.
    pub startup: Startup,
    /// What it wants.
    pub replication: Replication,
    /// What it has said behind its login, before that was answered.
    pub unread: Box<[u8]>,
}

/// Whom `max_clients` keeps out is told this, as PostgreSQL says it of max_connections.
pub(super) const FULL: &str = "sorry, too many clients already";

const AUTHENTICATION_OK: u32 = 0;
/// Bytes.
const MOST_OF_A_NAME: usize = 63;

/// Startup and authentication on the stream in `place`, which is another one if the client wants TLS.
pub async fn admit(
    place: &mut Option<Stream>,
    card: &Card,
    server: &Server,
    worker: &Worker,
    awaited: &Awaited,
) -> Result<Admitted, Farewell> {
    let mut buffer = ReadBuffer::default();
    let (startup, origin) = greeting::read_startup(place, &mut buffer, card, server, worker).await?;
    let stream = place.as_mut().ok_or(Farewell::Left)?;
    negotiate(stream, &startup).await?;
    let user = startup.parameter("user").filter(|user| !user.is_empty());
    let user: Arc<str> = user.map(cut).map(Into::into).ok_or_else(|| {
        Farewell::told(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name specified in startup packet",
        )
    })?;
    let database: Arc<str> = startup
        .parameter("database")
        .filter(|name| !name.is_empty())
        .map_or_else(|| Arc::clone(&user), |name| cut(name).into());
    card.claims(&user, &database);
    let replication = Replication::of(&startup).map_err(|error| {
        Farewell::hinted(SqlState::INVALID_PARAMETER_VALUE, error.to_string(), replication::VALID_VALUES)
    })?;
    card.wants(replication);
    let is_of_console = *database == *console::NAME;
    if is_of_console && replication != Replication::None {
        return Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, "the console has nothing to replicate"));
    }
    let seat = if is_of_console { None } else { Some(sit(server, worker)?) };
    // Whatever stands for every other name, the console is in no cluster.
    let destination = if is_of_console { None } else { server.destination(&database, replication) };
    let claim =
        Claim { user: &user, database: &database, destination: destination.as_deref(), replication, origin, awaited };
    let known = Box::pin(authentication::authenticate(stream, &mut buffer, claim, server, worker)).await?;
    let unread: Box<[u8]> = buffer.filled().into();
    let Some(mut seat) = seat else { return Err(Farewell::ToConsole(user, unread)) };
    // Drivers tell by it whether what follows is about the proof.
    let mut out = BytesMut::new();
    backend::put_authentication(&mut out, AUTHENTICATION_OK, b"");
    stream.write_all(&out).await?;
    let Some(entry) = destination else {
        worker.metrics.login_failed(LoginFailure::UnknownDatabase);
        let message = format!("database \"{database}\" does not exist");
        return Err(Farewell::told(SqlState::INVALID_CATALOG_NAME, message));
    };
    if entry.pause.is_disabled() {
        worker.metrics.login_failed(LoginFailure::Disabled);
        let message = format!("database \"{database}\" is disabled: it takes no new clients");
        return Err(Farewell::told(SqlState::CANNOT_CONNECT_NOW, message));
    }
    let (most_of_database, most_of_user) = (entry.allowance.max_clients, known.allowance.max_clients);
    seat.settle((&database, most_of_database), (&user, most_of_user)).map_err(|limit| {
        worker.metrics.limit_met(limit);
        let (whose, most) = match limit {
            Limit::UserClients => (format!("role \"{user}\""), most_of_user),
            _ => (format!("database \"{database}\""), most_of_database),
        };
        let message = format!("too many connections for {whose} ({} is {})", limit.code(), most.unwrap_or_default());
        Farewell::told(SqlState::TOO_MANY_CONNECTIONS, message)
    })?;
    // As the server: nobody learns what is wrong with them who has not proved who it is.
    let settings = startup_settings(&startup).map_err(|error| {
        worker.metrics.login_failed(LoginFailure::NodeRefused);
        match error.hint() {
            Some(hint) => Farewell::hinted(SqlState::SYNTAX_ERROR, error.to_string(), hint),
            None => Farewell::told(SqlState::SYNTAX_ERROR, error.to_string()),
        }
    })?;
    // By the configuration's own copies of the names: of a thousand clients there is one.
    let configured = server.users.get_key_value(&user).map(|(name, _)| Arc::clone(name));
    let identity = Identity { user: configured.unwrap_or(user), database: Arc::clone(&entry.name), address: origin };
    Ok(Admitted { identity, database: entry, user: known, settings, seat, startup, replication, unread })
}

/// A name as PostgreSQL knows it, which has at most 63 bytes.
fn cut(name: &str) -> &str {
    (0..=name.len().min(MOST_OF_A_NAME)).rev().find_map(|end| name.get(..end)).unwrap_or_default()
}

/// A place among those that there may be. The console has room when nothing else has, and lets in until the end.
fn sit(server: &Server, worker: &Worker) -> Result<Seat, Farewell> {
    if worker.is_closed() {
        worker.metrics.client_refused(Refusal::Draining);
        // In PostgreSQL's words, on which libpq goes on to its next host.
        return Err(Farewell::told(SqlState::CANNOT_CONNECT_NOW, "the database system is shutting down"));
    }
    server.census.sit(server.max_clients).ok_or_else(|| {
        worker.metrics.limit_met(Limit::Clients);
        worker.metrics.client_refused(Refusal::TooManyClients);
        let message = format!("{FULL} (max_clients is {})", server.max_clients);
        Farewell::told(SqlState::TOO_MANY_CONNECTIONS, message)
    })
}

/// A newer minor version or unknown protocol options are not refused: the client is told what we speak.
async fn negotiate(stream: &mut Stream, startup: &Startup) -> Result<(), Farewell> {
    let Some(negotiated) = startup.negotiated() else { return Ok(()) };
    let mut out = BytesMut::new();
    backend::put_negotiate(&mut out, &negotiated);
    Ok(stream.write_all(&out).await?)
}

/// The server's settings, the cancel key, ReadyForQuery.
pub async fn welcome(
    stream: &mut Stream,
    admitted: &mut Admitted,
    key: &crate::wire::CancelKey,
    card: &Card,
    server: &mut Arc<Server>,
    worker: &Worker,
) -> Result<ReportedAtLogin, Farewell> {
    if admitted.database.pause.is_paused() && known(admitted, server).is_none() {
        await_resume(stream, admitted, card, server, worker).await?;
    }
    let Welcome { reported, settings, .. } = loop {
        tokio::select! {
            // Dropping the question closes its connection.
            told = reported(admitted, card, server, worker) => break told?,
            () = watched_anew(admitted, server, worker) => {}
        }
        follow(admitted, server, worker)?;
    };
    admitted.settings = settings;
    tell(stream, &reported, key, worker).await?;
    Ok(reported)
}

/// The client is told that it is logged in: what is reported, its cancel key, ReadyForQuery.
pub(super) async fn tell(
    stream: &mut Stream,
    reported: &[(Box<str>, Box<str>)],
    key: &crate::wire::CancelKey,
    worker: &Worker,
) -> Result<(), Farewell> {
    let mut out = BytesMut::with_capacity(1024);
    for (name, value) in reported.iter().filter(|(name, _)| **name != *NEVER_REPORTED) {
        backend::put_parameter_status(&mut out, name, value);
    }
    backend::put_backend_key(&mut out, key);
    backend::put_ready(&mut out, TransactionStatus::Idle);
    stream.write_all(&out).await?;
    worker.metrics.login_ok();
    Ok(())
}

/// While the database is paused, a client that a node must be asked for waits as statements do, unless it hangs up. It goes
/// on by the configuration in force: nodes may be others for which it was paused, and its database may be gone.
pub(super) async fn await_resume(
    stream: &Stream,
    admitted: &mut Admitted,
    card: &Card,
    server: &mut Arc<Server>,
    worker: &Worker,
) -> Result<(), Farewell> {
    let mut patience = Patience::of(server);
    while admitted.database.pause.is_paused() {
        let pause = Arc::clone(&admitted.database.pause);
        tokio::select! {
            // Dropping any of them loses nothing.
            resumed = await_resume_to_log_in(&pause, &mut patience, card, worker) => resumed?,
            () = outdated(server, worker) => {}
            () = until_hung_up(stream) => return Err(Farewell::Left),
        }
        follow(admitted, server, worker)?;
    }
    Ok(())
}

/// Returns when there is another configuration. Every client is woken then.
async fn outdated(server: &Server, worker: &Worker) {
    until(|| !worker.serves_by(server)).await;
}

/// From here on, the configuration in force counts.
pub(super) fn follow(admitted: &mut Admitted, server: &mut Arc<Server>, worker: &Worker) -> Result<(), Farewell> {
    if worker.serves_by(server) {
        return Ok(());
    }
    *server = worker.server();
    let gone = |gone: Gone| Farewell::told(SqlState::ADMIN_SHUTDOWN, gone.to_string());
    let database = server.destination(&admitted.identity.database, admitted.replication);
    let database = database.ok_or_else(|| gone(Gone::Database))?;
    if !server.may_have(&admitted.identity.user, &database) {
        return Err(gone(Gone::User));
    }
    admitted.database = database;
    Ok(())
}

/// Returns when by the configuration in force the client's nodes are watched by somebody else: those that it waits for may be
/// none of them. Every client is woken when there is another one.
pub(super) async fn watched_anew(admitted: &Admitted, server: &Server, worker: &Worker) {
    let is_watched_anew = || {
        let now = worker.server();
        let database = now.destination(&admitted.identity.database, admitted.replication);
        let before = &server.cluster(&admitted.database).view;
        database.is_none_or(|database| !Arc::ptr_eq(&now.cluster(&database).view, before))
    };
    until(|| !worker.serves_by(server) && is_watched_anew()).await;
}

/// Returns when the client is gone. It has nothing to say before it is logged in.
async fn until_hung_up(stream: &Stream) {
    while !stream.socket().has_ended() {
        timers::sleep(LOOK_FOR_CLIENT).await;
    }
}

/// Who has hung up keeps its place no longer than this.
const LOOK_FOR_CLIENT: Duration = Duration::from_secs(1);

/// What clients of this kind have been told before.
fn known(admitted: &Admitted, server: &Server) -> Option<Welcome> {
    let (cluster, user) = (server.cluster(&admitted.database).number, &admitted.identity.user);
    server.welcomes.get(cluster, &admitted.database.server_name, user, &admitted.settings)
}

/// What a server connection reports with the settings that the client asked for.
async fn reported(admitted: &Admitted, card: &Card, server: &Server, worker: &Worker) -> Result<Welcome, Farewell> {
    let Some(known) = known(admitted, server) else {
        return ask(admitted, card, server, worker).await.map_err(|unserved| unserved.counted(worker));
    };
    // Something in the catalogs has changed, which is most often something else. Nobody waits long for that, nor while
    // statements have to wait.
    if known.stamp.is_still(admitted.database.catalog.stamp()) || admitted.database.pause.is_paused() {
        return Ok(known);
    }
    match timers::timeout(LONGEST_CHECK, ask(admitted, card, server, worker)).await {
        Ok(Err(refusal)) if refusal.is_denied() => Err(refusal.counted(worker)),
        Ok(Ok(welcome)) => Ok(welcome),
        // Dropping the question closes its connection.
        Ok(Err(_)) | Err(_) => Ok(known),
    }
}

/// A node that has a server connection free answers within a millisecond.
const LONGEST_CHECK: Duration = Duration::from_secs(1);

/// Asks a server connection; where that is lost, as of a node that stands still, another one.
async fn ask(admitted: &Admitted, card: &Card, server: &Server, worker: &Worker) -> Result<Welcome, Unserved> {
    let deadline = Instant::now() + server.hold;
    loop {
        match ask_once(admitted, card, server, worker).await? {
            Ok(welcome) => return Ok(welcome),
            Err(_) if Instant::now() < deadline => {}
            Err(lost) => return Err(untold(&lost)),
        }
    }
}

/// No node tells what the client must know.
fn untold(why: &ExchangeError) -> Unserved {
    Unserved::by(LoginFailure::NoNode, Farewell::told(SqlState::CANNOT_CONNECT_NOW, why.to_string()))
}

/// Asks one server connection. The error within is that it was lost.
async fn ask_once(
    admitted: &Admitted,
    card: &Card,
    server: &Server,
    worker: &Worker,
) -> Result<Result<Welcome, ExchangeError>, Unserved> {
    let (cluster, user) = (server.cluster(&admitted.database), &admitted.identity.user);
    let (database, settings) = (&admitted.database.server_name, &admitted.settings);
    let stamp = admitted.database.catalog.stamp();
    let mut lease = fitting_lease(admitted, card, server, worker).await?;
    if is_last_word(cluster, lease.node()) {
        let defaults = match defaults_of(user, lease.connection(), server).await {
            Ok(defaults) => defaults,
            Err(error) if !error.is_answer() => return Ok(Err(error)),
            Err(error) => return Err(untold(&error)),
        };
        let login = (cluster.number, Arc::clone(database), Arc::clone(user));
        if server.welcomes.have_changed(login.clone(), defaults) {
            login_changed(login, &admitted.database, server);
            drop(lease);
            lease = fitting_lease(admitted, card, server, worker).await?;
        }
    }
    let parameters = match with_settings(lease.connection(), settings, server).await {
        Ok(parameters) => parameters,
        Err(error) if !error.is_answer() => return Ok(Err(error)),
        Err(refusal) => return Err(refuse(refusal, lease, server).await),
    };
    let node = lease.node();
    lease.give_back(Instant::now());
    let welcome = Welcome { reported: welcome::as_primary(parameters), settings: settings.clone(), stamp };
    // What a replica tells may be of before: it counts as outdated, and whoever logs in next asks again, but waits no longer for
    // it than for anything that may have changed.
    let is_of_now = cluster.view.load().primary.is_none_or(|primary| primary == node);
    let remembered = Welcome { stamp: if is_of_now { stamp } else { Stamp::OUTDATED }, ..welcome.clone() };
    server.welcomes.put(cluster.number, database, user, &remembered);
    Ok(Ok(welcome))
}

/// A lease of a server connection that takes the settings that the client asked for.
async fn fitting_lease(admitted: &Admitted, card: &Card, server: &Server, worker: &Worker) -> Result<Lease, Unserved> {
    loop {
        let mut lease = any_node(admitted, card, server, worker).await?;
        if !lease.connection().known.refuses(&admitted.settings) {
            return Ok(lease);
        }
        // It is closed, and there is one fewer that would not do.
    }
}

/// What this node tells of a role is not to be told otherwise by another: a replica that lags would tell what has been. In a
/// cluster that follows another one there is none that knows better.
fn is_last_word(cluster: &Cluster, node: NodeId) -> bool {
    let view = cluster.view.load();
    view.primary == Some(node) || view.is_standby
}

/// Another role has this name now, or it has other defaults, which no picture shows yet where they were set past Trunkline:
/// whoever logs in from now on has them, and reads from no node that lacks them.
fn login_changed(login: LoginKey, database: &Database, server: &Server) {
    let (cluster, now) = (server.cluster(database), Instant::now());
    database.catalog.changed();
    cluster.last_write.wrote(now);
    server.pools.login_changed(login, now);
    // So that connections to replicas are soon kept again.
    cluster.ask_for_positions();
    cluster.follow_replicas(now + server.freshness_wait);
}

/// Which role this user is, for another may have been given its name, and what ALTER ROLE and ALTER DATABASE have set for it. On
/// the connection somebody may have become another one, which may be gone since.
async fn defaults_of(user: &str, connection: &mut Connection, server: &Server) -> Result<Arc<str>, ExchangeError> {
    let user = quote_literal(user);
    let sql = format!(
        "WITH role AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) {user}) \
         SELECT pg_catalog.concat((SELECT oid FROM role), ' ', \
         pg_catalog.string_agg(pg_catalog.concat(s.setdatabase, s.setrole, s.setconfig), ' ' \
         ORDER BY s.setdatabase, s.setrole)) FROM pg_catalog.pg_db_role_setting s \
         WHERE s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database \
         WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) \
         AND s.setrole IN (0, (SELECT oid FROM role))"
    );
    let deadline = tokio::time::Instant::now() + server.answer_timeout();
    let rows = ask_in_utf8(connection, &Session::unhurried(&sql), deadline).await?.rows;
    Ok(rows.into_iter().flatten().next().flatten().unwrap_or_default())
}

/// A query that may name what is not ASCII, on a connection that may have been left in another encoding.
async fn ask_in_utf8(
    connection: &mut Connection,
    sql: &str,
    deadline: tokio::time::Instant,
) -> Result<Answer, ExchangeError> {
    if connection.misreads(sql) {
        connection.turn_to_utf8(deadline).await?;
    }
    connection.query(sql, deadline).await
}

/// The client is told in the node's words. What has been tried is undone, so that the connection can serve others.
async fn refuse(error: ExchangeError, mut lease: Lease, server: &Server) -> Unserved {
    let ExchangeError::Refused { code, fields, .. } = error else {
        return untold(&error);
    };
    let deadline = tokio::time::Instant::now() + server.answer_timeout();
    if lease.connection().query("ROLLBACK", deadline).await.is_ok() {
        lease.give_back(Instant::now());
    }
    Unserved::by(LoginFailure::NodeRefused, Farewell::Quoted { code, fields: as_fatal(&fields) })
}

/// Makes the settings the connection's, and asks it for everything it would have reported, and for what we must know.
async fn with_settings(
    connection: &mut Connection,
    settings: &Settings,
    server: &Server,
) -> Result<crate::wire::startup::Parameters, ExchangeError> {
    let deadline = tokio::time::Instant::now() + server.answer_timeout();
    // What it refuses is refused, though some of it does not last.
    let begun = settings.at_beginning();
    let sql_from = |there: &Settings| {
        let parts: Vec<_> = settings.sql_from(there).into_iter().chain(begun.sql_from(settings)).collect();
        (!parts.is_empty()).then(|| parts.join(";"))
    };
    let mut sql = sql_from(&connection.known.settings);
    if sql.as_ref().is_some_and(|sql| connection.misreads(sql)) {
        connection.turn_to_utf8(deadline).await?;
        sql = sql_from(&connection.known.settings);
    }
    if let Some(sql) = sql {
        let sql = at_read_committed(&sql);
        connection.query(&sql, deadline).await?;
        connection.known.settings = begun;
    }
    let names = names_told(connection.parameters.iter().map(|(name, _)| &**name));
    let sql = at_read_committed(&sql_to_read(&names));
    let answer = connection.query(&sql, deadline).await?;
    let values = answer.rows.into_iter().next().unwrap_or_default();
    let value = |value: Option<Arc<str>>| value.map_or_else(|| "".into(), |value| (&*value).into());
    Ok(names.iter().zip(values).map(|(name, v)| ((&**name).into(), value(v))).collect())
}
