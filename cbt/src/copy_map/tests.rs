//! Chunks against a list of states, and the Owed ordering under loom.

#[cfg(loom)]
mod model {
    use crate::sync::{AtomicU64, Ordering, fence};
    use crate::{ChunkState, CopyMap, Granularity};
    use loom::sync::Arc;

    const CHUNK: u64 = 512;
    /// What the disk holds at the point in time, and what a guest writes afterwards.
    const OLD: u64 = 1;
    const NEW: u64 = 2;

    /// One chunk of a source, its copy, and who may touch which.
    struct Disk {
        source: AtomicU64,
        target: AtomicU64,
        copies: AtomicU64,
        map: CopyMap,
    }

    impl Disk {
        fn new() -> Arc<Self> {
            let map = CopyMap::new(CHUNK, Granularity::new(CHUNK).unwrap()).unwrap();
            map.owe_all();
            let cell = AtomicU64::new;
            Arc::new(Self { source: cell(OLD), target: cell(0), copies: cell(0), map })
        }

        /// Copies the chunk if it is owed.
        fn copy(&self) {
            if let Some(run) = self.map.claim(0, CHUNK, CHUNK) {
                self.target.store(self.source.load(Ordering::Relaxed), Ordering::Relaxed);
                self.copies.fetch_add(1, Ordering::Relaxed);
                self.map.done(run);
            }
        }

        /// A guest's write; gives up if somebody else is copying.
        fn write(&self) {
            self.copy();
            if self.map.is_done(0, CHUNK) {
                self.source.store(NEW, Ordering::Relaxed);
            }
        }

        /// What a reader of the point in time sees; `None` if it has to look again.
        fn read_old(&self) -> Option<u64> {
            if self.map.state(0) == ChunkState::Done {
                return Some(self.target.load(Ordering::Relaxed));
            }
            let data = self.source.load(Ordering::Relaxed);
            fence(Ordering::SeqCst);
            (self.map.state(0) != ChunkState::Done).then_some(data)
        }
    }

    #[test]
    fn a_chunk_is_copied_once_and_before_it_is_overwritten() {
        loom::model(|| {
            let disk = Disk::new();
            let guest = {
                let disk = disk.clone();
                loom::thread::spawn(move || disk.write())
            };
            disk.copy();
            guest.join().unwrap();
            assert_eq!((disk.target.load(Ordering::Relaxed), disk.copies.load(Ordering::Relaxed)), (OLD, 1));
        });
    }

    #[test]
    fn a_reader_of_the_past_never_sees_the_present() {
        loom::model(|| {
            let disk = Disk::new();
            let guest = {
                let disk = disk.clone();
                loom::thread::spawn(move || disk.write())
            };
            assert!(disk.read_old().is_none_or(|data| data == OLD));
            guest.join().unwrap();
        });
    }
}

#[cfg(not(loom))]
mod oracle {
    use crate::{Bitmap, ChunkState, CopyMap, Granularity};
    use ChunkState::{Busy, Done, Owed};
    use proptest::prelude::*;

    const CHUNK: u64 = 512;

    fn map(len: u64) -> CopyMap {
        CopyMap::new(len, Granularity::new(CHUNK).unwrap()).unwrap()
    }

    fn touched(len: u64, offset: u64, count: u64) -> std::ops::Range<usize> {
        let end = offset.saturating_add(count).min(len);
        let at = |byte: u64| usize::try_from(byte).unwrap();
        if offset >= end { 0..0 } else { at(offset / CHUNK)..at(end.div_ceil(CHUNK)) }
    }

    /// The first run of owed chunks in `chunks`, `most` at most.
    fn owed_run(states: &[ChunkState], chunks: std::ops::Range<usize>, most: usize) -> Option<std::ops::Range<usize>> {
        let start = chunks.clone().find(|at| states[*at] == Owed)?;
        let end = (start..chunks.end).find(|at| states[*at] != Owed).unwrap_or(chunks.end);
        Some(start..end.min(start + most))
    }

