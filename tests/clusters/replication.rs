//! Connections for replication: PostgreSQL's own programs through Trunkline, and what ends such a connection.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use trunkline::demo::cluster::{Cluster, Shape};
use trunkline::demo::installation::Installation;
use trunkline::demo::node::{Node, Stop};

use crate::fixture::{Proxy, cluster, console, eventually, limited, shape};
use crate::raw::{COPY_DONE, RawClient, TERMINATE, cancel, query};

/// The role that the fixture's standbys stream as.
const REPLICATOR: &str = "[[user]]\nname = \"replicator\"\npassword = \"replicator\"";

/// One of PostgreSQL's programs, as this role to this port.
pub(crate) fn program(name: &str, port: u16, role: &str) -> Command {
    let mut command = Installation::find().unwrap().command(name);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", role]).env("PGPASSWORD", role);
    command
}

fn psql(port: u16, kind: &str, statements: &[&str]) -> Output {
    let mut psql = Installation::find().unwrap().command("psql");
    psql.env("PGPASSWORD", "bench").args(["-XAt", "-d"]);
    psql.arg(format!("host=127.0.0.1 port={port} user=bench dbname=bench replication={kind}"));
    for statement in statements {
        psql.args(["-c", statement]);
    }
    psql.output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn logical() -> Cluster {
    Cluster::start(&Shape { settings: "wal_level = logical".to_owned(), ..shape() }).unwrap()
}

/// A raw connection for replication that streams from the primary's present position.
fn streaming(cluster: &Cluster, proxy: &Proxy) -> RawClient {
    let position = cluster.node(0).sql("select pg_current_wal_flush_lsn()").unwrap();
    let mut client = RawClient::connect(proxy.port(), &[("replication", "true"), ("application_name", "streamer")]);
    client.send(&[&query(&format!("START_REPLICATION {position}"))]);
    client.until(b'W');
    client
}

fn cell(proxy: &Proxy, subject: &str, name: &str, column: &str) -> Option<String> {
    let mut console = console(proxy);
    let rows = console.simple_query(&format!("show {subject}")).unwrap();
    rows.iter().find_map(|message| {
        let postgres::SimpleQueryMessage::Row(row) = message else { return None };
        let is_it = (0..row.len()).any(|index| row.get(index) == Some(name));
        is_it.then(|| row.get(column).map(str::to_owned))?
    })
}

#[test]
fn a_base_backup_with_its_wal_is_whole() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select g, repeat('x', 500) from generate_series(1, 20000) g").unwrap();
        let proxy = Proxy::start(&cluster, REPLICATOR);
        let folder = cluster.folder().join("backup");
        let mut backup = program("pg_basebackup", proxy.port(), "replicator");
        backup.args(["-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&folder);
        said(&backup.output().unwrap());
        let verified = Installation::find().unwrap().run("pg_verifybackup", [&folder]).unwrap();
        assert!(said(&verified).contains("successfully verified"), "{verified:?}");
        eventually("both connections are over", Duration::from_secs(5), || {
            proxy.metric("trunkline_replication_clients", "") == 0.0
        });
    });
}

#[test]
fn received_wal_is_the_primarys_own() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, REPLICATOR);
        let folder = cluster.folder().join("received");
        fs::create_dir(&folder).unwrap();
        Installation::find().unwrap().own(&folder).unwrap();
        let primary = cluster.node(0);
        let end = "select pg_current_wal_lsn() + 2 * pg_size_bytes(current_setting('wal_segment_size'))";
        let end = primary.sql(end).unwrap();
        let segment = primary.sql("select pg_walfile_name(pg_current_wal_lsn())").unwrap();
        let mut receive = program("pg_receivewal", proxy.port(), "replicator");
        receive.args(["--no-loop", "--endpos", &end, "-D"]).arg(&folder).stderr(Stdio::piped());
        let received = receive.spawn().unwrap();
        eventually("it streams", Duration::from_secs(10), || {
            proxy.metric("trunkline_replication_clients", "") == 1.0
                && folder.join(format!("{segment}.partial")).exists()
        });
        for _ in 0..4 {
            primary.sql("create table if not exists t (a text); insert into t values (repeat('x', 1000))").unwrap();
            primary.sql("select pg_switch_wal()").unwrap();
        }
        said(&received.wait_with_output().unwrap());
        let own = cluster.folder().join("node0/pg_wal").join(&segment);
        assert!(fs::read(folder.join(&segment)).unwrap() == fs::read(own).unwrap(), "{segment} differs");
    });
}

