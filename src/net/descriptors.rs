//! How many files this process may open: each client is one of them, and each server connection two.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Server connections with their second handles, listeners, the monitor, and whoever is told that there is no room.
const BESIDE_CLIENTS: u64 = 1000;

/// Raises the limit to what the system allows, and warns if so many clients may not fit in.
pub fn allow_for(clients: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        info!(%error, limit = limit.current, "the limit of open files cannot be raised");
    }
    let wanted = u64::try_from(clients).unwrap_or(u64::MAX).saturating_add(BESIDE_CLIENTS);
    // None: as many as there may be.
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < wanted) {
        warn!(
            allowed,
            wanted, "max_clients may not fit into the limit of open files: raise it (ulimit -n, LimitNOFILE=)"
        );
    }
}
