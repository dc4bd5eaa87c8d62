//! temp_buffers: once temporary tables have been used on a server connection, its node takes no other value there for as long as
//! it lives, whoever has used them.

use super::known::Known;
use super::{Session, Settings};
use crate::sql::{Leftovers, SessionChange, Statement};

const TEMP_BUFFERS: &str = "temp_buffers";

impl Session {
    /// It has to be of another size on this server connection than the node takes there, or may have to be by what has been
    /// gathered.
    pub(super) fn needs_other_buffers(&self, known: &Known) -> bool {
        known.refuses(&self.settings) || self.meets_used_buffers(known)
    }

    fn meets_used_buffers(&self, known: &Known) -> bool {
        self.gathered.sets_temp_buffers && known.has_used_temporary
    }
}

impl Known {
    /// The node would not take these settings on it. RESET is always taken.
    pub fn refuses(&self, settings: &Settings) -> bool {
        let wanted = settings.get(TEMP_BUFFERS);
        self.has_used_temporary && wanted.is_some() && wanted != self.settings.get(TEMP_BUFFERS)
    }
}

/// The statement sets it, if only until its transaction ends.
pub(super) fn are_set_by(statement: &Statement) -> bool {
    let changes = statement.parts.iter().flat_map(|part| &part.session);
    changes.filter_map(SessionChange::sets).any(|name| **name == *TEMP_BUFFERS)
}

/// Code that leaves this sets it.
pub(super) fn are_set_with(left: &Leftovers) -> bool {
    left.settings.iter().any(|name| **name == *TEMP_BUFFERS)
}

#[cfg(test)]
mod tests {
    use crate::session::Settings;
    use crate::session::story::Story;
    use crate::sql::Pin;

    fn has_used(texts: &[&str]) -> bool {
        let mut story = Story::begin();
        for text in texts {
            story.send(b'Q', format!("{text}\0").as_bytes());
            match text.contains('/') {
                true => story.hear(b'E', b"SERROR\0C22012\0Mdivision by zero\0\0"),
                false => story.hear(b'C', b"?\0"),
            };
            story.hear(b'Z', b"I");
        }
        story.known.is_discarded();
        story.known.has_used_temporary
    }

    #[test]
    fn a_server_connection_on_which_temporary_tables_have_been_used_is_known_as_such() {
        for text in ["create temp table t (a int)", "create temp table t as select 1 / 0"] {
            assert!(has_used(&[text]), "{text}");
        }
        // Closed for a doubt, all of a pool's would be: behind code that nobody knows, a look tells.
        for text in [
            "insert into t values (1)",
            "set temp_buffers to 200",
            "select unknown_function()",
            "do $$ begin create temp table t (a int); end $$",
        ] {
            assert!(!has_used(&[text]), "{text}");
        }
    }

    #[test]
    fn what_code_has_used_is_seen_where_the_session_is_looked_into() {
        let mut story = Story::begin();
        story.session.looked(&[vec![Some("listen".into()), None]], &mut story.known);
        assert!(!story.known.has_used_temporary);
        story.session.looked(&[vec![Some("temporary".into()), None]], &mut story.known);
        assert!(story.known.has_used_temporary && story.session.pin() != Some(Pin::Temporary), "none is left");
        story.session.looked(&[vec![Some("temporary".into()), Some("there".into())]], &mut story.known);
        assert_eq!(story.session.pin(), Some(Pin::Temporary));
    }

    #[test]
    fn what_sets_temp_buffers_needs_a_server_connection_without_temporary_tables() {
        for (text, sets) in [
            ("set temp_buffers to 200", true),
            ("begin; set local Temp_Buffers to 200; commit", true),
            ("select set_config('temp_buffers', '200', false)", true),
            ("do $$ begin set temp_buffers to 200; end $$", true),
            ("reset temp_buffers", false),
            ("select 1", false),
        ] {
            let mut story = Story::begin();
            story.survey(b'Q', format!("{text}\0").as_bytes());
            assert!(!story.session.cannot_use(&story.known));
            story.known.has_used_temporary = true;
            assert_eq!(story.session.cannot_use(&story.known), sets, "{text}");
        }
    }

    #[test]
    fn a_session_that_has_set_temp_buffers_needs_a_server_connection_that_has_the_same_or_no_temporary_tables() {
        let of = |value: &str| Settings::new([("temp_buffers".into(), value.into())]);
        let mut story = Story::begin_with(&[("temp_buffers", "16MB")]);
        assert!(!story.session.cannot_use(&story.known));
        story.known.has_used_temporary = true;
        assert!(story.session.cannot_use(&story.known));
        story.known.settings = of("8MB");
        assert!(story.session.cannot_use(&story.known));
        story.known.settings = of("16MB");
        assert!(!story.session.cannot_use(&story.known));
        assert!(!story.known.refuses(&Settings::default()));
    }
}
