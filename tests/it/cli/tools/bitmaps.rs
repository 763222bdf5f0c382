//! Bitmaps that go along when an image is converted.

use super::super::process::Place;
use super::{check, ours, qemu_img, succeed, tidemark};
use qmp_lite::wire;

/// An image with a bitmap that records, one that does not, and data that the first one marks.
fn place() -> Place {
    let place = Place::new();
    qemu_img(&place, &["create", "-q", "-f", "qcow2", "x", "8M"]);
    qemu_img(&place, &["bitmap", "--add", "x", "records"]);
    qemu_img(&place, &["bitmap", "--add", "--disable", "-g", "32k", "x", "does not"]);
    succeed(&place, "qemu-io", &["-f", "qcow2", "-c", "write 1M 200k", "-c", "write 7M 1k", "x"]);
    place
}

#[test]
fn bitmaps_go_along_with_their_names_granularities_marks_and_flags() {
    let place = place();
    tidemark(&place, &["convert", "--bitmaps", "-O", "qcow2", "-o", "cluster_size=4k", "x", "copy"]);
    check(&place, "copy");
    let listed =
        |image: &str| wire::parse(&tidemark(&place, &["bitmap", "list", "--output", "json", image]).out).unwrap();
    assert_eq!(listed("copy"), listed("x"));
    assert_eq!(listed("copy")[0]["count"], 5 << 16, "the test's own marks");
    let told = qemu_img(&place, &["info", "--output=json", "copy"]).out;
    let bitmaps = wire::parse(&told).unwrap()["format-specific"]["data"]["bitmaps"].clone();
    assert_eq!(bitmaps.as_array().unwrap().len(), 2, "QEMU sees them, too");
    tidemark(&place, &["convert", "-O", "qcow2", "x", "plain"]);
    assert_eq!(listed("plain").as_array().unwrap().len(), 0, "only if they are asked for");
}

#[test]
fn a_broken_bitmap_is_refused_or_left_out_as_one_likes() {
    let place = place();
    // As a daemon leaves it that was killed: in use.
    let kill = ["-f", "qcow2", "-c", "write 0 512", "-c", "abort", "x"];
    place.run("qemu-io", &kill);
    let told = ours(&place, &["convert", "--bitmaps", "-O", "qcow2", "x", "copy"]);
    assert_eq!(told.status, 1, "{told:?}");
    assert!(told.err.contains("Cannot copy inconsistent bitmap 'records'"), "{}", told.err);
    assert!(!place.file("copy").exists(), "nothing is begun");
    let way = ["convert", "--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", "x", "copy"];
    let told = tidemark(&place, &way);
    assert!(told.err.contains("warning: Skipping inconsistent bitmap 'records'"), "{}", told.err);
    check(&place, "copy");
}
