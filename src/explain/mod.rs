//! `trunkline explain`: where statements would go, and why.

mod scene;
mod seen;

use std::io::{self, BufRead, BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::catalog::{Change, Found, FunctionLists, Path, Picture};
use crate::catalogs;
use crate::client::{in_mode, minute_of_the_day};
use crate::config::{Cluster, Config, Database, PoolMode};
use crate::monitor::{self, Limits};
use crate::routing::hints::Hints;
use crate::routing::rules::{EVERY_SHARE, Rule};
use crate::routing::{
    Catalog, Defaults, Facts, InTransaction, Intent, Placement, Reads, Reason, RuleSet, Ruling, Sender, Transactions,
    Weighed, safety, weigh_whole,
};
use crate::session::Settings;
use crate::session::pins::Pins;
use crate::sql::{
    Cache, Kind, Name, NeedsPrimary, ParseSettings, Part, PreparedNames, SessionChange, Statement, TransactionControl,
    fingerprint,
};
use crate::topology::View;
use scene::Scene;
use seen::Seen;

/// What is asked.
pub enum Input {
    /// One query string; the answer is for people.
    Statement(String),
    /// Each line a JSON string, or an array of them that is one session; each answer is a line of JSON.
    JsonLines(Box<dyn BufRead>),
}

/// What may be known beyond the statements themselves.
#[derive(Debug)]
pub enum Knowledge {
    /// Nothing: no catalogs, no nodes, no rules.
    None,
    /// A running cluster and the rules.
    Cluster {
        /// Where it is.
        config: Box<Config>,
        /// Which database, as clients name it; None: the first that is named.
        database: Option<String>,
        /// Who asks; None: the first user.
        user: Option<String>,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Input or output failed.
    #[error("cannot read or write")]
    Io(#[from] io::Error),
    /// The cluster does not tell.
    #[error("the cluster's catalogs cannot be read")]
    Catalogs(#[from] catalogs::LoadError),
    /// There is nobody to ask.
    #[error("Patroni does not say where the nodes of the cluster {0:?} are")]
    NoNodes(Arc<str>),
    /// The configuration names no database, for it serves every one.
    #[error("every name of a database is served: say which with --database")]
    AnyDatabase,
    /// The configuration has no such database.
    #[error("the configuration has no database {0:?}")]
    NoDatabase(String),
    /// A line is not what it must be.
    #[error("line {line}: expected a JSON string, or an array of JSON strings")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// One answer.
#[derive(Debug, Serialize)]
struct Answer {
    target: &'static str,
    reason: &'static str,
    why: String,
    /// By which a rule can name the statement; None where it is not parsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

/// Where a statement would go, and why.
#[derive(Clone, Copy)]
struct Route {
    target: Target,
    reason: Reason,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Primary,
    Replica,
    /// It is refused.
    Nowhere,
}

impl Target {
    fn words(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Nowhere => "refused",
        }
    }
}

/// One line of input.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Statement(String),
    Session(Vec<String>),
}

/// Answers on standard output.
pub fn run(knowledge: Knowledge, input: Input) -> Result<(), Failure> {
    let mut explainer = Explainer::new(knowledge)?;
    let mut out = BufWriter::new(io::stdout().lock());
    match input {
        Input::Statement(sql) => {
            let answer = explainer.session().explain(&sql);
            writeln!(out, "target: {}\nreason: {}\nwhy:    {}", answer.target, answer.reason, answer.why)?;
            if let Some(fingerprint) = answer.fingerprint {
                writeln!(out, "fingerprint: {fingerprint}")?;
            }
        }
        Input::JsonLines(lines) => {
            for (index, line) in lines.lines().enumerate() {
                let line = line?;
                if line.trim().is_empty() {
                    continue;
                }
                let line = serde_json::from_str(&line).map_err(|source| Failure::Line { line: index + 1, source })?;
                explainer.answer_line(line, &mut out)?;
                // Whoever asks may wait for this answer before the next question.
                out.flush()?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Caches and rules, over all sessions of the input.
struct Explainer {
    cluster: Option<Known>,
    /// What its nodes have shown; None: any replica takes any read.
    seen: Option<Seen>,
    cache: Cache,
    rules: Arc<RuleSet>,
    reads: Reads,
    heeds_hints: bool,
    optimistic: bool,
    mode: PoolMode,
    statement_bytes: usize,
    user: Arc<str>,
    database: Arc<str>,
    /// What is set where a session begins.
    at_start: Settings,
}

/// What is known of one session: as much as its statements tell.
struct Imagined<'e> {
    explainer: &'e mut Explainer,
    transaction: InTransaction,
    prepared: PreparedNames,
    pins: Pins,
    settings: Settings,
    path_is_uncertain: bool,
    catalog_changes: Changes,
}

/// What the session has changed in the catalogs: the picture does not show it, for nothing is run.
#[derive(Default)]
struct Changes {
    /// Of these names nothing is known any more.
    names: Vec<Arc<str>>,
    /// Of none.
    anything: bool,
}

/// What the running cluster has told.
struct Known {
    picture: Arc<Picture>,
    lists: Arc<FunctionLists>,
    any_path: Path,
    /// Sessions' settings are tried out here.
    scene: Scene,
}

impl Explainer {
    fn new(knowledge: Knowledge) -> Result<Self, Failure> {
        let cache = Cache::new(64 << 20);
        match knowledge {
            Knowledge::None => Ok(Self {
                cluster: None,
                seen: None,
                cache,
                rules: Arc::default(),
                reads: Reads::Replicas,
                heeds_hints: true,
                optimistic: false,
                mode: PoolMode::Transaction,
                statement_bytes: ParseSettings::default().max_bytes,
                user: "".into(),
                database: "".into(),
                at_start: Settings::default(),
            }),
            Knowledge::Cluster { config, database, user } => {
                let first = config.users.first().map(|user| Arc::clone(&user.name)).unwrap_or_default();
                let user: Arc<str> = user.map_or(first, Into::into);
                let first = || first_named(&config).ok_or(Failure::AnyDatabase);
                let database: Arc<str> = database.map_or_else(first, |name| Ok(name.into()))?;
                let (mut known, seen) = ask_cluster(&config, &database, &user)?;
                Ok(Self {
                    at_start: known.scene.at_start().unwrap_or_default(),
                    cluster: Some(known),
                    seen,
                    cache,
                    mode: mode_of(&config, &database, &user),
                    statement_bytes: config.limits.statement_bytes,
                    rules: config.routing.rules,
                    reads: config.routing.reads,
                    heeds_hints: config.routing.hints,
                    optimistic: config.routing.transactions == Transactions::Optimistic,
                    user,
                    database,
                })
            }
        }
    }

    fn session(&mut self) -> Imagined<'_> {
        Imagined {
            settings: self.at_start.clone(),
            explainer: self,
            transaction: InTransaction::No,
            prepared: PreparedNames::default(),
            pins: Pins::default(),
            path_is_uncertain: false,
            catalog_changes: Changes::default(),
        }
    }

    fn answer_line(&mut self, line: Line, out: &mut impl Write) -> Result<(), Failure> {
        if let Some(known) = &mut self.cluster {
            known.scene.begin();
        }
        let mut session = self.session();
        let written = match line {
            Line::Statement(sql) => serde_json::to_writer(&mut *out, &session.explain(&sql)),
            Line::Session(statements) => {
                let answers: Vec<Answer> = statements.iter().map(|sql| session.explain(sql)).collect();
                serde_json::to_writer(&mut *out, &answers)
            }
        };
        written.map_err(io::Error::from)?;
        Ok(writeln!(out)?)
    }
}

impl Imagined<'_> {
    fn explain(&mut self, sql: &str) -> Answer {
        let statement = self.explainer.cache.get(sql.as_bytes(), &self.dialect());
        self.path_is_uncertain |= statement.changes_path() && statement.parts.len() > 1;
        let path = self.path();
        let catalog = self.catalog(&statement, path.as_ref());
        let standing = self.explainer.rules.standing(&Sender {
            user: &self.explainer.user,
            database: &self.explainer.database,
            application_name: self.settings.get("application_name").unwrap_or_default(),
            address: None,
        });
        let facts = Facts {
            standing: &standing,
            minute: minute_of_the_day(),
            draw: EVERY_SHARE,
            heeds_hints: self.explainer.heeds_hints,
            reads: self.explainer.reads,
            transaction: self.transaction,
            is_within: self.transaction != InTransaction::No,
            optimistic: self.explainer.optimistic,
            defaults: self.defaults(),
            prepared: &self.prepared,
            catalog,
        };
        let Weighed { intent, ruling } = match self.pins.first() {
            Some(pin) => Weighed { intent: Intent::Primary(Reason::from(pin)), ruling: Ruling::default() },
            None => {
                let rules = &self.explainer.rules;
                let Weighed { intent, ruling } = weigh_whole(&statement, sql, &facts, rules);
                Weighed { intent: in_mode(self.explainer.mode, intent, &statement), ruling }
            }
        };
        let found = match &catalog {
            Catalog::Known { picture, path, .. } => self.find(picture, &statement, path),
            _ => None,
        };
        let route = self.route(&intent);
        // What is refused is not run.
        let is_run = route.target != Target::Nowhere;
        if is_run && safety::change_by(&statement, &catalog) > Change::Suspected {
            self.catalog_changes.add(&statement);
        }
        let is_of_transaction =
            self.transaction == InTransaction::ReadOnly && matches!(intent, Intent::Primary(Reason::UnknownName));
        if is_run {
            self.follow(&statement, route);
            self.try_settings(&statement, sql);
        }
        let mut answer = if is_of_transaction {
            // A cursor of the transaction, or an error wherever it goes.
            told(Route { target: Target::Replica, reason: Reason::ReadOnlyTransaction })
        } else {
            answer(&intent, route, &statement, found)
        };
        answer.why.push_str(&self.unknown_hints(&statement));
        let rule = ruling.rule.and_then(|number| self.explainer.rules.rule(number));
        if let Some(share) = rule.and_then(Rule::share_words) {
            answer.why.push_str(&format!(" ({share})"));
        }
        // As rules see it, however the session's texts are read.
        answer.fingerprint = fingerprint(sql, &ParseSettings::default()).map(|print| format!("{print:016x}"));
        answer
    }

    /// Where it goes. A transaction stays where it has begun, and is looked upon as one that reads only on a replica.
    fn route(&self, intent: &Intent) -> Route {
        let reason = intent.reason();
        let (target, reason) = match (intent, &self.explainer.seen) {
            (Intent::Refuse { .. }, _) => (Target::Nowhere, reason),
            (Intent::Primary(_) | Intent::Kept { .. }, _) => (Target::Primary, reason),
            (Intent::Read { .. }, Some(seen)) if self.transaction == InTransaction::No => match seen.place(intent) {
                Placement::Node(node, reason) if seen.is_primary(node) => (Target::Primary, reason),
                Placement::Node(_, reason) => (Target::Replica, reason),
                Placement::AwaitPrimary(reason) => (Target::Primary, reason),
                Placement::AwaitFreshness => (Target::Replica, reason),
                Placement::Refused => (Target::Nowhere, reason),
            },
            (Intent::Read { .. }, _) => (Target::Replica, reason),
        };
        Route { target, reason }
    }

    /// Hints that say nothing are no mistake of the statement's; here they are told.
    fn unknown_hints(&self, statement: &Statement) -> String {
        let hints = Hints::of(statement, &self.explainer.rules).filter(|_| self.explainer.heeds_hints);
        match hints {
            Some(hints) if !hints.unknown.is_empty() => format!(" (hints not known: {})", hints.unknown.join(", ")),
            _ => String::new(),
        }
    }

    fn defaults(&self) -> Defaults {
        Defaults::of(|name| self.settings.get(name))
    }

    /// How its texts are read.
    fn dialect(&self) -> ParseSettings {
        let is = |name, value| self.settings.get(name).is_none_or(|set| set == value);
        ParseSettings {
            standard_conforming_strings: is("standard_conforming_strings", "on"),
            encoding_is_utf8: is("client_encoding", "UTF8"),
            max_bytes: self.explainer.statement_bytes,
        }
    }

    fn path(&self) -> Option<Path> {
        let known = self.explainer.cluster.as_ref()?;
        if self.path_is_uncertain {
            return Some(known.any_path.clone());
        }
        let user = &self.explainer.user;
        let set = |name| self.settings.get(name).filter(|role| !role.is_empty() && *role != "none");
        let role = set("role").or_else(|| set("session_authorization")).unwrap_or(user);
        Some(known.picture.path(self.settings.get("search_path"), user, role))
    }

    fn catalog<'c>(&'c self, statement: &Statement, path: Option<&'c Path>) -> Catalog<'c> {
        match (&self.explainer.cluster, path) {
            (Some(known), path) if self.catalog_changes.touch(statement) => {
                Catalog::Unknown { last: None, own_first: path.is_none_or(Path::own_first), lists: &known.lists }
            }
            (Some(known), Some(path)) => Catalog::Known { picture: &known.picture, path, key: None },
            _ => Catalog::NotAsked,
        }
    }

    /// What the catalogs have against the statement, or against what it executes.
    fn find(&self, picture: &Picture, statement: &Statement, path: &Path) -> Option<Found> {
        let mut executed = statement.executed_names().flat_map(|name| self.prepared.meant_in(statement, name));
        picture.find(statement, path).or_else(|| executed.find_map(|(inside, _)| picture.find(inside, path)))
    }

    /// What it sets is tried out on a node, which knows what a value means.
    fn try_settings(&mut self, statement: &Statement, sql: &str) {
        let Some(known) = &mut self.explainer.cluster else { return };
        let is_control = statement.parts.iter().any(|part| part.transaction != TransactionControl::None);
        let is_set = statement.parts.iter().any(|part| part.session.iter().any(SessionChange::is_of_settings));
        let is_harmless =
            statement.parts.iter().all(|part| part.transaction != TransactionControl::None || only_sets(part));
        if !(is_control || is_set) {
            return;
        }
        let prepares = statement.parts.iter().any(|part| part.transaction == TransactionControl::Prepare);
        // Played, it would leave a transaction on the node that holds its locks until somebody ends it. What the scene has
        // set outlives it as it does a COMMIT; what the same string sets beside it is not known.
        let is_unplayed = prepares && statement.parts.len() > 1;
        let played = match (prepares, is_harmless) {
            (true, _) => known.scene.play("COMMIT"),
            (false, true) => known.scene.play(sql),
            (false, false) => None,
        };
        match played {
            Some(settings) => (self.settings, self.path_is_uncertain) = (settings, is_unplayed),
            None => self.path_is_uncertain |= is_unplayed || statement.changes_path(),
        }
    }

    /// What the statement leaves in the session, if it succeeds.
    fn follow(&mut self, statement: &Statement, route: Route) {
        for part in &statement.parts {
            match part.transaction {
                TransactionControl::Begin(_) => {
                    self.transaction = match (route.target, route.reason) {
                        (Target::Replica, Reason::OptimisticTransaction) => InTransaction::Optimistic,
                        (Target::Replica, _) => InTransaction::ReadOnly,
                        _ => InTransaction::ReadWrite,
                    };
                }
                TransactionControl::Commit { chain: false }
                | TransactionControl::Rollback { chain: false }
                | TransactionControl::Prepare => self.transaction = InTransaction::No,
                _ => {}
            }
            if self.transaction == InTransaction::Optimistic && route.target == Target::Primary {
                self.transaction = InTransaction::ReadWrite;
            }
            for change in &part.session {
                self.prepared.apply(change);
                match change {
                    SessionChange::Pin(pin) => {
                        self.pins.add(*pin);
                    }
                    SessionChange::DiscardAll => self.pins.discard(),
                    _ => {}
                }
            }
        }
    }
}

impl Changes {
    /// The statement may have changed what its names mean.
    fn add(&mut self, statement: &Statement) {
        for part in &statement.parts {
            let is_of_tables = part.kind == Kind::Ddl && !part.tables.is_empty() && part.functions.is_empty();
            self.anything |=
                part.changes_catalog && !is_of_tables && part.needs_primary != Some(NeedsPrimary::Temporary);
            self.names.extend(part.tables.iter().map(|table| Arc::clone(&table.name)));
        }
    }

    fn touch(&self, statement: &Statement) -> bool {
        let names = |name: &Name| self.names.contains(&name.name);
        self.anything || statement.parts.iter().any(|part| part.tables.iter().any(names))
    }
}

/// It reads no table and calls nothing but set_config.
fn only_sets(part: &Part) -> bool {
    part.session.iter().all(SessionChange::is_of_settings)
        && part.tables.is_empty()
        && part.needs_primary.is_none()
        && part.functions.iter().all(|name| &*name.name == "set_config")
}

/// The first database that has a name of its own.
fn first_named(config: &Config) -> Option<Arc<str>> {
    config.databases.iter().find(|database| !database.is_any()).map(|database| Arc::clone(&database.name))
}

/// The catalogs of the running cluster, a place to try settings on, and what its nodes have shown.
fn ask_cluster(config: &Config, name: &Arc<str>, user: &Arc<str>) -> Result<(Known, Option<Seen>), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let named = |database: &&Database| database.name == *name && !database.is_any();
    let written = config.databases.iter().find(named).cloned();
    let any = || config.databases.iter().find(|database| database.is_any()).map(|any| any.named(name));
    let database = written.or_else(any).ok_or_else(|| Failure::NoDatabase(name.to_string()))?;
    let Some(cluster) = config.clusters.get(database.cluster) else {
        return Err(Failure::NoDatabase(name.to_string()));
    };
    let settings = catalogs::Settings {
        refresh: config.routing.catalog_refresh,
        lists: Arc::clone(&config.routing.functions),
        seed: rand::random(),
    };
    let view = runtime.block_on(monitor::look(cluster, Limits::of(config)));
    let nodes: Vec<Arc<str>> = view.nodes.iter().map(|node| Arc::clone(&node.address)).collect();
    if nodes.is_empty() {
        return Err(Failure::NoNodes(Arc::clone(&cluster.name)));
    }
    let seen = see(&view, cluster, config.routing.reads)?;
    let picture = runtime.block_on(catalogs::load_once(cluster, &nodes, &database.server_name, &settings))?;
    let scene = Scene::new(runtime, config, cluster, &nodes, &database.server_name, user);
    Ok((Known { picture, lists: settings.lists, any_path: Path::any(), scene }, seen))
}

/// What the look at the nodes says of reads. Where it shows nobody who serves, whoever asks is told, and statements are
/// answered without it.
fn see(view: &Arc<View>, cluster: &Cluster, reads: Reads) -> io::Result<Option<Seen>> {
    if !view.serves() {
        let why = view.without_primary();
        writeln!(io::stderr(), "trunkline: where reads go is told as if a replica took them: {why}")?;
        return Ok(None);
    }
    Ok(Some(Seen::new(Arc::clone(view), Instant::now(), cluster, reads)))
}

/// When a server connection of this user goes back to its pool of this database.
fn mode_of(config: &Config, database: &str, user: &str) -> PoolMode {
    let of_user = config.users.iter().find(|known| *known.name == *user).and_then(|user| user.allowance.pool_mode);
    let written = config.databases.iter().find(|known| *known.name == *database);
    let any = || config.databases.iter().find(|known| known.is_any());
    let of_database = written.or_else(any).and_then(|database| database.allowance.pool_mode);
    of_user.or(of_database).unwrap_or(config.pool.mode)
}

fn told(route: Route) -> Answer {
    let Route { target, reason } = route;
    Answer { target: target.words(), reason: reason.code(), why: reason.words().to_owned(), fingerprint: None }
}

fn answer(intent: &Intent, route: Route, statement: &Statement, found: Option<Found>) -> Answer {
    let reason = route.reason;
    let refused = match intent {
        Intent::Refuse { message, .. } => Some(&**message),
        _ => (route.target == Target::Nowhere).then_some(Placement::REFUSED),
    };
    if let Some(message) = refused {
        return Answer { why: message.to_owned(), ..told(route) };
    }
    let from_text = statement.needs_primary().filter(|why| Reason::from(*why) == reason).map(NeedsPrimary::to_string);
    let from_catalog = found.filter(|found| Reason::from(found.why) == reason);
    let culprit = from_text.or_else(|| Some(format!("{}: {}", reason.words(), from_catalog?.name)));
    Answer { why: culprit.unwrap_or_else(|| reason.words().to_owned()), ..told(route) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(sql: &str) -> Answer {
        Explainer::new(Knowledge::None).unwrap().session().explain(sql)
    }

    /// Answers, as target and reason, of one session where the nodes have shown this.
    fn told_by(seen: Seen, optimistic: bool, session: &[&str]) -> Vec<(&'static str, &'static str)> {
        let explainer = Explainer::new(Knowledge::None).unwrap();
        let mut explainer = Explainer { seen: Some(seen), optimistic, ..explainer };
        let mut session_of = explainer.session();
        session.iter().map(|sql| session_of.explain(sql)).map(|answer| (answer.target, answer.reason)).collect()
    }

    #[test]
    fn without_a_readable_replica_reads_and_transactions_that_read_are_the_primarys() {
        let session = ["SELECT 1", "BEGIN READ ONLY", "SELECT 1", "COMMIT", "CREATE TABLE t ()"];
        let [read, begin, within, _, write] = told_by(seen::tests::cluster(0, Reads::Replicas), false, &session)[..]
        else {
            panic!("five answers")
        };
        assert_eq!((read, begin), (("primary", "no_replica"), ("primary", "no_replica")));
        assert_eq!((within, write.0), (("primary", "transaction"), "primary"));
        let optimistic = told_by(seen::tests::cluster(0, Reads::Replicas), true, &["BEGIN", "SELECT 1"]);
        assert_eq!(optimistic, [("primary", "no_replica"), ("primary", "transaction")]);
    }

    #[test]
    fn with_a_readable_replica_answers_are_those_of_no_look() {
        for session in [&["SELECT 1", "BEGIN READ ONLY", "SELECT 1", "COMMIT"][..], &["CREATE TABLE t ()"]] {
            let mut unseen = Explainer::new(Knowledge::None).unwrap();
            let mut unseen = unseen.session();
            let unseen: Vec<_> = session.iter().map(|sql| unseen.explain(sql)).map(|a| (a.target, a.reason)).collect();
            assert_eq!(told_by(seen::tests::cluster(1, Reads::Replicas), false, session), unseen);
        }
    }

    #[test]
    fn a_hint_and_reads_any_are_heeded() {
        let session = ["SELECT 1", "/* trunkline: replica */ SELECT 1"];
        let told = told_by(seen::tests::cluster(0, Reads::Any), false, &session);
        assert_eq!(told, [("primary", "read"), ("primary", "no_replica")]);
    }

    #[test]
    fn what_stands_for_every_name_is_no_database_to_ask_about() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let reference = include_str!("../../tests/golden/config/reference.toml");
        let any = reference.replace("name    = \"bench\" ", "name = \"*\" ");
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            crate::config::load(&path).unwrap()
        };
        let config = Box::new(load(&any));
        let unsaid = Knowledge::Cluster { config, database: None, user: None };
        let told = Explainer::new(unsaid).err().unwrap();
        assert_eq!(told.to_string(), "every name of a database is served: say which with --database");
        let more = load(&format!("{any}\n[[database]]\nname = 'shop'\ncluster = 'main'\n"));
        assert_eq!(first_named(&more).as_deref(), Some("shop"));
    }

    #[test]
    fn the_fingerprint_is_the_one_that_rules_look_at() {
        // The example of rules/README.md.
        let answer = explained("select * from orders where customer = 7 order by made desc");
        assert_eq!(answer.fingerprint.as_deref(), Some("50533359676b3469"));
        assert!(serde_json::to_string(&answer).unwrap().ends_with(r#","fingerprint":"50533359676b3469"}"#));
        assert!(!serde_json::to_string(&explained("selec 1")).unwrap().contains("fingerprint"));
    }
}
