//! The named bitmaps of a node, and edits of them that take effect at one point in time.
//!
//! Knows nodes by what it is given of them ([`Tracked`]); knows no jobs and no wire. What is *in* a bitmap is `cbt`'s.

mod change_id;
mod changed;
mod error;
mod held;
mod history;
mod persistent;
mod recorded;
mod release;
mod resize;
mod stage;
mod unsettled;

pub use change_id::{ChangeId, NoChangeId};
pub use changed::{Changed, Gap, NotKnown, Page};
pub use error::{BitmapError, NotKept};
pub use held::Held;
pub use history::Cause;
pub use persistent::Persistent;
pub use release::{Outcome, Released};
pub use resize::Resize;
pub use stage::{Committed, Frozen, Stage};

use history::History;
use recorded::Recorded;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tidemark_cbt::{Bitmap, Granularity};
pub use unsettled::Counted;
use unsettled::Unsettled;

/// Whoever has bitmaps: a node.
pub trait Tracked {
    /// Its name.
    fn name(&self) -> &str;
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Its bitmaps.
    fn tracking(&self) -> &Tracking;
    /// Bytes of its clusters, if it has some.
    fn cluster_size(&self) -> Option<u64>;
    /// Whether it can keep a bitmap besides those of the names of `others`, which it has to keep already.
    ///
    /// # Errors
    /// Why not.
    fn check_storable(&self, name: &str, granularity: Granularity, others: &[&str]) -> Result<(), NotKept>;
}

/// What collects writes while somebody uses the bitmap itself.
struct Successor {
    bits: Arc<Bitmap>,
    recorded: Recorded,
    /// The point in time when that use began.
    since: u64,
    enabled: bool,
}

/// A named bitmap.
struct Record {
    name: String,
    bits: Arc<Bitmap>,
    /// What `bits` has of the node's history.
    recorded: Recorded,
    /// Whether it records writes. Not while there is a successor.
    enabled: bool,
    persistent: bool,
    /// The image cannot be written to.
    read_only: bool,
    /// The image does not know what it holds: it can only be removed.
    inconsistent: bool,
    /// Somebody uses the bitmap: nobody else may.
    successor: Option<Successor>,
    /// As does somebody who only reads it.
    held: Weak<()>,
}

/// What is told of a bitmap (`BlockDirtyInfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name.
    pub name: String,
    /// Bytes marked.
    pub count: u64,
    /// Bytes per bit.
    pub granularity: u32,
    /// Whether writes are recorded, in it or in its successor.
    pub recording: bool,
    /// Whether somebody uses it.
    pub busy: bool,
    /// Whether the image keeps it.
    pub persistent: bool,
    /// Whether the image does not know what it holds; never of one that no image keeps.
    pub inconsistent: bool,
    /// The point in time since which every change is marked; `None` if it does not record, or has recorded since the node
    /// was opened.
    pub since: Option<ChangeId>,
}

/// The bitmaps of one node, oldest first.
#[derive(Default)]
pub struct Tracking {
    records: Mutex<Vec<Record>>,
    /// Locked after `records`.
    history: Mutex<History>,
    /// Bitmaps that do not have all yet that is theirs.
    unsettled: Unsettled,
}

impl Tracking {
    /// All of them, newest first.
    pub fn list(&self) -> Vec<BitmapInfo> {
        let (records, history) = (self.lock(), self.history());
        records.iter().rev().map(|record| record.info(&history)).collect()
    }

    /// What records writes now; the node's hooks are made of it.
    pub fn recording(&self) -> Vec<Arc<Bitmap>> {
        self.lock().iter().filter_map(Record::recorder).cloned().collect()
    }

    /// What a named bitmap marks.
    pub fn content(&self, name: &str) -> Option<Arc<Bitmap>> {
        self.lock().iter().find(|record| record.name == name).map(|record| record.bits.clone())
    }

    /// Whether one is in use.
    pub fn is_busy(&self) -> bool {
        self.lock().iter().any(Record::is_busy)
    }

    /// Has [`Tracking::is_unsettled`] say so until what this returns is dropped.
    pub fn count_unsettled(&self) -> Counted {
        self.unsettled.count()
    }

    /// Whether a bitmap does not have all yet that is its own, because what was swapped out is still to be merged.
    pub fn is_unsettled(&self) -> bool {
        self.unsettled.is_any()
    }

    /// A point in time, under a hold of the node: what is written from now on has changed since. For a transaction, before
    /// its stage is committed.
    pub fn begin_point(&self) {
        self.history().generation += 1;
    }

    /// The name of the last point in time, if there has been one since the node was opened.
    pub fn last_point(&self) -> Option<ChangeId> {
        let history = self.history();
        history.id(history.generation)
    }

    /// What is below the node was replaced, under a hold of it: no bitmap knows what that has changed.
    pub fn forget_past(&self) {
        let (mut records, mut history) = (self.lock(), self.history());
        history.generation += 1;
        let now = history.generation;
        for record in records.iter_mut() {
            let old = record.all_recorded();
            record.recorded = record.recorded.after(now);
            record.successor.iter_mut().for_each(|successor| successor.recorded = successor.recorded.after(now));
            history.lose(&record.name, &old, &record.all_recorded(), Cause::Replaced, now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn recorder(&self) -> Option<&Arc<Bitmap>> {
        match &self.successor {
            Some(successor) => successor.enabled.then_some(&successor.bits),
            None => self.enabled.then_some(&self.bits),
        }
    }

    fn info(&self, history: &History) -> BitmapInfo {
        BitmapInfo {
            name: self.name.clone(),
            count: self.bits.count(),
            granularity: u32::try_from(self.bits.granularity().bytes()).unwrap_or(u32::MAX),
            recording: self.recorder().is_some(),
            busy: self.is_busy(),
            persistent: self.persistent,
            inconsistent: self.inconsistent,
            since: self.all_recorded().since().and_then(|since| history.id(since)),
        }
    }
}

/// The granularity that was asked for, or what suits a node with clusters of this many bytes.
fn granularity(bytes: Option<u64>, cluster_size: Option<u64>) -> Result<Granularity, BitmapError> {
    match bytes {
        None => Ok(Granularity::default_for(cluster_size)),
        Some(bytes) => Granularity::new(bytes).ok_or(BitmapError::Granularity),
    }
}

#[cfg(test)]
mod tests;
