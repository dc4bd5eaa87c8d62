//! One PostgreSQL server of a [`super::cluster::Cluster`], and what can befall it.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::installation::{Installation, InstallationError, finish, said};
use super::port::Port;

/// A server with a data folder of its own; it is stopped when this is dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: Port,
    folder: PathBuf,
    sockets: PathBuf,
    installation: Installation,
    postmaster: Mutex<Option<Child>>,
}

/// How a server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Clients are told and closed, everything is written: SIGINT.
    Fast,
    /// Clients are closed, nothing is written, recovery follows: SIGQUIT.
    Immediate,
    /// New clients are refused, and the server ends when all others have left: SIGTERM.
    Smart,
}

/// Why something could not be done to a node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A PostgreSQL program failed.
    #[error(transparent)]
    Program(#[from] InstallationError),
    /// A file of the node could not be read or written.
    #[error("the files of a node")]
    Files(#[from] io::Error),
    /// The server ended instead of starting.
    #[error("{name} did not start:\n{log}")]
    Ended {
        /// The node's name.
        name: String,
        /// The end of its log.
        log: String,
    },
    /// The server did not do in time what it was asked.
    #[error("{name} did not {what} within {PATIENCE:?}:\n{log}")]
    TooSlow {
        /// The node's name.
        name: String,
        /// What it was asked.
        what: &'static str,
        /// The end of its log.
        log: String,
    },
}

impl Node {
    /// A node whose data folder exists already; [`Node::start`] comes next.
    pub(super) fn new(name: String, folder: PathBuf, sockets: PathBuf, installation: Installation) -> io::Result<Self> {
        Ok(Self { name, port: Port::take()?, folder, sockets, installation, postmaster: Mutex::new(None) })
    }

    /// Its name, which is also its `application_name` where it streams from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `host:port`, as Trunkline's configuration names it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// The folder of its socket, where every role may log in without a password.
    pub fn socket_folder(&self) -> &Path {
        &self.sockets
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> Result<(), NodeError> {
        self.launch()?;
        self.wait_until_ready()
    }

    /// Starts the server and does not wait.
    pub(super) fn launch(&self) -> Result<(), NodeError> {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.installation.command("postgres");
        // A process group of its own: Ctrl-C in the terminal is for us, and we stop the servers in order.
        command.arg("-D").arg(&self.folder).process_group(0).stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .map_err(|source| InstallationError::Spawn { program: "postgres (by setpriv)".into(), source })?;
        *self.held() = Some(child);
        Ok(())
    }

    /// Waits until the server takes connections.
    pub(super) fn wait_until_ready(&self) -> Result<(), NodeError> {
        let deadline = Instant::now() + PATIENCE;
        while !self.says_ready() {
            if self.has_ended() {
                return Err(NodeError::Ended { name: self.name.clone(), log: self.log_tail() });
            }
            self.check(deadline, "start")?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Stops the server and waits for its end; a node that does not run is left as it is.
    pub fn stop(&self, how: Stop) -> Result<(), NodeError> {
        let Some(postmaster) = self.postmaster_pid() else { return Ok(()) };
        signal(how.signal(), &[postmaster])?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() {
            self.check(deadline, "stop")?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Ends every process of the server at once, as a crash of its machine would, but the sockets are closed.
    pub fn kill(&self) -> Result<(), NodeError> {
        let Some(postmaster) = self.postmaster_pid() else { return Ok(()) };
        // Stopped first, so that no child is born between our look and the signal.
        self.halt(postmaster)?;
        let processes = family(postmaster);
        // All of them, so that none acts on the death of another: a backend that waits for a synchronous replica would show
        // its commit to others when the postmaster is gone, though no replica has it.
        signal("STOP", &processes)?;
        signal("KILL", &processes)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_ended() || processes.iter().any(|pid| is_running(*pid)) {
            self.check(deadline, "die")?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Stops every process of the server where it stands (SIGSTOP): connections stay open and nothing answers.
    pub fn freeze(&self) -> Result<(), NodeError> {
        let Some(postmaster) = self.postmaster_pid() else { return Ok(()) };
        self.halt(postmaster)?;
        Ok(signal("STOP", &family(postmaster))?)
    }

    /// Stops the postmaster where it stands. On a busy machine it may be in the middle of having a child when the signal comes.
    fn halt(&self, postmaster: u32) -> Result<(), NodeError> {
        signal("STOP", &[postmaster])?;
        let deadline = Instant::now() + PATIENCE;
        while process_fields(postmaster).is_some_and(|(state, _)| !matches!(state, 'T' | 'Z')) {
            self.check(deadline, "stand still")?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<(), NodeError> {
        let Some(postmaster) = self.postmaster_pid() else { return Ok(()) };
        Ok(signal("CONT", &family(postmaster))?)
    }

    /// Makes a replica the primary, waits until it takes writes, and says how long that took.
    pub fn promote(&self) -> Result<Duration, NodeError> {
        let begun = Instant::now();
        self.sql("select pg_promote(false)")?;
        self.sql("do $$ begin while pg_is_in_recovery() loop perform pg_sleep(0.002); end loop; end $$")?;
        Ok(begun.elapsed())
    }

    /// Holds replay: what the primary writes arrives here but is not seen.
    pub fn pause_replay(&self) -> Result<(), NodeError> {
        self.sql("select pg_wal_replay_pause()")?;
        self.sql(
            "do $$ begin while pg_get_wal_replay_pause_state() <> 'paused' loop \
             perform pg_sleep(0.002); end loop; end $$",
        )?;
        Ok(())
    }

    /// Lets replay go on.
    pub fn resume_replay(&self) -> Result<(), NodeError> {
        self.sql("select pg_wal_replay_resume()").map(drop)
    }

    /// Waits until this replica has replayed all that `upstream` has written by now.
    pub fn catch_up(&self, upstream: &Self) -> Result<(), NodeError> {
        let written = upstream.sql("select pg_current_wal_insert_lsn()")?;
        let deadline = Instant::now() + PATIENCE;
        // One question after the other: a loop on the replica itself would hold a snapshot, and replay would wait for that.
        while self.sql(&format!("select pg_wal_lsn_diff('{written}', pg_last_wal_replay_lsn()) <= 40"))? != "t" {
            self.check(deadline, "catch up")?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Streams from `upstream` from now on: by a reload where this is a running replica, else by a restart as one.
    ///
    /// A former primary that has written more than `upstream` knows can't follow it: see [`Node::rebuild_from`].
    pub fn follow(&self, upstream: &Self) -> Result<(), NodeError> {
        let was_replica = self.is_running_replica();
        self.write_upstream(upstream)?;
        if was_replica {
            return self.sql("select pg_reload_conf()").map(drop);
        }
        self.stop(Stop::Fast)?;
        self.start()
    }

    /// Throws the data folder away and makes this node a replica of `upstream` by pg_basebackup.
    pub fn rebuild_from(&self, upstream: &Self) -> Result<(), NodeError> {
        self.stop(Stop::Immediate)?;
        let settings = fs::read_to_string(self.folder.join(SETTINGS_FILE))?;
        fs::remove_dir_all(&self.folder)?;
        let mut backup = self.installation.command("pg_basebackup");
        backup.arg("-D").arg(&self.folder).args(["-c", "fast", "-X", "stream", "--no-sync", "-U", "postgres"]);
        backup.arg("-h").arg(&self.sockets).arg("-p").arg(upstream.port().to_string());
        finish("pg_basebackup", &mut backup)?;
        self.write(SETTINGS_FILE, &settings)?;
        self.write_upstream(upstream)?;
        self.start()
    }

    /// Runs SQL as superuser in database `bench`, past Trunkline, and returns what psql prints: rows as lines.
    pub fn sql(&self, text: &str) -> Result<String, NodeError> {
        let mut psql = self.installation.command("psql");
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "bench", "-h"]);
        psql.arg(&self.sockets).arg("-p").arg(self.port().to_string()).arg("-c").arg(text);
        psql.env("PGOPTIONS", "-c statement_timeout=30s").env("PGCONNECT_TIMEOUT", "10");
        Ok(said(&finish("psql", &mut psql)?.stdout))
    }

    /// What it says itself: it is in recovery.
    pub fn is_replica(&self) -> Result<bool, NodeError> {
        Ok(self.sql("select pg_is_in_recovery()")? == "t")
    }

    /// Whether its server runs (a frozen one does).
    pub fn is_running(&self) -> bool {
        !self.has_ended()
    }

    /// Everything the server wrote.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| said(&bytes)).unwrap_or_default()
    }

    /// The last lines of what the server wrote.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_TAIL_LINES)..).unwrap_or_default().join("\n")
    }

    /// Writes the settings that differ from node to node, before the first start.
    pub(super) fn write_settings(&self, settings: &str) -> io::Result<()> {
        let own = format!(
            "port = {}\ncluster_name = '{}'\nunix_socket_directories = '{}'\n{settings}\n",
            self.port(),
            self.name,
            self.sockets.display(),
        );
        self.write(SETTINGS_FILE, &own)
    }

    /// Makes the next start that of a replica of `upstream`.
    pub(super) fn write_upstream(&self, upstream: &Self) -> io::Result<()> {
        self.write(
            UPSTREAM_FILE,
            &format!(
                "primary_conninfo = 'host=127.0.0.1 port={} user=replicator password=replicator application_name={}'\n",
                upstream.port(),
                self.name,
            ),
        )?;
        self.write("standby.signal", "")
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let path = self.folder.join(file);
        fs::write(&path, text)?;
        self.installation.own(&path)
    }

    fn is_running_replica(&self) -> bool {
        self.is_running() && self.folder.join("standby.signal").exists()
    }

    /// Whether postmaster.pid, as this very server wrote it, says that connections are taken (its eighth line).
    fn says_ready(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.folder.join("postmaster.pid")) else { return false };
        let of_this_server = text.lines().next().and_then(|pid| pid.parse().ok()) == self.postmaster_pid();
        of_this_server && text.lines().nth(7).is_some_and(|status| status.trim() == "ready")
    }

    fn postmaster_pid(&self) -> Option<u32> {
        if self.has_ended() { None } else { self.held().as_ref().map(Child::id) }
    }

    fn has_ended(&self) -> bool {
        let mut held = self.held();
        let ended = held.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            *held = None;
        }
        ended
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, deadline: Instant, what: &'static str) -> Result<(), NodeError> {
        if Instant::now() < deadline {
            return Ok(());
        }
        Err(NodeError::TooSlow { name: self.name.clone(), what, log: self.log_tail() })
    }

    fn log_path(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    /// Frees the shared memory that a killed server could not free itself: its id is in postmaster.pid.
    fn free_shared_memory(&self) {
        let Ok(text) = fs::read_to_string(self.folder.join("postmaster.pid")) else { return };
        let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) else { return };
        // Nothing to do about a failure: it is gone already, or another user's.
        let _ = Command::new("ipcrm").args(["-m", id]).output();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody is left to tell; what SIGQUIT does not end within PATIENCE is killed.
        let _ = self.thaw();
        if self.stop(Stop::Immediate).is_err() {
            let _ = self.kill();
        }
        self.free_shared_memory();
    }
}

impl Stop {
    fn signal(self) -> &'static str {
        match self {
            Self::Fast => "INT",
            Self::Immediate => "QUIT",
            Self::Smart => "TERM",
        }
    }
}

/// Sends a signal; a process that is gone already is no error.
fn signal(name: &str, processes: &[u32]) -> io::Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s \"$@\" 2>/dev/null; true", "sh", name]);
    shell.args(processes.iter().map(u32::to_string)).status().map(drop)
}

/// A process, its children and theirs.
fn family(ancestor: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, process_fields(pid)?.1)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn is_running(pid: u32) -> bool {
    process_fields(pid).is_some_and(|(state, _)| state != 'Z')
}

/// State and parent of a process, from `/proc/PID/stat`, behind the name in brackets (which may hold anything).
fn process_fields(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Settings of one node, included by postgresql.conf.
pub(super) const SETTINGS_FILE: &str = "node.conf";
/// Whom a replica follows, included by postgresql.conf where it exists.
pub(super) const UPSTREAM_FILE: &str = "upstream.conf";

/// A start after a crash replays WAL, and a busy machine may take its time; more is a fault.
const PATIENCE: Duration = Duration::from_secs(20);
/// A start takes about 120 ms.
const POLL: Duration = Duration::from_millis(3);
/// Enough to see why a server ended.
const LOG_TAIL_LINES: usize = 30;
