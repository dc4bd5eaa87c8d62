//! What a worker's sockets are to send: collected while its tasks run, and handed to the system in one call before the
//! thread waits for the next event.
//!
//! Each `send` wakes somebody, who may take the core at once, and the caches with it; of one call for many sockets that is
//! true once. Linux has such a call in io_uring. Where there is none, or it is forbidden, or on a thread that has not
//! [`open`]ed an outbox, every socket is written to by itself.
//!
//! - A letter is out before its socket is written to in any other way, before the socket leaves the thread and before it is
//!   closed: so bytes keep their order, and never go where another connection has got the socket's number since. [`Mark`],
//!   which each socket has, sees to that.
//! - What a socket does not take is kept as its rest, and its task is woken to wait for it. Where sending fails otherwise,
//!   the socket is shut down: whoever reads from it learns of it there.
//! - A letter waits for nothing but what other tasks of the thread do in the same turn, and not for many of them. Where the
//!   last turn had no more than one, the first is none: it is written at once, since no other is likely to come.

#![expect(unsafe_code, reason = "io_uring is told of memory by its address; see Outbox::hand_over")]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, RawFd};
use std::task::Waker;

use io_uring::{IoUring, opcode, types};
use socket2::SockRef;

thread_local! {
    static OUTBOX: RefCell<Option<Outbox>> = const { RefCell::new(None) };
    static TURN: Turn = const { Turn { posts: Cell::new(0), letters: Cell::new(0), follows_a_busy_one: Cell::new(false) } };
}

/// What the thread does between two waits, as far as it is asked for often.
struct Turn {
    /// What was to be posted.
    posts: Cell<u32>,
    /// What waits in the outbox.
    letters: Cell<u32>,
    /// The last one had more than one post.
    follows_a_busy_one: Cell<bool>,
}

impl Turn {
    /// Something is to be posted. Answers whether it is likely to be all of this turn.
    #[inline]
    fn posts_alone(&self) -> bool {
        let posts = self.posts.get();
        self.posts.set(posts + 1);
        posts == 0 && !self.follows_a_busy_one.get()
    }

    /// One in which nothing was posted tells nothing.
    fn ends(&self) {
        let posts = self.posts.replace(0);
        if posts > 0 {
            self.follows_a_busy_one.set(posts > 1);
        }
    }
}

/// What a socket remembers of its letters. Dropping it sends them, so it stands before the socket in whatever holds both.
#[derive(Debug, Default)]
pub struct Mark {
    /// Its socket and the last batch that held a letter of it; None: nothing of it can be in the outbox.
    posted: Option<(RawFd, u64)>,
}

/// The thread's letters.
struct Outbox {
    ring: IoUring,
    /// The number of the batch that is collected.
    batch: u64,
    letters: Vec<Letter>,
    /// Who is woken if a letter of the same place is not taken as a whole.
    wakers: Vec<Waker>,
    /// Room for letters to come.
    spare: Vec<Vec<u8>>,
    /// What was read or written otherwise since the batch began.
    operations: u32,
    /// What sockets have not taken, and the sockets that wait to take it.
    rests: HashMap<RawFd, Vec<u8>>,
    /// The system has stopped taking anything.
    is_broken: bool,
}

struct Letter {
    socket: RawFd,
    bytes: Vec<u8>,
}

/// Letters sent at once.
const MOST_LETTERS: usize = 64;

/// A longer one is written by itself: it is not the calls that it costs.
const LONGEST: usize = 4 * 1024;

/// So many reads and writes of other tasks a letter waits for at most.
const MOST_OPERATIONS: u32 = 64;

/// What the system says of a socket that takes nothing now.
const NO_ROOM: i32 = -libc::EAGAIN;

/// What the system says where a signal came first: nothing was sent.
const INTERRUPTED: i32 = -libc::EINTR;

