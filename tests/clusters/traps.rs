//! Statements that other routers send to the wrong node, or answer wrongly: each seen in the wild, each a fact here.

use std::thread;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Client, SimpleQueryMessage};
use trunkline::demo::cluster::Cluster;
use trunkline::sql::differs_between_nodes;

use crate::fixture::{Proxy, cluster, dumped, eventually, limited, server_port};
use crate::raw::{RawClient, SYNC, bind, execute, parse_declaring};

/// A cluster with objects that write when they are read, and Trunkline before it.
fn prepared() -> (Cluster, Proxy) {
    let cluster = cluster();
    cluster.node(0).sql(OBJECTS).unwrap();
    caught_up(&cluster);
    let proxy = Proxy::start(&cluster, "");
    (cluster, proxy)
}

/// What a reader can't see at the call: each of these writes, or is refused by a standby.
const OBJECTS: &str = "
    create table log (what text);
    create table plain (a int primary key); insert into plain select generate_series(1, 10);
    create function writes(what text) returns int language plpgsql volatile as
        $$ begin insert into log values (what); return 1; end $$;
    create sequence tickets;
    create view calls_writer as select a, writes('view') from plain where a = 1;
    create view calls_nextval as select nextval('tickets') as n;
    create view over_view as select * from calls_writer;
    create function compares(int, text) returns bool language plpgsql volatile as
        $$ begin insert into log values ('operator'); return true; end $$;
    create operator === (leftarg = int, rightarg = text, function = compares);
    create type celsius as (degrees int);
    create function to_celsius(int) returns celsius language plpgsql volatile as
        $$ begin insert into log values ('cast'); return row($1)::celsius; end $$;
    create cast (int as celsius) with function to_celsius(int);
    create function adds(int, bigint default nextval('tickets')) returns bigint language sql immutable as 'select $1 + $2';
    create table guarded (a int); insert into guarded values (1);
    create policy logs on guarded using (writes('policy') = 1);
    alter table guarded enable row level security; alter table guarded force row level security;
    create role reader login password 'reader'; grant select on all tables in schema public to reader;
    grant insert on log to reader;
";

#[test]
fn a_view_that_calls_a_writer_runs_on_the_primary_also_through_another_view() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        for sql in ["select * from calls_writer", "select n > 0 from calls_nextval", "table over_view"] {
            answered(&mut client, sql);
        }
        assert_eq!(cluster.node(0).sql("select count(*) from log").unwrap(), "2");
    });
}

#[test]
fn a_table_called_like_one_of_the_system_is_read_anywhere_and_what_is_the_systems_is_not() {
    limited(|| {
        let cluster = cluster();
        let sql = "create table pg_search_documents as select 1 as a; create schema mine;
                   create table mine.pg_timetable as select 1 as a";
        cluster.node(0).sql(sql).unwrap();
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let primary = cluster.node(0).address().port();
        let port_of = |client: &mut Client, relation: &str| -> u16 {
            server_port(
                client,
                &format!("select inet_server_port() from (select 1) one left join {relation} its on true limit 1"),
            )
        };
        for relation in ["pg_search_documents", "public.pg_search_documents", "mine.pg_timetable", "pg_class"] {
            eventually("a replica reads it", Duration::from_secs(5), || port_of(&mut client, relation) != primary);
        }
        let views = "select relname from pg_class where relnamespace = 11 and relkind in ('r', 'v')";
        let views = cluster.node(0).sql(views).unwrap();
        let differing: Vec<&str> = views.lines().filter(|name| differs_between_nodes(name)).collect();
        assert!(differing.len() > 40);
        for view in differing {
            assert_eq!(port_of(&mut client, view), primary, "{view}");
        }
        client.batch_execute("set search_path = mine, pg_catalog").unwrap();
        assert_ne!(port_of(&mut client, "pg_timetable"), primary);
        client.batch_execute("create table mine.pg_locks (); set search_path = pg_catalog, mine").unwrap();
        assert_eq!(port_of(&mut client, "pg_locks"), primary);
    });
}

#[test]
fn an_operator_a_cast_a_default_and_a_policy_that_write_run_on_the_primary() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        answered(&mut client, "select a === 'x' from plain where a = 1");
        answered(&mut client, "select (1::celsius).degrees");
        answered(&mut client, "select cast(a as celsius) from plain where a = 1");
        let logged = cluster.node(0).sql("select string_agg(distinct what, ',' order by what) from log").unwrap();
        assert_eq!(logged, "cast,operator");
        assert_eq!(answered(&mut client, "select adds(1)"), ["2"]);
        assert_eq!(answered(&mut client, "select adds(1)"), ["3"]);
        answered(&mut client, "set role reader");
        answered(&mut client, "select * from guarded");
        assert_eq!(cluster.node(0).sql("select count(*) > 0 from log where what = 'policy'").unwrap(), "t");
    });
}

