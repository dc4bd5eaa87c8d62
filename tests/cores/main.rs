//! Tests of the pure cores and the configuration: no PostgreSQL, no sockets, no sleeps.

mod architecture;
mod config_problems;
mod sql_cache;
mod sql_golden;
mod sql_parser;
mod topology_simulation;
