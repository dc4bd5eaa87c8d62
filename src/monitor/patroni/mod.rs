//! Patroni as a source of topology: every member's REST API is asked about all; new members are found by the others.
//!
//! The rules by which its word counts: what most members say is what Patroni says; it supports who claims to be primary
//! (see [`crate::topology::Lock`]), takes members out of reads by their tags, and announces switchovers. A source that is
//! down changes nothing.

mod answer;
mod appointment;
mod http;
mod long_gone;
mod whereabouts;
mod without_reads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use super::shared::Shared;
use super::watcher::Watcher;
use crate::auth::NodeTls;
use crate::backend::{Endpoint, Gate, Hold, Holder};
use crate::config::{self, PatroniUrl};
use crate::net::timers;
use crate::topology::{Event, Lock, NodeId, NodeState, NodeView, Word};

use answer::{Answer, Leads, Member};
use appointment::{Appointment, Fate};
use http::Api;
use long_gone::{LastMembers, LongGone};
use whereabouts::Whereabouts;
use without_reads::WithoutReads;

/// What is known of a cluster's Patroni; shared with whoever asks it for a switchover.
#[derive(Debug)]
pub(super) struct Patroni {
    /// Every API that is known, with its login.
    apis: Mutex<Vec<PatroniUrl>>,
    /// So many of them, the first ones, are those of the configuration.
    configured: usize,
    /// Those that were listed last, beside those of the configuration: another may be another cluster's by now.
    listed: Mutex<BTreeSet<Arc<str>>>,
    /// Whom to trust where they are asked over TLS; a reload may say otherwise.
    tls: ArcSwapOption<ClientConfig>,
    /// Names of the members by their nodes.
    names: Mutex<BTreeMap<NodeId, String>>,
    without_reads: Mutex<WithoutReads>,
    gates: Vec<Arc<Gate>>,
    drain: Duration,
}

/// Why a switchover was not done.
#[derive(Debug, thiserror::Error)]
pub enum SwitchoverError {
    /// There is no Patroni that could do it.
    #[error("cluster has no Patroni: promote a node by the means that you have")]
    NoPatroni,
    /// Nobody is primary now.
    #[error("cluster has no primary now")]
    NoPrimary,
    /// Patroni does not list this node.
    #[error("Patroni does not list {0}")]
    NotAMember(String),
    /// Patroni did not want to, in these words.
    #[error("Patroni refused: {0}")]
    Refused(String),
    /// No member could be asked.
    #[error("no member of Patroni answers: {0}")]
    Unreachable(String),
    /// Waiting for Patroni was cut off.
    #[error("what Patroni has answered is not known")]
    CutOff,
}

/// The task that asks.
pub(super) struct Source {
    patroni: Arc<Patroni>,
    shared: Arc<Shared>,
    cluster: config::Cluster,
    /// TLS towards its nodes.
    tls: Arc<ArcSwap<NodeTls>>,
    /// Where the nodes of the configuration are.
    whereabouts: Whereabouts,
    /// Where the configuration lists none: the nodes that were found. None: there were too many, when last looked.
    found: BTreeMap<String, Option<NodeId>>,
    /// For those there may be room then.
    look_again: Instant,
    /// Tasks that watch nodes found by Patroni.
    watchers: JoinSet<()>,
    /// The scheduled switchover that has been prepared for.
    prepared_for: Option<Prepared>,
    /// APIs that did not answer when they were last asked, then: logged once, and not asked as often, for Patroni goes on
    /// with a question that nobody waits for any more.
    silent: BTreeMap<Arc<str>, Instant>,
    /// Nodes and APIs that were found, are listed no more and do not answer.
    gone_nodes: LongGone<NodeId>,
    last_members: LastMembers<NodeId>,
    gone_apis: LongGone<Arc<str>>,
}

/// A switchover that an operator has scheduled, and what is done for it.
struct Prepared {
    appointment: Appointment,
    gate: Arc<Gate>,
    /// Holds the gate when it is time.
    holding: AbortHandle,
}

