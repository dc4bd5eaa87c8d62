//! Who is primary, who can serve: probe results in, views out. Pure; [`crate::monitor`] does the probing.
//!
//! The order of calls: [`Topology::new`]; then [`Topology::handle`] for each event as it comes, and [`Topology::tick`]
//! when [`Topology::deadline`] has come without one. Both return what is to be done. [`Topology::probe_interval`] says
//! how often a node wants to be asked now.

mod authority;
mod event;
mod lag;
pub mod lsn;
mod no_primary;
mod node;
mod roles;
pub mod view;
mod why;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use authority::{Lock, Word};
pub use event::{
    Doubt, Event, PostmasterStart, ProbeFailure, ProbeReport, Receiver, ReportedRole, SeenTimeline, SystemId,
};
pub use lsn::{Lsn, Timeline};
pub use no_primary::{Cause, NoPrimary};
pub use view::{NodeId, NodeState, NodeView, Role, Sample, View};

use authority::Authority;
use lag::{LagClock, Reach};
use node::{Claim, Health, Node};
use roles::{Roles, Standing};

/// How a cluster is watched.
#[derive(Clone, Copy, Debug)]
pub struct TopologySettings {
    /// Time between two probes of a node when all is well.
    pub interval: Duration,
    /// How long a probe may take.
    pub timeout: Duration,
    /// A replica further behind takes no reads; it comes back at half of this.
    pub max_lag: Duration,
}

/// What the shell must do after an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Publish [`Topology::view`]: it has changed.
    Publish,
    /// Probe this node at once.
    Probe(NodeId),
    /// For the log: the primary is another one, is lost, or is found; or it began a new timeline.
    PrimaryChanged {
        /// The primary until now.
        from: Option<NodeId>,
        /// The primary from now on.
        to: Option<NodeId>,
    },
    /// For the log: we have stood still for longer than evidence counts; all are asked before the primary is believed again.
    StoodStill,
    /// For the log: they have been asked since, and the primary is the one that it was.
    BelievedAgain,
    /// For the log: a node's state is another one.
    StateChanged {
        /// The node.
        node: NodeId,
        /// Its state until now.
        from: NodeState,
        /// Its state from now on; the view says why.
        to: NodeState,
    },
}

/// A cluster's nodes that are of another database system than it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeAnew {
    /// What it was.
    pub former: SystemId,
    /// What they are.
    pub system: SystemId,
}

/// One cluster as its events show it.
#[derive(Debug)]
pub struct Topology {
    settings: TopologySettings,
    /// How long evidence counts.
    lease: Duration,
    nodes: Vec<Node>,
    roles: Roles,
    authority: Authority,
    /// The leader, or the last one: what the lag is measured against.
    measured: Option<Claim>,
    /// When `measured` was accepted.
    accepted_at: Instant,
    clock: LagClock,
    samples: VecDeque<Sample>,
    epoch: u64,
    /// The cluster follows another one, and nobody is to be primary.
    is_standby: bool,
    /// When a higher timeline than the present one was given up.
    gave_up: Option<Instant>,
    /// Who is primary, or why nobody is.
    verdict: Result<NodeId, NoPrimary>,
    /// Behind a primary that is only held reads go on, without those who are silent.
    is_read_behind_held: bool,
    /// When that was decided.
    decided_at: Instant,
    /// When the primary or the state of a node changed last.
    stirred_at: Instant,
    view: Arc<View>,
}

impl Topology {
    /// A cluster of which nothing is known yet.
    pub fn new(cluster: &str, addresses: &[Arc<str>], settings: TopologySettings, now: Instant) -> Self {
        // A lag is known no finer than the primary's positions are: probe often enough to tell it from `max_lag`.
        let interval = settings.interval.min((settings.max_lag / 4).max(FINEST_INTERVAL));
        let settings = TopologySettings { interval, ..settings };
        let view = View::unknown(cluster, addresses);
        let nodes = view.nodes.iter().map(|node| Node::new(node.id, Arc::clone(&node.address))).collect();
        // Two probes missed in full leave no doubt: until then the last good one is believed.
        let lease = (settings.interval + settings.timeout) * 2;
        Self {
            settings,
            lease,
            nodes,
            roles: Roles::new(lease),
            authority: Authority::default(),
            measured: None,
            accepted_at: now,
            clock: LagClock::new(settings.max_lag),
            samples: VecDeque::with_capacity(SAMPLES),
            epoch: view.epoch,
            is_standby: false,
            gave_up: None,
            verdict: Err(Cause::NotAsked.because(view::NOT_PROBED)),
            is_read_behind_held: false,
            decided_at: now,
            stirred_at: now,
            view: Arc::new(view),
        }
    }

