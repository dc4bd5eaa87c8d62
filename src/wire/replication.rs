//! What a startup message asks for by its parameter `replication`.

use super::startup::Startup;

/// What kind of session a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// One of statements.
    #[default]
    None,
    /// One of replication commands, to no database.
    Physical,
    /// One of replication commands and statements, to a database.
    Logical,
}

/// The value of `replication` is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for parameter \"replication\": \"{0}\"")]
pub struct InvalidReplication(pub String);

/// What PostgreSQL says beside [`InvalidReplication`].
pub const VALID_VALUES: &str = "Valid values are: \"false\", 0, \"true\", 1, \"database\".";

impl Replication {
    /// What a value of the parameter asks for.
    pub fn read(value: &str) -> Result<Self, InvalidReplication> {
        match (value, read_bool(value)) {
            ("database", _) => Ok(Self::Logical),
            (_, Some(true)) => Ok(Self::Physical),
            (_, Some(false)) => Ok(Self::None),
            (_, None) => Err(InvalidReplication(value.to_owned())),
        }
    }

    /// What a startup message asks for.
    pub fn of(startup: &Startup) -> Result<Self, InvalidReplication> {
        startup.parameter("replication").map_or(Ok(Self::None), Self::read)
    }

    /// The console's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// A truth value as PostgreSQL reads one: in any case, and as short as it is still one of them.
fn read_bool(text: &str) -> Option<bool> {
    const WORDS: [(&str, usize, bool); 8] = [
        ("true", 1, true),
        ("false", 1, false),
        ("yes", 1, true),
        ("no", 1, false),
        ("on", 2, true),
        ("off", 2, false),
        ("1", 1, true),
        ("0", 1, false),
    ];
    let text = text.to_ascii_lowercase();
    let fits = |(word, shortest, _): &&(&str, usize, bool)| text.len() >= *shortest && word.starts_with(&*text);
    WORDS.iter().find(fits).map(|(_, _, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_database_or_a_truth_value() {
        for value in ["true", "TRUE", "t", "yes", "Y", "on", "1"] {
            assert_eq!(Replication::read(value), Ok(Replication::Physical), "{value}");
        }
        for value in ["false", "fa", "no", "n", "off", "OF", "0"] {
            assert_eq!(Replication::read(value), Ok(Replication::None), "{value}");
        }
        assert_eq!(Replication::read("database"), Ok(Replication::Logical));
        for value in ["", "o", "2", "truer", "Database", "10"] {
            assert_eq!(Replication::read(value), Err(InvalidReplication(value.to_owned())), "{value}");
        }
        assert_eq!(Replication::of(&Startup::default()), Ok(Replication::None));
    }
}
