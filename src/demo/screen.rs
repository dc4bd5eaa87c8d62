//! What the audience of the demo sees: one table, drawn again every second.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use super::cluster::Cluster;
use super::node::Node;
use super::server::Server;
use super::traffic::Report;

/// Draws moments, and remembers the one before for what is counted per second.
pub(super) struct Screen {
    is_terminal: bool,
    told: Vec<String>,
    before: Option<Before>,
}

/// What is shown at once.
pub(super) struct Moment<'a> {
    pub(super) server: &'a Server,
    pub(super) cluster: &'a Cluster,
    pub(super) elapsed: Duration,
    pub(super) length: Duration,
    pub(super) report: Report,
}

struct Before {
    elapsed: Duration,
    report: Report,
    decisions: Decisions,
}

/// Statements by target and reason, as Trunkline counts them.
type Decisions = BTreeMap<(String, String), f64>;

impl Screen {
    /// On a terminal each moment replaces the one before; elsewhere they follow each other.
    pub(super) fn new(is_terminal: bool) -> Self {
        Self { is_terminal, told: Vec::new(), before: None }
    }

    /// Something happened: it is shown from now on.
    pub(super) fn tell(&mut self, event: String) {
        self.told.push(event);
    }

    /// Draws.
    pub(super) fn show(&mut self, moment: &Moment<'_>) {
        let decisions = decisions(moment.server);
        let text = self.draw(moment, &decisions);
        print!("{}{text}", if self.is_terminal { CLEAR } else { "" });
        self.before = Some(Before { elapsed: moment.elapsed, report: moment.report.clone(), decisions });
    }

    fn draw(&self, moment: &Moment<'_>, decisions: &Decisions) -> String {
        let topology = topology(moment.server);
        let cluster = topology.pointer("/clusters/0").unwrap_or(&Value::Null);
        let mut text = heading(moment, cluster);
        for node in moment.cluster.nodes() {
            text += &self.node_line(node, cluster, moment);
        }
        text += &self.decision_lines(decisions, moment);
        let _ = writeln!(text, "\n{}", moment.report.summary());
        for event in &self.told {
            let _ = writeln!(text, "* {event}");
        }
        text + "\n"
    }

    fn node_line(&self, node: &Node, cluster: &Value, moment: &Moment<'_>) -> String {
        let address = node.address().to_string();
        let told = told_of(cluster, &address).unwrap_or(&Value::Null);
        let served = |report: &Report| report.statements.get(&node.port()).copied().unwrap_or(0);
        let before = self.before.as_ref().map_or(0, |before| served(&before.report));
        let rate = self.per_second(served(&moment.report).saturating_sub(before), moment);
        let word = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        format!(
            "{address:<17} {:<8} {:<20} {:>9} {rate:>13.0}   {}\n",
            word("role"),
            word("state"),
            lag(told),
            word("why")
        )
    }

    fn decision_lines(&self, decisions: &Decisions, moment: &Moment<'_>) -> String {
        let before = self.before.as_ref().map(|before| &before.decisions);
        let mut lines = String::from("\nwhere statements went, and why    statements/s\n");
        for ((target, reason), count) in decisions {
            let earlier = before.and_then(|before| before.get(&(target.clone(), reason.clone()))).unwrap_or(&0.0);
            let rate = (count - earlier) / self.seconds_since(moment);
            if rate > 0.0 {
                let _ = writeln!(lines, "{:<33} {rate:>13.0}", format!("{target}: {reason}"));
            }
        }
        lines
    }

    #[expect(clippy::cast_precision_loss, reason = "statements of a second are far below 2^52")]
    fn per_second(&self, count: u64, moment: &Moment<'_>) -> f64 {
        count as f64 / self.seconds_since(moment)
    }

    fn seconds_since(&self, moment: &Moment<'_>) -> f64 {
        let earlier = self.before.as_ref().map_or(Duration::ZERO, |before| before.elapsed);
        moment.elapsed.saturating_sub(earlier).as_secs_f64().max(0.001)
    }
}

fn heading(moment: &Moment<'_>, cluster: &Value) -> String {
    format!(
        "trunkline demo    second {} of {}    epoch {}\ntry it yourself:  PGPASSWORD=bench psql -h 127.0.0.1 -p {} -U bench bench\n\n\
         {:<17} {:<8} {:<20} {:>9} {:>13}   why\n",
        moment.elapsed.as_secs(),
        moment.length.as_secs(),
        cluster.get("epoch").unwrap_or(&Value::Null),
        moment.server.port(),
        "node",
        "role",
        "state",
        "lag",
        "statements/s",
    )
}

/// What `/topology` says of the node with this address.
fn told_of<'a>(cluster: &'a Value, address: &str) -> Option<&'a Value> {
    let mut nodes = cluster.get("nodes")?.as_array()?.iter();
    nodes.find(|node| node.get("address").and_then(Value::as_str) == Some(address))
}

fn lag(node: &Value) -> String {
    node.get("lag_seconds")
        .and_then(Value::as_f64)
        .map_or_else(|| "-".to_owned(), |seconds| format!("{:.0} ms", seconds * 1000.0))
}

/// `/topology`; nothing while it can't be had, which the table then shows.
fn topology(server: &Server) -> Value {
    server.page("/topology").ok().and_then(|(_, body)| serde_json::from_str(&body).ok()).unwrap_or(Value::Null)
}

fn decisions(server: &Server) -> Decisions {
    let Ok((_, metrics)) = server.page("/metrics") else { return Decisions::new() };
    metrics.lines().filter_map(decision).collect()
}

/// `trunkline_statements_total{target="replica",reason="read"} 12`.
fn decision(line: &str) -> Option<((String, String), f64)> {
    let (labels, count) = line.strip_prefix("trunkline_statements_total{")?.split_once("} ")?;
    let label = |name: &str| Some(labels.split_once(&format!("{name}=\""))?.1.split_once('"')?.0.to_owned());
    Some(((label("target")?, label("reason")?), count.trim().parse().ok()?))
}

/// To the upper left corner, and nothing below it.
const CLEAR: &str = "\x1b[H\x1b[J";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_is_read_from_its_metric() {
        let line = "trunkline_statements_total{reason=\"read\",target=\"replica\"} 12";
        assert_eq!(decision(line), Some((("replica".into(), "read".into()), 12.0)));
        assert_eq!(decision("trunkline_clients 3"), None);
    }
}
