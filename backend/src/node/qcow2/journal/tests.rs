//! The journal alone: what is found again, when it is dropped, and what is not believed.

use super::*;
use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const ID: u64 = 0x12_3456_789a;

fn change(first: u64) -> Change {
    Change { first, count: 1, word: 1 << 63 | first << 16, step: 0 }
}

fn journal(slots: usize) -> (TempDir, Place, Journal) {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path().to_owned(), slots, changes: 0 };
    let journal = place.create(ID, Path::new("")).unwrap();
    (directory, place, journal)
}

#[test]
fn the_next_process_finds_what_was_noted_in_order() {
    let (_directory, place, journal) = journal(8);
    journal.note(&[change(1), change(2)], || ()).unwrap();
    journal.note(&[change(1)], || ()).unwrap();
    drop(journal);
    let found = place.find(ID, Path::new("")).unwrap().unwrap();
    assert_eq!(found.changes(), [change(1), change(2), change(1)]);
    assert_eq!(found.note(&[change(3)], || ()), Err(Full), "it is read, and removed");
}

#[test]
fn a_cycle_drops_what_was_noted_before_it_and_keeps_the_rest() {
    let (_directory, _, journal) = journal(8);
    journal.note(&[change(1)], || ()).unwrap();
    journal.begin_cycle();
    journal.note(&[change(2)], || ()).unwrap();
    assert_eq!(journal.changes(), [change(1), change(2)], "the cycle may fail");
    journal.end_cycle();
    assert_eq!(journal.changes(), [change(2)]);
    journal.begin_cycle();
    journal.end_cycle();
    assert_eq!(journal.changes(), []);
}

#[test]
fn what_a_failed_cycle_did_not_write_stays_until_one_ends_well() {
    let (_directory, _, journal) = journal(8);
    journal.note(&[change(1)], || ()).unwrap();
    journal.begin_cycle();
    journal.note(&[change(2)], || ()).unwrap();
    journal.begin_cycle();
    journal.note(&[change(3)], || ()).unwrap();
    assert_eq!(journal.changes(), [change(1), change(2), change(3)]);
    journal.end_cycle();
    // The second half goes on; what it has twice does no harm.
    assert_eq!(journal.changes(), [change(2), change(3)]);
}

#[test]
fn a_full_half_takes_nothing_and_changes_nothing() {
    let (_directory, _, journal) = journal(2);
    let changed = Cell::new(0);
    let note = |count| journal.note(&vec![change(1); count], || changed.set(changed.get() + 1));
    assert_eq!((note(2), note(1), changed.get()), (Ok(()), Err(Full), 1));
    journal.begin_cycle();
    assert_eq!((note(1), changed.get()), (Ok(()), 2));
}

#[test]
fn a_record_that_was_not_finished_is_none() {
    let (_directory, _, journal) = journal(8);
    journal.note(&[change(1), change(2)], || ()).unwrap();
    // The process was killed before the last word of the second.
    journal.words.store(RECORDS + 2 * WORDS - 1, 0);
    assert_eq!(journal.changes(), [change(1)]);
}

#[test]
fn what_an_earlier_generation_has_left_in_a_half_is_not_found() {
    let (_directory, _, journal) = journal(4);
    journal.note(&[change(1), change(2), change(3)], || ()).unwrap();
    for number in 4..6 {
        journal.begin_cycle();
        journal.end_cycle();
        journal.note(&[change(number)], || ()).unwrap();
        assert_eq!(journal.changes(), [change(number)]);
    }
}

#[test]
fn only_the_journal_of_this_user_and_this_number_is_believed() {
    let (directory, place, journal) = journal(4);
    let path = directory.path().join(format!("tidemark-{ID:010x}.journal"));
    assert!(place.find(ID + 1, Path::new("")).unwrap().is_none());
    std::fs::rename(&path, directory.path().join(format!("tidemark-{:010x}.journal", ID + 1))).unwrap();
    assert!(matches!(place.find(ID + 1, Path::new("")), Err(JournalError::Other(_))), "of another image");
    std::fs::rename(directory.path().join(format!("tidemark-{:010x}.journal", ID + 1)), &path).unwrap();
    journal.words.store(2, 1);
    assert!(matches!(place.find(ID, Path::new("")), Err(JournalError::Other(_))), "of an earlier start of the system");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o620)).unwrap();
    assert!(matches!(place.find(ID, Path::new("")), Err(JournalError::Foreign(_))), "others may write to it");
    assert!(matches!(place.create(ID, Path::new("")), Err(JournalError::File { .. })), "it is not replaced");
    journal.remove();
    assert!(place.find(ID, Path::new("")).unwrap().is_none());
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(place.find(ID, Path::new("")), Err(JournalError::File { .. })), "links are not followed");
}

#[test]
fn runs_in_a_row_become_one_change() {
    use crate::node::qcow2::entry::Geometry;
    let geometry = Geometry { version: 3, cluster_bits: 16, refcount_order: 4, external_data: false, extended: false };
    let one = Change { first: 7, count: 1, word: 1 << 63 | 0x5_0000, step: 0 };
    let two = one.with(8, 1 << 63 | 0x6_0000, geometry).unwrap();
    assert_eq!((two.count, two.word_of(8)), (2, 1 << 63 | 0x6_0000));
    assert_eq!(two.with(9, 1 << 63 | 0x8_0000, geometry), None, "elsewhere in the file");
    assert_eq!(two.with(10, 1 << 63 | 0x7_0000, geometry), None, "not the next cluster");
    let zeroes = Change { word: 1, ..one }.with(8, 1, geometry).unwrap().with(9, 1, geometry).unwrap();
    assert_eq!((zeroes.count, zeroes.step, zeroes.word_of(9)), (3, 0, 1));
}

#[test]
fn journals_are_removed_when_their_daemon_is_gone_and_their_image_does_not_name_them() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path().to_owned(), slots: MOST, changes: 0 };
    let image = |name: &str, autoclear: u64| {
        let path = directory.path().join(name);
        std::fs::write(&path, [vec![0; 88], autoclear.to_be_bytes().to_vec()].concat()).unwrap();
        path
    };
    let named = image("named", 1 << 62 | 7 << 16);
    let closed = image("closed", 0);
    let gone = directory.path().join("gone");
    let there = |id| place.path(id).exists();
    drop(place.create(7, &named).unwrap());
    drop(place.create(8, &closed).unwrap());
    drop(place.create(9, &gone).unwrap());
    drop(place.create(10, Path::new("")).unwrap());
    let living = place.create(11, &gone).unwrap();
    drop(place.create(12, &named).unwrap());
    assert_eq!([7, 8, 9, 10, 11, 12].map(there), [true, false, false, true, true, true]);
    drop(living);
    let _last = place.create(13, &gone).unwrap();
    assert_eq!([7, 11, 12, 13].map(there), [true, false, false, true], "12 is not named by its image");
}

#[test]
fn an_image_that_names_the_journal_of_another_does_not_get_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path().to_owned(), slots: MOST, changes: 0 };
    let [image, other] = ["image", "other"].map(|name| directory.path().join(name));
    [&image, &other].into_iter().for_each(|path| std::fs::write(path, b"").unwrap());
    drop(place.create(ID, &image).unwrap());
    assert!(matches!(place.find(ID, &other), Err(JournalError::Other(_))));
    std::fs::rename(&image, directory.path().join("renamed")).unwrap();
    assert!(place.find(ID, &directory.path().join("renamed")).unwrap().is_some(), "it is the file that counts");
}
