//! What a parse tree may do, at all depths. Utility statements are left to [`super::utility`], names that PostgreSQL
//! itself gives to functions, relations and settings to [`super::functions`], [`super::relations`] and
//! [`super::settings`].

use std::sync::Arc;

use super::draws::Target;
use super::functions::{self, Class};
use super::parse::grammar::{
    self, AExpr, AExprKind, AIndirection, CaseExpr, ColumnRef, CommonTableExpr, DeleteStmt, ExecuteStmt, FuncCall,
    InsertStmt, IntoClause, JoinExpr, JsonArrayAgg, JsonArrayConstructor, JsonExprOp, JsonFuncExpr,
    JsonObjectConstructor, JsonParseExpr, JsonScalarExpr, JsonSerializeExpr, LockingClause, MergeStmt,
    MergeSupportFunc, MinMaxExpr, Node, RangeFunction, RangeTableSample, RangeVar, SelectStmt, SetToDefault, SortBy,
    SqlValueFunction, SqlValueFunctionOp, SubLink, SubLinkType, TypeCast, TypeName, UpdateStmt, WindowDef, WithClause,
    a_const, node::Node as Tree,
};
use super::relations;
use super::session_change::{Scope, SessionChange};
use super::settings;
use super::statement::{
    Argument, Call, CopyDirection, Kind, Name, NeedsPrimary, Part, Pin, Statement, TransactionControl,
};
use super::tree::{Visitor, Walk};
use super::utility;
use smallvec::SmallVec;

/// What the tree of `text` is.
pub(super) fn statement(tree: &grammar::ParseResult, text: &str) -> Statement {
    let mut shape_decides = true;
    // Alone it keeps its semicolon and all: so it stands in pg_prepared_statements.
    let is_alone = tree.stmts.len() == 1;
    let parts = tree.stmts.iter().map(|raw| {
        let mut effects = Effects::of(if is_alone { text } else { text_of(raw, text) });
        let kind = match raw.stmt.as_ref().and_then(|node| node.node.as_ref()) {
            Some(node) => effects.top(node),
            None => {
                effects.unexpected();
                Kind::Other
            }
        };
        shape_decides &= !effects.literal_decides;
        effects.into_part(kind)
    });
    let parts = parts.collect();
    Statement::new(parts, shape_decides)
}

/// A part that does nothing.
pub(super) fn harmless(kind: Kind) -> Part {
    Effects::of("").into_part(kind)
}

/// The string's part that one statement was made from.
fn text_of<'a>(raw: &grammar::RawStmt, text: &'a str) -> &'a str {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0);
    let rest = text.get(start..).unwrap_or(text);
    match usize::try_from(raw.stmt_len) {
        Ok(len) if len > 0 => rest.get(..len).unwrap_or(rest).trim(),
        _ => rest.trim(),
    }
}

/// The effects of one statement, as they are found.
#[derive(Default)]
pub(super) struct Effects<'a> {
    /// The statement.
    pub(super) text: &'a str,
    pub(super) needs_primary: Option<NeedsPrimary>,
    pub(super) transaction: TransactionControl,
    pub(super) session: Vec<SessionChange>,
    pub(super) copy: CopyDirection,
    pub(super) commits_inside: bool,
    pub(super) changes_catalog: bool,
    pub(super) changes_shared: bool,
    pub(super) changes_roles: bool,
    /// The database that nobody else may be connected to while it runs.
    pub(super) empties: Option<Arc<str>>,
    /// An UPDATE or DELETE without WHERE is in it, and is run.
    pub(super) unfiltered: bool,
    asks_for_own: bool,
    /// Rows are written, at any depth.
    pub(super) writes: bool,
    /// It calls functions that PostgreSQL has not got.
    calls_unknown: bool,
    /// The outermost INSERT, whose WITH may hold others.
    inserts: Option<Box<Target>>,
    /// Where its outermost UPDATE or MERGE writes.
    updates: Option<Name>,
    /// DEFAULT stands in place of a value.
    says_default: bool,
    /// The same text with other literals may be something else.
    pub(super) literal_decides: bool,
    /// Below an EXPLAIN that only plans: what is written, locked or made is not.
    pub(super) only_planned: bool,
    tables: Vec<Name>,
    /// Named with ONLY, and without.
    only: Vec<Name>,
    with_heirs: Vec<Name>,
    functions: Vec<Name>,
    operators: Vec<Name>,
    types: Vec<Name>,
    attributes: Vec<Arc<str>>,
    applies: bool,
    calls: Vec<Call>,
    sorts: bool,
    /// The names of the common table expressions in scope.
    ctes: Vec<String>,
}

