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
        const PAGE: u64 = 8192;
        const HEADER: u64 = 24;
        // At a segment's start the header is longer, but how long a segment is we are not told: there, an idle system
        // looks stale until its next record, which is not wrong.
        if self.0 % PAGE == HEADER { Self(self.0 - HEADER) } else { self }
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
}
