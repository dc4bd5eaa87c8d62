//! Pool modes, sizes and limits: whose a server connection is, how many there are, and what is told to whom when there
//! are too many.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres::{Client, NoTls, SimpleQueryMessage};
use trunkline::wire::{CancelKey, startup};

use crate::fixture::{Proxy, cluster, console, eventually, limited, login, server_port, shown};
use crate::raw::{
    COPY_DONE, FLUSH, RawClient, SYNC, TERMINATE, bind, copy_data, describe, execute, parse, query, run_unnamed,
};
use crate::record::is_logged;
use crate::relay::Relay;

const SOON: Duration = Duration::from_secs(10);

const OPEN: &str = "[admin]\nusers = ['bench']";

/// Server connections of ours at a node, of the database `bench`.
const OURS: &str = "select count(*) from pg_stat_activity where datname = 'bench' and pid <> pg_backend_pid() \
                    and backend_type = 'client backend' and application_name not like 'trunkline%'";

fn backend(client: &mut Client) -> i32 {
    client.query_one("select pg_backend_pid()", &[]).unwrap().get(0)
}

fn code(error: &postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

fn message(error: &postgres::Error) -> &str {
    error.as_db_error().map_or("", |error| error.message())
}

/// The value of this column in the row of this name in what the console shows.
fn cell(proxy: &Proxy, subject: &str, name: &str, column: &str) -> Option<String> {
    let mut console = console(proxy);
    let messages = console.simple_query(&format!("SHOW {subject}")).unwrap();
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get(0) == Some(name) => {
            let at = row.columns().iter().position(|known| known.name() == column).expect("such a column");
            Some(row.get(at).unwrap_or("NULL").to_owned())
        }
        _ => None,
    })
}

#[test]
fn in_session_mode_a_server_connection_is_the_clients_until_it_leaves_and_then_as_good_as_new() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'session'\nsize = 1\nqueue_timeout = '300ms'");
        let mut client = proxy.client_config().options("-c work_mem=5MB").connect(NoTls).unwrap();
        let mine = backend(&mut client);
        assert_eq!(server_port(&mut client, "select inet_server_port()"), cluster.node(0).port());
        client.batch_execute("create temp table t (a int); select pg_advisory_lock(7); listen news").unwrap();
        client.batch_execute("set work_mem = '6MB'; prepare one as select 1").unwrap();
        assert_eq!((backend(&mut client), shown(&mut client, "work_mem")), (mine, "6MB".to_owned()));
        client.batch_execute("reset work_mem").unwrap();
        assert_eq!(shown(&mut client, "work_mem"), "5MB", "as it came");
        client.batch_execute("reset all").unwrap();
        assert_eq!(shown(&mut client, "work_mem"), "5MB");
        for _ in 0..2 {
            let full = proxy.client().simple_query("select 1").unwrap_err();
            assert_eq!(code(&full), "53300");
        }
        let node = cluster.node(0).address().to_string();
        is_logged(&proxy, &["WARN", &node, "user=\"bench\"", "all 1 server connections are in use"]);
        assert_eq!(proxy.log().matches("no server connection was free for a statement").count(), 1, "{}", proxy.log());
        drop(client);
        let mut next = proxy.client();
        eventually("the connection has come back", SOON, || next.simple_query("select 1").is_ok());
        assert_eq!(backend(&mut next), mine);
        assert_eq!(shown(&mut next, "work_mem"), "4MB");
        assert!(next.batch_execute("select * from t").is_err(), "the table is gone");
        next.batch_execute("prepare one as select 2").expect("the name is free");
        assert_eq!(cluster.node(0).sql("select count(*) from pg_locks where locktype = 'advisory'").unwrap(), "0");
    });
}

#[test]
fn in_statement_mode_no_transaction_block_begins_however_it_is_asked_for() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'statement'\nsize = 1");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let refused = "0A000 transaction blocks not allowed in statement pooling mode";
        for block in ["begin", "START TRANSACTION READ ONLY", "insert into t values (1); begin", "begin; commit"] {
            assert_eq!(client.query(block), [refused, "I"], "{block}");
        }
        // Behind a statement that is under way, and by the extended protocol.
        let told = client.ask(&[&query("insert into t values (2)"), &query("begin"), &query("select 3")], 3);
        assert_eq!(told.iter().filter(|words| *words == refused).count(), 1, "{told:?}");
        assert!(told.contains(&"INSERT 0 1".to_owned()) && told.contains(&"row 3".to_owned()), "{told:?}");
        assert_eq!(client.ask(&[&parse("", "begin"), &bind("", &[]), &execute(), SYNC], 1), [refused, "I"]);
        let told = client.ask(
            &[
                &query("select txid_current() > 0"),
                &parse("", "insert into t values (4)"),
                &bind("", &[]),
                &execute(),
                &parse("", "begin"),
                SYNC,
            ],
            2,
        );
        assert_eq!(told[told.len() - 2..], [refused, "I"], "{told:?}");
        let told = client
            .ask(&[&parse("", "insert into t values (4)"), &bind("", &[]), &execute(), &parse("", "begin"), SYNC], 1);
        assert_eq!(told, [refused, "I"]);
        assert_eq!(cluster.node(0).sql("select array_agg(a) from t").unwrap(), "{2}");
        // A string of several statements is a transaction of its own, and ends with itself.
        client.query("insert into t values (5); insert into t values (6)");
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "3");
        assert_eq!(proxy.metric("trunkline_limits_met_total", "pool_mode"), 8.0);
    });
}

