//! `trunkline explain`: where statements would go, and why.

use std::io::BufRead;

use crate::config::Config;

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
    /// This part is not there yet.
    #[error("explain is not built yet")]
    NotBuilt,
}

/// Answers on standard output.
pub fn run(_knowledge: Knowledge, _input: Input) -> Result<(), Failure> {
    Err(Failure::NotBuilt)
}
