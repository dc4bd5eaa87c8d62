//! The picture in force, and whether it may be out of date.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwapOption, Guard};
use parking_lot::Mutex;

use super::Picture;

/// What is known of one database's catalogs now; shared by all who route and whoever loads.
///
/// A change that passes through counts up when it is acknowledged. A picture says up to which change it was loaded, and
/// is believed only while that is the last one: so from the very next statement on, whoever sends it, nothing that was
/// changed is believed any more until a picture has been loaded that shows it.
#[derive(Debug, Default)]
pub struct Current {
    picture: ArcSwapOption<Picture>,
    /// Changes acknowledged so far.
    changes: AtomicU64,
    /// What may have changed that sessions begin with, and that is not in these catalogs.
    changes_elsewhere: AtomicU64,
    /// Signs that a change came another way.
    suspicions: AtomicU64,
    /// Runs of what may have changed something, and mostly has not.
    doubts: AtomicU64,
    /// It was read while there was a primary.
    is_of_primary: AtomicBool,
    /// Loading has been tried: what is known now is all there is for the moment.
    was_tried: AtomicBool,
    /// The nodes had no such database when they were asked last.
    is_missing: AtomicBool,
    upkeep: Mutex<Upkeep>,
}

/// What keeping a picture has come to so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upkeep {
    /// Pictures loaded.
    pub loads: u64,
    /// Looks that found nothing changed.
    pub confirmations: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// How long the last load took.
    pub load_time: Duration,
    /// How long the last look took, whether it has loaded anything or not.
    pub look_time: Duration,
    /// When the picture was last found to be true.
    pub checked: Option<Instant>,
}

/// The picture as it is now.
pub struct Known {
    picture: Guard<Option<Arc<Picture>>>,
    is_current: bool,
}

impl Current {
    /// A change of the catalogs has been acknowledged: call this before whoever asked for it is told.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What is being read, up to the change of this number, is not what was known before. Answers the number of that change:
    /// where another one was acknowledged meanwhile, what is read does not show it.
    pub fn changed_behind(&self, changes: u64) -> u64 {
        self.changed();
        changes + 1
    }

    /// What sessions begin with may have been changed, in another database or in the server's configuration.
    pub fn changed_elsewhere(&self) {
        self.changes_elsewhere.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that may have been.
    pub fn changes_elsewhere(&self) -> u64 {
        self.changes_elsewhere.load(Ordering::Acquire)
    }

    /// A node's answer does not fit the picture.
    pub fn suspected(&self) {
        self.suspicions.fetch_add(1, Ordering::AcqRel);
    }

    /// What has run may have changed something.
    pub fn doubted(&self) {
        self.doubts.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was so.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// What is known was read while there was a primary.
    pub fn has_met_primary(&self) {
        self.is_of_primary.store(true, Ordering::Release);
    }

    /// Whether it was.
    pub fn is_of_primary(&self) -> bool {
        self.is_of_primary.load(Ordering::Acquire)
    }

    /// Changes acknowledged so far: what is read from a node that has all of them is of this age.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Signs of changes so far.
    pub fn suspicions(&self) -> u64 {
        self.suspicions.load(Ordering::Acquire)
    }

    /// A new picture, or the same one confirmed; its [`Picture::changes`] says how much it shows.
    pub fn publish(&self, picture: Arc<Picture>) {
        self.picture.store(Some(picture));
    }

    /// What keeping it has come to.
    pub fn upkeep(&self) -> Upkeep {
        *self.upkeep.lock()
    }

    /// Counts what has been done to keep it.
    pub fn count(&self, add: impl FnOnce(&mut Upkeep)) {
        add(&mut self.upkeep.lock());
    }

    /// Loading has been tried, and may have failed.
    pub fn tried(&self) {
        self.was_tried.store(true, Ordering::Release);
    }

    /// Whether loading has been tried.
    pub fn was_tried(&self) -> bool {
        self.was_tried.load(Ordering::Acquire)
    }

    /// Whether the nodes have such a database, as whoever asked for it last was told.
    pub fn exists(&self, exists: bool) {
        self.is_missing.store(!exists, Ordering::Release);
    }

    /// The nodes had no such database when they were asked last.
    pub fn is_missing(&self) -> bool {
        self.is_missing.load(Ordering::Acquire)
    }

    /// Nothing is known any more.
    pub fn forget(&self) {
        self.picture.store(None);
    }

    /// What is known now.
    pub fn look(&self) -> Known {
        let picture = self.picture.load();
        let is_current = picture.as_ref().is_some_and(|picture| picture.changes() == self.changes());
        Known { picture, is_current }
    }
}

impl Known {
    /// The picture, while it can be believed.
    pub fn picture(&self) -> Option<&Arc<Picture>> {
        self.picture.as_ref().filter(|_| self.is_current)
    }

    /// The picture, even if it may be out of date.
    pub fn last(&self) -> Option<&Arc<Picture>> {
        self.picture.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{FunctionLists, Inventory};

    fn picture(changes: u64) -> Arc<Picture> {
        Arc::new(Picture::draw(Inventory::default(), &FunctionLists::default(), 1, changes, 0))
    }

    #[test]
    fn a_picture_is_believed_only_until_the_next_change() {
        let current = Current::default();
        assert!(current.look().picture().is_none());
        let before = current.changes();
        current.publish(picture(before));
        assert!(current.look().picture().is_some());
        current.changed();
        assert!(current.look().picture().is_none());
        assert!(current.look().last().is_some());
        current.publish(picture(before));
        assert!(current.look().picture().is_none(), "loaded before the change");
        current.publish(picture(current.changes()));
        assert!(current.look().picture().is_some());
    }
}
