//! Clients one by one, and by database and user.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::table::{Cell, Table};
use super::timestamp::{written, written_instant};
use crate::client::card::{ClientReport, Doing};
use crate::client::{Report, Server};

pub(super) fn clients(reports: &[Report]) -> Table {
    let mut table = Table::new(
        "type user database replication state addr #port local_addr #local_port connect_time request_time #wait #wait_us \
         #close_needed ptr link #remote_pid tls application_name #prepared_statements #id node",
    );
    let mut clients: Vec<&ClientReport> = reports.iter().flat_map(|report| &report.clients).collect();
    clients.sort_by_key(|client| client.id.0);
    for client in clients {
        let identity = client.identity.as_ref();
        let waits = waited(client);
        table.row([
            "C".into(),
            identity.map(|identity| &identity.user).into(),
            identity.map(|identity| &identity.database).into(),
            client.replication.word().into(),
            state(client.doing).into(),
            client.peer.map(|peer| peer.ip().to_string()).into(),
            client.peer.map_or(0, |peer| u64::from(peer.port())).into(),
            client.local.map(|local| local.ip().to_string()).into(),
            client.local.map_or(0, |local| u64::from(local.port())).into(),
            written(client.connected).into(),
            written_instant(client.since).into(),
            waits.as_secs().into(),
            u64::from(waits.subsec_micros()).into(),
            false.into(),
            pointer(client.id.0).into(),
            client.server.map_or_else(String::new, pointer).into(),
            0_u64.into(),
            client.encryption.map_or_else(String::new, |encryption| encryption.to_string()).into(),
            (&client.application_name).into(),
            0_u64.into(),
            client.id.0.into(),
            client.node.as_ref().into(),
        ]);
    }
    table
}

/// As PgBouncer writes what `ptr` and `link` are joined by.
pub(super) fn pointer(number: u64) -> String {
    format!("{number:#x}")
}

fn state(doing: Doing) -> &'static str {
    match doing {
        Doing::LoggingIn => "login",
        Doing::Idle | Doing::AtConsole => "idle",
        Doing::Waiting => "waiting",
        Doing::Active | Doing::Resting | Doing::InTransaction | Doing::Prepared => "active",
    }
}

fn waited(client: &ClientReport) -> Duration {
    if client.doing == Doing::Waiting { client.since.elapsed() } else { Duration::ZERO }
}

/// Clients and server connections of one database and user.
#[derive(Default)]
struct Sums {
    active: usize,
    waiting: usize,
    longest: Duration,
    busy: usize,
    idle: usize,
    opening: usize,
}

pub(super) fn pools(server: &Server, reports: &[Report]) -> Table {
    let mut sums: BTreeMap<(Arc<str>, Arc<str>), Sums> = BTreeMap::new();
    for client in reports.iter().flat_map(|report| &report.clients) {
        let Some(identity) = client.proved() else { continue };
        let sum = sums.entry((Arc::clone(&identity.database), Arc::clone(&identity.user))).or_default();
        match client.doing {
            Doing::Waiting => sum.waiting += 1,
            _ => sum.active += 1,
        }
        sum.longest = sum.longest.max(waited(client));
    }
    for (key, counts) in server.pools.counts() {
        let sum = sums.entry((Arc::clone(&key.database), Arc::clone(&key.user))).or_default();
        let opening = counts.openings.under_way;
        sum.busy += counts.busy.saturating_sub(opening);
        sum.opening += opening;
        sum.idle += counts.idle;
    }
    let mut table = Table::new(
        "database user #cl_active #cl_waiting #cl_active_cancel_req #cl_waiting_cancel_req #sv_active #sv_active_cancel \
         #sv_being_canceled #sv_idle #sv_used #sv_tested #sv_login #maxwait #maxwait_us pool_mode load_balance_hosts",
    );
    for ((database, user), sum) in &sums {
        let mut row: Vec<Cell> = vec![database.into(), user.into()];
        let (seconds, micros) = (sum.longest.as_secs(), u64::from(sum.longest.subsec_micros()));
        row.extend([sum.active, sum.waiting, 0, 0, sum.busy, 0, 0, sum.idle, 0, 0, sum.opening].map(Cell::from));
        let mode = server.database(database).map(|entry| server.mode_of(&entry, user).word());
        row.extend([seconds.into(), micros.into(), mode.into(), Cell::Null]);
        table.row(row);
    }
    table
}
