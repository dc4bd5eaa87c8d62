//! A configuration that is read anew while clients go on.

use std::collections::HashSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls, SimpleQueryMessage};
use toml::{Table, Value};
use trunkline::demo::node::Node;

use crate::fixture::{Proxy, cluster, console, eventually, limited, login, pgbench, server_port};
use crate::pgbench::fill;
use crate::relay::Relay;

const SOON: Duration = Duration::from_secs(10);

/// Changes the configuration, tells it by SIGHUP, and waits until its log has this once more.
fn reload(proxy: &Proxy, expected: &str, change: impl FnOnce(&mut Table)) {
    let count = || proxy.log().matches(expected).count();
    let before = count();
    proxy.rewrite(change);
    proxy.signal("HUP");
    eventually(expected, SOON, || count() > before);
}

fn set(configuration: &mut Table, section: &str, key: &str, value: impl Into<Value>) {
    let section = configuration.entry(section).or_insert_with(|| Table::new().into());
    section.as_table_mut().unwrap().insert(key.to_owned(), value.into());
}

fn nodes(configuration: &mut Table) -> &mut Vec<Value> {
    configuration["cluster"][0]["nodes"].as_array_mut().unwrap()
}

const DONE: &str = "the configuration has been reloaded";

#[test]
fn what_is_known_of_a_clusters_users_outlives_a_reload() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create role ada login password 'ada'; create role asker login superuser password 'a'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let proxy = Proxy::start(&cluster, "[cluster.auth_query]\nuser = 'asker'\npassword = 'a'");
        login(proxy.port(), "ada", "ada").connect(NoTls).unwrap();
        primary.sql("alter role asker nologin").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        reload(&proxy, DONE, |file| set(file, "pool", "size", 7));
        login(proxy.port(), "ada", "ada").connect(NoTls).unwrap();
        // Asked in another way, it is asked anew.
        reload(&proxy, DONE, |file| {
            let query = "select usename, passwd from pg_shadow where usename = $1 and true";
            file["cluster"][0]["auth_query"].as_table_mut().unwrap().insert("query".to_owned(), query.into());
        });
        login(proxy.port(), "ada", "ada").connect(NoTls).err().unwrap();
    });
}

#[test]
fn whoever_keeps_the_catalogs_goes_on_over_reloads_that_change_nothing_for_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1d'").with_both_replicas(&cluster);
        let loads = || proxy.metric("trunkline_catalog_looks_total", "outcome=\"loaded\"");
        let is_current = || proxy.metric("trunkline_catalog_current", "database=\"bench\"") == 1.0;
        let asked = "select coalesce(min(pid), 0) from pg_stat_activity where application_name = 'trunkline catalogs'";
        let keeper = || cluster.node(0).sql(asked).unwrap();
        eventually("the catalogs are kept", SOON, || is_current() && keeper() != "0");
        let before = (loads(), keeper());
        for size in 5..10 {
            reload(&proxy, DONE, |file| set(file, "pool", "size", size));
        }
        assert_eq!((loads(), keeper()), before);
        proxy.client().batch_execute("create table made (a int)").unwrap();
        eventually("what is changed is read", SOON, || loads() > before.0 && is_current());
        let before = loads();
        reload(&proxy, DONE, |file| set(file, "routing", "safe_functions", vec!["f"]));
        eventually("what functions are taken for counts", SOON, || loads() > before && is_current());
    });
}

#[test]
fn lists_of_functions_that_are_changed_without_a_primary_take_no_reads_away() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, "[routing]\nconsistency = 'eventual'").with_both_replicas(&cluster);
        let is_current = || proxy.metric("trunkline_catalog_current", "database=\"bench\"") == 1.0;
        eventually("the catalogs are known", SOON, is_current);
        let mut client = proxy.client();
        client.query_one("select count(*) from t", &[]).unwrap();
        cluster.node(0).kill().unwrap();
        eventually("it is known", SOON, || proxy.metric("trunkline_cluster_primary_known", "") == 0.0);
        reload(&proxy, DONE, |file| set(file, "routing", "safe_functions", vec!["f"]));
        for _ in 0..10 {
            client.query_one("select count(*) from t", &[]).unwrap();
        }
    });
}

