//! Statements whose place PostgreSQL itself decides: asked of `explain --config`, run through the proxy, and run on a
//! standby and the primary directly. The cases are in `tests/golden/contract/`.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde::Deserialize;
use trunkline::demo::client::{Client, ClientError};
use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited_to};
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
    ["routing.jsonl", "more.jsonl"].iter().flat_map(|name| read(name)).collect()
}

fn read(name: &str) -> Vec<Case> {
    let text = fs::read_to_string(format!("{FOLDER}/{name}")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/contract");

/// Two hundred and fifty sessions, each with a login of its own.
const LIMIT: Duration = Duration::from_secs(150);

/// A cluster with the objects of the contract, on every node.
fn furnished() -> Cluster {
    let cluster = cluster();
    furnish(&cluster);
    cluster
}

fn furnish(cluster: &Cluster) {
    let schema = fs::read_to_string(format!("{FOLDER}/schema.sql")).unwrap();
    let mut client = Client::connect(cluster.node(0).port(), "bench", "bench", "bench").unwrap();
    client.query(&schema).unwrap_or_else(|error| panic!("{error:?}"));
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
    });
}

/// Where each string of each case would go, and why.
fn explain(proxy: &Proxy, cases: &[Case]) -> Vec<Vec<(String, String)>> {
    let mut explain = Command::new(env!("CARGO_BIN_EXE_trunkline"))
        .args(["explain", "--config"])
        .arg(proxy.config_path())
        .args(["--database", "bench", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = cases.iter().map(|case| serde_json::to_string(&case.strings()).unwrap() + "\n").collect();
    let mut input = explain.stdin.take().unwrap();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
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
    assert_eq!(answers.len(), cases.len());
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
        // What runs on a lease that is held is not routed again.
        if on_primary() > before.1 {
            last = "primary";
        } else if on_replicas() > before.0 {
            last = "replica";
        }
        told.push((last.to_owned(), format!("{answer:?}").chars().take(120).collect()));
    }
    told
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
    let mut client = Client::connect(cluster.node(node).port(), "bench", "bench", "bench").unwrap();
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
