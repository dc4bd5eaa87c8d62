//! `explain --config`: nodes found as `run` finds them, reads placed by how they are, rules by the session's own name.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::thread;

use trunkline::demo::cluster::Cluster;
use trunkline::demo::node::Stop;

use crate::fixture::{Proxy, cluster, limited};

#[test]
fn a_read_goes_to_the_primary_while_no_replica_takes_reads() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        assert_eq!(told(&proxy, &["SELECT 1"]), [("replica", "read")].map(owned));
        stop_replicas(&cluster);
        let told = told(&proxy, &["SELECT 1", "BEGIN READ ONLY", "SELECT 1", "COMMIT"]);
        let first = [("primary", "no_replica"), ("primary", "no_replica"), ("primary", "transaction")].map(owned);
        assert_eq!(told[..3], first, "{told:?}");
    });
}

#[test]
fn a_rule_says_what_happens_while_its_nodes_take_no_reads() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'strict'\ntable = 'pg_class'\nto = 'replicas'\nfallback = 'refuse'";
        let proxy = Proxy::ruled(&cluster, rules, "", "[routing]\nreads = 'any'");
        let session = ["SELECT count(*) FROM pg_class", "SELECT 1"];
        assert_eq!(told(&proxy, &session)[0], owned(("replica", "rule")));
        let executes = ["PREPARE p AS SELECT count(*) FROM pg_class", "EXECUTE p"];
        assert_eq!(told(&proxy, &executes)[1], owned(("replica", "rule")));
        stop_replicas(&cluster);
        assert_eq!(told(&proxy, &session), [("refused", "rule"), ("primary", "read")].map(owned));
    });
}

#[test]
fn a_read_that_no_node_can_take_now_is_answered_as_a_replicas_and_that_is_said() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        cluster.node(0).stop(Stop::Fast).unwrap();
        let (told, complaints) = explain(&proxy, &["SELECT 1"]);
        assert_eq!(told, [("replica", "read")].map(owned));
        assert!(
            complaints.starts_with("trunkline: where reads go is told as if a replica took them: "),
            "{complaints}"
        );
    });
}

#[test]
fn nodes_are_found_by_patroni_and_its_tags_are_obeyed() {
    limited(|| {
        let cluster = cluster();
        let [all, none] = ["{}", r#"{"noloadbalance": true}"#].map(|tags| members(&cluster, tags));
        for (body, expected) in [(all, ("replica", "read")), (none, ("primary", "no_replica"))] {
            let proxy = Proxy::start(&cluster, "");
            let url = patroni(body);
            proxy.rewrite(|configuration| {
                let cluster = configuration["cluster"][0].as_table_mut().unwrap();
                cluster.remove("nodes");
                cluster.insert("patroni".to_owned(), vec![url].into());
            });
            assert_eq!(told(&proxy, &["SELECT 1", "SELECT 2"]), [expected; 2].map(owned));
        }
    });
}

#[test]
fn a_rule_on_application_name_sees_what_the_session_has_set() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'x'\napplication_name = 'x'\nto = 'primary'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let session = [
            "SELECT 1",
            "SET application_name = 'x'",
            "SELECT 1",
            "RESET application_name",
            "SELECT 1",
            "BEGIN",
            "SET LOCAL application_name = 'x'",
            "COMMIT",
            "SELECT 1",
        ];
        let told = told(&proxy, &session);
        let reads = [0, 2, 4, 8].map(|at| (&*told[at].0, &*told[at].1));
        assert_eq!(reads, [("replica", "read"), ("primary", "rule"), ("replica", "read"), ("replica", "read")]);
    });
}

fn stop_replicas(cluster: &Cluster) {
    [1, 2].iter().for_each(|replica| cluster.node(*replica).stop(Stop::Fast).unwrap());
}

/// Target and reason of each statement of a session.
fn told(proxy: &Proxy, session: &[&str]) -> Vec<(String, String)> {
    explain(proxy, session).0
}

/// The same, with what was complained of.
fn explain(proxy: &Proxy, session: &[&str]) -> (Vec<(String, String)>, String) {
    let lines = proxy.config_path().with_extension("jsonl");
    std::fs::write(&lines, serde_json::to_string(session).unwrap()).unwrap();
    let mut explain = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    let output = explain.args(["explain", "--config"]).arg(proxy.config_path()).arg("--json").arg(lines).output();
    let output = output.unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{complaints}");
    let answers: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let word = |answer: &serde_json::Value, key: &str| answer[key].as_str().unwrap().to_owned();
    (answers.iter().map(|answer| (word(answer, "target"), word(answer, "reason"))).collect(), complaints)
}

fn owned((target, reason): (&str, &str)) -> (String, String) {
    (target.to_owned(), reason.to_owned())
}

/// What Patroni would answer of this cluster, whose replicas have these tags.
fn members(cluster: &Cluster, tags: &str) -> String {
    let member = |(number, node): (usize, &trunkline::demo::node::Node)| {
        let (role, tags) = if number == 0 { ("leader", "{}") } else { ("replica", tags) };
        let port = node.port();
        format!(r#"{{"name": "n{number}", "role": "{role}", "host": "127.0.0.1", "port": {port}, "tags": {tags}}}"#)
    };
    let members: Vec<String> = cluster.nodes().iter().enumerate().map(member).collect();
    format!(r#"{{"members": [{}]}}"#, members.join(", "))
}

/// A REST API that answers everything with this; it ends with the process.
fn patroni(body: String) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // One read has it: a question without a body.
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    url
}
