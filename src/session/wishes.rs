//! What a session asks of Trunkline itself, by settings named `trunkline.…`. They live on the server connection like any
//! other setting of a prefix that no library has: so rollbacks and RESET mean what they always mean. They count when they are
//! read back, behind the transaction: SET LOCAL has no effect. What SHOW of them is to answer is put there ahead of it.

use std::sync::Arc;
use std::time::Instant;

use super::{Known, Session, Settings};
use crate::routing::Consistency;
use crate::routing::freshness::Position;

/// On: a notice tells of each statement where it went and why.
pub const NOTICE_ROUTE: &str = "trunkline.notice_route";

/// What the session's reads must have seen: eventual, session or strong.
pub const CONSISTENCY: &str = "trunkline.consistency";

/// What the session's next read must have seen, to be carried to another session, also of another Trunkline.
pub const POSITION: &str = "trunkline.position";

/// There are no others.
const OWN: [&str; 3] = [NOTICE_ROUTE, CONSISTENCY, POSITION];

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

    /// The transaction has set this, of Trunkline's own, up to its end: its client is told behind that.
    #[cold]
    pub(super) fn is_wished_locally(&mut self, name: &Arc<str>) {
        self.touch(name);
        if OWN.contains(&&**name) && !self.wished_locally.contains(name) {
            self.wished_locally.push(Arc::clone(name));
        }
    }

    /// Takes a position that has been set out of the settings: the session must have seen it from now on. Answers what is
    /// wrong with the settings of these names, for the client.
    pub fn take_wishes<'a>(&mut self, names: impl IntoIterator<Item = &'a str>, now: Instant) -> Vec<String> {
        let local = std::mem::take(&mut self.wished_locally);
        let mut wrong: Vec<String> = local.iter().map(|name| without_effect(name)).collect();
        let values = names.into_iter().filter(|name| is_wish(name)).filter_map(|name| {
            let value = self.settings.get(name)?.to_owned();
            Some((name, value))
        });
        for (name, value) in values.collect::<Vec<_>>() {
            wrong.extend(match name {
                // RESET leaves it so, and the end of a transaction that has set it.
                NOTICE_ROUTE | CONSISTENCY | POSITION if value.is_empty() => {
                    self.settings = self.settings.with(&name.into(), None);
                    None
                }
                NOTICE_ROUTE => boolean(&value).is_none().then(|| expected(name, &value, "on or off")),
                CONSISTENCY => {
                    self.wishes.consistency.is_none().then(|| expected(name, &value, "eventual, session or strong"))
                }
                POSITION => self.take_position(&value, now),
                _ => Some(format!("there is no setting {name}")),
            });
        }
        wrong
    }

    fn take_position(&mut self, value: &str, now: Instant) -> Option<String> {
        let name = Arc::from(POSITION);
        (self.settings, self.startup) = (self.settings.with(&name, None), self.startup.with(&name, None));
        match value.parse::<Position>() {
            Ok(position) => {
                self.freshness.must_see(position, now);
                None
            }
            Err(_) => Some(expected(POSITION, value, "what SHOW of it has said, as in 1:0/16B3748")),
        }
    }

    /// What SHOW of these settings is to answer: the position, and what the session has not set.
    pub fn wishes_to_show(&self, position: &str, configured: Consistency) -> Settings {
        let values = [(POSITION, position), (CONSISTENCY, configured.word()), (NOTICE_ROUTE, "off")];
        let unset = values.into_iter().filter(|(name, _)| self.settings.get(name).is_none());
        Settings::new(unset.map(|(name, value)| (name.into(), value.into())))
    }

    /// These were put on the server connection that the session keeps, to be shown there. It is at them again behind a ROLLBACK:
    /// they are not the session's own.
    pub fn is_shown_there(&mut self, shown: Settings) {
        self.shown_there = shown;
    }

    /// There are some.
    pub fn has_shown_there(&self) -> bool {
        self.shown_there != Settings::default()
    }

    /// Those of them that the session has not set since; there are none any more.
    pub fn take_shown_there(&mut self) -> Settings {
        let shown = std::mem::take(&mut self.shown_there);
        let unset = shown.iter().filter(|(name, _)| self.settings.get(name).is_none());
        Settings::new(unset.map(|(name, value)| (Arc::clone(name), Arc::clone(value))))
    }

    /// That is among the settings with which the session gets a server connection. There, [`Session::hide_wishes`].
    pub fn show_wishes(&mut self, position: &str, configured: Consistency) {
        self.take_back_shown();
        for (name, value) in self.wishes_to_show(position, configured).iter() {
            self.settings = self.settings.with(name, Some(Arc::clone(value)));
            self.shown_wishes.push(Arc::clone(name));
        }
    }

    /// The server connection that answers SHOW has it.
    #[cold]
    pub fn hide_wishes(&mut self, known: &mut Known) {
        known.shows(&self.shown_wishes);
        self.take_back_shown();
    }

    fn take_back_shown(&mut self) {
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

impl Known {
    /// It has values of these that were put there to be shown. They are no session's own: as empty ones, which none has, they are
    /// set anew or taken off for whoever has it next.
    pub fn shows<'a>(&mut self, names: impl IntoIterator<Item = &'a Arc<str>>) {
        for name in names {
            self.settings = self.settings.with(name, Some("".into()));
        }
    }

    /// The session's settings there have been read anew: what stood there before and is none of them, does so still.
    pub fn still_shows(&mut self, before: &Settings) {
        let own = before.iter().map(|(name, _)| name).filter(|name| OWN.contains(&&***name));
        let own: Vec<_> = own.filter(|name| self.settings.get(name).is_none()).collect();
        self.shows(own);
    }
}

