//! Taking and freeing, against a list of counts.

use super::counts::{counts, geometry, number};
use super::machine::{Machine, image, leaks};
use crate::node::qcow2::refcount::{Refcounts, Run};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every combination is one kind of image.
const KINDS: [(u32, u32); 9] = [(9, 0), (9, 1), (9, 2), (9, 3), (9, 4), (9, 5), (9, 6), (12, 6), (16, 4)];

fn make(cluster_bits: u32, order: u32) -> Vec<u8> {
    image(&format!("cluster_size={},refcount_bits={}", 1 << cluster_bits, 1 << order), "1M")
}

/// Takes clusters and makes the file reach that far, as whoever writes there does.
pub fn allocate(machine: &mut Machine, refcounts: &Arc<Refcounts>, want: u64, exactly: bool) -> Run {
    let (refcounts, store) = (refcounts.clone(), machine.store());
    let cluster = geometry(&machine.header).cluster();
    let task = |io| async move {
        let run = match exactly {
            true => refcounts.allocate_contiguous(&io, want).await.unwrap(),
            false => refcounts.allocate(&io, want).await.unwrap(),
        };
        store.grow(&io, run.host + run.clusters * cluster).await.unwrap();
        run
    };
    machine.run(|io| Box::pin(task(io)))
}

pub fn release(
    machine: &mut Machine,
    refcounts: &Arc<Refcounts>,
    host: u64,
    clusters: u64,
) -> Vec<std::ops::Range<u64>> {
    let refcounts = refcounts.clone();
    machine.run(|io| Box::pin(async move { refcounts.release(&io, host, clusters).await })).unwrap()
}

/// Takes and frees at random; what is held in the end.
fn mix(machine: &mut Machine, refcounts: &Arc<Refcounts>, seed: u64, steps: u32) -> BTreeMap<u64, u64> {
    let cluster = geometry(&machine.header).cluster();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut expected = counts(&machine.content());
    // Free once the header names another.
    let first_table = number(&machine.content(), 48, 8);
    let mut held: Vec<Run> = Vec::new();
    for step in 0..steps {
        if random.u8(0..3) == 0 && !held.is_empty() {
            let run = held.swap_remove(random.usize(0..held.len()));
            let free = release(machine, refcounts, run.host, run.clusters);
            let bytes = run.host..run.host + run.clusters * cluster;
            assert!(matches!(&free[..], [all] if *all == bytes), "{free:?} of {bytes:?}");
            (0..run.clusters).for_each(|number| _ = expected.remove(&(run.host + number * cluster)));
        } else {
            let (want, exactly) = (random.u64(1..80), random.bool());
            let run = allocate(machine, refcounts, want, exactly);
            assert!(if exactly { run.clusters == want } else { (1..=want).contains(&run.clusters) });
            for host in (0..run.clusters).map(|number| run.host + number * cluster) {
                let before = expected.insert(host, 1);
                let freed = host == first_table && number(&machine.content(), 48, 8) != first_table;
                assert!(before.is_none() || freed, "step {step} took {run:?}");
            }
            held.push(run);
        }
    }
    expected
}

#[test]
fn what_is_taken_is_nobody_elses_and_the_file_says_so() {
    for (cluster_bits, order) in KINDS {
        let mut machine = Machine::new(1, make(cluster_bits, order));
        let used = counts(&machine.content()).len();
        let refcounts = machine.open();
        let expected = mix(&mut machine, &refcounts, u64::from(order), 400);
        machine.flush(&refcounts).unwrap();
        assert!(!refcounts.is_dirty());
        let content = machine.content();
        let found = counts(&content);
        assert!(expected.iter().all(|(host, count)| found.get(host) == Some(count)), "{cluster_bits} {order}");
        // What else is counted is what QEMU finds to be metadata.
        let leaked = expected.len() - used;
        assert_eq!(leaks(&content), leaked as u64, "{cluster_bits} {order}");
        println!("{cluster_bits} {order}: {} clusters taken, {} of new metadata", leaked, found.len() - expected.len());
    }
}

#[test]
fn a_table_that_is_too_short_moves_and_its_old_place_is_free() {
    let mut machine = Machine::new(2, make(9, 6));
    let refcounts = machine.open();
    let first = refcounts.table();
    let mut taken = 0;
    let mut places = vec![first];
    while places.len() < 5 {
        // Until the second is written back there are two that the file does not name.
        taken += allocate(&mut machine, &refcounts, 2000, true).clusters;
        let at = refcounts.table();
        if at != places[places.len() - 1] {
            places.push(at);
            if places.len() != 3 {
                machine.flush(&refcounts).unwrap();
            }
        }
    }
    let content = machine.content();
    let found = counts(&content);
    assert_eq!((number(&content, 48, 8), number(&content, 56, 4)), places[4]);
    assert!(places.windows(2).all(|pair| pair[0].1 < pair[1].1), "{places:?}");
    assert_eq!(leaks(&content), taken, "{places:?}");
    println!("{places:?}, {taken} clusters taken of {}", found.len());
    let refcounts = machine.open();
    let again = allocate(&mut machine, &refcounts, 1, true);
    assert_eq!(found.get(&again.host), None);
    assert!(again.host < places[4].0, "old tables' clusters are used again: {again:?}");
}

#[test]
fn clusters_that_nobody_wrote_to_are_told_apart() {
    let mut machine = Machine::new(3, make(16, 4));
    let refcounts = machine.open();
    let end = machine.node.length();
    let first = allocate(&mut machine, &refcounts, 3, false);
    assert!(first.fresh && first.host >= end, "{first:?}");
    release(&mut machine, &refcounts, first.host, 2);
    let again = allocate(&mut machine, &refcounts, 3, false);
    assert_eq!(again, Run { host: first.host, clusters: 2, fresh: false }, "the gap first, and it may have been used");
    assert!(allocate(&mut machine, &refcounts, 1, false).fresh);
}

#[test]
fn blocks_leave_memory_and_come_back() {
    let mut machine = Machine::new(4, make(9, 6));
    let refcounts = machine.open();
    refcounts.set_cache_size(0);
    let expected = mix(&mut machine, &refcounts, 9, 600);
    // What one operation has changed stays until the next.
    release(&mut machine, &refcounts, *expected.keys().next_back().unwrap(), 1);
    let expected: BTreeMap<u64, u64> = expected.into_iter().rev().skip(1).collect();
    let in_memory = refcounts.state().blocks.len();
    assert!(in_memory <= 5, "{in_memory} blocks in memory");
    for (host, count) in &expected {
        let (refcounts, host) = (refcounts.clone(), *host);
        let found = machine.run(|io| Box::pin(async move { refcounts.get(&io, host).await }));
        assert_eq!(found, Ok(*count));
    }
    machine.flush(&refcounts).unwrap();
    let found = counts(&machine.content());
    assert!(expected.iter().all(|(host, count)| found.get(host) == Some(count)));
}
