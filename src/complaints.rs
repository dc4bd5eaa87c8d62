//! What is said in the log now and then for its reason, however many clients meet it.

use std::time::{Duration, Instant};

/// Reasons that have been met lately.
#[derive(Debug)]
pub struct Complaints {
    repeats: Repeats,
    lately: Vec<Trouble>,
}

/// When a reason that goes on is said again. One that has not been met for a minute is over: when it comes back it is said at
/// once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Each ten minutes.
    EachTenMinutes,
    /// Each minute.
    EachMinute,
}

/// A reason that goes on.
#[derive(Debug)]
struct Trouble {
    reason: Box<str>,
    said: Instant,
    /// When it was met last.
    met: Instant,
    /// How often it was met since it was said.
    times: u64,
}

/// Logins that fail now and again for one reason are one trouble, and one line.
const MINUTE: Duration = Duration::from_secs(60);

/// Reasons at once: somebody may have a hand in their words, and must not fill the log by that.
const MOST: usize = 16;

impl Repeats {
    fn after(self) -> Duration {
        match self {
            Self::EachTenMinutes => 10 * MINUTE,
            Self::EachMinute => MINUTE,
        }
    }
}

impl Complaints {
    /// Nothing has been met yet.
    #[must_use]
    pub fn new(repeats: Repeats) -> Self {
        Self { repeats, lately: Vec::new() }
    }

    /// This reason is met now. Some: it is to be said, and so often it was met since it was said last, now included.
    pub fn meet(&mut self, reason: &str, now: Instant) -> Option<u64> {
        self.lately.retain(|trouble| now.saturating_duration_since(trouble.met) < MINUTE);
        if let Some(trouble) = self.lately.iter_mut().find(|trouble| *trouble.reason == *reason) {
            trouble.met = now;
            trouble.times += 1;
            if now.saturating_duration_since(trouble.said) < self.repeats.after() {
                return None;
            }
            trouble.said = now;
            return Some(std::mem::take(&mut trouble.times));
        }
        if self.lately.len() >= MOST {
            return None;
        }
        self.lately.push(Trouble { reason: reason.into(), said: now, met: now, times: 0 });
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_goes_on_is_said_when_it_begins_and_when_it_begins_again() {
        let (mut complaints, begun) = (Complaints::new(Repeats::EachTenMinutes), Instant::now());
        assert_eq!(complaints.meet("no answer", begun), Some(1));
        assert!((1..300).all(|second| complaints.meet("no answer", begun + SECOND * second).is_none()));
        assert_eq!(complaints.meet("refused", begun + 299 * SECOND), Some(1), "it is another");
        assert_eq!(complaints.meet("no answer", begun + 358 * SECOND), None);
        assert_eq!(complaints.meet("no answer", begun + 418 * SECOND), Some(1), "it had ended");
    }

    #[test]
    fn what_goes_on_for_long_is_said_again_with_how_often_it_was_met() {
        let (mut complaints, begun) = (Complaints::new(Repeats::EachTenMinutes), Instant::now());
        let said: Vec<_> = (0..=1200)
            .filter_map(|second| Some((second, complaints.meet("no answer", begun + SECOND * second)?)))
            .collect();
        assert_eq!(said, [(0, 1), (600, 600), (1200, 600)]);
    }

    #[test]
    fn what_is_said_each_minute_is_said_no_more_often() {
        let (mut complaints, begun) = (Complaints::new(Repeats::EachMinute), Instant::now());
        let said: Vec<_> =
            (0..300).filter_map(|second| complaints.meet("bad record", begun + SECOND * second)).collect();
        assert_eq!(said, [1, 60, 60, 60, 60]);
    }

    #[test]
    fn reasons_that_somebody_makes_up_fill_no_log() {
        let (mut complaints, begun) = (Complaints::new(Repeats::EachTenMinutes), Instant::now());
        let said = (0..1000).filter_map(|number| complaints.meet(&format!("no {number}"), begun)).count();
        assert_eq!(said, MOST);
    }
}
