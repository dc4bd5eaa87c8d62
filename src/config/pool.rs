//! `[pool]`: server connections.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::Table;
use super::{Allowance, Pool, PoolMode};

const MODES: [(&str, PoolMode); 3] =
    [("transaction", PoolMode::Transaction), ("session", PoolMode::Session), ("statement", PoolMode::Statement)];

/// The default of `pool.size`.
pub const USUAL_POOL_SIZE: usize = 20;

const SIZES: RangeInclusive<usize> = 1..=10_000;

/// No process has more sockets than this.
const LIMITS: RangeInclusive<usize> = 1..=1_000_000;

impl Pool {
    /// The section; every setting has a default.
    pub(super) fn read(table: Table<'_>) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const HOUR: Duration = Duration::from_secs(3600);
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let pool = Self {
            mode: table.choice("mode", &MODES, PoolMode::Transaction),
            size: table.count("size", USUAL_POOL_SIZE, SIZES),
            min_size: table.count("min_size", 0, 0..=10_000),
            reserve_size: table.count("reserve_size", 0, 0..=10_000),
            reserve_timeout: table.duration("reserve_timeout", Duration::from_secs(5), Duration::ZERO..=HOUR),
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

impl Allowance {
    /// What stands in the table of a database or a user; nothing has a default.
    pub(super) fn read(table: &Table<'_>) -> Self {
        Self {
            pool_mode: table.get("pool_mode").and_then(|item| item.choice(&MODES)),
            pool_size: table.get("pool_size").and_then(|item| item.count(&SIZES)),
            max_connections: table.get("max_connections").and_then(|item| item.count(&LIMITS)),
            max_clients: table.get("max_clients").and_then(|item| item.count(&LIMITS)),
        }
    }
}
