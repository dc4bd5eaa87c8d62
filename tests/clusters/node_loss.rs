//! Nodes that stop, crash, freeze, fill up and come back under load: what each client may see of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use trunkline::demo::cluster::Cluster;
use trunkline::demo::node::{Node, Stop};

use crate::fixture::{Proxy, cluster, eventually, limited, login, server_port};
use crate::raw::{COPY_DONE, FLUSH, RawClient, SYNC, bind, copy_data, describe, execute, parse, query, run_unnamed};
use crate::record::is_logged;

#[test]
fn a_replica_that_is_restarted_costs_nobody_an_error() {
    limited(|| {
        for how in [Stop::Fast, Stop::Immediate] {
            let seen = under_load(|cluster, _| {
                cluster.node(1).stop(how).unwrap();
                cluster.node(1).start().unwrap();
            });
            seen.is_without_errors();
        }
    });
}

#[test]
fn a_copy_whose_data_has_come_ahead_is_not_run_again_without_it() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table copied (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut locks = proxy.client();
        locks.batch_execute("begin; lock copied").unwrap();
        let mut client = RawClient::connect(proxy.port(), &[]);
        let copies = [query("copy copied from stdin"), copy_data(b"1\n2\n"), COPY_DONE.to_vec()].concat();
        client.send(&[&copies]);
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where wait_event_type = 'Lock' and query like 'copy copied%'";
        eventually("it waits, and is ended", Duration::from_secs(10), || primary.sql(ended).unwrap() == "1");
        let told = client.until(b'Z');
        assert!(told[0].starts_with("57P01"), "{told:?}");
        locks.batch_execute("commit").unwrap();
        assert!(client.ask(&[&copies], 1).contains(&"COPY 2".to_owned()));
    });
}

#[test]
fn what_is_done_ahead_of_a_statement_that_has_changed_is_run_again_as_its_whole_batch_is() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table here as select 7 as a").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.ask(&[&parse("here", "select a from here"), SYNC], 1);
        primary.sql("alter table here alter a type text").unwrap();
        let back = run_unnamed("alter table here alter a type int using a::int + length(pg_sleep(2)::text)");
        client.send(&[&back, &bind("here", &[]), &execute(), SYNC]);
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where wait_event = 'PgSleep' and query like 'alter table here%'";
        eventually("it sleeps, and is ended", Duration::from_secs(10), || primary.sql(ended).unwrap() == "1");
        assert_eq!(client.until(b'Z'), ["1", "2", "ALTER TABLE", "2", "row 7", "SELECT 1", "I"]);
    });
}

#[test]
fn a_batch_without_its_sync_that_is_lost_while_its_client_is_quiet_goes_on_or_is_told_with_the_next_answer() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let lose = || {
            let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where state = 'active' and query like 'insert into t%'";
            assert_eq!(primary.sql(ended).unwrap(), "1");
            thread::sleep(Duration::from_millis(300)); // it is noticed while nobody asks
        };
        // As asyncpg prepares.
        client.send(&[&parse("a", "insert into t values (1) returning a"), &describe("a"), FLUSH]);
        assert_eq!(client.until(b'T'), ["1", "t", "T"]);
        lose();
        assert_eq!(client.ask(&[&bind("a", &[]), &execute(), SYNC], 1), ["2", "row 1", "INSERT 0 1", "I"]);
        // As libpq pipelines.
        client.send(&[&run_unnamed("insert into t values (2)"), FLUSH]);
        assert_eq!(client.until(b'C'), ["1", "2", "INSERT 0 1"]);
        lose();
        assert_eq!(proxy.metric("trunkline_transactions_lost_total", "outcome=\"rolled_back\""), 1.0);
        let told = client.ask(&[SYNC], 1);
        assert!(told.len() == 2 && told[0].starts_with("40001") && told[1] == "I", "{told:?}");
        assert_eq!(client.query("select string_agg(a::text, ' ') from t")[1], "row 1");
    });
}

#[test]
fn a_replica_that_is_killed_costs_nobody_an_error() {
    limited(|| {
        let seen = under_load(|cluster, _| {
            cluster.node(1).kill().unwrap();
            thread::sleep(Duration::from_millis(500));
            cluster.node(1).start().unwrap();
        });
        seen.is_without_errors();
    });
}

