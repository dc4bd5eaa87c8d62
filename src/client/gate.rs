//! Whether what a client has sent may go to the node that it holds.

use std::time::Instant;

use super::conversation::Client;
use super::farewell::Farewell;
use super::relay::{Relayed, Turn};
use super::worker::Buffers;
use crate::config::PoolMode;
use crate::metrics::Target;
use crate::routing::{Consistency, Intent, Reason};
use crate::session::End;
use crate::session::translate::messages;
use crate::topology::Role;
use crate::wire::backend::TransactionStatus;
use crate::wire::{SqlState, frontend};

/// Whether what has been gathered may go on.
pub(super) enum Gate {
    /// It may.
    Open,
    /// Not now, or not here.
    Closed(Turn),
    /// The unit must be whole first.
    More,
}

impl Client {
    /// Whether what has been gathered may go to the node that is held, and is known there by the columns it was told with.
    pub(super) fn gate(&mut self, buffers: &mut Buffers) -> Result<Gate, Farewell> {
        let gate = self.gate_by_intent(buffers)?;
        let (Gate::Open, Some(held)) = (&gate, &mut self.held) else { return Ok(gate) };
        // Inside a transaction it is refused anyway, and behind an error it is not run.
        let is_run = self.session.status() == TransactionStatus::Idle && !self.session.is_skipping();
        // What is under way goes on; what would begin waits, where another may have been promoted while we stood still, or a replica
        // have fallen behind.
        if is_run
            && !self.session.batch_is_open()
            && !self.session.copies_in()
            && (self.session.intent().is_some() || self.session.gathered.executes > 0)
        {
            let now = Instant::now();
            if held.lease.pool().gate().is_unbelieved(now) {
                // Behind what is not answered it waits for that; and a lease that may go back does so first.
                let is_between = self.session.is_idle() && held.passing.to_client == 0 && buffers.from_node.is_empty();
                let waits_here = is_between && !self.session.may_release();
                return Ok(Gate::Closed(if waits_here { Turn::Stop(Relayed::Unbelieved) } else { Turn::Still }));
            }
            held.counting.let_through = (self.session.gathered.executes > 0).then_some(now);
        }
        if !self.session.gathered.empties.is_empty() && is_run {
            return Ok(Gate::Closed(Turn::Stop(Relayed::Empties)));
        }
        // It was sent when the answer was on its way already. That the client has first: the session may end of it.
        if held.timing.is_timed && !self.session.batch_is_open() && held.lease.connection().is_being_cancelled() {
            let is_told = buffers.to_client.is_empty() && held.passing.to_client == 0;
            return Ok(Gate::Closed(if is_told { Turn::Stop(Relayed::Cancelled) } else { Turn::Still }));
        }
        let known = &mut held.lease.connection().known;
        if self.session.must_verify(known) {
            let unit = buffers.input.filled().get(..self.session.gathered.size).unwrap_or_default();
            // A unit that ends ahead of them is looked at once more.
            if !self.session.cut_ahead_of_unverified(known, unit) {
                self.session.verify(known, self.server.prepared_statements, &mut buffers.to_node);
            }
            return Ok(Gate::Closed(Turn::Moved));
        }
        Ok(if self.session.is_verifying() { Gate::Closed(Turn::Still) } else { gate })
    }

