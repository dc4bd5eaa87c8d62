//! From rows to a picture: who calls what is followed until nothing new is found to need the primary.

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::inventory::ends_what_it_keeps;
use super::path::PG_CATALOG;
use super::picture::{Cast, Function, Left, Operator, PLAIN, Picture, Policy, Relation, Type, is_own, is_polymorphic};
use super::{
    Body, Change, FunctionLists, FunctionPattern, FunctionRow, Inventory, Language, Mentions, Oid, RelationKind,
    RelationRow, Volatility, Why, mean_builtin,
};
use crate::sql::functions::{Class, class_of, judged};
use crate::sql::{
    Doubt, Kind, Leftovers, Name, NeedsPrimary, Statement, answers_alike, differs_between_nodes, setting_name,
};

impl Picture {
    /// The picture that these rows make. `id` is not 0 and unique while the process runs; `changes` says which changes
    /// the rows show; `seed` is a number that whoever names objects cannot know.
    pub fn draw(inventory: Inventory, lists: &FunctionLists, id: u32, changes: u64, seed: u64) -> Self {
        let mut drawing = Drawing::new(Self::new(id, changes, seed), inventory, lists);
        drawing.frame();
        drawing.types();
        drawing.relations();
        drawing.functions();
        drawing.operators();
        while drawing.follow() {}
        drawing.event_triggers();
        drawing.picture
    }
}

/// A picture being drawn.
struct Drawing<'a> {
    picture: Picture,
    rows: Inventory,
    lists: &'a FunctionLists,
    /// Where each function, relation is in the picture.
    function_places: HashMap<Oid, usize>,
    relation_places: HashMap<Oid, usize>,
    operator_functions: HashMap<Oid, (Oid, Oid)>,
    /// What sorting by an operator or looking it up in an index calls.
    support_functions: HashMap<Oid, Vec<Oid>>,
    owners: HashMap<Oid, (Box<str>, bool)>,
    schema_names: HashMap<Oid, Box<str>>,
    /// Where the rows are of relations that something can be said of.
    special_rows: HashMap<Oid, usize>,
    /// PostgreSQL's own relations whose rows differ between nodes.
    of_node: HashSet<Oid>,
    children: HashMap<Oid, Vec<Oid>>,
}

/// What a tree or body was found to need.
type Need = Option<Why>;

impl<'a> Drawing<'a> {
    fn new(picture: Picture, mut rows: Inventory, lists: &'a FunctionLists) -> Self {
        let mut children: HashMap<Oid, Vec<Oid>> = HashMap::new();
        for (parent, child) in std::mem::take(&mut rows.children) {
            children.entry(parent).or_default().push(child);
        }
        let mut aggregates: HashMap<Oid, Mentions> = HashMap::new();
        for (aggregate, function) in std::mem::take(&mut rows.aggregates) {
            let steps = aggregates.entry(aggregate).or_default();
            steps.functions.push(function);
            steps.computed.push(function);
        }
        for row in rows.functions.iter_mut().filter(|row| row.is_aggregate) {
            row.body = Body::Tree(aggregates.remove(&row.oid).unwrap_or_default());
        }
        let mut support_functions: HashMap<Oid, Vec<Oid>> = HashMap::new();
        for (operator, function) in std::mem::take(&mut rows.operator_supports) {
            support_functions.entry(operator).or_default().push(function);
        }
        rows.system_relations.retain(|(_, name)| differs_between_nodes(name));
        let of_node = rows.system_relations.iter().map(|(oid, _)| *oid).collect();
        let schema_names = rows.schemas.iter().map(|(oid, name)| (*oid, name.clone())).collect();
        let owners = rows.roles.iter().map(|role| (role.oid, (role.name.clone(), role.is_exempt))).collect();
        Self {
            picture,
            rows,
            lists,
            function_places: HashMap::new(),
            relation_places: HashMap::new(),
            operator_functions: HashMap::new(),
            support_functions,
            owners,
            schema_names,
            special_rows: HashMap::new(),
            of_node,
            children,
        }
    }

    /// What they leave, once it is known what all functions do.
    fn event_triggers(&mut self) {
        let run = self.rows.event_triggers.iter().filter_map(|oid| self.function(*oid));
        let mut left = Leftovers::default();
        run.filter_map(|function| function.leaves.as_deref()).for_each(|other| {
            left.join(other);
        });
        self.picture.event_leaves = (!left.is_none()).then(|| Box::new(left));
    }

    fn frame(&mut self) {
        let (picture, rows) = (&mut self.picture, &mut self.rows);
        picture.schemas = std::mem::take(&mut rows.schemas).into_iter().map(|(oid, name)| (name, oid)).collect();
        picture.closed_schemas = std::mem::take(&mut rows.closed_schemas).into_iter().collect();
        picture.exempt_roles = rows.roles.iter().filter(|role| role.is_exempt).map(|role| role.name.clone()).collect();
        picture.superusers = rows.roles.iter().filter(|role| role.is_superuser).map(|role| role.name.clone()).collect();
        picture.other_roles = std::mem::take(&mut rows.other_roles);
        picture.role_paths = std::mem::take(&mut rows.role_paths);
        picture.database_path = rows.database_path.take();
        picture.server_path = rows.server_path.take();
        picture.primary_builtins.clone_from(&self.lists.primary);
        picture.unjudged_builtins = rows.builtins.values().filter(|name| !judged(name)).cloned().collect();
        for (name, arguments) in std::mem::take(&mut rows.builtin_signatures) {
            picture.builtin_signatures.entry(name).or_default().push(arguments);
        }
    }

    fn relations(&mut self) {
        let special = self.special();
        let mut types: HashMap<Oid, SmallVec<[Oid; 2]>> = HashMap::new();
        for (relation, oid) in std::mem::take(&mut self.rows.column_types) {
            types.entry(relation).or_default().push(oid);
        }
        let taken = self.types_taken();
        let inherited = self.inherited(&taken);
        for (index, row) in self.rows.relations.iter().enumerate() {
            let mut types = types.remove(&row.oid).unwrap_or_default();
            let ancestors = inherited.get(&row.oid).into_iter().flatten();
            let taken_for: SmallVec<[Oid; 2]> = ancestors.chain(taken.get(&row.of_type)).copied().collect();
            if taken.contains(&row.row_type) || !taken_for.is_empty() {
                types.push(row.row_type);
            }
            if !taken_for.is_empty() {
                self.picture.types.entry(row.row_type).or_default().parts.extend(taken_for);
            }
            let why = match row.kind {
                RelationKind::Sequence => Some(Why::Relation),
                RelationKind::Foreign => Some(Why::Foreign),
                RelationKind::Stored if row.is_unlogged => Some(Why::Unlogged),
                RelationKind::Stored | RelationKind::View => None,
            };
            if why.is_none() && types.is_empty() && !special.contains(&row.oid) {
                let key = self.picture.key_in(row.schema, &row.name);
                self.picture.relation_names.insert(key, PLAIN);
                continue;
            }
            self.relation_places.insert(row.oid, self.picture.relations.len());
            self.special_rows.insert(row.oid, index);
            self.picture.add(row.schema, &row.name, Relation { oid: row.oid, why, types, ..Relation::default() });
        }
        for (oid, name) in std::mem::take(&mut self.rows.system_relations) {
            self.picture.add(PG_CATALOG, &name, Relation { oid, why: Some(Why::Relation), ..Relation::default() });
        }
        for (oid, column) in std::mem::take(&mut self.rows.draws) {
            self.relation_mut(oid).into_iter().for_each(|relation| relation.draws.push(column.clone()));
        }
        let triggers = self.rows.triggers.iter().map(|(oid, _)| *oid);
        let views = self.rows.relations.iter().filter(|row| row.kind != RelationKind::Stored).map(|row| row.oid);
        let more: Vec<_> = triggers.chain(self.rows.writes_more.iter().copied()).chain(views).collect();
        for oid in more {
            self.relation_mut(oid).into_iter().for_each(|relation| relation.may_draw = true);
        }
        self.write_through();
    }

