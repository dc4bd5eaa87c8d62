//! A node that is not believed: what would begin there waits, for we have stood still. Another primary may have been promoted
//! meanwhile, and a replica may be far behind.

use std::sync::Arc;
use std::time::Instant;

use super::acquire::{Acquired, Refusal, Unmet, too_late};
use super::conversation::Client;
use super::farewell::Farewell;
use super::worker::{Buffers, until};
use crate::metrics::Limit;
use crate::net::timers;
use crate::topology::Role;
use crate::wire::SqlState;

impl Acquired {
    /// We have stood still since the node was chosen.
    pub(super) fn is_unbelieved(&self) -> bool {
        self.lease.pool().gate().is_unbelieved(Instant::now())
    }
}

impl Client {
    /// What has been gathered waits until the node that is held is believed again, or takes nothing by its view any more; then it is
    /// looked at anew. If that takes too long it is refused, and the session goes on with what it holds.
    pub(super) async fn await_belief(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        self.flush(buffers).await?;
        if self.session.gathered.end.is_none() {
            self.session.cut_batch(); // nothing more of it may come
        }
        let Some(held) = &mut self.held else { return Ok(()) };
        // A cancel that comes from now on is for what waits.
        self.cancellable.runs_nothing();
        held.lease.connection().cancel_target.until_arrived().await;
        self.begin_due();
        let due = self.due();
        self.losses.is_due_ahead = true;
        self.place.card.waits(Instant::now());
        let waited = self.wait_for_belief(due).await;
        if let Some(held) = &mut self.held {
            self.cancellable.runs_on(held.lease.connection());
        }
        let Err(unmet) = waited else { return Ok(()) };
        if matches!(unmet, Unmet::Refused(_)) {
            self.runs_nowhere(self.intent().reason());
            self.place.card.rests(false, Instant::now());
        }
        self.go_without(unmet, buffers).await
    }

    /// Ends too where another configuration has come into force, by which its client may be gone.
    async fn wait_for_belief(&self, due: Option<Instant>) -> Result<(), Unmet> {
        let Some(held) = &self.held else { return Ok(()) };
        let _hold = self.worker.metrics.hold();
        let (gate, over) = (Arc::clone(held.lease.pool().gate()), Instant::now() + self.server.hold);
        tokio::select! {
            // Dropping any of them loses nothing: the next look sees what has changed.
            () = gate.until_believed() => Ok(()),
            () = self.is_to_renew() => Ok(()),
            () = self.hangs_up() => Err(Unmet::Left),
            () = self.cancellable.cancelled() => Err(Refusal::canceled().into()),
            () = too_late(due) => Err(self.runs_out_of_time().into()),
            () = timers::sleep_until(over.into()) => {
                self.worker.metrics.limit_met(Limit::Hold);
                let (hold, node) = (self.server.hold.as_millis(), held.lease.pool().address());
                let message = if held.role == Role::Primary {
                    format!(
                        "no primary within {hold} ms: {node} is not believed to be it before every node has been asked, as \
                         Trunkline stood still"
                    )
                } else {
                    format!(
                        "no read within {hold} ms: how far {node} is behind is not known before the nodes have been asked, as \
                         Trunkline stood still"
                    )
                };
                Err(Refusal { code: SqlState::CANNOT_CONNECT_NOW, message }.into())
            }
        }
    }

    /// Returns when the client is to look at another configuration, which it is woken for.
    pub(super) async fn is_to_renew(&self) {
        until(|| self.is_outdated() && !self.has_looked_at_reload()).await;
    }
}
