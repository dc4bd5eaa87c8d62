//! Asks one node what it is and whom it knows. What becomes of that is left to [`super::search`].

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::conninfo;
use super::finding::{Follower, Node, Role};
use super::place::Place;
use super::url::Url;
use crate::auth::NodeTls;
use crate::backend::exchange::{self, ExchangeError};
use crate::backend::{ConnectError, Endpoint, Login, Target, connect};
use crate::topology::{PostmasterStart, SystemId};

/// Who asks, and how.
pub(super) struct Inquiry {
    /// Its address is of no meaning.
    target: Target,
    tls: Arc<ArcSwap<NodeTls>>,
    patience: Duration,
}

/// Why a node has not told.
#[derive(Debug, thiserror::Error)]
pub(super) enum InquiryError {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("login failed: {0}")]
    Login(#[source] crate::auth::AuthError),
    #[error("{0}")]
    Exchange(#[from] ExchangeError),
    #[error("its answer is not understood: {0}")]
    Answer(&'static str),
}

type Row = Vec<Option<Arc<str>>>;

/// What a node is. What the role may not see is NULL. Columns are read by their numbers in [`read_node`].
const NODE: &str = "\
SELECT pg_is_in_recovery(), \
(SELECT system_identifier FROM pg_control_system()), \
(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, \
current_setting('server_version'), \
current_setting('port'), \
current_setting('max_connections'), \
current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true), '0')::int, \
current_setting('password_encryption'), \
(SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), \
pg_has_role('pg_read_all_stats', 'usage'), \
has_table_privilege('pg_shadow', 'select'), \
CASE WHEN pg_is_in_recovery() THEN CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END END, \
receiver.sender_host, \
receiver.sender_port, \
(SELECT setting FROM pg_settings WHERE name = 'primary_conninfo') \
FROM (SELECT 1) AS one LEFT JOIN pg_stat_wal_receiver AS receiver ON true";

/// Replicas that stream from it, as the monitor counts them: whoever only takes the log, and subscribers, are none.
const FOLLOWERS: &str = "\
SELECT application_name, host(client_addr), state IS NULL FROM pg_stat_replication \
WHERE (state IN ('catchup', 'streaming') AND replay_lsn IS NOT NULL OR state IS NULL) \
AND pid NOT IN (SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active_pid IS NOT NULL) \
ORDER BY 2, 1";

/// Databases that the role may connect to.
const DATABASES: &str = "\
SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND has_database_privilege(oid, 'connect') \
ORDER BY datname";

impl Inquiry {
    pub(super) fn new(url: &Url, tls: NodeTls) -> Self {
        let tls = Arc::new(ArcSwap::from_pointee(tls));
        let target = Target {
            endpoint: Endpoint::new("".into(), Arc::clone(&tls)),
            user: Arc::clone(&url.user),
            database: Arc::clone(&url.database),
            password: Some(url.password.clone()),
            salted_password: None,
            // A standby refuses every query of a role whose transactions are SERIALIZABLE unless they say otherwise. Names
            // are those of PostgreSQL, whatever the role has made of them.
            parameters: [
                ("application_name", "trunkline init"),
                ("default_transaction_isolation", "read committed"),
                ("search_path", "pg_catalog"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        };
        Self { target, tls, patience: url.patience }
    }

    /// Asks the node at this place. Nothing is changed there.
    pub(super) async fn ask(&self, place: &Place) -> Result<Node, InquiryError> {
        let endpoint = Endpoint::new(place.to_string().into(), Arc::clone(&self.tls));
        let target = Target { endpoint, ..self.target.clone() };
        let mut login = connect(&target, Instant::now() + self.patience).await.map_err(|error| match error {
            ConnectError::Auth(why) => InquiryError::Login(why),
            error => error.into(),
        })?;
        let deadline = Instant::now() + self.patience;
        let node = rows(&mut login, NODE, deadline).await?;
        let node = read_node(place, node.first().ok_or(InquiryError::Answer("no row"))?)?;
        let followers = rows(&mut login, FOLLOWERS, deadline).await?.iter().map(read_follower).collect();
        let databases = rows(&mut login, DATABASES, deadline).await?;
        let databases = databases.iter().filter_map(|row| Some(column(row, 0)?.to_owned())).collect();
        Ok(Node { followers, databases, ..node })
    }
}

async fn rows(login: &mut Login, sql: &str, deadline: Instant) -> Result<Vec<Row>, InquiryError> {
    Ok(exchange::query(&mut login.stream, sql, deadline).await?.rows)
}

fn read_node(place: &Place, row: &Row) -> Result<Node, InquiryError> {
    let wrong = InquiryError::Answer;
    let is = |at| column(row, at) == Some("t");
    let is_in_recovery = column(row, 0).ok_or(wrong("pg_is_in_recovery"))? == "t";
    Ok(Node {
        place: place.clone(),
        system: SystemId(number::<i64>(row, 1).ok_or(wrong("system_identifier"))?.cast_unsigned()),
        start: PostmasterStart(number(row, 2).ok_or(wrong("pg_postmaster_start_time"))?),
        role: if is_in_recovery { read_replica(place, row) } else { Role::Primary },
        // Behind it some say who has packed it.
        version: column(row, 3).and_then(|text| text.split(' ').next()).unwrap_or_default().to_owned(),
        port: number(row, 4).ok_or(wrong("port"))?,
        max_connections: number(row, 5).ok_or(wrong("max_connections"))?,
        reserved: number(row, 6).ok_or(wrong("superuser_reserved_connections"))?,
        password_encryption: column(row, 7).unwrap_or_default().to_owned(),
        tls: column(row, 8).map(str::to_owned),
        sees_replication: is(9),
        reads_passwords: is(10),
        followers: Vec::new(),
        databases: Vec::new(),
        also: Vec::new(),
    })
}

fn read_replica(place: &Place, row: &Row) -> Role {
    let sender = column(row, 12).and_then(|host| Place::new(host, number(row, 13)?));
    let upstream = match sender {
        Some(sender) => vec![sender],
        // The receiver is not there, or hides.
        None => column(row, 14).map(conninfo::places).unwrap_or_default(),
    };
    let upstream = upstream.into_iter().map(|upstream| upstream.heard_from(place)).collect();
    Role::Replica { upstream, behind: number(row, 11) }
}

fn read_follower(row: &Row) -> Follower {
    let text = |at| column(row, at).map(str::to_owned);
    Follower { name: text(0).unwrap_or_default(), host: text(1), is_hidden: column(row, 2) == Some("t") }
}

fn column(row: &Row, at: usize) -> Option<&str> {
    row.get(at)?.as_deref()
}

fn number<T: FromStr>(row: &Row, at: usize) -> Option<T> {
    column(row, at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        text.split('|').map(|column| (!column.is_empty()).then(|| column.into())).collect()
    }

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    #[test]
    fn a_primary_tells_its_limits() {
        let node =
            read_node(&place("db1:5432"), &row("f|-7|5|15.18|5433|100|3|scram-sha-256|TLSv1.3|t|f||||")).unwrap();
        assert_eq!((node.system, node.start), (SystemId(0xFFFF_FFFF_FFFF_FFF9), PostmasterStart(5)));
        assert_eq!((node.room(), node.port, node.is_primary()), (97, 5433, true));
        assert_eq!((node.tls.as_deref(), node.sees_replication, node.reads_passwords), (Some("TLSv1.3"), true, false));
    }

    #[test]
    fn a_replica_tells_its_upstream_by_its_receiver_or_its_configuration() {
        let role = |text: &str| read_node(&place("db2:5432"), &row(text)).unwrap().role;
        let replica = |upstream: &str, behind| Role::Replica { upstream: vec![place(upstream)], behind };
        let told = "t|7|5|15.18|5432|100|3|scram-sha-256||t|f|0|10.0.0.1|5433|host=other";
        assert_eq!(role(told), replica("10.0.0.1:5433", Some(0.0)));
        let configured = "t|7|5|15.18|5432|100|3|scram-sha-256||t|f|1.5|||host=/run/pg port=5434 password=x";
        assert_eq!(role(configured), replica("db2:5434", Some(1.5)));
        let hidden = "t|7|5|15.18|5432|100|3|scram-sha-256||f|f||||";
        assert_eq!(role(hidden), Role::Replica { upstream: Vec::new(), behind: None });
    }

    #[test]
    fn an_answer_that_makes_no_sense_names_its_column() {
        let problem = read_node(&place("db1:5432"), &row("f|x|5")).unwrap_err().to_string();
        assert_eq!(problem, "its answer is not understood: system_identifier");
    }
}
