//! What a statement means in a database: each name is looked up as the session would, and the worst of what may be meant
//! counts.

use std::sync::Arc;

use smallvec::SmallVec;

use super::path::{PG_CATALOG, Path};
use super::picture::{Function, Operator, PLAIN, Picture, Relation, is_own, is_polymorphic, shown};
use super::{Change, FIRST_OWN, Oid, mean_builtin};
use crate::sql::functions::class_of;
use crate::sql::{
    Argument, Call, Doubt, Draws, Kind, Leftovers, Name, NeedsPrimary, Part, Statement, Target, by_functions,
    is_replicated, may_draw,
};

/// Why something that the catalogs know needs the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// A function writes, or may.
    Function = 1,
    /// There is no such function.
    UnknownFunction,
    /// There is no such relation.
    UnknownRelation,
    /// A sequence, or something else whose rows differ between nodes.
    Relation,
    /// It is not in the write-ahead log.
    Unlogged,
    /// A foreign table.
    Foreign,
    /// A view calls or reads what needs the primary.
    View,
    /// A policy of row-level security does.
    Policy,
    /// An operator does, or a comparison.
    Operator,
    /// A cast does.
    Cast,
    /// A type's check does.
    Domain,
    /// A replica has refused it, because something in it writes.
    Writes,
}

impl Why {
    const ALL: [Self; 12] = [
        Self::Function,
        Self::UnknownFunction,
        Self::UnknownRelation,
        Self::Relation,
        Self::Unlogged,
        Self::Foreign,
        Self::View,
        Self::Policy,
        Self::Operator,
        Self::Cast,
        Self::Domain,
        Self::Writes,
    ];
}

/// What needs the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Why.
    pub why: Why,
    /// Its name.
    pub name: Arc<str>,
}

/// What a statement means in a database, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why it needs the primary; None: it does not.
    pub why: Option<Why>,
    /// Whether it may change the catalogs: None, Suspected or Opaque.
    pub changes: Change,
    /// Code that it runs may leave something in its session; see [`Picture::leftovers`].
    pub leaves: bool,
    /// It may draw from a sequence.
    pub draws: Draws,
    /// It runs code that its text does not show: of a view, a policy, an operator, a cast or a type's check.
    pub hides_code: bool,
}

impl Verdict {
    const CHANGES: u16 = 1;
    const LEAVES: u16 = 2;
    const MAYBE_DRAWS: u16 = 4;
    const SURELY_DRAWS: u16 = 8;
    const HIDES_CODE: u16 = 16;
    const MAYBE_CHANGES: u16 = 32;
    /// The reason stands above the bits.
    const WHY: u32 = 6;

    /// As a number, to be noted beside the statement.
    pub fn to_note(self) -> u16 {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        self.why.map_or(0, |why| why as u16) << Self::WHY
            | bit(self.changes > Change::Suspected, Self::CHANGES)
            | bit(self.changes == Change::Suspected, Self::MAYBE_CHANGES)
            | bit(self.leaves, Self::LEAVES)
            | bit(self.draws == Draws::Maybe, Self::MAYBE_DRAWS)
            | bit(self.draws == Draws::Surely, Self::SURELY_DRAWS)
            | bit(self.hides_code, Self::HIDES_CODE)
    }

    /// From such a number.
    pub fn of_note(note: u16) -> Self {
        let why = match note >> Self::WHY {
            0 => None,
            number => Why::ALL.into_iter().find(|why| *why as u16 == number),
        };
        let has = |bit| note & bit != 0;
        let draws = match (has(Self::SURELY_DRAWS), has(Self::MAYBE_DRAWS)) {
            (true, _) => Draws::Surely,
            (_, true) => Draws::Maybe,
            _ => Draws::No,
        };
        let changes = match (has(Self::CHANGES), has(Self::MAYBE_CHANGES)) {
            (true, _) => Change::Opaque,
            (_, true) => Change::Suspected,
            _ => Change::None,
        };
        Self { why, changes, leaves: has(Self::LEAVES), draws, hides_code: has(Self::HIDES_CODE) }
    }
}

