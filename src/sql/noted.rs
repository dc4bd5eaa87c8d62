//! What rules have found out about a statement, kept with it: a cached statement is judged once.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use smallvec::SmallVec;

/// The place for [`Findings`] in a statement. It is no part of what the statement is: a copy has none, and all are equal.
#[derive(Default)]
pub struct Noted(ArcSwapOption<Findings>);

/// Which conditions, of a numbered list, hold for a statement.
#[derive(Debug, Default)]
pub struct Findings {
    /// Which list it is.
    pub list: u64,
    /// Those that hold as far as it depends on the statement, whatever its literals are.
    pub hold: Bits,
    /// Those of them that hold for this text, of the first text that was looked at.
    pub for_text: Option<(Box<str>, Bits)>,
}

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(SmallVec<[u64; 2]>);

impl Noted {
    /// What was noted last.
    pub fn get(&self) -> Guard<Option<Arc<Findings>>> {
        self.0.load()
    }

    /// Notes this instead.
    pub fn put(&self, findings: Arc<Findings>) {
        self.0.store(Some(findings));
    }
}

impl std::fmt::Debug for Noted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Noted")
    }
}

impl Clone for Noted {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Noted {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Noted {}

impl Bits {
    /// One more number.
    pub fn insert(&mut self, number: usize) {
        let word = number / WORD;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= 1 << (number % WORD);
        }
    }

    /// The numbers that are in both, in order.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let words = self.0.iter().zip(&other.0).map(|(ours, theirs)| ours & theirs).enumerate();
        words.flat_map(|(word, bits)| Ones(bits).map(move |bit| word * WORD + bit))
    }

    /// Some number is in both.
    #[inline]
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(ours, theirs)| ours & theirs != 0)
    }

    /// No number is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    /// Whether the number is in it.
    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / WORD).is_some_and(|bits| bits & (1 << (number % WORD)) != 0)
    }
}

impl FromIterator<usize> for Bits {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut bits = Self::default();
        numbers.into_iter().for_each(|number| bits.insert(number));
        bits
    }
}

/// The places of the ones in a word, lowest first.
struct Ones(u64);

impl Iterator for Ones {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let lowest = (self.0 != 0).then(|| self.0.trailing_zeros() as usize)?;
        self.0 &= self.0 - 1;
        Some(lowest)
    }
}

/// Bits of a word.
const WORD: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_comes_in_order() {
        let ours: Bits = [3, 64, 200, 1].into_iter().collect();
        let theirs: Bits = [200, 3, 65, 64].into_iter().collect();
        assert_eq!(ours.common(&theirs).collect::<Vec<_>>(), [3, 64, 200]);
        assert!(ours.contains(200) && !ours.contains(201) && !ours.contains(1000));
        assert!(
            ours.meets(&theirs) && !ours.meets(&[2, 65, 300].into_iter().collect()) && !ours.meets(&Bits::default())
        );
        assert!(Bits::default().is_empty() && !ours.is_empty());
    }
}
