//! Driver `raw`: a window into its child.
//!
//! When nobody said that the disk is raw, a guest could write an image header and have the next program that guesses
//! formats open files of its choice: such a write is refused, as QEMU does.

use super::link::Link;
use super::{Driver, Kind, Map, Node, Outcome, Request};
use crate::error::{GraphError, IoError};
use crate::io::{Buf, Memory, byte_count};
use crate::node::options::RawOptions;
use crate::reactor::Handle;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes at the start of a disk that format guessers look at.
const PROBED: u64 = 512;

/// Magics of formats that a guess could find, and where: (offset, bytes).
const MAGICS: [(usize, &[u8]); 10] = [
    (0, b"QFI\xfb"),
    (0, b"QED\0"),
    (0, b"KDMV"),
    (0, b"COWD"),
    (0, b"# Disk DescriptorFile"),
    (0, b"vhdxfile"),
    (0, b"conectix"),
    (0, b"WithoutFreeSpace"),
    (0, b"WithouFreSpacExt"),
    (64, &[0x7f, 0x10, 0xda, 0xbe]),
];

/// Whether the first sector of a disk looks like an image of another format.
pub fn has_image_magic(sector: &[u8]) -> bool {
    MAGICS.iter().any(|(at, magic)| sector.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
}

/// A window into a node.
pub struct Raw {
    child: Link,
    offset: AtomicU64,
    /// False: the window ends where the child ends.
    fixed_size: AtomicBool,
    guard: bool,
}

impl Raw {
    /// A window; returns it and its length.
    ///
    /// # Errors
    /// With QEMU's texts, when the window is not inside the child.
    pub fn new(child: Arc<Node>, options: &RawOptions) -> Result<(Self, u64), GraphError> {
        let size = Self::size_over(child.length(), options)?;
        let raw = Self {
            child: Link::new(child),
            offset: AtomicU64::new(options.offset),
            fixed_size: AtomicBool::new(options.size.is_some()),
            guard: options.guard_format,
        };
        Ok((raw, size))
    }

    /// The length of a window into a child of `real` bytes.
    ///
    /// # Errors
    /// As [`Raw::new`].
    pub(crate) fn size_over(real: u64, options: &RawOptions) -> Result<u64, GraphError> {
        let fail = |text: String| Err(GraphError::Options(text));
        if options.offset > real {
            return fail(format!(
                "Offset ({}) cannot be greater than size of the containing file ({real})",
                options.offset
            ));
        }
        let rest = real - options.offset;
        let size = options.size.unwrap_or(rest);
        if size > rest {
            return fail(format!(
                "The sum of offset ({}) and size ({size}) has to be smaller or equal to the  actual size of the \
                 containing file ({real})",
                options.offset
            ));
        }
        if options.size.is_some_and(|size| size % 512 != 0) {
            return fail("Specified size is not multiple of 512".into());
        }
        Ok(size)
    }

    /// Another window, which has been checked; inside [`crate::node::points::hold`].
    pub(crate) fn change(&self, child: Option<Arc<Node>>, options: &RawOptions) {
        child.into_iter().for_each(|child| self.child.change(child));
        self.offset.store(options.offset, Ordering::Release);
        self.fixed_size.store(options.size.is_some(), Ordering::Release);
    }

    /// Over another node, which is as long; inside [`crate::node::points::hold`].
    pub(crate) fn lead(&self, child: &Arc<Node>) {
        self.child.change(child.clone());
    }

    /// The node below.
    pub fn child(&self) -> Arc<Node> {
        self.child.get()
    }

    /// Bytes into the child.
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }

    /// Whether `size` was given.
    pub fn has_fixed_size(&self) -> bool {
        self.fixed_size.load(Ordering::Acquire)
    }

    /// Whether it shows a part of what is below it, as far as it was told.
    pub fn is_window(&self) -> bool {
        self.offset() > 0 || self.has_fixed_size()
    }

    fn is_guarded(&self, request: &Request, offset: u64) -> bool {
        self.guard && request.kind == Kind::Write && offset < PROBED
    }

    fn below(&self, mut request: Request) -> Request {
        // The window is inside the child, unless it has just become another one: then the child refuses.
        request.offset = request.offset.saturating_add(self.offset());
        request
    }

    #[inline(never)]
    pub(super) fn map(&self, request: &Request, offset: u64) -> Map {
        if self.is_guarded(request, offset) {
            return Map::Task;
        }
        // The window is inside the child, so the sum cannot overflow for a checked request.
        self.child.with(|child| child.map_at(request, offset.saturating_add(self.offset())))
    }

    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        if self.is_guarded(&request, request.offset) {
            return self.write_guarded(io, request).await;
        }
        let child = self.child();
        if let Driver::BlkDebug(filter) = child.driver() {
            match request.kind {
                Kind::Read => filter.event("read_aio"),
                Kind::Write => filter.event("write_aio"),
                Kind::Flush => ["flush_to_os", "flush_to_disk"].into_iter().for_each(|event| filter.event(event)),
                _ => {}
            }
        }
        child.handle(io, self.below(request)).await
    }

    /// Checks a private copy of the first sector and writes that copy: the guest may change its own meanwhile.
    async fn write_guarded(&self, io: &Handle, mut request: Request) -> Outcome {
        let child = self.child();
        let mut head = Buf::new(byte_count(PROBED));
        let len = request.len.min(PROBED - request.offset);
        let part = byte_count(request.offset)..byte_count(request.offset + len);
        if len < PROBED {
            let read = Request { kind: Kind::Read, fua: false, offset: 0, len: PROBED, memory: Memory::from(head) };
            let (memory, result) = child.handle(io, self.below(read)).await;
            match (memory.into_buf(), result) {
                (Some(buf), Ok(())) => head = buf,
                (_, result) => return (request.memory, result.and(Err(IoError::Io))),
            }
        }
        request.memory.copy_to(0, &mut head.as_mut_slice()[part.clone()]);
        if has_image_magic(head.as_slice()) {
            tracing::warn!(
                node = child.name(),
                "refused a guest's write of an image header to sector 0 of a disk whose format was not given; \
                 --format raw allows it"
            );
            return (request.memory, Err(IoError::Permission));
        }
        let mut first = Buf::new(part.len());
        first.as_mut_slice().copy_from_slice(&head.as_slice()[part]);
        let write =
            Request { kind: Kind::Write, fua: request.fua, offset: request.offset, len, memory: Memory::from(first) };
        if let (_, Err(error)) = child.handle(io, self.below(write)).await {
            return (request.memory, Err(error));
        }
        request.memory.advance(len);
        request.offset += len;
        request.len -= len;
        match request.len {
            0 => (request.memory, Ok(())),
            _ => child.handle(io, self.below(request)).await,
        }
    }
}
