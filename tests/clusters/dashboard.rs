//! The dashboard and the alerts against a real Prometheus that scrapes a real `/metrics`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;
use trunkline::admin::{self, AdminState};
use trunkline::metrics::families::{self, Kind};
use trunkline::metrics::{
    CacheCounts, CatalogCounts, CatalogPicture, FreshnessOutcome, Histogram, Metrics, PoolCounts, PoolName, Scrape,
    Target,
};
use trunkline::routing::Reason;
use trunkline::topology::View;

use crate::fixture::{Proxy, cluster, eventually, http_get, limited};

#[test]
fn every_metric_has_a_place_in_the_dashboard_or_an_alert_and_none_is_made_up() {
    let expressions = [dashboard_expressions(), alert_expressions()].concat();
    let named: BTreeSet<&str> = expressions.iter().flat_map(|expression| metrics_in(expression)).collect();
    let known: BTreeSet<&str> = families::ALL.iter().map(|family| family.name).collect();
    assert_eq!(named, known);
}

#[test]
fn what_is_counted_elsewhere_moves_in_a_trunkline_that_serves() {
    limited(|| {
        let cluster = cluster();
        let proxy = Proxy::start(&cluster, "");
        let mut client = proxy.client();
        for number in [1, 1, 2] {
            client.batch_execute(&format!("select {number}")).unwrap();
        }
        cluster.node(1).kill().unwrap();
        for (name, labels) in [
            ("trunkline_statement_cache_lookups_total", "result=\"text\""),
            ("trunkline_statement_cache_lookups_total", "result=\"shape\""),
            ("trunkline_statement_cache_lookups_total", "result=\"miss\""),
            ("trunkline_statement_cache_entries", ""),
            ("trunkline_statement_cache_bytes", ""),
            ("trunkline_parse_seconds_total", ""),
            ("trunkline_pool_connections_opened_total", ""),
            ("trunkline_probe_duration_seconds_count", ""),
            ("trunkline_probe_failures_total", ""),
        ] {
            eventually(&format!("{name} {labels}"), Duration::from_secs(5), || proxy.metric(name, labels) > 0.0);
        }
        assert_eq!(proxy.metric("trunkline_pool_connections", "state=\"opening\""), 0.0);
        // Who had never answered would be silent by now for as long as the process is there, but for a second.
        eventually("uptime", Duration::from_secs(10), || proxy.metric("trunkline_uptime_seconds", "") > 5.0);
        eventually("a sign of life", Duration::from_secs(2), || {
            proxy.metric("trunkline_worker_silence_seconds", "") < 1.0
        });
    });
}

#[test]
fn panels_have_ids_of_their_own_the_chosen_data_source_and_do_not_overlap() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
    }
    let mut taken = BTreeSet::new();
    for panel in panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{}", panel["title"]);
        for (x, y) in (0..side("w")).flat_map(|x| (0..side("h")).map(move |y| (x, y))) {
            assert!(taken.insert((side("x") + x, side("y") + y)), "{} lies on another panel", panel["title"]);
        }
    }
}

