//! PAUSE and RESUME: new statements of a database wait, open transactions finish, clients stay connected. Whoever keeps its
//! catalogs leaves it, so that nothing of Trunkline's is connected to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::server::{Database, Server};
use crate::backend::Away;
use crate::net::timers;

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
    /// An operator's DISABLE: new clients are refused.
    Disabled = 2,
}

/// An operator's pause stays until RESUME. As long as this is not set, it goes with the attempt that has begun it.
const STAYS: u8 = 4;

/// The pauses of all databases, by the names that clients ask for.
#[derive(Debug, Default)]
pub struct Pauses {
    named: DashMap<Arc<str>, Arc<Pause>>,
    /// Of those that have none of their own. Whatever becomes known while all are paused begins with its causes.
    others: Arc<Pause>,
    /// Held where pauses come to stay or end, so that an operator is not told of one that another's attempt ends meanwhile.
    settling: Mutex<Keepers>,
}

/// Whoever keeps the catalogs of the databases that there are. They are away from each that is paused until RESUME by whatever
/// name it goes: PostgreSQL renames, copies or drops only what nobody is connected to.
#[derive(Debug, Default)]
struct Keepers {
    databases: Vec<Arc<Database>>,
    /// Dropping them lets them come back.
    away: Vec<Away>,
}

/// What is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every database.
    All,
    /// One database, by the name that clients ask for.
    Database(Arc<str>),
}

/// Why a pause has not come to be; what it had begun is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPaused {
    /// Open transactions did not end in time.
    #[error("{leases} server connections were still in use at the deadline")]
    Busy {
        /// Server connections that were still held.
        leases: usize,
    },
    /// Somebody has resumed meanwhile, or an earlier attempt has given up.
    #[error("it was resumed while open transactions were waited for")]
    Resumed,
}

/// An operator's pause that has not come to be yet: dropping it ends what it has begun, and nobody has been promised since.
struct Attempt<'a> {
    server: &'a Server,
    scope: &'a Scope,
    /// What there was, and what of it was not paused, before it.
    before: Vec<Arc<Pause>>,
    begun: Vec<Arc<Pause>>,
}

/// Keepers leave within milliseconds, unless one draws a picture. For who takes longer PostgreSQL waits itself, up to five seconds.
const LONGEST_LEAVING: Duration = Duration::from_secs(1);

/// Held server connections are counted this often while PAUSE waits for their return: a lock per pool each time.
const LOOK: Duration = Duration::from_millis(2);

impl Pause {
    /// Statements wait.
    #[inline]
    pub fn is_paused(&self) -> bool {
        self.has(Cause::Operator)
    }

    /// This holds it back.
    #[inline]
    fn has(&self, cause: Cause) -> bool {
        self.has_any(cause as u8)
    }

    /// Anything holds it back.
    fn is_held(&self) -> bool {
        self.has_any(u8::MAX)
    }

    #[inline]
    fn has_any(&self, causes: u8) -> bool {
        self.causes.load(Ordering::Acquire) & causes != 0
    }

    /// New clients are refused.
    pub fn is_disabled(&self) -> bool {
        self.has(Cause::Disabled)
    }

