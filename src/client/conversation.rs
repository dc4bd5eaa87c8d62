//! A client's conversation: read, survey, lease, translate, relay, release; and what becomes of it when something breaks.
//!
//! Cancel safety: nothing here is dropped halfway but the whole task, and then its lease is closed, not returned.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use smallvec::SmallVec;
use tokio::io::AsyncWriteExt;

use super::acquire::{Acquired, Refusal, target};
use super::alarm::Alarm;
use super::card::{Card, Doing, Ending};
use super::census::Seat;
use super::console::{self, Visitor};
use super::farewell::Farewell;
use super::handshake::{self, Admitted};
use super::last_path::LastPath;
use super::relay::Relayed;
use super::rulings::{self, minute_of_the_day};
use super::server::{Database, Server};
use super::shapes::Key;
use super::tally::Tally;
use super::welcome::Reported;
use super::worker::{Buffers, Place, Worker};
use crate::auth::Secret;
use crate::backend::cancel::Cancellable;
use crate::backend::exchange::{self, ExchangeError};
use crate::backend::{Lease, Pool};
use crate::config::PoolMode;
use crate::metrics::{Limit, LoginFailure, Loss as LossCount, Refusal as RefusalCause, Retry, Target, Violator};
use crate::net::{ReadBuffer, Stream};
use crate::routing::{Catalog, Intent, Reason, Ruling, safety};
use crate::session::failure::Circumstances;
use crate::session::replay::Sent;
use crate::session::translate::{DISCARD_SEQUENCES, Message};
use crate::session::wishes;
use crate::session::{End, Held, Identity, Known, Loss, Session, SessionId, Surroundings, TransactionLog};
use crate::topology::{Doubt, NodeId, Role};
use crate::wire::error_response::{Severity, put_error, put_notice, put_warning};
use crate::wire::{Header, SqlState, backend, frame, frontend};

/// One client, logged in.
pub struct Client {
    pub(super) stream: Stream,
    pub(super) session: Session,
    pub(super) held: Option<HeldLease>,
    pub(super) server: Arc<Server>,
    pub(super) worker: Rc<Worker>,
    pub(super) database: Database,
    /// When its server connection goes back.
    pub(super) mode: PoolMode,
    pub(super) password: Option<Secret>,
    pub(super) pools: Vec<Option<Arc<Pool>>>,
    pub(super) cancellable: Arc<Cancellable>,
    pub(super) tally: Rc<Tally>,
    /// Bytes of a message from the client that nobody wants, and that have not come yet.
    pub(super) dropping: usize,
    /// Nodes that were lost while they had the present unit: it is run again elsewhere.
    pub(super) lost_on: SmallVec<[NodeId; 4]>,
    paths: LastPath,
    /// The replica that it reads from as long as it can, where that is configured.
    pub(super) stays_with: Option<NodeId>,
    /// Its turn among replicas, for the present unit: a node that has no connection yet is not passed over for that.
    pub(super) turn: u64,
    /// The present transaction, where it may be replayed.
    pub(super) log: Option<Box<TransactionLog>>,
    pub(super) place: Place,
    /// The rule that has matched the present unit, for those who want to be told.
    rule: Option<usize>,
    /// Until it has gone, another client may have to be refused.
    _seat: Seat,
}

/// A lease, and what is known of the unit that runs on it.
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    pub(super) role: Role,
    pub(super) begun: Instant,
    /// Why it was taken.
    pub(super) reason: Reason,
    /// What its first unit counts as; None: another unit has gone the same way since.
    pub(super) shape: Option<Key>,
    /// When the unit that is under way was sent, if its time is not counted yet.
    pub(super) asked: Option<Instant>,
    /// Units sent.
    pub(super) units: u32,
    /// Bytes of a message from the client that go on as they come: it is too large to be held.
    pub(super) passing_to_node: usize,
    /// Bytes of a message from the node that go on as they come.
    pub(super) passing_to_client: usize,
    /// Something of the present unit has been written to the node.
    pub(super) sent: bool,
    /// Something of its replies has been forwarded.
    pub(super) forwarded: bool,
    /// The messages of all that is on its way are kept, and nothing of it is answered: it can be run again.
    pub(super) at_hand: bool,
    /// It is a read by the proof.
    pub(super) is_read: bool,
    /// It ends by itself: what it takes tells how quick the node is.
    pub(super) is_measured: bool,
    /// Cancels it when its rule's time is over.
    #[expect(dead_code, reason = "it goes off by itself, and dropping it calls that off")]
    pub(super) alarm: Option<Alarm>,
    /// It may be cancelled when a time is over: nothing else may run on its connection until it is answered.
    pub(super) is_timed: bool,
    /// A replica has refused it: the rest of its answer is dropped and the primary asked.
    pub(super) refused: Option<SqlState>,
    /// The node has said goodbye with this; what it said before goes to the client first.
    pub(super) farewell: Option<SqlState>,
}

/// What a client came for is no longer in the configuration.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Gone {
    /// Its database.
    #[error("terminating connection: its database has been taken out of the configuration")]
    Database,
    /// Its user.
    #[error("terminating connection: its user has been taken out of the configuration")]
    User,
}

/// What [`Client::poll_usual`] leaves to [`Client::serve`].
enum Unusual {
    /// Relaying has stopped for a reason that takes time.
    Relayed(Relayed),
    /// This lease must be made the session's first. The unit may be read from a replica: the second says so.
    Acquired(Acquired, bool),
    /// What is at the front of the input is not whole, or cannot start at once.
    Unit,
}

/// What is said of a transaction block in the pool mode `statement`, in PgBouncer's words.
const NO_BLOCKS: &str = "transaction blocks not allowed in statement pooling mode";

/// A unit that node after node says goodbye to is told so in the end.
const MOST_RUNS: usize = 8;

/// A batch for the primary that is longer than this is not collected whole before it is sent: what few batches exceed, so
/// that a batch that can be run again as a whole mostly stays one.
const LONG_PIPELINE: usize = 256 * 1024;

