//! How reads are shared among replicas, as the servers themselves say.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited, server_port};
use crate::relay::{Carriage, Relay};

const WHERE: &str = "select inet_server_port()";

/// A session that must not go back stays with a replica until another has caught up.
const EVENTUAL: &str = "[routing]\nconsistency = 'eventual'";

#[test]
fn reads_stay_in_the_preferred_zone_as_long_as_a_node_there_takes_them() {
    limited(|| {
        let cluster = cluster();
        let settings = described(&cluster, "zone = 'a'", "zone = 'b'", "zone = 'b'");
        let proxy = Proxy::ruled(&cluster, "", &settings, EVENTUAL).with_both_replicas(&cluster);
        let [first, second] = [1, 2].map(|number| cluster.node(number).port());
        assert_eq!(shares(&proxy, 50), BTreeMap::from([(second, 50)]));
        cluster.node(2).kill().unwrap();
        eventually("it is known", Duration::from_secs(5), || !proxy.takes_reads(cluster.node(2).address()));
        assert_eq!(shares(&proxy, 50), BTreeMap::from([(first, 50)]));
    });
}

#[test]
fn replicas_get_reads_by_their_weights() {
    limited(|| {
        let cluster = cluster();
        let [first, second] = [1, 2].map(|number| cluster.node(number).port());
        for strategy in ["weighted", "least_leases"] {
            let balance = format!("strategy = '{strategy}'\nslow_start = '0s'");
            let proxy =
                Proxy::ruled(&cluster, "", &described(&cluster, "weight = 1", "weight = 4", &balance), EVENTUAL)
                    .with_both_replicas(&cluster);
            let shares = shares(&proxy, 500);
            assert!(shares[&first].abs_diff(100) < 30 && shares[&second].abs_diff(400) < 30, "{strategy}: {shares:?}");
        }
        let none = described(&cluster, "weight = 0", "weight = 1", "");
        assert_eq!(
            shares(&Proxy::ruled(&cluster, "", &none, EVENTUAL).with_both_replicas(&cluster), 50),
            BTreeMap::from([(second, 50)])
        );
    });
}

#[test]
fn a_sticky_session_stays_with_its_replica_while_others_go_elsewhere() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::ruled(&cluster, "", "balance = { sticky = true }", EVENTUAL).with_both_replicas(&cluster);
        let mut homes = BTreeMap::<u16, usize>::new();
        for _ in 0..20 {
            let mut client = proxy.client();
            let home = server_port(&mut client, WHERE);
            for _ in 0..10 {
                assert_eq!(server_port(&mut client, WHERE), home);
            }
            *homes.entry(home).or_default() += 1;
        }
        assert_eq!(homes.len(), 2, "{homes:?}");
        let mut client = proxy.client();
        let home = server_port(&mut client, WHERE);
        let node = cluster.nodes().iter().find(|node| node.port() == home).unwrap();
        node.kill().unwrap();
        assert_ne!(server_port(&mut client, WHERE), home, "it moves when it must");
    });
}

#[test]
fn a_read_does_not_queue_where_another_replica_has_a_connection_for_it() {
    limited(|| {
        let cluster = cluster();
        let more = format!("{EVENTUAL}\n[pool]\nsize = 1\nqueue_timeout = '3s'");
        let heavy = described(&cluster, "weight = 1000", "weight = 1", "slow_start = '0s'");
        let proxy = Proxy::ruled(&cluster, "", &heavy, &more).with_both_replicas(&cluster);
        let [first, second] = [1, 2].map(|number| cluster.node(number).port());
        let mut sleeper = proxy.client();
        let asleep = std::thread::spawn(move || sleeper.simple_query("select pg_sleep(8), inet_server_port()").is_ok());
        eventually("it sleeps at the heavier one", Duration::from_secs(5), || {
            let asked = "select count(*) from pg_stat_activity where query like '%pg_sleep(8)%' and state = 'active' \
                         and pid <> pg_backend_pid()";
            cluster.node(1).sql(asked).unwrap() == "1"
        });
        let begun = std::time::Instant::now();
        assert_eq!(shares(&proxy, 20), BTreeMap::from([(second, 20)]), "{first} is full");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert!(asleep.join().unwrap());
    });
}

#[test]
fn a_slow_replica_is_avoided_by_latency_and_not_by_weight() {
    limited(|| {
        let cluster = cluster();
        let slow = Relay::to(cluster.node(1).address());
        let nodes = [cluster.node(0).address(), slow.address(), cluster.node(2).address()];
        let [first, second] = [1, 2].map(|number| cluster.node(number).port());
        for (strategy, most) in [("latency", 20), ("weighted", 75)] {
            let rules = format!("[[rule]]\nname = 'r'\napplication_name = 'ruled'\nbalance = '{strategy}'");
            let proxy = Proxy::ruled_before(&cluster, &nodes, &rules, "balance = { slow_start = '0s' }", EVENTUAL);
            slow.carry(Carriage::Slow(Duration::from_millis(15)));
            let mut client = proxy.client_config().application_name("ruled").connect(postgres::NoTls).unwrap();
            // A first answer of each must be known.
            let mut seen = BTreeMap::<u16, usize>::new();
            for asked in 0..120 {
                let port = server_port(&mut client, WHERE);
                *seen.entry(port).or_default() += usize::from(asked >= 20);
            }
            let slow_ones = seen.get(&first).copied().unwrap_or(0);
            assert!(slow_ones <= most, "{strategy}: {seen:?}");
            assert!(strategy == "latency" || slow_ones >= 25, "{strategy}: {seen:?}");
            assert!(seen[&second] > 0);
            slow.mend();
        }
    });
}

#[test]
fn a_replica_that_comes_back_gets_its_part_little_by_little() {
    limited(|| {
        let cluster = cluster();
        let [first, second] = [1, 2].map(|number| cluster.node(number).port());
        let proxy = Proxy::ruled(&cluster, "", "balance = { slow_start = '3s', strategy = 'weighted' }", EVENTUAL)
            .with_both_replicas(&cluster);
        std::thread::sleep(Duration::from_secs(3));
        let even = shares(&proxy, 100);
        assert!(even[&first].abs_diff(50) < 10, "{even:?}");
        cluster.node(2).kill().unwrap();
        eventually("it is known", Duration::from_secs(5), || !proxy.takes_reads(cluster.node(2).address()));
        cluster.node(2).start().unwrap();
        eventually("it is back", Duration::from_secs(10), || proxy.takes_reads(cluster.node(2).address()));
        let early = shares(&proxy, 100).get(&second).copied().unwrap_or(0);
        assert!(early < 40, "{early} of 100 at once");
        eventually("it has its full part again", Duration::from_secs(10), || {
            shares(&proxy, 100).get(&second).copied().unwrap_or(0) >= 45
        });
    });
}

/// What is said of the two replicas, and of all.
fn described(cluster: &Cluster, first: &str, second: &str, balance: &str) -> String {
    let [one, other] = [1, 2].map(|number| cluster.node(number).address());
    format!("node = [{{ address = '{one}', {first} }}, {{ address = '{other}', {second} }}]\n[balance]\n{balance}")
}

/// How often each server answers, of so many reads of one session.
fn shares(proxy: &Proxy, reads: usize) -> BTreeMap<u16, usize> {
    let mut client = proxy.client();
    let mut seen = BTreeMap::new();
    for _ in 0..reads {
        *seen.entry(server_port(&mut client, WHERE)).or_default() += 1;
    }
    seen
}
