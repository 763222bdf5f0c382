//! The change journal of a node: which areas were written to since its bitmaps were stored last, on storage that is there
//! after a crash (`cbt::journal` has its form).
//!
//! Invariant, the Journal ordering: an area is stable here before a write into it is submitted. Who wants to write into
//! areas that are not waits in [`ChangeJournal::cover`], together with all others who do; the rest asks [`Areas`] and
//! goes on. A checkpoint turns to a new generation in a hold of the node, has the bitmaps stored, and then says that the
//! generation before is not needed. Knows no image format.

mod checkpoint;
mod medium;

pub use checkpoint::Turning;
pub use medium::{Medium, Shared};

use crate::error::IoError;
use crate::range_lock::RangeLock;
use crate::reactor::Handle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tidemark_cbt::journal::{self, AreaSector, Areas, Head, LOST_MAX};
use tidemark_cbt::{Bitmap, OutOfMemory};

/// A journal in use.
pub struct ChangeJournal {
    medium: Medium,
    /// As written last.
    head: Mutex<Head>,
    /// Of those who write to the medium.
    turn: RangeLock,
    current: Mutex<Arc<Areas>>,
    covers: AtomicBool,
    failed: AtomicBool,
}

/// What a journal says.
pub struct Written {
    /// The areas that were written to since the bitmaps were stored.
    pub areas: Bitmap,
    /// Bitmaps that are not to be believed, by the hash of their names.
    pub lost: Vec<u64>,
}

impl ChangeJournal {
    /// Begins a journal for a disk of `size` bytes whose bitmaps are stored as they are. It is believed for an image that
    /// names it by `number`, or still by `previous`; what was there before is not needed. `lost` are those of its bitmaps
    /// that are not to be believed whatever happens.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoMemory`].
    pub async fn begin(
        io: &Handle,
        medium: Medium,
        number: u64,
        previous: Option<u64>,
        size: u64,
        lost: Vec<u64>,
    ) -> Result<Self, IoError> {
        if lost.len() > LOST_MAX {
            return Err(IoError::NoSpace);
        }
        let area = journal::area_for(size);
        let last = medium.head(io).await.map_or(0, |head| head.sequence);
        let head = Head { sequence: last + 1, number, previous, size, area, live: 1, lost };
        medium.grow(io, journal::bytes(journal::pairs(size, area))).await?;
        write_blank(io, &medium, 0..journal::pairs(size, area)).await?;
        medium.flush(io).await?;
        medium.write(io, head.place(), &head.encode()).await?;
        medium.flush(io).await?;
        let areas = Areas::new(1, size, area).map_err(no_memory)?;
        Ok(Self {
            medium,
            head: Mutex::new(head),
            turn: RangeLock::default(),
            current: Mutex::new(Arc::new(areas)),
            covers: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        })
    }

    /// The areas that the journal on a medium has, of the disk of `size` bytes of an image that names it by `number`;
    /// `None` if it is not that image's.
    ///
    /// # Errors
    /// The storage's; [`IoError::NoMemory`].
    pub async fn written(io: &Handle, medium: &Medium, number: u64, size: u64) -> Result<Option<Written>, IoError> {
        let head = medium.head(io).await.filter(|head| head.goes_with(number) && head.size >= size);
        let Some(head) = head else { return Ok(None) };
        let sectors = medium.sectors(io, journal::pairs(size, head.area)).await?;
        let areas = journal::written(&head, &sectors, size).map_err(no_memory)?;
        Ok(Some(Written { areas, lost: head.lost }))
    }

    /// The generation that writes have to be covered in; changed inside a hold.
    pub fn areas(&self) -> Arc<Areas> {
        locked(&self.current).clone()
    }

    /// All writes are covered from now on; inside the hold that sees to it.
    pub fn begin_covering(&self) {
        self.covers.store(true, Ordering::Release);
    }

