//! Who comes in, and how it is proved: access rules, users of files and of the cluster, proofs that open server
//! connections; with libpq and with drivers.

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use postgres::NoTls;
use trunkline::demo::cluster::Cluster;
use trunkline::demo::installation::Installation;
use trunkline::demo::node::Stop;

use crate::certificates::Authority;
use crate::fixture::{Proxy, cluster, console, eventually, limited, login};
use crate::raw::startup_packet;
use crate::record::is_logged;

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
fn a_user_of_the_cluster_who_mistypes_a_database_is_told_that_and_has_guessed_no_password() {
    limited(|| {
        let (_cluster, proxy) = asking_cluster("pencil", "");
        let refused_at_typo = |user: &str, password: &str| {
            let error = login(proxy.port(), user, password).dbname("typo").connect(NoTls).err().unwrap();
            Some(error.code().unwrap().code().to_owned())
        };
        for _ in 0..12 {
            assert_eq!(refused_at_typo("ada", "pencil"), Some("3D000".to_owned()));
        }
        assert_eq!(proxy.metric("trunkline_login_failures_total", "cause=\"unknown_database\""), 12.0);
        let begun = Instant::now();
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(refused_at_typo("ada", "wrong"), wrong());
        assert_eq!(refused_at_typo("nobody", "wrong"), wrong());
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

/// The old role's server connections wait in the pool of that name.
#[test]
fn who_logs_in_by_a_name_is_the_role_that_has_it_now() {
    limited(|| {
        let (cluster, proxy) = asking_cluster("pencil", "");
        let primary = cluster.node(0);
        primary.sql("create role next login password 'changed'; grant all on t to next").unwrap();
        let role = |password: &str| -> String {
            let mut client = login(proxy.port(), "ada", password).connect(NoTls).unwrap();
            client.batch_execute("insert into t values (1)").unwrap();
            let sql = "select usesysid::text from pg_stat_activity where pid = pg_backend_pid()";
            client.query_one(sql, &[]).unwrap().get(0)
        };
        let [ada, next] = ["ada", "next"].map(|name| primary.sql(&format!("select '{name}'::regrole::oid")).unwrap());
        assert_eq!(role("pencil"), ada);
        let mut admin = proxy.client();
        admin.batch_execute("alter role ada rename to former; alter role next rename to ada").unwrap();
        assert_eq!(role("changed"), next, "the new password counts at once, too");
        assert_eq!(refused(&proxy, "ada", "pencil"), wrong());
    });
}

/// `ada` of a moment ago is on both replicas, whose replay is held, and another role has her name on the primary.
fn renamed_before_lagging_replicas(extra: &str) -> (Cluster, Proxy) {
    let cluster = cluster();
    let primary = cluster.node(0);
    primary.sql("create role ada login password 'a'").unwrap();
    let replicas = &cluster.nodes()[1..];
    replicas.iter().for_each(|replica| replica.catch_up(primary).unwrap());
    let extra = format!("{extra}\n[[user]]\nname = 'ada'\npassword = 'a'");
    let proxy = Proxy::start(&cluster, &extra).with_both_replicas(&cluster);
    login(proxy.port(), "ada", "a").connect(NoTls).unwrap().batch_execute("select 1; select 2").unwrap();
    replicas.iter().for_each(|replica| replica.pause_replay().unwrap());
    proxy.client().batch_execute("alter role ada rename to former; create role ada login password 'a'").unwrap();
    (cluster, proxy)
}

#[test]
fn a_server_connection_that_a_lagging_replica_has_let_in_as_the_former_role_serves_nobody_later() {
    limited(|| {
        let (cluster, proxy) = renamed_before_lagging_replicas("[routing]\nconsistency = 'eventual'");
        let mut ada = login(proxy.port(), "ada", "a").connect(NoTls).unwrap();
        // They name nothing that the catalogs would have to be asked for, and go to replicas meanwhile.
        (0..20).for_each(|_| ada.batch_execute("select 1").unwrap());
        let mut reads = || -> Vec<(String, i32)> {
            let read = |_| ada.query_one("select session_user::text, inet_server_port()", &[]).unwrap();
            (0..20).map(read).map(|row| (row.get(0), row.get(1))).collect()
        };
        let on_replicas = |reads: &[(String, i32)]| {
            let primary = i32::from(cluster.node(0).port());
            reads.iter().filter(|(_, port)| *port != primary).count()
        };
        for replica in &cluster.nodes()[1..] {
            replica.resume_replay().unwrap();
            replica.catch_up(cluster.node(0)).unwrap();
        }
        eventually("she reads on replicas as herself", Duration::from_secs(10), || {
            let reads = reads();
            on_replicas(&reads) > 0 && reads.iter().all(|(role, _)| role == "ada")
        });
        let reads = reads();
        assert!(reads.iter().all(|(role, _)| role == "ada"), "{reads:?}");
    });
}

#[test]
fn what_a_lagging_replica_tells_of_a_role_is_no_change() {
    limited(|| {
        let (_cluster, proxy) = renamed_before_lagging_replicas("[pool]\nsize = 1");
        let mut ada = login(proxy.port(), "ada", "a").connect(NoTls).unwrap();
        let mut backend = || -> i32 {
            ada.batch_execute("begin; select txid_current()").unwrap();
            // The primary has no server connection free: a replica is asked.
            login(proxy.port(), "ada", "a").options("-c work_mem=5MB").connect(NoTls).unwrap();
            let backend = ada.query_one("select pg_backend_pid()", &[]).unwrap().get(0);
            ada.batch_execute("commit").unwrap();
            backend
        };
        assert_eq!(backend(), backend(), "her server connection is kept");
    });
}

#[test]
fn roles_that_are_made_granted_and_revoked_through_trunkline_count_at_once() {
    limited(|| {
        let (_cluster, proxy) = asking_cluster("pencil", "");
        let mut admin = proxy.client();
        assert_eq!(refused(&proxy, "eve", "pencil"), wrong());
        admin.batch_execute("create role eve login password 'pencil'; grant all on t to eve").unwrap();
        assert_eq!(refused(&proxy, "eve", "pencil"), None);

        let rules = "[auth]\nhba = ['host all +admins all scram-sha-256', 'host all bench all scram-sha-256']";
        let (_cluster, proxy) = asking_cluster("pencil", rules);
        let mut admin = proxy.client();
        let outside = Some("28000".to_owned());
        assert_eq!(refused(&proxy, "ada", "pencil"), outside);
        admin.batch_execute("create role admins; grant admins to ada").unwrap();
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        admin.batch_execute("revoke admins from ada").unwrap();
        assert_eq!(refused(&proxy, "ada", "pencil"), outside);
    });
}

#[test]
fn a_lookup_that_answers_nobody_or_is_refused_lets_nobody_in_by_what_was_known() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        let sql = "create role ada login password 'pencil'; create table t (a int); grant all on t to ada;
            create function lookup(name text, out uname name, out phash text) language plpgsql security definer as
            $$ begin select usename, passwd from pg_shadow where usename = name into uname, phash; end $$";
        primary.sql(sql).unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let auth_query = "[cluster.auth_query]\nuser = 'bench'\npassword = 'bench'\ndatabase = 'bench'\nquery = 'select * from lookup($1)'";
        let proxy = Proxy::start(&cluster, auth_query);
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert_eq!(refused(&proxy, "nobody", "wrong"), wrong());
        primary.sql("alter role ada nologin").unwrap();
        eventually("ada stays outside", Duration::from_secs(8), || refused(&proxy, "ada", "pencil") == wrong());
        primary.sql("alter role ada login").unwrap();
        eventually("ada comes in", Duration::from_secs(8), || refused(&proxy, "ada", "pencil").is_none());
        primary.sql("drop function lookup").unwrap();
        eventually("nobody is let in by what was known", Duration::from_secs(8), || {
            refused(&proxy, "ada", "pencil") == Some("57P03".to_owned())
        });
    });
}

