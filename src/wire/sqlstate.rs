//! The SQLSTATE codes that we send or act on.

use std::fmt;

/// Five characters that say what went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState {
            $($(#[$doc])* pub const $name: Self = Self(*$code);)*
        }
    };
}

states! {
    /// Nothing went wrong.
    SUCCESSFUL_COMPLETION = b"00000";
    /// Something to be warned of.
    WARNING = b"01000";
    /// The configuration file is wrong.
    CONFIG_FILE_ERROR = b"F0000";
    /// The connection to the node was lost while its answer was on the way.
    CONNECTION_FAILURE = b"08006";
    /// Whether the transaction committed is not known.
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    /// The message makes no sense here.
    PROTOCOL_VIOLATION = b"08P01";
    /// Not supported, or not on a standby.
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// A setting's value is not acceptable.
    INVALID_PARAMETER_VALUE = b"22023";
    /// The transaction is read-only; what a standby says to a write.
    READ_ONLY_SQL_TRANSACTION = b"25006";
    /// The transaction has failed; only its end is accepted.
    IN_FAILED_SQL_TRANSACTION = b"25P02";
    /// A transaction has been left open for too long.
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03";
    /// A transaction has taken too long.
    TRANSACTION_TIMEOUT = b"25P04";
    /// No such prepared statement.
    INVALID_SQL_STATEMENT_NAME = b"26000";
    /// Not allowed to connect so.
    INVALID_AUTHORIZATION_SPECIFICATION = b"28000";
    /// The password is wrong, or there is no such user.
    INVALID_PASSWORD = b"28P01";
    /// No such savepoint.
    INVALID_SAVEPOINT_SPECIFICATION = b"3B001";
    /// No such database.
    INVALID_CATALOG_NAME = b"3D000";
    /// The transaction must be tried again.
    SERIALIZATION_FAILURE = b"40001";
    /// Two waited for each other.
    DEADLOCK_DETECTED = b"40P01";
    /// Not a command that is known.
    SYNTAX_ERROR = b"42601";
    /// No such portal.
    INVALID_CURSOR_NAME = b"34000";
    /// Not allowed.
    INSUFFICIENT_PRIVILEGE = b"42501";
    /// A name that cannot be.
    INVALID_NAME = b"42602";
    /// Too many connections.
    TOO_MANY_CONNECTIONS = b"53300";
    /// A limit of the configuration was met.
    CONFIGURATION_LIMIT_EXCEEDED = b"53400";
    /// Larger than a limit of the program.
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    /// An object is not in the state it must be in; what a standby says to some functions.
    OBJECT_NOT_IN_PREREQUISITE_STATE = b"55000";
    /// A lock was not to be had in time.
    LOCK_NOT_AVAILABLE = b"55P03";
    /// Cancelled as asked.
    QUERY_CANCELED = b"57014";
    /// The server is being stopped.
    ADMIN_SHUTDOWN = b"57P01";
    /// The server is restarting after a crash.
    CRASH_SHUTDOWN = b"57P02";
    /// The server does not accept connections now.
    CANNOT_CONNECT_NOW = b"57P03";
    /// A session has been idle for too long.
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// The name of a prepared statement is taken.
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    /// A relation does not exist.
    UNDEFINED_TABLE = b"42P01";
    /// A function does not exist.
    UNDEFINED_FUNCTION = b"42883";
    /// A schema does not exist.
    INVALID_SCHEMA_NAME = b"3F000";
    /// Something else does not exist.
    UNDEFINED_OBJECT = b"42704";
    /// A column does not exist.
    UNDEFINED_COLUMN = b"42703";
    /// A file of a relation does not exist.
    UNDEFINED_FILE = b"58P01";
    /// Our own fault.
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// Reads a code as it stands in an ErrorResponse.
    pub fn from_bytes(code: &[u8]) -> Option<Self> {
        code.try_into().ok().map(Self)
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
