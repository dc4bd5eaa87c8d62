//! `[pool]`: server connections.

use std::time::Duration;

use super::document::Table;
use super::{Pool, PoolMode};

impl Pool {
    /// The section; every setting has a default.
    pub(super) fn read(table: Table<'_>) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3600);
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let modes = [
            ("transaction", PoolMode::Transaction),
            ("session", PoolMode::Session),
            ("statement", PoolMode::Statement),
        ];
        let pool = Self {
            mode: table.choice("mode", &modes, PoolMode::Transaction),
            size: table.count("size", 20, 1..=10_000),
            queue_timeout: table.duration("queue_timeout", Duration::from_secs(30), Duration::ZERO..=HOUR),
            connect_timeout: {
                let shortest = Duration::from_millis(10);
                table.duration("connect_timeout", Duration::from_secs(5), shortest..=5 * MINUTE)
            },
            idle_timeout: table.duration("idle_timeout", 10 * MINUTE, Duration::from_secs(1)..=7 * DAY),
            lifetime: table.duration("lifetime", HOUR, Duration::from_secs(1)..=30 * DAY),
            prepared_statements: table.count("prepared_statements", 500, 1..=100_000),
        };
        table.finish();
        pool
    }
}
