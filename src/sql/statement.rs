//! What a query string is and may do, as far as routing and the session need to know.

use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use super::comments::Remarks;
use super::draws::Target;
use super::memo::Memo;
use super::noted::Noted;
use super::session_change::SessionChange;
use super::settings::FOR_NAMES;

/// One query string: what each of its statements is. Cheap to share: caches hand out `Arc<Statement>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The statements of the string, in order; none for an empty string or only comments.
    pub parts: Box<[Part]>,
    /// False when another string of the same shape (only literals differ) may be something else: a literal names a
    /// table, a setting or a function's meaning. Such a statement is cached by its exact text only.
    pub shape_decides: bool,
    /// What a catalog last said of it.
    pub memo: Memo,
    /// What its comments say; None: nothing.
    pub remarks: Option<Box<Remarks>>,
    /// What rules have found out about it.
    pub noted: Noted,
    /// Types of users' own that a Parse has declared for its parameters, by their numbers in the catalogs.
    pub declared: Box<[u32]>,
    is_plain_read: bool,
}

/// One statement of a query string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is, for rules, metrics and people.
    pub kind: Kind,
    /// Why it must run on the primary; None if a replica would give the same answer.
    pub needs_primary: Option<NeedsPrimary>,
    /// What it does to the transaction.
    pub transaction: TransactionControl,
    /// What it leaves behind in the session, in order.
    pub session: Box<[SessionChange]>,
    /// The direction of its COPY with the client.
    pub copy: CopyDirection,
    /// It can commit in the middle (CALL, DO, VACUUM, CREATE INDEX CONCURRENTLY, …): a failure proves nothing.
    pub commits_inside: bool,
    /// It can change the catalogs: what was learned of them may be stale once it has run.
    pub changes_catalog: bool,
    /// And what all databases of a cluster share: roles, and what their sessions begin with.
    pub changes_shared: bool,
    /// It makes roles, or changes who is a member of which.
    pub changes_roles: bool,
    /// The database that nobody else may be connected to while it runs.
    pub empties: Option<Arc<str>>,
    /// An UPDATE or DELETE without WHERE is in it, at any depth.
    pub unfiltered: bool,
    /// It asks for what is its transaction's own: the time at which that began, as now(), CURRENT_TIMESTAMP and their kin do, or
    /// the process that serves it, as pg_backend_pid().
    pub asks_for_own: bool,
    /// It is an EXPLAIN that does not run what it explains.
    pub only_plans: bool,
    /// Every relation it names, CTE names excepted, in order of appearance, without repeats.
    pub tables: Box<[Name]>,
    /// Those of them that are read without what inherits from them, by ONLY, wherever they are named.
    pub only: Box<[Name]>,
    /// Every function it calls by name, without repeats.
    pub functions: Box<[Name]>,
    /// The same calls, with their arguments as far as they tell overloads apart, without repeats.
    pub calls: Box<[Call]>,
    /// Every operator it uses, also those that the grammar implies (`=` of IN, CASE and USING), without repeats.
    pub operators: Box<[Name]>,
    /// Every type it names, in casts and elsewhere, without repeats.
    pub types: Box<[Name]>,
    /// Every `b` of an `a.b` or `(a).b`, without repeats: it may be a function that is called like a column.
    pub attributes: Box<[Arc<str>]>,
    /// One of those may be a function of a value that has no attributes: `(id).f`, or `x.f` where x is what a function in FROM
    /// answers or an argument.
    pub applies: bool,
    /// It writes rows, at any depth, whatever else is the reason for which it needs the primary.
    pub writes: bool,
    /// It calls functions that PostgreSQL has not got.
    pub calls_unknown: bool,
    /// Where the outermost INSERT in it puts rows, or an UPDATE puts defaults.
    pub inserts: Option<Box<Target>>,
    /// It sorts, groups or compares values in ways that name no operator: ORDER BY, DISTINCT, UNION, GREATEST, …
    pub sorts: bool,
}

/// A call of a function by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub name: Name,
    /// Its arguments in order; None where they cannot be counted (VARIADIC, by name, `*`).
    pub arguments: Option<SmallVec<[Argument; 4]>>,
}

