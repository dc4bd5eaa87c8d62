//! Who is primary: the one file that decides it. Claims, timelines and followers in; a verdict out.
//!
//! A claim is accepted if its node is of this database system, its timeline is not below the highest ever seen, no
//! rival claims as much, and something supports it (see [`Support`]). A server by two addresses is no rival of itself. A primary that goes on answering is left only for
//! a strictly higher timeline. Two that cannot be told apart are both refused, unless one of them holds the lock of an
//! authority and no other has more followers.
//!
//! What no rule can know without an authority: if only a former primary can be reached, and neither its promoted
//! successor nor anyone who follows that one, then the former primary looks like one whose replicas are all down.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::authority::Authority;
use super::event::{Receiver, ReportedRole, SeenTimeline, SystemId};
use super::lsn::Timeline;
use super::no_primary::{Cause, NoPrimary};
use super::node::{Claim, Health, Node};
use super::view::NodeId;

/// What is remembered to decide who is primary.
#[derive(Debug)]
pub(super) struct Roles {
    /// Fixed by the first primary that was accepted.
    system: Option<SystemId>,
    /// The highest timeline seen of that system; falls only when it is seen to have been given up.
    highest: Option<Timeline>,
    /// The primary now.
    accepted: Option<Claim>,
    /// When the evidence runs out that the primary was last accepted on.
    until: Option<Instant>,
    /// Its evidence ran out while we stood still: it is primary by name, and not believed, until all have been asked.
    waking: Option<Waking>,
    /// The primary now, or the last one.
    last: Option<Claim>,
    /// When it was accepted last.
    last_accepted: Option<Instant>,
    /// The timeline of the first primary.
    first: Option<Timeline>,
    /// What the primary was accepted for.
    support: Option<Support>,
    /// Nodes that claimed the highest timeline at the same time, until all but one have been seen to give up.
    contest: Option<Contest>,
    /// The only claimant, and since when nothing has spoken against it.
    unopposed: Option<(NodeId, Instant)>,
    /// Every node that there was at first has answered or failed.
    has_asked_all: bool,
    lease: Duration,
}

/// The primary that was accepted when we stood still, and since when we run again.
#[derive(Clone, Copy, Debug)]
struct Waking {
    held: Claim,
    since: Instant,
    /// As far as is known, only who has not been asked since keeps it from being believed.
    waits_for_silent: bool,
}

#[derive(Debug)]
struct Contest {
    system: SystemId,
    timeline: Timeline,
    since: Instant,
    rivals: Vec<NodeId>,
}

/// Why a claim that has no rival is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// There is no other node.
    OnlyNode,
    /// Its timeline is above that of the last primary: it was promoted.
    Promotion,
    /// A replica streams from it.
    Followers(u32),
    /// It holds the authority's lock.
    Lock,
    /// It was the last primary, and its postmaster has run all the time.
    Returned,
    /// Nothing has spoken against it for [`UNOPPOSED_FOR`].
    Unopposed,
}

/// What a node is for its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The accepted primary.
    Primary,
    /// It follows, or could.
    Replica,
    /// Claims to be primary on a timeline that is over.
    Stale,
    /// The accepted primary's server by another address.
    Duplicate,
    /// Claims to be primary and is not accepted.
    Unconfirmed,
    /// Of another database system.
    Foreign,
    /// Has never answered.
    Unknown,
}

