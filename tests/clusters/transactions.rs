//! Transactions on replicas: which may live there, and how they get to the primary without anybody noticing.

use std::time::Duration;

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited};
use crate::raw::{FLUSH, RawClient, SYNC, bind, bind_portal, execute, execute_portal, parse, query, run_unnamed};

const OPTIMISTIC: &str = "[routing]\ntransactions = \"optimistic\"\nfreshness_wait = \"1s\"";

const PATIENT: &str = "[routing]\nfreshness_wait = \"1s\"";

/// Where a statement runs.
const WHERE: &str = "select inet_server_port()::text from t limit 1";

fn prepared() -> Cluster {
    let cluster = cluster();
    let sql = "create table t (a int); insert into t values (1); create view hidden as select txid_current() as a;\
        create sequence s; select nextval('s'); create view last as select last_value from s;\
        create function lock_in_words() returns bool language plpgsql as \
        $$ begin execute 'select pg_advisory_xact_lock(5)'; return true; end $$;\
        alter role bench set default_transaction_isolation = 'read committed'";
    cluster.node(0).sql(sql).unwrap();
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(cluster.node(0)).unwrap();
    }
    cluster
}

fn has(answer: &[String], expected: &str) {
    assert!(answer.iter().any(|told| told == expected), "{expected}: {answer:?}");
}

fn row(answer: &[String]) -> String {
    answer.iter().find_map(|told| told.strip_prefix("row ")).unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn is_on_primary(client: &mut RawClient, cluster: &Cluster) -> bool {
    row(&client.query(WHERE)) == cluster.node(0).port().to_string()
}

#[test]
fn a_read_only_transaction_is_told_its_own_cursors() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        // As psycopg closes a cursor of the server's.
        let look = "SELECT 1 FROM pg_catalog.pg_cursors WHERE name = 'c'";
        for _ in 0..3 {
            has(&client.query("begin read only"), "BEGIN");
            has(&client.query("declare c cursor for select a from t"), "DECLARE CURSOR");
            has(&client.query(look), "row 1");
            has(&client.ask(&[&run_unnamed(look), SYNC], 1), "row 1");
            has(&client.query("close c"), "CLOSE CURSOR");
            has(&client.query("commit"), "COMMIT");
            assert!(!is_on_primary(&mut client, &cluster), "it has written nothing");
        }
        has(&client.query("begin read only"), "BEGIN");
        has(&client.query("declare c cursor for select a from t"), "DECLARE CURSOR");
        let told = client.query("select 1 from pg_cursors, pg_locks");
        assert!(told[0].starts_with("0A000"), "{told:?}");
    });
}

#[test]
fn a_cursor_that_a_function_opens_is_read_where_it_is() {
    limited(|| {
        let cluster = cluster();
        let sql = "create table t (a int); insert into t values (7); create function opens() returns refcursor \
            language plpgsql as $$ declare c refcursor := 'rc'; begin open c for select a from t; return c; end $$";
        cluster.node(0).sql(sql).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        for (extra, begin) in [(PATIENT, "begin read only"), (OPTIMISTIC, "begin"), (PATIENT, "begin")] {
            let proxy = Proxy::start(&cluster, extra);
            let mut client = RawClient::connect(proxy.port(), &[]);
            has(&client.query(begin), "BEGIN");
            has(&client.query("select opens()"), "row rc");
            has(&client.query("fetch all from rc"), "row 7");
            has(&client.query("commit"), "COMMIT");
        }
    });
}

#[test]
fn an_optimistic_transaction_reads_from_a_replica_until_it_writes() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for round in 0..3 {
            has(&client.query("begin"), "BEGIN");
            assert!(!is_on_primary(&mut client, &cluster));
            assert!(!is_on_primary(&mut client, &cluster));
            has(&client.query("insert into t values (2)"), "INSERT 0 1");
            assert!(is_on_primary(&mut client, &cluster));
            has(&client.query("select count(*) from t"), &format!("row {}", round + 2));
            has(&client.query("commit"), "COMMIT");
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "4");
        // One that only reads ends where it was, one that writes at once is on the primary at once.
        client.query("begin");
        assert!(!is_on_primary(&mut client, &cluster));
        has(&client.query("commit"), "COMMIT");
        client.query("begin");
        has(&client.query("delete from t"), "DELETE 4");
        has(&client.query("rollback"), "ROLLBACK");
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "4");
    });
}

