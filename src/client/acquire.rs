//! From an intent to a lease: waiting for a primary, for freshness, for a free server connection, each with a deadline.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tracing::warn;

use super::card::Overdue;
use super::conversation::Client;
use super::lease_wait::LeaseWait;
use super::patience::Patience;
use super::queued::{At, BegunWait};
use super::server::Cluster;
use super::worker::until;
use crate::backend::{ConnectClass, ConnectError, Crowd, Lease, LeaseError, Pool, Taken};
use crate::metrics::{FreshnessOutcome, Hold, Limit, Retry, Target, WorkerMetrics};
use crate::net::timers;
use crate::routing::place::{Circumstances, may_still_take};
use crate::routing::{Consistency, Freshness, Intent, Placement, Reason, place};
use crate::session::Identity;
use crate::session::wishes::POSITION;
use crate::topology::{Doubt, NodeId, NodeView, Role, View};
use crate::wire::SqlState;

/// Why there is no lease: what the client is told, as an error of its statement.
#[derive(Debug)]
pub struct Refusal {
    /// The SQLSTATE.
    pub code: SqlState,
    /// What it is told.
    pub message: String,
}

/// Why there is no lease.
#[derive(Debug)]
pub enum Unmet {
    /// The client is told this.
    Refused(Refusal),
    /// The client is told this, and its session ends: what that must see has not come.
    Ended(Refusal),
    /// The client has hung up while it waited: what it asked for is not run.
    Left,
    /// Its nodes or its database are others by now, or its pool's mode: what it asks for is looked at again.
    Anew,
    /// The program stops, and nothing of what the client asks for has begun.
    SentAway,
}

impl Refusal {
    /// None of the nodes that its rule names can take the read, and the rule wants no other.
    pub(super) fn by_rule() -> Self {
        Self { code: SqlState::CANNOT_CONNECT_NOW, message: Placement::REFUSED.to_owned() }
    }

    /// The client has cancelled what it waits for.
    pub(super) fn canceled() -> Self {
        Self { code: SqlState::QUERY_CANCELED, message: CANCELED.to_owned() }
    }
}

impl From<Refusal> for Unmet {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A lease, and what routing said of it.
pub struct Acquired {
    /// The lease.
    pub lease: Lease,
    /// What the node was when it was chosen.
    pub role: Role,
    /// Why it was chosen.
    pub reason: Reason,
    /// The node may lack what the session must see: what is to be read now need not be fresh.
    pub may_lack: bool,
}

/// A node that a unit was placed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) node: NodeId,
    pub(super) reason: Reason,
    /// What the node was then.
    pub(super) role: Role,
}

/// What is said of a wait that its client has cancelled, in PostgreSQL's words.
pub const CANCELED: &str = "canceling statement due to user request";

/// A node that refuses connections is tried again this soon, if no new view comes before.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Reads without any replica or primary to take them wait as statements for the primary do.
type Excluded = SmallVec<[NodeId; 4]>;

impl Client {
    /// A lease at once, where nothing has to be waited for: the way of almost every statement. Where all server connections are
    /// in use, it is told where it would go; otherwise nothing.
    pub(super) fn try_acquire(&mut self, intent: &Intent, now: Instant) -> Result<Acquired, Option<Placed>> {
        if self.consistency(intent) == Consistency::Strong || self.database.pause.is_paused() {
            return Err(None);
        }
        let worker = Rc::clone(&self.worker);
        let mut newest = worker.view(self.cluster());
        let view = newest.look();
        self.session.freshness.settle(view);
        if self.session.freshness.is_ahead_of(view) {
            return Err(None);
        }
        if matches!(intent, Intent::Read { .. }) && self.session.freshness.wants_to_move() && self.is_careful(intent) {
            return Err(None);
        }
        let excluded = if is_read(intent) { self.losses.on.as_slice() } else { &[] };
        let Placement::Node(node, reason) = self.place(intent, view, excluded, true, now) else { return Err(None) };
        if self.cluster().gate(node).ok_or(None)?.held(now).is_some() {
            return Err(None);
        }
        let (pool, chosen) = (self.pool(node, view).ok_or(None)?, view.node(node).ok_or(None)?);
        let placed = Placed { node, reason, role: chosen.role };
        pool.settle(view);
        let own = |connection: &crate::backend::Connection| self.session.has_its_values_on(&connection.known);
        let lease = match self.session.gathered.asks_sequence {
            true => pool.try_lease_where(self.worker.number, own).or_else(|| pool.try_lease(self.worker.number)),
            false => pool.try_lease(self.worker.number),
        };
        let lease = lease.ok_or(Some(placed))?;
        let still_holds = self.still_holds(intent, placed, now, || self.cluster().view.load().trusted_primary(now));
        if !still_holds || self.database.pause.is_paused() {
            lease.give_back(now);
            return Err(None);
        }
        let mut lease = lease;
        if self.is_spent(&mut lease) {
            return Err(None);
        }
        worker.metrics.lease_was_free();
        Ok(Acquired { lease, role: chosen.role, reason, may_lack: self.may_lack(intent, chosen) })
    }