/// As PostGIS and pgvector come: of what an index or an aggregate calls, they do not say how volatile it is.
#[test]
fn what_extensions_do_in_an_index_an_aggregate_or_a_sample_runs_on_replicas_whatever_its_steps_call_themselves() {
    limited(|| {
        let cluster = cluster();
        let steps = "from pg_proc where oid >= 16384 and 2281 = any (proargtypes) and provolatile";
        let sql = format!(
            "create extension hstore; create extension intagg; create extension tsm_system_rows;
             create table tagged (id int primary key, tags hstore);
             create index on tagged using gist (tags); insert into tagged values (1, 'a=>1'), (2, 'b=>2');
             do $$ declare step regprocedure; begin
                 for step in select oid {steps} <> 'v' loop execute format('alter function %s volatile', step); end loop;
             end $$"
        );
        cluster.node(0).sql(&sql).unwrap();
        assert_eq!(cluster.node(0).sql(&format!("select count(*) > 10 {steps} = 'v'")).unwrap(), "t");
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let primary = cluster.node(0).address().port();
        let reads = [
            "select inet_server_port() from tagged where id = 1",
            "select inet_server_port() from tagged order by tags limit 1",
            "select inet_server_port() from tagged where tags @> 'a=>1'",
            "select inet_server_port(), int_array_aggregate(id) from tagged",
            "select inet_server_port() from tagged tablesample system_rows(1)",
        ];
        for sql in reads {
            eventually("a replica reads it", Duration::from_secs(5), || server_port(&mut client, sql) != primary);
        }
        // Closing what the last read has prepared comes with it, and needs no node.
        client.batch_execute("begin read only").unwrap();
        for sql in reads {
            assert_ne!(server_port(&mut client, sql), primary, "{sql}");
        }
        client.batch_execute("commit").unwrap();
    });
}

#[test]
fn a_type_that_only_a_parse_declares_is_looked_into() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let primary = cluster.node(0);
        // What a replica has replayed of a sequence is ahead of what the primary answers.
        let sql = "create function latest() returns bigint language sql stable as 'select last_value from tickets';
            create domain drawn as bigint check (value <= latest()); create type pair as (a drawn, b int);
            create type mood as enum ('good', 'bad'); select nextval('tickets')";
        proxy.client().batch_execute(sql).unwrap();
        caught_up(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let oid = |name: &str| primary.sql(&format!("select '{name}'::regtype::oid")).unwrap().parse::<u32>().unwrap();
        let mut ask = |name: &str, types: &[u32], values: &[&[u8]]| {
            let sql = format!("select {}", (1..=types.len()).map(|n| format!("${n}")).collect::<Vec<_>>().join(", "));
            let (asked, given) = (parse_declaring(name, &sql, types), bind(name, values));
            client.ask(&[&[asked, given, execute(), SYNC.to_vec()].concat()], 1)
        };
        for (name, kind, value) in [("", "drawn", "5"), ("a", "drawn[]", "{5}"), ("b", "pair", "(5,1)")] {
            let answer = ask(name, &[25, oid(kind)], &[b"x", value.as_bytes()]);
            assert!(answer.iter().any(|told| told.starts_with("23514")), "{kind}: {answer:?}");
        }
        // The same text with other types is another statement, and what has no code is read anywhere.
        let on_replicas = || proxy.metric("trunkline_statements_total", "target=\"replica\"");
        for (types, value) in [([25, 20], "5"), ([25, oid("mood")], "good")] {
            let before = on_replicas();
            let answer = ask("", &types, &[b"x", value.as_bytes()]);
            assert!(answer.contains(&"row x".to_owned()), "{answer:?}");
            assert!(on_replicas() > before, "{value}");
        }
    });
}

#[test]
fn attribute_notation_calls_what_takes_a_row_of_the_system_and_casts() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        let hides = "language plpgsql volatile as 'begin if false then create table x (); end if;";
        client
            .batch_execute(&format!(
                "create function at(pg_database) returns int {hides} return inet_server_port(); end';
                 create function checks(int) returns bool {hides} return true; end';
                 create domain checked as int check (checks(value))"
            ))
            .unwrap();
        caught_up(&cluster);
        let primary = cluster.node(0).port();
        for sql in [
            "select d.at from pg_database d limit 1",
            "select inet_server_port(), ('77').checked",
            "select inet_server_port(), (relpages).checked from pg_class limit 1",
            "select inet_server_port(), cmin from log",
        ] {
            let found = (0..4).map(|_| answered(&mut client, sql).first().cloned());
            assert!(found.flatten().all(|port| port == primary.to_string()), "{sql}");
        }
    });
}

