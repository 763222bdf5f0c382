//! Internal snapshots of images that nobody serves: taken, applied and deleted by either program, they are the same disks.

use super::super::process::Place;
use super::{check, content, ours, qemu_img, succeed, tidemark};
use qmp_lite::wire;

/// Has an image other bytes in many places.
fn write(place: &Place, pattern: u8) {
    let write = |offset: &str| format!("write -P {pattern} {offset} 100k");
    let (first, second) = (write(&format!("{}k", u32::from(pattern) * 130)), write("1M"));
    succeed(place, "qemu-io", &["-f", "qcow2", "-c", &first, "-c", &second, "x"]);
}

/// Names and ids, as QEMU reads them.
fn names(place: &Place) -> Vec<(String, String)> {
    let info = wire::parse(&qemu_img(place, &["info", "--output=json", "x"]).out).unwrap();
    let snapshots = info["snapshots"].as_array().cloned().unwrap_or_default();
    let text = |value: &wire::Value| value.as_str().unwrap().to_owned();
    snapshots.iter().map(|snapshot| (text(&snapshot["id"]), text(&snapshot["name"]))).collect()
}

#[test]
fn a_disk_goes_back_to_what_it_was_whoever_took_the_snapshot() {
    for options in ["cluster_size=4k", "cluster_size=64k", "compat=0.10"] {
        let place = Place::new();
        qemu_img(&place, &["create", "-q", "-f", "qcow2", "-o", options, "x", "3M"]);
        let mut disks = Vec::new();
        for (pattern, name) in [(1, "ours"), (2, "theirs"), (3, "again")] {
            write(&place, pattern);
            disks.push((name, content(&place, "x", "qcow2")));
            match name {
                "theirs" => qemu_img(&place, &["snapshot", "-c", name, "x"]),
                _ => tidemark(&place, &["snapshot", "create", "x", name]),
            };
            check(&place, "x");
        }
        write(&place, 4);
        for (name, disk) in [&disks[1], &disks[0], &disks[2], &disks[0]] {
            tidemark(&place, &["snapshot", "apply", "x", name]);
            check(&place, "x");
            assert!(content(&place, "x", "qcow2") == *disk, "{options}, {name}");
        }
        qemu_img(&place, &["snapshot", "-a", "again", "x"]);
        assert!(content(&place, "x", "qcow2") == disks[2].1, "{options}: QEMU goes back to ours, too");
        tidemark(&place, &["snapshot", "delete", "x", "1"]);
        check(&place, "x");
        assert_eq!(names(&place), [("2".to_owned(), "theirs".to_owned()), ("3".to_owned(), "again".to_owned())]);
        tidemark(&place, &["snapshot", "delete", "x", "again"]);
        tidemark(&place, &["snapshot", "apply", "x", "theirs"]);
        check(&place, "x");
        assert!(content(&place, "x", "qcow2") == disks[1].1, "{options}");
        assert_eq!(ours(&place, &["snapshot", "delete", "x", "theirs"]).err, "");
        assert_eq!(tidemark(&place, &["snapshot", "list", "x"]).out, "The image has no snapshots.\n");
    }
}

#[test]
fn snapshots_are_listed_as_an_image_tells_of_them() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "x", "1M"]);
    qemu_img(&place, &["snapshot", "-c", "one", "x"]);
    let info = wire::parse(&qemu_img(&place, &["info", "--output=json", "x"]).out).unwrap();
    let listed = tidemark(&place, &["snapshot", "list", "--output", "json", "x"]).out;
    assert_eq!(wire::parse(&listed).unwrap(), info["snapshots"]);
    assert!(tidemark(&place, &["snapshot", "list", "x"]).out.contains("one"));
    assert_eq!(tidemark(&place, &["snapshot", "list", "disk"]).out, "The image has no snapshots.\n", "a raw one");
}

#[test]
fn a_snapshot_is_refused_where_it_would_be_a_lie_or_is_not_there() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "x", "1M"]);
    tidemark(&place, &["snapshot", "create", "x", "one"]);
    for (way, text) in [
        (
            ["snapshot", "apply", "x", "none"],
            "Could not apply snapshot 'none': Failed to load snapshot: No such file or directory",
        ),
        (["snapshot", "delete", "x", "none"], "Could not delete snapshot 'none': snapshot not found"),
        (["snapshot", "create", "disk", "one"], "Could not create snapshot 'one': Operation not supported"),
    ] {
        let told = ours(&place, &way);
        assert_eq!(told.status, 1, "{way:?}");
        assert!(told.err.contains(text), "{way:?}: {}", told.err);
    }
    qemu_img(&place, &["bitmap", "--add", "x", "b"]);
    let told = ours(&place, &["snapshot", "apply", "x", "one"]);
    assert_eq!(told.status, 1, "{told:?}");
    assert!(told.err.contains("Device has active dirty bitmaps"), "{}", told.err);
}
