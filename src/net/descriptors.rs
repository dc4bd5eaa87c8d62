//! How many files this process may open: each client is one of them, and each server connection two.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

/// Listeners, workers, the monitor, whoever is told that there is no room, and server connections of those who stand in no
/// configuration.
const BESIDE: u64 = 1000;

/// Raises the limit to what the system allows, and warns if so many clients and server connections may not fit in.
pub fn allow_for(clients: usize, server_connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        info!(%error, limit = limit.current, "the limit of open files cannot be raised");
    }
    let wanted = wanted(clients, server_connections);
    // None: as many as there may be.
    if let Some(allowed) = getrlimit(Resource::Nofile).current.filter(|allowed| *allowed < wanted) {
        warn!(
            allowed,
            wanted,
            clients,
            server_connections,
            "max_clients and full pools may not fit into the limit of open files: raise it (ulimit -n, LimitNOFILE=), or \
             lower max_clients, pool.size or max_connections"
        );
    }
}

fn wanted(clients: usize, server_connections: usize) -> u64 {
    let wanted = server_connections.saturating_mul(2).saturating_add(clients);
    u64::try_from(wanted).unwrap_or(u64::MAX).saturating_add(BESIDE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_connection_wants_two_beside_one_for_each_client() {
        assert_eq!(wanted(10_000, 300), 11_600);
        assert_eq!(wanted(usize::MAX, usize::MAX), u64::MAX);
    }
}