    /// A lease, waiting where it must be waited, unless the client cancels. It may have waited already.
    pub(super) async fn acquire(&mut self, intent: &Intent, begun: Option<Box<BegunWait>>) -> Result<Acquired, Unmet> {
        let (cancellable, due) = (Arc::clone(&self.cancellable), self.due());
        tokio::select! {
            // Dropping the wait for a cancel loses nothing: one that comes later finds what runs by then.
            () = cancellable.cancelled() => Err(Refusal::canceled().into()),
            // Dropping the wait for a lease gives back its place in the queue, and a lease that has just been granted.
            acquired = self.wait_for_lease(intent, begun) => acquired,
            // As with a cancel.
            () = too_late(due) => Err(self.runs_out_of_time().into()),
        }
    }

    /// The time is over that its rule gives to the unit, which has not been sent: counts that, and answers what is told of it.
    pub(super) fn runs_out_of_time(&self) -> Refusal {
        self.worker.metrics.limit_met(Limit::RuleTimeout);
        Refusal { code: SqlState::QUERY_CANCELED, message: Overdue::Rule.words().to_owned() }
    }

    /// By when the unit is to be answered, if its rule gives it a time. That begins where this is asked first.
    pub(super) fn due(&mut self) -> Option<Instant> {
        let timeout = self.session.intent().and_then(Intent::timeout)?;
        Some(*self.losses.due.get_or_insert_with(|| Instant::now() + timeout))
    }

    async fn wait_for_lease(&mut self, intent: &Intent, begun: Option<Box<BegunWait>>) -> Result<Acquired, Unmet> {
        let (arrived, mut wait, mut line) = match begun {
            Some(begun) => (begun.since, begun.wait, begun.line),
            None => (Instant::now(), LeaseWait::new(&self.worker.metrics), None),
        };
        self.place.card.waits(arrived);
        let mut begun = arrived;
        let mut excluded = if is_read(intent) { self.losses.on.clone() } else { Excluded::new() };
        let mut failure = None;
        let mut may_wait = self.is_careful(intent) && self.session.freshness.may_wait(begun);
        self.must_see_all_by(intent, begun);
        if is_read(intent) && self.consistency(intent) == Consistency::Session && self.session.freshness.wants_to_move()
        {
            self.look_around().await;
        }
        let (metrics, mut hold) = (Arc::clone(&self.worker.metrics), None);
        let mut patience = Patience::of(&self.server);
        loop {
            let mut here = line.take();
            if self.has_hung_up(Instant::now()) {
                return Err(Unmet::Left);
            }
            if self.database.pause.is_paused() {
                here = None; // nothing is lent to whoever does not take it
                self.sit_out_pause(&mut patience).await?;
                begun = Instant::now();
                self.must_see_all_by(intent, begun);
            }
            if self.is_outdated() {
                self.renew_while_waiting()?;
                excluded.clear();
                line = here;
                continue; // it may still be paused
            }
            let mut changed = self.cluster().changed.clone();
            changed.mark_unchanged();
            let view = self.cluster().view.load_full();
            self.session.freshness.settle(&view);
            if self.is_careful(intent) && self.session.freshness.is_ahead_of(&view) {
                hold.get_or_insert_with(|| metrics.hold());
                drop(here);
                self.await_primary(intent, &mut changed, &view, begun).await?;
                continue;
            }
            let held = self.held_nodes(&view);
            let avoided: Excluded = match is_read(intent) {
                true => excluded.iter().chain(&held).copied().collect(),
                false => Excluded::new(),
            };
            let now = Instant::now();
            let stands_at = here.as_ref().map(|(at, _)| at.placed);
            let placement = self.place_to_wait(intent, &view, &avoided, may_wait, stands_at, now);
            match placement {
                Placement::Node(node, _) if !held.contains(&node) => {
                    // Who tries again where no connection could be opened is held until one is.
                    if failure.is_none() || is_full(failure.as_ref()) {
                        hold = None;
                    }
                }
                _ => here = None,
            }
            match placement {
                Placement::Node(node, _) if held.contains(&node) => {
                    hold.get_or_insert_with(|| metrics.hold());
                    self.await_release(intent, node, &mut changed).await;
                    begun = Instant::now();
                }
                Placement::Node(node, reason) => {
                    let placed = view.node(node).map(|chosen| Placed { node, reason, role: chosen.role });
                    match self.timed_lease_at(intent, (node, reason), &view, &avoided, &mut wait, here).await {
                        Ok(lease) => match self.goes_on(lease, intent, placed, Instant::now())? {
                            Some(acquired) => {
                                self.tally.count(|totals| totals.wait_time += arrived.elapsed());
                                return Ok(acquired);
                            }
                            // What has changed meanwhile is in force before it is in the view.
                            None => drop(timers::timeout(RETRY_PAUSE, changed.changed()).await),
                        },
                        Err(LeaseError::Fenced) => {}
                        // It was remembered after the reload had reached this worker, and before it forgot its pools.
                        Err(LeaseError::Forgotten) => self.pools.clear(),
                        Err(error) => {
                            // One that lets nobody in is no reason to keep a read from the others.
                            let is_last = !self.has_another(intent, node, &view, &avoided);
                            let is_first = failure.is_none();
                            failure = Some(self.after_failure(node, error, is_last)?);
                            if is_first {
                                self.worker.metrics.retried(Retry::ConnectFailed);
                            }
                            if is_read(intent) && !excluded.contains(&node) {
                                excluded.push(node);
                                self.turn = self.worker.turn();
                            } else {
                                self.try_later(failure.as_ref(), begun, &metrics, &mut hold).await?;
                            }
                        }
                    }
                }
                Placement::Refused => return Err(Refusal::by_rule().into()),
                Placement::AwaitFreshness => {
                    let asked = Instant::now();
                    // Where nobody can answer now, the wait was neither of use nor in vain.
                    if let Some(found) = self.await_freshness(intent, &avoided).await {
                        let now = Instant::now();
                        self.session.freshness.waited(found, now);
                        let outcome = if found { FreshnessOutcome::Replica } else { FreshnessOutcome::Primary };
                        self.worker.metrics.freshness_waited(outcome, now - asked);
                        may_wait = found;
                    }
                }
                // The one that would take it is held, and so is every other.
                Placement::AwaitPrimary(_) if is_read(intent) && !held.is_empty() && excluded.is_empty() => {
                    if let Some(node) = held.first() {
                        hold.get_or_insert_with(|| metrics.hold());
                        self.await_release(intent, *node, &mut changed).await;
                        begun = Instant::now();
                    }
                }
                // There is one, but it has just failed this statement.
                Placement::AwaitPrimary(_)
                    if view.primary.is_some() && (failure.is_some() || view.trusted_primary(now).is_some()) =>
                {
                    excluded.clear();
                    self.try_later(failure.as_ref(), begun, &metrics, &mut hold).await?;
                }
                Placement::AwaitPrimary(_) => {
                    excluded.clear();
                    hold.get_or_insert_with(|| metrics.hold());
                    // By the moment that no stale read was placed for: later it may have come, and nobody would look again.
                    match self.stale_from(intent, &view).filter(|moment| now < *moment) {
                        Some(moment) => drop(self.await_view(&mut changed, moment).await),
                        None => self.await_primary(intent, &mut changed, &view, begun).await?,
                    }
                }
            }
        }
    }

