//! What a client asks for in its startup message: it gets what the server itself would give it, or the same refusal.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline::auth::Secret;
use trunkline::backend::{ConnectError, Endpoint, Target, connect, exchange};
use trunkline::demo::cluster::Cluster;
use trunkline::wire::Severity;

use crate::fixture::{Proxy, cluster, eventually, limited};
use crate::raw::{RawClient, query, startup_packet};

/// How a login came out, in words that can be compared.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// What was reported, and what each query answered.
    LoggedIn(BTreeMap<String, String>, Vec<String>),
    /// The fields of the error, but where in the server's source it was.
    Refused(Vec<String>),
}

/// Logs in with these startup parameters, and asks these queries.
fn outcome(port: u16, role: &str, parameters: &[(&str, &str)], queries: &[&str]) -> Outcome {
    let target = Target {
        endpoint: Endpoint::plain(format!("127.0.0.1:{port}").into()),
        user: role.into(),
        database: "bench".into(),
        password: Some(Secret::new(role.to_owned())),
        salted_password: None,
        parameters: parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        match connect(&target, deadline).await {
            Ok(mut login) => {
                let mut answers = Vec::new();
                for query in queries {
                    answers.push(match exchange::query(&mut login.stream, query, deadline).await {
                        Ok(answer) => format!("{:?}", answer.rows),
                        Err(error) => error.to_string(),
                    });
                }
                let reported = login.parameters.iter().map(|(name, value)| (name.to_string(), value.to_string()));
                Outcome::LoggedIn(reported.collect(), answers)
            }
            Err(ConnectError::Server { severity, fields, .. }) => {
                assert_eq!(severity, Severity::Fatal);
                let fields = fields.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned());
                // Trunkline knows the names of settings in small letters only, and the server tells them as they come.
                let fields = fields.map(|field| field.to_lowercase());
                let is_told = |field: &String| !field.is_empty() && !field.starts_with(['f', 'l', 'r']);
                Outcome::Refused(fields.filter(is_told).collect())
            }
            Err(error) => panic!("{error}"),
        }
    })
}

/// Through Trunkline it comes out as it does directly.
fn same(cluster: &Cluster, proxy: &Proxy, role: &str, parameters: &[(&str, &str)], queries: &[&str]) -> Outcome {
    let [direct, through] = [cluster.node(0).port(), proxy.port()].map(|port| outcome(port, role, parameters, queries));
    assert_eq!(through, direct, "as {role} with {parameters:?}");
    direct
}

#[test]
fn settings_of_the_startup_message_are_in_force_and_are_what_reset_goes_back_to() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[pool]\nsize = 2");
        for (name, value) in [
            ("client_encoding", "LATIN1"),
            ("client_encoding", "'utf-8'"),
            ("client_encoding", "sql_ascii"),
            ("DateStyle", "German"),
            ("datestyle", "SQL, DMY"),
            ("TimeZone", "America/Caracas"),
            ("timezone", "<+0330>-03:30"),
            ("IntervalStyle", "iso_8601"),
            ("search_path", "one, \"Two, three\", pg_catalog"),
            ("search_path", ""),
            ("application_name", "a name with 'quotes' and \\ and ünïcode"),
            ("application_name", "so long that a server cuts it, for sixty-three bytes are what it keeps of a name"),
            ("extra_float_digits", "-3"),
            ("bytea_output", "escape"),
            ("standard_conforming_strings", "off"),
            ("default_transaction_isolation", "serializable"),
            ("default_transaction_read_only", "on"),
            ("statement_timeout", "1min"),
            ("work_mem", "7MB"),
            ("my.own", "value"),
            ("My.Other", "va=lue"),
            ("ROLE", "pg_monitor"),
        ] {
            let show =
                format!("select nullif(current_setting('{name}', true), ''), current_setting('application_name')");
            let queries = [
                &*show,
                "select '2001-02-03 04:05:06+07'::timestamptz, '1 day 2 hours'::interval, 0.1::float8 + 0.2, '\\x00ff'::bytea",
                &format!("set {name} = default"),
                &show,
                &format!("reset {name}"),
                &show,
                "reset all",
                &show,
                "discard all",
                &show,
                "begin; set transaction isolation level read committed; select 1; commit",
                &show,
            ];
            let told = same(&cluster, &proxy, "bench", &[(name, value)], &queries);
            assert!(matches!(told, Outcome::LoggedIn(..)), "{name} {value} {told:?}");
            // And the next client has nothing of it.
            same(&cluster, &proxy, "bench", &[], &[&show, "show timezone"]);
        }
    });
}

