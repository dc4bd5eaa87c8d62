//! A restart that no client notices: a new process of the program takes over the sockets that clients connect to, and those
//! who are there already stay with the old one until they leave.
//!
//! The two are joined by a pair of sockets, of which the successor's end is its standard input. First the predecessor sends
//! [`Sockets`]; the successor [serves](Predecessor::serves) when it is ready, and waits until the predecessor takes nobody
//! any more. As long as both are there, the successor passes on what is meant for the predecessor: requests to
//! cancel, whose keys it does not know, and the order to stop.

use std::collections::HashMap;
use std::env;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tracing::warn;

use crate::backend::cancel::{CancelKeys, CancelOutcome, Elsewhere};
use crate::net::timers;
use crate::wire::CancelKey;

/// Listening sockets, each with what it is for.
pub type Sockets = Vec<(String, OwnedFd)>;

/// Tells a process that it has a predecessor.
const MARK: &str = "TRUNKLINE_TAKES_OVER";

/// Both must speak alike: this stands before the names of the sockets.
const VERSION: &str = "trunkline handover 1";

/// As many as the kernel passes on in one message.
const MOST_SOCKETS: usize = 253;

/// How long a successor may take until it serves.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long a predecessor takes at most to take nobody any more, unless it hangs.
const GO_WITHIN: Duration = Duration::from_secs(10);

/// The successor is ready, with the names of the sockets that it has taken, a line each. No answer but [`GO`].
const READY: u8 = b'R';
/// A CancelRequest has come to the successor whose key it does not know.
const CANCEL: u8 = b'C';
/// The successor stops, and so is its predecessor to do.
const STOP: u8 = b'S';

/// The successor has a successor of its own, with the names of the sockets that it has taken, a line each.
const PASSED_ON: u8 = b'P';
/// That has died: the successor lets clients in again.
const TAKEN_BACK: u8 = b'B';

/// What the predecessor answers to [`READY`]: it takes nobody any more.
const GO: u8 = b'G';

/// What is to be stopped, as far as it is worth passing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// When transactions have ended, or after `limits.drain_timeout`.
    AfterTransactions,
    /// At once, as soon as those who are left have been told.
    Told,
    /// At once.
    Now,
}

/// What a successor passes on, beside requests to cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// It stops, and so is this process to do.
    Stop(Stop),
    /// It has a successor itself, that has taken the sockets of these names: nobody listens at others.
    Keep(Vec<String>),
}

/// The process that this one takes over from.
#[derive(Debug)]
pub struct Predecessor {
    stream: StdUnixStream,
    sockets: HashMap<String, OwnedFd>,
    /// Names of those that have been taken.
    taken: Vec<String>,
    asked: Option<UnboundedReceiver<Elsewhere>>,
}

/// The same once this one serves: it is there for as long as it has clients.
#[derive(Debug)]
pub struct Bond {
    stream: StdUnixStream,
    is_gone: watch::Receiver<bool>,
}

/// The processes beside this one that serve clients of the same cluster, and may write for them.
#[derive(Debug, Default)]
pub struct Others {
    predecessor: Option<Bond>,
    has_successor: AtomicBool,
    /// That lets clients and operators in, and this process nobody.
    is_succeeded: AtomicBool,
    /// The successor has died while this process stops: nobody lets anybody in.
    is_orphaned: AtomicBool,
}

/// The process that takes over from this one. Until it has, it ends with this.
#[derive(Debug)]
pub struct Successor {
    child: Started,
    stream: UnixStream,
}

/// A process that ends when nobody is interested in it any more, unless it has been let go.
#[derive(Debug)]
struct Started(Option<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // One that has ended is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a successor has parted from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// It has passed on an order to stop, and stopped.
    Ordered,
    /// It has died, and somebody else lets clients in by now, of whom this process hears nothing.
    PassedOn,
    /// It has died.
    Dead,
    /// It says what is not understood.
    Odd,
}

impl Predecessor {
    /// Who has started this process to take over, if anybody has. To be called before anything reads the standard input.
    pub fn find() -> io::Result<Option<Self>> {
        if env::var_os(MARK).is_none() {
            return Ok(None);
        }
        let mut stream = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let (names, sockets) = receive(&mut stream)?;
        let mut names = names.lines();
        if names.next() != Some(VERSION) {
            return Err(io::Error::other("the predecessor hands over in another way: stop it, and start anew"));
        }
        Ok(Some(Self {
            stream,
            sockets: names.map(str::to_owned).zip(sockets).collect(),
            taken: Vec::new(),
            asked: None,
        }))
    }

