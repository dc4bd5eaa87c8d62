//! Statements prepared through the protocol: a client's names for them, and ours on server connections.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use super::columns::{Columns, Parameters};
use super::known::{Known, SessionId};
use super::owed::{Moment, OwedReplies};
use crate::sql::{Kind, REPORTED_FOR_LITERALS, Statement, UNREPORTED_FOR_LITERALS};

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
    types_sent: Box<[u8]>,
    /// What it is.
    pub statement: Arc<Statement>,
    /// How its literals were read.
    pub reading: Reading,
    /// Whose Parse has made it, where another's would mean something else.
    by: Option<ParseId>,
    /// The types of its parameters as the session's own Parse has found them, where the client has not sent them all.
    types_found: OnceLock<(Box<[u8]>, Parameters)>,
    /// Its columns as the session's own Parse has found them: what the client may rely on.
    columns: OnceLock<Columns>,
}

/// One Parse of a session, by a number.
pub type ParseId = (SessionId, u64);

/// The settings by which PostgreSQL reads the literals of a statement once, when it is prepared: DateStyle and its kin.
/// Sessions that differ in them cannot share a prepared statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading([u8; 16]);

impl Reading {
    /// What these settings make of a literal.
    pub fn of<'a>(reported: impl Fn(&str) -> Option<&'a str>, settings: &super::Settings) -> Self {
        let mut digest = Sha256::new();
        let values = REPORTED_FOR_LITERALS.iter().map(|name| reported(name));
        for value in values.chain(UNREPORTED_FOR_LITERALS.iter().map(|name| settings.get(name))) {
            digest.update(value.unwrap_or_default());
            digest.update([0, u8::from(value.is_some())]);
        }
        Self::marked(digest, false)
    }

    /// What nobody knows yet, or only the server: no other session has this one, nor has this session at another number.
    pub fn of_nobody_else(session: SessionId, number: u64) -> Self {
        let digest = Sha256::new().chain_update(session.0.to_be_bytes()).chain_update(number.to_be_bytes());
        Self::marked(digest, true)
    }

    /// It is nobody else's.
    pub fn is_doubtful(self) -> bool {
        u128::from_be_bytes(self.0) & 1 == 1
    }

    /// It depends on this setting, of which only reading it back tells.
    pub fn is_never_reported(name: &str) -> bool {
        UNREPORTED_FOR_LITERALS.contains(&name)
    }

    fn marked(digest: Sha256, is_doubtful: bool) -> Self {
        Self((u128::from_be_bytes(half(digest)) & !1 | u128::from(is_doubtful)).to_be_bytes())
    }
}

pub(super) fn half(digest: Sha256) -> [u8; 16] {
    let whole: [u8; 32] = digest.finalize().into();
    *whole.first_chunk().expect("a digest has 32 bytes")
}

/// A name that a Parse gives to a statement (Some) or a Close takes away (None).
pub type Given = (Box<[u8]>, Option<Arc<Prepared>>);

type Confirmed = HashMap<Box<[u8]>, Arc<Prepared>>;

/// A client's prepared statements by name. Empty in most sessions, so it takes no memory until used.
///
/// What the node has answered is confirmed; what is on its way stands behind it in order, and each leaves the queue when
/// it is answered or skipped. So the names are right whatever fails: nothing is believed because it was sent.
#[derive(Clone, Debug, Default)]
pub struct Names {
    confirmed: Option<Box<Confirmed>>,
    pending: VecDeque<Pending>,
    latest: Latest,
    /// What confirmed names were before what the client has not been shown.
    unshown: Vec<Before>,
}

/// Where in a queue the last stands that is about a name: a long pipeline is not gone through for each of its names.
#[derive(Clone, Debug, Default)]
struct Latest {
    /// How many have left the queue.
    settled: u64,
    /// The last about each name, counted from the first that was ever in the queue.
    of: HashMap<Box<[u8]>, u64>,
    /// The last that is about all of them.
    of_all: Option<u64>,
}