#[test]
fn in_statement_mode_too_a_server_connection_is_kept_no_longer_than_its_cause() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'statement'\nsize = 1\nqueue_timeout = '1s'");
        let (mut client, mut next) = (proxy.client(), proxy.client());
        for (cause, end) in [
            ("select pg_advisory_lock(1)", "select pg_advisory_unlock(1)"),
            ("listen a", "unlisten a"),
            ("create temp table mine (a int)", "drop table mine"),
        ] {
            client.simple_query(cause).unwrap();
            assert_eq!(code(&next.batch_execute("insert into t values (1)").unwrap_err()), "53300", "{cause}");
            client.simple_query(end).unwrap();
            next.batch_execute("insert into t values (1)").unwrap_or_else(|problem| panic!("{end}: {problem}"));
        }
    });
}

#[test]
fn a_block_that_nobody_could_see_coming_ends_its_client_in_statement_mode() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nmode = 'statement'\n[limits]\nstatement_bytes = '1kB'");
        let mut client = proxy.client();
        let unseen = format!("insert into t values (1); begin; insert into t values (2) /* {} */", "x".repeat(2000));
        let _ = client.simple_query(&unseen);
        eventually("it has been ended", SOON, || client.simple_query("select 1").is_err() && client.is_closed());
        eventually("nothing is left open", SOON, || {
            cluster.node(0).sql("select count(*) from pg_stat_activity where state like 'idle in%'").unwrap() == "0"
        });
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "0");
    });
}

#[test]
fn a_users_pool_mode_goes_before_its_databases_and_that_before_the_pools() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada superuser login password 'a'").unwrap();
        let extra = "[pool]\nmode = 'statement'\n[[database]]\nname = 'own'\ncluster = 'main'\nserver_name = 'bench'\n\
                     pool_mode = 'session'\npool_size = 3\n\
                     [[user]]\nname = 'ada'\npassword = 'a'\npool_mode = 'transaction'\npool_size = 4";
        let proxy = Proxy::start(&cluster, &format!("{extra}\n{OPEN}"));
        let connect = |user: &str, password: &str, database: &str| {
            login(proxy.port(), user, password).dbname(database).connect(NoTls).unwrap()
        };
        let mut of_pool = connect("bench", "bench", "bench");
        assert_eq!(code(&of_pool.batch_execute("begin").unwrap_err()), "0A000");
        let mut of_database = connect("bench", "bench", "own");
        let primary = cluster.node(0).port();
        assert!((0..9).all(|_| server_port(&mut of_database, "select inet_server_port()") == primary));
        let mut of_user = connect("ada", "a", "own");
        of_user.batch_execute("begin; select 1; commit").unwrap();
        eventually("its reads are balanced", SOON, || {
            server_port(&mut of_user, "select inet_server_port()") != primary
        });
        let at = |subject, name, column| cell(&proxy, subject, name, column).unwrap();
        assert_eq!(
            (at("DATABASES", "own", "pool_mode"), at("DATABASES", "own", "pool_size")),
            ("session".into(), "3".into())
        );
        assert_eq!(at("DATABASES", "bench", "pool_mode"), "statement");
        assert_eq!(
            (at("USERS", "ada", "pool_mode"), at("USERS", "ada", "pool_size")),
            ("transaction".into(), "4".into())
        );
        assert_eq!(at("USERS", "bench", "pool_mode"), "NULL");
        assert_eq!(at("CONFIG", "database.own.pool_mode", "value"), "session");
        let size =
            |database, user| proxy.metric("trunkline_pool_size", &format!("database=\"{database}\",user=\"{user}\""));
        assert_eq!(size("own", "bench"), 3.0);
        assert_eq!(size("own", "ada") % 4.0, 0.0);
    });
}

#[test]
fn connections_are_opened_ahead_and_kept_as_long_as_a_client_is_there() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nmin_size = 3\nidle_timeout = '1s'\n[routing]\nreads = 'primary'");
        let mut client = proxy.client();
        client.simple_query("select 1").unwrap();
        let ours = || cluster.node(0).sql(OURS).unwrap();
        eventually("three are open", SOON, || ours() == "3");
        thread::sleep(Duration::from_secs(3));
        assert_eq!(ours(), "3", "they outlive idle_timeout");
        client.simple_query("select 1").unwrap();
        drop(client);
        eventually("nobody needs them any more", SOON, || ours() == "0");
    });
}