#[test]
fn the_time_of_an_optimistic_transaction_is_the_primarys_and_stands_still() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin");
        assert!(!is_on_primary(&mut client, &cluster));
        let first = row(&client.query("select now()::text"));
        assert!(is_on_primary(&mut client, &cluster));
        client.query("insert into t values (2)");
        assert_eq!(row(&client.query("select current_timestamp::text")), first);
        client.query("commit");
        for clock in ["select 'now'::timestamptz", "select current_date", "select age('2000-01-01'::date)"] {
            client.query("begin");
            assert!(!is_on_primary(&mut client, &cluster));
            client.query(clock);
            assert!(is_on_primary(&mut client, &cluster), "{clock}");
            client.query("commit");
        }
    });
}

#[test]
fn a_transaction_that_was_told_its_process_is_not_parted_from_it() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let process = "select pg_backend_pid()::text";
        client.query("begin");
        assert!(!is_on_primary(&mut client, &cluster));
        let first = row(&client.query(process));
        assert!(is_on_primary(&mut client, &cluster));
        has(&client.query("insert into t values (2)"), "INSERT 0 1");
        assert_eq!(row(&client.query(process)), first);
        has(&client.query("commit"), "COMMIT");
        // Its locks are not looked for among those of another node.
        client.query("begin read only");
        assert!(!is_on_primary(&mut client, &cluster));
        let first = row(&client.query(process));
        assert!(!is_on_primary(&mut client, &cluster));
        let told = client.query(&format!("select count(*) from pg_locks where pid = {first}"));
        assert!(told[0].starts_with("0A000"), "{told:?}");
        client.query("rollback");
    });
}

#[test]
fn what_runs_ahead_of_a_statement_that_a_replica_does_not_have_yet_is_done_first() {
    limited(|| {
        let cluster = prepared();
        cluster.node(0).sql("create schema t1; create table t1.here as select 7 as a").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, PATIENT).with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin; set local search_path = t1");
        client.ask(&[&parse("here", "select a from here"), &parse("t", "select a from public.t"), SYNC], 1);
        client.query("commit");
        client.query("begin read only");
        assert!(!is_on_primary(&mut client, &cluster));
        has(&client.query("savepoint s"), "SAVEPOINT");
        has(&client.query("select 1 / 0"), "22012 division by zero");
        let (back, set) = (run_unnamed("rollback to s"), run_unnamed("set local search_path = t1"));
        let told = client.ask(&[&back, &bind("t", &[]), &execute(), SYNC], 1);
        assert_eq!(told, ["1", "2", "ROLLBACK", "2", "row 1", "SELECT 1", "T"]);
        let told = client.ask(&[&set, &bind("here", &[]), &execute(), SYNC], 1);
        has(&told, "row 7");
        client.query("set local search_path = public");
        assert!(!is_on_primary(&mut client, &cluster));
        has(&client.query("commit"), "COMMIT");
    });
}

#[test]
fn what_promises_a_snapshot_or_leaves_state_is_not_optimistic() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for begin in ["begin isolation level repeatable read", "begin isolation level serializable"] {
            client.query(begin);
            assert!(is_on_primary(&mut client, &cluster), "{begin}");
            client.query("commit");
        }
        for inside in [
            "set transaction isolation level repeatable read",
            "savepoint a",
            "declare c cursor for select 1",
            "set local work_mem = '7MB'",
            "prepare p as select 1",
        ] {
            client.query("begin");
            let told = client.query(inside);
            assert_eq!(told.last().unwrap(), "T", "{told:?}");
            assert!(is_on_primary(&mut client, &cluster), "{inside}");
            client.query("rollback");
        }
        client.query("set default_transaction_isolation = 'repeatable read'");
        client.query("begin");
        assert!(is_on_primary(&mut client, &cluster));
        client.query("commit");
    });
}

