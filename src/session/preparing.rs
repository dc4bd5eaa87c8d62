//! How many statements were prepared and bound. The session counts as it translates; its client takes what it has come to.

use bytes::BytesMut;

use super::Session;
use crate::wire::frontend::{self, Parse};

/// What was prepared and bound, and is not counted elsewhere yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preparing {
    /// Parse messages of the client that went on their way.
    pub asked: u32,
    /// Parse messages to the node, those of ours included.
    pub sent: u32,
    /// Bind messages of the client that went on their way.
    pub bound: u32,
    /// The client's prepared statements that were made again on its server connection.
    pub remade: usize,
}

impl Preparing {
    /// Nothing was: whatever is asked for or made again is sent.
    #[inline]
    pub fn is_nothing(&self) -> bool {
        self.sent == 0 && self.bound == 0
    }
}

impl Session {
    /// What was prepared and bound since this was asked last.
    #[inline]
    pub fn take_preparing(&mut self) -> Preparing {
        std::mem::take(&mut self.preparing)
    }

    /// The node is to prepare this.
    pub(super) fn put_parse(&mut self, parse: Parse<'_>, out: &mut BytesMut) {
        self.preparing.sent += 1;
        frontend::put_parse(out, parse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Known;
    use crate::session::story::Story;

    fn counted(story: &mut Story) -> (u32, u32, u32, usize) {
        let Preparing { asked, sent, bound, remade } = story.session.take_preparing();
        (asked, sent, bound, remade)
    }

    #[test]
    fn what_is_parsed_again_for_its_client_is_counted_and_what_the_client_parses_is_told_apart() {
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        story.parse("", "select 2");
        story.sync();
        story.hear_all("1Z");
        assert_eq!(counted(&mut story), (2, 2, 0, 0));
        story.known = Known::default();
        assert_eq!((story.bind("a"), story.bind("")), ("PB".to_owned(), "PB".to_owned()));
        assert_eq!(counted(&mut story), (0, 2, 2, 2));
        assert!(story.session.take_preparing().is_nothing());
        assert_eq!((story.bind("a"), story.bind("")), ("B".to_owned(), "B".to_owned()));
        assert_eq!(counted(&mut story), (0, 0, 2, 0), "they are there now");
    }

    #[test]
    fn a_name_that_is_taken_costs_the_node_a_statement_of_ours_too() {
        let mut story = Story::begin();
        story.parse("a", "select 1");
        story.sync();
        story.hear_all("1nZ");
        story.session.take_preparing();
        story.parse("a", "select 2");
        assert_eq!(counted(&mut story), (1, 2, 0, 0));
    }
}
