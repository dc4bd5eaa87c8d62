//! What a session reads after it, or anybody, has written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls, SimpleQueryMessage};
use trunkline::demo::cluster::Cluster;
use trunkline::demo::node::{Node, Stop};

use crate::fixture::{Proxy, cluster, console, eventually, limited, login, server_port};
use crate::raw::{FLUSH, RawClient, SYNC, bind, describe, execute, parse, run_unnamed};

#[test]
fn a_session_reads_its_own_writes_while_a_replica_falls_behind() {
    limited(|| {
        let cluster = Arc::new(cluster());
        cluster.node(0).sql("create table t as select id, 0 as v from generate_series(0, 7) id").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    cluster.node(1).pause_replay().unwrap();
                    thread::sleep(Duration::from_millis(250));
                    cluster.node(1).resume_replay().unwrap();
                    thread::sleep(Duration::from_millis(150));
                }
            });
            let sessions: Vec<_> = (0..8)
                .map(|id| {
                    scope.spawn({
                        let proxy = &proxy;
                        move || write_and_read(proxy, id)
                    })
                })
                .collect();
            let ended: Vec<_> = sessions.into_iter().map(|session| session.join()).collect();
            over.store(true, Ordering::Relaxed);
            ended.into_iter().for_each(|session| session.unwrap());
        });
    });
}

/// Four seconds of writes, each followed by reads that have to see it.
fn write_and_read(proxy: &Proxy, id: i32) {
    let mut client = proxy.client();
    let begun = Instant::now();
    let mut written = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        written += 1;
        client.execute("update t set v = $1 where id = $2", &[&written, &id]).unwrap();
        for _ in 0..3 {
            let read: i32 = client.query_one("select v from t where id = $1", &[&id]).unwrap().get(0);
            assert_eq!(read, written, "session {id}");
        }
    }
}

#[test]
fn a_session_never_goes_back_in_time() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select 0 as v").unwrap();
        let proxy = Proxy::start(&cluster, "");
        cluster.node(1).sql("select 1").unwrap();
        cluster.node(1).pause_replay().unwrap();
        let mut reader = proxy.client();
        let mut last = 0;
        for round in 1..=200 {
            if round % 10 == 0 {
                cluster.node(0).sql("update t set v = v + 1").unwrap();
            }
            let read: i32 = reader.query_one("select v from t", &[]).unwrap().get(0);
            assert!(read >= last, "{read} was read after {last}");
            last = read;
        }
    });
}

#[test]
fn reads_return_to_replicas_within_a_second_of_the_last_write_in_a_closed_loop() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("insert into t values (1)").unwrap();
        let written = Instant::now();
        // No pause between the reads: one that runs on the primary must not hold the next one there.
        reads_return_to_replicas(&mut client, &cluster, written + Duration::from_secs(1));
        for _ in 0..100 {
            assert_ne!(server_port(&mut client, "select inet_server_port() from t"), cluster.node(0).port());
        }
    });
}

#[test]
fn reads_return_to_replicas_where_nothing_is_written_after_a_switch_of_log_files() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("insert into t values (1)").unwrap();
        // As archive_timeout does it: the position stands behind the header of a file that nothing is written to.
        cluster.node(0).sql("select pg_switch_wal()").unwrap();
        let switched = Instant::now();
        // Answered by the primary without writing anything: what the session must see is that position.
        client.batch_execute("no_statement").unwrap_err();
        reads_return_to_replicas(&mut client, &cluster, switched + Duration::from_secs(2));
    });
}

/// By then a session that reads in a closed loop is served by a replica again.
fn reads_return_to_replicas(client: &mut Client, cluster: &Cluster, deadline: Instant) {
    while server_port(client, "select inet_server_port()") == cluster.node(0).port() {
        assert!(Instant::now() < deadline, "still on the primary");
    }
}

