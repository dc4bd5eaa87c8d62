//! EXPLAIN ROUTE: where a statement would go now, sent alone in a session that has done nothing.

use std::sync::Arc;
use std::time::Instant;

use super::table::Table;
use crate::catalog::Found;
use crate::client::{Database, Server, in_mode, login_has_own_first, minute_of_the_day};
use crate::routing::place::Circumstances;
use crate::routing::rules::{EVERY_SHARE, Rule};
use crate::routing::{
    Catalog, Defaults, Facts, InTransaction, Intent, Placement, Reason, Sender, Weighed, advice, place, weigh_whole,
};
use crate::sql::{NeedsPrimary, ParseSettings, PreparedNames, Statement, classify};
use crate::topology::View;

/// One row for each database: they may be of other clusters, their catalogs differ, and rules may look at their name.
pub(super) fn explain(sql: &str, user: &str, server: &Server) -> Table {
    let mut table = Table::new("database target node reason why rule advice");
    let settings = ParseSettings { max_bytes: server.limits.statement_bytes, ..ParseSettings::default() };
    let statement = classify(sql, &settings);
    let mut databases: Vec<_> = server.databases.iter().collect();
    databases.sort_by_key(|(name, _)| *name);
    for (name, database) in databases {
        let (Weighed { intent, ruling }, found) = weigh_for(&statement, sql, (user, name, database), server);
        let intent = in_mode(server.mode_of(database, user), intent, &statement);
        let rule = ruling.rule.and_then(|number| server.rules.rule(number));
        let view = server.cluster(database).view.load();
        let (node, reason) = find_node(&intent, &view, database, server);
        let target = match (&intent, node) {
            (Intent::Refuse { .. }, _) => "refused",
            (_, Some(address)) if view.primary().is_some_and(|primary| primary.address == *address) => "primary",
            (_, Some(_)) => "replica",
            (_, None) => "waits",
        };
        let mut said = match &intent {
            Intent::Refuse { message, .. } => message.to_string(),
            _ => words(&statement, reason, found.as_ref()),
        };
        if let Some(share) = rule.and_then(Rule::share_words) {
            said.push_str(&format!(" ({share})"));
        }
        let hint = if target == "primary" { advice(reason) } else { "" };
        table.row([
            name.into(),
            target.into(),
            node.into(),
            reason.code().into(),
            said.into(),
            rule.map(|rule| &rule.name).into(),
            hint.into(),
        ]);
    }
    table
}

/// What routing and the catalogs say of it.
fn weigh_for(
    statement: &Statement,
    sql: &str,
    (user, name, database): (&str, &Arc<str>, &Database),
    server: &Server,
) -> (Weighed, Option<Found>) {
    let known = database.catalog.look();
    let picture = known.picture();
    let path = picture.map(|picture| picture.path(None, user, user));
    let catalog = match (picture, &path) {
        (Some(picture), Some(path)) => Catalog::Known { picture, path, key: None },
        _ => Catalog::Unknown {
            last: None,
            own_first: login_has_own_first(&user.into(), server, database),
            lists: &server.functions,
        },
    };
    let sender = Sender { user, database: name, application_name: "", address: None };
    let facts = Facts {
        standing: &server.rules.standing(&sender),
        minute: minute_of_the_day(),
        draw: EVERY_SHARE,
        heeds_hints: server.hints,
        reads: server.reads,
        transaction: InTransaction::No,
        is_within: false,
        optimistic: server.optimistic,
        defaults: defaults(user, database, server),
        prepared: &PreparedNames::default(),
        catalog,
    };
    let found = picture.zip(path.as_ref()).and_then(|(picture, path)| picture.find(statement, path));
    (weigh_whole(statement, sql, &facts, &server.rules), found)
}

/// How transactions of this user begin, as some client of it was told: no node is asked.
fn defaults(user: &str, database: &Database, server: &Server) -> Defaults {
    let cluster = server.cluster(database).number;
    let told = server.welcomes.of_user(cluster, &database.server_name, user, &Defaults::SETTINGS);
    let Some(told) = told else { return Defaults::default() };
    Defaults::of(|name| told.iter().find(|(known, _)| **known == *name).map(|(_, value)| &**value))
}

/// The node it would be sent to; None: it would wait, or is refused.
fn find_node<'v>(
    intent: &Intent,
    view: &'v View,
    database: &Database,
    server: &Server,
) -> (Option<&'v Arc<str>>, Reason) {
    if matches!(intent, Intent::Refuse { .. }) {
        return (None, intent.reason());
    }
    let cluster = server.cluster(database);
    let circumstances = Circumstances {
        reads: server.reads,
        freshness: None,
        group: &|name| cluster.group(name),
        balance: &cluster.balance,
        latency: &|_| None,
        stays_with: None,
        leases: &|node| cluster.gate(node).map_or(0, |gate| gate.leases()),
        excluded: &[],
        may_wait: false,
        now: Instant::now(),
        turn: 0,
    };
    match place(intent, view, &circumstances) {
        Placement::Node(node, reason) => (view.node(node).map(|node| &node.address), reason),
        Placement::AwaitPrimary(reason) => (None, reason),
        Placement::AwaitFreshness | Placement::Refused => (None, intent.reason()),
    }
}

/// Why, with the culprit where one is known.
fn words(statement: &Statement, reason: Reason, found: Option<&Found>) -> String {
    let from_text = statement.needs_primary().filter(|why| Reason::from(*why) == reason).map(NeedsPrimary::to_string);
    let from_catalog = found.filter(|found| Reason::from(found.why) == reason);
    let culprit = from_text.or_else(|| Some(format!("{}: {}", reason.words(), from_catalog?.name)));
    culprit.unwrap_or_else(|| reason.words().to_owned())
}
