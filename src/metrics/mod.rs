#![doc = include_str!("README.md")]

pub mod families;
mod histogram;
pub mod labels;
mod last_reload;
mod pulse;
mod registry;
mod scrape;
mod tally;
mod worker;

pub use histogram::Histogram;
pub use labels::{CancelOutcome, FreshnessOutcome, Limit, LoginFailure, Loss, Refusal, Retry, Target, Violator};
pub use pulse::Pulse;
pub use registry::Metrics;
pub use scrape::{CatalogCounts, CatalogPicture, PoolCounts, PoolName, Scrape};
pub use worker::{CacheCounts, Hold, WorkerMetrics};

#[cfg(test)]
mod tests;
