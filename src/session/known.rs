//! What a server connection already has, of what sessions may need: statements, settings.

use std::sync::Arc;

use hashbrown::HashMap;

use super::prepared::StatementId;
use super::settings::Settings;

/// A name given by PREPARE, and the text of that PREPARE.
pub type NameAndText = (Arc<str>, Arc<str>);

/// What a server connection has. Changed as replies come, read when a session's messages are translated for it.
#[derive(Debug, Default)]
pub struct Known {
    /// Named statements, with the moment of their last use in our own counting.
    statements: HashMap<StatementId, u64>,
    uses: u64,
    /// Whose unnamed statement it holds.
    pub unnamed: Option<UnnamedId>,
    /// Settings that have been changed on it.
    pub settings: Settings,
    /// What a session has prepared on it by SQL: names, and the PREPARE statements.
    pub sql_prepared: Option<(SessionId, Vec<NameAndText>)>,
    /// The session that ran code here which may have left behind what nobody has seen.
    pub unseen: Option<SessionId>,
    /// The last session that wrote on it: the one whose currval it would answer.
    pub last_writer: Option<SessionId>,
    /// The server process behind it.
    pub process_id: u32,
}

/// A session, unique while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// One Parse of the unnamed statement: a session, and its count of such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnnamedId(pub SessionId, pub u64);

impl Known {
    /// A new server connection with this process behind it.
    pub fn of(process_id: u32) -> Self {
        Self { process_id, ..Self::default() }
    }

    /// It has this statement; notes the use.
    pub fn uses(&mut self, id: StatementId) -> bool {
        self.uses += 1;
        let now = self.uses;
        match self.statements.get_mut(&id) {
            Some(last) => {
                *last = now;
                true
            }
            None => false,
        }
    }

    /// It is about to have this statement. Answers the one to close for it, if there would be more than `limit`.
    pub fn add(&mut self, id: StatementId, limit: usize) -> Option<StatementId> {
        self.uses += 1;
        self.statements.insert(id, self.uses);
        if self.statements.len() <= limit.max(1) {
            return None;
        }
        let oldest = self.statements.iter().min_by_key(|(_, last)| **last).map(|(id, _)| *id)?;
        self.statements.remove(&oldest);
        Some(oldest)
    }

    /// It does not have this statement any more.
    pub fn remove(&mut self, id: StatementId) {
        self.statements.remove(&id);
    }

    /// It has this statement; whether it was known before is not.
    pub fn has(&mut self, id: StatementId) {
        self.uses += 1;
        self.statements.entry(id).or_insert(self.uses);
    }

    /// It has none of its named statements any more but these.
    pub fn forget_statements(&mut self, but: impl Fn(StatementId) -> bool) {
        self.statements.retain(|id, _| but(*id));
        self.sql_prepared = None;
    }
}
