//! The places of a worker's clients: what others can see of each, and how it is reached while it has nothing to do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::card::{Card, ClientReport, Ending};
use super::parked::Parked;
use super::worker::Worker;
use crate::backend::cancel::OnItsWay;
use crate::config::Limits;

/// The places of a worker's clients.
#[derive(Default)]
pub struct Places {
    spots: RefCell<Vec<Spot>>,
    free: RefCell<Vec<usize>>,
    /// Clients that have been parked or have left since somebody asked.
    gone: Cell<usize>,
}

/// So many parked clients are roused in one go: the others of the worker do not wait for thousands.
const SOME: usize = 64;

/// What a place holds; nothing: it is free.
#[derive(Default)]
struct Spot {
    card: Option<Rc<Card>>,
    /// The client itself, if it has no task.
    parked: Option<Box<Parked>>,
}

/// A client's place; dropping it is leaving, in whatever way that comes about.
pub struct Place {
    worker: Rc<Worker>,
    /// What others can see of the client.
    pub card: Rc<Card>,
    number: usize,
}

/// How many clients a worker has, those included that are on their way to it.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: AtomicUsize,
    at_console: AtomicUsize,
}

/// A client that is on its way to its place, and counted: it is not any more if it does not come there.
pub struct Counted(Count);

/// A client at the console, until this is dropped.
pub struct Visit(Count);

impl Count {
    /// One more client is on its way.
    pub fn one_more(&self) -> Counted {
        self.add();
        Counted(self.clone())
    }

    /// How many there are.
    pub fn now(&self) -> usize {
        self.0.all.load(Ordering::Relaxed)
    }

    /// How many there are without those at the console.
    pub fn served(&self) -> usize {
        self.now().saturating_sub(self.0.at_console.load(Ordering::Relaxed))
    }

    fn add(&self) {
        self.0.all.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self) {
        self.0.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.0.at_console.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.remove();
    }
}

impl Places {
    /// What others can see of all clients.
    pub fn report(&self) -> Vec<ClientReport> {
        self.cards(|card| Some(card.report()))
    }

    /// Ends the clients that are meant. Answers how many.
    pub fn end(&self, is_meant: impl Fn(&Card) -> bool) -> usize {
        self.cards(|card| is_meant(card).then(|| card.end(Ending::Killed))).len()
    }

    /// Does what the limits ask for by now. Answers the cancels that are to be sent to nodes.
    pub fn heed(&self, limits: &Limits, now: Instant) -> Vec<OnItsWay> {
        self.cards(|card| card.heed(limits, now))
    }

    /// Has everybody look whether something is wanted of it who has a task.
    pub fn wake_all(&self) {
        self.spots.borrow().iter().filter_map(|spot| spot.card.as_ref()).for_each(|card| card.wake());
    }

    /// Those that have said nothing for long are asked to be parked.
    pub fn park_the_quiet(&self, now: Instant) {
        for card in
            self.spots.borrow().iter().filter(|spot| spot.parked.is_none()).filter_map(|spot| spot.card.as_ref())
        {
            if card.park_if_quiet(now) {
                card.wake();
            }
        }
    }

    /// The client of this place waits here from now on.
    pub fn park(&self, place: usize, parked: Box<Parked>) {
        if let Some(spot) = self.spots.borrow_mut().get_mut(place) {
            spot.parked = Some(parked);
            self.gone.set(self.gone.get() + 1);
        }
    }

    /// How many clients have been parked or have left since this was asked last.
    pub fn gone(&self) -> usize {
        self.gone.take()
    }

    /// The client that is parked at this place; nobody is there any more.
    pub fn take_parked(&self, place: usize) -> Option<Box<Parked>> {
        self.spots.borrow_mut().get_mut(place)?.parked.take()
    }

    /// Some of the parked clients of the places from this one on that are meant, and the next place to look at.
    pub fn take_some_parked(&self, from: usize, is_meant: impl Fn(&Card) -> bool) -> (Vec<Box<Parked>>, usize) {
        let mut spots = self.spots.borrow_mut();
        let mut some = Vec::new();
        for (place, spot) in spots.iter_mut().enumerate().skip(from) {
            if some.len() >= SOME {
                return (some, place);
            }
            if spot.card.as_ref().is_some_and(|card| is_meant(card)) {
                some.extend(spot.parked.take());
            }
        }
        (some, spots.len())
    }

    /// Nobody is parked any more.
    pub fn dismiss_parked(&self) {
        let parked: Vec<_> = self.spots.borrow_mut().iter_mut().filter_map(|spot| spot.parked.take()).collect();
        // Outside: each gives back its place.
        drop(parked);
    }

    fn cards<T>(&self, look: impl FnMut(&Rc<Card>) -> Option<T>) -> Vec<T> {
        self.spots.borrow().iter().filter_map(|spot| spot.card.as_ref()).filter_map(look).collect()
    }
}

impl Place {
    /// A place with this worker, for a client that has been counted.
    pub fn take(worker: &Rc<Worker>, card: Card, counted: Counted) -> Self {
        let places = &worker.places;
        let card = Rc::new(card);
        let number = places.free.borrow_mut().pop().unwrap_or_else(|| {
            places.spots.borrow_mut().push(Spot::default());
            places.spots.borrow().len() - 1
        });
        if let Some(spot) = places.spots.borrow_mut().get_mut(number) {
            spot.card = Some(Rc::clone(&card));
        }
        // From here on the place counts for it.
        worker.count.add();
        drop(counted);
        worker.metrics.client_accepted();
        Self { worker: Rc::clone(worker), card, number }
    }

    /// Whose client it is.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Which it is.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Its client is at the console from now on, until what is returned is dropped.
    pub fn visits_console(&self) -> Visit {
        self.card.visits_console();
        let count = self.worker.count.clone();
        count.0.at_console.fetch_add(1, Ordering::Relaxed);
        Visit(count)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let places = &self.worker.places;
        if let Some(spot) = places.spots.borrow_mut().get_mut(self.number) {
            *spot = Spot::default();
        }
        places.free.borrow_mut().push(self.number);
        places.gone.set(places.gone.get() + 1);
        if let Some(cancellable) = self.card.cancellable() {
            self.worker.server().cancel_keys.remove(&cancellable);
        }
        self.worker.count.remove();
        self.worker.metrics.client_closed();
    }
}