    /// Waits for RESUME.
    async fn sit_out_pause(&self, patience: &mut Patience) -> Result<(), Unmet> {
        tokio::select! {
            // Dropping any of them loses nothing.
            resumed = patience.await_resume(&self.database.pause, &self.worker) => resumed?,
            () = self.hangs_up() => return Err(Unmet::Left),
            () = self.is_called_away() => {}
        }
        if self.is_sent_away() { Err(Unmet::SentAway) } else { Ok(()) }
    }

    /// There is another configuration: the unit goes on by that, unless it has to be looked at again.
    fn renew_while_waiting(&mut self) -> Result<(), Unmet> {
        let now = |client: &Self| (client.cluster().number, Arc::clone(&client.database.server_name), client.mode);
        let before = now(self);
        self.renew().map_err(|gone| Refusal { code: SqlState::ADMIN_SHUTDOWN, message: gone.to_string() })?;
        if now(self) == before { Ok(()) } else { Err(Unmet::Anew) }
    }

    /// Where it goes, for which it may have to wait: to the node in whose queue it stands, if that may still take it, unless
    /// another has a server connection for it.
    fn place_to_wait(
        &mut self,
        intent: &Intent,
        view: &View,
        avoided: &[NodeId],
        may_wait: bool,
        stands_at: Option<Placed>,
        now: Instant,
    ) -> Placement {
        let mut placement = self.place(intent, view, avoided, may_wait, now);
        if matches!(placement, Placement::AwaitPrimary(_)) {
            placement = self.place_stale(intent, view, avoided, now).unwrap_or(placement);
        }
        let Placement::Node(mut node, mut reason) = placement else { return placement };
        if let Some(there) = stands_at
            && !avoided.contains(&there.node)
            && self.may_still_go_to(intent, (there.node, there.reason), view)
        {
            (node, reason) = (there.node, there.reason);
        }
        self.less_crowded(intent, (node, reason), view, avoided, now)
    }

    /// It has waited for longer than most do, and has closed its connection.
    pub(super) fn has_hung_up(&self, now: Instant) -> bool {
        self.place.card.waits_long(now) && self.stream.socket().has_ended()
    }

    /// Returns when it has hung up, for which it looks when [`Card::heed`](super::card::Card::heed) has it do so.
    pub(super) async fn hangs_up(&self) {
        until(|| self.place.card.is_to_look() && self.has_hung_up(Instant::now())).await;
    }

