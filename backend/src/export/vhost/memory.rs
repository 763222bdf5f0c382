//! Guest memory: the front-end's memory regions, mapped here, and the address translation over them.
//!
//! A [`MemTable`] is immutable. Hot-plug makes a new table that shares the untouched mappings, and whoever still
//! uses the old one keeps it alive. It does not know virtqueues or messages.
//!
//! Two invariants. An address handed out lies inside a mapping of this table, for its whole length. And the memory
//! is shared with a guest that may change it while we look: nothing here makes a reference into it, values are
//! copied out once, by volatile loads or by a copy the compiler cannot see through.
#![allow(unsafe_code)]

mod fault;
mod mapping;
mod segment;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

pub use fault::MemoryFault;
pub(crate) use mapping::Mapping;
pub use segment::MemoryPin;
pub(crate) use segment::{skip, take};

use crate::io::Segment;

/// One memory region as the front-end announces it (vhost-user "memory regions description"); all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest-physical address of the first byte.
    pub guest_addr: u64,
    /// Length.
    pub len: u64,
    /// Address of the first byte in the front-end's own address space; ring addresses are given in it.
    pub user_addr: u64,
    /// Where the region starts in its file.
    pub file_offset: u64,
}

/// Why a memory table could not be built.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A region is empty or its end does not fit into 64 bits.
    #[error("memory region at guest address {0:#x} is empty or overflows")]
    BadRegion(u64),
    /// Two regions share guest or front-end addresses.
    #[error("memory regions at guest addresses {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// There is no such region to remove.
    #[error("no memory region at guest address {0:#x} with that length and front-end address")]
    NoSuchRegion(u64),
    /// More regions than [`MAX_REGIONS`], or more mappings in the process than can be watched for faults.
    #[error("too many memory regions")]
    TooMany,
    /// The file ends before the area that is to be mapped from it.
    #[error("memory file has {file_len} bytes, the area to map ends at {end}")]
    FileTooShort {
        /// Length of the file.
        file_len: u64,
        /// End of the area, from the start of the file.
        end: u64,
    },
    /// The kernel refused to examine or map the file.
    #[error("cannot map memory file: {0}")]
    Map(#[from] std::io::Error),
}

/// The largest number of regions in a table; what GET_MAX_MEM_SLOTS answers. KVM offers a guest 509 usable slots.
pub const MAX_REGIONS: usize = 509;

/// One mapped region.
#[derive(Debug)]
struct Region {
    spec: RegionSpec,
    mapping: Mapping,
}

/// The part of a region that translation looks at, side by side in memory.
#[derive(Debug, Clone, Copy)]
struct Span {
    guest_addr: u64,
    len: u64,
    user_addr: u64,
    host: NonNull<u8>,
}

/// An immutable table of mapped guest memory regions, sorted by guest address.
#[derive(Debug)]
pub struct MemTable {
    regions: Vec<Arc<Region>>,
    spans: Vec<Span>,
    /// First address and length of each mapping, sorted.
    hosts: Vec<(usize, u64)>,
    fault: Arc<MemoryFault>,
}

// SAFETY: the pointers in `spans` lead into mappings that `regions` keeps alive and that no thread owns; the table is
// never changed after it is built, and all access through it is by volatile, atomic or opaque copies.
unsafe impl Send for MemTable {}
// SAFETY: as above.
unsafe impl Sync for MemTable {}

impl MemTable {
    /// A table without regions. `fault` hears about mappings whose file was truncated.
    #[must_use]
    pub fn empty(fault: Arc<MemoryFault>) -> MemTable {
        MemTable { regions: Vec::new(), spans: Vec::new(), hosts: Vec::new(), fault }
    }