impl Picture {
    /// Why the statement needs the primary, as far as the catalogs tell; all that its text tells is left out.
    pub fn find(&self, statement: &Statement, path: &Path) -> Option<Found> {
        statement.parts.iter().find_map(|part| Look::new(self, path).of(statement).part(part).err())
    }

    /// The same of a function's body, in which there are values of the types of its arguments.
    pub fn find_in_body(&self, body: &Statement, arguments: &[Oid]) -> Option<Found> {
        let path = Path::any();
        body.parts.iter().find_map(|part| {
            let mut look = Look::new(self, &path).of(body);
            arguments.iter().filter(|oid| is_own(**oid)).for_each(|&oid| look.may_be_made(oid));
            look.part(part).err()
        })
    }

    /// Whether the statement may change the catalogs: None, Suspected or Opaque.
    pub fn changes_of(&self, statement: &Statement, path: &Path) -> Change {
        statement.parts.iter().map(|part| self.changes_of_part(part, path)).max().unwrap_or_default()
    }

    /// What the statement means here.
    pub fn judge(&self, statement: &Statement, path: &Path) -> Verdict {
        Verdict {
            why: self.find(statement, path).map(|found| found.why),
            changes: self.changes_of(statement, path),
            leaves: !self.leftovers(statement, path).is_none(),
            draws: self.draws(statement, path),
            hides_code: self.hides_code(statement, path),
        }
    }

    /// The statement runs code that may do anything, beside the functions that it calls by their names: what these leave
    /// is told by [`Self::leftovers`].
    pub fn hides_code(&self, statement: &Statement, path: &Path) -> bool {
        let runs_code = |part: &Part| {
            let look = Look { only_code: true, ..Look::new(self, path) }.of(statement).part(part);
            look.is_err()
        };
        statement.parts.iter().any(runs_code)
    }

    /// Whether the statement draws from a sequence.
    fn draws(&self, statement: &Statement, path: &Path) -> Draws {
        if statement.is_plain_read() {
            return Draws::No;
        }
        statement.parts.iter().map(|part| self.part_draws(part, path)).max().unwrap_or_default()
    }

    fn part_draws(&self, part: &Part, path: &Path) -> Draws {
        if !may_draw(part) {
            return Draws::No;
        }
        let mut draws = by_functions(part);
        if let Some(target) = &part.inserts {
            draws = draws.max(self.inserted_draws(target, path));
        }
        let may_draw = |relation: &Relation| relation.may_draw || part.inserts.is_some() && !relation.draws.is_empty();
        if part.writes && part.tables.iter().any(|table| self.relations_named(table, path).any(may_draw)) {
            draws = draws.max(Draws::Maybe);
        }
        draws.max(match &part.needs_primary {
            Some(NeedsPrimary::Writes)
                if matches!(part.kind, Kind::Select | Kind::Insert | Kind::Update | Kind::Delete) =>
            {
                Draws::No
            }
            Some(
                NeedsPrimary::LocksRows
                | NeedsPrimary::LocksTable
                | NeedsPrimary::Function(_)
                | NeedsPrimary::Relation(_)
                | NeedsPrimary::Notifications
                | NeedsPrimary::HoldCursor
                | NeedsPrimary::NodeSetting(_),
            ) => Draws::No,
            _ => Draws::Maybe,
        })
    }

    /// A row that is put there draws from a sequence. Columns that are named get what the statement says.
    fn inserted_draws(&self, target: &Target, path: &Path) -> Draws {
        let relation = match *self.places_of(&target.table, path) {
            [Some(PLAIN) | None] => return Draws::No,
            [Some(place)] => self.relations.get(usize_of(place)),
            _ => None,
        };
        let Some(relation) = relation else { return Draws::Maybe };
        let is_left_out = |column: &str| !target.columns.iter().any(|name| **name == *column);
        match relation.draws.iter().any(|column| is_left_out(column)) {
            true => Draws::Surely,
            false if relation.draws.is_empty() && !relation.may_draw => Draws::No,
            false => Draws::Maybe,
        }
    }

