//! When a certificate ends: the moment as it stands there, in UTC.

use std::fmt;
use std::ops::RangeInclusive;

/// The last second of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotAfter {
    year: u16,
    month: u16,
    day: u16,
    hour: u16,
    minute: u16,
    second: u16,
}

impl NotAfter {
    /// What an element of this tag says: a UTCTime or a GeneralizedTime, as RFC 5280 wants them.
    pub fn read(tag: u8, content: &[u8]) -> Option<Self> {
        let digits = content.strip_suffix(b"Z")?;
        let (year, rest) = match (tag, digits.len()) {
            (UTC_TIME, 12) => {
                let (year, rest) = digits.split_at_checked(2)?;
                let year = number(year)?;
                (year + if year < 50 { 2000 } else { 1900 }, rest)
            }
            (GENERALIZED_TIME, 14) => {
                let (year, rest) = digits.split_at_checked(4)?;
                (number(year)?, rest)
            }
            _ => return None,
        };
        let mut pairs = rest.chunks(2).map(number);
        let mut next = |bounds: RangeInclusive<u16>| pairs.next().flatten().filter(|value| bounds.contains(value));
        Some(Self {
            year,
            month: next(1..=12)?,
            day: next(1..=31)?,
            hour: next(0..=23)?,
            minute: next(0..=59)?,
            second: next(0..=60)?,
        })
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        let of = |part: u16| i64::from(part);
        // Years begin in March: leap days come last.
        let (year, month) = (of(self.year) - i64::from(self.month <= 2), (of(self.month) + 9) % 12);
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + of(self.day) - 719_469;
        ((days * 24 + of(self.hour)) * 60 + of(self.minute)) * 60 + of(self.second)
    }
}

/// As in `2024-02-29 12:00:00 UTC`.
impl fmt::Display for NotAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    digits
        .iter()
        .try_fold(0, |number: u16, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))
}

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_moments_since_1970() {
        let read = |tag, text: &str| NotAfter::read(tag, text.as_bytes()).map(|end| (end.to_string(), end.seconds()));
        for (tag, text, written, seconds) in [
            (UTC_TIME, "700101000000Z", "1970-01-01 00:00:00 UTC", 0),
            (UTC_TIME, "491231235959Z", "2049-12-31 23:59:59 UTC", 2_524_607_999),
            (UTC_TIME, "500101000000Z", "1950-01-01 00:00:00 UTC", -631_152_000),
            (GENERALIZED_TIME, "20000228235959Z", "2000-02-28 23:59:59 UTC", 951_782_399),
            (GENERALIZED_TIME, "20000229000000Z", "2000-02-29 00:00:00 UTC", 951_782_400),
            (GENERALIZED_TIME, "99991231235959Z", "9999-12-31 23:59:59 UTC", 253_402_300_799),
        ] {
            assert_eq!(read(tag, text), Some((written.to_owned(), seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for (tag, text) in [
            (UTC_TIME, ""),
            (UTC_TIME, "Z"),
            (UTC_TIME, "20000229000000Z"),
            (UTC_TIME, "700101000000"),
            (UTC_TIME, "701301000000Z"),
            (UTC_TIME, "700100000000Z"),
            (UTC_TIME, "7001010000é"),
            (UTC_TIME, "70-101000000Z"),
            (GENERALIZED_TIME, "700101000000Z"),
            (GENERALIZED_TIME, "200002290000+1Z"),
            (0x16, "700101000000Z"),
        ] {
            assert_eq!(NotAfter::read(tag, text.as_bytes()), None, "{text}");
        }
    }
}