#[test]
fn a_replica_that_is_frozen_costs_nobody_an_error_and_a_few_seconds_at_most() {
    limited(|| {
        let seen = under_load(|cluster, proxy| {
            cluster.node(1).freeze().unwrap();
            let down = || !proxy.takes_reads(cluster.node(1).address());
            eventually("the frozen replica is left", Duration::from_secs(5), down);
            thread::sleep(Duration::from_secs(3));
            cluster.node(1).thaw().unwrap();
        });
        seen.is_without_errors();
        // Two probes that are not answered, and what a busy machine adds.
        let longest = Duration::from_micros(seen.longest_read.load(Ordering::Relaxed).try_into().unwrap());
        assert!(longest < Duration::from_secs(5), "{longest:?}");
    });
}

#[test]
fn a_primary_that_is_restarted_costs_open_transactions_only() {
    limited(|| {
        let seen = under_load(|cluster, _| {
            cluster.node(0).stop(Stop::Fast).unwrap();
            cluster.node(0).start().unwrap();
        });
        seen.has_only(&[("transaction", "40001"), ("transaction", "08007")]);
    });
}

#[test]
fn a_transaction_that_is_lost_while_its_client_is_quiet_is_counted_at_once_and_its_errors_when_they_are_told() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("begin; insert into t values (1)").unwrap();
        cluster.node(0).stop(Stop::Fast).unwrap();
        cluster.node(0).start().unwrap();
        let lost = || proxy.metric("trunkline_transactions_lost_total", "outcome=\"rolled_back\"");
        let told = |code: &str| proxy.metric("trunkline_errors_sent_total", &format!("sqlstate=\"{code}\""));
        eventually("it is counted", Duration::from_secs(5), || lost() == 1.0);
        assert_eq!(told("40001"), 0.0);
        for (number, code) in [(2, "40001"), (3, "25P02")] {
            let error = client.batch_execute(&format!("insert into t values ({number})")).unwrap_err();
            assert_eq!(error.code().map(|found| found.code()), Some(code), "{error:?}");
            assert_eq!(told(code), 1.0, "{code}");
        }
        client.batch_execute("rollback").unwrap();
        assert_eq!((lost(), told("40001"), told("25P02")), (1.0, 1.0, 1.0));
    });
}

#[test]
fn what_a_session_loses_that_ends_with_its_node_is_counted() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let lost = |outcome| proxy.metric("trunkline_transactions_lost_total", &format!("outcome=\"{outcome}\""));
        let listening = || {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("listen news");
            client
        };
        let (mut idle, mut open, mut writes, mut reads) = (listening(), listening(), listening(), listening());
        idle.query("select 1");
        open.query("begin; insert into t values (1)");
        writes.send(&[&query("insert into t select 2 from pg_sleep(30)")]);
        reads.send(&[&query("select pg_sleep(30)")]);
        thread::sleep(Duration::from_millis(300));
        cluster.node(0).kill().unwrap();
        cluster.node(0).start().unwrap();
        for client in [&mut idle, &mut open, &mut writes, &mut reads] {
            let end = client.until_end();
            assert!(end.iter().any(|told| told.starts_with("57P01")), "{end:?}");
        }
        assert_eq!((lost("rolled_back"), lost("unknown"), lost("cut_short")), (1.0, 1.0, 1.0));
    });
}

#[test]
fn a_notification_leaves_no_doubt_of_a_write_behind_it_that_is_surely_not_done() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let lost = |outcome| proxy.metric("trunkline_transactions_lost_total", &format!("outcome=\"{outcome}\""));
        let mut listens = RawClient::connect(proxy.port(), &[]);
        listens.query("listen news");
        primary.sql("notify news").unwrap();
        listens.until(b'A');
        let mut locks = proxy.client();
        locks.batch_execute("begin; lock t").unwrap();
        listens.send(&[&query("insert into t values (1)")]);
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where wait_event_type = 'Lock' and query like 'insert into t%'";
        eventually("it waits, and is ended", Duration::from_secs(10), || primary.sql(ended).unwrap() == "1");
        let end = listens.until_end();
        assert!(end[0].starts_with("57P01"), "{end:?}");
        assert_eq!((lost("rolled_back"), lost("unknown")), (1.0, 0.0));
    });
}

