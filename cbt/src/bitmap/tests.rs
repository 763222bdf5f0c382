//! Bitmaps against a set of block numbers, and the Dirty ordering under loom.

#[cfg(loom)]
mod model {
    use crate::sync::{AtomicU64, Ordering};
    use crate::{Bitmap, Granularity};
    use loom::sync::Arc;

    const BLOCK: u64 = 512;

    /// A disk of one block with its bitmap; data is only ordered by what the bitmap orders.
    struct Disk {
        data: AtomicU64,
        dirty: Bitmap,
    }

    impl Disk {
        fn new() -> Arc<Self> {
            let dirty = Bitmap::new(BLOCK, Granularity::new(BLOCK).unwrap()).unwrap();
            Arc::new(Self { data: AtomicU64::new(0), dirty })
        }

        fn write(&self, value: u64) {
            self.data.fetch_max(value, Ordering::Relaxed);
            self.dirty.mark_live(0, BLOCK);
        }
    }

    /// Two writers, the second of which may find the bit set, and a taker: at the end a block that is not marked has been
    /// copied as it is.
    #[test]
    fn what_is_not_marked_has_been_copied_as_it_is() {
        loom::model(|| {
            let disk = Disk::new();
            disk.write(1);
            let writer = {
                let disk = disk.clone();
                loom::thread::spawn(move || disk.write(2))
            };
            let mut copy = 0;
            if disk.dirty.take(0, BLOCK) {
                copy = disk.data.load(Ordering::Relaxed);
            }
            writer.join().unwrap();
            if !disk.dirty.is_marked(0) {
                assert_eq!(copy, disk.data.load(Ordering::Relaxed), "an update is lost");
            }
            assert_eq!(disk.dirty.is_marked(0), !disk.dirty.is_empty(), "the second level forgot a word");
        });
    }

    #[test]
    fn a_word_that_is_marked_while_it_is_taken_stays_in_the_second_level() {
        loom::model(|| {
            let len = 2 * BLOCK;
            let dirty = Arc::new(Bitmap::new(len, Granularity::new(BLOCK).unwrap()).unwrap());
            dirty.mark_live(0, BLOCK);
            let writer = {
                let dirty = dirty.clone();
                loom::thread::spawn(move || dirty.mark_live(BLOCK, BLOCK))
            };
            dirty.take(0, BLOCK);
            writer.join().unwrap();
            assert_eq!(dirty.next_marked(0), Some(BLOCK..len));
        });
    }
}

#[cfg(not(loom))]
mod oracle {
    use crate::{Bitmap, Granularity};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The blocks of a disk, one by one.
    #[derive(Clone, Debug, Default)]
    struct Naive {
        len: u64,
        block: u64,
        marked: BTreeSet<u64>,
    }

    impl Naive {
        fn touched(&self, offset: u64, len: u64) -> impl Iterator<Item = u64> + use<> {
            let (block, end) = (self.block, offset.saturating_add(len).min(self.len));
            (0..self.len.div_ceil(block))
                .filter(move |at| at * block < end && (at + 1) * block > offset && offset < end)
        }

        fn mark(&mut self, offset: u64, len: u64) {
            if len > 0 {
                self.marked.extend(self.touched(offset, len));
            }
        }

        fn clear(&mut self, offset: u64, len: u64) -> bool {
            let touched: Vec<_> = self.touched(offset, len).filter(|_| len > 0).collect();
            touched.iter().filter(|at| self.marked.remove(at)).count() > 0
        }

        /// Runs of marked bytes.
        fn runs(&self) -> Vec<(u64, u64)> {
            let mut runs: Vec<(u64, u64)> = Vec::new();
            for at in &self.marked {
                let (start, end) = (at * self.block, ((at + 1) * self.block).min(self.len));
                match runs.last_mut() {
                    Some(last) if last.1 == start => last.1 = end,
                    _ => runs.push((start, end)),
                }
            }
            runs
        }
    }

    fn pair(len: u64, bits: u32) -> (Bitmap, Naive) {
        let granularity = Granularity::new(1 << bits).unwrap();
        (Bitmap::new(len, granularity).unwrap(), Naive { len, block: 1 << bits, marked: BTreeSet::new() })
    }