impl<'a> Effects<'a> {
    fn of(text: &'a str) -> Self {
        Self { text, ..Self::default() }
    }

    fn top(&mut self, node: &Tree) -> Kind {
        match self.query(node) {
            Some(kind) => kind,
            None => {
                // Few utility statements repeat with other literals; those that do say so themselves.
                self.literal_decides = true;
                utility::statement(node, self)
            }
        }
    }

    /// Walks the node if it is a [planned](planned_kind) one.
    pub(super) fn query(&mut self, node: &Tree) -> Option<Kind> {
        let kind = planned_kind(node)?;
        node.walk(self);
        Some(kind)
    }

    fn into_part(self, kind: Kind) -> Part {
        let (only, inserts) = (self.without_heirs(), self.rows_go());
        Part {
            kind,
            needs_primary: self.needs_primary,
            transaction: self.transaction,
            session: self.session.into(),
            copy: self.copy,
            commits_inside: self.commits_inside,
            changes_catalog: self.changes_catalog,
            changes_shared: self.changes_shared,
            changes_roles: self.changes_roles,
            empties: self.empties,
            unfiltered: self.unfiltered,
            asks_for_own: self.asks_for_own,
            only_plans: self.only_planned,
            only,
            tables: self.tables.into(),
            functions: self.functions.into(),
            operators: self.operators.into(),
            types: self.types.into(),
            attributes: self.attributes.into(),
            applies: self.applies,
            calls: self.calls.into(),
            inserts,
            writes: self.writes,
            calls_unknown: self.calls_unknown,
            sorts: self.sorts,
        }
    }

    /// Where it puts rows, or defaults. A column that is named may be given its default all the same.
    fn rows_go(&self) -> Option<Box<Target>> {
        let all_defaults = |table: &Name| Box::new(Target { table: table.clone(), columns: Box::default() });
        match (&self.inserts, self.says_default) {
            (Some(target), true) => Some(all_defaults(&target.table)),
            (Some(target), false) => Some(target.clone()),
            (None, true) => self.updates.as_ref().map(all_defaults),
            (None, false) => None,
        }
    }

    fn without_heirs(&self) -> Box<[Name]> {
        self.only.iter().filter(|name| !self.with_heirs.contains(name)).cloned().collect()
    }

    /// What is known of it so far, as a statement of its own that leaves `session` behind.
    pub(super) fn so_far(&self, kind: Kind, session: Vec<SessionChange>) -> Statement {
        let part = Part {
            needs_primary: self.needs_primary.clone(),
            unfiltered: self.unfiltered,
            asks_for_own: self.asks_for_own,
            writes: self.writes,
            calls_unknown: self.calls_unknown,
            inserts: self.rows_go(),
            tables: self.tables.as_slice().into(),
            only: self.without_heirs(),
            functions: self.functions.as_slice().into(),
            calls: self.calls.as_slice().into(),
            operators: self.operators.as_slice().into(),
            types: self.types.as_slice().into(),
            attributes: self.attributes.as_slice().into(),
            applies: self.applies,
            sorts: self.sorts,
            session: session.into(),
            ..harmless(kind)
        };
        Statement::new(Box::new([part]), false)
    }

    /// It must run on the primary. A reason that a catalog might lift gives way to one that it cannot.
    pub(super) fn require(&mut self, why: NeedsPrimary) {
        match (&self.needs_primary, &why) {
            (None, _) => self.needs_primary = Some(why),
            (Some(NeedsPrimary::UnknownFunction(_)), NeedsPrimary::UnknownFunction(_)) => {}
            (Some(NeedsPrimary::UnknownFunction(_)), _) => self.needs_primary = Some(why),
            (Some(_), _) => {}
        }
    }

