//! Points in time on the job thread: holds that are tried again, graces that are waited for.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use tidemark_backend::epoch;
pub use tidemark_backend::node::points::NotHeld;
use tidemark_backend::node::points::{grace, hold as try_hold};
use tidemark_backend::node::{Node, Released};
use tidemark_backend::reactor::Handle;

/// Holds that may fail before a command does.
const TRIES: u32 = 3;
/// The shortest and the longest time between two looks at a grace, in nanoseconds.
const LOOK_NS: [u64; 2] = [10_000, 1_000_000];

/// The requests from before a hold. Until they are over, none of them waits at a throttle.
pub struct Grace {
    requests: epoch::Grace,
    released: RefCell<Released>,
}

impl Deref for Grace {
    type Target = epoch::Grace;

    fn deref(&self) -> &epoch::Grace {
        &self.requests
    }
}

/// Adds a node to those that are to be held, once.
pub fn add(nodes: &mut Vec<Arc<Node>>, node: &Arc<Node>) {
    if !nodes.iter().any(|other| Arc::ptr_eq(other, node)) {
        nodes.push(node.clone());
    }
}

/// Holds the nodes when the requests from before their last hold have ended, and runs `edit` then.
///
/// # Errors
/// [`NotHeld`] if it did not succeed in three tries of 50 ms; `edit` has not run.
pub async fn hold(io: &Handle, nodes: &[Arc<Node>], edit: &mut dyn FnMut()) -> Result<Grace, NotHeld> {
    let released = Released::of(nodes);
    for _ in 0..TRIES {
        // Roots may come meanwhile, and have been held by somebody else: look again.
        while !grace(nodes).is_over() {
            wait(io, &grace(nodes)).await;
        }
        let started = io.read_clock();
        let held = try_hold(nodes, edit);
        let micros = io.read_clock().saturating_sub(started) / 1000;
        tracing::debug!(target: "hold", micros, nodes = nodes.len(), held = held.is_ok(), "point in time");
        if let Ok(requests) = held {
            return Ok(Grace { requests, released: RefCell::new(released) });
        }
    }
    Err(NotHeld)
}

/// As [`hold`], for what must not fail: tries until it succeeds.
pub async fn hold_in_the_end(io: &Handle, nodes: &[Arc<Node>], edit: &mut dyn FnMut()) -> Grace {
    loop {
        if let Ok(grace) = hold(io, nodes, edit).await {
            return grace;
        }
        tracing::warn!("a point in time could not be made yet: a queue does not leave its critical section");
    }
}

/// Waits until a grace is over.
pub async fn over(io: &Handle, grace: &Grace) {
    wait(io, &grace.requests).await;
    grace.released.take();
}

async fn wait(io: &Handle, grace: &epoch::Grace) {
    let [mut pause, longest] = LOOK_NS;
    while !grace.is_over() {
        io.sleep_until(io.read_clock().saturating_add(pause)).await;
        pause = (pause * 2).min(longest);
    }
}
