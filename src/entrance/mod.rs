//! Where others come in, clients and operators, and how that passes to a successor.

pub mod restart;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tracing::warn;

use crate::admin::{self, AdminState};
use crate::client::{Fleet, Server};
use crate::complaints::{Complaints, Repeats};
use crate::config::Config;
use crate::handover::{Predecessor, Sockets};
use crate::metrics::{Limit, Metrics, Refusal, WorkerMetrics};
use crate::net::{listener, timers};

/// Nobody can come in.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket in the file system cannot be listened at.
    #[error("cannot listen at {}", path.display())]
    ListenAt {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the doors lead to.
#[derive(Clone)]
pub struct House {
    /// Who serves clients.
    pub fleet: Arc<Fleet>,
    /// By which configuration.
    pub in_force: Arc<ArcSwap<Server>>,
    /// What operators see.
    pub state: Arc<AdminState>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// A file descriptor or buffer that is missing now may be there again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where others come in, each by its name in a [handover](crate::handover).
pub struct Doors {
    clients: Vec<(String, TcpListener)>,
    local: Vec<(String, UnixListener)>,
    admin: Option<(String, TcpListener)>,
}

/// What goes on at the doors.
pub struct Entrance {
    tasks: Vec<AbortHandle>,
    /// Closes that of operators.
    admin: oneshot::Sender<()>,
}

impl Doors {
    /// Those of the configuration: the predecessor's where it has them.
    pub fn open(config: &Config, predecessor: &mut Option<Predecessor>) -> Result<Self, Closed> {
        let mut listen = |address: SocketAddr, name: String| {
            let opened = match predecessor.as_mut().and_then(|predecessor| predecessor.take(&name)) {
                Some(socket) => listener::inherited(socket),
                None => listener::listen(address),
            };
            opened.map(|listener| (name, listener)).map_err(|source| Closed::Listen { address, source })
        };
        let clients = config.listen.iter().map(|address| listen(*address, format!("clients {address}")));
        let clients = clients.collect::<Result<_, _>>()?;
        let admin = config.admin_listen.map(|address| listen(address, format!("admin {address}"))).transpose()?;
        let mut local = Vec::new();
        for path in &config.listen_sockets {
            let name = format!("clients {}", path.display());
            let opened = match predecessor.as_mut().and_then(|predecessor| predecessor.take(&name)) {
                Some(socket) => listener::inherited_local(socket),
                None => listener::listen_at(path),
            };
            local.push((name, opened.map_err(|source| Closed::ListenAt { path: path.clone(), source })?));
        }
        Ok(Self { clients, local, admin })
    }

    /// For a successor.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let tcp = self.clients.iter().chain(&self.admin).map(|(name, listener)| (name, listener.as_fd()));
        let local = self.local.iter().map(|(name, listener)| (name, listener.as_fd()));
        tcp.chain(local).map(|(name, socket)| Ok((name.clone(), socket.try_clone_to_owned()?))).collect()
    }

    /// Those of these sockets, which were [handed out](Self::sockets) and nobody has.
    fn again(sockets: &Sockets) -> io::Result<Self> {
        let mut doors = Self { clients: Vec::new(), local: Vec::new(), admin: None };
        for (name, socket) in sockets {
            let (name, socket) = (name.clone(), socket.try_clone()?);
            match name.split_once(' ') {
                Some(("clients", path)) if path.starts_with('/') => {
                    doors.local.push((name, listener::inherited_local(socket)?));
                }
                Some(("admin", _)) => doors.admin = Some((name, listener::inherited(socket)?)),
                _ => doors.clients.push((name, listener::inherited(socket)?)),
            }
        }
        Ok(doors)
    }

    /// Lets others in.
    pub fn entrance(self, house: &House) -> Entrance {
        let House { fleet, in_force, state, metrics } = house;
        let (admin, is_closed) = oneshot::channel();
        if let Some((_, listener)) = self.admin {
            tokio::spawn(admin::serve(listener, Arc::clone(state), async { drop(is_closed.await) }));
        }
        let mut tasks = Vec::new();
        for (_, listener) in self.clients {
            let served = accept(listener, Arc::clone(fleet), Arc::clone(in_force), metrics.worker(0));
            tasks.push(tokio::spawn(served).abort_handle());
        }
        for (_, listener) in self.local {
            let served = accept_local(listener, Arc::clone(fleet), Arc::clone(in_force), metrics.worker(0));
            tasks.push(tokio::spawn(served).abort_handle());
        }
        Entrance { tasks, admin }
    }
}

impl Entrance {
    /// Nobody comes in any more. Whoever operators' door has let in is answered.
    fn close(self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        // Where nobody serves it, it is closed.
        let _ = self.admin.send(());
    }
}

async fn accept(listener: TcpListener, fleet: Arc<Fleet>, in_force: Arc<ArcSwap<Server>>, counts: Arc<WorkerMetrics>) {
    let mut complaints = Complaints::new(Repeats::EachMinute);
    loop {
        let accepted = listener.accept().await.and_then(|(client, _)| {
            // One that is gone already takes no options; whoever serves it finds out.
            let _ = listener::set_options(&client);
            client.into_std()
        });
        match accepted {
            Ok(client) if has_room(&fleet, &in_force) => fleet.dispatch(client.into()),
            Ok(client) => refuse(&client, &counts, &mut complaints),
            Err(error) => could_not_accept(&error, &counts, &mut complaints).await,
        }
    }
}

async fn accept_local(
    listener: UnixListener,
    fleet: Arc<Fleet>,
    in_force: Arc<ArcSwap<Server>>,
    counts: Arc<WorkerMetrics>,
) {
    let mut complaints = Complaints::new(Repeats::EachMinute);
    loop {
        match listener.accept().await.and_then(|(client, _)| client.into_std()) {
            Ok(client) if has_room(&fleet, &in_force) => fleet.dispatch(client.into()),
            Ok(client) => refuse(&client, &counts, &mut complaints),
            Err(error) => could_not_accept(&error, &counts, &mut complaints).await,
        }
    }
}

/// Not for want of memory or file descriptors only: one that has left again before it was accepted is an error, too, and
/// nobody is turned away then. What is wanting is so for a while: it is logged together.
async fn could_not_accept(error: &io::Error, counts: &WorkerMetrics, complaints: &mut Complaints) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    counts.client_refused(Refusal::System);
    if let Some(times) = complaints.meet(&error.to_string(), Instant::now()) {
        warn!(%error, times, "a client could not be accepted");
    }
    timers::sleep(ACCEPT_PAUSE).await;
}

