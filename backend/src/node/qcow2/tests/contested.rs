//! Images whose refcount table leads to what something else has: a repair takes nothing from anybody.

use super::broken::rig::{Broken, CLUSTER, L1, L2, REFTABLE, image, options, put};
use super::rig::Rig;
use crate::graph::Graph;
use crate::graph::repair::{Repair, Repaired};
use crate::node::Kind;
use crate::node::qcow2::open::Options;
use std::process::Command;

/// Where the first cluster of the guest is.
const DATA: usize = 5 * CLUSTER;

/// The refcount table has this entry too, or instead.
fn with_entry(index: usize, host: usize) -> Vec<u8> {
    let mut content = image("compat=1.1");
    put(&mut content, REFTABLE + index * 8, host as u64);
    content
}

/// Entries that lead where a block must not be.
fn entries() -> Vec<(usize, usize)> {
    let places = [1, 2, 3, 4, 5, 6].map(|cluster| cluster * CLUSTER);
    let both = [0, 1].into_iter().flat_map(|index| places.map(|host| (index, host)));
    both.chain([(0, 0x2_0200), (1, 0x2_0200), (1, 1 << 40)]).filter(|entry| *entry != (0, 2 * CLUSTER)).collect()
}

fn repair(rig: &Rig, what: Repair) -> Result<Repaired, String> {
    Graph::new().repair(&rig.path("image"), false, what).map_err(|error| error.to_string())
}

fn is_sound(rig: &Rig) -> bool {
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(rig.path("image")).output().unwrap();
    output.status.success()
}

/// As QEMU reads it.
fn has_its_data(rig: &Rig) {
    let reads = ["-c", "read -P 1 0 256k", "-c", "read -P 8 256k 64k", "-c", "read -P 0 320k 1M"];
    rig.tool("qemu-io", &[&["-r", "-f", "qcow2"], &reads[..], &["image"]].concat());
}

#[test]
fn counts_get_other_blocks_where_theirs_are_something_else() {
    for (index, host) in entries() {
        let rig = Rig::new();
        std::fs::write(rig.path("image"), with_entry(index, host)).unwrap();
        let Repaired { after, .. } = repair(&rig, Repair::All).unwrap();
        assert_eq!((after.corruptions, after.leaks), (0, 0), "entry {index}: {host:#x}");
        assert!(is_sound(&rig), "entry {index}: {host:#x}");
        has_its_data(&rig);
    }
}

#[test]
fn leaks_are_not_repaired_in_what_something_else_has() {
    for (index, host) in entries() {
        let rig = Rig::new();
        let content = with_entry(index, host);
        std::fs::write(rig.path("image"), &content).unwrap();
        let error = repair(&rig, Repair::Leaks).unwrap_err();
        let wrong = format!("refcount table entry {} ", if (index, host) == (1, 2 * CLUSTER) { 0 } else { index });
        assert!(error.contains(&wrong) && error.contains("tidemark convert"), "{error}");
        assert!(std::fs::read(rig.path("image")).unwrap() == content, "entry {index}: {host:#x}");
    }
}

#[test]
fn an_image_with_bits_of_one_for_counts_says_who_else_has_a_cluster() {
    let rig = Rig::new();
    let mut content = image("refcount_bits=1");
    put(&mut content, REFTABLE, DATA as u64);
    std::fs::write(rig.path("image"), &content).unwrap();
    assert!(repair(&rig, Repair::Leaks).is_err());
    assert_eq!(repair(&rig, Repair::All).unwrap().after.corruptions, 0);
    has_its_data(&rig);
}

#[test]
fn a_dirty_image_gets_other_blocks_and_can_be_written_to() {
    for (index, host) in entries() {
        let mut content = with_entry(index, host);
        content[79] |= 1;
        let mut image = Broken::open(content);
        image.run(Kind::Write, 1 << 20, 9).unwrap();
        for (at, byte) in [(0, 1), (3 * CLUSTER, 1), (4 * CLUSTER, 8), (1 << 20, 9)] {
            assert_eq!(image.read(at), Ok(byte), "entry {index}: {host:#x}: {at}");
        }
        image.machine.close().unwrap();
        let rig = Rig::new();
        std::fs::write(rig.path("image"), image.content()).unwrap();
        assert!(is_sound(&rig), "entry {index}: {host:#x}");
    }
}

#[test]
fn tables_that_something_else_has_are_refused_before_anything_is_written() {
    let sound = image("compat=1.1");
    let with = |at: usize, host: usize| {
        let mut content = sound.clone();
        put(&mut content, at, host as u64 | 1 << 63);
        content
    };
    let cases = [
        ("the refcount table at offset 0x10000", with(L2 + 8, REFTABLE)),
        ("the active L1 table at offset 0x30000", with(L2 + 8, L1)),
        ("the L2 table at offset 0x40000", with(L2 + 8, L2)),
        ("the L2 table at offset 0x50000", with(L1 + 8, DATA)),
    ];
    for (what, content) in cases {
        let rig = Rig::new();
        std::fs::write(rig.path("image"), &content).unwrap();
        let error = repair(&rig, Repair::All).unwrap_err();
        assert!(error.contains(what) && error.contains("tidemark convert"), "{what}: {error}");
        assert!(std::fs::read(rig.path("image")).unwrap() == content, "{what}: it was written to");
        let mut dirty = content;
        dirty[79] |= 1;
        let error = Broken::try_open(dirty.clone(), options()).map(drop).unwrap_err().to_string();
        assert!(error.starts_with("Could not repair dirty image: ") && error.contains(what), "{what}: {error}");
        assert!(Broken::try_open(dirty, Options { read_only: true, ..options() }).is_ok());
    }
}
