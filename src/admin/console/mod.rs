//! The console: a database named `trunkline` that answers PgBouncer's commands and some more, in PostgreSQL's protocol.

mod averages;
mod command;
mod control;
mod explain;
mod protocol;
mod show;
mod sums;
mod table;
mod wish;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::client::console::Console;
use crate::client::{Fleet, Server};
use crate::config::Shown;
use crate::handover::Others;
use averages::Averages;
use sums::Sums;

/// What the console can look at, and whom it asks for what it cannot do itself.
pub struct Desk {
    /// What clients share.
    pub in_force: Arc<ArcSwap<Server>>,
    /// The worker threads.
    pub fleet: Arc<Fleet>,
    /// The settings in force.
    pub settings: Arc<ArcSwap<Vec<Shown>>>,
    /// Who else serves the same clusters.
    pub others: Arc<Others>,
    /// Read the configuration anew.
    pub reloads: UnboundedSender<Reload>,
    /// Stop. Of its own: no reload that takes long is waited for.
    pub stops: UnboundedSender<Shutdown>,
    /// When the program began.
    pub begun: Instant,
    sums: Sums,
    averages: Averages,
}

/// Who asks for a reload is told what is to be known of it, or what is wrong.
pub type Reload = oneshot::Sender<Result<Vec<String>, String>>;

/// How to stop. A later one is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shutdown {
    /// When the clients have left, however long that takes.
    AfterClients,
    /// When transactions have ended, or after `limits.drain_timeout`.
    AfterTransactions,
    /// At once, as soon as those who are left have been told.
    Told,
    /// At once.
    Now,
}

impl Desk {
    /// A desk of a program that begins now.
    pub fn new(
        in_force: Arc<ArcSwap<Server>>,
        fleet: Arc<Fleet>,
        settings: Arc<ArcSwap<Vec<Shown>>>,
        others: Arc<Others>,
        (reloads, stops): (UnboundedSender<Reload>, UnboundedSender<Shutdown>),
    ) -> Arc<Self> {
        let begun = Instant::now();
        let (sums, averages) = (Sums::default(), Averages::default());
        Arc::new(Self { in_force, fleet, settings, others, reloads, stops, begun, sums, averages })
    }

    /// What answers clients at this desk.
    pub fn console(self: &Arc<Self>) -> Console {
        let desk = Arc::clone(self);
        Box::new(move |visitor| {
            let desk = Arc::clone(&desk);
            Box::pin(async move { protocol::serve(visitor, &desk).await })
        })
    }

    /// Takes averages as long as it is polled.
    pub async fn keep_averages(&self) {
        self.averages.keep(&self.sums, &self.fleet).await;
    }
}
