//! Restore points made by hand, right ones and wrong ones: each wrong one has to be found out.

use super::super::block::Identity;
use super::super::history::{Clock, Effect};
use super::*;
use std::collections::HashMap;
use tempfile::TempDir;

const SEED: u64 = 99;
/// Blocks of a stripe; a disk has two.
const BLOCKS: usize = 16;

/// Two disks of two queues, their record, and what a perfect device holds.
struct World {
    dir: TempDir,
    clock: Clock,
    histories: [History; 4],
    generations: [u64; 4],
    blocks: HashMap<(usize, usize), u64>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (histories, generations) = (Default::default(), [0; 4]);
        Self { dir, clock: Clock::default(), histories, generations, blocks: HashMap::new() }
    }

    fn submit(&mut self, queue: usize, block: usize, effect: Effect) -> u64 {
        self.histories[queue].submitted(self.clock.tick(), effect, &(block..block + 1));
        self.generations[queue] += 1;
        self.generations[queue]
    }

    fn complete(&mut self, queue: usize, generation: u64) {
        self.histories[queue].completed(generation, self.clock.tick());
    }

    /// The device takes up a write: from here on it is in any restore point.
    fn lands(&mut self, queue: usize, block: usize, generation: u64) {
        self.blocks.insert((queue, block), generation);
    }

    /// A write from beginning to end.
    fn write(&mut self, queue: usize, block: usize) -> u64 {
        let generation = self.submit(queue, block, Effect::Write);
        self.lands(queue, block, generation);
        self.complete(queue, generation);
        generation
    }

    /// Both disks as they are now.
    fn copy(&self) -> [Vec<u8>; 2] {
        [0, 1].map(|disk| {
            let mut bytes = vec![0; 2 * BLOCKS * BLOCK_LEN];
            for (index, block) in bytes.chunks_exact_mut(BLOCK_LEN).enumerate() {
                if let Some(&generation) = self.blocks.get(&(disk * 2 + index / BLOCKS, index % BLOCKS)) {
                    let offset = (index * BLOCK_LEN) as u64;
                    Identity { offset, generation, seed: SEED }.fill(block);
                }
            }
            bytes
        })
    }

    fn prove(&self, disks: &[Vec<u8>; 2], moment: Moment) -> Result<Proof> {
        let paths = [0, 1].map(|disk| self.dir.path().join(format!("{disk}.raw")));
        let record = |disk: usize, queue: usize| Record {
            offset: (queue * BLOCKS * BLOCK_LEN) as u64,
            blocks: BLOCKS,
            history: &self.histories[disk * 2 + queue],
        };
        let mut all = Vec::new();
        for (disk, path) in paths.iter().enumerate() {
            std::fs::write(path, &disks[disk]).unwrap();
            all.push((path.as_path(), vec![record(disk, 0), record(disk, 1)]));
        }
        prove(&all, moment, SEED)
    }

    fn refusal(&self, disks: &[Vec<u8>; 2], moment: Moment) -> String {
        match self.prove(disks, moment) {
            Err(error) => format!("{error:#}"),
            Ok(_) => panic!("a wrong restore point was taken for a right one"),
        }
    }
}

/// A world with a history, a restore point in the middle of it, and more history.
fn taken() -> (World, [Vec<u8>; 2], Moment) {
    let mut world = World::new();
    for step in 0..200 {
        world.write(step % 4, (step * 7) % BLOCKS);
    }
    let begun = [(0, 1), (1, 2), (2, 3), (3, 4)].map(|(queue, block)| {
        let generation = world.submit(queue, block, Effect::Write);
        (queue, block, generation)
    });
    let sent = world.clock.tick();
    world.lands(0, 1, begun[0].2);
    world.lands(2, 3, begun[2].2);
    let copy = world.copy();
    world.lands(1, 2, begun[1].2);
    world.lands(3, 4, begun[3].2);
    let replied = world.clock.tick();
    begun.iter().for_each(|(queue, _, generation)| world.complete(*queue, *generation));
    for step in 0..4 * BLOCKS {
        world.write(step % 4, step / 4);
    }
    (world, copy, Moment { sent, replied })
}

#[test]
fn a_right_restore_point_is_proven_with_writes_in_flight() {
    let (world, copy, moment) = taken();
    let proof = world.prove(&copy, moment).unwrap();
    assert_eq!(proof.verified, 4 * (BLOCKS * BLOCK_LEN) as u64);
    let in_flight: u64 = world.histories.iter().map(|history| history.in_flight(proof.moment)).sum();
    assert_eq!(in_flight, 4);
}

#[test]
fn one_flipped_byte_is_found_wherever_it_is() {
    let (world, copy, moment) = taken();
    for disk in 0..2 {
        for position in (0..copy[disk].len()).step_by(1021) {
            let mut wrong = copy.clone();
            wrong[disk][position] ^= 1;
            let error = world.refusal(&wrong, moment);
            let block = position / BLOCK_LEN * BLOCK_LEN;
            assert!(error.contains(&format!("{disk}.raw: block at offset {block} ")), "{position}: {error}");
        }
    }
}

