//! Watches one node: probes it at the pace that the topology wants, and samples its position when somebody asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::warn;

use super::line::{Line, LineError, Row};
use super::probe::{self, PROBE, PROBE_NAME, SAMPLE, SAMPLE_NAME};
use super::shared::{Shared, Signals};
use crate::backend::{ConnectClass, ConnectError, Gate, Target, connect};
use crate::complaints::{Complaints, Repeats};
use crate::net::timers;
use crate::topology::{Event, Lsn, NodeId, PostmasterStart, ProbeFailure, ProbeReport, ReportedRole, Sample, SystemId};
use crate::wire::SqlState;

/// The task that watches one node.
pub(super) struct Watcher {
    id: NodeId,
    target: Target,
    timeout: Duration,
    shared: Arc<Shared>,
    /// The node's connections for sessions.
    gate: Arc<Gate>,
    /// The kept connection.
    line: Option<Line>,
    /// A probe has answered over it.
    is_line_proven: bool,
    /// A kept connection has ended by itself since the last report.
    has_lost_line: bool,
    /// Probes since the last one over a fresh connection.
    probes_on_line: u32,
    last_probe: Option<Instant>,
    last_sample: Option<Instant>,
    last_login: Option<Instant>,
    /// Who has answered last.
    server: Option<(SystemId, PostmasterStart)>,
    /// Whom its newest connection has met, until that has ended or is given up.
    held: Option<(SystemId, PostmasterStart)>,
    /// Where a fresh connection has just met it, and whom.
    found: Option<(Option<SocketAddr>, (SystemId, PostmasterStart))>,
    /// What those who watch the node were asked until it logged in last; more of it is of strays.
    asks: u64,
    /// Moves of the node's name that have been told.
    moves: u32,
    /// Why the last login failed, in words.
    login_problem: Option<Arc<str>>,
    /// The same where the kept connection works: what is in the log.
    complaints: Complaints,
    /// Logins in a row that have not ended in time, or were cut off.
    vain_logins: u32,
}

/// The kept connection, asked while a fresh one was opened.
struct Kept {
    line: Line,
    /// It owed an answer before.
    owed: bool,
    answer: Result<Row, LineError>,
}

/// A fresh connection and its answer, or why there is none.
type Fresh = Result<(Line, Result<Row, LineError>), (ConnectClass, ProbeFailure)>;

/// What to ask next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Probe,
    Sample,
}

impl Watcher {
    pub(super) fn new(
        id: NodeId,
        target: Target,
        timeout: Duration,
        shared: Arc<Shared>,
        gate: Option<&Arc<Gate>>,
    ) -> Self {
        let gate = gate.cloned().unwrap_or_default();
        Self {
            asks: gate.strays().asks(),
            moves: 0,
            id,
            target,
            timeout,
            shared,
            gate,
            line: None,
            is_line_proven: false,
            has_lost_line: false,
            probes_on_line: 0,
            last_probe: None,
            last_sample: None,
            last_login: None,
            server: None,
            held: None,
            found: None,
            login_problem: None,
            complaints: Complaints::new(Repeats::EachMinute),
            vain_logins: 0,
        }
    }

