//! The protocol's corners, byte by byte: through Trunkline each answer is what the server itself gives.

use std::thread;
use std::time::Duration;

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, eventually, limited};
use crate::raw::{
    COPY_DONE, FLUSH, RawClient, SYNC, TERMINATE, bind, close, copy_data, execute, function_call, parse, query,
    run_unnamed,
};

/// Few server connections, so that clients meet on them.
const SHARED: &str = "[pool]\nsize = 2";

/// Plays the same part to the primary and through Trunkline; both times before an empty table `t`.
fn same_answers(play: impl Fn(&mut RawClient) -> Vec<Vec<String>> + Send + 'static) {
    limited(move || {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut expected = Vec::new();
        for port in [cluster.node(0).port(), proxy.port()] {
            cluster.node(0).sql("drop table if exists t; create table t (a int)").unwrap();
            let answers = play(&mut RawClient::connect(port, &[]));
            if expected.is_empty() {
                expected = answers;
            } else {
                assert_eq!(answers, expected);
            }
        }
    });
}

#[test]
fn a_query_inside_a_batch_that_failed_is_skipped() {
    same_answers(|client| {
        let failed = [&*parse("", "select 1/0"), &bind("", &[]), &execute(), &query("select 1"), SYNC];
        vec![client.ask(&failed, 1), client.query("select 2")]
    });
}

#[test]
fn the_unnamed_statement_outlives_a_parse_that_was_skipped() {
    same_answers(|client| {
        vec![
            client.ask(&[&parse("", "select 42"), SYNC], 1),
            client.ask(&[&bind("nobody", &[]), &parse("", "select 43"), SYNC], 1),
            client.ask(&[&bind("", &[]), &execute(), SYNC], 1),
            client.ask(&[&parse("", "selekt"), SYNC], 1),
            client.ask(&[&bind("", &[]), &execute(), SYNC], 1),
        ]
    });
}

#[test]
fn a_skipped_bind_of_the_unnamed_statement_leaves_no_other_sessions_behind() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = \"primary\"");
        let (mut one, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        one.ask(&[&parse("", "select 'one'"), SYNC], 1);
        other.ask(&[&parse("", "select 'other'"), SYNC], 1);
        // The unnamed statement would be parsed anew, and is skipped.
        one.ask(&[&bind("nobody", &[]), &bind("", &[]), SYNC], 1);
        let answer = one.ask(&[&bind("", &[]), &execute(), SYNC], 1);
        assert!(answer.contains(&"row one".to_owned()), "{answer:?}");
    });
}

#[test]
fn names_in_errors_are_the_clients() {
    same_answers(|client| {
        vec![
            client.ask(&[&parse("first", "select 1"), &parse("second", "select 1"), SYNC], 1),
            client.ask(&[&parse("second", "select 2"), SYNC], 1),
            client.ask(&[&bind("third", &[]), SYNC], 1),
            client.query("deallocate first"),
            client.ask(&[&bind("first", &[]), SYNC], 1),
            client.ask(&[&bind("second", &[]), &execute(), SYNC], 1),
        ]
    });
}

#[test]
fn copy_data_that_comes_ahead_of_its_copy_arrives() {
    same_answers(|client| {
        vec![
            client.ask(&[&query("copy t from stdin"), &copy_data(b"1\n"), &copy_data(b"2\n"), COPY_DONE], 1),
            client.ask(
                &[&parse("", "copy t from stdin"), &bind("", &[]), &execute(), &copy_data(b"3\n"), COPY_DONE, SYNC],
                1,
            ),
            client.query("select count(*) from t"),
        ]
    });
}

#[test]
fn a_copy_whose_sync_was_eaten_waits_for_another() {
    same_answers(|client| {
        client.send(&[&parse("", "copy t from stdin"), &bind("", &[]), &execute(), SYNC]);
        let begun = client.until(b'G');
        client.send(&[&copy_data(b"1\n"), COPY_DONE]);
        thread::sleep(Duration::from_millis(200));
        vec![begun, client.ask(&[SYNC], 1), client.query("select count(*) from t")]
    });
}

