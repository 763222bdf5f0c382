//! Writes to the node below that were under way when the image was put over it: none of them is done when the image
//! begins, so that whoever copies from there has to wait until they are.
//!
//! Guests' reads need not wait: a write that has not ended may or may not be seen. A copy is forever, and would hide it.

use crate::epoch::Grace;
use crate::reactor::Handle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The shortest and the longest time between two looks, in nanoseconds.
const LOOK_NS: [u64; 2] = [10_000, 1_000_000];

/// Whether writes from before are under way below.
#[derive(Default)]
pub struct Settling {
    waits: AtomicBool,
    /// Which; `None` as long as that is not known.
    grace: Mutex<Option<Grace>>,
}

impl Settling {
    /// There are some; inside [`crate::node::points::hold`] of whoever makes them. Followed by [`Settling::settle`].
    pub fn begin(&self) {
        self.waits.store(true, Ordering::Release);
    }

    /// They are those of `grace`.
    pub fn settle(&self, grace: Grace) {
        *self.grace() = Some(grace);
    }

    /// Waits until none is.
    pub async fn over(&self, io: &Handle) {
        let [mut pause, longest] = LOOK_NS;
        while self.waits.load(Ordering::Acquire) && !self.look() {
            io.sleep_until(io.read_clock().saturating_add(pause)).await;
            pause = (pause * 2).min(longest);
        }
    }

    fn look(&self) -> bool {
        let mut grace = self.grace();
        let over = grace.as_ref().is_some_and(Grace::is_over);
        if over {
            *grace = None;
            self.waits.store(false, Ordering::Release);
        }
        over
    }

    fn grace(&self) -> MutexGuard<'_, Option<Grace>> {
        self.grace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
