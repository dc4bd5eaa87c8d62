//! Statements whose place PostgreSQL itself decides: asked of `explain --config`, run through the proxy, and run on a
//! standby and the primary directly. The cases are in `tests/golden/contract/`.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde::Deserialize;
use trunkline::demo::client::{Client, ClientError};
use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited, limited_to};
use std::time::Duration;

/// One case: a string or a session, and where each of its strings must go.
#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    session: Vec<String>,
    expect: Expected,
    #[serde(default)]
    oracle: Option<String>,
    #[serde(default)]
    fails: bool,
    #[serde(default)]
    varies: bool,
    /// What it asks is of the node or its connections, and as right from one as from another.
    #[serde(default)]
    tells_of_node: bool,
    #[serde(default)]
    hard: bool,
    #[serde(default)]
    exec: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Expected {
    One(String),
    Each(Vec<String>),
}

impl Case {
    fn strings(&self) -> Vec<&str> {
        self.sql.iter().chain(&self.session).map(String::as_str).collect()
    }

    fn targets(&self) -> Vec<&str> {
        match &self.expect {
            Expected::One(target) => vec![target],
            Expected::Each(targets) => targets.iter().map(String::as_str).collect(),
        }
    }

    /// It waits for copy data, or must not be run.
    fn can_run(&self) -> bool {
        self.exec != Some(false) && !self.strings().iter().any(|sql| sql.contains("FROM STDIN"))
    }
}

fn cases() -> Vec<Case> {
    ["routing.jsonl", "more.jsonl", "new.jsonl"].iter().flat_map(|name| read(name)).collect()
}

fn read(name: &str) -> Vec<Case> {
    let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/contract");

/// More than a thousand sessions, each with a login of its own.
const LIMIT: Duration = Duration::from_secs(240);

/// A cluster with the objects of the contract, on every node.
fn furnished() -> Cluster {
    let cluster = cluster();
    furnish(&cluster);
    cluster
}

fn furnish(cluster: &Cluster) {
    let mut client = Client::connect(cluster.node(0).port(), "bench", "bench", "bench").unwrap();
    for name in ["schema.sql", "new.sql"] {
        let schema = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
        client.query(&schema).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
}

#[test]
fn explain_answers_every_case() {
    limited_to(LIMIT, || {
        let cluster = furnished();
        let proxy = Proxy::start(&cluster, "");
        let cases = cases();
        let answers = explain(&proxy, &cases);
        let wrong: Vec<String> = cases.iter().zip(&answers).filter_map(|(case, told)| differs(case, told)).collect();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        let (reads, missed) = missed_reads(&cases, &answers);
        assert!(missed.len() * 50 <= reads, "{} of {reads} reads:\n{}", missed.len(), missed.join("\n"));
    });
}

#[test]
fn explain_leaves_no_prepared_transaction_behind_and_stays_in_step() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = Client::connect(cluster.node(0).port(), "bench", "bench", "bench").unwrap();
        client
            .query(
                "CREATE SCHEMA a; CREATE FUNCTION a.f() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'; \
                 CREATE SCHEMA b; CREATE SEQUENCE b.s; \
                 CREATE FUNCTION b.f() RETURNS int LANGUAGE sql AS 'SELECT nextval(''b.s'')::int'",
            )
            .unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let session = |strings: &[&str]| serde_json::to_string(strings).unwrap();
        let alone = session(&[
            "SET search_path = a",
            "BEGIN",
            "SET LOCAL search_path = b",
            "PREPARE TRANSACTION 'explained'",
            "SELECT f()",
        ]);
        // What the whole string sets is not known, until something is set that can be played.
        let beside = session(&[
            "BEGIN",
            "SELECT 1; PREPARE TRANSACTION 'explained beside'; SET search_path = a",
            "SELECT f()",
            "SET search_path = a",
            "SELECT f()",
        ]);
        let answers = explain_lines(&proxy, vec![alone, beside]);
        let targets = |session: usize| -> Vec<&str> { answers[session].iter().map(|(target, _)| &**target).collect() };
        assert_eq!(targets(0)[3..], ["primary", "replica"], "{answers:?}");
        assert_eq!((targets(1)[2], targets(1)[4]), ("primary", "replica"), "{answers:?}");
        let left = client.query("SELECT count(*) FROM pg_prepared_xacts").unwrap();
        assert_eq!(left, [[Some("0".to_owned())]]);
    });
}