    /// Waits until statements may go on; false: not by then. Cancel-safe: it changes nothing.
    pub async fn resumed(&self, deadline: Instant) -> bool {
        let mut changed = self.changed.subscribe();
        while self.is_paused() {
            if timers::timeout_at(deadline.into(), changed.changed()).await.is_err() {
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
        let its = if cause == Cause::Operator { cause as u8 | STAYS } else { cause as u8 };
        let was_there = self.causes.fetch_and(!its, Ordering::AcqRel) & cause as u8 != 0;
        self.changed.send_replace(());
        was_there
    }

    /// An operator's pause stays until RESUME.
    fn stays(&self) -> bool {
        self.has_any(STAYS)
    }

    /// An operator's pause stays from now on.
    fn stay(&self) {
        self.causes.fetch_or(Cause::Operator as u8 | STAYS, Ordering::AcqRel);
    }

    /// An operator's pause ends if it does not [stay](Self::stay).
    fn give_up(&self) {
        if !self.stays() {
            self.end(Cause::Operator);
        }
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self { causes: AtomicU8::new(0), changed: watch::Sender::new(()) }
    }
}

impl Scope {
    /// It names this database. By nothing else pools are told apart here: a reload may have forgotten them, or given their
    /// cluster another number, and what is done there is still done.
    fn names(&self, database: &Arc<str>) -> bool {
        match self {
            Self::All => true,
            Self::Database(meant) => database == meant,
        }
    }
}

impl Pauses {
    /// The pause of a database, the same as long as somebody has it, or it holds something back.
    pub fn of(&self, database: &Arc<str>) -> Arc<Pause> {
        let like_others = || {
            let causes = self.others.causes.load(Ordering::Acquire) & (Cause::Operator as u8 | STAYS);
            Arc::new(Pause { causes: AtomicU8::new(causes), ..Pause::default() })
        };
        Arc::clone(&self.named.entry(Arc::clone(database)).or_insert_with(like_others))
    }

    /// The pause that counts for a name that a client asks for, whatever it is: none is remembered.
    pub fn of_any(&self, name: &str) -> Arc<Pause> {
        self.named.get(name).map_or_else(|| Arc::clone(&self.others), |pause| Arc::clone(&pause))
    }

    /// Statements of this database wait, or would, if it were in the configuration.
    pub fn is_paused(&self, database: &str) -> bool {
        self.named.get(database).is_some_and(|pause| pause.is_paused())
    }

    /// From now on these are the databases that there are.
    pub fn are_of<'d>(&self, databases: impl IntoIterator<Item = &'d Arc<Database>>) {
        let mut keepers = self.settling.lock();
        keepers.databases = databases.into_iter().cloned().collect();
        keepers.settle();
    }

    /// Something holds this database back.
    pub fn is_held(&self, database: &str) -> bool {
        self.named.get(database).is_some_and(|pause| pause.is_held())
    }

    /// Forgets those that nobody has, for their databases have lost their places, and that hold nothing back. Not while all are
    /// paused: one may have been resumed by its name.
    pub fn forget_unused(&self) {
        let _settling = self.settling.lock();
        if !self.others.is_held() {
            self.named.retain(|_, pause| pause.is_held() || Arc::strong_count(pause) > 1);
        }
    }

    /// All there are. Those that become known later are like the first of these.
    fn all(&self) -> Vec<Arc<Pause>> {
        let mut all = vec![Arc::clone(&self.others)];
        all.extend(self.named.iter().map(|pause| Arc::clone(&pause)));
        all
    }
}

impl Keepers {
    /// Keepers are away from where all is paused until RESUME, and from nowhere else.
    fn settle(&mut self) {
        // Those of before end behind these: who is to stay away does not come back in between.
        self.away = self.left(Pause::stays).map(|database| database.catalog.leave()).collect();
    }

    /// The databases that are paused like this by whatever name they go.
    fn left(&self, is_paused: impl Fn(&Pause) -> bool) -> impl Iterator<Item = &Arc<Database>> {
        let place = |database: &Database| (database.cluster, Arc::clone(&database.server_name));
        let in_use = self.databases.iter().filter(|database| !is_paused(&database.pause));
        let in_use: HashSet<_> = in_use.map(|database| place(database)).collect();
        self.databases.iter().filter(move |database| !in_use.contains(&place(database)))
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let _settling = self.server.pauses.settling.lock();
        self.begun.iter().for_each(|pause| pause.give_up());
        let is_in = |pauses: &[Arc<Pause>], pause: &Arc<Pause>| pauses.iter().any(|one| Arc::ptr_eq(one, pause));
        if is_in(&self.begun, &self.server.pauses.others) {
            // What has become known meanwhile is paused only because all were.
            let since = self.server.pauses_of(self.scope).into_iter().filter(|pause| !is_in(&self.before, pause));
            since.for_each(|pause| pause.give_up());
        }
    }
}

impl Server {
    /// Pauses until RESUME. Returns when no server connection is in use any more, has closed the idle ones and sent away whoever
    /// keeps the catalogs; or, when that is not so by the deadline, resumes and says how many were. Cancel-safe: whoever has asked
    /// may be sent away.
    pub async fn pause(&self, scope: &Scope, deadline: Instant) -> Result<(), NotPaused> {
        let before = self.pauses_of(scope);
        let mut attempt = Attempt { server: self, scope, before, begun: self.begin_to_pause(scope) };
        self.quiet(scope, deadline).await?;
        let leaving = self.send_keepers_away(scope);
        let soon = tokio::time::Instant::now() + LONGEST_LEAVING;
        for away in &leaving {
            away.begun(soon).await;
        }
        let mut settling = self.pauses.settling.lock();
        if !self.pauses_of(scope).iter().all(|pause| pause.is_paused()) {
            drop(settling); // which ending the attempt takes, too
            return Err(NotPaused::Resumed);
        }
        attempt.begun.clear();
        self.stay_paused(scope);
        settling.settle();
        Ok(())
    }

