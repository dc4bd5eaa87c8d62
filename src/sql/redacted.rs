//! A query string for people: without its literals, which may be secrets.

use super::shape::{self, Backslash};

/// Characters of a text that are shown: enough to know it by.
const LONGEST: usize = 1000;

/// Bytes of a text that are looked at: what is shown stands there, unless almost all of it is literals.
const MOST_READ: usize = 8 * 1024;

/// What stands for the rest of a text.
const AND_SO_ON: char = '…';

/// The text with a mark for every literal; only its beginning if it is long, or where something stands in it that might be a
/// literal and is not read here (`E''`, `$$`, a string with a backslash). It is read by the worker's own thread: so never by
/// PostgreSQL's scanner, which some texts keep busy for minutes, and which leaves some literals where they are.
pub fn redacted(text: &[u8]) -> String {
    shown(text, |front, folded| shape::fold_front(front, Backslash::Escapes, folded))
}

/// The beginning of a text that nobody has read, up to its first literal or anything else in quotes. Where a quote is missing,
/// literals and what stands between them have changed places.
pub fn redacted_unread(text: &[u8]) -> String {
    shown(text, |front, folded| {
        folded.extend_from_slice(shape::before_literals(front));
        folded.len() == front.len()
    })
}

/// What is left of the text by `fold`, which answers whether that is all of it.
fn shown(text: &[u8], fold: impl FnOnce(&[u8], &mut Vec<u8>) -> bool) -> String {
    let front = text.get(..MOST_READ).unwrap_or(text);
    let is_cut = front.len() < text.len();
    let front = match std::str::from_utf8(front) {
        Ok(front) => front.as_bytes(),
        // It is cut within a character.
        Err(error) if is_cut && error.error_len().is_none() => front.get(..error.valid_up_to()).unwrap_or_default(),
        Err(_) => return "(not UTF-8)".to_owned(),
    };
    let mut folded = Vec::new();
    let is_all = fold(front, &mut folded) && !is_cut;
    // What stands for a literal is no byte of UTF-8: a chunk ends there.
    let mut shown = folded.utf8_chunks().fold(String::new(), |mut shown, chunk| {
        shown.push_str(chunk.valid());
        shown.push_str(if chunk.invalid().is_empty() { "" } else { "?" });
        shown
    });
    let end = shown.char_indices().nth(LONGEST).map(|(end, _)| end);
    if let Some(end) = end {
        shown.truncate(end);
    }
    if end.is_some() || !is_all {
        shown.push(AND_SO_ON);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn no_literal_is_shown() {
        assert_eq!(redacted(b"select 'se''cret', 42 from t /* x */"), "select ?, ? from t /* x */");
        assert_eq!(redacted(b"select 1, E'se\\'cret' from t where a = $$hidden$$"), "select ?, …");
        assert_eq!(redacted(b"insert into t values (7, 'a\\', 'secret')"), "insert into t values (?, …");
        assert_eq!(redacted(b"select 'a' || $x$secret$x$"), "select ? || …");
        assert_eq!(redacted(b"selec E'secret"), "selec …");
        assert_eq!(redacted(b"select 1 /* 'secret'"), "select ? …");
        assert_eq!(redacted(b"select a.b, 0x5ec3e7"), "select a.b, …");
        assert_eq!(
            redacted(b"select x::FLOAT, 7::float(24) from floats where a = 'secret'"),
            "select x::FLOAT, ?::float(?) from floats where a = ?"
        );
        assert_eq!(redacted(b"select float'1.5', float 'secret'"), "select …");
        assert_eq!(redacted(b"select '\xff'"), "(not UTF-8)");
        assert_eq!(redacted(b""), "");
    }

    #[test]
    fn of_what_nobody_has_read_no_literal_is_shown_and_nothing_behind_it() {
        for (text, shown) in [
            ("update u set note = 'it's 100%', password = 'correct horse 7!'", "update u set note = …"),
            ("update \"u set note = 'secret', b = \"x\"", "update …"),
            ("selec 1 from t1", "selec …"),
            (
                "selec a.b, a.float, c -- it's so\n from t1 where x = .5",
                "selec a.b, a.float, c -- it's so\n from t1 where x = …",
            ),
            ("selec E'secret'", "selec …"),
            ("selec $x$secret$x$", "selec …"),
            ("selec a \\ 'secret'", "selec a …"),
            ("selec /* 'secret'", "selec …"),
            ("selec x from y", "selec x from y"),
            ("", ""),
        ] {
            assert_eq!(redacted_unread(text.as_bytes()), shown);
        }
        assert!(redacted_unread("x ".repeat(10_000).as_bytes()).ends_with(AND_SO_ON));
    }

    #[test]
    fn literals_that_the_grammar_takes_for_names_of_files_and_the_like_are_not_shown() {
        for text in [
            "comment on table t is E'secret'",
            "copy t from program E'secret'",
            "load E'secret'",
            "prepare transaction E'secret'",
            "security label on table t is $$secret$$",
        ] {
            assert!(!redacted(text.as_bytes()).contains("secret"), "{text}");
        }
    }

    #[test]
    fn of_a_long_text_the_beginning_is_shown_wherever_it_is_cut() {
        let shown = redacted(format!("select {}", "a, ".repeat(10_000)).as_bytes());
        assert_eq!(shown.chars().count(), LONGEST + 1);
        assert!(shown.ends_with(AND_SO_ON), "{shown}");
        let list = format!("'{}crét',123.5,", "é".repeat(20));
        for padding in 0..list.len() {
            let shown = redacted(format!("{}{}", " ".repeat(padding), list.repeat(1000)).as_bytes());
            assert!(shown.contains("?,?,") && shown.ends_with(AND_SO_ON), "{padding}: {shown}");
            assert!(!shown.contains("cr") && !shown.contains('5'), "{padding}: {shown}");
        }
    }

    #[test]
    fn no_text_takes_long() {
        let begun = Instant::now();
        for text in ["/*".repeat(100_000), format!("{}\\'", "select '".repeat(1_000_000)), "x".repeat(60_000_000)] {
            assert!(redacted(text.as_bytes()).ends_with(AND_SO_ON));
        }
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
