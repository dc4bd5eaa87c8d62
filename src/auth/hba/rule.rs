//! One line of rules: whom it is for, and how they prove who they are.

use super::address::Addresses;
use super::admission::{Admission, Method};
use super::file::{Line, Place, only};
use super::name::{DatabaseName, UserName};
use super::{Findings, Fit, IdentMaps, Mistake, Origin, Surroundings, all, any};

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Where it stands; None: nobody has written it.
    pub(super) place: Option<Place>,
    kind: Kind,
    databases: Vec<DatabaseName>,
    users: Vec<UserName>,
    addresses: Addresses,
    pub(super) admission: Admission,
}

/// How its connections come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Host,
    HostTls,
    HostPlain,
}

impl Rule {
    /// Everybody by password.
    pub(super) fn of_passwords() -> Vec<Self> {
        let rule = |kind| Self {
            place: None,
            kind,
            databases: vec![DatabaseName::All, DatabaseName::Replication],
            users: vec![UserName::All],
            addresses: Addresses::All,
            admission: Admission::by(Method::Md5),
        };
        vec![rule(Kind::Local), rule(Kind::Host)]
    }

    /// None: it could fit nobody here.
    pub(super) fn parse(
        line: &Line,
        maps: &IdentMaps,
        surroundings: Surroundings<'_>,
    ) -> Result<Option<Self>, Mistake> {
        let mut fields = line.fields.iter();
        let missing = |what: &str| Mistake::new(format!("the {what} is missing"), FORM);
        let kind = only(fields.next().ok_or_else(|| missing("kind"))?, "the kind")?;
        let Some(kind) = Kind::parse(&kind.text)? else { return Ok(None) };
        let databases = fields.next().ok_or_else(|| missing("database"))?;
        let users = fields.next().ok_or_else(|| missing("user"))?;
        let databases =
            databases.iter().map(|word| DatabaseName::parse(word, surroundings)).collect::<Result<_, _>>()?;
        let users = users.iter().map(|word| UserName::parse(word, surroundings)).collect::<Result<_, _>>()?;
        let addresses = match kind {
            Kind::Local => Addresses::All,
            _ => Addresses::parse(&mut fields, surroundings)?,
        };
        let admission = Admission::parse(kind, &mut fields, maps)?;
        Ok(Some(Self { place: Some(line.place.clone()), kind, databases, users, addresses, admission }))
    }

    /// It is for connections with TLS alone.
    pub(super) fn asks_tls(&self) -> bool {
        self.kind == Kind::HostTls
    }

    /// It is for this database by its name.
    pub(super) fn names(&self, database: &str) -> bool {
        self.databases.iter().any(|name| matches!(name, DatabaseName::Exactly(exact) if **exact == *database))
    }

    pub(super) fn fits(&self, origin: &Origin<'_>, findings: &Findings) -> Fit {
        if !self.kind.fits(origin) {
            return Ok(false);
        }
        all([
            any(self.databases.iter().map(|name| name.fit(origin, findings))),
            any(self.users.iter().map(|name| name.fit(origin.user, findings))),
            self.addresses.fit(origin, findings),
        ])
    }
}

impl Kind {
    /// Encryption by GSSAPI is never spoken here: a rule for it fits nobody, and one against it everybody.
    fn parse(text: &str) -> Result<Option<Self>, Mistake> {
        match text {
            "local" => Ok(Some(Self::Local)),
            "host" | "hostnogssenc" => Ok(Some(Self::Host)),
            "hostssl" => Ok(Some(Self::HostTls)),
            "hostnossl" => Ok(Some(Self::HostPlain)),
            "hostgssenc" => Ok(None),
            _ => Err(Mistake::new(format!("a line cannot begin with {text:?}"), "local, host, hostssl or hostnossl")),
        }
    }

    fn fits(self, origin: &Origin<'_>) -> bool {
        match self {
            Self::Local => origin.address.is_none(),
            Self::Host => origin.address.is_some(),
            Self::HostTls => origin.address.is_some() && origin.is_encrypted,
            Self::HostPlain => origin.address.is_some() && !origin.is_encrypted,
        }
    }
}

const FORM: &str = "KIND DATABASE USER ADDRESS METHOD [OPTIONS], without the address on a line of local";