    /// The same, or when another node than the one that it queues at has a server connection for it.
    async fn waits_in_vain(&mut self, intent: &Intent, placed: (NodeId, Reason), avoided: &[NodeId]) {
        until(|| {
            if !self.place.card.is_to_look() {
                return false;
            }
            let now = Instant::now();
            let mut is_freer = || {
                let view = self.cluster().view.load_full();
                self.less_crowded(intent, placed, &view, avoided, now) != Placement::Node(placed.0, placed.1)
            };
            is_freer() || self.has_hung_up(now)
        })
        .await;
    }

    /// Returns when it is not to wait for RESUME as it does: there is another configuration, or it is sent away. Every client is
    /// woken then.
    async fn is_called_away(&self) {
        until(|| self.is_outdated() || self.is_sent_away()).await;
    }

    /// The program stops while its statement waits for RESUME. A transaction that goes on elsewhere has begun, and has the time
    /// that any has.
    fn is_sent_away(&self) -> bool {
        self.worker.is_draining() && self.database.pause.is_paused() && !self.has_begun()
    }

    /// A transaction or a batch goes on with what it asks for.
    fn has_begun(&self) -> bool {
        !self.session.is_idle() || self.is_replaying()
    }

    /// Nodes that let nobody new in.
    fn held_nodes(&self, view: &View) -> Excluded {
        let now = Instant::now();
        let held = view.nodes.iter().zip(&*self.cluster().gates).filter(|(_, gate)| gate.held(now).is_some());
        held.map(|(node, _)| node.id).collect()
    }

    /// Waits until the node lets somebody in again, or another may take the statement. Such a wait is somebody's wish and
    /// has an end of its own: it does not count as one for a primary that is lost.
    async fn await_release(&mut self, intent: &Intent, node: NodeId, changed: &mut tokio::sync::watch::Receiver<u64>) {
        let Some(gate) = self.cluster().gate(node).cloned() else { return };
        tokio::select! {
            // Dropping either loses nothing: the next look sees what has changed.
            () = gate.until_released() => {}
            _ = changed.changed() => {}
            () = self.hangs_up() => {}
        }
        let now = Instant::now();
        if gate.held(now).is_none() {
            self.must_see_all_by(intent, now);
        }
    }

    /// What is to be strong must see all that anybody was told by this moment. It is not set anew with each look that a waiting
    /// read takes: each would ask for a position that is not known yet.
    fn must_see_all_by(&mut self, intent: &Intent, moment: Instant) {
        if is_read(intent) && self.consistency(intent) == Consistency::Strong {
            self.session.freshness.wrote(moment);
        }
    }

    /// What is asked by SHOW of Trunkline's own settings becomes the session's, so that the node answers it.
    pub(super) async fn prepare_wishes(&mut self) -> Result<(), Unmet> {
        let position = self.await_position().await?;
        self.session.show_wishes(&position, self.server.consistency);
        Ok(())
    }

    /// Waits until all that the session must see has a position.
    pub(super) async fn await_position(&mut self) -> Result<String, Unmet> {
        let (begun, cancellable) = (Instant::now(), Arc::clone(&self.cancellable));
        let deadline = begun + self.server.hold;
        self.place.card.waits(begun);
        let mut cancelled = std::pin::pin!(cancellable.cancelled());
        let mut changed = self.cluster().changed.clone();
        loop {
            changed.mark_unchanged();
            let view = self.cluster().view.load_full();
            self.session.freshness.settle(&view);
            if let Some(position) = self.session.freshness.position() {
                return Ok(position);
            }
            if let Some(primary) = view.primary {
                (self.cluster().request_sample)(primary);
            }
            tokio::select! {
                // Dropping either wait loses nothing: the next look sees the view.
                in_time = timers::timeout_at(deadline.into(), changed.changed()) => if in_time.is_err() {
                    let message = "the session's position is not known: no primary tells its own".to_owned();
                    return Err(Refusal { code: SqlState::CANNOT_CONNECT_NOW, message }.into());
                },
                () = &mut cancelled => return Err(Refusal::canceled().into()),
                () = self.hangs_up() => return Err(Unmet::Left),
                // Behind a reload nobody renews this view.
                () = self.is_to_renew() => return Err(Unmet::Anew),
            }
        }
    }

    /// What the unit must have seen: as a rule or a hint has it, as the session asks, or as configured; of the statements
    /// in it, the strictest.
    pub(super) fn consistency(&self, intent: &Intent) -> Consistency {
        intent.consistency_in(self.own_consistency())
    }

    /// As the session asks, or as configured.
    pub(super) fn own_consistency(&self) -> Consistency {
        self.session.wishes().consistency.unwrap_or(self.server.consistency)
    }

    fn is_careful(&self, intent: &Intent) -> bool {
        self.consistency(intent) != Consistency::Eventual
    }

    /// The node need not be fresh for this, and may not be.
    fn may_lack(&self, intent: &Intent, node: &NodeView) -> bool {
        !self.is_careful(intent) && !self.session.freshness.allows(node)
    }

