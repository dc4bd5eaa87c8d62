//! TLS settings made of PEM texts: what we show and whom we trust, towards clients and towards nodes. Files are read and
//! sockets spoken to elsewhere.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, InconsistentKeys, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};
use sha2::{Digest, Sha256};

use super::certificate::{self, PublicKey};
use super::not_after::NotAfter;

/// How much a connection must prove, in libpq's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    /// No TLS.
    #[default]
    Off,
    /// TLS where the other side wants it.
    Allow,
    /// TLS where the other side can.
    Prefer,
    /// TLS, whoever the other side is.
    Require,
    /// TLS, and the other side's certificate is signed by an authority that we trust.
    VerifyCa,
    /// TLS, and the other side's certificate names it besides.
    VerifyFull,
}

impl TlsMode {
    /// Every one by its name in the configuration.
    pub const NAMES: [(&str, Self); 6] = [
        ("off", Self::Off),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];

    /// The configuration's word.
    pub fn word(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// The oldest TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V1_2,
    /// 1.3
    V1_3,
}

/// What a TLS setting is made of; texts are PEM.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsTexts<'a> {
    /// Our certificate, and those of the authorities between it and the root.
    pub certificate: Option<&'a [u8]>,
    /// Its private key, not encrypted.
    pub key: Option<&'a [u8]>,
    /// Certificates of the authorities that the other side's must be signed by.
    pub authorities: Option<&'a [u8]>,
}

impl TlsTexts<'_> {
    fn digest(self, beginning: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new_with_prefix(beginning);
        for text in [self.certificate, self.key, self.authorities] {
            let text = text.unwrap_or_default();
            digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }
}

/// TLS towards clients.
#[derive(Clone)]
pub struct ClientTls {
    mode: TlsMode,
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// TLS towards nodes.
#[derive(Clone, Default)]
pub struct NodeTls {
    mode: TlsMode,
    config: Option<Arc<ClientConfig>>,
    /// Of all that it is made of.
    digest: [u8; 32],
}

/// The protocol's name in TLS itself (ALPN), which a client that begins with TLS must give.
pub const ALPN: &[u8] = b"postgresql";

impl ClientTls {
    /// Checks that everything fits together.
    pub fn new(mode: TlsMode, oldest: TlsVersion, texts: TlsTexts<'_>) -> Result<Self, TlsProblem> {
        let chain = certificates(texts.certificate.ok_or(TlsProblem::CertificateMissing)?)?;
        let key = private_key(texts.key.ok_or(TlsProblem::KeyMissing)?)?;
        let provider = Arc::new(ring::default_provider());
        let end_point = chain.first().and_then(|first| certificate::end_point(first)).map(Arc::from);
        let shown = shown(chain, key, &provider)?;
        let verifier = match texts.authorities {
            Some(authorities) => {
                let roots = Arc::new(roots(authorities)?);
                let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
                let builder = if mode >= TlsMode::VerifyCa { builder } else { builder.allow_unauthenticated() };
                builder.build().map_err(|_| TlsProblem::Authorities)?
            }
            None if mode >= TlsMode::VerifyCa => return Err(TlsProblem::AuthoritiesMissing),
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions(oldest));
        let builder = builder.map_err(TlsProblem::Refused)?.with_client_cert_verifier(verifier);
        let mut config = builder.with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A client comes once and stays: tickets to come back cheaply would be memory for nothing.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Self { mode, config: Arc::new(config), end_point })
    }

    /// How much a client must prove.
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// For the handshake.
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// What SCRAM is bound to, if our certificate can be.
    pub fn end_point(&self) -> Option<&Arc<[u8]>> {
        self.end_point.as_ref()
    }
}

impl NodeTls {
    /// Checks that everything fits together.
    pub fn new(mode: TlsMode, oldest: TlsVersion, texts: TlsTexts<'_>) -> Result<Self, TlsProblem> {
        if mode == TlsMode::Off {
            return Ok(Self::default());
        }
        let mut config = towards_servers(mode, oldest, texts)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let digest = texts.digest(format!("{mode:?} {oldest:?}").as_bytes());
        Ok(Self { mode, config: Some(Arc::new(config)), digest })
    }

