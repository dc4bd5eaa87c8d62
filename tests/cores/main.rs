//! Tests of the pure cores and the configuration: no PostgreSQL, no sleeps.

mod config_problems;
