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
        };
        table.finish();
        limits
    }
}
