//! How passwords are checked by an LDAP server, as a rule's options say it: what is asked, of whom, about whom.

use std::fmt;

use zeroize::Zeroizing;

use super::Mistake;
use crate::auth::percent;

/// Where and how an LDAP server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ldap {
    /// The servers, the first that can be reached is asked: `ldap://host:port`, or `ldaps://` for TLS at once.
    pub servers: Vec<String>,
    /// TLS is begun on the plain connection (`StartTLS`).
    pub starts_tls: bool,
    /// How the user's entry is named.
    pub naming: Naming,
}

impl Ldap {
    /// It is asked over TLS.
    pub fn is_over_tls(&self) -> bool {
        self.starts_tls || self.servers.iter().any(|server| server.starts_with("ldaps://"))
    }
}

/// How the entry of a user is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    /// By the user's name between these two.
    Around(String, String),
    /// It is looked for.
    Found(Search),
}

/// How an entry is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Search {
    /// Where it begins.
    pub base: String,
    /// How far below that.
    pub scope: Scope,
    /// As whom; empty: nobody.
    pub bind_dn: String,
    /// That one's password.
    pub bind_password: BindPassword,
    filter: String,
}

/// How far a search goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The entry itself.
    Base,
    /// Those right below it.
    One,
    /// It, and everything below it.
    Subtree,
}

/// A password that no message shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct BindPassword(Zeroizing<String>);

impl BindPassword {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for BindPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BindPassword(…)")
    }
}

impl Naming {
    /// The name of the user's entry between the two. Where it becomes a value of a distinguished name, it cannot add to
    /// that name: `ada,ou=admins` is nobody else.
    pub fn around(prefix: &str, suffix: &str, user: &str) -> String {
        let is_value = prefix.ends_with('=');
        let user = if is_value { ldap3::dn_escape(user) } else { user.into() };
        format!("{prefix}{user}{suffix}")
    }
}

impl Search {
    /// What the user's entry has. The name is only ever a value in it: `*` finds whoever is called so, and not everybody.
    pub fn filter(&self, user: &str) -> String {
        self.filter.replace(PLACEHOLDER, &ldap3::ldap_escape(user))
    }
}

/// What stands for the user's name in a filter.
const PLACEHOLDER: &str = "$username";

/// The options of a rule, one by one.
#[derive(Default)]
pub(super) struct Options {
    server: Option<String>,
    port: Option<u16>,
    scheme: Option<String>,
    starts_tls: bool,
    prefix: Option<String>,
    suffix: Option<String>,
    base: Option<String>,
    bind_dn: Option<String>,
    bind_password: Option<BindPassword>,
    attribute: Option<String>,
    filter: Option<String>,
    scope: Option<Scope>,
    is_by_url: bool,
}

