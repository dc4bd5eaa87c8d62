//! What the clients of one worker thread share without a lock: the statement cache, spare buffers, counters.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::card::{Card, ClientReport, Ending};
use super::newest_view::NewestView;
use super::server::{Cluster, Server};
use super::shapes::{DecisionReport, Shapes};
use super::tally::{Tally, Totals};
use crate::balancing::PeakLatency;
use crate::metrics::{Limit, WorkerMetrics};
use crate::net::ReadBuffer;
use crate::session::{Dialect, Settings};
use crate::sql::{self, ParseSettings, Statement, classify_bytes};
use crate::topology::NodeId;

/// One worker thread's own things.
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// What it counts.
    pub metrics: Arc<WorkerMetrics>,
    server: RefCell<Arc<Server>>,
    parse: Cell<ParseSettings>,
    cache: RefCell<sql::Cache>,
    #[expect(
        clippy::vec_box,
        reason = "a client's task holds the box: an idle one is a pointer, and lending moves nothing"
    )]
    spare: RefCell<Vec<Box<Buffers>>>,
    turn: Cell<u64>,
    /// The view of each cluster, by its number.
    views: RefCell<Vec<Option<NewestView>>>,
    /// How long nodes take, as this worker has seen it, by cluster.
    latencies: RefCell<Vec<Vec<PeakLatency>>>,
    draining: Cell<bool>,
    /// Idle clients, to be woken when the worker drains.
    idle: RefCell<Vec<Option<Waker>>>,
    free_places: RefCell<Vec<usize>>,
    /// What others can see of each client, by its place.
    cards: RefCell<Vec<Option<Rc<Card>>>>,
    tallies: RefCell<Vec<(Arc<str>, Rc<Tally>)>>,
    /// What clients have come with lately.
    settings: RefCell<VecDeque<Settings>>,
    /// Recent decisions.
    pub shapes: RefCell<Shapes>,
    clients: Cell<usize>,
}

/// What a worker tells of itself.
#[derive(Debug, Default)]
pub struct Report {
    /// Its clients.
    pub clients: Vec<ClientReport>,
    /// What they and those before them have done, by the database they asked for.
    pub totals: Vec<(Arc<str>, Totals)>,
    /// Recent decisions.
    pub decisions: Vec<DecisionReport>,
}

/// Which clients are meant.
#[derive(Clone, Debug)]
pub enum Whom {
    /// Those of this database.
    Database(Arc<str>),
    /// The one of this session.
    Session(u64),
}

/// The buffers of a client that is active; an idle one has none.
#[derive(Debug, Default)]
pub struct Buffers {
    /// From the client.
    pub input: ReadBuffer,
    /// For the node.
    pub to_node: BytesMut,
    /// From the node.
    pub from_node: ReadBuffer,
    /// For the client, where it is not what came from the node.
    pub to_client: BytesMut,
    /// The client's messages of all units under way that are not answered yet, while they may have to be run again.
    pub kept: Vec<u8>,
    /// Where each of those units ends in `kept`.
    pub kept_ends: VecDeque<usize>,
}

/// Spare buffers kept per worker: as many as clients are usually active at once.
const SPARE: usize = 64;

/// A buffer larger than this is not kept.
const LARGEST_SPARE: usize = 64 * 1024;

/// Different settings that clients come with, as many as are looked through in no time.
const MOST_SETTINGS: usize = 16;

impl Worker {
    /// A worker with nobody to serve yet.
    pub fn new(number: usize, metrics: Arc<WorkerMetrics>, server: Arc<Server>) -> Rc<Self> {
        Rc::new(Self {
            number,
            metrics,
            parse: Cell::new(parse_settings(&server)),
            cache: RefCell::new(new_cache(&server)),
            server: RefCell::new(server),
            spare: RefCell::default(),
            // Far from the other workers' turns, so that they do not draw alike.
            turn: Cell::new((number as u64) << 32),
            views: RefCell::default(),
            latencies: RefCell::default(),
            draining: Cell::new(false),
            idle: RefCell::default(),
            free_places: RefCell::default(),
            cards: RefCell::default(),
            tallies: RefCell::default(),
            settings: RefCell::default(),
            shapes: RefCell::default(),
            clients: Cell::new(0),
        })
    }

