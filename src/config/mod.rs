//! The configuration, checked: what [`load`] makes of a TOML file, or every problem it found.
//!
#![doc = include_str!("README.md")]

mod access;
mod address;
mod balance;
mod certificate;
mod cluster;
mod database;
mod demand;
mod document;
mod elsewhere;
mod failover;
mod limits;
mod listen;
mod log;
mod name;
mod own_addresses;
mod password;
mod patroni;
mod pool;
mod problem;
mod routing;
mod rule_action;
mod rule_conditions;
mod rule_file;
mod shown;
mod system_authorities;
mod tls;
mod user;
mod warnings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::auth::hba::{Network, Rules};
use crate::auth::{ClientTls, NodeTls, Secret};
use crate::balancing::Balance;
use crate::catalog::FunctionLists;
use crate::routing::{Consistency, Reads, RuleSet, Transactions};

use document::Document;

pub use address::is_node_address;
pub use certificate::{Certificate, ShownTo, Validity};
pub use database::{ANY_DATABASE, CONSOLE};
pub use pool::USUAL_POOL_SIZE;
pub use problem::{Place, Problem, Problems};
pub use shown::Shown;

/// Reads and checks a configuration with the rule and password files it names, which are looked for beside it. Every
/// problem is found at once.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    // The text may hold passwords.
    let text = std::fs::read_to_string(path).map(Zeroizing::new).unwrap_or_else(|error| {
        problems.push(Problem::of_file(path, format!("cannot be read: {error}")));
        Zeroizing::default()
    });
    if let Some(unread) = Problems::collect(std::mem::take(&mut problems)) {
        return Err(unread);
    }
    let config = Config::parse(path, &text, &mut problems);
    Problems::collect(problems).map_or(Ok(config), Err)
}

/// A whole configuration that has passed every check.
#[derive(Debug)]
pub struct Config {
    /// Where clients connect; at least one address, or one of the sockets below.
    pub listen: Vec<SocketAddr>,
    /// Sockets in the file system where clients connect, written in `listen` as `/folder:port`. Default none.
    pub listen_sockets: Vec<PathBuf>,
    /// Load balancers that begin each connection with a header of the PROXY protocol, `proxy_protocol_from`. Default none.
    pub proxies: Vec<Network>,
    /// Threads that serve clients. Default: one per two cores, bounds 1 to 1024.
    pub workers: usize,
    /// Answers are sent many at a time by io_uring, where the kernel has it and allows it. Default true.
    pub io_uring: bool,
    /// Most clients at once; one more is refused with 53300. Default 10000, bounds 1 to 1000000.
    pub max_clients: usize,
    /// HTTP for operators, `admin.listen`. Default None: off.
    pub admin_listen: Option<SocketAddr>,
    /// TLS towards clients. Default None: off.
    pub tls: Option<ClientTls>,
    /// Every certificate that we show to anybody.
    pub certificates: Vec<Certificate>,
    /// Who may look at things and change them at the console: names of users. Default none.
    pub console_users: Vec<Arc<str>>,
    /// Who may look at things at the console: names of users. Default none.
    pub stats_users: Vec<Arc<str>>,
    /// Replica sets; at least one.
    pub clusters: Vec<Cluster>,
    /// Names that clients ask for; at least one.
    pub databases: Vec<Database>,
    /// How clients prove who they are, `auth.hba_file` or `auth.hba`, with the maps of `auth.ident_file` or `auth.ident`.
    /// Default: everybody by password.
    pub access: Rules,
    /// Where access rules name the database `pgbouncer`, and none of that name is configured: in a file of PgBouncer's they are
    /// for its console, which has another name here.
    pub rules_of_pgbouncer: Vec<String>,
    /// Whom LDAP servers must be vouched for by: `auth.ldap_ca`, by default those whom the system trusts. None: no rule asks
    /// one over TLS.
    pub ldap_tls: Option<Arc<rustls::ClientConfig>>,
    /// How many authorities of the system's vouch for LDAP servers. None: they are not asked.
    pub system_authorities: Option<usize>,
    /// What could not be read of those whom the system trusts, where they are to vouch for LDAP servers.
    pub unread_authorities: Option<String>,
    /// Who may connect, those of `auth.users_file` included; at least one, unless a cluster is asked.
    pub users: Vec<User>,
    /// Server connections.
    pub pool: Pool,
    /// Where statements go.
    pub routing: Routing,
    /// What happens while there is no primary.
    pub failover: Failover,
    /// Limits on clients.
    pub limits: Limits,
    /// What is logged, and how.
    pub log: Log,
}