#[test]
fn explain_answers_as_the_user_that_is_named_in_its_pool_mode_and_by_its_defaults() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada login password 'ada'; create role eve login password 'eve'").unwrap();
        cluster.node(0).sql("alter role eve set default_transaction_isolation = 'serializable'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let users = "[[user]]\nname = 'ada'\npassword = 'ada'\npool_mode = 'session'\n\
                     [[user]]\nname = 'eve'\npassword = 'eve'";
        let proxy = Proxy::start(&cluster, users);
        let explain = |user: &[&str], sql: &str| {
            let config = proxy.config_path();
            let arguments = ["explain", "--config", config.to_str().unwrap()];
            let mut explain = Command::new(env!("CARGO_BIN_EXE_trunkline"));
            let output = explain.args(arguments).args(user).arg(sql).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(explain(&[], "SELECT 1").starts_with("target: replica\n"));
        assert!(explain(&["--user", "ada"], "SELECT 1").starts_with("target: primary\nreason: session_mode\n"));
        assert!(explain(&["--user", "eve"], "SELECT 1").starts_with("target: primary\nreason: serializable\n"));
    });
}

/// How many strings a replica can answer, and those of them that would go to the primary. Hard ones do not count.
fn missed_reads(cases: &[Case], answers: &[Vec<(String, String)>]) -> (usize, Vec<String>) {
    let strings = cases.iter().zip(answers).filter(|(case, _)| !case.hard).flat_map(|(case, told)| {
        let expected = case.strings().into_iter().zip(case.targets()).zip(told);
        expected.filter(|((_, target), _)| *target == "replica")
    });
    let strings: Vec<_> = strings.collect();
    let missed = strings
        .iter()
        .filter(|(_, (target, _))| target == "primary")
        .map(|((sql, _), (_, why))| format!("{sql} ({why})"));
    (strings.len(), missed.collect())
}

/// Where each string of each case would go, and why.
fn explain(proxy: &Proxy, cases: &[Case]) -> Vec<Vec<(String, String)>> {
    explain_lines(proxy, cases.iter().map(|case| serde_json::to_string(&case.strings()).unwrap()).collect())
}

