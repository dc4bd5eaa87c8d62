//! What one session leaves on a server connection and another must never meet; what each finds again as it left it.

use std::time::Duration;

use trunkline::demo::node::Node;

use crate::fixture::{Proxy, cluster, eventually, limited};
use crate::raw::{RawClient, SYNC, TERMINATE, bind, execute, parse, run_unnamed};

/// Everything on the primary and on one server connection.
const ONE: &str = "[pool]\nsize = 1\n[routing]\nreads = \"primary\"";

fn has(answer: &[String], expected: &str) {
    assert!(answer.iter().any(|told| told == expected), "{expected}: {answer:?}");
}

#[test]
fn currval_is_never_another_sessions() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql("create sequence s; create table t (a serial, b int unique); create table plain (a int)")
            .unwrap();
        let proxy = Proxy::start(&cluster, ONE);
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        has(&one.query("select nextval('s')"), "row 1");
        let foreign = other.query("select currval('s')");
        assert!(foreign.iter().any(|told| told.starts_with("55000")), "{foreign:?}");
        // Also inside a transaction, by a batch, and after a statement that failed but took a number.
        one.query("select nextval('s')");
        other.query("begin");
        let foreign = other.ask(&[&parse("", "select lastval()"), &bind("", &[]), &execute(), SYNC], 1);
        assert!(foreign.iter().any(|told| told.starts_with("55000")), "{foreign:?}");
        other.query("rollback");
        // And behind another statement of its batch.
        one.query("select nextval('s')");
        other.query("begin");
        let insert = run_unnamed("insert into plain values (1)");
        let foreign = other.ask(&[&insert, &parse("", "select lastval()"), &bind("", &[]), &execute(), SYNC], 1);
        assert!(foreign.iter().any(|told| told.starts_with("55000")), "{foreign:?}");
        other.query("rollback");
        has(&one.query("insert into t (b) values (1)"), "INSERT 0 1");
        other.query("insert into t (b) values (1)");
        let lost = one.query("select currval('t_a_seq')");
        assert!(lost.iter().any(|told| told.starts_with("55000")), "{lost:?}");
        // Its own value, where nobody has written since.
        has(&one.query("select nextval('s')"), "row 4");
        has(&one.query("select currval('s')"), "row 4");
    });
}

/// Behind anything that is executed in their batch PostgreSQL refuses most of them, some from version 18 on only.
#[test]
fn what_commits_in_its_middle_runs_by_a_batch_also_where_another_has_drawn() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql(
                "create sequence s; create table t (a int);
                create procedure commits() language plpgsql as
                    $$ begin insert into t values (1); commit; insert into t values (2); end $$;
                create procedure asks() language plpgsql as $$ begin commit; perform lastval(); end $$;
                create function opaque(a int) returns int immutable language plpgsql as
                    $$ declare n int; begin execute 'select ' || a into n; return n; end $$",
            )
            .unwrap();
        let proxy = Proxy::start(&cluster, ONE);
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let batch = |sql: &str| [run_unnamed(sql), SYNC.to_vec()].concat();
        for (sql, tag) in [
            ("call commits()", "CALL"),
            ("do $$ begin commit; perform 1; end $$", "DO"),
            ("create index concurrently on t (opaque(a))", "CREATE INDEX"),
            ("vacuum t", "VACUUM"),
        ] {
            other.query("select nextval('s')");
            assert_eq!(one.ask(&[&batch(sql)], 1), ["1", "2", tag, "I"], "{sql}");
            // Prepared before, and behind another batch.
            one.ask(&[&parse("", sql), SYNC], 1);
            other.query("select nextval('s')");
            assert_eq!(one.ask(&[&bind("", &[]), &execute(), SYNC], 1), ["2", tag, "I"], "{sql}");
            other.query("select nextval('s')");
            let told = one.ask(&[&batch("select 7"), &batch(sql)], 2);
            assert_eq!(told, ["1", "2", "row 7", "SELECT 1", "I", "1", "2", tag, "I"], "{sql}");
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "6");
        other.query("select nextval('s')");
        let foreign = one.ask(&[&batch("call asks()")], 1);
        assert!(foreign.iter().any(|told| told.starts_with("55000")), "{foreign:?}");
    });
}

/// Behind anything that is executed in its batch PostgreSQL refuses the level.
#[test]
fn a_transaction_of_an_isolation_level_begins_by_a_batch_also_where_another_has_drawn() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create sequence s; create table t (a serial, b int)").unwrap();
        let proxy = Proxy::start(&cluster, ONE);
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        for begin in ["begin isolation level serializable", "begin not deferrable", "start transaction read write"] {
            other.query("select nextval('s')");
            let batch = [run_unnamed(begin), run_unnamed("insert into t (b) values (1)"), SYNC.to_vec()].concat();
            let tag = if begin.starts_with("begin") { "BEGIN" } else { "START TRANSACTION" };
            assert_eq!(one.ask(&[&batch], 1), ["1", "2", tag, "1", "2", "INSERT 0 1", "T"], "{begin}");
            one.query("commit");
        }
    });
}

