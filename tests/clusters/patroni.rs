//! Trunkline over real Patroni, which is all that its configuration names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::error::SqlState;

use crate::certificates::Authority;
use crate::fixture::{Proxy, console, eventually, limited_to, server_port};
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
fn a_switchover_that_is_scheduled_in_patroni_costs_short_transactions_nothing() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start(Release::Newest, ["{}"; 3], None);
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "[failover]\ndrain = '1s'");
        let load = Load::begin(&proxy, transfer);
        let from = cluster.leader().unwrap();
        let to = (from + 1) % 3;
        let answer = cluster.switch_over(from, to, Some(&in_seconds(6)));
        assert!(answer.contains(" 202 "), "{answer}");
        eventually("the new leader writes", Duration::from_secs(40), || cluster.leader() == Some(to));
        thread::sleep(Duration::from_secs(2));
        let longest = load.end();
        // A second of letting transactions end, and what Patroni takes.
        assert!(longest < Duration::from_secs(10), "{longest:?}");
    });
}

#[test]
fn a_switchover_that_the_console_asks_for_costs_short_transactions_nothing() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start(Release::Newest, ["{}"; 3], None);
        let extra = "[failover]\ndrain = '1s'\n[admin]\nusers = ['bench']";
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), extra);
        both_stream(&proxy);
        let load = Load::begin(&proxy, transfer);
        let from = cluster.leader().unwrap();
        let mut console = console(&proxy);
        let unknown = console.simple_query("switchover to nobody").unwrap_err();
        assert_eq!(unknown.as_db_error().unwrap().code().code(), "55000");
        console.simple_query("switchover").unwrap();
        eventually("another leads", Duration::from_secs(20), || cluster.leader().is_some_and(|leader| leader != from));
        thread::sleep(Duration::from_secs(2));
        load.end();
    });
}

#[test]
fn patroni_is_asked_over_tls_and_only_where_it_shows_that_it_is_itself() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start_with_certificates(Release::Newest);
        let (certificate, key) = cluster.authority().sign("trunkline");
        let tls = format!(
            "[patroni_tls]\nca = {:?}\ncertificate = {certificate:?}\nkey = {key:?}",
            cluster.authority().certificate()
        );
        // One is named; the others are learnt to be asked over TLS, too.
        let proxy = Proxy::over_patroni_as(cluster.folder(), &cluster.urls()[..1], &tls, "[admin]\nusers = ['bench']");
        both_stream(&proxy);
        let from = cluster.leader().unwrap();
        console(&proxy).simple_query("switchover").unwrap();
        eventually("another leads", Duration::from_secs(20), || cluster.leader().is_some_and(|leader| leader != from));
        assert!(!proxy.log().contains("a member of Patroni does not answer"), "{}", proxy.log());

        // Whoever is vouched for by somebody else is not believed.
        let other = Authority::new(cluster.folder().join("other"));
        proxy.rewrite(|configuration| {
            let other = other.certificate().display().to_string();
            configuration["cluster"][0]["patroni_tls"]["ca"] = other.into();
        });
        proxy.signal("HUP");
        eventually("nobody is believed", Duration::from_secs(10), || {
            proxy.log().contains("a member of Patroni does not answer") && proxy.log().contains("TLS: ")
        });
    });
}

#[test]
fn a_scheduled_switchover_that_patroni_gives_up_at_its_moment_lets_everybody_in_again() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start(Release::Newest, ["{}"; 3], None);
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "[failover]\ndrain = '1s'");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        let from = cluster.leader().unwrap();
        let others = [(from + 1) % 3, (from + 2) % 3];
        let answer = cluster.switch_over(from, others[0], Some(&in_seconds(6)));
        assert!(answer.contains(" 202 "), "{answer}");
        // The leader can ask nobody whether he is fit to lead.
        others.iter().for_each(|other| cluster.member(*other).freeze_patroni(true));
        for event in ["a scheduled switchover is prepared for", "a scheduled switchover was called off"] {
            eventually(event, Duration::from_secs(20), || proxy.log().contains(event));
        }
        let begun = Instant::now();
        let port = server_port(&mut client, "insert into t values (1) returning inet_server_port()");
        assert_eq!(port, cluster.member(from).port());
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        others.iter().for_each(|other| cluster.member(*other).freeze_patroni(false));
    });
}

#[test]
fn a_switchover_that_before_stop_announces_costs_short_transactions_nothing() {
    limited_to(LIMIT + PATIENCE * switchovers(), || {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/patroni/before_stop");
        let folder = tempfile::Builder::new().prefix("trunkline-hook-").tempdir_in("/tmp").unwrap();
        // The repository may be closed to the user postgres.
        let copy = folder.path().join("before_stop");
        std::fs::copy(script, &copy).unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let hook = format!("{} \"host=127.0.0.1 port={{port}} user=postgres dbname=postgres\" 5 0.5", copy.display());
        let cluster = PatroniCluster::start(Release::Newest, ["{}"; 3], Some(&hook));
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "");
        let load = Load::begin(&proxy, transfer);
        both_stream(&proxy);
        for _ in 0..switchovers() {
            let from = cluster.leader().unwrap();
            let to = (from + 1) % 3;
            let answer = cluster.switch_over(from, to, None);
            assert!(answer.contains(" 200 "), "{answer}");
            eventually("the new leader leads", Duration::from_secs(20), || cluster.leader() == Some(to));
            eventually("both replicas stream", Duration::from_secs(30), || cluster.streaming() == 2);
        }
        load.end();
    });
}

