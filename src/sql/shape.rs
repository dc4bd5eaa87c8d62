//! The shape of a query string: its text with numbers and plain strings folded to their kind, so that statements that
//! differ in nothing else are looked at once. Comments and spaces stay.
//!
//! It follows PostgreSQL's scanner where that is simple. Whatever is not (escape strings, dollar quotes, …) has no shape
//! and is parsed in full: a wrong shape would be a wrong route, a missing one only costs time.

use smallvec::SmallVec;

/// How many literals were folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Folded(pub(super) usize);

/// How plain strings are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backslash {
    /// `standard_conforming_strings` is on: like any other character.
    Plain,
    /// It is off: a string that holds one has no shape.
    Escapes,
}

/// Writes the shape of `text`, which is UTF-8, to `shape`, whose former content is lost. None: it has no shape.
pub(super) fn fold(text: &[u8], backslash: Backslash, shape: &mut Vec<u8>) -> Option<Folded> {
    shape.clear();
    walk(text, 0, backslash, shape).ok()
}

/// Writes the shape of `text`, as far as it is sure, to `shape`. Answers whether that is all of it. Here it need not decide what
/// the text is: FLOAT is a word like others.
pub(super) fn fold_front(text: &[u8], backslash: Backslash, shape: &mut Vec<u8>) -> bool {
    shape.clear();
    let mut from = 0;
    while let Err(Stop { copied, at }) = walk(text, from, backslash, shape) {
        let behind = behind_float(text, at);
        shape.extend_from_slice(text.get(copied..behind.unwrap_or(at)).unwrap_or_default());
        let Some(behind) = behind else { return false };
        from = behind;
    }
    true
}

/// What of `text` stands before its first literal, and before anything else in quotes.
pub(super) fn before_literals(text: &[u8]) -> &[u8] {
    let mut scanner = Scanner { text, at: 0 };
    loop {
        let are_simple = scanner.words().is_some();
        let start = scanner.at;
        let goes_on = match scanner.byte(0).map(class_of) {
            _ if !are_simple => behind_float(text, start).map(|behind| scanner.at = behind),
            None => return text,
            Some(Class::Dash | Class::Slash) => scanner.comment().map(drop),
            Some(Class::Dot) => scanner.dot().filter(Option::is_none).map(drop),
            Some(_) => None,
        };
        if goes_on.is_none() {
            return text.get(..start).unwrap_or_default();
        }
    }
}

/// What stands behind the word FLOAT, if it is one that stands there, and no literal's type.
fn behind_float(text: &[u8], at: usize) -> Option<usize> {
    let behind = at + FLOAT.len();
    let is_float = text.get(at..behind)?.eq_ignore_ascii_case(FLOAT);
    let goes_on = text.get(behind).is_some_and(|&byte| continues_name(byte) || matches!(byte, b'\'' | b'&'));
    (is_float && !goes_on).then_some(behind)
}

/// Where a text goes on with what is not simple: what stands before `copied` is in the shape, and up to `at` nothing is folded.
struct Stop {
    copied: usize,
    at: usize,
}

/// Adds the shape of what stands from `at` on, where a word, or anything else, may begin.
#[inline]
fn walk(text: &[u8], at: usize, backslash: Backslash, shape: &mut Vec<u8>) -> Result<Folded, Stop> {
    let mut scanner = Scanner { text, at };
    let mut copied = at;
    let mut folded = 0;
    loop {
        if scanner.words().is_none() {
            return Err(Stop { copied, at: scanner.at });
        }
        let start = scanner.at;
        let Some(byte) = scanner.byte(0) else { break };
        let Some(literal) = scanner.special(byte, backslash) else { return Err(Stop { copied, at: start }) };
        if let Some(literal) = literal {
            shape.extend_from_slice(text.get(copied..start).unwrap_or_default());
            shape.push(literal as u8);
            copied = scanner.at;
            folded += 1;
        }
    }
    shape.extend_from_slice(text.get(copied..).unwrap_or_default());
    Ok(Folded(folded))
}

/// What stands for a literal in a shape: bytes that UTF-8 never has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Literal {
    /// A number that the grammar takes as an integer: at most 2147483647.
    Integer = 0xF8,
    /// Any other number.
    Float = 0xF9,
    /// A plain string.
    String = 0xFA,
}

/// A literal of a shape: which bytes of the shape stand before it, and of what kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    before: (u32, u32),
    literal: Literal,
}