#[test]
fn the_reserve_is_opened_for_who_has_waited_and_closed_when_nobody_does() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let extra = "[pool]\nsize = 1\nreserve_size = 1\nreserve_timeout = '500ms'\nqueue_timeout = '3s'";
        let proxy = Proxy::start(&cluster, extra);
        let mut holds = proxy.client();
        holds.batch_execute("begin; insert into t values (1)").unwrap();
        let (mut waits, begun) = (proxy.client(), Instant::now());
        waits.batch_execute("begin; insert into t values (2)").unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
        let refused = proxy.client().batch_execute("insert into t values (3)").unwrap_err();
        assert_eq!(code(&refused), "53300");
        assert!(message(&refused).contains("all 1 server connections are in use"), "{refused:?}");
        assert!(proxy.metric("trunkline_limits_met_total", "limit=\"pool.size\",sqlstate=\"53300\"") == 1.0);
        waits.batch_execute("commit").unwrap();
        holds.batch_execute("commit").unwrap();
        eventually("one is left", SOON, || cluster.node(0).sql(OURS).unwrap() == "1");
    });
}

#[test]
fn what_somebody_waited_for_who_has_hung_up_is_not_run() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nqueue_timeout = '60s'\n[admin]\nusers = ['bench']");
        let mut holds = proxy.client();
        holds.batch_execute("begin; insert into t values (1)").unwrap();
        let clients = || proxy.metric("trunkline_clients", "");
        let before = clients();
        for goodbye in [&[][..], TERMINATE] {
            let mut gone = RawClient::connect(proxy.port(), &[]);
            gone.send(&[&query("insert into t values (2)")]);
            thread::sleep(Duration::from_millis(300));
            gone.send(&[goodbye]);
        }
        eventually("they are gone while they wait", SOON, || clients() <= before);
        // Another is gone when it is its turn, and nobody has looked yet.
        let mut late = RawClient::connect(proxy.port(), &[]);
        late.send(&[&query("insert into t values (3)")]);
        thread::sleep(Duration::from_millis(300));
        drop(late);
        holds.batch_execute("commit").unwrap();
        let mut next = proxy.client();
        next.batch_execute("insert into t values (4)").unwrap();
        // Nor while it is paused.
        console(&proxy).simple_query("PAUSE").unwrap();
        let before = clients();
        let mut paused = RawClient::connect(proxy.port(), &[]);
        paused.send(&[&query("insert into t values (5)")]);
        thread::sleep(Duration::from_millis(300));
        drop(paused);
        eventually("it is gone", SOON, || clients() <= before);
        console(&proxy).simple_query("RESUME").unwrap();
        next.batch_execute("insert into t values (6)").unwrap();
        let found = cluster.node(0).sql("select string_agg(a::text, ',' order by a) from t").unwrap();
        assert_eq!(found, "1,4,6");
    });
}

#[test]
fn more_connections_than_there_may_be_since_a_reload_are_closed() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
        clients.iter_mut().for_each(|client| client.batch_execute("begin; select txid_current()").unwrap());
        clients.iter_mut().for_each(|client| client.batch_execute("commit").unwrap());
        assert_eq!(cluster.node(0).sql(OURS).unwrap(), "4");
        proxy.rewrite(|file| {
            let pool = file.entry("pool").or_insert_with(|| toml::Table::new().into());
            pool.as_table_mut().unwrap().insert("size".to_owned(), 2.into());
        });
        proxy.signal("HUP");
        eventually("two are left", SOON, || cluster.node(0).sql(OURS).unwrap() == "2");
    });
}

#[test]
fn a_read_that_waits_at_one_replica_goes_to_another_that_has_become_free() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\nqueue_timeout = '60s'").with_both_replicas(&cluster);
        let long = |seconds: u32| {
            let mut client = proxy.client();
            thread::spawn(move || client.batch_execute(&format!("select pg_sleep({seconds})")).unwrap())
        };
        let (slow, quick) = (long(20), long(2));
        thread::sleep(Duration::from_millis(500));
        let waiting: Vec<_> = (0..2).map(|_| long(0)).collect();
        let begun = Instant::now();
        waiting.into_iter().for_each(|waits| waits.join().unwrap());
        assert!(begun.elapsed() < SOON && !slow.is_finished(), "{:?}", begun.elapsed());
        quick.join().unwrap();
        drop(proxy);
        drop(slow);
    });
}

#[test]
fn who_has_waited_for_long_is_served_before_those_who_came_later() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int, at timestamptz default clock_timestamp())").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut holds = proxy.client();
        holds.batch_execute("begin; select txid_current()").unwrap();
        let waits = |number: i32| {
            let mut client = proxy.client();
            thread::spawn(move || client.batch_execute(&format!("insert into t values ({number})")))
        };
        let mut waiting = Vec::new();
        // The first have been asked by now whether they are still there, the last has not.
        for number in 1..=4 {
            waiting.push(waits(number));
            thread::sleep(Duration::from_millis(900));
        }
        holds.batch_execute("commit").unwrap();
        waiting.into_iter().for_each(|waits| waits.join().unwrap().unwrap());
        assert_eq!(cluster.node(0).sql("select string_agg(a::text, ' ' order by at) from t").unwrap(), "1 2 3 4");
    });
}

