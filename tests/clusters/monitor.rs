//! The monitor before real nodes: it finds roles, measures lag, follows failovers and fences who lost the role.

use std::net::SocketAddr;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use postgres::NoTls;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use trunkline::auth::Secret;
use trunkline::backend::Gate;
use trunkline::config;
use trunkline::demo::cluster::{Cluster, Shape};
use trunkline::demo::installation::Installation;
use trunkline::demo::node::{Node, Stop};
use trunkline::monitor::{Limits, Monitor, MonitorHandle};
use trunkline::topology::{NodeId, NodeState, Role, View};

use crate::fixture::{cluster, eventually, limited, login, shape};
use crate::relay::Relay;
use crate::replication::program;

const PRIMARY: NodeId = NodeId(0);
const REPLICA: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

/// A monitor on its own runtime, and each epoch that it announced before it published it.
struct Watched {
    handle: MonitorHandle,
    /// Its runtime, and the monitor with it, ends when this is dropped.
    _stop: oneshot::Sender<()>,
    epochs: Arc<Mutex<Vec<u64>>>,
}

impl Watched {
    fn new(cluster: &Cluster, role: &str, max_lag: Duration) -> Self {
        let nodes: Vec<_> = cluster.nodes().iter().map(Node::address).collect();
        Self::before(&nodes, role, max_lag)
    }

    /// The same, where the nodes are reached by other addresses.
    fn before(nodes: &[SocketAddr], role: &str, max_lag: Duration) -> Self {
        Self::behind(nodes, role, max_lag, Duration::from_millis(100), &[])
    }

    /// The same, where they are asked so often, and have these gates.
    fn behind(nodes: &[SocketAddr], role: &str, max_lag: Duration, interval: Duration, gates: &[Arc<Gate>]) -> Self {
        let nodes = nodes.iter().map(|node| node.to_string().into()).collect();
        let monitor = config::Monitor {
            user: role.into(),
            password: Secret::new(role.to_owned()),
            database: "bench".into(),
            interval,
            timeout: Duration::from_millis(500),
        };
        let cluster = config::Cluster {
            name: "test".into(),
            nodes,
            patroni: Vec::new(),
            patroni_tls: None,
            groups: Vec::new(),
            balance: Default::default(),
            tls: Default::default(),
            auth_query: None,
            monitor,
        };
        let epochs: Arc<Mutex<Vec<u64>>> = Arc::default();
        let noted = Arc::clone(&epochs);
        let on_epoch = Box::new(move |_: &View, new: &View| noted.lock().unwrap().push(new.epoch));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let limits = Limits { max_lag, drain: Duration::ZERO };
        let monitor = Monitor::start(&cluster, &Default::default(), limits, on_epoch, gates, None, runtime.handle());
        let handle = monitor.handle();
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
            drop(monitor);
        });
        Self { handle, _stop: stop, epochs }
    }

    /// Waits until the view is as described, and says when it was.
    fn until(&self, what: &str, is_so: impl Fn(&View) -> bool) -> Instant {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let view = self.handle.view();
            if is_so(&view) {
                let now = Instant::now();
                let announced = self.epochs.lock().unwrap().last().copied().unwrap_or(0);
                assert!(announced >= view.epoch, "epoch {} was published unannounced", view.epoch);
                return now;
            }
            assert!(Instant::now() < deadline, "never: {what}; {view:#?}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn until_whole(&self) {
        self.until("a primary and two readable replicas", is_whole);
    }
}

fn is_whole(view: &View) -> bool {
    view.primary == Some(PRIMARY) && view.readable_replicas().count() == 2
}

fn state(view: &View, id: NodeId) -> NodeState {
    view.node(id).unwrap().state
}

/// Says, when joined, when the node first answered as a primary.
fn note_promotion(node: &Node) -> std::thread::JoinHandle<Instant> {
    let mut client = postgres::Config::new();
    client.host("127.0.0.1").port(node.port()).user("bench").password("bench").dbname("bench");
    let mut client = client.connect(NoTls).unwrap();
    std::thread::spawn(move || {
        loop {
            let is_replica: bool = client.query_one("select pg_is_in_recovery()", &[]).unwrap().get(0);
            if !is_replica {
                return Instant::now();
            }
        }
    })
}

#[test]
fn roles_are_found_and_replicas_take_reads() {
    limited(|| {
        let cluster = cluster();
        let begun = Instant::now();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        let found = watched.until("a primary and two readable replicas", is_whole);
        eprintln!("found after {:?}", found - begun);
        let view = watched.handle.view();
        assert_eq!((view.epoch, view.primary_samples.is_empty()), (1, false));
        assert!(view.nodes.iter().all(|node| node.position.unwrap().timeline.is_some()), "{view:#?}");
    });
}

