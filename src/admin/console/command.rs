//! What is said at the console: words into a command.

use std::fmt;
use std::sync::Arc;

use super::Shutdown;

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// SHOW of something.
    Show(Subject),
    /// RELOAD.
    Reload,
    /// PAUSE of a database, or of all.
    Pause(Option<Arc<str>>),
    /// RESUME of a database, or of all.
    Resume(Option<Arc<str>>),
    /// ENABLE or DISABLE of a database.
    Enable(Arc<str>, bool),
    /// KILL of a database's clients and server connections.
    Kill(Option<Arc<str>>),
    /// KILL_CLIENT.
    KillClient(u64),
    /// RECONNECT of a database, or of all.
    Reconnect(Option<Arc<str>>),
    /// WAIT_CLOSE of a database, or of all.
    WaitClose(Option<Arc<str>>),
    /// DRAIN (true) or ATTACH (false) of a node.
    Drain(Arc<str>, bool),
    /// SWITCHOVER of a cluster, or of the only one, to a member of Patroni, or to the one that it finds best.
    Switchover(Option<Arc<str>>, Option<Arc<str>>),
    /// SHUTDOWN.
    Shutdown(Shutdown),
    /// FORGET SHAPES.
    ForgetShapes,
    /// EXPLAIN ROUTE of a statement.
    ExplainRoute(Arc<str>),
    /// What drivers say of themselves, that changes nothing: the tag to answer with.
    Courtesy(&'static str),
    /// SELECT 1, with which pools look whether a connection is alive.
    One,
    /// Nothing between two semicolons.
    Empty,
}

/// In words, for the log.
impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, name) = match self {
            Self::Show(subject) => return write!(out, "SHOW {}", subject.word()),
            Self::KillClient(id) => return write!(out, "KILL_CLIENT {id}"),
            Self::ExplainRoute(_) => ("EXPLAIN ROUTE", None),
            Self::Reload => ("RELOAD", None),
            Self::Pause(name) => ("PAUSE", name.as_deref()),
            Self::Resume(name) => ("RESUME", name.as_deref()),
            Self::Enable(name, true) => ("ENABLE", Some(&**name)),
            Self::Enable(name, false) => ("DISABLE", Some(&**name)),
            Self::Kill(name) => ("KILL", name.as_deref()),
            Self::Reconnect(name) => ("RECONNECT", name.as_deref()),
            Self::WaitClose(name) => ("WAIT_CLOSE", name.as_deref()),
            Self::Drain(node, true) => ("DRAIN", Some(&**node)),
            Self::Drain(node, false) => ("ATTACH", Some(&**node)),
            Self::Switchover(cluster, None) => ("SWITCHOVER", cluster.as_deref()),
            Self::Switchover(cluster, Some(to)) => {
                return write!(out, "SWITCHOVER {} TO {to}", cluster.as_deref().unwrap_or_default());
            }
            Self::Shutdown(Shutdown::Told | Shutdown::Now) => ("SHUTDOWN", None),
            Self::Shutdown(Shutdown::AfterTransactions) => ("SHUTDOWN WAIT_FOR_SERVERS", None),
            Self::Shutdown(Shutdown::AfterClients) => ("SHUTDOWN WAIT_FOR_CLIENTS", None),
            Self::ForgetShapes => ("FORGET SHAPES", None),
            Self::Courtesy(tag) => (*tag, None),
            Self::One => ("SELECT 1", None),
            Self::Empty => ("", None),
        };
        out.write_str(word)?;
        name.map_or(Ok(()), |name| write!(out, " {name}"))
    }
}

macro_rules! subjects {
    ($($name:ident = $word:literal, $help:literal;)*) => {
        /// What SHOW shows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Subject { $(#[doc = $help] $name),* }

        impl Subject {
            /// All of them.
            pub(super) const ALL: &'static [(Self, &'static str, &'static str)] = &[$((Self::$name, $word, $help)),*];

            fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }
        }
    };
}

