//! What ties a journal to its image: private autoclear bits, one that there is a journal and others with its number.
//!
//! Another program that writes to the image clears them all first, because it does not know them: then the journal is
//! old and never believed. Bits of one field change together, whatever becomes of the rest of the header.

use crate::node::qcow2::header::{Header, bits};

/// The first bit of the number.
const SHIFT: u32 = 16;
/// Bits of the number.
const WIDTH: u32 = 40;

/// The bits that are the number.
pub(super) const NUMBER: u64 = ((1 << WIDTH) - 1) << SHIFT;

impl Header {
    /// The number of the journal that goes with the image as it is.
    pub(in crate::node::qcow2) fn journal(&self) -> Option<u64> {
        Self::journal_of(self.autoclear)
    }

    /// The number that these autoclear bits name.
    pub(super) fn journal_of(autoclear: u64) -> Option<u64> {
        (autoclear & bits::AUTOCLEAR_JOURNAL != 0).then_some((autoclear & NUMBER) >> SHIFT)
    }

    /// Says that a journal with this number goes with the image, or that none does.
    pub(in crate::node::qcow2) fn set_journal(&mut self, id: Option<u64>) {
        self.autoclear &= !(bits::AUTOCLEAR_JOURNAL | NUMBER);
        if let Some(id) = id {
            self.autoclear |= bits::AUTOCLEAR_JOURNAL | (id << SHIFT & NUMBER);
        }
    }
}

/// A number that no other journal has.
pub(super) fn number() -> u64 {
    fastrand::u64(..1 << WIDTH)
}
