//! The change journal's form: which areas of a disk have been written to since its bitmaps were stored last, in sectors
//! that a power cut leaves whole or recognisably broken.
//!
//! The first two sectors are heads ([`Head`]), written in turn; the newer valid one counts. Then come pairs of area
//! sectors ([`AreaSector`]): of each pair one belongs to the generations with even numbers, one to those with odd
//! numbers. A generation begins without a write: a sector that has another number is of a generation before, and says
//! nothing. What cannot be read says that all its areas were written to. Knows neither files nor nodes.

mod areas;
mod head;
mod sector;

pub use areas::Areas;
pub use head::{Head, LOST_MAX, fnv1a, hash};
pub use sector::AreaSector;

use crate::{Bitmap, Granularity, OutOfMemory};

/// Bytes that a disk writes as a whole.
pub const SECTOR: usize = 512;
/// Sectors before the first pair.
const HEADS: u64 = 2;
/// Areas of a sector.
pub const AREAS_PER_SECTOR: u64 = 3840;
/// Log2 of bytes of the smallest and the largest area.
const AREA_BITS: [u32; 2] = [20, 24];
/// Areas of a disk, as long as they are not larger for it: 16 MiB of 16 TiB.
const AREAS_MAX: u64 = 1 << 20;

/// Bytes per area that suit a disk of `size` bytes: the smallest of which there are not too many.
pub fn area_for(size: u64) -> Granularity {
    let fits = |bits: &u32| size.div_ceil(1 << bits) <= AREAS_MAX;
    let bits = (AREA_BITS[0]..AREA_BITS[1]).find(fits).unwrap_or(AREA_BITS[1]);
    Granularity::new(1 << bits).unwrap_or(Granularity::DEFAULT)
}

/// Pairs of sectors that a disk of `size` bytes takes.
pub fn pairs(size: u64, area: Granularity) -> u64 {
    size.div_ceil(area.bytes()).div_ceil(AREAS_PER_SECTOR)
}

/// Bytes of a journal of so many pairs.
pub fn bytes(pairs: u64) -> u64 {
    (HEADS + 2 * pairs) * SECTOR as u64
}

/// Bytes from the journal's beginning to a generation's sector of a pair.
pub fn place(generation: u64, pair: u64) -> u64 {
    (HEADS + 2 * pair + generation % 2) * SECTOR as u64
}

/// The areas that a journal says were written to, of a disk of `size` bytes; `sectors` are all its sectors behind the
/// heads. Those it has lost count as written to.
///
/// # Errors
/// There is no memory for them.
pub fn written(head: &Head, sectors: &[u8], size: u64) -> Result<Bitmap, OutOfMemory> {
    let found = Bitmap::new(size, head.area)?;
    let span = AREAS_PER_SECTOR * head.area.bytes();
    for pair in 0..pairs(size, head.area) {
        let start = pair.saturating_mul(span);
        for half in 0..2 {
            let at = usize::try_from((2 * pair + half) * SECTOR as u64).unwrap_or(usize::MAX);
            let sector = at.checked_add(SECTOR).and_then(|end| sectors.get(at..end));
            match sector.and_then(|bytes| AreaSector::decode(bytes, pair)) {
                None => found.mark(start, span),
                Some(sector) if sector.number == head.number && sector.generation >= head.live => {
                    sector.areas().for_each(|area| found.mark(start + area * head.area.bytes(), 1));
                }
                Some(_) => {}
            }
        }
    }
    Ok(found)
}

/// A checksum of a sector whose own checksum's bytes are left out.
fn checksum(before: &[u8], after: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(before);
    hasher.update(after);
    hasher.finalize()
}

/// The little-endian word at `at`; 0 past the end.
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

/// The little-endian half word at `at`; 0 past the end.
fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |half| u32::from_le_bytes(*half))
}

#[cfg(all(test, loom))]
mod model;
#[cfg(all(test, not(loom)))]
mod tests;
