//! The settings that a startup message asks for, also those inside its `options`.

use std::sync::Arc;

use crate::session::Settings;
use crate::sql::setting_name;
use crate::wire::startup::{self, Startup};

/// Startup parameters that are no settings.
const NOT_SETTINGS: [&str; 4] = ["user", "database", "replication", "options"];

/// Something in `options` is none, in the server's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A word that the server's command line does not know.
    #[error("invalid command-line argument for server process: {0}")]
    Unknown(String),
    /// A setting without a value: its flag, and what is there.
    #[error("{0}{1} requires a value")]
    NoValue(&'static str, String),
}

impl OptionsError {
    /// What may help, as the server has it.
    pub fn hint(&self) -> Option<&'static str> {
        matches!(self, Self::Unknown(_)).then_some("Try \"postgres --help\" for more information.")
    }
}

type Pairs = Vec<(Arc<str>, Arc<str>)>;

/// The settings that a startup message asks for.
pub fn startup_settings(startup: &Startup) -> Result<Settings, OptionsError> {
    let mut settings = Pairs::new();
    if let Some(options) = startup.parameter("options") {
        read_options(options, &mut settings)?;
    }
    for (name, value) in &startup.parameters {
        if !NOT_SETTINGS.contains(&&**name) && !startup::is_option(name) {
            settings.push((setting_name(name).into(), (&**value).into()));
        }
    }
    settings.retain(|(name, value)| !is_without_effect(name, value));
    Ok(Settings::new(settings))
}

/// PostgreSQL takes it from whoever logs in, and does nothing with it: only a statement seeds random().
fn is_without_effect(name: &str, value: &str) -> bool {
    name == "seed" && value.trim().parse::<f64>().is_ok_and(|seed| (-1.0..=1.0).contains(&seed))
}

/// Reads them as the server's own command line, with backslashes before blanks.
fn read_options(options: &str, settings: &mut Pairs) -> Result<(), OptionsError> {
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            return words.next().map_or(Ok(()), |word| Err(OptionsError::Unknown(word)));
        }
        let flags = word.strip_prefix('-').filter(|flags| !flags.is_empty());
        let mut flags = flags.ok_or_else(|| OptionsError::Unknown(word.clone()))?.chars();
        while let Some(flag) = flags.next() {
            let unknown = || OptionsError::Unknown(word.clone());
            if let Some((name, value)) = simple(flag) {
                settings.extend((!name.is_empty()).then(|| (name.into(), value.into())));
                continue;
            }
            if !TAKE_VALUES.contains(flag) {
                return Err(unknown());
            }
            let rest = flags.as_str();
            let value = if rest.is_empty() { words.next().ok_or_else(unknown)? } else { rest.to_owned() };
            read_flag(flag, value, settings).map_err(|error| error.unwrap_or_else(unknown))?;
            break;
        }
    }
    Ok(())
}

/// Flags with a value behind them, among those that the server takes from a client.
const TAKE_VALUES: &str = "BCDNSWcdfhkprtv-";

/// What a flag without a value sets; an empty name: nothing.
fn simple(flag: char) -> Option<(&'static str, &'static str)> {
    Some(match flag {
        'e' => ("datestyle", "euro"),
        'F' => ("fsync", "false"),
        'O' => ("allow_system_table_mods", "true"),
        'P' => ("ignore_system_indexes", "true"),
        's' => ("log_statement_stats", "true"),
        'l' => ("ssl", "true"),
        'i' => ("listen_addresses", "*"),
        'E' | 'T' | 'b' | 'j' | 'n' => ("", ""),
        _ => return None,
    })
}

/// A flag and its value. Err(None): the value is none.
fn read_flag(flag: char, value: String, settings: &mut Pairs) -> Result<(), Option<OptionsError>> {
    let mut set = |name: &str, value: &str| settings.push((name.into(), value.into()));
    match flag {
        'c' | '-' => {
            let sign = if flag == 'c' { "-c " } else { "--" };
            let (name, given) = value.split_once('=').ok_or_else(|| OptionsError::NoValue(sign, value.clone()))?;
            set(&setting_name(&name.replace('-', "_")), given);
        }
        'B' => set("shared_buffers", &value),
        'N' => set("max_connections", &value),
        'S' => set("work_mem", &value),
        'W' => set("post_auth_delay", &value),
        'h' => set("listen_addresses", &value),
        'k' => set("unix_socket_directories", &value),
        'p' => set("port", &value),
        'd' => debug(&value).into_iter().for_each(|(name, value)| set(name, &value)),
        'f' => set(one_of(&PLANS, &value)?, "false"),
        't' => set(one_of(&STATISTICS, &value)?, "true"),
        // For the server's own processes.
        _ => {}
    }
    Ok(())
}