    fn check(map: &CopyMap, states: &[ChunkState]) {
        let len = map.len();
        let seen: Vec<_> = (0..states.len() as u64).map(|at| map.state(at * CHUNK)).collect();
        assert_eq!(seen, states);
        let bytes = |at: usize| (at as u64 * CHUNK + CHUNK).min(len) - at as u64 * CHUNK;
        let owed: u64 = (0..states.len()).filter(|at| states[*at] != Done).map(bytes).sum();
        assert_eq!(map.owed_bytes(), owed);
        let first = states.iter().position(|state| *state == Owed).map(|at| at as u64 * CHUNK);
        assert_eq!(map.next_owed(0), first);
        let left = Bitmap::new(len, Granularity::new(CHUNK).unwrap()).unwrap();
        map.marked_undone(&left);
        let marked: Vec<_> = (0..states.len() as u64).map(|at| left.is_marked(at * CHUNK)).collect();
        assert_eq!(marked, states.iter().map(|state| *state != Done).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Claim(u64, u64, u64),
        Done(usize),
        Failed(usize),
        Drop(u64, u64),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let (at, count) = (0..120_000u64, prop_oneof![0..2000u64, 0..120_000u64]);
        prop_oneof![
            4 => (at.clone(), count.clone(), 1..60_000u64).prop_map(|(at, count, max)| Edit::Claim(at, count, max)),
            2 => any::<usize>().prop_map(Edit::Done),
            1 => any::<usize>().prop_map(Edit::Failed),
            1 => (at, count).prop_map(|(at, count)| Edit::Drop(at, count)),
        ]
    }

    proptest! {
        #[test]
        fn chunks_go_from_owed_to_busy_to_done(
            len in 1..120_000u64,
            owed in prop::collection::vec((0..120_000u64, 0..30_000u64), 1..5),
            edits in prop::collection::vec(edit(), 1..60),
        ) {
            let map = map(len);
            let mut states = vec![Done; touched(len, 0, len).end];
            for (offset, count) in owed {
                map.owe_range(offset, count);
                states[touched(len, offset, count)].fill(Owed);
            }
            let mut claimed: Vec<std::ops::Range<u64>> = Vec::new();
            for edit in edits {
                match edit {
                    Edit::Claim(offset, count, max) => {
                        let most = usize::try_from((max / CHUNK).max(1)).unwrap();
                        let run = owed_run(&states, touched(len, offset, count), most);
                        let expected = run.clone().map(|run| run.start as u64 * CHUNK..(run.end as u64 * CHUNK).min(len));
                        prop_assert_eq!(map.claim(offset, count, max), expected.clone());
                        states[run.unwrap_or(0..0)].fill(Busy);
                        claimed.extend(expected);
                    }
                    Edit::Done(at) | Edit::Failed(at) if !claimed.is_empty() => {
                        let run = claimed.swap_remove(at % claimed.len());
                        let is_done = matches!(edit, Edit::Done(_));
                        if is_done { map.done(run.clone()) } else { map.failed(run.clone()) }
                        let state = if is_done { Done } else { Owed };
                        states[touched(len, run.start, run.end - run.start)].fill(state);
                    }
                    Edit::Drop(offset, count) => {
                        map.drop_owed(offset, count);
                        for at in touched(len, offset, count) {
                            let (start, end) = (at as u64 * CHUNK, (at as u64 * CHUNK + CHUNK).min(len));
                            if offset <= start && offset + count >= end && states[at] == Owed {
                                states[at] = Done;
                            }
                        }
                    }
                    _ => {}
                }
                check(&map, &states);
                for (offset, count) in [(0, len), (len / 3, 1), (len / 2, 40 * CHUNK)] {
                    let all = states[touched(len, offset, count)].iter().all(|state| *state == Done);
                    prop_assert_eq!(map.is_done(offset, count), all);
                }
            }
        }
    }

    #[test]
    fn what_a_bitmap_marks_is_owed_rounded_out_to_chunks() {
        let map = CopyMap::new(1 << 20, Granularity::new(4096).unwrap()).unwrap();
        let marked = Bitmap::new(1 << 20, Granularity::new(512).unwrap()).unwrap();
        marked.mark(5000, 1);
        map.owe(&marked);
        assert_eq!((map.owed_bytes(), map.next_owed(0)), (4096, Some(4096)));
    }
}