    /// What was proven while the cluster was watched by another one is not forgotten: its database system, the highest
    /// timeline, its last primary, and what an authority said last, if there still is one to say otherwise. If they share no
    /// node of that system, or it [was made anew](Self::is_made_anew), it is another cluster. To be called before the first event.
    pub fn remember(&mut self, before: &Self, has_authority: bool) {
        // Nothing has been accepted yet: this is when the watch began.
        if before.is_made_anew(self.accepted_at) {
            return;
        }
        // One of another system has been made anew.
        let is_of_system =
            |node: &&Node| node.system().is_none_or(|system| before.roles.system().is_none_or(|ours| ours == system));
        let same =
            |address: &Arc<str>| before.nodes.iter().find(|known| known.address == *address).filter(is_of_system);
        let mut is_same = false;
        for node in &mut self.nodes {
            if let Some(known) = same(&node.address) {
                node.remember(known);
                is_same = true;
            }
        }
        if !is_same {
            return;
        }
        let number = |id: NodeId| {
            let address = &before.node(id)?.address;
            self.nodes.iter().find(|node| node.address == *address).map(|node| node.id)
        };
        self.roles.remember(&before.roles, number);
        self.measured = before.measured.map(|claim| Claim { node: number(claim.node).unwrap_or(roles::GONE), ..claim });
        self.clock.remember(&before.clock);
        self.gave_up = before.gave_up;
        if has_authority {
            self.authority.remember(&before.authority, number);
        }
    }

    /// See [`Self::made_anew`].
    pub fn is_made_anew(&self, now: Instant) -> bool {
        self.made_anew(now).is_some()
    }

    /// Its nodes have been made anew, as far as can be seen: at least half of them answer and are of one other database system,
    /// nobody else has lived for a while, and there has been no primary for as long. Of what the authority lists no more, only
    /// what answers counts. Whether it is so, an operator must say.
    pub fn made_anew(&self, now: Instant) -> Option<MadeAnew> {
        let is_over = |moment: Instant| moment + roles::GONE_FOR <= now;
        let answering = || self.nodes.iter().filter(|node| node.is_answering());
        let (former, system) = (self.roles.system()?, answering().next()?.system()?);
        let is_gone = |node: &Node| node.is_unreachable() && node.heard().is_none_or(is_over);
        let are_theirs = answering().filter(|node| node.system() == Some(system)).count();
        let are_meant = self.nodes.iter().filter(|node| node.is_answering() || self.authority.lists(node.id)).count();
        let is_so = system != former
            && are_theirs * 2 >= are_meant
            && self.nodes.iter().all(|node| node.system() == Some(system) || is_gone(node))
            && self.view.no_primary_since.is_some_and(is_over);
        is_so.then_some(MadeAnew { former, system })
    }

    /// The picture after the last event.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// When to call [`Self::tick`] if no event comes before. What has run out by the last decision is in it already: from then
    /// on only events bring news.
    pub fn deadline(&self) -> Option<Instant> {
        // A word about the lock only ever supports a claim, and what was accepted stays so: that it stops to count changes nothing.
        let all = self.roles.deadlines(&self.nodes).into_iter().flatten();
        all.filter(|deadline| *deadline >= self.decided_at).min()
    }