impl Patroni {
    /// `without_reads` are nodes that were taken out of reads when they were listed last.
    pub(super) fn new(
        cluster: &config::Cluster,
        gates: Vec<Arc<Gate>>,
        drain: Duration,
        without_reads: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        Self {
            apis: Mutex::new(cluster.patroni.clone()),
            configured: cluster.patroni.len(),
            listed: Mutex::new(cluster.patroni.iter().map(|url| Arc::clone(&url.address)).collect()),
            tls: ArcSwapOption::new(cluster.patroni_tls.clone()),
            names: Mutex::default(),
            without_reads: Mutex::new(WithoutReads::new(without_reads)),
            gates,
            drain,
        }
    }

    /// Nodes that an operator has taken out of reads by their tags.
    pub(super) fn without_reads(&self) -> Vec<NodeId> {
        self.without_reads.lock().nodes()
    }

    /// Its members have been listed, and some of them are nodes of the cluster.
    pub(super) fn has_spoken(&self) -> bool {
        !self.names.lock().is_empty()
    }

    /// From now on, these are trusted.
    pub(super) fn trust(&self, tls: Option<Arc<ClientConfig>>) {
        self.tls.store(tls);
    }

    fn apis(&self) -> Vec<Api> {
        let tls = self.tls.load_full();
        self.apis.lock().iter().map(|url| Api { url: url.clone(), tls: tls.clone() }).collect()
    }

    /// The API is one of the configuration, or of a member that was listed last.
    fn is_listed(&self, api: &str) -> bool {
        self.listed.lock().contains(api)
    }

    /// One more API; it is logged in to as the first one is, unless the password would be seen on the way for the first time.
    fn learn_api(&self, address: &str, is_https: bool) {
        let mut apis = self.apis.lock();
        let configured = self.configured;
        if let Some((at, known)) = apis.iter_mut().enumerate().find(|(_, api)| *api.address == *address) {
            // It has got a certificate since, or has none any more; but a password is sent as safely as at first.
            let may_follow = at >= configured && (is_https || known.login.is_none());
            known.is_https = if may_follow { is_https } else { known.is_https };
            return;
        }
        if apis.len() >= MOST_APIS {
            return;
        }
        let as_safe = apis.first().filter(|first| is_https || !first.is_https);
        let login = as_safe.and_then(|first| first.login.clone());
        apis.push(PatroniUrl { address: address.into(), is_https, login });
    }

    /// Lets nobody new in at the primary, lets open transactions end, and has Patroni switch over. Answers Patroni's words.
    /// Dropped before Patroni is asked, it lets everybody in again; dropped later, it does so if Patroni does not switch over.
    pub(super) async fn switch_over(
        self: &Arc<Self>,
        primary: NodeId,
        candidate: Option<&str>,
        is_asked: &AtomicBool,
    ) -> Result<String, SwitchoverError> {
        let body = {
            let names = self.names.lock();
            let leader = names.get(&primary).ok_or_else(|| SwitchoverError::NotAMember("the primary".to_owned()))?;
            let body = match candidate {
                Some(candidate) => serde_json::json!({ "leader": leader, "candidate": candidate }),
                None => serde_json::json!({ "leader": leader }),
            };
            body.to_string()
        };
        let gate = Arc::clone(self.gates.get(usize::from(primary.0)).ok_or(SwitchoverError::NoPrimary)?);
        let (now, holder) = (Instant::now(), Holder::of_command());
        gate.hold(Hold { holder, until: now + self.drain + SWITCHOVER_TIME });
        let mut holding = Holding { gate, holder, is_done: false };
        let busy = holding.gate.drained(now + self.drain).await;
        if busy > 0 {
            warn!(busy, "a switchover begins though transactions are open");
        }
        is_asked.store(true, Ordering::Relaxed);
        let patroni = Arc::clone(self);
        let asked = tokio::spawn(async move {
            let done = patroni.ask_for_switchover(body).await;
            match &done {
                Ok(words) => {
                    holding.is_done();
                    info!(words = words.as_str(), "Patroni has switched over");
                }
                Err(error) => warn!(error = error.to_string(), "Patroni has not switched over"),
            }
            done
        });
        // Whoever does not wait for it any more leaves the task as it is.
        asked.await.unwrap_or(Err(SwitchoverError::CutOff))
    }

