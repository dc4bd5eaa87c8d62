//! What is left of a session on its server connection, asked of the node where the statements themselves do not show it:
//! after code that may have done anything, and after what may have ended the cause of a pin.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hashbrown::HashSet;

use super::known::Known;
use super::owed::Owed;
use super::pins::Pins;
use super::reply::Reply;
use super::{PutBack, Session, settings};
use crate::sql::{Doubt, Kind, Leftovers, Part, Pin, SessionChange, Statement, is_identity};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frame;

/// What may be there that nobody knows of.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Of code that has been sent.
    code: Option<Box<Leftovers>>,
    /// A pin's cause may be gone.
    pins_in_doubt: bool,
}

impl Remains {
    /// Something may be there.
    pub(super) fn are_any(&self) -> bool {
        self.code.is_some() || self.pins_in_doubt
    }
}

/// Settings that the view of all settings does not show.
const NEVER_LISTED: [&str; 2] = ["role", "session_authorization"];

/// One row for each setting that the session has changed, in lower case as names are kept, one for each pin that has a cause, one
/// for each statement that was prepared by SQL, and one with the number of those of ours; the first column says which. One, too,
/// where temporary tables have been made and none is left.
const SQL: &str = "\
SELECT 'setting', pg_catalog.lower(name) FROM pg_catalog.pg_settings WHERE source = 'session' \
UNION ALL SELECT 'temporary', CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_depend \
 WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND refobjid = pg_catalog.pg_my_temp_schema()) \
 THEN 'there' END WHERE pg_catalog.pg_my_temp_schema() <> 0 \
UNION ALL SELECT 'listen', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
UNION ALL SELECT 'lock', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
 WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'cursor', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT 'prepared', name FROM pg_catalog.pg_prepared_statements WHERE from_sql \
UNION ALL SELECT 'ours', pg_catalog.count(*)::pg_catalog.text \
 FROM pg_catalog.pg_prepared_statements WHERE NOT from_sql AND name ~ '^tl_[0-9a-f]{32}$'";

/// Settings of users' own are not listed either: what these functions may set, of which nothing is known yet, is to be
/// asked for by the names that stand in them.
fn sql_of_unknown(functions: &[Arc<str>]) -> String {
    const NAMED: &str =
        r"E'(?:set_config\\s*\\(\\s*''|\\mset\\s+(?:session\\s+)?)([a-z_][a-z0-9_$]*\\.[a-z_][a-z0-9_$.]*)'";
    let names: Vec<_> = functions.iter().map(|name| settings::quote_literal(name)).collect();
    format!(
        " UNION ALL SELECT DISTINCT 'setting', pg_catalog.lower(named[1]) FROM pg_catalog.pg_proc CROSS JOIN LATERAL \
         pg_catalog.regexp_matches(prosrc, {NAMED}, 'gi') AS named WHERE oid >= 16384 AND proname IN ({})",
        names.join(",")
    )
}

impl Session {
    /// Code has been sent that may leave this.
    #[cold]
    pub(super) fn may_be_left(&mut self, left: &Leftovers) {
        self.remains.code.get_or_insert_default().join(left);
    }

    /// Settings that code has changed, by name. Where nobody looks, since the session keeps its server connection anyway, what
    /// its code keeps there stays when it leaves.
    pub(super) fn take_settings_left(&mut self) -> Vec<Arc<str>> {
        if self.doubt() == Doubt::Kept {
            self.pins.add(Pin::State);
        }
        let left = self.remains.code.take().map(|code| code.settings).unwrap_or_default();
        if !left.is_empty() {
            self.puts_back(PutBack::Code);
        }
        left
    }

    /// Something of the session is on its server connection that nobody has asked about yet.
    #[inline]
    pub(super) fn has_remains(&self) -> bool {
        self.remains.code.is_some() || self.remains.pins_in_doubt && !self.keeps_lease
    }

