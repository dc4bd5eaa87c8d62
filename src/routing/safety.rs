//! What must go to the primary whatever rules say; the only maker of the [`ReplicaSafe`] proof.

use super::{Catalog, Facts, InTransaction, Reads, Reason};
use crate::catalog::{Change, FunctionLists, Path, Verdict, Why, may_mean, mean_builtin};
use crate::sql::functions::{self, class_of};
use crate::sql::{
    Call, Doubt, Draws, Isolation, Kind, Leftovers, Name, NeedsPrimary, Part, SessionChange, Statement,
    TransactionControl, TransactionModes, is_replicated, only_asks_connection, writes_settings,
};

/// The proof that a replica gives the same answer as the primary; only [`prove`] can make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaSafe(());

/// The proof for a unit without any statement (a Close, a Sync): it reads nothing and does nothing.
pub fn of_nothing() -> ReplicaSafe {
    ReplicaSafe(())
}

/// The proof for every statement of the string, or why it must go to the primary.
pub fn prove(statement: &Statement, facts: &Facts<'_>) -> Result<ReplicaSafe, Reason> {
    // Also a statement that is a transaction of its own.
    if facts.defaults.isolation == Isolation::Serializable
        && facts.transaction == InTransaction::No
        && !begins_anyhow(statement)
    {
        return Err(Reason::Serializable);
    }
    objects(statement, &facts.catalog)?;
    for part in &statement.parts {
        match &part.transaction {
            TransactionControl::Begin(modes) => begin_on_replica(modes, statement, facts)?,
            TransactionControl::Set(modes) => set_on_replica(modes)?,
            // Ends the transaction that a READ ONLY BEGIN of the same string began, or warns that there is none.
            TransactionControl::None
            | TransactionControl::Commit { .. }
            | TransactionControl::Rollback { .. }
            | TransactionControl::Savepoint
            | TransactionControl::Release
            | TransactionControl::RollbackTo => {}
            TransactionControl::Prepare => return Err(Reason::TwoPhase),
        }
        for change in &part.session {
            executes_on_replica(change, statement, facts)?;
        }
    }
    Ok(ReplicaSafe(()))
}

/// The same for a [plain read](Statement::is_plain_read) outside of a transaction, where the catalog has noted what it says
/// of the names: one look. None where it has not, or where the statement may do something after all.
#[inline]
pub fn prove_by_note(statement: &Statement, catalog: &Catalog<'_>) -> Option<Result<ReplicaSafe, Reason>> {
    let Catalog::Known { key: Some(key), .. } = catalog else { return None };
    let verdict = Verdict::of_note(statement.memo.get(*key).filter(|_| statement.is_plain_read())?);
    if verdict.changes != Change::None || verdict.hides_code {
        return None;
    }
    Some(verdict.why.map_or(Ok(ReplicaSafe(())), |why| Err(Reason::from(why))))
}

/// Nothing that the statement is or names needs the primary.
fn objects(statement: &Statement, catalog: &Catalog<'_>) -> Result<(), Reason> {
    let known = match catalog {
        Catalog::NotAsked => return statement.needs_primary().map_or(Ok(()), |why| Err(Reason::from(why))),
        Catalog::Unknown { .. } => None,
        Catalog::Known { .. } => Some(()),
    };
    // A function that the text alone does not vouch for, the catalog may.
    let is_left_open = |why: &&NeedsPrimary| matches!(why, NeedsPrimary::UnknownFunction(_));
    let mut needs = statement.parts.iter().filter_map(|part| part.needs_primary.as_ref());
    if let Some(why) = needs.find(|why| known.is_none() || !is_left_open(why)) {
        return Err(Reason::from(why));
    }
    match catalog_verdict(statement, catalog) {
        Some(verdict) => verdict.why.map_or(Ok(()), |why| Err(Reason::from(why))),
        None if statement.declared.is_empty()
            && statement.parts.iter().all(|part| names_nothing(part, catalog) && !calls_kept(part, catalog)) =>
        {
            Ok(())
        }
        None => Err(Reason::CatalogUnknown),
    }
}

/// What the catalog says of the statement, from its notes or looked up; None while it is not known.
pub fn catalog_verdict(statement: &Statement, catalog: &Catalog<'_>) -> Option<Verdict> {
    let Catalog::Known { picture, path, key } = catalog else { return None };
    if let Some(note) = key.and_then(|key| statement.memo.get(key)) {
        return Some(Verdict::of_note(note));
    }
    let verdict = picture.judge(statement, path);
    if let Some(key) = *key {
        statement.memo.set(key, verdict.to_note());
    }
    Some(verdict)
}