impl Latest {
    /// The place in the queue.
    fn about(&self, name: &[u8]) -> Option<usize> {
        let last = self.of.get(name).copied().max(self.of_all)?;
        usize::try_from(last.checked_sub(self.settled)?).ok()
    }

    /// One more, of this name or of all, stands behind so many.
    fn is_behind(&mut self, count: usize, name: Option<&[u8]>) {
        let place = self.settled + u64::try_from(count).unwrap_or(0);
        match name {
            Some(name) => drop(self.of.insert(name.into(), place)),
            None => self.of_all = Some(place),
        }
    }

    /// The first leaves the queue.
    fn settle(&mut self, first: &Pending) {
        if let Pending::One((name, _), _) = first
            && self.of.get(name) == Some(&self.settled)
        {
            self.of.remove(name);
        }
        self.settled += 1;
    }
}

/// The names of a session of which nothing is under way.
#[derive(Debug)]
pub struct Settled(Option<Box<Confirmed>>);

impl From<Settled> for Names {
    fn from(Settled(confirmed): Settled) -> Self {
        Self { confirmed, ..Self::default() }
    }
}

/// Something on its way that gives a name or takes it away: what comes behind it means this.
#[derive(Clone, Debug)]
enum Pending {
    /// A Parse (Some), or a Close or DEALLOCATE (None).
    One(Given, Moment),
    /// DEALLOCATE ALL or DISCARD ALL.
    NoneLeft(Moment),
}

/// What has been changed.
#[derive(Clone, Debug)]
enum Before {
    One(Given),
    All(Option<Box<Confirmed>>),
}

impl Pending {
    fn moment(&self) -> Moment {
        match self {
            Self::One(_, moment) | Self::NoneLeft(moment) => *moment,
        }
    }
}

