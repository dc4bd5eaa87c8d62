//! Rules and hints, judged by where the servers say that statements ran.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postgres::error::SqlState;
use postgres::{Client, NoTls, SimpleQueryMessage};

use crate::fixture::{Proxy, cluster, dumped, eventually, limited, server_port};
use crate::raw::{FLUSH, RawClient, SYNC, bind, execute, parse, query, run_unnamed};
use crate::record::is_logged;

const WHERE: &str = "select inet_server_port()";

#[test]
fn a_group_takes_the_reads_of_its_rule_and_its_fallback_those_it_cannot() {
    limited(|| {
        let cluster = cluster();
        let [primary, first, second] = [0, 1, 2].map(|number| cluster.node(number).port());
        let rules = "[[rule]]\nname = 'kind'\napplication_name = 'kind'\nto = 'group:reports'\nfallback = 'replicas'\n\
                     [[rule]]\nname = 'strict'\napplication_name = 'strict'\nto = 'tag:big'\nfallback = 'refuse'\n\
                     [[rule]]\nname = 'plain'\napplication_name = 'plain'\nto = 'zone:b'";
        let proxy =
            Proxy::ruled(&cluster, rules, &reports_on_the_second(&cluster), "[routing]\nconsistency = 'eventual'")
                .with_both_replicas(&cluster);
        let mut clients = ["kind", "strict", "plain"].map(|name| named(&proxy, name));
        for client in &mut clients {
            assert_eq!(ports(client, WHERE, 20), BTreeMap::from([(second, 20)]));
        }
        cluster.node(2).kill().unwrap();
        eventually("it is known", Duration::from_secs(5), || !proxy.takes_reads(cluster.node(2).address()));
        let [kind, strict, plain] = &mut clients;
        assert_eq!(ports(kind, WHERE, 20), BTreeMap::from([(first, 20)]));
        assert_eq!(ports(plain, WHERE, 20), BTreeMap::from([(primary, 20)]));
        assert_eq!(strict.query_one(WHERE, &[]).unwrap_err().code(), Some(&SqlState::CANNOT_CONNECT_NOW));
        cluster.node(2).start().unwrap();
        eventually("it is back", Duration::from_secs(10), || strict.query_one(WHERE, &[]).is_ok());
    });
}

#[test]
fn what_a_replica_cannot_end_stays_with_the_nodes_of_a_rule_that_refuses() {
    limited(|| {
        let cluster = cluster();
        let [primary, first, second] = [0, 1, 2].map(|number| cluster.node(number).port());
        // As a replica cancels what is in the way of replay.
        for (name, conflicts) in
            [("everywhere", "pg_is_in_recovery()"), ("once", &*format!("inet_server_port() = {first}"))]
        {
            let function = format!(
                "create function {name}() returns text stable language plpgsql as $$ begin \
                 if {conflicts} then raise sqlstate '40001'; end if; return inet_server_port(); end $$"
            );
            cluster.node(0).sql(&function).unwrap();
        }
        let replicas = &cluster.nodes()[1..];
        replicas.iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let rules = "[[rule]]\nname = 'strict'\napplication_name = 'strict'\nto = 'replicas'\nfallback = 'refuse'";
        let safe = "[routing]\nsafe_functions = ['everywhere', 'once']";
        let proxy = Proxy::ruled(&cluster, rules, "", safe).with_both_replicas(&cluster);
        let conflicts = || proxy.metric("trunkline_retries_total", "cause=\"recovery_conflict\"");
        let connect = |name: &str| RawClient::connect(proxy.port(), &[("application_name", name)]);
        let (mut strict, mut plain) = (connect("strict"), connect("plain"));
        let (at_primary, at_second) = (format!("row {primary}"), format!("row {second}"));
        assert!(plain.query("select everywhere()").contains(&at_primary));
        assert_eq!(conflicts(), 1.0);
        let told = strict.query("select everywhere()");
        assert_eq!(told[0], "57P03 none of the nodes that a rule gives for this read can take it now");
        assert_eq!(conflicts(), 3.0, "each replica has been asked");
        for _ in 0..10 {
            let told = strict.query("select once()");
            assert!(told.contains(&at_second), "{told:?}");
        }
        strict.query("begin read only");
        let told = strict.query("select everywhere()");
        assert!(told.iter().any(|words| words.starts_with("40001")), "{told:?}");
        strict.query("rollback");
        for (client, goes_on) in [(&mut strict, false), (&mut plain, true)] {
            client.query("begin read only");
            let ends = "select pg_terminate_backend(pid) from pg_stat_activity where state = 'idle in transaction'";
            replicas.iter().for_each(|replica| drop(replica.sql(ends).unwrap()));
            let told = client.query(WHERE);
            assert_eq!((told.contains(&at_primary), told[0].starts_with("40001")), (goes_on, !goes_on), "{told:?}");
            client.query("rollback");
        }
    });
}

