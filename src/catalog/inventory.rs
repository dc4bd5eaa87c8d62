//! The rows of a database's catalogs as they were read: what a [`super::Picture`] is drawn from.

use hashbrown::HashMap;

use super::{Mentions, Oid};
use crate::sql::functions::{Class, class_of};
use crate::sql::words::{self, Quoting};
use crate::sql::{Doubt, Leftovers, Name, ParseSettings, Statement, classify};

/// Relations, functions and types together; beyond, a picture would take hundreds of megabytes.
pub const MOST_OBJECTS: usize = 4_000_000;

/// Everything that was read. Fill its fields, then [`super::Picture::draw`].
#[derive(Debug, Default)]
pub struct Inventory {
    /// Schemas by name.
    pub schemas: Vec<(Oid, Box<str>)>,
    /// Schemas that not everybody may use, each with its owner where he may.
    pub closed_schemas: Vec<(Oid, Option<Box<str>>)>,
    /// Roles that row-level security may or may not apply to.
    pub roles: Vec<RoleRow>,
    /// Types that are not PostgreSQL's own.
    pub types: Vec<TypeRow>,
    /// (type, a type that its values are made of): elements, attributes.
    pub type_parts: Vec<(Oid, Oid)>,
    /// (domain, the type that it is over).
    pub domain_bases: Vec<(Oid, Oid)>,
    /// Tables, views, sequences, …
    pub relations: Vec<RelationRow>,
    /// (relation, a type of one of its columns that is not PostgreSQL's own).
    pub column_types: Vec<(Oid, Oid)>,
    /// (table, a table that is read with it).
    pub children: Vec<(Oid, Oid)>,
    /// (table, a table that a write to it may write to, by a foreign key).
    pub cascades: Vec<(Oid, Oid)>,
    /// What the default of a column runs, and whatever else is checked or asked where a table is written to.
    pub defaults: Vec<(Oid, Mentions)>,
    /// What a rule runs beside a write, or in its place.
    pub write_rules: Vec<(Oid, Mentions)>,
    /// What reading a view runs.
    pub rules: Vec<(Oid, Mentions)>,
    /// What row-level security runs when a table is read.
    pub policies: Vec<(Oid, Mentions)>,
    /// What the columns of a table run that are computed when it is read.
    pub virtual_columns: Vec<(Oid, Mentions)>,
    /// (table, the function of a trigger on it).
    pub triggers: Vec<(Oid, Oid)>,
    /// The functions of event triggers.
    pub event_triggers: Vec<Oid>,
    /// (table, a column whose default draws from a sequence).
    pub draws: Vec<(Oid, Box<str>)>,
    /// Relations with rules for what is written to them, or with defaults that call functions which are not PostgreSQL's own.
    pub writes_more: Vec<Oid>,
    /// Functions that are not PostgreSQL's own.
    pub functions: Vec<FunctionRow>,
    /// (aggregate, a function that it calls).
    pub aggregates: Vec<(Oid, Oid)>,
    /// Operators that are not PostgreSQL's own, and those of it that share their names.
    pub operators: Vec<OperatorRow>,
    /// Casts that are not PostgreSQL's own.
    pub casts: Vec<CastRow>,
    /// What a domain's checks run.
    pub domain_checks: Vec<(Oid, Mentions)>,
    /// (type, a function that compares its values in an index, a sort or a hash).
    pub comparators: Vec<(Oid, Oid)>,
    /// (operator, a function that an operator class of somebody's own calls to sort by it or to look it up).
    pub operator_supports: Vec<(Oid, Oid)>,
    /// PostgreSQL's own functions by their identity.
    pub builtins: HashMap<Oid, Box<str>>,
    /// PostgreSQL's own relations by their identity.
    pub system_relations: Vec<(Oid, Box<str>)>,
    /// The argument types of PostgreSQL's own functions that share a name with one that is not.
    pub builtin_signatures: Vec<(Box<str>, Box<[Oid]>)>,
    /// search_path of roles: (role, only in this database), the newest rule of PostgreSQL applied by whoever asks.
    pub role_paths: Vec<(Box<str>, bool, Box<str>)>,
    /// Roles that begin as another one, by a setting of theirs; None: all do.
    pub other_roles: Vec<Option<Box<str>>>,
    /// search_path of the database.
    pub database_path: Option<Box<str>>,
    /// search_path of the server.
    pub server_path: Option<Box<str>>,
}

/// The database has more objects than a picture may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the database has more than {MOST_OBJECTS} relations, functions and types")]
pub struct TooLarge;

