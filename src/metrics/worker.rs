//! What one worker thread counts; [`super::Metrics`] adds the workers up when it is scraped.

use std::time::{Duration, Instant};

use crate::sql::Pin;

use super::histogram::Histogram;
use super::labels::{
    CancelOutcome, FreshnessOutcome, Limit, LoginFailure, Loss, Refusal, Retry, SQLSTATES, Target, Violator,
    sqlstate_index,
};
use super::tally::{Tallies, Tally};

/// The counts of one worker thread: every event that shells report.
///
/// Two threads that report to the same one get right counts and wait for each other's cache lines: so each has its own.
/// Its alignment keeps it off the lines (fetched in pairs) of its neighbours.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerMetrics {
    pub(super) clients_accepted: Tally,
    pub(super) clients_closed: Tally,
    pub(super) clients_parked: Tally,
    pub(super) clients_roused: Tally,
    pub(super) replications_begun: Tally,
    pub(super) replications_ended: Tally,
    pub(super) clients_refused: Tallies<{ Refusal::CODES.len() }>,
    pub(super) logins: Tally,
    pub(super) login_failures: Tallies<{ LoginFailure::CODES.len() }>,
    pub(super) received_bytes: Tally,
    pub(super) sent_bytes: Tally,
    /// By reason; the last one is for a reason that is not in the table.
    pub(super) statements: Box<[Tallies<{ Target::CODES.len() }>]>,
    pub(super) statement_duration: [Histogram; Target::CODES.len()],
    pub(super) cache_text_hits: Tally,
    pub(super) cache_shape_hits: Tally,
    pub(super) cache_misses: Tally,
    pub(super) cache_entries: Tally,
    pub(super) cache_bytes: Tally,
    pub(super) parse_nanoseconds: Tally,
    pub(super) freshness_wait: Histogram,
    pub(super) freshness_waits: Tallies<{ FreshnessOutcome::CODES.len() }>,
    pub(super) lease_wait: Histogram,
    pub(super) pins: Tallies<{ Pin::ALL.len() }>,
    pub(super) prepared_replays: Tally,
    pub(super) parameter_replays: Tally,
    pub(super) holds_begun: Tally,
    pub(super) holds_ended: Tally,
    pub(super) hold_wait: Histogram,
    pub(super) retries: Tallies<{ Retry::CODES.len() }>,
    pub(super) losses: Tallies<{ Loss::CODES.len() }>,
    pub(super) limits_met: Tallies<{ Limit::CODES.len() }>,
    pub(super) errors_sent: Tallies<{ SQLSTATES.len() }>,
    pub(super) cancels: Tallies<{ CancelOutcome::CODES.len() }>,
    pub(super) violations: Tallies<{ Violator::CODES.len() }>,
}

/// What a statement cache knows of itself: totals since it was made, and its size now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Look-ups that found the exact text.
    pub text_hits: u64,
    /// Look-ups that found the shape.
    pub shape_hits: u64,
    /// Look-ups that found nothing, so that the statement was parsed.
    pub misses: u64,
    /// Statements in it now.
    pub entries: u64,
    /// Bytes it takes now.
    pub bytes: u64,
}

impl WorkerMetrics {
    pub(super) fn new(reasons: usize) -> Self {
        Self {
            clients_accepted: Tally::default(),
            clients_closed: Tally::default(),
            clients_parked: Tally::default(),
            clients_roused: Tally::default(),
            replications_begun: Tally::default(),
            replications_ended: Tally::default(),
            clients_refused: Tallies::default(),
            logins: Tally::default(),
            login_failures: Tallies::default(),
            received_bytes: Tally::default(),
            sent_bytes: Tally::default(),
            statements: (0..=reasons).map(|_| Tallies::default()).collect(),
            statement_duration: Default::default(),
            cache_text_hits: Tally::default(),
            cache_shape_hits: Tally::default(),
            cache_misses: Tally::default(),
            cache_entries: Tally::default(),
            cache_bytes: Tally::default(),
            parse_nanoseconds: Tally::default(),
            freshness_wait: Histogram::default(),
            freshness_waits: Tallies::default(),
            lease_wait: Histogram::default(),
            pins: Tallies::default(),
            prepared_replays: Tally::default(),
            parameter_replays: Tally::default(),
            holds_begun: Tally::default(),
            holds_ended: Tally::default(),
            hold_wait: Histogram::default(),
            retries: Tallies::default(),
            losses: Tallies::default(),
            limits_met: Tallies::default(),
            errors_sent: Tallies::default(),
            cancels: Tallies::default(),
            violations: Tallies::default(),
        }
    }

    /// A client connected; [`Self::client_closed`] follows when it is gone.
    #[inline]
    pub fn client_accepted(&self) {
        self.clients_accepted.add(1);
    }

    /// A client that was accepted is gone.
    #[inline]
    pub fn client_closed(&self) {
        self.clients_closed.add(1);
    }

    /// A client is kept without a task; [`Self::client_roused`] follows.
    pub fn client_parked(&self) {
        self.clients_parked.add(1);
    }

    /// A client that was parked has a task again.
    pub fn client_roused(&self) {
        self.clients_roused.add(1);
    }

    /// A client has come for replication; [`Self::replication_ended`] follows when it is gone.
    pub fn replication_begun(&self) {
        self.replications_begun.add(1);
    }

