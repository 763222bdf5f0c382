//! Images that were not closed by somebody who counts late: their counts are right when the first guest comes, whatever
//! they were, and whenever that is cut short.

use super::broken::rig::{Broken, CLUSTER, L2, REFBLOCK, REFTABLE, image, options, put, qemu};
use super::machine::Machine;
use crate::node::Kind;
use crate::node::qcow2::open::Options;
use std::process::Command;

/// What `qemu-img check` finds: its exit status, and all it says.
fn check(content: &[u8]) -> (i32, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, content).unwrap();
    let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Sets the dirty bit.
fn dirty(mut content: Vec<u8>) -> Vec<u8> {
    content[79] |= 1;
    content
}

/// An image that QEMU was killed over while it kept counts in memory.
fn killed() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let path = path.to_str().unwrap();
    qemu(&["qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on,cluster_size=4k", path, "256M"]);
    let writes = ["write -P 1 0 1M", "write -P 2 100M 3M", "discard 100M 64k", "write -P 3 200M 64k", "sigraise 9"];
    let commands = writes.iter().flat_map(|command| ["-c", command]);
    let status =
        Command::new("qemu-io").args(["-f", "qcow2", "-d", "unmap"]).args(commands).arg(path).output().unwrap();
    assert!(!status.status.success(), "it was killed");
    std::fs::read(path).unwrap()
}

#[test]
fn an_image_that_qemu_was_killed_over_is_repaired_before_it_is_written_to() {
    let content = killed();
    assert_eq!(content[79] & 1, 1, "the dirty bit");
    assert_eq!(check(&content).0, 2, "counts are wrong");
    let mut image = Broken::open(content.clone());
    assert_eq!(image.durable()[79], 0, "the bit is gone for good");
    for (at, byte) in [(0, 1), ((100 << 20) + CLUSTER, 2), (200 << 20, 3)] {
        assert_eq!(image.read(at), Ok(byte), "{at}");
    }
    image.run(Kind::Write, 50 << 20, 9).unwrap();
    for (at, byte) in [(0, 1), ((100 << 20) + CLUSTER, 2), (200 << 20, 3), (50 << 20, 9)] {
        assert_eq!(image.read(at), Ok(byte), "{at}: nobody's clusters were taken");
    }
    image.machine.close().unwrap();
    assert_eq!(check(&image.content()), (0, check(&image.content()).1), "no errors, no leaks");
}

#[test]
fn an_image_that_is_only_read_is_not_repaired() {
    let content = killed();
    let mut image = Broken::try_open(content.clone(), Options { read_only: true, ..options() }).unwrap();
    assert_eq!(image.read(0), Ok(1));
    image.machine.close().unwrap();
    assert!(image.content() == content);
}

/// Images whose counts are wrong in some way.
fn wrong() -> Vec<(&'static str, Vec<u8>)> {
    let plain = dirty(image("compat=1.1"));
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut content = plain.clone();
        change(&mut content);
        content
    };
    vec![
        ("right", plain.clone()),
        ("all zero", with(&|content| content[REFBLOCK..REFBLOCK + CLUSTER].fill(0))),
        ("all two", with(&|content| content[REFBLOCK..REFBLOCK + CLUSTER].as_chunks_mut().0.fill([0, 2]))),
        ("leaks", with(&|content| content[REFBLOCK..REFBLOCK + 512].as_chunks_mut().0.fill([0, 1]))),
        ("no block", with(&|content| put(content, REFTABLE, 0))),
        ("flags", with(&|content| put(content, L2 + 8, 0x6_0000))),
    ]
}

#[test]
fn whatever_counts_say_they_are_right_after_the_repair() {
    for (name, content) in wrong() {
        let mut image = Broken::open(content);
        image.run(Kind::Write, 1 << 20, 9).unwrap();
        assert_eq!(
            (image.read(1 << 20), image.read(CLUSTER), image.read(4 * CLUSTER)),
            (Ok(9), Ok(1), Ok(8)),
            "{name}"
        );
        image.machine.close().unwrap();
        let (status, text) = check(&image.content());
        assert_eq!(status, 0, "{name}: {text}");
    }
}

#[test]
fn clusters_that_snapshots_share_are_not_written_in_place_after_the_repair() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, image("compat=1.1")).unwrap();
    qemu(&["qemu-img", "snapshot", "-c", "s", path.to_str().unwrap()]);
    let mut content = dirty(std::fs::read(&path).unwrap());
    let l1 = usize::try_from(u64::from_be_bytes(content[40..48].try_into().unwrap())).unwrap();
    // The active tables say that they and their clusters are nobody else's, and the counts say so too.
    for entry in [l1, L2, L2 + 8] {
        content[entry] |= 0x80;
    }
    content[REFBLOCK..REFBLOCK + 32].as_chunks_mut().0.fill([0, 1]);
    let mut image = Broken::open(content);
    image.run(Kind::Write, CLUSTER, 9).unwrap();
    image.machine.close().unwrap();
    std::fs::write(&path, image.content()).unwrap();
    assert_eq!(check(&image.content()), (0, check(&image.content()).1));
    qemu(&["qemu-img", "snapshot", "-a", "s", path.to_str().unwrap()]);
    qemu(&["qemu-io", "-f", "qcow2", "-r", "-c", "read -P 1 0 256k", path.to_str().unwrap()]);
}

#[test]
fn a_repair_that_is_cut_short_is_made_again() {
    let content = killed();
    let mut finished = 0;
    for steps in (0..).step_by(7) {
        let mut machine = Machine::new(steps as u64, std::slice::from_ref(&content), 1);
        let opened = machine.open_and_kill(options(), steps);
        let after = machine.cut_power().remove(0);
        let clean = after[79] & 1 == 0;
        assert!(clean || !opened, "step {steps}");
        assert!(!clean || check(&after).0 == 0, "step {steps}: it says that it is repaired and is not");
        let mut image = Broken::open(after);
        assert_eq!((image.read(0), image.read((100 << 20) + CLUSTER)), (Ok(1), Ok(2)), "step {steps}");
        image.machine.close().unwrap();
        let (status, text) = check(&image.content());
        assert_eq!(status, 0, "step {steps}: {text}");
        finished += usize::from(opened);
        if finished > 2 {
            return;
        }
    }
}

#[test]
fn tables_that_are_referred_to_without_end_end_the_repair() {
    // As many L1 entries as a disk can have, all for one table, in a file of nine clusters.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let path = path.to_str().unwrap();
    qemu(&["qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "512G"]);
    qemu(&["qemu-io", "-f", "qcow2", "-c", "write 0 4k", path]);
    let mut content = dirty(std::fs::read(path).unwrap());
    let word = |content: &[u8], at: usize| u64::from_be_bytes(content[at..at + 8].try_into().unwrap());
    let l1 = usize::try_from(word(&content, 40)).unwrap();
    let entry = word(&content, l1);
    (0..262_144).for_each(|index| put(&mut content, l1 + index * 8, entry));
    let mut machine = Machine::new(1, &[content], 1);
    let error = machine.open(options()).unwrap_err().to_string();
    assert_eq!(error, "Could not repair dirty image: Input/output error");
    assert!(machine.world.operations() < 5_000, "{} operations", machine.world.operations());
}
