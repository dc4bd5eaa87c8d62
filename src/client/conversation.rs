//! A client's conversation: read, survey, lease, translate, relay, release; and what becomes of it when something breaks.
//!
//! Cancel safety: nothing here is dropped halfway but the whole task, and then its lease is closed, not returned.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::acquire::{Acquired, Refusal, Unmet};
use super::card::Doing;
use super::census::Seat;
use super::farewell::Farewell;
use super::gathering::violation;
use super::handshake::Admitted;
use super::held_lease::HeldLease;
use super::last_path::LastPath;
use super::loss::Losses;
use super::parser::Apart;
use super::places::Place;
use super::queued::{BegunWait, Queued};
use super::refused_settings::RefusedSettings;
use super::relay::Relayed;
use super::server::{Database, Server};
use super::tally::Tally;
use super::worker::{Buffers, Worker};
use crate::auth::Secret;
use crate::backend::Pool;
use crate::backend::cancel::Cancellable;
use crate::config::PoolMode;
use crate::metrics::{Limit, Target};
use crate::net::{ReadBuffer, Stream};
use crate::routing::{Intent, Reason, safety};
use crate::session::translate::{Message, messages};
use crate::session::{End, Held, Session, SessionId, TransactionLog};
use crate::topology::NodeId;
use crate::wire::{SqlState, frontend};

/// One client, logged in.
pub struct Client {
    pub(super) stream: Stream,
    pub(super) session: Session,
    pub(super) held: Option<HeldLease>,
    pub(super) server: Arc<Server>,
    pub(super) worker: Rc<Worker>,
    pub(super) database: Arc<Database>,
    /// Its unit waits for a server connection.
    pub(super) queued: Option<Queued>,
    /// When its server connection goes back.
    pub(super) mode: PoolMode,
    pub(super) password: Option<Secret>,
    pub(super) pools: Vec<Option<Arc<Pool>>>,
    pub(super) cancellable: Arc<Cancellable>,
    pub(super) tally: Rc<Tally>,
    /// It has been found to have sent nothing, and since then whoever hears of something wakes the task.
    pub(super) is_listened_to: bool,
    /// What it is told is being written: the client may have a part of it.
    pub(super) is_flushing: bool,
    /// Bytes of a message from the client that nobody wants, and that have not come yet.
    pub(super) dropping: usize,
    /// Bytes at the front of the input that have been on their way before: what rules have to do with them is counted.
    pub(super) counted: usize,
    /// What the present unit has lost so far.
    pub(super) losses: Losses,
    /// What replicas have refused of its settings.
    pub(super) refused: RefusedSettings,
    pub(super) paths: LastPath,
    /// The replica that it reads from as long as it can, where that is configured.
    pub(super) stays_with: Option<NodeId>,
    /// Its turn among replicas, for the present unit: a node that has no connection yet is not passed over for that.
    pub(super) turn: u64,
    /// The present transaction, where it may be replayed.
    pub(super) log: Option<Box<TransactionLog>>,
    pub(super) place: Place,
    /// What it has said before its login was answered, until it is looked at.
    pub(super) early: Option<Box<Buffers>>,
    /// Until it has gone, another client may have to be refused.
    pub(super) seat: Seat,
    /// A long text of its next message.
    pub(super) apart: Option<Box<Apart>>,
    /// The configuration that it has looked at last while it kept its lease.
    pub(super) looked_at: Option<Arc<Server>>,
}

/// What [`Client::poll_usual`] leaves to [`Client::serve`].
pub(super) enum Unusual {
    /// Relaying has stopped for a reason that takes time.
    Relayed(Relayed),
    /// This lease must be made the session's first. The unit is a read by the proof: the second says so.
    Acquired(Acquired, bool),
    /// What is at the front of the input is not whole, or cannot start at once; it may have waited for a server connection already.
    Unit(Option<Box<BegunWait>>),
    /// There is no lease for the unit.
    Unmet(Unmet),
}

/// What is said of a transaction block in the pool mode `statement`, in PgBouncer's words.
pub(super) const NO_BLOCKS: &str = "transaction blocks not allowed in statement pooling mode";

/// What a client has said before its login was answered, to be looked at; None: nothing.
fn early(unread: &[u8], worker: &Worker, tally: &Tally) -> Option<Box<Buffers>> {
    (!unread.is_empty()).then(|| {
        worker.metrics.received_from_client(unread.len());
        tally.count(|totals| totals.add_received(unread.len()));
        let mut buffers = worker.take_buffers();
        buffers.input.put_front(unread);
        buffers
    })
}

