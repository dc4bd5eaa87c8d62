//! `listen` and `[admin]`: where Trunkline can be reached, who may use its console; and whose word for a client's address
//! is taken.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::auth::hba::Network;

use super::document::{Distinct, Item, Table};
use super::{address, name};

/// Where Trunkline can be reached.
pub(super) struct Listen {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) sockets: Vec<PathBuf>,
    pub(super) admin: Admin,
    pub(super) proxies: Vec<Network>,
}

/// Where operators connect, and who may use the console.
pub(super) struct Admin {
    pub(super) listen: Option<SocketAddr>,
    pub(super) users: Vec<Arc<str>>,
    pub(super) stats_users: Vec<Arc<str>>,
}

/// Where clients connect, and where operators do.
pub(super) fn read(root: &Table<'_>) -> Listen {
    let mut taken = Vec::new();
    let list = root.require("listen", "a list of addresses where clients connect");
    let items = list.as_ref().map(|list| list.list("addresses")).unwrap_or_default();
    if let Some(list) = list.filter(|list| list.is_list() && items.is_empty()) {
        list.problem("the list is empty: clients could not connect", None);
    }
    let mut distinct = Distinct::new();
    let (mut addresses, mut sockets) = (Vec::new(), Vec::new());
    for item in &items {
        match address::socket_to_listen_on(item) {
            Some(path) => sockets.extend(distinct.admit(&path.to_string_lossy(), item).then_some(path)),
            None => addresses.extend(free(item, &mut taken)),
        }
    }
    let admin = root.section("admin");
    let section = Admin {
        listen: admin.get("listen").and_then(|item| free(&item, &mut taken)),
        users: read_users(&admin, "users"),
        stats_users: read_users(&admin, "stats_users"),
    };
    admin.finish();
    let proxies = root.get("proxy_protocol_from").map(|item| item.list("networks")).unwrap_or_default();
    let network = |item: &Item<'_>| Network::parse(item.text()?).map_err(|what| item.problem(what, None)).ok();
    let proxies = proxies.iter().filter_map(network).collect();
    Listen { addresses, sockets, admin: section, proxies }
}

/// Whether there are such users, [`Config::warnings`](super::Config::warnings) looks: they may come from lists and from the cluster.
fn read_users(admin: &Table<'_>, key: &'static str) -> Vec<Arc<str>> {
    let mut distinct = Distinct::new();
    let items = admin.get(key).map(|list| list.list("names of users")).unwrap_or_default();
    let name = |item: &Item<'_>| name::identifier(item).filter(|name| distinct.admit(name, item));
    items.iter().filter_map(name).collect()
}

fn free(item: &Item<'_>, taken: &mut Vec<SocketAddr>) -> Option<SocketAddr> {
    let address = address::to_listen_on(item)?;
    if let Some(other) = taken.iter().find(|other| address::overlap(**other, address)) {
        item.problem(format!("{address} is already taken by {other}"), None);
        return None;
    }
    taken.push(address);
    Some(address)
}
