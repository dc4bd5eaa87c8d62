//! The end of a rule: how a client proves who it is, and the options of that.

use std::sync::Arc;

use super::file::{Word, only};
use super::ldap;
use super::rule::Kind;
use super::{IdentMaps, Ldap, Mistake};

/// How a client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What it sends.
    pub method: Method,
    /// What its certificate must show besides.
    pub certificate: CertificateDemand,
    /// Which name of the certificate counts.
    pub certificate_name: CertificateName,
    /// The map that says which user it may be by the name that its certificate or the operating system gives it; None:
    /// the user of that name.
    pub map: Option<Arc<str>>,
}

/// What a client sends to prove who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The password itself, which an LDAP server checks: over TLS or a socket in the file system.
    Ldap(Arc<Ldap>),
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

/// A name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateName {
    /// The subject's common name.
    Common,
    /// The whole subject, as RFC 2253 writes it.
    Distinguished,
}

impl Admission {
    /// By this method, with nothing said besides.
    pub fn by(method: Method) -> Self {
        let certificate = match method {
            Method::Certificate => CertificateDemand::NamesUser,
            _ => CertificateDemand::None,
        };
        Self { method, certificate, certificate_name: CertificateName::Common, map: None }
    }

    pub(super) fn parse<'w>(
        kind: Kind,
        fields: &mut impl Iterator<Item = &'w Vec<Word>>,
        maps: &IdentMaps,
    ) -> Result<Self, Mistake> {
        let word = fields.next().ok_or_else(|| Mistake::new("the method is missing", METHODS))?;
        let method = only(word, "the method")?.text.as_str();
        let is_ldap = method == "ldap";
        // Until its options are read, whoever would be asked is nobody.
        let mut admission = Self::by(if is_ldap { Method::Reject } else { Method::parse(kind, method)? });
        let mut of_ldap = ldap::Options::default();
        for field in fields {
            // A value may hold commas.
            let option = field.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(",");
            // It may be a part of a password.
            let not_so = || {
                Mistake::new("something behind the method is no option", "name=value, in quotes if it holds a space")
            };
            let (name, value) = option.split_once('=').ok_or_else(not_so)?;
            let is_known = (is_ldap && of_ldap.set(name, value)?) || admission.set(kind, name, value, maps)?;
            if !is_known && of_ldap.has_password() {
                return Err(not_so());
            }
            if !is_known {
                return Err(Mistake::new(format!("the option {name:?} is not supported"), OPTIONS));
            }
        }
        if is_ldap {
            admission.method = Method::Ldap(Arc::new(of_ldap.finish()?));
        }
        Ok(admission)
    }

    /// Takes an option; false: there is none of that name.
    fn set(&mut self, kind: Kind, name: &str, value: &str, maps: &IdentMaps) -> Result<bool, Mistake> {
        match name {
            "clientcert" | "clientname" if kind != Kind::HostTls => {
                return Err(Mistake::new(
                    format!("the option {name} is for lines of hostssl"),
                    "hostssl instead of host",
                ));
            }
            "clientcert" => self.demand(value)?,
            "clientname" => {
                self.certificate_name = match value {
                    "CN" => CertificateName::Common,
                    "DN" => CertificateName::Distinguished,
                    _ => return Err(Mistake::new(format!("clientname is {value:?}"), "CN or DN")),
                };
            }
            "map" if !matches!(self.method, Method::Certificate | Method::Peer) => {
                return Err(Mistake::new("the option map is for the methods peer and cert", "no map"));
            }
            "map" if !maps.has(value) => {
                return Err(Mistake::new(
                    format!("there is no map {value:?}"),
                    "a map of auth.ident_file or auth.ident",
                ));
            }
            "map" => self.map = Some(value.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn demand(&mut self, value: &str) -> Result<(), Mistake> {
        self.certificate = match value {
            "verify-ca" if self.method == Method::Certificate => {
                return Err(Mistake::new(
                    "the method cert always verifies the user's name",
                    "verify-full, or no clientcert",
                ));
            }
            "verify-ca" => CertificateDemand::Signed,
            "verify-full" => CertificateDemand::NamesUser,
            _ => return Err(Mistake::new(format!("clientcert is {value:?}"), "verify-ca or verify-full")),
        };
        Ok(())
    }
}

impl Method {
    fn parse(kind: Kind, text: &str) -> Result<Self, Mistake> {
        match text {
            "trust" => Ok(Self::Trust),
            "reject" => Ok(Self::Reject),
            "scram-sha-256" => Ok(Self::Scram),
            "md5" => Ok(Self::Md5),
            "password" => Ok(Self::Password),
            "cert" if kind == Kind::HostTls => Ok(Self::Certificate),
            "cert" => Err(Mistake::new("the method cert is for lines of hostssl", "hostssl instead of host or local")),
            // As PostgreSQL takes it where there is no network to ask over.
            "peer" | "ident" if kind == Kind::Local => Ok(Self::Peer),
            "peer" => Err(Mistake::new("the method peer is for lines of local", "another method over the network")),
            "gss" | "sspi" | "ident" | "pam" | "bsd" | "radius" => {
                Err(Mistake::new(format!("the method {text} is not supported"), METHODS))
            }
            _ => Err(Mistake::new(format!("there is no method {text:?}"), METHODS)),
        }
    }
}

const METHODS: &str = "trust, reject, scram-sha-256, md5, password, ldap, cert or peer";
const OPTIONS: &str = "clientcert, clientname or map, or those of the method ldap behind that";
