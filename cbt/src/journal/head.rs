//! A head: whose journal this is, and from which generation on it counts.

use super::{AREA_BITS, SECTOR, checksum, half, word};
use crate::Granularity;

/// "TMchang", then the form's number.
const MAGIC: u64 = u64::from_le_bytes(*b"TMchang1");
/// Where the checksum is.
const CHECKSUM: usize = 8;
/// What is checked behind it.
const BODY: usize = 12;
/// Where the names begin; before them, how many there are.
const LOST: usize = 64;
const _: () = assert!(LOST + 8 * LOST_MAX <= SECTOR, "a sector");

/// Bitmaps that a head can name.
pub const LOST_MAX: usize = 56;

/// More heads than anybody writes.
const SEQUENCE_MAX: u64 = u64::MAX / 2;

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Grows by one with each head that is written.
    pub sequence: u64,
    /// What the image names its journal by, while it is in use.
    pub number: u64,
    /// What the image named its last journal by, all of which is in the image: that is believed, too, as long as the
    /// image does not have the new number.
    pub previous: Option<u64>,
    /// Bytes of the disk, at least.
    pub size: u64,
    /// Bytes of an area.
    pub area: Granularity,
    /// The first generation of which not all is in the image.
    pub live: u64,
    /// Bitmaps of the image that were not to be believed when the journal began, by [`hash`] of their names;
    /// [`LOST_MAX`] at most.
    pub lost: Vec<u64>,
}

/// A bitmap's name in short.
pub fn hash(name: &str) -> u64 {
    fnv1a(name.bytes())
}

/// Bytes in short (64-bit FNV-1a).
pub fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

impl Head {
    /// As it is written.
    pub fn encode(&self) -> [u8; SECTOR] {
        let mut bytes = [0; SECTOR];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(BODY, &self.area.bits().to_le_bytes());
        let numbers =
            [self.sequence, self.number, self.previous.map_or(u64::MAX, |number| number), self.size, self.live];
        put(LOST - 8, &(self.lost.len().min(LOST_MAX) as u64).to_le_bytes());
        self.lost.iter().take(LOST_MAX).zip(0..).for_each(|(name, at)| put(LOST + 8 * at, &name.to_le_bytes()));
        numbers.iter().zip(1..).for_each(|(number, at)| put(8 + 8 * at, &number.to_le_bytes()));
        let sum = checksum(&bytes[..CHECKSUM], &bytes[BODY..]);
        bytes[CHECKSUM..BODY].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// What a sector says; `None` if it is no head, or a broken one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SECTOR] = bytes.try_into().ok()?;
        let whole = checksum(&bytes[..CHECKSUM], &bytes[BODY..]) == half(bytes, CHECKSUM);
        if !whole || word(bytes, 0) != MAGIC {
            return None;
        }
        let [sequence, number, previous, size, live] = [16, 24, 32, 40, 48].map(|at| word(bytes, at));
        let previous = (previous != u64::MAX).then_some(previous);
        let area = Some(half(bytes, BODY)).filter(|bits| (AREA_BITS[0]..=AREA_BITS[1]).contains(bits))?;
        let area = Granularity::new(1 << area)?;
        // Whoever goes on counts from here.
        if sequence > SEQUENCE_MAX {
            return None;
        }
        let count = usize::try_from(word(bytes, LOST - 8)).ok().filter(|count| *count <= LOST_MAX)?;
        let lost = (0..count).map(|at| word(bytes, LOST + 8 * at)).collect();
        Some(Self { sequence, number, previous, size, area, live, lost })
    }

    /// The head that counts of the two at a journal's beginning.
    pub fn newest(heads: &[u8]) -> Option<Self> {
        heads.chunks(SECTOR).take(2).filter_map(Self::decode).max_by_key(|head| head.sequence)
    }

    /// Whether a sector is a head, be it a broken one.
    pub fn is_one(bytes: &[u8]) -> bool {
        word(bytes, 0) == MAGIC
    }

    /// Bytes from the journal's beginning to where it is written.
    pub fn place(&self) -> u64 {
        self.sequence % 2 * SECTOR as u64
    }

    /// Whether the journal goes with an image that names it by `number`.
    pub fn goes_with(&self, number: u64) -> bool {
        self.number == number || self.previous == Some(number)
    }
}
