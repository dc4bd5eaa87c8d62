//! `listen` and `admin.listen`: where Trunkline can be reached; and whose word for a client's address is taken.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::auth::hba::Network;

use super::address;
use super::document::{Distinct, Item, Table};

/// Where Trunkline can be reached.
pub(super) struct Listen {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) sockets: Vec<PathBuf>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) proxies: Vec<Network>,
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
    let admin_listen = admin.get("listen").and_then(|item| free(&item, &mut taken));
    admin.finish();
    let proxies = root.get("proxy_protocol_from").map(|item| item.list("networks")).unwrap_or_default();
    let network = |item: &Item<'_>| Network::parse(item.text()?).map_err(|what| item.problem(what, None)).ok();
    let proxies = proxies.iter().filter_map(network).collect();
    Listen { addresses, sockets, admin: admin_listen, proxies }
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
