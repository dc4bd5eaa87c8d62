//! When a cluster was last written to through this process: a client that comes back on a new connection must find it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a session's write to a cluster was last seen to end.
#[derive(Debug)]
pub struct LastWrite {
    origin: Instant,
    /// Microseconds since the origin, and one; 0: never.
    since: AtomicU64,
}

impl Default for LastWrite {
    fn default() -> Self {
        Self { origin: Instant::now(), since: AtomicU64::new(0) }
    }
}

impl LastWrite {
    /// A session has written, and has been told so by now.
    pub fn wrote(&self, now: Instant) {
        let since = now.saturating_duration_since(self.origin).as_micros();
        self.since.fetch_max(u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1), Ordering::Relaxed);
    }

    /// When a session last wrote; None: never.
    pub fn moment(&self) -> Option<Instant> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => self.origin.checked_add(Duration::from_micros(since)),
        }
    }
}
