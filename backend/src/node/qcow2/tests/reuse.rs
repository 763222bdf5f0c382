//! Clusters that a guest discards are used again, but not while requests are under way that found them.

use super::machine::{Machine, Slot};
use crate::io::sim::Faults;
use crate::io::{Buf, FileId, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Kind, Outcome, Request};
use std::process::Command;

/// So large that none are taken ahead of their use.
const CLUSTER: usize = 1 << 20;

/// Bytes of the guest's requests: every cluster is written from its beginning.
const LEN: usize = 4096;

fn opened(seed: u64) -> Machine {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-o", "cluster_size=1M"])
        .arg(&path)
        .arg("8M")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut machine = Machine::new(seed, &[std::fs::read(path).unwrap()], 1);
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

fn begin(machine: &Machine, kind: Kind, cluster: usize, byte: u8) -> Slot<Outcome> {
    let len = match kind {
        Kind::Flush => 0,
        Kind::Discard => CLUSTER,
        _ => LEN,
    };
    let memory = match kind {
        Kind::Write | Kind::Read => {
            let mut buf = Buf::new(len);
            buf.as_mut_slice().fill(byte);
            Memory::from(buf)
        }
        _ => Memory::empty(),
    };
    let offset = if kind == Kind::Flush { 0 } else { (cluster * CLUSTER) as u64 };
    machine.begin(0, Request { kind, fua: false, offset, len: len as u64, memory })
}

fn end(machine: &mut Machine, slot: &Slot<Outcome>) -> Vec<u8> {
    while slot.borrow().is_none() {
        assert!(machine.step() || slot.borrow().is_some(), "a hang");
    }
    let (memory, result) = slot.take().unwrap();
    result.unwrap();
    memory.into_buf().map_or(Vec::new(), |buf| buf.as_slice().to_vec())
}

fn run(machine: &mut Machine, kind: Kind, cluster: usize, byte: u8) -> Vec<u8> {
    let slot = begin(machine, kind, cluster, byte);
    end(machine, &slot)
}

/// Starts a request to a cluster that takes long, and discards the cluster meanwhile; the tables without it are stable.
fn discard_under(machine: &mut Machine, kind: Kind) -> Slot<Outcome> {
    run(machine, Kind::Write, 0, 1);
    run(machine, Kind::Flush, 0, 0);
    machine.set_faults(Faults { long_delay: 1024, ..Faults::default() });
    let slow = begin(machine, kind, 0, 2);
    machine.step();
    assert_eq!(machine.world.under_way(FileId(0)), 1, "it is on its way to the file");
    machine.set_faults(Faults::default());
    run(machine, Kind::Discard, 0, 0);
    run(machine, Kind::Flush, 0, 0);
    slow
}

#[test]
fn a_read_under_way_finds_nothing_that_was_written_elsewhere() {
    for seed in 0..16 {
        let mut machine = opened(seed);
        let read = discard_under(&mut machine, Kind::Read);
        run(&mut machine, Kind::Write, 1, 3);
        let found = end(&mut machine, &read);
        assert!(found == [1; LEN], "seed {seed}: {:?}", found.first());
    }
}

#[test]
fn a_write_under_way_ends_up_nowhere_else() {
    for seed in 0..16 {
        let mut machine = opened(seed);
        let write = discard_under(&mut machine, Kind::Write);
        run(&mut machine, Kind::Write, 1, 3);
        end(&mut machine, &write);
        assert!(run(&mut machine, Kind::Read, 1, 0) == [3; LEN], "seed {seed}: another's content");
    }
}

#[test]
fn what_was_discarded_is_used_again_when_the_requests_have_ended() {
    let mut machine = opened(1);
    let read = discard_under(&mut machine, Kind::Read);
    end(&mut machine, &read);
    run(&mut machine, Kind::Flush, 0, 0);
    let before = machine.contents()[0].len();
    run(&mut machine, Kind::Write, 1, 3);
    run(&mut machine, Kind::Flush, 0, 0);
    assert_eq!(machine.contents()[0].len(), before, "bytes of the file");
}
