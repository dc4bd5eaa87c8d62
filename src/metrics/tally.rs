//! Numbers that one thread writes and a scrape reads; no two cores ever write the same one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A count with one writer. Two threads that add at the same moment lose counts; readers are always safe.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    /// Add `amount`; a plain load and store, because an atomic addition costs twenty times as much.
    #[inline]
    pub(super) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(amount), Relaxed);
    }

    /// Replace the count by one that is kept elsewhere.
    #[inline]
    pub(super) fn set(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One [`Tally`] per value of a label.
#[derive(Debug)]
pub(super) struct Tallies<const N: usize>([Tally; N]);

impl<const N: usize> Tallies<N> {
    /// Add one for the value at `index`; an index that is not one of them counts nowhere.
    #[inline]
    pub(super) fn count(&self, index: usize) {
        if let Some(tally) = self.0.get(index) {
            tally.add(1);
        }
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, Tally::get)
    }
}

impl<const N: usize> Default for Tallies<N> {
    fn default() -> Self {
        Self([const { Tally(AtomicU64::new(0)) }; N])
    }
}