#[test]
fn options_are_read_as_the_server_reads_its_command_line() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let show = [
            "select current_setting('work_mem'), current_setting('application_name'), nullif(current_setting('my.own', true), '')",
        ];
        for options in [
            "-c work_mem=7MB",
            "-cwork_mem=7MB",
            "--work_mem=7MB",
            "--work-mem=7MB  -c\tapplication-name=x",
            r"-c application_name=two\ words\\and\=more",
            r"-c my.own=\ ",
            "-c my.own=",
            "-c my.own=a=b",
            "-c work_mem=7MB -c work_mem=8MB",
            "-S 9000",
            "-S9000 -c work_mem=7MB",
            "-e",
            "-fs -f h -fi",
            "-s",
            "-O",
            "-d 2",
            "-tpa -t pl",
            "-O -e",
            "-Oe",
            "--",
            "",
            "   ",
            // Refused.
            "-c",
            "-c work_mem",
            "--work_mem",
            "-c =x",
            "--=x",
            "-x",
            "-fx",
            "-tx",
            "word",
            "-c work_mem=7MB word",
            "-c work_mem=lots",
            "-c no_such=1",
            "-c shared_buffers=1MB",
            "-F",
            "-B 10",
            "-c client_min_messages=loud",
            "-c transaction_isolation=nonsense",
            "-c server_version=1",
        ] {
            let queries = [
                show[0],
                "show datestyle",
                "show enable_seqscan",
                "show enable_hashjoin",
                "show log_statement_stats",
                "show log_parser_stats",
                "show allow_system_table_mods",
                "show client_min_messages",
                "show enable_indexscan",
            ];
            same(&cluster, &proxy, "bench", &[("options", options)], &queries);
        }
        // Settings of a connection's beginning cannot be carried to one that is there already.
        for options in ["-c log_connections=on", "-P"] {
            let refused = outcome(proxy.port(), "bench", &[("options", options)], &[]);
            assert!(matches!(&refused, Outcome::Refused(fields) if fields[2] == "c55p02"), "{refused:?}");
        }
        // What stands beside the options goes before them.
        same(&cluster, &proxy, "bench", &[("work_mem", "5MB"), ("options", "-c work_mem=7MB")], &show);
        same(
            &cluster,
            &proxy,
            "bench",
            &[("options", "-c work_mem=7MB"), ("work_mem", "5MB"), ("work_mem", "6MB")],
            &show,
        );
    });
}

#[test]
fn what_the_server_refuses_is_refused_in_its_words_and_costs_no_server_connection() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("create role plain login password 'plain'").unwrap();
        cluster.node(1).catch_up(cluster.node(0)).unwrap();
        let proxy = Proxy::start(&cluster, "[[user]]\nname = \"plain\"\npassword = \"plain\"\n[pool]\nsize = 1");
        for (name, value) in [
            ("TimeZone", "nowhere"),
            ("client_encoding", "nonsense"),
            ("DateStyle", "yesterday"),
            ("IntervalStyle", "short"),
            ("extra_float_digits", "99"),
            ("search_path", "a,,b"),
            ("no_such_parameter", "1"),
            ("no such parameter", "1"),
            ("client_min_messages", "loud"),
            ("session_replication_role", "replica"),
            ("role", "nobody"),
            ("role", "postgres"),
            ("session_authorization", "postgres"),
            ("max_connections", "7"),
            ("server_version", "7"),
            ("plpgsql.variable_conflict", "guess"),
            ("replication", "perhaps"),
        ] {
            let told = same(&cluster, &proxy, "plain", &[(name, value)], &["select 1"]);
            if name != "plpgsql.variable_conflict" {
                assert!(matches!(told, Outcome::Refused(_)), "{name}={value}: {told:?}");
            }
        }
        let process = || outcome(proxy.port(), "plain", &[], &["begin; select pg_backend_pid(); commit"]);
        let before = process();
        for number in 0..3 {
            outcome(proxy.port(), "plain", &[("TimeZone", &format!("nowhere{number}"))], &[]);
        }
        assert_eq!(process(), before);
    });
}