#[test]
fn clients_go_on_while_everything_that_can_change_does() {
    limited(|| {
        let cluster = cluster();
        fill(&cluster);
        let proxy = Proxy::start(&cluster, "");
        let load = pgbench(proxy.port(), &["-n", "-c", "8", "-j", "1", "-T", "6"])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let last = nodes_of(&proxy);
        for round in 0..6 {
            reload(&proxy, DONE, |file| {
                set(file, "pool", "size", 3 + round);
                set(file, "failover", "hold", format!("{}s", 5 + round));
                set(file, "routing", "max_lag", format!("{}s", 8 + round / 2));
                set(file, "log", "level", if round % 2 == 0 { "debug" } else { "info" });
                // One node leaves, comes back at another place, and so on: each time the others have other numbers.
                *nodes(file) = match round % 3 {
                    0 => last.iter().skip(1).chain(last.first()).cloned().collect(),
                    1 => last.iter().take(2).cloned().collect(),
                    _ => last.clone(),
                };
            });
        }
        let output = load.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("ERROR") && !said.contains("aborted"), "{said}");
    });
}

#[test]
fn a_monitor_that_is_let_in_no_more_is_seen_while_its_connections_go_on_and_a_reload_mends_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role watcher login password 'old' in role pg_monitor").unwrap();
        let as_watcher = "[cluster.monitor]\nuser = 'watcher'\npassword = 'old'";
        let proxy = Proxy::start(&cluster, as_watcher).with_both_replicas(&cluster);
        let can_log_in = || proxy.metric("trunkline_monitor_can_log_in", "");
        assert_eq!(can_log_in(), 3.0);
        cluster.node(0).sql("alter role watcher password 'new'").unwrap();
        eventually("each node has refused a login", 2 * SOON, || can_log_in() == 0.0);
        let complaint = "the monitor cannot log in anew";
        assert!(proxy.log().matches(complaint).count() >= 3, "one for each node");
        assert_eq!(proxy.page("/topology").matches(complaint).count(), 3);
        assert_eq!(proxy.metric("trunkline_node_up", ""), 3.0);
        proxy.client().batch_execute("create table t (a int)").unwrap();
        let set_password =
            |file: &mut Table| set(file["cluster"][0].as_table_mut().unwrap(), "monitor", "password", "new");
        reload(&proxy, DONE, set_password);
        eventually("each node lets it in", SOON, || can_log_in() == 3.0);
        assert!(!proxy.page("/topology").contains(complaint));
    });
}

#[test]
fn a_primary_whose_replica_is_silent_is_not_fenced_by_a_reload() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let hurried = "[cluster.monitor]\ninterval = '200ms'\ntimeout = '200ms'";
        let nodes = [0, 1].map(|number| cluster.node(number).address());
        let proxy = Proxy::before(&cluster, &nodes, hurried);
        cluster.node(1).freeze().unwrap();
        eventually("it is known to be down", SOON, || !proxy.takes_reads(cluster.node(1).address()));
        let mut client = proxy.client();
        let mut transaction = client.transaction().unwrap();
        transaction.execute("insert into t values (1)", &[]).unwrap();
        reload(&proxy, DONE, |file| set(file, "routing", "max_lag", "7s"));
        transaction.execute("insert into t values (2)", &[]).unwrap();
        transaction.commit().unwrap();
        assert!(!proxy.log().contains("is fenced"), "it has been the primary all the time");
    });
}

#[test]
fn a_read_on_a_replica_that_only_the_new_monitor_finds_frozen_runs_again_elsewhere() {
    limited(|| {
        let cluster = cluster();
        let nodes = [0, 1].map(|number| cluster.node(number).address());
        let patient = "[cluster.monitor]\ninterval = '2s'\ntimeout = '20s'";
        let proxy = Proxy::before(&cluster, &nodes, patient);
        eventually("the replica takes reads", SOON, || proxy.takes_reads(nodes[1]));
        let mut client = proxy.client();
        assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(1).port());
        let reading = thread::spawn(move || server_port(&mut client, "select inet_server_port() from pg_sleep(1)"));
        thread::sleep(Duration::from_millis(400));
        cluster.node(1).freeze().unwrap();
        reload(&proxy, DONE, |file| {
            let cluster = file["cluster"][0].as_table_mut().unwrap();
            set(cluster, "monitor", "interval", "1s");
            set(cluster, "monitor", "timeout", "400ms");
        });
        eventually("the read is answered", SOON, || reading.is_finished());
        assert_eq!(reading.join().unwrap(), cluster.node(0).port());
    });
}