/// Serves one client, from its first byte to its last.
pub async fn serve(stream: Stream, server: Arc<Server>, worker: Rc<Worker>, id: SessionId) {
    let place = worker.enter(Card::new(id, stream.socket().peer_address(), stream.socket().local_address()));
    worker.metrics.client_accepted();
    let mut stream = Some(stream);
    let login = tokio::time::timeout(server.limits.login_timeout, Box::pin(login(&mut stream, &server, &worker)));
    let farewell = match (login.await, stream.take()) {
        (Err(_), _) => {
            worker.metrics.login_failed(LoginFailure::Timeout);
            Farewell::Left
        }
        (Ok(Err(Farewell::ToConsole(user))), Some(stream)) => {
            visit_console(stream, user, &server, &worker, &place).await;
            return worker.metrics.client_closed();
        }
        (Ok(Err(farewell)), still_there) => {
            stream = still_there;
            farewell
        }
        (Ok(Ok(_)), None) => Farewell::Left,
        (Ok(Ok((admitted, cancellable, reported))), Some(stream)) => {
            let mut client =
                Client::new(stream, admitted, cancellable, Arc::clone(&server), Rc::clone(&worker), place, id);
            client.session.told(reported);
            client.server.has_let_in(&client.database.name);
            // What is wrong with them stays without effect: nobody listens yet.
            let _ = client.session.take_wishes([wishes::POSITION], Instant::now());
            // It may be somebody who has just written, on a connection that is gone.
            if let Some(moment) = server.pools.last_write() {
                client.session.freshness.wrote(moment);
            }
            let farewell = client.converse_unless_killed().await;
            client.leave(farewell).await;
            worker.metrics.client_closed();
            return;
        }
    };
    if let Some(stream) = &mut stream {
        say_farewell(stream, &farewell, &worker).await;
    }
    worker.metrics.client_closed();
}

async fn login(
    place: &mut Option<Stream>,
    server: &Server,
    worker: &Worker,
) -> Result<(Admitted, Arc<Cancellable>, Reported), Farewell> {
    let mut admitted = handshake::admit(place, server, worker).await?;
    let stream = place.as_mut().ok_or(Farewell::Left)?;
    let cancellable = server.cancel_keys.issue();
    match handshake::welcome(stream, &mut admitted, cancellable.key(), server, worker).await {
        Ok(reported) => Ok((admitted, cancellable, reported)),
        Err(farewell) => {
            server.cancel_keys.remove(&cancellable);
            Err(farewell)
        }
    }
}

/// The client goes on at the console, if it may; else it is told why not.
async fn visit_console(stream: Stream, user: Arc<str>, server: &Server, worker: &Worker, place: &Place) {
    let refusal = match (server.console_right(&user), server.console.get()) {
        (Some(right), Some(console)) => {
            worker.metrics.login_ok();
            let address = stream.origin();
            place.card.is_of(&Identity { user: Arc::clone(&user), database: console::NAME.into(), address });
            place.card.visits_console();
            let mut visit = console(Visitor { stream, user, right });
            let until_told = std::future::poll_fn(|cx| {
                if place.card.poll_ended(cx).is_ready() || worker.is_draining() {
                    return Poll::Ready(());
                }
                place.watch(cx);
                visit.as_mut().poll(cx)
            });
            return until_told.await;
        }
        (None, _) => {
            let message = format!(
                "user \"{user}\" may not use the console: add it to users or stats_users in the [admin] section of the \
                 configuration"
            );
            Farewell::told(SqlState::INSUFFICIENT_PRIVILEGE, message)
        }
        (_, None) => Farewell::told(SqlState::CANNOT_CONNECT_NOW, "the console is not there yet"),
    };
    let mut stream = stream;
    say_farewell(&mut stream, &refusal, worker).await;
}

async fn say_farewell(stream: &mut Stream, farewell: &Farewell, worker: &Worker) {
    match farewell {
        Farewell::Told { code, message } => {
            worker.metrics.error_sent(code.as_str());
            if *code == SqlState::PROTOCOL_VIOLATION {
                worker.metrics.protocol_violated(Violator::Client);
            }
            let mut out = BytesMut::new();
            put_error(&mut out, Severity::Fatal, *code, message, None);
            // Whoever does not read it is gone already.
            let _ = stream.write_all(&out).await;
            let _ = stream.shutdown().await;
        }
        Farewell::NotPostgres => worker.metrics.client_refused(RefusalCause::NotPostgres),
        Farewell::Left | Farewell::Lost(_) | Farewell::Cancel | Farewell::ToConsole(_) => {}
    }
}

impl Client {
    fn new(
        stream: Stream,
        admitted: Admitted,
        cancellable: Arc<Cancellable>,
        server: Arc<Server>,
        worker: Rc<Worker>,
        place: Place,
        id: SessionId,
    ) -> Self {
        place.card.is_of(&admitted.identity);
        place.card.is_called(admitted.settings.get("application_name"));
        place.card.is_cancelled_by(&cancellable);
        let turn = worker.turn();
        let mode = server.mode_of(&admitted.database, &admitted.identity.user);
        let tally = worker.tally(&admitted.identity.database);
        let mut session = Session::new(id, admitted.identity, admitted.settings);
        session.told_process(cancellable.key().process_id);
        Self {
            stream,
            rule: None,
            _seat: admitted.seat,
            mode,
            tally,
            session,
            held: None,
            server,
            worker,
            database: admitted.database,
            password: admitted.user.server_password,
            pools: Vec::new(),
            cancellable,
            dropping: 0,
            lost_on: SmallVec::new(),
            paths: LastPath::default(),
            stays_with: None,
            turn,
            log: None,
            place,
        }
    }

    /// An operator may end it at any moment. Dropping what it does loses nothing that is not settled by leaving.
    async fn converse_unless_killed(&mut self) -> Farewell {
        let (card, worker) = (Rc::clone(&self.place.card), Rc::clone(&self.worker));
        let mut conversation = std::pin::pin!(self.converse());
        std::future::poll_fn(|cx| match card.poll_ended(cx) {
            Poll::Ready(why) => Poll::Ready(ended(why, &worker)),
            Poll::Pending => conversation.as_mut().poll(cx),
        })
        .await
    }

    async fn converse(&mut self) -> Farewell {
        let mut lent = None;
        loop {
            // Cancel-safe: all progress is in `self` and in what is lent.
            let unusual = std::future::poll_fn(|cx| self.poll_usual(cx, &mut lent)).await;
            let buffers = lent.get_or_insert_with(|| self.worker.take_buffers());
            let served = match unusual {
                Ok(unusual) => Box::pin(self.serve(unusual, buffers)).await,
                Err(farewell) => Err(farewell),
            };
            if let Err(farewell) = served {
                lent.into_iter().for_each(|buffers| self.worker.put_buffers(buffers));
                return farewell;
            }
        }
    }

