//! What the catalogs of a database mean for routing, immutable, made by [`Picture::draw`], asked by [`Picture::judge`].

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Change, FIRST_OWN, FunctionPattern, Oid, Path, Why};
use crate::sql::Leftovers;

/// Names as numbers: two names are taken for one with a chance of one in 10^13 at a million of them, and the seed cannot
/// be known to whoever makes names.
type ByName<T> = HashMap<u64, T, FixedState>;

/// The objects of one database that are not PostgreSQL's own.
#[derive(Debug)]
pub struct Picture {
    /// Unique while the process runs.
    id: u32,
    /// The changes that it shows.
    changes: AtomicU64,
    pub(super) hasher: FixedState,
    /// The paths that were asked for, by number.
    pub(super) path_numbers: Mutex<HashMap<Path, u16>>,
    pub(super) schemas: HashMap<Box<str>, Oid>,
    /// Schemas that not everybody may use, each with its owner where he may.
    pub(super) closed_schemas: HashMap<Oid, Option<Box<str>>>,
    pub(super) exempt_roles: HashSet<Box<str>>,
    pub(super) superusers: HashSet<Box<str>>,
    /// Who begins as another role; None: everybody.
    pub(super) other_roles: Vec<Option<Box<str>>>,
    pub(super) role_paths: Vec<(Box<str>, bool, Box<str>)>,
    pub(super) database_path: Option<Box<str>>,
    pub(super) server_path: Option<Box<str>>,
    /// By schema and name: a place in `relations`, or [`PLAIN`].
    pub(super) relation_names: ByName<u32>,
    /// Those that are not plain, by name alone.
    pub(super) special_names: ByName<SmallVec<[u32; 1]>>,
    pub(super) relations: Vec<Relation>,
    /// By name alone.
    pub(super) function_names: ByName<SmallVec<[u32; 1]>>,
    pub(super) functions: Vec<Function>,
    /// What event triggers leave in the session that changes the catalogs.
    pub(super) event_leaves: Left,
    /// Of all functions, one after the other.
    pub(super) arguments: Vec<Oid>,
    pub(super) builtin_signatures: HashMap<Box<str>, Vec<Box<[Oid]>>>,
    /// Names of PostgreSQL's own functions that nobody has judged: its release is newer than our list.
    pub(super) unjudged_builtins: HashSet<Box<str>>,
    /// PostgreSQL's own functions that the configuration keeps on the primary.
    pub(super) primary_builtins: Vec<FunctionPattern>,
    pub(super) operators: HashMap<Box<str>, Vec<Operator>>,
    /// Casts that need the primary.
    pub(super) casts: Vec<Cast>,
    /// By name alone.
    pub(super) type_names: ByName<SmallVec<[(Oid, Oid); 1]>>,
    pub(super) types: HashMap<Oid, Type>,
}

/// A relation about which there is nothing to say but that it is there and can be read anywhere.
pub(super) const PLAIN: u32 = u32::MAX;

/// A relation that is not plain.
#[derive(Clone, Debug, Default)]
pub(super) struct Relation {
    pub(super) oid: Oid,
    /// Why reading it needs the primary, whoever reads.
    pub(super) why: Option<Why>,
    /// Reading it runs code that may do anything: it is a view, or has columns that are made as they are read.
    pub(super) runs_code: bool,
    /// Why reading it with its partitions and heirs does.
    pub(super) of_heirs: Option<Why>,
    /// Owners of what is read under policies that need the primary, if these bind the owner himself.
    pub(super) policies: SmallVec<[Policy; 1]>,
    /// The types of its columns, and of its rows where somebody takes them.
    pub(super) types: SmallVec<[Oid; 2]>,
    /// Its columns whose defaults draw from a sequence.
    pub(super) draws: SmallVec<[Box<str>; 1]>,
    /// A row that is written to it may draw from a sequence for other reasons: a trigger, a rule, a function in a default.
    pub(super) may_draw: bool,
    /// Writing to it may change the catalogs.
    pub(super) write_changes: Change,
    /// What its triggers and defaults leave in the session that writes to it.
    pub(super) write_leaves: Left,
}

impl Relation {
    /// Why reading it needs the primary, unless it is read with ONLY.
    pub(super) fn whole(&self) -> Option<Why> {
        self.why.or(self.of_heirs)
    }
}

/// A policy that needs the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) owner: Option<Box<str>>,
}

/// One function; others may have its name.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) schema: Oid,
    pub(super) why: Option<Why>,
    /// Why its default arguments need the primary.
    pub(super) default_why: Option<Why>,
    pub(super) first_argument: u32,
    pub(super) arguments: u16,
    pub(super) defaults: u16,
    pub(super) is_variadic: bool,
    /// Whether it may change the catalogs: None, Suspected or Opaque.
    pub(super) changes: Change,
    pub(super) leaves: Left,
    pub(super) results: SmallVec<[Oid; 1]>,
    /// It answers with a value of a type that it is given, or of one made of that.
    pub(super) makes_alike: bool,
}

