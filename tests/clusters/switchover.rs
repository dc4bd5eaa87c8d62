//! Planned switchovers: the primary is stopped cleanly, a replica is promoted, the old primary comes back as a replica.

use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use trunkline::demo::cluster::Cluster;
use trunkline::demo::node::Stop;

use crate::fixture::{Proxy, cluster, eventually, limited, limited_to, pgbench};
use crate::pgbench::fill;

#[test]
fn ten_switchovers_cost_readers_nothing_and_writers_their_open_transactions_only() {
    limited(|| {
        let cluster = cluster();
        fill(&cluster);
        let proxy = Proxy::start(&cluster, "");
        let seconds = "20";
        let simple = load(&proxy, &["-S", "-c", "4", "-T", seconds]);
        let prepared = load(&proxy, &["-S", "-M", "prepared", "-c", "4", "-T", seconds]);
        let writers = load(&proxy, &["-c", "8", "-T", seconds]);
        thread::sleep(Duration::from_secs(1));
        for round in 0..10 {
            switch_over(&cluster, round % 3, (round + 1) % 3);
            thread::sleep(Duration::from_millis(300));
        }
        assert_eq!(failed(simple), 0);
        assert_eq!(failed(prepared), 0);
        // One transaction of each writer may be open at each stop: it is rolled back, and the client is told so. A few begin
        // another one on a connection that the node has not got to yet.
        let failed = failed(writers);
        println!("{failed} open transactions were told to be tried again");
        assert!(failed <= 120, "{failed} transactions failed");
        let primary = cluster.node(10 % 3);
        let sums = primary.sql(
            "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
                    (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)",
        );
        assert_eq!(sums.unwrap(), "t|t");
    });
}

/// `TRUNKLINE_SWITCHOVERS` says how many there are.
#[test]
fn switchovers_cost_single_statements_nothing() {
    let rounds = std::env::var("TRUNKLINE_SWITCHOVERS").map_or(5, |text| text.parse().unwrap());
    limited_to(Duration::from_secs(30) + Duration::from_secs(5) * rounds, move || {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        proxy.client().batch_execute("create table t (a bigint)").unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..16).map(|number: i64| write_singly(&proxy, number, &is_over)).collect();
        thread::sleep(Duration::from_millis(300));
        for round in 0..usize::try_from(rounds).unwrap() {
            switch_over(&cluster, round % 3, (round + 1) % 3);
            thread::sleep(Duration::from_millis(200));
        }
        is_over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let errors: Vec<_> = ended.iter().flat_map(|(_, errors)| errors).collect();
        let done: i64 = ended.iter().map(|(done, _)| done).sum();
        println!("{done} statements");
        assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
        let there = cluster.node(usize::try_from(rounds).unwrap() % 3).sql("select count(*), count(distinct a) from t");
        assert_eq!(there.unwrap(), format!("{done}|{done}"));
    });
}

/// All that the node has said waits to be read when its fence comes: answers to what it did, and its goodbyes.
#[test]
fn a_stop_that_trunkline_sleeps_through_costs_single_statements_nothing() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        proxy.client().batch_execute("create table t (a bigint)").unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..16).map(|number: i64| write_singly(&proxy, number, &is_over)).collect();
        for round in 0..3 {
            thread::sleep(Duration::from_millis(300));
            proxy.signal("STOP");
            cluster.node(round % 3).stop(Stop::Fast).unwrap();
            proxy.signal("CONT");
            cluster.node((round + 1) % 3).promote().unwrap();
            follow(&cluster, (round + 1) % 3);
        }
        is_over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let errors: Vec<_> = ended.iter().flat_map(|(_, errors)| errors).collect();
        assert!(errors.is_empty(), "{} errors: {errors:#?}", errors.len());
        let done: i64 = ended.iter().map(|(done, _)| done).sum();
        let there = cluster.node(0).sql("select count(*), count(distinct a) from t");
        assert_eq!(there.unwrap(), format!("{done}|{done}"));
    });
}