/// PostgreSQL has not come to the Sync then, and answers it; behind a row that is wrong it has, and waits for another.
#[test]
fn a_copy_that_fails_has_eaten_its_sync_or_not() {
    limited(|| {
        let cluster = cluster();
        let made = "create table t (a int); create view v as select 1 as a;
            create function refuse() returns trigger language plpgsql as $$ begin raise 'no copies'; end $$;
            create table guarded (a int);
            create trigger refuse before insert on guarded for each statement execute function refuse()";
        cluster.node(0).sql(made).unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        // What of the Syncs is answered behind the COPY's end comes before, or not at all.
        let ask = |client: &mut RawClient, sql: &str| {
            client.send(&[&query(sql)]);
            std::iter::repeat_with(|| client.until(b'Z')).find(|answer| answer.len() > 1).unwrap()
        };
        let play = |port| {
            let (mut client, mut other) = (RawClient::connect(port, &[]), RawClient::connect(port, &[]));
            let ahead = [&*copy_data(b"x\n"), COPY_DONE, SYNC].concat();
            let mut told = Vec::new();
            for begin in ["select 41", "begin"] {
                for (table, data) in
                    [("v", &[][..]), ("v", &ahead), ("guarded", &[]), ("guarded", &ahead), ("t", &ahead)]
                {
                    told.push(ask(&mut client, begin));
                    let copy = [&*parse("", &format!("copy {table} from stdin")), &bind("", &[]), &execute(), SYNC];
                    told.push(client.ask(&[&copy.concat(), data], 1));
                    told.push(ask(&mut client, "rollback"));
                    told.push(ask(&mut other, "select 42"));
                    told.push(ask(&mut client, "select 43"));
                }
            }
            told
        };
        assert_eq!(play(proxy.port()), play(cluster.node(0).port()));
    });
}

#[test]
fn a_copy_whose_data_came_ahead_behind_its_sync_is_its_clients_until_the_next() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = \"primary\"");
        let (mut client, mut other) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        let copy = [&*parse("", "copy t from stdin"), &bind("", &[]), &execute(), SYNC];
        client.send(&[&copy.concat(), &copy_data(b"1\n"), COPY_DONE, FLUSH]);
        assert_eq!(client.until(b'C').last().unwrap(), "COPY 1");
        // On the same server connection it would roll the COPY back.
        other.send(&[&query("select 1/0")]);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(client.ask(&[SYNC], 1), ["I"]);
        assert_eq!(other.until(b'Z'), ["22012 division by zero", "I"]);
        assert_eq!(client.query("select count(*) from t")[1], "row 1");
    });
}

#[test]
fn a_write_behind_a_commit_of_a_read_only_transaction_is_done() {
    same_answers(|client| {
        let pipeline = ["begin read only", "select 1", "commit", "insert into t values (1)"].map(query);
        vec![client.ask(&pipeline.each_ref().map(Vec::as_slice), 4), client.query("select count(*) from t")]
    });
}

#[test]
fn a_goodbye_right_behind_a_statement_does_not_undo_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        RawClient::connect(proxy.port(), &[]).send(&[&query("insert into t select 1 from pg_sleep(0.2)"), TERMINATE]);
        eventually("the row is there", Duration::from_secs(5), || {
            cluster.node(0).sql("select count(*) from t").unwrap() == "1"
        });
    });
}

#[test]
fn what_stands_before_a_message_of_no_known_type_is_answered_first() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\nbuffer_bytes = '64kB'");
        let unknown = b"z\0\0\0\x04";
        // Larger than what the sockets hold, so that it is under way when the rest is looked at.
        let wide = "select repeat('x', 20 << 20)";
        let begun = [query("begin"), query(wide)].concat();
        let batch = [run_unnamed("select 1"), run_unnamed(wide)].concat();
        let copies = [query("create temp table c (a int)"), query("copy c from stdin"), copy_data(b"1\n")].concat();
        for before in [query(wide), [query(wide), query("select 7")].concat(), begun, batch.clone()] {
            let mut told = [cluster.node(0).port(), proxy.port()].map(|port| {
                let mut client = RawClient::connect(port, &[]);
                client.send(&[&before, unknown]);
                thread::sleep(Duration::from_millis(300));
                client.until_end()
            });
            assert_eq!(told[1].pop().unwrap(), "08P01 invalid frontend message type 122");
            assert_eq!(told[0].pop().unwrap(), "08P01 invalid frontend message type 122");
            assert!(told[0] == told[1], "{:?} and {:?}", told[0].len(), told[1].len());
        }
        // What PostgreSQL says nothing of, or takes.
        let large = [b"P".as_slice(), &(1_u32 << 20).to_be_bytes(), &[b'x'; 1000]].concat();
        // One byte more than a server takes of such a message.
        let too_long = [b"f".as_slice(), &10_001_u32.to_be_bytes(), &[b'x'; 9_996], b"\0"].concat();
        for (bad, words) in [
            (&b"Q\0\0\0\x03"[..], "08P01 invalid message length"),
            (&b"Q\0\0\0\x05x"[..], "08P01 invalid message format"),
            (&b"H\0\0\0\x05x"[..], "08P01 invalid message format"),
            (&b"S\0\0\0\x05x"[..], "08P01 invalid message format"),
            (&[0xff; 5][..], "08P01 invalid frontend message type 255"),
            (&too_long[..], "08P01 invalid message length"),
            (&large[..], "54000 message of 1048577 bytes is larger than limits.buffer_bytes (65536)"),
        ] {
            for before in [query(wide), batch.clone()] {
                let mut client = RawClient::connect(proxy.port(), &[]);
                client.send(&[&before, bad]);
                thread::sleep(Duration::from_millis(300));
                let told = client.until_end();
                assert!(told.iter().any(|words| words.len() > 20 << 20), "{}", told.len());
                assert_eq!(told.last().unwrap(), words);
            }
        }
        // Nobody waits for a node that waits for more; within a COPY PostgreSQL has other words.
        let words = "08P01 unexpected message type 0x7A during COPY from stdin".to_owned();
        for port in [cluster.node(0).port(), proxy.port()] {
            let mut client = RawClient::connect(port, &[]);
            client.send(&[&copies, unknown]);
            assert!(client.until_end().contains(&words));
        }
    });
}