    /// What may draw when a table is written to may do so when another one is, with which it is written.
    fn write_through(&mut self) {
        let pairs: Vec<_> = self.written_with().collect();
        let mut is_new = true;
        while std::mem::take(&mut is_new) {
            for (oid, other) in &pairs {
                let draws = self.relation(*other).is_some_and(|relation| relation.may_draw);
                if let Some(relation) = self.relation_mut(*oid).filter(|relation| draws && !relation.may_draw) {
                    relation.may_draw = true;
                    is_new = true;
                }
            }
        }
    }

    fn relation_mut(&mut self, oid: Oid) -> Option<&mut Relation> {
        let place = *self.relation_places.get(&oid)?;
        self.picture.relations.get_mut(place)
    }

    /// Relations about which there is more to say.
    fn special(&self) -> HashSet<Oid> {
        let rows = &self.rows;
        let trees = rows.rules.iter().chain(&rows.policies).chain(&rows.virtual_columns).map(|(oid, _)| *oid);
        let triggers = rows.triggers.iter().map(|(oid, _)| *oid);
        let drawing = rows.draws.iter().map(|(oid, _)| *oid).chain(rows.writes_more.iter().copied());
        let defaults = rows.defaults.iter().chain(&rows.write_rules).map(|(oid, _)| *oid);
        let writing = self.written_with().map(|(oid, _)| oid);
        trees.chain(triggers).chain(drawing).chain(defaults).chain(writing).collect()
    }

    /// Types that somebody takes or makes, and what domains among them are over: a row of a table counts only if it is one of
    /// them, or is taken for one.
    fn types_taken(&self) -> HashSet<Oid> {
        let rows = &self.rows;
        let functions = rows.functions.iter().flat_map(|row| row.arguments.iter().chain(&row.results));
        let operators = rows.operators.iter().flat_map(|row| [&row.left, &row.right]);
        let casts = rows.casts.iter().flat_map(|row| [&row.source, &row.target]);
        let named = functions.chain(operators).chain(casts).copied();
        named.flat_map(|oid| self.picture.with_bases(oid)).filter(|oid| is_own(*oid)).collect()
    }

    /// Of each relation that inherits from others, or is a partition, at any depth: which of their row types are taken.
    fn inherited(&self, taken: &HashSet<Oid>) -> HashMap<Oid, SmallVec<[Oid; 1]>> {
        let mut inherited: HashMap<Oid, SmallVec<[Oid; 1]>> = HashMap::new();
        for ancestor in self.rows.relations.iter().filter(|row| taken.contains(&row.row_type)) {
            let mut waiting = vec![ancestor.oid];
            while let Some(oid) = waiting.pop() {
                for &child in self.children.get(&oid).into_iter().flatten() {
                    let known = inherited.entry(child).or_default();
                    if !known.contains(&ancestor.row_type) {
                        known.push(ancestor.row_type);
                        waiting.push(child);
                    }
                }
            }
        }
        inherited
    }

    fn functions(&mut self) {
        for row in &self.rows.functions {
            let place = self.picture.functions.len();
            let is_safe = self.is_listed(row, &self.lists.safe);
            let function = Function {
                schema: row.schema,
                why: None,
                default_why: None,
                first_argument: u32::try_from(self.picture.arguments.len()).unwrap_or(u32::MAX),
                arguments: u16::try_from(row.arguments.len()).unwrap_or(u16::MAX),
                defaults: u16::try_from(row.defaults).unwrap_or(u16::MAX),
                is_variadic: row.is_variadic,
                changes: match is_safe {
                    true => Change::None,
                    false => changes_by_itself(row),
                },
                leaves: self.leaves(row),
                results: row.results.iter().copied().filter(|oid| is_own(*oid)).collect(),
                makes_alike: !is_safe && row.results.iter().any(|oid| is_polymorphic(*oid)),
            };
            self.picture.arguments.extend_from_slice(&row.arguments);
            self.picture.functions.push(function);
            self.function_places.insert(row.oid, place);
            let key = self.picture.key(&row.name);
            self.picture.function_names.entry(key).or_default().push(u32::try_from(place).unwrap_or(u32::MAX));
        }
    }

    fn types(&mut self) {
        for row in &self.rows.types {
            let made = row.volatile_input.then_some(Why::Domain);
            self.picture.types.insert(row.oid, Type { made, ..Type::default() });
            let key = self.picture.key(&row.name);
            self.picture.type_names.entry(key).or_default().push((row.schema, row.oid));
        }
        for (domain, base) in std::mem::take(&mut self.rows.domain_bases) {
            self.picture.types.entry(domain).or_default().base = Some(base);
            self.rows.type_parts.push((domain, base));
        }
        for (whole, part) in std::mem::take(&mut self.rows.type_parts) {
            if is_own(part) {
                self.picture.types.entry(whole).or_default().parts.push(part);
            }
        }
    }

    fn operators(&mut self) {
        for row in &self.rows.operators {
            let operator =
                Operator { schema: row.schema, left: row.left, right: row.right, result: row.result, why: None };
            self.picture.operators.entry(row.name.clone()).or_default().push(operator);
            self.operator_functions.insert(row.oid, (row.function, row.left));
        }
    }

    /// Looks at everything once more, with what is known by now; answers whether something new was found.
    fn follow(&mut self) -> bool {
        let functions = self.follow_functions();
        let types = self.follow_types();
        let operators = self.follow_operators();
        let relations = self.follow_relations();
        let casts = self.follow_casts();
        functions || types || operators || relations || casts
    }

    fn follow_functions(&mut self) -> bool {
        let mut found = Vec::new();
        for (place, row) in self.rows.functions.iter().enumerate() {
            let Some(known) = self.picture.functions.get(place) else { continue };
            // What it keeps would bind its session to a replica, whoever vouches for it.
            let keeps = known.leaves.as_ref().is_some_and(|left| left.doubt == Doubt::Kept);
            let why = known.why.or_else(|| if keeps { Some(Why::Function) } else { self.of_function(row) });
            let default_why = known.default_why.or_else(|| self.of_tree(row.default_values.as_ref()?, None));
            let changes = known.changes.max(self.changes_by_body(row));
            let leaves = self.left_by_called(row, &known.leaves);
            let is_more = (why, default_why, changes) != (known.why, known.default_why, known.changes);
            if is_more || leaves.is_some() {
                found.push((place, why, default_why, changes, leaves));
            }
        }
        let is_new = !found.is_empty();
        for (place, why, default_why, changes, leaves) in found {
            if let Some(function) = self.picture.functions.get_mut(place) {
                (function.why, function.default_why, function.changes) = (why, default_why, changes);
                function.leaves = leaves.or(function.leaves.take());
            }
        }
        is_new
    }

