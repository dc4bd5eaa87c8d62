//! A cluster that is watched: its monitor, the gates of its nodes, and who fences them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::auth::NodeTls;
use crate::backend::{Gate, Hold, Holder, LastWrite, Shown};
use crate::catalogs::ClusterView;
use crate::client;
use crate::client::auth_query::AuthQuery;
use crate::config;
use crate::metrics::Scrape;
use crate::monitor::{self, Limits, Monitor, MonitorHandle, OnView, PRIMARY_FOUND_WITHIN};
use crate::net::timers;
use crate::topology::{MadeAnew, NodeId, NodeState, NodeView, Role, View};

/// A cluster that is watched.
pub(super) struct RunningCluster {
    /// Its number in pool keys.
    pub(super) number: usize,
    config: config::Cluster,
    limits: Limits,
    /// One for as long as the cluster has its name: pools keep it.
    tls: Arc<ArcSwap<NodeTls>>,
    /// The monitor's own, which may have to find out whether another one is right.
    tls_of_monitor: Arc<ArcSwap<NodeTls>>,
    /// The same goes for when it was written to last.
    last_write: Arc<LastWrite>,
    /// What is remembered of its users, while it has its nodes and is asked in the same way.
    auth_query: Arc<ArcSwapOption<AuthQuery>>,
    gates: Arc<[Arc<Gate>]>,
    monitor: Arc<Monitor>,
    fences: Arc<Fences>,
}

/// Acts on the gates of a cluster's nodes as views change; only while it is in force, for a reload may have two
/// monitors watch the same nodes for a moment.
struct Fences {
    gates: Arc<[Arc<Gate>]>,
    in_force: AtomicBool,
}

impl RunningCluster {
    /// Watches a cluster from now on. Nodes that were known before keep their gates, and where they are found by Patroni
    /// their numbers, by which pools know them. Nothing is fenced before [`Self::take_over`].
    pub(super) fn start(number: usize, cluster: &config::Cluster, limits: Limits, before: Option<&Self>) -> Self {
        let known = before.map(|before| before.gates_for(cluster)).unwrap_or_default();
        let tls = before.map(|before| Arc::clone(&before.tls)).unwrap_or_default();
        let last_write = before.map(|before| Arc::clone(&before.last_write)).unwrap_or_default();
        let same = before.filter(|before| before.is_same(cluster) && before.number == number);
        let auth_query = same.map(|before| Arc::clone(&before.auth_query)).unwrap_or_default();
        let tls_of_monitor = Arc::new(ArcSwap::from_pointee(cluster.tls.clone()));
        let gate = |address: &Arc<str>| {
            let known = known.iter().find(|(other, _)| other == address);
            known.map_or_else(Arc::default, |(_, gate)| Arc::clone(gate))
        };
        let is_discovered = cluster.nodes.is_empty();
        let seeds: Vec<Arc<str>> = known.iter().filter(|_| is_discovered).map(|(node, _)| Arc::clone(node)).collect();
        let nodes = if is_discovered { &seeds } else { &cluster.nodes };
        let more = monitor::most_nodes(cluster).saturating_sub(nodes.len());
        let gates: Arc<[Arc<Gate>]> = nodes.iter().map(gate).chain((0..more).map(|_| Arc::default())).collect();
        let fences = Arc::new(Fences { gates: Arc::clone(&gates), in_force: AtomicBool::new(false) });
        let (handle, runtime) = (before.map(Self::handle), tokio::runtime::Handle::current());
        let known = handle.as_ref().map(|monitor| monitor::Before { monitor, found: &seeds });
        let monitor = Monitor::start(cluster, &tls_of_monitor, limits, fences.watch(), &gates, known, &runtime);
        Self {
            number,
            config: cluster.clone(),
            limits,
            tls,
            tls_of_monitor,
            last_write,
            auth_query,
            gates,
            monitor: Arc::new(monitor),
            fences,
        }
    }

    /// From now on, this one's views decide who is fenced, and at once what it has learnt until now.
    pub(super) fn take_over(&self) {
        if !self.fences.in_force.swap(true, Ordering::AcqRel) {
            self.fences.act(&self.handle().view());
        }
    }

