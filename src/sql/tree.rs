//! The parse tree as branches: which fields of each node lead to other nodes. What they mean is left to the visitor.
//!
//! Every field of every node is listed, so that a new field of a later grammar does not compile until it is placed;
//! a node that is not listed (the raw parser never makes it) is handed to [`Visitor::unexpected`].

use super::parse::grammar::*;

/// Something that is a node or leads to nodes.
pub(super) trait Walk {
    /// Shows itself to the visitor.
    fn walk<V: Visitor>(&self, visitor: &mut V);

    /// Shows what is below it to the visitor.
    fn branches<V: Visitor>(&self, visitor: &mut V);
}

macro_rules! visitor {
    ($($hook:ident($node:ident))*) => {
        /// Who is told of the nodes of a tree. A hook that wants to go on below its node calls [`Walk::branches`].
        pub(super) trait Visitor: Sized {
            $(fn $hook(&mut self, node: &$node) {
                node.branches(self);
            })*

            /// Each node of the tree, before its own hook.
            fn enter(&mut self) {}

            /// A node that the raw parser should not have made.
            fn unexpected(&mut self);
        }
    };
}

visitor! {
    select(SelectStmt) insert(InsertStmt) update(UpdateStmt) delete(DeleteStmt) merge(MergeStmt)
    with_clause(WithClause) common_table_expression(CommonTableExpr) execute(ExecuteStmt)
    relation(RangeVar) function_call(FuncCall) json_function(JsonFuncExpr) json_parse(JsonParseExpr) json_scalar(JsonScalarExpr)
    json_serialize(JsonSerializeExpr) json_object(JsonObjectConstructor) json_array(JsonArrayConstructor)
    json_array_aggregate(JsonArrayAgg) merge_support(MergeSupportFunc) type_name(TypeName) type_cast(TypeCast)
    locking_clause(LockingClause) select_into(IntoClause) table_sample(RangeTableSample)
    range_function(RangeFunction)
    case(CaseExpr) join(JoinExpr)
    column(ColumnRef) value_function(SqlValueFunction) indirection(AIndirection) operation(AExpr) sublink(SubLink) sort_by(SortBy) string(String)
    min_max(MinMaxExpr) window(WindowDef) default_value(SetToDefault)
}

impl<T: Walk> Walk for Vec<T> {
    fn walk<V: Visitor>(&self, visitor: &mut V) {
        self.iter().for_each(|item| item.walk(visitor));
    }

    fn branches<V: Visitor>(&self, visitor: &mut V) {
        self.walk(visitor);
    }
}

impl<T: Walk> Walk for Option<T> {
    fn walk<V: Visitor>(&self, visitor: &mut V) {
        self.iter().for_each(|item| item.walk(visitor));
    }

    fn branches<V: Visitor>(&self, visitor: &mut V) {
        self.walk(visitor);
    }
}

impl<T: Walk> Walk for Box<T> {
    fn walk<V: Visitor>(&self, visitor: &mut V) {
        (**self).walk(visitor);
    }

    fn branches<V: Visitor>(&self, visitor: &mut V) {
        (**self).branches(visitor);
    }
}

impl Walk for Node {
    fn walk<V: Visitor>(&self, visitor: &mut V) {
        visitor.enter();
        self.node.walk(visitor);
    }

    fn branches<V: Visitor>(&self, visitor: &mut V) {
        self.node.walk(visitor);
    }
}

/// `Type(Variant) => hook { fields that lead to nodes } { plain fields }`, for each node of the raw grammar.
macro_rules! tree {
    ($($node:ident($variant:ident) $(=> $hook:ident)? { $($branch:ident)* } { $($plain:ident)* })*) => {
        impl Walk for node::Node {
            fn walk<V: Visitor>(&self, visitor: &mut V) {
                match self {
                    $(Self::$variant(node) => node.walk(visitor),)*
                    _ => visitor.unexpected(),
                }
            }

            fn branches<V: Visitor>(&self, visitor: &mut V) {
                self.walk(visitor);
            }
        }

        $(impl Walk for $node {
            fn walk<V: Visitor>(&self, visitor: &mut V) {
                tree!(@walk self visitor $($hook)?);
            }

            fn branches<V: Visitor>(&self, visitor: &mut V) {
                let Self { $($branch,)* $($plain: _,)* } = self;
                $($branch.walk(visitor);)*
                let _ = visitor;
            }
        })*
    };
    (@walk $node:ident $visitor:ident $hook:ident) => { $visitor.$hook($node) };
    (@walk $node:ident $visitor:ident) => { $node.branches($visitor) };
}