#[test]
fn a_logical_slot_is_made_read_and_dropped() {
    limited(|| {
        let cluster = logical();
        cluster.node(0).sql("create table t (a int primary key)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let recv = |arguments: &[&str]| {
            let mut recv = program("pg_recvlogical", proxy.port(), "bench");
            said(&recv.args(["-d", "bench", "--slot", "changes"]).args(arguments).output().unwrap())
        };
        recv(&["--create-slot", "-P", "test_decoding"]);
        proxy.client().batch_execute("insert into t values (1), (2); delete from t where a = 1").unwrap();
        let end = cluster.node(0).sql("select pg_current_wal_lsn()").unwrap();
        let changes = recv(&["--start", "-f", "-", "--endpos", &end]);
        for change in ["INSERT: a[integer]:1", "INSERT: a[integer]:2", "DELETE: a[integer]:1"] {
            assert!(changes.contains(change), "{changes}");
        }
        recv(&["--drop-slot"]);
        assert_eq!(cluster.node(0).sql("select count(*) from pg_replication_slots").unwrap(), "0");
    });
}

#[test]
fn a_standby_streams_through_trunkline_and_follows_the_next_primary_there() {
    limited(|| {
        let cluster = cluster();
        let nodes: Vec<_> = cluster.nodes()[..2].iter().map(Node::address).collect();
        let proxy = Proxy::before(&cluster, &nodes, &format!("{REPLICATOR}\n[admin]\nusers = [\"bench\"]"));
        let standby = cluster.node(2);
        let upstream = format!(
            "alter system set primary_conninfo = 'host=127.0.0.1 port={} user=replicator password=replicator \
             application_name=behind'",
            proxy.port()
        );
        standby.sql(&upstream).unwrap();
        standby.sql("select pg_reload_conf()").unwrap();
        let port = proxy.port().to_string();
        eventually("it streams through Trunkline", Duration::from_secs(10), || {
            standby.sql("select sender_port from pg_stat_wal_receiver where status = 'streaming'").unwrap() == port
        });
        assert_eq!(cell(&proxy, "clients", "behind", "replication").as_deref(), Some("physical"));
        assert_eq!(cell(&proxy, "servers", "replicator", "replication").as_deref(), Some("physical"));
        proxy.client().batch_execute("create table t as select 1 as a").unwrap();
        standby.catch_up(cluster.node(0)).unwrap();
        assert_eq!(standby.sql("select a from t").unwrap(), "1");
        cluster.node(0).kill().unwrap();
        cluster.node(1).promote().unwrap();
        proxy.client().batch_execute("insert into t values (2)").unwrap();
        eventually("it has what the next primary has written", Duration::from_secs(20), || {
            standby.sql("select max(a) from t").unwrap() == "2"
        });
    });
}

#[test]
fn commands_and_statements_are_answered_as_by_the_primary_itself() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        for (kind, statements) in [
            (
                "database",
                &["IDENTIFY_SYSTEM", "select 40 + 2, pg_is_in_recovery(), current_setting('application_name')"][..],
            ),
            ("true", &["IDENTIFY_SYSTEM", "SHOW data_directory_mode"]),
            ("on", &["TIMELINE_HISTORY 1", "select 1"]),
            // These two are no connections for replication.
            ("false", &["select 1", "IDENTIFY_SYSTEM"]),
            ("off", &["select 1"]),
            ("nonsense", &["select 1"]),
        ] {
            let (direct, through) =
                (psql(cluster.node(0).port(), kind, statements), psql(proxy.port(), kind, statements));
            let without_port = |output: &Output| {
                let text = [&*output.stdout, &output.stderr].concat();
                String::from_utf8_lossy(&text)
                    .lines()
                    .filter(|line| !line.contains("port"))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            let (direct, through) = ((direct.status, without_port(&direct)), (through.status, without_port(&through)));
            // The position may have moved in between.
            let without_position = |text: &str| text.split('|').take(2).collect::<Vec<_>>().join("|");
            match statements[0] {
                "IDENTIFY_SYSTEM" => assert_eq!(without_position(&direct.1), without_position(&through.1), "{kind}"),
                _ => assert_eq!(direct, through, "{kind}"),
            }
        }
        let answer = said(&psql(proxy.port(), "database", &["select 40 + 2, current_database()"]));
        assert_eq!(answer, "42|bench");
    });
}

