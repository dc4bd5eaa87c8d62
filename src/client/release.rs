//! A lease goes back: settings are read anew, times counted, and the server connection is clean or closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acquire::target;
use super::conversation::Client;
use super::farewell::Farewell;
use super::held_lease::HeldLease;
use super::worker::Buffers;
use crate::backend::Lease;
use crate::backend::exchange::{Answer, ExchangeError};
use crate::session::settings::TO_UTF8;
use crate::sql::is_anybodys;
use crate::wire::SqlState;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::error_response::put_warning;

const DEALLOCATE_ALL: &str = "DEALLOCATE ALL";

impl Client {
    /// The session is idle: what it has left on its server connection is found out, and the lease goes back unless that
    /// holds it.
    pub(super) async fn release(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        buffers.keep_nothing();
        if self.session.may_be_answered_more() {
            self.regain_step(buffers).await?;
        }
        let touched = self.find_remains(buffers).await?;
        if self.session.may_release() {
            self.finish(buffers);
        } else {
            let now = Instant::now();
            self.place.card.rests(false, now);
            self.transaction_ended(now);
        }
        self.grant_wishes(&touched, buffers).await
    }

    /// The session keeps its lease: its settings are made what they would be if it had come back to it.
    pub(super) async fn settle(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.session.may_be_answered_more() {
            self.regain_step(buffers).await?;
        }
        let touched = self.find_remains(buffers).await?;
        self.grant_wishes(&touched, buffers).await
    }

    /// Asks what is left of the session, where nobody knows, and for the settings it has touched. Answers their names.
    async fn find_remains(&mut self, buffers: &mut Buffers) -> Result<Vec<Arc<str>>, Farewell> {
        if self.session.wants_look() && self.held.is_some() {
            let (sql, again) = (self.session.look_query(), self.session.look_query_unhurried());
            let answer = self.ask(&sql, Some(&again), buffers).await?;
            if let Some(held) = &mut self.held {
                self.session.looked(&answer.rows, &mut held.lease.connection().known);
            }
            self.forget_deallocated(&answer.rows, buffers).await?;
        }
        let touched = self.session.take_touched();
        if !touched.is_empty() && self.held.is_some() {
            self.read_settings(&touched, buffers).await?;
        } else {
            self.session.forget_put_back(); // nothing of it is carried
        }
        self.session.take_new_pins().iter().for_each(|pin| self.worker.metrics.pinned(pin));
        Ok(touched)
    }

    /// A failed COPY has left Syncs of which nobody knows whether they are answered: what still comes is read.
    #[cold]
    async fn regain_step(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let connection = held.lease.connection();
        self.cancellable.runs_nothing();
        connection.cancel_target.until_arrived().await;
        let deadline = tokio::time::Instant::now() + self.server.answer_timeout();
        let Ok((answer, readies)) = connection.regain_step(deadline).await else { return Err(self.settings_lost()) };
        (0..readies).for_each(|_| backend::put_ready(&mut buffers.to_client, self.session.status()));
        self.session.overheard(&answer.notifications, &mut connection.known, &mut buffers.to_client);
        self.session.is_in_step();
        self.cancellable.runs_on(connection);
        self.flush(buffers).await
    }