    /// Whether what has been gathered may go to the node that is held.
    fn gate_by_intent(&mut self, buffers: &mut Buffers) -> Result<Gate, Farewell> {
        let Some(held) = &self.held else { return Ok(Gate::More) };
        // A notice comes with it, which may not stand in the middle of another message.
        if held.passing.to_client > 0 && self.session.wishes().notices {
            return Ok(Gate::Closed(Turn::Still));
        }
        // The time of what runs would run for this, too, and a cancel may be on its way: once it is answered, the lease goes
        // back, and this goes elsewhere.
        let is_open = self.session.batch_is_open();
        if held.timing.is_timed && !is_open && (!self.session.all_answered() || self.session.may_release()) {
            return Ok(Gate::Closed(Turn::Still));
        }
        // Whatever it is, only its Sync goes there, which ends the batch.
        if self.session.is_skipping() {
            return Ok(Gate::Open);
        }
        let is_refused = matches!(self.session.intent(), Some(Intent::Refuse { .. }));
        // It may have been refused for a transaction that is over then, or for want of one that is begun.
        let may_be_judged_anew = is_refused && self.may_be_judged_anew();
        if may_be_judged_anew && !is_open && (self.session.awaits_begin() || self.session.awaits_end()) {
            self.session.gathered.clear();
            return Ok(Gate::Closed(Turn::Still));
        }
        if is_refused
            && (self.session.all_answered() || self.session.owes_only_open_batch())
            && held.passing.to_client == 0
        {
            return self.refuse_here(buffers);
        }
        if self.session.gathered.is_apart && !self.session.batch_is_open() {
            if !self.session.keeps_lease() {
                // It may need another server connection, or one on which something is put before: it waits until this one has
                // gone back.
                return Ok(Gate::Closed(Turn::Still));
            }
            if let Some(gate) = self.waits_to_be_shown(buffers) {
                return Ok(gate);
            }
        }
        if held.role == Role::Primary {
            // What a rule or a hint says of a read by itself counts where it is placed: it waits for its turn.
            let has_terms = self.session.intent().is_some_and(Intent::has_terms);
            if has_terms && !is_open && !self.session.keeps_lease() {
                if self.session.all_answered() && self.database.catalog.look().picture().is_none() {
                    self.session.gathered.clear(); // to be looked at again: what was answered has changed what it may do
                }
                return Ok(Gate::Closed(Turn::Still));
            }
            if self.session.gathered.needs_own_sequences() && self.waits_to_discard_sequences() {
                return Ok(Gate::Closed(Turn::Still));
            }
            return Ok(if is_refused { Gate::Closed(Turn::Still) } else { Gate::Open });
        }
        if self.session.gathered.end.is_none() {
            return Ok(Gate::More);
        }
        let was_in_transaction = self.session.status() != TransactionStatus::Idle;
        let in_transaction = was_in_transaction && !self.session.leaves_transaction();
        if self.server.optimistic && !self.session.all_answered() && self.session.awaits_begin() {
            self.session.gathered.clear(); // to be looked at again when it is answered
            return Ok(Gate::Closed(Turn::Still));
        }
        if is_open
            && self.session.all_answered()
            && self.session.has_ended_in_batch()
            && self.session.intent().is_some()
        {
            self.end_batch_here(buffers);
            self.session.gathered.clear();
            return Ok(Gate::Closed(Turn::Moved));
        }
        // Each read of its own must have seen everything up to its own beginning; in a batch, up to where that has begun to do
        // more than to prepare.
        let begins = || !is_open || self.session.has_only_prepared() && self.takes_snapshot(buffers);
        let is_strong =
            self.own_consistency() == Consistency::Strong && !in_transaction && (held.asks_less || begins());
        // Nor may one that must be fresh be read behind one that need not, not even in its batch.
        let is_stale = held.may_lack && self.own_consistency() != Consistency::Eventual && !was_in_transaction;
        let fits = match self.session.intent() {
            None => true,
            // The node says that the transaction is aborted, whatever it is.
            Some(_) if self.session.only_fails() => true,
            Some(_) if self.session.sets_modes_too_late() => true,
            Some(_) if is_strong || self.session.must_leave_replica() => false,
            Some(Intent::Read { terms: None, .. }) => !is_stale,
            // A COMMIT may be on its way: what comes behind it is not in the transaction.
            Some(_) if in_transaction && (self.session.can_begin_anew() || self.session.ends_before_all_else()) => {
                false
            }
            Some(_) => in_transaction && self.session.all_answered() && !self.session.gathered.is_wrong_on_replica,
        };
        if fits {
            return Ok(Gate::Open);
        }
        if !self.session.all_answered() {
            return Ok(Gate::Closed(Turn::Still));
        }
        if self.session.batch_is_open() {
            // The batch goes on at the primary: here it ends.
            self.end_batch_here(buffers);
            return Ok(Gate::Closed(Turn::Moved));
        }
        Ok(Gate::Closed(Turn::Stop(Relayed::Elsewhere)))
    }

    /// What has been gathered does more than to prepare: what a read sees is settled by its Bind already.
    #[cold]
    fn takes_snapshot(&self, buffers: &Buffers) -> bool {
        let gathered = &self.session.gathered;
        let unit = buffers.input.filled().get(..gathered.size).unwrap_or_default();
        gathered.executes > 0 || messages(unit).any(|message| message.tag == frontend::BIND)
    }

    /// It asks for Trunkline's own settings on a lease that is kept: between units they are put there first. Within a transaction
    /// it is answered by what stands there.
    #[cold]
    fn waits_to_be_shown(&self, buffers: &Buffers) -> Option<Gate> {
        let held = self.held.as_ref()?;
        if !self.session.gathered.asks_wishes || self.session.status() != TransactionStatus::Idle {
            return None;
        }
        if self.session.gathered.end.is_none() {
            return Some(Gate::More);
        }
        let is_between = self.session.is_idle() && held.passing.to_client == 0 && buffers.from_node.is_empty();
        Some(Gate::Closed(if is_between { Turn::Stop(Relayed::Wishes) } else { Turn::Still }))
    }

