//! Bitmaps that an image keeps: as they come from it and go to it, and what may be done with each.
//!
//! Knows no image format.

use super::{BitmapError, Record, Recorded, Tracking};
use std::sync::{Arc, Weak};
use tidemark_cbt::{Bitmap, OutOfMemory};

/// A bitmap as an image has it.
#[derive(Clone, Debug)]
pub struct Persistent {
    /// Its name.
    pub name: String,
    /// What it marks; of no size if it is inconsistent.
    pub bits: Arc<Bitmap>,
    /// Whether it records.
    pub enabled: bool,
    /// It was not stored when the image was used last.
    pub inconsistent: bool,
}

/// What somebody wants to do with a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Read it, or switch its recording.
    Read,
    /// Change what it marks.
    Change,
    /// Remove it.
    Remove,
}

/// What stands against uses of a bitmap.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    pub(super) busy: bool,
    pub(super) read_only: bool,
    pub(super) inconsistent: bool,
}

/// Refuses a use of the bitmap `name`, for the reason that QEMU looks for first.
pub(super) fn check(name: &str, state: State, wanted: Use) -> Result<(), BitmapError> {
    let refuse = |error: fn(String) -> BitmapError| Err(error(name.to_owned()));
    match state {
        State { busy: true, .. } => refuse(BitmapError::Busy),
        State { read_only: true, .. } if wanted != Use::Read => refuse(BitmapError::ReadOnly),
        State { inconsistent: true, .. } if wanted != Use::Remove => refuse(BitmapError::Inconsistent),
        _ => Ok(()),
    }
}

impl Record {
    pub(super) fn state(&self) -> State {
        State { busy: self.is_busy(), read_only: self.read_only, inconsistent: self.inconsistent }
    }

    /// What is to be stored of it: what it marks, and what was recorded while somebody uses it.
    fn to_store(&self) -> Result<Persistent, OutOfMemory> {
        let mut bits = self.bits.clone();
        if let Some(successor) = &self.successor {
            let both = Bitmap::new(bits.len(), bits.granularity())?;
            both.merge(&bits);
            both.merge(&successor.bits);
            bits = Arc::new(both);
        }
        Ok(Persistent { name: self.name.clone(), bits, enabled: self.recorder().is_some(), inconsistent: false })
    }
}

impl Tracking {
    /// Takes over what an image had, before the node has roots.
    pub fn adopt(&self, bitmaps: Vec<Persistent>, read_only: bool) {
        self.lock().extend(bitmaps.into_iter().map(|Persistent { name, bits, enabled, inconsistent }| Record {
            name,
            bits,
            recorded: Recorded::inherited(enabled),
            enabled,
            persistent: true,
            read_only,
            inconsistent,
            successor: None,
            held: Weak::new(),
        }));
    }

    /// The bitmaps that the image has to keep, oldest first, but those that it has and that cannot have changed.
    ///
    /// # Errors
    /// There is no memory for one that is in use.
    pub fn to_store(&self) -> Result<Vec<Persistent>, OutOfMemory> {
        let records = self.lock();
        let stored = records.iter().filter(|record| record.persistent && !record.inconsistent && !record.read_only);
        stored.map(Record::to_store).collect()
    }

    /// Whether any of them belongs in the node's image.
    pub fn has_persistent(&self) -> bool {
        self.lock().iter().any(|record| record.persistent)
    }

    /// The node's image cannot be written to any more, or can be from now on.
    pub fn set_read_only(&self, read_only: bool) {
        let mut records = self.lock();
        records.iter_mut().filter(|record| record.persistent).for_each(|record| record.read_only = read_only);
    }

    /// Marks everything in all of them, and in what records while they are in use; at any time. But for those that
    /// cannot be used or changed.
    pub fn mark_all(&self) {
        for record in self.lock().iter().filter(|record| !record.inconsistent && !record.read_only) {
            let all = std::iter::once(&record.bits).chain(record.successor.as_ref().map(|successor| &successor.bits));
            all.for_each(|bits| bits.mark(0, bits.len()));
        }
    }

    /// What a bitmap marks, for somebody who wants to read it.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be used.
    pub fn readable(&self, name: &str) -> Result<Arc<Bitmap>, BitmapError> {
        let records = self.lock();
        let record = records.iter().find(|record| record.name == name);
        let record = record.ok_or_else(|| BitmapError::NotFound(name.to_owned()))?;
        check(name, State { busy: false, ..record.state() }, Use::Read)?;
        Ok(record.bits.clone())
    }
}
