//! `trunkline demo`: a real primary and two replicas on this machine, and Trunkline before them.

/// Why the demonstration could not start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// This part is not there yet.
    #[error("demo is not built yet")]
    NotBuilt,
}

/// Runs until it is interrupted.
pub fn run() -> Result<(), Failure> {
    Err(Failure::NotBuilt)
}
