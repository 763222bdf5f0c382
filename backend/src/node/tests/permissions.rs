//! Users who come at one moment.

use crate::graph::Graph;
use crate::io::lock::Access;
use crate::node::options::{DriverOptions, NullOptions};
use crate::node::{Door, NodeOptions, Permissions, Stake};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Enough that two come at the same moment in many of them.
const ROUNDS: usize = 20_000;

/// Where two threads wait for each other without sleeping, so that they go on within nanoseconds.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    fn wait(&self) {
        let next = self.0.fetch_add(1, Ordering::AcqRel) / 2 * 2 + 2;
        // The other one may have no processor at the moment.
        for spins in 1.. {
            match self.0.load(Ordering::Acquire) {
                there if there >= next => break,
                _ if spins % 4096 == 0 => thread::yield_now(),
                _ => spin_loop(),
            }
        }
    }

    fn come_at_once(&self, come: &dyn Fn() -> bool) -> bool {
        self.wait();
        come()
    }

    /// Keeps what somebody got until the other has looked, too.
    fn holds<T>(&self, got: Option<T>) -> bool {
        self.wait();
        got.is_some()
    }
}

#[test]
fn of_an_export_and_a_job_that_conflict_one_is_refused_whenever_they_come() {
    let graph = Graph::new();
    let null = NullOptions { size: 1 << 20, read_zeroes: false, latency_ns: 0 };
    let options = NodeOptions { node_name: Some("n".into()), ..NodeOptions::new(DriverOptions::Null(null)) };
    let node = graph.open(&options).unwrap();
    let meeting = Meeting::default();
    let rounds = |come: &dyn Fn() -> bool| -> Vec<bool> { (0..ROUNDS).map(|_| meeting.come_at_once(come)).collect() };
    let target = || Stake::of_access(Access::Target).unshared(Permissions::ALL);
    let [exports, jobs] = thread::scope(|scope| {
        let export = scope.spawn(|| rounds(&|| meeting.holds(Door::open(&node, true).ok())));
        let job = scope.spawn(|| rounds(&|| meeting.holds(node.stake(target()).ok())));
        [export.join().unwrap(), job.join().unwrap()]
    });
    let both = exports.iter().zip(&jobs).filter(|(export, job)| export == job).count();
    assert_eq!(both, 0, "of {ROUNDS} rounds both came, or neither");
    graph.close("n").unwrap();
}
