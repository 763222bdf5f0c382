//! The mapped area: one region per queue, in a file that the front-end holds for us.
//!
//! Invariant: a [`Mapped`] only touches bytes of its own region, and the area lives as long as it.
#![allow(unsafe_code)]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use super::super::memory::{Mapping, MemoryFault};
use super::InflightError;
use super::tracker::{Cells, DESC_LEN, HEADER_LEN, Tracker};

/// Regions start at multiples of a cache line, so that no two queues write the same one.
const REGION_ALIGN: u64 = 64;
/// Bytes behind the regions that are ours: a note to the next process.
const NOTE_LEN: u64 = 64;
/// The note: what the driver chose for `wce`. Nobody else's bytes look like it by chance.
const NOTE_WCE_OFF: u64 = u64::from_le_bytes(*b"TMwce=0\0");
const NOTE_WCE_ON: u64 = u64::from_le_bytes(*b"TMwce=1\0");

/// One queue's region of an [`InflightArea`].
pub type InflightRegion = Tracker<Mapped>;

/// The area with the regions of all queues.
#[derive(Debug)]
pub struct InflightArea {
    mapping: Mapping,
    queues: u16,
    queue_size: u16,
    /// Where the note is, if the area has room for it.
    note_at: Option<u64>,
}

impl InflightArea {
    /// The length in bytes of an area for `queues` queues of `queue_size` entries.
    #[must_use]
    pub fn len_for(queues: u16, queue_size: u16) -> u64 {
        regions_len(queues, queue_size) + NOTE_LEN
    }

    /// What the driver last chose for `wce`, as far as this area knows. A front-end does not repeat it to the next
    /// process, but a guest that was told of no cache goes on without flushing.
    #[must_use]
    pub fn driver_wce(&self) -> Option<bool> {
        match self.note()?.load(Ordering::Acquire) {
            NOTE_WCE_OFF => Some(false),
            NOTE_WCE_ON => Some(true),
            _ => None,
        }
    }

    /// Keeps the driver's choice for the next process.
    pub fn set_driver_wce(&self, wce: bool) {
        if let Some(note) = self.note() {
            note.store(if wce { NOTE_WCE_ON } else { NOTE_WCE_OFF }, Ordering::Release);
        }
    }

    /// The cell behind the regions; an area made by another back-end has none.
    fn note(&self) -> Option<&AtomicU64> {
        let offset = usize::try_from(self.note_at?).ok()?;
        // SAFETY: `map` has found room for the cell there; regions are multiples of 64 bytes long, so it is aligned, and
        // every bit pattern is a valid number.
        Some(unsafe { self.mapping.start().add(offset).cast().as_ref() })
    }