#[test]
fn a_group_whose_pools_are_full_is_waited_for_and_not_fallen_back_from() {
    limited(|| {
        let cluster = cluster();
        let second = cluster.node(2).port();
        let rules = "[[rule]]\nname = 'kind'\napplication_name = 'kind'\nto = 'group:reports'\nfallback = 'replicas'";
        let small = "[routing]\nconsistency = 'eventual'\n[pool]\nsize = 1";
        let proxy = Proxy::ruled(&cluster, rules, &reports_on_the_second(&cluster), small).with_both_replicas(&cluster);
        let mut sleeper = named(&proxy, "kind");
        let asleep = std::thread::spawn(move || sleeper.simple_query("select pg_sleep(2)").is_ok());
        eventually("it sleeps there", Duration::from_secs(5), || {
            let asked = "select count(*) from pg_stat_activity where query = 'select pg_sleep(2)' and state = 'active'";
            cluster.node(2).sql(asked).unwrap() == "1"
        });
        assert_eq!(ports(&mut named(&proxy, "kind"), WHERE, 5), BTreeMap::from([(second, 5)]));
        assert!(asleep.join().unwrap());
    });
}

#[test]
fn a_max_lag_that_no_replica_reaches_while_it_takes_reads_is_warned_of() {
    limited(|| {
        let cluster = cluster();
        let rule = |name: &str, lag: &str| format!("[[rule]]\nname = '{name}'\nuser = 'bi'\nmax_lag = '{lag}'\n");
        let rules = rule("short", "4s") + &rule("long", "6s").replace("'bi'", "'etl'");
        let proxy = Proxy::ruled(&cluster, &rules, "", "[routing]\nmax_lag = '5s'");
        is_logged(&proxy, &["WARN", "max_lag", "long"]);
        assert!(!proxy.log().lines().any(|line| line.contains("max_lag") && line.contains("short")));
    });
}

#[test]
fn a_refusal_has_the_words_and_the_sqlstate_of_its_rule_inside_a_transaction_too() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select 1 as a").unwrap();
        let rules = "[[rule]]\nname = 'no'\nwhere = false\nrefuse = 'all of it?'\nsqlstate = 'ZZ042'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = proxy.client();
        for sql in ["delete from t", "with d as (update t set a = 2 returning a) select 1 from d"] {
            let error = client.batch_execute(sql).unwrap_err();
            let told = error.as_db_error().unwrap();
            assert_eq!((told.code().code(), told.message()), ("ZZ042", "all of it?"), "{sql}");
            assert_eq!(client.query(sql, &[]).unwrap_err().code().unwrap().code(), "ZZ042", "prepared: {sql}");
        }
        let mut transaction = client.transaction().unwrap();
        transaction.execute("insert into t values (3)", &[]).unwrap();
        assert_eq!(transaction.execute("delete from t", &[]).unwrap_err().code().unwrap().code(), "ZZ042");
        drop(transaction);
        assert_eq!(client.execute("delete from t where true", &[]).unwrap(), 1, "the insert was rolled back");
        assert!(proxy.metric("trunkline_rule_matches_total", "rule=\"no\"") >= 3.0);
    });
}

#[test]
fn a_refusal_behind_a_begin_in_its_batch_leaves_a_transaction_that_has_failed() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'no'\nwhere = false\nrefuse = 'all of it?'\nsqlstate = 'ZZ042'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = run_unnamed;
        for is_answered in [false, true] {
            for end in ["rollback", "commit", "rollback; select 7"] {
                let mut begin = run("begin");
                if is_answered {
                    client.send(&[&begin, FLUSH]);
                    assert_eq!(client.until(b'C').last().unwrap(), "BEGIN");
                    begin.clear();
                }
                let told = client.ask(&[&begin, &run("delete from t"), &run("commit"), SYNC], 1);
                assert_eq!(told, ["ZZ042 all of it?", "E"], "{end}");
                let told = client.query("insert into t values (1)");
                assert!(told[0].starts_with("25P02") && told[1] == "E", "{told:?}");
                let told = client.query(end);
                assert!(told[0] == "ROLLBACK" && told.last().unwrap() == "I", "{told:?}");
                assert_eq!(told.contains(&"row 7".to_owned()), end.ends_with('7'), "{told:?}");
            }
        }
        assert_eq!(client.query("insert into t values (1)"), ["INSERT 0 1", "I"]);
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap().trim(), "1");
    });
}

#[test]
fn a_refusal_costs_a_session_nothing_that_it_keeps_on_its_server_connection() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'no'\nwhere = false\nrefuse = 'all of it?'\nsqlstate = 'ZZ042'";
        let run = run_unnamed;
        let [process, insert, refused] =
            ["select pg_backend_pid() /* trunkline: primary */", "insert into t values (1)", "delete from t"];
        for (settings, kept_by) in [("[pool]\nmode = 'session'", "select 1"), ("", "listen news")] {
            let proxy = Proxy::ruled(&cluster, rules, "", settings);
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query(kept_by);
            let before = client.query(process);
            assert_eq!(client.query(refused), ["ZZ042 all of it?", "I"]);
            // In a transaction, by itself and in a batch.
            for refused in [query(refused), [&run(refused)[..], SYNC].concat()] {
                client.query("begin");
                client.query(insert);
                assert_eq!(client.ask(&[&refused], 1), ["ZZ042 all of it?", "E"], "{kept_by}");
                assert!(client.query(insert)[0].starts_with("25P02"));
                assert_eq!(client.query("commit"), ["ROLLBACK", "I"]);
            }
            // In the block of a batch, of which something has been done.
            client.send(&[&run(insert), FLUSH]);
            assert_eq!(client.until(b'C').last().unwrap(), "INSERT 0 1");
            let told = client.ask(&[&run(refused), &run(insert), SYNC], 1);
            assert_eq!(told, ["ZZ042 all of it?", "I"], "{kept_by}");
            client.send(&[&run(insert), FLUSH]);
            client.until(b'C');
            client.send(&[&run(refused), FLUSH]);
            assert_eq!(client.until(b'E'), ["ZZ042 all of it?"]);
            assert_eq!(client.ask(&[&run(insert), SYNC], 1), ["I"], "{kept_by}");
            assert_eq!(client.query("select count(*) from t")[1], "row 0");
            assert_eq!(client.query(process), before, "{kept_by}");
        }
    });
}

