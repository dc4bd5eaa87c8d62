//! `listen` and `admin.listen`: where Trunkline can be reached.

use std::net::SocketAddr;

use super::address;
use super::document::{Item, Table};

/// Where clients connect, and where operators do.
pub(super) fn read(root: &Table<'_>) -> (Vec<SocketAddr>, Option<SocketAddr>) {
    let mut taken = Vec::new();
    let list = root.require("listen", "a list of addresses where clients connect");
    let items = list.as_ref().map(|list| list.list("addresses")).unwrap_or_default();
    if let Some(list) = list.filter(|list| list.is_list() && items.is_empty()) {
        list.problem("the list is empty: clients could not connect", None);
    }
    let listen = items.iter().filter_map(|item| free(item, &mut taken)).collect();
    let admin = root.section("admin");
    let admin_listen = admin.get("listen").and_then(|item| free(&item, &mut taken));
    admin.finish();
    (listen, admin_listen)
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