/// The same of lines of JSON.
fn explain_lines(proxy: &Proxy, lines: Vec<String>) -> Vec<Vec<(String, String)>> {
    let mut explain = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(["explain", "--config"])
        .arg(proxy.config_path())
        .args(["--database", "bench", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (count, text) = (lines.len(), lines.join("\n"));
    let mut input = explain.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = explain.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let word = |answer: &serde_json::Value, key: &str| answer[key].as_str().unwrap().to_owned();
    let answers: Vec<Vec<(String, String)>> = text
        .lines()
        .map(|line| serde_json::from_str::<Vec<serde_json::Value>>(line).unwrap())
        .map(|line| line.iter().map(|a| (word(a, "target"), word(a, "reason") + ": " + &word(a, "why"))).collect())
        .collect();
    assert_eq!(answers.len(), count);
    answers
}

/// What is wrong with the answers. A statement that must go to the primary is never wrong there, but a read that could
/// not be told for one is.
fn differs(case: &Case, told: &[(String, String)]) -> Option<String> {
    let targets = case.targets();
    let wrong = case.strings().into_iter().zip(&targets).zip(told).find(|((_, expected), (target, _))| {
        let is_missed_read = **expected == "replica" && target == "primary";
        **expected != "either" && *expected != target && !(is_missed_read && case.hard)
    });
    wrong.map(|((sql, expected), (target, why))| {
        format!("{} {sql}\n    expected {expected}, told {target} ({why})", case.id)
    })
}

#[test]
fn every_case_runs_where_it_must() {
    limited_to(LIMIT, || {
        let cluster = furnished();
        // Where a statement may go is asked here, not whether a replica has what the case before it wrote: that is waited for.
        let proxy = Proxy::start(&cluster, "[routing]\nfreshness_wait = '1s'");
        let mut wrong = Vec::new();
        for case in cases().iter().filter(|case| case.can_run()) {
            let told = run(&proxy, case);
            wrong.extend(differs(case, &told));
        }
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    });
}

/// Runs a case as a session of its own, undone where it can be, and tells where the counters say that its strings went.
fn run(proxy: &Proxy, case: &Case) -> Vec<(String, String)> {
    eventually("the catalogs are known", Duration::from_secs(10), || {
        proxy.metric("trunkline_catalog_current", "") == 1.0
    });
    let mut client = Client::connect(proxy.port(), "bench", "bench", "bench").unwrap();
    let on_replicas = || proxy.metric("trunkline_statements_total", "target=\"replica\"");
    let on_primary = || proxy.metric("trunkline_statements_total", "target=\"primary\"");
    let mut told = Vec::new();
    let mut last = "primary";
    for sql in case.strings() {
        let before = (on_replicas(), on_primary());
        let answer = client.query(sql);
        // What Trunkline answers in a node's place goes nowhere.
        if on_primary() > before.1 {
            last = "primary";
        } else if on_replicas() > before.0 {
            last = "replica";
        }
        told.push((last.to_owned(), format!("{answer:?}").chars().take(120).collect()));
    }
    told
}

/// The whole set, one case after the other: what each string of each is answered.
fn answers_at(port: u16, proxy: Option<&Proxy>, cases: &[Case]) -> Vec<Vec<Result<String, String>>> {
    let of_case = |case: &Case| {
        if let Some(proxy) = proxy {
            eventually("the catalogs are known", Duration::from_secs(10), || {
                proxy.metric("trunkline_catalog_current", "") == 1.0
            });
        }
        let mut client = Client::connect(port, "bench", "bench", "bench").unwrap();
        case.strings().into_iter().map(|sql| answer_of(&mut client, sql)).collect()
    };
    cases.iter().filter(|case| case.can_run()).map(of_case).collect()
}

#[test]
fn through_trunkline_nothing_is_answered_otherwise_that_is_answered_alike_twice_by_the_primary() {
    limited_to(LIMIT, || {
        let cases = cases();
        let by_primary = || {
            let cluster = furnished();
            answers_at(cluster.node(0).port(), None, &cases)
        };
        let direct = [by_primary(), by_primary()];
        let cluster = furnished();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let through = answers_at(proxy.port(), Some(&proxy), &cases);
        let ran: Vec<&Case> = cases.iter().filter(|case| case.can_run()).collect();
        let mut wrong = Vec::new();
        for (number, case) in ran.iter().enumerate().filter(|(_, case)| !case.tells_of_node) {
            for (step, sql) in case.strings().into_iter().enumerate() {
                let [once, again] = [0, 1].map(|run| steady(&direct[run][number][step]));
                let found = steady(&through[number][step]);
                if once == again && once != found {
                    let told = format!("{} {sql}\n    direct  {once:?}\n    through {found:?}", case.id);
                    wrong.push(((number, step), told));
                }
            }
        }
        // A sample may count the same twice by chance; three times more, it does not.
        for _ in 0..3 {
            if !wrong.is_empty() {
                let more = by_primary();
                wrong.retain(|((number, step), _)| steady(&more[*number][*step]) == steady(&direct[0][*number][*step]));
            }
        }
        let wrong: Vec<_> = wrong.into_iter().map(|(_, told)| told).collect();
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
        assert!(proxy.metric("trunkline_statements_total", "target=\"replica\"") > 300.0);
    });
}

/// An answer as far as it is the same twice by more than chance: the times and buffers of a plan are measured.
fn steady(answer: &Result<String, String>) -> Result<&str, &str> {
    const MEASURED: [&str; 4] = ["actual time=", "Planning Time: ", "Execution Time: ", "Buffers: "];
    match answer {
        Ok(rows) if MEASURED.iter().any(|word| rows.contains(word)) => Ok("a plan, and what was measured"),
        Ok(rows) => Ok(rows),
        Err(code) => Err(code),
    }
}

#[test]
fn a_standby_and_the_primary_bear_the_cases_out() {
    limited_to(LIMIT, || {
        let cluster = furnished();
        let mut wrong = Vec::new();
        for case in cases().iter().filter(|case| case.can_run() && case.sql.is_some()) {
            let sql = case.strings()[0];
            let on_standby = answer(&cluster, 1, sql);
            let refused = matches!(&on_standby, Err(code) if is_refusal(code));
            match case.targets()[0] {
                "replica" if refused => wrong.push(format!("{} {sql}: a standby refuses: {on_standby:?}", case.id)),
                "replica" if !case.varies && on_standby != answer(&cluster, 0, sql) => {
                    wrong.push(format!("{} {sql}: a standby answers otherwise", case.id));
                }
                "primary" if !refused && !case.fails && case.oracle.is_none() && answer(&cluster, 0, sql).is_ok() => {
                    wrong.push(format!("{} {sql}: a standby does it too: {on_standby:?}", case.id));
                }
                _ => {}
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    });
}

/// What a node answers to the string, in a session of its own.
fn answer(cluster: &Cluster, node: usize, sql: &str) -> Result<String, String> {
    answer_of(&mut Client::connect(cluster.node(node).port(), "bench", "bench", "bench").unwrap(), sql)
}

fn answer_of(client: &mut Client, sql: &str) -> Result<String, String> {
    match client.query(sql) {
        Ok(rows) => Ok(format!("{rows:?}")),
        Err(ClientError::Refused { code, .. } | ClientError::Ended { code, .. }) => Err(code.as_str().to_owned()),
        Err(other) => panic!("{sql}: {other:?}"),
    }
}

/// What a standby says when it cannot do what the primary can.
fn is_refusal(code: &str) -> bool {
    matches!(code, "25006" | "0A000" | "55000" | "XX000" | "25001" | "58P01")
}