/// What `-d` sets: the more, the higher the level.
fn debug(level: &str) -> Vec<(&'static str, String)> {
    let level = level.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0);
    let messages = if level > 0 { format!("debug{level}") } else { "notice".to_owned() };
    let mut set = vec![("log_min_messages", messages)];
    set.extend((level >= 2).then(|| ("log_statement", "all".to_owned())));
    let prints = [(3, "debug_print_parse"), (4, "debug_print_plan"), (5, "debug_print_rewritten")];
    set.extend(prints.into_iter().filter(|(least, _)| level >= *least).map(|(_, name)| (name, "true".to_owned())));
    set
}

/// What `-f` takes away.
const PLANS: [(&str, &str); 8] = [
    ("s", "enable_seqscan"),
    ("i", "enable_indexscan"),
    ("o", "enable_indexonlyscan"),
    ("b", "enable_bitmapscan"),
    ("t", "enable_tidscan"),
    ("n", "enable_nestloop"),
    ("m", "enable_mergejoin"),
    ("h", "enable_hashjoin"),
];

/// What `-t` has counted; the first two letters tell.
const STATISTICS: [(&str, &str); 3] =
    [("pa", "log_parser_stats"), ("pl", "log_planner_stats"), ("e", "log_executor_stats")];

fn one_of(known: &[(&str, &'static str)], value: &str) -> Result<&'static str, Option<OptionsError>> {
    let letters = known.iter().find(|(letters, _)| value.starts_with(letters) && !value.is_empty());
    letters.map(|(_, name)| *name).ok_or(None)
}

fn split(options: &str) -> Vec<String> {
    let (mut words, mut word, mut escaped, mut is_open) = (Vec::new(), String::new(), false, false);
    for character in options.chars() {
        if escaped {
            word.push(character);
            escaped = false;
        } else if character == '\\' {
            (escaped, is_open) = (true, true);
        } else if character.is_ascii_whitespace() || character == '\x0b' {
            words.extend(std::mem::take(&mut is_open).then(|| std::mem::take(&mut word)));
        } else {
            word.push(character);
            is_open = true;
        }
    }
    words.extend(is_open.then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &str) -> Result<Vec<(String, String)>, String> {
        let parameters = vec![("user".into(), "ada".into()), ("options".into(), options.into())];
        let settings = startup_settings(&Startup { minor: 0, parameters }).map_err(|error| error.to_string())?;
        Ok(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        let pairs = |pairs: &[(&str, &str)]| Ok(pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect());
        assert_eq!(settings(r"-c a=1 --b-c=2\ 3 -cd=x"), pairs(&[("a", "1"), ("b_c", "2 3"), ("d", "x")]));
        assert_eq!(
            settings("-eS 9 -fs"),
            pairs(&[("datestyle", "euro"), ("enable_seqscan", "false"), ("work_mem", "9")])
        );
        assert_eq!(settings("-- "), pairs(&[]));
        assert_eq!(settings("-c Seed=0.5 -c a=1"), pairs(&[("a", "1")]));
        assert_eq!(settings("-c seed=2"), pairs(&[("seed", "2")]));
        for (options, refused) in
            [("-c", "-c"), ("-x", "-x"), ("-ex", "-ex"), ("word", "word"), ("-", "-"), ("-f x", "-f")]
        {
            assert_eq!(settings(options), Err(format!("invalid command-line argument for server process: {refused}")));
        }
        assert_eq!(settings("-c nothing"), Err("-c nothing requires a value".to_owned()));
        assert_eq!(settings("--nothing"), Err("--nothing requires a value".to_owned()));
    }
}
