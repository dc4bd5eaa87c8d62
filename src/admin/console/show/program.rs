//! The program itself: help, version, state, settings, memory, how many there are of everything.

use super::super::command::Subject;
use super::super::table::Table;
use crate::client::card::Doing;
use crate::client::{Report, Server};
use crate::config::Shown;
use crate::handover::Others;

/// Commands beside SHOW, and what they are for.
const COMMANDS: [(&str, &str); 15] = [
    ("EXPLAIN ROUTE statement", "where a statement would go now, and why"),
    ("PAUSE [database]", "new statements wait, open transactions finish; answers when nothing runs any more"),
    ("RESUME [database]", "statements go on"),
    ("DISABLE database, ENABLE database", "new clients of a database are refused, or taken again"),
    ("DRAIN node", "no new read goes to a replica; answers when nothing runs there any more"),
    ("ATTACH node", "reads go to a drained replica again"),
    ("RECONNECT [database]", "server connections are closed as they come back"),
    ("SWITCHOVER [cluster] [TO member]", "Patroni promotes another; statements wait, open transactions may end"),
    ("WAIT_CLOSE [database]", "answers when those that are to be closed are closed"),
    ("KILL [database]", "sends the clients of a database away, or all but those at the console, and pauses it"),
    ("KILL_CLIENT id", "sends one client away"),
    ("RELOAD", "reads the configuration anew; what is wrong with it is answered, and changes nothing"),
    ("FORGET SHAPES", "SHOW SHAPES begins anew"),
    (
        "SHUTDOWN [WAIT_FOR_SERVERS | WAIT_FOR_CLIENTS]",
        "stops: at once, after open transactions, or when all have left",
    ),
    ("SHOW subject", "as above"),
];

pub(super) fn help() -> Table {
    let mut table = Table::new("command purpose");
    for (_, word, purpose) in Subject::ALL {
        table.row([format!("SHOW {word}").into(), (*purpose).into()]);
    }
    for (command, purpose) in COMMANDS.iter().filter(|(command, _)| !command.starts_with("SHOW")) {
        table.row([(*command).into(), (*purpose).into()]);
    }
    table
}

pub(super) fn version() -> Table {
    let mut table = Table::new("version");
    table.row([concat!("Trunkline ", env!("CARGO_PKG_VERSION")).into()]);
    table
}

pub(super) fn state(server: &Server, others: &Others) -> Table {
    let word = |fact: bool| if fact { "yes" } else { "no" };
    let mut table = Table::new("key value");
    table.row(["active".into(), word(!server.is_paused()).into()]);
    table.row(["paused".into(), word(server.is_all_paused()).into()]);
    table.row(["suspended".into(), word(false).into()]);
    table.row(["predecessor".into(), word(others.have_predecessor()).into()]);
    table.row(["succeeded".into(), word(others.have_taken_over()).into()]);
    table
}

pub(super) fn config(settings: &[Shown]) -> Table {
    let mut table = Table::new("key value default changeable");
    for setting in settings {
        let changeable = if setting.changeable { "yes" } else { "no" };
        table.row([
            (&*setting.key).into(),
            (&*setting.value).into(),
            setting.default.clone().into(),
            changeable.into(),
        ]);
    }
    table
}

pub(super) fn memory() -> Table {
    let pages = |at: usize| -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split_whitespace().nth(at).and_then(|pages| pages.parse().ok()).unwrap_or(0)
    };
    /// Of Linux on the machines we know; only a unit to count in.
    const PAGE: u64 = 4096;
    let mut table = Table::new("name #size #used #free #memtotal");
    for (name, at) in [("virtual", 0), ("resident", 1), ("shared", 2)] {
        table.row([name.into(), PAGE.into(), pages(at).into(), 0_u64.into(), (pages(at) * PAGE).into()]);
    }
    table
}

pub(super) fn lists(server: &Server, reports: &[Report]) -> Table {
    let clients = || reports.iter().flat_map(|report| &report.clients);
    let logging_in = clients().filter(|client| client.doing == Doing::LoggingIn).count();
    let counts = server.pools.counts();
    let idle: usize = counts.iter().map(|(_, counts)| counts.idle).sum();
    let busy: usize = counts.iter().map(|(_, counts)| counts.busy).sum();
    let items = [
        ("databases", server.databases.len()),
        ("users", server.users.len()),
        ("peers", 0),
        ("pools", counts.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", clients().count()),
        ("login_clients", logging_in),
        ("free_servers", idle),
        ("used_servers", busy),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    let mut table = Table::new("list #items");
    for (list, count) in items {
        table.row([list.into(), count.into()]);
    }
    table
}
