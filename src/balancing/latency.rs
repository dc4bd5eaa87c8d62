//! How long a node takes to answer: quick to believe a slow answer, slow to forget it.

use std::time::{Duration, Instant};

/// A peak-sensitive moving average of a node's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakLatency {
    /// Seconds.
    average: f64,
    /// When it was observed last.
    at: Option<Instant>,
}

/// What was observed this long ago counts a third.
const MEMORY: Duration = Duration::from_secs(10);

impl PeakLatency {
    /// It took this long to answer. A longer answer than the average is believed at once.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let (took, known) = (took.as_secs_f64(), self.fading(now));
        self.average = match known {
            Some((average, faded)) if took < average => average * faded + took * (1.0 - faded),
            _ => took,
        };
        self.at = Some(now);
    }

    /// What it may take now; None before the first answer. It fades while nobody asks, so that a node that was slow once
    /// is tried again.
    pub fn now(&self, now: Instant) -> Option<Duration> {
        let (average, faded) = self.fading(now)?;
        Some(Duration::from_secs_f64((average * faded).clamp(0.0, LONGEST)))
    }

    /// The average, and what is left of it since the last answer.
    fn fading(&self, now: Instant) -> Option<(f64, f64)> {
        let since = now.saturating_duration_since(self.at?);
        Some((self.average, (-since.as_secs_f64() / MEMORY.as_secs_f64()).exp()))
    }
}

/// Seconds.
const LONGEST: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut latency = PeakLatency::default();
        assert_eq!(latency.now(at(0)), None);
        latency.observe(Duration::from_millis(2), at(0));
        latency.observe(Duration::from_millis(500), at(1));
        assert_eq!(latency.now(at(1)), Some(Duration::from_millis(500)));
        latency.observe(Duration::from_millis(2), at(2));
        let after = latency.now(at(2)).unwrap();
        assert!(after > Duration::from_millis(400) && after < Duration::from_millis(500), "{after:?}");
        assert!(latency.now(at(62)).unwrap() < Duration::from_millis(2), "it is tried again");
    }
}
