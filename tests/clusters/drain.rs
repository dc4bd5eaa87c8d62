//! How Trunkline stops: who is told what, who goes on until when, and that it ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use postgres::{NoTls, SimpleQueryMessage};

use crate::fixture::{Proxy, cluster, console, eventually, limited, login};
use crate::raw::{FLUSH, RawClient, TERMINATE, cancel, describe, parse, query, startup_packet};

const SOON: Duration = Duration::from_secs(10);

const OPEN: &str = "[admin]\nusers = ['bench']";

/// What a client is told that is sent away.
const GONE: &str = "57P01 terminating connection due to administrator command";

fn has_ended(proxy: &Proxy) -> bool {
    TcpStream::connect(("127.0.0.1", proxy.port())).is_err()
}

/// Waits until new clients are refused; others must be there, or it ends.
fn refuses_new_clients(proxy: &Proxy) {
    eventually("new clients are refused", SOON, || {
        let Some(refused) = proxy.client_config().connect(NoTls).err() else { return false };
        let told = refused.as_db_error().unwrap();
        assert_eq!((told.code().code(), told.message()), ("57P03", "the database system is shutting down"));
        true
    });
}

#[test]
fn a_stopping_trunkline_refuses_new_clients_but_cancels_and_opens_its_console() {
    limited(|| {
        for way in ["SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"] {
            let cluster = cluster();
            let proxy = Proxy::start(&cluster, OPEN);
            let mut busy = RawClient::connect(proxy.port(), &[]);
            busy.query("begin");
            busy.send(&[&query("select pg_sleep(50)")]);
            console(&proxy).simple_query(way).unwrap();
            refuses_new_clients(&proxy);
            let parameters = [("user", "bench"), ("database", "bench"), ("replication", "true")];
            let (_, told) = RawClient::begin(proxy.port(), &startup_packet(0, &parameters));
            let [(b'E', error)] = &*told else { panic!("{told:?}") };
            assert!(String::from_utf8_lossy(error).contains("57P03"), "{way}: {error:?}");
            assert!(proxy.metric("trunkline_clients_refused_total", "draining") >= 2.0, "{way}");
            cancel(proxy.port(), busy.key());
            let told = busy.until(b'Z');
            assert!(told.iter().any(|words| words.starts_with("57014")), "{way}: {told:?}");
            // It may be gone before its answer is heard.
            let _ = console(&proxy).simple_query("SHUTDOWN");
            eventually("it has ended", SOON, || has_ended(&proxy));
        }
    });
}

#[test]
fn an_order_at_the_console_is_obeyed_though_whoever_gave_it_leaves_at_once() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = RawClient::console(proxy.port());
        console.send(&[&query("SHUTDOWN"), b"X\0\0\0\x04"]);
        eventually("it has ended", SOON, || has_ended(&proxy));
    });
}

#[test]
fn idle_clients_that_hold_their_server_connection_are_told_at_once() {
    limited(|| {
        for mode in ["transaction", "session"] {
            let cluster = cluster();
            let proxy = Proxy::start(&cluster, &format!("[pool]\nmode = '{mode}'"));
            let connect = |()| RawClient::connect(proxy.port(), &[]);
            let [mut listens, mut keeps, mut open, mut reads, mut prepares] = [(); 5].map(connect);
            listens.query("listen news");
            keeps.query("create temp table kept (a int)");
            open.query("listen news");
            open.query("begin");
            prepares.send(&[&parse("a", "select 7"), &describe("a"), FLUSH]); // as asyncpg does
            prepares.until(b'T');
            reads.query("listen news");
            reads.send(&[&query("select repeat('x', 1000) from generate_series(1, 20000)")]);
            std::thread::sleep(Duration::from_millis(300));
            let begun = Instant::now();
            proxy.signal("TERM");
            assert_eq!(listens.until_end(), [GONE], "{mode}");
            assert_eq!(keeps.until_end(), [GONE], "{mode}");
            assert_eq!(prepares.until_end(), [GONE], "{mode}");
            assert!(begun.elapsed() < Duration::from_secs(5), "{mode}: {:?}", begun.elapsed());
            let told = reads.until_end();
            assert_eq!(told.iter().filter(|words| words.starts_with("row x")).count(), 20_000, "{mode}");
            assert_eq!(told.iter().rev().take(2).rev().collect::<Vec<_>>(), ["I", GONE], "{mode}: its answer is whole");
            assert_eq!(open.query("select 1")[1], "row 1", "{mode}");
            open.send(&[&query("commit")]);
            assert_eq!(open.until_end(), ["COMMIT", "I", GONE], "{mode}");
            eventually("it has ended", SOON, || has_ended(&proxy));
        }
    });
}

#[test]
fn who_waits_for_resume_holds_up_no_stop() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada login password 'ada'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[[user]]\nname = 'ada'\npassword = 'ada'"));
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("select 1");
        let mut console = console(&proxy);
        console.simple_query("PAUSE bench").unwrap();
        client.send(&[&query("select 2")]);
        let ada = login(proxy.port(), "ada", "ada");
        let logs_in = std::thread::spawn(move || ada.connect(NoTls).map(drop));
        eventually("both wait", SOON, || {
            let clients = console.simple_query("show clients").unwrap();
            let waits = |message: &&SimpleQueryMessage| matches!(message, SimpleQueryMessage::Row(row) if row.get("state") == Some("waiting"));
            clients.iter().filter(waits).count() == 2
        });
        let begun = Instant::now();
        proxy.signal("TERM");
        assert_eq!(client.until_end(), [GONE]);
        let told = logs_in.join().unwrap().unwrap_err();
        let told = told.as_db_error().unwrap();
        assert_eq!(format!("{} {}", told.code().code(), told.message()), GONE);
        eventually("it has ended", SOON, || has_ended(&proxy));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    });
}

