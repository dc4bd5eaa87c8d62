//! What a rule does with what it matches.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::balancing::Strategy;
use crate::routing::rules::{Action, Conditions};
use crate::routing::terms::{Nodes, Otherwise, Terms};
use crate::routing::{Consistency, Transactions};
use crate::sql::Kind;

use super::document::{Item, Table, nearest};

/// The SQLSTATE of a refusal that names none: insufficient privilege.
const REFUSED: &str = "42501";

/// What says on which terms a read runs.
const TERMS: [&str; 5] = ["fallback", "max_lag", "consistency", "timeout", "balance"];

/// The action of a rule; None after a problem. `when` are its conditions, if those could be read.
pub(super) fn read(
    table: &Table<'_>,
    when: Option<&Conditions>,
    groups: &[&str],
    transactions: Transactions,
) -> Option<Action> {
    let (to, refuse, sqlstate) = (table.get("to"), table.get("refuse"), table.get("sqlstate"));
    let terms = terms(table, groups);
    let action = match (&to, refuse) {
        (_, None) => {
            if let Some(sqlstate) = sqlstate {
                sqlstate.problem("a SQLSTATE belongs to a rule that refuses", None);
            }
            sends(table, to.as_ref(), terms?, groups)?
        }
        (None, Some(refuse)) => {
            idle_terms(table, "a rule that refuses sends nowhere");
            refusal(&refuse, sqlstate.as_ref())?
        }
        (Some(_), Some(refuse)) => {
            refuse.problem("a rule either sends (to) or refuses (refuse)", Some("keep one of them".to_owned()));
            return None;
        }
    };
    check_reach(table, to.as_ref(), when?, &action, transactions).then_some(action)
}

/// To the primary, to some nodes, or only on other terms.
fn sends(table: &Table<'_>, to: Option<&Item<'_>>, mut terms: Terms, groups: &[&str]) -> Option<Action> {
    const EXPECTED: &str = "\"primary\", \"replicas\", \"any\", \"group:NAME\", \"tag:NAME\" or \"zone:NAME\"";
    let Some(to) = to else {
        let says_something = TERMS.iter().skip(1).any(|key| table.get(key).is_some()) || table.flag("log", false);
        if let Some(fallback) = table.get("fallback") {
            fallback.problem("a fallback belongs to a rule that sends somewhere (to)", None);
            return None;
        }
        if !says_something {
            table.missing("to", "a rule says where to send (to) or that it refuses (refuse)");
            return None;
        }
        let is_plain = terms == Terms::default();
        return Some(if is_plain { Action::Note } else { Action::Read(Arc::new(terms)) });
    };
    if to.text_as(EXPECTED)? == "primary" {
        idle_terms(table, "what goes to the primary is neither behind nor shared");
        return Some(Action::Primary);
    }
    let first = nodes(to, EXPECTED, groups)?;
    if terms.choices.contains(&first) {
        to.problem("the fallback is where the rule sends anyway", None);
        return None;
    }
    terms.choices.insert(0, first);
    Some(Action::Read(Arc::new(terms)))
}

/// Terms that nothing comes of.
fn idle_terms(table: &Table<'_>, why: &str) {
    for key in TERMS {
        if let Some(item) = table.get(key) {
            item.problem(format!("{why}: {key} says nothing"), None);
        }
    }
}

fn terms(table: &Table<'_>, groups: &[&str]) -> Option<Terms> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let duration = |key: &'static str, example: Duration| {
        let item = table.get(key);
        let read = |item: Item<'_>| item.duration(example, &(Duration::from_millis(1)..=DAY)).ok_or(());
        item.map(read).transpose()
    };
    let max_lag = duration("max_lag", Duration::from_millis(100));
    let timeout = duration("timeout", Duration::from_secs(30));
    let consistency = table.get("consistency").map(|item| item.choice(&Consistency::NAMES).ok_or(())).transpose();
    let strategy = table.get("balance").map(|item| item.choice(&Strategy::NAMES).ok_or(())).transpose();
    let (choices, otherwise) = fallback(table, groups)?;
    Some(Terms {
        choices,
        otherwise,
        max_lag: max_lag.ok()?,
        consistency: consistency.ok()?,
        has_plain_company: false,
        timeout: timeout.ok()?,
        strategy: strategy.ok()?,
    })
}

/// Further choices of nodes, and what happens when none of them can; that is said last, and is "primary" unless said.
fn fallback(table: &Table<'_>, groups: &[&str]) -> Option<(SmallVec<[Nodes; 2]>, Otherwise)> {
    const EXPECTED: &str =
        "\"replicas\", \"any\", \"group:NAME\", \"tag:NAME\", \"zone:NAME\", \"primary\" or \"refuse\"";
    let items = table.get("fallback").map(|item| item.one_or_list()).unwrap_or_default();
    let (mut choices, mut otherwise) = (SmallVec::new(), None);
    for item in &items {
        if otherwise.is_some() {
            item.problem("nothing comes behind \"primary\" and \"refuse\"", None);
            return None;
        }
        match item.text_as(EXPECTED)? {
            "primary" => otherwise = Some(Otherwise::Primary),
            "refuse" => otherwise = Some(Otherwise::Refuse),
            _ => choices.push(nodes(item, EXPECTED, groups)?),
        }
    }
    Some((choices, otherwise.unwrap_or_default()))
}