#[test]
fn an_optimistic_transaction_meets_no_error_that_the_primary_would_not_make() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin");
        assert!(!is_on_primary(&mut client, &cluster));
        // A replica refuses what is hidden in the view.
        let told = client.query("select a > 0 from hidden");
        has(&told, "row t");
        assert!(is_on_primary(&mut client, &cluster));
        client.query("commit");
        // An error of the client's own is one.
        client.query("begin");
        let told = client.query("select no_such_column from t");
        assert!(told[0].starts_with("42703"), "{told:?}");
        assert_eq!(told.last().unwrap(), "E");
        has(&client.query("commit"), "ROLLBACK");
    });
}

#[test]
fn an_optimistic_transaction_writes_behind_a_function_that_may_have_left_something() {
    limited(|| {
        let cluster = cluster();
        let sql = "create table t (a int); insert into t values (1);\
            create function warms() returns int stable language plpgsql as \
            $$ declare n int; begin execute 'select count(*) from t' into n; return n; end $$;\
            create function is_warm() returns bool stable language plpgsql as \
            $$ declare temp int := 7; begin return temp > 3; end $$";
        cluster.node(0).sql(sql).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let extra = "[routing]\ntransactions = \"optimistic\"\nfreshness_wait = \"1s\"\nsafe_functions = [\"warms\"]";
        let proxy = Proxy::start(&cluster, extra);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for calls in ["select warms()", "select is_warm()"] {
            has(&client.query("begin"), "BEGIN");
            assert!(!is_on_primary(&mut client, &cluster), "{calls}");
            let told = client.query(calls);
            assert_eq!(told.last().unwrap(), "T", "{calls}: {told:?}");
            has(&client.query("insert into t values (2)"), "INSERT 0 1");
            has(&client.query("commit"), "COMMIT");
        }
    });
}

/// Parse, Bind and Execute of this statement.
fn extended(sql: &str, values: &[&[u8]]) -> Vec<u8> {
    [parse("", sql), bind("", values), execute()].concat()
}

#[test]
fn what_shares_the_batch_of_begin_is_there_when_an_optimistic_transaction_writes() {
    limited(|| {
        let cluster = prepared();
        cluster.node(0).sql("create schema other; create table other.t (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let begin = extended("begin", &[]);
        for inside in ["set local search_path = other", "select set_config('search_path', 'other', true)"] {
            client.ask(&[&begin, &extended(inside, &[]), SYNC], 1);
            has(&client.query("insert into t values (7)"), "INSERT 0 1");
            has(&client.query("commit"), "COMMIT");
        }
        assert_eq!(cluster.node(0).sql("select count(*) from other.t where a = 7").unwrap(), "2");
        client.ask(&[&begin, &extended("savepoint s", &[]), SYNC], 1);
        has(&client.query("insert into t values (7)"), "INSERT 0 1");
        has(&client.query("rollback to s"), "ROLLBACK");
        has(&client.query("commit"), "COMMIT");
        // A portal that has not told all its rows.
        let rows = "select * from generate_series(1, 3)";
        let portal = [parse("", rows), bind_portal("C_1", ""), execute_portal("C_1", 1)].concat();
        has(&client.ask(&[&begin, &portal, SYNC], 1), "row 1");
        has(&client.query("insert into t values (7)"), "INSERT 0 1");
        has(&client.ask(&[&execute_portal("C_1", 1), SYNC], 1), "row 2");
        client.query("rollback");
        for (clock, value) in [("select now()::text", None), ("select $1::timestamptz::text", Some(&b"now"[..]))] {
            let first = row(&client.ask(&[&begin, &extended(clock, value.as_slice()), SYNC], 1));
            has(&client.query("insert into t values (7)"), "INSERT 0 1");
            assert_eq!(row(&client.query("select now()::text")), first, "{clock}");
            client.query("rollback");
        }
        // What only reads stays on a replica, until something is written.
        let told = client.ask(&[&begin, &extended(WHERE, &[]), SYNC], 1);
        assert_ne!(row(&told), cluster.node(0).port().to_string());
        assert!(!is_on_primary(&mut client, &cluster));
        has(&client.query("insert into t values (7)"), "INSERT 0 1");
        has(&client.query("rollback"), "ROLLBACK");
    });
}

#[test]
fn what_stands_in_the_batch_of_begin_before_it_or_behind_a_flush_is_of_its_transaction() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let (begin, clock) = (extended("begin", &[]), extended("select now()::text", &[]));
        client.send(&[&begin, FLUSH]);
        client.until(b'C');
        let begun = row(&client.ask(&[&clock, SYNC], 1));
        has(&client.query("insert into t values (7)"), "INSERT 0 1");
        assert_eq!(row(&client.query("select now()::text")), begun);
        client.query("rollback");
        let begun = row(&client.ask(&[&clock, &begin, SYNC], 1));
        has(&client.query("insert into t values (7)"), "INSERT 0 1");
        assert_eq!(row(&client.query("select now()::text")), begun);
        client.query("rollback");
    });
}

