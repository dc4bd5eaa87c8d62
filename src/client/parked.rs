//! A client that has said nothing for a while: what is to be remembered of it, without a task, a future or a place in the
//! runtime's reactor, which together take four times the room. It waits with its worker until its socket is heard, or until
//! something else is wanted of it; then it goes on as if nothing had been.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::card::Card;
use super::census::Seat;
use super::conversation::Client;
use super::last_path::LastPath;
use super::loss::Losses;
use super::places::Place;
use super::refused_settings::RefusedSettings;
use super::server::{Database, Server};
use super::visit;
use super::worker::Worker;
use crate::auth::Secret;
use crate::config::PoolMode;
use crate::memory;
use crate::net::{Lookout, Stream, Unwatched, timers};
use crate::session::Folded;
use crate::topology::NodeId;

/// What is to be remembered of a client that has nothing to say, beside what its card tells.
pub struct Parked {
    socket: Unwatched,
    session: Folded,
    server: Arc<Server>,
    database: Arc<Database>,
    password: Option<Secret>,
    place: Place,
    seat: Seat,
    stays_with: Option<NodeId>,
    mode: PoolMode,
}

/// How often a worker looks who has been quiet for long.
const LOOK: Duration = Duration::from_millis(250);

/// After so many clients have been parked or have left, the memory of their tasks is given back.
const MANY: usize = 32;

/// Parks the clients of this worker that are quiet, and goes on with those that are heard. Runs as long as the worker does.
pub async fn attend(worker: Rc<Worker>) {
    let mut lookout = match Lookout::new() {
        Ok((lookout, watch)) => {
            worker.parks_with(watch);
            lookout
        }
        Err(error) => {
            tracing::warn!(%error, "quiet clients cannot be watched together: each keeps its task, which takes more memory");
            return;
        }
    };
    let mut look = timers::interval(LOOK);
    let mut heard = Vec::new();
    loop {
        // Cancel-safe, both.
        tokio::select! {
            listened = lookout.listen(|place| heard.push(place)) => {
                if let Err(error) = listened {
                    // Nobody would be heard any more: all have tasks again, and keep them.
                    tracing::error!(%error, "quiet clients cannot be watched together any more");
                    worker.parks_no_more();
                    return rouse(worker, |_| true).await;
                }
                let now = Instant::now();
                for parked in heard.drain(..).filter_map(|place| worker.places.take_parked(place)) {
                    parked.place.card.speaks_again(now);
                    parked.rouse();
                }
            }
            _ = look.tick() => {
                if worker.places.gone() >= MANY {
                    memory::give_back();
                }
                worker.places.park_the_quiet(Instant::now());
            }
        }
    }
}

/// Rouses the parked clients that are meant, a few at a time.
pub async fn rouse(worker: Rc<Worker>, is_meant: fn(&Card) -> bool) {
    let mut place = 0;
    loop {
        let (some, next) = worker.places.take_some_parked(place, is_meant);
        if some.is_empty() {
            return;
        }
        some.into_iter().for_each(|parked| parked.rouse());
        place = next;
        tokio::task::yield_now().await;
    }
}

impl Client {
    /// Nothing of it is under way, and it can be watched without a task.
    pub(super) fn may_be_parked(&self) -> bool {
        let is_plain = matches!(self.stream, Stream::Plain(_)) && !self.stream.is_late();
        let has_nothing_under_way = self.held.is_none() && self.dropping == 0 && self.session.is_idle();
        is_plain && has_nothing_under_way && self.worker.parks() && !self.worker.is_draining()
    }

    /// It waits with its worker. Only if it [may be](Self::may_be_parked).
    pub(super) fn park(self) {
        let (worker, number) = (Rc::clone(&self.worker), self.place.number());
        let Some(parked) = self.into_parked() else { return };
        match worker.watch(&parked.socket, number) {
            Ok(()) => {
                parked.place.card.parks();
                worker.metrics.client_parked();
                worker.places.park(number, Box::new(parked));
            }
            Err(error) => {
                tracing::warn!(%error, "a quiet client cannot be watched with the others");
                parked.go_on();
            }
        }
    }

    fn into_parked(mut self) -> Option<Parked> {
        self.session.freshness.settle(&self.cluster().view.load());
        let socket = match self.stream {
            Stream::Plain(socket) => socket.unwatched(),
            Stream::Tls(_) => return None,
        };
        Some(Parked {
            socket: socket.ok()?,
            session: self.session.fold(self.worker.begun),
            server: self.server,
            database: self.database,
            password: self.password,
            place: self.place,
            seat: self.seat,
            stays_with: self.stays_with,
            mode: self.mode,
        })
    }
}

impl Parked {
    /// The client as it was; what belongs to a unit is as at the beginning of one.
    fn into_client(self) -> io::Result<Client> {
        let worker = Rc::clone(self.place.worker());
        let (identity, cancellable) = (self.place.card.identity(), self.place.card.cancellable());
        let (identity, cancellable) = identity.zip(cancellable).ok_or(io::ErrorKind::NotFound)?;
        Ok(Client {
            stream: Stream::Plain(self.socket.watched()?),
            held: None,
            queued: None,
            server: self.server,
            database: self.database,
            mode: self.mode,
            password: self.password,
            pools: Vec::new(),
            cancellable,
            tally: worker.tally(&identity.database),
            is_listened_to: false,
            is_flushing: false,
            dropping: 0,
            losses: Losses::default(),
            paths: LastPath::default(),
            refused: RefusedSettings::default(),
            stays_with: self.stays_with,
            turn: worker.turn(),
            log: None,
            early: None,
            session: self.session.unfold(self.place.card.id(), identity, worker.begun),
            place: self.place,
            worker,
            counted: 0,
            apart: None,
            looked_at: None,
            seat: self.seat,
        })
    }

    /// It has a task again, which goes on with it.
    pub fn rouse(self) {
        self.place.worker().watch_no_more(&self.socket);
        self.place.worker().metrics.client_roused();
        self.go_on();
    }

    fn go_on(self) {
        match self.into_client() {
            Ok(client) => drop(tokio::task::spawn_local(visit::attend(Box::new(client)))),
            Err(error) => tracing::warn!(%error, "a client that was quiet cannot be watched any more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_client_takes_little_room() {
        // These are mimalloc's sizes.
        assert!(size_of::<Parked>() <= 192, "{}", size_of::<Parked>());
        assert!(size_of::<Card>() + 2 * size_of::<usize>() <= 192, "{}", size_of::<Card>());
    }
}
