//! Who of a cluster's keepers has connections: a node has room for few, and there may be a thousand databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The turns of one cluster's keepers. Only who has one has connections, and then at most one to a node. Whoever has looked keeps
/// its turn, and so its connections, until another waits for one: then who has looked longest ago gives its turn up.
#[derive(Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// So many wait for one.
    waiting: AtomicUsize,
    /// Tells one of those who keep theirs, in the order in which they have come.
    wanted: Notify,
}

/// A keeper's turn, until it is dropped.
#[must_use = "dropping it ends the turn"]
pub(super) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
}

/// One who waits, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Turns {
    /// Waits for a turn. Cancel-safe: who does not wait any more is passed over.
    pub(super) async fn next(&self) -> Turn {
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
            return Turn { _permit: Some(permit) };
        }
        let _waiting = Waiting::begin(&self.waiting);
        self.wanted.notify_one();
        // Nobody closes it.
        Turn { _permit: Arc::clone(&self.free).acquire_owned().await.ok() }
    }

    /// For who keeps its turn: returns when another needs it. Cancel-safe: the next one hears of it then.
    pub(super) async fn wanted(&self) {
        while self.waiting.load(Ordering::Acquire) == 0 {
            self.wanted.notified().await;
        }
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(MOST)), waiting: AtomicUsize::new(0), wanted: Notify::new() }
    }
}

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// PostgreSQL lets in a hundred by default, and has them for sessions. Ten looks at once keep a node busy.
const MOST: usize = 10;

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::Instant;

    use super::*;
    use crate::net::timers::timeout_at;

    #[tokio::test]
    async fn who_has_looked_longest_ago_gives_its_turn_to_who_waits() {
        let turns = Arc::new(Turns::default());
        let (told, mut given_up) = unbounded_channel();
        for number in 0..MOST {
            let (turn, turns, told) = (turns.next().await, Arc::clone(&turns), told.clone());
            tokio::spawn(async move {
                turns.wanted().await;
                drop(turn);
                told.send(number).unwrap();
            });
            tokio::task::yield_now().await;
        }
        assert!(given_up.try_recv().is_err(), "nobody waits");
        let mut taken = Vec::new();
        for number in 0..3 {
            taken.push(turns.next().await);
            assert_eq!(given_up.recv().await, Some(number));
            assert!(given_up.try_recv().is_err(), "one is enough");
        }
    }

    #[tokio::test]
    async fn who_is_done_gives_way_while_anybody_waits_and_no_longer() {
        let turns = Turns::default();
        let mut busy = Vec::new();
        for _ in 0..MOST {
            busy.push(turns.next().await);
        }
        let is_wanted = || async { timeout_at(Instant::now(), turns.wanted()).await.is_ok() };
        assert!(!is_wanted().await);
        let (mut first, mut second) = (Box::pin(turns.next()), Box::pin(turns.next()));
        assert!(timeout_at(Instant::now(), &mut first).await.is_err());
        assert!(timeout_at(Instant::now(), &mut second).await.is_err());
        assert!(is_wanted().await);
        drop(first);
        assert!(is_wanted().await, "another one waits");
        busy.pop();
        let taken = timeout_at(Instant::now(), second).await;
        assert!(taken.is_ok(), "who has gone away has taken none");
        assert!(!is_wanted().await);
    }
}