#[test]
fn a_primary_that_crashes_leaves_only_writes_in_flight_in_doubt() {
    limited(|| {
        for how in ["immediate", "killed", "backend"] {
            let seen = under_load(|cluster, _| match how {
                "immediate" => {
                    cluster.node(0).stop(Stop::Immediate).unwrap();
                    cluster.node(0).start().unwrap();
                }
                "killed" => {
                    cluster.node(0).kill().unwrap();
                    cluster.node(0).start().unwrap();
                }
                _ => kill_a_backend(cluster.node(0)),
            });
            seen.has_only(&[("write", "08007"), ("transaction", "08007"), ("transaction", "40001")]);
        }
    });
}

#[test]
fn who_is_cut_off_in_the_middle_of_a_row_gets_nothing_else_and_is_counted_and_logged_as_that() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[log]\nconnections = true");
        let lost = |outcome| proxy.metric("trunkline_transactions_lost_total", &format!("outcome=\"{outcome}\""));
        let untold = |code| proxy.metric("trunkline_errors_sent_total", &format!("sqlstate=\"{code}\""));
        let wide = |verb: &str| format!("{verb} repeat('x', {WIDE}) as wide");
        let cases = [
            ("", wide("select"), "cut_short", "08006"),
            ("", wide("insert into t values (1) returning"), "unknown", "08007"),
            ("begin; insert into t values (1)", wide("select"), "rolled_back", "40001"),
        ];
        for (before, sql, outcome, code) in cases {
            let mut client = RawClient::connect(proxy.port(), &[]);
            if !before.is_empty() {
                client.query(before);
            }
            let sent = proxy.metric("trunkline_client_sent_bytes_total", "");
            client.send(&[&query(&sql)]);
            let of_row = || proxy.metric("trunkline_client_sent_bytes_total", "") - sent;
            eventually("a part of the row has come", Duration::from_secs(10), || of_row() > 100_000.0);
            kill_where(&cluster, "query like '%as wide%' and pid <> pg_backend_pid()");
            let told = client.until_end();
            assert!(told.iter().all(|told| told.starts_with('T')), "{told:?}");
            let (row, value) = client.unread().split_at("D....".len() + 2 + 4);
            assert!(row.starts_with(b"D") && value.len() < WIDE, "{row:?}");
            assert!(value.iter().all(|byte| *byte == b'x'), "{code} was written into the row");
            assert_eq!((lost(outcome), untold(code)), (1.0, 1.0), "{outcome}");
            is_logged(
                &proxy,
                &["a transaction was lost with its node", outcome, "user=\"bench\"", "node=\"127.0.0.1:"],
            );
            eventually("all are there again", Duration::from_secs(20), || {
                cluster.nodes().iter().all(|node| node.sql("select 1").is_ok())
            });
        }
        let log = proxy.log();
        let cut_off = log.lines().filter(|line| line.contains("cut off") && line.contains("in the middle of a row"));
        assert_eq!(cut_off.count(), 3, "{log}");
        assert!(!log.contains("the client left"), "{log}");
    });
}

/// Bytes of a row: more than all sockets and buffers on its way take from a node.
const WIDE: usize = 50_000_000;

/// The postmaster then ends all others and recovers, in a tenth of a second and without a new start of its own.
fn kill_a_backend(node: &Node) {
    let mut victim = login(node.port(), "bench", "bench").connect(NoTls).unwrap();
    let pid: i32 = victim.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
    kill(&pid.to_string());
    eventually("it recovers", Duration::from_secs(20), || node.sql("select 1").is_ok());
}

/// Kills the server process of each session that this is true of, wherever it is.
fn kill_where(cluster: &Cluster, condition: &str) {
    for node in cluster.nodes() {
        let pids = node.sql(&format!("select pid from pg_stat_activity where {condition}")).unwrap();
        pids.lines().for_each(kill);
    }
}

fn kill(process: &str) {
    std::process::Command::new("kill").args(["-KILL", process]).status().unwrap();
}