impl Client {
    pub(super) fn new(
        stream: Stream,
        admitted: Admitted,
        cancellable: Arc<Cancellable>,
        server: Arc<Server>,
        worker: Rc<Worker>,
        place: Place,
        id: SessionId,
    ) -> Self {
        place.card.is_of(&admitted.identity.user, &admitted.identity.database, stream.encryption());
        place.card.is_called(admitted.settings.get("application_name"));
        place.card.is_cancelled_by(&cancellable);
        let turn = worker.turn();
        let mode = server.mode_of(&admitted.database, &admitted.identity.user);
        let tally = worker.tally(&admitted.identity.database);
        let early = early(&admitted.unread, &worker, &tally);
        let mut session = Session::new(id, admitted.identity, worker.shared(admitted.settings));
        session.told_process(cancellable.key().process_id);
        Self {
            stream,
            counted: 0,
            apart: None,
            seat: admitted.seat,
            mode,
            tally,
            session,
            held: None,
            queued: None,
            server,
            worker,
            database: admitted.database,
            password: admitted.user.server_password,
            pools: Vec::new(),
            cancellable,
            is_listened_to: false,
            is_flushing: false,
            dropping: 0,
            losses: Losses::default(),
            paths: LastPath::default(),
            refused: RefusedSettings::default(),
            stays_with: None,
            turn,
            log: None,
            early,
            place,
            looked_at: None,
        }
    }

