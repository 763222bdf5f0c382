//! Storage that is full in the middle of writes, and then is not.

use super::broken::rig::{Broken, CLUSTER, image};
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::node::Kind;
use std::process::Command;

#[test]
fn a_guest_is_told_that_storage_is_full_and_goes_on_when_it_is_not() {
    for seed in 0..40 {
        let mut image = Broken::open(image("cluster_size=64k"));
        let mut random = fastrand::Rng::with_seed(seed);
        let mut failed = 0;
        let mut written: Vec<(usize, u8)> = Vec::new();
        for number in 0..60u8 {
            // Some to a table of their own, some not of whole clusters.
            let at = (random.usize(0..3) << 29) + random.usize(8..40) * CLUSTER;
            let (at, len) = if random.bool() { (at, CLUSTER) } else { (at + 4096, 512) };
            image.machine.set_faults(Faults { no_space: 400, ..Faults::default() });
            match image.run_part(Kind::Write, at, len, number) {
                Ok(_) => {}
                Err(IoError::NoSpace) => {
                    failed += 1;
                    image.machine.set_faults(Faults::default());
                    image.run_part(Kind::Write, at, len, number).unwrap();
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            written.retain(|(other, _)| *other != at && *other != at + 4096);
            if len == 512 {
                written.push((at, number));
            }
            image.machine.set_faults(Faults { no_space: 400, ..Faults::default() });
            let flushed = image.run(Kind::Flush, 0, 0);
            assert!(matches!(flushed, Ok(_) | Err(IoError::NoSpace)), "seed {seed}: {flushed:?}");
        }
        assert!(failed > 0, "seed {seed}: never full");
        image.machine.set_faults(Faults::default());
        for (at, number) in written {
            assert_eq!(image.run_part(Kind::Read, at, 512, 0xee), Ok(vec![number; 512]), "seed {seed}: {at}");
        }
        image.machine.close().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, image.content()).unwrap();
        let output = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(path).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | 3)), "seed {seed}: {output:?}");
    }
}
