//! Random chains of images: converted, rebased, committed and resized they have the bytes that they had, and QEMU agrees
//! on all that is told of them. `TIDEMARK_TEST_CHAINS` is how many.

use super::super::process::Place;
use super::random::Chain;
use super::{check, content, ours, qemu, qemu_img, succeed, tidemark};
use qmp_lite::wire;
use std::os::unix::fs::MetadataExt;

/// The chains of a test.
fn chains(first: u64) -> impl Iterator<Item = (u64, Chain)> {
    let count = std::env::var("TIDEMARK_TEST_CHAINS").ok().and_then(|count| count.parse().ok()).unwrap_or(6);
    (first..first + count).map(|seed| (seed, Chain::new(seed)))
}

/// All but the base, if that is raw, is sound.
fn check_all(chain: &Chain) {
    ["top", "mid", "other"].iter().for_each(|image| check(&chain.place, image));
    if chain.base_format == "qcow2" {
        check(&chain.place, "base");
    }
}

#[test]
fn a_converted_image_has_the_same_bytes_and_takes_no_more_space_than_qemu_img_gives_it() {
    for (seed, mut chain) in chains(100) {
        let before = content(&chain.place, "top", "qcow2");
        let cluster = format!("cluster_size={}", chain.cluster());
        for sparse in ["4k", "0", "64k", "512"] {
            let place = &chain.place;
            tidemark(place, &["convert", "-O", "qcow2", "-o", &cluster, "-S", sparse, "top", "copy"]);
            assert_eq!(content(place, "copy", "qcow2"), before, "seed {seed}, qcow2, -S {sparse}");
            check(place, "copy");
            tidemark(place, &["convert", "-S", sparse, "top", "plain"]);
            assert_eq!(std::fs::read(place.file("plain")).unwrap(), before, "seed {seed}, raw, -S {sparse}");
            tidemark(place, &["convert", "-f", "raw", "-O", "qcow2", "-m", "1", "plain", "again"]);
            assert_eq!(content(place, "again", "qcow2"), before, "seed {seed}, from raw, -S {sparse}");
            qemu_img(place, &["convert", "-O", "qcow2", "-o", &cluster, "-S", sparse, "top", "theirs"]);
            let space = |name: &str| std::fs::metadata(place.file(name)).unwrap().blocks() * 512;
            let (copy, theirs) = (space("copy"), space("theirs"));
            assert!(copy <= theirs + (1 << 16), "seed {seed}, -S {sparse}: {copy} and {theirs} bytes of the disk");
        }
    }
}

#[test]
fn an_image_is_converted_above_another_one_without_what_is_below_it() {
    for (seed, chain) in chains(200) {
        let (place, before) = (&chain.place, content(&chain.place, "top", "qcow2"));
        tidemark(place, &["convert", "-O", "qcow2", "-B", "mid", "-F", "qcow2", "top", "copy"]);
        check(place, "copy");
        assert_eq!(content(place, "copy", "qcow2"), before, "seed {seed}");
        // What the image itself has not is not copied.
        let own = |image: &str| {
            let map = wire::parse(&qemu_img(place, &["map", "--output=json", image]).out).unwrap();
            let own = map.as_array().unwrap().iter().filter(|run| run["depth"] == 0 && run["data"] == true);
            own.map(|run| run["length"].as_u64().unwrap()).sum::<u64>()
        };
        let clusters = own("top").next_multiple_of(2 << 20);
        assert!(own("copy") <= clusters.max(own("top")) + (8 << 16), "seed {seed}: {} and {}", own("copy"), own("top"));
    }
}

#[test]
fn what_is_written_over_keeps_nothing_of_what_was_there() {
    for (seed, chain) in chains(300) {
        let (place, before) = (&chain.place, content(&chain.place, "top", "qcow2"));
        let size = before.len().to_string();
        qemu_img(place, &["create", "-q", "-f", "qcow2", "old", &size]);
        super::succeed(place, "qemu-io", &["-f", "qcow2", "-c", &format!("write -P 77 0 {size}"), "old"]);
        tidemark(place, &["convert", "-n", "-O", "qcow2", "top", "old"]);
        assert_eq!(content(place, "old", "qcow2"), before, "seed {seed}");
        check(place, "old");
        std::fs::write(place.file("bytes"), vec![77; before.len()]).unwrap();
        tidemark(place, &["convert", "-n", "top", "bytes"]);
        assert_eq!(std::fs::read(place.file("bytes")).unwrap(), before, "seed {seed}");
    }
}

#[test]
fn a_rebased_image_shows_what_it_did_above_whatever_it_is() {
    for (seed, mut chain) in chains(400) {
        let (base_format, which) = (chain.base_format, chain.below(3));
        let place = &chain.place;
        let before = content(place, "top", "qcow2");
        let (name, format) = [("other", "qcow2"), ("base", base_format), ("", "qcow2")][which];
        let arguments: &[&str] = if name.is_empty() { &["-b", ""] } else { &["-b", name, "-F", format] };
        tidemark(place, &[&["rebase"], arguments, &["top"]].concat());
        assert_eq!(content(place, "top", "qcow2"), before, "seed {seed}, above '{name}'");
        let info = wire::parse(&qemu_img(place, &["info", "--output=json", "top"]).out).unwrap();
        assert_eq!(info["backing-filename"].as_str().unwrap_or(""), name);
        check_all(&chain);
    }
}

