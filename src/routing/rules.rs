//! Routing rules: ordered, the first match wins. [`crate::config`] reads them from files.

use std::sync::Arc;

use regex::Regex;

use crate::sql::{Kind, Statement};

/// Compiled rules in the order of their files.
#[derive(Debug, Default)]
pub struct RuleSet {
    /// The rules, first match wins.
    pub rules: Vec<Rule>,
}

/// One rule: every given condition must hold.
#[derive(Debug)]
pub struct Rule {
    /// Its name, unique in the set; shown in reasons and counted.
    pub name: Arc<str>,
    /// Any of these users; empty: all. A pattern may hold `*`.
    pub users: Vec<Pattern>,
    /// Any of these databases, as clients name them.
    pub databases: Vec<Pattern>,
    /// Any of these application names.
    pub application_names: Vec<Pattern>,
    /// Any of these kinds of statement.
    pub kinds: Vec<Kind>,
    /// One of the statement's tables is one of these.
    pub tables: Vec<TablePattern>,
    /// The text matches.
    pub text: Option<Regex>,
    /// What to do.
    pub action: Action,
}

/// What a rule does with what it matches. It can never send an unsafe statement to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// To the primary.
    Primary,
    /// A read to a replica.
    Replicas,
    /// A read to one of these nodes, by group name.
    Group(Arc<str>),
    /// Not at all.
    Refuse {
        /// What the client is told.
        message: Arc<str>,
        /// With this SQLSTATE. Default 42501.
        sqlstate: Arc<str>,
    },
}

/// A name with `*` for any run of characters; compared exactly otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(pub Box<str>);

/// A table, with or without its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablePattern {
    /// The schema must be written so in the statement; None: any, or none.
    pub schema: Option<Pattern>,
    /// The table.
    pub name: Pattern,
}

/// What a rule may know of who sends a statement.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The session's user.
    pub user: &'a str,
    /// The database as the client named it.
    pub database: &'a str,
    /// The session's application_name now.
    pub application_name: &'a str,
}

impl RuleSet {
    /// The first rule that matches.
    pub fn first_match(&self, sender: Sender<'_>, statement: &Statement, text: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches(sender, statement, text))
    }
}

impl Rule {
    /// Every given condition holds.
    pub fn matches(&self, sender: Sender<'_>, statement: &Statement, text: &str) -> bool {
        any_or_empty(&self.users, sender.user)
            && any_or_empty(&self.databases, sender.database)
            && any_or_empty(&self.application_names, sender.application_name)
            && (self.kinds.is_empty() || statement.parts.iter().any(|part| self.kinds.contains(&part.kind)))
            && (self.tables.is_empty() || self.names_a_table(statement))
            && self.text.as_ref().is_none_or(|regex| regex.is_match(text))
    }

    /// No condition at all: it matches every statement.
    pub fn has_no_condition(&self) -> bool {
        self.users.is_empty()
            && self.databases.is_empty()
            && self.application_names.is_empty()
            && self.kinds.is_empty()
            && self.tables.is_empty()
            && self.text.is_none()
    }

    /// Surely matches whatever `other` matches. False when it cannot be told: texts are compared only as written.
    pub fn covers(&self, other: &Self) -> bool {
        covers_list(&self.users, &other.users, Pattern::covers)
            && covers_list(&self.databases, &other.databases, Pattern::covers)
            && covers_list(&self.application_names, &other.application_names, Pattern::covers)
            && covers_list(&self.kinds, &other.kinds, Kind::eq)
            && covers_list(&self.tables, &other.tables, TablePattern::covers)
            && self
                .text
                .as_ref()
                .is_none_or(|wide| other.text.as_ref().is_some_and(|text| wide.as_str() == text.as_str()))
    }

