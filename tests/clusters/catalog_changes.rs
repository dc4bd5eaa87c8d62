//! Catalogs that change while clients read: what is changed through Trunkline counts from the next statement on, what is
//! changed elsewhere within the refresh interval, and no client ever sees an error of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited, server_port};
use crate::raw::{RawClient, SYNC, parse, query};

/// A change that makes a read one for the primary, and one that makes it a read again.
struct Change {
    read: &'static str,
    make: &'static str,
    undo: &'static str,
}

const PREPARATION: &str = "
    create table t (a int); insert into t values (1);
    create table u (a int); insert into u values (1);
    create sequence s;
    create view v as select a from t;
    create function f() returns int language plpgsql stable as
        'begin if false then insert into t values (2); end if; return inet_server_port(); end';
    create domain d as text;
    create type pair as (n int, word text);
    create function loud(text) returns boolean language plpgsql volatile as 'begin perform nextval(''s''); return true; end';
    create domain checked as text check (loud(value))";

const CHANGES: &[Change] = &[
    Change { read: "select f()", make: "alter function f() volatile", undo: "alter function f() stable" },
    Change {
        read: "select inet_server_port() from u",
        make: "alter table u set unlogged",
        undo: "alter table u set logged",
    },
    Change {
        read: "select inet_server_port() from v",
        make: "create or replace view v as select nextval('s')::int as a",
        undo: "create or replace view v as select a from t",
    },
    Change {
        read: "select inet_server_port() from t",
        make: "create schema bench; create unlogged table bench.t (a int); insert into bench.t values (2)",
        undo: "drop schema bench cascade",
    },
    Change {
        read: "select inet_server_port() where 'x'::d is not null",
        make: "alter domain d add constraint c check (loud(value))",
        undo: "alter domain d drop constraint c",
    },
    Change {
        read: "select inet_server_port() where '(1,x)'::pair is not null",
        make: "alter type pair alter attribute word type checked",
        undo: "alter type pair alter attribute word type text",
    },
    Change {
        read: "select inet_server_port() where lower('X'::varchar) <> ''",
        make: "create function lower(varchar) returns text language plpgsql as \
               'begin perform nextval(''s''); return $1; end'",
        undo: "drop function lower(varchar)",
    },
    Change {
        read: "select f()",
        make: "begin; alter function f() volatile; select 1; commit",
        undo: "do $$ begin alter function f() stable; end $$",
    },
];

/// Catalogs that nothing but a change through Trunkline has it read again.
fn prepared() -> (Cluster, Proxy) {
    let cluster = cluster();
    cluster.node(0).sql(PREPARATION).unwrap();
    let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1d'");
    (cluster, proxy)
}

#[test]
fn what_is_changed_through_trunkline_counts_from_the_next_statement_on() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let (mut one, mut other) = (proxy.client(), proxy.client());
        let primary = cluster.node(0).port();
        for change in CHANGES {
            comes_back_to_replicas(&mut one, change.read, primary);
            one.batch_execute(change.make).unwrap();
            for client in [&mut one, &mut other] {
                assert_eq!(server_port(client, change.read), primary, "{} after {}", change.read, change.make);
            }
            thread::sleep(Duration::from_millis(100));
            assert_eq!(server_port(&mut other, change.read), primary, "{} later", change.read);
            one.batch_execute(change.undo).unwrap();
        }
        comes_back_to_replicas(&mut other, "select f()", primary);
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 0.0);
    });
}

