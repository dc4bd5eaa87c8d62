//! Slows down whoever tries passwords: after some failures within a minute, attempts wait for their turn, each longer
//! than the last.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Failures by who they count against. Of what is counted only so much is kept, however many there are.
#[derive(Debug)]
pub struct Throttle<K> {
    free: u32,
    counts: HashMap<K, Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// Failures, of which one is forgiven from time to time.
    failures: u32,
    /// Up to when that has been done.
    forgiven: Instant,
    /// Nobody is let try before.
    next: Instant,
}

impl<K: Hash + Eq + Clone> Throttle<K> {
    /// So many failures in a minute are free.
    pub fn new(free: u32) -> Self {
        Self { free, counts: HashMap::new() }
    }

    /// How long an attempt must wait; None: it is free. Each attempt that is not takes a turn of its own, unless it does not
    /// wait as long as that.
    pub fn turn(&mut self, key: &K, now: Instant, longest: Duration) -> Option<Duration> {
        let free = self.free;
        let count = self.counts.get_mut(key)?;
        count.forgive(now, free);
        if count.failures < free {
            return None;
        }
        let turn = count.next.max(now);
        let wait = turn.saturating_duration_since(now);
        if wait < longest {
            count.next = turn + pause(count.failures - free);
        }
        Some(wait)
    }

    /// An attempt has failed.
    pub fn failed(&mut self, key: &K, now: Instant) {
        if self.counts.len() >= MOST && !self.counts.contains_key(key) {
            let free = self.free;
            self.counts.retain(|_, count| {
                count.forgive(now, free);
                count.failures > 0
            });
            // Still full of those who have failed lately: they have an army, and forgetting costs them nothing to repeat.
            if self.counts.len() >= MOST {
                self.counts.clear();
            }
        }
        let fresh = Count { failures: 0, forgiven: now, next: now };
        let free = self.free;
        let count = self.counts.entry(key.clone()).or_insert(fresh);
        count.forgive(now, free);
        count.failures = count.failures.saturating_add(1).min(free + DOUBLINGS);
    }
}

impl Count {
    fn forgive(&mut self, now: Instant, free: u32) {
        let each = MINUTE / free.max(1);
        while self.failures > 0 && now.saturating_duration_since(self.forgiven) >= each {
            self.failures -= 1;
            self.forgiven += each;
        }
        if self.failures == 0 {
            self.forgiven = now;
        }
    }
}

/// After the free failures: half a second, then twice as long with each.
fn pause(beyond: u32) -> Duration {
    Duration::from_millis(500) * 2_u32.saturating_pow(beyond.min(DOUBLINGS))
}

/// Half a second doubled so often is 16 s: longer than a login may take.
const DOUBLINGS: u32 = 5;
const MINUTE: Duration = Duration::from_secs(60);
/// A hundred bytes each: a few megabytes at most.
const MOST: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_failures_cost_nothing_and_the_next_ones_wait_longer_and_longer() {
        let (mut throttle, now) = (Throttle::new(3), Instant::now());
        for _ in 0..3 {
            assert_eq!(throttle.turn(&1, now, MINUTE), None);
            throttle.failed(&1, now);
        }
        let millis = |millis| Some(Duration::from_millis(millis));
        assert_eq!(throttle.turn(&1, now, MINUTE), millis(0));
        // Whoever comes at the same time waits for the one before.
        assert_eq!(throttle.turn(&1, now, MINUTE), millis(500));
        throttle.failed(&1, now);
        assert_eq!(throttle.turn(&1, now, MINUTE), millis(1000));
        assert_eq!(throttle.turn(&1, now, MINUTE), millis(2000));
        assert_eq!(throttle.turn(&2, now, MINUTE), None, "others do not wait");
    }

    #[test]
    fn who_does_not_wait_takes_no_turn() {
        let (mut throttle, now) = (Throttle::new(1), Instant::now());
        throttle.failed(&1, now);
        assert_eq!(throttle.turn(&1, now, MINUTE), Some(Duration::ZERO));
        for _ in 0..100 {
            assert_eq!(throttle.turn(&1, now, Duration::from_millis(500)), Some(Duration::from_millis(500)));
        }
    }

    #[test]
    fn after_a_while_all_is_forgiven() {
        let (mut throttle, now) = (Throttle::new(3), Instant::now());
        (0..100).for_each(|_| throttle.failed(&1, now));
        let later = now + 4 * MINUTE;
        (0..2).for_each(|_| throttle.failed(&1, later));
        assert_eq!(throttle.turn(&1, later, MINUTE), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut throttle, now) = (Throttle::new(1), Instant::now());
        (0..3 * MOST).for_each(|key| throttle.failed(&key, now));
        assert!(throttle.counts.len() <= MOST);
    }
}
