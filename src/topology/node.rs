//! One node as its probes show it: health, last report, position. What it is in its cluster is for [`super::roles`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{PostmasterStart, ProbeFailure, ProbeReport, Receiver, ReportedRole, SeenTimeline, SystemId};
use super::lag::ReplicaLag;
use super::lsn::{Lsn, Timeline};
use super::view::{NodeId, Sample};

/// One node of a cluster.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) address: Arc<str>,
    pub(super) health: Health,
    pub(super) position: Option<Sample>,
    /// Of a primary, up to where its log was flushed when it was there.
    pub(super) flush_lsn: Option<Lsn>,
    /// When it first answered after what was, or may have been, a restart.
    pub(super) up_since: Option<Instant>,
    /// See [`NodeView::moves`](super::view::NodeView::moves).
    pub(super) moves: u32,
    pub(super) lag: ReplicaLag,
    /// Whether it may take reads, as last decided.
    pub(super) takes_reads: bool,
    /// It has followed the present primary, in its present life.
    pub(super) has_followed: bool,
    /// Why it is as it is; kept so that an unchanged reason is not written anew.
    pub(super) why: Arc<str>,
    report: Option<ProbeReport>,
    /// The beginning of the newest probe that ended; a later answer to an earlier one tells nothing.
    last_begun: Option<Instant>,
    /// The beginning of the newest probe that proved it to be alive.
    alive: Option<Instant>,
    /// The beginning of the newest sample that showed it to be what its last report says.
    confirmed: Option<Instant>,
    /// The beginning of the probe that brought the last report.
    reported: Option<Instant>,
    /// The highest timeline it has proven, and of which database system.
    highest: Option<(SystemId, Timeline)>,
    failure: Option<ProbeFailure>,
    misses: u8,
    /// The beginning of the last probe that counts as missed.
    missed: Option<Instant>,
    good_probes: u8,
    /// Its connection was lost since its last answer.
    may_have_restarted: bool,
    starting_since: Option<Instant>,
    /// Timelines above this one, which it has shown, were given up while it was gone: they count no more.
    passed_over: Option<Timeline>,
}

/// How a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// No probe has ended yet.
    Unasked,
    /// The last probe answered.
    Good,
    /// It answers again after a failure; one more good probe and it is good.
    Returning,
    /// One probe was missed.
    Suspect,
    /// 57P03.
    Starting,
    /// Refused, or two probes missed in a row, or it does not let us look.
    Down,
}

/// A node's word that it is the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) node: NodeId,
    pub(super) system: SystemId,
    pub(super) timeline: Timeline,
    pub(super) postmaster_start: PostmasterStart,
}

impl Claim {
    /// By whatever addresses they are reached: a server and a copy of it are not started in the same microsecond.
    pub(super) fn is_of_same_server(&self, other: &Self) -> bool {
        self.system == other.system && self.postmaster_start == other.postmaster_start
    }
}

impl Node {
    pub(super) fn new(id: NodeId, address: Arc<str>) -> Self {
        Self {
            id,
            address,
            health: Health::Unasked,
            position: None,
            flush_lsn: None,
            up_since: None,
            moves: 0,
            lag: ReplicaLag::default(),
            takes_reads: false,
            has_followed: false,
            why: "not probed yet".into(),
            report: None,
            last_begun: None,
            alive: None,
            confirmed: None,
            reported: None,
            highest: None,
            failure: None,
            misses: 0,
            missed: None,
            good_probes: 0,
            may_have_restarted: false,
            starting_since: None,
            passed_over: None,
        }
    }

    /// Since when every probe of it was told that it is starting.
    pub(super) fn starting_since(&self) -> Option<Instant> {
        self.starting_since
    }

    /// Takes over what another watch has learnt of it. How it is now must still be asked.
    pub(super) fn remember(&mut self, before: &Self) {
        self.report.clone_from(&before.report);
        self.highest = before.highest;
        self.up_since = before.up_since;
        self.passed_over = before.passed_over;
        self.may_have_restarted = before.may_have_restarted;
        self.starting_since = before.starting_since;
        (self.takes_reads, self.has_followed) = (before.takes_reads, before.has_followed);
        self.lag.clone_from(&before.lag);
    }

    /// Whether a probe begun at `begun` is newer than every one that has ended.
    pub(super) fn is_news(&self, begun: Instant) -> bool {
        self.last_begun.is_none_or(|last| begun > last)
    }

