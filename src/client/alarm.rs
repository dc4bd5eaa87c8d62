//! Cancels a read when the time is over that a rule gives it. Never set for anything but a read.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::card::{Card, Ending, GRACE, Overdue};
use crate::metrics::{Limit, WorkerMetrics};
use crate::net::timers;

/// Goes off once; not at all if it is dropped before.
#[derive(Debug)]
pub(super) struct Alarm(JoinHandle<()>);

impl Alarm {
    /// Cancels then what the client of this card runs; and ends the client if that goes on all the same, as that of a client
    /// does that takes nothing.
    ///
    /// A cancel that is on its way when the alarm is dropped still arrives: until then its server connection goes to nobody
    /// else.
    pub(super) fn set(due: Instant, card: &Rc<Card>, metrics: &Arc<WorkerMetrics>) -> Self {
        let (card, metrics) = (Rc::clone(card), Arc::clone(metrics));
        Self(tokio::task::spawn_local(async move {
            timers::sleep_until(due.into()).await;
            let Some(cancel) = card.cancel(Overdue::Rule) else { return };
            metrics.limit_met(Limit::RuleTimeout);
            tokio::task::spawn_local(cancel.arrive());
            timers::sleep(GRACE).await;
            card.end(Ending::Overdue(Overdue::Rule));
        }))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}