    /// It must run on the primary, unless it is only planned: a standby plans it like the primary.
    pub(super) fn require_if_run(&mut self, why: NeedsPrimary) {
        if !self.only_planned {
            self.require(why);
        }
    }

    /// It leaves this behind in its session.
    pub(super) fn leave(&mut self, change: SessionChange) {
        if !self.session.contains(&change) {
            self.session.push(change);
        }
    }

    pub(super) fn pin(&mut self, pin: Pin) {
        self.leave(SessionChange::Pin(pin));
    }

    /// Code in it names these functions, of which some are not PostgreSQL's own.
    pub(super) fn names_functions(&mut self, names: impl IntoIterator<Item = Name>) {
        let foreign = names.into_iter().filter(|name| functions::class_of(name).is_none());
        foreign.for_each(|name| add(&mut self.functions, name));
    }

    /// It makes or uses a temporary object.
    pub(super) fn temporary(&mut self) {
        self.require(NeedsPrimary::Temporary);
        self.pin(Pin::Temporary);
    }

    /// It makes the relation, or moves it elsewhere.
    pub(super) fn makes(&mut self, relation: &RangeVar) {
        if relation.relpersistence == "t" || relations::is_temporary_schema(&relation.schemaname) {
            self.temporary();
        }
    }

    /// It names this relation, which is no common table expression.
    pub(super) fn table(&mut self, name: Name) {
        match relations::judge(&name) {
            relations::Judgement::Table => {}
            relations::Judgement::Temporary => self.temporary(),
            relations::Judgement::DiffersBetweenNodes => {
                self.require(NeedsPrimary::Relation(Arc::clone(&name.name)));
            }
        }
        add(&mut self.tables, name);
    }

    fn function(&mut self, name: Name, arguments: &[Node]) {
        self.asks_for_own |= matches!(&*name.name, "now" | "transaction_timestamp" | "age" | "pg_backend_pid");
        match functions::class_of(&name) {
            Some(Class::Safe) if asks_for_the_server(&name) => {
                self.require(NeedsPrimary::Function(Arc::clone(&name.name)));
            }
            Some(Class::Safe) => {}
            Some(Class::NamesObject) => self.literal_decides = true,
            Some(Class::Primary) => self.require(NeedsPrimary::Function(Arc::clone(&name.name))),
            Some(Class::AdvisoryLock) => {
                self.require(NeedsPrimary::Function(Arc::clone(&name.name)));
                self.pin(Pin::AdvisoryLock);
            }
            Some(Class::SequenceOfSession) => {
                self.require(NeedsPrimary::Function(Arc::clone(&name.name)));
                self.pin(Pin::Sequence);
            }
            Some(Class::SessionState) => {
                self.require(NeedsPrimary::Function(Arc::clone(&name.name)));
                self.pin(Pin::State);
            }
            Some(Class::ReadsSetting) => self.reads_setting(arguments),
            Some(Class::ChangesSetting) => self.changes_setting(arguments),
            None if name.schema.as_deref().is_some_and(relations::is_temporary_schema) => self.temporary(),
            None => {
                self.calls_unknown = true;
                self.require(NeedsPrimary::UnknownFunction(Arc::clone(&name.name)));
            }
        }
        add(&mut self.functions, name);
    }

    /// What our grammar takes for syntax, and older ones for a call of whatever function has that name.
    fn call_of_old(&mut self, name: &str) {
        let name = Name { schema: None, name: name.into() };
        self.call(Call { name: name.clone(), arguments: None });
        add(&mut self.functions, name);
    }

    fn call(&mut self, call: Call) {
        add(&mut self.calls, call);
    }

    /// `current_setting(…)`.
    fn reads_setting(&mut self, arguments: &[Node]) {
        self.literal_decides = true;
        match arguments.first().and_then(string_constant) {
            Some(name) => settings::read(&settings::setting_name(name), self),
            None => self.require(NeedsPrimary::NodeSetting("current_setting".into())),
        }
    }