impl StatementId {
    /// The identity of this text with these parameter types, read under these settings; and by whom, where that counts.
    fn of(text: &[u8], types: &[u8], reading: Reading, parse: Option<ParseId>) -> Self {
        let mut digest = Sha256::new();
        if let Some((SessionId(session), number)) = parse {
            digest.update(session.to_be_bytes());
            digest.update(number.to_be_bytes());
        }
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

    /// This is one of our names.
    pub fn is_of(name: &[u8]) -> bool {
        Self::first_in(name).is_some_and(|id| name == id.server_name())
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
    pub fn new(text: &[u8], types: &[u8], statement: Arc<Statement>, reading: Reading, by: Option<ParseId>) -> Self {
        let id = StatementId::of(text, types, reading, by);
        let (types_found, columns) = (OnceLock::new(), OnceLock::new());
        Self { id, text: text.into(), types_sent: types.into(), statement, reading, by, types_found, columns }
    }

    /// Whoever has parsed it, it means the same.
    pub fn is_anybodys(&self) -> bool {
        self.by.is_none()
    }

    /// The same statement for a session that has changed how it reads literals.
    pub fn reread(&self, reading: Reading) -> Self {
        let (types_found, columns) = (self.types_found.clone(), self.columns.clone());
        Self { types_found, columns, ..self.untold(reading) }
    }

    /// The same, parsed anew by a session that reads literals so: nothing has been told of it.
    pub fn untold(&self, reading: Reading) -> Self {
        let is_same = reading == self.reading;
        let id = if is_same { self.id } else { StatementId::of(&self.text, &self.types_sent, reading, self.by) };
        let (text, types_sent) = (self.text.clone(), self.types_sent.clone());
        let (types_found, columns) = (OnceLock::new(), OnceLock::new());
        Self {
            id,
            text,
            types_sent,
            statement: Arc::clone(&self.statement),
            reading,
            by: self.by,
            types_found,
            columns,
        }
    }

    /// The parameter types by which it is to be prepared: those that were found, if they were told.
    pub fn types(&self) -> &[u8] {
        self.types_found.get().map_or(&self.types_sent, |(types, _)| types)
    }

    /// The types of its parameters have been told; the first time counts.
    pub fn tell_types(&self, types: &[u8]) {
        if *types != *self.types_sent {
            let _ = self.types_found.set((types.into(), Parameters::told(types)));
        }
    }

    /// Its columns have been told; the first time counts.
    pub fn tell(&self, columns: Columns) {
        if !self.has_columns_of_another() {
            let _ = self.columns.set(columns);
        }
    }

    /// It answers with the columns of the cursor or the statement that has the name by then: PostgreSQL holds it to none.
    pub fn has_columns_of_another(&self) -> bool {
        let names_another = |kind| matches!(kind, Kind::Fetch | Kind::Execute);
        !self.statement.is_plain_read() && self.statement.only().is_some_and(|part| names_another(part.kind))
    }

    /// Its columns have been told.
    pub fn has_told(&self) -> bool {
        self.columns.get().is_some()
    }

    /// There is something of it that the client may rely on: types of parameters that the node has found, or columns.
    pub fn is_promised(&self) -> bool {
        self.types_found.get().is_some() || self.promises_columns()
    }

    /// It has been told of it that it answers no rows.
    pub fn answers_no_rows(&self) -> bool {
        self.columns.get().is_some_and(|columns| !columns.has_rows())
    }

    fn promises_columns(&self) -> bool {
        self.columns.get().is_some_and(|columns| columns.has_rows())
    }

    /// On this server connection it is known to have what the client may rely on, if there is anything.
    pub fn is_alike(&self, known: &Known) -> bool {
        let has_them = |(_, found): &(_, Parameters)| known.parameters(self.id).as_ref() == Some(found);
        self.types_found.get().is_none_or(has_them)
            && (!self.promises_columns() || known.columns(self.id).as_ref() == self.columns.get())
    }

    /// On this server connection it is known to have other columns.
    pub fn has_changed(&self, known: &Known) -> bool {
        self.promises_columns() && known.columns(self.id).is_some_and(|there| Some(&there) != self.columns.get())
    }

    /// The same text and parameter types.
    pub fn is(&self, text: &[u8], types: &[u8]) -> bool {
        *self.text == *text && *self.types_sent == *types
    }
}

impl Names {
    /// Nothing that gives a name or takes one away is on its way, and the client has been shown the answers.
    pub fn are_settled(&self) -> bool {
        self.pending.is_empty() && self.unshown.is_empty()
    }

    /// What is left of them where they [are settled](Self::are_settled).
    pub fn into_settled(self) -> Settled {
        Settled(self.confirmed)
    }

    /// The statement of this name, as the next message of the batch would find it.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        match self.last_about(name) {
            Some(Pending::One((_, prepared), _)) => prepared.as_ref(),
            Some(Pending::NoneLeft(_)) => None,
            None => self.confirmed.as_ref()?.get(name),
        }
    }

    /// The statement of this name by what has been answered.
    pub fn confirmed(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        self.confirmed.as_ref()?.get(name)
    }

    /// Whether there is such a statement, and which, is in doubt until more has been answered.
    pub fn is_doubtful(&self, name: &[u8], owed: &OwedReplies) -> bool {
        self.last_about(name).is_some_and(|pending| owed.is_doubtful(pending.moment()))
    }

    fn last_about(&self, name: &[u8]) -> Option<&Pending> {
        if self.pending.is_empty() {
            return None;
        }
        self.pending.get(self.latest.about(name)?)
    }

    /// Any name is in doubt.
    pub fn are_doubtful(&self, owed: &OwedReplies) -> bool {
        self.pending.iter().any(|pending| owed.is_doubtful(pending.moment()))
    }

    /// A Parse of this name is sent now.
    pub fn expect(&mut self, name: &[u8], prepared: Arc<Prepared>, now: Moment) {
        self.latest.is_behind(self.pending.len(), Some(name));
        self.pending.push_back(Pending::One((name.into(), Some(prepared)), now));
    }