#[test]
fn a_transaction_that_has_failed_on_a_replica_stays_so_until_it_is_ended() {
    const FAILED: &str = "25P02 current transaction is aborted, commands ignored until end of transaction block";
    limited(|| {
        let cluster = prepared();
        for (settings, begin) in [(OPTIMISTIC, "begin"), (OPTIMISTIC, "begin read only"), (PATIENT, "begin read only")]
        {
            let proxy = Proxy::start(&cluster, settings);
            let mut client = RawClient::connect(proxy.port(), &[]);
            let fail = |client: &mut RawClient| {
                client.query(begin);
                assert!(!is_on_primary(client, &cluster));
                has(&client.query("select 1/0"), "E");
            };
            let write = "insert into t values (7)";
            fail(&mut client);
            for inside in [&format!("{write}; commit"), write, "savepoint s", "begin", "begin; commit", "select 1"] {
                assert_eq!(client.query(inside), [FAILED, "E"], "{begin}: {inside}");
            }
            let batch = [extended(write, &[]), extended("commit", &[]), SYNC.to_vec()].concat();
            assert_eq!(client.ask(&[&batch], 1), [FAILED, "E"], "{begin}");
            assert_eq!(client.query("rollback to s"), ["3B001 savepoint \"s\" does not exist", "E"], "{begin}");
            assert_eq!(client.query("commit"), ["ROLLBACK", "I"], "{begin}");
            // What stands behind its end is not in it.
            fail(&mut client);
            assert_eq!(client.query(&format!("commit; {write}")), ["ROLLBACK", "INSERT 0 1", "I"], "{begin}");
            fail(&mut client);
            let batch = [extended("commit", &[]), extended(write, &[]), SYNC.to_vec()].concat();
            assert_eq!(client.ask(&[&batch], 1), ["1", "2", "ROLLBACK", "1", "2", "INSERT 0 1", "I"], "{begin}");
            fail(&mut client);
            assert_eq!(client.query("prepare transaction 'x'"), ["ROLLBACK", "I"], "{begin}");
            // What it chains is a transaction as it was.
            fail(&mut client);
            assert_eq!(client.query("commit and chain"), ["ROLLBACK", "T"], "{begin}");
            assert_eq!(client.query(write)[0].starts_with("25006"), begin != "begin", "{begin}");
            has(&client.query("rollback"), "ROLLBACK");
            assert_eq!(client.query("delete from t where a = 7")[0], "DELETE 2", "{begin}");
        }
    });
}

