//! Statements whose texts take long to parse: each goes where its words send it, and nobody else waits for that.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, limited};
use crate::raw::{FLUSH, RawClient, SYNC, bind, execute, parse, query};

/// A read of so many numbers, from this one on.
fn list(first: usize, count: usize) -> String {
    let numbers: Vec<String> = (first..first + count).map(|number| number.to_string()).collect();
    format!("select count(*) from t where a in ({})", numbers.join(","))
}

fn with_table() -> (Cluster, Proxy) {
    let cluster = cluster();
    cluster.node(0).sql("create table t (a int); insert into t select generate_series(1, 1000)").unwrap();
    let proxy = Proxy::start(&cluster, "workers = 1").with_both_replicas(&cluster);
    (cluster, proxy)
}

#[test]
fn nobody_waits_while_another_clients_long_text_is_parsed() {
    limited(|| {
        let (_cluster, proxy) = with_table();
        let (is_over, longest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut client = proxy.client();
                while !is_over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    client.simple_query("select 1").unwrap();
                    let mut longest = longest.lock().unwrap();
                    *longest = longest.max(asked.elapsed());
                }
            });
            let mut client = RawClient::connect(proxy.port(), &[]);
            // No longer than what is looked at, and never the same: its numbers are not, and how many they are.
            let shares = (0..6).map(|round| {
                *longest.lock().unwrap() = Duration::ZERO;
                let asked = Instant::now();
                let answer = client.query(&list(100_000 + round, 100_000 + round));
                assert_eq!(answer, ["T", "row 0", "SELECT 1", "I"]);
                longest.lock().unwrap().as_secs_f64() / asked.elapsed().as_secs_f64()
            });
            // Others on this machine may make somebody wait, but not each time.
            let least = shares.fold(1.0, f64::min);
            is_over.store(true, Ordering::Relaxed);
            assert!(least < 0.2, "somebody waits for {least:.2} of the time that a long text takes");
        });
    });
}

#[test]
fn a_long_text_goes_where_its_words_send_it_and_what_stands_behind_it_waits() {
    limited(|| {
        let (cluster, proxy) = with_table();
        let mut client = RawClient::connect(proxy.port(), &[]);
        let (read, all) = (list(1, 20_000), list(1, 30_000));
        let write = format!("insert into t values {}", vec!["(7)"; 20_000].join(","));
        // Each first by itself, then in a batch, then pipelined behind others, twice.
        for round in 0..2 {
            let inserted = 20_000 * round;
            let count = |text: usize| format!("row {}", text + 3 * inserted);
            assert_eq!(client.query(&read), ["T", &*count(1000), "SELECT 1", "I"]);
            assert_eq!(client.query(&write), ["INSERT 0 20000", "I"]);
            let batch: &[&[u8]] = &[&parse("", &all), &bind("", &[]), &execute(), SYNC];
            let answered = ["1", "2", &count(1000 + 20_000), "SELECT 1", "I"];
            assert_eq!(client.ask(batch, 1), answered);
            let pipeline: &[&[u8]] =
                &[&query("begin"), &query(&write), &query("select 1"), &query(&read), &query("commit")];
            let told = ["BEGIN", "T", "INSERT 0 20000", "T", "T", "row 1", "SELECT 1", "T", "T"];
            let counted = count(1000 + 40_000);
            let told = [&told[..], &[&*counted, "SELECT 1", "T", "COMMIT", "I"]].concat();
            assert_eq!(client.ask(pipeline, 5), told);
            let flushed: &[&[u8]] = &[
                &parse("", "select 1"),
                &bind("", &[]),
                &execute(),
                FLUSH,
                &parse("", &write),
                &bind("", &[]),
                &execute(),
                SYNC,
            ];
            assert_eq!(client.ask(flushed, 1), ["1", "2", "row 1", "SELECT 1", "1", "2", "INSERT 0 20000", "I"]);
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "read_only"), 0.0, "no write was sent to a replica");
        assert!(proxy.metric("trunkline_statements_total", "target=\"replica\"") >= 4.0);
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "121000");
    });
}
