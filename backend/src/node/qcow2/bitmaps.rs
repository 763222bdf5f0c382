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
use crate::range_lock::RangeLock;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
}

/// The persistent bitmaps of an image.
#[derive(Default)]
pub struct Bitmaps {
    /// Of those who change what the file has.
    turn: RangeLock,
    in_file: Mutex<InFile>,
    /// What was loaded, until the image's node takes it.
    loaded: Mutex<Vec<Persistent>>,
}

impl Bitmaps {
    fn in_file(&self) -> MutexGuard<'_, InFile> {
        self.in_file.lock().unwrap_or_else(PoisonError::into_inner)
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
