//! Pieces of guest memory: cutting them, copying between them and our own memory, handing them to an operation.
//!
//! A [`Segment`] is an address and a length, no promise that they are mapped: what is here is safe because it looks
//! every segment up in the table it is called on.
#![allow(unsafe_code)]

use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use super::MemTable;
use crate::io::{Memory, Segment};

/// Cuts the first `len` bytes off (all, when there are fewer).
#[inline]
pub(crate) fn skip(segment: Segment, len: usize) -> Segment {
    let len = len.min(segment.len);
    let start = NonNull::new(segment.start.as_ptr().wrapping_add(len));
    Segment { start: start.unwrap_or(segment.start), len: segment.len - len }
}

/// The first `len` bytes (all, when there are fewer).
#[inline]
pub(crate) fn take(segment: Segment, len: usize) -> Segment {
    Segment { start: segment.start, len: len.min(segment.len) }
}

/// Holds a table for the operations of one thread; counted without atomics, so that threads with operations on the
/// same table do not fight over a cache line.
#[derive(Debug, Clone)]
pub struct MemoryPin(Rc<PinnedTable>);

#[derive(Debug)]
struct PinnedTable(Arc<MemTable>);

impl MemoryPin {
    /// Holds `table`.
    #[must_use]
    pub fn new(table: Arc<MemTable>) -> MemoryPin {
        MemoryPin(Rc::new(PinnedTable(table)))
    }

    /// `segments` as the memory of an operation, which keeps the table and with it the mappings. `None` when a
    /// segment is not memory of this table.
    #[must_use]
    pub fn memory_of(&self, segments: Vec<Segment>) -> Option<Memory> {
        let mapped = segments.iter().all(|segment| self.contains(*segment));
        // SAFETY: `contains` says that each segment lies in a mapping of the table, readable and writable, and the pin
        // keeps the table.
        mapped.then(|| unsafe { Memory::from_guest(segments, self.0.clone()) })
    }
}

impl Deref for MemoryPin {
    type Target = MemTable;

    #[inline]
    fn deref(&self) -> &MemTable {
        &self.0.0
    }
}

/// The parts of `segments` that follow the first `skip` bytes, `limit` bytes in all.
fn window(segments: &[Segment], mut skip: usize, mut limit: usize) -> impl Iterator<Item = Segment> + '_ {
    segments.iter().filter_map(move |segment| {
        let part = take(self::skip(*segment, skip), limit);
        skip -= skip.min(segment.len);
        limit -= part.len;
        (part.len > 0).then_some(part)
    })
}

impl MemTable {
    /// Copies guest memory into `buf`: the bytes of `segments` that follow the first `skip`. Returns how many there
    /// were, at most `buf.len()`; stops at a segment that is not memory of this table.
    #[inline]
    pub fn read(&self, segments: &[Segment], skip: usize, buf: &mut [u8]) -> usize {
        if let ([first, ..], 0) = (segments, skip)
            && first.len >= buf.len()
            && self.contains(*first)
        {
            // SAFETY: `contains` says that the segment is mapped by this table, and it is as long as `buf`.
            unsafe { copy(first.start.as_ptr(), buf.as_mut_ptr(), buf.len()) };
            return buf.len();
        }
        self.read_pieces(segments, skip, buf)
    }

    fn read_pieces(&self, segments: &[Segment], skip: usize, buf: &mut [u8]) -> usize {
        let mut done = 0;
        for part in window(segments, skip, buf.len()).take_while(|part| self.contains(*part)) {
            // SAFETY: `contains` says that the part is mapped by this table; `window` yields `buf.len()` bytes at most.
            unsafe { copy(part.start.as_ptr(), buf.as_mut_ptr().add(done), part.len) };
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
            unsafe { copy(buf.as_ptr().add(done), part.start.as_ptr(), part.len) };
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
            unsafe { std::ptr::write_bytes(part.start.as_ptr(), 0, part.len) };
            done += part.len;
        }
        done
    }

    /// Writes one byte, a status for example, to the start of `segment`. False when that is not memory of this table.
    #[inline]
    pub fn write_byte(&self, segment: Segment, value: u8) -> bool {
        let usable = segment.len > 0 && self.contains(take(segment, 1));
        if usable {
            // SAFETY: `contains` says that the byte is mapped by this table.
            unsafe { segment.start.as_ptr().write_volatile(value) };
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