fn nodes(item: &Item<'_>, expected: &str, groups: &[&str]) -> Option<Nodes> {
    let text = item.text_as(expected)?;
    match text.split_once(':') {
        None if text == "replicas" => Some(Nodes::Replicas),
        None if text == "any" => Some(Nodes::Any),
        Some(("group", name)) => group(item, name, groups).map(Nodes::Group),
        Some(("tag" | "zone", _)) => group(item, text, groups).map(Nodes::Group),
        _ => {
            let bare_group = groups.contains(&text).then(|| format!("did you mean \"group:{text}\"?"));
            item.wrong(expected, bare_group.or_else(|| nearest(text, &["primary", "replicas", "any", "refuse"])));
            None
        }
    }
}

/// The name of a group of some cluster; `tag:NAME` and `zone:NAME` are groups, too.
fn group(item: &Item<'_>, name: &str, groups: &[&str]) -> Option<Arc<str>> {
    let kind = |group: &str| ["tag:", "zone:"].into_iter().find(|kind| group.starts_with(kind));
    let peers: Vec<&str> = groups.iter().copied().filter(|group| kind(group) == kind(name)).collect();
    let is_known = peers.contains(&name);
    if !is_known {
        let (what, made_by) = match kind(name) {
            None => (format!("a group {name:?}"), "groups are made by [[cluster.group]]"),
            Some(_) => (format!("a node of {name:?}"), "tags and zones are given by [[cluster.node]]"),
        };
        let hint = match &*peers {
            [] => Some(made_by.to_owned()),
            _ => nearest(name, &peers).or_else(|| Some(format!("there is: {}", peers.join(", ")))),
        };
        item.problem(format!("no cluster has {what}"), hint);
    }
    is_known.then(|| name.into())
}

fn refusal(refuse: &Item<'_>, sqlstate: Option<&Item<'_>>) -> Option<Action> {
    let sqlstate = sqlstate.map_or_else(|| Some(REFUSED.into()), read_sqlstate);
    let text = refuse.text()?;
    if text.trim().is_empty() {
        refuse.problem("the message is empty: say why, the client will read it", None);
        return None;
    }
    Some(Action::Refuse { message: text.into(), sqlstate: sqlstate? })
}

fn read_sqlstate(item: &Item<'_>) -> Option<Arc<str>> {
    const EXPECTED: &str = "a SQLSTATE of five digits and capital letters as in \"42501\"";
    let text = item.text_as(EXPECTED)?;
    let is_sqlstate = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
    if !is_sqlstate {
        item.wrong(EXPECTED, None);
        return None;
    }
    if matches!(text.get(..2), Some("00" | "01" | "02")) {
        item.problem(format!("{text} is not an error: classes 00, 01 and 02 are success, warning and no data"), None);
        return None;
    }
    Some(text.into())
}

/// Whether the rule can do what it says with what it matches.
fn check_reach(
    table: &Table<'_>,
    to: Option<&Item<'_>>,
    when: &Conditions,
    action: &Action,
    transactions: Transactions,
) -> bool {
    let Some(to) = to else { return terms_count(table, when, action) };
    // An optimistic one goes on at the primary.
    let goes_on = transactions == Transactions::Optimistic && *action == Action::Primary;
    if when.in_transaction == Some(true) && !goes_on && !table.flag("log", false) {
        let what = "a transaction stays where it has begun: a rule can only refuse or log what is in it";
        to.problem(what, None);
        return false;
    }
    if *action == Action::Primary {
        return true;
    }
    if let Some(kind) = when.kinds.iter().find(|kind| never_reads(**kind)) {
        to.problem(format!("{} never runs on a replica: a rule can only move reads", kind.name()), None);
        return false;
    }
    if when.unfiltered {
        to.problem("an UPDATE or DELETE never runs on a replica: a rule can only move reads", None);
        return false;
    }
    true
}

/// Whether terms that say not where to can count for anything that the rule matches.
fn terms_count(table: &Table<'_>, when: &Conditions, action: &Action) -> bool {
    let matches_reads = when.kinds.is_empty() || !when.kinds.iter().all(|kind| never_reads(*kind));
    if !matches!(action, Action::Read(_)) || matches_reads && !when.unfiltered {
        return true;
    }
    idle_terms(table, "it matches only what never runs on a replica, and terms are for reads");
    false
}

/// No statement of the kind can run on a replica, whatever it says.
fn never_reads(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Insert
            | Kind::Update
            | Kind::Delete
            | Kind::Merge
            | Kind::Truncate
            | Kind::Ddl
            | Kind::Maintenance
            | Kind::Call
            | Kind::Do
            | Kind::Listen
            | Kind::Notify
            | Kind::Lock
    )
}