#[test]
fn who_reads_from_a_replica_that_has_no_room_for_the_new_monitor_goes_on() {
    limited(|| {
        let cluster = cluster();
        let relay = Relay::to(cluster.node(1).address());
        let proxy = Proxy::before(&cluster, &[cluster.node(0).address(), relay.address()], "");
        eventually("the replica takes reads", SOON, || proxy.takes_reads(relay.address()));
        let mut client = proxy.client();
        client.batch_execute("begin read only").unwrap();
        let mut reads_from = || server_port(&mut client, "select inet_server_port()");
        assert_eq!(reads_from(), cluster.node(1).port());
        relay.turn_away(b"E\0\0\0\x3bSFATAL\0VFATAL\0C53300\0Msorry, too many clients already\0\0");
        reload(&proxy, DONE, |file| set(file, "routing", "max_lag", "9s"));
        assert!(!proxy.takes_reads(relay.address()), "{}", proxy.log());
        thread::sleep(Duration::from_millis(500));
        assert_eq!(reads_from(), cluster.node(1).port());
        client.batch_execute("commit").unwrap();
    });
}

/// By itself the monitor looks where a name leads with each ninth probe.
#[test]
fn a_server_whose_name_has_moved_is_left_also_when_a_reload_comes_before_that_was_seen() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let name = Relay::to(cluster.node(0).address());
        let proxy = Proxy::before(&cluster, &[name.address()], "[cluster.monitor]\ninterval = '2s'");
        let mut client = proxy.client();
        let write = "insert into t values (1) returning inet_server_port()";
        assert_eq!(server_port(&mut client, write), cluster.node(0).port());
        // It goes on, as one does that is cut off.
        cluster.node(1).promote().unwrap();
        name.lead_to(cluster.node(1).address());
        reload(&proxy, DONE, |file| set(file, "routing", "max_lag", "9s"));
        let closed = "connections to the server that the node was before are closed";
        assert_eq!(proxy.log().matches(closed).count(), 1, "{}", proxy.log());
        for _ in 0..5 {
            assert_eq!(server_port(&mut client, write), cluster.node(1).port());
        }
        // What has been left is not left once more.
        reload(&proxy, DONE, |file| set(file, "routing", "max_lag", "8s"));
        assert_eq!(proxy.log().matches(closed).count(), 1, "{}", proxy.log());
    });
}

#[test]
fn what_an_operator_drains_or_attaches_while_a_reload_waits_counts_after_it() {
    limited(|| {
        let cluster = cluster();
        let nodes = [0, 1, 2].map(|number| cluster.node(number).address());
        let patient = "[admin]\nusers = ['bench']\n[cluster.monitor]\ninterval = '200ms'\ntimeout = '2s'";
        let proxy = Proxy::before(&cluster, &nodes, patient).with_both_replicas(&cluster);
        let mut console = console(&proxy);
        let other = cluster.node(2).address();
        for (order, takes_reads, interval) in [("DRAIN", false, "210ms"), ("ATTACH", true, "220ms")] {
            let before = proxy.log().matches(DONE).count();
            // What takes over waits for a replica that takes reads now.
            cluster.node(1).freeze().unwrap();
            proxy.rewrite(|file| {
                let monitor = file["cluster"][0].as_table_mut().unwrap()["monitor"].as_table_mut().unwrap();
                monitor.insert("interval".to_owned(), interval.into());
            });
            proxy.signal("HUP");
            thread::sleep(Duration::from_millis(500));
            console.simple_query(&format!("{order} {other}")).unwrap();
            assert_eq!(proxy.log().matches(DONE).count(), before, "the reload waits");
            eventually("the configuration is reloaded", 2 * SOON, || proxy.log().matches(DONE).count() > before);
            cluster.node(1).thaw().unwrap();
            eventually("the thawed one takes reads", SOON, || proxy.takes_reads(cluster.node(1).address()));
            assert_eq!(proxy.takes_reads(other), takes_reads, "after {order}");
        }
    });
}