    /// What this text is, from the cache or parsed. The cache is for the usual dialect.
    pub fn classify(&self, text: &[u8], dialect: Dialect) -> Arc<Statement> {
        if dialect == Dialect::default() {
            return self.cache.borrow_mut().get(text, &self.parse.get());
        }
        let settings = ParseSettings {
            standard_conforming_strings: dialect.standard_conforming_strings,
            encoding_is_utf8: dialect.encoding_is_utf8,
            ..self.parse.get()
        };
        Arc::new(classify_bytes(text, &settings))
    }

    /// Whose turn it is; see [`crate::balancing::choose`].
    pub fn turn(&self) -> u64 {
        let turn = self.turn.get().wrapping_add(1);
        self.turn.set(turn);
        turn
    }

    /// How long this node has taken lately; None: it has not been asked.
    pub fn latency(&self, cluster: usize, node: NodeId, now: Instant) -> Option<Duration> {
        self.latencies.borrow().get(cluster)?.get(usize::from(node.0))?.now(now)
    }

    /// The cluster's view, to be looked at.
    pub fn view(&self, cluster: &Cluster) -> RefMut<'_, NewestView> {
        RefMut::map(self.views.borrow_mut(), |views| {
            let place = at_or_default(views, cluster.number);
            if place.as_ref().is_some_and(|view| !view.is_of(&cluster.view)) {
                *place = None;
            }
            place.get_or_insert_with(|| NewestView::of(&cluster.view))
        })
    }

    /// This node took so long for a read.
    pub fn observe(&self, cluster: usize, node: NodeId, took: Duration, now: Instant) {
        let mut latencies = self.latencies.borrow_mut();
        let nodes = at_or_default(&mut latencies, cluster);
        at_or_default(nodes, usize::from(node.0)).observe(took, now);
    }

    /// Buffers for a client that becomes active.
    pub fn take_buffers(&self) -> Box<Buffers> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// A client has become idle.
    pub fn put_buffers(&self, mut buffers: Box<Buffers>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            buffers.reset();
            spare.push(buffers);
        }
    }

    /// What its clients share, by the configuration in force.
    pub fn server(&self) -> Arc<Server> {
        Arc::clone(&self.server.borrow())
    }

    /// This is by the configuration in force: a comparison of two pointers, for it is asked at each unit.
    #[inline]
    pub fn serves_by(&self, server: &Arc<Server>) -> bool {
        Arc::ptr_eq(&self.server.borrow(), server)
    }

    /// The configuration has been read anew: each client follows at its next unit, an idle one now.
    pub fn renew(&self, server: Arc<Server>) {
        if server.limits.statement_cache_bytes != self.server.borrow().limits.statement_cache_bytes {
            *self.cache.borrow_mut() = new_cache(&server);
        }
        self.parse.set(parse_settings(&server));
        *self.server.borrow_mut() = server;
        self.wake_idle();
    }

    /// Clients are asked to leave as soon as they are idle.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Asks every client to leave as soon as it is idle.
    pub fn drain(&self) {
        self.draining.set(true);
        self.wake_idle();
    }

    fn wake_idle(&self) {
        for waker in self.idle.borrow_mut().iter_mut().filter_map(Option::take) {
            waker.wake();
        }
    }

    /// Clients now.
    pub fn clients(&self) -> usize {
        self.clients.get()
    }

    /// A place for a client among those who are woken when the worker drains, and who can be looked at.
    pub fn enter(self: &Rc<Self>, card: Card) -> Place {
        self.clients.set(self.clients.get() + 1);
        let card = Rc::new(card);
        let number = self.free_places.borrow_mut().pop().unwrap_or_else(|| {
            self.idle.borrow_mut().push(None);
            self.cards.borrow_mut().push(None);
            self.idle.borrow().len() - 1
        });
        if let Some(place) = self.cards.borrow_mut().get_mut(number) {
            *place = Some(Rc::clone(&card));
        }
        Place { worker: Rc::clone(self), card, number }
    }

    /// Where clients of this database are counted.
    pub fn tally(&self, database: &Arc<str>) -> Rc<Tally> {
        let mut tallies = self.tallies.borrow_mut();
        if let Some((_, tally)) = tallies.iter().find(|(name, _)| name == database) {
            return Rc::clone(tally);
        }
        let tally = Rc::new(Tally::default());
        tallies.push((Arc::clone(database), Rc::clone(&tally)));
        tally
    }

    /// The same settings, as those hold them who have come with them before: so they are equal at a glance, and of a
    /// thousand clients of one application there is one copy.
    pub fn shared(&self, settings: Settings) -> Settings {
        let mut known = self.settings.borrow_mut();
        if let Some(same) = known.iter().find(|known| **known == settings) {
            return same.clone();
        }
        if known.len() >= MOST_SETTINGS {
            known.pop_front();
        }
        known.push_back(settings.clone());
        settings
    }

    /// What it tells of itself.
    pub fn report(&self) -> Report {
        Report {
            clients: self.cards.borrow().iter().flatten().map(|card| card.report()).collect(),
            totals: self.tallies.borrow().iter().map(|(name, tally)| (Arc::clone(name), tally.totals())).collect(),
            decisions: self.shapes.borrow().report(),
        }
    }

    /// Ends these clients, whatever they do. Answers how many.
    pub fn kill(&self, whom: &Whom) -> usize {
        let cards = self.cards.borrow();
        let meant = cards.iter().flatten().filter(|card| match whom {
            Whom::Database(name) => card.came_for(name),
            Whom::Session(id) => card.id().0 == *id,
        });
        meant.inspect(|card| card.end(Ending::Killed)).count()
    }

    /// Ends the clients that have been idle for too long, and cancels reads that take too long.
    pub fn heed_limits(&self) {
        let (server, now) = (self.server(), Instant::now());
        let limits = &server.limits;
        if !limits.are_looked_at() {
            return;
        }
        for cancel in self.cards.borrow().iter().flatten().filter_map(|card| card.heed(limits, now)) {
            self.metrics.limit_met(Limit::Query);
            tokio::task::spawn_local(async move { cancel.arrive().await });
        }
    }
}

