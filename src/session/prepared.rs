//! Statements prepared through the protocol: a client's names for them, and ours on server connections.

use std::collections::VecDeque;
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
    /// How its literals were read.
    pub reading: Reading,
}

/// The settings by which PostgreSQL reads the literals of a statement once, when it is prepared: DateStyle and its kin.
/// Sessions that differ in them cannot share a prepared statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading([u8; 16]);

impl Reading {
    /// The settings that count, of those a server reports.
    const REPORTED: [&str; 5] =
        ["DateStyle", "TimeZone", "IntervalStyle", "standard_conforming_strings", "client_encoding"];

    /// The settings that count, of those it does not.
    const UNREPORTED: [&str; 5] =
        ["array_nulls", "backslash_quote", "lc_monetary", "transform_null_equals", "xmloption"];

    /// What these settings make of a literal.
    pub fn of<'a>(reported: impl Fn(&str) -> Option<&'a str>, settings: &super::Settings) -> Self {
        let mut digest = Sha256::new();
        let values = Self::REPORTED.iter().map(|name| reported(name));
        for value in values.chain(Self::UNREPORTED.iter().map(|name| settings.get(name))) {
            digest.update(value.unwrap_or_default());
            digest.update([0, u8::from(value.is_some())]);
        }
        Self(half(digest))
    }
}

fn half(digest: Sha256) -> [u8; 16] {
    let whole: [u8; 32] = digest.finalize().into();
    *whole.first_chunk().expect("a digest has 32 bytes")
}

/// A name that a Parse gives to a statement (Some) or a Close takes away (None).
pub type Given = (Box<[u8]>, Option<Arc<Prepared>>);

type Confirmed = HashMap<Box<[u8]>, Arc<Prepared>>;

/// A client's prepared statements by name. Empty in most sessions, so it takes no memory until used.
#[derive(Clone, Debug, Default)]
pub struct Names {
    confirmed: Option<Box<Confirmed>>,
    /// Parse (Some) and Close (None) on their way, in order: what comes behind them means these.
    pending: VecDeque<Given>,
}

impl StatementId {
    /// The identity of this text with these parameter types, read under these settings.
    pub fn of(text: &[u8], types: &[u8], reading: Reading) -> Self {
        let mut digest = Sha256::new();
        digest.update(reading.0);
        digest.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(text);
        digest.update(types);
        Self(half(digest))
    }

    /// The first of our names in these bytes.
    pub fn first_in(bytes: &[u8]) -> Option<Self> {
        const PREFIX: &[u8] = b"tl_";
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.windows(PREFIX.len() + 32).find_map(|window| {
            let mut id = [0; 16];
            for (byte, pair) in id.iter_mut().zip(window.strip_prefix(PREFIX)?.chunks_exact(2)) {
                let &[high, low] = pair else { return None };
                *byte = digit(high)? << 4 | digit(low)?;
            }
            Some(Self(id))
        })
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
    pub fn new(text: &[u8], types: &[u8], statement: Arc<Statement>, reading: Reading) -> Self {
        Self { id: StatementId::of(text, types, reading), text: text.into(), types: types.into(), statement, reading }
    }

    /// The same statement for a session that has changed how it reads literals.
    pub fn reread(&self, reading: Reading) -> Self {
        Self::new(&self.text, &self.types, Arc::clone(&self.statement), reading)
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
        self.pending.push_back((name.into(), Some(prepared)));
    }

    /// A Close of this name has been seen.
    pub fn expect_closed(&mut self, name: &[u8]) {
        self.pending.push_back((name.into(), None));
    }

    /// The oldest Parse or Close on its way has been skipped by the node.
    pub fn skip(&mut self) {
        self.pending.pop_front();
        if self.pending.is_empty() {
            self.pending = VecDeque::new();
        }
    }

    /// The node has prepared it: the oldest on its way.
    pub fn confirm(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        self.skip();
        self.confirmed.get_or_insert_default().insert(name.into(), prepared);
    }

    /// The node has closed it: the oldest on its way.
    pub fn closed(&mut self, name: &[u8]) {
        self.skip();
        self.remove(name);
    }

    /// This statement is known by another identity from now on.
    pub fn rekey(&mut self, name: &[u8], prepared: &Arc<Prepared>) {
        if let Some((_, place)) = self.pending.iter_mut().rev().find(|(pending, _)| **pending == *name) {
            *place = Some(Arc::clone(prepared));
        } else if let Some(place) = self.confirmed.as_mut().and_then(|confirmed| confirmed.get_mut(name)) {
            *place = Arc::clone(prepared);
        }
    }

    /// It has been closed by SQL.
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

    /// The node is lost, with every Parse and Close on its way.
    pub fn forget_pending(&mut self) {
        self.pending = VecDeque::new();
    }

    /// The client's name for a statement, to be shown in place of ours.
    pub fn name_of(&self, id: StatementId) -> Option<&[u8]> {
        let confirmed =
            self.confirmed.iter().flat_map(|names| names.iter()).map(|(name, prepared)| (name, Some(prepared)));
        let pending = self.pending.iter().map(|(name, prepared)| (name, prepared.as_ref()));
        pending.chain(confirmed).find(|(_, prepared)| prepared.is_some_and(|p| p.id == id)).map(|(name, _)| &**name)
    }
}
