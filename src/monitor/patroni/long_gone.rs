//! What is gone for good: members come and go, and where each new one has an address of its own, as in Kubernetes, nodes at old
//! ones would be shown for ever, and their APIs asked.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Longer than any outage after which a member comes back unlisted meanwhile; one that comes back later is listed again then.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// Whoever has not looked for so long does not know what was there meanwhile.
const LONGEST_BREAK: Duration = Duration::from_secs(60);

/// Since when each has been missing without a break.
#[derive(Debug)]
pub(super) struct LongGone<K> {
    since: BTreeMap<K, Instant>,
    looked: Option<Instant>,
}

impl<K> Default for LongGone<K> {
    fn default() -> Self {
        Self { since: BTreeMap::new(), looked: None }
    }
}

impl<K: Ord + Clone> LongGone<K> {
    /// These are missing now, and no others. Answers those that have been for so long that they need not be known any more.
    pub(super) fn missing(&mut self, missing: impl IntoIterator<Item = K>, now: Instant) -> Vec<K> {
        let mut before = std::mem::take(&mut self.since);
        if self.looked.replace(now).is_some_and(|last| now.saturating_duration_since(last) > LONGEST_BREAK) {
            before.clear();
        }
        let since = |key: &K| before.get(key).copied().unwrap_or(now);
        self.since = missing.into_iter().map(|key| (key.clone(), since(&key))).collect();
        let is_long = |since: &Instant| now.saturating_duration_since(*since) >= FORGOTTEN_AFTER;
        self.since.iter().filter(|(_, since)| is_long(since)).map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_missing_for_an_hour_without_a_break_is_gone() {
        let begun = Instant::now();
        let mut gone = LongGone::default();
        for minute in 0..60 {
            // One of them is back for a moment.
            let missing: &[_] = if minute == 30 { &["old"] } else { &["old", "restarted"] };
            assert!(gone.missing(missing.iter().copied(), begun + minute * MINUTE).is_empty());
        }
        assert_eq!(gone.missing(["old", "restarted"], begun + 60 * MINUTE), ["old"]);
        // Nobody has looked for a while.
        assert!(gone.missing(["old", "restarted"], begun + 95 * MINUTE).is_empty());
    }
}