#[test]
fn optimistic_transactions_keep_the_order_of_a_pipeline() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for round in 1..4 {
            let told = client.ask(
                &[
                    &query("select a from t"),
                    &query("begin"),
                    &query("select now()"),
                    &query("insert into t values (3)"),
                    &query("select count(*) from t"),
                    &query("commit"),
                    &query("select count(*) from t"),
                ],
                7,
            );
            let ends = told.iter().filter(|told| **told == "I" || **told == "E").collect::<Vec<_>>();
            assert_eq!(ends, ["I", "I", "I"], "{told:?}");
            let counts = told.iter().filter(|told| **told == format!("row {}", round + 1)).count();
            assert!(counts >= 2, "{told:?}");
        }
        // Extended, in one batch and in several.
        let messages = run_unnamed;
        let told = client.ask(&[&messages("begin"), SYNC, &messages(WHERE), SYNC, &messages("delete from t"), SYNC], 3);
        has(&told, "DELETE 4");
        has(&client.ask(&[&messages("commit"), SYNC], 1), "COMMIT");
    });
}

#[test]
fn a_read_only_transaction_may_still_become_another_one_before_its_first_query() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin read only");
        has(&client.query("set transaction read write"), "SET");
        has(&client.query("insert into t values (2)"), "INSERT 0 1");
        has(&client.query("commit"), "COMMIT");
        client.query("begin read only");
        has(&client.query("set transaction isolation level serializable, deferrable"), "SET");
        has(&client.query("show transaction_isolation"), "row serializable");
        has(&client.query("show transaction_read_only"), "row on");
        has(&client.query("show transaction_deferrable"), "row on");
        client.query("commit");
    });
}

#[test]
fn a_read_only_transaction_moves_for_what_only_the_primary_can_answer() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin read only");
        assert!(!is_on_primary(&mut client, &cluster));
        has(&client.query("select txid_current() > 0"), "row t");
        has(&client.query("show transaction_read_only"), "row on");
        let told = client.query("insert into t values (2)");
        assert!(told[0].starts_with("25006"), "{told:?}");
        client.query("rollback");
        // One that has a snapshot, or has told its time, stays.
        for bond in ["begin read only isolation level repeatable read", "begin read only"] {
            client.query(bond);
            client.query("select now(), a from t");
            assert!(!is_on_primary(&mut client, &cluster));
            let told = client.query("select txid_current()");
            assert!(told[0].starts_with("0A000"), "{told:?}");
            client.query("rollback");
        }
        // Nor what only the catalogs tell of: a standby would answer, with another value or with a lock that keeps nobody out.
        let unfit =
            ["select last_value from s", "select * from last", "select * from hidden", "select lock_in_words()"];
        client.query("prepare p as select last_value from s");
        for unfit in unfit.into_iter().chain(["execute p"]) {
            // What has run by itself may have changed the catalogs: until that is known, tables are read on the primary.
            eventually("it begins on a replica", Duration::from_secs(10), || {
                client.query("begin read only isolation level repeatable read");
                let is_elsewhere = is_on_primary(&mut client, &cluster);
                if is_elsewhere {
                    client.query("rollback");
                }
                !is_elsewhere
            });
            let told = client.query(unfit);
            assert!(told[0].starts_with("0A000 this READ ONLY transaction"), "{unfit}: {told:?}");
            client.query("rollback");
            assert!(!client.query(unfit)[0].starts_with("0A000"), "{unfit}");
        }
    });
}

#[test]
fn a_read_only_transaction_that_cannot_leave_its_replica_says_why_and_what_helps() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT).with_both_replicas(&cluster);
        let mut client = proxy.client();
        let bonds = ["select 1", "set local work_mem = '1MB'", "select set_config('work_mem', '1MB', true)"];
        let begins = ["begin read only isolation level repeatable read", "begin read only", "begin read only"];
        let unfit = [
            ("select txid_current()", "it calls a function that writes"),
            ("select 1 from pg_locks", "it reads a relation whose answer differs"),
            ("do $$ begin perform 1; end $$", "it runs a procedure or a block of code"),
        ];
        for ((begin, bond), (unfit, why)) in begins.into_iter().zip(bonds).zip(unfit) {
            client.batch_execute(begin).unwrap();
            client.batch_execute(bond).unwrap();
            let error = client.batch_execute(unfit).unwrap_err();
            let told = error.as_db_error().unwrap();
            assert_eq!(told.code().code(), "0A000", "{unfit}: {told:?}");
            assert!(told.detail().unwrap().contains(why), "{unfit}: {told:?}");
            assert!(told.hint().unwrap().contains("kind = \"begin\""), "{unfit}: {told:?}");
            client.batch_execute("rollback").unwrap();
        }
    });
}

