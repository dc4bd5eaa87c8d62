//! A database that nobody else may be connected to while a statement runs (DROP DATABASE and its kin). A client's own
//! connections to it would be closed by now; so what Trunkline itself keeps there is closed before the statement is sent.

use std::sync::Arc;
use std::time::{self, Duration};

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::acquire::{Refusal, Unmet};
use super::conversation::Client;
use super::server::{Database, Server};
use crate::backend::{Away, PoolKey};
use crate::net::timers;

/// While it lives, nothing of Trunkline's own comes back to these databases.
#[must_use = "dropping it lets whoever keeps their catalogs come back"]
#[derive(Default)]
pub(super) struct Emptied {
    /// Dropping them lets whoever keeps the catalogs come back.
    absences: Vec<Away>,
    /// Wait for the last client of a database, and empty it then.
    late: JoinSet<()>,
}

/// A client that has left may not have been noticed yet.
const LONGEST_FAREWELL: Duration = Duration::from_millis(100);

/// Who stays longer is looked for this often, while the statement waits: PostgreSQL looks every 100 ms, for five seconds.
const LATE_LOOK: Duration = Duration::from_millis(10);

/// Idle server processes end within milliseconds; what takes longer PostgreSQL waits for itself, up to five seconds.
const LONGEST_EMPTYING: Duration = Duration::from_secs(1);

/// A look at a lock and a few names.
const LOOK: Duration = Duration::from_millis(1);

impl Client {
    /// [Empties](Self::empty_databases) what the unit needs before it has a lease, unless its client cancels or hangs up.
    pub(super) async fn empty_or_leave(&self) -> Result<Box<Emptied>, Unmet> {
        self.place.card.waits(time::Instant::now());
        tokio::select! {
            // Dropping it lets back in who was sent away; what has been closed is opened again by whoever wants it.
            emptied = self.empty_databases() => Ok(emptied),
            // Dropping either loses nothing.
            () = self.cancellable.cancelled() => Err(Refusal::canceled().into()),
            () = self.hangs_up() => Err(Unmet::Left),
        }
    }

    /// Empties the databases that the gathered unit needs for itself. While a client is connected, nothing is closed:
    /// PostgreSQL waits for it to leave, and then says what it says of connected clients.
    pub(super) async fn empty_databases(&self) -> Box<Emptied> {
        let mut emptied = Box::<Emptied>::default();
        // The one in force: whoever keeps its lease still goes by an older one, which lacks databases of newcomers.
        let (server, worker) = (self.worker.server(), self.worker.number);
        let cluster = server.number_of(self.cluster());
        for name in &self.session.gathered.empties {
            // Dropping it loses nothing: it only looks.
            if timers::timeout(LONGEST_FAREWELL, server.left_by_clients(cluster, name, LOOK)).await.is_ok() {
                emptied.absences.extend(server.empty(cluster, name, worker).await);
                continue;
            }
            let (server, name) = (Arc::clone(&server), name.clone());
            emptied.late.spawn_local(async move {
                server.left_by_clients(cluster, &name, LATE_LOOK).await;
                let _absences = server.empty(cluster, &name, worker).await;
                std::future::pending::<()>().await;
            });
        }
        emptied
    }
}

impl Server {
    /// Returns once no client is there for the database. Cancel-safe: it only looks.
    async fn left_by_clients(&self, cluster: usize, name: &str, look: Duration) {
        while self.has_clients(cluster, name) {
            timers::sleep(look).await;
        }
    }

    /// Closes whatever Trunkline itself keeps there.
    async fn empty(&self, cluster: usize, name: &str, worker: usize) -> Vec<Away> {
        let known = self.databases.values().filter(|database| self.is_at(database, cluster, name));
        let absences: Vec<_> = known.map(|database| database.catalog.send_away()).collect();
        self.welcomes.forget_database(cluster, name);
        let deadline = Instant::now() + LONGEST_EMPTYING;
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
