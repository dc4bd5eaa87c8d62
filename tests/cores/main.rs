//! Tests of the pure cores, the configuration and the shape of the source: no PostgreSQL, no sockets, no sleeps.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected should stop there")]

mod architecture;
mod config_problems;
mod sql_golden;
mod topology_simulation;