subjects! {
    Help = "HELP", "these commands";
    Version = "VERSION", "the program's version";
    State = "STATE", "whether it serves, and what is paused";
    Config = "CONFIG", "every setting with its default, and whether RELOAD can change it";
    Clusters = "CLUSTERS", "clusters: primary, epoch";
    Nodes = "NODES", "nodes: role, state, position, lag, and why they are as they are";
    Databases = "DATABASES", "the names that clients ask for, with their limits";
    Users = "USERS", "who may connect";
    Pools = "POOLS", "clients and server connections by database and user";
    Clients = "CLIENTS", "every client, and what it does";
    Servers = "SERVERS", "every server connection";
    Stats = "STATS", "totals and averages by database";
    StatsTotals = "STATS_TOTALS", "totals by database";
    StatsAverages = "STATS_AVERAGES", "averages of the last minute by database";
    Totals = "TOTALS", "totals and averages over all databases";
    Lists = "LISTS", "how many there are of everything";
    Mem = "MEM", "memory";
    Routes = "ROUTES", "where the statements of each database go now";
    Rules = "RULES", "the routing rules in force, in order";
    Shapes = "SHAPES", "recent decisions by shape of statement: how often, where, why, and what would balance them";
    Reasons = "REASONS", "every reason of a decision, what it means, and what would change it";
}

/// What is said in place of a command that is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) message: String,
    pub(super) hint: String,
}

/// Statements that drivers and pools send to every server, and their tags.
const COURTESIES: [(&str, &str); 8] = [
    ("BEGIN", "BEGIN"),
    ("START", "START TRANSACTION"),
    ("COMMIT", "COMMIT"),
    ("END", "COMMIT"),
    ("ROLLBACK", "ROLLBACK"),
    ("DISCARD", "DISCARD ALL"),
    ("DEALLOCATE", "DEALLOCATE"),
    ("RESET", "RESET"),
];

/// First words of the console's own.
const COMMANDS: [&str; 17] = [
    "SHOW",
    "HELP",
    "RELOAD",
    "PAUSE",
    "RESUME",
    "ENABLE",
    "DISABLE",
    "KILL",
    "KILL_CLIENT",
    "RECONNECT",
    "WAIT_CLOSE",
    "DRAIN",
    "ATTACH",
    "SWITCHOVER",
    "SHUTDOWN",
    "FORGET",
    "EXPLAIN",
];

/// Settings of a session that drivers set and that mean nothing here.
const SETTINGS_OF_DRIVERS: [&str; 12] = [
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
];

/// The commands of a text, which semicolons separate.
pub(super) fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text);
    let mut at = 0;
    while let Some(character) = rest.get(at..).and_then(|behind| behind.chars().next()) {
        if character == ';' {
            parts.extend(rest.get(..at));
            rest = rest.get(at + 1..).unwrap_or_default();
            at = 0;
        } else {
            at += length_of_whole(rest.get(at..).unwrap_or_default()).unwrap_or(character.len_utf8());
        }
    }
    parts.push(rest);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

/// How long what the text begins with is, if no semicolon separates anything in it: a quoted text or name, what stands in
/// dollar quotes, a comment.
fn length_of_whole(text: &str) -> Option<usize> {
    let up_to = |end: &str, from: usize| {
        let behind = text.get(from..).unwrap_or_default();
        Some(behind.find(end).map_or(text.len(), |at| from + at + end.len()))
    };
    match text.as_bytes() {
        [b'\'', ..] => up_to("'", 1),
        [b'"', ..] => up_to("\"", 1),
        [b'-', b'-', ..] => up_to("\n", 2),
        [b'/', b'*', ..] => up_to("*/", 2),
        [b'$', ..] => {
            let tag = text.get(1..)?.split_once('$')?.0;
            let is_tag =
                tag.chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_numeric());
            let quote = text.get(..tag.len() + 2)?;
            if is_tag { up_to(quote, quote.len()) } else { None }
        }
        _ => None,
    }
}