    /// How often this node wants to be probed now.
    pub fn probe_interval(&self, id: NodeId, now: Instant) -> Duration {
        let hurried = self.settings.interval.min(HURRIED_INTERVAL);
        let Some(node) = self.node(id) else { return self.settings.interval };
        let is_unsettled = match node.health {
            Health::Suspect | Health::Returning => !node.is_full_replica(),
            // It may recover for hours, and each probe is a login that is refused in its log.
            Health::Starting => node.starting_since().is_some_and(|since| now < since + STARTS_WITHIN),
            Health::Unasked | Health::Good | Health::Down => false,
        };
        // So may a primary be missing; as soon as anything changes, all are asked in a hurry again.
        let is_hopeless = self.roles.accepted().is_none() && now >= self.stirred_at + IMPATIENCE;
        let is_urgent = self.is_urgent() && !is_hopeless;
        // A replica that must follow a new primary is wanted back for reads.
        let has_just_changed = now.saturating_duration_since(self.accepted_at) < SETTLING;
        let is_late = node.health == Health::Good && node.is_replica() && !node.takes_reads;
        if is_urgent || is_unsettled || (is_late && has_just_changed) { hurried } else { self.settings.interval }
    }

    /// Takes in one event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Probe { node, begun, result } => self.probed(node, begun, result, now),
            Event::Sample { node, sample, flush_lsn } => self.sampled(node, sample, flush_lsn, now),
            Event::Reconnected { node } => {
                if let Some(node) = self.node_mut(node) {
                    node.reconnected();
                }
                Vec::new()
            }
            Event::Moved { node, moves } => {
                if let Some(node) = self.node_mut(node) {
                    node.moves = moves;
                }
                self.decide(now)
            }
            Event::Doubt { node, .. } => self.doubted(node),
            Event::Word(word) => {
                self.authority.said(word);
                self.decide(now)
            }
        }
    }

    /// The node at this address, which is a new one if none is known there. New nodes come last; none ever goes, for what
    /// an authority does not list any more may still run.
    pub fn admit(&mut self, address: &Arc<str>, now: Instant) -> (NodeId, Vec<Effect>) {
        if let Some(node) = self.nodes.iter().find(|node| node.address == *address) {
            return (node.id, Vec::new());
        }
        let id = NodeId(u16::try_from(self.nodes.len()).unwrap_or(u16::MAX));
        self.nodes.push(Node::new(id, Arc::clone(address)));
        (id, self.decide(now))
    }

    /// Looks again after time alone has passed.
    pub fn tick(&mut self, now: Instant) -> Vec<Effect> {
        self.decide(now)
    }

    fn probed(
        &mut self,
        id: NodeId,
        begun: Instant,
        result: Result<ProbeReport, ProbeFailure>,
        now: Instant,
    ) -> Vec<Effect> {
        let (interval, lease) = (self.settings.interval, self.lease);
        let Some(node) = self.node_mut(id).filter(|node| node.is_news(begun)) else { return Vec::new() };
        match result {
            Ok(report) if node.contradicts(begun, &report) => return vec![Effect::Probe(id)],
            Ok(report) => {
                node.answered(begun, report, now);
                self.measure(id);
                self.judge(id);
            }
            Err(failure) => {
                let is_full = failure == ProbeFailure::TooManyConnections;
                node.failed(begun, failure, interval, lease);
                if is_full {
                    self.stands_still(id, begun);
                }
            }
        }
        self.decide(now)
    }

    fn sampled(&mut self, id: NodeId, sample: Sample, flush_lsn: Option<Lsn>, now: Instant) -> Vec<Effect> {
        let accepted = self.roles.accepted();
        // What has run out by now has, whatever this proves.
        let is_due = self.deadline().is_some_and(|deadline| deadline <= now);
        let Some(node) = self.node_mut(id) else { return Vec::new() };
        let is_primary = accepted.is_some_and(|accepted| accepted.node == id);
        // A claim of another timeline than the last one wants a whole probe, not a position alone.
        let is_other = node.last_claim().is_some_and(|claim| sample.timeline != Some(claim.timeline));
        if node.is_replica() != flush_lsn.is_none() || is_other {
            return vec![Effect::Probe(id)];
        }
        if !node.is_answering() || !node.sampled(sample, flush_lsn) {
            return Vec::new();
        }
        let is_waking = self.roles.is_waking();
        if let Some(flush_lsn) = flush_lsn.filter(|_| is_primary && !is_waking) {
            self.note(sample, Reach { record_end: sample.lsn, flush_lsn });
        }
        self.measure(id);
        let max_lag = self.settings.max_lag;
        let is_lost =
            accepted.is_some() && self.node(id).is_some_and(|node| node.takes_reads && node.lag.is_over(max_lag));
        if is_lost {
            self.judge(id);
        }
        if is_lost || is_due || is_waking {
            return self.decide(now);
        }
        self.roles.renew(&self.nodes);
        self.publish(now);
        vec![Effect::Publish]
    }

    fn doubted(&self, id: NodeId) -> Vec<Effect> {
        // Who lost the primary wants to know of all the others.
        if self.view.primary == Some(id) {
            return self.nodes.iter().map(|node| Effect::Probe(node.id)).collect();
        }
        vec![Effect::Probe(id)]
    }

    /// Decides who is primary and who takes reads, and publishes it.
    fn decide(&mut self, now: Instant) -> Vec<Effect> {
        let (was_urgent, was_waking) = (self.is_urgent(), self.roles.is_waking());
        let before = self.view();
        let held = self.roles.accepted();
        if let Some(timeline) = self.roles.given_up_for(&self.nodes, &self.authority, now) {
            self.roles.gives_up_above(timeline);
            for node in &mut self.nodes {
                node.gives_up_above(timeline);
            }
            self.gave_up = Some(now);
        }
        if let Some(holder) = self.authority.primary(now).and_then(|holder| self.node_mut(holder)) {
            holder.is_chosen();
        }
        self.verdict = self.roles.decide(&self.nodes, &self.authority, now);
        self.decided_at = now;
        let accepted = self.roles.accepted();
        let is_waking = self.roles.is_waking();
        if accepted.is_some() && !is_waking {
            self.authority.is_led(now);
        }
        self.is_standby = self.authority.is_standby_cluster(now);
        self.is_read_behind_held = self.roles.is_followed_anew(&self.nodes, now);
        // What a primary tells that is not believed is no measure: it may have been left behind. And who follows the leader of a
        // standby cluster is measured anew once all have been asked since we stood still.
        let is_measure =
            if accepted.is_some() { !is_waking || self.is_read_behind_held } else { !self.has_stood_still(now) };
        if let Some(leader) = self.leader(now).filter(|_| is_measure) {
            self.measure_against(leader, now);
        } else {
            self.samples.clear();
        }
        self.judge_reads();
        self.explain();

        let has_changed = place(held) != place(accepted);
        self.epoch += u64::from(has_changed);
        self.publish(now);
        let mut effects = self.effects(&before, has_changed, was_urgent);
        let is_stir = |effect: &Effect| matches!(effect, Effect::PrimaryChanged { .. } | Effect::StateChanged { .. });
        if effects.iter().any(is_stir) {
            self.stirred_at = now;
        }
        match (was_waking, is_waking) {
            (false, true) => effects.push(Effect::StoodStill),
            (true, false) if accepted.is_some() && !has_changed => effects.push(Effect::BelievedAgain),
            _ => {}
        }
        effects
    }

    /// What the others are measured against: the primary, or where there is none by design the node that brings them all
    /// they have.
    fn leader(&self, now: Instant) -> Option<Claim> {
        self.roles.accepted().or_else(|| {
            let Some(Lock::Standby(id)) = self.authority.lock(now) else { return None };
            let node = self.node(id).filter(|node| node.is_answering() && node.is_replica())?;
            let own = node.received()?.timeline?;
            let report = node.report()?;
            // One that gets the log from an archive learns of a timeline late; what it has passed on tells of it.
            let passes_on = |below: &&Node| below.has_just_answered() && below.streams_from(&node.address);
            let below = self.nodes.iter().filter(passes_on).filter_map(|below| below.position?.timeline);
            let timeline = if node.is_surely_of(report.system, own) { own } else { below.fold(own, Timeline::max) };
            Some(Claim { node: id, system: report.system, timeline, postmaster_start: report.postmaster_start })
        })
    }

    /// Lags are measured against the leader, from its first moment on.
    fn measure_against(&mut self, claim: Claim, now: Instant) {
        let is_led = self.roles.accepted().is_none();
        // Where another node begins to lead a standby cluster, the history stays the same, and what was known of it is true.
        let goes_on =
            is_led && self.measured.is_some_and(|last| last.system == claim.system && last.timeline == claim.timeline);
        if !goes_on && place(self.measured) != place(Some(claim)) {
            self.accepted_at = now;
            self.clock.clear();
            self.samples.clear();
            for node in &mut self.nodes {
                node.lag.clear();
                node.has_followed = false;
            }
        }
        let is_first = self.samples.is_empty();
        self.measured = Some(claim);
        let passed_on = self.clock.flush_lsn();
        let known = self.node(claim.node).and_then(|node| match is_led {
            true => {
                // One that leads since just now may lack what the one before has passed on.
                let sample = node.received().filter(|sample| passed_on.is_none_or(|before| sample.lsn >= before))?;
                let record_end = node.replayed().unwrap_or(sample.lsn);
                let sample = Sample { timeline: Some(claim.timeline), ..sample };
                Some((sample, Reach { record_end, flush_lsn: sample.lsn }))
            }
            false => {
                let sample = node.position?;
                Some((sample, Reach { record_end: sample.lsn, flush_lsn: node.flush_lsn? }))
            }
        });
        if let Some((sample, reach)) = known {
            self.note(sample, reach);
        }
        if is_first {
            for id in self.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
                self.measure(id);
                self.judge(id);
            }
        }
    }

    /// Notes a position of the leader, and how far its log goes there.
    fn note(&mut self, sample: Sample, reach: Reach) {
        let is_of_leader = self.measured.is_some_and(|leader| sample.timeline == Some(leader.timeline));
        if !is_of_leader {
            return;
        }
        self.clock.note(sample.begun, reach);
        let at = self.samples.partition_point(|known| known.begun < sample.begun);
        if self.samples.get(at).is_some_and(|known| known.begun == sample.begun) {
            return;
        }
        self.samples.insert(at, sample);
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
    }

    /// Measures how far a replica is behind, unless its position is of another history than the primary's.
    fn measure(&mut self, id: NodeId) {
        // Of a primary that is lost, what was heard last counts.
        let Some(accepted) = self.roles.accepted().or(self.measured) else { return };
        let clock = &self.clock;
        let Some(node) = self.nodes.get_mut(usize::from(id.0)).filter(|node| node.is_replica()) else { return };
        let Some(position) = node.position else { return };
        if position.timeline.is_none_or(|timeline| timeline == accepted.timeline) {
            node.lag.measure(clock, position);
        }
    }

    /// A replica that lives and does not tell where it is: it may have come no further.
    fn stands_still(&mut self, id: NodeId, begun: Instant) {
        let (clock, max_lag) = (&self.clock, self.settings.max_lag);
        let Some(node) = self.nodes.get_mut(usize::from(id.0)).filter(|node| node.is_replica()) else { return };
        let Some(position) = node.position.filter(|position| position.begun < begun) else { return };
        node.lag.measure(clock, Sample { begun, ..position });
        if node.lag.is_over(max_lag) {
            node.lag.judge(max_lag);
        }
    }

    fn judge(&mut self, id: NodeId) {
        let max_lag = self.settings.max_lag;
        let is_measured = self.measured.is_some();
        let Some(node) = self.node_mut(id).filter(|node| is_measured && node.is_replica()) else { return };
        node.lag.judge(max_lag);
    }

    /// Who may take reads. While there is no primary nobody can follow it: what was decided before stands, of whoever is still
    /// near the last that was heard of it. So it does for one that does not stream any more, until the primary is heard of
    /// again: it may be the primary that is lost.
    fn judge_reads(&mut self) {
        let primary = self.roles.accepted();
        let heard = primary.and_then(|claim| self.node(claim.node)?.heard());
        let obstacle_of = |node: &Node| why::obstacle(&self.roles, &self.nodes, node);
        let obstacles: Vec<_> = self.nodes.iter().map(obstacle_of).collect();
        for (node, obstacle) in self.nodes.iter_mut().zip(obstacles).filter(|(node, _)| node.has_just_answered()) {
            let is_forbidden = self.authority.forbids_reads(node.id);
            if primary.is_some() {
                let is_cut_off = obstacle == Some(why::NOT_STREAMING) && node.heard() > heard && node.lag.is_near();
                node.has_followed = obstacle.is_none() || is_cut_off && node.has_followed;
                node.takes_reads = !is_forbidden && node.has_followed;
            } else if self.is_standby {
                // Who leads is behind nobody here.
                let is_near = |leader: Claim| leader.node == node.id || node.is_near(leader);
                node.takes_reads = !is_forbidden && node.is_replica() && self.measured.is_none_or(is_near);
            } else {
                node.takes_reads &= self.measured.is_none_or(|last| node.is_near(last));
            }
        }
    }

    /// Writes anew why each node is as it is.
    fn explain(&mut self) {
        let all: Vec<_> = self.nodes.iter().map(|node| why::why(&self.roles, &self.nodes, node)).collect();
        for (node, mut words) in self.nodes.iter_mut().zip(all) {
            if node.is_replica() && self.authority.forbids_reads(node.id) {
                words.push_str("; takes no reads by its tag noloadbalance");
            }
            if *node.why != *words {
                node.why = words.into();
            }
        }
    }

    /// Makes a new view of all that is decided.
    fn publish(&mut self, now: Instant) {
        let samples = if self.view.primary_samples.iter().eq(self.samples.iter()) {
            Arc::clone(&self.view.primary_samples)
        } else {
            self.samples.iter().copied().collect()
        };
        self.view = Arc::new(View {
            cluster: Arc::clone(&self.view.cluster),
            epoch: self.epoch,
            primary: self.verdict.as_ref().ok().copied(),
            primary_until: self.roles.believed_until(),
            replicas_until: self.replicas_until(now),
            no_primary_because: self.verdict.as_ref().err().cloned(),
            no_primary_since: self.verdict.is_err().then(|| self.view.no_primary_since.unwrap_or(now)),
            is_standby: self.is_standby,
            system: self.roles.system(),
            gave_up: self.gave_up,
            nodes: self.nodes.iter().map(|node| self.picture(node, now)).collect(),
            primary_samples: samples,
        });
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// See [`View::replicas_until`]. Who answers is asked again sooner than evidence runs out, unless we have not run; who is
    /// silent, or asked in vain, keeps nobody from reading elsewhere: for long, where a primary is to be believed again.
    fn replicas_until(&self, now: Instant) -> Option<Instant> {
        let primary = match self.is_read_behind_held {
            true => self.roles.evidence_until(&self.nodes),
            false => self.roles.believed_until(),
        };
        self.all_heard_until(now).into_iter().chain(primary).min()
    }

    /// Somebody who answers has not been asked for longer than evidence counts.
    fn has_stood_still(&self, now: Instant) -> bool {
        self.all_heard_until(now).is_some_and(|until| until <= now)
    }

    fn all_heard_until(&self, now: Instant) -> Option<Instant> {
        let answering = self.nodes.iter().filter(|node| node.has_just_answered() && !self.is_left_out(node, now));
        answering.filter_map(|node| node.heard_until(self.lease)).min()
    }

    /// Reads go on without it, until it is asked.
    fn is_left_out(&self, node: &Node, now: Instant) -> bool {
        self.is_read_behind_held && node.is_unheard(now, self.lease)
    }

    fn picture(&self, node: &Node, now: Instant) -> NodeView {
        let standing = self.roles.standing(node);
        let is_replica = standing == Standing::Replica;
        let took_reads = is_replica && node.health == Health::Good && node.takes_reads;
        let is_silent = took_reads && self.is_left_out(node, now);
        let takes_reads = took_reads && !is_silent;
        let before = self.view.node(node.id).and_then(|before| before.reads_since);
        let behind = |position: Sample| Some(self.clock.newest_position()?.bytes_since(position.lsn));
        NodeView {
            id: node.id,
            address: Arc::clone(&node.address),
            role: match standing {
                Standing::Primary => Role::Primary,
                Standing::Replica => Role::Replica,
                _ => Role::Unknown,
            },
            state: state_of(node, standing),
            takes_reads,
            is_silent,
            reads_since: took_reads.then(|| before.unwrap_or(now)),
            is_leaving: node.report().is_some_and(|report| report.is_leaving),
            reported: node.reported(),
            is_forgotten: false,
            position: node.position,
            up_since: node.up_since,
            moves: node.moves,
            answers_nobody: node.answers_nobody(),
            lag_bytes: node.position.filter(|_| is_replica).and_then(behind),
            lag: node.lag.lag().filter(|_| is_replica),
            why: Arc::clone(&node.why),
        }
    }

    fn effects(&self, before: &View, has_changed: bool, was_urgent: bool) -> Vec<Effect> {
        let mut effects = vec![Effect::Publish];
        if has_changed {
            effects.push(Effect::PrimaryChanged { from: before.primary, to: self.view.primary });
        }
        let states = before.nodes.iter().zip(&self.view.nodes).filter(|(old, new)| old.state != new.state);
        effects.extend(states.map(|(old, new)| Effect::StateChanged { node: new.id, from: old.state, to: new.state }));
        if has_changed || (self.is_urgent() && !was_urgent) {
            effects.extend(self.nodes.iter().map(|node| Effect::Probe(node.id)));
        }
        effects
    }

    /// There is no primary, or the one there is has missed a probe or is not believed.
    fn is_urgent(&self) -> bool {
        let primary = self.roles.accepted().and_then(|claim| self.node(claim.node));
        self.roles.is_waking() || !self.is_standby && primary.is_none_or(|node| node.health != Health::Good)
    }

    fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::from(id.0))
    }

    fn node_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(usize::from(id.0))
    }

    /// Panics if the view contradicts itself or what is known; called after every event in debug builds.
    pub fn check_invariants(&self) {
        self.roles.check_invariants();
        let view = &self.view;
        let accepted = self.roles.accepted();
        assert_eq!(view.primary, accepted.map(|claim| claim.node), "the view shows another primary");
        assert_ne!(view.primary.is_some(), view.no_primary_because.is_some(), "either a primary or a reason for none");
        assert_eq!(view.primary.is_some(), view.primary_until.is_some(), "a primary whose evidence never runs out");
        let has_readers = view.readable_replicas().next().is_some();
        assert!(!has_readers || view.replicas_until.is_some(), "replicas whose evidence never runs out");
        for node in &view.nodes {
            assert_eq!(node.role == Role::Primary, view.primary == Some(node.id), "role and primary differ");
            let can_lead = matches!(node.state, NodeState::Up | NodeState::Suspect);
            assert!(node.role != Role::Primary || can_lead, "a primary that is {:?}", node.state);
            assert!(
                !node.answers_nobody || node.state == NodeState::Down,
                "silence of a node that is {:?}",
                node.state
            );
            let can_read = node.role == Role::Replica && node.state == NodeState::Up;
            assert!(!node.takes_reads || can_read, "reads on a node that is {:?}, {:?}", node.role, node.state);
        }
        let timeline = self.measured.map(|leader| leader.timeline);
        let samples = &view.primary_samples;
        assert!(samples.iter().all(|sample| sample.timeline == timeline), "a sample of another timeline");
        assert!(samples.is_sorted_by(|one, next| one.begun < next.begun), "samples out of order");
        assert!(samples.len() <= SAMPLES, "too many samples");
    }
}