/// Sixteen sessions of which every tenth statement is a write, as fast as the machine is.
#[test]
fn nine_of_ten_reads_are_answered_by_replicas_where_one_statement_of_ten_writes() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select id, 0 as a from generate_series(0, 15) id").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let sessions = (0..16).map(|id| {
            let mut client = proxy.client();
            thread::spawn(move || {
                let (begun, mut reads) = (Instant::now(), 0_u32);
                while begun.elapsed() < Duration::from_secs(4) {
                    client.execute("update t set a = a + 1 where id = $1", &[&id]).unwrap();
                    for _ in 0..9 {
                        client.query_one("select a from t where id = $1", &[&id]).unwrap();
                    }
                    reads += 9;
                }
                reads
            })
        });
        let sessions: Vec<_> = sessions.collect();
        let reads: u32 = sessions.into_iter().map(|session| session.join().unwrap()).sum();
        let on_replicas = proxy.metric("trunkline_statements_total", "target=\"replica\"");
        println!("{on_replicas} of {reads} reads were answered by replicas");
        assert!(on_replicas >= 0.9 * f64::from(reads), "{on_replicas} of {reads}");
    });
}

#[test]
fn a_replica_too_far_behind_takes_no_reads() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\nmax_lag = '1s'");
        only_the_other_replica_is_read_from(&cluster, &proxy);
    });
}

/// One replica stops replaying, and is soon further behind than the second that it may be.
fn only_the_other_replica_is_read_from(cluster: &Cluster, proxy: &Proxy) {
    cluster.node(1).pause_replay().unwrap();
    cluster.node(0).sql("insert into t values (1)").unwrap();
    thread::sleep(Duration::from_millis(2500));
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(2).port());
    }
}

/// What nobody has committed, and a page's end cuts a record of: replicas cannot have it, and are not late for want of it.
#[test]
fn what_an_open_transaction_has_written_takes_no_reads_from_replicas() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\nmax_lag = '1s'").with_both_replicas(&cluster);
        let mut reader = proxy.client();
        let reads_elsewhere =
            |reader: &mut Client| server_port(reader, "select inet_server_port()") != cluster.node(0).port();
        for rows in [1, 1000] {
            // It has found what was committed before.
            eventually("it reads from a replica", Duration::from_secs(5), || reads_elsewhere(&mut reader));
            let mut writer = login(cluster.node(0).port(), "bench", "bench").connect(NoTls).unwrap();
            writer.batch_execute(&format!("begin; insert into t select generate_series(1, {rows})")).unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(4) {
                let lags = proxy.samples("trunkline_node_lag_seconds", "");
                assert!(lags.len() == 2 && lags.iter().all(|lag| *lag < 1.0), "{lags:?}, {rows} rows");
                assert!(reads_elsewhere(&mut reader), "{rows} rows, after {:?}", begun.elapsed());
                thread::sleep(Duration::from_millis(50));
            }
            writer.batch_execute("rollback").unwrap();
        }
    });
}

#[test]
fn a_replica_under_another_application_name_is_known_to_be_too_far_behind() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let replica = cluster.node(1);
        let whom = replica.sql("select setting from pg_settings where name = 'primary_conninfo'").unwrap();
        let elsewhere = format!("{whom} application_name=elsewhere").replace('\'', "''");
        replica.sql(&format!("alter system set primary_conninfo = '{elsewhere}'")).unwrap();
        replica.sql("select pg_reload_conf()").unwrap();
        eventually("it streams under that name", Duration::from_secs(15), || {
            let named = "select count(*) from pg_stat_replication where application_name = 'elsewhere'";
            cluster.node(0).sql(named).unwrap() == "1"
        });
        let proxy = Proxy::start(&cluster, "[routing]\nmax_lag = '1s'");
        only_the_other_replica_is_read_from(&cluster, &proxy);
    });
}

#[test]
fn a_session_counts_all_rows_it_has_written_while_replicas_lag_differently() {
    limited(|| rows_are_counted("session", false));
}