    /// A new area and the file it is in, which cannot be resized by anyone. It starts at offset 0 and has
    /// [`InflightArea::len_for`] bytes, all zero.
    ///
    /// # Errors
    /// When the kernel has no memory or descriptors left, or there is nothing to track.
    pub fn create(
        queues: u16,
        queue_size: u16,
        fault: &Arc<MemoryFault>,
    ) -> Result<(Arc<InflightArea>, File), InflightError> {
        let fd = rustix::fs::memfd_create("vhost-inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(std::io::Error::from)?;
        let file = File::from(fd);
        let len = Self::len_for(queues, queue_size);
        file.set_len(len)?;
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(std::io::Error::from)?;
        let area = Self::map(&file, 0, len, queues, queue_size, fault)?;
        Ok((area, file))
    }

    /// Maps an area that the front-end kept: `size` bytes at `offset` of `file`.
    ///
    /// # Errors
    /// When that cannot hold `queues` queues of `queue_size` entries, or cannot be mapped.
    pub fn map(
        file: &File,
        offset: u64,
        size: u64,
        queues: u16,
        queue_size: u16,
        fault: &Arc<MemoryFault>,
    ) -> Result<Arc<InflightArea>, InflightError> {
        let regions = regions_len(queues, queue_size);
        if regions == 0 || regions > size || !offset.is_multiple_of(REGION_ALIGN) {
            return Err(InflightError::BadLayout { size, offset, queues, queue_size });
        }
        let note_at = (size - regions >= NOTE_LEN).then_some(regions);
        let mapping = Mapping::of_file(file, offset, regions + note_at.map_or(0, |_| NOTE_LEN), fault)?;
        Ok(Arc::new(InflightArea { mapping, queues, queue_size, note_at }))
    }

    /// The region of queue `index`.
    ///
    /// # Errors
    /// [`InflightError::NoRegion`].
    pub fn region(self: &Arc<Self>, index: u16) -> Result<InflightRegion, InflightError> {
        if index >= self.queues {
            return Err(InflightError::NoRegion(index));
        }
        let len = region_len(self.queue_size);
        let offset = usize::try_from(u64::from(index) * len).map_err(|_| InflightError::NoRegion(index))?;
        // SAFETY: the area has `queues` regions of `len` bytes and `index` is one of them.
        let base = unsafe { self.mapping.start().add(offset) };
        Ok(Tracker::new(Mapped { base, len: self.used_len(), _area: self.clone() }, self.queue_size))
    }

    /// The bytes of a region that mean something.
    fn used_len(&self) -> usize {
        HEADER_LEN + usize::from(self.queue_size) * DESC_LEN
    }
}

fn regions_len(queues: u16, queue_size: u16) -> u64 {
    u64::from(queues) * region_len(queue_size)
}

fn region_len(queue_size: u16) -> u64 {
    let len = HEADER_LEN as u64 + u64::from(queue_size) * DESC_LEN as u64;
    len.next_multiple_of(REGION_ALIGN)
}

/// The bytes of one queue's region. One thread uses it, but other processes may look at it at any moment.
#[derive(Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    len: usize,
    _area: Arc<InflightArea>,
}

// SAFETY: the memory is kept by `_area` and belongs to no thread; all access to it is atomic.
unsafe impl Send for Mapped {}

impl Mapped {
    /// The cell of type `T` at `offset`, if the region has it.
    #[inline]
    fn cell<T>(&self, offset: usize) -> Option<&T> {
        let fits = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len);
        // SAFETY: the bytes are inside the region, whose start is aligned to 64; `T` is one of the atomics below,
        // for which every bit pattern is valid and which may be changed by others. Alignment is checked here.
        (fits && offset.is_multiple_of(align_of::<T>())).then(|| unsafe { self.base.add(offset).cast().as_ref() })
    }
}

// Release: what was stored first must be there if what was stored later is.
impl Cells for Mapped {
    #[inline]
    fn get_u8(&self, offset: usize) -> u8 {
        self.cell::<AtomicU8>(offset).map_or(0, |cell| cell.load(Ordering::Acquire))
    }
    #[inline]
    fn get_u16(&self, offset: usize) -> u16 {
        self.cell::<AtomicU16>(offset).map_or(0, |cell| cell.load(Ordering::Acquire))
    }
    #[inline]
    fn get_u64(&self, offset: usize) -> u64 {
        self.cell::<AtomicU64>(offset).map_or(0, |cell| cell.load(Ordering::Acquire))
    }
    #[inline]
    fn set_u8(&mut self, offset: usize, value: u8) {
        if let Some(cell) = self.cell::<AtomicU8>(offset) {
            cell.store(value, Ordering::Release);
        }
    }
    #[inline]
    fn set_u16(&mut self, offset: usize, value: u16) {
        if let Some(cell) = self.cell::<AtomicU16>(offset) {
            cell.store(value, Ordering::Release);
        }
    }
    #[inline]
    fn set_u64(&mut self, offset: usize, value: u64) {
        if let Some(cell) = self.cell::<AtomicU64>(offset) {
            cell.store(value, Ordering::Release);
        }
    }
}
