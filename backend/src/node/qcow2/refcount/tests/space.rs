//! Taking and freeing, against a list of counts.

use super::machine::{Machine, geometry, image, number};
use crate::node::qcow2::refcount::{Refcounts, Run};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Every combination is one kind of image.
const KINDS: [(u32, u32); 9] = [(9, 0), (9, 1), (9, 2), (9, 3), (9, 4), (9, 5), (9, 6), (12, 6), (16, 4)];

fn make(cluster_bits: u32, order: u32) -> Vec<u8> {
    image(&format!("cluster_size={},refcount_bits={}", 1 << cluster_bits, 1 << order), "1M")
}

/// The counts that are not zero, as the bytes of an image say, by offset.
fn counts(content: &[u8]) -> BTreeMap<u64, u64> {
    let geometry = geometry(content);
    let (offset, clusters) = (number(content, 48, 8), number(content, 56, 4));
    let mut counts = BTreeMap::new();
    for region in 0..clusters * geometry.cluster() / 8 {
        let block = number(content, usize::try_from(offset + region * 8).unwrap(), 8);
        if block == 0 {
            continue;
        }
        for number in 0..geometry.refcounts_per_block() {
            let bit = block * 8 + (number << geometry.refcount_order);
            let count = bits(content, bit, 1 << geometry.refcount_order);
            if count != 0 {
                counts.insert((region * geometry.refcounts_per_block() + number) << geometry.cluster_bits, count);
            }
        }
    }
    counts
}

/// `len` bits; those of a part of a byte from the lowest on.
fn bits(content: &[u8], bit: u64, len: u64) -> u64 {
    let at = usize::try_from(bit / 8).unwrap();
    match len {
        1 | 2 | 4 => u64::from(content[at]) >> (bit % 8) & ((1 << len) - 1),
        _ => number(content, at, usize::try_from(len / 8).unwrap()),
    }
}

fn allocate(machine: &mut Machine, refcounts: &Arc<Refcounts>, want: u64, exactly: bool) -> Run {
    let refcounts = refcounts.clone();
    let task = |io| async move {
        match exactly {
            true => refcounts.allocate_contiguous(&io, want).await,
            false => refcounts.allocate(&io, want).await,
        }
    };
    machine.run(|io| Box::pin(task(io))).unwrap()
}

fn release(machine: &mut Machine, refcounts: &Arc<Refcounts>, host: u64, clusters: u64) -> Vec<std::ops::Range<u64>> {
    let refcounts = refcounts.clone();
    machine.run(|io| Box::pin(async move { refcounts.release(&io, host, clusters).await })).unwrap()
}

#[test]
fn what_is_taken_is_nobody_elses_and_the_file_says_so() {
    for (cluster_bits, order) in KINDS {
        let content = make(cluster_bits, order);
        let cluster = 1u64 << cluster_bits;
        let mut expected = counts(&content);
        let mut random = fastrand::Rng::with_seed(u64::from(order));
        let mut machine = Machine::new(1, content);
        let refcounts = machine.open();
        let mut held: Vec<Run> = Vec::new();
        for step in 0..400 {
            if random.u8(0..3) == 0 && !held.is_empty() {
                let run = held.swap_remove(random.usize(0..held.len()));
                let free = release(&mut machine, &refcounts, run.host, run.clusters);
                assert_eq!(free, [run.host..run.host + run.clusters * cluster]);
                (0..run.clusters).for_each(|number| _ = expected.remove(&(run.host + number * cluster)));
            } else {
                let (want, exactly) = (random.u64(1..80), random.bool());
                let run = allocate(&mut machine, &refcounts, want, exactly);
                assert!(if exactly { run.clusters == want } else { (1..=want).contains(&run.clusters) });
                for number in 0..run.clusters {
                    let before = expected.insert(run.host + number * cluster, 1);
                    assert_eq!(before, None, "{cluster_bits} {order}: step {step} took {run:?}");
                }
                held.push(run);
            }
        }
        machine.flush(&refcounts).unwrap();
        assert!(!refcounts.is_dirty());
        let found = counts(&machine.content());
        // Blocks and tables have come on top.
        let own: BTreeMap<u64, u64> =
            found.iter().filter(|(host, _)| !expected.contains_key(host)).map(|(h, c)| (*h, *c)).collect();
        assert!(expected.iter().all(|(host, count)| found.get(host) == Some(count)), "{cluster_bits} {order}");
        assert!(own.values().all(|count| *count == 1), "{own:?}");
        println!("{cluster_bits} {order}: {} clusters, {} of them new metadata", found.len(), own.len());
    }
}