#[test]
fn what_does_not_belong_into_a_copy_ends_the_session_in_the_servers_words() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        let (copy, other) = (query("copy t from stdin"), query("select 1"));
        let words = "08P01 unexpected message type 0x51 during COPY from stdin";
        for port in [cluster.node(0).port(), proxy.port()] {
            let mut client = RawClient::connect(port, &[]);
            client.send(&[&copy]);
            client.until(b'G');
            client.send(&[&copy_data(b"1\n"), &other]);
            assert_eq!(client.until_end()[0], words);
            // It may have been sent before its client could know.
            let mut client = RawClient::connect(port, &[]);
            client.send(&[&copy, &other]);
            let lost = "08P01 terminating connection because protocol synchronization was lost";
            let told = client.until_end();
            assert_eq!(told[..2], ["G", words]);
            // Where the COPY is known before it is sent on, the session ends with the first words.
            assert!(told[2..].iter().all(|words| words == lost), "{told:?}");
        }
        assert_eq!(proxy.metric("trunkline_errors_sent_total", "08007"), 0.0);
        assert_eq!(RawClient::connect(proxy.port(), &[]).query("select count(*) from t")[1], "row 0");
    });
}

#[test]
fn a_message_of_no_known_type_ends_the_session_also_behind_what_is_refused_or_lost() {
    limited(|| {
        let cluster = cluster();
        let rule = "[[rule]]\nname = 'no'\nuser = 'bench'\nkind = 'insert'\nrefuse = 'not here'\nsqlstate = 'ZZ042'";
        let proxy = Proxy::ruled(&cluster, rule, "", "");
        let last = "08P01 invalid frontend message type 122";
        for rest in [&b"z\0\0\0\x04"[..], &b"zzzzzzzzz"[..]] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.send(&[&run_unnamed("insert into t values (1)"), rest]);
            assert_eq!(client.until_end(), ["ZZ042 not here", last]);
        }
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin; select txid_current()");
        let ends = "select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'";
        cluster.node(0).sql(ends).unwrap();
        assert_eq!(client.query("select 1")[0].split(' ').next(), Some("40001"));
        client.send(&[b"z\0\0\0\x04"]);
        assert_eq!(client.until_end(), [last]);
    });
}

#[test]
fn what_a_replica_says_behind_what_it_has_refused_is_passed_over_however_long_it_is() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql(
                "create function refused() returns int stable language plpgsql as
                    $$ begin if pg_is_in_recovery() then raise sqlstate '42P01'; end if; return 1; end $$;
                create function loud() returns int stable language plpgsql as
                    $$ begin raise notice '%', repeat('x', 100000); return 2; end $$",
            )
            .unwrap();
        let settings = "[routing]\nsafe_functions = ['refused']\nconsistency = 'eventual'";
        let proxy = Proxy::start(&cluster, settings);
        let mut client = RawClient::connect(proxy.port(), &[]);
        for round in 0..10 {
            let told = client.ask(&[&query("select refused()"), &query("select loud()")], 2);
            let told: Vec<&str> = told.iter().map(|words| words.get(..9).unwrap_or(words)).collect();
            assert_eq!(told, ["T", "row 1", "SELECT 1", "I", "T", "00000 xxx", "row 2", "SELECT 1", "I"], "{round}");
        }
        assert_eq!(proxy.metric("trunkline_retries_total", "cause=\"node_lost\""), 0.0);
    });
}

