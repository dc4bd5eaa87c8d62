//! Routing rules: ordered, the first match wins. [`crate::config`] reads them from files.
//!
//! What of a rule depends on the sender alone is found out once per session, what depends on the statement alone once per
//! cached statement: what is left for each execution are two sets of numbers and what they have in common.

mod conditions;
mod pattern;

use crate::balancing::Strategy;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::terms::Terms;
use crate::sql::{Bits, Findings, ParseSettings, Statement, fingerprint};

pub use conditions::Conditions;
pub use pattern::{Hours, MINUTES_OF_A_DAY, NamePattern, Network, Pattern, TagPattern};

/// Compiled rules in the order of their files. Never changed: a reload makes another one.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    groups: Vec<Arc<str>>,
    number: u64,
    /// Rules with a condition on the text.
    on_text: Bits,
    has_text: bool,
    has_fingerprint: bool,
    has_share: bool,
    has_application_name: bool,
    has_hours: bool,
    has_transaction: bool,
    has_latency: bool,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name, unique in the set; shown in reasons and counted.
    pub name: Arc<str>,
    /// What it matches.
    pub when: Conditions,
    /// What to do.
    pub action: Action,
    /// It takes only a part of what it matches; the rest goes on to the next rules.
    pub share: Share,
    /// It decides nothing and counts what it would have changed.
    pub is_shadow: bool,
    /// Each statement it decides is logged.
    pub logs: bool,
    /// How often.
    pub counts: Arc<RuleCounts>,
}

impl Rule {
    fn balances_by_latency(&self) -> bool {
        matches!(&self.action, Action::Read(terms) if terms.strategy == Some(Strategy::Latency))
    }
}

/// What a rule does with what it matches. It can never send an unsafe statement to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing more than to count it, and to log it where the rule says so.
    Note,
    /// To the primary.
    Primary,
    /// A read to the nodes, and on the terms, that are given.
    Read(Arc<Terms>),
    /// Not at all.
    Refuse {
        /// What the client is told.
        message: Arc<str>,
        /// With this SQLSTATE. Default 42501.
        sqlstate: Arc<str>,
    },
}

/// A part of the statements: of 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u32);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);

    /// This many of ten thousand; None if that is none, or more than all.
    pub fn of_ten_thousand(parts: u32) -> Option<Self> {
        match parts {
            1..10_000 => Some(Self(u32::MAX / 10_000 * parts)),
            10_000 => Some(Self::ALL),
            _ => None,
        }
    }

    /// In percent, rounded up.
    pub fn percent(self) -> u64 {
        (u64::from(self.0) * 100).div_ceil(u64::from(Self::ALL.0))
    }

    fn takes(self, draw: u64) -> bool {
        self == Self::ALL || draw >> 32 < u64::from(self.0)
    }
}

/// How often a rule has matched.
#[derive(Debug, Default)]
pub struct RuleCounts {
    /// Statements it decided; of a shadow rule: that it would have decided.
    pub matched: AtomicU64,
    /// Of a shadow rule: statements that would have gone elsewhere by it.
    pub would_change: AtomicU64,
}

/// What a rule may know of who sends a statement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sender<'a> {
    /// The session's user.
    pub user: &'a str,
    /// The database as the client named it.
    pub database: &'a str,
    /// The session's application_name now.
    pub application_name: &'a str,
    /// Where the client comes from; None: not over IP.
    pub address: Option<IpAddr>,
}

/// The rules whose conditions on the sender hold, for as long as those do not change.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    list: u64,
    application_name: Box<str>,
    rules: Bits,
}

/// What a rule may know of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moment {
    /// Minutes since midnight UTC.
    pub minute: u16,
    /// The statement is in a transaction.
    pub in_transaction: bool,
    /// Any number: decides what is part of a share. [`EVERY_SHARE`] is part of all.
    pub draw: u64,
}

