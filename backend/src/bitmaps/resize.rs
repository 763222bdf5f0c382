//! All bitmaps of a node follow its length.

use super::persistent::{Use, check};
use super::{BitmapError, Tracking};
use std::sync::Arc;
use tidemark_cbt::Bitmap;

/// The bitmaps of a node for another length, made before it changes.
pub struct Resize {
    len: u64,
    /// Beyond this everything is new once the node has that length.
    shortest: u64,
    fresh: Vec<(String, Arc<Bitmap>)>,
}

impl Resize {
    /// Empty bitmaps for a node that has `from` bytes and will have `len`.
    ///
    /// # Errors
    /// A bitmap is in use, or there is no memory.
    pub fn prepare(tracking: &Tracking, from: u64, len: u64) -> Result<Self, BitmapError> {
        let mut fresh = Vec::new();
        for record in tracking.lock().iter() {
            check(&record.name, record.state(), Use::Change)?;
            fresh.push((record.name.clone(), Arc::new(Bitmap::new(len, record.bits.granularity())?)));
        }
        Ok(Self { len, shortest: from.min(len), fresh })
    }

    /// Swaps them, under a hold of the node. Returns what has to be merged after grace: into the first, the second.
    #[must_use]
    pub fn commit(self, tracking: &Tracking) -> Vec<(Arc<Bitmap>, Arc<Bitmap>)> {
        debug_assert!(self.fresh.iter().all(|(_, bits)| bits.len() == self.len));
        let mut records = tracking.lock();
        tracking.history().had_length(self.shortest);
        let mut left = Vec::new();
        for (name, bits) in self.fresh {
            if let Some(record) = records.iter_mut().find(|record| record.name == name) {
                left.push((bits.clone(), std::mem::replace(&mut record.bits, bits)));
            }
        }
        left
    }
}
