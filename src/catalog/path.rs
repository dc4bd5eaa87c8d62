//! The search path of a session: the schemas in which a name without one is looked for, in order.

use smallvec::SmallVec;

use super::{Oid, Picture};

/// Where names are looked for, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The schemas, `pg_catalog` among them; None where they are not known: then a name may be that of any schema.
    pub(super) schemas: Option<SmallVec<[Oid; 6]>>,
    /// Those of them that PostgreSQL may pass over: the role may have no right to use them, or it may spell them otherwise.
    pub(super) doubtful: SmallVec<[Oid; 2]>,
    /// The role whose rights count.
    pub(super) role: Box<str>,
    /// Row-level security never applies to it.
    pub(super) is_exempt: bool,
}

/// PostgreSQL's own schema.
pub(super) const PG_CATALOG: Oid = 11;

/// What PostgreSQL begins with.
const DEFAULT: &str = "\"$user\", public";

impl Path {
    /// Any schema may be meant, and nobody is exempt from anything.
    pub fn any() -> Self {
        Self { schemas: None, doubtful: SmallVec::new(), role: "".into(), is_exempt: false }
    }

    /// What is PostgreSQL's own comes before everything else.
    pub fn own_first(&self) -> bool {
        self.schemas.as_ref().is_some_and(|schemas| schemas.first() == Some(&PG_CATALOG))
    }

    /// What is in this schema surely comes before what has the same name further on.
    pub(super) fn surely_looks_in(&self, schema: Oid) -> bool {
        !self.doubtful.contains(&schema)
    }
}

impl Picture {
    /// The path of a session: `setting` is its search_path if it has changed it, `login` the role it logged in as, `role`
    /// the one it acts as now, which is not known of who begins as another one.
    pub fn path(&self, setting: Option<&str>, login: &str, role: &str) -> Path {
        if self.other_roles.iter().any(|begins| begins.as_deref().is_none_or(|begins| begins == login)) {
            return Path::any();
        }
        let text = setting.unwrap_or_else(|| self.default_path(login));
        let mut schemas: SmallVec<[Oid; 6]> = SmallVec::new();
        let mut doubtful = SmallVec::new();
        for Listed { name, is_sure } in names(text) {
            let name = if name == "$user" { role } else { &name };
            if let Some(&schema) = self.schemas.get(name).filter(|schema| !schemas.contains(schema)) {
                schemas.push(schema);
                if !is_sure || !self.surely_uses(role, schema) {
                    doubtful.push(schema);
                }
            }
        }
        if !schemas.contains(&PG_CATALOG) {
            schemas.insert(0, PG_CATALOG);
        }
        Path { schemas: Some(schemas), doubtful, role: role.into(), is_exempt: self.exempt_roles.contains(role) }
    }

    /// Who else may use a schema hangs on grants to roles and their members, which are not looked into.
    fn surely_uses(&self, role: &str, schema: Oid) -> bool {
        let is_owner = |owner: &Option<Box<str>>| owner.as_deref() == Some(role);
        self.closed_schemas.get(&schema).is_none_or(is_owner) || self.superusers.contains(role)
    }

    /// The path's number in this picture: what it means to a statement can be noted under it. None: there are too many.
    pub fn number(&self, path: &Path) -> Option<u16> {
        /// So many sessions with paths of their own share no statements anyway.
        const MOST_NUMBERED: usize = 4096;
        let mut numbers = self.path_numbers.lock();
        if let Some(number) = numbers.get(path) {
            return Some(*number);
        }
        let number = u16::try_from(numbers.len()).ok().filter(|_| numbers.len() < MOST_NUMBERED)?;
        numbers.insert(path.clone(), number);
        Some(number)
    }

    /// The server's own setting was this when the picture was drawn.
    pub fn has_server_path(&self, setting: Option<&str>) -> bool {
        self.server_path.as_deref() == setting
    }

