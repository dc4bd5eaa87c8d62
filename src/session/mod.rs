//! One client's conversation as a machine: what it sends, what is owed to it, and what must not be lost between.
//!
//! The order of calls, for whoever drives it:
//! 1. [`Session::survey`] each whole message from the client. The unit is whole when [`Gathered::end`] says so; while a
//!    lease on the primary is held, each message may go on its way at once.
//! 2. Find a lease for [`Gathered::intent`], and make its settings the session's ([`Session::replay`]). Where it reports
//!    them otherwise than the client has been told ([`Session::is_told`]), the client is ([`Session::goes_by`]), and what
//!    it sends is surveyed again.
//! 3. [`Session::translate`] each of those messages into bytes for the node.
//! 4. [`Session::reply`] for each message from the node that can change a state ([`matters`]).
//! 5. When [`Session::may_release`], ask for the settings in [`Session::take_touched`], and give the lease back.
//! 6. If the node is lost on the way, [`Session::lost`] says what that means.
//! 7. Of a client that has nothing to say for a while, [`Session::fold`] keeps what is to be remembered.

pub mod aborted;
mod ahead;
pub mod anew;
pub mod changing;
pub mod columns;
mod done;
pub mod doubt;
pub mod failure;
pub mod folded;
mod function_call;
pub mod gathered;
pub mod known;
pub mod libraries;
pub mod meant;
pub mod mirrored;
mod moving;
pub mod owed;
pub mod pins;
mod portals;
pub mod prepared;
pub mod preparing;
mod refused;
mod remains;
pub mod replay;
pub mod reply;
pub mod reported;
mod rewound;
pub mod ruled;
pub mod sequences;
pub mod settings;
#[cfg(test)]
mod story;
mod survey;
pub mod temp_buffers;
mod transaction;
pub mod translate;
mod under_way;
mod untold;
pub mod wishes;
mod woven;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

pub use failure::Loss;
pub use folded::Folded;
pub use gathered::{End, Gathered};
pub use known::{Known, SessionId};
pub use preparing::Preparing;
pub use replay::TransactionLog;
pub use reply::{Reply, matters, may_be_taken_elsewhere, tells_of_death};
pub use reported::{Reported, ReportedAtLogin, Reports};
pub use ruled::Ruled;
pub use settings::{Dialect, Settings};
pub use wishes::Wishes;

use crate::catalog::Change;
use crate::routing::{Catalog, Defaults, Freshness, InTransaction, Intent, Reads, RuleSet, Standing};
use crate::sql::{Pin, PreparedBefore, PreparedNames, Statement, TransactionControl};
use crate::topology::Role;
use crate::wire::backend::TransactionStatus;
use doubt::Doubts;
use known::UnnamedId;
use owed::{Asker, OwedReplies};
use pins::Pins;
use portals::Portals;
use prepared::{Names, Prepared, Reading};
use remains::Remains;
use rewound::AtBegin;
use transaction::Transaction;
use untold::Untold;

/// Who a session is; does not change.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user.
    pub user: Arc<str>,
    /// The database as the client named it.
    pub database: Arc<str>,
    /// Where it comes from; None: not over IP.
    pub address: Option<IpAddr>,
}