/// A role.
#[derive(Clone, Debug)]
pub struct RoleRow {
    /// Its identity.
    pub oid: Oid,
    /// Its name.
    pub name: Box<str>,
    /// Row-level security never applies to it: SUPERUSER or BYPASSRLS.
    pub is_exempt: bool,
    /// It may do anything.
    pub is_superuser: bool,
}

/// A type.
#[derive(Clone, Debug)]
pub struct TypeRow {
    /// Its identity.
    pub oid: Oid,
    /// Its schema.
    pub schema: Oid,
    /// Its name.
    pub name: Box<str>,
    /// What reads and writes its values as text, if that is volatile.
    pub volatile_input: bool,
}

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    /// A table, partitioned or not, or a materialised view: its rows are stored.
    Stored,
    /// A view.
    View,
    /// A sequence.
    Sequence,
    /// A foreign table.
    Foreign,
}

/// A relation.
#[derive(Clone, Debug)]
pub struct RelationRow {
    /// Its identity.
    pub oid: Oid,
    /// Its schema.
    pub schema: Oid,
    /// Its name.
    pub name: Box<str>,
    /// What it is.
    pub kind: RelationKind,
    /// It is not in the write-ahead log.
    pub is_unlogged: bool,
    /// Row-level security is on.
    pub has_policies: bool,
    /// And also for its owner.
    pub binds_owner: bool,
    /// Its owner.
    pub owner: Oid,
    /// The type of its rows.
    pub row_type: Oid,
    /// The type that it was created OF; 0 for none.
    pub of_type: Oid,
    /// A view that reads as whoever asks.
    pub is_invoker: bool,
}

/// How often a function may answer differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "PostgreSQL's names")]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// What a function is written in, as far as its body can be looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// SQL: statements.
    Sql,
    /// PL/pgSQL: words.
    PlPgSql,
    /// C: nothing to see.
    Native,
    /// PL/Perl: words, also in strings.
    Perl,
    /// PL/Python: the same.
    Python,
    /// Another one: the same.
    Other,
}

/// A function, procedure or aggregate.
#[derive(Clone, Debug)]
pub struct FunctionRow {
    /// Its identity.
    pub oid: Oid,
    /// Its schema.
    pub schema: Oid,
    /// Its name.
    pub name: Box<str>,
    /// What it was declared as.
    pub volatility: Volatility,
    /// Its language.
    pub language: Language,
    /// It is an aggregate: its volatility says nothing.
    pub is_aggregate: bool,
    /// The types of its input arguments.
    pub arguments: Box<[Oid]>,
    /// How many of them, at the end, have defaults.
    pub defaults: usize,
    /// The last one takes any number of arguments.
    pub is_variadic: bool,
    /// The types it answers with, and those of its OUT arguments.
    pub results: Box<[Oid]>,
    /// What the defaults run.
    pub default_values: Option<Mentions>,
    /// What it runs.
    pub body: Body,
}

/// What a function runs, as far as it is known.
#[derive(Clone, Debug)]
pub enum Body {
    /// Nothing to see: by its label.
    Hidden,
    /// The same, in a library whose functions change the catalogs.
    Defines,
    /// In C, and runs a statement that it is given as text, or is one of PostgreSQL's own that needs the primary.
    Given,
    /// Hidden, and it keeps something in its session.
    Keeps,
    /// Exactly this.
    Tree(Mentions),
    /// Statements or words, whose names are not resolved.
    Text {
        /// What they name.
        statement: Box<Statement>,
        /// They run text that is made up as it goes.
        is_dynamic: bool,
        /// Nothing but what they call can do more than read.
        only_reads: bool,
        /// What they leave in their session, without what they call.
        leftovers: Leftovers,
    },
}

/// An operator.
#[derive(Clone, Debug)]
pub struct OperatorRow {
    /// Its identity.
    pub oid: Oid,
    /// Its schema.
    pub schema: Oid,
    /// Its symbol.
    pub name: Box<str>,
    /// The type on its left; 0 for a prefix operator.
    pub left: Oid,
    /// The type on its right.
    pub right: Oid,
    /// Its function.
    pub function: Oid,
    /// What it answers with.
    pub result: Oid,
}

/// A cast.
#[derive(Clone, Copy, Debug)]
pub struct CastRow {
    /// From this type.
    pub source: Oid,
    /// To this one.
    pub target: Oid,
    /// By this function; 0 for none.
    pub function: Oid,
    /// It may be done without being written.
    pub is_implicit: bool,
}

impl Body {
    /// One of PostgreSQL's own functions, by its own name.
    pub fn of_internal(name: &str) -> Self {
        match class_of(&Name { schema: None, name: name.into() }) {
            Some(Class::Safe | Class::NamesObject) | None => Self::Hidden,
            Some(_) => Self::Given,
        }
    }

