//! Tests of the pure cores: no PostgreSQL, no sockets, no sleeps.

mod topology_simulation;
