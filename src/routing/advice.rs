//! What would have to change for a statement to be balanced, by the reason why it is not.

use super::Reason;

/// What would have to change for such statements to be read from replicas; empty: they are.
pub fn advice(reason: Reason) -> &'static str {
    match reason {
        Reason::Read | Reason::Stale | Reason::ReadOnlyTransaction | Reason::OptimisticTransaction => "",
        Reason::Transaction => {
            "begin it READ ONLY, send its reads outside of a transaction, or set routing.transactions to \"optimistic\""
        }
        Reason::Rule => "change the rule that sends it there",
        Reason::Hint => "change the hint in its comment",
        Reason::TooFarBehind => "give its rule or hint a larger max_lag, or let the replicas replay faster",
        Reason::FellBack => "SHOW NODES says why the nodes that its rule or hint names take no reads",
        Reason::CatalogUnknown => "nothing: it lasts until the catalogs have been read",
        Reason::UnknownRelation => "name it as the catalogs have it; a new one is known within routing.catalog_refresh",
        Reason::Unlogged => "ALTER TABLE … SET LOGGED",
        Reason::ForeignTable => "nothing: whose data a node sees through it is not known",
        Reason::View | Reason::Policy | Reason::Operator | Reason::Cast | Reason::Domain => {
            "declare the function that it calls STABLE or IMMUTABLE if it does not write"
        }
        Reason::Refused => "change the rule that refuses it",
        Reason::ReadsPrimary => "set routing.reads to \"replicas\"",
        Reason::NoReplica => "SHOW NODES says why no replica takes reads",
        Reason::NotFresh => {
            "replicas lag behind what its session has written: let them replay faster, wait longer (routing.freshness_wait), \
             or ask for less (routing.consistency)"
        }
        Reason::Retried => {
            "trunkline_retries_total says why: it calls something that writes and is not declared so (read_only), a replica \
             lacks what it names or its session has set (replica_error), or replay was in its way (recovery_conflict)"
        }
        Reason::Serializable => "use REPEATABLE READ for transactions that only read",
        Reason::Writes | Reason::ChangesSchema | Reason::CopyIn => "nothing: it writes",
        Reason::LocksRows => "leave FOR UPDATE or FOR SHARE out where nothing is written afterwards",
        Reason::LocksTable => "nothing: a lock counts only on the primary",
        Reason::Function => "nothing, as long as it calls that function",
        Reason::UnknownFunction => "declare the function STABLE or IMMUTABLE if it does not write",
        Reason::Relation => "nothing: each node has its own answer",
        Reason::Temporary => "nothing: a replica has no temporary tables",
        Reason::Notifications => "nothing: a replica has no notifications",
        Reason::CopyFile => "nothing: files are on the primary",
        Reason::HoldCursor => "declare the cursor without WITH HOLD, in a READ ONLY transaction",
        Reason::UnknownName => "prepare it, or declare its cursor, in the same session first",
        Reason::Procedural => "call a function that reads instead of CALL or DO",
        Reason::Maintenance | Reason::TwoPhase | Reason::LoadsLibrary => "nothing: it is the primary's work",
        Reason::NodeSetting => "do not ask for it where the answer of any node would do",
        Reason::Unparsed => "nothing: PostgreSQL will refuse it",
        Reason::TooLarge => "raise limits.statement_bytes",
        Reason::UnknownStatement => "nothing: Trunkline does not know it",
        Reason::FunctionCall => "call the function by SELECT",
        Reason::PinnedTemporary => "drop the temporary objects, or use DISCARD, when they are no longer needed",
        Reason::PinnedListen => "listen on a connection of its own, or UNLISTEN",
        Reason::PinnedAdvisoryLock => "use locks of the transaction (pg_advisory_xact_lock), or unlock",
        Reason::PinnedHoldCursor => "close the cursor",
        Reason::PinnedLoad => "let the server load the library (session_preload_libraries)",
        Reason::PinnedUnknownSetting => {
            "call set_config with the setting's name as a constant; RESET what a role has set before leaving that role"
        }
        Reason::PinnedState => "do it on a connection of its own, and leave when it is done",
        Reason::PinnedSequence => "take the value from INSERT … RETURNING instead of currval",
        Reason::SessionMode => "set pool.mode to \"transaction\"",
    }
}
