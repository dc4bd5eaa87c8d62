//! What is said of configurations: golden files of problems, and those that are accepted.
//!
//! `UPDATE_GOLDEN=1` writes what is said now over what was expected; read the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use trunkline::config::{self, PoolMode};
use trunkline::routing::{Consistency, Reads};

const GOLDEN: &str = "tests/golden/config";

#[test]
fn every_mistake_of_a_file_is_said_at_once_with_its_place() {
    let mut checked = 0;
    for path in toml_files(&Path::new(GOLDEN).join("problems")) {
        let said = match config::load(&path) {
            Ok(_) => "ok\n".to_owned(),
            Err(problems) => format!("{problems}\n"),
        };
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap_or_default(), "{}", path.display());
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} golden files were found");
}

#[test]
fn the_smallest_useful_configuration_is_accepted() {
    let config = config::load(&Path::new(GOLDEN).join("reference.toml")).unwrap();
    assert_eq!(config.clusters[0].nodes.len(), 3);
    assert_eq!(config.clusters[0].monitor.interval, Duration::from_millis(100));
    assert_eq!(config.databases[0].cluster, 0);
    assert_eq!(&*config.databases[0].server_name, "bench");
    assert_eq!((config.pool.mode, config.pool.size), (PoolMode::Transaction, 20));
    assert_eq!((config.routing.reads, config.routing.consistency), (Reads::Replicas, Consistency::Session));
    assert_eq!(config.failover.hold, Duration::from_secs(10));
}

#[test]
fn the_full_configuration_shows_every_setting_with_its_default() {
    let text = fs::read_to_string(Path::new(GOLDEN).join("full.toml")).unwrap();
    let shown = config::load(&Path::new(GOLDEN).join("full.toml")).unwrap();
    let reference = config::load(&Path::new(GOLDEN).join("reference.toml")).unwrap();

    assert_eq!(format!("{:?}", shown.limits), format!("{:?}", reference.limits));
    assert_eq!(format!("{:?}", shown.pool), format!("{:?}", reference.pool));
    assert_eq!(format!("{:?}", shown.failover), format!("{:?}", reference.failover));
    assert_eq!(format!("{:?}", shown.log), format!("{:?}", reference.log));
    assert_eq!(shown.routing.max_lag, reference.routing.max_lag);
    assert_eq!(shown.routing.freshness_wait, reference.routing.freshness_wait);
    assert_eq!(shown.max_clients, reference.max_clients);

    // A misspelt key of each section lists what the section knows: all of it stands in the file.
    for (section, known) in known_keys() {
        for key in known {
            let is_shown = text.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ', '[']);
                line.starts_with(&format!("{key} "))
                    || line.starts_with(&format!("{key}]"))
                    || line.contains(&format!(".{key}]"))
            });
            assert!(is_shown, "{key} of {section} is not in full.toml");
        }
    }
}

#[test]
fn every_example_of_a_rule_file_is_accepted() {
    let examples = toml_files(Path::new("rules"));
    assert!(examples.len() >= 4, "{examples:?}");
    let folder = tempfile::tempdir().unwrap();
    let here = std::env::current_dir().unwrap();
    for path in examples {
        let config = with_rules(folder.path(), &here.join(&path));
        let loaded = config::load(&config).unwrap_or_else(|problems| panic!("{}\n{problems}", path.display()));
        assert!(!loaded.routing.rules.rules.is_empty(), "{}", path.display());
    }
}

#[test]
fn passwords_come_from_a_file_or_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bench.password"), "from a file\n").unwrap();
    let text = fs::read_to_string(Path::new(GOLDEN).join("reference.toml")).unwrap();
    let by_file = text.replace("password = \"bench\"", "password_file = \"bench.password\"");
    // Cargo sets this one for every test.
    let by_environment = text.replace("password = \"bench\"", "password_env = \"CARGO_MANIFEST_DIR\"");
    for text in [by_file, by_environment] {
        let path = folder.path().join("trunkline.toml");
        fs::write(&path, text).unwrap();
        config::load(&path).unwrap();
    }
}

#[test]
fn no_message_shows_a_password() {
    let text = fs::read_to_string(Path::new(GOLDEN).join("reference.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for wrong in [
        "password = [\"s3cret\"]",
        "password = \"s3cret\\n\"",
        "password = \"s3cret",
        "password = 's3cret'\npassword_file = 's3cret'",
    ] {
        let path = folder.path().join("trunkline.toml");
        fs::write(&path, text.replace("password = \"bench\"", wrong)).unwrap();
        let problems = config::load(&path).unwrap_err().to_string();
        assert!(!problems.contains("s3cret"), "{problems}");
    }
}

proptest! {
    #[test]
    fn a_damaged_file_is_refused_or_accepted_but_never_a_panic(
        at in any::<prop::sample::Index>(),
        cut in 0_usize..12,
        put in "[\\[\\]\\{\\}\"'=.,#\n a-z0-9:]{0,6}",
    ) {
        let mut text = fs::read_to_string(Path::new(GOLDEN).join("full.toml")).unwrap();
        let mut start = at.index(text.len());
        while !text.is_char_boundary(start) { start -= 1; }
        let mut end = (start + cut).min(text.len());
        while !text.is_char_boundary(end) { end += 1; }
        text.replace_range(start..end, &put);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        fs::write(&path, text).unwrap();
        if let Err(problems) = config::load(&path) {
            prop_assert!(problems.iter().count() > 0);
        }
    }
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// A configuration with the groups that the examples speak of.
fn with_rules(folder: &Path, rules: &Path) -> PathBuf {
    let text = fs::read_to_string(Path::new(GOLDEN).join("reference.toml")).unwrap();
    let group = "[[cluster.group]]\nname = \"reports\"\nnodes = [\"127.0.0.1:15434\"]\n\n[cluster.monitor]";
    let text = text.replace("[cluster.monitor]", group).replace("rules       = []", &format!("rules = [{rules:?}]"));
    let path = folder.join("trunkline.toml");
    fs::write(&path, text).unwrap();
    path
}

/// What each section knows, as its own message about an unknown key has it.
fn known_keys() -> Vec<(String, Vec<String>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.toml");
    let headers = [
        "[admin]",
        "[[cluster]]",
        "[[cluster.group]]",
        "[cluster.monitor]",
        "[[database]]",
        "[[user]]",
        "[pool]",
        "[routing]",
        "[failover]",
        "[limits]",
        "[log]",
    ];
    let sections = headers.map(|header| format!("{header}\nqqqqqqqq = 1\n")).concat();
    fs::write(&path, format!("qqqqqqqq = 1\n{sections}")).unwrap();
    let problems = config::load(&path).unwrap_err();
    let hints = problems.iter().filter_map(|problem| {
        let known = problem.hint.as_ref()?.strip_prefix("known here: ")?;
        Some((problem.path.clone(), known.split(", ").map(str::to_owned).collect()))
    });
    let hints: Vec<_> = hints.collect();
    assert_eq!(hints.len(), headers.len() + 1);
    hints
}