#[test]
fn catalogs_are_believed_again_while_functions_are_called_and_triggers_in_c_run_all_the_time() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let primary = cluster.node(0).port();
        let mut one = proxy.client();
        let sql = "create extension moddatetime; create table kept (a int, at timestamp);
            create trigger keeps before update on kept for each row execute function moddatetime(at);
            insert into kept values (1);
            create function own_id() returns uuid language c as '$libdir/pgcrypto', 'pg_random_uuid'";
        one.batch_execute(sql).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let called = "insert into kept values (length(own_id()::text))";
        let busy: Vec<_> = ["select f()", "update kept set a = a + 1", "select no_such_function()", called]
            .into_iter()
            .map(|sql| {
                let (mut client, is_over) = (proxy.client(), Arc::clone(&is_over));
                thread::spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let _ = client.batch_execute(sql);
                    }
                })
            })
            .collect();
        for make in ["alter table u set unlogged", "alter table u set logged"] {
            one.batch_execute(make).unwrap();
        }
        comes_back_to_replicas(&mut one, "select inet_server_port() from u", primary);
        // And they stay so.
        let unknown = || proxy.metric("trunkline_statements_total", "reason=\"catalog_unknown\"");
        let before = unknown();
        thread::sleep(Duration::from_secs(2));
        let more = unknown() - before;
        is_over.store(true, Ordering::Relaxed);
        busy.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(more < 100.0, "{more} statements were judged without catalogs");
    });
}

#[test]
fn a_change_that_comes_right_behind_what_fails_counts() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let primary = cluster.node(0).port();
        let (mut one, mut other) = (proxy.client(), RawClient::connect(proxy.port(), &[]));
        comes_back_to_replicas(&mut one, "select f()", primary);
        let both =
            [parse("", "select no_such_function()"), SYNC.to_vec(), query("alter function f() volatile")].concat();
        let told = other.ask(&[&both], 2);
        assert!(told.iter().any(|told| told.starts_with("42883")), "{told:?}");
        assert_eq!(told.last().map(String::as_str), Some("I"), "{told:?}");
        for _ in 0..20 {
            assert_eq!(server_port(&mut one, "select f()"), primary);
        }
    });
}

#[test]
fn what_a_transaction_has_changed_counts_while_the_next_one_is_chained_to_it() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let (mut one, mut other) = (proxy.client(), proxy.client());
        let primary = cluster.node(0).port();
        let read = "select inet_server_port() from u";
        for end in ["commit and chain", "commit; begin"] {
            comes_back_to_replicas(&mut other, read, primary);
            for sql in ["begin", "alter table u set unlogged", end] {
                one.batch_execute(sql).unwrap();
            }
            assert_eq!(server_port(&mut other, read), primary, "{end}");
            one.batch_execute("commit; alter table u set logged").unwrap();
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 0.0);
    });
}

#[test]
fn what_is_changed_by_a_procedure_or_a_function_counts_from_the_next_statement_on() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql(PREPARATION).unwrap();
        cluster
            .node(0)
            .sql(
                "create procedure p() language plpgsql as 'begin alter table u set unlogged; end';
                 create function g() returns int language plpgsql as 'begin execute ''alter table u set logged''; return 1; end';
                 create function h() returns int language plpgsql as 'begin call p(); return 1; end'",
            )
            .unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1d'");
        let (mut one, mut other) = (proxy.client(), proxy.client());
        let primary = cluster.node(0).port();
        let read = "select inet_server_port() from u";
        for make in ["call p()", "select h()"] {
            comes_back_to_replicas(&mut one, read, primary);
            one.batch_execute(make).unwrap();
            assert_eq!(server_port(&mut other, read), primary, "after {make}");
            one.batch_execute("select g()").unwrap();
        }
        comes_back_to_replicas(&mut one, read, primary);
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 0.0);
    });
}

#[test]
fn a_search_path_given_to_a_role_or_a_database_counts_for_whoever_logs_in_next() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql(PREPARATION).unwrap();
        cluster.node(0).sql("create schema ahead; create unlogged table ahead.t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1d'");
        let mut one = proxy.client();
        let primary = cluster.node(0).port();
        let read = "select inet_server_port() from (select count(*) from t) c";
        for whose in ["role bench", "database bench", "role bench in database bench"] {
            comes_back_to_replicas(&mut proxy.client(), read, primary);
            one.batch_execute(&format!("alter {whose} set search_path = ahead, public")).unwrap();
            // What all roles have in all databases comes behind.
            one.batch_execute("alter role all set search_path = public").unwrap();
            for _ in 0..5 {
                let mut next = proxy.client();
                assert_eq!(server_port(&mut next, read), primary, "after alter {whose}");
                let rows = next.query_one("select count(*) from t", &[]).unwrap();
                assert_eq!(rows.get::<_, i64>(0), 0, "ahead.t is empty");
                thread::sleep(Duration::from_millis(20));
            }
            one.batch_execute(&format!("alter {whose} reset search_path; alter role all reset search_path")).unwrap();
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 0.0);
    });
}

