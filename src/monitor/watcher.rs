//! Watches one node: probes it at the pace that the topology wants, and samples its position when somebody asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::warn;

use super::line::{Line, LineError, Row};
use super::probe::{self, PROBE, PROBE_NAME, SAMPLE, SAMPLE_NAME};
use super::shared::{Shared, Signals};
use crate::backend::{ConnectClass, ConnectError, Target, connect};
use crate::net::timers;
use crate::topology::{Event, NodeId, PostmasterStart, ProbeFailure, ProbeReport, Sample, SystemId};
use crate::wire::SqlState;

/// The task that watches one node.
pub(super) struct Watcher {
    id: NodeId,
    target: Target,
    timeout: Duration,
    shared: Arc<Shared>,
    /// The kept connection.
    line: Option<Line>,
    /// A kept connection has ended by itself since the last report.
    has_lost_line: bool,
    /// Probes since the last one over a fresh connection.
    probes_on_line: u32,
    last_probe: Option<Instant>,
    last_sample: Option<Instant>,
    /// Who has answered last.
    server: Option<(SystemId, PostmasterStart)>,
    /// Why the last fresh connection failed although the kept one works; logged once per cause.
    fresh_problem: Option<ConnectClass>,
    /// Logins in a row that have not ended in time, or were cut off.
    vain_logins: u32,
}

/// The kept connection, asked while a fresh one was opened.
struct Kept {
    line: Line,
    answer: Result<Row, LineError>,
}

/// What to ask next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Probe,
    Sample,
}

