//! A client for replication: the primary gives it a server connection of its own, in no pool, and every byte goes on as
//! it comes, for as long as both sides want. What SQL writes there, or changes in the catalogs, nobody here hears of.

use std::borrow::Cow;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::AsyncWrite;

use super::acquire::{self, RETRY_PAUSE};
use super::card::Card;
use super::farewell::{Farewell, SENT_AWAY};
use super::handshake::{self, Admitted};
use super::patience::{Patience, await_resume_to_log_in};
use super::places::Place;
use super::record;
use super::renewal::Gone;
use super::server::Server;
use super::tally::Tally;
use super::visit::ended;
use super::worker::Worker;
use crate::backend::cancel::{CancelTarget, Cancellable};
use crate::backend::gate::{About, Pass};
use crate::backend::quota::Claim;
use crate::backend::{ConnectClass, ConnectError, Endpoint, Login, Target, connect};
use crate::metrics::{Limit, LoginFailure, WorkerMetrics};
use crate::net::{ReadBuffer, Stream, timers};
use crate::topology::{Doubt, NodeId, View};
use crate::wire::{Progress, SqlState, backend, frontend};

/// A client's connection and the primary's, with nobody between them.
pub struct Passage {
    client: Stream,
    node: ServerEnd,
    /// From the client to the node.
    up: Lane,
    /// From the node to the client.
    down: Lane,
    /// Where the messages that the client has got end.
    told: Progress,
    /// Where those end that the node has got,
    asked: Progress,
    /// and whether one of them was the client's goodbye, or its connection has ended.
    client_has_ended: bool,
    doing: Doing,
    _entry: Entry,
    admitted: Admitted,
    server: Arc<Server>,
    worker: Rc<Worker>,
    tally: Rc<Tally>,
}

/// What others know of a passage, until this is dropped.
struct Entry {
    cancellable: Arc<Cancellable>,
    metrics: Arc<WorkerMetrics>,
}

/// The node's end of it.
struct ServerEnd {
    stream: Stream,
    /// Closed with all others when the node loses the primary's role.
    pass: Pass,
    /// Its place in the limits of its database and its user.
    _claim: Claim,
}

/// What the node does, as far as its messages tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for a command.
    Idle,
    /// It answers one, which has an end.
    Answering,
    /// It streams, and may do so for ever.
    Streaming,
}

/// One way of a passage.
#[derive(Debug, Default)]
struct Lane {
    buffer: ReadBuffer,
    stage: Stage,
}

/// How far one way is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// There may be more.
    #[default]
    Open,
    /// What has been read is the last.
    Read,
    /// The other side knows, or is gone.
    Closed,
}

/// What a stream of large messages is read by: beyond this, more at once is not quicker.
const LARGEST_BUFFER: usize = 128 * 1024;

/// Opens a connection to the primary with all that the client's startup message says, and tells the client that both
/// are ready. The client's stream is taken once they are.
pub async fn open(
    place: &mut Option<Stream>,
    mut admitted: Admitted,
    card: &Card,
    server: &mut Arc<Server>,
    worker: &Rc<Worker>,
) -> Result<Passage, Farewell> {
    let (node, login) = loop {
        tokio::select! {
            // Dropping it closes a connection that has not said who it is for.
            connected = Box::pin(connect_to_primary(&admitted, card, server, worker)) => break connected?,
            () = handshake::watched_anew(&admitted, server, worker) => {}
        }
        handshake::follow(&mut admitted, server, worker)?;
    };
    let entry = Entry::new(&admitted, card, server, worker);
    entry.cancellable.runs_at(&login.cancel_target);
    let mut client = place.take().ok_or(Farewell::Left)?;
    handshake::tell(&mut client, &login.parameters, entry.cancellable.key(), worker).await?;
    let mut up = Lane::default();
    up.buffer.put_front(&std::mem::take(&mut admitted.unread));
    Ok(Passage {
        client,
        node,
        doing: if up.buffer.is_empty() { Doing::Idle } else { Doing::Answering },
        up,
        down: Lane::default(),
        told: Progress::default(),
        asked: Progress::default(),
        client_has_ended: false,
        _entry: entry,
        server: Arc::clone(server),
        worker: Rc::clone(worker),
        tally: worker.tally(&admitted.identity.database),
        admitted,
    })
}

