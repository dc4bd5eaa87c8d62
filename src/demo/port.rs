//! A free TCP port of the loopback address, kept from other processes that choose one by the same rule.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that nobody listened on when it was taken.
///
/// Between our look and the server's bind another test could choose it too, so a name in the abstract socket
/// namespace is held beside it: the kernel gives that up when we die, and no file is left behind.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Finds a free port.
    pub fn take() -> io::Result<Self> {
        (0..SPAN).find_map(|_| Self::claim(next_candidate())).ok_or_else(|| io::Error::other("no free port was found"))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn claim(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("trunkline-port-{number}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self { number, _claim: claim })
    }
}

/// Walks the range from a place that differs between processes, so that parallel ones seldom meet.
fn next_candidate() -> u16 {
    static STEP: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(SPAN)).unwrap_or(0);
    let step = STEP.fetch_add(1, Ordering::Relaxed) % SPAN;
    LOWEST + (start + step) % SPAN
}

/// Ports from 32768 on are ephemeral: an outgoing connection could sit on one at any moment.
const LOWEST: u16 = 12_000;
const SPAN: u16 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_differ_and_stay_below_the_ephemeral_range() {
        let (one, two) = (Port::take().unwrap(), Port::take().unwrap());
        assert_ne!(one.number(), two.number());
        assert!(one.number() < 32_768 && two.number() < 32_768);
    }

    #[test]
    fn a_taken_port_is_not_given_twice() {
        let port = Port::take().unwrap();
        assert!(Port::claim(port.number()).is_none());
    }
}
