//! One scrape being filled: by the workers' counts, and by those who register a source for what only they can see.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramSample, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::topology::{Cause, NodeState, NodeView, View};

use super::families::{self, Family, Kind};
use super::histogram::{Histogram, HistogramSum};
use super::labels::{ROLES, STATES, role_code, state_code};

/// The samples of one scrape. A source adds what it can see; every set of labels may be added once per scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    samples: BTreeMap<&'static str, (Family, Vec<Metric>)>,
}

/// Which pool is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolName<'a> {
    /// The cluster's configured name.
    pub cluster: &'a str,
    /// `host:port` as configured.
    pub node: &'a str,
    /// The database as configured.
    pub database: &'a str,
    /// The user as configured.
    pub user: &'a str,
}

/// What is in a pool now, and what it has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Server connections that nobody uses.
    pub idle: usize,
    /// Server connections that a session holds.
    pub leased: usize,
    /// Server connections that are being made.
    pub opening: usize,
    /// Most server connections allowed.
    pub size: usize,
    /// Clients that wait for one.
    pub waiting: usize,
    /// Server connections made so far.
    pub opened: u64,
    /// Attempts to make one that failed so far.
    pub open_failures: u64,
}

/// The picture of a database's catalogs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogPicture {
    /// It is believed.
    pub is_current: bool,
    /// Relations, functions and types in it.
    pub objects: usize,
    /// What it takes.
    pub bytes: usize,
}

/// What keeping the picture has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogCounts {
    /// Pictures loaded.
    pub loads: u64,
    /// Looks that found nothing changed.
    pub confirmations: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// How long the last load took.
    pub load_time: Duration,
    /// Since when it was not looked whether the picture is still true; None: there is none.
    pub age: Option<Duration>,
}

impl Scrape {
    /// The catalogs of this configured database.
    pub fn catalog(&mut self, database: &str, picture: CatalogPicture, counts: CatalogCounts) {
        self.gauge(&families::CATALOG_CURRENT, &[database], truth(picture.is_current));
        self.gauge(&families::CATALOG_OBJECTS, &[database], picture.objects as f64);
        self.gauge(&families::CATALOG_BYTES, &[database], picture.bytes as f64);
        self.gauge(&families::CATALOG_LOAD, &[database], counts.load_time.as_secs_f64());
        if let Some(age) = counts.age {
            self.gauge(&families::CATALOG_AGE, &[database], age.as_secs_f64());
        }
        let outcomes = [("loaded", counts.loads), ("unchanged", counts.confirmations), ("failed", counts.failures)];
        for (outcome, count) in outcomes {
            self.counter(&families::CATALOG_LOOKS, &[database, outcome], count as f64);
        }
    }

    /// A cluster's epoch and primary, or why it has none; each node's role, state and lag.
    pub fn view(&mut self, view: &View) {
        let cluster = &*view.cluster;
        self.gauge(&families::CLUSTER_EPOCH, &[cluster], view.epoch as f64);
        self.gauge(&families::CLUSTER_PRIMARY, &[cluster], truth(view.primary().is_some()));
        let because = view.no_primary_because.as_ref().map(|because| because.cause);
        for cause in Cause::ALL {
            self.gauge(&families::CLUSTER_NO_PRIMARY, &[cluster, cause.code()], truth(because == Some(cause)));
        }
        self.gauge(&families::CLUSTER_STANDBY, &[cluster], truth(view.is_standby));
        for node in view.shown_nodes() {
            self.node(cluster, node);
        }
    }

    fn node(&mut self, cluster: &str, node: &NodeView) {
        let labels = [cluster, &*node.address];
        self.gauge(&families::NODE_UP, &labels, truth(node.state == NodeState::Up));
        self.gauge(&families::NODE_TAKES_READS, &labels, truth(node.takes_reads));
        for role in ROLES {
            self.gauge(&families::NODE_ROLE, &[cluster, &node.address, role_code(role)], truth(node.role == role));
        }
        for state in STATES {
            self.gauge(&families::NODE_STATE, &[cluster, &node.address, state_code(state)], truth(node.state == state));
        }
        if let Some(bytes) = node.lag_bytes {
            self.gauge(&families::NODE_LAG_BYTES, &labels, bytes as f64);
        }
        if let Some(lag) = node.lag {
            self.gauge(&families::NODE_LAG, &labels, lag.as_secs_f64());
        }
    }

