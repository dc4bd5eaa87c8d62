//! The console: psql and drivers at the database `trunkline`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls, SimpleQueryMessage};
use toml::Table;
use trunkline::demo::cluster::Cluster;
use trunkline::demo::installation::Installation;

use crate::certificates::Authority;
use crate::fixture::{Proxy, cluster, console, eventually, limited, login, server_port};
use crate::raw::{RawClient, SYNC, bind_portal, parse, query, startup_packet};
use crate::record::is_logged;

const SOON: Duration = Duration::from_secs(10);

const OPEN: &str = "[admin]\nusers = ['bench']";

/// The rows of a command as texts, with the names of its columns.
fn rows(client: &mut Client, command: &str) -> Vec<Vec<(String, String)>> {
    let messages = client.simple_query(command).unwrap_or_else(|error| panic!("{command}: {error}"));
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            row.columns()
                .iter()
                .enumerate()
                .map(|(at, column)| (column.name().to_owned(), row.get(at).unwrap_or("NULL").to_owned()))
                .collect(),
        ),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

fn value<'a>(row: &'a [(String, String)], column: &str) -> &'a str {
    &row.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("no column {column} in {row:?}")).1
}

fn psql(proxy: &Proxy, input: &[&str]) -> Output {
    let mut psql: Command = Installation::find().unwrap().command("psql");
    psql.args(["-X", "-h", "127.0.0.1", "-U", "bench", "-p", &proxy.port().to_string(), "trunkline"]);
    psql.args(input.iter().flat_map(|command| ["-c", command]));
    psql.env("PGPASSWORD", "bench").output().unwrap()
}

#[test]
fn psql_shows_everything_and_is_told_what_is_not_a_command() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let said = psql(&proxy, &["\\x", "show pools", "show version; show lists"]);
        let (text, errors) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{errors}");
        assert!(text.contains("Trunkline 0.") && text.contains("used_clients"), "{text}");
        let said = psql(&proxy, &["select * from pg_class"]);
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.status.success() && errors.contains("no command SELECT") && errors.contains("HINT"), "{errors}");
        let mut console = console(&proxy);
        for row in rows(&mut console, "show help").iter().filter(|row| value(row, "command").starts_with("SHOW ")) {
            rows(&mut console, value(row, "command"));
        }
    });
}

/// What stands in backticks in the first cells of the manual's tables, by the heading above.
fn manual() -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string("src/admin/console/README.md").unwrap();
    let (mut manual, mut heading) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("### ") {
            heading = words.to_owned();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cell = row.split_once("` |").unwrap_or_else(|| panic!("{line}")).0;
            let names = cell.split("`, `").map(|name| name.replace("\\|", "|"));
            manual.entry(heading.clone()).or_default().extend(names);
        }
    }
    manual
}

#[test]
fn the_manual_has_every_command_and_every_column() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut manual = manual();
        let told: Vec<String> =
            rows(&mut console, "SHOW HELP").iter().map(|row| value(row, "command").to_owned()).collect();
        let commands = manual.remove("Commands").unwrap();
        let others: Vec<&str> =
            told.iter().filter(|told| !told.starts_with("SHOW ")).flat_map(|told| told.split(", ")).collect();
        for command in &others {
            assert!(commands.iter().any(|known| known == command), "{command} is not in the manual");
        }
        assert_eq!(commands.len(), others.len() + 1, "beside SHOW, no more than there are: {commands:?}");
        for command in told.iter().filter(|told| told.starts_with("SHOW ")) {
            let columns = manual.remove(command).unwrap_or_else(|| panic!("{command} is not in the manual"));
            let messages = console.simple_query(command).unwrap();
            let described = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::RowDescription(columns) => Some(columns),
                _ => None,
            });
            let described: Vec<&str> = described.unwrap().iter().map(|column| column.name()).collect();
            assert_eq!(columns, described, "{command}");
        }
        assert!(manual.is_empty(), "no such commands: {:?}", manual.keys());
    });
}

#[test]
fn drivers_ask_in_the_extended_protocol_and_get_typed_columns() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let row = console.query_one("SHOW DATABASES", &[]).unwrap();
        assert_eq!((row.get::<_, &str>("name"), row.get::<_, i64>("pool_size")), ("bench", 20));
        let statement = console.prepare("show config").unwrap();
        assert_eq!(statement.columns()[0].name(), "key");
        let settings = console.query(&statement, &[]).unwrap();
        let size = settings.iter().find(|row| row.get::<_, &str>("key") == "pool.size").unwrap();
        assert_eq!((size.get::<_, &str>("default"), size.get::<_, &str>("changeable")), ("20", "yes"));
        assert!(console.execute("no such command", &[]).is_err());
        console.execute("RELOAD", &[]).unwrap();
        let mut transaction = console.transaction().unwrap();
        let portal = transaction.bind("show help", &[]).unwrap();
        assert_eq!(transaction.query_portal(&portal, 3).unwrap().len(), 3);
        assert!(transaction.query_portal(&portal, 0).unwrap().len() > 10);
    });
}

#[test]
fn who_is_not_named_does_not_get_in_and_who_may_look_may_not_change() {
    limited(|| {
        let cluster = cluster();
        let users = "[[user]]\nname = 'ada'\npassword = 'a'\n[[user]]\nname = 'bob'\npassword = 'b'";
        let proxy = Proxy::start(&cluster, &format!("[admin]\nusers = ['bench']\nstats_users = ['ada']\n{users}"));
        let connect = |user: &str, password| login(proxy.port(), user, password).dbname("trunkline").connect(NoTls);
        let refused = connect("bob", "b").err().unwrap();
        assert_eq!(refused.code().unwrap().code(), "42501");
        assert_eq!(proxy.metric("trunkline_login_failures_total", "cause=\"not_allowed\""), 1.0);
        let mut ada = connect("ada", "a").unwrap();
        assert_eq!(rows(&mut ada, "show databases").len(), 1);
        for command in ["RELOAD", "PAUSE", "KILL bench", "SHUTDOWN"] {
            let refused = ada.simple_query(command).unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "42501", "{command}");
            is_logged(&proxy, &["WARN", "a command of the console is not done", command, "42501", "user=\"ada\""]);
        }
    });
}

