//! Which chunks are kept, and how large they are.

use super::rig::{CHUNK, GARBAGE, LEN, NEW, Rig, Setup, bare, old};
use crate::error::IoError;
use crate::node::Kind;
use crate::node::copy_before_write::{CbwOptions, chunk_size};
use crate::node::options::Discard;

#[test]
fn chunks_are_as_fine_as_disk_storage_and_user_let_them_be() {
    const GIB: u64 = 1 << 30;
    for (len, alignment, min_chunk, bytes, why) in [
        (GIB, 1, 0, 4096, "no storage writes less without reading first"),
        (256 * GIB, 512, 0, 4096, "64 Mi chunks"),
        (256 * GIB + 512, 512, 0, 8192, "no more than 64 Mi chunks"),
        (16 << 40, 512, 0, 256 << 10, "no more than 64 Mi chunks"),
        (GIB, 16384, 0, 16384, "the storage's blocks are larger"),
        (GIB, 512, 65536, 65536, "min-cluster-size"),
        (GIB, 512, 512, 4096, "min-cluster-size is the least"),
        (512, 512, 0, 4096, "a disk of one sector"),
    ] {
        assert_eq!(chunk_size(len, alignment, min_chunk).bytes(), bytes, "{why}");
    }
}

#[test]
fn with_min_cluster_size_a_small_write_copies_so_much() {
    let options = CbwOptions { min_chunk: 64 << 10, ..CbwOptions::default() };
    let mut rig = Rig::new(Setup { options, ..Setup::default() });
    rig.write((64 << 10) + 512, 512).unwrap();
    assert_eq!(rig.copy.copied_for_writes(), (1, 64 << 10));
    let (target, old) = (rig.target(), old());
    assert_eq!(target[64 << 10..128 << 10], old[64 << 10..128 << 10]);
    assert!(target[..64 << 10].iter().chain(&target[128 << 10..]).all(|byte| *byte == GARBAGE));
}

/// One block of 4 chunks is kept.
fn kept() -> Rig {
    Rig::new(Setup { bitmap: Some((4 * CHUNK, vec![(9 * CHUNK, 512)])), ..Setup::default() })
}

#[test]
fn with_a_bitmap_only_what_it_marks_is_copied() {
    let mut rig = kept();
    rig.write(0, LEN as u64).unwrap();
    assert_eq!(rig.copy.copied_for_writes(), (1, 4 * CHUNK));
    let (target, old) = (rig.target(), old());
    assert_eq!(target[8 * 4096..12 * 4096], old[8 * 4096..12 * 4096]);
    assert!(target[..8 * 4096].iter().chain(&target[12 * 4096..]).all(|byte| *byte == GARBAGE));
    assert!(rig.source().iter().all(|byte| *byte == NEW));
}

#[test]
fn outside_the_bitmap_the_past_cannot_be_read_and_a_read_that_is_partly_outside_fails_as_a_whole() {
    let mut rig = kept();
    for written in [false, true] {
        if written {
            rig.write(0, LEN as u64).unwrap();
        }
        assert_eq!(rig.read(8 * CHUNK, 4 * 4096), Ok(old()[8 * 4096..12 * 4096].to_vec()));
        for (offset, len) in [(0, 512), (8 * CHUNK - 512, 1024), (12 * CHUNK - 512, 1024), (0, LEN)] {
            assert_eq!(rig.read(offset, len), Err(IoError::Permission), "{offset} {len}");
        }
    }
}

#[test]
fn the_bitmap_of_a_filter_may_change_afterwards() {
    let mut rig = kept();
    let disk = rig.graph.find("d").unwrap();
    disk.points().tracking().content("kept").unwrap().clear_range(0, LEN as u64);
    rig.write(8 * CHUNK, 512).unwrap();
    assert_eq!(rig.read(8 * CHUNK, 4096), Ok(old()[8 * 4096..9 * 4096].to_vec()));
}

#[test]
fn discards_that_the_filter_ignores_copy_nothing() {
    let mut rig = Rig::new(Setup { discard: Discard::Ignore, ..Setup::default() });
    rig.run(bare(Kind::Discard, 0, 8 * CHUNK)).unwrap();
    assert_eq!(rig.copy.copied_for_writes(), (0, 0));
    assert_eq!(rig.source(), old());
}
