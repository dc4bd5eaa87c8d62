//! Answers that are remembered for a moment, and never more than so many.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use dashmap::DashMap;

/// Answers by what was asked, each with its moment.
#[derive(Debug)]
pub(super) struct Memory<K: Eq + Hash, V> {
    /// With its moment; None: it is doubted.
    known: DashMap<K, (V, Option<Instant>)>,
    /// Whether an answer is forgotten only when all are.
    is_dear: fn(&V) -> bool,
}

/// Answers remembered, a hundred bytes each.
const MOST: usize = 10_000;

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    /// Nothing is known yet.
    pub(super) fn new(is_dear: fn(&V) -> bool) -> Self {
        Self { known: DashMap::new(), is_dear }
    }

    /// What was answered, if that is younger than this.
    pub(super) fn recall<Q: Eq + Hash + ?Sized>(&self, key: &Q, age: Duration) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let is_young = |asked: Instant| asked.elapsed() < age;
        self.known.get(key).filter(|entry| entry.1.is_some_and(is_young)).map(|entry| entry.0.clone())
    }

    /// What was answered last, however old or doubted it is.
    pub(super) fn recall_at_all<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.known.get(key).map(|entry| entry.0.clone())
    }

    /// Something is known that is forgotten last.
    pub(super) fn has_dear<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.known.get(key).is_some_and(|entry| (self.is_dear)(&entry.0))
    }

    /// This was answered just now.
    pub(super) fn keep(&self, key: K, answer: V) {
        if self.known.len() >= MOST {
            self.known.retain(|_, (answer, _)| (self.is_dear)(answer));
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(key, (answer, Some(Instant::now())));
    }

    /// All may have been wrong: each is asked again, and counts only where nobody answers.
    pub(super) fn doubt_all(&self) {
        self.known.iter_mut().for_each(|mut entry| entry.1 = None);
    }

    /// It may have been wrong, if it is older than this: it is asked again, and counts only where nobody answers.
    pub(super) fn doubt<Q: Eq + Hash + ?Sized>(&self, key: &Q, age: Duration)
    where
        K: Borrow<Q>,
    {
        if let Some(mut entry) = self.known.get_mut(key) {
            entry.1 = entry.1.filter(|asked| asked.elapsed() <= age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dear_is_forgotten_last() {
        let memory = Memory::new(|answer| *answer);
        memory.keep(0, true);
        (1..MOST).for_each(|key| memory.keep(key, false));
        memory.keep(MOST, false);
        let day = Duration::from_secs(86_400);
        assert_eq!([0, 1, MOST].map(|key| memory.recall(&key, day)), [Some(true), None, Some(false)]);
        assert_eq!(memory.recall(&0, Duration::ZERO), None);
        memory.doubt(&0, day);
        assert_eq!(memory.recall(&0, day), Some(true));
        memory.doubt(&0, Duration::ZERO);
        assert_eq!(memory.recall(&0, day), None);
        assert_eq!(memory.recall_at_all(&0), Some(true));
        memory.doubt_all();
        assert_eq!((memory.recall(&MOST, day), memory.recall_at_all(&MOST)), (None, Some(false)));
    }
}
