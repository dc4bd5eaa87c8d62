//! What a session takes along from one server connection to the next: its settings, read back where they may have changed,
//! and what it has prepared by SQL.

use std::sync::Arc;

use hashbrown::HashSet;

use super::known::Known;
use super::{End, PutBack, Session, Settings, reported, settings};
use crate::sql::{Isolation, is_anybodys, is_carried, is_identity};

impl Session {
    /// Settings have been changed whose values must be asked of the node.
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty() || self.has_remains()
    }

    /// DISCARD ALL has put back all settings to what the server connection began with, where the session may have begun with
    /// something else.
    pub fn has_discarded(&self) -> bool {
        self.put_back == PutBack::Discard
    }

    pub(super) fn puts_back(&mut self, by: PutBack) {
        self.put_back = self.put_back.max(by);
    }

    /// No setting is to go back to what the client came with.
    pub fn forget_put_back(&mut self) {
        self.put_back = PutBack::Nobody;
        self.role_is_reset = false;
    }

    /// Settings that the client has been told to be committed are on the server connection only.
    pub fn has_touched_for_good(&self) -> bool {
        self.touched_for_good
    }

    /// What has been changed is gone with its server connection, and is changed again elsewhere.
    pub fn forget_touched(&mut self) {
        self.forget_remains();
        self.take_touched();
        self.forget_put_back();
    }

    /// The settings whose values must be asked of the node, now that the session is idle.
    pub fn take_touched(&mut self) -> Vec<Arc<str>> {
        self.touched_for_good = false;
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.take_settings_left());
        touched.retain(|name| is_carried(name));
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// It may be back at what the server connection began with, where the client has come with something else. Where its value
    /// comes from tells.
    fn may_be_put_back(&self, name: &str) -> bool {
        matches!(self.put_back, PutBack::Code | PutBack::Batch) && self.startup.get(name).is_some()
    }

    /// It is asked for where its value comes from: what not anybody may set is not to be set where it is what it was at the beginning.
    fn is_source_told(&self, name: &str) -> bool {
        self.may_be_put_back(name) || !is_anybodys(name)
    }

    /// What the node answered to the settings asked for. Answers what is now set on the server connection: DISCARD ALL and
    /// code may have put back what the server begins with there, and for the session mean what the client began with.
    pub fn settings_read(&mut self, names: &[Arc<str>], mut values: Vec<Option<Arc<str>>>) -> Settings {
        let mut sources = values.split_off(names.len().min(values.len())).into_iter();
        let mut put_back = Vec::new();
        // None may be another than the login's own role, which it is where it has been put back.
        let is_own_role = std::mem::take(&mut self.role_is_reset);
        let were_by_identity = self.settings.are_by_identity();
        let may_have_become = *self.role() != *self.identity.user && !names.iter().any(|name| is_identity(name));
        let has_become = may_have_become && !self.logged_in_as_superuser();
        let mut by_identity = false;
        for (name, value) in names.iter().zip(values) {
            let may_be_put_back = self.may_be_put_back(name);
            let source = self.is_source_told(name).then(|| sources.next().flatten());
            let is_set = !matches!(&source, Some(Some(source)) if **source != *"session");
            let is_put_back = match source.filter(|_| may_be_put_back) {
                Some(Some(_)) => !is_set,
                // It is never listed: behind DISCARD ALL it is what it is then.
                Some(None) => self.put_back == PutBack::Batch && self.is_at_its_beginning(name, value.as_deref()),
                None => self.put_back == PutBack::Discard,
            };
            // Who logged in, a setting of an unloaded library put back, and what only some may set and nobody has, need no replay.
            let value = value.filter(|_| is_set || may_be_put_back).filter(|value| match &**name {
                "role" => !is_own_role || **value != *NO_ROLE,
                "session_authorization" => *value != self.identity.user,
                _ => self.shown_there.get(name) != Some(value),
            });
            let value = value.map(|value| self.legible(name, value));
            // SET gives an empty list of names one that is empty.
            let is_emptied = value.as_deref() == Some("\"\"") && self.startup.get(name) == Some("");
            if is_put_back || is_emptied {
                put_back.push(name);
            }
            // What the client came with was set by whoever logged in.
            let was_there = [self.settings.get(name), self.startup.get(name)];
            let is_new = is_set && value.is_some() && !was_there.contains(&value.as_deref());
            by_identity |= has_become && is_new && !is_anybodys(name);
            self.settings = self.settings.with(name, value);
        }
        if by_identity
            && !were_by_identity
            && let Some(settings) = self.settings.by_the_other()
        {
            self.settings = settings;
        }
        if were_by_identity && !self.settings.are_by_identity() {
            self.is_not_who_has_set();
        }
        let there = self.settings.clone();
        let startup = self.startup.clone();
        for (name, value) in startup.iter().filter(|(name, _)| put_back.contains(name)) {
            self.settings = self.settings.with(name, Some(Arc::clone(value)));
        }
        self.put_back = PutBack::Nobody;
        self.read_anew();
        there
    }

    /// Who has set what not anybody may set the session is not any more: elsewhere it could not be set again, unless by a superuser
    /// who has logged in.
    #[cold]
    fn is_not_who_has_set(&mut self) {
        if self.settings.need_right() && !self.logged_in_as_superuser() {
            self.keeps_what_it_has_set();
        }
    }

    /// Whoever logged in may set whatever whom the session has become may.
    fn logged_in_as_superuser(&self) -> bool {
        self.reported.at_login("is_superuser") == Some("on")
    }

    /// It has the value that settings that are never listed have where nothing is set.
    fn is_at_its_beginning(&self, name: &str, value: Option<&str>) -> bool {
        match value {
            None | Some("" | NO_ROLE) => true,
            Some(value) => name == "session_authorization" && *value == *self.identity.user,
        }
    }

    /// A value that was not sent in UTF-8 cannot be read as a whole: the one that is known stays if it may be the same, else its
    /// other letters are marked as such by one that every encoding has.
    fn legible(&self, name: &str, value: Arc<str>) -> Arc<str> {
        if !value.contains(char::REPLACEMENT_CHARACTER) {
            return value;
        }
        let legible = |text: &str| text.chars().filter(char::is_ascii).collect::<String>();
        match self.settings.get(name).filter(|known| legible(known) == legible(&value)) {
            Some(known) => known.into(),
            None => value.replace(char::REPLACEMENT_CHARACTER, "?").into(),
        }
    }

    /// The role that the session acts as: what SET ROLE or SET SESSION AUTHORIZATION has made of its user.
    pub fn role(&self) -> &str {
        let set = |name| self.settings.get(name).filter(|role| !role.is_empty() && *role != NO_ROLE);
        set("role").or_else(|| set("session_authorization")).unwrap_or(&self.identity.user)
    }

    /// The SQL that gives this server connection these settings, the session's own or [some of
    /// them](Self::settings_it_keeps), and nothing that others have left; None if it is so.
    pub fn replay(&self, settings: &Settings, known: &Known) -> Option<String> {
        match known.unseen {
            Some(owner) if owner != self.id => {
                let anew = settings.sql_from(&Settings::default()).unwrap_or_default();
                Some(format!("{FORGET_ALL};{anew}"))
            }
            _ => settings.sql_from(&known.settings),
        }
    }

    /// The names of what was prepared by SQL on this server connection, and is not the session's or no longer. Code may have
    /// deallocated some of it.
    pub fn strange_statements(&self, known: &Known) -> Vec<Arc<str>> {
        let Some((owner, prepared)) = &known.sql_prepared else { return Vec::new() };
        let is_strange = |name: &str, text: &str| *owner != self.id || !self.has_prepared(name, text);
        prepared.iter().filter(|(name, text)| is_strange(name, text)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The settings without those that the unit begins by putting back or setting anew, where it does: one of them may have
    /// become what no server takes any more, as a role that was dropped, and this is how to be rid of it.
    pub fn settings_it_keeps(&self) -> Option<Settings> {
        let gathered = &self.gathered;
        let is_alone = gathered.end == Some(End::Query) || gathered.executes == 1 && gathered.parsed.len() <= 1;
        let part = gathered.first.as_ref().filter(|_| is_alone)?.only()?;
        let goes = |name: &str| part.session.iter().any(|change| !change.is_local() && change.changes_setting(name));
        let gone = self.settings.iter().filter(|(name, _)| goes(name));
        let kept = gone.fold(self.settings.clone(), |kept, (name, _)| kept.with(name, None));
        (kept != self.settings).then_some(kept)
    }

    /// A query of ours as this session's server connections take it.
    pub fn guarded(&self, sql: String) -> String {
        let of_the_role = self.reported.get(reported::NEVER_REPORTED).and_then(Isolation::from_setting);
        match [Some(self.defaults.isolation), of_the_role].contains(&Some(Isolation::Serializable)) {
            true => settings::at_read_committed(&sql),
            false => sql,
        }
    }

    /// The same on a server connection that has what a session has set before.
    pub fn guarded_on(&self, known: &Known, sql: String) -> String {
        match known.settings.get(reported::NEVER_REPORTED).and_then(Isolation::from_setting) {
            Some(Isolation::Serializable) => settings::at_read_committed(&sql),
            _ => self.guarded(sql),
        }
    }

    /// A query of ours for as long as it takes, whatever the session's statement_timeout says. It must not ask for that: it
    /// would be told none.
    pub fn unhurried(sql: &str) -> String {
        settings::at_read_committed(&format!("SET LOCAL statement_timeout TO 0;{sql}"))
    }

    /// The query that reads these settings back, on a server connection that has just changed them.
    pub fn settings_query(&self, names: &[Arc<str>]) -> String {
        let mut sql = settings::sql_to_read(names);
        let told = names.iter().filter(|name| self.is_source_told(name));
        told.for_each(|name| sql.push_str(&settings::sql_of_source(name)));
        // Its transactions may have become SERIALIZABLE by this very change.
        match names.iter().any(|name| **name == *reported::NEVER_REPORTED) {
            true => settings::at_read_committed(&sql),
            false => self.guarded(sql),
        }
    }

    fn has_prepared(&self, name: &str, text: &str) -> bool {
        self.sql_prepared.get(name).is_some_and(|prepared| *prepared.text == *text)
    }

    /// The PREPARE statements that this server connection lacks, of those the session has made by SQL.
    pub fn missing_prepares(&self, known: &Known) -> Vec<Arc<str>> {
        if self.sql_prepared.is_empty() {
            return Vec::new();
        }
        let ours = known.sql_prepared.iter().filter(|(owner, _)| *owner == self.id).flat_map(|(_, prepared)| prepared);
        let there: HashSet<(&str, &str)> = ours.map(|(name, text)| (&**name, &**text)).collect();
        let is_there = |name: &str, text: &str| there.contains(&(name, text));
        self.sql_prepared.iter().filter(|p| !is_there(&p.name, &p.text)).map(|p| Arc::clone(&p.text)).collect()
    }

    /// The replay has been done: the server connection has these settings and is else as the session wants it, but for these
    /// PREPAREs, which it has refused.
    pub fn replayed(&self, known: &mut Known, settings: Settings, refused: &[Arc<str>]) {
        known.settings = settings;
        known.unseen = known.unseen.filter(|owner| *owner == self.id);
        let refused: HashSet<_> = refused.iter().collect();
        let there = self.sql_prepared.iter().filter(|prepared| !refused.contains(&prepared.text));
        let prepared: Vec<_> = there.map(|p| (Arc::clone(&p.name), Arc::clone(&p.text))).collect();
        known.sql_prepared = (!prepared.is_empty()).then_some((self.id, prepared));
    }
}

/// The value of `role` where none is set.
const NO_ROLE: &str = "none";

/// Puts back whatever a function or procedure may have left behind unseen, and first a timeout that would end this. What sessions
/// have prepared stays.
const FORGET_ALL: &str = "RESET ALL;RESET SESSION AUTHORIZATION;RESET ROLE;CLOSE ALL;UNLISTEN *;\
    SELECT pg_catalog.pg_advisory_unlock_all();DISCARD TEMP;DISCARD SEQUENCES";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::session::Known;
    use crate::session::story::Story;
    use crate::sql::Pin;

    /// Were each compared with all others, or all copied for each, it would take minutes.
    #[test]
    fn many_statements_of_sql_are_gone_through_once_for_a_change_of_server_connections() {
        const STATEMENTS: usize = 10_000;
        let mut story = Story::begin();
        let begun = std::time::Instant::now();
        for number in 0..STATEMENTS {
            story.send(b'Q', format!("prepare p{number} as select 1\0").as_bytes());
            story.hear(b'C', b"PREPARE\0");
            story.hear_all("Z");
            story.session.shown();
        }
        let (session, here) = (&mut story.session, &mut story.known);
        for _ in 0..20 {
            assert!(session.strange_statements(here).is_empty() && session.missing_prepares(here).is_empty());
            let mut elsewhere = Known::default();
            let missing = session.missing_prepares(&elsewhere);
            assert_eq!((missing.len(), &*missing[9]), (STATEMENTS, "prepare p9 as select 1"));
            session.replayed(&mut elsewhere, session.settings.clone(), &missing[1..]);
            let another = crate::session::SessionId(2);
            elsewhere.sql_prepared.as_mut().unwrap().0 = another;
            assert_eq!(session.strange_statements(&elsewhere), ["p0".into()]);
            session.replayed(&mut elsewhere, session.settings.clone(), &[]);
            elsewhere.sql_prepared.as_mut().unwrap().0 = another;
            let strange = session.strange_statements(&elsewhere);
            elsewhere.have_no_sql(&strange);
            assert!(strange.len() == STATEMENTS && elsewhere.sql_prepared.is_none());
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn what_a_server_connection_has_refused_to_prepare_leaves_nothing_there() {
        let mut story = Story::begin();
        story.send(b'Q', b"prepare p as select 1\0");
        story.hear(b'C', b"PREPARE\0");
        story.hear_all("Z");
        let mut elsewhere = Known::default();
        let missing = story.session.missing_prepares(&elsewhere);
        story.session.replayed(&mut elsewhere, story.session.settings.clone(), &missing);
        assert!(elsewhere.sql_prepared.is_none());
        assert_eq!(story.session.missing_prepares(&elsewhere), missing);
    }

    /// These are read back, one after the other, of a session whose login is a superuser or not; `origin` is what a setting is where
    /// nobody has set it. Answers why the session is pinned.
    fn read_back(is_superuser: &str, values: &[(&str, &str)]) -> Option<Pin> {
        let mut story = Story::begin();
        story.session.told(vec![("is_superuser".into(), is_superuser.into())].into());
        for (name, value) in values {
            let source = if *value == "origin" { "default" } else { "session" };
            story.session.settings_read(&[Arc::from(*name)], vec![Some((*value).into()), Some(source.into())]);
        }
        story.session.pin()
    }

    #[test]
    fn who_is_not_any_more_who_has_set_what_not_anybody_may_set_keeps_it_where_it_is() {
        let (set, become_dba, become_none) =
            (("session_replication_role", "replica"), ("role", "dba"), ("role", "none"));
        assert_eq!(read_back("off", &[become_dba, set]), None);
        assert_eq!(read_back("off", &[become_dba, set, become_none]), Some(Pin::UnknownSetting));
        assert_eq!(read_back("on", &[become_dba, set, become_none]), None, "who has logged in may set it");
        assert_eq!(read_back("off", &[set, become_dba, become_none]), None, "who has logged in has set it");
        assert_eq!(read_back("off", &[become_dba, ("my.x", "1"), become_none]), None);
        let put_back = ("session_replication_role", "origin");
        assert_eq!(read_back("off", &[become_dba, set, put_back, become_none]), None, "it is not set any more");
    }
}