/// What is left in a session; None: nothing, as of most functions.
pub(super) type Left = Option<Box<Leftovers>>;

#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) schema: Oid,
    pub(super) left: Oid,
    pub(super) right: Oid,
    pub(super) result: Oid,
    pub(super) why: Option<Why>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) source: Oid,
    pub(super) target: Oid,
    pub(super) is_implicit: bool,
}

/// A type that is not PostgreSQL's own.
#[derive(Clone, Debug, Default)]
pub(super) struct Type {
    /// Why making a value of it needs the primary.
    pub(super) made: Option<Why>,
    /// Why comparing its values does.
    pub(super) compared: Option<Why>,
    /// What it is a domain over.
    pub(super) base: Option<Oid>,
    /// What its values are made of, and what a row of it is taken for: one of a table that its own inherits from, or a value of the
    /// type that its table is OF.
    pub(super) parts: SmallVec<[Oid; 2]>,
}

impl Picture {
    /// An empty one.
    pub(super) fn new(id: u32, changes: u64, seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self {
            id,
            changes: changes.into(),
            path_numbers: Mutex::default(),
            schemas: HashMap::new(),
            closed_schemas: HashMap::new(),
            exempt_roles: HashSet::new(),
            superusers: HashSet::new(),
            other_roles: Vec::new(),
            role_paths: Vec::new(),
            database_path: None,
            server_path: None,
            relation_names: HashMap::with_hasher(hasher.clone()),
            special_names: HashMap::with_hasher(hasher.clone()),
            relations: Vec::new(),
            function_names: HashMap::with_hasher(hasher.clone()),
            functions: Vec::new(),
            event_leaves: None,
            arguments: Vec::new(),
            builtin_signatures: HashMap::new(),
            unjudged_builtins: HashSet::new(),
            primary_builtins: Vec::new(),
            operators: HashMap::new(),
            casts: Vec::new(),
            type_names: HashMap::with_hasher(hasher.clone()),
            types: HashMap::new(),
            hasher,
        }
    }

    /// Its number, never 0.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The changes that it shows; see [`super::Current`].
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The catalogs were found unchanged after these changes.
    pub fn confirm(&self, changes: u64) {
        self.changes.fetch_max(changes, Ordering::AcqRel);
    }

    /// Relations, functions and types in it.
    pub fn objects(&self) -> usize {
        self.relation_names.len() + self.functions.len() + self.types.len()
    }

    /// What it takes in memory, about; bytes.
    pub fn bytes(&self) -> usize {
        /// An entry of a hash table with its share of empty places.
        const ENTRY: usize = 24;
        (self.relation_names.len() + self.special_names.len() + self.function_names.len() + self.type_names.len())
            * ENTRY
            + self.relations.len() * size_of::<Relation>()
            + self.functions.len() * size_of::<Function>()
            + self.arguments.len() * size_of::<Oid>()
            + self.types.len() * (size_of::<Type>() + ENTRY)
    }

    /// The type, and what it is a domain over, to the last.
    pub(super) fn with_bases(&self, oid: Oid) -> impl Iterator<Item = Oid> {
        /// Nobody has domains over domains so deep, but catalogs that a superuser writes to may hold a circle.
        const DEEPEST: usize = 100;
        std::iter::successors(Some(oid), |oid| self.types.get(oid)?.base).take(DEEPEST)
    }

    /// The arguments of this function.
    pub(super) fn arguments_of(&self, function: &Function) -> &[Oid] {
        let first = usize::try_from(function.first_argument).unwrap_or(usize::MAX);
        self.arguments.get(first..).and_then(|rest| rest.get(..usize::from(function.arguments))).unwrap_or_default()
    }

    pub(super) fn key(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Something is to be said about this relation.
    pub(super) fn add(&mut self, schema: Oid, name: &str, relation: Relation) {
        let place = u32::try_from(self.relations.len()).unwrap_or(PLAIN - 1);
        self.relations.push(relation);
        self.relation_names.insert(self.key_in(schema, name), place);
        self.special_names.entry(self.key(name)).or_default().push(place);
    }

    pub(super) fn key_in(&self, schema: Oid, name: &str) -> u64 {
        self.hasher.hash_one((schema, name))
    }
}

/// anyarray, anyelement, anynonarray, anyenum, anyrange, anymultirange, and those of anycompatible: what answers with one of them
/// answers with the type of an argument, or one made of it.
const POLYMORPHIC: [Oid; 11] = [2277, 2283, 2776, 3500, 3831, 4537, 4538, 5077, 5078, 5079, 5080];

/// It stands for a type that is known where it is called.
pub(super) fn is_polymorphic(oid: Oid) -> bool {
    POLYMORPHIC.contains(&oid)
}

/// It is not PostgreSQL's own.
pub(super) fn is_own(oid: Oid) -> bool {
    oid >= FIRST_OWN
}

/// A name as a reason shows it.
pub(super) fn shown(name: &crate::sql::Name) -> Arc<str> {
    match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name).into(),
        None => Arc::clone(&name.name),
    }
}