#[test]
fn defaults_of_roles_and_databases_are_in_force_also_those_that_change() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary
            .sql("alter role bench set timezone = 'Asia/Tokyo'; alter database bench set datestyle = 'SQL, DMY'")
            .unwrap();
        primary.sql("alter role bench in database bench set search_path = 'mine, public'").unwrap();
        primary.sql("alter role bench set work_mem = '7MB'; alter role all set intervalstyle = 'iso_8601'").unwrap();
        for replica in [1, 2] {
            cluster.node(replica).catch_up(primary).unwrap();
        }
        let proxy = Proxy::start(&cluster, "[routing]\ncatalog_refresh = \"1s\"");
        let show = "select current_setting('timezone'), current_setting('datestyle'), current_setting('search_path'), \
                    current_setting('work_mem'), current_setting('intervalstyle'), now() > '2001-02-03'";
        let all = ["reset all", show, "set timezone = 'UTC'", show, "reset timezone", show, "discard all", show];
        same(&cluster, &proxy, "bench", &[], &all);
        same(&cluster, &proxy, "bench", &[("TimeZone", "UTC"), ("options", "-c work_mem=5MB")], &all);
        // Changed through Trunkline, they count for whoever logs in next.
        let through = outcome(
            proxy.port(),
            "bench",
            &[],
            &["alter role bench set timezone = 'Asia/Manila'", "alter database bench reset datestyle"],
        );
        assert!(matches!(through, Outcome::LoggedIn(..)));
        for replica in [1, 2] {
            cluster.node(replica).catch_up(primary).unwrap();
        }
        same(&cluster, &proxy, "bench", &[], &all);
        // Changed past it, they count as soon as its catalogs have been looked at again.
        primary.sql("alter role bench set timezone = 'Asia/Dili'").unwrap();
        eventually("the new default counts", Duration::from_secs(10), || {
            outcome(proxy.port(), "bench", &[], &["show timezone"])
                == outcome(primary.port(), "bench", &[], &["show timezone"])
        });
    });
}

#[test]
fn what_the_server_is_configured_to_is_told_at_login_and_in_force_from_the_next_look_on() {
    const PATIENCE: Duration = Duration::from_secs(10);
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create table t (a int); insert into t values (1)").unwrap();
        for replica in &cluster.nodes()[1..] {
            replica.catch_up(primary).unwrap();
        }
        let extra = "[routing]\ntransactions = 'optimistic'\nfreshness_wait = '1s'\ncatalog_refresh = '1s'";
        let proxy = Proxy::start(&cluster, extra).with_both_replicas(&cluster);
        let read = "select inet_server_port() from t";
        let asked = ["begin", read, "show transaction_isolation", "commit", read];
        let is_as_on_primary =
            || outcome(proxy.port(), "bench", &[], &asked) == outcome(primary.port(), "bench", &[], &asked);
        eventually("reads go to a replica", PATIENCE, || !is_as_on_primary());
        primary.sql("alter system set default_transaction_isolation = 'serializable'").unwrap();
        for (node, zone) in cluster.nodes().iter().zip(["Asia/Dili", "Asia/Tokyo", "Asia/Manila"]) {
            node.sql(&format!("alter system set timezone = '{zone}'")).unwrap();
            node.sql("select pg_reload_conf()").unwrap();
        }
        eventually("it is as on the primary", PATIENCE, is_as_on_primary);
        // That the nodes differ is no change each time.
        let looks = || proxy.metric("trunkline_catalog_looks_total", "outcome=\"unchanged\"");
        let before = looks();
        eventually("it has been looked at again", PATIENCE, || looks() >= before + 2.0);
        assert_eq!(proxy.log().matches("what logins are told of the server has changed").count(), 1);
    });
}

#[test]
fn what_comes_in_one_write_with_the_login_is_answered_behind_it() {
    limited(|| {
        let cluster = cluster();
        cluster.node(0).sql("alter role bench replication").unwrap();
        let trust = "[auth]\nhba = [\"host all all 127.0.0.0/8 trust\"]\n[admin]\nusers = ['bench']";
        let proxy = Proxy::start(&cluster, trust);
        let cases = [
            (("database", "bench"), ("options", ""), "select 7", "row 7"),
            (("database", "bench"), ("replication", "database"), "show port", "row "),
            (("database", "trunkline"), ("options", ""), "show version", "row "),
        ];
        for (database, other, asked, expected) in cases {
            let login = startup_packet(0, &[("user", "bench"), database, other]);
            let (mut client, told) = RawClient::begin(proxy.port(), &[login, query(asked)].concat());
            assert_eq!(told.last().unwrap().0, b'Z', "{database:?}: {told:?}");
            let told = client.until(b'Z');
            assert!(told.iter().any(|told| told.starts_with(expected)), "{database:?}: {told:?}");
            // What comes later comes as ever.
            assert!(client.query(asked).iter().any(|told| told.starts_with(expected)), "{database:?}");
        }
    });
}