#[test]
fn a_role_without_pg_monitor_finds_the_same() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role plain login password 'plain'").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let watched = Watched::new(&cluster, "plain", Duration::from_secs(10));
        watched.until_whole();
    });
}

#[test]
fn a_replica_with_paused_replay_loses_its_reads_and_gets_them_back() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_millis(500));
        watched.until_whole();
        cluster.node(1).pause_replay().unwrap();
        cluster.node(0).sql("create table t as select 1").unwrap();
        let paused = Instant::now();
        let out = watched.until("out", |view| !view.node(REPLICA).unwrap().takes_reads);
        assert!(watched.handle.view().node(REPLICA).unwrap().lag.unwrap() > Duration::from_millis(500));
        let took = out.duration_since(paused);
        assert!(took < Duration::from_secs(2), "out only after {took:?}");
        cluster.node(1).resume_replay().unwrap();
        watched.until_whole();
    });
}

#[test]
fn a_failover_is_followed_and_the_former_primary_is_fenced() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();

        let killed = Instant::now();
        cluster.node(0).kill().unwrap();
        let lost = watched.until("the primary is lost", |view| view.primary.is_none());
        let view = watched.handle.view();
        assert_eq!((view.epoch, view.readable_replicas().count()), (2, 2), "{view:#?}");

        let promotion = note_promotion(cluster.node(1));
        cluster.node(1).promote().unwrap();
        let found = watched.until("the new primary", |view| view.primary == Some(REPLICA));
        let promoted = promotion.join().unwrap();
        eprintln!(
            "lost at most {:?} after the kill; found {:?} after the promotion was complete",
            lost - killed,
            found.saturating_duration_since(promoted)
        );
        let view = watched.handle.view();
        assert_eq!((view.epoch, view.readable_replicas().count()), (3, 0), "{view:#?}");

        cluster.node(0).start().unwrap();
        watched.until("it is fenced", |view| state(view, PRIMARY) == NodeState::StalePrimary);
        assert!(!watched.handle.view().node(OTHER).unwrap().takes_reads, "it still follows the old primary");
        for (id, node) in [(OTHER, cluster.node(2)), (PRIMARY, cluster.node(0))] {
            node.rebuild_from(cluster.node(1)).unwrap();
            watched.until("reads on who follows", |view| view.node(id).unwrap().takes_reads);
        }
        assert_eq!(watched.handle.view().epoch, 3);
    });
}

#[test]
fn a_promotion_beside_a_living_primary_wins() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        let promotion = note_promotion(cluster.node(1));
        cluster.node(1).promote().unwrap();
        let found = watched.until("the new primary", |view| view.primary == Some(REPLICA));
        eprintln!(
            "found {:?} after the promotion was complete",
            found.saturating_duration_since(promotion.join().unwrap())
        );
        let view = watched.handle.view();
        assert_eq!((view.epoch, state(&view, PRIMARY)), (2, NodeState::StalePrimary), "{view:#?}");
    });
}

/// By itself the monitor looks there with each ninth probe.
#[test]
fn where_a_connection_leads_elsewhere_the_monitor_looks_at_once_where_the_name_leads() {
    limited(|| {
        let cluster = cluster();
        let name = Relay::to(cluster.node(0).address());
        let nodes = [name.address(), cluster.node(1).address(), cluster.node(2).address()];
        let gate: Arc<Gate> = Arc::default();
        let (interval, max_lag) = (Duration::from_secs(2), Duration::from_secs(10));
        let watched = Watched::behind(&nodes, "bench", max_lag, interval, &[Arc::clone(&gate)]);
        watched.until("the primary", |view| view.primary == Some(PRIMARY));
        name.lead_to(cluster.node(2).address());
        let begun = Instant::now();
        let elsewhere = Some("192.0.2.1:5432".parse().unwrap());
        eventually("it is known where it leads", Duration::from_secs(1), || !gate.strays().led_home(elsewhere));
        let found = watched.until("it has moved", |view| view.node(PRIMARY).unwrap().moves == 1);
        assert!(found.duration_since(begun) < Duration::from_secs(5));
        // It has been looked at, and nobody is let in before that is in force.
        let here = Some(name.address());
        assert!(!gate.strays().led_home(here));
        gate.leave_former(1).unwrap();
        eventually("it is lent again", Duration::from_secs(1), || gate.strays().led_home(here));
    });
}

