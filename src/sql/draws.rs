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
    /// It is meant to: by a call of nextval or setval, or by the default of a column that it leaves out.
    Surely,
}

/// Where an INSERT puts its rows, or an UPDATE its defaults.
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
        if statement.is_plain_read() {
            return Self::No;
        }
        let of_part = |part: &Part| match part.inserts {
            _ if !may_draw(part) => Self::No,
            Some(_) => Self::Surely,
            None => Self::Maybe.max(by_functions(part)),
        };
        statement.parts.iter().map(of_part).max().unwrap_or_default()
    }
}

/// What the functions tell that it names.
pub fn by_functions(part: &Part) -> Draws {
    if part.functions.iter().any(|name| matches!(&*name.name, "nextval" | "setval")) {
        Draws::Surely
    } else if part.calls_unknown {
        Draws::Maybe
    } else {
        Draws::No
    }
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
        for sure in [
            "select nextval('s'::text)",
            "select nextval('s'::regclass)",
            "select setval('s', 3)",
            "select nextval('s'), mine() from t; select 1",
            "insert into t values (1)",
            "with i as (insert into t values (1) returning a) update u set b = 1 from i",
            "update t set a = default",
        ] {
            assert_eq!(draws(sure), Draws::Surely, "{sure}");
        }
        for maybe in ["select mine()", "update t set a = 1", "execute a"] {
            assert_eq!(draws(maybe), Draws::Maybe, "{maybe}");
        }
        assert_eq!(draws("select 1"), Draws::No);
    }
}
