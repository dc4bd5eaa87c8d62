//! What the statements do that are not queries: transactions, settings, prepared statements, cursors, DDL, …

use std::sync::Arc;

use super::effects::{Effects, boolean_constant, name_of, planned_kind, string_constant};
use super::emptied::emptied;
use super::leftovers::{Doubt, Leftovers};
use super::parse::grammar::{
    CopyStmt, DeallocateStmt, DeclareCursorStmt, DefElem, DiscardMode, DiscardStmt, DoStmt, DropStmt, ExplainStmt,
    Integer, Node, ObjectType, PrepareStmt, TransactionStmt, TransactionStmtKind, VariableSetKind, VariableSetStmt,
    a_const, node::Node as Tree,
};
use super::session_change::{Scope, SessionChange, SetTo};
use super::settings;
use super::statement::{CopyDirection, Isolation, Kind, Name, NeedsPrimary, Pin, TransactionControl, TransactionModes};
use super::tree::Walk;
use super::{functions, words};

/// What a statement is that is no query, and its effects.
pub(super) fn statement(node: &Tree, effects: &mut Effects<'_>) -> Kind {
    match node {
        Tree::TransactionStmt(transaction) => control(transaction, effects),
        Tree::VariableSetStmt(set) => set_variable(set, effects),
        Tree::VariableShowStmt(show) => {
            settings::read(&settings::setting_name(&show.name), effects);
            Kind::Show
        }
        Tree::DiscardStmt(discard) => discard_state(discard, effects),
        Tree::PrepareStmt(prepare) => prepare_statement(prepare, effects),
        Tree::ExecuteStmt(_) => {
            effects.literal_decides = false;
            node.walk(effects);
            Kind::Execute
        }
        Tree::DeallocateStmt(deallocate) => deallocate_statement(deallocate, effects),
        Tree::DeclareCursorStmt(declare) => declare_cursor(declare, effects),
        Tree::FetchStmt(_) => names_cursor(Kind::Fetch, effects),
        Tree::ClosePortalStmt(_) => names_cursor(Kind::Close, effects),
        Tree::ExplainStmt(explain) => explain_statement(explain, effects),
        Tree::CopyStmt(copy) => copy_statement(copy, effects),
        Tree::CallStmt(_) => procedural(Kind::Call, node, effects),
        Tree::DoStmt(block) => {
            let kind = procedural(Kind::Do, node, effects);
            let block = Block::of(block);
            effects.changes_catalog = block.changes_catalog();
            effects.changes_shared = effects.changes_catalog;
            effects.names_functions(block.functions());
            let left = block.leftovers();
            if left.doubt == Doubt::Kept {
                effects.pin(Pin::State);
            }
            for name in left.settings {
                effects.leave(SessionChange::Setting { name, to: SetTo::Value, scope: Scope::Session });
            }
            kind
        }
        Tree::ListenStmt(_) => {
            effects.pin(Pin::Listen);
            notification(Kind::Listen, effects)
        }
        Tree::UnlistenStmt(_) => notification(Kind::Unlisten, effects),
        Tree::NotifyStmt(_) => notification(Kind::Notify, effects),
        Tree::LockStmt(_) => needs(NeedsPrimary::LocksTable, Kind::Lock, node, effects),
        Tree::TruncateStmt(_) => {
            effects.writes = true;
            needs(NeedsPrimary::Writes, Kind::Truncate, node, effects)
        }
        Tree::LoadStmt(_) => {
            effects.pin(Pin::Load);
            needs(NeedsPrimary::LoadsLibrary, Kind::Load, node, effects)
        }
        Tree::CheckPointStmt(_) => needs(NeedsPrimary::Maintenance, Kind::Checkpoint, node, effects),
        Tree::VacuumStmt(_) | Tree::ReindexStmt(_) | Tree::ClusterStmt(_) | Tree::AlterSystemStmt(_) => {
            effects.commits_inside = true;
            needs(NeedsPrimary::Maintenance, Kind::Maintenance, node, effects)
        }
        // Outside a transaction it does nothing, inside one it goes where its transaction is.
        Tree::ConstraintsSetStmt(_) => Kind::Other,
        _ if changes_schema(node) => change_schema(node, effects),
        _ => needs(NeedsPrimary::UnknownStatement, Kind::Other, node, effects),
    }
}

