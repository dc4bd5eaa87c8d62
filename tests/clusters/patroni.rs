//! Trunkline over real Patroni, which is all that its configuration names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::fixture::{Proxy, eventually, limited_to, server_port};
use crate::patroni_cluster::{PatroniCluster, Release};

/// A cluster of Patroni takes 15 to 30 s to come up.
const LIMIT: Duration = Duration::from_secs(150);

#[test]
fn a_configuration_that_names_one_member_of_patroni_finds_all_nodes_and_obeys_their_tags() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start(Release::Newest, ["{}", "{}", "{noloadbalance: true}"], None);
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls()[..1], "");
        let readers = |number: usize| proxy.takes_reads(cluster.member(number).address());
        let leader = cluster.leader().unwrap();
        eventually("all nodes are known", Duration::from_secs(10), || nodes(&proxy) == 3);
        for number in 0..3 {
            let wanted = number != leader && number != 2;
            eventually("reads go where they may", Duration::from_secs(10), || readers(number) == wanted);
        }
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        for _ in 0..20 {
            let port = server_port(&mut client, "insert into t values (1) returning inet_server_port()");
            assert_eq!(port, cluster.member(leader).port());
            let read = server_port(&mut client, "select inet_server_port()");
            assert!(leader == 2 || read != cluster.member(2).port());
        }
    });
}

#[test]
fn patronis_own_switchovers_are_followed_and_cost_single_statements_nothing() {
    limited_to(LIMIT, || switchovers_are_followed(Release::Newest));
}

#[test]
fn debians_patroni_is_followed_too() {
    limited_to(LIMIT, || switchovers_are_followed(Release::Debian));
}

fn switchovers_are_followed(release: Release) {
    let cluster = PatroniCluster::start(release, ["{}"; 3], None);
    let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "");
    let load = Load::begin(&proxy, |client, round| client.execute("insert into t values ($1)", &[&round]).map(drop));
    thread::sleep(Duration::from_secs(1));
    for _ in 0..2 {
        let from = cluster.leader().unwrap();
        let to = (from + 1) % 3;
        let answer = cluster.switch_over(from, to, None);
        assert!(answer.contains(" 200 "), "{answer}");
        eventually("the new leader writes", Duration::from_secs(10), || {
            let mut client = proxy.client();
            server_port(&mut client, "insert into t values (0) returning inet_server_port()")
                == cluster.member(to).port()
        });
        eventually("both replicas stream", Duration::from_secs(30), || cluster.streaming() == 2);
    }
    load.end();
}

fn nodes(proxy: &Proxy) -> usize {
    let topology: serde_json::Value = serde_json::from_str(&proxy.page("/topology")).unwrap();
    topology["clusters"][0]["nodes"].as_array().unwrap().len()
}

/// Clients that write, and clients that read, until they are told to stop.
struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<(usize, Duration, Vec<String>)>>,
}

type Work = fn(&mut Client, i64) -> Result<(), postgres::Error>;

impl Load {
    fn begin(proxy: &Proxy, write: Work) -> Self {
        let mut client = proxy.client();
        client.batch_execute("create table if not exists t (a bigint)").unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let read: Work = |client, _| client.query("select count(*) from t", &[]).map(drop);
        let clients = (0..16).map(|number| {
            let (mut client, is_over) = (proxy.client(), Arc::clone(&is_over));
            let work = if number % 2 == 0 { write } else { read };
            thread::spawn(move || {
                let (mut done, mut longest, mut errors) = (0, Duration::ZERO, Vec::new());
                while !is_over.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    match work(&mut client, i64::try_from(done).unwrap()) {
                        Ok(()) => done += 1,
                        Err(error) => errors.push(format!("{error:?}")),
                    }
                    longest = longest.max(begun.elapsed());
                    thread::sleep(Duration::from_millis(1));
                }
                (done, longest, errors)
            })
        });
        Self { clients: clients.collect(), is_over }
    }

    /// Nobody has met an error. Answers the longest that anyone waited.
    fn end(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        let ended: Vec<_> = self.clients.into_iter().map(|client| client.join().unwrap()).collect();
        let errors: Vec<_> = ended.iter().flat_map(|(_, _, errors)| errors).collect();
        let done: usize = ended.iter().map(|(done, _, _)| done).sum();
        let longest = ended.iter().map(|(_, longest, _)| *longest).max().unwrap();
        println!("{done} statements, the longest took {longest:?}");
        assert!(errors.is_empty(), "{} errors: {:#?}", errors.len(), &errors[..errors.len().min(5)]);
        longest
    }
}