#[test]
fn startup_parameters_reach_the_primary_and_its_refusals_the_client() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role plain login password 'plain'").unwrap();
        let user = "[[user]]\nname = \"plain\"\npassword = \"plain\"";
        let proxy = Proxy::start(&cluster, user);
        let options = [("replication", "database"), ("options", "-c work_mem=77MB"), ("DateStyle", "German")];
        let mut client = RawClient::connect(proxy.port(), &options);
        assert_eq!(client.query("select current_setting('work_mem')")[1], "row 77MB");
        assert_eq!(client.query("show datestyle")[1], "row German, DMY");
        for (role, options) in [("plain", "-c work_mem=1MB"), ("bench", "-c work_mem=lots"), ("bench", "-c no_such=1")]
        {
            let told = [cluster.node(0).port(), proxy.port()].map(|port| {
                let config = format!(
                    "host=127.0.0.1 port={port} user={role} dbname=bench replication=database options='{options}'"
                );
                let mut psql = Installation::find().unwrap().command("psql");
                psql.env("PGPASSWORD", role).args(["-X", "-d", &config, "-c", "select 1"]);
                let output = psql.output().unwrap();
                assert_eq!(output.status.code(), Some(2));
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                told.replace(&port.to_string(), "PORT")
            });
            assert_eq!(told[0], told[1]);
        }
    });
}

#[test]
fn access_rules_and_limits_count_for_replication_too() {
    limited(|| {
        let cluster = cluster();
        let rules = "[auth]\nhba = [\"host all bench all scram-sha-256\", \"host replication replicator all md5\"]";
        let limits = "[[user]]\nname = \"replicator\"\npassword = \"replicator\"\nmax_clients = 2\nmax_connections = 1";
        let proxy = Proxy::start(&cluster, &format!("{rules}\n{limits}"));
        let refusal = |role: &str, kind: &str| {
            let mut psql = Installation::find().unwrap().command("psql");
            let config = format!("host=127.0.0.1 port={} user={role} dbname=bench replication={kind}", proxy.port());
            let output = psql.env("PGPASSWORD", role).args(["-X", "-d", &config, "-c", "IDENTIFY_SYSTEM"]).output();
            String::from_utf8_lossy(&output.unwrap().stderr).into_owned()
        };
        assert_eq!(refusal("bench", "database"), "");
        let refused = refusal("bench", "true");
        assert!(
            refused.contains("no pg_hba.conf entry for replication connection from host \"127.0.0.1\""),
            "{refused}"
        );
        assert_eq!(refusal("replicator", "true"), "");
        let mut receive = program("pg_receivewal", proxy.port(), "replicator");
        let folder = cluster.folder().join("received");
        fs::create_dir(&folder).unwrap();
        Installation::find().unwrap().own(&folder).unwrap();
        let mut received = receive.arg("-D").arg(&folder).spawn().unwrap();
        eventually("it streams", Duration::from_secs(10), || proxy.metric("trunkline_replication_clients", "") == 1.0);
        let refused = refusal("replicator", "true");
        assert!(refused.contains("max_connections"), "{refused}");
        assert!(proxy.metric("trunkline_limits_met_total", "user.max_connections") >= 1.0);
        received.kill().unwrap();
        received.wait().unwrap();
        eventually("its place is free", Duration::from_secs(10), || refusal("replicator", "true").is_empty());
    });
}

#[test]
fn a_cancel_reaches_a_connection_for_replication() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[("replication", "database")]);
        client.send(&[&query("select pg_sleep(20)")]);
        thread::sleep(Duration::from_millis(300));
        cancel(proxy.port(), client.key());
        let answer = client.until(b'Z');
        assert!(answer.contains(&"57014 canceling statement due to user request".to_owned()), "{answer:?}");
        assert_eq!(client.query("select 1")[1], "row 1");
    });
}

#[test]
fn a_stream_ends_by_the_client_or_by_its_goodbye_or_by_half_of_its_connection() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[log]\nconnections = true");
        let senders =
            || cluster.node(0).sql("select count(*) from pg_stat_replication where application_name = 'streamer'");
        let mut done = streaming(&cluster, &proxy);
        assert_eq!(senders().unwrap(), "1");
        done.send(&[COPY_DONE]);
        done.until(b'Z');
        let mut parting = streaming(&cluster, &proxy);
        parting.send(&[COPY_DONE, TERMINATE]);
        let told = parting.until_end();
        assert!(told.ends_with(&["START_REPLICATION".to_owned(), "I".to_owned()]), "{told:?}");
        let mut half = streaming(&cluster, &proxy);
        half.close_half();
        half.until_end();
        let mut asked = RawClient::connect(proxy.port(), &[("replication", "database")]);
        asked.send(&[&query("select 7")]);
        asked.close_half();
        assert!(asked.until_end().contains(&"row 7".to_owned()));
        drop((done, streaming(&cluster, &proxy)));
        eventually("nothing is left at the primary", Duration::from_secs(5), || senders().unwrap() == "0");
        assert_eq!(proxy.metric("trunkline_replication_clients", ""), 0.0);
        let left = || proxy.log().matches("a client has left").count();
        eventually("each has left, as the log has it", Duration::from_secs(5), || left() == 5);
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_its_primary_and_takes_no_memory() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select g, repeat('x', 1000) from generate_series(1, 60000) g").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let before = proxy.resident_megabytes();
        let mut stalled: Vec<RawClient> = (0..6)
            .map(|_| {
                let mut client = RawClient::connect(proxy.port(), &[("replication", "true")]);
                client.send(&[&query("BASE_BACKUP (CHECKPOINT 'fast')")]);
                client
            })
            .collect();
        thread::sleep(Duration::from_secs(2));
        assert!(proxy.resident_megabytes() < before + 20, "{} MB", proxy.resident_megabytes());
        assert_eq!(proxy.client().query_one("select 1", &[]).unwrap().get::<_, i32>(0), 1);
        // One that reads at last gets all of it.
        let told = stalled.remove(0).until(b'Z');
        assert!(told.len() > 1000, "{}", told.len());
    });
}