#[test]
fn a_read_in_flight_on_a_frozen_replica_is_answered_by_another() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
        let asked = Instant::now();
        thread::scope(|scope| {
            let sleep = "select inet_server_port() from pg_sleep(1)";
            let reads: Vec<_> =
                clients.iter_mut().map(|client| scope.spawn(move || server_port(client, sleep))).collect();
            thread::sleep(Duration::from_millis(300));
            cluster.node(1).freeze().unwrap();
            for read in reads {
                assert_eq!(read.join().unwrap(), cluster.node(2).port());
            }
        });
        assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
        cluster.node(1).thaw().unwrap();
    });
}

#[test]
fn a_read_that_is_kept_on_the_primary_is_run_again_when_that_dies_without_a_word() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[routing]\nreads = 'primary'");
        let mut client = proxy.client();
        let read = thread::spawn(move || client.batch_execute("select 1 from pg_sleep(2)"));
        let runs = "select count(*) from pg_stat_activity where query like 'select 1 from pg_sleep%'";
        eventually("it runs", Duration::from_secs(5), || cluster.node(0).sql(runs).unwrap() == "1");
        cluster.node(0).kill().unwrap();
        cluster.node(0).start().unwrap();
        read.join().unwrap().unwrap();
        assert_eq!(proxy.metric("trunkline_retries_total", "node_lost"), 1.0);
    });
}

#[test]
fn a_read_in_flight_on_one_frozen_replica_after_the_other_is_answered_by_the_primary() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut client = proxy.client();
        // The second one is frozen once the read has come to it.
        let waits = "select count(*) from pg_stat_activity where query like '%pg_sleep%' and pid <> pg_backend_pid()";
        let has = |node: usize| cluster.node(node).sql(waits).unwrap() == "1";
        thread::scope(|scope| {
            let read = scope.spawn(|| server_port(&mut client, "select inet_server_port() from pg_sleep(1)"));
            eventually("it runs", Duration::from_secs(5), || has(1) || has(2));
            let (first, second) = if has(1) { (1, 2) } else { (2, 1) };
            cluster.node(first).freeze().unwrap();
            eventually("it runs on the other", Duration::from_secs(8), || has(second));
            cluster.node(second).freeze().unwrap();
            assert_eq!(read.join().unwrap(), cluster.node(0).port());
        });
        [1, 2].iter().for_each(|replica| cluster.node(*replica).thaw().unwrap());
    });
}

#[test]
fn a_write_in_flight_on_a_frozen_primary_is_in_doubt_and_its_late_answer_is_not_passed_on() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let writing = thread::spawn(move || {
            let result = client.execute("insert into t select 1 from pg_sleep(1)", &[]);
            (result, client)
        });
        thread::sleep(Duration::from_millis(300));
        cluster.node(0).freeze().unwrap();
        cluster.node(1).promote().unwrap();
        cluster.node(2).follow(cluster.node(1)).unwrap();
        let (result, mut client) = writing.join().unwrap();
        assert_eq!(result.unwrap_err().code().unwrap().code(), "08007");
        client.execute("insert into t values (2)", &[]).unwrap();
        cluster.node(0).thaw().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let port = server_port(&mut client, "insert into t values (3) returning inet_server_port()");
            assert_eq!(port, cluster.node(1).port());
            assert_ne!(server_port(&mut client, "select inet_server_port()"), cluster.node(0).port());
        }
    });
}

/// A server that stops ends parallel workers first, and their leader tells it as the error of its statement.
#[test]
fn a_read_whose_parallel_workers_are_ended_is_answered_by_another_node() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        // It has another name from version 16 on.
        let wanted = "select name from pg_settings where name in ('force_parallel_mode', 'debug_parallel_query')";
        let options = format!("-c {}=on", cluster.node(0).sql(wanted).unwrap());
        let mut client = proxy.client_config().options(&options).connect(NoTls).unwrap();
        let read = thread::spawn(move || client.batch_execute("select pg_sleep(2)"));
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'parallel worker'";
        eventually("a parallel worker is ended", Duration::from_secs(10), || {
            cluster.nodes()[1..].iter().any(|node| node.sql(end).unwrap().contains('t'))
        });
        read.join().unwrap().unwrap();
        assert_eq!(proxy.metric("trunkline_retries_total", "node_lost"), 1.0);
    });
}

