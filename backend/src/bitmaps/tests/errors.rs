//! Every refusal of the bitmap verbs, with QEMU's text, and that it changes nothing.

use super::disk::{Disk, transact};
use crate::bitmaps::{BitmapError, Stage, Tracked};
use std::sync::Arc;

type Edit = fn(&mut Stage<Disk>, &Arc<Disk>, &Arc<Disk>) -> Result<(), BitmapError>;

/// Of a disk with `b0`, and `used`, which a job uses, and another disk of another length with `far`.
const REFUSED: [(&str, Edit, &str); 20] = [
    ("a name twice", |s, d, _| s.add(d, "b0", None, false, false), "Bitmap already exists: b0"),
    ("the name of one in use", |s, d, _| s.add(d, "used", None, false, false), "Bitmap already exists: used"),
    ("no name", |s, d, _| s.add(d, "", Some(100), true, false), "Bitmap name cannot be empty"),
    ("256 bytes a bit", |s, d, _| s.add(d, "n", Some(256), true, false), GRANULARITY),
    ("no power of two", |s, d, _| s.add(d, "n", Some(513), false, false), GRANULARITY),
    ("no bytes a bit", |s, d, _| s.add(d, "n", Some(0), false, false), GRANULARITY),
    (
        "a persistent one, of a name in use, where nothing keeps it",
        |s, d, _| s.add(d, "b0", None, true, false),
        "Can't store persistent bitmaps to d: Operation not supported",
    ),
    (
        "the name of one that goes with the same transaction",
        |s, d, _| s.remove(d, "b0").and_then(|()| s.add(d, "b0", None, false, false)),
        "Bitmap already exists: b0",
    ),
    ("remove what is not there", |s, d, _| s.remove(d, "nope"), "Dirty bitmap 'nope' not found"),
    ("clear what is not there", |s, d, _| s.clear(d, "nope"), "Dirty bitmap 'nope' not found"),
    ("enable what is not there", |s, d, _| s.enable(d, "nope"), "Dirty bitmap 'nope' not found"),
    ("disable what is not there", |s, d, _| s.disable(d, "nope"), "Dirty bitmap 'nope' not found"),
    ("merge into what is not there", |s, d, _| merge(s, (d, "nope"), (d, "used")), "Dirty bitmap 'nope' not found"),
    ("merge what is not there", |s, d, _| merge(s, (d, "used"), (d, "nope")), "Dirty bitmap 'nope' not found"),
    ("remove one in use", |s, d, _| s.remove(d, "used"), USED),
    ("clear one in use", |s, d, _| s.clear(d, "used"), USED),
    ("enable one in use", |s, d, _| s.enable(d, "used"), USED),
    ("disable one in use", |s, d, _| s.disable(d, "used"), USED),
    ("merge into one in use", |s, d, _| merge(s, (d, "used"), (d, "b0")), USED),
    ("merge one in use", |s, d, _| merge(s, (d, "b0"), (d, "used")), USED),
];

const GRANULARITY: &str = "Granularity must be power of 2 and at least 512";
const USED: &str = "Bitmap 'used' is currently in use by another operation and cannot be used";

fn merge(
    stage: &mut Stage<Disk>,
    (target_disk, target): (&Arc<Disk>, &str),
    (disk, source): (&Arc<Disk>, &str),
) -> Result<(), BitmapError> {
    stage.merge(target_disk, target, &[(disk.clone(), source.to_owned())])
}

fn disks() -> (Arc<Disk>, Arc<Disk>) {
    let (disk, other) = (Disk::new("d", 33_559_040), Disk::new("other", 1 << 20));
    transact(|stage| {
        stage.add(&disk, "b0", None, false, false)?;
        stage.add(&disk, "used", None, false, false)?;
        stage.add(&other, "far", None, false, false)
    })
    .unwrap();
    disk.write(0, 1 << 20);
    other.write(0, 1);
    transact(|stage| stage.freeze(&disk, "used", true).map(drop)).unwrap();
    (disk, other)
}

/// A refusal, after a clear in the same transaction that must not have happened.
fn check(case: &str, edit: Edit, text: &str) {
    let (disk, other) = disks();
    let before = (disk.tracking().list(), other.tracking().list());
    let refused = transact(|stage| {
        stage.add(&disk, "fresh", None, false, false)?;
        stage.clear(&other, "far")?;
        edit(stage, &disk, &other)
    });
    assert_eq!(refused.unwrap_err().to_string(), text, "{case}");
    assert_eq!((disk.tracking().list(), other.tracking().list()), before, "{case}: nothing has happened");
}

#[test]
fn refused_verbs_say_why_as_qemu_does_and_change_nothing() {
    for (case, edit, text) in REFUSED {
        check(case, edit, text);
    }
    check(
        "disks that differ",
        |s, d, o| merge(s, (d, "b0"), (o, "far")),
        concat!(
            "Bitmaps are of different sizes (destination size is 33559040, source size is 1048576) ",
            "and can't be merged"
        ),
    );
    check("a backup of what is not there", |s, d, _| s.check_backup(d, "nope"), "Dirty bitmap 'nope' not found");
    check("a backup with one in use", |s, d, _| s.check_backup(d, "used"), USED);
    check("a second backup with one in use", |s, d, _| s.freeze(d, "used", true).map(drop), USED);
    check(
        "one that the same transaction removes",
        |s, d, _| s.remove(d, "b0").and_then(|()| s.clear(d, "b0")),
        "Bitmap 'b0' is currently in use by another operation and cannot be used",
    );
    check(
        "one that a backup of the same transaction takes",
        |s, d, _| s.freeze(d, "b0", true).and_then(|_| s.disable(d, "b0")),
        "Bitmap 'b0' is currently in use by another operation and cannot be used",
    );
}

#[test]
fn names_have_1023_bytes_and_no_more() {
    let disk = Disk::new("d", 1 << 20);
    let add = |name: &str| transact(|stage| stage.add(&disk, name, None, false, false));
    let (longest, longer) = ("x".repeat(1023), "x".repeat(1024));
    assert_eq!(add(&longest), Ok(()));
    assert_eq!(add(&longer).unwrap_err().to_string(), format!("Bitmap name too long: {longer}"));
    assert_eq!(disk.tracking().list().len(), 1);
}

#[test]
fn granularities_go_from_512_bytes_to_2_gib() {
    let disk = Disk::new("d", 1 << 20);
    let add = |name: &str, bytes| transact(|stage| stage.add(&disk, name, bytes, false, false));
    for (name, bytes) in [("none", None), ("least", Some(512)), ("most", Some(1 << 31))] {
        assert_eq!(add(name, bytes), Ok(()));
    }
    assert_eq!(add("more", Some(1 << 32)).unwrap_err().to_string(), GRANULARITY);
    disk.write(5, 1);
    let counts: Vec<_> = disk.tracking().list().iter().map(|info| (info.count, info.granularity)).collect();
    assert_eq!(counts, [(1 << 31, 1 << 31), (512, 512), (65536, 65536)], "the last block counts whole");
}

#[test]
fn a_node_with_a_bitmap_in_use_is_not_resized() {
    let (disk, _) = disks();
    assert_eq!(disk.resize(1 << 20, &[]).unwrap_err().to_string(), USED);
}