impl Roles {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            system: None,
            highest: None,
            accepted: None,
            until: None,
            waking: None,
            last: None,
            last_accepted: None,
            first: None,
            support: None,
            contest: None,
            unopposed: None,
            has_asked_all: false,
            lease,
        }
    }

    /// Takes over what another watch of the same cluster has seen proven; `number` is a node's in this one. Who is primary
    /// must be found anew.
    pub(super) fn remember(&mut self, before: &Self, number: impl Fn(NodeId) -> Option<NodeId>) {
        (self.system, self.highest, self.first) = (before.system, before.highest, before.first);
        self.last_accepted = before.last_accepted;
        // Of one that is gone, its timeline still counts.
        self.last = before.last.map(|last| Claim { node: number(last.node).unwrap_or(GONE), ..last });
        // One that had been decided is no reason to leave the primary, unless that is only held.
        let undecided = before.contest.as_ref().filter(|_| before.accepted.is_none() || before.is_waking());
        self.contest = undecided.map(|contest| Contest {
            rivals: contest.rivals.iter().copied().filter_map(&number).collect(),
            ..*contest
        });
    }

    /// The accepted primary.
    pub(super) fn accepted(&self) -> Option<Claim> {
        self.accepted
    }

    /// What the primary was accepted for.
    pub(super) fn support(&self) -> Option<Support> {
        self.support
    }

    /// The highest timeline seen of this cluster.
    pub(super) fn highest(&self) -> Option<Timeline> {
        self.highest
    }

    /// The cluster's database system, once it is fixed.
    pub(super) fn system(&self) -> Option<SystemId> {
        self.system
    }

    /// Whether a replica is known to follow the primary's timeline.
    ///
    /// A lower bound that equals it is exact, for nothing is above it. A replica that tells nothing is believed as long
    /// as no promotion has been seen, for then there is only one timeline to be on.
    pub(super) fn is_followed_on(&self, seen: SeenTimeline) -> bool {
        let Some(accepted) = self.accepted else { return false };
        match seen.proven() {
            Some(timeline) => timeline == accepted.timeline,
            None => self.first == Some(accepted.timeline),
        }
    }

    /// Whether a replica may have another history than the primary's under the same number: two nodes may have begun it,
    /// each without the other. It has the primary's if it streams from it, or from one that does.
    pub(super) fn is_of_rival(&self, nodes: &[Node], replica: &Node) -> bool {
        let Some(accepted) = self.accepted else { return false };
        let is_primary = |claim: &Claim| claim.node == accepted.node || claim.is_of_same_server(&accepted);
        let others = nodes.iter().filter_map(Node::last_claim).filter(|claim| !is_primary(claim));
        let mut rivals = others.filter(|claim| claim.system == accepted.system && claim.timeline == accepted.timeline);
        let has_rival = rivals.next().is_some();
        let mut below = replica;
        for _ in nodes {
            let named = |address: &str| nodes.iter().find(|node| node.address.eq_ignore_ascii_case(address));
            let Some(sender) = below.sender().and_then(named) else { return has_rival };
            if sender.id == accepted.node || sender.last_claim().is_some_and(|claim| is_primary(&claim)) {
                return false;
            }
            match sender.report().map(|report| &report.role) {
                None => return has_rival,
                Some(ReportedRole::Primary { .. }) => return true,
                Some(ReportedRole::Replica { timeline: SeenTimeline::Exact(timeline), .. })
                    if *timeline != accepted.timeline =>
                {
                    return true;
                }
                Some(ReportedRole::Replica { .. }) => {}
            }
            below = sender;
        }
        has_rival
    }

    /// The timeline to go back to, where a higher one was begun and given up: who holds the lock claims it, and each node
    /// that has shown the higher one was seen to be back on it before the lock was asked for; or it is gone: the authority lists
    /// it no more, it has long been silent, and whoever answers is surely on that timeline.
    pub(super) fn given_up_for(&self, nodes: &[Node], authority: &Authority, now: Instant) -> Option<Timeline> {
        let (None, Some(system), Some(highest)) = (self.accepted, self.system, self.highest) else { return None };
        let holder = nodes.get(usize::from(authority.primary(now)?.0))?;
        let timeline = holder.claim(now, self.lease).filter(|claim| claim.system == system)?.timeline;
        let asked = authority.asked()?;
        let above = || nodes.iter().filter(|node| node.highest(system) > Some(timeline));
        let is_back =
            |node: &Node| node.has_just_answered() && node.heard() < Some(asked) && node.is_surely_of(system, timeline);
        let is_gone = |node: &Node| {
            let is_silent = node.heard().is_none_or(|heard| heard + GONE_FOR <= now);
            !authority.lists(node.id) && node.is_unreachable() && is_silent
        };
        // Who has shown the highest may not be watched any more.
        let is_untold = above().all(|node| node.highest(system) < Some(highest)) || above().any(is_gone);
        let agrees = |node: &Node| match node.has_just_answered() {
            true => node.is_surely_of(system, timeline),
            false => node.health != Health::Unasked,
        };
        let is_over = above().all(|node| is_back(node) || is_gone(node)) && (!is_untold || nodes.iter().all(agrees));
        (timeline < highest && is_over).then_some(timeline)
    }

    /// Goes back to it.
    pub(super) fn gives_up_above(&mut self, timeline: Timeline) {
        self.highest = Some(timeline);
    }

    /// Decides anew; the error says why there is no primary.
    pub(super) fn decide(&mut self, nodes: &[Node], authority: &Authority, now: Instant) -> Result<NodeId, NoPrimary> {
        self.forget_what_has_run_out(nodes, now);
        let verdict = self.choose(nodes, authority, now).map_err(|because| with_pause(because, authority, now));
        if let Ok((claim, support)) = verdict {
            self.system = Some(claim.system);
            self.last = Some(claim);
            self.last_accepted = Some(now);
            self.first.get_or_insert(claim.timeline);
            self.support = Some(support);
        }
        let verdict = verdict.map(|(claim, _)| claim);
        if let (Some(waking), Err(because)) = (&mut self.waking, &verdict) {
            waking.waits_for_silent = because.cause == Cause::NotAsked;
        }
        let held = verdict.as_ref().err().and_then(|because| self.held(nodes, because, now));
        self.waking = self.waking.filter(|_| held.is_some());
        let verdict = verdict.or_else(|because| held.ok_or(because));
        self.accepted = verdict.as_ref().ok().copied();
        self.renew(nodes);
        verdict.map(|claim| claim.node)
    }

    /// After a standstill of ours its answer may come before anyone has noticed that its time was over. Probes end sooner than
    /// evidence does: where none of a node's has, nobody has been asked, and the primary is not lost yet. Nor is it where we have
    /// stood still once more before all were, which shows by its being late.
    fn forget_what_has_run_out(&mut self, nodes: &[Node], now: Instant) {
        if self.until.is_none_or(|until| now < until) {
            return;
        }
        let has_stood = nodes.iter().any(|node| node.is_unheard(now, self.lease));
        let ran_out = self.accepted.take().filter(|_| has_stood);
        match &mut self.waking {
            Some(waking) if has_stood && waking.since + self.lease + LATE <= now => waking.since = now,
            Some(_) => {}
            None => self.waking = ran_out.map(|held| Waking { held, since: now, waits_for_silent: false }),
        }
    }

    /// The primary that we had before we stood still, as long as nothing speaks against it and others may still answer: it
    /// keeps its place. It gets no writes before it is accepted as one that is found anew. A rival that was not known before
    /// speaks against it, whoever is still to be asked.
    fn held(&self, nodes: &[Node], because: &NoPrimary, now: Instant) -> Option<Claim> {
        let Waking { held, since, .. } = self.waking?;
        let node = nodes.get(usize::from(held.node.0))?;
        let has_rival = self.contest.as_ref().is_some_and(|contest| contest.since >= since);
        let is_open = matches!(because.cause, Cause::NotAsked | Cause::Unclaimed | Cause::Unconfirmed) && !has_rival;
        let says_so = |claim: Claim| {
            (claim.system, claim.timeline, Some(claim.timeline)) == (held.system, held.timeline, self.highest)
        };
        let stands = node.is_answering() && node.last_claim().is_some_and(says_so);
        (is_open && stands && now < since + self.lease).then_some(held)
    }

    /// We have stood still, and not all have been asked since.
    pub(super) fn is_waking(&self) -> bool {
        self.waking.is_some()
    }

    /// We have stood still, and the primary that we had has answered anew, replicas follow it, and whoever has not answered since
    /// has had time to say that it was promoted. It gets no writes before all have been asked; but reads go on behind it.
    pub(super) fn is_followed_anew(&self, nodes: &[Node], now: Instant) -> bool {
        let Some(waking) = self.waking.filter(|waking| waking.waits_for_silent) else { return false };
        let has_answered = |node: &Node| node.has_just_answered() && !node.is_unheard(now, self.lease);
        nodes.get(usize::from(waking.held.node.0)).is_some_and(has_answered)
            && followers(nodes, waking.held.node) > 0
            && now >= self.silent_from(waking)
    }

    /// Who answers at all has done so by then.
    fn silent_from(&self, waking: Waking) -> Instant {
        waking.since + self.lease / PARTS_TO_ANSWER
    }

    /// When the passing of time alone may change the verdict, or could have done so.
    pub(super) fn deadlines(&self, nodes: &[Node]) -> [Option<Instant>; 4] {
        let evidence = match self.waking {
            Some(waking) => Some(waking.since + self.lease),
            None => self.evidence_until(nodes),
        };
        let is_sought = self.accepted.is_none() || self.is_waking();
        let unopposed = self.unopposed.filter(|_| is_sought).map(|(_, since)| since + UNOPPOSED_FOR);
        let contest = self.contest.as_ref().filter(|_| is_sought);
        let contest = contest.map(|contest| contest.since + CONTESTED_FOR);
        let silent = self.waking.map(|waking| self.silent_from(waking));
        [evidence, silent, unopposed, contest]
    }

    /// A sample may have proven the primary once more; nothing has run out before. What ran out while we stood still is
    /// renewed by no answer of its own.
    pub(super) fn renew(&mut self, nodes: &[Node]) {
        if !self.is_waking() {
            self.until = self.evidence_until(nodes);
        }
    }

    /// Until when the primary may be believed: a moment that is over, where it is only held.
    pub(super) fn believed_until(&self) -> Option<Instant> {
        self.until.filter(|_| self.accepted.is_some())
    }

    /// Until when what the primary has said of itself counts, whether it is believed or not.
    pub(super) fn evidence_until(&self, nodes: &[Node]) -> Option<Instant> {
        nodes.get(usize::from(self.accepted?.node.0))?.evidence_until(self.lease)
    }

    /// What `node` is.
    pub(super) fn standing(&self, node: &Node) -> Standing {
        let Some(system) = node.system() else { return Standing::Unknown };
        if self.system.is_some_and(|ours| ours != system) {
            return Standing::Foreign;
        }
        let Some(claim) = node.last_claim() else { return Standing::Replica };
        if self.accepted.is_some_and(|accepted| accepted.node == node.id) {
            return Standing::Primary;
        }
        match self.highest {
            Some(highest) if claim.timeline < highest => Standing::Stale,
            _ if self.accepted.is_some_and(|accepted| claim.is_of_same_server(&accepted)) => Standing::Duplicate,
            _ => Standing::Unconfirmed,
        }
    }

    /// One check after the other; the first that fails says why there is no primary.
    fn choose(&mut self, nodes: &[Node], authority: &Authority, now: Instant) -> Result<(Claim, Support), NoPrimary> {
        let system = self.system_of(nodes)?;
        self.raise_highest(nodes, system);
        if self.last.is_none() || !self.has_asked_all {
            all_asked(nodes)?;
            self.has_asked_all = true;
        }
        let claims = self.fresh_claims(nodes, system, authority.primary(now), now);
        self.note_contest(nodes, &claims, now);
        if claims.len() != 1 {
            self.unopposed = None;
        }
        if self.accepted.is_none() && !claims.is_empty() {
            all_asked_since(nodes, now, self.lease)?;
        }
        let claim = match claims.as_slice() {
            [] if authority.is_standby_cluster(now) => return Err(Cause::Standby.because(STANDBY_CLUSTER)),
            [] => return Err(self.nobody(nodes, system)),
            [claim] => *claim,
            rivals => return self.settle(nodes, rivals, authority.primary(now), now),
        };
        if let Some(kept) = self.kept(claim) {
            return Ok(kept);
        }
        let support = self.weigh(nodes, claim, authority.primary(now), now)?;
        Ok((claim, support))
    }

    /// The cluster's database system: fixed, or while no primary has been accepted, that of most nodes.
    fn system_of(&self, nodes: &[Node]) -> Result<SystemId, NoPrimary> {
        if let Some(system) = self.system {
            return Ok(system);
        }
        let count = |system| nodes.iter().filter(|node| node.system() == Some(system)).count();
        let Some(best) = nodes.iter().filter_map(Node::system).max_by_key(|system| count(*system)) else {
            return Err(Cause::Unclaimed.because("no node has answered yet"));
        };
        let is_tied = nodes.iter().filter_map(Node::system).any(|other| other != best && count(other) == count(best));
        if is_tied {
            return Err(Cause::MixedSystems.because(MIXED_SYSTEMS));
        }
        Ok(best)
    }

    /// Any proof that a timeline exists counts, whoever brings it.
    fn raise_highest(&mut self, nodes: &[Node], system: SystemId) {
        let seen = nodes.iter().filter_map(|node| node.highest(system)).max();
        // Before the system is fixed, another one's timelines may have been counted.
        let kept = if self.system.is_some() { self.highest } else { None };
        self.highest = kept.max(seen);
    }

    /// Claims of the highest timeline by nodes that answer. A server that is reached by several addresses claims once: by
    /// that of the primary, of the lock's holder, or the first.
    fn fresh_claims(&self, nodes: &[Node], system: SystemId, holder: Option<NodeId>, now: Instant) -> Vec<Claim> {
        let claims = nodes.iter().filter_map(|node| node.claim(now, self.lease));
        let claims: Vec<Claim> =
            claims.filter(|claim| claim.system == system && Some(claim.timeline) == self.highest).collect();
        let accepted = self.waking.map(|waking| waking.held).or(self.accepted).map(|claim| claim.node);
        let rank = |claim: &Claim| (Some(claim.node) != accepted, Some(claim.node) != holder, claim.node);
        let comes_first =
            |claim: &Claim| claims.iter().all(|other| !other.is_of_same_server(claim) || rank(claim) <= rank(other));
        claims.iter().filter(|claim| comes_first(claim)).copied().collect()
    }

    /// The primary's address; empty while there is none.
    pub(super) fn primary_address<'n>(&self, nodes: &'n [Node]) -> &'n str {
        let primary = self.accepted.and_then(|accepted| nodes.get(usize::from(accepted.node.0)));
        primary.map_or("", |primary| &primary.address)
    }

    /// The primary stays while it answers; a postmaster that was started again on the same timeline is still it.
    fn kept(&self, claim: Claim) -> Option<(Claim, Support)> {
        let accepted = self.accepted?;
        let is_same = accepted.node == claim.node && accepted.timeline == claim.timeline;
        is_same.then_some((claim, self.support?))
    }

    /// Remembers rivals until each but one was seen to have given up: that one of them is silent proves nothing.
    fn note_contest(&mut self, nodes: &[Node], claims: &[Claim], now: Instant) {
        if self.contest.as_ref().is_some_and(|contest| Some(contest.timeline) != self.highest) {
            self.contest = None;
        }
        if let Some(contest) = &mut self.contest {
            let (system, timeline) = (contest.system, contest.timeline);
            let mut servers: Vec<Claim> = Vec::new();
            // A server that was started again was seen by one of its addresses first: it is one rival, not two.
            contest.rivals.retain(|id| {
                let claim = nodes.get(usize::from(id.0)).and_then(Node::last_claim);
                let claim = claim.filter(|claim| claim.system == system && claim.timeline == timeline);
                let is_new = |claim: &Claim| !servers.iter().any(|server| server.is_of_same_server(claim));
                let claim = claim.filter(is_new);
                servers.extend(claim);
                claim.is_some()
            });
        }
        if self.contest.as_ref().is_some_and(|contest| contest.rivals.len() < 2) {
            self.contest = None;
        }
        let ([first, _, ..], None) = (claims, &self.contest) else { return };
        let rivals = claims.iter().map(|claim| claim.node).collect();
        self.contest = Some(Contest { system: first.system, timeline: first.timeline, since: now, rivals });
    }

    /// Two or more claim the same timeline: the lock decides, or followers do, or nobody.
    fn settle(
        &self,
        nodes: &[Node],
        rivals: &[Claim],
        holder: Option<NodeId>,
        now: Instant,
    ) -> Result<(Claim, Support), NoPrimary> {
        if let Some(claim) = holder.and_then(|holder| unchallenged(nodes, rivals, holder)) {
            return Ok(self.kept(claim).unwrap_or((claim, Support::Lock)));
        }
        let leader = rivals.iter().copied().find(|claim| {
            let own = followers(nodes, claim.node);
            let others = rivals.iter().filter(|rival| rival.node != claim.node);
            own > 0 && others.map(|rival| followers(nodes, rival.node)).all(|theirs| theirs < own)
        });
        let Some(leader) = leader else { return Err(ambiguous(nodes, rivals)) };
        // Another than the primary we had must lead for a while: a follower that reconnects is missing for a moment.
        let has_lasted = self.contest.as_ref().is_some_and(|contest| now >= contest.since + CONTESTED_FOR);
        match self.kept(leader) {
            Some(kept) => Ok(kept),
            None if has_lasted && self.accepted.is_none() && is_good(nodes, leader.node) => {
                Ok((leader, Support::Followers(followers(nodes, leader.node))))
            }
            None => Err(ambiguous(nodes, rivals)),
        }
    }

    /// What supports the only claim.
    fn weigh(
        &mut self,
        nodes: &[Node],
        claim: Claim,
        holder: Option<NodeId>,
        now: Instant,
    ) -> Result<Support, NoPrimary> {
        let node = nodes.get(usize::from(claim.node.0)).ok_or_else(|| Cause::Unconfirmed.because("unknown node"))?;
        let opposed = self.opposition(nodes, node).or_else(|| held_elsewhere(nodes, node, holder));
        let since = match (self.unopposed, &opposed) {
            (_, Some(_)) => None,
            (Some((id, since)), None) if id == node.id => Some(since),
            (_, None) => Some(now),
        };
        self.unopposed = since.map(|since| (node.id, since));

        if !node.has_just_answered() {
            return Err(unconfirmed(node, "claims to be primary and missed its last probe"));
        }
        let is_promotion = self.last.is_some_and(|last| claim.timeline > last.timeline);
        if is_promotion {
            return Ok(Support::Promotion);
        }
        if node.health != Health::Good {
            return Err(unconfirmed(node, "answers again as primary; one more probe confirms it"));
        }
        if nodes.len() == 1 {
            return Ok(Support::OnlyNode);
        }
        let count = followers(nodes, node.id);
        if count > 0 {
            return Ok(Support::Followers(count));
        }
        if holder == Some(node.id) {
            return Ok(Support::Lock);
        }
        if let Some(contest) = &self.contest {
            return Err(contested(nodes, contest, node));
        }
        if holder.is_none_or(|holder| holder == node.id) && self.has_returned(nodes, claim) {
            return Ok(Support::Returned);
        }
        match (opposed, since) {
            (Some(words), _) => {
                Err(unconfirmed(node, &format!("claims to be primary, no replica streams from it, {words}")))
            }
            (None, Some(since)) if now >= since + UNOPPOSED_FOR => Ok(Support::Unopposed),
            _ => Err(unconfirmed(node, "claims to be primary and no replica streams from it; waiting for one")),
        }
    }

    /// What speaks against the only claimant: a node that may hide another primary, or follows one that is hidden from us. One
    /// that has been starting since before the last primary was lost cannot have been promoted: where that one comes back, it
    /// is not waited for, for it may recover for hours, or for ever.
    fn opposition(&self, nodes: &[Node], claimant: &Node) -> Option<String> {
        let last = claimant.last_claim().zip(self.last);
        let is_last = last.is_some_and(|(claim, last)| claim.node == last.node && claim.timeline == last.timeline);
        let was_lost = self.last_accepted.filter(|_| is_last);
        let has_waited = |node: &Node| node.starting_since().is_some_and(|since| Some(since) <= was_lost);
        let mut others = nodes.iter().filter(|node| node.id != claimant.id && !has_waited(node));
        others.find_map(|node| speaks_against(nodes, node, claimant))
    }

    /// The last primary, its postmaster never stopped, nobody else has been seen to claim its timeline, and nobody follows
    /// somebody else, who may have been promoted.
    fn has_returned(&self, nodes: &[Node], claim: Claim) -> bool {
        let others = nodes.iter().filter(|node| node.id != claim.node).filter_map(Node::last_claim);
        let mut others = others.filter(|other| !other.is_of_same_server(&claim));
        let is_lower = |other: Claim| other.system != claim.system || other.timeline < claim.timeline;
        let claimant = nodes.get(usize::from(claim.node.0));
        let is_left = |claimant: &Node| nodes.iter().any(|node| follows_another(nodes, node, claimant));
        self.last == Some(claim) && others.all(is_lower) && !claimant.is_some_and(is_left)
    }

    /// Why nobody claims the highest timeline.
    fn nobody(&self, nodes: &[Node], system: SystemId) -> NoPrimary {
        let mut words = String::from("no node that answers is a primary");
        if let Some(highest) = self.highest {
            let _ = write!(words, " on timeline {}", highest.0);
        }
        for node in nodes {
            let _ = match (node.failure(), node.last_claim()) {
                (Some(failure), _) => write!(words, "; {} {failure}", node.address),
                (None, Some(claim)) if claim.system == system => {
                    write!(words, "; {} claims timeline {}, which is over", node.address, claim.timeline.0)
                }
                _ => Ok(()),
            };
        }
        Cause::Unclaimed.because(words)
    }

    /// What must always be true.
    pub(super) fn check_invariants(&self) {
        let Some(accepted) = self.accepted else { return };
        assert_eq!(Some(accepted.system), self.system, "a primary of another database system");
        assert_eq!(Some(accepted.timeline), self.highest, "a primary below the highest timeline");
        assert_eq!(self.last, self.accepted, "the last primary is not the present one");
    }
}

