//! Whether a worker thread still turns: it is asked for a sign once a second, and gives it in its next turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The sign of life of one worker thread.
#[derive(Debug)]
pub struct Pulse {
    begun: Instant,
    /// Since when it owes an answer, in nanoseconds since the beginning and one more; 0: it owes none.
    owed: AtomicU64,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: now, owed: AtomicU64::new(0) }
    }

    /// Asks for a sign. False: it owes one still, and need not be told once more.
    pub fn ask(&self, now: Instant) -> bool {
        let nanoseconds = u64::try_from(now.saturating_duration_since(self.begun).as_nanos()).unwrap_or(u64::MAX - 1);
        self.owed.compare_exchange(0, nanoseconds + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Gives it.
    pub fn answer(&self) {
        self.owed.store(0, Ordering::Relaxed);
    }

    /// For how long it has owed one.
    pub fn silence(&self, now: Instant) -> Duration {
        match self.owed.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            owed => now.saturating_duration_since(self.begun + Duration::from_nanos(owed - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn silence_counts_from_the_first_question_that_is_not_answered() {
        let begun = Instant::now();
        let pulse = Pulse::new(begun);
        assert_eq!(pulse.silence(begun + 9 * SECOND), Duration::ZERO);
        assert!(pulse.ask(begun));
        assert_eq!(pulse.silence(begun + SECOND), SECOND);
        pulse.answer();
        assert_eq!(pulse.silence(begun + SECOND), Duration::ZERO);
        assert!(pulse.ask(begun + SECOND));
        assert!(!pulse.ask(begun + 2 * SECOND));
        assert!(!pulse.ask(begun + 3 * SECOND));
        assert_eq!(pulse.silence(begun + 4 * SECOND), 3 * SECOND);
        pulse.answer();
        assert!(pulse.ask(begun + 4 * SECOND));
    }
}