    /// Watches until it is dropped.
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(signals) = shared.signals(self.id) else { return };
        loop {
            match self.next(signals).await {
                Question::Probe => self.probe(signals).await,
                Question::Sample => self.sample(signals).await,
            }
        }
    }

    /// Waits until there is something to ask.
    async fn next(&mut self, signals: &Signals) -> Question {
        loop {
            let now = Instant::now();
            // Before the look at what is due: what comes in between is heard.
            let asked = self.gate.strays().asked();
            let (question, due) = self.due(signals, now);
            if due <= now {
                return question;
            }
            tokio::select! {
                // Wishes stand in `signals`, and the time of the next question is computed anew: dropping these waits
                // loses nothing.
                () = signals.woken.notified() => {}
                () = timers::sleep_until(due.into()) => {}
                () = asked => {}
                // The node hung up or says something unasked: ask at once what is wrong.
                () = stirred(self.line.as_mut()) => {
                    timers::sleep_until(self.not_before(now).into()).await;
                    return Question::Probe;
                }
            }
        }
    }

    /// The next question, and when to ask it.
    fn due(&self, signals: &Signals, now: Instant) -> (Question, Instant) {
        if signals.is_probe_wanted() {
            return (Question::Probe, self.not_before(now));
        }
        let interval = self.shared.probe_interval(self.id);
        let mut probe = self.last_probe.map_or(now, |last| last + interval);
        if self.are_there_strays() {
            probe = probe.min(self.not_before(now).max(self.next_login(now)));
        }
        let sample = self.sample_due(signals, now);
        match sample {
            Some(sample) if sample < probe => (Question::Sample, sample),
            _ => (Question::Probe, probe),
        }
    }

    /// Connections have led elsewhere than its own: the name may have come to lead to another server.
    fn are_there_strays(&self) -> bool {
        self.gate.strays().asks() > self.asks
    }

    /// Two probes are never nearer than this, however many ask.
    fn not_before(&self, now: Instant) -> Instant {
        self.last_probe.map_or(now, |last| last + SHORTEST_INTERVAL)
    }

    /// It logs in anew for connections that led elsewhere no sooner than this: a name may have two addresses for ever.
    fn next_login(&self, now: Instant) -> Instant {
        self.last_login.map_or(now, |last| last + STRAYS_INTERVAL)
    }

    /// Samples are taken over a connection on which a probe has answered, and only there; not while that owes an answer, for
    /// which a probe does not wait alone.
    fn sample_due(&self, signals: &Signals, now: Instant) -> Option<Instant> {
        self.line.as_ref().filter(|line| self.is_line_proven && !line.owes())?;
        if signals.is_sample_wanted() {
            return Some(now);
        }
        let last = self.last_sample.unwrap_or(now);
        self.shared.is_followed(signals).then_some(last + FOLLOW_INTERVAL)
    }

    async fn probe(&mut self, signals: &Signals) {
        signals.take_probe();
        // A probe brings a position too, begun after every wish that stands now.
        signals.take_sample();
        let (mut begun, mut result) = self.begin_look().await;
        // Where we ourselves have stood still, that nothing came in time says nothing of the node.
        let is_late = matches!(result, Err(ProbeFailure::Timeout | ProbeFailure::NotAsked(_)));
        if is_late && begun.elapsed() > self.timeout + STANDSTILL {
            (begun, result) = self.begin_look().await;
        }
        signals.counters.durations.record(begun.elapsed());
        signals.counters.failed.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
        if result.is_ok() && std::mem::take(&mut self.has_lost_line) {
            self.shared.handle(Event::Reconnected { node: self.id });
        }
        self.shared.handle(Event::Probe { node: self.id, begun, result });
        // Who waits for it must not be let through by a view of the server that the node was before.
        if let Some((peer, server)) = self.found.take() {
            self.gate.found_at(peer, server);
        }
        self.shared.login_ended(self.id, self.login_problem.as_ref());
    }

    async fn begin_look(&mut self) -> (Instant, Result<ProbeReport, ProbeFailure>) {
        let begun = Instant::now();
        (self.last_probe, self.last_sample) = (Some(begun), Some(begun));
        (begun, self.look(begun).await)
    }

    /// One look at the node: over the kept connection, or from time to time over a fresh one, as a postmaster that
    /// stands still answers on old connections only. Over both where the kept one owes an answer: it may only be slow.
    async fn look(&mut self, begun: Instant) -> Result<ProbeReport, ProbeFailure> {
        let deadline = (begun + self.timeout).into();
        let owes = self.line.as_ref().is_some_and(Line::owes);
        let may_have_moved = self.are_there_strays() && self.next_login(begun) <= begun;
        let is_fresh_due = owes || may_have_moved || self.probes_on_line >= PROBES_PER_CONNECTION;
        self.probes_on_line += 1;
        if !is_fresh_due && let Some(mut line) = self.line.take() {
            let answer = ask(&mut line, deadline).await;
            match self.take_in(line, answer) {
                // The line ended; whether the node did too, a fresh connection tells.
                Err(ProbeFailure::Lost) => self.has_lost_line = true,
                result => return result,
            }
        }
        if self.line.is_none() {
            self.forget_server();
        }
        // Both at once: neither takes time from the other.
        let kept = self.line.take();
        self.asks = self.gate.strays().asks();
        let (fresh, kept) = self.ask_both(kept, begun).await;
        match fresh {
            Ok((line, answer)) => {
                (self.probes_on_line, self.login_problem, self.vain_logins) = (0, None, 0);
                // A fresh line in place of one that is as good as ever leads to the same server, or the name has moved.
                if kept.is_some_and(|mut kept| kept.answer.is_err() || kept.line.has_stirred()) {
                    self.has_lost_line = true;
                    self.forget_server();
                }
                let peer = line.peer();
                let report = self.take_in(line, answer);
                match &report {
                    Ok(report) => self.learn_where_it_leads(peer, report.server()),
                    Err(_) => self.gate.strays().looked_in_vain(),
                }
                report
            }
            Err((class, failure)) => {
                self.gate.strays().looked_in_vain();
                // One that is full has let nobody else in either, and what we lack ourselves says nothing of it.
                if !matches!(class, ConnectClass::Full | ConnectClass::Short) {
                    self.login_problem = Some(failure.to_string().into());
                }
                self.fall_back(class, failure, kept)
            }
        }
    }

    /// Its connection to whom it has met last has ended, or is given up.
    fn forget_server(&mut self) {
        if let Some(server) = self.held.take() {
            self.gate.strays().ended(server);
        }
    }

    /// Its fresh connection goes there, and this server has answered it. That the name has moved, who watches the node beside
    /// it may have seen before.
    fn learn_where_it_leads(&mut self, peer: Option<SocketAddr>, server: (SystemId, PostmasterStart)) {
        let met = self.gate.strays().met(server, self.held.replace(server));
        (self.found, self.asks) = (Some((peer, server)), met.asks);
        if met.has_moved {
            warn!(node = %self.target.endpoint.address, "its address leads to another server now, and the former one goes on");
        }
        if met.moves > self.moves {
            self.moves = met.moves;
            self.shared.handle(Event::Moved { node: self.id, moves: met.moves });
        }
    }

    /// Asks the kept connection and a fresh one. What the kept one says is waited for where the fresh one brings nothing,
    /// unless it has been waited for before, and the node says no.
    async fn ask_both(&mut self, kept: Option<Line>, begun: Instant) -> (Fresh, Option<Kept>) {
        let deadline = (begun + self.timeout).into();
        let (shared, node, server) = (Arc::clone(&self.shared), self.id, self.server);
        let (mut is_kept_asked, owed) = (kept.is_some(), kept.as_ref().is_some_and(Line::owes));
        let mut kept = std::pin::pin!(ask_kept(kept, deadline));
        let mut fresh = std::pin::pin!(self.ask_anew(deadline));
        let mut heard = None;
        let fresh = loop {
            tokio::select! {
                fresh = &mut fresh => break fresh,
                answer = &mut kept, if is_kept_asked => {
                    (is_kept_asked, heard) = (false, answer);
                    // What it proves counts now, however long a login takes.
                    let known = heard.as_ref().and_then(|kept| kept.sample(begun, server));
                    if let Some((sample, flush_lsn)) = known {
                        shared.handle(Event::Sample { node, sample, flush_lsn: Some(flush_lsn) });
                    }
                }
            }
        };
        let says_no =
            |class: &ConnectClass| matches!(class, ConnectClass::Down | ConnectClass::Lost | ConnectClass::Starting);
        let is_of_use = fresh.as_ref().is_err_and(|(class, _)| !(owed && says_no(class)));
        if is_kept_asked && is_of_use {
            heard = kept.await;
        }
        (fresh, heard)
    }

    async fn ask_anew(&mut self, deadline: tokio::time::Instant) -> Fresh {
        let mut line = self.open(deadline).await?;
        match ask(&mut line, deadline).await {
            Err(LineError::Timeout) => Err((ConnectClass::Silent, ProbeFailure::Timeout)),
            answer => Ok((line, answer)),
        }
    }

    /// No fresh connection: what it means, if the kept one still works.
    fn fall_back(
        &mut self,
        class: ConnectClass,
        failure: ProbeFailure,
        kept: Option<Kept>,
    ) -> Result<ProbeReport, ProbeFailure> {
        let is_vain = is_vain(class);
        self.vain_logins = if is_vain { self.vain_logins.saturating_add(1) } else { 0 };
        let Some(kept) = kept else { return Err(failure) };
        let is_mute = kept.owed && matches!(kept.answer, Err(LineError::Timeout));
        let kept_answer = self.take_in(kept.line, kept.answer);
        if is_mute {
            self.line = None;
        }
        self.has_lost_line |= self.line.is_none();
        if self.line.is_none() {
            // Another monitor may meet the server started again before this one asks next.
            self.forget_server();
        }
        let report = match kept_answer {
            Ok(report) => report,
            // Only a living node says that it is full.
            Err(kept_failure) if class != ConnectClass::Full && tells_nothing_of_health(class) => {
                return Err(kept_failure);
            }
            Err(_) => return Err(failure),
        };
        // A login costs a busy machine much more than an answer does. And whoever answers as the primary is the primary, even
        // if it lets nobody in: who has a connection to it goes on. One that stops waits for those to leave.
        let is_busy = self.vain_logins < VAIN_LOGINS;
        let is_primary = matches!(report.role, ReportedRole::Primary { .. });
        if class == ConnectClass::Starting || !(is_busy || is_primary) {
            self.line = None;
            return Err(failure);
        }
        if let Some(times) = self.complaints.meet(&failure.to_string(), Instant::now()) {
            warn!(node = %self.target.endpoint.address, %failure, times, "the monitor cannot log in anew; its old connection works");
        }
        self.probes_on_line = if is_vain && is_busy { PROBES_PER_CONNECTION } else { 0 };
        Ok(report)
    }

    async fn open(&mut self, deadline: tokio::time::Instant) -> Result<Line, (ConnectClass, ProbeFailure)> {
        self.last_login = Some(Instant::now());
        self.target.endpoint.prefer(self.gate.strays().take_wanted());
        let login = connect(&self.target, deadline).await;
        let login = login.map_err(|error| (error.class(), connect_failure(&error)))?;
        self.target.salted_password.clone_from(&login.salted_password);
        let queries = [(PROBE_NAME, PROBE), (SAMPLE_NAME, SAMPLE)];
        let line = Line::prepare(login, &queries, deadline).await;
        line.map_err(|error| match error {
            LineError::Timeout => (ConnectClass::Silent, ProbeFailure::Timeout),
            error => (ConnectClass::Broken, line_failure(&error)),
        })
    }

    /// Takes in what was answered over this connection, and keeps it if it can be used again.
    fn take_in(&mut self, line: Line, answer: Result<Row, LineError>) -> Result<ProbeReport, ProbeFailure> {
        match answer {
            Ok(row) => {
                self.line = Some(line);
                let report = probe::read_report(&row);
                self.is_line_proven = report.is_ok();
                self.server = report.as_ref().ok().map(ProbeReport::server).or(self.server);
                report.map_err(|column| ProbeFailure::Protocol(format!("no {column}").into()))
            }
            Err(error) => {
                self.is_line_proven &= line.owes();
                self.line = line.outlives(&error).then_some(line);
                Err(line_failure(&error))
            }
        }
    }

    async fn sample(&mut self, signals: &Signals) {
        signals.take_sample();
        let Some(mut line) = self.line.take() else { return };
        let begun = Instant::now();
        self.last_sample = Some(begun);
        let answer = line.ask(SAMPLE_NAME, (begun + self.timeout).into()).await;
        let Some(position) = answer.as_ref().ok().and_then(probe::read_position) else {
            // A probe tells what is wrong, over a fresh connection if this one is of no use any more.
            let is_kept = answer.map_or_else(|error| line.outlives(&error), |_| true);
            self.has_lost_line |= !is_kept;
            self.line = is_kept.then_some(line);
            signals.want_probe();
            return;
        };
        self.line = Some(line);
        signals.counters.sampled.fetch_add(1, Ordering::Relaxed);
        let sample = Sample { begun, lsn: position.lsn, timeline: position.timeline };
        self.shared.handle(Event::Sample { node: self.id, sample, flush_lsn: position.flush_lsn });
    }
}

