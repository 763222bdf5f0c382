//! The way from a node to the one below it. It may come to lead to another one, any number of times.
//!
//! Most never do, and those are as fast as if they could not. Who has looked a node up keeps it as long as he needs it;
//! no request is told of a change while it is under way. Changed inside [`super::points::hold`].

use super::Node;
use arc_swap::{ArcSwapOption, Guard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The way to a node.
pub struct Link {
    first: Arc<Node>,
    moved: AtomicBool,
    other: ArcSwapOption<Node>,
}

impl Link {
    /// To this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { first: node, moved: AtomicBool::new(false), other: ArcSwapOption::empty() }
    }

    /// Looks at the node it leads to, which is not to be kept.
    #[inline]
    pub fn with<R>(&self, look: impl FnOnce(&Arc<Node>) -> R) -> R {
        if self.moved.load(Ordering::Acquire) { self.with_other(look) } else { look(&self.first) }
    }

    #[cold]
    fn with_other<R>(&self, look: impl FnOnce(&Arc<Node>) -> R) -> R {
        match self.other.load().as_ref() {
            Some(node) => look(node),
            // It has just been led back.
            None => look(&self.first),
        }
    }

    /// The node it leads to.
    pub fn get(&self) -> Arc<Node> {
        self.with(Arc::clone)
    }

    /// From now on to this one.
    pub(crate) fn change(&self, node: Arc<Node>) {
        let moved = !Arc::ptr_eq(&self.first, &node);
        if moved {
            self.other.store(Some(node));
        }
        self.moved.store(moved, Ordering::Release);
        if !moved {
            self.other.store(None);
        }
    }
}

/// The way to a node that there may be.
pub struct MaybeLink(ArcSwapOption<Node>);

/// A node that a request has looked up.
pub type Found = Guard<Option<Arc<Node>>>;

impl MaybeLink {
    /// To this node, or to none.
    pub fn new(node: Option<Arc<Node>>) -> Self {
        Self(ArcSwapOption::from(node))
    }

    /// What it leads to, for one request.
    #[inline]
    pub fn look(&self) -> Found {
        self.0.load()
    }

    /// The node it leads to.
    pub fn get(&self) -> Option<Arc<Node>> {
        self.0.load_full()
    }

    /// Whether it leads anywhere.
    pub fn is_some(&self) -> bool {
        self.0.load().is_some()
    }

    /// From now on to this one, or to none.
    pub(crate) fn change(&self, node: Option<Arc<Node>>) {
        self.0.store(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::options::{DriverOptions, NullOptions};
    use crate::node::{Driver, NodeOptions, Null};

    fn node() -> Arc<Node> {
        let null = NullOptions { size: 0, read_zeroes: false, latency_ns: 0 };
        let options = NodeOptions::new(DriverOptions::Null(null.clone()));
        Arc::new(Node::new(String::new(), true, &options, 0, Driver::Null(Null::new(null))))
    }

    #[test]
    fn a_link_leads_where_it_was_led_last_and_keeps_nothing_else_but_where_it_led_first() {
        let nodes: Vec<_> = (0..1000).map(|_| node()).collect();
        let (link, maybe) = (Link::new(nodes[0].clone()), MaybeLink::new(None));
        for node in nodes.iter().chain(&nodes[..1]) {
            link.change(node.clone());
            maybe.change(Some(node.clone()));
            assert!(Arc::ptr_eq(&link.get(), node) && link.with(|found| Arc::ptr_eq(found, node)));
            assert!(maybe.look().as_ref().is_some_and(|found| Arc::ptr_eq(found, node)));
        }
        maybe.change(None);
        assert!(!maybe.is_some() && maybe.get().is_none());
        let kept = nodes.iter().filter(|node| Arc::strong_count(node) > 1).count();
        assert_eq!((kept, Arc::strong_count(&nodes[0])), (1, 2));
    }
}