/// What we know of one client.
#[derive(Debug)]
pub struct Session {
    /// Unique while the process runs.
    pub id: SessionId,
    /// Who it is.
    pub identity: Identity,
    /// The settings it has changed, by startup or since.
    pub settings: Settings,
    /// Which server process it believes to be its own.
    process_id: u32,
    /// The settings it came with: what RESET goes back to.
    startup: Settings,
    /// What it must see.
    pub freshness: Freshness,
    /// What has come and is not yet on its way.
    pub gathered: Gathered,
    names: Names,
    /// The unnamed statement as what is on its way will leave it.
    unnamed: Option<(Arc<Prepared>, UnnamedId)>,
    /// The unnamed statement as the node's replies so far have left it.
    settled_unnamed: Option<(Arc<Prepared>, UnnamedId)>,
    /// What [`Session::settled_unnamed`] was before what the client has not been shown.
    unshown_unnamed: Option<Option<(Arc<Prepared>, UnnamedId)>>,
    unnamed_count: u64,
    doubts: Doubts,
    /// A Parse has just been sent: its columns are asked for next, unless the client does.
    undescribed: Option<(Box<[u8]>, Arc<Prepared>)>,
    sql_prepared: PreparedNames,
    /// What of them was before what the client has not been shown yet, in order.
    unshown_sql: Vec<PreparedBefore>,
    /// It has sent an EXECUTE by SQL.
    executes_by_sql: bool,
    /// What a node has refused to run because it writes, until somebody asks.
    refused_writer: Option<Arc<Statement>>,
    /// Why it has refused to prepare what an EXECUTE by SQL that is on its way will not find.
    refused_mirror: Option<Box<[u8]>>,
    portals: Portals,
    /// Where it has drawn from a sequence, or may have, last: the server process.
    drew_on: u32,
    /// How often it has forgotten what it has drawn, on all server connections.
    forgotten_draws: u32,
    preparing: Preparing,
    owed: OwedReplies,
    transaction: Transaction,
    /// In its transaction a query has been sent to a replica: the modes cannot be set any more.
    has_read: bool,
    /// For as long as its transaction lasts, it may act as another role.
    acts_as_another: bool,
    /// What has been written, or may have been, by transactions that have ended: others have not been told of it yet.
    settled_writes: bool,
    /// What is made without a schema's name may be temporary, by the path that the session has begun with.
    makes_temporary_first: bool,
    pins: Pins,
    /// Those of them that have been told as new.
    told_pins: Pins,
    touched: Vec<Arc<str>>,
    /// Some of what it has changed and not read back is committed: it stands, whatever becomes of the open transaction.
    touched_for_good: bool,
    /// What else may have been left on the server connection.
    remains: Remains,
    /// The pool's mode gives the session one server connection until it leaves.
    keeps_lease: bool,
    /// What it has touched may be back at what the server connection began with, and not at what the session did.
    put_back: PutBack,
    /// The role is the one that is given at login again.
    role_is_reset: bool,
    flow: Flow,
    reported: Reported,
    wishes: Wishes,
    /// Those that SET LOCAL has named, until its client is told that this does nothing.
    wished_locally: Vec<Arc<str>>,
    /// Settings that stand in `settings` only to be shown.
    shown_wishes: Vec<Arc<str>>,
    /// What was put on the server connection that it keeps, to be shown there.
    shown_there: Settings,
    reading: Reading,
    dialect: Dialect,
    catalog: CatalogEffects,
    /// The rules that may match what it sends.
    standing: Standing,
    /// How its transactions begin.
    defaults: Defaults,
    /// What was prepared when the present transaction began; only where it may be replayed.
    at_begin: Option<Box<AtBegin>>,
}

/// What the session has done that catalogs tell of, or that decides how its names are looked up.
#[derive(Clone, Copy, Debug, Default)]
struct CatalogEffects {
    /// The catalogs that something on its way, or in the open transaction, may change.
    may_change: Change,
    /// Those that may have changed, and whoever believes them has not been told yet.
    has_changed: Change,
    /// The search path or the role may be another one than the settings say, which follow when the session is idle.
    path_is_uncertain: bool,
    /// The lease is on a replica.
    on_replica: bool,
}

/// Who may have put back settings to what the server connection began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum PutBack {
    /// Nobody.
    #[default]
    Nobody,
    /// Code, some of them.
    Code,
    /// DISCARD ALL in a batch, which commits by itself: what goes on behind it may be undone.
    Batch,
    /// DISCARD ALL by itself, all of them.
    Discard,
}

/// Where the conversation stands between messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Flow {
    /// An error came before the end of the batch was sent: everything up to Sync is dropped, as the node would.
    skipping: bool,
    /// The node waits for copy data.
    copy_in: bool,
    /// Messages of an extended batch have been sent and no Sync yet.
    batch_open: bool,
    /// Where the node waited for copy data, it has met something else, and has said so: its goodbye to the session follows.
    is_astray: bool,
    /// A batch is lost that nothing was owed of, and its client is told with its next answer. Until then it is skipping.
    untold: Option<Untold>,
}

/// Which lease a session holds while a message is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// None.
    Nothing,
    /// One on the primary.
    Primary,
    /// One on a replica.
    Replica,
}

impl Held {
    /// A lease on a node of this role.
    pub fn of(role: Role) -> Self {
        if role == Role::Primary { Self::Primary } else { Self::Replica }
    }
}

/// What [`Session::survey`] needs beside the message.
pub struct Surroundings<'a> {
    /// Text to statement, through the caches.
    pub classify: &'a mut dyn FnMut(&[u8]) -> Arc<Statement>,
    /// The rules in force.
    pub rules: &'a RuleSet,
    /// Where reads go by configuration.
    pub reads: Reads,
    /// The lease held now.
    pub held: Held,
    /// What is known of the database's objects.
    pub catalog: Catalog<'a>,
    /// Hints in comments count.
    pub heeds_hints: bool,
    /// Minutes since midnight UTC, where a rule looks at it.
    pub minute: u16,
    /// Any number, where a rule takes a share.
    pub draw: u64,
    /// Transactions that may write may read from a replica until they do.
    pub optimistic: bool,
}