    /// `set_config(name, value, is_local)`.
    fn changes_setting(&mut self, arguments: &[Node]) {
        self.literal_decides = true;
        let [name, value, is_local] = arguments else {
            return self.changes_unknown_setting();
        };
        let is_local = boolean_constant(is_local) == Some(true);
        let scope = if is_local { Scope::Transaction } else { Scope::Session };
        match string_constant(name) {
            Some(name) => settings::change(&settings::setting_name(name), scope, string_constant(value), self),
            None if is_local => settings::change_any_locally(self),
            None => self.changes_unknown_setting(),
        }
    }

    fn changes_unknown_setting(&mut self) {
        self.require(NeedsPrimary::NodeSetting("set_config".into()));
        self.pin(Pin::UnknownSetting);
    }

    /// The operator that the grammar puts in without its being written.
    fn implied_operator(&mut self, symbols: &[&str]) {
        for symbol in symbols {
            if !self.operators.iter().any(|known| known.schema.is_none() && &*known.name == *symbol) {
                self.operators.push(Name { schema: None, name: (*symbol).into() });
            }
        }
    }

    fn operator(&mut self, names: &[Node]) {
        match name_of(names) {
            Some(name) => add(&mut self.operators, name),
            None => self.unexpected(),
        }
    }

    /// A row's `cmin` and `cmax`, the numbers of commands within their transactions, are not in the write-ahead log. No table's
    /// column may be called like that.
    fn number_of_command(&mut self, node: &Node) {
        if let Some(Tree::String(name)) = &node.node
            && matches!(&*name.sval, "cmin" | "cmax")
        {
            self.require(NeedsPrimary::Relation(name.sval.as_str().into()));
        }
    }

    fn attribute(&mut self, node: &Node) {
        self.number_of_command(node);
        let Some(Tree::String(string)) = &node.node else { return };
        let attribute = string.sval.as_str();
        if self.attributes.len() < MOST_NAMES && !self.attributes.iter().any(|known| **known == *attribute) {
            self.attributes.push(attribute.into());
        }
        // `('k').pg_advisory_lock` is a call, and so is `x.pg_advisory_lock` where x is what a function in FROM answers, or an
        // argument of the function that this is the body of. Hardly a column is called like that.
        if functions::attribute_needs_primary(attribute) {
            self.function(Name { schema: None, name: attribute.into() }, &[]);
        }
    }

    /// Walks a statement that can bring names of its own into scope, and leaves that scope.
    fn scoped(&mut self, statement: &impl Walk) {
        let outside = self.ctes.len();
        statement.branches(self);
        self.ctes.truncate(outside);
    }

    fn puts_into(&mut self, relation: Option<&RangeVar>) {
        if self.updates.is_none() {
            self.updates = relation.map(name_of_relation);
        }
    }

    /// A statement that writes to `target`, which is a relation even where a common table expression has its name.
    fn writes(&mut self, target: Option<&RangeVar>, statement: &impl Walk) {
        self.require_if_run(NeedsPrimary::Writes);
        self.writes |= !self.only_planned;
        if let Some(target) = target {
            self.table(name_of_relation(target));
        }
        self.scoped(statement);
    }
}