#[test]
fn an_operator_ends_a_stream_and_so_does_the_end_of_the_program() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = [\"bench\"]\n[limits]\nclient_idle_timeout = \"1s\"");
        let mut killed = streaming(&cluster, &proxy);
        let mut idle = RawClient::connect(proxy.port(), &[("replication", "true")]);
        let told = idle.until_end();
        assert_eq!(told, ["57P05 terminating connection due to idle-session timeout"]);
        thread::sleep(Duration::from_secs(1));
        let id = cell(&proxy, "clients", "streamer", "id").unwrap();
        let mut console = console(&proxy);
        console.simple_query(&format!("kill_client {id}")).unwrap();
        let gone = "57P01 terminating connection due to administrator command".to_owned();
        assert_eq!(killed.until_end().last(), Some(&gone));
        let mut drained = streaming(&cluster, &proxy);
        let mut busy = RawClient::connect(proxy.port(), &[("replication", "database")]);
        busy.send(&[&query("select pg_sleep(1), 7")]);
        thread::sleep(Duration::from_millis(200));
        let begun = Instant::now();
        proxy.signal("TERM");
        assert_eq!(drained.until_end().last(), Some(&gone));
        assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
        let told = busy.until_end();
        assert!(told.contains(&"I".to_owned()) && told.last() == Some(&gone), "{told:?}");
    });
}

#[test]
fn one_that_comes_in_a_pause_waits_for_resume_longer_than_a_login_may_take() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = [\"bench\"]\n[limits]\nlogin_timeout = \"1s\"");
        let mut console = console(&proxy);
        console.simple_query("pause bench").unwrap();
        let port = proxy.port();
        let waiting = thread::spawn(move || psql(port, "database", &["select 7"]));
        thread::sleep(Duration::from_millis(2000));
        assert!(!waiting.is_finished(), "nobody has resumed");
        console.simple_query("resume bench").unwrap();
        assert_eq!(said(&waiting.join().unwrap()), "7");
    });
}

#[test]
fn a_stream_ends_when_its_node_stops_or_is_not_the_primary_any_more() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[log]\nconnections = true");
        let mut stopped = RawClient::connect(proxy.port(), &[("replication", "database")]);
        cluster.node(0).stop(Stop::Fast).unwrap();
        assert_eq!(stopped.until_end(), ["57P01 terminating connection due to administrator command"]);
        cluster.node(0).start().unwrap();
        proxy.client().batch_execute("create table s (a int)").unwrap();
        let mut crashed = streaming(&cluster, &proxy);
        cluster.node(0).stop(Stop::Immediate).unwrap();
        crashed.until_end();
        // Whether the end of its connection is heard first or that of the node's role, it has not left by itself.
        eventually("both are cut off, as the log has it", Duration::from_secs(5), || {
            let (log, ends) = (proxy.log(), ["its node has ended it", "its node is not the primary any more"]);
            ends.map(|words| log.matches(words).count()).iter().sum::<usize>() == 2
        });
        cluster.node(0).start().unwrap();
        proxy.client().batch_execute("create table t (a int)").unwrap();
        let mut left = streaming(&cluster, &proxy);
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        // It answers nobody, and another takes its role.
        cluster.node(0).freeze().unwrap();
        cluster.node(1).promote().unwrap();
        eventually("the next primary is written to", Duration::from_secs(10), || {
            proxy.client().batch_execute("insert into t values (1)").is_ok()
        });
        let told = left.until_end();
        assert_eq!(told.last().unwrap(), "57P01 terminating connection: its node is not the primary any more");
        let mut next = RawClient::connect(proxy.port(), &[("replication", "database")]);
        assert_eq!(next.query("select count(*) from t")[1], "row 1");
    });
}