#[test]
fn a_role_that_a_node_does_not_let_in_any_more_is_logged_each_time_that_this_begins() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create role ada login password 'a'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let proxy = Proxy::start(&cluster, "[admin]\nusers = ['bench']\n[[user]]\nname = 'ada'\npassword = 'a'");
        let mut ada = login(proxy.port(), "ada", "a").connect(NoTls).unwrap();
        for times in 1..=2 {
            ada.batch_execute("select txid_current()").unwrap();
            primary.sql("alter role ada nologin").unwrap();
            console(&proxy).simple_query("RECONNECT").unwrap();
            for _ in 0..3 {
                let refused = ada.batch_execute("select txid_current()").unwrap_err();
                assert_eq!(refused.code().unwrap().code(), "28000");
            }
            let log = proxy.log();
            assert_eq!(log.matches("the node does not let this role in").count(), times, "{log}");
            primary.sql("alter role ada login").unwrap();
        }
    });
}

#[test]
fn why_a_server_connection_cannot_be_opened_is_logged_once_also_where_no_role_is_refused() {
    limited(|| {
        const SAID: &str = "a server connection could not be opened";
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create role ada login password 'a'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let ada = "[failover]\nhold = '500ms'\n[[user]]\nname = 'ada'\npassword = 'a'";
        let proxy = Proxy::start(&cluster, &format!("[admin]\nusers = ['bench']\n{ada}"));
        let mut ada = login(proxy.port(), "ada", "a").connect(NoTls).unwrap();
        ada.batch_execute("select txid_current()").unwrap();
        primary.sql("alter role ada set local_preload_libraries = 'nowhere'").unwrap();
        console(&proxy).simple_query("RECONNECT").unwrap();
        // It is tried again and again.
        let refused = ada.batch_execute("select txid_current()").unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "57P03");
        is_logged(&proxy, &["WARN", SAID, "database=\"bench\"", "user=\"ada\"", "58P01", "times=1"]);
        assert_eq!(proxy.log().matches(SAID).count(), 1, "{}", proxy.log());
    });
}

