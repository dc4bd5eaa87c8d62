//! What a cluster itself knows of users: passwords of those who stand in no configuration, and who is a member of what.
//! It is asked for that, and remembered for a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::memory::Memory;
use super::server::{Cluster, User};
use crate::auth::hba::Roles;
use crate::auth::{SaltedPassword, Secret, Verifier};
use crate::backend::exchange::{self, ExchangeError};
use crate::backend::{ConnectClass, ConnectError, Endpoint, Gate, Target, connect};
use crate::complaints::{Complaints, Repeats};
use crate::config::{self, Allowance};
use crate::wire::SqlState;

/// Asks a cluster for its users.
pub struct AuthQuery {
    settings: config::AuthQuery,
    mock_secret: [u8; 32],
    /// None: there is no such user, or one who may not log in.
    known: Memory<Arc<str>, Option<User>>,
    memberships: Memory<Arc<str>, Arc<Roles>>,
    /// Questions at once: a flood of logins must not become a flood of connections.
    questions: Semaphore,
    /// The same for names that somebody is known by: these do not wait behind names that are made up.
    questions_of_known: Semaphore,
    /// What the last question's login cost to derive: the next needs not. All nodes of a cluster store the same.
    salted_password: Mutex<Option<SaltedPassword>>,
    /// Why it had no answer: each login that meets it is told, and the log now and then.
    complaints: Mutex<Complaints>,
}

/// What is this old is asked again: so long a password that was changed on the cluster still counts.
const FRESH: Duration = Duration::from_secs(5);

/// A password that failed is asked again if what is known of it is older than this: it may just have been changed.
const BRAND_NEW: Duration = Duration::from_secs(1);

const QUESTIONS_AT_ONCE: usize = 4;

/// For connecting, logging in and one small query.
const DEADLINE: Duration = Duration::from_secs(5);

impl AuthQuery {
    /// Nothing is known yet.
    pub fn new(settings: config::AuthQuery, mock_secret: [u8; 32]) -> Self {
        // Names that do not exist are forgotten first.
        let (known, memberships) = (Memory::new(Option::is_some), Memory::new(|roles: &Arc<Roles>| !roles.is_empty()));
        let [questions, questions_of_known] = [QUESTIONS_AT_ONCE; 2].map(Semaphore::new);
        Self {
            settings,
            mock_secret,
            known,
            memberships,
            questions,
            questions_of_known,
            salted_password: Mutex::default(),
            complaints: Mutex::new(Complaints::new(Repeats::EachTenMinutes)),
        }
    }

    /// It asks as this configuration wants it.
    pub fn is_as(&self, wanted: &config::AuthQuery) -> bool {
        let mine = &self.settings;
        mine.user == wanted.user
            && mine.password.plain() == wanted.password.plain()
            && mine.database == wanted.database
            && mine.query == wanted.query
    }

    /// What is known of this user, asked for if need be. While the cluster does not answer, what was known counts on;
    /// Err: nothing was, or the question itself is refused.
    pub async fn user(&self, name: &Arc<str>, cluster: &Cluster) -> Result<Option<User>, Unanswered> {
        self.recall_or(&self.known, name, self.ask_password(name, cluster)).await
    }

    /// The roles that this user is a member of, directly or not, itself included; none: there is no such user. While the
    /// cluster does not answer, what was known counts on; Err: nothing was, or the question itself is refused.
    pub async fn roles(&self, name: &Arc<str>, cluster: &Cluster) -> Result<Arc<Roles>, Unanswered> {
        self.recall_or(&self.memberships, name, self.ask_roles(name, cluster)).await
    }

    /// A login of this user has failed.
    pub fn doubt(&self, name: &str) {
        self.known.doubt(name, BRAND_NEW);
    }

    /// Some role has changed, through Trunkline.
    pub fn doubt_all(&self) {
        self.known.doubt_all();
        self.memberships.doubt_all();
    }

    /// What is remembered and fresh, else what the question is answered with, else what is remembered at all.
    async fn recall_or<T: Clone>(
        &self,
        memory: &Memory<Arc<str>, T>,
        name: &Arc<str>,
        question: impl Future<Output = Result<T, Unanswered>>,
    ) -> Result<T, Unanswered> {
        if let Some(known) = memory.recall(name, FRESH) {
            return Ok(known);
        }
        let questions = if memory.has_dear(name) { &self.questions_of_known } else { &self.questions };
        let _question = questions.acquire().await.map_err(|error| Unanswered::Silence(error.to_string()))?;
        // Somebody else may have asked while we waited.
        if let Some(known) = memory.recall(name, FRESH) {
            return Ok(known);
        }
        let asked = memory.ask();
        match question.await {
            Ok(answer) => {
                memory.keep(Arc::clone(name), answer.clone(), asked);
                Ok(answer)
            }
            Err(Unanswered::Silence(why)) => memory.recall_at_all(name).ok_or(Unanswered::Silence(why)),
            Err(refused) => Err(refused),
        }
    }

