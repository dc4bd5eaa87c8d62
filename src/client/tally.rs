//! What a worker's clients of one database have done, for SHOW STATS.

use std::cell::Cell;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::session::Preparing;

/// Counts of one worker's clients of one database.
#[derive(Debug, Default)]
pub struct Tally(Cell<Totals>);

/// Sums since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Server connections lent.
    pub assignments: u64,
    /// Transactions ended.
    pub transactions: u64,
    /// Statements sent to nodes.
    pub queries: u64,
    /// Bytes from clients.
    pub received: u64,
    /// Bytes to clients.
    pub sent: u64,
    /// Time in transactions.
    pub transaction_time: Duration,
    /// Time in statements.
    pub query_time: Duration,
    /// Time waited for a server connection.
    pub wait_time: Duration,
    /// Parse messages of clients, sent on their way.
    pub client_parses: u64,
    /// Parse messages sent to nodes, Trunkline's own for its clients included.
    pub server_parses: u64,
    /// Bind messages of clients, sent on their way.
    pub binds: u64,
}

impl Tally {
    /// Adds to it. The cell belongs to one thread: no atomic, and the compiler leaves one addition.
    #[inline]
    pub fn count(&self, change: impl FnOnce(&mut Totals)) {
        let mut totals = self.0.get();
        change(&mut totals);
        self.0.set(totals);
    }

    /// What it has come to.
    pub fn totals(&self) -> Totals {
        self.0.get()
    }
}

impl Totals {
    /// What has come since.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            assignments: self.assignments.saturating_sub(earlier.assignments),
            transactions: self.transactions.saturating_sub(earlier.transactions),
            queries: self.queries.saturating_sub(earlier.queries),
            received: self.received.saturating_sub(earlier.received),
            sent: self.sent.saturating_sub(earlier.sent),
            transaction_time: self.transaction_time.saturating_sub(earlier.transaction_time),
            query_time: self.query_time.saturating_sub(earlier.query_time),
            wait_time: self.wait_time.saturating_sub(earlier.wait_time),
            client_parses: self.client_parses.saturating_sub(earlier.client_parses),
            server_parses: self.server_parses.saturating_sub(earlier.server_parses),
            binds: self.binds.saturating_sub(earlier.binds),
        }
    }

    /// A transaction.
    #[inline]
    pub fn transaction_ended(&mut self, begun: Instant, now: Instant) {
        self.transactions += 1;
        self.transaction_time += now.saturating_duration_since(begun);
    }

    /// Statements were prepared and bound.
    pub fn add_preparing(&mut self, preparing: Preparing) {
        self.client_parses += u64::from(preparing.asked);
        self.server_parses += u64::from(preparing.sent);
        self.binds += u64::from(preparing.bound);
    }

    /// Bytes from a client.
    #[inline]
    pub fn add_received(&mut self, bytes: usize) {
        self.received = self.received.wrapping_add(bytes as u64);
    }

    /// Bytes to a client.
    #[inline]
    pub fn add_sent(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(bytes as u64);
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.assignments += other.assignments;
        self.transactions += other.transactions;
        self.queries += other.queries;
        self.received += other.received;
        self.sent += other.sent;
        self.transaction_time += other.transaction_time;
        self.query_time += other.query_time;
        self.wait_time += other.wait_time;
        self.client_parses += other.client_parses;
        self.server_parses += other.server_parses;
        self.binds += other.binds;
    }
}
