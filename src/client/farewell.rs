//! Why a client's conversation ends, and what it is told.

use std::io;
use std::sync::Arc;

use crate::wire::SqlState;

/// Why a conversation ends.
#[derive(Debug, thiserror::Error)]
pub enum Farewell {
    /// The client said goodbye, or closed its connection.
    #[error("the client left")]
    Left,
    /// Its connection broke.
    #[error("the client's connection was lost")]
    Lost(#[source] io::Error),
    /// Its node was lost when it had a part of a message: whatever it were told, it would take for the rest of that.
    #[error("the node was lost in the middle of a row, so the connection was closed")]
    Torn,
    /// Its node has ended it, and what that has said of it the client has been shown.
    #[error("its node has ended it")]
    EndedByNode,
    /// It is told why, and the connection is closed.
    #[error("{message} ({code})")]
    Told {
        /// The SQLSTATE.
        code: SqlState,
        /// What it is told.
        message: String,
        /// And what may help.
        hint: Option<&'static str>,
    },
    /// The node has said why, and the client is told the same, as the end of its connection.
    #[error("the node ends it ({code})")]
    Quoted {
        /// The SQLSTATE.
        code: SqlState,
        /// What the node has said: the fields of its ErrorResponse.
        fields: Box<[u8]>,
    },
    /// What it began with is not PostgreSQL's protocol: nothing is answered.
    #[error("not PostgreSQL's protocol")]
    NotPostgres,
    /// This user came for the console, and goes on there with what has been read of it.
    #[error("a client of the console")]
    ToConsole(Arc<str>, Box<[u8]>),
    /// It is still there, but has had nothing to say for a while: see [`Parked`](super::parked::Parked).
    #[error("a quiet client")]
    Parks,
    /// It came to cancel, and that is done.
    #[error("a cancel request")]
    Cancel,
}

impl Farewell {
    /// The client is told this.
    #[cold]
    pub fn told(code: SqlState, message: impl Into<String>) -> Self {
        Self::Told { code, message: message.into(), hint: None }
    }

    /// The same with what may help.
    pub fn hinted(code: SqlState, message: impl Into<String>, hint: &'static str) -> Self {
        Self::Told { code, message: message.into(), hint: Some(hint) }
    }

    /// The client is told something.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::Told { .. } | Self::Quoted { .. })
    }

    /// An operator has wanted it, in PostgreSQL's words.
    #[cold]
    pub fn sent_away() -> Self {
        Self::told(SqlState::ADMIN_SHUTDOWN, SENT_AWAY)
    }

    /// The client's message cannot be understood.
    #[cold]
    pub fn violation(message: &str) -> Self {
        Self::told(SqlState::PROTOCOL_VIOLATION, message)
    }
}

/// What a client is told that is [sent away](Farewell::sent_away).
pub(super) const SENT_AWAY: &str = "terminating connection due to administrator command";

impl From<io::Error> for Farewell {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}
