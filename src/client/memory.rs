//! Answers that are remembered for a moment, and never more than so many.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;

/// Answers by what was asked, each with its moment.
#[derive(Debug)]
pub(super) struct Memory<K: Eq + Hash, V> {
    /// With its moment; None: it is doubted.
    known: DashMap<K, (V, Option<Instant>)>,
    /// Whether an answer is forgotten only when all are.
    is_dear: fn(&V) -> bool,
    /// How often all of them were doubted.
    doubts: AtomicU64,
}

/// The moment of a question, among those at which all answers were doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked(u64);

/// Answers remembered, a hundred bytes each.
const MOST: usize = 10_000;

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    /// Nothing is known yet.
    pub(super) fn new(is_dear: fn(&V) -> bool) -> Self {
        Self { known: DashMap::new(), is_dear, doubts: AtomicU64::new(0) }
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

    /// A question is asked now.
    pub(super) fn ask(&self) -> Asked {
        Asked(self.doubts.load(Ordering::SeqCst))
    }

    /// This was answered just now. If all answers were doubted since it was asked, so is this one.
    pub(super) fn keep(&self, key: K, answer: V, asked: Asked) {
        if self.known.len() >= MOST {
            self.known.retain(|_, (answer, _)| (self.is_dear)(answer));
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        let mut entry = self.known.entry(key).insert((answer, Some(Instant::now())));
        // Under the entry's lock: whoever doubts all counts first, and then comes by here.
        if self.ask() != asked {
            entry.1 = None;
        }
    }

    /// All may have been wrong: each is asked again, and counts only where nobody answers. So does what is being asked.
    pub(super) fn doubt_all(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
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
        memory.keep(0, true, memory.ask());
        (1..MOST).for_each(|key| memory.keep(key, false, memory.ask()));
        memory.keep(MOST, false, memory.ask());
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

    #[test]
    fn an_answer_is_doubted_that_was_asked_for_before_all_were() {
        let (memory, day) = (Memory::new(|_: &u8| true), Duration::from_secs(86_400));
        let before = memory.ask();
        memory.doubt_all();
        let after = memory.ask();
        memory.keep("ada", 1, before);
        assert_eq!((memory.recall("ada", day), memory.recall_at_all("ada")), (None, Some(1)));
        memory.keep("ada", 2, after);
        assert_eq!(memory.recall("ada", day), Some(2));
    }
}
