//! A primary that dies, and one that comes back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited, pgbench, server_port};
use crate::pgbench::fill;
use crate::raw::{RawClient, query};
use crate::relay::Relay;

#[test]
fn clients_stay_connected_and_the_first_write_follows_the_promotion_within_a_second() {
    limited(|| {
        let cluster = cluster();
        fill(&cluster);
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut writer = proxy.client();
        writer.batch_execute("insert into t values (1)").unwrap();
        let readers = pgbench(proxy.port(), &["-n", "-S", "-c", "16", "-j", "2", "-T", "6"])
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

        // The third node goes on following nobody.
        let (port, written) = first_write.join().unwrap();
        assert_eq!(port, cluster.node(1).port());
        let gap = written.saturating_duration_since(promoted);
        println!("the first write was acknowledged {gap:?} after the promotion");
        assert!(gap < Duration::from_secs(1), "{gap:?}");
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

/// Longer than Trunkline's evidence counts: twice the interval and the timeout of its probes.
const STANDSTILL: Duration = Duration::from_millis(2500);

/// Trunkline stands still, another node is promoted, and the old primary goes on.
#[test]
fn what_a_session_sends_while_trunkline_stands_still_is_not_written_by_the_former_primary_that_it_holds() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'session'");
        let (mut client, mut later) = (proxy.client(), proxy.client());
        client.batch_execute("insert into t values (1)").unwrap();
        proxy.signal("STOP");
        cluster.node(1).promote().unwrap();
        let told = thread::spawn(move || client.batch_execute("insert into t values (2)"));
        thread::sleep(STANDSTILL);
        proxy.signal("CONT");
        let error = told.join().unwrap().unwrap_err();
        // Its session may have ended before the statement was read.
        let is_ended = error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN);
        assert!(is_ended, "{error:?}");
        let port = server_port(&mut later, "insert into t values (3) returning inet_server_port()");
        assert_eq!(port, cluster.node(1).port());
        assert_eq!(cluster.node(0).sql("select count(*) from t where a > 1").unwrap(), "0");
    });
}

#[test]
fn what_a_session_sends_while_trunkline_stands_still_is_written_once_every_node_was_asked() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("listen x").unwrap();
        let process = |client: &mut Client| client.query_one("select pg_backend_pid()", &[]).unwrap().get::<_, i32>(0);
        let before = process(&mut client);
        proxy.signal("STOP");
        let told = thread::spawn(move || {
            let count = client.execute("insert into t values (2)", &[]).unwrap();
            (client, count)
        });
        thread::sleep(STANDSTILL);
        proxy.signal("CONT");
        let (mut client, count) = told.join().unwrap();
        assert_eq!((count, process(&mut client)), (1, before), "the session goes on with what it holds");
        assert!(proxy.log().contains("the primary is the one that it was"));
    });
}

/// Nothing is known of replicas either.
#[test]
fn what_is_read_after_a_standstill_of_trunkline_is_not_read_from_replicas_that_fell_behind_meanwhile() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        nothing_is_on_its_way(&cluster);
        let proxy = Proxy::start(&cluster, "[routing]\nmax_lag = '500ms'").with_both_replicas(&cluster);
        let count = |client: &mut Client| client.query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0);
        let mut clients: Vec<_> = (0..8).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(count(client), 0));
        proxy.signal("STOP");
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        cluster.node(0).sql("insert into t values (1)").unwrap();
        let told = clients.into_iter().map(|mut client| thread::spawn(move || count(&mut client)));
        let told: Vec<_> = told.collect();
        thread::sleep(STANDSTILL);
        proxy.signal("CONT");
        told.into_iter().for_each(|told| assert_eq!(told.join().unwrap(), 1));
        cluster.nodes()[1..].iter().for_each(|replica| replica.resume_replay().unwrap());
        eventually("replicas take reads", Duration::from_secs(10), || {
            cluster.nodes()[1..].iter().all(|replica| proxy.takes_reads(replica.address()))
        });
    });
}

