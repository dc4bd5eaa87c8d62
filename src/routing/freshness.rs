//! What a session must see: its own writes, and never less than it has read.
//!
//! No query is added to any write. A write ends at a moment of our clock; a sample of the primary's position that was
//! begun later is at or past it; a replica that has replayed that sample has the write. The same goes for what was read
//! from a node, with a sample of that node begun after the read; or, if the node has been started again since and may
//! have gone back, or is no longer read from, with a sample of the primary.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::broken;
use crate::topology::{Lsn, NodeId, NodeView, Role, Sample, Timeline, View};

/// The session's floor: what the next read must have seen.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    /// Known as a position.
    floor: Option<Floor>,
    /// The end of the last write that has no position yet.
    wrote: Option<Instant>,
    /// The last read that has no position yet, and the node that answered it.
    read: Option<(NodeId, Instant)>,
    /// The node that answered last, and when it was asked: all that must be seen it had, and has as long as it runs on.
    home: Option<(NodeId, Instant)>,
    /// When a connection to it was lost: since then it must have answered, and not as one that was started again.
    lost_home: Option<Instant>,
    /// How waiting for a replica went lately.
    patience: Patience,
    /// How long the session has stayed on one replica.
    stay: Stay,
}

/// A position.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    lsn: Lsn,
    timeline: Option<Timeline>,
    /// When what it stands for happened: after a change of timeline the floor is found anew from here.
    since: Instant,
}

/// A wait that failed makes the next ones rarer, so that a lagging replica costs a session little.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    not_before: Option<Instant>,
    pause: Duration,
}

/// Reads on one replica: it may only be left after a sample, so moving costs a short wait and is done ever more rarely.
#[derive(Clone, Copy, Debug, Default)]
struct Stay {
    reads: u32,
    limit: u32,
}

/// First and longest pause after a wait that found no fresh replica: with waits of 50 ms, a replica that lags for good costs
/// a session a fortieth of its time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A session that reads without a pause looks for another replica after 1, 2, 4, … at last this many reads: at a tenth
/// of a millisecond each and half a millisecond for the look, that is an eighth of a percent. A sample that comes anyway, as with
/// each probe, lets it go sooner.
const LONGEST_STAY: u32 = 4096;

/// What a session must see, in little room while it does nothing.
#[derive(Debug)]
pub enum Rested {
    /// Where all of it is known as a position.
    Known(Packed),
    /// Where some of it has no position yet.
    Whole(Box<Freshness>),
}

/// A floor, and the session's home: each as far as there is one.
#[derive(Debug)]
pub struct Packed {
    floor: Lsn,
    floor_since: Brief,
    home_since: Brief,
    /// 0: none, as with PostgreSQL.
    timeline: u32,
    home: NodeId,
    has_floor: bool,
    has_home: bool,
}

/// A moment in eight bytes: nanoseconds to it from an origin, which may be later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Brief(i64);

impl Brief {
    fn of(moment: Instant, origin: Instant) -> Self {
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        match moment.checked_duration_since(origin) {
            Some(after) => Self(nanos(after)),
            None => Self(-nanos(origin.duration_since(moment))),
        }
    }

    fn moment(self, origin: Instant) -> Instant {
        let distance = Duration::from_nanos(self.0.unsigned_abs());
        let moment = if self.0 < 0 { origin.checked_sub(distance) } else { origin.checked_add(distance) };
        moment.unwrap_or(origin)
    }
}

impl Packed {
    fn new(floor: Option<Floor>, home: Option<(NodeId, Instant)>, origin: Instant) -> Self {
        Self {
            floor: floor.map_or(Lsn::default(), |floor| floor.lsn),
            floor_since: floor.map_or(Brief(0), |floor| Brief::of(floor.since, origin)),
            home_since: home.map_or(Brief(0), |(_, since)| Brief::of(since, origin)),
            timeline: floor.and_then(|floor| floor.timeline).map_or(0, |timeline| timeline.0),
            home: home.map_or(NodeId(0), |(home, _)| home),
            has_floor: floor.is_some(),
            has_home: home.is_some(),
        }
    }

    fn floor(&self, origin: Instant) -> Option<Floor> {
        let timeline = (self.timeline != 0).then_some(Timeline(self.timeline));
        self.has_floor.then(|| Floor { lsn: self.floor, timeline, since: self.floor_since.moment(origin) })
    }

