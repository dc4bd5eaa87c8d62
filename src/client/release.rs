//! A lease goes back: settings are read anew, times counted, and the server connection is clean or closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::acquire::target;
use super::conversation::Client;
use super::farewell::Farewell;
use super::worker::Buffers;
use crate::backend::Lease;
use crate::session::Known;
use crate::wire::error_response::put_warning;
use crate::wire::{SqlState, backend};

impl Client {
    /// The session is idle: what it has left on its server connection is found out, and the lease goes back unless that
    /// holds it.
    pub(super) async fn release(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        buffers.keep_nothing();
        let touched = self.find_remains(buffers).await?;
        if self.session.may_release() {
            self.finish(buffers);
        }
        self.grant_wishes(&touched, buffers).await
    }

    /// The session keeps its lease: its settings are made what they would be if it had come back to it.
    pub(super) async fn settle(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.session.has_reset_in_transaction() {
            return self.reset_on().await;
        }
        let touched = self.find_remains(buffers).await?;
        self.grant_wishes(&touched, buffers).await
    }

    /// Asks what is left of the session, where nobody knows, and for the settings it has touched. Answers their names.
    async fn find_remains(&mut self, buffers: &mut Buffers) -> Result<Vec<Arc<str>>, Farewell> {
        if self.session.wants_look()
            && let Some(held) = &mut self.held
        {
            let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
            let sql = self.session.look_query();
            match held.lease.connection().query(&sql, deadline).await {
                Ok(answer) => self.session.looked(&answer.rows),
                Err(_) => return Err(self.settings_lost()),
            }
        }
        let touched = self.session.take_touched();
        if !touched.is_empty() {
            self.read_settings(&touched, buffers).await?;
        }
        Ok(touched)
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

    /// Gives the lease back.
    pub(super) fn finish(&mut self, buffers: &mut Buffers) {
        buffers.keep_nothing();
        self.forget_losses();
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
            totals.query_time += match held.asked {
                Some(asked) if asked == held.begun => took,
                Some(asked) => now.saturating_duration_since(asked),
                None => Duration::ZERO,
            };
        });
        if held.is_measured && self.server.weighs_latency(&self.database) {
            self.worker.observe(self.cluster().number, held.lease.node(), took, now);
        }
        if self.session.served_by(held.lease.node(), held.may_lack, now) {
            self.server.pools.wrote(now);
        }
        self.give_back(held.lease, now);
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
        let Some(held) = &mut self.held else { return Ok(()) };
        let connection = held.lease.connection();
        let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
        let sql = self.session.settings_query(names);
        match connection.query(&sql, deadline).await {
            Ok(answer) => {
                let values = answer.rows.into_iter().next().unwrap_or_default();
                connection.known.settings = self.session.settings_read(names, values);
                self.place.card.is_called(self.session.settings.get("application_name"));
                self.replay_after_reset(buffers).await
            }
            Err(_) => Err(self.settings_lost()),
        }
    }

    /// RESET within a transaction has gone back to what the server connection began with: on to where the session did.
    async fn reset_on(&mut self) -> Result<(), Farewell> {
        let sql = self.session.reset_on();
        let Some(held) = &mut self.held else { return Ok(()) };
        let deadline = tokio::time::Instant::now() + self.server.queue_timeout;
        match held.lease.connection().query(&sql, deadline).await {
            Ok(_) => Ok(()),
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
        let Ok(answer) = connection.query(&sql, deadline).await else {
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

/// The client is gone that had this connection for itself, and whatever it has left there goes too. What fails is closed.
pub(super) async fn discard_all(mut lease: Lease, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let connection = lease.connection();
    if connection.is_being_cancelled() {
        return; // closed
    }
    if connection.query("DISCARD ALL", deadline).await.is_ok() {
        connection.known = Known::of(connection.known.process_id);
        lease.give_back(Instant::now());
    }
}