    /// What functions and triggers that the statement runs leave in its session, those of events included.
    pub fn leftovers(&self, statement: &Statement, path: &Path) -> Leftovers {
        let mut left = Leftovers::default();
        for part in &statement.parts {
            for call in part.calls.iter().filter(|call| class_of(&call.name).is_none()) {
                let mut candidates = self.candidates(call, path).peekable();
                if candidates.peek().is_none() && self.types_named(&call.name, path).next().is_none() {
                    // Also of PostgreSQL's own, which may take a lock that the session holds.
                    left.doubt(Doubt::Opaque);
                }
                candidates.filter_map(|function| function.leaves.as_deref()).for_each(|other| {
                    left.join(other);
                });
            }
            if part.kind == Kind::Do {
                // Its words: any function of such a name may be meant.
                let named = part.functions.iter().filter_map(|name| self.function_names.get(&self.key(&name.name)));
                let functions = named.flatten().filter_map(|&place| self.functions.get(usize_of(place)));
                functions.filter_map(|function| function.leaves.as_deref()).for_each(|other| {
                    left.join(other);
                });
            }
            if part.writes {
                let written = part.tables.iter().flat_map(|table| self.relations_named(table, path));
                written.filter_map(|relation| relation.write_leaves.as_deref()).for_each(|other| {
                    left.join(other);
                });
            }
            // Also where what it makes is temporary.
            if let Some(other) = self.event_leaves.as_deref()
                // REINDEX has them run since PostgreSQL 17.
                && (part.kind == Kind::Maintenance
                    || part.changes_catalog
                    || self.changes_of_part(part, path) != Change::None)
            {
                left.join(other);
            }
        }
        left
    }

    /// The types and all that their values are made of, as far as they are not PostgreSQL's own.
    pub(super) fn reached_from(&self, types: &[Oid]) -> SmallVec<[Oid; 8]> {
        let mut reached = SmallVec::new();
        types.iter().for_each(|&oid| reach(self, oid, &mut reached));
        reached
    }

    fn changes_of_part(&self, part: &Part, path: &Path) -> Change {
        // What is temporary is of one session, which keeps its server connection.
        if part.changes_catalog && part.kind != Kind::Call && part.needs_primary != Some(NeedsPrimary::Temporary) {
            return Change::Opaque;
        }
        if part.needs_primary == Some(NeedsPrimary::TooLarge) {
            // It may run anything that there is; what it is itself, its tags tell.
            let by_triggers = self.relations.iter().map(|relation| relation.write_changes);
            return by_triggers.chain(self.functions.iter().map(|function| function.changes)).max().unwrap_or_default();
        }
        let calls = part.calls.iter().map(|call| self.changes_of_call(call, path)).max().unwrap_or_default();
        let written = part.tables.iter().filter(|_| part.writes).flat_map(|table| self.relations_named(table, path));
        written.map(|relation| relation.write_changes).fold(calls, Change::max)
    }

    fn changes_of_call(&self, call: &Call, path: &Path) -> Change {
        let mut candidates = self.candidates(call, path).peekable();
        let is_unknown = candidates.peek().is_none() && class_of(&call.name).is_none();
        if is_unknown && self.types_named(&call.name, path).next().is_none() {
            return if self.is_unjudged_builtin(&call.name) { Change::Suspected } else { Change::Opaque };
        }
        candidates.map(|function| function.changes).max().unwrap_or_default()
    }

    /// It is PostgreSQL's own, and nothing else is known of it. Hardly any of these changes the catalogs.
    fn is_unjudged_builtin(&self, name: &Name) -> bool {
        let may_be_own = matches!(name.schema.as_deref(), None | Some("pg_catalog"));
        may_be_own && self.unjudged_builtins.contains(&*name.name)
    }