    /// A client that came for replication is gone.
    pub fn replication_ended(&self) {
        self.replications_ended.add(1);
    }

    /// A connection was turned away before a login.
    #[inline]
    pub fn client_refused(&self, cause: Refusal) {
        self.clients_refused.count(cause.index());
    }

    /// A client logged in.
    #[inline]
    pub fn login_ok(&self) {
        self.logins.add(1);
    }

    /// A client could not log in.
    #[inline]
    pub fn login_failed(&self, cause: LoginFailure) {
        self.login_failures.count(cause.index());
    }

    /// Bytes came from a client.
    #[inline]
    pub fn received_from_client(&self, bytes: usize) {
        self.received_bytes.add(count_of(bytes));
    }

    /// Bytes went to a client.
    #[inline]
    pub fn sent_to_client(&self, bytes: usize) {
        self.sent_bytes.add(count_of(bytes));
    }

    /// A statement was routed; `reason` is an index into the table given to [`super::Metrics::new`].
    #[inline]
    pub fn statement_routed(&self, target: Target, reason: usize) {
        self.statements_routed(target, reason, 1);
    }

    /// So many statements were routed together; `reason` as in [`Self::statement_routed`].
    #[inline]
    pub fn statements_routed(&self, target: Target, reason: usize, count: u32) {
        if let Some(targets) = self.statements.get(reason).or(self.statements.last()) {
            targets.add(target.index(), count.into());
        }
    }

    /// So many statements were answered to their end, which has taken so long together.
    #[inline]
    pub fn statements_finished(&self, target: Target, took: Duration, count: u32) {
        let Some(histogram) = self.statement_duration.get(target.index()) else { return };
        match count {
            1 => histogram.record(took),
            _ => histogram.record_shared(took, count),
        }
    }

    /// What the worker's statement cache has counted so far.
    #[inline]
    pub fn cache_counted(&self, counts: CacheCounts) {
        self.cache_text_hits.set(counts.text_hits);
        self.cache_shape_hits.set(counts.shape_hits);
        self.cache_misses.set(counts.misses);
        self.cache_entries.set(counts.entries);
        self.cache_bytes.set(counts.bytes);
    }

    /// Statements were parsed in full, which has taken so long together.
    pub fn parsed(&self, took: Duration) {
        self.parse_nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// A read waited for a fresh replica.
    #[inline]
    pub fn freshness_waited(&self, outcome: FreshnessOutcome, waited: Duration) {
        self.freshness_waits.count(outcome.index());
        self.freshness_wait.record(waited);
    }

    /// A lease was free at once.
    #[inline]
    pub fn lease_was_free(&self) {
        self.lease_wait.record_none();
    }

    /// A lease was waited for so long, and got, refused or given up.
    #[inline]
    pub fn lease_waited(&self, waited: Duration) {
        self.lease_wait.record(waited);
    }

    /// A session began to keep its server connection.
    #[inline]
    pub fn pinned(&self, pin: Pin) {
        if let Some(index) = Pin::ALL.iter().position(|&known| known == pin) {
            self.pins.count(index);
        }
    }

    /// Prepared statements were made again on a server connection that lacked them, or had them with other columns.
    #[inline]
    pub fn prepared_replayed(&self, statements: usize) {
        self.prepared_replays.add(count_of(statements));
    }

    /// Settings were made again on a server connection that lacked them.
    #[inline]
    pub fn parameters_replayed(&self, settings: usize) {
        self.parameter_replays.add(count_of(settings));
    }

    /// A statement begins to wait for a primary, until the returned value is dropped.
    #[inline]
    pub fn hold(&self) -> Hold<'_> {
        self.holds_begun.add(1);
        Hold { worker: self, begun: Instant::now() }
    }

    /// A statement is run again, unseen by its client.
    #[inline]
    pub fn retried(&self, cause: Retry) {
        self.retries.count(cause.index());
    }

    /// A transaction was lost with its node.
    #[inline]
    pub fn transaction_lost(&self, outcome: Loss) {
        self.losses.count(outcome.index());
    }

    /// A client or a statement is refused or ended by a limit.
    #[inline]
    pub fn limit_met(&self, limit: Limit) {
        self.limits_met.count(limit.index());
    }

    /// An error of our own was sent to a client.
    #[inline]
    pub fn error_sent(&self, sqlstate: &str) {
        self.errors_sent.count(sqlstate_index(sqlstate));
    }

    /// A cancel request has been dealt with.
    #[inline]
    pub fn cancelled(&self, outcome: CancelOutcome) {
        self.cancels.count(outcome.index());
    }

    /// Somebody broke the protocol.
    #[inline]
    pub fn protocol_violated(&self, side: Violator) {
        self.violations.count(side.index());
    }
}

/// A statement that waits for a primary, or for one that could not be connected to: counted as such until dropped, and its time
/// with it.
#[derive(Debug)]
#[must_use = "the wait ends when this is dropped"]
pub struct Hold<'a> {
    worker: &'a WorkerMetrics,
    begun: Instant,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.worker.holds_ended.add(1);
        self.worker.hold_wait.record(self.begun.elapsed());
    }
}

#[inline]
fn count_of(amount: usize) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}
