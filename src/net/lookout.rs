//! Quiet sockets, watched together through one place in the runtime's reactor: a place of its own for each, and a task to be
//! woken, take more room than all else that is to be remembered of a client.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use tokio::io::unix::AsyncFd;

use super::Unwatched;

/// Hears of what comes on the sockets of its [`Watch`].
pub struct Lookout {
    poll: AsyncFd<Poll>,
    events: Events,
}

/// The sockets that are watched.
#[derive(Debug)]
pub struct Watch(Registry);

/// Sockets heard of at once.
const MOST_EVENTS: usize = 256;

impl Lookout {
    /// A lookout of the present runtime, and the way to have sockets watched by it.
    pub fn new() -> io::Result<(Self, Watch)> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        #[expect(deprecated, reason = "its successor is unsafe, for what may change its descriptor; mio keeps its own")]
        let poll = AsyncFd::with_interest(poll, tokio::io::Interest::READABLE)?;
        Ok((Self { poll, events: Events::with_capacity(MOST_EVENTS) }, Watch(registry)))
    }

    /// Waits until bytes have come on sockets, or their end; calls `heard` with the number of each. Cancel-safe: it waits
    /// before it asks.
    pub async fn listen(&mut self, mut heard: impl FnMut(usize)) -> io::Result<()> {
        let mut ready = self.poll.readable_mut().await?;
        ready.get_inner_mut().poll(&mut self.events, Some(Duration::ZERO))?;
        if self.events.is_empty() {
            ready.clear_ready();
        }
        self.events.iter().for_each(|event| heard(event.token().0));
        Ok(())
    }
}

impl Watch {
    /// What comes on this socket from now on, or has come already, is told by this number.
    pub fn add(&self, socket: &Unwatched, number: usize) -> io::Result<()> {
        self.0.register(&mut SourceFd(&socket.as_fd().as_raw_fd()), Token(number), Interest::READABLE)
    }

    /// Nobody wants to hear of this socket any more.
    pub fn remove(&self, socket: &Unwatched) {
        // It would have to be watched not at all.
        let _ = self.0.deregister(&mut SourceFd(&socket.as_fd().as_raw_fd()));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_comes_is_told_once_and_before_it_is_listened_for_too() {
        let (mut lookout, watch) = Lookout::new().unwrap();
        let (mut early, first) = UnixStream::pair().unwrap();
        let (late, second) = UnixStream::pair().unwrap();
        let (first, second) = (Unwatched::Unix(first), Unwatched::Unix(second));
        early.write_all(b"before").unwrap();
        watch.add(&first, 7).unwrap();
        watch.add(&second, 8).unwrap();
        assert_eq!(next(&mut lookout).await, [7]);
        drop(late);
        assert_eq!(next(&mut lookout).await, [8], "the end is told, too");
        watch.remove(&first);
        early.write_all(b"unheard").unwrap();
        let unheard = crate::net::timers::timeout(Duration::from_millis(50), next(&mut lookout));
        assert!(unheard.await.is_err());
    }

    async fn next(lookout: &mut Lookout) -> Vec<usize> {
        let mut told = Vec::new();
        while told.is_empty() {
            lookout.listen(|number| told.push(number)).await.unwrap();
        }
        told
    }
}
