//! Carries a client's CancelRequest to the one server connection that runs its statement.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dashmap::DashMap;
use parking_lot::Mutex;
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, oneshot};

use super::connect::{self, ConnectError};
use super::endpoint::Endpoint;
use crate::net::timers;
use crate::wire::{CancelKey, startup};

/// The sessions that can be cancelled, by the process number that their clients were given.
#[derive(Debug, Default)]
pub struct CancelKeys {
    sessions: DashMap<u32, Arc<Cancellable>>,
    /// Asks another process.
    elsewhere: OnceLock<UnboundedSender<Elsewhere>>,
}

/// A key that is not known here, and who waits for what becomes of it elsewhere.
pub type Elsewhere = (CancelKey, oneshot::Sender<CancelOutcome>);

/// The key of a session that may not begin: it is given back with this, unless the session [has begun](Self::begun).
#[derive(Debug)]
pub struct Issued {
    keys: Arc<CancelKeys>,
    cancellable: Arc<Cancellable>,
    has_begun: bool,
}

/// A session's statement, as far as cancelling it goes.
#[derive(Debug)]
pub struct Cancellable {
    key: CancelKey,
    now: Mutex<Now>,
}

/// What is to be cancelled of a session.
#[derive(Debug, Default)]
struct Now {
    /// The server connection that runs its statement.
    running: Option<Arc<CancelTarget>>,
    /// Wakes it where it waits for a server connection, if it ever has.
    waiting: Option<Arc<Notify>>,
    /// The same where it waits without a future; None: it does not, or has been woken for a cancel.
    in_line: Option<Waker>,
}

/// A server connection, as far as cancelling what it runs goes; made once, when it is opened.
#[derive(Debug)]
pub struct CancelTarget {
    /// No other has it, nor had it, in this process.
    number: u64,
    endpoint: Endpoint,
    key: CancelKey,
    /// Cancels that are on their way to it: while there are any, it must not go to another session.
    on_the_way: AtomicUsize,
    /// A cancel of which nobody knows whether it has arrived: it may do so at any time.
    has_stray: AtomicBool,
}

impl CancelTarget {
    /// What cancels a statement on the connection with this key to this server.
    pub fn new(endpoint: Endpoint, key: CancelKey) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { number, endpoint, key, on_the_way: AtomicUsize::new(0), has_stray: AtomicBool::new(false) })
    }

    /// The server connection's number in this process.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The server process, as the node has said.
    pub fn process(&self) -> u32 {
        self.key.process_id
    }

    /// Cancels what runs there.
    pub async fn cancel(&self) -> CancelOutcome {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let sent = timers::timeout_at(deadline, send(self, deadline)).await;
        if matches!(sent, Ok(Ok(()))) { CancelOutcome::Sent } else { CancelOutcome::Failed }
    }

    /// A cancel is on its way, or went astray and may still arrive: the connection is for no other session.
    pub fn is_being_cancelled(&self) -> bool {
        self.is_awaited() || self.has_stray()
    }

    /// A cancel went astray: it may arrive at any time.
    pub fn has_stray(&self) -> bool {
        self.has_stray.load(Ordering::Acquire)
    }

    /// Waits until every cancel that is on its way has arrived, so that it does not hit what is sent next. It is no use to
    /// wait for a stray one.
    pub async fn until_arrived(&self) {
        let begun = Instant::now();
        while self.is_awaited() && begun.elapsed() < LONGEST_WAIT {
            timers::sleep(LOOK).await;
        }
    }

    /// A cancel is on its way: what is sent now may be hit by it.
    pub fn is_awaited(&self) -> bool {
        self.on_the_way.load(Ordering::Acquire) > 0
    }
}

/// What became of a CancelRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The node has got it.
    Sent,
    /// The session runs nothing on a node: it was waiting to, and waits no more.
    Waiting,
    /// It runs nothing, and waits for nothing.
    Idle,
    /// No session has this key.
    Unknown,
    /// The node could not be reached.
    Failed,
}

/// How long a node may take to take a CancelRequest.
const DEADLINE: Duration = Duration::from_secs(5);

/// By then every cancel has arrived or gone astray: it is given up after [`DEADLINE`].
const LONGEST_WAIT: Duration = Duration::from_secs(6);

/// A node takes a cancel within a millisecond or two.
const LOOK: Duration = Duration::from_millis(1);

/// The largest number that Linux gives to a process.
const MOST_PROCESSES: u32 = 1 << 22;