#[test]
fn what_a_reload_takes_from_a_user_counts_in_its_open_console_sessions_too() {
    limited(|| {
        let cluster = cluster();
        let names = ["ada", "bob", "cyd"];
        let users = names.map(|name| format!("[[user]]\nname = '{name}'\npassword = '{name}'")).join("\n");
        let proxy = Proxy::start(&cluster, &format!("[admin]\nusers = ['bench', 'ada', 'bob', 'cyd']\n{users}"));
        let mut ours = console(&proxy);
        let connect = |name: &str| login(proxy.port(), name, name).dbname("trunkline").connect(NoTls).unwrap();
        let [mut ada, mut bob, mut cyd] = names.map(connect);
        for one in [&mut ada, &mut bob, &mut cyd] {
            one.simple_query("RECONNECT bench").unwrap();
        }
        proxy.rewrite(|file| {
            let admin = file["admin"].as_table_mut().unwrap();
            admin.insert("users".to_owned(), vec!["bench", "cyd"].into());
            admin.insert("stats_users".to_owned(), vec!["ada"].into());
            file["user"].as_array_mut().unwrap().retain(|user| user["name"].as_str() != Some("cyd"));
        });
        ours.simple_query("RELOAD").unwrap();
        let told = |client: &mut Client, command: &str| {
            client.simple_query(command).unwrap_err().code().unwrap().code().to_owned()
        };
        assert_eq!(told(&mut ada, "RECONNECT bench"), "42501");
        ada.simple_query("SHOW VERSION").expect("she may look");
        // What is said at the end of a connection the driver may lose; the log has it.
        bob.simple_query("SHOW VERSION").expect_err("he is in no list any more");
        is_logged(&proxy, &["a client was turned away", "user=\"bob\"", "57P01"]);
        cyd.simple_query("RECONNECT bench").expect_err("there is no such user any more");
        is_logged(&proxy, &["a client was turned away", "user=\"cyd\"", "57P01"]);
        assert!(bob.simple_query("SHOW VERSION").is_err(), "that was the end");
        ours.simple_query("RECONNECT bench").unwrap();
    });
}

#[test]
fn pause_lets_open_transactions_finish_and_holds_new_statements_until_resume() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut open = proxy.client();
        open.batch_execute("create table t (a int); begin; insert into t values (1)").unwrap();
        let mut waits = proxy.client();
        let port = proxy.port();
        let pausing = thread::spawn(move || {
            login(port, "bench", "bench")
                .dbname("trunkline")
                .connect(NoTls)
                .unwrap()
                .simple_query("PAUSE bench")
                .unwrap();
            Instant::now()
        });
        eventually("the database is paused", SOON, || value(&rows(&mut console, "show databases")[0], "paused") == "1");
        let waiting = thread::spawn(move || {
            waits.simple_query("insert into t values (2)").unwrap();
            Instant::now()
        });
        thread::sleep(Duration::from_millis(200));
        assert!(!pausing.is_finished(), "a transaction is open");
        open.batch_execute("insert into t values (3)").expect("an open transaction goes on");
        open.batch_execute("commit").unwrap();
        let paused = pausing.join().unwrap();
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "2");
        assert!(proxy.page("/ready").contains("\"bench\""), "it is ready, and says what is paused");
        assert!(proxy.metric("trunkline_database_paused", "bench") > 0.0);
        let mut late = proxy.client();
        eventually("both wait", SOON, || value(&rows(&mut console, "show pools")[0], "cl_waiting") == "1");
        assert!(!waiting.is_finished());
        // Nothing of ours is left on the node but the monitor.
        let ours = "select count(*) from pg_stat_activity where datname = 'bench' and pid <> pg_backend_pid() and application_name not like 'trunkline%'";
        eventually("the servers' processes have gone", SOON, || cluster.node(0).sql(ours).unwrap() == "0");
        console.simple_query("RESUME bench").unwrap();
        assert!(waiting.join().unwrap() > paused);
        late.simple_query("select 1").unwrap();
        assert!(console.simple_query("RESUME bench").is_err(), "nothing is paused any more");
    });
}

#[test]
fn a_pause_that_is_cancelled_or_left_before_it_has_come_to_be_is_taken_back() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut is_paused = || value(&rows(&mut console, "show databases")[0], "paused") == "1";
        let (mut open, mut other) = (proxy.client(), proxy.client());
        open.batch_execute("begin; select 1").unwrap();

        let mut operator = login(proxy.port(), "bench", "bench").dbname("trunkline").connect(NoTls).unwrap();
        let cancel = operator.cancel_token();
        let pausing = thread::spawn(move || (operator.simple_query("PAUSE bench"), operator));
        eventually("the database is paused", SOON, &mut is_paused);
        cancel.cancel_query(NoTls).unwrap();
        let (said, mut operator) = pausing.join().unwrap();
        let said = said.unwrap_err();
        assert_eq!(said.code().unwrap().code(), "57014", "{said:?}");
        assert!(!is_paused());
        other.simple_query("select 1").unwrap();
        operator.simple_query("show databases").expect("it goes on");
        cancel.cancel_query(NoTls).unwrap();
        operator.simple_query("show databases").expect("nothing waited for that cancel");

        let mut psql = Installation::find().unwrap().command("psql");
        psql.args(["-X", "-h", "127.0.0.1", "-U", "bench", "-p", &proxy.port().to_string(), "trunkline"]);
        psql.args(["-c", "PAUSE bench"]).env("HOME", "/nonexistent").env("PGPASSWORD", "bench");
        let mut psql = psql.spawn().unwrap();
        eventually("the database is paused again", SOON, &mut is_paused);
        psql.kill().unwrap();
        psql.wait().unwrap();
        eventually("nobody waits for it any more", SOON, || !is_paused());
        other.simple_query("select 1").unwrap();
        open.batch_execute("commit").unwrap();
    });
}

