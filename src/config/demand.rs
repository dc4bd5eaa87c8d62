//! How many server connections a configuration may come to, as far as it can be known from it.

use super::{Config, Database, User};

impl Config {
    /// All that pools may open, but no more at each node than there may be clients, and one of its own for each database. What stands
    /// for every other name counts as one database, and whoever stands in no configuration not at all: how many these are, nobody
    /// knows.
    pub fn most_server_connections(&self) -> usize {
        let of_databases = self.databases.iter().map(|database| {
            let pools = self.users.iter().map(|user| self.most_of(database, user)).fold(0, usize::saturating_add);
            let at_a_node = database.allowance.max_connections.map_or(pools, |most| most.min(pools));
            self.nodes_of(database.cluster).saturating_mul(at_a_node)
        });
        let of_databases = of_databases.fold(0, usize::saturating_add);
        let of_users = (0..self.clusters.len()).flat_map(|cluster| {
            self.users.iter().map(move |user| {
                let databases = self.databases.iter().filter(|database| database.cluster == cluster);
                let pools = databases.map(|database| self.most_of(database, user)).fold(0, usize::saturating_add);
                let at_a_node = user.allowance.max_connections.map_or(pools, |most| most.min(pools));
                self.nodes_of(cluster).saturating_mul(at_a_node)
            })
        });
        let of_users = of_users.fold(0, usize::saturating_add);
        let nodes = self.clusters.iter().map(|cluster| cluster.nodes.len()).fold(0, usize::saturating_add);
        let of_clients = nodes.saturating_mul(self.max_clients);
        of_databases.min(of_users).min(of_clients).saturating_add(self.databases.len())
    }

    /// Of one pool.
    fn most_of(&self, database: &Database, user: &User) -> usize {
        let size = user.allowance.pool_size.or(database.allowance.pool_size).unwrap_or(self.pool.size);
        size.saturating_add(self.pool.reserve_size)
    }

    fn nodes_of(&self, cluster: usize) -> usize {
        self.clusters.get(cluster).map_or(0, |cluster| cluster.nodes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_pools_may_open_is_their_sizes_at_each_node_within_the_limits_of_databases_and_users() {
        let cluster = "[[cluster]]\nname = 'c'\nnodes = ['a:1', 'b:1', 'c:1']\n";
        let database = |name: &str, more: &str| format!("[[database]]\nname = '{name}'\ncluster = 'c'\n{more}\n");
        let user = |name: &str, more: &str| format!("[[user]]\nname = '{name}'\npassword = 'p'\n{more}\n");
        let pool = "[pool]\nsize = 5\nreserve_size = 1\n";
        for (databases, users, expected) in [
            (["", ""], ["", ""], 3 * 24 + 2),
            (["pool_size = 9", ""], ["", ""], 3 * (20 + 12) + 2),
            (["pool_size = 9", ""], ["pool_size = 2", ""], 3 * (3 + 10 + 3 + 6) + 2),
            (["max_connections = 4", ""], ["", ""], 3 * (4 + 12) + 2),
            (["max_connections = 100", ""], ["max_connections = 7", ""], 3 * (7 + 12) + 2),
        ] {
            let [first, second] = databases;
            let [ada, bob] = users;
            let file = [
                pool,
                cluster,
                &database("first", first),
                &database("second", second),
                &user("ada", ada),
                &user("bob", bob),
            ];
            let config = Config::parse(Path::new(""), &file.concat(), &mut Vec::new());
            assert_eq!(config.most_server_connections(), expected, "{databases:?} {users:?}");
            let few = format!("max_clients = 5\n{}", file.concat());
            let config = Config::parse(Path::new(""), &few, &mut Vec::new());
            assert_eq!(config.most_server_connections(), 3 * 5 + 2, "{databases:?} {users:?}");
        }
    }
}