/// A replica has refused to run the statement, because it writes: that is noted as what the catalog says of it.
pub fn note_writer(statement: &Statement, catalog: &Catalog<'_>) {
    let (Catalog::Known { key: Some(key), .. }, Some(verdict)) = (catalog, catalog_verdict(statement, catalog)) else {
        return;
    };
    let why = verdict.why.or(Some(Why::Writes));
    statement.memo.set(*key, Verdict { why, ..verdict }.to_note());
}

/// Whose catalogs the statement may change. While they are not known, what was known last is asked: if whatever is called then
/// counted as a change, they would never be known again where something is called all the time.
pub fn change_by(statement: &Statement, catalog: &Catalog<'_>) -> Change {
    let by_text = || statement.parts.iter().any(|part| part.changes_catalog || part.calls_unknown);
    let changes = match catalog {
        Catalog::Unknown { last: Some(last), .. } => last.changes_of(statement, &Path::any()),
        _ => catalog_verdict(statement, catalog)
            .map_or_else(|| if by_text() { Change::Opaque } else { Change::None }, |verdict| verdict.changes),
    };
    match changes {
        Change::None if matches!(catalog, Catalog::Unknown { .. }) && by_text() => Change::Suspected,
        Change::None | Change::Suspected => changes,
        _ => change_of(statement),
    }
}

/// Whose catalogs they are that a statement changes which does.
fn change_of(statement: &Statement) -> Change {
    let is_plain = |part: &Part| part.kind == Kind::Ddl || !(part.changes_catalog || part.calls_unknown || part.writes);
    if statement.parts.iter().any(|part| part.changes_shared) {
        Change::Shared
    } else if statement.parts.iter().any(|part| part.changes_roles) {
        Change::Roles
    } else if statement.parts.iter().all(is_plain) {
        Change::OfDatabase
    } else {
        Change::Opaque
    }
}

/// Code may run that nobody has heard of: while the catalogs are not known, a trigger of what writes or changes them; and
/// while nothing has ever been known of them, whatever a name may stand for, as a view does.
#[inline]
pub fn runs_unseen(statement: &Statement, catalog: &Catalog<'_>) -> bool {
    let Catalog::Unknown { last, .. } = catalog else { return false };
    let may_run =
        |part: &Part| part.writes || may_fire_event_trigger(part) || last.is_none() && !names_nothing(part, catalog);
    last.is_none() && !statement.declared.is_empty() || statement.parts.iter().any(may_run)
}

/// Event triggers may run with it. PostgreSQL 17 and later run them with REINDEX, too.
fn may_fire_event_trigger(part: &Part) -> bool {
    part.changes_catalog || part.kind == Kind::Maintenance
}

/// The statement runs code that its text does not show: what that leaves, draws or writes, nobody knows.
pub fn hides_code(statement: &Statement, catalog: &Catalog<'_>) -> bool {
    match catalog {
        Catalog::Unknown { last: Some(last), .. } => last.hides_code(statement, &Path::any()),
        _ => catalog_verdict(statement, catalog).is_some_and(|verdict| verdict.hides_code),
    }
}

/// Whether the statement draws from a sequence.
pub fn draws(statement: &Statement, catalog: &Catalog<'_>) -> Draws {
    catalog_verdict(statement, catalog).map_or_else(|| Draws::of_text(statement), |verdict| verdict.draws)
}

/// What code that the statement runs leaves in its session, if anything. While the catalogs are not known, whatever it calls
/// may leave anything, and so may what [`hides_code`].
pub fn leftovers(statement: &Statement, catalog: &Catalog<'_>, hides_code: bool) -> Option<Box<Leftovers>> {
    if statement.is_plain_read() {
        // Of itself it calls nothing but PostgreSQL's own.
        return hides_code.then(|| Box::new(Leftovers::doubtful(Doubt::Opaque)));
    }
    let runs_code = |part: &Part| matches!(part.kind, Kind::Call | Kind::Do);
    let mut left = match catalog {
        Catalog::Known { picture, path, .. }
            if catalog_verdict(statement, catalog).is_some_and(|found| found.leaves) =>
        {
            picture.leftovers(statement, path)
        }
        Catalog::Unknown { last: Some(last), .. } => last.leftovers(statement, &Path::any()),
        _ => Leftovers::default(),
    };
    if !matches!(catalog, Catalog::Known { .. }) {
        let doubtful = statement.parts.iter().filter(|part| part.calls_unknown || runs_code(part));
        let functions = doubtful.flat_map(|part| &part.functions).filter(|name| class_of(name).is_none());
        functions.for_each(|name| left.calls_unknown(&name.name));
    }
    let is_opaque = |part: &Part| runs_code(part) || part.kind == Kind::Unparsed;
    let may_trigger =
        matches!(catalog, Catalog::Unknown { last: None, .. }) && statement.parts.iter().any(may_fire_event_trigger);
    if statement.parts.iter().any(is_opaque) || hides_code || may_trigger {
        left.doubt(Doubt::Opaque);
    }
    if statement.parts.iter().any(writes_settings) {
        left.doubt(Doubt::Unnamed);
    }
    (!left.is_none()).then(|| Box::new(left))
}