#[test]
fn a_pool_that_an_older_session_has_made_with_its_password_is_taught_the_new_one() {
    limited(|| {
        let (cluster, proxy) = asking_cluster("pencil", "[admin]\nusers = ['bench']");
        let proxy = proxy.with_both_replicas(&cluster);
        let mut old = login(proxy.port(), "ada", "pencil").connect(NoTls).unwrap();
        cluster.node(0).sql("alter role ada password 'changed'").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
        // The replicas' pools are made by what the older session once proved.
        let failed = || proxy.metric("trunkline_pool_connection_failures_total", "user=\"ada\"");
        for _ in 0..8 {
            old.query_one("select 1", &[]).unwrap();
        }
        assert!(failed() > 0.0, "the older session's password opens nothing any more");
        let mut new = None;
        eventually("the new password counts", Duration::from_secs(8), || {
            new = login(proxy.port(), "ada", "changed").connect(NoTls).ok();
            new.is_some()
        });
        let mut new = new.unwrap();
        let ports = |client: &mut postgres::Client| -> Vec<i32> {
            (0..20).map(|_| client.query_one("select inet_server_port()", &[]).unwrap().get(0)).collect()
        };
        ports(&mut new);
        let before = failed();
        let primary = i32::from(cluster.node(0).port());
        assert!(!ports(&mut new).contains(&primary), "replicas take its reads");
        assert!(!ports(&mut old).contains(&primary), "and the older one's, too");
        // What was proved last counts behind a reload, too, and for pools that are made then.
        console(&proxy).simple_query("RELOAD").unwrap();
        console(&proxy).simple_query("RECONNECT").unwrap();
        ports(&mut old);
        assert_eq!(failed(), before);
    });
}

#[test]
fn users_of_a_cluster_may_use_the_console_if_they_are_named_for_it() {
    limited(|| {
        let (cluster, proxy) = asking_cluster("pencil", "[admin]\nusers = ['ada', 'nobody']");
        cluster.node(0).sql("create role eve login password 'pencil'").unwrap();
        let visit = |user: &str, password: &str| {
            let visited = login(proxy.port(), user, password).dbname("trunkline").connect(NoTls);
            let shown = visited.and_then(|mut console| console.simple_query("show databases"));
            shown.err().map(|error| error.code().unwrap().code().to_owned())
        };
        assert_eq!(visit("ada", "pencil"), None);
        assert_eq!(visit("ada", "wrong"), wrong());
        for outside in ["nobody", "eve"] {
            assert_eq!(visit(outside, "pencil"), wrong(), "{outside}");
        }
        cluster.node(0).sql("alter role ada password 'changed'").unwrap();
        eventually("the new password counts", Duration::from_secs(8), || visit("ada", "changed").is_none());
    });
}

