//! In-flight tracking in memory that outlives the process: `VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD`, split virtqueues.
//!
//! The front-end keeps an area with one region per queue. A queue notes there which requests it has fetched and not
//! yet completed, so that after a crash the next process does again exactly those. [`InflightArea`] is the mapped
//! area, [`Tracker`] the algorithm over one region (docs/interop/vhost-user.rst, "Inflight I/O tracking").
//!
//! It does not know rings: [`super::ring::Ring`] calls it at the right moments.

mod area;
#[cfg(test)]
mod tests;
mod tracker;

pub use area::{InflightArea, InflightRegion};
pub use tracker::{Recovery, Tracker};

/// Why an area or a region in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InflightError {
    /// The area cannot be made or mapped.
    #[error("cannot map the in-flight area: {0}")]
    Map(#[from] super::memory::MemoryError),
    /// The kernel refused to make the memory file.
    #[error("cannot create the in-flight area: {0}")]
    Create(#[from] std::io::Error),
    /// The area is smaller than so many queues of that size need, or its position is not aligned.
    #[error("in-flight area of {size} bytes at offset {offset} cannot hold {queues} queues of {queue_size}")]
    BadLayout {
        /// Length of the area in bytes.
        size: u64,
        /// Where it starts in its file.
        offset: u64,
        /// Number of queues it is said to hold.
        queues: u16,
        /// Entries of each queue.
        queue_size: u16,
    },
    /// There is no region for this queue.
    #[error("the in-flight area has no region for queue {0}")]
    NoRegion(u16),
    /// The region was written by a version we do not know, or for a queue of another size.
    #[error("in-flight region has version {version} and {desc_num} entries")]
    Unknown {
        /// The version found.
        version: u16,
        /// The number of entries found.
        desc_num: u16,
    },
    /// An entry is in flight that the virtqueue does not have.
    #[error("in-flight entry {0} is beyond the end of the virtqueue")]
    BeyondQueue(u16),
}
