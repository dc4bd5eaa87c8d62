//! What the hints in a statement's comments ask for. They may move a read and nothing else.

use super::terms::{Nodes, Terms};
use super::{Consistency, RuleSet};
use crate::sql::{Hint, Statement};
use crate::units;

/// What the hints of a statement ask for; the default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `primary`: nothing else counts then.
    pub primary: bool,
    /// Everything else.
    pub terms: Terms,
    /// Words that say nothing, for whoever asks why.
    pub unknown: Vec<String>,
}

impl Hints {
    /// What the statement's hints ask for; None if it has none. A group that no cluster has says nothing.
    pub fn of(statement: &Statement, rules: &RuleSet) -> Option<Self> {
        let written = &statement.remarks.as_ref()?.hints;
        if written.is_empty() {
            return None;
        }
        let mut hints = Self::default();
        for hint in written {
            if hints.read(hint, rules).is_none() {
                let value = hint.value.as_ref().map(|value| format!("={value}")).unwrap_or_default();
                hints.unknown.push(format!("{}{value}", hint.word));
            }
        }
        Some(hints)
    }

    /// They change nothing.
    pub fn is_empty(&self) -> bool {
        !self.primary && self.terms == Terms::default()
    }

    /// The rule's terms, with what is hinted in their place.
    pub fn over(&self, rule: Option<&Terms>) -> Terms {
        let mut terms = rule.cloned().unwrap_or_default();
        if !self.terms.choices.is_empty() {
            terms.choices = self.terms.choices.clone();
        }
        terms.max_lag = self.terms.max_lag.or(terms.max_lag);
        terms.consistency = self.terms.consistency.or(terms.consistency);
        terms
    }

    fn read(&mut self, hint: &Hint, rules: &RuleSet) -> Option<()> {
        match (&*hint.word, hint.value.as_deref()) {
            ("primary", None) => self.primary = true,
            ("replica", None) => self.go_to(Nodes::Replicas),
            ("any", None) => self.go_to(Nodes::Any),
            ("group", Some(name)) => {
                let group = rules.groups().iter().find(|group| ***group == *name)?;
                self.go_to(Nodes::Group(group.clone()));
            }
            ("max_lag", Some(lag)) => self.terms.max_lag = Some(units::duration(lag)?),
            ("consistency", Some(name)) => self.terms.consistency = Some(Consistency::from_name(name)?),
            _ => return None,
        }
        Some(())
    }

    /// Of several the first is meant.
    fn go_to(&mut self, nodes: Nodes) {
        if self.terms.choices.is_empty() {
            self.terms.choices.push(nodes);
        }
    }
}
