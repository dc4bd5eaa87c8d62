//! A query string for people: without its literals, which may be secrets.

use super::parse::normalized;
use super::shape::{self, Backslash};

/// Characters of a text that are shown: enough to know it by.
const LONGEST: usize = 1000;

/// The text with a mark for every literal; only its beginning if it is long.
pub fn redacted(text: &[u8]) -> String {
    let Ok(readable) = std::str::from_utf8(text) else { return "(not UTF-8)".to_owned() };
    let mut folded = Vec::new();
    let shown = match shape::fold(text, Backslash::Escapes, &mut folded) {
        // What stands for a literal is no byte of UTF-8: a chunk ends there.
        Some(_) => folded.utf8_chunks().fold(String::new(), |mut shown, chunk| {
            shown.push_str(chunk.valid());
            shown.push_str(if chunk.invalid().is_empty() { "" } else { "?" });
            shown
        }),
        None => normalized(readable).unwrap_or_else(|| "(not shown: what is a literal in it is not known)".to_owned()),
    };
    match shown.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", shown.get(..end).unwrap_or_default()),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_literal_is_shown() {
        assert_eq!(redacted(b"select 'se''cret', 42 from t /* x */"), "select ?, ? from t /* x */");
        let escaped = redacted(br"select E'se\'cret' from t where a = $$hidden$$");
        assert!(!escaped.contains("cret") && !escaped.contains("hidden"), "{escaped}");
        assert!(!redacted(br"selec E'secret").contains("secret"));
        assert_eq!(redacted(b"select '\xff'"), "(not UTF-8)");
    }
}
