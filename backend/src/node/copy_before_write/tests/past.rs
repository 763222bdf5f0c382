//! Reads of the past while the present moves on.

use super::rig::{CHUNK, LEN, NEW, Rig, Setup, bare, old, result, write};
use crate::error::IoError;
use crate::node::copy_before_write::CbwOptions;
use crate::node::{Kind, Request};

/// A request to the past itself.
fn ask(rig: &mut Rig, request: Request) -> Result<(), IoError> {
    let (past, io) = (rig.past.clone(), rig.io(1));
    let slot = rig.spawn(1, async move { past.handle(&io, request).await });
    rig.finish(&[&slot]);
    slot.take().unwrap().1
}

/// The target holds garbage where nothing was copied, the disk the present where something was: a read from the wrong
/// one shows.
#[test]
fn the_past_is_read_from_the_target_where_it_was_copied_and_from_the_disk_where_not() {
    let mut rig = Rig::new(Setup::default());
    for (offset, len) in [(0, 512), (7 * CHUNK + 100, 3 * CHUNK), (LEN as u64 - 512, 512)] {
        rig.write(offset, len).unwrap();
    }
    assert_eq!(rig.read(0, LEN), Ok(old()));
    for (offset, len) in [(0, 512), (6 * CHUNK + 512, 8192), (LEN as u64 - 1024, 1024)] {
        let at = usize::try_from(offset).unwrap();
        assert_eq!(rig.read(offset, len).as_deref(), Ok(&old()[at..at + len]), "{offset} {len}");
    }
    assert_eq!(rig.source()[..512], [NEW; 512]);
}

#[test]
fn a_read_of_the_past_that_races_with_writes_sees_none_of_them() {
    for seed in 0..100 {
        let mut rig = Rig::new(Setup { seed, ..Setup::default() });
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..10 {
            let at = random.usize(0..LEN / 512 - 64) * 512;
            let len = random.usize(1..64) * 512;
            let reads = [rig.begin_read(0, at as u64, len), rig.begin_read(1, 0, LEN)];
            let near = at as u64 + random.u64(0..len as u64) / 512 * 512;
            let writes = [write(near, 4096), write(at as u64, 512)].map(|write| rig.begin(random.usize(0..2), write));
            rig.finish(&[&reads[0], &reads[1], &writes[0], &writes[1]]);
            assert!(result(&reads[0]).unwrap() == old()[at..at + len], "seed {seed}");
            assert!(result(&reads[1]).unwrap() == old(), "seed {seed}");
        }
    }
}

#[test]
fn the_past_cannot_be_written() {
    let mut rig = Rig::new(Setup::default());
    assert_eq!(ask(&mut rig, write(0, 512)), Err(IoError::Unsupported));
    assert_eq!(ask(&mut rig, bare(Kind::Zero { unmap: false }, 0, 512)), Err(IoError::Unsupported));
    assert_eq!((rig.read(0, LEN), rig.source()), (Ok(old()), old()));
}

#[test]
fn what_a_reader_discards_is_kept_no_longer_and_cannot_be_read_again() {
    let mut rig = Rig::new(Setup::default());
    rig.write(0, CHUNK).unwrap();
    assert_eq!(ask(&mut rig, bare(Kind::Discard, 0, 8 * CHUNK)), Ok(()));
    for offset in [0, 7 * CHUNK] {
        assert_eq!(rig.read(offset, 512), Err(IoError::Permission), "copied or not");
    }
    rig.write(2 * CHUNK, CHUNK).unwrap();
    assert_eq!(rig.copy.copied_for_writes(), (1, CHUNK), "nobody needs it");
    assert_eq!(rig.target()[..4096], [0; 4096], "its space is given back");
    assert_eq!(rig.read(8 * CHUNK, 4096).as_deref(), Ok(&old()[8 * 4096..9 * 4096]));
}

#[test]
fn of_a_discard_of_parts_of_chunks_the_rest_of_these_chunks_is_kept() {
    let options = CbwOptions { min_chunk: 64 << 10, ..CbwOptions::default() };
    let mut rig = Rig::new(Setup { options, ..Setup::default() });
    let chunk = 64 << 10;
    assert_eq!(ask(&mut rig, bare(Kind::Discard, 512, 2 * chunk)), Ok(()));
    assert_eq!(ask(&mut rig, bare(Kind::Discard, 4 * chunk, 512)), Ok(()));
    rig.write(0, LEN as u64).unwrap();
    let kept = old();
    assert_eq!(rig.read(0, 64 << 10).as_deref(), Ok(&kept[..64 << 10]));
    assert_eq!(rig.read(chunk, 512), Err(IoError::Permission), "that one was discarded wholly");
    assert_eq!(rig.read(2 * chunk, LEN - (128 << 10)).as_deref(), Ok(&kept[128 << 10..]));
}