/// Their names begin with it.
const PREFIX: &str = "trunkline.";

/// It is a setting of Trunkline's own, or called like one.
pub(super) fn is_wish(name: &str) -> bool {
    name.starts_with(PREFIX)
}

fn without_effect(name: &str) -> String {
    format!("{name} has no effect by SET LOCAL: expected SET, which counts once its transaction has ended")
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::story::Story;

    #[test]
    fn what_is_set_locally_has_no_effect_and_is_told_once() {
        let mut story = Story::begin();
        for (sql, tag, status) in [
            ("BEGIN", "BEGIN\0", b"T"),
            ("SET LOCAL trunkline.consistency = strong", "SET\0", b"T"),
            ("SET LOCAL work_mem = '1MB'", "SET\0", b"T"),
            ("COMMIT", "COMMIT\0", b"I"),
        ] {
            story.send(b'Q', format!("{sql}\0").as_bytes());
            story.hear(b'C', tag.as_bytes());
            story.hear(b'Z', status);
        }
        let touched = story.session.take_touched();
        assert_eq!(touched, [CONSISTENCY.into()]);
        story.known.settings = story.session.settings_read(&touched, vec![Some("".into())]);
        let now = Instant::now();
        assert_eq!(story.session.take_wishes([CONSISTENCY], now), [without_effect(CONSISTENCY)]);
        assert_eq!(story.session.settings.get(CONSISTENCY), None);
        assert_eq!(story.session.take_wishes([CONSISTENCY], now), [""; 0]);
    }

    #[test]
    fn what_was_put_back_by_reset_or_rollback_is_asked_by_nobody() {
        let Story { mut session, .. } = Story::begin_with(&[(POSITION, "")]);
        assert!(session.take_wishes([POSITION], Instant::now()).is_empty());
        session.is_shown_there(session.wishes_to_show("1:0/2", Consistency::Session));
        let names = [CONSISTENCY.into(), POSITION.into(), NOTICE_ROUTE.into()];
        let values = ["session", "1:0/2", "on"].map(|value| Some(value.into()));
        session.settings_read(&names, values.into());
        assert_eq!(
            [CONSISTENCY, POSITION, NOTICE_ROUTE].map(|name| session.settings.get(name)),
            [None, None, Some("on")]
        );
    }

    #[test]
    fn what_is_put_on_a_server_connection_to_be_shown_is_nobodys() {
        let Story { mut session, mut known } = Story::begin_with(&[(CONSISTENCY, "strong")]);
        known.settings = session.settings.clone();
        let own = session.settings.clone();
        session.show_wishes("1:0/1", Consistency::Session);
        assert_eq!(session.settings.get(POSITION), Some("1:0/1"));
        session.show_wishes("1:0/2", Consistency::Session);
        assert_eq!(session.settings.get(POSITION), Some("1:0/2"), "not the one of before");
        session.hide_wishes(&mut known);
        assert_eq!(session.settings, own);
        let before = std::mem::replace(&mut known.settings, own.clone());
        known.still_shows(&before);
        let sql = own.sql_from(&known.settings).unwrap();
        assert_eq!(sql, r#"RESET "trunkline"."notice_route";RESET "trunkline"."position";"#, "and nothing of its own");
        let sql = session.wishes_to_show("1:0/2", Consistency::Session).sql_from(&known.settings).unwrap();
        assert!(sql.contains("'trunkline.position','1:0/2'"), "put there anew: {sql}");
    }
}