    /// Whether a light sample that was begun later already says otherwise: then this report is of the past.
    pub(super) fn contradicts(&self, begun: Instant, report: &ProbeReport) -> bool {
        let Some(known) = self.position.filter(|known| known.begun > begun) else { return false };
        match report.role {
            ReportedRole::Primary { timeline, .. } => self.is_replica() || known.timeline != Some(timeline),
            ReportedRole::Replica { timeline, .. } => !self.is_replica() || known.timeline != timeline.proven(),
        }
    }

    /// A probe answered.
    pub(super) fn answered(&mut self, begun: Instant, report: ProbeReport, now: Instant) {
        let report = self.with_known_timeline(report);
        if self.has_restarted(&report) {
            self.up_since = Some(now);
            self.position = None;
            self.has_followed = false;
            self.may_have_restarted = false;
        }
        self.last_begun = Some(begun);
        self.alive = Some(begun);
        self.reported = Some(begun);
        self.failure = None;
        self.starting_since = None;
        self.misses = 0;
        self.good_probes = self.good_probes.saturating_add(1);
        self.health = match self.health {
            Health::Unasked | Health::Good => Health::Good,
            _ if self.good_probes >= PROBES_TO_RETURN => Health::Good,
            _ => Health::Returning,
        };
        self.learn_timeline(&report);
        self.learn_position(begun, &report);
        self.report = Some(report);
    }

    /// A replica that has lost its upstream knows its timeline only from its control file, which may be late. While it runs it
    /// never goes back.
    fn with_known_timeline(&self, mut report: ProbeReport) -> ProbeReport {
        let last = self
            .report()
            .filter(|last| last.postmaster_start == report.postmaster_start && last.system == report.system);
        if let ReportedRole::Replica { timeline: SeenTimeline::AtLeast(least), .. } = &mut report.role
            && let Some(ReportedRole::Replica { timeline, .. }) = last.map(|last| &last.role)
        {
            *least = timeline.proven().map_or(*least, |known| known.max(*least));
        }
        report
    }

    /// The connection over which it was asked had ended by itself.
    pub(super) fn reconnected(&mut self) {
        self.may_have_restarted = true;
    }

    /// It is another incarnation than the one of the last report, or may be: where it stood then says nothing.
    fn has_restarted(&self, report: &ProbeReport) -> bool {
        let is_same = self.report().is_some_and(|last| last.postmaster_start == report.postmaster_start);
        self.may_have_restarted || !is_same
    }

    /// A probe failed, where probes are so far apart, and evidence counts for so long.
    pub(super) fn failed(&mut self, begun: Instant, failure: ProbeFailure, interval: Duration, lease: Duration) {
        self.last_begun = Some(begun);
        let is_heard = self.alive.is_some_and(|alive| begun < alive + lease);
        if failure == ProbeFailure::TooManyConnections && self.is_answering() && is_heard {
            // Only a living node can say so. What it was before the crowd came stays true, if it has been heard all the time; after
            // a standstill of ours it may be another.
            self.alive = Some(begun);
            if self.health != Health::Good {
                self.failure = Some(failure);
            }
            return;
        }
        self.good_probes = 0;
        self.may_have_restarted = true;
        self.starting_since = match failure {
            ProbeFailure::Starting => self.starting_since.or(Some(begun)),
            _ => None,
        };
        self.health = match failure {
            // One error may be this probe's alone: it was cancelled, or in the way of recovery.
            ProbeFailure::Timeout | ProbeFailure::Lost | ProbeFailure::NotAsked(_) | ProbeFailure::Protocol(_) => {
                self.missed(begun, &failure, interval)
            }
            // Of a replica it says as little, and who reads there goes on.
            ProbeFailure::TooManyConnections if self.is_answering() => match self.last_claim() {
                Some(_) => self.missed(begun, &failure, interval),
                None => Health::Suspect,
            },
            ProbeFailure::Starting => Health::Starting,
            ProbeFailure::Refused
            | ProbeFailure::Unresolved(_)
            | ProbeFailure::TooManyConnections
            | ProbeFailure::Authentication(_) => Health::Down,
        };
        self.failure = Some(failure);
    }

    fn missed(&mut self, begun: Instant, failure: &ProbeFailure, interval: Duration) -> Health {
        // What leads is not lost over one moment in which it was asked twice, nor over what we lack ourselves, nor over a crowd:
        // its evidence runs out. Of a replica there are others.
        let is_same_moment = || self.missed.is_some_and(|missed| begun < missed + interval.min(ONE_MOMENT));
        let tells_little = match failure {
            ProbeFailure::Timeout => false,
            ProbeFailure::NotAsked(_) | ProbeFailure::TooManyConnections => true,
            _ => self.misses > 0 && is_same_moment(),
        };
        if tells_little && self.is_answering() && self.last_claim().is_some() {
            return Health::Suspect;
        }
        self.misses = self.misses.saturating_add(1);
        self.missed = Some(begun);
        match self.health {
            Health::Down => Health::Down,
            _ if self.misses >= MISSES_TO_BE_DOWN => Health::Down,
            _ => Health::Suspect,
        }
    }