#[test]
fn what_another_has_drawn_does_not_come_with_ones_own() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql(
                "create table items (id serial, x int); create table orders (id serial, x int);
                create table carts (id int, order_id int); insert into carts values (7, 0);
                create table child (a int, item int default currval('items_id_seq'));
                create view newest as select lastval() as n;
                create function newest() returns bigint language plpgsql as $$ begin return lastval(); end $$;
                create domain numbered as int default nextval('items_id_seq');
                create table by_domain (a numbered, b int);
                create table parent (a int primary key);
                create table heir (a int references parent on delete cascade);
                create function fires() returns trigger language plpgsql as
                    $$ begin perform nextval('items_id_seq'); return old; end $$;
                create trigger fires before delete on heir for each row execute function fires();
                insert into parent values (1); insert into heir values (1)",
            )
            .unwrap();
        let proxy = Proxy::start(&cluster, ONE);
        let undefined = |answer: Vec<String>, sql: &str| {
            assert!(answer.iter().any(|told| told.starts_with("55000")), "{sql}: {answer:?}")
        };
        let batch = |name: &str, sql: &str| [parse(name, sql), bind(name, &[]), execute(), SYNC.to_vec()].concat();
        let mut other = RawClient::connect(proxy.port(), &[]);
        for (own, asks) in [
            ("insert into orders (x) values (1)", "select currval('items_id_seq')"),
            ("begin; insert into orders (x) values (1); commit", "select currval('items_id_seq')"),
            ("select 1 from items for update", "insert into child (a) values (1)"),
            ("select 1", "select n from newest"),
            ("select 1", "insert into carts select n from newest"),
            ("select 1", "select newest()"),
            ("prepare l as select lastval()", "execute l"),
            ("select 1", "do $$ begin perform lastval(); end $$"),
        ] {
            other.query("insert into items (x) values (1)");
            let mut one = RawClient::connect(proxy.port(), &[]);
            one.query(own);
            undefined(one.query(asks), asks);
            one.send(&[TERMINATE]);
        }
        // By a batch, and by a name of the protocol that SQL calls.
        other.query("insert into items (x) values (1)");
        let mut one = RawClient::connect(proxy.port(), &[]);
        has(&one.ask(&[&batch("a", "insert into orders (x) values (1)")], 1), "INSERT 0 1");
        undefined(one.query("select currval('items_id_seq')"), "by a batch");
        one.send(&[TERMINATE]);
        other.query("insert into items (x) values (1)");
        let mut one = RawClient::connect(proxy.port(), &[]);
        one.ask(&[&[parse("b", "select lastval()"), SYNC.to_vec()].concat()], 1);
        undefined(one.query("execute b"), "a name of the protocol");
        one.send(&[TERMINATE]);
        // What it has drawn beside another statement's work is found as well.
        for (own, found) in [
            ("insert into items (x) values (1)", true),
            ("insert into by_domain (b) values (1)", true),
            ("update by_domain set a = default", true),
            (
                "with o as (insert into orders (x) values (2) returning id) update carts set order_id = o.id from o",
                true,
            ),
            (
                "with l as (select 1 from carts for update), i as (insert into items (x) values (1)) select * from l",
                true,
            ),
            ("delete from parent", false),
        ] {
            other.query("insert into orders (x) values (1)");
            let mut one = RawClient::connect(proxy.port(), &[]);
            one.query(own);
            let own_value = one.query("select lastval()");
            assert!(!found || own_value.iter().any(|told| told.starts_with("row ")), "{own}: {own_value:?}");
            one.send(&[TERMINATE]);
            cluster.node(0).sql("insert into parent values (1) on conflict do nothing").unwrap();
            let mut after = RawClient::connect(proxy.port(), &[]);
            undefined(after.query("select lastval()"), own);
            after.send(&[TERMINATE]);
        }
    });
}