/// A read behind another one is no part of that.
#[test]
fn what_is_sent_behind_a_read_while_trunkline_stands_still_is_not_read_from_its_replica_that_fell_behind_meanwhile() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        nothing_is_on_its_way(&cluster);
        let proxy = Proxy::start(&cluster, "[routing]\nmax_lag = '500ms'").with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        assert_eq!(client.query("select count(*) from t")[1], "row 0");
        client.send(&[&query("select pg_sleep(5)")]);
        let asked =
            "select count(*) from pg_stat_activity where query like '%pg_sleep(5)%' and pid <> pg_backend_pid()";
        let reads_at = |node: usize| cluster.node(node).sql(asked).unwrap() == "1";
        eventually("a replica is read from", Duration::from_secs(2), || reads_at(1) || reads_at(2));
        let other = if reads_at(1) { 2 } else { 1 };
        proxy.signal("STOP");
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        cluster.node(0).sql("insert into t values (1)").unwrap();
        client.send(&[&query("select count(*) from t")]);
        thread::sleep(STANDSTILL);
        // It is looked at before it is known how far its replica is behind.
        cluster.node(other).freeze().unwrap();
        proxy.signal("CONT");
        client.until(b'Z');
        assert_eq!(client.until(b'Z')[1], "row 1");
        cluster.node(other).thaw().unwrap();
    });
}

/// A node that does not answer is waited for, as long as a probe may take.
#[test]
fn what_waits_for_every_node_to_be_asked_can_be_cancelled_and_is_told_57p03_in_the_end() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'session'\n[failover]\nhold = '600ms'");
        let (mut told, mut cancelled) = (proxy.client(), proxy.client());
        for client in [&mut told, &mut cancelled] {
            client.batch_execute("insert into t values (1)").unwrap();
        }
        let cancel = cancelled.cancel_token();
        proxy.signal("STOP");
        cluster.node(2).freeze().unwrap();
        let told = thread::spawn(move || {
            let error = told.execute("insert into t values (2)", &[]).unwrap_err();
            (told, error)
        });
        let cancelled = thread::spawn(move || cancelled.batch_execute("insert into t values (3)"));
        thread::sleep(STANDSTILL);
        proxy.signal("CONT");
        thread::sleep(Duration::from_millis(100));
        cancel.cancel_query(NoTls).unwrap();
        let error = cancelled.join().unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "{error:?}");
        let (mut client, error) = told.join().unwrap();
        assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW), "{error:?}");
        assert!(error.as_db_error().unwrap().message().contains("stood still"), "{error:?}");
        eventually("the primary is believed again", Duration::from_secs(10), || {
            client.execute("insert into t values (4)", &[]).is_ok()
        });
        assert_eq!(cluster.node(0).sql("select count(*) from t where a in (2, 3)").unwrap(), "0");
        cluster.node(2).thaw().unwrap();
    });
}

/// Reading its catalogs lets a primary tidy them up, which is written down when it has time; if it dies before, no replica
/// ever gets to where it was last seen.
fn nothing_is_on_its_way(cluster: &Cluster) {
    cluster.node(0).sql("create table last (); drop table last").unwrap();
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(cluster.node(0)).unwrap();
    }
}

#[test]
fn a_write_without_a_primary_fails_with_57p03_when_hold_is_over() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '1s'");
        let mut client = proxy.client();
        nothing_is_on_its_way(&cluster);
        cluster.node(0).kill().unwrap();
        let asked = Instant::now();
        let error = client.batch_execute("insert into t values (1)").unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
        assert!((Duration::from_millis(900)..Duration::from_secs(3)).contains(&asked.elapsed()));
        assert_eq!(proxy.metric("trunkline_limits_met_total", "failover.hold"), 1.0);
        // Reads go on, in the same session.
        assert_ne!(server_port(&mut client, "select inet_server_port()"), cluster.node(0).port());
    });
}

