//! What may be a name: of a role or database as PostgreSQL has it, and of the things that Trunkline names itself.

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
