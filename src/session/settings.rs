//! Settings (GUCs) that a session has changed: what to replay on a server connection that differs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::sql::{is_anybodys, is_identity};

/// The settings of a session or of a server connection that differ from the server's own; shared, never changed in place.
#[derive(Clone, Debug, Default)]
pub struct Settings(Option<Arc<Changed>>);

#[derive(Debug)]
struct Changed {
    values: BTreeMap<Arc<str>, Arc<str>>,
    /// What not anybody may set was set by whom the session has become, and not by whoever logged in.
    by_identity: bool,
}

/// How a session's texts are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Its standard_conforming_strings.
    pub standard_conforming_strings: bool,
    /// Its client_encoding is UTF8.
    pub encoding_is_utf8: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { standard_conforming_strings: true, encoding_is_utf8: true }
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.values == b.values,
            _ => false,
        }
    }
}

impl Settings {
    /// These names and values.
    pub fn new(values: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        Self::of(values.into_iter().collect(), false)
    }

    fn of(values: BTreeMap<Arc<str>, Arc<str>>, by_identity: bool) -> Self {
        if values.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(Changed { values, by_identity })))
    }

    /// What not anybody may set was set by whom the session has become.
    pub(super) fn are_by_identity(&self) -> bool {
        self.0.as_ref().is_some_and(|changed| changed.by_identity)
    }

    /// The same, where the other one of whoever logged in and whom the session has become has set what not anybody may set. None
    /// where it makes no difference.
    pub fn by_the_other(&self) -> Option<Self> {
        let changed = self.0.as_ref().filter(|_| self.has_identity() && self.need_right())?;
        Some(Self::of(changed.values.clone(), !changed.by_identity))
    }

    /// Not anybody may set one of them.
    pub(super) fn need_right(&self) -> bool {
        self.iter().any(|(name, _)| !is_identity(name) && !is_anybodys(name))
    }

    /// The value of a setting, if it has been changed.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.values.get(name).map(|value| &**value)
    }

    /// What a session begins with that asks for these: as itself. PostgreSQL reads a `session_authorization` that somebody comes
    /// with, may refuse it, and does not heed it.
    pub fn at_beginning(&self) -> Self {
        match self.get(SESSION_AUTHORIZATION) {
            Some(_) => self.with(&SESSION_AUTHORIZATION.into(), None),
            None => self.clone(),
        }
    }

    /// Nothing has been changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Who the session is has been changed.
    pub(super) fn has_identity(&self) -> bool {
        self.iter().any(|(name, _)| is_identity(name))
    }

    /// All names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().flat_map(|changed| changed.values.iter())
    }

    /// These with one more changed (Some) or put back (None).
    pub fn with(&self, name: &Arc<str>, value: Option<Arc<str>>) -> Self {
        if self.get(name) == value.as_deref() {
            return self.clone();
        }
        let mut values = self.0.as_ref().map(|changed| changed.values.clone()).unwrap_or_default();
        match value {
            Some(value) => values.insert(Arc::clone(name), value),
            None => values.remove(name),
        };
        // Whoever it is now may set other things.
        Self::of(values, !is_identity(name) && self.are_by_identity())
    }

    /// Something that is there with `from` is to be put back for which a right may be asked.
    pub fn puts_back_by_right(&self, from: &Self) -> bool {
        let mut put_back = from.iter().filter(|(name, value)| self.begins_anew(name, value));
        put_back.any(|(name, _)| name.contains('.') && is_anybodys(name))
    }

    /// The SQL that makes a server connection with `from` one with `self`; None if nothing differs.
    ///
    /// Values go through set_config, which reads them as a configuration file would: SET would take a list such as a
    /// search_path for one name. They are set by whoever logged in, who may set more than whom the session has become
    /// since: that comes last, the session's user before its role, since setting the one puts back the other. Behind it comes
    /// only what whoever logged in [may not set](Self::by_the_other). Nobody needs the values back, which may be long.
    ///
    /// RESET of one setting asks for the right to set it, which whoever has set it may have had, and RESET ALL for none. What
    /// cuts statements short is put back first: it is not to do so to these.
    pub fn sql_from(&self, from: &Self) -> Option<String> {
        if self == from {
            return None;
        }
        let put_back = || from.iter().filter(|(name, value)| self.begins_anew(name, value)).map(|(name, _)| name);
        let mut sql = String::new();
        for name in put_back().filter(|name| is_timeout(name)) {
            let _ = write!(sql, "RESET {};", quote_name(name));
        }
        let is_somebody_else = from.has_identity();
        if is_somebody_else {
            // In this order: the role of the login is the last word.
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        // What an extension's setting asks for is not known.
        let may_need_right = |name: &str| !is_anybodys(name) || is_somebody_else && name.contains('.');
        let is_all_anew = put_back().any(|name| may_need_right(name));
        if is_all_anew {
            sql.push_str("RESET ALL;");
        } else {
            for name in put_back().filter(|name| !is_timeout(name)) {
                let _ = write!(sql, "RESET {};", quote_name(name));
            }
        }
        let differs = |name: &str, value: &str| match is_identity(name) {
            true => is_somebody_else || from.get(name) != Some(value),
            false => is_all_anew || from.get(name) != Some(value),
        };
        let mut changed: Vec<_> = self.iter().filter(|(name, value)| differs(name, value)).collect();
        let by_identity = self.are_by_identity();
        changed.sort_by_key(|(name, _)| match precedence(name) {
            0 if by_identity && !is_anybodys(name) => BEHIND_IDENTITY,
            precedence => precedence,
        });
        for (position, (name, value)) in changed.iter().enumerate() {
            sql.push_str(if position == 0 { "SELECT " } else { "," });
            let _ =
                write!(sql, "pg_catalog.set_config({},{},false) IS NULL", quote_literal(name), quote_literal(value));
        }
        (!sql.is_empty()).then_some(sql)
    }

    /// A setting that has this value on a server connection goes back to what that began with, before it is set or instead.
    fn begins_anew(&self, name: &str, there: &str) -> bool {
        match self.get(name) {
            None => !is_identity(name),
            Some(own) => (is_relative(name) || is_timeout(name)) && own != there,
        }
    }
}

