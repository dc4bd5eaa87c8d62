//! Every metric of the process: adds the workers up, asks the sources, writes Prometheus text.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};

use super::families::{self, Family};
use super::histogram::{Histogram, HistogramSum};
use super::labels::{
    CancelOutcome, FreshnessOutcome, Limit, LoginFailure, Loss, Refusal, Retry, SQLSTATES, Target, Violator, pin_code,
};
use super::last_reload::LastReload;
use super::pulse::Pulse;
use super::scrape::{Scrape, truth};
use super::tally::{Tallies, Tally};
use super::worker::WorkerMetrics;
use crate::sql::Pin;

/// Every metric of the process. Made once; workers take their [`WorkerMetrics`], others register a source.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    counts: Arc<Counts>,
}

type Source = Box<dyn Fn(&mut Scrape) + Send + Sync>;

/// What the collector that is given away to the registry shares with us.
struct Counts {
    workers: Box<[Arc<WorkerMetrics>]>,
    pulses: Box<[Arc<Pulse>]>,
    reasons: &'static [&'static str],
    sources: RwLock<Vec<Source>>,
    begun: Instant,
    reload: LastReload,
}

impl Metrics {
    /// Metrics of a process with this many workers, and a table of every reason of a routing decision.
    pub fn new(workers: usize, reasons: &'static [&'static str]) -> Self {
        let begun = Instant::now();
        let counts = Arc::new(Counts {
            workers: (0..workers).map(|_| Arc::new(WorkerMetrics::new(reasons.len()))).collect(),
            pulses: (0..workers).map(|_| Arc::new(Pulse::new(begun))).collect(),
            reasons,
            sources: RwLock::default(),
            begun,
            reload: LastReload::successful(SystemTime::now()),
        });
        let registry = Registry::new();
        registry
            .register(Box::new(Summing::new(Arc::clone(&counts))))
            .expect("the registry is empty, and a test checks the names and labels of all families");
        // What Prometheus' own clients tell of their process, by their names: process_cpu_seconds_total and its kin.
        registry.register(Box::new(ProcessCollector::for_self())).expect("no family of ours begins with process_");
        Self { registry, counts }
    }

    /// The counts of the worker of this number.
    ///
    /// # Panics
    /// If the number is not below that given to [`Self::new`]: workers that share counts slow each other down.
    pub fn worker(&self, number: usize) -> Arc<WorkerMetrics> {
        Arc::clone(self.counts.workers.get(number).expect("a worker's number is below the number of workers"))
    }

    /// The sign of life of the worker of this number.
    ///
    /// # Panics
    /// As [`Self::worker`] does.
    pub fn pulse(&self, number: usize) -> Arc<Pulse> {
        Arc::clone(self.counts.pulses.get(number).expect("a worker's number is below the number of workers"))
    }

    /// The worker that has owed a sign of life for longest, and for how long.
    pub fn most_silent(&self, now: Instant) -> Option<(usize, Duration)> {
        let silences = self.counts.pulses.iter().map(|pulse| pulse.silence(now));
        silences.enumerate().max_by_key(|(_, silence)| *silence)
    }

    /// The configuration has been read anew, or could not be.
    pub fn reload_ended(&self, is_successful: bool) {
        self.counts.reload.ended(is_successful, SystemTime::now());
    }

    /// At every scrape, `source` adds what it can see. It must be quick and must not wait; it stays for ever, so what
    /// changes with a reload belongs behind an `ArcSwap` inside it.
    pub fn add_source(&self, source: impl Fn(&mut Scrape) + Send + Sync + 'static) {
        self.counts.sources.write().push(Box::new(source));
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("families without a name or without samples are not gathered")
    }
}

impl Counts {
    fn scrape(&self) -> Scrape {
        let mut scrape = Scrape::default();
        self.process(&mut scrape);
        self.clients(&mut scrape);
        self.statements(&mut scrape);
        self.cache(&mut scrape);
        self.server_connections(&mut scrape);
        self.failures(&mut scrape);
        for source in &*self.sources.read() {
            source(&mut scrape);
        }
        scrape
    }