/// Writes one statement after the other, as fast as they are answered, until told to stop: how many, and the errors.
fn write_singly(proxy: &Proxy, number: i64, is_over: &Arc<AtomicBool>) -> thread::JoinHandle<(i64, Vec<String>)> {
    let (mut client, is_over) = (proxy.client(), Arc::clone(is_over));
    thread::spawn(move || {
        let (mut done, mut errors) = (0, Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            let value = number * 1_000_000_000 + done;
            // A Query, or batches that name what they prepare.
            let wrote = match number % 2 {
                0 => client.batch_execute(&format!("insert into t values ({value})")),
                _ => client.execute("insert into t values ($1)", &[&value]).map(drop),
            };
            match wrote {
                Ok(()) => done += 1,
                Err(error) => errors.push(format!("{error:?}")),
            }
        }
        (done, errors)
    })
}

/// Waits for a pgbench: how many of its transactions failed.
fn failed(child: Child) -> u64 {
    counted(child).1
}

/// Waits for a pgbench: how many of its transactions were done, and how many failed. It goes on after 40001 alone; any
/// other error ends a client of it, and that is a failure here.
fn counted(child: Child) -> (u64, u64) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("aborted"), "{said}");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |name: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split(' ').next().unwrap().parse().unwrap()
    };
    (number("number of transactions actually processed: "), number("number of failed transactions: "))
}

/// pgbench's own script, but that each client has accounts of its own, those of the first behind those of so many others.
/// Nobody else changes then what a transaction has read of them, so that run again it reads the same, unless it was done
/// already.
fn own_accounts(cluster: &Cluster, others: u32) -> String {
    let script = format!(
        "\\set aid random(1, 8000) + 8000 * (:client_id + {others})
\\set bid 1
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"
    );
    let path = cluster.folder().join(format!("own_accounts_{others}.sql"));
    std::fs::write(&path, script).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn with_replay_ten_switchovers_cost_nobody_anything() {
    limited(|| {
        let cluster = cluster();
        fill(&cluster);
        let proxy = Proxy::start(&cluster, "[failover]\nreplay = true");
        let seconds = "20";
        let simple = load(&proxy, &["-S", "-c", "4", "-T", seconds]);
        let scripts = [0, 6].map(|first| own_accounts(&cluster, first));
        let writers = load(&proxy, &["-f", &scripts[0], "-c", "6", "-T", seconds]);
        // A thread for each: pgbench prepares a statement and waits for that with the whole thread, while its transaction may
        // be run again and wait for a row that another client of that thread holds and does not go on with.
        let prepared = load(&proxy, &["-f", &scripts[1], "-M", "prepared", "-c", "6", "-j", "6", "-T", seconds]);
        let (is_over, pauses) = watch_pauses(&proxy);
        thread::sleep(Duration::from_secs(1));
        let mut promoted = Vec::new();
        for round in 0..10 {
            promoted.push(switch_over(&cluster, round % 3, (round + 1) % 3));
            thread::sleep(Duration::from_millis(300));
        }
        is_over.store(true, Ordering::Relaxed);
        let beyond = longest_beyond(&pauses.join().unwrap(), &promoted);
        println!("the longest write ended {beyond:?} after its promotion");
        assert!(beyond < Duration::from_secs(1), "{beyond:?}");
        let [(_, failed_reads), (written, failed), (prepared_written, prepared_failed)] =
            [simple, writers, prepared].map(counted);
        let page = proxy.page("/metrics");
        let of_losses = |line: &&str| line.contains("_lost_total{") || line.contains("_retries_total{");
        println!("{}", page.lines().filter(of_losses).collect::<Vec<_>>().join("\n"));
        assert_eq!([failed_reads, failed, prepared_failed], [0, 0, 0]);
        let replayed = proxy.metric("trunkline_retries_total", "cause=\"replayed\"");
        assert!(replayed > 0.0, "no transaction was open at any stop");
        let primary = cluster.node(10 % 3);
        let sums = primary.sql(
            "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
                    (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history), \
                    (select count(*) from pgbench_history)",
        );
        // Each transaction that pgbench was told to be done was done, and done once.
        assert_eq!(sums.unwrap(), format!("t|t|{}", written + prepared_written));
    });
}

#[test]
fn a_replay_that_comes_out_otherwise_is_told_as_a_lost_transaction() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nreplay = true");
        let (mut same, mut other) = (proxy.client(), proxy.client());
        same.batch_execute("begin").unwrap();
        same.execute("insert into t values (1)", &[]).unwrap();
        other.batch_execute("begin").unwrap();
        other.query("select clock_timestamp()", &[]).unwrap();
        other.execute("insert into t values (2)", &[]).unwrap();
        switch_over(&cluster, 0, 1);
        same.execute("insert into t values (3)", &[]).unwrap();
        same.batch_execute("commit").unwrap();
        let error = other.execute("insert into t values (4)", &[]).unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error:?}");
        other.batch_execute("rollback").unwrap();
        other.execute("insert into t values (5)", &[]).unwrap();
        assert_eq!(cluster.node(1).sql("select array_agg(a order by a) from t").unwrap(), "{1,3,5}");
    });
}

