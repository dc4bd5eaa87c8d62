//! The database that a statement needs for itself: PostgreSQL refuses it (55006) while anybody else is connected there.

use std::sync::Arc;

use super::parse::grammar::{DefElem, Node, ObjectType, node::Node as Tree};

/// The database that the statement drops, renames, copies or moves.
pub(super) fn emptied(node: &Tree) -> Option<Arc<str>> {
    match node {
        Tree::DropdbStmt(drop) => Some(drop.dbname.as_str().into()),
        Tree::RenameStmt(rename) if rename.rename_type() == ObjectType::ObjectDatabase => {
            Some(rename.subname.as_str().into())
        }
        Tree::CreatedbStmt(create) => Some(option(&create.options, "template").unwrap_or(DEFAULT_TEMPLATE).into()),
        Tree::AlterDatabaseStmt(alter) => {
            option(&alter.options, "tablespace").map(|_tablespace| alter.dbname.as_str().into())
        }
        _ => None,
    }
}

/// The text of this option; None: it is not there, or DEFAULT.
fn option<'a>(options: &'a [Node], name: &str) -> Option<&'a str> {
    options.iter().find_map(|option| match &option.node {
        Some(Tree::DefElem(definition)) if definition.defname == name => {
            let DefElem { arg, .. } = &**definition;
            match arg.as_ref()?.node.as_ref()? {
                Tree::String(value) => Some(value.sval.as_str()),
                _ => None,
            }
        }
        _ => None,
    })
}

/// What CREATE DATABASE copies that names nothing else.
const DEFAULT_TEMPLATE: &str = "template1";

#[cfg(test)]
mod tests {
    use crate::sql::{ParseSettings, classify};

    #[test]
    fn what_is_dropped_renamed_copied_or_moved_must_be_empty() {
        for (text, database) in [
            ("DROP DATABASE shop", Some("shop")),
            ("drop database if exists \"Shop\" with (force)", Some("Shop")),
            ("ALTER DATABASE shop RENAME TO store", Some("shop")),
            ("ALTER DATABASE shop SET TABLESPACE fast", Some("shop")),
            ("CREATE DATABASE store TEMPLATE shop", Some("shop")),
            ("CREATE DATABASE store OWNER ada TEMPLATE = 'shop'", Some("shop")),
            ("CREATE DATABASE store", Some("template1")),
            ("CREATE DATABASE store TEMPLATE DEFAULT", Some("template1")),
            ("ALTER DATABASE shop CONNECTION LIMIT 3", None),
            ("ALTER DATABASE shop SET work_mem = '1MB'", None),
            ("ALTER TABLE shop RENAME TO store", None),
            ("DROP TABLE shop", None),
        ] {
            let statement = classify(text, &ParseSettings::default());
            assert_eq!(statement.parts[0].empties.as_deref(), database, "{text}");
        }
    }
}