    fn place(&self, intent: &Intent, view: &View, excluded: &[NodeId], may_wait: bool, now: Instant) -> Placement {
        let freshness = self.is_careful(intent).then_some(&self.session.freshness);
        self.place_where(freshness, intent, view, excluded, may_wait, now)
    }

    /// Since when a replica may answer it that is not known to be fresh enough; None: none may, or there is a primary.
    fn stale_from(&self, intent: &Intent, view: &View) -> Option<Instant> {
        self.server.stale_reads?;
        // A write may be made of what such a transaction has read.
        let is_harmless = is_read(intent) && intent.reason() != Reason::OptimisticTransaction;
        view.no_primary_since.filter(|_| is_harmless).map(|since| since + self.server.hold)
    }

    /// The replica that answers without being known to be fresh enough, while there is no primary: one that has as much as
    /// any, so that the next such read goes back in time only if it is lost.
    fn place_stale(&self, intent: &Intent, view: &View, avoided: &[NodeId], now: Instant) -> Option<Placement> {
        let most = self.server.stale_reads?;
        if self.stale_from(intent, view)? > now {
            return None;
        }
        let near = |node: &&NodeView| node.lag.is_some_and(|lag| lag <= most) && !avoided.contains(&node.id);
        let lsn = |node: &NodeView| node.position.map(|position| position.lsn);
        let newest = view.trusted_replicas(now).filter(near).filter_map(lsn).max()?;
        let others = view.nodes.iter().filter(|node| !near(node) || lsn(node) != Some(newest));
        let excluded: Excluded = others.map(|node| node.id).collect();
        match self.place_where(None, intent, view, &excluded, false, now) {
            Placement::Node(node, _) => Some(Placement::Node(node, Reason::Stale)),
            _ => None,
        }
    }

    fn place_where(
        &self,
        freshness: Option<&Freshness>,
        intent: &Intent,
        view: &View,
        excluded: &[NodeId],
        may_wait: bool,
        now: Instant,
    ) -> Placement {
        let cluster = self.cluster();
        let gates = &cluster.gates;
        place(
            intent,
            view,
            &Circumstances {
                reads: self.server.reads,
                freshness,
                group: &|name| cluster.group(name),
                balance: &cluster.balance,
                latency: &|node| self.worker.latency(cluster.number, node, now),
                stays_with: self.stays_with,
                leases: &|node| gates.get(usize::from(node.0)).map_or(0, |gate| gate.leases()),
                excluded,
                may_wait,
                now,
                turn: self.turn,
            },
        )
    }

    /// What is run again, because a node was lost with it, is not run on a connection that has died unnoticed: it is not
    /// run again for ever.
    fn is_spent(&self, lease: &mut Lease) -> bool {
        !self.losses.on.is_empty() && lease.connection().has_spoken()
    }

    /// What was placed on the primary goes only to the node that is primary now: a wait may have lasted.
    #[inline]
    fn still_holds(
        &self,
        intent: &Intent,
        Placed { node, role, .. }: Placed,
        now: Instant,
        trusted_primary: impl FnOnce() -> Option<NodeId>,
    ) -> bool {
        let gate = self.cluster().gate(node);
        if gate.is_none_or(|gate| gate.held(now).is_some()) {
            return false;
        }
        (is_read(intent) && role != Role::Primary)
            || (trusted_primary() == Some(node) && gate.is_some_and(|gate| gate.takes_writes()))
    }

    /// The same after a wait, in which we may have stood still: then nothing is known of a replica either. Answers whether the
    /// node may lack what the session must see; None: the unit does not go there.
    fn goes_there_after_wait(&mut self, intent: &Intent, placed: Placed, now: Instant) -> Option<bool> {
        let (newest, node) = (self.cluster().view.load_full(), placed.node);
        let is_believed = || self.cluster().gate(node).is_some_and(|gate| !gate.is_unbelieved(now));
        let goes_there = self.still_holds(intent, placed, now, || newest.trusted_primary(now))
            && is_believed()
            && !self.database.pause.is_paused()
            && self.may_still_go_to(intent, (node, placed.reason), &newest);
        let may_lack =
            || placed.reason == Reason::Stale || newest.node(node).is_none_or(|node| self.may_lack(intent, node));
        goes_there.then(may_lack)
    }

    /// What was waited for at this node, as long as the unit may go there; None: it has gone back.
    pub(super) fn goes_on(
        &mut self,
        lease: Lease,
        intent: &Intent,
        placed: Option<Placed>,
        now: Instant,
    ) -> Result<Option<Acquired>, Unmet> {
        if self.has_hung_up(now) {
            lease.give_back(now);
            return Err(Unmet::Left);
        }
        let goes_there = placed.and_then(|placed| Some((placed, self.goes_there_after_wait(intent, placed, now)?)));
        let Some((Placed { role, reason, .. }, may_lack)) = goes_there else {
            lease.give_back(now);
            return Ok(None);
        };
        Ok(Some(Acquired { lease, role, reason, may_lack }))
    }

