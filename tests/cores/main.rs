//! Tests of the pure cores and the configuration: no PostgreSQL, no sockets, no sleeps.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop there"
)]

mod architecture;
mod config_problems;
mod sql_golden;
mod topology_roles;
mod topology_simulation;
