//! A place in a pool's queue without a future of its own: how most statements wait that find all server connections in use.
//!
//! A future that waits for a lease looks after all that may happen meanwhile, and is made and dropped for each statement. Here
//! nothing is looked after but the connection that comes back and a cancel. Whatever else may end the wait is seen with that
//! connection, or when [`Card::heed`](super::card::Card::heed) has the task look, once a second: then the wait goes on as any
//! other, at the same place in the queue. So nobody stands here whose wait may have to end sooner ([`Client::line_up`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::acquire::{Placed, Refusal, is_read};
use super::conversation::{Client, Unusual};
use super::farewell::Farewell;
use super::lease_wait::LeaseWait;
use super::worker::Buffers;
use crate::backend::{Connection, Grant, Place, Pool, Taken};
use crate::routing::Intent;

/// A statement that waits in a pool's queue, and is polled by its place alone.
pub(super) struct Queued {
    place: Place,
    /// A cancel wakes the task.
    is_heard_of: bool,
    at: At,
    /// Counts the wait when it ends, whatever ends it.
    wait: LeaseWait,
}

/// Where it waits.
pub(super) struct At {
    pub(super) placed: Placed,
    pub(super) pool: Arc<Pool>,
    pub(super) since: Instant,
}

/// A wait that has begun so, and goes on as any other.
pub(super) struct BegunWait {
    pub(super) since: Instant,
    pub(super) wait: LeaseWait,
    /// What it has of the queue; None: its place is gone.
    pub(super) line: Option<(At, Taken)>,
}

/// Whose wait may end sooner than in twice the time that [`Card::heed`](super::card::Card::heed) is late at most.
const LEAST_TIMEOUT: Duration = Duration::from_secs(2);

impl Client {
    /// The unit takes a place in the queue of the node it is placed at, where nothing ends that wait soon but a connection that
    /// comes back. Answers whether it has.
    pub(super) fn line_up(&mut self, intent: &Intent, placed: Placed, now: Instant) -> bool {
        let is_plain = self.server.queue_timeout >= LEAST_TIMEOUT
            && intent.timeout().is_none()
            && self.losses.on.is_empty()
            && self.session.is_idle()
            && !self.is_replaying()
            && !self.stream.is_late();
        if !is_plain || is_read(intent) && self.may_be_served_by_another(placed, now) {
            return false;
        }
        let Some(Some(pool)) = self.pools.get(usize::from(placed.node.0)).map(Option::as_ref) else { return false };
        let Some(place) = pool.plain_place(now) else { return false };
        let mut wait = LeaseWait::new(&self.worker.metrics);
        wait.asks(Arc::clone(pool), now);
        let at = At { placed, pool: Arc::clone(pool), since: now };
        self.place.card.waits(now);
        self.queued = Some(Queued { place, is_heard_of: false, at, wait });
        true
    }

    /// Another replica like this one may have a server connection for the session now.
    fn may_be_served_by_another(&self, placed: Placed, now: Instant) -> bool {
        if self.stays_with.is_some() {
            return false;
        }
        let (worker, balance) = (&self.worker, &self.cluster().balance);
        let mut newest = worker.view(self.cluster());
        newest.look().nodes.iter().any(|other| {
            let is_alike = other.id != placed.node && other.takes_reads && balance.are_alike(placed.node, other.id);
            let pool = self.pools.get(usize::from(other.id.0)).and_then(Option::as_ref);
            is_alike && pool.is_none_or(|pool| !pool.is_crowded(now))
        })
    }

    /// Ready when the wait here is over: the unit goes on its way, or waits on otherwise.
    pub(super) fn poll_queued(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &mut Buffers,
    ) -> Poll<Result<Option<Unusual>, Farewell>> {
        let Some(queued) = &mut self.queued else { return Poll::Ready(Ok(None)) };
        let granted = Pin::new(&mut queued.place).poll(cx);
        if granted.is_pending() && !queued.is_heard_of {
            queued.is_heard_of = true;
            self.cancellable.stands_in_line(cx.waker());
            return Poll::Pending;
        }
        if granted.is_pending() && !self.is_outdated() && !self.place.card.is_to_look() && self.cancellable.is_in_line()
        {
            return Poll::Pending;
        }
        let Some(Queued { place, is_heard_of, at, wait }) = self.queued.take() else { return Poll::Ready(Ok(None)) };
        let is_cancelled = is_heard_of && !self.cancellable.leaves_line();
        Poll::Ready(match granted {
            Poll::Ready(Some(Grant::Connection(connection))) => {
                self.is_granted(connection, at, wait, is_cancelled, buffers)
            }
            _ if is_cancelled => Ok(Some(canceled())),
            Poll::Pending => Ok(Some(at.goes_on(wait, Some(Taken::Wait(place))))),
            // The right to open a connection, or the place is gone.
            Poll::Ready(grant) => Ok(Some(at.goes_on(wait, grant.map(Taken::Now)))),
        })
    }

    fn is_granted(
        &mut self,
        connection: Box<Connection>,
        at: At,
        mut wait: LeaseWait,
        is_cancelled: bool,
        buffers: &mut Buffers,
    ) -> Result<Option<Unusual>, Farewell> {
        let Some(lease) = at.pool.lend(connection, self.worker.number) else {
            return Ok(Some(at.goes_on(wait, None))); // it has been closed meanwhile
        };
        let now = Instant::now();
        if is_cancelled {
            lease.give_back(now);
            return Ok(Some(canceled()));
        }
        let intent = self.intent();
        match self.goes_on(lease, &intent, Some(at.placed), now) {
            Ok(Some(acquired)) => {
                self.tally.count(|totals| totals.wait_time += now.saturating_duration_since(at.since));
                wait.is_answered();
                drop(wait);
                self.set_out_as_usual(acquired, &intent, now, buffers)
            }
            Ok(None) => Ok(Some(at.goes_on(wait, None))),
            Err(unmet) => Ok(Some(Unusual::Unmet(unmet))),
        }
    }

    /// It waits no more. Answers what it has waited.
    #[cold]
    pub(super) fn leaves_queue(&mut self) -> Option<LeaseWait> {
        let queued = self.queued.take()?;
        self.cancellable.leaves_line();
        Some(queued.wait)
    }
}

impl At {
    /// The wait goes on in another way, with this of the queue.
    #[cold]
    fn goes_on(self, mut wait: LeaseWait, taken: Option<Taken>) -> Unusual {
        wait.is_answered();
        let since = self.since;
        Unusual::Unit(Some(Box::new(BegunWait { since, wait, line: taken.map(|taken| (self, taken)) })))
    }
}

fn canceled() -> Unusual {
    Unusual::Unmet(Refusal::canceled().into())
}