#[test]
fn a_refusal_behind_a_commit_in_its_batch_does_not_speak_of_what_is_committed() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'no'\nwhere = false\nrefuse = 'all of it?'\nsqlstate = 'ZZ042'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let run = run_unnamed;
        let mut client = RawClient::connect(proxy.port(), &[]);
        for (number, is_answered) in [(1, true), (2, false)] {
            client.query("begin");
            client.query(&format!("insert into t values ({number})"));
            let mut told = Vec::new();
            client.send(&[&run("commit"), if is_answered { FLUSH } else { b"" }]);
            if is_answered {
                told = client.until(b'C');
            } else {
                eventually("it is sent", Duration::from_secs(10), || {
                    cluster.node(0).sql(&format!("select count(*) from t where a = {number}")).unwrap().trim() == "1"
                });
            }
            told.extend(client.ask(&[&run("insert into t values (10)"), &run("delete from t"), SYNC], 1));
            let at = |words: &str| told.iter().position(|told| told.starts_with(words)).expect(words);
            assert!(at("COMMIT") < at("ZZ042"), "{told:?}");
            assert_eq!(told.last().unwrap(), "I", "{told:?}");
            assert_eq!(
                client.query("select string_agg(a::text, ',' order by a) from t")[1],
                ["row 1", "row 1,2"][number - 1]
            );
        }
    });
}

#[test]
fn a_rule_for_transactions_does_not_mean_what_comes_behind_their_end_in_one_write() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'within'\ntransaction = true\ntable = 't'\nkind = 'select'\nrefuse = 'no'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("begin; insert into t values (1)");
        let told = client.ask(&[&query("commit"), &query("select count(*) from t")], 2);
        assert!(told.contains(&"row 1".to_owned()), "{told:?}");
        client.query("begin; insert into t values (1)");
        let run = run_unnamed;
        client.send(&[&run("commit")]);
        eventually("it is sent", Duration::from_secs(10), || {
            cluster.node(0).sql("select count(*) from t").unwrap().trim() == "2"
        });
        let told = client.ask(&[&run("select count(*) from t"), SYNC], 1);
        assert!(told.contains(&"row 2".to_owned()), "{told:?}");
        client.query("begin; insert into t values (1)");
        let told = client.query("select count(*) from t");
        assert!(told[0].starts_with("42501"), "{told:?}");
        client.query("rollback");
    });
}

#[test]
fn a_rule_for_transactions_means_what_comes_behind_their_begin_in_one_write() {
    limited(|| {
        let cluster = cluster();
        ["t", "u"].iter().for_each(|table| drop(cluster.node(0).sql(&format!("create table {table} ()")).unwrap()));
        let rule = |name: &str, within: bool, table: &str| {
            format!("[[rule]]\nname = '{name}'\ntransaction = {within}\ntable = '{table}'\nrefuse = 'not {name}'\n")
        };
        let proxy = Proxy::ruled(&cluster, &(rule("within", true, "t") + &rule("outside", false, "u")), "", "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = run_unnamed;
        let [from_t, from_u] = ["select count(*) from t", "select count(*) from u"];
        for begin in ["begin", "begin read only"] {
            let told = client.ask(&[&run(begin), &run(from_t), SYNC], 1);
            assert!(told.iter().any(|told| told == "42501 not within"), "{told:?}");
            client.query("rollback");
            client.send(&[&run(begin), FLUSH]);
            client.until(b'C');
            let told = client.ask(&[&run(from_t), SYNC], 1);
            assert_eq!(told[0], "42501 not within");
            client.query("rollback");
            let told = client.ask(&[&query(begin), &query(from_t)], 2);
            assert!(told.iter().any(|told| told == "42501 not within"), "{told:?}");
            client.query("rollback");
            let told = client.ask(&[&run(begin), &run(from_u), SYNC], 1);
            assert!(told.contains(&"row 0".to_owned()), "{told:?}");
            let told = client.ask(&[&run("commit"), &run(from_u), SYNC], 1);
            assert!(told.iter().any(|told| told == "42501 not outside"), "{told:?}");
        }
        assert_eq!(client.query(from_t)[1], "row 0");
    });
}

#[test]
fn what_comes_behind_a_commit_in_its_batch_is_in_no_transaction() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = run_unnamed;
        for sql in ["insert into t values (1)", "select inet_server_port() /* trunkline: primary */"] {
            client.query("begin read only; select 1");
            client.send(&[&run("commit"), FLUSH]);
            assert_eq!(client.until(b'C').last().unwrap(), "COMMIT");
            let told = client.ask(&[&run(sql), SYNC], 1);
            assert_eq!(told.last().unwrap(), "I", "{told:?}");
            let port = format!("row {}", cluster.node(0).port());
            assert!(told.contains(&"INSERT 0 1".to_owned()) || told.contains(&port), "{told:?}");
        }
    });
}