impl Visitor for Effects<'_> {
    fn select(&mut self, node: &SelectStmt) {
        self.sorts |= !node.distinct_clause.is_empty()
            || !node.group_clause.is_empty()
            || !node.sort_clause.is_empty()
            || !node.window_clause.is_empty()
            || node.larg.is_some();
        self.scoped(node);
    }

    fn insert(&mut self, node: &InsertStmt) {
        if self.inserts.is_none()
            && let Some(relation) = &node.relation
        {
            let named = node.cols.iter().filter_map(|column| match &column.node {
                Some(Tree::ResTarget(target)) => Some(target.name.as_str().into()),
                _ => None,
            });
            self.inserts = Some(Box::new(Target { table: name_of_relation(relation), columns: named.collect() }));
        }
        self.writes(node.relation.as_ref(), node);
    }

    fn update(&mut self, node: &UpdateStmt) {
        self.unfiltered |= node.where_clause.is_none() && !self.only_planned;
        self.puts_into(node.relation.as_ref());
        self.writes(node.relation.as_ref(), node);
    }

    fn delete(&mut self, node: &DeleteStmt) {
        self.unfiltered |= node.where_clause.is_none() && !self.only_planned;
        self.writes(node.relation.as_ref(), node);
    }

    fn merge(&mut self, node: &MergeStmt) {
        self.implied_operator(&["="]);
        self.puts_into(node.relation.as_ref());
        self.writes(node.relation.as_ref(), node);
    }

    fn default_value(&mut self, node: &SetToDefault) {
        self.says_default = true;
        node.branches(self);
    }

    fn with_clause(&mut self, node: &WithClause) {
        if node.recursive {
            let names = node.ctes.iter().filter_map(|cte| match &cte.node {
                Some(Tree::CommonTableExpr(cte)) => Some(cte.ctename.clone()),
                _ => None,
            });
            self.ctes.extend(names);
        }
        node.branches(self);
    }

    fn common_table_expression(&mut self, node: &CommonTableExpr) {
        node.branches(self);
        // Not before: without RECURSIVE its own query means the relation of that name.
        self.ctes.push(node.ctename.clone());
    }

    fn execute(&mut self, node: &ExecuteStmt) {
        self.leave(SessionChange::Execute(node.name.as_str().into()));
        node.branches(self);
    }

    fn relation(&mut self, node: &RangeVar) {
        let is_cte = node.schemaname.is_empty() && self.ctes.len() <= MOST_NAMES && self.ctes.contains(&node.relname);
        if !is_cte {
            let name = name_of_relation(node);
            add(if node.inh { &mut self.with_heirs } else { &mut self.only }, name.clone());
            self.table(name);
        }
        node.branches(self);
    }

    fn function_call(&mut self, node: &FuncCall) {
        match name_of(&node.funcname) {
            Some(mut name) => {
                if &*name.name == "json_object" {
                    // The grammar puts its schema there; before PostgreSQL 16 it did not.
                    name.schema = name.schema.filter(|schema| **schema != *"pg_catalog");
                }
                self.call(Call { name: name.clone(), arguments: arguments_of(node) });
                self.function(name, &node.args);
            }
            None => self.unexpected(),
        }
        node.branches(self);
    }

    fn json_function(&mut self, node: &JsonFuncExpr) {
        let name = match JsonExprOp::try_from(node.op) {
            Ok(JsonExprOp::JsonExistsOp) => "json_exists",
            Ok(JsonExprOp::JsonQueryOp) => "json_query",
            Ok(JsonExprOp::JsonValueOp) => "json_value",
            Ok(JsonExprOp::JsonTableOp) => "json_table",
            Ok(JsonExprOp::Undefined) | Err(_) => return self.unexpected(),
        };
        self.call_of_old(name);
        node.branches(self);
    }

    fn json_parse(&mut self, node: &JsonParseExpr) {
        self.call_of_old("json");
        node.branches(self);
    }

    fn json_scalar(&mut self, node: &JsonScalarExpr) {
        self.call_of_old("json_scalar");
        node.branches(self);
    }

    fn json_serialize(&mut self, node: &JsonSerializeExpr) {
        self.call_of_old("json_serialize");
        node.branches(self);
    }

    fn json_object(&mut self, node: &JsonObjectConstructor) {
        self.call_of_old("json_object");
        node.branches(self);
    }

    fn json_array(&mut self, node: &JsonArrayConstructor) {
        self.call_of_old("json_array");
        node.branches(self);
    }

    fn json_array_aggregate(&mut self, node: &JsonArrayAgg) {
        self.call_of_old("json_arrayagg");
        node.branches(self);
    }

    fn merge_support(&mut self, node: &MergeSupportFunc) {
        self.call_of_old("merge_action");
        node.branches(self);
    }

    fn type_name(&mut self, node: &TypeName) {
        if let Some(name) = name_of(&node.names) {
            add(&mut self.types, name);
        }
        node.branches(self);
    }

    fn type_cast(&mut self, node: &TypeCast) {
        let names_object = node.type_name.as_ref().and_then(|name| name_of(&name.names));
        // 'x'::regclass and its kin: the literal is a name.
        if names_object.is_some_and(|name| name.name.starts_with("reg")) {
            self.literal_decides = true;
        }
        node.branches(self);
    }

    fn locking_clause(&mut self, _: &LockingClause) {
        // The names of FOR UPDATE OF are aliases: nothing below is a relation.
        self.require_if_run(NeedsPrimary::LocksRows);
    }

    fn select_into(&mut self, node: &IntoClause) {
        if let Some(relation) = &node.rel {
            self.makes(relation);
        }
        self.require_if_run(NeedsPrimary::ChangesSchema);
        self.changes_catalog |= !self.only_planned;
        node.branches(self);
    }

    fn table_sample(&mut self, node: &RangeTableSample) {
        match name_of(&node.method) {
            Some(name) if matches!(&*name.name, "system" | "bernoulli") => {}
            Some(name) => {
                self.call(Call { name: name.clone(), arguments: None });
                self.function(name, &[]);
            }
            None => self.unexpected(),
        }
        node.branches(self);
    }

    fn case(&mut self, node: &CaseExpr) {
        if node.arg.is_some() {
            self.implied_operator(&["="]);
        }
        node.branches(self);
    }

    fn join(&mut self, node: &JoinExpr) {
        if node.is_natural || !node.using_clause.is_empty() {
            self.implied_operator(&["="]);
        }
        node.branches(self);
    }

    fn column(&mut self, node: &ColumnRef) {
        if let [_, .., last] = &*node.fields {
            self.attribute(last);
        }
        if let [only] = &*node.fields {
            self.number_of_command(only);
        }
        node.branches(self);
    }

    fn range_function(&mut self, node: &RangeFunction) {
        self.applies = true;
        node.branches(self);
    }

    fn value_function(&mut self, node: &SqlValueFunction) {
        use SqlValueFunctionOp as Op;
        self.asks_for_own |= !matches!(
            node.op(),
            Op::SvfopCurrentRole
                | Op::SvfopCurrentUser
                | Op::SvfopUser
                | Op::SvfopSessionUser
                | Op::SvfopCurrentCatalog
                | Op::SvfopCurrentSchema
        );
        node.branches(self);
    }

    fn indirection(&mut self, node: &AIndirection) {
        for step in &node.indirection {
            self.attribute(step);
            self.applies |= matches!(step.node, Some(Tree::String(_)));
        }
        node.branches(self);
    }

    fn operation(&mut self, node: &AExpr) {
        match node.kind() {
            AExprKind::AexprBetween
            | AExprKind::AexprNotBetween
            | AExprKind::AexprBetweenSym
            | AExprKind::AexprNotBetweenSym => self.implied_operator(&["<", "<=", ">", ">="]),
            _ => self.operator(&node.name),
        }
        node.branches(self);
    }

    fn sublink(&mut self, node: &SubLink) {
        match node.sub_link_type() {
            SubLinkType::AnySublink | SubLinkType::AllSublink if node.oper_name.is_empty() => {
                self.implied_operator(&["="]);
            }
            SubLinkType::AnySublink | SubLinkType::AllSublink | SubLinkType::RowcompareSublink => {
                self.operator(&node.oper_name);
            }
            _ => {}
        }
        node.branches(self);
    }

    fn sort_by(&mut self, node: &SortBy) {
        if !node.use_op.is_empty() {
            self.operator(&node.use_op);
        }
        node.branches(self);
    }

    fn min_max(&mut self, node: &MinMaxExpr) {
        self.sorts = true;
        node.branches(self);
    }

    fn window(&mut self, node: &WindowDef) {
        self.sorts |= !node.partition_clause.is_empty() || !node.order_clause.is_empty();
        node.branches(self);
    }

    fn string(&mut self, node: &grammar::String) {
        // A name, never a literal: pg_temp.f(), pg_temp.t, a type of pg_temp, …
        if relations::is_temporary_schema(&node.sval) {
            self.temporary();
        }
    }

    fn unexpected(&mut self) {
        self.require(NeedsPrimary::UnknownStatement);
        self.literal_decides = true;
    }
}

