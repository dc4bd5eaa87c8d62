//! Trunkline before real PostgreSQL clusters; each test starts its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop there"
)]

mod fixture;
mod relay;

mod cluster;
mod dashboard;
mod monitor;
