//! What rules have to do with a statement of the gathered unit: until that is sent or refused, it may be looked at anew.

use std::sync::Arc;

use crate::routing::rules::Rule;
use crate::routing::{Reason, RuleSet, Ruling};
use crate::sql::Statement;

/// What rules have to do with a statement that is run, or refused.
#[derive(Clone, Debug)]
pub struct Ruled {
    /// Bytes of the unit ahead of the message that has run it.
    pub at: usize,
    /// Its kind by its name in rules; empty of an empty string.
    pub kind: &'static str,
    /// Why it goes where it may, by itself.
    pub reason: Reason,
    /// Which rules, by their numbers.
    pub ruling: Ruling,
    /// These rules; None: those in force.
    rules: Option<Arc<RuleSet>>,
}

impl Ruled {
    /// By the rules in force.
    pub(super) fn new(at: usize, statement: &Statement, reason: Reason, ruling: Ruling) -> Self {
        let kind = statement.parts.first().map_or("", |part| part.kind.name());
        Self { at, kind, reason, ruling, rules: None }
    }

    /// The rules that it has been judged by, where these are in force now.
    pub fn rules<'a>(&'a self, in_force: &'a RuleSet) -> &'a RuleSet {
        self.rules.as_deref().unwrap_or(in_force)
    }

    /// The rule that matched it, by the rules that it has been judged by.
    pub fn rule<'a>(&'a self, in_force: &'a RuleSet) -> Option<&'a Rule> {
        self.rules(in_force).rule(self.ruling.rule?)
    }

    /// Other rules come into force than these.
    pub(super) fn keeps(&mut self, rules: &Arc<RuleSet>) {
        self.rules.get_or_insert_with(|| Arc::clone(rules));
    }
}
