//! `[[user]]`: who may connect.

use std::path::Path;

use super::document::{Distinct, Table};
use super::password::{self, Form};
use super::{Allowance, User, name};

/// All users of a file, and those of a list who do not stand in it.
pub(super) fn read_all(root: &Table<'_>, folder: &Path, listed: Vec<User>, asks_cluster: bool) -> Vec<User> {
    let is_needed = listed.is_empty() && !asks_cluster;
    let tables = if is_needed { root.required_tables("user") } else { root.tables("user") };
    let mut names = Distinct::new();
    let mut users: Vec<User> = tables.into_iter().map(|table| User::read(table, folder, &mut names)).collect();
    for user in listed {
        if !users.iter().any(|other| other.name == user.name) {
            users.push(user);
        }
    }
    users
}

impl User {
    fn read(table: Table<'_>, folder: &Path, names: &mut Distinct) -> Self {
        let name = name::required_identifier(&table, "name", "a user needs a name");
        if let Some(item) = table.get("name") {
            names.admit(&name, &item);
        }
        let user = Self {
            name,
            password: password::required(&table, &password::PASSWORD, Form::PlainOrVerifier, folder),
            server_password: password::optional(&table, &password::SERVER_PASSWORD, Form::Plain, folder),
            allowance: Allowance::read(&table),
        };
        table.finish();
        user
    }
}
