//! What the client has been told of the settings that a server reports by itself.

use std::sync::Arc;

/// A setting that no server reports, and that we ask for at login beside those that it does: a role or a database may
/// have another value than PostgreSQL itself.
pub const NEVER_REPORTED: &str = "default_transaction_isolation";

/// Names and values of the ParameterStatus messages of a login, and of [`NEVER_REPORTED`]; shared by all who were told the
/// same. A pointer of one word, for thousands of parked sessions have it.
pub type ReportedAtLogin = Arc<Vec<(Box<str>, Box<str>)>>;

/// What the client has been told, at login and since.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    at_login: Option<ReportedAtLogin>,
    since: Option<ReportedAtLogin>,
}

impl Reported {
    /// What a client is told at login.
    pub fn new(at_login: ReportedAtLogin) -> Self {
        Self { at_login: Some(Arc::clone(&at_login)), since: Some(at_login) }
    }

    /// What the client was told at login, if it has been told nothing since.
    pub fn if_unchanged(&self) -> Option<&ReportedAtLogin> {
        let (at_login, since) = self.at_login.as_ref().zip(self.since.as_ref())?;
        Arc::ptr_eq(at_login, since).then_some(at_login)
    }

    /// The value of this setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        value(self.since.as_ref(), name)
    }

    /// The value of this setting at login.
    pub fn at_login(&self, name: &str) -> Option<&str> {
        value(self.at_login.as_ref(), name)
    }

    /// The node has reported another value.
    pub fn change(&mut self, name: &str, value: &str) {
        if self.get(name) == Some(value) {
            return;
        }
        let others = self.since.iter().flat_map(|all| all.iter()).filter(|(reported, _)| **reported != *name).cloned();
        self.since = Some(Arc::new(others.chain([(name.into(), value.into())]).collect()));
    }
}

fn value<'a>(reported: Option<&'a ReportedAtLogin>, name: &str) -> Option<&'a str> {
    reported?.iter().find(|(reported, _)| **reported == *name).map(|(_, value)| &**value)
}