#[test]
fn a_long_batch_is_answered_before_its_end_has_come() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int primary key, b text)").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.send(&[&parse("", "insert into t values ($1::text::int, $2)")]);
        let row = |key: &[u8]| [bind("", &[key, &[b'x'; 32 * 1024]]), execute()].concat();
        client.send(&[&row(b"0"), &row(b"0")]);
        // As a client that looks for an error while it writes, and stops at the first.
        for _ in 0..16 {
            client.send(&[&row(b"1")]);
        }
        let told = client.until(b'E');
        assert!(told.last().unwrap().starts_with("23505"), "{told:?}");
        client.send(&[SYNC]);
        client.until(b'Z');
        assert_eq!(client.query("select count(*) from t")[1], "row 0");
    });
}

#[test]
fn a_goodbye_in_the_middle_lets_go_of_what_was_begun() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        let insert = run_unnamed("insert into t values (1)");
        let copy_by_execute = [run_unnamed("copy t from stdin"), SYNC.to_vec()].concat();
        for begun in [query("copy t from stdin"), copy_by_execute, insert] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("begin");
            client.query("lock t");
            client.send(&[&begun, TERMINATE]);
            eventually("nobody holds the lock", Duration::from_secs(5), || {
                cluster.node(0).sql("select count(*) from pg_locks where relation = 't'::regclass").unwrap() == "0"
            });
            drop(client);
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "0");
    });
}

#[test]
fn messages_larger_than_the_buffer_go_on_as_they_come() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\nbuffer_bytes = \"1MB\"");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let value = vec![b'x'; 50 << 20];
        for name in ["", "named"] {
            client.ask(&[&parse(name, "select length($1::text)"), SYNC], 1);
            let answer = client.ask(&[&bind(name, &[&value]), &execute(), SYNC], 1);
            assert!(answer.contains(&"row 52428800".to_owned()), "{answer:?}");
        }
        // One that nobody wants is dropped as it comes.
        let refused = client.ask(&[&bind("nobody", &[]), &bind("", &[&value]), SYNC], 1);
        assert!(refused[0].starts_with("26000"), "{refused:?}");
        let text = format!("select length('{}')", "y".repeat(20 << 20));
        assert!(client.query(&text).contains(&"row 20971520".to_owned()));
        // As of drivers that write a large object at once; what it calls may come behind its header.
        let makes = cluster.node(0).sql("select 'lo_from_bytea'::regproc::oid").unwrap().trim().parse().unwrap();
        let call = function_call(makes, &["0", &"z".repeat(20 << 20)]);
        client.send(&[&call[..7]]);
        thread::sleep(Duration::from_millis(200));
        assert_eq!(client.ask(&[&call[7..]], 1), ["V", "I"]);
        assert_eq!(cluster.node(0).sql("select sum(octet_length(data)) from pg_largeobject").unwrap(), "20971520");
        assert!(client.query("select 7").contains(&"row 7".to_owned()));
        assert!(proxy.resident_megabytes() < 60, "{} MB", proxy.resident_megabytes());
    });
}

#[test]
fn an_error_or_a_notice_of_many_megabytes_goes_on_as_it_comes() {
    limited(|| {
        let cluster = cluster();
        // As of a name that a replica does not know: the primary is asked.
        let raises = "create function f() returns int stable language plpgsql as
            $$ begin raise '%', repeat('x', 50 << 20) using errcode = '42P01'; end $$";
        cluster.node(0).sql(raises).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, SHARED).with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[("options", "-c log_min_messages=panic")]);
        client.query("select 7");
        let before = proxy.peak_megabytes();
        let raised = |level: &str| format!("do $$ begin raise {level} '%', repeat('x', 50 << 20); end $$");
        let is_told = |told: &str, code: &str| told.starts_with(code) && told.len() == (50 << 20) + code.len() + 1;
        let told = client.query(&raised("notice"));
        assert!(is_told(&told[0], "00000") && told[1..] == ["DO", "I"], "{:?}", &told[1..]);
        let told = client.query(&raised("exception"));
        assert!(is_told(&told[0], "P0001") && told[1..] == ["I"], "{:?}", &told[1..]);
        let told = client.query("select f()");
        assert!(told.len() == 3 && is_told(&told[1], "42P01"), "{}", told.len());
        assert!(client.query("select 7").contains(&"row 7".to_owned()));
        assert!(proxy.peak_megabytes() < before + 20, "{} MB after {before}", proxy.peak_megabytes());
    });
}

