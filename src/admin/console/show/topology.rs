//! Clusters, nodes, and where statements go.

use std::time::Instant;

use super::super::table::{Cell, Table};
use crate::client::Server;
use crate::config::PoolMode;
use crate::metrics::labels::{role_code, state_code};
use crate::routing::Reads;
use crate::topology::{Role, View};

pub(super) fn clusters(server: &Server) -> Table {
    let mut table = Table::new("name #epoch primary no_primary_because #nodes #readable");
    for cluster in &server.clusters {
        let view = cluster.view.load();
        table.row([
            (&cluster.name).into(),
            view.epoch.into(),
            view.primary().map(|node| &node.address).into(),
            view.why_no_primary().map(str::to_owned).into(),
            view.shown_nodes().count().into(),
            view.readable_replicas().count().into(),
        ]);
    }
    table
}

pub(super) fn nodes(server: &Server) -> Table {
    let mut table = Table::new(
        "cluster node role state #timeline position #position_age_us #lag_bytes #lag_us #takes_reads #leases #connections why",
    );
    let now = Instant::now();
    for cluster in &server.clusters {
        let view = cluster.view.load();
        for node in view.shown_nodes() {
            let position = node.position;
            let gate = cluster.gate(node.id);
            table.row([
                (&cluster.name).into(),
                (&node.address).into(),
                role_code(node.role).into(),
                state_code(node.state).into(),
                position.and_then(|sample| sample.timeline).map(|timeline| u64::from(timeline.0)).into(),
                position.map(|sample| sample.lsn.to_string()).into(),
                position.map(|sample| now.saturating_duration_since(sample.begun).as_micros()).into(),
                node.lag_bytes.into(),
                node.lag.map(|lag| lag.as_micros()).into(),
                node.takes_reads.into(),
                gate.map_or(0, |gate| gate.leases()).into(),
                gate.map_or(0, |gate| gate.connections().len()).into(),
                node.why.to_string().into(),
            ]);
        }
    }
    table
}

pub(super) fn routes(server: &Server) -> Table {
    let mut table = Table::new(
        "database cluster server_name pool_mode reads consistency writes_go_to reads_go_to #paused #disabled",
    );
    let mut databases: Vec<_> = server.databases.iter().collect();
    databases.sort_by_key(|(name, _)| *name);
    for (name, database) in databases {
        let cluster = server.cluster(database);
        let view = cluster.view.load();
        let mode = database.allowance.pool_mode.unwrap_or(server.mode);
        let reads = if mode == PoolMode::Session { Reads::Primary } else { server.reads };
        table.row([
            name.into(),
            (&cluster.name).into(),
            (&database.server_name).into(),
            mode.word().into(),
            server.reads.word().into(),
            server.consistency.word().into(),
            view.primary().map(|node| &node.address).into(),
            readable(reads, &view),
            database.pause.is_paused().into(),
            database.pause.is_disabled().into(),
        ]);
    }
    table
}

fn readable(reads: Reads, view: &View) -> Cell {
    let nodes = view.nodes.iter().filter(|node| match (reads, node.role) {
        (Reads::Primary, _) => view.primary == Some(node.id),
        (_, Role::Replica) => node.takes_reads,
        (Reads::Any, _) => view.primary == Some(node.id),
        (Reads::Replicas, _) => false,
    });
    let nodes: Vec<&str> = nodes.map(|node| &*node.address).collect();
    match (nodes.is_empty(), view.primary()) {
        (false, _) => nodes.join(", ").into(),
        (true, Some(primary)) => (&primary.address).into(),
        (true, None) => Cell::Null,
    }
}
