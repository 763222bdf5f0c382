//! Storage that fails while bitmaps are stored or removed: guests go on writing, and the file must not claim otherwise.

use super::made::Made;
use super::opened::{Opened, image, options};
use crate::io::sim::Faults;
use crate::node::qcow2::bitmaps::StoreError;
use crate::node::qcow2::journal::{MOST, Place};
use crate::node::qcow2::open::Options;
use crate::node::qcow2::tests::machine::Machine;
use std::path::Path;

const MIB: u64 = 1 << 20;

#[test]
fn bitmaps_of_an_image_that_could_not_be_made_read_only_are_still_in_use() {
    let made = Made::create("", 4 * MIB);
    made.add("", "b");
    let directory = tempfile::tempdir().unwrap();
    let (mut went_on, mut gave_up) = (0, 0);
    for seed in 0..120 {
        let mut opened = open(seed, &made, directory.path());
        opened.write(0, 65536);
        opened.machine.set_faults(Faults { write_error: 150, ..Faults::default() });
        let node = opened.node();
        let closed =
            opened.machine.run(move |io| async move { image(&node).become_read_only(&io, node.points()).await });
        opened.machine.set_faults(Faults::default());
        let told = opened.file().told();
        match (closed, image(&opened.node()).is_read_only()) {
            (Ok(()), _) => assert!(told.iter().all(|bitmap| !bitmap.in_use), "seed {seed}: {told:?}"),
            (Err(_), false) => {
                assert!(told.iter().all(|bitmap| bitmap.in_use), "seed {seed}: {told:?}, and guests write");
                went_on += 1;
            }
            (Err(_), true) => gave_up += 1,
        }
        opened.machine.kill();
    }
    assert!(went_on > 10 && gave_up > 0, "{went_on} went on, {gave_up} gave up");
}

#[test]
fn a_bitmap_that_could_be_removed_the_second_time_is_not_in_the_file() {
    let made = Made::create("", 4 * MIB);
    made.add("", "b");
    let directory = tempfile::tempdir().unwrap();
    let mut failed = 0;
    for seed in 0..120 {
        let mut opened = open(seed, &made, directory.path());
        opened.machine.set_faults(Faults { write_error: 150, ..Faults::default() });
        failed += u32::from(remove(&mut opened).is_err());
        opened.machine.set_faults(Faults::default());
        remove(&mut opened).unwrap();
        assert_eq!(opened.file().told(), [], "seed {seed}");
        opened.machine.kill();
    }
    assert!(failed > 10, "{failed} failed the first time");
}

fn open(seed: u64, made: &Made, directory: &Path) -> Opened {
    let place = Place { directory: directory.to_owned(), slots: MOST, changes: 0 };
    let mut opened = Opened { machine: Machine::new(seed, &[made.bytes()], 1) };
    opened.machine.open(Options { journal: Some(place), ..options(false) }).unwrap();
    opened
}

fn remove(opened: &mut Opened) -> Result<(), StoreError> {
    let node = opened.node();
    opened.machine.run(move |io| async move { image(&node).remove_bitmap(&io, "b").await })
}
