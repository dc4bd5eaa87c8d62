//! Passwords: written down, or taken from a file or the environment. No message shows one.

use std::path::Path;

use crate::auth::Secret;

use super::document::{Item, Table};

/// The three keys by which a password can be given; exactly one of them is.
pub(super) struct Keys {
    plain: &'static str,
    file: &'static str,
    environment: &'static str,
}

/// What a password may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A plain password: it must be proved to nodes.
    Plain,
    /// A plain password, a SCRAM-SHA-256 verifier or an MD5 hash.
    PlainOrVerifier,
}

/// `password`, `password_file`, `password_env`.
pub(super) const PASSWORD: Keys = Keys { plain: "password", file: "password_file", environment: "password_env" };

/// `server_password`, `server_password_file`, `server_password_env`.
pub(super) const SERVER_PASSWORD: Keys =
    Keys { plain: "server_password", file: "server_password_file", environment: "server_password_env" };

/// A password that must be given; an empty one after a problem.
pub(super) fn required(table: &Table<'_>, keys: &Keys, form: Form, folder: &Path) -> Secret {
    let given = given(table, keys);
    if given.is_empty() {
        table.missing(keys.plain, &format!("give {}, {} or {}", keys.plain, keys.file, keys.environment));
    }
    only(&given, form, folder).unwrap_or_else(|| Secret::new(String::new()))
}

/// A password that may be given.
pub(super) fn optional(table: &Table<'_>, keys: &Keys, form: Form, folder: &Path) -> Option<Secret> {
    only(&given(table, keys), form, folder)
}

/// Where a password is to be found.
#[derive(Clone, Copy)]
enum Source {
    Plain,
    File,
    Environment,
}

fn given<'d>(table: &Table<'d>, keys: &Keys) -> Vec<(&'static str, Source, Item<'d>)> {
    let sources = [(keys.plain, Source::Plain), (keys.file, Source::File), (keys.environment, Source::Environment)];
    let given = sources.into_iter().map(|(key, source)| (key, source, table.get(key)));
    given.filter_map(|(key, source, item)| Some((key, source, item?))).collect()
}

fn only(given: &[(&'static str, Source, Item<'_>)], form: Form, folder: &Path) -> Option<Secret> {
    let ((first, source, item), rest) = given.split_first()?;
    for (_, _, second) in rest {
        second.problem(format!("the password is already given by {first}"), Some("keep one of them".to_owned()));
    }
    let text = source.read(item, folder)?;
    match check(&text, form) {
        Ok(()) => Some(Secret::new(text)),
        Err(problem) => {
            item.problem(problem, None);
            None
        }
    }
}

impl Source {
    fn read(self, item: &Item<'_>, folder: &Path) -> Option<String> {
        match self {
            Self::Plain => item.secret_text().map(str::to_owned),
            Self::File => read_file(item, folder),
            Self::Environment => read_environment(item),
        }
    }
}

fn read_file(item: &Item<'_>, folder: &Path) -> Option<String> {
    let path = folder.join(item.text()?);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            item.problem(format!("{} cannot be read: {error}", path.display()), None);
            return None;
        }
    };
    Some(text.lines().next().unwrap_or_default().to_owned())
}

fn read_environment(item: &Item<'_>) -> Option<String> {
    let name = item.text()?;
    let is_name = !name.is_empty() && !name.contains(['=', '\0']);
    let value = is_name.then(|| std::env::var_os(name)).flatten();
    let text = value.map(std::ffi::OsString::into_string);
    match text {
        Some(Ok(text)) => Some(text),
        Some(Err(_)) => {
            item.problem(format!("the environment variable {name:?} is not UTF-8"), None);
            None
        }
        None => {
            item.problem(format!("the environment variable {name:?} is not set"), None);
            None
        }
    }
}

fn check(text: &str, form: Form) -> Result<(), String> {
    if text.contains(['\n', '\r']) {
        return Err("the password holds a line break".to_owned());
    }
    if form == Form::Plain && text.starts_with("SCRAM-SHA-256$") {
        return Err("a verifier proves nothing to a node: expected a plain password".to_owned());
    }
    let checked = if form == Form::Plain { Secret::check_plain(text) } else { Secret::check(text) };
    checked.map_err(|problem| problem.to_string())
}