    /// The socket of this name, if the predecessor has one.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let socket = self.sockets.remove(name);
        self.taken.extend(socket.is_some().then(|| name.to_owned()));
        socket
    }

    /// From now on it is asked for keys that are not known here; it answers once this one [serves](Self::serves).
    pub fn is_asked_for(&mut self, keys: &CancelKeys) {
        let (asked, to_ask) = unbounded_channel();
        keys.ask_elsewhere(asked);
        self.asked = Some(to_ask);
    }

    /// All is ready here: returns once the predecessor takes nobody any more. What has not been taken of its sockets is closed.
    /// Nobody may have been let in here before: until it has agreed, the predecessor may end this process.
    pub async fn serves(self) -> io::Result<Bond> {
        drop(self.sockets);
        self.stream.set_nonblocking(true)?;
        let direct = self.stream.try_clone()?;
        let mut stream = UnixStream::from_std(self.stream)?;
        let is_ready = stream.write_all(&frame(READY, 0, self.taken.join("\n").as_bytes())).await.is_ok();
        let answered = {
            let mut answer = std::pin::pin!(stream.read_u8());
            loop {
                match timers::timeout(GO_WITHIN, &mut answer).await {
                    Ok(answer) => break answer.ok(),
                    // It has the doors until it says otherwise, and may yet end this process.
                    Err(_) => warn!("the predecessor hangs in the middle of its handover: it is waited for"),
                }
            }
        };
        if !is_ready || answered != Some(GO) {
            // Whatever has become of it, clients are to be served.
            warn!("the predecessor has gone in the middle of its handover");
        }
        let (gone, is_gone) = watch::channel(false);
        let (from, to) = stream.into_split();
        tokio::spawn(async move {
            if let Some(to_ask) = self.asked {
                ask(to_ask, from, to).await;
            }
            // Nobody may wait for it any more.
            let _ = gone.send(true);
        });
        Ok(Bond { stream: direct, is_gone })
    }
}

impl Others {
    /// With this predecessor.
    pub fn new(predecessor: Option<Bond>) -> Self {
        Self { predecessor, ..Self::default() }
    }

    /// There are any.
    pub fn are_there(&self) -> bool {
        self.have_predecessor() || self.has_successor.load(Ordering::Relaxed)
    }

    /// The process that this one has taken over from is one of them: it goes on for the clients that it has.
    pub fn have_predecessor(&self) -> bool {
        self.predecessor.as_ref().is_some_and(|bond| !*bond.is_gone.borrow())
    }

    /// There may be a successor from now on, or there is none.
    pub fn may_succeed(&self, may: bool) {
        self.has_successor.store(may, Ordering::Relaxed);
        if !may {
            self.is_succeeded.store(false, Ordering::Relaxed);
        }
    }

    /// A successor lets clients and operators in, and this process nobody: what is commanded here reaches few of them.
    pub fn have_taken_over(&self) -> bool {
        self.is_succeeded.load(Ordering::Relaxed)
    }

    /// Returns when the predecessor has ended; at once, if there was none. Cancel-safe.
    pub async fn predecessor_gone(&self) {
        if let Some(bond) = &self.predecessor {
            // Where nobody could tell any more, it is gone, too.
            let _ = bond.is_gone.clone().wait_for(|is_gone| *is_gone).await;
        }
    }

    /// Somebody has taken over from this process, too: if it dies now, the predecessor's clients have not lost who lets them in.
    /// These are the sockets that it has taken.
    pub fn pass_on(&self, names: &[String]) {
        self.is_succeeded.store(true, Ordering::Relaxed);
        self.tell_predecessor(&frame(PASSED_ON, 0, names.join("\n").as_bytes()));
    }

    /// This process lets clients in again.
    pub fn take_back(&self) {
        self.tell_predecessor(&frame(TAKEN_BACK, 0, &[]));
    }

    /// The successor has died, and this process lets nobody in either, because it stops.
    pub fn leave_an_orphan(&self) {
        self.is_orphaned.store(true, Ordering::Relaxed);
    }

    /// Nobody lets clients in when this process ends, though somebody should.
    pub fn is_orphaned(&self) -> bool {
        self.is_orphaned.load(Ordering::Relaxed)
    }

    /// This process stops, and its predecessor is to do the same.
    pub fn stop_predecessor(&self, how: Stop) {
        let how = match how {
            Stop::AfterTransactions => b'T',
            Stop::Told => b'L',
            Stop::Now => b'N',
        };
        self.tell_predecessor(&frame(STOP, 0, &[how]));
    }

    fn tell_predecessor(&self, frame: &[u8]) {
        if let Some(bond) = &self.predecessor {
            // Few bytes, written at once, before this process may end. A predecessor that is gone needs none.
            let _ = (&bond.stream).write(frame);
        }
    }
}