    pub(super) async fn converse(&mut self) -> Farewell {
        let mut lent = self.early.take();
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
        if self.stream.is_late() {
            if let Some(mut wait) = self.leaves_queue() {
                wait.is_taken_back(); // what comes first may last, and nothing is lent to whoever does not take it
            }
            let flushed = Pin::new(&mut self.stream).poll_flush(cx)?;
            if flushed.is_pending() {
                self.ends_time_of_unheard();
            }
            ready!(flushed);
        }
        loop {
            let buffers = lent.get_or_insert_with(|| self.worker.take_buffers());
            if self.queued.is_some()
                && let Some(unusual) = ready!(self.poll_queued(cx, buffers))?
            {
                return Poll::Ready(Ok(unusual));
            }
            if self.held.is_some() {
                match ready!(self.poll_relay(cx, buffers))? {
                    Relayed::Idle if !self.session.has_touched() && !self.session.may_be_answered_more() => {
                        self.finish(buffers);
                    }
                    relayed => return Poll::Ready(Ok(Unusual::Relayed(relayed))),
                }
            }
            if self.is_outdated() {
                self.renew().map_err(|gone| Farewell::told(SqlState::ADMIN_SHUTDOWN, gone.to_string()))?;
                if self.session.gathered.size > 0 {
                    self.session.gathered.clear(); // was judged by the one before
                }
            }
            if self.dropping > 0 || self.session.answers_alone() {
                return Poll::Ready(Ok(Unusual::Unit(None)));
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
            if self.is_parsing() {
                ready!(self.poll_parsed(cx));
                continue;
            }
            if let Some(unusual) = self.try_start(buffers)? {
                return Poll::Ready(Ok(unusual));
            }
        }
    }

    /// Reads what the idle client sends, unless it is asked to leave.
    fn poll_idle(&mut self, cx: &mut Context<'_>, input: &mut ReadBuffer) -> Poll<Result<(), Farewell>> {
        if self.worker.is_draining() {
            return Poll::Ready(Err(Farewell::sent_away()));
        }
        if self.place.card.doing() != Doing::Idle {
            // Its lease was lost, or its statement refused.
            self.place.card.idles(Instant::now());
        }
        let (is_to_park, read) = (self.place.card.is_to_park(), self.poll_client(cx, input));
        if is_to_park
            && read.is_pending()
            && self.may_be_parked()
            && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready()
        {
            return Poll::Ready(Err(Farewell::Parks));
        }
        match ready!(read)? {
            0 => Poll::Ready(Err(Farewell::Left)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Reads what the client has sent, see [`ReadBuffer::poll_fill`]. Of one that is listened to, and of which nothing has
    /// been heard, nobody needs to ask.
    #[inline]
    pub(super) fn poll_client(&mut self, cx: &mut Context<'_>, input: &mut ReadBuffer) -> Poll<io::Result<usize>> {
        if self.is_listened_to && !self.stream.may_have_spoken() {
            return Poll::Pending;
        }
        let read = input.poll_fill(cx, &mut self.stream);
        // Where the runtime has only asked the task to let others run, nobody listens.
        self.is_listened_to = read.is_pending() && tokio::task::coop::has_budget_remaining();
        if let Poll::Ready(Ok(count)) = read {
            self.worker.metrics.received_from_client(count);
            self.tally.count(|totals| totals.add_received(count));
        }
        read
    }

    /// Sends the unit on its way, if a server connection is there for it that needs no preparation.
    fn try_start(&mut self, buffers: &mut Buffers) -> Result<Option<Unusual>, Farewell> {
        match self.session.gathered.end {
            Some(End::Terminate) => return Err(Farewell::Left),
            None | Some(End::StrayCopy) => return Ok(Some(Unusual::Unit(None))),
            Some(_) => {}
        }
        let (intent, now) = (self.intent(), Instant::now());
        if matches!(intent, Intent::Refuse { .. }) {
            return Ok(Some(Unusual::Unit(None)));
        }
        let gathered = &self.session.gathered;
        if gathered.is_apart || !gathered.empties.is_empty() || gathered.intent.is_none() {
            return Ok(Some(Unusual::Unit(None)));
        }
        match self.try_acquire(&intent, now) {
            Ok(acquired) => self.set_out_as_usual(acquired, &intent, now, buffers),
            Err(Some(placed)) if self.line_up(&intent, placed, now) => Ok(None),
            Err(_) => Ok(Some(Unusual::Unit(None))),
        }
    }

    /// Sends the unit on its way on this lease, if that needs no preparation.
    #[inline]
    pub(super) fn set_out_as_usual(
        &mut self,
        mut acquired: Acquired,
        intent: &Intent,
        now: Instant,
        buffers: &mut Buffers,
    ) -> Result<Option<Unusual>, Farewell> {
        let is_read = intent.is_proven();
        let (known, held) = (&acquired.lease.connection().known, Held::of(acquired.role));
        let is_as_found = self.session.is_at_home(known) && self.session.is_told(known, held) && self.is_judged_now();
        if !is_as_found || self.session.must_verify(known) {
            return Ok(Some(Unusual::Acquired(acquired, is_read)));
        }
        self.set_out(acquired, is_read, now, buffers)?;
        Ok(None)
    }

    /// One thing that is not usual.
    pub(super) async fn serve(&mut self, unusual: Unusual, buffers: &mut Buffers) -> Result<(), Farewell> {
        // It may take time, and nobody looks after what was posted while it does.
        self.ends_time_of_answered();
        self.stream.flush().await?;
        match unusual {
            Unusual::Relayed(Relayed::Idle) => self.release(buffers).await,
            Unusual::Relayed(Relayed::Elsewhere) => self.move_elsewhere(buffers).await,
            Unusual::Relayed(Relayed::Refused(code)) => {
                self.ask_elsewhere(code, buffers);
                Ok(())
            }
            Unusual::Relayed(Relayed::NodeLost(farewell)) => self.node_lost(farewell, buffers).await,
            Unusual::Relayed(Relayed::Touched) => self.settle(buffers).await,
            Unusual::Relayed(Relayed::Failed) => self.flush(buffers).await,
            Unusual::Relayed(Relayed::Empties) => {
                let emptied = Box::pin(self.empty_databases()).await;
                self.session.gathered.empties.clear();
                if let Some(held) = &mut self.held {
                    held.emptied = Some(emptied);
                }
                Ok(())
            }
            Unusual::Relayed(Relayed::Wishes) => Box::pin(self.show_wishes_on_kept(buffers)).await,
            Unusual::Relayed(Relayed::Cancelled) => self.outwait_cancel().await,
            Unusual::Relayed(Relayed::Unbelieved) => Box::pin(self.await_belief(buffers)).await,
            Unusual::Relayed(Relayed::Prepared) => {
                self.end_batch_here(buffers);
                Ok(())
            }
            Unusual::Relayed(Relayed::Drained) => Err(Farewell::sent_away()),
            Unusual::Relayed(Relayed::Outdated) => {
                Box::pin(self.take_off_shown(buffers)).await?;
                self.renew_while_held().map_err(|gone| Farewell::told(SqlState::ADMIN_SHUTDOWN, gone.to_string()))
            }
            Unusual::Relayed(Relayed::InBlock) => {
                self.worker.metrics.limit_met(Limit::StatementMode);
                Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, NO_BLOCKS))
            }
            Unusual::Relayed(Relayed::ReplayDiffers) => {
                self.replay_differs(buffers);
                Ok(())
            }
            Unusual::Acquired(acquired, is_read) => self.begin(acquired, is_read, buffers).await,
            Unusual::Unit(begun) => self.serve_unit(begun, buffers).await,
            Unusual::Unmet(unmet) => self.unmet(unmet, self.intent().reason(), buffers).await,
        }
    }

    /// What is at the front of the input, without a lease.
    async fn serve_unit(&mut self, begun: Option<Box<BegunWait>>, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.drop_rest(buffers);
        if self.dropping > 0 {
            return self.read_more(&mut buffers.input).await;
        }
        if self.session.answers_alone() {
            let answered = self.answer_alone(buffers).await;
            if answered.as_ref().is_err_and(Farewell::is_told) {
                self.flush(buffers).await?;
            }
            return answered;
        }
        self.survey_whole(buffers).await?;
        match self.session.gathered.end {
            Some(End::Terminate) => Err(Farewell::Left),
            // Behind an Execute it may be the data of its COPY.
            Some(End::StrayCopy) if self.session.gathered.executes == 0 => {
                self.drop_unit(buffers);
                Ok(())
            }
            Some(_) => self.start(begun, buffers).await,
            None if buffers.input.is_empty() => Ok(()),
            None => self.read_more(&mut buffers.input).await,
        }
    }

    /// Finds a lease for the unit, which may have waited for one, and sends it.
    async fn start(&mut self, begun: Option<Box<BegunWait>>, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.session.gathered.intent.is_none() && self.needs_no_node(buffers) {
            return self.answer_without_node(buffers).await;
        }
        if self.session.gathered.is_apart && self.deallocates_without_node(buffers) {
            return self.deallocate_without_node(buffers).await;
        }
        self.due(); // what it waits for first is within that, too
        let intent = self.intent();
        if let Intent::Refuse { rule, message, sqlstate } = &intent {
            let code = SqlState::from_bytes(sqlstate.as_bytes()).unwrap_or(SqlState::INSUFFICIENT_PRIVILEGE);
            self.worker.metrics.statement_routed(Target::None, Reason::Refused.index());
            tracing::debug!(rule = %rule, "statement refused by a rule");
            let message = message.to_string();
            return self.refuse(Refusal { code, message }, buffers).await;
        }
        if self.session.gathered.asks_wishes
            && let Err(unmet) = Box::pin(self.prepare_wishes()).await
        {
            return self.go_without(unmet, buffers).await;
        }
        let emptied = match self.session.gathered.empties.is_empty() {
            true => None,
            false => match Box::pin(self.empty_or_leave()).await {
                Ok(emptied) => Some(emptied),
                Err(unmet) => return self.go_without(unmet, buffers).await,
            },
        };
        let at_once = if begun.is_none() { self.try_acquire(&intent, Instant::now()).ok() } else { None };
        let acquired = match at_once {
            Some(acquired) => Ok(acquired),
            None => Box::pin(self.acquire(&intent, begun)).await,
        };
        match acquired {
            Ok(acquired) => {
                self.begin(acquired, intent.is_proven(), buffers).await?;
                if let (Some(held), Some(emptied)) = (&mut self.held, emptied) {
                    held.emptied = Some(emptied);
                }
                Ok(())
            }
            Err(unmet) => self.unmet(unmet, intent.reason(), buffers).await,
        }
    }

    /// There is no lease for the unit, which was to run for this reason.
    async fn unmet(&mut self, unmet: Unmet, reason: Reason, buffers: &mut Buffers) -> Result<(), Farewell> {
        if matches!(unmet, Unmet::Refused(_) | Unmet::Ended(_)) {
            self.runs_nowhere(reason);
        }
        self.go_without(unmet, buffers).await
    }

    /// It closes statements, or nothing, before its Sync or Flush: so drivers clean up, and ask whether the connection lives. What
    /// the protocol has prepared under a name is the session's, and no server connection's.
    #[cold]
    fn needs_no_node(&self, buffers: &Buffers) -> bool {
        let gathered = &self.session.gathered;
        if gathered.asks_nothing() {
            return true; // nor may an error answer it, such as that no server connection is free
        }
        let unit = buffers.input.filled().get(..gathered.size).unwrap_or_default();
        matches!(gathered.end, Some(End::Sync | End::Flush))
            && gathered.missing == 0
            && self.mode != PoolMode::Session
            && self.session.is_idle()
            && messages(unit).all(|Message { tag, body, .. }| match (tag, frontend::target_fields(body)) {
                (frontend::SYNC | frontend::FLUSH, _) => body.is_empty(),
                // What stands behind the name is for the node to refuse.
                (frontend::CLOSE, Ok((_, name))) => {
                    body.len() == name.0.len() + 2 && !self.session.has_prepared_by_sql()
                }
                _ => false,
            })
    }

    async fn answer_without_node(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let unit = buffers.input.filled().get(..self.session.gathered.size).unwrap_or_default();
        let (worker, dialect) = (&self.worker, self.session.dialect());
        for Message { tag, body, .. } in messages(unit) {
            self.session
                .answer_alone(tag, body, &mut |text| worker.classify(text, dialect), &mut buffers.to_client)
                .map_err(|_| violation(tag))?;
        }
        self.drop_unit(buffers);
        self.place.card.idles(Instant::now());
        self.flush(buffers).await
    }

    /// It is DEALLOCATE ALL by itself, as drivers send it when a transaction was rolled back: on a server connection it would take
    /// other sessions' statements, too.
    #[cold]
    fn deallocates_without_node(&self, buffers: &Buffers) -> bool {
        let unit = buffers.input.filled().get(..self.session.gathered.size).unwrap_or_default();
        self.mode != PoolMode::Session
            && !matches!(self.session.intent(), Some(Intent::Refuse { .. }))
            && messages(unit).count() == 1
            && self.session.deallocates_without_node()
    }

    async fn deallocate_without_node(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.runs_nowhere(self.intent().reason());
        self.session.deallocate_alone(&mut buffers.to_client);
        self.drop_unit(buffers);
        self.place.card.idles(Instant::now());
        self.flush(buffers).await
    }

    /// The unit is counted as one that no node gets.
    pub(super) fn runs_nowhere(&self, reason: Reason) {
        let count = self.session.gathered.executes.max(1);
        self.worker.metrics.statements_routed(Target::None, reason.index(), count);
    }

    /// There is no lease for the unit, or none that it may go to.
    pub(super) async fn go_without(&mut self, unmet: Unmet, buffers: &mut Buffers) -> Result<(), Farewell> {
        match unmet {
            Unmet::Refused(refusal) => self.refuse(refusal, buffers).await,
            Unmet::Ended(Refusal { code, message }) => {
                self.flush(buffers).await?;
                Err(Farewell::told(code, message))
            }
            Unmet::Left => Err(Farewell::Left),
            Unmet::Anew => {
                self.session.gathered.clear();
                Ok(())
            }
            Unmet::SentAway => Err(Farewell::sent_away()),
        }
    }

    /// Where the unit may go; one without any statement is as good as a read.
    pub(super) fn intent(&self) -> Intent {
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

    /// An error of ours in place of the unit's answer.
    pub(super) async fn refuse(&mut self, refusal: Refusal, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.is_replaying() {
            // The client waits for nothing: what is refused is to be run again.
            self.replay_differs(buffers);
            return Ok(());
        }
        let end = self.session.gathered.end.unwrap_or(End::Sync);
        if self.held.is_none() {
            self.place.card.idles(Instant::now());
        }
        self.forget_replay();
        self.take_unit_off(buffers);
        self.forget_losses();
        self.worker.metrics.error_sent(refusal.code.as_str());
        self.session.refuse_unit(refusal.code, &refusal.message, end, &mut buffers.to_client);
        self.flush(buffers).await
    }

    /// Writes what is meant for the client.
    pub(super) async fn flush(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.worker.metrics.sent_to_client(buffers.to_client.len());
        self.tally.count(|totals| totals.add_sent(buffers.to_client.len()));
        self.is_flushing = true;
        self.stream.write_all_buf(&mut buffers.to_client).await?;
        self.is_flushing = false;
        if let Some(held) = &mut self.held {
            held.told.is_half = held.passing.to_client > 0;
        }
        Ok(())
    }
}
