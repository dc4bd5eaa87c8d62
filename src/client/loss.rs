//! A unit that cannot go on where it is: refused by a replica, or lost with its node. It is run again, or the client is
//! told what that means.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::conversation::Client;
use super::farewell::Farewell;
use super::held_lease::{HeldLease, Written};
use super::record;
use super::worker::Buffers;
use crate::backend::Lease;
use crate::catalog::Change;
use crate::metrics::{Loss as LossCount, Retry};
use crate::routing::{Catalog, Intent, Reason, safety};
use crate::session::Loss;
use crate::session::failure::Circumstances;
use crate::topology::{Doubt, NodeId, NodeState};
use crate::wire::{SqlState, backend};

const BOUND_TO_REPLICA: &str =
    "the session is bound to a replica by what it has left there, and this statement needs the primary";

/// What helps whoever's transaction is bound to a replica.
const OFF_ITS_REPLICA: &str = "Ask for it before all that binds the transaction to its replica, begin without READ ONLY, or keep the \
    BEGIN of this user or application on the primary by a rule (kind = \"begin\", to = \"primary\").";

/// A unit that node after node says goodbye to is told so in the end.
const MOST_RUNS: usize = 8;

/// A node that stops has said so to all of its sessions, and to the monitor, long before this.
const LONGEST_PARTING: Duration = Duration::from_secs(2);

/// What is lost with a unit while it is run again.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Nodes that were lost while they had it, or have not ended it and its rule has others: it is run again elsewhere.
    pub(super) on: SmallVec<[NodeId; 4]>,
    /// The node that was lost last with it, without a word: it may have died of it.
    pub(super) died_last: Option<Death>,
    /// The node that has said goodbye first to it.
    pub(super) parted: Option<Death>,
    /// How many server connections have ended, each opened behind the end of the one before, while they were made its
    /// session's; and when the last of them did.
    pub(super) unprepared: (usize, Option<Instant>),
    /// By then the unit is to be answered, if its rule gives it a time: waiting and each further run are within it.
    pub(super) due: Option<Instant>,
    /// That is of what has been gathered and not sent, and has waited on a lease that is held.
    pub(super) is_due_ahead: bool,
}

/// A node that was lost with a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    /// Which.
    pub(super) node: NodeId,
    /// When the unit noticed.
    pub(super) seen: Instant,
}