/// Until every node has answered or failed once, a former primary that answers first would win.
fn all_asked(nodes: &[Node]) -> Result<(), NoPrimary> {
    match nodes.iter().find(|node| node.health == Health::Unasked) {
        Some(node) => Err(Cause::NotAsked.because(format!("{} has not been asked yet", node.address))),
        None => Ok(()),
    }
}

/// After a standstill of ours, what was heard before it speaks neither for nor against anyone.
fn all_asked_since(nodes: &[Node], now: Instant, lease: Duration) -> Result<(), NoPrimary> {
    match nodes.iter().find(|node| node.is_unheard(now, lease)) {
        Some(node) => {
            Err(Cause::NotAsked.because(format!("{} has not been asked since Trunkline stood still", node.address)))
        }
        None => Ok(()),
    }
}

fn is_good(nodes: &[Node], id: NodeId) -> bool {
    nodes.get(usize::from(id.0)).is_some_and(|node| node.health == Health::Good)
}

/// Replicas that stream from a node: by its own count or by their word, whichever is more.
fn followers(nodes: &[Node], id: NodeId) -> u32 {
    let Some(node) = nodes.get(usize::from(id.0)) else { return 0 };
    let by_replicas =
        nodes.iter().filter(|other| other.has_just_answered() && other.streams_from(&node.address)).count();
    let own = match node.report().map(|report| &report.role) {
        Some(ReportedRole::Primary { streaming_standbys, .. }) => *streaming_standbys,
        _ => 0,
    };
    own.max(u32::try_from(by_replicas).unwrap_or(u32::MAX))
}

