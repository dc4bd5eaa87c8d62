//! Durations and sizes as people write them, in PostgreSQL's units: `"100ms"`, `"16MB"`.

use std::time::Duration;

/// The units of a duration, smallest first, in microseconds.
const DURATIONS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// The units of a size, smallest first, in bytes. As in PostgreSQL a kB has 1024; KiB and its kin say the same.
const SIZES: [(&str, u64); 7] =
    [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// What units a duration may have, for messages.
pub const DURATION_UNITS: &str = "us, ms, s, min, h or d";

/// What units a size may have, for messages.
pub const SIZE_UNITS: &str = "B, kB, MB or GB";

/// A whole number and a unit, as in `10min`.
pub fn duration(text: &str) -> Option<Duration> {
    measure(text, &DURATIONS).map(Duration::from_micros)
}

/// A whole number and a unit, as in `16MB`.
pub fn size(text: &str) -> Option<usize> {
    measure(text, &SIZES).and_then(|bytes| usize::try_from(bytes).ok())
}

/// In the largest unit that needs no fraction.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), "s", &DURATIONS)
}

/// In the largest unit that needs no fraction.
pub fn show_size(bytes: usize) -> String {
    let units = SIZES.get(..4).unwrap_or_default();
    show(u64::try_from(bytes).unwrap_or(u64::MAX), "B", units)
}

fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(amount: u64, unit_of_zero: &str, units: &[(&str, u64)]) -> String {
    let largest = units.iter().rev().find(|(_, factor)| amount.is_multiple_of(*factor));
    match largest {
        Some((unit, factor)) if amount > 0 => format!("{}{unit}", amount / factor),
        _ => format!("0{unit_of_zero}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_with_its_unit() {
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration("10 min"), Some(Duration::from_secs(600)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        for wrong in ["", "5", "s", "1.5s", "-1s", "5 parsecs", "5S", "99999999999999999999s", "9999999999999999d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_size_counts_in_powers_of_1024() {
        assert_eq!(size("16MB"), Some(16 << 20));
        assert_eq!(size("16MiB"), size("16MB"));
        assert_eq!(size("512B"), Some(512));
        for wrong in ["16", "16mb", "16M", "MB", "99999999999GB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in ["250us", "100ms", "90s", "10min", "36h", "7d"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for text in ["1000B", "64kB", "1MB", "3GB"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }
}