#[test]
fn who_logs_in_to_a_paused_database_waits_for_resume_longer_than_a_login_may_take() {
    limited(|| {
        let (cluster, proxy) = with_ada("[limits]\nlogin_timeout = '1s'");
        let mut console = console(&proxy);
        console.simple_query("PAUSE bench").unwrap();
        let ada = login(proxy.port(), "ada", "a");
        let waiting = thread::spawn(move || ada.connect(NoTls));
        eventually("the login waits", SOON, || {
            rows(&mut console, "show clients").iter().any(|row| value(row, "state") == "waiting")
        });
        thread::sleep(Duration::from_millis(1500));
        assert!(!waiting.is_finished(), "nobody has resumed");
        for node in cluster.nodes() {
            assert_eq!(node.sql("select count(*) from pg_stat_activity where usename = 'ada'").unwrap(), "0");
        }
        console.simple_query("RESUME bench").unwrap();
        waiting.join().unwrap().unwrap().simple_query("select 1").unwrap();
    });
}

#[test]
fn who_hangs_up_while_it_waits_for_resume_keeps_no_place() {
    limited(|| {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = Authority::new(folder.path().join("tls")).sign("server");
        let (_cluster, proxy) = with_ada(&format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}"));
        let mut console = console(&proxy);
        console.simple_query("PAUSE bench").unwrap();
        for mode in ["disable", "require"] {
            let mut psql = Installation::find().unwrap().command("psql");
            psql.args(["-X", "-h", "127.0.0.1", "-U", "ada", "-p", &proxy.port().to_string(), "bench"]);
            psql.args(["-c", "select 1"]).env("HOME", "/nonexistent").env("PGSSLMODE", mode);
            psql.env("PGPASSWORD", "a").env("PGCONNECT_TIMEOUT", "2");
            let gives_up = thread::spawn(move || psql.output().unwrap());
            let mut waits = || rows(&mut console, "show clients").iter().any(|row| value(row, "state") == "waiting");
            eventually("the login waits", SOON, &mut waits);
            assert!(!gives_up.join().unwrap().status.success(), "{mode}");
            eventually("it is gone", SOON, || !waits());
        }
    });
}

#[test]
fn who_logs_in_to_a_database_that_is_paused_too_long_is_told() {
    limited(|| {
        let (_cluster, proxy) = with_ada("[failover]\npause_hold = '300ms'");
        let mut console = console(&proxy);
        console.simple_query("PAUSE bench").unwrap();
        let refused = login(proxy.port(), "ada", "a").connect(NoTls).err().unwrap();
        let told = refused.as_db_error().unwrap();
        assert!(told.code().code() == "57P03" && told.message().contains("not been resumed"), "{told:?}");
        assert_eq!(proxy.metric("trunkline_limits_met_total", "failover.pause_hold"), 1.0);
        console.simple_query("RESUME bench").unwrap();
        login(proxy.port(), "ada", "a").connect(NoTls).unwrap().simple_query("select 1").unwrap();
    });
}

#[test]
fn who_waits_for_resume_hears_of_a_reload_and_what_is_paused_outlasts_it() {
    limited(|| {
        let shop = "[[database]]\nname = 'shop'\ncluster = 'main'\nserver_name = 'bench'";
        let (_cluster, proxy) = with_ada(shop);
        let config = |role: &str, password: &str, database: &str| {
            let mut config = login(proxy.port(), role, password);
            config.dbname(database);
            config
        };
        let mut console = console(&proxy);
        let connect = |name| config("bench", "bench", name).connect(NoTls).unwrap();
        let [mut stays, mut loses] = ["bench", "shop"].map(connect);
        console.simple_query("PAUSE").unwrap();
        let stays = thread::spawn(move || stays.simple_query("select 1").map(drop));
        let loses = thread::spawn(move || loses.simple_query("select 1").map(drop));
        let ada = config("ada", "a", "shop");
        let logs_in = thread::spawn(move || ada.connect(NoTls).map(drop));
        eventually("all wait", SOON, || {
            rows(&mut console, "show clients").iter().filter(|row| value(row, "state") == "waiting").count() == 3
        });
        let reload = |console: &mut Client, change: &dyn Fn(&mut Table)| {
            proxy.rewrite(|file| change(file));
            console.simple_query("RELOAD").unwrap();
        };
        reload(&mut console, &|file| drop(file.insert("max_clients".to_owned(), 500.into())));
        thread::sleep(Duration::from_millis(300));
        assert!(![&stays, &loses, &logs_in].iter().any(|waits| waits.is_finished()), "nobody has resumed");

        let leave_out = |file: &mut Table| {
            file["database"].as_array_mut().unwrap().retain(|database| database["name"].as_str() != Some("shop"));
        };
        let put_back = |file: &mut Table| {
            let shop: Table = shop.parse().unwrap();
            file["database"].as_array_mut().unwrap().push(shop["database"][0].clone());
        };
        reload(&mut console, &leave_out);
        for (told, who) in [(loses.join().unwrap(), "a statement"), (logs_in.join().unwrap(), "a login")] {
            let told = told.unwrap_err();
            let told = told.as_db_error().unwrap_or_else(|| panic!("{who}: {told}"));
            assert_eq!(told.code().code(), "57P01", "{who}: {told:?}");
            assert!(told.message().contains("taken out of the configuration"), "{who}: {told:?}");
        }
        assert!(!stays.is_finished());
        reload(&mut console, &put_back);
        let databases = rows(&mut console, "show databases");
        let shop = databases.iter().find(|row| value(row, "name") == "shop").unwrap();
        assert_eq!(value(shop, "paused"), "1");

        reload(&mut console, &leave_out);
        console.simple_query("RESUME shop").unwrap();
        let unknown = console.simple_query("RESUME shop").unwrap_err();
        assert_eq!(unknown.code().unwrap().code(), "3D000", "it is neither paused nor there");
        reload(&mut console, &put_back);
        config("ada", "a", "shop").connect(NoTls).unwrap().simple_query("select 1").unwrap();
        console.simple_query("RESUME bench").unwrap();
        stays.join().unwrap().unwrap();
    });
}