/// The statement cannot be let through to the replica that holds a READ ONLY transaction: that would not refuse it, and its
/// answer would be wrong, its lock kept nobody out, or the session bound to the replica by what it leaves there. Whatever else
/// needs the primary a standby refuses by itself, in PostgreSQL's own words; what could not be parsed is believed to. What the
/// transaction's server connection has is told right nowhere else.
pub fn is_wrong_on_replica(statement: &Statement, catalog: &Catalog<'_>) -> bool {
    let is_let_through = |part: &Part| {
        matches!(
            part.needs_primary,
            Some(
                NeedsPrimary::Function(_)
                    | NeedsPrimary::Relation(_)
                    | NeedsPrimary::LocksTable
                    | NeedsPrimary::CopyFile
                    | NeedsPrimary::NodeSetting(_)
                    | NeedsPrimary::LoadsLibrary
                    | NeedsPrimary::HoldCursor
                    | NeedsPrimary::Procedural
                    | NeedsPrimary::TooLarge
                    | NeedsPrimary::UnknownStatement
            )
        )
    };
    if statement.parts.iter().any(is_let_through) {
        return !statement.only().is_some_and(only_asks_connection) || needs_more(statement, catalog);
    }
    let why = match catalog {
        Catalog::Unknown { lists, .. } if statement.parts.iter().any(|part| may_call_kept(part, lists)) => {
            Some(Why::Function)
        }
        Catalog::Unknown { last: Some(last), .. } => last.find(statement, &Path::any()).map(|found| found.why),
        _ => catalog_verdict(statement, catalog).and_then(|verdict| verdict.why),
    };
    // What has come up a moment ago the replica has not got either, and a foreign table answers it as it does the primary.
    !matches!(
        why,
        None | Some(Why::Unlogged | Why::Foreign | Why::UnknownRelation | Why::UnknownFunction | Why::Writes)
    )
}

/// It needs the primary by the catalogs, whatever it reads.
#[cold]
fn needs_more(statement: &Statement, catalog: &Catalog<'_>) -> bool {
    let mut beside = statement.clone();
    beside.parts.iter_mut().for_each(|part| part.tables = Box::default());
    let found = match catalog {
        Catalog::Known { picture, path, .. } => picture.find(&beside, path),
        Catalog::Unknown { last: Some(last), .. } => last.find(&beside, &Path::any()),
        Catalog::Unknown { last: None, .. } | Catalog::NotAsked => None,
    };
    found.is_some()
}

/// Whatever the catalogs say that are not known, it means the same: no relation, and no call or operator that a user's own could
/// be meant by.
fn names_nothing(part: &Part, catalog: &Catalog<'_>) -> bool {
    let Catalog::Unknown { own_first, .. } = *catalog else { return false };
    let takes_nothing = |call: &Call| {
        call.arguments.as_ref().is_some_and(|arguments| arguments.is_empty()) && functions::takes_nothing(&call.name)
    };
    let is_meant = |table: &Name| own_first && table.schema.is_none() && is_replicated(&table.name);
    part.tables.iter().all(|table| is_of_system(table) || is_meant(table))
        && part.calls.iter().all(|call| own_first && takes_nothing(call) || is_of_system(&call.name))
        && part.operators.is_empty()
        && part.types.iter().all(is_of_system)
        && part.attributes.is_empty()
}

/// Catalogs are not known, and it calls a function of PostgreSQL's own that the configuration keeps on the primary.
fn calls_kept(part: &Part, catalog: &Catalog<'_>) -> bool {
    let Catalog::Unknown { lists, .. } = catalog else { return false };
    part.calls.iter().any(|call| mean_builtin(&lists.primary, &call.name))
}

