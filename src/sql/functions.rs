//! The functions that PostgreSQL itself brings along: a reviewed judgement of every name, kept in `builtins.txt`.

use std::sync::LazyLock;

use hashbrown::HashMap;

use super::statement::Name;

/// What calling a function means for routing. A name is judged as the worst of its overloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A standby gives the same answer.
    Safe,
    /// Safe, but its literal argument names an object.
    NamesObject,
    /// It writes, is refused on a standby, or only the primary has the answer.
    Primary,
    /// Takes an advisory lock that the session holds.
    AdvisoryLock,
    /// Answers for the session that called nextval.
    SequenceOfSession,
    /// Changes state of the session that cannot be read back.
    SessionState,
    /// `current_setting`: judged by the setting's name.
    ReadsSetting,
    /// `set_config`: judged by the setting's name.
    ChangesSetting,
}

/// True if somebody has judged the built-in function of this name.
pub fn judged(name: &str) -> bool {
    BUILTINS.contains_key(name)
}

/// The judgement of a function as it is named in a call; None for one that is not PostgreSQL's own.
pub fn class_of(name: &Name) -> Option<Class> {
    match name.schema.as_deref() {
        None | Some("pg_catalog") => BUILTINS.get(&*name.name).copied(),
        // Its functions are immutable steps of its views, all named like this.
        Some("information_schema") if name.name.starts_with("_pg_") => Some(Class::Safe),
        Some(_) => None,
    }
}

/// PostgreSQL's own function of this name can be called without arguments, and a standby answers it: no user's own is meant
/// where PostgreSQL's come first.
pub fn takes_nothing(name: &Name) -> bool {
    class_of(name).is_some() && TAKE_NOTHING.binary_search(&&*name.name).is_ok()
}

/// Of every version. Sorted.
const TAKE_NOTHING: &[&str] = &[
    "clock_timestamp",
    "count",
    "cume_dist",
    "current_database",
    "current_query",
    "current_schema",
    "current_user",
    "dense_rank",
    "gen_random_uuid",
    "get_current_ts_config",
    "getdatabaseencoding",
    "getpgusername",
    "inet_client_addr",
    "inet_client_port",
    "inet_server_addr",
    "inet_server_port",
    "now",
    "percent_rank",
    "pg_backend_pid",
    "pg_client_encoding",
    "pg_is_in_recovery",
    "pg_my_temp_schema",
    "pg_trigger_depth",
    "pi",
    "random",
    "rank",
    "row_number",
    "session_user",
    "statement_timestamp",
    "timeofday",
    "transaction_timestamp",
    "version",
];

/// `x.name` is no column but a call, of PostgreSQL's own function that a standby does not answer alike.
pub fn attribute_needs_primary(name: &str) -> bool {
    // Methods of TABLESAMPLE take nothing that a statement has.
    let is_method = matches!(name, "system" | "bernoulli");
    !is_method && !matches!(BUILTINS.get(name), None | Some(Class::Safe | Class::NamesObject))
}

static BUILTINS: LazyLock<HashMap<&'static str, Class, foldhash::fast::FixedState>> =
    LazyLock::new(|| include_str!("builtins.txt").lines().filter_map(entry).collect());

/// One line of the list; a test sees to it that only comments are none.
fn entry(line: &'static str) -> Option<(&'static str, Class)> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let class = match words.next()? {
        "safe" => Class::Safe,
        "object" => Class::NamesObject,
        "primary" => Class::Primary,
        "lock" => Class::AdvisoryLock,
        "sequence" => Class::SequenceOfSession,
        "state" => Class::SessionState,
        "reads_setting" => Class::ReadsSetting,
        "changes_setting" => Class::ChangesSetting,
        _ => return None,
    };
    (name != "#").then_some((name, class))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_a_comment_or_a_judgement() {
        for line in include_str!("builtins.txt").lines() {
            assert!(line.starts_with('#') || entry(line).is_some(), "{line}");
        }
    }

    #[test]
    fn the_list_of_those_that_take_nothing_is_sorted_and_safe() {
        assert!(TAKE_NOTHING.is_sorted());
        assert!(TAKE_NOTHING.iter().all(|name| matches!(BUILTINS.get(name), Some(Class::Safe))));
    }

    #[test]
    fn no_function_is_judged_twice() {
        let lines = include_str!("builtins.txt").lines().filter_map(entry).count();
        assert_eq!(lines, BUILTINS.len());
    }

    #[test]
    fn a_schema_of_the_user_has_no_builtins() {
        let in_schema = |schema: Option<&str>| class_of(&Name { schema: schema.map(Into::into), name: "now".into() });
        assert_eq!(in_schema(None), Some(Class::Safe));
        assert_eq!(in_schema(Some("pg_catalog")), Some(Class::Safe));
        assert_eq!(in_schema(Some("shadow")), None);
    }
}