    async fn ask_for_switchover(&self, body: String) -> Result<String, SwitchoverError> {
        let mut last = String::from("none is known");
        for api in self.apis().into_iter().filter(|api| self.is_listed(&api.url.address)) {
            let deadline = tokio::time::Instant::now() + SWITCHOVER_TIME;
            match http::post(&api, "/switchover", body.clone(), deadline).await {
                Ok((status, words)) => {
                    let words = String::from_utf8_lossy(&words).into_owned();
                    return if status.is_success() { Ok(words) } else { Err(SwitchoverError::Refused(words)) };
                }
                // Another may be asked only if this one cannot have begun it.
                Err(error) if error.is_before_request() => last = format!("{} {error}", api.url.address),
                Err(error) => return Err(SwitchoverError::Unreachable(format!("{} {error}", api.url.address))),
            }
        }
        Err(SwitchoverError::Unreachable(last))
    }
}

/// A switchover under way: dropping it lets everybody in again whom no other holds back, unless it is done.
struct Holding {
    gate: Arc<Gate>,
    holder: Holder,
    /// What comes of it ends the hold.
    is_done: bool,
}

impl Holding {
    fn is_done(&mut self) {
        self.is_done = true;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if !self.is_done {
            self.gate.release(self.holder);
        }
    }
}

impl Source {
    /// `watched` are the nodes that are watched already, in the order of their numbers, where Patroni is to find them.
    pub(super) fn new(
        cluster: config::Cluster,
        tls: Arc<ArcSwap<NodeTls>>,
        patroni: Arc<Patroni>,
        shared: Arc<Shared>,
        watched: &[Arc<str>],
    ) -> Self {
        Self {
            tls,
            patroni,
            shared,
            whereabouts: Whereabouts::new(&cluster.nodes),
            cluster,
            found: (0..).map(NodeId::at).zip(watched).map(|(node, address)| (address.to_string(), node)).collect(),
            look_again: Instant::now(),
            watchers: JoinSet::new(),
            prepared_for: None,
            silent: BTreeMap::new(),
            gone_nodes: LongGone::default(),
            last_members: LastMembers::default(),
            gone_apis: LongGone::default(),
        }
    }

    /// Asks until it is dropped; the watchers it has begun end with it.
    pub(super) async fn run(mut self) {
        loop {
            let begun = Instant::now();
            let has_primary = self.shared.view.load().primary.is_some();
            let answers = self.ask_all(begun, has_primary).await;
            if let Some(answer) = answer::agreed(&answers) {
                self.take_in(answer, begun).await;
            }
            let interval = if self.shared.view.load().primary.is_some() { INTERVAL } else { HURRIED_INTERVAL };
            timers::sleep_until((begun + interval).into()).await;
        }
    }

    /// Every API at once: one that hangs costs the others nothing. Where its word is needed, who was silent is asked again soon.
    async fn ask_all(&mut self, begun: Instant, has_primary: bool) -> Vec<Answer> {
        let deadline = tokio::time::Instant::from_std(begun + ANSWER_WITHIN);
        let mut asked = JoinSet::new();
        let pause = if has_primary { SILENT_INTERVAL } else { INTERVAL };
        let is_due = |api: &Api| self.silent.get(&api.url.address).is_none_or(|last| begun >= *last + pause);
        for api in self.patroni.apis().into_iter().filter(is_due) {
            asked.spawn(async move {
                let answer = ask(&api, deadline).await;
                (api.url.address, answer)
            });
        }
        let mut answers = Vec::new();
        while let Some(joined) = asked.join_next().await {
            match joined {
                Ok((address, Ok(answer))) => {
                    self.silent.remove(&address);
                    // It has a voice again once others list it.
                    if self.patroni.is_listed(&address) {
                        answers.push(answer);
                    }
                }
                Ok((address, Err(problem))) => {
                    if !self.silent.contains_key(&address) {
                        warn!(cluster = %self.cluster.name, api = %address, problem, "a member of Patroni does not answer");
                    }
                    self.silent.insert(address, Instant::now());
                }
                Err(_) => {}
            }
        }
        answers
    }

