//! Images whose metadata contradicts itself: what is written to them must not end up in that metadata.

use super::machine::Machine;
use crate::io::{Buf, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Kind, Request};
use std::process::Command;

const CLUSTER: usize = 65536;

/// A 16 MiB image with one cluster in use.
fn image() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).arg(&path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    // The size comes after the name.
    let created = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("16M").status();
    assert!(created.unwrap().success());
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x11 0 64k"]);
    std::fs::read(path).unwrap()
}

fn run(machine: &mut Machine, kind: Kind, offset: usize, byte: u8) -> Vec<u8> {
    let mut buf = Buf::new(CLUSTER);
    buf.as_mut_slice().fill(byte);
    let request = Request { kind, fua: false, offset: offset as u64, len: CLUSTER as u64, memory: Memory::from(buf) };
    let slot = machine.begin(0, request);
    while slot.borrow().is_none() {
        assert!(machine.step() || slot.borrow().is_some(), "a hang");
    }
    let (memory, result) = slot.take().unwrap();
    result.unwrap();
    memory.into_buf().unwrap().as_slice().to_vec()
}

#[test]
fn tables_that_counts_call_free_are_not_given_to_guests() {
    let mut content = image();
    // The refcount block of a new image is its third cluster: nothing is in use, it says.
    content[2 * CLUSTER..3 * CLUSTER].fill(0);
    let mut machine = Machine::new(1, &[content], 1);
    let options =
        || Options { read_only: false, l2_cache_bytes: 0, refcount_cache_bytes: 0, pass_discard: false, journal: None };
    machine.open(options()).unwrap();
    for number in 1..20u8 {
        run(&mut machine, Kind::Write, usize::from(number) * CLUSTER, number);
    }
    machine.close().unwrap();
    let mut machine = Machine::new(2, &machine.contents(), 1);
    machine.open(options()).unwrap();
    for number in 1..20u8 {
        let found = run(&mut machine, Kind::Read, usize::from(number) * CLUSTER, 0);
        assert!(found.iter().all(|byte| *byte == number), "cluster {number}");
    }
}