/// A cluster and Trunkline with `ada`, who has not logged in yet: nobody knows what she is to be told then.
fn with_ada(extra: &str) -> (Cluster, Proxy) {
    let cluster = cluster();
    cluster.node(0).sql("create role ada login password 'a'").unwrap();
    cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
    let proxy = Proxy::start(&cluster, &format!("{OPEN}\n{extra}\n[[user]]\nname = 'ada'\npassword = 'a'"));
    (cluster, proxy)
}

#[test]
fn pause_gives_up_when_a_transaction_does_not_end_and_what_is_paused_too_long_is_told() {
    limited(|| {
        let cluster = cluster();
        let proxy =
            Proxy::start(&cluster, &format!("{OPEN}\n[failover]\npause_timeout = '300ms'\npause_hold = '300ms'"));
        let mut console = console(&proxy);
        let mut open = proxy.client();
        open.batch_execute("begin; select 1").unwrap();
        let refused = console.simple_query("PAUSE").unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "55000");
        let mut other = proxy.client();
        other.simple_query("select 1").expect("nothing is paused after all");
        open.batch_execute("commit").unwrap();
        console.simple_query("PAUSE").unwrap();
        let told = other.simple_query("select 1").unwrap_err();
        assert_eq!(told.code().unwrap().code(), "57P03");
        console.simple_query("RESUME").unwrap();
        other.simple_query("select 1").expect("it is still connected");
    });
}

#[test]
fn what_has_waited_before_a_pause_waits_for_its_end_as_long_as_any_other() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[pool]\nsize = 1\n[failover]\npause_hold = '700ms'"));
        let (mut console, mut pausing) = (console(&proxy), console(&proxy));
        let (mut open, mut other) = (proxy.client(), proxy.client());
        open.batch_execute("begin; select txid_current()").unwrap();
        let waits = thread::spawn(move || other.simple_query("select txid_current()").map(drop));
        thread::sleep(Duration::from_millis(900));
        let pausing = thread::spawn(move || pausing.simple_query("PAUSE bench").map(drop));
        eventually("the database is paused", SOON, || value(&rows(&mut console, "show databases")[0], "paused") == "1");
        open.batch_execute("commit").unwrap();
        pausing.join().unwrap().unwrap();
        thread::sleep(Duration::from_millis(100));
        console.simple_query("RESUME bench").unwrap();
        waits.join().unwrap().expect("the pause was short");
    });
}

#[test]
fn what_is_to_be_closed_can_be_waited_for() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']\n[failover]\npause_timeout = '500ms'");
        let mut console = console(&proxy);
        let mut client = proxy.client();
        client.simple_query("begin; select txid_current()").unwrap();
        console.simple_query("wait_close").unwrap();
        console.simple_query("reconnect").unwrap();
        let needed = |console: &mut Client| {
            let servers = rows(console, "show servers");
            servers.iter().filter(|row| value(row, "close_needed") == "1").count()
        };
        assert_eq!(needed(&mut console), 1);
        let error = console.simple_query("wait_close bench").unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "55000");
        assert_eq!(error.message(), "1 server connections that are to be closed are still in use");
        client.simple_query("commit").unwrap();
        console.simple_query("wait_close bench").unwrap();
        assert_eq!(needed(&mut console), 0);
    });
}

#[test]
fn a_pause_that_somebody_ends_while_it_waits_is_not_answered_as_done() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let (mut console, mut pausing) = (console(&proxy), console(&proxy));
        let mut open = proxy.client();
        open.batch_execute("begin; select 1").unwrap();
        let pausing = thread::spawn(move || pausing.simple_query("PAUSE bench").map(drop));
        eventually("the database is paused", SOON, || value(&rows(&mut console, "show databases")[0], "paused") == "1");
        console.simple_query("RESUME bench").unwrap();
        let told = pausing.join().unwrap().unwrap_err();
        assert_eq!(told.code().unwrap().code(), "55000");
        assert!(told.as_db_error().unwrap().message().contains("resumed"), "{told:?}");
        open.batch_execute("commit").unwrap();
        assert_eq!(value(&rows(&mut console, "show databases")[0], "paused"), "0");
    });
}

