//! What the clients of one worker thread share without a lock: the statement cache, spare buffers, counters.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use hashbrown::HashMap;

use super::card::{Card, ClientReport};
use super::console;
use super::newest_view::NewestView;
use super::parked;
use super::parser::Parser;
use super::places::{Count, Places};
use super::server::{Cluster, Server};
use super::shapes::{DecisionReport, Shapes};
use super::tally::{Tally, Totals};
use crate::balancing::PeakLatency;
use crate::metrics::{CacheCounts, Limit, WorkerMetrics};
use crate::net::{BUFFER_SIZE, ReadBuffer, Unwatched, Watch};
use crate::session::{Dialect, Settings};
use crate::sql::{self, ParseSettings, Statement, classify_bytes};
use crate::topology::NodeId;

/// One worker thread's own things.
pub struct Worker {
    /// Its number.
    pub number: usize,
    /// When it has begun.
    pub begun: Instant,
    /// What it counts.
    pub metrics: Arc<WorkerMetrics>,
    server: RefCell<Arc<Server>>,
    parse: Cell<ParseSettings>,
    cache: RefCell<sql::Cache>,
    parser: RefCell<Parser>,
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
    closed: Cell<bool>,
    draining: Cell<bool>,
    /// Everybody has been ended, for the program is over.
    over: Cell<bool>,
    /// How many clients it has.
    pub count: Count,
    /// Its clients' places.
    pub places: Places,
    /// Hears of the parked ones.
    watch: RefCell<Option<Watch>>,
    tallies: RefCell<HashMap<Arc<str>, Rc<Tally>>>,
    /// What clients have come with lately.
    settings: RefCell<VecDeque<Settings>>,
    /// Where they have come to lately.
    addresses: RefCell<VecDeque<Rc<SocketAddr>>>,
    /// Recent decisions.
    pub shapes: RefCell<Shapes>,
}

/// What a worker tells of itself.
#[derive(Debug, Default)]
pub struct Report {
    /// Its number.
    pub worker: usize,
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
    /// All but those at the console, or on their way there.
    Served,
    /// All, for the program is over.
    Everybody,
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

/// Different settings and addresses that clients come with, as many as are looked through in no time.
const MOST_SHARED: usize = 16;

impl Worker {
    /// A worker with nobody to serve yet.
    pub fn new(number: usize, metrics: Arc<WorkerMetrics>, server: Arc<Server>, count: Count) -> Rc<Self> {
        Rc::new(Self {
            number,
            begun: Instant::now(),
            metrics,
            parse: Cell::new(usual_settings(&server)),
            cache: RefCell::new(new_cache(&server)),
            parser: RefCell::default(),
            server: RefCell::new(server),
            spare: RefCell::default(),
            // Far from the other workers' turns, so that they do not draw alike.
            turn: Cell::new((number as u64) << 32),
            views: RefCell::default(),
            latencies: RefCell::default(),
            closed: Cell::new(false),
            draining: Cell::new(false),
            over: Cell::new(false),
            count,
            places: Places::default(),
            watch: RefCell::default(),
            tallies: RefCell::default(),
            settings: RefCell::default(),
            addresses: RefCell::default(),
            shapes: RefCell::default(),
        })
    }

    /// What this text is, from the cache or parsed. The cache is for the usual dialect.
    pub fn classify(&self, text: &[u8], dialect: Dialect) -> Arc<Statement> {
        if dialect == Dialect::default() {
            return self.cache.borrow_mut().get(text, &self.parse.get());
        }
        Arc::new(timed(text, &self.parse_settings(dialect)))
    }

    /// How texts of this dialect are parsed.
    pub(super) fn parse_settings(&self, dialect: Dialect) -> ParseSettings {
        ParseSettings {
            standard_conforming_strings: dialect.standard_conforming_strings,
            encoding_is_utf8: dialect.encoding_is_utf8,
            ..self.parse.get()
        }
    }

    /// The cache knows what this text is.
    pub(super) fn knows(&self, text: &[u8], settings: &ParseSettings) -> bool {
        *settings == self.parse.get() && self.cache.borrow_mut().knows(text, settings)
    }

    /// This text was found to be this statement elsewhere, which took so long.
    pub(super) fn has_parsed(&self, text: &[u8], settings: &ParseSettings, statement: &Arc<Statement>, took: Duration) {
        PARSE_TIME.set(PARSE_TIME.get() + took);
        if *settings == self.parse.get() {
            self.cache.borrow_mut().put(text, settings, statement);
        }
    }

    /// Parses what takes long.
    pub(super) fn parser(&self) -> RefMut<'_, Parser> {
        self.parser.borrow_mut()
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
    pub fn serves_by(&self, server: &Server) -> bool {
        std::ptr::eq(&**self.server.borrow(), server)
    }