    fn is_listed(&self, row: &FunctionRow, patterns: &[FunctionPattern]) -> bool {
        let schema = self.schema_name(row.schema);
        patterns.iter().any(|pattern| pattern.matches(schema, &row.name))
    }

    fn of_function(&self, row: &FunctionRow) -> Need {
        let is_listed = |patterns: &[FunctionPattern]| self.is_listed(row, patterns);
        if is_listed(&self.lists.primary) || is_listed(&self.lists.session) {
            return Some(Why::Function);
        }
        if is_listed(&self.lists.safe) || is_harmless(row) {
            return None;
        }
        if row.is_aggregate {
            // Its steps are handed all that they take.
            return tree(row)
                .into_iter()
                .flat_map(|steps| &steps.functions)
                .find_map(|function| self.of_called(*function));
        }
        // The server keeps a function from writing by itself unless it calls itself volatile: then only a body counts that
        // shows all that it does.
        if row.volatility == Volatility::Volatile && !shows_that_it_reads(&row.body) {
            return Some(Why::Function);
        }
        if self.checks_answer(row) {
            return Some(Why::Function);
        }
        match &row.body {
            Body::Hidden | Body::Defines => None,
            Body::Given | Body::Keeps => Some(Why::Function),
            Body::Tree(mentions) => {
                if mentions.writes {
                    Some(Why::Function)
                } else {
                    self.of_tree(mentions, None).or_else(|| self.under_policy(mentions))
                }
            }
            Body::Text { is_dynamic: true, .. } => Some(Why::Function),
            Body::Text { statement, .. } => self.of_text(statement, row),
        }
        .map(|_| Why::Function)
    }

    /// What it answers with is checked as it is made, and the check needs the primary.
    fn checks_answer(&self, row: &FunctionRow) -> bool {
        let is_bad = |oid: &Oid| self.picture.types.get(oid).is_some_and(|kind| kind.made.is_some());
        row.language != Language::Native && self.picture.reached_from(&row.results).iter().any(is_bad)
    }

    fn of_text(&self, statement: &Statement, row: &FunctionRow) -> Need {
        let lifted = |why: &NeedsPrimary| matches!(why, NeedsPrimary::UnknownFunction(_));
        if statement.parts.iter().filter_map(|part| part.needs_primary.as_ref()).any(|why| !lifted(why)) {
            return Some(Why::Function);
        }
        match row.language {
            Language::Sql => {
                let leaves = statement.parts.iter().any(|part| !part.session.is_empty());
                let found = self.picture.find_in_body(statement, &row.arguments);
                found.map(|found| found.why).or(leaves.then_some(Why::Function))
            }
            _ => self.of_words(statement, row),
        }
    }

    /// Words may be anything: only those that are known to be bad count.
    fn of_words(&self, statement: &Statement, row: &FunctionRow) -> Need {
        let mut statement = statement.clone();
        let counts = |name: &Name| self.is_function(name) || mean_builtin(&self.lists.primary, name);
        for part in &mut statement.parts {
            part.calls = part.calls.iter().filter(|call| counts(&call.name)).cloned().collect();
        }
        self.picture.find_in_body(&statement, &row.arguments).map(|found| found.why)
    }

    fn is_function(&self, name: &Name) -> bool {
        self.picture.function_names.contains_key(&self.picture.key(&name.name))
    }

    /// Whether what it calls may change the catalogs.
    fn changes_by_body(&self, row: &FunctionRow) -> Change {
        let called = tree(row).into_iter().flat_map(|tree| &tree.functions).filter_map(|oid| self.function(*oid));
        let changes = called.map(|function| function.changes).max();
        let by_name = match &row.body {
            Body::Text { statement, .. } => {
                let names = statement.parts.iter().flat_map(|part| &part.functions);
                names.flat_map(|name| self.any_named(name)).map(|function| function.changes).max()
            }
            Body::Hidden | Body::Defines | Body::Given | Body::Keeps | Body::Tree(_) => None,
        };
        changes.max(by_name).unwrap_or_default()
    }

    /// What the function itself leaves in its session; what those that it calls leave is followed.
    fn leaves(&self, row: &FunctionRow) -> Left {
        let mut left = Leftovers::default();
        match &row.body {
            Body::Hidden | Body::Defines if may_do_anything(row) => {
                left.doubt(Doubt::Opaque);
            }
            Body::Keeps if !takes_internal(row) => left.doubt(Doubt::Kept),
            Body::Hidden | Body::Defines | Body::Keeps | Body::Tree(_) => {}
            Body::Given => left.doubt(Doubt::Unnamed),
            Body::Text { leftovers, .. } => left = leftovers.clone(),
        }
        if let Some(tree) = tree(row) {
            left.join(&self.left_by_tree(tree));
        }
        if self.is_listed(row, &self.lists.session) {
            left.doubt(Doubt::Kept);
        }
        (!left.is_none()).then(|| Box::new(left))
    }

    /// What PostgreSQL's own functions leave that a tree calls.
    fn left_by_tree(&self, tree: &Mentions) -> Leftovers {
        let mut left = Leftovers::default();
        for oid in &tree.functions {
            let name = self.rows.builtins.get(oid).map(|name| Name { schema: None, name: (**name).into() });
            match name.and_then(|name| class_of(&name)) {
                Some(Class::ChangesSetting) => {
                    let is_named = tree.names_setting(*oid);
                    if !is_named {
                        left.doubt(Doubt::Unnamed);
                    }
                    // Any text in it may be a name that is computed.
                    let named = tree.constants.iter().filter(|(function, _)| function == oid || !is_named);
                    let texts = tree.texts.iter().filter(|_| !is_named);
                    let names = named.map(|(_, name)| name).chain(texts);
                    names.for_each(|name| left.sets(&setting_name(name).into()));
                }
                Some(Class::AdvisoryLock) => left.doubt(Doubt::Unnamed),
                Some(Class::SessionState) => left.doubt(Doubt::Kept),
                Some(Class::SequenceOfSession) => left.asks_sequence = true,
                _ => {}
            }
        }
        left
    }

