//! Users that stand in no configuration: their passwords are asked of the cluster itself, and remembered for a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use tokio::sync::Semaphore;

use super::server::{Cluster, User};
use crate::auth::{Secret, Verifier};
use crate::backend::{Endpoint, Target, connect, exchange};
use crate::config::{self, Allowance};

/// Asks a cluster for its users' passwords.
pub struct AuthQuery {
    settings: config::AuthQuery,
    mock_secret: [u8; 32],
    known: DashMap<Arc<str>, Entry>,
    /// Questions at once: a flood of logins must not become a flood of connections.
    questions: Semaphore,
}

struct Entry {
    /// None: there is no such user, or one who may not log in.
    user: Option<User>,
    asked: Instant,
}

/// What is this old is asked again: so long a password that was changed on the cluster still counts.
const FRESH: Duration = Duration::from_secs(5);

/// A password that failed is asked again if what is known of it is older than this: it may just have been changed.
const BRAND_NEW: Duration = Duration::from_secs(1);

/// Names remembered; beyond, those that do not exist are forgotten first.
const MOST: usize = 10_000;

const QUESTIONS_AT_ONCE: usize = 4;

/// For connecting, logging in and one small query.
const DEADLINE: Duration = Duration::from_secs(5);

impl AuthQuery {
    /// Nothing is known yet.
    pub fn new(settings: config::AuthQuery, mock_secret: [u8; 32]) -> Self {
        Self { settings, mock_secret, known: DashMap::new(), questions: Semaphore::new(QUESTIONS_AT_ONCE) }
    }

    /// What is known of this user, asked for if need be. While the cluster does not answer, what was known counts on;
    /// Err: nothing was.
    pub async fn user(&self, name: &Arc<str>, cluster: &Cluster) -> Result<Option<User>, String> {
        if let Some(known) = self.remembered(name, FRESH) {
            return Ok(known);
        }
        let _question = self.questions.acquire().await.map_err(|error| error.to_string())?;
        // Somebody else may have asked while we waited.
        if let Some(known) = self.remembered(name, FRESH) {
            return Ok(known);
        }
        match self.ask(name, cluster).await {
            Ok(user) => {
                self.remember(name, user.clone());
                Ok(user)
            }
            Err(why) => {
                tracing::warn!(cluster = %cluster.name, %why, "auth_query got no answer");
                self.remembered(name, Duration::MAX).ok_or(why)
            }
        }
    }

    /// A login of this user has failed.
    pub fn doubt(&self, name: &str) {
        self.known.remove_if(name, |_, entry| entry.asked.elapsed() > BRAND_NEW);
    }

    fn remembered(&self, name: &str, age: Duration) -> Option<Option<User>> {
        self.known.get(name).filter(|entry| entry.asked.elapsed() < age).map(|entry| entry.user.clone())
    }

    fn remember(&self, name: &Arc<str>, user: Option<User>) {
        if self.known.len() >= MOST {
            self.known.retain(|_, entry| entry.user.is_some());
        }
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.insert(Arc::clone(name), Entry { user, asked: Instant::now() });
    }

    /// The primary knows best; a replica may know a password of a moment ago.
    async fn ask(&self, name: &Arc<str>, cluster: &Cluster) -> Result<Option<User>, String> {
        let view = cluster.view.load_full();
        let mut failure = "no node can be asked".to_owned();
        for node in view.primary().into_iter().chain(view.readable_replicas()) {
            let endpoint = Endpoint::new(Arc::clone(&node.address), Arc::clone(&cluster.tls));
            match self.ask_node(name, endpoint).await {
                Ok(secret) => return Ok(secret.map(|secret| User::new(name, secret, None, &self.mock_secret))),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }

    async fn ask_node(&self, name: &str, endpoint: Endpoint) -> Result<Option<Secret>, String> {
        let target = Target {
            endpoint,
            user: Arc::clone(&self.settings.user),
            database: Arc::clone(&self.settings.database),
            password: Some(self.settings.password.clone()),
            salted_password: None,
            parameters: vec![("application_name".to_owned(), "trunkline auth_query".to_owned())],
        };
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let mut login = connect(&target, deadline).await.map_err(|error| error.to_string())?;
        let answer = exchange::query_with(&mut login.stream, &self.settings.query, name, deadline).await;
        let mut rows = answer.map_err(|error| error.to_string())?.rows.into_iter();
        let Some(row) = rows.next() else { return Ok(None) };
        // Name and password; of two rows nobody could say which is meant.
        match row.as_slice() {
            [Some(found), secret, ..] if **found == *name && rows.next().is_none() => {
                Ok(Some(Secret::new(secret.as_deref().unwrap_or_default().to_owned())))
            }
            _ => Err("auth_query does not answer one row of the user's name and password".to_owned()),
        }
    }
}

impl User {
    /// What is checked of a client that claims to be this user, and what is proved to nodes. Takes a millisecond for a
    /// plain password.
    pub fn new(name: &str, secret: Secret, server_password: Option<Secret>, mock_secret: &[u8; 32]) -> Self {
        let verifier = secret.verifier(Verifier::mock_salt(name, mock_secret));
        let server_password = server_password.or_else(|| secret.proves_something().then(|| secret.clone()));
        Self { secret, verifier, server_password, allowance: Allowance::default() }
    }
}
