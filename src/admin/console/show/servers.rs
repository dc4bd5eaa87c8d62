//! Server connections, and the databases and users that have them.

use std::collections::HashMap;

use super::super::table::{Cell, Table};
use super::clients::pointer;
use super::timestamp::{written, written_instant};
use crate::client::card::ClientReport;
use crate::client::{Report, Server};
use crate::config::PoolMode;
use crate::session::Identity;

pub(super) fn servers(server: &Server, reports: &[Report]) -> Table {
    let mut table = Table::new(
        "type user database replication state addr #port local_addr #local_port connect_time request_time #wait #wait_us \
         #close_needed ptr link #remote_pid tls application_name #prepared_statements #id node cluster",
    );
    let clients = reports.iter().flat_map(|report| &report.clients);
    let holders: HashMap<u64, &ClientReport> = clients.filter_map(|client| Some((client.server?, client))).collect();
    for cluster in &server.clusters {
        let mut connections: Vec<_> = cluster.gates.iter().flat_map(|gate| gate.connections()).collect();
        connections.sort_by(|one, other| (&one.address, one.process).cmp(&(&other.address, other.process)));
        for about in connections {
            let connected = written(about.opened);
            let holder = holders.get(&about.number);
            table.row([
                "S".into(),
                (&about.user).into(),
                (&about.database).into(),
                about.replication.word().into(),
                if about.is_leased() { "active" } else { "idle" }.into(),
                about.peer.map(|peer| peer.ip().to_string()).into(),
                about.peer.map_or(0, |peer| u64::from(peer.port())).into(),
                about.local.map(|local| local.ip().to_string()).into(),
                about.local.map_or(0, |local| u64::from(local.port())).into(),
                (&*connected).into(),
                holder.map_or_else(|| (&*connected).into(), |client| written_instant(client.since).into()),
                0_u64.into(),
                0_u64.into(),
                about.is_leaving().into(),
                pointer(about.number).into(),
                holder.map_or_else(String::new, |client| pointer(client.id.0)).into(),
                u64::from(about.process).into(),
                about.encryption.map_or_else(String::new, |encryption| encryption.to_string()).into(),
                holder.map_or_else(|| "".into(), |client| Cell::from(&client.application_name)),
                u64::from(about.statements()).into(),
                u64::from(about.process).into(),
                (&about.address).into(),
                (&cluster.name).into(),
            ]);
        }
    }
    table
}

pub(super) fn databases(server: &Server, reports: &[Report]) -> Table {
    let mut table = Table::new(
        "name host #port database force_user #pool_size #min_pool_size #reserve_pool_size #server_lifetime pool_mode \
         load_balance_hosts #max_connections #current_connections #max_client_connections #current_client_connections \
         #paused #disabled cluster",
    );
    let mut databases: Vec<_> = server.databases.iter().collect();
    databases.sort_by_key(|(name, _)| *name);
    let (counts, plan) = (server.pools.counts(), server.pools.plan());
    for (name, database) in databases {
        let cluster = server.cluster(database);
        let view = cluster.view.load();
        let (host, port) = view.primary().and_then(|node| node.address.rsplit_once(':')).unzip();
        let mine = counts.iter().filter(|(key, _)| key.cluster == cluster.number && key.database == *name);
        let connections: usize = mine.map(|(_, counts)| counts.busy + counts.idle).sum();
        table.row([
            name.into(),
            host.into(),
            port.and_then(|port| port.parse::<u64>().ok()).into(),
            (&database.server_name).into(),
            Cell::Null,
            database.allowance.pool_size.unwrap_or(plan.default.size).into(),
            plan.default.min_size.into(),
            plan.default.reserve_size.into(),
            plan.default.lifetime.as_secs().into(),
            database.allowance.pool_mode.unwrap_or(server.mode).word().into(),
            Cell::Null,
            database.allowance.max_connections.unwrap_or(0).into(),
            connections.into(),
            database.allowance.max_clients.unwrap_or(0).into(),
            clients_of(reports, |identity| identity.database == *name).into(),
            database.pause.is_paused().into(),
            database.pause.is_disabled().into(),
            (&cluster.name).into(),
        ]);
    }
    table
}

pub(super) fn users(server: &Server, reports: &[Report]) -> Table {
    let mut table = Table::new(
        "name #pool_size #reserve_pool_size pool_mode #max_user_connections #current_connections \
         #max_user_client_connections #current_client_connections console",
    );
    let mut users: Vec<_> = server.users.iter().collect();
    users.sort_by_key(|(name, _)| *name);
    let counts = server.pools.counts();
    for (name, user) in users {
        use crate::client::console::Right;
        let mine = counts.iter().filter(|(key, _)| key.user == *name);
        let right = server.console_right(name).map(|right| match right {
            Right::Change => "change",
            Right::Look => "look",
        });
        table.row([
            name.into(),
            user.allowance.pool_size.into(),
            Cell::Null,
            user.allowance.pool_mode.map(PoolMode::word).into(),
            user.allowance.max_connections.unwrap_or(0).into(),
            mine.map(|(_, counts)| counts.busy + counts.idle).sum::<usize>().into(),
            user.allowance.max_clients.unwrap_or(0).into(),
            clients_of(reports, |identity| identity.user == *name).into(),
            right.into(),
        ]);
    }
    table
}

fn clients_of(reports: &[Report], is_meant: impl Fn(&Identity) -> bool) -> usize {
    let clients = reports.iter().flat_map(|report| &report.clients);
    clients.filter(|client| client.proved().is_some_and(&is_meant)).count()
}
