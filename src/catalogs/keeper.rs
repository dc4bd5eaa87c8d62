//! Keeps the picture of one database: decides when to look, at which node, and whether to load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::queries;
use super::reader::{ReadError, Reader};
use super::turns::{Turn, Turns};
use super::{ClusterView, Handle, Settings, draw};
use crate::auth::SaltedPassword;
use crate::backend::{ConnectError, Endpoint, Target, connect};
use crate::catalog::{Inventory, Picture, TooLarge};
use crate::config;
use crate::net::timers::{self, timeout};
use crate::topology::{Lsn, NodeId, NodeState, NodeView, Role, View};
use crate::wire::SqlState;

/// The task that keeps one database's picture.
pub(super) struct Keeper {
    handle: Handle,
    monitor: config::Monitor,
    cluster: ClusterView,
    settings: Settings,
    turns: Arc<Turns>,
    /// To the primary and to a replica, while it is its turn.
    lines: Vec<(NodeId, Reader)>,
    /// Behind them: they are closed first.
    turn: Option<Turn>,
    /// How often the name of each node had moved when they were opened, or before.
    moves: Vec<u32>,
    digest: Option<String>,
    /// What logins are told of the server, as the primary had it last.
    told: Option<String>,
    /// Suspicions and doubts that have been looked into.
    seen_suspicions: u64,
    seen_doubts: u64,
    /// When it was looked last, and how long that took.
    looked: Option<(Instant, Duration)>,
    /// Of its last login: every node has the same.
    salted_password: Option<SaltedPassword>,
    /// Of the primary whose catalogs they are; None: this one has met none yet.
    epoch: Option<u64>,
    /// What has gone wrong last, in words, and whether a picture was believed all the same.
    failure: Option<(String, bool)>,
}

/// What a keeper reads by.
pub(super) struct Basis {
    monitor: config::Monitor,
    cluster: ClusterView,
    settings: Settings,
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No node can be asked.
    #[error("no node can be asked")]
    NoNode,
    /// A node cannot be connected to.
    #[error("cannot connect")]
    Connect(#[from] ConnectError),
    /// A node's answer is missing.
    #[error("cannot read the catalogs: {0}")]
    Read(#[from] ReadError),
    /// There is too much.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// It took too long.
    #[error("not done in time")]
    Timeout,
    /// The node has not the role that it had.
    #[error("the node's role has changed")]
    Role,
    /// The node is down.
    #[error("the node is down")]
    Down,
}

impl LoadError {
    /// There is no such database.
    fn is_of_missing(&self) -> bool {
        matches!(self, Self::Connect(ConnectError::Server { code: SqlState::INVALID_CATALOG_NAME, .. }))
    }
}

impl Basis {
    /// The same nodes, seen by the same monitor, which is another one where anything differs by which they are reached; the same
    /// login; and the same is made of what is read.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cluster.view, &other.cluster.view)
            && Arc::ptr_eq(&self.cluster.tls, &other.cluster.tls)
            && self.monitor.user == other.monitor.user
            && self.monitor.password.plain() == other.monitor.password.plain()
            && self.settings.refresh == other.settings.refresh
            && self.settings.lists == other.settings.lists
    }
}

impl Keeper {
    pub(super) fn new(
        handle: Handle,
        turns: Arc<Turns>,
        monitor: config::Monitor,
        cluster: ClusterView,
        settings: Settings,
    ) -> Self {
        let (lines, turn, moves) = (Vec::new(), None, Vec::new());
        let (digest, told, epoch, failure) = (None, None, None, None);
        let (seen_suspicions, seen_doubts, looked) = (0, 0, None);
        Self {
            handle,
            monitor,
            cluster,
            settings,
            turns,
            lines,
            turn,
            moves,
            digest,
            told,
            seen_suspicions,
            seen_doubts,
            looked,
            salted_password: None,
            epoch,
            failure,
        }
    }