#[test]
fn what_one_operator_was_told_is_paused_stays_so_when_anothers_wider_pause_gives_up() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create database second").unwrap();
        let second = "[failover]\npause_timeout = '2s'\n[[database]]\nname = 'second'\ncluster = 'main'";
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n{second}"));
        let (mut narrow, mut open) = (console(&proxy), proxy.client());
        let paused = |console: &mut Client| -> Vec<(String, String)> {
            let row = |row: &Vec<_>| (value(row, "name").to_owned(), value(row, "paused").to_owned());
            let mut all: Vec<_> = rows(console, "show databases").iter().map(row).collect();
            all.retain(|(name, _)| name == "bench" || name == "second");
            all.sort();
            all
        };
        let expected = |bench: &str, second: &str| -> Vec<(String, String)> {
            vec![("bench".into(), bench.into()), ("second".into(), second.into())]
        };
        for command in ["PAUSE second", "KILL second"] {
            open.batch_execute("begin; select 1").unwrap();
            let mut wide = console(&proxy);
            let wide = thread::spawn(move || wide.simple_query("PAUSE").map(drop));
            eventually("all are paused", SOON, || paused(&mut narrow) == expected("1", "1"));
            narrow.simple_query(command).unwrap();
            assert_eq!(wide.join().unwrap().unwrap_err().code().unwrap().code(), "55000");
            assert_eq!(paused(&mut narrow), expected("0", "1"), "{command}");
            open.batch_execute("commit").unwrap();
            narrow.simple_query("RESUME").unwrap();
            assert_eq!(paused(&mut narrow), expected("0", "0"), "{command}");
        }
    });
}

#[test]
fn databases_that_are_asked_for_by_any_name_are_paused_and_disabled_as_others() {
    limited(|| {
        let cluster = cluster();
        for name in ["first", "second"] {
            cluster.node(0).sql(&format!("create database {name}")).unwrap();
        }
        let any = "[[database]]\nname = '*'\ncluster = 'main'";
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n{any}"));
        let mut console = console(&proxy);
        let config = |name: &str| login(proxy.port(), "bench", "bench").dbname(name).clone();
        console.simple_query("PAUSE").unwrap();
        let first = config("first");
        let waiting = thread::spawn(move || first.connect(NoTls)?.batch_execute("select 1"));
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished(), "it waits for RESUME");
        console.simple_query("RESUME").unwrap();
        waiting.join().unwrap().unwrap();

        let names = |console: &mut Client| -> Vec<String> {
            rows(console, "show databases").iter().map(|row| value(row, "name").to_owned()).collect()
        };
        let mut client = config("second").connect(NoTls).unwrap();
        client.batch_execute("select 1").unwrap();
        eventually("it has a place of its own", SOON, || names(&mut console).contains(&"second".to_owned()));
        console.simple_query("DISABLE second").unwrap();
        drop(client);
        let has_left =
            |console: &mut Client| !rows(console, "show clients").iter().any(|row| value(row, "database") == "second");
        eventually("its client has left", SOON, || has_left(&mut console));
        console.simple_query("RELOAD").unwrap();
        assert!(config("second").connect(NoTls).is_err(), "it takes no new clients");
        console.simple_query("ENABLE second").unwrap();
        config("second").connect(NoTls).unwrap();
    });
}

#[test]
fn reload_answers_what_is_wrong_with_its_line() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        proxy.rewrite(|file| drop(file["pool"].as_table_mut().unwrap().insert("size".to_owned(), 0.into())));
        let error = console.simple_query("RELOAD").unwrap_err();
        let message = error.as_db_error().unwrap().message().to_owned();
        assert!(message.contains("trunkline.toml:") && message.contains("pool.size"), "{message}");
        proxy.rewrite(|file| drop(file["pool"].as_table_mut().unwrap().insert("size".to_owned(), 3.into())));
        console.simple_query("RELOAD").unwrap();
        assert_eq!(value(&rows(&mut console, "show databases")[0], "pool_size"), "3");
    });
}

#[test]
fn reload_answers_what_may_be_meant_otherwise_and_what_only_a_restart_changes() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let said = || String::from_utf8(psql(&proxy, &["RELOAD"]).stderr).unwrap();
        assert!(!said().contains("NOTICE"));
        proxy.rewrite(|file| {
            file.insert("workers".to_owned(), 1000.into());
            let pool = file["pool"].as_table_mut().unwrap();
            pool.insert("reserve_size".to_owned(), 1.into());
            pool.insert("queue_timeout".to_owned(), "2s".into());
        });
        let told = said();
        assert!(told.contains("only a restart changes: workers\npool.reserve_size has no effect: "), "{told}");
        is_logged(&proxy, &["the configuration may be meant otherwise", "pool.reserve_size has no effect"]);
    });
}

#[test]
fn a_drained_replica_gets_no_read_until_it_is_attached_and_no_client_notices() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[routing]\nconsistency = 'eventual'"));
        let mut console = console(&proxy);
        let mut client = proxy.client();
        let mut ports =
            |count| -> Vec<u16> { (0..count).map(|_| server_port(&mut client, "select inet_server_port()")).collect() };
        let [primary, drained, other] = cluster.nodes() else { panic!("three nodes") };
        assert!(ports(50).contains(&drained.port()));
        assert!(console.simple_query(&format!("DRAIN {}", primary.address())).is_err());
        console.simple_query(&format!("DRAIN {}", drained.address())).unwrap();
        assert!(ports(50).iter().all(|port| *port == other.port()));
        let sessions = "select count(*) from pg_stat_activity where datname = 'bench' and usename = 'bench' and pid <> pg_backend_pid() and application_name not like 'trunkline%'";
        eventually("no connection is left there", SOON, || drained.sql(sessions).unwrap() == "0");
        console.simple_query("RELOAD").unwrap();
        assert!(ports(20).iter().all(|port| *port == other.port()), "a reload does not forget it");
        console.simple_query(&format!("ATTACH {}", drained.address())).unwrap();
        assert!(ports(50).contains(&drained.port()));
        assert!(console.simple_query("DRAIN 10.9.8.7:5432").is_err());
    });
}