    /// The batch, as far as it was sent, is answered and ends here. What the client has the answer of is not run again.
    #[cold]
    pub(super) fn end_batch_here(&mut self, buffers: &mut Buffers) {
        self.session.end_batch(&mut buffers.to_node);
        buffers.keep_nothing();
        if let Some(held) = &mut self.held {
            held.at_hand = false;
            held.is_measured = false; // it has waited for its client
        }
    }

    /// What the unit asks for is another's on the server connection, and nothing can be discarded there before all is answered.
    fn waits_to_discard_sequences(&mut self) -> bool {
        let Some(held) = &mut self.held else { return false };
        self.session.meets_foreign_sequences(&held.lease.connection().known)
            && !self.session.discards_in_batch()
            && !self.session.all_answered()
    }

    /// What is refused may depend on the transaction that it stands in. Where the pool's mode allows none, it does not.
    fn may_be_judged_anew(&self) -> bool {
        self.mode != PoolMode::Statement
    }

    /// A statement is refused on a lease that is held: its batch and its transaction cannot go on.
    fn refuse_here(&mut self, buffers: &mut Buffers) -> Result<Gate, Farewell> {
        let Some(Intent::Refuse { message, sqlstate, .. }) = self.session.intent().cloned() else {
            return Ok(Gate::More);
        };
        if self.is_replaying() {
            return Ok(Gate::Closed(Turn::Stop(Relayed::ReplayDiffers))); // its answer the client has
        }
        let Some(end) = self.session.gathered.end else { return Ok(Gate::More) };
        if self.session.gathered.is_refused_within() && self.session.may_release() {
            return Ok(Gate::Closed(Turn::Still)); // its transaction fails without a server connection: this one goes back first
        }
        let before = buffers.to_node.len();
        if !self.session.may_be_refused(&mut buffers.to_node) {
            let is_asked = buffers.to_node.len() > before;
            return Ok(Gate::Closed(if is_asked { Turn::Moved } else { Turn::Still }));
        }
        if self.session.gathered.is_flushed && self.may_be_judged_anew() {
            self.session.gathered.clear(); // to be looked at again: it may not be refused behind what has ended
            return Ok(Gate::Closed(Turn::Moved));
        }
        let code = SqlState::from_bytes(sqlstate.as_bytes()).unwrap_or(SqlState::INSUFFICIENT_PRIVILEGE);
        self.take_unit_off(buffers);
        self.begin_due();
        self.worker.metrics.statement_routed(Target::None, Reason::Refused.index());
        if self.session.is_idle() {
            self.worker.metrics.error_sent(code.as_str());
            self.session.refuse_unit(code, &message, end, &mut buffers.to_client);
            return Ok(Gate::Closed(Turn::Moved));
        }
        let is_inside = self.session.status() != TransactionStatus::Idle;
        // What the session has on the server connection would be lost with it, and nobody told.
        let is_kept = self.session.pin().is_some() || self.session.is_kept_by_mode();
        let has_left = if is_inside { self.session.has_touched_for_good() } else { self.session.has_touched() };
        if is_kept || has_left {
            self.refuse_at_node(code, &message, end, buffers);
            return Ok(Gate::Closed(Turn::Moved));
        }
        if !is_inside {
            // What of the batch has been sent must not be committed by its Sync: closing the connection undoes it.
            self.session.fail_batch(code, &message, end, &mut buffers.to_client);
        } else {
            self.session.gathered.clear();
            self.session.abort_transaction(code, &message, &mut buffers.to_client);
            self.session.end_aborted_unit(Some(end), &mut buffers.to_client);
        }
        if let Some(held) = self.held.take() {
            self.was_served_by(&held, Instant::now());
        }
        self.catalogs_changed(self.session.catalog_change());
        self.worker.metrics.error_sent(code.as_str());
        self.cancellable.runs_nothing();
        buffers.forget_node();
        if let Some(log) = &mut self.log {
            log.clear();
        }
        // Without a lease nothing is relayed.
        Ok(Gate::Closed(Turn::Stop(Relayed::Failed)))
    }

    /// Its batch and its transaction fail on the server connection, which stays.
    #[cold]
    fn refuse_at_node(&mut self, code: SqlState, message: &str, end: End, buffers: &mut Buffers) {
        self.forget_replay();
        self.time_next();
        buffers.keep_nothing();
        if let Some(held) = &mut self.held {
            (held.at_hand, held.is_read) = (false, false);
        }
        self.worker.metrics.error_sent(code.as_str());
        self.session.refuse_at_node(code, message, end, &mut buffers.to_node);
    }
}