    /// Cluster and database.
    pub(super) fn of(&self) -> (usize, Arc<str>) {
        (self.handle.cluster, Arc::clone(&self.handle.database))
    }

    /// What it reads by.
    pub(super) fn basis(&self) -> Basis {
        Basis { monitor: self.monitor.clone(), cluster: self.cluster.clone(), settings: self.settings.clone() }
    }

    /// Keeps it until it is dropped.
    pub(super) async fn run(mut self) {
        let absence = Arc::clone(&self.handle.absence);
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                biased;
                () = absence.wanted() => {
                    self.leave().await;
                    absence.stay_away().await;
                    pause = FIRST_PAUSE;
                }
                // What is cut off in the middle is closed at once, and begun anew afterwards.
                () = self.look(&mut pause) => {}
            }
        }
    }

    /// Looks once, and waits until it is time to look again.
    async fn look(&mut self, pause: &mut Duration) {
        self.take_turn().await;
        let refreshed = timeout(LONGEST_LOAD, self.refresh()).await.unwrap_or(Err(LoadError::Timeout));
        if !matches!(refreshed, Err(LoadError::NoNode)) {
            self.handle.current.tried();
            self.handle.current.exists(!matches!(&refreshed, Err(error) if error.is_of_missing()));
        }
        match refreshed {
            Ok(()) => {
                self.failure = None;
                *pause = FIRST_PAUSE;
                self.rest().await;
            }
            Err(error) => {
                self.failed(&error);
                // One that is lost again has changed nothing.
                if !matches!(error, LoadError::NoNode | LoadError::Down | LoadError::Role) {
                    self.disbelieve_what_is_of_another();
                }
                let mut changed = self.cluster.changed.clone();
                changed.mark_unchanged();
                // Either the pause or a new view; the next attempt looks at both anew.
                tokio::select! {
                    () = timers::sleep(*pause) => *pause = (*pause * 2).min(LONGEST_PAUSE),
                    _ = changed.changed(), if matches!(error, LoadError::NoNode) => {}
                }
            }
        }
    }

    /// Closes its connections, and waits until their server processes are gone.
    async fn leave(&mut self) {
        for (_, line) in self.lines.drain(..) {
            // Dropping the wait closes the connection all the same.
            let _ = timeout(LONGEST_GOODBYE, line.close()).await;
        }
        self.turn = None;
    }

    /// Waits until it may have connections.
    async fn take_turn(&mut self) {
        if self.turn.is_some() {
            return;
        }
        let turns = Arc::clone(&self.turns);
        let mut next = std::pin::pin!(turns.next());
        self.turn = loop {
            // Dropping the wait leaves `next` where it is in the queue.
            match timeout(LOOK, &mut next).await {
                Ok(turn) => break Some(turn),
                Err(_) => self.disbelieve_what_is_of_another(),
            }
        };
    }

    /// A primary that has not been read may lack what is known.
    fn disbelieve_what_is_of_another(&self) {
        let current = &self.handle.current;
        if self.is_of_another(&self.cluster.view.load()) && current.look().picture().is_some() {
            current.changed();
        }
    }

    fn failed(&mut self, error: &LoadError) {
        self.lines.clear();
        self.turn = None;
        self.handle.current.count(|upkeep| upkeep.failures += 1);
        if matches!(error, LoadError::TooLarge(_)) {
            self.handle.current.forget();
        }
        // Names that clients have chosen, and words that may quote them: as strings they begin no line of the log.
        let is_believed = self.handle.current.look().picture().is_some();
        let failure = (error.to_string(), is_believed);
        if !matches!(error, LoadError::NoNode) && self.failure.as_ref() != Some(&failure) {
            let (database, error) = (&*self.handle.database, &*failure.0);
            if is_believed {
                warn!(database, error, "the catalogs cannot be read; what was read last counts until they are changed");
            } else {
                warn!(database, error, "the catalogs cannot be read; what is not PostgreSQL's own goes to the primary");
            }
            self.failure = Some(failure);
        }
    }

    /// Waits until there is a reason to look again. If another keeper needs its turn meanwhile, that one gets it.
    async fn rest(&mut self) {
        let (turns, due) = (Arc::clone(&self.turns), Instant::now() + self.settings.refresh);
        tokio::select! {
            biased;
            // Dropping either loses nothing: what is waited for stands elsewhere.
            () = self.wait(due) => {}
            () = turns.wanted() => {
                self.leave().await;
                self.wait(due).await;
            }
        }
    }

    /// Waits until there is a reason to look again; one is that it is due.
    async fn wait(&self, due: Instant) {
        let current = &self.handle.current;
        let is_stale = || current.look().picture().is_none();
        if is_stale() {
            // Where something is made all the time, loads do not follow each other at once.
            return timers::sleep(current.upkeep().look_time.min(LOOK)).await;
        }
        let due = timers::sleep_until(due.into());
        tokio::pin!(due);
        let mut views = self.cluster.changed.clone();
        loop {
            let is_suspected = || current.suspicions() != self.seen_suspicions;
            // All waits stand in `current`, in views and in the clock: dropping one loses nothing.
            tokio::select! {
                () = &mut due => return,
                () = self.handle.wake.notified() => {}
                Ok(()) = views.changed() => {}
                () = timers::sleep(if is_suspected() { self.before_suspicions().min(LOOK) } else { LOOK }) => {}
            }
            if is_stale() || self.is_overtaken(&self.cluster.view.load()) {
                return;
            }
            if current.doubts() != self.seen_doubts && self.may_look_into_doubts() {
                return;
            }
            if is_suspected() && self.before_suspicions().is_zero() {
                return;
            }
        }
    }

    /// How long suspicions wait: a client that errs again and again must not make us look, or load, all the time.
    fn before_suspicions(&self) -> Duration {
        let Some((begun, took)) = self.looked else { return Duration::ZERO };
        let least = if self.turn.is_some() { SUSPICION_PAUSE } else { LOOK_ANEW };
        (took * 2).max(least).saturating_sub(begun.elapsed())
    }

    /// For a tenth of the time at most: what gives rise to them may be done all the time.
    fn may_look_into_doubts(&self) -> bool {
        let least = if self.turn.is_some() { LOOK } else { LOOK_ANEW };
        self.looked.is_none_or(|(begun, took)| begun.elapsed() >= took.saturating_mul(10).max(least))
    }

    /// Another server is primary than the one whose catalogs are known: it may lack changes that were acknowledged.
    fn has_another_primary(&self, view: &View) -> bool {
        view.primary.is_some() && self.epoch != Some(view.epoch)
    }

    /// What is known is another primary's.
    fn is_of_another(&self, view: &View) -> bool {
        self.epoch.is_some() && self.has_another_primary(view)
    }

    /// Where this is read, or over what, is not as it was. A node that is stopping may wait for whoever is connected to it.
    fn is_overtaken(&self, view: &View) -> bool {
        let is_with_one_that_stops = || self.lines.iter().any(|(node, _)| is_stopping(view, *node));
        self.has_another_primary(view) || self.has_moved(view) || is_with_one_that_stops()
    }

    /// The name of a node leads to another server than when its lines were opened: they may go on at the one before.
    fn has_moved(&self, view: &View) -> bool {
        !view.nodes.iter().map(|node| node.moves).eq(self.moves.iter().copied())
    }

    async fn refresh(&mut self) -> Result<(), LoadError> {
        let begun = Instant::now();
        let (suspicions, doubts) = (self.handle.current.suspicions(), self.handle.current.doubts());
        let view = self.cluster.view.load_full();
        let changes = self.handle.current.changes();
        self.lines.retain(|(node, _)| !is_stopping(&view, *node));
        if self.has_moved(&view) {
            self.lines.clear();
            self.moves = view.nodes.iter().map(|node| node.moves).collect();
        }
        let node = self.ready_node(&view, changes).await?;
        let mut cluster = self.cluster.clone();
        // What is cut off in the middle is an error: its line is closed then.
        tokio::select! {
            read = self.read(&view, node, changes) => read?,
            () = is_down(&mut cluster, node) => return Err(LoadError::Down),
        }
        self.looked = Some((begun, begun.elapsed()));
        (self.seen_suspicions, self.seen_doubts) = (suspicions, doubts);
        if view.primary.is_some() {
            self.epoch = Some(view.epoch);
            self.handle.current.has_met_primary();
        }
        Ok(())
    }

    /// A node that shows everything acknowledged by now: a replica if one has it soon, else the primary.
    async fn ready_node(&mut self, view: &View, changes: u64) -> Result<NodeId, LoadError> {
        // One that is far behind would be waited for in vain each time.
        let is_near = |node: &&NodeView| node.lag.is_none_or(|lag| lag < REPLAY_PATIENCE);
        let replicas = || view.readable_replicas();
        let replica = replicas().find(is_near).or_else(|| replicas().next()).map(|node| node.id);
        let Some(primary) = view.primary else {
            // Without a primary nothing can change; what was changed before, a replica may not have. In a standby cluster what it
            // has is all there is.
            let is_as_last =
                || self.handle.current.look().last().map_or(changes == 0, |last| last.changes() == changes);
            let is_confirmed = view.is_standby || is_as_last();
            return replica.filter(|_| is_confirmed).ok_or(LoadError::NoNode);
        };
        let position = soon(self.line(view, primary).await?.value(queries::POSITION)).await?;
        let position: Lsn = position.and_then(|text| text.parse().ok()).ok_or(LoadError::Role)?;
        self.look_at_told(view, primary).await?;
        let Some(replica) = replica else { return Ok(primary) };
        let mut cluster = self.cluster.clone();
        // As in `refresh`.
        let has_replayed = tokio::select! {
            has_replayed = self.has_replayed(view, replica, position.without_page_header()) => has_replayed,
            () = is_down(&mut cluster, replica) => Err(LoadError::Down),
        };
        match has_replayed {
            Ok(true) => Ok(replica),
            _ => {
                self.lines.retain(|(node, _)| *node == primary);
                Ok(primary)
            }
        }
    }

    /// Looks at what logins are told of the server, at the node that tells them: others may be configured otherwise. Who logs in
    /// next asks where it is not as before. A keeper that has just begun loads behind this, which has them ask too.
    async fn look_at_told(&mut self, view: &View, node: NodeId) -> Result<(), LoadError> {
        let told = soon(queries::read_told(self.line(view, node).await?)).await?;
        let before = std::mem::replace(&mut self.told, told);
        if before.is_some() && before != self.told {
            self.handle.current.changed_elsewhere();
            info!(database = &*self.handle.database, "what logins are told of the server has changed");
        }
        Ok(())
    }

    async fn has_replayed(&mut self, view: &View, replica: NodeId, position: Lsn) -> Result<bool, LoadError> {
        let deadline = Instant::now() + REPLAY_PATIENCE;
        let line = self.line(view, replica).await?;
        let mut pause = REPLAY_PAUSE;
        loop {
            let replayed = soon(line.value(queries::REPLAYED)).await?;
            let replayed: Lsn = replayed.and_then(|text| text.parse().ok()).ok_or(LoadError::Role)?;
            if replayed >= position {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            timers::sleep(pause).await;
            pause = (pause * 2).min(REPLAY_PATIENCE / 10);
        }
    }

    async fn read(&mut self, view: &View, node: NodeId, changes: u64) -> Result<(), LoadError> {
        let begun = Instant::now();
        if view.primary.is_none() && view.is_standby {
            // Nobody else tells it.
            self.look_at_told(view, node).await?;
        }
        let line = self.line(view, node).await?;
        let server_path = soon(line.value(queries::SERVER_PATH)).await?;
        soon(line.rows(queries::BEGIN, |_| {})).await?;
        let digest = line.value(queries::DIGEST).await?;
        let known = self.handle.current.look().last().cloned();
        let is_as_before = |known: &Picture| {
            known.has_server_path(server_path.as_deref()) && digest.is_some() && digest == self.digest
        };
        if let Some(picture) = known.filter(|known| is_as_before(known)) {
            self.end(view, node).await?;
            picture.confirm(changes);
            self.handle.current.count(|upkeep| {
                upkeep.confirmations += 1;
                (upkeep.look_time, upkeep.checked) = (begun.elapsed(), Some(begun));
            });
            return Ok(());
        }
        // While the primary is lost, a replica that tells something else may only be behind. Where there has been none, or the
        // cluster follows another one, what replicas have got is all there is.
        let is_lost = view.primary.is_none() && self.handle.current.is_of_primary() && !view.is_standby;
        if is_lost && self.handle.current.look().last().is_some() {
            return self.end(view, node).await;
        }
        // What is known is not believed any more while this is read. Of another primary not sooner: one that is lost again at
        // once leaves what is known as it was.
        let is_outdated = self.digest.is_some() && self.handle.current.look().picture().is_some();
        let changes = match is_outdated || self.is_of_another(view) {
            true => self.handle.current.changed_behind(changes),
            false => changes,
        };
        let line = self.line(view, node).await?;
        let mut inventory = queries::read(line).await?;
        inventory.server_path = server_path.map(Into::into);
        self.end(view, node).await?;
        inventory.check_size()?;
        self.publish(inventory, digest, changes, begun).await;
        Ok(())
    }

    async fn end(&mut self, view: &View, node: NodeId) -> Result<(), LoadError> {
        Ok(self.line(view, node).await?.rows(queries::COMMIT, |_| {}).await?)
    }

    async fn publish(&mut self, inventory: Inventory, digest: Option<String>, changes: u64, begun: Instant) {
        let picture = draw(inventory, &self.settings, changes);
        self.handle.current.count(|upkeep| {
            upkeep.loads += 1;
            (upkeep.load_time, upkeep.checked) = (begun.elapsed(), Some(begun));
            upkeep.look_time = upkeep.load_time;
        });
        info!(database = &*self.handle.database, objects = picture.objects(), took = ?begun.elapsed(), "catalogs loaded");
        self.digest = digest;
        self.handle.current.publish(picture);
        // Another database's keeper may have waited for the drawing.
        tokio::task::yield_now().await;
    }

    /// The connection to this node, made if there is none.
    async fn line(&mut self, view: &View, node: NodeId) -> Result<&mut Reader, LoadError> {
        let place = match self.lines.iter().position(|(known, _)| *known == node) {
            Some(place) => place,
            None => {
                let address = &view.node(node).ok_or(LoadError::NoNode)?.address;
                let endpoint = Endpoint::new(Arc::clone(address), Arc::clone(&self.cluster.tls));
                let known = &mut self.salted_password;
                let reader = open(&self.monitor, endpoint, &self.handle.database, known).await?;
                self.lines.retain(|(known, _)| Some(*known) == view.primary || Some(node) == view.primary);
                self.lines.push((node, reader));
                self.lines.len() - 1
            }
        };
        self.lines.get_mut(place).map(|(_, reader)| reader).ok_or(LoadError::NoNode)
    }
}

