//! DROP DATABASE and its kin need a database that nobody else is connected to: what Trunkline keeps there itself is never
//! in the way, and PostgreSQL's own refusal stays where clients are connected. What is kept of databases that there are not.

use std::thread;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls};
use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, console, eventually, limited};

/// `shop` is one database of the cluster, and so is whatever else is asked for.
const ANY: &str = "[[database]]\nname = 'shop'\ncluster = 'main'\n[[database]]\nname = '*'\ncluster = 'main'";

/// PostgreSQL waits five seconds for others to leave before it refuses: what takes less has not waited.
const AT_ONCE: Duration = Duration::from_secs(3);

fn client_of(proxy: &Proxy, database: &str) -> Client {
    proxy.client_config().dbname(database).connect(NoTls).unwrap()
}

/// Leaves idle server connections to this database on the primary and on replicas.
fn visit(cluster: &Cluster, proxy: &Proxy, database: &str) {
    let mut visitors = [(); 4].map(|()| client_of(proxy, database));
    for visitor in &mut visitors {
        visitor.batch_execute("begin; create table if not exists visits (a int); commit").unwrap();
        visitor.batch_execute("select 1; select 2").unwrap();
        visitor.batch_execute("select 1").unwrap();
    }
    let is_kept = |node: usize| {
        let sql = format!("select count(*) from pg_stat_activity where datname = '{database}'");
        cluster.node(node).sql(&sql).unwrap() != "0"
    };
    assert!(is_kept(0), "server connections are idle on the primary");
    eventually("the catalogs are kept, or a pool is", Duration::from_secs(5), || is_kept(1) || is_kept(2));
}

fn quickly(client: &mut Client, sql: &str) {
    let begun = Instant::now();
    client.batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    assert!(begun.elapsed() < AT_ONCE, "{sql} took {:?}", begun.elapsed());
}

fn made_empty(extra: &str) {
    let extra = format!("{extra}\n{ANY}");
    limited(move || {
        let cluster = cluster();
        cluster.node(0).sql("create database shop").unwrap();
        let proxy = Proxy::start(&cluster, &extra).with_both_replicas(&cluster);
        let mut client = proxy.client();
        for round in 0..3 {
            visit(&cluster, &proxy, "shop");
            quickly(&mut client, "create database copy template shop");
            visit(&cluster, &proxy, "shop");
            visit(&cluster, &proxy, "copy");
            quickly(&mut client, "alter database copy rename to other");
            visit(&cluster, &proxy, "other");
            let begun = Instant::now();
            client.execute("drop database other", &[]).unwrap();
            assert!(begun.elapsed() < AT_ONCE);
            quickly(&mut client, "drop database shop");
            let gone = proxy.client_config().dbname("shop").connect(NoTls).err().expect("it is gone");
            assert_eq!(gone.code(), Some(&SqlState::UNDEFINED_DATABASE));
            quickly(&mut client, "create database shop");
            let mut visitor = client_of(&proxy, "shop");
            visitor.batch_execute(&format!("create table t{round} (a int)")).unwrap();
            visitor.query_one(&format!("select count(*) from t{round}"), &[]).unwrap();
            assert!(visitor.query_one("select count(*) from visits", &[]).is_err(), "it is another one");
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"node_lost\""), 0.0);
        for replica in [1, 2] {
            assert!(proxy.takes_reads(cluster.node(replica).address()));
        }
    });
}

#[test]
fn what_trunkline_keeps_open_is_never_in_the_way_of_drop_rename_and_copy() {
    made_empty("");
}

#[test]
fn nor_is_what_is_to_be_kept_open() {
    made_empty("[pool]\nmin_size = 2");
}

#[test]
fn nor_what_is_kept_where_each_client_has_its_own_server_connection() {
    made_empty("[pool]\nmode = 'session'");
}