    /// The way of almost every statement, without a future of its own: read, survey, lease, relay, release. Ends where
    /// something else must be done or waited for; after that it goes on here.
    fn poll_usual(&mut self, cx: &mut Context<'_>, lent: &mut Option<Box<Buffers>>) -> Poll<Result<Unusual, Farewell>> {
        loop {
            let buffers = lent.get_or_insert_with(|| self.worker.take_buffers());
            if self.held.is_some() {
                match ready!(self.poll_relay(cx, buffers))? {
                    Relayed::Idle if !self.session.has_touched() => self.finish(buffers),
                    relayed => return Poll::Ready(Ok(Unusual::Relayed(relayed))),
                }
            }
            if self.is_outdated() {
                self.renew().map_err(|gone| Farewell::told(SqlState::ADMIN_SHUTDOWN, gone.to_string()))?;
            }
            if self.dropping > 0 || self.session.answers_alone() {
                return Poll::Ready(Ok(Unusual::Unit));
            }
            if buffers.input.is_empty() {
                // A client that is idle holds no buffer.
                let read = self.poll_idle(cx, &mut buffers.input);
                if read.is_pending() {
                    lent.take().into_iter().for_each(|buffers| self.worker.put_buffers(buffers));
                }
                ready!(read)?;
                continue;
            }
            self.survey(buffers)?;
            if let Some(unusual) = self.try_start(buffers)? {
                return Poll::Ready(Ok(unusual));
            }
        }
    }