    async fn ask_roles(&self, name: &str, cluster: &Cluster) -> Result<Arc<Roles>, Unanswered> {
        let rows = self.ask(MEMBERSHIP, name, cluster).await;
        let roles = rows
            .inspect_err(|why| self.complain(cluster, why))?
            .into_iter()
            .filter_map(|row| row.into_iter().next().flatten());
        Ok(Arc::new(roles.map(|role| (&*role).into()).collect()))
    }

    /// What is known of the user's password.
    async fn ask_password(&self, name: &Arc<str>, cluster: &Cluster) -> Result<Option<User>, Unanswered> {
        let rows = self.ask(&self.settings.query, name, cluster).await;
        let withholds = |row: &Row| matches!(row.as_slice(), [Some(_), Some(secret), ..] if **secret == *WITHHELD);
        if rows.as_ref().is_ok_and(|rows| rows.iter().any(withholds)) {
            let why = "it answers ******** in place of passwords, as pg_user does: for passwords it must read pg_shadow, \
                       itself or by a function that may";
            self.complain(cluster, &Unanswered::Refused(why.to_owned()));
        }
        let user = rows.and_then(|rows| self.user_in(rows, name));
        user.inspect_err(|why| self.complain(cluster, why))
    }

    fn complain(&self, cluster: &Cluster, why: &Unanswered) {
        // It may quote names that clients have chosen: as a string it begins no line of the log.
        let why = why.to_string();
        let said = self.complaints.lock().meet(&why, Instant::now());
        if let Some(times) = said {
            let cluster = &*cluster.name;
            tracing::warn!(cluster, why, times, "the cluster was asked about users by auth_query and has not answered");
        }
    }

    fn user_in(&self, rows: Vec<Row>, name: &Arc<str>) -> Result<Option<User>, Unanswered> {
        let mut rows = rows.into_iter();
        let Some(row) = rows.next() else { return Ok(None) };
        // Name and password; of two rows nobody could say which is meant.
        match row.as_slice() {
            [Some(found), secret, ..] if **found == **name && rows.next().is_none() => {
                let secret = secret.as_deref().filter(|secret| *secret != WITHHELD);
                let secret = Secret::new(secret.unwrap_or_default().to_owned());
                Ok(Some(User::new(name, secret, None, &self.mock_secret)))
            }
            // A function that answers one row whatever it finds has found nobody.
            [None, ..] => Ok(None),
            _ => {
                let why = "auth_query does not answer one row of the user's name and password";
                Err(Unanswered::Refused(why.to_owned()))
            }
        }
    }

    /// The primary knows best; a replica may know something of a moment ago. Where the primary refuses the question, what was
    /// known before may have been taken back since; a replica may refuse what it lacks, or because it is one.
    async fn ask(&self, sql: &str, name: &str, cluster: &Cluster) -> Result<Vec<Row>, Unanswered> {
        let view = cluster.view.load_full();
        let mut silence = "no node can be asked".to_owned();
        for node in view.primary().into_iter().chain(view.readable_replicas()) {
            let Some(gate) = cluster.gate(node.id) else { continue };
            let endpoint = Endpoint::new(Arc::clone(&node.address), Arc::clone(&cluster.tls));
            match self.ask_node(sql, name, endpoint, gate).await {
                Err(Unanswered::Silence(why)) => silence = why,
                Err(Unanswered::Refused(why)) if view.primary != Some(node.id) => silence = why,
                answer => return answer,
            }
        }
        Err(Unanswered::Silence(silence))
    }

    /// A server that the node's name leads to, and that no monitor has met there, may have other passwords: it is not asked.
    async fn ask_node(&self, sql: &str, name: &str, endpoint: Endpoint, gate: &Gate) -> Result<Vec<Row>, Unanswered> {
        let fenced = gate.generation();
        let target = Target {
            endpoint,
            user: Arc::clone(&self.settings.user),
            database: Arc::clone(&self.settings.database),
            password: Some(self.settings.password.clone()),
            salted_password: self.salted_password.lock().clone(),
            parameters: vec![("application_name".to_owned(), "trunkline auth_query".to_owned())],
        };
        let deadline = tokio::time::Instant::now() + DEADLINE;
        let login = connect(&target, deadline).await?;
        if login.salted_password.is_some() {
            self.salted_password.lock().clone_from(&login.salted_password);
        }
        let at_home = login.at_home(gate.strays(), || gate.is_fenced_since(fenced), deadline).await?;
        let mut login = at_home.ok_or_else(|| Unanswered::Silence("the node has been fenced meanwhile".to_owned()))?;
        Ok(exchange::query_with(&mut login.stream, sql, name, deadline).await?.rows)
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// No node could say.
    #[error("{0}")]
    Silence(String),
    /// A node does not let the question be asked, or answers something else.
    #[error("{0}")]
    Refused(String),
}

impl Unanswered {
    /// What a client is told of it.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Silence(_) => "no node of the cluster answers",
            Self::Refused(_) => "the cluster does not answer auth_query as it should",
        }
    }
}

