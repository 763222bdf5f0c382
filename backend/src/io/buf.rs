//! Memory of an operation: owned aligned buffers and pieces of guest memory, kept alive until the kernel is done.
//!
//! A [`Memory`] is the only thing the kernel is given addresses from. It owns its buffer or holds what keeps the guest's
//! mapping in place, so moving, storing or dropping it can never leave a dangling address behind.
#![allow(unsafe_code)]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;
use std::rc::Rc;

mod gather;

/// A number of bytes of memory as `usize`.
///
/// # Panics
/// If it does not fit, which on 64-bit systems (the only ones with io_uring worth serving) it always does.
pub fn byte_count(len: u64) -> usize {
    usize::try_from(len).expect("addresses have 64 bits")
}

/// One contiguous piece; the layout is that of `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Where it starts.
    pub start: NonNull<u8>,
    /// Bytes.
    pub len: usize,
}

/// A zeroed buffer aligned for O_DIRECT.
#[derive(Debug)]
pub struct Buf {
    start: NonNull<u8>,
    layout: Layout,
    is_mapped: bool,
}

impl Buf {
    /// Alignment of every buffer: no storage asks for more.
    pub const ALIGN: usize = 4096;

    /// A copy of `bytes` that is aligned for nothing: what goes to a socket. Aborts when the system has no memory.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let layout = Layout::array::<u8>(bytes.len().max(1)).expect("a slice has a length that can be allocated");
        let mut buf = Self::allocate(layout);
        buf.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
        buf
    }

    /// `len` zeroed bytes. Aborts when the system has no memory.
    ///
    /// # Panics
    /// If `len` is above `isize::MAX`: callers bound their sizes.
    pub fn new(len: usize) -> Self {
        Self::allocate(Layout::from_size_align(len.max(1), Self::ALIGN).expect("buffer length is bounded"))
    }

    /// As [`Buf::new`], with memory that the system has back once it is dropped, whatever else is in use: for what is large
    /// and kept to be used again, because it costs more to come by.
    pub fn mapped(len: usize) -> Self {
        let layout = Layout::from_size_align(len.max(1), Self::ALIGN).expect("buffer length is bounded");
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the kernel chooses a place where nothing is.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), layout.size(), access, flags) };
        let start = start.ok().and_then(|start| NonNull::new(start.cast()));
        Self { start: start.unwrap_or_else(|| handle_alloc_error(layout)), layout, is_mapped: true }
    }

    fn allocate(layout: Layout) -> Self {
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout, is_mapped: false }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the allocation is that long, initialised, and borrowed with self.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    /// The bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and self is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if self.is_mapped {
            // SAFETY: mapped with this length, and borrowed by nobody. A map of ours that is whole cannot fail to go.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.layout.size()) };
        } else {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr(), self.layout) }
        }
    }
}

// SAFETY: a Buf owns its allocation like a Box<[u8]>.
unsafe impl Send for Buf {}

/// What keeps the segments' memory in place.
enum Keep {
    Nothing,
    Buf(Buf),
    Parts(Vec<Memory>),
    /// Never looked at, only dropped: by then the kernel is done.
    Pin(#[allow(dead_code)] Rc<dyn Any>),
}

/// The memory of one operation: a list of segments and what keeps them alive.
pub struct Memory {
    segments: Vec<Segment>,
    len: u64,
    keep: Keep,
    /// All of it, while only a part is to be moved.
    whole: Option<Box<Whole>>,
    /// What wholes are parts of.
    outer: Vec<Option<Box<Whole>>>,
}

/// What a [`Memory`] is apart from the part in view.
struct Whole {
    segments: Vec<Segment>,
    len: u64,
    /// Memory before and after the part, dropped when the whole is back.
    around: [Option<Buf>; 2],
}

impl Memory {
    /// No memory, for operations that need none.
    pub const fn empty() -> Self {
        Self { segments: Vec::new(), len: 0, keep: Keep::Nothing, whole: None, outer: Vec::new() }
    }

    /// Guest memory.
    ///
    /// # Safety
    /// Every segment must be mapped, readable and writable for as long as `pin` lives. Others may change the bytes at
    /// any time: only volatile access is used, here and by the kernel.
    pub unsafe fn from_guest(segments: Vec<Segment>, pin: Rc<dyn Any>) -> Self {
        let len = segments.iter().map(|segment| segment.len as u64).sum();
        Self { segments, len, keep: Keep::Pin(pin), whole: None, outer: Vec::new() }
    }

