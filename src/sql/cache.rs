//! What strings were found to be, kept by their text and by their shape. One for each worker thread, without locks.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::parse::{ParseSettings, classify_bytes};
use super::recent::Recent;
use super::shape::{self, Backslash, Folded};
use super::statement::{Argument, Part, Statement};

/// A bounded memory of statements.
#[derive(Debug)]
pub struct Cache {
    entries: Generations,
    recent: Recent<Sort>,
    hasher: FixedState,
    /// The shape of the text in hand; kept for its memory.
    shape: Vec<u8>,
    counters: Counters,
    /// Looks at what is not known.
    classify: Classify,
}

/// What a query string is, as [`classify_bytes`] has it.
pub(super) type Classify = fn(&[u8], &ParseSettings) -> Statement;

/// How often each way led to a statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The text was known.
    pub text_hits: u64,
    /// The text was not known, its shape was.
    pub shape_hits: u64,
    /// It was parsed.
    pub misses: u64,
}

impl Cache {
    /// A cache of at most `max_bytes`.
    pub fn new(max_bytes: usize) -> Self {
        Self::with_seed(max_bytes, 0)
    }

    /// A cache of at most `max_bytes`. A `seed` that clients cannot know keeps them from making texts that collide.
    pub fn with_seed(max_bytes: usize, seed: u64) -> Self {
        Self {
            entries: Generations { young: Generation::default(), old: Generation::default(), limit: max_bytes / 2 },
            recent: Recent::new(),
            hasher: FixedState::with_seed(seed),
            shape: Vec::new(),
            counters: Counters::default(),
            classify: classify_bytes,
        }
    }

    /// What is not known is looked at by this: whoever wants to know how long that takes.
    pub fn classifying_by(mut self, classify: Classify) -> Self {
        self.classify = classify;
        self
    }

    /// It takes the place of another, whose counts go on.
    pub fn counting_on(mut self, before: &Self) -> Self {
        self.counters = before.counters;
        self
    }

    /// What the query string is, as [`classify_bytes`] has it.
    pub fn get(&mut self, text: &[u8], settings: &ParseSettings) -> Arc<Statement> {
        let sort = Sort::of(By::Text, settings);
        if let Some((statement, by_text)) = self.recent.find(text, sort)
            && text.len() <= settings.max_bytes
        {
            self.counters.text_hits += u64::from(by_text);
            self.counters.shape_hits += u64::from(!by_text);
            return Arc::clone(statement);
        }
        let by_text = Key::new(text, By::Text, settings, &self.hasher);
        if let Some(entry) = self.entries.find(&by_text) {
            self.counters.text_hits += 1;
            self.recent.keep(text, (&entry.bytes, false), sort, &entry.statement);
            return Arc::clone(&entry.statement);
        }
        let has_shape = self.fold(text, settings);
        if has_shape {
            let by_shape = Key::new(&self.shape, By::Shape, settings, &self.hasher);
            if let Some(entry) = self.entries.find(&by_shape) {
                self.counters.shape_hits += 1;
                self.recent.keep(text, (&entry.bytes, true), sort, &entry.statement);
                return Arc::clone(&entry.statement);
            }
        }
        self.counters.misses += 1;
        let statement = Arc::new((self.classify)(text, settings));
        self.remember(&by_text, has_shape, settings, &statement);
        statement
    }

    /// It knows what this long text is, without having to parse it.
    #[cold]
    pub fn knows(&mut self, text: &[u8], settings: &ParseSettings) -> bool {
        self.entries.find(&Key::new(text, By::Text, settings, &self.hasher)).is_some()
            || self.fold(text, settings) && {
                let by_shape = Key::new(&self.shape, By::Shape, settings, &self.hasher);
                self.entries.find(&by_shape).is_some()
            }
    }

    /// This text was found to be this statement elsewhere, as [`Cache::get`] finds what it does not know.
    #[cold]
    pub fn put(&mut self, text: &[u8], settings: &ParseSettings, statement: &Arc<Statement>) {
        self.counters.misses += 1;
        let (by_text, has_shape) = (Key::new(text, By::Text, settings, &self.hasher), self.fold(text, settings));
        self.remember(&by_text, has_shape, settings, statement);
    }