/// Makes a server connection take what it is sent for UTF-8, which texts of ours are.
pub const TO_UTF8: &str = "SET client_encoding TO 'UTF8'";

/// The setting that says in which encoding a text comes.
pub const CLIENT_ENCODING: &str = "client_encoding";

/// PostgreSQL's own name of it.
pub const UTF8: &str = "UTF8";

/// Who the session acts as, whatever its role.
const SESSION_AUTHORIZATION: &str = "session_authorization";

/// What its value does not say stays as it is: `ISO` is no order of the day and the month.
fn is_relative(name: &str) -> bool {
    name == "datestyle"
}

/// While it is another's, it may end what is to put it back.
fn is_timeout(name: &str) -> bool {
    matches!(name, "lock_timeout" | "statement_timeout" | "transaction_timeout")
}

/// Who the session is comes last, its user before its role: setting the one puts back the other.
pub(super) fn precedence(name: &str) -> u8 {
    match name {
        "role" => 2,
        _ if is_identity(name) => 1,
        _ => 0,
    }
}

/// A [`precedence`] behind all of those.
const BEHIND_IDENTITY: u8 = 3;

/// The SQL that sets it, for the session or (`SET LOCAL`) the transaction, without a query, so that the transaction may still be given its modes.
///
/// Where the server connection does not take what it is sent for UTF-8, `in_utf8` is false, and other letters than those of ASCII
/// are escaped.
pub fn sql_to_set(set: &str, name: &str, value: &str, in_utf8: bool) -> String {
    let values = match LISTS_OF_NAMES.contains(&name) {
        true => names_in(value),
        false => vec![value.to_owned()],
    };
    let quote = if in_utf8 { quote_literal } else { quote_literal_in_ascii };
    let literals: Vec<_> = values.iter().map(|value| quote(value)).collect();
    format!("{set} {} TO {}", quote_name(name), literals.join(","))
}

/// SET takes a string for one name of these.
const LISTS_OF_NAMES: [&str; 4] =
    ["local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"];

/// The names in a list, as PostgreSQL reads it: separated by commas, folded unless quoted.
fn names_in(list: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        let Some(name) = names.last_mut() else { break };
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => names.push(String::new()),
            _ if is_quoted => name.push(character),
            _ if character.is_whitespace() => {}
            _ => name.extend(character.to_lowercase()),
        }
    }
    names
}

/// The SQL that asks for the values of these settings, one column each; a name that is unknown gives NULL.
pub fn sql_to_read(names: &[Arc<str>]) -> String {
    let mut sql = String::from("SELECT ");
    for (position, name) in names.iter().enumerate() {
        if position > 0 {
            sql.push(',');
        }
        let _ = write!(sql, "pg_catalog.current_setting({},true)", quote_literal(name));
    }
    sql
}

/// One more column: where the value of this setting comes from; NULL of some that are never listed.
pub fn sql_of_source(name: &str) -> String {
    let name = quote_literal(name);
    format!(",(SELECT source FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name)={name})")
}

/// A query of ours for a server connection whose transactions may be SERIALIZABLE by default, which a standby refuses.
pub fn at_read_committed(sql: &str) -> String {
    format!("BEGIN ISOLATION LEVEL READ COMMITTED;{sql};COMMIT")
}

/// A name with each of its dotted parts in double quotes.
fn quote_name(name: &str) -> String {
    name.split('.').map(quote_identifier).collect::<Vec<_>>().join(".")
}