    /// The configuration has been read anew: each client follows at its next unit, an idle one now.
    pub fn renew(self: &Rc<Self>, server: Arc<Server>) {
        // What was too long may not be any more.
        let of = |server: &Server| (server.limits.statement_cache_bytes, server.limits.statement_bytes);
        if of(&server) != of(&self.server.borrow()) {
            let mut cache = self.cache.borrow_mut();
            *cache = new_cache(&server).counting_on(&cache);
        }
        self.parse.set(usual_settings(&server));
        let is_there = |number: usize| server.clusters.iter().any(|cluster| cluster.number == number);
        forget_others(&mut self.views.borrow_mut(), is_there);
        forget_others(&mut self.latencies.borrow_mut(), is_there);
        *self.server.borrow_mut() = server;
        self.rouse_all();
    }

    /// No new client is served but at the console.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// From now on no new client is served but at the console.
    pub fn close(&self) {
        self.closed.set(true);
    }

    /// Clients are asked to leave as soon as they are idle.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// The program stops, and no client is to stay, be it at its next idle moment or at once.
    pub fn sends_all_away(&self) -> bool {
        self.draining.get() || self.over.get()
    }

    /// Closes, and asks every client to leave as soon as it is idle.
    pub fn drain(self: &Rc<Self>) {
        self.close();
        self.draining.set(true);
        self.rouse_all();
    }

    /// Has every client look whether something is wanted of it.
    fn rouse_all(self: &Rc<Self>) {
        self.places.wake_all();
        tokio::task::spawn_local(parked::rouse(Rc::clone(self), |_| true));
    }

    /// Quiet clients are parked from now on, and heard of by this.
    pub fn parks_with(&self, watch: Watch) {
        *self.watch.borrow_mut() = Some(watch);
    }

    /// No more clients are parked.
    pub fn parks_no_more(&self) {
        *self.watch.borrow_mut() = None;
    }

    /// Quiet clients are parked.
    pub fn parks(&self) -> bool {
        self.watch.borrow().is_some()
    }

