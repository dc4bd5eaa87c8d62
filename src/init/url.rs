//! A connection URI as libpq has it: which nodes are asked, as whom, and how. What is wrong is told by its part and never by
//! its text, which may hold a password.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::conninfo::{WrongPart, places_of};
use super::place::Place;
use crate::auth::{Secret, SecretProblem, TlsMode, percent};

/// A URI as it was given; its Debug shows nothing of it.
#[derive(Clone)]
pub struct GivenUrl(String);

/// What it says.
#[derive(Debug)]
pub struct Url {
    /// At least one.
    pub(super) places: Vec<Place>,
    pub(super) user: Arc<str>,
    pub(super) database: Arc<str>,
    /// A plain one.
    pub(super) password: Secret,
    pub(super) tls: TlsWish,
    /// How long connecting to one node may take, and then its answers: `connect_timeout`. Default 5 s.
    pub(super) patience: Duration,
}

/// What it says of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsWish {
    /// None: as libpq, whatever the node has.
    pub(super) mode: Option<TlsMode>,
    /// `sslrootcert`.
    pub(super) authorities: Option<PathBuf>,
    /// `sslcert`.
    pub(super) certificate: Option<PathBuf>,
    /// `sslkey`.
    pub(super) key: Option<PathBuf>,
}

/// What is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// It begins otherwise.
    #[error("expected a URL like postgres://user:password@host:port/database")]
    Scheme,
    /// A `%` without two digits behind it, or bytes that are no text.
    #[error("the {0} is not encoded right: behind a % stand two hexadecimal digits, and % itself is %25")]
    Encoding(&'static str),
    /// A part that has no default.
    #[error("the {0} is missing")]
    Missing(&'static str),
    /// Neither in the URI nor in the environment.
    #[error("the password is missing: give it in the URL or as PGPASSWORD")]
    NoPassword,
    /// PostgreSQL would have cut it off, or it cannot be sent.
    #[error("the {0} is not a name of 1 to 63 bytes without control characters")]
    Name(&'static str),
    /// Also where a password has split the URI in the wrong place.
    #[error("a host is not a name, an address or a folder; in a password @ / : ? are written %40 %2F %3A %3F")]
    Host,
    /// The same.
    #[error("a port is not a number from 1 to 65535; in a password @ / : ? are written %40 %2F %3A %3F")]
    Port,
    /// There are several ports, and not one for each host.
    #[error("there is not one port for each host")]
    Ports,
    /// It cannot be a password.
    #[error("{0}")]
    Password(SecretProblem),
    /// It stands for a password that is not known.
    #[error("the password is a verifier or a hash: give the plain one")]
    Verifier,
    /// Files of passwords have one line.
    #[error("the password holds a line break")]
    LineBreak,
    /// Not one of libpq's.
    #[error("sslmode must be disable, allow, prefer, require, verify-ca or verify-full")]
    SslMode,
    /// Nobody could be verified.
    #[error("this sslmode needs sslrootcert, a file of the authorities to trust")]
    Authorities,
    /// Not a number.
    #[error("connect_timeout must be a whole number of seconds")]
    Timeout,
    /// Without a `=`.
    #[error("a parameter is not written name=value")]
    ParameterForm,
    /// What it asks for could not be done.
    #[error("the parameter {0:?} is not known here")]
    Parameter(String),
}

impl From<String> for GivenUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for GivenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GivenUrl(…)")
    }
}

impl GivenUrl {
    /// Reads it. `password` is that of the environment, for a URI without one; with neither it is a problem, as is whatever
    /// else is missing or wrong, but for the port (5432) and the database (the user's name).
    pub fn read(&self, password: Option<String>) -> Result<Url, UrlProblem> {
        let mut keywords = keywords(&self.0)?;
        let tls = TlsWish::read(&mut keywords)?;
        let patience = patience(keywords.remove("connect_timeout"))?;
        let mut part = |name: &str| keywords.remove(name).filter(|value| !value.is_empty());
        let (hosts, ports) = (part("host").ok_or(UrlProblem::Missing("host"))?, part("port").unwrap_or_default());
        let places = places_of(&hosts, &ports).map_err(|wrong| match wrong {
            WrongPart::Host => UrlProblem::Host,
            WrongPart::Port => UrlProblem::Port,
            WrongPart::Count => UrlProblem::Ports,
        })?;
        let user = name(part("user").ok_or(UrlProblem::Missing("user"))?, "user")?;
        let database = part("dbname").map_or(Ok(Arc::clone(&user)), |text| name(text, "database"))?;
        let password = part("password").or(password.filter(|text| !text.is_empty())).ok_or(UrlProblem::NoPassword)?;
        if let Some(unknown) = keywords.into_keys().find(|name| !IDLE.contains(&&**name)) {
            return Err(UrlProblem::Parameter(unknown));
        }
        Ok(Url { places, user, database, password: secret(password)?, tls, patience })
    }
}