    /// Every relation of this name, in whatever schema, of those about which there is something to say.
    pub(super) fn any_relations(&self, name: &Name) -> impl Iterator<Item = &Relation> {
        let places = self.special_names.get(&self.key(&name.name)).into_iter().flatten();
        places.filter_map(|&place| self.relations.get(usize_of(place)))
    }

    /// The relations that the name may mean, of those about which there is something to say.
    fn relations_named<'a>(&'a self, name: &'a Name, path: &'a Path) -> impl Iterator<Item = &'a Relation> {
        let exact = self.places_of(name, path).into_iter().flatten();
        let any = match (&name.schema, &path.schemas) {
            (None, None) => self.special_names.get(&self.key(&name.name)),
            _ => None,
        };
        exact.chain(any.into_iter().flatten().copied()).filter_map(|place| self.relations.get(usize_of(place)))
    }

    /// Where the relation of this name is, one of them; none: there is none, or the path is not known. None among them:
    /// PostgreSQL's own.
    fn places_of(&self, name: &Name, path: &Path) -> SmallVec<[Option<u32>; 2]> {
        let at = |schema: Oid| self.relation_names.get(&self.key_in(schema, &name.name)).copied();
        match (&name.schema, &path.schemas) {
            (Some(schema), _) => {
                let found = self.schemas.get(&**schema).and_then(|&schema| at(schema));
                let is_system = matches!(&**schema, "pg_catalog" | "information_schema" | "pg_toast");
                found.map(Some).or(is_system.then_some(None)).into_iter().collect()
            }
            (None, schemas) => {
                let mut places = SmallVec::new();
                for &schema in schemas.iter().flatten() {
                    // What differs between nodes is in the picture.
                    let is_system = schema == PG_CATALOG && is_replicated(&name.name);
                    let found = at(schema).map(Some).or(is_system.then_some(None));
                    places.extend(found);
                    if found.is_some() && path.surely_looks_in(schema) {
                        break;
                    }
                }
                places
            }
        }
    }

    /// The functions that a call may mean by its name and number of arguments, those out of sight excepted.
    fn candidates<'a>(&'a self, call: &'a Call, path: &'a Path) -> impl Iterator<Item = &'a Function> {
        let named = self.function_names.get(&self.key(&call.name.name)).into_iter().flatten();
        let all: SmallVec<[(usize, &Function); 4]> = named
            .filter_map(|&place| self.functions.get(usize_of(place)))
            .filter_map(|function| Some((self.rank(function.schema, &call.name, path)?, function)))
            .filter(|(_, function)| self.takes(function, call))
            .collect();
        let visible: SmallVec<[&Function; 4]> = all
            .iter()
            .filter(|(rank, function)| {
                let arguments = self.arguments_of(function);
                let hides = |(other, first): &(usize, &Function)| {
                    other < rank && self.arguments_of(first) == arguments && path.surely_looks_in(first.schema)
                };
                !(call.name.schema.is_none() && path.schemas.is_some())
                    || !all.iter().any(hides) && !self.is_hidden_by_builtin(*rank, arguments, call, path)
            })
            .map(|(_, function)| *function)
            .collect();
        visible.into_iter()
    }

    /// How early in the path a schema comes; None: the name cannot mean it.
    fn rank(&self, schema: Oid, name: &Name, path: &Path) -> Option<usize> {
        match (&name.schema, &path.schemas) {
            (Some(wanted), _) => (self.schemas.get(&**wanted) == Some(&schema)).then_some(0),
            (None, Some(schemas)) => schemas.iter().position(|&known| known == schema),
            (None, None) => Some(0),
        }
    }

    /// PostgreSQL's own function with these arguments comes first in the path.
    fn is_hidden_by_builtin(&self, rank: usize, arguments: &[Oid], call: &Call, path: &Path) -> bool {
        let builtin_rank = path.schemas.iter().flatten().position(|&schema| schema == PG_CATALOG);
        let signatures = self.builtin_signatures.get(&*call.name.name);
        builtin_rank.is_some_and(|builtin| builtin < rank)
            && signatures.is_some_and(|all| all.iter().any(|signature| **signature == *arguments))
    }

    /// The function can take as many arguments, and of such types.
    fn takes(&self, function: &Function, call: &Call) -> bool {
        let Some(given) = &call.arguments else { return true };
        let most = usize::from(function.arguments);
        let least =
            most.saturating_sub(usize::from(function.defaults)).saturating_sub(usize::from(function.is_variadic));
        if given.len() < least || (given.len() > most && !function.is_variadic) {
            return false;
        }
        let wanted = self.arguments_of(function);
        if function.is_variadic || given.len() != wanted.len() {
            return true;
        }
        let beaten = matches!((&**given, wanted), ([Argument::Literal], [OTHER_TEXT_FIRST..=OTHER_TEXT_LAST]))
            && self.takes_text(call);
        !beaten && given.iter().zip(wanted).all(|(given, wanted)| can_become(given, *wanted))
    }

    /// PostgreSQL's own function of this name takes a text: a lone literal becomes one, before any other kind of string.
    fn takes_text(&self, call: &Call) -> bool {
        let signatures = self.builtin_signatures.get(&*call.name.name);
        call.name.schema.is_none() && signatures.is_some_and(|all| all.iter().any(|signature| **signature == [TEXT]))
    }

    fn types_named<'a>(&'a self, name: &'a Name, path: &'a Path) -> impl Iterator<Item = Oid> + use<'a> {
        let named = self.type_names.get(&self.key(&name.name)).into_iter().flatten();
        named.filter(|(schema, _)| self.rank(*schema, name, path).is_some()).map(|(_, oid)| *oid)
    }

    /// The operators that the symbol may mean, those out of sight excepted.
    fn operators_named<'a>(&'a self, name: &'a Name, path: &'a Path) -> impl Iterator<Item = &'a Operator> {
        let all = self.operators.get(&*name.name).map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(move |operator| {
            let Some(rank) = self.rank(operator.schema, name, path) else { return false };
            let knows_order = name.schema.is_none() && path.schemas.is_some();
            let hides = |other: &Operator| {
                (other.left, other.right) == (operator.left, operator.right)
                    && self.rank(other.schema, name, path).is_some_and(|other| other < rank)
                    && path.surely_looks_in(other.schema)
            };
            !knows_order || !all.iter().any(hides)
        })
    }
}