    async fn take_in(&mut self, answer: &Answer, begun: Instant) {
        self.look_up(answer, begun).await;
        let mut listed = Vec::with_capacity(answer.members.len());
        let mut lock = Lock::Nobody;
        let mut names = BTreeMap::new();
        let looks_again = begun >= self.look_again;
        if looks_again {
            self.look_again = begun + UNKNOWN_INTERVAL;
        }
        for member in &answer.members {
            if let Some((address, is_https)) = member.api() {
                self.patroni.learn_api(address, is_https);
            }
            let Some(node) = self.node_of(member, looks_again) else { continue };
            names.insert(node, member.name.clone());
            listed.push((node, member.is_without_reads()));
            match member.leads() {
                Leads::Cluster => lock = Lock::Primary(node),
                Leads::StandbyCluster => lock = Lock::Standby(node),
                Leads::Nothing => {}
            }
        }
        self.forget_who_is_gone(answer, &names, begun);
        *self.patroni.names.lock() = names;
        self.patroni.without_reads.lock().listed(&listed);
        let without_reads = self.patroni.without_reads();
        let listed = listed.iter().map(|(node, _)| *node).collect();
        self.shared.handle(Event::Word(Word { begun, lock, without_reads, listed, is_paused: answer.pause }));
        self.prepare_for_scheduled(answer, lock, begun);
    }

    /// Where the configuration lists nodes, members are looked for among them.
    async fn look_up(&mut self, answer: &Answer, begun: Instant) {
        if self.cluster.nodes.is_empty() {
            return;
        }
        let listed =
            answer.members.iter().filter_map(|member| Some((member.name.clone(), member.address()?))).collect();
        for (member, address) in self.whereabouts.are_listed(listed, begun, ANSWER_WITHIN).await {
            self.say_unused(&member, &address, "not among the nodes");
        }
    }

    /// The node at a member's address. Where the configuration lists no nodes, one that is new is watched from now on.
    fn node_of(&mut self, member: &Member, looks_again: bool) -> Option<NodeId> {
        let address = member.address()?;
        if !self.cluster.nodes.is_empty() {
            return self.whereabouts.node_of(&address);
        }
        let known = self.found.get(&address).copied();
        if let Some(known) = known.filter(|known| known.is_some() || !looks_again) {
            return known;
        }
        let found = self.watch(&address);
        if found.is_none() && known.is_none() {
            self.say_unused(&member.name, &address, "too many addresses");
        }
        self.found.insert(address, found);
        found
    }

    fn say_unused(&self, member: &str, address: &str, why: &str) {
        warn!(cluster = %self.cluster.name, member, address, why, "Patroni lists a member that is not used");
    }