    fn learn_timeline(&mut self, report: &ProbeReport) {
        let seen = match &report.role {
            ReportedRole::Primary { timeline, .. } => Some(*timeline),
            ReportedRole::Replica { timeline, .. } => timeline.proven(),
        };
        let Some(timeline) = seen else { return };
        if self.passed_over.is_some_and(|over| timeline > over) {
            return;
        }
        self.passed_over = None;
        self.highest = match self.highest {
            Some((system, highest)) if system == report.system => Some((system, highest.max(timeline))),
            _ => Some((report.system, timeline)),
        };
    }

    fn learn_position(&mut self, begun: Instant, report: &ProbeReport) {
        if self.position.is_some_and(|known| known.begun > begun) {
            return;
        }
        let (lsn, timeline, flush_lsn) = match report.role {
            ReportedRole::Primary { timeline, insert_lsn, flush_lsn, .. } => {
                (Some(insert_lsn), Some(timeline), Some(flush_lsn))
            }
            // A timeline that is only a lower bound may be too low, which makes the position useless, never wrong.
            ReportedRole::Replica { replay_lsn, timeline, .. } => (replay_lsn, timeline.proven(), None),
        };
        self.flush_lsn = flush_lsn;
        self.position = lsn.map(|lsn| Sample { begun, lsn, timeline });
    }

    /// A light sample, of the role and timeline that it is known to have, which proves that it still has them; false if it is
    /// older than what is known.
    pub(super) fn sampled(&mut self, sample: Sample, flush_lsn: Option<Lsn>) -> bool {
        if self.position.is_some_and(|known| sample.begun <= known.begun) {
            return false;
        }
        // A replica's light sample has no timeline: asked over the connection of the last probe, it is on that
        // timeline or on one that grew out of it.
        let timeline = sample.timeline.or(self.position.and_then(|known| known.timeline));
        self.position = Some(Sample { timeline, ..sample });
        self.flush_lsn = flush_lsn;
        self.confirmed = Some(sample.begun);
        true
    }

    /// Its word that it is the primary, as long as it answers and its evidence is younger than `lease`.
    pub(super) fn claim(&self, now: Instant, lease: Duration) -> Option<Claim> {
        let is_fresh = self.evidence_until(lease).is_some_and(|until| now < until);
        if self.is_answering() && is_fresh { self.last_claim() } else { None }
    }

    /// Its last answer or failure is older than evidence may be: probes end sooner, unless we have not run.
    pub(super) fn is_unheard(&self, now: Instant, lease: Duration) -> bool {
        self.heard_until(lease).is_some_and(|until| until <= now)
    }

    /// When it is unheard, if it is not asked before.
    pub(super) fn heard_until(&self, lease: Duration) -> Option<Instant> {
        self.last_begun.map(|begun| begun + lease)
    }

    /// Its last word that it is the primary, however old.
    pub(super) fn last_claim(&self) -> Option<Claim> {
        let report = self.report()?;
        let ReportedRole::Primary { timeline, .. } = report.role else { return None };
        Some(Claim { node: self.id, system: report.system, timeline, postmaster_start: report.postmaster_start })
    }

    /// It lets nobody in for want of room, and leads nothing: each probe is one more login that is refused there.
    pub(super) fn is_full_replica(&self) -> bool {
        self.failure == Some(ProbeFailure::TooManyConnections) && self.last_claim().is_none()
    }

    /// When its evidence runs out.
    pub(super) fn evidence_until(&self, lease: Duration) -> Option<Instant> {
        self.alive.max(self.confirmed).map(|newest| newest + lease)
    }

    /// It answers probes, or missed only one.
    pub(super) fn is_answering(&self) -> bool {
        matches!(self.health, Health::Good | Health::Returning | Health::Suspect)
    }

    /// Its last probe answered.
    pub(super) fn has_just_answered(&self) -> bool {
        matches!(self.health, Health::Good | Health::Returning)
    }

    /// It cannot be reached, as opposed to: it lives and does not let us look.
    pub(super) fn is_unreachable(&self) -> bool {
        use ProbeFailure::{Lost, Refused, Timeout, Unresolved};
        let is_silent = matches!(self.failure, Some(Refused | Timeout | Lost | Unresolved(_)));
        self.health == Health::Down && is_silent
    }

