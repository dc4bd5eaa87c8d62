//! Who is accepted as primary, and who takes reads: one story per rule.

use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline::topology::{
    Cause, Doubt, Effect, Event, Lock, Lsn, MadeAnew, NodeId, NodeState, PostmasterStart, ProbeFailure, ProbeReport,
    Receiver, ReportedRole, Role, Sample, SeenTimeline, SystemId, Timeline, Topology, TopologySettings, View, Word,
};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);
const D: NodeId = NodeId(3);

/// A cluster told by hand: every step takes ten milliseconds.
struct Story {
    topology: Topology,
    now: Instant,
    system: u64,
    /// These two addresses lead to one server.
    twins: Option<(NodeId, NodeId)>,
    /// No member of Patroni's.
    unlisted: Option<NodeId>,
    /// By Patroni's word an operator has paused it.
    is_paused: bool,
    /// Rises when nodes are started again.
    restarts: i64,
}

impl Story {
    fn of(count: usize) -> Self {
        let now = Instant::now();
        Self {
            topology: unknown((0..count).collect(), Duration::from_secs(1), now),
            now,
            system: 7,
            twins: None,
            unlisted: None,
            is_paused: false,
            restarts: 0,
        }
    }

    /// A on timeline 1, B and C stream from it.
    fn whole() -> Self {
        let mut story = Self::of(3);
        story.claims(A, 1, 2);
        story.follows(B, A, 1);
        story.follows(C, A, 1);
        story
    }

    fn passes(&mut self, millis: u64) -> &mut Self {
        self.now += Duration::from_millis(millis);
        if self.topology.deadline().is_some_and(|deadline| deadline <= self.now) {
            self.topology.tick(self.now);
        }
        let next = self.topology.deadline();
        assert!(
            next.is_none_or(|deadline| deadline >= self.now),
            "what has run out is decided, and not waited for again"
        );
        self
    }

    fn tell(&mut self, node: NodeId, result: Result<ReportedRole, ProbeFailure>) -> Vec<Effect> {
        let begun = self.now;
        self.now += Duration::from_millis(10);
        self.tell_late(node, begun, result)
    }

    /// What it was asked a while ago.
    fn tell_late(&mut self, node: NodeId, begun: Instant, result: Result<ReportedRole, ProbeFailure>) -> Vec<Effect> {
        let system = SystemId(self.system);
        let server = self.twins.filter(|(_, second)| *second == node).map_or(node, |(first, _)| first);
        let report = |role| ProbeReport {
            system,
            postmaster_start: PostmasterStart(i64::from(server.0) + self.restarts),
            server_version: 150_000,
            is_leaving: false,
            role,
        };
        self.topology.handle(Event::Probe { node, begun, result: result.map(report) }, self.now)
    }

    fn claims(&mut self, node: NodeId, timeline: u32, followers: u32) {
        self.tell(node, Ok(primary(timeline, 1000, followers)));
    }

    fn follows(&mut self, node: NodeId, upstream: NodeId, timeline: u32) {
        let sender = Some(address(usize::from(upstream.0)).into());
        let receiver = Receiver::Seen { is_streaming: true, sender };
        self.replicates(node, SeenTimeline::Exact(Timeline(timeline)), receiver);
    }

    fn replicates(&mut self, node: NodeId, timeline: SeenTimeline, receiver: Receiver) {
        let (replay_lsn, receive_lsn) = (Some(Lsn(1000)), None);
        let role = ReportedRole::Replica { timeline, replay_lsn, receive_lsn, receiver, is_replay_paused: false };
        self.tell(node, Ok(role));
    }

    fn samples(&mut self, node: NodeId, timeline: u32) {
        let begun = self.now;
        self.now += Duration::from_millis(10);
        let sample = Sample { begun, lsn: Lsn(1000), timeline: Some(Timeline(timeline)) };
        self.topology.handle(Event::Sample { node, sample, flush_lsn: Some(sample.lsn) }, self.now);
    }

    /// For three seconds A claims to be primary, alone, and the others are gone.
    fn only_the_first_answers(&mut self) {
        for _ in 0..30 {
            self.claims(A, 1, 0);
            self.fails(B, ProbeFailure::Refused);
            self.fails(C, ProbeFailure::Refused);
            self.passes(100);
        }
    }

    fn fails(&mut self, node: NodeId, failure: ProbeFailure) -> Vec<Effect> {
        self.tell(node, Err(failure))
    }

    /// Patroni's word: who holds the lock.
    fn lock(&mut self, lock: Lock) -> &mut Self {
        self.word(lock, &[])
    }

    fn word(&mut self, lock: Lock, without_reads: &[NodeId]) -> &mut Self {
        let begun = self.now;
        self.now += Duration::from_millis(10);
        let listed = [A, B, C, D].into_iter().filter(|node| Some(*node) != self.unlisted).collect();
        let word = Word { begun, lock, without_reads: without_reads.to_vec(), listed, is_paused: self.is_paused };
        self.topology.handle(Event::Word(word), self.now);
        self
    }

    fn view(&self) -> Arc<View> {
        self.topology.view()
    }

    fn state(&self, node: NodeId) -> NodeState {
        self.view().node(node).unwrap().state
    }

    fn reads(&self) -> Vec<NodeId> {
        self.view().readable_replicas().map(|node| node.id).collect()
    }

    /// Where reads may begin now.
    fn trusted_reads(&self) -> Vec<NodeId> {
        self.view().trusted_replicas(self.now).map(|node| node.id).collect()
    }

    /// Writes may begin now.
    fn trusted(&self) -> Option<NodeId> {
        self.view().trusted_primary(self.now)
    }

    /// A is what it was before we stood still, and gets no writes.
    #[track_caller]
    fn is_only_held(&self) {
        let view = self.view();
        assert_eq!((view.primary, self.trusted(), view.epoch), (Some(A), None, 1));
        assert!(view.primary_samples.is_empty(), "what it tells is no measure either");
    }

    #[track_caller]
    fn has_no_primary_because(&self, words: &str) {
        let view = self.view();
        assert_eq!(view.primary, None);
        let because = view.why_no_primary().unwrap();
        assert!(because.contains(words), "{because}");
    }

    fn cause(&self) -> Option<Cause> {
        self.view().no_primary_because.as_ref().map(|because| because.cause)
    }
}

/// A cluster of these nodes, none of which has been asked yet.
fn unknown(nodes: Vec<usize>, max_lag: Duration, now: Instant) -> Topology {
    let addresses: Vec<Arc<str>> = nodes.into_iter().map(|index| address(index).into()).collect();
    let (interval, timeout) = (Duration::from_millis(100), Duration::from_millis(500));
    Topology::new("story", &addresses, TopologySettings { interval, timeout, max_lag }, now)
}

/// One that has flushed all that was written.
fn primary(timeline: u32, lsn: u64, followers: u32) -> ReportedRole {
    let (timeline, lsn) = (Timeline(timeline), Lsn(lsn));
    ReportedRole::Primary { timeline, insert_lsn: lsn, flush_lsn: lsn, streaming_standbys: followers }
}

fn address(index: usize) -> String {
    format!("node{index}:5432")
}

#[test]
fn a_primary_with_followers_is_accepted_once_every_node_was_asked() {
    let mut story = Story::of(3);
    story.claims(A, 1, 2);
    story.has_no_primary_because("node1:5432 has not been asked yet");
    assert_eq!(story.cause(), Some(Cause::NotAsked));
    story.follows(B, A, 1);
    story.fails(C, ProbeFailure::Timeout);
    assert_eq!((story.view().primary, story.view().epoch), (Some(A), 1));
    assert_eq!(story.reads(), [B]);
    assert_eq!(story.cause(), None);
}

#[test]
fn a_former_primary_that_answers_first_at_the_start_does_not_win() {
    let mut story = Story::of(3);
    story.claims(A, 1, 0);
    story.claims(B, 2, 0);
    story.has_no_primary_because("has not been asked yet");
    story.follows(C, B, 2);
    assert_eq!((story.view().primary, story.state(A)), (Some(B), NodeState::StalePrimary));
}

#[test]
fn a_replica_alone_tells_that_a_timeline_is_over() {
    let mut story = Story::whole();
    story.follows(C, B, 2);
    story.has_no_primary_because("node0:5432 claims timeline 1, which is over");
    assert_eq!(story.cause(), Some(Cause::Unclaimed));
    story.claims(B, 2, 1);
    assert_eq!((story.view().primary, story.view().epoch), (Some(B), 3));
    assert_eq!(story.reads(), [C]);
}

