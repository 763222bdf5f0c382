//! Tests of the journal's form: what is written is read, what is broken is never taken for nothing.

// The exception for tests covers the test functions alone, and not what they call.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn head() -> Head {
    Head {
        sequence: 4,
        number: 77,
        previous: Some(76),
        size: 9000 * MIB,
        area: area_for(9000 * MIB),
        live: 5,
        lost: vec![hash("b0"), 9],
    }
}

/// All sectors behind the heads, none of them written.
fn blank(head: &Head) -> Vec<u8> {
    let pairs = pairs(head.size, head.area);
    (0..2 * pairs).flat_map(|at| AreaSector::blank(at / 2).encode()).collect()
}

fn put(sectors: &mut [u8], sector: &AreaSector) {
    let at = usize::try_from(place(sector.generation, sector.pair) - 2 * SECTOR as u64).unwrap();
    sectors[at..at + SECTOR].copy_from_slice(&sector.encode());
}

/// Byte ranges that are found.
fn found(head: &Head, sectors: &[u8]) -> Vec<std::ops::Range<u64>> {
    let (found, mut from, mut ranges) = (written(head, sectors, head.size).unwrap(), 0, Vec::new());
    while let Some(range) = found.next_marked(from) {
        from = range.end;
        ranges.push(range);
    }
    ranges
}

fn areas(generation: u64, ranges: &[(u64, u64)]) -> Areas {
    let areas = Areas::new(generation, head().size, head().area).unwrap();
    ranges.iter().for_each(|(offset, len)| areas.want(*offset, *len));
    areas
}

#[test]
fn a_disk_of_sixteen_tebibytes_has_areas_of_sixteen_mebibytes_and_a_small_one_of_one() {
    assert_eq!(area_for(0).bytes(), MIB);
    assert_eq!(area_for(1 << 40).bytes(), MIB);
    assert_eq!(area_for((1 << 40) + 1).bytes(), 2 * MIB);
    assert_eq!(area_for(16 << 40).bytes(), 16 * MIB);
    assert_eq!(area_for(64 << 40).bytes(), 16 * MIB);
    // A bit for each is in one of so many sectors: 137 KiB a generation.
    assert_eq!(pairs(16 << 40, area_for(16 << 40)), 274);
}

#[test]
fn what_a_generation_has_is_found_in_its_sectors_only() {
    let (head, mut sectors) = (head(), blank(&head()));
    assert_eq!(found(&head, &sectors), []);
    let five = areas(5, &[(10 * MIB, 4096), (3840 * MIB - 1, 2)]);
    let written = five.lacking(77);
    assert_eq!(written.iter().map(|sector| sector.pair).collect::<Vec<_>>(), [0, 1]);
    written.iter().for_each(|sector| put(&mut sectors, sector));
    let expected = [10 * MIB..11 * MIB, 3839 * MIB..3841 * MIB];
    assert_eq!(found(&head, &sectors), expected);
    // The next generation has sectors of its own.
    areas(6, &[(20 * MIB, 1)]).lacking(77).iter().for_each(|sector| put(&mut sectors, sector));
    let both = [10 * MIB..11 * MIB, 20 * MIB..21 * MIB, 3839 * MIB..3841 * MIB];
    assert_eq!(found(&head, &sectors), both);
    let later = 20 * MIB..21 * MIB;
    assert_eq!(found(&Head { live: 6, ..head.clone() }, &sectors), [later]);
    assert_eq!(found(&Head { live: 7, ..head.clone() }, &sectors), []);
    assert_eq!(found(&Head { number: 78, ..head }, &sectors), [], "those of another journal say nothing");
}

#[test]
fn a_sector_that_cannot_be_read_says_that_all_its_areas_were_written_to() {
    let (head, whole) = (head(), blank(&head()));
    let second = 3840 * MIB..7680 * MIB;
    for (at, broken) in [(0, 1), (4, 1), (31, 9), (511, 1)] {
        let mut sectors = whole.clone();
        sectors[2 * SECTOR + at] ^= broken;
        assert_eq!(found(&head, &sectors), std::slice::from_ref(&second), "byte {at}");
    }
    let lost = &whole[..3 * SECTOR];
    let behind = 3840 * MIB..9000 * MIB;
    assert_eq!(found(&head, lost), [behind], "what is not there at all");
    let mut swapped = whole.clone();
    swapped.copy_within(4 * SECTOR..5 * SECTOR, 2 * SECTOR);
    assert_eq!(found(&head, &swapped), [second], "a sector in another's place");
}

