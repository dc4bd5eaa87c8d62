//! Certificates for tests: an authority of its own, and what it signs, made by openssl's own program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use trunkline::auth::certificate;
use trunkline::demo::installation::Installation;

use crate::fixture::limited;

/// An authority, and a folder for its files and those of whomever it signs.
pub(crate) struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// A new one, whose files are in a new folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        // PostgreSQL's user reads its own files there.
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(folder.join("openssl.cnf"), CONFIGURATION).unwrap();
        let authority = Self { folder };
        authority.request("ca", "Test Authority", &["-extensions", "authority"]);
        authority
    }

    /// The file of its certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Signs a certificate with this common name, for this machine. Answers the files of certificate and key.
    pub(crate) fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let (authority, key) = (self.certificate(), self.folder.join("ca.key"));
        let by = ["-CA", authority.to_str().unwrap(), "-CAkey", key.to_str().unwrap(), "-extensions", "machine"];
        self.request(name, name, &by)
    }

    /// The same, readable by PostgreSQL: it refuses a key of anybody else.
    pub(crate) fn sign_for_server(&self, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.sign(name);
        Installation::find().unwrap().own(&key).unwrap();
        (certificate, key)
    }

    /// A certificate that nobody else has signed and that has no extensions, which makes it one of version 1.
    pub(crate) fn sign_itself(&self, name: &str) -> (PathBuf, PathBuf) {
        self.request(name, name, &[])
    }

    fn request(&self, file: &str, name: &str, arguments: &[&str]) -> (PathBuf, PathBuf) {
        let (certificate, key) = (self.folder.join(format!("{file}.crt")), self.folder.join(format!("{file}.key")));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", &format!("/CN={name}"), "-config"]).arg(self.folder.join("openssl.cnf"));
        openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key).args(arguments);
        let output = openssl.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        (certificate, key)
    }
}

/// The lines of postgresql.conf that make a server speak TLS with this certificate.
pub(crate) fn server_settings((certificate, key): &(PathBuf, PathBuf), authority: &Path) -> String {
    format!(
        "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'\n",
        certificate.display(),
        key.display(),
        authority.display()
    )
}

const CONFIGURATION: &str = "\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[machine]
basicConstraints = CA:FALSE
subjectAltName = DNS:localhost, IP:127.0.0.1
";

#[test]
fn a_subject_is_written_as_openssl_writes_it() {
    limited(|| {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path().join("tls"));
        for (number, subject) in SUBJECTS.iter().enumerate() {
            let (file, _) = authority.request(&format!("odd{number}"), subject, &["-utf8", "-extensions", "authority"]);
            let openssl = |arguments: &[&str]| {
                Command::new("openssl")
                    .args(["x509", "-noout", "-in"])
                    .arg(&file)
                    .args(arguments)
                    .output()
                    .unwrap()
                    .stdout
            };
            let der =
                Command::new("openssl").args(["x509", "-outform", "DER", "-in"]).arg(&file).output().unwrap().stdout;
            let written = String::from_utf8(openssl(&["-subject", "-nameopt", "RFC2253"])).unwrap();
            let ours = certificate::distinguished_name(&der).unwrap();
            assert_eq!(format!("subject={ours}"), written.trim_end_matches('\n'));
        }
    });
}

#[test]
fn a_certificate_ends_when_openssl_says_so() {
    limited(|| {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new(folder.path().join("tls"));
        // Beyond 2049 the moment is written in another way.
        for days in ["2", "400", "20000"] {
            let (file, _) = authority.request(days, days, &["-days", days]);
            let openssl = |arguments: &[&str]| {
                let output =
                    Command::new("openssl").arg("x509").args(arguments).arg("-in").arg(&file).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                output.stdout
            };
            let ends = certificate::not_after(&openssl(&["-outform", "DER"])).unwrap();
            let told = String::from_utf8(openssl(&["-noout", "-enddate", "-dateopt", "iso_8601"])).unwrap();
            assert_eq!(told.trim_end(), format!("notAfter={}", ends.to_string().replace(" UTC", "Z")));
        }
    });
}

/// Behind `/CN=`, in the form that openssl takes subjects in.
const SUBJECTS: [&str; 3] = [
    "ada/OU=shop/O=Example",
    "#zoë/O=Sales, \"Ltd\" ;<x>/emailAddress=ada@example.net/DC=example/DC=net/UID=7",
    " ada +OU=two at once/street=1\\/2 Mill Lane/C=DE/GN=Ada/SN=Lovelace/title=Countess = none ",
];
