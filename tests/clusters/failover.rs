//! A primary that dies, and one that comes back.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::fixture::{Proxy, cluster, eventually, limited, pgbench, server_port};
use crate::pgbench::fill;

#[test]
fn clients_stay_connected_and_the_first_write_follows_the_promotion_within_a_second() {
    limited(|| {
        let cluster = cluster();
        fill(&cluster);
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut writer = proxy.client();
        writer.batch_execute("insert into t values (1)").unwrap();
        let readers = pgbench(proxy.port(), &["-n", "-S", "-c", "8", "-j", "2", "-T", "6"])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(1500));

        cluster.node(0).kill().unwrap();
        let first_write = thread::spawn(move || {
            let port = server_port(&mut writer, "insert into t values (2) returning inet_server_port()");
            (port, Instant::now())
        });
        thread::sleep(Duration::from_secs(1));
        cluster.node(1).promote().unwrap();
        let promoted = Instant::now();
        cluster.node(2).follow(cluster.node(1)).unwrap();

        let (port, written) = first_write.join().unwrap();
        assert_eq!(port, cluster.node(1).port());
        assert!(written.saturating_duration_since(promoted) < Duration::from_secs(1));
        let output = readers.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("ERROR") && !said.contains("aborted"), "{said}");
    });
}

#[test]
fn an_old_primary_that_comes_back_gets_no_write() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        cluster.node(0).kill().unwrap();
        cluster.node(1).promote().unwrap();
        cluster.node(2).follow(cluster.node(1)).unwrap();
        // It knows nothing of the promotion: it starts as the primary that it was.
        cluster.node(0).start().unwrap();
        assert_eq!(cluster.node(0).sql("select pg_is_in_recovery()").unwrap(), "f");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let port = server_port(&mut client, "insert into t values (1) returning inet_server_port()");
            assert_eq!(port, cluster.node(1).port());
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "0");
    });
}

#[test]
fn a_write_without_a_primary_fails_with_57p03_when_hold_is_over() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '1s'");
        let mut client = proxy.client();
        cluster.node(0).kill().unwrap();
        let asked = Instant::now();
        let error = client.batch_execute("insert into t values (1)").unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
        assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&asked.elapsed()));
        // Reads go on, in the same session.
        assert_ne!(server_port(&mut client, "select inet_server_port()"), cluster.node(0).port());
    });
}

#[test]
fn a_replica_that_dies_and_returns_costs_no_read() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        cluster.node(1).kill().unwrap();
        for _ in 0..100 {
            assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(2).port());
        }
        cluster.node(1).start().unwrap();
        eventually("the replica takes reads again", Duration::from_secs(10), || {
            server_port(&mut client, "select inet_server_port()") == cluster.node(1).port()
        });
    });
}

#[test]
fn a_frozen_replica_takes_no_reads_for_long() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        cluster.node(1).freeze().unwrap();
        eventually("the topology knows", Duration::from_secs(5), || !proxy.takes_reads(cluster.node(1).address()));
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(2).port());
        }
        cluster.node(1).thaw().unwrap();
    });
}
