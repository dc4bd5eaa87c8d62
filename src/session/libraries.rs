//! Settings that belong to libraries (`plpgsql.…`): a server connection that has loaded one knows its settings, another
//! keeps whatever is set under its prefix as a placeholder, which only loading the library removes.

use bytes::BytesMut;

use super::Session;
use super::known::Known;
use crate::wire::SqlState;
use crate::wire::error_response::put_warning;

impl Session {
    /// Another session's placeholder is on this server connection and cannot be taken off: RESET would only empty it, and
    /// the library, once loaded there, would warn whoever is there by then.
    pub(super) fn meets_placeholder(&self, known: &Known) -> bool {
        self.settings != known.settings
            && known.settings.iter().any(|(name, _)| is_of_library(name) && self.settings.get(name).is_none())
    }

    /// The server connection refuses a placeholder of this session, since the library is loaded there and knows no such
    /// setting. PostgreSQL removes it with this warning when it loads the library; so do we. Answers whether it was that.
    pub fn placeholder_removed(&mut self, code: SqlState, message: &str, out: &mut BytesMut) -> bool {
        if code != SqlState::INVALID_NAME {
            return false;
        }
        let is_it = |name: &str| name.contains('.') && message.contains(&format!("\"{name}\""));
        let Some(name) = self.settings.iter().map(|(name, _)| name).find(|name| is_it(name)).cloned() else {
            return false;
        };
        self.settings = self.settings.with(&name, None);
        self.startup = self.startup.with(&name, None);
        let prefix = name.split('.').next().unwrap_or_default();
        let warning = format!("invalid configuration parameter name \"{name}\", removing it");
        put_warning(out, code, &warning, &format!("\"{prefix}\" is now a reserved prefix."));
        true
    }
}

/// The setting belongs to a library that a statement can load by itself. An application's own prefix (`app.user`) belongs
/// to none.
fn is_of_library(name: &str) -> bool {
    name.split_once('.').is_some_and(|(prefix, _)| PREFIXES.contains(&prefix))
}

/// The prefixes of PostgreSQL's languages and of its extensions that have settings.
const PREFIXES: [&str; 15] = [
    "auto_explain",
    "auth_delay",
    "basebackup_to_shell",
    "basic_archive",
    "isn",
    "passwordcheck",
    "pg_prewarm",
    "pg_stat_statements",
    "pg_trgm",
    "pgcrypto",
    "plperl",
    "plpgsql",
    "pltcl",
    "postgres_fdw",
    "sepgsql",
];
