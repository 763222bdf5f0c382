//! A shared, writable mapping of a part of a file that somebody else may truncate.
//!
//! Knows hugetlbfs' alignment rules; does not know what is in the memory. Registered for faults while it lives.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::MemoryError;
use super::fault::{MemoryFault, Watch};

/// `HUGETLBFS_MAGIC` of `linux/magic.h`.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A mapped part of a file; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    mapped_len: usize,
    lead: usize,
    // Dropped by hand, before the memory is unmapped.
    watch: Option<Watch>,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: it is never moved or resized; access goes through raw pointers whose users answer for it.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of `file` from `offset`, which need not be aligned.
    pub(crate) fn of_file(
        file: &File,
        offset: u64,
        len: u64,
        fault: &Arc<MemoryFault>,
    ) -> Result<Mapping, MemoryError> {
        let end = offset.checked_add(len).ok_or(MemoryError::BadRegion(offset))?;
        let stat = file.metadata()?;
        if stat.is_file() && stat.len() < end {
            return Err(MemoryError::FileTooShort { file_len: stat.len(), end });
        }
        let page = page_len(file)?;
        let start = offset - offset % page;
        let mapped = (end - start).checked_next_multiple_of(page).ok_or(MemoryError::BadRegion(offset))?;
        let to_usize = |value| usize::try_from(value).map_err(|_| MemoryError::BadRegion(offset));
        let (mapped_len, lead, page_len) = (to_usize(mapped)?, to_usize(offset - start)?, to_usize(page)?);
        let base = map_shared(file, start, mapped_len)?;
        let mut mapping = Mapping { base, mapped_len, lead, watch: None };
        let range = base.as_ptr().addr()..base.as_ptr().addr() + mapped_len;
        mapping.watch = Some(Watch::new(range, page_len, fault.clone()).ok_or(MemoryError::TooMany)?);
        Ok(mapping)
    }

    /// The byte at the offset that was asked for.
    pub(crate) fn start(&self) -> NonNull<u8> {
        // SAFETY: `lead` is less than a page and less than the mapped length, which covers at least one byte after it.
        unsafe { self.base.add(self.lead) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.watch = None;
        // SAFETY: we made this mapping, nobody else unmaps it, and whoever uses its addresses holds the owner of it.
        // An error is impossible for a range that we mapped as a whole.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped_len) };
    }
}

/// The unit in which `file` can be mapped: the page, or on hugetlbfs the huge page.
fn page_len(file: &File) -> Result<u64, MemoryError> {
    let fs = rustix::fs::fstatfs(file).map_err(std::io::Error::from)?;
    if u64::try_from(fs.f_type).ok() == Some(HUGETLBFS_MAGIC) {
        return Ok(u64::try_from(fs.f_bsize).unwrap_or(0).max(1));
    }
    Ok(rustix::param::page_size() as u64)
}

fn map_shared(file: &File, offset: u64, len: usize) -> Result<NonNull<u8>, MemoryError> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::NORESERVE;
    // SAFETY: the kernel chooses the address, so no mapping of ours is replaced.
    let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, flags, file, offset) };
    let base: *mut c_void = base.map_err(std::io::Error::from)?;
    // Guest memory does not belong into a core dump of ours; a kernel that cannot leave it out is no reason to stop.
    // SAFETY: the range was mapped just now; this advice does not change its contents.
    let _ = unsafe { rustix::mm::madvise(base, len, Advice::LinuxDontDump) };
    NonNull::new(base.cast()).ok_or(MemoryError::Map(std::io::ErrorKind::InvalidInput.into()))
}
