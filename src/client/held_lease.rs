//! A lease while its client has it, and what is known of the unit that runs on it.

use std::time::{Duration, Instant};

use bytes::BytesMut;

#[cfg(doc)]
use super::acquire::Acquired;
use super::alarm::Alarm;
use super::emptied::Emptied;
use super::shapes::Key;
use crate::backend::Lease;
#[cfg(doc)]
use crate::routing::Intent;
use crate::routing::Reason;
use crate::topology::Role;
use crate::wire::{SqlState, frontend};

/// A lease, and what is known of the unit that runs on it.
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    pub(super) role: Role,
    /// See [`Acquired::may_lack`].
    pub(super) may_lack: bool,
    /// What it was taken for need not have seen all that the session's reads must have.
    pub(super) asks_less: bool,
    /// See [`Intent::keeps_to_its_nodes`], of what it was taken for.
    pub(super) keeps_to_its_nodes: bool,
    pub(super) begun: Instant,
    /// Why what was sent last runs there.
    pub(super) reason: Reason,
    /// What has been written to the node, and may have been done there.
    pub(super) written: Written,
    /// A BEGIN has been written before anything else.
    pub(super) has_begun: bool,
    /// All that it has served is a string that takes back what the session has left.
    pub(super) only_cleans: bool,
    /// The messages of all that is on its way are kept, and nothing of it is answered: it can be run again.
    pub(super) at_hand: bool,
    /// It is a read by the proof, wherever it is to run.
    pub(super) is_read: bool,
    /// It ends by itself: what it takes tells how quick the node is.
    pub(super) is_measured: bool,
    /// What is looked at next stands in the buffer already.
    pub(super) has_more: bool,
    /// A message may be on its way in part, to the node or from it.
    pub(super) is_in_midst: bool,
    pub(super) passing: Passing,
    pub(super) told: Told,
    pub(super) timing: Timing,
    pub(super) counting: Counting,
    pub(super) ending: Ending,
    /// What has been emptied for what is under way.
    pub(super) emptied: Option<Box<Emptied>>,
}

/// Messages that go on as they come: they are too large to be held.
#[derive(Default)]
pub(super) struct Passing {
    /// Bytes of one from the client.
    pub(super) to_node: usize,
    /// Bytes of one from the node.
    pub(super) to_client: usize,
    /// They tell nothing of what has been asked.
    pub(super) is_aside: bool,
}

/// What the client has been given.
#[derive(Default)]
pub(super) struct Told {
    /// Something of the replies to what is under way.
    pub(super) forwarded: bool,
    /// Something of any of the units that the lease has served.
    pub(super) has_shown: bool,
    /// It may have a part of a message only: nothing else can stand behind it.
    pub(super) is_half: bool,
}

/// How long what is under way may take.
#[derive(Default)]
pub(super) struct Timing {
    /// It may be cancelled when a time is over: nothing else may run on its connection until it is answered.
    pub(super) is_timed: bool,
    /// The time that its rule gives it, until the unit is whole that is to be timed.
    pub(super) timeout: Option<Duration>,
    /// Cancels it when that time is over.
    pub(super) alarm: Option<Alarm>,
}

/// What is to be counted once it is done.
#[derive(Default)]
pub(super) struct Counting {
    /// What its first unit counts as; None: another unit has gone the same way since.
    pub(super) shape: Option<Key>,
    /// Since when a transaction is under way that is not counted yet.
    pub(super) transaction: Option<Instant>,
    /// Since when statements are under way whose time is not counted yet.
    pub(super) asked: Option<Instant>,
    /// When what is sent next was found to be free to go.
    pub(super) let_through: Option<Instant>,
    /// Units sent that run something.
    pub(super) units: u32,
}

/// What keeps the node from answering more.
#[derive(Default)]
pub(super) struct Ending {
    /// A replica has refused what is under way: the rest of its answer is dropped and the primary asked.
    pub(super) refused: Option<SqlState>,
    /// In a transaction that was open then.
    pub(super) is_refused_within: bool,
    /// The node has said goodbye with this; what it said before goes to the client first.
    pub(super) farewell: Option<SqlState>,
    /// Behind its last whole answer stands half a one, and its goodbye: they are looked at once that answer is passed on.
    pub(super) has_last_words: bool,
    /// The node has ended the session, and the client is told so.
    pub(super) ends_session: bool,
}

/// What of the session's has been written to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Written {
    /// Nothing, or a BEGIN, which does nothing; or only what was answered before something that may write by itself.
    Nothing,
    /// Only what was answered before that began which is under way now.
    Before,
    /// Something of what is under way.
    Now,
}

impl HeldLease {
    pub(super) fn is_on_replica(&self) -> bool {
        self.role != Role::Primary
    }

    /// What is under way is a read of which nobody has seen anything: another node may answer it.
    pub(super) fn is_unseen_read(&self) -> bool {
        self.is_read && self.at_hand && !self.told.forwarded
    }

    /// How long what has been answered took, if that is not counted yet.
    pub(super) fn took(&self, now: Instant) -> Duration {
        self.counting.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked))
    }

    /// A batch is cut here. What comes behind may need the primary, for which a replica must have answered this part; of
    /// itself it keeps its last replies up to the Sync.
    pub(super) fn flush_part(&self, to_node: &mut BytesMut) {
        if self.is_on_replica() {
            frontend::put_bare(to_node, frontend::FLUSH);
        }
    }
}