#[test]
fn a_reserve_that_a_quota_keeps_from_being_opened_gets_the_place_of_an_idle_connection() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada login password 'a'").unwrap();
        let extra = "[pool]\nsize = 1\nreserve_size = 1\nreserve_timeout = '300ms'\nqueue_timeout = '20s'\n\
                     [database]\nmax_connections = 2\n[[user]]\nname = 'ada'\npassword = 'a'";
        let proxy = Proxy::start(&cluster, extra);
        let ada = || login(proxy.port(), "ada", "a").connect(NoTls).unwrap();
        let (mut one, mut other) = (ada(), ada());
        one.batch_execute("begin; select txid_current()").unwrap();
        let mut idle = proxy.client();
        idle.batch_execute("begin; select txid_current(); commit").unwrap();
        let begun = Instant::now();
        other.batch_execute("begin; select txid_current()").unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        // Nobody is idle now: whoever comes back gives way.
        other.batch_execute("commit").unwrap();
        idle.batch_execute("begin; select txid_current()").unwrap();
        let waiting = thread::spawn(move || other.batch_execute("begin; select txid_current(); commit"));
        thread::sleep(Duration::from_millis(600));
        idle.batch_execute("commit").unwrap();
        eventually("the reserve is opened", SOON, || waiting.is_finished());
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn a_login_of_a_new_kind_is_answered_by_a_replica_where_the_primarys_pool_is_full() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1").with_both_replicas(&cluster);
        let mut open = proxy.client();
        open.batch_execute("begin; select txid_current()").unwrap();
        let begun = Instant::now();
        let mut reads = proxy.client_config().application_name("reports").connect(NoTls).unwrap();
        reads.query_one("select 1", &[]).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        open.batch_execute("commit").unwrap();
    });
}

#[test]
fn every_server_connection_has_its_wait_told_and_no_other_wait_is_in_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, &format!("[pool]\nsize = 1\n{OPEN}"));
        let told = || ["count", "sum"].map(|of| proxy.metric(&format!("trunkline_lease_wait_seconds_{of}"), ""));
        let [mut holds, mut waits] = [(); 2].map(|()| proxy.client());
        let [_, before] = told();
        for _ in 0..20 {
            holds.batch_execute("insert into t values (1)").unwrap();
        }
        let [count, free] = told();
        assert_eq!(count, 20.0, "those that were free at once are in it");
        assert!(free - before < 1.0, "{free} s");

        holds.batch_execute("begin; insert into t values (2)").unwrap();
        let waiting = thread::spawn(move || waits.batch_execute("insert into t values (3)").map(|()| waits));
        thread::sleep(Duration::from_secs(2));
        holds.batch_execute("commit").unwrap();
        let mut waits = waiting.join().unwrap().unwrap();
        let [count, waited] = told();
        assert_eq!(count, 22.0);
        assert!((1.0..5.0).contains(&(waited - free)), "{} s", waited - free);

        let mut console = console(&proxy);
        console.simple_query("PAUSE bench").unwrap();
        let waiting = thread::spawn(move || waits.batch_execute("insert into t values (4)"));
        thread::sleep(Duration::from_secs(3));
        console.simple_query("RESUME bench").unwrap();
        waiting.join().unwrap().unwrap();
        let [count, paused] = told();
        assert_eq!(count, 23.0);
        assert!(paused - waited < 2.0, "{} s are those of the pause", paused - waited);
    });
}

#[test]
fn a_wait_for_a_server_connection_that_its_client_gives_up_is_told_too() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let count = || proxy.metric("trunkline_lease_wait_seconds_count", "");
        let [mut holds, mut waits] = [(); 2].map(|()| proxy.client());
        let mut leaves = RawClient::connect(proxy.port(), &[]);
        holds.batch_execute("begin; insert into t values (1)").unwrap();
        let before = count();
        let cancel = waits.cancel_token();
        let waiting = thread::spawn(move || waits.batch_execute("insert into t values (2)"));
        thread::sleep(Duration::from_millis(500));
        assert_eq!(count(), before);
        cancel.cancel_query(NoTls).unwrap();
        assert_eq!(code(&waiting.join().unwrap().unwrap_err()), "57014");
        assert_eq!(count(), before + 1.0);
        is_logged(&proxy, &["a client gave up its wait for a server connection", "user=\"bench\""]);
        leaves.send(&[&query("insert into t values (3)")]);
        thread::sleep(Duration::from_millis(500));
        drop(leaves);
        eventually("it waits no more", SOON, || count() == before + 2.0);
        holds.batch_execute("commit").unwrap();
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "1");
    });
}

#[test]
fn a_databases_connections_are_limited_over_all_its_users_and_who_waits_gets_an_idle_one_of_another() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada superuser login password 'a'").unwrap();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let extra = "[pool]\nqueue_timeout = '500ms'\n[database]\nmax_connections = 2\n\
                     [[user]]\nname = 'ada'\npassword = 'a'\nmax_connections = 1";
        let proxy = Proxy::start(&cluster, &format!("{extra}\n[routing]\nreads = 'primary'\n{OPEN}"));
        let ada = || login(proxy.port(), "ada", "a").connect(NoTls).unwrap();
        let [mut one, mut other] = [(); 2].map(|()| proxy.client());
        one.batch_execute("begin; insert into t values (1)").unwrap();
        other.batch_execute("begin; insert into t values (2)").unwrap();
        let mut third = ada();
        let refused = third.batch_execute("insert into t values (3)").unwrap_err();
        assert_eq!(code(&refused), "53300");
        assert!(
            message(&refused).contains("2 server connections that max_connections gives the database"),
            "{refused:?}"
        );
        other.batch_execute("commit").unwrap();
        third.batch_execute("begin; insert into t values (4)").expect("the idle one of the other user has made room");
        assert_eq!(cluster.node(0).sql(OURS).unwrap(), "2");
        one.batch_execute("commit").unwrap();
        let refused = ada().batch_execute("insert into t values (5)").unwrap_err();
        assert!(message(&refused).contains("1 server connections that max_connections gives the user"), "{refused:?}");
        third.batch_execute("commit").unwrap();
        for limit in ["database.max_connections", "user.max_connections"] {
            assert_eq!(proxy.metric("trunkline_limits_met_total", &format!("limit=\"{limit}\"")), 1.0, "{limit}");
        }
        assert_eq!(cell(&proxy, "DATABASES", "bench", "max_connections").unwrap(), "2");
        assert_eq!(cell(&proxy, "USERS", "ada", "max_user_connections").unwrap(), "1");
    });
}

