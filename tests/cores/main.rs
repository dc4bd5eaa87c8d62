//! Tests of the pure cores, the configuration and the shape of the source: no PostgreSQL, no sockets, no sleeps.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets the unexpected should stop there")]

mod architecture;
mod config_problems;
mod config_reference;
mod fuzz;
mod rules;
mod session_machine;
mod sql_cache;
mod sql_golden;
mod sql_parser;
mod topology_roles;
mod topology_simulation;
