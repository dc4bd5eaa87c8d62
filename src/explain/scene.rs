//! A session on a node of the running cluster, on which the settings of an imagined one are tried: only a node knows
//! what a value means, and what a transaction's end undoes. Nothing else is run there.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;

use crate::auth::Secret;
use crate::backend::{Endpoint, Login, Target, connect, exchange};
use crate::config::{Cluster, Config};
use crate::session::Settings;

/// The session.
pub(super) struct Scene {
    runtime: Runtime,
    nodes: Vec<Target>,
    login: Option<Login>,
}

/// Everything that a route may depend on: what the session has set, and what transactions and texts are by default, which a
/// role or a database may say otherwise. The name that the scene itself came with is not the session's.
const READ: &str = "SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('search_path', \
'default_transaction_isolation', 'default_transaction_read_only', 'standard_conforming_strings', 'client_encoding', \
'application_name') \
AND (source = 'session' OR name NOT IN ('search_path', 'client_encoding', 'application_name')) \
UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
UNION ALL SELECT 'session_authorization', pg_catalog.current_setting('session_authorization')";

const IS_STANDBY: &str = "SELECT pg_catalog.pg_is_in_recovery()";

/// What is said here is said in a moment.
const PATIENCE: Duration = Duration::from_secs(5);

impl Scene {
    /// As this user if its password is known, else as the monitor.
    pub(super) fn new(
        runtime: Runtime,
        config: &Config,
        cluster: &Cluster,
        nodes: &[Arc<str>],
        database: &Arc<str>,
        user: &Arc<str>,
    ) -> Self {
        let plain = |secret: &Secret| secret.plain().map(|_| secret.clone());
        let user = config.users.iter().find(|known| known.name == *user).and_then(|user| {
            let password = user.server_password.as_ref().and_then(plain).or_else(|| plain(&user.password))?;
            Some((Arc::clone(&user.name), password))
        });
        let (user, password) =
            user.unwrap_or_else(|| (Arc::clone(&cluster.monitor.user), cluster.monitor.password.clone()));
        let tls = Arc::new(ArcSwap::from_pointee(cluster.tls.clone()));
        let target = |address: &Arc<str>| Target {
            endpoint: Endpoint::new(Arc::clone(address), Arc::clone(&tls)),
            user: Arc::clone(&user),
            database: Arc::clone(database),
            password: Some(password.clone()),
            salted_password: None,
            parameters: vec![("application_name".to_owned(), "trunkline explain".to_owned())],
        };
        Self { runtime, nodes: nodes.iter().map(target).collect(), login: None }
    }

    /// Another session begins.
    pub(super) fn begin(&mut self) {
        self.login = None;
    }

    /// Runs what sets something, and answers what is set then; None if that cannot be told.
    pub(super) fn play(&mut self, sql: &str) -> Option<Settings> {
        self.run(Some(sql))
    }

    /// What is set where a session begins; None if that cannot be told.
    pub(super) fn at_start(&mut self) -> Option<Settings> {
        self.run(None)
    }

    fn run(&mut self, sql: Option<&str>) -> Option<Settings> {
        if self.login.is_none() {
            self.login = self.enter();
        }
        let stream = &mut self.login.as_mut()?.stream;
        // Whoever has logged in here has become nobody else by that.
        let user = self.nodes.first().map(|target| &target.user);
        self.runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            if let Some(sql) = sql {
                // An error undoes what it undoes: what is set afterwards is what counts.
                let _ = exchange::query(stream, sql, deadline).await;
            }
            let answer = exchange::query(stream, READ, deadline).await.ok()?;
            let pair = |row: Vec<Option<Arc<str>>>| match row.as_slice() {
                [Some(name), Some(value)] => Some((Arc::clone(name), Arc::clone(value))),
                _ => None,
            };
            let is_own = |name: &str, value: &Arc<str>| name == "session_authorization" && Some(value) == user;
            let set = answer.rows.into_iter().filter_map(pair).filter(|(name, value)| !is_own(name, value));
            Some(Settings::new(set))
        })
    }

    /// On the primary if it can be reached: a standby refuses some settings, and any query where SERIALIZABLE is set.
    fn enter(&self) -> Option<Login> {
        let mut standby = None;
        for target in &self.nodes {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            let Ok(mut login) = self.runtime.block_on(connect(target, deadline)) else { continue };
            let answer = self.runtime.block_on(exchange::query(&mut login.stream, IS_STANDBY, deadline));
            let is_primary = answer.is_ok_and(|answer| answer.rows == [[Some("f".into())]]);
            if is_primary {
                return Some(login);
            }
            standby = standby.or(Some(login));
        }
        standby
    }
}