/// Who watches the node from now on may find it started again: that is no move.
impl Drop for Watcher {
    fn drop(&mut self) {
        self.forget_server();
    }
}

/// Asks over this connection.
async fn ask(line: &mut Line, deadline: tokio::time::Instant) -> Result<Row, LineError> {
    let answer = line.ask(PROBE_NAME, deadline).await;
    if is_promotion(&answer) { line.ask(PROBE_NAME, deadline).await } else { answer }
}

async fn ask_kept(line: Option<Line>, deadline: tokio::time::Instant) -> Option<Kept> {
    let mut line = line?;
    let owed = line.owes();
    let answer = ask(&mut line, deadline).await;
    Some(Kept { line, owed, answer })
}

impl Kept {
    /// Where this server stands, and up to where its log is flushed, if it is the primary and was asked then.
    fn sample(&self, begun: Instant, server: Option<(SystemId, PostmasterStart)>) -> Option<(Sample, Lsn)> {
        let report = probe::read_report(self.answer.as_ref().ok()?).ok()?;
        let ReportedRole::Primary { timeline, insert_lsn, flush_lsn, .. } = report.role else { return None };
        let sample = Sample { begun, lsn: insert_lsn, timeline: Some(timeline) };
        Some((sample, flush_lsn)).filter(|_| server == Some(report.server()))
    }
}