/// Whatever a replica has answered is a read; what the primary has is one for these reasons.
#[test]
fn only_on_the_primary_reads_are_told_from_the_rest_by_their_reasons() {
    let expressions = dashboard_expressions();
    let selectors = expressions.iter().flat_map(|expression| selectors_in(expression));
    let by_reason: Vec<&str> = selectors.filter(|selector| selector.contains("reason=~")).collect();
    assert!(!by_reason.is_empty());
    for selector in by_reason {
        assert!(selector.contains("target=\"primary\""), "{selector}");
        let reasons = selector.split_once("reason=~\"").unwrap().1.split_once('"').unwrap().0;
        let reasons: Vec<&str> = reasons.split('|').collect();
        assert!(reasons.iter().all(|reason| Reason::CODES.contains(reason)), "{selector}");
        for reason in [Reason::Read, Reason::ReadsPrimary, Reason::Rule, Reason::Hint, Reason::NotFresh] {
            assert!(reasons.contains(&reason.code()), "{selector} lacks {}", reason.code());
        }
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_alerts() {
    let output =
        Command::new("promtool").args(["check", "rules"]).arg(repository("grafana/alerts.yml")).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn what_is_to_fire_fires_and_nothing_beside_it() {
    let output =
        Command::new("promtool").args(["test", "rules"]).arg(repository("tests/golden/alerts.yml")).output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let admin = Admin::start();
    let (_, text) = http_get(admin.port, "/metrics").unwrap();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
}

#[test]
fn prometheus_answers_every_panel_and_every_alert() {
    let admin = Admin::start();
    let prometheus = Prometheus::scraping(admin.port);
    // A rate takes two scrapes.
    eventually("Prometheus has scraped twice", Duration::from_secs(30), || {
        let rate = prometheus.query("rate(trunkline_uptime_seconds[1m])");
        rate.is_ok_and(|series| !series.is_empty())
    });
    for expression in dashboard_expressions() {
        let series = prometheus.query(&expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        let may_be_empty = expression.ends_with("> 0");
        assert!(may_be_empty || !series.is_empty(), "nothing matches {expression}");
    }
    for expression in alert_expressions() {
        prometheus.query(&expression).unwrap_or_else(|problem| panic!("{expression}: {problem}"));
        // An alert is silent while all is well; what it looks at is there nevertheless.
        for selector in selectors_in(&expression) {
            let series = prometheus.query(selector).unwrap_or_else(|problem| panic!("{selector}: {problem}"));
            assert!(!series.is_empty(), "nothing matches {selector} in {expression}");
        }
    }
    assert_eq!(prometheus.rules(), alert_expressions().len());
}

/// An admin server alone, with something in every metric.
struct Admin {
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || serve(listener, stopped));
        Self { port, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

fn serve(listener: TcpListener, stopped: oneshot::Receiver<()>) {
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let state = AdminState {
        metrics: Arc::new(filled_metrics()),
        views: ArcSwap::from_pointee(vec![Arc::new(ArcSwap::from_pointee(lagging_view()))]),
        pauses: ArcSwap::default(),
        draining: AtomicBool::new(false),
        reloads: 0.into(),
    };
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        admin::serve(listener, Arc::new(state), async { drop(stopped.await) }).await;
    });
}

fn filled_metrics() -> Metrics {
    let metrics = Metrics::new(2, Reason::CODES);
    let worker = metrics.worker(0);
    worker.statement_routed(Target::Replica, Reason::Read.index());
    worker.statements_finished(Target::Replica, Duration::from_micros(700), 1);
    worker.cache_counted(CacheCounts { text_hits: 5, shape_hits: 2, misses: 1, entries: 1, bytes: 1000 });
    worker.parsed(Duration::from_micros(20));
    worker.freshness_waited(FreshnessOutcome::Replica, Duration::from_millis(1));
    let probes = Histogram::default();
    probes.record(Duration::from_millis(1));
    metrics.add_source(move |scrape| fill(scrape, &probes));
    metrics
}

fn fill(scrape: &mut Scrape, probes: &Histogram) {
    scrape.view(&lagging_view());
    scrape.probes("main", "127.0.0.1:5432", probes, 0, true);
    let name = PoolName { cluster: "main", node: "127.0.0.1:5432", database: "bench", user: "bench" };
    scrape.pool(name, PoolCounts { idle: 1, leased: 2, size: 20, ..PoolCounts::default() });
    scrape.rule_matches("reports", 1);
    scrape.paused("bench", true);
    scrape.disabled("bench", true);
    scrape.predecessor(true);
    scrape.certificate("clients", "", 0);
    let counts = CatalogCounts { age: Some(Duration::from_secs(1)), ..CatalogCounts::default() };
    scrape.catalog("bench", CatalogPicture::default(), counts);
    scrape.rule_would_change("reports", 1);
}

fn lagging_view() -> View {
    let mut view = View::unknown("main", &["127.0.0.1:5432".into(), "127.0.0.1:5433".into()]);
    view.nodes[1].lag = Some(Duration::from_secs(1));
    view.nodes[1].lag_bytes = Some(1000);
    view
}

/// A Prometheus that scrapes one port, with our alerts; killed when dropped.
struct Prometheus {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Prometheus {
    fn scraping(port: u16) -> Self {
        let folder = TempDir::new().unwrap();
        let mut configuration = String::from("global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n");
        writeln!(configuration, "rule_files: ['{}']", repository("grafana/alerts.yml").display()).unwrap();
        configuration
            .push_str("scrape_configs:\n  - job_name: trunkline\n    scrape_timeout: 400ms\n    static_configs:\n");
        writeln!(configuration, "      - targets: ['127.0.0.1:{port}']").unwrap();
        std::fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Debian's package prometheus is installed");
        let mut prometheus = Self { process, port: 0, folder };
        eventually("Prometheus says where it listens", Duration::from_secs(30), || {
            prometheus.port = prometheus.listening_port().unwrap_or(0);
            prometheus.port != 0
        });
        prometheus
    }

    fn listening_port(&self) -> Option<u16> {
        let log = self.log();
        let (_, after) = log.split_once("msg=\"Listening on\" address=127.0.0.1:")?;
        after.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The series that an expression gives now, or Prometheus' words on what is wrong with it.
    fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let answer = self.get(&format!("/api/v1/query?query={}", percent_encoded(expression)))?;
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    /// How many alerts it has loaded.
    fn rules(&self) -> usize {
        let answer = self.get("/api/v1/rules?type=alert").unwrap();
        answer["data"]["groups"].as_array().unwrap().iter().map(|group| group["rules"].as_array().unwrap().len()).sum()
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let (status, body) = http_get(self.port, path).map_err(|problem| problem.to_string())?;
        if status != 200 {
            return Err(body);
        }
        serde_json::from_str(&body).map_err(|problem| problem.to_string())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of Prometheus\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(repository("grafana/trunkline.json")).unwrap()).unwrap()
}

/// Every expression of the dashboard, also of its variables and annotations, with Grafana's variables filled in.
fn dashboard_expressions() -> Vec<String> {
    let mut found = Vec::new();
    collect_expressions(&dashboard(), &mut found);
    assert!(found.len() > 40, "expressions are missed: {found:?}");
    found
}

fn collect_expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_expressions(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(filled_in));
            let definition = fields.get("definition").and_then(Value::as_str);
            found.extend(definition.map(|definition| filled_in(label_values_of(definition))));
            fields.values().for_each(|field| collect_expressions(field, found));
        }
        _ => {}
    }
}

/// The selector inside `label_values(selector, label)`.
fn label_values_of(definition: &str) -> &str {
    let arguments = definition.strip_prefix("label_values(").unwrap();
    arguments.rsplit_once(',').unwrap().0
}

fn filled_in(expression: &str) -> String {
    let filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$cluster", ".*");
    assert!(!filled.contains('$'), "an unknown variable in {expression}");
    filled
}

/// Every `expr` of the alerts: one line, or a block that is indented more.
fn alert_expressions() -> Vec<String> {
    let text = std::fs::read_to_string(repository("grafana/alerts.yml")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.trim().strip_prefix("expr: ")?)));
    starts.map(|(at, first)| if first == "|" { block(&lines[at + 1..]) } else { first.to_owned() }).collect()
}

