//! Watches the nodes of a cluster: one task per node probes it over a kept connection, and what it learns goes through
//! [`crate::topology::Topology`], which decides. Views are published for whoever wants to read them.

mod line;
mod look;
mod patroni;
mod probe;
mod shared;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::NodeTls;
use crate::backend::{Endpoint, Gate, Target};
use crate::config::{self, Config};
use crate::metrics::Histogram;
use crate::topology::{Doubt, MadeAnew, NodeId, TopologySettings, View};

pub use look::{PRIMARY_FOUND_WITHIN, look};
pub use patroni::{SwitchoverError, listed_by};

use patroni::Patroni;
use shared::Shared;
pub use shared::most_nodes;
use watcher::Watcher;

/// Called with the old view and the new one before each new one is published: whoever must fence a node does it here.
/// It is called under a lock and often: it must be quick, and must not call into the monitor.
pub type OnView = Box<dyn Fn(&View, &View) + Send + Sync>;

/// The tasks that watch one cluster; dropping it ends them.
#[derive(Debug)]
pub struct Monitor {
    handle: MonitorHandle,
    _tasks: JoinSet<()>,
}

/// Who has watched a cluster until now.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    /// Its monitor.
    pub monitor: &'a MonitorHandle,
    /// The nodes that Patroni has found, in the order of their numbers; none where the configuration lists them.
    pub found: &'a [Arc<str>],
}

/// How a cluster is judged beyond its own settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A replica further behind takes no reads.
    pub max_lag: Duration,
    /// How long open transactions may go on before a planned switchover.
    pub drain: Duration,
}

impl Limits {
    /// As the configuration has them.
    pub fn of(config: &Config) -> Self {
        Self { max_lag: config.routing.max_lag, drain: config.failover.drain }
    }
}

/// What others may ask of a monitor; cheap to clone.
#[derive(Clone, Debug)]
pub struct MonitorHandle {
    /// The newest view.
    pub view: Arc<ArcSwap<View>>,
    /// Rises with each new view, after it can be read.
    pub changed: watch::Receiver<u64>,
    shared: Arc<Shared>,
    patroni: Option<Arc<Patroni>>,
}

/// What probing one node has brought so far, for operators.
#[derive(Debug, Default)]
pub struct ProbeCounters {
    /// How long they took, those that failed too.
    pub durations: Histogram,
    /// Probes that failed.
    pub failed: AtomicU64,
    /// Light samples taken.
    pub sampled: AtomicU64,
    /// Why the last attempt to log in anew failed, as words to follow the node's name; None: it succeeded, or there was none.
    pub login_problem: Mutex<Option<Arc<str>>>,
}

impl Monitor {
    /// Watches `cluster` on `runtime` from now on. A switchover that Patroni announces holds the gate of its primary.
    /// What `before` has learnt of the same nodes is not forgotten.
    pub fn start(
        cluster: &config::Cluster,
        tls: &Arc<ArcSwap<NodeTls>>,
        limits: Limits,
        on_view: OnView,
        gates: &[Arc<Gate>],
        before: Option<Before<'_>>,
        runtime: &Handle,
    ) -> Self {
        let seeds = before.as_ref().map(|before| before.found).unwrap_or_default();
        let known = before.as_ref().map(|before| &*before.monitor.shared);
        let settings = TopologySettings {
            interval: cluster.monitor.interval,
            timeout: cluster.monitor.timeout,
            max_lag: limits.max_lag,
        };
        let nodes = if cluster.nodes.is_empty() { seeds } else { &*cluster.nodes };
        let (shared, changed) = Shared::new(cluster, nodes, settings, known, on_view);
        let shared = Arc::new(shared);
        let mut tasks = JoinSet::new();
        for (index, address) in nodes.iter().enumerate() {
            let id = NodeId(u16::try_from(index).expect("configuration allows at most 128 nodes"));
            let endpoint = Endpoint::new(Arc::clone(address), Arc::clone(tls));
            let target = target(&cluster.monitor, endpoint);
            let watcher = Watcher::new(id, target, settings.timeout, Arc::clone(&shared), gates.get(index));
            tasks.spawn_on(watcher.run(), runtime);
        }
        tasks.spawn_on(shared::keep_time(Arc::clone(&shared)), runtime);
        let patroni = (!cluster.patroni.is_empty()).then(|| {
            let tagged = before.map(|before| before.monitor.without_reads()).unwrap_or_default();
            let at = |address: &Arc<str>| nodes.iter().position(|node| node == address);
            let number = |address: &Arc<str>| at(address).and_then(NodeId::at);
            let patroni =
                Arc::new(Patroni::new(cluster, gates.to_vec(), limits.drain, tagged.iter().filter_map(number)));
            let source = patroni::Source::new(
                cluster.clone(),
                Arc::clone(tls),
                Arc::clone(&patroni),
                Arc::clone(&shared),
                seeds,
            );
            tasks.spawn_on(source.run(), runtime);
            patroni
        });
        let handle = MonitorHandle { view: Arc::clone(&shared.view), changed, shared, patroni };
        Self { handle, _tasks: tasks }
    }