/// From now on this thread has an outbox. Whoever calls this has [`end_turn`] called whenever the thread is about to wait.
pub fn open() -> io::Result<()> {
    let entries = u32::try_from(MOST_LETTERS).unwrap_or(u32::MAX);
    let mut builder = IoUring::builder();
    builder.setup_submit_all().setup_single_issuer().setup_coop_taskrun().setup_defer_taskrun();
    // Linux before 6.1 does not know all of that, and it can be done without.
    let ring = builder.build(entries).or_else(|_| IoUring::new(entries))?;
    let outbox = Outbox {
        ring,
        batch: 1,
        letters: Vec::new(),
        wakers: Vec::new(),
        spare: Vec::new(),
        operations: 0,
        rests: HashMap::new(),
        is_broken: false,
    };
    OUTBOX.with(|place| *place.borrow_mut() = Some(outbox));
    Ok(())
}

/// The thread is about to wait: sends what has been collected.
#[inline]
pub fn end_turn() {
    // A thread that is ending has no turn any more.
    let letters = TURN.try_with(|turn| {
        turn.ends();
        turn.letters.get()
    });
    if letters.is_ok_and(|letters| letters > 0) {
        send();
    }
}

/// Sends what has been collected.
fn send() {
    // Woken outside: what a waker does, or its end, may come back here.
    let spent = OUTBOX.try_with(|outbox| outbox.borrow_mut().as_mut().map(Outbox::send));
    let Ok(Some((late, mut wakers))) = spent else { return };
    late.into_iter().for_each(Waker::wake);
    wakers.clear();
    let _ = OUTBOX.try_with(|outbox| {
        if let Some(outbox) = outbox.borrow_mut().as_mut().filter(|outbox| outbox.wakers.is_empty()) {
            outbox.wakers = wakers;
        }
    });
}

/// Somebody reads or writes while letters may be waiting: they do not wait for ever.
#[inline]
pub fn heed() {
    if TURN.with(|turn| turn.letters.get() > 0) {
        wait_no_longer();
    }
}

fn wait_no_longer() {
    let is_time = OUTBOX.with(|outbox| {
        let mut outbox = outbox.borrow_mut();
        let Some(outbox) = outbox.as_mut() else { return false };
        outbox.operations += 1;
        outbox.operations >= MOST_OPERATIONS
    });
    if is_time {
        send();
    }
}

impl Mark {
    /// Takes these bytes for the socket. False: they must be written by themselves.
    #[inline]
    pub fn post(&mut self, socket: RawFd, bytes: &[u8], waker: &Waker) -> bool {
        if bytes.len() > LONGEST || TURN.with(Turn::posts_alone) {
            return false;
        }
        let posted = OUTBOX.with(|outbox| {
            let mut outbox = outbox.borrow_mut();
            let outbox = outbox.as_mut()?;
            let is_in_batch = self.posted.is_some_and(|(_, batch)| batch == outbox.batch);
            let is_taken = match is_in_batch {
                true => outbox.append(socket, bytes),
                false => outbox.take(socket, bytes, waker),
            };
            is_taken.then_some((outbox.batch, outbox.letters.len() >= MOST_LETTERS))
        });
        let Some((batch, is_full)) = posted else { return false };
        self.posted = Some((socket, batch));
        if is_full {
            send();
        }
        true
    }

    /// Something of it may be in the outbox.
    #[inline]
    pub fn may_have_posted(&self) -> bool {
        self.posted.is_some()
    }

    /// Something of it was not taken by the socket.
    #[inline]
    pub fn is_late(&self) -> bool {
        let Some((socket, _)) = self.posted else { return false };
        OUTBOX.with(|outbox| outbox.borrow().as_ref().is_some_and(|outbox| outbox.has_rest_of(socket)))
    }

    /// Its letters are sent; what the socket has not taken is for the caller to write, and whatever is left of that to
    /// [`Mark::keep`].
    pub fn settle(&mut self) -> Option<Vec<u8>> {
        let (socket, batch) = self.posted.take()?;
        let is_waiting =
            |outbox: &RefCell<Option<Outbox>>| outbox.borrow().as_ref().is_some_and(|outbox| outbox.batch == batch);
        // The thread is ending: then its tasks have ended before.
        if OUTBOX.try_with(is_waiting).unwrap_or(false) {
            send();
        }
        OUTBOX.try_with(|outbox| outbox.borrow_mut().as_mut()?.rests.remove(&socket)).ok()?
    }