    /// How often each way led to a statement, since the beginning.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How many entries there are: a statement that is known by its text and by its shape counts twice.
    pub fn len(&self) -> usize {
        self.entries.young.table.len() + self.entries.old.table.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the entries take, as far as it can be told; bytes.
    pub fn bytes(&self) -> usize {
        self.entries.young.bytes + self.entries.old.bytes
    }

    /// Makes the text's shape. False if it has none, or none but the text itself.
    fn fold(&mut self, text: &[u8], settings: &ParseSettings) -> bool {
        let is_readable = text.is_ascii() || (settings.encoding_is_utf8 && std::str::from_utf8(text).is_ok());
        if !is_readable || text.len() > settings.max_bytes.min(LARGEST_FOLDED) {
            return false;
        }
        let backslash = if settings.standard_conforming_strings { Backslash::Plain } else { Backslash::Escapes };
        matches!(shape::fold(text, backslash, &mut self.shape), Some(Folded(literals)) if literals > 0)
    }

    /// The first text of a shape is kept by both; those that follow are found by their shape alone.
    fn remember(&mut self, by_text: &Key<'_>, has_shape: bool, settings: &ParseSettings, statement: &Arc<Statement>) {
        self.entries.store(Entry::new(by_text, statement));
        if has_shape && statement.shape_decides {
            let by_shape = Key::new(&self.shape, By::Shape, settings, &self.hasher);
            self.entries.store(Entry::new(&by_shape, statement));
        }
        // One large text does not hold memory for ever.
        self.shape.shrink_to(LARGEST_KEPT_SHAPE);
    }
}

/// Bytes of a text whose shape is made: some two milliseconds.
const LARGEST_FOLDED: usize = 1024 * 1024;

/// Bytes; longer shapes are rare.
const LARGEST_KEPT_SHAPE: usize = 64 * 1024;

/// Each entry lives in the young generation until that is full; then the young one becomes the old one, and what was
/// old is forgotten. An old entry that is found becomes young again.
#[derive(Debug)]
struct Generations {
    young: Generation,
    old: Generation,
    /// What one generation may hold; bytes.
    limit: usize,
}

impl Generations {
    fn find(&mut self, key: &Key<'_>) -> Option<&Entry> {
        if self.young.find(key).is_none() {
            let entry = self.old.remove(key)?;
            self.store(entry);
        }
        self.young.find(key)
    }

    fn store(&mut self, entry: Entry) {
        let cost = entry.cost();
        if cost > self.limit / LARGEST_SHARE {
            return;
        }
        if self.young.bytes + cost > self.limit {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(entry);
    }
}

/// An entry may take this part of a generation, so that a few large texts do not push out all others.
const LARGEST_SHARE: usize = 16;

#[derive(Debug, Default)]
struct Generation {
    table: HashTable<Entry>,
    bytes: usize,
}

impl Generation {
    fn find(&self, key: &Key<'_>) -> Option<&Entry> {
        self.table.find(key.hash, |entry| key.is_of(entry))
    }

    fn insert(&mut self, entry: Entry) {
        self.bytes += entry.cost();
        self.table.insert_unique(entry.hash, entry, |entry| entry.hash);
    }

    fn remove(&mut self, key: &Key<'_>) -> Option<Entry> {
        let occupied = self.table.find_entry(key.hash, |entry| key.is_of(entry)).ok()?;
        let (entry, _) = occupied.remove();
        self.bytes -= entry.cost();
        Some(entry)
    }

    fn clear(&mut self) {
        self.table.clear();
        self.bytes = 0;
    }
}

/// What an entry is kept by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Text,
    Shape,
}

/// What changes a text's meaning besides itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sort {
    by: By,
    standard_conforming_strings: bool,
    encoding_is_utf8: bool,
}

impl Sort {
    fn of(by: By, settings: &ParseSettings) -> Self {
        Self {
            by,
            standard_conforming_strings: settings.standard_conforming_strings,
            encoding_is_utf8: settings.encoding_is_utf8,
        }
    }
}

struct Key<'a> {
    bytes: &'a [u8],
    sort: Sort,
    hash: u64,
}

impl<'a> Key<'a> {
    fn new(bytes: &'a [u8], by: By, settings: &ParseSettings, hasher: &FixedState) -> Self {
        Self { bytes, sort: Sort::of(by, settings), hash: hasher.hash_one(bytes) }
    }

    fn is_of(&self, entry: &Entry) -> bool {
        entry.hash == self.hash && entry.sort == self.sort && *entry.bytes == *self.bytes
    }
}

#[derive(Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    sort: Sort,
    hash: u64,
    statement: Arc<Statement>,
}

impl Entry {
    fn new(key: &Key<'_>, statement: &Arc<Statement>) -> Self {
        Self { bytes: key.bytes.into(), sort: key.sort, hash: key.hash, statement: Arc::clone(statement) }
    }

    /// What it takes, about; bytes. A statement that two entries share is counted twice.
    fn cost(&self) -> usize {
        let names = |part: &Part| {
            part.tables.len()
                + part.functions.len()
                + part.calls.len()
                + part.operators.len()
                + part.types.len()
                + part.attributes.len()
        };
        // Beside the text that a PREPARE is given, which the statement has once more.
        let rest = |part: &Part| {
            let arguments = part.calls.iter().filter_map(|call| call.arguments.as_ref()).map(|all| all.len());
            arguments.sum::<usize>() * size_of::<Argument>()
                + part.inserts.as_ref().map_or(0, |target| target.columns.len() * NAME_BYTES)
                + (part.only.len() + part.session.len()) * NAME_BYTES
        };
        let parts = &self.statement.parts;
        let names: usize = parts.iter().map(names).sum();
        let rest: usize = parts.iter().map(rest).sum();
        size_of::<Self>() + self.bytes.len() + parts.len() * size_of::<Part>() + names * NAME_BYTES + rest
    }
}

/// What a name takes with its allocation, about.
const NAME_BYTES: usize = 64;
