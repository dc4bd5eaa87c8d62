//! The manual of settings, `src/config/README.md`, against the file that shows them all and is checked against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A setting as the full configuration shows it.
#[derive(Default)]
struct Shown {
    /// The value, where it is given as the default.
    default: Option<String>,
    /// Its bounds, where they are two numbers.
    bounds: Option<String>,
}

#[test]
fn every_setting_is_in_the_manual_with_its_default_and_bounds() {
    let (shown, rows) = (shown_settings(), rows_of_the_manual());
    for (name, setting) in &shown {
        let row = rows.get(name).unwrap_or_else(|| panic!("{name} is not in the manual"));
        // The number of cores is not the same everywhere, and names and passwords have no default.
        let default = setting.default.as_ref().filter(|_| !["workers", "database.server_name"].contains(&&**name));
        if let Some(default) = default.filter(|_| !name.contains("password")) {
            assert_eq!(row[1], format!("`{default}`"), "the default of {name}");
        }
        if let Some(bounds) = &setting.bounds {
            assert!(row[2].starts_with(&**bounds), "the bounds of {name} are {bounds}, not {}", row[2]);
        }
    }
    let unknown: Vec<_> = rows.keys().filter(|name| !shown.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "no such settings: {unknown:?}");
    assert!(shown.len() > 40, "only {} settings were found", shown.len());
}

/// What the settings of other poolers are called here is called so.
#[test]
fn settings_that_others_are_compared_with_are_settings() {
    let text = fs::read_to_string("src/config/coming-from.md").unwrap();
    let shown = shown_settings();
    let section = |name: &str| shown.keys().any(|known| known.split('.').next() == name.split('.').next());
    let mut found = 0;
    for here in text.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | ")).map(|(_, here)| here) {
        let quoted = here.split('`').skip(1).step_by(2).map(|quoted| quoted.split(" = ").next().unwrap_or(quoted));
        for name in quoted.filter(|name| name.contains('.') && section(name)) {
            assert!(shown.contains_key(name), "there is no setting {name}: {here}");
            found += 1;
        }
    }
    assert!(found > 50, "only {found} were looked at");
}

#[test]
fn the_console_shows_every_setting_but_those_that_its_manual_leaves_out() {
    let is_allowance = |key: &str| matches!(key, "pool_mode" | "pool_size" | "max_connections" | "max_clients");
    let text = fs::read_to_string("tests/golden/config/full.toml").unwrap();
    // Without a default, they are shown where they are written.
    let written = text.lines().map(|line| match setting(line) {
        Some((key, value, false)) if is_allowance(key) => format!("{key} = {value}\n"),
        _ => format!("{line}\n"),
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    fs::write(&path, written.collect::<String>()).unwrap();
    // "database.shop.pool_size" is what the manual calls "database.pool_size".
    let without_name = |key: &str| match key.split('.').collect::<Vec<_>>().as_slice() {
        [section @ ("cluster" | "database" | "user"), _, rest @ ..] => format!("{section}.{}", rest.join(".")),
        _ => key.to_owned(),
    };
    let told = trunkline::config::load(&path).unwrap().shown();
    let told: BTreeSet<String> = told.iter().map(|setting| without_name(&setting.key)).collect();
    let is_left_out = |name: &str| {
        let (section, key) = name.rsplit_once('.').unwrap_or(("", name));
        // A name is a part of other keys.
        matches!(section, "auth" | "cluster.patroni_tls" | "cluster.balance" | "cluster.node" | "cluster.group")
            || matches!(key, "name" | "certificate" | "key" | "ca" | "min_version")
            || key.contains("password")
            || key.ends_with("_functions")
    };
    for name in shown_settings().keys() {
        assert_ne!(told.contains(name), is_left_out(name), "{name}");
    }
    assert!(told.contains("cluster.group.reports"), "{told:?}");
}

/// Every row of the manual's tables: the setting's name, and the row's cells.
fn rows_of_the_manual() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string("src/config/README.md").unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<String> = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        assert_eq!(cells.len(), 4, "{line}");
        (cells[0].trim_matches('`').to_owned(), cells)
    });
    rows.collect()
}

/// Every setting of the full configuration, commented out or not.
fn shown_settings() -> BTreeMap<String, Shown> {
    let text = fs::read_to_string("tests/golden/config/full.toml").unwrap();
    let mut shown = BTreeMap::new();
    let (mut section, mut comment) = (String::new(), String::new());
    for line in text.lines() {
        if line.starts_with('[') {
            section = format!("{}.", line.trim_matches(['[', ']']));
            comment.clear();
        } else if let Some((key, value, is_default)) = setting(line) {
            let default = is_default.then(|| value.to_owned());
            shown.insert(format!("{section}{key}"), Shown { default, bounds: bounds(&comment) });
            comment.clear();
        } else {
            comment.push_str(line.trim_start_matches('#'));
        }
    }
    shown
}

/// Name, value, and whether the line gives a default: "# key = value".
fn setting(line: &str) -> Option<(&str, &str, bool)> {
    let is_default = line.starts_with("# ") && !line.starts_with("#  ");
    let (key, rest) = line.trim_start_matches(['#', ' ']).split_once(" = ")?;
    let is_key = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    // "password_file = "x"      what it is": after the value comes a word about it.
    is_key.then(|| (key, rest.split("  ").next().unwrap_or(rest), is_default))
}

/// "10ms to 1min", if the words about a setting hold such a thing.
fn bounds(comment: &str) -> Option<String> {
    let pattern = regex::Regex::new(r"\d+[a-zA-Z]* to \d+[a-zA-Z]*").unwrap();
    pattern.find(comment).map(|found| found.as_str().to_owned())
}