#[test]
fn clients_are_seen_and_can_be_sent_away() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut client = proxy.client_config().application_name("shop").connect(NoTls).unwrap();
        client.batch_execute("begin; select 1").unwrap();
        let shown = rows(&mut console, "show clients");
        let mine = shown.iter().find(|row| value(row, "application_name") == "shop").unwrap();
        assert_eq!((value(mine, "state"), value(mine, "database")), ("active", "bench"));
        assert_eq!(value(mine, "node"), cluster.node(0).address().to_string());
        let servers = rows(&mut console, "show servers");
        let active: Vec<_> = servers.iter().filter(|row| value(row, "state") == "active").collect();
        let [its] = active[..] else { panic!("{servers:?}") };
        assert_eq!((value(mine, "link"), value(its, "link")), (value(its, "ptr"), value(mine, "ptr")));
        assert_eq!(value(its, "application_name"), "shop");
        console.simple_query(&format!("KILL_CLIENT {}", value(mine, "id"))).unwrap();
        assert!(client.simple_query("select 1").is_err());
        eventually("its server connection is closed", SOON, || {
            rows(&mut console, "show servers").iter().all(|row| value(row, "state") != "active")
        });
        assert!(console.simple_query("KILL_CLIENT 999999").is_err());

        let mut idle = proxy.client();
        console.simple_query("KILL bench").unwrap();
        assert!(idle.simple_query("select 1").is_err());
        console.simple_query("RESUME bench").unwrap();
        proxy.client().simple_query("select 1").unwrap();
        console.simple_query("DISABLE bench").unwrap();
        assert!(proxy.client_config().connect(NoTls).is_err());
        assert_eq!(proxy.metric("trunkline_database_disabled", "bench"), 1.0);
        assert!(proxy.page("/ready").contains("\"bench\""), "it is ready, and says what is disabled");
        console.simple_query("ENABLE bench").unwrap();
        assert_eq!(proxy.metric("trunkline_database_disabled", "bench"), 0.0);
        proxy.client().simple_query("select 1").unwrap();
    });
}

#[test]
fn who_is_sent_away_from_the_console_is_told_so_and_what_it_waits_for_is_taken_back() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[log]\nconnections = true"));
        let mut console = console(&proxy);
        let [mut idle, mut waits, mut reads_nothing] = [(); 3].map(|()| RawClient::console(proxy.port()));
        is_logged(&proxy, &["a client has logged in", "database=\"trunkline\""]);
        let mut open = proxy.client();
        open.batch_execute("begin; select 1").unwrap();
        waits.send(&[&query("PAUSE bench; SHOW VERSION")]);
        let is_paused = |console: &mut Client| value(&rows(console, "show databases")[0], "paused") == "1";
        eventually("the database is paused", SOON, || is_paused(&mut console));
        // More than its socket holds.
        reads_nothing.send(&[&query(&"SHOW CONFIG;".repeat(10_000))]);
        let shown = rows(&mut console, "show clients");
        let at_console = shown.iter().filter(|row| value(row, "database") == "trunkline");
        let mut ids: Vec<u64> = at_console.map(|row| value(row, "id").parse().unwrap()).collect();
        ids.sort_unstable();
        for id in &ids[1..] {
            console.simple_query(&format!("KILL_CLIENT {id}")).unwrap();
        }
        let gone = ["57P01 terminating connection due to administrator command"];
        assert_eq!(idle.until_end(), gone);
        assert_eq!(waits.until_end(), gone);
        assert!(!is_paused(&mut console));
        // What it gets are whole messages all the same.
        assert_eq!(reads_nothing.until_end().last().map(String::as_str), Some(gone[0]));
        is_logged(&proxy, &["a client was turned away", "database=\"trunkline\"", "57P01"]);
        drop(console);
        is_logged(&proxy, &["a client has left", "database=\"trunkline\""]);
        open.batch_execute("commit").unwrap();
    });
}

#[test]
fn kill_reaches_who_is_logging_in_or_replicates_and_nobody_at_the_console() {
    limited(|| {
        let cluster = cluster();
        let rules = "[auth]\nhba = ['host replication all all trust', 'host all all all md5']";
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n{rules}"));
        let (mut console, mut other) = (console(&proxy), console(&proxy));
        let replicator = [("user", "bench"), ("database", "replication"), ("replication", "true")];
        let (mut replicating, told) = RawClient::begin(proxy.port(), &startup_packet(0, &replicator));
        assert_eq!(told.last().map(|(tag, _)| *tag), Some(b'Z'));
        for (kill, resume) in [("KILL bench", "RESUME bench"), ("KILL", "RESUME")] {
            let mut claiming = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
            claiming.set_read_timeout(Some(SOON)).unwrap();
            claiming.write_all(&startup_packet(0, &[("user", "bench"), ("database", "bench")])).unwrap();
            eventually("it is seen while it logs in", SOON, || {
                rows(&mut console, "show clients").iter().any(|row| {
                    (value(row, "state"), value(row, "user"), value(row, "database")) == ("login", "bench", "bench")
                })
            });
            let pools = rows(&mut console, "show pools");
            let mut of_bench = pools.iter().filter(|row| value(row, "database") == "bench");
            assert!(of_bench.all(|row| value(row, "cl_active") == "0"), "it has proved nothing");
            console.simple_query(kill).unwrap();
            let mut said = Vec::new();
            claiming.read_to_end(&mut said).unwrap();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(said.contains("terminating connection due to administrator command"), "{kill}: {said}");
            console.simple_query(resume).unwrap();
        }
        let gone = "57P01 terminating connection due to administrator command".to_owned();
        assert_eq!(replicating.until_end().last(), Some(&gone));
        other.simple_query("show version").expect("nobody at the console is sent away");
    });
}