/// A transaction of some milliseconds.
fn transfer(client: &mut Client, round: i64) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    transaction.execute("insert into t values ($1)", &[&round])?;
    thread::sleep(Duration::from_millis(20));
    transaction.execute("insert into t values ($1)", &[&-round])?;
    transaction.commit()
}

/// A moment from now, as Patroni reads it.
fn in_seconds(seconds: u32) -> String {
    let output = std::process::Command::new("date")
        .args(["--utc", "--date", &format!("+{seconds} seconds"), "+%Y-%m-%dT%H:%M:%S+00:00"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn while_patronis_store_stands_still_reads_go_on_and_writes_wait() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start(Release::Newest, ["{}"; 3], None);
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "[failover]\nhold = '60s'");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        let leader = cluster.leader().unwrap();
        // Of one that has written itself nobody could tell, without a primary, which replica has that.
        let mut reader = proxy.client();
        let read = "select inet_server_port(), (select count(*) from t)";
        eventually("a replica is read", Duration::from_secs(10), || {
            server_port(&mut reader, read) != cluster.member(leader).port()
        });
        cluster.freeze_etcd(true);
        let old = cluster.member(leader).address();
        eventually("the leader gives up", Duration::from_secs(30), || {
            proxy.metric("trunkline_cluster_primary_known", "") == 0.0
        });
        let mut writer = proxy.client();
        let write = thread::spawn(move || writer.execute("insert into t values (1)", &[]));
        for _ in 0..20 {
            server_port(&mut reader, read);
            thread::sleep(Duration::from_millis(20));
        }
        assert!(!write.is_finished());
        cluster.freeze_etcd(false);
        assert_eq!(write.join().unwrap().unwrap(), 1);
        assert_eq!(nodes(&proxy), 3, "{old} was the leader");
    });
}

#[test]
fn a_leader_whose_patroni_stands_still_is_left_for_the_promoted_one() {
    limited_to(LIMIT, || {
        let cluster = PatroniCluster::start(Release::Newest, ["{}"; 3], None);
        let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        // Whoever is promoted has the table then.
        both_stream(&proxy);
        let old = cluster.leader().unwrap();
        cluster.member(old).freeze_patroni(true);
        // Its PostgreSQL goes on as a primary, and is one for us until another has a higher timeline.
        let write = "insert into t values (1) returning inet_server_port()";
        let mut ports = Vec::new();
        let mut in_doubt = 0;
        eventually("another is written to", Duration::from_secs(60), || {
            // What is in flight when the higher timeline is seen may be on the one that is over: nobody can tell its outcome.
            let port = match client.query_one(write, &[]) {
                Ok(row) => u16::try_from(row.get::<_, i32>(0)).unwrap(),
                Err(error) => {
                    assert_eq!(error.code(), Some(&SqlState::TRANSACTION_RESOLUTION_UNKNOWN), "{error:?}");
                    in_doubt += 1;
                    return false;
                }
            };
            if ports.last() != Some(&port) {
                ports.push(port);
            }
            port != cluster.member(old).port()
        });
        for _ in 0..100 {
            assert_ne!(server_port(&mut client, write), cluster.member(old).port());
        }
        assert_eq!(ports.len(), 2, "{ports:?}");
        assert!(in_doubt <= 1, "{in_doubt}");
        cluster.member(old).freeze_patroni(false);
    });
}

#[test]
fn patronis_own_switchovers_are_followed_and_cost_single_statements_nothing() {
    limited_to(LIMIT + PATIENCE * switchovers(), || switchovers_are_followed(Release::Newest));
}

#[test]
fn debians_patroni_is_followed_too() {
    limited_to(LIMIT + PATIENCE * switchovers(), || switchovers_are_followed(Release::Debian));
}

fn switchovers_are_followed(release: Release) {
    let cluster = PatroniCluster::start(release, ["{}"; 3], None);
    let proxy = Proxy::over_patroni(cluster.folder(), &cluster.urls(), "");
    let load = Load::begin(&proxy, |client, round| client.execute("insert into t values ($1)", &[&round]).map(drop));
    both_stream(&proxy);
    for _ in 0..switchovers() {
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

/// A replica whose slot has just been made is still behind, and Patroni would lose what it lacks, or will not switch over to
/// it; an old Patroni calls it running all the same.
fn both_stream(proxy: &Proxy) {
    eventually("both replicas stream", Duration::from_secs(30), || {
        let streams = "select count(*) from pg_stat_replication where state = 'streaming'";
        proxy.client().query_one(streams, &[]).unwrap().get::<_, i64>(0) == 2
    });
    thread::sleep(Duration::from_secs(1));
}

/// What one switchover more may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// In a row; `TRUNKLINE_SWITCHOVERS` says how many.
fn switchovers() -> u32 {
    std::env::var("TRUNKLINE_SWITCHOVERS").map_or(2, |text| text.parse().unwrap())
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