impl Config {
    /// What can be made of the text; not to be used if there are problems.
    fn parse(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Self {
        let folder = path.parent().unwrap_or(Path::new(""));
        let (mut access_problems, mut rule_problems) = (Vec::new(), Vec::new());
        let document = Document::parse(path, text);
        let root = document.root();
        let listen = listen::read(&root);
        let to_clients = tls::to_clients(&root, folder);
        let for_clients = |ends| Certificate { shown_to: ShownTo::Clients, ends };
        let mut certificates: Vec<Certificate> = to_clients.certificate_ends.map(for_clients).into_iter().collect();
        let clusters = cluster::read_all(&root, folder, &mut certificates);
        let access = access::read(&root, folder, &clusters, to_clients.looks_at_certificates, &mut access_problems);
        let asks_cluster = clusters.iter().any(|cluster| cluster.auth_query.is_some());
        let databases = database::read_all(&root, &clusters);
        let is_meant = databases.iter().any(|database| *database.name == *access::PGBOUNCER);
        let rules_of_pgbouncer = if is_meant { Vec::new() } else { access.rules_of_pgbouncer };
        let config = Self {
            listen: listen.addresses,
            listen_sockets: listen.sockets,
            admin_listen: listen.admin.listen,
            console_users: listen.admin.users,
            stats_users: listen.admin.stats_users,
            proxies: listen.proxies,
            tls: to_clients.tls,
            certificates,
            workers: root.count("workers", one_per_two_cores(), 1..=1024),
            io_uring: root.flag("io_uring", true),
            max_clients: root.count("max_clients", 10_000, 1..=1_000_000),
            databases,
            access: access.rules,
            rules_of_pgbouncer,
            ldap_tls: access.ldap_tls,
            system_authorities: access.system_authorities,
            unread_authorities: access.unread_authorities,
            users: user::read_all(&root, folder, access.users, asks_cluster),
            pool: Pool::read(root.section("pool")),
            routing: Routing::read(root.section("routing"), folder, &clusters, &mut rule_problems),
            failover: Failover::read(root.section("failover")),
            limits: Limits::read(root.section("limits")),
            log: Log::read(root.section("log")),
            clusters,
        };
        root.finish();
        problems.extend(document.into_problems());
        problems.append(&mut access_problems);
        problems.append(&mut rule_problems);
        config
    }
}

/// A worker is a thread that is busy whenever it has work, and the kernel needs as much again to carry its bytes:
/// measured, half as many workers as cores spend a fifth less per statement than one per two cores.
fn one_per_two_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// A replica set.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name in metrics, logs and `/topology`: 1 to 63 letters, digits, `_`, `-` and `.`.
    pub name: Arc<str>,
    /// `host:port` of every node, 1 to 256; the host in lower case, IPv6 in brackets. Roles are discovered. Where
    /// `patroni` is given it may be left out: then nodes are found as Patroni lists them.
    pub nodes: Vec<Arc<str>>,
    /// Patroni's REST API on one or more of its members, as in "http://db1:8008"; all others are found by these. Default
    /// none: only the nodes themselves are asked.
    pub patroni: Vec<PatroniUrl>,
    /// TLS towards those that begin with `https://`; `[cluster.patroni_tls]` has what `[cluster.tls]` has, but a mode
    /// below "require".
    pub patroni_tls: Option<Arc<rustls::ClientConfig>>,
    /// Groups of nodes for rules and hints: name to indexes into `nodes`. `tag:NAME` and `zone:NAME` are made of what
    /// `[[cluster.node]]` says of the nodes.
    pub groups: Vec<(Arc<str>, Vec<u16>)>,
    /// How the nodes share reads.
    pub balance: Balance,
    /// TLS towards its nodes. Default off.
    pub tls: NodeTls,
    /// Where passwords of users are asked for who stand in no configuration. Default None: nowhere.
    pub auth_query: Option<AuthQuery>,
    /// How nodes are probed.
    pub monitor: Monitor,
}

/// Where the REST API of a member of Patroni is, and how to log in to it.
#[derive(Debug, Clone)]
pub struct PatroniUrl {
    /// `host:port`.
    pub address: Arc<str>,
    /// It is asked over TLS.
    pub is_https: bool,
    /// Name and password in front of the address, as HTTP's Basic authentication wants them.
    pub login: Option<Secret>,
}

impl PartialEq for PatroniUrl {
    fn eq(&self, other: &Self) -> bool {
        fn login(url: &PatroniUrl) -> Option<&str> {
            url.login.as_ref().and_then(Secret::plain)
        }
        self.address == other.address && self.is_https == other.is_https && login(self) == login(other)
    }
}