#[test]
fn a_range_is_covered_when_all_its_areas_are_stable() {
    let areas = areas(5, &[(10 * MIB - 1, 2)]);
    assert!(!areas.cover(10 * MIB, 1), "wanted is not stable");
    areas.stable(&areas.lacking(77));
    assert!(areas.cover(9 * MIB, 2 * MIB) && areas.cover(11 * MIB - 1, 1) && areas.cover(0, 0));
    assert!(!areas.cover(9 * MIB - 1, 2) && !areas.cover(10 * MIB, MIB + 1) && !areas.cover(0, u64::MAX));
    assert_eq!((areas.count(), areas.lacking(77).len()), (2, 0));
}

#[test]
fn areas_wanted_while_others_are_written_are_still_lacking_afterwards() {
    let areas = areas(5, &[(0, 1)]);
    let written = areas.lacking(77);
    areas.want(5 * MIB, 1);
    areas.stable(&written);
    assert!(areas.cover(0, 1) && !areas.cover(5 * MIB, 1));
    let next = areas.lacking(77);
    assert_eq!(next[0].areas().collect::<Vec<_>>(), [0, 5], "a sector always has all of its areas");
}

#[test]
fn a_generation_begins_with_what_was_written_to_in_the_last_one() {
    let last = areas(5, &[(3 * MIB, 1), (7 * MIB, 1), (8000 * MIB, 1)]);
    last.stable(&last.lacking(77));
    assert!(last.cover(3 * MIB, 1) && last.cover(8000 * MIB - 1, 2) == last.cover(7999 * MIB, 1));
    let next = areas(6, &[]);
    next.want_touched_of(&last);
    assert!(!next.cover(3 * MIB, 1));
    next.stable(&next.lacking(77));
    assert!(next.cover(3 * MIB, 1) && next.cover(7999 * MIB, MIB + 1));
    assert!(!next.cover(7 * MIB, 1), "nobody has written there in the last one");
}

#[test]
fn a_disk_that_grows_keeps_what_it_has_and_has_to_ask_for_the_rest() {
    let small = areas(5, &[(3 * MIB, 1)]);
    small.stable(&small.lacking(77));
    let large = small.resized(20_000 * MIB).unwrap();
    assert!(large.cover(3 * MIB, 1) && !large.cover(19_000 * MIB, 1) && large.generation() == 5);
    large.waive();
    assert!(large.cover(0, 20_000 * MIB));
}

#[test]
fn the_newer_of_two_heads_counts_if_it_is_whole() {
    let old = head();
    let new = Head { sequence: 5, live: 6, previous: None, ..old.clone() };
    assert_eq!((old.place(), new.place()), (0, 512));
    let mut heads = [old.encode(), new.encode()].concat();
    assert_eq!(Head::newest(&heads), Some(new.clone()));
    heads[700] ^= 1;
    assert_eq!(Head::newest(&heads), Some(old.clone()));
    heads[100] ^= 1;
    assert_eq!(Head::newest(&heads), None);
    assert_eq!(Head::newest(&[0; 1024]), None);
    for area in [512, 1 << 19, 1 << 25] {
        let odd = Head { area: Granularity::new(area).unwrap(), ..old.clone() };
        assert_eq!(Head::decode(&odd.encode()), None, "areas of {area} bytes would be too many, or too coarse");
    }
    assert_eq!(Head::decode(&Head { sequence: u64::MAX, ..old.clone() }.encode()), None, "there is no next one");
    assert!(old.goes_with(77) && old.goes_with(76) && !old.goes_with(75));
    assert!(!new.goes_with(76));
}

proptest! {
    #[test]
    fn no_byte_of_a_head_or_sector_changes_unnoticed(at in 0..SECTOR, flip in 1_u8..) {
        let mut bytes = head().encode();
        bytes[at] ^= flip;
        prop_assert_eq!(Head::decode(&bytes), None);
        let mut bytes = areas(5, &[(0, 1)]).lacking(77)[0].encode();
        bytes[at] ^= flip;
        prop_assert_eq!(AreaSector::decode(&bytes, 0), None);
    }

    #[test]
    fn any_bytes_are_read_without_harm(heads in prop::collection::vec(any::<u8>(), 0..1200), length in 0..4000_usize) {
        let head = Head::newest(&heads).unwrap_or_else(head);
        drop(written(&head, &vec![0xff; length], 9000 * MIB));
    }
}
