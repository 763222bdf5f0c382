//! Copy-before-write: a write waits until what it overwrites has been copied to a target, and for nothing else.
//!
//! Each chunk is owed, being copied or done (`cbt::CopyMap`, the Owed ordering). Whoever claims an owed chunk copies it:
//! the write that needs it done, or a background reader. Nothing is copied before the writes from before the point in
//! time have ended (`Phase::Settling`), because they still change what the copy is to hold. A copy under way is a task
//! of its own: the write that waits for it may give up, and the copy still ends.

mod copying;
mod filter;
mod keeping;
mod snapshot_access;
mod top;
mod waiting;

pub use filter::{Filter, check};
pub use snapshot_access::SnapshotAccess;

use super::{Node, Root};
use crate::error::IoError;
use crate::io::Buf;
use crate::reactor::Handle;
use copying::Failure;
use keeping::Keeping;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use tidemark_cbt::{Bitmap, ChunkState, CopyMap, Granularity, OutOfMemory, Waiters};
use waiting::Patience;

/// The most bytes of one copy.
pub const PIECE_MAX: u64 = 1 << 20;
/// The most bytes that copies made for guests' writes hold in memory at a time, per point in time.
pub const MEMORY_MAX: u64 = 64 << 20;
/// Buffers kept for the next copies, of [`PIECE_MAX`] bytes at most; more than a queue copies at a time helps nobody.
const SPARE_MAX: usize = 16;
/// Bits of a map are not to take more than 16 MiB: 2 bits a chunk.
const CHUNKS_MAX: u64 = 64 << 20;
/// The finest chunk: no storage writes less than this without reading first.
const CHUNK_MIN: u64 = 4096;

/// What becomes of a write whose copy fails (`on-cbw-error`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCbwError {
    /// The write fails, the point in time stays whole.
    #[default]
    BreakGuestWrite,
    /// The write goes on, and the point in time can no longer be read.
    BreakSnapshot,
}

/// What may be done with chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Which chunks are owed is not known yet: every write waits.
    Mapping,
    /// Writes from before are under way: owed chunks wait.
    Settling,
    /// Chunks are copied.
    Ready,
    /// Nobody needs the point in time any more.
    Ended,
}

/// How a point in time is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct CbwOptions {
    /// What becomes of a write whose copy fails.
    pub on_error: OnCbwError,
    /// Nanoseconds after which a copy counts as failed; 0 waits for ever.
    pub timeout_ns: u64,
    /// The least bytes of a chunk, a power of two; 0 leaves it to the target.
    pub min_chunk: u64,
}

/// One point in time of a node, on its way to a target.
pub struct CopyBeforeWrite {
    source: Arc<Node>,
    target: Arc<Node>,
    /// The target knows that it is one.
    _keeping: Keeping,
    map: CopyMap,
    /// What may be read of the point in time; all of it if `None`.
    access: Option<Bitmap>,
    options: CbwOptions,
    phase: AtomicU8,
    /// Why the point in time is lost, once it is.
    broken: OnceLock<IoError>,
    memory: AtomicU64,
    /// Buffers that are not in use.
    spare: Mutex<Vec<Buf>>,
    waiters: Waiters<Waker>,
    copies: AtomicU64,
    copied: AtomicU64,
    top: top::Top,
}

/// The chunk that suits a disk of `len` bytes: fine, because a write of 4 KiB then costs a copy of 4 KiB, but not finer
/// than storage or memory like.
pub fn chunk_size(len: u64, alignment: u64, min_chunk: u64) -> Granularity {
    let fit = len.div_ceil(CHUNKS_MAX).next_power_of_two();
    let bytes = fit.max(CHUNK_MIN).max(alignment).max(min_chunk).min(Granularity::MAX_BYTES);
    Granularity::new(bytes).unwrap_or(Granularity::DEFAULT)
}

/// The chunk that suits these nodes.
fn chunk_of(source: &Node, target: &Node, options: CbwOptions) -> Granularity {
    let alignment = u64::from(source.request_alignment().max(target.request_alignment()));
    chunk_size(source.length(), alignment, options.min_chunk)
}

impl CopyBeforeWrite {
    /// A point in time of `source` that owes nothing yet, in phase [`Phase::Mapping`].
    ///
    /// # Errors
    /// [`OutOfMemory`] for the map.
    pub fn new(
        source: &Arc<Node>,
        target: &Arc<Node>,
        access: Option<Bitmap>,
        options: CbwOptions,
    ) -> Result<Arc<Self>, OutOfMemory> {
        let chunk = chunk_of(source, target, options);
        Ok(Arc::new(Self {
            source: source.clone(),
            target: target.clone(),
            _keeping: Keeping::begin(source, target),
            map: CopyMap::new(source.length(), chunk)?,
            access,
            options,
            phase: AtomicU8::new(Phase::Mapping as u8),
            broken: OnceLock::new(),
            memory: AtomicU64::new(0),
            spare: Mutex::default(),
            waiters: Waiters::new(),
            copies: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            top: top::Top::default(),
        }))
    }