/// What can be planned, and so stand inside EXPLAIN, COPY and PREPARE.
pub(super) fn planned_kind(node: &Tree) -> Option<Kind> {
    match node {
        Tree::SelectStmt(_) => Some(Kind::Select),
        Tree::InsertStmt(_) => Some(Kind::Insert),
        Tree::UpdateStmt(_) => Some(Kind::Update),
        Tree::DeleteStmt(_) => Some(Kind::Delete),
        Tree::MergeStmt(_) => Some(Kind::Merge),
        _ => None,
    }
}

/// libpq and pg_dump ask in this form what kind of server theirs is, and go by it from then on: pg_dump leaves the rows of
/// unlogged tables out of a standby's dump. Theirs is the whole cluster.
fn asks_for_the_server(name: &Name) -> bool {
    &*name.name == "pg_is_in_recovery" && name.schema.is_some()
}

/// What is known of a call's arguments; None where they cannot be counted.
fn arguments_of(call: &FuncCall) -> Option<SmallVec<[Argument; 4]>> {
    let is_by_name = |node: &Node| matches!(node.node, Some(Tree::NamedArgExpr(_)));
    if call.func_variadic || call.agg_within_group || call.args.iter().any(is_by_name) {
        return None;
    }
    Some(call.args.iter().map(argument).collect())
}

