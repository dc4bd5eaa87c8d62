//! Every setting as a text beside its default, for those who ask a running Trunkline.

use std::path::Path;
use std::time::Duration;

use super::{Allowance, Config};
use crate::auth::{ClientTls, TlsMode};
use crate::routing::Transactions;

/// A setting as a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name, as in `pool.size`.
    pub key: String,
    /// Its value, written as in the file. Secrets are not shown.
    pub value: String,
    /// Its default; None: it has none.
    pub default: Option<String>,
    /// A reload can change it.
    pub changeable: bool,
}

/// Sockets and threads are made once.
const FIXED: [&str; 5] = ["listen", "admin.listen", "workers", "io_uring", "log.format"];

impl Config {
    /// Every setting, in the order of the file.
    pub fn shown(&self) -> Vec<Shown> {
        let defaults = Self::parse(Path::new(""), "", &mut Vec::new()).texts();
        let default = |key: &str| defaults.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
        let shown = |(key, value): (String, String)| Shown {
            default: default(&key).filter(|default| !default.is_empty()),
            changeable: !FIXED.contains(&&*key),
            key,
            value,
        };
        self.texts().into_iter().map(shown).collect()
    }

    fn texts(&self) -> Vec<(String, String)> {
        let mut texts = self.plain_texts();
        for cluster in &self.clusters {
            let key = |name: &str| format!("cluster.{}.{name}", cluster.name);
            texts.push((key("nodes"), listed(&cluster.nodes)));
            for (name, members) in &cluster.groups {
                let members: Vec<_> = members.iter().filter_map(|at| cluster.nodes.get(usize::from(*at))).collect();
                texts.push((key(&format!("group.{name}")), listed(&members)));
            }
            let patroni = cluster.patroni.iter().map(|url| {
                let scheme = if url.is_https { "https" } else { "http" };
                format!("{scheme}://{}", url.address)
            });
            texts.push((key("patroni"), listed(&patroni.collect::<Vec<_>>())));
            texts.push((key("tls.mode"), cluster.tls.mode().word().to_owned()));
            if let Some(auth_query) = &cluster.auth_query {
                texts.push((key("auth_query.user"), auth_query.user.to_string()));
                texts.push((key("auth_query.database"), auth_query.database.to_string()));
                texts.push((key("auth_query.query"), auth_query.query.to_string()));
            }
            texts.push((key("monitor.user"), cluster.monitor.user.to_string()));
            texts.push((key("monitor.database"), cluster.monitor.database.to_string()));
            texts.push((key("monitor.interval"), duration(cluster.monitor.interval)));
            texts.push((key("monitor.timeout"), duration(cluster.monitor.timeout)));
        }
        for database in &self.databases {
            let key = |name: &str| format!("database.{}.{name}", database.name);
            let cluster = self.clusters.get(database.cluster).map(|cluster| cluster.name.to_string());
            texts.push((key("cluster"), cluster.unwrap_or_default()));
            texts.push((key("server_name"), database.server_name.to_string()));
            texts.extend(allowance_texts("database", &database.name, &database.allowance));
        }
        for user in &self.users {
            texts.extend(allowance_texts("user", &user.name, &user.allowance));
        }
        texts.extend(self.pgbouncer_texts());
        texts
    }

