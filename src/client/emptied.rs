//! A database that nobody else may be connected to while a statement runs (DROP DATABASE and its kin). A client's own
//! connections to it would be closed by now; so what Trunkline itself keeps there is closed before the statement is sent.

use std::time::Duration;

use tokio::time::Instant;

use super::conversation::Client;
use super::server::{Database, Server};
use crate::backend::{Away, PoolKey};
use crate::net::timers;

/// While it lives, nothing of Trunkline's own comes back to these databases.
#[must_use = "dropping it lets whoever keeps their catalogs come back"]
pub(super) struct Emptied(#[expect(dead_code, reason = "dropping it ends the absences")] Vec<Away>);

/// A client that has left may not have been noticed yet. PostgreSQL itself waits five seconds for such.
const LONGEST_FAREWELL: Duration = Duration::from_millis(100);

/// Idle server processes end within milliseconds; what takes longer PostgreSQL waits for itself, up to five seconds.
const LONGEST_EMPTYING: Duration = Duration::from_secs(1);

/// A look at a lock and a few names.
const LOOK: Duration = Duration::from_millis(1);

impl Client {
    /// Empties the databases that the gathered unit needs for itself. Where a client is connected, nothing is closed:
    /// PostgreSQL says what it says of connected clients.
    pub(super) async fn empty_databases(&self) -> Emptied {
        let mut absences = Vec::new();
        // The one in force: whoever keeps its lease still goes by an older one, which lacks databases of newcomers.
        let server = self.worker.server();
        for name in &self.session.gathered.empties {
            absences.extend(server.empty(self.cluster().number, name, self.worker.number).await);
        }
        Emptied(absences)
    }
}

impl Server {
    async fn empty(&self, cluster: usize, name: &str, worker: usize) -> Vec<Away> {
        let begun = Instant::now();
        while self.has_clients(cluster, name) {
            if begun.elapsed() >= LONGEST_FAREWELL {
                return Vec::new();
            }
            timers::sleep(LOOK).await;
        }
        let known = self.databases.values().filter(|database| self.is_at(database, cluster, name));
        let absences: Vec<_> = known.map(|database| database.catalog.send_away()).collect();
        self.welcomes.forget_database(cluster, name);
        let deadline = begun + LONGEST_EMPTYING;
        let is_its = |key: &PoolKey| key.cluster == cluster && *key.server_name == *name;
        self.pools.empty(is_its, worker, deadline).await;
        for away in &absences {
            away.begun(deadline).await;
        }
        absences
    }

    /// A client is there for the database of this name on the nodes, by whatever name it has asked for it.
    fn has_clients(&self, cluster: usize, server_name: &str) -> bool {
        let wanted = self.census.databases();
        wanted.iter().filter_map(|name| self.database(name)).any(|database| self.is_at(&database, cluster, server_name))
    }

    /// It is the database of this name on that cluster's nodes.
    fn is_at(&self, database: &Database, cluster: usize, server_name: &str) -> bool {
        *database.server_name == *server_name && self.cluster(database).number == cluster
    }
}
