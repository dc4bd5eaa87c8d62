//! Why statements go where they go: rules, reasons, and recent decisions by shape.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::table::{Cell, Table};
use super::timestamp::written_instant;
use crate::client::shapes::{DecisionCounts, DecisionReport};
use crate::client::{Report, Server};
use crate::metrics::Target;
use crate::routing::rules::Action;
use crate::routing::terms::{Nodes, Otherwise, Terms};
use crate::routing::{Reason, advice};

pub(super) fn rules(server: &Server) -> Table {
    let mut table = Table::new("#position name action #share_percent #shadow #matched #would_change");
    for (position, rule) in server.rules.rules().iter().enumerate() {
        table.row([
            (position + 1).into(),
            (&rule.name).into(),
            action_words(&rule.action).into(),
            rule.share.percent().into(),
            rule.is_shadow.into(),
            rule.counts.matched.load(Ordering::Relaxed).into(),
            rule.counts.would_change.load(Ordering::Relaxed).into(),
        ]);
    }
    table
}

fn action_words(action: &Action) -> String {
    match action {
        Action::Note => "note".to_owned(),
        Action::Primary => "primary".to_owned(),
        Action::Read(terms) => terms_words(terms),
        Action::Refuse { message, sqlstate } => format!("refuse with {sqlstate}: {message}"),
    }
}

fn terms_words(terms: &Terms) -> String {
    let nodes = |nodes: &Nodes| match nodes {
        Nodes::Replicas => "replicas".to_owned(),
        Nodes::Any => "any".to_owned(),
        Nodes::Group(group) => format!("group:{group}"),
    };
    let mut words: Vec<String> = terms.choices.iter().map(nodes).collect();
    words.extend((terms.otherwise == Otherwise::Refuse).then(|| "else refuse".to_owned()));
    words.extend(terms.max_lag.map(|lag| format!("max_lag {lag:?}")));
    words.extend(terms.consistency.map(|consistency| format!("consistency {}", consistency.word())));
    words.extend(terms.timeout.map(|timeout| format!("timeout {timeout:?}")));
    words.join(", ")
}

pub(super) fn reasons() -> Table {
    let mut table = Table::new("reason meaning advice");
    for reason in Reason::ALL {
        table.row([reason.code().into(), reason.words().into(), advice(*reason).into()]);
    }
    table
}

/// Those of all workers together: what fills the primary first, by the time it takes there.
pub(super) fn shapes(reports: &[Report]) -> Table {
    type Key<'a> = (&'a Arc<str>, &'a Arc<str>, &'static str);
    let mut merged: BTreeMap<Key<'_>, (DecisionCounts, &DecisionReport)> = BTreeMap::new();
    for decision in reports.iter().flat_map(|report| &report.decisions) {
        let key = (&decision.text, &decision.node, decision.reason.code());
        merged.entry(key).or_insert_with(|| (DecisionCounts::default(), decision)).0.add(&decision.counts);
    }
    let mut decisions: Vec<_> = merged.into_values().collect();
    let weight = |counts: &DecisionCounts| counts.time.max(Duration::from_micros(counts.made));
    decisions.sort_by_key(|(counts, decision)| (decision.target != Target::Primary, std::cmp::Reverse(weight(counts))));
    let mut table = Table::new("shape target node reason why #count #timed #total_us #avg_us #max_us last advice");
    for (counts, decision) in decisions {
        let advice = match decision.target {
            Target::Primary => advice(decision.reason),
            Target::Replica | Target::None => "",
        };
        table.row([
            (&decision.text).into(),
            decision.target.code().into(),
            (&decision.node).into(),
            decision.reason.code().into(),
            decision.culprit.clone().unwrap_or_else(|| decision.reason.words().to_owned()).into(),
            counts.made.into(),
            counts.timed.into(),
            counts.time.as_micros().into(),
            (counts.time.as_micros() / u128::from(counts.timed.max(1))).into(),
            counts.longest.as_micros().into(),
            counts.last.map(written_instant).map_or(Cell::Null, Cell::from),
            advice.into(),
        ]);
    }
    table
}
