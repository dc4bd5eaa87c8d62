//! Whether the configuration could be read anew when that was asked for last, and when it could.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The last reload. The start of the program counts as one.
#[derive(Debug)]
pub(super) struct LastReload {
    is_successful: AtomicBool,
    /// When one succeeded last, in seconds since 1970.
    succeeded: AtomicU64,
}

impl LastReload {
    /// One that has succeeded now.
    pub(super) fn successful(now: SystemTime) -> Self {
        Self { is_successful: true.into(), succeeded: seconds(now).into() }
    }

    /// Another one has come to its end.
    pub(super) fn ended(&self, is_successful: bool, now: SystemTime) {
        if is_successful {
            self.succeeded.store(seconds(now), Ordering::Relaxed);
        }
        self.is_successful.store(is_successful, Ordering::Relaxed);
    }

    pub(super) fn is_successful(&self) -> bool {
        self.is_successful.load(Ordering::Relaxed)
    }

    pub(super) fn succeeded(&self) -> u64 {
        self.succeeded.load(Ordering::Relaxed)
    }
}

fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_that_fails_leaves_the_moment_of_the_last_that_did_not() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let last = LastReload::successful(at(1));
        assert_eq!((last.is_successful(), last.succeeded()), (true, 1));
        last.ended(false, at(2));
        assert_eq!((last.is_successful(), last.succeeded()), (false, 1));
        last.ended(true, at(3));
        assert_eq!((last.is_successful(), last.succeeded()), (true, 3));
    }
}