/// PostgreSQL's types of strings.
const TEXT: Oid = 25;
/// bpchar and varchar, which have neighbouring numbers.
const OTHER_TEXT_FIRST: Oid = 1042;
const OTHER_TEXT_LAST: Oid = 1043;
const NAME: Oid = 19;
/// record, any, anyelement, anynonarray, anycompatible and anycompatiblenonarray: any table's row will do.
const TAKE_ROWS: [Oid; 6] = [2249, 2276, 2283, 2776, 5077, 5079];

/// The type of a row of one of PostgreSQL's own relations, which have numbers of their own or those that initdb gives out.
fn is_system_row(oid: Oid) -> bool {
    matches!(oid, 71 | 75 | 81 | 83 | 1248 | 2842 | 2843 | 4066 | 6101 | 10_000..FIRST_OWN)
}

/// An argument can be taken for this type without being cast. When in doubt, it can.
fn can_become(given: &Argument, wanted: Oid) -> bool {
    let is_string = matches!(wanted, TEXT | OTHER_TEXT_FIRST..=OTHER_TEXT_LAST | NAME);
    match given {
        Argument::Integer | Argument::Number => !is_string,
        Argument::Cast(name) if name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog") => match &*name.name
        {
            "int4" | "int2" | "int8" | "float4" | "float8" | "numeric" | "bool" | "date" | "timestamptz"
            | "timestamp" => !is_string,
            _ => true,
        },
        Argument::Cast(_) | Argument::Literal | Argument::Unknown => true,
    }
}

