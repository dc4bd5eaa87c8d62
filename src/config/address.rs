//! Addresses: where Trunkline listens, and where the nodes are.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use super::document::Item;

/// An address to listen on: numbers, because a name could mean several.
pub(super) fn to_listen_on(item: &Item<'_>) -> Option<SocketAddr> {
    const EXPECTED: &str = "an address to listen on as in \"127.0.0.1:6432\" or \"[::1]:6432\"";
    let text = item.text_as(EXPECTED)?;
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    if address.is_none() {
        item.wrong(EXPECTED, hint_for_listening(text));
    }
    address
}

/// The path of the socket that an item like `/folder:port` means, as libpq looks for it.
pub(super) fn socket_to_listen_on(item: &Item<'_>) -> Option<PathBuf> {
    let (folder, port) = item.as_str()?.rsplit_once(':').filter(|(folder, port)| is_folder(folder) && is_port(port))?;
    let path = PathBuf::from(folder).join(format!(".s.PGSQL.{port}"));
    if path.as_os_str().len() > LONGEST_SOCKET {
        item.problem(
            format!("{} has more than {LONGEST_SOCKET} bytes", path.display()),
            Some("take a shorter folder".to_owned()),
        );
    }
    Some(path)
}

/// A node's `host:port`, the host in lower case; or `/folder:port`.
pub(super) fn of_node(item: &Item<'_>) -> Option<Arc<str>> {
    const EXPECTED: &str = "host:port as in \"db1.example.net:5432\" or \"[2001:db8::1]:5432\"";
    let text = item.text_as(EXPECTED)?;
    let is_known = |host: &str| is_host(host) || is_folder(host);
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| is_known(host)) else {
        item.wrong(EXPECTED, hint_for_node(text));
        return None;
    };
    if !is_port(port) {
        item.wrong(EXPECTED, Some(format!("a port is a number from 1 to 65535, not {port:?}")));
        return None;
    }
    let host = if is_folder(host) { host.to_owned() } else { host.to_ascii_lowercase() };
    Some(format!("{host}:{port}").into())
}

/// `host:port` in what another program has said.
pub(super) fn parse(text: &str) -> Option<Arc<str>> {
    let (host, port) = text.rsplit_once(':').filter(|(host, port)| is_host(host) && is_port(port))?;
    Some(format!("{}:{port}", host.to_ascii_lowercase()).into())
}

/// Whether it could stand in `cluster.nodes`: `host:port`, or `/folder:port`.
pub fn is_node_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| (is_host(host) || is_folder(host)) && is_port(port))
}

/// Whether listening on both would fail: the same, or one of them is every interface.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let is_any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || is_any && a.is_ipv4() == b.is_ipv4())
}

/// What the kernel has room for, less the zero behind it.
const LONGEST_SOCKET: usize = 107;

/// An absolute path.
fn is_folder(text: &str) -> bool {
    text.starts_with('/') && !text.chars().any(char::is_control)
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port != 0) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let looks_like_numbers = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if looks_like_numbers { text.parse::<Ipv4Addr>().is_ok() } else { is_domain_name(text) }
}

fn is_domain_name(text: &str) -> bool {
    // The limits of RFC 1035; underscores are common in container networks.
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

fn hint_for_listening(text: &str) -> Option<String> {
    if text.starts_with('/') && !text.contains(':') {
        if let Some((folder, port)) = text.split_once("/.s.PGSQL.") {
            return Some(format!("write \"{folder}:{port}\""));
        }
        return Some(format!("a socket in that folder is \"{text}:6432\""));
    }
    let (host, port) = text.rsplit_once(':')?;
    match host {
        "*" | "" => Some(format!("every interface is \"0.0.0.0:{port}\"")),
        "localhost" => Some(format!("write \"127.0.0.1:{port}\"")),
        _ if host.parse::<Ipv6Addr>().is_ok() => Some(format!("write \"[{host}]:{port}\"")),
        _ => None,
    }
}

fn hint_for_node(text: &str) -> Option<String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        let with_port = text.rsplit_once(':').filter(|(host, port)| host.parse::<Ipv6Addr>().is_ok() && is_port(port));
        return Some(match with_port {
            Some((host, port)) => format!("write \"[{host}]:{port}\", or \"[{text}]:5432\" if {port} is no port"),
            None => format!("write \"[{text}]:5432\""),
        });
    }
    if text.starts_with('/') {
        return Some(format!("write \"{text}:5432\""));
    }
    is_host(text).then(|| format!("write \"{text}:5432\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_address_or_a_domain_name() {
        for host in ["127.0.0.1", "[::1]", "db1", "db-1.example.net", "pg_node", "1db.example"] {
            assert!(is_host(host), "{host}");
        }
        for host in ["", "300.0.0.1", "::1", "[127.0.0.1]", "-db", "a..b", "db 1", "user@db1", "1.2.3"] {
            assert!(!is_host(host), "{host}");
        }
    }

    #[test]
    fn a_port_is_a_number_above_zero() {
        for (port, is_one) in [("1", true), ("65535", true), ("0", false), ("65536", false), ("+5", false), ("", false)]
        {
            assert_eq!(is_port(port), is_one, "{port}");
        }
    }

    #[test]
    fn every_interface_overlaps_each_of_them() {
        let overlap = |a: &str, b: &str| overlap(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlap("127.0.0.1:6432", "127.0.0.1:6432"));
        assert!(overlap("0.0.0.0:6432", "127.0.0.1:6432"));
        assert!(!overlap("0.0.0.0:6432", "[::1]:6432"));
        assert!(!overlap("127.0.0.1:6432", "127.0.0.2:6432"));
        assert!(!overlap("127.0.0.1:6432", "127.0.0.1:9187"));
    }
}