/// Which rules matched, as numbers into [`RuleSet::rules`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// The first that decides.
    pub rule: Option<usize>,
    /// Shadow rules before it.
    pub shadows: SmallVec<[usize; 2]>,
}

impl RuleSet {
    /// These rules, in order. `groups` are the names of the groups there are, for hints; `number` differs from that of
    /// every set with other rules.
    pub fn new(rules: Vec<Rule>, groups: Vec<Arc<str>>, number: u64) -> Self {
        let with_text = |(at, rule): (usize, &Rule)| rule.when.text.as_ref().map(|_| at);
        let on_text: Bits = rules.iter().enumerate().filter_map(with_text).collect();
        Self {
            has_text: rules.iter().any(|rule| rule.when.text.is_some()),
            has_fingerprint: rules.iter().any(|rule| !rule.when.fingerprints.is_empty()),
            has_share: rules.iter().any(|rule| rule.share != Share::ALL),
            has_application_name: rules.iter().any(|rule| !rule.when.application_names.is_empty()),
            has_hours: rules.iter().any(|rule| !rule.when.hours.is_empty()),
            has_transaction: rules.iter().any(|rule| rule.when.in_transaction.is_some()),
            has_latency: rules.iter().any(Rule::balances_by_latency),
            on_text,
            rules,
            groups,
            number,
        }
    }

    /// The same rules, which go on counting where those of the same name in `former` stand.
    pub fn counting_on(mut self, former: &Self) -> Self {
        for rule in &mut self.rules {
            if let Some(same) = former.rules.iter().find(|same| same.name == rule.name) {
                rule.counts = Arc::clone(&same.counts);
            }
        }
        self
    }

    /// The rules, with their counts, first match wins.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of this number.
    pub fn rule(&self, number: usize) -> Option<&Rule> {
        self.rules.get(number)
    }

    /// There are no rules.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The names of the groups there are.
    pub fn groups(&self) -> &[Arc<str>] {
        &self.groups
    }

    /// Some rule must know the text.
    pub fn looks_at_texts(&self) -> bool {
        self.has_text || self.has_fingerprint
    }

    /// Some rule depends on the time of day.
    pub fn looks_at_time(&self) -> bool {
        self.has_hours
    }

    /// Some rule depends on whether a transaction is open.
    pub fn looks_at_transactions(&self) -> bool {
        self.has_transaction
    }

    /// Some rule has nodes picked by what they have taken lately.
    pub fn balances_by_latency(&self) -> bool {
        self.has_latency
    }

    /// Some rule takes only a share.
    pub fn draws(&self) -> bool {
        self.has_share
    }

    /// The rules that may match what this sender sends.
    pub fn standing(&self, sender: &Sender<'_>) -> Standing {
        let holds = |(at, rule): (usize, &Rule)| rule.when.hold_for_sender(sender).then_some(at);
        let rules = self.rules.iter().enumerate().filter_map(holds).collect();
        Standing { list: self.number, application_name: sender.application_name.into(), rules }
    }

    /// None of them matches this statement of this sender, whenever it comes and whatever its literals are. False if that
    /// has not been found out yet.
    #[inline]
    pub fn pass_over(&self, standing: &Standing, statement: &Statement) -> bool {
        self.rules.is_empty() || standing.rules.is_empty() || {
            let noted = statement.noted.get();
            noted.as_ref().is_some_and(|noted| noted.list == self.number && !noted.hold.meets(&standing.rules))
        }
    }

