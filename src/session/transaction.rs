//! The transaction block that the session is in: what is known of it, and what can happen to it. What that means for the session's
//! statements, its settings and what is owed to it, is left to whoever has it happen.

use super::aborted::Aborted;
use crate::routing::Defaults;
use crate::sql::{Isolation, TransactionControl, TransactionModes};
use crate::wire::backend::TransactionStatus;

/// The transaction that the session is in, or none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transaction {
    status: TransactionStatus,
    may_have_written: bool,
    modes: Option<Modes>,
    is_bound: bool,
    has_acted: bool,
    is_homeless: bool,
    aborted: Option<Aborted>,
    ended: Ended,
}

/// Whether a transaction has ended before its ReadyForQuery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ended {
    /// Not that we know.
    #[default]
    No,
    /// What it has done is done, or undone.
    Yes,
    /// The same, and more has been done behind it, in the transaction of what its batch still does.
    Followed,
    /// The same, and AND CHAIN has begun another one.
    Chained,
}

/// What the open transaction promises; known since its BEGIN was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    access: Access,
    /// Its isolation level.
    pub(super) isolation: Isolation,
    /// Whether it has said DEFERRABLE or NOT DEFERRABLE.
    pub(super) deferrable: Option<bool>,
}

/// Whether a transaction writes, as it has said itself or as the session took it to be. One byte, for parked sessions have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// It has said READ ONLY.
    Reads,
    /// It has said READ WRITE.
    Writes,
    /// By default it is READ ONLY.
    ReadsByDefault,
    /// By default it is READ WRITE.
    WritesByDefault,
}

/// What is known of it.
impl Transaction {
    /// As the last ReadyForQuery said, or as we have told the client since.
    #[inline]
    pub(super) fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Something ran on the primary that may have written, since the session was last idle.
    #[inline]
    pub(super) fn may_have_written(&self) -> bool {
        self.may_have_written
    }

    /// What it promises, once its BEGIN has been answered.
    #[inline]
    pub(super) fn modes(&self) -> Option<Modes> {
        self.modes
    }

    /// Something in it has been seen that another node could not show again: it stays where it is.
    #[inline]
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Something of it has been sent to a primary beside its BEGIN: what that has done is not done elsewhere.
    #[inline]
    pub(super) fn has_acted(&self) -> bool {
        self.has_acted
    }

    /// It has lost its place and will be begun anew on the next lease.
    #[inline]
    pub(super) fn is_homeless(&self) -> bool {
        self.is_homeless
    }

    /// It was lost with its node, and only ROLLBACK is accepted until the client has taken notice.
    #[inline]
    pub(super) fn aborted(&self) -> Option<Aborted> {
        self.aborted
    }

    /// Whether its COMMIT or ROLLBACK has been completed, though the ReadyForQuery that says so has not come.
    #[inline]
    pub(super) fn ended(&self) -> Ended {
        self.ended
    }

    /// The same, and no other has been begun with it.
    #[inline]
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_over()
    }
}

/// What its node does to it.
impl Transaction {
    /// A ReadyForQuery says that it stands so. Answers whether it has ended before that.
    #[inline]
    pub(super) fn stands_at(&mut self, status: TransactionStatus) -> Ended {
        self.status = status;
        std::mem::take(&mut self.ended)
    }

    /// By that, none is open. Where more is owed, what was sent behind it has been noted already, and that stays.
    #[inline]
    pub(super) fn is_closed(&mut self, more_is_owed: bool) {
        self.modes = None;
        self.is_bound &= more_is_owed;
        self.has_acted &= more_is_owed;
    }

