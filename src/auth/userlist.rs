//! A list of users and passwords in PgBouncer's format: `"user" "password"` on each line.

/// A user of a list.
#[derive(PartialEq, Eq)]
pub struct Listed {
    /// The line it stands on, counted from 1.
    pub line: usize,
    /// The name.
    pub name: String,
    /// A plain password, an MD5 hash or a SCRAM verifier. It may be empty: no password will do.
    pub password: zeroize::Zeroizing<String>,
}

/// Reads a list; or the lines that are none of it.
pub fn parse(text: &str) -> Result<Vec<Listed>, Vec<usize>> {
    let (mut users, mut wrong) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(';') || trimmed.starts_with('#') {
            continue;
        }
        match listed(trimmed) {
            Some((name, password)) => users.push(Listed { line: index + 1, name, password: password.into() }),
            None => wrong.push(index + 1),
        }
    }
    if wrong.is_empty() { Ok(users) } else { Err(wrong) }
}

/// What follows the password is ignored, as PgBouncer does.
fn listed(line: &str) -> Option<(String, String)> {
    let (name, rest) = quoted(line)?;
    let (password, _) = quoted(rest.trim_start())?;
    Some((name, password))
}

/// A text in double quotes, in which two of them stand for one; and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        value.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                value.push('"');
                rest = more;
            }
            None => return Some((value, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_passwords_stand_in_quotes() {
        let users = parse("; a comment\n\"ada\" \"pen\"\"cil\"\n\n\"o\"\"hara\" \"\" more\n").unwrap_or_default();
        let users: Vec<_> = users.iter().map(|user| (user.line, &*user.name, user.password.as_str())).collect();
        assert_eq!(users, [(2, "ada", "pen\"cil"), (4, "o\"hara", "")]);
    }

    #[test]
    fn lines_that_are_none_are_told() {
        assert_eq!(parse("ada pencil\n\"ada\"\n\"ada\" \"open\n\"ada\" \"x\"").err(), Some(vec![1, 2, 3]));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\"a\n ;]{0,40}", any in "\\PC*") {
            let _ = (parse(&text).is_ok(), parse(&any).is_ok());
        }
    }
}
