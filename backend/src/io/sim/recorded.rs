//! The stream of what has changed disks, and of what was made stable, in the order in which it took effect.
//!
//! Whoever replays it up to some event knows every state that a power cut at that moment may leave. Changes are whole
//! sectors, as a cache writes them: of a shorter write, with what was around it. Judges nothing and loses nothing.

use crate::io::FileId;
use std::ops::Range;

/// A change of one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sectors with their new content.
    Sectors {
        /// Bytes into the disk; a sector's first.
        offset: u64,
        /// Whole sectors, but for the last of a disk.
        bytes: Vec<u8>,
        /// They were zeroed or discarded, not written.
        zeroed: bool,
    },
    /// The disk has another length, in bytes; what is new reads as zeroes.
    Length(u64),
}

/// Something that has happened to one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A change that is not stable.
    Change {
        /// Whose.
        file: FileId,
        /// Which.
        change: Change,
    },
    /// Changes have become stable.
    Stable {
        /// Whose.
        file: FileId,
        /// Those before the event of this number.
        before: usize,
        /// Of these bytes.
        bytes: Range<u64>,
    },
    /// A flush has failed: no flush makes these changes stable any more, though each may be.
    GivenUp {
        /// Whose.
        file: FileId,
        /// Those before the event of this number.
        before: usize,
    },
}

/// The events so far; `None` while nobody wants them.
#[derive(Default)]
pub(super) struct Record(Option<Vec<Event>>);

impl Record {
    pub(super) fn begin(&mut self) {
        self.0 = Some(Vec::new());
    }

    pub(super) fn end(&mut self) -> Vec<Event> {
        self.0.take().unwrap_or_default()
    }

    /// The number of the next event.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, Vec::len)
    }

    pub(super) fn add(&mut self, events: impl IntoIterator<Item = Event>) {
        if let Some(record) = &mut self.0 {
            record.extend(events);
        }
    }
}