#[test]
fn nothing_is_left_on_a_replica_that_would_bind_the_session_to_it() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let lasting = "declare c cursor with hold for select a from t";
        client.query("begin read only");
        assert!(!is_on_primary(&mut client, &cluster));
        has(&client.query(lasting), "DECLARE CURSOR");
        has(&client.query("commit"), "COMMIT");
        has(&client.query("fetch c"), "row 1");
        has(&client.query("insert into t values (2)"), "INSERT 0 1");
        client.query("close c");
        // One that is bound is told.
        let lock = "do $$ begin perform pg_advisory_lock(7); end $$";
        for unfit in [lasting, lock] {
            client.query("begin read only isolation level repeatable read");
            assert!(!is_on_primary(&mut client, &cluster));
            let told = client.query(unfit);
            assert!(told[0].starts_with("0A000"), "{unfit}: {told:?}");
            client.query("rollback");
            has(&client.query("insert into t values (3)"), "INSERT 0 1");
        }
    });
}

#[test]
fn what_stands_behind_the_end_of_a_transaction_is_not_bound_to_its_replica() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for behind in ["commit; insert into t values (2)", "rollback; select txid_current()"] {
            client.query("begin read only isolation level repeatable read");
            assert!(!is_on_primary(&mut client, &cluster));
            let told = client.query(behind);
            assert!(told.iter().all(|told| !told.starts_with("25006") && !told.starts_with("0A000")), "{told:?}");
            has(&told, "I");
        }
        has(&client.query("select count(*) from t"), "row 2");
        // What the transaction has set goes with it.
        client.query("begin read only isolation level repeatable read");
        assert!(!is_on_primary(&mut client, &cluster));
        client.query("set work_mem = '7MB'");
        client.query("commit; insert into t values (2)");
        client.query("rollback");
        has(&client.query("select count(*) from t"), "row 2");
    });
}

#[test]
fn words_that_only_contain_the_time_bind_nothing() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for (text, is_bound) in [("unknown", false), ("now", true)] {
            client.query("begin read only");
            client.query(&format!("select count(*) from t where a::text <> '{text}'"));
            assert_eq!(client.query("select txid_current() > 0")[0].starts_with("0A000"), is_bound, "{text}");
            client.query("rollback");
        }
    });
}

#[test]
fn a_transaction_that_is_not_bound_outlives_its_replica() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        for begin in ["begin", "begin read only"] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query(begin);
            let port = row(&client.query(WHERE));
            let node = cluster.nodes().iter().find(|node| node.port().to_string() == port).unwrap();
            assert_ne!(port, cluster.node(0).port().to_string());
            node.kill().unwrap();
            has(&client.query("select count(*) from t"), "row 1");
            has(&client.query("commit"), "COMMIT");
            node.start().unwrap();
            node.catch_up(cluster.node(0)).unwrap();
        }
    });
}

#[test]
fn of_a_transaction_that_trunkline_ends_the_client_is_told_that_its_settings_are_what_they_were() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[("timezone", "UTC")]);
        let begin = |client: &mut RawClient| {
            client.query("begin read only");
            let port = row(&client.query(WHERE));
            assert_eq!(client.query("set local timezone = 'Asia/Tokyo'"), ["SET", "TimeZone=Asia/Tokyo", "T"]);
            port
        };
        let draw = [run_unnamed("select nextval('s')"), SYNC.to_vec()].concat();
        for message in [query("select nextval('s')"), draw] {
            begin(&mut client);
            let told = client.ask(&[&message], 1);
            assert!(told[0].starts_with("0A000"), "{told:?}");
            assert_eq!(told[1..], ["TimeZone=UTC", "E"]);
            assert_eq!(client.query("rollback"), ["ROLLBACK", "I"]);
            assert_eq!(row(&client.query("show timezone")), "UTC");
        }
        let port = begin(&mut client);
        let node = cluster.nodes().iter().find(|node| node.port().to_string() == port).unwrap();
        node.kill().unwrap();
        let told = client.query("select a from t");
        assert!(told[0].starts_with("40001"), "{told:?}");
        assert_eq!(told[1..], ["TimeZone=UTC", "E"]);
        assert_eq!(client.query("rollback"), ["ROLLBACK", "I"]);
        assert_eq!(row(&client.query("show timezone")), "UTC");
    });
}

