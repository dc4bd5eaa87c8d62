//! What rules have to do with statements, counted and logged where a rule wants it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::routing::rules::{MINUTES_OF_A_DAY, Rule};
use crate::routing::{RuleSet, Ruling};
use crate::session::Session;

/// Counts the rules that had a part in a statement of the session. What is logged names no literal.
pub(super) fn count(ruling: &Ruling, rules: &RuleSet, session: &Session) {
    for &(number, would_change) in &ruling.shadows {
        if let Some(rule) = rules.rule(number) {
            rule.count_shadow(would_change);
            log(rule, Some(would_change), session);
        }
    }
    let Some(rule) = ruling.rule.and_then(|number| rules.rule(number)) else { return };
    rule.count_match();
    log(rule, None, session);
}

/// Logs a match of a rule that wants it; of one that decides nothing, whether it would have changed something.
fn log(rule: &Rule, would_change: Option<bool>, session: &Session) {
    if !rule.logs {
        return;
    }
    let first = session.gathered.first.as_ref().and_then(|statement| statement.parts.first());
    tracing::info!(
        rule = %rule.name,
        user = &*session.identity.user,
        database = &*session.identity.database,
        kind = first.map_or("", |part| part.kind.name()),
        reason = session.intent().map_or("", |intent| intent.reason().code()),
        would_change,
        "a rule matched a statement"
    );
}

/// Minutes since midnight UTC.
pub fn minute_of_the_day() -> u16 {
    let minutes = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60);
    u16::try_from(minutes % u64::from(MINUTES_OF_A_DAY)).unwrap_or(0)
}
