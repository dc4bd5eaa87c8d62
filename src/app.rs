//! The running program: a checked configuration in, clients served until a signal ends it.

use crate::config::{Config, Source};

/// Why the program could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This part is not there yet.
    #[error("serving clients is not built yet")]
    NotBuilt,
}

/// Serves clients until a signal ends it.
pub fn run(_config: Config, _source: Source) -> Result<(), Failure> {
    Err(Failure::NotBuilt)
}
