//! Three members of real Patroni over real etcd, in one temporary folder.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::NoTls;
use serde_json::Value;
use trunkline::demo::installation::Installation;
use trunkline::demo::port::Port;

use crate::certificates::Authority;
use crate::fixture::{eventually, http_get, login};

/// Which Patroni.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The newest of the Python package index, which `.ci/install` puts into a folder of its own.
    Newest,
    /// Debian's package.
    Debian,
}

/// The members, and the etcd that they agree by.
pub(crate) struct PatroniCluster {
    members: Vec<Member>,
    etcd: Child,
    folder: tempfile::TempDir,
    /// Its APIs are asked over TLS, and are vouched for by this one.
    authority: Option<Authority>,
}

/// One Patroni with its PostgreSQL.
pub(crate) struct Member {
    name: String,
    api: Port,
    postgres: Port,
    data: PathBuf,
    process: Child,
}

impl Release {
    fn program(self) -> PathBuf {
        match self {
            Self::Debian => PathBuf::from("/usr/bin/patroni"),
            Self::Newest => PathBuf::from("/opt/trunkline/patroni/bin/patroni"),
        }
    }
}

impl PatroniCluster {
    /// Starts all members; each has `tags[i]` as the YAML of its tags. Returns when all stream.
    pub(crate) fn start(release: Release, tags: [&str; 3], before_stop: Option<&str>) -> Self {
        Self::start_as(release, tags, before_stop, false)
    }

    /// Members whose APIs are asked over TLS, and do what is ordered only by whoever shows a certificate.
    pub(crate) fn start_with_certificates(release: Release) -> Self {
        Self::start_as(release, ["{}"; 3], None, true)
    }

    fn start_as(release: Release, tags: [&str; 3], before_stop: Option<&str>, has_certificates: bool) -> Self {
        let installation = Installation::find().unwrap();
        let folder = tempfile::Builder::new().prefix("trunkline-patroni-").tempdir_in("/tmp").unwrap();
        installation.own(folder.path()).unwrap();
        let authority = has_certificates.then(|| Authority::new(folder.path().join("tls")));
        let api = authority.as_ref().map(api_with_certificate).unwrap_or_default();
        let (etcd, store) = start_etcd(&installation, folder.path());
        let start = |(number, tags): (usize, &&str)| {
            Member::start(&installation, folder.path(), release, (number, tags), store, (before_stop, &api))
        };
        let members = tags.iter().enumerate().map(start).collect();
        let cluster = Self { members, etcd, folder, authority };
        cluster.prepare();
        cluster
    }

    fn prepare(&self) {
        eventually("Patroni has a leader", Duration::from_secs(60), || self.leader().is_some());
        let leader = &self.members[self.leader().unwrap()];
        let mut superuser = login(leader.postgres.number(), "postgres", "postgres");
        let mut superuser = superuser.dbname("postgres").connect(NoTls).unwrap();
        superuser.batch_execute("create role bench superuser login password 'bench'").unwrap();
        superuser.batch_execute("create database bench").unwrap();
        eventually("both replicas stream", Duration::from_secs(60), || self.streaming() == 2);
    }

    /// The folder for everything; it goes with the cluster.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// URLs of every member's REST API.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| self.url(member)).collect()
    }

    fn url(&self, member: &Member) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", member.api.number())
    }

    /// Who vouches for its APIs.
    pub(crate) fn authority(&self) -> &Authority {
        self.authority.as_ref().unwrap()
    }

    /// What a member answers to GET.
    fn answer(&self, member: &Member, path: &str) -> Option<String> {
        let Some(authority) = &self.authority else {
            return http_get(member.api.number(), path).ok().map(|(_, body)| body);
        };
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "2", "--cacert"]).arg(authority.certificate());
        let output = curl.arg(self.url(member) + path).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// A member by its number.
    pub(crate) fn member(&self, number: usize) -> &Member {
        &self.members[number]
    }

    /// What `/cluster` says, of the first member that answers.
    pub(crate) fn said(&self) -> Option<Value> {
        let answers = self.members.iter().filter_map(|member| self.answer(member, "/cluster"));
        answers.filter_map(|body| serde_json::from_str(&body).ok()).next()
    }

    /// The number of the member that leads.
    pub(crate) fn leader(&self) -> Option<usize> {
        let said = self.said()?;
        let leader = said["members"].as_array()?.iter().find(|member| member["role"] == "leader")?.clone();
        (leader["state"] == "running").then_some(())?;
        self.members.iter().position(|member| leader["name"] == *member.name)
    }

    /// Replicas that run, by Patroni's word.
    pub(crate) fn streaming(&self) -> usize {
        let Some(said) = self.said() else { return 0 };
        let runs = |member: &&Value| {
            member["role"] != "leader" && (member["state"] == "streaming" || member["state"] == "running")
        };
        let timeline =
            said["members"].as_array().unwrap().iter().filter_map(|member| member["timeline"].as_u64()).max();
        let is_of_it = |member: &&Value| member["timeline"].as_u64() == timeline;
        said["members"].as_array().unwrap().iter().filter(runs).filter(is_of_it).count()
    }

    /// Has Patroni switch over from one member to another, at once or at a moment. Returns its answer.
    pub(crate) fn switch_over(&self, from: usize, to: usize, at: Option<&str>) -> String {
        let mut order = serde_json::json!({
            "leader": self.members[from].name, "candidate": self.members[to].name });
        if let Some(at) = at {
            order["scheduled_at"] = at.into();
        }
        let body = order.to_string();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.members[to].api.number()));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /switchover HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    /// etcd itself stands still, or goes on.
    pub(crate) fn freeze_etcd(&self, is_frozen: bool) {
        signal(self.etcd.id(), if is_frozen { "STOP" } else { "CONT" });
    }
}

