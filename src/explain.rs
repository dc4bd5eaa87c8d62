//! `trunkline explain`: where statements would go, and why.

use std::io::{self, BufRead, BufWriter, Write};
use std::sync::Arc;

use serde::Serialize;

use crate::config::Config;
use crate::routing::{Facts, InTransaction, Intent, Reads, Reason, RuleSet, Sender, intend};
use crate::session::pins::Pins;
use crate::sql::{Cache, NeedsPrimary, ParseSettings, PreparedNames, SessionChange, Statement, TransactionControl};

/// What is asked.
pub enum Input {
    /// One query string; the answer is for people.
    Statement(String),
    /// Each line a JSON string, or an array of them that is one session; each answer is a line of JSON.
    JsonLines(Box<dyn BufRead>),
}

/// What may be known beyond the statements themselves.
#[derive(Debug)]
pub enum Knowledge {
    /// Nothing: no catalogs, no nodes, no rules.
    None,
    /// A running cluster and the rules.
    Cluster {
        /// Where it is.
        config: Box<Config>,
        /// Which database, as clients name it; None: the first one.
        database: Option<String>,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Input or output failed.
    #[error("cannot read or write")]
    Io(#[from] io::Error),
    /// A line is not what it must be.
    #[error("line {line}: expected a JSON string, or an array of JSON strings")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// One answer.
#[derive(Debug, Serialize)]
struct Answer {
    target: &'static str,
    reason: &'static str,
    why: String,
}

/// One line of input.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Statement(String),
    Session(Vec<String>),
}

/// Answers on standard output.
pub fn run(knowledge: Knowledge, input: Input) -> Result<(), Failure> {
    let mut explainer = Explainer::new(knowledge);
    let mut out = BufWriter::new(io::stdout().lock());
    match input {
        Input::Statement(sql) => {
            let answer = explainer.session().explain(&sql);
            writeln!(out, "target: {}\nreason: {}\nwhy:    {}", answer.target, answer.reason, answer.why)?;
        }
        Input::JsonLines(lines) => {
            for (index, line) in lines.lines().enumerate() {
                let line = line?;
                if line.trim().is_empty() {
                    continue;
                }
                let line = serde_json::from_str(&line).map_err(|source| Failure::Line { line: index + 1, source })?;
                explainer.answer_line(line, &mut out)?;
            }
        }
    }
    Ok(out.flush()?)
}

/// Caches and rules, over all sessions of the input.
struct Explainer {
    cache: Cache,
    parse: ParseSettings,
    rules: Arc<RuleSet>,
    reads: Reads,
    user: Arc<str>,
    database: Arc<str>,
}

/// What is known of one session: as much as its statements tell.
struct Imagined<'e> {
    explainer: &'e mut Explainer,
    transaction: InTransaction,
    prepared: PreparedNames,
    pins: Pins,
}

impl Explainer {
    fn new(knowledge: Knowledge) -> Self {
        let limits = ParseSettings::default();
        let (rules, reads, user, database) = match knowledge {
            Knowledge::None => (Arc::default(), Reads::Replicas, "".into(), "".into()),
            Knowledge::Cluster { config, database } => {
                let user = config.users.first().map(|user| Arc::clone(&user.name)).unwrap_or_default();
                let first = config.databases.first().map(|database| Arc::clone(&database.name)).unwrap_or_default();
                (config.routing.rules, config.routing.reads, user, database.map_or(first, Into::into))
            }
        };
        Self { cache: Cache::new(64 << 20), parse: limits, rules, reads, user, database }
    }

    fn session(&mut self) -> Imagined<'_> {
        Imagined {
            explainer: self,
            transaction: InTransaction::No,
            prepared: PreparedNames::default(),
            pins: Pins::default(),
        }
    }

    fn answer_line(&mut self, line: Line, out: &mut impl Write) -> Result<(), Failure> {
        let mut session = self.session();
        let written = match line {
            Line::Statement(sql) => serde_json::to_writer(&mut *out, &session.explain(&sql)),
            Line::Session(statements) => {
                let answers: Vec<Answer> = statements.iter().map(|sql| session.explain(sql)).collect();
                serde_json::to_writer(&mut *out, &answers)
            }
        };
        written.map_err(io::Error::from)?;
        Ok(writeln!(out)?)
    }
}

impl Imagined<'_> {
    fn explain(&mut self, sql: &str) -> Answer {
        let statement = self.explainer.cache.get(sql.as_bytes(), &self.explainer.parse);
        let facts = Facts {
            sender: Sender { user: &self.explainer.user, database: &self.explainer.database, application_name: "" },
            reads: self.explainer.reads,
            transaction: self.transaction,
            serializable_by_default: false,
            prepared: &self.prepared,
        };
        let intent = match self.pins.first() {
            Some(pin) => Intent::Primary(Reason::from(pin)),
            None => intend(&statement, sql, &facts, &self.explainer.rules),
        };
        self.follow(&statement, &intent);
        answer(&intent, &statement)
    }

    /// What the statement leaves in the session, if it succeeds.
    fn follow(&mut self, statement: &Statement, intent: &Intent) {
        for part in &statement.parts {
            match part.transaction {
                TransactionControl::Begin(_) => {
                    let is_read = matches!(intent, Intent::Read { .. });
                    self.transaction = if is_read { InTransaction::ReadOnly } else { InTransaction::ReadWrite };
                }
                TransactionControl::Commit { chain: false }
                | TransactionControl::Rollback { chain: false }
                | TransactionControl::Prepare => self.transaction = InTransaction::No,
                _ => {}
            }
            for change in &part.session {
                self.prepared.apply(change);
                match change {
                    SessionChange::Pin(pin) => {
                        self.pins.add(*pin);
                    }
                    SessionChange::DiscardAll => self.pins.clear(),
                    _ => {}
                }
            }
        }
    }
}

fn answer(intent: &Intent, statement: &Statement) -> Answer {
    let reason = intent.reason();
    let target = match intent {
        Intent::Read { .. } => "replica",
        Intent::Primary(_) => "primary",
        Intent::Refuse { .. } => "refused",
    };
    let culprit = statement.needs_primary().filter(|why| Reason::from(*why) == reason).map(NeedsPrimary::to_string);
    Answer { target, reason: reason.code(), why: culprit.unwrap_or_else(|| reason.words().to_owned()) }
}
