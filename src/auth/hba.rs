//! Access rules in PostgreSQL's own format, as in pg_hba.conf: the first that fits a connection says how its client
//! proves who it is.

use std::net::IpAddr;

use regex::Regex;

/// Rules in order.
#[derive(Clone, Debug, Default)]
pub struct Rules(Vec<Rule>);

/// One rule: whom it is for, and how they prove who they are.
#[derive(Clone, Debug)]
struct Rule {
    kind: Kind,
    databases: Vec<Name>,
    users: Vec<Name>,
    addresses: Addresses,
    admission: Admission,
}

/// How a client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What it sends.
    pub method: Method,
    /// What its certificate must show besides.
    pub certificate: CertificateDemand,
}

/// What a client sends to prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Nothing.
    Trust,
    /// It does not come in.
    Reject,
    /// SCRAM-SHA-256.
    Scram,
    /// MD5 where that is what is stored of the password, else SCRAM-SHA-256.
    Md5,
    /// The password itself: over TLS or a socket in the file system.
    Password,
    /// A certificate that names the user.
    Certificate,
    /// The operating system knows it by the user's name.
    Peer,
}

/// What a client's certificate must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateDemand {
    /// Nothing.
    None,
    /// It is there, signed by one of our authorities.
    Signed,
    /// And it names the user.
    NamesUser,
}

/// A connection, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The database it asks for.
    pub database: &'a str,
    /// The user it claims to be.
    pub user: &'a str,
    /// It wants replication, from no database.
    pub is_replication: bool,
    /// Where it comes from; None: a socket in the file system.
    pub address: Option<IpAddr>,
    /// Our own address, that it came to.
    pub own_address: Option<IpAddr>,
    /// It speaks TLS.
    pub is_encrypted: bool,
}

/// Something wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaProblem {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Rules {
    /// Without any rule of its own: everybody, by password.
    pub fn of_passwords() -> Self {
        let admission = Admission { method: Method::Md5, certificate: CertificateDemand::None };
        let rule = |kind| Rule {
            kind,
            databases: vec![Name::All, Name::Replication],
            users: vec![Name::All],
            addresses: Addresses::All,
            admission,
        };
        Self(vec![rule(Kind::Local), rule(Kind::Host)])
    }

    /// Reads them; every problem is told. `own_networks` is what `samenet` means.
    pub fn parse(text: &str, own_networks: &[Network]) -> Result<Self, Vec<HbaProblem>> {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for (line, words) in lines(text) {
            match words.and_then(|words| Rule::parse(&words, own_networks)) {
                Ok(Some(rule)) => rules.push(rule),
                Ok(None) => {}
                Err(what) => problems.push(HbaProblem { line, what }),
            }
        }
        if problems.is_empty() { Ok(Self(rules)) } else { Err(problems) }
    }

    /// How this connection's client proves who it is; None: no rule is for it, so it does not come in.
    pub fn admission(&self, origin: &Origin<'_>) -> Option<Admission> {
        self.0.iter().find(|rule| rule.fits(origin)).map(|rule| rule.admission)
    }

    /// Some rule asks for certificates.
    pub fn asks_certificates(&self) -> bool {
        self.0.iter().any(|rule| rule.admission.certificate > CertificateDemand::None)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Local,
    Host,
    HostTls,
    HostPlain,
}

#[derive(Clone, Debug)]
enum Name {
    All,
    SameUser,
    Replication,
    Exactly(String),
    Matching(Regex),
}

#[derive(Clone, Debug)]
enum Addresses {
    All,
    SameHost,
    Networks(Vec<Network>),
}