    /// Of nodes and APIs that were found: those of the configuration are asked for ever. Who is down is not listed either, so that
    /// only who is listed elsewhere is surely not to come back.
    fn forget_who_is_gone(&mut self, answer: &Answer, listed: &BTreeMap<NodeId, String>, now: Instant) {
        if self.cluster.nodes.is_empty() {
            let is_dead =
                |node: &&NodeView| matches!(node.state, NodeState::Down | NodeState::Unknown | NodeState::Foreign);
            let view = self.shared.view.load();
            let missing = view.nodes.iter().filter(is_dead).map(|node| node.id).filter(|id| !listed.contains_key(id));
            let missing: BTreeSet<NodeId> = missing.collect();
            let long_gone = self.gone_nodes.missing(missing.iter().copied(), now);
            let left = self.last_members.listed(listed);
            for node in &view.nodes {
                let is_gone = long_gone.contains(&node.id) || missing.contains(&node.id) && left.contains(&node.id);
                if is_gone && !node.is_forgotten {
                    info!(cluster = %self.cluster.name, node = %node.address, "Patroni lists a node no more, which is silent or another cluster's, and has been for long or is listed at another address: it is forgotten");
                }
                self.shared.forget(node.id, is_gone);
            }
        }
        let is_listed =
            |api: &str| answer.members.iter().any(|member| member.api().is_some_and(|(address, _)| address == api));
        let is_configured = |api: &str| self.cluster.patroni.iter().any(|url| *url.address == *api);
        let apis: Vec<Arc<str>> = self.patroni.apis.lock().iter().map(|url| Arc::clone(&url.address)).collect();
        let (listed, others): (BTreeSet<_>, BTreeSet<_>) =
            apis.into_iter().partition(|api| is_listed(api) || is_configured(api));
        *self.patroni.listed.lock() = listed;
        for api in self.gone_apis.missing(others, now) {
            info!(cluster = %self.cluster.name, api = %api, "Patroni has long listed a member no more: it is forgotten");
            self.silent.remove(&api);
            self.patroni.apis.lock().retain(|known| known.address != api);
        }
    }

    fn watch(&mut self, address: &str) -> Option<NodeId> {
        let address: Arc<str> = address.into();
        let node = self.shared.admit(&address)?;
        info!(cluster = %self.cluster.name, node = %address, "Patroni lists a node");
        let target = super::target(&self.cluster.monitor, Endpoint::new(address, Arc::clone(&self.tls)));
        let gate = self.patroni.gates.get(usize::from(node.0));
        let watcher = Watcher::new(node, target, self.cluster.monitor.timeout, Arc::clone(&self.shared), gate);
        self.watchers.spawn(watcher.run());
        Some(node)
    }

    /// Some time before the moment that an operator has scheduled, nobody new is let in at the primary; if that is called off,
    /// everybody is again.
    fn prepare_for_scheduled(&mut self, answer: &Answer, lock: Lock, begun: Instant) {
        let at = answer.scheduled_switchover.as_ref().map(|scheduled| &*scheduled.at);
        match self.prepared_for.as_ref().map(|prepared| prepared.appointment.fate(at, lock, begun)) {
            Some(Fate::CalledOff) => self.let_in_again(),
            // The next primary has ended the hold.
            Some(Fate::Done) => self.prepared_for = None,
            Some(Fate::Stands) | None => {}
        }
        let (Some(scheduled), Lock::Primary(node)) = (&answer.scheduled_switchover, lock) else { return };
        let Some(left) = scheduled.at_seconds().and_then(seconds_from_now) else { return };
        if left > (self.patroni.drain + INTERVAL).as_secs_f64() || left < 0.0 || self.is_prepared_for(&scheduled.at) {
            return;
        }
        let Some(gate) = self.patroni.gates.get(usize::from(node.0)).map(Arc::clone) else { return };
        info!(cluster = %self.cluster.name, at = %scheduled.at, "a scheduled switchover is prepared for");
        let left = Duration::from_secs_f64(left);
        let (drain, held) = (self.patroni.drain, Arc::clone(&gate));
        let holding = self.watchers.spawn(async move {
            timers::sleep(left.saturating_sub(drain)).await;
            let until = Instant::now() + drain + SWITCHOVER_TIME;
            held.hold(Hold { holder: Holder::Schedule, until });
        });
        let appointment = Appointment { at: scheduled.at.clone(), moment: Instant::now() + left, leader: node };
        self.prepared_for = Some(Prepared { appointment, gate, holding });
    }

    /// What was prepared for will not be.
    fn let_in_again(&mut self) {
        let Some(prepared) = self.prepared_for.take() else { return };
        info!(cluster = %self.cluster.name, at = %prepared.appointment.at, "a scheduled switchover was called off");
        prepared.holding.abort();
        prepared.gate.release(Holder::Schedule);
    }

