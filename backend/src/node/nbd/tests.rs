//! The client against servers that keep to the protocol, that do not, and that are not there.

mod hostile;
mod machine;
mod server;

use super::core::Core;
use crate::error::IoError;
use crate::nbd_wire::transmission::{Command, Headers, export_flags};
use machine::Machine;
use server::SIZE;
use std::time::Duration;

const ALL: [Headers; 3] = [Headers::Simple, Headers::Structured, Headers::Extended];

/// Random commands side by side, each on blocks that no other one of the round touches; the disk that should be.
fn load(machine: &mut Machine, random: &mut fastrand::Rng, rounds: usize) -> Vec<u8> {
    let mut model = machine.server.disk.borrow().clone();
    let blocks = SIZE / 4096;
    for round in 0..rounds {
        let mut free: Vec<usize> = (0..blocks).collect();
        random.shuffle(&mut free);
        let commands: Vec<_> = free[..20].iter().map(|block| (random.u8(0..4), *block)).collect();
        let results = commands.iter().map(|(kind, block)| {
            let (offset, fill) = ((block * 4096) as u64, u8::try_from(round % 250).unwrap() + 1);
            match kind {
                0 => machine.begin(Command::Read, offset, Some(vec![0xaa; 4096])),
                1 => machine.begin_bare(Command::WriteZeroes, offset, 4096),
                _ => machine.begin(Command::Write, offset, Some(vec![fill; 4096])),
            }
        });
        let results: Vec<_> = results.collect();
        for ((kind, block), result) in commands.iter().zip(results) {
            let ended = machine.wait(result);
            assert_eq!(ended.result, Ok(()));
            let there = &mut model[block * 4096..(block + 1) * 4096];
            match kind {
                0 => assert!(ended.buf.unwrap().as_slice() == there, "what is read is what was written last"),
                1 => there.fill(0),
                _ => there.fill(u8::try_from(round % 250).unwrap() + 1),
            }
        }
    }
    model
}

#[test]
fn what_is_written_is_there_with_every_form_of_replies() {
    for headers in ALL {
        let mut machine = Machine::new(1, headers, Duration::ZERO);
        machine.open().unwrap();
        let model = load(&mut machine, &mut fastrand::Rng::with_seed(1), 20);
        assert!(*machine.server.disk.borrow() == model);
        let flush = machine.begin_bare(Command::Flush, 0, 0);
        assert_eq!(machine.wait(flush).result, Ok(()));
        assert_eq!(machine.server.connections.get(), 1);
    }
}

#[test]
fn no_command_is_lost_when_connections_are_cut_at_any_byte_within_reconnect_delay() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let headers = ALL[random.usize(0..3)];
        let mut machine = Machine::new(seed, headers, Duration::from_secs(1000));
        machine.open().unwrap();
        let cuts: Vec<u64> = (0..8).map(|_| random.u64(0..120_000)).collect();
        machine.server.cuts.replace(cuts);
        machine.server.absent.set(random.u32(0..3));
        machine.cut_now();
        let model = load(&mut machine, &mut random, 25);
        assert!(*machine.server.disk.borrow() == model, "seed {seed}");
        assert!(machine.server.connections.get() > 2, "seed {seed}: nothing was cut");
    }
}

#[test]
fn when_one_of_several_connections_dies_the_others_do_its_commands() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut machine = Machine::new(seed, ALL[random.usize(0..3)], Duration::ZERO);
        *machine.server.flags_more.borrow_mut() = export_flags::CAN_MULTI_CONN;
        machine.open().unwrap();
        // The second dies after so many bytes, which may be while it is made; the first stays.
        machine.server.cuts.replace(vec![random.u64(0..60_000)]);
        let model = load(&mut machine, &mut random, 10);
        assert!(*machine.server.disk.borrow() == model, "seed {seed}");
        let made = machine.server.connections.get();
        assert!((2..=5).contains(&made), "seed {seed}: {made}, with the one that has died");
    }
}

#[test]
fn without_a_delay_a_cut_fails_what_was_under_way_and_a_later_command_finds_the_server_again() {
    let mut machine = Machine::new(3, Headers::Structured, Duration::ZERO);
    machine.open().unwrap();
    machine.cut_now();
    let first = machine.begin(Command::Read, 0, Some(vec![0; 512]));
    assert_eq!(machine.wait(first).result, Err(IoError::Io));
    machine.pass(Duration::from_secs(1));
    let second = machine.begin(Command::Read, 0, Some(vec![0; 512]));
    assert_eq!(machine.wait(second).result, Ok(()));
}

#[test]
fn commands_wait_as_long_as_the_delay_and_then_fail_until_the_server_is_back() {
    let mut machine = Machine::new(4, Headers::Extended, Duration::from_secs(5));
    machine.open().unwrap();
    machine.server.absent.set(u32::MAX);
    machine.cut_now();
    let (began, waits) = (machine.now(), machine.begin(Command::Read, 0, Some(vec![0; 512])));
    assert_eq!(machine.wait(waits).result, Err(IoError::Io));
    let waited = machine.now() - began;
    assert!((5..6).contains(&waited.as_secs()), "{waited:?} of simulated time");
    let late = machine.begin(Command::Read, 0, Some(vec![0; 512]));
    assert_eq!(machine.wait(late).result, Err(IoError::Io));
    assert!((machine.now() - began).as_secs() < 6, "the delay is over for good");
    machine.server.absent.set(0);
    machine.pass(Duration::from_secs(20));
    let again = machine.begin(Command::Read, 0, Some(vec![0; 512]));
    assert_eq!(machine.wait(again).result, Ok(()));
}

#[test]
fn a_server_that_is_not_there_yet_is_waited_for_as_long_as_open_timeout() {
    let mut machine = Machine::new(5, Headers::Structured, Duration::ZERO);
    machine.server.absent.set(1);
    assert_eq!(machine.open().unwrap_err(), "Failed to connect to 'there': Connection refused");
    let mut machine = Machine::with(5, Headers::Structured, |options| options.open_timeout = Duration::from_secs(10));
    machine.server.absent.set(2);
    assert_eq!(machine.open().unwrap().size, SIZE as u64);
    let mut machine = Machine::with(5, Headers::Structured, |options| options.open_timeout = Duration::from_secs(10));
    machine.server.absent.set(u32::MAX);
    let began = machine.now();
    machine.open().unwrap_err();
    assert!((machine.now() - began).as_secs() <= 10);
}

#[test]
fn block_status_says_what_the_server_says() {
    for headers in [Headers::Structured, Headers::Extended] {
        let mut machine = Machine::new(6, headers, Duration::ZERO);
        machine.open().unwrap();
        let asked = machine.begin_bare(Command::BlockStatus, 4096, 8192);
        let extents = machine.wait(asked).extents;
        assert_eq!(extents.iter().map(|extent| (extent.len, extent.flags)).collect::<Vec<_>>(), [(8192, 3)]);
    }
}

#[test]
fn a_server_whose_disk_has_become_another_is_not_written_to() {
    let mut machine = Machine::new(7, Headers::Simple, Duration::from_secs(5));
    machine.open().unwrap();
    *machine.server.flags_more.borrow_mut() = export_flags::READ_ONLY;
    machine.cut_now();
    let write = machine.begin(Command::Write, 0, Some(vec![1; 512]));
    assert_eq!(machine.wait(write).result, Err(IoError::Io));
    assert_eq!(machine.server.disk.borrow()[0], 0);
}
