//! One client from its first byte to its last: login, conversation or console, farewell.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::awaited::Awaited;
use super::card::{Card, Doing, Ending};
use super::console::{self, Visitor};
use super::conversation::Client;
use super::farewell::Farewell;
use super::handshake::{self, Admitted};
use super::held_lease::HeldLease;
use super::places::{Counted, Place};
use super::record;
use super::release::{discard_all, stop_statement};
use super::replication::{self, Passage};
use super::server::Server;
use super::worker::Worker;
use crate::backend::cancel::Issued;
use crate::metrics::{Limit, LoginFailure, Refusal as RefusalCause, Violator};
use crate::net::{Stream, timers};
use crate::session::wishes;
use crate::session::{ReportedAtLogin, SessionId};
use crate::wire::error_response::{Severity, put_body, put_error, put_error_with_hint};
use crate::wire::{Replication, SqlState};

/// Serves one client, from its first byte to its last. What comes behind the login is a task of its own, which has no room for
/// a login.
pub async fn serve(stream: Stream, mut server: Arc<Server>, worker: Rc<Worker>, id: SessionId, counted: Counted) {
    let local = stream.socket().local_address().map(|address| worker.shared_address(address));
    let card = Card::new(id, stream.socket().peer_address(), local);
    let place = Place::take(&worker, card, counted);
    let mut stream = Some(stream);
    let limit = server.limits.login_timeout;
    let awaited = Awaited::default();
    let login = Box::pin(login(&mut stream, &place.card, &mut server, &worker, &awaited));
    let login = in_time(limit, login, &awaited, &place.card, &worker);
    let farewell = match (login.await, stream.take()) {
        (Err(Farewell::ToConsole(user, unread)), Some(stream)) => {
            return Box::pin(visit_console(stream, user, unread, &server, &worker, &place)).await;
        }
        (Err(farewell), still_there) => {
            stream = still_there;
            farewell
        }
        (Ok(LoggedIn::Passage(passage)), _) => {
            let (farewell, mut stream) = Box::pin(passage.run(&place)).await;
            record::ends(&place.card, &server, &worker, &farewell);
            return Box::pin(say_farewell(&mut stream, &farewell, &worker)).await;
        }
        (Ok(_), None) => Farewell::Left,
        (Ok(LoggedIn::Session(admitted, key, reported)), Some(stream)) => {
            let client = Client::new(stream, *admitted, key.begun(), Arc::clone(&server), worker, place, id);
            let mut client = Box::new(client);
            record::has_logged_in(&client.place.card, &client.server);
            client.session.told(reported);
            client.server.has_let_in(&client.database.name);
            // What is wrong with them stays without effect: nobody listens yet.
            let _ = client.session.take_wishes([wishes::POSITION], Instant::now());
            client.must_see_last_write();
            tokio::task::spawn_local(attend(client));
            return;
        }
    };
    record::ends(&place.card, &server, &worker, &farewell);
    if let Some(stream) = &mut stream {
        Box::pin(say_farewell(stream, &farewell, &worker)).await;
    }
}

/// Goes on with a client that has logged in, until it leaves, or has had nothing to say for a while.
pub(super) async fn attend(client: Box<Client>) {
    let mut attended = Attended(Some(client));
    let Some(client) = &mut attended.0 else { return };
    let farewell = client.converse_unless_killed().await;
    let Some(client) = attended.0.take() else { return };
    match farewell {
        Farewell::Parks => client.park(),
        // In a box, so that a client does not hold the room for its end as long as it is there.
        farewell => Box::pin(client.leave(farewell)).await,
    }
}

/// A client that has a task. Where that ends before the conversation does, by a fault of ours or with its worker, others know
/// what they must of it, and its server connection is closed.
struct Attended(Option<Box<Client>>);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|client| drop(client.lets_go()));
    }
}

/// PostgreSQL's words for a login that has taken too long.
const TOO_LATE: &str = "canceling authentication due to timeout";

/// A login that takes no longer than this, unless an operator ends it. While it waits for RESUME, its time stands still.
async fn in_time(
    limit: Duration,
    login: impl Future<Output = Result<LoggedIn, Farewell>>,
    awaited: &Awaited,
    card: &Card,
    worker: &Worker,
) -> Result<LoggedIn, Farewell> {
    let mut login = std::pin::pin!(login);
    let mut is_over = std::pin::pin!(timers::sleep(limit));
    let mut waits_since = None;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(why) = card.poll_ended(cx) {
            return Poll::Ready(Err(ended(why, worker)));
        }
        if let Poll::Ready(done) = login.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        // Only what was polled just now can have changed that.
        if card.doing() == Doing::Waiting {
            waits_since.get_or_insert_with(Instant::now);
            return Poll::Pending;
        }
        if let Some(since) = waits_since.take() {
            let later = is_over.deadline() + since.elapsed();
            is_over.as_mut().reset(later);
        }
        is_over.as_mut().poll(cx).map(|()| {
            worker.metrics.login_failed(awaited.cause());
            // As PostgreSQL has it: who has not said who he is, is not answered.
            let has_begun = card.identity().is_some();
            Err(if has_begun { Farewell::told(SqlState::QUERY_CANCELED, TOO_LATE) } else { Farewell::Left })
        })
    })
    .await
}

