//! What every cluster test starts from: a cluster, Trunkline before it, clients, and a limit on time.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls};
use toml::{Table, Value};
use trunkline::demo::cluster::{BenchRole, Cluster, Shape};
use trunkline::demo::port::Port;

/// A test that takes longer hangs; the slowest good one takes a third of it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs a test's body, and ends the whole process when it does not end in time.
pub(crate) fn limited(body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let body = thread::Builder::new()
        .name(test.clone())
        .spawn(move || {
            let _done = done;
            body();
        })
        .unwrap();
    if ended.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
        // Past the capture of output, which dies with the process; the servers get their signal as our threads end.
        let _ = writeln!(std::io::stderr(), "{test} did not end within {LIMIT:?}");
        std::process::exit(1);
    }
    if let Err(panic) = body.join() {
        std::panic::resume_unwind(panic);
    }
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

/// Trunkline running before a cluster; killed when dropped, and its log is shown when the test fails.
pub(crate) struct Proxy {
    child: Child,
    port: Port,
    admin: Port,
    folder: PathBuf,
}

impl Proxy {
    /// Starts Trunkline with the configuration of the contract, `extra` laid over it, and waits for `/ready`.
    pub(crate) fn start(cluster: &Cluster, extra: &str) -> Self {
        let nodes: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.address()).collect();
        Self::before(cluster, &nodes, extra)
    }

    /// The same, where the nodes are reached by other addresses, as through a relay.
    pub(crate) fn before(cluster: &Cluster, nodes: &[SocketAddr], extra: &str) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = cluster.folder().join(format!("trunkline{number}"));
        fs::create_dir(&folder).unwrap();
        let (port, admin) = (Port::take().unwrap(), Port::take().unwrap());
        let config = configuration(port.number(), admin.number(), nodes, extra);
        fs::write(folder.join("trunkline.toml"), config).unwrap();
        let child = launch(&folder);
        let mut proxy = Self { child, port, admin, folder };
        proxy.wait_until_ready();
        proxy
    }

    /// Where clients connect.
    pub(crate) fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file it was started with.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.folder.join("trunkline.toml")
    }

    /// Everything it wrote so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("trunkline.log")).unwrap_or_default()
    }

    /// Settings of a connection through it, as `bench` to `bench`.
    pub(crate) fn client_config(&self) -> Config {
        login(self.port(), "bench", "bench")
    }

    /// A connection through it.
    pub(crate) fn client(&self) -> Client {
        self.client_config().connect(NoTls).unwrap()
    }

    /// The body of a page of its admin listener; panics when it can't be had.
    pub(crate) fn page(&self, path: &str) -> String {
        let (status, body) = http_get(self.admin.number(), path).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// `/topology`, parsed.
    pub(crate) fn topology(&self) -> serde_json::Value {
        serde_json::from_str(&self.page("/topology")).unwrap()
    }

    /// What `/topology` says of a node: whether reads are sent there.
    pub(crate) fn takes_reads(&self, node: SocketAddr) -> bool {
        let topology = self.topology();
        let nodes = topology["clusters"][0]["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|told| told["address"] == node.to_string()).unwrap();
        node["takes_reads"].as_bool().unwrap()
    }

    /// The sum of a metric over all its labels that contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> f64 {
        self.page("/metrics")
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter(|line| line.contains(labels))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !matches!(http_get(self.admin.number(), "/ready"), Ok((200, _))) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("trunkline ended with {status}");
            }
            assert!(Instant::now() < deadline, "trunkline is not ready");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of trunkline (port {})\n{}", self.port(), self.log());
        }
    }
}

/// The contract's configuration with our ports and nodes, and `extra` (TOML) laid over it.
fn configuration(port: u16, admin: u16, nodes: &[SocketAddr], extra: &str) -> String {
    let addresses: Vec<String> = nodes.iter().map(|node| format!("'{node}'")).collect();
    let base = format!(
        "listen = ['127.0.0.1:{port}']
         [admin]
         listen = '127.0.0.1:{admin}'
         [[cluster]]
         name = 'main'
         nodes = [{}]
         [cluster.monitor]
         user = 'bench'
         password = 'bench'
         database = 'postgres'
         interval = '100ms'
         timeout = '1s'
         [[database]]
         name = 'bench'
         cluster = 'main'
         [[user]]
         name = 'bench'
         password = 'bench'
         [pool]
         mode = 'transaction'
         size = 20
         [routing]
         reads = 'replicas'
         consistency = 'session'
         max_lag = '10s'
         rules = []
         [failover]
         hold = '10s'",
        addresses.join(", ")
    );
    let mut whole: Table = base.parse().unwrap();
    lay_over(&mut whole, extra.parse().unwrap());
    toml::to_string(&whole).unwrap()
}

/// Tables are merged, an array of tables grows, everything else is replaced.
fn lay_over(base: &mut Table, extra: Table) {
    for (key, value) in extra {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(extra)) => lay_over(base, extra),
            (Some(Value::Array(base)), Value::Array(extra)) if base.iter().all(Value::is_table) && !base.is_empty() => {
                base.extend(extra);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn launch(folder: &Path) -> Child {
    let log = fs::File::create(folder.join("trunkline.log")).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_trunkline"), "run", "--config"])
        .arg(folder.join("trunkline.toml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Settings of a connection to a port of this machine, to the database `bench`.
pub(crate) fn login(port: u16, role: &str, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user(role).password(password).dbname("bench");
    config.connect_timeout(Duration::from_secs(5));
    config
}

/// The first value that a statement answers: the port of the server it ran on, in all our uses.
pub(crate) fn server_port(client: &mut Client, sql: &str) -> u16 {
    let port: i32 = client.query_one(sql, &[]).unwrap().get(0);
    port.try_into().unwrap()
}

/// Status and body of a page, by the plainest HTTP there is.
pub(crate) fn http_get(port: u16, path: &str) -> std::io::Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { joined_chunks(body) } else { body.to_owned() }))
}

fn joined_chunks(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..length).filter(|chunk| !chunk.is_empty()) else { break };
        whole.push_str(chunk);
        body = rest.get(length + 2..).unwrap_or("");
    }
    whole
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
    let installation = trunkline::demo::installation::Installation::find().unwrap();
    let mut pgbench = installation.command("pgbench");
    pgbench.args(["-h", "127.0.0.1", "-U", "bench", "-p", &port.to_string()]).args(arguments).arg("bench");
    pgbench.env("PGPASSWORD", "bench");
    pgbench
}