#[test]
fn the_defaults_of_a_role_decide_how_its_transactions_begin() {
    limited(|| {
        let cluster = prepared();
        cluster.node(0).sql("alter role bench set default_transaction_isolation = 'serializable'").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(cluster.node(0)).unwrap();
        }
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin read only");
        has(&client.query("show transaction_isolation"), "row serializable");
        assert!(is_on_primary(&mut client, &cluster));
        client.query("commit");
        client.query("begin isolation level read committed read only");
        assert!(!is_on_primary(&mut client, &cluster));
        client.query("commit");
        // Set, put back and set again by the session, which may have read on a replica before.
        client.query("set default_transaction_isolation = 'read committed'");
        for set in [
            "set session characteristics as transaction isolation level serializable",
            "set default_transaction_isolation = 'serializable'",
            "select set_config('default_transaction_isolation', 'serializable', false)",
            "reset default_transaction_isolation",
            "reset all",
        ] {
            assert!(!is_on_primary(&mut client, &cluster));
            has(&client.query(set), "I");
            has(&client.query("show transaction_isolation"), "row serializable");
            assert!(is_on_primary(&mut client, &cluster), "{set}");
            client.query("set session characteristics as transaction isolation level read committed");
        }
        // Of the session, and of its startup.
        client.query("set session characteristics as transaction read only, isolation level read committed");
        client.query("begin");
        assert!(!is_on_primary(&mut client, &cluster));
        let told = client.query("insert into t values (1)");
        assert!(told[0].starts_with("25006"), "{told:?}");
        client.query("rollback");
        assert!(client.query("insert into t values (1)")[0].starts_with("25006"));
        let mut other = RawClient::connect(proxy.port(), &[("options", "-c default_transaction_read_only=on")]);
        other.query("begin isolation level repeatable read");
        assert!(!is_on_primary(&mut other, &cluster));
        other.query("commit");
        assert_eq!(proxy.metric("trunkline_retries_total", ""), 0.0, "no replica was asked in vain");
    });
}

#[test]
fn a_read_that_a_replica_refuses_stays_outside_of_the_transaction_behind_it() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        // The catalogs have changed: what comes next is judged anew, and where a replica has refused it stays.
        client.query("create table another ()");
        for _ in 0..3 {
            let told = client.ask(&[&query("select nosuch from t"), &query("begin read only")], 2);
            assert!(told[0].starts_with("42703"), "{told:?}");
            assert_eq!(told[1..], ["I", "BEGIN", "T"], "{told:?}");
            has(&client.query("select count(*) from t"), "T");
            has(&client.query("rollback"), "ROLLBACK");
        }
    });
}

#[test]
fn a_transaction_that_begins_in_the_batch_that_ends_one_on_a_replica_may_write() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for end in ["commit", "rollback"] {
            client.query("begin read only");
            assert!(!is_on_primary(&mut client, &cluster));
            let batch = [extended(end, &[]), extended("begin", &[]), SYNC.to_vec()].concat();
            has(&client.ask(&[&batch], 1), "BEGIN");
            has(&client.query("insert into t values (7)"), "INSERT 0 1");
            has(&client.query("rollback"), "ROLLBACK");
        }
    });
}

