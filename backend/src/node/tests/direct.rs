//! Direct I/O takes any range a guest may name, against a plain array of bytes.

use super::bench::{Bench, bare, write};
use crate::io::sim::Faults;
use crate::node::Kind;
use proptest::prelude::*;

const LEN: usize = 40_000;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Read(usize, usize),
    Zero(usize, usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let range = || (0..LEN, 1..12_000usize).prop_map(|(at, len)| (at, len.min(LEN - at)));
    prop_oneof![
        (range(), any::<u8>()).prop_map(|((at, len), byte)| Step::Write(at, vec![byte; len])),
        range().prop_map(|(at, len)| Step::Read(at, len)),
        (range(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero(at, len, unmap)),
    ]
}

proptest! {
    #[test]
    fn requests_that_are_not_aligned_do_what_they_say_and_nothing_beside(
        seed: u64,
        no_zero: bool,
        no_discard: bool,
        steps in prop::collection::vec(step(), 1..20),
    ) {
        let mut model: Vec<u8> = (0..LEN).map(|at| (at / 100).to_le_bytes()[0]).collect();
        let faults = Faults { short: 300, no_zero, no_discard, ..Faults::default() };
        let mut bench = Bench::new(seed, &model, 4096).with_faults(faults);
        let node = bench.file(Some(4096));
        for step in steps {
            match step {
                Step::Write(at, data) => {
                    prop_assert_eq!(bench.write(&node, at as u64, &data), Ok(()));
                    model[at..at + data.len()].copy_from_slice(&data);
                }
                Step::Read(at, len) => {
                    prop_assert_eq!(bench.read(&node, at as u64, len), Ok(model[at..at + len].to_vec()));
                }
                Step::Zero(at, len, unmap) => {
                    prop_assert_eq!(bench.bare(&node, Kind::Zero { unmap }, at as u64, len as u64), Ok(()));
                    model[at..at + len].fill(0);
                }
            }
        }
        prop_assert_eq!(&bench.content()[..LEN], &model[..]);
    }
}

#[test]
fn two_writes_of_one_block_side_by_side_both_stay() {
    for seed in 0..100 {
        let mut bench = Bench::new(seed, &[1; 8192], 4096);
        let node = bench.file(Some(4096));
        let one = bench.begin(0, &node, write(512, &[2; 512]));
        let other = bench.begin(1, &node, write(1024, &[3; 4096]));
        bench.finish(&[&one, &other]);
        let expected = [vec![1; 512], vec![2; 512], vec![3; 4096], vec![1; 3072]].concat();
        assert_eq!(bench.content(), expected, "seed {seed}");
    }
}

#[test]
fn a_zeroed_sector_is_not_brought_back_by_a_write_of_its_neighbour() {
    for seed in 0..100 {
        let mut bench = Bench::new(seed, &[1; 4096], 4096);
        let node = bench.file(Some(4096));
        let zero = bench.begin(0, &node, bare(Kind::Zero { unmap: false }, 0, 512));
        let write = bench.begin(1, &node, write(512, &[2; 512]));
        bench.finish(&[&zero, &write]);
        assert_eq!(bench.content()[..1024], [[0; 512], [2; 512]].concat(), "seed {seed}");
    }
}