impl From<ConnectError> for Unanswered {
    fn from(error: ConnectError) -> Self {
        match (&error, error.class()) {
            (ConnectError::Server { code, .. }, _) if is_of_the_moment(*code) => Self::Silence(error.to_string()),
            (_, ConnectClass::Denied) => Self::Refused(error.to_string()),
            _ => Self::Silence(error.to_string()),
        }
    }
}

impl From<ExchangeError> for Unanswered {
    fn from(error: ExchangeError) -> Self {
        match &error {
            ExchangeError::Refused { code, .. } if !is_of_the_moment(*code) => Self::Refused(error.to_string()),
            _ => Self::Silence(error.to_string()),
        }
    }
}

/// It tells of the node and not of the question: another time the same would be answered.
fn is_of_the_moment(code: SqlState) -> bool {
    const CLASSES: [&str; 7] = ["08", "40", "53", "55", "57", "58", "XX"];
    CLASSES.iter().any(|class| code.as_str().starts_with(class))
}

/// What pg_user shows to everybody, of everybody.
const WITHHELD: &str = "********";

type Row = Vec<Option<Arc<str>>>;

/// As PostgreSQL counts for its own rules: whether the rights are inherited or not, and a superuser like anybody else.
const MEMBERSHIP: &str = "WITH RECURSIVE held AS (\
                          SELECT r.oid FROM pg_catalog.pg_roles r \
                          WHERE r.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.name \
                          UNION SELECT m.roleid FROM pg_catalog.pg_auth_members m \
                          JOIN held ON m.member OPERATOR(pg_catalog.=) held.oid) \
                          SELECT r.rolname FROM pg_catalog.pg_roles r \
                          JOIN held ON r.oid OPERATOR(pg_catalog.=) held.oid";

impl User {
    /// What is checked of a client that claims to be this user, and what is proved to nodes. Takes a millisecond for a
    /// plain password.
    pub fn new(name: &str, secret: Secret, server_password: Option<Secret>, mock_secret: &[u8; 32]) -> Self {
        let verifier = secret.verifier(Verifier::mock_salt(name, mock_secret));
        let server_password = server_password.or_else(|| secret.proves_something().then(|| secret.clone()));
        Self { secret, verifier, server_password, allowance: Allowance::default() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::timers;
    use crate::topology::{PostmasterStart, SystemId};

    /// AuthenticationOk, BackendKeyData, ReadyForQuery.
    const COME_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

    fn auth_query() -> AuthQuery {
        let settings = config::AuthQuery {
            user: "asker".into(),
            password: Secret::new("a".to_owned()),
            database: "d".into(),
            query: "select 1".into(),
        };
        AuthQuery::new(settings, [0; 32])
    }

    #[test]
    fn what_pg_user_shows_in_place_of_passwords_is_nobodys_password() {
        let answer =
            |secret: &str| auth_query().user_in(vec![vec![Some("ada".into()), Some(secret.into())]], &"ada".into());
        let proves_something = |secret: &str| answer(secret).unwrap().expect("there is one").secret.proves_something();
        assert!(proves_something("a"));
        assert!(!proves_something("********"), "who comes in otherwise is there all the same");
    }

    #[tokio::test]
    async fn a_server_that_the_nodes_name_has_led_to_is_asked_nothing_before_the_node_is_met_there() {
        let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (here, elsewhere) = (node.local_addr().unwrap(), "192.0.2.1:5432".parse().unwrap());
        let (auth_query, gate) = (auth_query(), Gate::default());
        let server = (SystemId(1), PostmasterStart(1));
        gate.found_at(Some(elsewhere), server);
        let other = async {
            let (mut stream, _) = node.accept().await.unwrap();
            let size = usize::try_from(stream.read_u32().await.unwrap()).unwrap();
            stream.read_exact(&mut vec![0; size - 4]).await.unwrap();
            stream.write_all(COME_IN).await.unwrap();
            while gate.strays().asks() == 0 {
                timers::sleep(Duration::from_millis(1)).await;
            }
            gate.found_at(Some(elsewhere), server);
            stream.read_to_end(&mut Vec::new()).await.unwrap()
        };
        let endpoint = Endpoint::plain(here.to_string().into());
        let asked = timers::timeout(DEADLINE / 2, async {
            tokio::join!(auth_query.ask_node("select $1", "ada", endpoint, &gate), other)
        });
        let (answer, heard) = asked.await.expect("it is left at once");
        assert!(matches!(&answer, Err(Unanswered::Silence(why)) if why.contains("its name has led to")), "{answer:?}");
        assert_eq!(heard, 0);
    }
}
