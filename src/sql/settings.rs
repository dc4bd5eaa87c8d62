//! Settings by name: which answer alike on every node, and what changing one does to the session.

use super::effects::Effects;
use super::leftovers::{REPORTED_FOR_LITERALS, UNREPORTED_FOR_LITERALS};
use super::session_change::{Scope, SessionChange, SetTo};
use super::statement::{Isolation, NeedsPrimary, Pin, TransactionControl, TransactionModes};

/// The name that PostgreSQL knows a setting by, in lower case: some have kept an older one, too.
pub fn setting_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match &*name {
        "sort_mem" => "work_mem".to_owned(),
        "vacuum_mem" => "maintenance_work_mem".to_owned(),
        _ => name,
    }
}

/// SHOW or current_setting of `name`, which is in lower case.
pub(super) fn read(name: &str, effects: &mut Effects<'_>) {
    if name.starts_with("trunkline.") {
        effects.leave(SessionChange::Ask);
    }
    if !answers_alike(name) {
        effects.require(NeedsPrimary::NodeSetting(name.into()));
    }
}

/// Every node answers alike when asked for this setting, which is in lower case.
pub fn answers_alike(name: &str) -> bool {
    name.contains('.') || OF_SESSION.binary_search(&name).is_ok()
}

/// Any user may set it.
pub fn is_anybodys(name: &str) -> bool {
    /// Of those below, the ones that need a superuser, or the right to set them.
    const PRIVILEGED: [&str; 3] = ["lc_messages", "log_parameter_max_length_on_error", "session_replication_role"];
    /// Libraries with settings that need them, too.
    const LIBRARIES: [&str; 9] = [
        "auto_explain",
        "pg_qualstats",
        "pg_stat_kcache",
        "pg_stat_monitor",
        "pg_stat_statements",
        "pg_wait_sampling",
        "pgaudit",
        "plperl",
        "plpgsql",
    ];
    /// Those of these libraries that need nothing.
    const OF_ANYBODY: [&str; 5] = [
        "plperl.use_strict",
        "plpgsql.check_asserts",
        "plpgsql.extra_errors",
        "plpgsql.extra_warnings",
        "plpgsql.print_strict_params",
    ];
    let is_privileged = match name.split_once('.') {
        Some((library, _)) => LIBRARIES.contains(&library) && !OF_ANYBODY.contains(&name),
        None => PRIVILEGED.contains(&name),
    };
    answers_alike(name) && !is_privileged
}

/// It says who the session is, and so what it may set.
pub fn is_identity(name: &str) -> bool {
    matches!(name, "role" | "session_authorization")
}

/// SET or set_config of `name`, which is in lower case, to a value (None: it is not a plain literal).
pub(super) fn change(name: &str, scope: Scope, value: Option<&str>, effects: &mut Effects<'_>) {
    match name {
        "transaction_read_only" => {
            let read_only = value.and_then(boolean);
            set_modes(TransactionModes { read_only, ..TransactionModes::default() }, name, effects);
            if read_only != Some(true) {
                effects.require(NeedsPrimary::NodeSetting(name.into()));
            }
        }
        "transaction_isolation" => {
            let isolation = value.and_then(Isolation::from_setting);
            set_modes(TransactionModes { isolation, ..TransactionModes::default() }, name, effects);
            if isolation.is_none_or(|level| level == Isolation::Serializable) {
                effects.require(NeedsPrimary::NodeSetting(name.into()));
            }
        }
        "transaction_deferrable" => {
            let deferrable = value.and_then(boolean);
            set_modes(TransactionModes { deferrable, ..TransactionModes::default() }, name, effects);
        }
        // The state of random() cannot be read back, so it cannot be carried to another connection. No end of a transaction takes
        // it back, and no DISCARD ALL.
        "seed" => {
            effects.require(NeedsPrimary::NodeSetting(name.into()));
            effects.pin(Pin::State);
        }
        _ => effects.leave(SessionChange::Setting { name: name.into(), to: SetTo::Value, scope }),
    }
}

/// Where names are looked for depends on these settings.
pub(super) const FOR_NAMES: [&str; 3] = ["search_path", "role", "session_authorization"];

/// `set_config(name, …, true)` of a name that only running it tells: whatever a session's statements depend on may be set, up to
/// the end of the transaction. Its modes cannot be any more: the call has taken a snapshot.
pub(super) fn change_any_locally(effects: &mut Effects<'_>) {
    let of_literals = REPORTED_FOR_LITERALS.iter().chain(&UNREPORTED_FOR_LITERALS);
    for name in FOR_NAMES.iter().chain(of_literals) {
        let name = name.to_ascii_lowercase().into();
        effects.leave(SessionChange::Setting { name, to: SetTo::Value, scope: Scope::Transaction });
    }
}

/// What is set stays beyond its transaction, and its value tells all of it.
pub fn is_carried(name: &str) -> bool {
    !matches!(name, "transaction_read_only" | "transaction_isolation" | "transaction_deferrable" | "seed")
}

/// RESET of `name`, which is in lower case, or SET TO DEFAULT.
pub(super) fn reset(name: &str, scope: Scope, effects: &mut Effects<'_>) {
    match (name, scope) {
        ("transaction_read_only" | "transaction_isolation" | "transaction_deferrable", Scope::Session) => {
            effects.require(NeedsPrimary::NodeSetting(name.into()));
        }
        ("transaction_read_only" | "transaction_isolation" | "transaction_deferrable" | "seed", Scope::Transaction) => {
            change(name, scope, None, effects);
        }
        _ => effects.leave(SessionChange::Setting { name: name.into(), to: SetTo::Default, scope }),
    }
}