    /// Until what is returned is dropped, or longer if the pause comes to stay.
    fn send_keepers_away(&self, scope: &Scope) -> Vec<Away> {
        let keepers = self.pauses.settling.lock();
        let left = keepers.left(Pause::is_paused).filter(|database| scope.names(&database.name));
        left.map(|database| database.catalog.leave()).collect()
    }

    /// Pauses until RESUME, and waits for nothing.
    pub fn hold(&self, scope: &Scope) {
        let mut settling = self.pauses.settling.lock();
        self.stay_paused(scope);
        settling.settle();
    }

    fn stay_paused(&self, scope: &Scope) {
        if *scope == Scope::All {
            // First, as below.
            self.pauses.others.stay();
        }
        self.pauses_of(scope).iter().for_each(|pause| pause.stay());
    }

    /// Begins an operator's pause. Answers what was not paused before.
    fn begin_to_pause(&self, scope: &Scope) -> Vec<Arc<Pause>> {
        let mut begun = Vec::new();
        if *scope == Scope::All {
            // First, so that none becomes known between them and the others that is like neither.
            begun.extend(Some(&self.pauses.others).filter(|others| others.begin(Cause::Operator)).cloned());
        }
        begun.extend(self.pauses_of(scope).into_iter().filter(|pause| pause.begin(Cause::Operator)));
        begun
    }

    /// Ends an operator's pause; false: there was none.
    pub fn resume(&self, scope: &Scope) -> bool {
        let mut settling = self.pauses.settling.lock();
        // First, as it begins: so that none becomes known between them that is like the others were.
        let others = *scope == Scope::All && self.pauses.others.end(Cause::Operator);
        // Each of them, whatever the first one answers.
        let was_paused = self.pauses_of(scope).iter().filter(|pause| pause.end(Cause::Operator)).count() > 0;
        if self.any_database.is_none() && !self.databases.values().any(|database| database.pause.is_paused()) {
            // Each has been resumed by its name, and clients can ask for no other: nothing would show that all were paused.
            self.pauses.others.end(Cause::Operator);
        }
        settling.settle();
        was_paused || others
    }

    /// Statements of some database wait, it may be of one that nobody has come to yet.
    pub fn is_paused(&self) -> bool {
        self.pauses.others.is_paused() || self.databases.values().any(|database| database.pause.is_paused())
    }

    /// Statements of every database wait.
    pub fn is_all_paused(&self) -> bool {
        let are_others = || self.any_database.is_none() || self.pauses.others.is_paused();
        self.databases.values().all(|database| database.pause.is_paused()) && are_others()
    }

    /// What operators have said at the console that a process which begins anew would not know of.
    pub fn said_by_operators(&self) -> Option<String> {
        // Also of databases that are in the configuration no more: they may come back.
        let named = |is_so: fn(&Pause) -> bool| {
            self.pauses.named.iter().find(|pause| is_so(pause)).map(|of| Arc::clone(of.key()))
        };
        let is_paused = self.is_paused() || named(Pause::is_paused).is_some();
        let drained = self.clusters.iter().find_map(|cluster| (cluster.drained)().into_iter().next());
        match (is_paused, named(Pause::is_disabled), drained) {
            (true, ..) => Some("statements are paused".to_owned()),
            (_, Some(name), _) => Some(format!("database {name} is disabled")),
            (_, _, Some(node)) => Some(format!("node {node} is drained")),
            (false, None, None) => None,
        }
    }

    fn pauses_of(&self, scope: &Scope) -> Vec<Arc<Pause>> {
        match scope {
            Scope::All => self.pauses.all(),
            // It may be in the configuration no more.
            Scope::Database(meant) => {
                self.pauses.named.get(meant).map(|pause| Arc::clone(&pause)).into_iter().collect()
            }
        }
    }

    /// Whoever takes a server connection looks at its pause afterwards, and taking goes through the lock that counting
    /// takes: so a count of none, made after the pause has begun, stays none as long as the pause lasts.
    async fn quiet(&self, scope: &Scope, deadline: Instant) -> Result<(), NotPaused> {
        loop {
            let leases = self.pools.leases(|key| scope.names(&key.database));
            if !self.pauses_of(scope).iter().all(|pause| pause.is_paused()) {
                return Err(NotPaused::Resumed);
            }
            match leases {
                0 => break,
                leases if Instant::now() >= deadline => return Err(NotPaused::Busy { leases }),
                _ => timers::sleep(LOOK).await,
            }
        }
        self.reconnect(scope);
        Ok(())
    }

