//! Sequences: `currval` and `lastval` answer on the server connection where the session has drawn, as long as nobody else has
//! done so there since, and nowhere else.

use bytes::BytesMut;

use super::owed::Owed;
use super::translate::RESERVED;
use super::{Known, Session, SessionId};
use crate::sql::{Draws, Kind, Statement};
use crate::wire::frontend::{self, Bind, Parse, Target};

/// Makes a server connection forget what currval and lastval would answer.
pub const DISCARD: &str = "DISCARD SEQUENCES";

/// A session, and how often it has forgotten what it has drawn.
type Drawer = (SessionId, u32);

/// Whose the current values on a server connection are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drawn {
    /// The last session that has drawn here, or may have.
    by: Option<Drawer>,
    /// It surely has, or nobody had before it.
    surely: bool,
}

impl Drawn {
    /// Somebody has drawn here, and nobody knows who.
    pub(super) fn unknown() -> Self {
        Self { by: Some((SessionId(u64::MAX), 0)), surely: false }
    }
}

impl Session {
    /// What is sent draws from a sequence, or may.
    #[cold]
    pub(super) fn draws(&mut self, draws: Draws, known: &mut Known) {
        let inserts = |statement: &Statement| statement.parts.iter().any(|part| part.kind == Kind::Insert);
        let is_insert = self.gathered.makes_rows.as_deref().is_some_and(inserts);
        let done: &[u8] = if is_insert { b"INSERT " } else { b"SELECT " };
        self.draws_surely = (draws == Draws::Surely).then_some(done);
        if draws == Draws::No {
            return;
        }
        let by = Some(self.drawer());
        if known.drawn.by != by {
            known.drawn = Drawn { by, surely: known.drawn.by.is_none() };
        }
        self.drew_on = known.process_id;
    }

    fn drawer(&self) -> Drawer {
        (self.id, self.forgotten_draws)
    }

    /// A statement has been done, of which the node says this.
    #[cold]
    pub(super) fn has_drawn(&mut self, said: &[u8], known: &mut Known) {
        if self.draws_surely.is_some_and(|done| said.starts_with(done)) {
            self.draws_surely = None;
            known.drawn.surely |= !said.ends_with(b" 0\0");
        }
    }

    /// It has discarded them itself.
    pub(super) fn forgets_drawn(&mut self, known: &mut Known) {
        self.forgotten_draws += 1;
        known.drawn = Drawn::default();
    }

    /// The current values here are what a direct connection would answer.
    pub fn has_its_values_on(&self, known: &Known) -> bool {
        known.drawn.by == Some(self.drawer()) && known.drawn.surely && self.drew_on == known.process_id
    }

    /// The current values of sequences on this server connection are another session's, or may be: it must forget them first.
    pub fn meets_foreign_sequences(&self, known: &Known) -> bool {
        self.gathered.asks_sequence && known.drawn.by.is_some() && !self.has_its_values_on(known)
    }

    /// Makes the server connection forget them. Only between batches.
    pub fn discard_sequences(&mut self, known: &mut Known, out: &mut BytesMut) {
        frontend::put_query(out, DISCARD);
        known.drawn = Drawn::default();
        known.unnamed = None;
        self.owed.push(Owed::DiscardSequences);
    }

    /// The same within the client's batch, where no Query may stand. If the session itself may have drawn here, nothing is
    /// discarded: whether it has, its batch tells only at its end.
    pub fn discard_sequences_in_batch(&mut self, known: &mut Known, out: &mut BytesMut) {
        if known.drawn.by == Some(self.drawer()) {
            return;
        }
        self.put_ours(Parse { name: RESERVED, text: DISCARD.as_bytes(), types: &[0, 0] }, out);
        frontend::put_bind(out, Bind { portal: RESERVED, statement: RESERVED, rest: &[0; 6] }, 0);
        self.owed.push(Owed::OurBind);
        frontend::put_execute(out, RESERVED);
        self.owed.push(Owed::OurDiscard);
        frontend::put_target(out, frontend::CLOSE, Target::Portal, RESERVED);
        self.owed.push(Owed::OurClose);
        known.drawn = Drawn::default();
    }
}