    /// Its configured name.
    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// What others may ask of its monitor.
    pub(super) fn handle(&self) -> MonitorHandle {
        self.monitor.handle()
    }

    /// As clients see it.
    pub(super) fn for_clients(&self, mock_secret: &[u8; 32]) -> client::Cluster {
        let handle = self.handle();
        let (sampler, follower, doubter, drainer) = (handle.clone(), handle.clone(), handle.clone(), handle.clone());
        let (prober, drained, switcher) = (handle.clone(), handle.clone(), handle.clone());
        client::Cluster {
            name: Arc::clone(&self.config.name),
            number: self.number,
            gates: Arc::clone(&self.gates),
            auth_query: self.asks_for_users(mock_secret),
            tls: Arc::clone(&self.tls),
            last_write: Arc::clone(&self.last_write),
            view: Arc::clone(&handle.view),
            changed: handle.changed,
            request_sample: Box::new(move |node| sampler.request_sample(node)),
            follow_until: Box::new(move |node, until| follower.follow_until(node, until)),
            doubt: Box::new(move |node, cause| doubter.doubt(node, cause)),
            set_drained: Box::new(move |node, drained| drainer.set_drained(node, drained)),
            drained: Box::new(move || drained.drained()),
            switch_over: Box::new(move |to, is_asked| {
                let switcher = switcher.clone();
                Box::pin(async move {
                    let done = switcher.switch_over(to.as_deref(), &is_asked).await;
                    done.map_err(|error| error.to_string())
                })
            }),
            show_probes: Box::new(move |scrape| show_probes(&prober, scrape)),
            groups: self.config.groups.clone(),
            balance: self.config.balance.clone(),
        }
    }

    /// Who asks it for its users: the same as before, where nothing has changed in how.
    fn asks_for_users(&self, mock_secret: &[u8; 32]) -> Option<Arc<AuthQuery>> {
        let wanted = self.config.auth_query.as_ref();
        let before = self.auth_query.load_full().filter(|before| wanted.is_some_and(|wanted| before.is_as(wanted)));
        let asks = before.or_else(|| wanted.map(|wanted| Arc::new(AuthQuery::new(wanted.clone(), *mock_secret))));
        self.auth_query.store(asks.clone());
        asks
    }

    /// As those see it who read its databases' catalogs.
    pub(super) fn for_catalogs(&self) -> ClusterView {
        let handle = self.handle();
        ClusterView { view: Arc::clone(&handle.view), changed: handle.changed, tls: Arc::clone(&self.tls) }
    }

    /// It is watched as this configuration wants it.
    pub(super) fn is_as(&self, wanted: &config::Cluster, limits: Limits) -> bool {
        let (mine, other) = (&self.config.monitor, &wanted.monitor);
        self.is_same(wanted)
            && self.config.name == wanted.name
            && self.limits == limits
            && self.config.tls.is_as(&wanted.tls)
            && mine.user == other.user
            && mine.password.plain() == other.password.plain()
            && mine.database == other.database
            && mine.interval == other.interval
            && mine.timeout == other.timeout
    }

    /// Its nodes are another database system's by now, and which: what is known of it is of no use then.
    pub(super) fn made_anew(&self) -> Option<MadeAnew> {
        self.handle().made_anew()
    }

    /// It is this cluster, by whatever name: its nodes are found in the same places.
    pub(super) fn is_same(&self, wanted: &config::Cluster) -> bool {
        self.has_nodes_of(wanted) && self.config.patroni == wanted.patroni
    }

    /// Its nodes are those of this configuration, in the same order.
    pub(super) fn has_nodes_of(&self, wanted: &config::Cluster) -> bool {
        self.config.nodes == wanted.nodes
    }

    /// This node has the same number in that configuration.
    pub(super) fn keeps(&self, node: NodeId, wanted: &config::Cluster) -> bool {
        let index = usize::from(node.0);
        self.config.nodes.get(index).is_some_and(|address| wanted.nodes.get(index) == Some(address))
    }