    /// The configuration has been read anew since the client last looked.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        !self.worker.serves_by(&self.server)
    }

    /// From here on, the configuration in force counts. Without a lease only: it belongs to a pool of the one before.
    pub(super) fn renew(&mut self) -> Result<(), Gone> {
        let server = self.worker.server();
        let database = server.database(&self.session.identity.database).ok_or(Gone::Database)?;
        let user = server.users.get(&self.session.identity.user);
        if user.is_none() && server.cluster(&database).auth_query.is_none() {
            return Err(Gone::User);
        }
        // What the client has proved itself is good as long as nothing else is configured.
        let password = user.and_then(|user| user.server_password.clone()).or(self.password.take());
        if server.cluster(&database).number != self.cluster().number {
            // Nodes have other numbers there.
            self.session.freshness.renumbered();
            self.lost_on.clear();
            self.stays_with = None;
        }
        self.mode = server.mode_of(&database, &self.session.identity.user);
        (self.server, self.database, self.password) = (server, database, password);
        self.pools.clear();
        Ok(())
    }

    /// Reads what the idle client sends, unless it is asked to leave.
    fn poll_idle(&mut self, cx: &mut Context<'_>, input: &mut ReadBuffer) -> Poll<Result<(), Farewell>> {
        if self.worker.is_draining() {
            return Poll::Ready(Err(Farewell::told(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            )));
        }
        self.place.watch(cx);
        if self.place.card.doing() != Doing::Idle {
            // Its lease was lost, or its statement refused.
            self.place.card.idles(Instant::now());
        }
        match ready!(input.poll_fill(cx, &mut self.stream))? {
            0 => Poll::Ready(Err(Farewell::Left)),
            count => {
                self.worker.metrics.received_from_client(count);
                self.tally.count(|totals| totals.add_received(count));
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Sends the unit on its way, if a server connection is there for it that needs no preparation.
    fn try_start(&mut self, buffers: &mut Buffers) -> Result<Option<Unusual>, Farewell> {
        match self.session.gathered.end {
            Some(End::Terminate) => return Err(Farewell::Left),
            None | Some(End::StrayCopy) => return Ok(Some(Unusual::Unit)),
            Some(_) => {}
        }
        let (intent, now) = (self.intent(), Instant::now());
        if matches!(intent, Intent::Refuse { .. }) {
            return Ok(Some(Unusual::Unit));
        }
        if self.session.gathered.asks_wishes {
            return Ok(Some(Unusual::Unit));
        }
        let Some(mut acquired) = self.try_acquire(&intent, now) else { return Ok(Some(Unusual::Unit)) };
        let is_read = matches!(intent, Intent::Read { .. });
        if !self.session.is_at_home(&acquired.lease.connection().known) {
            return Ok(Some(Unusual::Acquired(acquired, is_read)));
        }
        self.set_out(acquired, is_read, now, buffers)?;
        Ok(None)
    }

    /// One thing that is not usual.
    async fn serve(&mut self, unusual: Unusual, buffers: &mut Buffers) -> Result<(), Farewell> {
        match unusual {
            Unusual::Relayed(Relayed::Idle) => self.release(buffers).await,
            Unusual::Relayed(Relayed::Elsewhere) => self.move_elsewhere(buffers).await,
            Unusual::Relayed(Relayed::Refused(code)) => {
                self.ask_primary(code, buffers);
                Ok(())
            }
            Unusual::Relayed(Relayed::NodeLost(farewell)) => self.node_lost(farewell, buffers).await,
            Unusual::Relayed(Relayed::Touched) => self.settle(buffers).await,
            Unusual::Relayed(Relayed::Failed) => self.flush(buffers).await,
            Unusual::Relayed(Relayed::InBlock) => {
                self.worker.metrics.limit_met(Limit::StatementMode);
                Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, NO_BLOCKS))
            }
            Unusual::Relayed(Relayed::ReplayDiffers) => {
                self.replay_differs(buffers);
                Ok(())
            }
            Unusual::Acquired(acquired, is_read) => self.begin(acquired, is_read, buffers).await,
            Unusual::Unit => self.serve_unit(buffers).await,
        }
    }

    /// What is at the front of the input, without a lease.
    async fn serve_unit(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.drop_rest(buffers);
        if self.dropping > 0 {
            return self.read_more(&mut buffers.input).await;
        }
        if self.session.answers_alone() {
            return self.answer_alone(buffers).await;
        }
        self.survey(buffers)?;
        match self.session.gathered.end {
            Some(End::Terminate) => Err(Farewell::Left),
            // Behind an Execute it may be the data of its COPY.
            Some(End::StrayCopy) if !self.session.gathered.executes => {
                self.drop_unit(buffers);
                Ok(())
            }
            Some(_) => self.start(buffers).await,
            None if buffers.input.is_empty() => Ok(()),
            None => self.read_more(&mut buffers.input).await,
        }
    }

    async fn read_more(&mut self, input: &mut ReadBuffer) -> Result<(), Farewell> {
        match self.session.status() {
            backend::TransactionStatus::Idle => self.place.card.idles(Instant::now()),
            _ => self.place.card.rests(true, Instant::now()),
        }
        if input.is_full() {
            input.grow();
        }
        match input.fill(&mut self.stream).await? {
            0 => Err(Farewell::Left),
            count => {
                self.worker.metrics.received_from_client(count);
                self.tally.count(|totals| totals.add_received(count));
                Ok(())
            }
        }
    }

    /// Looks at whole messages until the unit is whole. Without a lease only.
    fn survey(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        while self.session.gathered.end.is_none() {
            let rest = buffers.input.filled().get(self.session.gathered.size..).unwrap_or_default();
            let Some(header) = peek(rest)? else { return Ok(()) };
            if let Some(message) = rest.get(..header.size) {
                self.survey_message(header, message, 0)?;
                self.cut_long_pipeline();
            } else if !self.survey_partial(header, buffers)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What needs the primary needs it whatever follows: the first statements of a long batch run, and may fail, while the
    /// client still sends the rest.
    fn cut_long_pipeline(&mut self) {
        let gathered = &mut self.session.gathered;
        if gathered.size >= LONG_PIPELINE && matches!(gathered.intent, Some(Intent::Primary(_))) {
            gathered.end.get_or_insert(End::Flush);
        }
    }

    /// Drops what has come of a message that nobody wants.
    pub(super) fn drop_rest(&mut self, buffers: &mut Buffers) {
        let there = self.dropping.min(buffers.input.len());
        buffers.input.consume(there);
        self.dropping -= there;
    }

    /// Takes the unit off the input; what has not come of it is dropped as it comes.
    pub(super) fn take_unit_off(&mut self, buffers: &mut Buffers) {
        buffers.input.consume(self.session.gathered.size);
        self.dropping = self.session.gathered.missing;
    }

    /// Looks at a message of which `missing` bytes have not come yet.
    pub(super) fn survey_message(&mut self, header: Header, message: &[u8], missing: usize) -> Result<(), Farewell> {
        let held = match &self.held {
            None => Held::Nothing,
            Some(held) if held.role == Role::Primary => Held::Primary,
            Some(_) => Held::Replica,
        };
        let known = self.database.catalog.look();
        let resolved = known.picture().map(|picture| self.paths.resolve(picture, &self.session));
        let catalog = match (known.picture(), &resolved) {
            (Some(picture), Some(resolved)) => Catalog::Known { picture, path: &resolved.path, key: resolved.key },
            _ => Catalog::Unknown,
        };
        let (worker, dialect) = (&self.worker, self.session.dialect());
        let mut around = Surroundings {
            classify: &mut |text| worker.classify(text, dialect),
            rules: &self.server.rules,
            reads: self.server.reads,
            held,
            catalog,
            heeds_hints: self.server.hints,
            minute: if self.server.rules.looks_at_time() { minute_of_the_day() } else { 0 },
            draw: if self.server.rules.draws() { rand::random() } else { 0 },
            ruling: Ruling::default(),
            optimistic: self.server.optimistic,
        };
        let body = message.get(frame::HEADER..).unwrap_or_default();
        match missing {
            0 => self.session.survey(header.tag, header.size, body, &mut around),
            _ => self.session.survey_beginning(header.tag, body, missing, &mut around),
        }
        .map_err(|_| violation(header.tag))?;
        if !around.ruling.is_empty() {
            self.rule = around.ruling.rule.or(self.rule);
            rulings::count(&around.ruling, &self.server.rules, &self.session);
        }
        if self.mode == PoolMode::Statement && self.session.gathered.begins {
            self.refuse_block();
        }
        Ok(())
    }

    /// What has been gathered begins a transaction, which the pool's mode does not allow.
    fn refuse_block(&mut self) {
        if !matches!(self.session.intent(), Some(Intent::Refuse { .. })) {
            self.worker.metrics.limit_met(Limit::StatementMode);
            let (rule, message, sqlstate) = ("pool_mode".into(), NO_BLOCKS.into(), "0A000".into());
            self.session.gathered.join(Intent::Refuse { rule, message, sqlstate });
        }
    }

    /// A message that is too large to wait for goes on as it comes: the unit starts with what is there of it. Answers
    /// false if there must be more of it first.
    pub(super) fn survey_partial(&mut self, header: Header, buffers: &mut Buffers) -> Result<bool, Farewell> {
        let limit = self.server.limits.buffer_bytes;
        if header.tag == frontend::COPY_DATA && self.session.gathered.size == 0 {
            self.pass_copy_data(header, buffers);
            return Ok(true);
        }
        if header.size <= limit && buffers.input.len() < limit {
            return Ok(false);
        }
        if self.session.gathered.size > 0 {
            self.session.gathered.end = Some(End::Flush);
            return Ok(true);
        }
        let missing = header.size.saturating_sub(buffers.input.len());
        if self.held.is_some() && self.session.answers_alone() {
            buffers.input.consume(usize::MAX);
            self.dropping = missing;
            return Ok(true);
        }
        if !matches!(header.tag, frontend::QUERY | frontend::BIND) {
            let message = format!("message of {} bytes is larger than limits.buffer_bytes ({limit})", header.size);
            return Err(Farewell::told(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
        }
        self.survey_message(header, buffers.input.filled(), missing)?;
        Ok(true)
    }

    /// Copy data at the front of the input, whole or not, goes to the node if it may want it, and nowhere else.
    pub(super) fn pass_copy_data(&mut self, header: Header, buffers: &mut Buffers) {
        let there = header.size.min(buffers.input.len());
        let missing = header.size - there;
        let is_wanted = !self.session.answers_alone() && (self.session.copies_in() || self.session.awaits_replies());
        match &mut self.held {
            Some(held) if is_wanted => {
                if let Some(log) = &mut self.log {
                    log.spoil();
                }
                buffers.to_node.extend_from_slice(buffers.input.filled().get(..there).unwrap_or_default());
                held.passing_to_node = missing;
            }
            _ => self.dropping = missing,
        }
        buffers.input.consume(there);
    }

    fn drop_unit(&mut self, buffers: &mut Buffers) {
        self.take_unit_off(buffers);
        self.session.gathered.clear();
    }

    /// Finds a lease for the unit and sends it.
    async fn start(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let intent = self.intent();
        if let Intent::Refuse { rule, message, sqlstate } = &intent {
            let code = SqlState::from_bytes(sqlstate.as_bytes()).unwrap_or(SqlState::INSUFFICIENT_PRIVILEGE);
            self.worker.metrics.statement_routed(Target::None, Reason::Refused.index());
            tracing::debug!(rule = %rule, "statement refused by a rule");
            let message = message.to_string();
            return self.refuse(Refusal { code, message }, buffers).await;
        }
        if self.session.gathered.asks_wishes
            && let Err(refusal) = Box::pin(self.prepare_wishes()).await
        {
            return self.refuse(refusal, buffers).await;
        }
        let acquired = match self.try_acquire(&intent, Instant::now()) {
            Some(acquired) => Ok(acquired),
            None => Box::pin(self.acquire(&intent)).await,
        };
        match acquired {
            Ok(acquired) => self.begin(acquired, matches!(intent, Intent::Read { .. }), buffers).await,
            Err(refusal) => {
                self.worker.metrics.statement_routed(Target::None, intent.reason().index());
                self.refuse(refusal, buffers).await
            }
        }
    }

    /// Where the unit may go; one without any statement is as good as a read.
    fn intent(&self) -> Intent {
        match (self.mode, self.session.intent()) {
            (_, Some(refused @ Intent::Refuse { .. })) => refused.clone(),
            (PoolMode::Session, _) => Intent::Primary(Reason::SessionMode),
            (_, Some(intent)) => intent.clone(),
            // Where no statement is, nobody must wait for a primary.
            (_, None) if self.cluster().view.load().primary.is_none() => {
                Intent::Read { safe: safety::of_nothing(), reason: Reason::Read, terms: None }
            }
            (_, None) => Intent::Primary(Reason::UnknownName),
        }
    }

    /// The unit goes on its way on a new lease.
    async fn begin(&mut self, mut acquired: Acquired, is_read: bool, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.session.cannot_use(&acquired.lease.connection().known) {
            return Ok(()); // closes it, and the unit is started on another
        }
        if let Err(error) = self.make_ours(&mut acquired.lease).await {
            return self.replay_failed(error, buffers).await;
        }
        if let Some(sql) = self.session.beginning() {
            let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
            if let Err(error) = exchange::query(&mut acquired.lease.connection().stream, &sql, deadline).await {
                return self.replay_failed(error, buffers).await;
            }
            self.session.has_begun();
        }
        self.set_out(acquired, is_read, Instant::now(), buffers)
    }

    /// The unit goes on its way on a lease whose settings are the session's.
    fn set_out(
        &mut self,
        acquired: Acquired,
        is_read: bool,
        begun: Instant,
        buffers: &mut Buffers,
    ) -> Result<(), Farewell> {
        let Acquired { mut lease, role, reason } = acquired;
        let is_measured = is_read && !self.session.gathered.begins;
        let terms = self.session.intent().and_then(Intent::terms).filter(|_| is_measured);
        let timeout = terms.and_then(|terms| terms.timeout);
        let alarm = timeout.map(|timeout| Alarm::set(timeout, &self.server, &self.cancellable));
        // What ends with a Flush goes on: it is timed with what ends it.
        let has_limit = is_measured && self.server.limits.query_timeout.is_some();
        let ends_here = !matches!(self.session.gathered.end, Some(End::Flush | End::StrayCopy));
        self.turn = self.worker.turn();
        if is_read && role == Role::Replica && self.cluster().balance.sticky {
            self.stays_with = Some(lease.node());
        }
        self.cancellable.runs_on(lease.connection());
        buffers.keep_nothing();
        if self.mode == PoolMode::Session {
            self.session.keep_lease();
        }
        self.worker.metrics.statement_routed(target(role), reason.index());
        self.session.served_on(if role == Role::Primary { Held::Primary } else { Held::Replica });
        self.place.card.runs_on(lease.pool().address(), begun, has_limit && ends_here);
        self.tally.count(|totals| totals.assignments += 1);
        self.held = Some(HeldLease {
            lease,
            role,
            begun,
            reason,
            shape: None,
            asked: Some(begun),
            units: 0,
            passing_to_node: 0,
            passing_to_client: 0,
            sent: false,
            forwarded: false,
            at_hand: ends_here,
            is_read,
            is_measured,
            is_timed: has_limit || alarm.is_some(),
            alarm,
            refused: None,
            farewell: None,
        });
        self.send_unit(buffers)
    }

    /// Translates what has been gathered. Its messages are kept while it may have to be run again.
    pub(super) fn send_unit(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.remember_decision(buffers);
        let size = self.session.gathered.size;
        match &self.held {
            Some(held) if held.role == Role::Primary => self.session.goes_to_primary(),
            Some(_) => self.session.goes_to_replica(),
            None => {}
        }
        self.note_for_replay(buffers);
        let Some(held) = &mut self.held else { return Ok(()) };
        let unit = buffers.input.filled().get(..size).unwrap_or_default();
        let mut rest = unit;
        while let Some(header) = peek(rest)? {
            let Some((message, after)) = rest.split_at_checked(header.size.min(rest.len())) else { break };
            let message = Message {
                tag: header.tag,
                body: message.get(frame::HEADER..).unwrap_or_default(),
                whole: message,
                missing: header.size - message.len(),
            };
            let known = &mut held.lease.connection().known;
            let before = buffers.to_node.len();
            self.session
                .translate(message, known, self.server.prepared_statements, &mut buffers.to_node)
                .map_err(|_| violation(header.tag))?;
            match buffers.to_node.len() > before {
                true => held.passing_to_node = message.missing,
                false => self.dropping = message.missing,
            }
            rest = after;
        }
        if held.at_hand && self.session.gathered.missing == 0 {
            buffers.kept.extend_from_slice(unit);
            if matches!(self.session.gathered.end, Some(End::Query | End::Sync | End::FunctionCall)) {
                buffers.kept_ends.push_back(buffers.kept.len());
            }
        } else {
            held.at_hand = false;
        }
        buffers.input.consume(size);
        self.session.gathered.clear();
        Ok(())
    }

    /// Counts where the unit goes and why, by the shape of its first statement; and tells the client, if it wants to know.
    fn remember_decision(&mut self, buffers: &mut Buffers) {
        let Some(held) = &mut self.held else { return };
        let Some(statement) = self.session.gathered.first.as_ref().filter(|_| self.session.gathered.executes) else {
            return;
        };
        held.units = held.units.saturating_add(1);
        let is_first = held.units == 1;
        let (reason, now) = match self.session.intent() {
            Some(intent) if !is_first => (intent.reason(), Instant::now()),
            _ => (held.reason, held.begun),
        };
        held.asked = held.asked.or(Some(now));
        let session = &self.session;
        let unit = || buffers.input.filled().get(..session.gathered.size).unwrap_or_default();
        let text = || crate::sql::redacted(&session.text_of_unit(unit()));
        let decision = (target(held.role), reason);
        let key = self.worker.shapes.borrow_mut().made(statement, held.lease.pool().address(), decision, now, text);
        held.shape = is_first.then_some(key);
        if self.session.wishes().notices {
            let rule = self.rule.take().and_then(|number| self.server.rules.rule(number));
            let by = rule.map(|rule| format!(", rule {}", rule.name)).unwrap_or_default();
            let node = held.lease.pool().address();
            let words = reason.words();
            let told = format!("routed to {} {node}: {}{by} ({words})", target(held.role).code(), reason.code());
            put_notice(&mut buffers.to_client, SqlState::SUCCESSFUL_COMPLETION, &told);
        }
        self.tally.count(|totals| totals.queries += 1);
    }

    /// Makes the server connection's settings and SQL-prepared statements the session's.
    async fn make_ours(&mut self, lease: &mut Lease) -> Result<(), ExchangeError> {
        let connection = lease.connection();
        let mut sql = self.session.replay(&connection.known);
        if self.session.meets_foreign_sequences(&connection.known) {
            sql = Some(format!("{};{DISCARD_SEQUENCES}", sql.unwrap_or_default()));
            connection.known.last_writer = None;
        }
        let missing = self.session.missing_prepares(&connection.known);
        if sql.is_none() && missing.is_empty() {
            return Ok(());
        }
        let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
        if let Some(sql) = sql.map(|sql| self.session.guarded(sql)) {
            self.worker.metrics.parameters_replayed(1);
            exchange::query(&mut connection.stream, &sql, deadline).await?;
        }
        let mut refused = Vec::new();
        for prepare in missing {
            self.worker.metrics.prepared_replayed(1);
            // What cannot be prepared here any more will be missed by EXECUTE, in the node's own words.
            match exchange::query(&mut connection.stream, &prepare, deadline).await {
                Ok(_) => {}
                Err(ExchangeError::Refused { .. }) => refused.push(prepare),
                Err(error) => return Err(error),
            }
        }
        self.session.replayed(&mut connection.known, &refused);
        Ok(())
    }

    async fn replay_failed(&mut self, error: ExchangeError, buffers: &mut Buffers) -> Result<(), Farewell> {
        match error {
            ExchangeError::Refused { code, message }
                if self.session.placeholder_removed(code, &message, &mut buffers.to_client) =>
            {
                Ok(())
            }
            ExchangeError::Refused { code, message } => self.refuse(Refusal { code, message }, buffers).await,
            // The connection was bad; nothing of the client's has been sent.
            _ => {
                self.worker.metrics.retried(Retry::NotSent);
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(())
            }
        }
    }

    /// An error of ours in place of the unit's answer.
    async fn refuse(&mut self, refusal: Refusal, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.log.as_ref().is_some_and(|log| log.is_muted()) {
            // The client waits for nothing: what is refused is to be run again.
            self.replay_differs(buffers);
            return Ok(());
        }
        let end = self.session.gathered.end.unwrap_or(End::Sync);
        self.take_unit_off(buffers);
        self.lost_on.clear();
        self.worker.metrics.error_sent(refusal.code.as_str());
        self.session.refuse_unit(refusal.code, &refusal.message, end, &mut buffers.to_client);
        self.flush(buffers).await
    }

    /// Writes what is meant for the client.
    async fn flush(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.worker.metrics.sent_to_client(buffers.to_client.len());
        self.tally.count(|totals| totals.add_sent(buffers.to_client.len()));
        self.stream.write_all_buf(&mut buffers.to_client).await?;
        Ok(())
    }

    /// Answers in the node's place until the lost transaction or the skipped batch has ended.
    async fn answer_alone(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        loop {
            self.drop_rest(buffers);
            self.cut_large(buffers)?;
            let Some(header) = peek(buffers.input.filled())?.filter(|header| header.size <= buffers.input.len()) else {
                self.flush(buffers).await?;
                return self.read_more(&mut buffers.input).await;
            };
            if header.tag == frontend::TERMINATE {
                return Err(Farewell::Left);
            }
            let (worker, dialect) = (&self.worker, self.session.dialect());
            let message = buffers.input.filled().get(frame::HEADER..header.size).unwrap_or_default();
            self.session
                .answer_alone(header.tag, message, &mut |text| worker.classify(text, dialect), &mut buffers.to_client)
                .map_err(|_| violation(header.tag))?;
            buffers.input.consume(header.size);
            if !self.session.answers_alone() {
                return self.flush(buffers).await;
            }
        }
    }

    /// Of a message that is too large to be waited for, only that it was there is of interest: it becomes an empty Query
    /// or Sync's forerunner without effect.
    fn cut_large(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let limit = self.server.limits.buffer_bytes;
        let Some(header) = peek(buffers.input.filled())?.filter(|header| header.size > limit) else { return Ok(()) };
        self.dropping = header.size.saturating_sub(buffers.input.len());
        buffers.input.consume(header.size);
        let body: &[u8] = if header.tag == frontend::QUERY { b"\0" } else { b"\0\0" };
        let (worker, dialect) = (&self.worker, self.session.dialect());
        self.session
            .answer_alone(header.tag, body, &mut |text| worker.classify(text, dialect), &mut buffers.to_client)
            .map_err(|_| violation(header.tag))
    }

    /// The session is idle: asks for the settings it has touched, and gives the lease back unless it is pinned.
    async fn release(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        buffers.keep_nothing();
        let touched = self.session.take_touched();
        if !touched.is_empty() {
            self.read_settings(&touched, buffers).await?;
        }
        self.finish(buffers);
        if touched.is_empty() {
            return Ok(());
        }
        let wrong = self.session.take_wishes(touched.iter().map(|name| &**name), Instant::now());
        for words in &wrong {
            put_warning(&mut buffers.to_client, SqlState::WARNING, words, "");
        }
        self.flush(buffers).await
    }

    /// The session is idle and keeps its lease: its settings are made what they would be if it had come back to it.
    async fn settle(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let touched = self.session.take_touched();
        self.read_settings(&touched, buffers).await?;
        let wrong = self.session.take_wishes(touched.iter().map(|name| &**name), Instant::now());
        for words in &wrong {
            put_warning(&mut buffers.to_client, SqlState::WARNING, words, "");
        }
        self.flush(buffers).await
    }

    /// Gives the lease back.
    fn finish(&mut self, buffers: &mut Buffers) {
        buffers.keep_nothing();
        self.lost_on.clear();
        let Some(held) = self.held.take() else { return };
        let now = Instant::now();
        let took = now.saturating_duration_since(held.begun);
        self.worker.metrics.statement_finished(target(held.role), took);
        if let Some(shape) = held.shape {
            self.worker.shapes.borrow_mut().ended(shape, took);
        }
        self.place.card.idles(now);
        if self.session.shows_wishes() {
            self.session.hide_wishes();
        }
        self.tally.count(|totals| {
            totals.transactions += 1;
            totals.transaction_time += took;
            totals.query_time += held.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        });
        if held.is_measured && self.server.weighs_latency(&self.database) {
            self.worker.observe(self.cluster().number, held.lease.node(), took, now);
        }
        if self.session.served_by(held.lease.node(), now) {
            self.server.pools.wrote(now);
        }
        self.give_back(held.lease, now);
    }

    /// The lease goes back, as soon as no cancel is on its way to it any more.
    fn give_back(&self, mut lease: Lease, now: Instant) {
        self.cancellable.runs_nothing();
        if lease.connection().is_being_cancelled() {
            tokio::task::spawn_local(after_cancel(lease));
        } else {
            lease.give_back(now);
        }
    }

    async fn read_settings(&mut self, names: &[Arc<str>], buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let connection = held.lease.connection();
        let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
        let sql = self.session.settings_query(names);
        match exchange::query(&mut connection.stream, &sql, deadline).await {
            Ok(answer) => {
                let values = answer.rows.into_iter().next().unwrap_or_default();
                connection.known.settings = self.session.settings_read(names, values);
                self.place.card.is_called(self.session.settings.get("application_name"));
                self.replay_after_reset(buffers).await
            }
            Err(_) => Err(self.settings_lost()),
        }
    }

    fn settings_lost(&mut self) -> Farewell {
        self.held = None;
        Farewell::told(SqlState::ADMIN_SHUTDOWN, "the session's settings were lost with its server connection")
    }

    /// RESET goes back to what the client came with, which the server connection does not know; and the client is told
    /// what changes by that, as a server would tell it.
    async fn replay_after_reset(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let connection = held.lease.connection();
        let Some(sql) = self.session.settings.sql_from(&connection.known.settings) else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
        let Ok(answer) = exchange::query(&mut connection.stream, &sql, deadline).await else {
            return Err(self.settings_lost());
        };
        connection.known.settings = self.session.settings.clone();
        for (name, value) in answer.parameters {
            if self.session.is_news(&name, &value) {
                backend::put_parameter_status(&mut buffers.to_client, &name, &value);
            }
        }
        self.flush(buffers).await
    }

    /// The unit at the front of the input cannot run on the replica that is held.
    async fn move_elsewhere(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.session.status() == backend::TransactionStatus::Idle {
            return self.release(buffers).await;
        }
        if self.session.can_begin_anew() {
            self.leave_transaction();
            // The unit is looked at anew, outside of a lease: there a transaction belongs to the primary.
            self.session.begin_anew();
            return Ok(());
        }
        self.held = None;
        self.cancellable.runs_nothing();
        self.take_unit_off(buffers);
        let end = self.session.gathered.end;
        self.session.gathered.clear();
        let message = "this READ ONLY transaction runs on a replica, which cannot answer this statement rightly";
        self.session.abort_transaction(SqlState::FEATURE_NOT_SUPPORTED, message, &mut buffers.to_client);
        self.session.end_aborted_unit(end, &mut buffers.to_client);
        self.flush(buffers).await
    }

    /// The transaction goes on elsewhere: what it was on the replica is ended there, while nobody waits.
    fn leave_transaction(&mut self) {
        let Some(held) = self.held.take() else { return };
        self.cancellable.runs_nothing();
        self.session.served_by(held.lease.node(), Instant::now());
        tokio::task::spawn_local(end_transaction(held.lease, self.server.queue_timeout));
    }

    /// A replica has refused the unit and its answer has been dropped: the primary is asked.
    fn ask_primary(&mut self, code: SqlState, buffers: &mut Buffers) {
        if self.session.status() != backend::TransactionStatus::Idle {
            self.leave_transaction();
            self.session.begin_anew();
        } else if let Some(held) = self.held.take() {
            self.give_back(held.lease, Instant::now());
        }
        self.worker.metrics.retried(match code {
            SqlState::SERIALIZATION_FAILURE => Retry::RecoveryConflict,
            _ => Retry::ReadOnly,
        });
        self.database.catalog.suspected();
        self.session.rewind();
        if let Some(log) = &mut self.log {
            log.clear();
        }
        self.put_back(buffers);
        self.session.gathered.join(Intent::Primary(Reason::Retried));
    }

    /// The unit's messages stand at the front of the input again.
    fn put_back(&mut self, buffers: &mut Buffers) {
        buffers.to_node.clear();
        buffers.from_node.consume(usize::MAX);
        let kept = std::mem::take(&mut buffers.kept);
        buffers.kept_ends.clear();
        buffers.input.put_front(&kept);
    }

    /// The node is lost: runs the unit again, or tells the client what that means.
    async fn node_lost(&mut self, farewell: Option<SqlState>, buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(held) = self.held.take() else { return Ok(()) };
        self.cancellable.runs_nothing();
        if self.session.may_change_catalog() {
            self.database.catalog.changed();
        }
        let (node, now) = (held.lease.node(), Instant::now());
        if held.forwarded && self.session.served_by(node, now) {
            self.server.pools.wrote(now);
        }
        self.dropping = held.passing_to_node;
        // A read that no node survives is not tried on all of them.
        let may_run_again =
            farewell.is_some() || (self.lost_on.len() < MOST_RUNS && (!held.sent || self.lost_on.is_empty()));
        (self.cluster().doubt)(node, if farewell.is_some() { Doubt::Stopping } else { Doubt::Lost });
        let how = Circumstances {
            farewell,
            sent: held.sent,
            forwarded: held.forwarded,
            is_read: held.is_read,
            at_hand: held.at_hand && !buffers.kept.is_empty() && may_run_again,
        };
        let is_torn = held.passing_to_client > 0;
        drop(held);
        // While a transaction is run again nothing of it can have been committed, and the client is shown nothing.
        let is_replaying = self.log.as_ref().is_some_and(|log| log.is_muted());
        let may_replay = is_replaying || (!is_torn && self.session.may_replay(&how));
        let is_patient = farewell.is_some() || self.lost_on.len() < MOST_RUNS;
        if may_replay && is_patient && self.begin_again(buffers) {
            self.lost_on.push(node);
            return Ok(());
        }
        if is_replaying {
            self.replay_differs(buffers);
            return Ok(());
        }
        if let Some(log) = &mut self.log {
            log.clear();
        }
        self.session.forget_begin();
        let loss = self.session.lost(how);
        match loss {
            Loss::RunAgain => {
                self.worker.metrics.retried(if how.sent { Retry::NodeLost } else { Retry::NotSent });
                self.lost_on.push(node);
                self.put_back(buffers);
                Ok(())
            }
            // The client waits for the rest of a message: nothing else could be said to it.
            _ if is_torn => Err(Farewell::Left),
            Loss::Answered(out) => {
                self.lost_on.clear();
                buffers.keep_nothing();
                buffers.to_node.clear();
                buffers.from_node.consume(usize::MAX);
                buffers.to_client.extend_from_slice(&out);
                self.flush(buffers).await
            }
            Loss::Report(code, out) => {
                if code == SqlState::TRANSACTION_RESOLUTION_UNKNOWN {
                    // Whoever looks whether it was done must not look where it cannot be seen yet.
                    self.session.freshness.wrote(now);
                }
                self.lost_on.clear();
                buffers.keep_nothing();
                buffers.to_node.clear();
                buffers.from_node.consume(usize::MAX);
                if out.is_empty() {
                    return Ok(());
                }
                self.worker.metrics.error_sent(code.as_str());
                self.worker.metrics.transaction_lost(match code {
                    SqlState::SERIALIZATION_FAILURE => LossCount::RolledBack,
                    SqlState::CONNECTION_FAILURE => LossCount::CutShort,
                    _ => LossCount::Unknown,
                });
                buffers.to_client.extend_from_slice(&out);
                self.flush(buffers).await
            }
            Loss::End(message) => Err(Farewell::told(SqlState::ADMIN_SHUTDOWN, message)),
        }
    }

    /// Notes what is about to be sent, if its transaction may be replayed.
    fn note_for_replay(&mut self, buffers: &Buffers) {
        if self.server.replay.is_none() && self.log.is_none() {
            return;
        }
        let limit = self.server.replay.unwrap_or_default();
        let log = self.log.get_or_insert_with(|| Box::new(TransactionLog::new(limit)));
        let gathered = &self.session.gathered;
        if gathered.missing > 0 {
            return log.spoil();
        }
        let is_first = !self.session.awaits_replies();
        let was_empty = log.is_empty();
        let messages = buffers.input.filled().get(..gathered.size).unwrap_or_default();
        let ends_unit = matches!(gathered.end, Some(End::Query | End::Sync | End::FunctionCall));
        log.sent(Sent { messages, begins: gathered.begins, is_first, ends_unit });
        if was_empty && !log.is_empty() {
            self.session.note_begin();
        }
        if !log.is_empty() {
            self.session.note_names();
        }
    }

    /// Everything since BEGIN stands at the front of the input again; what the client has seen of it will be compared.
    /// False: it is not at hand.
    fn begin_again(&mut self, buffers: &mut Buffers) -> bool {
        let Some(messages) = self.log.as_mut().and_then(|log| log.begin_again()) else { return false };
        self.worker.metrics.retried(Retry::Replayed);
        self.session.begin_again();
        buffers.keep_nothing();
        buffers.to_node.clear();
        buffers.from_node.consume(usize::MAX);
        buffers.input.put_front(&messages);
        true
    }

    /// Run again, the transaction has not answered as before: it is lost, and its next statement is told so.
    fn replay_differs(&mut self, buffers: &mut Buffers) {
        self.held = None;
        self.cancellable.runs_nothing();
        self.worker.metrics.transaction_lost(LossCount::ReplayDiffered);
        if let Some(log) = &mut self.log {
            // What the client has the answer of already is not asked once more.
            buffers.input.consume(log.unsent_of_seen());
            log.clear();
        }
        self.session.lose_replayed();
        self.lost_on.clear();
        buffers.keep_nothing();
        buffers.to_node.clear();
        buffers.from_node.consume(usize::MAX);
    }

    /// The conversation is over.
    async fn leave(mut self, farewell: Farewell) {
        self.cancellable.runs_nothing();
        if self.session.may_change_catalog() {
            self.database.catalog.changed();
        }
        self.server.cancel_keys.remove(&self.cancellable);
        if let Some(held) = self.held.take() {
            if self.session.served_by(held.lease.node(), Instant::now()) {
                self.server.pools.wrote(Instant::now());
            }
            let is_still = self.session.is_idle() && held.passing_to_node == 0 && held.passing_to_client == 0;
            // What has been set and not read back, nobody could tell whoever gets the connection next.
            if is_still && self.session.pin().is_none() && !self.session.has_touched() {
                self.give_back(held.lease, Instant::now());
            } else if is_still && self.session.is_kept_by_mode() && self.session.can_be_discarded() {
                tokio::task::spawn_local(discard_all(held.lease, self.server.queue_timeout));
            } else if self.session.awaits_replies() && self.session.is_futile(held.is_read) {
                tokio::task::spawn_local(stop_statement(held.lease));
            }
        }
        say_farewell(&mut self.stream, &farewell, &self.worker).await;
    }
}

/// A cancel is on its way to this connection: it waits until the cancel has arrived, so that it hits nobody else.
async fn after_cancel(mut lease: Lease) {
    /// The node answers a cancel at once; a connection that waits longer is closed.
    const LONGEST: Duration = Duration::from_secs(6);
    let begun = Instant::now();
    while lease.connection().is_being_cancelled() && begun.elapsed() < LONGEST {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if !lease.connection().is_being_cancelled() {
        lease.give_back(Instant::now());
    }
}

/// Ends what a transaction was on a replica that it has left.
async fn end_transaction(mut lease: Lease, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let connection = lease.connection();
    if connection.is_being_cancelled() {
        return; // closed
    }
    if exchange::query(&mut connection.stream, "ROLLBACK", deadline).await.is_ok() {
        lease.give_back(Instant::now());
    }
}

/// The client is gone that had this connection for itself, and whatever it has left there goes too. What fails is closed.
async fn discard_all(mut lease: Lease, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let connection = lease.connection();
    if connection.is_being_cancelled() {
        return; // closed
    }
    if exchange::query(&mut connection.stream, "DISCARD ALL", deadline).await.is_ok() {
        connection.known = Known::default();
        lease.give_back(Instant::now());
    }
}

/// What a client is told that is ended.
fn ended(why: Ending, worker: &Worker) -> Farewell {
    let (limit, code, message) = match why {
        Ending::Killed => (None, SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command"),
        Ending::Idle => (
            Some(Limit::ClientIdle),
            SqlState::IDLE_SESSION_TIMEOUT,
            "terminating connection due to idle-session timeout",
        ),
        Ending::IdleInTransaction => (
            Some(Limit::IdleInTransaction),
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            "terminating connection due to idle-in-transaction timeout",
        ),
    };
    limit.into_iter().for_each(|limit| worker.metrics.limit_met(limit));
    Farewell::told(code, message)
}

/// The client is gone: what its statement holds is let go at once. The connection is closed.
async fn stop_statement(mut lease: Lease) {
    lease.connection().cancel_target.cancel().await;
}

/// The header at the front of what came from the client.
pub(super) fn peek(bytes: &[u8]) -> Result<Option<Header>, Farewell> {
    Header::peek(bytes).map_err(|error| Farewell::violation(&error.to_string()))
}

pub(super) fn violation(tag: u8) -> Farewell {
    Farewell::violation(&format!("invalid frontend message of type {tag}"))
}
