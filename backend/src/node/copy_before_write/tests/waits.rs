//! What a write waits for, and what it does not wait for.

use super::rig::{CHUNK, MS, Rig, SECOND, Setup, bare, write};
use crate::node::Kind;
use crate::node::copy_before_write::{MEMORY_MAX, PIECE_MAX};
use crate::node::options::Delays;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Wake, Waker};

const SLOW: Delays = Delays { read: 0, write: 50 * MS, write_zeroes: 0, discard: 0, flush: 0 };

fn slow() -> Rig {
    Rig::new(Setup { target: SLOW, ..Setup::default() })
}

#[test]
fn a_write_waits_only_for_the_chunks_it_overwrites() {
    let mut rig = slow();
    rig.write(0, CHUNK).unwrap();
    let copied = rig.world.now();
    let waiting = rig.begin(0, write(5 * CHUNK, 512));
    rig.run_until(copied + 20 * MS);
    let other = rig.begin(0, write(9 * CHUNK, 512));
    let passing = [(0, 0), (1, 512)].map(|(seat, offset)| rig.begin(seat, write(offset, 512)));
    rig.finish(&[&passing[0], &passing[1]]);
    assert!(rig.world.now() < copied + 25 * MS, "what is copied is not waited for");
    assert!(waiting.borrow().is_none() && other.borrow().is_none());
    rig.finish(&[&waiting]);
    assert!((copied + 50 * MS..copied + 55 * MS).contains(&rig.world.now()));
    assert!(other.borrow().is_none(), "it began later");
    rig.finish(&[&other]);
    assert!((copied + 70 * MS..copied + 75 * MS).contains(&rig.world.now()), "each waits for its own chunk");
}

#[test]
fn reads_and_flushes_wait_for_no_copy() {
    let mut rig = slow();
    let waiting = rig.begin(0, write(0, CHUNK));
    rig.run_until(10 * MS);
    let slots = [rig.begin(0, super::rig::read(0, 512)), rig.begin(1, bare(Kind::Flush, 0, 0))];
    rig.finish(&[&slots[0], &slots[1]]);
    assert!(waiting.borrow().is_none() && rig.world.now() < 15 * MS);
}

#[test]
fn a_write_waits_for_a_chunk_that_another_is_copying_and_copies_nothing_itself() {
    let mut rig = slow();
    let first = rig.begin(0, write(0, 512));
    rig.run_until(20 * MS);
    let second = rig.begin(1, write(1024, 512));
    rig.finish(&[&first, &second]);
    assert!((50 * MS..55 * MS).contains(&rig.world.now()), "the second waits for the copy of the first");
    assert_eq!(rig.copy.copied_for_writes(), (1, CHUNK));
}

/// Two zero requests of 200 MiB each, onto a target that takes 10 ms a write.
#[test]
fn copies_for_writes_hold_64_mib_at_a_time_and_room_is_taken_as_soon_as_it_is_there() {
    for seed in 0..3 {
        let target = Delays { write: 10 * MS, ..Delays::default() };
        let mut rig = Rig::new(Setup { seed, null: Some(1 << 30), target, ..Setup::default() });
        let zero = |at: u64| bare(Kind::Zero { unmap: false }, at << 20, 200 << 20);
        let slots = [rig.begin(0, zero(0)), rig.begin(1, zero(200))];
        let mut most = 0;
        while slots.iter().any(|slot| slot.borrow().is_none()) {
            assert!(rig.step(), "everybody sleeps");
            most = most.max(rig.copy.memory.load(Ordering::Relaxed));
        }
        assert_eq!(most, MEMORY_MAX);
        assert_eq!(rig.copy.copied_for_writes(), (400, 400 * PIECE_MAX));
        assert!((70 * MS..90 * MS).contains(&rig.world.now()), "seven rounds, not {} ns", rig.world.now());
        assert!(rig.copy.is_quiet(), "all memory is given back");
    }
}

#[test]
fn a_write_of_a_queue_that_is_to_end_waits_two_seconds_more_for_all_it_needs_together() {
    let target = Delays { write: 1_900 * MS, ..Delays::default() };
    let mut rig = Rig::new(Setup { null: Some(1 << 30), target, ..Setup::default() });
    let zero = rig.begin(0, bare(Kind::Zero { unmap: false }, 0, 400 << 20));
    rig.run_until(SECOND);
    rig.root(0).hurry();
    rig.finish(&[&zero]);
    assert!((3 * SECOND..3_600 * MS).contains(&rig.world.now()), "{}", rig.world.now());
    assert!(zero.take().unwrap().1.is_err());
}

struct Nobody;

impl Wake for Nobody {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn however_long_a_target_is_dead_a_waiting_write_stands_in_one_list_once_and_then_in_none() {
    let target = Delays { write: 1000 * SECOND, ..Delays::default() };
    let mut rig = Rig::new(Setup { target, ..Setup::default() });
    let (nobody, root, io) = (Arc::new(Nobody), rig.root(0), rig.io(0));
    let waker = Waker::from(nobody.clone());
    let target = crate::node::Root::new(rig.copy.target());
    let copy = rig.copy.clone();
    let mut before = Box::pin(copy.before(&io, &target, 0, CHUNK, &root));
    for second in 0..500 {
        assert!(before.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        rig.run_until(second * SECOND);
    }
    // Ours, the waker's, its place's, the list's and the timer's.
    assert!(Arc::strong_count(&nobody) <= 5, "{} references", Arc::strong_count(&nobody));
    drop(before);
    drop(waker);
    assert_eq!(Arc::strong_count(&nobody), 1);
}