impl<'a> Surroundings<'a> {
    /// Where nothing is known of the database's objects, and nothing is configured but these rules.
    pub fn plain(classify: &'a mut dyn FnMut(&[u8]) -> Arc<Statement>, rules: &'a RuleSet, held: Held) -> Self {
        Self {
            classify,
            rules,
            reads: Reads::Replicas,
            held,
            catalog: Catalog::NotAsked,
            heeds_hints: true,
            minute: 0,
            draw: 0,
            optimistic: false,
        }
    }
}

impl Session {
    /// A session that has just logged in, with the settings of its startup message.
    pub fn new(id: SessionId, identity: Identity, startup: Settings) -> Self {
        let startup = startup.at_beginning();
        Self {
            id,
            process_id: 0,
            identity,
            reading: Reading::default(),
            settings: startup.clone(),
            startup,
            freshness: Freshness::default(),
            gathered: Gathered::default(),
            names: Names::default(),
            unnamed: None,
            settled_unnamed: None,
            unshown_unnamed: None,
            unnamed_count: 0,
            doubts: Doubts::default(),
            undescribed: None,
            sql_prepared: PreparedNames::default(),
            unshown_sql: Vec::new(),
            executes_by_sql: false,
            refused_writer: None,
            refused_mirror: None,
            portals: Portals::default(),
            drew_on: 0,
            forgotten_draws: 0,
            preparing: Preparing::default(),
            owed: OwedReplies::default(),
            transaction: Transaction::default(),
            has_read: false,
            acts_as_another: false,
            settled_writes: false,
            makes_temporary_first: false,
            pins: Pins::default(),
            told_pins: Pins::default(),
            touched: Vec::new(),
            touched_for_good: false,
            remains: Remains::default(),
            keeps_lease: false,
            put_back: PutBack::default(),
            role_is_reset: false,
            flow: Flow::default(),
            reported: Reported::default(),
            dialect: Dialect::default(),
            catalog: CatalogEffects::default(),
            standing: Standing::default(),
            defaults: Defaults::default(),
            at_begin: None,
            wishes: Wishes::default(),
            wished_locally: Vec::new(),
            shown_wishes: Vec::new(),
            shown_there: Settings::default(),
        }
    }

    /// The client has been told that this is its server process.
    pub fn told_process(&mut self, process_id: u32) {
        self.process_id = process_id;
    }

    /// The client has been told these values of the settings that a server reports.
    pub fn told(&mut self, reported: ReportedAtLogin) {
        self.reported = Reported::new(reported);
        self.read_anew();
    }

    /// Its search_path, as far as it has set one or has been told: servers report it from PostgreSQL 18 on.
    pub fn search_path(&self) -> Option<&str> {
        self.settings.get("search_path").or_else(|| self.reported.get("search_path"))
    }

    /// The node has reported this value to us, outside of transactions: answers whether the client must be told.
    pub fn is_news(&mut self, name: &str, value: &str) -> bool {
        let is_news = name != "in_hot_standby" && self.reported.get(name) != Some(value);
        if is_news {
            self.reported.change(name, value);
            self.reported.settle();
            self.read_anew();
        }
        is_news
    }

    /// A setting that decides how texts and literals are read may have changed.
    fn read_anew(&mut self) {
        self.wishes = Wishes::of(|name| self.settings.get(name));
        self.defaults = Defaults::of(|name| {
            let set = if name == reported::NEVER_REPORTED { self.settings.get(name) } else { None };
            set.or_else(|| self.reported.get(name))
        });
        self.reading = self.reading_now();
        self.dialect = Dialect {
            standard_conforming_strings: self.reported.get("standard_conforming_strings") != Some("off"),
            encoding_is_utf8: self.reported.get("client_encoding").is_none_or(|encoding| encoding == "UTF8"),
        };
    }

    /// What a node has refused to run, with 25006, since this was asked last.
    pub fn take_refused_writer(&mut self) -> Option<Arc<Statement>> {
        self.refused_writer.take()
    }

    /// Where the unit may go. One without a statement (a lone Sync) may go anywhere.
    pub fn intent(&self) -> Option<&Intent> {
        self.gathered.intent.as_ref()
    }

