//! Averages over the last whole period, as SHOW STATS has them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::sums::{ByDatabase, Sums};
use crate::client::Fleet;
use crate::client::tally::Totals;
use crate::net::timers;

/// The same as PgBouncer's stats_period: what reads both must be able to compare.
pub(super) const PERIOD: Duration = Duration::from_secs(60);

/// What has been done in the last whole period.
#[derive(Debug, Default)]
pub(super) struct Averages {
    last: Mutex<ByDatabase>,
}

impl Averages {
    /// Takes them as long as it is polled.
    pub(super) async fn keep(&self, sums: &Sums, fleet: &Fleet) {
        let mut before = sums.whole(fleet).await;
        loop {
            timers::sleep(PERIOD).await;
            // While a worker hangs there are none: what it has done all its life would be taken for one period's.
            let (Some(now), earlier) = (sums.whole(fleet).await, before.take()) else {
                self.last.lock().clear();
                continue;
            };
            let Some(earlier) = earlier else {
                before = Some(now);
                continue;
            };
            let difference = |(name, totals): (&Arc<str>, &Totals)| {
                let earlier = earlier.get(name).copied().unwrap_or_default();
                (Arc::clone(name), totals.since(&earlier))
            };
            *self.last.lock() = now.iter().map(difference).collect();
            before = Some(now);
        }
    }

    /// What this database's clients have done in the last whole period.
    pub(super) fn of(&self, database: &str) -> Totals {
        self.last.lock().get(database).copied().unwrap_or_default()
    }
}
