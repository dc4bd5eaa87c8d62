//! The name, kind, labels and help of every metric: a change here is a change to the product.

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

/// One metric with all its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// What Prometheus calls it.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells, with its unit.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Family = Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// Every metric there is.
        pub const ALL: &[Family] = &[$($id),*];
    };
}

families! {
    // Clients.
    CLIENTS = Gauge "trunkline_clients" [] "Clients connected now.";
    REPLICATION_CLIENTS = Gauge "trunkline_replication_clients" [] "Clients connected now for replication, each with a server connection of its own.";
    PARKED_CLIENTS = Gauge "trunkline_parked_clients" [] "Clients that have said nothing for a while and are kept in little room until they do.";
    CLIENTS_ACCEPTED = Counter "trunkline_clients_accepted_total" [] "Connections of clients accepted.";
    CLIENTS_REFUSED = Counter "trunkline_clients_refused_total" ["cause"] "Connections turned away before a login, by cause.";
    LOGINS = Counter "trunkline_logins_total" [] "Logins of clients that succeeded, but for those at the console.";
    LOGIN_FAILURES = Counter "trunkline_login_failures_total" ["cause"] "Logins of clients that failed, by cause.";
    RECEIVED_BYTES = Counter "trunkline_client_received_bytes_total" [] "Bytes received from clients.";
    SENT_BYTES = Counter "trunkline_client_sent_bytes_total" [] "Bytes sent to clients.";

    // Statements.
    STATEMENTS = Counter "trunkline_statements_total" ["target", "reason"] "Statements routed, by the role they went to and the reason of the decision: each Query, Execute and FunctionCall is one.";
    STATEMENT_DURATION = Histogram "trunkline_statement_duration_seconds" ["target"] "Seconds from when a statement has its server connection to the end of its answer, by the role it went to. Those of a batch or pipeline that are answered together share their time.";
    CACHE_LOOKUPS = Counter "trunkline_statement_cache_lookups_total" ["result"] "Look-ups in the statement caches: found by text, found by shape, or missed and parsed.";
    CACHE_ENTRIES = Gauge "trunkline_statement_cache_entries" [] "Statements in the statement caches now.";
    CACHE_BYTES = Gauge "trunkline_statement_cache_bytes" [] "Bytes that the statement caches take now.";
    PARSE_SECONDS = Counter "trunkline_parse_seconds_total" [] "Seconds spent in PostgreSQL's parser.";
    RULE_MATCHES = Counter "trunkline_rule_matches_total" ["rule"] "Statements that a routing rule decided, by its configured name.";
    CATALOG_CURRENT = Gauge "trunkline_catalog_current" ["database"] "1 while what is known of the database's functions, views and tables is believed, 0 while it is not loaded or has just changed.";
    CATALOG_OBJECTS = Gauge "trunkline_catalog_objects" ["database"] "Relations, functions and types known of the database.";
    CATALOG_BYTES = Gauge "trunkline_catalog_bytes" ["database"] "Bytes that the picture of the database's catalogs takes, about.";
    CATALOG_AGE = Gauge "trunkline_catalog_age_seconds" ["database"] "Seconds since the picture of the database's catalogs was last found to be true; absent while there is none.";
    CATALOG_LOAD = Gauge "trunkline_catalog_load_seconds" ["database"] "Seconds that the last load of the database's catalogs took.";
    CATALOG_LOOKS = Counter "trunkline_catalog_looks_total" ["database", "outcome"] "Looks at the database's catalogs, by what they found: loaded anew, unchanged, or failed.";
    RULE_WOULD_CHANGE = Counter "trunkline_rule_would_change_total" ["rule"] "Statements that would have gone elsewhere by a shadow rule, by its configured name.";
    FRESHNESS_WAIT = Histogram "trunkline_freshness_wait_seconds" [] "Seconds that reads waited for a replica to reach what their session has seen.";
    FRESHNESS_WAITS = Counter "trunkline_freshness_waits_total" ["outcome"] "Waits of reads for a fresh replica, by where the read went in the end.";

    // Server connections.
    LEASE_WAIT = Histogram "trunkline_lease_wait_seconds" [] "Seconds that was waited for each server connection, in vain, too, and 0 where it was there at once: to be free or to be opened, not for a primary, a replica that is fresh, or the end of a pause.";
    PINS = Counter "trunkline_pins_total" ["pin"] "Sessions that began to keep their server connection, by what made them.";
    PREPARED_REPLAYS = Counter "trunkline_prepared_replays_total" [] "Prepared statements, of the protocol or of SQL, made again on a server connection that lacked them or had them with other columns.";
    PARAMETER_REPLAYS = Counter "trunkline_parameter_replays_total" [] "Settings made again on a server connection that lacked them.";
    POOL_CONNECTIONS = Gauge "trunkline_pool_connections" ["cluster", "node", "database", "user", "state"] "Server connections now, by pool and state (idle, leased, opening).";
    POOL_SIZE = Gauge "trunkline_pool_size" ["cluster", "node", "database", "user"] "Most server connections that the pool may have.";
    POOL_WAITING = Gauge "trunkline_pool_waiting_clients" ["cluster", "node", "database", "user"] "Clients that wait now for a server connection of the pool.";
    POOL_OPENED = Counter "trunkline_pool_connections_opened_total" ["cluster", "node", "database", "user"] "Server connections that the pool has opened.";
    POOL_OPEN_FAILURES = Counter "trunkline_pool_connection_failures_total" ["cluster", "node", "database", "user"] "Server connections that the pool could not open.";

    DATABASE_PAUSED = Gauge "trunkline_database_paused" ["database"] "1 while new statements of the database wait because of PAUSE or KILL, else 0.";
    DATABASE_DISABLED = Gauge "trunkline_database_disabled" ["database"] "1 while new clients of the database are refused because of DISABLE, else 0.";

    // Failures.
    HOLDS = Gauge "trunkline_held_statements" [] "Statements that wait now for a primary, or for one that could not be connected to.";
    HOLD_WAIT = Histogram "trunkline_hold_wait_seconds" [] "Seconds that statements waited for a primary, or for one that could not be connected to.";
    RETRIES = Counter "trunkline_retries_total" ["cause"] "Statements run again unseen by their client, by cause.";
    LOSSES = Counter "trunkline_transactions_lost_total" ["outcome"] "Transactions whose node was lost, by what is known of them: rolled_back (40001), unknown (08007), cut_short (08006), each 57P01 where the session ended with it, replay_differed (40001).";
    LIMITS_MET = Counter "trunkline_limits_met_total" ["limit", "sqlstate"] "Clients and statements that a configured limit has refused or ended, by the limit and the SQLSTATE they got.";
    ERRORS_SENT = Counter "trunkline_errors_sent_total" ["sqlstate"] "Errors that Trunkline itself sent to clients, but for the console's, by SQLSTATE; and those that it could not send to a client whose node was lost in the middle of a row.";
    CANCELS = Counter "trunkline_cancels_total" ["outcome"] "Cancel requests of clients, by what became of them.";
    VIOLATIONS = Counter "trunkline_protocol_violations_total" ["side"] "Messages that broke the protocol, by who sent them.";

    // Topology.
    CLUSTER_EPOCH = Gauge "trunkline_cluster_epoch" ["cluster"] "Epoch of the cluster's view: rises by one whenever the primary changes, is lost or is found again.";
    CLUSTER_PRIMARY = Gauge "trunkline_cluster_primary_known" ["cluster"] "1 while the cluster has a confirmed primary, else 0.";
    CLUSTER_NO_PRIMARY = Gauge "trunkline_cluster_no_primary" ["cluster", "cause"] "1 for the cause why the cluster has no primary, 0 for the others, and for all while it has one.";
    CLUSTER_STANDBY = Gauge "trunkline_cluster_standby" ["cluster"] "1 while the cluster follows another one and so has no primary, else 0.";
    NODE_UP = Gauge "trunkline_node_up" ["cluster", "node"] "1 while the node answers probes and is usable, else 0.";
    NODE_ROLE = Gauge "trunkline_node_role" ["cluster", "node", "role"] "1 for the role that the node has, 0 for the others.";
    NODE_STATE = Gauge "trunkline_node_state" ["cluster", "node", "state"] "1 for the state that the node is in, 0 for the others.";
    NODE_TAKES_READS = Gauge "trunkline_node_takes_reads" ["cluster", "node"] "1 while the node is a replica that may take reads, else 0.";
    NODE_LAG_BYTES = Gauge "trunkline_node_lag_bytes" ["cluster", "node"] "Bytes of write-ahead log between what the primary has flushed and what the replica has replayed; absent while unknown.";
    NODE_LAG = Gauge "trunkline_node_lag_seconds" ["cluster", "node"] "Seconds that the replica is behind the primary, by Trunkline's clock; absent while unknown.";
    PROBE_DURATION = Histogram "trunkline_probe_duration_seconds" ["cluster", "node"] "Seconds that probes of the node took, failed ones included.";
    PROBE_FAILURES = Counter "trunkline_probe_failures_total" ["cluster", "node"] "Probes of the node that failed.";
    MONITOR_CAN_LOG_IN = Gauge "trunkline_monitor_can_log_in" ["cluster", "node"] "0 while the monitor's last attempt to log in to the node anew has failed, else 1; a node that answers on its old connection stays up meanwhile.";

    // The process.
    BUILD = Gauge "trunkline_build_info" ["version"] "Always 1; the label tells Trunkline's version.";
    UPTIME = Gauge "trunkline_uptime_seconds" [] "Seconds since the process began.";
    PREDECESSOR = Gauge "trunkline_predecessor" [] "1 while the process that this one has taken over from is still there for the clients that it had, else 0. Nobody scrapes that one.";
    CONFIG_SUCCESSFUL = Gauge "trunkline_config_last_reload_successful" [] "1 if the configuration was taken when it was read last, at the start or by a reload; 0 if it was wrong, and an earlier one stays in force.";
    CONFIG_SUCCESS = Gauge "trunkline_config_last_reload_success_timestamp_seconds" [] "Seconds since 1970 at which a configuration was last read and taken.";
    CERTIFICATE_EXPIRY = Gauge "trunkline_certificate_expiry_timestamp_seconds" ["use", "cluster"] "Seconds since 1970 at which the first certificate ends of those that are shown: to clients, and of a cluster to its nodes and to patroni. Absent where none is shown.";
    WORKERS = Gauge "trunkline_workers" [] "Threads that serve clients.";
    WORKER_SILENCE = Gauge "trunkline_worker_silence_seconds" ["worker"] "Seconds that the thread has owed a sign of life, for which it is asked once a second: near 0 while it turns.";
}
