//! Whom the system trusts: they vouch for LDAP servers where `auth.ldap_ca` names nobody, and are read with each
//! configuration anew.

use rustls::RootCertStore;
use rustls_native_certs::{CertificateResult, Error, ErrorKind};

/// Authorities that the system trusts.
pub(super) struct SystemAuthorities {
    pub(super) roots: RootCertStore,
    /// What of them could not be read, in words.
    pub(super) unread: Option<String>,
}

impl SystemAuthorities {
    /// Those at the system's usual places, or where `SSL_CERT_FILE` and `SSL_CERT_DIR` say.
    pub(super) fn read() -> Self {
        Self::of(rustls_native_certs::load_native_certs())
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
