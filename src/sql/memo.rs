//! What was last found out about a statement by somebody who knows more than its text, kept beside it without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// A few notes, each under a key: the newest push out the oldest. Whoever shares the statement shares them.
#[derive(Debug, Default)]
pub struct Memo([AtomicU64; NOTES]);

/// Sessions that share a statement mostly share what it means; a few search paths take turns.
const NOTES: usize = 4;

/// What a note is kept under: 48 bits, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoKey(u64);

impl MemoKey {
    /// The key of these two numbers; `first` is not 0.
    pub fn new(first: u32, second: u16) -> Self {
        Self(u64::from(first) << 16 | u64::from(second))
    }
}

impl Memo {
    /// What was noted under this key.
    pub fn get(&self, key: MemoKey) -> Option<u16> {
        let note = self.0.iter().map(|note| note.load(Ordering::Relaxed)).find(|note| note >> 16 == key.0)?;
        u16::try_from(note & 0xFFFF).ok()
    }

    /// Notes it. A note is one word, so a reader sees all of it or nothing.
    pub fn set(&self, key: MemoKey, value: u16) {
        let place = usize::try_from(key.0 & 0xFF).unwrap_or(0) % NOTES;
        let mut carried = key.0 << 16 | u64::from(value);
        for note in self.0.iter().cycle().skip(place).take(NOTES) {
            carried = note.swap(carried, Ordering::Relaxed);
            if carried == 0 || carried >> 16 == key.0 {
                return;
            }
        }
    }
}

/// A copy begins without notes.
impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Notes are no part of what a statement is.
impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_notes_are_kept() {
        let memo = Memo::default();
        let key = |number| MemoKey::new(7, number);
        for number in 0..20 {
            assert_eq!(memo.get(key(number)), None);
            memo.set(key(number), number * 2);
            assert_eq!(memo.get(key(number)), Some(number * 2));
        }
        let kept = (0..20).filter(|&number| memo.get(key(number)).is_some()).count();
        assert!((1..=NOTES).contains(&kept), "{kept}");
    }

    #[test]
    fn a_key_has_one_note() {
        let memo = Memo::default();
        memo.set(MemoKey::new(1, 1), 5);
        memo.set(MemoKey::new(1, 1), 6);
        assert_eq!(memo.get(MemoKey::new(1, 1)), Some(6));
    }
}