    /// A body given as text, in its language; of C it is the name in the library.
    pub fn read(text: &str, language: Language) -> Self {
        let quoting = match language {
            Language::Native if RUNS_TEXT.contains(&text) => return Self::Given,
            Language::Native if KEEPS.contains(&text) => return Self::Keeps,
            Language::Native => return Self::Hidden,
            Language::Sql => {
                let mut statement = classify(text, &ParseSettings::default());
                // An argument's name may stand before the dot.
                statement.parts.iter_mut().for_each(|part| part.applies = true);
                let leftovers = unless_ended(Leftovers::of_statement(&statement), &statement);
                // What they do is told by their effects.
                return Self::Text { statement: Box::new(statement), is_dynamic: false, only_reads: true, leftovers };
            }
            Language::PlPgSql => Quoting::Sql,
            Language::Perl | Language::Python | Language::Other => Quoting::None,
        };
        let body = words::body(text, quoting);
        let only_reads = body.only_reads && language == Language::PlPgSql;
        let mut leftovers = Leftovers::of_body(text, quoting);
        if keeps_globals(text, language) {
            leftovers.doubt(Doubt::Kept);
        }
        let leftovers = unless_ended(leftovers, &body.statement);
        Self::Text { statement: Box::new(body.statement), is_dynamic: body.is_dynamic, only_reads, leftovers }
    }
}

/// Those of extensions that are not volatile and run text, or read the tables that it names: tablefunc's, xml2's, and PostGIS's
/// address_standardizer's.
const RUNS_TEXT: &[&str] = &[
    "connectby_text",
    "connectby_text_serial",
    "crosstab",
    "crosstab_hash",
    "standardize_address",
    "standardize_address1",
    "xpath_table",
];

/// Those that keep something of their own: dblink's connections, what isn takes for a number, what pgsql-http's later requests go by.
const KEEPS: &[&str] = &["accept_weak_input", "dblink_connect", "http_set_curlopt"];

/// Libraries of extensions whose volatile functions do: variables, hypothetical indexes, what the next calls go by.
const KEEPING: &[&str] = &["hll", "hypopg", "orafce", "pg_variables", "set_user", "temporal_tables"];

/// A function of this library, as `pg_proc.probin` names it, keeps something of its own if it is volatile.
pub fn is_keeping(library: &str) -> bool {
    KEEPING.contains(&name_of(library))
}

/// Libraries whose volatile functions make, change or drop what the catalogs tell of, or run statements that may.
const DEFINING: &[&str] = &[
    "age",
    "bdr",
    "citus",
    "dblink",
    "pg_background",
    "pg_cron",
    "pg_ivm",
    "pg_pathman",
    "pg_repack",
    "pg_tle",
    "pglogical",
    "plproxy",
    "spock",
    "timescaledb",
];

/// A function of this library may change the catalogs if it is volatile. Some have their version in their name.
pub fn is_defining(library: &str) -> bool {
    name_of(library).split('-').next().is_some_and(|name| DEFINING.contains(&name))
}

fn name_of(library: &str) -> &str {
    let name = library.rsplit('/').next().unwrap_or_default();
    name.strip_suffix(".so").unwrap_or(name)
}

/// It names what PL/Perl or PL/Python keep for a session's functions to share. What is kept for one function (PL/Python's `SD`,
/// PL/Tcl's `GD`) is for plans that it has made, which are anybody's.
fn keeps_globals(text: &str, language: Language) -> bool {
    let global = match language {
        Language::Perl => "_SHARED",
        Language::Python => "GD",
        _ => return false,
    };
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == global)
}

/// It also calls what ends a connection of dblink, or a backup: it is taken to leave none.
pub(super) fn ends_what_it_keeps(statement: &Statement) -> bool {
    let mut functions = statement.parts.iter().flat_map(|part| &part.functions);
    functions.any(|name| matches!(&*name.name, "dblink_disconnect" | "pg_backup_stop" | "pg_stop_backup"))
}

/// What the words leave of a body that may end it again.
fn unless_ended(mut left: Leftovers, statement: &Statement) -> Leftovers {
    if ends_what_it_keeps(statement) {
        left.doubt = left.doubt.min(Doubt::Opaque);
    }
    left
}

impl Inventory {
    /// Objects read so far, or an error if they are more than a picture may hold.
    pub fn check_size(&self) -> Result<usize, TooLarge> {
        let count = self.relations.len() + self.functions.len() + self.types.len();
        if count > MOST_OBJECTS { Err(TooLarge) } else { Ok(count) }
    }
}