    /// The same, with the groups of this configuration, reads shared as it wants it, and TLS towards Patroni as it says as soon
    /// as that is [in force](Self::encrypts_as_configured).
    pub(super) fn with_groups(&self, wanted: &config::Cluster) -> Self {
        Self {
            number: self.number,
            config: wanted.clone(),
            limits: self.limits,
            tls: Arc::clone(&self.tls),
            tls_of_monitor: Arc::clone(&self.tls_of_monitor),
            last_write: Arc::clone(&self.last_write),
            auth_query: Arc::clone(&self.auth_query),
            gates: Arc::clone(&self.gates),
            monitor: Arc::clone(&self.monitor),
            fences: Arc::clone(&self.fences),
        }
    }

    /// Each node's gate, in the order of the nodes' numbers; none if nodes are no longer found as they were: Patroni may
    /// spell the address of a configured node in another way.
    pub(super) fn gates_for(&self, wanted: &config::Cluster) -> Vec<(Arc<str>, Arc<Gate>)> {
        if self.config.nodes.is_empty() != wanted.nodes.is_empty() {
            return Vec::new();
        }
        let view = self.handle().view();
        view.nodes.iter().map(|node| Arc::clone(&node.address)).zip(self.gates.iter().cloned()).collect()
    }

    /// Waits until it can serve what the one before can, as long as its nodes may take to answer. Its primary is waited for
    /// longer: a node that is silent must be known to be down before another is believed, and one that has not been found is
    /// fenced. Err: it has found none, though the one before has one, and is no standby cluster; why, in words.
    pub(super) async fn ready_as(&self, before: &Self) -> Result<(), String> {
        let a_while = 2 * (self.config.monitor.interval + self.config.monitor.timeout);
        let begun = Instant::now();
        let mut changed = self.handle().changed;
        loop {
            let (view, known) = (self.handle().view(), before.handle().view());
            let readable = |view: &View| view.readable_replicas().count();
            let has_primary = view.primary.is_some() || known.primary.is_none() || view.is_standby;
            let is_ready = has_primary && readable(&view) >= readable(&known).min(self.kept(before));
            let deadline = if has_primary { begun + a_while } else { begun + 2 * a_while + PRIMARY_FOUND_WITHIN };
            // Dropping the wait for a view loses nothing: the next look sees it.
            if is_ready || timers::timeout_at(deadline, changed.changed()).await.is_err() {
                return if has_primary { Ok(()) } else { Err(view.without_primary()) };
            }
        }
    }

    /// It takes over, and the one before does not act any more.
    pub(super) fn follow(&self, before: &Self) {
        before.fences.in_force.store(false, Ordering::Release);
        self.take_over();
        self.handle().show_drained();
    }

    /// Every connection from now on is encrypted as this configuration says.
    pub(super) fn encrypts_as_configured(&self) {
        for tls in [&self.tls, &self.tls_of_monitor] {
            tls.store(Arc::new(self.config.tls.clone()));
        }
        self.handle().trust_at_patroni(self.config.patroni_tls.clone());
    }

    /// The gates that none of these clusters has.
    pub(super) fn gates_without(&self, clusters: &[Self]) -> Vec<Arc<Gate>> {
        let is_kept =
            |gate: &Arc<Gate>| clusters.iter().any(|other| other.gates.iter().any(|kept| Arc::ptr_eq(kept, gate)));
        self.gates.iter().filter(|gate| !is_kept(gate)).cloned().collect()
    }

    /// What an operator has drained or attached at the one before shows here, and stays with nodes that are here.
    pub(super) fn settle_drained(&self) {
        self.handle().settle_drained();
    }

    /// Nodes that both have.
    fn kept(&self, before: &Self) -> usize {
        let (view, known) = (self.handle().view(), before.handle().view());
        let is_known = |address: &Arc<str>| known.nodes.iter().any(|node| node.address == *address);
        view.nodes.iter().filter(|node| is_known(&node.address)).count().saturating_sub(1)
    }

    /// Wakes everybody who waits for its next view.
    pub(super) fn wake_all(&self) {
        self.handle().wake_all();
    }
}