#[test]
fn what_stands_right_behind_a_commit_goes_where_it_may_itself() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = run_unnamed;
        let port = format!("row {}", cluster.node(0).port());
        for sql in ["insert into t values (1)", "select inet_server_port() /* trunkline: primary */"] {
            for ways in [
                vec![[run("commit"), run(sql), SYNC.to_vec()].concat()],
                vec![[run("commit"), FLUSH.to_vec(), run(sql), SYNC.to_vec()].concat()],
                vec![run("commit"), [run(sql), SYNC.to_vec()].concat()],
            ] {
                for before in ["select 1", "set app.tenant = '7'"] {
                    client.query(&format!("begin read only; {before}"));
                    let told = client.ask(&ways.iter().map(Vec::as_slice).collect::<Vec<_>>(), 1);
                    assert_eq!(told.last().unwrap(), "I", "{told:?}");
                    assert!(told.contains(&"INSERT 0 1".to_owned()) || told.contains(&port), "{told:?}");
                }
            }
            // Behind a BEGIN that is not answered yet.
            let units = [[run("begin read only"), run("select 1")], [run("commit"), run(sql)]];
            let units = units.map(|unit| [&unit.concat(), SYNC].concat());
            let told = client.ask(&[&units.concat()], 2);
            assert!(told.contains(&"INSERT 0 1".to_owned()) || told.contains(&port), "{told:?}");
            client.query("begin read only; select 1");
            let told = client.query(&format!("commit; {sql}"));
            assert!(told.contains(&"INSERT 0 1".to_owned()) || told.contains(&port), "{told:?}");
        }
        assert_eq!(client.query("select current_setting('app.tenant')")[1], "row 7");
    });
}

#[test]
fn a_read_behind_a_commit_in_one_write_goes_where_it_may_itself() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let port = "select inet_server_port()";
        client.query("begin read only");
        assert_ne!(client.query(port)[1], format!("row {}", cluster.node(0).port()));
        let told = client.ask(&[&query("commit"), &query(&format!("{port} /* trunkline: primary */"))], 2);
        assert!(told.contains(&format!("row {}", cluster.node(0).port())), "{told:?}");
    });
}

#[test]
fn a_replica_further_behind_than_max_lag_is_not_read() {
    limited(|| {
        let cluster = cluster();
        let [primary, _, second] = [0, 1, 2].map(|number| cluster.node(number).port());
        let rules = "[[rule]]\nname = 'near'\napplication_name = 'near'\nto = 'group:reports'\nmax_lag = '500ms'\n\
                     [[rule]]\nname = 'far'\napplication_name = 'far'\nto = 'group:reports'";
        let extra = "[routing]\nconsistency = 'eventual'\nmax_lag = '60s'";
        let proxy = Proxy::ruled(&cluster, rules, &reports_on_the_second(&cluster), extra).with_both_replicas(&cluster);
        let [mut near, mut far] = ["near", "far"].map(|name| named(&proxy, name));
        assert_eq!(server_port(&mut near, WHERE), second);
        cluster.node(2).pause_replay().unwrap();
        let mut writes = 0;
        eventually("it is too far behind", Duration::from_secs(20), || {
            writes += 1;
            cluster.node(0).sql(&format!("create table t{writes} ()")).unwrap();
            server_port(&mut near, WHERE) == primary
        });
        assert_eq!(server_port(&mut far, WHERE), second, "nobody else minds");
        let hinted = "select inet_server_port() /* trunkline: max_lag=500ms */";
        assert_eq!(server_port(&mut far, hinted), primary);
        assert!(proxy.metric("trunkline_statements_total", "too_far_behind") > 0.0);
        cluster.node(2).resume_replay().unwrap();
        eventually("it has caught up", Duration::from_secs(10), || server_port(&mut near, WHERE) == second);
    });
}

#[test]
fn a_read_that_waits_for_a_server_connection_is_answered_within_its_max_lag() {
    limited(|| {
        let cluster = cluster();
        let [primary, _, second] = [0, 1, 2].map(|number| cluster.node(number).port());
        let rules = "[[rule]]\nname = 'near'\napplication_name = 'near'\nto = 'group:reports'\nmax_lag = '500ms'\n\
                     [[rule]]\nname = 'far'\napplication_name = 'far'\nto = 'group:reports'";
        let extra = "[pool]\nsize = 1\n[routing]\nconsistency = 'eventual'\nmax_lag = '60s'";
        let proxy = Proxy::ruled(&cluster, rules, &reports_on_the_second(&cluster), extra).with_both_replicas(&cluster);
        let [mut near, mut far] = ["near", "far"].map(|name| named(&proxy, name));
        assert_eq!(server_port(&mut near, WHERE), second);
        let long = std::thread::spawn(move || server_port(&mut far, "select inet_server_port() from pg_sleep(9)"));
        eventually("the only server connection is taken", Duration::from_secs(5), || {
            let asked = "select count(*) from pg_stat_activity where query like '%pg_sleep(9)%' and state = 'active' \
                         and pid <> pg_backend_pid()";
            cluster.node(2).sql(asked).unwrap() == "1"
        });
        cluster.node(2).pause_replay().unwrap();
        let waits = std::thread::spawn(move || simple_ports(&mut near, WHERE, 1));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waits.is_finished(), "it waits at a node that is not behind yet");
        let mut writes = 0;
        eventually("it is answered", Duration::from_secs(20), || {
            writes += 1;
            cluster.node(0).sql(&format!("create table t{writes} ()")).unwrap();
            waits.is_finished()
        });
        assert_eq!(waits.join().unwrap(), BTreeMap::from([(primary, 1)]));
        assert!(!long.is_finished());
        assert_eq!(long.join().unwrap(), second);
        cluster.node(2).resume_replay().unwrap();
    });
}