#[test]
fn the_console_asks_each_cluster_that_may_be_asked() {
    limited(|| {
        let cluster = cluster();
        let other = cluster.node(2);
        other.promote().unwrap();
        other.sql("create role ada login password 'pencil'").unwrap();
        // The first cluster has no auth_query.
        let second = format!(
            "[[cluster]]\nname = 'second'\nnodes = ['{}']\nmonitor = {{ user = 'bench', password = 'bench' }}\n\
             auth_query = {{ user = 'bench', password = 'bench' }}\n[admin]\nusers = ['ada']",
            other.address()
        );
        let nodes = [cluster.node(0).address(), cluster.node(1).address()];
        let proxy = Proxy::before(&cluster, &nodes, &second);
        eventually("the second cluster is known, too", Duration::from_secs(8), || {
            proxy.metric("trunkline_cluster_primary_known", "cluster=\"second\"") == 1.0
        });
        let connect = |password| login(proxy.port(), "ada", password).dbname("trunkline").connect(NoTls);
        connect("pencil").unwrap().simple_query("show databases").unwrap();
        assert_eq!(connect("wrong").err().unwrap().code().unwrap().code(), "28P01");
        assert_eq!(refused(&proxy, "ada", "pencil"), wrong(), "who may use the console is not let in elsewhere for it");
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
fn rules_mean_members_of_roles_and_hosts_by_their_names() {
    limited(|| {
        let cluster = cluster();
        let primary = cluster.node(0);
        primary.sql("create role staff; create role team; grant staff to team; create table t (a int)").unwrap();
        for name in ["ada", "eve"] {
            primary.sql(&format!("create role {name} login password 'pencil'; grant all on t to {name}")).unwrap();
        }
        primary.sql("grant team to ada").unwrap();
        cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(primary).unwrap());
        let folder = cluster.folder().join("rules");
        std::fs::create_dir(&folder).unwrap();
        // The machine's own name for 127.0.0.1 leads back to it.
        let rules =
            "include_if_exists gone\nhost all @people localhost scram-sha-256\nhost all all .example.org trust\n";
        std::fs::write(folder.join("pg_hba.conf"), rules).unwrap();
        std::fs::write(folder.join("people"), "nobody,\n+staff\n").unwrap();
        let auth_query = "[cluster.auth_query]\nuser = \"bench\"\npassword = \"bench\"\n";
        let settings = format!("{auth_query}[auth]\nhba_file = {:?}", folder.join("pg_hba.conf"));
        let proxy = Proxy::start(&cluster, &settings);
        assert_eq!(refused(&proxy, "ada", "pencil"), None);
        assert_eq!(refused(&proxy, "ada", "wrong"), wrong());
        for outside in ["eve", "bench", "nosuchrole"] {
            assert_eq!(refused(&proxy, outside, "pencil"), Some("28000".to_owned()), "{outside}");
        }
        primary.sql("revoke team from ada").unwrap();
        eventually("who is no member any more stays outside", Duration::from_secs(8), || {
            refused(&proxy, "ada", "pencil") == Some("28000".to_owned())
        });
    });
}

/// psql, which runs as PostgreSQL's user of the system, with these settings besides.
fn psql(settings: &str) -> (bool, String) {
    let mut psql = Installation::find().unwrap().command("psql");
    psql.args(["-X", "-A", "-t", "-w", "-c", "select 'served'"]).arg(format!("dbname=bench {settings}"));
    psql.env("HOME", "/nonexistent").env("PGCONNECT_TIMEOUT", "10");
    let output = psql.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const ADA: &str = "[[user]]\nname = \"ada\"\npassword = \"pencil\"\n";

#[test]
fn a_map_says_whom_the_system_lets_in() {
    limited(|| {
        let probe = asking_cluster("pencil", "");
        let folder = probe.0.folder().join("front");
        std::fs::create_dir(&folder).unwrap();
        let own = Command::new("id").arg("-un").output().unwrap().stdout;
        // psql runs as PostgreSQL's user where we are root.
        let settings = format!(
            "listen = [\"{}:6432\"]\n[auth]\nhba = [\"local all all peer map=os\"]\n\
             ident = [\"os postgres ada\", \"os {} ada\"]\n{ADA}",
            folder.display(),
            String::from_utf8_lossy(&own).trim()
        );
        let _proxy = Proxy::start(&probe.0, &settings);
        let by_peer = |user: &str| psql(&format!("host={} port=6432 user={user}", folder.display()));
        assert_eq!(by_peer("ada"), (true, String::new()));
        let (is_served, said) = by_peer("bench");
        assert!(!is_served && said.contains("Peer authentication failed for user \"bench\""), "{said}");
    });
}

#[test]
fn a_map_says_whom_a_certificate_lets_in() {
    limited(|| {
        let probe = asking_cluster("pencil", "");
        let authority = Authority::new(probe.0.folder().join("tls"));
        let (certificate, key) = authority.sign("server");
        let (shown, shown_key) = authority.sign("ada.shop");
        Installation::find().unwrap().own(&shown_key).unwrap();
        let settings = format!(
            "[auth]\nhba = [\"hostssl all all all cert clientname=DN map=mail\"]\n\
             ident = ['mail \"/^CN=(.*)[.]shop$\" \\1']\n{ADA}\
             [tls]\ncertificate = {certificate:?}\nkey = {key:?}\nca = {:?}",
            authority.certificate()
        );
        let proxy = Proxy::start(&probe.0, &settings);
        let by_certificate = |user: &str, more: &str| {
            psql(&format!("host=127.0.0.1 port={} user={user} sslmode=require {more}", proxy.port()))
        };
        let shown = format!("sslcert={} sslkey={}", shown.display(), shown_key.display());
        assert_eq!(by_certificate("ada", &shown), (true, String::new()));
        let (is_served, said) = by_certificate("bench", &shown);
        assert!(!is_served && said.contains("certificate authentication failed for user \"bench\""), "{said}");
        let (is_served, said) = by_certificate("ada", "");
        assert!(!is_served && said.contains("connection requires a valid client certificate"), "{said}");
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

#[test]
fn a_login_that_fails_for_what_others_do_is_counted_by_its_cause() {
    limited(|| {
        let more = "[admin]\nusers = ['bench']\n[[database]]\nname = '*'\ncluster = 'main'\n\
                    [[user]]\nname = 'ghost'\npassword = 'ghost'";
        let (cluster, proxy) = asking_cluster("pencil", more);
        let counted = |cause: &str| proxy.metric("trunkline_login_failures_total", &format!("cause=\"{cause}\""));
        let nowhere = login(proxy.port(), "bench", "bench").dbname("nowhere").connect(NoTls).err().unwrap();
        assert_eq!((nowhere.code().unwrap().code(), counted("unknown_database")), ("3D000", 1.0));
        assert_eq!((refused(&proxy, "ghost", "ghost"), counted("node_refused")), (Some("28000".to_owned()), 1.0));
        let mut console = console(&proxy);
        console.simple_query("DISABLE bench").unwrap();
        assert_eq!((refused(&proxy, "bench", "bench"), counted("disabled")), (Some("57P03".to_owned()), 1.0));
        for node in cluster.nodes() {
            node.stop(Stop::Immediate).unwrap();
        }
        // Nobody has asked for it while somebody could answer.
        assert_eq!((refused(&proxy, "eve", "x"), counted("no_node")), (Some("57P03".to_owned()), 1.0));
    });
}

#[test]
fn a_login_that_waits_for_nodes_longer_than_it_may_is_counted_as_their_failure() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[limits]\nlogin_timeout = '1s'");
        cluster.nodes().iter().for_each(|node| node.freeze().unwrap());
        assert_eq!(refused(&proxy, "bench", "bench"), Some("57014".to_owned()));
        let counted = |cause: &str| proxy.metric("trunkline_login_failures_total", &format!("cause=\"{cause}\""));
        assert_eq!((counted("no_node"), counted("timeout")), (1.0, 0.0));
        // Of one that says nothing more it is its own.
        let mut silent = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        silent.write_all(&startup_packet(0, &[("user", "bench")])).unwrap();
        eventually("its time is over", Duration::from_secs(5), || counted("timeout") == 1.0);
        cluster.nodes().iter().for_each(|node| node.thaw().unwrap());
    });
}

#[test]
fn rules_for_tls_where_it_is_off_are_warned_of() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "[auth]\nhba = ['hostssl all all all trust', 'host all all all md5']");
        is_logged(&proxy, &["WARN", "TLS is off", "hostssl"]);
        assert_eq!(refused(&proxy, "bench", "wrong"), wrong(), "the next rule counts");
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