#[test]
fn with_strong_consistency_any_session_counts_all_rows_that_were_acknowledged_to_anybody() {
    limited(|| rows_are_counted("strong", true));
}

/// Eight sessions insert and count at once, for some seconds; one replica replays half a second late, the other's replay
/// is held now and then. Nobody may see less than was acknowledged to it (or to `everybody`), nor less than before.
fn rows_are_counted(consistency: &str, everybody: bool) {
    let cluster = Arc::new(cluster());
    cluster.node(0).sql("create table t (id int)").unwrap();
    delay_replay(cluster.node(1), "500ms");
    let proxy = Proxy::start(&cluster, &format!("[routing]\nconsistency = '{consistency}'"));
    let acknowledged = AtomicI64::new(0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                cluster.node(2).pause_replay().unwrap();
                thread::sleep(Duration::from_millis(120));
                cluster.node(2).resume_replay().unwrap();
                thread::sleep(Duration::from_millis(300));
            }
        });
        let sessions: Vec<_> = (0..8)
            .map(|id| {
                let (proxy, acknowledged) = (&proxy, &acknowledged);
                scope.spawn(move || insert_and_count(proxy, id, everybody.then_some(acknowledged)))
            })
            .collect();
        let ended: Vec<_> = sessions.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|session| session.unwrap());
    });
    let on_replicas = proxy.metric("trunkline_statements_total", "target=\"replica\"");
    assert!(on_replicas > 0.0, "every read went to the primary");
}

fn insert_and_count(proxy: &Proxy, id: i32, everybodys: Option<&AtomicI64>) {
    let mut client = proxy.client();
    let (begun, mut own, mut most) = (Instant::now(), 0_i64, 0_i64);
    while begun.elapsed() < Duration::from_secs(6) {
        client.execute("insert into t values ($1)", &[&id]).unwrap();
        own += 1;
        let known = everybodys.map_or(0, |count| count.fetch_add(1, Ordering::SeqCst) + 1);
        let row = client.query_one("select count(*), count(*) filter (where id = $1) from t", &[&id]).unwrap();
        let (all, seen): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(seen, own, "session {id}");
        assert!(all >= known, "session {id} sees {all} rows of {known} that were acknowledged");
        assert!(all >= most, "session {id} sees {all} rows after {most}");
        most = all;
    }
}

#[test]
fn a_strong_read_sees_what_was_written_while_it_was_paused() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let settings = "[routing]\nconsistency = 'strong'\n[admin]\nusers = ['bench']";
        let proxy = Proxy::start(&cluster, settings).with_both_replicas(&cluster);
        let (mut operator, mut reader) = (console(&proxy), proxy.client());
        operator.simple_query("pause bench").unwrap();
        let reading = thread::spawn(move || {
            let told = reader.simple_query("select count(*) from t").unwrap();
            told.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })
        });
        // A position is known that is later than the read, and has no later write in it.
        thread::sleep(Duration::from_secs(1));
        assert!(!reading.is_finished());
        for replica in &cluster.nodes()[1..] {
            replica.pause_replay().unwrap();
        }
        cluster.node(0).sql("insert into t values (1)").unwrap();
        operator.simple_query("resume bench").unwrap();
        assert_eq!(reading.join().unwrap().as_deref(), Some("1"));
        for replica in &cluster.nodes()[1..] {
            replica.resume_replay().unwrap();
        }
    });
}

