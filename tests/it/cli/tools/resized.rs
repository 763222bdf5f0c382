//! Disks of another size, beside `qemu-img`: every length there is, space that is taken ahead, and no room for it.

use super::super::process::Place;
use super::{check, content, ours, qemu, qemu_img, succeed, tidemark};
use std::os::unix::fs::MetadataExt;

/// What a size is changed by, or to.
const CHANGES: [&str; 12] =
    ["+1", "+511", "+512", "+100k", "-1", "-512", "-1000", "1000", "1001", "3000", "1.5k", "0x400"];

#[test]
fn a_raw_disk_gets_the_length_that_qemu_img_gives_it() {
    let place = Place::new();
    for bytes in [511, 512, 513, 1000, 70_000, 1_000_448] {
        for change in CHANGES {
            for shrink in [&[][..], &["--shrink"]] {
                let way = [&["resize", "-q", "-f", "raw"], shrink, &["x", "--", change]].concat();
                let told = [super::TIDEMARK, "qemu-img"].map(|program| {
                    std::fs::write(place.file("x"), vec![7; bytes]).unwrap();
                    let told = super::told(&place, program, &way);
                    let err = told.err.replace("tidemark: ", "").replace("qemu-img: ", "");
                    (told.status, err, std::fs::read(place.file("x")).unwrap())
                });
                assert!(
                    told[0] == told[1],
                    "{bytes} bytes, {way:?}: {:?}",
                    told.map(|told| (told.0, told.1, told.2.len()))
                );
            }
        }
    }
}

#[test]
fn what_is_no_size_is_refused_in_the_words_of_qemu_img() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "x", "1M"]);
    for size in ["50%", "foo", "1X", "", "-2M", "0", "+1", "+511"] {
        let way = ["resize", "--shrink", "x", "--", size];
        let (ours, theirs) = (ours(&place, &way), qemu(&place, &way));
        assert_eq!((ours.status, ours.err.replace("tidemark", "qemu-img")), (theirs.status, theirs.err), "{size}");
    }
}

#[test]
fn a_disk_that_grows_takes_the_space_that_it_is_given_by_qemu_img() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "raw", "base", "5M"]);
    succeed(&place, "qemu-io", &["-f", "raw", "-c", "write -P 9 0 5M", "base"]);
    let map = |image: &str| qemu_img(&place, &["map", "--output=json", image]).out.replace(", \"zero\": true", "");
    for (options, cluster) in [("cluster_size=64k", 64 << 10), ("cluster_size=4k", 4 << 10)] {
        for (space, backing) in [
            ("metadata", &[][..]),
            ("falloc", &[]),
            ("full", &[]),
            ("metadata", &["-b", "base", "-F", "raw"]),
            ("off", &[]),
        ] {
            for name in ["x", "y"] {
                let create = [&["create", "-q", "-f", "qcow2", "-o", options], backing, &[name, "1000448"]].concat();
                qemu_img(&place, &create);
                succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 100k", name]);
            }
            let before = content(&place, "x", "qcow2");
            let way = ["resize", "-q", "--preallocation", space];
            tidemark(&place, &[&way[..], &["x", "+3M"]].concat());
            qemu_img(&place, &[&way[..], &["y", "+3M"]].concat());
            let now = content(&place, "x", "qcow2");
            assert!(now[..before.len()] == before && now[before.len()..].iter().all(|byte| *byte == 0), "{space}");
            assert!(content(&place, "y", "qcow2") == now, "{space}");
            check(&place, "x");
            let own = |image: &str| map(image).matches("\"depth\": 0").count() > 0;
            assert!(own("x") && own("y"));
            let blocks = |image: &str| std::fs::metadata(place.file(image)).unwrap().blocks() / 8;
            let (ours, theirs) = (blocks("x"), blocks("y"));
            // Tables are elsewhere, and the cluster at the old end.
            let little = 3 * cluster.max(64 << 10) / 4096;
            assert!(ours.abs_diff(theirs) <= little, "{options}, {space}: {ours} and {theirs} blocks");
            let info = |image: &str| qemu_img(&place, &["check", "--output=json", image]).out;
            let allocated = |image: &str| qmp_lite::wire::parse(&info(image)).unwrap()["allocated-clusters"].as_u64();
            assert_eq!(allocated("x"), allocated("y"), "{options}, {space}, {backing:?}");
        }
    }
}

#[test]
fn a_disk_for_which_there_is_no_room_is_what_it_was() {
    let place = Place::new();
    for space in ["metadata", "falloc", "full"] {
        qemu_img(&place, &["create", "-q", "-f", "qcow2", "x", "1M"]);
        succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 100k", "x"]);
        let before = content(&place, "x", "qcow2");
        // KiB that a file may have.
        let script =
            format!("ulimit -f 4096; trap '' XFSZ; '{}' resize --preallocation {space} x +20M", super::TIDEMARK);
        let told = super::told(&place, "bash", &["-c", &script]);
        assert_eq!(told.status, 1, "{space}: {told:?}");
        assert!(told.err.contains("the disk is as long as it was"), "{space}: {told:?}");
        assert!(content(&place, "x", "qcow2") == before, "{space}");
        check(&place, "x");
    }
}
