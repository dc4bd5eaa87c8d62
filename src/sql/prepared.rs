//! Statements prepared by SQL (PREPARE), by name.

use std::sync::Arc;

use super::session_change::SessionChange;
use super::statement::{NeedsPrimary, Statement};
use super::words;

/// What a session has prepared by SQL and not deallocated; a handful at most, so a list.
#[derive(Clone, Debug, Default)]
pub struct PreparedNames(Vec<PreparedName>);

/// One statement prepared by SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedName {
    /// The name that EXECUTE uses.
    pub name: Arc<str>,
    /// Why running it needs the primary.
    pub needs_primary: Option<NeedsPrimary>,
    /// The PREPARE statement, to be run again where it is missing.
    pub text: Arc<str>,
    /// What it names.
    pub statement: Arc<Statement>,
}

impl PreparedNames {
    /// The statement of this name.
    pub fn get(&self, name: &str) -> Option<&PreparedName> {
        self.0.iter().find(|prepared| *prepared.name == *name)
    }

    /// What an EXECUTE of this name in the statement may run, with the texts of the PREPAREs: what there is, or, by the order of
    /// its string, what that prepares itself.
    pub fn meant_in<'a>(
        &'a self,
        statement: &'a Statement,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<Statement>, &'a Arc<str>)> {
        let known = self.get(name).map(|prepared| (&prepared.statement, &prepared.text));
        known.into_iter().chain(statement.prepares(name))
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &PreparedName> {
        self.0.iter()
    }

    /// None is prepared.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// It may be a change of them.
    pub fn are_changed_by(change: &SessionChange) -> bool {
        use SessionChange::{Deallocate, DeallocateAll, DiscardAll, Prepare};
        matches!(change, Prepare { .. } | Deallocate(_) | DeallocateAll | DiscardAll)
    }

    /// Follows a change that the node has confirmed.
    pub fn apply(&mut self, change: &SessionChange) {
        match change {
            SessionChange::Prepare { name, needs_primary, text, statement } if self.get(name).is_none() => {
                self.0.push(PreparedName {
                    name: Arc::clone(name),
                    needs_primary: needs_primary.clone(),
                    text: Arc::clone(text),
                    statement: Arc::clone(statement),
                });
            }
            SessionChange::Deallocate(name) => self.0.retain(|prepared| prepared.name != *name),
            SessionChange::DeallocateAll | SessionChange::DiscardAll => self.0 = Vec::new(),
            _ => {}
        }
    }
}

/// What a PREPARE prepares: what stands behind the word AS, which is no name and of no type.
pub fn query_of(text: &str) -> &str {
    words::behind_keyword(text, "as").map_or(text, str::trim_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_prepare_stands_behind_its_as() {
        for prepare in [
            "PREPARE p AS ",
            "prepare \"as\" as\n",
            "prepare/* as /* as */ as */\"a\"\"as \"(int, \"x as y\", numeric(3, 2)) -- as\n As ",
            "PREPARE as_of (text) AS",
        ] {
            let text = format!("{prepare} select a AS b from t");
            assert_eq!(query_of(&text), "select a AS b from t", "{prepare}");
        }
        for other in ["", "execute p", "\"as", "/* as", "-- as", "ä"] {
            assert_eq!(query_of(other), other);
        }
    }
}