    /// The rules that match, up to the first that decides.
    pub fn matching(&self, standing: &Standing, statement: &Statement, text: &str, moment: &Moment) -> Matched {
        let mut matched = Matched::default();
        if self.rules.is_empty() {
            return matched;
        }
        let noted = statement.noted.get();
        let known = noted.as_ref().filter(|findings| findings.list == self.number);
        let found;
        let findings: &Findings = match known {
            Some(known) => known,
            None => {
                found = self.look_at(statement, text);
                statement.noted.put(Arc::clone(&found));
                &found
            }
        };
        let for_text = findings.for_text.as_ref().filter(|(known, _)| **known == *text).map(|(_, hold)| hold);
        for number in findings.hold.common(&standing.rules) {
            let Some(rule) = self.rules.get(number) else { break };
            let holds_for_text = match for_text {
                _ if !self.on_text.contains(number) => true,
                Some(hold) => hold.contains(number),
                None => rule.when.hold_for_text(text),
            };
            if !holds_for_text || !rule.when.hold_now(moment) || !rule.share.takes(mixed(moment.draw, number)) {
                continue;
            }
            if rule.is_shadow {
                matched.shadows.push(number);
                continue;
            }
            matched.rule = Some(number);
            break;
        }
        matched
    }

    fn look_at(&self, statement: &Statement, text: &str) -> Arc<Findings> {
        // However long the literals are: what is found is noted for all texts of the shape.
        let settings = ParseSettings { max_bytes: usize::MAX, ..ParseSettings::default() };
        let has_one = self.has_fingerprint && !statement.is_too_large();
        let print = has_one.then(|| fingerprint(text, &settings)).flatten();
        let holds = |(at, rule): (usize, &Rule)| rule.when.hold_for_statement(statement, print).then_some(at);
        let hold: Bits = self.rules.iter().enumerate().filter_map(holds).collect();
        let mut on_text = hold.common(&self.on_text).peekable();
        let for_text = (on_text.peek().is_some() && text.len() <= LONGEST_NOTED).then(|| {
            let holds = |number: &usize| self.rule(*number).is_some_and(|rule| rule.when.hold_for_text(text));
            (text.into(), on_text.filter(holds).collect())
        });
        Arc::new(Findings { list: self.number, hold, for_text })
    }
}

/// Bytes; what a rule thinks of a longer text is not kept with it.
const LONGEST_NOTED: usize = 4096;

/// The draw for whoever only asks where a statement may go: every rule that takes a share takes it.
pub const EVERY_SHARE: u64 = 0;

/// Each rule draws for itself: two that take a half each leave a quarter.
fn mixed(draw: u64, number: usize) -> u64 {
    if draw == EVERY_SHARE {
        return 0;
    }
    let seed = draw ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Standing {
    /// It still holds: for these rules, and this application_name.
    pub fn is_of(&self, rules: &RuleSet, application_name: &str) -> bool {
        self.list == rules.number && *self.application_name == *application_name
    }

    /// It holds for these rules as long as the session lasts.
    #[inline]
    pub fn is_settled(&self, rules: &RuleSet) -> bool {
        self.list == rules.number && !rules.has_application_name
    }
}

impl Rule {
    /// Hides `other` if it comes before it: whatever that one matches, this one decides.
    pub fn hides(&self, other: &Self) -> bool {
        !self.is_shadow && self.share == Share::ALL && self.when.covers(&other.when)
    }

    /// What is to be said of its decisions where it takes a share of the statements only.
    pub fn share_words(&self) -> Option<String> {
        (self.share != Share::ALL)
            .then(|| format!("rule {} matches, which takes {} % of such statements", self.name, self.share.percent()))
    }

    /// It has decided a statement.
    pub fn count_match(&self) {
        self.counts.matched.fetch_add(1, Ordering::Relaxed);
    }

    /// As a shadow rule, it would have decided a statement, and changed where it goes or not.
    pub fn count_shadow(&self, would_change: bool) {
        self.count_match();
        if would_change {
            self.counts.would_change.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl RuleCounts {
    /// Statements it decided; of a shadow rule: that it would have decided.
    pub fn matched(&self) -> u64 {
        self.matched.load(Ordering::Relaxed)
    }

    /// Of a shadow rule: statements that would have gone elsewhere by it.
    pub fn would_change(&self) -> u64 {
        self.would_change.load(Ordering::Relaxed)
    }
}
