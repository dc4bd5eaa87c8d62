//! Promises broken on purpose: a build with the feature `broken` can be told to, so that the tests of long runs show what they
//! would catch.

use std::sync::atomic::{AtomicBool, Ordering};

static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// From now on this process breaks them, if its build can.
pub fn begin() {
    IS_TOLD.store(true, Ordering::Relaxed);
}

/// Every statement is taken for a read when its node is lost, and every replica for fresh.
#[must_use]
pub fn has_begun() -> bool {
    cfg!(feature = "broken") && IS_TOLD.load(Ordering::Relaxed)
}