impl Member {
    fn start(
        installation: &Installation,
        folder: &Path,
        release: Release,
        (number, tags): (usize, &str),
        store: u16,
        (before_stop, of_api): (Option<&str>, &str),
    ) -> Self {
        let (name, api, postgres) = (format!("pg{number}"), Port::take().unwrap(), Port::take().unwrap());
        let data = folder.join(&name);
        let hook = before_stop.map_or(String::new(), |hook| {
            format!("  before_stop: '{}'\n", hook.replace("{port}", &postgres.number().to_string()))
        });
        let configuration = CONFIGURATION
            .replace("{name}", &name)
            .replace("{api}", &api.number().to_string())
            .replace("{of_api}", of_api)
            .replace("{store}", &store.to_string())
            .replace("{port}", &postgres.number().to_string())
            .replace("{folder}", folder.to_str().unwrap())
            .replace("{programs}", installation.programs().to_str().unwrap())
            .replace("{tags}", tags)
            + &hook;
        let file = folder.join(format!("{name}.yml"));
        fs::write(&file, configuration).unwrap();
        let log = File::create(folder.join(format!("{name}.log"))).unwrap();
        let mut command = installation.command(release.program().to_str().unwrap());
        command.arg(&file).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().unwrap_or_else(|error| panic!("{release:?} (by .ci/install): {error}"));
        Self { name, api, postgres, data, process }
    }

    /// The port of its PostgreSQL.
    pub(crate) fn port(&self) -> u16 {
        self.postgres.number()
    }

    /// `host:port` of its PostgreSQL.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// Its Patroni stands still, or goes on; its PostgreSQL runs.
    pub(crate) fn freeze_patroni(&self, is_frozen: bool) {
        signal(self.process.id(), if is_frozen { "STOP" } else { "CONT" });
    }

    fn end_postgres(&self, how: &str) {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return };
        if let Some(pid) = text.lines().next().and_then(|line| line.parse().ok()) {
            signal(pid, how);
        }
    }
}

impl Drop for PatroniCluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            signal(member.process.id(), "KILL");
            let _ = member.process.wait();
            member.end_postgres("QUIT");
            if std::thread::panicking() {
                let log =
                    fs::read_to_string(self.folder.path().join(format!("{}.log", member.name))).unwrap_or_default();
                let from = log.len().saturating_sub(3000);
                eprintln!("--- log of {}\n{}", member.name, log.get(from..).unwrap_or(&log));
            }
        }
        signal(self.etcd.id(), "KILL");
        let _ = self.etcd.wait();
        // Their shared memory goes as they end, which takes them a moment.
        let ended = || self.members.iter().all(|member| !member.data.join("postmaster.pid").exists());
        let begun = std::time::Instant::now();
        while !ended() && begun.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// More lines of `restapi`, and the section behind it by which members trust each other.
fn api_with_certificate(authority: &Authority) -> String {
    let (certificate, key) = authority.sign_for_server("patroni");
    let [authority, certificate, key] =
        [authority.certificate(), certificate, key].map(|file| file.display().to_string());
    format!(
        "  certfile: {certificate}\n  keyfile: {key}\n  cafile: {authority}\n  verify_client: optional\n\
         ctl:\n  cacert: {authority}\n  certfile: {certificate}\n  keyfile: {key}\n"
    )
}

fn start_etcd(installation: &Installation, folder: &Path) -> (Child, u16) {
    let (clients, peers) = (Port::take().unwrap(), Port::take().unwrap());
    let log = File::create(folder.join("etcd.log")).unwrap();
    let url = |port: &Port| format!("http://127.0.0.1:{}", port.number());
    let mut etcd = installation.command("/usr/bin/etcd");
    etcd.arg("--data-dir").arg(folder.join("etcd")).args(["--name", "one", "--unsafe-no-fsync"]);
    etcd.args(["--listen-client-urls", &url(&clients), "--advertise-client-urls", &url(&clients)]);
    etcd.args(["--listen-peer-urls", &url(&peers), "--initial-advertise-peer-urls", &url(&peers)]);
    etcd.args(["--initial-cluster", &format!("one={}", url(&peers))]);
    let child = etcd.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    eventually("etcd answers", Duration::from_secs(20), || http_get(clients.number(), "/health").is_ok());
    (child, clients.number())
}

fn signal(process: u32, name: &str) {
    Command::new("kill").args(["-s", name, &process.to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// What each member starts with. The times are the shortest that Patroni allows.
const CONFIGURATION: &str = "\
scope: main
name: {name}
restapi:
  listen: 127.0.0.1:{api}
  connect_address: 127.0.0.1:{api}
{of_api}etcd3:
  host: 127.0.0.1:{store}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 5
    postgresql:
      use_pg_rewind: true
      parameters: {fsync: 'off', wal_keep_size: 256MB, max_connections: 200}
  initdb:
  - encoding: UTF8
  - no-sync
  pg_hba:
  - local all all trust
  - host all all 127.0.0.1/32 trust
  - host replication all 127.0.0.1/32 trust
tags: {tags}
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {folder}/{name}
  bin_dir: {programs}
  pgpass: {folder}/pgpass-{name}
  authentication:
    superuser: {username: postgres, password: postgres}
    replication: {username: replicator, password: replicator}
  parameters: {unix_socket_directories: '{folder}'}
  basebackup: {checkpoint: fast}
";
