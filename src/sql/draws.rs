//! What a statement does to the sequences of its session: `currval` and `lastval` answer what it has drawn on its own
//! server connection.

use std::sync::Arc;

use super::statement::{Kind, Name, Part, Statement};

/// Whether a statement draws from a sequence: calls nextval or setval, by itself, a default, a trigger or a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Draws {
    /// It does not.
    #[default]
    No,
    /// It may, also when it fails in the end.
    Maybe,
    /// It does, if it makes a row.
    Surely,
}

/// Where an INSERT puts its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The table.
    pub table: Name,
    /// The columns that it names: the others get their defaults. Empty: it names none.
    pub columns: Box<[Arc<str>]>,
}

impl Draws {
    /// As far as the text alone tells.
    pub fn of_text(statement: &Statement) -> Self {
        match !statement.is_plain_read() && statement.parts.iter().any(may_draw) {
            true => Self::Maybe,
            false => Self::No,
        }
    }
}

/// It runs on the primary, or something that is not in its text.
pub fn may_draw(part: &Part) -> bool {
    part.needs_primary.is_some() || matches!(part.kind, Kind::Execute | Kind::Explain)
}
