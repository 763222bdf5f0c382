//! Mirroring: what is changed on a node comes to a target too, some time later or before the change completes.
//!
//! A chunk is *dirty* (a request has changed it since it was last taken), *owed* (it is to be copied, and whatever made it
//! so has landed) or clean (the target has what the source has). The job that copies is the only one that takes dirty
//! chunks and makes them owed; whoever copies or writes to the target has the range to itself meanwhile.
//!
//! # The orderings
//!
//! * **In the background** a request marks its chunks dirty inside the stamp section, before its data is submitted, and
//!   goes on. The job *takes* dirty chunks, then waits for a passage of the source's seats, and then they are owed: a mark
//!   that was taken, or not set anew because it was still set, was made inside a section that began before the passage
//!   did, so its data has landed when the passage is over. A mark made later stays. What is owed is taken, then read, then
//!   written to the target: a change that the read may have missed is marked dirty. The
//!   model of this is with `epoch::Passage`.
//! * **Blocking**: a request has its chunks to itself, is stamped, goes to the source, then to the target with the same
//!   bytes, and ends. A copy of such a chunk reads before the request began or after it has ended, so nothing older ever
//!   goes over something newer. Chunks that it has changed whole are clean afterwards, but not before the requests from
//!   before the switch to blocking have ended ([`Mirroring::settle`]): until then one of these may still change the source.
//!   What it has changed in part stays what it was. Nothing is marked, unless something fails: so a mirror is in sync when
//!   nothing is dirty, owed or being copied, however many requests are under way.
//! * **Discards** are read from the source when they have been made there, because what they leave is up to it. Where the
//!   two part, a write that only one of them gets could be among that. So before they part discards, which are advice, are
//!   dropped, and those from before are waited for ([`Mirroring::drop_discards`]).
//! * **The pivot** is sealed inside a hold ([`Mirroring::seal`]): what fails on the target before is marked and the guest
//!   is not told; what fails after it fails the guest's request, because the target is its disk then.

mod active;
mod ranges;

pub(super) use active::Active;
pub use ranges::Held;

use super::Node;
use crate::error::IoError;
use ranges::Ranges;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_cbt::{Bitmap, Granularity, OutOfMemory};

/// A node's changes on their way to a target.
pub struct Mirroring {
    source: Arc<Node>,
    target: Arc<Node>,
    dirty: Bitmap,
    owed: Bitmap,
    /// Whether space may be given back where the target gets zeroes.
    unmap: bool,
    ranges: Arc<Ranges>,
    /// Changes reach the target before they complete; changed inside a hold.
    blocking: AtomicBool,
    /// Nothing from before that is under way any more.
    settled: AtomicBool,
    /// Discards end without having done anything.
    drops_discards: AtomicBool,
    fate: Mutex<Fate>,
    /// Bytes of requests that are being mirrored, and their memory.
    under_way: AtomicU64,
    /// Bytes mirrored by requests themselves.
    mirrored: AtomicU64,
}

/// What becomes of requests that fail on the target.
#[derive(Default)]
struct Fate {
    /// The first failure that the job has not heard of.
    failure: Option<IoError>,
    /// The target has taken the source's place.
    sealed: bool,
}

impl Mirroring {
    /// A mirror that owes nothing and is not installed. With `unmap` zeroes may give space back on the target.
    ///
    /// # Errors
    /// [`OutOfMemory`] for the bitmaps.
    pub fn new(
        source: &Arc<Node>,
        target: &Arc<Node>,
        granularity: Granularity,
        unmap: bool,
    ) -> Result<Arc<Self>, OutOfMemory> {
        let len = source.length();
        Ok(Arc::new(Self {
            source: source.clone(),
            target: target.clone(),
            dirty: Bitmap::new(len, granularity)?,
            owed: Bitmap::new(len, granularity)?,
            unmap,
            ranges: Arc::default(),
            blocking: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            drops_discards: AtomicBool::new(false),
            fate: Mutex::default(),
            under_way: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
        }))
    }

    /// The node whose changes are mirrored.
    pub fn source(&self) -> &Arc<Node> {
        &self.source
    }

