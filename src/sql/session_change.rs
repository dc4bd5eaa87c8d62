//! What a statement leaves behind in its session.

use std::sync::Arc;

use super::statement::{NeedsPrimary, Pin, Statement};

/// What a statement leaves behind in its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// SET or set_config of a setting, for the session. Its value is asked of the server afterwards.
    Set(Arc<str>),
    /// SET LOCAL or set_config(…, true): gone with the transaction.
    SetLocal(Arc<str>),
    /// RESET of one setting, or SET … TO DEFAULT.
    Reset(Arc<str>),
    /// SET LOCAL … TO DEFAULT: gone with the transaction.
    ResetLocal(Arc<str>),
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD PLANS or TEMP.
    DiscardSome,
    /// DISCARD SEQUENCES.
    DiscardSequences,
    /// PREPARE of this name.
    Prepare {
        /// The name.
        name: Arc<str>,
        /// What EXECUTE of it will be: the effects of the statement inside.
        needs_primary: Option<NeedsPrimary>,
        /// The PREPARE statement itself, to be run again where it is needed.
        text: Arc<str>,
        /// What it names, to be looked up whenever it is executed.
        statement: Arc<Statement>,
    },
    /// EXECUTE of this name, also inside EXPLAIN or CREATE TABLE AS.
    Execute(Arc<str>),
    /// DEALLOCATE of this name.
    Deallocate(Arc<str>),
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// SHOW or current_setting of a setting of Trunkline's own (`trunkline.…`), which leaves nothing.
    Ask,
    /// The session depends on its server connection from here on.
    Pin(Pin),
}