    /// It is made of the same: what one of them trusts, the other does.
    pub fn is_as(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// How much a node must prove.
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// For the handshake; None: no TLS.
    pub fn config(&self) -> Option<&Arc<ClientConfig>> {
        self.config.as_ref()
    }
}

/// TLS towards servers that speak something else than PostgreSQL, or have yet to be told that we do. Off is no mode of it.
pub fn towards_servers(mode: TlsMode, oldest: TlsVersion, texts: TlsTexts<'_>) -> Result<ClientConfig, TlsProblem> {
    let roots = match texts.authorities {
        Some(authorities) => Some(roots(authorities)?),
        None if mode >= TlsMode::VerifyCa => return Err(TlsProblem::AuthoritiesMissing),
        None => None,
    };
    vouched_for(mode, oldest, roots, texts)
}

/// The same, each vouched for by these authorities and being who it is called.
pub fn trusting(authorities: &[u8]) -> Result<Arc<ClientConfig>, TlsProblem> {
    trusting_these(roots(authorities)?)
}

/// The same of authorities that are read already; none of them: nobody is vouched for.
pub fn trusting_these(authorities: RootCertStore) -> Result<Arc<ClientConfig>, TlsProblem> {
    vouched_for(TlsMode::VerifyFull, TlsVersion::V1_2, Some(authorities), TlsTexts::default()).map(Arc::new)
}

/// What is shown is that of the texts.
fn vouched_for(
    mode: TlsMode,
    oldest: TlsVersion,
    roots: Option<RootCertStore>,
    texts: TlsTexts<'_>,
) -> Result<ClientConfig, TlsProblem> {
    let provider = Arc::new(ring::default_provider());
    // As libpq: whoever names authorities wants them to count, also with `require`.
    let names_it = mode == TlsMode::VerifyFull;
    let verifier = Verifier { roots, names_it, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions(oldest));
    let builder = builder.map_err(TlsProblem::Refused)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match (texts.certificate, texts.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(chain), Some(key)) => {
            let shown = shown(certificates(chain)?, private_key(key)?, &provider)?;
            builder.with_client_cert_resolver(Arc::new(shown))
        }
        (Some(_), None) => return Err(TlsProblem::KeyMissing),
        (None, Some(_)) => return Err(TlsProblem::CertificateMissing),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// When the first of the certificates in this PEM text ends; None: there is none, or none whose end is understood.
pub fn first_end(pem: &[u8]) -> Option<NotAfter> {
    let chain = certificates(pem).ok()?;
    chain.iter().filter_map(|certificate| certificate::not_after(certificate)).min()
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({:?})", self.mode)
    }
}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeTls({:?})", self.mode)
    }
}

/// What is wrong with TLS settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TlsProblem {
    /// A key without it, or a server without it.
    #[error("a certificate is needed")]
    CertificateMissing,
    /// A certificate without it.
    #[error("the certificate's private key is needed")]
    KeyMissing,
    /// Nobody could be verified.
    #[error("the certificates of the authorities to trust are needed")]
    AuthoritiesMissing,
    /// Not PEM, or none in it.
    #[error("there is no PEM certificate in it")]
    Certificate,
    /// Of what is PEM, the first is no certificate of X.509.
    #[error("its first certificate is not understood: it is to be one that `openssl x509 -noout -text` shows")]
    CertificateShape,
    /// Not PEM, none in it, or an encrypted one.
    #[error("there is no unencrypted PEM private key in it")]
    Key,
    /// Not PEM, none in it, or one that cannot be an authority's.
    #[error("there is no PEM certificate of an authority in it")]
    Authorities,
    /// The key is not the certificate's, or of a kind that is not supported.
    #[error("certificate and key do not fit: {0}")]
    Pair(#[source] rustls::Error),
    /// The library refuses the settings as a whole.
    #[error("refused: {0}")]
    Refused(#[source] rustls::Error),
}

fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static FROM_1_2: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    static FROM_1_3: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match oldest {
        TlsVersion::V1_2 => &FROM_1_2,
        TlsVersion::V1_3 => &FROM_1_3,
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    chain.ok().filter(|chain| !chain.is_empty()).ok_or(TlsProblem::Certificate)
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsProblem> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsProblem::Key)
}

/// A chain and the key that proves it. Of its first certificate no more is read than whose it is: whether one of X.509's
/// version 1 will do, which openssl makes where no extensions are asked for, is up to those it is shown to.
fn shown(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<SingleCertAndKey, TlsProblem> {
    let key = provider.key_provider.load_private_key(key).map_err(TlsProblem::Pair)?;
    let certified = chain.first().and_then(|first| certificate::public_key(first));
    let certified = certified.ok_or(TlsProblem::CertificateShape)?;
    if key.public_key().is_some_and(|public| *public != *certified.info) {
        return Err(TlsProblem::Pair(InconsistentKeys::KeyMismatch.into()));
    }
    Ok(CertifiedKey::new(chain, key).into())
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsProblem> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem).map_err(|_| TlsProblem::Authorities)? {
        roots.add(authority).map_err(|_| TlsProblem::Authorities)?;
    }
    Ok(roots)
}

/// Trusts a server's certificate as far as the mode says: anybody's, one of our authorities', or that with its own name.
#[derive(Debug)]
struct Verifier {
    roots: Option<RootCertStore>,
    names_it: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// The key of a certificate that the library does not read, as one of X.509's version 1, which openssl makes where no
    /// extensions are asked for. Only where nothing is asked of it but that the other side has its key.
    fn known_by_its_key<'a>(&self, certificate: &'a CertificateDer<'_>) -> Option<PublicKey<'a>> {
        let is_unread = self.roots.is_none() && ParsedCertificate::try_from(certificate).is_err();
        is_unread.then(|| certificate::public_key(certificate)).flatten()
    }
}