impl Fences {
    fn watch(self: &Arc<Self>) -> OnView {
        let fences = Arc::clone(self);
        Box::new(move |old, new| {
            if old.epoch != new.epoch {
                info!(cluster = %new.cluster, epoch = new.epoch, primary = primary_address(new), "a new epoch begins");
            }
            if fences.in_force.load(Ordering::Acquire) {
                fences.act(new);
            }
        })
    }

    /// A node that has lost the primary's role is fenced before the view that says so is published; so is one that is
    /// down, for what was asked of a frozen node would be waited for as long as it is frozen, and one whose address leads
    /// elsewhere now. What each was before, its gate knows, whoever watched it then.
    fn act(&self, new: &View) {
        let primary = new.primary.and_then(|primary| self.gates.get(usize::from(primary.0)));
        let has_changed_hands = primary.is_some_and(|gate| !gate.takes_writes());
        for (now, gate) in new.nodes.iter().zip(&*self.gates) {
            let before = gate.note(|before| Shown {
                answers_nobody: now.answers_nobody,
                is_starting: now.state == NodeState::Starting,
                leaving_since: leaving_since(now, before),
            });
            if let Some(closed) = gate.leave_former(now.moves) {
                warn!(cluster = %new.cluster, node = %now.address, connections = closed, "connections to the server that the node was before are closed");
            }
            gate.admit_writes(now.role == Role::Primary);
            hold_who_leaves(new, now, before, has_changed_hands, gate);
            // One that is stopping, while no other has its role, ends its sessions by itself and says how far they came.
            let says_goodbye = now.state == NodeState::Starting && new.primary.is_none();
            if gate.is_to_be_fenced() && now.role != Role::Primary && !says_goodbye {
                let closed = gate.sever();
                warn!(cluster = %new.cluster, node = %now.address, connections = closed, "node lost the primary's role and is fenced");
            } else if now.answers_nobody && !before.answers_nobody {
                let closed = gate.sever();
                warn!(cluster = %new.cluster, node = %now.address, connections = closed, "node is down and its connections are closed");
            } else if now.state == NodeState::Starting && !before.is_starting {
                gate.recall(); // a smart stop waits for them
            }
            // Behind the fence: who waits for it to be believed must not be let through to a node that has just lost its role. One
            // that is silent is not believed, as before.
            if !now.is_silent {
                gate.believe(match now.role {
                    Role::Primary => new.primary_until,
                    _ => new.replicas_until.filter(|_| now.takes_reads),
                });
            }
        }
    }
}

/// When it was asked that has said last that it is about to be stopped, until a newer word says otherwise. What it said before it was
/// watched anew, who was in force then has acted on.
fn leaving_since(node: &NodeView, before: Shown) -> Option<std::time::Instant> {
    match node.is_leaving {
        true => node.reported.max(before.leaving_since),
        false => before.leaving_since.filter(|said| node.reported.is_none_or(|reported| reported <= *said)),
    }
}

/// A node that is about to be stopped lets nobody new in, until that has happened or is called off.
fn hold_who_leaves(new: &View, node: &NodeView, before: Shown, has_changed_hands: bool, gate: &Gate) {
    let here = std::time::Instant::now();
    let leaving_since = leaving_since(node, before);
    // It has answered, or it would still be leaving; whether it takes reads already is another matter.
    let is_called_off = before.leaving_since.is_some()
        && leaving_since.is_none()
        && matches!(node.state, NodeState::Up | NodeState::Suspect);
    if before.leaving_since.is_none() && leaving_since.is_some() {
        info!(cluster = %new.cluster, node = %node.address, "node is about to be stopped, and lets nobody new in");
        gate.hold(Hold { holder: Holder::Node, until: here + LONGEST_GOODBYE });
    } else if has_changed_hands && gate.held(here).is_some() {
        gate.release_all();
    } else if is_called_off {
        gate.release(Holder::Node);
    }
}

/// A node that has announced its stop and goes on is used again after this.
const LONGEST_GOODBYE: Duration = Duration::from_secs(60);

fn primary_address(view: &View) -> &str {
    view.primary().map_or("none", |node| &node.address)
}