    /// See [`NodeView::answers_nobody`](super::view::NodeView::answers_nobody).
    pub(super) fn answers_nobody(&self) -> bool {
        use ProbeFailure::{Lost, Refused, Timeout};
        let is_silent = matches!(self.failure, Some(Refused | Timeout | Lost));
        self.health == Health::Down && (is_silent || self.alive.is_some())
    }

    /// It is a replica that is near what was heard last of this primary, and of no other timeline as far as is known.
    pub(super) fn is_near(&self, last: Claim) -> bool {
        let timeline = self.position.and_then(|position| position.timeline);
        self.is_replica() && self.lag.is_near() && timeline.is_none_or(|timeline| timeline == last.timeline)
    }

    /// The beginning of the newest probe that proved it to be alive.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.alive
    }

    /// See [`NodeView::reported`](super::view::NodeView::reported).
    pub(super) fn reported(&self) -> Option<Instant> {
        self.reported
    }

    /// The last report.
    pub(super) fn report(&self) -> Option<&ProbeReport> {
        self.report.as_ref()
    }

    /// The database system of its last report.
    pub(super) fn system(&self) -> Option<SystemId> {
        self.report().map(|report| report.system)
    }

    /// Why the last probe failed.
    pub(super) fn failure(&self) -> Option<&ProbeFailure> {
        self.failure.as_ref()
    }

    /// The highest timeline it has proven of this system.
    pub(super) fn highest(&self, system: SystemId) -> Option<Timeline> {
        self.highest.filter(|(of, _)| *of == system).map(|(_, timeline)| timeline)
    }

    /// Its last report says it is in recovery.
    pub(super) fn is_replica(&self) -> bool {
        matches!(self.report(), Some(ProbeReport { role: ReportedRole::Replica { .. }, .. }))
    }

    /// Its walreceiver; None unless it is a replica.
    pub(super) fn receiver(&self) -> Option<&Receiver> {
        match &self.report()?.role {
            ReportedRole::Replica { receiver, .. } => Some(receiver),
            ReportedRole::Primary { .. } => None,
        }
    }

    /// Up to where a replica had the log at its last answer: what it may have passed on, whether it shows it or not.
    pub(super) fn received(&self) -> Option<Sample> {
        let ReportedRole::Replica { timeline, replay_lsn, receive_lsn, .. } = &self.report()?.role else { return None };
        let lsn = (*replay_lsn).max(*receive_lsn)?;
        Some(Sample { begun: self.reported?, lsn, timeline: timeline.proven() })
    }

    /// The end of the last record that a replica had replayed at its last answer.
    pub(super) fn replayed(&self) -> Option<Lsn> {
        match &self.report()?.role {
            ReportedRole::Replica { replay_lsn, .. } => *replay_lsn,
            ReportedRole::Primary { .. } => None,
        }
    }

    /// It streams from `address` by its own word.
    pub(super) fn streams_from(&self, address: &str) -> bool {
        self.sender().is_some_and(|sender| sender.eq_ignore_ascii_case(address))
    }

    /// Whom it streams from, as its own configuration names it.
    pub(super) fn sender(&self) -> Option<&str> {
        match self.receiver()? {
            Receiver::Seen { is_streaming: true, sender } => sender.as_deref(),
            _ => None,
        }
    }

    /// By its last report it is of this timeline, beyond doubt.
    pub(super) fn is_surely_of(&self, system: SystemId, timeline: Timeline) -> bool {
        let seen = match self.report().map(|report| &report.role) {
            Some(ReportedRole::Primary { timeline, .. }) => SeenTimeline::Exact(*timeline),
            Some(ReportedRole::Replica { timeline, .. }) => *timeline,
            None => SeenTimeline::Unknown,
        };
        self.system() == Some(system) && seen == SeenTimeline::Exact(timeline)
    }

    /// What it has shown of higher timelines has been given up. One that is not there to be asked may come back on it.
    pub(super) fn gives_up_above(&mut self, timeline: Timeline) {
        let Some((_, highest)) = &mut self.highest else { return };
        if *highest > timeline && self.failure.is_some() {
            self.passed_over = Some(timeline);
        }
        *highest = (*highest).min(timeline);
    }

    /// It leads by the authority's word: what it shows counts.
    pub(super) fn is_chosen(&mut self) {
        if self.passed_over.take().is_some()
            && let Some(report) = self.report.take()
        {
            self.learn_timeline(&report);
            self.report = Some(report);
        }
    }
}

/// A node that failed is trusted again after so many good probes; a higher timeline does not wait for that.
const PROBES_TO_RETURN: u8 = 2;
/// One lost packet is no failure; a second silence is.
const MISSES_TO_BE_DOWN: u8 = 2;
/// What goes wrong twice within this may have gone wrong once.
const ONE_MOMENT: Duration = Duration::from_millis(200);
