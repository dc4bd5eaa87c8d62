//! What a session asks of Trunkline itself: notices, consistency, its position.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::fixture::{Proxy, cluster, console, eventually, limited, server_port};
use crate::raw::{RawClient, query};

const SOON: Duration = Duration::from_secs(10);

/// A client, and the notices that it is sent.
fn listening(proxy: &Proxy) -> (Client, Arc<Mutex<Vec<String>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&notices);
    let mut config = proxy.client_config();
    config.notice_callback(move |notice| heard.lock().unwrap().push(notice.message().to_owned()));
    (config.connect(NoTls).unwrap(), notices)
}

fn shown(client: &mut Client, name: &str) -> String {
    client.query_one(&format!("show trunkline.{name}"), &[]).unwrap().get(0)
}

#[test]
fn notices_tell_where_each_statement_went_and_why() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let (mut client, notices) = listening(&proxy);
        client.simple_query("select 1").unwrap();
        assert!(notices.lock().unwrap().is_empty());
        client.batch_execute("set trunkline.notice_route = on").unwrap();
        let port = server_port(&mut client, "select inet_server_port()");
        let told = |words: &str| notices.lock().unwrap().iter().any(|notice| notice.contains(words));
        eventually("it is told of the read", SOON, || {
            client.simple_query("select 1").unwrap();
            told(&format!("routed to replica 127.0.0.1:{port}: read"))
        });
        client.batch_execute("create table t (a int)").unwrap();
        client.batch_execute("begin; select 1").unwrap();
        client.simple_query("select 2").unwrap();
        client.batch_execute("commit").unwrap();
        let primary = cluster.node(0).port();
        assert!(told(&format!("routed to primary 127.0.0.1:{primary}: changes_schema")), "{notices:?}");
        assert!(told(&format!("routed to primary 127.0.0.1:{primary}: transaction")), "{notices:?}");
        client.batch_execute("set trunkline.notice_route = off").unwrap();
        notices.lock().unwrap().clear();
        client.simple_query("select 3").unwrap();
        assert!(notices.lock().unwrap().is_empty(), "{notices:?}");
    });
}

/// The client reads nothing until the row fills all buffers, and asks for more meanwhile.
#[test]
fn a_notice_does_not_come_in_the_middle_of_a_row() {
    const LENGTH: usize = 30_000_000;
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("set trunkline.notice_route = on");
        client.send(&[&query(&format!("select repeat('x', {LENGTH})"))]);
        thread::sleep(Duration::from_millis(500));
        client.send(&[&query("select 7")]);
        let mut told = client.until(b'Z');
        told.extend(client.until(b'Z'));
        let rows: Vec<usize> = told.iter().filter_map(|words| words.strip_prefix("row ")).map(str::len).collect();
        assert_eq!(rows, [LENGTH, 1]);
        assert_eq!(told.iter().filter(|words| words.starts_with("00000 routed to ")).count(), 2);
    });
}

#[test]
fn a_position_carries_a_write_to_another_session_of_another_trunkline() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let (one, other) = (Proxy::start(&cluster, ""), Proxy::start(&cluster, ""));
        let (mut writer, mut reader) = (one.client(), other.client());
        reader.simple_query("select 1").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        writer.batch_execute("insert into t values (1)").unwrap();
        let position = shown(&mut writer, "position");
        assert!(position.starts_with("1:0/"), "{position}");
        let count = |client: &mut Client| -> i64 { client.query_one("select count(*) from t", &[]).unwrap().get(0) };
        let mut stale = other.client();
        eventually("another session may read what was before", SOON, || count(&mut stale) == 0);
        reader.batch_execute(&format!("set trunkline.position = '{position}'")).unwrap();
        assert_eq!(count(&mut reader), 1);
        for _ in 0..5 {
            assert_eq!(count(&mut reader), 1);
            assert_eq!(shown(&mut reader, "position"), position, "it must still be seen");
        }
        cluster.nodes()[1..].iter().for_each(|replica| replica.resume_replay().unwrap());
        let primary = cluster.node(0).port();
        eventually("its reads are back on replicas", SOON, || {
            server_port(&mut reader, "select inet_server_port() from t") != primary
        });
    });
}

#[test]
fn a_position_of_a_later_timeline_than_the_clusters_is_waited_for_once_and_ends_its_session() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '300ms'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("set trunkline.position = '4:0/1'");
        client.send(&[&query("select 1"), &query("insert into t values (1)")]);
        let told = client.until_end();
        let words = "the session's trunkline.position is of timeline 4, and the primary is on timeline 1";
        assert!(matches!(&*told, [told] if told.starts_with("57P03") && told.contains(words)), "{told:?}");
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "0", "what stands behind it has not run");
        assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
        // One that came with it is told in the same way, and what to leave out.
        let mut client = RawClient::connect(proxy.port(), &[("options", "-c trunkline.position=4:0/1")]);
        client.send(&[&query("select 1"), &query("insert into t values (1)")]);
        let told = client.until_end();
        let is_told = |told: &String| told.starts_with("57P03") && told.contains(words) && told.contains("options");
        assert!(matches!(&*told, [told] if is_told(told)), "{told:?}");
    });
}

