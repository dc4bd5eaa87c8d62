//! One look at a cluster, for whoever asks once: its nodes are found and watched as ever, until it shows who can serve.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{Limits, Monitor, MonitorHandle};
use crate::config;
use crate::net::timers;
use crate::topology::{NodeId, NodeState, NodeView, Role, View};

/// The cluster as it is now: with a primary, and every node that may take reads taking them, if that comes to be in time.
/// Where Patroni is to find the nodes and does not answer, there are none.
pub async fn look(cluster: &config::Cluster, limits: Limits) -> Arc<View> {
    let tls = Arc::new(ArcSwap::from_pointee(cluster.tls.clone()));
    let monitor = Monitor::start(cluster, &tls, limits, Box::new(|_, _| {}), &[], None, &Handle::current());
    let mut handle = monitor.handle();
    let a_while = 2 * (cluster.monitor.interval + cluster.monitor.timeout);
    let begun = Instant::now();
    let mut led_since = None;
    loop {
        let view = handle.view();
        if is_led(&view) {
            led_since.get_or_insert_with(Instant::now);
        }
        let deadline = led_since.map_or(begun + 2 * a_while + PRIMARY_FOUND_WITHIN, |since| since + a_while);
        let deadline = deadline.min(begun + LONGEST_LOOK);
        // Dropping the wait for a view loses nothing: the next look sees it.
        if is_settled(&view, &handle) || timers::timeout_at(deadline, handle.changed.changed()).await.is_err() {
            return view;
        }
    }
}

/// Waiting longer would show nothing else.
fn is_settled(view: &View, monitor: &MonitorHandle) -> bool {
    let has_word = monitor.patroni.as_ref().is_none_or(|patroni| patroni.has_spoken());
    let without_reads = monitor.patroni.as_ref().map(|patroni| patroni.without_reads()).unwrap_or_default();
    has_word && is_led(view) && view.nodes.iter().all(|node| has_shown_itself(node, &without_reads))
}

/// It has a primary, or is to have none.
fn is_led(view: &View) -> bool {
    view.primary.is_some() || view.is_standby
}

/// It is known what the node can do; a replica that answers may be about to take reads.
fn has_shown_itself(node: &NodeView, without_reads: &[NodeId]) -> bool {
    match node.state {
        NodeState::Unknown | NodeState::Suspect => false,
        NodeState::Up => node.role != Role::Replica || node.takes_reads || without_reads.contains(&node.id),
        _ => true,
    }
}

/// What the topology takes to believe a primary, beside its probes.
pub const PRIMARY_FOUND_WITHIN: Duration = Duration::from_secs(4);

/// Somebody waits for the answer, however slowly nodes are probed.
const LONGEST_LOOK: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: NodeState, role: Role, takes_reads: bool) -> NodeView {
        let mut view = View::unknown("c", &["a:1".into()]);
        let node = view.nodes.remove(0);
        NodeView { state, role, takes_reads, ..node }
    }

    #[test]
    fn what_is_not_known_yet_is_waited_for_and_what_will_not_change_is_not() {
        let shows = |state, role, takes_reads| has_shown_itself(&node(state, role, takes_reads), &[]);
        assert!(!shows(NodeState::Unknown, Role::Unknown, false));
        assert!(!shows(NodeState::Suspect, Role::Replica, false));
        assert!(!shows(NodeState::Up, Role::Replica, false), "it may be about to take reads");
        assert!(shows(NodeState::Up, Role::Replica, true));
        assert!(shows(NodeState::Up, Role::Primary, false));
        assert!(shows(NodeState::Down, Role::Unknown, false));
        assert!(has_shown_itself(&node(NodeState::Up, Role::Replica, false), &[NodeId(0)]), "its tag forbids reads");
    }
}