    /// Total bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Gives the (emptied) segment list back for reuse and lets go of the memory.
    pub fn into_segments(mut self) -> Vec<Segment> {
        self.restore();
        self.segments.clear();
        std::mem::take(&mut self.segments)
    }

    /// The owned buffer; `None` for guest memory.
    pub fn into_buf(self) -> Option<Buf> {
        match self.keep {
            Keep::Buf(buf) => Some(buf),
            _ => None,
        }
    }

    /// Whether each segment starts and ends on a multiple of `align` (a power of two).
    pub fn is_aligned(&self, align: usize) -> bool {
        self.segments.iter().all(|segment| (segment.start.as_ptr() as usize | segment.len) & (align - 1) == 0)
    }

    /// A memory of its own for `len` bytes from `at` of what `whole` has in view, to be moved by an operation of its own.
    /// What is past the end is left out. The whole stays where it is until its last part is gone.
    pub fn part(whole: &Rc<Self>, at: u64, len: u64) -> Self {
        let mut segments = Vec::new();
        whole.each(at, len, |start, len| segments.extend(NonNull::new(start).map(|start| Segment { start, len })));
        // Whatever keeps the segments of the whole in place is in there, and nobody can change it while it is shared.
        let keep = Keep::Pin(whole.clone());
        let len = segments.iter().map(|segment| segment.len as u64).sum();
        Self { segments, len, keep, whole: None, outer: Vec::new() }
    }

    /// Leaves only `len` bytes from offset `at` of the whole in view, for an operation on a part. What is past the end
    /// is left out.
    pub fn narrow(&mut self, at: u64, len: u64) {
        self.restore();
        let mut part = Vec::new();
        self.each(at, len, |start, len| part.extend(NonNull::new(start).map(|start| Segment { start, len })));
        let len = part.iter().map(|segment| segment.len as u64).sum();
        let segments = std::mem::replace(&mut self.segments, part);
        self.whole = Some(Box::new(Whole { segments, len: self.len, around: [None, None] }));
        self.len = len;
    }

    /// Puts owned memory before and after the part in view, to be moved with it.
    pub fn surround(&mut self, head: Option<Buf>, tail: Option<Buf>) {
        if self.whole.is_none() {
            self.narrow(0, self.len);
        }
        let segment = |buf: &Buf| Segment { start: buf.start, len: buf.layout.size() };
        self.len += [&head, &tail].into_iter().flatten().map(|buf| segment(buf).len as u64).sum::<u64>();
        self.segments.splice(0..0, head.as_ref().map(segment));
        self.segments.extend(tail.as_ref().map(segment));
        if let Some(whole) = &mut self.whole {
            whole.around = [head, tail];
        }
    }

    /// The whole in view again; also after a part of the part was moved.
    pub fn restore(&mut self) {
        if let Some(whole) = self.whole.take() {
            (self.segments, self.len) = (whole.segments, whole.len);
        }
    }

    /// Makes the part in view the whole, for somebody who is handed only that and may take parts of it himself.
    pub fn enter(&mut self) {
        // Kept here and nowhere else: it may own what lies around the part.
        self.outer.push(self.whole.take());
    }

    /// Undoes one [`Memory::enter`]: parts are of the same whole again as before.
    pub fn leave(&mut self) {
        self.restore();
        self.whole = self.outer.pop().flatten();
    }

    /// Forgets the first `done` bytes: what is left of a short transfer.
    pub fn advance(&mut self, mut done: u64) {
        self.len = self.len.saturating_sub(done);
        let mut whole = 0;
        for segment in &mut self.segments {
            if done < segment.len as u64 {
                let step = usize::try_from(done).unwrap_or(segment.len);
                // SAFETY: step is below the segment's length.
                segment.start = unsafe { segment.start.add(step) };
                segment.len -= step;
                break;
            }
            done -= segment.len as u64;
            whole += 1;
        }
        self.segments.drain(..whole);
    }

    /// Copies bytes from offset `at` on into `target`; bytes past the end stay as they are.
    pub fn copy_to(&self, at: u64, target: &mut [u8]) {
        let mut done = 0;
        self.each(at, target.len() as u64, |start, len| {
            // SAFETY: `each` yields mapped ranges; target has room for all of them together. The guest may race with
            // the copy, which can tear bytes but touches no memory but this.
            unsafe { std::ptr::copy_nonoverlapping(start, target[done..].as_mut_ptr(), len) };
            done += len;
        });
    }