#[test]
fn connections_that_died_while_idle_are_never_met() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
        for node in [0, 1, 2, 0] {
            thread::scope(|scope| {
                for client in &mut clients {
                    scope.spawn(|| {
                        client.batch_execute("insert into t values (1)").unwrap();
                        client.batch_execute("select pg_sleep(0.05)").unwrap();
                    });
                }
            });
            cluster.node(node).stop(Stop::Fast).unwrap();
            cluster.node(node).start().unwrap();
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "24");
    });
}

/// Two writes go to one backend behind each other. It answers the first, begins to answer the second, and is ended: all of
/// that comes to Trunkline at once. The second has not been done, and runs again though the first counts.
#[test]
fn a_write_that_is_half_answered_before_a_goodbye_runs_again_behind_one_that_counts() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table t as select id, 0 as a from generate_series(1, 2) id").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let mut others = [1, 2].map(|id| {
            let mut other = login(primary.port(), "bench", "bench").connect(NoTls).unwrap();
            other.batch_execute(&format!("begin; update t set a = 0 where id = {id}")).unwrap();
            other
        });
        let waits = "from pg_stat_activity where wait_event_type = 'Lock' and query like 'update t %'";
        let waiting = |id: u32| {
            let sql = format!("select count(*) {waits} and query like '%id = {id}'");
            eventually("it waits", Duration::from_secs(5), || primary.sql(&sql).unwrap() == "1");
        };
        let updates = [1, 2].map(|id| parse("", &format!("update t set a = a + 1 where id = {id}")));
        let (bind, execute) = (bind("", &[]), execute());
        client.send(&[&updates[0], &bind, &execute, SYNC, &updates[1], &bind, &execute, SYNC]);
        waiting(1);
        proxy.signal("STOP");
        others[0].batch_execute("rollback").unwrap();
        waiting(2);
        primary.sql(&format!("select pg_terminate_backend(pid, 5000) {waits}")).unwrap();
        others[1].batch_execute("rollback").unwrap();
        proxy.signal("CONT");
        for _ in 0..2 {
            assert_eq!(client.until(b'Z'), ["1", "2", "UPDATE 1", "I"]);
        }
        assert_eq!(primary.sql("select array_agg(a order by id) from t").unwrap(), "{1,1}");
    });
}

/// Trunkline reads all of it at once: the answer to the first read, half of the other's, and the warning.
#[test]
fn a_read_that_is_half_answered_before_a_crash_runs_again_behind_one_that_counts() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[routing]\nconsistency = 'eventual'").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let reads = ["select 1 from pg_sleep(0.7)", "select 2 from pg_sleep(1.5)"].map(query);
        client.send(&[&reads[0], &reads[1]]);
        let busy = |sleep: &str| {
            let sql = format!(
                "select count(*) from pg_stat_activity where query like '%pg_sleep({sleep})' and state = 'active'"
            );
            let mut replicas = cluster.nodes()[1..].iter();
            replicas.find(|replica| replica.sql(&sql).unwrap() == "1")
        };
        eventually("the first read runs", Duration::from_secs(5), || busy("0.7").is_some());
        proxy.signal("STOP");
        eventually("the second one runs", Duration::from_secs(5), || busy("1.5").is_some());
        kill_a_backend(busy("1.5").unwrap());
        proxy.signal("CONT");
        for read in ["1", "2"] {
            assert_eq!(client.until(b'Z'), ["T", &format!("row {read}"), "SELECT 1", "I"]);
        }
    });
}

/// The node skips it with its batch up to the Sync, and has no ReadyForQuery for it.
#[test]
fn a_query_that_a_failed_batch_takes_along_leaves_no_answer_too_many_when_the_node_is_lost_behind_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[routing]\nconsistency = 'eventual'").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let (fails, skipped) = (parse("", "select 1 / 0"), query("select 'skipped'"));
        let sleeps = query("select 'slept' from pg_sleep(2)");
        client.send(&[&fails, &bind("", &[]), &execute(), &skipped, SYNC, &sleeps]);
        assert_eq!(client.until(b'Z'), ["1", "22012 division by zero", "I"]);
        let sleeping = "query like 'select ''slept''%' and state = 'active'";
        let count = format!("select count(*) from pg_stat_activity where {sleeping}");
        eventually("it sleeps", Duration::from_secs(5), || {
            cluster.nodes().iter().any(|node| node.sql(&count).unwrap() == "1")
        });
        kill_where(&cluster, sleeping);
        let told = client.until(b'Z');
        assert!(told.len() == 2 && told[0].starts_with("08006 ") && told[1] == "I", "{told:?}");
        assert_eq!(client.query("select 'next'"), ["T", "row next", "SELECT 1", "I"]);
    });
}