#[test]
fn lastval_is_what_the_session_has_drawn_itself_or_nothing() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql(
                "create table t (a serial, b int); create table i (a int generated always as identity, b int);
                create table plain (a int); create sequence s;
                create function fires() returns trigger language plpgsql as
                    $$ begin perform nextval('s'); return new; end $$;
                create table fired (a serial, b int);
                create trigger fires before insert on fired for each row execute function fires()",
            )
            .unwrap();
        let proxy = Proxy::start(&cluster, ONE);
        let mut one = RawClient::connect(proxy.port(), &[]);
        let mut other = RawClient::connect(proxy.port(), &[]);
        let undefined =
            |answer: Vec<String>| assert!(answer.iter().any(|told| told.starts_with("55000")), "{answer:?}");
        // What another has drawn there is nobody else's, whatever runs in between.
        let draws = "insert into t (b) values (1)";
        for (others, own) in [
            ("select setval('t_a_seq', 100)", "insert into plain values (1)"),
            (draws, "insert into nowhere (b) values (1)"),
            (draws, "insert into t (b) select 1 where false"),
        ] {
            other.query(others);
            one.query(own);
            undefined(one.query("select lastval()"));
        }
        // What it has drawn itself comes alone, also where a trigger draws.
        other.query("select setval('s', 50)");
        one.query("insert into fired (b) values (1)");
        has(&one.query("select lastval()"), "row 51");
        one.query("discard all");
        one.query("insert into t (b) values (1)");
        one.query("discard sequences");
        undefined(one.query("select lastval()"));
        // Its own is there as long as nobody else draws; once it has asked, it keeps its server connection.
        let by_batch =
            |sql: &str, values: &[&[u8]]| [parse("", sql), bind("", values), execute(), SYNC.to_vec()].concat();
        for (table, value) in [("t", "row 104"), ("i", "row 1")] {
            other.query("select nextval('s')");
            let mut one = RawClient::connect(proxy.port(), &[]);
            has(&one.query(&format!("insert into {table} (b) values (1)")), "INSERT 0 1");
            other.query("insert into plain values (1)");
            other.query("update t set b = 2");
            one.query("insert into plain values (2)");
            has(&one.query("select lastval()"), value);
            has(&one.ask(&[&by_batch("select lastval()", &[])], 1), value);
            one.send(&[TERMINATE]);
        }
        other.query("select nextval('s')");
        one.ask(&[&by_batch("insert into t (b) values ($1)", &[b"1"])], 1);
        has(&one.query("select currval('t_a_seq')"), "row 105");
    });
}

#[test]
fn execute_runs_what_was_prepared_last_under_the_name() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut client = RawClient::connect(proxy.port(), &[]);
        for round in 1..=6 {
            client.query(&format!("prepare p as select {round}"));
            has(&client.query("execute p"), &format!("row {round}"));
            // On the primary too, now and then.
            if round % 2 == 0 {
                client.query("insert into t values (1)");
                has(&client.query("execute p"), &format!("row {round}"));
            }
            client.query(if round % 3 == 0 { "deallocate all" } else { "deallocate p" });
            assert!(client.query("execute p")[0].starts_with("26000"));
        }
    });
}

#[test]
fn reset_goes_back_to_what_the_client_came_with() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, ONE);
        let startup = [("application_name", "came"), ("options", "-c work_mem=8MB"), ("client_encoding", "latin1")];
        let mut client = RawClient::connect(proxy.port(), &startup);
        let mut plain = RawClient::connect(proxy.port(), &[]);
        for reset in ["reset all", "discard all", "reset application_name; reset work_mem; reset client_encoding"] {
            client.query("set application_name = 'changed'; set work_mem = '9MB'; set client_encoding = 'utf8'");
            let told = client.query(reset);
            has(&told, "application_name=came");
            // Where the server connection has nothing to tell, it comes right behind.
            let shown = client.query("show application_name");
            has(&shown, "row came");
            has(&[told, shown].concat(), "client_encoding=LATIN1");
            has(&client.query("show work_mem"), "row 8MB");
            has(&client.query("show client_encoding"), "row LATIN1");
            has(&plain.query("show client_encoding"), "row UTF8");
            has(&plain.query("show application_name"), "row ");
        }
    });
}

#[test]
fn a_prepared_literal_is_read_by_each_sessions_own_date_style() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, ONE);
        let sql = "select extract(month from '01/02/2003'::date)";
        let mut american = RawClient::connect(proxy.port(), &[("datestyle", "ISO, MDY")]);
        let mut european = RawClient::connect(proxy.port(), &[]);
        european.query("set datestyle = 'ISO, DMY'");
        for _ in 0..2 {
            for (client, month) in [(&mut american, "row 1"), (&mut european, "row 2")] {
                has(&client.ask(&[&parse("same", sql), &bind("same", &[]), &execute(), SYNC], 1), month);
                has(&client.ask(&[&bind("same", &[]), &execute(), SYNC], 1), month);
                client.query("deallocate same");
            }
        }
    });
}

