//! What a rule matches on: the sender, the statement, and the moment.

use regex::Regex;

use super::pattern::{Hours, NamePattern, Network, Pattern, TagPattern};
use super::{Moment, Sender};
use crate::sql::{Kind, Name, Statement};

/// Every given condition must hold; of the alternatives of one, any.
#[derive(Debug, Default)]
pub struct Conditions {
    /// The session's user. A pattern may hold `*`.
    pub users: Vec<Pattern>,
    /// The database, as clients name it.
    pub databases: Vec<Pattern>,
    /// The session's application_name now.
    pub application_names: Vec<Pattern>,
    /// Where the client comes from.
    pub addresses: Vec<Network>,
    /// The kind of one of its statements.
    pub kinds: Vec<Kind>,
    /// One of the tables it names.
    pub tables: Vec<NamePattern>,
    /// One of the functions it calls.
    pub functions: Vec<NamePattern>,
    /// One of the tags in its comments, as `tag=` gives it.
    pub tags: Vec<TagPattern>,
    /// One of the tags in its comments, by any key.
    pub comments: Vec<TagPattern>,
    /// It has an UPDATE or DELETE without WHERE.
    pub unfiltered: bool,
    /// Its fingerprint.
    pub fingerprints: Vec<u64>,
    /// The text matches.
    pub text: Option<Regex>,
    /// The time of day.
    pub hours: Vec<Hours>,
    /// In a transaction, or in none.
    pub in_transaction: Option<bool>,
}

impl Conditions {
    /// Those that depend on the sender hold.
    pub fn hold_for_sender(&self, sender: &Sender<'_>) -> bool {
        any_or_empty(&self.users, |pattern| pattern.matches(sender.user))
            && any_or_empty(&self.databases, |pattern| pattern.matches(sender.database))
            && any_or_empty(&self.application_names, |pattern| pattern.matches(sender.application_name))
            && any_or_empty(&self.addresses, |network| sender.address.is_some_and(|from| network.contains(from)))
    }

    /// Those that depend on the statement hold, whatever its literals are.
    pub fn hold_for_statement(&self, statement: &Statement, fingerprint: Option<u64>) -> bool {
        let parts = &statement.parts;
        any_or_empty(&self.kinds, |kind| parts.iter().any(|part| part.kind == *kind))
            && names_one(&self.tables, parts.iter().flat_map(|part| &part.tables))
            && names_one(&self.functions, parts.iter().flat_map(|part| &part.functions))
            && any_or_empty(&self.tags, |tag| has_tag(statement, tag))
            && any_or_empty(&self.comments, |tag| has_tag(statement, tag))
            && (!self.unfiltered || parts.iter().any(|part| part.unfiltered))
            && any_or_empty(&self.fingerprints, |wanted| fingerprint == Some(*wanted))
    }

    /// The condition on the text holds.
    pub fn hold_for_text(&self, text: &str) -> bool {
        self.text.as_ref().is_none_or(|regex| regex.is_match(text))
    }

    /// Those that depend on the moment hold.
    pub fn hold_now(&self, moment: &Moment) -> bool {
        any_or_empty(&self.hours, |hours| hours.contains(moment.minute))
            && self.in_transaction.is_none_or(|wanted| wanted == moment.in_transaction)
    }

    /// There is none: they hold for every statement.
    pub fn is_empty(&self) -> bool {
        // Whatever covers a rule without conditions has none itself.
        self.covers(&Self::default())
    }

    /// They surely hold whenever `other` does. False when it cannot be told: texts are compared only as written.
    pub fn covers(&self, other: &Self) -> bool {
        covers_list(&self.users, &other.users, Pattern::covers)
            && covers_list(&self.databases, &other.databases, Pattern::covers)
            && covers_list(&self.application_names, &other.application_names, Pattern::covers)
            && covers_list(&self.addresses, &other.addresses, Network::covers)
            && covers_list(&self.kinds, &other.kinds, Kind::eq)
            && covers_list(&self.tables, &other.tables, NamePattern::covers)
            && covers_list(&self.functions, &other.functions, NamePattern::covers)
            && covers_list(&self.tags, &other.tags, TagPattern::covers)
            && covers_list(&self.comments, &other.comments, TagPattern::covers)
            && (!self.unfiltered || other.unfiltered)
            && covers_list(&self.fingerprints, &other.fingerprints, u64::eq)
            && covers_list(&self.hours, &other.hours, Hours::covers)
            && (self.in_transaction.is_none() || self.in_transaction == other.in_transaction)
            && self
                .text
                .as_ref()
                .is_none_or(|wide| other.text.as_ref().is_some_and(|text| wide.as_str() == text.as_str()))
    }
}

fn any_or_empty<T>(alternatives: &[T], holds: impl Fn(&T) -> bool) -> bool {
    alternatives.is_empty() || alternatives.iter().any(holds)
}

fn names_one<'a>(patterns: &[NamePattern], mut names: impl Iterator<Item = &'a Name>) -> bool {
    patterns.is_empty() || names.any(|name| patterns.iter().any(|pattern| pattern.matches(name)))
}

fn has_tag(statement: &Statement, wanted: &TagPattern) -> bool {
    let tags = statement.remarks.iter().flat_map(|remarks| &remarks.tags);
    tags.into_iter().any(|(key, value)| **key == *wanted.key && wanted.value.matches(value))
}

/// Each alternative of `narrow` is one of `wide`; no alternatives mean all.
fn covers_list<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    let is_covered = |narrow: &T| wide.iter().any(|wide| covers(wide, narrow));
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(is_covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(users: &[&str], kinds: &[Kind], text: Option<&str>) -> Conditions {
        Conditions {
            users: users.iter().map(|user| Pattern((*user).into())).collect(),
            kinds: kinds.to_vec(),
            text: text.map(|text| Regex::new(text).unwrap()),
            ..Conditions::default()
        }
    }

    #[test]
    fn conditions_cover_those_whose_every_one_is_as_narrow() {
        let wide = conditions(&["app*"], &[Kind::Select, Kind::Copy], None);
        assert!(wide.covers(&conditions(&["app_a", "app_*"], &[Kind::Select], Some("x"))));
        assert!(!wide.covers(&conditions(&["app_a", "ops"], &[Kind::Select], None)));
        assert!(!wide.covers(&conditions(&[], &[Kind::Select], None)));
        assert!(!wide.covers(&conditions(&["app_a"], &[], None)));
        assert!(conditions(&[], &[], Some("x")).covers(&conditions(&["a"], &[], Some("x"))));
        assert!(!conditions(&[], &[], Some("x")).covers(&conditions(&["a"], &[], None)));
        assert!(conditions(&[], &[], None).covers(&conditions(&[], &[], None)));
        assert!(conditions(&[], &[], None).is_empty() && !wide.is_empty());
        let outside = Conditions { in_transaction: Some(false), ..Conditions::default() };
        assert!(!outside.covers(&wide) && !outside.is_empty());
    }
}