/// The processes of a server do not die in one moment: what was run again may meet the next of them.
#[test]
fn a_read_that_is_lost_twice_while_its_node_dies_is_answered_by_the_next_primary() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '20s'");
        // The replicas lack what the session has written.
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        // Volatile, and so asked of the primary.
        let pid = "select pg_backend_pid(), pg_current_xact_id()";
        client.query("begin");
        client.query("create table t ()");
        let [_, first, ..] = &other.query(pid)[..] else { panic!("no row") };
        let [_, second, ..] = &client.query(pid)[..] else { panic!("no row") };
        client.query("commit");
        let [_, last, ..] = &other.query(pid)[..] else { panic!("no row") };
        let [one, another] = if last == first { [first, second] } else { [second, first] };
        primary.freeze().unwrap();
        client.send(&[&query("select 42")]);
        for backend in [one, another] {
            thread::sleep(Duration::from_millis(50));
            kill(backend.trim_start_matches("row "));
        }
        thread::sleep(Duration::from_millis(50));
        primary.kill().unwrap();
        cluster.node(1).promote().unwrap();
        assert_eq!(client.until(b'Z'), ["T", "row 42", "SELECT 1", "I"]);
    });
}

#[test]
fn a_node_without_room_is_waited_for() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nqueue_timeout = '2s'");
        let (mut first, mut second) = (proxy.client(), proxy.client());
        // The only warm connection is taken, so that the next write needs a new one.
        let mut transaction = first.transaction().unwrap();
        transaction.execute("insert into t values (1)", &[]).unwrap();
        let mut crowd = fill(&cluster, 0);

        let asked = Instant::now();
        let refused = second.execute("insert into t values (2)", &[]).unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "53300");
        assert!(asked.elapsed() >= Duration::from_millis(1900), "{:?}", asked.elapsed());
        // Reads go elsewhere, and the node is not taken for lost.
        assert_ne!(server_port(&mut second, "select inet_server_port()"), cluster.node(0).port());

        let waiting = thread::spawn(move || second.execute("insert into t values (3)", &[]));
        thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished());
        crowd.truncate(crowd.len() - 2);
        assert_eq!(waiting.join().unwrap().unwrap(), 1);
        transaction.commit().unwrap();
    });
}

#[test]
fn a_node_with_room_for_fewer_than_the_pool_may_have_is_not_asked_for_more_again_and_again() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 20");
        let mut clients: Vec<Client> = (0..30).map(|_| proxy.client()).collect();
        let mut crowd = fill(&cluster, 0);
        crowd.truncate(crowd.len() - 3);
        let (refused, begun) = (|| proxy.metric("trunkline_pool_connection_failures_total", ""), Instant::now());
        let before = refused();
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| {
                    for _ in 0..30 {
                        client.batch_execute("with w as (insert into t values (1)) select pg_sleep(0.01)").unwrap();
                    }
                });
            }
        });
        // At first all ask at once; then a few each half a second.
        let most = 40.0 + 10.0 * begun.elapsed().as_secs_f64();
        assert!(refused() - before <= most, "{} logins were refused in {:?}", refused() - before, begun.elapsed());
        // What the others leave is taken, a little later.
        drop(crowd);
        assert_eq!(clients[0].query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0), 900);
        let busy = || proxy.metric("trunkline_pool_connections", "state=\"leased\"");
        let sleep = |client: &mut Client| client.batch_execute("insert into t select 1 from pg_sleep(5)").unwrap();
        thread::scope(|scope| {
            for client in clients.iter_mut().take(20) {
                scope.spawn(|| sleep(client));
            }
            eventually("all that may be open are", Duration::from_secs(5), || busy() >= 20.0);
        });
    });
}

