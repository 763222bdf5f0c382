//! Zeroes and discards where storage has them and where it has not.

use super::bench::{Bench, file_options};
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::node::options::{DetectZeroes, Discard};
use crate::node::{Kind, NodeOptions};

#[test]
fn a_range_reads_as_zeroes_whatever_the_storage_can_do() {
    for (no_zero, no_discard, unmap) in
        [(false, false, true), (true, false, true), (false, true, true), (true, true, false)]
    {
        let faults = Faults { no_zero, no_discard, ..Faults::default() };
        let mut bench = Bench::new(1, &vec![7; 3 << 20], 1).with_faults(faults);
        let node = bench.file(None);
        // More than is written at a time, twice: what the storage lacks is found out by the first.
        for offset in [512, (2 << 20) - 512] {
            assert_eq!(bench.bare(&node, Kind::Zero { unmap }, offset, (1 << 20) + 512), Ok(()));
        }
        let content = bench.content();
        let zeroes = |range: std::ops::Range<usize>| content[range].iter().all(|byte| *byte == 0);
        assert!(content[..512].iter().all(|byte| *byte == 7), "{faults:?}");
        assert!(zeroes(512..(1 << 20) + 1024) && zeroes((2 << 20) - 512..3 << 20), "{faults:?}");
        assert!(content[(1 << 20) + 1024..(2 << 20) - 512].iter().all(|byte| *byte == 7), "{faults:?}");
    }
}

#[test]
fn a_discard_that_the_storage_lacks_succeeds_and_changes_nothing() {
    let mut bench = Bench::new(1, &[7; 8192], 1).with_faults(Faults { no_discard: true, ..Faults::default() });
    let node = bench.file(None);
    assert_eq!(bench.bare(&node, Kind::Discard, 0, 4096), Ok(()));
    assert_eq!(bench.content(), [7; 8192]);
}

#[test]
fn a_full_disk_fails_the_write_and_the_node_goes_on() {
    let mut bench = Bench::new(1, &[7; 8192], 1).with_faults(Faults { no_space: 1024, ..Faults::default() });
    let node = bench.file(None);
    assert_eq!(bench.write(&node, 0, &[1; 4096]), Err(IoError::NoSpace));
    bench.world.set_faults(Faults::default());
    assert_eq!(bench.write(&node, 0, &[1; 4096]), Ok(()));
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Ok(()));
}

#[test]
fn writes_of_zeroes_read_as_zeroes_whatever_becomes_of_them() {
    for detect_zeroes in [DetectZeroes::Off, DetectZeroes::On, DetectZeroes::Unmap] {
        let mut bench = Bench::new(1, &[7; 8192], 1);
        let options = NodeOptions { detect_zeroes, ..file_options(bench.image.path()) };
        let node = bench.graph.open(&options).unwrap();
        assert_eq!(bench.write(&node, 512, &[0; 1024]), Ok(()));
        assert_eq!(bench.write(&node, 4096, &[9; 512]), Ok(()));
        let expected = [vec![7; 512], vec![0; 1024], vec![7; 2560], vec![9; 512], vec![7; 3584]].concat();
        assert_eq!(bench.content(), expected, "{detect_zeroes:?}");
    }
}

#[test]
fn ignored_discards_and_flushes_do_not_reach_the_storage() {
    let mut bench = Bench::new(1, &[7; 8192], 1);
    let options = NodeOptions { cache_no_flush: true.into(), ..file_options(bench.image.path()) };
    let node = bench.graph.open(&NodeOptions { discard: Discard::Ignore, ..options }).unwrap();
    assert_eq!(bench.bare(&node, Kind::Discard, 0, 4096), Ok(()));
    assert_eq!(bench.bare(&node, Kind::Flush, 0, 0), Ok(()));
    assert_eq!((bench.world.operations(), bench.content()), (0, vec![7; 8192]));
}

#[test]
fn what_is_outside_of_the_node_or_not_permitted_never_reaches_the_storage() {
    let mut bench = Bench::new(1, &[7; 8192], 1);
    let node = bench.file(None);
    for (offset, len) in [(8192, 512), (8191, 2), (u64::MAX, 1), (1, u64::MAX)] {
        assert_eq!(bench.bare(&node, Kind::Zero { unmap: false }, offset, len), Err(IoError::Invalid));
    }
    let options =
        NodeOptions { read_only: true.into(), node_name: Some("r".into()), ..file_options(bench.image.path()) };
    let node = bench.graph.open(&options).unwrap();
    for kind in [Kind::Discard, Kind::Zero { unmap: true }] {
        assert_eq!(bench.bare(&node, kind, 0, 512), Err(IoError::Permission));
    }
    assert_eq!(bench.write(&node, 0, &[1; 512]), Err(IoError::Permission));
    assert_eq!(bench.world.operations(), 0);
}