#[test]
fn two_busy_users_of_a_limited_database_are_both_served() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada superuser login password 'a'").unwrap();
        let extra =
            "[pool]\nqueue_timeout = '5s'\n[database]\nmax_connections = 1\n[[user]]\nname = 'ada'\npassword = 'a'";
        let proxy = Proxy::start(&cluster, &format!("{extra}\n[routing]\nreads = 'primary'"));
        let port = proxy.port();
        let busy = |user: &'static str, password: &'static str| {
            thread::spawn(move || {
                let mut client = login(port, user, password).connect(NoTls).unwrap();
                let begun = Instant::now();
                let mut count = 0;
                while begun.elapsed() < Duration::from_secs(3) {
                    client.simple_query("select pg_sleep(0.005)").unwrap();
                    count += 1;
                }
                count
            })
        };
        let clients = [busy("bench", "bench"), busy("bench", "bench"), busy("ada", "a"), busy("ada", "a")];
        let counts = clients.map(|client| client.join().unwrap());
        assert!(counts.iter().all(|count| *count >= 3), "{counts:?}");
    });
}

#[test]
fn a_client_too_many_of_a_user_or_a_database_is_told_so_at_once() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada superuser login password 'a'").unwrap();
        let extra = "[database]\nmax_clients = 3\n[[user]]\nname = 'ada'\npassword = 'a'\nmax_clients = 1";
        let proxy = Proxy::start(&cluster, &format!("{extra}\n{OPEN}"));
        let ada = || login(proxy.port(), "ada", "a").connect(NoTls);
        let [mut one, _other] = [(); 2].map(|()| proxy.client());
        let _hers = ada().unwrap();
        let begun = Instant::now();
        let refused = proxy.client_config().connect(NoTls).err().unwrap();
        assert_eq!((code(&refused), refused.as_db_error().unwrap().severity()), ("53300", "FATAL"));
        assert_eq!(message(&refused), "too many connections for database \"bench\" (database.max_clients is 3)");
        one.simple_query("select 1").unwrap();
        drop(one);
        eventually("there is room again", SOON, || {
            ada().err().is_some_and(|refused| message(&refused).contains("role"))
        });
        let refused = ada().err().unwrap();
        assert_eq!(message(&refused), "too many connections for role \"ada\" (user.max_clients is 1)");
        assert!(begun.elapsed() < Duration::from_secs(5));
        proxy.client().simple_query("select 1").unwrap();
        assert_eq!(cell(&proxy, "DATABASES", "bench", "max_client_connections").unwrap(), "3");
        assert_eq!(cell(&proxy, "USERS", "ada", "max_user_client_connections").unwrap(), "1");
        assert!(proxy.metric("trunkline_limits_met_total", "user.max_clients") >= 2.0);
        assert!(proxy.metric("trunkline_limits_met_total", "database.max_clients") >= 1.0);
    });
}

#[test]
fn when_there_are_as_many_clients_as_may_be_the_next_is_told_so_and_cancels_and_the_console_come_through() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("max_clients = 2\n{OPEN}"));
        let mut sleeps = RawClient::connect(proxy.port(), &[]);
        let _idle = proxy.client();
        let refused = proxy.client_config().connect(NoTls).err().unwrap();
        assert_eq!((code(&refused), refused.as_db_error().unwrap().severity()), ("53300", "FATAL"));
        assert_eq!(message(&refused), "sorry, too many clients already (max_clients is 2)");
        assert_eq!(proxy.metric("trunkline_limits_met_total", "limit=\"max_clients\",sqlstate=\"53300\""), 1.0);
        assert_eq!(code(&proxy.client_config().connect(NoTls).err().unwrap()), "53300");
        let log = proxy.log();
        let said: Vec<_> = log.lines().filter(|line| line.contains("a client was turned away")).collect();
        let [said] = said[..] else { panic!("{said:?}") };
        assert!(said.contains("53300") && said.contains("times=1"), "{said}");
        let cancel = sleeps.canceller();
        sleeps.send(&[&query("select pg_sleep(20)")]);
        thread::sleep(Duration::from_millis(300));
        cancel();
        assert!(sleeps.until(b'Z').iter().any(|words| words.starts_with("57014")));
        assert!(cell(&proxy, "DATABASES", "bench", "current_client_connections").is_some());
        // A key that nobody has is answered by silence, not by a refusal.
        let mut packet = BytesMut::new();
        startup::put_cancel(&mut packet, &CancelKey { process_id: 1, secret: [1, 2, 3, 4].into() });
        let mut stream = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        stream.write_all(&packet).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
    });
}

