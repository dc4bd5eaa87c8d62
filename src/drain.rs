//! How the program stops: at once, or when what its clients do has come to an end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tracing::info;

use crate::admin::AdminState;
use crate::admin::console::Shutdown;
use crate::client::{Census, Fleet, Server, Whom};
use crate::handover::{Others, Stop};
use crate::net::timers;
use crate::systemd;

/// What tells the program to stop.
pub struct Stops {
    /// The console's SHUTDOWN.
    pub ordered: UnboundedReceiver<Shutdown>,
    /// SIGINT.
    pub interrupt: Signal,
    /// SIGQUIT.
    pub quit: Signal,
    /// SIGTERM.
    pub terminate: Signal,
}

/// Clients that leave are looked for this often: nobody notices so short a wait for the end.
const LOOK: Duration = Duration::from_millis(20);

/// How long those that are left may take for what they are told: who reads at all takes it at once.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Returns once the program may end. SIGINT and SIGQUIT stop at once. SIGTERM stops when the last transaction has ended, or after
/// `drain_timeout`. The console's SHUTDOWN has these two ways and a third. Nobody new is served meanwhile but at the console,
/// and whoever is left at the end, there or elsewhere, is told. A stronger way takes the place of one that is under way, and a
/// weaker one changes nothing.
///
/// One that has a successor ends when its clients have left, and its own predecessor has ended, which is asked for what only
/// that knows. One that stops has its predecessor stop, too.
pub async fn until_stopped(
    in_force: &ArcSwap<Server>,
    fleet: &Fleet,
    state: &AdminState,
    mut stops: Stops,
    (others, mut is_handed_over): (&Others, watch::Receiver<bool>),
) {
    let is_of_no_use = async {
        loop {
            // Who tells it is there for as long as it may change.
            if is_handed_over.wait_for(|is_so| *is_so).await.is_err() {
                std::future::pending::<()>().await;
            }
            is_empty(fleet).await;
            others.predecessor_gone().await;
            // Clients may have come in again meanwhile.
            if *is_handed_over.borrow() && fleet.served() == 0 {
                return;
            }
        }
    };
    // Dropping either loses nothing: what has been handed over stays so.
    let mut how = tokio::select! {
        how = stops.next() => how,
        () = is_of_no_use => Shutdown::Told,
    };
    while how < Shutdown::Told {
        let census = Arc::clone(&in_force.load().census);
        info!(clients = census.now(), ?how, "draining");
        state.draining.store(true, Ordering::Relaxed);
        let limit = match how {
            Shutdown::AfterTransactions => {
                others.stop_predecessor(Stop::AfterTransactions);
                fleet.drain();
                Some(in_force.load().limits.drain_timeout)
            }
            _ => {
                fleet.close();
                None
            }
        };
        // Told that the program stops, systemd would end one that waits for its clients without a limit.
        // And of one that has a successor it has heard the last.
        if !*is_handed_over.borrow() {
            limit.into_iter().for_each(systemd::stopping);
        }
        // Dropping the others loses nothing: who has left is looked at anew, and the next way has a limit of its own.
        tokio::select! {
            stronger = stops.stronger_than(how) => how = stronger,
            () = all_are_over(&census, fleet, others) => how = Shutdown::Told,
            () = passed(limit) => how = Shutdown::Told,
        }
    }
    if how == Shutdown::Told {
        state.draining.store(true, Ordering::Relaxed);
        others.stop_predecessor(Stop::Told);
        send_away(fleet).await;
        // It has the same time, from a moment later on.
        let _ = timers::timeout(LAST_MOMENT + LOOK, others.predecessor_gone()).await;
    }
    others.stop_predecessor(Stop::Now);
}

/// It is over here, and with the predecessor.
async fn all_are_over(census: &Census, fleet: &Fleet, others: &Others) {
    is_over(census, fleet).await;
    others.predecessor_gone().await;
}

impl Stops {
    /// The next way that is asked for. Cancel-safe, as all that is waited for.
    async fn next(&mut self) -> Shutdown {
        tokio::select! {
            _ = self.interrupt.recv() => Shutdown::Now,
            _ = self.quit.recv() => Shutdown::Now,
            _ = self.terminate.recv() => Shutdown::AfterTransactions,
            Some(how) = self.ordered.recv() => how,
        }
    }

    /// The next way that is stronger than this. Cancel-safe: what is dropped with it has changed nothing.
    async fn stronger_than(&mut self, how: Shutdown) -> Shutdown {
        loop {
            let next = self.next().await;
            if next > how {
                return next;
            }
        }
    }
}

/// Everybody has left who was let in but at the console. Those who have said nothing yet, or are refused just now, are waited
/// for no longer than a moment: there may always be some.
async fn is_over(census: &Census, fleet: &Fleet) {
    loop {
        while census.now() > 0 {
            timers::sleep(LOOK).await;
        }
        // Dropping it loses nothing: it only looks.
        let is_empty = timers::timeout(LAST_MOMENT, is_empty(fleet)).await.is_ok();
        // A worker that had not heard of the stop yet may have let somebody in.
        if is_empty || census.now() == 0 {
            return;
        }
    }
}

/// Nobody is there any more but at the console.
async fn is_empty(fleet: &Fleet) {
    while fleet.served() > 0 {
        timers::sleep(LOOK).await;
    }
}

/// Whoever is still there is told so, at the console, too, and has a moment to take it.
async fn send_away(fleet: &Fleet) {
    let gone = async {
        // Whether it has ended them is seen by those who are left.
        let _ = fleet.kill(&Whom::Everybody).await;
        while fleet.clients() > 0 {
            timers::sleep(LOOK).await;
        }
    };
    // Dropping it loses nothing: it ends for all of them now.
    let _ = timers::timeout(LAST_MOMENT, gone).await;
}

/// The time is over; never, if there is no limit.
async fn passed(limit: Option<Duration>) {
    match limit {
        Some(limit) => timers::sleep(limit).await,
        None => std::future::pending().await,
    }
}