/// Whether there is room for one more connection. Beside the clients, there must be some for those who come to cancel, to
/// the console, or to be told that there are too many clients.
fn has_room(fleet: &Fleet, in_force: &ArcSwap<Server>) -> bool {
    /// As few as these cost nothing, and a flood is stopped by it.
    const BESIDE: usize = 100;
    fleet.clients() < in_force.load().max_clients.saturating_add(BESIDE)
}

/// A connection too many is told so at once, before anything else. There may be thousands: they are logged together.
fn refuse(mut client: impl io::Write, counts: &WorkerMetrics, complaints: &mut Complaints) {
    if let Some(times) = complaints.meet("too many clients", Instant::now()) {
        warn!(times, "a client was turned away before it said who it is: too many clients");
    }
    counts.client_refused(Refusal::TooManyClients);
    counts.limit_met(Limit::Clients);
    counts.error_sent("53300");
    use crate::wire::error_response::{Severity, put_error};
    let mut out = bytes::BytesMut::new();
    put_error(
        &mut out,
        Severity::Fatal,
        crate::wire::SqlState::TOO_MANY_CONNECTIONS,
        "sorry, too many clients already",
        None,
    );
    // The socket does not block: a client whose buffer is full on the first byte is no loss.
    let _ = client.write(&out);
}
