//! Passwords in the one form that both ends hash: SASLprep (RFC 4013) exactly as PostgreSQL does it.
//!
//! PostgreSQL forbids characters before it normalizes, not after, and takes the bytes as they are when a password is
//! forbidden or nothing would be left of it. `stringprep::saslprep` differs in both, so only its tables are used.

use stringprep::tables;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// The password as it is hashed: prepared, or as it stands where SASLprep forbids it.
pub fn prepared(password: &str) -> Zeroizing<String> {
    if password.is_ascii() {
        return Zeroizing::new(password.to_owned());
    }
    saslprep(password).unwrap_or_else(|| Zeroizing::new(password.to_owned()))
}

/// None when the password is forbidden.
fn saslprep(password: &str) -> Option<Zeroizing<String>> {
    // Never more bytes than the password has: it does not move as it grows, so no copy is left behind.
    let mut mapped = Zeroizing::new(String::with_capacity(password.len()));
    mapped.extend(password.chars().filter_map(map));
    if mapped.is_empty() || mapped.chars().any(is_prohibited) || is_mixed_direction(&mapped) {
        return None;
    }
    Some(Zeroizing::new(mapped.nfkc().collect()))
}

fn map(c: char) -> Option<char> {
    if tables::non_ascii_space_character(c) {
        return Some(' ');
    }
    (!tables::commonly_mapped_to_nothing(c)).then_some(c)
}

/// RFC 4013, 2.3 and 2.5: a stored string may not hold code points that Unicode 3.2 has not assigned.
fn is_prohibited(c: char) -> bool {
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

/// RFC 3454, 6: with any right-to-left character, the first and the last must be such, and none left-to-right.
fn is_mixed_direction(text: &str) -> bool {
    let is_rtl = |c: Option<char>| c.is_some_and(tables::bidi_r_or_al);
    text.contains(tables::bidi_r_or_al)
        && (text.contains(tables::bidi_l) || !is_rtl(text.chars().next()) || !is_rtl(text.chars().next_back()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_stays_as_it_is_even_with_control_characters() {
        assert_eq!(*prepared("pencil"), "pencil");
        assert_eq!(*prepared("tab\there"), "tab\there");
    }

    #[test]
    fn the_examples_of_rfc_4013_are_prepared() {
        assert_eq!(*prepared("I\u{AD}X"), "IX");
        assert_eq!(*prepared("\u{AA}"), "a");
        assert_eq!(*prepared("\u{2168}"), "IX");
    }

    #[test]
    fn a_forbidden_password_is_taken_as_it_stands() {
        for password in ["a\u{340}b", "\u{627}a\u{628}", "\u{370}\u{2168}", "\u{627}1", "\u{AD}"] {
            assert_eq!(*prepared(password), password);
        }
    }
}