#[test]
fn a_dump_has_the_rows_of_unlogged_tables() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create unlogged table t as select generate_series(1, 1000) as a").unwrap();
        let proxy = Proxy::start(&cluster, "").with_both_replicas(&cluster);
        assert_eq!(dumped(&proxy).lines().filter(|line| line.parse::<u32>().is_ok()).count(), 1000);
    });
}

#[test]
fn a_copy_is_judged_by_what_it_runs() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        copied(&mut client, "copy (select nextval('tickets')) to stdout");
        copied(&mut client, "copy (select writes('copy')) to stdout");
        copied(
            &mut client,
            "copy (with x as (insert into log values ('cte') returning what) select * from x) to stdout",
        );
        answered(&mut client, "create temp table mine (a int); insert into mine values (1)");
        assert_eq!(copied(&mut client, "copy mine to stdout"), "1\n");
        assert_eq!(cluster.node(0).sql("select string_agg(what, ',' order by what) from log").unwrap(), "copy,cte");
    });
}

#[test]
fn a_stable_function_that_assigns_a_transaction_id_runs_on_the_primary() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        for sql in ["select txid_current() > 0", "select pg_current_xact_id()::text::bigint > 0"] {
            assert_eq!(answered(&mut client, sql), ["t"], "{sql}");
        }
        let port = server_port(&mut client, "select inet_server_port() from (select txid_current() offset 0) t");
        assert_eq!(port, cluster.node(0).port());
    });
}

#[test]
fn a_temporary_table_is_found_by_a_name_in_a_literal() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut client = proxy.client();
        answered(&mut client, "create temp table hidden (a int)");
        for sql in [
            "select 'hidden'::regclass::oid > 0",
            "select to_regclass('hidden') is not null",
            "select count(*) = 1 from pg_class where oid = 'hidden'::regclass",
        ] {
            assert_eq!(answered(&mut client, sql), ["t"], "{sql}");
        }
    });
}

#[test]
fn a_table_made_unlogged_and_a_function_made_volatile_are_noticed_at_once() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        answered(&mut client, "create table turns (a int); insert into turns values (1)");
        answered(&mut client, "create function turning() returns int language sql stable as 'select 1'");
        for _ in 0..3 {
            answered(&mut client, "select * from turns");
            answered(&mut client, "select turning()");
        }
        answered(&mut client, "alter table turns set unlogged");
        answered(
            &mut client,
            "create or replace function turning() returns int language sql volatile as \
             $$ insert into log values ('turned'); select 2 $$",
        );
        for _ in 0..20 {
            assert_eq!(answered(&mut client, "select * from turns"), ["1"]);
            assert_eq!(answered(&mut client, "select turning()"), ["2"]);
        }
        assert_eq!(cluster.node(0).sql("select count(*) from log").unwrap(), "20");
    });
}

#[test]
fn a_name_means_what_the_search_path_makes_of_it() {
    limited(|| {
        let (cluster, proxy) = prepared();
        cluster
            .node(0)
            .sql(
                "create schema a; create schema b; create unlogged table a.t (x int); create table b.t (x int); \
                  insert into a.t values (1); insert into b.t values (2); \
                  create function a.f() returns int language plpgsql volatile as \
                  $$ begin insert into log values ('a.f'); return 1; end $$; \
                  create function b.f() returns int language sql immutable as 'select 2'",
            )
            .unwrap();
        caught_up(&cluster);
        let (mut of_a, mut of_b) = (proxy.client(), proxy.client());
        answered(&mut of_a, "set search_path = a, public");
        answered(&mut of_b, "set search_path = b, public");
        for _ in 0..10 {
            assert_eq!(answered(&mut of_b, "select x from t"), ["2"]);
            assert_eq!(answered(&mut of_a, "select x from t"), ["1"]);
            assert_eq!(answered(&mut of_b, "select f()"), ["2"]);
            assert_eq!(answered(&mut of_a, "select f()"), ["1"]);
        }
        assert_eq!(cluster.node(0).sql("select count(*) from log").unwrap(), "10");
    });
}