fn needs(why: NeedsPrimary, kind: Kind, node: &Tree, effects: &mut Effects<'_>) -> Kind {
    effects.require(why);
    node.walk(effects);
    kind
}

fn notification(kind: Kind, effects: &mut Effects<'_>) -> Kind {
    effects.require(NeedsPrimary::Notifications);
    kind
}

/// Cursors live in a transaction, where its lease answers for them; elsewhere the server says what is wrong.
fn names_cursor(kind: Kind, effects: &mut Effects<'_>) -> Kind {
    effects.require(NeedsPrimary::UnknownName);
    kind
}

fn procedural(kind: Kind, node: &Tree, effects: &mut Effects<'_>) -> Kind {
    // The arguments of a CALL may be other literals; the body of a DO is one itself.
    effects.literal_decides = kind == Kind::Do;
    effects.commits_inside = true;
    effects.changes_catalog = true;
    needs(NeedsPrimary::Procedural, kind, node, effects)
}

/// The code of a DO block, and its language if that is not PL/pgSQL.
struct Block<'a> {
    code: Option<&'a str>,
    is_foreign: bool,
}

impl<'a> Block<'a> {
    fn of(block: &'a DoStmt) -> Self {
        let options: Vec<_> = definitions(&block.args).collect();
        let is_foreign =
            options.iter().any(|(name, value)| *name == "language" && value.and_then(text) != Some("plpgsql"));
        let code = options.iter().find(|(name, _)| *name == "as").and_then(|(_, value)| value.and_then(text));
        Self { code, is_foreign }
    }

    /// Its words say so, or leave it open: it runs made-up text, or functions that are not PostgreSQL's own.
    fn changes_catalog(&self) -> bool {
        let Some(code) = self.code else { return true };
        let body = words::body(code, words::Quoting::Sql);
        let calls_unknown = functions_in(&body).iter().any(|name| functions::class_of(name).is_none());
        self.is_foreign || body.changes_catalog || calls_unknown
    }

    fn quoting(&self) -> words::Quoting {
        if self.is_foreign { words::Quoting::None } else { words::Quoting::Sql }
    }

    /// The functions that it may call.
    fn functions(&self) -> Vec<Name> {
        self.code.map(|code| functions_in(&words::body(code, self.quoting()))).unwrap_or_default()
    }

    fn leftovers(&self) -> Leftovers {
        self.code.map(|code| Leftovers::of_body(code, self.quoting())).unwrap_or_default()
    }
}

fn functions_in(body: &words::Body) -> Vec<Name> {
    let named = body.statement.parts.iter().flat_map(|part| &part.functions);
    named.filter(|name| !KEYWORDS_BEFORE_PARENTHESES.contains(&&*name.name)).cloned().collect()
}

/// Words of the language after which a parenthesis opens no call.
const KEYWORDS_BEFORE_PARENTHESES: &[&str] = &["values", "in", "if", "and", "or", "not", "select", "return", "exists"];

fn text(node: &Node) -> Option<&str> {
    match &node.node {
        Some(Tree::String(value)) => Some(&value.sval),
        _ => None,
    }
}

fn control(node: &TransactionStmt, effects: &mut Effects<'_>) -> Kind {
    use TransactionStmtKind as Command;
    let chain = node.chain;
    let (kind, control) = match node.kind() {
        Command::TransStmtBegin | Command::TransStmtStart => {
            (Kind::Begin, TransactionControl::Begin(modes(&node.options)))
        }
        Command::TransStmtCommit => (Kind::Commit, TransactionControl::Commit { chain }),
        Command::TransStmtRollback => (Kind::Rollback, TransactionControl::Rollback { chain }),
        Command::TransStmtSavepoint => (Kind::Savepoint, TransactionControl::Savepoint),
        Command::TransStmtRelease => (Kind::Release, TransactionControl::Release),
        Command::TransStmtRollbackTo => (Kind::Rollback, TransactionControl::RollbackTo),
        Command::TransStmtPrepare => (Kind::PrepareTransaction, TransactionControl::Prepare),
        Command::TransStmtCommitPrepared => (Kind::Commit, TransactionControl::None),
        Command::TransStmtRollbackPrepared => (Kind::Rollback, TransactionControl::None),
        Command::Undefined => {
            effects.require(NeedsPrimary::UnknownStatement);
            return Kind::Other;
        }
    };
    if matches!(
        node.kind(),
        Command::TransStmtPrepare | Command::TransStmtCommitPrepared | Command::TransStmtRollbackPrepared
    ) {
        effects.require(NeedsPrimary::TwoPhase);
    }
    // What was prepared may have been DDL.
    effects.changes_catalog |= node.kind() == Command::TransStmtCommitPrepared;
    effects.transaction = control;
    kind
}