#[test]
fn a_node_that_is_drained_and_taken_out_of_the_configuration_comes_back_to_take_reads() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']").with_both_replicas(&cluster);
        let drained = cluster.node(2).address();
        console(&proxy).simple_query(&format!("DRAIN {drained}")).unwrap();
        assert!(!proxy.takes_reads(drained));
        let mut gone = None;
        reload(&proxy, DONE, |file| gone = nodes(file).pop());
        reload(&proxy, DONE, |file| nodes(file).push(gone.unwrap()));
        eventually("it takes reads", SOON, || proxy.takes_reads(drained));
    });
}

fn nodes_of(proxy: &Proxy) -> Vec<Value> {
    let mut found = Vec::new();
    proxy.rewrite(|file| found.clone_from(nodes(file)));
    found
}

#[test]
fn a_session_sees_its_writes_also_when_its_nodes_get_other_numbers() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        cluster.nodes()[1..].iter().for_each(|replica| replica.pause_replay().unwrap());
        client.batch_execute("insert into t values (1)").unwrap();
        reload(&proxy, DONE, |file| nodes(file).reverse());
        let count: i64 = client.query_one("select count(*) from t", &[]).unwrap().get(0);
        assert_eq!(count, 1);
        cluster.nodes()[1..].iter().for_each(|replica| replica.resume_replay().unwrap());
        let primary = cluster.node(0).port();
        eventually("reads are back on replicas", SOON, || {
            server_port(&mut client, "select inet_server_port() from t limit 1") != primary
        });
    });
}

#[test]
fn a_wrong_configuration_leaves_the_old_one_in_force_and_says_what_is_wrong() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        reload(&proxy, "the old one stays in force", |file| set(file, "pool", "size", "many"));
        let log = proxy.log();
        assert!(log.contains("pool.size: expected a whole number"), "{log}");
        let is_told = |expected: f64| proxy.metric("trunkline_config_last_reload_successful", "") == expected;
        eventually("the metric says so", SOON, || is_told(0.0));
        client.simple_query("select 1").unwrap();
        proxy.client().simple_query("select 1").unwrap();
        reload(&proxy, DONE, |file| set(file, "pool", "size", 7));
        eventually("the metric says so, too", SOON, || is_told(1.0));
    });
}

#[test]
fn who_is_taken_out_leaves_when_idle_and_who_is_put_in_may_come() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada login password 'one'; create role bob login password 'two'").unwrap();
        let proxy = Proxy::start(&cluster, "[[user]]\nname = 'ada'\npassword = 'one'");
        let connect = |user: &str, password: &str| login(proxy.port(), user, password).connect(NoTls);
        let mut ada = connect("ada", "one").unwrap();
        ada.batch_execute("begin; select 1").unwrap();
        assert!(connect("bob", "two").is_err());
        reload(&proxy, DONE, |file| {
            let ada = file["user"].as_array_mut().unwrap().last_mut().unwrap().as_table_mut().unwrap();
            ada.insert("name".to_owned(), "bob".into());
            ada.insert("password".to_owned(), "two".into());
        });
        connect("bob", "two").unwrap().simple_query("select 1").unwrap();
        assert!(connect("ada", "one").is_err());
        ada.simple_query("select 2").expect("her transaction goes on");
        // The driver takes the goodbye that follows at once for the answer.
        let _ = ada.batch_execute("commit");
        eventually("ada is sent away", SOON, || ada.simple_query("select 3").is_err());
    });
}

#[test]
fn who_keeps_a_connection_to_a_cluster_that_is_watched_no_more_is_cut_off_when_it_has_had_time() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\ndrain_timeout = '2s'");
        let mut keeps = proxy.client();
        keeps.batch_execute("listen news").unwrap();
        let mut other = proxy.client();
        other.simple_query("select 1").unwrap();
        reload(&proxy, DONE, |file| {
            rename_cluster(file);
            nodes(file).pop();
        });
        keeps.simple_query("select 1").expect("it has two seconds");
        other.simple_query("select 1").expect("it goes on in the new cluster");
        // Nobody would fence that connection after the next failover.
        eventually("it is cut off", SOON, || keeps.simple_query("select 1").is_err());
        other.simple_query("select 1").unwrap();
        assert!(proxy.log().contains("no longer in the configuration are closed"), "{}", proxy.log());
    });
}

