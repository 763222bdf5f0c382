//! Guest memory: memfds mapped here and, once shared, in the back-end.
//!
//! A [`GuestMemory`] is a cheap snapshot of the list of regions; plugging or unplugging makes a new snapshot. It does
//! not know what lies in the memory. Every access is checked against the region that holds it, and copies are
//! volatile or atomic, because the back-end writes at the same time.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{AtomicInteger, FileOffset, GuestAddress, GuestRegionMmap, MmapRegion, VolatileMemory, VolatileSlice};

use crate::error::{Error, Result};

/// Where a region of guest memory lies and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest physical address.
    pub addr: u64,
    /// Length in bytes, a multiple of 4096.
    pub len: u64,
}

/// A piece of guest memory: a guest physical address and a length. Owning one means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestBuf {
    /// Guest physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
}

impl GuestBuf {
    /// The part of `len` bytes from `offset` on; `None` if it is not all inside.
    pub fn part(&self, offset: u32, len: u32) -> Option<GuestBuf> {
        let end = offset.checked_add(len)?;
        (end <= self.len).then(|| GuestBuf { addr: self.addr + u64::from(offset), len })
    }
}

/// One region: a memfd and its mapping.
#[derive(Debug)]
pub struct Region {
    mapping: GuestRegionMmap<()>,
    spec: RegionSpec,
}

impl Region {
    /// Creates zero-filled memory as `spec` says.
    ///
    /// # Errors
    /// [`Error::Region`] if the address range wraps or the kernel refuses the mapping.
    pub fn new(spec: RegionSpec) -> Result<Region> {
        let fail = |reason: String| Error::Region { addr: spec.addr, len: spec.len, reason };
        let memfd = memfd_create("guest-memory", MemfdFlags::CLOEXEC).map_err(|e| fail(e.to_string()))?;
        let file = File::from(memfd);
        file.set_len(spec.len).map_err(|e| fail(e.to_string()))?;
        let len = usize::try_from(spec.len).map_err(|e| fail(e.to_string()))?;
        let mapping = MmapRegion::from_file(FileOffset::new(file, 0), len).map_err(|e| fail(e.to_string()))?;
        let mapping =
            GuestRegionMmap::new(mapping, GuestAddress(spec.addr)).ok_or_else(|| fail("address range wraps".into()))?;
        Ok(Region { mapping, spec })
    }

    /// Where it lies.
    pub fn spec(&self) -> RegionSpec {
        self.spec
    }

    /// The file behind it, for tests that truncate it.
    pub fn file(&self) -> Option<&File> {
        self.mapping.file_offset().map(FileOffset::file)
    }

    /// An atomic integer in guest memory. Guest memory is little-endian: so must be the host.
    ///
    /// # Errors
    /// [`Error::BadAddress`] outside of the region or off its natural alignment.
    #[inline]
    pub fn atomic<T: AtomicInteger>(&self, addr: u64) -> Result<&T> {
        let len = size_of::<T>() as u64;
        self.offset(addr, len)
            .and_then(|offset| self.mapping.get_atomic_ref::<T>(offset).ok())
            .ok_or(Error::BadAddress { addr, len })
    }

    /// The bytes from `addr` on.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if they are not all in this region.
    pub fn slice(&self, addr: u64, len: usize) -> Result<VolatileSlice<'_>> {
        self.offset(addr, len as u64)
            .and_then(|offset| self.mapping.get_slice(offset, len).ok())
            .ok_or(Error::BadAddress { addr, len: len as u64 })
    }

    /// Address in this process, which is what vhost-user calls a user address.
    ///
    /// # Errors
    /// [`Error::BadAddress`] outside of the region.
    pub fn user_addr(&self, addr: u64) -> Result<u64> {
        let offset = self.offset(addr, 1).ok_or(Error::BadAddress { addr, len: 1 })?;
        Ok(self.mapping.as_ptr() as u64 + offset as u64)
    }

    pub(crate) fn message(&self) -> Result<VhostUserMemoryRegionInfo> {
        VhostUserMemoryRegionInfo::from_guest_region(&self.mapping).map_err(Error::message("SET_MEM_TABLE"))
    }

    #[inline]
    fn offset(&self, addr: u64, len: u64) -> Option<usize> {
        let offset = addr.checked_sub(self.spec.addr)?;
        if offset.checked_add(len)? > self.spec.len {
            return None;
        }
        usize::try_from(offset).ok()
    }
}

/// The list of regions at one moment.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    regions: Arc<[Arc<Region>]>,
}

impl GuestMemory {
    /// Creates the regions, in the order given (which is the order they are announced in).
    ///
    /// # Errors
    /// As [`Region::new`]; [`Error::Region`] if two overlap.
    pub fn new(specs: &[RegionSpec]) -> Result<GuestMemory> {
        specs.iter().try_fold(GuestMemory::default(), |memory, spec| memory.with(Arc::new(Region::new(*spec)?)))
    }