/// The monitor goes on with the connection that it has.
#[test]
fn a_write_is_held_too_while_the_primary_is_known_and_cannot_be_connected_to() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let relay = Relay::to(cluster.node(0).address());
        let nodes = [relay.address(), cluster.node(1).address(), cluster.node(2).address()];
        let proxy = Proxy::before(&cluster, &nodes, "");
        let (mut holder, mut client) = (proxy.client(), proxy.client());
        // It has the server connection that is there.
        holder.batch_execute("begin; insert into t values (1)").unwrap();
        let held = || proxy.metric("trunkline_held_statements", "");
        let waits = || proxy.metric("trunkline_hold_wait_seconds_count", "");
        let before = waits();
        relay.turn_away(b"");
        let writing = thread::spawn(move || client.batch_execute("insert into t values (2)"));
        eventually("it is held", Duration::from_secs(5), || held() == 1.0);
        thread::sleep(Duration::from_millis(500));
        assert_eq!((held(), waits() - before), (1.0, 0.0));
        relay.mend();
        writing.join().unwrap().unwrap();
        holder.batch_execute("commit").unwrap();
        // However often it has been tried, it is one wait.
        assert_eq!((held(), waits() - before), (0.0, 1.0));
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "2");
    });
}

#[test]
fn writes_that_a_standby_cluster_refuses_count_apart_and_reads_that_it_cannot_serve_do_not() {
    limited(|| {
        let cluster = cluster();
        let nodes = [cluster.node(1).address(), cluster.node(2).address()];
        let of_cluster = format!("patroni = ['http://{}']", patroni_of_standbys(nodes));
        let proxy = Proxy::ruled_before(&cluster, &nodes, "", &of_cluster, "[failover]\nhold = '300ms'");
        eventually("replicas take reads", Duration::from_secs(10), || {
            nodes.iter().all(|node| proxy.takes_reads(*node))
        });
        let refused = |limit: &str| proxy.metric("trunkline_limits_met_total", &format!("limit=\"{limit}\""));
        let mut client = proxy.client();
        let mut code = |sql: &str| client.batch_execute(sql).err().and_then(|error| error.code().cloned());
        assert_eq!(code("create table t (a int)"), Some(SqlState::CANNOT_CONNECT_NOW));
        assert_eq!(code("select 1"), None);
        assert_eq!((refused("standby"), refused("failover.hold")), (1.0, 0.0));
        // That nobody reads is no design.
        cluster.node(1).kill().unwrap();
        cluster.node(2).kill().unwrap();
        assert_eq!(code("select 1"), Some(SqlState::CANNOT_CONNECT_NOW));
        assert_eq!((refused("standby"), refused("failover.hold")), (1.0, 1.0));
    });
}

/// Where somebody answers as Patroni of a standby cluster, which the first of these nodes leads.
fn patroni_of_standbys(nodes: [SocketAddr; 2]) -> SocketAddr {
    let member = |(node, role): (SocketAddr, &str)| {
        format!(r#"{{"name": "{}", "role": "{role}", "host": "{}", "port": {}}}"#, node.port(), node.ip(), node.port())
    };
    let members = nodes.into_iter().zip(["standby_leader", "replica"]).map(member).collect::<Vec<_>>().join(", ");
    let body = format!(r#"{{"members": [{members}]}}"#);
    let answer =
        format!("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // A question fits into one packet. Who does not wait for the answer may have gone.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn without_a_primary_for_long_reads_are_stale_with_a_warning_where_that_is_allowed() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '1s'\nstale_reads = '1min'");
        let (told, warnings) = mpsc::channel();
        let mut config = proxy.client_config();
        let mut client =
            config.notice_callback(move |notice| told.send(notice.code().clone()).unwrap()).connect(NoTls).unwrap();
        client.batch_execute("insert into t values (1)").unwrap();
        // Its write has no position yet: nothing tells which replica has it.
        cluster.node(0).kill().unwrap();
        let asked = Instant::now();
        assert!(client.query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0) <= 1);
        assert!(asked.elapsed() >= Duration::from_millis(900), "a failover may still come: {:?}", asked.elapsed());
        assert_eq!(warnings.try_iter().collect::<Vec<_>>(), [SqlState::WARNING]);
        let asked = Instant::now();
        client.query_one("select count(*) from t", &[]).unwrap();
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        let error = client.batch_execute("insert into t values (2)").unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW), "{error:?}");
        warnings.try_iter().for_each(drop);
        cluster.node(1).promote().unwrap();
        client.batch_execute("insert into t values (3)").unwrap();
        client.query_one("select count(*) from t where a = 3", &[]).unwrap();
        assert_eq!(warnings.try_iter().next(), None);
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