#[test]
fn what_is_paused_is_renamed_and_copied_at_the_primary_itself() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database shop").unwrap();
        let extra = format!("[admin]\nusers = ['bench']\n{ANY}");
        let proxy = Proxy::start(&cluster, &extra).with_both_replicas(&cluster);
        let mut console = console(&proxy);
        let past = |sql: &str| {
            let begun = Instant::now();
            cluster.node(0).sql(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            assert!(begun.elapsed() < AT_ONCE, "{sql} took {:?}", begun.elapsed());
        };
        for (pause, resume) in [("PAUSE shop", "RESUME shop"), ("PAUSE", "RESUME"), ("KILL shop", "RESUME shop")] {
            visit(&cluster, &proxy, "shop");
            console.simple_query(pause).unwrap();
            past("alter database shop rename to other");
            console.simple_query("RELOAD").unwrap();
            // As long as a keeper takes to come back that does.
            thread::sleep(Duration::from_millis(200));
            past("create database copy template other");
            past("drop database copy");
            past("alter database other rename to shop");
            console.simple_query(resume).unwrap();
            eventually("its catalogs are known again", Duration::from_secs(20), || {
                proxy.metric("trunkline_catalog_current", "database=\"shop\"") == 1.0
            });
        }
    });
}

#[test]
fn after_reconnect_catalogs_are_kept_over_another_connection() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']");
        let asked = "select coalesce(min(pid), 0) from pg_stat_activity where application_name = 'trunkline catalogs' \
                     and datname = 'bench'";
        let keeper = || cluster.node(0).sql(asked).unwrap();
        eventually("they are kept", Duration::from_secs(10), || keeper() != "0");
        for command in ["RECONNECT bench", "RECONNECT"] {
            let before = keeper();
            console(&proxy).simple_query(command).unwrap();
            eventually(command, Duration::from_secs(10), || ![before.as_str(), "0"].contains(&keeper().as_str()));
        }
    });
}

#[test]
fn postgresql_refuses_while_clients_are_connected_and_no_longer() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database shop").unwrap();
        let proxy = Proxy::start(&cluster, ANY);
        let mut client = proxy.client();
        client.batch_execute("create temp table mine (a int)").unwrap();
        let mut visitor = client_of(&proxy, "shop");
        visitor.batch_execute("create table t (a int)").unwrap();
        let error = client.batch_execute("drop database shop").unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::OBJECT_IN_USE));
        visitor.batch_execute("insert into t values (1)").unwrap();
        // As PostgreSQL, it waits a while for whoever is about to leave.
        let leaving = thread::spawn(move || {
            thread::sleep(Duration::from_secs(1));
            drop(visitor);
        });
        quickly(&mut client, "drop database shop");
        leaving.join().unwrap();
        // The keeper comes back although the session keeps its server connection.
        quickly(&mut client, "create database shop");
        let mut visitor = client_of(&proxy, "shop");
        visitor.batch_execute("create function f() returns int language sql as 'select 1'").unwrap();
        eventually("its catalogs are known again", Duration::from_secs(20), || {
            proxy.metric("trunkline_catalog_current", "database=\"shop\"") == 1.0
        });
    });
}

#[test]
fn a_database_that_is_gone_keeps_no_place_and_has_one_again_when_it_is_back() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, ANY);
        let mut client = proxy.client();
        let is_there = || proxy.has_metric("trunkline_catalog_current", "database=\"extra\"");
        for round in 0..2 {
            client.batch_execute("create database extra").unwrap();
            let mut visitor = client_of(&proxy, "extra");
            visitor.batch_execute("create table t (a int)").unwrap();
            eventually("its catalogs are known", Duration::from_secs(20), || {
                proxy.metric("trunkline_catalog_current", "database=\"extra\"") == 1.0
            });
            if round == 0 {
                // Somebody is there for it.
                cluster.node(0).sql("drop database extra with (force)").unwrap();
                thread::sleep(Duration::from_secs(8));
                assert!(is_there());
                drop(visitor);
            } else {
                drop(visitor);
                client.batch_execute("drop database extra").unwrap();
            }
            eventually("its place is free", Duration::from_secs(30), || !is_there());
        }
        assert!(proxy.has_metric("trunkline_catalog_current", "database=\"bench\""));
    });
}

