//! What SHOW of Trunkline's own settings is to answer to a session that keeps its server connection.

use std::time::Instant;

use super::acquire::Unmet;
use super::conversation::Client;
use super::farewell::Farewell;
use super::worker::Buffers;
use crate::session::Settings;

impl Client {
    /// It is put on the server connection, ahead of what asks for it: what the session has set there is read before, and what it has
    /// read and written there counts.
    pub(super) async fn show_wishes_on_kept(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.flush(buffers).await?;
        self.settle(buffers).await?;
        if !self.session.keeps_lease() {
            return Ok(()); // it goes back first
        }
        if self.is_outdated() && !self.has_looked_at_reload() {
            return Ok(()); // that is looked at first
        }
        self.counts_up_to_now();
        let Some(held) = &mut self.held else { return Ok(()) };
        // A cancel that comes from now on is for what waits.
        self.cancellable.runs_nothing();
        held.lease.connection().cancel_target.until_arrived().await;
        let position = self.await_position().await;
        if let Some(held) = &mut self.held {
            self.cancellable.runs_on(held.lease.connection());
        }
        match position {
            Ok(position) => self.put_wishes(&position, buffers).await,
            Err(unmet) => {
                if matches!(unmet, Unmet::Refused(_)) {
                    self.runs_nowhere(self.intent().reason());
                    self.place.card.rests(false, Instant::now());
                }
                self.go_without(unmet, buffers).await
            }
        }
    }

    /// A reload gives what is not set another meaning: what was put on the server connection to be shown is taken off, lest a
    /// ROLLBACK brings it back as the session's own.
    pub(super) async fn take_off_shown(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if !self.session.has_shown_there() || self.held.is_none() {
            return Ok(());
        }
        self.flush(buffers).await?;
        self.settle(buffers).await?;
        let shown = self.session.take_shown_there();
        if self.held.is_none() {
            return Ok(());
        }
        self.set_there(&Settings::default(), &shown, buffers).await
    }

    /// What the session has seen and done so far on the server connection that it keeps.
    fn counts_up_to_now(&mut self) {
        let Some(held) = &self.held else { return };
        let now = Instant::now();
        if self.session.served_up_to(held.lease.node(), held.may_lack, held.begun, now) {
            self.cluster().last_write.wrote(now);
        }
    }

    async fn put_wishes(&mut self, position: &str, buffers: &mut Buffers) -> Result<(), Farewell> {
        let shown = self.session.wishes_to_show(position, self.server.consistency);
        self.set_there(&shown, &Settings::default(), buffers).await?;
        if let Some(held) = &mut self.held {
            held.lease.connection().known.shows(shown.iter().map(|(name, _)| name));
        }
        self.session.is_shown_there(shown);
        self.session.gathered.asks_wishes = false;
        Ok(())
    }

    /// On the server connection that it keeps, what was `before` becomes `wanted`.
    async fn set_there(&mut self, wanted: &Settings, before: &Settings, buffers: &mut Buffers) -> Result<(), Farewell> {
        let Some(sql) = wanted.sql_from(before) else { return Ok(()) };
        let sql = self.session.guarded(sql);
        self.ask(&sql, Some(&sql), buffers).await.map(drop)
    }
}