    /// Closes the server connections of these databases: idle ones now, others when they come back, and those over which their
    /// catalogs are kept as soon as whoever does so turns.
    pub fn reconnect(&self, scope: &Scope) {
        self.pools.reconnect(|key| scope.names(&key.database), Instant::now());
        let keepers = self.pauses.settling.lock();
        let meant = keepers.databases.iter().filter(|database| scope.names(&database.name));
        meant.for_each(|database| database.catalog.reconnect());
    }

    /// How many server connections of these databases are to be closed, and are still open.
    pub fn leaving(&self, scope: &Scope) -> usize {
        self.pools.leaving(|key| scope.names(&key.database))
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use tokio::sync::Notify;

    use super::*;
    use crate::backend::Absence;
    use crate::catalog::Current;
    use crate::client::DatabaseCatalog;
    use crate::config::Allowance;

    /// A database of this name on the nodes, by the name that clients ask for, and whether its keeper is wanted away.
    fn database(pauses: &Pauses, name: &str, server_name: &str, absence: &Arc<Absence>) -> Arc<Database> {
        let name: Arc<str> = name.into();
        Arc::new(Database {
            allowance: Allowance::default(),
            cluster: 0,
            server_name: server_name.into(),
            pause: pauses.of(&name),
            catalog: DatabaseCatalog::new(Arc::<Current>::default(), Arc::<Notify>::default(), Arc::clone(absence)),
            name,
        })
    }

    fn is_away(absence: &Absence) -> bool {
        pin!(absence.wanted()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn keepers_leave_a_database_that_is_paused_by_each_of_its_names_until_one_is_resumed() {
        let (pauses, shop, other) = (Pauses::default(), Arc::<Absence>::default(), Arc::<Absence>::default());
        let databases = [
            database(&pauses, "shop", "shop", &shop),
            database(&pauses, "reports", "shop", &shop),
            database(&pauses, "other", "other", &other),
        ];
        pauses.are_of(&databases);
        let settled = || {
            pauses.settling.lock().settle();
            [&shop, &other].map(|absence| is_away(absence))
        };
        assert_eq!(settled(), [false, false]);
        databases[0].pause.stay();
        assert_eq!(settled(), [false, false], "clients may go on there by its other name");
        databases[1].pause.begin(Cause::Operator);
        assert_eq!(settled(), [false, false], "nobody has been promised that");
        databases[1].pause.stay();
        assert_eq!(settled(), [true, false]);
        databases[1].pause.give_up();
        assert_eq!(settled(), [true, false], "it stays");
        databases[0].pause.end(Cause::Operator);
        assert_eq!(settled(), [false, false]);
    }

    #[test]
    fn a_pause_that_nobody_has_and_that_holds_nothing_back_is_forgotten() {
        let pauses = Pauses::default();
        let there = pauses.of(&"there".into());
        drop(pauses.of(&"gone".into()));
        pauses.of(&"held".into()).begin(Cause::Disabled);
        let known = || {
            pauses.forget_unused();
            let mut names: Vec<_> = pauses.named.iter().map(|pause| pause.key().to_string()).collect();
            names.sort_unstable();
            names
        };
        pauses.others.stay();
        assert_eq!(known(), ["gone", "held", "there"], "it may have been resumed by its name");
        pauses.others.end(Cause::Operator);
        assert_eq!(known(), ["held", "there"]);
        pauses.of(&"held".into()).end(Cause::Disabled);
        drop(there);
        assert!(known().is_empty());
    }

    #[test]
    fn keepers_of_what_a_reload_brings_stay_away_too_while_all_is_paused() {
        let (pauses, before, after) = (Pauses::default(), Arc::<Absence>::default(), Arc::<Absence>::default());
        pauses.are_of(&[database(&pauses, "shop", "shop", &before)]);
        pauses.others.stay();
        pauses.all().iter().for_each(|pause| pause.stay());
        pauses.settling.lock().settle();
        assert!(is_away(&before));
        pauses.are_of(&[database(&pauses, "shop", "shop", &after), database(&pauses, "new", "new", &after)]);
        assert!(is_away(&after) && !is_away(&before), "nobody wants what is no more");
        pauses.are_of(&[]);
        assert!(!is_away(&after));
    }
}