#[test]
fn while_nothing_is_known_of_a_database_the_search_path_of_a_role_counts_all_the_same() {
    limited(|| {
        let cluster = cluster();
        let sql = "create schema ahead;
            create function ahead.version() returns text language sql stable as 'select pg_is_in_recovery()::text';
            alter role bench set search_path = ahead, pg_catalog, public;
            create role watch login password 'watch' in role pg_monitor;
            revoke connect on database bench from public";
        on_primary(&cluster, sql);
        let elsewhere = "monitor = { user = 'watch', password = 'watch', database = 'postgres' }";
        let proxy = Proxy::ruled(&cluster, "", elsewhere, "").with_both_replicas(&cluster);
        let mut client = proxy.client();
        comes_back_to_replicas(&mut client, "select pg_catalog.inet_server_port()", cluster.node(0).port());
        for _ in 0..4 {
            let row = client.query_one("select version()", &[]).unwrap();
            assert_eq!(row.get::<_, String>(0), "false");
        }
    });
}

#[test]
fn what_a_role_becomes_at_login_decides_what_its_names_mean() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql(PREPARATION).unwrap();
        let sql =
            "create role app superuser; create schema app; create function app.f() returns int language plpgsql as
            'begin perform nextval(''s''); return inet_server_port(); end'";
        cluster.node(0).sql(sql).unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1d'");
        let (mut one, primary) = (proxy.client(), cluster.node(0).port());
        for whose in ["role bench", "role bench in database bench", "database bench"] {
            comes_back_to_replicas(&mut proxy.client(), "select f()", primary);
            one.batch_execute(&format!("alter {whose} set role = app")).unwrap();
            eventually("the catalogs are known", Duration::from_secs(5), || {
                proxy.metric("trunkline_catalog_current", "") == 1.0
            });
            for _ in 0..5 {
                assert_eq!(server_port(&mut proxy.client(), "select f()"), primary, "after alter {whose}");
            }
            one.batch_execute(&format!("alter {whose} reset role")).unwrap();
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 0.0);
    });
}

#[test]
fn a_search_path_that_is_given_to_another_database_counts_for_whoever_logs_in_there_next() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database shop").unwrap();
        let sql = "create function gives(path text) returns int language plpgsql as
            $$ begin execute 'alter database shop set search_path = ' || path; return 1; end $$";
        cluster.node(0).sql(sql).unwrap();
        let proxy =
            Proxy::start(&cluster, "[[database]]\nname = 'shop'\ncluster = 'main'\n[routing]\ncatalog_refresh = '1d'");
        let shop = || proxy.client_config().dbname("shop").connect(NoTls).unwrap();
        let sql = "create schema ahead; create unlogged table ahead.t (a int); create table t (a int)";
        shop().batch_execute(sql).unwrap();
        let (mut one, primary) = (proxy.client(), cluster.node(0).port());
        let read = "select inet_server_port() from (select count(*) from t) c";
        for make in [
            "alter database shop set search_path = ahead, public",
            "alter role bench in database shop set search_path = ahead, public",
            "do $$ begin alter database shop set search_path = ahead, public; end $$",
            "select gives('ahead, public')",
        ] {
            comes_back_to_replicas(&mut shop(), read, primary);
            one.batch_execute(make).unwrap();
            for _ in 0..5 {
                let mut next = shop();
                let name: String =
                    next.query_one("insert into t values (1) returning tableoid::regclass::text", &[]).unwrap().get(0);
                assert_eq!((name.as_str(), server_port(&mut next, read)), ("t", primary), "after {make}");
                let path: String = next.query_one("show search_path", &[]).unwrap().get(0);
                assert_eq!(path, "ahead, public", "after {make}");
            }
            one.batch_execute(
                "alter database shop reset search_path; alter role bench in database shop reset search_path",
            )
            .unwrap();
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"read_only\""), 0.0);
    });
}

