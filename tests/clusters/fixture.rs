//! What every cluster test starts from: a cluster, Trunkline before it, clients, and a limit on time.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};
use toml::{Table, Value};
use trunkline::demo::cluster::{BenchRole, Cluster, Shape};
pub(crate) use trunkline::demo::http::get as http_get;
use trunkline::demo::installation::Installation;
use trunkline::demo::node::Node;
use trunkline::demo::server::{Places, Server};

/// A test that takes longer hangs; the slowest good one takes a third of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test's body, and ends the whole process when it does not end in time.
pub(crate) fn limited(body: impl FnOnce() + Send + 'static) {
    limited_to(LIMIT, body);
}

/// The same with a limit of its own.
pub(crate) fn limited_to(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let body = thread::Builder::new()
        .name(test.clone())
        .spawn(move || {
            let _done = done;
            body();
        })
        .unwrap();
    if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
        // Past the capture of output, which dies with the process; the servers get their signal as our threads end.
        let _ = writeln!(std::io::stderr(), "{test} did not end within {limit:?}");
        std::process::exit(1);
    }
    if let Err(panic) = body.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A number from the environment.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A primary and two replicas, copied from a template that is kept between runs.
pub(crate) fn shape() -> Shape {
    let template = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-templates");
    Shape { bench_role: BenchRole::Superuser, template: Some(template), ..Shape::default() }
}

/// [`shape`] started.
pub(crate) fn cluster() -> Cluster {
    Cluster::start(&shape()).unwrap()
}

/// The program under test: `TRUNKLINE_PROGRAM` names another build of it.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("TRUNKLINE_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_trunkline").into()).into()
}

/// The one that breaks promises.
#[cfg(feature = "broken")]
pub(crate) fn broken_program() -> PathBuf {
    env!("CARGO_BIN_EXE_trunkline_broken").into()
}

/// Trunkline running before a cluster; killed when dropped, and its log is shown when the test fails.
pub(crate) struct Proxy(Server);

impl Proxy {
    /// Starts Trunkline with the configuration of the contract, `extra` laid over it, and waits for `/ready`.
    pub(crate) fn start(cluster: &Cluster, extra: &str) -> Self {
        Self::of_program(&program(), cluster, extra)
    }

    /// The same of another program.
    pub(crate) fn of_program(program: &Path, cluster: &Cluster, extra: &str) -> Self {
        let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(Node::address).collect();
        Self::of(program, cluster, &nodes, extra)
    }

    /// The same, where the nodes are reached by other addresses, as through a relay.
    pub(crate) fn before(cluster: &Cluster, nodes: &[SocketAddr], extra: &str) -> Self {
        Self::of(&program(), cluster, nodes, extra)
    }

    fn of(program: &Path, cluster: &Cluster, nodes: &[SocketAddr], extra: &str) -> Self {
        let places = places(cluster);
        let mut configuration: Table = places.configuration(nodes).parse().unwrap();
        lay_over(&mut configuration, extra.parse().unwrap());
        let started = Server::start(program, places, &toml::to_string(&configuration).unwrap());
        Self(started.unwrap_or_else(|problem| panic!("{problem}")))
    }

    /// The same, where only Patroni is named: `urls` of its REST API.
    pub(crate) fn over_patroni(folder: &Path, urls: &[String], extra: &str) -> Self {
        Self::over_patroni_as(folder, urls, "", extra)
    }

    /// The same, with `of_cluster` laid over the settings of the cluster.
    pub(crate) fn over_patroni_as(folder: &Path, urls: &[String], of_cluster: &str, extra: &str) -> Self {
        let places = Places::take(folder.join("trunkline")).unwrap();
        let mut configuration: Table = places.configuration(&[]).parse().unwrap();
        let cluster = configuration["cluster"][0].as_table_mut().unwrap();
        cluster.remove("nodes");
        cluster.insert("patroni".to_owned(), urls.to_vec().into());
        lay_over(cluster, of_cluster.parse().unwrap());
        lay_over(&mut configuration, extra.parse().unwrap());
        let started = Server::start(&program(), places, &toml::to_string(&configuration).unwrap());
        Self(started.unwrap_or_else(|problem| panic!("{problem}")))
    }

