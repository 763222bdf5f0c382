//! Images whose counts are wrong, repaired as `qemu-img check -r` repairs them.

use super::rig::Rig;
use crate::graph::Graph;
use crate::graph::repair::{Repair, Repaired};
use std::process::Command;

/// An image with a snapshot, and bytes of its refcount block changed at random.
fn broken(rig: &Rig, seed: u64, most: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    rig.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "image", "1M"]);
    rig.tool("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 100k", "-c", "write -P 2 300k 50k", "image"]);
    rig.tool("qemu-img", &["snapshot", "-c", "s", "image"]);
    rig.tool("qemu-io", &["-f", "qcow2", "-c", "write -P 3 20k 64k", "image"]);
    let mut content = std::fs::read(rig.path("image")).unwrap();
    // The refcount block of a new image is its third cluster; its own tables are the first four.
    for _ in 0..random.usize(1..=most) {
        let cluster = random.usize(4..content.len() / 4096 + 20);
        content[2 * 4096 + cluster * 2 + 1] = random.u8(0..4);
    }
    std::fs::write(rig.path("image"), &content).unwrap();
    content
}

fn repair(rig: &Rig, what: Repair) -> Repaired {
    Graph::new().repair(&rig.path("image"), false, what).unwrap()
}

/// What QEMU finds: corruptions and leaks.
fn check(rig: &Rig) -> (bool, bool) {
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(rig.path("image")).output().unwrap();
    (output.status.code() == Some(2), matches!(output.status.code(), Some(3)))
}

#[test]
fn everything_that_is_wrong_with_counts_is_repaired() {
    for seed in 0..12 {
        let rig = Rig::new();
        broken(&rig, seed, 30);
        let disk = rig.content_by_qemu("image");
        let Repaired { before, after } = repair(&rig, Repair::All);
        assert_eq!((after.corruptions, after.leaks), (0, 0), "seed {seed}: of {before:?}");
        assert_eq!(check(&rig), (false, false), "seed {seed}: as QEMU sees it");
        assert!(rig.content_by_qemu("image") == disk, "seed {seed}: the disk has changed");
    }
}

#[test]
fn leaks_alone_are_repaired_and_what_is_corrupt_stays_so() {
    let (mut leaks, mut corrupt) = (0, 0);
    for seed in 0..12 {
        let rig = Rig::new();
        broken(&rig, seed, 6);
        let Repaired { before, after } = repair(&rig, Repair::Leaks);
        // A count that was too high may be what a flag has contradicted.
        assert!(after.leaks == 0 && after.corruptions <= before.corruptions, "seed {seed}: {before:?}");
        assert_eq!(check(&rig), (after.corruptions > 0, false), "seed {seed}: as QEMU sees it");
        leaks += before.leaks;
        corrupt += after.corruptions;
    }
    assert!(leaks > 0 && corrupt > 0, "{leaks} {corrupt}");
}