    /// The same as [`Self::lease_at`]; a connection that has died unnoticed is closed, and the time that it took is counted.
    async fn timed_lease_at(
        &mut self,
        intent: &Intent,
        placed: (NodeId, Reason),
        view: &View,
        avoided: &[NodeId],
        wait: &mut LeaseWait,
        line: Option<(At, Taken)>,
    ) -> Result<Lease, LeaseError> {
        let Some(pool) = self.pool(placed.0, view) else { return Err(LeaseError::Fenced) };
        let line = line.filter(|(at, _)| Arc::ptr_eq(&at.pool, &pool));
        wait.asks(pool, Instant::now());
        let lease = self.lease_at(intent, placed, view, avoided, line).await;
        match lease {
            Err(LeaseError::Fenced) if self.has_hung_up(Instant::now()) => wait.is_given_up(),
            _ => wait.is_answered(),
        }
        let mut lease = lease?;
        if self.is_spent(&mut lease) { Err(LeaseError::Fenced) } else { Ok(lease) }
    }

    /// A lease of this node, as long as it is one that the statement may go to.
    async fn lease_at(
        &mut self,
        intent: &Intent,
        (node, reason): (NodeId, Reason),
        view: &View,
        avoided: &[NodeId],
        line: Option<(At, Taken)>,
    ) -> Result<Lease, LeaseError> {
        let Some(pool) = self.pool(node, view) else { return Err(LeaseError::Fenced) };
        pool.settle(view);
        let mut changed = self.cluster().changed.clone();
        let begun = line.as_ref().map_or_else(Instant::now, |(at, _)| at.since);
        let deadline = begun + self.server.queue_timeout;
        let may_go_elsewhere = pool.lacks_room() && self.has_another(intent, node, view, avoided);
        let worker = self.worker.number;
        let lease = async {
            match (line, may_go_elsewhere) {
                (Some((_, taken)), _) => pool.lease_further(worker, deadline, taken).await,
                (None, true) => pool.lease_or_elsewhere(worker, deadline).await,
                (None, false) => pool.lease(worker, deadline).await,
            }
        };
        tokio::pin!(lease);
        loop {
            tokio::select! {
                biased;
                lease = &mut lease => return lease,
                // Whoever called sees why.
                () = self.waits_in_vain(intent, (node, reason), avoided) => return Err(LeaseError::Fenced),
                // A frozen node would be waited for in vain. Dropping the wait gives up a place in the queue or a
                // connection that is being opened, and nothing else.
                Ok(()) = changed.changed() => {
                    let newest = self.cluster().view.load_full();
                    if !self.may_still_go_to(intent, (node, reason), &newest) {
                        return Err(LeaseError::Fenced);
                    }
                }
            }
        }
    }

    /// By the newest view, what was placed at this node may run there: it may wait for long for that. What may be stale goes by
    /// its terms alone.
    fn may_still_go_to(&mut self, intent: &Intent, (node, reason): (NodeId, Reason), newest: &View) -> bool {
        if newest.primary == Some(node) {
            return !intent.is_for_replicas_alone();
        }
        // Behind a reload nobody renews this view.
        if !newest.trusts_replicas(Instant::now()) || self.is_outdated() {
            return false;
        }
        self.session.freshness.settle(newest);
        let must_be_fresh = reason != Reason::Stale && self.is_careful(intent);
        let freshness = must_be_fresh.then_some(&self.session.freshness);
        is_read(intent) && newest.node(node).is_some_and(|node| may_still_take(intent, node, freshness))
    }

    /// Where a read would wait at the node it was placed at, another replica like it that has a server connection for this
    /// session now: how many leases a node has tells nothing of one pool.
    fn less_crowded(
        &mut self,
        intent: &Intent,
        (node, reason): (NodeId, Reason),
        view: &View,
        avoided: &[NodeId],
        now: Instant,
    ) -> Placement {
        let placed = Placement::Node(node, reason);
        if !is_read(intent) || self.stays_with.is_some() || !self.is_crowded(node, view, now) {
            return placed;
        }
        let mut tried: Excluded = avoided.iter().copied().chain([node]).collect();
        while let Placement::Node(other, why) = self.place(intent, view, &tried, false, now) {
            let is_replica = view.node(other).is_some_and(|node| node.takes_reads);
            // What its rule falls back to is for when none of the nodes it wants can.
            let is_alike = why == reason && is_replica && self.cluster().balance.are_alike(node, other);
            if is_alike && !self.is_crowded(other, view, now) {
                return Placement::Node(other, why);
            }
            tried.push(other);
        }
        placed
    }

    fn is_crowded(&mut self, node: NodeId, view: &View, now: Instant) -> bool {
        self.pool(node, view).is_none_or(|pool| pool.is_crowded(now))
    }