    /// What PgBouncer has too, by its name: whoever reads its console looks for these. Here each database and user has its own
    /// `max_connections`, and 0 says that nothing is set for all.
    fn pgbouncer_texts(&self) -> [(String, String); 7] {
        let pool = &self.pool;
        [
            ("max_client_conn", self.max_clients.to_string()),
            ("default_pool_size", pool.size.to_string()),
            ("min_pool_size", pool.min_size.to_string()),
            ("reserve_pool_size", pool.reserve_size.to_string()),
            ("pool_mode", pool.mode.word().to_owned()),
            ("max_db_connections", "0".to_owned()),
            ("max_user_connections", "0".to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    }

    fn listen_words(&self) -> String {
        let addresses = self.listen.iter().map(ToString::to_string);
        let sockets = self.listen_sockets.iter().map(|path| path.display().to_string());
        addresses.chain(sockets).collect::<Vec<_>>().join(", ")
    }

    fn plain_texts(&self) -> Vec<(String, String)> {
        let Self { pool, routing, failover, limits, log, .. } = self;
        let texts = [
            ("listen", self.listen_words()),
            ("proxy_protocol_from", self.proxies.len().to_string() + " networks"),
            ("tls", if self.tls.is_some() { "on" } else { "off" }.to_owned()),
            ("tls.mode", self.tls.as_ref().map_or(TlsMode::Off, ClientTls::mode).word().to_owned()),
            ("workers", self.workers.to_string()),
            ("io_uring", self.io_uring.to_string()),
            ("max_clients", self.max_clients.to_string()),
            ("admin.listen", self.admin_listen.map(|address| address.to_string()).unwrap_or_default()),
            ("admin.users", listed(&self.console_users)),
            ("admin.stats_users", listed(&self.stats_users)),
            ("pool.mode", pool.mode.word().to_owned()),
            ("pool.size", pool.size.to_string()),
            ("pool.min_size", pool.min_size.to_string()),
            ("pool.reserve_size", pool.reserve_size.to_string()),
            ("pool.reserve_timeout", duration(pool.reserve_timeout)),
            ("pool.queue_timeout", duration(pool.queue_timeout)),
            ("pool.connect_timeout", duration(pool.connect_timeout)),
            ("pool.idle_timeout", duration(pool.idle_timeout)),
            ("pool.lifetime", duration(pool.lifetime)),
            ("pool.prepared_statements", pool.prepared_statements.to_string()),
            ("routing.reads", routing.reads.word().to_owned()),
            ("routing.consistency", routing.consistency.word().to_owned()),
            ("routing.transactions", transactions(routing.transactions).to_owned()),
            ("routing.catalog_refresh", duration(routing.catalog_refresh)),
            ("routing.hints", routing.hints.to_string()),
            ("routing.rules", routing.rules.rules().len().to_string() + " rules"),
            ("routing.max_lag", duration(routing.max_lag)),
            ("routing.freshness_wait", duration(routing.freshness_wait)),
            ("failover.hold", duration(failover.hold)),
            ("failover.replay", failover.replay.to_string()),
            ("failover.replay_bytes", bytes(failover.replay_bytes)),
            ("failover.drain", duration(failover.drain)),
            ("failover.pause_timeout", duration(failover.pause_timeout)),
            ("failover.pause_hold", duration(failover.pause_hold)),
            ("failover.stale_reads", timeout(failover.stale_reads)),
            ("limits.login_timeout", duration(limits.login_timeout)),
            ("limits.statement_bytes", bytes(limits.statement_bytes)),
            ("limits.buffer_bytes", bytes(limits.buffer_bytes)),
            ("limits.drain_timeout", duration(limits.drain_timeout)),
            ("limits.statement_cache_bytes", bytes(limits.statement_cache_bytes)),
            ("limits.client_idle_timeout", timeout(limits.client_idle_timeout)),
            ("limits.idle_in_transaction_timeout", timeout(limits.idle_in_transaction_timeout)),
            ("limits.query_timeout", timeout(limits.query_timeout)),
            ("log.level", log.level.clone()),
            ("log.format", if log.json { "json" } else { "text" }.to_owned()),
            ("log.connections", log.connections.to_string()),
        ];
        texts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// What is written of a database or a user; what is not is as the pool's settings have it.
fn allowance_texts(section: &str, name: &str, allowance: &Allowance) -> Vec<(String, String)> {
    let count = |count: Option<usize>| count.map(|count| count.to_string());
    let texts = [
        ("pool_mode", allowance.pool_mode.map(|mode| mode.word().to_owned())),
        ("pool_size", count(allowance.pool_size)),
        ("max_connections", count(allowance.max_connections)),
        ("max_clients", count(allowance.max_clients)),
    ];
    texts.into_iter().filter_map(|(key, value)| Some((format!("{section}.{name}.{key}"), value?))).collect()
}

fn timeout(timeout: Option<Duration>) -> String {
    timeout.map_or_else(|| "off".to_owned(), duration)
}

fn listed<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn transactions(transactions: Transactions) -> &'static str {
    match transactions {
        Transactions::Primary => "primary",
        Transactions::Optimistic => "optimistic",
    }
}

/// In the largest unit that gives a whole number.
fn duration(duration: Duration) -> String {
    let units = [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("ms", 1000)];
    let micros = duration.as_micros();
    let unit = units.iter().find(|(_, unit)| micros > 0 && micros.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{micros}us"), |(name, unit)| format!("{}{name}", micros / unit))
}

/// In the largest unit that gives a whole number.
fn bytes(bytes: usize) -> String {
    let units = [("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    let unit = units.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_as_the_file_may_have_them() {
        assert_eq!(duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(duration(Duration::from_secs(7200)), "2h");
        assert_eq!(duration(Duration::from_micros(7)), "7us");
        assert_eq!((bytes(1 << 20), bytes(1500)), ("1MB".to_owned(), "1500B".to_owned()));
    }

    #[test]
    fn every_setting_with_a_default_shows_it() {
        let config = Config::parse(Path::new(""), "[pool]\nsize = 7", &mut Vec::new());
        let shown = config.shown();
        let size = shown.iter().find(|setting| setting.key == "pool.size").unwrap();
        assert_eq!((&*size.value, size.default.as_deref(), size.changeable), ("7", Some("20"), true));
        assert!(!shown.iter().find(|setting| setting.key == "workers").unwrap().changeable);
    }

    #[test]
    fn who_looks_for_pgbouncers_names_finds_them() {
        let file = "max_clients = 300\n[pool]\nmode = 'session'\nsize = 7\nmin_size = 2\nreserve_size = 3";
        let shown = Config::parse(Path::new(""), file, &mut Vec::new()).shown();
        for (key, value, default) in [
            ("max_client_conn", "300", "10000"),
            ("default_pool_size", "7", "20"),
            ("min_pool_size", "2", "0"),
            ("reserve_pool_size", "3", "0"),
            ("pool_mode", "session", "transaction"),
            ("max_db_connections", "0", "0"),
            ("max_user_connections", "0", "0"),
        ] {
            let setting = shown.iter().find(|setting| setting.key == key).unwrap();
            assert_eq!((&*setting.value, setting.default.as_deref()), (value, Some(default)), "{key}");
        }
    }
}