impl Entry {
    fn new(admitted: &Admitted, card: &Card, server: &Server, worker: &Worker) -> Self {
        worker.metrics.replication_begun();
        let cancellable = server.cancel_keys.issue(admitted.startup.secret_size());
        card.is_cancelled_by(&cancellable);
        Self { cancellable, metrics: Arc::clone(&worker.metrics) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.cancellable.runs_nothing();
        self.metrics.replication_ended();
    }
}

/// What the node has told at login.
struct Told {
    parameters: Vec<(Box<str>, Box<str>)>,
    cancel_target: Arc<CancelTarget>,
}

/// Waits for RESUME, for a primary, and for one that is starting, as long as statements do.
async fn connect_to_primary(
    admitted: &Admitted,
    card: &Card,
    server: &Server,
    worker: &Worker,
) -> Result<(ServerEnd, Told), Farewell> {
    let mut deadline = Instant::now() + server.hold;
    let (cluster, pause) = (server.cluster(&admitted.database), &admitted.database.pause);
    let mut patience = Patience::of(server);
    let mut changed = cluster.changed.clone();
    loop {
        if pause.is_paused() {
            await_resume_to_log_in(pause, &mut patience, card, worker).await?;
            deadline = Instant::now() + server.hold;
        }
        changed.mark_unchanged();
        let view = cluster.view.load_full();
        let problem = match primary(admitted, server, &view) {
            Some(node) => match attempt(admitted, node, &view, server, worker).await {
                Ok(opened) => return Ok(opened),
                Err(Refused::ForGood(farewell)) => return Err(farewell),
                Err(Refused::ForNow(why)) => format!("the primary cannot be connected to: {why}"),
            },
            None => {
                let because = view.why_no_writes(Instant::now());
                format!("no primary within {} ms: {because}", server.hold.as_millis())
            }
        };
        if Instant::now() >= deadline && !pause.is_paused() {
            worker.metrics.limit_met(acquire::hold_limit(&view));
            return Err(Farewell::told(SqlState::CANNOT_CONNECT_NOW, problem));
        }
        let next = (Instant::now() + RETRY_PAUSE).min(deadline);
        // Dropping the wait loses nothing: the next look sees the view.
        let _ = timers::timeout_at(next.into(), changed.changed()).await;
    }
}

/// The primary, if it lets somebody in now.
fn primary(admitted: &Admitted, server: &Server, view: &View) -> Option<NodeId> {
    let (cluster, now) = (server.cluster(&admitted.database), Instant::now());
    let primary = view.trusted_primary(now)?;
    cluster.gate(primary).filter(|gate| gate.takes_writes() && gate.held(now).is_none()).map(|_| primary)
}

/// Why there is no connection.
enum Refused {
    /// Another attempt may succeed.
    ForNow(String),
    /// The client is told.
    ForGood(Farewell),
}

async fn attempt(
    admitted: &Admitted,
    node: NodeId,
    view: &View,
    server: &Server,
    worker: &Worker,
) -> Result<(ServerEnd, Told), Refused> {
    let lost = || Refused::ForNow("the node has lost its role, or may have".to_owned());
    let cluster = server.cluster(&admitted.database);
    let (gate, address) = (cluster.gate(node).ok_or_else(lost)?, &view.node(node).ok_or_else(lost)?.address);
    let key = server.pool_key(&admitted.database, &admitted.identity.user, node);
    let claim = server.pools.claim_apart(&key).map_err(|crowd| {
        worker.metrics.limit_met(acquire::limit(crowd));
        Refused::ForGood(Farewell::told(SqlState::TOO_MANY_CONNECTIONS, crowd.to_string()))
    })?;
    let target = target(admitted, Endpoint::new(Arc::clone(address), Arc::clone(&cluster.tls)), server);
    let fenced = gate.generation();
    let deadline = tokio::time::Instant::now() + server.pools.plan().default.connect_timeout;
    let refused = |error: ConnectError| refused(error, node, admitted, server, worker);
    let login = connect(&target, deadline).await.map_err(refused)?;
    let at_home = login.at_home(gate.strays(), || gate.is_fenced_since(fenced), deadline).await.map_err(refused)?;
    let Login { stream, parameters, cancel_key, .. } = at_home.ok_or_else(lost)?;
    let cancel_target = CancelTarget::new(target.endpoint.reached_by(&stream), cancel_key);
    let about = About::new(&target, Some(&stream), &cancel_target, None);
    let handle = stream.second_handle().map_err(|error| Refused::ForNow(error.to_string()))?;
    let pass = gate.enter(handle, fenced, about).ok_or_else(lost)?;
    // It may have been fenced between the look for a primary and the one at its generation; or we stood still meanwhile.
    if !gate.takes_writes() || gate.is_unbelieved(Instant::now()) {
        return Err(lost());
    }
    Ok((ServerEnd { stream, pass, _claim: claim }, Told { parameters, cancel_target }))
}

/// All that the client has asked for is asked of the node, in its name.
fn target(admitted: &Admitted, endpoint: Endpoint, server: &Server) -> Target {
    let (user, cluster) = (&admitted.identity.user, server.cluster(&admitted.database).number);
    let password = server.pools.proved(cluster, user).or_else(|| admitted.user.server_password.clone());
    let parameters = admitted.startup.parameters.iter();
    let is_ours = |name: &str| matches!(name, "user" | "database") || crate::wire::startup::is_option(name);
    Target {
        endpoint,
        user: Arc::clone(user),
        database: Arc::clone(&admitted.database.server_name),
        password,
        salted_password: None,
        parameters: parameters
            .filter(|(name, _)| !is_ours(name))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    }
}

fn refused(error: ConnectError, node: NodeId, admitted: &Admitted, server: &Server, worker: &Worker) -> Refused {
    let class = error.class();
    match error {
        // A node that starts or stops may be another's successor soon.
        ConnectError::Server { code, fields, .. } if class != ConnectClass::Starting => {
            match class {
                ConnectClass::Full => worker.metrics.limit_met(Limit::NodeConnections),
                _ if code == SqlState::INVALID_CATALOG_NAME => {
                    worker.metrics.login_failed(LoginFailure::UnknownDatabase);
                }
                _ => worker.metrics.login_failed(LoginFailure::NodeRefused),
            }
            Refused::ForGood(Farewell::Quoted { code, fields })
        }
        error if class == ConnectClass::Denied => {
            worker.metrics.login_failed(LoginFailure::NodeRefused);
            let (code, message) = error.denial();
            Refused::ForGood(Farewell::told(code, message))
        }
        // Of the node it tells nothing.
        error if matches!(class, ConnectClass::Short | ConnectClass::NotLookedUp) => Refused::ForNow(error.to_string()),
        error => {
            let doubt = if class == ConnectClass::Starting { Doubt::Stopping } else { Doubt::Lost };
            (server.cluster(&admitted.database).doubt)(node, doubt);
            Refused::ForNow(error.to_string())
        }
    }
}

impl Passage {
    /// Passes everything on until one side is gone, or the passage must end. Answers what the client is told, if a
    /// message can stand where it is, and the client.
    pub async fn run(mut self, place: &Place) -> (Farewell, Stream) {
        let identity = &self.admitted.identity;
        place.card.is_of(&identity.user, &identity.database, self.client.encryption());
        record::has_logged_in(&place.card, &self.server);
        place.card.is_called(self.admitted.startup.parameter("application_name"));
        place.card.runs_on(&self.node.pass.about().address, Instant::now(), false);
        if self.doing == Doing::Idle {
            place.card.rests(false, Instant::now());
        }
        // Cancel-safe: all progress is in `self`.
        let farewell = std::future::poll_fn(|cx| self.poll_pass(cx, place)).await;
        let is_between = self.told.is_between() && !self.client.is_within_write();
        let may_be_told = is_between && self.down.stage != Stage::Closed;
        (if farewell.is_told() && !may_be_told { Farewell::Left } else { farewell }, self.client)
    }

