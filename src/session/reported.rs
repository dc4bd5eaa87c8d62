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
    /// What it was when the session was idle last, where something has been told since.
    when_idle: Option<ReportedAtLogin>,
}

impl Reported {
    /// What a client is told at login.
    pub fn new(at_login: ReportedAtLogin) -> Self {
        Self { at_login: Some(Arc::clone(&at_login)), since: Some(at_login), when_idle: None }
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

    /// The node has reported another value: as long as the session is not idle, its transaction may be what has set it.
    pub fn change(&mut self, name: &str, value: &str) {
        if self.get(name) == Some(value) {
            return;
        }
        if self.when_idle.is_none() {
            self.when_idle.clone_from(&self.since);
        }
        let others = self.since.iter().flat_map(|all| all.iter()).filter(|(reported, _)| **reported != *name).cloned();
        self.since = Some(Arc::new(others.chain([(name.into(), value.into())]).collect()));
    }

    /// No transaction is open that could take back what has been reported.
    #[inline]
    pub fn settle(&mut self) {
        if self.when_idle.is_some() {
            self.when_idle = None;
        }
    }

    /// The transaction is undone, and no node says so: it is what it was before. Answers what the client has been told
    /// otherwise.
    pub fn take_back(&mut self) -> Vec<(Box<str>, Box<str>)> {
        let Some(before) = self.when_idle.take() else { return Vec::new() };
        let undone = before.iter().filter(|(name, value)| self.get(name) != Some(value)).cloned().collect();
        self.since = Some(before);
        undone
    }
}

fn value<'a>(reported: Option<&'a ReportedAtLogin>, name: &str) -> Option<&'a str> {
    reported?.iter().find(|(reported, _)| **reported == *name).map(|(_, value)| &**value)
}