    fn in_transaction(&self, held: Held) -> InTransaction {
        match (self.transaction.status(), held) {
            (TransactionStatus::Idle, _) => InTransaction::No,
            _ if self.has_ended_in_batch() => InTransaction::No,
            (_, Held::Replica) => match self.transaction.modes() {
                Some(modes) if !modes.is_read_only() => InTransaction::Optimistic,
                _ => InTransaction::ReadOnly,
            },
            _ => InTransaction::ReadWrite,
        }
    }

    /// The transaction as the node last told it.
    pub fn status(&self) -> TransactionStatus {
        self.transaction.status()
    }

    /// Something has been prepared by SQL: that is in the session and on its server connections.
    pub fn has_prepared_by_sql(&self) -> bool {
        !self.sql_prepared.is_empty()
    }

    /// Nothing is owed, no transaction is open, no batch and no copy is under way.
    pub fn is_idle(&self) -> bool {
        self.owed.is_empty()
            && self.transaction.status() == TransactionStatus::Idle
            && !self.flow.batch_open
            && !self.flow.copy_in
    }

    /// The lease may go back: idle and not pinned.
    pub fn may_release(&self) -> bool {
        self.is_idle() && self.pins.is_empty() && !self.keeps_lease
    }

    /// It keeps its lease also when everything that was sent is answered.
    pub fn keeps_lease(&self) -> bool {
        self.transaction.status() != TransactionStatus::Idle || !self.pins.is_empty() || self.keeps_lease
    }

    /// An error has come before the end of its batch was sent: what comes up to its Sync is dropped.
    pub fn is_skipping(&self) -> bool {
        self.flow.skipping
    }

    /// How the session's texts are to be read.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Replies are owed by the node.
    pub fn awaits_replies(&self) -> bool {
        !self.owed.is_empty()
    }

    /// A COPY has failed, and what it has not read of what was sent behind it may still be answered.
    pub fn may_be_answered_more(&self) -> bool {
        self.owed.may_be_exceeded()
    }

    /// All that was sent has been answered for certain.
    pub fn is_in_step(&mut self) {
        self.owed.is_not_exceeded();
    }

    /// The next reply is for us, or part of it is.
    pub fn awaits_for_itself(&self) -> bool {
        let is_ours = |owed: &owed::Owed| owed.asker() == Asker::Us || matches!(owed, owed::Owed::DescribeParameters);
        self.owed.front().is_some_and(is_ours)
    }

    /// Everything sent has been answered, though a transaction or a batch may be open.
    pub fn all_answered(&self) -> bool {
        self.owed.is_empty()
    }

    /// So many replies are to come before more is asked for. A node that reads copy data answers nothing until it has it all.
    pub fn owes_at_least(&self, count: usize) -> bool {
        self.owed.len() >= count && !self.flow.copy_in
    }

    /// The node waits for copy data.
    pub fn copies_in(&self) -> bool {
        self.flow.copy_in
    }

    /// Messages of an extended batch have been sent and no Sync yet.
    pub fn batch_is_open(&self) -> bool {
        self.flow.batch_open
    }

    /// What is owed still comes only once the client has said more: the rest of its copy data, or the Sync of its batch.
    pub fn awaits_client(&self) -> bool {
        self.flow.copy_in || self.owes_only_open_batch()
    }

    /// From now on the session keeps its lease until it leaves.
    pub fn keep_lease(&mut self) {
        self.keeps_lease = true;
    }

    /// The pool's mode has the session keep its lease until it leaves.
    pub fn is_kept_by_mode(&self) -> bool {
        self.keeps_lease
    }

    /// DISCARD ALL makes the session's server connection as good as new.
    pub fn can_be_discarded(&self) -> bool {
        self.is_idle() && self.pins.can_be_discarded() && !self.has_touched()
    }

    /// Why the session keeps its lease, if it does.
    pub fn pin(&self) -> Option<Pin> {
        self.pins.first()
    }

    /// This server connection is the session's own as it is: nothing to be replayed, and nothing to be forgotten.
    pub fn is_at_home(&self, known: &Known) -> bool {
        !self.transaction.is_homeless()
            && known.unseen.is_none_or(|owner| owner == self.id)
            && self.settings == known.settings
            && known.sql_prepared.is_none()
            && self.sql_prepared.is_empty()
            && !self.meets_foreign_sequences(known)
    }

    /// This server connection cannot be made the session's own.
    pub fn cannot_use(&self, known: &Known) -> bool {
        self.meets_placeholder(known) || self.needs_other_buffers(known)
    }

