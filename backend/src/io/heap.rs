//! The heap, when much of it is in use no longer.
#![allow(unsafe_code)]

/// Gives the system back what the heap holds of memory that nobody uses any more. Takes milliseconds: not while requests
/// wait.
pub fn give_back_unused_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: looks at no memory but what the allocator has for itself, under its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