/// It may call a function that the configuration keeps on the primary, whoever has made it.
fn may_call_kept(part: &Part, lists: &FunctionLists) -> bool {
    part.calls.iter().any(|call| may_mean(&lists.primary, &call.name) || may_mean(&lists.session, &call.name))
}

fn is_of_system(name: &Name) -> bool {
    name.schema.as_deref() == Some("pg_catalog")
}

/// The string begins a transaction that a replica can hold; whether it is READ ONLY.
pub fn begins(statement: &Statement, facts: &Facts<'_>) -> Option<bool> {
    statement.parts.iter().find_map(|part| match &part.transaction {
        TransactionControl::Begin(modes) if begin_on_replica(modes, statement, facts).is_ok() => {
            Some(modes.read_only.unwrap_or(facts.defaults.read_only))
        }
        _ => None,
    })
}

/// It is alone, and nothing but BEGIN: with its own isolation level.
fn begins_anyhow(statement: &Statement) -> bool {
    statement.only().is_some_and(|part| matches!(part.transaction, TransactionControl::Begin(_)))
}

fn begin_on_replica(modes: &TransactionModes, statement: &Statement, facts: &Facts<'_>) -> Result<(), Reason> {
    let isolation = modes.isolation.unwrap_or(facts.defaults.isolation);
    if isolation == Isolation::Serializable {
        return Err(Reason::Serializable);
    }
    if modes.read_only.unwrap_or(facts.defaults.read_only) {
        return Ok(());
    }
    // One that promises a snapshot would have to keep it when it moves to the primary.
    let is_optimistic = facts.optimistic && facts.reads != Reads::Primary && !isolation.has_one_snapshot();
    if is_optimistic && begins_anyhow(statement) { Ok(()) } else { Err(Reason::Transaction) }
}

/// A transaction that may write can do this on a replica and go on at the primary without anybody noticing: it reads
/// rows, or ends.
pub fn leaves_no_bond(statement: &Statement) -> bool {
    statement.parts.iter().all(|part| {
        let is_read = matches!(part.kind, Kind::Select | Kind::Show) && part.transaction == TransactionControl::None;
        let is_end = matches!(
            part.transaction,
            TransactionControl::Commit { chain: false } | TransactionControl::Rollback { chain: false }
        );
        (is_read || is_end) && part.session.is_empty() && !part.asks_for_own
    })
}

fn set_on_replica(modes: &TransactionModes) -> Result<(), Reason> {
    if modes.isolation == Some(Isolation::Serializable) {
        return Err(Reason::Serializable);
    }
    if modes.read_only == Some(false) { Err(Reason::Transaction) } else { Ok(()) }
}