#[test]
fn an_idle_client_is_ended_when_its_time_is_over_and_one_that_works_or_waits_is_not() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("[limits]\nclient_idle_timeout = '2s'\n{OPEN}"));
        let mut idle = RawClient::connect(proxy.port(), &[]);
        idle.query("select 1");
        let mut pinned = RawClient::connect(proxy.port(), &[]);
        pinned.query("listen news");
        let mut in_transaction = proxy.client();
        in_transaction.batch_execute("begin; select 1").unwrap();
        let mut console = console(&proxy);
        let mut busy = proxy.client();
        busy.simple_query("select pg_sleep(4)").unwrap();
        let told = "57P05 terminating connection due to idle-session timeout";
        assert_eq!((idle.until(b'E'), pinned.until(b'E')), (vec![told.to_owned()], vec![told.to_owned()]));
        in_transaction.batch_execute("commit").unwrap();
        console.simple_query("show version").unwrap();
        busy.simple_query("select 1").unwrap();
        assert_eq!(proxy.metric("trunkline_limits_met_total", "limit=\"client_idle_timeout\",sqlstate=\"57P05\""), 2.0);
        assert_eq!(proxy.metric("trunkline_errors_sent_total", "57P05"), 2.0);
    });
}

#[test]
fn a_transaction_that_is_left_idle_is_rolled_back_and_its_client_ended() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[limits]\nidle_in_transaction_timeout = '1s'");
        let mut idle = proxy.client();
        idle.simple_query("select 1").unwrap();
        let mut busy = proxy.client();
        busy.batch_execute("begin; insert into t values (1); select pg_sleep(3); commit").unwrap();
        let mut left = RawClient::connect(proxy.port(), &[]);
        left.query("begin");
        left.query("insert into t values (2)");
        let told = left.until(b'E');
        assert_eq!(told, ["25P03 terminating connection due to idle-in-transaction timeout"]);
        eventually("it is rolled back", SOON, || {
            cluster.node(0).sql("select count(*) from pg_stat_activity where state like 'idle in%'").unwrap() == "0"
        });
        // What a COPY that has failed leaves behind it is nothing that runs.
        let stray = [&*copy_data(b"1\n"), COPY_DONE].concat();
        for (fails, behind) in [("select 1/0", &[][..]), ("copy nowhere from stdin", &stray)] {
            let mut failed = RawClient::connect(proxy.port(), &[]);
            failed.ask(&[&query("begin"), &query(fails)], 2);
            failed.send(&[behind]);
            assert_eq!(failed.until(b'E'), told, "{fails}");
        }
        // A batch that has done something is a transaction, and waits for its Sync.
        let mut batch = RawClient::connect(proxy.port(), &[]);
        batch.send(&[&run_unnamed("insert into t values (3)"), FLUSH]);
        assert_eq!(batch.until(b'E').last(), told.last());
        idle.simple_query("select 1").expect("it is in no transaction");
        assert_eq!(cluster.node(0).sql("select array_agg(a) from t").unwrap(), "{1}");
        let met = "limit=\"idle_in_transaction_timeout\",sqlstate=\"25P03\"";
        assert_eq!(proxy.metric("trunkline_limits_met_total", met), 4.0);
    });
}

#[test]
fn who_has_only_prepared_something_lets_go_of_its_server_connection_after_a_while() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[routing]\nreads = 'primary'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        // As asyncpg does.
        client.send(&[&parse("a", "select 7"), &describe("a"), FLUSH]);
        assert_eq!(client.until(b'T'), ["1", "t", "T"]);
        proxy.client().simple_query("select 1").expect("the only server connection is there for it");
        assert_eq!(client.ask(&[&bind("a", &[]), &execute(), SYNC], 1), ["2", "row 7", "SELECT 1", "I"]);
    });
}

#[test]
fn an_error_is_told_in_other_words_however_long_it_is() {
    limited(|| {
        let cluster = cluster();
        let long = "x".repeat(200_000);
        let body = format!("begin perform pg_sleep(20), '{long}'; end");
        let function = format!("create function f() returns void stable language plpgsql as $$ {body} $$");
        let mut direct = login(cluster.node(0).port(), "bench", "bench").connect(NoTls).unwrap();
        direct.batch_execute(&function).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, "[limits]\nquery_timeout = '1s'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let told = "57014 canceling statement due to query_timeout";
        assert_eq!(client.query("select f()"), ["T", told, "I"]);
        assert_eq!(client.query("select 7").get(1).map(String::as_str), Some("row 7"));
    });
}

