//! A piece of host memory that backs guest memory, and copies between such pieces and our own memory.
//!
//! A [`Segment`] is an address and a length, no promise that they are mapped: the copies below are safe because they
//! look every segment up in the table they are called on.
#![allow(unsafe_code)]

use std::ptr::NonNull;

use super::MemTable;

/// Address and length of a piece of guest memory in this process; laid out as `struct iovec`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    base: *mut u8,
    len: usize,
}

const _: () = assert!(size_of::<Segment>() == size_of::<libc::iovec>());
const _: () = assert!(std::mem::offset_of!(Segment, len) == std::mem::offset_of!(libc::iovec, iov_len));

// SAFETY: a segment is two numbers; whoever dereferences its address answers for that.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// A piece of `len` bytes at `base`.
    #[must_use]
    #[inline]
    pub fn new(base: NonNull<u8>, len: usize) -> Segment {
        Segment { base: base.as_ptr(), len }
    }

    /// The first byte.
    #[must_use]
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    /// The address of the first byte.
    #[must_use]
    #[inline]
    pub fn addr(&self) -> usize {
        self.base.addr()
    }

    /// Length in bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte in it.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts the first `len` bytes off (all, when there are fewer).
    #[must_use]
    #[inline]
    pub fn skip(self, len: usize) -> Segment {
        let len = len.min(self.len);
        Segment { base: self.base.wrapping_add(len), len: self.len - len }
    }

    /// The first `len` bytes (all, when there are fewer).
    #[must_use]
    #[inline]
    pub fn take(self, len: usize) -> Segment {
        Segment { base: self.base, len: len.min(self.len) }
    }

    /// `segments` as the array that readv, writev and their io_uring operations take.
    #[must_use]
    pub fn as_iovecs(segments: &[Segment]) -> *const libc::iovec {
        segments.as_ptr().cast()
    }
}

/// The parts of `segments` that follow the first `skip` bytes, `limit` bytes in all.
fn window(segments: &[Segment], mut skip: usize, mut limit: usize) -> impl Iterator<Item = Segment> + '_ {
    segments.iter().filter_map(move |segment| {
        let part = segment.skip(skip).take(limit);
        skip -= skip.min(segment.len);
        limit -= part.len;
        (part.len > 0).then_some(part)
    })
}

impl MemTable {
    /// Copies guest memory into `buf`: the bytes of `segments` that follow the first `skip`. Returns how many there
    /// were, at most `buf.len()`; stops at a segment that is not memory of this table.
    pub fn read(&self, segments: &[Segment], skip: usize, buf: &mut [u8]) -> usize {
        let mut done = 0;
        for part in window(segments, skip, buf.len()).take_while(|part| self.contains(*part)) {
            // SAFETY: `contains` says that the part is mapped by this table; `window` yields `buf.len()` bytes at most.
            unsafe { copy(part.base, buf.as_mut_ptr().add(done), part.len) };
            done += part.len;
        }
        done
    }

    /// Copies `buf` into guest memory: over the bytes of `segments` that follow the first `skip`. Returns how many
    /// were written, at most `buf.len()`; stops at a segment that is not memory of this table.
    pub fn write(&self, segments: &[Segment], skip: usize, buf: &[u8]) -> usize {
        let mut done = 0;
        for part in window(segments, skip, buf.len()).take_while(|part| self.contains(*part)) {
            // SAFETY: `contains` says that the part is mapped by this table; `window` yields `buf.len()` bytes at most.
            unsafe { copy(buf.as_ptr().add(done), part.base, part.len) };
            done += part.len;
        }
        done
    }

    /// Sets `len` bytes of `segments`, those that follow the first `skip`, to zero. Returns how many were set; stops
    /// at a segment that is not memory of this table.
    pub fn zero(&self, segments: &[Segment], skip: usize, len: usize) -> usize {
        let mut done = 0;
        for part in window(segments, skip, len).take_while(|part| self.contains(*part)) {
            // SAFETY: `contains` says that the part is mapped by this table.
            unsafe { std::ptr::write_bytes(part.base, 0, part.len) };
            done += part.len;
        }
        done
    }

    /// Writes one byte, a status for example, to the start of `segment`. False when that is not memory of this table.
    #[inline]
    pub fn write_byte(&self, segment: Segment, value: u8) -> bool {
        let usable = segment.len > 0 && self.contains(segment.take(1));
        if usable {
            // SAFETY: `contains` says that the byte is mapped by this table.
            unsafe { segment.base.write_volatile(value) };
        }
        usable
    }
}

/// A copy the compiler cannot see through: it must not assume that guest memory keeps the value it just had and read
/// it a second time.
///
/// # Safety
/// `len` bytes at `source` and at `target` are mapped, one of the two is memory of our own, and they do not overlap.
#[inline(never)]
unsafe fn copy(source: *const u8, target: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(source, target, len) }
}