/// Sends requests to cancel, and tells those who wait what became of them, until the predecessor is gone.
async fn ask(mut to_send: UnboundedReceiver<Elsewhere>, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (mut number, mut waiting) = (0_u32, HashMap::<u32, oneshot::Sender<CancelOutcome>>::new());
    let mut answer = [0; ANSWER];
    loop {
        let mut filled = 0;
        while filled < ANSWER {
            // Both are cancel-safe.
            tokio::select! {
                asked = to_send.recv() => {
                    let Some((key, told)) = asked else { return };
                    number = number.wrapping_add(1);
                    if to.write_all(&frame(CANCEL, number, &key_bytes(&key))).await.is_err() {
                        return;
                    }
                    waiting.insert(number, told);
                }
                read = from.read(answer.get_mut(filled..).unwrap_or_default()) => match read {
                    Ok(count) if count > 0 => filled += count,
                    _ => return,
                },
            }
        }
        let [outcome, number @ ..] = answer;
        if let Some(told) = waiting.remove(&u32::from_be_bytes(number)) {
            // Who has asked may have gone.
            let _ = told.send(outcome_of(outcome));
        }
    }
}

/// Bytes of what became of a request to cancel: that, and the request's number.
const ANSWER: usize = 5;

impl Successor {
    /// Starts the program anew, as it was started, to take over these sockets.
    pub fn start(sockets: &Sockets) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        let mut words = env::args_os();
        let program = words.next().ok_or_else(|| io::Error::other("nobody knows how the program was started"))?;
        let mut command = Command::new(program);
        command.args(words).stdin(OwnedFd::from(theirs)).env(MARK, "1");
        // It is the watchdog's from then on.
        command.env_remove("WATCHDOG_PID");
        let child = Started(Some(command.spawn()?));
        // The other end is the successor's alone: when that ends, this is told.
        drop(command);
        send(&ours, sockets)?;
        ours.set_nonblocking(true)?;
        Ok(Self { child, stream: UnixStream::from_std(ours)? })
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.0.as_ref().map_or(0, Child::id)
    }

    /// Waits until it is ready. Answers the names of the sockets that it has taken. Err: why it is not.
    pub async fn until_it_is_ready(&mut self) -> io::Result<Vec<String>> {
        let why = match timers::timeout(READY_WITHIN, read_frame(&mut self.stream)).await {
            Ok(Ok((READY, _, names))) => {
                let names = String::from_utf8(names).map_err(io::Error::other)?;
                return Ok(names.lines().map(str::to_owned).collect());
            }
            Ok(Ok(_)) => "the process that was started speaks otherwise",
            Ok(Err(_)) => "the process that was started has ended; what it has said stands above",
            Err(_) => "the process that was started takes too long",
        };
        Err(io::Error::other(why))
    }

    /// This process takes nobody any more: the successor is told, and then `let_go`. Does what it passes on, until it parts.
    pub async fn serve(
        mut self,
        keys: &Arc<CancelKeys>,
        let_go: impl FnOnce(),
        mut heed: impl FnMut(Order),
    ) -> Parting {
        let child = self.child.0.take();
        // If it has died meanwhile, that is noticed below.
        let _ = self.stream.write_all(&[GO]).await;
        let_go();
        let (from, to) = self.stream.into_split();
        let (answers, to_send) = unbounded_channel();
        tokio::spawn(answer(to_send, to));
        let parting = obey(from, keys, &answers, &mut heed).await;
        if let Some(mut child) = child.filter(|_| parting != Parting::Odd) {
            // Its end of the sockets is closed: it ends. This process may end before that.
            let waits = std::thread::Builder::new().name("successor".to_owned()).spawn(move || child.wait());
            if let Err(error) = waits {
                warn!(%error, "no thread can wait for the end of the successor: it is a zombie until this process ends");
            }
        }
        parting
    }
}