/// Where it may be answered elsewhere, a read does not wait for what a replica has room for.
#[test]
fn a_replica_with_little_room_keeps_no_read_from_the_others() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 20\nqueue_timeout = '2s'").with_both_replicas(&cluster);
        let mut clients: Vec<Client> = (0..16).map(|_| proxy.client()).collect();
        let mut crowd = fill(&cluster, 1);
        crowd.truncate(crowd.len() - 3);
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| (0..2).for_each(|_| client.batch_execute("select pg_sleep(3)").unwrap()));
            }
        });
    });
}

#[test]
fn a_smart_stop_waits_for_no_connection_that_nobody_uses() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut clients: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| client.batch_execute("insert into t select 1 from pg_sleep(0.2)").unwrap());
            }
        });
        let mut transaction = clients[0].transaction().unwrap();
        transaction.execute("insert into t values (2)", &[]).unwrap();
        thread::scope(|scope| {
            let stopped = scope.spawn(|| cluster.node(0).stop(Stop::Smart));
            thread::sleep(Duration::from_secs(3));
            assert!(!stopped.is_finished(), "the open transaction is waited for");
            transaction.commit().unwrap();
            stopped.join().unwrap().unwrap();
        });
        cluster.node(0).start().unwrap();
        for client in &mut clients {
            client.execute("insert into t values (3)", &[]).unwrap();
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap().trim(), "11");
    });
}

#[test]
fn a_full_replica_takes_no_reads_and_costs_none() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut clients: Vec<Client> = (0..6).map(|_| proxy.client()).collect();
        let _crowd = fill(&cluster, 1);
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| {
                    for _ in 0..50 {
                        client.batch_execute("select pg_sleep(0.002)").unwrap();
                    }
                });
            }
        });
    });
}

/// Takes every connection that a node has left.
fn fill(cluster: &Cluster, node: usize) -> Vec<Client> {
    let config = login(cluster.node(node).port(), "bench", "bench");
    let mut crowd = Vec::new();
    while let Ok(client) = config.connect(NoTls) {
        crowd.push(client);
        assert!(crowd.len() < 1000, "a node without a limit");
    }
    crowd
}