    /// Copies `source` to offset `at`; bytes past the end are dropped.
    pub fn copy_from(&mut self, at: u64, source: &[u8]) {
        let mut done = 0;
        self.each(at, source.len() as u64, |start, len| {
            // SAFETY: as in copy_to, the other way.
            unsafe { std::ptr::copy_nonoverlapping(source[done..].as_ptr(), start, len) };
            done += len;
        });
    }

    /// Fills `len` bytes from offset `at` on with zeroes.
    pub fn fill_zero(&mut self, at: u64, len: u64) {
        // SAFETY: `each` yields mapped ranges.
        self.each(at, len, |start, len| unsafe { std::ptr::write_bytes(start, 0, len) });
    }

    /// Whether all bytes are zero right now.
    pub fn is_zero(&self) -> bool {
        let mut zero = true;
        self.each(0, self.len, |start, len| {
            let mut block = [0u8; 512];
            let mut at = 0;
            while zero && at < len {
                let part = (len - at).min(block.len());
                // SAFETY: inside the mapped range; copied out first because the guest may write meanwhile.
                unsafe { std::ptr::copy_nonoverlapping(start.add(at), block.as_mut_ptr(), part) };
                zero = block[..part].iter().all(|byte| *byte == 0);
                at += part;
            }
        });
        zero
    }

    fn each(&self, mut at: u64, mut len: u64, mut visit: impl FnMut(*mut u8, usize)) {
        for segment in &self.segments {
            let size = segment.len as u64;
            if at >= size {
                at -= size;
                continue;
            }
            let part = (size - at).min(len);
            if part == 0 {
                return;
            }
            // SAFETY: `at` is inside the segment.
            visit(unsafe { segment.start.as_ptr().add(byte_count(at)) }, byte_count(part));
            len -= part;
            at = 0;
        }
    }
}

impl From<Buf> for Memory {
    fn from(buf: Buf) -> Self {
        let segment = Segment { start: buf.start, len: buf.layout.size() };
        Self { segments: vec![segment], len: segment.len as u64, keep: Keep::Buf(buf), whole: None, outer: Vec::new() }
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes in {})", self.len, self.segments.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: &[u8]) -> Memory {
        let mut buf = Buf::new(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        Memory::from(buf)
    }

    fn content(memory: &Memory) -> Vec<u8> {
        let mut bytes = vec![0; byte_count(memory.len())];
        memory.copy_to(0, &mut bytes);
        bytes
    }

    #[test]
    fn a_part_is_moved_alone_or_between_other_bytes_and_the_whole_comes_back() {
        let mut memory = memory(b"abcdefgh");
        memory.narrow(2, 3);
        assert_eq!((content(&memory), memory.len()), (b"cde".to_vec(), 3));
        let around = |byte: u8, len| {
            let mut buf = Buf::new(len);
            buf.as_mut_slice().fill(byte);
            buf
        };
        memory.surround(Some(around(b'-', 2)), Some(around(b'+', 1)));
        assert_eq!(content(&memory), b"--cde+");
        // As after a short transfer.
        memory.advance(4);
        assert_eq!(content(&memory), b"e+");
        memory.narrow(6, 100);
        assert_eq!(content(&memory), b"gh", "parts are of the whole, and end with it");
        memory.restore();
        assert_eq!((content(&memory), memory.len()), (b"abcdefgh".to_vec(), 8));
        assert_eq!(memory.into_buf().unwrap().as_slice(), b"abcdefgh");
    }

    #[test]
    fn parts_are_moved_by_themselves_and_outlive_the_whole() {
        let mut memory = memory(b"abcdefgh");
        memory.narrow(1, 6);
        let whole = Rc::new(memory);
        let (mut first, second) = (Memory::part(&whole, 0, 2), Memory::part(&whole, 2, 100));
        first.copy_from(0, b"12345");
        assert_eq!((content(&first), content(&second)), (b"12".to_vec(), b"defg".to_vec()), "inside what is in view");
        assert_eq!(content(&whole), b"12defg");
        drop((first, whole));
        assert_eq!(content(&second), b"defg");
    }

    #[test]
    fn a_part_has_parts_of_its_own() {
        let mut memory = memory(b"abcdefgh");
        memory.narrow(2, 4);
        memory.enter();
        memory.narrow(1, 2);
        assert_eq!(content(&memory), b"de");
        memory.advance(2);
        memory.leave();
        assert_eq!(content(&memory), b"cdef");
        memory.restore();
        assert_eq!(content(&memory), b"abcdefgh");
    }
}