    /// What is known to be left, with what the functions that it calls leave, if that is more.
    fn left_by_called(&self, row: &FunctionRow, known: &Left) -> Left {
        let mut left = known.as_deref().cloned().unwrap_or_default();
        let mut is_more = false;
        let mut join = |other: &Left| is_more |= other.as_ref().is_some_and(|other| left.join(other));
        if let Some(tree) = tree(row) {
            let called = tree.functions.iter().filter_map(|oid| self.function(*oid));
            called.for_each(|function| join(&function.leaves));
            let written = tree.relations.iter().filter(|_| tree.writes);
            written.filter_map(|oid| self.relation(*oid)).for_each(|relation| join(&relation.write_leaves));
        }
        if let Body::Text { statement, only_reads, .. } = &row.body {
            let keeps_nothing = ends_what_it_keeps(statement);
            for part in &statement.parts {
                let called = part.functions.iter().flat_map(|name| self.any_named(name));
                called.for_each(|function| match &function.leaves {
                    Some(left) if keeps_nothing && left.doubt == Doubt::Kept => {
                        join(&Some(Box::new(Leftovers { doubt: Doubt::Opaque, ..(**left).clone() })));
                    }
                    left => join(left),
                });
                // Words do not say which of the tables they write to.
                let written = part.tables.iter().filter(|_| part.writes || !only_reads);
                let written = written.flat_map(|name| self.picture.any_relations(name));
                written.for_each(|relation| join(&relation.write_leaves));
            }
        }
        is_more.then(|| Box::new(left))
    }

    fn any_named(&self, name: &Name) -> impl Iterator<Item = &Function> {
        let places = self.picture.function_names.get(&self.picture.key(&name.name)).into_iter().flatten();
        places.filter_map(|&place| self.picture.functions.get(usize::try_from(place).ok()?))
    }

    fn follow_types(&mut self) -> bool {
        let mut found = Vec::new();
        for (oid, checks) in &self.rows.domain_checks {
            if self.picture.types.get(oid).is_some_and(|kind| kind.made.is_none())
                && self.of_tree(checks, None).is_some()
            {
                found.push((*oid, true));
            }
        }
        for (oid, function) in &self.rows.comparators {
            let is_new = self.picture.types.get(oid).is_some_and(|kind| kind.compared.is_none());
            if is_new && self.of_called(*function).is_some() {
                found.push((*oid, false));
            }
        }
        for &(oid, is_made) in &found {
            let kind = self.picture.types.entry(oid).or_default();
            if is_made {
                kind.made = Some(Why::Domain);
            } else {
                kind.compared = Some(Why::Operator);
            }
        }
        !found.is_empty()
    }

    fn follow_operators(&mut self) -> bool {
        let mut found = false;
        let mut needs = HashMap::new();
        for row in &self.rows.operators {
            if self.of_called(row.function).or_else(|| self.of_supports(row.oid)).is_some() {
                needs.insert((row.schema, row.left, row.right, row.name.clone()), Why::Operator);
            }
        }
        for (name, operators) in &mut self.picture.operators {
            for operator in operators.iter_mut().filter(|operator| operator.why.is_none()) {
                operator.why = needs.get(&(operator.schema, operator.left, operator.right, name.clone())).copied();
                found |= operator.why.is_some();
            }
        }
        found
    }

    fn follow_relations(&mut self) -> bool {
        let mut found: Vec<(Oid, Found)> = Vec::new();
        let rows = &self.rows;
        for &oid in self.children.keys() {
            let is_open = self.relation(oid).is_some_and(|relation| relation.whole().is_none());
            if let Some(why) = self.of_children(oid).filter(|_| is_open) {
                found.push((oid, Found::Heirs(why)));
            }
        }
        for (oid, tree) in rows.rules.iter().chain(&rows.virtual_columns) {
            if self.relation(*oid).is_some_and(|relation| !relation.runs_code) && self.runs_code(tree) {
                found.push((*oid, Found::RunsCode));
            }
            let Some(relation) = self.relation(*oid).filter(|relation| relation.why.is_none()) else { continue };
            let view = self.row(*oid);
            if self.of_tree(tree, Some(*oid)).is_some() || self.reads_under_policy(tree, view) {
                found.push((*oid, Found::Need(Why::View)));
            } else if view.is_some_and(|view| view.is_invoker) {
                let policies = self.policies_in(tree);
                let news: Vec<Policy> =
                    policies.into_iter().filter(|policy| !relation.policies.contains(policy)).collect();
                found.extend(news.into_iter().map(|policy| (*oid, Found::Policy(policy))));
            }
        }
        for (oid, tree) in &rows.policies {
            let Some(row) = self.row(*oid).filter(|row| row.has_policies) else { continue };
            let Some(relation) = self.relation(*oid).filter(|relation| relation.policies.is_empty()) else { continue };
            debug_assert_eq!(relation.oid, *oid);
            if self.of_tree(tree, Some(*oid)).or_else(|| self.under_policy(tree)).is_some() {
                let owner = self.owners.get(&row.owner).map(|(name, _)| name.clone()).filter(|_| !row.binds_owner);
                found.push((*oid, Found::Policy(Policy { owner })));
            }
        }
        self.follow_writes(&mut found);
        for (oid, found) in &found {
            let place = self.relation_places.get(oid).copied();
            let Some(relation) = place.and_then(|place| self.picture.relations.get_mut(place)) else { continue };
            match found {
                Found::Need(why) => relation.why = Some(*why),
                Found::Heirs(why) => relation.of_heirs = Some(*why),
                Found::Policy(policy) if !relation.policies.contains(policy) => relation.policies.push(policy.clone()),
                Found::Policy(_) => {}
                Found::RunsCode => relation.runs_code = true,
                Found::WriteChanges(changes) => relation.write_changes = relation.write_changes.max(*changes),
                Found::WriteLeaves(left) => {
                    relation.write_leaves.get_or_insert_default().join(left);
                }
            }
        }
        !found.is_empty()
    }

    /// What a write to a table runs: triggers and defaults, those of its partitions and heirs, and of what a foreign key has
    /// written to.
    fn follow_writes(&self, found: &mut Vec<(Oid, Found)>) {
        for (oid, function) in &self.rows.triggers {
            let changes = self.changes_when_written(*function);
            let Some(function) = self.function(*function) else { continue };
            self.write_runs(*oid, changes, function.leaves.as_deref(), found);
        }
        for (oid, tree) in self.rows.defaults.iter().chain(&self.rows.write_rules) {
            let mut left = self.left_by_tree(tree);
            let called = || tree.functions.iter().filter_map(|oid| self.function(*oid));
            called().filter_map(|function| function.leaves.as_deref()).for_each(|other| {
                left.join(other);
            });
            let changes = tree.functions.iter().map(|oid| self.changes_when_written(*oid)).max().unwrap_or_default();
            self.write_runs(*oid, changes, Some(&left), found);
        }
        for (oid, other) in self.written_with() {
            let Some(other) = self.relation(other) else { continue };
            self.write_runs(oid, other.write_changes, other.write_leaves.as_deref(), found);
        }
    }

    /// Whether it may change the catalogs as a trigger or for a column's default. What is written in C does there what it is
    /// for: if each write counted as a change, no picture would be believed.
    fn changes_when_written(&self, function: Oid) -> Change {
        let row = self.function_places.get(&function).and_then(|place| self.rows.functions.get(*place));
        let is_hidden = row.is_some_and(|row| matches!(row.body, Body::Hidden | Body::Defines));
        self.function(function).filter(|_| !is_hidden).map_or(Change::None, |function| function.changes)
    }