/// Every few bytes the batch is cut elsewhere, also between a Bind and its Execute.
#[test]
fn a_batch_larger_than_the_buffer_goes_on_at_the_primary_where_it_writes() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, "[limits]\nbuffer_bytes = '64kB'\n[routing]\nconsistency = 'eventual'")
            .with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = run_unnamed;
        let write = [run("insert into t values (1)"), SYNC.to_vec()].concat();
        let primary = format!("row {}", cluster.node(0).port());
        let mut cut = 0;
        for padding in (0..60).step_by(6) {
            let first = run(&format!("select inet_server_port() -- {}", "x".repeat(padding)));
            let reads = run("select inet_server_port()").repeat(2500);
            let told = client.ask(&[&first, &reads, &write], 1);
            assert_eq!(told[told.len() - 2..], ["INSERT 0 1", "I"], "{padding}: {:?}", told.last());
            assert_eq!(told.iter().filter(|words| words.starts_with("SELECT")).count(), 2501, "{padding}");
            cut += usize::from(told[2] != primary);
        }
        assert!(cut >= 5, "where the buffer does not end just behind a message, the batch begins on a replica: {cut}");
        // One value is larger than the buffer.
        let value = vec![b'x'; 300_000];
        let read = [parse("", "select length($1::text)"), bind("", &[&value]), execute()].concat();
        let told = client.ask(&[&read, &write], 1);
        assert_eq!(told, ["1", "2", "row 300000", "SELECT 1", "1", "2", "INSERT 0 1", "I"]);
        // Where what has come with the Parse of its statement ends within its names, they are waited for.
        let bound = bind("S_1", &[&value]);
        let parses = [close("S_1"), parse("S_1", "select length($1::text)")].concat();
        for (before, told_before) in [(&parses[..], &["3", "1"][..]), (&[], &[])] {
            for there in [5, 6, 8] {
                client.send(&[before, &bound[..there]]);
                thread::sleep(Duration::from_millis(200));
                let told = client.ask(&[&bound[there..], &execute(), SYNC], 1);
                assert_eq!(told, [told_before, &["2", "row 300000", "SELECT 1", "I"]].concat(), "{there}");
            }
        }
        // What was bound before a Flush is executed there.
        let told = client.ask(&[&parse("", "select 7"), &bind("", &[]), FLUSH, &execute(), &write], 1);
        assert_eq!(told, ["1", "2", "row 7", "SELECT 1", "1", "2", "INSERT 0 1", "I"]);
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "12");
    });
}

#[test]
fn a_cancel_takes_a_statement_out_of_the_queue() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let (mut holds, mut waits) = (RawClient::connect(proxy.port(), &[]), RawClient::connect(proxy.port(), &[]));
        holds.query("begin; insert into t values (1)");
        let cancel = waits.canceller();
        let cancelling = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            cancel();
        });
        let answer = waits.query("insert into t values (2)");
        assert!(answer[0].starts_with("57014"), "{answer:?}");
        cancelling.join().unwrap();
        holds.query("commit");
        assert!(waits.query("insert into t values (3)").contains(&"INSERT 0 1".to_owned()));
        assert_eq!(cluster.node(0).sql("select string_agg(a::text, ' ' order by a) from t").unwrap(), "1 3");
    });
}

#[test]
fn what_a_vanished_client_held_is_free_within_a_second() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select 1 as a").unwrap();
        let proxy = Proxy::start(&cluster, SHARED);
        for last in ["select 1", "select pg_sleep(30) from t", "copy t from stdin"] {
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("begin; update t set a = a + 1");
            client.send(&[&query(last)]);
            thread::sleep(Duration::from_millis(200));
            drop(client);
            eventually(last, Duration::from_secs(1), || locks(&cluster) == "0");
        }
        assert_eq!(cluster.node(0).sql("select a from t").unwrap(), "1");
    });
}

fn locks(cluster: &Cluster) -> String {
    let held = "select count(*) from pg_locks where relation = 't'::regclass and pid <> pg_backend_pid()";
    cluster.node(0).sql(held).unwrap()
}
