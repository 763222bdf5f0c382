//! What bitmaps have of their nodes' histories once the actions have taken effect.

use super::{Entry, Stage};
use crate::bitmaps::Tracked;
use crate::bitmaps::history::Cause;
use crate::bitmaps::recorded::Recorded;
use std::sync::Arc;

impl<T: Tracked> Stage<T> {
    /// What each entry's content has, from the point in time that is coming on also what it records then itself.
    pub(super) fn recorded(&self) -> Vec<Recorded> {
        self.0.iter().map(|entry| self.recorded_by(entry)).collect()
    }

    fn recorded_by(&self, entry: &Entry<T>) -> Recorded {
        let point = entry.node.tracking().history().generation;
        let mut recorded = Recorded::nothing();
        for source in entry.value.iter().map(|leaf| &self.0[leaf.at]) {
            match Arc::ptr_eq(&source.node, &entry.node) {
                true => recorded.merge(&source.recorded.until(point)),
                // Changes of another disk.
                false => recorded.add_foreign(),
            }
        }
        recorded.go_on(point, entry.enabled && !entry.frozen);
        recorded
    }
}

impl<T: Tracked> Entry<T> {
    /// Remembers what the bitmap loses of the time before the point in time.
    pub(super) fn note_loss(&self, new: &Recorded, cause: Cause) {
        let mut history = self.node.tracking().history();
        let point = history.generation;
        history.lose(&self.name, &self.recorded.until(point), new, cause, point);
    }
}