    fn runs(bitmap: &Bitmap) -> Vec<(u64, u64)> {
        let mut from = 0;
        std::iter::from_fn(|| {
            let run = bitmap.next_marked(from)?;
            from = run.end;
            Some((run.start, run.end))
        })
        .collect()
    }

    fn check(bitmap: &Bitmap, naive: &Naive) {
        assert_eq!(runs(bitmap), naive.runs());
        assert_eq!(bitmap.count(), naive.marked.len() as u64 * naive.block);
        assert_eq!(bitmap.is_empty(), naive.marked.is_empty());
    }

    /// Ranges near words' ends, of one block to several words.
    fn range(len: u64) -> impl Strategy<Value = (u64, u64)> {
        (0..len + 5000, prop_oneof![0..2000u64, 0..len, Just(u64::MAX)])
    }

    proptest! {
        #[test]
        fn marks_and_clears_are_those_of_a_set(
            len in 1..400_000u64,
            bits in 9..14u32,
            edits in prop::collection::vec((any::<bool>(), range(400_000)), 1..40),
        ) {
            let (bitmap, mut naive) = pair(len, bits);
            for (clear, (offset, count)) in edits {
                if clear {
                    prop_assert_eq!(bitmap.take(offset, count), naive.clear(offset, count));
                } else {
                    bitmap.mark(offset, count);
                    naive.mark(offset, count);
                }
                check(&bitmap, &naive);
                let next = naive.runs().into_iter().find(|run| run.1 > offset).map(|run| run.0.max(offset)..run.1);
                prop_assert_eq!(bitmap.next_marked(offset), next);
                let is_clear = |at: &u64| !naive.marked.contains(&(at / naive.block));
                let clear = (offset..len).find(is_clear);
                prop_assert_eq!(bitmap.next_clear(offset), clear);
                prop_assert_eq!(bitmap.is_marked(offset), offset < len && !is_clear(&offset));
                let all = count == 0 || naive.touched(offset, count).all(|at| naive.marked.contains(&at));
                prop_assert_eq!(bitmap.marks_all(offset, count), all);
            }
        }

        #[test]
        fn merged_and_resized_bitmaps_mark_every_block_that_was_touched(
            len in 1..300_000u64,
            new_len in 1..300_000u64,
            bits in (9..14u32, 9..14u32),
            ours in prop::collection::vec(range(300_000), 0..10),
            theirs in prop::collection::vec(range(300_000), 0..10),
        ) {
            let ((target, mut expected), (source, mut other)) = (pair(len, bits.0), pair(len, bits.1));
            for (offset, count) in ours {
                target.mark(offset, count);
                expected.mark(offset, count);
            }
            for (offset, count) in theirs {
                source.mark(offset, count);
                other.mark(offset, count);
            }
            target.merge(&source);
            other.runs().into_iter().for_each(|(start, end)| expected.mark(start, end - start));
            check(&target, &expected);
            let resized = target.resized(new_len).unwrap();
            let blocks = new_len.div_ceil(expected.block);
            let kept = expected.marked.range(..blocks).copied().collect();
            check(&resized, &Naive { len: new_len, marked: kept, ..expected });
        }
    }

    #[test]
    fn a_large_sparse_bitmap_takes_up_and_walks_next_to_nothing() {
        let disk = 16u64 << 40;
        let bitmap = Bitmap::new(disk, Granularity::DEFAULT).unwrap();
        for at in [0, disk / 3, disk - 1] {
            bitmap.mark(at, 1);
        }
        let block = |at: u64| (at / 65536 * 65536, at / 65536 * 65536 + 65536);
        assert_eq!(runs(&bitmap), [block(0), block(disk / 3), block(disk - 1)]);
        assert_eq!(bitmap.count(), 3 * 65536);
    }

    #[test]
    fn marks_of_several_threads_are_all_there() {
        let (bitmap, _) = pair(1 << 20, 9);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let bitmap = &bitmap;
                scope.spawn(move || (0..512u64).for_each(|block| bitmap.mark((block * 4 + thread) * 512, 512)));
            }
        });
        assert_eq!(bitmap.next_marked(0), Some(0..1 << 20));
    }

    #[test]
    fn a_bitmap_without_memory_is_an_error() {
        assert!(Bitmap::new(u64::MAX, Granularity::new(512).unwrap()).is_err());
    }
}
