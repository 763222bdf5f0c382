//! What is measured: storage, access pattern, depth, queues.

use std::fmt;

use crate::storage::Storage;

/// How the disk is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// 4 KiB at random offsets.
    RandRead,
    /// 4 KiB at random offsets.
    RandWrite,
    /// 1 MiB, front to back.
    SeqRead,
    /// 1 MiB, front to back.
    SeqWrite,
}

impl Pattern {
    /// Whether data goes to the disk.
    pub fn writes(self) -> bool {
        matches!(self, Pattern::RandWrite | Pattern::SeqWrite)
    }

    /// Whether offsets are random.
    pub fn is_random(self) -> bool {
        matches!(self, Pattern::RandRead | Pattern::RandWrite)
    }

    /// Bytes per request.
    pub fn block_size(self) -> u32 {
        if self.is_random() { 4096 } else { 1 << 20 }
    }

    /// The name fio has for it.
    pub fn fio_name(self) -> &'static str {
        match self {
            Pattern::RandRead => "randread",
            Pattern::RandWrite => "randwrite",
            Pattern::SeqRead => "read",
            Pattern::SeqWrite => "write",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What lies under the daemons.
    pub storage: Storage,
    /// How it is accessed.
    pub pattern: Pattern,
    /// Requests in flight per queue.
    pub depth: u16,
    /// Number of queues.
    pub queues: u16,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = match self.pattern {
            Pattern::RandRead => "randread-4k",
            Pattern::RandWrite => "randwrite-4k",
            Pattern::SeqRead => "seqread-1m",
            Pattern::SeqWrite => "seqwrite-1m",
        };
        write!(f, "{}/{pattern}/d{}/q{}", self.storage, self.depth, self.queues)
    }
}
