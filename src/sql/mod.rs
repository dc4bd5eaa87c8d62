//! What a statement is and may do: text in, [`Statement`] out.

mod cache;
pub mod comments;
mod draws;
mod effects;
mod emptied;
pub mod functions;
mod leftovers;
mod memo;
pub mod noted;
mod parse;
pub mod prepared;
mod recent;
mod redacted;
mod relations;
mod session_change;
mod settings;
mod shape;
pub mod statement;
mod tree;
mod utility;
pub mod words;

pub use cache::{Cache, Counters};
pub use comments::{Hint, Remarks};
pub use draws::{Draws, Target, by_functions, may_draw};
pub use leftovers::{
    Doubt, Leftovers, REPORTED_FOR_LITERALS, UNREPORTED_FOR_LITERALS, decides_literals, writes_settings,
};
pub use memo::{Memo, MemoKey};
pub use noted::{Bits, Findings};
pub use parse::{ParseSettings, classify, classify_bytes, ends_of_statements, fingerprint, too_large};
pub use prepared::{PreparedBefore, PreparedNames, query_of};
pub use redacted::{redacted, redacted_unread};
pub use relations::{differs_between_nodes, is_replicated, only_asks_connection};
pub use session_change::{Scope, SessionChange, SetTo};
pub use settings::{answers_alike, is_anybodys, is_carried, is_identity, setting_name};
pub use statement::{
    Argument, Call, CopyDirection, Isolation, Kind, Name, NeedsPrimary, Part, Pin, Statement, TransactionControl,
    TransactionModes,
};