#[test]
fn a_dialect_set_on_the_role_is_known_from_the_start() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("alter role bench set standard_conforming_strings = off; create sequence s").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        // To a reader of the standard, the whole line is one literal.
        has(&client.query(r"select '\'', nextval($$s$$) --'"), "row '");
        assert_eq!(proxy.metric("trunkline_retries_total", ""), 0.0, "no replica was asked");
    });
}

/// Configures a node anew; what is connected to it notices with its next statement.
fn configure(node: &Node, sql: &str) {
    node.sql(sql).unwrap();
    node.sql("select pg_reload_conf()").unwrap();
}

#[test]
fn who_was_told_that_its_server_only_reads_writes_again_when_that_is_over_whoever_was_told_of_the_end() {
    const READ_ONLY: &str = "default_transaction_read_only=on";
    const PATIENCE: Duration = Duration::from_secs(10);
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table t (a int)").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(primary).unwrap();
        }
        for reads in ["replicas", "primary"] {
            let extra = format!("[pool]\nsize = 1\n[routing]\nreads = '{reads}'");
            let proxy = Proxy::start(&cluster, &extra).with_both_replicas(&cluster);
            let mut one = RawClient::connect(proxy.port(), &[]);
            let mut other = RawClient::connect(proxy.port(), &[]);
            configure(primary, "alter system set default_transaction_read_only = on");
            eventually("it is told so", PATIENCE, || {
                one.query("select txid_current() > 0").iter().any(|told| told == READ_ONLY)
            });
            configure(primary, "alter system reset default_transaction_read_only");
            eventually("the other one writes", PATIENCE, || other.query("insert into t values (1)")[0] == "INSERT 0 1");
            let mut told = one.query("begin");
            assert_eq!(one.query("insert into t values (2)"), ["INSERT 0 1", "T"], "{reads}");
            told.extend(one.query("commit"));
            assert_eq!(told, ["default_transaction_read_only=off", "BEGIN", "T", "COMMIT", "I"], "{reads}");
            for client in [&mut one, &mut other] {
                assert_eq!(client.query("begin"), ["BEGIN", "T"]);
                assert_eq!(client.query("insert into t values (3)"), ["INSERT 0 1", "T"]);
                assert_eq!(client.query("commit"), ["COMMIT", "I"]);
            }
        }
    });
}

#[test]
fn a_client_is_told_what_the_node_that_serves_it_goes_by_where_nodes_are_configured_otherwise() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (d date); insert into t values ('2003-02-01')").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
            configure(replica, "alter system set datestyle = 'German'");
            configure(replica, "alter system set default_transaction_read_only = on");
            eventually("it is in force", Duration::from_secs(10), || {
                replica.sql("show datestyle").unwrap() == "German, DMY"
                    && replica.sql("show default_transaction_read_only").unwrap() == "on"
            });
        }
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2\n[routing]\nfreshness_wait = '1s'");
        let proxy = proxy.with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        // Wherever it has logged in.
        client.query("select d from t");
        client.query("select d from t for update");
        for _ in 0..3 {
            for sql in ["select d from t", "select d from t where d = '01.02.2003'"] {
                let told = client.query(sql);
                let is_first = !sql.contains("where");
                assert_eq!(told.contains(&"DateStyle=German, DMY".to_owned()), is_first, "{sql}: {told:?}");
                has(&told, "row 01.02.2003");
            }
            let told = client.query("select d from t for update");
            assert_eq!(told[0], "DateStyle=ISO, MDY", "before the answer: {told:?}");
            has(&told, "row 2003-02-01");
            // What the replicas are configured to does not make its transactions READ ONLY.
            client.query("select d from t");
            client.query("begin");
            has(&client.query("insert into t select d from t where false"), "INSERT 0 0");
            client.query("commit");
        }
        // What it has set itself is the same everywhere, and it is told so once.
        client.query("set datestyle = 'SQL, MDY'");
        for sql in ["select d from t", "select d from t for update", "select d from t"] {
            assert_eq!(client.query(sql), ["T", "row 02/01/2003", "SELECT 1", "I"], "{sql}");
        }
    });
}

#[test]
fn a_prepared_statement_whose_table_is_gone_is_no_trouble_for_the_next_session() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int); create table other (a int)").unwrap();
        let proxy = Proxy::start(&cluster, ONE);
        let (mut one, mut two) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        has(&one.query("prepare p as select a from t"), "PREPARE");
        has(&two.query("drop table t"), "DROP TABLE");
        // Its own server connection refuses to prepare it again, and it says so when it is executed.
        has(&one.query("select count(*) from other"), "row 0");
        assert!(one.query("execute p")[0].starts_with("26000"));
        has(&two.query("select count(*) from other"), "row 0");
        has(&one.query("deallocate all"), "DEALLOCATE ALL");
        has(&two.query("select count(*) from other"), "row 0");
    });
}