#[test]
fn names_keep_their_case_and_their_quotes() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let names = "create unlogged table \"T9\" (x int); create table t9 (x int); insert into \"T9\" values (1); \
                     create table \"o'b\" (x int); insert into \"o'b\" values (3); \
                     create table \"with space\" (x int); insert into \"with space\" values (4)";
        cluster.node(0).sql(names).unwrap();
        caught_up(&cluster);
        let mut client = proxy.client();
        for _ in 0..5 {
            assert!(answered(&mut client, "select x from t9").is_empty());
            assert_eq!(answered(&mut client, "select x from \"T9\""), ["1"]);
            assert_eq!(answered(&mut client, "select * from \"o'b\""), ["3"]);
            assert_eq!(answered(&mut client, "select * from \"with space\""), ["4"]);
        }
    });
}

#[test]
fn what_set_config_and_a_function_set_is_read_back_on_any_node() {
    limited(|| {
        let (cluster, proxy) = prepared();
        cluster
            .node(0)
            .sql(
                "create procedure sets() language plpgsql as $$ begin perform set_config('my.proc', 'p', false); end $$; \
                  create function sets_too() returns int language plpgsql as $$ begin set my.func = 'f'; return 1; end $$",
            )
            .unwrap();
        caught_up(&cluster);
        let mut client = proxy.client();
        answered(&mut client, "select set_config('my.x', 'one', false)");
        answered(&mut client, "call sets()");
        answered(&mut client, "select sets_too()");
        for _ in 0..20 {
            for (setting, value) in [("my.x", "one"), ("my.proc", "p"), ("my.func", "f")] {
                assert_eq!(answered(&mut client, &format!("select current_setting('{setting}')")), [value]);
            }
        }
    });
}

#[test]
fn a_transaction_shows_one_snapshot_and_one_time() {
    limited(|| {
        let (cluster, proxy) = prepared();
        for replica in &cluster.nodes()[1..] {
            replica.sql("select pg_wal_replay_pause()").unwrap();
        }
        cluster.node(0).sql("insert into plain select generate_series(11, 20)").unwrap();
        let mut client = proxy.client();
        answered(&mut client, "begin isolation level repeatable read");
        let (before, began) = (answered(&mut client, COUNT), answered(&mut client, "select now()"));
        answered(&mut client, "insert into log values ('mine')");
        assert_eq!(answered(&mut client, COUNT), before);
        assert_eq!(answered(&mut client, "select now()"), began);
        answered(&mut client, "commit");
        for replica in &cluster.nodes()[1..] {
            replica.sql("select pg_wal_replay_resume()").unwrap();
        }
    });
}

const COUNT: &str = "select count(*) from plain";

#[test]
fn a_row_just_inserted_is_seen() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut client = proxy.client();
        for n in 1..200 {
            answered(&mut client, "insert into log values ('mine')");
            assert_eq!(answered(&mut client, "select count(*) from log"), [n.to_string()]);
        }
    });
}

#[test]
fn a_string_of_several_reads_is_balanced() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let mut client = proxy.client();
        let primary = cluster.node(0).port().to_string();
        for _ in 0..20 {
            let answers = answered(&mut client, "select count(*) from plain; select inet_server_port()");
            assert_ne!(answers[1], primary);
        }
    });
}

#[test]
fn what_is_shown_agrees_with_what_is_reported() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut client = proxy.client();
        for _ in 0..10 {
            for (setting, value) in [("transaction_read_only", "off"), ("in_hot_standby", "off")] {
                assert_eq!(answered(&mut client, &format!("show {setting}")), [value]);
                assert_eq!(answered(&mut client, &format!("select current_setting('{setting}')")), [value]);
            }
        }
    });
}

#[test]
fn a_transaction_made_writable_by_any_name_is_on_the_primary() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut client = proxy.client();
        for makes_writable in
            ["set transaction_read_only = 0", "set transaction read write", "set local transaction_read_only to off"]
        {
            answered(&mut client, "set default_transaction_read_only = on");
            answered(&mut client, "begin");
            answered(&mut client, makes_writable);
            answered(&mut client, "insert into log values ('writable')");
            answered(&mut client, "commit");
            answered(&mut client, "reset default_transaction_read_only");
        }
        assert_eq!(answered(&mut client, "select count(*) from log"), ["3"]);
    });
}

#[test]
fn a_temporary_table_hides_the_permanent_one_of_its_name() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut client = proxy.client();
        answered(&mut client, COUNT);
        answered(&mut client, "create temp table plain (a int)");
        for _ in 0..5 {
            assert_eq!(answered(&mut client, COUNT), ["0"]);
            assert_eq!(answered(&mut client, "select count(*) from public.plain"), ["10"]);
        }
        answered(&mut client, "drop table plain");
        assert_eq!(answered(&mut client, COUNT), ["10"]);
    });
}