/// What is known of an argument's type from the text alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// An integer literal.
    Integer,
    /// Another number.
    Number,
    /// A string literal, which takes whatever type is wanted.
    Literal,
    /// Cast to this type.
    Cast(Name),
    /// Anything else.
    Unknown,
}

/// A possibly schema-qualified name as PostgreSQL reads it: folded to lower case unless quoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The schema, if it was written.
    pub schema: Option<Arc<str>>,
    /// The name itself.
    pub name: Arc<str>,
}

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the SQL command of its name")]
pub enum Kind {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    Explain,
    Call,
    Do,
    Begin,
    Commit,
    Rollback,
    Savepoint,
    Release,
    PrepareTransaction,
    SetTransaction,
    Set,
    Reset,
    Show,
    Discard,
    Prepare,
    Execute,
    Deallocate,
    Declare,
    Fetch,
    Close,
    Listen,
    Unlisten,
    Notify,
    Lock,
    Truncate,
    Ddl,
    Maintenance,
    Load,
    Checkpoint,
    /// Anything else that PostgreSQL parses.
    Other,
    /// PostgreSQL's grammar does not accept it, or it is too large to be looked at.
    Unparsed,
}

/// Why a statement must run on the primary. The payload names the culprit.
///
/// Of several reasons the first is kept, but [`NeedsPrimary::UnknownFunction`] only if there is no other: a catalog that
/// vouches for every function named may lift it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NeedsPrimary {
    /// INSERT, UPDATE, DELETE, MERGE or TRUNCATE, at any depth.
    Writes,
    /// FOR UPDATE, FOR SHARE and their kin, at any depth.
    LocksRows,
    /// LOCK TABLE.
    LocksTable,
    /// CREATE, ALTER, DROP, GRANT, SELECT INTO, CREATE TABLE AS, REFRESH, COMMENT, …
    ChangesSchema,
    /// A function of the reviewed list that writes or whose answer only the primary has.
    Function(Arc<str>),
    /// A function that nobody vouches for.
    UnknownFunction(Arc<str>),
    /// A relation whose answer differs on a replica: a sequence, pg_stat_activity and its kin, …
    Relation(Arc<str>),
    /// Makes or uses temporary objects.
    Temporary,
    /// LISTEN, NOTIFY, UNLISTEN.
    Notifications,
    /// COPY FROM the client.
    CopyIn,
    /// COPY to or from a file or program of the server.
    CopyFile,
    /// A cursor that outlives its transaction.
    HoldCursor,
    /// FETCH, MOVE, CLOSE, EXECUTE of something this session has not made (the server will say so).
    UnknownName,
    /// CALL or DO: what they run is not looked into.
    Procedural,
    /// VACUUM, ANALYZE, REINDEX, CLUSTER, CHECKPOINT, ALTER SYSTEM.
    Maintenance,
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase,
    /// SHOW, SET or RESET of something that differs between nodes or that a standby refuses.
    NodeSetting(Arc<str>),
    /// LOAD.
    LoadsLibrary,
    /// The grammar does not accept it.
    Unparsed,
    /// Too large to be looked at.
    TooLarge,
    /// PostgreSQL knows it and Trunkline does not.
    UnknownStatement,
}

/// What a statement does to the transaction it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TransactionControl {
    /// Nothing.
    #[default]
    None,
    /// BEGIN or START TRANSACTION.
    Begin(TransactionModes),
    /// COMMIT or END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE SAVEPOINT.
    Release,
    /// ROLLBACK TO SAVEPOINT.
    RollbackTo,
    /// PREPARE TRANSACTION: ends the transaction of this session.
    Prepare,
    /// SET TRANSACTION, or SET LOCAL of transaction_read_only and its kin.
    Set(TransactionModes),
}

impl TransactionControl {
    /// It ends the transaction.
    pub fn ends(&self) -> bool {
        matches!(self, Self::Commit { .. } | Self::Rollback { .. } | Self::Prepare)
    }

    /// It ends the transaction, or takes a part of it back.
    pub fn ends_or_takes_back(&self) -> bool {
        self.ends() || *self == Self::RollbackTo
    }
}

