//! Who a session has become (SET ROLE, SET SESSION AUTHORIZATION), and the settings that depend on it, on every node.

use std::time::Duration;

use postgres::NoTls;

use crate::fixture::{Proxy, cluster, console, eventually, limited, login};
use crate::raw::RawClient;

fn caught_up(cluster: &trunkline::demo::cluster::Cluster) {
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(cluster.node(0)).unwrap();
    }
}

fn has(answer: &[String], expected: &str) {
    assert!(answer.iter().any(|told| told == expected), "{expected}: {answer:?}");
}

#[test]
fn a_setting_for_superusers_stays_when_the_session_becomes_somebody_else() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada; create role eve; grant eve to ada").unwrap();
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut became = RawClient::connect(proxy.port(), &[]);
        let mut plain = RawClient::connect(proxy.port(), &[]);
        became.query("set lo_compat_privileges = on");
        became.query("set session authorization ada");
        became.query("set role eve");
        for round in 0..6 {
            has(&became.query("select session_user || current_user || current_setting('work_mem')"), "row adaeve4MB");
            has(&became.query("show lo_compat_privileges"), "row on");
            has(
                &plain.query("select session_user || current_user || current_setting('work_mem')"),
                "row benchbench4MB",
            );
            has(&plain.query("show lo_compat_privileges"), "row off");
            if round % 2 == 0 {
                has(&became.query("select txid_current() > 0"), "row t"); // on the primary
            }
        }
    });
}

#[test]
fn a_setting_that_only_the_role_of_a_session_may_set_stays_its_own_everywhere() {
    limited(|| {
        let cluster = cluster();
        let roles = "create role dba superuser; create role deploy login password 'deploy'; grant dba to deploy";
        cluster.node(0).sql(roles).unwrap();
        cluster.node(0).sql("create table t (a int); grant all on t to deploy").unwrap();
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1\n[[user]]\nname = 'deploy'\npassword = 'deploy'");
        let mut plain = RawClient::login(proxy.port(), "deploy", &[("application_name", "plain")]);
        let read = "select current_user::text || current_setting('session_replication_role')";
        let (role, setting) = ("set role dba", "set session_replication_role = replica");
        for together in [false, true] {
            let mut became = RawClient::login(proxy.port(), "deploy", &[]);
            if together {
                has(&became.query(&format!("{role}; {setting}")), "SET");
            } else {
                [role, setting].iter().for_each(|sql| has(&became.query(sql), "SET"));
            }
            for round in 0..6 {
                has(&became.query(read), "row dbareplica");
                has(&plain.query(read), "row deployorigin");
                has(&plain.query("show application_name"), "row plain");
                if round % 2 == 0 {
                    has(&became.query("insert into t values (1)"), "INSERT 0 1");
                    has(&plain.query("insert into t values (1)"), "INSERT 0 1");
                }
            }
            has(&became.query("reset session_replication_role"), "RESET");
            has(&became.query("reset role"), "RESET");
            for _ in 0..3 {
                has(&became.query(read), "row deployorigin");
                has(&plain.query("insert into t values (1)"), "INSERT 0 1");
                has(&became.query("insert into t values (1)"), "INSERT 0 1");
            }
        }
        assert_eq!(proxy.metric("trunkline_pins_total", ""), 0.0);
    });
}

#[test]
fn a_setting_that_a_session_may_set_and_not_read_keeps_its_server_connection() {
    limited(|| {
        let cluster = cluster();
        let role = "create role deploy login password 'deploy'; grant set on parameter dynamic_library_path to deploy";
        cluster.node(0).sql(role).unwrap();
        caught_up(&cluster);
        let extra = "[routing]\nreads = 'primary'\n[[user]]\nname = 'deploy'\npassword = 'deploy'";
        let proxy = Proxy::start(&cluster, extra);
        let mut client = RawClient::login(proxy.port(), "deploy", &[]);
        has(&client.query("set dynamic_library_path = '$libdir'; set work_mem = '3MB'"), "SET");
        for _ in 0..3 {
            has(&client.query("select current_setting('work_mem')"), "row 3MB");
            has(&client.query("select txid_current() > 0"), "row t");
        }
        assert!(client.query("show dynamic_library_path")[0].starts_with("42501"));
        assert_eq!(proxy.metric("trunkline_pins_total", "pin=\"unknown_setting\""), 1.0);
        has(&client.query("discard all"), "DISCARD ALL");
        has(&client.query("select current_setting('work_mem')"), "row 4MB");
    });
}

#[test]
fn becoming_another_user_ends_the_role() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada; create role eve").unwrap();
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let mut plain = RawClient::connect(proxy.port(), &[]);
        for (command, who) in [
            ("set role eve", "bench/eve"),
            ("set session authorization ada", "ada/ada"),
            ("reset session authorization", "bench/bench"),
            ("set role eve", "bench/eve"),
            ("set session authorization default", "bench/bench"),
            ("set session authorization eve", "eve/eve"),
            ("discard all", "bench/bench"),
        ] {
            client.query(command);
            for _ in 0..3 {
                has(&client.query("select session_user || '/' || current_user"), &format!("row {who}"));
                has(&plain.query("select session_user || '/' || current_user"), "row bench/bench");
            }
        }
    });
}

