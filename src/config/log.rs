//! `[log]`: what is logged, and how.

use tracing_subscriber::EnvFilter;

use super::Log;
use super::document::{Item, Table, nearest};

/// The plain levels, for hints.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

impl Log {
    /// The section; every setting has a default.
    pub(super) fn read(table: Table<'_>) -> Self {
        let level = table.get("level").and_then(|item| read_level(&item));
        let log = Self {
            level: level.unwrap_or_else(|| "info".to_owned()),
            json: table.choice("format", &[("text", false), ("json", true)], false),
            connections: table.flag("connections", false),
        };
        table.finish();
        log
    }
}

fn read_level(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    // A bare word that is no level would be taken for the name of a module, and nothing would be logged.
    let is_bare_word = !text.contains(['=', ',', '[']);
    let is_filter = EnvFilter::try_new(text).is_ok() && !text.trim().is_empty();
    if is_bare_word && !LEVELS.contains(&text) || !is_filter {
        item.wrong(
            "error, warn, info, debug, trace or a filter as in \"info,trunkline::monitor=debug\"",
            nearest(text, &LEVELS),
        );
        return None;
    }
    Some(text.to_owned())
}
