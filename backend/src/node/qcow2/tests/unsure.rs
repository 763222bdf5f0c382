//! A write of the L1 table that fails may have been done: the tables it names are not written before what they lead to
//! is stable, wherever the power fails afterwards.

use super::machine::Machine;
use super::replay::choice::every;
use super::replay::disks::Disks;
use crate::io::sim::Faults;
use crate::io::sim::recorded::Event;
use crate::io::{Buf, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Kind, Outcome, Request};
use std::process::Command;

const SECTOR: usize = 512;
/// Of one L2 table.
const SECTORS: usize = 64;
/// What the backing file is full of.
const OLD: u8 = 7;

fn made() -> Vec<Vec<u8>> {
    let directory = tempfile::tempdir().unwrap();
    let base = vec![OLD; SECTORS * SECTOR];
    std::fs::write(directory.path().join("base"), &base).unwrap();
    let arguments = "create -q -f qcow2 -o cluster_size=512 -b base -F raw image";
    let output = Command::new("qemu-img").args(arguments.split(' ')).current_dir(directory.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    vec![std::fs::read(directory.path().join("image")).unwrap(), base]
}

fn opened(seed: u64, files: &[Vec<u8>]) -> Machine {
    let mut machine = Machine::new(seed, files, 1);
    let [l2_cache_bytes, refcount_cache_bytes] = [0; 2];
    let options = Options {
        read_only: false,
        l2_cache_bytes,
        refcount_cache_bytes,
        pass_discard: false,
        journal: None,
        changes: None,
    };
    machine.open(options).unwrap();
    machine
}

/// Fails writes when so many steps have been made.
fn run(machine: &mut Machine, kind: Kind, offset: usize, memory: Memory, steps: Option<usize>) -> Outcome {
    let request = Request { kind, fua: false, offset: offset as u64, len: memory.len(), memory };
    let slot = machine.begin(0, request);
    let mut made = 0;
    while slot.borrow().is_none() {
        if steps == Some(made) {
            machine.set_faults(Faults { write_error: 1024, ..Faults::default() });
        }
        assert!(machine.step() || slot.borrow().is_some(), "a hang");
        made += 1;
    }
    machine.set_faults(Faults::default());
    slot.take().unwrap()
}

fn write(machine: &mut Machine, sector: usize, count: usize, byte: u8) {
    let mut buf = Buf::new(count * SECTOR);
    buf.as_mut_slice().fill(byte);
    run(machine, Kind::Write, sector * SECTOR, Memory::from(buf), None).1.unwrap();
}

/// Whether the L1 table in the file names a table.
fn is_named(image: &[u8]) -> bool {
    let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    word(usize::try_from(word(40)).unwrap()) != 0
}

/// What happens when a flush fails after so many steps, and the next one does not; `None` unless the L1 table of the file
/// has changed by what has failed.
fn record(seed: u64, files: &[Vec<u8>], steps: usize) -> Option<Vec<Event>> {
    let mut machine = opened(seed, files);
    machine.world.record();
    write(&mut machine, 0, 1, 1);
    run(&mut machine, Kind::Flush, 0, Memory::empty(), Some(steps)).1.err()?;
    if !is_named(&machine.contents()[0]) {
        return None;
    }
    write(&mut machine, 1, 20, 2);
    run(&mut machine, Kind::Flush, 0, Memory::empty(), None).1.unwrap();
    Some(machine.world.end_record())
}

/// What the guest reads after a cut: by sector, what was there or what was written.
fn judge(image: &[u8], files: &[Vec<u8>]) -> bool {
    let mut machine = opened(1, &[image.to_vec(), files[1].clone()]);
    let (memory, result) = run(&mut machine, Kind::Read, 0, Memory::from(Buf::new(SECTORS * SECTOR)), None);
    result.unwrap();
    let written = |sector: usize| [1, 2, OLD][usize::from(sector > 0) + usize::from(sector > 20)];
    let content = memory.into_buf().unwrap();
    let mut sectors = content.as_slice().chunks(SECTOR).enumerate();
    sectors.all(|(sector, bytes)| bytes == [OLD; SECTOR] || bytes == [written(sector); SECTOR])
}

#[test]
fn what_a_failed_write_of_the_l1_table_may_name_leads_to_nothing_that_is_not_stable() {
    let files = made();
    let tries = (0..8).flat_map(|seed| (0..60).map(move |steps| (seed, steps)));
    let recordings = tries.filter_map(|(seed, steps)| record(seed, &files, steps)).take(4);
    let mut count = 0;
    for events in recordings {
        let mut random = fastrand::Rng::with_seed(count);
        let mut disks = Disks::new(&files);
        for cut in every(&files, &events, &mut random).into_iter().flatten() {
            disks.advance(&events, cut.events);
            let image = &disks.cut(cut.survival).0[0];
            assert!(judge(image, &files), "recording {count}: {cut:?} of {}", events.len());
        }
        count += 1;
    }
    assert_eq!(count, 4, "recordings in which the file has what has failed");
}
