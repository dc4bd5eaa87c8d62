//! What a statement does to the sequences of its session: `currval` and `lastval` answer what it has drawn on its own
//! server connection.

use std::sync::Arc;

use super::functions::class_of;
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
        if statement.is_plain_read() || !statement.parts.iter().any(may_draw) {
            return Self::No;
        }
        statement.only().and_then(by_functions).unwrap_or(Self::Maybe)
    }
}

/// What the functions tell that it names; None: nothing. Surely where it calls nextval or setval, and beside them nothing but
/// PostgreSQL's own, and reads from no table.
pub fn by_functions(part: &Part) -> Option<Draws> {
    let is_drawing = |name: &Name| matches!(&*name.name, "nextval" | "setval");
    if part.functions.iter().any(|name| class_of(name).is_none() && !is_drawing(name)) {
        return Some(Draws::Maybe);
    }
    let reads_only = part.kind == Kind::Select && part.tables.is_empty();
    let draws = if reads_only { Draws::Surely } else { Draws::Maybe };
    part.functions.iter().any(is_drawing).then_some(draws)
}

/// It runs on the primary, or something that is not in its text.
pub fn may_draw(part: &Part) -> bool {
    part.needs_primary.is_some() || matches!(part.kind, Kind::Execute | Kind::Explain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{ParseSettings, classify_bytes};

    #[test]
    fn a_bare_nextval_is_known_by_its_text() {
        let draws = |sql: &str| Draws::of_text(&classify_bytes(sql.as_bytes(), &ParseSettings::default()));
        for sure in ["select nextval('s'::text)", "select nextval('s'::regclass)", "select setval('s', 3)"] {
            assert_eq!(draws(sure), Draws::Surely, "{sure}");
        }
        for maybe in ["select nextval('s') from t", "select nextval('s'), mine()", "select nextval('s'); select 1"] {
            assert_eq!(draws(maybe), Draws::Maybe, "{maybe}");
        }
        assert_eq!(draws("select 1"), Draws::No);
    }
}