#[test]
fn a_rule_may_ask_for_more_and_for_less_than_the_session_does() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select 1 as a").unwrap();
        let rules = "[[rule]]\nname = 'strong'\ncomment = 'route=/orders/*'\nconsistency = 'strong'\n\
                     [[rule]]\nname = 'eventual'\ntag = 'window'\nconsistency = 'eventual'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let (mut writer, mut reader) = (proxy.client(), proxy.client());
        let count = |client: &mut Client, sql: &str| client.query_one(sql, &[]).unwrap().get::<_, i64>(0);
        for replica in [1, 2] {
            cluster.node(replica).catch_up(cluster.node(0)).unwrap();
            cluster.node(replica).pause_replay().unwrap();
        }
        writer.execute("insert into t values (2)", &[]).unwrap();
        assert_eq!(count(&mut reader, "select count(*) from t"), 1, "the replicas stand still");
        assert_eq!(count(&mut reader, "select count(*) from t /*route='%2Forders%2F1'*/"), 2);
        assert_eq!(count(&mut reader, "select count(*) from t /* trunkline: consistency=strong */"), 2);
        assert_eq!(count(&mut writer, "select count(*) from t"), 2, "its own write");
        assert_eq!(count(&mut writer, "select count(*) from t /* trunkline: tag=window */"), 1);
        assert_eq!(count(&mut writer, "select count(*) from t"), 2, "its own write, still");
        // By one message each, with nothing between them that would ask the primary.
        let window = "select count(*) from t /* trunkline: tag=window */";
        let mut raw = RawClient::connect(proxy.port(), &[]);
        raw.query("insert into t values (3)");
        let is_told = |told: &[String], row: &str| told.iter().any(|words| words == row);
        for _ in 0..3 {
            let told = raw.query("select count(*) from t");
            assert!(is_told(&told, "row 3"), "its own write: {told:?}");
            let told = raw.query(window);
            assert!(is_told(&told, "row 1"), "{told:?}");
        }
        // And in one go: the second may not ride on what the first has taken.
        let told = raw.ask(&[&query(window), &query("select count(*) from t")], 2);
        assert!(is_told(&told, "row 1") && is_told(&told, "row 3"), "{told:?}");
        // Nor in one batch, in either order, nor behind a Flush.
        let (window, plain) = (run_unnamed(window), run_unnamed("select count(*) from t"));
        for batch in [[&*window, &*plain, SYNC], [&*plain, &*window, SYNC]] {
            let told = raw.ask(&batch, 1);
            assert_eq!(told.iter().filter(|words| *words == "row 3").count(), 2, "{told:?}");
        }
        let told = raw.ask(&[&window, FLUSH, &plain, SYNC], 1);
        assert!(is_told(&told, "row 1") && is_told(&told, "row 3"), "{told:?}");
    });
}

#[test]
fn a_share_of_the_reads_goes_where_its_rule_says() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'some'\nshare = '25%'\nto = 'primary'";
        let proxy = Proxy::ruled(&cluster, rules, "", "[routing]\nconsistency = 'eventual'");
        let mut client = proxy.client();
        let primary = cluster.node(0).port();
        for sql in ["1", "prepared"] {
            let seen = match sql {
                "prepared" => ports(&mut client, WHERE, 600),
                _ => simple_ports(&mut client, WHERE, 600),
            };
            let there = seen.get(&primary).copied().unwrap_or(0);
            // Five standard deviations to each side.
            assert!((97..=203).contains(&there), "{there} of 600, {sql}");
        }
    });
}

#[test]
fn a_shadow_rule_moves_nothing_and_counts_what_it_would_have_moved() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'would'\nshadow = true\nuser = 'bench'\nto = 'primary'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = proxy.client();
        let primary = cluster.node(0).port();
        assert!(!simple_ports(&mut client, WHERE, 20).contains_key(&primary));
        for _ in 0..5 {
            client.batch_execute("insert into t values (1)").unwrap();
        }
        let metric = |name| proxy.metric(name, "rule=\"would\"");
        assert_eq!(metric("trunkline_rule_matches_total"), 25.0);
        assert_eq!(metric("trunkline_rule_would_change_total"), 20.0, "the writes are the primary's anyway");
    });
}