#[test]
fn with_replay_what_has_been_committed_is_not_done_again_with_what_was_chained_to_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nreplay = true");
        for (round, chain) in ["commit and chain", "commit; begin"].into_iter().enumerate() {
            let mut client = proxy.client();
            client.batch_execute("begin; insert into t values (1)").unwrap();
            client.batch_execute(chain).unwrap();
            client.execute("insert into t values (2)", &[]).unwrap();
            switch_over(&cluster, round, round + 1);
            let error = client.execute("insert into t values (3)", &[]).unwrap_err();
            assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{chain}: {error:?}");
            client.batch_execute("rollback").unwrap();
            client.batch_execute("insert into t values (4)").unwrap();
            let seen = cluster.node(round + 1).sql("select array_agg(a order by a) from t").unwrap();
            assert_eq!(seen, "{1,4}", "{chain}");
            client.batch_execute("truncate t").unwrap();
            if round == 0 {
                cluster.node(2).catch_up(cluster.node(1)).unwrap();
            }
        }
    });
}

/// Writes one after the other, each by itself, until told to stop: when each began and ended.
fn watch_pauses(proxy: &Proxy) -> (Arc<AtomicBool>, thread::JoinHandle<Vec<(Instant, Instant)>>) {
    let (is_over, mut client) = (Arc::new(AtomicBool::new(false)), proxy.client());
    let told = Arc::clone(&is_over);
    let writes = thread::spawn(move || {
        let mut writes = Vec::new();
        while !told.load(Ordering::Relaxed) {
            let begun = Instant::now();
            client.batch_execute("update pgbench_branches set filler = '' where bid = 1").unwrap();
            writes.push((begun, Instant::now()));
            thread::sleep(Duration::from_millis(2));
        }
        writes
    });
    (is_over, writes)
}

/// How long after a promotion the latest of the writes ended that it found waiting.
fn longest_beyond(writes: &[(Instant, Instant)], promoted: &[Instant]) -> Duration {
    let waited = |promoted: &Instant| {
        let found = writes.iter().filter(|(begun, ended)| begun < promoted && ended > promoted);
        found.map(|(_, ended)| *ended - *promoted).max()
    };
    promoted.iter().filter_map(waited).max().unwrap_or_default()
}

fn load(proxy: &Proxy, arguments: &[&str]) -> Child {
    let mut pgbench = pgbench(proxy.port(), &["-n"]);
    pgbench.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Stops `old` cleanly, promotes `new`, and lets the others follow it. Answers when the promotion was complete.
fn switch_over(cluster: &Cluster, old: usize, new: usize) -> Instant {
    let begun = Instant::now();
    cluster.node(old).stop(Stop::Fast).unwrap();
    let stopped = begun.elapsed();
    cluster.node(new).promote().unwrap();
    let promoted = Instant::now();
    println!("stop {stopped:?}, promoted {:?}", promoted - begun);
    follow(cluster, new);
    promoted
}

/// The others follow the new primary and have everything: whoever is promoted next must.
fn follow(cluster: &Cluster, primary: usize) {
    let others = || (0..cluster.nodes().len()).filter(|other| *other != primary);
    let primary = cluster.node(primary);
    others().for_each(|other| cluster.node(other).follow(primary).unwrap());
    // A stop waits only for those that stream. What they have confirmed is of the new timeline: it lies behind its beginning.
    let written = primary.sql("select pg_current_wal_insert_lsn()").unwrap();
    let streaming =
        format!("select count(*) from pg_stat_replication where pg_wal_lsn_diff('{written}', flush_lsn) <= 40");
    let count = others().count().to_string();
    eventually("the others stream", Duration::from_secs(10), || primary.sql(&streaming).unwrap() == count);
    others().for_each(|other| cluster.node(other).catch_up(primary).unwrap());
}
