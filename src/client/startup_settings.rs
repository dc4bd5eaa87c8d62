//! The settings that a startup message asks for, also those inside its `options`.

use std::sync::Arc;

use crate::session::Settings;
use crate::wire::startup::{self, Startup};

/// Startup parameters that are no settings.
const NOT_SETTINGS: [&str; 4] = ["user", "database", "replication", "options"];

/// The settings that a startup message asks for; Err with a word of `options` that is none.
pub fn startup_settings(startup: &Startup) -> Result<Settings, String> {
    let mut settings: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    if let Some(options) = startup.parameter("options") {
        read_options(options, &mut settings)?;
    }
    for (name, value) in &startup.parameters {
        if !NOT_SETTINGS.contains(&&**name) && !startup::is_option(name) {
            settings.push((name.to_lowercase().into(), (&**value).into()));
        }
    }
    Ok(Settings::new(settings))
}

/// `-c name=value`, `-cname=value` and `--name=value`, with backslashes before blanks, as the server's own command line.
fn read_options(options: &str, settings: &mut Vec<(Arc<str>, Arc<str>)>) -> Result<(), String> {
    let mut words = split(options).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().ok_or_else(|| word.clone())?,
            Some(rest) => rest.to_owned(),
            None => return Err(word),
        };
        let (name, value) = assignment.split_once('=').ok_or_else(|| assignment.clone())?;
        settings.push((name.replace('-', "_").to_lowercase().into(), value.into()));
    }
    Ok(())
}

fn split(options: &str) -> Vec<String> {
    let (mut words, mut word, mut escaped) = (Vec::new(), String::new(), false);
    for character in options.chars() {
        if escaped {
            word.push(character);
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character.is_ascii_whitespace() {
            words.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
        } else {
            word.push(character);
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &str) -> Result<Vec<(String, String)>, String> {
        let parameters = vec![("user".into(), "ada".into()), ("options".into(), options.into())];
        let settings = startup_settings(&Startup { minor: 0, parameters })?;
        Ok(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        let expected = vec![("a".into(), "1".into()), ("b_c".into(), "2 3".into()), ("d".into(), "x".into())];
        assert_eq!(settings(r"-c a=1 --b-c=2\ 3 -cd=x"), Ok(expected));
        assert_eq!(settings("-c"), Err("-c".into()));
        assert_eq!(settings("-x"), Err("-x".into()));
        assert_eq!(settings("-c nothing"), Err("nothing".into()));
    }
}