#[test]
fn a_read_that_takes_too_long_is_cancelled_and_never_a_write() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[limits]\nquery_timeout = '1s'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let told = "57014 canceling statement due to query_timeout";
        assert_eq!(client.query("select pg_sleep(20)"), ["T", told, "I"]);
        let read = [&parse("", "select pg_sleep(20)")[..], &bind("", &[]), &execute(), SYNC].concat();
        assert!(client.ask(&[&read], 1).contains(&told.to_owned()));
        // What is sent behind a read that is cancelled is not hit, and neither are writes and transactions.
        let begun = Instant::now();
        let behind = query("insert into t select 1 from pg_sleep(3)");
        let said = client.ask(&[&query("select pg_sleep(20)"), &behind, &query("select 7")], 3);
        assert!(said.contains(&told.to_owned()) && said.contains(&"INSERT 0 1".to_owned()), "{said:?}");
        assert!(said.contains(&"row 7".to_owned()) && begun.elapsed() < Duration::from_secs(15), "{said:?}");
        client.query("begin");
        assert_eq!(client.query("select 8 from pg_sleep(3)").last().unwrap(), "T");
        assert_eq!(client.query("commit"), ["COMMIT", "I"]);
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "1");
        assert_eq!(proxy.metric("trunkline_limits_met_total", "limit=\"query_timeout\",sqlstate=\"57014\""), 3.0);
        assert_eq!(proxy.metric("trunkline_errors_sent_total", "sqlstate=\"57014\""), 3.0);
    });
}

#[test]
fn a_read_on_the_primary_that_is_cancelled_takes_nothing_behind_it_along() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let proxy =
            Proxy::start(&cluster, "[pool]\nsize = 1\n[limits]\nquery_timeout = '1s'\n[routing]\nreads = 'primary'");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let told = "57014 canceling statement due to query_timeout";
        let behind = query("insert into t select 1 from pg_sleep(1.5)");
        let said = client.ask(&[&query("select pg_sleep(20)"), &behind], 2);
        assert!(said.contains(&told.to_owned()) && said.contains(&"INSERT 0 1".to_owned()), "{said:?}");
        assert_eq!(proxy.metric("trunkline_limits_met_total", "limit=\"query_timeout\",sqlstate=\"57014\""), 1.0);
        for round in 0..3 {
            // It ends about when the cancel comes.
            let read = query(&format!("select pg_sleep({})", 0.9 + 0.3 * f64::from(round)));
            let said = client.ask(&[&read, &behind], 2);
            assert!(said.contains(&"INSERT 0 1".to_owned()), "{said:?}");
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "4");
    });
}

#[test]
fn a_read_on_a_server_connection_that_is_kept_is_cancelled_and_never_a_write() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let told = "57014 canceling statement due to query_timeout";
        for (pool, first) in [("mode = 'session'", "select 1"), ("size = 1", "listen l")] {
            let proxy = Proxy::start(&cluster, &format!("[pool]\n{pool}\n[limits]\nquery_timeout = '1s'"));
            let mut client = RawClient::connect(proxy.port(), &[]);
            assert_eq!(client.query(first).last().unwrap(), "I");
            for _ in 0..2 {
                assert!(client.query("select pg_sleep(20)").contains(&told.to_owned()), "{pool}");
                let behind = query("insert into t select 1 from pg_sleep(2.5)");
                let said = client.ask(&[&query("select pg_sleep(1.2)"), &behind], 2);
                assert!(said.contains(&"INSERT 0 1".to_owned()), "{said:?}");
            }
            client.query("begin");
            assert_eq!(client.query("select 8 from pg_sleep(2.5)").last().unwrap(), "T");
            assert_eq!(client.query("commit"), ["COMMIT", "I"]);
        }
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "4");
    });
}

/// Its node has it, and may get to it at any time.
#[test]
fn a_session_ends_before_a_cancel_that_went_astray_can_hit_what_it_sends_next() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        let relay = Relay::to(cluster.node(0).address());
        let settings = "[pool]\nmode = 'session'\n[limits]\nquery_timeout = '1s'";
        let proxy = Proxy::before(&cluster, &[relay.address()], settings);
        let mut client = RawClient::connect(proxy.port(), &[]);
        assert_eq!(client.query("select 1").last().unwrap(), "I");
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        relay.lead_to(deaf.local_addr().unwrap());
        client.send(&[&query("select 7 from pg_sleep(9)")]);
        let _taken = deaf.incoming().map(Result::unwrap).find(brings_cancel).unwrap();
        relay.lead_to(cluster.node(0).address());
        assert_eq!(client.until(b'Z'), ["T", "row 7", "SELECT 1", "I"]);
        client.send(&[&query("insert into t values (1)")]);
        let told = client.until_end();
        assert!(told[0].starts_with("57P01 terminating connection: its node has not taken a cancel"), "{told:?}");
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "0");
        // Nobody else meets that server connection.
        assert!(
            RawClient::connect(proxy.port(), &[]).query("insert into t values (2)").contains(&"INSERT 0 1".to_owned())
        );
    });
}

/// Whoever has come here asks for something to be cancelled.
fn brings_cancel(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut stream, mut packet) = (stream, [0; 16]);
    stream.read_exact(&mut packet).is_ok() && packet[4..8] == 80_877_102_u32.to_be_bytes()
}

