//! Bitmaps that QEMU's tools have made are loaded, marked by a guest's writes and stored, and QEMU hands out what we
//! marked; and the other way round.

use super::made::{Made, Told};
use super::opened::Opened;
use std::ops::Range;

const MIB: u64 = 1 << 20;

/// Bytes as a bitmap of this granularity marks them.
fn rounded(written: &[Range<u64>], granularity: u64, size: u64) -> Vec<Range<u64>> {
    let mut blocks = vec![false; usize::try_from(size.div_ceil(granularity)).unwrap()];
    for run in written {
        for block in run.start / granularity..run.end.div_ceil(granularity) {
            blocks[usize::try_from(block).unwrap()] = true;
        }
    }
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (block, _) in (0..).zip(&blocks).filter(|(_, marked)| **marked) {
        let range = block * granularity..((block + 1) * granularity).min(size);
        match runs.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => runs.push(range),
        }
    }
    runs
}

fn told(name: &str, granularity: u64, in_use: bool, auto: bool) -> Told {
    Told { name: name.to_owned(), granularity, in_use, auto }
}

/// An image with bitmaps of all kinds, and a size that is no multiple of anything but sectors.
fn made(cluster: u64) -> (Made, u64) {
    let size = 8 * MIB + 3 * 512;
    let made = Made::create(&format!("-o cluster_size={cluster}"), size);
    made.add("-g 512", "fine");
    made.add("--disable -g 65536", "off");
    made.write(0, 512);
    made.write(3 * MIB, MIB);
    made.add("-g 4096", "merged");
    made.tool("qemu-img", "bitmap --merge fine -f qcow2 image merged");
    (made, size)
}

#[test]
fn bitmaps_of_qemu_are_loaded_marked_by_writes_and_stored_for_qemu() {
    for cluster in [512, 4096, 65536, 2 * MIB] {
        let (made, size) = made(cluster);
        let before = [0..512, 3 * MIB..4 * MIB];
        let mut opened = Opened::new(&made, false);
        let list = opened.list();
        let facts: Vec<_> = list.iter().map(|info| (info.name.as_str(), info.granularity, info.recording)).collect();
        assert_eq!(facts, [("fine", 512, true), ("off", 65536, false), ("merged", 4096, true)], "{cluster}");
        assert!(list.iter().all(|info| info.persistent && !info.inconsistent && !info.busy));
        assert_eq!(opened.marked("fine"), before);
        assert_eq!(opened.marked("merged"), rounded(&before, 4096, size));
        assert_eq!(opened.marked("off"), []);
        let written = [5 * MIB - 512..5 * MIB + 512, size - 512..size];
        written.iter().for_each(|run| opened.write(run.start, run.end - run.start));
        let in_use = opened.file().told();
        assert!(in_use.iter().all(|bitmap| bitmap.in_use), "{in_use:?}");
        let stored = opened.close();
        let expected =
            [told("fine", 512, false, true), told("off", 65536, false, false), told("merged", 4096, false, true)];
        assert_eq!(stored.told(), expected);
        assert_eq!(stored.check(), (0, 0), "{cluster}");
        let all = [&before[..], &written].concat();
        assert_eq!(stored.marked("fine"), rounded(&all, 512, size), "{cluster}");
        assert_eq!(stored.marked("merged"), rounded(&all, 4096, size), "{cluster}");
        assert_eq!(stored.marked("off"), []);
    }
}

#[test]
fn bitmaps_of_ours_are_loaded_and_marked_by_qemu() {
    let made = Made::create("", 64 * MIB);
    let mut opened = Opened::new(&made, false);
    opened.add("ours", 65536, false);
    opened.add("still", 4096, true);
    opened.write(10 * MIB, 4096);
    let stored = opened.close();
    // As QEMU does, the newest first.
    assert_eq!(stored.told(), [told("still", 4096, false, false), told("ours", 65536, false, true)]);
    stored.write(20 * MIB, 4096);
    assert_eq!(stored.check(), (0, 0));
    let block = |at: u64| at..at + 65536;
    assert_eq!(stored.marked("ours"), [block(10 * MIB), block(20 * MIB)]);
    let opened = Opened::new(&stored, true);
    assert_eq!(opened.marked("ours"), [block(10 * MIB), block(20 * MIB)]);
    assert_eq!(opened.marked("still"), []);
}

