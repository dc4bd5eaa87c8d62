//! How far a replica is behind, by our own clock and what the primary has flushed of its log; never by a node's own word.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::lsn::Lsn;
use super::view::Sample;

/// When the primary had flushed its log up to which position.
#[derive(Debug)]
pub(super) struct LagClock {
    marks: VecDeque<Mark>,
    spacing: Duration,
    flushed: Flushed,
}

/// How far the primary's log goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// The end of a record, whether it is flushed or not.
    pub(super) record_end: Lsn,
    /// Up to where it is flushed: no replica can have more of it.
    pub(super) flush_lsn: Lsn,
}

/// What is flushed of the primary's log. It may end within a record, but only where a page ends: a replica shows what comes
/// before that record, however long the rest is waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Flushed {
    flush_lsn: Option<Lsn>,
    /// The last known end of a record in it.
    record_end: Option<Lsn>,
    /// The end of a record that was not flushed when it was seen.
    unflushed: Option<Lsn>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    begun: Instant,
    lsn: Lsn,
}

impl LagClock {
    /// A clock fine enough to tell lags around `max_lag`.
    pub(super) fn new(max_lag: Duration) -> Self {
        Self { marks: VecDeque::new(), spacing: (max_lag / STEPS).max(FINEST), flushed: Flushed::default() }
    }

    /// Takes over what another one has noted.
    pub(super) fn remember(&mut self, before: &Self) {
        self.marks.clone_from(&before.marks);
        self.flushed = before.flushed;
    }

    /// Forgets the positions of a primary that is no more.
    pub(super) fn clear(&mut self) {
        self.marks.clear();
        self.flushed = Flushed::default();
    }

    /// Notes how far the log of the present primary went when it was asked then.
    pub(super) fn note(&mut self, begun: Instant, reach: Reach) {
        if self.newest().is_some_and(|newest| begun <= newest.begun) {
            return;
        }
        let Some(lsn) = self.flushed.up_to_record(reach) else { return };
        let mark = Mark { begun, lsn };
        let [.., before, last] = self.marks.make_contiguous() else {
            self.marks.push_back(mark);
            return;
        };
        // The last mark is always the newest sample; only those before it are thinned out.
        if last.begun.duration_since(before.begun) < self.spacing {
            *last = mark;
            return;
        }
        if self.marks.len() == MARKS {
            self.marks.pop_front();
        }
        self.marks.push_back(mark);
    }

    /// The newest position that a replica can have come to.
    pub(super) fn newest_position(&self) -> Option<Lsn> {
        self.newest().map(|mark| mark.lsn)
    }

    /// Up to where the primary's log was flushed last.
    pub(super) fn flush_lsn(&self) -> Option<Lsn> {
        self.flushed.flush_lsn
    }

    fn newest(&self) -> Option<Mark> {
        self.marks.back().copied()
    }

    /// The newest moment whose position `lsn` has reached.
    fn reached_by(&self, lsn: Lsn) -> Option<Instant> {
        self.marks.iter().rev().find(|mark| mark.lsn <= lsn).map(|mark| mark.begun)
    }
}

impl Flushed {
    /// The last known end of a record in what is flushed now.
    fn up_to_record(&mut self, reach: Reach) -> Option<Lsn> {
        let is_flushed = |end: &Lsn| *end <= reach.flush_lsn;
        self.flush_lsn = Some(reach.flush_lsn);
        self.record_end = if reach.flush_lsn.begins_page() {
            let known = [self.record_end, self.unflushed, Some(reach.record_end)];
            known.into_iter().flatten().filter(is_flushed).max()
        } else {
            self.flush_lsn
        };
        // One at a time; what is lost in a crash is not waited for.
        if self.unflushed.is_none_or(|unflushed| is_flushed(&unflushed) || reach.record_end < unflushed) {
            self.unflushed = Some(reach.record_end);
        }
        self.record_end
    }
}

/// How far one replica is behind, and whether that is near enough for reads.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplicaLag {
    /// The newest moment of the primary that it has shown to have reached.
    reached: Option<Instant>,
    position: Lsn,
    lag: Option<Duration>,
    gate: Gate,
}