#[test]
fn a_strong_read_sees_what_was_written_since_its_batch_has_prepared_it() {
    limited(|| {
        let cluster = cluster();
        let (primary, replicas) = (cluster.node(0), &cluster.nodes()[1..]);
        primary.sql("create table t (a int)").unwrap();
        replicas.iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let proxy = Proxy::start(&cluster, "[routing]\nconsistency = 'strong'").with_both_replicas(&cluster);
        let mut reader = RawClient::connect(proxy.port(), &[]);
        let is_there = |node: &Node| {
            let there = "select count(*) from pg_stat_activity
                where state = 'active' and query = 'select count(*) from t'";
            node.sql(there).unwrap() == "1"
        };
        // What a read sees is settled by its Bind, whether its Execute stands beside that or not.
        for (name, is_bound_apart, row) in [("a", false, "row 1"), ("b", true, "row 2")] {
            eventually("a replica takes strong reads", Duration::from_secs(10), || {
                reader.query("select pg_is_in_recovery()").contains(&"row t".to_owned())
            });
            reader.send(&[&parse(name, "select count(*) from t"), &describe(name), FLUSH]);
            assert_eq!(reader.until(b'T'), ["1", "t", "T"]);
            assert!(replicas.iter().any(is_there), "it is prepared on a replica");
            replicas.iter().for_each(|replica| replica.pause_replay().unwrap());
            proxy.client().batch_execute("insert into t values (1)").unwrap();
            let mut told = Vec::new();
            if is_bound_apart {
                reader.send(&[&bind(name, &[]), FLUSH]);
                told = reader.until(b'2');
                told.extend(reader.ask(&[&execute(), SYNC], 1));
            } else {
                told.extend(reader.ask(&[&bind(name, &[]), &execute(), SYNC], 1));
            }
            replicas.iter().for_each(|replica| replica.resume_replay().unwrap());
            assert_eq!(told, ["2", row, "SELECT 1", "I"], "{name}");
        }
    });
}

#[test]
fn reads_return_to_a_replica_that_replays_half_a_second_late() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (id int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        for replica in &cluster.nodes()[1..] {
            delay_replay(replica, "500ms");
        }
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("insert into t values (1)").unwrap();
        let written = Instant::now();
        let (mut late, mut on_replicas) = (0, 0);
        while written.elapsed() < Duration::from_secs(3) {
            let row = client.query_one("select inet_server_port(), (select count(*) from t)", &[]).unwrap();
            assert_eq!(row.get::<_, i64>(1), 1);
            if written.elapsed() > Duration::from_secs(1) {
                late += 1;
                on_replicas += i32::from(row.get::<_, i32>(0) != i32::from(cluster.node(0).port()));
            }
        }
        assert!(on_replicas * 2 > late, "{on_replicas} of {late} reads on replicas, a second after the last write");
    });
}

#[test]
fn an_eventual_session_reads_from_a_replica_that_is_behind() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (id int)").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            replica.pause_replay().unwrap();
        }
        let proxy = Proxy::start(&cluster, "[routing]\nconsistency = 'eventual'");
        let mut client = proxy.client();
        client.batch_execute("insert into t values (1)").unwrap();
        assert_eq!(client.query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0), 0);
    });
}

#[test]
fn a_replica_that_comes_back_at_an_earlier_position_does_not_take_a_session_back() {
    limited(|| {
        let cluster = cluster();
        let (primary, replica) = (cluster.node(0), cluster.node(1));
        primary.sql("create table t as select 1 as v").unwrap();
        cluster.node(2).stop(Stop::Fast).unwrap();
        replica.catch_up(primary).unwrap();
        // What is replayed from here on may be forgotten by a restart.
        primary.sql("checkpoint").unwrap();
        replica.catch_up(primary).unwrap();
        replica.sql("checkpoint").unwrap();
        primary.sql("update t set v = 2").unwrap();
        replica.catch_up(primary).unwrap();

        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let sql = "select inet_server_port(), v from t";
        eventually("the replica is read", Duration::from_secs(10), || {
            let row = client.query_one(sql, &[]).unwrap();
            assert_eq!(row.get::<_, i32>(1), 2);
            row.get::<_, i32>(0) == i32::from(replica.port())
        });
        delay_replay(replica, "1h");
        replica.kill().unwrap();
        replica.start().unwrap();
        assert_eq!(replica.sql("select v from t").unwrap(), "1", "it has not gone back, and the test shows nothing");
        for _ in 0..300 {
            assert_eq!(client.query_one(sql, &[]).unwrap().get::<_, i32>(1), 2);
            thread::sleep(Duration::from_millis(10));
        }
    });
}