#[test]
fn a_promotion_beside_a_living_primary_wins_at_once_and_for_good() {
    let mut story = Story::whole();
    story.claims(B, 2, 0);
    assert_eq!((story.view().primary, story.view().epoch, story.state(A)), (Some(B), 2, NodeState::StalePrimary));
    assert_eq!(story.reads(), [], "nobody follows the new primary yet");
    story.fails(B, ProbeFailure::Refused);
    story.claims(A, 1, 1);
    story.passes(5000).claims(A, 1, 1);
    story.has_no_primary_because("timeline 2; node0:5432 claims timeline 1, which is over; node1:5432 refuses");
}

#[test]
fn a_refused_primary_is_lost_at_once_and_a_silent_one_after_two_probes() {
    let mut story = Story::whole();
    story.fails(A, ProbeFailure::Timeout);
    assert_eq!((story.view().primary, story.state(A)), (Some(A), NodeState::Suspect));
    story.fails(A, ProbeFailure::Timeout);
    assert_eq!((story.view().primary, story.view().epoch), (None, 2));

    let mut story = Story::whole();
    let effects = story.fails(A, ProbeFailure::Refused);
    story.has_no_primary_because("node0:5432 refuses connections");
    assert!([A, B, C].iter().all(|node| effects.contains(&Effect::Probe(*node))), "all are asked at once");
    assert_eq!(story.topology.probe_interval(B, story.now), Duration::from_millis(50));
    assert_eq!(story.reads(), [B, C], "they have what they had");
    assert!(story.view().primary_samples.is_empty());
}

#[test]
fn one_answer_that_is_an_error_takes_nothing_from_a_node_and_a_second_does() {
    let error = || ProbeFailure::Protocol("canceling statement due to conflict with recovery (40001)".into());
    let mut story = Story::whole();
    story.fails(A, error());
    assert_eq!((story.view().primary, story.state(A)), (Some(A), NodeState::Suspect));
    story.claims(A, 1, 2);
    assert_eq!((story.view().primary, story.view().epoch), (Some(A), 1));
    story.fails(B, error());
    assert_eq!(story.state(B), NodeState::Suspect);
    story.fails(B, error());
    assert_eq!(story.state(B), NodeState::Down);
    story.fails(A, error());
    story.fails(A, error());
    assert_eq!((story.view().primary, story.state(A)), (Some(A), NodeState::Suspect), "asked twice in one moment");
    story.passes(100).fails(A, error());
    story.has_no_primary_because("node0:5432 gives an answer that is not understood");
}

#[test]
fn a_primary_that_has_no_room_for_the_monitor_stays_primary() {
    let mut story = Story::whole();
    for _ in 0..50 {
        story.fails(A, ProbeFailure::TooManyConnections);
        story.passes(100);
    }
    assert_eq!((story.view().primary, story.state(A)), (Some(A), NodeState::Up));
}

#[test]
fn evidence_runs_out_by_time_alone() {
    let mut story = Story::whole();
    let until = story.view().primary_until.unwrap();
    story.passes(1100);
    assert_eq!(story.view().primary, Some(A));
    story.passes(200);
    assert!(story.now > until);
    story.is_only_held();
    assert!(story.view().node(A).unwrap().why.contains("Trunkline stood still"));
    // All stay silent for as long again.
    story.passes(1190);
    story.is_only_held();
    story.passes(10);
    assert_eq!(story.view().primary, None);
    assert_eq!(story.view().epoch, 2);
}

#[test]
fn evidence_that_runs_out_while_everybody_is_asked_is_no_standstill() {
    let mut story = Story::whole();
    for _ in 0..12 {
        story.follows(B, A, 1);
        story.follows(C, A, 1);
        story.fails(A, ProbeFailure::NotAsked("too many open files".into()));
        story.passes(90);
    }
    assert_eq!((story.view().primary, story.view().epoch), (None, 2));
}

#[test]
fn what_we_lack_to_ask_a_primary_takes_nothing_from_it_before_its_time() {
    let mut story = Story::whole();
    for _ in 0..10 {
        story.fails(A, ProbeFailure::NotAsked("too many open files".into()));
        story.follows(B, A, 1);
        story.follows(C, A, 1);
        story.passes(70);
        assert_eq!((story.view().primary, story.state(A)), (Some(A), NodeState::Suspect));
    }
    story.passes(400);
    assert_eq!(story.view().primary, None);
    for _ in 0..2 {
        story.fails(B, ProbeFailure::NotAsked("too many open files".into()));
    }
    assert_eq!(story.state(B), NodeState::Down, "of replicas there are others");
}

#[test]
fn a_replica_that_could_not_be_asked_once_is_not_down() {
    let unanswered = || ProbeFailure::NotAsked("its name was not resolved in time".into());
    let mut story = Story::whole();
    story.fails(B, unanswered());
    assert_eq!(story.state(B), NodeState::Suspect);
    story.follows(B, A, 1);
    story.follows(B, A, 1);
    story.fails(B, unanswered());
    assert_eq!(story.state(B), NodeState::Suspect, "what was heard between counts");
    assert_eq!(story.view().epoch, 1);
}

#[test]
fn a_sample_proves_a_primary_as_a_probe_does() {
    let mut story = Story::whole();
    for _ in 0..10 {
        story.passes(500).samples(A, 1);
        assert_eq!(story.view().primary, Some(A));
    }
    let until = story.view().primary_until.unwrap();
    story.claims(A, 1, 2);
    assert_eq!(story.view().epoch, 1, "it has never been lost");
    story.passes(1300);
    assert!(story.now > until);
    story.is_only_held();
    // What has run out while we stood still is not renewed.
    let mut story = Story::whole();
    story.now += Duration::from_secs(30);
    for _ in 0..5 {
        story.samples(A, 1);
        story.is_only_held();
    }
}

#[test]
fn after_a_standstill_of_ours_a_former_primary_that_answers_first_does_not_win() {
    let mut story = Story::whole();
    story.passes(30_000).claims(A, 1, 0);
    story.is_only_held();
    story.claims(B, 2, 0);
    story.has_no_primary_because("node2:5432 has not been asked since");
    assert_eq!((story.state(A), story.view().epoch), (NodeState::StalePrimary, 2), "it has been fenced");
    story.follows(C, B, 2);
    assert_eq!((story.view().primary, story.state(A)), (Some(B), NodeState::StalePrimary));
    // Nor where a replica is the first to tell of its successor.
    let mut story = Story::whole();
    story.now += Duration::from_secs(30);
    story.samples(A, 1);
    story.is_only_held();
    story.follows(C, B, 2);
    story.has_no_primary_because("is over");
    assert_eq!(story.view().epoch, 2);
}

#[test]
fn nor_does_it_when_its_answer_comes_before_anyone_has_noticed_the_time() {
    let mut story = Story::whole();
    story.now += Duration::from_secs(30);
    let effects = story.tell(A, Ok(primary(1, 1000, 2)));
    assert!(effects.contains(&Effect::StoodStill));
    assert!([A, B, C].iter().all(|node| effects.contains(&Effect::Probe(*node))), "all are asked at once");
    assert_eq!(story.topology.probe_interval(B, story.now), Duration::from_millis(50));
    story.is_only_held();
    story.claims(B, 2, 0);
    story.has_no_primary_because("node2:5432 has not been asked since");
    assert_eq!(story.view().epoch, 2, "it has been fenced");
}

#[test]
fn a_primary_that_is_gone_after_a_standstill_of_ours_is_lost_at_once() {
    let is_lost_by = |result: Result<ReportedRole, ProbeFailure>| {
        let mut story = Story::whole();
        story.passes(30_000);
        story.is_only_held();
        story.tell(A, result);
        assert_eq!((story.view().primary, story.view().epoch), (None, 2));
    };
    is_lost_by(Err(ProbeFailure::Refused));
    is_lost_by(Err(ProbeFailure::Starting));
    is_lost_by(Ok(received(1, Some(1), (1000, 1000))));
    // One silence is none.
    let mut story = Story::whole();
    story.passes(30_000).fails(A, ProbeFailure::Timeout);
    story.is_only_held();
    story.fails(A, ProbeFailure::Timeout);
    assert_eq!((story.view().primary, story.view().epoch), (None, 2));
}

#[test]
fn after_a_standstill_of_ours_a_primary_needs_the_support_of_one_that_is_found_anew() {
    let mut story = Story::whole();
    // It was started again meanwhile, and nobody streams from it.
    story.restarts += 10;
    story.passes(30_000).claims(A, 1, 0);
    for node in [B, C] {
        story.fails(node, ProbeFailure::Timeout);
    }
    story.is_only_held();
    story.follows(B, A, 1);
    story.follows(B, A, 1);
    story.claims(A, 1, 1);
    assert_eq!((story.trusted(), story.view().epoch), (Some(A), 1));
}

