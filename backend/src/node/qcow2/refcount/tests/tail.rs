//! Where the clusters end that are in use, after others have been freed.

use super::counts::counts;
use super::machine::{Machine, image};
use super::space::{allocate, release};
use std::cell::Cell;
use std::rc::Rc;

#[test]
fn blocks_that_count_nothing_but_each_other_do_not_keep_the_file_long() {
    for (cluster_bits, order) in [(9, 4), (9, 6), (12, 6)] {
        let options = format!("cluster_size={},refcount_bits={}", 1 << cluster_bits, 1 << order);
        let mut machine = Machine::new(1, image(&options, "1M"));
        let refcounts = machine.open();
        let (cluster, per_block) = (1 << cluster_bits, 1 << (cluster_bits + 3 - order));
        let kept = allocate(&mut machine, &refcounts, 1, true);
        // Each run reaches into the next region, whose block is in the one before then.
        let held: Vec<_> = (0..6).map(|_| allocate(&mut machine, &refcounts, per_block - 2, true)).collect();
        machine.flush(&refcounts).unwrap();
        for run in held {
            release(&mut machine, &refcounts, run.host, run.clusters);
        }
        let (shared, end) = (refcounts.clone(), Rc::new(Cell::new(0)));
        let found = end.clone();
        let task = |io| async move {
            shared.drop_empty_blocks(&io).await?;
            shared
                .cut(&io, async |end| {
                    found.set(end);
                    Ok(())
                })
                .await
        };
        machine.run(|io| Box::pin(task(io))).unwrap();
        assert_eq!(refcounts.take_fault(), None);
        machine.flush(&refcounts).unwrap();
        let counted = counts(&machine.content());
        let last = *counted.keys().max().unwrap();
        assert_eq!(end.get(), last + cluster, "{options}");
        assert!(end.get() <= kept.host + per_block * cluster, "{options}: {}", end.get());
        // And what is taken next is counted again.
        let again = allocate(&mut machine, &refcounts, 3 * per_block, true);
        machine.flush(&refcounts).unwrap();
        let counted = counts(&machine.content());
        assert!((0..again.clusters).all(|number| counted.contains_key(&(again.host + number * cluster))), "{options}");
    }
}
