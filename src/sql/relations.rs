//! The relations that PostgreSQL itself brings along: which of them answer alike on every node.

use super::statement::{Kind, Name, NeedsPrimary, Part};

/// What is known of a relation by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// A table, a view, or a system catalog, which is replicated like any table.
    Table,
    /// In a schema of temporary objects.
    Temporary,
    /// Its rows tell of one node: its processes, files, settings or sequences.
    DiffersBetweenNodes,
}

/// What is known of the relation. One that is not PostgreSQL's own is taken for a table.
pub(super) fn judge(name: &Name) -> Judgement {
    match name.schema.as_deref() {
        Some(schema) if is_temporary_schema(schema) => Judgement::Temporary,
        // The rows behind an unlogged table's long values: not on a standby.
        Some("pg_toast") => Judgement::DiffersBetweenNodes,
        Some("pg_catalog") => judge_system(&name.name),
        None if TOLD_BY_NAME.iter().any(|beginning| name.name.starts_with(beginning)) => judge_system(&name.name),
        _ => Judgement::Table,
    }
}

/// A relation of this name is one of PostgreSQL's own that answers alike on every node, where it is PostgreSQL's at all.
pub fn is_replicated(name: &str) -> bool {
    name.starts_with("pg_") && judge_system(name) == Judgement::Table
}

/// The rows of this relation tell of one node, if it is PostgreSQL's own; its name is not qualified.
pub fn differs_between_nodes(name: &str) -> bool {
    name.starts_with("pg_") && judge_system(name) == Judgement::DiffersBetweenNodes
}

/// It reads nothing but rows that tell of the server connection on which it runs, and needs the primary for nothing else that its
/// text shows.
pub fn only_asks_connection(part: &Part) -> bool {
    let tells_of_connection = |name: &Name| {
        matches!(name.schema.as_deref(), None | Some("pg_catalog"))
            && matches!(&*name.name, "pg_cursors" | "pg_prepared_statements")
    };
    matches!(part.needs_primary, Some(NeedsPrimary::Relation(_)))
        && part.kind == Kind::Select
        && part.session.is_empty()
        && part.functions.is_empty()
        && !part.writes
        && !part.tables.is_empty()
        && part.tables.iter().all(tells_of_connection)
}

/// The schema of temporary objects, by its alias or by its name.
pub(super) fn is_temporary_schema(schema: &str) -> bool {
    schema == "pg_temp" || schema.starts_with("pg_temp_") || schema.starts_with("pg_toast_temp_")
}

fn judge_system(name: &str) -> Judgement {
    if REPLICATED.binary_search(&name).is_ok() { Judgement::Table } else { Judgement::DiffersBetweenNodes }
}

/// What is called like this tells of one node. Of other names that begin with `pg_` the catalogs tell whether they are
/// PostgreSQL's own: users and extensions have some, too.
const TOLD_BY_NAME: &[&str] = &[
    "pg_aios",
    "pg_available_extension",
    "pg_backend_memory_contexts",
    "pg_config",
    "pg_cursors",
    "pg_dsm_",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_locks",
    "pg_prepared_",
    "pg_replication_",
    "pg_sequences",
    "pg_settings",
    "pg_shmem_",
    "pg_stat_",
    "pg_statio_",
    "pg_wait_events",
];

/// Catalogs, which are replicated, and the views that read nothing but catalogs. Sorted.
///
/// Not here, because they tell of one node:
/// - its processes and their doings: pg_stat_*, pg_statio_*, pg_locks, pg_wait_events, pg_aios;
/// - its transactions: pg_prepared_xacts (a standby shows none), pg_replication_slots, pg_replication_origin_status;
/// - its sessions: pg_cursors, pg_prepared_statements (of that server connection, not of the client's session);
/// - its files and memory: pg_settings, pg_file_settings, pg_hba_file_rules, pg_ident_file_mappings, pg_config,
///   pg_available_extensions, pg_available_extension_versions, pg_backend_memory_contexts, pg_shmem_allocations;
/// - its sequences: pg_sequences (a standby's last_value is up to 32 ahead).
///
/// The time zones' views read files too, but of one release they are alike.
const REPLICATED: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_attrdef",
    "pg_attribute",
    "pg_auth_members",
    "pg_authid",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_database",
    "pg_db_role_setting",
    "pg_default_acl",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_group",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_init_privs",
    "pg_language",
    "pg_largeobject",
    "pg_largeobject_metadata",
    "pg_matviews",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_parameter_acl",
    "pg_partitioned_table",
    "pg_policies",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_range",
    "pg_replication_origin",
    "pg_rewrite",
    "pg_roles",
    "pg_rules",
    "pg_seclabel",
    "pg_seclabels",
    "pg_sequence",
    "pg_shadow",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_statistic",
    "pg_statistic_ext",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
    "pg_subscription",
    "pg_subscription_rel",
    "pg_tables",
    "pg_tablespace",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
    "pg_user",
    "pg_user_mapping",
    "pg_user_mappings",
    "pg_views",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(REPLICATED.is_sorted());
    }
}
