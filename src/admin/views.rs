//! What `/ready` and `/topology` answer: published views, in the words that operators know.

use std::time::Instant;

use serde::Serialize;

use crate::metrics::labels::{role_code, state_code};
use crate::topology::{NodeView, View};

/// The answer of `/ready`, and of `/ready/NAME` with that cluster alone.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Send clients here.
    pub ready: bool,
    /// Trunkline is stopping.
    pub draining: bool,
    /// Databases whose new statements wait, because of PAUSE or KILL: they are ready all the same.
    pub paused: Vec<String>,
    /// Databases whose new clients are refused, because of DISABLE: as those.
    pub disabled: Vec<String>,
    /// Each cluster, in the order of the configuration.
    pub clusters: Vec<ClusterReadiness>,
}

/// Whether a cluster can be used.
#[derive(Debug, Serialize)]
pub struct ClusterReadiness {
    /// Its configured name.
    pub name: String,
    /// It has a primary or a replica that takes reads.
    pub ready: bool,
    /// Why it is not ready, or what it lacks though it is.
    pub why: Option<String>,
}

impl Readiness {
    /// Ready is who is not stopping and has a primary or a readable replica in at least one cluster: a lost cluster must
    /// not take the clients of the others away.
    pub fn of<'a>(
        views: impl IntoIterator<Item = &'a View>,
        draining: bool,
        (paused, disabled): (Vec<String>, Vec<String>),
    ) -> Self {
        let clusters: Vec<_> = views.into_iter().map(ClusterReadiness::of).collect();
        Self { ready: !draining && clusters.iter().any(|cluster| cluster.ready), draining, paused, disabled, clusters }
    }
}

impl ClusterReadiness {
    fn of(view: &View) -> Self {
        let has_primary = view.primary().is_some();
        let has_readable = view.readable_replicas().next().is_some();
        let no_primary = view.why_no_primary().unwrap_or("not known");
        let why = match (has_primary, has_readable) {
            (true, _) => None,
            (false, true) => Some(format!("reads only, no primary: {no_primary}")),
            (false, false) => Some(format!("no replica takes reads, and no primary: {no_primary}")),
        };
        Self { name: view.cluster.to_string(), ready: view.serves(), why }
    }
}

/// The answer of `/topology`.
#[derive(Debug, Serialize)]
pub struct Topology {
    /// Each cluster, in the order of the configuration.
    pub clusters: Vec<ClusterTopology>,
}

/// A cluster as routing sees it.
#[derive(Debug, Serialize)]
pub struct ClusterTopology {
    /// Its configured name.
    pub name: String,
    /// Rises by one whenever the primary changes, is lost, or is found again.
    pub epoch: u64,
    /// The address of the accepted primary.
    pub primary: Option<String>,
    /// Why there is no primary, when there is none.
    pub no_primary_because: Option<String>,
    /// Each node, in the order of the configuration.
    pub nodes: Vec<NodeTopology>,
}

/// A node as routing sees it.
#[derive(Debug, Serialize)]
pub struct NodeTopology {
    /// `host:port` as configured.
    pub address: String,
    /// primary, replica or unknown.
    pub role: &'static str,
    /// up, starting, suspect, down, stale_primary, unconfirmed_primary, duplicate, foreign or unknown.
    pub state: &'static str,
    /// The timeline of its newest position.
    pub timeline: Option<u32>,
    /// Its newest position: of a primary what it has inserted, of a replica what it has replayed.
    pub replay_position: Option<String>,
    /// How long ago that position was asked for, in seconds.
    pub position_age_seconds: Option<f64>,
    /// Bytes behind the primary; null while unknown, and for the primary itself.
    pub lag_bytes: Option<u64>,
    /// Seconds behind the primary; null while unknown, and for the primary itself.
    pub lag_seconds: Option<f64>,
    /// A replica that may take reads now.
    pub takes_reads: bool,
    /// Why it is as it is.
    pub why: String,
}

impl Topology {
    /// Every view, as it was published before `now`.
    pub fn of<'a>(views: impl IntoIterator<Item = &'a View>, now: Instant) -> Self {
        Self { clusters: views.into_iter().map(|view| ClusterTopology::of(view, now)).collect() }
    }
}

impl ClusterTopology {
    fn of(view: &View, now: Instant) -> Self {
        Self {
            name: view.cluster.to_string(),
            epoch: view.epoch,
            primary: view.primary().map(|node| node.address.to_string()),
            no_primary_because: view.why_no_primary().map(str::to_owned),
            nodes: view.shown_nodes().map(|node| NodeTopology::of(node, now)).collect(),
        }
    }
}

impl NodeTopology {
    fn of(node: &NodeView, now: Instant) -> Self {
        let position = node.position;
        Self {
            address: node.address.to_string(),
            role: role_code(node.role),
            state: state_code(node.state),
            timeline: position.and_then(|sample| sample.timeline).map(|timeline| timeline.0),
            replay_position: position.map(|sample| sample.lsn.to_string()),
            position_age_seconds: position.map(|sample| now.saturating_duration_since(sample.begun).as_secs_f64()),
            lag_bytes: node.lag_bytes,
            lag_seconds: node.lag.map(|lag| lag.as_secs_f64()),
            takes_reads: node.takes_reads,
            why: node.why.to_string(),
        }
    }
}