    fn is_prepared_for(&self, at: &str) -> bool {
        self.prepared_for.as_ref().is_some_and(|prepared| prepared.appointment.at == at)
    }
}

async fn ask(api: &Api, deadline: tokio::time::Instant) -> Result<Answer, String> {
    let (status, body) = http::get(api, "/cluster", deadline).await.map_err(|error| error.to_string())?;
    if !status.is_success() {
        return Err(format!("answers {status}"));
    }
    Answer::read(&body).map_err(|error| format!("gives an answer that is not understood: {error}"))
}

/// `host:port` of each node that the Patroni with this REST API lists; the error says why it lists none.
pub async fn listed_by(api: &Arc<str>, deadline: tokio::time::Instant) -> Result<Vec<String>, String> {
    let url = PatroniUrl { address: Arc::clone(api), is_https: false, login: None };
    let answer = ask(&Api { url, tls: None }, deadline).await?;
    Ok(answer.members.iter().filter_map(Member::address).collect())
}

/// By the wall clock, as Patroni counts too.
fn seconds_from_now(at: f64) -> Option<f64> {
    Some(at - SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
}

/// Between two questions while there is a primary, and while there is none.
const INTERVAL: Duration = Duration::from_secs(1);
const HURRIED_INTERVAL: Duration = Duration::from_millis(200);
/// Between two questions to a member that did not answer.
const SILENT_INTERVAL: Duration = Duration::from_secs(3);
/// Between two looks whether there is room for a member.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(10);
/// Patroni answers from its own copy of the store, or waits for the store.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// A switchover takes 3 to 5 s; Patroni itself gives up later than this only when its store is slow.
const SWITCHOVER_TIME: Duration = Duration::from_secs(30);
/// A limit far above any real cluster.
const MOST_APIS: usize = 256;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A Patroni whose one member has its API at this address, and whose primary has this gate.
    fn patroni(address: Arc<str>, gate: &Arc<Gate>) -> Arc<Patroni> {
        let url = PatroniUrl { address: Arc::clone(&address), is_https: false, login: None };
        Arc::new(Patroni {
            apis: Mutex::new(vec![url]),
            configured: 1,
            listed: Mutex::new([address].into()),
            tls: ArcSwapOption::empty(),
            names: Mutex::new([(NodeId(0), "pg0".to_owned())].into()),
            without_reads: Mutex::new(WithoutReads::new([])),
            gates: vec![Arc::clone(gate)],
            drain: Duration::ZERO,
        })
    }

    #[tokio::test]
    async fn what_becomes_of_a_switchover_counts_also_where_nobody_waits_for_it_any_more() {
        for (answer, is_done) in [("503 Service Unavailable", false), ("200 OK", true)] {
            let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (gate, is_asked) = (Arc::<Gate>::default(), Arc::new(AtomicBool::new(false)));
            let is_held = || gate.held(Instant::now()).is_some();
            let patroni = patroni(api.local_addr().unwrap().to_string().into(), &gate);
            let waiting = tokio::spawn({
                let (patroni, is_asked) = (Arc::clone(&patroni), Arc::clone(&is_asked));
                async move { patroni.switch_over(NodeId(0), None, &is_asked).await }
            });
            let (mut stream, _) = api.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            assert!(is_asked.load(Ordering::Relaxed) && is_held());
            waiting.abort();
            assert!(waiting.await.unwrap_err().is_cancelled());
            assert!(is_held(), "Patroni has not answered");
            stream.write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.unwrap();
            let is_heard = async {
                while Arc::strong_count(&patroni) > 1 {
                    timers::sleep(Duration::from_millis(1)).await;
                }
            };
            timers::timeout(Duration::from_secs(10), is_heard).await.expect("Patroni has answered");
            assert_eq!(is_held(), is_done, "{answer}");
        }
    }
}
