//! Totals and averages by database, under PgBouncer's names.

use std::sync::Arc;
use std::time::Duration;

use super::super::Desk;
use super::super::averages::PERIOD;
use super::super::sums::ByDatabase;
use super::super::table::{Cell, Table};
use crate::client::tally::Totals;

pub(super) async fn stats(desk: &Arc<Desk>) -> Table {
    let mut table = Table::new(
        "database #total_server_assignment_count #total_xact_count #total_query_count #total_received #total_sent \
         #total_xact_time #total_query_time #total_wait_time #total_client_parse_count #total_server_parse_count \
         #total_bind_count #avg_server_assignment_count #avg_xact_count #avg_query_count #avg_recv #avg_sent \
         #avg_xact_time #avg_query_time #avg_wait_time #avg_client_parse_count #avg_server_parse_count #avg_bind_count",
    );
    for (name, totals) in by_database(desk).await {
        let cells = sums(&totals).into_iter().chain(rates(&desk.averages.of(&name)));
        table.row([Cell::from(&name)].into_iter().chain(cells));
    }
    table
}

pub(super) async fn totals(desk: &Arc<Desk>) -> Table {
    let mut table = Table::new(
        "database #server_assignment_count #xact_count #query_count #bytes_received #bytes_sent #xact_time #query_time \
         #wait_time #client_parse_count #server_parse_count #bind_count",
    );
    for (name, totals) in by_database(desk).await {
        table.row([Cell::from(&name)].into_iter().chain(sums(&totals)));
    }
    table
}

pub(super) async fn averages(desk: &Arc<Desk>) -> Table {
    // PgBouncer has these three names with their prefix here, and only here.
    let mut table = Table::new(
        "database #server_assignment_count #xact_count #query_count #bytes_received #bytes_sent #xact_time #query_time \
         #wait_time #avg_client_parse_count #avg_server_parse_count #avg_bind_count",
    );
    for name in by_database(desk).await.keys() {
        table.row([Cell::from(name)].into_iter().chain(rates(&desk.averages.of(name))));
    }
    table
}

pub(super) async fn over_all(desk: &Arc<Desk>) -> Table {
    let (mut all, mut last) = (Totals::default(), Totals::default());
    for (name, totals) in by_database(desk).await {
        all += totals;
        last += desk.averages.of(&name);
    }
    let mut table = Table::new("name #value");
    for (name, value) in NAMES.iter().zip(sums(&all)) {
        table.row([format!("total_{name}").into(), value]);
    }
    for (name, value) in NAMES.iter().zip(rates(&last)) {
        table.row([format!("avg_{name}").into(), value]);
    }
    table
}

/// As SHOW TOTALS has them, behind `total_` and `avg_`.
const NAMES: [&str; COUNTS] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];

/// How many numbers there are of each database.
const COUNTS: usize = 11;

/// Every database that is configured, also if nobody has come for it yet.
async fn by_database(desk: &Arc<Desk>) -> ByDatabase {
    let mut totals = desk.sums.now(&desk.fleet).await;
    for name in desk.in_force.load().databases.keys() {
        totals.entry(Arc::clone(name)).or_default();
    }
    totals
}

/// Times are in microseconds.
fn sums(totals: &Totals) -> [Cell; COUNTS] {
    [
        totals.assignments.into(),
        totals.transactions.into(),
        totals.queries.into(),
        totals.received.into(),
        totals.sent.into(),
        totals.transaction_time.as_micros().into(),
        totals.query_time.as_micros().into(),
        totals.wait_time.as_micros().into(),
        totals.client_parses.into(),
        totals.server_parses.into(),
        totals.binds.into(),
    ]
}

/// Counts and bytes per second; the time of one transaction and of one statement, and the wait for one server connection.
fn rates(totals: &Totals) -> [Cell; COUNTS] {
    let per_second = |count: u64| Cell::from(count / PERIOD.as_secs());
    let of_one = |time: Duration, count: u64| Cell::from(time.as_micros() / u128::from(count.max(1)));
    [
        per_second(totals.assignments),
        per_second(totals.transactions),
        per_second(totals.queries),
        per_second(totals.received),
        per_second(totals.sent),
        of_one(totals.transaction_time, totals.transactions),
        of_one(totals.query_time, totals.queries),
        of_one(totals.wait_time, totals.assignments),
        per_second(totals.client_parses),
        per_second(totals.server_parses),
        per_second(totals.binds),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_wait_is_that_for_one_server_connection() {
        let wait_of = |assignments, wait_time| {
            let [.., wait, _, _, _] = rates(&Totals { assignments, wait_time, ..Totals::default() });
            wait
        };
        assert_eq!(wait_of(20, Duration::from_secs(600)), Cell::Int(30_000_000));
        assert_eq!(wait_of(6000, Duration::from_millis(60)), Cell::Int(10));
        assert_eq!(wait_of(0, Duration::ZERO), Cell::Int(0));
    }
}
