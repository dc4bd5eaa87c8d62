//! How long a node takes to answer: quick to believe a slow answer, slow to forget it, and slower where none comes.

use std::time::{Duration, Instant};

/// A peak-sensitive moving average of a node's answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakLatency {
    /// Seconds.
    average: f64,
    /// When it was observed last.
    at: Option<Instant>,
    /// When it was asked last.
    asked: Option<Instant>,
}

/// What was observed this long ago counts a third.
const MEMORY: Duration = Duration::from_secs(10);

/// So long nothing is forgotten of a node that has not answered since it was asked: one that hangs draws one more read a minute,
/// and one whose read was given up is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

impl PeakLatency {
    /// It is asked.
    pub fn asks(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// It took this long to answer. A longer answer than the average is believed at once.
    pub fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        self.average = match self.at.map(|at| faded(at, now)) {
            Some(faded) if took < self.average => self.average * faded + took * (1.0 - faded),
            _ => took,
        };
        self.at = Some(now);
    }

    /// It took this long to answer with an error: one that comes quickly tells nothing of what an answer takes.
    pub fn fails(&mut self, took: Duration, now: Instant) {
        if self.at.is_none() || took.as_secs_f64() > self.average {
            self.observe(took, now);
        }
    }

    /// What it may take now; None: it is to be asked first. It fades while nobody asks, so that a node that was slow once
    /// is tried again.
    pub fn now(&self, now: Instant) -> Option<Duration> {
        let is_unanswered = |asked: &Instant| self.at.is_none_or(|at| *asked > at);
        let awaited_until = self.asked.filter(is_unanswered).map(|asked| asked + PATIENCE);
        let Some(at) = self.at else {
            return awaited_until.filter(|until| now < *until).map(|_| Duration::MAX);
        };
        let average = self.average * faded(awaited_until.unwrap_or(at), now);
        Some(Duration::from_secs_f64(average.clamp(0.0, LONGEST)))
    }
}

/// What is left since then.
fn faded(since: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(since).as_secs_f64() / MEMORY.as_secs_f64()).exp()
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

    #[test]
    fn an_error_that_comes_quickly_makes_no_node_quick() {
        let begun = Instant::now();
        let (error, answer, timeout) = (Duration::from_millis(1), Duration::from_millis(500), Duration::from_secs(30));
        let mut latency = PeakLatency::default();
        latency.fails(error, begun);
        assert_eq!(latency.now(begun), Some(error), "nothing else is known");
        latency.observe(answer, begun);
        for second in 1..100 {
            let now = begun + Duration::from_secs(second);
            latency.asks(now);
            latency.fails(error, now + error);
            assert_eq!(latency.now(now + error), Some(answer));
        }
        let now = begun + Duration::from_secs(100);
        latency.fails(timeout, now);
        assert_eq!(latency.now(now), Some(timeout), "it has taken longer than an answer");
    }

    #[test]
    fn what_is_known_of_a_node_does_not_fade_while_it_owes_an_answer() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let usual = Duration::from_millis(2);
        let mut latency = PeakLatency::default();
        latency.asks(at(0));
        assert_eq!(latency.now(at(1)), Some(Duration::MAX), "it is asked once");
        assert_eq!(latency.now(at(60)), None, "what was asked may have been given up");
        latency.observe(usual, at(61));
        latency.asks(at(62));
        assert_eq!(latency.now(at(120)), Some(usual));
        assert!(latency.now(at(142)).unwrap() < usual / 2, "it is tried again");
        latency.observe(usual, at(150));
        assert!(latency.now(at(170)).unwrap() < usual / 2);
    }
}