    /// Where they go.
    pub fn target(&self) -> &Arc<Node> {
        &self.target
    }

    /// Whether zeroes may give space back on the target.
    pub fn unmaps(&self) -> bool {
        self.unmap
    }

    /// Chunks that requests have changed and nobody has taken since.
    pub fn dirty(&self) -> &Bitmap {
        &self.dirty
    }

    /// Chunks to be copied, as they are on the source now.
    pub fn owed(&self) -> &Bitmap {
        &self.owed
    }

    /// Bytes per chunk.
    pub fn granularity(&self) -> Granularity {
        self.dirty.granularity()
    }

    /// Bytes of requests that are on their way to both, and bytes of those that have come there.
    pub fn active_bytes(&self) -> (u64, u64) {
        (self.under_way.load(Ordering::Acquire), self.mirrored.load(Ordering::Acquire))
    }

    /// Hangs this on its source; inside a hold of it.
    pub fn install(self: &Arc<Self>) {
        self.source.points.add_mirror(self.clone());
    }

    /// Takes this off its source; inside a hold of it. Requests under way still go to the target.
    pub fn uninstall(self: &Arc<Self>) {
        self.source.points.remove_mirror(self);
    }

    /// Has changes reach the target before they complete; inside a hold of the source.
    pub fn block(&self) {
        self.blocking.store(true, Ordering::Release);
    }

    /// Whether changes reach the target before they complete.
    pub fn is_blocking(&self) -> bool {
        self.blocking.load(Ordering::Acquire)
    }

    /// The requests from before the last hold of [`Mirroring::block`] have ended.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Has discards do nothing from now on: so that the two can part when a passage that begins now is over.
    pub fn drop_discards(&self) {
        self.drops_discards.store(true, Ordering::Release);
    }

    /// Whether discards do nothing.
    pub fn drops_discards(&self) -> bool {
        self.drops_discards.load(Ordering::Acquire)
    }

    /// Waits until nobody who came before copies or writes to chunks of the range, rounded out to chunks, and keeps others
    /// away.
    pub async fn hold_range(&self, range: Range<u64>) -> Held {
        let bytes = self.granularity().bytes();
        let start = range.start - range.start % bytes;
        let end = range.end.checked_next_multiple_of(bytes).unwrap_or(u64::MAX);
        self.ranges.hold(start..end).await
    }

    /// What a request failed with on the target since the last call: its range is dirty.
    pub fn take_failure(&self) -> Option<IoError> {
        self.fate().failure.take()
    }

    /// Whether nothing is dirty or owed and nothing has failed.
    pub fn is_clean(&self) -> bool {
        self.fate().failure.is_none() && self.dirty.is_empty() && self.owed.is_empty()
    }

    /// Makes the target the guest's disk, if it has all that the source has; inside a hold of both, when blocking and
    /// settled. False, and nothing has happened, if it has not.
    pub fn seal(&self) -> bool {
        let mut fate = self.fate();
        fate.sealed = fate.failure.is_none() && self.dirty.is_empty() && self.owed.is_empty();
        fate.sealed
    }

    /// A request changes the range on the source; inside the stamp section.
    pub(super) fn mark(&self, offset: u64, len: u64) {
        self.dirty.mark_live(offset, len);
    }

    /// A request has failed on the target, or nobody knows: what the guest is told.
    fn fail(&self, range: Range<u64>, error: IoError) -> Result<(), IoError> {
        let mut fate = self.fate();
        if fate.sealed {
            return Err(error);
        }
        self.mark(range.start, range.end - range.start);
        fate.failure.get_or_insert(error);
        Ok(())
    }

    /// Both have the range alike.
    fn done(&self, range: Range<u64>) {
        self.mirrored.fetch_add(range.end - range.start, Ordering::AcqRel);
        let bytes = self.granularity().bytes();
        let end = if range.end >= self.dirty.len() { range.end } else { range.end - range.end % bytes };
        let Some(start) = range.start.checked_next_multiple_of(bytes).filter(|start| *start < end) else { return };
        if self.settled.load(Ordering::Acquire) {
            self.dirty.take(start, end - start);
            self.owed.take(start, end - start);
        }
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
