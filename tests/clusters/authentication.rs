//! Who comes in, and how it is proved: access rules, users of files and of the cluster, proofs that open server
//! connections; with libpq and with drivers.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::NoTls;
use trunkline::demo::cluster::Cluster;

use crate::certificates::Authority;
use crate::fixture::{Proxy, cluster, eventually, limited, login};

/// Users are asked of the cluster; `ada` is one of it, with this password.
fn asking_cluster(password: &str, extra: &str) -> (Cluster, Proxy) {
    let cluster = cluster();
    let primary = cluster.node(0);
    primary
        .sql(&format!("create role ada login password '{password}'; create table t (a int); grant all on t to ada"))
        .unwrap();
    cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
    let auth_query = "[cluster.auth_query]\nuser = \"bench\"\npassword = \"bench\"\n";
    let proxy = Proxy::start(&cluster, &format!("{auth_query}{extra}"));
    (cluster, proxy)
}

/// The SQLSTATE of a refused login; None: it came in and could read and write.
fn refused(proxy: &Proxy, user: &str, password: &str) -> Option<String> {
    let config = login(proxy.port(), user, password);
    let served = config.connect(NoTls).and_then(|mut client| {
        client.batch_execute("select count(*) from t")?;
        client.batch_execute("insert into t values (1)")
    });
    served.err().map(|error| error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()))
}

fn wrong() -> Option<String> {
    Some("28P01".to_owned())
}

#[test]
fn a_user_of_the_cluster_comes_in_by_a_proof_that_opens_its_server_connections() {
    limited(|| {
        let (cluster, proxy) = asking_cluster("pencil", "");
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert_eq!(refused(&proxy, "ada", "wrong"), wrong());
        assert_eq!(refused(&proxy, "nobody", "wrong"), wrong());
        assert_eq!(refused(&proxy, "bench", "bench"), None);
        let seen = cluster.node(0).sql("select count(*) > 0 from pg_stat_activity where usename = 'ada'").unwrap();
        assert_eq!(seen, "t", "server connections are ada's own");
    });
}

#[test]
fn a_password_changed_on_the_cluster_counts_within_seconds() {
    limited(|| {
        let (cluster, proxy) = asking_cluster("pencil", "");
        let mut old = login(proxy.port(), "ada", "pencil").connect(NoTls).unwrap();
        assert_eq!(refused(&proxy, "ada", "changed"), wrong());
        cluster.node(0).sql("alter role ada password 'changed'").unwrap();
        let took = eventually("the new password counts", Duration::from_secs(8), || {
            refused(&proxy, "ada", "changed").is_none()
        });
        assert!(took < Duration::from_secs(8));
        assert_eq!(refused(&proxy, "ada", "pencil"), wrong());
        old.batch_execute("select 1; insert into t values (2)").unwrap();
        cluster.node(0).sql("drop owned by ada; drop role ada").unwrap();
        eventually("the dropped user stays outside", Duration::from_secs(8), || {
            refused(&proxy, "ada", "changed") == wrong()
        });
    });
}

#[test]
fn with_only_the_verifier_configured_the_clients_proof_opens_the_node() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql("create role ada login password 'pencil'; create table t (a int); grant all on t to ada")
            .unwrap();
        let verifier = cluster.node(0).sql("select rolpassword from pg_authid where rolname = 'ada'").unwrap();
        assert!(verifier.starts_with("SCRAM-SHA-256$"), "{verifier}");
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let list = cluster.folder().join("userlist.txt");
        std::fs::write(&list, format!("; users\n\"ada\" \"{verifier}\"\n")).unwrap();
        let proxy = Proxy::start(&cluster, &format!("[auth]\nusers_file = {list:?}"));
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert_eq!(refused(&proxy, "ada", "Pencil"), wrong());
        assert!(!proxy.log().contains("pencil"));
    });
}

#[test]
fn md5_hashes_are_proved_where_nothing_else_is_known() {
    limited(|| {
        let cluster = cluster();
        cluster
            .node(0)
            .sql("create role ada login password 'pencil'; create table t (a int); grant all on t to ada")
            .unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        let hash = trunkline::auth::md5_stored("ada", "pencil");
        let user = format!("[[user]]\nname = \"ada\"\npassword = \"{}\"\nserver_password = \"pencil\"", *hash);
        let proxy = Proxy::start(&cluster, &user);
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert_eq!(refused(&proxy, "ada", "wrong"), wrong());
    });
}

#[test]
fn the_first_rule_that_fits_says_who_comes_in() {
    limited(|| {
        let rules = "[auth]\nhba = [\"host all mallory all reject\", \"hostssl all all all md5\", \"host bench bench 127.0.0.0/8 trust\", \
                     \"host all ada samehost scram-sha-256\"]";
        let (_cluster, proxy) = asking_cluster("pencil", rules);
        assert_eq!(refused(&proxy, "bench", "not even looked at"), None);
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert_eq!(refused(&proxy, "ada", "wrong"), wrong());
        for outside in ["mallory", "eve"] {
            assert_eq!(refused(&proxy, outside, "x"), Some("28000".to_owned()), "{outside}");
        }
    });
}

#[test]
fn whoever_tries_passwords_waits_longer_and_longer_and_others_do_not() {
    limited(|| {
        let (_cluster, proxy) = asking_cluster("pencil", "");
        for _ in 0..11 {
            assert_eq!(refused(&proxy, "ada", "guess"), wrong());
        }
        let begun = Instant::now();
        for _ in 0..2 {
            refused(&proxy, "ada", "guess");
        }
        assert!(begun.elapsed() > Duration::from_millis(400), "{:?}", begun.elapsed());
        let begun = Instant::now();
        assert_eq!(refused(&proxy, "bench", "bench"), None);
        assert!(begun.elapsed() < Duration::from_secs(2));
    });
}

/// Python with psycopg, asyncpg and pg8000, as `.ci/install` makes it.
pub(crate) const PYTHON: &str = "/opt/trunkline/drivers/bin/python";

#[test]
fn drivers_log_in_by_every_method_with_good_passwords_and_not_with_bad_ones() {
    limited(|| {
        assert!(Path::new(PYTHON).exists(), "{PYTHON} is missing: run .ci/install");
        let probe = asking_cluster("pencil", "");
        let authority = Authority::new(probe.0.folder().join("tls"));
        let (certificate, key) = authority.sign("server");
        let (client_certificate, client_key) = authority.sign("ada");
        let rules = "[auth]\nhba = [\"hostssl cert all all cert\", \"hostssl all all all scram-sha-256\", \"host all all all md5\"]";
        let database = "[[database]]\nname = \"cert\"\ncluster = \"main\"\nserver_name = \"bench\"";
        let user = "[[user]]\nname = \"ada\"\npassword = \"pencil\"";
        let settings = format!(
            "{rules}\n{database}\n{user}\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nca = {:?}",
            authority.certificate()
        );
        let asked = Proxy::start(&probe.0, &settings);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clusters/logins.py");
        let output = Command::new(PYTHON)
            .arg(script)
            .args([probe.1.port().to_string(), asked.port().to_string()])
            .args([authority.certificate(), client_certificate, client_key])
            .output()
            .unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}\n{wrong}");
    });
}
