//! Loads and keeps the picture of each database's catalogs: on a thread of its own, off the way of statements and probes.
//!
//! A picture is loaded from a replica that has replayed whatever was acknowledged before, over the monitor's account;
//! again after each change that passed through, on signs of another, and when a look from time to time finds that
//! something has changed. What it means is left to [`crate::catalog`].

mod keeper;
mod queries;
mod reader;
mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::auth::NodeTls;
use crate::backend::Absence;
use crate::catalog::{Current, FunctionLists, Picture};
use crate::config;
use crate::topology::View;
use keeper::{Basis, Keeper};
use turns::Turns;

pub use keeper::{LoadError, load_once};

/// The thread that loads pictures; dropping it ends it.
#[derive(Debug)]
pub struct Catalogs {
    orders: Option<UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
    handles: Vec<Handle>,
    /// Of each cluster that has any.
    turns: BTreeMap<usize, Arc<Turns>>,
    /// What is known has been judged by these.
    lists: Option<Arc<FunctionLists>>,
    /// What nobody who names objects can know.
    seed: u64,
}

enum Order {
    /// By these, and by no others, from now on; who reads by the same as one of them already goes on.
    Keep(Vec<Keeper>),
    /// This one too.
    Also(Box<Keeper>),
    /// Those of this cluster and this database no more.
    NoMore(usize, Arc<str>),
}

/// A database whose picture is wanted.
pub struct Wanted {
    /// The number of its cluster.
    pub cluster: usize,
    /// Its name on the nodes.
    pub database: Arc<str>,
    /// The account that reads its catalogs.
    pub monitor: config::Monitor,
    /// Where its nodes are.
    pub view: ClusterView,
}

/// One database's picture, for those who read it and those who say that it must change.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The number of its cluster.
    pub cluster: usize,
    /// The database's name on the nodes.
    pub database: Arc<str>,
    /// What is known of it.
    pub current: Arc<Current>,
    /// To be told after [`Current::changed`] and [`Current::suspected`].
    pub wake: Arc<Notify>,
    /// Whether its keeper must have no connection to it now.
    pub absence: Arc<Absence>,
}

/// What a keeper must know of its cluster.
#[derive(Clone)]
pub struct ClusterView {
    /// The newest view.
    pub view: Arc<ArcSwap<View>>,
    /// Changes with it.
    pub changed: watch::Receiver<u64>,
    /// How its nodes are spoken to.
    pub tls: Arc<ArcSwap<NodeTls>>,
}

/// What is the same for all databases.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A look whether something has changed, this often.
    pub refresh: Duration,
    /// What the configuration says of functions.
    pub lists: Arc<FunctionLists>,
    /// What nobody who names objects can know.
    pub seed: u64,
}

impl Handle {
    /// A database of which nothing is known yet.
    pub fn new(cluster: usize, database: Arc<str>) -> Self {
        Self { cluster, database, current: Arc::default(), wake: Arc::default(), absence: Arc::default() }
    }
}

impl Catalogs {
    /// Starts the thread; it keeps nothing yet.
    pub fn start() -> std::io::Result<Self> {
        let (orders, receiver) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || runtime.block_on(obey(receiver));
        let thread = std::thread::Builder::new().name("catalogs".to_owned()).stack_size(STACK).spawn(work)?;
        let (handles, turns) = (Vec::new(), BTreeMap::new());
        Ok(Self { orders: Some(orders), thread: Some(thread), handles, turns, lists: None, seed: rand::random() })
    }

