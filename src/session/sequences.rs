//! Sequences: `currval` and `lastval` answer on the server connection where the session has drawn, as long as nobody else has
//! done so there since, and nowhere else.

use bytes::BytesMut;

use super::owed::Owed;
use super::{Known, Session, SessionId};
use crate::sql::Draws;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend;

/// Makes a server connection forget what currval and lastval would answer.
const DISCARD: &str = "DISCARD SEQUENCES";

/// The same in the string of a Query that asks for one of them.
pub(super) const DISCARD_AHEAD: &str = "DISCARD SEQUENCES;";

/// A session, and how often it has forgotten what it has drawn.
type Drawer = (SessionId, u32);

/// Whose the current values on a server connection are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawn {
    /// The last session that has drawn here, or may have.
    by: Option<Drawer>,
    /// Whatever there is is its own.
    is_alone: bool,
}

impl Drawn {
    /// Somebody has drawn here, and nobody knows who.
    pub(super) fn unknown() -> Self {
        Self { by: Some((SessionId(u64::MAX), 0)), is_alone: false }
    }
}

impl Session {
    /// What is sent draws from a sequence, or may.
    #[cold]
    pub(super) fn draws(&mut self, draws: Draws, known: &mut Known) {
        if draws == Draws::No {
            return;
        }
        if !self.has_its_values_on(known) {
            known.drawn = Drawn { by: Some(self.drawer()), is_alone: known.drawn.by.is_none() };
        }
        self.drew_on = known.process_id;
    }

    fn drawer(&self) -> Drawer {
        (self.id, self.forgotten_draws)
    }

    /// It has discarded them itself.
    pub(super) fn forgets_drawn(&mut self, known: &mut Known) {
        self.forgotten_draws += 1;
        known.drawn = Drawn::default();
    }

    /// The current values here are what a direct connection would answer, of the sequences that it has drawn from here.
    pub fn has_its_values_on(&self, known: &Known) -> bool {
        known.drawn.by == Some(self.drawer()) && known.drawn.is_alone && self.drew_on == known.process_id
    }

    /// The current values of sequences on this server connection are another session's, or may be: it must forget them
    /// before it is asked for one, and before what is drawn next comes among them.
    pub fn meets_foreign_sequences(&self, known: &Known) -> bool {
        self.gathered.needs_own_sequences() && known.drawn.by.is_some() && !self.has_its_values_on(known)
    }

    /// Makes the server connection forget them, where it must. A transaction that has failed answers nothing anyway, and a
    /// batch that has failed is skipped to its end.
    #[cold]
    pub fn forget_foreign_sequences(&mut self, known: &mut Known, out: &mut BytesMut) {
        let is_vain = self.transaction.status() == TransactionStatus::Failed || self.flow.skipping;
        if is_vain || !self.meets_foreign_sequences(known) {
            return;
        }
        let is_in_batch = self.discards_in_batch();
        if !is_in_batch && !self.gathered.queries.is_empty() {
            // What asks for a value must not be answered where they have not been forgotten, as where a cancel comes between.
            self.gathered.discards_ahead =
                self.gathered.asks_sequence && self.gathered.missing == 0 && !self.must_begin_batch();
            match self.gathered.discards_ahead {
                true => known.drawn = Drawn::default(),
                false => self.discard_sequences(known, out),
            }
            return;
        }
        self.discard_sequences_by_batch(known, out);
        if !is_in_batch {
            self.end_batch(out);
        }
    }

    /// What is gathered is a batch, or part of one: what is discarded before it is so within it, without an answer of its own.
    pub fn discards_in_batch(&self) -> bool {
        self.batch_is_open() || self.gathered.queries.is_empty() && !self.must_begin_batch()
    }

    /// What is gathered may commit in its middle, or begins a transaction, and none is open: behind anything that is executed in
    /// its batch, PostgreSQL refuses a CREATE INDEX CONCURRENTLY, from 18 on the COMMIT of a procedure, and the isolation level
    /// of a BEGIN.
    fn must_begin_batch(&self) -> bool {
        let stands_first = self.gathered.commits || self.gathered.begins;
        stands_first && self.transaction.status() == TransactionStatus::Idle
    }

    /// Only between batches, before a Query.
    fn discard_sequences(&mut self, known: &mut Known, out: &mut BytesMut) {
        frontend::put_query(out, DISCARD);
        known.drawn = Drawn::default();
        known.unnamed = None;
        self.owed.push(Owed::DiscardSequences { is_asked: self.gathered.asks_sequence });
    }

    /// The same within the client's batch, where no Query may stand, or in one of ours before it, which leaves the unnamed
    /// statement as it is.
    fn discard_sequences_by_batch(&mut self, known: &mut Known, out: &mut BytesMut) {
        self.put_executed(DISCARD, Owed::OurDiscard, out);
        known.drawn = Drawn::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Drawn;
    use crate::session::reply::Reply;
    use crate::session::story::Story;

    #[test]
    fn what_asks_for_a_value_forgets_others_in_its_own_string() {
        let cancelled = b"SERROR\0C57014\0M?\0\0";
        for (text, is_woven) in [
            ("select currval('s')", true),
            ("select 'caf\u{e9}', currval('s'), x", true),
            ("begin; select currval('s')", false),
            ("select 1", false),
        ] {
            let mut story = Story::begin();
            story.known.drawn = Drawn::unknown();
            let sent = story.query_with_own_sequences(text);
            let together = format!("DISCARD SEQUENCES;{text}\0");
            assert_eq!(sent.ends_with(together.as_bytes()), is_woven, "{text}");
            if is_woven {
                // What the server says of a place is of the client's own text.
                let placed = |place: usize| format!("SERROR\0C42601\0P{place}\0M?\0\0");
                let Reply::Replace(told) = story.hear(b'E', placed(26).as_bytes()) else { panic!("{text}") };
                assert!(told.ends_with(placed(8).as_bytes()), "{told:?}");
                story.hear_all("Z");
                assert!(story.session.is_idle());
                // A cancel that meets the first has met the Query.
                assert!(story.query_with_own_sequences(text).ends_with(together.as_bytes()));
                assert_eq!(story.hear(b'E', cancelled), Reply::Forward);
                assert_eq!(story.hear(b'Z', b"I"), Reply::Forward);
                assert!(story.query_with_own_sequences(text).ends_with(together.as_bytes()));
                assert_eq!(story.hear(b'C', b"DISCARD SEQUENCES\0"), Reply::Hide);
                assert_eq!(story.hear(b'C', b"SELECT 1\0"), Reply::Forward);
                story.hear_all("Z");
                assert!(!story.query_with_own_sequences(text).ends_with(together.as_bytes()));
                assert!(story.session.has_its_values_on(&story.known), "nobody has drawn since");
            }
        }
    }
}
