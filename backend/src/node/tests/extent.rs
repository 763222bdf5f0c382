//! Data and holes of files.

use super::bench::Bench;
use crate::node::{Kind, Status};

const MIB: u64 = 1 << 20;

#[test]
fn what_was_data_is_a_hole_when_one_was_made_there() {
    for kind in [Kind::Zero { unmap: true }, Kind::Discard] {
        let mut bench = Bench::new(1, &vec![1; 1 << 20], 1);
        let node = bench.file(None);
        assert_eq!(bench.status(&node, 0, MIB).unwrap(), Status::data(MIB));
        assert_eq!(bench.status(&node, MIB / 2, 4096).unwrap(), Status::data(4096));
        assert_eq!(bench.status(&node, 0, 4096).unwrap(), Status::data(4096), "no more than was asked");
        bench.bare(&node, kind, 0, MIB).unwrap();
        assert_eq!(bench.status(&node, MIB / 2, 4096).unwrap(), Status::zeroes(4096), "{kind:?}");
    }
}
