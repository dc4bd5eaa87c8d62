//! `[tls]`, `[cluster.tls]` and `[cluster.patroni_tls]`: TLS towards clients, nodes and Patroni. The files are read here, and
//! again by each reload.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use zeroize::Zeroizing;

use crate::auth::tls::{first_end, towards_servers};
use crate::auth::{ClientTls, NodeTls, NotAfter, TlsMode, TlsProblem, TlsTexts, TlsVersion};

use super::document::{Item, Table};

/// Towards clients.
pub(super) struct ToClients {
    /// None: off.
    pub(super) tls: Option<ClientTls>,
    /// When what is shown to them ends.
    pub(super) certificate_ends: Option<NotAfter>,
    /// Certificates that clients show are looked at; so it is meant at least, where something else is wrong.
    pub(super) looks_at_certificates: bool,
}

/// Towards clients.
pub(super) fn to_clients(root: &Table<'_>, folder: &Path) -> ToClients {
    let section = Section::read(root.section("tls"), folder, &TlsMode::NAMES, ("certificate", TlsMode::Allow));
    let is_on = section.mode != TlsMode::Off;
    let looks_at_certificates = is_on && section.authorities.is_some();
    if !is_on || section.is_wrong {
        return ToClients { tls: None, certificate_ends: None, looks_at_certificates };
    }
    let tls = ClientTls::new(section.mode, section.oldest, section.texts());
    let tls = tls.map_err(|problem| section.report(&problem)).ok();
    ToClients { tls, certificate_ends: section.certificate_ends(), looks_at_certificates }
}

/// Towards the nodes of a cluster.
#[derive(Default)]
pub(super) struct ToNodes {
    /// Off, where something is wrong with it.
    pub(super) tls: NodeTls,
    /// When what is shown to them ends.
    pub(super) certificate_ends: Option<NotAfter>,
}

/// Towards the nodes of a cluster.
pub(super) fn to_nodes(cluster: &Table<'_>, folder: &Path) -> ToNodes {
    let section = Section::read(cluster.section("tls"), folder, &TlsMode::NAMES, ("ca", TlsMode::VerifyFull));
    if section.is_wrong || section.mode == TlsMode::Off {
        return ToNodes::default();
    }
    let tls = NodeTls::new(section.mode, section.oldest, section.texts());
    let tls = tls.map_err(|problem| section.report(&problem)).unwrap_or_default();
    ToNodes { tls, certificate_ends: section.certificate_ends() }
}

/// Towards the REST API of a cluster's Patroni.
pub(super) struct ToPatroni {
    /// None: nothing says whom to trust, or something is wrong with it.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// When what is shown to it ends.
    pub(super) certificate_ends: Option<NotAfter>,
    /// A problem is reported already.
    pub(super) is_wrong: bool,
}

/// Towards the REST API of a cluster's Patroni: where it is asked over TLS, it is not asked without.
pub(super) fn to_patroni(cluster: &Table<'_>, folder: &Path) -> ToPatroni {
    let modes: Vec<_> = TlsMode::NAMES.into_iter().filter(|(_, mode)| *mode >= TlsMode::Require).collect();
    let section = Section::read(cluster.section("patroni_tls"), folder, &modes, ("ca", TlsMode::VerifyFull));
    if section.is_wrong || section.mode == TlsMode::Off {
        return ToPatroni { tls: None, certificate_ends: None, is_wrong: section.is_wrong };
    }
    let tls = towards_servers(section.mode, section.oldest, section.texts());
    let tls = tls.map_err(|problem| section.report(&problem)).ok().map(Arc::new);
    ToPatroni { is_wrong: tls.is_none(), tls, certificate_ends: section.certificate_ends() }
}

/// What all sections have.
struct Section<'d> {
    mode: TlsMode,
    oldest: TlsVersion,
    certificate: Option<PemFile<'d>>,
    key: Option<PemFile<'d>>,
    authorities: Option<PemFile<'d>>,
    mode_item: Option<Item<'d>>,
    /// A problem is reported already.
    is_wrong: bool,
}

/// A file that a setting names; it may hold a private key.
struct PemFile<'d> {
    item: Item<'d>,
    text: Option<Zeroizing<Vec<u8>>>,
}

impl<'d> Section<'d> {
    /// Whoever names the file `switch` wants TLS, and gets `mode_with` it unless one of these modes is written.
    fn read(
        table: Table<'d>,
        folder: &Path,
        modes: &[(&str, TlsMode)],
        (switch, mode_with): (&'static str, TlsMode),
    ) -> Self {
        let mode_item = table.get("mode");
        let default = if table.get(switch).is_some() { mode_with } else { TlsMode::Off };
        let section = Self {
            mode: table.choice("mode", modes, default),
            oldest: table.choice("min_version", &VERSIONS, TlsVersion::V1_2),
            certificate: PemFile::read(&table, "certificate", folder),
            key: PemFile::read(&table, "key", folder),
            authorities: PemFile::read(&table, "ca", folder),
            mode_item,
            is_wrong: false,
        };
        let files = [&section.certificate, &section.key, &section.authorities];
        let mut is_wrong = files.into_iter().flatten().any(|file| file.text.is_none());
        let without_effect = files.into_iter().flatten().map(|file| &file.item).next();
        if let (TlsMode::Off, None, Some(item)) = (section.mode, &section.mode_item, without_effect) {
            item.problem("has no effect, for TLS is off", Some(format!("it takes a `{switch}`, or a mode")));
            is_wrong = true;
        }
        table.finish();
        Self { is_wrong, ..section }
    }

    fn texts(&self) -> TlsTexts<'_> {
        fn text<'t>(file: &'t Option<PemFile<'_>>) -> Option<&'t [u8]> {
            file.as_ref()?.text.as_ref().map(|text| &***text)
        }
        TlsTexts { certificate: text(&self.certificate), key: text(&self.key), authorities: text(&self.authorities) }
    }

    fn certificate_ends(&self) -> Option<NotAfter> {
        first_end(self.texts().certificate?)
    }

    fn report(&self, problem: &TlsProblem) {
        let place = match problem {
            TlsProblem::Certificate | TlsProblem::CertificateShape | TlsProblem::KeyMissing => &self.certificate,
            TlsProblem::Key | TlsProblem::Pair(_) | TlsProblem::CertificateMissing => &self.key,
            TlsProblem::Authorities => &self.authorities,
            TlsProblem::AuthoritiesMissing | TlsProblem::Refused(_) => &None,
        };
        let place = place.as_ref().map(|file| &file.item).or(self.mode_item.as_ref());
        let any = [&self.certificate, &self.key, &self.authorities].into_iter().flatten().next();
        if let Some(item) = place.or(any.map(|file| &file.item)) {
            item.problem(problem.to_string(), None);
        }
    }
}

impl<'d> PemFile<'d> {
    fn read(table: &Table<'d>, key: &'static str, folder: &Path) -> Option<Self> {
        let item = table.get(key)?;
        let path = item.text().map(|path| folder.join(path));
        let text = path.and_then(|path| match std::fs::read(&path) {
            Ok(text) => Some(Zeroizing::new(text)),
            Err(error) => {
                item.problem(format!("{} cannot be read: {error}", path.display()), None);
                None
            }
        });
        Some(Self { item, text })
    }
}

const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