/// The modes of this transaction; one that is set twice in a statement is as good as unknown.
fn set_modes(modes: TransactionModes, name: &str, effects: &mut Effects<'_>) {
    if effects.transaction == TransactionControl::None {
        effects.transaction = TransactionControl::Set(modes);
    } else {
        effects.require(NeedsPrimary::NodeSetting(name.into()));
    }
}

/// A boolean as PostgreSQL reads it in settings: any unambiguous beginning of the words.
pub(super) fn boolean(value: &str) -> Option<bool> {
    let value = value.trim().to_ascii_lowercase();
    let begins = |word: &str, at_least: usize| value.len() >= at_least && word.starts_with(&value);
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}

/// Settings that a session owns (any user may SET them, and what was set is carried to every node), and facts that are
/// alike in a whole replica set. Not here: what comes from a node's configuration file or from its role
/// (transaction_read_only, in_hot_standby). Sorted. PostgreSQL 15 to 18.
#[rustfmt::skip]
const OF_SESSION: &[&str] = &[
    "application_name", "array_nulls", "backend_flush_after", "backslash_quote", "block_size", "bytea_output",
    "check_function_bodies", "client_connection_check_interval", "client_encoding", "client_min_messages",
    "commit_siblings", "constraint_exclusion", "cpu_index_tuple_cost", "cpu_operator_cost", "cpu_tuple_cost",
    "createrole_self_grant", "cursor_tuple_fraction", "data_checksums", "datestyle", "debug_parallel_query",
    "debug_pretty_print", "debug_print_parse", "debug_print_plan", "debug_print_rewritten",
    "default_statistics_target", "default_table_access_method", "default_tablespace", "default_text_search_config",
    "default_toast_compression", "default_transaction_deferrable", "default_transaction_isolation",
    "default_transaction_read_only", "effective_cache_size", "effective_io_concurrency", "enable_async_append",
    "enable_bitmapscan", "enable_distinct_reordering", "enable_gathermerge", "enable_group_by_reordering",
    "enable_hashagg", "enable_hashjoin", "enable_incremental_sort", "enable_indexonlyscan", "enable_indexscan",
    "enable_material", "enable_memoize", "enable_mergejoin", "enable_nestloop", "enable_parallel_append",
    "enable_parallel_hash", "enable_partition_pruning", "enable_partitionwise_aggregate", "enable_partitionwise_join",
    "enable_presorted_aggregate", "enable_self_join_elimination", "enable_seqscan", "enable_sort", "enable_tidscan",
    "escape_string_warning", "exit_on_error", "extra_float_digits", "file_copy_method", "force_parallel_mode",
    "from_collapse_limit", "geqo", "geqo_effort", "geqo_generations", "geqo_pool_size", "geqo_seed",
    "geqo_selection_bias", "geqo_threshold", "gin_fuzzy_search_limit", "gin_pending_list_limit",
    "hash_mem_multiplier", "icu_validation_level", "idle_in_transaction_session_timeout", "idle_session_timeout",
    "integer_datetimes", "intervalstyle", "io_combine_limit", "is_superuser", "jit", "jit_above_cost",
    "jit_expressions", "jit_inline_above_cost", "jit_optimize_above_cost", "jit_tuple_deforming",
    "join_collapse_limit", "lc_collate", "lc_ctype", "lc_messages", "lc_monetary", "lc_numeric", "lc_time",
    "local_preload_libraries", "lock_timeout", "log_parameter_max_length_on_error", "logical_decoding_work_mem",
    "maintenance_io_concurrency", "maintenance_work_mem", "max_function_args", "max_identifier_length",
    "max_index_keys", "max_parallel_maintenance_workers", "max_parallel_workers", "max_parallel_workers_per_gather",
    "min_parallel_index_scan_size", "min_parallel_table_scan_size", "parallel_leader_participation",
    "parallel_setup_cost", "parallel_tuple_cost", "password_encryption", "plan_cache_mode", "quote_all_identifiers",
    "random_page_cost", "recursive_worktable_factor", "restrict_nonsystem_relation_kind", "role", "row_security",
    "scram_iterations", "search_path", "segment_size", "seq_page_cost", "server_encoding", "server_version",
    "server_version_num", "session_authorization", "session_replication_role", "standard_conforming_strings",
    "statement_timeout", "stats_fetch_consistency", "synchronize_seqscans", "synchronous_commit",
    "tcp_keepalives_count", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_user_timeout", "temp_buffers",
    "temp_tablespaces", "timezone", "timezone_abbreviations", "trace_notify", "trace_sort", "transaction_deferrable",
    "transaction_isolation", "transaction_timeout", "transform_null_equals", "vacuum_buffer_usage_limit",
    "vacuum_cost_delay", "vacuum_cost_limit", "vacuum_cost_page_dirty", "vacuum_cost_page_hit",
    "vacuum_cost_page_miss", "vacuum_failsafe_age", "vacuum_freeze_min_age", "vacuum_freeze_table_age",
    "vacuum_max_eager_freeze_failure_rate", "vacuum_multixact_failsafe_age", "vacuum_multixact_freeze_min_age",
    "vacuum_multixact_freeze_table_age", "vacuum_truncate", "wal_block_size", "wal_segment_size",
    "wal_sender_timeout", "wal_skip_threshold", "work_mem", "xmlbinary", "xmloption",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted() {
        assert!(OF_SESSION.is_sorted());
    }

    #[test]
    fn booleans_are_read_by_their_unambiguous_beginnings() {
        assert_eq!(boolean("TR"), Some(true));
        assert_eq!(boolean("of"), Some(false));
        assert_eq!(boolean("o"), None);
        assert_eq!(boolean(""), None);
    }
}