/// The modes named by BEGIN or SET TRANSACTION; None = not named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// READ ONLY (true) or READ WRITE (false).
    pub read_only: Option<bool>,
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// DEFERRABLE (true) or NOT DEFERRABLE (false).
    pub deferrable: Option<bool>,
}

/// A transaction isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the SQL standard's names")]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

impl Isolation {
    /// The level as a setting tells it.
    pub fn from_setting(value: &str) -> Option<Self> {
        [Self::ReadUncommitted, Self::ReadCommitted, Self::RepeatableRead, Self::Serializable]
            .into_iter()
            .find(|level| level.sql().eq_ignore_ascii_case(value))
    }

    /// Its name in SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "READ UNCOMMITTED",
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }

    /// All statements of a transaction see one snapshot.
    pub fn has_one_snapshot(self) -> bool {
        matches!(self, Self::RepeatableRead | Self::Serializable)
    }
}

/// Why a session must keep its server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pin {
    /// It has made a temporary object.
    Temporary,
    /// It listens.
    Listen,
    /// It holds, or may hold, a session-level advisory lock.
    AdvisoryLock,
    /// It has a cursor WITH HOLD.
    HoldCursor,
    /// It has loaded a library.
    Load,
    /// It has changed a setting whose name is not known (set_config with a computed name), or whose value it may not read, or
    /// which only a role that it has left may set.
    UnknownSetting,
    /// It keeps something that only its end takes away: a backup under way, connections of dblink, the state of random().
    State,
    /// It has called nextval or setval, so that currval and lastval answer only there.
    Sequence,
}

impl Pin {
    /// Every one, in the order in which one of several is named as the reason.
    pub const ALL: [Self; 8] = [
        Self::Temporary,
        Self::Listen,
        Self::AdvisoryLock,
        Self::HoldCursor,
        Self::Load,
        Self::UnknownSetting,
        Self::State,
        Self::Sequence,
    ];
}

/// The direction of a COPY with the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyDirection {
    /// No COPY, or not with the client.
    #[default]
    None,
    /// COPY FROM STDIN.
    In,
    /// COPY TO STDOUT.
    Out,
}

impl Statement {
    /// A string of these statements, without remarks.
    pub fn new(parts: Box<[Part]>, shape_decides: bool) -> Self {
        let is_plain_read = matches!(&*parts, [part] if part.is_plain_read());
        let (memo, noted) = (Memo::default(), Noted::default());
        Self { parts, shape_decides, memo, remarks: None, noted, declared: Box::default(), is_plain_read }
    }

    /// The same, where these comments stand beside it.
    pub fn remarked(&self, remarks: Option<Box<Remarks>>) -> Self {
        Self { remarks, ..self.clone() }
    }

    /// The same, with parameters of these types of users' own: it may mean something else.
    pub fn declaring(&self, types: Box<[u32]>) -> Self {
        Self { declared: types, ..self.clone() }
    }

    /// It is one SELECT of which the text names nothing that needs the primary or stays in the session: of what is asked of
    /// statements, only what catalogs say of its names is of interest. Most statements are such.
    #[inline]
    pub fn is_plain_read(&self) -> bool {
        self.is_plain_read
    }

    /// Why the string must run on the primary: its first statement that must.
    pub fn needs_primary(&self) -> Option<&NeedsPrimary> {
        self.parts.iter().find_map(|part| part.needs_primary.as_ref())
    }

    /// The one statement of the string, if it is just one.
    pub fn only(&self) -> Option<&Part> {
        match &*self.parts {
            [part] => Some(part),
            _ => None,
        }
    }

    /// It is DISCARD ALL, which stands alone.
    pub fn discards_all(&self) -> bool {
        self.only().is_some_and(|part| part.session.contains(&SessionChange::DiscardAll))
    }
}

impl Statement {
    /// It was too large to be looked at.
    pub fn is_too_large(&self) -> bool {
        self.parts.first().is_some_and(|part| part.needs_primary == Some(NeedsPrimary::TooLarge))
    }

    /// Where names are looked for may be another place after it, or already in it.
    pub fn changes_path(&self) -> bool {
        let mut changes = self.parts.iter().flat_map(|part| &part.session);
        changes.any(|change| FOR_NAMES.iter().any(|name| change.changes_setting(name)))
    }

