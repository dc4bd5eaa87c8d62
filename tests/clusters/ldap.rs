//! Passwords that an LDAP server checks: OpenLDAP's own slapd, asked in every way that rules have.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Config, NoTls};
use trunkline::demo::cluster::Cluster;
use trunkline::demo::installation::Installation;
use trunkline::demo::port::Port;

use crate::certificates::Authority;
use crate::fixture::{Proxy, cluster, eventually, limited, program};
use crate::raw::startup_packet;

/// slapd with the entries of [`ENTRIES`], in a folder of its own; killed when dropped.
struct Slapd {
    child: Child,
    port: u16,
    tls_port: u16,
    _ports: [Port; 2],
}

impl Slapd {
    fn start(folder: &Path, authority: &Authority) -> Self {
        assert!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: run .ci/install");
        fs::create_dir_all(folder.join("data")).unwrap();
        let (certificate, key) = authority.sign("directory");
        let settings = SETTINGS
            .replace("{folder}", folder.to_str().unwrap())
            .replace("{certificate}", certificate.to_str().unwrap())
            .replace("{key}", key.to_str().unwrap());
        let (file, entries) = (folder.join("slapd.conf"), folder.join("entries.ldif"));
        fs::write(&file, settings).unwrap();
        fs::write(&entries, ENTRIES).unwrap();
        let added =
            Command::new(PROGRAM).args(["-T", "add", "-f"]).arg(&file).arg("-l").arg(&entries).output().unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let (port, tls_port) = (Port::take().unwrap(), Port::take().unwrap());
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", PROGRAM, "-d", "0", "-f"]).arg(&file);
        command.args(["-h", &format!("ldap://127.0.0.1:{} ldaps://127.0.0.1:{}", port.number(), tls_port.number())]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        let started = Self { child, port: port.number(), tls_port: tls_port.number(), _ports: [port, tls_port] };
        eventually("slapd answers", Duration::from_secs(10), || {
            [started.port, started.tls_port].into_iter().all(|port| TcpStream::connect(("127.0.0.1", port)).is_ok())
        });
        started
    }

    fn signal(&self, name: &str) {
        let process = self.child.id();
        assert!(Command::new("kill").args(["-s", name, &process.to_string()]).status().unwrap().success());
        // Each of its threads, which do not all hear of it at once.
        let has_stopped = || {
            let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
            threads.flatten().all(|thread| fs::read_to_string(thread.path().join("stat")).unwrap().contains(") T "))
        };
        eventually("it stands still", Duration::from_secs(5), || name != "STOP" || has_stopped());
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

const PROGRAM: &str = "/usr/sbin/slapd";

const SETTINGS: &str = r#"
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
allow bind_anon_dn
pidfile {folder}/slapd.pid
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database mdb
suffix "dc=example,dc=net"
rootdn "cn=admin,dc=example,dc=net"
rootpw admin
directory {folder}/data
"#;

/// `twin` is there twice.
const ENTRIES: &str = "\
dn: dc=example,dc=net
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,dc=example,dc=net
objectClass: organizationalUnit
ou: people

dn: ou=twins,dc=example,dc=net
objectClass: organizationalUnit
ou: twins

dn: uid=ada,ou=people,dc=example,dc=net
objectClass: inetOrgPerson
uid: ada
cn: Ada
sn: Lovelace
mail: ada@example.net
userPassword: in the directory

dn: cn=Twin One,ou=twins,dc=example,dc=net
objectClass: inetOrgPerson
uid: twin
cn: Twin One
sn: One
userPassword: in the directory

dn: cn=Twin Two,ou=twins,dc=example,dc=net
objectClass: inetOrgPerson
uid: twin
cn: Twin Two
sn: Two
userPassword: in the directory
";

/// Users whose passwords at the nodes are others than in the directory.
const USERS: [&str; 4] = ["ada", "twin", "*", "ada,ou=people"];

fn cluster_with_users() -> Cluster {
    let cluster = cluster();
    for user in USERS {
        cluster.node(0).sql(&format!("create role \"{user}\" login password 'at the nodes'")).unwrap();
    }
    cluster.nodes()[1..].iter().for_each(|replica| replica.catch_up(cluster.node(0)).unwrap());
    cluster
}

fn with_directory() -> (Cluster, Authority, Slapd) {
    let cluster = cluster_with_users();
    let authority = Authority::new(cluster.folder().join("tls"));
    let slapd = Slapd::start(&cluster.folder().join("slapd"), &authority);
    (cluster, authority, slapd)
}

fn users() -> String {
    USERS.map(|user| format!("[[user]]\nname = \"{user}\"\npassword = \"at the nodes\"\n")).concat()
}

/// psql through TLS: nothing if it was served, else what it says.
fn refused(proxy: &Proxy, database: &str, user: &str, password: &str) -> Option<String> {
    let mut psql = Installation::find().unwrap().command("psql");
    psql.args(["-X", "-A", "-t", "-w", "-h", "127.0.0.1", "-p", &proxy.port().to_string(), "-U", user]);
    psql.args(["-c", "select 'served'", database]).env("HOME", "/nonexistent");
    psql.env("PGPASSWORD", password).env("PGSSLMODE", "require").env("PGCONNECT_TIMEOUT", "20");
    let output = psql.output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn passwords_of_the_directory_let_in_and_no_others() {
    limited(|| {
        let (cluster, authority, slapd) = with_directory();
        let at = format!("ldapserver=127.0.0.1 ldapport={}", slapd.port);
        let search = "ldapbasedn=\"dc=example,dc=net\"";
        let admin = "ldapbinddn=\"cn=admin,dc=example,dc=net\" ldapbindpasswd=admin";
        let ways = [
            ("simple", format!("{at} ldapprefix=\"uid=\" ldapsuffix=\",ou=people,dc=example,dc=net\"")),
            ("above", format!("{at} ldapprefix=\"uid=\" ldapsuffix=\",dc=example,dc=net\"")),
            ("search", format!("{at} {search} {admin}")),
            ("by_cn", format!("{at} {search} ldapsearchattribute=cn")),
            ("filter", format!("{at} {search} ldapsearchfilter=\"(|(uid=$username)(mail=$username@example.net))\"")),
            ("url", format!("ldapurl=\"ldap://127.0.0.1:{}/ou=people,dc=example,dc=net?uid?one\"", slapd.port)),
            ("people", format!("{at} ldapbasedn=\"ou=people,dc=example,dc=net\"")),
            ("starttls", format!("{at} {search} ldaptls=1")),
            ("ldaps", format!("ldapserver=localhost ldapscheme=ldaps ldapport={} {search}", slapd.tls_port)),
            ("second", format!("ldapserver=\"127.0.0.2 127.0.0.1\" ldapport={} {search}", slapd.port)),
            ("admin", format!("{at} {search} {admin}x")),
        ];
        let rules = ways.iter().map(|(name, options)| format!("'hostssl {name} all all ldap {options}'"));
        let databases = ways
            .iter()
            .map(|(name, _)| format!("[[database]]\nname = \"{name}\"\ncluster = \"main\"\nserver_name = \"bench\"\n"));
        let (certificate, key) = authority.sign("server");
        let settings = format!(
            "[auth]\nldap_ca = {:?}\nhba = [{}, \"host all all all ldap {at} ldapprefix=x\"]\n{}{}\
             [tls]\ncertificate = {certificate:?}\nkey = {key:?}",
            authority.certificate(),
            rules.collect::<Vec<_>>().join(", "),
            databases.collect::<String>(),
            users()
        );
        let proxy = Proxy::start(&cluster, &settings);
        for (way, _) in ways.iter().filter(|(way, _)| !["above", "admin"].contains(way)) {
            assert_eq!(refused(&proxy, way, "ada", "in the directory"), None, "{way}");
        }
        let outside = |way: &str, user: &str, password: &str| {
            let said = refused(&proxy, way, user, password).unwrap_or_else(|| panic!("{way} serves {user}"));
            assert!(said.contains(&format!("LDAP authentication failed for user \"{user}\"")), "{said}");
        };
        for way in ["simple", "search", "ldaps"] {
            outside(way, "ada", "at the nodes");
        }
        outside("search", "twin", "in the directory");
        // Names that would mean somebody else if they were taken for more than names.
        outside("people", "*", "in the directory");
        outside("above", "ada,ou=people", "in the directory");
        let said = refused(&proxy, "admin", "ada", "in the directory").unwrap();
        assert!(said.contains("the password cannot be checked: no LDAP server answers as it should"), "{said}");
        assert!(proxy.log().contains("ldapbinddn may not ask: result 49"), "the log says why");
        assert!(!proxy.log().contains("in the directory"), "the log holds no password");
        let mut plain = crate::fixture::login(proxy.port(), "ada", "in the directory");
        let said = plain.dbname("simple").connect(NoTls).err().unwrap();
        assert!(said.as_db_error().unwrap().message().contains("only taken over TLS"), "{said:?}");
        // Whoever guesses waits longer and longer.
        for _ in 0..8 {
            outside("search", "ada", "guess");
        }
        let begun = Instant::now();
        (0..2).for_each(|_| outside("search", "ada", "guess"));
        assert!(begun.elapsed() > Duration::from_millis(400), "{:?}", begun.elapsed());
    });
}

#[test]
fn authorities_of_the_system_count_though_others_cannot_be_read_and_each_reload_reads_them_anew() {
    limited(|| {
        let (cluster, authority, slapd) = with_directory();
        let trusted = cluster.folder().join("trusted");
        fs::create_dir(&trusted).unwrap();
        fs::write(trusted.join("torn.pem"), "-----BEGIN CERTIFICATE-----\nMIIBXDCCAQKg\n").unwrap();
        let (file, program) = (cluster.folder().join("trunkline.sh"), program());
        let (trusts, runs) = (trusted.display(), program.display());
        fs::write(&file, format!("#!/bin/sh\nunset SSL_CERT_FILE\nSSL_CERT_DIR='{trusts}' exec '{runs}' \"$@\"\n"))
            .unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        let (certificate, key) = authority.sign("server");
        let settings = format!(
            "[auth]\nhba = ['hostssl all all all ldap ldapserver=localhost ldapscheme=ldaps ldapport={} ldapbasedn=\"dc=example,dc=net\"']\n\
             {}[tls]\ncertificate = {certificate:?}\nkey = {key:?}",
            slapd.tls_port,
            users()
        );
        let proxy = Proxy::of_program(&file, &cluster, &settings);
        assert!(proxy.log().contains("not all authorities that the system trusts can be read"), "{}", proxy.log());
        let said = refused(&proxy, "bench", "ada", "in the directory").unwrap();
        assert!(said.contains("no LDAP server answers as it should"), "{said}");
        fs::copy(authority.certificate(), trusted.join("ours.pem")).unwrap();
        proxy.signal("HUP");
        eventually("the file is read", Duration::from_secs(5), || proxy.log().contains("has been reloaded"));
        assert_eq!(refused(&proxy, "bench", "ada", "in the directory"), None);
        // In the middle of an update none may be there.
        fs::remove_file(trusted.join("ours.pem")).unwrap();
        proxy.signal("HUP");
        eventually("that is told", Duration::from_secs(5), || {
            proxy.log().contains("those that were read before count on")
        });
        assert!(proxy.log().contains(&format!("SSL_CERT_DIR={trusts}")), "{}", proxy.log());
        assert_eq!(refused(&proxy, "bench", "ada", "in the directory"), None);
    });
}

#[test]
fn an_empty_password_is_nobodys_and_a_directory_that_is_down_is_told() {
    limited(|| {
        let (cluster, _authority, slapd) = with_directory();
        let folder = cluster.folder().join("front");
        fs::create_dir(&folder).unwrap();
        let rule = format!(
            "'local all all ldap ldapserver=127.0.0.1 ldapport={} ldapprefix=uid= \
             ldapsuffix=\",ou=people,dc=example,dc=net\"'",
            slapd.port
        );
        let settings = format!("listen = [\"{}:6432\"]\n[auth]\nhba = [{rule}]\n{}", folder.display(), users());
        let proxy = Proxy::start(&cluster, &settings);
        let login = |password: &str| {
            let mut config = Config::new();
            config.host_path(&folder).port(6432).user("ada").password(password).dbname("bench");
            let served = config.connect(NoTls).and_then(|mut client| client.batch_execute("select 1"));
            served
                .err()
                .map(|error| error.as_db_error().map(|told| (told.code().code().to_owned(), told.message().to_owned())))
        };
        let code = |password: &str| login(password).map(|told| told.unwrap().0);
        assert_eq!(code("in the directory"), None);
        assert_eq!(code(""), Some("28P01".to_owned()), "LDAP itself would say yes");
        let mut stream = UnixStream::connect(folder.join(".s.PGSQL.6432")).unwrap();
        let startup = startup_packet(0, &[("user", "ada"), ("database", "bench")]);
        let password = b"in the directory\0and more\0";
        let size = u32::try_from(4 + password.len()).unwrap().to_be_bytes();
        stream.write_all(&[&startup[..], b"p", &size, password].concat()).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("C08P01") && said.contains("invalid password packet size"), "{said}");
        slapd.signal("STOP");
        let begun = Instant::now();
        assert_eq!(code("in the directory"), Some("57P03".to_owned()));
        assert!((4..9).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        let failed = |cause: &str| proxy.metric("trunkline_login_failures_total", &format!("cause=\"{cause}\""));
        // That the whole login has less time than the question makes it nobody else's failure.
        proxy.rewrite(|configuration| {
            configuration.insert(
                "limits".to_owned(),
                toml::Table::from_iter([("login_timeout".to_owned(), "1s".into())]).into(),
            );
        });
        proxy.signal("HUP");
        eventually("the file is read", Duration::from_secs(5), || proxy.log().contains("has been reloaded"));
        assert_eq!(code("in the directory"), Some("57014".to_owned()));
        assert_eq!((failed("no_directory"), failed("timeout")), (2.0, 0.0));
        slapd.signal("CONT");
        assert_eq!(code("in the directory"), None);
        drop(slapd);
        let (code, message) = login("in the directory").unwrap().unwrap();
        assert_eq!((code.as_str(), message.contains("LDAP")), ("57P03", true), "{message}");
        assert_eq!(failed("no_directory"), 3.0);
    });
}