/// The answer to what takes a node no time. Where it does not come, the line must be closed.
async fn soon<T>(answer: impl Future<Output = Result<T, ReadError>>) -> Result<T, LoadError> {
    Ok(timeout(LONGEST_ANSWER, answer).await.map_err(|_| LoadError::Timeout)??)
}

/// Returns when the node is known to be down; cancel-safe.
async fn is_down(cluster: &mut ClusterView, node: NodeId) {
    let is_so = |view: &View| view.node(node).is_some_and(|node| node.state == NodeState::Down);
    while !is_so(&cluster.view.load()) {
        if cluster.changed.changed().await.is_err() {
            // Nobody watches it any more.
            std::future::pending::<()>().await;
        }
    }
}

fn is_stopping(view: &View, node: NodeId) -> bool {
    view.node(node).is_some_and(|node| node.state == NodeState::Starting)
}

async fn open(
    monitor: &config::Monitor,
    endpoint: Endpoint,
    database: &Arc<str>,
    known: &mut Option<SaltedPassword>,
) -> Result<Reader, LoadError> {
    let target = Target {
        endpoint,
        user: Arc::clone(&monitor.user),
        database: Arc::clone(database),
        password: Some(monitor.password.clone()),
        salted_password: known.clone(),
        parameters: vec![
            ("application_name".to_owned(), "trunkline catalogs".to_owned()),
            ("client_encoding".to_owned(), "UTF8".to_owned()),
        ],
    };
    let login = connect(&target, tokio::time::Instant::now() + CONNECT_TIMEOUT).await?;
    known.clone_from(&login.salted_password);
    let mut reader = Reader::new(login);
    soon(reader.value(queries::PATIENCE)).await?;
    Ok(reader)
}

