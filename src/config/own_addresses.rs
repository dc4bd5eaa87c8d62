//! Where this machine is, as its kernel tells: what `samehost` and `samenet` of access rules mean.

use std::net::{IpAddr, Ipv4Addr};

use crate::auth::hba::Network;

/// The networks that this machine is in: the routes without a gateway.
pub(super) fn networks() -> Vec<Network> {
    let mut networks = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    networks.extend(routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, _, mask, ..] = fields.as_slice() else { return None };
        let (destination, mask) = (u32::from_str_radix(destination, 16).ok()?, u32::from_str_radix(mask, 16).ok()?);
        let address = IpAddr::from(destination.to_ne_bytes());
        (*gateway == "00000000" && mask != 0).then(|| format!("{address}/{}", mask.count_ones()))
    }));
    networks.extend(of_ipv6().map(|(address, prefix)| format!("{address}/{prefix}")));
    networks.iter().filter_map(|network| Network::parse(network).ok()).collect()
}

/// This machine's own addresses.
pub(super) fn addresses() -> Vec<IpAddr> {
    let tree = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    local_leaves(&tree).into_iter().map(IpAddr::from).chain(of_ipv6().map(|(address, _)| address)).collect()
}

fn of_ipv6() -> impl Iterator<Item = (IpAddr, u8)> {
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let address = IpAddr::from(u128::from_str_radix(fields.next()?, 16).ok()?.to_be_bytes());
        Some((address, u8::from_str_radix(fields.nth(1)?, 16).ok()?))
    };
    addresses.lines().filter_map(address).collect::<Vec<_>>().into_iter()
}

/// The kernel's tree of routes has a leaf for each address, and below it says which are its own.
fn local_leaves(tree: &str) -> Vec<Ipv4Addr> {
    let (mut found, mut leaf) = (Vec::new(), None);
    for line in tree.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf.filter(|address| !found.contains(address)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_the_local_leaves_of_the_kernels_tree() {
        let tree = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 10.1.2.255\n        /32 link BROADCAST\nLocal:\n     |-- 10.1.2.3\n        \
                    /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_leaves(tree), [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]);
    }
}
