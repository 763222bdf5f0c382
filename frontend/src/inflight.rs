//! The shared area in which a back-end keeps track of requests in flight (vhost-user, "Inflight I/O tracking").
//!
//! The front-end only keeps it alive between two back-ends; it never writes to it. The decoder here follows the
//! layout for split virtqueues, so that tests can see what a back-end recorded.

use std::fs::File;
use std::os::unix::fs::FileExt;

use vhost::vhost_user::message::VhostUserInflight;

use crate::error::{Error, Result};

/// Bytes of a queue's header in the area.
const HEADER_LEN: u64 = 16;
/// Bytes of an entry.
const ENTRY_LEN: u64 = 16;

/// The area as the back-end handed it out.
#[derive(Debug)]
pub struct Inflight {
    file: File,
    mmap_size: u64,
    mmap_offset: u64,
    num_queues: u16,
    queue_size: u16,
}

/// What the back-end recorded of one descriptor head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflightEntry {
    /// The descriptor head.
    pub head: u16,
    /// Whether the request was fetched and not yet completed.
    pub in_flight: bool,
    /// Order in which it was fetched.
    pub counter: u64,
}

impl Inflight {
    pub(crate) fn new(file: File, message: &VhostUserInflight) -> Inflight {
        Inflight {
            file,
            mmap_size: message.mmap_size,
            mmap_offset: message.mmap_offset,
            num_queues: message.num_queues,
            queue_size: message.queue_size,
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn message(&self) -> VhostUserInflight {
        VhostUserInflight::new(self.mmap_size, self.mmap_offset, self.num_queues, self.queue_size)
    }

    /// Bytes of the area, as the back-end said.
    pub fn size(&self) -> u64 {
        self.mmap_size
    }

    /// The entries of one queue, read while the back-end may be writing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a queue the area does not have; [`Error::System`] if the file is shorter than it says.
    pub fn entries(&self, queue: u16) -> Result<Vec<InflightEntry>> {
        if queue >= self.num_queues {
            return Err(Error::Invalid { what: "queue", value: u64::from(queue) });
        }
        let queue_len = self.mmap_size / u64::from(self.num_queues);
        let start = self.mmap_offset + u64::from(queue) * queue_len + HEADER_LEN;
        (0..self.queue_size).map(|head| self.entry(start + u64::from(head) * ENTRY_LEN, head)).collect()
    }

    fn entry(&self, position: u64, head: u16) -> Result<InflightEntry> {
        let mut bytes = [0u8; 16];
        self.file.read_exact_at(&mut bytes, position).map_err(Error::system("reading the inflight area"))?;
        let [in_flight, _, _, _, _, _, _, _, counter @ ..] = bytes;
        Ok(InflightEntry { head, in_flight: in_flight == 1, counter: u64::from_le_bytes(counter) })
    }
}
