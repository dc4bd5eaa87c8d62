//! What a session reads after it, or anybody, has written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{Proxy, cluster, limited, server_port};

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
        while server_port(&mut client, "select inet_server_port()") == cluster.node(0).port() {
            assert!(written.elapsed() < Duration::from_secs(1), "still on the primary");
        }
        for _ in 0..100 {
            assert_ne!(server_port(&mut client, "select inet_server_port() from t"), cluster.node(0).port());
        }
    });
}

#[test]
fn a_replica_too_far_behind_takes_no_reads() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\nmax_lag = '1s'");
        cluster.node(1).pause_replay().unwrap();
        cluster.node(0).sql("insert into t values (1)").unwrap();
        thread::sleep(Duration::from_millis(2500));
        let mut client = proxy.client();
        for _ in 0..50 {
            assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(2).port());
        }
    });
}
