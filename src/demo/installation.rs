//! The PostgreSQL found on this machine, and how its programs are run from here.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The environment variable that names the folder of another PostgreSQL's programs.
const CHOSEN: &str = "TRUNKLINE_POSTGRESQL";

/// Where PostgreSQL's programs are, and as whom they run.
#[derive(Clone, Debug)]
pub struct Installation {
    programs: PathBuf,
    version: String,
    account: Option<Account>,
}

/// The user that PostgreSQL runs as when we are root, which it refuses.
#[derive(Clone, Copy, Debug)]
struct Account {
    user: u32,
    group: u32,
}

/// Why a PostgreSQL program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// No `initdb` was found.
    #[error(
        "PostgreSQL was not found: neither in /usr/lib/postgresql/*/bin nor on PATH (Debian: apt-get install postgresql-15)"
    )]
    Missing,
    /// The folder that was named has no `initdb`.
    #[error("{CHOSEN} names {}, where there is no initdb: name the folder of PostgreSQL's programs", .0.display())]
    NotThere(PathBuf),
    /// We are root and there is nobody to run PostgreSQL as.
    #[error("PostgreSQL refuses to run as root, and there is no user `postgres` to run it as")]
    NoAccount,
    /// A program could not be started.
    #[error("{program} could not be started")]
    Spawn {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ended in an error.
    #[error("{program} failed: {said}")]
    Failed {
        /// Its name.
        program: String,
        /// What it wrote to standard error.
        said: String,
    },
}

impl Installation {
    /// That whose programs `TRUNKLINE_POSTGRESQL` names; else the newest in Debian's place, then on PATH.
    pub fn find() -> Result<Self, InstallationError> {
        let chosen = std::env::var_os(CHOSEN).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        if let Some(folder) = chosen.as_ref().filter(|folder| !folder.join("initdb").exists()) {
            return Err(InstallationError::NotThere(folder.clone()));
        }
        let programs = chosen.or_else(newest_packaged).or_else(on_path).ok_or(InstallationError::Missing)?;
        let account = if is_root() { Some(postgres_account()?) } else { None };
        let mut found = Self { programs, version: String::new(), account };
        found.version = said(&found.run("postgres", ["--version"])?.stdout);
        Ok(found)
    }

    /// What `postgres --version` says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The folder of its programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// A program of this installation, with none of our `PG*` variables, which would turn it to another cluster.
    ///
    /// When the thread that started it ends, it gets SIGQUIT: for the server that is an immediate stop, which
    /// removes its shared memory, as SIGKILL would not. Give it a folder to start in that `postgres` may enter.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(account) = self.account {
            command.arg(format!("--reuid={}", account.user)).arg(format!("--regid={}", account.group));
            command.arg("--clear-groups");
        }
        command.args(["--pdeathsig", "QUIT", "--"]).arg(self.program(program)).current_dir("/");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Runs a program to its end.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Output, InstallationError> {
        finish(program, self.command(program).args(arguments))
    }

    /// Makes a file or folder PostgreSQL's own.
    pub fn own(&self, path: &Path) -> io::Result<()> {
        match self.account {
            Some(account) => chown(path, Some(account.user), Some(account.group)),
            None => Ok(()),
        }
    }

    /// A folder for temporary files that PostgreSQL's user can enter: root's own TMPDIR may be closed to it.
    pub fn temporary_folder(&self) -> PathBuf {
        if self.account.is_some() { PathBuf::from("/tmp") } else { std::env::temp_dir() }
    }

    /// A folder in memory, where there is plenty of it; else the same. Copies of data folders take a third of the time there.
    pub fn quick_temporary_folder(&self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        if free_bytes(memory).is_some_and(|free| free > PLENTY) { memory.to_owned() } else { self.temporary_folder() }
    }

    /// The path of a program; pgbench and psql may be only on PATH.
    fn program(&self, program: &str) -> PathBuf {
        let packaged = self.programs.join(program);
        if packaged.exists() { packaged } else { PathBuf::from(program) }
    }
}

/// Runs a command to its end; an exit code that is not zero is an error with what it said.
pub(super) fn finish(program: &str, command: &mut Command) -> Result<Output, InstallationError> {
    let output = command.output().map_err(|source| InstallationError::Spawn { program: program.to_owned(), source })?;
    if output.status.success() {
        return Ok(output);
    }
    Err(InstallationError::Failed { program: program.to_owned(), said: said(&output.stderr) })
}

/// What a program wrote, as text without the last line's end.
pub(super) fn said(output: &[u8]) -> String {
    String::from_utf8_lossy(output).trim_end().to_owned()
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let output = Command::new("df").args(["-B1", "--output=avail"]).arg(folder).output().ok()?;
    said(&output.stdout).lines().last()?.trim().parse().ok()
}

/// Some clusters side by side, each with its nodes' `wal_keep_size` (512 MB) used up.
const PLENTY: u64 = 6 << 30;

fn newest_packaged() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| programs.join("initdb").exists())
        .max_by_key(|(version, _)| *version)
        .map(|(_, programs)| programs)
}

fn on_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("initdb").exists())
}

fn is_root() -> bool {
    identity(&["-u"]) == Some(0)
}

fn postgres_account() -> Result<Account, InstallationError> {
    let user = identity(&["-u", "postgres"]).ok_or(InstallationError::NoAccount)?;
    let group = identity(&["-g", "postgres"]).ok_or(InstallationError::NoAccount)?;
    Ok(Account { user, group })
}

/// Asks `id`: the standard library does not know users.
fn identity(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    said(&output.stdout).parse().ok()
}
