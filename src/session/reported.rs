//! What the client has been told of the settings that a server reports by itself.

use std::sync::Arc;

/// Names and values of the ParameterStatus messages of a login; shared by all who were told the same.
pub type ReportedAtLogin = Arc<[(Box<str>, Box<str>)]>;

/// What the client has been told, at login and since.
#[derive(Clone, Debug, Default)]
pub struct Reported(Option<ReportedAtLogin>);

impl Reported {
    /// What a client is told at login.
    pub fn new(at_login: ReportedAtLogin) -> Self {
        Self(Some(at_login))
    }

    /// The value of this setting.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.iter().find(|(reported, _)| **reported == *name).map(|(_, value)| &**value)
    }

    /// The node has reported another value.
    pub fn change(&mut self, name: &str, value: &str) {
        if self.get(name) == Some(value) {
            return;
        }
        let others = self.0.iter().flat_map(|all| all.iter()).filter(|(reported, _)| **reported != *name).cloned();
        self.0 = Some(others.chain([(name.into(), value.into())]).collect());
    }
}
