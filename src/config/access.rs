//! `[auth]` and `[cluster.auth_query]`: how clients prove who they are, and users that do not stand in the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;

use crate::auth::hba::{Files, HbaProblem, IdentMaps, Rules, Surroundings, Text};
use crate::auth::{Secret, tls, userlist};

use super::document::{Item, Table};
use super::password::{self, Form};
use super::problem::{Place, Problem};
use super::system_authorities::SystemAuthorities;
use super::{Allowance, AuthQuery, Cluster, User, name, own_addresses};

/// How clients prove who they are.
pub(super) struct Access {
    pub(super) rules: Rules,
    /// See [`Config::rules_of_pgbouncer`](super::Config::rules_of_pgbouncer).
    pub(super) rules_of_pgbouncer: Vec<String>,
    pub(super) ldap_tls: Option<Arc<ClientConfig>>,
    /// See [`Config::system_authorities`](super::Config::system_authorities).
    pub(super) system_authorities: Option<usize>,
    /// See [`Config::unread_authorities`](super::Config::unread_authorities).
    pub(super) unread_authorities: Option<String>,
    /// The users of a list.
    pub(super) users: Vec<User>,
}

/// Reads `[auth]`. What is wrong in files that are not TOML goes to `problems`.
pub(super) fn read(
    root: &Table<'_>,
    folder: &Path,
    clusters: &[Cluster],
    looks_at_certificates: bool,
    problems: &mut Vec<Problem>,
) -> Access {
    let table = root.section("auth");
    let rules = Lines::read(&table, ["hba", "hba_file"], folder);
    let maps = Lines::read(&table, ["ident", "ident_file"], folder);
    let users = table.get("users_file").map(|item| read_users(&item, folder)).unwrap_or_default();
    let mut ldap_tls = table.get("ldap_ca").and_then(|item| {
        let authorities = read_file(&item, folder)?;
        tls::trusting(authorities.as_bytes()).map_err(|problem| item.problem(problem.to_string(), None)).ok()
    });
    table.finish();

    let surroundings = Surroundings {
        files: &Disk,
        own_networks: &own_addresses::networks(),
        own_addresses: &own_addresses::addresses(),
        unasked_cluster: clusters.iter().find(|cluster| cluster.auth_query.is_none()).map(|cluster| &*cluster.name),
    };
    let maps = maps.map(|lines| {
        let maps = IdentMaps::parse(lines.text(), surroundings);
        maps.map_err(|found| lines.report(found, problems))
    });
    let maps = match maps.transpose() {
        Ok(maps) => maps.unwrap_or_default(),
        // Rules that name maps would seem wrong too.
        Err(()) => {
            return Access {
                rules: Rules::default(),
                rules_of_pgbouncer: Vec::new(),
                ldap_tls,
                system_authorities: None,
                unread_authorities: None,
                users,
            };
        }
    };
    let mut rules_of_pgbouncer = Vec::new();
    let rules = rules.map_or_else(Rules::of_passwords, |lines| {
        let rules = Rules::parse(lines.text(), maps, surroundings).inspect(|rules| lines.refuse_none(rules));
        let rules = rules.map_err(|found| lines.report(found, problems)).unwrap_or_default();
        // Nobody whom such a rule fits could ever come in.
        if rules.asks_certificates() && !looks_at_certificates {
            let what = "client certificates can only be checked if TLS is on and tls.ca is there";
            let hint = "tls.ca names the authorities that sign them, and tls.certificate turns TLS on".to_owned();
            lines.setting.dangling(what, Some(hint));
        }
        rules_of_pgbouncer = rules.naming(PGBOUNCER).map(|(file, line)| lines.place(file, line)).collect();
        rules
    });
    let (mut system_authorities, mut unread_authorities) = (None, None);
    if ldap_tls.is_none() && rules.asks_ldap_over_tls() {
        let system = SystemAuthorities::read();
        (system_authorities, unread_authorities) = (Some(system.roots.len()), system.unread);
        ldap_tls = tls::trusting_these(system.roots).ok();
    }
    Access { rules, rules_of_pgbouncer, ldap_tls, system_authorities, unread_authorities, users }
}

/// Lines in a format of PostgreSQL's: a file, or a list in ours.
struct Lines<'d> {
    /// What gives them.
    setting: Item<'d>,
    path: PathBuf,
    text: String,
    is_file: bool,
    /// The list's.
    items: Vec<Item<'d>>,
}