    fn process(&self, scrape: &mut Scrape) {
        scrape.gauge(&families::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
        scrape.gauge(&families::UPTIME, &[], self.begun.elapsed().as_secs_f64());
        scrape.gauge(&families::CONFIG_SUCCESSFUL, &[], truth(self.reload.is_successful()));
        scrape.gauge(&families::CONFIG_SUCCESS, &[], self.reload.succeeded() as f64);
        scrape.gauge(&families::WORKERS, &[], self.workers.len() as f64);
        let now = Instant::now();
        for (number, pulse) in self.pulses.iter().enumerate() {
            scrape.gauge(&families::WORKER_SILENCE, &[&number.to_string()], pulse.silence(now).as_secs_f64());
        }
    }

    fn clients(&self, scrape: &mut Scrape) {
        // What ended is read before what began: a client who comes and goes meanwhile must not count as minus one.
        let closed = self.sum(|w| &w.clients_closed);
        let accepted = self.sum(|w| &w.clients_accepted);
        scrape.gauge(&families::CLIENTS, &[], accepted.saturating_sub(closed) as f64);
        let roused = self.sum(|w| &w.clients_roused);
        let parked = self.sum(|w| &w.clients_parked);
        scrape.gauge(&families::PARKED_CLIENTS, &[], parked.saturating_sub(roused) as f64);
        let ended = self.sum(|w| &w.replications_ended);
        let begun = self.sum(|w| &w.replications_begun);
        scrape.gauge(&families::REPLICATION_CLIENTS, &[], begun.saturating_sub(ended) as f64);
        scrape.counter(&families::CLIENTS_ACCEPTED, &[], accepted as f64);
        self.labelled(scrape, &families::CLIENTS_REFUSED, &Refusal::CODES, |w| &w.clients_refused);
        self.total(scrape, &families::LOGINS, |w| &w.logins);
        self.labelled(scrape, &families::LOGIN_FAILURES, &LoginFailure::CODES, |w| &w.login_failures);
        self.total(scrape, &families::RECEIVED_BYTES, |w| &w.received_bytes);
        self.total(scrape, &families::SENT_BYTES, |w| &w.sent_bytes);
    }

    fn statements(&self, scrape: &mut Scrape) {
        for (number, reason) in self.reasons.iter().enumerate() {
            self.routed(scrape, number, reason);
        }
        // The row after the last reason takes those that are not in the table: a mistake of ours, to be seen only then.
        let unlisted = self.reasons.len();
        if (0..Target::CODES.len()).any(|target| self.routed_for(unlisted, target) > 0) {
            self.routed(scrape, unlisted, "unlisted");
        }
        for (target, code) in Target::CODES.iter().enumerate() {
            let durations = self.workers.iter().filter_map(|w| w.statement_duration.get(target));
            scrape.histogram(&families::STATEMENT_DURATION, &[code], &HistogramSum::of(durations));
        }
        self.durations(scrape, &families::FRESHNESS_WAIT, |w| &w.freshness_wait);
        self.labelled(scrape, &families::FRESHNESS_WAITS, &FreshnessOutcome::CODES, |w| &w.freshness_waits);
    }

    fn routed(&self, scrape: &mut Scrape, reason: usize, code: &str) {
        for (target, name) in Target::CODES.iter().enumerate() {
            scrape.counter(&families::STATEMENTS, &[name, code], self.routed_for(reason, target) as f64);
        }
    }

    fn routed_for(&self, reason: usize, target: usize) -> u64 {
        self.workers.iter().filter_map(|w| w.statements.get(reason)).map(|targets| targets.get(target)).sum()
    }

    fn cache(&self, scrape: &mut Scrape) {
        scrape.counter(&families::CACHE_LOOKUPS, &["text"], self.sum(|w| &w.cache_text_hits) as f64);
        scrape.counter(&families::CACHE_LOOKUPS, &["shape"], self.sum(|w| &w.cache_shape_hits) as f64);
        scrape.counter(&families::CACHE_LOOKUPS, &["miss"], self.sum(|w| &w.cache_misses) as f64);
        scrape.gauge(&families::CACHE_ENTRIES, &[], self.sum(|w| &w.cache_entries) as f64);
        scrape.gauge(&families::CACHE_BYTES, &[], self.sum(|w| &w.cache_bytes) as f64);
        scrape.counter(&families::PARSE_SECONDS, &[], self.sum(|w| &w.parse_nanoseconds) as f64 / 1e9);
    }

    fn server_connections(&self, scrape: &mut Scrape) {
        self.durations(scrape, &families::LEASE_WAIT, |w| &w.lease_wait);
        self.labelled(scrape, &families::PINS, &Pin::ALL.map(pin_code), |w| &w.pins);
        self.total(scrape, &families::PREPARED_REPLAYS, |w| &w.prepared_replays);
        self.total(scrape, &families::PARAMETER_REPLAYS, |w| &w.parameter_replays);
    }

    fn failures(&self, scrape: &mut Scrape) {
        let ended = self.sum(|w| &w.holds_ended);
        let begun = self.sum(|w| &w.holds_begun);
        scrape.gauge(&families::HOLDS, &[], begun.saturating_sub(ended) as f64);
        self.durations(scrape, &families::HOLD_WAIT, |w| &w.hold_wait);
        self.labelled(scrape, &families::RETRIES, &Retry::CODES, |w| &w.retries);
        self.labelled(scrape, &families::LOSSES, &Loss::CODES, |w| &w.losses);
        for (index, (limit, sqlstate)) in Limit::CODES.iter().zip(Limit::SQLSTATES).enumerate() {
            let total: u64 = self.workers.iter().map(|worker| worker.limits_met.get(index)).sum();
            scrape.counter(&families::LIMITS_MET, &[limit, sqlstate], total as f64);
        }
        self.labelled(scrape, &families::ERRORS_SENT, &SQLSTATES, |w| &w.errors_sent);
        self.labelled(scrape, &families::CANCELS, &CancelOutcome::CODES, |w| &w.cancels);
        self.labelled(scrape, &families::VIOLATIONS, &Violator::CODES, |w| &w.violations);
    }

    fn sum(&self, tally: impl Fn(&WorkerMetrics) -> &Tally) -> u64 {
        self.workers.iter().map(|worker| tally(worker).get()).fold(0, u64::wrapping_add)
    }

    fn total(&self, scrape: &mut Scrape, family: &Family, tally: impl Fn(&WorkerMetrics) -> &Tally) {
        scrape.counter(family, &[], self.sum(tally) as f64);
    }

    fn durations(&self, scrape: &mut Scrape, family: &Family, histogram: impl Fn(&WorkerMetrics) -> &Histogram) {
        scrape.histogram(family, &[], &HistogramSum::of(self.workers.iter().map(|worker| histogram(worker))));
    }

    /// One sample per value of the family's only label, also for what has not happened yet: an alert on an increase
    /// must not miss the first.
    fn labelled<const N: usize>(
        &self,
        scrape: &mut Scrape,
        family: &Family,
        codes: &[&'static str; N],
        tallies: impl Fn(&WorkerMetrics) -> &Tallies<N>,
    ) {
        for (index, code) in codes.iter().enumerate() {
            let total: u64 = self.workers.iter().map(|worker| tallies(worker).get(index)).sum();
            scrape.counter(family, &[code], total as f64);
        }
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counts").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

/// The one collector of the registry.
struct Summing {
    counts: Arc<Counts>,
    descriptions: Vec<Desc>,
}

impl Summing {
    fn new(counts: Arc<Counts>) -> Self {
        Self { counts, descriptions: families::ALL.iter().map(description).collect() }
    }
}

impl Collector for Summing {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.counts.scrape().into_families()
    }
}

fn description(family: &Family) -> Desc {
    let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
    Desc::new(family.name.to_owned(), family.help.to_owned(), labels, HashMap::new())
        .expect("a test checks the names and labels of all families")
}
