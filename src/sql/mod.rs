//! What a statement is and may do: text in, [`Statement`] out.

pub mod prepared;
pub mod statement;

pub use prepared::PreparedNames;
pub use statement::{
    CopyDirection, Isolation, Kind, Name, NeedsPrimary, Part, Pin, SessionChange, Statement, TransactionControl,
    TransactionModes,
};