/// The modes in the options of BEGIN and SET TRANSACTION. The last of several wins, as in PostgreSQL.
fn modes(options: &[Node]) -> TransactionModes {
    let mut modes = TransactionModes::default();
    for (name, value) in definitions(options) {
        match name {
            "transaction_isolation" => {
                modes.isolation = value.and_then(string_constant).and_then(Isolation::from_setting)
            }
            "transaction_read_only" => modes.read_only = value.and_then(boolean_constant),
            "transaction_deferrable" => modes.deferrable = value.and_then(boolean_constant),
            _ => {}
        }
    }
    modes
}

fn definitions(options: &[Node]) -> impl Iterator<Item = (&str, Option<&Node>)> {
    options.iter().filter_map(|option| match &option.node {
        Some(Tree::DefElem(definition)) => {
            let DefElem { defname, arg, .. } = &**definition;
            Some((defname.as_str(), arg.as_deref()))
        }
        _ => None,
    })
}

fn set_variable(node: &VariableSetStmt, effects: &mut Effects<'_>) -> Kind {
    let name = settings::setting_name(&node.name);
    let scope = if node.is_local { Scope::Transaction } else { Scope::Session };
    match node.kind() {
        VariableSetKind::VarSetValue | VariableSetKind::VarSetCurrent => {
            let value = match &*node.args {
                [value] => setting_value(value),
                _ => None,
            };
            settings::change(&name, scope, value.as_deref(), effects);
            Kind::Set
        }
        VariableSetKind::VarSetDefault => {
            settings::reset(&name, scope, effects);
            Kind::Set
        }
        VariableSetKind::VarSetMulti => set_several(&name, &node.args, effects),
        VariableSetKind::VarReset => {
            settings::reset(&name, Scope::Session, effects);
            Kind::Reset
        }
        VariableSetKind::VarResetAll => {
            effects.leave(SessionChange::ResetAll);
            Kind::Reset
        }
        VariableSetKind::Undefined => {
            effects.require(NeedsPrimary::UnknownStatement);
            Kind::Other
        }
    }
}