/// As TLS 1.2 has it: any of the scheme's algorithms that fits the key.
fn verify_by_key(
    message: &[u8],
    key: PublicKey<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    let of_scheme = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signature.scheme);
    let fits = of_scheme
        .flat_map(|(_, algorithms)| algorithms.iter())
        .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == key.algorithm)
        .any(|algorithm| algorithm.verify_signature(key.bits, message, signature.signature()).is_ok());
    let bad = rustls::Error::InvalidCertificate(CertificateError::BadSignature);
    fits.then(HandshakeSignatureValid::assertion).ok_or(bad)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
            if self.names_it {
                verify_server_name(&certificate, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let known = self.known_by_its_key(certificate);
        known.map_or_else(
            || rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms),
            |key| verify_by_key(message, key, signature, algorithms),
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let known = self.known_by_its_key(certificate);
        known.map_or_else(
            || rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms),
            |key| verify_tls13_signature_with_raw_key(message, &key.info.into(), signature, algorithms),
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let nothing = TlsTexts::default();
        let garbage = TlsTexts { certificate: Some(b"no"), key: Some(b"no"), authorities: Some(b"no") };
        let client = |texts| ClientTls::new(TlsMode::Require, TlsVersion::V1_2, texts).unwrap_err();
        assert_eq!(client(nothing), TlsProblem::CertificateMissing);
        assert_eq!(client(garbage), TlsProblem::Certificate);
        let node = |mode, texts| NodeTls::new(mode, TlsVersion::V1_2, texts).map(|tls| tls.mode());
        assert_eq!(node(TlsMode::VerifyCa, nothing), Err(TlsProblem::AuthoritiesMissing));
        assert_eq!(node(TlsMode::Prefer, garbage), Err(TlsProblem::Authorities));
        let half = TlsTexts { authorities: None, key: None, ..garbage };
        assert_eq!(node(TlsMode::Require, half), Err(TlsProblem::KeyMissing));
        assert_eq!(node(TlsMode::Require, nothing), Ok(TlsMode::Require));
        assert_eq!(node(TlsMode::Off, garbage), Ok(TlsMode::Off));
    }

    #[test]
    fn a_certificate_of_version_1_is_shown_with_its_own_key_and_no_other() {
        let texts = |certificate, key| TlsTexts { certificate: Some(certificate), key: Some(key), authorities: None };
        let to_clients = |texts: TlsTexts<'_>| ClientTls::new(TlsMode::Allow, TlsVersion::V1_2, texts).map(drop);
        let to_nodes = |texts: TlsTexts<'_>| NodeTls::new(TlsMode::Require, TlsVersion::V1_2, texts).map(drop);
        let both: [fn(TlsTexts<'_>) -> Result<(), TlsProblem>; 2] = [to_clients, to_nodes];
        for tls in both {
            assert_eq!(tls(texts(OF_VERSION_1, ITS_KEY)), Ok(()));
            assert!(matches!(tls(texts(OF_VERSION_1, ANOTHER_KEY)), Err(TlsProblem::Pair(_))));
            let cut = b"-----BEGIN CERTIFICATE-----\nMIIBHzCBxwIU\n-----END CERTIFICATE-----\n";
            assert_eq!(tls(texts(cut, ITS_KEY)), Err(TlsProblem::CertificateShape));
        }
    }

    /// Certificates and keys for nothing but these tests.
    const OF_VERSION_1: &[u8] = b"\
-----BEGIN CERTIFICATE-----
MIIBFTCBvQIUQJmR7ykhfUEanZ5z3TQghOzzSXAwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDb2xkMB4XDTI2MTEzMDIyMDkyMVoXDTI2MTIwMjIyMDkyMVowDjEMMAoG
A1UEAwwDb2xkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8cxWWK9Rb3XdEVtH
4iEXvTTVHzw+rqRxMLdRiPKDIE4xrdTrFLRBy5LWVSrNqxEJy7jJrIjsslG5+PfN
Cjn6IjAKBggqhkjOPQQDAgNHADBEAiA34SBdr+EoC6VSKIPrxAe/z6BQVXV1ok0K
3l6sWKlKEQIgIwNI80k30MQWZHiMCsRv+Vuuq3xoyEXgvopqibPZD+I=
-----END CERTIFICATE-----
";
    const ITS_KEY: &[u8] = b"\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg+nZZJwv4slzJ/MFn
2O5OJHu6q4vmnInxaynmerUTOfyhRANCAATxzFZYr1Fvdd0RW0fiIRe9NNUfPD6u
pHEwt1GI8oMgTjGt1OsUtEHLktZVKs2rEQnLuMmsiOyyUbn4980KOfoi
-----END PRIVATE KEY-----
";
    const ANOTHER_KEY: &[u8] = b"\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgDne9BDrAYi7LoXTz
xap7vcLQUpEh9Dh2aRo7SwGv4AShRANCAATaG9ywC+mrw+Ffbxx8+aJQ6/uXRSNx
oOOK5HALYFoY9tUN7Jsq7nQxhIhdgKUS3MRa3afcsRYXgYxzZT2GRmzK
-----END PRIVATE KEY-----
";
}
