//! `[auth]` and `[cluster.auth_query]`: how clients prove who they are, and users that do not stand in the file.

use std::net::IpAddr;
use std::path::Path;

use crate::auth::hba::{Network, Rules};
use crate::auth::{Secret, userlist};

use super::document::{Item, Table};
use super::password::{self, Form};
use super::{Allowance, AuthQuery, User, name};

/// The rules of access, and the users of a list.
pub(super) fn read(root: &Table<'_>, folder: &Path) -> (Rules, Vec<User>) {
    let table = root.section("auth");
    let (lines, file) = (table.get("hba"), table.get("hba_file"));
    if let (Some(lines), Some(_)) = (&lines, &file) {
        lines.problem("the rules are already given by hba_file", Some("keep one of them".to_owned()));
    }
    let rules = file.as_ref().and_then(|item| Some((item, read_file(item, folder)?))).map_or_else(
        || {
            lines
                .as_ref()
                .map(|item| (item, item.list("lines").iter().filter_map(Item::text).collect::<Vec<_>>().join("\n")))
        },
        Some,
    );
    let rules = rules.map_or_else(Rules::of_passwords, |(item, text)| parse(item, &text));
    let users = table.get("users_file").map(|item| read_users(&item, folder)).unwrap_or_default();
    table.finish();
    (rules, users)
}

fn parse(item: &Item<'_>, text: &str) -> Rules {
    Rules::parse(text, &own_networks()).unwrap_or_else(|problems| {
        for problem in problems {
            item.problem(format!("line {}: {}", problem.line, problem.what), None);
        }
        Rules::default()
    })
}

fn read_file(item: &Item<'_>, folder: &Path) -> Option<String> {
    let path = folder.join(item.text()?);
    let text = std::fs::read_to_string(&path);
    text.map_err(|error| item.problem(format!("{} cannot be read: {error}", path.display()), None)).ok()
}

fn read_users(item: &Item<'_>, folder: &Path) -> Vec<User> {
    let Some(text) = read_file(item, folder).map(zeroize::Zeroizing::new) else { return Vec::new() };
    let listed = userlist::parse(&text).unwrap_or_else(|lines| {
        for line in lines {
            item.problem(format!("line {line}: expected \"name\" \"password\""), None);
        }
        Vec::new()
    });
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

/// PgBouncer's own; a role that may not read pg_shadow needs a function that may.
const QUERY: &str = "SELECT usename, passwd FROM pg_shadow WHERE usename = $1";

/// The networks that this machine is in, which `samenet` means: as the kernel's routes without a gateway tell.
fn own_networks() -> Vec<Network> {
    let mut networks = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    networks.extend(routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, _, mask, ..] = fields.as_slice() else { return None };
        let (destination, mask) = (u32::from_str_radix(destination, 16).ok()?, u32::from_str_radix(mask, 16).ok()?);
        let address = IpAddr::from(destination.to_ne_bytes());
        (*gateway == "00000000" && mask != 0).then(|| format!("{address}/{}", mask.count_ones()))
    }));
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    networks.extend(addresses.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let address = IpAddr::from(u128::from_str_radix(fields.next()?, 16).ok()?.to_be_bytes());
        Some(format!("{address}/{}", u8::from_str_radix(fields.nth(1)?, 16).ok()?))
    }));
    networks.iter().filter_map(|network| Network::parse(network).ok()).collect()
}