#[test]
fn whoever_is_left_at_the_end_of_a_drain_is_told() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\ndrain_timeout = '500ms'");
        let [mut open, mut busy] = [(); 2].map(|()| RawClient::connect(proxy.port(), &[]));
        open.query("begin");
        busy.send(&[&query("select pg_sleep(50)")]);
        std::thread::sleep(Duration::from_millis(200));
        proxy.signal("TERM");
        assert_eq!(open.until_end(), [GONE]);
        assert_eq!(busy.until_end(), [GONE]);
        eventually("it has ended", SOON, || has_ended(&proxy));
    });
}

#[test]
fn who_is_sent_away_in_the_midst_of_an_answer_does_not_take_the_words_for_a_part_of_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\ndrain_timeout = '200ms'");
        let mut reads = RawClient::connect(proxy.port(), &[]);
        // More than sockets and buffers hold, so that it stops somewhere within a row.
        reads.send(&[&query("select repeat('x', 1000000) from generate_series(1, 50)")]);
        std::thread::sleep(Duration::from_millis(500));
        proxy.signal("TERM");
        eventually("it has ended", SOON, || has_ended(&proxy));
        let told = reads.until_end();
        let are_whole = |words: &String| {
            words == "T" || words.strip_prefix("row ").is_some_and(|row| row.bytes().all(|b| b == b'x'))
        };
        assert!(told.len() < 50 && told.iter().all(are_whole), "{:?}", told.last());
        assert!(!String::from_utf8_lossy(reads.unread()).contains("57P01"), "within a row");
    });
}

#[test]
fn nobody_waits_for_clients_of_the_console() {
    limited(|| {
        for way in ["SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"] {
            let cluster = cluster();
            let proxy = Proxy::start(&cluster, OPEN);
            let client = proxy.client();
            // A driver may lose an answer that the end of its connection stands right behind.
            let mut console = RawClient::console(proxy.port());
            assert_eq!(console.query(way), ["SHUTDOWN", "I"]);
            drop(client);
            assert_eq!(console.until_end(), [GONE], "{way}");
            eventually("it has ended", SOON, || has_ended(&proxy));
        }
    });
}

#[test]
fn who_is_at_the_console_is_told_when_it_comes_to_its_end() {
    limited(|| {
        let cluster = cluster();
        for way in ["SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS", "TERM"] {
            let proxy = Proxy::start(&cluster, OPEN);
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("begin");
            let [mut console, mut other] = [(); 2].map(|()| RawClient::console(proxy.port()));
            match way {
                "TERM" => proxy.signal(way),
                way => assert_eq!(console.query(way), ["SHUTDOWN", "I"]),
            }
            refuses_new_clients(&proxy);
            assert!(other.query("SHOW VERSION").contains(&"SHOW".to_owned()), "{way}: it is open until then");
            client.send(&[&query("rollback"), TERMINATE]);
            assert_eq!(console.until_end(), [GONE], "{way}");
            assert_eq!(other.until_end(), [GONE], "{way}");
            eventually("it has ended", SOON, || has_ended(&proxy));
        }
    });
}

#[test]
fn nobody_waits_for_connections_that_have_said_nothing_and_for_those_that_are_being_refused() {
    limited(|| {
        for way in ["SHUTDOWN WAIT_FOR_CLIENTS", "SHUTDOWN WAIT_FOR_SERVERS"] {
            let cluster = cluster();
            let proxy = Proxy::start(&cluster, OPEN);
            let client = proxy.client();
            let _silent = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
            console(&proxy).simple_query(way).unwrap();
            refuses_new_clients(&proxy);
            // Somebody always comes.
            let port = proxy.port();
            let newcomers = [(); 4].map(|()| {
                std::thread::spawn(move || {
                    while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
                        // It may end in the middle.
                        let _ = stream.write_all(&startup_packet(0, &[("user", "bench"), ("database", "bench")]));
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                })
            });
            drop(client);
            eventually(way, SOON, || newcomers.iter().all(|newcomers| newcomers.is_finished()));
        }
    });
}

#[test]
fn a_stronger_way_to_stop_takes_the_place_of_a_weaker_one_and_not_the_other_way_round() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut idle = RawClient::connect(proxy.port(), &[]);
        let mut open = RawClient::connect(proxy.port(), &[]);
        open.query("begin");
        let mut console = console(&proxy);
        console.simple_query("SHUTDOWN WAIT_FOR_CLIENTS").unwrap();
        refuses_new_clients(&proxy);
        assert_eq!(idle.query("select 1")[1], "row 1", "it is waited for");
        proxy.signal("TERM");
        assert_eq!(idle.until_end(), [GONE]);
        console.simple_query("SHUTDOWN WAIT_FOR_CLIENTS").unwrap();
        proxy.signal("TERM");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(open.query("select 1")[1], "row 1", "its transaction goes on");
        // It may be gone before its answer is heard.
        let _ = console.simple_query("SHUTDOWN");
        eventually("it has ended", SOON, || has_ended(&proxy));
    });
}

#[test]
fn sigint_and_sigquit_stop_at_once_and_in_order() {
    limited(|| {
        let cluster = cluster();
        for name in ["INT", "QUIT"] {
            let proxy = Proxy::start(&cluster, "");
            let mut open = RawClient::connect(proxy.port(), &[]);
            open.query("begin");
            proxy.signal(name);
            eventually("it has ended", SOON, || has_ended(&proxy));
            eventually("it has said so", SOON, || proxy.log().contains("trunkline stops"));
        }
    });
}
