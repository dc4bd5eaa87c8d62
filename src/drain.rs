//! How the program stops: at once, or when what its clients do has come to an end.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tracing::info;

use crate::admin::AdminState;
use crate::admin::console::Shutdown;
use crate::client::{Fleet, Server};

/// SIGINT stops at once. SIGTERM stops when the last transaction has ended, or after `drain_timeout`. So does the
/// console's SHUTDOWN, in its three ways.
pub async fn until_stopped(
    in_force: &ArcSwap<Server>,
    fleet: &Fleet,
    state: &AdminState,
    (mut stops, mut interrupt, mut terminate): (watch::Receiver<Option<Shutdown>>, Signal, Signal),
) {
    // Whichever comes first; another one, if it comes too, is not lost but not needed.
    let how = tokio::select! {
        _ = interrupt.recv() => Shutdown::Now,
        _ = terminate.recv() => Shutdown::AfterTransactions,
        Ok(how) = stops.wait_for(Option::is_some) => how.unwrap_or(Shutdown::Now),
    };
    let limit = match how {
        Shutdown::Now => return,
        Shutdown::AfterTransactions => Some(in_force.load().limits.drain_timeout),
        Shutdown::AfterClients => None,
    };
    info!(clients = fleet.clients(), "draining");
    state.draining.store(true, Ordering::Relaxed);
    if how == Shutdown::AfterTransactions {
        fleet.drain();
    }
    let begun = Instant::now();
    while fleet.clients() > 0 && limit.is_none_or(|limit| begun.elapsed() < limit) {
        // Dropping the others loses nothing: an interrupt ends it, and so does a termination of what has no limit.
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv(), if limit.is_none() => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}
