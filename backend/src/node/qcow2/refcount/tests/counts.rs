//! Reference counts as the bytes of an image say: another reading of the format, which is slow and panics.

use crate::node::qcow2::entry::Geometry;
use std::collections::BTreeMap;

/// A big-endian number of an image.
pub fn number(content: &[u8], at: usize, len: usize) -> u64 {
    content[at..at + len].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// What the header of an image (version 3) says.
pub fn geometry(content: &[u8]) -> Geometry {
    let field = |at| u32::try_from(number(content, at, 4)).unwrap();
    Geometry {
        version: field(4),
        cluster_bits: field(20),
        refcount_order: field(96),
        external_data: false,
        extended: false,
    }
}

/// The counts that are not zero, as the bytes of an image say, by offset.
pub fn counts(content: &[u8]) -> BTreeMap<u64, u64> {
    let geometry = geometry(content);
    let (offset, clusters) = (number(content, 48, 8), number(content, 56, 4));
    let mut counts = BTreeMap::new();
    for region in 0..clusters * geometry.cluster() / 8 {
        let block = number(content, usize::try_from(offset + region * 8).unwrap(), 8);
        if block == 0 {
            continue;
        }
        for number in 0..geometry.refcounts_per_block() {
            let bit = block * 8 + (number << geometry.refcount_order);
            let count = bits(content, bit, 1 << geometry.refcount_order);
            if count != 0 {
                counts.insert((region * geometry.refcounts_per_block() + number) << geometry.cluster_bits, count);
            }
        }
    }
    counts
}

/// `len` bits; those of a part of a byte from the lowest on.
fn bits(content: &[u8], bit: u64, len: u64) -> u64 {
    let at = usize::try_from(bit / 8).unwrap();
    match len {
        1 | 2 | 4 => u64::from(content[at]) >> (bit % 8) & ((1 << len) - 1),
        _ => number(content, at, usize::try_from(len / 8).unwrap()),
    }
}
