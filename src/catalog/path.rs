//! The search path of a session: the schemas in which a name without one is looked for, in order.

use smallvec::SmallVec;

use super::{Oid, Picture};

/// Where names are looked for, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The schemas, `pg_catalog` among them; None where they are not known: then a name may be that of any schema.
    pub(super) schemas: Option<SmallVec<[Oid; 6]>>,
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
        Self { schemas: None, role: "".into(), is_exempt: false }
    }
}

impl Picture {
    /// The path of a session: `setting` is its search_path if it has changed it, `login` the role it logged in as, `role`
    /// the one it acts as now.
    pub fn path(&self, setting: Option<&str>, login: &str, role: &str) -> Path {
        let text = setting.unwrap_or_else(|| self.default_path(login));
        let mut schemas: SmallVec<[Oid; 6]> = SmallVec::new();
        for name in names(text) {
            let name = if name == "$user" { role } else { &name };
            if let Some(&schema) = self.schemas.get(name).filter(|schema| !schemas.contains(schema)) {
                schemas.push(schema);
            }
        }
        if !schemas.contains(&PG_CATALOG) {
            schemas.insert(0, PG_CATALOG);
        }
        Path { schemas: Some(schemas), role: role.into(), is_exempt: self.exempt_roles.contains(role) }
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

/// The names of a list as PostgreSQL reads it: folded to lower case unless quoted.
fn names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start();
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_name(quoted),
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (name, after) = rest.split_at(end);
                (name.trim().to_lowercase(), after)
            }
        };
        if !name.is_empty() {
            names.push(name);
        }
        match after.split_once(',') {
            Some((_, next)) => rest = next,
            None => return names,
        }
    }
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

    #[test]
    fn a_list_is_read_as_postgres_reads_it() {
        assert_eq!(names("\"$user\", Public"), ["$user", "public"]);
        assert_eq!(names(" \"My \"\"x\"\"\",b "), ["My \"x\"", "b"]);
        assert_eq!(names(""), [""; 0]);
        assert_eq!(names("\"\""), [""; 0]);
    }
}
