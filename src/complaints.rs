//! What is said in the log once for its reason, however many clients meet it.

use std::time::{Duration, Instant};

/// Reasons that have been met lately.
#[derive(Debug)]
pub struct Complaints {
    repeats: Repeats,
    /// Each with when it last counted.
    lately: Vec<(Box<str>, Instant)>,
}

/// When a reason that goes on is said again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// When it has not been met for a minute.
    AfterQuiet,
    /// Each minute.
    EachMinute,
}

/// Logins that fail now and again for one reason are one trouble, and one line.
const MINUTE: Duration = Duration::from_secs(60);

/// Reasons at once: somebody may have a hand in their words, and must not fill the log by that.
const MOST: usize = 16;

impl Complaints {
    /// Nothing has been met yet.
    #[must_use]
    pub fn new(repeats: Repeats) -> Self {
        Self { repeats, lately: Vec::new() }
    }

    /// This reason is met now. Answers whether it is to be said.
    pub fn is_new(&mut self, reason: &str, now: Instant) -> bool {
        self.lately.retain(|(_, last)| now.saturating_duration_since(*last) < MINUTE);
        if let Some((_, last)) = self.lately.iter_mut().find(|(known, _)| **known == *reason) {
            if self.repeats == Repeats::AfterQuiet {
                *last = now;
            }
            return false;
        }
        let has_room = self.lately.len() < MOST;
        if has_room {
            self.lately.push((reason.into(), now));
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_goes_on_is_said_when_it_begins_and_when_it_begins_again() {
        let (mut complaints, begun) = (Complaints::new(Repeats::AfterQuiet), Instant::now());
        assert!(complaints.is_new("no answer", begun));
        assert!((1..300).all(|second| !complaints.is_new("no answer", begun + SECOND * second)));
        assert!(complaints.is_new("refused", begun + 299 * SECOND), "it is another");
        assert!(!complaints.is_new("no answer", begun + 358 * SECOND));
        assert!(complaints.is_new("no answer", begun + 418 * SECOND), "it had ended");
    }

    #[test]
    fn what_is_said_each_minute_is_said_no_more_often() {
        let (mut complaints, begun) = (Complaints::new(Repeats::EachMinute), Instant::now());
        let said = (0..300).filter(|second| complaints.is_new("bad record", begun + SECOND * *second)).count();
        assert_eq!(said, 5);
    }

    #[test]
    fn reasons_that_somebody_makes_up_fill_no_log() {
        let (mut complaints, begun) = (Complaints::new(Repeats::AfterQuiet), Instant::now());
        let said = (0..1000).filter(|number| complaints.is_new(&format!("no {number}"), begun)).count();
        assert_eq!(said, MOST);
    }
}