    fn write_runs(&self, oid: Oid, changes: Change, left: Option<&Leftovers>, found: &mut Vec<(Oid, Found)>) {
        let Some(relation) = self.relation(oid) else { return };
        if changes > relation.write_changes {
            found.push((oid, Found::WriteChanges(changes)));
        }
        let Some(mut left) = left.cloned() else { return };
        if matches!(left.doubt, Doubt::Opaque | Doubt::Kept) {
            // Many triggers run made-up text or are written in C, and each write would cost a question more.
            left.doubt = if left.leaves_unnamed { Doubt::Unnamed } else { Doubt::None };
        }
        if relation.write_leaves.as_deref().cloned().unwrap_or_default().join(&left) {
            found.push((oid, Found::WriteLeaves(left)));
        }
    }

    /// (relation, a table that a write to it may write to).
    fn written_with(&self) -> impl Iterator<Item = (Oid, Oid)> {
        let heirs = self.children.iter().flat_map(|(oid, children)| children.iter().map(|child| (*oid, *child)));
        let rules = self.rows.rules.iter().chain(&self.rows.write_rules);
        let views = rules.flat_map(|(oid, tree)| tree.relations.iter().map(|read| (*oid, *read)));
        heirs.chain(views).chain(self.rows.cascades.iter().copied())
    }

    /// A table is read with its partitions and heirs.
    fn of_children(&self, oid: Oid) -> Need {
        let children = self.children.get(&oid)?;
        children.iter().find_map(|child| self.relation(*child)?.whole())
    }

    /// The policies that need the primary, of what the tree reads.
    fn policies_in(&self, tree: &Mentions) -> Vec<Policy> {
        let relations = tree.relations.iter().filter_map(|oid| self.relation(*oid));
        relations.flat_map(|relation| relation.policies.iter().cloned()).collect()
    }

    /// A policy may bind whoever it is that runs this.
    fn under_policy(&self, tree: &Mentions) -> Need {
        (!self.policies_in(tree).is_empty()).then_some(Why::Policy)
    }

    /// A view reads with the rights of its owner.
    fn reads_under_policy(&self, tree: &Mentions, view: Option<&RelationRow>) -> bool {
        let Some(view) = view.filter(|view| !view.is_invoker) else { return false };
        // But one of an invoker within it with the rights of whoever reads it, whoever that is.
        let binds_anybody = |oid: &Oid| {
            self.row(*oid).is_some_and(|row| row.is_invoker)
                && self.relation(*oid).is_some_and(|relation| !relation.policies.is_empty())
        };
        if tree.relations.iter().any(binds_anybody) {
            return true;
        }
        let owner = self.owners.get(&view.owner);
        let is_exempt = owner.is_some_and(|(_, is_exempt)| *is_exempt);
        let is_owner = |policy: &Policy| policy.owner.is_some() && policy.owner.as_ref() == owner.map(|(name, _)| name);
        !is_exempt && self.policies_in(tree).iter().any(|policy| !is_owner(policy))
    }

    fn of_tree(&self, tree: &Mentions, own: Option<Oid>) -> Need {
        let relations = tree.relations.iter().filter(|oid| Some(**oid) != own);
        let relations = || relations.clone().find_map(|oid| self.of_relation(*oid));
        self.of_code(tree).or_else(relations)
    }

    /// What it runs needs the primary, whatever it reads.
    fn of_code(&self, tree: &Mentions) -> Need {
        if tree.locks_rows || tree.takes_value {
            return Some(Why::Function);
        }
        let functions = || tree.functions.iter().find_map(|oid| self.of_mentioned(*oid, tree));
        let operators = || tree.operators.iter().find_map(|oid| self.of_operator(*oid));
        let types = || self.picture.reached_from(&tree.types).iter().find_map(|oid| self.picture.types.get(oid)?.made);
        let compared =
            || self.picture.reached_from(&tree.compared).iter().find_map(|oid| self.picture.types.get(oid)?.compared);
        functions().or_else(operators).or_else(types).or_else(compared)
    }

    /// It runs code that may do anything, or reads what does.
    fn runs_code(&self, tree: &Mentions) -> bool {
        let runs = |oid: &Oid| self.relation(*oid).is_some_and(|other| other.runs_code || !other.policies.is_empty());
        self.of_code(tree).is_some() || tree.relations.iter().any(runs)
    }

    fn of_mentioned(&self, oid: Oid, tree: &Mentions) -> Need {
        let asks = self.rows.builtins.get(&oid).is_some_and(|name| &**name == "current_setting");
        if asks {
            let mut names = tree.constants.iter().filter(|(function, _)| *function == oid).map(|(_, name)| name);
            let is_alike = |name: &str| answers_alike(&setting_name(name));
            return (!tree.names_setting(oid) || !names.all(|name| is_alike(name))).then_some(Why::Function);
        }
        self.of_called(oid).or_else(|| self.function(oid)?.default_why)
    }

    fn of_operator(&self, oid: Oid) -> Need {
        let (function, left) = self.operator_functions.get(&oid)?;
        let compared = || self.picture.types.get(left)?.compared;
        self.of_called(*function).or_else(|| self.of_supports(oid)).or_else(compared)
    }

    fn of_supports(&self, operator: Oid) -> Need {
        self.support_functions.get(&operator)?.iter().find_map(|function| self.of_called(*function))
    }

    fn of_called(&self, oid: Oid) -> Need {
        if let Some(function) = self.function(oid) {
            return function.why;
        }
        let name = self.rows.builtins.get(&oid)?;
        let is_listed = self.lists.primary.iter().any(|pattern| pattern.matches("pg_catalog", name));
        let class = class_of(&Name { schema: None, name: (**name).into() });
        // Which setting it asks for is seen where its name is written only.
        let is_safe = matches!(class, Some(Class::Safe | Class::NamesObject));
        // Those that nobody has judged are steps of the server's own views.
        (is_listed || class.is_some() && !is_safe).then_some(Why::Function)
    }

    fn of_relation(&self, oid: Oid) -> Need {
        match self.relation(oid) {
            Some(relation) => relation.whole(),
            None if is_own(oid) => None,
            None => self.of_node.contains(&oid).then_some(Why::Relation),
        }
    }

    fn row(&self, oid: Oid) -> Option<&RelationRow> {
        self.rows.relations.get(*self.special_rows.get(&oid)?)
    }

    fn schema_name(&self, oid: Oid) -> &str {
        self.schema_names.get(&oid).map(|name| &**name).unwrap_or_default()
    }

    fn function(&self, oid: Oid) -> Option<&Function> {
        self.picture.functions.get(*self.function_places.get(&oid)?)
    }

    fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.picture.relations.get(*self.relation_places.get(&oid)?)
    }

    fn follow_casts(&mut self) -> bool {
        let needs = self.rows.casts.iter().filter(|row| self.of_called(row.function).is_some());
        let casts: Vec<Cast> =
            needs.map(|row| Cast { source: row.source, target: row.target, is_implicit: row.is_implicit }).collect();
        let is_new = casts.len() > self.picture.casts.len();
        self.picture.casts = casts;
        is_new
    }
}