#[test]
fn where_all_bits_are_alike_no_cluster_is_taken() {
    let made = Made::create("-o cluster_size=512", 8 * MIB);
    let mut opened = Opened::new(&made, false);
    // A cluster has the bits of 2 MiB.
    opened.add("b", 512, false);
    opened.write(0, 2 * MIB);
    opened.write(4 * MIB, 512);
    let (with_bits, marked) = (opened.close(), [0..2 * MIB, 4 * MIB..4 * MIB + 512]);
    assert_eq!(with_bits.marked("b"), marked);
    assert_eq!(with_bits.check(), (0, 0));
    assert_eq!(Opened::new(&with_bits, true).marked("b"), marked);
    // The directory, the table, and one cluster of bits: all others are the guest's and the image's own.
    let mut without = Opened::new(&with_bits, false);
    without.edit(|stage, node| stage.remove(node, "b"));
    let freed = clusters_in_use(&with_bits) - clusters_in_use(&without.close());
    assert_eq!(freed, 3);
}

/// Clusters of the file that are counted as used, with 16 bits a count.
fn clusters_in_use(made: &Made) -> usize {
    let bytes = made.bytes();
    let word = |at: usize| usize::try_from(u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())).unwrap();
    let table = word(48);
    let blocks = (table..table + 512).step_by(8).map(word).filter(|block| *block != 0);
    blocks.flat_map(|block| bytes[block..block + 512].chunks(2)).filter(|count| **count != [0, 0]).count()
}

#[test]
fn an_image_opened_for_reading_has_its_bitmaps_and_stays_as_it_is() {
    let (made, _) = made(65536);
    let opened = Opened::new(&made, true);
    assert_eq!(opened.marked("fine"), [0..512, 3 * MIB..4 * MIB]);
    assert!(opened.list()[0].recording);
    assert_eq!(opened.close().bytes(), made.bytes());
}

#[test]
fn a_killed_process_leaves_bitmaps_in_use_for_us_and_for_qemu() {
    let (made, _) = made(65536);
    let mut opened = Opened::new(&made, false);
    opened.write(MIB, 512);
    let left = opened.file();
    let mut again = Opened::new(&left, false);
    let list = again.list();
    assert!(list.iter().all(|info| info.inconsistent && !info.recording && info.count == 0), "{list:?}");
    again.write(0, 512);
    // They can be removed, one by one, and those that are left stay what they are.
    again.edit(|stage, node| stage.remove(node, "off"));
    again.add("off", 4096, false);
    let closed = again.close();
    assert_eq!(closed.check(), (0, 0));
    let expected = [told("fine", 512, true, true), told("merged", 4096, true, true), told("off", 4096, false, true)];
    assert_eq!(closed.told(), expected);
}

#[test]
fn bitmaps_are_dropped_when_a_program_that_does_not_know_them_has_written() {
    let (made, _) = made(65536);
    let mut bytes = made.bytes();
    // Autoclear features: none.
    bytes[88..96].fill(0);
    let stale = Made::of(&bytes);
    assert_eq!(Opened::new(&stale, true).list(), []);
    let mut opened = Opened::new(&stale, false);
    assert_eq!(opened.list(), []);
    opened.write(0, 512);
    opened.add("new", 65536, false);
    opened.write(0, 512);
    let closed = opened.close();
    assert_eq!(closed.told(), [told("new", 65536, false, true)]);
    assert_eq!(closed.marked("new"), vec![Range { start: 0, end: 65536 }]);
    assert_eq!(closed.check().1, 0);
}