fn show_probes(monitor: &MonitorHandle, scrape: &mut Scrape) {
    let view = monitor.view();
    for node in view.shown_nodes() {
        let Some(counters) = monitor.counters(node.id) else { continue };
        let (failed, can_log_in) = (counters.failed.load(Ordering::Relaxed), counters.login_problem.lock().is_none());
        scrape.probes(&view.cluster, &node.address, &counters.durations, failed, can_log_in);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(0);
    const B: NodeId = NodeId(1);

    /// Who is in force after a reload, or before, over these gates.
    fn fences(gates: &[Arc<Gate>]) -> Fences {
        Fences { gates: gates.into(), in_force: AtomicBool::new(true) }
    }

    /// A is the primary, B its replica.
    fn whole() -> View {
        let mut view = View::unknown("c", &["a:1".into(), "b:1".into()]);
        for (node, role) in view.nodes.iter_mut().zip([Role::Primary, Role::Replica]) {
            (node.role, node.state) = (role, NodeState::Up);
        }
        View { primary: Some(A), epoch: 1, ..view }
    }

    fn but(node: NodeId, change: impl FnOnce(&mut NodeView)) -> View {
        let mut view = whole();
        change(&mut view.nodes[usize::from(node.0)]);
        view
    }

    fn gates() -> Vec<Arc<Gate>> {
        vec![Arc::default(), Arc::default()]
    }

    #[test]
    fn who_takes_over_leaves_what_is_silent_for_it_alone_and_not_what_is_only_full() {
        let gates = gates();
        fences(&gates).act(&whole());
        let severed = |view: &View| {
            let before: Vec<u64> = gates.iter().map(|gate| gate.generation()).collect();
            fences(&gates).act(view);
            gates.iter().zip(before).map(|(gate, before)| gate.generation() > before).collect::<Vec<_>>()
        };
        assert_eq!(severed(&whole()), [false, false]);
        let full = but(B, |node| node.state = NodeState::Down);
        let silent = but(B, |node| (node.state, node.answers_nobody) = (NodeState::Down, true));
        assert_eq!(severed(&full), [false, false], "who has a connection goes on");
        assert_eq!(severed(&silent), [false, true]);
        assert_eq!(severed(&silent), [false, false], "that has been done");
        assert_eq!(severed(&but(B, |node| node.moves = 1)), [false, true]);
        assert_eq!(severed(&but(B, |node| node.moves = 1)), [false, false]);
        assert_eq!(severed(&View { primary: None, ..but(A, |node| node.role = Role::Unknown) }), [true, false]);
    }

    #[test]
    fn who_takes_over_holds_what_is_leaving_and_lets_nobody_in_before_it_is_over() {
        let (gates, now) = (gates(), std::time::Instant::now());
        fences(&gates).act(&whole());
        let is_held = |view: &View| {
            fences(&gates).act(view);
            gates[0].held(now).is_some()
        };
        let asked = |seconds| Some(now + Duration::from_secs(seconds));
        let leaving = |seconds| but(A, |node| (node.is_leaving, node.reported) = (true, asked(seconds)));
        let staying = |seconds| but(A, |node| node.reported = asked(seconds));
        assert!(!is_held(&staying(1)));
        assert!(!is_held(&but(A, |node| node.is_leaving = true)), "who was in force when it said so knows better");
        assert!(is_held(&leaving(2)), "the one before did not know of it");
        // By an epoch that another has begun to count anew.
        assert!(is_held(&View { epoch: 7, ..leaving(2) }), "it is primary still");
        for older in [whole(), staying(1), staying(2)] {
            assert!(is_held(&older), "who has taken over does not know of it");
        }
        assert!(is_held(&leaving(3)));
        assert!(is_held(&staying(2)));
        assert!(!is_held(&staying(4)), "it is called off");
        assert!(is_held(&leaving(5)));
        let mut successor = but(A, |node| (node.role, node.state) = (Role::Unknown, NodeState::Down));
        (successor.primary, successor.nodes[1].role) = (Some(B), Role::Primary);
        (successor.nodes[0].is_leaving, successor.nodes[0].reported) = (true, asked(5));
        assert!(!is_held(&successor), "what it was held for has happened");
        assert!(!is_held(&successor), "nor is it once more, by its last word");
    }
}
