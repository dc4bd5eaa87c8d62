//! Whom the system trusts: they vouch for LDAP servers where `auth.ldap_ca` names nobody, and are read with each
//! configuration anew.

use std::env;
use std::path::PathBuf;

use rustls::RootCertStore;
use rustls_native_certs::{CertificateResult, Error, ErrorKind};

use super::Config;

/// Authorities that the system trusts.
pub(super) struct SystemAuthorities {
    pub(super) roots: RootCertStore,
    /// What of them could not be read, in words.
    pub(super) unread: Option<String>,
}

impl SystemAuthorities {
    /// Those at the system's usual places, or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say.
    pub(super) fn read() -> Self {
        let read = Self::of(rustls_native_certs::load_native_certs());
        let said = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(|name| {
            let place = PathBuf::from(env::var_os(name)?);
            Some(format!("{name}={}", place.display()))
        });
        let said: Vec<String> = said.collect();
        let unread = read.unread.map(|why| if said.is_empty() { why } else { format!("{why} ({})", said.join(", ")) });
        Self { unread, ..read }
    }

    /// Each that is there counts: a file that is torn or not for us takes no others along.
    fn of(found: CertificateResult) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        let unread = match found.errors.as_slice() {
            [] if roots.is_empty() => Some("the system has none".to_owned()),
            [] => None,
            [only] => Some(words(only)),
            [first, more @ ..] => Some(format!("{}, and {} more", words(first), more.len())),
        };
        Self { roots, unread }
    }
}

impl Config {
    /// Where none of the system's authorities can be read any more, as in the middle of an update, those that were read before go on
    /// vouching for LDAP servers: otherwise nobody could log in there until the next reload.
    pub fn keep_authorities_of(&mut self, before: &Self) {
        if self.system_authorities == Some(0) && before.system_authorities.is_some_and(|count| count > 0) {
            self.ldap_tls.clone_from(&before.ldap_tls);
            self.system_authorities = before.system_authorities;
            let why = self.unread_authorities.take().unwrap_or_default();
            self.unread_authorities = Some(format!("none, and those that were read before count on: {why}"));
        }
    }
}

fn words(error: &Error) -> String {
    match &error.kind {
        // The library does not tell which.
        ErrorKind::Pem(_) => "a certificate in one of the files is cut off or no PEM".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn of(folder: &Path) -> SystemAuthorities {
        SystemAuthorities::of(rustls_native_certs::load_certs_from_paths(None, Some(folder)))
    }

    #[test]
    fn what_cannot_be_read_is_told_and_takes_no_other_authority_along() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of(folder.path()).unread.as_deref(), Some("the system has none"));
        fs::write(folder.path().join("good.pem"), AUTHORITY).unwrap();
        let whole = of(folder.path());
        assert_eq!((whole.roots.len(), whole.unread), (1, None));
        fs::write(folder.path().join("torn.pem"), &AUTHORITY[..AUTHORITY.len() / 2]).unwrap();
        let torn = of(folder.path());
        assert_eq!(torn.roots.len(), 1);
        assert!(torn.unread.unwrap().contains("PEM"));
        fs::write(folder.path().join("again.pem"), &AUTHORITY[..AUTHORITY.len() / 3]).unwrap();
        assert!(of(folder.path()).unread.unwrap().ends_with(", and 1 more"));
    }

    #[test]
    fn those_of_before_count_on_only_where_none_of_the_systems_can_be_read() {
        let config = |system_authorities, unread: Option<&str>| {
            let config = Config::parse(Path::new(""), "", &mut Vec::new());
            let ldap_tls = crate::auth::tls::trusting_these(RootCertStore::empty()).ok();
            Config { ldap_tls, system_authorities, unread_authorities: unread.map(str::to_owned), ..config }
        };
        let kept = |now: Option<usize>, before: Option<usize>| {
            let (mut now, before) = (config(now, Some("torn")), config(before, None));
            now.keep_authorities_of(&before);
            let is_kept = now.ldap_tls.zip(before.ldap_tls).is_some_and(|(now, before)| Arc::ptr_eq(&now, &before));
            (is_kept, now.system_authorities, now.unread_authorities.unwrap())
        };
        let words = "none, and those that were read before count on: torn".to_owned();
        assert_eq!(kept(Some(0), Some(3)), (true, Some(3), words));
        for (now, before) in [(Some(1), Some(3)), (Some(0), Some(0)), (Some(0), None), (None, Some(3))] {
            assert_eq!(kept(now, before), (false, now, "torn".to_owned()));
        }
    }

    const AUTHORITY: &str = "\
-----BEGIN CERTIFICATE-----
MIIBXDCCAQKgAwIBAgIUEjeTNww7HnKgsxoCn0CqrC0KFL8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJQXV0aG9yaXR5MB4XDTI2MTEzMDIyMTAxMloXDTQ2MTEyNTIy
MTAxMlowFDESMBAGA1UEAwwJQXV0aG9yaXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAE6gZFuGuCdvywGkwcuX2sx2Zh44Om9lTF77LzydVOU191D5aJDKDU2ZJe
ZmeAbGwY/Kd+cmFpblBIRoLRClF7/aMyMDAwDwYDVR0TAQH/BAUwAwEB/zAdBgNV
HQ4EFgQUT/QkdRfMHbomric8S/mLZrGAdnEwCgYIKoZIzj0EAwIDSAAwRQIgYSIl
ZyrCPVa83ZE1p4RvVHH57pY+BLvRGeioGPmrYTACIQC5xb95VvbyFJA36S+GW+bU
FxnapxB52Pc5lEv+9Carqw==
-----END CERTIFICATE-----
";
}