#[test]
fn after_a_standstill_of_ours_a_rival_speaks_against_the_primary_whoever_is_still_to_be_asked() {
    let mut story = Story::whole();
    story.passes(30_000).claims(A, 1, 1);
    story.claims(B, 1, 0);
    story.has_no_primary_because("node2:5432 has not been asked since");
    assert_eq!(story.view().epoch, 2, "it has been fenced");
    story.follows(C, A, 1);
    story.has_no_primary_because("ambiguous");
    // One that was known before, and was no reason to leave it then, is none now.
    let mut story = Story::whole();
    story.claims(B, 1, 0);
    story.passes(30_000).claims(A, 1, 2);
    story.is_only_held();
    story.claims(B, 1, 0);
    story.is_only_held();
    story.follows(C, A, 1);
    assert_eq!((story.trusted(), story.view().epoch), (Some(A), 1));
    // But whoever watches from then on knows of it.
    let mut story = Story::whole();
    story.claims(B, 1, 0);
    story.passes(30_000);
    story.is_only_held();
    let mut story = story.watched_anew(&[0, 1, 2]);
    story.only_the_first_answers();
    story.has_no_primary_because("ambiguous");
}

#[test]
fn after_a_standstill_of_ours_a_node_without_room_is_not_taken_for_what_it_was_before() {
    let mut story = Story::whole();
    story.passes(30_000);
    for (node, failure) in [
        (A, ProbeFailure::TooManyConnections),
        (B, ProbeFailure::Refused),
        (C, ProbeFailure::Refused),
        (A, ProbeFailure::TooManyConnections),
    ] {
        story.fails(node, failure);
        story.is_only_held();
    }
    story.samples(A, 1);
    story.is_only_held();
    story.claims(A, 1, 2);
    story.claims(A, 1, 2);
    assert_eq!((story.trusted(), story.view().epoch), (Some(A), 1));
    // Nor for whose replica it was then.
    let mut story = Story::whole();
    story.restarts += 10;
    story.passes(30_000).claims(A, 1, 0);
    story.fails(B, ProbeFailure::TooManyConnections);
    story.fails(C, ProbeFailure::Refused);
    story.is_only_held();
}

#[test]
fn a_second_standstill_of_ours_before_all_were_asked_loses_no_primary_either() {
    let mut story = Story::whole();
    story.passes(30_000);
    story.is_only_held();
    story.passes(30_000).claims(A, 1, 2);
    story.is_only_held();
    story.follows(B, A, 1);
    // An answer comes before anyone has noticed.
    story.now += Duration::from_secs(30);
    story.claims(A, 1, 2);
    story.is_only_held();
    story.follows(B, A, 1);
    story.is_only_held();
    story.follows(C, A, 1);
    assert_eq!((story.trusted(), story.view().epoch), (Some(A), 1));
}

#[test]
fn after_a_standstill_of_ours_the_primary_goes_on_once_every_node_was_asked() {
    let mut story = Story::whole();
    story.fails(C, ProbeFailure::Refused);
    story.passes(30_000).claims(A, 1, 1);
    story.follows(B, A, 1);
    story.is_only_held();
    story.samples(A, 1);
    story.is_only_held();
    let why = story.view().why_no_writes(story.now);
    assert!(why.starts_with("node0:5432 is not believed") && why.contains("Trunkline stood still"), "{why}");
    let effects = story.fails(C, ProbeFailure::Refused);
    assert!(effects.contains(&Effect::BelievedAgain));
    assert_eq!((story.view().primary, story.trusted(), story.view().epoch), (Some(A), Some(A), 1));
    assert_eq!(story.reads(), [B]);
    assert!(!story.view().primary_samples.is_empty());
    // And it is lost as ever.
    story.fails(A, ProbeFailure::Refused);
    assert_eq!((story.view().primary, story.view().epoch), (None, 2));
}

#[test]
fn after_a_standstill_of_ours_no_replica_is_believed_before_every_node_was_asked() {
    let at = |lsn| primary(1, lsn, 2);
    let mut story = Story::whole();
    assert_eq!(story.trusted_reads(), [B, C]);
    story.passes(1000);
    assert_eq!(story.trusted_reads(), [B, C]);
    story.now += Duration::from_secs(30);
    assert_eq!(story.trusted_reads(), [], "before anybody has noticed");
    // It has stopped to replay: by what was heard of the primary last, it is not behind.
    story.tell(B, Ok(received(1, Some(0), (2000, 1000))));
    assert_eq!((story.reads(), story.trusted_reads()), (vec![B, C], vec![]));
    story.tell(A, Ok(at(2000)));
    assert_eq!(story.trusted_reads(), []);
    story.tell(C, Ok(received(1, Some(0), (2000, 2000))));
    assert_eq!((story.trusted(), story.trusted_reads()), (Some(A), vec![C]));
    // Whoever is gone is not waited for, nor is a primary.
    story.now += Duration::from_secs(30);
    story.fails(A, ProbeFailure::Refused);
    story.fails(B, ProbeFailure::Refused);
    assert_eq!((story.view().primary, story.trusted_reads()), (None, vec![]));
    story.tell(C, Ok(received(1, Some(0), (2000, 2000))));
    assert_eq!((story.view().primary, story.trusted_reads()), (None, vec![C]));
}

#[test]
fn after_a_standstill_of_ours_who_is_silent_keeps_reads_from_a_replica_for_a_moment_only() {
    let at = |lsn| primary(1, lsn, 2);
    let mut story = Story::whole();
    story.passes(30_000);
    story.tell(A, Ok(at(2000)));
    story.tell(B, Ok(received(1, Some(0), (2000, 2000))));
    assert_eq!(story.trusted_reads(), [], "another may have been promoted, and say so");
    story.passes(150);
    assert_eq!((story.trusted(), story.trusted_reads()), (None, vec![B]));
    let view = story.view();
    assert!(view.node(C).unwrap().is_silent && view.node(C).unwrap().reads_since.is_some());
    assert_eq!(view.primary_samples.last().map(|sample| sample.lsn), Some(Lsn(2000)));
    story.fails(C, ProbeFailure::Timeout);
    assert_eq!((story.trusted(), story.trusted_reads()), (Some(A), vec![B]));
    assert!(!story.view().node(C).unwrap().is_silent);
    for _ in 0..2 {
        story.tell(C, Ok(received(1, Some(0), (2000, 2000))));
    }
    // One that has fallen behind is measured by what the primary says now.
    story.passes(30_000);
    story.tell(B, Ok(received(1, Some(0), (3000, 2000))));
    story.passes(150);
    assert_eq!(story.trusted_reads(), [], "where the primary is nobody knows");
    story.tell(A, Ok(at(3000)));
    assert_eq!((story.reads(), story.trusted_reads()), (vec![], vec![]));
    story.tell(C, Ok(received(1, Some(0), (3000, 3000))));
    assert_eq!((story.trusted(), story.trusted_reads()), (Some(A), vec![C]));
    // And one that was promoted is heard of late, but heard of.
    let mut story = Story::whole();
    story.passes(30_000).claims(A, 1, 2);
    story.follows(B, A, 1);
    story.passes(150);
    assert_eq!(story.trusted_reads(), [B]);
    story.claims(C, 2, 0);
    assert_eq!((story.trusted(), story.trusted_reads()), (Some(C), vec![]));
}

#[test]
fn after_a_standstill_of_ours_replicas_of_a_standby_cluster_are_measured_anew() {
    let mut story = Story::of(2);
    story.tell(A, Ok(received(1, None, (1000, 1000))));
    story.tell(B, Ok(received(1, Some(0), (1000, 1000))));
    story.lock(Lock::Standby(A));
    assert_eq!(story.trusted_reads(), [A, B]);
    story.now += Duration::from_secs(30);
    assert_eq!(story.trusted_reads(), []);
    story.tell(B, Ok(received(1, Some(0), (2000, 1000))));
    assert_eq!(story.trusted_reads(), []);
    story.tell(A, Ok(received(1, None, (2000, 2000))));
    assert_eq!(story.trusted_reads(), [A], "B is 30 s behind");
}

/// Each is asked ten times a second, and has half a second to answer.
#[test]
fn while_one_node_is_slow_or_silent_the_replicas_that_answer_are_believed_all_the_time() {
    let word = |node: NodeId| match node {
        A => primary(1, 1000, 2),
        _ => received(1, Some(0), (1000, 1000)),
    };
    for (slow, others, is_silent) in [(A, [B, C], false), (A, [B, C], true), (B, [A, C], false), (B, [A, C], true)] {
        let mut story = Story::whole();
        for _ in 0..10 {
            let begun = story.now;
            for _ in 0..5 {
                for node in others {
                    story.tell(node, Ok(word(node)));
                }
                story.passes(80);
                assert!(story.trusted_reads().contains(&C), "{slow:?} {is_silent}");
            }
            story.tell_late(slow, begun, if is_silent { Err(ProbeFailure::Timeout) } else { Ok(word(slow)) });
            assert!(story.trusted_reads().contains(&C), "{slow:?} {is_silent}");
        }
        let (is_lost, is_gone) = (slow == A && is_silent, slow == B && is_silent);
        assert_eq!(story.view().primary.is_none(), is_lost);
        assert_eq!(story.trusted_reads(), if is_gone { vec![C] } else { vec![B, C] });
    }
}

