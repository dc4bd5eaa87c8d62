//! The portals that a client has bound, by name.

use std::sync::Arc;

use hashbrown::HashMap;

use super::owed::Moment;
use crate::sql::{Draws, Statement};
use crate::wire::frontend::Name;

/// A portal that the client has bound.
#[derive(Debug)]
pub(super) struct Portal {
    /// What it runs.
    pub(super) statement: Arc<Statement>,
    /// Whether that draws from a sequence, as far as its Bind has told.
    pub(super) draws: Option<Draws>,
    /// The name that it deallocates, whose statement has stayed where it was: the node has bound something else.
    pub(super) closes: Option<Arc<str>>,
    /// When its Bind was sent.
    pub(super) bound: Moment,
}

/// All portals of a session. Most bind none but the unnamed one, which is not looked for.
#[derive(Debug, Default)]
pub(super) struct Portals {
    unnamed: Option<Portal>,
    named: HashMap<Box<[u8]>, Portal>,
}

impl Portals {
    /// There is none.
    pub(super) fn is_empty(&self) -> bool {
        self.unnamed.is_none() && self.named.is_empty()
    }

    /// The one of this name.
    #[inline]
    pub(super) fn get(&self, name: Name<'_>) -> Option<&Portal> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name.kept()) }
    }

    /// This one has the name from now on.
    #[inline]
    pub(super) fn put(&mut self, name: Name<'_>, portal: Portal) {
        if name.is_empty() {
            self.unnamed = Some(portal);
        } else {
            self.named.insert(name.kept().into(), portal);
        }
    }

    /// Nothing has this name.
    #[inline]
    pub(super) fn remove(&mut self, name: Name<'_>) {
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.named.remove(name.kept());
        }
    }

    /// No others stay.
    #[inline]
    pub(super) fn retain(&mut self, stays: impl Fn(&Portal) -> bool) {
        self.unnamed = self.unnamed.take().filter(&stays);
        if !self.named.is_empty() {
            self.named.retain(|_, portal| stays(portal));
            if self.named.is_empty() {
                self.named = HashMap::new();
            }
        }
    }

    /// None stays.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use crate::session::story::Story;
    use crate::wire::frontend::Name;

    /// Were all portals looked through for each message, it would take minutes.
    #[test]
    fn many_portals_are_not_gone_through_for_each_of_their_messages() {
        const PORTALS: usize = 60_000;
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1tnZ");
        story.open_transaction();
        let begun = std::time::Instant::now();
        for number in 0..PORTALS {
            story.send(b'B', format!("p{number}\0a\0\0\0\0\0\0\0").as_bytes());
        }
        for number in 0..PORTALS {
            story.send(b'E', format!("p{number}\0\0\0\0\0").as_bytes());
        }
        for number in 0..PORTALS {
            story.send(b'C', format!("Pp{number}\0").as_bytes());
        }
        assert!(story.session.portals.is_empty());
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn of_two_portals_the_one_whose_bind_is_skipped_is_forgotten_and_the_other_stays() {
        let mut story = Story::begin();
        story.open_transaction();
        story.parse("", "select 1");
        let bind = |story: &mut Story, portal: &str| story.send(b'B', format!("{portal}\0\0\0\0\0\0\0\0").as_bytes());
        bind(&mut story, "p");
        bind(&mut story, "");
        story.send(b'H', b"");
        story.hear_all("122");
        story.bind("nowhere");
        bind(&mut story, "q");
        bind(&mut story, "");
        story.sync();
        story.hear(b'E', b"SERROR\0C26000\0M?\0\0");
        let is_there = ["p", "q", ""].map(|name| story.session.portals.get(Name(name.as_bytes())).is_some());
        assert_eq!(is_there, [true, false, false]);
        story.hear(b'Z', b"E");
        story.send(b'Q', b"rollback\0");
        story.hear(b'C', b"ROLLBACK\0");
        story.hear(b'Z', b"I");
        assert!(story.session.portals.is_empty(), "they end with their transaction");
    }
}
