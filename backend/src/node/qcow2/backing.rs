//! The node below an image, which may be another one after a while. Requests look it up without a lock: what was there
//! before stays in memory until the image is closed, so that it may change a bounded number of times.

use crate::node::Node;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Changes there can be.
const CHANGES_MAX: usize = 64;

/// The node below an image, and those before it.
pub struct BackingNodes {
    nodes: [OnceLock<Option<Arc<Node>>>; CHANGES_MAX + 1],
    current: AtomicUsize,
}

impl BackingNodes {
    /// This one, or none, to begin with.
    pub fn new(node: Option<Arc<Node>>) -> Self {
        let nodes = [const { OnceLock::new() }; CHANGES_MAX + 1];
        nodes.first().into_iter().for_each(|first| drop(first.set(node.clone())));
        Self { nodes, current: AtomicUsize::new(0) }
    }

    /// The node there is now.
    #[inline]
    pub fn get(&self) -> Option<&Arc<Node>> {
        self.nodes.get(self.current.load(Ordering::Acquire))?.get()?.as_ref()
    }

    /// The node there was before that.
    pub fn last(&self) -> Option<&Arc<Node>> {
        self.nodes.get(self.current.load(Ordering::Acquire).checked_sub(1)?)?.get()?.as_ref()
    }

    /// Whether it can change once more.
    pub fn can_change(&self) -> bool {
        self.current.load(Ordering::Acquire) < CHANGES_MAX
    }

    /// From now on this one, or none. One caller at a time; false, and nothing changed, if it cannot change any more.
    pub fn change(&self, node: Option<Arc<Node>>) -> bool {
        let next = self.current.load(Ordering::Acquire) + 1;
        let changed = self.nodes.get(next).is_some_and(|place| place.set(node).is_ok());
        if changed {
            self.current.store(next, Ordering::Release);
        }
        changed
    }
}