#[test]
fn a_statement_counts_once_for_its_rule_however_often_it_is_looked_at_or_run() {
    limited(|| {
        let cluster = cluster();
        let function = "create function log_access(text) returns int language sql as \
                        'insert into log values ($1) returning 1'";
        cluster.node(0).sql("create table log (what text)").unwrap();
        cluster.node(0).sql(function).unwrap();
        let rule = |name: &str, rest: &str| format!("[[rule]]\nname = '{name}'\nlog = true\n{rest}\n");
        let rules = rule("no", "where = false\nrefuse = 'all of it?'") + &rule("seen", "kind = ['select', 'insert']");
        let proxy = Proxy::ruled(&cluster, &rules, "", "[routing]\nsafe_functions = ['log_access']")
            .with_both_replicas(&cluster);
        let mut client = RawClient::connect(proxy.port(), &[]);
        let is_counted = |rule: &str, kinds: &[&str]| {
            let matches = proxy.metric("trunkline_rule_matches_total", &format!("rule=\"{rule}\""));
            assert_eq!(matches.to_string(), kinds.len().to_string(), "{rule}");
            eventually("each is logged once", Duration::from_secs(5), || {
                let log = proxy.log();
                let lines: Vec<_> = log.lines().filter(|line| line.contains(&format!(" rule={rule} "))).collect();
                let is_of = |(line, kind): (&&str, &&str)| line.contains(&format!("kind=\"{kind}\""));
                lines.len() == kinds.len() && lines.iter().zip(kinds).all(is_of)
            });
        };
        // It waits for the BEGIN, and is looked at again.
        let told = client.ask(&[&query("begin"), &query("delete from log")], 2);
        assert!(told.contains(&"42501 all of it?".to_owned()), "{told:?}");
        client.query("rollback");
        is_counted("no", &["delete"]);
        let mut kinds = Vec::new();
        eventually("a replica refuses it, and it is run again at the primary", Duration::from_secs(5), || {
            assert!(client.query("select log_access('a')").contains(&"row 1".to_owned()));
            kinds.push("select");
            proxy.metric("trunkline_retries_total", "cause=\"read_only\"") == 1.0
        });
        is_counted("seen", &kinds);
        let batch = ["delete from log where false", "insert into log values ('b')"].map(run_unnamed).concat();
        client.ask(&[&batch, SYNC], 1);
        kinds.push("insert");
        is_counted("seen", &kinds);
    });
}

#[test]
fn hints_move_reads_and_never_a_write() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let [primary, _, second] = [0, 1, 2].map(|number| cluster.node(number).port());
        let proxy = Proxy::ruled(
            &cluster,
            "[[rule]]\nname = 'a'\nuser = 'nobody'\nto = 'primary'",
            &reports_on_the_second(&cluster),
            "[routing]\nconsistency = 'eventual'",
        )
        .with_both_replicas(&cluster);
        let mut client = proxy.client();
        for _ in 0..20 {
            assert_eq!(server_port(&mut client, "/* trunkline: primary */ select inet_server_port()"), primary);
            assert_eq!(server_port(&mut client, "select inet_server_port() -- trunkline: group=reports"), second);
            assert_eq!(server_port(&mut client, "select inet_server_port() /*trunkline:group=tag:big*/"), second);
            assert_ne!(server_port(&mut client, "select inet_server_port(), '/* trunkline: primary */'"), primary);
            assert_ne!(
                server_port(&mut client, "select inet_server_port() /* trunkline: faster group=none */"),
                primary
            );
            let write = "insert into t values (1) returning inet_server_port() /* trunkline: replica */";
            assert_eq!(server_port(&mut client, write), primary);
            assert_eq!(
                server_port(
                    &mut client,
                    "/* trunkline: replica */ with w as (insert into t values (1)) select inet_server_port()"
                ),
                primary
            );
            assert_eq!(
                server_port(
                    &mut client,
                    "/* trunkline: group=reports */ select inet_server_port() from t limit 1 for update"
                ),
                primary
            );
        }
        client.batch_execute("begin; /* trunkline: replica */ insert into t values (1); commit").unwrap();
        assert!(proxy.metric("trunkline_statements_total", "reason=\"hint\"") >= 60.0);
    });
}

#[test]
fn a_replica_hint_finds_a_replica_where_reads_are_the_primarys() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0).port();
        let on_primary = Proxy::start(&cluster, "[routing]\nreads = 'primary'");
        let mut client = on_primary.client();
        assert_eq!(server_port(&mut client, WHERE), primary);
        assert_ne!(server_port(&mut client, "select inet_server_port() /* trunkline: replica */"), primary);
        let deaf = Proxy::start(&cluster, "[routing]\nreads = 'primary'\nhints = false");
        assert_eq!(server_port(&mut deaf.client(), "select inet_server_port() /* trunkline: replica */"), primary);
    });
}

#[test]
fn an_application_name_that_is_set_later_counts_from_the_next_statement_on() {
    limited(|| {
        let cluster = cluster();
        let [primary, _, second] = [0, 1, 2].map(|number| cluster.node(number).port());
        let rules = "[[rule]]\nname = 'local'\naddress = ['10.0.0.0/8', '127.0.0.0/8']\napplication_name = 'report*'\nto = 'group:reports'\n\
                     [[rule]]\nname = 'elsewhere'\naddress = '10.0.0.0/8'\nto = 'primary'\n\
                     [[rule]]\nname = 'now'\ntime = '00:00-24:00'\nfunction = 'pg_catalog.version'\nto = 'primary'";
        let proxy =
            Proxy::ruled(&cluster, rules, &reports_on_the_second(&cluster), "[routing]\nconsistency = 'eventual'")
                .with_both_replicas(&cluster);
        let mut client = proxy.client();
        assert_eq!(ports(&mut client, WHERE, 20).len(), 2, "both replicas");
        client.batch_execute("set application_name = 'reporting'").unwrap();
        assert_eq!(ports(&mut client, WHERE, 20), BTreeMap::from([(second, 20)]));
        client.batch_execute("reset application_name").unwrap();
        assert_eq!(ports(&mut client, WHERE, 20).len(), 2, "both replicas");
        let mut named = named(&proxy, "report-7");
        assert_eq!(ports(&mut named, WHERE, 20), BTreeMap::from([(second, 20)]));
        assert_eq!(server_port(&mut client, "select inet_server_port(), pg_catalog.version()"), primary);
    });
}

