//! `trunkline init` before real clusters: whom it finds, what it writes, and that this is served.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use postgres::{NoTls, SimpleQueryMessage};
use trunkline::demo::cluster::{BenchRole, Cluster, Shape};

use crate::certificates::{Authority, server_settings};
use crate::fixture::{Proxy, cluster, console, eventually, limited, program, server_port, shape};
use crate::relay::Relay;

fn init(arguments: &[&str]) -> Command {
    let mut init = Command::new(program());
    init.arg("init").args(arguments).env_remove("PGPASSWORD");
    init
}

/// What it prints; it must succeed.
fn printed(from: &str) -> String {
    let output = init(&["--from", from]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a configuration to a file that `check` accepts.
fn write(from: &str, path: &Path) {
    let output = init(&["--from", from, "--output", path.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = Command::new(program()).args(["check", "--config"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}\n{}", fs::read_to_string(path).unwrap());
}

/// Its status, and what it says on standard error, which is one line.
fn failed(output: &Output) -> (i32, String) {
    let words = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(words.lines().count() == 1 && output.stdout.is_empty(), "{output:?}");
    (output.status.code().unwrap(), words)
}

/// A URL of these nodes, as bench.
fn url(cluster: &Cluster, nodes: &[usize]) -> String {
    let places: Vec<String> = nodes.iter().map(|node| cluster.node(*node).address().to_string()).collect();
    format!("postgres://bench:bench@{}/bench", places.join(","))
}

/// The list of nodes.
fn nodes(text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap();
    let nodes = table["cluster"][0]["nodes"].as_array().unwrap();
    nodes.iter().map(|node| node.as_str().unwrap().to_owned()).collect()
}

/// Addresses and roles of nodes, as the console shows them.
fn shown_nodes(proxy: &Proxy) -> Vec<(String, String)> {
    let rows = console(proxy).simple_query("SHOW NODES").unwrap();
    let rows = rows.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get("node")?.to_owned(), row.get("role")?.to_owned())),
        _ => None,
    });
    rows.collect()
}

/// Writes on the primary, and reads on each of these ports.
fn serves(proxy: &Proxy, primary: u16, readers: &[u16]) {
    let mut client = proxy.client();
    client.batch_execute("create table if not exists t (a int)").unwrap();
    let written = server_port(&mut client, "insert into t values (1) returning inet_server_port()");
    assert_eq!(written, primary);
    for reader in readers {
        eventually("reads reach each replica", Duration::from_secs(20), || {
            server_port(&mut client, "select inet_server_port()") == *reader
        });
    }
}

#[test]
fn what_is_written_of_a_primary_and_its_replicas_is_served_at_once() {
    limited(|| {
        let cluster = cluster();
        let from = url(&cluster, &[0, 1, 2]);
        let proxy = Proxy::written(&cluster, |path| {
            write(&from, path);
            let text = fs::read_to_string(path).unwrap();
            assert_eq!(nodes(&text), [0, 1, 2].map(|node| cluster.node(node).address().to_string()), "{text}");
            assert!(!text.contains("password = ") && !text.contains("Not "), "{text}");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            // Neither is overwritten.
            let again = init(&["--from", &from, "--output", path.to_str().unwrap()]).output().unwrap();
            let (status, words) = failed(&again);
            assert!(status == 1 && words.contains("exists already"), "{words}");
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        });
        let [primary, first, second] = [0, 1, 2].map(|node| cluster.node(node).port());
        serves(&proxy, primary, &[first, second]);
        let mut roles: Vec<String> = shown_nodes(&proxy).into_iter().map(|(_, role)| role).collect();
        roles.sort();
        assert_eq!(roles, ["primary", "replica", "replica"]);
        let mut other = proxy.client_config().dbname("postgres").connect(NoTls).unwrap();
        other.batch_execute("select 1").unwrap();
    });
}

#[test]
fn from_a_replica_the_primary_is_found_and_what_is_not_found_is_told() {
    limited(|| {
        let cluster = cluster();
        let [primary, replica, _] = [0, 1, 2].map(|node| cluster.node(node).port());
        let proxy = Proxy::written(&cluster, |path| {
            write(&url(&cluster, &[1]), path);
            let text = fs::read_to_string(path).unwrap();
            assert_eq!(nodes(&text), [0, 1].map(|node| cluster.node(node).address().to_string()), "{text}");
            let told = format!("# Not found: 1 of 2 replicas on 127.0.0.1 that stream from 127.0.0.1:{primary} (");
            assert!(text.contains(&told) && text.contains("\"node2\""), "{text}");
        });
        serves(&proxy, primary, &[replica]);
        assert_eq!(shown_nodes(&proxy).len(), 2);
    });
}

/// Addresses of this machine that stand for those of the replicas.
const ELSEWHERE: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 71, 2), Ipv4Addr::new(127, 0, 71, 3)];