/// The words of a command, of which a quoted one may have blanks in it.
fn words(text: &str) -> Vec<&str> {
    let (mut words, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let mut length = 0;
        while let Some(next) =
            rest.get(length..).and_then(|behind| behind.chars().next()).filter(|c| !c.is_whitespace())
        {
            let quoted = rest.get(length..).filter(|_| matches!(next, '\'' | '"')).and_then(length_of_whole);
            length += quoted.unwrap_or(next.len_utf8());
        }
        words.extend(rest.get(..length));
        rest = rest.get(length..).unwrap_or_default().trim_start();
    }
    words
}

/// What a text between semicolons asks.
pub(super) fn read(text: &str) -> Result<Command, Unknown> {
    let words = words(text);
    let upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(|word| &**word).collect();
    let name = |at: usize| words.get(at).map(|word| Arc::from(unquoted(word)));
    Ok(match &*upper {
        [] => Command::Empty,
        ["SHOW", "STATS", "TOTALS"] => Command::Show(Subject::StatsTotals),
        ["SHOW", "STATS", "AVERAGES"] => Command::Show(Subject::StatsAverages),
        ["SHOW", subject] => Command::Show(read_subject(subject)?),
        ["SHOW"] | ["HELP"] => Command::Show(Subject::Help),
        ["RELOAD"] => Command::Reload,
        ["PAUSE"] | ["PAUSE", _] => Command::Pause(name(1)),
        ["RESUME"] | ["RESUME", _] => Command::Resume(name(1)),
        ["ENABLE" | "DISABLE", _] => Command::Enable(name(1).unwrap_or_default(), upper.first() == Some(&"ENABLE")),
        ["KILL"] | ["KILL", _] => Command::Kill(name(1)),
        ["KILL_CLIENT", id] => Command::KillClient(read_id(id)?),
        ["RECONNECT"] | ["RECONNECT", _] => Command::Reconnect(name(1)),
        ["WAIT_CLOSE"] | ["WAIT_CLOSE", _] => Command::WaitClose(name(1)),
        ["DRAIN" | "ATTACH", _] | ["DRAIN" | "ATTACH", "NODE", _] => {
            Command::Drain(name(words.len() - 1).unwrap_or_default(), upper.first() == Some(&"DRAIN"))
        }
        ["SWITCHOVER"] => Command::Switchover(None, None),
        ["SWITCHOVER", "TO", _] => Command::Switchover(None, name(2)),
        ["SWITCHOVER", _] => Command::Switchover(name(1), None),
        ["SWITCHOVER", _, "TO", _] => Command::Switchover(name(1), name(3)),
        ["SHUTDOWN"] => Command::Shutdown(Shutdown::Now),
        ["SHUTDOWN", "WAIT_FOR_SERVERS"] => Command::Shutdown(Shutdown::AfterTransactions),
        ["SHUTDOWN", "WAIT_FOR_CLIENTS"] => Command::Shutdown(Shutdown::AfterClients),
        ["FORGET", "SHAPES"] => Command::ForgetShapes,
        ["EXPLAIN", "ROUTE", _, ..] => Command::ExplainRoute(behind_two_words(text).into()),
        ["SELECT", "1"] => Command::One,
        ["SET", setting, ..] => read_set(setting)?,
        ["SUSPEND"] => {
            return Err(Unknown {
                message: "SUSPEND is not needed here".to_owned(),
                hint: "PAUSE holds new statements back until RESUME".to_owned(),
            });
        }
        [first, ..] => match COURTESIES.iter().find(|(word, _)| word == first) {
            Some((_, tag)) => Command::Courtesy(tag),
            None if COMMANDS.contains(first) => {
                return Err(Unknown {
                    message: format!(
                        "{first} is a command of the console, but not with what stands behind it, or with nothing"
                    ),
                    hint: "SHOW HELP lists its commands; a name with blanks stands in double quotes".to_owned(),
                });
            }
            None => return Err(unknown(first)),
        },
    })
}

