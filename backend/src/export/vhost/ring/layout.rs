//! The three parts of a split virtqueue as raw pointers, checked once.
//!
//! Invariant: every access is volatile or atomic, aligned, inside the part it names, and each number of the guest's
//! is read once. Does not keep the memory alive: the ring does.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use virtio_bindings::bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

use super::super::memory::MemTable;
use super::{RingConfig, RingError};

/// `VIRTQ_USED_F_NO_NOTIFY`.
#[allow(clippy::cast_possible_truncation)]
pub(super) const NO_NOTIFY: u16 = VRING_USED_F_NO_NOTIFY as u16;
#[allow(clippy::cast_possible_truncation)]
const NO_INTERRUPT: u16 = VRING_AVAIL_F_NO_INTERRUPT as u16;

/// Length of a descriptor in bytes.
pub(super) const DESC_LEN: u64 = 16;

/// `struct virtq_desc`, in our byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Desc {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// A table of descriptors in guest memory: the ring's own, or an indirect one.
#[derive(Debug, Clone, Copy)]
pub(super) struct DescTable {
    base: NonNull<u8>,
    len: u32,
}

impl DescTable {
    /// The table of `bytes` bytes at a guest address, if one region holds it.
    #[inline]
    pub(super) fn indirect(memory: &MemTable, last_region: &mut usize, addr: u64, bytes: u32) -> Option<DescTable> {
        let base = memory.translate_near(last_region, addr, u64::from(bytes))?;
        Some(DescTable { base, len: bytes / 16 })
    }

    /// Number of descriptors.
    #[inline]
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// A private copy of descriptor `index`; `None` when there is no such.
    ///
    /// # Safety
    /// The memory that the table was found in is still mapped.
    #[inline]
    pub(super) unsafe fn get(&self, index: u16) -> Option<Desc> {
        if u32::from(index) >= self.len {
            return None;
        }
        let at = self.base.as_ptr().wrapping_add(usize::from(index) * 16);
        // SAFETY: inside the table, which is mapped. An indirect table need not be aligned: then byte by byte.
        let [addr, rest] = unsafe {
            if at.addr().is_multiple_of(align_of::<u64>()) {
                let words = at.cast::<u64>();
                [words.read_volatile(), words.add(1).read_volatile()]
            } else {
                let bytes: [u8; 16] = std::array::from_fn(|i| at.add(i).read_volatile());
                let word = |half: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[half * 8 + i]));
                [word(0), word(1)]
            }
        };
        let rest = u64::from_le(rest);
        // The halves and quarters of the second word: that is what the truncation is for.
        #[allow(clippy::cast_possible_truncation)]
        let (len, flags, next) = (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16);
        Some(Desc { addr: u64::from_le(addr), len, flags, next })
    }
}

/// The parts of one ring.
#[derive(Debug)]
pub(super) struct Layout {
    desc: NonNull<u8>,
    avail: NonNull<u16>,
    used: NonNull<u16>,
    size: u16,
}

impl Layout {
    /// Finds the parts and checks bounds and alignment (virtio 1.2, section 2.7). `config.size` is a power of two.
    pub(super) fn new(memory: &MemTable, config: &RingConfig) -> Result<Layout, RingError> {
        let part = |part, addr: u64, len: u64, align: usize| {
            let host = memory.translate_user(addr, len).ok_or(RingError::NotMapped { part, addr })?;
            // Both may be odd: the region's place in its file decides about the second.
            if !addr.is_multiple_of(align as u64) || !host.as_ptr().addr().is_multiple_of(align) {
                return Err(RingError::Misaligned { part, addr });
            }
            Ok(host)
        };
        let size = u64::from(config.size);
        Ok(Layout {
            desc: part("descriptor table", config.desc, DESC_LEN * size, 16)?,
            avail: part("available ring", config.avail, 6 + 2 * size, 2)?.cast(),
            used: part("used ring", config.used, 6 + 8 * size, 4)?.cast(),
            size: config.size,
        })
    }

    #[inline]
    pub(super) fn descriptors(&self) -> DescTable {
        DescTable { base: self.desc, len: u32::from(self.size) }
    }

    /// The number at `index` (counted in u16) of the available ring.
    #[inline]
    fn avail(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < usize::from(self.size) + 3);
        // SAFETY: the part has `size` + 3 numbers, is aligned and mapped; an atomic may change under a reference.
        unsafe { self.avail.add(index).cast().as_ref() }
    }

    /// The number at `index` (counted in u16) of the used ring.
    #[inline]
    fn used(&self, index: usize) -> &AtomicU16 {
        debug_assert!(index < usize::from(self.size) * 4 + 3);
        // SAFETY: the part has `size` * 4 + 3 numbers, is aligned and mapped; an atomic may change under a reference.
        unsafe { self.used.add(index).cast().as_ref() }
    }

    /// The place of a free-running index in the rings.
    #[inline]
    fn slot(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }

    #[inline]
    pub(super) fn wants_no_interrupt(&self) -> bool {
        u16::from_le(self.avail(0).load(Ordering::Relaxed)) & NO_INTERRUPT != 0
    }

    /// Acquire: the entries and descriptors it announces are read after it.
    #[inline]
    pub(super) fn avail_idx(&self) -> u16 {
        u16::from_le(self.avail(1).load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn avail_entry(&self, index: u16) -> u16 {
        u16::from_le(self.avail(2 + self.slot(index)).load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn used_event(&self) -> u16 {
        u16::from_le(self.avail(2 + usize::from(self.size)).load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn set_used_flags(&mut self, flags: u16) {
        self.used(0).store(flags.to_le(), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn used_idx(&self) -> u16 {
        u16::from_le(self.used(1).load(Ordering::Relaxed))
    }

    /// Release: the entries it announces, and the data they stand for, were written before it.
    #[inline]
    pub(super) fn set_used_idx(&mut self, index: u16) {
        self.used(1).store(index.to_le(), Ordering::Release);
    }

    /// `struct virtq_used_elem`: the head, then the length, both 32 bits wide.
    #[inline]
    pub(super) fn set_used_entry(&mut self, index: u16, head: u16, written: u32) {
        let entry = std::ptr::from_ref(self.used(2 + 4 * self.slot(index))).cast_mut().cast::<u32>();
        // SAFETY: an entry is inside the part and aligned to 4, as the part is and its first 4 bytes keep it.
        unsafe {
            entry.write_volatile(u32::from(head).to_le());
            entry.add(1).write_volatile(written.to_le());
        }
    }

    #[inline]
    pub(super) fn set_avail_event(&mut self, index: u16) {
        self.used(2 + 4 * usize::from(self.size)).store(index.to_le(), Ordering::Relaxed);
    }
}
