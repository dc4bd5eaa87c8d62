//! User name maps in PostgreSQL's own format, as in pg_ident.conf: whom a certificate or the operating system knows by
//! one name may be a user of another.

use std::sync::Arc;

use regex::Regex;

use super::file::{self, Text, Word, only};
use super::name::{UserName, pattern_of};
use super::{Findings, Fit, HbaProblem, Mistake, Surroundings, any};

/// Lines of all maps, in order.
#[derive(Clone, Debug, Default)]
pub struct IdentMaps(Arc<[Entry]>);

/// One line: in this map, who is known so may be that user.
#[derive(Clone, Debug)]
struct Entry {
    map: Box<str>,
    known_as: KnownAs,
    user: User,
}

#[derive(Clone, Debug)]
enum KnownAs {
    Exactly(Box<str>),
    Matching(Regex),
}

#[derive(Clone, Debug)]
enum User {
    Named(UserName),
    /// What the pattern's first group has found, between these two.
    Captured(Box<str>, Box<str>),
}

impl IdentMaps {
    /// Reads them; every problem is told.
    pub fn parse(text: Text<'_>, surroundings: Surroundings<'_>) -> Result<Self, Vec<HbaProblem>> {
        let (lines, mut problems) = file::read(text, surroundings.files);
        let mut entries = Vec::new();
        for line in lines {
            match Entry::parse(&line.fields, surroundings) {
                Ok(entry) => entries.push(entry),
                Err(mistake) => problems.push(line.place.problem(mistake)),
            }
        }
        if problems.is_empty() { Ok(Self(entries.into())) } else { Err(problems) }
    }

    /// There is a map of this name.
    pub(super) fn has(&self, map: &str) -> bool {
        self.0.iter().any(|entry| *entry.map == *map)
    }

    /// Whether by this map, whom somebody calls `known_as` may be this user.
    pub(super) fn fit(&self, map: &str, known_as: &str, user: &str, findings: &Findings) -> Fit {
        any(self.0.iter().filter(|entry| *entry.map == *map).map(|entry| entry.fit(known_as, user, findings)))
    }
}

impl Entry {
    fn parse(fields: &[Vec<Word>], surroundings: Surroundings<'_>) -> Result<Self, Mistake> {
        let [map, known_as, user] = fields else {
            return Err(Mistake::new("a map's line has three words", "MAP SYSTEM-USER DATABASE-USER"));
        };
        let (map, known_as) = (only(map, "the map")?, only(known_as, "the system's user")?);
        let user = only(user, "the user")?;
        let known_as = match known_as.text.strip_prefix('/') {
            Some(pattern) => KnownAs::Matching(pattern_of(pattern)?),
            None => KnownAs::Exactly(known_as.text.as_str().into()),
        };
        let user = match (&known_as, user.text.split_once("\\1")) {
            (KnownAs::Matching(pattern), Some((before, after))) if !user.text.starts_with('/') => {
                if pattern.captures_len() < 2 {
                    let what = "\\1 stands for the pattern's first group, and it has none";
                    return Err(Mistake::new(what, "parentheses around a part of the pattern"));
                }
                User::Captured(before.into(), after.into())
            }
            _ => User::Named(UserName::parse(user, surroundings)?),
        };
        Ok(Self { map: map.text.as_str().into(), known_as, user })
    }

    fn fit(&self, known_as: &str, user: &str, findings: &Findings) -> Fit {
        let pattern = match &self.known_as {
            KnownAs::Exactly(name) if **name != *known_as => return Ok(false),
            KnownAs::Matching(pattern) if !pattern.is_match(known_as) => return Ok(false),
            KnownAs::Exactly(_) => None,
            KnownAs::Matching(pattern) => Some(pattern),
        };
        match (&self.user, pattern) {
            (User::Named(name), _) => name.fit(user, findings),
            (User::Captured(before, after), Some(pattern)) => {
                let captured = pattern.captures(known_as).and_then(|found| found.get(1));
                Ok(captured.is_some_and(|captured| format!("{before}{}{after}", captured.as_str()) == user))
            }
            (User::Captured(..), None) => Ok(false),
        }
    }
}