/// What clients have seen.
#[derive(Default)]
struct Seen {
    next_id: AtomicUsize,
    /// What became of each id that was written.
    ids: Mutex<BTreeMap<i64, (&'static str, Fate)>>,
    /// Every error: who met it, its code, its words.
    errors: Mutex<Vec<(&'static str, String, String)>>,
    reads: AtomicUsize,
    /// Microseconds.
    longest_read: AtomicUsize,
    notices: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// What a client was told of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Written,
    NotWritten,
    InDoubt,
}

impl Seen {
    fn is_without_errors(&self) {
        self.has_only(&[]);
    }

    fn has_only(&self, allowed: &[(&str, &str)]) {
        for (who, code, words) in &*self.errors.lock().unwrap() {
            assert!(allowed.contains(&(*who, code)), "{who} met {code}: {words}");
        }
        assert!(self.notices.lock().unwrap().is_empty(), "{:?}", self.notices.lock().unwrap());
    }

    /// What clients were told is what is there, and nothing is there twice.
    fn is_true(&self, rows: &str) {
        let mut there = BTreeMap::new();
        for id in rows.lines() {
            *there.entry(id.parse::<i64>().unwrap()).or_insert(0) += 1;
        }
        for (id, (who, fate)) in &*self.ids.lock().unwrap() {
            let count = there.remove(id).unwrap_or(0);
            let is_so = match fate {
                Fate::Written => count == 1,
                Fate::NotWritten => count == 0,
                Fate::InDoubt => count <= 1,
            };
            assert!(is_so, "{id} is there {count} times, and its client ({who}) was told {fate:?}");
        }
        assert!(there.is_empty(), "rows that nobody wrote: {there:?}");
    }

    fn id(&self) -> i64 {
        self.next_id.fetch_add(1, Ordering::Relaxed).try_into().unwrap()
    }

    fn wrote(&self, who: &'static str, ids: &[i64], result: Result<(), postgres::Error>) {
        let fate = match &result {
            Ok(()) => Fate::Written,
            Err(error) if error.code().is_some_and(|code| code.code() == "08007") => Fate::InDoubt,
            Err(_) => Fate::NotWritten,
        };
        self.ids.lock().unwrap().extend(ids.iter().map(|id| (*id, (who, fate))));
        if let Err(error) = result {
            self.met(who, &error);
        }
    }

    fn met(&self, who: &'static str, error: &postgres::Error) {
        let code = error.code().map_or("no code", |code| code.code()).to_owned();
        self.errors.lock().unwrap().push((who, code, format!("{error:?}")));
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn client(self: &Arc<Self>, proxy: &Proxy) -> Client {
        let mut config = proxy.client_config();
        let seen = Arc::clone(self);
        config.notice_callback(move |notice| {
            // A server's farewell to its connection with Trunkline is none to the client.
            if notice.code().code().starts_with("57P") {
                seen.notices.lock().unwrap().push(notice.to_string());
            }
        });
        config.connect(NoTls).unwrap()
    }

    fn write(&self, mut client: Client) {
        while self.goes_on() {
            let id = self.id();
            self.wrote("write", &[id], client.execute("insert into t values ($1)", &[&id]).map(drop));
            self.still_connected("write", &client);
        }
    }

    fn write_in_transactions(&self, mut client: Client) {
        while self.goes_on() {
            let ids = [self.id(), self.id()];
            let done = transaction(&mut client, ids);
            let has_failed = done.is_err();
            self.wrote("transaction", &ids, done);
            if has_failed && let Err(error) = client.batch_execute("rollback") {
                self.met("rollback", &error);
            }
            self.still_connected("transaction", &client);
        }
    }

    fn read(&self, mut client: Client) {
        let prepared = client.prepare("select count(*) from t where a = $1").unwrap();
        let mut round = 0_i64;
        while self.goes_on() {
            round += 1;
            let begun = Instant::now();
            let read = if round % 2 == 0 {
                client.query(&prepared, &[&round]).map(drop)
            } else {
                client.simple_query("select count(*) from t").map(drop)
            };
            let took = usize::try_from(begun.elapsed().as_micros()).unwrap();
            self.longest_read.fetch_max(took, Ordering::Relaxed);
            self.reads.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = read {
                self.met("read", &error);
            }
            self.still_connected("read", &client);
        }
    }

    fn still_connected(&self, who: &'static str, client: &Client) {
        assert!(!client.is_closed(), "{who} was disconnected: {:?}", self.errors.lock().unwrap());
    }
}

fn transaction(client: &mut Client, ids: [i64; 2]) -> Result<(), postgres::Error> {
    client.batch_execute("begin")?;
    for id in ids {
        client.execute("insert into t values ($1)", &[&id])?;
        thread::sleep(Duration::from_millis(2));
    }
    client.batch_execute("commit")
}

/// Writers, transactions and readers through Trunkline while something happens, and for a second before and after it;
/// what the cluster then has must be what the clients were told.
fn under_load(fault: impl FnOnce(&Cluster, &Proxy)) -> Arc<Seen> {
    let cluster = cluster();
    cluster.node(0).sql("create table t (a bigint)").unwrap();
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(cluster.node(0)).unwrap();
    }
    let proxy = Proxy::start(&cluster, "");
    let seen = Arc::new(Seen::default());
    let kinds: [fn(&Seen, Client); 3] = [Seen::write, Seen::write_in_transactions, Seen::read];
    let clients: Vec<_> = (0..12)
        .map(|number| {
            let (seen, client) = (Arc::clone(&seen), seen.client(&proxy));
            thread::spawn(move || kinds[number % 3](&seen, client))
        })
        .collect();
    thread::sleep(Duration::from_secs(1));
    fault(&cluster, &proxy);
    thread::sleep(Duration::from_secs(1));
    let reads = seen.reads.load(Ordering::Relaxed);
    eventually("reads go on", Duration::from_secs(5), || seen.reads.load(Ordering::Relaxed) > reads + 100);
    seen.is_over.store(true, Ordering::Relaxed);
    let ended: Vec<_> = clients.into_iter().map(thread::JoinHandle::join).collect();
    ended.into_iter().for_each(|client| client.unwrap());
    seen.is_true(&cluster.node(0).sql("select a from t").unwrap());
    seen
}
