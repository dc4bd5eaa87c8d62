//! What of a configuration is no mistake, and may be meant otherwise.

use crate::routing::rules::{Action, Rule};
use crate::units::show_duration;

use super::{CONSOLE, Config};

impl Config {
    /// A sentence for each. When certificates end, which a clock decides, is not among them.
    pub fn warnings(&self) -> Vec<String> {
        let beyond = self.routing.rules.rules().iter().filter_map(|rule| self.beyond_max_lag(rule));
        let of_pgbouncer = self
            .rules_of_pgbouncer
            .iter()
            .map(|place| format!("{place}: the console's database is {CONSOLE} in access rules, not pgbouncer"));
        let of_settings = self.idle_hostssl().into_iter().chain(self.idle_reserve()).chain(self.unread());
        beyond.chain(self.odd_names()).chain(of_pgbouncer).chain(self.strangers()).chain(of_settings).collect()
    }

    fn beyond_max_lag(&self, rule: &Rule) -> Option<String> {
        let Action::Read(terms) = &rule.action else { return None };
        let most = self.routing.max_lag;
        terms.max_lag.filter(|max_lag| *max_lag > most)?;
        Some(format!(
            "rule {}: its max_lag has no effect: no replica takes reads that is further behind than routing.max_lag, {}",
            rule.name,
            show_duration(most)
        ))
    }

    /// Functions and tables whose name looks like several, or like a pattern with more than `*`. In quotes it may be one.
    fn odd_names(&self) -> impl Iterator<Item = String> + '_ {
        let lists = &*self.routing.functions;
        let lists = [("safe", &lists.safe), ("primary", &lists.primary), ("session", &lists.session)];
        let listed = lists.into_iter().flat_map(|(list, names)| {
            names.iter().map(move |name| (format!("routing.{list}_functions:"), name.to_string()))
        });
        let in_rules = self.routing.rules.rules().iter().flat_map(|rule| {
            let functions = rule.when.functions.iter().map(|name| ("function", name));
            let all = functions.chain(rule.when.tables.iter().map(|name| ("table", name)));
            all.map(move |(what, name)| (format!("rule {}: its {what}", rule.name), name.to_string()))
        });
        listed.chain(in_rules).filter(|(_, name)| name.contains(ODD)).map(|(place, name)| {
            format!("{place} {name:?} is compared as one name: `*` is the only pattern, and several names are a list")
        })
    }

    /// Where no cluster is asked for users, whom the console is open to, and who cannot log in.
    fn strangers(&self) -> impl Iterator<Item = String> + '_ {
        let asks_cluster = self.clusters.iter().any(|cluster| cluster.auth_query.is_some());
        let is_user = |name: &str| self.users.iter().any(|user| *user.name == *name);
        let named = self.console_users.iter().chain(&self.stats_users);
        named.filter(move |name| !asks_cluster && !is_user(name)).map(|name| {
            format!("{name} of [admin] cannot log in: no [[user]] and no line of auth.users_file has this name")
        })
    }

    fn idle_hostssl(&self) -> Option<String> {
        let is_idle = self.access.asks_tls() && self.tls.is_none();
        is_idle.then(|| "TLS is off: access rules of hostssl fit nobody".to_owned())
    }

    fn idle_reserve(&self) -> Option<String> {
        let pool = &self.pool;
        // What is not waited for is there at once.
        let comes_late = !pool.reserve_timeout.is_zero() && pool.reserve_timeout >= pool.queue_timeout;
        let [reserve, queue] = [pool.reserve_timeout, pool.queue_timeout].map(show_duration);
        (pool.reserve_size > 0 && comes_late).then(|| {
            format!(
                "pool.reserve_size has no effect: the reserve is there after pool.reserve_timeout, {reserve}, and nobody waits \
                 longer than pool.queue_timeout, {queue}"
            )
        })
    }

    fn unread(&self) -> Option<String> {
        let why = self.unread_authorities.as_ref()?;
        Some(format!("not all authorities that the system trusts can be read, who vouch for LDAP servers: {why}"))
    }
}

/// What separates names, quotes them, or stands in regular expressions and in patterns of LIKE.
const ODD: [char; 10] = [',', '|', '?', '+', '%', '[', ']', '{', '}', '"'];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_effect_is_told_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let rule = "[[rule]]\nname = 'late'\nuser = 'ada'\nmax_lag = '1min'\n";
        std::fs::write(folder.path().join("rules.toml"), rule).unwrap();
        let path = folder.path().join("t.toml");
        let warnings = |text: &str| Config::parse(&path, text, &mut Vec::new()).warnings();
        let hba = |lines: &str| format!("[auth]\nhba = [{lines}]\n");
        let pool = |reserve: &str, queue: &str| {
            format!("[pool]\nreserve_size = 2\nreserve_timeout = '{reserve}'\nqueue_timeout = '{queue}'\n")
        };
        let lag = "rule late: its max_lag has no effect: no replica takes reads that is further behind than routing.max_lag, 10s";
        let console =
            format!("{}:2: the console's database is trunkline in access rules, not pgbouncer", path.display());
        let reserve = "pool.reserve_size has no effect: the reserve is there after pool.reserve_timeout, 5s, and nobody waits \
                       longer than pool.queue_timeout, 5s";
        for (text, told) in [
            ("[routing]\nrules = ['rules.toml']\n".to_owned(), lag),
            (hba("'hostssl all all all md5'"), "TLS is off: access rules of hostssl fit nobody"),
            (hba("'host pgbouncer all all trust'"), &console),
            (pool("5s", "5s"), reserve),
        ] {
            assert_eq!(warnings(&text), [told], "{text}");
        }
        let rules = "[routing]\nrules = ['rules.toml']\nmax_lag = '1min'\n".to_owned();
        let no_reserve = "[pool]\nqueue_timeout = '1s'\n".to_owned();
        for text in [rules, hba("'host all all all md5'"), pool("4s", "5s"), pool("0s", "0s"), no_reserve] {
            assert_eq!(warnings(&text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_name_that_looks_like_several_or_like_another_pattern_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        let warnings = |name: &str| {
            let rule = format!("[[rule]]\nname = 'r'\nfunction = '{name}'\ntable = '{name}'\nto = 'primary'\n");
            std::fs::write(folder.path().join("rules.toml"), rule).unwrap();
            let text = format!("[routing]\nrules = ['rules.toml']\nprimary_functions = ['{name}']\n");
            Config::parse(&path, &text, &mut Vec::new()).warnings()
        };
        for name in ["f|g", "f,g", "shop.f?", "get_%", "get_[a-z]+", "\"Order Details\""] {
            let told = ["routing.primary_functions:", "rule r: its function", "rule r: its table"].map(|place| {
                format!(
                    "{place} {name:?} is compared as one name: `*` is the only pattern, and several names are a list"
                )
            });
            assert_eq!(warnings(name), told);
        }
        for name in ["get_*", "shop.*", "Order Details", "v$session", "audit$", "Sales (2024)", "net-tax"] {
            assert_eq!(warnings(name), [""; 0], "{name}");
        }
    }
}