    /// Maps `regions`, which may come in any order.
    ///
    /// # Errors
    /// See [`MemoryError`]; nothing stays mapped then.
    pub fn new(
        regions: impl IntoIterator<Item = (RegionSpec, File)>,
        fault: Arc<MemoryFault>,
    ) -> Result<MemTable, MemoryError> {
        let mut mapped = Vec::new();
        for (spec, file) in regions {
            mapped.push(Arc::new(Region::map(spec, &file, &fault)?));
        }
        MemTable::from_regions(mapped, fault)
    }

    /// This table and one more region.
    ///
    /// # Errors
    /// See [`MemoryError`].
    pub fn with_region(&self, spec: RegionSpec, file: &File) -> Result<MemTable, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Arc::new(Region::map(spec, file, &self.fault)?));
        MemTable::from_regions(regions, self.fault.clone())
    }

    /// This table less the region with the guest address, front-end address and length of `spec`; its file offset is
    /// ignored (vhost-user, `VHOST_USER_REM_MEM_REG`). The region is unmapped when the last table with it is dropped.
    ///
    /// # Errors
    /// [`MemoryError::NoSuchRegion`].
    pub fn without_region(&self, spec: RegionSpec) -> Result<MemTable, MemoryError> {
        let is_it = |region: &Arc<Region>| {
            let r = &region.spec;
            (r.guest_addr, r.user_addr, r.len) == (spec.guest_addr, spec.user_addr, spec.len)
        };
        let mut regions = self.regions.clone();
        let index = regions.iter().position(is_it).ok_or(MemoryError::NoSuchRegion(spec.guest_addr))?;
        regions.remove(index);
        MemTable::from_regions(regions, self.fault.clone())
    }

    fn from_regions(mut regions: Vec<Arc<Region>>, fault: Arc<MemoryFault>) -> Result<MemTable, MemoryError> {
        if regions.len() > MAX_REGIONS {
            return Err(MemoryError::TooMany);
        }
        regions.sort_by_key(|r| r.spec.user_addr);
        refuse_overlap(&regions, |spec| spec.user_addr)?;
        regions.sort_by_key(|r| r.spec.guest_addr);
        refuse_overlap(&regions, |spec| spec.guest_addr)?;
        let spans: Vec<Span> = regions.iter().map(|r| r.span()).collect();
        let mut hosts: Vec<_> = spans.iter().map(|span| (span.host.as_ptr().addr(), span.len)).collect();
        hosts.sort_unstable();
        Ok(MemTable { regions, spans, hosts, fault })
    }

    /// What hears about truncated memory files; shared with the tables made from this one.
    #[must_use]
    pub fn fault(&self) -> &Arc<MemoryFault> {
        &self.fault
    }

    /// Whether an access to this memory hit a truncated file. The session has to end then.
    #[must_use]
    #[inline]
    pub fn is_broken(&self) -> bool {
        self.fault.is_set()
    }

    /// Number of regions.
    #[must_use]
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// The host address of `len` bytes of guest memory at `guest_addr`, when one region holds them all.
    #[must_use]
    pub fn translate(&self, guest_addr: u64, len: u64) -> Option<NonNull<u8>> {
        self.translate_near(&mut 0, guest_addr, len)
    }

    /// As [`MemTable::translate`], looking first into the region where the caller's last address was found.
    #[must_use]
    #[inline]
    pub fn translate_near(&self, last: &mut usize, guest_addr: u64, len: u64) -> Option<NonNull<u8>> {
        if let Some(host) = self.spans.get(*last).and_then(|span| span.host_at_guest(guest_addr, len)) {
            return Some(host);
        }
        let index = self.span_index(guest_addr)?;
        *last = index;
        self.spans.get(index)?.host_at_guest(guest_addr, len)
    }

    /// The host address of `len` bytes at `user_addr` in the front-end's address space, when one region holds them.
    #[must_use]
    pub fn translate_user(&self, user_addr: u64, len: u64) -> Option<NonNull<u8>> {
        self.spans.iter().find_map(|span| span.host_at(span.user_addr, user_addr, len))
    }

    /// The pieces of host memory that make up `len` bytes of guest memory at `guest_addr`: one, or more where the
    /// buffer crosses into a region that begins where the last one ended. The iteration yields `None` in the place
    /// of the first byte that is not guest memory, and ends there.
    pub fn pieces(&self, guest_addr: u64, len: u64) -> impl Iterator<Item = Option<Segment>> + '_ {
        let (mut addr, mut left) = (guest_addr, len);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let piece = self.piece(addr, left);
            let taken = piece.map_or(left, |p| p.len as u64);
            left -= taken;
            addr = addr.wrapping_add(taken);
            Some(piece)
        })
    }

    /// The longest piece of at most `len` bytes at `guest_addr` that lies in one region.
    fn piece(&self, guest_addr: u64, len: u64) -> Option<Segment> {
        let span = self.spans.get(self.span_index(guest_addr)?)?;
        let len = len.min(span.len.checked_sub(guest_addr - span.guest_addr)?);
        let host = span.host_at_guest(guest_addr, len).filter(|_| len > 0)?;
        Some(Segment { start: host, len: usize::try_from(len).ok()? })
    }

    /// Index of the last region that begins at or before `guest_addr`.
    fn span_index(&self, guest_addr: u64) -> Option<usize> {
        self.spans.partition_point(|span| span.guest_addr <= guest_addr).checked_sub(1)
    }

    /// Whether `segment` lies inside one mapping of this table.
    #[must_use]
    #[inline]
    pub fn contains(&self, segment: Segment) -> bool {
        let addr = segment.start.as_ptr().addr();
        let index = self.hosts.partition_point(|(start, _)| *start <= addr);
        let Some((start, len)) = index.checked_sub(1).and_then(|index| self.hosts.get(index)) else { return false };
        let offset = (addr - start) as u64;
        offset < *len && segment.len as u64 <= *len - offset
    }
}