/// What it calls that is known exactly: its body, an aggregate's steps.
fn tree(row: &FunctionRow) -> Option<&Mentions> {
    match &row.body {
        Body::Tree(mentions) => Some(mentions),
        Body::Hidden | Body::Defines | Body::Given | Body::Keeps | Body::Text { .. } => None,
    }
}

/// Nothing is left open but what its functions, relations and types do.
fn shows_that_it_reads(body: &Body) -> bool {
    match body {
        Body::Hidden | Body::Defines | Body::Given | Body::Keeps => false,
        Body::Tree(_) => true,
        Body::Text { only_reads, .. } => *only_reads,
    }
}

/// What a look at the relations has found.
enum Found {
    Need(Why),
    Heirs(Why),
    Policy(Policy),
    RunsCode,
    WriteChanges(Change),
    WriteLeaves(Leftovers),
}

/// Whether the function itself may change the catalogs; those that it calls are followed. In C most do not: a look tells.
fn changes_by_itself(row: &FunctionRow) -> Change {
    match &row.body {
        Body::Hidden if may_do_anything(row) => Change::Suspected,
        Body::Defines if may_do_anything(row) => Change::Opaque,
        Body::Text { statement, .. }
            if statement.parts.iter().any(|part| part.changes_catalog && part.kind != Kind::Call) =>
        {
            Change::Opaque
        }
        // By words of another language's own.
        Body::Text { is_dynamic: true, .. } if row.language != Language::PlPgSql => Change::Suspected,
        _ => Change::None,
    }
}

/// In C, where nothing is known of it but that it calls itself volatile.
fn may_do_anything(row: &FunctionRow) -> bool {
    row.volatility == Volatility::Volatile && !row.is_aggregate && !is_harmless(row)
}

/// A function in C that writes nothing and could run on any node, whatever it calls itself.
fn is_harmless(row: &FunctionRow) -> bool {
    row.language == Language::Native && (is_step(row) || HARMLESS.contains(&&*row.name))
}

/// A step of the server's own work in an index, a sort, an aggregate or a sample: it takes what no statement has, and no language
/// but C can. Of most, PostGIS's and pgvector's among them, nobody has said how volatile they are, which makes them so.
fn is_step(row: &FunctionRow) -> bool {
    matches!(row.body, Body::Hidden) && takes_internal(row)
}

/// No statement can call it: whatever its library keeps, it only goes by that.
fn takes_internal(row: &FunctionRow) -> bool {
    row.arguments.contains(&INTERNAL)
}

/// The type of what the server hands to its own functions.
const INTERNAL: Oid = 2281;