impl Watcher {
    pub(super) fn new(id: NodeId, target: Target, timeout: Duration, shared: Arc<Shared>) -> Self {
        Self {
            id,
            target,
            timeout,
            shared,
            line: None,
            has_lost_line: false,
            probes_on_line: 0,
            last_probe: None,
            last_sample: None,
            server: None,
            fresh_problem: None,
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
            let (question, due) = self.due(signals, now);
            if due <= now {
                return question;
            }
            tokio::select! {
                // Wishes stand in `signals`, and the time of the next question is computed anew: dropping these waits
                // loses nothing.
                () = signals.woken.notified() => {}
                () = timers::sleep_until(due.into()) => {}
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
        let probe = self.last_probe.map_or(now, |last| last + interval);
        let sample = self.sample_due(signals, now);
        match sample {
            Some(sample) if sample < probe => (Question::Sample, sample),
            _ => (Question::Probe, probe),
        }
    }

    /// Two probes are never nearer than this, however many ask.
    fn not_before(&self, now: Instant) -> Instant {
        self.last_probe.map_or(now, |last| last + SHORTEST_INTERVAL)
    }

    /// Samples are taken over a connection on which a probe has answered, and only there.
    fn sample_due(&self, signals: &Signals, now: Instant) -> Option<Instant> {
        self.line.as_ref()?;
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
        let begun = Instant::now();
        (self.last_probe, self.last_sample) = (Some(begun), Some(begun));
        let result = self.look((begun + self.timeout).into()).await;
        signals.counters.durations.record(begun.elapsed());
        signals.counters.failed.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
        if result.is_ok() && std::mem::take(&mut self.has_lost_line) {
            self.shared.handle(Event::Reconnected { node: self.id });
        }
        self.shared.handle(Event::Probe { node: self.id, begun, result });
    }

    /// One look at the node: over the kept connection, or from time to time over a fresh one, as a postmaster that
    /// stands still answers on old connections only.
    async fn look(&mut self, deadline: tokio::time::Instant) -> Result<ProbeReport, ProbeFailure> {
        let is_fresh_due = self.probes_on_line >= PROBES_PER_CONNECTION;
        self.probes_on_line += 1;
        if !is_fresh_due && let Some(mut line) = self.line.take() {
            let answer = ask(&mut line, deadline).await;
            match self.take_in(line, answer) {
                // The line ended; whether the node did too, a fresh connection tells.
                Err(ProbeFailure::Lost) => self.has_lost_line = true,
                result => return result,
            }
        }
        // Both at once: a login that hangs takes no time from the kept connection.
        let kept = self.line.take();
        let (opened, kept) = tokio::join!(self.open(deadline), ask_kept(kept, deadline));
        match opened {
            Ok(mut line) => match ask(&mut line, deadline).await {
                Err(LineError::Timeout) => self.fall_back(ConnectClass::Silent, ProbeFailure::Timeout, kept),
                answer => {
                    (self.probes_on_line, self.fresh_problem, self.vain_logins) = (0, None, 0);
                    // A fresh line in place of one that is as good as ever leads to the same server, or the name has moved.
                    let (had_line, before) = (kept.is_some(), self.server);
                    let goes_on = kept.is_some_and(|mut kept| !kept.line.has_stirred());
                    self.has_lost_line |= had_line && !goes_on;
                    let report = self.take_in(line, answer);
                    if goes_on && report.is_ok() && before != self.server {
                        warn!(node = %self.target.endpoint.address, "its address leads to another server now, and the former one goes on");
                        self.shared.handle(Event::Moved { node: self.id });
                    }
                    report
                }
            },
            Err((class, failure)) => self.fall_back(class, failure, kept),
        }
    }

    /// No fresh connection: what it means, if the kept one still works.
    fn fall_back(
        &mut self,
        class: ConnectClass,
        failure: ProbeFailure,
        kept: Option<Kept>,
    ) -> Result<ProbeReport, ProbeFailure> {
        let is_vain = matches!(class, ConnectClass::Silent | ConnectClass::Lost);
        self.vain_logins = if is_vain { self.vain_logins.saturating_add(1) } else { 0 };
        // A login costs a busy machine much more than an answer does.
        let is_busy = is_vain && self.vain_logins < VAIN_LOGINS;
        let Some(kept) = kept.filter(|_| is_busy || tells_nothing_of_health(class)) else { return Err(failure) };
        if self.fresh_problem.replace(class) != Some(class) {
            warn!(node = %self.target.endpoint.address, %failure, "the monitor cannot log in anew; its old connection works");
        }
        self.probes_on_line = if is_vain { PROBES_PER_CONNECTION } else { 0 };
        self.take_in(kept.line, kept.answer)
    }

    async fn open(&mut self, deadline: tokio::time::Instant) -> Result<Line, (ConnectClass, ProbeFailure)> {
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
                self.server = report.as_ref().ok().map(ProbeReport::server).or(self.server);
                report.map_err(|column| ProbeFailure::Protocol(format!("no {column}").into()))
            }
            Err(error) => {
                self.line = error.keeps_line().then_some(line);
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
            let is_kept = answer.map_or_else(|error| error.keeps_line(), |_| true);
            self.has_lost_line |= !is_kept;
            self.line = is_kept.then_some(line);
            signals.want_probe();
            return;
        };
        self.line = Some(line);
        signals.counters.sampled.fetch_add(1, Ordering::Relaxed);
        let sample = Sample { begun, lsn: position.lsn, timeline: position.timeline };
        self.shared.handle(Event::Sample { node: self.id, sample, is_in_recovery: position.is_in_recovery });
    }
}

/// Asks over this connection.
async fn ask(line: &mut Line, deadline: tokio::time::Instant) -> Result<Row, LineError> {
    let answer = line.ask(PROBE_NAME, deadline).await;
    if is_promotion(&answer) { line.ask(PROBE_NAME, deadline).await } else { answer }
}

async fn ask_kept(line: Option<Line>, deadline: tokio::time::Instant) -> Option<Kept> {
    let mut line = line?;
    let answer = ask(&mut line, deadline).await;
    Some(Kept { line, answer })
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

/// A node that is full, lacks memory for one more process, lets nobody in, or whose name does not resolve may be as well as
/// ever; so may one that we lack the means to connect to.
fn tells_nothing_of_health(class: ConnectClass) -> bool {
    use ConnectClass::{Broken, Denied, Full, Short, Unresolved};
    matches!(class, Full | Broken | Denied | Unresolved | Short)
}

fn connect_failure(error: &ConnectError) -> ProbeFailure {
    let words = || words(error).into();
    match error.class() {
        ConnectClass::Down => ProbeFailure::Refused,
        ConnectClass::Unresolved => ProbeFailure::Unresolved(words()),
        ConnectClass::Silent => ProbeFailure::Timeout,
        ConnectClass::Lost => ProbeFailure::Lost,
        ConnectClass::Short => ProbeFailure::NotAsked(words()),
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
/// So many logins in a row do not end in time, or are cut off, before a node is missed whose old connection answers: it lets
/// nobody in any more. Fewer are what a machine shows that has more to do than it can.
const VAIN_LOGINS: u32 = 4;
/// Between two probes of a node, however many doubt it.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// Between two samples while somebody waits for the node to catch up; the timer rounds up to its milliseconds.
const FOLLOW_INTERVAL: Duration = Duration::from_micros(500);