fn read_subject(word: &str) -> Result<Subject, Unknown> {
    if let Some((subject, ..)) = Subject::ALL.iter().find(|(_, known, _)| *known == word) {
        return Ok(*subject);
    }
    let known: Vec<&str> = Subject::ALL.iter().map(|(_, known, _)| *known).collect();
    let hint = format!("SHOW {}", known.join(" | "));
    Err(Unknown { message: format!("there is no SHOW {word}"), hint })
}

fn read_id(word: &str) -> Result<u64, Unknown> {
    word.parse().map_err(|_| Unknown {
        message: format!("{word:?} is not the number of a client"),
        hint: "the column id of SHOW CLIENTS has it".to_owned(),
    })
}

fn read_set(setting: &str) -> Result<Command, Unknown> {
    let name = setting.split('=').next().unwrap_or_default().to_ascii_lowercase();
    if SETTINGS_OF_DRIVERS.contains(&&*name) {
        return Ok(Command::Courtesy("SET"));
    }
    Err(Unknown {
        message: format!("{name} cannot be changed here"),
        hint: "change the configuration file and say RELOAD".to_owned(),
    })
}

fn unknown(word: &str) -> Unknown {
    Unknown {
        message: format!("the console has no command {word}"),
        hint: "SHOW HELP lists its commands; SQL is answered by the other databases".to_owned(),
    }
}

/// What stands behind EXPLAIN ROUTE, as it stands.
fn behind_two_words(text: &str) -> &str {
    let behind = |text: &'_ str| text.trim_start().find(char::is_whitespace).map(|at| text.trim_start().len() - at);
    let mut rest = text;
    for _ in 0..2 {
        let length = behind(rest).unwrap_or_default();
        rest = rest.get(rest.len() - length..).unwrap_or_default();
    }
    rest.trim()
}

fn unquoted(word: &str) -> &str {
    let inside = |quote| word.strip_prefix(quote).and_then(|word: &str| word.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_whatever_their_case() {
        assert_eq!(read("show pools"), Ok(Command::Show(Subject::Pools)));
        assert_eq!(read("  Pause  \"My Db\" "), Ok(Command::Pause(Some("My Db".into()))));
        assert!(read("pause My Db").unwrap_err().message.starts_with("PAUSE is a command"));
        assert_eq!(read("pause \"MyDb\""), Ok(Command::Pause(Some("MyDb".into()))));
        assert_eq!(read("PAUSE"), Ok(Command::Pause(None)));
        assert_eq!(read("drain node 10.0.0.1:5432"), Ok(Command::Drain("10.0.0.1:5432".into(), true)));
        assert_eq!(read("switchover to Node2"), Ok(Command::Switchover(None, Some("Node2".into()))));
        assert_eq!(read("switchover main"), Ok(Command::Switchover(Some("main".into()), None)));
        assert_eq!(read("set application_name = 'x'"), Ok(Command::Courtesy("SET")));
    }

    #[test]
    fn a_statement_to_be_explained_is_kept_as_it_stands() {
        let command = Command::ExplainRoute("select 'A  b' from T".into());
        assert_eq!(read("explain  route select 'A  b' from T "), Ok(command));
    }

    #[test]
    fn semicolons_in_quotes_do_not_separate() {
        assert_eq!(split("show pools; explain route select ';' ;;"), ["show pools", " explain route select ';' "]);
        for whole in
            ["explain route do $$ begin f(); end $$", "/* don't; */ show pools", "$a$ ; $$ ; $a$", "-- ;'\n show pools"]
        {
            assert_eq!(split(&format!("{whole}; help")), [whole, " help"]);
        }
        assert_eq!(split("explain route select $1; help"), ["explain route select $1", " help"]);
    }

    #[test]
    fn what_is_not_known_comes_with_a_hint() {
        assert!(read("select * from t").unwrap_err().hint.contains("SHOW HELP"));
        assert!(read("show nonsense").unwrap_err().hint.contains("POOLS"));
        assert!(read("set pool_size = 3").unwrap_err().hint.contains("RELOAD"));
    }
}