impl Options {
    /// Takes an option; false: it is none of LDAP's.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool, Mistake> {
        let text = || Some(value.to_owned());
        match name {
            "ldapserver" => self.server = text(),
            "ldapport" => self.port = Some(port(value)?),
            "ldapscheme" => self.scheme = Some(scheme(value)?),
            "ldaptls" => {
                self.starts_tls = match value {
                    "0" => false,
                    "1" => true,
                    _ => return Err(Mistake::new(format!("ldaptls is {value:?}"), "0 or 1")),
                }
            }
            "ldapprefix" => self.prefix = text(),
            "ldapsuffix" => self.suffix = text(),
            "ldapbasedn" => self.base = text(),
            "ldapbinddn" => self.bind_dn = text(),
            "ldapbindpasswd" => self.bind_password = Some(BindPassword(value.to_owned().into())),
            "ldapsearchattribute" => self.attribute = text(),
            "ldapsearchfilter" => self.filter = text(),
            "ldapurl" => self.set_url(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A password is given: what stands behind it may be more of it, where its quotes are forgotten.
    pub(super) fn has_password(&self) -> bool {
        self.bind_password.is_some()
    }

    /// `ldap://host:port/base?attribute?scope?filter`, each part but the host may be left out (RFC 4516).
    fn set_url(&mut self, url: &str) -> Result<(), Mistake> {
        let wrong = |what: String| Mistake::new(what, "ldap://host:port/base?attribute?scope?filter");
        let (scheme_text, rest) = url.split_once("://").ok_or_else(|| wrong("ldapurl is no URL".to_owned()))?;
        self.scheme = Some(scheme(scheme_text)?);
        let (host, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port_text) = match host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, Some(port)),
            None => (host, None),
        };
        self.port = port_text.map(port).transpose()?;
        self.server = Some(host.to_owned()).filter(|host| !host.is_empty());
        let mut parts = rest.split('?');
        let mut part = || {
            let decoded = percent::decoded(parts.next().unwrap_or_default());
            decoded.ok_or_else(|| wrong("ldapurl has a part that is not percent-encoded UTF-8".to_owned()))
        };
        let (base, attribute, scope_text, filter) = (part()?, part()?, part()?, part()?);
        if parts.next().is_some_and(|extensions| !extensions.is_empty()) {
            return Err(wrong("ldapurl has extensions, which are not supported".to_owned()));
        }
        self.scope = Some(match scope_text.as_str() {
            "" | "base" => Scope::Base,
            "one" => Scope::One,
            "sub" => Scope::Subtree,
            _ => return Err(wrong(format!("the scope of ldapurl is {scope_text:?}, not base, one or sub"))),
        });
        self.base = Some(base);
        self.attribute = Some(attribute).filter(|attribute| !attribute.is_empty());
        self.filter = Some(filter).filter(|filter| !filter.is_empty());
        self.is_by_url = true;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Ldap, Mistake> {
        let scheme = self.scheme.unwrap_or_else(|| "ldap".to_owned());
        if self.starts_tls && scheme == "ldaps" {
            return Err(Mistake::new(
                "ldaptls begins TLS on a connection that ldaps has encrypted already",
                "one of them",
            ));
        }
        let server = self.server.unwrap_or_default();
        let port = self.port.unwrap_or(if scheme == "ldaps" { 636 } else { 389 });
        let servers: Vec<String> = server.split_whitespace().map(|host| format!("{scheme}://{host}:{port}")).collect();
        if servers.is_empty() {
            return Err(Mistake::new("the method ldap needs a server", "ldapserver=HOST, or ldapurl with a host"));
        }
        let is_of_hosts =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'[' | b']');
        if !server.bytes().all(|byte| byte == b' ' || is_of_hosts(byte)) {
            return Err(Mistake::new(
                format!("{server:?} names no hosts"),
                "names or addresses, with spaces between them",
            ));
        }
        let is_around = self.prefix.is_some() || self.suffix.is_some();
        let is_search = self.is_by_url || self.base.is_some();
        let has_search = [&self.bind_dn, &self.attribute, &self.filter].iter().any(|option| option.is_some());
        let naming = match (is_around, is_search) {
            (true, false) if !has_search && self.bind_password.is_none() => {
                Naming::Around(self.prefix.unwrap_or_default(), self.suffix.unwrap_or_default())
            }
            (false, true) => Naming::Found(Search {
                base: self.base.unwrap_or_default(),
                scope: self.scope.unwrap_or(Scope::Subtree),
                bind_dn: self.bind_dn.unwrap_or_default(),
                bind_password: self.bind_password.unwrap_or_default(),
                filter: filter(self.attribute, self.filter)?,
            }),
            (true, _) => {
                return Err(Mistake::new("a search cannot go with ldapprefix or ldapsuffix", "one of the two ways"));
            }
            (false, false) => {
                let what = "the method ldap does not know how entries of users are named";
                return Err(Mistake::new(what, "ldapprefix or ldapsuffix, or ldapbasedn"));
            }
        };
        Ok(Ldap { servers, starts_tls: self.starts_tls, naming })
    }
}

fn port(text: &str) -> Result<u16, Mistake> {
    let number = text.parse().ok().filter(|port| *port > 0);
    number.ok_or_else(|| Mistake::new(format!("{text:?} is no port"), "a number from 1 to 65535"))
}

fn scheme(text: &str) -> Result<String, Mistake> {
    match text {
        "ldap" | "ldaps" => Ok(text.to_owned()),
        _ => Err(Mistake::new(format!("{text:?} is no scheme of LDAP over a network"), "ldap or ldaps")),
    }
}