/// Gives the cluster another name, for its databases too.
fn rename_cluster(file: &mut Table) {
    file["cluster"][0].as_table_mut().unwrap().insert("name".to_owned(), "renamed".into());
    for database in file["database"].as_array_mut().unwrap() {
        database.as_table_mut().unwrap().insert("cluster".to_owned(), "renamed".into());
    }
}

#[test]
fn a_cluster_that_only_gets_another_name_goes_on_as_it_was() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\ndrain_timeout = '1s'");
        let (mut keeps, mut client) = (proxy.client(), proxy.client());
        keeps.batch_execute("listen news").unwrap();
        let mut transaction = client.transaction().unwrap();
        let process = |transaction: &mut postgres::Transaction<'_>| -> i32 {
            transaction.query_one("select pg_backend_pid(), txid_current()", &[]).unwrap().get(0)
        };
        let before = process(&mut transaction);
        reload(&proxy, DONE, rename_cluster);
        // Longer than those have who keep a connection to a node that is watched no more.
        thread::sleep(Duration::from_secs(2));
        assert_eq!(process(&mut transaction), before);
        transaction.commit().unwrap();
        keeps.simple_query("select 1").unwrap();
        assert_eq!(proxy.metric("trunkline_cluster_primary_known", "cluster=\"renamed\""), 1.0);
        assert!(!proxy.has_metric("trunkline_cluster_primary_known", "cluster=\"main\""), "{}", proxy.log());
        assert!(!proxy.log().contains("no longer in the configuration"), "{}", proxy.log());
    });
}

#[test]
fn no_database_moves_to_a_cluster_without_a_primary() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        let mut first = Table::new();
        proxy.rewrite(|file| first.clone_from(file["cluster"][0].as_table().unwrap()));
        let mut refused = |cluster: &str, change: &dyn Fn(&mut Table)| {
            let told = || proxy.log().matches(&format!("no primary is found in cluster \"{cluster}\"")).count();
            let before = told();
            proxy.rewrite(change);
            proxy.signal("HUP");
            eventually("the reload is refused", 2 * SOON, || told() > before);
            assert!(!proxy.log().contains(DONE), "{}", proxy.log());
            client.batch_execute("insert into t values (1)").unwrap();
        };
        refused("renamed", &|file| {
            rename_cluster(file);
            set(file["cluster"][0].as_table_mut().unwrap(), "monitor", "password", "another");
        });
        // Nothing listens there.
        refused("renamed", &|file| *nodes(file) = vec!["127.0.0.1:1".into()]);
        // Another cluster takes its name.
        refused("main", &|file| {
            let (mut old, mut other) = (first.clone(), first.clone());
            old.insert("name".to_owned(), "old".into());
            other.insert("nodes".to_owned(), vec!["127.0.0.1:1"].into());
            file.insert("cluster".to_owned(), Value::Array(vec![old.into(), other.into()]));
            for database in file["database"].as_array_mut().unwrap() {
                database.as_table_mut().unwrap().insert("cluster".to_owned(), "main".into());
            }
        });
    });
}

#[test]
fn what_is_created_over_a_reload_counts_for_everybody_at_once() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        let reads = "create function f() returns int language sql stable as 'select inet_server_port()'";
        primary.sql(reads).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let (mut changes, mut reads) = (proxy.client(), proxy.client());
        changes.batch_execute("begin; select txid_current()").unwrap();
        reload(&proxy, DONE, |file| nodes(file).reverse());
        eventually("the replicas take the call", SOON, || server_port(&mut reads, "select f()") != primary.port());
        let hides = "create or replace function f() returns int language plpgsql volatile as \
                     'begin if false then create table t (); end if; return inet_server_port(); end'";
        changes.batch_execute(hides).unwrap();
        changes.batch_execute("commit").unwrap();
        for _ in 0..4 {
            assert_eq!(server_port(&mut reads, "select f()"), primary.port());
        }
    });
}

