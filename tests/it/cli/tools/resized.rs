//! Disks of another size, beside `qemu-img`: every length there is, space that is taken ahead, and no room for it.

use super::super::process::{Place, wait_until};
use super::super::small;
use super::{check, content, ours, qemu, qemu_img, succeed, tidemark};
use qmp_lite::wire;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Blocks of 4 KiB that a file takes.
fn blocks(file: &Path) -> u64 {
    std::fs::metadata(file).unwrap().blocks() / 8
}

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
            let (ours, theirs) = (blocks(&place.file("x")), blocks(&place.file("y")));
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

#[test]
fn parts_of_clusters_that_a_disk_grows_by_have_space_and_are_nobodys_data() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "raw", "base", "5M"]);
    succeed(&place, "qemu-io", &["-f", "raw", "-c", "write -P 9 0 5M", "base"]);
    let whole = 2 << 20;
    // Of the clusters that are new as a whole: how long, in which image, and whether it is data. Whether what is reserved
    // there is zero is the file system's to say.
    let map = |image: &str| {
        let told = wire::parse(&qemu_img(&place, &["map", "--output=json", "-s", &format!("{whole}"), image]).out);
        let runs = told.unwrap();
        let runs = runs.as_array().unwrap().iter();
        runs.map(|run| ["start", "length", "depth", "present", "data"].map(|name| run[name].clone()))
            .collect::<Vec<_>>()
    };
    for options in ["extended_l2=on", "extended_l2=on,cluster_size=2M", "cluster_size=2M"] {
        for backing in [&[][..], &["-b", "base", "-F", "raw"]] {
            for space in ["metadata", "falloc", "full"] {
                for (program, name) in [(super::TIDEMARK, "x"), ("qemu-img", "y")] {
                    let create =
                        [&["create", "-q", "-f", "qcow2", "-o", options], backing, &[name, "1000448"]].concat();
                    qemu_img(&place, &create);
                    succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 100k", name]);
                    succeed(&place, program, &["resize", "-q", "--preallocation", space, name, "+3M"]);
                }
                let what = format!("{options}, {backing:?}, {space}");
                assert!(content(&place, "x", "qcow2") == content(&place, "y", "qcow2"), "{what}");
                check(&place, "x");
                let extended = options.contains("extended_l2");
                assert!(!extended || map("x") == map("y"), "{what}: {:?} and {:?}", map("x"), map("y"));
                // It moves the cluster where the disk ended, and leaves it in both places.
                let (ours, theirs) = (blocks(&place.file("x")), blocks(&place.file("y")));
                let enough = if space == "metadata" { 0 } else { (3 << 20) / 4096 };
                let part = if backing.is_empty() { 0 } else { 300 };
                assert!((enough..=theirs + part).contains(&ours), "{what}: {ours} and {theirs} blocks");
            }
        }
    }
}

#[test]
fn a_disk_whose_storage_becomes_full_while_it_grows_is_what_it_was() {
    let place = Place::new();
    let keeper = small::mount(&place);
    let inside = small::inside(&keeper, &place);
    let path = |name: &str| inside.join(name).to_str().unwrap().to_owned();
    let size = |image: &str| wire::parse(&qemu_img(&place, &["info", "--output=json", image]).out).unwrap();
    for options in ["cluster_size=64k", "cluster_size=1M", "extended_l2=on"] {
        for (space, more) in
            [("metadata", "+30G"), ("falloc", "+20M"), ("falloc", "+30G"), ("full", "+20M"), ("metadata", "+20M")]
        {
            let [ours, theirs] = [super::TIDEMARK, "qemu-img"].map(|program| {
                // What was removed takes its room until the last ring that had it is gone.
                let create = ["create", "-q", "-f", "qcow2", "-o", options, &path("x"), "1000448"];
                wait_until("room", || super::told(&place, "qemu-img", &create).status == 0);
                if options != "cluster_size=1M" {
                    succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 100k", &path("x")]);
                }
                let (before, taken) = (content(&place, &path("x"), "qcow2"), blocks(&inside.join("x")));
                let told = super::told(&place, program, &["resize", "-q", "--preallocation", space, &path("x"), more]);
                let same = content(&place, &path("x"), "qcow2")[..before.len()] == before;
                let size = size(&path("x"))["virtual-size"].as_u64();
                let sound = qemu(&place, &["check", "-q", &path("x")]).status == 0;
                let taken = blocks(&inside.join("x")).saturating_sub(taken);
                std::fs::remove_file(inside.join("x")).unwrap();
                (told, size, same, sound, taken)
            });
            let what = format!("{options}, {space} {more}: {ours:?} and {theirs:?}");
            assert!(ours.2 && ours.3 && theirs.2, "{what}");
            assert_eq!((ours.0.status, ours.1), (theirs.0.status, theirs.1), "{what}");
            if ours.0.status != 0 {
                let why = theirs.0.err.trim_start_matches("qemu-img: ");
                let all = ours.0.err.lines().count() == 1 && ours.0.err.contains("the disk is as long as it was");
                // Where a table does not fit it has names for each.
                assert!(all && (options == "cluster_size=1M" || ours.0.err.ends_with(why)), "{what}");
                assert!(ours.4 <= 32, "{what}");
            }
        }
    }
}