#[test]
fn who_is_sent_away_while_trunkline_asks_for_its_settings_leaves_no_answer_to_the_next() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[pool]\nsize = 1\n[routing]\nreads = 'primary'"));
        let is_over = Arc::new(AtomicBool::new(false));
        // On the one connection that there is, each is handed it as soon as it is there.
        let others: Vec<_> = (0..3)
            .map(|number| {
                let (mut client, is_over) = (proxy.client(), Arc::clone(&is_over));
                thread::spawn(move || {
                    for round in (0_i64..).take_while(|_| !is_over.load(Ordering::Relaxed)) {
                        let mine = (round * 10 + number).to_string();
                        let told = rows(&mut client, &format!("select {mine} as mine"));
                        assert_eq!(told, [[("mine".to_owned(), mine)]], "another's answer");
                    }
                })
            })
            .collect();
        let mut console = console(&proxy);
        for _ in 0..60 {
            let mut client = proxy.client_config().application_name("victim").connect(NoTls).unwrap();
            let victim = thread::spawn(move || while client.batch_execute("set work_mem = '5MB'").is_ok() {});
            thread::sleep(Duration::from_millis(5));
            let shown = rows(&mut console, "show clients");
            for row in shown.iter().filter(|row| value(row, "application_name") == "victim") {
                // One that has just gone by itself is none.
                let _ = console.simple_query(&format!("KILL_CLIENT {}", value(row, "id")));
            }
            victim.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|other| other.join().expect("each has got its own answers"));
    });
}

#[test]
fn transactions_are_counted_one_by_one_however_long_their_session_keeps_its_server_connection() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut count = |column: &str| {
            let stats = rows(&mut console, "show stats");
            let bench = stats.iter().find(|row| value(row, "database") == "bench").unwrap();
            value(bench, column).parse::<u64>().unwrap()
        };
        let run = |client: &mut Client| {
            for _ in 0..5 {
                client.batch_execute("select 1").unwrap();
            }
            client.batch_execute("begin").unwrap();
            client.batch_execute("select 1 from pg_sleep(0.05)").unwrap();
            client.batch_execute("commit").unwrap();
        };
        let mut client = proxy.client();
        let before = (count("total_xact_count"), count("total_xact_time"));
        run(&mut client);
        assert_eq!(count("total_xact_count") - before.0, 6, "pooled");
        let mut kept = proxy.client();
        kept.batch_execute("listen nobody").unwrap();
        thread::sleep(Duration::from_millis(300));
        run(&mut kept);
        assert_eq!(count("total_xact_count") - before.0, 13, "one that listens");
        kept.batch_execute("unlisten *").unwrap();
        run(&mut kept);
        assert_eq!(count("total_xact_count") - before.0, 20, "one that listens no more");
        let waited = count("total_xact_time") - before.1;
        assert!((150_000..290_000).contains(&waited), "what it has waited between them is in none: {waited} us");
    });
}

#[test]
fn parses_of_clients_are_told_apart_from_those_that_nodes_get() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut client = proxy.client();
        client.batch_execute("create table t (a int)").unwrap();
        let counts = |console: &mut Client| -> [u64; 3] {
            let stats = rows(console, "show stats");
            let bench = stats.iter().find(|row| value(row, "database") == "bench").unwrap();
            ["total_client_parse_count", "total_server_parse_count", "total_bind_count"]
                .map(|column| value(bench, column).parse().unwrap())
        };
        let there = |console: &mut Client| -> u64 {
            rows(console, "show servers")
                .iter()
                .map(|row| value(row, "prepared_statements").parse::<u64>().unwrap())
                .sum()
        };
        assert_eq!((counts(&mut console), there(&mut console)), ([0, 0, 0], 0), "a Query prepares nothing");
        let insert = client.prepare("insert into t values ($1)").unwrap();
        for number in 0..3 {
            client.execute(&insert, &[&number]).unwrap();
        }
        assert_eq!((counts(&mut console), there(&mut console)), ([1, 1, 3], 1));
        console.simple_query("RECONNECT bench").unwrap();
        client.execute(&insert, &[&3]).unwrap();
        assert_eq!((counts(&mut console), there(&mut console)), ([1, 2, 4], 1), "made again on another connection");
        drop(insert);
        client.batch_execute("insert into t values (4)").unwrap();
        assert_eq!((counts(&mut console), there(&mut console)), ([1, 2, 4], 1), "it stays there for others");
        let totals = rows(&mut console, "show totals");
        let total =
            |name: &str| value(totals.iter().find(|row| value(row, "name") == name).unwrap(), "value").to_owned();
        assert_eq!((total("total_ps_server_parse_count"), total("total_ps_bind_count")), ("2".into(), "4".into()));
    });
}

#[test]
fn shapes_name_what_fills_the_primary_without_its_literals_and_stats_count() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = console(&proxy);
        let mut client = proxy.client();
        client.batch_execute("create table t (a text)").unwrap();
        for number in 0..10 {
            client.simple_query(&format!("select * from t where a = 'secret{number}' for update")).unwrap();
        }
        let insert = client.prepare("insert into t values ('hidden')").unwrap();
        client.execute(&insert, &[]).unwrap();
        client.simple_query("update t set a = 'it's 100%', b = 'a secret of 7'").unwrap_err();
        let shown = rows(&mut console, "show shapes");
        assert!(shown.iter().any(|row| value(row, "shape") == "update t set a = …"), "{shown:?}");
        let locking = shown.iter().find(|row| value(row, "shape").contains("for update")).unwrap();
        assert_eq!(value(locking, "shape"), "select * from t where a = ? for update");
        assert_eq!((value(locking, "count"), value(locking, "reason")), ("10", "locks_rows"));
        assert_eq!((value(locking, "target"), value(locking, "timed")), ("primary", "10"));
        assert!(value(locking, "advice").contains("FOR UPDATE"));
        assert!(shown.iter().any(|row| value(row, "shape") == "insert into t values (?)"), "{shown:?}");
        assert!(!format!("{shown:?}").contains("secret"));
        let stats = rows(&mut console, "show stats");
        let bench = stats.iter().find(|row| value(row, "database") == "bench").unwrap();
        assert!(value(bench, "total_query_count").parse::<u32>().unwrap() >= 12);
        assert!(value(bench, "total_xact_time").parse::<u64>().unwrap() > 0);
        console.simple_query("FORGET SHAPES").unwrap();
        assert!(rows(&mut console, "show shapes").is_empty());

        let explained = rows(&mut console, "explain route select * from t for update");
        assert_eq!((value(&explained[0], "target"), value(&explained[0], "reason")), ("primary", "locks_rows"));
        let explained = rows(&mut console, "explain route select 1");
        assert_eq!(value(&explained[0], "target"), "replica");
    });
}

