//! What stands ahead of a prepared statement in its unit, and may decide what that means or whether it can be prepared at all:
//! a SET LOCAL, a table that is made, the way back to a savepoint. Where a statement must be looked at behind it, the unit ends
//! ahead of the statement, and that is done first.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::known::Known;
use super::prepared::{Prepared, StatementId};
use super::translate::messages;
use super::{End, Session};
use crate::catalog::Change;
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, Bind, Parse, Target};

/// What the names mean that were given (Some) or taken away.
type Renamed<'m, 's> = HashMap<&'m [u8], Option<&'s Arc<Prepared>>>;

/// The beginning of a unit.
#[derive(Debug, Default)]
struct Ahead {
    /// Bytes of its messages.
    size: usize,
    /// How many of them run a statement.
    executes: u32,
    /// What it uses.
    uses: HashSet<StatementId>,
    /// It has bound plain reads and BEGINs only; None: nothing.
    binds_plain: Option<bool>,
    /// It runs something else.
    acts: bool,
}

impl Session {
    /// Statements were asked about between units, ahead of the gathered `unit`. Where something that may change what names mean
    /// runs ahead of one that is found to have other columns, behind that they may be those that were promised: the unit ends
    /// there. Answers whether it does.
    pub fn cut_ahead_of_changed(&mut self, asked: &[Arc<Prepared>], known: &Known, unit: &[u8]) -> bool {
        let gathered = &self.gathered;
        let runs_code = gathered.hides_code || gathered.runs_unseen || gathered.leftovers.is_some();
        if !gathered.changes_session && gathered.catalog_change == Change::None && !runs_code {
            return false;
        }
        let changed = asked.iter().filter(|prepared| prepared.has_changed(known));
        let changed = changed.map(|prepared| prepared.id).collect();
        self.cut_ahead_of(&changed, unit)
    }

    /// Statements of the gathered `unit` must be prepared anew on the server connection that is held. Where something runs ahead
    /// of one, that is done first: the unit ends there. Answers whether it does.
    #[cold]
    pub fn cut_ahead_of_unverified(&mut self, known: &Known, unit: &[u8]) -> bool {
        let is_idle = self.transaction.status() == TransactionStatus::Idle;
        if self.catalog.on_replica && is_idle && self.keeps_lease() {
            return false; // what sets something for its batch goes to the primary in parts, and this session cannot
        }
        let unverified = self.unverified(known).map(|prepared| prepared.id).collect();
        self.cut_ahead_of(&unverified, unit)
    }

    fn cut_ahead_of(&mut self, awaited: &HashSet<StatementId>, unit: &[u8]) -> bool {
        if awaited.is_empty() || self.gathered.draws.is_none() {
            return false; // there are none but plain reads
        }
        let Some(ahead) = self.ahead_of(awaited, unit) else { return false };
        let gathered = &mut self.gathered;
        (gathered.size, gathered.executes, gathered.missing) = (ahead.size, ahead.executes, 0);
        gathered.uses.retain(|prepared| ahead.uses.contains(&prepared.id));
        gathered.rulings.retain(|ruled| ruled.at < ahead.size);
        self.cut_batch();
        self.gathered.end = Some(End::Cut);
        true
    }

    /// What stands ahead of the first use of one of these statements, if that runs what may decide of it.
    fn ahead_of(&self, awaited: &HashSet<StatementId>, unit: &[u8]) -> Option<Ahead> {
        let mut ahead = Ahead::default();
        let mut parsed = self.gathered.parsed.iter();
        let mut names = Renamed::new();
        for message in messages(unit) {
            let body = message.body;
            match message.tag {
                frontend::PARSE => {
                    names.insert(Parse::read(body).ok()?.name.kept(), parsed.next());
                }
                frontend::CLOSE => {
                    if let (Target::Statement, name) = frontend::target_fields(body).ok()? {
                        names.insert(name.kept(), None);
                    }
                }
                frontend::BIND => {
                    let bound = self.found_behind(&names, Bind::read(body).ok()?.statement.kept());
                    if ahead.decides_of(bound, awaited) {
                        return Some(ahead);
                    }
                    ahead.binds(bound);
                }
                frontend::DESCRIBE => {
                    if let (Target::Statement, name) = frontend::target_fields(body).ok()?
                        && ahead.decides_of(self.found_behind(&names, name.kept()), awaited)
                    {
                        return Some(ahead);
                    }
                }
                frontend::EXECUTE => ahead.executes(),
                _ => {}
            }
            ahead.size += message.whole.len();
        }
        None
    }