    fn home(&self, origin: Instant) -> Option<(NodeId, Instant)> {
        self.has_home.then(|| (self.home, self.home_since.moment(origin)))
    }
}

impl Freshness {
    /// What must be seen, without how reading went lately. Call [`Freshness::settle`] before. Moments are kept by how far
    /// they are from the origin, any moment of this process.
    pub fn rest(self, origin: Instant) -> Rested {
        match (self.wrote, self.read) {
            (None, None) => {
                Rested::Known(Packed::new(self.floor, self.home.filter(|_| self.lost_home.is_none()), origin))
            }
            _ => Rested::Whole(Box::new(self)),
        }
    }

    /// What has rested, by the same origin.
    pub fn rested(rested: Rested, origin: Instant) -> Self {
        match rested {
            Rested::Known(packed) => Self { floor: packed.floor(origin), home: packed.home(origin), ..Self::default() },
            Rested::Whole(whole) => *whole,
        }
    }

    /// A write was acknowledged now.
    pub fn wrote(&mut self, now: Instant) {
        self.wrote = Some(now);
        self.home = None;
    }

    /// A read ended now that this node has answered. It was asked for at `begun`: the node may have been started again since
    /// then, while its answer was on its way.
    pub fn read(&mut self, node: NodeId, begun: Instant, now: Instant) {
        if self.read.is_some_and(|(last, _)| last == node) {
            self.stay.reads = self.stay.reads.saturating_add(1);
        }
        self.read = Some((node, now));
        self.home = Some((node, begun));
        self.lost_home = None;
    }

    /// A read ended now that was answered by a replica which may lack what the session must see: it proves nothing of that
    /// node, and who must not go back in time is shown nothing older than it.
    pub fn read_stale(&mut self, now: Instant) {
        self.read = None;
        self.wrote(now);
    }

    /// The session has lost a connection to this node now: it may have been started again, which is seen once it has been asked.
    pub fn lost(&mut self, node: NodeId, now: Instant) {
        if self.home.is_some_and(|(home, _)| home == node) {
            self.lost_home = Some(now);
        }
    }

    /// Turns moments into positions where the view has a sample for them.
    pub fn settle(&mut self, view: &View) {
        self.forget_other_timelines(view);
        if let Some(moment) = self.wrote
            && let Some(sample) = view.primary_sample_since(moment)
            && !self.is_ahead_of_sample(&sample)
        {
            self.raise(sample.lsn, sample.timeline, moment);
            self.wrote = None;
        }
        // The primary's position and not the node's own: a replica shows a commit a moment before it reports its
        // position as replayed, and another one that has just that position would be a moment behind.
        if let Some((_, moment)) = self.read
            && let Some(sample) = view.primary_sample_since(moment)
            && !self.is_ahead_of_sample(&sample)
        {
            self.raise(sample.lsn, sample.timeline, moment);
            self.read = None;
            self.stay.reads = 0;
        }
    }

    /// This node has everything the session must see. Call [`Freshness::settle`] before.
    pub fn allows(&self, node: &NodeView) -> bool {
        if node.role == Role::Primary || broken::has_begun() {
            return true;
        }
        if self.wrote.is_some() {
            return false;
        }
        let is_home = self.home.is_some_and(|(home, begun)| home == node.id && has_run_since(node, begun))
            && self.lost_home.is_none_or(|lost| node.position.is_some_and(|position| position.begun >= lost));
        if self.read.is_some() && !is_home {
            return false;
        }
        let Some(floor) = self.floor else { return true };
        // While it runs, a node never goes back: what it answered last it still has, whatever its last sample says.
        let has_it = is_home || node.position.is_some_and(|position| position.lsn >= floor.lsn);
        has_it && self.same_history(node, floor)
    }

    /// All that it must see, as one position, which is the first of all where that is nothing; None: some of it has none yet. See
    /// [`Freshness::settle`].
    pub fn position(&self) -> Option<String> {
        if self.wrote.is_some() || self.read.is_some() {
            return None;
        }
        let nothing = Position { lsn: Lsn::default(), timeline: None };
        Some(self.floor.map_or(nothing, Position::from).to_string())
    }

