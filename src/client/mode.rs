//! What a pool's mode has to say of where a statement may go, beside routing.

use super::conversation::NO_BLOCKS;
use crate::config::PoolMode;
use crate::routing::{Intent, Reason};
use crate::sql::Statement;

/// Where a statement by itself goes in a pool of this mode, of which routing says `intent`: what a client's unit meets, for
/// whoever only asks.
pub fn in_mode(mode: PoolMode, intent: Intent, statement: &Statement) -> Intent {
    match mode {
        _ if matches!(intent, Intent::Refuse { .. }) => intent,
        PoolMode::Session => Intent::Primary(Reason::SessionMode),
        PoolMode::Statement if statement.begins_transaction() => refused_block(),
        PoolMode::Transaction | PoolMode::Statement => intent,
    }
}

/// A transaction block begins where the mode allows none.
pub(super) fn refused_block() -> Intent {
    let (rule, message, sqlstate) = ("pool_mode".into(), NO_BLOCKS.into(), "0A000".into());
    Intent::Refuse { rule, message, sqlstate }
}
