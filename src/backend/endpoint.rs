//! How a node is reached: its address, and TLS on the way there.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::connect::{ConnectClass, ConnectError};
use crate::auth::NodeTls;
use crate::net::timers::timeout_at;
use crate::net::{Stream, apart};
use crate::wire::startup;

/// How a node is reached; cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// `host:port`, the name resolved for every connection; or `/folder:port`, a socket in the file system.
    pub address: Arc<str>,
    /// Shared by all who connect to the cluster, so that new settings are everybody's at once.
    tls: Arc<ArcSwap<NodeTls>>,
    /// Where a connection has led, if that is where others are to go.
    reached: Option<SocketAddr>,
    /// Where a connection is to go rather than to another address of the name.
    preferred: Option<IpAddr>,
}

/// What is asked of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Without TLS.
    Plain,
    /// With TLS if the node has it.
    EncryptedIfPossible,
    /// With TLS.
    Encrypted,
}

impl Endpoint {
    /// This address, with the TLS settings that are in force when a connection is made.
    pub fn new(address: Arc<str>, tls: Arc<ArcSwap<NodeTls>>) -> Self {
        Self { address, tls, reached: None, preferred: None }
    }

    /// The server that this connection goes to, whatever the name leads to meanwhile.
    pub fn reached_by(&self, stream: &Stream) -> Self {
        Self { reached: stream.socket().peer_address(), ..self.clone() }
    }

    /// From now on, this one goes before the other addresses of the name, if it is one of them.
    pub fn prefer(&mut self, address: Option<IpAddr>) {
        self.preferred = address;
    }

    /// This address, without TLS.
    pub fn plain(address: Arc<str>) -> Self {
        Self::new(address, Arc::default())
    }

    /// The TLS settings in force.
    pub fn tls(&self) -> Arc<NodeTls> {
        self.tls.load_full()
    }

    /// It is no socket in the file system, on which nobody speaks TLS.
    pub(super) fn may_have_tls(&self) -> bool {
        socket_path(&self.address).is_none()
    }

    /// A connection on which nothing of PostgreSQL has been said yet. Whoever calls waits no longer than until the deadline; here
    /// only the time for its name comes from that.
    pub async fn open(&self, tls: &NodeTls, way: Way, deadline: Instant) -> Result<Stream, ConnectError> {
        if let Some(path) = socket_path(&self.address) {
            // As libpq: who can read the file system's sockets can read the server's memory.
            return UnixStream::connect(path).await.map(Stream::from).map_err(refusal);
        }
        let mut stream = match self.reached {
            Some(address) => open_tcp(address).await?,
            None => open_by_name(&self.address, self.preferred, deadline).await?,
        };
        let Some(config) = tls.config().filter(|_| way != Way::Plain) else { return Ok(stream.into()) };
        match ask_for_tls(&mut stream).await? {
            b'S' => {
                let name = server_name(&self.address).map_err(ConnectError::Tls)?;
                Stream::from(stream).connect(config, name).await.map_err(handshake_failure)
            }
            b'N' if way == Way::EncryptedIfPossible => Ok(stream.into()),
            b'N' => Err(ConnectError::Tls(io::Error::other("it does not speak TLS"))),
            // As where it has no memory for another process, which passes.
            b'E' if way == Way::Encrypted => {
                Err(ConnectError::Protocol("an error in place of an answer to the request for TLS"))
            }
            // The beginning of an error, from before it knew what we speak: what it says comes again without TLS.
            _ => Err(ConnectError::Tls(io::Error::other("it refused the request for TLS"))),
        }
    }
}

/// Where the socket of an address like `/run/postgresql:5432` is.
fn socket_path(address: &str) -> Option<PathBuf> {
    let (folder, port) = address.rsplit_once(':').filter(|_| address.starts_with('/'))?;
    Some(PathBuf::from(folder).join(format!(".s.PGSQL.{port}")))
}

/// Asks and reads one byte: what an attacker sends along behind it is read as TLS, and refused as such.
async fn ask_for_tls(stream: &mut TcpStream) -> Result<u8, ConnectError> {
    let mut request = BytesMut::new();
    startup::put_ssl_request(&mut request);
    stream.write_all(&request).await.map_err(ConnectError::Io)?;
    stream.read_u8().await.map_err(ConnectError::Io)
}

/// What the certificate of whoever listens at `host:port` must name: the host as it stands there.
pub fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(ServerName::from(address));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_owned();
    ServerName::try_from(name).map_err(io::Error::other)
}

/// What TLS itself finds wrong stays wrong; a connection that broke may not break again.
fn handshake_failure(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::InvalidData => ConnectError::Tls(error),
        _ => ConnectError::Io(error),
    }
}

/// Tries every address of the name; the last one's failure counts.
async fn open_by_name(address: &str, preferred: Option<IpAddr>, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let addresses = looked_up(apart::look_up(address), deadline).await?;
    let mut failure = ConnectError::Dns(io::ErrorKind::NotFound.into());
    for address in in_turn(addresses, preferred) {
        match open_tcp(address).await {
            Ok(stream) => return Ok(stream),
            Err(next) => {
                // What this machine lacks for one address says nothing of what the node has said at another.
                let is_told = !matches!(failure, ConnectError::Dns(_));
                if !(is_told && next.class() == ConnectClass::Short) {
                    failure = next;
                }
            }
        }
    }
    Err(failure)
}

