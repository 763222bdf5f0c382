//! The persistent bitmaps of an open image: loaded when it is opened, stored when it is closed.
//!
//! In between memory has the truth, and every bitmap of the file is marked there as in use, so that nobody believes it
//! after a crash. What the file has is never changed but for those marks: bitmaps, tables and the directory are written
//! to clusters of their own, all of that is made stable, and then the header leads there, in one sector. Whatever
//! happens, the header leads to bitmaps that are right or to some that are in use. Sources: the qcow2 specification,
//! "Bitmaps"; what is loaded and when is as in QEMU.

mod begin;
mod clusters;
mod error;
mod list;
mod load;
mod remove;
mod store;
mod write;

pub use error::{LoadError, StoreError};
pub use list::StoredBitmap;
pub(super) use load::load;

use super::bitmap_directory::BitmapEntry;
use crate::bitmaps::Persistent;
use crate::range_lock::{Guard, RangeLock};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_cbt::Bitmap;

/// A bitmap that the file has, and the bytes of the file that hold its table and its bits.
#[derive(Clone, Debug)]
struct Held {
    entry: BitmapEntry,
    places: Vec<Range<u64>>,
}

/// What the file has.
#[derive(Clone, Debug, Default)]
struct InFile {
    /// Where the directory is, byte by byte.
    directory: Option<Range<u64>>,
    /// In the directory's order.
    held: Vec<Held>,
    /// The header may lead to what the file had before instead.
    unsure: bool,
}

/// The persistent bitmaps of an image.
#[derive(Default)]
pub struct Bitmaps {
    /// Of those who change what the file has.
    turn: RangeLock,
    in_file: Mutex<InFile>,
    /// Those that were not to be believed, until they are removed.
    lost: Mutex<Vec<String>>,
    /// What was loaded, until the image's node takes it.
    loaded: Mutex<Vec<Persistent>>,
}

impl Bitmaps {
    fn in_file(&self) -> MutexGuard<'_, InFile> {
        self.in_file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody else changes what the file has.
    pub(super) async fn turn(&self) -> Guard<'_> {
        self.turn.lock(0..1).await
    }

    /// Whether the file has bitmaps, or may have.
    pub(super) fn has_any(&self) -> bool {
        let in_file = self.in_file();
        in_file.unsure || !in_file.held.is_empty()
    }

    /// The names of those that were not to be believed when the image was opened.
    pub(super) fn lost(&self) -> Vec<String> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of them is gone; false if there was none of that name.
    fn forget_lost(&self, name: &str) -> bool {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lost.len();
        lost.retain(|other| other != name);
        lost.len() < before
    }

    /// Takes what was loaded for nothing: somebody has written to the disk who did not record it.
    pub(super) fn distrust(&self, file: &str) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.is_empty() {
            tracing::warn!(
                file,
                "the data file was written to, copied or moved without its image: bitmaps are inconsistent; if its \
                 content is what it was, `tidemark track --adopt` says so"
            );
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost = loaded.iter().map(|bitmap| bitmap.name.clone()).collect();
        for bitmap in loaded.iter_mut() {
            let empty = Bitmap::new(0, bitmap.bits.granularity()).map(Arc::new);
            *bitmap = Persistent {
                name: std::mem::take(&mut bitmap.name),
                bits: empty.unwrap_or_else(|_| bitmap.bits.clone()),
                enabled: false,
                inconsistent: true,
            };
        }
    }

    /// What was loaded, as long as the image's node has not taken it.
    pub(super) fn loaded(&self) -> Vec<Persistent> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was loaded; nothing the second time.
    pub(super) fn take_loaded(&self) -> Vec<Persistent> {
        std::mem::take(&mut *self.loaded.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds a range to some, to the last of them if it goes on there.
fn extend(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut().filter(|last| last.end == range.start) {
        Some(last) => last.end = range.end,
        None => ranges.push(range),
    }
}