    /// As [`CopyBeforeWrite::new`], for readers: nothing may be read yet, and nothing of what may be read later is kept
    /// for longer than its reader needs it.
    ///
    /// # Errors
    /// [`OutOfMemory`] for the maps.
    pub fn for_readers(source: &Arc<Node>, target: &Arc<Node>, options: CbwOptions) -> Result<Arc<Self>, OutOfMemory> {
        let access = Bitmap::new(source.length(), chunk_of(source, target, options))?;
        Self::new(source, target, Some(access), options)
    }

    /// What may be read of the point in time; all of it if `None`.
    pub fn access(&self) -> Option<&Bitmap> {
        self.access.as_ref()
    }

    /// The node whose content is kept.
    pub fn source(&self) -> &Arc<Node> {
        &self.source
    }

    /// Where it is kept.
    pub fn target(&self) -> &Arc<Node> {
        &self.target
    }

    /// How it is kept.
    pub fn options(&self) -> CbwOptions {
        self.options
    }

    /// Which chunks are still owed.
    pub fn map(&self) -> &CopyMap {
        &self.map
    }

    /// Copies made because a write needed them: how many, and bytes.
    pub fn copied_for_writes(&self) -> (u64, u64) {
        (self.copies.load(Ordering::Relaxed), self.copied.load(Ordering::Relaxed))
    }

    /// What may be done with chunks now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Mapping,
            1 => Phase::Settling,
            2 => Phase::Ready,
            _ => Phase::Ended,
        }
    }

    /// Goes on to a later phase; whoever waits looks again.
    pub fn enter_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        self.waiters.wake_all(Waker::wake);
    }

    /// Hangs this on its source. Inside a hold of the source, or before anything uses it.
    pub fn install(self: &Arc<Self>) {
        self.source.points.add_copy(self.clone());
    }

    /// Takes this off its source; inside a hold of the source. Ends the phase.
    pub fn uninstall(self: &Arc<Self>) {
        self.source.points.remove_copy(self);
        self.enter_phase(Phase::Ended);
    }

    /// Whether no copy for a write is under way. In phase [`Phase::Ended`] none begins any more.
    pub fn is_quiet(&self) -> bool {
        self.memory.load(Ordering::SeqCst) == 0
    }

    /// Whether the point in time is lost to a failed copy.
    pub fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// What the copy failed with that the point in time is lost to.
    pub fn broken_by(&self) -> Option<IoError> {
        self.broken.get().copied()
    }

    /// Whether a write to the range need not wait for anything.
    #[inline]
    pub fn lets_pass(&self, offset: u64, len: u64) -> bool {
        match self.phase() {
            Phase::Mapping => false,
            Phase::Settling | Phase::Ready => self.map.is_done(offset, len) || self.is_broken(),
            // A copy under way still reads what it is to copy.
            Phase::Ended => self.map.first(offset..offset.saturating_add(len), ChunkState::Busy).is_none(),
        }
    }

    /// Waits until a write to the range may go on, copying what is owed there.
    ///
    /// # Errors
    /// As `on-cbw-error` says when a copy fails or takes too long.
    pub(super) async fn before(
        self: &Arc<Self>,
        io: &Handle,
        target: &Rc<Root>,
        offset: u64,
        len: u64,
        waiting: &Root,
    ) -> Result<(), IoError> {
        let failure = Failure::default();
        let mut patience = Patience::new(io, self.options.timeout_ns, waiting);
        while !self.lets_pass(offset, len) {
            if self.phase() == Phase::Ready {
                self.copy_owed(io, target, offset..offset + len, &failure);
            }
            let in_time = self.changed(io, offset..offset + len, &failure, &mut patience).await;
            let error = failure.take().or((!in_time).then_some(IoError::Io));
            if let Some(error) = error {
                tracing::warn!(node = self.source.name(), offset, len, %error, "copy before write failed");
                return self.fail(error);
            }
        }
        Ok(())
    }

    fn fail(&self, error: IoError) -> Result<(), IoError> {
        match self.options.on_error {
            OnCbwError::BreakGuestWrite => Err(IoError::Io),
            OnCbwError::BreakSnapshot => {
                // Before the write that could not wait: a reader looks at this after it has read the source.
                // The first reason is the one that matters.
                let _ = self.broken.set(error);
                self.waiters.wake_all(Waker::wake);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
