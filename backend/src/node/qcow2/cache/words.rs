//! Long slices of atomic words that take no memory before they are written to.

use crate::sync::AtomicU64;

/// `count` words, all 0; `None` when there is no memory.
#[cfg(not(loom))]
pub(super) fn zeroed(count: usize) -> Option<Box<[AtomicU64]>> {
    bytemuck::allocation::try_zeroed_slice_box(count).ok()
}

/// The same where atomics are more than words.
#[cfg(loom)]
pub(super) fn zeroed(count: usize) -> Option<Box<[AtomicU64]>> {
    Some((0..count).map(|_| AtomicU64::new(0)).collect())
}