    /// Statements that code has deallocated must be prepared again by whoever wants them.
    async fn forget_deallocated(
        &mut self,
        seen: &[Vec<Option<Arc<str>>>],
        buffers: &mut Buffers,
    ) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        if self.session.lacks_statements(seen, &held.lease.connection().known) {
            self.ask(DEALLOCATE_ALL, Some(DEALLOCATE_ALL), buffers).await?;
            if let Some(held) = &mut self.held {
                held.lease.connection().known.forget_statements(|_| false);
            }
        }
        Ok(())
    }

    /// What the session has set of Trunkline's own settings; it is warned of what makes no sense.
    async fn grant_wishes(&mut self, touched: &[Arc<str>], buffers: &mut Buffers) -> Result<(), Farewell> {
        if touched.is_empty() {
            return Ok(());
        }
        let wrong = self.session.take_wishes(touched.iter().map(|name| &**name), Instant::now());
        for words in &wrong {
            put_warning(&mut buffers.to_client, SqlState::WARNING, words, "");
        }
        self.flush(buffers).await
    }

    /// The transaction that was under way on the lease is counted, if it is not already.
    pub(super) fn transaction_ended(&mut self, now: Instant) {
        let Some(begun) = self.held.as_mut().and_then(|held| held.counting.transaction.take()) else { return };
        self.tally.count(|totals| totals.transaction_ended(begun, now));
    }

    /// Gives the lease back.
    pub(super) fn finish(&mut self, buffers: &mut Buffers) {
        buffers.keep_nothing();
        self.forget_losses();
        let Some(held) = self.held.take() else { return };
        let now = Instant::now();
        let took = now.saturating_duration_since(held.begun);
        let of_statements = if held.counting.asked == Some(held.begun) { took } else { held.took(now) };
        self.worker.metrics.statements_finished(target(held.role), of_statements, self.session.take_run());
        if let Some(shape) = held.counting.shape {
            self.worker.shapes.borrow_mut().ended(shape, took);
        }
        self.place.card.idles(now);
        self.tally.count(|totals| {
            if let Some(begun) = held.counting.transaction {
                totals.transaction_ended(begun, now);
            }
            totals.query_time += of_statements;
        });
        if held.is_measured && self.server.weighs_latency(&self.database) {
            self.worker.observe(self.cluster().number, held.lease.node(), took, now);
        }
        if held.only_cleans {
            self.session.was_cleaned();
        } else {
            self.was_served_by(&held, now);
        }
        self.give_back(held.lease, now);
    }

    /// The session is told what it has seen and done on this lease, and others that something may have been written. Answers
    /// whether it may.
    pub(super) fn was_served_by(&mut self, held: &HeldLease, now: Instant) -> bool {
        let has_written = self.session.served_by(held.lease.node(), held.may_lack, held.begun, now);
        if has_written {
            self.cluster().last_write.wrote(now);
        }
        has_written
    }

    /// The lease goes back, as soon as no cancel is on its way to it any more.
    pub(super) fn give_back(&self, mut lease: Lease, now: Instant) {
        self.cancellable.runs_nothing();
        if lease.connection().is_being_cancelled() {
            tokio::task::spawn_local(after_cancel(lease));
        } else {
            lease.give_back(now);
        }
    }

    async fn read_settings(&mut self, names: &[Arc<str>], buffers: &mut Buffers) -> Result<(), Farewell> {
        let sql = self.session.settings_query(names);
        match self.ask_if_allowed(&sql, Some(&sql), buffers).await? {
            Some(answer) => self.have_read(names, answer, buffers).await,
            None => Box::pin(self.read_what_anybody_may(names, buffers)).await,
        }
    }

    /// Whom the session has become may not read one of these settings, which it has set, or put back: it stays where that is.
    #[cold]
    async fn read_what_anybody_may(&mut self, names: &[Arc<str>], buffers: &mut Buffers) -> Result<(), Farewell> {
        self.session.keeps_what_it_has_set();
        let names: Vec<_> = names.iter().filter(|name| is_anybodys(name)).cloned().collect();
        if names.is_empty() {
            self.session.forget_put_back();
            return Ok(());
        }
        let sql = self.session.settings_query(&names);
        let answer = self.ask(&sql, Some(&sql), buffers).await?;
        self.have_read(&names, answer, buffers).await
    }

    async fn have_read(&mut self, names: &[Arc<str>], answer: Answer, buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let values = answer.rows.into_iter().next().unwrap_or_default();
        let known = &mut held.lease.connection().known;
        let before = std::mem::replace(&mut known.settings, self.session.settings_read(names, values));
        self.place.card.is_called(self.session.settings.get("application_name"));
        self.replay_put_back(buffers).await?;
        if let Some(held) = &mut self.held {
            held.lease.connection().known.still_shows(&before);
        }
        Ok(())
    }

    /// A query of Trunkline's own, behind what the session has run on its server connection. Where something cancels it,
    /// it is asked once more, as `again` has it: a cancel went astray, or the session's statement_timeout is short. What
    /// comes meanwhile for a session that listens goes to its client.
    pub(super) async fn ask(
        &mut self,
        sql: &str,
        again: Option<&str>,
        buffers: &mut Buffers,
    ) -> Result<Answer, Farewell> {
        let answer = self.ask_if_allowed(sql, again, buffers).await?;
        answer.ok_or_else(|| self.settings_lost())
    }

    /// The same. None: whoever the session is there may not have it.
    async fn ask_if_allowed(
        &mut self,
        sql: &str,
        again: Option<&str>,
        buffers: &mut Buffers,
    ) -> Result<Option<Answer>, Farewell> {
        // The client has its answer: a cancel that comes now comes too late, and means nothing that runs.
        self.cancellable.runs_nothing();
        let Some(held) = &mut self.held else { return Err(self.settings_lost()) };
        let connection = held.lease.connection();
        connection.cancel_target.until_arrived().await;
        let deadline = tokio::time::Instant::now() + self.server.answer_timeout();
        let mut asked = connection.query(sql, deadline).await;
        if let (Some(again), Err(ExchangeError::Refused { code: SqlState::QUERY_CANCELED, answer, .. })) =
            (again, &asked)
        {
            self.session.overheard(&answer.notifications, &mut connection.known, &mut buffers.to_client);
            let end = if answer.status == TransactionStatus::Idle { "" } else { "ROLLBACK;" };
            asked = connection.query(&format!("{end}{again}"), deadline).await;
        }
        let (answer, is_allowed) = match asked {
            Ok(answer) => (answer, true),
            Err(ExchangeError::Refused { code: SqlState::INSUFFICIENT_PRIVILEGE, answer, .. }) => (*answer, false),
            Err(_) => return Err(self.settings_lost()),
        };
        self.session.overheard(&answer.notifications, &mut connection.known, &mut buffers.to_client);
        let is_open = !is_allowed && answer.status != TransactionStatus::Idle;
        if is_open && connection.query("ROLLBACK", deadline).await.is_err() {
            return Err(self.settings_lost());
        }
        self.cancellable.runs_on(connection);
        if !buffers.to_client.is_empty() {
            self.flush(buffers).await?;
        }
        Ok(is_allowed.then_some(answer))
    }

    /// Waits for the cancel that is on its way to the server connection that is kept. One that went astray would hit whatever
    /// runs there when it comes: nothing may any more.
    pub(super) async fn outwait_cancel(&mut self) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let target = &held.lease.connection().cancel_target;
        target.until_arrived().await;
        if !target.has_stray() {
            return Ok(());
        }
        let message = "terminating connection: its node has not taken a cancel request in time, which could still hit \
                       what is sent next";
        Err(Farewell::told(SqlState::ADMIN_SHUTDOWN, message))
    }

    fn settings_lost(&mut self) -> Farewell {
        self.held = None;
        Farewell::told(SqlState::ADMIN_SHUTDOWN, "the session's settings were lost with its server connection")
    }

    /// What DISCARD ALL or code has put back goes on to what the client came with, which the server connection does not know;
    /// and the client is told what changes by that, as a server would tell it.
    async fn replay_put_back(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let connection = held.lease.connection();
        let Some(mut sql) = self.session.settings.sql_from(&connection.known.settings) else { return Ok(()) };
        if connection.misreads(&sql) {
            self.ask(TO_UTF8, Some(TO_UTF8), buffers).await?;
            let Some(held) = &mut self.held else { return Ok(()) };
            let known = &mut held.lease.connection().known;
            known.is_in_utf8();
            sql = self.session.settings.sql_from(&known.settings).unwrap_or_default();
        }
        let answer = self.ask(&sql, Some(&sql), buffers).await?;
        if let Some(held) = &mut self.held {
            held.lease.connection().known.settings = self.session.settings.clone();
        }
        for (name, value) in answer.parameters {
            if self.session.is_news(&name, &value) {
                backend::put_parameter_status(&mut buffers.to_client, &name, &value);
            }
        }
        self.flush(buffers).await
    }
}

/// A cancel is on its way to this connection: it waits until the cancel has arrived, so that it hits nobody else. Where
/// one went astray, it is closed.
async fn after_cancel(mut lease: Lease) {
    lease.connection().cancel_target.until_arrived().await;
    if !lease.connection().is_being_cancelled() {
        lease.give_back(Instant::now());
    }
}

/// The client is gone that had this connection for itself, and whatever it has left there goes too. What fails is closed.
pub(super) async fn discard_all(mut lease: Lease, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let connection = lease.connection();
    if connection.is_being_cancelled() {
        return; // closed
    }
    if connection.query("DISCARD ALL", deadline).await.is_ok() {
        connection.known.is_discarded();
        lease.give_back(Instant::now());
    }
}

/// Nobody waits any more for what runs on this connection: what it holds, or waits for, is let go at once. The connection is
/// closed, which alone would leave the node's process to wait on.
pub(super) async fn stop_statement(mut lease: Lease) {
    lease.connection().cancel_target.cancel().await;
}
