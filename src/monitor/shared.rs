//! What the watchers of a cluster share: its topology under one short lock, its published view, and wishes for nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{OnView, ProbeCounters};
use crate::config;
use crate::net::timers;
use crate::topology::{Doubt, Effect, Event, MadeAnew, NodeId, NodeState, NodeView, Topology, TopologySettings, View};

/// What the watchers of a cluster share.
pub(super) struct Shared {
    pub(super) view: Arc<ArcSwap<View>>,
    topology: Mutex<Topology>,
    nodes: Vec<Signals>,
    /// Addresses of nodes that an operator has drained. All who watch the cluster share it, before a reload and after: what is
    /// ordered while a reload waits counts for both.
    drained: Arc<Mutex<BTreeSet<Arc<str>>>>,
    /// The configuration names its nodes; others are found.
    has_list: bool,
    changed: watch::Sender<u64>,
    on_view: OnView,
    alarm: Alarm,
    /// Moments are kept as nanoseconds since this one.
    start: Instant,
}

/// When time by itself may change the topology.
struct Alarm {
    /// What [`keep_time`] waits for, in nanoseconds since the start.
    set_for: AtomicU64,
    /// It has to be earlier.
    moved_up: Notify,
}

/// What others want of the watcher of one node, and what it has counted.
#[derive(Debug, Default)]
pub(super) struct Signals {
    is_probe_wanted: AtomicBool,
    is_sample_wanted: AtomicBool,
    /// Operators need not see it any more.
    is_forgotten: AtomicBool,
    /// Nanoseconds since the start.
    follow_until: AtomicU64,
    pub(super) woken: Notify,
    pub(super) counters: ProbeCounters,
}

impl Shared {
    pub(super) fn new(
        cluster: &config::Cluster,
        nodes: &[Arc<str>],
        settings: TopologySettings,
        before: Option<&Self>,
        on_view: OnView,
    ) -> (Self, watch::Receiver<u64>) {
        let start = Instant::now();
        let mut topology = Topology::new(&cluster.name, nodes, settings, start);
        if let Some(before) = before {
            topology.remember(&before.topology.lock(), !cluster.patroni.is_empty());
        }
        let (changed, receiver) = watch::channel(0);
        let shared = Self {
            view: Arc::new(ArcSwap::new(topology.view())),
            topology: Mutex::new(topology),
            nodes: (0..most_nodes(cluster)).map(|_| Signals::default()).collect(),
            drained: before.map(|before| Arc::clone(&before.drained)).unwrap_or_default(),
            has_list: !cluster.nodes.is_empty(),
            changed,
            on_view,
            alarm: Alarm { set_for: AtomicU64::new(0), moved_up: Notify::new() },
            start,
        };
        (shared, receiver)
    }

    /// See [`Topology::made_anew`].
    pub(super) fn made_anew(&self) -> Option<MadeAnew> {
        self.topology.lock().made_anew(Instant::now())
    }

    pub(super) fn signals(&self, node: NodeId) -> Option<&Signals> {
        self.nodes.get(usize::from(node.0))
    }

    pub(super) fn request_sample(&self, node: NodeId) {
        let Some(signals) = self.signals(node) else { return };
        // Sequentially consistent: whoever asks after a write must not be served by a sample begun before it.
        if !signals.is_sample_wanted.swap(true, Ordering::SeqCst) {
            signals.woken.notify_one();
        }
    }

    pub(super) fn follow_until(&self, node: NodeId, until: Instant) {
        let Some(signals) = self.signals(node) else { return };
        let until = self.nanos(until);
        let before = signals.follow_until.fetch_max(until, Ordering::Relaxed);
        if before < self.nanos(Instant::now()) {
            signals.woken.notify_one();
        }
    }

    pub(super) fn doubt(&self, node: NodeId, cause: Doubt) {
        // A storm of doubts asks for one probe; only the first takes the lock.
        if self.signals(node).is_some_and(|signals| !signals.is_probe_wanted.load(Ordering::SeqCst)) {
            self.handle(Event::Doubt { node, cause });
        }
    }

    /// Takes in an event, publishes what follows from it, and passes wishes on to watchers.
    pub(super) fn handle(&self, event: Event) {
        let mut topology = self.topology.lock();
        let effects = topology.handle(event, Instant::now());
        self.act(&topology, effects);
    }

    /// The node at this address, from now on one of the cluster's. None if there are too many.
    pub(super) fn admit(&self, address: &Arc<str>) -> Option<NodeId> {
        let mut topology = self.topology.lock();
        let is_known = topology.view().nodes.iter().any(|node| node.address == *address);
        if !is_known && topology.view().nodes.len() >= self.nodes.len() {
            return None;
        }
        let (node, effects) = topology.admit(address, Instant::now());
        self.act(&topology, effects);
        Some(node)
    }