#[test]
fn what_a_rule_has_refused_leaves_nothing_of_its_transaction_to_the_next() {
    const RULE: &str = "[[rule]]\nname = 'no'\nwhere = false\nrefuse = 'all of it?'";
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::ruled(&cluster, RULE, "", OPTIMISTIC);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for begin in ["begin", "begin read only"] {
            client.query(begin);
            client.query(if begin == "begin" { "insert into t values (7)" } else { "select now()" });
            has(&client.query("delete from t"), "E");
            has(&client.query("rollback"), "ROLLBACK");
            client.query("begin");
            assert!(!is_on_primary(&mut client, &cluster));
            has(&client.query("insert into t values (7)"), "INSERT 0 1");
            has(&client.query("rollback"), "ROLLBACK");
        }
        // What the session keeps on its server connection stays.
        client.query("select pg_advisory_lock(77)");
        client.query("begin");
        assert_eq!(client.query("delete from t"), ["42501 all of it?", "E"]);
        has(&client.query("commit"), "ROLLBACK");
        has(&client.query("select pg_advisory_unlock(77)"), "row t");
    });
}

#[test]
fn reset_behind_the_end_of_a_failed_transaction_goes_back_to_what_the_client_came_with() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[("search_path", "app")]);
        client.query("begin");
        has(&client.query("insert into public.t values (1 / 0)"), "E");
        has(&client.query("rollback; begin; reset all; commit"), "COMMIT");
        has(&client.query("show search_path"), "row app");
    });
}

#[test]
fn what_a_refused_unit_has_prepared_by_sql_is_prepared_again() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let told = client.ask(&[&query("select nosuch from t"), &query("prepare p as select 1")], 2);
        assert!(told[0].starts_with("42703"), "{told:?}");
        assert_eq!(told[1..], ["I", "PREPARE", "I"], "{told:?}");
        has(&client.query("execute p"), "row 1");
        let told = client.ask(&[&query("select nosuch from t"), &query("execute p"), &query("deallocate p")], 3);
        has(&told, "row 1");
        has(&told, "DEALLOCATE");
        has(&client.query("prepare p as select 2"), "PREPARE");
        has(&client.query("execute p"), "row 2");
    });
}

#[test]
fn a_lost_transaction_is_ended_by_the_first_of_several_statements_too() {
    limited(|| {
        let cluster = prepared();
        let proxy = Proxy::start(&cluster, PATIENT);
        for (ends, told) in [
            ("rollback; select 42; reset all", &["ROLLBACK", "T", "row 42", "SELECT 1", "RESET", "I"][..]),
            ("commit; select 42", &["ROLLBACK", "T", "row 42", "SELECT 1", "I"]),
            ("rollback and chain", &["ROLLBACK", "T"]),
        ] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("begin");
            client.query("insert into t values (7)");
            cluster
                .node(0)
                .sql("select pg_terminate_backend(pid) from pg_stat_activity where state like 'idle in%'")
                .unwrap();
            let lost = client.query("select 1");
            assert!(lost[0].starts_with("40001"), "{lost:?}");
            let ended = client.query(ends);
            assert_eq!(ended, told, "{ends}");
            client.query("rollback");
            has(&client.query("select count(*) from t where a = 7"), "row 0");
        }
    });
}

#[test]
fn modes_behind_a_query_are_refused_as_by_a_server() {
    limited(|| {
        let cluster = prepared();
        for (begin, settings) in [("begin read only", PATIENT), ("begin", OPTIMISTIC)] {
            let proxy = Proxy::start(&cluster, settings);
            let mut client = RawClient::connect(proxy.port(), &[]);
            let modes: &[&str] = match begin {
                "begin" => &["isolation level serializable", "isolation level repeatable read"],
                _ => &["read write", "isolation level serializable"],
            };
            for mode in modes {
                client.query(begin);
                assert!(!is_on_primary(&mut client, &cluster));
                let told = client.query(&format!("set transaction {mode}"));
                assert!(told[0].starts_with("25001"), "{mode}: {told:?}");
                assert_eq!(client.query("commit"), ["ROLLBACK", "I"]);
                client.query(begin);
                assert_eq!(client.query(&format!("set transaction {mode}")), ["SET", "T"]);
                client.query("select 1");
                client.query("commit");
            }
        }
    });
}
