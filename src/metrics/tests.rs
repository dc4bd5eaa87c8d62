//! Facts about the exposition as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::families::{self, Kind};
use super::*;
use crate::routing::{Reason, advice};
use crate::sql::Pin;
use crate::topology::{Cause, NodeId, NodeState, Role, View};

const REASONS: &[&str] = &["read", "write"];

/// The value of the sample with exactly this name and these labels.
fn value(text: &str, sample: &str) -> f64 {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let value = found.next().unwrap_or_else(|| panic!("no {sample} in\n{text}"));
    assert!(found.next().is_none(), "{sample} stands there twice");
    value.parse().unwrap()
}

#[test]
fn advice_names_what_is_counted_of_a_read_that_a_replica_did_not_end() {
    let words = advice(Reason::Retried);
    for cause in [Retry::ReadOnly, Retry::ReplicaError, Retry::RecoveryConflict] {
        assert!(words.contains(&format!("({})", cause.code())), "{words}");
    }
}

#[test]
fn names_follow_the_conventions() {
    let mut seen = BTreeSet::new();
    for family in families::ALL {
        assert!(seen.insert(family.name), "{} is there twice", family.name);
        assert!(family.name.starts_with("trunkline_"), "{}", family.name);
        assert_eq!(family.kind == Kind::Counter, family.name.ends_with("_total"), "{}", family.name);
        assert_eq!(family.help.contains("Seconds"), family.name.contains("_seconds"), "{}", family.name);
        assert_eq!(family.help.contains("Bytes"), family.name.contains("_bytes"), "{}", family.name);
        assert!(family.kind != Kind::Histogram || family.name.ends_with("_seconds"), "{}", family.name);
    }
}

#[test]
fn the_process_tells_of_itself_as_prometheus_own_clients_do() {
    let text = Metrics::new(1, REASONS).render();
    for sample in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "process_start_time_seconds",
    ] {
        assert!(value(&text, sample) >= 0.0, "{sample}");
    }
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
}

#[test]
fn the_readme_lists_every_metric() {
    let row = |family: &families::Family| {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {} | {} | {} |\n", family.name, kind(family.kind), labels.join(", "), family.help)
    };
    let rows: String = families::ALL.iter().map(row).collect();
    let table = format!("| metric | kind | labels | help |\n|---|---|---|---|\n{rows}");
    assert!(include_str!("README.md").ends_with(&table), "the table in README.md must be\n{table}");
}

