//! What needs no PostgreSQL and no sleep: the pure cores, by examples, golden files and properties.

mod sql_golden;
