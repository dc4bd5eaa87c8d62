//! What a session must see: its own writes, and never less than it has read.
//!
//! No query is added to any write. A write ends at a moment of our clock; a sample of the primary's position that was
//! begun later is at or past it; a replica that has replayed that sample has the write. The same goes for what was read
//! from a node, with a sample of that node begun after the read.

use std::time::{Duration, Instant};

use crate::topology::{Lsn, NodeId, NodeView, Role, Timeline, View};

/// The session's floor: what the next read must have seen.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    /// Known as a position.
    floor: Option<Floor>,
    /// The end of the last write that has no position yet.
    wrote: Option<Instant>,
    /// The last read that has no position yet, and the node that answered it.
    read: Option<(NodeId, Instant)>,
    /// How waiting for a replica went lately.
    patience: Patience,
    /// How long the session has stayed on one replica.
    stay: Stay,
}

#[derive(Clone, Copy, Debug)]
struct Floor {
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

/// First and longest pause after a wait that found no fresh replica.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A session that reads without a pause looks for another replica after 1, 2, 4, … at last this many reads: at a tenth
/// of a millisecond each and half a millisecond for the look, that is half a percent.
const LONGEST_STAY: u32 = 1024;

impl Freshness {
    /// A write was acknowledged now.
    pub fn wrote(&mut self, now: Instant) {
        self.wrote = Some(now);
    }

    /// A read that this node answered ended now.
    pub fn read(&mut self, node: NodeId, now: Instant) {
        if self.read.is_some_and(|(last, _)| last == node) {
            self.stay.reads = self.stay.reads.saturating_add(1);
        }
        self.read = Some((node, now));
    }

    /// Turns moments into positions where the view has a sample for them.
    pub fn settle(&mut self, view: &View) {
        self.forget_other_timelines(view);
        if let Some(moment) = self.wrote
            && let Some(sample) = view.primary_sample_since(moment)
        {
            self.raise(sample.lsn, sample.timeline, moment);
            self.wrote = None;
        }
        if let Some((node, moment)) = self.read
            && let Some(sample) = position_since(view, node, moment)
        {
            self.raise(sample.lsn, sample.timeline, moment);
            self.read = None;
            self.stay.reads = 0;
        }
    }

    /// This node has everything the session must see. Call [`Freshness::settle`] before.
    pub fn allows(&self, node: &NodeView) -> bool {
        if node.role == Role::Primary {
            return true;
        }
        if self.wrote.is_some() || self.read.is_some_and(|(last, _)| last != node.id) {
            return false;
        }
        let Some(floor) = self.floor else { return true };
        // A node never goes back: what it answered last it still has, whatever its last sample says.
        if self.read.is_some_and(|(last, moment)| last == node.id && moment >= floor.since)
            && self.same_history(node, floor)
        {
            return true;
        }
        node.position.is_some_and(|position| position.lsn >= floor.lsn) && self.same_history(node, floor)
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
        let known = self.floor.filter(|floor| floor.timeline == timeline || timeline.is_none());
        self.floor = Some(match known {
            Some(floor) => Floor { lsn: floor.lsn.max(lsn), timeline: floor.timeline, since: floor.since.max(since) },
            None => Floor { lsn, timeline, since },
        });
    }

    /// Positions of another history say nothing: the write is looked for anew on the present primary.
    fn forget_other_timelines(&mut self, view: &View) {
        let present = view.primary().and_then(|primary| primary.position).and_then(|position| position.timeline);
        if let (Some(floor), Some(present)) = (self.floor, present)
            && floor.timeline.is_some_and(|timeline| timeline != present)
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

/// A sample of this node begun at or after the moment.
fn position_since(view: &View, node: NodeId, moment: Instant) -> Option<crate::topology::Sample> {
    if view.primary == Some(node) {
        return view.primary_sample_since(moment);
    }
    let node = view.node(node)?;
    node.position.filter(|position| position.begun >= moment)
}
