//! What a statement leaves behind in its session, and what that does to settings. What their names tell is in `settings.rs`.

use std::sync::Arc;

use super::settings::is_identity;
use super::statement::{NeedsPrimary, Pin, Statement};

/// What a statement leaves behind in its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionChange {
    /// SET, RESET or set_config of one setting.
    Setting {
        /// Its name, in lower case.
        name: Arc<str>,
        /// What it is then.
        to: SetTo,
        /// How long it stays so.
        scope: Scope,
    },
    /// RESET ALL: every setting but those that say who the session is.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD PLANS or TEMP.
    DiscardSome,
    /// DISCARD SEQUENCES.
    DiscardSequences,
    /// PREPARE of this name.
    Prepare {
        /// The name.
        name: Arc<str>,
        /// What EXECUTE of it will be: the effects of the statement inside.
        needs_primary: Option<NeedsPrimary>,
        /// The PREPARE statement itself, to be run again where it is needed.
        text: Arc<str>,
        /// What it names, to be looked up whenever it is executed.
        statement: Arc<Statement>,
    },
    /// EXECUTE of this name, also inside EXPLAIN or CREATE TABLE AS.
    Execute(Arc<str>),
    /// DEALLOCATE of this name.
    Deallocate(Arc<str>),
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// SHOW or current_setting of a setting of Trunkline's own (`trunkline.…`), which leaves nothing.
    Ask,
    /// The session depends on its server connection from here on.
    Pin(Pin),
}

/// What a setting is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTo {
    /// A value. Which one, the server is asked afterwards.
    Value,
    /// What the session began with: RESET, or SET … TO DEFAULT.
    Default,
}

/// How long a changed setting stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Until it is changed again.
    Session,
    /// Until the transaction ends: SET LOCAL, or set_config(…, true).
    Transaction,
}

/// What it does to settings.
impl SessionChange {
    /// It may change some.
    pub fn is_of_settings(&self) -> bool {
        matches!(self, Self::Setting { .. } | Self::ResetAll | Self::DiscardAll)
    }

    /// This setting may be another one behind it.
    pub fn changes_setting(&self, name: &str) -> bool {
        match self {
            // With the session authorization, PostgreSQL puts back the role.
            Self::Setting { name: changed, .. } => {
                **changed == *name || **changed == *"session_authorization" && is_identity(name)
            }
            Self::ResetAll => !is_identity(name),
            Self::DiscardAll => true,
            _ => false,
        }
    }

    /// The setting that it gives a value; what it puts back is none.
    pub fn sets(&self) -> Option<&Arc<str>> {
        match self {
            Self::Setting { name, to: SetTo::Value, .. } => Some(name),
            _ => None,
        }
    }

    /// It puts back settings to what the session began with.
    pub fn puts_back(&self) -> bool {
        matches!(self, Self::Setting { to: SetTo::Default, .. } | Self::ResetAll | Self::DiscardAll)
    }

    /// It is gone with the transaction.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Setting { scope: Scope::Transaction, .. })
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::{ParseSettings, classify};

    #[test]
    fn what_is_asked_of_a_change_of_settings_is_told_of_each_way_to_change_them() {
        // Beside it: what it sets, whether it puts something back and is local, and which of these three it changes.
        const NAMES: [&str; 3] = ["role", "search_path", "session_authorization"];
        for (text, sets, puts_back, is_local, changes) in [
            ("set search_path = a", Some("search_path"), false, false, [false, true, false]),
            ("set local Search_Path = a", Some("search_path"), false, true, [false, true, false]),
            ("select set_config('role', 'a', false)", Some("role"), false, false, [true, false, false]),
            ("select set_config('role', 'a', true)", Some("role"), false, true, [true, false, false]),
            ("set session authorization a", Some("session_authorization"), false, false, [true, false, true]),
            ("reset session authorization", None, true, false, [true, false, true]),
            ("reset role", None, true, false, [true, false, false]),
            ("set search_path to default", None, true, false, [false, true, false]),
            ("set local search_path to default", None, true, true, [false, true, false]),
            ("reset all", None, true, false, [false, true, false]),
            ("discard all", None, true, false, [true; 3]),
        ] {
            let statement = classify(text, &ParseSettings::default());
            let [change] = &*statement.only().unwrap().session else { panic!("{text}") };
            assert!(change.is_of_settings(), "{text}");
            assert_eq!(change.sets().map(|name| &**name), sets, "{text}");
            assert_eq!((change.puts_back(), change.is_local()), (puts_back, is_local), "{text}");
            assert_eq!(NAMES.map(|name| change.changes_setting(name)), changes, "{text}");
        }
    }

    #[test]
    fn what_leaves_something_else_changes_no_setting() {
        for text in ["listen a", "discard temp", "prepare a as select 1", "execute a", "show trunkline.position"] {
            let statement = classify(text, &ParseSettings::default());
            let [change] = &*statement.only().unwrap().session else { panic!("{text}") };
            assert!(!change.is_of_settings() && !change.puts_back() && !change.is_local(), "{text}");
            assert!(change.sets().is_none() && !change.changes_setting("search_path"), "{text}");
        }
    }
}