#[test]
fn limits_and_modes_change_by_a_reload() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut client = proxy.client();
        client.batch_execute("begin; select 1; commit").unwrap();
        proxy.rewrite(|file| {
            let database = file["database"][0].as_table_mut().unwrap();
            database.insert("pool_mode".to_owned(), "statement".into());
            database.insert("pool_size".to_owned(), 5.into());
            database.insert("max_clients".to_owned(), 1.into());
        });
        let mut console = console(&proxy);
        console.simple_query("RELOAD").unwrap();
        assert_eq!(code(&client.batch_execute("begin").unwrap_err()), "0A000");
        client.simple_query("select 1").unwrap();
        assert_eq!(code(&proxy.client_config().connect(NoTls).err().unwrap()), "53300");
        assert!(proxy.metric("trunkline_pool_size", "database=\"bench\"") % 5.0 == 0.0);
        assert_eq!(cell(&proxy, "DATABASES", "bench", "pool_size").unwrap(), "5");
    });
}

#[test]
fn a_name_that_is_not_configured_is_served_by_the_database_that_stands_for_all() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database blog").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let any = "[[database]]\nname = '*'\ncluster = 'main'\npool_size = 3\nmax_clients = 1";
        let proxy = Proxy::start(&cluster, &format!("{any}\n{OPEN}"));
        let connect = |name: &str| proxy.client_config().dbname(name).connect(NoTls);
        let mut blog = connect("blog").unwrap();
        assert_eq!(blog.query_one("select current_database()", &[]).unwrap().get::<_, &str>(0), "blog");
        blog.batch_execute("create table posts (a int); insert into posts values (1)").unwrap();
        // It has catalogs: reads of its tables are balanced.
        let primary = cluster.node(0).port();
        eventually("it reads from replicas", SOON, || {
            server_port(&mut blog, "select inet_server_port() from posts") != primary
        });
        assert_eq!(code(&connect("blog").err().unwrap()), "53300", "max_clients is for each name");
        let unknown = connect("nowhere").err().unwrap();
        assert_eq!((code(&unknown), message(&unknown)), ("3D000", "database \"nowhere\" does not exist"));
        assert!(proxy.metric("trunkline_pool_size", "database=\"blog\"") % 3.0 == 0.0);
        assert_eq!(cell(&proxy, "DATABASES", "blog", "pool_size").unwrap(), "3");
        assert_eq!(cell(&proxy, "DATABASES", "nowhere", "pool_size"), None);
        let mut console = console(&proxy);
        console.simple_query("RELOAD").unwrap();
        blog.simple_query("select a from posts").unwrap();
        console.simple_query("PAUSE blog").unwrap();
        console.simple_query("RESUME blog").unwrap();
        proxy.rewrite(|file| drop(file["database"].as_array_mut().unwrap().pop()));
        console.simple_query("RELOAD").unwrap();
        assert!(blog.simple_query("select 1").is_err(), "its database is gone");
        proxy.client().simple_query("select 1").unwrap();
    });
}

#[test]
fn users_of_the_cluster_come_to_every_database_of_the_cluster() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database blog").unwrap();
        cluster.node(0).sql("create role ada login password 'a'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let any =
            "[[database]]\nname = '*'\ncluster = 'main'\n[cluster.auth_query]\nuser = 'bench'\npassword = 'bench'";
        let proxy = Proxy::start(&cluster, any);
        let connect = |password: &str| login(proxy.port(), "ada", password).dbname("blog").connect(NoTls);
        assert_eq!(code(&connect("b").err().unwrap()), "28P01");
        let mut ada = connect("a").unwrap();
        assert_eq!(ada.query_one("select current_user::text", &[]).unwrap().get::<_, &str>(0), "ada");
    });
}

/// The node's own limits end the session that has set them, or whose role has them: nothing is run again, and nobody is told
/// to try it again.
#[test]
fn a_transaction_that_its_node_ends_for_being_idle_ends_its_session() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        for more in ["", "[failover]\nreplay = true"] {
            let proxy = Proxy::start(&cluster, more);
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("set idle_in_transaction_session_timeout = '300ms'");
            client.query("begin");
            client.query("insert into t values (1)");
            let told = client.until_end();
            assert_eq!(told, ["25P03 terminating connection due to idle-in-transaction timeout"], "{more}");
            assert_eq!(RawClient::connect(proxy.port(), &[]).query("select count(*) from t")[1], "row 0");
        }
    });
}

#[test]
fn a_session_that_its_node_ends_for_being_idle_is_told_so_where_it_keeps_its_server_connection() {
    limited(|| {
        let cluster = cluster();
        for (more, kept_by) in [("", "listen news"), ("[pool]\nmode = 'session'", "select 1")] {
            let proxy = Proxy::start(&cluster, &format!("{more}\n[log]\nconnections = true"));
            let mut client = RawClient::connect(proxy.port(), &[]);
            client.query("set idle_session_timeout = '300ms'");
            client.query(kept_by);
            let told = client.until_end();
            assert_eq!(told, ["57P05 terminating connection due to idle-session timeout"], "{kept_by}");
            eventually("it is logged as that", Duration::from_secs(5), || {
                proxy.log().lines().any(|line| line.contains("cut off") && line.contains("its node has ended it"))
            });
            assert!(!proxy.log().contains("the client left"), "{}", proxy.log());
        }
    });
}
