//! Access rules in PostgreSQL's own format, as in pg_hba.conf: the first that fits a connection says how its client
//! proves who it is. Pure: what a rule needs to know and nobody has told yet, it asks.
//!
//! [`Rules::admission`] is called with the [`Findings`] so far; on a [`Question`] it is called again with the answer.

mod address;
mod admission;
mod file;
mod ident;
mod ldap;
mod name;
mod network;
mod rule;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use admission::{Admission, CertificateDemand, CertificateName, Method};
pub use file::{Files, Text};
pub use ident::IdentMaps;
pub use ldap::{BindPassword, Ldap, Naming as LdapNaming, Scope as LdapScope, Search as LdapSearch};
pub use network::Network;

use file::Place;
use rule::Rule;

/// Rules in order, with the user name maps that they name.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
    maps: IdentMaps,
}

/// What rules are read with.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where included files come from.
    pub files: &'a dyn Files,
    /// The networks that this machine is in: `samenet`.
    pub own_networks: &'a [Network],
    /// This machine's own addresses: `samehost`.
    pub own_addresses: &'a [IpAddr],
    /// A cluster that cannot be asked who is a member of what.
    pub unasked_cluster: Option<&'a str>,
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

/// What has been found out of a connection beyond its origin; None: nobody has asked yet.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The name of the host it comes from, if there is one that leads back to its address.
    pub host_name: Option<Option<Arc<str>>>,
    /// The roles that its user is a member of, itself included.
    pub roles: Option<Arc<Roles>>,
}

/// Names of roles.
pub type Roles = HashSet<Box<str>>;

/// What must be found out before it is clear whether a rule fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The name of the host.
    HostName,
    /// The roles of the user.
    Roles,
}

/// Whether something fits, or what must be known to tell.
pub type Fit = Result<bool, Question>;

/// What the rules say of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// This is how its client proves who it is.
    Admission(&'a Admission),
    /// No rule is for it, so it does not come in.
    Unlisted,
    /// This must be found out first.
    Asks(Question),
}

/// Something wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HbaProblem {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
    /// What would be right.
    pub instead: String,
}

/// What is wrong with a line, and what would be right.
#[derive(Clone, Debug)]
struct Mistake {
    what: String,
    instead: String,
}

impl Mistake {
    fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { what: what.into(), instead: instead.into() }
    }
}

impl Rules {
    /// Without any rule of its own: everybody, by password.
    pub fn of_passwords() -> Self {
        Self { rules: Rule::of_passwords(), maps: IdentMaps::default() }
    }

    /// Reads them; every problem is told.
    pub fn parse(text: Text<'_>, maps: IdentMaps, surroundings: Surroundings<'_>) -> Result<Self, Vec<HbaProblem>> {
        let (lines, mut problems) = file::read(text, surroundings.files);
        let mut rules = Vec::new();
        for line in lines {
            match Rule::parse(&line, &maps, surroundings) {
                Ok(rule) => rules.extend(rule),
                Err(mistake) => problems.push(line.place.problem(mistake)),
            }
        }
        if problems.is_empty() { Ok(Self { rules, maps }) } else { Err(problems) }
    }

    /// There is none that could fit anybody.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How this connection's client proves who it is.
    pub fn admission(&self, origin: &Origin<'_>, findings: &Findings) -> Verdict<'_> {
        for rule in &self.rules {
            match rule.fits(origin, findings) {
                Ok(true) => return Verdict::Admission(&rule.admission),
                Ok(false) => {}
                Err(question) => return Verdict::Asks(question),
            }
        }
        Verdict::Unlisted
    }

    /// Whether whom a certificate or the operating system calls `known_as` may be this user.
    pub fn may_be(&self, admission: &Admission, known_as: &str, user: &str, findings: &Findings) -> Fit {
        match &admission.map {
            Some(map) => self.maps.fit(map, known_as, user, findings),
            None => Ok(known_as == user),
        }
    }

    /// Some rule asks for certificates: it lets in nobody where they cannot be checked.
    pub fn asks_certificates(&self) -> bool {
        self.rules.iter().any(|rule| rule.admission.certificate > CertificateDemand::None)
    }

    /// Some rule asks an LDAP server over TLS: somebody must vouch for that.
    pub fn asks_ldap_over_tls(&self) -> bool {
        let is_over_tls = |method: &Method| matches!(method, Method::Ldap(ldap) if ldap.is_over_tls());
        self.rules.iter().any(|rule| is_over_tls(&rule.admission.method))
    }

    /// The file and line of each rule that names this database.
    pub fn naming<'a>(&'a self, database: &'a str) -> impl Iterator<Item = (&'a Path, usize)> {
        self.rules
            .iter()
            .filter(move |rule| rule.names(database))
            .filter_map(|rule| rule.place.as_ref())
            .map(Place::parts)
    }

    /// Some rule is for TLS alone: it fits nobody where that is off.
    pub fn asks_tls(&self) -> bool {
        self.rules.iter().any(Rule::asks_tls)
    }
}

/// One of them fits. What is not known counts only where none does without it.
fn any(fits: impl IntoIterator<Item = Fit>) -> Fit {
    let mut asked = Ok(false);
    for fit in fits {
        match fit {
            Ok(true) => return fit,
            Ok(false) => {}
            Err(_) => asked = asked.and(fit),
        }
    }
    asked
}

/// All of them fit. What is not known counts only where nothing is against it.
fn all(fits: impl IntoIterator<Item = Fit>) -> Fit {
    let mut asked = Ok(true);
    for fit in fits {
        match fit {
            Ok(true) => {}
            Ok(false) => return fit,
            Err(_) => asked = asked.and(fit),
        }
    }
    asked
}

#[cfg(test)]
mod tests;