#[test]
fn a_search_path_given_to_the_server_counts_from_the_next_look_on() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql(PREPARATION).unwrap();
        cluster.node(0).sql("create schema ahead; create unlogged table ahead.t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1s'");
        let primary = cluster.node(0).port();
        let read = "select inet_server_port() from (select count(*) from t) c";
        comes_back_to_replicas(&mut proxy.client(), read, primary);
        for node in cluster.nodes() {
            node.sql("alter system set search_path = ahead, public").unwrap();
            node.sql("select pg_reload_conf()").unwrap();
        }
        eventually("the catalogs are looked at with it", Duration::from_secs(10), || {
            let refused = || proxy.metric("trunkline_retries_total", "cause=\"read_only\"");
            let before = refused();
            (0..5).all(|_| server_port(&mut proxy.client(), read) == primary) && refused() == before
        });
        assert_eq!(proxy.client().query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0), 0);
    });
}

#[test]
fn catalogs_are_read_from_a_replica_where_transactions_are_serializable_by_default() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        // So that the replicas answer the test itself.
        primary.sql("alter role postgres set default_transaction_isolation = 'read committed'").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(primary).unwrap();
        }
        for node in cluster.nodes() {
            node.sql("alter system set default_transaction_isolation = 'serializable'").unwrap();
            node.sql("select pg_reload_conf()").unwrap();
        }
        let _proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        // What it has said last.
        let lines =
            "select count(*) from pg_stat_activity where application_name = 'trunkline catalogs' and query = 'COMMIT'";
        eventually("one has been read", Duration::from_secs(10), || {
            cluster.nodes()[1..].iter().any(|replica| replica.sql(lines).unwrap() != "0")
        });
    });
}

#[test]
fn a_function_that_changes_no_catalog_leaves_reads_on_replicas() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql(PREPARATION).unwrap();
        cluster.node(0).sql("create procedure w() language plpgsql as 'begin insert into t values (1); end'").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1d'\nconsistency = 'eventual'");
        let (mut writer, mut reader) = (proxy.client(), proxy.client());
        let looks = || proxy.metric("trunkline_catalog_looks_total", "");
        let before = looks();
        for _ in 0..50 {
            writer.batch_execute("call w(); select loud('x')").unwrap();
            assert_ne!(server_port(&mut reader, "select f()"), cluster.node(0).port());
        }
        assert_eq!(looks(), before);
    });
}

#[test]
fn a_table_that_was_made_elsewhere_is_read_on_replicas_soon_after_it_was_first_missed() {
    limited(|| {
        let cluster = cluster();
        // The catalogs are looked at every 30 s if nothing makes that sooner.
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        let mut client = proxy.client();
        client.batch_execute("select 1").unwrap();
        cluster.node(0).sql("create table late (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        eventually("replicas are read from", Duration::from_secs(10), || {
            let port = server_port(&mut client, "select inet_server_port() from (select count(*) from late) c");
            thread::sleep(Duration::from_millis(20));
            port != cluster.node(0).port()
        });
    });
}

#[test]
fn what_is_changed_elsewhere_counts_within_the_refresh_interval_and_shows_no_error() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql(PREPARATION).unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = '1s'");
        let mut client = proxy.client();
        let primary = cluster.node(0).port();
        for change in &CHANGES[..4] {
            comes_back_to_replicas(&mut client, change.read, primary);
            on_primary(&cluster, change.make);
            let changed = Instant::now();
            // What the client sees is an answer, always.
            let mut last_on_replica = Duration::ZERO;
            while changed.elapsed() < Duration::from_secs(3) {
                if server_port(&mut client, change.read) != primary {
                    last_on_replica = changed.elapsed();
                }
            }
            assert!(last_on_replica < Duration::from_millis(1500), "{} still after {last_on_replica:?}", change.read);
            on_primary(&cluster, change.undo);
        }
    });
}

