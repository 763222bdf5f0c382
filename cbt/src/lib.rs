//! Changed-block tracking: bitmaps of dirty blocks and maps of chunks still to be copied. No I/O, no async.
//!
//! # The three orderings
//!
//! * **Dirty**, of a bitmap that is swapped out before it is read: the bit is set when the write is submitted, inside
//!   the section that a swap waits for, and the bitmap is read when the writes from before the swap have ended.
//!   Of one that is taken from while it records: data lands, then the bit is set, then the write is acknowledged, also if it failed. A consumer takes
//!   (clears) the bit, then reads, then copies. Setting a bit only before the write loses updates. Whoever skips a bit
//!   that is set already needs a SeqCst fence before looking, and a taker a SeqCst exchange.
//! * **Owed** (copy-before-write): one two-bit state per chunk, changed by compare-and-swap only: OWED to BUSY to DONE,
//!   on failure BUSY to OWED. A write goes to a chunk when it is DONE; a reader of old data reads first and looks at the
//!   state afterwards.
//! * **Journal**: an area's bit is durable before the first write into that area is submitted.
#![forbid(unsafe_code)]

mod bitmap;
mod copy_map;
mod granularity;
pub mod journal;
mod sync;
mod waiters;

pub use bitmap::Bitmap;
pub use copy_map::{ChunkState, CopyMap};
pub use granularity::Granularity;
pub use waiters::Waiters;

/// There is no memory for a bitmap of this size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cannot allocate memory for a bitmap")]
pub struct OutOfMemory;

/// `count` zeroes that take up no memory before they are used.
#[cfg(not(loom))]
fn zeroed(count: u64) -> Result<Box<[sync::AtomicU64]>, OutOfMemory> {
    let count = usize::try_from(count).map_err(|_| OutOfMemory)?;
    bytemuck::allocation::try_zeroed_slice_box(count).map_err(|()| OutOfMemory)
}

#[cfg(loom)]
fn zeroed(count: u64) -> Result<Box<[sync::AtomicU64]>, OutOfMemory> {
    Ok((0..count).map(|_| sync::AtomicU64::new(0)).collect())
}
