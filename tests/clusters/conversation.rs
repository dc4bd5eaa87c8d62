//! The protocol seen by a client: cancel, COPY, long messages, pipelines, and how a login is refused.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use postgres::{NoTls, SimpleQueryMessage};

use crate::fixture::{Proxy, cluster, limited, login};
use crate::raw::{RawClient, SYNC, bind, execute, parse, query};

#[test]
fn a_cancel_hits_the_statement_it_was_meant_for() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let (mut hit, mut spared) = (proxy.client(), proxy.client());
        let cancel = hit.cancel_token();
        let sleeping = thread::spawn(move || (hit.batch_execute("select pg_sleep(20)"), hit));
        let other =
            thread::spawn(move || spared.query_one("select pg_sleep(2), 7", &[]).map(|row| row.get::<_, i32>(1)));
        thread::sleep(Duration::from_millis(500));
        let asked = Instant::now();
        cancel.cancel_query(NoTls).unwrap();
        let (ended, mut hit) = sleeping.join().unwrap();
        assert_eq!(ended.unwrap_err().code().unwrap().code(), "57014");
        assert!(asked.elapsed() < Duration::from_secs(2));
        assert_eq!(other.join().unwrap().unwrap(), 7);
        hit.batch_execute("select 1").unwrap();
    });
}

#[test]
fn a_cancel_of_an_idle_session_hits_nobody() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let (mut idle, mut busy) = (proxy.client(), proxy.client());
        idle.batch_execute("select 1").unwrap();
        let cancel = idle.cancel_token();
        // Its last server connection is by now somebody else's.
        let running = thread::spawn(move || busy.batch_execute("select pg_sleep(1.5)"));
        thread::sleep(Duration::from_millis(300));
        cancel.cancel_query(NoTls).unwrap();
        running.join().unwrap().unwrap();
    });
}

#[test]
fn a_hundred_megabytes_go_in_and_out_by_copy() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (line text)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let mut sink = client.copy_in("copy t from stdin").unwrap();
        for _ in 0..100_000 {
            sink.write_all(&line).unwrap();
        }
        assert_eq!(sink.finish().unwrap(), 100_000);
        let mut source = client.copy_out("copy t to stdout").unwrap();
        let (mut buffer, mut bytes) = (vec![0; 1 << 16], 0);
        loop {
            match source.read(&mut buffer).unwrap() {
                0 => break,
                length => bytes += length,
            }
        }
        drop(source);
        assert_eq!(bytes, 100_000_000);
        client.batch_execute("select 1").unwrap();
    });
}

#[test]
fn messages_of_many_megabytes_pass_whole() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a text)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        let text = "long ".repeat(4_000_000);
        client.execute("insert into t values ($1)", &[&text]).unwrap();
        let read: String = client.query_one("select a from t", &[]).unwrap().get(0);
        assert!(read == text);
        let literal = format!("select length('{text}')");
        let length: i32 = client.query_one(literal.as_str(), &[]).unwrap().get(0);
        assert_eq!(length, 20_000_000);
    });
}

#[test]
fn an_unknown_user_and_a_wrong_password_get_the_same_answer() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let refusal = |role: &str, password: &str| {
            let Err(error) = login(proxy.port(), role, password).connect(NoTls) else { panic!("{role} was let in") };
            let error = error.as_db_error().expect("an answer").clone();
            (error.code().code().to_owned(), error.message().replace(role, "ROLE"))
        };
        let wrong_password = refusal("bench", "wrong");
        assert_eq!(wrong_password.0, "28P01");
        assert_eq!(refusal("nobody", "wrong"), wrong_password);
    });
}

#[test]
fn an_unknown_database_is_refused_as_postgresql_does() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let Err(error) = proxy.client_config().dbname("nowhere").connect(NoTls) else { panic!("let in") };
        assert_eq!(error.code().unwrap().code(), "3D000");
    });
}

#[test]
fn statements_of_one_simple_query_answer_in_order() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let answers =
            proxy.client().simple_query("select 1; insert into t values (2), (3); select a from t order by a").unwrap();
        let told: Vec<String> = answers
            .iter()
            .filter_map(|answer| match answer {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                SimpleQueryMessage::CommandComplete(rows) => Some(format!("{rows} rows")),
                _ => None,
            })
            .collect();
        assert_eq!(told, ["1", "1 rows", "2 rows", "2", "3", "2 rows"]);
    });
}

#[test]
fn a_pipeline_of_reads_and_writes_answers_in_order() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(pipeline(&proxy));
    });
}

/// tokio-postgres sends what is asked at the same time without waiting for the answer to the one before.
async fn pipeline(proxy: &Proxy) {
    let login = format!("host=127.0.0.1 port={} user=bench password=bench dbname=bench", proxy.port());
    let (client, connection) = tokio_postgres::connect(&login, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let insert = client.prepare("insert into t values ($1)").await.unwrap();
    let count = client.prepare("select count(*)::int from t").await.unwrap();
    for round in 0..50_i32 {
        let values: [&(dyn ToSql + Sync); 1] = [&round];
        let (one, first, two, failed, second) = tokio::join!(
            client.execute(&insert, &values),
            client.query_one(&count, &[]),
            client.execute(&insert, &values),
            client.simple_query("select 1 / 0"),
            client.query_one(&count, &[]),
        );
        assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
        assert_eq!(failed.unwrap_err().code().unwrap().code(), "22012");
        assert_eq!((first.unwrap().get::<_, i32>(0), second.unwrap().get::<_, i32>(0)), (2 * round + 1, 2 * round + 2));
    }
    drop(client);
    connection.await.unwrap().unwrap();
}

/// More than Trunkline lets be owed before it looks at what comes next, and no Sync that would make the node answer.
#[test]
fn a_batch_as_long_as_one_likes_is_answered_before_its_sync_has_come() {
    limited(|| {
        const ROUNDS: usize = 20_000;
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = RawClient::connect(proxy.port(), &[]);
        for text in ["select 7", "update pg_class set relname = relname where false"] {
            client.send(&[&parse("one", text)]);
            let round = [bind("one", &[]), execute()].concat();
            let rounds = round.repeat(ROUNDS);
            let answers = client.meanwhile(rounds, SYNC, |client| client.until(b'Z'));
            let done = answers.iter().filter(|words| words.starts_with("SELECT 1") || *words == "UPDATE 0").count();
            assert_eq!(done, ROUNDS, "{text}");
            client.query("deallocate all");
        }
    });
}

/// What Trunkline answers itself is held back by no node.
#[test]
fn whoever_reads_nothing_of_what_trunkline_answers_is_not_read_for_ever() {
    limited(|| {
        let cluster = cluster();
        let rule = format!("[[rule]]\nname = 'no'\ntable = 't'\nrefuse = '{}'", "no".repeat(500));
        let proxy = Proxy::ruled(&cluster, &rule, "", "[pool]\nmode = 'session'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        client.query("select 1");
        let refused = query("select from t").repeat(1000);
        let sent = client.send_until_it_waits(&refused, 100_000_000);
        assert!(sent < 50_000_000, "{sent} bytes were taken, and 50 times as much is to be said of them");
        let count = sent / query("select from t").len();
        for answered in 0..count {
            assert!(client.until(b'Z').iter().any(|words| words.contains("nono")), "the one behind {answered}");
        }
    });
}
