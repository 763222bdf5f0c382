//! What can go wrong in a simulated machine, and how often. Each run switches some of it off.

use crate::error::IoError;
use crate::io::OpKind;

/// A way for the storage to betray everybody: for tests of the checkers only, since no product can survive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Flushes succeed and make nothing stable.
    FlushDoesNothing,
    /// One write in sixteen succeeds and changes nothing.
    WriteIsDropped,
    /// Short writes report all of their bytes.
    ShortIsWhole,
    /// One write in sixteen writes one bit wrong.
    BitIsFlipped,
}

/// Faults; frequencies are in 1024ths of the operations they can happen to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Reads that fail with EIO.
    pub read_error: u16,
    /// Writes and zeroes that fail with EIO, perhaps after some sectors.
    pub write_error: u16,
    /// Writes and zeroes that fail with ENOSPC, perhaps after some sectors.
    pub no_space: u16,
    /// Reads and writes that move only a part.
    pub short: u16,
    /// Flushes that fail; the kernel then forgets some of what it could not write, and says so once.
    pub flush_error: u16,
    /// Operations that take very long.
    pub long_delay: u16,
    /// Operations at which the cache writes something back of its own accord.
    pub write_back: u16,
    /// The storage has no discard (and so no zeroes that unmap).
    pub no_discard: bool,
    /// The storage has no way to zero a range.
    pub no_zero: bool,
    /// A discard leaves the old content.
    pub discard_keeps: bool,
    /// What no storage may do.
    pub lie: Option<Lie>,
}

impl Faults {
    /// Each fault on or off by chance, and as frequent as chance has it.
    pub fn random(random: &mut fastrand::Rng) -> Self {
        let mut rate = |most: u16| if random.bool() { random.u16(1..=most) } else { 0 };
        Self {
            read_error: rate(30),
            write_error: rate(30),
            no_space: rate(30),
            short: rate(200),
            flush_error: rate(60),
            long_delay: rate(60),
            write_back: rate(200),
            no_discard: random.bool(),
            no_zero: random.bool(),
            discard_keeps: random.bool(),
            lie: None,
        }
    }

    /// Whether something of this frequency happens now.
    pub(super) fn hits(&self, random: &mut fastrand::Rng, rate: u16) -> bool {
        rate > 0 && random.u16(0..1024) < rate
    }

    /// The error an operation of this kind ends with, if it is to fail.
    pub(super) fn draw(&self, random: &mut fastrand::Rng, kind: OpKind) -> Option<IoError> {
        let rates = match kind {
            OpKind::Read | OpKind::Extent { .. } => [(self.read_error, IoError::Io), (0, IoError::Io)],
            // Connections are cut, see [`super::World::cut_after`].
            OpKind::Receive | OpKind::Send => [(0, IoError::Io); 2],
            OpKind::Flush => [(self.flush_error, IoError::Io), (0, IoError::Io)],
            OpKind::Discard | OpKind::Cut => [(self.write_error, IoError::Io), (0, IoError::Io)],
            OpKind::Write { .. } | OpKind::Zero { .. } | OpKind::Grow => {
                [(self.write_error, IoError::Io), (self.no_space, IoError::NoSpace)]
            }
        };
        rates.into_iter().find(|(rate, _)| self.hits(random, *rate)).map(|(_, error)| error)
    }
}