/// Target and reason that EXPLAIN ROUTE answers for the first database.
fn explained(console: &mut Client, sql: &str) -> (String, String) {
    let rows = rows(console, &format!("explain route {sql}"));
    (value(&rows[0], "target").to_owned(), value(&rows[0], "reason").to_owned())
}

#[test]
fn explain_route_and_show_routes_know_what_the_pool_mode_says() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0).port();
        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[pool]\nmode = 'session'")).with_both_replicas(&cluster);
        assert_eq!(server_port(&mut proxy.client(), "select inet_server_port()"), primary);
        let told = explained(&mut console(&proxy), "select inet_server_port()");
        assert_eq!(told, ("primary".to_owned(), "session_mode".to_owned()));
        let routes = rows(&mut console(&proxy), "show routes");
        assert_eq!(value(&routes[0], "reads_go_to"), value(&routes[0], "writes_go_to"));

        let proxy = Proxy::start(&cluster, &format!("{OPEN}\n[pool]\nmode = 'statement'")).with_both_replicas(&cluster);
        let error = proxy.client().batch_execute("begin").unwrap_err();
        let told = rows(&mut console(&proxy), "explain route begin");
        assert_eq!(value(&told[0], "target"), "refused");
        assert_eq!(value(&told[0], "why"), error.as_db_error().unwrap().message());
        assert_eq!(explained(&mut console(&proxy), "select 1").0, "replica");
    });
}

#[test]
fn explain_route_knows_how_transactions_of_the_role_begin() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("alter role bench set default_transaction_isolation = 'serializable'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, OPEN).with_both_replicas(&cluster);
        assert_eq!(server_port(&mut proxy.client(), "select inet_server_port()"), cluster.node(0).port());
        let told = explained(&mut console(&proxy), "select 1");
        assert_eq!(told, ("primary".to_owned(), "serializable".to_owned()));
    });
}

#[test]
fn what_one_client_may_ask_for_at_once_is_bounded() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut console = RawClient::console(proxy.port());
        let portals: Vec<Vec<u8>> = (0..=1000).map(|number| bind_portal(&number.to_string(), "s")).collect();
        let mut messages: Vec<&[u8]> = vec![];
        let (prepare, begin) = (parse("s", "SHOW VERSION"), query("BEGIN"));
        messages.extend([&*begin, &prepare]);
        messages.extend(portals.iter().map(|portal| &**portal));
        messages.push(SYNC);
        let told = console.ask(&messages, 2);
        assert!(told.iter().any(|words| words.starts_with("54000") && words.contains("too many portals")), "{told:?}");
        // A megabyte of commands is answered as it is read: not all answers are there before the first is sent.
        let many = "SHOW CONFIG;".repeat(20_000);
        console.send(&[&query(&many)]);
        assert!(console.until(b'Z').len() > 1);
        let peak = proxy.peak_megabytes();
        assert!(peak < 200, "{peak} MB");
    });
}

#[test]
fn explain_route_heeds_the_time_of_rules_and_the_limit_of_texts() {
    limited(|| {
        let cluster = cluster();
        // Always but in the first minute of the day, which is no time that stands for all.
        let rules = "[[rule]]\nname = 'by-day'\ntime = '00:01-00:00'\nto = 'primary'";
        let limits = "[limits]\nstatement_bytes = '1kB'";
        let proxy = Proxy::ruled(&cluster, rules, "", &format!("{OPEN}\n{limits}")).with_both_replicas(&cluster);
        let port = server_port(&mut proxy.client(), "select inet_server_port()");
        let told = explained(&mut console(&proxy), "select inet_server_port()");
        assert_eq!(told.0 == "primary", port == cluster.node(0).port(), "{told:?}");
        let long = format!("select '{}'", "x".repeat(2000));
        assert_eq!(explained(&mut console(&proxy), &long), ("primary".to_owned(), "too_large".to_owned()));
    });
}

#[test]
fn explain_route_says_of_how_many_statements_it_speaks_where_a_rule_takes_a_share() {
    limited(|| {
        let cluster = cluster();
        let rules = "[[rule]]\nname = 'some'\nshare = '10%'\nto = 'primary'";
        let proxy = Proxy::ruled(&cluster, rules, "", OPEN).with_both_replicas(&cluster);
        let told = rows(&mut console(&proxy), "explain route select 1");
        assert_eq!((value(&told[0], "target"), value(&told[0], "rule")), ("primary", "some"));
        let share = "(rule some matches, which takes 10 % of such statements)";
        assert!(value(&told[0], "why").ends_with(share), "{told:?}");
    });
}

#[test]
fn shutdown_ends_the_program() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, OPEN);
        let mut client = proxy.client();
        client.batch_execute("create table t (a int); begin; insert into t values (1)").unwrap();
        assert!(psql(&proxy, &["SHUTDOWN WAIT_FOR_SERVERS"]).status.success());
        client.batch_execute("insert into t values (2)").expect("an open transaction goes on");
        // The driver takes the goodbye that follows at once for the answer.
        let _ = client.batch_execute("commit");
        assert_eq!(cluster.node(0).sql("select count(*) from t").unwrap(), "2");
        eventually("it has ended", SOON, || proxy.client_config().connect(NoTls).is_err());
    });
}