    /// Starts Trunkline with the configuration that `write` puts into the file it is given, but for where it listens.
    pub(crate) fn written(cluster: &Cluster, write: impl FnOnce(&Path)) -> Self {
        let places = places(cluster);
        write(&places.config_path());
        let mut configuration: Table = std::fs::read_to_string(places.config_path()).unwrap().parse().unwrap();
        let ours: Table = places.configuration(&[]).parse().unwrap();
        configuration.insert("listen".to_owned(), ours["listen"].clone());
        lay_over(&mut configuration, Table::from_iter([("admin".to_owned(), ours["admin"].clone())]));
        let started = Server::start(&program(), places, &toml::to_string(&configuration).unwrap());
        Self(started.unwrap_or_else(|problem| panic!("{problem}")))
    }

    /// Starts Trunkline with these rules, and `of_cluster` laid over the settings of the cluster.
    pub(crate) fn ruled(cluster: &Cluster, rules: &str, of_cluster: &str, extra: &str) -> Self {
        let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(Node::address).collect();
        Self::ruled_before(cluster, &nodes, rules, of_cluster, extra)
    }

    /// The same, where the nodes are reached by other addresses.
    pub(crate) fn ruled_before(
        cluster: &Cluster,
        nodes: &[SocketAddr],
        rules: &str,
        of_cluster: &str,
        extra: &str,
    ) -> Self {
        let mut extra: Table = extra.parse().unwrap();
        if !rules.is_empty() {
            let path = cluster.folder().join("rules.toml");
            std::fs::write(&path, rules).unwrap();
            let named = Table::from_iter([("rules".to_owned(), vec![path.to_str().unwrap()].into())]);
            lay_over(&mut extra, Table::from_iter([("routing".to_owned(), named.into())]));
        }
        let of_cluster: Table = of_cluster.parse().unwrap();
        lay_over(&mut extra, Table::from_iter([("cluster".to_owned(), of_cluster.into())]));
        Self::before(cluster, nodes, &toml::to_string(&extra).unwrap())
    }

    /// Waits until both replicas of the cluster take reads.
    pub(crate) fn with_both_replicas(self, cluster: &Cluster) -> Self {
        for replica in [1, 2] {
            eventually("the replica takes reads", Duration::from_secs(10), || {
                self.takes_reads(cluster.node(replica).address())
            });
        }
        self
    }

    /// Where clients connect.
    pub(crate) fn port(&self) -> u16 {
        self.0.port()
    }

    /// Settings of a connection through it, as `bench` to `bench`.
    pub(crate) fn client_config(&self) -> Config {
        login(self.port(), "bench", "bench")
    }

    /// A connection through it.
    pub(crate) fn client(&self) -> Client {
        self.client_config().connect(NoTls).unwrap()
    }

    /// What it has written to its log.
    pub(crate) fn log(&self) -> String {
        self.0.log()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Changes its configuration file; it is not told.
    pub(crate) fn rewrite(&self, change: impl FnOnce(&mut Table)) {
        let path = self.0.config_path();
        let mut configuration: Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        change(&mut configuration);
        std::fs::write(path, toml::to_string(&configuration).unwrap()).unwrap();
    }

    /// Sends it a signal, as in `signal("HUP")`.
    pub(crate) fn signal(&self, name: &str) {
        assert!(signalled(self.pid(), name));
    }

    /// The file it was started with.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.0.config_path()
    }

    /// Its resident memory.
    pub(crate) fn resident_megabytes(&self) -> u64 {
        self.megabytes("VmRSS:")
    }

    /// The most that was resident so far.
    pub(crate) fn peak_megabytes(&self) -> u64 {
        self.megabytes("VmHWM:")
    }