    /// The socket has not taken this yet.
    pub fn keep(&mut self, socket: RawFd, rest: Vec<u8>) {
        OUTBOX.with(|outbox| {
            if let Some(outbox) = outbox.borrow_mut().as_mut() {
                outbox.rests.insert(socket, rest);
                // No batch has this number: there is no letter, only the rest.
                self.posted = Some((socket, 0));
            }
        });
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // What it did not take is lost with the socket.
        drop(self.settle());
    }
}

impl Outbox {
    #[inline]
    fn has_rest_of(&self, socket: RawFd) -> bool {
        !self.rests.is_empty() && self.rests.contains_key(&socket)
    }

    /// A new letter, unless one to the same socket is late.
    fn take(&mut self, socket: RawFd, bytes: &[u8], waker: &Waker) -> bool {
        if self.is_broken || self.has_rest_of(socket) {
            return false;
        }
        let mut letter = self.spare.pop().unwrap_or_default();
        letter.extend_from_slice(bytes);
        self.letters.push(Letter { socket, bytes: letter });
        TURN.with(|turn| turn.letters.set(turn.letters.get() + 1));
        self.wakers.push(waker.clone());
        true
    }

    /// More for a socket that has a letter in the batch.
    fn append(&mut self, socket: RawFd, bytes: &[u8]) -> bool {
        let letter = self.letters.iter_mut().rev().find(|letter| letter.socket == socket);
        let Some(letter) = letter.filter(|letter| letter.bytes.len() + bytes.len() <= LONGEST) else { return false };
        letter.bytes.extend_from_slice(bytes);
        true
    }

    /// Sends all letters. Answers who must be woken, and the other wakers, to be dropped.
    fn send(&mut self) -> (Vec<Waker>, Vec<Waker>) {
        let (mut late, mut letters) = (Vec::new(), std::mem::take(&mut self.letters));
        let mut wakers = std::mem::take(&mut self.wakers);
        self.batch += 1;
        self.operations = 0;
        let _ = TURN.try_with(|turn| turn.letters.set(0));
        let mut outcomes = [0; MOST_LETTERS];
        let outcomes = outcomes.get_mut(..letters.len()).unwrap_or_default();
        match (&*letters, &mut *outcomes) {
            ([], _) => return (late, wakers),
            ([letter], [outcome]) => *outcome = send_alone(letter),
            _ => self.hand_over(&letters, outcomes),
        }
        // From the end, so that taking a waker out moves none that is still looked for.
        for (place, outcome) in outcomes.iter().enumerate().rev() {
            let Some(letter) = letters.get(place) else { continue };
            let sent = usize::try_from(*outcome).unwrap_or(0);
            if sent == letter.bytes.len() {
                continue;
            }
            match *outcome {
                0.. | NO_ROOM | INTERRUPTED => {
                    self.rests.insert(letter.socket, letter.bytes.get(sent..).unwrap_or_default().to_vec());
                }
                _ => shut_down(letter.socket),
            }
            late.push(wakers.swap_remove(place));
        }
        if self.is_broken {
            std::mem::forget(letters);
            return (late, wakers);
        }
        for letter in letters.drain(..) {
            if self.spare.len() < MOST_LETTERS {
                let mut room = letter.bytes;
                room.clear();
                self.spare.push(room);
            }
        }
        self.letters = letters;
        (late, wakers)
    }

