//! What a session asks of Trunkline itself, by settings named `trunkline.…`. They live on the server connection like any
//! other setting of a prefix that no library has: so SET LOCAL, rollbacks and RESET mean what they always mean.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use crate::routing::Consistency;
use crate::routing::freshness::Position;

/// On: a notice tells of each statement where it went and why.
pub const NOTICE_ROUTE: &str = "trunkline.notice_route";

/// What the session's reads must have seen: eventual, session or strong.
pub const CONSISTENCY: &str = "trunkline.consistency";

/// What the session's next read must have seen, to be carried to another session, also of another Trunkline.
pub const POSITION: &str = "trunkline.position";

/// What a session asks of Trunkline itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// A notice tells of each statement where it went and why.
    pub notices: bool,
    /// What its reads must have seen; None: as configured.
    pub consistency: Option<Consistency>,
}

impl Wishes {
    /// What these settings ask; what is no value for them asks nothing.
    pub(super) fn of<'a>(setting: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            notices: setting(NOTICE_ROUTE).and_then(boolean).unwrap_or(false),
            consistency: setting(CONSISTENCY).and_then(|word| Consistency::from_name(&word.to_ascii_lowercase())),
        }
    }
}

impl Session {
    /// What it asks of Trunkline itself.
    pub fn wishes(&self) -> Wishes {
        self.wishes
    }

    /// Takes a position that has been set out of the settings: the session must have seen it from now on. Answers what is
    /// wrong with the settings of these names, for the client.
    pub fn take_wishes<'a>(&mut self, names: impl IntoIterator<Item = &'a str>, now: Instant) -> Vec<String> {
        let values = names.into_iter().filter(|name| name.starts_with(PREFIX)).filter_map(|name| {
            let value = self.settings.get(name)?.to_owned();
            Some((name, value))
        });
        let mut wrong = Vec::new();
        for (name, value) in values.collect::<Vec<_>>() {
            wrong.extend(match name {
                NOTICE_ROUTE => boolean(&value).is_none().then(|| expected(name, &value, "on or off")),
                CONSISTENCY => (self.wishes.consistency.is_none() && !value.is_empty())
                    .then(|| expected(name, &value, "eventual, session or strong")),
                POSITION => self.take_position(&value, now),
                _ => Some(format!("there is no setting {name}")),
            });
        }
        wrong
    }

    fn take_position(&mut self, value: &str, now: Instant) -> Option<String> {
        let name = Arc::from(POSITION);
        (self.settings, self.startup) = (self.settings.with(&name, None), self.startup.with(&name, None));
        if value.is_empty() {
            return None;
        }
        match value.parse::<Position>() {
            Ok(position) => {
                self.freshness.must_see(position, now);
                None
            }
            Err(_) => Some(expected(POSITION, value, "what SHOW of it has said, as in 1:0/16B3748")),
        }
    }

    /// What is asked of these settings by SHOW is on the server connection that answers it. The position, and what the
    /// session has not set, are taken off again by [`Session::hide_wishes`].
    pub fn show_wishes(&mut self, position: &str, configured: Consistency) {
        let values = [(POSITION, position), (CONSISTENCY, configured.word()), (NOTICE_ROUTE, "off")];
        for (name, value) in values {
            if self.settings.get(name).is_none() {
                let name = Arc::from(name);
                self.settings = self.settings.with(&name, Some(value.into()));
                self.shown_wishes.push(name);
            }
        }
    }

    /// SHOW has been answered.
    pub fn hide_wishes(&mut self) {
        for name in std::mem::take(&mut self.shown_wishes) {
            self.settings = self.settings.with(&name, None);
        }
    }

    /// Something stands in the settings only to be shown.
    #[inline]
    pub fn shows_wishes(&self) -> bool {
        !self.shown_wishes.is_empty()
    }
}

/// Of all of them.
const PREFIX: &str = "trunkline.";

fn expected(name: &str, value: &str, what: &str) -> String {
    format!("{name} has no effect: expected {what}, found {value:?}")
}

/// As PostgreSQL reads one.
fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}
