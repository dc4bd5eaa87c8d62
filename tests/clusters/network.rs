//! A network that misbehaves between Trunkline and its nodes, and between clients and Trunkline.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use postgres::NoTls;
use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited, login, server_port};
use crate::raw::{COPY_DONE, RawClient, copy_data, query};
use crate::record::is_logged;
use crate::relay::{Carriage, Relay};

#[test]
fn messages_may_be_torn_at_every_byte() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int, b text)").unwrap();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        let front = Relay::to(SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port())));
        relays.iter().chain([&front]).for_each(|relay| relay.carry(Carriage::OneByte));
        let mut client = login(front.address().port(), "bench", "bench").connect(NoTls).unwrap();
        let write = client.prepare("insert into t values ($1, $2)").unwrap();
        for round in 0..20 {
            client.execute(&write, &[&round, &"some text"]).unwrap();
            let count: i64 = client.query_one("select count(*) from t", &[]).unwrap().get(0);
            assert_eq!(count, i64::from(round) + 1);
        }
    });
}

#[test]
fn a_replica_cut_off_costs_no_read_and_returns_once_mended() {
    limited(|| {
        let cluster = cluster();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        let mut client = proxy.client();
        relays[1].cut();
        for _ in 0..50 {
            assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(2).port());
        }
        relays[1].mend();
        eventually("the replica takes reads again", Duration::from_secs(10), || {
            server_port(&mut client, "select inet_server_port()") == cluster.node(1).port()
        });
        assert!(relays[1].connections() > 0);
    });
}

#[test]
fn where_a_nodes_name_comes_to_lead_to_another_server_the_former_one_is_left() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let name = Relay::to(cluster.node(0).address());
        let proxy = Proxy::before(&cluster, &[name.address(), cluster.node(2).address()], "");
        let mut client = proxy.client();
        let write = "insert into t values (1) returning inet_server_port()";
        assert_eq!(server_port(&mut client, write), cluster.node(0).port());
        // Its successor has its name; it goes on, as one does that is cut off.
        cluster.node(1).promote().unwrap();
        name.lead_to(cluster.node(1).address());
        let event = "connections to the server that the node was before are closed";
        eventually(event, Duration::from_secs(15), || proxy.log().contains(event));
        for _ in 0..5 {
            assert_eq!(server_port(&mut client, write), cluster.node(1).port());
        }
    });
}

#[test]
fn a_read_on_a_connection_that_is_reset_runs_again_elsewhere() {
    limited(|| {
        let cluster = cluster();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        let mut client = proxy.client();
        for _ in 0..20 {
            client.batch_execute("select 1").unwrap();
            relays[1].reset();
            client.batch_execute("select 1").unwrap();
            relays[2].half_close();
            client.batch_execute("select 1").unwrap();
        }
    });
}

#[test]
fn a_stalled_replica_is_left_for_another() {
    limited(|| {
        let cluster = cluster();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        relays[1].carry(Carriage::Stalled);
        eventually("the topology knows", Duration::from_secs(5), || !proxy.takes_reads(relays[1].address()));
        let mut client = proxy.client();
        let asked = Instant::now();
        for _ in 0..20 {
            assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(2).port());
        }
        assert!(asked.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn a_write_whose_answer_is_lost_is_reported_as_unknown_and_not_repeated() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        lose_a_write(&proxy, &relays[0]);
        thread::sleep(Duration::from_millis(1500));
        let written: u32 = cluster.node(0).sql("select count(*) from t").unwrap().parse().unwrap();
        assert!(written <= 1);
    });
}

#[test]
fn a_copy_that_is_cut_off_before_the_end_of_its_data_is_in_no_doubt() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.send(&[&query("copy t from stdin"), &copy_data(b"1\n")]);
        client.until(b'G');
        relays[0].reset();
        let told = client.until(b'Z');
        assert!(told[0].starts_with("08006") && told[1] == "I", "{told:?}");
        let lost = |outcome: &str| proxy.metric("trunkline_transactions_lost_total", &format!("outcome=\"{outcome}\""));
        assert_eq!((lost("unknown"), lost("cut_short")), (0.0, 1.0));
        let again = [query("copy t from stdin"), copy_data(b"1\n"), COPY_DONE.to_vec()].concat();
        assert!(client.ask(&[&again], 1).contains(&"COPY 1".to_owned()));
    });
}

#[test]
fn a_commit_that_is_lost_with_its_replica_is_in_no_doubt() {
    limited(|| {
        let cluster = cluster();
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        for relay in &relays[1..] {
            eventually("the replica takes reads", Duration::from_secs(10), || proxy.takes_reads(relay.address()));
        }
        let mut client = proxy.client();
        for bound in ["begin read only", "declare c cursor for select 1", "fetch c"] {
            client.batch_execute(bound).unwrap();
        }
        assert_ne!(server_port(&mut client, "select inet_server_port()"), cluster.node(0).port());
        relays[1..].iter().for_each(|relay| relay.carry(Carriage::Stalled));
        let committing = thread::spawn(move || client.batch_execute("commit"));
        thread::sleep(Duration::from_millis(300));
        for relay in &relays[1..] {
            relay.reset();
            relay.mend(); // who waits to carry more wakes, and finds its connection gone
        }
        let error = committing.join().unwrap().unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error:?}");
        assert_eq!(proxy.metric("trunkline_transactions_lost_total", "outcome=\"unknown\""), 0.0);
    });
}

