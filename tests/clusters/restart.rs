//! An online restart: SIGUSR2 starts a successor, and no client notices.

use std::collections::HashMap;
use std::fs;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use postgres::{Client, SimpleQueryMessage};

use crate::fixture::{Proxy, cluster, console, eventually, limited, signalled};
use crate::hostile::limit_descriptors;
use crate::raw::{RawClient, query};

const SOON: Duration = Duration::from_secs(20);

/// A process that is nobody's child; killed when dropped.
pub(crate) struct Process(pub(crate) u32);

impl Drop for Process {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

impl Process {
    pub(crate) fn signal(&self, name: &str) {
        // One that is gone gets none.
        let _ = signalled(self.0, name);
    }

    pub(crate) fn has_ended(&self) -> bool {
        has_ended(self.0)
    }
}

/// One that has ended may wait for whoever is to hear of it.
fn has_ended(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat"))
        .map_or(true, |stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// SIGUSR2 to this process, and what takes over from it.
fn succeeded(proxy: &Proxy, process: u32) -> Process {
    let before = successors(proxy).len();
    assert!(signalled(process, "USR2"));
    eventually("it has a successor", SOON, || successors(proxy).len() > before);
    Process(*successors(proxy).last().unwrap())
}

fn successors(proxy: &Proxy) -> Vec<u32> {
    let log = proxy.log();
    let numbers = log.lines().filter_map(|line| line.split("successor=").nth(1));
    numbers.map(|number| number.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// Cancels what this client runs, once it runs on the primary.
fn is_cancelled(cluster: &trunkline::demo::cluster::Cluster, client: &mut RawClient) {
    client.send(&[&query("begin; select pg_sleep(60)")]);
    eventually("it runs", SOON, || {
        let sql = "select count(*) from pg_stat_activity where query like '%pg_sleep(60)' and state = 'active'";
        cluster.node(0).sql(sql).unwrap().trim() == "1"
    });
    client.canceller()();
    let told = client.until(b'Z');
    assert!(told.iter().any(|told| told.starts_with("57014")), "{told:?}");
    client.query("rollback");
}

#[test]
fn a_restart_is_noticed_by_nobody_and_what_is_meant_for_the_old_process_gets_there() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        cluster.node(0).sql("create table kept (a int)").unwrap();
        let port = proxy.port();
        let (stopped, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let connecting = thread::spawn({
            let (stopped, connected) = (Arc::clone(&stopped), Arc::clone(&connected));
            move || {
                while !stopped.load(Ordering::Relaxed) {
                    assert!(RawClient::connect(port, &[]).query("select 1").contains(&"row 1".to_owned()));
                    connected.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let some_more = || {
            let before = connected.load(Ordering::Relaxed);
            eventually("others connect", SOON, || connected.load(Ordering::Relaxed) > before + 10);
        };
        let mut old = RawClient::connect(port, &[]);
        let mut idle = RawClient::connect(port, &[("application_name", "idle")]);
        old.query("create temp table mine (a int); begin; insert into kept values (1)");
        some_more();
        let second = succeeded(&proxy, proxy.pid());
        some_more();
        assert_eq!(old.query("commit")[0], "COMMIT");
        assert!(old.query("insert into mine values (7) returning a").contains(&"row 7".to_owned()));
        is_cancelled(&cluster, &mut idle);
        let mut young = RawClient::connect(port, &[]);
        young.query("begin");
        let third = succeeded(&proxy, second.0);
        some_more();
        assert!(old.query("select a from mine").contains(&"row 7".to_owned()));
        is_cancelled(&cluster, &mut idle);
        is_cancelled(&cluster, &mut RawClient::connect(port, &[]));
        assert!(proxy.page("/metrics").contains("trunkline_"));
        assert!(young.query("select count(*) from kept").contains(&"row 1".to_owned()));
        drop((old, young));
        thread::sleep(Duration::from_secs(2));
        assert!(!has_ended(proxy.pid()) && !second.has_ended(), "the first has a client, and the second the first");
        drop(idle);
        eventually("the first has ended", SOON, || has_ended(proxy.pid()));
        eventually("the second has ended", SOON, || second.has_ended());
        some_more();
        stopped.store(true, Ordering::Relaxed);
        connecting.join().unwrap();
        third.signal("TERM");
        eventually("the third stops", SOON, || third.has_ended());
    });
}

/// What SHOW STATE has for this.
fn state(console: &mut Client, key: &str) -> String {
    let state = console.simple_query("show state").unwrap();
    let rows = state.iter().filter_map(|told| match told {
        SimpleQueryMessage::Row(row) => Some((row.get("key")?.to_owned(), row.get("value")?.to_owned())),
        _ => None,
    });
    rows.collect::<HashMap<_, _>>().remove(key).unwrap()
}

#[test]
fn a_console_session_of_before_commands_nothing_while_another_process_serves() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let mut old = console(&proxy);
        assert_eq!(state(&mut old, "succeeded"), "no");
        let second = succeeded(&proxy, proxy.pid());
        assert_eq!(state(&mut old, "succeeded"), "yes");
        let mut young = console(&proxy);
        assert_eq!((&*state(&mut young, "succeeded"), &*state(&mut young, "predecessor")), ("no", "yes"));
        for command in ["PAUSE", "KILL bench", "RECONNECT", "DISABLE bench", "RELOAD", "SWITCHOVER", "FORGET SHAPES"] {
            let refused = old.simple_query(command).unwrap_err();
            let told = refused.as_db_error().unwrap();
            assert_eq!(told.code().code(), "55000", "{command}");
            assert_eq!(told.message(), "another process serves now; connect anew", "{command}");
        }
        assert!(client.query("select 1").contains(&"row 1".to_owned()), "nothing was done");
        let refused = old.simple_query("KILL_CLIENT 4000000").unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42704", "only here its clients are known");
        young.simple_query("RECONNECT").unwrap();
        drop(second);
        eventually("it is known", SOON, || state(&mut old, "succeeded") == "no");
        old.simple_query("PAUSE; RESUME").expect("this process serves again");
        eventually("somebody listens", SOON, || TcpStream::connect(("127.0.0.1", proxy.port())).is_ok());
        let _third = succeeded(&proxy, proxy.pid());
        // It may be gone before its answer is heard.
        let _ = old.simple_query("SHUTDOWN");
        eventually("the first has ended", SOON, || has_ended(proxy.pid()));
        assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
    });
}

#[test]
fn while_the_old_process_is_there_the_new_one_says_so() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']");
        let predecessors = || proxy.metric("trunkline_predecessor", "");
        let shown = || state(&mut console(&proxy), "predecessor");
        assert_eq!((predecessors(), &*shown()), (0.0, "no"));
        let client = RawClient::connect(proxy.port(), &[]);
        let _second = succeeded(&proxy, proxy.pid());
        let told = format!("predecessor={} clients=1", proxy.pid());
        assert!(proxy.log().contains(&told), "{}", proxy.log());
        assert_eq!((predecessors(), &*shown()), (1.0, "yes"));
        drop(client);
        eventually("the first has ended", SOON, || has_ended(proxy.pid()));
        eventually("it is known", SOON, || predecessors() == 0.0);
        assert_eq!(shown(), "no");
    });
}

#[test]
fn without_a_successor_all_goes_on() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let good = fs::read_to_string(proxy.config_path()).unwrap();
        let mut client = RawClient::connect(proxy.port(), &[]);
        fs::write(proxy.config_path(), format!("no_such_setting = 1\n{good}")).unwrap();
        proxy.signal("USR2");
        eventually("it has ended", SOON, || proxy.log().contains("there is no successor"));
        assert!(proxy.log().contains("no_such_setting"), "{}", proxy.log());
        assert!(client.query("select 1").contains(&"row 1".to_owned()));
        assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
        fs::write(proxy.config_path(), good).unwrap();
        let _second = succeeded(&proxy, proxy.pid());
        assert!(client.query("select 1").contains(&"row 1".to_owned()));
    });
}