impl<'d> Lines<'d> {
    /// `keys` are that of a list and that of a file.
    fn read(table: &Table<'d>, keys: [&'static str; 2], folder: &Path) -> Option<Self> {
        let [list, file] = keys.map(|key| table.get(key));
        if let (Some(list), Some(_)) = (&list, &file) {
            list.problem(format!("the lines are already given by {}", keys[1]), Some("keep one of them".to_owned()));
        }
        if let Some(item) = file {
            let text = read_file(&item, folder)?;
            let path = folder.join(item.text()?);
            return Some(Self { setting: item, path, text, is_file: true, items: Vec::new() });
        }
        let setting = list?;
        // A line may hold a password.
        let items = setting.secret_list("lines");
        let texts: Vec<&str> = items.iter().map(|item| item.text().unwrap_or_default()).collect();
        if let Some((item, _)) = items.iter().zip(&texts).find(|(_, text)| text.contains('\n')) {
            item.problem("expected one line, found several", Some("a string for each".to_owned()));
        }
        // What it includes is beside the configuration.
        Some(Self { setting, path: table.file().to_path_buf(), text: texts.join("\n"), is_file: false, items })
    }

    fn text(&self) -> Text<'_> {
        Text { path: &self.path, text: &self.text }
    }

    /// The item that this line is, where the lines are a list.
    fn item(&self, file: &Path, line: usize) -> Option<&Item<'d>> {
        self.items.get(line.saturating_sub(1)).filter(|_| *file == *self.path)
    }

    /// Whom no rule fits does not come in: without any, that is everybody.
    fn refuse_none(&self, rules: &Rules) {
        // What is no list of texts has been told.
        let is_read = self.is_file || self.setting.is_list() && self.items.iter().all(|item| item.as_str().is_some());
        if is_read && rules.is_empty() {
            let hint = "leave it out to have everybody prove a password".to_owned();
            self.setting.dangling("holds no rule that fits anybody: nobody could log in", Some(hint));
        }
    }

    /// Where this line stands, in words.
    fn place(&self, file: &Path, line: usize) -> String {
        let line = self.item(file, line).map_or(line, |item| item.place().line);
        format!("{}:{line}", file.display())
    }

    fn report(&self, found: Vec<HbaProblem>, problems: &mut Vec<Problem>) {
        for HbaProblem { file, line, what, instead } in found {
            let hint = Some(format!("instead: {instead}"));
            match self.item(&file, line) {
                Some(item) => item.problem(what, hint),
                None => problems.push(Problem {
                    file,
                    place: Some(Place { line, column: 1 }),
                    path: String::new(),
                    what,
                    hint,
                }),
            }
        }
    }
}

/// Files as they are.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<String> {
        std::fs::read_to_string(path)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }
}

fn read_file(item: &Item<'_>, folder: &Path) -> Option<String> {
    let path = folder.join(item.text()?);
    let text = std::fs::read_to_string(&path);
    text.map_err(|error| item.problem(format!("{} cannot be read: {error}", path.display()), None)).ok()
}

fn read_users(item: &Item<'_>, folder: &Path) -> Vec<User> {
    let Some(text) = read_file(item, folder).map(zeroize::Zeroizing::new) else { return Vec::new() };
    let listed = match userlist::parse(&text) {
        Ok(listed) => listed,
        Err(lines) => {
            for line in lines {
                item.problem(format!("line {line}: expected \"name\" \"password\""), None);
            }
            return Vec::new();
        }
    };
    let mut users: Vec<User> = Vec::new();
    for user in listed {
        // An empty password is none: the user exists, and no password will do.
        if let Some(problem) = Secret::check(&user.password).err().filter(|_| !user.password.is_empty()) {
            item.problem(format!("line {}: {problem}", user.line), None);
        }
        if users.iter().any(|other| *other.name == *user.name) {
            item.problem(format!("line {}: {:?} is already listed", user.line, user.name), None);
        }
        users.push(User {
            name: user.name.into(),
            password: Secret::new(user.password.to_string()),
            server_password: None,
            allowance: Allowance::default(),
        });
    }
    users
}

impl AuthQuery {
    /// The section of a cluster; None: its users are not asked for.
    pub(super) fn read(cluster: &Table<'_>, folder: &Path) -> Option<Self> {
        let table = cluster.written_section("auth_query")?;
        let query = table.get("query").and_then(|item| item.text().map(|text| (item.clone(), text.to_owned())));
        if let Some((item, _)) = query.as_ref().filter(|(_, text)| !text.contains("$1")) {
            item.problem("the user's name must stand in it as $1", None);
        }
        let auth_query = Self {
            user: name::required_identifier(&table, "user", "passwords are asked for as this role"),
            password: password::required(&table, &password::PASSWORD, Form::Plain, folder),
            database: table
                .get("database")
                .map_or_else(|| "postgres".into(), |item| name::identifier(&item).unwrap_or_default()),
            query: query.map_or_else(|| QUERY.into(), |(_, text)| text.into()),
        };
        table.finish();
        Some(auth_query)
    }
}

/// The database of PgBouncer's console.
pub(super) const PGBOUNCER: &str = "pgbouncer";

/// PgBouncer's own, in which a password that has expired is none; a role that may not read pg_shadow needs a function that
/// may.
const QUERY: &str =
    "SELECT usename, CASE WHEN valuntil < now() THEN NULL ELSE passwd END FROM pg_shadow WHERE usename = $1";