/// What a client has logged in to.
enum LoggedIn {
    /// A session of statements.
    Session(Box<Admitted>, Issued, ReportedAtLogin),
    /// A server connection of its own, for replication.
    Passage(Box<Passage>),
}

async fn login(
    place: &mut Option<Stream>,
    card: &Card,
    server: &mut Arc<Server>,
    worker: &Rc<Worker>,
    awaited: &Awaited,
) -> Result<LoggedIn, Farewell> {
    let mut admitted = handshake::admit(place, card, server, worker, awaited).await?;
    // What a standby cluster has not by design is no failure of its nodes.
    let has_no_primary = server.cluster(&admitted.database).view.load().is_without_primary_by_design();
    if admitted.replication == Replication::None || !has_no_primary {
        awaited.waits(LoginFailure::NoNode);
    }
    if admitted.replication != Replication::None {
        let stream = place.as_ref().ok_or(Farewell::Left)?;
        handshake::await_resume(stream, &mut admitted, card, server, worker).await?;
        let passage = Box::pin(replication::open(place, admitted, card, server, worker)).await?;
        return Ok(LoggedIn::Passage(Box::new(passage)));
    }
    let stream = place.as_mut().ok_or(Farewell::Left)?;
    let key = server.cancel_keys.issue_ahead(admitted.startup.secret_size());
    let reported = handshake::welcome(stream, &mut admitted, key.key(), card, server, worker).await?;
    Ok(LoggedIn::Session(Box::new(admitted), key, reported))
}

/// The client goes on at the console, if it may; else it is told why not.
async fn visit_console(
    stream: Stream,
    user: Arc<str>,
    unread: Box<[u8]>,
    server: &Server,
    worker: &Worker,
    place: &Place,
) {
    let refusal = match (server.console_right(&user), server.console.get()) {
        (Some(_), Some(console)) => {
            let database: Arc<str> = console::NAME.into();
            place.card.is_of(&user, &database, stream.encryption());
            record::has_logged_in(&place.card, server);
            let _visit = place.visits_console();
            let (address, card) = (place.card.peer(), Rc::clone(&place.card));
            let (farewell, mut stream) = console(Visitor { stream, unread, address, user, card }).await;
            record::ends(&place.card, &worker.server(), worker, &farewell);
            return say_farewell(&mut stream, &farewell, worker).await;
        }
        (None, _) => {
            worker.metrics.login_failed(LoginFailure::NotAllowed);
            let message = format!(
                "user \"{user}\" may not use the console: add it to users or stats_users in the [admin] section of the \
                 configuration"
            );
            Farewell::told(SqlState::INSUFFICIENT_PRIVILEGE, message)
        }
        (_, None) => Farewell::told(SqlState::CANNOT_CONNECT_NOW, "the console is not there yet"),
    };
    record::ends(&place.card, server, worker, &refusal);
    let mut stream = stream;
    say_farewell(&mut stream, &refusal, worker).await;
}

async fn say_farewell(stream: &mut Stream, farewell: &Farewell, worker: &Worker) {
    match farewell {
        Farewell::Told { code, message, hint } => {
            worker.metrics.error_sent(code.as_str());
            if *code == SqlState::PROTOCOL_VIOLATION {
                worker.metrics.protocol_violated(Violator::Client);
            }
            let mut out = BytesMut::new();
            match hint {
                Some(hint) => put_error_with_hint(&mut out, Severity::Fatal, *code, message, hint),
                None => put_error(&mut out, Severity::Fatal, *code, message, None),
            }
            send_last(stream, &out).await;
        }
        Farewell::Quoted { code, fields } => {
            worker.metrics.error_sent(code.as_str());
            let mut out = BytesMut::new();
            put_body(&mut out, fields);
            send_last(stream, &out).await;
        }
        Farewell::NotPostgres => worker.metrics.client_refused(RefusalCause::NotPostgres),
        Farewell::Left
        | Farewell::Lost(_)
        | Farewell::Torn
        | Farewell::EndedByNode
        | Farewell::Cancel
        | Farewell::ToConsole(..)
        | Farewell::Parks => {}
    }
}