/// EXECUTE is what its statement is: one that this session has prepared, or that this very string prepares.
fn executes_on_replica(change: &SessionChange, statement: &Statement, facts: &Facts<'_>) -> Result<(), Reason> {
    let name = match change {
        SessionChange::Execute(name) => name,
        SessionChange::Pin(pin) => return Err(Reason::from(*pin)),
        // What is prepared will be judged when it is executed; preparing it is harmless anywhere.
        _ => return Ok(()),
    };
    // Of the same name the first is judged: a string of many would meet all that it prepares again for each.
    if statement.executed_names().find(|first| *first == name).is_some_and(|first| !std::ptr::eq(first, name)) {
        return Ok(());
    }
    let mut meant = facts.prepared.meant_in(statement, name).peekable();
    if meant.peek().is_none() {
        return Err(Reason::UnknownName);
    }
    // The strictest counts. Their names are looked up anew each time.
    meant.try_for_each(|(meant, _)| objects(meant, &facts.catalog))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{FunctionPattern, Inventory, Picture};
    use crate::sql::{ParseSettings, classify};

    fn names_nothing_of_users(text: &str, own_first: bool) -> bool {
        let statement = classify(text, &ParseSettings::default());
        let catalog = Catalog::Unknown { last: None, own_first, lists: &FunctionLists::default() };
        statement.parts.iter().all(|part| names_nothing(part, &catalog))
    }

    #[test]
    fn while_the_catalogs_are_not_known_only_what_is_surely_postgresqls_own_is_believed() {
        for text in ["select now(), version()", "select count(*) from pg_class", "select row_number() over ()"] {
            assert!(names_nothing_of_users(text, true), "{text}");
            assert!(!names_nothing_of_users(text, false), "{text}");
        }
        for text in ["select 1", "select pg_catalog.now()", "select oid from pg_catalog.pg_class"] {
            assert!(names_nothing_of_users(text, false), "{text}");
        }
        for text in ["select count(*) from mon.pg_activity", "select age()", "select json_scalar(1)", "table t"] {
            assert!(!names_nothing_of_users(text, true), "{text}");
        }
    }

    #[test]
    fn what_the_configuration_keeps_on_the_primary_is_kept_there_while_the_catalogs_are_not_known() {
        let primary = ["pg_is_in_recovery", "pg_catalog.low*", "app.version"].map(FunctionPattern::new).into();
        let lists = FunctionLists { primary, ..FunctionLists::default() };
        let before = Picture::draw(Inventory::default(), &FunctionLists::default(), 1, 0, 0);
        for last in [None, Some(&before)] {
            let catalog = Catalog::Unknown { last, own_first: true, lists: &lists };
            for (text, is_kept) in [
                ("select pg_is_in_recovery()", true),
                ("select 1; select now(), pg_is_in_recovery()", true),
                ("select pg_catalog.lower('A')", true),
                ("select pg_catalog.upper('a')", false),
                ("select version()", false),
            ] {
                let statement = classify(text, &ParseSettings::default());
                let expected = if is_kept { Err(Reason::CatalogUnknown) } else { Ok(()) };
                assert_eq!(objects(&statement, &catalog), expected, "{text}");
                assert_eq!(is_wrong_on_replica(&statement, &catalog), is_kept, "{text}");
            }
        }
    }

    #[test]
    fn what_its_server_connection_has_a_transaction_is_told_where_it_is() {
        let picture = Picture::draw(Inventory::default(), &FunctionLists::default(), 1, 0, 0);
        let known = Catalog::Known { picture: &picture, path: &Path::any(), key: None };
        for (text, is_wrong) in [
            ("SELECT 1 FROM pg_catalog.pg_cursors WHERE name = 'c'", false),
            ("select name from pg_prepared_statements where from_sql", false),
            ("select 1 from pg_cursors, pg_prepared_statements", false),
            ("select 1 from pg_cursors, pg_locks", true),
            ("select 1 from pg_cursors, pg_class", true),
            ("select 1 from pg_cursors; select 1 from pg_locks", true),
            ("select pg_advisory_lock(1) from pg_cursors", true),
            ("select 1 from pg_prepared_xacts", true),
            ("select cmin", true),
        ] {
            let statement = classify(text, &ParseSettings::default());
            for catalog in [&known, &Catalog::NotAsked] {
                assert_eq!(is_wrong_on_replica(&statement, catalog), is_wrong, "{text}");
            }
            assert!(objects(&statement, &known).is_err(), "by itself, it is asked of the primary: {text}");
        }
    }

    #[test]
    fn what_asks_for_what_is_its_transactions_own_leaves_a_bond() {
        for text in [
            "select now()",
            "select current_date",
            "select pg_backend_pid()",
            "select pg_catalog.pg_backend_pid(), a from t",
        ] {
            let statement = classify(text, &ParseSettings::default());
            assert!(!leaves_no_bond(&statement), "{text}");
            assert!(statement.is_plain_read(), "by itself, {text} is read as any other");
        }
        for text in
            ["select a from t", "select current_user", "select pg_is_in_recovery(), inet_server_port()", "commit"]
        {
            assert!(leaves_no_bond(&classify(text, &ParseSettings::default())), "{text}");
        }
    }

    #[test]
    fn changes_of_what_databases_share_are_told_from_others() {
        for (text, change) in [
            ("alter role ada set search_path = a", Change::Shared),
            ("alter role all in database shop reset all", Change::Shared),
            ("alter database shop set work_mem = '1MB'", Change::Shared),
            ("alter user ada bypassrls", Change::Shared),
            ("drop role ada", Change::Shared),
            ("alter role ada rename to bob", Change::Shared),
            ("do $$ begin alter role ada superuser; end $$", Change::Shared),
            ("grant admins to ada; alter role ada nologin", Change::Shared),
            ("create user ada password 'a'", Change::Roles),
            ("grant admins to ada", Change::Roles),
            ("begin; revoke admins from ada; select f(); commit", Change::Roles),
            ("grant select on t to ada", Change::OfDatabase),
            ("create table t (a int); create index on t (a)", Change::OfDatabase),
            ("alter table t rename to u", Change::OfDatabase),
            ("begin; create table t (a int); commit", Change::OfDatabase),
            ("call p()", Change::Opaque),
            ("select f()", Change::Opaque),
            ("insert into t values (1)", Change::Opaque),
        ] {
            assert_eq!(change_of(&classify(text, &ParseSettings::default())), change, "{text}");
        }
    }
}
