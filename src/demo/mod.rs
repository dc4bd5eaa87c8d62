//! Real clusters on this machine: what `trunkline demo` shows, and what the cluster tests stand on.
//!
//! Linux only, like the demo itself: it reads `/proc`, and `setpriv` (util-linux) ties every server to our life.

pub mod cluster;
pub mod installation;
pub mod node;
pub mod port;

/// Starts the demo cluster and Trunkline before it.
pub fn run() -> std::io::Result<()> {
    Err(std::io::Error::other("the demo is not built yet"))
}