impl Rule {
    fn parse(words: &[Vec<Word>], own_networks: &[Network]) -> Result<Option<Self>, String> {
        let mut words = words.iter();
        let Some(kind) = words.next() else { return Ok(None) };
        let kind = match only(kind)? {
            "local" => Kind::Local,
            "host" => Kind::Host,
            "hostssl" => Kind::HostTls,
            "hostnossl" => Kind::HostPlain,
            // Encryption by GSSAPI is never spoken here: such a rule fits nobody, and the other one everybody.
            "hostgssenc" => return Ok(None),
            "hostnogssenc" => Kind::Host,
            "include" | "include_if_exists" | "include_dir" => return Err("includes are not read".to_owned()),
            other => return Err(format!("expected local, host, hostssl or hostnossl, found {other:?}")),
        };
        let databases = names(words.next().ok_or("the database is missing")?, true)?;
        let users = names(words.next().ok_or("the user is missing")?, false)?;
        let mut method = words.next().ok_or("the method is missing")?;
        let mut addresses = Addresses::All;
        if kind != Kind::Local {
            let address = only(method)?;
            method = words.next().ok_or("the method is missing")?;
            addresses = match address {
                "all" => Addresses::All,
                "samehost" => Addresses::SameHost,
                "samenet" => Addresses::Networks(own_networks.to_vec()),
                _ if address.contains('/') => Addresses::Networks(vec![Network::parse(address)?]),
                _ => {
                    let mask = only(method)?;
                    method = words.next().ok_or("the method is missing")?;
                    Addresses::Networks(vec![Network::with_mask(address, mask)?])
                }
            };
        }
        let admission = admission(kind, only(method)?, words.as_slice())?;
        Ok(Some(Self { kind, databases, users, addresses, admission }))
    }

    fn fits(&self, origin: &Origin<'_>) -> bool {
        let fits_kind = match self.kind {
            Kind::Local => origin.address.is_none(),
            Kind::Host => origin.address.is_some(),
            Kind::HostTls => origin.address.is_some() && origin.is_encrypted,
            Kind::HostPlain => origin.address.is_some() && !origin.is_encrypted,
        };
        let fits_address = || match (&self.addresses, origin.address) {
            (_, None) | (Addresses::All, _) => true,
            (Addresses::SameHost, Some(address)) => address.is_loopback() || origin.own_address == Some(address),
            (Addresses::Networks(networks), Some(address)) => networks.iter().any(|network| network.contains(address)),
        };
        fits_kind
            && fits_address()
            && self.databases.iter().any(|name| name.fits_database(origin))
            && self.users.iter().any(|name| name.fits(origin.user))
    }
}

fn admission(kind: Kind, method: &str, options: &[Vec<Word>]) -> Result<Admission, String> {
    let method = match method {
        "trust" => Method::Trust,
        "reject" => Method::Reject,
        "scram-sha-256" => Method::Scram,
        "md5" => Method::Md5,
        "password" => Method::Password,
        "cert" if kind == Kind::HostTls => Method::Certificate,
        "cert" => return Err("the method cert is for hostssl".to_owned()),
        "peer" if kind == Kind::Local => Method::Peer,
        "peer" => return Err("the method peer is for local".to_owned()),
        other => return Err(format!("the method {other:?} is not supported")),
    };
    let mut certificate = CertificateDemand::None;
    if method == Method::Certificate {
        certificate = CertificateDemand::NamesUser;
    }
    for option in options {
        match option.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(",").split_once('=') {
            Some(("clientcert", "verify-ca")) if kind == Kind::HostTls => {
                certificate = certificate.max(CertificateDemand::Signed);
            }
            Some(("clientcert", "verify-full")) if kind == Kind::HostTls => certificate = CertificateDemand::NamesUser,
            Some(("clientcert", "verify-ca" | "verify-full")) => return Err("clientcert is for hostssl".to_owned()),
            Some(("clientcert", _)) => return Err("clientcert is verify-ca or verify-full".to_owned()),
            Some(("clientname", "CN")) => {}
            Some((option, _)) => return Err(format!("the option {option:?} is not supported")),
            None => return Err("an option is name=value".to_owned()),
        }
    }
    Ok(Admission { method, certificate })
}

fn names(words: &[Word], are_databases: bool) -> Result<Vec<Name>, String> {
    words.iter().map(|word| Name::parse(word, are_databases)).collect()
}