/// The literals of a shape.
pub(super) fn marks(shape: &[u8]) -> SmallVec<[Mark; 4]> {
    let mut marks = SmallVec::new();
    let mut from = 0;
    for (at, &byte) in (0..).zip(shape) {
        let kinds = [Literal::Integer, Literal::Float, Literal::String];
        let Some(literal) = kinds.into_iter().find(|kind| *kind as u8 == byte) else { continue };
        marks.push(Mark { before: (from, at), literal });
        from = at + 1;
    }
    marks
}

/// The text has this shape, for certain: what stands before, between and behind the literals is the same, and they are
/// plain. Where it says no, it may still have it.
#[inline]
pub(super) fn reads_as(text: &[u8], shape: &[u8], marks: &[Mark]) -> bool {
    let mut rest = text;
    let mut behind = 0;
    for mark in marks {
        let (from, to) = mark.before;
        let Some(after) = shape.get(from as usize..to as usize).and_then(|before| rest.strip_prefix(before)) else {
            return false;
        };
        let after = match mark.literal {
            Literal::Integer => small_integer(after),
            Literal::Float => plain_float(after),
            Literal::String => plain_string(after),
        };
        let Some(after) = after else { return false };
        rest = after;
        behind = to as usize + 1;
    }
    // What follows a literal in the shape is nothing that it could go on with.
    shape.get(behind..).is_some_and(|end| *rest == *end)
}

/// What stands behind an integer that surely is one.
#[inline]
fn small_integer(text: &[u8]) -> Option<&[u8]> {
    let digits = text.iter().take(SURE_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > SURE_DIGITS { None } else { text.get(digits..) }
}

/// What stands behind a number with digits on both sides of its point, and nothing else.
#[inline]
fn plain_float(text: &[u8]) -> Option<&[u8]> {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let before = digits(text);
    let fraction = text.get(before..)?.strip_prefix(b".")?;
    let behind = digits(fraction);
    if before == 0 || behind == 0 { None } else { fraction.get(behind..) }
}

/// What stands behind a string without anything special in it.
#[inline]
fn plain_string(text: &[u8]) -> Option<&[u8]> {
    let inside = text.strip_prefix(b"'")?;
    let length = inside.iter().position(|&byte| matches!(byte, b'\'' | b'\\' | 0) || !byte.is_ascii())?;
    inside.get(length..)?.strip_prefix(b"'")
}

/// What a byte can begin.
#[derive(Clone, Copy)]
enum Class {
    /// Spaces, operators, punctuation: kept as it is.
    Plain,
    Letter,
    Digit,
    Dollar,
    Dot,
    Quote,
    DoubleQuote,
    Dash,
    Slash,
    /// Nothing in SQL, or nothing that UTF-8 has.
    Unsure,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Plain; 256];
    let mut byte = 0;
    while byte < classes.len() {
        #[expect(clippy::cast_possible_truncation, reason = "the array has 256 entries")]
        let class = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xF4 => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'.' => Class::Dot,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'-' => Class::Dash,
            b'/' => Class::Slash,
            b'\\' | 0 | 0xF5..=0xFF => Class::Unsure,
            _ => Class::Plain,
        };
        #[expect(clippy::indexing_slicing, reason = "the loop ends at the array's length")]
        {
            classes[byte] = class;
        }
        byte += 1;
    }
    classes
};