fn speaks_against(nodes: &[Node], node: &Node, claimant: &Node) -> Option<String> {
    if node.is_unreachable() {
        return None;
    }
    if !node.has_just_answered() {
        let words = node.failure().map_or_else(|| "has not been asked yet".to_owned(), ToString::to_string);
        return Some(format!("and {} {words}", node.address));
    }
    follows_another(nodes, node, claimant).then(|| format!("and {} follows another node", node.address))
}

/// It has just answered, and its receiver runs and is not known to be the claimant's.
fn follows_another(nodes: &[Node], node: &Node, claimant: &Node) -> bool {
    let is_asked = node.id != claimant.id && node.has_just_answered() && node.system() == claimant.system();
    if !is_asked || node.streams_from(&claimant.address) {
        return false;
    }
    match node.receiver() {
        // It claims a lower timeline, or its receiver does not run: no word for anyone else.
        None | Some(Receiver::Absent) => false,
        Some(Receiver::Seen { sender: Some(sender), .. }) => !is_live_replica(nodes, sender),
        Some(_) => true,
    }
}

/// The authority's word for another node speaks against a claimant that nothing else supports.
fn held_elsewhere(nodes: &[Node], claimant: &Node, holder: Option<NodeId>) -> Option<String> {
    let holder = holder.filter(|holder| *holder != claimant.id)?;
    Some(format!("and {} holds the lock", nodes.get(usize::from(holder.0))?.address))
}