/// A setting's value as text; numbers are of no interest but for the booleans 0 and 1.
fn setting_value(node: &Node) -> Option<String> {
    match &node.node {
        Some(Tree::AConst(constant)) => match constant.val.as_ref()? {
            a_const::Val::Sval(value) => Some(value.sval.clone()),
            a_const::Val::Ival(Integer { ival }) => Some(ival.to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// SET TRANSACTION …, SET SESSION CHARACTERISTICS AS TRANSACTION …
fn set_several(name: &str, arguments: &[Node], effects: &mut Effects<'_>) -> Kind {
    match name {
        "transaction" => {
            let modes = modes(arguments);
            if modes.read_only == Some(false) {
                effects.require(NeedsPrimary::NodeSetting("transaction_read_only".into()));
            }
            if modes.isolation == Some(Isolation::Serializable) {
                effects.require(NeedsPrimary::NodeSetting("transaction_isolation".into()));
            }
            effects.transaction = TransactionControl::Set(modes);
            Kind::SetTransaction
        }
        "session characteristics" => {
            for (mode, _) in definitions(arguments) {
                let name = format!("default_{mode}").into();
                effects.leave(SessionChange::Setting { name, to: SetTo::Value, scope: Scope::Session });
            }
            Kind::Set
        }
        // A snapshot is known to the node that exported it.
        "transaction snapshot" => {
            effects.require(NeedsPrimary::NodeSetting("transaction_snapshot".into()));
            effects.transaction = TransactionControl::Set(TransactionModes::default());
            Kind::SetTransaction
        }
        _ => {
            effects.require(NeedsPrimary::UnknownStatement);
            Kind::Other
        }
    }
}

fn discard_state(node: &DiscardStmt, effects: &mut Effects<'_>) -> Kind {
    effects.leave(match node.target() {
        DiscardMode::DiscardAll => SessionChange::DiscardAll,
        DiscardMode::DiscardSequences => SessionChange::DiscardSequences,
        DiscardMode::DiscardPlans | DiscardMode::DiscardTemp => SessionChange::DiscardSome,
        DiscardMode::Undefined => {
            effects.require(NeedsPrimary::UnknownStatement);
            return Kind::Other;
        }
    });
    Kind::Discard
}

fn prepare_statement(node: &PrepareStmt, effects: &mut Effects<'_>) -> Kind {
    node.branches(effects);
    // What the statement inside leaves behind comes with each EXECUTE.
    let inside = std::mem::take(&mut effects.session);
    if inside.iter().any(|change| !matches!(change, SessionChange::Pin(_))) {
        effects.require(NeedsPrimary::NodeSetting("set_config".into()));
    }
    let kind = node.query.as_ref().and_then(|query| planned_kind(query.node.as_ref()?)).unwrap_or(Kind::Other);
    let prepare = SessionChange::Prepare {
        name: node.name.as_str().into(),
        needs_primary: effects.needs_primary.clone(),
        text: effects.text.into(),
        statement: Arc::new(effects.so_far(kind, inside)),
    };
    effects.session.insert(0, prepare);
    Kind::Prepare
}

fn deallocate_statement(node: &DeallocateStmt, effects: &mut Effects<'_>) -> Kind {
    effects.leave(if node.isall {
        SessionChange::DeallocateAll
    } else {
        SessionChange::Deallocate(node.name.as_str().into())
    });
    Kind::Deallocate
}

fn declare_cursor(node: &DeclareCursorStmt, effects: &mut Effects<'_>) -> Kind {
    // The query's literals are those of any query.
    effects.literal_decides = false;
    if node.options & CURSOR_OPT_HOLD != 0 {
        effects.require(NeedsPrimary::HoldCursor);
        effects.pin(Pin::HoldCursor);
    }
    node.branches(effects);
    Kind::Declare
}

/// From PostgreSQL's parsenodes.h; part of the parse tree's meaning in all versions.
const CURSOR_OPT_HOLD: i32 = 0x0020;

fn explain_statement(node: &ExplainStmt, effects: &mut Effects<'_>) -> Kind {
    // An option's literal can switch ANALYZE on.
    effects.literal_decides = definitions(&node.options).any(|(_, value)| value.is_some());
    effects.only_planned = !runs(&node.options);
    if let Some(inner) = node.query.as_ref().and_then(|query| query.node.as_ref())
        && effects.query(inner).is_none()
    {
        explain_utility(inner, effects);
    }
    Kind::Explain
}

/// EXPLAIN of EXECUTE, DECLARE, CREATE TABLE AS and CREATE MATERIALIZED VIEW; REFRESH has no plan.
fn explain_utility(inner: &Tree, effects: &mut Effects<'_>) {
    match inner {
        Tree::DeclareCursorStmt(declare) => declare.branches(effects),
        Tree::ExecuteStmt(_) | Tree::CreateTableAsStmt(_) => inner.walk(effects),
        _ => {
            effects.only_planned = false;
            statement(inner, effects);
        }
    }
}

/// An EXPLAIN with these options runs its statement, unless ANALYZE is certainly off.
fn runs(options: &[Node]) -> bool {
    definitions(options).any(|(name, value)| name == "analyze" && value.and_then(option_value) != Some(false))
}

fn option_value(node: &Node) -> Option<bool> {
    match &node.node {
        Some(Tree::String(value)) => settings::boolean(&value.sval),
        Some(Tree::Integer(value)) => Some(value.ival != 0),
        Some(Tree::Boolean(value)) => Some(value.boolval),
        _ => None,
    }
}

fn copy_statement(node: &CopyStmt, effects: &mut Effects<'_>) -> Kind {
    // An empty file name cannot be told from none: the server refuses it either way.
    let with_client = node.filename.is_empty() && !node.is_program;
    match (node.is_from, with_client) {
        (true, true) => {
            effects.require(NeedsPrimary::CopyIn);
            effects.writes = true;
            effects.copy = CopyDirection::In;
        }
        (false, true) => effects.copy = CopyDirection::Out,
        (is_from, false) => {
            effects.require(NeedsPrimary::CopyFile);
            effects.writes |= is_from;
        }
    }
    node.branches(effects);
    Kind::Copy
}

fn change_schema(node: &Tree, effects: &mut Effects<'_>) -> Kind {
    effects.changes_catalog = true;
    effects.changes_shared = changes_shared(node);
    effects.changes_roles = matches!(node, Tree::CreateRoleStmt(_) | Tree::GrantRoleStmt(_));
    effects.commits_inside = commits_inside(node);
    effects.empties = emptied(node);
    match node {
        Tree::CreateStmt(create) => create.relation.iter().for_each(|relation| effects.makes(relation)),
        Tree::CreateSeqStmt(create) => create.sequence.iter().for_each(|relation| effects.makes(relation)),
        Tree::ViewStmt(create) => create.view.iter().for_each(|relation| effects.makes(relation)),
        Tree::CreateTableAsStmt(create) => {
            let made = create.into.as_ref().and_then(|into| into.rel.as_ref());
            made.iter().for_each(|relation| effects.makes(relation));
        }
        Tree::DropStmt(drop) => drop_objects(drop, effects),
        _ => {}
    }
    needs(NeedsPrimary::ChangesSchema, Kind::Ddl, node, effects)
}

/// DROP names its relations by lists of strings.
fn drop_objects(node: &DropStmt, effects: &mut Effects<'_>) {
    let are_relations = matches!(
        node.remove_type(),
        ObjectType::ObjectTable
            | ObjectType::ObjectView
            | ObjectType::ObjectMatview
            | ObjectType::ObjectForeignTable
            | ObjectType::ObjectSequence
            | ObjectType::ObjectIndex
    );
    if !are_relations {
        return;
    }
    for object in &node.objects {
        if let Some(Tree::List(names)) = &object.node
            && let Some(name) = name_of(&names.items)
        {
            effects.table(name);
        }
    }
}

/// DDL that runs in transactions of its own, or that does something no transaction can take back.
fn commits_inside(node: &Tree) -> bool {
    match node {
        Tree::IndexStmt(index) => index.concurrent,
        Tree::DropStmt(drop) => drop.concurrent,
        Tree::AlterTableStmt(alter) => alter.cmds.iter().any(|command| match &command.node {
            Some(Tree::AlterTableCmd(command)) => match command.def.as_ref().and_then(|def| def.node.as_ref()) {
                Some(Tree::PartitionCmd(partition)) => partition.concurrent,
                _ => false,
            },
            _ => false,
        }),
        Tree::CreatedbStmt(_)
        | Tree::DropdbStmt(_)
        | Tree::AlterDatabaseStmt(_)
        | Tree::CreateTableSpaceStmt(_)
        | Tree::DropTableSpaceStmt(_)
        | Tree::CreateSubscriptionStmt(_)
        | Tree::AlterSubscriptionStmt(_)
        | Tree::DropSubscriptionStmt(_)
        // A script can hold anything.
        | Tree::CreateExtensionStmt(_)
        | Tree::AlterExtensionStmt(_) => true,
        _ => false,
    }
}

/// DDL that changes what all databases of the cluster share, and what is known of each by it.
fn changes_shared(node: &Tree) -> bool {
    match node {
        Tree::AlterRoleStmt(_) | Tree::AlterRoleSetStmt(_) | Tree::DropRoleStmt(_) | Tree::AlterDatabaseSetStmt(_) => {
            true
        }
        Tree::RenameStmt(rename) => rename.rename_type() == ObjectType::ObjectRole,
        _ => false,
    }
}

/// Statements that change the catalogs.
fn changes_schema(node: &Tree) -> bool {
    matches!(
        node,
        Tree::AlterCollationStmt(_)
            | Tree::AlterDatabaseRefreshCollStmt(_)
            | Tree::AlterDatabaseSetStmt(_)
            | Tree::AlterDatabaseStmt(_)
            | Tree::AlterDefaultPrivilegesStmt(_)
            | Tree::AlterDomainStmt(_)
            | Tree::AlterEnumStmt(_)
            | Tree::AlterEventTrigStmt(_)
            | Tree::AlterExtensionContentsStmt(_)
            | Tree::AlterExtensionStmt(_)
            | Tree::AlterFdwStmt(_)
            | Tree::AlterForeignServerStmt(_)
            | Tree::AlterFunctionStmt(_)
            | Tree::AlterObjectDependsStmt(_)
            | Tree::AlterObjectSchemaStmt(_)
            | Tree::AlterOpFamilyStmt(_)
            | Tree::AlterOperatorStmt(_)
            | Tree::AlterOwnerStmt(_)
            | Tree::AlterPolicyStmt(_)
            | Tree::AlterPublicationStmt(_)
            | Tree::AlterRoleSetStmt(_)
            | Tree::AlterRoleStmt(_)
            | Tree::AlterSeqStmt(_)
            | Tree::AlterStatsStmt(_)
            | Tree::AlterSubscriptionStmt(_)
            | Tree::AlterTableMoveAllStmt(_)
            | Tree::AlterTableSpaceOptionsStmt(_)
            | Tree::AlterTableStmt(_)
            | Tree::AlterTsconfigurationStmt(_)
            | Tree::AlterTsdictionaryStmt(_)
            | Tree::AlterTypeStmt(_)
            | Tree::AlterUserMappingStmt(_)
            | Tree::CommentStmt(_)
            | Tree::CompositeTypeStmt(_)
            | Tree::CreateAmStmt(_)
            | Tree::CreateCastStmt(_)
            | Tree::CreateConversionStmt(_)
            | Tree::CreateDomainStmt(_)
            | Tree::CreateEnumStmt(_)
            | Tree::CreateEventTrigStmt(_)
            | Tree::CreateExtensionStmt(_)
            | Tree::CreateFdwStmt(_)
            | Tree::CreateForeignServerStmt(_)
            | Tree::CreateForeignTableStmt(_)
            | Tree::CreateFunctionStmt(_)
            | Tree::CreateOpClassStmt(_)
            | Tree::CreateOpFamilyStmt(_)
            | Tree::CreatePlangStmt(_)
            | Tree::CreatePolicyStmt(_)
            | Tree::CreatePublicationStmt(_)
            | Tree::CreateRangeStmt(_)
            | Tree::CreateRoleStmt(_)
            | Tree::CreateSchemaStmt(_)
            | Tree::CreateSeqStmt(_)
            | Tree::CreateStatsStmt(_)
            | Tree::CreateStmt(_)
            | Tree::CreateSubscriptionStmt(_)
            | Tree::CreateTableAsStmt(_)
            | Tree::CreateTableSpaceStmt(_)
            | Tree::CreateTransformStmt(_)
            | Tree::CreateTrigStmt(_)
            | Tree::CreateUserMappingStmt(_)
            | Tree::CreatedbStmt(_)
            | Tree::DefineStmt(_)
            | Tree::DropOwnedStmt(_)
            | Tree::DropRoleStmt(_)
            | Tree::DropStmt(_)
            | Tree::DropSubscriptionStmt(_)
            | Tree::DropTableSpaceStmt(_)
            | Tree::DropUserMappingStmt(_)
            | Tree::DropdbStmt(_)
            | Tree::GrantRoleStmt(_)
            | Tree::GrantStmt(_)
            | Tree::ImportForeignSchemaStmt(_)
            | Tree::IndexStmt(_)
            | Tree::ReassignOwnedStmt(_)
            | Tree::RefreshMatViewStmt(_)
            | Tree::RenameStmt(_)
            | Tree::RuleStmt(_)
            | Tree::SecLabelStmt(_)
            | Tree::ViewStmt(_)
    )
}
