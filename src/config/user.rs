//! `[[user]]`: who may connect.

use std::path::Path;

use super::document::{Distinct, Table};
use super::password::{self, Form};
use super::{User, name};

/// All users of a file.
pub(super) fn read_all(root: &Table<'_>, folder: &Path) -> Vec<User> {
    let tables = root.required_tables("user");
    let mut names = Distinct::new();
    tables.into_iter().map(|table| User::read(table, folder, &mut names)).collect()
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
        };
        table.finish();
        user
    }
}