/// A name in double quotes, dots and all.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal that reads the same whatever standard_conforming_strings says.
pub fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// The same, without any letter that encodings have different bytes for.
fn quote_literal_in_ascii(text: &str) -> String {
    if text.is_ascii() {
        return quote_literal(text);
    }
    let mut literal = String::from("E'");
    for character in text.chars() {
        let _ = match character {
            '\'' | '\\' => write!(literal, "{character}{character}"),
            ascii if ascii.is_ascii() => write!(literal, "{ascii}"),
            other => write!(literal, "\\U{:08x}", u32::from(other)),
        };
    }
    literal + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings::new(pairs.iter().map(|&(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn what_is_set_by_set_is_a_list_where_the_setting_is_one_of_names() {
        for (name, value, sql) in [
            ("application_name", "it's, me", "SET \"application_name\" TO 'it''s, me'"),
            ("my.x", "", "SET \"my\".\"x\" TO ''"),
            ("search_path", "\"$user\", Public,\"a \"\"B\"", "SET \"search_path\" TO '$user','public','a \"B'"),
            ("search_path", "", "SET \"search_path\" TO ''"),
        ] {
            assert_eq!(sql_to_set("SET", name, value, true), sql);
        }
    }

    #[test]
    fn equal_settings_need_no_replay() {
        assert_eq!(settings(&[("a", "1")]).sql_from(&settings(&[("a", "1")])), None);
        assert_eq!(Settings::default().sql_from(&settings(&[])), None);
    }

    #[test]
    fn what_differs_is_set_and_what_is_left_over_is_reset() {
        let sql = settings(&[("work_mem", "8MB"), ("role", "ada")]).sql_from(&settings(&[("my.x", "1")])).unwrap();
        assert_eq!(
            sql,
            r#"RESET "my"."x";SELECT pg_catalog.set_config('work_mem','8MB',false) IS NULL,pg_catalog.set_config('role','ada',false) IS NULL"#
        );
    }

    #[test]
    fn what_a_datestyle_leaves_open_is_the_servers_and_not_the_last_sessions() {
        let came = settings(&[("datestyle", "ISO")]);
        let set = "SELECT pg_catalog.set_config('datestyle','ISO',false) IS NULL";
        assert_eq!(came.sql_from(&Settings::default()).unwrap(), set);
        assert_eq!(
            came.sql_from(&settings(&[("datestyle", "ISO, DMY")])).unwrap(),
            format!("RESET \"datestyle\";{set}")
        );
        assert_eq!(came.sql_from(&came), None);
    }

    #[test]
    fn settings_are_set_by_whoever_logged_in() {
        let became = settings(&[("session_authorization", "ada"), ("lo_compat_privileges", "on")]);
        assert_eq!(
            became.sql_from(&settings(&[("session_authorization", "ada"), ("role", "eve")])).unwrap(),
            "RESET SESSION AUTHORIZATION;RESET ROLE;SELECT pg_catalog.set_config('lo_compat_privileges','on',false) \
             IS NULL,pg_catalog.set_config('session_authorization','ada',false) IS NULL"
        );
    }

    #[test]
    fn what_not_anybody_may_set_is_put_back_with_all_else() {
        let own = settings(&[("my.x", "1"), ("work_mem", "8MB")]);
        let left = settings(&[("my.x", "1"), ("session_replication_role", "replica"), ("role", "dba")]);
        assert_eq!(
            own.sql_from(&left).unwrap(),
            "RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;SELECT pg_catalog.set_config('my.x','1',false) IS \
             NULL,pg_catalog.set_config('work_mem','8MB',false) IS NULL"
        );
        assert!(!own.puts_back_by_right(&left), "RESET ALL asks for none");
        assert!(Settings::default().puts_back_by_right(&left), "an extension's setting may ask for one");
    }

    #[test]
    fn what_only_whom_the_session_has_become_may_set_is_set_by_that() {
        let became = settings(&[("role", "dba"), ("session_replication_role", "replica"), ("work_mem", "8MB")]);
        let order = |settings: &Settings| {
            let sql = settings.sql_from(&Settings::default()).unwrap();
            let mut names: Vec<_> = settings.iter().map(|(name, _)| name.to_string()).collect();
            names.sort_by_key(|name| sql.find(&quote_literal(name)));
            names
        };
        assert_eq!(order(&became), ["session_replication_role", "work_mem", "role"]);
        let other = became.by_the_other().unwrap();
        assert_eq!(order(&other), ["work_mem", "role", "session_replication_role"]);
        assert_eq!(other, became, "a server connection has the same then");
        let more = other.with(&"my.x".into(), Some("1".into()));
        assert_eq!(order(&more), ["my.x", "work_mem", "role", "session_replication_role"]);
        let again = more.with(&"role".into(), Some("eve".into()));
        assert_eq!(order(&again), ["my.x", "session_replication_role", "work_mem", "role"]);
        for nobody in [&[("session_replication_role", "replica")][..], &[("role", "dba"), ("my.x", "1")]] {
            assert!(settings(nobody).by_the_other().is_none(), "{nobody:?}");
        }
    }

    #[test]
    fn anothers_timeout_does_not_end_what_puts_it_back() {
        let left = settings(&[("my.x", "1"), ("role", "ada"), ("statement_timeout", "1ms")]);
        let put_back = "RESET \"statement_timeout\";RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL;";
        assert_eq!(Settings::default().sql_from(&left).unwrap(), put_back);
        let set = "SELECT pg_catalog.set_config('statement_timeout','1min',false) IS NULL";
        assert_eq!(settings(&[("statement_timeout", "1min")]).sql_from(&left).unwrap(), format!("{put_back}{set}"));
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal(r"a\b'"), r" E'a\\b'''");
    }
}
