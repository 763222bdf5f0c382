//! The simulated machine keeps the promises that storage makes, and no others.

use super::*;
use crate::io::{Buf, Io, Memory, Wait};
use std::collections::BTreeSet;

const FILE: FileId = FileId(0);

fn filled(byte: u8, len: usize) -> Memory {
    let mut buf = Buf::new(len);
    buf.as_mut_slice().fill(byte);
    Memory::from(buf)
}

fn world(seed: u64, faults: Faults) -> (World, SimIo) {
    let world = World::new(seed);
    world.add_disk(FILE, vec![0; 64 << 10], 1);
    world.set_faults(faults);
    let io = world.io(64);
    (world, io)
}

/// Runs operations side by side to their ends; results by token.
fn run(world: &World, io: &mut SimIo, ops: Vec<Op>) -> BTreeMap<u64, (Op, Result<u64, IoError>)> {
    let mut left = ops.len();
    for (token, op) in (0..).zip(ops) {
        io.submit(op, Token(token));
    }
    let mut results = BTreeMap::new();
    while left > 0 {
        let mut completed = Vec::new();
        io.turn(Wait::Forever, &mut completed);
        left -= completed.len();
        results.extend(completed.into_iter().filter_map(|end| Some((end.token.0, (end.op?, end.result)))));
        if !world.is_awake(io.port()) {
            assert!(left == 0 || world.advance(), "an operation never completes");
        }
    }
    results
}

fn random_run(seed: u64) -> (u64, u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (world, mut io) = world(seed, Faults::random(&mut random));
    for round in 0..20 {
        let op = |random: &mut fastrand::Rng| {
            let offset = random.u64(0..100) * 512;
            match random.u8(0..4) {
                0 => Op::read(FILE, offset, filled(0, 4096)),
                1 => Op::bare(OpKind::Flush, FILE, 0, 0),
                2 => Op::bare(OpKind::Zero { unmap: false }, FILE, offset, 1024),
                _ => Op::write(FILE, offset, filled(round, 2048), random.bool()),
            }
        };
        let ops = (0..8).map(|_| op(&mut random)).collect();
        run(&world, &mut io, ops);
    }
    drop(io);
    world.crash();
    (world.trace(), world.operations())
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let traces: Vec<_> = (0..20).map(random_run).collect();
    assert_eq!(traces, (0..20).map(random_run).collect::<Vec<_>>());
    assert_eq!(traces.iter().collect::<BTreeSet<_>>().len(), traces.len());
    assert!(traces.iter().all(|(_, operations)| *operations == 160));
}

#[test]
fn what_a_flush_covers_and_what_was_written_stable_survives_every_crash() {
    for seed in 0..100 {
        let (world, mut io) = world(seed, Faults { write_back: 300, ..Faults::default() });
        run(&world, &mut io, vec![Op::write(FILE, 0, filled(1, 4096), false)]);
        run(&world, &mut io, vec![Op::bare(OpKind::Flush, FILE, 0, 0)]);
        run(&world, &mut io, vec![Op::write(FILE, 8192, filled(2, 4096), true)]);
        drop(io);
        world.crash();
        let content = world.content(FILE);
        assert!(content[..4096].iter().all(|byte| *byte == 1), "seed {seed}");
        assert!(content[8192..12288].iter().all(|byte| *byte == 2), "seed {seed}");
    }
}

#[test]
fn what_was_not_flushed_may_survive_or_be_lost_or_be_torn_at_a_sector() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let (world, mut io) = world(seed, Faults::default());
        run(&world, &mut io, vec![Op::write(FILE, 0, filled(1, 1024), false)]);
        drop(io);
        world.crash();
        let content = world.content(FILE);
        assert!(content[..1024].chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        seen.insert((content[0], content[512]));
    }
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
}

#[test]
fn a_failed_flush_is_reported_once_and_what_it_dropped_is_read_until_the_crash() {
    let mut lost = 0;
    for seed in 0..50 {
        let (world, mut io) = world(seed, Faults { flush_error: 1024, ..Faults::default() });
        run(&world, &mut io, vec![Op::write(FILE, 0, filled(7, 512), false)]);
        let flush = || vec![Op::bare(OpKind::Flush, FILE, 0, 0)];
        assert_eq!(run(&world, &mut io, flush())[&0].1, Err(IoError::Io));
        world.set_faults(Faults::default());
        assert_eq!(run(&world, &mut io, flush())[&0].1, Ok(0));
        assert_eq!(world.content(FILE)[0], 7);
        drop(io);
        world.crash();
        lost += u32::from(world.content(FILE)[0] == 0);
    }
    assert!((10..40).contains(&lost), "{lost} of 50 lost");
}

#[test]
fn operations_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let (world, mut io) = world(seed, Faults::default());
        for token in 0..3 {
            io.submit(Op::write(FILE, 0, filled(1, 512), false), Token(token));
        }
        let mut completed = Vec::new();
        while completed.len() < 3 {
            io.turn(Wait::Forever, &mut completed);
            world.advance();
        }
        orders.insert(completed.iter().map(|end| end.token.0).collect::<Vec<_>>());
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn direct_io_that_is_not_aligned_is_refused() {
    let world = World::new(1);
    world.add_disk(FILE, vec![0; 8192], 4096);
    let mut io = world.io(4);
    let write = |offset, len| vec![Op::write(FILE, offset, filled(1, len), false)];
    assert_eq!(run(&world, &mut io, write(512, 4096))[&0].1, Err(IoError::Invalid));
    assert_eq!(run(&world, &mut io, write(0, 512))[&0].1, Err(IoError::Invalid));
    assert_eq!(run(&world, &mut io, write(4096, 4096))[&0].1, Ok(4096));
}

#[test]
fn a_machine_in_which_everybody_waits_for_somebody_else_does_not_advance() {
    let (world, mut io) = world(1, Faults::default());
    io.turn(Wait::Forever, &mut Vec::new());
    assert!(!world.is_awake(io.port()) && !world.advance());
    io.turn(Wait::Until(10_000_000), &mut Vec::new());
    assert!(!world.is_awake(io.port()) && world.advance());
    assert!(world.is_awake(io.port()) && world.now() == 10_000_000);
}
