//! `[failover]`: what happens while there is no primary.

use std::time::Duration;

use super::Failover;
use super::document::Table;

impl Failover {
    /// The section; every setting has a default.
    pub(super) fn read(table: Table<'_>) -> Self {
        // A statement that waits longer than ten minutes has outlived whoever sent it.
        const LONGEST: Duration = Duration::from_secs(600);
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 3600);
        // Everybody waits for the slowest transaction.
        const LONGEST_DRAIN: Duration = Duration::from_secs(60);
        let failover = Self {
            hold: table.duration("hold", Duration::from_secs(10), Duration::ZERO..=LONGEST),
            pause_timeout: table.duration("pause_timeout", Duration::from_secs(30), Duration::ZERO..=DAY),
            pause_hold: table.duration("pause_hold", Duration::from_secs(120), Duration::ZERO..=DAY),
            replay: table.flag("replay", false),
            replay_bytes: table.size("replay_bytes", 1 << 20, 1 << 10..=1 << 30),
            stale_reads: table.optional_duration("stale_reads", MINUTE, Duration::from_millis(1)..=DAY),
            drain: table.duration("drain", Duration::from_secs(2), Duration::ZERO..=LONGEST_DRAIN),
        };
        table.finish();
        failover
    }
}