/// Out above the limit at once; in again at half of it, twice in a row, so that a replica at the limit does not flap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Gate {
    #[default]
    Unjudged,
    Open,
    Closed {
        good: u8,
    },
}

impl ReplicaLag {
    /// Forgets what was measured against an earlier primary.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Measures anew.
    ///
    /// A replica that has the newest known position is not behind, as far as anyone knows: the truth is at most one
    /// probe interval more; where the log is flushed up to the end of a page within a record, as much as it takes until more of
    /// it is flushed. Else it is behind by the time since the newest position it has, up to when the primary was heard
    /// of last: a silent one says nothing of what it has done since.
    pub(super) fn measure(&mut self, clock: &LagClock, position: Sample) {
        let Some(newest) = clock.newest() else { return };
        let now = position.begun.min(newest.begun);
        if position.lsn < self.position {
            // Only a replica made anew goes back.
            self.reached = None;
        }
        self.position = position.lsn;
        self.reached = self.reached.max(clock.reached_by(position.lsn));
        self.lag = if position.lsn >= newest.lsn {
            Some(Duration::ZERO)
        } else {
            self.reached.map(|reached| now.saturating_duration_since(reached))
        };
    }

    /// The last measure is too far for reads.
    pub(super) fn is_over(&self, max_lag: Duration) -> bool {
        self.lag.is_none_or(|lag| lag > max_lag)
    }

    /// Judges the last measure: once for each probe, and when a light sample is over the limit.
    pub(super) fn judge(&mut self, max_lag: Duration) {
        let is_over = self.is_over(max_lag);
        let is_well_under = self.lag.is_some_and(|lag| lag <= max_lag / 2);
        self.gate = match self.gate {
            Gate::Unjudged if self.lag.is_none() => Gate::Unjudged,
            _ if is_over => Gate::Closed { good: 0 },
            Gate::Unjudged | Gate::Open => Gate::Open,
            Gate::Closed { good } if is_well_under && good + 1 >= PROBES_TO_REOPEN => Gate::Open,
            Gate::Closed { good } if is_well_under => Gate::Closed { good: good + 1 },
            Gate::Closed { .. } => Gate::Closed { good: 0 },
        };
    }

    /// Time behind; None while unknown.
    pub(super) fn lag(&self) -> Option<Duration> {
        self.lag
    }

    /// Near enough for reads.
    pub(super) fn is_near(&self) -> bool {
        self.gate == Gate::Open
    }
}

