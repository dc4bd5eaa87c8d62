//! What a statement is and may do: text in, [`Statement`] out.

pub mod prepared;
mod effects;
pub mod functions;
mod parse;
mod relations;
mod settings;
pub mod statement;
mod tree;
mod utility;

pub use prepared::PreparedNames;
pub use parse::{ParseSettings, classify, classify_bytes};
pub use statement::{
    CopyDirection, Isolation, Kind, Name, NeedsPrimary, Part, Pin, SessionChange, Statement, TransactionControl,
    TransactionModes,
};
