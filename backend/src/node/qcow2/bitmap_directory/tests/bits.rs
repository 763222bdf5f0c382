//! Bits through bytes and back, against a model that sets one bit at a time.

use crate::node::qcow2::bitmap_directory::{load, store};
use crate::node::qcow2::entry::Geometry;
use proptest::prelude::*;
use tidemark_cbt::{Bitmap, Granularity};

const GEOMETRY: Geometry =
    Geometry { version: 3, cluster_bits: 9, refcount_order: 4, external_data: false, extended: false };
/// Bits in a cluster.
const BITS: u64 = 4096;

fn bitmap(len: u64) -> Bitmap {
    Bitmap::new(len, Granularity::new(512).unwrap()).unwrap()
}

/// The bytes of a cluster, from the specification's words.
fn naive(bitmap: &Bitmap, index: u64) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    for bit in 0..BITS {
        if bitmap.is_marked((index * BITS + bit) * 512) {
            bytes[usize::try_from(bit / 8).unwrap()] |= 1 << (bit % 8);
        }
    }
    bytes
}

proptest! {
    #[test]
    fn bits_are_stored_where_the_specification_has_them_and_come_back(
        blocks in 1..3 * BITS,
        tail in 0..512_u64,
        marks in prop::collection::vec((0..3 * BITS, 1..200_u64), 0..40),
    ) {
        let len = blocks * 512 - tail;
        let (bitmap, back) = (bitmap(len), bitmap(len));
        marks.iter().for_each(|(block, count)| bitmap.mark(block * 512, count * 512));
        for index in 0..3 {
            let stored = store(&bitmap, index, GEOMETRY);
            let expected = naive(&bitmap, index);
            prop_assert_eq!(stored.is_none(), expected.iter().all(|byte| *byte == 0));
            let stored = stored.unwrap_or(vec![0; 512]);
            prop_assert_eq!(&stored, &expected);
            load(&back, index, &stored, GEOMETRY);
        }
        for block in 0..blocks {
            prop_assert_eq!(back.is_marked(block * 512), bitmap.is_marked(block * 512));
        }
    }

    #[test]
    fn any_bytes_are_loaded_as_they_are(
        bytes in prop::collection::vec(prop_oneof![Just(0), Just(255), any::<u8>()], 512),
    ) {
        let bitmap = bitmap(2 * BITS * 512);
        load(&bitmap, 1, &bytes, GEOMETRY);
        prop_assert!(store(&bitmap, 0, GEOMETRY).is_none());
        prop_assert_eq!(naive(&bitmap, 1), bytes);
    }
}

#[test]
fn bits_past_the_end_of_the_disk_mark_nothing() {
    let bitmap = bitmap(10 * 512);
    load(&bitmap, 0, &[0xff; 512], GEOMETRY);
    assert_eq!(bitmap.count(), 10 * 512);
    load(&bitmap, u64::MAX, &[0xff; 512], GEOMETRY);
    assert_eq!(store(&bitmap, 0, GEOMETRY).unwrap()[..3], [0xff, 3, 0]);
    assert_eq!(store(&bitmap, 1, GEOMETRY), None);
    assert_eq!(store(&bitmap, u64::MAX, GEOMETRY), None);
}