/// Does what the successor passes on.
async fn obey(
    mut from: OwnedReadHalf,
    keys: &Arc<CancelKeys>,
    answers: &UnboundedSender<[u8; ANSWER]>,
    heed: &mut impl FnMut(Order),
) -> Parting {
    let mut parting = Parting::Dead;
    while let Ok((kind, number, body)) = read_frame(&mut from).await {
        match (kind, body.split_first_chunk()) {
            (CANCEL, Some((process_id, secret))) => {
                let key = CancelKey { process_id: u32::from_be_bytes(*process_id), secret: secret.into() };
                let (keys, answers) = (Arc::clone(keys), answers.clone());
                tokio::spawn(async move {
                    let [n0, n1, n2, n3] = number.to_be_bytes();
                    let outcome = code_of(keys.cancel(&key).await);
                    // A successor that is gone waits for nothing.
                    let _ = answers.send([outcome, n0, n1, n2, n3]);
                });
            }
            (PASSED_ON, _) => {
                parting = Parting::PassedOn;
                heed(Order::Keep(String::from_utf8_lossy(&body).lines().map(str::to_owned).collect()));
            }
            (TAKEN_BACK, _) => parting = Parting::Dead,
            (STOP, _) => {
                parting = Parting::Ordered;
                heed(Order::Stop(match &*body {
                    b"N" => Stop::Now,
                    b"L" => Stop::Told,
                    _ => Stop::AfterTransactions,
                }));
            }
            _ => return Parting::Odd,
        }
    }
    parting
}

/// The next frame of the successor: its kind, its number, what it says.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, u32, Vec<u8>)> {
    let (kind, number) = (from.read_u8().await?, from.read_u32().await?);
    let mut body = vec![0; usize::from(from.read_u16().await?)];
    from.read_exact(&mut body).await?;
    Ok((kind, number, body))
}

async fn answer(mut to_send: UnboundedReceiver<[u8; ANSWER]>, mut to: OwnedWriteHalf) {
    while let Some(answer) = to_send.recv().await {
        if to.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// A frame to the predecessor: its kind, its number, how many bytes follow.
fn frame(kind: u8, number: u32, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let mut frame = vec![kind];
    frame.extend(number.to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

fn key_bytes(key: &CancelKey) -> Vec<u8> {
    [&key.process_id.to_be_bytes()[..], &key.secret].concat()
}

/// Each with the byte that stands for it.
const OUTCOMES: [(CancelOutcome, u8); 5] = [
    (CancelOutcome::Sent, b's'),
    (CancelOutcome::Waiting, b'w'),
    (CancelOutcome::Idle, b'i'),
    (CancelOutcome::Unknown, b'u'),
    (CancelOutcome::Failed, b'f'),
];

fn code_of(outcome: CancelOutcome) -> u8 {
    OUTCOMES.iter().find(|(known, _)| *known == outcome).map_or(b'f', |(_, code)| *code)
}

fn outcome_of(code: u8) -> CancelOutcome {
    OUTCOMES.iter().find(|(_, known)| *known == code).map_or(CancelOutcome::Failed, |(outcome, _)| *outcome)
}

/// Sends the names of the sockets, a line each, and the sockets themselves along with the first byte.
fn send(mut stream: &StdUnixStream, sockets: &Sockets) -> io::Result<()> {
    if sockets.len() > MOST_SOCKETS {
        return Err(io::Error::other(format!("no more than {MOST_SOCKETS} sockets can be handed over")));
    }
    let names: Vec<&str> = [VERSION].into_iter().chain(sockets.iter().map(|(name, _)| &**name)).collect();
    let names = names.join("\n");
    let length = u32::try_from(names.len()).map_err(io::Error::other)?;
    let bytes = [&length.to_be_bytes()[..], names.as_bytes()].concat();
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("the sockets do not fit into one message"));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
    stream.write_all(bytes.get(sent..).unwrap_or_default())
}

/// What [`send`] has sent.
fn receive(stream: &mut StdUnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(&*stream, &mut [IoSliceMut::new(&mut length)], &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut sockets = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    stream.read_exact(length.get_mut(received..).unwrap_or_default())?;
    let mut names = vec![0; usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?];
    stream.read_exact(&mut names)?;
    let names = String::from_utf8(names).map_err(io::Error::other)?;
    Ok((names, sockets))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn sockets_arrive_under_their_names_and_can_be_listened_at() {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let sockets: Sockets = listeners
            .into_iter()
            .zip(&addresses)
            .map(|(l, address)| (format!("clients {address}"), l.into()))
            .collect();
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        send(&ours, &sockets).unwrap();
        drop(sockets);
        let (names, received) = receive(&mut theirs).unwrap();
        assert_eq!(names.lines().next(), Some(VERSION));
        for ((name, socket), address) in names.lines().skip(1).zip(received).zip(&addresses) {
            assert_eq!(name, format!("clients {address}"));
            let listener = TcpListener::from(socket);
            assert_eq!(listener.local_addr().unwrap(), *address);
            std::net::TcpStream::connect(address).unwrap();
        }
    }

    #[test]
    fn what_became_of_a_request_to_cancel_survives_the_way() {
        for (outcome, _) in OUTCOMES {
            assert_eq!(outcome_of(code_of(outcome)), outcome);
        }
    }
}