#[test]
fn a_database_that_accepts_no_connections_says_so_at_once_and_serves_again_when_it_does() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create database shop").unwrap();
        let extra = format!("[admin]\nusers = ['bench']\n{ANY}");
        let proxy = Proxy::start(&cluster, &extra).with_both_replicas(&cluster);
        let mut before = client_of(&proxy, "shop");
        before.batch_execute("select txid_current()").unwrap();
        let allow = |allowed: bool| {
            primary.sql(&format!("alter database shop allow_connections {allowed}")).unwrap();
            cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        };
        allow(false);
        console(&proxy).simple_query("RECONNECT shop").unwrap();
        // What nobody has come with yet, a node must be asked about.
        let login = || proxy.client_config().dbname("shop").options("-c work_mem=5MB").connect(NoTls);
        let begun = Instant::now();
        let refused = [login().err(), before.batch_execute("select txid_current()").err()];
        for refused in refused.map(|refused| refused.expect("it accepts no connections")) {
            assert_eq!(refused.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{refused:?}");
            let told = refused.as_db_error().unwrap().message();
            assert_eq!(told, "database \"shop\" is not currently accepting connections");
        }
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
        allow(true);
        before.batch_execute("select txid_current()").unwrap();
        login().unwrap();
    });
}

#[test]
fn the_catalogs_of_many_databases_are_kept_over_ten_connections_to_a_node() {
    limited(|| {
        let cluster = cluster();
        let names: Vec<String> = (0..15).map(|number| format!("tenant{number}")).collect();
        for name in &names {
            cluster.node(0).sql(&format!("create database {name}")).unwrap();
        }
        let databases: String =
            names.iter().map(|name| format!("[[database]]\nname = '{name}'\ncluster = 'main'\n")).collect();
        let proxy = Proxy::start(&cluster, &format!("{databases}[routing]\ncatalog_refresh = '1s'"))
            .with_both_replicas(&cluster);
        let all = |holds: &dyn Fn(&str) -> bool| names.iter().all(|name| holds(&format!("database=\"{name}\"")));
        eventually("all are known", Duration::from_secs(20), || {
            all(&|one| proxy.metric("trunkline_catalog_current", one) == 1.0)
        });
        let asked = "select count(*) from pg_stat_activity where application_name = 'trunkline catalogs'";
        let connections = |node: usize| cluster.node(node).sql(asked).unwrap().parse::<usize>().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            for node in 0..3 {
                assert!(connections(node) <= 10);
            }
        }
        assert!(connections(0) > 0);
        let age = |one: &str| proxy.metric("trunkline_catalog_age_seconds", one);
        eventually("all have been looked at in the meantime", Duration::from_secs(5), || all(&|one| age(one) < 3.0));
        // What is changed through Trunkline is read, whoever's turn it is.
        for name in &names {
            client_of(&proxy, name).batch_execute("create table made (a int)").unwrap();
        }
        eventually("all are known again", Duration::from_secs(20), || {
            all(&|one| proxy.metric("trunkline_catalog_current", one) == 1.0)
        });
    });
}

#[test]
fn databases_that_there_are_not_leave_nothing_behind_but_those_of_the_configuration() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, ANY);
        let names = ["shop".to_owned()].into_iter().chain((0..20).map(|number| format!("nowhere{number}")));
        for name in names {
            let gone = proxy.client_config().dbname(&name).connect(NoTls).err().expect("there is none");
            assert_eq!(gone.code(), Some(&SqlState::UNDEFINED_DATABASE));
        }
        eventually("their pools are forgotten", Duration::from_secs(5), || {
            proxy.metric("trunkline_pool_size", "database=\"nowhere") == 0.0
        });
        assert!(proxy.metric("trunkline_pool_connection_failures_total", "database=\"shop\"") > 0.0);
    });
}
