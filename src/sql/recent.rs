//! The strings that came lately, to know their like at a glance: an application sends few different ones, over and over.

use std::sync::Arc;

use smallvec::SmallVec;

use super::shape::{Mark, marks, reads_as};
use super::statement::Statement;

/// A few strings or shapes, each at the one place that its beginning gives it. What it answers is what the table behind it
/// would: it only asks sooner.
#[derive(Debug)]
pub(super) struct Recent<S> {
    places: Vec<Place<S>>,
}

#[derive(Debug)]
struct Place<S> {
    held: Option<Held<S>>,
    /// Strings in a row that belong here and are none of it.
    misses: u8,
}

#[derive(Debug)]
struct Held<S> {
    /// The text, or the shape whose literals stand where the marks say.
    bytes: Arc<[u8]>,
    marks: SmallVec<[Mark; 4]>,
    sort: S,
    statement: Arc<Statement>,
}

const PLACES: usize = 64;

/// Longer strings take their time anyway, and would hold memory that the table has given up; bytes.
const LONGEST: usize = 4096;

/// Two strings that share a place do not push each other out all the time.
const PATIENCE: u8 = 8;

impl<S: Copy + PartialEq> Recent<S> {
    pub(super) fn new() -> Self {
        Self { places: Vec::new() }
    }

    /// What this text is, if its like is here.
    #[inline]
    pub(super) fn find(&mut self, text: &[u8], sort: S) -> Option<(&Arc<Statement>, bool)> {
        let place = self.places.get_mut(place_of(text))?;
        let held = place.held.as_ref()?;
        if held.sort != sort || !reads_as(text, &held.bytes, &held.marks) {
            place.misses = place.misses.saturating_add(1);
            return None;
        }
        place.misses = 0;
        Some((&held.statement, held.marks.is_empty()))
    }

    /// This text was found to be that; `bytes` is the text itself, or its shape.
    pub(super) fn keep(
        &mut self,
        text: &[u8],
        (bytes, is_shape): (&Arc<[u8]>, bool),
        sort: S,
        statement: &Arc<Statement>,
    ) {
        if bytes.len() > LONGEST {
            return;
        }
        if self.places.is_empty() {
            self.places.resize_with(PLACES, || Place { held: None, misses: 0 });
        }
        let Some(place) = self.places.get_mut(place_of(text)) else { return };
        if place.held.is_some() && place.misses < PATIENCE {
            return;
        }
        let marks = if is_shape { marks(bytes) } else { SmallVec::new() };
        let (bytes, statement) = (Arc::clone(bytes), Arc::clone(statement));
        *place = Place { held: Some(Held { bytes, marks, sort, statement }), misses: 0 };
    }
}

/// By what strings of one shape mostly share: literals rarely stand so far in front.
#[inline]
fn place_of(text: &[u8]) -> usize {
    let word =
        |at: usize| text.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word));
    let mixed = word(0) ^ word(16).rotate_left(21) ^ word(32).rotate_left(42);
    /// 2^64 divided by the golden ratio.
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    let place = mixed.wrapping_mul(SPREAD) >> (u64::BITS - PLACES.ilog2());
    usize::try_from(place).unwrap_or_default()
}
