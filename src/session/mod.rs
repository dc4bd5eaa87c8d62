//! One client's conversation as a machine: what it sends, what is owed to it, and what must not be lost between.
//!
//! The order of calls, for whoever drives it:
//! 1. [`Session::survey`] each whole message from the client. The unit is whole when [`Gathered::end`] says so; while a
//!    lease on the primary is held, each message may go on its way at once.
//! 2. Find a lease for [`Gathered::intent`], and make its settings the session's ([`Session::replay`]).
//! 3. [`Session::translate`] each of those messages into bytes for the node.
//! 4. [`Session::reply`] for each message from the node that can change a state ([`matters`]).
//! 5. When [`Session::may_release`], ask for the settings in [`Session::take_touched`], and give the lease back.
//! 6. If the node is lost on the way, [`Session::lost`] says what that means.
//! 7. Of a client that has nothing to say for a while, [`Session::fold`] keeps what is to be remembered.

pub mod aborted;
pub mod anew;
pub mod columns;
pub mod doubt;
pub mod failure;
pub mod folded;
pub mod gathered;
pub mod known;
pub mod libraries;
pub mod mirrored;
pub mod owed;
pub mod pins;
pub mod prepared;
mod remains;
pub mod replay;
pub mod reply;
pub mod reported;
pub mod sequences;
pub mod settings;
#[cfg(test)]
mod story;
pub mod translate;
pub mod wishes;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

pub use failure::Loss;
pub use folded::Folded;
pub use gathered::{End, Gathered};
pub use known::{Known, SessionId};
pub use replay::TransactionLog;
pub use reply::{Reply, matters, tells_of_death};
pub use reported::{Reported, ReportedAtLogin};
pub use settings::{Dialect, Settings};
pub use wishes::Wishes;

use crate::catalog::Path;
use crate::routing::{
    Catalog, Defaults, Facts, Freshness, InTransaction, Intent, Reads, Reason, RuleSet, Ruling, Sender, Standing,
    safety, weigh,
};
use crate::sql::{
    Isolation, Kind, NeedsPrimary, Pin, PreparedNames, SessionChange, Statement, TransactionControl, is_carried,
};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, Bind, Parse, Target};
use crate::wire::reader::Truncated;
use crate::wire::{Header, frame};
use doubt::Doubts;
use known::UnnamedId;
use owed::{Asker, OwedReplies};
use pins::Pins;
use prepared::{Names, Prepared, Reading, StatementId};
use remains::Remains;

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
    /// It has sent an EXECUTE by SQL.
    executes_by_sql: bool,
    portals: Vec<(Box<[u8]>, Arc<Statement>)>,
    /// Where it has drawn from a sequence, or may have, last: the server process.
    drew_on: u32,
    /// How often it has forgotten what it has drawn, on all server connections.
    forgotten_draws: u32,
    /// What is on its way surely draws, once the node says that this is done.
    draws_surely: Option<&'static [u8]>,
    owed: OwedReplies,
    transaction: Transaction,
    pins: Pins,
    touched: Vec<Arc<str>>,
    /// What else may have been left on the server connection.
    remains: Remains,
    /// The pool's mode gives the session one server connection until it leaves.
    keeps_lease: bool,
    /// Of those that it came with, the ones put back to what the server connection began with, and not yet to what the
    /// session did.
    reset: Vec<Arc<str>>,
    /// Those that no ROLLBACK takes back any more.
    reset_for_good: Vec<Arc<str>>,
    flow: Flow,
    reported: Reported,
    wishes: Wishes,
    /// Settings that stand in `settings` only to be shown.
    shown_wishes: Vec<Arc<str>>,
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
    /// Something on its way, or in the open transaction, may change the catalogs.
    may_change: bool,
    /// They may have changed, and whoever believes them has not been told yet.
    has_changed: bool,
    /// The search path or the role may be another one than the settings say, which follow when the session is idle.
    path_is_uncertain: bool,
    /// The lease is on a replica.
    on_replica: bool,
}

/// What a session had prepared when its transaction began.
#[derive(Debug)]
struct AtBegin {
    unnamed: Option<(Arc<Prepared>, UnnamedId)>,
    sql_prepared: PreparedNames,
    /// None: the same as now.
    names: Option<Names>,
}

/// The transaction that the session is in.
#[derive(Clone, Copy, Debug, Default)]
struct Transaction {
    /// As the last ReadyForQuery said.
    status: TransactionStatus,
    /// Something ran on the primary that may have written, since the session was last idle.
    may_have_written: bool,
    /// What it promises, once its BEGIN has been answered.
    modes: Option<anew::Modes>,
    /// Something in it has been seen that another node could not show again: it stays where it is.
    is_bound: bool,
    /// Something of it has been sent to a primary beside its BEGIN: what that has done is not done elsewhere.
    has_acted: bool,
    /// It has lost its place and will be begun anew on the next lease.
    is_homeless: bool,
    /// It was lost with its node, and only ROLLBACK is accepted until the client has taken notice.
    aborted: Option<aborted::Aborted>,
    /// Its COMMIT or ROLLBACK has been completed, though the ReadyForQuery that says so has not come.
    ended: Ended,
}