/// What happens to a block whose old content is not copied before it is overwritten.
#[test]
fn one_skipped_copy_is_found() {
    let (world, copy, moment) = taken();
    let now = world.copy();
    for disk in 0..2 {
        for block in 0..2 * BLOCKS {
            let range = block * BLOCK_LEN..(block + 1) * BLOCK_LEN;
            let mut wrong = copy.clone();
            wrong[disk][range.clone()].copy_from_slice(&now[disk][range.clone()]);
            let error = world.refusal(&wrong, moment);
            assert!(error.contains(&format!("offset {} ", range.start)), "{error}");
        }
    }
}

/// What happens to a block of an incremental backup that the bitmap does not mark.
#[test]
fn one_bit_not_set_is_found() {
    let mut world = World::new();
    for step in 0..4 * BLOCKS {
        world.write(step % 4, step / 4);
    }
    let before = world.copy();
    let changed = [(0, 3), (1, 9), (2, 0), (3, 15)];
    for (queue, block) in changed {
        world.write(queue, block);
    }
    let (sent, after, replied) = (world.clock.tick(), world.copy(), world.clock.tick());
    let moment = Moment { sent, replied };
    world.prove(&after, moment).unwrap();
    for (queue, block) in changed {
        let (disk, at) = (queue / 2, (queue % 2 * BLOCKS + block) * BLOCK_LEN);
        let mut wrong = after.clone();
        wrong[disk][at..at + BLOCK_LEN].copy_from_slice(&before[disk][at..at + BLOCK_LEN]);
        let error = world.refusal(&wrong, moment);
        assert!(error.contains(&format!("offset {at} ")), "{error}");
    }
}

#[test]
fn a_write_without_the_one_before_it_on_another_disk_is_found() {
    let mut world = World::new();
    world.write(0, 0);
    world.write(3, 0);
    let sent = world.clock.tick();
    let before = world.copy();
    world.write(0, 0);
    let between = world.copy();
    world.write(3, 0);
    let after = world.copy();
    let moment = Moment { sent, replied: world.clock.tick() };
    for right in [&before, &between, &after] {
        world.prove(right, moment).unwrap();
    }
    // Each block is legal by itself: both writes were under way or done between command and reply.
    let wrong = [before[0].clone(), after[1].clone()];
    let error = world.refusal(&wrong, moment);
    assert!(error.contains("no moment fits all blocks"), "{error}");
}

#[test]
fn a_write_done_before_the_command_must_be_in_and_one_after_the_reply_must_not() {
    let mut world = World::new();
    let old = world.copy();
    world.write(1, 5);
    let (sent, right, replied) = (world.clock.tick(), world.copy(), world.clock.tick());
    world.write(2, 6);
    let moment = Moment { sent, replied };
    world.prove(&right, moment).unwrap();
    assert!(world.refusal(&old, moment).contains("it is zero"));
    assert!(world.refusal(&world.copy(), moment).contains("it should be zero"));
}

#[test]
fn zeroes_and_discards_are_told_from_what_was_there() {
    let mut world = World::new();
    world.write(0, 2);
    world.write(1, 2);
    let written = world.copy();
    let zeroes = world.submit(0, 2, Effect::Zeroes);
    world.complete(0, zeroes);
    let discard = world.submit(1, 2, Effect::Discard);
    world.complete(1, discard);
    let (sent, replied) = (world.clock.tick(), world.clock.tick());
    let moment = Moment { sent, replied };
    let block = |queue: usize| (queue * BLOCKS + 2) * BLOCK_LEN..(queue * BLOCKS + 3) * BLOCK_LEN;
    let error = world.refusal(&written, moment);
    assert!(error.contains(&format!("offset {} ", block(0).start)), "{error}");
    let mut zeroed = written.clone();
    zeroed[0][block(0)].fill(0);
    world.prove(&zeroed, moment).unwrap();
    zeroed[0][block(1)].fill(0);
    world.prove(&zeroed, moment).unwrap();
}

#[test]
fn a_restore_point_of_another_length_is_refused() {
    let (world, mut copy, moment) = taken();
    copy[1].push(0);
    assert!(world.refusal(&copy, moment).contains("bytes instead of"));
    copy[1].truncate(BLOCK_LEN);
    world.refusal(&copy, moment);
}

#[test]
fn bytes_changed_are_those_of_blocks_with_another_generation() {
    let mut world = World::new();
    world.write(0, 0);
    let mut moments = Vec::new();
    for step in 0..3 {
        let sent = world.clock.tick();
        moments.push((world.copy(), Moment { sent, replied: world.clock.tick() }));
        for block in 0..=step {
            world.write(2, block);
        }
    }
    let proofs: Vec<_> = moments.iter().map(|(copy, moment)| world.prove(copy, *moment).unwrap()).collect();
    let block = BLOCK_LEN as u64;
    assert_eq!(proofs[1].changed_since(&proofs[0]), block);
    assert_eq!(proofs[2].changed_since(&proofs[1]), 2 * block);
}