async fn send_last(stream: &mut Stream, message: &[u8]) {
    let sent = async {
        stream.write_all(message).await?;
        stream.shutdown().await
    };
    // Whoever does not read it is gone already. Dropping it loses nothing: the connection is closed next.
    let _ = timers::timeout(LAST_WORD, sent).await;
}

/// How long a client may take to take what it is told last.
const LAST_WORD: Duration = Duration::from_secs(5);

/// What a client is told that is ended.
pub(super) fn ended(why: Ending, worker: &Worker) -> Farewell {
    let (limit, code, message) = match why {
        Ending::Killed => return Farewell::sent_away(),
        Ending::Idle => {
            (Limit::ClientIdle, SqlState::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout")
        }
        Ending::IdleInTransaction => (
            Limit::IdleInTransaction,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            "terminating connection due to idle-in-transaction timeout",
        ),
        // It was counted when its statement was cancelled.
        Ending::Overdue(by) => return Farewell::told(SqlState::QUERY_CANCELED, by.last_words()),
    };
    worker.metrics.limit_met(limit);
    Farewell::told(code, message)
}

impl Client {
    /// An operator may end it at any moment. Dropping what it does loses nothing that is not settled by leaving.
    async fn converse_unless_killed(&mut self) -> Farewell {
        let farewell = match self.converse_or_end().await {
            Ok(farewell) => farewell,
            Err(why) => ended(why, &self.worker),
        };
        // Within a message, the client would take what it is told for the rest of it.
        if farewell.is_told() && self.is_half_told() { Farewell::Left } else { farewell }
    }

    /// Err: it is ended.
    async fn converse_or_end(&mut self) -> Result<Farewell, Ending> {
        let card = Rc::clone(&self.place.card);
        let mut conversation = std::pin::pin!(self.converse());
        std::future::poll_fn(|cx| match card.poll_ended(cx) {
            Poll::Ready(why) => Poll::Ready(Err(why)),
            Poll::Pending => conversation.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// The client may have a part of a message only.
    fn is_half_told(&self) -> bool {
        self.is_flushing || self.stream.is_within_write() || self.held.as_ref().is_some_and(|held| held.told.is_half)
    }

    /// It may be somebody who has just written, on a connection that is gone.
    fn must_see_last_write(&mut self) {
        let cluster = self.cluster();
        // Where nobody is primary by design, there would be no position to find it by.
        let moment = cluster.last_write.moment(Instant::now()).filter(|_| !cluster.view.load().is_standby);
        if let Some(moment) = moment {
            self.session.freshness.wrote(moment);
        }
    }

    /// All that it has asked for is answered.
    fn is_answered(&self) -> bool {
        self.session.is_idle() && !self.session.may_be_answered_more()
    }

    /// It is no more, and others know what it has done, or may have. Answers the lease that it has held.
    fn lets_go(&mut self) -> Option<HeldLease> {
        drop(self.leaves_queue()); // what is granted meanwhile is for others
        self.cancellable.runs_nothing();
        self.catalogs_changed(self.session.catalog_change());
        let held = self.held.take()?;
        let now = Instant::now();
        if self.was_served_by(&held, now) && !self.is_answered() {
            // The node may go on with it.
            self.cluster().last_write.lost(now);
        }
        Some(held)
    }

    /// The conversation is over.
    async fn leave(mut self: Box<Self>, farewell: Farewell) {
        if let Some(mut held) = self.lets_go() {
            let is_answered = self.is_answered();
            let is_still = is_answered && held.passing.to_node == 0 && held.passing.to_client == 0 && !held.is_in_midst;
            // What code has prepared, nobody has looked for where the session has kept its server connection.
            let is_looked_at =
                !self.session.is_kept_by_mode() || !self.session.ran_unseen(&held.lease.connection().known);
            // What has been set and not read back, nobody could tell whoever gets the connection next.
            if is_still && self.session.pin().is_none() && !self.session.has_touched() && is_looked_at {
                self.give_back(held.lease, Instant::now());
            } else if is_still && self.session.is_kept_by_mode() && self.session.can_be_discarded() {
                tokio::task::spawn_local(discard_all(held.lease, self.server.answer_timeout()));
            } else if self.session.awaits_replies() && self.session.is_futile(held.is_read) {
                tokio::task::spawn_local(stop_statement(held.lease));
            }
        }
        record::ends(&self.place.card, &self.server, &self.worker, &farewell);
        say_farewell(&mut self.stream, &farewell, &self.worker).await;
    }
}