#[test]
fn who_may_not_connect_any_more_is_told_so_in_the_servers_words() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada login password 'a'").unwrap();
        cluster.node(0).sql("create database shop").unwrap();
        caught_up(&cluster);
        let extra = "[admin]\nusers = ['bench']\n[[user]]\nname = 'ada'\npassword = 'a'\n\
                     [[database]]\nname = 'shop'\ncluster = 'main'";
        let proxy = Proxy::start(&cluster, extra);
        let ada = || login(proxy.port(), "ada", "a").dbname("shop").connect(NoTls);
        let mut before = ada().unwrap();
        before.batch_execute("select 1").unwrap();
        let mut owner = proxy.client_config().dbname("shop").connect(NoTls).unwrap();
        owner.batch_execute("revoke connect on database shop from public").unwrap();
        caught_up(&cluster);
        console(&proxy).simple_query("RECONNECT shop").unwrap();
        let told = |error: postgres::Error| {
            let error = error.as_db_error().unwrap();
            (error.code().code().to_owned(), error.message().to_owned())
        };
        let expected = ("42501".to_owned(), "permission denied for database \"shop\"".to_owned());
        // What she was told at a login before says nothing of this one.
        let refused = ada().err().expect("she may not connect");
        assert_eq!(refused.as_db_error().unwrap().detail(), Some("User does not have CONNECT privilege."));
        assert_eq!(told(refused), expected);
        assert_eq!(told(before.batch_execute("select 1").unwrap_err()), expected);
        owner.batch_execute("grant connect on database shop to public").unwrap();
        before.batch_execute("select 1").unwrap();
        ada().unwrap();
    });
}

/// The server connection on which a session became that role still is it, until it serves another.
#[test]
fn who_logs_in_does_not_meet_a_role_that_is_gone() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role ada").unwrap();
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut became = RawClient::connect(proxy.port(), &[]);
        became.query("set session authorization ada");
        // On the primary and on each replica.
        (0..6).for_each(|_| has(&became.query("select session_user"), "row ada"));
        has(&became.query("select session_user || (txid_current() > 0)"), "row adatrue");
        cluster.node(0).sql("drop role ada").unwrap();
        caught_up(&cluster);
        // What it begins with was told to nobody yet.
        let mut other = RawClient::connect(proxy.port(), &[("datestyle", "German")]);
        has(&other.query("select session_user"), "row bench");
    });
}

#[test]
fn a_placeholder_of_a_library_is_removed_with_its_warning_and_reaches_nobody_else() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create table t (a int)").unwrap();
        caught_up(&cluster);
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 1");
        let mut client = RawClient::connect(proxy.port(), &[]);
        let mut other = RawClient::connect(proxy.port(), &[]);
        // On the primary the library is loaded already, on the replicas it is not.
        other.query("do $$begin end$$");
        client.query("set plpgsql.no_such_setting = true");
        has(&client.query("show plpgsql.no_such_setting"), "row true");
        let told = client.query("insert into t values (1)");
        assert!(told.iter().any(|told| told.contains("plpgsql.no_such_setting")), "{told:?}");
        has(&told, "INSERT 0 1");
        let gone = client.query("show plpgsql.no_such_setting");
        assert!(gone[0].starts_with("42704"), "{gone:?}");
        for _ in 0..6 {
            let told = other.query("begin read only; do $$begin end$$; commit");
            assert!(!told.iter().any(|told| told.contains("no_such_setting")), "{told:?}");
        }
    });
}

#[test]
fn a_role_that_the_replicas_lack_yet_reads_at_the_primary() {
    limited(|| {
        let cluster = cluster();
        let settings = "[pool]\nsize = 1\n[routing]\nconsistency = 'eventual'\nmax_lag = '60s'";
        let rules = "[[rule]]\nname = 'strict'\napplication_name = 'strict'\nkind = 'select'\nto = 'replicas'\nfallback = 'refuse'";
        let proxy = Proxy::ruled(&cluster, rules, "", settings).with_both_replicas(&cluster);
        let replicas = &cluster.nodes()[1..];
        replicas.iter().for_each(|replica| replica.pause_replay().unwrap());
        cluster.node(0).sql("create role fresh").unwrap();
        let mut client = RawClient::connect(proxy.port(), &[]);
        let mut plain = RawClient::connect(proxy.port(), &[]);
        has(&client.query("set role fresh"), "SET");
        let at_primary = format!("row fresh{}", cluster.node(0).port());
        let read = "select current_user::text || inet_server_port()::text";
        for _ in 0..5 {
            has(&client.query(read), &at_primary);
            has(&plain.query("select current_user"), "row bench");
        }
        has(&client.query("begin read only"), "BEGIN");
        has(&client.query(read), &at_primary);
        has(&client.query("commit"), "COMMIT");
        let refusals = || proxy.metric("trunkline_retries_total", "replica_error");
        assert!(refusals() >= 1.0);
        // For a second, a replica that has refused it is not asked again.
        let before = refusals();
        (0..50).for_each(|_| has(&client.query(read), &at_primary));
        assert!(refusals() - before < 25.0, "{before} {}", refusals());
        // The primary has it, and is not for this one.
        let mut strict = RawClient::connect(proxy.port(), &[("application_name", "strict")]);
        has(&strict.query("set role fresh"), "SET");
        for _ in 0..3 {
            let told = strict.query(read);
            assert!(told[0].starts_with("57P03"), "{told:?}");
        }
        let told = client.query("set role nobody_there");
        assert!(told.iter().any(|words| words.starts_with("22023")), "{told:?}");
        replicas.iter().for_each(|replica| replica.resume_replay().unwrap());
        eventually("the replicas have the role", Duration::from_secs(10), || client.query(read)[1] != at_primary);
        assert!(client.query(read)[1].starts_with("row fresh"));
    });
}