/// Marks per `max_lag`: rules ask for much smaller lags than the limit, and those must be told, too.
const STEPS: u32 = 512;
/// Marks kept: eight times `max_lag`. Beyond that, a replica's lag is counted from the last moment it has reached.
const MARKS: usize = 4096;
/// No two kept marks are nearer, however small `max_lag` is.
const FINEST: Duration = Duration::from_millis(1);
/// Good probes after which a replica that was too far behind is let in again.
const PROBES_TO_REOPEN: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64, lsn: u64) -> Sample {
        Sample { begun: start + Duration::from_millis(millis), lsn: Lsn(lsn), timeline: None }
    }

    /// All that was written is flushed.
    fn note(clock: &mut LagClock, sample: Sample) {
        clock.note(sample.begun, Reach { record_end: sample.lsn, flush_lsn: sample.lsn });
    }

    #[test]
    fn a_replica_with_the_newest_position_is_not_behind_however_old_it_is() {
        let start = Instant::now();
        let mut clock = LagClock::new(Duration::from_secs(10));
        note(&mut clock, at(start, 0, 100));
        let mut replica = ReplicaLag::default();
        replica.measure(&clock, at(start, 60_000, 100));
        assert_eq!(replica.lag(), Some(Duration::ZERO));
    }

    #[test]
    fn a_stuck_replica_falls_behind_at_the_speed_of_our_clock() {
        let start = Instant::now();
        let mut clock = LagClock::new(Duration::from_secs(1));
        let mut replica = ReplicaLag::default();
        for step in 0..10_000 {
            note(&mut clock, at(start, step * 10, step));
            replica.measure(&clock, at(start, step * 10, step.min(5)));
        }
        let lag = replica.lag().unwrap();
        assert!(lag.as_millis().abs_diff(99_990 - 50) <= 20, "{lag:?}");
    }

    #[test]
    fn a_lag_is_unknown_until_the_replica_has_passed_a_position_of_the_primary() {
        let start = Instant::now();
        let mut clock = LagClock::new(Duration::from_secs(1));
        let mut replica = ReplicaLag::default();
        replica.measure(&clock, at(start, 0, 100));
        assert_eq!(replica.lag(), None);
        note(&mut clock, at(start, 0, 200));
        replica.measure(&clock, at(start, 1, 100));
        replica.judge(Duration::from_secs(1));
        assert_eq!((replica.lag(), replica.is_near()), (None, false));
        replica.measure(&clock, at(start, 2, 200));
        replica.judge(Duration::from_secs(1));
        assert!(replica.is_near());
    }

    #[test]
    fn a_record_that_is_flushed_up_to_a_page_is_not_waited_for() {
        let mut flushed = Flushed::default();
        let mut note = |record_end, flush_lsn| {
            let reach = Reach { record_end: Lsn(record_end), flush_lsn: Lsn(flush_lsn) };
            flushed.up_to_record(reach).map(|Lsn(lsn)| lsn)
        };
        assert_eq!(note(9_000, 8_192), None, "where the last whole record ends is not known yet");
        assert_eq!(note(9_000, 9_000), Some(9_000));
        assert_eq!(note(30_000, 9_000), Some(9_000));
        assert_eq!(note(30_000, 24_576), Some(9_000));
        // While much is written and nothing is committed, pages are all that is flushed.
        assert_eq!(note(90_000, 40_960), Some(30_000));
        assert_eq!(note(150_000, 81_920), Some(30_000));
        assert_eq!(note(200_000, 98_304), Some(90_000));
        assert_eq!(note(200_000, 200_000), Some(200_000));
        // A record that ends with its page.
        assert_eq!(note(204_800, 204_800), Some(204_800));
        // A crash takes back what was not flushed: what is written in its place ends elsewhere.
        assert_eq!(note(220_000, 204_800), Some(204_800));
        assert_eq!(note(210_000, 204_800), Some(204_800));
        assert_eq!(note(222_000, 221_184), Some(210_000));
        // All nodes were put back to an earlier state.
        assert_eq!(note(150_000, 147_456), None);
    }

    #[test]
    fn what_the_primary_has_not_flushed_is_no_lag() {
        let start = Instant::now();
        let mut clock = LagClock::new(Duration::from_secs(1));
        let mut replica = ReplicaLag::default();
        let all = [(100, 100, 100), (300, 100, 100), (300, 100, 100), (20_000, 16_384, 300), (20_000, 16_384, 300)];
        for (millis, (record_end, flush_lsn, shown)) in (0..).step_by(1000).zip(all) {
            let position = at(start, millis, shown);
            clock.note(position.begun, Reach { record_end: Lsn(record_end), flush_lsn: Lsn(flush_lsn) });
            replica.measure(&clock, position);
            assert_eq!(replica.lag(), Some(Duration::ZERO), "after {millis} ms");
        }
    }

    #[test]
    fn a_replica_over_the_limit_comes_back_after_two_probes_well_under_it() {
        let max_lag = Duration::from_secs(1);
        let mut replica = ReplicaLag { lag: Some(Duration::ZERO), ..ReplicaLag::default() };
        replica.judge(max_lag);
        assert!(replica.is_near());
        for (lag_millis, is_near) in [
            (1000, true),
            (1001, false),
            (900, false),
            (500, false),
            (900, false),
            (500, false),
            (400, true),
            (900, true),
        ] {
            replica.lag = Some(Duration::from_millis(lag_millis));
            replica.judge(max_lag);
            assert_eq!(replica.is_near(), is_near, "at {lag_millis} ms");
        }
    }
}