#[test]
fn who_keeps_a_server_connection_goes_by_what_has_been_reloaded_too() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada login password 'one'").unwrap();
        let proxy = Proxy::start(&cluster, "[[user]]\nname = 'ada'\npassword = 'one'");
        let mut ada = login(proxy.port(), "ada", "one").connect(NoTls).unwrap();
        let mut keeps = proxy.client();
        ada.batch_execute("listen news").unwrap();
        keeps.batch_execute("listen news").unwrap();
        let rules = cluster.folder().join("refusing.toml");
        std::fs::write(&rules, "[[rule]]\nname = 'none'\nkind = 'delete'\nrefuse = 'not today'").unwrap();
        reload(&proxy, DONE, |file| set(file, "routing", "rules", vec![rules.to_str().unwrap()]));
        let refused = keeps.batch_execute("delete from pg_class where false").unwrap_err();
        assert_eq!(refused.as_db_error().map(|error| error.message()), Some("not today"));
        keeps.batch_execute("notify news, 'still heard'").unwrap();
        ada.batch_execute("select 1").unwrap();
        reload(&proxy, DONE, |file| {
            file["user"].as_array_mut().unwrap().retain(|user| user["name"].as_str() != Some("ada"));
        });
        eventually("ada is sent away", SOON, || ada.simple_query("select 2").is_err());
        keeps.simple_query("select 2").unwrap();
    });
}

#[test]
fn a_reload_by_which_nodes_are_trusted_no_more_changes_nothing() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        // None of them speaks TLS.
        reload(&proxy, "the old one stays in force", |file| {
            let tls: Table = toml::from_str("mode = 'require'").unwrap();
            file["cluster"][0].as_table_mut().unwrap().insert("tls".to_owned(), tls.into());
        });
        proxy.client().batch_execute("begin; select 1; commit").unwrap();
    });
}

#[test]
fn what_needs_a_restart_is_said() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        reload(&proxy, DONE, |file| {
            file.insert("workers".to_owned(), 7.into());
            file.insert("io_uring".to_owned(), false.into());
        });
        let log = proxy.log();
        assert!(log.contains("counts only after a restart") && log.contains("workers"), "{log}");
        assert!(log.contains("io_uring"), "{log}");
        // It is said as long as it is so, and no longer.
        let told = |proxy: &Proxy| proxy.log().matches("counts only after a restart").count();
        let once = told(&proxy);
        reload(&proxy, DONE, |_| {});
        assert_eq!(told(&proxy), 2 * once);
        reload(&proxy, DONE, |file| {
            file.remove("workers");
            file.remove("io_uring");
        });
        assert_eq!(told(&proxy), 2 * once);
    });
}

#[test]
fn a_reload_by_which_no_primary_would_be_found_changes_nothing() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let mut transaction = client.transaction().unwrap();
        transaction.execute("insert into t values (1)", &[]).unwrap();
        // The monitor's role has another password by now. What it is logged in with goes on.
        proxy.rewrite(|file| set(file["cluster"][0].as_table_mut().unwrap(), "monitor", "password", "another"));
        proxy.signal("HUP");
        let is_told = || proxy.log().contains("no primary is found") && proxy.log().contains("password authentication");
        eventually("the reload is refused", 2 * SOON, is_told);
        assert!(!proxy.log().contains(DONE), "{}", proxy.log());
        transaction.execute("insert into t values (2)", &[]).unwrap();
        transaction.commit().unwrap();
        assert_eq!(client.query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0), 2);
        proxy.client().execute("insert into t values (3)", &[]).unwrap();
    });
}

#[test]
fn a_former_primary_takes_no_writes_after_a_reload_either() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[failover]\nhold = \"1s\"");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        cluster.node(2).kill().unwrap();
        cluster.node(1).promote().unwrap();
        let successor = cluster.node(1).port();
        eventually("writes go to the successor", Duration::from_secs(20), || {
            client.query_one("select inet_server_port() from pg_advisory_xact_lock(1)", &[]).is_ok_and(|row| {
                let port: i32 = row.get(0);
                port == i32::from(successor)
            })
        });
        cluster.node(1).kill().unwrap();
        eventually("its loss is known", Duration::from_secs(20), || {
            client.batch_execute("insert into t values (1)").is_err()
        });
        reload(&proxy, DONE, |file| set(file, "routing", "max_lag", "3s"));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let error = client.batch_execute("insert into t values (1)").unwrap_err();
            assert_eq!(error.code().map(SqlState::code), Some("57P03"), "{error}");
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap().trim(), "0");
    });
}

#[test]
fn a_pause_waits_also_for_transactions_whose_pools_a_reload_has_forgotten() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']\n[failover]\npause_timeout = \"1s\"");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int); begin; insert into t values (1)").unwrap();
        reload(&proxy, DONE, |file| nodes(file).reverse());
        let mut console = console(&proxy);
        assert!(console.batch_execute("pause bench").is_err(), "a transaction is open");
        client.batch_execute("commit").unwrap();
        console.batch_execute("pause bench").unwrap();
        console.batch_execute("resume bench").unwrap();
    });
}

