//! An image that cannot be made read-only, because its storage fails on the way: guests go on writing to it.

use super::made::Made;
use super::opened::{Opened, image, options};
use crate::io::sim::Faults;
use crate::node::qcow2::journal::{MOST, Place};
use crate::node::qcow2::open::Options;
use crate::node::qcow2::tests::machine::Machine;

const MIB: u64 = 1 << 20;

#[test]
fn bitmaps_of_an_image_that_could_not_be_made_read_only_are_still_in_use() {
    let made = Made::create("", 4 * MIB);
    made.add("", "b");
    let directory = tempfile::tempdir().unwrap();
    let (mut went_on, mut gave_up) = (0, 0);
    for seed in 0..120 {
        let place = Place { directory: directory.path().to_owned(), slots: MOST, changes: 0 };
        let mut opened = Opened { machine: Machine::new(seed, &[made.bytes()], 1) };
        opened.machine.open(Options { journal: Some(place), ..options(false) }).unwrap();
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