impl Region {
    fn map(spec: RegionSpec, file: &File, fault: &Arc<MemoryFault>) -> Result<Region, MemoryError> {
        let ends = [spec.guest_addr, spec.user_addr, spec.file_offset].map(|start| start.checked_add(spec.len));
        if spec.len == 0 || ends.contains(&None) || usize::try_from(spec.len).is_err() {
            return Err(MemoryError::BadRegion(spec.guest_addr));
        }
        Ok(Region { spec, mapping: Mapping::of_file(file, spec.file_offset, spec.len, fault)? })
    }

    fn span(&self) -> Span {
        let RegionSpec { guest_addr, len, user_addr, .. } = self.spec;
        Span { guest_addr, len, user_addr, host: self.mapping.start() }
    }
}

impl Span {
    #[inline]
    fn host_at_guest(&self, guest_addr: u64, len: u64) -> Option<NonNull<u8>> {
        self.host_at(self.guest_addr, guest_addr, len)
    }

    #[inline]
    fn host_at(&self, base: u64, addr: u64, len: u64) -> Option<NonNull<u8>> {
        let offset = addr.wrapping_sub(base);
        if offset >= self.len || len > self.len - offset {
            return None;
        }
        // SAFETY: `host` is the start of `self.len` mapped bytes and `offset` is less than that; `Region::map` made
        // sure that the length fits into `usize`.
        #[allow(clippy::cast_possible_truncation)]
        Some(unsafe { self.host.add(offset as usize) })
    }
}

/// Refuses neighbours of the sorted `regions` that share an address; `start` says which address.
fn refuse_overlap(regions: &[Arc<Region>], start: impl Fn(&RegionSpec) -> u64) -> Result<(), MemoryError> {
    for pair in regions.windows(2) {
        let [a, b] = pair else { continue };
        if start(&b.spec) - start(&a.spec) < a.spec.len {
            return Err(MemoryError::Overlap(a.spec.guest_addr, b.spec.guest_addr));
        }
    }
    Ok(())
}
