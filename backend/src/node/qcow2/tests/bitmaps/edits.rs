//! What may be done with persistent bitmaps, and what the file has then; the texts are those of QEMU.

use super::made::Made;
use super::opened::Opened;
use crate::bitmaps::BitmapError;
use crate::bitmaps::Resize;
use crate::io::sim::Faults;
use std::ops::Range;

const MIB: u64 = 1 << 20;

fn text(result: Result<(), BitmapError>) -> String {
    result.unwrap_err().to_string()
}

/// An image with a bitmap that was in use when somebody was killed.
fn inconsistent() -> Made {
    let made = Made::create("", MIB);
    made.add("", "b");
    Opened::new(&made, false).file()
}

#[test]
fn an_inconsistent_bitmap_can_only_be_removed() {
    let mut opened = Opened::new(&inconsistent(), false);
    opened.add("other", 65536, false);
    let refused = "Bitmap 'b' is inconsistent and cannot be used";
    assert_eq!(text(opened.try_edit(|stage, node| stage.clear(node, "b"))), refused);
    assert_eq!(text(opened.try_edit(|stage, node| stage.enable(node, "b"))), refused);
    assert_eq!(text(opened.try_edit(|stage, node| stage.disable(node, "b"))), refused);
    let merged = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        move |stage: &mut crate::bitmaps::Stage<_>, node: &_| {
            stage.merge(node, &to, &[(std::clone::Clone::clone(node), from)])
        }
    };
    assert_eq!(text(opened.try_edit(merged("b", "other"))), refused);
    assert_eq!(text(opened.try_edit(merged("other", "b"))), refused);
    assert_eq!(text(opened.try_edit(|stage, node| stage.check_backup(node, "b"))), refused);
    let exists = text(opened.try_edit(|stage, node| stage.add(node, "b", None, true, false)));
    assert_eq!(exists, "Bitmap already exists: b");
    let resized = Resize::prepare(opened.node().points().tracking(), opened.node().length(), 2 * MIB);
    assert_eq!(resized.err().unwrap().to_string(), refused);
    opened.edit(|stage, node| stage.remove(node, "b"));
    let file = opened.file();
    assert_eq!(file.told(), [], "removed at once, and the other one is not there before it is stored");
    assert_eq!(file.check().1, 0);
    assert_eq!(opened.close().told().len(), 1);
}

#[test]
fn a_bitmap_of_a_read_only_image_is_read_and_never_changed() {
    let made = Made::create("", MIB);
    made.add("", "b");
    let mut opened = Opened::new(&made, true);
    let refused = "Bitmap 'b' is readonly and cannot be modified";
    assert_eq!(text(opened.try_edit(|stage, node| stage.clear(node, "b"))), refused);
    assert_eq!(text(opened.try_edit(|stage, node| stage.remove(node, "b"))), refused);
    assert_eq!(text(opened.try_edit(|stage, node| stage.check_change(node, "b"))), refused);
    opened.edit(|stage, node| stage.disable(node, "b"));
    opened.edit(|stage, node| stage.check_backup(node, "b"));
    assert_eq!(opened.close().bytes(), made.bytes());
}

#[test]
fn a_removed_bitmap_is_gone_from_the_file_at_once() {
    let made = Made::create("-o cluster_size=4096", 64 * MIB);
    made.add("-g 512", "gone");
    made.add("", "stays");
    made.write(MIB, MIB);
    let mut opened = Opened::new(&made, false);
    opened.edit(|stage, node| stage.remove(node, "gone"));
    let now = opened.file();
    let told = now.told();
    assert_eq!((told.len(), told[0].name.as_str(), told[0].in_use), (1, "stays", true));
    assert_eq!(now.check().1, 0);
    opened.edit(|stage, node| stage.remove(node, "stays"));
    assert_eq!(opened.file().told(), []);
    let closed = opened.close();
    assert_eq!((closed.told(), closed.check()), (vec![], (0, 0)));
}