    /// The regions, in order.
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }

    /// The region that holds all of these bytes.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if none does.
    pub fn region(&self, addr: u64, len: u64) -> Result<&Arc<Region>> {
        let holds = |region: &&Arc<Region>| region.offset(addr, len).is_some();
        self.regions.iter().find(holds).ok_or(Error::BadAddress { addr, len })
    }

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if no region holds them all.
    pub fn write(&self, addr: u64, bytes: &[u8]) -> Result<()> {
        self.region(addr, bytes.len() as u64)?.slice(addr, bytes.len())?.copy_from(bytes);
        Ok(())
    }

    /// Copies bytes out of guest memory.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if no region holds them all.
    pub fn read(&self, addr: u64, bytes: &mut [u8]) -> Result<()> {
        self.region(addr, bytes.len() as u64)?.slice(addr, bytes.len())?.copy_to(bytes);
        Ok(())
    }

    /// Copies a whole buffer out.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if no region holds it.
    pub fn to_vec(&self, buf: GuestBuf) -> Result<Vec<u8>> {
        let mut bytes = vec![0; buf.len as usize];
        self.read(buf.addr, &mut bytes)?;
        Ok(bytes)
    }

    /// Sets every byte of a buffer.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if no region holds it.
    pub fn fill(&self, buf: GuestBuf, byte: u8) -> Result<()> {
        self.write(buf.addr, &vec![byte; buf.len as usize])
    }

    /// One byte, atomically.
    ///
    /// # Errors
    /// [`Error::BadAddress`] if no region holds it.
    pub fn byte(&self, addr: u64) -> Result<u8> {
        Ok(self.region(addr, 1)?.atomic::<AtomicU8>(addr)?.load(Ordering::Acquire))
    }

    pub(crate) fn with(&self, region: Arc<Region>) -> Result<GuestMemory> {
        let new = region.spec;
        let overlaps = |old: RegionSpec| old.addr < new.addr.saturating_add(new.len) && new.addr < old.addr + old.len;
        if self.regions.iter().any(|old| overlaps(old.spec)) {
            let reason = "overlaps another region".to_owned();
            return Err(Error::Region { addr: new.addr, len: new.len, reason });
        }
        Ok(GuestMemory { regions: self.regions.iter().cloned().chain([region]).collect() })
    }

    pub(crate) fn without(&self, addr: u64) -> GuestMemory {
        GuestMemory { regions: self.regions.iter().filter(|region| region.spec.addr != addr).cloned().collect() }
    }
}

/// Hands out pieces of one stretch of guest memory, front to back. Nothing is given back: make the buffers once.
#[derive(Debug)]
pub struct Arena {
    next: u64,
    end: u64,
}

impl Arena {
    /// An arena over all of `spec`, which must be memory nobody else uses.
    pub fn new(spec: RegionSpec) -> Arena {
        Arena { next: spec.addr, end: spec.addr.saturating_add(spec.len) }
    }

    /// The next `len` bytes at a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] if they do not fit.
    pub fn alloc(&mut self, len: u32, align: u64) -> Result<GuestBuf> {
        let full = Error::ArenaFull { len: u64::from(len) };
        let Some(addr) = self.next.checked_next_multiple_of(align.max(1)) else { return Err(full) };
        match addr.checked_add(u64::from(len)) {
            Some(next) if next <= self.end => {
                self.next = next;
                Ok(GuestBuf { addr, len })
            }
            _ => Err(full),
        }
    }

    /// Cuts `len` bytes off the front as an arena of its own, for a queue that moves to another thread.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] if they do not fit.
    pub fn split(&mut self, len: u64) -> Result<Arena> {
        let addr = self.next.next_multiple_of(4096);
        match addr.checked_add(len) {
            Some(next) if next <= self.end => {
                self.next = next;
                Ok(Arena { next: addr, end: next })
            }
            _ => Err(Error::ArenaFull { len }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_must_lie_in_one_region() {
        let specs = [RegionSpec { addr: 0, len: 4096 }, RegionSpec { addr: 8192, len: 4096 }];
        let memory = GuestMemory::new(&specs).unwrap();
        memory.write(4090, b"abcdef").unwrap();
        assert!(memory.write(4091, b"abcdef").is_err());
        assert!(memory.read(8191, &mut [0]).is_err());
        assert!(memory.region(u64::MAX, 2).is_err());
        assert_eq!(memory.byte(4095).unwrap(), b'f');
    }

    #[test]
    fn overlapping_regions_are_refused() {
        let specs = [RegionSpec { addr: 0, len: 8192 }, RegionSpec { addr: 4096, len: 4096 }];
        assert!(GuestMemory::new(&specs).is_err());
    }

    #[test]
    fn an_arena_aligns_and_ends_where_its_memory_ends() {
        let mut arena = Arena::new(RegionSpec { addr: 0x1001, len: 0x2000 });
        assert_eq!(arena.alloc(16, 4096).unwrap(), GuestBuf { addr: 0x2000, len: 16 });
        assert!(arena.alloc(0x1000, 4096).is_err());
        assert_eq!(arena.alloc(0xff1, 1).unwrap().addr, 0x2010);
        assert!(arena.alloc(1, 1).is_err());
    }
}