#[test]
fn a_frozen_replica_does_not_keep_the_catalogs_from_being_read_after_a_change() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        comes_back_to_replicas(&mut client, "select f()", cluster.node(0).port());
        // Catalogs are read from the first replica that takes reads, and it still does.
        cluster.node(1).freeze().unwrap();
        client.batch_execute("create table fresh (a int)").unwrap();
        eventually("the other replica is read", Duration::from_secs(12), || {
            let read = "select inet_server_port() from (select count(*) from fresh) c";
            thread::sleep(Duration::from_millis(20));
            server_port(&mut client, read) == cluster.node(2).port()
        });
        cluster.node(1).thaw().unwrap();
    });
}

#[test]
fn catalogs_that_can_be_read_no_more_count_until_they_are_changed_and_the_log_says_so() {
    limited(|| {
        let cluster = cluster();
        let sql = "create table t (a int); insert into t values (1);
            create role watch login password 'watch' in role pg_monitor;
            revoke connect on database bench from public; grant connect on database bench to watch";
        on_primary(&cluster, sql);
        let elsewhere = "monitor = { user = 'watch', password = 'watch', database = 'postgres' }";
        let proxy =
            Proxy::ruled(&cluster, "", elsewhere, "[routing]\ncatalog_refresh = '1s'").with_both_replicas(&cluster);
        let (mut client, primary) = (proxy.client(), cluster.node(0).port());
        let read = "select inet_server_port() from t";
        comes_back_to_replicas(&mut client, read, primary);
        on_primary(&cluster, "revoke connect on database bench from watch");
        let its =
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'watch' and datname = 'bench'";
        cluster.nodes().iter().for_each(|node| drop(node.sql(its).unwrap()));
        let says = |words: &str| {
            let expected = format!("the catalogs cannot be read; {words}");
            eventually(words, Duration::from_secs(10), || proxy.log().contains(&expected));
        };
        says("what was read last counts until they are changed");
        assert_ne!(server_port(&mut client, read), primary);
        client.batch_execute("create table fresh (a int)").unwrap();
        says("what is not PostgreSQL's own goes to the primary");
        assert_eq!(server_port(&mut client, read), primary);
    });
}

fn on_primary(cluster: &Cluster, sql: &str) {
    cluster.node(0).sql(sql).unwrap();
    cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
}

fn comes_back_to_replicas(client: &mut Client, read: &str, primary: u16) {
    eventually(read, Duration::from_secs(5), || server_port(client, read) != primary);
}

#[test]
fn what_the_grammar_refuses_and_large_inserts_take_no_reads_from_replicas() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int); insert into t values (1); create table large (a text)").unwrap();
        let proxy = Proxy::start(&cluster, "[routing]\nfreshness_wait = '1s'").with_both_replicas(&cluster);
        let (mut reader, mut other, primary) = (proxy.client(), proxy.client(), cluster.node(0).port());
        let read = "select inet_server_port() from t limit 1";
        eventually("reads go to replicas", Duration::from_secs(10), || server_port(&mut reader, read) != primary);
        let large = format!("insert into large values ('{}')", "x".repeat(2_000_000));
        for _ in 0..5 {
            assert!(other.batch_execute("selec 1").is_err());
            assert_ne!(server_port(&mut reader, read), primary);
            other.batch_execute(&large).unwrap();
            assert_ne!(server_port(&mut reader, read), primary);
        }
        // What it has changed counts all the same.
        let changes = format!("alter table t set unlogged; comment on table t is '{}'", "x".repeat(2_000_000));
        other.batch_execute(&changes).unwrap();
        assert_eq!(server_port(&mut reader, read), primary);
    });
}