#[test]
fn what_a_bitmap_of_an_image_becomes_is_what_is_stored() {
    let made = Made::create("", 8 * MIB);
    made.add("", "a");
    made.add("", "b");
    made.write(0, MIB);
    let mut opened = Opened::new(&made, false);
    opened.edit(|stage, node| {
        stage.clear(node, "a")?;
        stage.add(node, "c", None, true, true)?;
        stage.merge(node, "c", &[(node.clone(), "b".to_owned())])?;
        stage.disable(node, "b")
    });
    opened.write(2 * MIB, MIB);
    let closed = opened.close();
    let first = || vec![Range { start: 0, end: MIB }];
    assert_eq!(closed.marked("a"), vec![Range { start: 2 * MIB, end: 3 * MIB }]);
    assert_eq!([closed.marked("b"), closed.marked("c")], [first(), first()]);
    let auto: Vec<_> = closed.told().into_iter().map(|told| (told.name, told.auto)).collect();
    assert_eq!(auto, [("a".to_owned(), true), ("b".to_owned(), false), ("c".to_owned(), false)]);
}

#[test]
fn what_is_recorded_while_a_bitmap_is_in_use_is_stored_with_it() {
    let made = Made::create("", 8 * MIB);
    made.add("", "a");
    made.write(0, MIB);
    let mut opened = Opened::new(&made, false);
    opened.edit(|stage, node| stage.freeze(node, "a", true).map(drop));
    assert!(opened.list()[0].busy);
    opened.write(2 * MIB, MIB);
    let closed = opened.close();
    assert_eq!(closed.marked("a"), [0..MIB, 2 * MIB..3 * MIB]);
    assert!(closed.told()[0].auto);
}

#[test]
fn bitmaps_that_an_image_cannot_keep_are_refused() {
    let mut opened = Opened::new(&Made::create("-o compat=v2", MIB), false);
    let refused = text(opened.try_edit(|stage, node| stage.add(node, "q", None, true, false)));
    assert_eq!(refused, "Can't make bitmap 'q' persistent in 'image': Cannot store dirty bitmaps in qcow2 v2 files");
    let mut opened = Opened::new(&Made::create("", MIB), false);
    let long = "n".repeat(1024);
    let refused = text(opened.try_edit(|stage, node| stage.add(node, &long, None, true, false)));
    let expected =
        format!("Can't make bitmap '{long}' persistent in 'image': Name length exceeds maximum (1023 characters)");
    assert_eq!(refused, expected);
    opened.add(&long[1..], 65536, false);
    assert_eq!(opened.close().told()[0].name, long[1..]);
}

#[test]
fn a_bitmap_of_an_image_is_as_fine_as_its_clusters() {
    for (cluster, granularity) in [(512, 4096), (16384, 16384), (2 * MIB, 65536)] {
        let mut opened = Opened::new(&Made::create(&format!("-o cluster_size={cluster}"), MIB), false);
        opened.edit(|stage, node| stage.add(node, "b", None, false, false));
        assert_eq!(opened.list()[0].granularity, granularity);
    }
}

#[test]
fn without_space_no_bitmap_is_claimed_to_be_right() {
    let made = Made::create("", 8 * MIB);
    made.add("", "a");
    let mut opened = Opened::new(&made, false);
    opened.add("new", 512, false);
    opened.write(MIB, 512);
    opened.machine.set_faults(Faults { no_space: 1024, ..Faults::default() });
    let error = opened.store().unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    opened.machine.set_faults(Faults::default());
    opened.machine.close().unwrap();
    let left = opened.file();
    let told = left.told();
    assert_eq!((told.len(), told[0].name.as_str(), told[0].in_use), (1, "a", true));
    assert_eq!(left.check(), (0, 0));
    assert!(Opened::new(&left, true).list()[0].inconsistent);
}
