//! The values that labels can have: fixed sets, so that nobody outside can make a new time series. What is said of each here
//! stands in the manual, too.

use crate::sql::Pin;
use crate::topology::{NodeState, Role};

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[doc = $meaning:literal])* $variant:ident = $code:literal,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $meaning])* $variant,)* }

        impl $name {
            /// Every label value, in the order of the variants.
            pub const CODES: [&'static str; [$($code),*].len()] = [$($code),*];

            /// What each means, for operators.
            #[cfg(test)]
            pub(super) const MEANINGS: [&'static str; Self::CODES.len()] = [$(concat!($($meaning),*)),*];

            /// Its label value.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            #[inline]
            pub(super) const fn index(self) -> usize {
                self as usize
            }
        }
    )* };
}

labels! {
    /// The role of the node that a statement went to.
    Target {
        /// The primary.
        Primary = "primary",
        /// A replica.
        Replica = "replica",
        /// No node: answered or refused by Trunkline itself.
        None = "none",
    }

    /// Why a connection was turned away before anybody logged in.
    Refusal {
        /// `max_clients` are connected.
        TooManyClients = "too_many_clients",
        /// Trunkline is stopping.
        Draining = "draining",
        /// The first bytes are not PostgreSQL's startup: HTTP, TLS without a request for it, a port scan.
        NotPostgres = "not_postgres",
        /// TLS is demanded and the client would not, or could not.
        Tls = "tls",
        /// The operating system would not give us the connection (no file descriptor, no memory).
        System = "system",
    }

    /// Why a login failed.
    LoginFailure {
        /// The password, or the proof of it, is wrong.
        Password = "password",
        /// The user is not configured.
        UnknownUser = "unknown_user",
        /// The database is not configured, or its node has none of that name.
        UnknownDatabase = "unknown_database",
        /// The database takes no new clients, because of DISABLE.
        Disabled = "disabled",
        /// Access rules do not let this user in from there, or it may not use the console.
        NotAllowed = "not_allowed",
        /// Too many have failed from its address: it would have had to wait too long.
        Throttled = "throttled",
        /// It took longer than `limits.login_timeout`, for its client's sake.
        Timeout = "timeout",
        /// No node could tell what must be known of the user, or what the client must know about the server; or not in time.
        NoNode = "no_node",
        /// The node refused the user, or what the client came with; or would have.
        NodeRefused = "node_refused",
        /// No LDAP server could tell whether the password is right; or not in time.
        NoDirectory = "no_directory",
    }

    /// A limit of the configuration that a client or a statement has met.
    Limit {
        /// `max_clients`: so many are connected, and one more is refused.
        Clients = "max_clients",
        /// A database's `max_clients`, in the same way.
        DatabaseClients = "database.max_clients",
        /// A user's `max_clients`, in the same way.
        UserClients = "user.max_clients",
        /// The size of a pool, for as long as `queue_timeout`.
        PoolSize = "pool.size",
        /// A database's `max_connections`, for as long as `queue_timeout`; of a connection for replication, at once.
        DatabaseConnections = "database.max_connections",
        /// A user's `max_connections`, for as long as `queue_timeout`; of a connection for replication, at once.
        UserConnections = "user.max_connections",
        /// What a node itself takes, for as long as `queue_timeout`; of a connection for replication, at once.
        NodeConnections = "node",
        /// `client_idle_timeout`: a client that said nothing outside of a transaction was ended.
        ClientIdle = "client_idle_timeout",
        /// `idle_in_transaction_timeout`: a client that said nothing within a transaction was ended.
        IdleInTransaction = "idle_in_transaction_timeout",
        /// `query_timeout`: a read was cancelled.
        Query = "query_timeout",
        /// A rule's `timeout`: a read was cancelled, or waited no longer.
        RuleTimeout = "rule.timeout",
        /// A transaction block in the pool mode `statement`.
        StatementMode = "pool_mode",
        /// `failover.hold`, for want of a primary, or of one that could be connected to.
        Hold = "failover.hold",
        /// `failover.hold`, of what only a primary takes, in a cluster that follows another one and so has none.
        Standby = "standby",
        /// `failover.pause_hold`, for want of a RESUME.
        PauseHold = "failover.pause_hold",
    }

    /// Why a statement was run again, unseen by its client.
    Retry {
        /// Nothing of it was written to the socket of its node, or no more than a BEGIN.
        NotSent = "not_sent",
        /// No connection to the node could be opened.
        ConnectFailed = "connect_failed",
        /// A replica refused to write (25006): with a loaded catalog this must stay at zero.
        ReadOnly = "read_only",
        /// A replica answered with an error that the primary may not make: something it may not have yet, or cannot do. Most are
        /// mistakes of the statement's, and the primary says the same.
        ReplicaError = "replica_error",
        /// The node was lost during a read of which nothing had been passed on.
        NodeLost = "node_lost",
        /// A replica cancelled a read for the sake of replay (40001, 40P01 or 57P01 of a recovery conflict).
        RecoveryConflict = "recovery_conflict",
        /// A whole transaction, on another node, with the same answers as before.
        Replayed = "replayed",
    }

    /// What became of a transaction whose node was lost.
    Loss {
        /// Certainly rolled back: the client got 40001, or 57P01 where its session ended with it or the node had said that it
        /// ends.
        RolledBack = "rolled_back",
        /// Its outcome is not known: the client got 08007, or 57P01 where its session ended with it.
        Unknown = "unknown",
        /// Nothing that writes, and not answered as a whole, or a COPY FROM STDIN that lacked some of its data and has done
        /// nothing, where the node has not said that it ends: the client got 08006, or 57P01 where its session ended with it.
        CutShort = "cut_short",
        /// Run again, it was answered otherwise than before: the client got 40001.
        ReplayDiffered = "replay_differed",
    }

    /// What became of a cancel request.
    CancelOutcome {
        /// Passed on to the node that runs the statement.
        Forwarded = "forwarded",
        /// The statement was waiting for a server connection, and waits no more.
        Waiting = "waiting",
        /// Nothing was running any more.
        Idle = "idle",
        /// Nobody has this key.
        UnknownKey = "unknown_key",
        /// The node could not be reached.
        Failed = "failed",
    }

    /// How a read's wait for a fresh replica ended.
    FreshnessOutcome {
        /// A replica caught up in time.
        Replica = "replica",
        /// None did: the read went to the primary.
        Primary = "primary",
    }

    /// Who broke the protocol.
    Violator {
        /// A client.
        Client = "client",
        /// A node.
        Node = "node",
    }
}