/// How a cluster is asked for its users' passwords.
#[derive(Debug, Clone)]
pub struct AuthQuery {
    /// Role to log in as.
    pub user: Arc<str>,
    /// Its password, a plain one; also by `password_file` or `password_env`.
    pub password: Secret,
    /// Database to log in to. Default postgres.
    pub database: Arc<str>,
    /// Answers one row of name and password for the user `$1`. Default: from pg_shadow.
    pub query: Arc<str>,
}

/// How the nodes of a cluster are probed.
#[derive(Debug, Clone)]
pub struct Monitor {
    /// Role to log in as; pg_monitor lets it see more.
    pub user: Arc<str>,
    /// Its password, a plain one; also by `password_file` or `password_env`.
    pub password: Secret,
    /// Database to log in to. Default postgres.
    pub database: Arc<str>,
    /// Time between two probes of a node. Default 500 ms, bounds 10 ms to 1 min.
    pub interval: Duration,
    /// How long a probe may take. Default 1 s, bounds 10 ms to 1 min.
    pub timeout: Duration,
}

/// A name that clients ask for.
#[derive(Debug, Clone)]
pub struct Database {
    /// The name that clients ask for, 1 to 63 bytes; `trunkline` is taken by the console. `*` stands for every name that
    /// is not written.
    pub name: Arc<str>,
    /// The cluster that has it: an index into [`Config::clusters`].
    pub cluster: usize,
    /// Its name on the nodes; default: the same.
    pub server_name: Arc<str>,
    /// What it may take.
    pub allowance: Allowance,
}

/// Who may connect.
#[derive(Debug, Clone)]
pub struct User {
    /// The role's name, here and on the nodes, 1 to 63 bytes.
    pub name: Arc<str>,
    /// What a client must prove, and, if it is a plain password, what we prove to nodes; also by `password_file` or
    /// `password_env`.
    pub password: Secret,
    /// What we prove to nodes, if it is not the same: a plain password, also by `server_password_file` or
    /// `server_password_env`.
    pub server_password: Option<Secret>,
    /// What it may take.
    pub allowance: Allowance,
}

/// What one database or one user may take; for what is not said, the pool's settings count, or there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// When a server connection goes back. The user's goes before the database's, and that before `pool.mode`.
    pub pool_mode: Option<PoolMode>,
    /// Most server connections per node, database and user. The user's goes before the database's, and that before
    /// `pool.size`. Bounds 1 to 10000.
    pub pool_size: Option<usize>,
    /// Most server connections per node: of a database over all users, of a user over all databases. Default None: as
    /// many as the pools may have. Bounds 1 to 1000000.
    pub max_connections: Option<usize>,
    /// Most clients at once; one more is refused with 53300. Default None: `max_clients` alone counts. Bounds 1 to
    /// 1000000.
    pub max_clients: Option<usize>,
}

/// When a server connection goes back to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// After each transaction.
    Transaction,
    /// When the client leaves.
    Session,
    /// After each statement; transactions are refused.
    Statement,
}

impl PoolMode {
    /// The configuration's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Statement => "statement",
        }
    }
}

/// Server connections.
#[derive(Debug, Clone)]
pub struct Pool {
    /// When a server connection goes back. Default transaction.
    pub mode: PoolMode,
    /// Most server connections per node, database and user. Default 20, bounds 1 to 10000.
    pub size: usize,
    /// So many of a pool are kept open while a client is there for it, at most `size`. Default 0, bounds 0 to 10000.
    pub min_size: usize,
    /// So many more than `size` may be opened for clients that have waited for `reserve_timeout`. Default 0, bounds 0 to
    /// 10000.
    pub reserve_size: usize,
    /// See `reserve_size`. Default 5 s, bounds 0 to 1 h.
    pub reserve_timeout: Duration,
    /// How long a client waits for one, then 53300; at its login no longer than `failover.hold`. Default 30 s, bounds 0 to 1 h.
    pub queue_timeout: Duration,
    /// How long connecting and logging in to a node may take. Default 5 s, bounds 10 ms to 5 min.
    pub connect_timeout: Duration,
    /// An idle one is closed after this. Default 10 min, bounds 1 s to 7 days.
    pub idle_timeout: Duration,
    /// One is closed at this age, once idle; varied by up to a tenth. Default 1 h, bounds 1 s to 30 days.
    pub lifetime: Duration,
    /// Most prepared statements kept on one server connection. Default 500, bounds 1 to 100000.
    pub prepared_statements: usize,
}

