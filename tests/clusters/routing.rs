//! Where statements run, as the servers themselves say.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use crate::fixture::{Proxy, cluster, eventually, limited, server_port};
use crate::raw::{RawClient, SYNC, bind, execute, parse, query, run_unnamed};

#[test]
fn reads_come_from_both_replicas_and_never_from_the_primary() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let seen: BTreeSet<u16> = (0..100).map(|_| server_port(&mut client, "select inet_server_port()")).collect();
        assert_eq!(seen, BTreeSet::from([cluster.node(1).port(), cluster.node(2).port()]));
    });
}

#[test]
fn clients_that_read_once_and_leave_reach_both_replicas() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let read_once = |_| server_port(&mut proxy.client(), "select inet_server_port()");
        let seen: BTreeSet<u16> = (0..30).map(read_once).collect();
        assert_eq!(seen, BTreeSet::from([cluster.node(1).port(), cluster.node(2).port()]));
    });
}

#[test]
fn writes_run_on_the_primary() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        for _ in 0..50 {
            let port = server_port(&mut client, "insert into t values (1) returning inet_server_port()");
            assert_eq!(port, cluster.node(0).port());
        }
    });
}

#[test]
fn what_writes_below_its_first_word_runs_on_the_primary() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int); create sequence s").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        for sql in [
            "with w as (insert into t values (1)) select inet_server_port()",
            "select inet_server_port() from (select nextval('s')) n",
            "/* select */ select inet_server_port() from (select 1 from t for update) locked right join (select 1) o on true",
            "select 1; insert into t values (2) returning inet_server_port()",
        ] {
            assert_eq!(last_value(&mut client, sql), cluster.node(0).port().to_string(), "{sql}");
        }
    });
}

#[test]
fn what_a_replica_has_refused_because_it_writes_is_asked_of_the_primary_from_then_on() {
    limited(|| {
        let cluster = cluster();
        let function = "create function log_access(text) returns int language sql as \
                        'insert into log values ($1) returning 1'";
        cluster.node(0).sql("create table log (what text)").unwrap();
        cluster.node(0).sql(function).unwrap();
        // The operator is wrong about it.
        let proxy = Proxy::start(&cluster, "[routing]\nsafe_functions = ['log_access']").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for number in 1..=5 {
            let told = client.query(&format!("select log_access('simple {number}')"));
            assert!(told.contains(&"row 1".to_owned()), "{told:?}");
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 1.0);
        for _ in 0..5 {
            let run = [run_unnamed("select log_access('extended'), 2"), SYNC.to_vec()].concat();
            let told = client.ask(&[&run], 1);
            assert!(told.iter().any(|told| told.starts_with("row 1")), "{told:?}");
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 2.0);
        assert!(client.query("select count(*) from log").contains(&"row 10".to_owned()));
    });
}

#[test]
fn a_read_write_transaction_stays_on_the_primary() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let mut transaction = client.transaction().unwrap();
        transaction.execute("insert into t values (1)", &[]).unwrap();
        for _ in 0..10 {
            let port: i32 = transaction.query_one("select inet_server_port()", &[]).unwrap().get(0);
            assert_eq!(port, i32::from(cluster.node(0).port()));
        }
        transaction.commit().unwrap();
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "1");
    });
}

#[test]
fn a_read_only_transaction_runs_on_one_replica() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let mut transaction = client.build_transaction().read_only(true).start().unwrap();
        let seen: BTreeSet<i32> =
            (0..10).map(|_| transaction.query_one("select inet_server_port()", &[]).unwrap().get(0)).collect();
        transaction.commit().unwrap();
        assert_eq!(seen.len(), 1);
        assert!(!seen.contains(&i32::from(cluster.node(0).port())));
    });
}

#[test]
fn the_counters_say_where_statements_went() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let count = |target| proxy.metric("trunkline_statements_total", target);
        let before = (count("target=\"replica\""), count("target=\"primary\""));
        for _ in 0..10 {
            client.batch_execute("select 1").unwrap();
        }
        for _ in 0..5 {
            client.batch_execute("insert into t values (1)").unwrap();
        }
        let after = (count("target=\"replica\""), count("target=\"primary\""));
        assert_eq!((after.0 - before.0, after.1 - before.1), (10.0, 5.0));
    });
}