    /// It only takes back what the session has left on its server connection, as drivers' pools do: it writes nothing, and
    /// shows nothing that others have written.
    pub fn only_cleans(&self) -> bool {
        self.parts.iter().all(Part::only_cleans)
    }

    /// One of its statements begins a transaction block.
    pub fn begins_transaction(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.transaction, TransactionControl::Begin(_)))
    }

    /// One of its statements ends a transaction block.
    pub fn ends_transaction(&self) -> bool {
        self.parts.iter().any(|part| part.transaction.ends())
    }

    /// It is, or has in it, an EXECUTE: what that runs its session knows.
    pub fn executes_by_name(&self) -> bool {
        self.executed_names().next().is_some()
    }

    /// The name of each EXECUTE in it.
    pub fn executed_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().flat_map(Part::executed_names)
    }

    /// The name of each EXECUTE in it that is not only planned, as EXPLAIN does.
    pub fn run_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter(|part| !part.only_plans).flat_map(Part::executed_names)
    }

    /// Each of its statements runs what was prepared before, and nothing else.
    pub fn only_executes(&self) -> bool {
        self.parts.iter().all(|part| !part.only_plans && part.executed_names().next().is_some())
    }

    /// The name that each PREPARE in it gives, what that prepares, in order, and the text of the PREPARE.
    pub fn prepared_names(&self) -> impl DoubleEndedIterator<Item = (&Arc<str>, &Arc<Self>, &Arc<str>)> {
        self.parts.iter().flat_map(|part| &part.session).filter_map(|change| match change {
            SessionChange::Prepare { name, statement, text, .. } => Some((name, statement, text)),
            _ => None,
        })
    }

    /// The same, of this name.
    pub fn prepares<'a>(&'a self, name: &'a str) -> impl DoubleEndedIterator<Item = (&'a Arc<Self>, &'a Arc<str>)> {
        let named = self.prepared_names().filter(move |(given, ..)| ***given == *name);
        named.map(|(_, statement, text)| (statement, text))
    }

    /// One of its statements is a PREPARE.
    pub fn prepares_by_name(&self) -> bool {
        let mut changes = self.parts.iter().flat_map(|part| &part.session);
        changes.any(|change| matches!(change, SessionChange::Prepare { .. }))
    }

    /// Our grammar has not accepted it.
    pub fn is_unparsed(&self) -> bool {
        self.parts.first().is_some_and(|part| part.needs_primary == Some(NeedsPrimary::Unparsed))
    }

    /// Nobody knows what stands in it.
    pub fn is_unread(&self) -> bool {
        self.is_unparsed() || self.is_too_large()
    }
}

