//! Reads of what lies in several places of the file.

use super::machine::Machine;
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::io::{Buf, FileId, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Kind, Request};
use std::process::Command;

const CLUSTER: usize = 65536;
const CLUSTERS: usize = 12;

/// An image whose clusters lie in the file in the opposite order, one of them zeroes, one compressed.
fn backwards() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg("4M"));
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(["-f", "qcow2"]);
    for cluster in (0..CLUSTERS).rev() {
        let (at, byte) = (cluster * CLUSTER, cluster + 1);
        let command = match cluster {
            5 => format!("write -z {at} {CLUSTER}"),
            7 => format!("write -c -P {byte} {at} {CLUSTER}"),
            _ => format!("write -P {byte} {at} {CLUSTER}"),
        };
        qemu_io.args(["-c", &command]);
    }
    run(qemu_io.arg(&path));
    std::fs::read(path).unwrap()
}

fn opened() -> Machine {
    let mut machine = Machine::new(1, &[backwards()], 1);
    let options = Options {
        read_only: true,
        l2_cache_bytes: 0,
        refcount_cache_bytes: 0,
        pass_discard: false,
        journal: None,
        changes: None,
    };
    machine.open(options).unwrap();
    machine
}

/// Reads all of it; also how many operations were under way at a time, and are when it has ended.
fn read(machine: &mut Machine) -> (Result<Vec<u8>, IoError>, usize, usize) {
    let len = CLUSTERS * CLUSTER;
    let memory = Memory::from(Buf::new(len));
    let slot = machine.begin(0, Request { kind: Kind::Read, fua: false, offset: 0, len: len as u64, memory });
    let mut most = 0;
    while slot.borrow().is_none() {
        most = most.max(machine.world.under_way(FileId(0)));
        assert!(machine.step() || slot.borrow().is_some(), "a hang");
    }
    let (memory, result) = slot.take().unwrap();
    let bytes = memory.into_buf().unwrap().as_slice().to_vec();
    (result.map(|()| bytes), most, machine.world.under_way(FileId(0)))
}

#[test]
fn all_places_are_read_at_the_same_time() {
    let mut machine = opened();
    // Once for the table.
    read(&mut machine).0.unwrap();
    machine.set_faults(Faults { long_delay: 1024, short: 300, ..Faults::default() });
    let (bytes, most, _) = read(&mut machine);
    for (cluster, bytes) in bytes.unwrap().chunks(CLUSTER).enumerate() {
        let byte = if cluster == 5 { 0 } else { u8::try_from(cluster + 1).unwrap() };
        assert!(bytes.iter().all(|found| *found == byte), "cluster {cluster}");
    }
    assert_eq!(most, CLUSTERS - 2, "all but the zero cluster, and the compressed one, which was kept");
}

#[test]
fn a_read_that_fails_in_one_place_ends_when_the_others_have() {
    let mut machine = opened();
    read(&mut machine).0.unwrap();
    machine.set_faults(Faults { long_delay: 512, read_error: 200, ..Faults::default() });
    let mut failed = 0;
    for _ in 0..20 {
        let (result, _, left) = read(&mut machine);
        failed += usize::from(result.is_err());
        assert_eq!(left, 0, "memory of a request that has ended is written to");
    }
    assert!(failed > 5, "{failed}");
}
