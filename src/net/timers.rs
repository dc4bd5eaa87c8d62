//! Timers, as of [`tokio::time`], but for threads that do not keep the time: a worker that waits for its sockets alone reads
//! no clock to do so, and has the kernel arm none, twice for each transaction. Anywhere else the runtime keeps the time.

#![expect(clippy::disallowed_methods, reason = "here alone they are called")]

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, Timeout};

/// The thread that keeps the time for others.
#[derive(Clone, Debug)]
pub struct Timekeeper(Handle);

thread_local! {
    static KEPT_BY: RefCell<Option<Timekeeper>> = const { RefCell::new(None) };
}

impl Timekeeper {
    /// Starts it. It keeps the time as long as the process lives.
    pub fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let keeper = Self(runtime.handle().clone());
        let keep = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new().name("timers".to_owned()).spawn(keep)?;
        Ok(keeper)
    }

    /// It keeps the time for what this thread makes here from now on.
    pub fn serve_this_thread(self) {
        KEPT_BY.set(Some(self));
    }
}

/// See [`tokio::time::sleep`].
pub fn sleep(duration: Duration) -> Sleep {
    made(|| tokio::time::sleep(duration))
}

/// See [`tokio::time::sleep_until`].
pub fn sleep_until(deadline: Instant) -> Sleep {
    made(|| tokio::time::sleep_until(deadline))
}

/// See [`tokio::time::timeout`].
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    made(|| tokio::time::timeout(duration, future))
}

/// See [`tokio::time::timeout_at`].
pub fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    made(|| tokio::time::timeout_at(deadline, future))
}

/// See [`tokio::time::interval`]. Whoever has stood still for many periods is due once, and then no sooner than a period later.
pub fn interval(period: Duration) -> Interval {
    let mut interval = made(|| tokio::time::interval(period));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A task where the time is kept, for what brings timers of its own. Nothing that computes for long: timers wait for it.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    made(|| tokio::spawn(future))
}

/// A timer belongs to the runtime that it is made in.
fn made<T>(make: impl FnOnce() -> T) -> T {
    KEPT_BY.with_borrow(|keeper| {
        let _entered = keeper.as_ref().map(|keeper| keeper.0.enter());
        make()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(60);

    async fn each_kind() {
        let begun = Instant::now();
        sleep(SOON).await;
        sleep_until(begun + 2 * SOON).await;
        assert!(timeout(SOON, sleep(LATE)).await.is_err());
        assert!(timeout_at(begun + 4 * SOON, sleep(LATE)).await.is_err());
        assert_eq!(timeout(LATE, async { 7 }).await, Ok(7));
        let mut beats = interval(SOON);
        beats.tick().await;
        beats.tick().await;
        // Somebody else's code, which calls tokio's own.
        spawn(async { tokio::time::sleep(SOON).await }).await.unwrap();
        assert!(begun.elapsed() >= 6 * SOON, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_runtime_without_timers_has_them_kept() {
        let keeper = Timekeeper::start().unwrap();
        let work = move || {
            keeper.serve_this_thread();
            Builder::new_current_thread().build().unwrap().block_on(each_kind());
        };
        std::thread::spawn(work).join().unwrap();
    }

    #[tokio::test]
    async fn a_runtime_with_timers_keeps_its_own() {
        each_kind().await;
    }

    #[tokio::test]
    async fn who_has_stood_still_makes_up_for_nothing() {
        let mut beats = interval(SOON);
        beats.tick().await;
        std::thread::sleep(5 * SOON);
        let late = Instant::now();
        beats.tick().await;
        beats.tick().await;
        assert!(late.elapsed() >= SOON, "{:?}", late.elapsed());
    }

    #[test]
    fn who_leaves_takes_nothing_along() {
        let keeper = Timekeeper::start().unwrap();
        let other = keeper.clone();
        let left_alone = move || {
            other.serve_this_thread();
            let runtime = Builder::new_current_thread().build().unwrap();
            // Gone before it is due, with its runtime.
            runtime.block_on(async { drop(tokio::spawn(sleep(SOON))) });
        };
        std::thread::spawn(left_alone).join().unwrap();
        let work = move || {
            keeper.serve_this_thread();
            Builder::new_current_thread().build().unwrap().block_on(each_kind());
        };
        std::thread::spawn(work).join().unwrap();
    }
}