/// What it is told at login is asked of the primary, over a server connection that is there already.
#[test]
fn who_logs_in_while_the_primary_freezes_is_let_in_by_a_replica() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "routing = { consistency = 'eventual' }").with_both_replicas(&cluster);
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        cluster.node(0).freeze().unwrap();
        let mut newcomer = proxy.client_config().application_name("newcomer").connect(NoTls).unwrap();
        assert_eq!(newcomer.query_one("show application_name", &[]).unwrap().get::<_, &str>(0), "newcomer");
        cluster.node(0).thaw().unwrap();
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

#[test]
fn an_old_primary_that_comes_back_as_a_replica_takes_reads_again() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        cluster.node(0).kill().unwrap();
        cluster.node(1).promote().unwrap();
        cluster.node(0).rebuild_from(cluster.node(1)).unwrap();
        let mut written = 0;
        eventually("the old primary takes reads", Duration::from_secs(15), || {
            client.batch_execute("insert into t values (1)").unwrap();
            written += 1;
            let row = client.query_one("select inet_server_port(), (select count(*) from t)", &[]).unwrap();
            assert_eq!(row.get::<_, i64>(1), written);
            row.get::<_, i32>(0) == i32::from(cluster.node(0).port())
        });
    });
}

#[test]
fn without_a_primary_clients_log_in_read_and_wait_with_their_writes() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '20s'").with_both_replicas(&cluster);
        let (mut begins, mut inserts) = (proxy.client(), proxy.client());
        nothing_is_on_its_way(&cluster);
        cluster.node(0).kill().unwrap();
        let began = thread::spawn(move || {
            let mut transaction = begins.transaction().unwrap();
            transaction.execute("insert into t values (1)", &[]).unwrap();
            transaction.commit().unwrap();
        });
        let inserted = thread::spawn(move || inserts.execute("insert into t values (2)", &[]).unwrap());
        // Others come and read meanwhile, with settings that nobody has asked for before.
        for round in 0..20 {
            let mut config = proxy.client_config();
            let mut newcomer = config.application_name(&format!("newcomer {round}")).connect(NoTls).unwrap();
            assert_ne!(server_port(&mut newcomer, "select inet_server_port()"), cluster.node(0).port());
            thread::sleep(Duration::from_millis(50));
        }
        assert!(!began.is_finished() && !inserted.is_finished());
        cluster.node(1).promote().unwrap();
        began.join().unwrap();
        assert_eq!(inserted.join().unwrap(), 1);
        assert_eq!(cluster.node(1).sql("select count(*) from t").unwrap(), "2");
    });
}

#[test]
fn what_a_session_wrote_last_is_waited_for_when_its_primary_dies() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = '1s'");
        let mut client = proxy.client();
        for replica in &cluster.nodes()[1..] {
            replica.pause_replay().unwrap();
        }
        client.batch_execute("insert into t values (1)").unwrap();
        cluster.node(0).kill().unwrap();
        // Neither replica shows the row, and nobody can tell that one of them should.
        for _ in 0..3 {
            let error = client.query_one("select count(*) from t", &[]).unwrap_err();
            assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
            assert!(error.as_db_error().unwrap().message().contains("refuses connections"), "{error:?}");
        }
        assert!(!client.is_closed());
        cluster.node(0).start().unwrap();
        eventually("the row is seen", Duration::from_secs(10), || {
            client.query_one("select count(*) from t", &[]).is_ok_and(|row| row.get::<_, i64>(0) == 1)
        });
    });
}