    /// The statement of this name behind messages of the unit that have given and taken away `names`.
    fn found_behind<'a>(&'a self, names: &Renamed<'_, 'a>, name: &[u8]) -> Option<&'a Arc<Prepared>> {
        if let Some(found) = names.get(name) {
            return *found;
        }
        match name.is_empty() {
            true => self.unnamed.as_ref().map(|(prepared, _)| prepared),
            false => self.names.get(name),
        }
    }
}

impl Ahead {
    /// What is used next is one of these, not used before, and what has run may decide of it.
    fn decides_of(&mut self, used: Option<&Arc<Prepared>>, awaited: &HashSet<StatementId>) -> bool {
        let Some(used) = used else { return false };
        if self.acts && awaited.contains(&used.id) && !self.uses.contains(&used.id) {
            return true;
        }
        self.uses.insert(used.id);
        false
    }

    fn binds(&mut self, bound: Option<&Arc<Prepared>>) {
        let is_plain = bound.is_some_and(|bound| {
            let statement = &bound.statement;
            statement.is_plain_read() || statement.begins_transaction()
        });
        self.binds_plain = Some(is_plain && self.binds_plain != Some(false));
    }

    fn executes(&mut self) {
        self.executes += 1;
        self.acts |= self.binds_plain != Some(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::story::Story;

    const BIND_A: (u8, &[u8]) = (b'B', b"\0a\0\0\0\0\0\0\0");
    const BIND: (u8, &[u8]) = (b'B', b"\0\0\0\0\0\0\0\0");
    const EXECUTE: (u8, &[u8]) = (b'E', b"\0\0\0\0\0");
    const SYNC: (u8, &[u8]) = (b'S', b"");

    /// A session with `a`, of which the type of a parameter was found; its server connection does not have it.
    fn prepared() -> Story {
        let mut story = Story::begin();
        story.parse("a", "insert into t values ($1)");
        story.sync();
        story.hear_all("1");
        story.hear(b't', &[0, 1, 0, 0, 2, 188]);
        story.hear_all("nZ");
        story.known = Known::default();
        story
    }

    /// Looks at a unit of these messages; answers their bytes.
    fn survey(story: &mut Story, unit: &[(u8, &[u8])]) -> Vec<u8> {
        let mut messages = Vec::new();
        for (tag, body) in unit {
            story.survey(*tag, body);
            messages.push(*tag);
            messages.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
            messages.extend_from_slice(body);
        }
        messages
    }

    fn cut(story: &mut Story, messages: &[u8]) -> bool {
        story.session.cut_ahead_of_unverified(&story.known, messages)
    }

    #[test]
    fn a_unit_ends_ahead_of_a_statement_that_something_ahead_of_it_may_decide_of() {
        for text in ["rollback to s", "set local search_path = t1", "create temp table t (a int)", "select f()"] {
            let parse = format!("\0{text}\0\0\0");
            let ahead = [(b'P', parse.as_bytes()), BIND, EXECUTE];
            let mut story = prepared();
            let size = survey(&mut prepared(), &ahead).len();
            let messages = survey(&mut story, &[&ahead[..], &[BIND_A, EXECUTE, SYNC]].concat());
            assert!(cut(&mut story, &messages), "{text}");
            let gathered = &story.session.gathered;
            assert_eq!((gathered.size, gathered.executes, gathered.end), (size, 1, Some(End::Cut)), "{text}");
            assert!(!story.session.must_verify(&story.known), "{text}: it does not stand in it any more");
        }
    }

    #[test]
    fn what_decides_of_nothing_or_stands_behind_ends_no_unit() {
        let set: (u8, &[u8]) = (b'P', b"\0set local search_path = t1\0\0\0");
        let units: [&[(u8, &[u8])]; 4] = [
            &[(b'P', b"\0begin\0\0\0"), BIND, EXECUTE, (b'P', b"\0select 1\0\0\0"), BIND, EXECUTE, BIND_A, EXECUTE],
            &[BIND_A, EXECUTE, set, BIND, EXECUTE],
            &[BIND_A, EXECUTE, set, BIND, EXECUTE, BIND_A, EXECUTE],
            &[set, BIND, BIND_A, EXECUTE],
        ];
        for (number, unit) in units.into_iter().enumerate() {
            let mut story = prepared();
            let messages = survey(&mut story, unit);
            assert!(!cut(&mut story, &messages), "unit {number}");
            assert_eq!(story.session.gathered.size, messages.len(), "unit {number}");
            assert!(story.session.must_verify(&story.known), "unit {number}");
        }
    }
}
