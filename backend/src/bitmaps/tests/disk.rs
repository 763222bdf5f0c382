//! A disk that has bitmaps and nothing else, and what happens to it.

use crate::bitmaps::{BitmapError, Committed, NotKept, Outcome, Resize, Stage, Tracked, Tracking};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_cbt::{Bitmap, Granularity};

/// The disks of a test, by number.
pub type Disks = [Arc<Disk>];

pub struct Disk {
    name: String,
    len: AtomicU64,
    tracking: Tracking,
}

impl Tracked for Disk {
    fn name(&self) -> &str {
        &self.name
    }

    fn length(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    fn tracking(&self) -> &Tracking {
        &self.tracking
    }

    fn cluster_size(&self) -> Option<u64> {
        None
    }

    fn check_storable(&self, _: &str, _: Granularity, _: &[&str]) -> Result<(), NotKept> {
        Err(NotKept::Never)
    }
}

/// A write that is under way: it marks what recorded when it was submitted, then and once more when it ends.
pub struct Write {
    marks: Vec<Arc<Bitmap>>,
    offset: u64,
    len: u64,
}

impl Write {
    pub fn end(&self) {
        self.marks.iter().for_each(|bitmap| bitmap.mark(self.offset, self.len));
    }
}

impl Disk {
    pub fn new(name: &str, len: u64) -> Arc<Self> {
        Arc::new(Self { name: name.into(), len: len.into(), tracking: Tracking::default() })
    }

    pub fn submit(&self, offset: u64, len: u64) -> Write {
        let write = Write { marks: self.tracking.recording(), offset, len };
        write.end();
        write
    }

    pub fn write(&self, offset: u64, len: u64) {
        self.submit(offset, len).end();
    }

    /// Offsets of the blocks that a bitmap marks.
    pub fn marked(&self, name: &str) -> Vec<u64> {
        let bitmap = self.tracking.content(name).expect("a bitmap of that name");
        offsets(&bitmap)
    }

    /// Changes the length while `under_way` writes.
    pub fn resize(&self, len: u64, under_way: &[Write]) -> Result<(), BitmapError> {
        let resize = Resize::prepare(&self.tracking, self.length(), len)?;
        let left = resize.commit(&self.tracking);
        self.len.store(len, Ordering::Relaxed);
        under_way.iter().for_each(Write::end);
        left.iter().for_each(|(new, old)| new.merge(old));
        Ok(())
    }

    /// A job lets go of a bitmap; `under_way` ends before the grace does.
    pub fn release(&self, name: &str, outcome: Outcome, under_way: &[Write]) {
        let released = self.tracking.release(name, outcome);
        under_way.iter().for_each(Write::end);
        released.settle();
    }
}

/// Offsets of the blocks that are marked.
pub fn offsets(bitmap: &Bitmap) -> Vec<u64> {
    let blocks = (0..bitmap.len()).step_by(usize::try_from(bitmap.granularity().bytes()).unwrap());
    blocks.filter(|offset| bitmap.is_marked(*offset)).collect()
}

/// Stages what `edit` does and lets it take effect at once, with nothing under way.
pub fn transact(edit: impl FnOnce(&mut Stage<Disk>) -> Result<(), BitmapError>) -> Result<(), BitmapError> {
    let mut stage = Stage::new();
    edit(&mut stage)?;
    stage.prepare()?;
    Committed::settle(stage.commit());
    Ok(())
}