#[test]
fn a_primary_that_is_restarted_comes_back_as_itself() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        cluster.node(0).stop(Stop::Immediate).unwrap();
        watched.until("the primary is lost", |view| view.primary.is_none());
        cluster.node(0).start().unwrap();
        watched.until("the primary is back", |view| view.primary == Some(PRIMARY) && view.epoch == 3);
        watched.until_whole();
        assert_eq!(watched.handle.view().node(PRIMARY).unwrap().moves, 0, "its name leads where it did");
    });
}

#[test]
fn a_frozen_primary_is_no_primary_until_it_is_thawed() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        let frozen = Instant::now();
        cluster.node(0).freeze().unwrap();
        let lost = watched.until("the primary is lost", |view| view.primary.is_none()) - frozen;
        assert!(lost < Duration::from_millis(2000), "lost only after {lost:?}");
        assert_eq!(watched.handle.view().node(PRIMARY).unwrap().role, Role::Unknown);
        cluster.node(0).thaw().unwrap();
        watched.until_whole();
        eprintln!("lost after {lost:?}");
    });
}

/// Where a machine has more to do than it can, a login takes long before an answer does; and who is connected to a primary goes
/// on whoever else is let in.
#[test]
fn a_primary_that_lets_nobody_in_stays_primary_and_a_replica_is_left_when_that_lasts() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        // The postmasters alone: who is connected goes on.
        let postmasters = [0, 1].map(|node| postmaster(cluster.node(node)));
        postmasters.iter().for_each(|postmaster| signal(postmaster, "STOP"));
        let frozen = Instant::now();
        while frozen.elapsed() < Duration::from_millis(1800) {
            let view = watched.handle.view();
            assert_eq!(state(&view, REPLICA), NodeState::Up, "after {:?}: {view:#?}", frozen.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        watched.until("the replica is left", |view| state(view, REPLICA) == NodeState::Down);
        let stays = Instant::now();
        while stays.elapsed() < Duration::from_secs(3) {
            let view = watched.handle.view();
            assert_eq!((view.primary, view.epoch), (Some(PRIMARY), 1), "after {:?}: {view:#?}", frozen.elapsed());
            std::thread::sleep(Duration::from_millis(10));
        }
        postmasters.iter().for_each(|postmaster| signal(postmaster, "CONT"));
        watched.until_whole();
    });
}

#[test]
fn an_answer_that_comes_late_is_waited_for_and_no_loss() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        let mut client = login(cluster.node(0).port(), "bench", "bench").connect(NoTls).unwrap();
        let postmaster = postmaster(cluster.node(0));
        signal(&postmaster, "STOP");
        let probing = "select coalesce(string_agg(pid::text, ' '), '') from pg_stat_activity \
                       where application_name = 'trunkline monitor'";
        let probing: String = client.query_one(probing, &[]).unwrap().get(0);
        probing.split(' ').for_each(|process| signal(process, "STOP"));
        watched.until("one probe is missed", |view| state(view, PRIMARY) == NodeState::Suspect);
        // Its answer comes now, and nobody can log in.
        probing.split(' ').for_each(|process| signal(process, "CONT"));
        watched.until("the next one is answered", |view| state(view, PRIMARY) == NodeState::Up);
        signal(&postmaster, "CONT");
        watched.until_whole();
        assert_eq!(watched.handle.view().epoch, 1, "it was the primary all the time");
    });
}

#[test]
fn logins_that_fail_beside_an_old_connection_that_answers_are_no_loss() {
    limited(|| {
        let cluster = cluster();
        let relay = Relay::to(cluster.node(0).address());
        let nodes = [relay.address(), cluster.node(1).address(), cluster.node(2).address()];
        let watched = Watched::before(&nodes, "bench", Duration::from_secs(10));
        let stays_up = |what: &str, span: Duration| {
            let begun = Instant::now();
            while begun.elapsed() < span {
                let view = watched.handle.view();
                assert_eq!(state(&view, PRIMARY), NodeState::Up, "{what}, {:?}: {view:#?}", begun.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let one_is_refused = || {
            let before = relay.refused();
            eventually("a fresh login is due", Duration::from_secs(10), || relay.refused() > before);
        };
        watched.until_whole();
        relay.turn_away(b"");
        one_is_refused();
        relay.mend();
        stays_up("one login was closed without a word", Duration::from_millis(500));
        // The postmaster's words when it has no memory for another process: no message of any protocol.
        relay.turn_away(b"Ecould not fork new process for connection: Cannot allocate memory\n\0");
        one_is_refused();
        stays_up("it has no memory for another process", Duration::from_secs(3));
        relay.turn_away(b"");
        stays_up("logins are closed for longer", Duration::from_secs(3));
        relay.mend();
        watched.until_whole();
    });
}

#[test]
fn a_statement_timeout_of_its_role_does_not_end_a_probe_that_waits() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("alter role bench set statement_timeout = '20ms'").unwrap();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        let mut superuser = login(cluster.node(0).port(), "bench", "bench").connect(NoTls).unwrap();
        superuser
            .batch_execute("set statement_timeout = 0; begin; lock table pg_authid in access exclusive mode")
            .unwrap();
        let locked = Instant::now();
        while locked.elapsed() < Duration::from_millis(250) {
            let view = watched.handle.view();
            assert_eq!(state(&view, PRIMARY), NodeState::Up, "after {:?}: {view:#?}", locked.elapsed());
            std::thread::sleep(Duration::from_millis(1));
        }
        superuser.batch_execute("rollback").unwrap();
    });
}