/// Has both replicas seem to be on machines of their own, where they listen at the port of the primary.
fn spread(cluster: &Cluster) -> Vec<Relay> {
    let primary = cluster.node(0);
    let rules = cluster.folder().join("node0/pg_hba.conf");
    let mut rules = fs::OpenOptions::new().append(true).open(rules).unwrap();
    rules.write_all(b"host all,replication all 127.0.71.0/24 trust\n").unwrap();
    primary.sql("select pg_reload_conf()").unwrap();
    let mut relays = Vec::new();
    for (node, own) in cluster.nodes()[1..].iter().zip(ELSEWHERE) {
        let upwards = Relay::between((Ipv4Addr::LOCALHOST, 0).into(), own, primary.address());
        let port = upwards.address().port();
        let conninfo = format!("host=127.0.0.1 port={port} user=replicator application_name={}", node.name());
        node.sql(&format!("alter system set primary_conninfo = '{conninfo}'")).unwrap();
        node.sql("select pg_reload_conf()").unwrap();
        relays.extend([upwards, Relay::between((own, primary.port()).into(), Ipv4Addr::LOCALHOST, node.address())]);
    }
    eventually("the replicas stream from elsewhere", Duration::from_secs(20), || {
        let streaming = "select count(distinct client_addr) from pg_stat_replication \
                         where state = 'streaming' and client_addr <<= '127.0.71.0/24'";
        primary.sql(streaming).unwrap() == "2"
    });
    relays
}

#[test]
fn from_the_primary_alone_replicas_are_found_on_their_machines_and_from_one_of_them_all() {
    limited(|| {
        let cluster = cluster();
        let _relays = spread(&cluster);
        let port = cluster.node(0).port();
        let mut expected = vec![cluster.node(0).address().to_string()];
        expected.extend(ELSEWHERE.map(|host| format!("{host}:{port}")));
        let text = printed(&url(&cluster, &[0]));
        assert_eq!(nodes(&text), expected, "{text}");
        assert!(!text.contains("Not ") && !text.contains("bench:bench"), "{text}");

        // The primary is known there by the address that the replica streams from.
        let text = printed(&format!("postgres://bench:bench@{}:{port}/bench", ELSEWHERE[0]));
        let found = nodes(&text);
        assert_eq!((found.len(), &found[1..]), (3, &expected[1..]), "{text}");
    });
}

/// Answers whoever comes to this address that these are the nodes, the first of which leads.
fn patroni(at: SocketAddr, nodes: &[String]) {
    let member = |(number, address): (usize, &String)| {
        let (host, port) = address.rsplit_once(':').unwrap();
        let role = if number == 0 { "leader" } else { "replica" };
        format!(r#"{{"name": "pg{number}", "role": "{role}", "state": "running", "host": "{host}", "port": {port}}}"#)
    };
    let members: Vec<String> = nodes.iter().enumerate().map(member).collect();
    let body = format!(r#"{{"members": [{}]}}"#, members.join(", "));
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let listener = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = (stream.read(&mut [0; 1024]), stream.write_all(answer.as_bytes()));
        }
    });
}

#[test]
fn where_patroni_answers_it_is_left_to_find_the_nodes() {
    limited(|| {
        let cluster = cluster();
        let [primary, first, second] = [0, 1, 2].map(|node| cluster.node(node).port());
        let own = Ipv4Addr::new(127, 0, 72, 2);
        let _relay = Relay::between((own, first).into(), Ipv4Addr::LOCALHOST, cluster.node(1).address());
        let addresses = [0, 1, 2].map(|node| cluster.node(node).address().to_string());
        patroni((own, 8008).into(), &addresses);
        let proxy = Proxy::written(&cluster, |path| {
            write(&format!("postgres://bench:bench@{own}:{first}/bench"), path);
            let text = fs::read_to_string(path).unwrap();
            assert!(text.contains("patroni = [\"http://127.0.72.2:8008\"]"), "{text}");
            assert!(text.contains("\n# nodes = ["), "{text}");
        });
        serves(&proxy, primary, &[first, second]);
        assert_eq!(shown_nodes(&proxy).len(), 3);
    });
}

