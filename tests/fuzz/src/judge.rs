//! Where an image keeps its metadata, found by the format's rules alone, and whether a guest's bytes are there.

use crate::guest::WRITTEN;
use std::ops::Range;

/// Bits 9 to 55 of an entry: an offset.
pub const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an entry of an L1 table that means something.
const L1_BITS: u64 = OFFSET | 1 << 63;
/// Bytes that no metadata has and every write of the guest.
const SECTOR: usize = 512;

/// A big-endian number of the image; 0 past its end.
pub fn word(image: &[u8], at: u64) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let bytes = at.checked_add(8).and_then(|end| image.get(at..end));
    bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// A 32-bit one.
fn half(image: &[u8], at: u64) -> u64 {
    word(image, at) >> 32
}

/// The bytes of the header, the active L1 table, the refcount table, and the refcount blocks and L2 tables that are
/// inside the file and apart from everything before them.
pub fn metadata(image: &[u8]) -> Vec<Range<u64>> {
    let bits = half(image, 20);
    if !(9..=21).contains(&bits) {
        return Vec::new();
    }
    let (cluster, length) = (1u64 << bits, image.len() as u64);
    let (l1, l1_entries) = (word(image, 40), half(image, 36).min(4 << 20));
    let (reftable, reftable_len) = (word(image, 48), half(image, 56).min(8 << 20) << bits);
    let mut found = Vec::from([Range { start: 0, end: cluster }]);
    let mut add = |start: u64, len: u64| {
        let range = start..start.saturating_add(len);
        let fits = len > 0 && start.is_multiple_of(cluster) && range.end <= length.next_multiple_of(cluster);
        if fits && !found.iter().any(|other| range.start < other.end && other.start < range.end) {
            found.push(range);
        }
    };
    add(l1, l1_entries * 8);
    add(reftable, reftable_len);
    let entries = |table: u64, count: u64| {
        let inside = count.min(length / 8);
        (0..inside).map(move |index| word(image, table.saturating_add(index * 8)))
    };
    entries(reftable, reftable_len / 8).filter(|entry| entry & !511 != 0).for_each(|entry| add(entry & !511, cluster));
    let sound = |entry: &u64| entry & OFFSET != 0 && entry & !L1_BITS == 0;
    entries(l1, l1_entries).filter(sound).for_each(|entry| add(entry & OFFSET, cluster));
    found
}

/// Panics if a sector of the guest's is where metadata was, or is.
pub fn judge(before: &[Range<u64>], image: &[u8]) {
    for range in before.iter().chain(&metadata(image)) {
        let start = usize::try_from(range.start).unwrap_or(usize::MAX);
        let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(image.len());
        let guests = image
            .get(start..end)
            .unwrap_or_default()
            .chunks_exact(SECTOR)
            .position(|sector| sector.iter().all(|byte| *byte == WRITTEN));
        assert_eq!(guests, None, "a guest's sector in the metadata at {range:#x?}");
    }
}