/// Holds every commit back for this long after it was made.
fn delay_replay(replica: &Node, delay: &str) {
    replica.sql(&format!("alter system set recovery_min_apply_delay = '{delay}'")).unwrap();
    replica.sql("select pg_reload_conf()").unwrap();
}

#[test]
fn who_comes_back_on_a_new_connection_finds_what_it_wrote() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            replica.pause_replay().unwrap();
        }
        for round in 1..=5_i64 {
            proxy.client().batch_execute("insert into t values (1)").unwrap();
            let seen: i64 = proxy.client().query_one("select count(*) from t", &[]).unwrap().get(0);
            assert_eq!(seen, round);
        }
        for replica in &cluster.nodes()[1..] {
            replica.resume_replay().unwrap();
        }
    });
}

#[test]
fn who_comes_finds_what_was_written_by_a_session_that_keeps_its_server_connection() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let (mut pinned, mut chained, mut joined) = (proxy.client(), proxy.client(), proxy.client());
        pinned.batch_execute("listen x").unwrap();
        chained.batch_execute("begin").unwrap();
        joined.batch_execute("begin").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            replica.pause_replay().unwrap();
        }
        let mut written = 0;
        for _ in 0..5 {
            let clients =
                [(&mut pinned, "select 1"), (&mut chained, "commit and chain"), (&mut joined, "commit; begin")];
            for (client, end) in clients {
                // A position is known that has no later write in it.
                thread::sleep(Duration::from_millis(600));
                client.batch_execute("insert into t values (1)").unwrap();
                client.batch_execute(end).unwrap();
                written += 1;
                let seen: i64 = proxy.client().query_one("select count(*) from t", &[]).unwrap().get(0);
                assert_eq!(seen, written, "{end}");
            }
        }
        for replica in &cluster.nodes()[1..] {
            replica.resume_replay().unwrap();
        }
    });
}

#[test]
fn who_comes_finds_what_was_committed_behind_a_flush() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut writer = RawClient::connect(proxy.port(), &[]);
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            replica.pause_replay().unwrap();
        }
        // A position is known that has no later write in it.
        thread::sleep(Duration::from_millis(600));
        let batch = ["begin", "insert into t values (1)", "commit"].map(run_unnamed).concat();
        writer.send(&[&batch, FLUSH]);
        while writer.until(b'C').last().unwrap() != "COMMIT" {}
        let seen: i64 = proxy.client().query_one("select count(*) from t", &[]).unwrap().get(0);
        assert_eq!(seen, 1);
        assert_eq!(writer.ask(&[SYNC], 1), ["I"]);
        for replica in &cluster.nodes()[1..] {
            replica.resume_replay().unwrap();
        }
    });
}

#[test]
fn what_a_lost_transaction_has_shown_is_not_taken_back() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select 0 as v").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            replica.pause_replay().unwrap();
        }
        cluster.node(0).sql("update t set v = 1").unwrap();
        let mut client = proxy.client();
        client.batch_execute("begin").unwrap();
        let row = client.query_one("select pg_backend_pid(), v from t", &[]).unwrap();
        assert_eq!(row.get::<_, i32>(1), 1);
        cluster.node(0).sql(&format!("select pg_terminate_backend({})", row.get::<_, i32>(0))).unwrap();
        let is_lost = || client.batch_execute("select 1").is_err();
        eventually("the transaction is lost", Duration::from_secs(5), is_lost);
        client.batch_execute("rollback").unwrap();
        let seen: i32 = client.query_one("select v from t", &[]).unwrap().get(0);
        for replica in &cluster.nodes()[1..] {
            replica.resume_replay().unwrap();
        }
        assert_eq!(seen, 1);
    });
}