fn usize_of(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// One look at a part: what its values may be grows as its names are looked up.
struct Look<'a> {
    picture: &'a Picture,
    path: &'a Path,
    /// Types of values that may occur.
    sources: SmallVec<[Oid; 8]>,
    /// Types that values may be made into.
    targets: SmallVec<[Oid; 8]>,
    /// Relations that need the primary and run nothing are passed over, and those that are not known: mostly, they are
    /// temporary. So are functions that are called by their names.
    only_code: bool,
    /// Values may be cast by their text, or by what a Parse declares.
    names_types: bool,
    /// An operator or a function may be meant that makes a value of the type of one that it is given, as `record #= hstore` does.
    makes_alike: bool,
}

impl<'a> Look<'a> {
    fn new(picture: &'a Picture, path: &'a Path) -> Self {
        let (sources, targets) = (SmallVec::new(), SmallVec::new());
        Self { picture, path, sources, targets, only_code: false, names_types: false, makes_alike: false }
    }

    /// A part of this statement is looked at: parameters are made of the types that are declared.
    fn of(mut self, statement: &Statement) -> Self {
        statement.declared.iter().for_each(|&oid| self.may_be_made(oid));
        self.names_types |= !statement.declared.is_empty();
        self
    }

    fn part(&mut self, part: &Part) -> Result<(), Found> {
        part.tables.iter().try_for_each(|table| self.table(table, part.only.contains(table)))?;
        part.types.iter().for_each(|name| self.named_type(name));
        part.calls.iter().try_for_each(|call| self.call(call))?;
        // An operator or attribute may answer with a type that lets another one be meant.
        loop {
            let before = (self.sources.len(), self.targets.len());
            part.operators.iter().try_for_each(|name| self.operator(name))?;
            part.attributes.iter().try_for_each(|name| self.attribute(name, part.applies))?;
            if before == (self.sources.len(), self.targets.len()) {
                break;
            }
        }
        if self.makes_alike || part.calls.iter().any(|call| call.name.name.contains("populate_record")) {
            // It makes a row like the one that it is given.
            self.targets.extend_from_slice(&self.sources);
        }
        self.made()?;
        self.cast(self.names_types || !part.types.is_empty())?;
        if part.sorts || !part.operators.is_empty() || !part.calls.is_empty() { self.compared() } else { Ok(()) }
    }

    fn table(&mut self, name: &Name, is_only: bool) -> Result<(), Found> {
        let found = |why| Found { why, name: shown(name) };
        let is_known = self.path.schemas.is_some() || name.schema.is_some();
        if is_known && !self.only_code && self.picture.places_of(name, self.path).is_empty() {
            return Err(found(Why::UnknownRelation));
        }
        let (picture, path) = (self.picture, self.path);
        for relation in picture.relations_named(name, path) {
            let why = if is_only { relation.why } else { relation.whole() };
            if let Some(why) = why.filter(|_| !self.only_code || relation.runs_code) {
                return Err(found(why));
            }
            let binds = |owner: &Option<Box<str>>| owner.as_deref() != Some(&*path.role) || path.role.is_empty();
            if !path.is_exempt && relation.policies.iter().any(|policy| binds(&policy.owner)) {
                return Err(found(Why::Policy));
            }
            relation.types.iter().for_each(|&oid| self.may_occur(oid));
        }
        Ok(())
    }

    fn named_type(&mut self, name: &Name) {
        let (picture, path) = (self.picture, self.path);
        for oid in picture.types_named(name, path) {
            self.may_be_made(oid);
        }
        // A table's name is that of its rows' type, too.
        for relation in picture.relations_named(name, path) {
            relation.types.iter().for_each(|&oid| self.may_be_made(oid));
        }
        // An array's type is called like its elements', behind a `_`.
        if let Some(element) = name.name.strip_prefix('_') {
            self.named_type(&Name { schema: name.schema.clone(), name: element.into() });
        }
    }

