//! A primary with its streaming replicas, in one temporary folder that goes when the cluster does.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::installation::{Installation, InstallationError, finish};
use super::node::{Node, NodeError, SETTINGS_FILE, UPSTREAM_FILE};

/// Running servers: node 0 begins as the primary, all others stream from it.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the servers end before their folder goes.
    nodes: Vec<Node>,
    folder: Folder,
}

/// What a cluster should look like.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Streaming replicas beside the primary.
    pub replicas: usize,
    /// What the role `bench` may do.
    pub bench_role: BenchRole,
    /// Whether a crash of the machine may lose data; tests don't mind and start faster.
    pub durability: Durability,
    /// Lines of postgresql.conf for every node, after ours.
    pub settings: String,
    /// Where a data folder is kept to copy from, so that initdb runs once; without it, it runs for each cluster.
    pub template: Option<PathBuf>,
}

/// What the role `bench` may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchRole {
    /// Member of pg_monitor, owner of the database `bench`.
    Monitor,
    /// Everything.
    Superuser,
}

/// Whether writes wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `fsync = off`.
    Fast,
    /// PostgreSQL's defaults.
    Durable,
}

/// Why a cluster could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// PostgreSQL is missing, or one of its programs failed.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// A server did not start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The folder of the cluster could not be made.
    #[error("the cluster's folder could not be made")]
    Folder(#[from] io::Error),
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            replicas: 2,
            bench_role: BenchRole::Monitor,
            durability: Durability::Fast,
            settings: String::new(),
            template: None,
        }
    }
}

impl Cluster {
    /// Starts the servers and waits until each takes connections.
    ///
    /// Keep the thread that calls this: the servers end with it.
    pub fn start(shape: &Shape) -> Result<Self, ClusterError> {
        let installation = Installation::find()?;
        let folder = Folder::make(&installation, &shape.durability.temporary_folder(&installation))?;
        let nodes = (0..=shape.replicas)
            .map(|number| prepare(&installation, &folder, shape, number))
            .collect::<Result<Vec<Node>, ClusterError>>()?;
        let cluster = Self { nodes, folder };
        cluster.launch(shape)?;
        Ok(cluster)
    }

    /// All nodes; the first one began as the primary.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its number.
    #[expect(clippy::indexing_slicing, reason = "whoever starts a cluster knows how many nodes it has")]
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// A folder for files beside the servers' own; it goes with the cluster.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// All are started before the first is waited for: a replica's start overlaps with its primary's.
    fn launch(&self, shape: &Shape) -> Result<(), ClusterError> {
        let primary = self.node(0);
        for node in self.nodes.iter().skip(1) {
            node.write_upstream(primary)?;
        }
        for node in &self.nodes {
            node.launch()?;
        }
        for node in &self.nodes {
            node.wait_until_ready()?;
        }
        if shape.bench_role == BenchRole::Superuser {
            primary.sql("alter role bench superuser")?;
        }
        self.wait_for_streaming()?;
        Ok(())
    }

    /// A replica that is ready may not stream yet, and would be taken for one that lags.
    fn wait_for_streaming(&self) -> Result<(), NodeError> {
        let replicas = self.nodes.len().saturating_sub(1);
        // Not by the view pg_stat_replication: within a transaction it shows its first look again and again.
        self.node(0).sql(&format!(
            "do $$ begin while (select count(*) from pg_stat_get_wal_senders() where state = 'streaming') < {replicas} \
             loop perform pg_sleep(0.005); end loop; end $$"
        ))?;
        self.nodes.iter().skip(1).try_for_each(|node| node.catch_up(self.node(0)))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            eprintln!("--- log of {} (port {})\n{}", node.name(), node.port(), node.log_tail());
        }
    }
}

/// A temporary folder that is removed with all it holds.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(installation: &Installation, parent: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("trunkline-{}-{count}", std::process::id()));
        // Fails where the name is taken: what another user has put there is never used. Closed to others, because the
        // sockets in it ask for no password.
        DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self { path };
        installation.own(&folder.path)?;
        sweep(parent, fs::metadata(&folder.path)?.uid());
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder that can't be removed is for the system's cleaning of temporary files.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what processes that were killed have left: folders of ours whose process is gone.
fn sweep(parent: &Path, owner: u32) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process =
            name.to_str().and_then(|name| name.strip_prefix("trunkline-")?.split_once('-')?.0.parse::<u32>().ok());
        let is_ours = entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == owner);
        if is_ours && process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            // Another process may sweep at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A node with its data folder, not started.
