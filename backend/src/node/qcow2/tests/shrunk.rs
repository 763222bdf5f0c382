//! The power fails at any moment while a disk becomes shorter: if it is, what it has lost is gone for other programs,
//! too; if that has failed, what is written afterwards stays.

use super::machine::{Machine, Slot};
use super::replay::choice::every;
use super::replay::disks::Disks;
use crate::error::GraphError;
use crate::io::sim::Faults;
use crate::io::sim::recorded::Event;
use crate::io::{Buf, FileId, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Kind, Outcome, Request};
use std::collections::BTreeSet;
use std::process::Command;

/// Eight L2 tables of an image whose clusters are a sector.
const LARGE: u64 = 256 << 10;
/// In the middle of the fourth.
const SMALL: u64 = 112 << 10;

/// Whether all went well.
fn qemu(tool: &str, arguments: &[&str]) -> bool {
    let output = Command::new(tool).args(arguments).output().expect("QEMU's tools are there");
    output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed")
}

/// An image with content all over.
fn made() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let (path, size) = (path.to_str().unwrap(), LARGE.to_string());
    assert!(qemu("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, &size]));
    assert!(qemu("qemu-io", &["-f", "qcow2", "-c", &format!("write -q -P 7 0 {LARGE}"), path]));
    std::fs::read(path).unwrap()
}

/// The size in an image's header.
fn size(image: &[u8]) -> u64 {
    u64::from_be_bytes(image[24..32].try_into().unwrap())
}

/// QEMU gives the disk its old size again, and finds zeroes: it looks at no entry when a disk grows.
fn shows_nothing_when_longer(image: &[u8]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, image).unwrap();
    let path = path.to_str().unwrap();
    assert!(qemu("qemu-img", &["resize", "-q", "-f", "qcow2", path, &LARGE.to_string()]));
    qemu("qemu-io", &["-f", "qcow2", "-c", &format!("read -q -P 0 {SMALL} {}", LARGE - SMALL), path])
}

fn opened(seed: u64, image: Vec<u8>) -> Machine {
    let mut machine = Machine::new(seed, &[image], 1);
    let [l2_cache_bytes, refcount_cache_bytes] = [0; 2];
    machine
        .open(Options {
            read_only: false,
            l2_cache_bytes,
            refcount_cache_bytes,
            pass_discard: false,
            journal: None,
            changes: None,
        })
        .unwrap();
    machine
}

fn begin(machine: &Machine) -> Slot<Result<(), GraphError>> {
    let node = machine.node.clone().unwrap();
    machine.begin_task(|io, graph| async move { graph.resize(&io, &node, SMALL).await })
}

fn end<T>(machine: &mut Machine, slot: &Slot<T>) -> T {
    while slot.borrow().is_none() {
        assert!(machine.step() || slot.borrow().is_some(), "a hang");
    }
    slot.take().unwrap()
}

fn request(machine: &mut Machine, kind: Kind, offset: u64, memory: Memory) -> Outcome {
    let slot = machine.begin(0, Request { kind, fua: false, offset, len: memory.len(), memory });
    end(machine, &slot)
}

/// The files before the disk becomes shorter, and what happens to them then.
fn shrink() -> (Vec<Vec<u8>>, Vec<Event>) {
    let mut machine = opened(1, made());
    let before = machine.contents();
    machine.world.record();
    let slot = begin(&machine);
    end(&mut machine, &slot).unwrap();
    (before, machine.world.end_record())
}

#[test]
fn what_a_disk_loses_is_gone_before_its_size_says_so() {
    let (before, events) = shrink();
    let mut random = fastrand::Rng::with_seed(1);
    let mut disks = Disks::new(&before);
    let mut sizes = BTreeSet::new();
    for cut in every(&before, &events, &mut random).into_iter().flatten() {
        disks.advance(&events, cut.events);
        let image = &disks.cut(cut.survival).0[0];
        sizes.insert(size(image));
        let fine = size(image) != SMALL || shows_nothing_when_longer(image);
        assert!(fine, "{cut:?} of {}: what the disk has lost is there", events.len());
    }
    assert_eq!(sizes, BTreeSet::from([SMALL, LARGE]));
}

/// Writes to all that was to go, flushes, and looks at what the worst power cut leaves of it.
fn keeps_what_is_written(mut machine: Machine, seed: u64) -> bool {
    let len = usize::try_from(LARGE - SMALL).unwrap();
    let mut buf = Buf::new(len);
    buf.as_mut_slice().fill(9);
    request(&mut machine, Kind::Write, SMALL, Memory::from(buf)).1.unwrap();
    request(&mut machine, Kind::Flush, 0, Memory::empty()).1.unwrap();
    let mut machine = opened(seed, machine.world.stable_content(FileId(0)));
    let (memory, result) = request(&mut machine, Kind::Read, SMALL, Memory::from(Buf::new(len)));
    result.unwrap();
    memory.into_buf().unwrap().as_slice() == vec![9; len]
}

#[test]
fn a_disk_that_could_not_be_made_shorter_keeps_what_is_flushed_then() {
    let image = made();
    let mut errors = BTreeSet::new();
    for (seed, steps) in (0..6).flat_map(|seed| (0..200).map(move |steps| (seed, steps))) {
        let mut machine = opened(seed, image.clone());
        let slot = begin(&machine);
        for _ in 0..steps {
            machine.step();
        }
        // Writes that fail may have been done.
        machine.set_faults(Faults { write_error: 1024, ..Faults::default() });
        let result = end(&mut machine, &slot);
        machine.set_faults(Faults::default());
        if let Err(error) = result
            && machine.node.as_ref().unwrap().length() == LARGE
        {
            let text = error.to_string();
            assert!(keeps_what_is_written(machine, seed), "seed {seed}, {steps} steps: {text}: flushed data is lost");
            errors.insert(text);
        }
    }
    let met = |step: &str| errors.iter().any(|error| error.starts_with(step));
    assert!(met("Failed to reduce the number of L2 tables"), "{errors:?}");
}
