//! Names of the hosts that clients come from, for access rules: looked up as the system does, backwards and forwards,
//! without holding up a worker.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::memory::Memory;
use crate::net::{apart, timers};

/// Looks names up, and remembers them for a moment. Outlives a reload.
#[derive(Debug)]
pub struct HostNames {
    known: Memory<IpAddr, Option<Arc<str>>>,
    /// Each has a thread of its own as long as the system takes, which may be longer than anybody waits.
    lookups: Arc<Semaphore>,
}

/// So long an answer counts: whoever comes often is not looked up each time.
const FRESH: Duration = Duration::from_secs(10);

/// How long a client waits; resolvers themselves try for up to half a minute.
const LONGEST: Duration = Duration::from_secs(5);

/// A flood of logins must not become a flood of threads.
const LOOKUPS_AT_ONCE: usize = 32;

impl Default for HostNames {
    fn default() -> Self {
        Self { known: Memory::new(|_| false), lookups: Arc::new(Semaphore::new(LOOKUPS_AT_ONCE)) }
    }
}

impl HostNames {
    /// The name of the host with this address, if there is one, and the name leads back to the address: whoever may
    /// write the names of his own network could else call himself as he likes.
    pub async fn of(&self, address: IpAddr) -> Option<Arc<str>> {
        let address = address.to_canonical();
        if let Some(name) = self.known.recall(&address, FRESH) {
            return name;
        }
        let asked = self.known.ask();
        // Dropping it loses nothing: the thread ends by itself, and its answer with it.
        let Ok(name) = timers::timeout(LONGEST, self.ask(address)).await else {
            tracing::warn!(%address, "the name of a client's host was not found in time: rules with names do not fit it");
            return None;
        };
        self.known.keep(address, name.clone(), asked);
        name
    }

    async fn ask(&self, address: IpAddr) -> Option<Arc<str>> {
        let lookup = Arc::clone(&self.lookups).acquire_owned().await.ok()?;
        let found = apart::run(move || {
            let _lookup = lookup;
            look_up(address)
        });
        found.await.ok()?
    }
}

fn look_up(address: IpAddr) -> Option<Arc<str>> {
    let name = dns_lookup::lookup_addr(&address).ok()?;
    let mut addresses = (name.as_str(), 0).to_socket_addrs().ok()?;
    addresses.any(|found| found.ip().to_canonical() == address).then(|| name.into())
}