    /// What others may ask of it.
    pub fn handle(&self) -> MonitorHandle {
        self.handle.clone()
    }
}

impl MonitorHandle {
    /// The newest view.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// All nodes that live are of one other database system than the cluster was.
    pub fn made_anew(&self) -> Option<MadeAnew> {
        self.shared.made_anew()
    }

    /// Asks for a position of `node` begun after this call. However many ask, one sample is in flight.
    pub fn request_sample(&self, node: NodeId) {
        self.shared.request_sample(node);
    }

    /// Asks for positions of `node` about every millisecond until `until`.
    pub fn follow_until(&self, node: NodeId, until: Instant) {
        self.shared.follow_until(node, until);
    }

    /// Asks for an early probe of a node that a session met something strange on.
    pub fn doubt(&self, node: NodeId, cause: Doubt) {
        self.shared.doubt(node, cause);
    }

    /// Takes a node out of reading, or puts it back; false: that changed nothing.
    pub fn set_drained(&self, node: NodeId, is_drained: bool) -> bool {
        self.shared.set_drained(node, is_drained)
    }

    /// Addresses of the nodes that an operator has taken out of reading.
    pub fn drained(&self) -> Vec<Arc<str>> {
        self.shared.drained()
    }

    /// Publishes a view that shows what an operator has drained, also while another monitor watched the cluster.
    pub fn show_drained(&self) {
        self.shared.show_anew();
    }

    /// The same once the monitor before watches no more.
    pub fn settle_drained(&self) {
        self.shared.settle_drained();
    }

    /// Wakes everybody who waits for a new view, without one.
    pub fn wake_all(&self) {
        self.shared.wake_all();
    }

    /// Has Patroni switch over to the member of this name, or to the one that it finds best; see `failover.drain`.
    /// Answers Patroni's words, when it is done. Dropped before Patroni is asked, which is noted, it has changed nothing; dropped
    /// later, it goes on by itself.
    pub async fn switch_over(&self, candidate: Option<&str>, is_asked: &AtomicBool) -> Result<String, SwitchoverError> {
        let patroni = self.patroni.as_ref().ok_or(SwitchoverError::NoPatroni)?;
        let primary = self.view.load().primary.ok_or(SwitchoverError::NoPrimary)?;
        patroni.switch_over(primary, candidate, is_asked).await
    }

    /// From now on, these are trusted where Patroni is asked over TLS.
    pub fn trust_at_patroni(&self, tls: Option<Arc<ClientConfig>>) {
        if let Some(patroni) = &self.patroni {
            patroni.trust(tls);
        }
    }

    /// Addresses of nodes that Patroni's tags take out of reads.
    fn without_reads(&self) -> Vec<Arc<str>> {
        let view = self.view.load();
        let nodes = self.patroni.as_ref().map(|patroni| patroni.without_reads()).unwrap_or_default();
        nodes.into_iter().filter_map(|node| Some(Arc::clone(&view.node(node)?.address))).collect()
    }

    /// What probing this node has brought; None if there is no such node.
    pub fn counters(&self, node: NodeId) -> Option<&ProbeCounters> {
        self.shared.signals(node).map(|signals| &signals.counters)
    }
}

fn target(monitor: &config::Monitor, endpoint: Endpoint) -> Target {
    Target {
        endpoint,
        user: Arc::clone(&monitor.user),
        database: Arc::clone(&monitor.database),
        password: Some(monitor.password.clone()),
        salted_password: None,
        // A standby refuses every query of a role whose transactions are SERIALIZABLE unless they say otherwise. How long a
        // probe may take, we say.
        parameters: [
            ("application_name", "trunkline monitor"),
            ("default_transaction_isolation", "read committed"),
            ("statement_timeout", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
    }
}