/// The preferred one first, the others as they were found.
fn in_turn(mut addresses: Vec<SocketAddr>, preferred: Option<IpAddr>) -> Vec<SocketAddr> {
    addresses.sort_by_key(|address| Some(address.ip()) != preferred);
    addresses
}

/// What a lookup brings in its part of the time until the deadline.
async fn looked_up<T>(lookup: impl Future<Output = io::Result<T>>, deadline: Instant) -> Result<T, ConnectError> {
    let now = Instant::now();
    let limit = now + deadline.saturating_duration_since(now).mul_f64(PART_FOR_NAMES);
    // Dropping it loses an answer that nobody waits for any more.
    match timeout_at(limit, lookup).await {
        Ok(found) => found.map_err(|error| match error.kind() {
            // There was no thread to ask with, which tells nothing of the node.
            io::ErrorKind::WouldBlock => ConnectError::Io(io::Error::from_raw_os_error(libc::ENOMEM)),
            _ => ConnectError::Dns(error),
        }),
        Err(_) => Err(ConnectError::LookupTimeout),
    }
}

async fn open_tcp(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(address).await.map_err(refusal)?;
    prepare(&stream).map_err(ConnectError::Io)?;
    Ok(stream)
}

/// What it means that nobody took the connection.
pub(super) fn refusal(error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown
        // A socket in the file system goes with its server.
        | io::ErrorKind::NotFound => ConnectError::Refused(error),
        io::ErrorKind::TimedOut => ConnectError::Timeout,
        _ => ConnectError::Io(error),
    }
}

/// Small messages go out at once; a peer that vanished without a word is noticed by the kernel while nothing is on its way to
/// it, and by the topology else. A single connection that something between swallows, while its node lives, is sent to again
/// for some 15 minutes (`net.ipv4.tcp_retries2`). By TCP_USER_TIMEOUT Linux would cut off backends, too, that live and read
/// nothing for so long, as under a COPY that waits for a lock.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))
}

/// So much of the time goes to finding out where the node is, at most. The rest is its own: a node that is up needs less by far, and
/// its silence means something else than that of a nameserver.
const PART_FOR_NAMES: f64 = 0.75;

/// Silence after which the kernel asks whether the node is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_RETRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::auth::{TlsMode, TlsTexts, TlsVersion};

    #[tokio::test]
    async fn an_error_in_answer_to_the_request_for_tls_passes_where_nothing_else_is_to_be_tried() {
        let tls = NodeTls::new(TlsMode::Require, TlsVersion::V1_2, TlsTexts::default()).unwrap();
        for (answer, way, class) in [
            (b'E', Way::Encrypted, ConnectClass::Broken),
            (b'E', Way::EncryptedIfPossible, ConnectClass::Denied),
            (b'N', Way::Encrypted, ConnectClass::Denied),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = Endpoint::plain(listener.local_addr().unwrap().to_string().into());
            let answering = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 8]).await.unwrap();
                stream.write_u8(answer).await.unwrap();
            };
            let deadline = Instant::now() + Duration::from_secs(10);
            let (opened, ()) = tokio::join!(endpoint.open(&tls, way, deadline), answering);
            assert_eq!(opened.unwrap_err().class(), class, "{way:?}");
        }
    }

    #[tokio::test]
    async fn who_resolves_no_name_leaves_time_to_connect_and_is_not_taken_for_the_node() {
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(800);
        let unanswered = looked_up(std::future::pending::<io::Result<()>>(), deadline).await.unwrap_err();
        assert!((600..800).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        assert_eq!(unanswered.class(), ConnectClass::NotLookedUp);
        assert_eq!(unanswered.to_string(), "its name was not resolved in time");
        let no_such = looked_up(async { Err::<(), _>(io::ErrorKind::NotFound.into()) }, deadline).await.unwrap_err();
        assert_eq!(no_such.class(), ConnectClass::Unresolved);
        // An address by numbers is no question to anybody, however late it is.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(open_by_name(&address, None, begun).await.is_ok());
    }

    #[test]
    fn a_preferred_address_goes_first_if_the_name_has_it() {
        let of = |hosts: [u8; 3]| hosts.map(|host| SocketAddr::from(([10, 0, 0, host], 5432))).to_vec();
        for (preferred, order) in [(None, [1, 2, 3]), (Some(3_u8), [3, 1, 2]), (Some(4), [1, 2, 3])] {
            let preferred = preferred.map(|host| IpAddr::from([10, 0, 0, host]));
            assert_eq!(in_turn(of([1, 2, 3]), preferred), of(order));
        }
    }

    #[test]
    fn an_address_that_begins_with_a_slash_is_a_socket_in_a_folder() {
        assert_eq!(socket_path("/run/pg:5433"), Some("/run/pg/.s.PGSQL.5433".into()));
        assert_eq!(socket_path("db1:5432"), None);
    }

    #[test]
    fn a_certificate_must_name_the_host_as_it_is_configured() {
        let name = |address| server_name(address).unwrap().to_str().into_owned();
        assert_eq!(name("db1.example.net:5432"), "db1.example.net");
        assert_eq!(name("db1.example.net.:5432"), "db1.example.net");
        assert_eq!(name("127.0.0.1:5432"), "127.0.0.1");
        assert_eq!(name("[::1]:5432"), "::1");
    }
}
