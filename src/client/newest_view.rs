//! A cluster's view as a worker sees it: held for all clients of the thread, so that looking at it is no more than that.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use crate::topology::View;

/// What was seen last, and where.
pub struct NewestView {
    source: Arc<ArcSwap<View>>,
    seen: Cache<Arc<ArcSwap<View>>, Arc<View>>,
}

impl NewestView {
    /// Looks there from now on.
    pub fn of(source: &Arc<ArcSwap<View>>) -> Self {
        Self { source: Arc::clone(source), seen: Cache::new(Arc::clone(source)) }
    }

    /// It looks there.
    pub fn is_of(&self, source: &Arc<ArcSwap<View>>) -> bool {
        Arc::ptr_eq(&self.source, source)
    }

    /// The view now.
    #[inline]
    pub fn look(&mut self) -> &View {
        self.seen.load()
    }
}
