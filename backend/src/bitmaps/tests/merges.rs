//! Merges in one transaction see what the actions before them did.

use super::disk::{Disk, transact};
use std::sync::Arc;

const LEN: u64 = 1 << 20;

/// A disk with bitmaps of 512 bytes a bit and one of 64 KiB, of which only `source` records.
fn disk() -> Arc<Disk> {
    let disk = Disk::new("d", LEN);
    transact(|stage| {
        stage.add(&disk, "source", Some(512), false, false)?;
        stage.add(&disk, "coarse", Some(65536), false, true)?;
        stage.add(&disk, "fine", Some(512), false, true)
    })
    .unwrap();
    disk
}

fn from(disk: &Arc<Disk>, name: &str) -> [(Arc<Disk>, String); 1] {
    [(disk.clone(), name.to_owned())]
}

#[test]
fn what_came_through_a_coarser_bitmap_comes_out_as_coarse() {
    for back_to in ["fine", "source"] {
        let disk = disk();
        disk.write(LEN - 512, 512);
        transact(|stage| {
            stage.merge(&disk, "coarse", &from(&disk, "source"))?;
            stage.merge(&disk, back_to, &from(&disk, "coarse"))
        })
        .unwrap();
        let last: Vec<u64> = (LEN - 65536..LEN).step_by(512).collect();
        assert_eq!(disk.marked(back_to), last, "{back_to}");
    }
}

#[test]
fn a_bitmap_that_is_cleared_after_it_was_merged_leaves_what_was_merged() {
    let disk = disk();
    disk.write(0, 512);
    transact(|stage| {
        stage.merge(&disk, "fine", &from(&disk, "source"))?;
        stage.clear(&disk, "source")
    })
    .unwrap();
    assert_eq!((disk.marked("fine"), disk.marked("source")), (vec![0], vec![]));
}

#[test]
fn a_bitmap_that_is_cleared_before_it_is_merged_brings_nothing() {
    let disk = disk();
    disk.write(0, 512);
    transact(|stage| {
        stage.clear(&disk, "source")?;
        stage.merge(&disk, "fine", &from(&disk, "source"))
    })
    .unwrap();
    assert_eq!((disk.marked("fine"), disk.marked("source")), (vec![], vec![]));
}
