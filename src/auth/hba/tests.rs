//! Rules as users of PostgreSQL write them.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

const RULES: &str = "
# TYPE  DATABASE        USER            ADDRESS                 METHOD
local   all             postgres                                peer
local   all             all                                     scram-sha-256
host    all             mallory         all                     reject
hostssl \"all\",shop      ada, bob        10.0.0.0/8              cert
hostssl shop            all             ::/0                    scram-sha-256 clientcert=verify-full
hostnossl sameuser      all             192.168.1.0 255.255.255.0 md5
host    replication     all             samehost                trust   # nobody else
host    /^report_\\d+$   \"/^(bi|ci)_\"     samenet                 \\
        password
";

/// Files that stand in a map.
#[derive(Default)]
struct Memory(HashMap<PathBuf, &'static str>);

impl Memory {
    fn of<const N: usize>(files: [(&str, &'static str); N]) -> Self {
        Self(files.into_iter().map(|(path, text)| (path.into(), text)).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<String> {
        self.0.get(path).map(|text| (*text).to_owned()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inside = self.0.keys().filter_map(|path| path.strip_prefix(folder).ok());
        Ok(inside.map(|name| name.to_str().unwrap().to_owned()).collect())
    }
}

fn read_with(files: &Memory, text: &str, ident: &str, cluster: Option<&str>) -> Result<Rules, Vec<HbaProblem>> {
    let networks = [Network::parse("172.16.0.0/12").unwrap()];
    let addresses = ["10.7.7.7".parse().unwrap()];
    let surroundings =
        Surroundings { files, own_networks: &networks, own_addresses: &addresses, unasked_cluster: cluster };
    let maps = IdentMaps::parse(Text { path: Path::new("etc/pg_ident.conf"), text: ident }, surroundings)?;
    Rules::parse(Text { path: Path::new("etc/pg_hba.conf"), text }, maps, surroundings)
}

fn read(text: &str) -> Rules {
    read_with(&Memory::default(), text, "", None).unwrap()
}

fn problems(text: &str) -> Vec<HbaProblem> {
    read_with(&Memory::default(), text, "", Some("main")).unwrap_err()
}

fn origin<'a>(database: &'a str, user: &'a str, address: &str) -> Origin<'a> {
    let address = address.parse().ok();
    let own_address = "10.9.9.9".parse().ok();
    Origin { database, user, is_replication: false, address, own_address, is_encrypted: true }
}

/// With nothing found out.
fn method_of(rules: &Rules, origin: &Origin<'_>) -> Result<Option<Method>, Question> {
    found(rules, origin, &Findings::default())
}

fn found(rules: &Rules, origin: &Origin<'_>, findings: &Findings) -> Result<Option<Method>, Question> {
    match rules.admission(origin, findings) {
        Verdict::Admission(admission) => Ok(Some(admission.method.clone())),
        Verdict::Unlisted => Ok(None),
        Verdict::Asks(question) => Err(question),
    }
}

fn method(database: &str, user: &str, address: &str, is_encrypted: bool) -> Option<Method> {
    method_of(&read(RULES), &Origin { is_encrypted, ..origin(database, user, address) }).unwrap()
}

fn roles(names: &[&str]) -> Option<Arc<Roles>> {
    Some(Arc::new(names.iter().map(|name| (*name).into()).collect()))
}

#[test]
fn the_first_rule_that_fits_counts() {
    assert_eq!(method("shop", "postgres", "unix", false), Some(Method::Peer));
    assert_eq!(method("shop", "ada", "unix", false), Some(Method::Scram));
    assert_eq!(method("shop", "mallory", "10.1.1.1", true), Some(Method::Reject));
    assert_eq!(method("shop", "ada", "10.1.1.1", true), Some(Method::Certificate));
    assert_eq!(method("shop", "ada", "::ffff:10.1.1.1", true), Some(Method::Certificate));
    assert_eq!(method("shop", "ada", "10.1.1.1", false), None);
    assert_eq!(method("shop", "eve", "2001:db8::1", true), Some(Method::Scram));
    assert_eq!(method("eve", "eve", "192.168.1.77", false), Some(Method::Md5));
    assert_eq!(method("shop", "eve", "192.168.1.77", false), None);
    assert_eq!(method("report_7", "bi_ada", "172.20.0.1", false), Some(Method::Password));
    assert_eq!(method("report_x", "bi_ada", "172.20.0.1", false), None);
    // In quotes it is a database of that name.
    assert_eq!(method("all", "bob", "10.1.1.1", true), Some(Method::Certificate));
    assert_eq!(method("other", "bob", "10.1.1.1", true), None);
}

#[test]
fn replication_is_no_database() {
    let here = Origin { is_replication: true, ..origin("shop", "ada", "10.9.9.9") };
    assert_eq!(method_of(&read(RULES), &here), Ok(Some(Method::Trust)));
    let own = Origin { address: "10.7.7.7".parse().ok(), ..here };
    assert_eq!(method_of(&read(RULES), &own), Ok(Some(Method::Trust)), "another address of this machine");
    let elsewhere = Origin { address: "10.9.9.8".parse().ok(), ..here };
    assert_eq!(method_of(&read(RULES), &elsewhere), Ok(None));
}

#[test]
fn a_certificate_may_be_asked_for_beside_the_password() {
    assert!(read(RULES).asks_certificates());
    assert!(!Rules::of_passwords().asks_certificates());
    let rules = read("hostssl all all all md5 clientcert=verify-ca");
    let Verdict::Admission(admission) = rules.admission(&origin("shop", "ada", "10.0.0.1"), &Findings::default())
    else {
        panic!("nobody comes in")
    };
    assert_eq!(*admission, Admission { certificate: CertificateDemand::Signed, ..Admission::by(Method::Md5) });
}

#[test]
fn rules_that_need_tls_are_known() {
    assert!(read(RULES).asks_tls() && read("host all all all md5\nhostssl all all all md5").asks_tls());
    assert!(!read("local all all md5\nhost all all all md5\nhostnossl all all all md5").asks_tls());
    assert!(!Rules::of_passwords().asks_tls());
}

#[test]
fn rules_that_name_a_database_are_known_by_their_lines() {
    let files = Memory::of([("etc/more.conf", "# more\nhost \"pgbouncer\" all all md5")]);
    let text = "host pgbouncer_2,/pgbouncer all all md5\nhost shop,pgbouncer ada all md5\ninclude more.conf\nhost all all all md5";
    let rules = read_with(&files, text, "", None).unwrap();
    let found: Vec<_> = rules.naming("pgbouncer").collect();
    assert_eq!(found, [(Path::new("etc/pg_hba.conf"), 2), (Path::new("etc/more.conf"), 2)]);
    assert_eq!(Rules::of_passwords().naming("pgbouncer").count(), 0);
}

#[test]
fn a_hosts_name_is_asked_for_only_where_it_decides() {
    let rules = read(
        "host shop ada db1.example.com trust\nhost shop all .Example.com md5\nhost shop mallory all reject\n\
         host all all 10.0.0.0/8 password",
    );
    let ada = origin("shop", "ada", "10.0.0.1");
    assert_eq!(method_of(&rules, &ada), Err(Question::HostName));
    let by_name = |origin: &Origin<'_>, name: Option<&str>| {
        let findings = Findings { host_name: Some(name.map(Arc::from)), roles: None };
        found(&rules, origin, &findings).unwrap()
    };
    assert_eq!(by_name(&ada, Some("DB1.example.com")), Some(Method::Trust));
    assert_eq!(by_name(&ada, Some("db2.example.com")), Some(Method::Md5));
    assert_eq!(by_name(&ada, Some("example.com")), Some(Method::Password), "the dot belongs to the end");
    assert_eq!(by_name(&ada, Some("db1.example.com.evil.org")), Some(Method::Password));
    assert_eq!(by_name(&ada, None), Some(Method::Password));
    assert_eq!(method_of(&rules, &origin("other", "ada", "10.0.0.1")), Ok(Some(Method::Password)));
}

#[test]
fn members_of_a_role_are_asked_for_only_where_it_decides() {
    let rules =
        read("host all +staff 10.0.0.0/8 md5\nhost samerole all 10.0.0.0/8 password\nhost all \"+odd\" all trust");
    let ada = origin("shop", "ada", "10.0.0.1");
    assert_eq!(method_of(&rules, &ada), Err(Question::Roles));
    let of = |names: &[&str]| found(&rules, &ada, &Findings { host_name: None, roles: roles(names) }).unwrap();
    assert_eq!(of(&["ada", "staff"]), Some(Method::Md5));
    assert_eq!(of(&["ada", "shop"]), Some(Method::Password));
    assert_eq!(of(&["ada"]), None);
    assert_eq!(method_of(&rules, &origin("shop", "+odd", "192.168.0.1")), Ok(Some(Method::Trust)));
}

#[test]
fn a_certificate_or_the_system_may_know_the_user_by_another_name() {
    let ident = "# MAP SYSTEM USER\nmail /^(.*)@example\\.com$ \\1\nmail \"ada lovelace\" ada\nmail bob@other.org \"all\"\n\
                 ops root all\nops deploy +deployers\nops /^ci- \"/^build_\"\nx /^(a)|b$ u_\\1";
    let text = "hostssl all all all cert map=mail clientname=DN\nlocal all all peer map=ops";
    let rules = read_with(&Memory::default(), text, ident, None).unwrap();
    let may_be = |map: &str, known_as: &str, user: &str| {
        let admission = Admission { map: Some(map.into()), ..Admission::by(Method::Peer) };
        rules.may_be(&admission, known_as, user, &Findings::default())
    };
    assert_eq!(may_be("mail", "eve@example.com", "eve"), Ok(true));
    assert_eq!(may_be("mail", "all@example.com", "eve"), Ok(false), "what was captured is no keyword");
    assert_eq!(may_be("mail", "eve@example.com", "ada"), Ok(false));
    assert_eq!(may_be("mail", "eve@example.com.evil.org", "eve"), Ok(false));
    assert_eq!(may_be("mail", "ada lovelace", "ada"), Ok(true));
    assert_eq!(may_be("mail", "ada", "ada"), Ok(false), "with a map the same name alone is nothing");
    assert_eq!(may_be("mail", "bob@other.org", "bob"), Ok(false));
    assert_eq!(may_be("ops", "root", "anybody"), Ok(true));
    assert_eq!(may_be("ops", "deploy", "ada"), Err(Question::Roles));
    assert_eq!(may_be("ops", "ci-7", "build_7"), Ok(true));
    assert_eq!(may_be("x", "b", "u_"), Ok(false), "a group that took no part captures nothing");
    let plain = Admission::by(Method::Peer);
    assert_eq!(rules.may_be(&plain, "ada", "ada", &Findings::default()), Ok(true));
    let Verdict::Admission(admission) = rules.admission(&origin("shop", "ada", "10.0.0.1"), &Findings::default())
    else {
        panic!("nobody comes in")
    };
    assert_eq!((admission.map.as_deref(), admission.certificate_name), (Some("mail"), CertificateName::Distinguished));
}

#[test]
fn files_are_included_where_they_are_named() {
    let files = Memory::of([
        ("etc/admins", "ada\nbob, \"all\" # in quotes: a user\n@more\n"),
        ("etc/more", "carol"),
        ("etc/first.conf", "host all mallory all reject"),
        ("etc/hba.d/2.conf", "host all @../admins all md5\nhost all eve all md5"),
        ("etc/hba.d/1.conf", "host all eve all password"),
        ("etc/hba.d/.3.conf", "nonsense"),
        ("etc/hba.d/4.old", "nonsense"),
        ("etc/admins_of_hba", "x"),
    ]);
    let files = Memory(files.0.into_iter().chain([("etc/hba.d/../admins".into(), "ada, dora")]).collect());
    let text =
        "include first.conf\ninclude_if_exists \"not there\"\nhost all @admins 10.0.0.0/8 trust\ninclude_dir hba.d";
    let rules = read_with(&files, text, "", None).unwrap();
    let of = |user: &str, address: &str| method_of(&rules, &origin("shop", user, address)).unwrap();
    assert_eq!(of("mallory", "10.0.0.1"), Some(Method::Reject));
    for user in ["ada", "bob", "all", "carol"] {
        assert_eq!(of(user, "10.0.0.1"), Some(Method::Trust), "{user}");
    }
    assert_eq!(of("eve", "10.0.0.1"), Some(Method::Password));
    assert_eq!(of("dora", "192.168.0.1"), Some(Method::Md5));
    assert_eq!(of("carol", "192.168.0.1"), None);
}

#[test]
fn what_is_wrong_in_an_included_file_is_told_with_its_place() {
    let files = Memory::of([("etc/a.conf", "\nlokal all all md5\ninclude pg_hba.conf"), ("etc/loop", "x, @loop")]);
    let text = "include a.conf\ninclude gone.conf\nhost all @loop all md5\nhost all @gone all md5";
    let found = read_with(&files, text, "", None).unwrap_err();
    let places: Vec<_> = found.iter().map(|problem| (problem.file.to_str().unwrap(), problem.line)).collect();
    let here = "etc/pg_hba.conf";
    assert_eq!(places, [("etc/a.conf", 3), (here, 2), (here, 3), (here, 4), ("etc/a.conf", 2)]);
}

#[test]
fn a_comma_binds_only_what_stands_behind_it() {
    let rules = read("host shop,  other ada,bob all md5");
    assert_eq!(method_of(&rules, &origin("other", "bob", "10.0.0.1")), Ok(Some(Method::Md5)));
    // As PostgreSQL: a comma behind a space binds nothing, so `,bob` is the next field.
    assert_eq!(problems("host shop ada ,bob all md5").len(), 1);
}

#[test]
fn every_wrong_line_is_told() {
    let text = "local all\nhost all all 10.0.0.0/33 md5\nhost all all 10.0.0.1 md5\nhost all +staff all md5\n\
        host all all all gss\nhost all all all cert\nlocal all \"all md5\nhost all all 10.0.0.1 255.0.255.0 md5\n\
        host all all all md5 map=x\nlokal all all md5\nhost samerole all all md5\nlocal all all peer map=x\n\
        host all all 10.0.0.300 md5\nhost all all db1/24 md5\nhost all all all md5 clientcert=verify-ca\n\
        hostssl all all all md5 clientname=X\nhostssl all all all cert clientcert=verify-ca\nhost all /( all md5\n\
        host all,all all all,all md5\nhost all all all md5 x\nhost all all all peer\nhost all all db1:5 md5\ninclude a b";
    let found = problems(text);
    assert_eq!(found.iter().map(|problem| problem.line).collect::<Vec<_>>(), {
        // Lines that cannot be split are found first.
        let mut lines: Vec<usize> = (1..=23).filter(|line| ![7, 23].contains(line)).collect();
        lines.splice(0..0, [7, 23]);
        lines
    });
    let said = |line: usize| {
        let problem = found.iter().find(|problem| problem.line == line).unwrap();
        format!("{} ({})", problem.what, problem.instead)
    };
    assert_eq!(said(3), "the address 10.0.0.1 has no mask (10.0.0.1/32)");
    assert_eq!(
        said(4),
        "membership in roles is asked of the cluster, and \"main\" has no [cluster.auth_query] (that section, or the \
         names of the users)"
    );
    assert_eq!(said(12), "there is no map \"x\" (a map of auth.ident_file or auth.ident)");
    for ident in ["m a", "m a b c", "m /( b", "m /a \\1", "m a,b c", "m a +b"] {
        assert_eq!(read_with(&Memory::default(), "", ident, Some("main")).unwrap_err().len(), 1, "{ident}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", near in "[a-z0-9/.:,\"# \\\\\n=+@]{0,80}") {
        let files = Memory::default();
        let _ = (read_with(&files, &text, &near, None), read_with(&files, &near, &text, Some("main")));
        let _ = read_with(&files, &format!("host all all {near} md5"), "", None);
    }
}

#[test]
fn no_part_of_a_password_is_told_whose_quotes_are_forgotten() {
    let told = |options: &str| {
        let found = problems(&format!("hostssl all all all ldap ldapserver=a ldapbasedn=dc {options}"));
        found.into_iter().map(|problem| problem.what + &problem.instead).collect::<String>()
    };
    let passwords = ["Tr0ub dor=3", "Tr0ub dor", " dor=3 ldaptls=1", "Tr0ub @dor", "Tr0ub,@dor ldaptls 1"];
    for options in passwords.map(|password| format!("ldapbindpasswd={password}")) {
        let told = told(&options);
        assert!(told.contains("no option") && told.contains("in quotes"), "{told}");
        assert!(!told.contains("dor") && !told.contains("Tr0ub"), "{told}");
    }
    assert!(told("ldapx=1 ldapbindpasswd=a").contains("the option \"ldapx\" is not supported"));
}