#[test]
fn on_standard_output_the_password_is_one_of_the_environment() {
    limited(|| {
        let cluster = cluster();
        let text = printed(&url(&cluster, &[0, 1, 2]));
        assert!(text.contains("password_env = \"PGPASSWORD\"") && !text.contains("\"bench:"), "{text}");
        let path = cluster.folder().join("printed.toml");
        fs::write(&path, text).unwrap();
        let check = |password: Option<&str>| {
            let mut check = Command::new(program());
            check.args(["check", "--config"]).arg(&path).env_remove("PGPASSWORD");
            check.envs(password.map(|password| ("PGPASSWORD", password))).output().unwrap().status.success()
        };
        assert!(check(Some("bench")) && !check(None));
        // So can that of the question be.
        let from = url(&cluster, &[0]).replace(":bench@", "@");
        let output = init(&["--from", &from]).env("PGPASSWORD", "bench").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn a_role_that_may_see_nothing_of_replication_is_told_so() {
    limited(|| {
        let cluster = Cluster::start(&Shape { bench_role: BenchRole::Monitor, ..shape() }).unwrap();
        let from = format!("postgres://ada:ada@{}/bench", cluster.node(0).address());
        cluster.node(0).sql("create role ada login password 'ada'").unwrap();
        let text = printed(&from);
        assert!(text.contains("# Not found: 2 replicas that stream from"), "{text}");
        assert!(text.contains("after GRANT pg_monitor TO \"ada\";"), "{text}");
        assert!(text.contains("\"ada\" may not. New passwords are stored as scram-sha-256."), "{text}");
        cluster.node(0).sql("grant pg_monitor to ada; grant select on pg_shadow to ada").unwrap();
        let text = printed(&from);
        assert!(text.contains("# Not found: 2 of 2 replicas on 127.0.0.1"), "{text}");
        assert!(text.contains("# [cluster.auth_query]") && !text.contains("GRANT"), "{text}");
    });
}

#[test]
fn nodes_that_speak_tls_are_spoken_to_by_it() {
    limited(|| {
        let folder = tempfile::Builder::new().prefix("trunkline-init-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let authority = Authority::new(folder.path().join("tls"));
        let settings = server_settings(&authority.sign_for_server("server"), &authority.certificate());
        let cluster = Cluster::start(&Shape { settings, ..shape() }).unwrap();
        let from = url(&cluster, &[0, 1, 2]);
        let proxy = Proxy::written(&cluster, |path| {
            write(&format!("{from}?sslrootcert={}", authority.certificate().display()), path);
            assert!(fs::read_to_string(path).unwrap().contains("mode = \"verify-full\"\nca = \""));
        });
        serves(&proxy, cluster.node(0).port(), &[cluster.node(1).port()]);
        let text = printed(&from);
        assert!(
            text.contains("# Every node was spoken to by TLSv1.3.") && text.contains("mode = \"require\""),
            "{text}"
        );
        assert!(printed(&format!("{from}?sslmode=disable")).contains("mode = \"off\""));
    });
}

#[test]
fn over_sockets_nodes_are_found_too() {
    limited(|| {
        let cluster = cluster();
        let folder = cluster.node(0).socket_folder().to_str().unwrap().replace('/', "%2F");
        let [primary, replica, _] = [0, 1, 2].map(|node| cluster.node(node).port());
        let text = printed(&format!("postgres://bench:bench@{folder}:{replica}/bench"));
        // It streams over TCP, and says so.
        let expected = [format!("127.0.0.1:{primary}"), format!("{}:{replica}", cluster.folder().display())];
        assert_eq!(nodes(&text), expected, "{text}");
    });
}

#[test]
fn what_is_wrong_is_one_line_without_a_password() {
    limited(|| {
        let cluster = cluster();
        let place = cluster.node(0).address();
        let told = |from: &str| failed(&init(&["--from", from]).output().unwrap());
        for (from, status, words) in [
            (format!("postgres://bench:hush@{place}/bench"), 1, "password authentication failed"),
            (format!("postgres://bench:bench@{place}/nowhere"), 1, "database \"nowhere\" does not exist"),
            ("postgres://bench:hush@127.0.0.1:1,127.0.0.1:2/bench".to_owned(), 1, "127.0.0.1:2: connection refused"),
            (format!("postgres://bench:bench@{place}/bench?sslmode=require"), 1, "does not speak TLS"),
            (format!("postgres://bench:bench@{place}/bench?sslrootcert=/nowhere"), 1, "/nowhere cannot be read"),
            (format!("postgres://bench:hu%sh@{place}/bench"), 2, "the password is not encoded right"),
            (format!("postgres://bench@{place}/bench"), 2, "the password is missing"),
            ("postgres://bench:hush@127.0.0.1:x/bench".to_owned(), 2, "a port is not a number"),
        ] {
            let (code, told) = told(&from);
            assert!(code == status && told.contains(words) && !told.contains("hush"), "{from}: {code} {told}");
        }
        let output = init(&[]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
    });
}
