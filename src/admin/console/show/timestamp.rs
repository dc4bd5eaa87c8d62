//! Moments as PgBouncer writes them, in UTC.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// As in `2024-02-29 12:00:00 UTC`.
pub(super) fn written(moment: SystemTime) -> String {
    let seconds = moment.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// The same for a moment of the other clock.
pub(super) fn written_instant(moment: Instant) -> String {
    let ago = moment.elapsed();
    written(SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH))
}

/// The date of a day after 1970, counted in eras of 400 years that begin in March: leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        let written_at = |seconds| written(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(written_at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(written_at(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(written_at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(written_at(1_735_689_599), "2024-12-31 23:59:59 UTC");
    }
}