fn block(lines: &[&str]) -> String {
    let indented: Vec<&str> = lines.iter().map_while(|line| line.strip_prefix("          ")).collect();
    indented.join(" ")
}

/// The families that an expression names.
fn metrics_in(expression: &str) -> Vec<&str> {
    let words = expression.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| word.starts_with("trunkline_")).map(family_of).collect()
}

/// The metrics that an expression looks at, each with its label matchers.
fn selectors_in(expression: &str) -> Vec<&str> {
    expression.match_indices("trunkline_").map(|(at, _)| selector_at(&expression[at..])).collect()
}

fn selector_at(text: &str) -> &str {
    let name =
        text.find(|character: char| !(character.is_ascii_alphanumeric() || character == '_')).unwrap_or(text.len());
    let matchers = text[name..].starts_with('{').then(|| text.find('}')).flatten();
    &text[..matchers.map_or(name, |end| end + 1)]
}

/// A histogram's samples have suffixes that its family has not.
fn family_of(sample: &str) -> &str {
    let is_histogram =
        |name: &str| families::ALL.iter().any(|family| family.name == name && family.kind == Kind::Histogram);
    let stripped = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| sample.strip_suffix(suffix));
    stripped.filter(|name| is_histogram(name)).unwrap_or(sample)
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        write!(encoded, "%{byte:02X}").unwrap();
        encoded
    })
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
