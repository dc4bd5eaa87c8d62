//! Real clusters on this machine: what `trunkline demo` shows, and what the cluster tests stand on.
//!
//! Linux only, like the demo itself: it reads `/proc`, and `setpriv` (util-linux) ties every server to our life.

pub mod cluster;
pub mod installation;
pub mod node;
pub mod port;
