//! Tests of the pure cores and the configuration: no PostgreSQL, no sockets, no sleeps.

mod config_problems;
mod sql_golden;
mod architecture;
mod topology_simulation;
