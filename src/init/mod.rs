//! `trunkline init`: looks at a cluster, and writes a configuration for it.
//!
//! A `Search` says whom to ask, an `Inquiry` asks one node, and a `Draft` is the text of what was found. Nothing is
//! changed in the cluster.

mod conninfo;
mod draft;
mod finding;
mod inquiry;
mod place;
mod search;
mod url;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::auth::{NodeTls, TlsMode, TlsProblem, TlsTexts, TlsVersion};
use crate::monitor;

use draft::{Draft, PasswordPlace};
use finding::Finding;
use inquiry::Inquiry;
use place::Place;
use search::Search;

pub use url::{GivenUrl, Url, UrlProblem};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// None of the places that the URL names has a node that tells what it is.
    #[error("no node tells what it is: {0}")]
    NoNode(String),
    /// A file that the URL names.
    #[error("{} cannot be read", path.display())]
    Unread {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is in those files.
    #[error("the URL's settings of TLS are wrong")]
    Tls(#[from] TlsProblem),
    /// It would be overwritten.
    #[error("{} exists already, and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// A configuration could not name the file beside it.
    #[error("{} is not the name of a file in UTF-8", .0.display())]
    Unnamed(PathBuf),
    /// There is no room for it, or no right to write it.
    #[error("{} cannot be written", path.display())]
    Unwritten {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Standard output is closed, or the system has no sockets.
    #[error("cannot ask or answer")]
    Io(#[from] io::Error),
}

/// Looks at the cluster of `url` and writes a configuration: to a new file, `output`, with the password in another one beside
/// it, each for its owner only; or to standard output, where the password stands for an environment variable.
pub fn run(url: &Url, output: Option<&Path>) -> Result<(), Failure> {
    let files = output.map(Files::at).transpose()?;
    let tls = node_tls(url)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let finding = runtime.block_on(find(url, tls))?;
    let password = files.as_ref().map_or(PasswordPlace::Environment, |files| PasswordPlace::File(&files.password_name));
    let text = Draft { finding: &finding, url, password }.text();
    let mut out = io::stdout().lock();
    match files {
        None => out.write_all(text.as_bytes())?,
        Some(files) => {
            files.write(&text, url.password.plain().unwrap_or_default())?;
            writeln!(out, "{}: written, with {} beside it", files.configuration.display(), files.password_name)?;
        }
    }
    Ok(out.flush()?)
}

/// Asks whoever there is to ask, one after the other.
async fn find(url: &Url, tls: NodeTls) -> Result<Finding, Failure> {
    let inquiry = Inquiry::new(url, tls);
    let mut search = Search::new(&url.places);
    ask_all(&mut search, &inquiry).await;
    if let Some(why) = search.failure() {
        return Err(Failure::NoNode(why));
    }
    for place in search.patronis() {
        let deadline = Instant::now() + PATRONI_PATIENCE;
        // Whoever says something else there, or nothing, is no Patroni.
        if let Ok(listed) = monitor::listed_by(&place.to_string().into(), deadline).await {
            search.patroni_answered(place, listed.iter().filter_map(|address| Place::parse(address)).collect());
        }
    }
    ask_all(&mut search, &inquiry).await;
    Ok(search.conclude())
}

async fn ask_all(search: &mut Search, inquiry: &Inquiry) {
    while let Some(place) = search.next().cloned() {
        let answer = inquiry.ask(&place).await.map_err(|error| draft::plain(&error.to_string()));
        search.answered(&place, answer);
    }
}

/// TLS as the URL wants it; as libpq, what a node has if the URL says nothing.
fn node_tls(url: &Url) -> Result<NodeTls, Failure> {
    let wish = &url.tls;
    let read = |path: &Option<PathBuf>| path.as_deref().map(read_file).transpose();
    let (authorities, certificate, key) = (read(&wish.authorities)?, read(&wish.certificate)?, read(&wish.key)?);
    let texts = TlsTexts {
        certificate: certificate.as_ref().map(|text| text.as_slice()),
        key: key.as_ref().map(|text| text.as_slice()),
        authorities: authorities.as_ref().map(|text| text.as_slice()),
    };
    Ok(NodeTls::new(wish.mode.unwrap_or(TlsMode::Prefer), TlsVersion::V1_2, texts)?)
}

/// It may hold a private key.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    fs::read(path).map(Zeroizing::new).map_err(|source| Failure::Unread { path: path.to_owned(), source })
}

/// The two files that are written.
struct Files {
    configuration: PathBuf,
    password: PathBuf,
    /// As the configuration names it.
    password_name: String,
}

impl Files {
    /// A file and the one beside it: neither may be there.
    fn at(configuration: &Path) -> Result<Self, Failure> {
        let name = configuration.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::Unnamed(configuration.to_owned()))?;
        let password_name = format!("{name}.password");
        let files = Self {
            configuration: configuration.to_owned(),
            password: configuration.with_file_name(&password_name),
            password_name,
        };
        for path in [&files.configuration, &files.password] {
            if path.symlink_metadata().is_ok() {
                return Err(Failure::Exists(path.clone()));
            }
        }
        Ok(files)
    }

    /// Both, or none.
    fn write(&self, text: &str, password: &str) -> Result<(), Failure> {
        let line = Zeroizing::new(format!("{password}\n"));
        write_new(&self.password, &line)?;
        write_new(&self.configuration, text).inspect_err(|_| remove(&self.password))
    }
}

/// For its owner only. Somebody else's file of this name, which may have come meanwhile, is left alone.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => Failure::Exists(path.to_owned()),
        _ => Failure::Unwritten { path: path.to_owned(), source },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).inspect_err(|_| remove(path)).map_err(failed)
}

/// What is left of a failure; it has been told, and this one would tell nothing more.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Patroni answers from its own copy of its store; most hosts have none, and some say nothing at all.
const PATRONI_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn both_files_are_for_their_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let files = Files::at(&path).unwrap();
        assert_eq!(files.password_name, "t.toml.password");
        files.write("listen = []\n", "hush").unwrap();
        for (path, text) in [(&path, "listen = []\n"), (&files.password, "hush\n")] {
            assert_eq!(fs::read_to_string(path).unwrap(), text);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let told = |files: Result<Files, Failure>| files.err().unwrap().to_string();
        assert!(told(Files::at(&path)).ends_with("t.toml exists already, and is not overwritten"));
        fs::remove_file(&path).unwrap();
        assert!(told(Files::at(&path)).ends_with("t.toml.password exists already, and is not overwritten"));
        assert!(told(Files::at(Path::new("/"))).ends_with("is not the name of a file in UTF-8"));
    }

    #[test]
    fn where_the_configuration_cannot_be_written_no_password_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::at(&folder.path().join("t.toml")).unwrap();
        fs::create_dir(&files.configuration).unwrap();
        assert!(files.write("", "hush").is_err());
        assert!(!files.password.exists());
    }
}