tree! {
    Alias(Alias) { colnames } { aliasname }
    RangeVar(RangeVar) => relation { alias } { catalogname schemaname relname inh relpersistence location }
    IntoClause(IntoClause) => select_into { rel col_names options } { access_method on_commit table_space_name
        view_query skip_data }
    GroupingFunc(GroupingFunc) { args refs } { xpr agglevelsup location }
    MergeSupportFunc(MergeSupportFunc) => merge_support {} { xpr msftype msfcollid location }
    NamedArgExpr(NamedArgExpr) { arg } { xpr name argnumber location }
    BoolExpr(BoolExpr) { args } { xpr boolop location }
    SubLink(SubLink) => sublink { testexpr oper_name subselect } { xpr sub_link_type sub_link_id location }
    CaseExpr(CaseExpr) => case { arg args defresult } { xpr casetype casecollid location }
    CaseWhen(CaseWhen) { expr result } { xpr location }
    RowExpr(RowExpr) { args colnames } { xpr row_typeid row_format location }
    CoalesceExpr(CoalesceExpr) { args } { xpr coalescetype coalescecollid location }
    MinMaxExpr(MinMaxExpr) => min_max { args } { xpr minmaxtype minmaxcollid inputcollid op location }
    SqlValueFunction(SqlvalueFunction) => value_function {} { xpr op r#type typmod location }
    XmlExpr(XmlExpr) { named_args arg_names args } { xpr op name xmloption indent r#type typmod location }
    JsonFormat(JsonFormat) {} { format_type encoding location }
    JsonReturning(JsonReturning) {} { format typid typmod }
    JsonValueExpr(JsonValueExpr) { raw_expr } { format formatted_expr }
    JsonIsPredicate(JsonIsPredicate) { expr } { format item_type unique_keys location }
    JsonBehavior(JsonBehavior) { expr } { btype coerce location }
    NullTest(NullTest) { arg } { xpr nulltesttype argisrow location }
    BooleanTest(BooleanTest) { arg } { xpr booltesttype location }
    SetToDefault(SetToDefault) => default_value {} { xpr type_id type_mod collation location }
    CurrentOfExpr(CurrentOfExpr) {} { xpr cvarno cursor_name cursor_param }
    JoinExpr(JoinExpr) => join { larg rarg using_clause join_using_alias quals alias } { jointype is_natural rtindex }
    TypeName(TypeName) => type_name { names typmods array_bounds } { type_oid setof pct_type typemod location }
    ColumnRef(ColumnRef) => column { fields } { location }
    ParamRef(ParamRef) {} { number location }
    AExpr(AExpr) => operation { name lexpr rexpr } { kind rexpr_list_start rexpr_list_end location }
    TypeCast(TypeCast) => type_cast { arg type_name } { location }
    CollateClause(CollateClause) { arg collname } { location }
    RoleSpec(RoleSpec) {} { roletype rolename location }
    FuncCall(FuncCall) => function_call { funcname args agg_order agg_filter over } { agg_within_group agg_star
        agg_distinct func_variadic funcformat location }
    AStar(AStar) {} {}
    AIndices(AIndices) { lidx uidx } { is_slice }
    AIndirection(AIndirection) => indirection { arg indirection } {}
    AArrayExpr(AArrayExpr) { elements } { list_start list_end location }
    ResTarget(ResTarget) { indirection val } { name location }
    MultiAssignRef(MultiAssignRef) { source } { colno ncolumns }
    SortBy(SortBy) => sort_by { node use_op } { sortby_dir sortby_nulls location }
    WindowDef(WindowDef) => window { partition_clause order_clause start_offset end_offset } { name refname frame_options
        location }
    RangeSubselect(RangeSubselect) { subquery alias } { lateral }
    RangeFunction(RangeFunction) => range_function { functions alias coldeflist } { lateral ordinality is_rowsfrom }
    RangeTableFunc(RangeTableFunc) { docexpr rowexpr namespaces columns alias } { lateral location }
    RangeTableFuncCol(RangeTableFuncCol) { type_name colexpr coldefexpr } { colname for_ordinality is_not_null
        location }
    RangeTableSample(RangeTableSample) => table_sample { relation method args repeatable } { location }
    ColumnDef(ColumnDef) { type_name raw_default cooked_default identity_sequence coll_clause constraints fdwoptions }
        { colname compression inhcount is_local is_not_null is_from_type storage storage_name identity generated
        coll_oid location }
    TableLikeClause(TableLikeClause) { relation } { options relation_oid }
    IndexElem(IndexElem) { expr collation opclass opclassopts } { name indexcolname ordering nulls_ordering }
    DefElem(DefElem) { arg } { defnamespace defname defaction location arg_location }
    LockingClause(LockingClause) => locking_clause { locked_rels } { strength wait_policy }
    XmlSerialize(XmlSerialize) { expr type_name } { xmloption indent location }
    PartitionElem(PartitionElem) { expr collation opclass } { name location }
    PartitionSpec(PartitionSpec) { part_params } { strategy location }
    PartitionBoundSpec(PartitionBoundSpec) { listdatums lowerdatums upperdatums } { strategy is_default modulus
        remainder location }
    PartitionRangeDatum(PartitionRangeDatum) { value } { kind location }
    PartitionCmd(PartitionCmd) { name bound } { concurrent }
    GroupingSet(GroupingSet) { content } { kind location }
    WithClause(WithClause) => with_clause { ctes } { recursive location }
    InferClause(InferClause) { index_elems where_clause } { conname location }
    OnConflictClause(OnConflictClause) { infer target_list where_clause } { action location }
    CteSearchClause(CtesearchClause) { search_col_list } { search_breadth_first search_seq_column location }
    CteCycleClause(CtecycleClause) { cycle_col_list cycle_mark_value cycle_mark_default } { cycle_mark_column
        cycle_path_column location cycle_mark_type cycle_mark_typmod cycle_mark_collation cycle_mark_neop }
    CommonTableExpr(CommonTableExpr) => common_table_expression { aliascolnames ctequery search_clause cycle_clause }
        { ctename ctematerialized location cterecursive cterefcount ctecolnames ctecoltypes ctecoltypmods
        ctecolcollations }
    MergeWhenClause(MergeWhenClause) { condition target_list values } { match_kind command_type r#override }
    ReturningOption(ReturningOption) {} { option value location }
    ReturningClause(ReturningClause) { options exprs } {}
    TriggerTransition(TriggerTransition) {} { name is_new is_table }
    JsonOutput(JsonOutput) { type_name returning } {}
    JsonArgument(JsonArgument) { val } { name }
    JsonFuncExpr(JsonFuncExpr) => json_function { context_item pathspec passing output on_empty on_error } { op
        column_name wrapper quotes location }
    JsonTablePathSpec(JsonTablePathSpec) { string } { name name_location location }
    JsonTable(JsonTable) { context_item pathspec passing columns on_error alias } { lateral location }
    JsonTableColumn(JsonTableColumn) { type_name pathspec columns on_empty on_error } { coltype name format wrapper
        quotes location }
    JsonKeyValue(JsonKeyValue) { key value } {}
    JsonParseExpr(JsonParseExpr) => json_parse { expr output } { unique_keys location }
    JsonScalarExpr(JsonScalarExpr) => json_scalar { expr output } { location }
    JsonSerializeExpr(JsonSerializeExpr) => json_serialize { expr output } { location }
    JsonObjectConstructor(JsonObjectConstructor) => json_object { exprs output } { absent_on_null unique location }
    JsonArrayConstructor(JsonArrayConstructor) => json_array { exprs output } { absent_on_null location }
    JsonArrayQueryConstructor(JsonArrayQueryConstructor) { query output } { format absent_on_null location }
    JsonAggConstructor(JsonAggConstructor) { output agg_filter agg_order over } { location }
    JsonObjectAgg(JsonObjectAgg) { arg constructor } { absent_on_null unique }
    JsonArrayAgg(JsonArrayAgg) => json_array_aggregate { arg constructor } { absent_on_null }
    RawStmt(RawStmt) { stmt } { stmt_location stmt_len }
    InsertStmt(InsertStmt) => insert { with_clause relation cols select_stmt returning_clause on_conflict_clause } {
        r#override }
    DeleteStmt(DeleteStmt) => delete { with_clause relation using_clause where_clause returning_clause } {}
    UpdateStmt(UpdateStmt) => update { with_clause relation target_list where_clause from_clause returning_clause } {}
    MergeStmt(MergeStmt) => merge { with_clause relation source_relation join_condition merge_when_clauses
        returning_clause } {}
    SelectStmt(SelectStmt) => select { with_clause distinct_clause into_clause target_list from_clause where_clause
        group_clause having_clause window_clause values_lists sort_clause limit_offset limit_count locking_clause larg
        rarg } { group_distinct limit_option op all }
    ReturnStmt(ReturnStmt) { returnval } {}
    CreateSchemaStmt(CreateSchemaStmt) { authrole schema_elts } { schemaname if_not_exists }
    AlterTableStmt(AlterTableStmt) { relation cmds } { objtype missing_ok }
    AlterTableCmd(AlterTableCmd) { newowner def } { subtype name num behavior missing_ok recurse }
    AtAlterConstraint(AtalterConstraint) {} { conname alter_enforceability is_enforced alter_deferrability deferrable
        initdeferred alter_inheritability noinherit }
    ReplicaIdentityStmt(ReplicaIdentityStmt) {} { identity_type name }
    AlterCollationStmt(AlterCollationStmt) { collname } {}
    AlterDomainStmt(AlterDomainStmt) { type_name def } { subtype name behavior missing_ok }
    GrantStmt(GrantStmt) { objects privileges grantees grantor } { is_grant targtype objtype grant_option behavior }
    ObjectWithArgs(ObjectWithArgs) { objname objargs objfuncargs } { args_unspecified }
    AccessPriv(AccessPriv) { cols } { priv_name }
    GrantRoleStmt(GrantRoleStmt) { granted_roles grantee_roles opt grantor } { is_grant behavior }
    AlterDefaultPrivilegesStmt(AlterDefaultPrivilegesStmt) { options action } {}
    CopyStmt(CopyStmt) { relation query attlist options where_clause } { is_from is_program filename }
    VariableSetStmt(VariableSetStmt) { args } { kind name jumble_args is_local location }
    VariableShowStmt(VariableShowStmt) {} { name }
    CreateStmt(CreateStmt) { relation table_elts inh_relations partbound partspec of_typename constraints
        nnconstraints options } { oncommit tablespacename access_method if_not_exists }
    Constraint(Constraint) { raw_expr keys including exclusions options where_clause pktable fk_attrs pk_attrs
        fk_del_set_cols old_conpfeqop } { contype conname deferrable initdeferred is_enforced skip_validation
        initially_valid is_no_inherit cooked_expr generated_when generated_kind nulls_not_distinct without_overlaps
        indexname indexspace reset_default_tblspc access_method fk_with_period pk_with_period fk_matchtype
        fk_upd_action fk_del_action old_pktable_oid location }
    CreateTableSpaceStmt(CreateTableSpaceStmt) { owner options } { tablespacename location }
    DropTableSpaceStmt(DropTableSpaceStmt) {} { tablespacename missing_ok }
    AlterTableSpaceOptionsStmt(AlterTableSpaceOptionsStmt) { options } { tablespacename is_reset }
    AlterTableMoveAllStmt(AlterTableMoveAllStmt) { roles } { orig_tablespacename objtype new_tablespacename nowait }
    CreateExtensionStmt(CreateExtensionStmt) { options } { extname if_not_exists }
    AlterExtensionStmt(AlterExtensionStmt) { options } { extname }
    AlterExtensionContentsStmt(AlterExtensionContentsStmt) { object } { extname action objtype }
    CreateFdwStmt(CreateFdwStmt) { func_options options } { fdwname }
    AlterFdwStmt(AlterFdwStmt) { func_options options } { fdwname }
    CreateForeignServerStmt(CreateForeignServerStmt) { options } { servername servertype version fdwname if_not_exists }
    AlterForeignServerStmt(AlterForeignServerStmt) { options } { servername version has_version }
    CreateForeignTableStmt(CreateForeignTableStmt) { base_stmt options } { servername }
    CreateUserMappingStmt(CreateUserMappingStmt) { user options } { servername if_not_exists }
    AlterUserMappingStmt(AlterUserMappingStmt) { user options } { servername }
    DropUserMappingStmt(DropUserMappingStmt) { user } { servername missing_ok }
    ImportForeignSchemaStmt(ImportForeignSchemaStmt) { table_list options } { server_name remote_schema local_schema
        list_type }
    CreatePolicyStmt(CreatePolicyStmt) { table roles qual with_check } { policy_name cmd_name permissive }
    AlterPolicyStmt(AlterPolicyStmt) { table roles qual with_check } { policy_name }
    CreateAmStmt(CreateAmStmt) { handler_name } { amname amtype }
    CreateTrigStmt(CreateTrigStmt) { relation funcname args columns when_clause transition_rels constrrel } { replace
        isconstraint trigname row timing events deferrable initdeferred }
    CreateEventTrigStmt(CreateEventTrigStmt) { whenclause funcname } { trigname eventname }
    AlterEventTrigStmt(AlterEventTrigStmt) {} { trigname tgenabled }
    CreatePLangStmt(CreatePlangStmt) { plhandler plinline plvalidator } { replace plname pltrusted }
    CreateRoleStmt(CreateRoleStmt) { options } { stmt_type role }
    AlterRoleStmt(AlterRoleStmt) { role options } { action }
    AlterRoleSetStmt(AlterRoleSetStmt) { role setstmt } { database }
    DropRoleStmt(DropRoleStmt) { roles } { missing_ok }
    CreateSeqStmt(CreateSeqStmt) { sequence options } { owner_id for_identity if_not_exists }
    AlterSeqStmt(AlterSeqStmt) { sequence options } { for_identity missing_ok }
    DefineStmt(DefineStmt) { defnames args definition } { kind oldstyle if_not_exists replace }
    CreateDomainStmt(CreateDomainStmt) { domainname type_name coll_clause constraints } {}
    CreateOpClassStmt(CreateOpClassStmt) { opclassname opfamilyname datatype items } { amname is_default }
    CreateOpClassItem(CreateOpClassItem) { name order_family class_args storedtype } { itemtype number }
    CreateOpFamilyStmt(CreateOpFamilyStmt) { opfamilyname } { amname }
    AlterOpFamilyStmt(AlterOpFamilyStmt) { opfamilyname items } { amname is_drop }
    DropStmt(DropStmt) { objects } { remove_type behavior missing_ok concurrent }
    TruncateStmt(TruncateStmt) { relations } { restart_seqs behavior }
    CommentStmt(CommentStmt) { object } { objtype comment }
    SecLabelStmt(SecLabelStmt) { object } { objtype provider label }
    DeclareCursorStmt(DeclareCursorStmt) { query } { portalname options }
    ClosePortalStmt(ClosePortalStmt) {} { portalname }
    FetchStmt(FetchStmt) {} { direction how_many portalname ismove }
    IndexStmt(IndexStmt) { relation index_params index_including_params options where_clause exclude_op_names } {
        idxname access_method table_space idxcomment index_oid old_number old_create_subid
        old_first_relfilelocator_subid unique nulls_not_distinct primary isconstraint iswithoutoverlaps deferrable
        initdeferred transformed concurrent if_not_exists reset_default_tblspc }
    CreateStatsStmt(CreateStatsStmt) { defnames stat_types exprs relations } { stxcomment transformed if_not_exists }
    StatsElem(StatsElem) { expr } { name }
    AlterStatsStmt(AlterStatsStmt) { defnames stxstattarget } { missing_ok }
    CreateFunctionStmt(CreateFunctionStmt) { funcname parameters return_type options sql_body } { is_procedure replace }
    FunctionParameter(FunctionParameter) { arg_type defexpr } { name mode location }
    AlterFunctionStmt(AlterFunctionStmt) { func actions } { objtype }
    DoStmt(DoStmt) { args } {}
    CallStmt(CallStmt) { funccall outargs } { funcexpr }
    RenameStmt(RenameStmt) { relation object } { rename_type relation_type subname newname behavior missing_ok }
    AlterObjectDependsStmt(AlterObjectDependsStmt) { relation object extname } { object_type remove }
    AlterObjectSchemaStmt(AlterObjectSchemaStmt) { relation object } { object_type newschema missing_ok }
    AlterOwnerStmt(AlterOwnerStmt) { relation object newowner } { object_type }
    AlterOperatorStmt(AlterOperatorStmt) { opername options } {}
    AlterTypeStmt(AlterTypeStmt) { type_name options } {}
    RuleStmt(RuleStmt) { relation where_clause actions } { rulename event instead replace }
    NotifyStmt(NotifyStmt) {} { conditionname payload payload_location }
    ListenStmt(ListenStmt) {} { conditionname }
    UnlistenStmt(UnlistenStmt) {} { conditionname }
    TransactionStmt(TransactionStmt) { options } { kind savepoint_name gid chain location }
    CompositeTypeStmt(CompositeTypeStmt) { typevar coldeflist } {}
    CreateEnumStmt(CreateEnumStmt) { type_name vals } {}
    CreateRangeStmt(CreateRangeStmt) { type_name params } {}
    AlterEnumStmt(AlterEnumStmt) { type_name } { old_val new_val new_val_neighbor new_val_is_after
        skip_if_new_val_exists }
    ViewStmt(ViewStmt) { view aliases query options } { replace with_check_option }
    LoadStmt(LoadStmt) {} { filename }
    CreatedbStmt(CreatedbStmt) { options } { dbname }
    AlterDatabaseStmt(AlterDatabaseStmt) { options } { dbname }
    AlterDatabaseRefreshCollStmt(AlterDatabaseRefreshCollStmt) {} { dbname }
    AlterDatabaseSetStmt(AlterDatabaseSetStmt) { setstmt } { dbname }
    DropdbStmt(DropdbStmt) { options } { dbname missing_ok }
    AlterSystemStmt(AlterSystemStmt) { setstmt } {}
    ClusterStmt(ClusterStmt) { relation params } { indexname }
    VacuumStmt(VacuumStmt) { options rels } { is_vacuumcmd }
    VacuumRelation(VacuumRelation) { relation va_cols } { oid }
    ExplainStmt(ExplainStmt) { query options } {}
    CreateTableAsStmt(CreateTableAsStmt) { query into } { objtype is_select_into if_not_exists }
    RefreshMatViewStmt(RefreshMatViewStmt) { relation } { concurrent skip_data }
    CheckPointStmt(CheckPointStmt) {} {}
    DiscardStmt(DiscardStmt) {} { target }
    LockStmt(LockStmt) { relations } { mode nowait }
    ConstraintsSetStmt(ConstraintsSetStmt) { constraints } { deferred }
    ReindexStmt(ReindexStmt) { relation params } { kind name }
    CreateConversionStmt(CreateConversionStmt) { conversion_name func_name } { for_encoding_name to_encoding_name def }
    CreateCastStmt(CreateCastStmt) { sourcetype targettype func } { context inout }
    CreateTransformStmt(CreateTransformStmt) { type_name fromsql tosql } { replace lang }
    PrepareStmt(PrepareStmt) { argtypes query } { name }
    ExecuteStmt(ExecuteStmt) => execute { params } { name }
    DeallocateStmt(DeallocateStmt) {} { name isall location }
    DropOwnedStmt(DropOwnedStmt) { roles } { behavior }
    ReassignOwnedStmt(ReassignOwnedStmt) { roles newrole } {}
    AlterTsDictionaryStmt(AlterTsdictionaryStmt) { dictname options } {}
    AlterTsConfigurationStmt(AlterTsconfigurationStmt) { cfgname tokentype dicts } { kind r#override replace
        missing_ok }
    PublicationTable(PublicationTable) { relation where_clause columns } {}
    PublicationObjSpec(PublicationObjSpec) { pubtable } { pubobjtype name location }
    CreatePublicationStmt(CreatePublicationStmt) { options pubobjects } { pubname for_all_tables }
    AlterPublicationStmt(AlterPublicationStmt) { options pubobjects } { pubname for_all_tables action }
    CreateSubscriptionStmt(CreateSubscriptionStmt) { publication options } { subname conninfo conninfo_location }
    AlterSubscriptionStmt(AlterSubscriptionStmt) { publication options } { kind subname conninfo conninfo_location }
    DropSubscriptionStmt(DropSubscriptionStmt) {} { subname missing_ok behavior }
    Integer(Integer) {} { ival }
    Float(Float) {} { fval }
    Boolean(Boolean) {} { boolval }
    String(String) => string {} { sval }
    BitString(BitString) {} { bsval }
    List(List) { items } {}
    AConst(AConst) {} { isnull location val }
}