    /// A Close or DEALLOCATE of this name is sent now.
    pub fn expect_closed(&mut self, name: &[u8], now: Moment) {
        self.latest.is_behind(self.pending.len(), Some(name));
        self.pending.push_back(Pending::One((name.into(), None), now));
    }

    /// DEALLOCATE ALL or DISCARD ALL is sent now.
    pub fn expect_none_left(&mut self, now: Moment) {
        self.latest.is_behind(self.pending.len(), None);
        self.pending.push_back(Pending::NoneLeft(now));
    }

    /// The oldest on its way has been answered, or skipped by the node.
    pub fn settle(&mut self) {
        if let Some(first) = self.pending.pop_front() {
            self.latest.settle(&first);
        }
        if self.pending.is_empty() {
            self.forget_pending();
        }
    }

    fn forget_pending(&mut self) {
        self.pending = VecDeque::new();
        self.latest = Latest::default();
    }

    /// The node has prepared it: the oldest on its way.
    pub fn confirm(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        self.settle();
        self.put(name, prepared);
    }

    /// It is prepared, though no node has been asked.
    pub fn put(&mut self, name: &[u8], prepared: Arc<Prepared>) {
        let before = self.confirmed.get_or_insert_default().insert(name.into(), prepared);
        self.unshown.push(Before::One((name.into(), before)));
    }

    /// The node has closed it: the oldest on its way.
    pub fn closed(&mut self, name: &[u8]) {
        self.settle();
        self.remove(name);
    }

    /// This statement is known by another identity from now on.
    pub fn rekey(&mut self, name: &[u8], prepared: &Arc<Prepared>) {
        let last = if self.pending.is_empty() { None } else { self.latest.about(name) };
        let place = match last.and_then(|last| self.pending.get_mut(last)) {
            Some(Pending::One((_, place), _)) => place.as_mut(),
            Some(Pending::NoneLeft(_)) => None,
            None => self.confirmed.as_mut().and_then(|confirmed| confirmed.get_mut(name)),
        };
        if let Some(place) = place {
            *place = Arc::clone(prepared);
        }
    }

    /// It has been closed.
    pub fn remove(&mut self, name: &[u8]) {
        let Some(confirmed) = &mut self.confirmed else { return };
        if let Some((name, before)) = confirmed.remove_entry(name) {
            self.unshown.push(Before::One((name, Some(before))));
        }
        if confirmed.is_empty() {
            self.confirmed = None;
        }
    }

    /// All have been closed.
    pub fn clear(&mut self) {
        self.unshown.push(Before::All(self.confirmed.take()));
    }

    /// The client has been shown whatever was answered.
    pub fn shown(&mut self) {
        if !self.unshown.is_empty() {
            self.unshown = Vec::new();
        }
    }

    /// What is on its way is forgotten, and what the client has not been shown of the answers is taken back: it is done
    /// anew, or never was.
    pub fn rewind(&mut self) {
        self.forget_pending();
        while let Some(before) = self.unshown.pop() {
            match before {
                Before::One((name, Some(prepared))) => {
                    self.confirmed.get_or_insert_default().insert(name, prepared);
                }
                Before::One((name, None)) => {
                    self.confirmed.as_mut().and_then(|confirmed| confirmed.remove(&name));
                }
                Before::All(all) => self.confirmed = all,
            }
        }
    }

    /// The client's name for a statement, to be shown in place of ours.
    pub fn name_of(&self, id: StatementId) -> Option<&[u8]> {
        let pending = self.pending.iter().filter_map(|pending| match pending {
            Pending::One((name, Some(prepared)), _) => Some((name, prepared)),
            _ => None,
        });
        let confirmed = self.confirmed.iter().flat_map(|names| names.iter());
        pending.chain(confirmed).find(|(_, prepared)| prepared.id == id).map(|(name, _)| &**name)
    }
}
