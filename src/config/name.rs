//! What may be a name: of a role or database as PostgreSQL has it, of the things that Trunkline names itself, and of the
//! functions and tables that patterns mean.

use std::sync::Arc;

use super::document::{Item, Table};

/// PostgreSQL cuts longer names off (NAMEDATALEN less one), which would make two names one.
const LONGEST: usize = 63;

/// A role or database of PostgreSQL; empty after a problem.
pub(super) fn required_identifier(table: &Table<'_>, key: &'static str, why: &str) -> Arc<str> {
    table.require(key, why).and_then(|item| identifier(&item)).unwrap_or_default()
}

/// A name that is shown in metrics, logs and reasons; empty after a problem.
pub(super) fn required_label(table: &Table<'_>, key: &'static str, why: &str) -> Arc<str> {
    table.require(key, why).and_then(|item| label(&item)).unwrap_or_default()
}

/// A role or database of PostgreSQL.
pub(super) fn identifier(item: &Item<'_>) -> Option<Arc<str>> {
    let name = item.text()?;
    let is_name = (1..=LONGEST).contains(&name.len()) && !name.chars().any(char::is_control);
    if !is_name {
        item.wrong(&format!("a name of 1 to {LONGEST} bytes without control characters"), None);
    }
    is_name.then(|| name.into())
}

/// A name that is shown in metrics, logs and reasons.
pub(super) fn label(item: &Item<'_>) -> Option<Arc<str>> {
    let name = item.text()?;
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.');
    let is_name = (1..=LONGEST).contains(&name.len()) && name.chars().all(is_plain);
    if !is_name {
        item.wrong(&format!("a name of 1 to {LONGEST} letters, digits, '_', '-' and '.'"), None);
    }
    is_name.then(|| name.into())
}

/// A function's or table's name or a pattern with `*`, and its schema's if one is written; `expected` says in messages what it may be.
pub(super) fn pattern<'d>(item: &Item<'d>, expected: &str) -> Option<(Option<&'d str>, &'d str)> {
    let text = item.text()?;
    let (schema, name) = text.split_once('.').map_or((None, text), |(schema, name)| (Some(schema), name));
    let is_whole = |part: &str| !part.is_empty() && !part.contains('.');
    let names_something = !text.ends_with(".*$") && is_name(name) && schema.is_none_or(is_name);
    if !(names_something && is_whole(name) && schema.is_none_or(is_whole)) {
        let hint = "only the name, without arguments; `*` is the only pattern".to_owned();
        item.wrong(expected, (!names_something).then_some(hint));
        return None;
    }
    Some((schema, name))
}

/// It is meant as one. With arguments, as several names or as a regular expression it would mean nothing, and so it would with
/// blanks around it. A name that is written in quotes may hold anything, as `Sales (2024)`.
fn is_name(part: &str) -> bool {
    let has_arguments = part.ends_with(')') && part.split_once('(').is_some_and(|(name, _)| name.trim_end() == name);
    let is_expression = part.starts_with('^') || part.contains('\\');
    !has_arguments && !is_expression && !part.contains(", ") && part.trim() == part
}