    /// By the path that this role begins with, what is made without a schema's name may be temporary.
    pub fn makes_temporary_first(&self, login: &str) -> bool {
        self.default_path(login).to_ascii_lowercase().contains("pg_temp")
    }

    /// What a session of this role begins with.
    fn default_path(&self, login: &str) -> &str {
        let of_role = |here: bool| {
            self.role_paths
                .iter()
                .find(|(role, only_here, _)| **role == *login && *only_here == here)
                .map(|row| &*row.2)
        };
        let of_database = || self.database_path.as_deref().or(self.server_path.as_deref());
        of_role(true).or_else(|| of_role(false)).or_else(of_database).unwrap_or(DEFAULT)
    }
}

/// A name of a list.
#[derive(Debug, PartialEq, Eq)]
struct Listed {
    name: String,
    /// It is surely spelled like this.
    is_sure: bool,
}

/// The names of a list as PostgreSQL reads it: folded to lower case unless quoted.
fn names(list: &str) -> Vec<Listed> {
    let mut names = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_ascii_start();
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (name, after) = quoted_name(quoted);
                names.push(Listed { name, is_sure: true });
                after
            }
            None => {
                let (name, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                let name = name.trim_ascii().to_ascii_lowercase();
                // Other letters than ASCII are folded only where a character is one byte.
                let folded = name.to_lowercase();
                let is_sure = folded == name;
                names.push(Listed { name, is_sure });
                names.extend((!is_sure).then_some(Listed { name: folded, is_sure }));
                after
            }
        };
        match after.split_once(',') {
            Some((_, next)) => rest = next,
            None => break,
        }
    }
    names.retain(|listed| !listed.name.is_empty());
    names
}

/// The name up to its closing quote, and what comes behind.
fn quoted_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let Some((part, after)) = rest.split_once('"') else { return (name + rest, "") };
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return (name, after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{FunctionLists, Inventory, RoleRow};

    #[test]
    fn what_is_in_a_schema_hides_the_rest_from_those_who_may_surely_use_it() {
        let role = |name: &str, is_superuser| RoleRow { oid: 10, name: name.into(), is_exempt: true, is_superuser };
        let inventory = Inventory {
            schemas: vec![(PG_CATALOG, "pg_catalog".into()), (2200, "public".into()), (20000, "closed".into())],
            closed_schemas: vec![(20000, Some("owner".into()))],
            roles: vec![role("root", true), role("exempt", false)],
            ..Inventory::default()
        };
        let picture = Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0);
        let doubtful = |role: &str| picture.path(Some("closed, public"), role, role).doubtful.to_vec();
        assert_eq!([doubtful("root"), doubtful("owner")], [[0; 0]; 2]);
        assert_eq!([doubtful("exempt"), doubtful("other")], [[20000]; 2]);
    }

    #[test]
    fn who_begins_as_another_role_may_mean_any_schema() {
        let path = |other_roles| {
            let inventory = Inventory { other_roles, ..Inventory::default() };
            Picture::draw(inventory, &FunctionLists::default(), 1, 0, 0).path(None, "ada", "ada")
        };
        assert_eq!(path(vec![Some("ada".into())]), Path::any());
        assert_eq!(path(vec![None]), Path::any());
        assert_ne!(path(vec![Some("bob".into())]), Path::any());
    }

    #[test]
    fn a_list_is_read_as_postgres_reads_it() {
        let names = |list| names(list).into_iter().map(|listed| listed.name).collect::<Vec<_>>();
        assert_eq!(names("\"$user\", Public"), ["$user", "public"]);
        assert_eq!(names(" \"My \"\"x\"\"\",b "), ["My \"x\"", "b"]);
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names("\"\""), [""; 0]);
    }

    #[test]
    fn letters_that_only_some_encodings_fold_are_looked_for_in_both_ways() {
        let listed = |name: &str, is_sure| Listed { name: name.to_owned(), is_sure };
        assert_eq!(
            names("Ж, \"Ж\", ж"),
            [listed("Ж", false), listed("ж", false), listed("Ж", true), listed("ж", true)]
        );
    }
}
