//! What a statement has waited for a server connection: counted once, however that ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::Pool;
use crate::metrics::WorkerMetrics;

/// Of all that a statement may wait for, what it waits for a server connection. It is recorded when this is dropped: with the
/// connection, in vain, or because its client waits no more. Who has asked for none is not in it.
#[must_use = "the wait ends when this is dropped"]
pub(super) struct LeaseWait {
    metrics: Arc<WorkerMetrics>,
    has_asked: bool,
    waited: Duration,
    /// Where it is asked for one, and since when.
    asked: Option<(Arc<Pool>, Instant)>,
}

/// A client that gives up sooner has not waited for want of server connections.
const A_WHILE: Duration = Duration::from_millis(100);

impl LeaseWait {
    /// It has not asked for one yet.
    pub(super) fn new(metrics: &Arc<WorkerMetrics>) -> Self {
        Self { metrics: Arc::clone(metrics), has_asked: false, waited: Duration::ZERO, asked: None }
    }

    /// It asks this pool for one; [`Self::is_answered`] or [`Self::is_given_up`] follows, unless this is dropped before.
    pub(super) fn asks(&mut self, pool: Arc<Pool>, now: Instant) {
        (self.has_asked, self.asked) = (true, Some((pool, now)));
    }

    /// It has one, or there is none: whoever has asked goes on.
    pub(super) fn is_answered(&mut self) {
        self.ends();
    }

    /// It has not asked, after all: it begins anew later.
    pub(super) fn is_taken_back(&mut self) {
        (self.has_asked, self.asked) = (false, None);
    }

    /// Its client waits no more.
    pub(super) fn is_given_up(&mut self) {
        if let Some(pool) = self.ends()
            && self.waited >= A_WHILE
        {
            pool.say_if_crowded(Instant::now(), self.waited);
        }
    }

    /// The time of what was asked for is counted. Answers where that was.
    fn ends(&mut self) -> Option<Arc<Pool>> {
        let (pool, since) = self.asked.take()?;
        self.waited += since.elapsed();
        Some(pool)
    }
}

impl Drop for LeaseWait {
    fn drop(&mut self) {
        self.is_given_up();
        if self.has_asked {
            self.metrics.lease_waited(self.waited);
        }
    }
}