#[test]
fn a_rules_timeout_cancels_reads_and_never_a_write() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '200ms'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = proxy.client();
        for _ in 0..3 {
            let begun = Instant::now();
            let error = client.batch_execute("select pg_sleep(30)").unwrap_err();
            assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
            assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to the timeout of its rule");
            assert!(begun.elapsed() < Duration::from_secs(10));
            client.batch_execute("select 1").unwrap();
            client.batch_execute("insert into t select 1 from pg_sleep(0.5)").unwrap();
            client.batch_execute("select 1").unwrap();
        }
        assert_eq!(client.query_one("select count(*) from t", &[]).unwrap().get::<_, i64>(0), 3);
        assert_eq!(proxy.metric("trunkline_limits_met_total", "limit=\"rule.timeout\",sqlstate=\"57014\""), 3.0);
        assert_eq!(proxy.metric("trunkline_errors_sent_total", "sqlstate=\"57014\""), 3.0);
    });
}

#[test]
fn a_rules_timeout_is_one_span_of_waiting_and_running_also_on_the_primary() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '2s'";
        let proxy = Proxy::ruled(&cluster, rules, "", "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let (mut holder, mut client) = (proxy.client(), proxy.client());
        holder.batch_execute("begin; select 1").unwrap();
        let begun = Instant::now();
        let waits = std::thread::spawn(move || client.batch_execute("select pg_sleep(30)").unwrap_err());
        std::thread::sleep(Duration::from_millis(1200));
        holder.batch_execute("commit").unwrap();
        let error = waits.join().unwrap();
        assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
        assert!(begun.elapsed() < Duration::from_millis(3000), "{:?}", begun.elapsed());
    });
}

/// What it has left keeps its server connection, on which nothing runs any more.
#[test]
fn a_rules_timeout_does_not_reach_behind_the_answer_of_a_read_that_has_left_something() {
    limited(|| {
        let cluster = cluster();
        let sql = "create function locks() returns int language plpgsql stable as
                   $$ begin execute 'select pg_advisory_lock(1)'; return 1; end $$";
        cluster.node(0).sql(sql).unwrap();
        let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '300ms'";
        let routing = "[routing]\nreads = 'primary'\nsafe_functions = ['locks']";
        let proxy = Proxy::ruled(&cluster, rules, "", routing);
        let mut client = proxy.client();
        client.query_one("select locks()", &[]).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let held = "select count(*) from pg_locks where locktype = 'advisory'";
        assert_eq!(cluster.node(0).sql(held).unwrap(), "1", "its session keeps it");
        assert_eq!(proxy.metric("trunkline_limits_met_total", "limit=\"rule.timeout\",sqlstate=\"57014\""), 0.0);
        client.batch_execute("select 1").unwrap();
    });
}

/// Its node has answered long ago: what its client has still to take, no cancel would stop.
#[test]
fn a_read_whose_client_takes_its_answer_late_is_neither_cancelled_nor_ended() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '2s'";
        let proxies = [Proxy::ruled(&cluster, rules, "", ""), Proxy::start(&cluster, "[limits]\nquery_timeout = '2s'")];
        // Each answer is one write of the node's. Where the client's socket is full, most leave too much over to be posted.
        let (count, read) = (800, query("select repeat('x', 7000)"));
        let mut clients: Vec<_> =
            proxies.iter().flat_map(|proxy| [(); 6].map(|()| RawClient::connect(proxy.port(), &[]))).collect();
        clients.iter_mut().for_each(|client| client.send(&[&read.repeat(count)]));
        std::thread::sleep(Duration::from_secs(5));
        for proxy in &proxies {
            assert_eq!(proxy.metric("trunkline_limits_met_total", "sqlstate=\"57014\""), 0.0);
        }
        for client in &mut clients {
            let answers = client.ask(&[], count);
            assert_eq!(answers.iter().filter(|told| **told == "SELECT 1").count(), count);
        }
    });
}

#[test]
fn a_rules_timeout_does_not_reach_into_a_transaction_that_begins_behind_a_flush() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '300ms'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = |sql: &str| [parse("", sql), bind("", &[]), execute()].concat();
        client.send(&[&run("select 1"), FLUSH]);
        client.until(b'C');
        let answer = client.ask(&[&run("begin read only"), SYNC], 1);
        assert!(answer.contains(&"BEGIN".to_owned()), "{answer:?}");
        let answer = client.query("select 7 from pg_sleep(1)");
        assert!(answer.contains(&"row 7".to_owned()), "{answer:?}");
    });
}

#[test]
fn a_rules_timeout_does_not_reach_a_write_behind_a_read_of_its_batch() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let rules = "[[rule]]\nname = 'quick'\nuser = 'bench'\ntimeout = '300ms'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        proxy.rewrite(|file| file["cluster"][0]["nodes"].as_array_mut().unwrap().truncate(1));
        proxy.signal("HUP");
        eventually("reads are on the primary", Duration::from_secs(5), || {
            server_port(&mut proxy.client(), WHERE) == cluster.node(0).port()
        });
        let mut client = RawClient::connect(proxy.port(), &[]);
        let run = |sql: &str| [parse("", sql), bind("", &[]), execute()].concat();
        client.send(&[&run("select 1"), FLUSH]);
        client.until(b'C');
        let answer = client.ask(&[&run("insert into t select 1 from pg_sleep(1)"), SYNC], 1);
        assert!(answer.contains(&"INSERT 0 1".to_owned()), "{answer:?}");
        // A read whose batch ends later is timed when it is whole.
        client.send(&[&parse("a", "select pg_sleep(30)"), FLUSH]);
        client.until(b'1');
        let answer = client.ask(&[&bind("a", &[]), &execute(), SYNC], 1);
        assert!(answer.iter().any(|told| told.starts_with("57014")), "{answer:?}");
    });
}