#[test]
fn a_session_that_keeps_its_server_connection_is_told_its_present_position() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let other = Proxy::start(&cluster, "");
        let count = |client: &mut Client| -> i64 { client.query_one("select count(*) from t", &[]).unwrap().get(0) };
        let kept = [("[pool]\nmode = 'session'", "show trunkline.position"), ("", "listen x")];
        for (written, (settings, begins)) in (1..).zip(kept) {
            let one = Proxy::start(&cluster, settings);
            let mut writer = one.client();
            writer.simple_query(begins).unwrap();
            let before = shown(&mut writer, "position");
            cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
            cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
            writer.batch_execute("insert into t values (1)").unwrap();
            let position = shown(&mut writer, "position");
            assert!(position.starts_with("1:0/") && position != before, "{begins}: {position} behind {before}");
            let mut reader = other.client();
            reader.batch_execute(&format!("set trunkline.position = '{position}'")).unwrap();
            assert_eq!(count(&mut reader), written, "{begins}");
            cluster.nodes()[1..].iter().for_each(|replica| replica.resume_replay().unwrap());
            // What it has set on its server connection counts, and is not put over.
            writer.batch_execute("set trunkline.consistency = strong").unwrap();
            assert_eq!(shown(&mut writer, "consistency"), "strong", "{begins}");
            writer.batch_execute("reset trunkline.consistency").unwrap();
            assert_eq!(shown(&mut writer, "consistency"), "session", "{begins}");
            // And nobody else meets what it was shown.
            writer.batch_execute("unlisten *").unwrap();
            drop(writer);
            let mut next = one.client();
            let left: Option<String> =
                next.query_one("select current_setting('trunkline.' || 'position', true)", &[]).unwrap().get(0);
            assert_eq!(left.unwrap_or_default(), "", "{begins}");
        }
    });
}

#[test]
fn what_was_shown_before_a_reload_is_no_wish_behind_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']\n[routing]\nconsistency = 'session'");
        let mut client = proxy.client();
        client.batch_execute("listen x").unwrap();
        assert_eq!(shown(&mut client, "consistency"), "session");
        proxy.rewrite(|file| {
            file["routing"].as_table_mut().unwrap().insert("consistency".to_owned(), "strong".into());
        });
        console(&proxy).simple_query("RELOAD").unwrap();
        client.batch_execute("begin; set trunkline.consistency = eventual; rollback").unwrap();
        assert_eq!(shown(&mut client, "consistency"), "strong");
        client.batch_execute("set trunkline.consistency = session").unwrap();
        assert_eq!(shown(&mut client, "consistency"), "session");
    });
}

#[test]
fn whoever_waits_for_its_position_can_cancel_that() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '30s'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("insert into t values (1)");
        assert!(client.query("show trunkline.position")[1].starts_with("row 1:0/"));
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        cluster.node(0).freeze().unwrap();
        // Of an earlier history: where that is in the present one, only the primary tells.
        assert_eq!(client.query("set trunkline.position = '0:0/1'"), ["SET", "I"]);
        let (cancel, begun) = (client.canceller(), Instant::now());
        let cancelling = thread::spawn(move || {
            thread::sleep(Duration::from_millis(500));
            cancel();
        });
        let told = client.query("show trunkline.position");
        assert_eq!(told, ["57014 canceling statement due to user request", "I"]);
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        cancelling.join().unwrap();
        cluster.node(0).thaw().unwrap();
    });
}

#[test]
fn a_session_asks_for_another_consistency_and_is_warned_of_what_is_none() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let (mut client, notices) = listening(&proxy);
        assert_eq!(shown(&mut client, "consistency"), "session");
        assert_eq!(shown(&mut client, "notice_route"), "off");
        let mut writer = proxy.client();
        writer.batch_execute("create table t (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        let count = |client: &mut Client| -> i64 { client.query_one("select count(*) from t", &[]).unwrap().get(0) };
        writer.batch_execute("insert into t values (1)").unwrap();
        client.batch_execute("set trunkline.consistency = strong").unwrap();
        assert_eq!(count(&mut client), 1, "another's write");
        assert_eq!(shown(&mut client, "consistency"), "strong");
        client.batch_execute("set trunkline.consistency = eventual").unwrap();
        eventually("it reads from a replica", SOON, || count(&mut client) == 0);
        client.batch_execute("reset trunkline.consistency").unwrap();
        client.batch_execute("set trunkline.consistency = lazy").unwrap();
        client.batch_execute("set trunkline.nonsense = 1").unwrap();
        client.batch_execute("begin; set local trunkline.notice_route = on; commit").unwrap();
        client.simple_query("select 1").unwrap();
        let heard = notices.lock().unwrap().join(" ");
        assert!(heard.contains("expected eventual, session or strong"), "{heard}");
        assert!(heard.contains("no setting trunkline.nonsense"), "{heard}");
        assert!(heard.contains("trunkline.notice_route has no effect by SET LOCAL"), "{heard}");
        cluster.nodes()[1..].iter().for_each(|replica| replica.resume_replay().unwrap());
    });
}
