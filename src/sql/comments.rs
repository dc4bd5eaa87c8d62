//! What the comments of a query string say: hints to Trunkline, and the tags that frameworks leave in them. What a hint
//! means is for [`crate::routing`].
//!
//! Comments are found as PostgreSQL's scanner finds them, so that nothing inside a literal or a quoted name is read.

use std::sync::Arc;

/// What the comments of a query string say, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// The words behind `trunkline:`.
    pub hints: Box<[Hint]>,
    /// Keys and values as sqlcommenter (`key='value'`) and marginalia (`key:value`) write them, and those of
    /// `trunkline: tag=…` under the key `tag`.
    pub tags: Box<[(Arc<str>, Arc<str>)]>,
}

/// A word of a hint, as in `primary` or `group=reports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The word, or what stands before `=`.
    pub word: Box<str>,
    /// What stands behind it.
    pub value: Option<Box<str>>,
}

/// More tags and hints than this are not read: whoever writes comments must not fill memory.
const MOST: usize = 64;

/// What the comments of `text` say; None if they say nothing. `plain_backslash`: `standard_conforming_strings` is on.
pub(super) fn read(text: &str, plain_backslash: bool) -> Option<Box<Remarks>> {
    if !text.contains("/*") && !text.contains("--") {
        return None;
    }
    let (mut hints, mut tags) = (Vec::new(), Vec::new());
    let mut comments = Comments { text, at: 0, plain_backslash };
    while let Some(comment) = comments.next_comment() {
        let comment = comment.trim();
        match comment.strip_prefix("trunkline:") {
            Some(_) if hints.len() >= MOST => break,
            Some(words) => read_hints(words, &mut hints, &mut tags),
            None => read_tags(comment, &mut tags),
        }
    }
    hints.truncate(MOST);
    tags.truncate(MOST);
    let says_something = !hints.is_empty() || !tags.is_empty();
    says_something.then(|| Box::new(Remarks { hints: hints.into(), tags: tags.into() }))
}

fn read_hints(words: &str, hints: &mut Vec<Hint>, tags: &mut Vec<(Arc<str>, Arc<str>)>) {
    for word in words.split([' ', '\t', '\n', '\r', ',', ';']).filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("tag", value)) => tags.push(("tag".into(), unquoted(value).into())),
            Some((word, value)) => hints.push(Hint { word: word.into(), value: Some(unquoted(value).into()) }),
            None => hints.push(Hint { word: word.into(), value: None }),
        }
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(value)
}

/// `key='value',…` or `key:value,…`; a comment that is anything else has no tags.
fn read_tags(comment: &str, tags: &mut Vec<(Arc<str>, Arc<str>)>) {
    let before = tags.len();
    let mut rest = comment;
    while !rest.is_empty() && tags.len() < MOST {
        let Some((key, value, after)) = sqlcommenter(rest).or_else(|| marginalia(rest)) else {
            tags.truncate(before);
            return;
        };
        tags.push((decoded(key).into(), value.into()));
        rest = after.trim_start();
    }
}

/// `key='value'`, both percent-encoded, with `\'` for a quote. Answers what stands behind its comma, too.
fn sqlcommenter(text: &str) -> Option<(&str, String, &str)> {
    let (key, rest) = text.split_once("='")?;
    is_key(key).then_some(())?;
    let is_end = |at: usize| !rest.get(..at).is_some_and(|before| before.ends_with('\\'));
    let end = rest.match_indices('\'').map(|(at, _)| at).find(|at| is_end(*at))?;
    let (value, after) = rest.split_at_checked(end)?;
    let after = after.strip_prefix('\'')?.trim_start();
    let after = if after.is_empty() { after } else { after.strip_prefix(',')? };
    Some((key.trim(), decoded(&value.replace("\\'", "'")), after))
}

/// `key:value` up to a comma.
fn marginalia(text: &str) -> Option<(&str, String, &str)> {
    let (pair, after) = text.split_once(',').unwrap_or((text, ""));
    let (key, value) = pair.split_once(':')?;
    let is_pair = is_key(key) && !value.is_empty() && !value.starts_with("//");
    is_pair.then(|| (key.trim(), value.trim().to_owned(), after))
}

fn is_key(key: &str) -> bool {
    let key = key.trim();
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.%".contains(&byte))
}

/// Percent-encoding undone; what is none stays as it is.
fn decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| byte == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Finds comments; what it cannot read to its end ends the search.
struct Comments<'a> {
    text: &'a str,
    at: usize,
    plain_backslash: bool,
}

impl<'a> Comments<'a> {
    /// What stands between the marks of the next comment.
    fn next_comment(&mut self) -> Option<&'a str> {
        loop {
            let byte = self.byte(0)?;
            match (byte, self.byte(1)) {
                (b'-', Some(b'-')) => return self.line_comment(),
                (b'/', Some(b'*')) => return self.block_comment(),
                (b'\'', _) if self.plain_backslash => self.quoted(b'\'', false)?,
                (b'\'', _) => self.quoted(b'\'', true)?,
                (b'"', _) => self.quoted(b'"', false)?,
                (b'e' | b'E', Some(b'\'')) => {
                    self.at += 1;
                    self.quoted(b'\'', true)?;
                }
                (b'$', _) => self.dollar()?,
                _ if begins_name(byte) => self.word(),
                (b'0'..=b'9', _) => self.word(),
                _ => self.at += 1,
            }
        }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    /// A name or number with all that belongs to it: a `$` in it begins no dollar quote.
    fn word(&mut self) {
        while self.byte(0).is_some_and(|byte| begins_name(byte) || byte.is_ascii_digit() || byte == b'$') {
            self.at += 1;
        }
    }

