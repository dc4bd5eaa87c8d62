//! What is gone for good: members come and go, and where each new one has an address of its own, as in Kubernetes, nodes at old
//! ones would be shown for ever, and their APIs asked.

use std::collections::{BTreeMap, BTreeSet};
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

/// Which member was listed last at each place.
#[derive(Debug)]
pub(super) struct LastMembers<K>(BTreeMap<K, String>);

impl<K> Default for LastMembers<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy> LastMembers<K> {
    /// These are listed now, by their names. Answers the places that the member has left for another one.
    pub(super) fn listed(&mut self, now: &BTreeMap<K, String>) -> BTreeSet<K> {
        self.0.extend(now.iter().map(|(place, name)| (*place, name.clone())));
        let is_elsewhere = |name: &String| now.values().any(|listed| listed == name);
        let left = self.0.iter().filter(|(place, name)| !now.contains_key(place) && is_elsewhere(name));
        left.map(|(place, _)| *place).collect()
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

    #[test]
    fn a_member_that_is_listed_elsewhere_has_left_its_place_and_one_that_is_not_listed_has_not() {
        let listed =
            |members: &[(u8, &str)]| members.iter().map(|(place, name)| (*place, (*name).to_owned())).collect();
        let mut last = LastMembers::default();
        assert!(last.listed(&listed(&[(1, "pod-0"), (2, "pod-1")])).is_empty());
        assert!(last.listed(&listed(&[(1, "pod-0")])).is_empty(), "it may have died");
        assert_eq!(last.listed(&listed(&[(1, "pod-0"), (3, "pod-1")])), [2].into());
        assert_eq!(last.listed(&listed(&[(1, "pod-0")])), [].into(), "now it may have died there");
        // Another has its place.
        assert_eq!(last.listed(&listed(&[(2, "pod-0"), (4, "pod-1")])), [1, 3].into());
    }
}
