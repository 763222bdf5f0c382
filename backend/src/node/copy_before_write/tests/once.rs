//! Each chunk is copied once, by whoever comes first, and neighbours together.

use super::rig::{CHUNK, LEN, NEW, Rig, Setup, bare, old, write};
use crate::io::{Buf, Memory};
use crate::node::copy_before_write::CopyBeforeWrite;
use crate::node::{Kind, Root};
use crate::reactor::Handle;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Copies what is owed, from the beginning, as a job does.
async fn copy_all(copy: Arc<CopyBeforeWrite>, io: Handle, copied: Rc<Cell<u64>>) {
    let target = Root::new(copy.target());
    while copy.map().owed_bytes() > 0 {
        let Some(run) = copy.map().claim(0, copy.map().len(), 64 << 10) else {
            io.sleep_until(io.now() + 1000).await;
            continue;
        };
        let len = run.end - run.start;
        let (_, result) = copy.copy(&io, &target, run.clone(), Buf::new(usize::try_from(len).unwrap())).await;
        copy.settle(run, result.is_ok());
        copied.set(copied.get() + if result.is_ok() { len } else { 0 });
    }
}

/// Guests write at random through two doors while a background reader copies: afterwards the target is the past, the
/// disk the present, and no byte was copied twice.
#[test]
fn guests_and_a_background_reader_together_copy_every_chunk_once() {
    for seed in 0..60 {
        let mut rig = Rig::new(Setup { seed, ..Setup::default() });
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut expected, copied) = (old(), Rc::new(Cell::new(0)));
        let (copy, io, count) = (rig.copy.clone(), rig.io(1), copied.clone());
        let reader = rig.spawn(1, async move {
            copy_all(copy, io, count).await;
            (Memory::empty(), Ok(()))
        });
        for _ in 0..12 {
            let ranges: Vec<_> =
                (0..4).map(|_| (random.u64(0..LEN as u64 / 512 - 40) * 512, random.u64(1..40) * 512)).collect();
            let slots: Vec<_> =
                ranges.iter().map(|(at, len)| rig.begin(random.usize(0..2), write(*at, *len))).collect();
            rig.finish(&slots.iter().collect::<Vec<_>>());
            for (at, len) in ranges {
                expected[usize::try_from(at).unwrap()..][..usize::try_from(len).unwrap()].fill(NEW);
            }
        }
        rig.finish(&[&reader]);
        assert!(rig.source() == expected, "seed {seed}: what was written is not there");
        assert!(rig.target() == old(), "seed {seed}: the past is not what it was");
        let (copies, bytes) = rig.copy.copied_for_writes();
        assert!(copies > 0 && copied.get() > 0, "seed {seed}: both have copied");
        assert_eq!(bytes + copied.get(), LEN as u64, "seed {seed}");
    }
}

/// Operations that the storage has seen for a request.
fn operations(rig: &mut Rig, offset: u64, len: u64) -> u64 {
    let before = rig.world.operations();
    rig.write(offset, len).unwrap();
    rig.world.operations() - before
}

#[test]
fn neighbouring_chunks_of_one_write_are_read_and_written_in_one_go() {
    let mut rig = Rig::new(Setup::default());
    assert_eq!(operations(&mut rig, 0, 16 * CHUNK), 3, "a read, a write and the guest's");
    assert_eq!(rig.copy.copied_for_writes(), (1, 16 * CHUNK));
    assert_eq!(operations(&mut rig, 8 * CHUNK, 8 * CHUNK), 1, "nothing is owed there any more");
    assert_eq!(operations(&mut rig, 21 * CHUNK - 256, 512), 3, "of a write across an edge both chunks");
    assert_eq!(rig.copy.copied_for_writes(), (2, 18 * CHUNK));
    assert_eq!(operations(&mut rig, 19 * CHUNK, 4 * CHUNK), 5, "what is done lies between two copies");
    assert_eq!(rig.copy.copied_for_writes(), (4, 20 * CHUNK));
}

#[test]
fn discards_and_zeroes_copy_what_they_destroy() {
    for kind in [Kind::Discard, Kind::Zero { unmap: false }, Kind::Zero { unmap: true }] {
        let mut rig = Rig::new(Setup::default());
        rig.run(bare(kind, 3 * CHUNK, 2 * CHUNK)).unwrap();
        assert_eq!(rig.copy.copied_for_writes(), (1, 2 * CHUNK), "{kind:?}");
        assert_eq!(rig.read(0, LEN), Ok(old()), "{kind:?}");
        assert!(rig.source()[3 * 4096..5 * 4096].iter().all(|byte| *byte == 0), "{kind:?}");
    }
}