impl TlsWish {
    fn read(keywords: &mut Keywords) -> Result<Self, UrlProblem> {
        let jdbc = keywords.remove("ssl").filter(|value| value == "true").map(|_| TlsMode::Require);
        let mode = keywords.remove("sslmode").map(|word| mode(&word)).transpose()?.or(jdbc);
        // A configuration would look for them beside itself, and not where we are now.
        let mut file = |name: &str| keywords.remove(name).map(|path| std::path::absolute(&path).unwrap_or(path.into()));
        let (authorities, certificate, key) = (file("sslrootcert"), file("sslcert"), file("sslkey"));
        if authorities.is_none() && mode.is_some_and(|mode| mode >= TlsMode::VerifyCa) {
            return Err(UrlProblem::Authorities);
        }
        // As in the configuration: whoever names authorities wants them to count.
        let mode = mode.or_else(|| authorities.as_ref().map(|_| TlsMode::VerifyFull));
        Ok(Self { mode, authorities, certificate, key })
    }
}

type Keywords = BTreeMap<String, String>;

/// The parts of a URI by libpq's names for them; a parameter goes before what stands elsewhere.
pub(super) fn keywords(text: &str) -> Result<Keywords, UrlProblem> {
    let rest = ["postgresql://", "postgres://"].into_iter().find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.ok_or(UrlProblem::Scheme)?;
    let (login, rest) = match rest.split_once('@').filter(|(login, _)| !login.contains('/')) {
        Some((login, rest)) => (login, rest),
        None => ("", rest),
    };
    let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (nodes, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (hosts, ports): (Vec<&str>, Vec<&str>) = nodes.split(',').map(host_and_port).unzip();
    let ports = if ports.iter().all(|port| port.is_empty()) { String::new() } else { ports.join(",") };

    let mut keywords = Keywords::new();
    for (name, what, value) in [
        ("user", "user", user),
        ("password", "password", password),
        ("host", "host", &hosts.join(",")),
        ("port", "port", &ports),
        ("dbname", "database", database),
    ] {
        keywords.insert(name.to_owned(), decoded(value, what)?);
    }
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or(UrlProblem::ParameterForm)?;
        keywords.insert(decoded(name, "name of a parameter")?, decoded(value, "value of a parameter")?);
    }
    keywords.retain(|_, value| !value.is_empty());
    Ok(keywords)
}

/// The colons of an IPv6 address stand in brackets.
fn host_and_port(text: &str) -> (&str, &str) {
    let after = text.rfind(']').unwrap_or_default();
    let colon = text.get(after..).and_then(|rest| rest.find(':'));
    let parts = colon.and_then(|colon| text.split_at_checked(after + colon));
    parts.map_or((text, ""), |(host, port)| (host, port.strip_prefix(':').unwrap_or(port)))
}

fn decoded(text: &str, part: &'static str) -> Result<String, UrlProblem> {
    percent::decoded(text).ok_or(UrlProblem::Encoding(part))
}

fn name(text: String, part: &'static str) -> Result<Arc<str>, UrlProblem> {
    let is_name = (1..=63).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_name { Ok(text.into()) } else { Err(UrlProblem::Name(part)) }
}

fn secret(text: String) -> Result<Secret, UrlProblem> {
    if text.contains(['\n', '\r']) {
        return Err(UrlProblem::LineBreak);
    }
    Secret::check(&text).map_err(UrlProblem::Password)?;
    let secret = Secret::new(text);
    if secret.plain().is_some() { Ok(secret) } else { Err(UrlProblem::Verifier) }
}

fn mode(word: &str) -> Result<TlsMode, UrlProblem> {
    if word == "disable" {
        return Ok(TlsMode::Off);
    }
    // The others have the same names in the configuration.
    let named = TlsMode::NAMES.into_iter().find(|(name, mode)| *name == word && *mode != TlsMode::Off);
    named.map(|(_, mode)| mode).ok_or(UrlProblem::SslMode)
}

/// As libpq, 0 is the default.
fn patience(text: Option<String>) -> Result<Duration, UrlProblem> {
    let seconds = text.map_or(Ok(0), |text| text.parse::<u16>().map_err(|_| UrlProblem::Timeout))?;
    Ok(if seconds == 0 { PATIENCE } else { Duration::from_secs(seconds.into()) })
}

/// As long as connecting may take elsewhere.
const PATIENCE: Duration = Duration::from_secs(5);

