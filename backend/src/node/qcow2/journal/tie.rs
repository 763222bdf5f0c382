//! What ties journals to their image: private autoclear bits, one for each kind that there is and others with the number
//! of all of them.
//!
//! Another program that writes to the image clears them all first, because it does not know them: then a journal is
//! old and never believed. Bits of one field change together, whatever becomes of the rest of the header. While an image
//! is closed, the same number says in what state its data file was left.

use crate::node::qcow2::header::{Header, bits};

/// The first bit of the number.
const SHIFT: u32 = 16;
/// Bits of the number.
const WIDTH: u32 = 40;

/// The bits that are the number.
pub(super) const NUMBER: u64 = ((1 << WIDTH) - 1) << SHIFT;
/// Every private bit.
const ALL: u64 = NUMBER
    | bits::AUTOCLEAR_JOURNAL
    | bits::AUTOCLEAR_CHANGES
    | bits::AUTOCLEAR_SHARED_CHANGES
    | bits::AUTOCLEAR_DATA_LEFT;

/// Where a change journal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// In a file.
    File,
    /// With the journal of tables, in memory.
    Shared,
}

/// What goes with an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tie {
    /// The number of its journals.
    pub number: u64,
    /// A journal of tables goes with it.
    pub tables: bool,
    /// A change journal does.
    pub changes: Option<Changes>,
    /// The number is that of its data file as it was left, and no journal goes with it.
    pub data_left: bool,
}

impl Tie {
    /// What these autoclear bits say.
    pub(super) fn of(autoclear: u64) -> Self {
        let has = |bit: u64| autoclear & bit != 0;
        let changes = match (has(bits::AUTOCLEAR_CHANGES), has(bits::AUTOCLEAR_SHARED_CHANGES)) {
            (true, _) => Some(Changes::File),
            (false, true) => Some(Changes::Shared),
            (false, false) => None,
        };
        Self {
            number: (autoclear & NUMBER) >> SHIFT,
            tables: has(bits::AUTOCLEAR_JOURNAL),
            changes,
            data_left: has(bits::AUTOCLEAR_DATA_LEFT),
        }
    }

    fn bits(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        (self.number << SHIFT & NUMBER)
            | bit(self.tables, bits::AUTOCLEAR_JOURNAL)
            | bit(self.changes == Some(Changes::File), bits::AUTOCLEAR_CHANGES)
            | bit(self.changes == Some(Changes::Shared), bits::AUTOCLEAR_SHARED_CHANGES)
            | bit(self.data_left, bits::AUTOCLEAR_DATA_LEFT)
    }
}

impl Header {
    /// What goes with the image as it is.
    pub(in crate::node::qcow2) fn tie(&self) -> Tie {
        Tie::of(self.autoclear)
    }

    /// Whether it was not closed and has a change journal: what its bitmaps lack is there.
    pub fn has_change_journal(&self) -> bool {
        self.tie().changes.is_some()
    }

    /// Whether it has one in a file.
    pub fn has_change_journal_file(&self) -> bool {
        self.tie().changes == Some(Changes::File)
    }

    /// The number of the journal of tables that goes with the image as it is.
    pub(in crate::node::qcow2) fn journal(&self) -> Option<u64> {
        let tie = self.tie();
        tie.tables.then_some(tie.number)
    }

    /// The number of a journal in memory that these autoclear bits name.
    pub(super) fn journal_of(autoclear: u64) -> Option<u64> {
        let tie = Tie::of(autoclear);
        (tie.tables || tie.changes == Some(Changes::Shared)).then_some(tie.number)
    }

    /// Says what goes with the image.
    pub(in crate::node::qcow2) fn set_tie(&mut self, tie: Tie) {
        self.autoclear = self.autoclear & !ALL | tie.bits();
    }
}

/// A number that no other journal has.
pub(in crate::node::qcow2) fn number() -> u64 {
    fastrand::u64(..1 << WIDTH)
}

/// A number of as many bits as a tie has.
pub(in crate::node::qcow2) fn shortened(number: u64) -> u64 {
    number & ((1 << WIDTH) - 1)
}
