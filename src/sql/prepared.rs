//! Statements prepared by SQL (PREPARE), by name.

use std::sync::Arc;

use hashbrown::HashMap;

use super::session_change::SessionChange;
use super::statement::{NeedsPrimary, Statement};
use super::words;

/// What a session has prepared by SQL and not deallocated.
#[derive(Clone, Debug, Default)]
pub struct PreparedNames {
    by_name: HashMap<Arc<str>, PreparedName>,
    /// How many were ever prepared.
    count: u64,
}

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
    /// How many were prepared before it.
    number: u64,
}

/// What a change has changed.
#[derive(Debug)]
pub enum PreparedBefore {
    /// Nothing had this name.
    Nothing(Arc<str>),
    /// This was there.
    One(Box<PreparedName>),
    /// These were all.
    All(Box<PreparedNames>),
}

impl PreparedNames {
    /// The statement of this name.
    pub fn get(&self, name: &str) -> Option<&PreparedName> {
        self.by_name.get(name)
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
        let mut all: Vec<_> = self.by_name.values().collect();
        all.sort_unstable_by_key(|prepared| prepared.number);
        all.into_iter()
    }

    /// None is prepared.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Follows a change that the node has confirmed. Answers what [takes it back](Self::take_back), if it changes anything.
    pub fn apply(&mut self, change: &SessionChange) -> Option<PreparedBefore> {
        match change {
            SessionChange::Prepare { name, needs_primary, text, statement } if self.get(name).is_none() => {
                let prepared = PreparedName {
                    name: Arc::clone(name),
                    needs_primary: needs_primary.clone(),
                    text: Arc::clone(text),
                    statement: Arc::clone(statement),
                    number: self.count,
                };
                self.count += 1;
                self.by_name.insert(Arc::clone(name), prepared);
                Some(PreparedBefore::Nothing(Arc::clone(name)))
            }
            SessionChange::Deallocate(name) => self.by_name.remove(name).map(|one| PreparedBefore::One(Box::new(one))),
            SessionChange::DeallocateAll | SessionChange::DiscardAll if !self.is_empty() => {
                Some(PreparedBefore::All(Box::new(std::mem::take(self))))
            }
            _ => None,
        }
    }

    /// They are as before the change that was the last.
    pub fn take_back(&mut self, before: PreparedBefore) {
        match before {
            PreparedBefore::Nothing(name) => drop(self.by_name.remove(&name)),
            PreparedBefore::One(prepared) => drop(self.by_name.insert(Arc::clone(&prepared.name), *prepared)),
            PreparedBefore::All(all) => *self = *all,
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
    use crate::sql::{ParseSettings, classify_bytes};

    #[test]
    fn what_is_taken_back_is_as_it_was_and_in_its_order() {
        let apply = |names: &mut PreparedNames, text: &str| -> Vec<PreparedBefore> {
            let statement = classify_bytes(text.as_bytes(), &ParseSettings::default());
            let changes = statement.parts.iter().flat_map(|part| &part.session);
            changes.filter_map(|change| names.apply(change)).collect()
        };
        let texts = |names: &PreparedNames| names.iter().map(|one| Arc::clone(&one.text)).collect::<Vec<_>>();
        let mut names = PreparedNames::default();
        apply(&mut names, "prepare b as select 1; prepare a as select 2; prepare c as select 3");
        let before = texts(&names);
        assert_eq!(before.len(), 3);
        for text in [
            "deallocate b",
            "deallocate all",
            "prepare a as select 4; prepare d as select 5",
            "deallocate a; prepare a as select 4; deallocate nothing",
            "discard all; prepare c as select 4; deallocate all; prepare b as select 5; deallocate b",
        ] {
            let changed = apply(&mut names, text);
            assert_ne!(texts(&names), before, "{text}");
            changed.into_iter().rev().for_each(|one| names.take_back(one));
            assert_eq!(texts(&names), before, "{text}");
        }
    }

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
