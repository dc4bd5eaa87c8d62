//! Sockets that clients connect to, and what every client's socket is set to.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener};

/// Connections that may wait to be accepted: a burst of a whole fleet of clients.
const BACKLOG: i32 = 4096;

/// A client that has vanished without a word is found within two minutes, if all that it was sent had arrived. Else the kernel
/// sends that again, for some 15 minutes (`net.ipv4.tcp_retries2`): TCP_USER_TIMEOUT would cut off those that only read slowly.
/// Drawn for each connection: were these the same for all, thousands of idle clients would be probed in the same moment, and
/// the kernel's queues, which hold a thousand packets, would drop what proves that they live.
const KEEPALIVE_IDLE: Range<u64> = 20..60;
const KEEPALIVE_INTERVAL: Range<u64> = 5..15;
const KEEPALIVE_RETRIES: u32 = 4;

/// Listens at this address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listens where another process has.
pub fn inherited(socket: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The same for a socket in the file system.
pub fn inherited_local(socket: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Listens at this path, where everybody on this machine may connect. What an earlier process has left there goes, unless
/// it still listens.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }?;
    std::fs::set_permissions(path, Permissions::from_mode(0o777))?;
    Ok(bound)
}

fn is_left_over(path: &Path) -> bool {
    let tried = std::os::unix::net::UnixStream::connect(path);
    tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// No delay, keepalive on.
pub fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let seconds = |range: Range<u64>| Duration::from_secs(rand::random_range(range));
    let keepalive = TcpKeepalive::new().with_time(seconds(KEEPALIVE_IDLE)).with_interval(seconds(KEEPALIVE_INTERVAL));
    SockRef::from(stream).set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_RETRIES))
}
