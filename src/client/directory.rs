//! Asks an LDAP server whether a password is a user's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ldap3::{LdapConnAsync, LdapConnSettings, SearchEntry, SearchOptions, SearchResult};
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::auth::hba::{Ldap, LdapNaming, LdapScope, LdapSearch};
use crate::complaints::{Complaints, Repeats};
use crate::net::timers;

/// Asks LDAP servers.
#[derive(Debug)]
pub struct Directory {
    /// Whom servers must be vouched for by; None: none is asked over TLS.
    tls: Option<Arc<ClientConfig>>,
    /// A flood of logins must not become a flood of connections.
    questions: Semaphore,
    /// Why nobody could say: each login that meets it is told, and the log now and then.
    complaints: Mutex<Complaints>,
}

/// For connecting to one server, and everything that is asked there. A client waits three times as long by default.
const LONGEST: Duration = Duration::from_secs(5);

const QUESTIONS_AT_ONCE: usize = 32;

impl Directory {
    /// Servers of TLS must be vouched for by these authorities.
    pub fn new(tls: Option<Arc<ClientConfig>>) -> Self {
        let complaints = Mutex::new(Complaints::new(Repeats::EachTenMinutes));
        Self { tls, questions: Semaphore::new(QUESTIONS_AT_ONCE), complaints }
    }

    /// Nobody could say, for this reason. Some: the log is to be told, with how often that was so since it was told last.
    pub fn meets_trouble(&self, why: &str) -> Option<u64> {
        self.complaints.lock().meet(why, Instant::now())
    }

    /// Whether the password is the user's. Err: nobody could say. An empty one is nobody's: to LDAP it would mean to ask
    /// for nothing, and be granted.
    pub async fn knows(&self, ldap: &Arc<Ldap>, user: &str, password: &str) -> Result<bool, String> {
        if password.is_empty() {
            return Ok(false);
        }
        let _question = self.questions.acquire().await.map_err(|error| error.to_string())?;
        let mut failures = Vec::new();
        for server in &ldap.servers {
            let question = Question {
                ldap: Arc::clone(ldap),
                server: server.clone(),
                tls: self.tls.clone(),
                user: user.to_owned(),
                password: password.to_owned().into(),
            };
            // A task of its own: whatever a server answers, it ends nobody's session, and dropping it ends the question.
            let mut asking = Ends(timers::spawn(question.ask()));
            match timers::timeout(LONGEST, &mut asking.0).await {
                Ok(Ok(Ok(is_right))) => return Ok(is_right),
                Ok(Ok(Err(why))) => failures.push(format!("{server}: {why}")),
                Ok(Err(_)) => failures.push(format!("{server}: its answer is not understood")),
                Err(_) => failures.push(format!("{server}: no answer in time")),
            }
        }
        Err(failures.join("; "))
    }
}

/// A task that ends when this is dropped.
struct Ends<T>(JoinHandle<T>);

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One server is asked about one password.
struct Question {
    ldap: Arc<Ldap>,
    server: String,
    tls: Option<Arc<ClientConfig>>,
    user: String,
    password: Zeroizing<String>,
}

impl Question {
    async fn ask(self) -> Result<bool, String> {
        let mut settings = LdapConnSettings::new().set_conn_timeout(LONGEST).set_starttls(self.ldap.starts_tls);
        // Without it the library would trust whom it has found once, and nobody if it could not read one of them.
        if let Some(tls) = &self.tls {
            settings = settings.set_config(Arc::clone(tls));
        }
        let connected = LdapConnAsync::with_settings(settings, &self.server).await;
        let (connection, mut server) = connected.map_err(|error| error.to_string())?;
        let _driver = Ends(tokio::spawn(connection.drive()));
        let name = match &self.ldap.naming {
            LdapNaming::Around(prefix, suffix) => LdapNaming::around(prefix, suffix, &self.user),
            LdapNaming::Found(search) => match find(&mut server, search, &self.user).await? {
                Some(name) => name,
                None => return Ok(false),
            },
        };
        let answer = server.simple_bind(&name, &self.password).await.map_err(|error| error.to_string())?;
        // It is answered; whether the server hears our goodbye does not matter.
        let _ = server.unbind().await;
        match answer.rc {
            0 => Ok(true),
            code if NOT_THIS_ONE.contains(&code) => Ok(false),
            code => Err(format!("result {code} {}", answer.text)),
        }
    }
}

/// The name of the only entry that is the user's; None: there is none, or more than one, and nobody could say which.
async fn find(server: &mut ldap3::Ldap, search: &LdapSearch, user: &str) -> Result<Option<String>, String> {
    let bound = server.simple_bind(&search.bind_dn, search.bind_password.reveal()).await;
    let bound = bound.map_err(|error| error.to_string())?;
    if bound.rc != 0 {
        return Err(format!("ldapbinddn may not ask: result {} {}", bound.rc, bound.text));
    }
    let scope = match search.scope {
        LdapScope::Base => ldap3::Scope::Base,
        LdapScope::One => ldap3::Scope::OneLevel,
        LdapScope::Subtree => ldap3::Scope::Subtree,
    };
    // No attribute is asked for: the name is all.
    let found = server.with_search_options(SearchOptions::new().sizelimit(2));
    let found = found.search(&search.base, scope, &search.filter(user), [NO_ATTRIBUTE]).await;
    let SearchResult(mut entries, result) = found.map_err(|error| error.to_string())?;
    match (result.rc, entries.len()) {
        (0, 1) => Ok(entries.pop().map(|entry| SearchEntry::construct(entry).dn).filter(|name| !name.is_empty())),
        (0 | NO_SUCH_OBJECT, 0) => Ok(None),
        (0 | SIZE_LIMIT_EXCEEDED, _) => {
            tracing::warn!(user, "several entries of LDAP are the user's: it does not come in");
            Ok(None)
        }
        (code, _) => Err(format!("the search fails: result {code} {}", result.text)),
    }
}

/// RFC 4511, 4.5.1.8
const NO_ATTRIBUTE: &str = "1.1";
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const NO_SUCH_OBJECT: u32 = 32;

/// Results of a bind that are about the user: no such object, not a name, inappropriate authentication (an entry without
/// a password), invalid credentials, insufficient rights, unwilling (a locked account).
const NOT_THIS_ONE: [u32; 6] = [NO_SUCH_OBJECT, 34, 48, 49, 50, 53];
