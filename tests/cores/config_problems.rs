//! What is said of configurations: golden files of problems, and those that are accepted.
//!
//! `UPDATE_GOLDEN=1` writes what is said now over what was expected; read the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use trunkline::config::{self, Config, PoolMode, Problems};
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
    let path = Path::new(GOLDEN).join("full.toml");
    let text = fs::read_to_string(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let all_written = folder.path().join("t.toml");
    // "# size = 20" is a setting; "#   password_file = …" is another way to say one.
    fs::write(&all_written, text.lines().map(|line| uncommented(line).to_owned() + "\n").collect::<String>()).unwrap();
    let (by_default, written) = (config::load(&path).unwrap(), config::load(&all_written).unwrap());

    assert_eq!(format!("{:?}", written.clusters), format!("{:?}", by_default.clusters));
    assert_eq!(format!("{:?}", written.databases), format!("{:?}", by_default.databases));
    assert_eq!(format!("{:?}", written.pool), format!("{:?}", by_default.pool));
    assert_eq!(format!("{:?}", written.routing), format!("{:?}", by_default.routing));
    assert_eq!(format!("{:?}", written.failover), format!("{:?}", by_default.failover));
    assert_eq!(format!("{:?}", written.limits), format!("{:?}", by_default.limits));
    assert_eq!(format!("{:?}", written.log), format!("{:?}", by_default.log));
    assert_eq!((written.workers, written.max_clients), (4, by_default.max_clients));
    assert!(written.users[0].server_password.is_some() && by_default.users[0].server_password.is_none());

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
fn rules_may_ask_for_certificates_only_where_they_can_be_checked() {
    const TOLD: &str = "client certificates can only be checked if TLS is on and tls.ca is there";
    let reference = Reference::new();
    reference.write("hba.conf", "hostssl all all all scram-sha-256 clientcert=verify-ca\n");
    let said = |auth: &str, tls: &str| reference.said_with(&[("[auth]", auth), ("[tls]", tls)]);
    let by_method = "hba = ['hostssl all all all cert']";
    let (own, with_authorities) = ("certificate = 't.crt'\nkey = 't.key'", "certificate = 't.crt'\nca = 'ca.crt'");
    for tls in ["", own, "ca = 'ca.crt'", "mode = 'off'\ncertificate = 't.crt'\nca = 'ca.crt'"] {
        assert!(said(by_method, tls).contains(&format!("auth.hba: {TOLD}")), "{tls}");
        assert!(said("hba_file = 'hba.conf'", tls).contains(&format!("auth.hba_file: {TOLD}")), "{tls}");
    }
    // That the files are not there is another problem.
    assert!(!said(by_method, with_authorities).contains(TOLD));
    assert_eq!(said("hba = ['hostssl all all all scram-sha-256']", ""), "");
}

#[test]
fn access_rules_that_fit_nobody_are_refused() {
    const TOLD: &str = "holds no rule that fits anybody: nobody could log in";
    let reference = Reference::new();
    fs::create_dir(reference.folder.path().join("rules.d")).unwrap();
    let said = |file: &str, auth: &str| {
        reference.write("file", file);
        reference.said_with(&[("[auth]", auth)])
    };
    for empty in ["", "# host all all all md5\n", "include_dir rules.d\n", "hostgssenc all all all md5\n"] {
        assert!(said(empty, "hba_file = 'file'").contains(&format!("auth.hba_file: {TOLD}")), "{empty}");
    }
    assert!(said("", "hba = []").contains(&format!("auth.hba: {TOLD}")));
    assert!(said("", "hba = ['# nobody']").contains(&format!("auth.hba: {TOLD}")));
    // What is no list has been told.
    for wrong in ["hba = 'host all all all md5'", "hba = [5]", "hba = ['host all']"] {
        let told = said("", wrong);
        assert!(!told.is_empty() && !told.contains(TOLD), "{told}");
    }
    assert_eq!(said("host all all all md5\n", "hba_file = 'file'"), "");
    for list in ["", "; nobody yet\n", "\"ada\" \"pencil\"\n"] {
        assert_eq!(said(list, "users_file = 'file'"), "", "there is a [[user]] besides: {list}");
    }
}

#[test]
fn names_of_functions_and_tables_that_could_mean_nothing_are_refused() {
    const TOLD: &str = "(only the name, without arguments; `*` is the only pattern)";
    let reference = Reference::new();
    let said = |functions: &str, rule: &str| reference.said_with_rule(functions, &format!("to = 'primary'\n{rule}"));
    let of_pgpool = ["^get_.*", "get_.*$", "g\\d"];
    for name in ["reserve(integer)", "shop.reserve()", "f, g", " f", "shop. f"].into_iter().chain(of_pgpool) {
        for setting in ["safe_functions", "primary_functions", "session_functions"] {
            let told = said(&format!("{setting} = ['{name}']"), "user = 'ada'");
            assert!(told.contains(&format!("routing.{setting}: expected a function's name")), "{name}: {told}");
            assert!(told.ends_with(TOLD), "{name}: {told}");
        }
        for condition in ["function", "table"] {
            let told = said("", &format!("{condition} = '{name}'"));
            assert!(told.contains(&format!("rule.{condition}: expected")) && told.ends_with(TOLD), "{name}: {told}");
        }
    }
    for name in
        ["get_*", "shop.*", "*.f", "Order Details", "v$session", "audit$", "net+tax", "Sales (2024)", "grün", "set_.*"]
    {
        let told = said(&format!("safe_functions = ['{name}']"), &format!("table = '{name}'\nfunction = '{name}'"));
        assert_eq!(told, "", "{name}");
    }
}

#[test]
fn a_zero_does_not_turn_off_what_is_off_unless_it_is_written() {
    let reference = Reference::new();
    let said = |section: &str, line: &str| reference.said_with(&[(section, line)]);
    for (section, setting) in [("[failover]", "stale_reads"), ("[limits]", "query_timeout")] {
        for zero in ["0s", "0ms"] {
            let told = said(section, &format!("{setting} = '{zero}'"));
            assert!(told.ends_with(&format!("{setting}: 0 does not turn it off (leave it out)")), "{told}");
        }
    }
    assert!(said("[failover]", "stale_reads = '999us'").contains("expected a duration between 1ms and 1d"));
    assert_eq!(said("[failover]", "stale_reads = '1ms'"), "");
}

#[test]
fn a_rule_may_send_a_transaction_on_to_the_primary_where_transactions_are_optimistic() {
    const TOLD: &str = "rule.to: a transaction stays where it has begun: a rule can only refuse or log what is in it";
    let reference = Reference::new();
    let said = |mode: &str, to: &str| {
        let rule = format!("table = 'stock'\ntransaction = true\nto = '{to}'");
        reference.said_with_rule(&format!("transactions = '{mode}'"), &rule)
    };
    assert_eq!(said("optimistic", "primary"), "");
    for (mode, to) in [("optimistic", "replicas"), ("primary", "primary"), ("primary", "replicas")] {
        assert!(said(mode, to).ends_with(TOLD), "{mode} {to}");
    }
}

#[test]
fn passwords_come_from_a_file_or_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bench.password"), "from a file\nand not this\n\n").unwrap();
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
fn whoever_may_use_the_console_and_cannot_log_in_is_warned_of_where_no_cluster_is_asked_for_users() {
    let reference = Reference::new();
    reference.write("userlist.txt", "\"ada\" \"pencil\"\n");
    let (nothing, list) = (("[auth]", ""), ("[auth]", "users_file = 'userlist.txt'"));
    // Only the second of the two.
    let other = "name = 'second'\nnodes = ['db9:5432']\nmonitor = { user = 'm', password = 'm' }";
    let asked = ("[[cluster]] # another", &*format!("{other}\nauth_query = {{ user = 'm', password = 'm' }}"));
    for (admin, more, stranger) in [
        ("users = ['bnech']", nothing, Some("bnech")),
        ("stats_users = ['bench', 'ada']", nothing, Some("ada")),
        ("users = ['bench']\nstats_users = ['ada']", list, None),
        ("users = ['ada']", asked, None),
    ] {
        let told = stranger.map(|name| {
            format!("{name} of [admin] cannot log in: no [[user]] and no line of auth.users_file has this name")
        });
        let config = reference.load_with(&[("[admin]", admin), more]).unwrap();
        assert_eq!(config.warnings(), Vec::from_iter(told), "{admin}");
    }
}

#[test]
fn a_login_at_patroni_is_read_as_urls_are() {
    let reference = Reference::new();
    let load = |login: &str| reference.load_with(&[("[[cluster]]", &format!("patroni = ['http://{login}@db1:8008']"))]);
    for login in ["ops:p%40ss", "ops:p@ss", "%6Fps:p%40s%73"] {
        let loaded = load(login).unwrap();
        let basic = loaded.clusters[0].patroni[0].login.as_ref().and_then(|login| login.plain());
        assert_eq!(basic, Some("b3BzOnBAc3M="), "{login}");
    }
    for login in ["ops:s3cret%", "ops:s3%zzcret", "%0:s3cret"] {
        let told = load(login).unwrap_err().to_string();
        assert!(told.contains("cluster.patroni: the login in front of the address is not encoded right"), "{told}");
        assert!(!told.contains("s3"), "{told}");
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
    let swallowed = text.replace("password = \"bench\"", "password = \"s3cret\"").replace(":6432\"]", ":6432\"");
    fs::write(folder.path().join("trunkline.toml"), swallowed).unwrap();
    let problems = config::load(&folder.path().join("trunkline.toml")).unwrap_err().to_string();
    assert!(!problems.contains("s3cret"), "{problems}");
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

/// The smallest useful configuration, and files beside it.
struct Reference {
    folder: tempfile::TempDir,
}

impl Reference {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(file);
        fs::write(&path, text).expect("a file");
        path
    }

    /// Reads it with these lines put into these sections, each named by its header.
    fn load_with(&self, sections: &[(&str, &str)]) -> Result<Config, Problems> {
        let text = fs::read_to_string(Path::new(GOLDEN).join("reference.toml")).expect("a text");
        let mut text = text.replace("rules       = []", "");
        for (header, lines) in sections {
            let (header, section) = (format!("{header}\n"), format!("{header}\n{lines}\n"));
            text = match text.contains(&header) {
                true => text.replacen(&header, &section, 1),
                false => text + &section,
            };
        }
        config::load(&self.write("t.toml", &text))
    }

    /// What is wrong with that; nothing, if it is accepted.
    fn said_with(&self, sections: &[(&str, &str)]) -> String {
        self.load_with(sections).err().map(|problems| problems.to_string()).unwrap_or_default()
    }

    /// The same of a rule, with these lines for routing.
    fn said_with_rule(&self, routing: &str, rule: &str) -> String {
        self.write("rules.toml", &format!("[[rule]]\nname = 'r'\n{rule}\n"));
        self.said_with(&[("[routing]", &format!("rules = ['rules.toml']\n{routing}"))])
    }
}

fn uncommented(line: &str) -> &str {
    let setting = line.strip_prefix("# ").filter(|rest| rest.contains(" = ") && rest.starts_with(char::is_lowercase));
    setting.filter(|rest| rest.split(' ').nth(1) == Some("=")).unwrap_or(line)
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    files
}

/// What each section knows, as its own message about an unknown key has it.
fn known_keys() -> Vec<(String, Vec<String>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.toml");
    let headers = [
        "[tls]",
        "[admin]",
        "[[cluster]]",
        "[cluster.tls]",
        "[cluster.auth_query]",
        "[[cluster.group]]",
        "[[cluster.node]]",
        "[cluster.balance]",
        "[cluster.monitor]",
        "[[database]]",
        "[auth]",
        "[[user]]",
        "[pool]",
        "[routing]",
        "[failover]",
        "[limits]",
        "[log]",
    ];
    let sections = headers.map(|header| format!("{header}\nqqqqqqqq = 1\n")).concat();
    fs::write(&path, format!("qqqqqqqq = 1\n{sections}")).expect("a file");
    let problems = config::load(&path).expect_err("unknown keys");
    let hints = problems.iter().filter_map(|problem| {
        let known = problem.hint.as_ref()?.strip_prefix("known here: ")?;
        Some((problem.path.clone(), known.split(", ").map(str::to_owned).collect()))
    });
    let hints: Vec<_> = hints.collect();
    assert_eq!(hints.len(), headers.len() + 1);
    hints
}
