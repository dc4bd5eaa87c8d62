//! Statements prepared through the protocol: a client's names for them, and ours on server connections.

use std::sync::Arc;

use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use crate::sql::Statement;

/// What identifies a prepared statement on any server connection: its text and parameter types.
///
/// A digest that nobody can collide: two texts must never share a name on a server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementId([u8; 16]);

/// A statement that a client has prepared.
#[derive(Debug)]
pub struct Prepared {
    /// Its identity on server connections.
    pub id: StatementId,
    /// The query string as the client sent it.
    pub text: Box<[u8]>,
    /// The parameter types as the client sent them.
    pub types: Box<[u8]>,
    /// What it is.
    pub statement: Arc<Statement>,
}

/// A client's prepared statements by name. Empty in most sessions, so it takes no memory until used.
#[derive(Debug, Default)]
pub struct Names {
    confirmed: Option<Box<HashMap<Box<[u8]>, Arc<Prepared>>>>,
    /// Parse (Some) and Close (None) on their way, newest last: what comes behind them in the same batch means these.
    pending: Vec<(Box<[u8]>, Option<Arc<Prepared>>)>,
}

impl StatementId {
    /// The identity of this text with these parameter types.
    pub fn of(text: &[u8], types: &[u8]) -> Self {
        let mut digest = Sha256::new();
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text);
        digest.update(types);
        let whole: [u8; 32] = digest.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(whole.first_chunk::<16>().expect("a digest has 32 bytes"));
        Self(id)
    }

    /// Its name on server connections.
    pub fn server_name(self) -> [u8; 35] {
        let mut name = *b"tl_00000000000000000000000000000000";
        for (byte, pair) in self.0.iter().zip(name.get_mut(3..).unwrap_or_default().chunks_exact_mut(2)) {
            let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
            if let [high, low] = pair {
                (*high, *low) = (digit(byte >> 4), digit(byte & 15));
            }
        }
        name
    }
}

impl Prepared {
    /// A statement as a Parse brings it.
    pub fn new(text: &[u8], types: &[u8], statement: Arc<Statement>) -> Self {
        Self { id: StatementId::of(text, types), text: text.into(), types: types.into(), statement }
    }

    /// The same text and parameter types.
    pub fn is(&self, text: &[u8], types: &[u8]) -> bool {
        *self.text == *text && *self.types == *types
    }
}

impl Names {
    /// The statement of this name, as the next message of the batch would find it.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        if let Some((_, pending)) = self.pending.iter().rev().find(|(pending, _)| **pending == *name) {
            return pending.as_ref();
        }
        self.confirmed.as_ref()?.get(name)
    }

    /// A Parse of this name has been seen.
    pub fn expect(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        self.pending.push((name.into(), Some(prepared)));
    }

    /// A Close of this name has been seen.
    pub fn expect_closed(&mut self, name: &[u8]) {
        if !self.pending.is_empty() || self.confirmed.is_some() {
            self.pending.push((name.into(), None));
        }
    }

    /// The node has prepared it.
    pub fn confirm(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        self.confirmed.get_or_insert_default().insert(name.into(), prepared);
    }

    /// It has been closed.
    pub fn remove(&mut self, name: &[u8]) {
        if let Some(confirmed) = &mut self.confirmed {
            confirmed.remove(name);
            if confirmed.is_empty() {
                self.confirmed = None;
            }
        }
    }

    /// All have been closed.
    pub fn clear(&mut self) {
        self.confirmed = None;
    }

    /// The batch is over: every Parse and Close in it has been answered or skipped.
    pub fn settle(&mut self) {
        if !self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }

    /// The client's name for a statement, to be shown in place of ours.
    pub fn name_of(&self, id: StatementId) -> Option<&[u8]> {
        let confirmed =
            self.confirmed.iter().flat_map(|names| names.iter()).map(|(name, prepared)| (name, Some(prepared)));
        let pending = self.pending.iter().map(|(name, prepared)| (name, prepared.as_ref()));
        pending.chain(confirmed).find(|(_, prepared)| prepared.is_some_and(|p| p.id == id)).map(|(name, _)| &**name)
    }
}