/// A client for replication that goes on until it is dropped.
struct Subscriber(Child);

impl Subscriber {
    fn start(name: &str, cluster: &Cluster, arguments: &[&str]) -> Self {
        Self(program(name, cluster.node(0).port(), "bench").args(arguments).spawn().unwrap())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn who_only_reads_the_log_is_no_replica_that_supports_a_primary() {
    limited(|| {
        let settings = "wal_level = logical".to_owned();
        let cluster = Cluster::start(&Shape { replicas: 1, settings, ..shape() }).unwrap();
        let primary = cluster.node(0);
        cluster.node(1).stop(Stop::Fast).unwrap();
        primary.sql("create role plain login password 'plain'").unwrap();
        primary.sql("select pg_create_logical_replication_slot('changes', 'test_decoding')").unwrap();
        let folder = cluster.folder().join("received");
        std::fs::create_dir(&folder).unwrap();
        Installation::find().unwrap().own(&folder).unwrap();
        let folder = folder.to_str().unwrap();
        let _log = Subscriber::start("pg_receivewal", &cluster, &["-D", folder]);
        let slot = ["-d", "bench", "--slot", "changes", "--start", "-f", "/dev/null", "-F", "1", "-s", "1"];
        let _changes = Subscriber::start("pg_recvlogical", &cluster, &slot);
        let streaming = |count: &str| {
            primary.sql("select count(*) from pg_stat_replication where state = 'streaming'").unwrap() == count
        };
        eventually("both stream", Duration::from_secs(10), || streaming("2"));
        let why = |role: &str| {
            let watched = Watched::new(&cluster, role, Duration::from_secs(10));
            watched.until("a primary", |view| view.primary == Some(PRIMARY));
            watched.handle.view().node(PRIMARY).unwrap().why.to_string()
        };
        assert!(why("bench").contains("nothing spoke against it"), "{}", why("bench"));
        // Who may not see the state of others cannot tell the log's reader from a replica.
        assert!(why("plain").contains("accepted with 1 streaming"), "{}", why("plain"));
    });
}

/// The process that lets clients in.
fn postmaster(node: &Node) -> String {
    let folder = node.sql("show data_directory").unwrap();
    let file = std::fs::read_to_string(std::path::Path::new(&folder).join("postmaster.pid")).unwrap();
    file.lines().next().unwrap().to_owned()
}

fn signal(process: &str, name: &str) {
    assert!(std::process::Command::new("kill").args(["-s", name, process]).status().unwrap().success());
}

#[test]
fn a_requested_sample_is_begun_after_the_request_and_a_followed_replica_passes_it_soon() {
    limited(|| {
        let cluster = cluster();
        let watched = Watched::new(&cluster, "bench", Duration::from_secs(10));
        watched.until_whole();
        let mut client = postgres::Config::new();
        client.host("127.0.0.1").port(cluster.node(0).port()).user("bench").password("bench").dbname("bench");
        let mut client = client.connect(NoTls).unwrap();
        client.batch_execute("create table t(a int)").unwrap();
        let mut waits = Vec::new();
        for _ in 0..200 {
            client.batch_execute("insert into t values (1)").unwrap();
            let written = Instant::now();
            watched.handle.request_sample(PRIMARY);
            watched.handle.follow_until(REPLICA, written + Duration::from_millis(50));
            let seen = watched.until("the replica has the write", |view| {
                let position = view.node(REPLICA).unwrap().position.unwrap();
                view.primary_sample_since(written).is_some_and(|sample| position.lsn >= sample.lsn)
            });
            waits.push(seen - written);
        }
        waits.sort();
        eprintln!("a write is known to be on a replica after {:?}, p99 {:?}", waits[100], waits[198]);
    });
}