impl CancelKeys {
    /// A key with a secret of so many bytes for a new session, to be given back with [`CancelKeys::remove`].
    pub fn issue(&self, secret_size: usize) -> Arc<Cancellable> {
        loop {
            let mut random = rand::rng();
            // A positive number, as process numbers are: some drivers read it as a signed one. Beyond those that Linux gives to
            // processes: it is no other session's in pg_stat_activity.
            let process_id = random.random_range(MOST_PROCESSES + 1..=0x7FFF_FFFF);
            let mut secret = vec![0; secret_size];
            random.fill(&mut *secret);
            let key = CancelKey { process_id, secret: secret.into() };
            let cancellable = Arc::new(Cancellable { key, now: Mutex::default() });
            if let dashmap::Entry::Vacant(free) = self.sessions.entry(process_id) {
                free.insert(Arc::clone(&cancellable));
                return cancellable;
            }
        }
    }

    /// The same for a session that may not begin.
    pub fn issue_ahead(self: &Arc<Self>, secret_size: usize) -> Issued {
        Issued { keys: Arc::clone(self), cancellable: self.issue(secret_size), has_begun: false }
    }

    /// The session has ended.
    pub fn remove(&self, cancellable: &Cancellable) {
        self.sessions.remove(&cancellable.key.process_id);
    }

    /// Another process is to be asked for keys that are not known here, from now on.
    pub fn ask_elsewhere(&self, asked: UnboundedSender<Elsewhere>) {
        // There is one at most.
        let _ = self.elsewhere.set(asked);
    }

    /// Cancels what the owner of this key runs.
    pub async fn cancel(&self, key: &CancelKey) -> CancelOutcome {
        match (self.cancel_here(key).await, self.elsewhere.get()) {
            (CancelOutcome::Unknown, Some(elsewhere)) => {
                let (told, answer) = oneshot::channel();
                // With that process, its sessions are gone.
                let _ = elsewhere.send((key.clone(), told));
                let answer = timers::timeout(LONGEST_WAIT, answer).await;
                answer.map_or(CancelOutcome::Failed, |answer| answer.unwrap_or(CancelOutcome::Unknown))
            }
            (outcome, _) => outcome,
        }
    }

    async fn cancel_here(&self, key: &CancelKey) -> CancelOutcome {
        let Some(session) = self.sessions.get(&key.process_id).map(|session| Arc::clone(&session)) else {
            return CancelOutcome::Unknown;
        };
        // In constant time: see CancelKey.
        if session.key != *key {
            return CancelOutcome::Unknown;
        }
        match session.begin_cancel() {
            Some(cancel) => cancel.arrive().await,
            None => {
                let mut now = session.now.lock();
                if let Some(waker) = now.in_line.take() {
                    drop(now);
                    waker.wake();
                    return CancelOutcome::Waiting;
                }
                // Whoever waits has it, too.
                match now.waiting.as_ref().filter(|waiting| Arc::strong_count(waiting) > 1) {
                    Some(waiting) => {
                        waiting.notify_waiters();
                        CancelOutcome::Waiting
                    }
                    None => CancelOutcome::Idle,
                }
            }
        }
    }
}

impl Issued {
    /// The key that the client is given.
    pub fn key(&self) -> &CancelKey {
        self.cancellable.key()
    }

    /// Waits until somebody cancels what is done for the client meanwhile.
    pub async fn cancelled(&self) {
        self.cancellable.cancelled().await;
    }

    /// The session has begun: from here on, it gives the key back itself.
    pub fn begun(mut self) -> Arc<Cancellable> {
        self.has_begun = true;
        Arc::clone(&self.cancellable)
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        if !self.has_begun {
            self.keys.remove(&self.cancellable);
        }
    }
}

/// A cancel that is on its way to a server connection, which is not lent to another session before it has arrived; dropped
/// before, it is a stray one, and the connection is closed instead.
#[derive(Debug)]
#[must_use = "it has not been sent yet"]
pub struct OnItsWay {
    target: Arc<CancelTarget>,
    has_arrived: bool,
}