    /// The node must be asked what is left, as soon as the session is idle. One that keeps its lease has it anyway.
    pub fn wants_look(&self) -> bool {
        !self.keeps_lease && (self.remains.pins_in_doubt || self.doubt() != Doubt::None)
    }

    fn doubt(&self) -> Doubt {
        self.remains.code.as_ref().map_or(Doubt::None, |code| code.doubt)
    }

    /// Code has changed what the client has come with, or may have put it back.
    pub fn wants_to_go_on(&self) -> bool {
        let came_with = |names: &[Arc<str>]| names.iter().any(|name| self.startup.get(name).is_some());
        self.has_discarded()
            || self.put_back != PutBack::Nobody && came_with(&self.touched)
            || self.remains.code.as_ref().is_some_and(|code| came_with(&code.settings))
    }

    /// Code may have made the session act as another role.
    pub(super) fn code_may_act_as_another(&self) -> bool {
        let may = |code: &Leftovers| {
            code.doubt != Doubt::None || !code.unknown.is_empty() || code.settings.iter().any(|name| is_identity(name))
        };
        self.remains.code.as_deref().is_some_and(may)
    }

    /// Code may have left something where the session cannot have it back.
    pub(super) fn may_lose_remains(&self) -> bool {
        self.remains.code.is_some()
    }

    /// Code of the session has run on this server connection that nobody has looked into.
    pub fn ran_unseen(&self, known: &Known) -> bool {
        known.unseen == Some(self.id)
    }

    /// Nothing of it is there any more.
    pub(super) fn forget_remains(&mut self) {
        self.remains = Remains::default();
    }

    /// The query of a look.
    pub fn look_query(&self) -> String {
        self.guarded(self.look_sql())
    }

    /// The same for a look that was cancelled: of our queries it is the one that can take longer than a statement_timeout.
    pub fn look_query_unhurried(&self) -> String {
        Self::unhurried(&self.look_sql())
    }

    fn look_sql(&self) -> String {
        let unknown = self.remains.code.as_ref().map(|code| &*code.unknown).filter(|unknown| !unknown.is_empty());
        let of_unknown = unknown.map(sql_of_unknown).unwrap_or_default();
        format!("{SQL}{of_unknown}")
    }

    /// What the node has answered to it: pins are what has a cause, and every setting is to be read that may be another.
    pub fn looked(&mut self, rows: &[Vec<Option<Arc<str>>>], known: &mut Known) {
        let code = std::mem::take(&mut self.remains).code.unwrap_or_default();
        let is_doubtful = code.doubt != Doubt::None;
        if code.doubt == Doubt::Kept {
            self.pins.add(Pin::State);
        }
        if is_doubtful || !code.settings.is_empty() {
            self.puts_back(PutBack::Code);
        }
        self.touched.extend(code.settings);
        let (mut seen, mut prepared) = (Pins::default(), Vec::new());
        for row in rows {
            match (row.first().and_then(Option::as_deref), row.get(1)) {
                (Some("setting"), Some(Some(name))) if is_doubtful => self.touched.push(Arc::clone(name)),
                (Some("temporary"), there) => {
                    known.has_used_temporary = true;
                    if let Some(Some(_)) = there {
                        seen.add(Pin::Temporary);
                    }
                }
                (Some("listen"), _) => drop(seen.add(Pin::Listen)),
                (Some("lock"), _) => drop(seen.add(Pin::AdvisoryLock)),
                (Some("cursor"), _) => drop(seen.add(Pin::HoldCursor)),
                (Some("prepared"), Some(Some(name))) if is_doubtful => prepared.push(Arc::clone(name)),
                _ => {}
            }
        }
        self.pins.are_seen(seen);
        if is_doubtful {
            self.prepared_is_seen(&prepared, known);
            let known: Vec<_> = self.settings.iter().map(|(name, _)| Arc::clone(name)).collect();
            self.touched.extend(known);
            self.touched.extend(NEVER_LISTED.map(Arc::from));
        }
    }

