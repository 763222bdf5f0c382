//! An area sector: a bit per area, of one generation.

use super::{AREAS_PER_SECTOR, SECTOR, checksum, half, word};

const MAGIC: u32 = u32::from_le_bytes(*b"TMar");
/// Where the checksum is.
const CHECKSUM: usize = 4;
/// What is checked behind it.
const BODY: usize = 8;
/// Where the bits begin.
const BITS: usize = 32;
/// Words of bits.
pub(super) const WORDS: usize = (SECTOR - BITS) / 8;
const _: () = assert!(WORDS as u64 * 64 == AREAS_PER_SECTOR, "a bit per area");

/// What a sector says of its areas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AreaSector {
    /// Whose journal it was when it was written.
    pub number: u64,
    /// Its generation.
    pub generation: u64,
    /// Which pair it is of.
    pub pair: u64,
    /// A bit per area, the lowest first.
    pub words: [u64; WORDS],
}

impl AreaSector {
    /// One that says nothing: of no journal.
    pub fn blank(pair: u64) -> Self {
        Self { number: u64::MAX, generation: 0, pair, words: [0; WORDS] }
    }

    /// As it is written.
    pub fn encode(&self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        [self.number, self.generation, self.pair].iter().zip(0..).for_each(|(number, at)| {
            put(BODY + 8 * at, &number.to_le_bytes());
        });
        self.words.iter().zip(0..).for_each(|(word, at)| put(BITS + 8 * at, &word.to_le_bytes()));
        let sum = checksum(&bytes[..CHECKSUM], &bytes[BODY..]);
        bytes[CHECKSUM..BODY].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What the sector of a pair says; `None` if it is something else, or only part of it.
    pub fn decode(bytes: &[u8], pair: u64) -> Option<Self> {
        let bytes = <&[u8; SECTOR]>::try_from(bytes).ok()?;
        let whole = checksum(&bytes[..CHECKSUM], &bytes[BODY..]) == half(bytes, CHECKSUM);
        if !whole || half(bytes, 0) != MAGIC || word(bytes, BODY + 16) != pair {
            return None;
        }
        let words = std::array::from_fn(|at| word(bytes, BITS + 8 * at));
        Some(Self { number: word(bytes, BODY), generation: word(bytes, BODY + 8), pair, words })
    }

    /// The areas whose bits are set, counted from the sector's first.
    pub fn areas(&self) -> impl Iterator<Item = u64> + '_ {
        (0..AREAS_PER_SECTOR)
            .filter(|area| self.words.get((area / 64) as usize).is_some_and(|word| word >> (area % 64) & 1 == 1))
    }
}
