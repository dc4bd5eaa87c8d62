//! An online restart: SIGUSR2 starts a successor, and once that serves, nobody comes in here any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::{ACCEPT_PAUSE, Doors, Entrance, House};
use crate::admin::console::Shutdown;
use crate::client::{Database, Server};
use crate::complaints::{Complaints, Repeats};
use crate::handover::{Order, Others, Parting, Sockets, Stop, Successor};
use crate::net::timers;
use crate::systemd;

/// An online restart.
pub struct Restart {
    /// SIGUSR2.
    pub ordered: Signal,
    /// Of the doors.
    pub sockets: Sockets,
    /// What they lead to.
    pub house: House,
    /// Who else serves the same clusters.
    pub others: Arc<Others>,
    /// Gives signs of life.
    pub watchdog: AbortHandle,
    /// Told when nobody comes in any more, and when somebody does again.
    pub handed_over: watch::Sender<bool>,
}

impl Restart {
    /// SIGUSR2 starts a successor. Once that serves, nobody comes in here any more; clients may come to both meanwhile. If it
    /// never does, nothing has happened, and if it dies, they come in here again. If it dies once it has a successor itself, this
    /// process stops: nobody could tell it what is done there, nor to stop.
    pub async fn when_ordered(mut self, mut entrance: Entrance, stop: impl Fn(Shutdown)) {
        let stop = |how| {
            stop(match how {
                Stop::AfterTransactions => Shutdown::AfterTransactions,
                Stop::Told => Shutdown::Told,
                Stop::Now => Shutdown::Now,
            });
        };
        while self.ordered.recv().await.is_some() {
            let successor = match self.succeeded().await {
                Ok(successor) => successor,
                Err(error) => {
                    error!(%error, "there is no successor: all goes on here");
                    continue;
                }
            };
            let process = successor.process();
            systemd::is_succeeded_by(process);
            self.watchdog.abort();
            entrance.close();
            self.others.pass_on(&self.names());
            let keys = Arc::clone(&self.house.in_force.load().cancel_keys);
            let let_go = || {
                let (predecessor, clients) = (std::process::id(), self.house.fleet.clients());
                info!(
                    successor = process,
                    predecessor, clients, "the successor serves: this process goes on for the clients that it has"
                );
                self.handed_over.send_replace(true);
            };
            let (sockets, others) = (&mut self.sockets, &self.others);
            let heed = |order| match order {
                Order::Stop(how) => stop(how),
                Order::Keep(names) => {
                    sockets.retain(|(name, _)| names.contains(name));
                    others.pass_on(&names);
                }
            };
            let parting = {
                let mut serving = std::pin::pin!(successor.serve(&keys, let_go, heed));
                loop {
                    // Both are cancel-safe: the one is only borrowed.
                    tokio::select! {
                        parting = &mut serving => break parting,
                        _ = self.ordered.recv() => warn!(successor = process, "a successor serves already: SIGUSR2 is for that"),
                    }
                }
            };
            match parting {
                Parting::Ordered => return,
                Parting::PassedOn => {
                    let predecessor = std::process::id();
                    error!(
                        successor = process,
                        predecessor,
                        "the successor has died after another took over from it: no order reaches this process any more, so it stops \
                         once its transactions have ended"
                    );
                    return stop(Stop::AfterTransactions);
                }
                Parting::Odd => return error!("the successor speaks otherwise: it goes its own way"),
                Parting::Dead => {}
            }
            self.is_alone();
            if self.house.state.draining.load(Ordering::Relaxed) {
                self.others.leave_an_orphan();
                self.is_supervised_again();
                return error!("the successor has died, and this process stops: nobody lets clients in");
            }
            error!("the successor has died: clients come in here again");
            self.others.take_back();
            self.handed_over.send_replace(false);
            self.is_supervised_again();
            let Some(again) = self.opened_again().await else { return };
            entrance = again;
        }
    }

    /// The doors, which are nobody's now: clients wait at them for as long as descriptors are short. None: this process stops.
    async fn opened_again(&self) -> Option<Entrance> {
        let mut complaints = Complaints::new(Repeats::EachMinute);
        loop {
            let error = match Doors::again(&self.sockets) {
                Ok(doors) => return Some(doors.entrance(&self.house)),
                Err(error) => error,
            };
            if self.house.state.draining.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(times) = complaints.meet(&error.to_string(), Instant::now()) {
                error!(%error, times, "nobody can come in here again yet: who connects has to wait");
            }
            timers::sleep(ACCEPT_PAUSE).await;
        }
    }

    async fn succeeded(&mut self) -> io::Result<Successor> {
        self.is_allowed()?;
        info!("a successor is started");
        self.others.may_succeed(true);
        doubt_writes(&self.house.in_force.load());
        let successor = self.started().await;
        if successor.is_err() {
            self.is_alone();
        }
        successor
    }

    async fn started(&mut self) -> io::Result<Successor> {
        let reloads = || self.house.state.reloads.load(Ordering::Relaxed);
        let before = reloads();
        let mut successor = Successor::start(&self.sockets)?;
        let taken = successor.until_it_is_ready().await?;
        // Whoever has told this process to stop meanwhile has not meant another to go on.
        self.is_allowed()?;
        if reloads() != before {
            return Err(io::Error::other(
                "the configuration was read anew meanwhile, and the successor may have the old one",
            ));
        }
        // Where nobody lets anybody in, nobody is to knock.
        self.sockets.retain(|(name, _)| taken.contains(name));
        Ok(successor)
    }

    /// Whoever supervises the service looks at this process again.
    fn is_supervised_again(&mut self) {
        systemd::is_succeeded_by(std::process::id());
        self.watchdog = tokio::spawn(systemd::keep_watchdog(Arc::clone(&self.house.metrics))).abort_handle();
    }

    fn names(&self) -> Vec<String> {
        self.sockets.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Nobody else serves any more: what has been done last counts as done at any time.
    fn is_alone(&self) {
        doubt_writes(&self.house.in_force.load());
        self.others.may_succeed(false);
    }

    fn is_allowed(&self) -> io::Result<()> {
        let because = if std::process::id() == 1 {
            "this is the first process of its container, which ends with it".to_owned()
        } else if self.house.state.draining.load(Ordering::Relaxed) {
            "this process stops".to_owned()
        } else if let Some(said) = self.house.in_force.load().said_by_operators() {
            format!("{said}, which a successor would not know")
        } else {
            return Ok(());
        };
        Err(io::Error::other(because))
    }
}

/// Another process has written for its clients, it may be, and changed catalogs for them.
pub fn doubt_writes(server: &Server) {
    doubt(server, |database| database.catalog.suspected());
}

/// The same as long as there is one, over and over: catalogs that take long to look at are not looked at all the time.
pub fn keep_doubting_writes(server: &Server) {
    doubt(server, |database| database.catalog.may_have_changed());
}

fn doubt(server: &Server, catalog: impl Fn(&Database)) {
    let now = Instant::now();
    server.clusters.iter().for_each(|cluster| cluster.last_write.lost(now));
    for database in server.databases.values() {
        database.catalog.changed_elsewhere();
        catalog(database);
    }
}