/// Loads a picture once, from the first of the nodes at these addresses that answers; a replica if one is there.
pub async fn load_once(
    cluster: &config::Cluster,
    nodes: &[Arc<str>],
    database: &Arc<str>,
    settings: &Settings,
) -> Result<Arc<Picture>, LoadError> {
    let mut last = LoadError::NoNode;
    let mut fallback = None;
    for address in nodes {
        match timeout(LONGEST_LOAD, load_from(cluster, address, database)).await.unwrap_or(Err(LoadError::Timeout)) {
            Ok((inventory, Role::Replica)) => return Ok(draw(inventory, settings, 0)),
            Ok((inventory, _)) => fallback = Some(inventory),
            Err(error) => last = error,
        }
    }
    fallback.map(|inventory| draw(inventory, settings, 0)).ok_or(last)
}

async fn load_from(
    cluster: &config::Cluster,
    address: &Arc<str>,
    database: &Arc<str>,
) -> Result<(Inventory, Role), LoadError> {
    let tls = Arc::new(ArcSwap::from_pointee(cluster.tls.clone()));
    let mut reader = open(&cluster.monitor, Endpoint::new(Arc::clone(address), tls), database, &mut None).await?;
    let role = if reader.value(queries::REPLAYED).await?.is_some() { Role::Replica } else { Role::Primary };
    let server_path = reader.value(queries::SERVER_PATH).await?;
    reader.rows(queries::BEGIN, |_| {}).await?;
    let mut inventory = queries::read(&mut reader).await?;
    inventory.server_path = server_path.map(Into::into);
    inventory.check_size()?;
    Ok((inventory, role))
}

/// As long as connecting may take elsewhere.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is asked for a word, and not for the catalogs. A frozen node that is not known to be down yet must not hold us: reads of
/// tables go to the primary meanwhile.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);
/// A million objects take a few seconds; a node that takes longer is stuck.
const LONGEST_LOAD: Duration = Duration::from_secs(600);
/// After a failure, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A server process that has nothing to do ends within milliseconds.
const LONGEST_GOODBYE: Duration = Duration::from_millis(500);
/// A node that stops waits for our connection about as long as for those of pools.
const LOOK: Duration = Duration::from_secs(1);
/// Doubts and suspicions of a keeper that has no connections wait so long: whoever looks by turns would log in at two nodes each second.
const LOOK_ANEW: Duration = Duration::from_secs(10);
/// A replica that needs longer to show a change is lagging: the primary is asked.
const REPLAY_PATIENCE: Duration = Duration::from_millis(300);
const REPLAY_PAUSE: Duration = Duration::from_millis(1);
/// Between two looks because of errors that may mean a change.
const SUSPICION_PAUSE: Duration = Duration::from_millis(200);
