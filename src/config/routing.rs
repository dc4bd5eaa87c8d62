//! `[routing]`: where statements go.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{FunctionLists, FunctionPattern};
use crate::routing::{Consistency, Reads, Transactions};

use super::document::{Distinct, Item, Table};
use super::problem::Problem;
use super::{Cluster, Routing, name, rule_file};

impl Routing {
    /// The section and the rule files it names, whose problems are added to `problems`; every setting has a default.
    pub(super) fn read(table: Table<'_>, folder: &Path, clusters: &[Cluster], problems: &mut Vec<Problem>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let reads = [("replicas", Reads::Replicas), ("any", Reads::Any), ("primary", Reads::Primary)];
        let modes = [("primary", Transactions::Primary), ("optimistic", Transactions::Optimistic)];
        let transactions = table.choice("transactions", &modes, Transactions::Primary);
        let rules = read_rules(&table, folder, clusters, transactions, problems);
        let routing = Self {
            reads: table.choice("reads", &reads, Reads::Replicas),
            consistency: table.choice("consistency", &Consistency::NAMES, Consistency::Session),
            transactions,
            max_lag: table.duration("max_lag", Duration::from_secs(10), Duration::from_millis(1)..=DAY),
            freshness_wait: {
                let longest = Duration::from_secs(1);
                table.duration("freshness_wait", Duration::from_millis(50), Duration::ZERO..=longest)
            },
            catalog_refresh: table.duration("catalog_refresh", Duration::from_secs(30), Duration::from_secs(1)..=DAY),
            functions: Arc::new(FunctionLists {
                safe: read_functions(&table, "safe_functions"),
                primary: read_functions(&table, "primary_functions"),
                session: read_functions(&table, "session_functions"),
            }),
            hints: table.flag("hints", true),
            rules: Arc::new(rules),
        };
        table.finish();
        routing
    }
}

fn read_functions(table: &Table<'_>, key: &'static str) -> Vec<FunctionPattern> {
    let items = table.get(key).map(|item| item.list("names of functions")).unwrap_or_default();
    let mut distinct = Distinct::new();
    let mut read = |item: &Item<'_>| {
        let text = item.text().filter(|text| distinct.admit(text, item))?;
        name::pattern(item, "a function's name, schema.name, or a pattern with *")?;
        Some(FunctionPattern::new(text))
    };
    items.iter().filter_map(&mut read).collect()
}

fn read_rules(
    table: &Table<'_>,
    folder: &Path,
    clusters: &[Cluster],
    transactions: Transactions,
    problems: &mut Vec<Problem>,
) -> crate::routing::RuleSet {
    let items = table.get("rules").map(|item| item.list("file names")).unwrap_or_default();
    let mut distinct = Distinct::new();
    let mut files = Vec::new();
    for item in items {
        let Some(name) = item.text().filter(|name| distinct.admit(name, &item)) else { continue };
        let path = folder.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push((path, text)),
            Err(error) => item.problem(format!("{} cannot be read: {error}", path.display()), None),
        }
    }
    let mut groups: Vec<Arc<str>> =
        clusters.iter().flat_map(|cluster| &cluster.groups).map(|(name, _)| Arc::clone(name)).collect();
    groups.sort_unstable();
    groups.dedup();
    rule_file::read_all(&files, groups, transactions, problems)
}
