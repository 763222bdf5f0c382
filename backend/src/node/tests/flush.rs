//! Flushes promise, and a failed one ends all promises.

use super::bench::{Bench, bare};
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::node::Kind;

#[test]
fn after_a_failed_flush_no_write_and_no_flush_succeeds_and_reads_do() {
    let mut bench = Bench::new(1, &[1; 8192], 1).with_faults(Faults { flush_error: 1024, ..Faults::default() });
    let node = bench.file(None);
    assert_eq!(bench.write(&node, 0, &[2; 512]), Ok(()));
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Err(IoError::Io));
    bench.world.set_faults(Faults::default());
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Err(IoError::Io));
    assert_eq!(bench.write(&node, 512, &[3; 512]), Err(IoError::Io));
    assert_eq!(bench.bare(&node, Kind::Zero { unmap: false }, 0, 512), Err(IoError::Io));
    assert_eq!(bench.read(&node, 0, 512), Ok(vec![2; 512]));
}

/// The kernel tells of lost data once: whoever hears of it must not keep it from those who flush later.
#[test]
fn a_stable_write_of_cached_data_that_fails_ends_all_promises_too() {
    let mut bench = Bench::new(1, &[1; 8192], 1).with_faults(Faults { flush_error: 1024, ..Faults::default() });
    let node = bench.file(None);
    assert_eq!(bench.write(&node, 0, &[2; 512]), Ok(()));
    let stable = crate::node::Request { fua: true, ..super::bench::write(4096, &[3; 512]) };
    assert_eq!(bench.run(&node, stable).1, Err(IoError::Io));
    bench.world.set_faults(Faults::default());
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Err(IoError::Io), "the first write is not stable");
}

#[test]
fn of_two_flushes_side_by_side_none_hides_the_failure_of_the_other() {
    let mut failed = 0;
    for seed in 0..300 {
        let mut bench = Bench::new(seed, &[1; 4096], 1).with_faults(Faults { flush_error: 300, ..Faults::default() });
        let node = bench.file(None);
        assert_eq!(bench.write(&node, 0, &[2; 4096]), Ok(()));
        let flushes = [0, 1].map(|reactor| bench.begin(reactor, &node, bare(Kind::Flush, 0, 0)));
        bench.finish(&[&flushes[0], &flushes[1]]);
        let results = flushes.map(|slot| slot.take().unwrap().1);
        let stable = bench.cut_power() == [2; 4096];
        failed += usize::from(results.contains(&Err(IoError::Io)));
        assert!(stable || !results.contains(&Ok(())), "seed {seed}: {results:?} and the data is lost");
    }
    assert!(failed > 30);
}

#[test]
fn a_write_that_must_be_stable_survives_a_power_cut_without_a_flush() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed, &[1; 16384], 4096);
        let node = bench.file(Some(4096));
        let stable = |request| crate::node::Request { fua: true, ..request };
        assert_eq!(bench.run(&node, stable(super::bench::write(512, &[2; 512]))).1, Ok(()));
        assert_eq!(bench.run(&node, stable(bare(Kind::Zero { unmap: true }, 4096, 512))).1, Ok(()));
        let content = bench.cut_power();
        assert_eq!((&content[512..1024], &content[4096..4608]), (&[2; 512][..], &[0; 512][..]), "seed {seed}");
    }
}

#[test]
fn after_a_failed_flush_writes_succeed_again_when_a_flush_does_that_was_asked_to_end_it() {
    let mut bench = Bench::new(1, &[1; 8192], 1).with_faults(Faults { flush_error: 1024, ..Faults::default() });
    let node = bench.file(None);
    assert_eq!(bench.write(&node, 0, &[2; 512]), Ok(()));
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Err(IoError::Io));
    assert_eq!(bench.revive(&node), Err(IoError::Io), "storage does not work yet");
    assert_eq!(bench.write(&node, 0, &[2; 512]), Err(IoError::Io));
    bench.world.set_faults(Faults::default());
    assert_eq!(bench.revive(&node), Ok(true));
    assert_eq!(bench.revive(&node), Ok(false), "nothing was wrong any more");
    assert_eq!(bench.write(&node, 512, &[3; 512]), Ok(()));
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Ok(()));
    assert_eq!(bench.cut_power()[512..1024], [3; 512]);
}