#[test]
fn each_statement_of_a_transaction_is_counted_and_timed_by_itself() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let before = Statements::of(&proxy, "target=\"primary\"");
        client.batch_execute("begin").unwrap();
        for _ in 0..5 {
            client.batch_execute("insert into t values (1)").unwrap();
        }
        let insert = client.prepare("insert into t values (2)").expect("which is no statement yet");
        for _ in 0..3 {
            client.execute(&insert, &[]).unwrap();
        }
        thread::sleep(Duration::from_secs(3));
        client.batch_execute("commit").unwrap();
        let after = Statements::when_answered(&proxy, "target=\"primary\"", before.answered + 10.0);
        assert_eq!(after.routed - before.routed, 10.0);
        assert!(after.seconds - before.seconds < 2.0, "{after:?}: what its client waits is no statement's time");
        assert_eq!(proxy.metric("trunkline_statements_total", "reason=\"transaction\""), 10.0);
    });
}

#[test]
fn each_statement_on_a_server_connection_of_ones_own_is_counted_and_timed_by_itself() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'session'");
        let mut client = proxy.client();
        for _ in 0..5 {
            client.batch_execute("select 1").unwrap();
        }
        thread::sleep(Duration::from_secs(3));
        client.batch_execute("select 2").unwrap();
        let told = Statements::when_answered(&proxy, "target=\"primary\"", 6.0);
        assert_eq!(told.routed, 6.0);
        assert!(told.seconds < 2.0, "{told:?}");
        assert_eq!(proxy.metric("trunkline_statements_total", "reason=\"session_mode\""), 6.0);
    });
}

#[test]
fn a_statement_on_a_server_connection_that_its_session_keeps_is_counted_with_what_keeps_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("listen news").unwrap();
        let count = |labels| proxy.metric("trunkline_statements_total", labels);
        let before = count("target=\"primary\",reason=\"pinned_listen\"");
        for _ in 0..3 {
            client.batch_execute("select 1").unwrap();
        }
        assert_eq!(count("target=\"primary\",reason=\"pinned_listen\"") - before, 3.0);
        assert_eq!(count("reason=\"read\""), 0.0, "it is none that a replica could have had");
    });
}

#[test]
fn what_comes_together_is_counted_one_by_one_and_what_is_only_prepared_is_not() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.ask(&[&query("select 1"), &query("select 2"), &query("selekt")], 3);
        let batch = [parse("", "select 3"), bind("", &[]), execute(), bind("", &[]), execute(), SYNC.to_vec()].concat();
        client.ask(&[&batch], 1);
        client.ask(&[&parse("named", "select 4"), SYNC], 1);
        client.query("begin");
        client.ask(&[&batch], 1);
        client.query("commit");
        let told = Statements::when_answered(&proxy, "", 9.0);
        assert_eq!(told.routed, 9.0);
    });
}

/// What the counters say of statements that went so.
#[derive(Debug)]
struct Statements {
    routed: f64,
    answered: f64,
    seconds: f64,
}

impl Statements {
    fn of(proxy: &Proxy, labels: &str) -> Self {
        Self {
            routed: proxy.metric("trunkline_statements_total", labels),
            answered: proxy.metric("trunkline_statement_duration_seconds_count", labels),
            seconds: proxy.metric("trunkline_statement_duration_seconds_sum", labels),
        }
    }

    /// As soon as so many are answered: that is counted when their server connection goes back.
    fn when_answered(proxy: &Proxy, labels: &str, wanted: f64) -> Self {
        eventually(&format!("{wanted} answers are counted"), Duration::from_secs(5), || {
            Self::of(proxy, labels).answered >= wanted
        });
        let told = Self::of(proxy, labels);
        assert_eq!(told.answered, wanted);
        told
    }
}

/// The first column of the last row of all that a simple query answers.
fn last_value(client: &mut postgres::Client, sql: &str) -> String {
    let messages = client.simple_query(sql).unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    rows.last().unwrap().to_owned()
}
