//! What the client's thread is asked to do, and how it ended. It owns its memory: whoever asked may be gone by then.

use crate::error::IoError;
use crate::io::Buf;
use crate::nbd_wire::transmission::{Command, Extent};
use crate::reactor::Ticket;

/// One command to the server.
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) flags: u16,
    pub(super) offset: u64,
    /// Bytes; those of `buf` for reads and writes.
    pub(super) len: u64,
    /// To read into or write from.
    pub(super) buf: Option<Buf>,
    pub(super) ticket: Ticket<Done>,
}

/// How a command has ended.
pub(super) struct Done {
    pub(super) buf: Option<Buf>,
    /// What block status says.
    pub(super) extents: Vec<Extent>,
    pub(super) result: Result<(), IoError>,
}

/// A letter to the client's thread.
pub(super) enum Letter {
    Do(Job),
    /// Nobody asks any more.
    Close,
}