/// As where a node dies of what it is sent.
#[test]
fn a_session_whose_settings_end_every_server_connection_is_told_so_and_nobody_else() {
    limited(|| {
        let cluster = cluster();
        let relays = relays(&cluster);
        let addresses: Vec<SocketAddr> = relays.iter().map(Relay::address).collect();
        let proxy = Proxy::before(&cluster, &addresses, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut marked, mut other) = (proxy.client(), proxy.client());
        marked.batch_execute("set app.mark = 'a mark of its own'").unwrap();
        other.batch_execute("select 1").unwrap();
        relays.iter().for_each(|relay| relay.carry(Carriage::Without("a mark of its own")));
        for _ in 0..3 {
            let error = marked.batch_execute("select 1").unwrap_err();
            assert_eq!(error.code().map(|code| code.code()), Some("08006"), "{error:?}");
            other.batch_execute("select 1").unwrap();
        }
        relays.iter().for_each(Relay::mend);
        let mark: String = marked.query_one("select current_setting('app.mark')", &[]).unwrap().get(0);
        assert_eq!(mark, "a mark of its own");
    });
}

/// It is done after it was told to be lost.
#[test]
fn who_comes_back_after_a_write_was_lost_sees_it_once_it_is_done() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let relays = relays(&cluster);
        let proxy = before_relays(&cluster, &relays);
        lose_a_write(&proxy, &relays[0]);
        for replica in &cluster.nodes()[1..] {
            replica.pause_replay().unwrap();
        }
        let is_done = || cluster.node(0).sql("select count(*) from t").unwrap().trim() == "1";
        eventually("the node has gone on with it", Duration::from_secs(5), is_done);
        for _ in 0..4 {
            let seen = proxy.client().query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0);
            assert_eq!(seen, 1);
        }
    });
}

#[test]
fn a_slow_client_slows_nobody_else() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 4");
        let front = Relay::to(SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port())));
        let mut slow = login(front.address().port(), "bench", "bench").connect(NoTls).unwrap();
        front.carry(Carriage::Slow(Duration::from_millis(20)));
        let slow = thread::spawn(move || slow.query_one("select repeat('x', 4000000)", &[]).map(drop));
        let mut quick = proxy.client();
        let asked = Instant::now();
        for _ in 0..100 {
            quick.batch_execute("select 1").unwrap();
        }
        assert!(asked.elapsed() < Duration::from_secs(1));
        slow.join().unwrap().unwrap();
    });
}

/// The trigger runs before the first row is read, and what waits for it is more than the sockets hold.
#[test]
fn a_copy_whose_backend_reads_nothing_for_long_is_not_cut_off() {
    limited(|| {
        let cluster = cluster();
        let slow = "create table t (a text);
            create function wait() returns trigger language plpgsql as $$ begin perform pg_sleep(12); return null; end $$;
            create trigger wait before insert on t for each statement execute function wait()";
        cluster.node(0).sql(slow).unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let mut copy = client.copy_in("copy t from stdin").unwrap();
        let row = [&[b'x'; 1023][..], b"\n"].concat();
        (0..20_000).for_each(|_| copy.write_all(&row).unwrap());
        assert_eq!(copy.finish().unwrap(), 20_000);
    });
}

/// Begins a write that takes a second; its connection to the node is reset meanwhile, and the client told that nobody knows.
fn lose_a_write(proxy: &Proxy, relay: &Relay) {
    let mut client = proxy.client();
    let writing = thread::spawn(move || client.batch_execute("insert into t select 1 from pg_sleep(1)"));
    thread::sleep(Duration::from_millis(400));
    relay.reset();
    let error = writing.join().unwrap().unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("08007"), "{error:?}");
    is_logged(proxy, &["WARN", "a transaction was lost with its node", "outcome=\"unknown\"", "user=\"bench\""]);
}

/// A relay before each node.
fn relays(cluster: &Cluster) -> Vec<Relay> {
    cluster.nodes().iter().map(|node| Relay::to(node.address())).collect()
}

/// A busy machine may take more than the usual milliseconds to tell that a replica is fresh.
fn before_relays(cluster: &Cluster, relays: &[Relay]) -> Proxy {
    let addresses: Vec<SocketAddr> = relays.iter().map(Relay::address).collect();
    Proxy::before(cluster, &addresses, "[routing]\nfreshness_wait = '1s'")
}
