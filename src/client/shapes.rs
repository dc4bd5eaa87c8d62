//! Recent decisions by the shape of their statement: how often, where, why and how long. Each worker keeps its own.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::metrics::Target;
use crate::routing::Reason;
use crate::sql::{NeedsPrimary, Statement};

/// One worker's recent decisions.
#[derive(Debug, Default)]
pub struct Shapes {
    decisions: HashMap<Key, Decision, foldhash::fast::RandomState>,
}

/// The same statement of a worker's cache, sent to the same node for the same reason. Both pointers are kept alive by the
/// decision, so that no other can take their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    statement: usize,
    node: usize,
    reason: Reason,
}

#[derive(Debug)]
struct Decision {
    /// Only so that no other statement is taken for it: what it holds may be large, and nothing limits that here.
    _statement: Weak<Statement>,
    culprit: Option<String>,
    /// Without its literals.
    text: Arc<str>,
    node: Arc<str>,
    target: Target,
    counts: DecisionCounts,
    /// Times since the table was last thinned, and half of those before.
    recent: u64,
}

/// How often a decision was made, and how long its statements took.
#[derive(Clone, Copy, Debug, Default)]
pub struct DecisionCounts {
    /// Times it was made.
    pub made: u64,
    /// Of these, statements that were a transaction of their own: only their time is known.
    pub timed: u64,
    /// How long those took together.
    pub time: Duration,
    /// The longest of them.
    pub longest: Duration,
    /// When it was last made.
    pub last: Option<Instant>,
}

/// A decision, to be shown elsewhere.
#[derive(Clone, Debug)]
pub struct DecisionReport {
    /// The statement without its literals.
    pub text: Arc<str>,
    /// The node's address.
    pub node: Arc<str>,
    /// Its role.
    pub target: Target,
    /// Why.
    pub reason: Reason,
    /// What in the statement needs the primary, in words.
    pub culprit: Option<String>,
    /// How often, how long.
    pub counts: DecisionCounts,
}

/// Decisions kept per worker; beyond, the half that was made least often lately is forgotten.
const MOST: usize = 1024;

impl Shapes {
    /// A decision was made. `text` is asked only for one that is new here.
    #[inline]
    pub fn made(
        &mut self,
        statement: &Arc<Statement>,
        node: &Arc<str>,
        (target, reason): (Target, Reason),
        now: Instant,
        text: impl FnOnce() -> String,
    ) -> Key {
        let key = Key { statement: Arc::as_ptr(statement) as usize, node: node.as_ptr() as usize, reason };
        match self.decisions.get_mut(&key) {
            Some(decision) => decision.count(now),
            None => self.insert(key, statement, node, target, now, text()),
        }
        key
    }

    /// Its statement, alone in its transaction, has ended.
    #[inline]
    pub fn ended(&mut self, key: Key, took: Duration) {
        if let Some(Decision { counts, .. }) = self.decisions.get_mut(&key) {
            counts.timed += 1;
            counts.time += took;
            counts.longest = counts.longest.max(took);
        }
    }

    #[cold]
    fn insert(
        &mut self,
        key: Key,
        statement: &Arc<Statement>,
        node: &Arc<str>,
        target: Target,
        now: Instant,
        text: String,
    ) {
        if self.decisions.len() >= MOST {
            self.thin_out();
        }
        let culprit = statement.needs_primary().filter(|why| Reason::from(*why) == key.reason);
        let mut decision = Decision {
            _statement: Arc::downgrade(statement),
            culprit: culprit.map(NeedsPrimary::to_string),
            text: text.into(),
            node: Arc::clone(node),
            target,
            counts: DecisionCounts::default(),
            recent: 0,
        };
        decision.count(now);
        self.decisions.insert(key, decision);
    }

    fn thin_out(&mut self) {
        let mut recent: Vec<u64> = self.decisions.values().map(|decision| decision.recent).collect();
        let middle = recent.len() / 2;
        let (_, median, _) = recent.select_nth_unstable(middle);
        let median = *median;
        // Of those that are as rare as the median, room for a few is made too: all may be alike.
        let mut spare = middle;
        self.decisions.retain(|_, decision| {
            let stays = decision.recent > median || (decision.recent == median && spare > 0);
            spare -= usize::from(stays && decision.recent == median);
            decision.recent /= 2;
            stays
        });
    }

    /// All of them.
    pub fn report(&self) -> Vec<DecisionReport> {
        self.decisions.iter().map(|(key, decision)| decision.report(key.reason)).collect()
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.decisions.clear();
    }
}

impl Decision {
    #[inline]
    fn count(&mut self, now: Instant) {
        self.counts.made += 1;
        self.counts.last = Some(now);
        self.recent += 1;
    }

    fn report(&self, reason: Reason) -> DecisionReport {
        DecisionReport {
            text: Arc::clone(&self.text),
            node: Arc::clone(&self.node),
            target: self.target,
            reason,
            culprit: self.culprit.clone(),
            counts: self.counts,
        }
    }
}

impl DecisionCounts {
    /// Together with those of another worker.
    pub fn add(&mut self, other: &Self) {
        self.made += other.made;
        self.timed += other.timed;
        self.time += other.time;
        self.longest = self.longest.max(other.longest);
        self.last = self.last.max(other.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{ParseSettings, classify};

    fn make(shapes: &mut Shapes, statement: &Arc<Statement>, reason: Reason) -> Key {
        let node = Arc::from("a:5432");
        shapes.made(statement, &node, (Target::Primary, reason), Instant::now(), || "select ?".to_owned())
    }

    #[test]
    fn what_is_made_often_stays_when_the_table_is_full() {
        let mut shapes = Shapes::default();
        let statement = |text: &str| Arc::new(classify(text, &ParseSettings::default()));
        let often = statement("insert into t values (1)");
        let node: Arc<str> = "a:5432".into();
        let now = Instant::now();
        for number in 0..3 * MOST {
            if number % 32 == 0 {
                shapes.made(&often, &node, (Target::Primary, Reason::Writes), now, || "insert".to_owned());
            }
            let rare = statement(&format!("select {number}"));
            shapes.made(&rare, &node, (Target::Replica, Reason::Read), now, || "rare".to_owned());
        }
        assert!(shapes.decisions.len() <= MOST);
        let report = shapes.report();
        let kept = report.iter().find(|decision| &*decision.text == "insert").unwrap();
        assert_eq!(kept.counts.made, 96);
        assert!(kept.culprit.is_some());
    }

    #[test]
    fn reasons_are_kept_apart() {
        let mut shapes = Shapes::default();
        let statement = Arc::new(classify("select 1", &ParseSettings::default()));
        let one = make(&mut shapes, &statement, Reason::Read);
        assert_ne!(one, make(&mut shapes, &statement, Reason::NotFresh));
    }
}
