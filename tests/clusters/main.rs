//! Trunkline before real PostgreSQL clusters; each test starts its own.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected should stop there"
)]

mod authentication;
mod builtins;
mod catalog_changes;
mod certificates;
mod fixture;
mod protocol;
mod raw;
mod record;
mod relay;

mod balancing;
mod cluster;
mod console;
mod conversation;
mod crowd;
mod dashboard;
mod databases;
mod drain;
mod explain;
mod failover;
mod freshness;
mod history;
mod hostile;
mod identity;
mod init;
mod ldap;
mod leftovers;
mod long_run;
mod long_texts;
mod many_sessions;
mod monitor;
mod network;
mod node_loss;
mod package;
mod parked;
mod patroni;
mod patroni_cluster;
mod pgbench;
mod pooling;
mod reload;
mod replication;
mod restart;
mod routing;
mod routing_contract;
mod rules;
mod session_state;
mod several;
mod sockets;
mod startup;
mod state;
mod statements;
mod switchover;
mod systemd;
mod tls;
mod transactions;
mod traps;
mod versions;
mod wishes;
