//! The PROXY protocol, version 2: a load balancer's word for whose connection it passes on, in front of everything else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Reader;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The balancer speaks for itself: a health check.
    Local,
    /// A client at this address.
    Client(IpAddr),
}

/// The bytes are no header, or one of a kind that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a header of the PROXY protocol, version 2")]
pub struct NoProxyHeader;

/// How every header begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The signature, version and command, family and protocol, and the length of the rest.
const FIXED: usize = 16;

/// Addresses take 36 bytes at most; what may follow them are a balancer's notes.
const MOST: usize = 4096;

impl ProxyHeader {
    /// The header at the front of `bytes` and its size; None until it is whole.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, NoProxyHeader> {
        let begun = bytes.len().min(SIGNATURE.len());
        if bytes.get(..begun) != SIGNATURE.get(..begun) {
            return Err(NoProxyHeader);
        }
        let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
        let [.., command, family, high, low] = *fixed;
        let size = FIXED + usize::from(u16::from_be_bytes([high, low]));
        if size > MOST {
            return Err(NoProxyHeader);
        }
        let Some(addresses) = bytes.get(FIXED..size) else { return Ok(None) };
        let header = match (command, family) {
            (LOCAL, _) => Self::Local,
            (PROXY, TCP4) => Self::Client(ipv4(addresses).ok_or(NoProxyHeader)?),
            (PROXY, TCP6) => Self::Client(ipv6(addresses).ok_or(NoProxyHeader)?),
            _ => return Err(NoProxyHeader),
        };
        Ok(Some((header, size)))
    }
}

/// Version 2 with its two commands.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Families of addresses, over TCP.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The source, before the destination and both ports.
fn ipv4(addresses: &[u8]) -> Option<IpAddr> {
    let source = Reader::new(addresses.get(..12)?).bytes(4).ok()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(source).ok()?).into())
}

fn ipv6(addresses: &[u8]) -> Option<IpAddr> {
    let source = Reader::new(addresses.get(..36)?).bytes(16).ok()?;
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(source).ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    #[test]
    fn the_source_is_the_client() {
        let bytes = header(PROXY, TCP4, &[10, 0, 0, 7, 10, 0, 0, 1, 0x80, 0, 0x19, 0x20, 1, 2, 3]);
        let client = ProxyHeader::Client(IpAddr::from([10, 0, 0, 7]));
        assert_eq!(ProxyHeader::read(&bytes), Ok(Some((client, bytes.len()))));
        for cut in 0..bytes.len() {
            assert_eq!(ProxyHeader::read(&bytes[..cut]), Ok(None), "{cut}");
        }
        let bytes = header(PROXY, TCP6, &[&[0x20, 1], &[7; 34][..]].concat());
        assert!(matches!(ProxyHeader::read(&bytes), Ok(Some((ProxyHeader::Client(IpAddr::V6(_)), 52)))));
        assert_eq!(ProxyHeader::read(&header(LOCAL, 0, b"")), Ok(Some((ProxyHeader::Local, 16))));
    }

    #[test]
    fn anything_else_is_refused_before_it_is_waited_for() {
        assert_eq!(ProxyHeader::read(b"PROXY TCP4 10.0.0.7"), Err(NoProxyHeader));
        assert_eq!(ProxyHeader::read(b"\0"), Err(NoProxyHeader));
        assert_eq!(ProxyHeader::read(&header(PROXY, TCP4, &[1; 11])), Err(NoProxyHeader));
        assert_eq!(ProxyHeader::read(&header(0x31, TCP4, &[1; 12])), Err(NoProxyHeader));
        assert_eq!(ProxyHeader::read(&header(PROXY, 0x12, &[1; 12])), Err(NoProxyHeader));
        assert_eq!(ProxyHeader::read(&header(PROXY, TCP4, &[1; MOST])), Err(NoProxyHeader));
    }
}
