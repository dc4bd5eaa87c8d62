//! What rules have to do with statements, counted and logged where a rule wants it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::conversation::Client;
use crate::routing::rules::{MINUTES_OF_A_DAY, Rule};
use crate::session::{Ruled, Session};

impl Client {
    /// What has been gathered is sent now, or refused: the rules that had a part in its statements are counted, of each once,
    /// however often that was looked at or is run.
    #[inline(never)]
    pub(super) fn count_rulings(&mut self) {
        let gathered = &self.session.gathered;
        // Behind an error in its batch nothing is run.
        if !self.session.is_skipping() {
            let is_new = |ruled: &&Ruled| ruled.at >= self.counted;
            gathered.rulings.iter().filter(is_new).for_each(|ruled| self.count_ruling(ruled));
        }
        self.counted = self.counted.saturating_sub(gathered.size);
    }

    fn count_ruling(&self, ruled: &Ruled) {
        let rules = ruled.rules(&self.server.rules);
        for &(number, would_change) in &ruled.ruling.shadows {
            if let Some(rule) = rules.rule(number) {
                rule.count_shadow(would_change);
                log(rule, Some(would_change), ruled, &self.session);
            }
        }
        let Some(rule) = ruled.rule(&self.server.rules) else { return };
        rule.count_match();
        log(rule, None, ruled, &self.session);
    }
}

/// Logs a match of a rule that wants it; of one that decides nothing, whether it would have changed something. It names no
/// literal.
fn log(rule: &Rule, would_change: Option<bool>, ruled: &Ruled, session: &Session) {
    if !rule.logs {
        return;
    }
    tracing::info!(
        rule = %rule.name,
        user = &*session.identity.user,
        database = &*session.identity.database,
        kind = ruled.kind,
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