    fn call(&mut self, call: &Call) -> Result<(), Found> {
        let found = |why| Err(Found { why, name: shown(&call.name) });
        let (picture, path) = (self.picture, self.path);
        let is_builtin = class_of(&call.name).is_some();
        if self.only_code && !is_builtin {
            self.makes_alike |= picture.candidates(call, path).any(|function| function.makes_alike);
            return Ok(());
        }
        if mean_builtin(&picture.primary_builtins, &call.name) {
            return found(Why::Function);
        }
        let mut is_known = is_builtin;
        for function in picture.candidates(call, path) {
            is_known = true;
            let uses_defaults =
                call.arguments.as_ref().is_none_or(|given| given.len() < usize::from(function.arguments));
            if let Some(why) = function.why.or(function.default_why.filter(|_| uses_defaults)) {
                return found(why);
            }
            self.runs(function);
        }
        if !is_builtin || call.arguments.as_ref().is_none_or(|given| given.len() == 1) {
            // `t(x)` is a cast where t is a type.
            for oid in picture.types_named(&call.name, path) {
                is_known = true;
                self.may_be_made(oid);
            }
        }
        if is_known { Ok(()) } else { found(Why::UnknownFunction) }
    }

    /// It takes values of its arguments' types, and answers.
    fn runs(&mut self, function: &Function) {
        self.picture.arguments_of(function).iter().for_each(|&oid| self.may_be_made(oid));
        function.results.iter().for_each(|&oid| self.may_occur(oid));
        self.makes_alike |= function.makes_alike;
    }

    fn operator(&mut self, name: &Name) -> Result<(), Found> {
        let (picture, path) = (self.picture, self.path);
        let is_builtin =
            picture.operators.get(&*name.name).is_none_or(|all| all.iter().any(|o| o.schema == PG_CATALOG));
        for operator in picture.operators_named(name, path).filter(|operator| operator.schema != PG_CATALOG) {
            let operands = [operator.left, operator.right];
            // Two literals never mean an operator of a user's type while one of PostgreSQL's own has its name.
            let may_be_meant = !is_builtin
                || !operands.iter().any(|&oid| is_own(oid))
                || operands.iter().any(|oid| self.occurs(*oid) || self.targets.contains(oid));
            if !may_be_meant {
                continue;
            }
            if let Some(why) = operator.why {
                return Err(Found { why, name: shown(name) });
            }
            operands.iter().for_each(|&oid| self.may_be_made(oid));
            self.may_occur(operator.result);
            self.makes_alike |= is_polymorphic(operator.result);
        }
        Ok(())
    }

    /// `x.f` is a call of f where f takes what x is; and that may be of any type where it `applies`.
    fn attribute(&mut self, attribute: &Arc<str>, applies: bool) -> Result<(), Found> {
        let (picture, path) = (self.picture, self.path);
        let name = Name { schema: None, name: Arc::clone(attribute) };
        let call = Call { name, arguments: Some(SmallVec::from_elem(Argument::Unknown, 1)) };
        for function in picture.candidates(&call, path) {
            let is_system = |oid: Oid| picture.with_bases(oid).any(is_system_row);
            let may_be = |oid: &Oid| applies || TAKE_ROWS.contains(oid) || is_system(*oid) || self.occurs(*oid);
            if !picture.arguments_of(function).first().is_some_and(may_be) {
                continue;
            }
            if let Some(why) = function.why.or(function.default_why.filter(|_| function.arguments > 1)) {
                return Err(Found { why, name: Arc::clone(attribute) });
            }
            self.runs(function);
        }
        // And a cast where t is a type.
        for oid in picture.types_named(&call.name, path).filter(|_| applies) {
            self.may_be_made(oid);
        }
        Ok(())
    }

    /// There are values that are taken for one of this type: it may be a domain over theirs.
    fn occurs(&self, oid: Oid) -> bool {
        self.picture.with_bases(oid).any(|oid| self.sources.contains(&oid))
    }

    fn may_occur(&mut self, oid: Oid) {
        reach(self.picture, oid, &mut self.sources);
    }

