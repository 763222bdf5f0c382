//! The judge, fed with histories made by hand: it must not condemn what is legal, and must see what is not.

use super::*;
use crate::oracle::content;

/// Two disks of two sectors that hold nothing.
fn disks() -> History {
    History::new(&[vec![0; 2], vec![0; 2]])
}

fn write(history: &mut History, disk: usize, sectors: Range<usize>, tag: Tag) {
    let id = history.begin(disk, sectors, tag);
    history.end(id, End::Done);
}

/// A point in time that is made while nothing else happens.
fn cut(history: &mut History) -> Cut {
    let from = history.tick();
    Cut { from, to: history.tick() }
}

/// A disk of these sectors.
fn disk(tags: &[Tag]) -> Vec<u8> {
    tags.iter().enumerate().flat_map(|(sector, tag)| content(sector, 1, *tag)).collect()
}

fn check(history: &History, cut: Cut, tags: [&[Tag]; 2]) -> bool {
    let bytes = tags.map(disk);
    let contents = [0, 1].map(|at| Content { disk: at, first: 0, bytes: &bytes[at] });
    history.check_cut(cut, &contents).is_ok()
}

#[test]
fn a_cut_has_what_ended_before_and_nothing_that_began_after() {
    let mut history = disks();
    write(&mut history, 0, 0..1, 1);
    let cut = cut(&mut history);
    write(&mut history, 0, 0..1, 2);
    let legal = [0, 1, 2, 3].map(|tag| check(&history, cut, [&[tag, 0], &[0, 0]]));
    assert_eq!(legal, [false, true, false, false]);
}

#[test]
fn a_cut_has_or_has_not_what_was_under_way_but_all_of_it() {
    let mut history = disks();
    let id = history.begin(0, 0..2, 1);
    let cut = cut(&mut history);
    history.end(id, End::Done);
    let legal = [[0, 0], [1, 1], [0, 1], [1, 0]].map(|tags| check(&history, cut, [&tags, &[0, 0]]));
    assert_eq!(legal, [true, true, false, false]);
}

#[test]
fn a_change_that_failed_may_be_there_in_part() {
    let mut history = disks();
    let id = history.begin(0, 0..2, 1);
    history.end(id, End::Failed);
    let cut = cut(&mut history);
    assert!(check(&history, cut, [&[0, 1], &[0, 0]]) && check(&history, cut, [&[0, 0], &[0, 0]]));
}

#[test]
fn a_cut_that_has_the_consequence_has_the_cause_on_whatever_disk() {
    let mut history = disks();
    let from = history.tick();
    write(&mut history, 0, 0..1, 1);
    write(&mut history, 1, 0..1, 2);
    write(&mut history, 0, 1..2, 3);
    let cut = Cut { from, to: history.tick() };
    let legal = |first: [Tag; 2], second: Tag| check(&history, cut, [&first, &[second, 0]]);
    assert!(legal([0, 0], 0) && legal([1, 0], 0) && legal([1, 0], 2) && legal([1, 3], 2));
    assert!(!legal([0, 0], 2), "the second disk has what was written because of the first");
    assert!(!legal([1, 3], 0), "and the first what was written because of the second");
}

#[test]
fn what_nobody_wrote_and_what_stood_elsewhere_is_no_content() {
    let mut history = disks();
    write(&mut history, 0, 0..2, 1);
    let cut = cut(&mut history);
    let whole = disk(&[1, 1]);
    let judge = |bytes: &[u8], first| history.check_cut(cut, &[Content { disk: 0, first, bytes }]).is_ok();
    assert!(judge(&whole, 0) && judge(&whole[SECTOR..], 1));
    assert!(!judge(&whole[SECTOR..], 0), "a sector in the wrong place");
    for at in [0, 5, SECTOR - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(!judge(&bytes, 0), "one bit at {at} is wrong");
    }
}

#[test]
fn a_read_sees_what_ended_before_it_and_perhaps_what_is_under_way() {
    let mut history = disks();
    write(&mut history, 0, 0..1, 1);
    let start = history.tick();
    history.begin(0, 0..1, 2);
    let legal = [0, 1, 2].map(|tag| {
        let bytes = content(0, 1, tag);
        history.check_read(start, Content { disk: 0, first: 0, bytes: &bytes }).is_ok()
    });
    assert_eq!(legal, [false, true, true]);
}

/// A bitmap with one bit per sector.
fn bits(marked: [bool; 2]) -> Bits {
    Bits { granularity: 512, shift: 0, marked: marked.to_vec() }
}

/// Which of the four contents of a bitmap of two blocks the judge lets pass.
fn legal_marks(history: &History, recording: Recording) -> [bool; 4] {
    [[false, false], [true, false], [false, true], [true, true]]
        .map(|marked| history.check_marks(0, &bits(marked), &[recording]).is_ok())
}

#[test]
fn a_bitmap_marks_what_was_written_between_its_points_and_nothing_else() {
    let mut history = disks();
    write(&mut history, 0, 1..2, 1);
    let from = cut(&mut history);
    write(&mut history, 0, 0..1, 2);
    let to = cut(&mut history);
    write(&mut history, 0, 1..2, 3);
    write(&mut history, 1, 0..2, 4);
    assert_eq!(legal_marks(&history, Recording { from, to }), [false, true, false, false]);
}

#[test]
fn a_bitmap_may_or_may_not_mark_what_was_under_way_at_its_points() {
    let mut history = disks();
    let first = history.begin(0, 0..1, 1);
    let from = cut(&mut history);
    history.end(first, End::Done);
    let last = history.begin(0, 1..2, 2);
    let to = cut(&mut history);
    history.end(last, End::Done);
    assert_eq!(legal_marks(&history, Recording { from, to }), [true; 4]);
}

#[test]
fn a_failed_change_may_be_marked_and_one_that_perhaps_did_nothing_must() {
    for (how, expected) in [(End::Failed, [true, true, false, false]), (End::Perhaps, [false, true, false, false])] {
        let mut history = disks();
        let from = cut(&mut history);
        let id = history.begin(0, 0..1, 1);
        history.end(id, how);
        let to = cut(&mut history);
        assert_eq!(legal_marks(&history, Recording { from, to }), expected, "{how:?}");
    }
}

#[test]
fn a_bitmap_of_a_node_below_has_its_blocks_elsewhere() {
    let mut history = disks();
    let from = cut(&mut history);
    write(&mut history, 0, 1..2, 1);
    let to = cut(&mut history);
    let judge = |marked: [bool; 4]| {
        let bits = Bits { granularity: 512, shift: 1024, marked: marked.to_vec() };
        history.check_marks(0, &bits, &[Recording { from, to }]).is_ok()
    };
    assert!(judge([false, false, false, true]) && !judge([false, true, false, false]));
}
