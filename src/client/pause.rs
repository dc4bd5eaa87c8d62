//! PAUSE and RESUME: new statements of a database wait, open transactions finish, clients stay connected.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::watch;

use super::server::Server;

/// Whether the statements of one database wait, and whether it takes new clients. Outlives a reload.
#[derive(Debug)]
pub struct Pause {
    causes: AtomicU8,
    changed: watch::Sender<()>,
}

/// Why a database is held back. Each cause comes and goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// An operator's PAUSE: statements wait.
    Operator = 1,
    /// A switchover that is under way: statements wait.
    Switchover = 2,
    /// An operator's DISABLE: new clients are refused.
    Disabled = 4,
}

/// The pauses of all databases, by the names that clients ask for.
#[derive(Debug, Default)]
pub struct Pauses(DashMap<Arc<str>, Arc<Pause>>);

/// What is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every database.
    All,
    /// One database, by the name that clients ask for.
    Database(Arc<str>),
    /// Every database of a cluster, by its configured name.
    Cluster(Arc<str>),
}

/// Open transactions did not end in time; nothing is paused any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{leases} server connections were still in use at the deadline")]
pub struct Busy {
    /// Server connections that were still held.
    pub leases: usize,
}

/// While it lives, a cluster's statements wait.
#[must_use = "dropping it resumes"]
pub struct Paused {
    pauses: Vec<Arc<Pause>>,
}

/// Held server connections are counted this often while PAUSE waits for their return: a lock per pool each time.
const LOOK: Duration = Duration::from_millis(2);

impl Pause {
    /// Statements wait.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.causes.load(Ordering::Acquire) & (Cause::Operator as u8 | Cause::Switchover as u8) != 0
    }

    /// New clients are refused.
    pub fn is_disabled(&self) -> bool {
        self.causes.load(Ordering::Acquire) & Cause::Disabled as u8 != 0
    }

    /// Waits until statements may go on; false: not by then. Cancel-safe: it changes nothing.
    pub async fn resumed(&self, deadline: Instant) -> bool {
        let mut changed = self.changed.subscribe();
        while self.is_paused() {
            if tokio::time::timeout_at(deadline.into(), changed.changed()).await.is_err() {
                return !self.is_paused();
            }
        }
        true
    }

    /// One more cause to be held back; false: it was there already.
    pub fn begin(&self, cause: Cause) -> bool {
        self.causes.fetch_or(cause as u8, Ordering::AcqRel) & cause as u8 == 0
    }

    /// One cause less; false: it was not there.
    pub fn end(&self, cause: Cause) -> bool {
        let was_there = self.causes.fetch_and(!(cause as u8), Ordering::AcqRel) & cause as u8 != 0;
        self.changed.send_replace(());
        was_there
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self { causes: AtomicU8::new(0), changed: watch::Sender::new(()) }
    }
}

impl Pauses {
    /// The pause of a database, the same as long as the process runs.
    pub fn of(&self, database: &Arc<str>) -> Arc<Pause> {
        Arc::clone(&self.0.entry(Arc::clone(database)).or_default())
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        for pause in &self.pauses {
            pause.end(Cause::Switchover);
        }
    }
}

impl Server {
    /// Pauses until RESUME. Returns when no server connection is in use any more, and has closed the idle ones; or,
    /// when that is not so by the deadline, resumes and says how many were.
    pub async fn pause(&self, scope: &Scope, deadline: Instant) -> Result<(), Busy> {
        let pauses = self.pauses_of(scope);
        // One that was paused before stays so, whatever becomes of this attempt.
        let begun: Vec<_> = pauses.into_iter().filter(|pause| pause.begin(Cause::Operator)).collect();
        let quiet = self.quiet(scope, deadline).await;
        if quiet.is_err() {
            begun.iter().for_each(|pause| {
                pause.end(Cause::Operator);
            });
        }
        quiet
    }

    /// Ends an operator's pause; false: there was none.
    pub fn resume(&self, scope: &Scope) -> bool {
        // Each of them, whatever the first one answers.
        self.pauses_of(scope).iter().filter(|pause| pause.end(Cause::Operator)).count() > 0
    }

    /// Pauses a cluster for a switchover, until what is returned is dropped. The deadline is for open transactions.
    pub async fn pause_cluster(&self, cluster: &Arc<str>, deadline: Instant) -> Result<Paused, Busy> {
        let scope = Scope::Cluster(Arc::clone(cluster));
        let pauses = self.pauses_of(&scope).into_iter().filter(|pause| pause.begin(Cause::Switchover)).collect();
        let paused = Paused { pauses };
        self.quiet(&scope, deadline).await?;
        Ok(paused)
    }

    fn pauses_of(&self, scope: &Scope) -> Vec<Arc<Pause>> {
        let databases = self.databases.iter().filter(|(name, database)| match scope {
            Scope::All => true,
            Scope::Database(meant) => *name == meant,
            Scope::Cluster(meant) => self.cluster(database).name == *meant,
        });
        databases.map(|(_, database)| Arc::clone(&database.pause)).collect()
    }

    /// Whoever takes a server connection looks at its pause afterwards, and taking goes through the lock that counting
    /// takes: so a count of none, made after the pause has begun, stays none.
    async fn quiet(&self, scope: &Scope, deadline: Instant) -> Result<(), Busy> {
        loop {
            match self.leases_of(scope) {
                0 => break,
                leases if Instant::now() >= deadline => return Err(Busy { leases }),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        self.reconnect(scope);
        Ok(())
    }

    /// Closes the server connections of these databases: idle ones now, others when they come back.
    pub fn reconnect(&self, scope: &Scope) {
        self.pools.reconnect(|key| self.is_meant(scope, key.cluster, &key.database), Instant::now());
    }

    fn leases_of(&self, scope: &Scope) -> usize {
        let counts = self.pools.counts();
        let meant = counts.iter().filter(|(key, _)| self.is_meant(scope, key.cluster, &key.database));
        let leases: usize = meant.map(|(_, counts)| counts.busy).sum();
        // A reload may have forgotten their pools, or given their cluster another number: what they do there they still do.
        leases + self.pools.leases_of_forgotten(|key| self.is_named(scope, &key.database))
    }

    fn is_meant(&self, scope: &Scope, cluster: usize, name: &Arc<str>) -> bool {
        let here = self.databases.get(name).map(|database| self.cluster(database));
        here.is_some_and(|here| here.number == cluster) && self.is_named(scope, name)
    }

    /// The scope names this database.
    fn is_named(&self, scope: &Scope, name: &Arc<str>) -> bool {
        match scope {
            Scope::All => true,
            Scope::Database(meant) => name == meant,
            Scope::Cluster(meant) => {
                self.databases.get(name).is_some_and(|database| self.cluster(database).name == *meant)
            }
        }
    }
}