    fn names_a_table(&self, statement: &Statement) -> bool {
        let mut names = statement.parts.iter().flat_map(|part| &part.tables);
        names.any(|name| {
            self.tables.iter().any(|pattern| {
                pattern.name.matches(&name.name)
                    && pattern
                        .schema
                        .as_ref()
                        .is_none_or(|schema| name.schema.as_ref().is_some_and(|s| schema.matches(s)))
            })
        })
    }
}

impl Pattern {
    /// `*` stands for any run of characters, also an empty one.
    pub fn matches(&self, name: &str) -> bool {
        let mut pieces = self.0.split('*');
        let Some(mut rest) = pieces.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut pieces = pieces.peekable();
        if pieces.peek().is_none() {
            return rest.is_empty();
        }
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                return rest.ends_with(piece);
            }
            match rest.find(piece) {
                Some(at) => rest = rest.get(at + piece.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        true
    }
}

impl Pattern {
    /// Matches every name that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        // A star of `other` can only be taken up by one of ours, which then takes whatever stands for it.
        self.matches(&other.0)
    }
}

impl TablePattern {
    fn covers(&self, other: &Self) -> bool {
        let schema = self.schema.as_ref();
        self.name.covers(&other.name)
            && schema.is_none_or(|wide| other.schema.as_ref().is_some_and(|schema| wide.covers(schema)))
    }
}

/// Each alternative of `narrow` is one of `wide`; no alternatives mean all.
fn covers_list<T>(wide: &[T], narrow: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
    let is_covered = |narrow: &T| wide.iter().any(|wide| covers(wide, narrow));
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(is_covered)
}

fn any_or_empty(patterns: &[Pattern], name: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(users: &[&str], kinds: &[Kind], text: Option<&str>) -> Rule {
        Rule {
            name: "r".into(),
            users: users.iter().map(|user| Pattern((*user).into())).collect(),
            databases: Vec::new(),
            application_names: Vec::new(),
            kinds: kinds.to_vec(),
            tables: Vec::new(),
            text: text.map(|text| Regex::new(text).unwrap()),
            action: Action::Primary,
        }
    }

    #[test]
    fn a_rule_covers_those_whose_every_condition_is_as_narrow() {
        let wide = rule(&["app*"], &[Kind::Select, Kind::Copy], None);
        assert!(wide.covers(&rule(&["app_a", "app_*"], &[Kind::Select], Some("x"))));
        assert!(!wide.covers(&rule(&["app_a", "ops"], &[Kind::Select], None)));
        assert!(!wide.covers(&rule(&[], &[Kind::Select], None)));
        assert!(!wide.covers(&rule(&["app_a"], &[], None)));
        assert!(rule(&[], &[], Some("x")).covers(&rule(&["a"], &[], Some("x"))));
        assert!(!rule(&[], &[], Some("x")).covers(&rule(&["a"], &[], None)));
        assert!(rule(&[], &[], None).covers(&rule(&[], &[], None)));
        assert!(rule(&[], &[], None).has_no_condition() && !wide.has_no_condition());
    }

    #[test]
    fn a_table_pattern_covers_its_own_in_every_schema_it_allows() {
        let table = |schema: Option<&str>, name: &str| TablePattern {
            schema: schema.map(|schema| Pattern(schema.into())),
            name: Pattern(name.into()),
        };
        assert!(table(None, "audit*").covers(&table(Some("log"), "audit_2024")));
        assert!(!table(Some("log"), "audit").covers(&table(None, "audit")));
        assert!(table(Some("l*"), "audit").covers(&table(Some("log"), "audit")));
    }

    #[test]
    fn a_star_stands_for_any_run() {
        let matches = |pattern: &str, name| Pattern(pattern.into()).matches(name);
        assert!(matches("orders", "orders"));
        assert!(!matches("orders", "orders2"));
        assert!(matches("report*", "report_daily"));
        assert!(matches("*_log", "audit_log"));
        assert!(matches("a*b*c", "a-b-b-c"));
        assert!(!matches("a*b*c", "a-c"));
        assert!(!matches("ab*ba", "aba"));
        assert!(matches("*", ""));
    }
}
