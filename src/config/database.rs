//! `[[database]]`: the names that clients ask for.

use std::sync::Arc;

use super::document::{Distinct, Item, Table, nearest};
use super::{Allowance, Cluster, Database, name};

/// The console answers under this name; a database of the same name could not be reached.
pub const CONSOLE: &str = "trunkline";

/// Stands for every name, as in PgBouncer's configuration.
pub const ANY_DATABASE: &str = "*";

/// All databases of a file.
pub(super) fn read_all(root: &Table<'_>, clusters: &[Cluster]) -> Vec<Database> {
    let tables = root.required_tables("database");
    let mut names = Distinct::new();
    tables.into_iter().map(|table| Database::read(table, clusters, &mut names)).collect()
}

impl Database {
    /// It stands for every name that is not written.
    pub fn is_any(&self) -> bool {
        *self.name == *ANY_DATABASE
    }

    /// What it is for a client that asks for this name.
    pub fn named(&self, name: &Arc<str>) -> Self {
        let server_name = if *self.server_name == *ANY_DATABASE { name } else { &self.server_name };
        Self { name: Arc::clone(name), server_name: Arc::clone(server_name), ..self.clone() }
    }

    fn read(table: Table<'_>, clusters: &[Cluster], names: &mut Distinct) -> Self {
        let name = name::required_identifier(&table, "name", "clients ask for a database by its name");
        if let Some(item) = table.get("name") {
            names.admit(&name, &item);
            refuse_reserved(&name, &item);
        }
        let cluster = table.require("cluster", "name the cluster that has the database");
        let server_name = table.get("server_name").and_then(|item| name::identifier(&item));
        let database = Self {
            cluster: cluster.and_then(|item| find(&item, clusters)).unwrap_or_default(),
            server_name: server_name.unwrap_or_else(|| name.clone()),
            allowance: Allowance::read(&table),
            name,
        };
        table.finish();
        database
    }
}

fn refuse_reserved(name: &str, item: &Item<'_>) {
    if name == CONSOLE {
        let hint = "take another name here and give the real one as server_name";
        item.problem(format!("{CONSOLE:?} is the name of the console"), Some(hint.to_owned()));
    }
}

fn find(item: &Item<'_>, clusters: &[Cluster]) -> Option<usize> {
    let wanted = item.text()?;
    let position = clusters.iter().position(|cluster| *cluster.name == *wanted);
    // A cluster whose own name is wrong may be the one that is meant.
    let all_are_named = clusters.iter().all(|cluster| !cluster.name.is_empty());
    if position.is_none() && all_are_named && !clusters.is_empty() {
        let names: Vec<&str> = clusters.iter().map(|cluster| &*cluster.name).collect();
        let hint = nearest(wanted, &names).unwrap_or_else(|| format!("there is: {}", names.join(", ")));
        item.dangling(format!("there is no cluster {wanted:?}"), Some(hint));
    }
    position
}