/// Where statements go.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Where reads go. Default replicas.
    pub reads: Reads,
    /// What a session's reads must have seen. Default session.
    pub consistency: Consistency,
    /// Where transactions live that may write. Default primary.
    pub transactions: Transactions,
    /// A replica further behind takes no reads. Default 10 s, bounds 1 ms to 1 day.
    pub max_lag: Duration,
    /// How long one read may wait for a replica to catch up with its session. A wait in vain makes the
    /// next ones of its session rarer. Default 50 ms, bounds 0 to 1 s.
    pub freshness_wait: Duration,
    /// A look whether the catalogs have been changed otherwise than through Trunkline, or the server is configured anew, this
    /// often. Default 30 s, bounds 1 s to 1 day.
    pub catalog_refresh: Duration,
    /// `safe_functions`: may run on replicas whatever the catalogs say of them; `primary_functions`: need the primary;
    /// `session_functions`: need it, and leave something in their session that cannot be carried to another connection.
    /// Names, `schema.name` or patterns with `*`, compared exactly. PostgreSQL's own functions that need the primary
    /// cannot be made safe, nor what keeps something in its session. Default none.
    pub functions: Arc<FunctionLists>,
    /// Hints in comments count. Default true.
    pub hints: bool,
    /// The rules of all files that `routing.rules` names, in order. Default none.
    pub rules: Arc<RuleSet>,
}

/// What happens while there is no primary.
#[derive(Debug, Clone)]
pub struct Failover {
    /// How long statements wait for a primary before they fail with 57P03, and logins for a node that answers and has a server
    /// connection free. Default 10 s, bounds 0 to 10 min.
    pub hold: Duration,
    /// How long PAUSE, DRAIN and WAIT_CLOSE wait for open transactions and connections; PAUSE resumes then. Default 30 s,
    /// bounds 0 to 1 day.
    pub pause_timeout: Duration,
    /// How long statements of a paused database wait for RESUME before they fail with 57P03, and so logins for which a node
    /// must be asked. Default 2 min, bounds 0 to 1 day.
    pub pause_hold: Duration,
    /// Whether a transaction whose node is lost before its COMMIT was sent is run again on the next primary: if every
    /// answer is the same as before, its client notices a pause only; if not, it gets 40001. Default false.
    pub replay: bool,
    /// Most bytes of one transaction's statements that are kept to be run again. Default 1 MB, bounds 1 kB to 1 GB.
    pub replay_bytes: usize,
    /// Once there has been no primary for `hold`, a read that no replica is known to be fresh enough for is answered by one
    /// that was at most so far behind the last primary; None: it fails. Default none, bounds 1 ms to 1 day.
    pub stale_reads: Option<Duration>,
    /// How long before a planned switchover new statements are held back so that open transactions can end. Default 2 s,
    /// bounds 0 to 1 min.
    pub drain: Duration,
}

/// Limits on clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long startup and authentication may take, not counting a wait for RESUME. Default 15 s, bounds 100 ms to 10 min.
    pub login_timeout: Duration,
    /// Largest statement text, in bytes, that is parsed; a larger one goes to the primary unseen. Default 1 MB, bounds
    /// 1 kB to 1 GB.
    pub statement_bytes: usize,
    /// Most bytes of one client's unsent messages kept in memory. Default 64 MB, bounds 64 kB to 1 GB.
    pub buffer_bytes: usize,
    /// How long a stopping Trunkline lets transactions go on; whose has not ended by then is told 57P01. Default 30 s, bounds 0
    /// to 1 day.
    pub drain_timeout: Duration,
    /// Bytes of statement cache per worker. Default 32 MB, bounds 1 MB to 64 GB.
    pub statement_cache_bytes: usize,
    /// A client that sends nothing for so long outside of a transaction is ended with 57P05. Default None: never. Bounds
    /// 1 s to 7 days, looked at once a second, as the two below.
    pub client_idle_timeout: Option<Duration>,
    /// A client that sends nothing for so long within a transaction is ended with 25P03, and the transaction rolled back;
    /// so is a batch that has done something and waits for its Sync.
    /// Default None: never. Bounds 1 s to 7 days.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// A statement that is proven to be a read, outside of a transaction, is cancelled after so long (57014). Anything
    /// else is never cancelled by a timer of ours. Default None: never. Bounds 1 s to 7 days.
    pub query_timeout: Option<Duration>,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// error, warn, info, debug or trace, or a tracing filter. Default info.
    pub level: String,
    /// `format`: lines for people (text) or for machines (json). Default text.
    pub json: bool,
    /// Each client is logged when it has logged in, and when it leaves. Default false.
    pub connections: bool,
}

/// Where the configuration came from, for reload and messages.
#[derive(Debug, Clone)]
pub struct Source(pub PathBuf);
