//! pgbench through Trunkline: nothing fails, and the books balance.

use trunkline::demo::cluster::Cluster;

use crate::fixture::{Proxy, cluster, limited, pgbench};

#[test]
fn tpc_b_balances_in_the_simple_protocol() {
    limited(|| tpc_b_balances("simple"));
}

#[test]
fn tpc_b_balances_in_the_extended_protocol() {
    limited(|| tpc_b_balances("extended"));
}

#[test]
fn tpc_b_balances_with_prepared_statements() {
    limited(|| tpc_b_balances("prepared"));
}

fn tpc_b_balances(protocol: &str) {
    let cluster = cluster();
    fill(&cluster);
    let proxy = Proxy::start(&cluster, "");
    let output = pgbench(proxy.port(), &["-n", "-c", "16", "-j", "2", "-T", "3", "-M", protocol]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("ERROR") && !said.contains("aborted"), "{said}");
    let sums = cluster.node(0).sql(
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
                (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history), \
                (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history), \
                (select count(*) > 0 from pgbench_history)",
    );
    assert_eq!(sums.unwrap(), "t|t|t|t");
}

/// pgbench's tables, past Trunkline, on every node.
pub(crate) fn fill(cluster: &Cluster) {
    let output = pgbench(cluster.node(0).port(), &["-i", "-q", "-s", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for replica in &cluster.nodes()[1..] {
        replica.catch_up(cluster.node(0)).unwrap();
    }
}