/// The rival that holds the lock, unless another one has more followers: then the word and the nodes do not agree.
fn unchallenged(nodes: &[Node], rivals: &[Claim], holder: NodeId) -> Option<Claim> {
    let claim = *rivals.iter().find(|claim| claim.node == holder)?;
    let own = followers(nodes, holder);
    let is_good = is_good(nodes, holder);
    (is_good && rivals.iter().all(|rival| followers(nodes, rival.node) <= own)).then_some(claim)
}

/// A node in the middle of a cascade.
fn is_live_replica(nodes: &[Node], address: &str) -> bool {
    let mut named = nodes.iter().filter(|node| node.address.eq_ignore_ascii_case(address));
    named.any(|node| node.has_just_answered() && node.is_replica())
}

/// Who waits for a primary is to know where nobody will make one.
fn with_pause(because: NoPrimary, authority: &Authority, now: Instant) -> NoPrimary {
    match because.cause {
        Cause::Unclaimed | Cause::Unconfirmed | Cause::Ambiguous if authority.is_paused(now) => {
            because.cause.because(format!("{}; Patroni is paused", because.words))
        }
        _ => because,
    }
}

fn unconfirmed(node: &Node, words: &str) -> NoPrimary {
    Cause::Unconfirmed.because(format!("{} {words}", node.address))
}

