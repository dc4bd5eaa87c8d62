//! `[limits]`: what one client may take.

use std::time::Duration;

use super::Limits;
use super::document::Table;

impl Limits {
    /// The section; every setting has a default.
    pub(super) fn read(table: Table<'_>) -> Self {
        const KB: usize = 1 << 10;
        const MB: usize = 1 << 20;
        const GB: usize = 1 << 30;
        const MINUTE: Duration = Duration::from_secs(60);
        let limits = Self {
            login_timeout: {
                let shortest = Duration::from_millis(100);
                table.duration("login_timeout", Duration::from_secs(15), shortest..=10 * MINUTE)
            },
            statement_bytes: table.size("statement_bytes", MB, KB..=GB),
            buffer_bytes: table.size("buffer_bytes", 64 * MB, 64 * KB..=GB),
            drain_timeout: table.duration("drain_timeout", Duration::from_secs(30), Duration::ZERO..=24 * 60 * MINUTE),
            statement_cache_bytes: table.size("statement_cache_bytes", 32 * MB, MB..=64 * GB),
            client_idle_timeout: timeout(&table, "client_idle_timeout"),
            idle_in_transaction_timeout: timeout(&table, "idle_in_transaction_timeout"),
            query_timeout: timeout(&table, "query_timeout"),
        };
        table.finish();
        limits
    }
}

impl Limits {
    /// One of the times is limited that are looked at once a second.
    pub fn are_looked_at(&self) -> bool {
        [self.client_idle_timeout, self.idle_in_transaction_timeout, self.query_timeout].iter().any(Option::is_some)
    }
}

/// A time that is looked at once a second; none unless it is written.
fn timeout(table: &Table<'_>, key: &'static str) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    table.optional_duration(key, Duration::from_secs(600), Duration::from_secs(1)..=7 * DAY)
}