#[test]
fn where_the_successor_dies_clients_come_in_again() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        for number in 1..=2 {
            drop(succeeded(&proxy, proxy.pid()));
            eventually("it is known", SOON, || proxy.log().matches("the successor has died").count() == number);
            eventually("somebody listens", SOON, || TcpStream::connect(("127.0.0.1", proxy.port())).is_ok());
            assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
            assert!(proxy.page("/metrics").contains("trunkline_"));
            assert!(client.query("select 1").contains(&"row 1".to_owned()));
        }
        let second = succeeded(&proxy, proxy.pid());
        drop(client);
        eventually("the first has ended", SOON, || has_ended(proxy.pid()));
        assert!(!second.has_ended());
    });
}

#[test]
fn who_is_told_to_stop_has_no_successor() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut busy = RawClient::connect(proxy.port(), &[]);
        busy.query("begin");
        proxy.signal("TERM");
        eventually("it drains", SOON, || proxy.log().contains("draining"));
        proxy.signal("USR2");
        eventually("it is refused", SOON, || proxy.log().contains("this process stops"));
        assert_eq!(busy.query("commit")[0], "COMMIT");
        eventually("it has ended", SOON, || has_ended(proxy.pid()));
        assert!(TcpStream::connect(("127.0.0.1", proxy.port())).is_err());
    });
}

