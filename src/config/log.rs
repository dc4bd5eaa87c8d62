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
    // A bare word that is no level would be taken for the name of a module, and nothing else would be logged.
    let is_no_level = |word: &&str| !word.contains(['=', '[', ']', '{', '}', '"']) && !LEVELS.contains(word);
    let stranger = text.split(',').map(str::trim).find(is_no_level);
    let is_filter = EnvFilter::try_new(text).is_ok() && !text.trim().is_empty();
    if stranger.is_some() || !is_filter {
        item.wrong(
            "error, warn, info, debug, trace or a filter as in \"info,trunkline::monitor=debug\"",
            nearest(stranger.unwrap_or(text), &LEVELS),
        );
        return None;
    }
    // Without a level of its own, a filter leaves out whatever it does not name: warnings and errors, too.
    if !text.split(',').any(|word| LEVELS.contains(&word.trim())) {
        item.problem("has no level for all that it does not name", Some(format!("write \"info,{text}\"")));
        return None;
    }
    Some(text.to_owned())
}