///
/// Replicas need no base backup: every data folder is a copy of one that was shut down cleanly.
fn prepare(installation: &Installation, folder: &Folder, shape: &Shape, number: usize) -> Result<Node, ClusterError> {
    let name = format!("node{number}");
    let data = folder.path.join(&name);
    let first = folder.path.join("node0");
    match (&shape.template, number) {
        (Some(template), _) => copy(&template_in(installation, folder, template)?, &data)?,
        (None, 0) => initialise(installation, &data, &[])?,
        (None, _) => copy(&first, &data)?,
    }
    let node = Node::new(name, data, folder.path.clone(), installation.clone())?;
    node.write_settings(&shape.settings_text())?;
    Ok(node)
}

impl Durability {
    fn temporary_folder(self, installation: &Installation) -> PathBuf {
        match self {
            Self::Fast => installation.quick_temporary_folder(),
            Self::Durable => installation.temporary_folder(),
        }
    }
}

impl Shape {
    fn settings_text(&self) -> String {
        let durability = match self.durability {
            Durability::Fast => "fsync = off\nfull_page_writes = off",
            Durability::Durable => "",
        };
        format!("{durability}\n{}", self.settings)
    }
}

/// The kept data folder of this version, made when it is missing.
fn template_in(installation: &Installation, folder: &Folder, kept: &Path) -> Result<PathBuf, ClusterError> {
    let version: String = installation.version().chars().filter(char::is_ascii_alphanumeric).collect();
    let template = kept.join(format!("{version}-{TEMPLATE_EDITION}"));
    if template.exists() {
        return Ok(template);
    }
    // Several processes may do this at once: each makes its own, and the last rename that succeeds stays.
    let made = folder.path.join("template");
    // What is copied again and again is kept small.
    initialise(installation, &made, &["--wal-segsize=1"])?;
    let arriving = kept.join(folder.path.file_name().unwrap_or_default());
    fs::create_dir_all(kept)?;
    copy(&made, &arriving)?;
    fs::remove_dir_all(&made)?;
    if fs::rename(&arriving, &template).is_err() {
        fs::remove_dir_all(&arriving)?;
    }
    Ok(template)
}

/// `cp` keeps owners and modes, and shares blocks where the file system can.
fn copy(from: &Path, to: &Path) -> Result<(), InstallationError> {
    finish("cp", Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to)).map(drop)
}

/// initdb, then our settings, roles and database; the server never ran, so it is as good as shut down cleanly.
fn initialise(installation: &Installation, data: &Path, more: &[&str]) -> Result<(), ClusterError> {
    let mut initdb = installation.command("initdb");
    initdb.arg("-D").arg(data);
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
    initdb.args(more);
    finish("initdb", &mut initdb)?;
    for (file, text) in [("pg_hba.conf", HBA), (SETTINGS_FILE, ""), (UPSTREAM_FILE, "")] {
        fs::write(data.join(file), text)?;
        installation.own(&data.join(file))?;
    }
    let mut settings = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf"))?;
    write!(settings, "{SETTINGS}include '{SETTINGS_FILE}'\ninclude '{UPSTREAM_FILE}'\n")?;
    bootstrap(installation, data)?;
    Ok(())
}

/// Roles and database, through a server in single-user mode: no port, and no wait for a start.
fn bootstrap(installation: &Installation, data: &Path) -> Result<(), InstallationError> {
    let failed = |source| InstallationError::Spawn { program: "postgres --single".into(), source };
    let mut server = installation.command("postgres");
    server.args(["--single", "-F", "-D"]).arg(data).arg("postgres");
    let mut child =
        server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(BOOTSTRAP.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    let said = super::installation::said(&output.stderr);
    if output.status.success() && !said.contains("ERROR:") {
        return Ok(());
    }
    Err(InstallationError::Failed { program: "postgres --single".into(), said })
}

/// To be raised when a template is made otherwise, as by [`SETTINGS`], [`HBA`] or [`BOOTSTRAP`], so that kept templates are made anew.
const TEMPLATE_EDITION: u32 = 2;

/// One statement a line, as single-user mode wants it.
const BOOTSTRAP: &str = "\
create role bench login password 'bench' in role pg_monitor
create role replicator login replication password 'replicator'
create database bench owner bench
";

/// Passwords are asked over TCP, where Trunkline and its clients are; the socket is for whoever holds the folder.
const HBA: &str = "\
local all         all trust
local replication all trust
host  all         all 127.0.0.1/32 scram-sha-256
host  replication all 127.0.0.1/32 scram-sha-256
";

/// Small, quick to start, and as chatty as a test wants it.
///
/// Shared memory of parallel queries lies in the data folder, so that a killed server leaves nothing behind; replicas
/// look for their primary every 100 ms, not every 5 s; wal_log_hints lets pg_rewind work.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
password_encryption = 'scram-sha-256'
shared_buffers = 32MB
dynamic_shared_memory_type = mmap
wal_level = replica
hot_standby = on
max_wal_senders = 10
wal_keep_size = 512MB
wal_log_hints = on
wal_retrieve_retry_interval = 100ms
wal_receiver_status_interval = 1s
max_prepared_transactions = 10
log_line_prefix = '%m [%p] %a '
";