/// Those of common extensions that are volatile: pgcrypto's random ones, uuid-ossp's, pg_uuidv7's, tablefunc's, PostGIS's; each only
/// computes. And TimescaleDB's marks of what its planner is to fill in.
const HARMLESS: &[&str] = &[
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "interpolate",
    "locf",
    "normal_rand",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "st_clusterkmeans",
    "st_generatepoints",
    "time_bucket_gapfill",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
    "uuid_generate_v7",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{OperatorRow, Path, TypeRow};
    use crate::sql::{ParseSettings, classify};

    /// A stable function of this body, with oid and name.
    fn stable(oid: Oid, name: &str, language: Language, text: &str) -> FunctionRow {
        FunctionRow {
            oid,
            schema: 2200,
            name: name.into(),
            volatility: Volatility::Stable,
            language,
            is_aggregate: false,
            arguments: Box::default(),
            defaults: 0,
            is_variadic: false,
            results: Box::default(),
            default_values: None,
            body: Body::read(text, language),
        }
    }

    /// A table about which there is nothing to say.
    fn table(oid: Oid, name: &str) -> RelationRow {
        RelationRow {
            oid,
            schema: 2200,
            name: name.into(),
            kind: RelationKind::Stored,
            is_unlogged: false,
            has_policies: false,
            binds_owner: false,
            owner: 10,
            row_type: 0,
            of_type: 0,
            is_invoker: false,
        }
    }

    /// Which of these stable functions need the primary.
    fn needs(rows: &[(&str, Language, &str)], lists: &FunctionLists) -> Vec<bool> {
        let functions = (20_000..).zip(rows).map(|(oid, (name, language, text))| stable(oid, name, *language, text));
        let inventory = Inventory { functions: functions.collect(), ..Inventory::default() };
        let picture = Picture::draw(inventory, lists, 1, 0, 0);
        picture.functions.iter().map(|function| function.why.is_some()).collect()
    }

    #[test]
    fn what_keeps_something_in_its_session_needs_the_primary_whatever_it_calls_itself() {
        let rows = [
            ("in_python", Language::Python, "GD['n'] = 1\nreturn 1"),
            ("in_perl", Language::Perl, "$_SHARED{n} = 1; return 1;"),
            ("calls", Language::Sql, "select in_python()"),
            ("calls_more", Language::PlPgSql, "begin return calls(); end"),
            ("vouched_for", Language::Python, "return GD['n']"),
            ("plans", Language::Python, "SD['n'] = 1\nreturn 1"),
            ("adds", Language::Sql, "select 1 + 1"),
            ("in_c", Language::Native, "http_set_curlopt"),
            ("lists_in_c", Language::Native, "http_list_curlopt"),
        ];
        let safe = vec![FunctionPattern::new("vouched_for")];
        assert_eq!(
            needs(&rows, &FunctionLists { safe, ..FunctionLists::default() }),
            [true, true, true, true, true, false, false, true, false]
        );
    }

    #[test]
    fn what_is_kept_on_the_primary_of_postgresqls_own_is_seen_in_any_body() {
        let rows = [
            ("asks", Language::Sql, "select pg_is_in_recovery()"),
            ("asks_in_words", Language::PlPgSql, "begin return pg_catalog.pg_is_in_recovery(); end"),
            ("calls", Language::PlPgSql, "begin return asks_in_words(); end"),
            ("asks_something_else", Language::PlPgSql, "begin return version(), pg_is_no_function(1); end"),
        ];
        let primary = vec![FunctionPattern::new("pg_is_*")];
        assert_eq!(needs(&rows, &FunctionLists { primary, ..FunctionLists::default() }), [true, true, true, false]);
    }

    #[test]
    fn a_body_has_values_of_the_types_that_its_function_takes() {
        let (writes, money) = (20_000, 20_010);
        let taking = |oid: Oid, kind: Oid, language: Language, text: &str| FunctionRow {
            arguments: [kind, kind].into(),
            ..stable(oid, &format!("f{oid}"), language, text)
        };
        let log = taking(writes, money, Language::PlPgSql, "begin insert into log values (1); return a; end");
        let (in_sql, in_words) = ("select $1 + $2", "begin return a + b; end");
        let functions = vec![
            FunctionRow { volatility: Volatility::Volatile, ..log },
            taking(20_001, money, Language::Sql, in_sql),
            taking(20_002, money, Language::PlPgSql, in_words),
            taking(20_003, 23, Language::Sql, in_sql),
            taking(20_004, 23, Language::PlPgSql, in_words),
        ];
        let plus = |oid: Oid, schema: Oid, side: Oid, function: Oid| OperatorRow {
            oid,
            schema,
            name: "+".into(),
            left: side,
            right: side,
            function,
            result: side,
        };
        let inventory = Inventory {
            functions,
            types: vec![TypeRow { oid: money, schema: 2200, name: "money_of".into(), volatile_input: false }],
            operators: vec![plus(20_020, 2200, money, writes), plus(551, PG_CATALOG, 23, 177)],
            ..Inventory::default()
        };
        let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
        let needs: Vec<bool> = picture.functions.iter().map(|function| function.why.is_some()).collect();
        assert_eq!(needs, [true, true, true, false, false]);
    }

    #[test]
    fn a_row_is_taken_for_one_of_a_table_that_its_own_inherits_from_for_the_type_of_its_table_and_for_a_domain_over_it()
    {
        let (jobs, of_2026, of_december, labels, others) = (20_000, 20_001, 20_002, 20_003, 20_004);
        let (label, domain, domain_of_domain) = (20_200, 20_201, 20_202);
        let row_of = |table: Oid| table + 100;
        let writes = |oid: Oid, name: &str, kind: Oid| FunctionRow {
            volatility: Volatility::Volatile,
            arguments: [kind].into(),
            ..stable(oid, name, Language::PlPgSql, "begin insert into log values (1); return true; end")
        };
        let with_rows = |(oid, name): (Oid, &str)| RelationRow { row_type: row_of(oid), ..table(oid, name) };
        let tables = [(jobs, "jobs"), (of_2026, "jobs_2026"), (of_december, "jobs_2026_12"), (others, "others")];
        let typed = RelationRow { of_type: label, ..with_rows((labels, "labels")) };
        let inventory = Inventory {
            relations: tables.map(with_rows).into_iter().chain([typed]).collect(),
            children: vec![(jobs, of_2026), (of_2026, of_december)],
            domain_bases: vec![(domain, row_of(others)), (domain_of_domain, domain)],
            functions: vec![
                writes(20_300, "try_lock", row_of(jobs)),
                writes(20_301, "stamp", label),
                writes(20_302, "mark", domain_of_domain),
            ],
            ..Inventory::default()
        };
        let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
        for (sql, is_call) in [
            ("select j.id from jobs j where j.try_lock", true),
            ("select j.id from jobs_2026 j where j.try_lock", true),
            ("select j.id from jobs_2026_12 j where j.try_lock", true),
            ("select l.stamp from labels l", true),
            ("select o.mark from others o", true),
            ("select j.id, j.stamp, j.mark from jobs_2026_12 j, jobs", false),
            ("select l.try_lock, l.mark from labels l", false),
            ("select o.try_lock, o.stamp from others o", false),
        ] {
            let verdict = picture.judge(&classify(sql, &ParseSettings::default()), &Path::any());
            assert_eq!(verdict.why, is_call.then_some(Why::Function), "{sql}");
        }
    }

    #[test]
    fn what_an_operator_or_a_function_makes_like_what_it_is_given_is_checked_as_it_is_made() {
        let (writes, fills, code, coded) = (20_000, 20_001, 20_100, 20_200);
        let (boolean, jsonb, any_element) = (16, 3802, 2283);
        let function = |oid: Oid, name: &str, result: Oid| FunctionRow {
            arguments: [any_element, jsonb].into(),
            results: [result].into(),
            ..stable(oid, name, Language::Native, name)
        };
        let first = FunctionRow {
            arguments: [any_element].into(),
            results: [any_element].into(),
            ..stable(20_005, "refreshed", Language::Sql, "select $1")
        };
        let operator = |(oid, name, result): (Oid, &str, Oid)| OperatorRow {
            oid,
            schema: 2200,
            name: name.into(),
            left: any_element,
            right: jsonb,
            function: fills,
            result,
        };
        let inventory = Inventory {
            functions: vec![
                unlabelled(writes, "writes", &[]),
                function(fills, "fills", any_element),
                function(20_002, "looks", boolean),
                function(20_003, "vouched_for", any_element),
                stable(20_004, "calls", Language::Sql, "select fills(c, '{}') is null from coded c"),
                first,
            ],
            types: vec![TypeRow { oid: code, schema: 2200, name: "code".into(), volatile_input: false }],
            domain_checks: vec![(code, Mentions { functions: vec![writes], ..Mentions::default() })],
            relations: vec![table(coded, "coded")],
            column_types: vec![(coded, code)],
            operators: [(20_300, "#=", any_element), (20_301, "#?", boolean)].map(operator).into(),
            ..Inventory::default()
        };
        let safe = vec![FunctionPattern::new("vouched_for")];
        let picture = Picture::draw(inventory, &FunctionLists { safe, ..FunctionLists::default() }, 1, 0, 0);
        for (sql, why) in [
            ("select c #= '{}' from coded c", Some(Why::Domain)),
            ("select c #? '{}' from coded c", None),
            ("select c from coded c", None),
            ("select (fills(c, '{}')).* from coded c", Some(Why::Domain)),
            ("select looks(c, '{}') from coded c", None),
            ("select vouched_for(c, '{}') from coded c", None),
            ("select fills(1, '{}')", None),
            ("select c.refreshed from coded c", Some(Why::Domain)),
            ("select calls()", Some(Why::Function)),
        ] {
            let verdict = picture.judge(&classify(sql, &ParseSettings::default()), &Path::any());
            assert_eq!(verdict.why, why, "{sql}");
            // What a function does that is called by its name, its own words tell; not so what it makes.
            assert_eq!(verdict.hides_code, why == Some(Why::Domain), "{sql}");
        }
    }

    #[test]
    fn a_setting_whose_name_is_computed_is_looked_for_under_any_text_beside_it() {
        let text = |text: &str| {
            let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
            format!("{{CONST :constvalue 14 [ 56 0 0 0 {} ]}}", bytes.join(" "))
        };
        let sets = |name: &str| {
            let value = text("value");
            format!("({{FUNCEXPR :funcid 2078 :funcresulttype 25 :args ({name} {value}) :location 1}})")
        };
        let either = format!(
            "{{CASE :casetype 25 :args ({{CASEWHEN :expr {{VAR :varno 1}} :result {}}}) :defresult {} :location 1}}",
            text("app.a"),
            text("app.b")
        );
        let row = |(oid, tree): (Oid, String)| {
            let body = Body::Tree(Mentions::of(&tree).distinct());
            FunctionRow { body, ..stable(oid, "sets", Language::Sql, "") }
        };
        let inventory = Inventory {
            functions: [(20_000, sets(&text("app.a"))), (20_001, sets(&either))].map(row).into(),
            builtins: [(2078, "set_config".into())].into_iter().collect(),
            ..Inventory::default()
        };
        let left = left(&Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0));
        let expected = [("app.a", Doubt::None), ("app.a app.b value", Doubt::Unnamed)];
        assert_eq!(left, expected.map(|(names, doubt)| (names.to_owned(), doubt)));
    }

    #[test]
    fn what_an_aggregates_steps_leave_is_left_by_whoever_calls_it() {
        let (sets, locks, set_config) = (20_000, 2880, 2078);
        let aggregate =
            |oid: Oid, name: &str| FunctionRow { is_aggregate: true, ..stable(oid, name, Language::Native, name) };
        let functions = vec![
            stable(sets, "sets", Language::PlPgSql, "begin set work_mem = '2MB'; return 1; end"),
            aggregate(20_001, "running"),
            aggregate(20_002, "locking"),
            aggregate(20_003, "setting"),
            aggregate(20_004, "adding"),
            stable(20_005, "aggregates", Language::Sql, "select running(1)"),
        ];
        let builtins = [(set_config, "set_config".into()), (locks, "pg_advisory_lock".into()), (177, "int4pl".into())];
        let inventory = Inventory {
            functions,
            aggregates: vec![(20_001, 177), (20_001, sets), (20_002, locks), (20_003, set_config), (20_004, 177)],
            builtins: builtins.into_iter().collect(),
            ..Inventory::default()
        };
        let left = left(&Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0));
        let expected = [
            ("work_mem", Doubt::None),
            ("work_mem", Doubt::None),
            ("", Doubt::Unnamed),
            ("", Doubt::Unnamed),
            ("", Doubt::None),
            ("work_mem", Doubt::None),
        ];
        assert_eq!(left, expected.map(|(names, doubt)| (names.to_owned(), doubt)));
    }

    #[test]
    fn a_trigger_that_keeps_something_does_not_hide_what_else_it_leaves() {
        let bodies = [
            (Language::PlPgSql, "begin perform setseed(0.5); return new; end", Doubt::None),
            (Language::PlPgSql, "begin perform setseed(0.5), pg_advisory_lock(1); return new; end", Doubt::Unnamed),
            (Language::Python, "GD['n'] = 1", Doubt::None),
            (Language::Python, "GD['n'] = 1\nplpy.execute('create temp table n ()')", Doubt::Unnamed),
            (Language::PlPgSql, "begin execute tg_argv[0]; return new; end", Doubt::None),
            (Language::PlPgSql, "begin perform pg_advisory_lock(1); return new; end", Doubt::Unnamed),
            (Language::PlPgSql, "begin perform seeds(), locks(); return new; end", Doubt::Unnamed),
            (
                Language::PlPgSql,
                "begin perform dblink_disconnect(), pg_advisory_lock(1); return new; end",
                Doubt::Unnamed,
            ),
        ];
        let called = [
            stable(19_000, "seeds", Language::PlPgSql, "begin perform setseed(0.5); end"),
            stable(19_001, "locks", Language::PlPgSql, "begin perform pg_advisory_lock(1); end"),
        ];
        let functions = (20_000..).zip(bodies).map(|(oid, (language, text, _))| stable(oid, "notes", language, text));
        let oids = || (20_000..).take(bodies.len());
        let inventory = Inventory {
            functions: called.into_iter().chain(functions).collect(),
            relations: oids().map(|oid| table(oid + 1_000, &format!("t{oid}"))).collect(),
            triggers: oids().map(|oid| (oid + 1_000, oid)).collect(),
            ..Inventory::default()
        };
        let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
        let left =
            picture.relations.iter().map(|table| table.write_leaves.as_ref().map_or(Doubt::None, |left| left.doubt));
        assert_eq!(left.collect::<Vec<_>>(), bodies.map(|(.., doubt)| doubt));
    }

    /// What each function leaves: the names of settings, and how much is not known.
    fn left(picture: &Picture) -> Vec<(String, Doubt)> {
        let left = picture.functions.iter().map(|function| function.leaves.as_deref().cloned().unwrap_or_default());
        left.map(|left| (left.settings.join(" "), left.doubt)).collect()
    }

    /// A function in C of which nobody has said how volatile it is.
    fn unlabelled(oid: Oid, name: &str, arguments: &[Oid]) -> FunctionRow {
        let body = if name == "keeps" { Body::Keeps } else { Body::Hidden };
        let arguments = arguments.into();
        FunctionRow { volatility: Volatility::Volatile, arguments, body, ..stable(oid, name, Language::Native, name) }
    }

    #[test]
    fn steps_of_indexes_and_aggregates_that_no_statement_can_call_are_no_reason_for_the_primary() {
        let (consistent, compares, keeps, accumulates, overlaps) = (20_000, 20_001, 20_002, 20_003, 20_004);
        let types: [Oid; 3] = [20_010, 20_011, 20_012];
        let supports: [Oid; 3] = [consistent, compares, keeps];
        let operators: [Oid; 3] = [20_020, 20_021, 20_022];
        let aggregate = |oid: Oid, name: &str| FunctionRow { is_aggregate: true, ..unlabelled(oid, name, &[types[0]]) };
        let functions = vec![
            unlabelled(consistent, "consistent", &[INTERNAL, types[0], 23]),
            unlabelled(compares, "compares", &[types[1], types[1]]),
            unlabelled(keeps, "keeps", &[INTERNAL, types[2]]),
            unlabelled(accumulates, "accumulates", &[INTERNAL, types[0]]),
            stable(overlaps, "overlaps", Language::Native, "overlaps"),
            aggregate(20_005, "collects"),
            aggregate(20_006, "collects_too"),
        ];
        let kind = |oid: Oid| TypeRow { oid, schema: 2200, name: format!("t{oid}").into(), volatile_input: false };
        let operator = |(oid, side): (Oid, Oid)| OperatorRow {
            oid,
            schema: 2200,
            name: format!("&{oid}").into(),
            left: side,
            right: side,
            function: overlaps,
            result: 16,
        };
        let inventory = Inventory {
            functions,
            aggregates: vec![(20_005, accumulates), (20_006, compares)],
            types: types.into_iter().map(kind).collect(),
            comparators: types.into_iter().zip(supports).collect(),
            operators: operators.into_iter().zip(types).map(operator).collect(),
            operator_supports: operators.into_iter().zip(supports).collect(),
            ..Inventory::default()
        };
        let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
        let functions: Vec<bool> = picture.functions.iter().map(|function| function.why.is_some()).collect();
        assert_eq!(functions, [false, true, true, false, false, false, true]);
        let compared = types.map(|oid| picture.types.get(&oid).and_then(|kind| kind.compared).is_some());
        assert_eq!(compared, [false, true, true]);
        let looked_up = operators.map(|oid| {
            let named = picture.operators.get(&*format!("&{oid}")).and_then(|all| all.first());
            named.and_then(|operator| operator.why).is_some()
        });
        assert_eq!(looked_up, [false, true, true]);
        // And nobody looks what they have left, nor keeps the session of who aggregates by what a library goes by.
        let left: Vec<bool> = picture.functions.iter().map(|function| function.leaves.is_some()).collect();
        assert_eq!(left, [false, true, false, false, false, false, true]);
        let changes: Vec<bool> = picture.functions.iter().map(|function| function.changes != Change::None).collect();
        assert_eq!(changes, [false, true, false, false, false, false, true]);
    }
}