impl OnItsWay {
    /// Sends it.
    pub async fn arrive(mut self) -> CancelOutcome {
        let outcome = self.target.cancel().await;
        self.has_arrived = outcome == CancelOutcome::Sent;
        outcome
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        // First: whoever sees none on its way sees the stray one.
        if !self.has_arrived {
            self.target.has_stray.store(true, Ordering::Release);
        }
        self.target.on_the_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Cancellable {
    /// The key that the client is given.
    pub fn key(&self) -> &CancelKey {
        &self.key
    }

    /// The [number](CancelTarget::number) of the server connection that it holds.
    pub fn server(&self) -> Option<u64> {
        self.now.lock().running.as_ref().map(|target| target.number())
    }

    /// Cancels what the session runs now; None: it runs nothing.
    pub fn begin_cancel(&self) -> Option<OnItsWay> {
        // Counted under the lock: the connection is not lent to another session while the cancel is on its way.
        let now = self.now.lock();
        let target = now.running.as_ref()?;
        target.on_the_way.fetch_add(1, Ordering::AcqRel);
        Some(OnItsWay { target: Arc::clone(target), has_arrived: false })
    }

    /// Waits until somebody cancels what the session waits for.
    pub async fn cancelled(&self) {
        let waiting = Arc::clone(self.now.lock().waiting.get_or_insert_default());
        waiting.notified().await;
    }

    /// From now on this is woken when somebody cancels what the session waits for, until it [leaves the line](Self::leaves_line).
    pub fn stands_in_line(&self, waker: &Waker) {
        self.now.lock().in_line = Some(waker.clone());
    }

    /// Nobody has cancelled it since it stood in line.
    pub fn is_in_line(&self) -> bool {
        self.now.lock().in_line.is_some()
    }

    /// It waits no more. Answers whether it was [in line](Self::is_in_line) until now.
    pub fn leaves_line(&self) -> bool {
        self.now.lock().in_line.take().is_some()
    }

    /// The session's statement runs on this connection from now on.
    pub fn runs_on(&self, connection: &super::Connection) {
        self.runs_at(&connection.cancel_target);
    }

    /// The same for a connection that is in no pool.
    pub fn runs_at(&self, target: &Arc<CancelTarget>) {
        self.now.lock().running = Some(Arc::clone(target));
    }

    /// The session holds no connection any more, or what runs there is not its own. After this, no new cancel goes there.
    pub fn runs_nothing(&self) {
        self.now.lock().running = None;
    }
}

/// Sends it to where the connection has led, and waits until the node closes, which it does when the signal has been given.
async fn send(running: &CancelTarget, deadline: tokio::time::Instant) -> Result<(), ConnectError> {
    let mut stream = connect::open(&running.endpoint, deadline).await?;
    let mut packet = BytesMut::new();
    startup::put_cancel(&mut packet, &running.key);
    stream.write_all(&packet).await.map_err(ConnectError::Io)?;
    // How it closes does not matter.
    while stream.read(&mut [0; 16]).await.is_ok_and(|count| count > 0) {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::net::Stream;

    #[test]
    fn a_session_that_does_not_begin_leaves_no_key() {
        let keys = Arc::new(CancelKeys::default());
        drop(keys.issue_ahead(4));
        assert!(keys.sessions.is_empty());
        let session = keys.issue_ahead(4).begun();
        assert_eq!(keys.sessions.len(), 1);
        keys.remove(&session);
        assert!(keys.sessions.is_empty());
    }

    /// By its name the node may be another server by now.
    #[tokio::test]
    async fn a_cancel_goes_where_its_connection_has_led() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = Stream::from(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (_there, _) = listener.accept().await.unwrap();
        let endpoint = Endpoint::plain("nobody.invalid:5432".into()).reached_by(&stream);
        let target = CancelTarget::new(endpoint, CancelKey { process_id: 7, secret: [1, 2, 3, 4].into() });
        let taking = async {
            let (mut stream, mut packet) = (listener.accept().await.unwrap().0, [0; 16]);
            stream.read_exact(&mut packet).await.unwrap();
            packet
        };
        let both = async { tokio::join!(target.cancel(), taking) };
        let (outcome, packet) = timers::timeout(DEADLINE, both).await.unwrap();
        assert_eq!((outcome, &packet[8..]), (CancelOutcome::Sent, &[0, 0, 0, 7, 1, 2, 3, 4][..]));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_cancel_that_went_astray_and_nobody_else_gets_its_connection() {
        let key = CancelKey { process_id: 1, secret: Box::default() };
        let target = CancelTarget::new(Endpoint::plain("127.0.0.1:1".into()), key);
        let session = CancelKeys::default().issue(4);
        session.runs_at(&target);
        let cancel = session.begin_cancel().unwrap();
        session.runs_nothing();
        assert!(session.begin_cancel().is_none());
        let mut waits = std::pin::pin!(target.until_arrived());
        assert!(timers::timeout(2 * LOOK, &mut waits).await.is_err(), "it is on its way");
        assert!(!target.has_stray());
        drop(cancel);
        assert!(timers::timeout(LONGEST_WAIT / 2, waits).await.is_ok(), "it is waited for");
        assert!(target.has_stray() && target.is_being_cancelled(), "it may still arrive");
    }
}