#[test]
fn a_reload_brings_other_rules_to_clients_that_are_there() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0).port();
        let proxy = Proxy::ruled(&cluster, "[[rule]]\nname = 'r'\nuser = 'nobody'\nto = 'primary'", "", "");
        let mut client = proxy.client();
        assert_ne!(server_port(&mut client, WHERE), primary);
        std::fs::write(cluster.folder().join("rules.toml"), "[[rule]]\nname = 'r'\nuser = 'bench'\nto = 'primary'")
            .unwrap();
        proxy.signal("HUP");
        eventually("the rule counts", Duration::from_secs(5), || server_port(&mut client, WHERE) == primary);
    });
}

#[test]
fn a_notice_names_the_rule_of_the_statement_that_decides() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select 1 as a").unwrap();
        let rules = "[[rule]]\nname = 'writes'\nkind = 'insert'\nlog = true\n\
                     [[rule]]\nname = 'reads'\nkind = 'select'\nto = 'primary'";
        let proxy = Proxy::ruled(&cluster, rules, "", "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("set trunkline.notice_route = on");
        for (batch, named) in [
            (["insert into t values (1)", "select 1"], "writes, rule writes ("),
            (["update t set a = 2", "select 1"], "writes ("),
            (["select 1", "select 2"], "rule, rule reads ("),
        ] {
            let told = client.ask(&[&batch.map(run_unnamed).concat(), SYNC], 1);
            let notice = told.iter().find(|told| told.starts_with("00000 routed to primary"));
            assert!(notice.is_some_and(|notice| notice.contains(&format!(": {named}"))), "{told:?}");
        }
    });
}

#[test]
fn a_notice_names_the_rule_by_which_a_read_has_waited_across_a_reload() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'reads'\napplication_name = 'bi'\nto = 'group:reports'";
        let extra = "[pool]\nsize = 1\n[routing]\nconsistency = 'eventual'";
        let proxy = Proxy::ruled(&cluster, rules, &reports_on_the_second(&cluster), extra).with_both_replicas(&cluster);
        let [mut holder, mut client] =
            [(); 2].map(|()| RawClient::connect(proxy.port(), &[("application_name", "bi")]));
        client.query("set trunkline.notice_route = on");
        holder.query("begin read only");
        assert_eq!(holder.query(WHERE)[1], format!("row {}", cluster.node(2).port()));
        let waits = std::thread::spawn(move || client.query("select 7"));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waits.is_finished(), "it waits for the only server connection");
        let other = "[[rule]]\nname = 'other'\napplication_name = 'nobody'\nto = 'primary'\n";
        std::fs::write(cluster.folder().join("rules.toml"), format!("{other}{rules}")).unwrap();
        proxy.signal("HUP");
        let is_in_force = || proxy.has_metric("trunkline_rule_matches_total", "rule=\"other\"");
        eventually("the new rules are in force", Duration::from_secs(5), is_in_force);
        holder.query("commit");
        let told = waits.join().unwrap();
        assert!(told.iter().any(|told| told.contains(": rule, rule reads (")), "{told:?}");
        assert!(told.contains(&"row 7".to_owned()), "{told:?}");
    });
}

#[test]
fn pg_dump_goes_through_the_rules_of_its_example() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t as select generate_series(1, 1000) as a").unwrap();
        let rules = std::fs::read_to_string("rules/pg-dump.toml").unwrap();
        let at_any_time = rules.replace("06:00-20:00", "23:58-23:59");
        let proxy = Proxy::ruled(&cluster, &at_any_time, "", "");
        assert_eq!(dumped(&proxy).lines().filter(|line| line.parse::<u32>().is_ok()).count(), 1000);
        assert!(proxy.metric("trunkline_rule_matches_total", "rule=\"dumps-of-one-server\"") > 0.0);
        assert_eq!(proxy.metric("trunkline_statements_total", "target=\"replica\""), 0.0);
    });
}

/// The group `reports`, the tag `big` and the zone `b` are the second replica.
fn reports_on_the_second(cluster: &trunkline::demo::cluster::Cluster) -> String {
    let address = cluster.node(2).address();
    format!(
        "group = [{{ name = 'reports', nodes = ['{address}'] }}]\n\
         node = [{{ address = '{address}', tags = ['big'], zone = 'b' }}]"
    )
}

fn named(proxy: &Proxy, application: &str) -> Client {
    proxy.client_config().application_name(application).connect(NoTls).unwrap()
}

/// How often each server answers, of so many executions by the extended protocol.
fn ports(client: &mut Client, sql: &str, times: usize) -> BTreeMap<u16, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        *seen.entry(server_port(client, sql)).or_default() += 1;
    }
    seen
}

/// The same by the simple protocol.
fn simple_ports(client: &mut Client, sql: &str, times: usize) -> BTreeMap<u16, usize> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        let messages = client.simple_query(sql).unwrap();
        let port = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        *seen.entry(port.unwrap()).or_default() += 1;
    }
    seen
}
