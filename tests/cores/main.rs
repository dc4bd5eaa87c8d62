//! Tests of the pure cores and the configuration: no PostgreSQL, no sockets, no sleeps.

mod architecture;
mod config_problems;
mod sql_golden;
mod topology_roles;
mod topology_simulation;