impl Limit {
    /// The SQLSTATE of each, in the order of [`Limit::CODES`].
    pub(super) const SQLSTATES: [&'static str; Self::CODES.len()] = [
        "53300", "53300", "53300", "53300", "53300", "53300", "53300", "57P05", "25P03", "57014", "57014", "0A000",
        "57P03", "57P03", "57P03",
    ];
}

/// The label value of a pin.
pub const fn pin_code(pin: Pin) -> &'static str {
    match pin {
        Pin::Temporary => "temporary",
        Pin::Listen => "listen",
        Pin::AdvisoryLock => "advisory_lock",
        Pin::HoldCursor => "hold_cursor",
        Pin::Load => "load",
        Pin::UnknownSetting => "unknown_setting",
        Pin::State => "state",
        Pin::Sequence => "sequence",
    }
}

/// The word for a role, here and in `/topology`.
pub const fn role_code(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Replica => "replica",
        Role::Unknown => "unknown",
    }
}

pub(super) const ROLES: [Role; 3] = [Role::Primary, Role::Replica, Role::Unknown];

/// The word for a node's state, here and in `/topology`.
pub const fn state_code(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Up => "up",
        NodeState::Starting => "starting",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::StalePrimary => "stale_primary",
        NodeState::UnconfirmedPrimary => "unconfirmed_primary",
        NodeState::Duplicate => "duplicate",
        NodeState::Foreign => "foreign",
    }
}

pub(super) const STATES: [NodeState; 9] = [
    NodeState::Unknown,
    NodeState::Up,
    NodeState::Starting,
    NodeState::Suspect,
    NodeState::Down,
    NodeState::StalePrimary,
    NodeState::UnconfirmedPrimary,
    NodeState::Duplicate,
    NodeState::Foreign,
];

/// The SQLSTATEs that Trunkline itself sends, but for the console's; any other (a rule may choose its own) is counted as
/// `other`.
pub const SQLSTATES: [&str; 26] = [
    "08006", "08007", "08P01", "0A000", "22023", "25006", "25P02", "25P03", "26000", "28000", "28P01", "3D000",
    "40001", "42501", "42601", "42704", "53200", "53300", "53400", "54000", "57014", "57P01", "57P03", "57P05",
    "XX000", "other",
];

/// The place of a SQLSTATE in [`SQLSTATES`].
pub(super) fn sqlstate_index(sqlstate: &str) -> usize {
    SQLSTATES.iter().position(|&known| known == sqlstate).unwrap_or(SQLSTATES.len() - 1)
}