#[expect(clippy::indexing_slicing, reason = "there are 256 bytes")]
#[inline]
fn class_of(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// What [`Scanner::words`] asks of a byte, as bits: one look tells.
const IS_PLAIN: u8 = 1;
const BEGINS_NAME: u8 = 2;
const CONTINUES_NAME: u8 = 4;

const TRAITS: [u8; 256] = {
    let mut traits = [0; 256];
    let mut byte = 0;
    while byte < traits.len() {
        #[expect(clippy::indexing_slicing, reason = "the loop ends at the arrays' length")]
        {
            traits[byte] = match CLASSES[byte] {
                Class::Plain => IS_PLAIN,
                Class::Letter => BEGINS_NAME | CONTINUES_NAME,
                Class::Digit | Class::Dollar => CONTINUES_NAME,
                _ => 0,
            };
        }
        byte += 1;
    }
    traits
};

#[expect(clippy::indexing_slicing, reason = "there are 256 bytes")]
#[inline]
fn traits_of(byte: u8) -> u8 {
    TRAITS[usize::from(byte)]
}

#[inline]
fn continues_name(byte: u8) -> bool {
    traits_of(byte) & CONTINUES_NAME != 0
}

const FLOAT: &[u8] = b"float";

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// Each step moves behind what it has read. The outer None: no shape. The inner one: nothing to fold.
type Step = Option<Option<Literal>>;

impl Scanner<'_> {
    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    #[inline]
    fn skip_while(&mut self, continues: impl Fn(u8) -> bool) {
        let rest = self.text.get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|&byte| !continues(byte)).unwrap_or(rest.len());
    }

    /// What begins with this byte, at which the words have ended.
    #[inline]
    fn special(&mut self, byte: u8, backslash: Backslash) -> Step {
        match class_of(byte) {
            // The words and what is plain end before such a byte.
            Class::Plain | Class::Letter | Class::Unsure => None,
            Class::Digit => self.number().map(Some),
            Class::Dot => self.dot(),
            Class::Quote => self.string(backslash).map(Some),
            Class::DoubleQuote => self.quoted_name(),
            Class::Dollar => self.parameter(),
            Class::Dash | Class::Slash => self.comment(),
        }
    }

    /// Keywords, plain names and what is plain between them: most of a text, so no step is made of each. Where there is no shape,
    /// it stands before the name that is not simple.
    #[inline]
    fn words(&mut self) -> Option<()> {
        let text = self.text;
        let mut at = self.at;
        loop {
            let is = |at: usize, class: u8| text.get(at).is_some_and(|&byte| traits_of(byte) & class != 0);
            while is(at, IS_PLAIN) {
                at += 1;
            }
            self.at = at;
            if !is(at, BEGINS_NAME) {
                return Some(());
            }
            while is(at, CONTINUES_NAME) {
                at += 1;
            }
            match text.get(at) {
                // E'', B'', X'', N'', and a type's name right before its literal.
                Some(b'\'') => return None,
                // U&'' and U&"".
                Some(b'&') if matches!(text.get(at + 1), Some(b'\'' | b'"')) => return None,
                // The grammar looks at the number in FLOAT(n).
                _ if at - self.at == FLOAT.len() && text.get(self.at..at)?.eq_ignore_ascii_case(FLOAT) => return None,
                _ => {}
            }
        }
    }

    /// A number that begins with a digit.
    fn number(&mut self) -> Option<Literal> {
        let start = self.at;
        self.skip_while(|byte| byte.is_ascii_digit());
        let digits = self.text.get(start..self.at)?;
        match self.byte(0) {
            // `1..2` is two numbers, of which the scanner makes an error.
            Some(b'.') if self.byte(1) == Some(b'.') => None,
            Some(b'.') => {
                self.at += 1;
                self.fraction()
            }
            Some(b'e' | b'E') => self.exponent(),
            _ => self.end_of_number(if is_integer(digits) { Literal::Integer } else { Literal::Float }),
        }
    }

    /// What may follow the point of a number.
    fn fraction(&mut self) -> Option<Literal> {
        self.skip_while(|byte| byte.is_ascii_digit());
        match self.byte(0) {
            Some(b'e' | b'E') => self.exponent(),
            _ => self.end_of_number(Literal::Float),
        }
    }

    fn exponent(&mut self) -> Option<Literal> {
        self.at += 1;
        if matches!(self.byte(0), Some(b'+' | b'-')) {
            self.at += 1;
        }
        if !self.byte(0)?.is_ascii_digit() {
            return None;
        }
        self.skip_while(|byte| byte.is_ascii_digit());
        self.end_of_number(Literal::Float)
    }

    /// Hexadecimal numbers, `1_000` and trailing junk all go on with what no plain number goes on with.
    fn end_of_number(&self, literal: Literal) -> Option<Literal> {
        let goes_on = self.byte(0).is_some_and(|byte| continues_name(byte) || byte == b'.');
        (!goes_on).then_some(literal)
    }

    /// A number that begins with its point, or the point between two names.
    fn dot(&mut self) -> Step {
        self.at += 1;
        match self.byte(0) {
            Some(b'.') => None,
            Some(b'0'..=b'9') => self.fraction().map(Some),
            _ => Some(None),
        }
    }

    fn string(&mut self, backslash: Backslash) -> Option<Literal> {
        self.at += 1;
        loop {
            self.skip_while(|byte| !matches!(byte, b'\'' | b'\\' | 0));
            match self.byte(0)? {
                b'\'' if self.byte(1) == Some(b'\'') => self.at += 2,
                b'\'' => break,
                b'\\' if backslash == Backslash::Plain => self.at += 1,
                _ => return None,
            }
        }
        self.at += 1;
        Some(Literal::String)
    }

    fn quoted_name(&mut self) -> Step {
        self.at += 1;
        // A doubled quote is read as the end of one name and the begin of the next.
        self.skip_while(|byte| byte != b'"' && byte != 0);
        match self.byte(0)? {
            b'"' => self.at += 1,
            _ => return None,
        }
        Some(None)
    }

    /// `$1`; a dollar quote has no shape.
    fn parameter(&mut self) -> Step {
        self.at += 1;
        if !self.byte(0)?.is_ascii_digit() {
            return None;
        }
        self.skip_while(|byte| byte.is_ascii_digit());
        if self.byte(0).is_some_and(continues_name) { None } else { Some(None) }
    }

    /// A comment, or the operator that begins like one.
    fn comment(&mut self) -> Step {
        match (self.byte(0)?, self.byte(1)) {
            (b'-', Some(b'-')) => self.skip_while(|byte| !matches!(byte, b'\n' | b'\r' | 0)),
            (b'/', Some(b'*')) => self.block_comment()?,
            _ => self.at += 1,
        }
        Some(None)
    }

    /// Block comments nest.
    fn block_comment(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match (self.byte(0)?, self.byte(1)?) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Some(());
                    }
                }
                (0, _) => return None,
                _ => self.at += 1,
            }
        }
    }
}

