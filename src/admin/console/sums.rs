//! What clients have done since the process began, by database: also those of a worker that tells nothing now, for sums that
//! fall and rise again are taken for those of a new process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::client::tally::Totals;
use crate::client::{Fleet, Report};

/// Totals by database.
pub(super) type ByDatabase = BTreeMap<Arc<str>, Totals>;

/// What all workers' clients have done, as far as it was told.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// By the worker's number.
    last: Mutex<HashMap<usize, Told>>,
}

/// What a worker has told last.
#[derive(Debug)]
struct Told {
    /// When it was asked.
    asked: Instant,
    totals: Vec<(Arc<str>, Totals)>,
}

impl Sums {
    /// As they are now; of a worker that hangs or is gone, as it has told them last.
    pub(super) async fn now(&self, fleet: &Fleet) -> ByDatabase {
        let asked = Instant::now();
        self.with(fleet.report().await, asked)
    }

    /// The same; None: a worker hangs.
    pub(super) async fn whole(&self, fleet: &Fleet) -> Option<ByDatabase> {
        let asked = Instant::now();
        Some(self.with(fleet.whole_report().await?, asked))
    }

    fn with(&self, reports: Vec<Report>, asked: Instant) -> ByDatabase {
        let mut last = self.last.lock();
        for Report { worker, totals, .. } in reports {
            // Others may have asked later, and have been answered before.
            if last.get(&worker).is_none_or(|told| told.asked <= asked) {
                last.insert(worker, Told { asked, totals });
            }
        }
        let mut sums = ByDatabase::new();
        for (name, totals) in last.values().flat_map(|told| &told.totals) {
            *sums.entry(Arc::clone(name)).or_default() += *totals;
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_worker_has_told_counts_while_it_tells_nothing() {
        let (sums, begun) = (Sums::default(), Instant::now());
        let later = begun + Duration::from_secs(1);
        let report = |worker, queries| {
            let totals = Totals { queries, ..Totals::default() };
            Report { worker, totals: vec![("shop".into(), totals)], ..Report::default() }
        };
        let queries = |reports, asked| sums.with(reports, asked)["shop"].queries;
        assert_eq!(queries(vec![report(0, 5), report(1, 7)], begun), 12);
        assert_eq!(queries(vec![report(0, 6)], later), 13, "the other one hangs");
        assert_eq!(queries(vec![report(0, 5)], begun), 13, "it is heard late");
        assert_eq!(queries(vec![report(0, 6), report(1, 9)], later), 15);
    }
}
