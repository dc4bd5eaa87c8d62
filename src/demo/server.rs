//! Trunkline as a process of its own, started from its binary with a configuration file.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::http;
use super::port::Port;

/// A running Trunkline; killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    places: Places,
}

/// Where a Trunkline listens and what files it has, chosen before its configuration is written.
#[derive(Debug)]
pub struct Places {
    folder: PathBuf,
    clients: Port,
    admin: Port,
}

/// Why Trunkline is not there.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Its files could not be written, or its program not be started.
    #[error("trunkline could not be started")]
    Start(#[from] io::Error),
    /// It ended.
    #[error("trunkline ended ({status}):\n{log}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it wrote.
        log: String,
    },
    /// It runs and is not ready.
    #[error("trunkline was not ready within {READY_WITHIN:?}:\n{log}")]
    NotReady {
        /// What it wrote.
        log: String,
    },
}

impl Places {
    /// Ports that are free, and a new folder.
    pub fn take(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir(&folder)?;
        Ok(Self { folder, clients: Port::take()?, admin: Port::take()? })
    }

    /// The file that the configuration is written to.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("trunkline.toml")
    }

    /// A configuration like that of the README: these ports, these nodes, role and database `bench`.
    pub fn configuration(&self, nodes: &[SocketAddr]) -> String {
        let addresses: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
        CONFIGURATION
            .replace("{clients}", &self.clients.number().to_string())
            .replace("{admin}", &self.admin.number().to_string())
            .replace("{nodes}", &addresses.join(", "))
    }
}

impl Server {
    /// Starts `program run --config` and waits until `/ready` says so.
    ///
    /// It ends with the thread that calls this.
    pub fn start(program: &Path, places: Places, configuration: &str) -> Result<Self, ServerError> {
        fs::write(places.config_path(), configuration)?;
        let log = File::create(places.log_path())?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(["run", "--config"]).arg(places.config_path());
        // A process group of its own: Ctrl-C in the terminal is for us.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut server = Self { child: command.spawn()?, places };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.places.clients.number()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file it was started with.
    pub fn config_path(&self) -> PathBuf {
        self.places.config_path()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.places.log_path()).unwrap_or_default()
    }

    /// Status and body of a page of its admin listener.
    pub fn page(&self, path: &str) -> io::Result<(u16, String)> {
        http::get(self.places.admin.number(), path)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    fn wait_until_ready(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + READY_WITHIN;
        while !matches!(self.page("/ready"), Ok((200, _))) {
            if let Some(status) = self.ended()? {
                return Err(ServerError::Ended { status, log: self.log() });
            }
            if Instant::now() > deadline {
                return Err(ServerError::NotReady { log: self.log() });
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Places {
    fn log_path(&self) -> PathBuf {
        self.folder.join("trunkline.log")
    }
}

/// The contract's reference with our places in it.
const CONFIGURATION: &str = r#"listen = ["127.0.0.1:{clients}"]

[admin]
listen = "127.0.0.1:{admin}"

[[cluster]]
name  = "main"
nodes = [{nodes}]

[cluster.monitor]
user     = "bench"
password = "bench"
database = "postgres"
interval = "100ms"
timeout  = "1s"

[[database]]
name    = "bench"
cluster = "main"

[[user]]
name     = "bench"
password = "bench"

[pool]
mode = "transaction"
size = 20

[routing]
reads       = "replicas"
consistency = "session"
max_lag     = "10s"
rules       = []

[failover]
hold = "10s"
"#;

/// Probes begin at once; a machine busy with other things may take a while.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Short against a start.
const POLL: Duration = Duration::from_millis(10);
