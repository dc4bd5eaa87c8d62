//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A position in the write-ahead log, in bytes since its beginning; printed as PostgreSQL does (`0/16B3748`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// A number of a history of the cluster; every promotion begins a higher one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline(pub u32);

impl Lsn {
    /// The end of the last record before this insert position.
    ///
    /// At the beginning of a page the insert position already counts the next page's header, which replay reports only
    /// with the next record: on an idle system a replica would look stale for seconds.
    pub fn without_page_header(self) -> Self {
        const HEADER: u64 = 24;
        if self.0 % PAGE == HEADER { Self(self.0 - HEADER) } else { self }
    }

    /// The same, where the name of the log's file is known that was written to then, or just before: at the beginning of a
    /// file the header is longer, and after a switch of files a system may stay idle there for long.
    pub fn without_header(self, file: &str) -> Self {
        const LONG_HEADER: u64 = 40;
        match self.0.checked_sub(LONG_HEADER).map(Self) {
            Some(start) if start.begins_file(file) => start,
            _ => self.without_page_header(),
        }
    }

    /// It is where a file begins, of which this one is the same or an earlier: files are as long as some power of two
    /// between 1 MB and 1 GB, and stand in the name with the timeline, the position divided by 4 GB, and their number in
    /// that. So the length follows from the name; a shorter one than the true one would need a later file's.
    fn begins_file(self, file: &str) -> bool {
        let hexadecimal = |digits: Option<&str>| digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let (log, number) = (hexadecimal(file.get(8..16)), hexadecimal(file.get(16..24)));
        let (high, low) = (self.0 >> 32, self.0 & 0xFFFF_FFFF);
        match number {
            Some(0) => low == 0 && log == Some(high),
            Some(number) if low % number == 0 && log == Some(high) => {
                let length = low / number;
                length.is_power_of_two() && (1 << 20..=1 << 30).contains(&length)
            }
            _ => false,
        }
    }

    /// It is where a page begins: a record may go on behind it.
    pub fn begins_page(self) -> bool {
        self.0.is_multiple_of(PAGE)
    }

    /// Bytes from `earlier` to here; zero when `earlier` is ahead.
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Bytes of a page of the log.
const PAGE: u64 = 8192;

/// The text is not a log position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a log position: expected two hexadecimal numbers as in 0/16B3748")]
pub struct LsnError;

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Self, LsnError> {
        let (high, low) = text.split_once('/').ok_or(LsnError)?;
        let half = |digits| u32::from_str_radix(digits, 16).map_err(|_| LsnError);
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_as_it_prints() {
        for text in ["0/0", "0/16B3748", "A/FF000000"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        assert_eq!("16B3748".parse::<Lsn>(), Err(LsnError));
        assert_eq!("0/".parse::<Lsn>(), Err(LsnError));
    }

    #[test]
    fn the_header_of_an_empty_page_is_not_counted() {
        assert_eq!(Lsn(0x57D_4018).without_page_header(), Lsn(0x57D_4000));
        assert_eq!(Lsn(0x500_0028).without_page_header(), Lsn(0x500_0028), "a record may end there");
        assert_eq!(Lsn(0x57D_4028).without_page_header(), Lsn(0x57D_4028));
        assert_eq!(Lsn(0x57D_5FF8).without_page_header(), Lsn(0x57D_5FF8));
    }

    #[test]
    fn nor_is_the_longer_one_of_an_empty_file() {
        let file = |log: u64, number: u64| format!("00000001{log:08X}{number:08X}");
        for length in [1_u64 << 20, 16 << 20, 1 << 30] {
            for number in (0..(1 << 32) / length).filter(|number| *number < 300) {
                let start = (7 << 32) | (number * length);
                let position = |offset| Lsn(start + offset).without_header(&file(7, number)).0 - start;
                assert_eq!([40, 24, 8192 + 24, 48, 8192 + 40].map(position), [0, 0, 8192, 48, 8192 + 40]);
                // A position in the middle of a file, as far behind a page's beginning: a record may end there.
                let inside = Lsn(start + length / 2 + 40);
                assert_eq!(inside.without_header(&file(7, number)), inside);
                // The log has gone on since the name was asked for.
                if number > 0 {
                    assert_eq!(inside.without_header(&file(7, number - 1)), inside);
                    assert!(Lsn(start + 40).without_header(&file(7, number - 1)).0 >= start);
                }
            }
        }
        assert_eq!(Lsn(40).without_header("nonsense"), Lsn(40));
    }
}