    /// A part of a statement has been done that does this to transactions, which begin by these defaults. Whether more is run
    /// behind it by what has been sent, is asked where it counts.
    pub(super) fn has_done(
        &mut self,
        control: &TransactionControl,
        defaults: Defaults,
        runs_more: impl FnOnce() -> bool,
    ) {
        self.ended = match control {
            TransactionControl::Commit { chain: true } | TransactionControl::Rollback { chain: true } => Ended::Chained,
            TransactionControl::Commit { .. } | TransactionControl::Rollback { .. } | TransactionControl::Prepare => {
                Ended::Yes
            }
            TransactionControl::Begin(_) => Ended::No,
            TransactionControl::None if self.ended == Ended::Yes => Ended::Followed,
            _ => self.ended,
        };
        match control {
            TransactionControl::Begin(modes) if self.modes.is_none() => {
                self.modes = Some(Modes::of(defaults).with(*modes));
            }
            TransactionControl::Commit { chain: false }
            | TransactionControl::Rollback { chain: false }
            | TransactionControl::Prepare => self.modes = None,
            TransactionControl::Set(modes) => {
                self.modes = self.modes.map(|before| before.with(*modes));
                // What has been sent behind it was looked at by what was in force before.
                let has_one_snapshot = self.modes.is_some_and(|modes| modes.isolation.has_one_snapshot());
                self.is_bound |= has_one_snapshot && runs_more();
            }
            _ => {}
        }
    }

    /// Something has run on the primary, or runs there now, that may write.
    #[inline]
    pub(super) fn writes(&mut self) {
        self.may_have_written = true;
    }

    /// Whether something may have written; from now on, nothing has.
    #[inline]
    pub(super) fn take_writes(&mut self) -> bool {
        std::mem::take(&mut self.may_have_written)
    }

    /// Something in it may be seen, where this is so, that another node could not show again.
    #[inline]
    pub(super) fn binds(&mut self, is_bond: bool) {
        self.is_bound |= is_bond;
    }

    /// Something is sent to a primary, where this is so, that is more than its BEGIN.
    #[inline]
    pub(super) fn acts(&mut self, is_act: bool) {
        self.has_acted |= is_act;
    }
}

/// How it fails, or ends, without its node.
impl Transaction {
    /// It fails, and only its end is accepted: so much the client knows of that. What may have been written before still counts.
    pub(super) fn fails(&mut self, client: Aborted) {
        self.status = TransactionStatus::Failed;
        self.aborted = Some(client);
    }

    /// It is lost with its node, and with it whatever it has done.
    pub(super) fn is_lost(&mut self, client: Aborted) {
        self.fails(client);
        self.is_undone();
    }

    /// What it has written is undone.
    pub(super) fn is_undone(&mut self) {
        self.may_have_written = false;
    }

    /// Something is refused in it, which the client is told. It is on no server connection: there it was to be begun anew, or it has
    /// `begun` with what is refused.
    pub(super) fn is_refused(&mut self, begun: Option<Modes>) {
        self.is_homeless = false;
        self.modes = begun;
        self.fails(Aborted::Told);
    }

    /// The client knows of its failure now.
    pub(super) fn client_knows(&mut self) {
        self.aborted = Some(Aborted::Told);
    }

    /// It is over, or has never been.
    pub(super) fn ends(&mut self) {
        self.status = TransactionStatus::Idle;
        self.forget_modes();
    }

    /// It is over, and its server connection gone.
    pub(super) fn ends_without_node(&mut self) {
        self.aborted = None;
        self.ends();
    }

    /// What has ended is over, though its ReadyForQuery will not come any more. Answers whether it has.
    pub(super) fn leave_what_has_ended(&mut self) -> Ended {
        let ended = std::mem::take(&mut self.ended);
        if ended.is_over() {
            self.ends();
        }
        ended
    }

    /// Nothing is known any more of what has begun, but for how it stands.
    pub(super) fn forget_modes(&mut self) {
        self.modes = None;
        self.is_bound = false;
        self.has_acted = false;
        self.is_homeless = false;
    }
}

/// How it moves to another node.
impl Transaction {
    /// It has no server connection any more, and will be begun anew on the next, as open or as failed as it is.
    pub(super) fn loses_place(&mut self) {
        self.is_bound = false;
        self.is_homeless = true;
    }

    /// The same, with all that is under way in it: it is open.
    pub(super) fn begins_anew(&mut self) {
        self.status = TransactionStatus::Open;
        self.loses_place();
    }

    /// It was lost, which the client has been told, and fails anew on the next server connection.
    pub(super) fn fails_anew(&mut self) {
        self.aborted = None;
        self.has_acted = false;
        self.is_undone();
        self.loses_place();
    }

