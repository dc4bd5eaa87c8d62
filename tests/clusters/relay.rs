//! A TCP relay in this process, through which a test breaks the network between two of its parts.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// Carries bytes between whoever connects and one address, until it is told otherwise.
pub(crate) struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// How bytes are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carriage {
    /// As they come.
    Whole,
    /// One at a time: every message is torn at every place.
    OneByte,
    /// Each read waits this long first.
    Slow(Duration),
    /// Not at all, while connections stay open and new ones are accepted.
    Stalled,
    /// As they come, until one brings these: it is closed in their place.
    Without(&'static str),
}

struct Shared {
    /// The address of this machine that it connects from.
    source: Ipv4Addr,
    state: Mutex<State>,
    changed: Condvar,
    stopped: AtomicBool,
}

struct State {
    target: SocketAddr,
    carriage: Carriage,
    refuses: bool,
    /// What is said to who is refused, once it has said something; None: nothing, at once.
    farewell: Option<&'static [u8]>,
    /// Connections that were refused.
    refused: usize,
    pairs: Vec<Pair>,
}

/// Both sockets of one connection.
struct Pair {
    inward: TcpStream,
    outward: TcpStream,
    /// Its sockets are to be closed without the FIN that a shutdown would send.
    ends_by_reset: Arc<AtomicBool>,
}

impl Relay {
    /// Listens on a port of its own and connects whoever comes to `target`.
    pub(crate) fn to(target: SocketAddr) -> Self {
        Self::between((Ipv4Addr::LOCALHOST, 0).into(), Ipv4Addr::LOCALHOST, target)
    }

    /// Listens here, and connects from there: two addresses of this machine, which so looks like another one.
    pub(crate) fn between(here: SocketAddr, source: Ipv4Addr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(here).unwrap();
        let address = listener.local_addr().unwrap();
        let state =
            State { target, carriage: Carriage::Whole, refuses: false, farewell: None, refused: 0, pairs: Vec::new() };
        let shared = Arc::new(Shared {
            source,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { shared, address }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how bytes are carried, on open connections too.
    pub(crate) fn carry(&self, carriage: Carriage) {
        self.shared.state().carriage = carriage;
        self.shared.changed.notify_all();
    }

    /// New connections are carried there from now on; those that are open stay, as where a name is moved.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.shared.state().target = target;
    }

    /// Closes every connection (FIN) and every new one at once, until [`Relay::mend`].
    pub(crate) fn cut(&self) {
        self.shared.state().refuses = true;
        self.close(|pair| pair.end(Shutdown::Both));
    }

    /// Goes on carrying, and closes every new connection with these bytes for an answer, until [`Relay::mend`].
    pub(crate) fn turn_away(&self, farewell: &'static [u8]) {
        let mut state = self.shared.state();
        (state.refuses, state.farewell) = (true, Some(farewell));
    }

    /// Connections that have been refused.
    pub(crate) fn refused(&self) -> usize {
        self.shared.state().refused
    }

    /// Closes every connection by a reset (RST); new ones are carried.
    pub(crate) fn reset(&self) {
        self.close(|pair| {
            pair.ends_by_reset.store(true, Ordering::Relaxed);
            for stream in [&pair.inward, &pair.outward] {
                // With nothing to linger for, the close of the last handle is a reset.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            // Wakes the threads that hold the other handles, and tells the peers nothing.
            pair.end(Shutdown::Read);
        });
    }

    /// Ends the direction towards the target and leaves the other open.
    pub(crate) fn half_close(&self) {
        for pair in &self.shared.state().pairs {
            let _ = pair.outward.shutdown(Shutdown::Write);
        }
    }

    /// Carries again, whole; connections that were cut stay cut.
    pub(crate) fn mend(&self) {
        let mut state = self.shared.state();
        (state.refuses, state.farewell) = (false, None);
        state.carriage = Carriage::Whole;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Connections that were carried since the last cut or reset.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state().pairs.len()
    }

    fn close(&self, how: impl Fn(&Pair)) {
        self.shared.state().pairs.drain(..).for_each(|pair| how(&pair));
        self.shared.changed.notify_all();
    }
}

impl Pair {
    fn end(&self, direction: Shutdown) {
        // A connection whose end is gone already is closed as wanted.
        let _ = (self.inward.shutdown(direction), self.outward.shutdown(direction));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.close(|pair| pair.end(Shutdown::Both));
        // Wakes the thread that accepts, so that it sees the end.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let target = self.state().target;
        if self.source == Ipv4Addr::LOCALHOST {
            return TcpStream::connect(target);
        }
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((self.source, 0)).into())?;
        socket.connect(&target.into())?;
        Ok(socket.into())
    }

    /// What is said to a connection that is refused; None: it is carried.
    fn is_refusing(&self) -> Option<Option<&'static [u8]>> {
        let mut state = self.state();
        state.refused += usize::from(state.refuses);
        state.refuses.then_some(state.farewell)
    }

    /// How the next bytes are carried; waits while it is not at all.
    fn next_carriage(&self) -> Carriage {
        let state = self.state();
        let stalled = |state: &mut State| state.carriage == Carriage::Stalled && !self.stopped.load(Ordering::Relaxed);
        self.changed.wait_while(state, stalled).unwrap().carriage
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for inward in listener.incoming().flatten() {
        if shared.stopped.load(Ordering::Relaxed) {
            return;
        }
        if let Some(farewell) = shared.is_refusing() {
            refuse(inward, farewell);
            continue;
        }
        let Ok(outward) = shared.connect() else { continue };
        let _ = (inward.set_nodelay(true), outward.set_nodelay(true));
        let pair = Pair { inward, outward, ends_by_reset: Arc::new(AtomicBool::new(false)) };
        for (from, to) in [(&pair.inward, &pair.outward), (&pair.outward, &pair.inward)] {
            let (from, to, shared) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(shared));
            let ends_by_reset = Arc::clone(&pair.ends_by_reset);
            thread::spawn(move || carry(from, to, &shared, &ends_by_reset));
        }
        shared.state().pairs.push(pair);
    }
}

/// What has been said is read first: a close before that would be a reset, which takes the farewell with it.
fn refuse(mut inward: TcpStream, farewell: Option<&[u8]>) {
    let Some(farewell) = farewell else { return };
    let _ = (inward.read(&mut [0; 1024]), inward.write_all(farewell));
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared, ends_by_reset: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        let carriage = shared.next_carriage();
        if let Carriage::Slow(wait) = carriage {
            thread::sleep(wait);
        }
        let piece = if carriage == Carriage::OneByte { 1 } else { buffer.len() };
        let bytes = buffer.get(..length).unwrap_or_default();
        let is_cut =
            matches!(carriage, Carriage::Without(cut) if bytes.windows(cut.len()).any(|part| part == cut.as_bytes()));
        if is_cut {
            let _ = from.shutdown(Shutdown::Both);
        }
        if is_cut || length == 0 || bytes.chunks(piece).any(|piece| to.write_all(piece).is_err()) {
            break;
        }
    }
    if !ends_by_reset.load(Ordering::Relaxed) {
        let _ = to.shutdown(Shutdown::Write);
    }
}