    fn may_be_made(&mut self, oid: Oid) {
        reach(self.picture, oid, &mut self.targets);
        reach(self.picture, oid, &mut self.sources);
    }

    /// Beside an array, a range or a row a literal becomes one as well, and its elements are made.
    fn made(&self) -> Result<(), Found> {
        let made = |oid: &Oid| self.picture.types.get(oid)?.made;
        self.types(&self.targets, |kind| kind.made)?;
        self.types(&self.sources, |kind| kind.parts.iter().find_map(made))
    }

    fn compared(&self) -> Result<(), Found> {
        self.types(&self.sources, |kind| kind.compared)
    }

    fn types(&self, oids: &[Oid], why: impl Fn(&super::picture::Type) -> Option<Why>) -> Result<(), Found> {
        let bad = oids.iter().find_map(|oid| Some((oid, why(self.picture.types.get(oid)?)?)));
        bad.map_or(Ok(()), |(oid, why)| Err(Found { why, name: format!("type {oid}").into() }))
    }

    fn cast(&self, names_types: bool) -> Result<(), Found> {
        let occurs = |oid: Oid| oid < FIRST_OWN || self.sources.contains(&oid);
        let meant = |cast: &&super::picture::Cast| {
            let is_of_builtins = !is_own(cast.source) && !is_own(cast.target);
            occurs(cast.source) && occurs(cast.target) && (!is_of_builtins || cast.is_implicit || names_types)
        };
        match self.picture.casts.iter().find(meant) {
            Some(cast) => {
                let name = format!("from type {} to type {}", cast.source, cast.target).into();
                Err(Found { why: Why::Cast, name })
            }
            None => Ok(()),
        }
    }
}

/// Adds a type and all that its values are made of.
fn reach(picture: &Picture, oid: Oid, reached: &mut SmallVec<[Oid; 8]>) {
    if !is_own(oid) || reached.contains(&oid) {
        return;
    }
    reached.push(oid);
    if let Some(kind) = picture.types.get(&oid) {
        kind.parts.iter().for_each(|&part| reach(picture, part, reached));
    }
}

/// Nothing but that it is there is known of a plain relation.
const _: () = assert!(PLAIN == u32::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{FunctionLists, Inventory};
    use crate::sql::{ParseSettings, classify};

    #[test]
    fn a_verdict_survives_being_noted() {
        for why in Why::ALL.into_iter().map(Some).chain([None]) {
            let changes = [Change::None, Change::Suspected, Change::Opaque];
            for (changes, leaves) in changes.into_iter().flat_map(|changes| [(changes, false), (changes, true)]) {
                for draws in [Draws::No, Draws::Maybe, Draws::Surely] {
                    for hides_code in [false, true] {
                        let verdict = Verdict { why, changes, leaves, draws, hides_code };
                        assert_eq!(Verdict::of_note(verdict.to_note()), verdict);
                    }
                }
            }
        }
    }

    #[test]
    fn what_a_newer_postgresql_has_of_its_own_is_only_suspected_of_a_change() {
        let builtins: [(Oid, Box<str>); 2] = [(9_000, "brand_new".into()), (9_001, "upper".into())];
        let inventory = Inventory { builtins: builtins.into_iter().collect(), ..Inventory::default() };
        let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
        let judge = |sql: &str| picture.judge(&classify(sql, &ParseSettings::default()), &Path::any());
        for sql in ["select brand_new(1)", "select * from pg_catalog.brand_new() x"] {
            let verdict = judge(sql);
            assert_eq!((verdict.why, verdict.changes), (Some(Why::UnknownFunction), Change::Suspected), "{sql}");
            assert!(verdict.leaves, "{sql}");
        }
        for sql in ["select made.brand_new()", "select brand_new(), never_heard_of()", "select \"Brand_new\"()"] {
            assert_eq!(judge(sql).changes, Change::Opaque, "{sql}");
        }
        assert_eq!(judge("select upper('a')").changes, Change::None);
    }
}