#[test]
fn a_pause_that_is_under_way_waits_also_for_transactions_whose_pools_a_reload_gives_other_numbers() {
    limited(|| {
        let cluster = cluster();
        let nodes: Vec<_> = cluster.nodes()[..2].iter().map(Node::address).collect();
        let proxy = Proxy::before(&cluster, &nodes, "[admin]\nusers = ['bench']");
        let mut client = proxy.client();
        client.batch_execute("create table t (a int); begin; insert into t values (1)").unwrap();
        let mut console = console(&proxy);
        let mut pausing = crate::fixture::console(&proxy);
        let pausing = thread::spawn(move || pausing.simple_query("PAUSE bench").map(drop));
        let is_paused = |console: &mut Client| {
            let rows = console.simple_query("show databases").unwrap();
            rows.iter().any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get("paused") == Some("1")))
        };
        eventually("the database is paused", SOON, || is_paused(&mut console));
        let third = cluster.node(2).address().to_string();
        reload(&proxy, DONE, |file| self::nodes(file).push(third.into()));
        thread::sleep(Duration::from_millis(200));
        assert!(!pausing.is_finished(), "a transaction is open");
        client.batch_execute("commit").unwrap();
        pausing.join().unwrap().unwrap();
        let ours = "select count(*) from pg_stat_activity where datname = 'bench' and pid <> pg_backend_pid() and application_name not like 'trunkline%'";
        assert_eq!(cluster.node(0).sql(ours).unwrap(), "0", "its connection is closed too");
        console.simple_query("RESUME bench").unwrap();
    });
}

#[test]
fn a_database_that_a_reload_brings_while_all_are_paused_is_paused_too() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']");
        let mut console = console(&proxy);
        console.simple_query("PAUSE").unwrap();
        let late = "name = 'late'\ncluster = 'main'\nserver_name = 'bench'".parse::<Table>().unwrap();
        reload(&proxy, DONE, |file| file["database"].as_array_mut().unwrap().push(late.into()));
        let config = login(proxy.port(), "bench", "bench").dbname("late").clone();
        let waiting = thread::spawn(move || config.connect(NoTls)?.batch_execute("select 1"));
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "it waits for RESUME");
        console.simple_query("RESUME").unwrap();
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn sessions_under_load_go_on_to_new_pools_when_their_password_changes() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create role ada login").unwrap();
        // Whatever is proved counts, so that only a change of pools is seen.
        let file = primary.sql("show hba_file").unwrap();
        let rules = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("host all ada 127.0.0.1/32 trust\n{rules}")).unwrap();
        primary.sql("select pg_reload_conf()").unwrap();
        let user = "[[user]]\nname = 'ada'\npassword = 'a'\nserver_password = '0'";
        let proxy = Proxy::before(&cluster, &[primary.address()], user);
        let is_over = Arc::new(AtomicBool::new(false));
        let sessions: Vec<_> = (0..6)
            .map(|_| {
                let (mut client, is_over) =
                    (login(proxy.port(), "ada", "a").dbname("bench").connect(NoTls).unwrap(), Arc::clone(&is_over));
                thread::spawn(move || {
                    let mut server = || -> i32 { client.query_one("select pg_backend_pid()", &[]).unwrap().get(0) };
                    while !is_over.load(Ordering::Relaxed) {
                        server();
                    }
                    (0..50).map(|_| server()).collect::<HashSet<_>>().len()
                })
            })
            .collect();
        for round in 1..=20 {
            reload(&proxy, DONE, |file| {
                let users = file["user"].as_array_mut().unwrap();
                let ada = users.iter_mut().find(|user| user["name"].as_str() == Some("ada")).unwrap();
                ada.as_table_mut().unwrap().insert("server_password".to_owned(), round.to_string().into());
            });
        }
        is_over.store(true, Ordering::Relaxed);
        let servers: Vec<usize> = sessions.into_iter().map(|session| session.join().unwrap()).collect();
        assert!(servers.iter().all(|count| *count <= 25), "a server connection for each statement: {servers:?}");
    });
}
