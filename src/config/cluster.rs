//! `[[cluster]]`: replica sets, their nodes, and how those are probed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::balance::Seats;
use super::certificate::{Certificate, ShownTo};
use super::document::{Distinct, Item, Table, nearest};
use super::password::{self, Form};
use super::{AuthQuery, Cluster, Monitor, address, name, patroni};

/// Nodes of one cluster; a limit far above any real replica set, so that a generated list gone wrong is seen.
const MOST_NODES: usize = 256;

/// All clusters of a file. What is shown to their nodes and to Patroni goes to `certificates`.
pub(super) fn read_all(root: &Table<'_>, folder: &Path, certificates: &mut Vec<Certificate>) -> Vec<Cluster> {
    let tables = root.required_tables("cluster");
    let mut names = Distinct::new();
    // A node in two clusters would be probed, and believed, twice.
    let mut nodes = Distinct::new();
    tables.into_iter().map(|table| Cluster::read(table, folder, (&mut names, &mut nodes), certificates)).collect()
}

impl Cluster {
    fn read(
        table: Table<'_>,
        folder: &Path,
        (names, distinct_nodes): (&mut Distinct, &mut Distinct),
        certificates: &mut Vec<Certificate>,
    ) -> Self {
        let name = name::required_label(&table, "name", "a cluster needs a name");
        if let Some(item) = table.get("name") {
            names.admit(&name, &item);
        }
        let patroni = patroni::read(&table, folder);
        let nodes = read_nodes(&table, distinct_nodes, patroni.urls.is_some());
        let seats = Seats::read(&table, &nodes);
        let groups = read_groups(&table, &nodes, &seats);
        let balance = seats.balance(&table);
        let monitor = Monitor::read(&table, folder);
        let to_nodes = super::tls::to_nodes(&table, folder);
        let auth_query = AuthQuery::read(&table, folder);
        table.finish();
        let shown = [
            (ShownTo::Nodes(Arc::clone(&name)), to_nodes.certificate_ends),
            (ShownTo::Patroni(Arc::clone(&name)), patroni.certificate_ends),
        ];
        certificates
            .extend(shown.into_iter().filter_map(|(shown_to, ends)| Some(Certificate { shown_to, ends: ends? })));
        let (patroni, patroni_tls, tls) = (patroni.urls.unwrap_or_default(), patroni.tls, to_nodes.tls);
        Self { name, nodes, patroni, patroni_tls, groups, balance, tls, auth_query, monitor }
    }
}

impl Monitor {
    fn read(cluster: &Table<'_>, folder: &Path) -> Self {
        const SHORTEST: Duration = Duration::from_millis(10);
        const LONGEST: Duration = Duration::from_secs(60);
        let Some(table) = cluster.written_section("monitor") else {
            if cluster.get("monitor").is_none() {
                cluster.missing("monitor", "[cluster.monitor] says how nodes are probed");
            }
            return Self::placeholder();
        };
        let monitor = Self {
            user: name::required_identifier(&table, "user", "probes log in as this role"),
            password: password::required(&table, &password::PASSWORD, Form::Plain, folder),
            database: table
                .get("database")
                .map_or_else(|| "postgres".into(), |item| name::identifier(&item).unwrap_or_default()),
            interval: table.duration("interval", Duration::from_millis(500), SHORTEST..=LONGEST),
            timeout: table.duration("timeout", Duration::from_secs(1), SHORTEST..=LONGEST),
        };
        table.finish();
        monitor
    }

    /// Stands where a problem was reported.
    fn placeholder() -> Self {
        Self {
            user: "".into(),
            password: crate::auth::Secret::new(String::new()),
            database: "".into(),
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
        }
    }
}

fn read_nodes(table: &Table<'_>, distinct: &mut Distinct, has_patroni: bool) -> Vec<Arc<str>> {
    let list = match has_patroni {
        true => table.get("nodes"),
        false => table.require("nodes", "a cluster needs the addresses of its nodes, or those of Patroni"),
    };
    let Some(list) = list else { return Vec::new() };
    let items = list.list("addresses");
    if items.is_empty() && list.is_list() {
        list.problem("the list is empty: a cluster needs at least one node", None);
    }
    if items.len() > MOST_NODES {
        list.problem(format!("{} nodes are more than {MOST_NODES}", items.len()), None);
    }
    let address = |item: &Item<'_>| address::of_node(item).filter(|address| distinct.admit(address, item));
    items.iter().filter_map(address).collect()
}

fn read_groups(cluster: &Table<'_>, nodes: &[Arc<str>], seats: &Seats) -> Vec<(Arc<str>, Vec<u16>)> {
    let mut names = Distinct::new();
    let mut groups = Vec::new();
    for table in cluster.tables("group") {
        let name = name::required_label(&table, "name", "a group needs a name");
        if let Some(item) = table.get("name") {
            names.admit(&name, &item);
        }
        groups.push((name, read_members(&table, nodes, seats)));
        table.finish();
    }
    groups.extend(seats.groups());
    groups
}

/// By their addresses, a tag or a zone.
fn read_members(table: &Table<'_>, nodes: &[Arc<str>], seats: &Seats) -> Vec<u16> {
    let by_word = [("tag", table.get("tag")), ("zone", table.get("zone"))];
    let mut by_word = by_word.into_iter().filter_map(|(what, item)| Some((what, item?)));
    let list = match (by_word.next(), table.get("nodes")) {
        (None, Some(list)) => list,
        (Some((what, item)), None) => {
            if let Some((_, second)) = by_word.next() {
                second.problem("a group is made of nodes, of a tag or of a zone", Some("keep one of them".to_owned()));
            }
            return seats.members(what, &item);
        }
        (Some((_, item)), Some(_)) => {
            item.problem("a group is made of nodes, of a tag or of a zone", Some("keep one of them".to_owned()));
            return Vec::new();
        }
        (None, None) => {
            table.missing("nodes", "a group needs addresses of the cluster's nodes, a tag or a zone");
            return Vec::new();
        }
    };
    let items = list.list("addresses");
    if items.is_empty() && list.is_list() {
        list.problem("the list is empty: a group needs at least one node", None);
    }
    let mut distinct = Distinct::new();
    items.iter().filter_map(|item| node_named(item, nodes, &mut distinct)).collect()
}

/// The place among the cluster's nodes of the one with this address.
pub(super) fn node_named(item: &Item<'_>, nodes: &[Arc<str>], distinct: &mut Distinct) -> Option<u16> {
    let address = address::of_node(item).filter(|address| distinct.admit(address, item))?;
    let position = nodes.iter().position(|node| *node == address);
    if position.is_none() {
        let known: Vec<&str> = nodes.iter().map(|node| &**node).collect();
        item.dangling(format!("{address:?} is not among the cluster's nodes"), nearest(&address, &known));
    }
    position.and_then(|position| u16::try_from(position).ok())
}
