//! What a statement is and may do: text in, [`Statement`] out.

mod cache;
mod effects;
pub mod functions;
mod parse;
pub mod prepared;
mod relations;
mod settings;
mod shape;
pub mod statement;
mod tree;
mod utility;

pub use cache::{Cache, Counters};
pub use parse::{ParseSettings, classify, classify_bytes, too_large};
pub use prepared::PreparedNames;
pub use statement::{
    CopyDirection, Isolation, Kind, Name, NeedsPrimary, Part, Pin, SessionChange, Statement, TransactionControl,
    TransactionModes,
};