fn filter(attribute: Option<String>, filter: Option<String>) -> Result<String, Mistake> {
    let filter = match (attribute, filter) {
        // A URL may have both: the filter counts, as in PostgreSQL.
        (_, Some(filter)) => filter,
        (attribute, None) => format!("({}={PLACEHOLDER})", attribute.as_deref().unwrap_or("uid")),
    };
    let wrapped = if filter.starts_with('(') { filter } else { format!("({filter})") };
    if ldap3::parse_filter(wrapped.replace(PLACEHOLDER, "x")).is_err() {
        return Err(Mistake::new(
            format!("{wrapped:?} is no filter of LDAP"),
            "one as in (&(objectClass=person)(uid=$username))",
        ));
    }
    Ok(wrapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(options: &[(&str, &str)]) -> Result<Ldap, Mistake> {
        let mut made = Options::default();
        for (name, value) in options {
            assert!(made.set(name, value)?, "{name}");
        }
        made.finish()
    }

    fn search(ldap: Ldap) -> Search {
        match ldap.naming {
            Naming::Found(search) => search,
            Naming::Around(..) => panic!("nothing is looked for"),
        }
    }

    #[test]
    fn an_entry_is_named_by_what_stands_around_the_users_name() {
        let ldap = made(&[("ldapserver", "a b"), ("ldapprefix", "uid="), ("ldapsuffix", ",ou=people")]).unwrap();
        assert_eq!(ldap.servers, ["ldap://a:389", "ldap://b:389"]);
        assert_eq!(ldap.naming, Naming::Around("uid=".to_owned(), ",ou=people".to_owned()));
        assert_eq!(Naming::around("uid=", ",ou=people", "ada"), "uid=ada,ou=people");
        assert_eq!(Naming::around("uid=", ",dc=net", "ada,ou=people"), "uid=ada\\2cou\\3dpeople,dc=net");
        // As Active Directory takes names.
        assert_eq!(Naming::around("", "@example.net", "ada"), "ada@example.net");
    }

    #[test]
    fn the_name_in_a_filter_is_never_more_than_a_value() {
        let with = |more: &[(&str, &str)]| {
            search(made(&[&[("ldapserver", "a"), ("ldapbasedn", "dc=net")], more].concat()).unwrap())
        };
        assert_eq!(with(&[]).filter("ada"), "(uid=ada)");
        assert_eq!(with(&[]).filter("*"), "(uid=\\2a)");
        assert_eq!(with(&[("ldapsearchattribute", "cn")]).filter("a)(cn=*"), "(cn=a\\29\\28cn=\\2a)");
        let either = with(&[("ldapsearchfilter", "(|(uid=$username)(mail=$username))")]);
        assert_eq!(either.filter("a\\b"), "(|(uid=a\\5cb)(mail=a\\5cb))");
        assert_eq!(with(&[("ldapsearchfilter", "uid=$username")]).filter("ada"), "(uid=ada)");
    }

    #[test]
    fn a_url_says_all_of_it() {
        let ldap = made(&[("ldapurl", "ldaps://db1:1636/dc=a%20b,dc=net?cn?sub?(cn=$username)")]).unwrap();
        assert_eq!(ldap.servers, ["ldaps://db1:1636"]);
        let search = search(ldap);
        assert_eq!((search.base.as_str(), search.scope), ("dc=a b,dc=net", Scope::Subtree));
        let plain = made(&[("ldapurl", "ldap://[::1]/dc=net?uid")]).unwrap();
        assert_eq!(plain.servers, ["ldap://[::1]:389"]);
        assert_eq!(self::search(plain).scope, Scope::Base);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for wrong in [
            &[][..],
            &[("ldapserver", "a")],
            &[("ldapprefix", "uid=")],
            &[("ldapserver", "a"), ("ldapprefix", "uid="), ("ldapbasedn", "dc=net")],
            &[("ldapserver", "a"), ("ldapprefix", "uid="), ("ldapbindpasswd", "x")],
            &[("ldapserver", "a/b"), ("ldapprefix", "uid=")],
            &[("ldapserver", "a"), ("ldapport", "0"), ("ldapprefix", "uid=")],
            &[("ldapserver", "a"), ("ldaptls", "1"), ("ldapscheme", "ldaps"), ("ldapprefix", "uid=")],
            &[("ldapserver", "a"), ("ldapscheme", "ldapi"), ("ldapprefix", "uid=")],
            &[("ldapserver", "a"), ("ldapbasedn", "dc=net"), ("ldapsearchfilter", "(uid=$username")],
            &[("ldapurl", "ldap:///dc=net?uid?sub")],
            &[("ldapurl", "http://a/dc=net")],
            &[("ldapurl", "ldap://a/dc=net?uid?all")],
            &[("ldapurl", "ldap://a/dc=%zz")],
        ] {
            assert!(made(wrong).is_err(), "{wrong:?}");
        }
        assert!(!Options::default().set("ldapx", "1").unwrap());
        let secret = Options { bind_password: Some(BindPassword("s3cret".to_owned().into())), ..Options::default() };
        assert!(!format!("{:?}", secret.bind_password).contains("s3cret"));
    }
}