#[test]
fn what_operators_have_said_is_not_forgotten_by_a_restart() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']").with_both_replicas(&cluster);
        let replica = cluster.node(1).address();
        let mut console = console(&proxy);
        for (number, (said, taken_back)) in [
            ("pause", "resume".to_owned()),
            ("disable bench", "enable bench".to_owned()),
            (&*format!("drain {replica}"), format!("attach {replica}")),
        ]
        .into_iter()
        .enumerate()
        {
            console.simple_query(said).unwrap();
            proxy.signal("USR2");
            eventually("it is refused", SOON, || {
                proxy.log().matches("which a successor would not know").count() > number
            });
            console.simple_query(&taken_back).unwrap();
        }
        let _second = succeeded(&proxy, proxy.pid());
    });
}

#[test]
fn databases_that_are_resumed_one_by_one_are_not_paused_and_keep_nobody_from_a_restart() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database second").unwrap();
        let second = "[admin]\nusers = ['bench']\n[[database]]\nname = 'second'\ncluster = 'main'";
        let proxy = Proxy::start(&cluster, second);
        let mut console = console(&proxy);
        let mut shown = || (state(&mut console, "active"), state(&mut console, "paused"));
        let words = |active: &str, paused: &str| (active.to_owned(), paused.to_owned());
        let say = |command: &str| {
            let mut console = crate::fixture::console(&proxy);
            console.simple_query(command).unwrap();
        };
        assert_eq!(shown(), words("yes", "no"));
        say("PAUSE");
        assert_eq!(shown(), words("no", "yes"));
        say("RESUME bench");
        assert_eq!(shown(), words("no", "no"), "one of them is still paused");
        say("RESUME second");
        assert_eq!(shown(), words("yes", "no"));
        let _second = succeeded(&proxy, proxy.pid());
    });
}

#[test]
fn what_was_written_through_one_process_is_read_through_the_other() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut old = RawClient::connect(proxy.port(), &[]);
        let _second = succeeded(&proxy, proxy.pid());
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        for written in 1..=3 {
            old.query("insert into t values (1)");
            let told = RawClient::connect(proxy.port(), &[]).query("select count(*) from t");
            assert!(told.contains(&format!("row {written}")), "{told:?}");
        }
        cluster.nodes()[1..].iter().for_each(|replica| replica.resume_replay().unwrap());
    });
}

#[test]
fn who_stops_the_successor_stops_its_predecessor_too() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut idle = RawClient::connect(proxy.port(), &[]);
        let mut busy = RawClient::connect(proxy.port(), &[]);
        busy.query("begin");
        let second = succeeded(&proxy, proxy.pid());
        second.signal("TERM");
        assert!(idle.until_end()[0].starts_with("57P01"));
        thread::sleep(Duration::from_secs(1));
        assert!(!second.has_ended(), "a transaction is open");
        assert_eq!(busy.query("commit")[0], "COMMIT");
        eventually("both have ended", SOON, || second.has_ended() && has_ended(proxy.pid()));
    });
}