async fn stirred(line: Option<&mut Line>) {
    match line {
        Some(line) => line.stirred().await,
        None => std::future::pending().await,
    }
}

/// A promotion between two columns lets one of them fail; asked again, all agree.
fn is_promotion<T>(answer: &Result<T, LineError>) -> bool {
    matches!(answer, Err(LineError::Server { code: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, .. }))
}

/// A login that has not ended in time, or was cut off or refused: a node that lets nobody in any more shows the same.
fn is_vain(class: ConnectClass) -> bool {
    matches!(class, ConnectClass::Silent | ConnectClass::Lost | ConnectClass::Down)
}

/// A node that is full, lacks memory for one more process, lets nobody in, or whose name does not resolve may be as well as
/// ever; so may one that we lack the means to connect to.
fn tells_nothing_of_health(class: ConnectClass) -> bool {
    use ConnectClass::{Broken, Denied, Full, NotLookedUp, Short, Unresolved};
    matches!(class, Full | Broken | Denied | Unresolved | NotLookedUp | Short)
}

fn connect_failure(error: &ConnectError) -> ProbeFailure {
    let words = || words(error).into();
    match error.class() {
        ConnectClass::Down => ProbeFailure::Refused,
        ConnectClass::Unresolved => ProbeFailure::Unresolved(words()),
        ConnectClass::Silent => ProbeFailure::Timeout,
        ConnectClass::Lost => ProbeFailure::Lost,
        ConnectClass::Short | ConnectClass::NotLookedUp => ProbeFailure::NotAsked(words()),
        ConnectClass::Starting => ProbeFailure::Starting,
        ConnectClass::Full => ProbeFailure::TooManyConnections,
        ConnectClass::Denied => ProbeFailure::Authentication(words()),
        ConnectClass::Broken => ProbeFailure::Protocol(words()),
    }
}

