//! Durations counted in fixed buckets from 50 µs to 10 s, without floats and without a search.

use std::time::Duration;

use super::tally::Tally;

/// Durations in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last one takes what is over the last bound.
    buckets: [Tally; BUCKETS],
    nanoseconds: Tally,
}

impl Histogram {
    /// Count one duration.
    #[inline]
    pub fn record(&self, duration: Duration) {
        let nanoseconds = nanoseconds_of(duration);
        if let Some(bucket) = self.buckets.get(bucket_of(nanoseconds)) {
            bucket.add(1);
        }
        self.nanoseconds.add(nanoseconds);
    }

    /// Count one duration of nothing: less work than for any other.
    #[inline]
    pub fn record_none(&self) {
        if let Some(first) = self.buckets.first() {
            first.add(1);
        }
    }

    /// Count so many durations that nobody can tell apart, by what they come to together: each is an equal share of it.
    pub fn record_shared(&self, together: Duration, count: u32) {
        let nanoseconds = nanoseconds_of(together);
        let Some(share) = nanoseconds.checked_div(count.into()) else { return };
        if let Some(bucket) = self.buckets.get(bucket_of(share)) {
            bucket.add(count.into());
        }
        self.nanoseconds.add(nanoseconds);
    }
}

#[inline]
fn nanoseconds_of(duration: Duration) -> u64 {
    let whole = duration.as_secs().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::from(duration.subsec_nanos()))
}

/// The sum of several histograms, as a scrape shows it.
#[derive(Debug, Default)]
pub(super) struct HistogramSum {
    buckets: [u64; BUCKETS],
    nanoseconds: u64,
}

impl HistogramSum {
    pub(super) fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Self {
        let mut sum = Self::default();
        for histogram in histograms {
            for (total, bucket) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *total += bucket.get();
            }
            sum.nanoseconds = sum.nanoseconds.wrapping_add(histogram.nanoseconds.get());
        }
        sum
    }

    /// How many durations there were: by construction the count of the bucket without a bound.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn seconds(&self) -> f64 {
        self.nanoseconds as f64 / 1e9
    }

    /// Upper bound in seconds, and how many durations were not above it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let counts = self.buckets.iter().scan(0, |below, count| {
            *below += count;
            Some(*below)
        });
        BOUNDS.iter().map(|&bound| bound as f64 / 1e9).zip(counts)
    }
}

/// Upper bounds in nanoseconds. A read from memory takes some 100 µs through a proxy, and a client that has waited for
/// 10 s has given up: 1-2.5-5 steps between them keep a quantile's error under what a person would act upon.
const BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const BUCKETS: usize = BOUNDS.len() + 1;

/// The bucket of a duration: one look into [`FIRST`] by its binary logarithm, one comparison.
#[inline]
fn bucket_of(nanoseconds: u64) -> usize {
    let bits = (u64::BITS - nanoseconds.leading_zeros()) as usize;
    let first = FIRST.get(bits).copied().unwrap_or(BOUNDS.len());
    let is_above = BOUNDS.get(first).is_some_and(|&bound| nanoseconds > bound);
    first + usize::from(is_above)
}

/// For each bit length the lowest bucket that a number of that length can fall into. Bounds are at least a factor of
/// two apart, so only one bound lies among the numbers of one length.
const FIRST: [usize; 65] = {
    let mut table = [0; 65];
    let mut bits = 1;
    while bits <= 64 {
        let smallest = 1_u64 << (bits - 1);
        let mut first = 0;
        #[expect(clippy::indexing_slicing, reason = "computed when compiling")]
        while first < BOUNDS.len() && BOUNDS[first] < smallest {
            first += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "computed when compiling")]
        {
            table[bits] = first;
        }
        bits += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() {
        let mut probes = vec![0, 1, u64::MAX];
        for bit in 0..64 {
            probes.extend([(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        }
        for bound in BOUNDS {
            probes.extend([bound - 1, bound, bound + 1]);
        }
        for nanoseconds in probes {
            let expected = BOUNDS.partition_point(|&bound| bound < nanoseconds);
            assert_eq!(bucket_of(nanoseconds), expected, "{nanoseconds} ns");
        }
    }

    #[test]
    fn sums_of_histograms_keep_count_time_and_order() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_micros(50));
        one.record(Duration::from_secs(3600));
        other.record(Duration::from_millis(3));
        let sum = HistogramSum::of([&one, &other]);
        assert_eq!(sum.count(), 3);
        assert!((sum.seconds() - 3600.00305).abs() < 1e-9);
        let counts: Vec<u64> = sum.cumulative().map(|(_, count)| count).collect();
        assert!(counts.is_sorted());
        assert_eq!((counts.first(), counts.last()), (Some(&1), Some(&2)));
    }

    #[test]
    fn a_duration_of_nothing_counts_as_one() {
        let (one, other) = (Histogram::default(), Histogram::default());
        one.record_none();
        other.record(Duration::ZERO);
        let [one, other] = [&one, &other].map(|histogram| HistogramSum::of([histogram]));
        assert_eq!((one.buckets, one.nanoseconds), (other.buckets, other.nanoseconds));
    }

    #[test]
    fn what_nobody_can_tell_apart_shares_its_time_and_nothing_has_none() {
        let histogram = Histogram::default();
        histogram.record_shared(Duration::from_millis(8), 4);
        histogram.record_shared(Duration::from_secs(1), 0);
        let sum = HistogramSum::of([&histogram]);
        assert_eq!(sum.count(), 4);
        assert!((sum.seconds() - 0.008).abs() < 1e-9);
        let not_above = |bound| sum.cumulative().find(|(seconds, _)| *seconds == bound).unwrap().1;
        assert_eq!((not_above(0.001), not_above(0.0025)), (0, 4));
    }

    #[test]
    fn a_duration_beyond_all_reason_is_counted() {
        let histogram = Histogram::default();
        histogram.record(Duration::MAX);
        assert_eq!(HistogramSum::of([&histogram]).count(), 1);
    }
}