/// Any number with so few digits fits 32 bits.
const SURE_DIGITS: usize = 9;

/// The grammar takes digits that do not fit 32 bits for a float.
fn is_integer(digits: &[u8]) -> bool {
    if digits.len() <= SURE_DIGITS {
        return true;
    }
    match std::str::from_utf8(digits).map(str::parse::<i32>) {
        Ok(value) => value.is_ok(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(text: &str, like: &str) -> bool {
        let mut shape = Vec::new();
        fold(like.as_bytes(), Backslash::Plain, &mut shape).expect("it has a shape");
        let marks = marks(&shape);
        let says = reads_as(text.as_bytes(), &shape, &marks);
        let mut folded = Vec::new();
        let is_alike = fold(text.as_bytes(), Backslash::Plain, &mut folded).is_some() && folded == shape;
        assert!(is_alike || !says, "{text} is not like {like}");
        says
    }

    #[test]
    fn a_text_of_a_known_shape_is_known_at_a_glance() {
        let like = "select * from t where a = 12 and b = 'x' limit 5;";
        assert!(reads(like, like));
        assert!(reads("select * from t where a = 999999999 and b = '' limit 0;", like));
        assert!(reads("select '--', 3", "select '/*', 1"));
        assert!(reads("select 10.25 from t", "select 1.5 from t"));
        for other in
            ["select 1. from t", "select .5 from t", "select 1.5e3 from t", "select 1..5 from t", "select 1 from t"]
        {
            assert!(!reads(other, "select 1.5 from t"), "{other}");
        }
        for other in [
            "select * from t where a = 12 and b = 'x' limit 5",
            "select * from t where a = 12 and b = 'x' limit 5; delete from t",
            "select * from t where a = 9999999999 and b = 'x' limit 5;",
            "select * from t where a = 12.5 and b = 'x' limit 5;",
            "select * from t where a = 1e5 and b = 'x' limit 5;",
            "select * from t where a = 0x12 and b = 'x' limit 5;",
            "select * from t where a =  and b = 'x' limit 5;",
            "select * from t where a = 12 and b = 'x''y' limit 5;",
            r"select * from t where a = 12 and b = 'x\' limit 5;",
            "select * from t where a = 12 and b = 'é' limit 5;",
            "select * from t where a = 12 and b = E'x' limit 5;",
            "select * from t where a = 12 and b = 'x' limit 5;\0",
            "",
        ] {
            assert!(!reads(other, like), "{other}");
        }
    }

    #[test]
    fn whatever_is_changed_in_a_text_it_is_never_taken_for_what_it_is_not() {
        let like = "select f(1,'a')from t where a=-2 and b>'c'||'d'and c<4.5 limit 30";
        for at in 0..=like.len() {
            for insert in ["1", "'", "e", ".", "-", "/*", "--", "\\", "$1", " ", "x", "\"", "''"] {
                let (front, back) = like.split_at(at);
                reads(&format!("{front}{insert}{back}"), like);
                reads(&format!("{front}{insert}{}", back.get(1..).unwrap_or_default()), like);
            }
        }
    }
}
