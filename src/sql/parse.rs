//! Text in, [`Statement`] out. The only file that names pg_query; what a tree means is left to [`super::effects`].

use super::comments;
use super::effects;
use super::statement::{Kind, NeedsPrimary, Part, Statement};

pub(super) use pg_query::protobuf as grammar;

/// What a query string's meaning depends on besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParseSettings {
    /// The session's `standard_conforming_strings`: when off, a backslash escapes in plain literals too.
    pub standard_conforming_strings: bool,
    /// The session's `client_encoding` is UTF8. When it is not, only ASCII text is looked at: the bytes of some
    /// encodings look like quotes or backslashes.
    pub encoding_is_utf8: bool,
    /// Longer strings are not looked at; bytes.
    pub max_bytes: usize,
}

impl Default for ParseSettings {
    fn default() -> Self {
        Self { standard_conforming_strings: true, encoding_is_utf8: true, max_bytes: DEFAULT_MAX_BYTES }
    }
}

/// What a query string is that is too large to be looked at.
pub fn too_large() -> Statement {
    opaque(Opaque::TooLarge)
}

/// What the query string is. `text` is a Query's or a Parse's string without its final zero.
pub fn classify_bytes(text: &[u8], settings: &ParseSettings) -> Statement {
    match std::str::from_utf8(text) {
        Ok(text) => classify(text, settings),
        Err(_) if text.len() > settings.max_bytes => opaque(Opaque::TooLarge),
        Err(_) => opaque(Opaque::Unparsed),
    }
}

/// What the query string is.
pub fn classify(text: &str, settings: &ParseSettings) -> Statement {
    if text.len() > settings.max_bytes {
        return opaque(Opaque::TooLarge);
    }
    if !settings.encoding_is_utf8 && !text.is_ascii() {
        return opaque(Opaque::Unparsed);
    }
    if scans_slowly(text) {
        return opaque(Opaque::Unparsed);
    }
    // The parser's stack check and its limit on nesting turn any depth into an error; no text may crash it.
    match pg_query::parse(text, options(settings)) {
        Ok(tree) => {
            let mut statement = effects::statement(&tree.protobuf, text);
            if effects::names_too_much(&statement) {
                return opaque(Opaque::TooLarge);
            }
            statement.remarks = comments::read(text, settings.standard_conforming_strings);
            statement
        }
        Err(_) => opaque(Opaque::Unparsed),
    }
}

/// Where each statement of a query string ends, in bytes: before its semicolon, or with the string. Empty for what is not
/// parsed.
pub fn ends_of_statements(text: &str, settings: &ParseSettings) -> Vec<usize> {
    let Ok(tree) = pg_query::parse(text, options(settings)) else { return Vec::new() };
    let end = |raw: &grammar::RawStmt| match (usize::try_from(raw.stmt_location), usize::try_from(raw.stmt_len)) {
        (Ok(begin), Ok(length @ 1..)) => begin + length,
        _ => text.len(),
    };
    tree.protobuf.stmts.iter().map(end).collect()
}

/// A number that all texts share which differ only in literals, spaces and comments, as pg_stat_statements' kin have it
/// (`pg_query`'s fingerprint). None for what is not parsed.
pub fn fingerprint(text: &str, settings: &ParseSettings) -> Option<u64> {
    let is_readable = text.len() <= settings.max_bytes && !scans_slowly(text);
    let print = is_readable
        .then(|| pg_query::fingerprint(text, options(settings), pg_query::FingerprintOptions::DEFAULT).ok())
        .flatten()?;
    u64::from_str_radix(&print.hex, 16).ok()
}

fn options(settings: &ParseSettings) -> pg_query::ParserOptions {
    let quiet = pg_query::ParserOptions::DISABLE_ESCAPE_STRING_WARNING;
    if settings.standard_conforming_strings {
        quiet
    } else {
        quiet | pg_query::ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS
    }
}

/// PostgreSQL's scanner reads a run of operator characters anew at each `/*` inside it: `/*/*/*…` of 200 kB takes it 40 s.
fn scans_slowly(text: &str) -> bool {
    let mut run = 0_usize;
    let mut openings = 0_usize;
    let mut steps = 0_usize;
    let mut before = 0;
    for &byte in text.as_bytes() {
        if is_operator_character(byte) {
            run += 1;
            openings += usize::from(before == b'/' && byte == b'*');
        } else {
            steps += run * openings;
            run = 0;
            openings = 0;
        }
        before = byte;
    }
    steps + run * openings > MOST_SCANNER_STEPS
}

fn is_operator_character(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

/// A few milliseconds; real comments need one step for each character.
const MOST_SCANNER_STEPS: usize = 1 << 20;

/// Why a string was not looked at.
enum Opaque {
    TooLarge,
    Unparsed,
}

fn opaque(why: Opaque) -> Statement {
    let needs_primary = match why {
        Opaque::TooLarge => NeedsPrimary::TooLarge,
        Opaque::Unparsed => NeedsPrimary::Unparsed,
    };
    // It may be a newer server's statement, so it is given every effect that a failure or a change would need.
    let part = Part {
        needs_primary: Some(needs_primary),
        commits_inside: true,
        // One that is too large is too often an INSERT of many rows: what it has done its tags will tell.
        changes_catalog: matches!(why, Opaque::Unparsed),
        changes_shared: matches!(why, Opaque::Unparsed),
        calls_unknown: true,
        ..effects::harmless(Kind::Unparsed)
    };
    Statement::new(Box::new([part]), false)
}

/// A parse of that much takes tens of milliseconds of one worker's time.
const DEFAULT_MAX_BYTES: usize = 128 * 1024;