    /// Sends these letters in one call. The outcomes are the system's: bytes sent, or an error below zero.
    fn hand_over(&mut self, letters: &[Letter], outcomes: &mut [i32]) {
        // Of what the system tells nothing, nobody knows whether it was sent.
        outcomes.fill(i32::MIN);
        let mut waiting = 0;
        let mut submission = self.ring.submission();
        for (number, letter) in (0..).zip(letters) {
            let length = u32::try_from(letter.bytes.len()).unwrap_or(0);
            let send = opcode::Send::new(types::Fd(letter.socket), letter.bytes.as_ptr(), length)
                .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
                .build()
                .user_data(number);
            // SAFETY: the bytes stay where they are and as they are until the system has told of each entry: this function
            // returns only then, or with the outbox broken, and then they are never given back. That the socket is open is
            // what `Mark` is for; a number that is none would be an error of that entry.
            waiting += usize::from(unsafe { submission.push(&send) }.is_ok());
        }
        drop(submission);
        while waiting > 0 {
            match self.ring.submit_and_wait(waiting) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    std::thread::yield_now();
                }
                Err(error) => {
                    tracing::error!(%error, "io_uring has failed: from now on each answer is sent by itself");
                    self.is_broken = true;
                    return;
                }
            }
            for completion in self.ring.completion() {
                let number = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
                if let Some(outcome) = outcomes.get_mut(number) {
                    *outcome = completion.result();
                }
                waiting -= 1;
            }
        }
    }
}