impl Client {
    /// The unit at the front of the input cannot run on the replica that is held.
    pub(super) async fn move_elsewhere(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        if self.session.status() == backend::TransactionStatus::Idle {
            self.release(buffers).await?;
            // What it has left there can be taken nowhere else.
            return match self.held {
                Some(_) => Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, BOUND_TO_REPLICA)),
                None => Ok(()),
            };
        }
        if self.session.can_begin_anew() || self.session.ends_before_all_else() {
            self.leave_transaction();
            // The unit is looked at anew, outside of a lease: there a transaction belongs to the primary.
            self.session.lose_place();
            return Ok(());
        }
        if self.session.has_touched_for_good() {
            return Err(Farewell::told(SqlState::FEATURE_NOT_SUPPORTED, BOUND_TO_REPLICA));
        }
        if self.is_replaying() {
            self.replay_differs(buffers);
            return Ok(());
        }
        self.forget_replay();
        self.leave_held();
        self.take_unit_off(buffers);
        let end = self.session.gathered.end;
        let intent = self.session.intent().filter(|intent| intent.needs_primary());
        let why = intent.map(|intent| format!("The statement needs the primary: {}.", intent.reason().words()));
        self.session.gathered.clear();
        let message = "this READ ONLY transaction runs on a replica, which cannot answer this statement rightly";
        let detail_and_hint = [why.as_deref().unwrap_or_default(), OFF_ITS_REPLICA];
        let (code, out) = (SqlState::FEATURE_NOT_SUPPORTED, &mut buffers.to_client);
        self.session.abort_transaction_explained(code, message, detail_and_hint, out);
        self.session.end_aborted_unit(end, &mut buffers.to_client);
        self.flush(buffers).await
    }

    /// What is run again now the client has the answer of.
    pub(super) fn is_replaying(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.is_muted())
    }

    /// The transaction will not be run again.
    pub(super) fn forget_replay(&mut self) {
        if let Some(log) = &mut self.log {
            log.clear();
        }
        self.session.forget_begin();
    }

    /// The server connection that is held is closed. What it has shown counts all the same.
    fn leave_held(&mut self) {
        let Some(held) = self.held.take() else { return };
        self.cancellable.runs_nothing();
        self.account_for(&held, Instant::now());
    }

    /// What this server connection has shown the session it must see from now on, and so must others what it has written.
    fn account_for(&mut self, held: &HeldLease, now: Instant) {
        let has_written = self.session.has_written(true);
        if held.told.has_shown || has_written {
            self.was_served_by(held, now);
        }
    }

    /// The transaction goes on elsewhere: what it was on the replica is ended there, while nobody waits.
    fn leave_transaction(&mut self) {
        let Some(held) = self.held.take() else { return };
        self.cancellable.runs_nothing();
        self.session.served_by(held.lease.node(), held.may_lack, held.begun, Instant::now());
        tokio::task::spawn_local(end_transaction(held.lease, self.server.answer_timeout()));
    }

    /// A replica has refused the unit and its answer has been dropped: the primary is asked, or another node of its rule.
    pub(super) fn ask_elsewhere(&mut self, code: SqlState, buffers: &mut Buffers) {
        let keeps_from = self.held.as_ref().filter(|held| is_kept_from_primary(held, code));
        let keeps_from = keeps_from.map(|held| held.lease.node());
        let is_inside = self.session.status() != backend::TransactionStatus::Idle;
        let is_refused_within = self.held.as_ref().is_some_and(|held| held.ending.is_refused_within);
        if is_inside && is_refused_within {
            self.leave_transaction();
            self.session.begin_anew();
        } else if self.session.has_touched() {
            // By what has been refused, or behind it: it runs again as a whole, and nobody is to meet what it has set here.
            self.leave_held();
            self.session.forget_touched();
        } else if is_inside {
            self.leave_transaction();
        } else if let Some(held) = self.held.take() {
            let now = Instant::now();
            self.account_for(&held, now);
            self.give_back(held.lease, now);
        }
        if is_inside && !is_refused_within {
            // What stands behind the refused one has begun it, and begins it again.
            self.session.has_not_begun();
        }
        self.worker.metrics.retried(match code {
            _ if is_conflict(code) => Retry::RecoveryConflict,
            SqlState::READ_ONLY_SQL_TRANSACTION => Retry::ReadOnly,
            _ => Retry::ReplicaError,
        });
        if !is_conflict(code) {
            self.database.catalog.suspected();
        }
        if code == SqlState::READ_ONLY_SQL_TRANSACTION {
            self.remember_writer();
        }
        self.session.rewind();
        if let Some(log) = &mut self.log {
            log.clear();
        }
        self.put_back(buffers);
        if let Some(node) = keeps_from {
            return self.losses.on.push(node);
        }
        self.session.gathered.join(match is_conflict(code) {
            // Nothing of its own was in its way: what was proven holds.
            true => Intent::Kept { safe: safety::of_nothing(), reason: Reason::Retried, timeout: None },
            // It may write, whatever was proven.
            false => Intent::Primary(Reason::Retried),
        });
    }

    /// What a replica has refused because it writes goes to the primary from now on, until the catalogs change.
    fn remember_writer(&mut self) {
        // What an EXECUTE runs is another statement in each session.
        let Some(writer) = self.session.take_refused_writer().filter(|writer| !writer.executes_by_name()) else {
            return;
        };
        let known = self.database.catalog.look();
        let Some(picture) = known.picture() else { return };
        let resolved = self.paths.resolve(picture, &self.session);
        safety::note_writer(&writer, &Catalog::Known { picture, path: &resolved.path, key: resolved.key });
    }

    /// The unit's messages stand at the front of the input again.
    fn put_back(&mut self, buffers: &mut Buffers) {
        buffers.to_node.clear();
        buffers.from_node.consume(usize::MAX);
        let kept = std::mem::take(&mut buffers.kept);
        buffers.kept_ends.clear();
        self.counted += kept.len();
        buffers.input.put_front(&kept);
    }

    /// The catalogs may have changed by what the session has sent. By the configuration in force: the session's own may be an
    /// older one, which lacks databases of newcomers, and knows the cluster by another number.
    pub(super) fn catalogs_changed(&self, change: Change) {
        if change == Change::Suspected {
            self.database.catalog.may_have_changed();
        } else if change != Change::None {
            self.database.catalog.changed();
            let server = self.worker.server();
            server.catalogs_changed(server.number_of(self.cluster()), &self.database.server_name, change);
        }
    }

    /// The node is lost: runs the unit again, or tells the client what that means.
    pub(super) async fn node_lost(
        &mut self,
        farewell: Option<SqlState>,
        buffers: &mut Buffers,
    ) -> Result<(), Farewell> {
        let Some(mut held) = self.held.take() else { return Ok(()) };
        self.cancellable.runs_nothing();
        self.catalogs_changed(self.session.catalog_change());
        let (node, now) = (held.lease.node(), Instant::now());
        self.account_for(&held, now);
        self.session.freshness.lost(node, now);
        self.dropping = held.passing.to_node;
        // A read that no node survives is not tried on all of them. A node that said goodbye, or that we have fenced, has not
        // died of it; nor has one whose postmaster is gone, which a statement does not reach.
        let is_sent = held.written == Written::Now;
        let is_unexplained = is_sent && farewell.is_none() && !held.lease.connection().pass.is_severed();
        let is_suspect =
            is_unexplained && self.losses.died_last.is_some_and(|before| self.is_another_death(before, &mut held));
        let is_ended = farewell == Some(SqlState::ADMIN_SHUTDOWN) && self.was_ended(&mut held, now);
        let may_run_again = !is_ended && (farewell.is_some() || (self.losses.on.len() < MOST_RUNS && !is_suspect));
        (self.cluster().doubt)(node, if farewell.is_some() { Doubt::Stopping } else { Doubt::Lost });
        if held.told.forwarded && self.session.all_answered() {
            buffers.keep_nothing(); // of a batch that goes on: the client has its answer
        }
        let how = Circumstances {
            farewell,
            sent: is_sent,
            forwarded: held.told.forwarded,
            is_read: held.is_read,
            at_hand: held.at_hand && !buffers.kept.is_empty() && may_run_again,
        };
        let is_torn = held.passing.to_client > 0;
        if held.keeps_to_its_nodes && held.is_on_replica() {
            self.session.is_kept_from_primary();
        }
        drop(held);
        // While a transaction is run again nothing of it can have been committed, and the client is shown nothing.
        let is_replaying = self.is_replaying();
        let may_replay = is_replaying || (!is_torn && self.session.may_replay(&how));
        let is_patient = !is_ended && (farewell.is_some() || self.losses.on.len() < MOST_RUNS);
        if may_replay && is_patient && self.begin_again(buffers) {
            self.losses.on.push(node);
            return Ok(());
        }
        if is_replaying {
            self.replay_differs(buffers);
            return Ok(());
        }
        self.forget_replay();
        let writes_nothing = self.session.writes_nothing();
        let loss = self.session.lost(how);
        if !writes_nothing {
            self.note_doubt(&loss, how, is_torn, now);
        }
        self.session.untold_loss().into_iter().for_each(|code| self.count_lost(code));
        match loss {
            Loss::RunAgain => {
                self.worker.metrics.retried(if how.sent { Retry::NodeLost } else { Retry::NotSent });
                self.losses.on.push(node);
                let death = Death { node, seen: now };
                self.losses.died_last = match self.losses.died_last {
                    Some(before) if before.node == node => Some(before),
                    before => is_unexplained.then_some(death).or(before),
                };
                self.put_back(buffers);
                Ok(())
            }
            // The client waits for the rest of a message: nothing else could be said to it.
            loss if is_torn => {
                self.count_untold(&loss);
                Err(Farewell::Torn)
            }
            Loss::Answered(out) => {
                self.forget_losses();
                buffers.forget_node();
                buffers.to_client.extend_from_slice(&out);
                self.flush(buffers).await
            }
            Loss::Report(code, out) => {
                self.forget_losses();
                buffers.forget_node();
                if out.is_empty() {
                    return Ok(());
                }
                self.count_reported(code);
                buffers.to_client.extend_from_slice(&out);
                self.flush(buffers).await
            }
            Loss::End(message, cost) => {
                cost.into_iter().for_each(|code| self.count_lost(code));
                Err(Farewell::told(SqlState::ADMIN_SHUTDOWN, message))
            }
        }
    }

    fn count_reported(&self, code: SqlState) {
        self.worker.metrics.error_sent(code.as_str());
        self.count_lost(code);
    }

    fn count_lost(&self, code: SqlState) {
        self.is_lost(match code {
            SqlState::SERIALIZATION_FAILURE | SqlState::ADMIN_SHUTDOWN => LossCount::RolledBack,
            SqlState::CONNECTION_FAILURE => LossCount::CutShort,
            _ => LossCount::Unknown,
        });
    }

    fn is_lost(&self, outcome: LossCount) {
        self.worker.metrics.transaction_lost(outcome);
        // What is run again is on another node by now, or on none.
        let first = self.losses.on.first().filter(|_| outcome == LossCount::ReplayDiffered);
        let view = self.cluster().view.load();
        let lost_on = first.and_then(|id| view.node(*id)).map(|node| Arc::from(&*node.address));
        record::loses(&self.place.card, &self.server, lost_on, outcome);
    }

    /// What the client would be told counts as if it were.
    fn count_untold(&self, loss: &Loss) {
        match loss {
            Loss::Report(code, out) if !out.is_empty() => self.count_reported(*code),
            Loss::End(_, cost) => {
                self.worker.metrics.error_sent(SqlState::ADMIN_SHUTDOWN.as_str());
                cost.iter().for_each(|code| self.count_lost(*code));
            }
            Loss::Report(..) | Loss::Answered(_) | Loss::RunAgain => {}
        }
    }

    /// What is lost may have been done: whoever looks whether it was, here or on a new connection, must not look where it
    /// cannot be seen yet.
    fn note_doubt(&mut self, loss: &Loss, how: Circumstances, is_torn: bool, now: Instant) {
        let may_be_done = match loss {
            Loss::Report(code, _) => is_torn || *code == SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
            Loss::End(..) => true,
            Loss::RunAgain | Loss::Answered(_) => false,
        };
        if may_be_done && how.sent && !how.is_read {
            self.session.freshness.wrote(now);
            self.cluster().last_write.lost(now);
        }
    }

    /// A unit is lost that was lost before, and not by the same death: of one node's connections the first that ends tells
    /// of it, and those that end behind it were there before.
    fn is_another_death(&self, before: Death, held: &mut HeldLease) -> bool {
        match before.node == held.lease.node() {
            true => held.lease.connection().opened > before.seen,
            false => !self.is_down(before.node),
        }
    }

    /// The unit is told goodbye for the second time, and the node that did so first has not stopped: it let somebody in
    /// since, or goes on. So it was not the node that was ended but the statement, by an operator or by itself.
    fn was_ended(&mut self, held: &mut HeldLease, now: Instant) -> bool {
        let death = Death { node: held.lease.node(), seen: now };
        let before = *self.losses.parted.get_or_insert(death);
        let view = self.cluster().view.load();
        let has_gone_on = view
            .node(before.node)
            .is_some_and(|node| node.state == NodeState::Up && node.up_since.is_some_and(|since| since <= before.seen));
        drop(view);
        if !has_gone_on {
            self.losses.parted = Some(death);
            return false;
        }
        let has_let_in = before.node == death.node && held.lease.connection().opened > before.seen;
        has_let_in || now.saturating_duration_since(before.seen) > LONGEST_PARTING
    }

    /// The node answers nobody. One whose sessions all end because one of them has crashed is soon there again.
    fn is_down(&self, node: NodeId) -> bool {
        self.cluster().view.load().node(node).is_none_or(|node| node.state == NodeState::Down)
    }

    /// What comes now has been lost nowhere yet.
    pub(super) fn forget_losses(&mut self) {
        self.losses = Losses::default();
    }

    /// Everything since BEGIN stands at the front of the input again; what the client has seen of it will be compared.
    /// False: it is not at hand.
    fn begin_again(&mut self, buffers: &mut Buffers) -> bool {
        let Some(messages) = self.log.as_mut().and_then(|log| log.begin_again()) else { return false };
        self.worker.metrics.retried(Retry::Replayed);
        self.session.begin_again();
        buffers.forget_node();
        self.counted += messages.len();
        buffers.input.put_front(&messages);
        true
    }

    /// Run again, the transaction has not answered as before: it is lost, and its next statement is told so.
    pub(super) fn replay_differs(&mut self, buffers: &mut Buffers) {
        self.leave_held();
        self.is_lost(LossCount::ReplayDiffered);
        if let Some(log) = &mut self.log {
            // What the client has the answer of already is not asked once more.
            let seen = log.unsent_of_seen();
            buffers.input.consume(seen);
            self.counted = self.counted.saturating_sub(seen);
            log.clear();
        }
        self.session.lose_replayed();
        self.forget_losses();
        buffers.forget_node();
    }
}

/// A replica has cancelled what it ran for the sake of replay.
fn is_conflict(code: SqlState) -> bool {
    matches!(code, SqlState::SERIALIZATION_FAILURE | SqlState::DEADLOCK_DETECTED)
}

/// The replica has refused this for no reason of its own, and its rule gives it nodes that it keeps to: it must not become the
/// primary's. What needs the primary, as that turns out, is the primary's whatever its rule is.
pub(super) fn is_kept_from_primary(held: &HeldLease, code: SqlState) -> bool {
    held.keeps_to_its_nodes && is_conflict(code)
}

/// Ends what a transaction was on a replica that it has left.
async fn end_transaction(mut lease: Lease, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    let connection = lease.connection();
    if connection.is_being_cancelled() {
        return; // closed
    }
    if connection.query("ROLLBACK", deadline).await.is_ok() {
        lease.give_back(Instant::now());
    }
}