    /// The node is not shown any more; or it is again. It is asked as before: for who is primary, each node's word counts.
    pub(super) fn forget(&self, node: NodeId, is_forgotten: bool) {
        let Some(signals) = self.signals(node) else { return };
        if signals.is_forgotten.swap(is_forgotten, Ordering::SeqCst) != is_forgotten {
            self.show_anew();
        }
    }

    /// How the monitor's last attempt to log in to the node anew has ended: with this problem, or well.
    pub(super) fn login_ended(&self, node: NodeId, problem: Option<&Arc<str>>) {
        let Some(signals) = self.signals(node) else { return };
        let mut known = signals.counters.login_problem.lock();
        if known.as_ref() != problem {
            *known = problem.cloned();
            drop(known);
            self.show_anew();
        }
    }

    /// How often the node wants to be probed now.
    pub(super) fn probe_interval(&self, node: NodeId) -> Duration {
        self.topology.lock().probe_interval(node, Instant::now())
    }

    /// Lets time pass; returns the next moment at which that may change something.
    fn tick(&self) -> Option<Instant> {
        let mut topology = self.topology.lock();
        let now = Instant::now();
        if topology.deadline().is_some_and(|deadline| deadline <= now) {
            let effects = topology.tick(now);
            self.act(&topology, effects);
        }
        let next = topology.deadline();
        self.alarm.set_for.store(next.map_or(NEVER, |next| self.nanos(next)), Ordering::Relaxed);
        next
    }