/// One letter by itself: cheaper without the ring. The outcome is the system's.
fn send_alone(letter: &Letter) -> i32 {
    match SockRef::from(&borrow(letter.socket)).send(&letter.bytes) {
        Ok(sent) => i32::try_from(sent).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// Whoever reads from it reads its end.
fn shut_down(socket: RawFd) {
    // An error means that it has ended already.
    let _ = SockRef::from(&borrow(socket)).shutdown(Shutdown::Both);
}

fn borrow(socket: RawFd) -> BorrowedFd<'static> {
    // SAFETY: a socket with a letter in the outbox is open: `Mark` has the letter sent before it is closed.
    unsafe { BorrowedFd::borrow_raw(socket) }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream as Other;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::net::Stream;

    /// Runs this where a worker's clients run. False: the system has no io_uring for us.
    fn on_a_worker(test: impl Future<Output = ()> + 'static) -> bool {
        let runtime =
            Builder::new_current_thread().enable_all().on_thread_park(end_turn).build_local(LocalOptions::default());
        let has_outbox = open().is_ok();
        runtime.unwrap().block_on(async move { tokio::task::spawn_local(test).await.unwrap() });
        has_outbox
    }

    fn pair() -> (Stream, Other) {
        let (ours, others) = Other::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        others.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        (UnixStream::from_std(ours).unwrap().into(), others)
    }

    /// As if others posted too.
    fn is_busy() {
        TURN.with(|turn| turn.follows_a_busy_one.set(true));
    }

    async fn post(stream: &mut Stream, bytes: &[u8]) -> usize {
        is_busy();
        std::future::poll_fn(|cx| stream.poll_post(cx, bytes)).await.unwrap()
    }

    /// The next bytes, or None where there are none yet.
    fn next(others: &mut Other, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        others.set_nonblocking(true).unwrap();
        let read = others.read_exact(&mut bytes);
        others.set_nonblocking(false).unwrap();
        read.is_ok().then_some(bytes)
    }

    #[test]
    fn letters_go_out_together_before_the_thread_waits() {
        on_a_worker(async {
            let mut pairs: Vec<_> = (0..100).map(|_| pair()).collect();
            for (number, (ours, _)) in pairs.iter_mut().enumerate() {
                assert_eq!(post(ours, b"first ").await, 6);
                assert_eq!(post(ours, format!("{number:03}").as_bytes()).await, 3);
            }
            crate::net::timers::sleep(Duration::from_millis(1)).await;
            for (number, (_, others)) in pairs.iter_mut().enumerate() {
                assert_eq!(next(others, 9).unwrap(), format!("first {number:03}").as_bytes());
            }
        });
    }

    #[test]
    fn who_posts_alone_does_not_wait_for_others() {
        let has_outbox = on_a_worker(async {
            let pause = || crate::net::timers::sleep(Duration::from_millis(1));
            let post = async |stream: &mut Stream| {
                std::future::poll_fn(|cx| stream.poll_post(cx, b"x")).await.unwrap();
            };
            let ((mut one, mut first), (mut other, mut second)) = (pair(), pair());
            pause().await;
            post(&mut one).await;
            assert!(next(&mut first, 1).is_some(), "at once");
            post(&mut other).await;
            let is_collected = next(&mut second, 1).is_none();
            pause().await;
            assert!(!is_collected || next(&mut second, 1).is_some());
            // That turn had two.
            post(&mut one).await;
            assert_eq!(next(&mut first, 1).is_none(), is_collected);
            pause().await;
            assert!(!is_collected || next(&mut first, 1).is_some());
            post(&mut one).await;
            assert!(next(&mut first, 1).is_some(), "the last turn had one");
        });
        println!("by io_uring: {has_outbox}");
    }

    #[test]
    fn bytes_keep_their_order_whichever_way_they_go() {
        on_a_worker(async {
            let (mut ours, mut others) = pair();
            let long = vec![b'c'; LONGEST + 1];
            post(&mut ours, b"a").await;
            ours.write_all(b"b").await.unwrap();
            post(&mut ours, b"b").await;
            ours.write_all(&long).await.unwrap();
            post(&mut ours, b"d").await;
            ours.flush().await.unwrap();
            assert_eq!(next(&mut others, 3).unwrap(), b"abb");
            assert_eq!(next(&mut others, long.len()).unwrap(), long);
            assert_eq!(next(&mut others, 1).unwrap(), b"d");
        });
    }

    #[test]
    fn what_was_posted_is_out_before_the_socket_is_closed_or_leaves() {
        on_a_worker(async {
            let ((mut ours, mut others), (mut leaving, mut left)) = (pair(), pair());
            post(&mut ours, b"bye").await;
            post(&mut leaving, b"adopted").await;
            drop(ours);
            assert_eq!(next(&mut others, 3).unwrap(), b"bye");
            post(&mut leaving, b" anew").await;
            let kept = leaving.adopt().unwrap();
            assert_eq!(next(&mut left, 12).unwrap(), b"adopted anew");
            drop(kept);
        });
    }

    #[test]
    fn what_a_socket_does_not_take_follows_when_it_does() {
        let has_outbox = on_a_worker(async {
            let (mut ours, mut others) = pair();
            // Until the socket is full.
            let mut sent = 0;
            let chunk: Vec<u8> = (0..=250).cycle().take(LONGEST - 1).collect();
            while !ours.is_late() && sent < 64 * 1024 * 1024 {
                is_busy();
                let ready = std::future::poll_fn(|cx| std::task::Poll::Ready(ours.poll_post(cx, &chunk))).await;
                if !ready.is_ready() {
                    break;
                }
                sent += chunk.len();
                // Another task, and the thread waits.
                crate::net::timers::sleep(Duration::from_micros(10)).await;
            }
            let reader = std::thread::spawn(move || {
                let mut all = vec![0; sent];
                others.read_exact(&mut all).unwrap();
                (all, others)
            });
            ours.flush().await.unwrap();
            assert!(!ours.is_late());
            post(&mut ours, b"more").await;
            ours.flush().await.unwrap();
            while !reader.is_finished() {
                crate::net::timers::sleep(Duration::from_millis(1)).await;
            }
            let (all, mut others) = reader.join().unwrap();
            assert!(all.chunks(chunk.len()).all(|part| part == chunk));
            assert_eq!(next(&mut others, 4).unwrap(), b"more");
        });
        println!("by io_uring: {has_outbox}");
    }

    #[test]
    fn a_broken_socket_is_found_by_whoever_reads_from_it() {
        on_a_worker(async {
            let ((mut ours, others), (mut whole, mut there)) = (pair(), pair());
            drop(others);
            let mut byte = [0; 1];
            // The other side has gone, or the write already says so.
            is_busy();
            let _ = std::future::poll_fn(|cx| ours.poll_post(cx, b"lost")).await;
            post(&mut whole, b"kept").await;
            let read = tokio::io::AsyncReadExt::read(&mut ours, &mut byte);
            let read = crate::net::timers::timeout(Duration::from_secs(5), read).await.unwrap();
            assert!(!read.is_ok_and(|count| count > 0));
            assert_eq!(next(&mut there, 4).unwrap(), b"kept");
        });
    }
}