fn line_failure(error: &LineError) -> ProbeFailure {
    match error {
        LineError::Timeout => ProbeFailure::Timeout,
        LineError::Lost(_) => ProbeFailure::Lost,
        LineError::Server { .. } | LineError::Protocol(_) => ProbeFailure::Protocol(words(error).into()),
    }
}

/// An error and its causes.
fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

/// So many probes go over one connection; the next over a fresh one.
const PROBES_PER_CONNECTION: u32 = 9;
/// So many logins in a row do not end in time, are cut off or refused, before a replica is missed whose old connection
/// answers: it lets nobody in any more. Fewer are what a machine shows that has more to do than it can.
const VAIN_LOGINS: u32 = 4;
/// Timers are never so late, unless the whole process has stood still.
const STANDSTILL: Duration = Duration::from_millis(250);
/// Between two logins, however many connections lead elsewhere than the one before.
const STRAYS_INTERVAL: Duration = Duration::from_secs(1);
/// Between two probes of a node, however many doubt it.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// Between two samples while somebody waits for the node to catch up; the timer rounds up to its milliseconds.
const FOLLOW_INTERVAL: Duration = Duration::from_micros(500);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::Endpoint;
    use crate::topology::TopologySettings;

    /// The new one was let in by nobody at first, for the node was full.
    #[test]
    fn a_restart_behind_a_reload_is_no_move_and_a_move_that_the_reload_hides_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/config/reference.toml");
        let cluster = crate::config::load(&path).unwrap().clusters.remove(0);
        let (interval, timeout) = (cluster.monitor.interval, cluster.monitor.timeout);
        let settings = TopologySettings { interval, timeout, max_lag: timeout };
        let (shared, _changed) = Shared::new(&cluster, &cluster.nodes, settings, None, Box::new(|_, _| {}));
        let (shared, gate) = (Arc::new(shared), Arc::<Gate>::default());
        let watcher = || {
            let target = crate::monitor::target(&cluster.monitor, Endpoint::plain(Arc::clone(&cluster.nodes[0])));
            Watcher::new(NodeId(0), target, timeout, Arc::clone(&shared), Some(&gate))
        };
        let [former, again, elsewhere] = [1, 2, 3].map(|start| (SystemId(1), PostmasterStart(start)));
        let (mut old, mut new, mut newest) = (watcher(), watcher(), watcher());
        old.learn_where_it_leads(None, former);
        drop(old);
        new.learn_where_it_leads(None, again);
        assert_eq!(new.moves, 0, "it was started again");
        newest.learn_where_it_leads(None, elsewhere);
        drop(new);
        assert_eq!(newest.moves, 1, "the one before was connected to the former server still");
    }

    #[test]
    fn a_name_that_is_not_resolved_in_time_is_no_silence_of_the_node() {
        let unanswered = ConnectError::LookupTimeout;
        assert!(tells_nothing_of_health(unanswered.class()), "what its kept connection says counts");
        assert!(!is_vain(unanswered.class()), "however often");
        let failure = connect_failure(&unanswered);
        assert_eq!(failure.to_string(), "could not be asked from here: its name was not resolved in time");
        assert_eq!(failure.code(), "not_asked");
    }
}
