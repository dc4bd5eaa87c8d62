//! Where this machine is, as its kernel tells: what `samehost` and `samenet` of access rules mean.

use std::net::{IpAddr, Ipv4Addr};

use crate::auth::hba::Network;

/// The networks of this machine's interfaces.
pub(super) fn networks() -> Vec<Network> {
    let mut networks = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let of_ipv4 = of_ipv4(&read("/proc/net/route"), &read("/proc/net/fib_trie"));
    networks.extend(of_ipv4.iter().map(|(address, prefix)| format!("{address}/{prefix}")));
    networks.extend(of_ipv6().map(|(address, prefix)| format!("{address}/{prefix}")));
    networks.iter().filter_map(|network| Network::parse(network).ok()).collect()
}

/// This machine's own addresses.
pub(super) fn addresses() -> Vec<IpAddr> {
    let tree = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    leaves(&tree, LOCAL).into_iter().map(IpAddr::from).chain(of_ipv6().map(|(address, _)| address)).collect()
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

/// Own addresses by themselves, and the routes without a gateway that are an interface's network. Not all are: what goes
/// into a tunnel or a black hole has none either. Of an interface the kernel knows its own address, and the last one of
/// its network for broadcasts; a network of two addresses has none of those.
fn of_ipv4(routes: &str, tree: &str) -> Vec<(Ipv4Addr, u32)> {
    let (own, broadcasts) = (leaves(tree, LOCAL), leaves(tree, BROADCAST));
    let mut networks: Vec<_> = own.iter().map(|address| (*address, 32)).collect();
    networks.extend(routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, flags, _, _, _, mask, ..] = fields.as_slice() else { return None };
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let address = |text: &str| number(text).map(|bits| u32::from(Ipv4Addr::from(bits.to_ne_bytes())));
        let (first, mask) = (address(destination)?, address(mask)?);
        let is_direct = *gateway == "00000000" && number(flags)? & IS_REJECTED == 0;
        let has_own = own.iter().any(|own| u32::from(*own) & mask == first);
        let last = Ipv4Addr::from(first | !mask);
        // The one of 127.0.0.0/8 is that of half of all addresses, too.
        let is_interfaces = mask.leading_ones() == 31 || (broadcasts.contains(&last) && !last.is_loopback());
        (is_direct && has_own && is_interfaces).then(|| (Ipv4Addr::from(first), mask.leading_ones()))
    }));
    networks
}

/// RTF_REJECT of Linux.
const IS_REJECTED: u32 = 0x200;

/// What the kernel's tree of routes says below an address of this machine.
const LOCAL: &str = "/32 host LOCAL";

/// What it says below the address for broadcasts of an interface's network.
const BROADCAST: &str = "/32 link BROADCAST";

/// The kernel's tree of routes has a leaf for each address, and below it says what that is.
fn leaves(tree: &str, kind: &str) -> Vec<Ipv4Addr> {
    let (mut found, mut leaf) = (Vec::new(), None);
    for line in tree.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == kind {
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
        assert_eq!(leaves(tree, LOCAL), [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::LOCALHOST]);
    }

    #[test]
    fn own_networks_are_those_of_interfaces_and_not_what_is_routed_into_tunnels_or_black_holes() {
        let leaf = |address: &str, kind: &str| format!("     |-- {address}\n        {kind}\n");
        let tree = [
            ("10.1.2.3", LOCAL),
            ("10.1.2.255", BROADCAST),
            // A tunnel with an address of its own, and one between two addresses.
            ("10.9.0.2", LOCAL),
            ("192.168.7.1", LOCAL),
            ("127.0.0.1", LOCAL),
            ("127.255.255.255", BROADCAST),
        ];
        let tree: String = tree.iter().map(|(address, kind)| leaf(address, kind)).collect();
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let route = |interface: &str, first: [u8; 4], gateway: [u8; 4], flags: &str, mask: [u8; 4]| {
            let (first, gateway, mask) = (hex(first), hex(gateway), hex(mask));
            format!("{interface}\t{first}\t{gateway}\t{flags}\t0\t0\t0\t{mask}\t0\t0\t0\n")
        };
        let none = [0; 4];
        let routes = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n".to_owned(),
            route("eth0", none, [10, 1, 2, 1], "0003", none),
            route("eth0", [10, 1, 2, 0], none, "0001", [255, 255, 255, 0]),
            route("ppp0", [192, 168, 7, 0], none, "0001", [255, 255, 255, 254]),
            route("wg0", none, none, "0001", [128, 0, 0, 0]),
            route("wg0", [128, 0, 0, 0], none, "0001", [128, 0, 0, 0]),
            route("wg0", [10, 0, 0, 0], none, "0001", [255, 0, 0, 0]),
            route("*", [10, 1, 0, 0], none, "0201", [255, 255, 0, 0]),
        ];
        let found = of_ipv4(&routes.concat(), &tree);
        let networks: Vec<String> = found.iter().map(|(address, prefix)| format!("{address}/{prefix}")).collect();
        let own = ["10.1.2.3/32", "10.9.0.2/32", "192.168.7.1/32", "127.0.0.1/32"];
        assert_eq!(networks, [&own[..], &["10.1.2.0/24", "192.168.7.0/31"]].concat());
    }
}
