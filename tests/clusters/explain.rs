//! `explain --config`: nodes found as `run` finds them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::thread;

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, limited};

#[test]
fn nodes_are_found_by_patroni() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let url = patroni(members(&cluster, "{}"));
        proxy.rewrite(|configuration| {
            let cluster = configuration["cluster"][0].as_table_mut().unwrap();
            cluster.remove("nodes");
            cluster.insert("patroni".to_owned(), vec![url].into());
        });
        assert_eq!(told(&proxy, &["SELECT 1", "INSERT INTO t VALUES (1)"])[0], owned(("replica", "read")));
    });
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