/// What makes a primary another one.
fn place(claim: Option<Claim>) -> Option<(NodeId, Timeline)> {
    claim.map(|claim| (claim.node, claim.timeline))
}

fn state_of(node: &Node, standing: Standing) -> NodeState {
    match node.health {
        Health::Unasked => NodeState::Unknown,
        Health::Starting => NodeState::Starting,
        Health::Down => NodeState::Down,
        Health::Good | Health::Returning | Health::Suspect => match standing {
            Standing::Foreign => NodeState::Foreign,
            Standing::Stale => NodeState::StalePrimary,
            Standing::Duplicate => NodeState::Duplicate,
            Standing::Unconfirmed => NodeState::UnconfirmedPrimary,
            Standing::Unknown => NodeState::Suspect,
            Standing::Primary | Standing::Replica if node.health == Health::Good => NodeState::Up,
            Standing::Primary | Standing::Replica => NodeState::Suspect,
        },
    }
}

/// Samples of the primary in a view: at 1 ms apart, what the slowest waiter may still want.
const SAMPLES: usize = 64;
/// However small `max_lag` is, nodes are not probed more often for it.
const FINEST_INTERVAL: Duration = Duration::from_millis(10);
/// How often nodes are probed while there is no primary to write to.
const HURRIED_INTERVAL: Duration = Duration::from_millis(50);
/// Most crash recoveries and all that a restart takes: what starts for longer may do so for hours.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// A failover is over by then, or somebody must come: from then on nodes are asked as often as ever.
const IMPATIENCE: Duration = Duration::from_secs(60);
/// How long after a change of primary its followers are looked for in a hurry.
const SETTLING: Duration = Duration::from_secs(10);