    /// These are prepared by SQL, and no others: code may have prepared some, and deallocated others.
    fn prepared_is_seen(&mut self, names: &[Arc<str>], known: &Known) {
        if names.iter().any(|name| self.sql_prepared.get(name).is_none()) {
            // What code has prepared is known by nobody's text.
            self.pins.add(Pin::UnknownSetting);
        }
        // What the node has refused to prepare was not there before either.
        let were_there = known.sql_prepared.iter().filter(|(owner, _)| *owner == self.id).flat_map(|(_, all)| all);
        let names: HashSet<_> = names.iter().collect();
        for (name, _) in were_there.filter(|(name, _)| !names.contains(name)) {
            self.sql_prepared.apply(&SessionChange::Deallocate(Arc::clone(name)));
        }
    }

    /// By what the node has answered to the look, code has deallocated statements of ours, which are other sessions' too. Which,
    /// is not known: all are to be deallocated, unless the session keeps the server connection for itself.
    pub fn lacks_statements(&self, rows: &[Vec<Option<Arc<str>>>], known: &Known) -> bool {
        let mut counts = rows.iter().filter_map(|row| match &**row {
            [Some(kind), Some(count)] if **kind == *"ours" => count.parse::<usize>().ok(),
            _ => None,
        });
        self.pins.is_empty() && counts.next().unwrap_or_default() < known.count_statements()
    }

    /// Why the session has begun to keep its server connection, since this was asked last. Nobody knows before it is idle
    /// and what is in doubt has been looked at; and where the pool's mode keeps it, nothing else does.
    pub fn take_new_pins(&mut self) -> Pins {
        if self.keeps_lease || self.wants_look() || !self.is_idle() {
            return Pins::default();
        }
        let new = self.pins.without(self.told_pins);
        self.told_pins = self.pins;
        new
    }

    /// Whole NotificationResponse messages that came while a query of ours ran: the client is told what it listens for.
    pub fn overheard(&mut self, messages: &[Bytes], known: &mut Known, out: &mut BytesMut) {
        for message in messages {
            let body = message.get(frame::HEADER..).unwrap_or_default();
            match self.reply(backend::NOTIFICATION_RESPONSE, body, known) {
                Ok(Reply::Replace(own)) => out.extend_from_slice(&own),
                _ => out.extend_from_slice(message),
            }
        }
    }

    /// It has changed settings, and may not be told what they are now, or could not set them again.
    pub fn keeps_what_it_has_set(&mut self) {
        self.pins.add(Pin::UnknownSetting);
    }

    /// What pins may not be there.
    pub(super) fn may_have_unpinned(&mut self) {
        self.remains.pins_in_doubt |= self.pins.can_be_seen();
    }

    /// A statement has ended: it may have ended the cause of a pin.
    pub(super) fn doubt_pins(&mut self, part: &Part) {
        if !self.pins.can_be_seen() {
            return;
        }
        let ends = matches!(part.kind, Kind::Unlisten | Kind::Close | Kind::Discard | Kind::Ddl);
        let unlocks = self.pins.has(Pin::AdvisoryLock)
            && part.functions.iter().any(|function| function.name.contains("advisory_unlock"));
        self.remains.pins_in_doubt |= ends || unlocks;
    }

    /// A statement has ended that pins: what has caused that may be undone with its transaction, or end with it, or was only
    /// tried.
    pub(super) fn pinned_by(&mut self, pin: Pin, statement: &Statement) {
        self.pins.add(pin);
        // A lock of the session outlives what fails around it.
        let in_batch = || self.flow.batch_open || self.owed.iter().any(|owed| matches!(owed, Owed::Sync(_)));
        let in_block = pin != Pin::AdvisoryLock && in_batch()
            || self.transaction.status() != TransactionStatus::Idle
            || statement.only().is_none();
        let mut functions = statement.parts.iter().flat_map(|part| &part.functions);
        let is_tried = functions.any(|function| function.name.contains("try_advisory"));
        self.remains.pins_in_doubt |= self.pins.can_be_seen() && (in_block || is_tried);
    }
}
