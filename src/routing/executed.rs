//! What EXECUTE runs, judged as if it stood there itself. Who knows what that is gives it: the session.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use super::rules::Action;
use super::{Facts, Intent, RuleSet, Ruling, Weighed, weigh};
use crate::sql::{Statement, query_of};

/// [`weigh`], and what its EXECUTEs run, where all that is known of them is what was prepared before and what its own string
/// prepares.
pub fn weigh_whole(statement: &Statement, text: &str, facts: &Facts<'_>, rules: &RuleSet) -> Weighed {
    let mut met = HashSet::new();
    let names = statement.run_names().filter(|name| met.insert(&***name));
    let run = names.flat_map(|name| facts.prepared.meant_in(statement, name));
    let run = run.map(|(inner, text)| (inner, Cow::Borrowed(query_of(text))));
    weigh(statement, text, facts, rules).with_executed(run, statement, facts, rules)
}

impl Weighed {
    /// The verdict on a statement whose EXECUTEs may run these, with their texts; `self` is the verdict on it by itself. The
    /// comments of what is run are those beside the EXECUTE. Where nothing but EXECUTEs stands in the string, and no rule acts
    /// on it by itself, what is run is judged in its place; elsewhere the stricter counts.
    #[cold]
    pub fn with_executed<'a>(
        self,
        executed: impl Iterator<Item = (&'a Arc<Statement>, Cow<'a, str>)>,
        statement: &Statement,
        facts: &Facts<'_>,
        rules: &RuleSet,
    ) -> Self {
        let judged = executed.map(|(inner, text)| match inner.remarks == statement.remarks {
            true => weigh(inner, &text, facts, rules),
            false => weigh(&inner.remarked(statement.remarks.clone()), &text, facts, rules),
        });
        let both = |first: Self, second: Self| Self {
            ruling: first.ruling_beside(&second, rules),
            intent: first.intent.and(second.intent),
        };
        let Some(inner) = judged.reduce(both) else { return self };
        let ruling = self.ruling_beside(&inner, rules);
        let has_a_say = |weighed: &Self| weighed.has_acting_rule(rules) || matches!(weighed.intent, Intent::Primary(_));
        let intent = match (has_a_say(&self), has_a_say(&inner)) {
            (_, false) => self.intent,
            (false, true) if self.intent.is_proven() && statement.only_executes() => inner.intent,
            _ => self.intent.and(inner.intent),
        };
        Self { intent, ruling }
    }

    /// The rules that had a part in either of two that run together: the one that is named is that of the stricter.
    fn ruling_beside(&self, other: &Self, rules: &RuleSet) -> Ruling {
        let refuses = |weighed: &Self| matches!(weighed.intent, Intent::Refuse { .. });
        let needs_it = |weighed: &Self| weighed.has_acting_rule(rules) && weighed.intent.needs_primary();
        let rule = match (self.ruling.rule, other.ruling.rule) {
            (_, theirs) if refuses(other) && !refuses(self) => theirs,
            (ours, _) if refuses(self) => ours,
            (_, theirs) if needs_it(other) && !needs_it(self) => theirs,
            (ours, _) if self.has_acting_rule(rules) => ours,
            (_, theirs) if other.has_acting_rule(rules) => theirs,
            // They only note it: the first.
            (ours, theirs) => ours.into_iter().chain(theirs).min(),
        };
        let mut shadows = self.ruling.shadows.clone();
        for (number, would_change) in &other.ruling.shadows {
            match shadows.iter_mut().find(|(known, _)| known == number) {
                Some((_, known)) => *known |= *would_change,
                None => shadows.push((*number, *would_change)),
            }
        }
        shadows.sort_unstable();
        Ruling { rule, shadows }
    }

    fn has_acting_rule(&self, rules: &RuleSet) -> bool {
        self.ruling.rule.and_then(|number| rules.rule(number)).is_some_and(|rule| rule.action != Action::Note)
    }
}