    /// Whether they are: what bitmaps lack that are stored after that is in the journal.
    pub fn is_covering(&self) -> bool {
        self.covers.load(Ordering::Acquire)
    }

    /// What the image names it by.
    pub fn number(&self) -> u64 {
        locked(&self.head).number
    }

    fn head(&self) -> Head {
        locked(&self.head).clone()
    }

    /// Whether it is given up: it is behind what was written.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Has the areas of a range in the journal, stably, if `areas` is the generation that counts: who finds that it is
    /// not any more asks again with the next one.
    ///
    /// # Errors
    /// The storage's: nothing may be written there unless the journal is given up.
    pub async fn cover(&self, io: &Handle, areas: &Areas, offset: u64, len: u64) -> Result<(), IoError> {
        areas.want(offset, len);
        let _turn = self.turn.lock(0..1).await;
        // Somebody's turn before may have done it.
        if areas.cover(offset, len) || !std::ptr::eq(areas, Arc::as_ptr(&self.areas())) {
            return Ok(());
        }
        self.write_lacking(io, areas).await
    }

    /// The image names it: whoever still names the one before is an old copy of the image, and does not go with it.
    ///
    /// # Errors
    /// The storage's.
    pub async fn named(&self, io: &Handle) -> Result<(), IoError> {
        let _turn = self.turn.lock(0..1).await;
        let head = self.head();
        if head.previous.is_none() { Ok(()) } else { self.write_head(io, Head { previous: None, ..head }).await }
    }

    /// Gives it up, in the image first (by `tell`): from then on writes do not wait for it. Once.
    ///
    /// # Errors
    /// What `tell` says; the journal is not given up.
    pub async fn give_up<E>(&self, tell: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let _turn = self.turn.lock(0..1).await;
        if !self.has_failed() {
            tell.await?;
            self.failed.store(true, Ordering::Release);
            self.areas().waive();
        }
        Ok(())
    }

    /// A bitmap that was not to be believed is gone from the image: the next one of its name is another.
    ///
    /// # Errors
    /// The storage's; the next one of that name will not be believed either.
    pub async fn forget_lost(&self, io: &Handle, name: &str) -> Result<(), IoError> {
        let _turn = self.turn.lock(0..1).await;
        let mut head = self.head();
        let before = head.lost.len();
        head.lost.retain(|lost| *lost != journal::hash(name));
        if head.lost.len() < before { self.write_head(io, head).await } else { Ok(()) }
    }

    /// Removes it: its image does not name it any more.
    pub fn remove(&self) {
        self.medium.remove();
    }

    async fn write_lacking(&self, io: &Handle, areas: &Areas) -> Result<(), IoError> {
        let sectors = areas.lacking(self.number());
        for sector in &sectors {
            self.medium.write(io, journal::place(sector.generation, sector.pair), &sector.encode()).await?;
        }
        self.medium.flush(io).await?;
        areas.stable(&sectors);
        Ok(())
    }

    async fn write_head(&self, io: &Handle, head: Head) -> Result<(), IoError> {
        let head = Head { sequence: head.sequence + 1, ..head };
        self.medium.write(io, head.place(), &head.encode()).await?;
        self.medium.flush(io).await?;
        *locked(&self.head) = head;
        Ok(())
    }
}

impl std::fmt::Debug for ChangeJournal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChangeJournal({:?}, {:?})", self.head, self.areas())
    }
}

/// Sectors that say nothing, so that one that is lost is known from one that was never written.
async fn write_blank(io: &Handle, medium: &Medium, pairs: std::ops::Range<u64>) -> Result<(), IoError> {
    let both = pairs.clone().flat_map(|pair| [AreaSector::blank(pair).encode(); 2]);
    let bytes: Vec<u8> = both.flatten().collect();
    medium.write(io, journal::place(0, pairs.start), &bytes).await
}

fn no_memory(_: OutOfMemory) -> IoError {
    IoError::NoMemory
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