    /// It has been begun on the new lease.
    pub(super) fn has_begun(&mut self) {
        self.is_homeless = false;
    }
}

impl Ended {
    /// It has, and no other has been begun with it.
    #[inline]
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Yes | Self::Followed)
    }
}

impl Modes {
    /// Of a transaction that says nothing.
    pub(super) fn of(defaults: Defaults) -> Self {
        let access = if defaults.read_only { Access::ReadsByDefault } else { Access::WritesByDefault };
        Self { access, isolation: defaults.isolation, deferrable: None }
    }

    /// It does not write.
    pub(super) fn is_read_only(self) -> bool {
        matches!(self.access, Access::Reads | Access::ReadsByDefault)
    }

    /// Whether it writes, it has not said itself.
    pub(super) fn has_access_by_default(self) -> bool {
        matches!(self.access, Access::ReadsByDefault | Access::WritesByDefault)
    }

    /// The same transaction, once it has named these.
    pub(super) fn with(self, named: TransactionModes) -> Self {
        let access = named.read_only.map(|is_read_only| if is_read_only { Access::Reads } else { Access::Writes });
        Self {
            access: access.unwrap_or(self.access),
            isolation: named.isolation.unwrap_or(self.isolation),
            deferrable: named.deferrable.or(self.deferrable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { read_only: false, isolation: Isolation::ReadCommitted };

    /// One that is open, has been told what it promises and has written.
    fn open() -> Transaction {
        let mut transaction = Transaction::default();
        transaction.has_done(&TransactionControl::Begin(TransactionModes::default()), DEFAULTS, || false);
        transaction.stands_at(TransactionStatus::Open);
        transaction.acts(true);
        transaction.writes();
        transaction
    }

    #[test]
    fn what_is_lost_has_written_nothing_and_what_fails_may_have() {
        let (mut lost, mut failed) = (open(), open());
        lost.is_lost(Aborted::NotTold);
        failed.fails(Aborted::Told);
        assert_eq!((lost.status(), failed.status()), (TransactionStatus::Failed, TransactionStatus::Failed));
        assert_eq!((lost.aborted(), failed.aborted()), (Some(Aborted::NotTold), Some(Aborted::Told)));
        assert_eq!((lost.may_have_written(), failed.may_have_written()), (false, true));
        assert!(lost.modes().is_some() && failed.modes().is_some(), "it can be begun anew to fail there");
    }

    #[test]
    fn what_has_ended_is_left_and_what_it_has_chained_is_not() {
        for (chain, status) in [(false, TransactionStatus::Idle), (true, TransactionStatus::Open)] {
            let mut transaction = open();
            transaction.has_done(&TransactionControl::Commit { chain }, DEFAULTS, || false);
            assert_eq!(transaction.has_ended(), !chain);
            assert_eq!(transaction.leave_what_has_ended() == Ended::Chained, chain);
            assert_eq!(transaction.status(), status);
            assert_eq!(transaction.modes().is_some(), chain);
            assert!(transaction.may_have_written() && transaction.ended() == Ended::No);
        }
    }

    #[test]
    fn what_was_sent_behind_an_end_is_noted_already_when_that_is_told() {
        for more_is_owed in [true, false] {
            let mut transaction = open();
            transaction.stands_at(TransactionStatus::Idle);
            transaction.is_closed(more_is_owed);
            assert_eq!(transaction.has_acted(), more_is_owed);
            assert!(transaction.modes().is_none());
        }
    }

    #[test]
    fn one_that_has_been_lost_fails_anew_as_if_it_had_done_nothing() {
        let mut transaction = open();
        transaction.is_lost(Aborted::Told);
        transaction.fails_anew();
        assert_eq!((transaction.status(), transaction.aborted()), (TransactionStatus::Failed, None));
        assert!(transaction.is_homeless() && !transaction.has_acted() && transaction.modes().is_some());
        transaction.has_begun();
        assert!(!transaction.is_homeless());
        transaction.ends_without_node();
        assert!(transaction.status() == TransactionStatus::Idle && transaction.modes().is_none());
    }
}