/// Parameters that change nothing of what is looked at here.
const IDLE: &[&str] = &[
    "application_name",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Url, UrlProblem> {
        GivenUrl::from(text.to_owned()).read(None)
    }

    fn places(text: &str) -> Vec<String> {
        read(text).unwrap().places.iter().map(Place::to_string).collect()
    }

    #[test]
    fn every_part_is_found_and_decoded() {
        let url = read("postgresql://ad%61:p%40ss%2Fw%25rd@DB1.example:5433/sh%6Fp%20x?connect_timeout=2").unwrap();
        assert_eq!((&*url.user, &*url.database, url.password.plain()), ("ada", "shop x", Some("p@ss/w%rd")));
        assert_eq!((url.places[0].to_string(), url.patience), ("db1.example:5433".to_owned(), Duration::from_secs(2)));
        assert_eq!(url.tls, TlsWish::default());
    }

    #[test]
    fn what_is_not_said_has_libpqs_default() {
        let url = read("postgres://ada:x@db1").unwrap();
        assert_eq!((&*url.database, url.places[0].port, url.patience), ("ada", 5432, PATIENCE));
    }

    #[test]
    fn several_hosts_have_a_port_each() {
        assert_eq!(places("postgres://a:x@db1:1,db2,[::1]:3/d"), ["db1:1", "db2:5432", "[::1]:3"]);
        assert_eq!(places("postgres://a:x@db1,[2001:db8::1]/d"), ["db1:5432", "[2001:db8::1]:5432"]);
        assert_eq!(places("postgres://a:x@/d?host=db1,db2&port=7"), ["db1:7", "db2:7"]);
        assert_eq!(places("postgres://a:x@%2Frun%2Fpostgresql:5433/d"), ["/run/postgresql:5433"]);
    }

    #[test]
    fn a_parameter_goes_before_what_stands_elsewhere() {
        let url = read("postgres://a@db1/d?user=b&password=y&dbname=e&application_name=psql").unwrap();
        assert_eq!((&*url.user, &*url.database, url.password.plain()), ("b", "e", Some("y")));
    }

    #[test]
    fn the_password_of_the_environment_is_for_a_url_without_one() {
        let password = |text: &str| {
            let url = GivenUrl::from(text.to_owned()).read(Some("env".to_owned())).unwrap();
            url.password.plain().unwrap().to_owned()
        };
        assert_eq!(password("postgres://a@db1"), "env");
        assert_eq!(password("postgres://a:@db1"), "env");
        assert_eq!(password("postgres://a:url@db1"), "url");
    }

    #[test]
    fn tls_is_wished_for_in_libpqs_words() {
        let tls = |parameters: &str| read(&format!("postgres://a:x@db1/d?{parameters}")).map(|url| url.tls);
        assert_eq!(tls("sslmode=require").unwrap().mode, Some(TlsMode::Require));
        assert_eq!(tls("ssl=true").unwrap().mode, Some(TlsMode::Require));
        let verified = tls("sslrootcert=ca.crt").unwrap();
        let here = std::env::current_dir().unwrap().join("ca.crt");
        assert_eq!((verified.mode, verified.authorities), (Some(TlsMode::VerifyFull), Some(here)));
        assert_eq!(tls("sslmode=verify-ca"), Err(UrlProblem::Authorities));
        assert_eq!(tls("sslmode=on"), Err(UrlProblem::SslMode));
    }

    #[test]
    fn what_is_wrong_is_told_by_its_part_and_shows_nothing_of_a_password() {
        let problem = |text: &str| read(text).unwrap_err().to_string();
        for (text, words) in [
            ("mysql://a:hush@db1", "expected a URL"),
            ("db1", "expected a URL"),
            ("postgres://a:hu%zzsh@db1", "the password is not encoded"),
            ("postgres://a:hush%@db1", "the password is not encoded"),
            ("postgres://a:hush@db1/%ff", "the database is not encoded"),
            ("postgres://:hush@db1", "the user is missing"),
            ("postgres://a:hush@/d", "the host is missing"),
            ("postgres://a@db1", "the password is missing"),
            ("postgres://a:hu@sh@db1", "a host is not a name"),
            ("postgres://a:hu/sh@db1", "a port is not a number"),
            ("postgres://a:hush@db1:0", "a port is not a number"),
            ("postgres://a:hush@db1:x", "a port is not a number"),
            ("postgres://a:hush@db1,db2/d?port=1,2,3", "not one port for each host"),
            ("postgres://a:hush%0A@db1", "line break"),
            ("postgres://a:md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@db1", "give the plain one"),
            ("postgres://a:hush@db1?connect_timeout=soon", "connect_timeout must be"),
            ("postgres://a:hush@db1?sslcrl=x", "the parameter \"sslcrl\""),
            ("postgres://a:hush@db1?hush", "not written name=value"),
        ] {
            let told = problem(text);
            assert!(told.contains(words) && !told.contains("hush"), "{text}: {told}");
        }
        let long = problem(&format!("postgres://{}:hush@db1", "a".repeat(64)));
        assert!(long.starts_with("the user is not a name"), "{long}");
        assert_eq!(format!("{:?}", GivenUrl::from("hush".to_owned())), "GivenUrl(…)");
    }
}
