//! Clients that have said nothing for a while are parked: nobody notices, and everybody is reached still.

use std::thread;
use std::time::{Duration, Instant};

use postgres::SimpleQueryMessage;

use crate::fixture::{Proxy, cluster, console, eventually, limited, shown};
use crate::raw::{RawClient, SYNC, bind, cancel, execute, parse};

const SOON: Duration = Duration::from_secs(10);

const OPEN: &str = "[admin]\nusers = ['bench']";

fn are_parked(proxy: &Proxy, count: f64) {
    eventually("they are parked", SOON, || proxy.metric("trunkline_parked_clients", "") == count);
}

#[test]
fn a_client_that_was_parked_goes_on_as_it_was() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int); create role other; grant other to bench").unwrap();
        cluster.node(0).sql("grant all on t to other").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut plain = proxy.client();
        let mut changed = proxy.client();
        changed.batch_execute("set work_mem = '7MB'; set search_path = pg_catalog, public; set role other").unwrap();
        changed.batch_execute("prepare by_sql as select 'by sql', $1::int").unwrap();
        let mut preparing = proxy.client();
        let read = preparing.prepare("select count(*) from t where a >= $1::int").unwrap();
        let mut unnamed = RawClient::connect(proxy.port(), &[]);
        unnamed.ask(&[&parse("", "select 'unnamed'"), SYNC], 1);
        for round in 1..=2 {
            are_parked(&proxy, 4.0);
            assert_eq!(plain.query_one("select 1", &[]).unwrap().get::<_, i32>(0), 1);
            preparing.execute("insert into t values ($1)", &[&round]).unwrap();
            let seen: i64 = preparing.query_one(&read, &[&0]).unwrap().get(0);
            assert_eq!(seen, i64::from(round), "its own write");
            let settings = ["work_mem", "search_path", "role"].map(|name| shown(&mut changed, name));
            assert_eq!(settings, ["7MB", "pg_catalog, public", "other"]);
            let by_sql = changed.simple_query("execute by_sql (1)").unwrap();
            assert!(
                by_sql.iter().any(|said| matches!(said, SimpleQueryMessage::Row(row) if row.get(0) == Some("by sql")))
            );
            let answer = unnamed.ask(&[&bind("", &[]), &execute(), SYNC], 1);
            assert!(answer.contains(&"row unnamed".to_owned()), "{answer:?}");
        }
    });
}

#[test]
fn a_parked_client_sees_what_it_wrote_before() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut client = proxy.client();
        for replica in &cluster.nodes()[1..] {
            replica.sql("select pg_wal_replay_pause()").unwrap();
        }
        client.batch_execute("insert into t values (1)").unwrap();
        are_parked(&proxy, 1.0);
        let seen: i64 = client.query_one("select count(*) from t", &[]).unwrap().get(0);
        assert_eq!(seen, 1);
        for replica in &cluster.nodes()[1..] {
            replica.sql("select pg_wal_replay_resume()").unwrap();
        }
    });
}

#[test]
fn a_parked_client_is_ended_when_its_time_is_over() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\nclient_idle_timeout = '4s'");
        let mut forgotten = RawClient::connect(proxy.port(), &[]);
        are_parked(&proxy, 1.0);
        assert_eq!(forgotten.until(b'E'), ["57P05 terminating connection due to idle-session timeout"]);
        assert_eq!(proxy.metric("trunkline_parked_clients", ""), 0.0);
    });
}

#[test]
fn parked_clients_are_shown_killed_and_seen_leaving() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut killed = proxy.client();
        let leaving = proxy.client();
        let mut cancelled = RawClient::connect(proxy.port(), &[]);
        are_parked(&proxy, 3.0);
        assert_eq!(proxy.metric("trunkline_clients", ""), 4.0);
        let shown = console.simple_query("show clients").unwrap();
        let is_idle = |said: &&SimpleQueryMessage| match said {
            SimpleQueryMessage::Row(row) => (row.get("database"), row.get("state")) == (Some("bench"), Some("idle")),
            _ => false,
        };
        assert_eq!(shown.iter().filter(is_idle).count(), 3);
        drop(leaving);
        eventually("one has left", SOON, || proxy.metric("trunkline_clients", "") == 3.0);
        cancel(proxy.port(), cancelled.key());
        assert!(cancelled.query("select 'not cancelled'").contains(&"row not cancelled".to_owned()));
        are_parked(&proxy, 2.0);
        console.simple_query("KILL bench").unwrap();
        assert!(killed.simple_query("select 1").is_err());
        eventually("nobody is left but the console", SOON, || {
            proxy.metric("trunkline_clients", "") == 1.0 && proxy.metric("trunkline_parked_clients", "") == 0.0
        });
    });
}

#[test]
fn parked_clients_follow_a_reload_and_are_told_of_the_end() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut first = proxy.client();
        let mut last = RawClient::connect(proxy.port(), &[]);
        are_parked(&proxy, 2.0);
        console.simple_query("RELOAD").unwrap();
        first.simple_query("select 1").unwrap();
        are_parked(&proxy, 2.0);
        proxy.signal("TERM");
        let told = last.until(b'E');
        assert_eq!(told, ["57P01 terminating connection due to administrator command"]);
        assert!(first.simple_query("select 1").is_err());
    });
}

#[test]
fn a_client_that_speaks_every_second_is_left_alone_after_the_second_time() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let mut times_parked = 0;
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            let spoken = Instant::now();
            client.simple_query("select 1").unwrap();
            while spoken.elapsed() < Duration::from_millis(1200) {
                thread::sleep(Duration::from_millis(50));
                if proxy.metric("trunkline_parked_clients", "") == 1.0 {
                    times_parked += 1;
                    break;
                }
            }
            thread::sleep(Duration::from_millis(1200).saturating_sub(spoken.elapsed()));
        }
        assert_eq!(times_parked, 2);
    });
}