impl Name {
    fn parse(word: &Word, is_database: bool) -> Result<Self, String> {
        if word.is_quoted {
            return Ok(Self::Exactly(word.text.clone()));
        }
        match word.text.as_str() {
            "all" => Ok(Self::All),
            "sameuser" if is_database => Ok(Self::SameUser),
            "replication" if is_database => Ok(Self::Replication),
            "samerole" | "samegroup" if is_database => Err(MEMBERSHIP.to_owned()),
            text if text.starts_with('+') && !is_database => Err(MEMBERSHIP.to_owned()),
            text if text.starts_with('@') => Err("files of names are not read".to_owned()),
            text => match text.strip_prefix('/') {
                Some(pattern) => Regex::new(pattern).map(Self::Matching).map_err(|_| format!("{text:?} is no pattern")),
                None => Ok(Self::Exactly(text.to_owned())),
            },
        }
    }

    fn fits(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::SameUser | Self::Replication => false,
            Self::Exactly(wanted) => wanted == name,
            Self::Matching(pattern) => pattern.is_match(name),
        }
    }

    /// As in PostgreSQL: a connection for replication is not one to a database, so `all` does not mean it.
    fn fits_database(&self, origin: &Origin<'_>) -> bool {
        match self {
            Self::Replication => origin.is_replication,
            _ if origin.is_replication => false,
            Self::SameUser => origin.database == origin.user,
            _ => self.fits(origin.database),
        }
    }
}

/// Only the cluster knows who is a member of what.
const MEMBERSHIP: &str = "membership in roles is not looked at: name the users";

