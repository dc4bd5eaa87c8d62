//! When a cluster was last written to through this process: a client that comes back on a new connection must find it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a session's write to a cluster was last seen to end.
#[derive(Debug)]
pub struct LastWrite {
    origin: Instant,
    /// Microseconds since the origin, and one; 0: never.
    since: AtomicU64,
    /// The same for when one was last lost.
    lost: AtomicU64,
}

/// A node that has lost its connection to us may go on with what was asked of it, and end it later.
const LONGEST_DOUBT: Duration = Duration::from_secs(60);

impl Default for LastWrite {
    fn default() -> Self {
        Self { origin: Instant::now(), since: AtomicU64::new(0), lost: AtomicU64::new(0) }
    }
}

impl LastWrite {
    /// A session has written, and has been told so by now.
    pub fn wrote(&self, now: Instant) {
        self.since.fetch_max(self.since_origin(now), Ordering::Relaxed);
    }

    /// What a session has written is lost to it: it is done, or not, or may still be.
    pub fn lost(&self, now: Instant) {
        self.lost.fetch_max(self.since_origin(now), Ordering::Relaxed);
    }

    /// When a session last wrote, as far as anybody may know now; None: never.
    pub fn moment(&self, now: Instant) -> Option<Instant> {
        let moment = |since: &AtomicU64| match since.load(Ordering::Relaxed) {
            0 => None,
            since => self.origin.checked_add(Duration::from_micros(since)),
        };
        match moment(&self.lost) {
            Some(lost) if now.saturating_duration_since(lost) < LONGEST_DOUBT => Some(now),
            lost => moment(&self.since).max(lost),
        }
    }

    fn since_origin(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.origin).as_micros();
        u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_may_end_for_a_while() {
        let (last, begun) = (LastWrite::default(), Instant::now());
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(last.moment(begun), None);
        last.wrote(after(1));
        let wrote = last.moment(after(2)).unwrap();
        assert!(wrote >= after(1) && wrote < after(2));
        last.lost(after(3));
        assert_eq!(last.moment(after(4)), Some(after(4)));
        assert_eq!(last.moment(after(62)), Some(after(62)));
        let lost = last.moment(after(64)).unwrap();
        assert!(lost >= after(3) && lost < after(4));
        last.wrote(after(65));
        assert!(last.moment(after(66)).unwrap() >= after(65));
    }
}
