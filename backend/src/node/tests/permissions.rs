//! Users who come at one moment.

use crate::graph::Graph;
use crate::io::lock::Access;
use crate::node::options::{DriverOptions, NullOptions};
use crate::node::{Door, NodeOptions, Permissions, Stake};
use std::sync::Barrier;
use std::thread;

#[test]
fn of_an_export_and_a_job_that_conflict_one_is_refused_whenever_they_come() {
    let graph = Graph::new();
    let null = NullOptions { size: 1 << 20, read_zeroes: false, latency_ns: 0 };
    let options = NodeOptions { node_name: Some("n".into()), ..NodeOptions::new(DriverOptions::Null(null)) };
    let node = graph.open(&options).unwrap();
    for _ in 0..500 {
        // Both hold what they got until the other has looked.
        let (start, end) = (Barrier::new(2), Barrier::new(2));
        let [export, job] = thread::scope(|scope| {
            let export = scope.spawn(|| {
                start.wait();
                let door = Door::open(&node, true);
                end.wait();
                door.is_ok()
            });
            let job = scope.spawn(|| {
                start.wait();
                let stake = node.stake(Stake::of_access(Access::Target).unshared(Permissions::ALL));
                end.wait();
                stake.is_ok()
            });
            [export.join().unwrap(), job.join().unwrap()]
        });
        assert!(export != job, "export: {export}, job: {job}");
    }
    graph.close("n").unwrap();
}