fn ambiguous(nodes: &[Node], rivals: &[Claim]) -> NoPrimary {
    let mut words = String::from("ambiguous:");
    for claim in rivals {
        let address = nodes.get(usize::from(claim.node.0)).map_or("", |node| &node.address);
        let count = followers(nodes, claim.node);
        let _ = write!(words, " {address} claims timeline {} with {count} streaming;", claim.timeline.0);
    }
    words.push_str(" one must be demoted");
    Cause::Ambiguous.because(words)
}

fn contested(nodes: &[Node], contest: &Contest, node: &Node) -> NoPrimary {
    let rivals = contest.rivals.iter().filter(|id| **id != node.id);
    let names: Vec<&str> = rivals.filter_map(|id| nodes.get(usize::from(id.0))).map(|rival| &*rival.address).collect();
    let names = names.join(", ");
    Cause::Ambiguous.because(format!(
        "ambiguous: {} and {names} claimed timeline {}, and no replica streams from it",
        node.address, contest.timeline.0
    ))
}

/// How long a node that the authority does not list has been silent before what it has shown counts no more.
pub(super) const GONE_FOR: Duration = Duration::from_secs(30);
/// A node that is not watched any more: none has this number.
pub(super) const GONE: NodeId = NodeId(u16::MAX);
/// Why there is no primary where there is none by design.
const STANDBY_CLUSTER: &str = "a standby cluster: it follows another cluster and takes no writes";
/// Why there is none while nobody knows which cluster is meant.
const MIXED_SYSTEMS: &str = "nodes belong to different database systems, and no majority tells which one is meant";
/// How long a lone claimant must be unopposed: long enough for replicas that start together with it, or with us, to be
/// seen, and for a primary that is just being promoted to answer.
pub(super) const UNOPPOSED_FOR: Duration = Duration::from_secs(2);
/// Who answers after a standstill of ours does so within this part of the time for which evidence counts: a quarter of what lies
/// between two probes that are not answered. A read does not wait longer for who is silent.
const PARTS_TO_ANSWER: u32 = 8;
/// While we run, no decision that time alone asks for is so late.
const LATE: Duration = Duration::from_millis(50);
/// How long a rival must lead by followers before it is taken in place of the primary we had.
const CONTESTED_FOR: Duration = Duration::from_secs(2);