    /// The session was served by this node from `begun` up to now; it is idle. A node that was not known to have all that the
    /// session must see `may_lack` some of it. Answers whether the session may have written.
    pub fn served_by(&mut self, node: crate::topology::NodeId, may_lack: bool, begun: Instant, now: Instant) -> bool {
        self.catalog.path_is_uncertain = false;
        self.served_up_to(node, may_lack, begun, now)
    }

    /// The same where the session keeps the server connection, whatever it has changed there.
    pub fn served_up_to(
        &mut self,
        node: crate::topology::NodeId,
        may_lack: bool,
        begun: Instant,
        now: Instant,
    ) -> bool {
        let has_written = self.transaction.take_writes();
        if has_written {
            self.freshness.wrote(now);
        }
        match may_lack {
            true => self.freshness.read_stale(now),
            false => self.freshness.read(node, begun, now),
        }
        has_written
    }

    /// The same, where it has only taken back what it had left on its server connection: it has written nothing, and need see
    /// nothing more than before.
    pub fn was_cleaned(&mut self) {
        self.catalog.path_is_uncertain = false;
    }

    /// What it has written is there for all to see, or may be, and the client is told so now. Behind a Flush, a COMMIT is answered
    /// before a unit is.
    #[inline]
    pub fn has_written(&mut self, is_unit_answered: bool) -> bool {
        if self.settled_writes {
            self.settled_writes = false;
            return true;
        }
        is_unit_answered && self.transaction.may_have_written() && self.transaction.status() == TransactionStatus::Idle
    }

    /// How many statements have been answered, or skipped behind an error, since this was asked last or a lease was taken.
    #[inline]
    pub fn take_run(&mut self) -> u32 {
        self.owed.take_run()
    }

    /// The lease that serves the session from now on. What was lost on another does not count as answered.
    pub fn served_on(&mut self, held: Held) {
        self.owed.take_run();
        self.catalog.on_replica = held == Held::Replica;
    }

    /// The catalogs may have changed since this was asked last: whoever believes them must be told before the client is.
    pub fn take_catalog_change(&mut self) -> Change {
        std::mem::take(&mut self.catalog.has_changed)
    }

    /// The catalogs that something under way may change, whatever becomes of it.
    pub fn catalog_change(&self) -> Change {
        let mut under_way = self.owed.iter().filter_map(owed::Owed::statement);
        let unseen = if under_way.any(Statement::is_too_large) { Change::Opaque } else { Change::None };
        self.catalog.may_change.max(self.catalog.has_changed).max(unseen)
    }

    /// A statement has ended, or a transaction: what may have changed the catalogs may be there for all to see.
    fn catalog_settles(&mut self) {
        if self.transaction.status() == TransactionStatus::Idle {
            self.settle_catalog_change();
        }
    }

    #[inline]
    fn settle_catalog_change(&mut self) {
        if self.catalog.may_change != Change::None {
            self.catalog.has_changed.join(self.catalog.may_change);
            if self.owed.is_empty() {
                self.catalog.may_change = Change::None;
            }
        }
    }

    /// The statement was proven to be a read, and a replica has answered it.
    fn is_proven_read(&self) -> bool {
        self.catalog.on_replica && self.transaction.status() == TransactionStatus::Idle
    }

    /// The client has been shown what was answered, up to here.
    pub fn shown(&mut self) {
        self.names.shown();
        self.unshown_unnamed = None;
        if !self.unshown_sql.is_empty() {
            self.unshown_sql = Vec::new();
        }
    }

    /// Nobody can want what runs on the server connection, now that the client is gone: it is a read, or part of a
    /// transaction that cannot be committed any more.
    pub fn is_futile(&self, is_read: bool) -> bool {
        let commits = |owed: &owed::Owed| match owed {
            owed::Owed::Query { statement, .. } | owed::Owed::Execute(Some(statement)) => {
                statement.parts.iter().any(|p| p.commits_inside || p.transaction != TransactionControl::None)
            }
            owed::Owed::Execute(None) => true,
            _ => false,
        };
        is_read || self.transaction.status() != TransactionStatus::Idle && !self.owed.iter().any(commits)
    }

    /// Panics in tests and debug builds if the machine has lost its beat.
    pub fn check_invariants(&self) {
        debug_assert!(!self.flow.copy_in || !self.owed.is_empty(), "copy data is wanted by nobody");
        debug_assert!(
            self.transaction.aborted().is_none() || self.owed.is_empty(),
            "a lost transaction is owed replies"
        );
        let waits = self.flow.skipping && self.owed.is_empty() && !self.flow.batch_open;
        debug_assert!(self.flow.untold.is_none() || waits, "what is to be told with the next answer is forgotten");
    }
}