    /// Under the topology's lock, so that views are published in the order they were made, and no deadline is missed.
    fn act(&self, topology: &Topology, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish => self.publish(topology.view()),
                Effect::Probe(node) => self.want_probe(node),
                Effect::PrimaryChanged { from, to } => log_primary(&topology.view(), from, to),
                Effect::StoodStill => log_standstill(&topology.view()),
                Effect::BelievedAgain => log_belief(&topology.view()),
                Effect::StateChanged { node, from, to } => log_state(&topology.view(), node, from, to),
            }
        }
        if topology.deadline().is_some_and(|next| self.nanos(next) < self.alarm.set_for.load(Ordering::Relaxed)) {
            self.alarm.moved_up.notify_one();
        }
    }

    fn publish(&self, view: Arc<View>) {
        let view = self.without_forgotten(self.with_login_problems(self.without_drained(view)));
        // What lost its role is fenced before anyone can act on the new epoch.
        (self.on_view)(&self.view.load(), &view);
        self.view.store(view);
        self.changed.send_modify(|count| *count += 1);
    }

    /// An operator takes a node out of reading, or puts it back; false: that changed nothing.
    pub(super) fn set_drained(&self, node: NodeId, is_drained: bool) -> bool {
        let topology = self.topology.lock();
        let view = topology.view();
        let Some(address) = view.node(node).map(|node| Arc::clone(&node.address)) else { return false };
        let has_changed = match is_drained {
            true => self.drained.lock().insert(address),
            false => self.drained.lock().remove(&address),
        };
        if has_changed {
            self.publish(view);
        }
        has_changed
    }

    /// Addresses of the nodes that an operator has taken out of reading.
    pub(super) fn drained(&self) -> Vec<Arc<str>> {
        self.drained.lock().iter().cloned().collect()
    }

    /// The view shows what an operator has drained, whoever watched the cluster then, and what is forgotten.
    pub(super) fn show_anew(&self) {
        let topology = self.topology.lock();
        self.publish(topology.view());
    }

    /// No reload waits any more: of a node that is not in the configuration nothing is remembered.
    pub(super) fn settle_drained(&self) {
        if self.has_list {
            let view = self.topology.lock().view();
            self.drained.lock().retain(|address| view.nodes.iter().any(|node| node.address == *address));
        }
        self.show_anew();
    }

    /// A node that an operator has drained takes no reads, whatever topology would allow.
    fn without_drained(&self, mut view: Arc<View>) -> Arc<View> {
        let drained = self.drained.lock();
        let is_affected = |node: &NodeView| node.takes_reads && drained.contains(&node.address);
        if view.nodes.iter().any(is_affected) {
            let view = Arc::make_mut(&mut view);
            for node in view.nodes.iter_mut().filter(|node| is_affected(node)) {
                node.takes_reads = false;
                node.why = "drained by an operator".into();
            }
        }
        view
    }

    /// A node that lets the monitor in no more is as well as ever while what it is logged in with answers: its words say so.
    fn with_login_problems(&self, mut view: Arc<View>) -> Arc<View> {
        let problem = |node: &NodeView| {
            let signals = self.signals(node.id).filter(|_| node.state == NodeState::Up)?;
            signals.counters.login_problem.lock().clone()
        };
        if view.nodes.iter().any(|node| problem(node).is_some()) {
            for node in &mut Arc::make_mut(&mut view).nodes {
                if let Some(problem) = problem(node) {
                    node.why = format!("{}; the monitor cannot log in anew: it {problem}", node.why).into();
                }
            }
        }
        view
    }

    fn without_forgotten(&self, mut view: Arc<View>) -> Arc<View> {
        let is_forgotten = |node: &NodeView| self.signals(node.id).is_some_and(Signals::is_forgotten);
        if view.nodes.iter().any(is_forgotten) {
            let view = Arc::make_mut(&mut view);
            view.nodes.iter_mut().for_each(|node| node.is_forgotten = is_forgotten(node));
        }
        view
    }

    pub(super) fn wake_all(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn want_probe(&self, node: NodeId) {
        if let Some(signals) = self.signals(node) {
            signals.want_probe();
        }
    }

    /// Whether somebody follows the node's position now.
    pub(super) fn is_followed(&self, signals: &Signals) -> bool {
        signals.follow_until.load(Ordering::Relaxed) > self.nanos(Instant::now())
    }

    fn nanos(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Nodes that a cluster may come to have: as many as are configured, or what Patroni may list.
pub fn most_nodes(cluster: &config::Cluster) -> usize {
    if cluster.nodes.is_empty() { MOST_DISCOVERED } else { cluster.nodes.len() }
}

/// Addresses that Patroni may list while the process runs. Each costs a few hundred bytes.
const MOST_DISCOVERED: usize = 1024;

impl Signals {
    /// Wishes for a probe.
    pub(super) fn want_probe(&self) {
        self.is_probe_wanted.store(true, Ordering::SeqCst);
        self.woken.notify_one();
    }

    /// Takes the wish for a probe, if there is one. Whoever wishes from now on gets another.
    pub(super) fn take_probe(&self) -> bool {
        self.is_probe_wanted.swap(false, Ordering::SeqCst)
    }

    /// A probe is wanted.
    pub(super) fn is_probe_wanted(&self) -> bool {
        self.is_probe_wanted.load(Ordering::SeqCst)
    }

    /// It is not to be shown.
    fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::SeqCst)
    }

    /// Takes the wish for a sample, if there is one. Whoever wishes from now on gets another.
    pub(super) fn take_sample(&self) -> bool {
        self.is_sample_wanted.swap(false, Ordering::SeqCst)
    }

    /// A sample is wanted.
    pub(super) fn is_sample_wanted(&self) -> bool {
        self.is_sample_wanted.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// Evidence runs out by time alone, also when every watcher waits for an answer.
pub(super) async fn keep_time(shared: Arc<Shared>) {
    loop {
        let next = shared.tick();
        let is_due = async {
            match next {
                Some(next) => timers::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = is_due => {}
            () = shared.alarm.moved_up.notified() => {}
        }
    }
}

fn log_primary(view: &View, from: Option<NodeId>, to: Option<NodeId>) {
    let name = |id: Option<NodeId>| id.and_then(|id| view.node(id)).map_or("none", |node| &*node.address);
    let why = view.primary().map_or_else(|| view.why_no_primary(), |node| Some(&*node.why)).unwrap_or("");
    if to.is_some() {
        info!(cluster = %view.cluster, epoch = view.epoch, from = name(from), to = name(to), why, "the primary changed");
    } else {
        warn!(cluster = %view.cluster, epoch = view.epoch, from = name(from), why, "the primary is lost");
    }
}

fn log_standstill(view: &View) {
    let primary = view.primary().map_or("none", |node| &*node.address);
    warn!(cluster = %view.cluster, primary, "Trunkline stood still: no writes before every node has been asked anew, and no reads from replicas before the primary has");
}

fn log_belief(view: &View) {
    let (primary, why) = view.primary().map_or(("none", ""), |node| (&*node.address, &*node.why));
    info!(cluster = %view.cluster, primary, why, "every node has been asked anew: the primary is the one that it was");
}

fn log_state(view: &View, node: NodeId, from: NodeState, to: NodeState) {
    let Some(node) = view.node(node) else { return };
    let (cluster, address, why) = (&*view.cluster, &*node.address, &*node.why);
    if matches!(to, NodeState::Up | NodeState::Starting) {
        info!(cluster, node = address, ?from, ?to, why, "a node changed its state");
    } else {
        warn!(cluster, node = address, ?from, ?to, why, "a node changed its state");
    }
}

/// No moment is as late as this.
const NEVER: u64 = u64::MAX;