/// Whether a transaction has ended before its ReadyForQuery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ended {
    /// Not that we know.
    #[default]
    No,
    /// What it has done is done, or undone.
    Yes,
    /// The same, and AND CHAIN has begun another one.
    Chained,
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
    /// Told by [`Session::survey`]: what rules have to do with the statement that the message runs.
    pub ruling: Ruling,
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
            ruling: Ruling::default(),
            optimistic: false,
        }
    }
}

impl Session {
    /// A session that has just logged in, with the settings of its startup message.
    pub fn new(id: SessionId, identity: Identity, startup: Settings) -> Self {
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
            executes_by_sql: false,
            portals: Vec::new(),
            drew_on: 0,
            forgotten_draws: 0,
            draws_surely: None,
            owed: OwedReplies::default(),
            transaction: Transaction::default(),
            pins: Pins::default(),
            touched: Vec::new(),
            remains: Remains::default(),
            keeps_lease: false,
            reset: Vec::new(),
            reset_for_good: Vec::new(),
            flow: Flow::default(),
            reported: Reported::default(),
            dialect: Dialect::default(),
            catalog: CatalogEffects::default(),
            standing: Standing::default(),
            defaults: Defaults::default(),
            at_begin: None,
            wishes: Wishes::default(),
            shown_wishes: Vec::new(),
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

    /// The node has reported this value: answers whether the client must be told.
    pub fn is_news(&mut self, name: &str, value: &str) -> bool {
        let is_news = name != "in_hot_standby" && self.reported.get(name) != Some(value);
        if is_news {
            self.reported.change(name, value);
            self.read_anew();
        }
        is_news
    }

    /// A setting that decides how texts and literals are read may have changed.
    fn read_anew(&mut self) {
        let default = |name| self.settings.get(name).or_else(|| self.reported.get(name));
        self.wishes = Wishes::of(|name| self.settings.get(name));
        self.defaults = Defaults {
            read_only: self.reported.get("default_transaction_read_only") == Some("on"),
            isolation: default(reported::NEVER_REPORTED)
                .and_then(Isolation::from_setting)
                .unwrap_or(Isolation::ReadCommitted),
        };
        self.reading = Reading::of(|name| self.reported.get(name), &self.settings);
        self.dialect = Dialect {
            standard_conforming_strings: self.reported.get("standard_conforming_strings") != Some("off"),
            encoding_is_utf8: self.reported.get("client_encoding").is_none_or(|encoding| encoding == "UTF8"),
        };
    }

    /// Looks at one whole message that runs nothing which is not known already, if it is one. Answers whether it is; any
    /// other is for [`Self::survey`]. Without a lease and where there are no rules (`is_free`), a Bind may be one.
    #[inline]
    pub fn survey_plain(&mut self, tag: u8, size: usize, body: &[u8], is_free: bool) -> Result<bool, Truncated> {
        match tag {
            frontend::BIND if is_free => {
                let bind = Bind::read(body)?;
                let parsed = self.gathered_statement(bind.statement).filter(|prepared| self.has_joined(prepared));
                let Some(prepared) = parsed else { return Ok(false) };
                self.uses(bind.statement, &prepared);
                self.gathered.binds |= !bind.portal.is_empty();
            }
            frontend::QUERY | frontend::PARSE | frontend::BIND => return Ok(false),
            frontend::DESCRIBE if frontend::target_fields(body)?.0 == Target::Statement => return Ok(false),
            frontend::DESCRIBE => {}
            frontend::CLOSE => self.survey_close(frontend::target_fields(body)?),
            frontend::EXECUTE => {
                self.gathered.executes = true;
                // A portal with a limit on rows may be gone on with.
                self.gathered.binds |= !body.ends_with(&[0; 4]);
            }
            frontend::SYNC => self.gathered.end = Some(End::Sync),
            frontend::FLUSH => {
                self.gathered.end = Some(End::Flush);
                self.keep_batch_whole();
            }
            frontend::FUNCTION_CALL => {
                self.gathered.executes = true;
                self.gathered.join(Intent::Primary(Reason::FunctionCall));
                self.gathered.end = Some(End::FunctionCall);
            }
            frontend::TERMINATE => self.gathered.end = Some(End::Terminate),
            frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL => self.gathered.end = Some(End::StrayCopy),
            _ => return Err(Truncated),
        }
        self.gathered.size += size;
        Ok(true)
    }

    /// Looks at one whole message: what it is, where it may go, whether it makes the unit whole.
    pub fn survey(
        &mut self,
        tag: u8,
        size: usize,
        body: &[u8],
        around: &mut Surroundings<'_>,
    ) -> Result<(), Truncated> {
        match tag {
            frontend::QUERY => self.survey_query(frontend::query_text(body)?, around),
            frontend::PARSE => self.survey_parse(Parse::read(body)?, around),
            frontend::BIND => {
                let is_refused_before = self.is_refused();
                let bind = Bind::read(body)?;
                let ruling = self.survey_bind(bind.statement, Some(bind.rest), around);
                around.ruling = if is_refused_before { Ruling::default() } else { ruling };
                self.gathered.binds |= !bind.portal.is_empty();
            }
            frontend::DESCRIBE => match frontend::target_fields(body)? {
                (Target::Statement, name) => drop(self.survey_bind(name, None, around)),
                (Target::Portal, _) => {}
            },
            _ => return self.survey_plain(tag, size, body, false).map(drop),
        }
        self.gathered.size += size;
        Ok(())
    }

    /// Looks at the beginning of a message that is too large to be waited for: a Query or a Bind. `missing` bytes of it
    /// have not come yet.
    pub fn survey_beginning(
        &mut self,
        tag: u8,
        body: &[u8],
        missing: usize,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Truncated> {
        match tag {
            frontend::QUERY => self.survey_statement(Arc::new(crate::sql::too_large()), b"", around),
            frontend::BIND => {
                let bind = Bind::read(body)?;
                around.ruling = self.survey_bind(bind.statement, Some(bind.rest), around);
                self.gathered.binds = true;
                self.gathered.end = Some(End::Flush);
            }
            _ => return Err(Truncated),
        }
        self.gathered.size += frame::HEADER + body.len();
        self.gathered.missing = missing;
        Ok(())
    }

    /// What a batch sets before its Flush is undone if it fails behind it, and what comes there may need the primary.
    fn keep_batch_whole(&mut self) {
        let is_read = matches!(self.gathered.intent, Some(Intent::Read { .. }));
        if is_read && self.gathered.changes_session && self.transaction.status == TransactionStatus::Idle {
            self.gathered.intent = Some(Intent::Primary(Reason::Transaction));
        }
    }

    fn survey_query(&mut self, text: &[u8], around: &mut Surroundings<'_>) {
        let statement = (around.classify)(text);
        self.survey_statement(statement, text, around);
    }

    /// Looks at a whole Query that is this statement, if it is a plain read of which the catalog has noted what it means:
    /// without a lease, where no rules are and reads may go to replicas. Any other it gives back, for [`Self::survey`].
    #[inline]
    pub fn survey_read(
        &mut self,
        size: usize,
        statement: Arc<Statement>,
        catalog: &Catalog<'_>,
    ) -> Option<Arc<Statement>> {
        let Some(intent) = self.plain_intent(&statement, Held::Nothing, catalog) else { return Some(statement) };
        self.gathered.first.get_or_insert_with(|| Arc::clone(&statement));
        self.gathered.join(intent);
        self.gathered.size += size;
        self.gathers_query(statement);
        None
    }

    fn gathers_query(&mut self, statement: Arc<Statement>) {
        self.gathered.executes = true;
        self.gathered.unnamed = Some(None);
        self.gathered.queries.push_back(statement);
        self.gathered.end = Some(End::Query);
    }

    fn survey_statement(&mut self, statement: Arc<Statement>, text: &[u8], around: &mut Surroundings<'_>) {
        around.ruling = self.join(&statement, text, around);
        self.gathers_query(statement);
    }

    fn survey_parse(&mut self, parse: Parse<'_>, around: &mut Surroundings<'_>) {
        let prepared = match &self.unnamed {
            Some((prepared, _)) if parse.name.is_empty() && prepared.is(parse.text, parse.types) => {
                match prepared.has_told() {
                    false => Arc::clone(prepared),
                    true => Arc::new(prepared.untold(self.reading)),
                }
            }
            _ => Arc::new(Prepared::new(parse.text, parse.types, (around.classify)(parse.text), self.reading)),
        };
        let is_refused_before = self.is_refused();
        let ruling = self.join(&Arc::clone(&prepared.statement), parse.text, around);
        if self.is_refused() && !is_refused_before {
            around.ruling = ruling; // it will not come to a Bind
        }
        if parse.name.is_empty() {
            self.gathered.unnamed = Some(Some(Arc::clone(&prepared)));
        } else {
            self.gathered.names.push((parse.name.into(), Some(Arc::clone(&prepared))));
        }
        self.gathered.parsed.push_back(prepared);
    }

    /// A Bind with these values, or a Describe.
    fn survey_bind(&mut self, name: &[u8], values: Option<&[u8]>, around: &Surroundings<'_>) -> Ruling {
        match self.gathered_statement(name) {
            Some(prepared) => {
                // Where there are no rows, what is to be described cannot have changed.
                if values.is_some() || !prepared.answers_no_rows() {
                    self.uses(name, &prepared);
                }
                if around.held == Held::Replica && self.transaction.status != TransactionStatus::Idle {
                    self.gathered.binds |= values.is_some_and(anew::mentions_clock);
                }
                self.join(&prepared.statement, &prepared.text, around)
            }
            None => {
                self.gathered.join(Intent::Primary(Reason::UnknownName));
                Ruling::default()
            }
        }
    }

    /// The unit has been joined by this statement when its Parse was looked at, and nothing that counts has changed since:
    /// names mean what they meant, and without a lease no reply can have come. Where there are rules, they are to be counted.
    fn has_joined(&self, prepared: &Arc<Prepared>) -> bool {
        !self.catalog.path_is_uncertain && self.gathered.parsed.back().is_some_and(|last| Arc::ptr_eq(last, prepared))
    }

    /// The unit uses this statement, of which there is something that the client may rely on.
    fn uses(&mut self, name: &[u8], prepared: &Arc<Prepared>) {
        if !prepared.is_promised() {
            return;
        }
        if name.is_empty() {
            if self.gathered.unnamed.is_none() {
                self.gathered.uses.push(Arc::clone(prepared));
            }
            return;
        }
        let prepared = self.read_as_now(name, Arc::clone(prepared));
        self.gathered.uses.push(prepared);
    }

    /// The statement of this name as the session reads literals now.
    fn read_as_now(&mut self, name: &[u8], prepared: Arc<Prepared>) -> Arc<Prepared> {
        if prepared.reading == self.reading {
            return prepared;
        }
        let reread = Arc::new(prepared.reread(self.reading));
        self.names.rekey(name, &reread);
        reread
    }

    fn survey_close(&mut self, (target, name): (Target, &[u8])) {
        match target {
            Target::Statement if name.is_empty() => self.gathered.unnamed = Some(None),
            Target::Statement => self.gathered.names.push((name.into(), None)),
            Target::Portal => {}
        }
    }

    /// The statement of this name as the unit so far leaves it.
    fn gathered_statement(&self, name: &[u8]) -> Option<Arc<Prepared>> {
        if name.is_empty() {
            return match &self.gathered.unnamed {
                Some(unnamed) => unnamed.clone(),
                None => self.unnamed.as_ref().map(|(prepared, _)| Arc::clone(prepared)),
            };
        }
        match self.gathered.names.iter().rev().find(|(given, _)| **given == *name) {
            Some((_, prepared)) => prepared.clone(),
            None => self.names.get(name).cloned(),
        }
    }

    /// The text of the first statement of the unit that is gathered, whose messages are these; empty if it has none.
    pub fn text_of_unit<'a>(&'a self, messages: &'a [u8]) -> Cow<'a, [u8]> {
        let Ok(Some(header)) = Header::peek(messages) else { return Cow::default() };
        let body = messages.get(frame::HEADER..header.size).unwrap_or_default();
        let named = |name: &[u8]| {
            let prepared = match name.is_empty() {
                true => self.gathered_statement(name),
                false => self.names.get(name).cloned().or_else(|| self.gathered_statement(name)),
            };
            prepared.map_or_else(Cow::default, |prepared| Cow::Owned(prepared.text.to_vec()))
        };
        match header.tag {
            frontend::QUERY => frontend::query_text(body).map_or_else(|_| Cow::default(), Cow::Borrowed),
            frontend::PARSE => Parse::read(body).map_or_else(|_| Cow::default(), |parse| Cow::Borrowed(parse.text)),
            frontend::BIND => Bind::read(body).map_or_else(|_| Cow::default(), |bind| named(bind.statement)),
            frontend::DESCRIBE => {
                frontend::target_fields(body).map_or_else(|_| Cow::default(), |(_, name)| named(name))
            }
            _ => Cow::default(),
        }
    }

    /// One more statement in the unit.
    fn join(&mut self, statement: &Arc<Statement>, text: &[u8], around: &Surroundings<'_>) -> Ruling {
        let is_simple = around.rules.is_empty() && around.reads != Reads::Primary;
        if is_simple && let Some(intent) = self.plain_intent(statement, around.held, &around.catalog) {
            self.gathered.first.get_or_insert_with(|| Arc::clone(statement));
            self.gathered.join(intent);
            return Ruling::default();
        }
        self.stand_before(around.rules);
        self.catalog.path_is_uncertain |= changes_path(statement);
        let any = Path::any();
        let catalog = match around.catalog {
            Catalog::Known { picture, .. } if self.catalog.path_is_uncertain => {
                Catalog::Known { picture, path: &any, key: None }
            }
            catalog => catalog,
        };
        self.gathered.may_change_catalog |= safety::may_change_catalog(statement, &catalog);
        self.gathered.leaves(safety::leftovers(statement, &catalog).map(|left| left.named_in(text)));
        let facts = Facts {
            standing: &self.standing,
            heeds_hints: around.heeds_hints,
            minute: around.minute,
            // One draw for all messages of a unit: a Bind goes where its Parse went.
            draw: *self.gathered.draw.get_or_insert(around.draw),
            reads: around.reads,
            transaction: self.in_transaction(around.held),
            optimistic: around.optimistic,
            defaults: self.defaults,
            prepared: &self.sql_prepared,
            catalog,
        };
        let words = if around.rules.looks_at_texts() { String::from_utf8_lossy(text) } else { "".into() };
        let weighed = weigh(statement, &words, &facts, around.rules);
        self.gathered.begins |=
            statement.parts.iter().any(|part| matches!(part.transaction, TransactionControl::Begin(_)));
        self.gathered.commits |= statement.parts.iter().any(|part| {
            part.commits_inside
                || matches!(part.transaction, TransactionControl::Commit { .. } | TransactionControl::Prepare)
        });
        self.gathered.is_wrong_on_replica |= wrong_on_replica(statement);
        self.gathered.asks_sequence |=
            statement.parts.iter().any(|part| part.session.contains(&SessionChange::Pin(Pin::Sequence)));
        if !statement.is_plain_read() {
            self.gathered.runs_unseen |= safety::runs_unseen(statement, &catalog);
            self.gathered.draws(safety::draws(statement, &catalog), statement);
            self.gathered.changes_session |= statement.parts.iter().any(|part| !part.session.is_empty());
            self.gathered.controls_transaction |=
                statement.parts.iter().any(|part| part.transaction != TransactionControl::None);
            let executed = self.executed_by_sql(statement);
            self.executes_by_sql |= !executed.is_empty();
            for inner in executed.into_iter().flatten() {
                self.gathered.may_change_catalog |= safety::may_change_catalog(&inner, &catalog);
                self.gathered.leaves(safety::leftovers(&inner, &catalog));
            }
            self.gathered.empties.extend(statement.parts.iter().filter_map(|part| part.empties.clone()));
        }
        self.gathered.asks_wishes |= statement.parts.iter().any(|part| part.session.contains(&SessionChange::Ask));
        self.note_bonds(statement, text, around.held);
        if self.gathered.first.is_none() {
            self.gathered.first = Some(Arc::clone(statement));
        }
        self.gathered.join(weighed.intent);
        weighed.ruling
    }

    /// What each EXECUTE in the statement runs, by a name that was given by SQL or by the protocol; None: nobody knows.
    fn executed_by_sql(&self, statement: &Statement) -> SmallVec<[Option<Arc<Statement>>; 1]> {
        let changes = statement.parts.iter().flat_map(|part| &part.session);
        let of_protocol = |name: &str| self.names.get(name.as_bytes()).map(|prepared| Arc::clone(&prepared.statement));
        changes
            .filter_map(|change| match change {
                SessionChange::Execute(name) => Some(name),
                _ => None,
            })
            .map(|name| match self.sql_prepared.get(name) {
                Some(prepared) => Some(Arc::clone(&prepared.statement)),
                None => of_protocol(name),
            })
            .collect()
    }

    /// What [`weigh`] says of a plain read outside of transactions, where no rule and no hint has a part in it, reads may go
    /// to replicas, and the catalog has noted its part: most statements. None: it takes the long way.
    #[inline]
    fn plain_intent(&self, statement: &Statement, held: Held, catalog: &Catalog<'_>) -> Option<Intent> {
        let is_plain = statement.is_plain_read()
            && statement.remarks.is_none()
            && self.transaction.status == TransactionStatus::Idle
            && !self.gathered.begins
            && (held != Held::Replica || self.owed.is_empty())
            && !self.catalog.path_is_uncertain
            && self.defaults.isolation != Isolation::Serializable;
        if !is_plain {
            return None;
        }
        Some(match safety::prove_by_note(statement, catalog)? {
            Ok(safe) => Intent::Read { safe, reason: Reason::Read, terms: None },
            Err(reason) => Intent::Primary(reason),
        })
    }

    fn is_refused(&self) -> bool {
        matches!(self.gathered.intent, Some(Intent::Refuse { .. }))
    }

    /// Finds out anew which rules may match what the session sends, if that has changed.
    fn stand_before(&mut self, rules: &RuleSet) {
        if rules.is_empty() {
            return;
        }
        // What the node reports is newer than what is read back when the session is idle.
        let application_name = self.reported.get("application_name");
        let application_name = application_name.or(self.settings.get("application_name")).unwrap_or_default();
        if !self.standing.is_of(rules, application_name) {
            let Identity { user, database, address } = &self.identity;
            self.standing = rules.standing(&Sender { user, database, application_name, address: *address });
        }
    }

    /// Where the unit may go. One without a statement (a lone Sync) may go anywhere.
    pub fn intent(&self) -> Option<&Intent> {
        self.gathered.intent.as_ref()
    }

    fn in_transaction(&self, held: Held) -> InTransaction {
        match (self.transaction.status, held) {
            (TransactionStatus::Idle, _) => InTransaction::No,
            (_, Held::Replica) => match self.transaction.modes {
                Some(modes) if !modes.read_only => InTransaction::Optimistic,
                _ => InTransaction::ReadOnly,
            },
            _ => InTransaction::ReadWrite,
        }
    }

    /// The transaction as the node last told it.
    pub fn status(&self) -> TransactionStatus {
        self.transaction.status
    }

    /// Nothing is owed, no transaction is open, no batch and no copy is under way.
    pub fn is_idle(&self) -> bool {
        self.owed.is_empty()
            && self.transaction.status == TransactionStatus::Idle
            && !self.flow.batch_open
            && !self.flow.copy_in
    }

    /// The lease may go back: idle and not pinned.
    pub fn may_release(&self) -> bool {
        self.is_idle() && self.pins.is_empty() && !self.keeps_lease
    }

    /// It keeps its lease also when everything that was sent is answered.
    pub fn keeps_lease(&self) -> bool {
        self.transaction.status != TransactionStatus::Idle || !self.pins.is_empty() || self.keeps_lease
    }

    /// The transaction has failed, and what has been gathered does not end it: it fails, too.
    pub fn only_fails(&self) -> bool {
        self.transaction.status == TransactionStatus::Failed
            && self.owed.is_empty()
            && !self.gathered.controls_transaction
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

    /// The next reply is for us, or part of it is.
    pub fn awaits_for_itself(&self) -> bool {
        let is_ours = |owed: &owed::Owed| owed.asker() == Asker::Us || matches!(owed, owed::Owed::DescribeParameters);
        self.owed.front().is_some_and(is_ours)
    }

    /// Everything sent has been answered, though a transaction or a batch may be open.
    pub fn all_answered(&self) -> bool {
        self.owed.is_empty()
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
        self.is_idle() && !self.pins.has(Pin::Load) && !self.has_touched()
    }

    /// Why the session keeps its lease, if it does.
    pub fn pin(&self) -> Option<Pin> {
        self.pins.first()
    }

    /// This server connection is the session's own as it is: nothing to be replayed, and nothing to be forgotten.
    pub fn is_at_home(&self, known: &Known) -> bool {
        !self.transaction.is_homeless
            && known.unseen.is_none_or(|owner| owner == self.id)
            && self.settings == known.settings
            && known.sql_prepared.is_none()
            && self.sql_prepared.is_empty()
            && !self.meets_foreign_sequences(known)
    }

    /// Settings have been changed whose values must be asked of the node.
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty() || self.has_remains()
    }

    /// RESET has put back settings to what the server connection began with, where the session began with something else.
    pub fn has_reset(&self) -> bool {
        !self.reset.is_empty() || !self.reset_for_good.is_empty()
    }

    /// The same within a transaction, of which the next statement is still to come.
    pub fn has_reset_in_transaction(&self) -> bool {
        self.has_reset()
            && self.transaction.status == TransactionStatus::Open
            && self.owed.is_empty()
            && !self.flow.batch_open
            && !self.flow.copy_in
    }

    /// The SQL that goes on with a RESET within a transaction to where the session began.
    pub fn reset_on(&mut self) -> String {
        let reset = self.take_reset();
        let own = reset.iter().filter_map(|name| Some((&**name, self.startup.get(name)?)));
        own.map(|(name, value)| settings::sql_to_set(name, value)).collect()
    }

    fn take_reset(&mut self) -> Vec<Arc<str>> {
        let mut reset = std::mem::take(&mut self.reset_for_good);
        reset.append(&mut self.reset);
        reset
    }

    /// The settings whose values must be asked of the node, now that the session is idle.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.take_settings_left());
        touched.retain(|name| is_carried(name));
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// What the node answered to the settings asked for. Answers what is now set on the server connection: RESET has put
    /// back what the server begins with there, and for the session means what the client began with.
    pub fn settings_read(&mut self, names: &[Arc<str>], values: Vec<Option<Arc<str>>>) -> Settings {
        for (name, value) in names.iter().zip(values) {
            // Who logged in, a role that is nobody's, and a setting of an unloaded library put back, need no replay.
            let value = value.filter(|value| match &**name {
                "role" => **value != *"none",
                "session_authorization" => *value != self.identity.user,
                _ => true,
            });
            self.settings = self.settings.with(name, value);
        }
        let there = self.settings.clone();
        for name in self.take_reset() {
            let Some((_, value)) = self.startup.iter().find(|(startup, _)| **startup == name) else { continue };
            self.settings = self.settings.with(&name, Some(Arc::clone(value)));
        }
        self.read_anew();
        there
    }

    /// The role that the session acts as: what SET ROLE or SET SESSION AUTHORIZATION has made of its user.
    pub fn role(&self) -> &str {
        let set = |name| self.settings.get(name).filter(|role| !role.is_empty() && *role != "none");
        set("role").or_else(|| set("session_authorization")).unwrap_or(&self.identity.user)
    }

    /// The SQL that makes this server connection the session's own; None if it is.
    pub fn replay(&self, known: &Known) -> Option<String> {
        let mut sql = match known.unseen {
            Some(owner) if owner != self.id => {
                let anew = self.settings.sql_from(&Settings::default()).unwrap_or_default();
                format!("{FORGET_ALL};{anew}")
            }
            _ => self.settings.sql_from(&known.settings).unwrap_or_default(),
        };
        if let Some((owner, prepared)) = &known.sql_prepared {
            for (name, _) in prepared.iter().filter(|(name, text)| *owner != self.id || !self.has_prepared(name, text))
            {
                sql.push_str(&format!(";DEALLOCATE \"{}\"", name.replace('"', "\"\"")));
            }
        }
        (!sql.is_empty()).then_some(sql)
    }

    /// A query of ours as this session's server connections take it.
    pub fn guarded(&self, sql: String) -> String {
        let of_the_role = self.reported.get(reported::NEVER_REPORTED).and_then(Isolation::from_setting);
        match [Some(self.defaults.isolation), of_the_role].contains(&Some(Isolation::Serializable)) {
            true => settings::at_read_committed(&sql),
            false => sql,
        }
    }

    /// The same on a server connection that has what a session has set before.
    pub fn guarded_on(&self, known: &Known, sql: String) -> String {
        match known.settings.get(reported::NEVER_REPORTED).and_then(Isolation::from_setting) {
            Some(Isolation::Serializable) => settings::at_read_committed(&sql),
            _ => self.guarded(sql),
        }
    }

    /// The query that reads these settings back, on a server connection that has just changed them.
    pub fn settings_query(&self, names: &[Arc<str>]) -> String {
        let sql = settings::sql_to_read(names);
        // Its transactions may have become SERIALIZABLE by this very change.
        match names.iter().any(|name| **name == *reported::NEVER_REPORTED) {
            true => settings::at_read_committed(&sql),
            false => self.guarded(sql),
        }
    }

    fn has_prepared(&self, name: &str, text: &str) -> bool {
        self.sql_prepared.get(name).is_some_and(|prepared| *prepared.text == *text)
    }

    /// The PREPARE statements that this server connection lacks, of those the session has made by SQL.
    pub fn missing_prepares(&self, known: &Known) -> Vec<Arc<str>> {
        if self.sql_prepared.is_empty() {
            return Vec::new();
        }
        let there: &[(Arc<str>, Arc<str>)] = match &known.sql_prepared {
            Some((owner, prepared)) if *owner == self.id => prepared,
            _ => &[],
        };
        let is_there =
            |name: &str, text: &str| there.iter().any(|(known, known_text)| **known == *name && **known_text == *text);
        self.sql_prepared.iter().filter(|p| !is_there(&p.name, &p.text)).map(|p| Arc::clone(&p.text)).collect()
    }

    /// The replay has been done: the server connection is as the session wants it, but for these PREPAREs, which it has
    /// refused.
    pub fn replayed(&self, known: &mut Known, refused: &[Arc<str>]) {
        known.settings = self.settings.clone();
        known.unseen = known.unseen.filter(|owner| *owner == self.id);
        known.sql_prepared = if self.sql_prepared.is_empty() {
            None
        } else {
            let is_there = |text: &Arc<str>| !refused.contains(text);
            let there = self.sql_prepared.iter().filter(|prepared| is_there(&prepared.text));
            let prepared = there.map(|p| (Arc::clone(&p.name), Arc::clone(&p.text)));
            Some((self.id, prepared.collect()))
        };
    }

    /// The session was served by this node up to now; it is idle. Answers whether it may have written.
    pub fn served_by(&mut self, node: crate::topology::NodeId, now: Instant) -> bool {
        self.catalog.path_is_uncertain = false;
        let has_written = std::mem::take(&mut self.transaction.may_have_written);
        if has_written {
            self.freshness.wrote(now);
        }
        self.freshness.read(node, now);
        has_written
    }

    /// The lease that serves the session from now on.
    pub fn served_on(&mut self, held: Held) {
        self.catalog.on_replica = held == Held::Replica;
    }

    /// The catalogs may have changed since this was asked last: whoever believes them must be told before the client is.
    pub fn take_catalog_change(&mut self) -> bool {
        std::mem::take(&mut self.catalog.has_changed)
    }

    /// Something that is under way may change the catalogs, whatever becomes of it.
    pub fn may_change_catalog(&self) -> bool {
        self.catalog.may_change || self.catalog.has_changed
    }

    /// A statement has ended, or a transaction: what may have changed the catalogs may be there for all to see.
    fn catalog_settles(&mut self) {
        if self.transaction.status == TransactionStatus::Idle {
            self.catalog.has_changed |= self.catalog.may_change;
            self.catalog.may_change &= !self.owed.is_empty();
        }
    }

    /// The statement was proven to be a read, and a replica has answered it.
    fn is_proven_read(&self) -> bool {
        self.catalog.on_replica && self.transaction.status == TransactionStatus::Idle
    }

    /// Notes what a statement leaves in the session although it has failed: a lock of the session outlives the error.
    fn undone(&mut self, statement: &Statement) {
        let mut changes = statement.parts.iter().flat_map(|part| &part.session);
        if changes.any(|change| *change == SessionChange::Pin(Pin::AdvisoryLock)) {
            self.pins.add(Pin::AdvisoryLock);
        }
    }

    /// Notes what a statement that has been done leaves in the session.
    fn done(&mut self, statement: &Statement, part_index: usize, known: &mut Known) {
        if statement.is_plain_read() {
            return;
        }
        let Some(part) = statement.parts.get(part_index) else { return };
        self.follow_modes(part);
        let is_proven_read = self.is_proven_read();
        if !is_proven_read && (part.needs_primary.is_some() || matches!(part.kind, Kind::Execute | Kind::Explain)) {
            self.transaction.may_have_written = true;
        }
        let is_unseen = matches!(part.needs_primary, Some(NeedsPrimary::UnknownFunction(_) | NeedsPrimary::Procedural));
        if is_unseen && !is_proven_read {
            known.unseen = Some(self.id);
        }
        if matches!(part.transaction, TransactionControl::Rollback { .. } | TransactionControl::RollbackTo) {
            self.reset.clear(); // a RESET before it is undone
        }
        if part.needs_primary == Some(NeedsPrimary::TooLarge) {
            // What it has left in the session is not known.
            self.pins.add(Pin::UnknownSetting);
        }
        self.doubt_pins(part);
        for change in &part.session {
            self.sql_prepared.apply(change);
            match change {
                SessionChange::Set(name) => {
                    self.reset.retain(|reset| reset != name);
                    self.reset_for_good.retain(|reset| reset != name);
                    self.touch(name);
                }
                SessionChange::Reset(name) => {
                    self.touch(name);
                    if self.startup.get(name).is_some() {
                        self.reset.push(Arc::clone(name));
                    }
                }
                SessionChange::ResetAll => self.touch_all(),
                SessionChange::DiscardSequences => self.forgets_drawn(known),
                SessionChange::DiscardAll => {
                    self.forgets_drawn(known);
                    self.touch_all();
                    self.pins.clear();
                    self.all_deallocated(known);
                }
                SessionChange::DeallocateAll => self.all_deallocated(known),
                SessionChange::Deallocate(name) => self.deallocated(name, known),
                SessionChange::Prepare { name, text, .. } => {
                    let prepared = (Arc::clone(name), Arc::clone(text));
                    match &mut known.sql_prepared {
                        Some((owner, all)) if *owner == self.id => all.push(prepared),
                        other => *other = Some((self.id, vec![prepared])),
                    }
                }
                SessionChange::Pin(pin) => self.pinned_by(*pin, statement),
                SessionChange::Execute(name) => self.executed_is_done(name, known),
                SessionChange::SetLocal(_) | SessionChange::DiscardSome | SessionChange::Ask => {}
            }
        }
    }

    /// Not the unnamed statement, which only a Query drops.
    fn all_deallocated(&mut self, known: &mut Known) {
        self.names.clear();
        let made_behind = |id| {
            let last = self.owed.iter().rev().find_map(|owed| owed.makes_or_closes().filter(|(other, _)| *other == id));
            last.is_some_and(|(_, will_be)| will_be)
        };
        known.forget_statements(made_behind);
        self.owed.forget_closes();
    }

    /// Our statement of this name stays on the server connection. One that was prepared by SQL is gone, and one of ours
    /// that was called by our own name too.
    fn deallocated(&mut self, name: &Arc<str>, known: &mut Known) {
        self.names.remove(name.as_bytes());
        if let Some(id) = StatementId::first_in(name.as_bytes()) {
            known.remove(id);
        }
        known.has_no_sql(name);
    }

    /// A Close also takes what was prepared by SQL.
    fn sql_closed(&mut self, name: &[u8], known: &mut Known) {
        if self.sql_prepared.is_empty() && known.sql_prepared.is_none() {
            return;
        }
        let Ok(name) = std::str::from_utf8(name) else { return };
        let name: Arc<str> = name.into();
        self.deallocated(&name, known);
        self.sql_prepared.apply(&SessionChange::Deallocate(name));
    }

    /// Prepares a statement in the node's place; None: it is refused, which leaves no unnamed statement.
    fn prepare_alone(&mut self, parse: Parse<'_>, statement: Option<Arc<Statement>>) {
        let prepared =
            statement.map(|statement| Arc::new(Prepared::new(parse.text, parse.types, statement, self.reading)));
        match prepared {
            Some(prepared) if !parse.name.is_empty() => self.names.put(parse.name, prepared),
            None if !parse.name.is_empty() => {}
            prepared => {
                self.unnamed_count += 1;
                let id = UnnamedId(self.id, self.unnamed_count);
                self.unnamed = prepared.map(|prepared| (prepared, id));
                self.settled_unnamed.clone_from(&self.unnamed);
            }
        }
    }

    /// Closes a statement in the node's place.
    fn close_alone(&mut self, name: &[u8]) {
        if name.is_empty() {
            self.unnamed = None;
            self.settled_unnamed = None;
        }
        self.names.remove(name);
    }

    /// The client has been shown what was answered, up to here.
    pub fn shown(&mut self) {
        self.names.shown();
        self.unshown_unnamed = None;
    }

    /// This setting may have changed.
    fn touch(&mut self, name: &Arc<str>) {
        self.touched.push(Arc::clone(name));
        if **name == *"session_authorization" {
            self.touched.push("role".into()); // PostgreSQL puts it back
        }
    }

    /// Every setting that was ever changed may be back at its beginning.
    fn touch_all(&mut self) {
        let names: Vec<_> = self.settings.iter().map(|(name, _)| Arc::clone(name)).collect();
        self.touched.extend(names);
        self.touched.extend(self.startup.iter().map(|(name, _)| Arc::clone(name)));
        self.reset.extend(self.startup.iter().map(|(name, _)| Arc::clone(name)));
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
        is_read || self.transaction.status != TransactionStatus::Idle && !self.owed.iter().any(commits)
    }

    /// Panics in tests and debug builds if the machine has lost its beat.
    pub fn check_invariants(&self) {
        debug_assert!(!self.flow.copy_in || !self.owed.is_empty(), "copy data is wanted by nobody");
        debug_assert!(self.transaction.aborted.is_none() || self.owed.is_empty(), "a lost transaction is owed replies");
    }
}

/// Puts back whatever a function or procedure may have left behind unseen. What sessions have prepared stays.
const FORGET_ALL: &str = "RESET SESSION AUTHORIZATION;RESET ALL;CLOSE ALL;UNLISTEN *;\
    SELECT pg_catalog.pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";

/// Where names are looked for may be another place after it, or already in it.
fn changes_path(statement: &Statement) -> bool {
    let decides = |name: &str| matches!(name, "search_path" | "role" | "session_authorization");
    statement.parts.iter().any(|part| {
        part.session.iter().any(|change| match change {
            SessionChange::Set(name) | SessionChange::SetLocal(name) | SessionChange::Reset(name) => decides(name),
            SessionChange::ResetAll | SessionChange::DiscardAll => true,
            _ => false,
        })
    })
}

/// Why a statement that needs the primary cannot be let through to the replica that holds a READ ONLY transaction: the
/// replica would not refuse it, and its answer would be wrong. Everything else a standby refuses by itself, with
/// PostgreSQL's own words.
fn wrong_on_replica(statement: &Statement) -> bool {
    statement.parts.iter().any(|part| {
        matches!(
            part.needs_primary,
            Some(
                NeedsPrimary::Function(_)
                    | NeedsPrimary::Relation(_)
                    | NeedsPrimary::LocksTable
                    | NeedsPrimary::CopyFile
                    | NeedsPrimary::NodeSetting(_)
                    | NeedsPrimary::LoadsLibrary
            )
        )
    })
}
