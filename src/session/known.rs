//! What a server connection already has, of what sessions may need: statements, settings.

use std::sync::Arc;

use hashbrown::HashMap;

use super::columns::{Columns, Parameters};
use super::prepared::StatementId;
use super::reported::Reports;
use super::sequences::Drawn;
use super::settings::{CLIENT_ENCODING, Settings, UTF8};

/// A name given by PREPARE, and the text of that PREPARE; or of a mirror (see [`super::mirrored`]), and our name for what
/// it is.
pub type NameAndText = (Arc<str>, Arc<str>);

/// What a server connection has. Changed as replies come, read when a session's messages are translated for it.
#[derive(Debug, Default)]
pub struct Known {
    /// Named statements.
    statements: HashMap<StatementId, Named>,
    uses: u64,
    /// Whose unnamed statement it will hold once all that was sent is done.
    pub unnamed: Option<UnnamedId>,
    /// Whose it holds by what has been answered.
    settled_unnamed: Option<UnnamedId>,
    /// Settings that have been changed on it.
    pub settings: Settings,
    /// What it reports of its settings now, whoever has set them.
    pub reports: Reports,
    /// What a session has prepared on it by SQL: names, and the PREPARE statements. None where there is nothing.
    pub sql_prepared: Option<(SessionId, Vec<NameAndText>)>,
    /// The session that ran code here which may have left behind what nobody has seen.
    pub unseen: Option<SessionId>,
    /// Temporary tables have been used on it.
    pub has_used_temporary: bool,
    /// Whose the current values of sequences are on it.
    pub drawn: Drawn,
    /// The server process behind it.
    pub process_id: u32,
}

/// A named statement.
#[derive(Clone, Copy, Debug)]
struct Named {
    /// The moment of its last use, in our own counting.
    last: u64,
    /// The types of parameters that it had when it was prepared here, once they were asked for.
    parameters: Option<Parameters>,
    /// The columns that it had then.
    columns: Option<Columns>,
}

impl Named {
    fn new(last: u64) -> Self {
        Self { last, parameters: None, columns: None }
    }
}

/// A session, unique while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// One Parse of the unnamed statement: a session, and its count of such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnnamedId(pub SessionId, pub u64);

impl Known {
    /// A new server connection with this process behind it, which has reported this at its login.
    pub fn of(process_id: u32, reported: &[(Box<str>, Box<str>)]) -> Self {
        Self { process_id, reports: Reports::new(reported), ..Self::default() }
    }

    /// DISCARD ALL has been done: it is as good as new, but for what its node has made room for.
    pub fn is_discarded(&mut self) {
        let Self { process_id, has_used_temporary, .. } = *self;
        *self = Self { process_id, has_used_temporary, reports: std::mem::take(&mut self.reports), ..Self::default() };
    }

    /// The unnamed statement has been given, or dropped.
    pub fn unnamed_settles(&mut self, unnamed: Option<UnnamedId>) {
        self.settled_unnamed = unnamed;
    }

    /// What was to give or drop it has been skipped, and nothing else that does is under way.
    pub fn unnamed_stays(&mut self) {
        self.unnamed = self.settled_unnamed;
    }

    /// A Query of ours has dropped it.
    pub fn unnamed_is_gone(&mut self) {
        self.unnamed = None;
        self.settled_unnamed = None;
    }

    /// It takes what it is sent for UTF-8 from now on.
    pub fn is_in_utf8(&mut self) {
        self.settings = self.settings.with(&CLIENT_ENCODING.into(), Some(UTF8.into()));
    }

    /// It has this statement; notes the use.
    pub fn uses(&mut self, id: StatementId) -> bool {
        self.uses += 1;
        let now = self.uses;
        match self.statements.get_mut(&id) {
            Some(named) => {
                named.last = now;
                true
            }
            None => false,
        }
    }

    /// It is about to have this statement. Answers the one to close for it, if there would be more than `limit`.
    pub fn add(&mut self, id: StatementId, limit: usize) -> Option<StatementId> {
        self.uses += 1;
        self.statements.insert(id, Named::new(self.uses));
        if self.statements.len() <= limit.max(1) {
            return None;
        }
        let oldest = self.statements.iter().min_by_key(|(_, named)| named.last).map(|(id, _)| *id)?;
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
        self.statements.entry(id).or_insert(Named::new(self.uses));
    }

    /// The types of this statement's parameters, where they are known.
    pub fn parameters(&self, id: StatementId) -> Option<Parameters> {
        self.statements.get(&id)?.parameters
    }

    /// The types of its parameters have been told.
    pub fn described_parameters(&mut self, id: StatementId, parameters: Parameters) {
        if let Some(named) = self.statements.get_mut(&id) {
            named.parameters = Some(parameters);
        }
    }

    /// The columns of this statement, where they are known.
    pub fn columns(&self, id: StatementId) -> Option<Columns> {
        self.statements.get(&id)?.columns
    }

    /// Its columns have been told.
    pub fn described(&mut self, id: StatementId, columns: Columns) {
        if let Some(named) = self.statements.get_mut(&id) {
            named.columns = Some(columns);
        }
    }

    /// How many named statements of ours it has.
    pub fn count_statements(&self) -> usize {
        self.statements.len()
    }

    /// It has none of its named statements any more but these.
    pub fn forget_statements(&mut self, but: impl Fn(StatementId) -> bool) {
        self.statements.retain(|id, _| but(*id));
        self.sql_prepared = None;
    }
}