#[test]
fn the_readme_explains_every_value_of_a_label() {
    let of = |family: &families::Family, label: &str, codes: &[&str], meanings: &[&str]| -> String {
        let row = |(code, meaning): (&&str, &&str)| {
            format!("| `{}` | `{label}` | `{code}` | {} |\n", family.name, meaning.trim())
        };
        codes.iter().zip(meanings).map(row).collect()
    };
    let rows = [
        of(&families::CLIENTS_REFUSED, "cause", &Refusal::CODES, &Refusal::MEANINGS),
        of(&families::LOGIN_FAILURES, "cause", &LoginFailure::CODES, &LoginFailure::MEANINGS),
        of(&families::STATEMENTS, "target", &Target::CODES, &Target::MEANINGS),
        of(&families::FRESHNESS_WAITS, "outcome", &FreshnessOutcome::CODES, &FreshnessOutcome::MEANINGS),
        of(&families::RETRIES, "cause", &Retry::CODES, &Retry::MEANINGS),
        of(&families::LOSSES, "outcome", &Loss::CODES, &Loss::MEANINGS),
        of(&families::LIMITS_MET, "limit", &Limit::CODES, &Limit::MEANINGS),
        of(&families::CANCELS, "outcome", &CancelOutcome::CODES, &CancelOutcome::MEANINGS),
        of(&families::VIOLATIONS, "side", &Violator::CODES, &Violator::MEANINGS),
    ];
    let table = format!("| metric | label | value | what it means |\n|---|---|---|---|\n{}", rows.concat());
    let manual = include_str!("README.md");
    assert!(manual.contains(&table), "the table of labels in README.md must begin with\n{table}");
    for pin in Pin::ALL {
        let row = format!("| `{}` | `pin` | `{}` | ", families::PINS.name, labels::pin_code(pin));
        assert!(manual.contains(&row), "there is no row that begins with {row}");
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

#[test]
fn workers_are_added_up() {
    let metrics = Metrics::new(2, REASONS);
    metrics.worker(0).statement_routed(Target::Replica, 0);
    metrics.worker(1).statement_routed(Target::Replica, 0);
    metrics.worker(1).statement_routed(Target::Primary, 1);
    metrics.worker(0).statements_finished(Target::Replica, Duration::from_millis(2), 1);
    metrics.worker(1).statements_finished(Target::Replica, Duration::from_secs(20), 1);
    let text = metrics.render();
    assert_eq!(value(&text, r#"trunkline_statements_total{target="replica",reason="read"}"#), 2.0);
    assert_eq!(value(&text, r#"trunkline_statements_total{target="primary",reason="write"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_statements_total{target="none",reason="write"}"#), 0.0);
    let duration = "trunkline_statement_duration_seconds";
    assert_eq!(value(&text, &format!(r#"{duration}_bucket{{target="replica",le="0.001"}}"#)), 0.0);
    assert_eq!(value(&text, &format!(r#"{duration}_bucket{{target="replica",le="0.0025"}}"#)), 1.0);
    assert_eq!(value(&text, &format!(r#"{duration}_bucket{{target="replica",le="10"}}"#)), 1.0);
    assert_eq!(value(&text, &format!(r#"{duration}_bucket{{target="replica",le="+Inf"}}"#)), 2.0);
    assert_eq!(value(&text, &format!(r#"{duration}_count{{target="replica"}}"#)), 2.0);
    assert_eq!(value(&text, &format!(r#"{duration}_sum{{target="replica"}}"#)), 20.002);
    assert_eq!(value(&text, "trunkline_workers"), 2.0);
}

#[test]
fn a_reason_that_is_not_in_the_table_is_still_counted() {
    let metrics = Metrics::new(1, REASONS);
    assert!(!metrics.render().contains("unlisted"));
    metrics.worker(0).statement_routed(Target::Primary, 7);
    assert_eq!(value(&metrics.render(), r#"trunkline_statements_total{target="primary",reason="unlisted"}"#), 1.0);
}

#[test]
fn clients_and_holds_are_counted_while_they_last() {
    let metrics = Metrics::new(2, REASONS);
    let (one, other) = (metrics.worker(0), metrics.worker(1));
    one.client_accepted();
    one.client_accepted();
    other.client_closed();
    let hold = other.hold();
    let text = metrics.render();
    assert_eq!(value(&text, "trunkline_clients"), 1.0);
    assert_eq!(value(&text, "trunkline_clients_accepted_total"), 2.0);
    assert_eq!(value(&text, "trunkline_held_statements"), 1.0);
    drop(hold);
    let text = metrics.render();
    assert_eq!(value(&text, "trunkline_held_statements"), 0.0);
    assert_eq!(value(&text, "trunkline_hold_wait_seconds_count"), 1.0);
}

#[test]
fn a_sqlstate_that_nobody_expects_is_counted_as_other() {
    let metrics = Metrics::new(1, REASONS);
    metrics.worker(0).error_sent("57P03");
    metrics.worker(0).error_sent("42601"); // wrong options at startup
    metrics.worker(0).error_sent("ZZ999");
    let text = metrics.render();
    assert_eq!(value(&text, r#"trunkline_errors_sent_total{sqlstate="57P03"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_errors_sent_total{sqlstate="42601"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_errors_sent_total{sqlstate="other"}"#), 1.0);
}

#[test]
fn causes_are_there_before_they_happen() {
    let metrics = Metrics::new(1, REASONS);
    metrics.worker(0).pinned(Pin::Listen);
    let text = metrics.render();
    assert_eq!(value(&text, r#"trunkline_pins_total{pin="listen"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_pins_total{pin="temporary"}"#), 0.0);
    assert_eq!(value(&text, r#"trunkline_transactions_lost_total{outcome="unknown"}"#), 0.0);
    assert_eq!(value(&text, r#"trunkline_retries_total{cause="read_only"}"#), 0.0);
}

#[test]
fn a_view_shows_roles_states_and_lag() {
    let mut view = View::unknown("main", &["a:5432".into(), "b:5432".into()]);
    view.primary = Some(NodeId(0));
    view.epoch = 3;
    view.nodes[0].role = Role::Primary;
    view.nodes[0].state = NodeState::Up;
    view.nodes[1].lag = Some(Duration::from_millis(1500));
    let metrics = Metrics::new(1, REASONS);
    metrics.add_source(move |scrape| scrape.view(&view));
    let text = metrics.render();
    assert_eq!(value(&text, r#"trunkline_cluster_epoch{cluster="main"}"#), 3.0);
    assert_eq!(value(&text, r#"trunkline_cluster_primary_known{cluster="main"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_cluster_standby{cluster="main"}"#), 0.0);
    assert_eq!(value(&text, r#"trunkline_node_role{cluster="main",node="a:5432",role="primary"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_node_role{cluster="main",node="a:5432",role="replica"}"#), 0.0);
    assert_eq!(value(&text, r#"trunkline_node_state{cluster="main",node="b:5432",state="unknown"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_node_lag_seconds{cluster="main",node="b:5432"}"#), 1.5);
    assert!(!text.contains("trunkline_node_lag_bytes"), "unknown lag is absent, not zero");
}

#[test]
fn why_a_cluster_has_no_primary_is_told_by_one_of_few_causes() {
    let metrics = Metrics::new(1, REASONS);
    let view = Arc::new(Mutex::new(View::unknown("main", &["a:5432".into()])));
    let scraped = Arc::clone(&view);
    metrics.add_source(move |scrape| scrape.view(&scraped.lock()));
    let told = || {
        let text = metrics.render();
        let of = |cause: Cause| {
            value(&text, &format!(r#"trunkline_cluster_no_primary{{cluster="main",cause="{}"}}"#, cause.code()))
        };
        Cause::ALL.into_iter().filter(|cause| of(*cause) == 1.0).collect::<Vec<_>>()
    };
    assert_eq!(told(), [Cause::NotAsked]);
    view.lock().no_primary_because = Some(Cause::Ambiguous.because("a:5432 and b:5432"));
    assert_eq!(told(), [Cause::Ambiguous]);
    view.lock().no_primary_because = None;
    assert_eq!(told(), []);
    let manual = include_str!("README.md");
    assert!(Cause::ALL.iter().all(|cause| manual.contains(&format!("`{}` (", cause.code()))), "one is not explained");
}

#[test]
fn a_cluster_that_follows_another_says_so() {
    let mut view = View::unknown("main", &["a:5432".into()]);
    view.is_standby = true;
    let metrics = Metrics::new(1, REASONS);
    metrics.add_source(move |scrape| scrape.view(&view));
    let text = metrics.render();
    assert_eq!(value(&text, r#"trunkline_cluster_standby{cluster="main"}"#), 1.0);
    assert_eq!(value(&text, r#"trunkline_cluster_primary_known{cluster="main"}"#), 0.0);
}

#[test]
fn every_family_can_be_filled() {
    let metrics = Metrics::new(1, REASONS);
    let probes = Arc::new(Histogram::default());
    metrics.add_source(move |scrape| {
        let mut view = View::unknown("main", &["a:5432".into()]);
        view.nodes[0].lag = Some(Duration::ZERO);
        view.nodes[0].lag_bytes = Some(0);
        scrape.view(&view);
        scrape.probes("main", "a:5432", &probes, 0, true);
        scrape.pool(PoolName { cluster: "main", node: "a:5432", database: "d", user: "u" }, PoolCounts::default());
        scrape.rule_matches("reports", 1);
        scrape.paused("d", false);
        scrape.disabled("d", false);
        scrape.predecessor(false);
        scrape.certificate("nodes", "main", 0);
        let counts = CatalogCounts { age: Some(Duration::ZERO), ..CatalogCounts::default() };
        scrape.catalog("d", CatalogPicture::default(), counts);
        scrape.rule_would_change("reports", 1);
    });
    let text = metrics.render();
    for family in families::ALL {
        assert!(text.contains(&format!("# TYPE {} ", family.name)), "{} is never written", family.name);
    }
}

#[test]
fn names_from_the_configuration_are_escaped() {
    let metrics = Metrics::new(1, REASONS);
    metrics.add_source(|scrape| scrape.rule_matches("a \"quoted\"\\\nrule", 1));
    assert!(metrics.render().contains(r#"trunkline_rule_matches_total{rule="a \"quoted\"\\\nrule"} 1"#));
}