impl Part {
    /// The name of the EXECUTE that it is, or has in it.
    fn executed_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.session.iter().filter_map(|change| match change {
            SessionChange::Execute(name) => Some(name),
            _ => None,
        })
    }

    /// See [`Statement::only_cleans`].
    pub fn only_cleans(&self) -> bool {
        let unlocks = |name: &Name| {
            name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
                && matches!(&*name.name, "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all")
        };
        match self.kind {
            Kind::Close | Kind::Unlisten | Kind::Reset | Kind::Discard | Kind::Deallocate => true,
            Kind::Select => {
                !self.functions.is_empty()
                    && self.functions.iter().all(unlocks)
                    && self.tables.is_empty()
                    && self.operators.is_empty()
                    && self.attributes.is_empty()
                    && self.types.is_empty()
            }
            _ => false,
        }
    }

    fn is_plain_read(&self) -> bool {
        self.kind == Kind::Select
            && self.needs_primary.is_none()
            && self.transaction == TransactionControl::None
            && self.session.is_empty()
            && self.copy == CopyDirection::None
            && !self.commits_inside
            && !self.changes_catalog
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 37] = {
        use Kind::*;
        [
            Select,
            Insert,
            Update,
            Delete,
            Merge,
            Copy,
            Explain,
            Call,
            Do,
            Begin,
            Commit,
            Rollback,
            Savepoint,
            Release,
            PrepareTransaction,
            SetTransaction,
            Set,
            Reset,
            Show,
            Discard,
            Prepare,
            Execute,
            Deallocate,
            Declare,
            Fetch,
            Close,
            Listen,
            Unlisten,
            Notify,
            Lock,
            Truncate,
            Ddl,
            Maintenance,
            Load,
            Checkpoint,
            Other,
            Unparsed,
        ]
    };

    /// Its SQL name in lower case, as rules, metrics and people have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Select => "select",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Merge => "merge",
            Self::Copy => "copy",
            Self::Explain => "explain",
            Self::Call => "call",
            Self::Do => "do",
            Self::Begin => "begin",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Savepoint => "savepoint",
            Self::Release => "release",
            Self::PrepareTransaction => "prepare transaction",
            Self::SetTransaction => "set transaction",
            Self::Set => "set",
            Self::Reset => "reset",
            Self::Show => "show",
            Self::Discard => "discard",
            Self::Prepare => "prepare",
            Self::Execute => "execute",
            Self::Deallocate => "deallocate",
            Self::Declare => "declare",
            Self::Fetch => "fetch",
            Self::Close => "close",
            Self::Listen => "listen",
            Self::Unlisten => "unlisten",
            Self::Notify => "notify",
            Self::Lock => "lock",
            Self::Truncate => "truncate",
            Self::Ddl => "ddl",
            Self::Maintenance => "maintenance",
            Self::Load => "load",
            Self::Checkpoint => "checkpoint",
            Self::Other => "other",
            Self::Unparsed => "unparsed",
        }
    }

    /// The kind of this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl NeedsPrimary {
    /// The stable name of the reason, for metrics and golden files; the payload is not part of it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Writes => "writes",
            Self::LocksRows => "locks_rows",
            Self::LocksTable => "locks_table",
            Self::ChangesSchema => "changes_schema",
            Self::Function(_) => "function",
            Self::UnknownFunction(_) => "unknown_function",
            Self::Relation(_) => "relation",
            Self::Temporary => "temporary",
            Self::Notifications => "notifications",
            Self::CopyIn => "copy_in",
            Self::CopyFile => "copy_file",
            Self::HoldCursor => "hold_cursor",
            Self::UnknownName => "unknown_name",
            Self::Procedural => "procedural",
            Self::Maintenance => "maintenance",
            Self::TwoPhase => "two_phase",
            Self::NodeSetting(_) => "node_setting",
            Self::LoadsLibrary => "loads_library",
            Self::Unparsed => "unparsed",
            Self::TooLarge => "too_large",
            Self::UnknownStatement => "unknown_statement",
        }
    }
}

impl fmt::Display for NeedsPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writes => f.write_str("it writes"),
            Self::LocksRows => f.write_str("it locks rows"),
            Self::LocksTable => f.write_str("it locks a table"),
            Self::ChangesSchema => f.write_str("it changes the schema"),
            Self::Function(name) => write!(f, "the function {name} writes, or only the primary has its answer"),
            Self::UnknownFunction(name) => write!(f, "nothing is known of the function {name}"),
            Self::Relation(name) => write!(f, "the rows of {name} differ between nodes"),
            Self::Temporary => f.write_str("it makes or uses temporary objects"),
            Self::Notifications => f.write_str("a replica cannot listen or notify"),
            Self::CopyIn => f.write_str("it copies from the client"),
            Self::CopyFile => f.write_str("it copies from or to a file or program of the server"),
            Self::HoldCursor => f.write_str("its cursor outlives its transaction"),
            Self::UnknownName => f.write_str("what it names is not known in this session"),
            Self::Procedural => f.write_str("what CALL and DO run is not looked into"),
            Self::Maintenance => f.write_str("it maintains the server"),
            Self::TwoPhase => f.write_str("it is part of a two-phase commit"),
            Self::NodeSetting(name) => write!(f, "{name} differs between nodes, or a replica refuses it"),
            Self::LoadsLibrary => f.write_str("it loads a library"),
            Self::Unparsed => f.write_str("PostgreSQL's grammar does not accept it"),
            Self::TooLarge => f.write_str("it is too large to be looked at"),
            Self::UnknownStatement => f.write_str("it is a statement that nothing is known of"),
        }
    }
}