    /// The client of this place is heard of from now on when this socket is.
    pub fn watch(&self, socket: &Unwatched, place: usize) -> io::Result<()> {
        match &*self.watch.borrow() {
            Some(watch) => watch.add(socket, place),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// This socket is looked after by its client again.
    pub fn watch_no_more(&self, socket: &Unwatched) {
        self.watch.borrow().iter().for_each(|watch| watch.remove(socket));
    }

    /// Where clients of this database are counted.
    pub fn tally(&self, database: &Arc<str>) -> Rc<Tally> {
        let mut tallies = self.tallies.borrow_mut();
        if let Some(tally) = tallies.get(database) {
            return Rc::clone(tally);
        }
        if tallies.len() >= MOST_TALLIES {
            // Of what stands for every name, those are forgotten that nobody uses now: names come and go with it.
            let server = self.server.borrow();
            tallies.retain(|name, tally| Rc::strong_count(tally) > 1 || server.databases.contains_key(name));
        }
        Rc::clone(tallies.entry(Arc::clone(database)).or_default())
    }

    /// The same settings, as those hold them who have come with them before: so they are equal at a glance, and of a
    /// thousand clients of one application there is one copy.
    pub fn shared(&self, settings: Settings) -> Settings {
        shared(&mut self.settings.borrow_mut(), |known| *known == settings, || settings.clone())
    }

    /// The same address of ours, of which there is one copy, too.
    pub fn shared_address(&self, address: SocketAddr) -> Rc<SocketAddr> {
        shared(&mut self.addresses.borrow_mut(), |known| **known == address, || Rc::new(address))
    }

    /// What it tells of itself.
    pub fn report(&self) -> Report {
        Report {
            worker: self.number,
            clients: self.places.report(),
            totals: self.tallies.borrow().iter().map(|(name, tally)| (Arc::clone(name), tally.totals())).collect(),
            decisions: self.shapes.borrow().report(),
        }
    }

    /// Ends these clients, whatever they do. Answers how many.
    pub fn kill(self: &Rc<Self>, whom: &Whom) -> usize {
        if matches!(whom, Whom::Everybody) {
            self.over.set(true);
        }
        let count = self.places.end(|card| match whom {
            Whom::Database(name) => card.came_for(name),
            Whom::Session(id) => card.id().0 == *id,
            Whom::Served => !card.came_for(console::NAME),
            Whom::Everybody => true,
        });
        tokio::task::spawn_local(parked::rouse(Rc::clone(self), Card::is_ended));
        count
    }

    /// Shows what is counted elsewhere.
    fn publish(&self) {
        self.metrics.parsed(PARSE_TIME.take());
        let cache = self.cache.borrow();
        let counters = cache.counters();
        self.metrics.cache_counted(CacheCounts {
            text_hits: counters.text_hits,
            shape_hits: counters.shape_hits,
            misses: counters.misses,
            entries: cache.len() as u64,
            bytes: cache.bytes() as u64,
        });
    }

    /// Ends the clients that have been idle for too long, and cancels reads that take too long; shows what is counted here.
    pub fn heed_limits(self: &Rc<Self>) {
        self.publish();
        let (server, now) = (self.server(), Instant::now());
        let limits = &server.limits;
        for cancel in self.places.heed(limits, now) {
            self.metrics.limit_met(Limit::Query);
            tokio::task::spawn_local(async move { cancel.arrive().await });
        }
        if limits.are_looked_at() {
            tokio::task::spawn_local(parked::rouse(Rc::clone(self), Card::is_ended));
        }
    }
}

thread_local! {
    /// What parsing has taken on this thread since it was last shown.
    static PARSE_TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

#[cold]
fn timed(text: &[u8], settings: &ParseSettings) -> Statement {
    let begun = Instant::now();
    let statement = classify_bytes(text, settings);
    PARSE_TIME.set(PARSE_TIME.get() + begun.elapsed());
    statement
}

fn usual_settings(server: &Server) -> ParseSettings {
    ParseSettings { max_bytes: server.limits.statement_bytes, ..ParseSettings::default() }
}

fn new_cache(server: &Server) -> sql::Cache {
    sql::Cache::with_seed(server.limits.statement_cache_bytes, rand::random()).classifying_by(timed)
}

/// So many databases are counted by a worker before those are forgotten that nobody has configured and nobody is there for.
const MOST_TALLIES: usize = 1000;

/// The one of those known lately that is the same, or a new one.
fn shared<T: Clone>(known: &mut VecDeque<T>, is_same: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> T {
    if let Some(same) = known.iter().find(|known| is_same(known)) {
        return same.clone();
    }
    if known.len() >= MOST_SHARED {
        known.pop_front();
    }
    let new = new();
    known.push_back(new.clone());
    new
}

/// The element at this place, with defaults before it where there are none yet.
fn at_or_default<T: Default>(list: &mut Vec<T>, place: usize) -> &mut T {
    if list.len() <= place {
        list.resize_with(place + 1, T::default);
    }
    #[expect(clippy::indexing_slicing, reason = "it has just been made long enough")]
    &mut list[place]
}

/// Elements at other places than these become defaults.
fn forget_others<T: Default>(list: &mut [T], is_kept: impl Fn(usize) -> bool) {
    let others = list.iter_mut().enumerate().filter(|(place, _)| !is_kept(*place));
    others.for_each(|(_, element)| *element = T::default());
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
        self.to_node.clear();
        self.to_client.clear();
        self.keep_nothing();
        self.rest();
    }

    /// Whoever has them waits for something: what is empty goes back to its usual size.
    #[inline]
    pub fn rest(&mut self) {
        let read = self.input.capacity().max(self.from_node.capacity());
        let written = self.to_node.capacity().max(self.to_client.capacity());
        if read > BUFFER_SIZE || written > LARGEST_SPARE {
            self.give_back();
        }
    }

    #[cold]
    fn give_back(&mut self) {
        self.input.shrink();
        self.from_node.shrink();
        for buffer in [&mut self.to_node, &mut self.to_client] {
            // Its capacity alone does not tell: it is what is left behind what has been used.
            if buffer.is_empty() && buffer.try_reclaim(LARGEST_SPARE + 1) {
                *buffer = BytesMut::new();
            }
        }
        if self.kept.is_empty() && self.kept.capacity() > LARGEST_SPARE {
            self.kept = Vec::new();
        }
    }
}

/// Returns once this holds. It is looked at whenever the task is woken, and whoever makes it hold wakes that. Dropping it loses
/// nothing.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    std::future::poll_fn(|_| if holds() { Poll::Ready(()) } else { Poll::Pending }).await;
}

#[cfg(test)]
mod tests {
    use bytes::Buf;

    use super::*;

    #[test]
    fn of_clusters_that_are_gone_nothing_is_kept_and_the_others_keep_their_places() {
        let mut latencies: Vec<Vec<usize>> = Vec::new();
        for number in [0, 1, 3] {
            at_or_default(&mut latencies, number).push(number);
        }
        forget_others(&mut latencies, |number| [1, 3].contains(&number));
        assert_eq!(latencies, [vec![], vec![1], vec![], vec![3]]);
        assert_eq!(latencies[0].capacity(), 0);
    }

    #[test]
    fn whoever_waits_keeps_no_room_for_the_long_statement_before() {
        let mut buffers = Buffers::default();
        while buffers.input.capacity() < 1 << 20 {
            buffers.input.grow();
        }
        buffers.to_node.extend_from_slice(&vec![0; 1 << 20]);
        buffers.to_node.advance((1 << 20) - 7);
        buffers.rest();
        assert_eq!((buffers.input.capacity(), buffers.to_node.len()), (BUFFER_SIZE, 7), "a part is still to be sent");
        buffers.input.grow();
        buffers.to_node.advance(7);
        buffers.rest();
        assert!(!buffers.to_node.try_reclaim(BUFFER_SIZE), "it has no room that it does not show");
    }
}