#[test]
fn a_node_that_starts_for_hours_is_not_asked_in_a_hurry_for_ever() {
    let (hurried, usual) = (Duration::from_millis(50), Duration::from_millis(100));
    let mut story = Story::whole();
    story.fails(C, ProbeFailure::Starting);
    for second in 0..33 {
        story.claims(A, 1, 1);
        story.follows(B, A, 1);
        story.fails(C, ProbeFailure::Starting);
        let expected = if second < 30 { hurried } else { usual };
        assert_eq!(story.topology.probe_interval(C, story.now), expected, "{second}");
        story.passes(970);
    }
}

#[test]
fn while_there_is_no_primary_nodes_are_asked_in_a_hurry_for_a_minute_after_each_change() {
    let (hurried, usual) = (Duration::from_millis(50), Duration::from_millis(100));
    let mut story = Story::whole();
    story.fails(A, ProbeFailure::Refused);
    let waits = |story: &mut Story| {
        for _ in 0..59 {
            assert_eq!(story.topology.probe_interval(B, story.now), hurried);
            story.passes(980).fails(A, ProbeFailure::Refused);
        }
        story.passes(2000);
        assert_eq!([A, B].map(|node| story.topology.probe_interval(node, story.now)), [usual, usual]);
    };
    waits(&mut story);
    story.fails(C, ProbeFailure::Refused);
    waits(&mut story);
}

#[test]
fn a_restarted_primary_comes_back_after_two_good_probes() {
    let mut story = Story::whole();
    story.fails(A, ProbeFailure::Starting);
    assert_eq!((story.view().primary, story.state(A)), (None, NodeState::Starting));
    story.claims(A, 1, 0);
    story.has_no_primary_because("one more probe confirms it");
    assert_eq!(story.cause(), Some(Cause::Unconfirmed));
    story.claims(A, 1, 0);
    assert_eq!((story.view().primary, story.view().epoch), (Some(A), 3));
}

