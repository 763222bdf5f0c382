//! What `convert` reads: several images, snapshots by id and name, images that cannot be read everywhere, and how fast.

use super::super::process::Place;
use super::{check, content, ours, qemu, qemu_img, succeed, tidemark};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// A raw disk of no whole sectors, an image with two snapshots, and one whose compressed cluster is broken.
fn place() -> Place {
    let place = Place::new();
    let mut random = fastrand::Rng::with_seed(9);
    let bytes: Vec<u8> = (0..70_000).map(|_| random.u8(1..4)).collect();
    std::fs::write(place.file("odd"), &bytes[..1000]).unwrap();
    std::fs::write(place.file("raw"), [&bytes[..], &[0; 300_000], &bytes[..3333]].concat()).unwrap();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "image", "1M"]);
    for (pattern, name) in [("3", "first"), ("4", "1")] {
        let write = format!("write -P {pattern} 100k 200k");
        succeed(&place, "qemu-io", &["-f", "qcow2", "-c", &write, "image"]);
        qemu_img(&place, &["snapshot", "-c", name, "image"]);
    }
    succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write -P 5 0 20k", "-c", "write -c -P 7 512k 64k", "image"]);
    let mut broken = std::fs::read(place.file("image")).unwrap();
    let word = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    let at = |word: u64| usize::try_from(word & 0x00ff_ffff_ffff_fe00).unwrap();
    let table = at(word(&broken, at(word(&broken, 40))));
    let compressed = usize::try_from(word(&broken, table + 8 * 8) & ((1 << 54) - 1)).unwrap();
    broken[compressed..compressed + 20].fill(0xff);
    std::fs::write(place.file("broken"), broken).unwrap();
    place
}

#[test]
fn several_sources_are_put_together_as_by_qemu_img() {
    let place = place();
    for sources in [&["odd", "raw"][..], &["image", "odd"], &["raw", "image", "odd", "raw"], &["odd", "odd", "image"]] {
        for way in [&["-O", "raw"][..], &["-O", "qcow2"], &["-O", "qcow2", "-c"], &["-O", "qcow2", "-S", "0"]] {
            tidemark(&place, &[&["convert"], way, sources, &["ours"]].concat());
            qemu_img(&place, &[&["convert"], way, sources, &["theirs"]].concat());
            let format = way[1];
            let same = content(&place, "ours", format) == content(&place, "theirs", format);
            assert!(same, "{sources:?}, {way:?}");
            if format == "qcow2" {
                check(&place, "ours");
            }
        }
    }
}

#[test]
fn clusters_where_sources_meet_are_compressed_as_by_qemu_img() {
    let place = place();
    std::fs::write(place.file("large"), std::fs::read(place.file("raw")).unwrap().repeat(60)).unwrap();
    for sources in
        [&["odd", "raw"][..], &["raw", "odd", "odd", "raw"], &["odd", "odd", "odd"], &["odd", "large", "large"]]
    {
        for options in ["cluster_size=64k", "cluster_size=2M", "extended_l2=on"] {
            for sparse in ["4k", "0"] {
                let way = ["convert", "-c", "-O", "qcow2", "-o", options, "-S", sparse];
                let [ours, theirs] = [(super::TIDEMARK, "ours"), ("qemu-img", "theirs")].map(|(program, name)| {
                    succeed(&place, program, &[&way[..], sources, &[name]].concat());
                    let told = qemu_img(&place, &["check", "--output=json", name]).out;
                    let told = qmp_lite::wire::parse(&told).unwrap();
                    let counts = ["allocated-clusters", "compressed-clusters"].map(|count| told[count].as_u64());
                    (counts, std::fs::metadata(place.file(name)).unwrap().blocks())
                });
                assert_eq!(ours.0, theirs.0, "{sources:?}, {options}, {sparse}");
                assert!(ours.1 <= theirs.1 + theirs.1 / 20, "{sources:?}, {options}, {sparse}: {ours:?}, {theirs:?}");
                let same = content(&place, "ours", "qcow2") == content(&place, "theirs", "qcow2");
                assert!(same, "{sources:?}, {options}, {sparse}");
            }
        }
    }
}

#[test]
fn a_snapshot_may_be_named_by_its_id_its_name_or_both() {
    let place = place();
    for snapshot in [
        "first",
        "1",
        "2",
        "snapshot.id=1",
        "snapshot.name=1",
        "snapshot.id=2,snapshot.name=1",
        "snapshot.name=first,snapshot.id=1",
        "snapshot.name=first,snapshot.id=2",
        "snapshot.name=2",
        "nope",
    ] {
        let convert = ["convert", "-l", snapshot, "image"];
        let told = ours(&place, &[&convert[..], &["ours"]].concat());
        let theirs = qemu(&place, &[&convert[..], &["theirs"]].concat());
        assert_eq!((told.status, told.err.replace("tidemark", "qemu-img")), (theirs.status, theirs.err), "{snapshot}");
        if told.status == 0 {
            let read = |name: &str| std::fs::read(place.file(name)).unwrap();
            assert!(read("ours") == read("theirs"), "{snapshot}");
        }
    }
}

#[test]
fn what_cannot_be_read_becomes_zeroes_if_that_is_wanted() {
    let place = place();
    assert_eq!((ours(&place, &["convert", "broken", "ours"]).status, place.file("ours").exists()), (1, false));
    let convert = ["convert", "--salvage", "broken"];
    let told = tidemark(&place, &[&convert[..], &["ours"]].concat());
    let theirs = qemu_img(&place, &[&convert[..], &["theirs"]].concat());
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(|line| line.replace("qemu-img", "tidemark")).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&told.err), sorted(&theirs.err));
    assert_eq!(told.err.lines().count(), 128, "each sector");
    assert!(std::fs::read(place.file("ours")).unwrap() == std::fs::read(place.file("theirs")).unwrap());
}

#[test]
fn no_more_is_copied_in_a_second_than_was_said() {
    let place = place();
    std::fs::write(place.file("large"), vec![1; 4 << 20]).unwrap();
    let begun = Instant::now();
    tidemark(&place, &["convert", "-r", "4M", "large", "copy"]);
    assert!(begun.elapsed() > Duration::from_millis(700), "{:?}", begun.elapsed());
    assert!(std::fs::read(place.file("copy")).unwrap() == std::fs::read(place.file("large")).unwrap());
}