    fn megabytes(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    /// Its share of memory.
    pub(crate) fn proportional_bytes(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0.pid())).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// The body of a page of its admin listener; panics when it can't be had.
    pub(crate) fn page(&self, path: &str) -> String {
        let (status, body) = self.0.page(path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// What `/topology` says of a node: whether reads are sent there.
    pub(crate) fn takes_reads(&self, node: SocketAddr) -> bool {
        let topology: serde_json::Value = serde_json::from_str(&self.page("/topology")).unwrap();
        let nodes = topology["clusters"][0]["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|told| told["address"] == node.to_string()).unwrap();
        node["takes_reads"].as_bool().unwrap()
    }

    /// The sum of a metric over all its labels that contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        self.samples(name, labels).iter().sum()
    }

    /// There is such a metric.
    pub(crate) fn has_metric(&self, name: &str, labels: &str) -> bool {
        !self.samples(name, labels).is_empty()
    }

    /// The values of a metric, one for each of its labels that contain `labels`.
    pub(crate) fn samples(&self, name: &str, labels: &str) -> Vec<f64> {
        self.page("/metrics")
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| line.contains(labels))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of trunkline (port {})\n{}", self.port(), self.0.log());
        }
    }
}

/// A folder for one more Trunkline beside the cluster, and ports.
fn places(cluster: &Cluster) -> Places {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Places::take(cluster.folder().join(format!("trunkline{number}"))).unwrap()
}

/// Tables are merged, an array of tables grows, or one table is laid over its first; everything else is replaced.
fn lay_over(base: &mut Table, extra: Table) {
    for (key, value) in extra {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(extra)) => lay_over(base, extra),
            (Some(Value::Array(base)), Value::Array(extra)) if base.iter().all(Value::is_table) && !base.is_empty() => {
                base.extend(extra);
            }
            (Some(Value::Array(base)), Value::Table(extra)) if base.first().is_some_and(Value::is_table) => {
                lay_over(base[0].as_table_mut().unwrap(), extra);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Settings of a connection to a port of this machine, to the database `bench`.
pub(crate) fn login(port: u16, role: &str, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(role).password(password).dbname("bench");
    config.connect_timeout(Duration::from_secs(5));
    config
}

/// A console of this Trunkline, which must let `bench` in.
pub(crate) fn console(proxy: &Proxy) -> Client {
    login(proxy.port(), "bench", "bench").dbname("trunkline").connect(NoTls).unwrap()
}

/// What pg_dump makes of the database.
pub(crate) fn dumped(proxy: &Proxy) -> String {
    let mut dump = Installation::find().unwrap().command("pg_dump");
    dump.args(["-h", "127.0.0.1", "-U", "bench", "-p", &proxy.port().to_string(), "bench"]).env("PGPASSWORD", "bench");
    let output = dump.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The value of a setting, as SHOW has it.
pub(crate) fn shown(client: &mut Client, name: &str) -> String {
    client.query_one(&format!("show {name}"), &[]).unwrap().get(0)
}

/// The first value that a statement answers: the port of the server it ran on, in all our uses.
pub(crate) fn server_port(client: &mut Client, sql: &str) -> u16 {
    let port: i32 = client.query_one(sql, &[]).unwrap().get(0);
    port.try_into().unwrap()
}

/// Sends a signal to a process. False: there is none.
pub(crate) fn signalled(process: u32, name: &str) -> bool {
    Command::new("kill").args(["-s", name, &process.to_string()]).output().unwrap().status.success()
}

/// Asks again every few milliseconds until the answer is yes; panics with `what` when the time is over.
pub(crate) fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

/// pgbench through a port, as `bench` to `bench`; PostgreSQL's own one, wherever it is installed.
pub(crate) fn pgbench(port: u16, arguments: &[&str]) -> Command {
    let installation = Installation::find().unwrap();
    let mut pgbench = installation.command("pgbench");
    pgbench.args(["-h", "127.0.0.1", "-U", "bench", "-p", &port.to_string()]).args(arguments).arg("bench");
    pgbench.env("PGPASSWORD", "bench");
    pgbench
}
