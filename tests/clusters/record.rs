//! What the log says of clients and of commands given at the console, and what signals do not do.

use std::time::Duration;

use postgres::NoTls;

use crate::fixture::{Proxy, cluster, console, eventually, limited, login};
use crate::raw::{RawClient, TERMINATE, query, startup_packet};

const SOON: Duration = Duration::from_secs(10);

/// Waits for a line of the log with all of these words.
pub(crate) fn is_logged(proxy: &Proxy, words: &[&str]) {
    eventually(&format!("{words:?} in the log"), SOON, || {
        proxy.log().lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
}

#[test]
fn who_is_turned_away_is_logged_with_what_it_is_told() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let wrong = login(proxy.port(), "bench", "wrong").connect(NoTls).err().unwrap();
        assert_eq!(wrong.code().unwrap().code(), "28P01");
        is_logged(&proxy, &["turned away", "127.0.0.1", "28P01", "password authentication failed", "bench"]);
        let unknown = login(proxy.port(), "bench", "bench").dbname("nowhere").connect(NoTls).err().unwrap();
        assert_eq!(unknown.code().unwrap().code(), "3D000");
        is_logged(&proxy, &["turned away", "3D000", "nowhere"]);
        let _there = proxy.client();
        assert!(!proxy.log().contains("logged in"), "only where log.connections asks for it");
        assert!(!proxy.log().contains('\u{1b}'), "no colours in a file");
    });
}

#[test]
fn what_a_client_says_begins_no_line_of_the_log() {
    limited(|| {
        const FORGED: &str = "x\n9999 INFO forged";
        let cluster = cluster();
        for format in ["text", "json"] {
            let settings = format!("[auth]\nhba = ['host all all all reject']\n[log]\nformat = '{format}'");
            let proxy = Proxy::start(&cluster, &settings);
            let begin = |parameters: &[(&str, &str)]| {
                RawClient::begin(proxy.port(), &startup_packet(0, parameters));
            };
            begin(&[("user", FORGED), ("database", FORGED)]);
            begin(&[("user", "bench"), ("database", "bench"), ("replication", FORGED)]);
            is_logged(&proxy, &["turned away", "28000", "x\\n9999"]);
            is_logged(&proxy, &["turned away", "22023", "x\\n9999", "bench"]);
            let log = proxy.log();
            assert!(!log.lines().any(|line| line.starts_with("9999")), "{log}");
            for line in log.lines().filter(|line| format == "json" && line.contains("turned away")) {
                let told: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(told["fields"]["message"], "a client was turned away");
                assert!(told["fields"]["told"].as_str().unwrap().contains(FORGED), "{line}");
                assert_eq!(line.matches("\"message\"").count(), 1, "{line}");
            }
        }
    });
}

#[test]
fn nor_does_the_name_of_a_database_that_is_in_no_configuration() {
    limited(|| {
        const NAME: &str = "x\n9999 INFO forged";
        let cluster = cluster();
        cluster.node(0).sql(&format!("create database \"{NAME}\"")).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let proxy = Proxy::start(&cluster, "[[database]]\nname = '*'\ncluster = 'main'");
        let mut client = proxy.client_config().dbname(NAME).connect(NoTls).unwrap();
        client.simple_query("select 1").unwrap();
        is_logged(&proxy, &["catalogs loaded", "x\\n9999"]);
        let log = proxy.log();
        assert!(!log.lines().any(|line| line.starts_with("9999")), "{log}");
    });
}

#[test]
fn who_comes_and_goes_is_logged_where_that_is_wanted() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[log]\nconnections = true");
        let client = proxy.client();
        is_logged(&proxy, &["logged in", "127.0.0.1", "bench"]);
        assert!(!proxy.log().contains("has left"));
        drop(client);
        is_logged(&proxy, &["has left", "127.0.0.1", "bench"]);
    });
}

#[test]
fn of_those_who_are_sent_away_by_a_stop_there_is_a_line_where_that_is_wanted_and_one_of_all_who_come_late() {
    limited(|| {
        for is_wanted in [false, true] {
            let cluster = cluster();
            let proxy = Proxy::start(&cluster, &format!("[log]\nconnections = {is_wanted}"));
            let [mut idle, mut open] = [(); 2].map(|()| RawClient::connect(proxy.port(), &[]));
            open.query("begin");
            proxy.signal("TERM");
            assert_eq!(idle.until_end(), ["57P01 terminating connection due to administrator command"]);
            assert_eq!(proxy.log().contains("a client was sent away"), is_wanted);
            let is_late = || {
                let refused = proxy.client_config().connect(NoTls).err();
                refused.is_some_and(|refused| refused.code().is_some_and(|code| code.code() == "57P03"))
            };
            eventually("nobody is let in", SOON, is_late);
            assert!((0..5).all(|_| is_late()));
            let log = proxy.log();
            let said: Vec<_> = log.lines().filter(|line| line.contains("a client was turned away")).collect();
            assert!(said.len() == 1 && said[0].contains("57P03"), "{said:?}");
            open.send(&[&query("rollback"), TERMINATE]);
        }
    });
}

#[test]
fn a_command_that_changes_something_is_logged_in_its_own_words_with_what_became_of_it() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']");
        console(&proxy).batch_execute("show pools; disable bench; enable bench").unwrap();
        is_logged(&proxy, &["at the console", "DISABLE bench", "user=\"bench\"", "127.0.0.1"]);
        is_logged(&proxy, &["at the console", "ENABLE bench"]);
        is_logged(&proxy, &["INFO", "a command of the console is done", "ENABLE bench", "user=\"bench\"", "127.0.0.1"]);
        console(&proxy).batch_execute("kill bench; resume bench").unwrap();
        is_logged(&proxy, &["a command of the console is done", "KILL bench", "notice=", "clients were sent away"]);
        console(&proxy).batch_execute("resume bench").unwrap_err();
        is_logged(&proxy, &["WARN", "a command of the console is not done", "RESUME bench", "nothing of it is paused"]);
        assert!(!proxy.log().contains("SHOW POOLS"), "looking changes nothing");
    });
}

#[test]
fn the_signal_by_which_pgbouncer_is_paused_ends_nothing_here() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        proxy.signal("USR1");
        is_logged(&proxy, &["WARN", "SIGUSR1", "PAUSE"]);
        client.simple_query("select 1").unwrap();
    });
}