    /// Keeps the pictures of these databases from now on, and no others. One that was kept before, and is read by the same, goes
    /// on being kept; of another what is known stays known until it is read anew, unless the functions' lists are others now.
    pub fn keep(&mut self, wanted: Vec<Wanted>, refresh: Duration, lists: &Arc<FunctionLists>) -> &[Handle] {
        let settings = Settings { refresh, lists: Arc::clone(lists), seed: self.seed };
        let before = std::mem::take(&mut self.handles);
        self.turns.retain(|number, _| wanted.iter().any(|wanted| wanted.cluster == *number));
        let is_judged_anew = self.lists.replace(Arc::clone(lists)).is_some_and(|before| before != *lists);
        let mut keepers = Vec::new();
        for Wanted { cluster, database, monitor, view } in wanted {
            let is_same = |handle: &&Handle| handle.cluster == cluster && handle.database == database;
            if self.handles.iter().any(|handle| is_same(&handle)) {
                continue;
            }
            let known = before.iter().find(is_same).cloned();
            // Without a primary what is not believed cannot be read anew.
            let may_be_read_anew = view.view.load().primary.is_some();
            if let Some(handle) = known.as_ref().filter(|_| is_judged_anew && may_be_read_anew) {
                handle.current.changed();
            }
            let handle = known.unwrap_or_else(|| Handle::new(cluster, Arc::clone(&database)));
            let turns = Arc::clone(self.turns.entry(cluster).or_default());
            keepers.push(Keeper::new(handle.clone(), turns, monitor, view, settings.clone()));
            self.handles.push(handle);
        }
        if let Some(orders) = &self.orders {
            // A thread that is gone has reported its panic; nothing is believed any more once a change comes.
            let _ = orders.send(Order::Keep(keepers));
        }
        &self.handles
    }

    /// Keeps this database's picture no more.
    pub fn keep_no_more(&mut self, cluster: usize, database: &Arc<str>) {
        self.handles.retain(|handle| handle.cluster != cluster || handle.database != *database);
        if let Some(orders) = &self.orders {
            // As above.
            let _ = orders.send(Order::NoMore(cluster, Arc::clone(database)));
        }
    }

    /// The databases whose pictures are kept.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Keeps the picture of this database too. The others are kept as before.
    pub fn keep_also(&mut self, wanted: Wanted, refresh: Duration, lists: &Arc<FunctionLists>) {
        let Wanted { cluster, database, monitor, view } = wanted;
        let is_kept = self.handles.iter().any(|handle| handle.cluster == cluster && handle.database == database);
        if !is_kept && let Some(orders) = &self.orders {
            let settings = Settings { refresh, lists: Arc::clone(lists), seed: self.seed };
            let handle = Handle::new(cluster, database);
            let turns = Arc::clone(self.turns.entry(cluster).or_default());
            // As above.
            let _ = orders.send(Order::Also(Box::new(Keeper::new(handle.clone(), turns, monitor, view, settings))));
            self.handles.push(handle);
        }
    }
}

/// Runs the keepers of the last order, until there are no more orders.
async fn obey(mut orders: UnboundedReceiver<Order>) {
    let (mut tasks, mut kept) = (JoinSet::new(), Kept::new());
    // Cancel-safe: an order that is not received stays in the channel.
    while let Some(order) = orders.recv().await {
        while tasks.try_join_next().is_some() {} // of keepers that were ended
        match order {
            Order::Keep(keepers) => {
                let mut before = std::mem::take(&mut kept);
                for keeper in keepers {
                    let of = keeper.of();
                    let same = before.remove(&of).filter(|running| running.goes_on_as(&keeper));
                    kept.insert(of, same.unwrap_or_else(|| Running::begin(keeper, &mut tasks)));
                }
            }
            Order::Also(keeper) => {
                kept.insert(keeper.of(), Running::begin(*keeper, &mut tasks));
            }
            Order::NoMore(cluster, database) => drop(kept.remove(&(cluster, database))),
        }
    }
}

/// The keepers, by cluster and database.
type Kept = BTreeMap<(usize, Arc<str>), Running>;

/// A keeper that runs, until this is dropped.
struct Running {
    task: AbortHandle,
    basis: Basis,
}

impl Running {
    fn begin(keeper: Keeper, tasks: &mut JoinSet<()>) -> Self {
        let basis = keeper.basis();
        Self { task: tasks.spawn(keeper.run()), basis }
    }

    /// The other one would read the same from the same nodes, and would have to read everything first.
    fn goes_on_as(&self, other: &Keeper) -> bool {
        self.basis.is_as(&other.basis()) && !self.task.is_finished()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Catalogs {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported where it happened.
            let _ = thread.join();
        }
    }
}

/// As the workers have, who call the same parser.
const STACK: usize = 16 * 1024 * 1024;

/// A number for the next picture: unique while the process runs, never 0.
fn next_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Draws a picture of the rows.
fn draw(inventory: crate::catalog::Inventory, settings: &Settings, changes: u64) -> Arc<Picture> {
    Arc::new(Picture::draw(inventory, &settings.lists, next_id(), changes, settings.seed))
}