fn parse_settings(server: &Server) -> ParseSettings {
    ParseSettings { max_bytes: server.limits.statement_bytes, ..ParseSettings::default() }
}

fn new_cache(server: &Server) -> sql::Cache {
    sql::Cache::with_seed(server.limits.statement_cache_bytes, rand::random())
}

/// The element at this place, with defaults before it where there are none yet.
fn at_or_default<T: Default>(list: &mut Vec<T>, place: usize) -> &mut T {
    if list.len() <= place {
        list.resize_with(place + 1, T::default);
    }
    #[expect(clippy::indexing_slicing, reason = "it has just been made long enough")]
    &mut list[place]
}

/// A client's place; dropping it is leaving.
pub struct Place {
    worker: Rc<Worker>,
    /// What others can see of the client.
    pub card: Rc<Card>,
    number: usize,
}

impl Place {
    /// The client is idle and wants to be woken when the worker drains.
    #[inline]
    pub fn watch(&self, cx: &Context<'_>) {
        if let Some(place) = self.worker.idle.borrow_mut().get_mut(self.number) {
            match place {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => *place = Some(cx.waker().clone()),
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(place) = self.worker.idle.borrow_mut().get_mut(self.number) {
            *place = None;
        }
        if let Some(place) = self.worker.cards.borrow_mut().get_mut(self.number) {
            *place = None;
        }
        self.worker.free_places.borrow_mut().push(self.number);
        self.worker.clients.set(self.worker.clients.get().saturating_sub(1));
    }
}

impl Buffers {
    /// Nothing is under way, or what is will not be run again.
    pub fn keep_nothing(&mut self) {
        self.kept.clear();
        self.kept_ends.clear();
    }

    /// The node is left: what was meant for it, what came from it, and what was kept to be run again.
    pub fn forget_node(&mut self) {
        self.keep_nothing();
        self.to_node.clear();
        self.from_node.consume(usize::MAX);
    }

    /// The first of the units under way has been answered.
    pub fn first_is_answered(&mut self) {
        let Some(end) = self.kept_ends.pop_front() else { return };
        self.kept.drain(..end.min(self.kept.len()));
        for later in &mut self.kept_ends {
            *later = later.saturating_sub(end);
        }
    }

    fn reset(&mut self) {
        self.input.consume(usize::MAX);
        self.from_node.consume(usize::MAX);
        self.input.shrink();
        self.from_node.shrink();
        for buffer in [&mut self.to_node, &mut self.to_client] {
            buffer.clear();
            if buffer.capacity() > LARGEST_SPARE {
                *buffer = BytesMut::new();
            }
        }
        self.keep_nothing();
        if self.kept.capacity() > LARGEST_SPARE {
            self.kept = Vec::new();
        }
    }
}