    fn poll_pass(&mut self, cx: &mut Context<'_>, place: &Place) -> Poll<Farewell> {
        if let Poll::Ready(why) = place.card.poll_ended(cx) {
            return Poll::Ready(ended(why, &self.worker));
        }
        if self.node.pass.is_severed() {
            return Poll::Ready(Farewell::told(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection: its node is not the primary any more",
            ));
        }
        if self.poll_up(cx, place).is_err() {
            return Poll::Ready(Farewell::Left);
        }
        match (self.poll_down(cx, place), self.is_over()) {
            (Poll::Ready(Ok(())), _) if self.client_has_ended => Poll::Ready(Farewell::Left),
            (Poll::Ready(Ok(())), _) => Poll::Ready(Farewell::EndedByNode),
            (Poll::Ready(Err(error)), _) => Poll::Ready(Farewell::Lost(error)),
            (Poll::Pending, Some(why)) => Poll::Ready(Farewell::told(SqlState::ADMIN_SHUTDOWN, why)),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    /// Why it must end whatever it does, or because it does nothing that has an end.
    fn is_over(&mut self) -> Option<Cow<'static, str>> {
        if self.worker.is_draining() && self.doing != Doing::Answering {
            return Some(SENT_AWAY.into());
        }
        if self.worker.serves_by(&self.server) {
            return None;
        }
        self.server = self.worker.server();
        let identity = &self.admitted.identity;
        let Some(database) = self.server.destination(&identity.database, self.admitted.replication) else {
            return Some(Gone::Database.to_string().into());
        };
        let cluster = self.server.cluster(&database);
        if !self.server.may_have(&identity.user, &database) {
            return Some(Gone::User.to_string().into());
        }
        let is_its = |gate: &Arc<crate::backend::Gate>| Arc::ptr_eq(gate, self.node.pass.gate());
        if !cluster.gates.iter().any(is_its) {
            return Some("terminating connection: its node has been taken out of the configuration".into());
        }
        None
    }

    /// From the client to the node. Err: the client is gone. A node that takes nothing any more may still have something
    /// to say.
    fn poll_up(&mut self, cx: &mut Context<'_>, place: &Place) -> Result<(), std::io::Error> {
        while self.up.stage != Stage::Closed {
            let (asked, client_has_ended) = (&mut self.asked, &mut self.client_has_ended);
            let written = self.up.poll_write_out(cx, &mut self.node.stream, |bytes| {
                // What makes no sense is the node's to refuse.
                let _ = asked.pass(bytes, |tag| *client_has_ended |= tag == frontend::TERMINATE);
            });
            let Poll::Ready(written) = written else { break };
            if written.is_err() {
                self.up.stage = Stage::Closed;
                break;
            }
            let Poll::Ready(read) = self.up.poll_read(cx, &mut self.client) else { break };
            let count = read?;
            self.client_has_ended |= count == 0;
            if self.doing == Doing::Idle && count > 0 {
                self.doing = Doing::Answering;
                place.card.goes_on(None);
            }
            self.worker.metrics.received_from_client(count);
            self.tally.count(|totals| totals.add_received(count));
        }
        Ok(())
    }

    /// From the node to the client, until the node has ended and the client has all.
    fn poll_down(&mut self, cx: &mut Context<'_>, place: &Place) -> Poll<Result<(), std::io::Error>> {
        loop {
            let (told, doing, worker, tally) = (&mut self.told, &mut self.doing, &self.worker, &self.tally);
            let mut is_sound = true;
            let written = self.down.poll_write_out(cx, &mut self.client, |bytes| {
                worker.metrics.sent_to_client(bytes.len());
                tally.count(|totals| totals.add_sent(bytes.len()));
                let passed = told.pass(bytes, |tag| *doing = after(tag, *doing));
                is_sound &= passed.is_ok();
            });
            if !is_sound {
                return Poll::Ready(Err(std::io::ErrorKind::InvalidData.into()));
            }
            match (self.doing, place.card.doing()) {
                (Doing::Idle, super::card::Doing::Active) => place.card.rests(false, Instant::now()),
                (Doing::Streaming, super::card::Doing::Resting) => place.card.goes_on(None),
                _ => {}
            }
            ready!(written)?;
            if self.down.stage == Stage::Closed {
                return Poll::Ready(Ok(()));
            }
            // A node that breaks off has ended.
            if ready!(self.down.poll_read(cx, &mut self.node.stream)).is_err() {
                self.down.stage = Stage::Closed;
                return Poll::Ready(Ok(()));
            }
            if self.node.pass.is_severed() {
                // What it has said since does not count.
                self.down.buffer.consume(usize::MAX);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

/// What the node does after a message with this tag has begun.
fn after(tag: u8, before: Doing) -> Doing {
    match tag {
        backend::READY_FOR_QUERY => Doing::Idle,
        backend::COPY_BOTH_RESPONSE => Doing::Streaming,
        backend::COPY_DONE if before == Doing::Streaming => Doing::Answering,
        _ => before,
    }
}

impl Lane {
    /// Everything that has been read is written, and if it was the last, so is the end. `passes` is told what has been
    /// written.
    fn poll_write_out(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Stream,
        mut passes: impl FnMut(&[u8]),
    ) -> Poll<Result<(), std::io::Error>> {
        while !self.buffer.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, self.buffer.filled()))?;
            if count == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            passes(self.buffer.filled().get(..count).unwrap_or_default());
            self.buffer.consume(count);
        }
        if self.stage == Stage::Read {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.stage = Stage::Closed;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is there. Call it with nothing left to write.
    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut Stream) -> Poll<Result<usize, std::io::Error>> {
        let count = ready!(self.buffer.poll_fill(cx, from))?;
        if count == 0 {
            self.stage = Stage::Read;
        }
        if self.buffer.is_full() && self.buffer.capacity() < LARGEST_BUFFER {
            self.buffer.grow();
        }
        Poll::Ready(Ok(count))
    }
}