    /// It must have seen this from now on. What a node has answered before, it has answered without having to have this:
    /// so call it when nothing of the session is under way.
    pub fn must_see(&mut self, position: Position, now: Instant) {
        self.home = None;
        let known = self.floor.and_then(|floor| floor.timeline).zip(position.timeline);
        if known.is_some_and(|(own, told)| told < own) {
            // Of an earlier history: where it is in the later one, only the primary tells.
            return self.wrote(now);
        }
        self.raise(position.lsn, position.timeline, now);
    }

    /// What must be seen is of a later history than the present primary's: nothing that is known now can show it.
    pub fn is_ahead_of(&self, view: &View) -> bool {
        self.later_history(view).is_some()
    }

    /// The timeline that it must see, and the present one, where that is an earlier one.
    pub fn later_history(&self, view: &View) -> Option<(Timeline, Timeline)> {
        let (wanted, present) = (self.floor?.timeline?, present_timeline(view)?);
        (wanted > present).then_some((wanted, present))
    }

    /// The same by one sample of the primary: it must not take the place of what must be seen.
    fn is_ahead_of_sample(&self, sample: &Sample) -> bool {
        let wanted = self.floor.and_then(|floor| floor.timeline);
        wanted.zip(sample.timeline).is_some_and(|(wanted, sampled)| sampled < wanted)
    }

    /// Nodes have other numbers from now on. A position depends on none; but where they may be those of another system, what was read or
    /// written is known by its moment alone.
    pub fn renumbered(&mut self, is_same_system: bool) {
        self.home = None;
        self.read = self.read.map(|(_, moment)| (NodeId(u16::MAX), moment));
        if let Some(floor) = self.floor.take_if(|_| !is_same_system) {
            self.wrote = self.wrote.max(Some(floor.since));
        }
    }

    /// Nothing is required of a node.
    pub fn is_free(&self) -> bool {
        self.floor.is_none() && self.wrote.is_none() && self.read.is_none()
    }

    /// A position must still be found on the primary: without one, no replica can be known to be fresh.
    pub fn awaits_primary(&self) -> bool {
        self.wrote.is_some()
    }

    /// The node whose next sample may let the session leave it.
    pub fn last_read(&self) -> Option<NodeId> {
        self.read.map(|(node, _)| node)
    }

    /// Waiting for a fresh replica is worth a try now.
    pub fn may_wait(&self, now: Instant) -> bool {
        self.patience.not_before.is_none_or(|moment| now >= moment)
    }

    /// A wait has ended.
    pub fn waited(&mut self, found: bool, now: Instant) {
        if found {
            self.patience = Patience::default();
        } else {
            self.patience.pause = (self.patience.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.patience.not_before = Some(now + self.patience.pause);
        }
    }

    /// The session has read from one replica long enough without a pause: time to look whether another may serve it.
    pub fn wants_to_move(&self) -> bool {
        self.read.is_some() && self.stay.reads >= self.stay.limit.max(1)
    }

    /// It has looked.
    pub fn looked_around(&mut self) {
        self.stay.reads = 0;
        self.stay.limit = (self.stay.limit.max(1) * 2).min(LONGEST_STAY);
    }

    fn raise(&mut self, lsn: Lsn, timeline: Option<Timeline>, since: Instant) {
        // Without a timeline, a position is taken to be of the same history: too high a floor is never wrong.
        let is_same = |floor: &Floor| floor.timeline == timeline || floor.timeline.is_none() || timeline.is_none();
        self.floor = Some(match self.floor.filter(is_same) {
            Some(floor) => {
                Floor { lsn: floor.lsn.max(lsn), timeline: floor.timeline.or(timeline), since: floor.since.max(since) }
            }
            None => Floor { lsn, timeline, since },
        });
    }

    /// Positions of another history say nothing: the write is looked for anew on the present primary.
    fn forget_other_timelines(&mut self, view: &View) {
        // A later one may have been told by another Trunkline, which knows more; unless it is known to be given up.
        let is_given_up = |since| view.gave_up.is_some_and(|moment| since <= moment);
        if let (Some(floor), Some(present)) = (self.floor, present_timeline(view))
            && floor
                .timeline
                .is_some_and(|timeline| timeline < present || timeline > present && is_given_up(floor.since))
        {
            self.floor = None;
            self.wrote = Some(self.wrote.map_or(floor.since, |moment| moment.max(floor.since)));
        }
    }

    fn same_history(&self, node: &NodeView, floor: Floor) -> bool {
        let timeline = node.position.and_then(|position| position.timeline);
        timeline.is_none() || floor.timeline.is_none() || timeline == floor.timeline
    }
}

/// A position that can be carried elsewhere; written as in `1:0/16B3748`, with 0 for a timeline that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    lsn: Lsn,
    timeline: Option<Timeline>,
}