impl Network {
    /// `10.0.0.0/8` or `2001:db8::/32`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a network as in \"10.0.0.0/8\", found {text:?}");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|prefix| is_number && *prefix <= width(address));
        Ok(Self { address, prefix: prefix.ok_or_else(wrong)? })
    }

    /// An address and its mask.
    pub fn with_mask(address: &str, mask: &str) -> Result<Self, String> {
        let wrong = || format!("expected an address or network, found {address:?}; names of hosts are not looked up");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let ones = match mask.parse::<IpAddr>() {
            Ok(IpAddr::V4(mask)) if address.is_ipv4() => u128::from(u32::from(mask)) << 96,
            Ok(IpAddr::V6(mask)) if address.is_ipv6() => u128::from(mask),
            _ => return Err(format!("expected the mask of an address, found {mask:?}")),
        };
        let prefix = ones.leading_ones();
        if prefix < 128 && ones << prefix != 0 {
            return Err(format!("the mask {mask:?} has holes"));
        }
        Ok(Self { address, prefix: u8::try_from(prefix).unwrap_or(u8::MAX).min(width(address)) })
    }

    /// Whether an address is in it. One of IPv4 that came over IPv6 is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => u128::from(u32::from(own) ^ u32::from(other)) << 96,
            (IpAddr::V6(own), IpAddr::V6(other)) => u128::from(own) ^ u128::from(other),
            _ => return false,
        };
        differs.leading_zeros() >= u32::from(self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A word of a line. In quotes it means itself, never a keyword.
#[derive(Clone, Debug)]
struct Word {
    text: String,
    is_quoted: bool,
}

type Line = (usize, Result<Vec<Vec<Word>>, String>);

/// The lines that say something, with their numbers: fields of words, which commas keep together.
fn lines(text: &str) -> Vec<Line> {
    let mut found = Vec::new();
    let mut numbered = text.lines().enumerate();
    while let Some((number, line)) = numbered.next() {
        let mut whole = line.to_owned();
        // A backslash at its end joins the next line to it.
        while whole.ends_with('\\') {
            whole.pop();
            whole.push_str(numbered.next().map_or("", |(_, next)| next));
        }
        match fields(&whole) {
            Ok(fields) if fields.is_empty() => {}
            fields => found.push((number + 1, fields)),
        }
    }
    found
}

fn fields(line: &str) -> Result<Vec<Vec<Word>>, String> {
    let mut fields: Vec<Vec<Word>> = Vec::new();
    let mut characters = line.chars().peekable();
    let mut continues = false;
    while let Some(&next) = characters.peek() {
        match next {
            '#' => break,
            ',' => {
                characters.next();
                continues = !fields.is_empty();
            }
            _ if next.is_whitespace() => {
                characters.next();
            }
            _ => {
                let word = word(&mut characters)?;
                match fields.last_mut().filter(|_| continues) {
                    Some(field) => field.push(word),
                    None => fields.push(vec![word]),
                }
                continues = false;
            }
        }
    }
    Ok(fields)
}

fn word(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Word, String> {
    let mut word = Word { text: String::new(), is_quoted: false };
    let mut in_quotes = false;
    while let Some(&next) = characters.peek() {
        if !in_quotes && (next.is_whitespace() || matches!(next, ',' | '#')) {
            break;
        }
        characters.next();
        match next {
            '"' if in_quotes && characters.peek() == Some(&'"') => {
                characters.next();
                word.text.push('"');
            }
            '"' => {
                in_quotes = !in_quotes;
                word.is_quoted = true;
            }
            _ => word.text.push(next),
        }
    }
    if in_quotes { Err("a quote is not closed".to_owned()) } else { Ok(word) }
}

fn only(field: &[Word]) -> Result<&str, String> {
    match field {
        [word] => Ok(&word.text),
        _ => Err("a list where one word is expected".to_owned()),
    }
}

#[cfg(test)]
mod tests {
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
host    /^report_\\d+$   /^bi_           samenet                 \\
        password
";

    fn rules() -> Rules {
        Rules::parse(RULES, &[Network::parse("172.16.0.0/12").unwrap()]).unwrap()
    }

    fn method(database: &str, user: &str, address: &str, is_encrypted: bool) -> Option<Method> {
        let address = address.parse().ok();
        let own_address = "10.9.9.9".parse().ok();
        let origin = Origin { database, user, is_replication: false, address, own_address, is_encrypted };
        rules().admission(&origin).map(|admission| admission.method)
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
        let address = "10.9.9.9".parse().ok();
        let origin = Origin {
            database: "shop",
            user: "ada",
            is_replication: true,
            address,
            own_address: address,
            is_encrypted: true,
        };
        assert_eq!(rules().admission(&origin).map(|admission| admission.method), Some(Method::Trust));
        assert!(rules().admission(&Origin { address: "10.9.9.8".parse().ok(), ..origin }).is_none());
    }

    #[test]
    fn a_certificate_may_be_asked_for_beside_the_password() {
        assert!(rules().asks_certificates());
        assert!(!Rules::of_passwords().asks_certificates());
        let rules = Rules::parse("hostssl all all all md5 clientcert=verify-ca", &[]).unwrap();
        let origin = Origin {
            database: "shop",
            user: "ada",
            is_replication: false,
            address: "10.0.0.1".parse().ok(),
            own_address: None,
            is_encrypted: true,
        };
        let admission = Admission { method: Method::Md5, certificate: CertificateDemand::Signed };
        assert_eq!(rules.admission(&origin), Some(admission));
    }

    #[test]
    fn every_wrong_line_is_told() {
        let text = "local all\nhost all all 10.0.0.0/33 md5\nhost all all db1 md5 x\nhost all +staff all md5\n\
            host all all all ldap ldapserver=x\nhost all all all cert\nlocal all \"all md5\nhost all all 10.0.0.1 255.0.255.0 md5\n\
            host all all all md5 map=x\nlokal all all md5";
        let problems = Rules::parse(text, &[]).unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", near in "[a-z0-9/.:,\"# \\\\\n=+@]{0,80}") {
            let _ = (Rules::parse(&text, &[]), Rules::parse(&near, &[]));
            let _ = Rules::parse(&format!("host all all {near} md5"), &[]);
        }
    }
}