#[test]
fn a_lone_primary_whose_replicas_are_down_is_accepted_after_two_seconds() {
    let mut story = Story::of(3);
    story.claims(A, 1, 0);
    for node in [B, C] {
        story.fails(node, ProbeFailure::Refused);
    }
    story.has_no_primary_because("waiting for one");
    for _ in 0..2 {
        story.passes(700).claims(A, 1, 0);
        for node in [B, C] {
            story.fails(node, ProbeFailure::Refused);
        }
        story.has_no_primary_because("waiting for one");
    }
    story.passes(600).claims(A, 1, 0);
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn a_node_that_lives_and_does_not_let_us_look_speaks_against_a_lone_primary() {
    let mut story = Story::of(2);
    for _ in 0..100 {
        story.claims(A, 1, 0);
        story.fails(B, ProbeFailure::Authentication("password authentication failed".into()));
        story.passes(100);
    }
    story.has_no_primary_because("node1:5432 does not let the monitor log in");
    assert_eq!(story.cause(), Some(Cause::Unconfirmed));
}

#[test]
fn a_replica_that_follows_somebody_else_speaks_against_a_lone_primary() {
    let mut story = Story::of(3);
    for _ in 0..100 {
        story.claims(A, 1, 0);
        story.follows(B, C, 1);
        story.fails(C, ProbeFailure::Timeout);
        story.passes(100);
    }
    story.has_no_primary_because("node1:5432 follows another node");
}

#[test]
fn the_only_node_needs_no_support() {
    let mut story = Story::of(1);
    story.claims(A, 4, 0);
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn two_that_promoted_to_the_same_timeline_are_both_refused_until_one_is_demoted() {
    let mut story = Story::whole();
    story.fails(A, ProbeFailure::Refused);
    story.claims(B, 2, 0);
    assert_eq!(story.view().primary, Some(B));
    story.claims(C, 2, 0);
    story.has_no_primary_because("ambiguous: node1:5432 claims timeline 2 with 0 streaming");
    assert_eq!(story.cause(), Some(Cause::Ambiguous));
    assert_eq!((story.state(B), story.state(C)), (NodeState::UnconfirmedPrimary, NodeState::UnconfirmedPrimary));
    for _ in 0..100 {
        story.fails(A, ProbeFailure::Refused);
        story.claims(B, 2, 0);
        story.fails(C, ProbeFailure::Timeout);
        story.passes(100);
    }
    story.has_no_primary_because("ambiguous: node1:5432 and node2:5432 claimed timeline 2");
    assert_eq!(story.cause(), Some(Cause::Ambiguous));
    assert_eq!(story.topology.deadline(), None);
    story.follows(C, B, 2);
    story.follows(C, B, 2);
    story.claims(B, 2, 1);
    assert_eq!(story.view().primary, Some(B));
}

#[test]
fn a_server_by_two_addresses_is_no_rival_of_itself() {
    let mut story = Story::of(4);
    story.twins = Some((A, D));
    story.claims(D, 1, 2);
    story.claims(A, 1, 2);
    story.follows(B, A, 1);
    story.follows(C, D, 1);
    assert_eq!((story.view().primary, story.state(D)), (Some(A), NodeState::Duplicate), "it is no rival");
    let view = story.view();
    assert_eq!(
        &*view.node(D).unwrap().why,
        "is the server that is the primary as node0:5432: used by that address alone"
    );
    assert_eq!(story.reads(), [B, C]);
    // What is reached by one of them is reached by the other, until one leads elsewhere.
    for _ in 0..2 {
        story.fails(A, ProbeFailure::Timeout);
        story.claims(D, 1, 2);
    }
    assert_eq!(story.view().primary, Some(D));
    story.claims(A, 1, 2);
    assert_eq!(story.view().primary, Some(D), "the primary stays while it answers");
    story.twins = Some((B, D));
    story.fails(A, ProbeFailure::Refused);
    story.fails(A, ProbeFailure::Refused);
    story.claims(B, 2, 1);
    story.claims(D, 2, 1);
    story.follows(C, B, 2);
    assert_eq!((story.view().primary, story.reads()), (Some(B), vec![C]));
    // A restart that one of them shows first is no contest for long.
    story.restarts += 10;
    story.claims(B, 2, 0);
    story.restarts -= 10;
    story.claims(D, 2, 0);
    story.restarts += 10;
    story.claims(D, 2, 0);
    story.claims(B, 2, 0);
    story.follows(C, B, 2);
    assert_eq!(story.view().primary, Some(B));
    // A copy of it is a rival.
    story.twins = None;
    story.claims(D, 2, 1);
    story.has_no_primary_because("ambiguous");
}

#[test]
fn followers_decide_between_two_that_promoted_to_the_same_timeline() {
    let mut story = Story::whole();
    story.claims(B, 2, 0);
    story.claims(C, 2, 1);
    story.has_no_primary_because("ambiguous");
    for _ in 0..30 {
        story.passes(100).claims(A, 1, 0);
        story.claims(B, 2, 0);
        story.claims(C, 2, 1);
    }
    assert_eq!(story.view().primary, Some(C));
    story.claims(B, 2, 1);
    story.has_no_primary_because("ambiguous");
}

#[test]
fn the_lock_decides_between_two_that_promoted_to_the_same_timeline() {
    let mut story = Story::whole();
    story.claims(B, 2, 0);
    story.claims(C, 2, 0);
    story.has_no_primary_because("ambiguous");
    story.lock(Lock::Primary(C));
    assert_eq!(story.view().primary, Some(C));
    // What the nodes prove outvotes it: then nobody knows.
    story.claims(B, 2, 1);
    story.has_no_primary_because("ambiguous");
}

#[test]
fn the_lock_supports_a_lone_primary_at_once_and_speaks_against_one_that_does_not_hold_it() {
    let mut story = Story::of(3);
    story.claims(A, 1, 0);
    for node in [B, C] {
        story.fails(node, ProbeFailure::Refused);
    }
    for _ in 0..30 {
        story.lock(Lock::Primary(B)).passes(100).claims(A, 1, 0);
        for node in [B, C] {
            story.fails(node, ProbeFailure::Refused);
        }
    }
    story.has_no_primary_because("node1:5432 holds the lock");
    story.lock(Lock::Primary(A));
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn the_lock_makes_no_primary_of_a_replica_and_takes_nothing_from_a_primary_that_answers() {
    let mut story = Story::whole();
    story.lock(Lock::Primary(B)).passes(10).claims(A, 1, 2);
    assert_eq!(story.view().primary, Some(A));
    story.fails(A, ProbeFailure::Refused);
    story.lock(Lock::Primary(B));
    story.has_no_primary_because("no node that answers is a primary");
}

#[test]
fn a_word_that_is_old_supports_nobody() {
    let mut story = Story::whole();
    story.claims(B, 2, 0);
    story.lock(Lock::Primary(C)).passes(7000).claims(A, 1, 0);
    story.claims(B, 2, 0);
    story.claims(C, 2, 0);
    story.has_no_primary_because("ambiguous");
}

#[test]
fn a_standby_cluster_is_read_and_has_no_primary() {
    let mut story = Story::of(2);
    story.replicates(A, SeenTimeline::Exact(Timeline(1)), Receiver::Absent);
    story.follows(B, A, 1);
    assert_eq!(story.reads(), []);
    story.lock(Lock::Standby(A));
    story.has_no_primary_because("standby cluster");
    assert_eq!(story.cause(), Some(Cause::Standby));
    assert!(story.view().is_without_primary_by_design());
    assert_eq!(story.reads(), [A, B]);
}

/// A standby cluster's member: where it has received the log up to, and where it shows it.
fn received(timeline: u32, sender: Option<usize>, lsns: (u64, u64)) -> ReportedRole {
    let sender = sender.map(|index| address(index).into());
    ReportedRole::Replica {
        timeline: SeenTimeline::Exact(Timeline(timeline)),
        replay_lsn: Some(Lsn(lsns.1)),
        receive_lsn: Some(Lsn(lsns.0)),
        receiver: Receiver::Seen { is_streaming: true, sender },
        is_replay_paused: false,
    }
}

#[test]
fn in_a_standby_cluster_lags_are_measured_against_the_node_that_leads_it() {
    let mut story = Story::of(3);
    for step in 0..30 {
        story.tell(A, Ok(received(1, None, (1000 + step, 1000 + step))));
        story.tell(B, Ok(received(1, Some(0), (1000 + step, 1000 + step))));
        story.tell(C, Ok(received(1, Some(0), (1000 + step, 1000))));
        story.passes(50).lock(Lock::Standby(A));
        if step == 0 {
            assert_eq!(story.reads(), [A, B, C]);
        }
    }
    assert_eq!(story.reads(), [A, B], "C shows what is older than a second");
    // What the leader has received, and shows to nobody, somebody else may have shown.
    story.tell(A, Ok(received(1, None, (2000, 1030))));
    let samples = story.view().primary_samples.clone();
    assert_eq!(samples.last().unwrap().lsn, Lsn(2000));
    // It has received a part of a record, up to the end of a page: nobody shows that, however long it takes.
    for _ in 0..30 {
        story.tell(A, Ok(received(1, None, (8192, 2000))));
        story.tell(B, Ok(received(1, Some(0), (8192, 2000))));
        story.tell(C, Ok(received(1, Some(0), (8192, 1000))));
        story.passes(50).lock(Lock::Standby(A));
        assert_eq!(story.reads(), [A, B]);
    }
    // Another timeline of the other cluster begins: who has not got there yet is not read.
    story.tell(A, Ok(received(2, None, (2000, 2000))));
    story.tell(B, Ok(received(1, Some(0), (2000, 2000))));
    assert_eq!(story.reads(), [A]);
    story.tell(B, Ok(received(2, Some(0), (2000, 2000))));
    assert_eq!(story.reads(), [A, B]);
}

#[test]
fn a_standby_clusters_leader_that_loses_its_upstream_is_still_on_its_timeline() {
    let mut story = Story::of(2);
    story.tell(A, Ok(received(2, None, (1000, 1000))));
    story.tell(B, Ok(received(2, Some(0), (1000, 1000))));
    story.lock(Lock::Standby(A));
    assert_eq!(story.reads(), [A, B]);
    // Its control file is late.
    story.replicates(A, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    assert_eq!(story.reads(), [A, B]);
    assert!(story.view().primary_samples.iter().all(|sample| sample.timeline == Some(Timeline(2))));
    // One that gets the log from an archive never says more; who streams from it does.
    let mut story = Story::of(2);
    story.replicates(A, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    story.follows(B, A, 2);
    story.lock(Lock::Standby(A));
    assert_eq!(story.reads(), [A, B]);
    assert_eq!(story.view().primary_samples.last().unwrap().timeline, Some(Timeline(2)));
}

#[test]
fn a_standby_clusters_leader_that_is_full_tells_no_new_position() {
    let mut story = Story::of(2);
    story.tell(A, Ok(received(1, None, (1000, 1000))));
    story.tell(B, Ok(received(1, Some(0), (1000, 1000))));
    story.lock(Lock::Standby(A));
    let answered = story.view().primary_samples.last().unwrap().begun;
    story.passes(200);
    story.fails(A, ProbeFailure::TooManyConnections);
    story.lock(Lock::Standby(A));
    assert_eq!(story.view().primary_samples.last().unwrap().begun, answered);
}

#[test]
fn who_leads_a_standby_cluster_next_tells_no_position_below_the_last_ones() {
    let mut story = Story::of(3);
    story.tell(A, Ok(received(1, None, (900, 900))));
    story.tell(B, Ok(received(1, Some(0), (850, 850))));
    story.tell(C, Ok(received(1, Some(0), (860, 860))));
    story.lock(Lock::Standby(A));
    story.fails(A, ProbeFailure::Refused);
    story.lock(Lock::Standby(B));
    story.tell(B, Ok(received(1, None, (850, 850))));
    assert_eq!(story.view().primary_samples.last().map(|sample| sample.lsn), None, "C may not show what A did");
    story.tell(B, Ok(received(1, None, (910, 850))));
    assert_eq!(story.view().primary_samples.last().map(|sample| sample.lsn), Some(Lsn(910)));
}

#[test]
fn a_replica_below_one_that_lets_nobody_in_takes_reads() {
    let mut story = Story::of(3);
    story.claims(A, 1, 1);
    story.fails(B, ProbeFailure::TooManyConnections);
    story.follows(C, B, 1);
    assert_eq!(story.view().primary, Some(A));
    assert_eq!(story.reads(), [C]);
}

#[test]
fn a_replica_below_one_that_has_lost_its_upstream_takes_reads() {
    let mut story = Story::whole();
    story.claims(A, 2, 2);
    story.follows(B, A, 2);
    story.follows(C, B, 2);
    assert_eq!(story.reads(), [B, C]);
    story.replicates(B, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    story.follows(C, B, 2);
    assert!(story.reads().contains(&C), "{:?}", story.reads());
}

#[test]
fn a_replica_of_the_rival_that_lost_takes_no_reads_though_its_timeline_has_the_same_number() {
    let mut story = Story::whole();
    story.claims(B, 2, 0);
    story.claims(C, 2, 1);
    story.follows(A, B, 2);
    story.lock(Lock::Primary(C));
    assert_eq!(story.view().primary, Some(C));
    assert_eq!(story.reads(), []);
    // Who streams from nobody knows whom may stream from the rival.
    story.replicates(A, SeenTimeline::Exact(Timeline(2)), Receiver::Hidden);
    assert_eq!(story.reads(), []);
    story.follows(A, C, 2);
    assert_eq!(story.reads(), [A]);
    // The rival is demoted, and passes on what it gets from the primary.
    story.follows(B, C, 2);
    story.follows(A, B, 2);
    assert_eq!(story.reads(), [A, B]);
}

#[test]
fn a_replica_below_one_that_was_not_yet_seen_to_be_promoted_takes_no_reads() {
    let mut story = Story::of(4);
    story.claims(A, 1, 2);
    story.follows(B, A, 1);
    story.follows(C, A, 1);
    story.follows(D, C, 1);
    assert_eq!(story.reads(), [B, C, D]);
    story.claims(B, 2, 0);
    // C has been promoted, too; D was asked first.
    story.follows(D, C, 2);
    assert_eq!(story.reads(), []);
    story.follows(C, B, 2);
    assert_eq!(story.reads(), [C, D]);
}

#[test]
fn why_there_is_no_primary_says_where_patroni_is_paused() {
    let mut story = Story::whole();
    story.is_paused = true;
    story.lock(Lock::Nobody);
    assert_eq!(story.view().primary, Some(A));
    for _ in 0..30 {
        story.passes(100).fails(A, ProbeFailure::Refused);
        story.follows(B, A, 1);
        story.follows(C, A, 1);
        story.lock(Lock::Nobody);
    }
    story.has_no_primary_because("node0:5432 refuses connections; Patroni is paused");
    // It acts again.
    story.is_paused = false;
    story.lock(Lock::Nobody);
    assert!(!story.view().why_no_primary().unwrap().contains("paused"));
    // A word counts for a while.
    story.is_paused = true;
    story.lock(Lock::Nobody);
    story.passes(10_000).fails(A, ProbeFailure::Refused);
    assert!(!story.view().why_no_primary().unwrap().contains("paused"));
}

#[test]
fn a_promotion_that_was_given_up_ends_no_timeline_for_who_holds_the_lock() {
    let mut story = Story::whole();
    story.lock(Lock::Primary(A));
    story.claims(B, 2, 0);
    assert_eq!(story.view().primary, Some(B));
    story.follows(C, B, 2);
    // Patroni takes it back: all but one follow A again.
    story.follows(B, A, 1);
    story.claims(A, 1, 1);
    story.claims(A, 1, 1);
    story.lock(Lock::Primary(A));
    story.has_no_primary_because("which is over");
    // A node's control file may say less than it has seen.
    story.replicates(C, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    story.lock(Lock::Primary(A));
    story.has_no_primary_because("which is over");
    story.follows(C, A, 1);
    story.claims(A, 1, 2);
    // The lock was asked for before.
    story.has_no_primary_because("which is over");
    assert_eq!(story.view().gave_up, None);
    story.lock(Lock::Primary(A));
    assert_eq!(story.view().primary, Some(A));
    assert_eq!(story.reads(), [B, C]);
    assert!(story.view().gave_up.is_some());
    // Nor does a reload forget it.
    let mut story = story.watched_anew(&[0, 1, 2]);
    story.claims(A, 1, 2);
    assert!(story.view().gave_up.is_some());
}

#[test]
fn who_is_gone_holds_up_nobody_who_goes_back_to_the_timeline_before() {
    let given_up = |unlisted| {
        let mut story = Story::whole();
        story.unlisted = unlisted;
        story.lock(Lock::Primary(A));
        story.claims(B, 2, 0);
        assert_eq!(story.view().primary, Some(B));
        for _ in 0..40 {
            story.passes(1000).fails(B, ProbeFailure::Refused);
            story.claims(A, 1, 1);
            story.follows(C, A, 1);
            story.lock(Lock::Primary(A));
        }
        story
    };
    given_up(None).has_no_primary_because("which is over");
    let mut story = given_up(Some(B));
    assert_eq!(story.view().primary, Some(A));
    // It comes back on what was given up, past Patroni, and is not taken for promoted.
    for _ in 0..5 {
        story.claims(B, 2, 0);
        story.claims(A, 1, 1);
        story.lock(Lock::Primary(A));
    }
    assert_eq!((story.view().primary, story.state(B)), (Some(A), NodeState::UnconfirmedPrimary));
    story.lock(Lock::Primary(B));
    story.claims(B, 2, 1);
    assert_eq!(story.view().primary, Some(B));
    // Nor does one that the configuration names no more.
    let mut story = given_up(None).watched_anew(&[0, 2]);
    story.claims(A, 1, 1);
    story.has_no_primary_because("has not been asked");
    story.follows(B, A, 1);
    story.lock(Lock::Primary(A));
    story.claims(A, 1, 1);
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn a_primary_that_comes_back_waits_for_nobody_who_was_starting_before() {
    let comes_back = |was_starting: bool, has_reload: bool| {
        let mut story = Story::of(2);
        story.claims(A, 1, 1);
        story.follows(B, A, 1);
        let starts = |story: &mut Story| drop(story.fails(B, ProbeFailure::Starting));
        if was_starting {
            starts(&mut story);
            story.claims(A, 1, 0);
        }
        story.fails(A, ProbeFailure::Refused);
        starts(&mut story);
        let mut story = if has_reload { story.watched_anew(&[0, 1]) } else { story };
        story.restarts += 10;
        for _ in 0..30 {
            story.passes(100).claims(A, 1, 0);
            starts(&mut story);
        }
        story
    };
    for has_reload in [false, true] {
        assert_eq!(comes_back(true, has_reload).view().primary, Some(A), "{has_reload}");
        comes_back(false, has_reload).has_no_primary_because("and node1:5432");
    }
}

#[test]
fn a_former_primary_is_not_back_while_a_replica_follows_somebody_else() {
    let mut story = Story::whole();
    story.fails(B, ProbeFailure::Refused);
    story.fails(B, ProbeFailure::Refused);
    story.fails(A, ProbeFailure::Timeout);
    story.fails(A, ProbeFailure::Timeout);
    story.replicates(C, SeenTimeline::AtLeast(Timeline(1)), Receiver::Hidden);
    story.passes(10_000);
    for _ in 0..30 {
        story.fails(B, ProbeFailure::Refused);
        story.claims(A, 1, 0);
        story.replicates(C, SeenTimeline::AtLeast(Timeline(1)), Receiver::Hidden);
    }
    story.has_no_primary_because("node2:5432 follows another node");
}

#[test]
fn a_standby_cluster_whose_patroni_is_silent_stays_one_until_somebody_leads() {
    let mut story = Story::of(2);
    story.follows(A, C, 1);
    story.follows(B, A, 1);
    story.lock(Lock::Standby(A));
    assert_eq!((story.view().is_standby, story.reads()), (true, vec![A, B]));
    for _ in 0..10 {
        story.passes(1000).follows(A, C, 1);
        story.follows(B, A, 1);
    }
    assert_eq!((story.view().is_standby, story.reads()), (true, vec![A, B]));
    story.claims(A, 2, 1);
    story.claims(A, 2, 1);
    assert_eq!((story.view().is_standby, story.view().primary), (false, Some(A)));
    story.fails(A, ProbeFailure::Refused);
    assert!(!story.view().is_standby, "what was said before counts no more");
}

#[test]
fn what_moves_is_seen_to_have_moved() {
    let mut story = Story::whole();
    let now = story.now;
    story.topology.handle(Event::Moved { node: B, moves: 1 }, now);
    let view = story.view();
    let moves: Vec<u32> = view.nodes.iter().map(|node| node.moves).collect();
    assert_eq!(moves, [0, 1, 0]);
}

/// A transaction that is open has written, and nothing is committed: what is flushed ends where it did, or within a record at
/// the end of a page.
#[test]
fn what_the_primary_has_not_flushed_takes_no_replica_off() {
    for (flushed, shown) in [(1000, 1000), (16_384, 15_000)] {
        let mut story = Story::whole();
        for _ in 0..30 {
            let (timeline, insert_lsn, flush_lsn) = (Timeline(1), Lsn(20_000), Lsn(flushed));
            story.tell(A, Ok(ReportedRole::Primary { timeline, insert_lsn, flush_lsn, streaming_standbys: 2 }));
            let sample = Sample { begun: story.now, lsn: insert_lsn, timeline: Some(timeline) };
            let event = Event::Sample { node: A, sample, flush_lsn: Some(flush_lsn) };
            story.topology.handle(event, story.now);
            for replica in [B, C] {
                story.tell(replica, Ok(received(1, Some(0), (flushed, shown))));
            }
            story.passes(50);
            assert_eq!(story.reads(), [B, C]);
        }
        let view = story.view();
        let replica = view.node(B).unwrap();
        assert_eq!((replica.lag, replica.lag_bytes), (Some(Duration::ZERO), Some(0)));
        let must_be_seen = view.primary_samples.last().map(|sample| sample.lsn);
        assert_eq!(must_be_seen, Some(Lsn(20_000)), "a commit may be acknowledged before it is flushed");
    }
}

#[test]
fn a_full_replica_that_may_stand_still_is_taken_off_after_a_while() {
    let mut story = Story::whole();
    for step in 0..30 {
        story.tell(A, Ok(primary(1, 1000 + step, 2)));
        story.fails(B, ProbeFailure::TooManyConnections);
        story.tell(C, Ok(received(1, Some(0), (1000 + step, 1000 + step))));
        story.passes(50);
        if step < 5 {
            assert_eq!(story.reads(), [B, C]);
        }
    }
    assert_eq!(story.reads(), [C]);
}

#[test]
fn a_node_that_is_tagged_so_takes_no_reads() {
    let mut story = Story::whole();
    story.word(Lock::Primary(A), &[C]);
    assert_eq!(story.reads(), [B]);
    assert!(story.view().node(C).unwrap().why.contains("noloadbalance"));
    story.word(Lock::Primary(A), &[]);
    assert_eq!(story.reads(), [B, C]);
}

#[test]
fn a_node_that_is_admitted_later_is_one_like_the_others() {
    let mut story = Story::of(0);
    story.lock(Lock::Nobody);
    for index in 0..2 {
        let (id, _) = story.topology.admit(&address(index).into(), story.now);
        assert_eq!(id, NodeId(u16::try_from(index).unwrap()));
    }
    story.claims(A, 1, 1);
    story.follows(B, A, 1);
    assert_eq!((story.view().primary, story.reads()), (Some(A), vec![B]));
}

#[test]
fn a_node_of_another_cluster_is_never_used() {
    let mut story = Story::whole();
    story.system = 8;
    story.claims(B, 9, 2);
    story.follows(C, A, 1);
    assert_eq!((story.state(B), story.state(C)), (NodeState::Foreign, NodeState::Foreign));
    assert_eq!((story.view().primary, story.reads()), (Some(A), vec![]));
}

#[test]
fn without_a_majority_nobody_knows_which_cluster_is_meant() {
    let mut story = Story::of(2);
    story.claims(A, 1, 1);
    story.system = 8;
    story.claims(B, 2, 1);
    story.has_no_primary_because("different database systems");
    assert_eq!(story.cause(), Some(Cause::MixedSystems));
}

#[test]
fn reads_go_to_replicas_that_are_seen_to_follow_the_primary() {
    let mut story = Story::whole();
    assert_eq!(story.reads(), [B, C]);
    story.replicates(B, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    story.claims(A, 1, 1);
    assert_eq!(story.reads(), [C]);
    story.replicates(B, SeenTimeline::AtLeast(Timeline(1)), Receiver::Hidden);
    assert_eq!(story.reads(), [B, C], "what can't be seen is not held against it");
    story.replicates(B, SeenTimeline::Unknown, Receiver::Hidden);
    assert_eq!(story.reads(), [B, C], "there has been one timeline only");

    story.claims(A, 2, 2);
    story.replicates(B, SeenTimeline::AtLeast(Timeline(1)), Receiver::Hidden);
    story.replicates(C, SeenTimeline::Unknown, Receiver::Hidden);
    assert_eq!(story.reads(), [], "they may follow the old timeline");
    story.replicates(B, SeenTimeline::AtLeast(Timeline(2)), Receiver::Hidden);
    assert_eq!(story.reads(), [B]);
}

#[test]
fn a_replica_that_failed_takes_reads_again_after_two_good_probes() {
    let mut story = Story::whole();
    story.fails(B, ProbeFailure::Timeout);
    assert_eq!((story.reads(), story.state(B)), (vec![C], NodeState::Suspect));
    story.follows(B, A, 1);
    assert_eq!(story.reads(), [C]);
    story.follows(B, A, 1);
    assert_eq!(story.reads(), [B, C]);
}

/// Its stream may have ended because the primary has: who asks it before the primary must not lose it for reads.
#[test]
fn a_replica_that_does_not_stream_is_taken_off_once_the_primary_is_heard_of() {
    let cut_off = |story: &mut Story| story.replicates(B, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    let mut story = Story::whole();
    cut_off(&mut story);
    assert_eq!(story.reads(), [B, C]);
    story.fails(A, ProbeFailure::Refused);
    assert_eq!((story.view().primary, story.reads()), (None, vec![B, C]));
    cut_off(&mut story);
    assert_eq!(story.reads(), [B, C]);
    story.claims(A, 1, 1);
    story.claims(A, 1, 1);
    assert_eq!((story.view().primary, story.reads()), (Some(A), vec![C]), "it is not the primary's doing");

    let mut story = Story::whole();
    cut_off(&mut story);
    story.claims(A, 1, 1);
    assert_eq!(story.reads(), [C]);
    cut_off(&mut story);
    assert_eq!(story.reads(), [C], "and it does not come back by itself");
    story.follows(B, A, 1);
    assert_eq!(story.reads(), [B, C]);
}

#[test]
fn a_replica_that_comes_back_far_behind_while_there_is_no_primary_takes_no_reads() {
    let replica = |lsn| {
        let (timeline, receiver) = (SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
        let (replay_lsn, receive_lsn) = (Some(Lsn(lsn)), None);
        Ok(ReportedRole::Replica { timeline, replay_lsn, receive_lsn, receiver, is_replay_paused: false })
    };
    for (lsn, reads) in [(1000, vec![C]), (9000, vec![B, C])] {
        let mut story = Story::whole();
        story.fails(B, ProbeFailure::Refused);
        for step in 1..=40_u64 {
            story.passes(500);
            let lsn = 1000 + 200 * step;
            story.tell(A, Ok(primary(1, lsn, 1))).clear();
            let receiver = Receiver::Seen { is_streaming: true, sender: Some(address(0).into()) };
            let (timeline, replay_lsn) = (SeenTimeline::Exact(Timeline(1)), Some(Lsn(lsn)));
            let role =
                ReportedRole::Replica { timeline, replay_lsn, receive_lsn: None, receiver, is_replay_paused: false };
            story.tell(C, Ok(role)).clear();
        }
        story.fails(A, ProbeFailure::Refused);
        for _ in 0..3 {
            story.passes(500);
            story.tell(B, replica(lsn)).clear();
            story.tell(C, replica(9000)).clear();
        }
        assert_eq!((story.view().primary, story.reads()), (None, reads), "{lsn}");
    }
}

#[test]
fn a_sample_of_another_timeline_is_no_sample_of_the_primary() {
    let mut story = Story::whole();
    let sample =
        |story: &Story, timeline| Sample { begun: story.now, lsn: Lsn(2000), timeline: Some(Timeline(timeline)) };
    let tell = |story: &mut Story, sample| {
        let event = Event::Sample { node: A, sample, flush_lsn: Some(sample.lsn) };
        story.topology.handle(event, story.now)
    };
    let (other, own) = (sample(&story, 2), sample(&story, 1));
    assert_eq!(tell(&mut story, other), [Effect::Probe(A)]);
    assert_eq!(tell(&mut story, own), [Effect::Publish]);
    assert_eq!(story.view().primary_sample_since(own.begun), Some(own));
}

#[test]
fn an_answer_that_comes_after_that_to_a_later_probe_tells_nothing() {
    let mut story = Story::whole();
    let begun = story.now;
    story.passes(10).fails(A, ProbeFailure::Refused);
    let before = story.view();
    let role = primary(1, 1000, 2);
    let (system, postmaster_start) = (SystemId(7), PostmasterStart(0));
    let report = ProbeReport { system, postmaster_start, server_version: 150_000, is_leaving: false, role };
    let late = Event::Probe { node: A, begun, result: Ok(report) };
    assert_eq!(story.topology.handle(late, story.now), []);
    assert!(Arc::ptr_eq(&before, &story.view()));
}

#[test]
fn a_doubt_decides_nothing_and_asks() {
    let mut story = Story::whole();
    let before = story.view();
    let doubt = |node| Event::Doubt { node, cause: Doubt::ReadOnly };
    assert_eq!(story.topology.handle(doubt(B), story.now), [Effect::Probe(B)]);
    assert_eq!(story.topology.handle(doubt(A), story.now), [A, B, C].map(Effect::Probe));
    assert!(Arc::ptr_eq(&before, &story.view()));
}

#[test]
fn a_primary_that_became_a_replica_leaves_nobody_in_its_place() {
    let mut story = Story::whole();
    story.follows(A, B, 1);
    assert_eq!((story.view().primary, story.view().node(A).unwrap().role), (None, Role::Replica));
}

impl Story {
    /// The same cluster, watched anew by these nodes' numbers: nothing has been asked yet.
    fn watched_anew(self, addresses: &[usize]) -> Self {
        let mut topology = unknown(addresses.to_vec(), Duration::from_secs(5), self.now);
        topology.remember(&self.topology, true);
        Self { topology, ..self }
    }
}

/// A is the old primary, B was promoted, and is gone.
fn after_a_failover_whose_successor_is_down() -> Story {
    let mut story = Story::of(2);
    story.claims(A, 1, 1);
    story.follows(B, A, 1);
    story.claims(B, 2, 0);
    assert_eq!((story.view().primary, story.state(A)), (Some(B), NodeState::StalePrimary));
    for _ in 0..3 {
        story.passes(100).fails(B, ProbeFailure::Refused);
    }
    story
}

#[test]
fn a_former_primary_is_not_believed_after_a_reload_either() {
    let mut story = after_a_failover_whose_successor_is_down().watched_anew(&[0, 1]);
    for _ in 0..100 {
        story.claims(A, 1, 0);
        story.fails(B, ProbeFailure::Refused);
        story.passes(100);
    }
    story.has_no_primary_because("timeline 2");
    assert_eq!(story.state(A), NodeState::StalePrimary);
    // The successor is back.
    story.claims(B, 2, 0);
    story.passes(100).claims(B, 2, 0);
    story.passes(3000).claims(B, 2, 0);
    story.claims(A, 1, 0);
    assert_eq!(story.view().primary, Some(B));
}

#[test]
fn the_same_nodes_in_another_order_are_the_same_cluster_after_a_reload() {
    let mut story = after_a_failover_whose_successor_is_down().watched_anew(&[2, 0]);
    for _ in 0..100 {
        story.fails(A, ProbeFailure::Refused);
        story.claims(B, 1, 0); // what was A
        story.passes(100);
    }
    story.has_no_primary_because("timeline 2");
}

#[test]
fn a_reload_while_there_is_no_primary_takes_no_replica_off() {
    let mut story = Story::whole();
    story.fails(A, ProbeFailure::Refused);
    assert_eq!((story.view().primary, story.reads()), (None, vec![B, C]));
    let mut story = story.watched_anew(&[2, 0, 1]);
    for node in [C, A] {
        story.replicates(node, SeenTimeline::AtLeast(Timeline(1)), Receiver::Absent);
    }
    story.fails(B, ProbeFailure::Refused); // what was A
    assert_eq!((story.view().primary, story.reads()), (None, vec![A, C]));
}

#[test]
fn nodes_that_were_never_watched_are_another_cluster() {
    let mut story = after_a_failover_whose_successor_is_down().watched_anew(&[3, 4]);
    story.system = 8;
    story.claims(A, 1, 1);
    story.follows(B, A, 1);
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn the_primary_goes_on_after_a_reload_as_soon_as_every_node_was_asked() {
    let mut story = Story::whole().watched_anew(&[0, 1, 2]);
    story.claims(A, 1, 0);
    story.has_no_primary_because("has not been asked yet");
    story.fails(B, ProbeFailure::Timeout);
    story.fails(C, ProbeFailure::Timeout);
    assert_eq!(story.view().primary, Some(A), "its postmaster has run all the time");
}

/// Who has a connection there goes on.
#[test]
fn what_does_not_let_a_new_watch_in_is_not_silent_for_everybody_before_it_is() {
    let mut story = Story::whole().watched_anew(&[0, 1, 2]);
    let is_silent = |story: &Story, node: NodeId| story.view().node(node).unwrap().answers_nobody;
    story.claims(A, 1, 0);
    for failure in [
        ProbeFailure::TooManyConnections,
        ProbeFailure::Authentication("no".into()),
        ProbeFailure::Unresolved("no such name".into()),
    ] {
        story.fails(B, failure);
        assert_eq!((story.state(B), is_silent(&story, B)), (NodeState::Down, false));
    }
    for is_lost in [false, true] {
        story.fails(C, ProbeFailure::Timeout);
        assert_eq!((story.state(C) == NodeState::Down, is_silent(&story, C)), (is_lost, is_lost));
    }
    story.fails(B, ProbeFailure::Timeout);
    assert!(is_silent(&story, B));
    // Whom it has heard, and does not any more, has ended its connection.
    story.follows(B, A, 1);
    assert!(!is_silent(&story, B));
    story.fails(B, ProbeFailure::Authentication("no".into()));
    assert!(is_silent(&story, B));
}

#[test]
fn who_claimed_the_same_timeline_is_a_rival_after_a_reload_though_it_is_silent() {
    let mut story = Story::of(2);
    story.claims(A, 1, 0);
    story.claims(B, 1, 0);
    story.has_no_primary_because("ambiguous");
    let mut story = story.watched_anew(&[0, 1]);
    for _ in 0..100 {
        story.claims(A, 1, 0);
        story.fails(B, ProbeFailure::Refused);
        story.passes(100);
    }
    story.has_no_primary_because("ambiguous");
}

#[test]
fn what_patroni_has_taken_out_of_reads_stays_out_after_a_reload() {
    let mut story = Story::whole();
    story.word(Lock::Primary(A), &[C]);
    let mut story = story.watched_anew(&[0, 1, 2]);
    story.claims(A, 1, 2);
    story.follows(B, A, 1);
    story.follows(C, A, 1);
    assert_eq!(story.reads(), [B]);
}

#[test]
fn a_replica_whose_name_is_gone_does_not_speak_against_a_lone_primary() {
    let mut story = Story::of(2);
    for _ in 0..30 {
        story.claims(A, 1, 0);
        story.fails(B, ProbeFailure::Unresolved("no such name".into()));
        story.passes(100);
    }
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn a_node_that_could_not_be_asked_from_here_is_not_known_to_be_down() {
    let mut story = Story::of(2);
    for _ in 0..30 {
        story.claims(A, 1, 0);
        story.fails(B, ProbeFailure::NotAsked("too many open files".into()));
        story.passes(100);
    }
    story.has_no_primary_because("could not be asked");
}

#[test]
fn a_contest_that_was_decided_is_no_reason_to_leave_the_primary_after_a_reload() {
    let mut story = Story::whole();
    story.claims(B, 1, 0); // a copy that forgot that it is one
    assert_eq!(story.view().primary, Some(A));
    for node in [B, C] {
        for _ in 0..3 {
            story.passes(100).fails(node, ProbeFailure::Refused);
            story.claims(A, 1, 0);
        }
    }
    assert_eq!(story.view().primary, Some(A));
    let mut story = story.watched_anew(&[0, 1, 2]);
    story.only_the_first_answers();
    assert_eq!(story.view().primary, Some(A));
}

#[test]
fn a_cluster_is_made_anew_when_all_that_live_are_of_one_other_system_and_the_former_is_long_gone() {
    let mut story = Story::whole();
    assert!(!story.topology.is_made_anew(story.now));
    story.fails(A, ProbeFailure::Refused);
    story.system = 8;
    story.claims(B, 1, 1);
    story.follows(C, B, 1);
    assert!(!story.topology.is_made_anew(story.now), "A may be back in a moment");
    story.passes(29_000).fails(A, ProbeFailure::Refused);
    assert!(!story.topology.is_made_anew(story.now));
    story.passes(1000).fails(A, ProbeFailure::Authentication("no such role".into()));
    assert!(!story.topology.is_made_anew(story.now), "A lives");
    story.fails(A, ProbeFailure::Starting);
    assert!(!story.topology.is_made_anew(story.now), "A lives");
    story.fails(A, ProbeFailure::Refused);
    story.system = 9;
    story.claims(C, 1, 1);
    assert!(!story.topology.is_made_anew(story.now), "nobody knows which");
    story.system = 8;
    story.follows(C, B, 1);
    assert!(story.view().node(B).unwrap().why.contains("RELOAD"));
    assert!(story.topology.is_made_anew(story.now));
    let mut story = story.watched_anew(&[0, 1, 2]);
    story.fails(A, ProbeFailure::Refused);
    story.claims(B, 1, 1);
    story.follows(C, B, 1);
    assert_eq!((story.view().primary, story.reads()), (Some(B), vec![C]));
    // One that answers as before is the cluster.
    let mut story = Story::whole();
    story.system = 8;
    story.claims(B, 1, 1);
    story.claims(C, 1, 1);
    story.system = 7;
    story.passes(40_000).claims(A, 1, 0);
    assert!(!story.topology.is_made_anew(story.now));
    story.follows(A, B, 1);
    story.passes(40_000).follows(A, B, 1);
    assert!(!story.topology.is_made_anew(story.now));
}

#[test]
fn a_cluster_is_made_anew_only_where_at_least_half_of_its_nodes_answer_as_the_other_system() {
    // The first of these nodes is another system, and the others are gone.
    let left_alone = |count: usize, unlisted: Option<NodeId>| {
        let mut story = Story::of(count);
        story.claims(A, 1, 1);
        let others = [B, C].into_iter().take(count - 1);
        others.clone().for_each(|node| story.follows(node, A, 1));
        others.for_each(|node| drop(story.fails(node, ProbeFailure::Refused)));
        if unlisted.is_some() {
            story.unlisted = unlisted;
            story.lock(Lock::Nobody);
        }
        story.system = 8;
        story.claims(A, 1, 0);
        story.passes(31_000).claims(A, 1, 0);
        assert!(story.view().node(A).unwrap().why.contains("at least half of the nodes"));
        story
    };
    let made_anew = |story: &Story| story.topology.made_anew(story.now);
    assert_eq!(made_anew(&left_alone(3, None)), None);
    let is_another = Some(MadeAnew { former: SystemId(7), system: SystemId(8) });
    assert_eq!(made_anew(&left_alone(2, None)), is_another);
    // What Patroni has found once and lists no more is not waited for.
    assert_eq!(made_anew(&left_alone(3, Some(B))), is_another);
}

#[test]
fn nodes_that_were_made_anew_as_another_system_are_another_cluster() {
    let mut story = after_a_failover_whose_successor_is_down();
    story.system = 8;
    story.follows(A, B, 1);
    story.claims(B, 1, 1);
    story.has_no_primary_because("");
    let mut story = story.watched_anew(&[0, 1]);
    story.follows(A, B, 1);
    story.claims(B, 1, 1);
    assert_eq!(story.view().primary, Some(B));
}
