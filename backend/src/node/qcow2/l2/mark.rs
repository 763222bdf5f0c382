//! How an entry is kept in memory that obeys the format and leads where it must not: with all its reserved bits set,
//! which no valid entry has, so that it decodes to nothing. Written back, it is what it was.

/// Bit 63 of a compressed cluster's entry must be clear.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Bits 1 to 8 and 56 to 61 of any other must be.
const RESERVED: u64 = 0x3f00_0000_0000_01fe;

/// Marks an L2 entry.
pub(super) fn l2(word: u64) -> u64 {
    if word & COMPRESSED != 0 { word | COPIED } else { word | RESERVED }
}

/// Takes the mark off, if there is one. (An entry that came with exactly these bits set comes back without them: it was
/// invalid, and is checked anew when it is read again.)
pub(super) fn without_l2(word: u64) -> u64 {
    match word & (COMPRESSED | COPIED) {
        both if both == COMPRESSED | COPIED => word & !COPIED,
        COMPRESSED => word,
        _ => without_l1(word),
    }
}

/// Marks an L1 entry that decodes.
pub(super) fn l1(word: u64) -> u64 {
    word | RESERVED
}

/// Takes the mark off, as [`without_l2`].
pub(super) fn without_l1(word: u64) -> u64 {
    if word & RESERVED == RESERVED { word & !RESERVED } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::qcow2::entry::{Entry, Geometry, InvalidEntry};

    #[test]
    fn a_marked_entry_leads_nowhere_and_is_written_back_as_it_was() {
        let geometry =
            Geometry { version: 3, cluster_bits: 16, refcount_order: 4, external_data: false, extended: false };
        let words =
            [0x8000_0000_0005_0000, 0x5_0000, 0x8000_0000_0005_0001, 0x4000_0000_0005_0123, 0x4080_0000_0005_0000];
        for word in words {
            assert_ne!(geometry.decode(word), Entry::Invalid);
            assert_eq!(geometry.decode(l2(word)), Entry::Invalid, "{word:#x}");
            assert_eq!(without_l2(l2(word)), word);
            assert_eq!(without_l2(word), word, "no mark, nothing to take off");
        }
        for word in [0x8000_0000_0005_0000, 0x5_0000] {
            assert_eq!(geometry.decode_l1(l1(word)), Err(InvalidEntry));
            assert_eq!((without_l1(l1(word)), without_l1(word)), (word, word));
        }
    }

    #[test]
    fn what_else_is_wrong_with_an_entry_stays_in_the_file() {
        for word in [0x8000_0000_0005_0002, 0x2000_0000_0005_0000] {
            assert_eq!(without_l2(word), word);
        }
    }
}