fn argument(node: &Node) -> Argument {
    match &node.node {
        Some(Tree::TypeCast(cast)) => {
            let name = cast.type_name.as_ref().filter(|name| name.array_bounds.is_empty());
            name.and_then(|name| name_of(&name.names)).map_or(Argument::Unknown, Argument::Cast)
        }
        _ => match constant(node) {
            Some(a_const::Val::Ival(_)) => Argument::Integer,
            Some(a_const::Val::Fval(_)) => Argument::Number,
            Some(a_const::Val::Sval(_)) => Argument::Literal,
            _ => Argument::Unknown,
        },
    }
}

/// The qualified name in a list of strings; a database's name before the schema's says nothing.
pub(super) fn name_of(names: &[Node]) -> Option<Name> {
    let mut parts = names.iter().rev().map(|node| match &node.node {
        Some(Tree::String(string)) => Some(Arc::from(string.sval.as_str())),
        _ => None,
    });
    let name = parts.next()??;
    Some(Name { schema: parts.next().flatten(), name })
}

/// The name of a relation.
pub(super) fn name_of_relation(relation: &RangeVar) -> Name {
    let schema = (!relation.schemaname.is_empty()).then(|| relation.schemaname.as_str().into());
    Name { schema, name: relation.relname.as_str().into() }
}

/// The value of a string literal.
pub(super) fn string_constant(node: &Node) -> Option<&str> {
    match constant(node)? {
        a_const::Val::Sval(value) => Some(&value.sval),
        _ => None,
    }
}

/// The value of a literal that PostgreSQL reads as a boolean.
pub(super) fn boolean_constant(node: &Node) -> Option<bool> {
    match constant(node)? {
        a_const::Val::Boolval(value) => Some(value.boolval),
        a_const::Val::Ival(value) => Some(value.ival != 0),
        a_const::Val::Sval(value) => settings::boolean(&value.sval),
        _ => None,
    }
}

fn constant(node: &Node) -> Option<&a_const::Val> {
    match &node.node {
        Some(Tree::AConst(constant)) => constant.val.as_ref(),
        _ => None,
    }
}

/// One more, if it is not there: each is compared with all before it, and what names more than can be is not looked at.
fn add<T: PartialEq>(names: &mut Vec<T>, name: T) {
    if names.len() < MOST_NAMES && !names.contains(&name) {
        names.push(name);
    }
}

/// It names so many things that not all may have been noted. Of tables that are locked, as pg_dump does with all that there are,
/// nothing else is of interest.
pub(super) fn names_too_much(statement: &Statement) -> bool {
    statement.parts.iter().any(|part| {
        let only_locks = part.needs_primary == Some(NeedsPrimary::LocksTable);
        if part.tables.len() >= MOST_NAMES && !only_locks {
            return true;
        }
        let names = [&part.functions, &part.operators, &part.types];
        let most = names.iter().map(|names| names.len()).max().unwrap_or_default();
        most.max(part.calls.len()).max(part.attributes.len()) >= MOST_NAMES
    })
}

/// Names of one kind in a statement: comparing each with all takes some tens of milliseconds.
const MOST_NAMES: usize = 2048;