    /// A read may be answered by another node than this, too.
    fn has_another(&self, intent: &Intent, node: NodeId, view: &View, avoided: &[NodeId]) -> bool {
        let others: Excluded = avoided.iter().copied().chain([node]).collect();
        is_read(intent) && matches!(self.place(intent, view, &others, false, Instant::now()), Placement::Node(..))
    }

    /// The pool of this session at a node, remembered.
    pub fn pool(&mut self, node: NodeId, view: &View) -> Option<Arc<Pool>> {
        let index = usize::from(node.0);
        if let Some(Some(pool)) = self.pools.get(index) {
            return Some(Arc::clone(pool));
        }
        let user = &self.session.identity.user;
        let pool = self.server.pool(&self.database, user, view.node(node)?, self.password.as_ref())?;
        if self.pools.len() <= index {
            self.pools.resize(index + 1, None);
        }
        if let Some(place) = self.pools.get_mut(index) {
            *place = Some(Arc::clone(&pool));
        }
        Some(pool)
    }

    /// The same, if it has been needed.
    fn known_pool(&self, node: NodeId) -> Option<&Arc<Pool>> {
        self.pools.get(usize::from(node.0)).and_then(Option::as_ref)
    }

    /// What a failed attempt means: an error, or another attempt, here or elsewhere. A login that is denied is an error only
    /// if this is the last node to be asked.
    fn after_failure(&self, node: NodeId, error: LeaseError, is_last: bool) -> Result<ConnectError, Refusal> {
        let error = match error {
            // The pool may have been made, or taught, by a login from before the password was changed.
            LeaseError::Connect(error) if self.knows_better(node, &error) => return Ok(error),
            LeaseError::Connect(error) => error,
            error => {
                if let LeaseError::Full(crowd) = &error {
                    self.worker.metrics.limit_met(limit(*crowd));
                    self.known_pool(node).into_iter().for_each(|pool| pool.say_crowded(*crowd));
                }
                let Identity { user, database, .. } = &self.session.identity;
                let message = format!(
                    "no server connection was free within queue_timeout for user \"{user}\" and database \"{database}\": \
                     {error}"
                );
                return Err(Refusal { code: SqlState::TOO_MANY_CONNECTIONS, message });
            }
        };
        match error.class() {
            ConnectClass::Denied => {
                self.say_denied(node, &error);
                // What is remembered of its password may be from before that was changed.
                self.cluster().doubt_password(&self.session.identity.user);
                if is_last {
                    let (code, message) = error.denial();
                    return Err(Refusal { code, message });
                }
            }
            // Of the node it tells nothing.
            ConnectClass::Full | ConnectClass::Short | ConnectClass::NotLookedUp => {}
            ConnectClass::Starting => (self.cluster().doubt)(node, Doubt::Stopping),
            _ => (self.cluster().doubt)(node, Doubt::Lost),
        }
        Ok(error)
    }

    /// Logs that a node does not let the session's role in: when that begins, and when the reason is another.
    fn say_denied(&self, node: NodeId, error: &ConnectError) {
        let Some(pool) = self.known_pool(node) else { return };
        if pool.is_denied_anew(error) {
            let Identity { user, database, .. } = &self.session.identity;
            // Names that clients have chosen, and words that may quote them: as strings they begin no line of the log.
            warn!(
                node = &**pool.address(),
                database = &**database,
                user = &**user,
                error = error.to_string(),
                "the node does not let this role in"
            );
        }
    }

    /// The password that the pool has is refused, and the session has another.
    fn knows_better(&self, node: NodeId, error: &ConnectError) -> bool {
        self.known_pool(node).is_some_and(|pool| pool.relearn(error, self.password.as_ref()))
    }

