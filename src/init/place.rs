//! A host and a port: where a node is, or may be.

use std::fmt;
use std::net::IpAddr;

use crate::config::is_node_address;

/// The host is a name, an address without brackets, or a folder with the node's socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Place {
    /// None: it could not stand in `cluster.nodes`.
    pub(super) fn new(host: &str, port: u16) -> Option<Self> {
        let host = if host.starts_with('/') { host.to_owned() } else { host.to_ascii_lowercase() };
        Some(Self { host, port }).filter(|place| is_node_address(&place.to_string()))
    }

    /// `host:port`, as another program writes it.
    pub(super) fn parse(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        Self::new(without_brackets(host), port.parse().ok()?)
    }

    /// What a node calls its own machine is, from here, the machine of that node.
    pub(super) fn heard_from(self, asked: &Self) -> Self {
        let is_elsewhere = self.is_of_this_machine() && !asked.is_of_this_machine();
        let is_socket = self.is_socket() && !asked.is_socket();
        if is_elsewhere || is_socket { Self { host: asked.host.clone(), port: self.port } } else { self }
    }

    /// A socket in a folder.
    pub(super) fn is_socket(&self) -> bool {
        self.host.starts_with('/')
    }

    fn is_of_this_machine(&self) -> bool {
        let is_loopback = self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.is_socket() || self.host == "localhost" || is_loopback
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') && !self.is_socket() { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// An IPv6 address without the brackets that keep it apart from its port.
pub(super) fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

/// Where PostgreSQL listens unless it is told otherwise.
pub(super) const USUAL_PORT: u16 = 5432;

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(told: &str, asked: &str) -> String {
        Place::parse(told).unwrap().heard_from(&Place::parse(asked).unwrap()).to_string()
    }

    #[test]
    fn places_are_written_as_the_configuration_wants_them() {
        for (address, written) in [("DB1:5432", "db1:5432"), ("[::1]:5433", "[::1]:5433"), ("/Run:5432", "/Run:5432")] {
            assert_eq!(Place::parse(address).unwrap().to_string(), written);
        }
        assert_eq!(Place::new("fe80::1", 5432).unwrap().to_string(), "[fe80::1]:5432");
        for wrong in ["db1", "db1:0", "db 1:5432", ":5432", "fe80::1%eth0:5432"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_nodes_own_machine_is_where_the_node_is() {
        assert_eq!(heard("127.0.0.1:5433", "db1:5432"), "db1:5433");
        assert_eq!(heard("localhost:5433", "10.0.0.1:5432"), "10.0.0.1:5433");
        assert_eq!(heard("/run/postgresql:5433", "127.0.0.1:5432"), "127.0.0.1:5433");
        assert_eq!(heard("/run/postgresql:5433", "/tmp:5432"), "/run/postgresql:5433");
        assert_eq!(heard("127.0.0.2:5433", "127.0.0.1:5432"), "127.0.0.2:5433");
        assert_eq!(heard("10.0.0.2:5433", "db1:5432"), "10.0.0.2:5433");
    }
}