#[test]
fn what_was_prepared_is_tracked_as_what_it_is() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut client = proxy.client();
        answered(&mut client, "prepare adds(text) as insert into log values ($1)");
        for n in 1..30 {
            answered(&mut client, "execute adds('x')");
            assert_eq!(answered(&mut client, "select count(*) from log"), [n.to_string()]);
        }
        let insert = client.prepare("insert into log values ($1)").unwrap();
        for n in 30..60 {
            client.execute(&insert, &[&"x"]).unwrap();
            assert_eq!(answered(&mut client, "select count(*) from log"), [n.to_string()]);
        }
    });
}

#[test]
fn a_snapshot_is_exported_and_taken_up_as_pg_dump_does() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let (mut one, mut two) = (proxy.client(), proxy.client());
        answered(&mut one, "begin");
        answered(&mut one, "set transaction isolation level repeatable read, read only");
        let snapshot = answered(&mut one, "select pg_export_snapshot()");
        answered(&mut two, "insert into plain values (100)");
        answered(&mut two, "begin");
        answered(&mut two, "set transaction isolation level repeatable read, read only");
        answered(&mut two, &format!("set transaction snapshot '{}'", snapshot[0]));
        assert_eq!(answered(&mut two, COUNT), ["10"]);
        answered(&mut two, "commit");
        answered(&mut one, "commit");
    });
}

#[test]
fn a_backend_that_is_terminated_by_a_client_is_no_failover() {
    limited(|| {
        let (_cluster, proxy) = prepared();
        let mut victim = proxy.client();
        answered(&mut victim, "begin; select 1");
        let pid = answered(&mut victim, "select pg_backend_pid()").remove(0);
        let mut killer = proxy.client();
        let before = proxy.metric("trunkline_cluster_epoch", "");
        let kill = killer.prepare("select pg_terminate_backend(n) from (values ($1::int)) v (n)").unwrap();
        killer.query(&kill, &[&pid.parse::<i32>().unwrap()]).unwrap();
        assert!(victim.simple_query("select 1").is_err());
        thread::sleep(Duration::from_millis(300));
        assert_eq!(proxy.metric("trunkline_cluster_epoch", ""), before);
        for _ in 0..10 {
            answered(&mut killer, "insert into log values ('on')");
        }
    });
}

#[test]
fn a_statement_that_ends_its_own_session_is_told_so_and_ends_no_more() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let sql = "create function ends_itself() returns boolean language plpgsql as \
            $$ begin return pg_terminate_backend(pg_backend_pid()); end $$";
        cluster.node(0).sql(sql).unwrap();
        let mut client = proxy.client();
        // The other one ends whoever is there, by a name that tells nothing of it.
        for sql in ["select pg_terminate_backend(pg_backend_pid())", "select ends_itself()"] {
            let problem = client.simple_query(sql).unwrap_err();
            assert_eq!(problem.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{sql}: {problem:?}");
            answered(&mut client, "insert into log values ('on')");
        }
    });
}

/// An operator who ends a statement once may have meant the node; who does so twice has meant the statement.
#[test]
fn a_write_that_an_operator_ends_again_is_ended() {
    limited(|| {
        let (cluster, proxy) = prepared();
        let primary = cluster.node(0);
        let mut client = proxy.client();
        let write = thread::spawn(move || client.batch_execute("insert into log select 'long' from pg_sleep(60)"));
        let mut ended = 0;
        eventually("it is ended", Duration::from_secs(20), || {
            let running =
                "from pg_stat_activity where query like 'insert into log select ''long''%' and state = 'active'";
            ended += primary.sql(&format!("select pg_terminate_backend(pid) {running}")).unwrap().lines().count();
            thread::sleep(Duration::from_millis(500));
            write.is_finished()
        });
        let problem = write.join().unwrap().unwrap_err();
        assert_eq!(problem.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{problem:?}");
        assert!((2..10).contains(&ended), "{ended}");
    });
}

/// Every row's values of every statement, as text.
fn answered(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.flat_map(|row| (0..row.len()).map(|n| row.get(n).unwrap_or("null").to_owned())).collect()
}

fn copied(client: &mut Client, sql: &str) -> String {
    let mut text = String::new();
    let mut reader = client.copy_out(sql).unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    text
}

/// Both replicas have replayed all that the primary has written.
fn caught_up(cluster: &Cluster) {
    let written = cluster.node(0).sql("select pg_current_wal_insert_lsn()").unwrap();
    for replica in &cluster.nodes()[1..] {
        let behind = format!("select pg_last_wal_replay_lsn() >= pg_lsn '{written}' - 64");
        eventually("the replica catches up", Duration::from_secs(10), || replica.sql(&behind).unwrap() == "t");
    }
}
