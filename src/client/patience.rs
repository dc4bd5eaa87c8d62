//! How long a statement, or a login, still waits for RESUME.

use std::time::{Duration, Instant};

use super::acquire::Refusal;
use super::card::Card;
use super::farewell::Farewell;
use super::pause::Pause;
use super::server::Server;
use super::worker::{Worker, until};
use crate::metrics::Limit;
use crate::wire::SqlState;

/// How long a statement, or a login, still waits for RESUME: what it waits for otherwise does not count.
pub(super) struct Patience {
    hold: Duration,
    left: Duration,
}

/// A wait that is taken off the time that is left, however it ends.
struct Wait<'p> {
    begun: Instant,
    left: &'p mut Duration,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        *self.left = self.left.saturating_sub(self.begun.elapsed());
    }
}

impl Patience {
    /// It has not waited yet.
    pub(super) fn of(server: &Server) -> Self {
        Self { hold: server.pause_hold, left: server.pause_hold }
    }

    /// Waits until the database is not paused any more. Of several pauses the time together counts, and of a wait that is
    /// dropped what it has lasted.
    pub(super) async fn await_resume(&mut self, pause: &Pause, worker: &Worker) -> Result<(), Refusal> {
        let hold = self.hold.as_millis();
        let wait = Wait { begun: Instant::now(), left: &mut self.left };
        let is_resumed = pause.resumed(wait.begun + *wait.left).await;
        drop(wait);
        if is_resumed {
            return Ok(());
        }
        worker.metrics.limit_met(Limit::PauseHold);
        let message = format!("the database is paused, and has not been resumed within {hold} ms");
        Err(Refusal { code: SqlState::CANNOT_CONNECT_NOW, message })
    }
}

/// The same for a login, whose time stands still meanwhile. Where the program stops, it is sent away.
pub(super) async fn await_resume_to_log_in(
    pause: &Pause,
    patience: &mut Patience,
    card: &Card,
    worker: &Worker,
) -> Result<(), Farewell> {
    let _waits = card.waits_to_log_in();
    tokio::select! {
        // Dropping either loses nothing.
        resumed = patience.await_resume(pause, worker) => {
            resumed.map_err(|refusal| Farewell::told(refusal.code, refusal.message))
        }
        // Every client is woken when the worker begins to drain.
        () = until(|| worker.is_draining() && pause.is_paused()) => Err(Farewell::sent_away()),
    }
}
