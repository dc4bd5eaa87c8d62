//! What a setting of other poolers is called here: as the manual for those who come from them has it, which is read for that.

const MANUAL: &str = include_str!("coming-from.md");

/// Settings here that have no section.
const WITHOUT_SECTION: [&str; 2] = ["listen", "max_clients"];

/// What the setting that is called so elsewhere is called here; None: the manual has no word of it.
pub(super) fn called_here(name: &str) -> Option<String> {
    // A single word is anything's.
    let name = Some(name).filter(|name| name.contains('_'))?;
    // The setting of all first, then what is written with `=` behind a database or a user.
    row_of(name).or_else(|| row_of(&format!("{name}=")))
}

fn row_of(name: &str) -> Option<String> {
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    // Where there is none, or it is always so, what else is named is something else.
    let mut rows = rows.filter(|(_, here)| !here.starts_with("none") && !here.starts_with("always"));
    rows.find_map(|(there, here)| {
        let there: Vec<&str> = quoted(there).filter(|word| !word.starts_with('[')).collect();
        let here: Vec<&str> = quoted(here).filter(|word| is_setting(word)).collect();
        let place = there.iter().position(|word| *word == name)?;
        match (here.len() >= there.len(), here.get(place)) {
            (true, Some(here)) => Some((*here).to_owned()),
            _ => Some(here.join(" and ")).filter(|here| !here.is_empty()),
        }
    })
}

/// What stands in backquotes, up to its value.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2).map(|word| word.split_once(" = ").map_or(word, |(word, _)| word))
}

fn is_setting(word: &str) -> bool {
    let is_name = word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'.'));
    is_name && (word.contains('.') || WITHOUT_SECTION.contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_others_are_known_by_their_names_there() {
        for (there, here) in [
            ("client_login_timeout", Some("limits.login_timeout")),
            ("query_wait_timeout", Some("pool.queue_timeout")),
            ("min_pool_size", Some("pool.min_size")),
            ("max_client_conn", Some("max_clients")),
            ("max_db_connections", Some("database.max_connections")),
            ("log_disconnections", Some("log.connections")),
            ("max_user_connections", Some("user.max_connections")),
            ("max_user_client_connections", Some("user.max_clients")),
            ("pool_mode", Some("pool.mode")),
            ("ssl_key", Some("tls.key")),
            ("statement_level_load_balance", None),
            ("dns_max_ttl", None),
            ("num_init_children", Some("max_clients")),
            ("server_reset_query", None),
            ("port", None),
            ("nobodys_setting", None),
        ] {
            assert_eq!(called_here(there).as_deref(), here, "{there}");
        }
    }
}