    /// The probes of one node so far: how long they took, how many failed, and whether the monitor's last login succeeded.
    pub fn probes(&mut self, cluster: &str, node: &str, durations: &Histogram, failures: u64, can_log_in: bool) {
        self.histogram(&families::PROBE_DURATION, &[cluster, node], &HistogramSum::of([durations]));
        self.counter(&families::PROBE_FAILURES, &[cluster, node], failures as f64);
        self.gauge(&families::MONITOR_CAN_LOG_IN, &[cluster, node], truth(can_log_in));
    }

    /// One pool.
    pub fn pool(&mut self, name: PoolName<'_>, counts: PoolCounts) {
        let PoolName { cluster, node, database, user } = name;
        for (state, connections) in [("idle", counts.idle), ("leased", counts.leased), ("opening", counts.opening)] {
            self.gauge(&families::POOL_CONNECTIONS, &[cluster, node, database, user, state], connections as f64);
        }
        let labels = [cluster, node, database, user];
        self.gauge(&families::POOL_SIZE, &labels, counts.size as f64);
        self.gauge(&families::POOL_WAITING, &labels, counts.waiting as f64);
        self.counter(&families::POOL_OPENED, &labels, counts.opened as f64);
        self.counter(&families::POOL_OPEN_FAILURES, &labels, counts.open_failures as f64);
    }

    /// The second since 1970 at which a certificate ends that is shown to these; the cluster is empty where it is for clients.
    pub fn certificate(&mut self, shown_to: &str, cluster: &str, ends: i64) {
        self.gauge(&families::CERTIFICATE_EXPIRY, &[shown_to, cluster], ends as f64);
    }

    /// Whether the process before this one is still there.
    pub fn predecessor(&mut self, is_there: bool) {
        self.gauge(&families::PREDECESSOR, &[], truth(is_there));
    }

    /// Whether the statements of this configured database wait.
    pub fn paused(&mut self, database: &str, is_paused: bool) {
        self.gauge(&families::DATABASE_PAUSED, &[database], truth(is_paused));
    }

    /// Whether new clients of this configured database are refused.
    pub fn disabled(&mut self, database: &str, is_disabled: bool) {
        self.gauge(&families::DATABASE_DISABLED, &[database], truth(is_disabled));
    }

    /// How many statements the rule of this configured name has decided so far.
    pub fn rule_matches(&mut self, rule: &str, statements: u64) {
        self.counter(&families::RULE_MATCHES, &[rule], statements as f64);
    }

    /// How many statements would have gone elsewhere by the shadow rule of this configured name; 0 for any other rule.
    pub fn rule_would_change(&mut self, rule: &str, statements: u64) {
        self.counter(&families::RULE_WOULD_CHANGE, &[rule], statements as f64);
    }

    pub(super) fn counter(&mut self, family: &Family, labels: &[&str], total: f64) {
        let mut counter = Counter::default();
        counter.set_value(total);
        let mut metric = labelled(family, Kind::Counter, labels);
        metric.set_counter(counter);
        self.add(family, metric);
    }

    pub(super) fn gauge(&mut self, family: &Family, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(family, Kind::Gauge, labels);
        metric.set_gauge(gauge);
        self.add(family, metric);
    }

    pub(super) fn histogram(&mut self, family: &Family, labels: &[&str], sum: &HistogramSum) {
        let mut histogram = HistogramSample::default();
        histogram.set_bucket(sum.cumulative().map(bucket).collect());
        histogram.set_sample_count(sum.count());
        histogram.set_sample_sum(sum.seconds());
        let mut metric = labelled(family, Kind::Histogram, labels);
        metric.set_histogram(histogram);
        self.add(family, metric);
    }

    fn add(&mut self, family: &Family, metric: Metric) {
        self.samples.entry(family.name).or_insert_with(|| (*family, Vec::new())).1.push(metric);
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.samples.into_values().map(|(family, metrics)| family_of(family, metrics)).collect()
    }
}

fn family_of(family: Family, metrics: Vec<Metric>) -> MetricFamily {
    let mut written = MetricFamily::default();
    written.set_name(family.name.to_owned());
    written.set_help(family.help.to_owned());
    written.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    written.set_metric(metrics);
    written
}

fn labelled(family: &Family, kind: Kind, values: &[&str]) -> Metric {
    debug_assert_eq!(family.kind, kind, "{}", family.name);
    debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
    Metric::from_label(family.labels.iter().zip(values).map(|(name, value)| label(name, value)).collect())
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn bucket((bound, count): (f64, u64)) -> Bucket {
    let mut bucket = Bucket::default();
    bucket.set_upper_bound(bound);
    bucket.set_cumulative_count(count);
    bucket
}

pub(super) fn truth(fact: bool) -> f64 {
    f64::from(u8::from(fact))
}