/// Not one can be opened: it has the first three in any case.
#[test]
fn where_the_successor_dies_while_descriptors_are_short_clients_come_in_again_later() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let second = succeeded(&proxy, proxy.pid());
        limit_descriptors(&proxy, 3);
        drop(second);
        eventually("it is known", SOON, || proxy.log().contains("nobody can come in here again yet"));
        let port = proxy.port();
        let late = thread::spawn(move || RawClient::connect(port, &[]).query("select 1"));
        thread::sleep(Duration::from_millis(300));
        limit_descriptors(&proxy, 1000);
        assert!(late.join().unwrap().contains(&"row 1".to_owned()));
        assert!(client.query("select 1").contains(&"row 1".to_owned()));
        assert_eq!(proxy.log().matches("nobody can come in here again yet").count(), 1, "{}", proxy.log());
    });
}

#[test]
fn where_a_successors_successor_dies_the_one_before_it_takes_its_place_and_then_the_first_again() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let second = succeeded(&proxy, proxy.pid());
        let third = succeeded(&proxy, second.0);
        for (number, process) in [third, second].into_iter().enumerate() {
            drop(process);
            eventually("it is known", SOON, || proxy.log().matches("the successor has died").count() > number);
            eventually("somebody listens", SOON, || TcpStream::connect(("127.0.0.1", proxy.port())).is_ok());
            assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
            assert!(client.query("select 1").contains(&"row 1".to_owned()));
        }
    });
}

#[test]
fn where_a_process_between_two_others_dies_the_first_stops_once_its_transactions_have_ended() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut idle = RawClient::connect(proxy.port(), &[]);
        let mut busy = RawClient::connect(proxy.port(), &[]);
        busy.query("begin");
        let second = succeeded(&proxy, proxy.pid());
        let _third = succeeded(&proxy, second.0);
        drop(second);
        assert!(idle.until_end()[0].starts_with("57P01"));
        assert!(proxy.log().contains("no order reaches this process any more"), "{}", proxy.log());
        assert_eq!(busy.query("commit")[0], "COMMIT");
        eventually("the first has ended", SOON, || has_ended(proxy.pid()));
        assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
    });
}

#[test]
fn who_comes_in_again_meanwhile_is_served_by_a_process_that_had_nobody() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let first = RawClient::connect(proxy.port(), &[]);
        let second = succeeded(&proxy, proxy.pid());
        drop(succeeded(&proxy, second.0));
        eventually("it is known", SOON, || proxy.log().contains("the successor has died"));
        let mut late = RawClient::connect(proxy.port(), &[]);
        late.query("begin");
        let _fourth = succeeded(&proxy, second.0);
        drop(first);
        eventually("the first has ended", SOON, || has_ended(proxy.pid()));
        thread::sleep(Duration::from_secs(1));
        assert_eq!(late.query("commit")[0], "COMMIT");
        drop(late);
        eventually("the second has ended", SOON, || second.has_ended());
    });
}

#[test]
fn whoever_is_left_at_the_predecessor_at_the_end_of_a_drain_is_told() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\ndrain_timeout = '500ms'");
        let mut busy = RawClient::connect(proxy.port(), &[]);
        busy.query("begin");
        let second = succeeded(&proxy, proxy.pid());
        second.signal("TERM");
        let told = busy.until_end();
        assert!(told.first().is_some_and(|told| told.starts_with("57P01")), "{told:?}");
        eventually("both have ended", SOON, || second.has_ended() && has_ended(proxy.pid()));
    });
}

#[test]
fn a_process_that_stops_while_its_successor_dies_does_not_end_well() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut busy = RawClient::connect(proxy.port(), &[]);
        busy.query("begin");
        let second = succeeded(&proxy, proxy.pid());
        proxy.signal("TERM");
        eventually("it drains", SOON, || proxy.log().contains("draining"));
        drop(second);
        eventually("it is known", SOON, || proxy.log().contains("the successor has died"));
        assert_eq!(busy.query("commit")[0], "COMMIT");
        eventually("it has ended", SOON, || has_ended(proxy.pid()));
        assert!(proxy.log().contains("nobody serves any more"), "{}", proxy.log());
    });
}

#[test]
fn what_is_reloaded_while_a_successor_starts_is_not_forgotten() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        proxy.signal("USR2");
        eventually("it starts", SOON, || proxy.log().contains("a successor is started"));
        proxy.signal("HUP");
        eventually("it is refused", SOON, || proxy.log().contains("read anew meanwhile"));
        assert!(RawClient::connect(proxy.port(), &[]).query("select 1").contains(&"row 1".to_owned()));
        let _second = succeeded(&proxy, proxy.pid());
    });
}
