//! Percent-encoding, as in the names and passwords of URLs.

/// What is encoded so. None: a `%` without two hexadecimal digits behind it, a zero byte, or what is no UTF-8.
pub fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|byte| is_hex && *byte != 0)?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_stand_for_a_byte_and_nothing_less_does() {
        assert_eq!(decoded("p%40s%3a%C3%9f+").as_deref(), Some("p@s:ß+"));
        for wrong in ["%", "100%", "%4", "%zz", "%+4", "%00", "%ff", "%ß"] {
            assert_eq!(decoded(wrong), None, "{wrong}");
        }
    }
}