    fn line_comment(&mut self) -> Option<&'a str> {
        let rest = self.text.get(self.at + 2..)?;
        let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
        self.at += 2 + end;
        rest.get(..end)
    }

    /// Block comments nest.
    fn block_comment(&mut self) -> Option<&'a str> {
        let start = self.at + 2;
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
                        return self.text.get(start..self.at - 2);
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// A doubled quote is read as the end of one and the begin of the next.
    fn quoted(&mut self, quote: u8, backslash_escapes: bool) -> Option<()> {
        self.at += 1;
        loop {
            match self.byte(0)? {
                b'\\' if backslash_escapes => self.at += 2,
                byte if byte == quote && self.byte(1) == Some(quote) => self.at += 2,
                byte => {
                    self.at += 1;
                    if byte == quote {
                        return Some(());
                    }
                }
            }
        }
    }

    /// `$1`, or `$tag$ … $tag$`.
    fn dollar(&mut self) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        let Some(end) = rest.get(1..)?.find('$').map(|end| end + 2) else {
            self.at += 1;
            return Some(());
        };
        let tag = rest.get(..end)?;
        let name = tag.get(1..end - 1)?;
        let is_tag = name.bytes().all(|byte| begins_name(byte) || byte.is_ascii_digit())
            && !name.starts_with(|first: char| first.is_ascii_digit());
        if !is_tag {
            self.at += 1;
            return Some(());
        }
        let length = rest.get(end..)?.find(tag)?;
        self.at += end + length + end;
        Some(())
    }
}

fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(text: &str) -> Vec<String> {
        let remarks = read(text, true).unwrap_or_default();
        let show = |hint: &Hint| match &hint.value {
            Some(value) => format!("{}={value}", hint.word),
            None => hint.word.to_string(),
        };
        remarks.hints.iter().map(show).collect()
    }

    fn tags(text: &str) -> Vec<String> {
        let remarks = read(text, true).unwrap_or_default();
        remarks.tags.iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn hints_stand_in_comments_anywhere() {
        assert_eq!(hints("/* trunkline: primary */ select 1"), ["primary"]);
        assert_eq!(hints("select 1 /*trunkline:group=reports, max_lag=100ms*/"), ["group=reports", "max_lag=100ms"]);
        assert_eq!(hints("select 1 -- trunkline: replica\n, 2"), ["replica"]);
        assert_eq!(hints("select /* not: */ 1 /* trunkline: a */ /* trunkline: b */"), ["a", "b"]);
        assert_eq!(hints("select 1 + /* trunkline: replica */ 2"), ["replica"]);
        assert!(hints("select 1 /* see trunkline: primary */").is_empty());
    }

    #[test]
    fn what_stands_in_literals_and_names_is_no_hint() {
        for text in [
            "select '/* trunkline: primary */'",
            "select 'it''s /* trunkline: primary */'",
            r"select E'\'/* trunkline: primary */'",
            r"select e'\\\'/* trunkline: primary */'",
            "select $$/* trunkline: primary */$$",
            "select $a$ $$ /* trunkline: primary */ $a$",
            "select \"/* trunkline: primary */\"",
            "select \"a\"\"/* trunkline: primary */\"",
            "select 1 /* /* trunkline: primary */ */",
            "select 1 -- /* trunkline: primary */",
            "select '/* trunkline: primary */",
            "select U&'/* trunkline: primary */'",
        ] {
            assert!(hints(text).is_empty(), "{text}");
        }
        assert_eq!(hints("select a$b$c, $1 /* trunkline: primary */, d$b$"), ["primary"]);
        assert_eq!(hints("select '\\' /* trunkline: primary */, '"), ["primary"]);
        assert!(read("select '\\' /* trunkline: primary */, '", false).is_none());
        assert_eq!(hints("select name'x' /* trunkline: primary */"), ["primary"]);
    }

    #[test]
    fn tags_are_read_as_frameworks_write_them() {
        assert_eq!(
            tags("select 1 /*action='%2Fparam*d',controller='index',framework='spring'*/"),
            ["action=/param*d", "controller=index", "framework=spring"]
        );
        assert_eq!(tags(r"select 1 /*name='O\'Hara%27s'*/"), ["name=O'Hara's"]);
        assert_eq!(
            tags("select 1 /*application:Shop,controller:users,action:index*/"),
            ["application=Shop", "controller=users", "action=index"]
        );
        assert_eq!(tags("/* trunkline: tag=nightly primary */ select 1"), ["tag=nightly"]);
        for none in
            ["/* just words */", "/* http://x.y/z */", "/*a='b*/", "/*a='b' c*/", "/* a, b */", "/*+ SeqScan(t) */"]
        {
            assert!(tags(&format!("select 1 {none}")).is_empty(), "{none}");
        }
    }
}