#[test]
fn what_a_rebased_image_gets_itself_is_compressed_as_by_qemu_img() {
    for (seed, chain) in chains(450) {
        let place = &chain.place;
        let before = content(place, "top", "qcow2");
        // QEMU gives the image more than it needs.
        let compressed = |image: &str| {
            let info = wire::parse(&qemu_img(place, &["check", "--output=json", image]).out).unwrap();
            ["allocated-clusters", "compressed-clusters"].map(|member| info[member].as_u64().unwrap_or_default())
        };
        let [allocated, packed] = compressed("top");
        std::fs::copy(place.file("top"), place.file("theirs")).unwrap();
        tidemark(place, &["rebase", "-c", "-b", "other", "-F", "qcow2", "top"]);
        qemu_img(place, &["rebase", "-c", "-b", "other", "-F", "qcow2", "theirs"]);
        assert_eq!(content(place, "top", "qcow2"), before, "seed {seed}");
        let ([ours, our_packed], [_, their_packed]) = (compressed("top"), compressed("theirs"));
        assert!(our_packed <= their_packed && (our_packed > packed) == (ours > allocated), "seed {seed}");
        println!("seed {seed}: {our_packed} of {ours} clusters compressed, by QEMU {their_packed}");
        check_all(&chain);
    }
}

#[test]
fn a_committed_image_is_in_the_one_below_and_empty() {
    for (seed, chain) in chains(500) {
        let (place, before) = (&chain.place, content(&chain.place, "top", "qcow2"));
        tidemark(place, &["commit", "-q", "top"]);
        let below = content(place, "mid", "qcow2");
        assert!(below.len() >= before.len() && below[..before.len()] == before, "seed {seed}");
        assert_eq!(content(place, "top", "qcow2"), before, "seed {seed}");
        let map = wire::parse(&qemu_img(place, &["map", "--output=json", "top"]).out).unwrap();
        let own = map.as_array().unwrap().iter().find(|run| run["depth"] == 0 && run["present"] == true);
        assert_eq!(own, None, "seed {seed}");
        check_all(&chain);
    }
}

#[test]
fn what_several_images_have_is_committed_to_the_base_that_is_named() {
    for (seed, chain) in chains(600) {
        let (place, before) = (&chain.place, content(&chain.place, "top", "qcow2"));
        tidemark(place, &["commit", "-q", "-b", "base", "top"]);
        let below = content(place, "base", chain.base_format);
        assert!(below.len() >= before.len() && below[..before.len()] == before, "seed {seed}");
        assert_eq!(content(place, "top", "qcow2"), before, "seed {seed}: it is not emptied, and shows the same");
        check_all(&chain);
    }
}

#[test]
fn a_resized_disk_has_what_it_had_and_zeroes_behind() {
    for (seed, chain) in chains(700) {
        let (place, mut expected) = (&chain.place, content(&chain.place, "top", "qcow2"));
        for (change, options) in [("+1M", &[][..]), ("-1500k", &["--shrink"]), ("+700k", &["--preallocation", "full"])]
        {
            let len = match change {
                "+1M" => expected.len() + (1 << 20),
                "-1500k" => expected.len().checked_sub(1500 << 10).filter(|len| *len > 0).unwrap_or(0),
                _ => expected.len() + (700 << 10),
            };
            let arguments = [&["resize", "-q"], options, &["top", change]].concat();
            if len == 0 {
                assert!(ours(place, &arguments).err.ends_with("New image size must be positive\n"));
                continue;
            }
            tidemark(place, &arguments);
            expected.resize(len, 0);
            assert_eq!(content(place, "top", "qcow2"), expected, "seed {seed}, {change}");
            check(place, "top");
        }
    }
}

/// To count the clusters of such a file one by one would take hours.
#[test]
fn an_image_in_a_file_that_ends_far_behind_it_is_mapped_as_before() {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "image", "1M"]);
    succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write 10k 100k", "image"]);
    let map = ["map", "--output=json", "image"];
    let expected = qemu_img(&place, &map).out;
    let file = std::fs::File::options().write(true).open(place.file("image")).unwrap();
    file.set_len(15 << 40).unwrap();
    assert_eq!(tidemark(&place, &map).out, expected);
}

#[test]
fn images_are_mapped_measured_and_compared_as_by_qemu_img() {
    for (seed, mut chain) in chains(800) {
        let cluster = format!("cluster_size={}", chain.cluster());
        let place = &chain.place;
        qemu_img(place, &["convert", "-O", "qcow2", "top", "same"]);
        qemu_img(place, &["convert", "-O", "qcow2", "-o", "preallocation=metadata", "top", "placed"]);
        for way in [
            &["map", "--output=json", "top"][..],
            &["map", "--output=json", "mid"],
            &["map", "--output=json", "placed"],
            &["map", "--output=json", "-s", "70000", "-l", "900000", "top"],
            &["map", "--output=json", "-s", "9M", "top"],
            &["map", "--output=json", "-f", chain.base_format, "base"],
            &["measure", "--output=json", "-O", "qcow2", "top"],
            &["measure", "-O", "qcow2", "-o", &cluster, "placed"],
            &["measure", "--output=json", "-O", "qcow2", "-o", &cluster, "top"],
            &["measure", "--output=json", "-O", "qcow2", "-o", "preallocation=full", "mid"],
            &["measure", "-O", "raw", "top"],
            &["compare", "top", "same"],
            &["compare", "top", "mid"],
            &["compare", "mid", "top"],
            &["compare", "top", "other"],
            &["compare", "-q", "top", "base"],
        ] {
            assert_eq!(ours(place, way), qemu(place, way), "seed {seed}, {way:?}");
        }
    }
}