    /// Waits a little for another attempt, held as for a primary unless the node is full, or gives up when that has lasted too
    /// long.
    async fn try_later<'m>(
        &self,
        failure: Option<&ConnectError>,
        begun: Instant,
        metrics: &'m WorkerMetrics,
        hold: &mut Option<Hold<'m>>,
    ) -> Result<(), Refusal> {
        let is_full = is_full(failure);
        let (limit, code) = if is_full {
            (self.server.queue_timeout, SqlState::TOO_MANY_CONNECTIONS)
        } else {
            (self.server.hold, SqlState::CANNOT_CONNECT_NOW)
        };
        if begun.elapsed() >= limit {
            self.worker.metrics.limit_met(if is_full { Limit::NodeConnections } else { Limit::Hold });
            let because = failure.map_or_else(|| "it has not answered for too long".to_owned(), ToString::to_string);
            return Err(Refusal { code, message: format!("the primary cannot be connected to: {because}") });
        }
        let mut changed = self.cluster().changed.clone();
        changed.mark_unchanged();
        // A new view may come many times within the pause; a node that is full has no more room then.
        if is_full {
            timers::sleep(RETRY_PAUSE).await;
        } else {
            hold.get_or_insert_with(|| metrics.hold());
            let _ = timers::timeout(RETRY_PAUSE, changed.changed()).await;
        }
        Ok(())
    }

    /// Waits for the next view. The statement is held until there is a primary, one of the history that the session must see, or
    /// too long. Where that history has not come, each further statement would wait in vain: unless something has begun, the session
    /// ends, and its client begins another.
    async fn await_primary(
        &self,
        intent: &Intent,
        changed: &mut tokio::sync::watch::Receiver<u64>,
        view: &View,
        begun: Instant,
    ) -> Result<(), Unmet> {
        if self.await_view(changed, begun + self.server.hold).await {
            return Ok(());
        }
        // A read that comes to this has found no replica either, which is nobody's design.
        self.worker.metrics.limit_met(if is_read(intent) { Limit::Hold } else { hold_limit(view) });
        let hold = self.server.hold.as_millis();
        let refusal_as = |because: String| {
            let message = format!("no primary within {hold} ms{because}");
            Refusal { code: SqlState::CANNOT_CONNECT_NOW, message }
        };
        let later_history = self.session.freshness.later_history(view).filter(|_| self.is_careful(intent));
        let Some((told, present)) = later_history else {
            return Err(refusal_as(format!(": {}", view.why_no_writes(Instant::now()))).into());
        };
        let refusal = refusal_as(format!(
            " that has what must be seen: the session's {POSITION} is of timeline {}, and the primary is on timeline {}; connect \
             anew, and leave it out of the connection's options if they have it",
            told.0, present.0
        ));
        // Where nobody waits, nothing tells that it will not come.
        let is_vain = !self.server.hold.is_zero() && !self.has_begun();
        Err(if is_vain { Unmet::Ended(refusal) } else { Unmet::Refused(refusal) })
    }

    /// Waits for a new view, or until the client hangs up; whoever calls counts the statement as held. False: the moment has
    /// come before it.
    async fn await_view(&self, changed: &mut tokio::sync::watch::Receiver<u64>, until: Instant) -> bool {
        tokio::select! {
            // Dropping either loses nothing: the next look sees the view.
            in_time = timers::timeout_at(until.into(), changed.changed()) => in_time.is_ok(),
            () = self.hangs_up() => true,
        }
    }

    /// Waits, a few milliseconds at most, until a replica has what the session must see; None: no node can answer any more.
    async fn await_freshness(&mut self, intent: &Intent, excluded: &[NodeId]) -> Option<bool> {
        let deadline = Instant::now() + self.server.freshness_wait;
        self.cluster().ask_for_positions();
        self.cluster().follow_replicas(deadline);
        let mut changed = self.cluster().changed.clone();
        loop {
            changed.mark_unchanged();
            let view = self.cluster().view.load_full();
            self.session.freshness.settle(&view);
            match self.place(intent, &view, excluded, true, Instant::now()) {
                Placement::AwaitFreshness => {}
                Placement::Node(node, _) => return view.node(node).map(|node| node.role != Role::Primary),
                _ => return None,
            }
            if timers::timeout_at(deadline.into(), changed.changed()).await.is_err() {
                return Some(false);
            }
        }
    }

    /// Samples the node last read from and its peers, so that the session may move on if another has caught up.
    async fn look_around(&mut self) {
        let deadline = Instant::now() + self.server.freshness_wait;
        self.cluster().ask_for_positions();
        let mut changed = self.cluster().changed.clone();
        while let Some(last) = self.session.freshness.last_read() {
            changed.mark_unchanged();
            let view = self.cluster().view.load_full();
            self.session.freshness.settle(&view);
            let is_settled = self.session.freshness.last_read() != Some(last);
            if is_settled || timers::timeout_at(deadline.into(), changed.changed()).await.is_err() {
                break;
            }
        }
        self.session.freshness.looked_around();
    }

    /// The session's cluster.
    pub fn cluster(&self) -> &Cluster {
        self.server.cluster(&self.database)
    }
}

/// The time is over that a rule gives to the unit; never, if none does.
pub(super) async fn too_late(due: Option<Instant>) {
    match due {
        Some(due) => timers::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// The node has no room for another connection.
fn is_full(failure: Option<&ConnectError>) -> bool {
    failure.is_some_and(|error| error.class() == ConnectClass::Full)
}

/// The limit that keeps a connection from being opened.
pub(super) fn limit(crowd: Crowd) -> Limit {
    match crowd {
        Crowd::Pool(_) => Limit::PoolSize,
        Crowd::Database(_) => Limit::DatabaseConnections,
        Crowd::User(_) => Limit::UserConnections,
        Crowd::Node(_) => Limit::NodeConnections,
    }
}

/// The limit that is met where no primary has come within `failover.hold`.
pub(super) fn hold_limit(view: &View) -> Limit {
    if view.is_without_primary_by_design() { Limit::Standby } else { Limit::Hold }
}

pub(super) fn is_read(intent: &Intent) -> bool {
    matches!(intent, Intent::Read { .. })
}

/// The counter's word for a role.
pub fn target(role: Role) -> Target {
    if role == Role::Primary { Target::Primary } else { Target::Replica }
}