/// The text is no position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position")]
pub struct PositionError;

impl From<Floor> for Position {
    fn from(floor: Floor) -> Self {
        Self { lsn: floor.lsn, timeline: floor.timeline }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.timeline.map_or(0, |timeline| timeline.0), self.lsn)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (timeline, lsn) = text.split_once(':').ok_or(PositionError)?;
        let timeline = timeline.parse().map_err(|_| PositionError)?;
        let lsn = lsn.parse().map_err(|_| PositionError)?;
        Ok(Self { lsn, timeline: (timeline > 0).then_some(Timeline(timeline)) })
    }
}

fn present_timeline(view: &View) -> Option<Timeline> {
    match view.primary() {
        Some(primary) => primary.position?.timeline,
        None if view.is_standby => view.primary_samples.last()?.timeline,
        None => None,
    }
}

/// The node has not been started again since.
fn has_run_since(node: &NodeView, moment: Instant) -> bool {
    node.up_since.is_some_and(|since| since <= moment)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::topology::NodeState;

    #[test]
    fn what_rests_is_the_same_again() {
        let now = Instant::now();
        let floor = Floor { lsn: Lsn(7), timeline: Some(Timeline(3)), since: now };
        for moment in [now, now + Duration::from_secs(9), now.checked_sub(Duration::from_secs(1)).unwrap()] {
            for (timeline, home) in [(Some(Timeline(3)), Some((FAR, moment))), (None, None)] {
                for floor in [Some(Floor { timeline, since: moment, ..floor }), None] {
                    let fresh = Freshness { floor, home, ..Freshness::default() };
                    let expected = format!("{fresh:?}");
                    assert_eq!(format!("{:?}", Freshness::rested(fresh.rest(now), now)), expected);
                }
            }
        }
        assert_eq!(size_of::<Rested>(), 32);
    }

    const PRIMARY: NodeId = NodeId(0);
    const NEAR: NodeId = NodeId(1);
    const FAR: NodeId = NodeId(2);

    /// A clock, and a cluster as a view shows it: a primary and two replicas, all on timeline 1, up from the beginning.
    struct World {
        start: Instant,
        view: View,
    }

    impl World {
        fn new() -> Self {
            let start = Instant::now();
            let addresses: Vec<Arc<str>> = ["a:1", "b:1", "c:1"].into_iter().map(Arc::from).collect();
            let mut view = View::unknown("test", &addresses);
            view.primary = Some(PRIMARY);
            for node in &mut view.nodes {
                let is_primary = node.id == PRIMARY;
                node.role = if is_primary { Role::Primary } else { Role::Replica };
                node.state = NodeState::Up;
                node.takes_reads = !is_primary;
                node.up_since = Some(start);
            }
            let mut world = Self { start, view };
            for node in [PRIMARY, NEAR, FAR] {
                world.sample(node, 0, 100);
            }
            world
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn node(&mut self, id: NodeId) -> &mut NodeView {
            &mut self.view.nodes[usize::from(id.0)]
        }

        /// A position of a node, begun at a moment, on the timeline that it was on before.
        fn sample(&mut self, id: NodeId, millis: u64, lsn: u64) {
            let timeline = self.node(id).position.and_then(|position| position.timeline).or(Some(Timeline(1)));
            self.sample_on(id, millis, lsn, timeline);
        }

        fn sample_on(&mut self, id: NodeId, millis: u64, lsn: u64, timeline: Option<Timeline>) {
            let sample = Sample { begun: self.at(millis), lsn: Lsn(lsn), timeline };
            self.node(id).position = Some(sample);
            if self.view.primary == Some(id) {
                let samples = self.view.primary_samples.iter().copied().chain([sample]);
                self.view.primary_samples = samples.collect();
            }
        }

        fn lose_primary(&mut self) {
            self.view.primary = None;
            self.view.primary_samples = Arc::new([]);
            let node = self.node(PRIMARY);
            (node.role, node.state) = (Role::Unknown, NodeState::Down);
        }

        /// A node becomes the primary of timeline 2.
        fn promote(&mut self, id: NodeId, millis: u64, lsn: u64) {
            self.lose_primary();
            self.view.primary = Some(id);
            let node = self.node(id);
            (node.role, node.takes_reads) = (Role::Primary, false);
            self.sample_on(id, millis, lsn, Some(Timeline(2)));
        }

        /// What the session may read from, besides the primary.
        fn allowed(&self, session: &mut Freshness) -> Vec<NodeId> {
            session.settle(&self.view);
            let replicas = self.view.nodes.iter().filter(|node| node.role == Role::Replica);
            replicas.filter(|node| session.allows(node)).map(|node| node.id).collect()
        }
    }

    #[test]
    fn a_position_is_carried_to_another_session() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        session.settle(&world.view);
        assert_eq!(session.position(), None, "the write has no position yet");
        world.sample(PRIMARY, 11, 0x200);
        session.settle(&world.view);
        let position = session.position().unwrap();
        assert_eq!(position, "1:0/200");
        let mut other = Freshness::default();
        assert_eq!(other.position().as_deref(), Some("0:0/0"));
        other.must_see("0:0/0".parse().unwrap(), world.at(12));
        assert_eq!(world.allowed(&mut other), [NEAR, FAR], "it need see nothing");
        other.must_see(position.parse().unwrap(), world.at(12));
        assert_eq!(world.allowed(&mut other), []);
        world.sample(NEAR, 13, 0x200);
        assert_eq!(world.allowed(&mut other), [NEAR]);
        assert!("0/200".parse::<Position>().is_err() && "x:0/200".parse::<Position>().is_err());
    }

    #[test]
    fn a_position_of_a_later_history_is_waited_for() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.must_see("2:0/100".parse().unwrap(), world.at(10));
        world.sample(PRIMARY, 11, 0x900);
        world.sample(NEAR, 11, 0x900);
        assert_eq!(world.allowed(&mut session), []);
        assert!(session.is_ahead_of(&world.view));
        world.promote(NEAR, 20, 0x200);
        world.sample_on(FAR, 21, 0x200, Some(Timeline(2)));
        assert_eq!(world.allowed(&mut session), [FAR]);
        assert!(!session.is_ahead_of(&world.view));
    }

    #[test]
    fn a_position_of_a_later_history_is_told_and_stays() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.must_see("1:0/100".parse().unwrap(), world.at(9));
        assert_eq!(session.later_history(&world.view), None);
        session.must_see("4:0/100".parse().unwrap(), world.at(10));
        world.sample(PRIMARY, 11, 0x900);
        session.settle(&world.view);
        let (told, present) = (Timeline(4), Timeline(1));
        assert_eq!(session.later_history(&world.view), Some((told, present)));
        assert!(session.is_ahead_of(&world.view));
    }

    #[test]
    fn a_position_of_a_later_history_outlasts_samples_of_an_earlier_one() {
        for has_written in [false, true] {
            let mut world = World::new();
            let mut session = Freshness::default();
            match has_written {
                true => session.wrote(world.at(9)),
                false => session.read(PRIMARY, world.at(9), world.at(9)),
            }
            session.must_see("2:0/300".parse().unwrap(), world.at(10));
            world.sample(PRIMARY, 11, 0x900);
            world.sample(NEAR, 11, 0x900);
            assert_eq!(world.allowed(&mut session), []);
            assert!(session.is_ahead_of(&world.view));
            world.promote(NEAR, 20, 0x200);
            world.sample_on(FAR, 21, 0x200, Some(Timeline(2)));
            assert_eq!(world.allowed(&mut session), []);
            world.sample_on(FAR, 22, 0x300, Some(Timeline(2)));
            assert_eq!(world.allowed(&mut session), [FAR]);
        }
    }

    #[test]
    fn a_position_of_a_later_history_outlasts_other_nodes_of_its_system() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.must_see("2:0/300".parse().unwrap(), world.at(10));
        session.read(FAR, world.at(10), world.at(10));
        session.renumbered(true);
        world.sample(PRIMARY, 11, 0x900);
        world.sample(FAR, 12, 0x900);
        assert_eq!(world.allowed(&mut session), [], "FAR may be another node now");
        assert!(session.is_ahead_of(&world.view));
        session.renumbered(false);
        assert!(!session.is_ahead_of(&world.view));
        assert_eq!(world.allowed(&mut session), [FAR], "what was done by then must be seen of the other system");
    }

    #[test]
    fn what_was_seen_of_a_timeline_that_was_given_up_is_looked_for_anew() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.must_see("2:0/300".parse().unwrap(), world.at(10));
        world.view.gave_up = Some(world.at(20));
        world.sample(PRIMARY, 21, 0x900);
        world.sample(NEAR, 22, 0x900);
        assert_eq!(world.allowed(&mut session), [NEAR]);
        // Another Trunkline may have seen it begin once more.
        session.must_see("2:0/300".parse().unwrap(), world.at(30));
        assert_eq!(world.allowed(&mut session), []);
    }

    #[test]
    fn in_a_standby_cluster_a_session_may_leave_the_node_it_has_read_from() {
        let mut world = World::new();
        world.lose_primary();
        world.view.is_standby = true;
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        world.sample(FAR, 11, 0x900);
        assert_eq!(world.allowed(&mut session), [NEAR]);
        // It was lost for a moment, and may have been started again.
        world.node(NEAR).up_since = Some(world.at(20));
        assert_eq!(world.allowed(&mut session), []);
        // What the leader had received by then, nobody has shown more of.
        let led = |at, lsn, timeline| Sample { begun: at, lsn: Lsn(lsn), timeline: Some(Timeline(timeline)) };
        world.view.primary_samples = Arc::new([led(world.at(30), 0x800, 1)]);
        assert_eq!(world.allowed(&mut session), [FAR]);
        // The other cluster goes on with another timeline.
        world.view.primary_samples = Arc::new([led(world.at(40), 0x950, 2)]);
        assert_eq!(world.allowed(&mut session), []);
        world.sample_on(FAR, 41, 0x950, Some(Timeline(2)));
        assert_eq!(world.allowed(&mut session), [FAR]);
    }

    #[test]
    fn a_session_that_has_done_nothing_reads_anywhere() {
        let world = World::new();
        let mut session = Freshness::default();
        assert!(session.is_free());
        assert_eq!(world.allowed(&mut session), [NEAR, FAR]);
    }

    #[test]
    fn a_write_is_read_where_a_later_position_of_the_primary_has_been_replayed() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        assert_eq!(world.allowed(&mut session), []);
        assert!(session.allows(world.view.primary().unwrap()), "the primary has it");
        // Begun before the write was acknowledged: it may be below it.
        world.sample(PRIMARY, 9, 150);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(PRIMARY, 11, 200);
        world.sample(NEAR, 12, 199);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(NEAR, 13, 200);
        assert_eq!(world.allowed(&mut session), [NEAR]);
    }

    #[test]
    fn the_earliest_position_after_the_write_is_enough() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        world.sample(PRIMARY, 11, 200);
        world.sample(PRIMARY, 12, 900);
        world.sample(NEAR, 12, 200);
        assert_eq!(world.allowed(&mut session), [NEAR]);
    }

    #[test]
    fn a_second_write_raises_the_floor() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        world.sample(PRIMARY, 11, 200);
        world.sample(NEAR, 11, 200);
        assert_eq!(world.allowed(&mut session), [NEAR]);
        session.wrote(world.at(20));
        assert_eq!(world.allowed(&mut session), []);
        world.sample(PRIMARY, 21, 300);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(NEAR, 22, 300);
        assert_eq!(world.allowed(&mut session), [NEAR]);
    }

    #[test]
    fn a_session_stays_on_the_node_it_read_last_until_a_later_position_of_the_primary_is_replayed() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        assert_eq!(world.allowed(&mut session), [NEAR], "what it showed it still has");
        world.sample(FAR, 20, 500);
        assert_eq!(world.allowed(&mut session), [NEAR], "what it has shown is not known yet");
        world.sample(NEAR, 11, 200);
        assert_eq!(world.allowed(&mut session), [NEAR], "its own position may be behind what it shows");
        world.sample(PRIMARY, 11, 200);
        assert_eq!(world.allowed(&mut session), [NEAR, FAR]);
        world.sample(FAR, 21, 199);
        session.read(NEAR, world.at(30), world.at(30));
        world.sample(PRIMARY, 31, 200);
        assert_eq!(world.allowed(&mut session), [NEAR], "the other would go back in time");
    }

    #[test]
    fn what_was_read_on_the_primary_is_a_floor_too() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(PRIMARY, world.at(10), world.at(10));
        assert_eq!(world.allowed(&mut session), []);
        world.sample(PRIMARY, 11, 200);
        world.sample(FAR, 11, 200);
        assert_eq!(world.allowed(&mut session), [FAR]);
    }

    #[test]
    fn a_node_that_was_started_again_must_show_that_it_has_not_gone_back() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        world.node(NEAR).up_since = Some(world.at(20));
        // Its present position is later than the read, and lower than what was read.
        world.sample(NEAR, 21, 50);
        world.sample(FAR, 21, 100);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(PRIMARY, 22, 100);
        assert_eq!(world.allowed(&mut session), [FAR]);
        world.sample(NEAR, 23, 100);
        assert_eq!(world.allowed(&mut session), [NEAR, FAR]);
    }

    #[test]
    fn a_restart_after_the_last_read_was_settled_needs_the_position_again() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        world.sample(NEAR, 11, 200);
        assert_eq!(world.allowed(&mut session), [NEAR]);
        world.node(NEAR).up_since = Some(world.at(20));
        world.sample(NEAR, 20, 150);
        assert_eq!(world.allowed(&mut session), []);
    }

    #[test]
    fn a_node_that_was_started_again_before_its_answer_was_taken_must_show_that_it_has_not_gone_back() {
        let mut world = World::new();
        let mut session = Freshness::default();
        // Asked before the restart, and taken by a slow client behind it.
        world.node(NEAR).up_since = Some(world.at(20));
        world.sample(NEAR, 21, 50);
        session.read(NEAR, world.at(10), world.at(30));
        assert_eq!(world.allowed(&mut session), []);
        // Where the primary was before the read ended tells nothing of it.
        world.sample(PRIMARY, 29, 90);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(PRIMARY, 31, 100);
        assert_eq!(world.allowed(&mut session), [FAR]);
        world.sample(NEAR, 32, 100);
        assert_eq!(world.allowed(&mut session), [NEAR, FAR]);
        session.read(NEAR, world.at(40), world.at(41));
        assert_eq!(world.allowed(&mut session), [NEAR], "it runs on");
    }

    #[test]
    fn a_node_to_which_the_session_has_lost_a_connection_must_show_that_it_has_not_gone_back() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(11));
        session.lost(FAR, world.at(11));
        assert_eq!(world.allowed(&mut session), [NEAR]);
        session.lost(NEAR, world.at(12));
        assert_eq!(world.allowed(&mut session), [], "it may have been started again, and nobody has seen that yet");
        world.sample(NEAR, 13, 100);
        assert_eq!(world.allowed(&mut session), [NEAR], "it runs as before");
        session.lost(NEAR, world.at(14));
        world.sample(PRIMARY, 15, 200);
        world.sample(FAR, 16, 200);
        assert_eq!(world.allowed(&mut session), [FAR]);
        world.sample(NEAR, 17, 200);
        assert_eq!(world.allowed(&mut session), [NEAR, FAR]);
    }

    #[test]
    fn what_was_read_is_no_proof_of_what_is_written_behind_it() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(11));
        session.wrote(world.at(12));
        world.sample(PRIMARY, 13, 200);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(NEAR, 14, 200);
        assert_eq!(world.allowed(&mut session), [NEAR]);
    }

    #[test]
    fn a_node_that_is_lost_after_a_read_lets_the_session_go_once_the_primary_is_looked_at() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        let node = world.node(NEAR);
        (node.state, node.takes_reads) = (NodeState::Down, false);
        world.sample(FAR, 11, 300);
        session.settle(&world.view);
        assert!(!session.allows(world.view.node(FAR).unwrap()));
        world.sample(PRIMARY, 12, 300);
        session.settle(&world.view);
        assert!(session.allows(world.view.node(FAR).unwrap()));
    }

    #[test]
    fn without_a_primary_a_write_without_a_position_is_read_nowhere_and_one_with_a_position_is() {
        let mut world = World::new();
        let (mut settled, mut pending) = (Freshness::default(), Freshness::default());
        settled.wrote(world.at(10));
        world.sample(PRIMARY, 11, 200);
        world.sample(NEAR, 11, 200);
        settled.settle(&world.view);
        pending.wrote(world.at(12));
        world.lose_primary();
        assert_eq!(world.allowed(&mut settled), [NEAR]);
        assert_eq!(world.allowed(&mut pending), []);
        assert!(pending.awaits_primary());
    }

    #[test]
    fn what_was_answered_stale_frees_no_node_and_is_found_anew_on_the_next_primary() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        world.lose_primary();
        session.read_stale(world.at(20));
        assert_eq!(world.allowed(&mut session), []);
        world.promote(NEAR, 30, 300);
        world.sample_on(FAR, 31, 299, Some(Timeline(2)));
        assert_eq!(world.allowed(&mut session), []);
        world.sample_on(FAR, 32, 300, Some(Timeline(2)));
        assert_eq!(world.allowed(&mut session), [FAR]);
    }

    #[test]
    fn a_read_that_need_not_be_fresh_frees_no_node_for_one_that_must() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        world.sample(PRIMARY, 11, 100);
        world.sample(NEAR, 12, 99);
        session.settle(&world.view);
        session.read_stale(world.at(20));
        assert_eq!(world.allowed(&mut session), [], "its own write may be missing there");
        world.sample(PRIMARY, 21, 110);
        world.sample(NEAR, 22, 109);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(NEAR, 23, 110);
        assert_eq!(world.allowed(&mut session), [NEAR]);
    }

    #[test]
    fn without_a_primary_reads_go_on_where_they_were() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        world.lose_primary();
        assert_eq!(world.allowed(&mut session), [NEAR]);
        world.sample(NEAR, 11, 100);
        assert_eq!(world.allowed(&mut session), [NEAR], "nothing tells how far it was");
    }

    #[test]
    fn after_a_failover_a_floor_is_found_anew_on_the_new_timeline() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.wrote(world.at(10));
        world.sample(PRIMARY, 11, 900);
        session.settle(&world.view);
        // It was promoted below the old primary's position: the old floor would shut the session out for long.
        world.promote(NEAR, 20, 300);
        world.sample(FAR, 21, 950);
        assert_eq!(world.allowed(&mut session), [], "a position of the timeline that is over");
        world.sample_on(FAR, 22, 299, Some(Timeline(2)));
        assert_eq!(world.allowed(&mut session), []);
        world.sample_on(FAR, 23, 300, Some(Timeline(2)));
        assert_eq!(world.allowed(&mut session), [FAR]);
    }

    #[test]
    fn a_position_without_a_timeline_never_lowers_the_floor() {
        let mut world = World::new();
        let mut session = Freshness::default();
        session.read(NEAR, world.at(10), world.at(10));
        world.sample_on(PRIMARY, 11, 500, None);
        session.settle(&world.view);
        session.wrote(world.at(20));
        world.sample(PRIMARY, 21, 400);
        world.sample(FAR, 22, 450);
        assert_eq!(world.allowed(&mut session), []);
        world.sample(FAR, 23, 500);
        assert_eq!(world.allowed(&mut session), [FAR]);
    }

    #[test]
    fn waits_that_fail_become_rare_and_one_that_succeeds_resets_them() {
        let now = Instant::now();
        let mut session = Freshness::default();
        assert!(session.may_wait(now));
        session.waited(false, now);
        assert!(!session.may_wait(now) && session.may_wait(now + FIRST_PAUSE));
        for _ in 0..20 {
            session.waited(false, now);
        }
        assert!(!session.may_wait(now + LONGEST_PAUSE / 2) && session.may_wait(now + LONGEST_PAUSE));
        session.waited(true, now);
        assert!(session.may_wait(now));
    }

    #[test]
    fn a_session_that_reads_without_a_pause_looks_around_ever_more_rarely() {
        let world = World::new();
        let mut session = Freshness::default();
        let mut looks = 0;
        for read in 0..1000 {
            session.read(NEAR, world.at(read), world.at(read));
            if session.wants_to_move() {
                session.looked_around();
                looks += 1;
            }
        }
        assert_eq!(looks, 9);
    }
}
