//! Driver `throttle`: a filter whose requests keep to the limits of a group, which other nodes may share.
//!
//! A request that is over a limit is a task that waits; it never blocks its thread. Flushes pass. Whoever waits for
//! requests to end has them pass before their time ([`Released`]), as QEMU does: they are paid for afterwards. Which names
//! groups have, and who changes their limits, is not known here.

mod bucket;
mod group;
mod limits;
mod line;
#[cfg(test)]
mod tests;

pub use bucket::Limit;
pub use group::ThrottleGroup;
pub use limits::{LimitsError, Rates, ThrottleLimits};

use super::link::Link;
use super::options::ThrottleOptions;
use super::{Driver, Map, Node, Outcome, Request};
use crate::error::GraphError;
use crate::reactor::Handle;
use arc_swap::ArcSwap;
use group::Member;
use limits::Way;
use std::sync::Arc;

/// A node of a group.
pub struct Throttle {
    child: Link,
    member: ArcSwap<Member>,
}

impl Throttle {
    /// A filter over `child`.
    ///
    /// # Errors
    /// There is no such group.
    pub fn new(child: Arc<Node>, options: &ThrottleOptions) -> Result<Self, GraphError> {
        let member = ArcSwap::from_pointee(Member::new(group_of(options)?));
        Ok(Self { child: Link::new(child), member })
    }

    /// The node below.
    pub fn child(&self) -> Arc<Node> {
        self.child.get()
    }

    /// The group that it is in.
    pub fn group(&self) -> Arc<ThrottleGroup> {
        self.member().group().clone()
    }

    /// Over another node; inside [`crate::node::points::hold`].
    pub(crate) fn lead(&self, child: &Arc<Node>) {
        self.child.change(child.clone());
    }

    /// In the group of these options from now on. Requests that wait in the one before have their time from there.
    pub(crate) fn change(&self, options: &ThrottleOptions) {
        if let Some(group) = options.group.as_ref().filter(|group| !Arc::ptr_eq(&self.group(), group)) {
            self.member.swap(Arc::new(Member::new(group.clone()))).leave();
        }
    }

    /// In no group any more: the node is closed, though somebody may still look at it.
    pub(super) fn leave(&self) {
        self.member.load().leave();
    }

    fn member(&self) -> Arc<Member> {
        self.member.load_full()
    }

    #[inline(never)]
    pub(super) fn map(&self, request: &Request, offset: u64) -> Map {
        match Way::of(request.kind) {
            Some(way) if self.member.load().limits_any(way) => Map::Task,
            _ => self.child.with(|child| child.map_at(request, offset)),
        }
    }

    pub(super) async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        // Its own from before it waits: no request is told of a change while it is under way.
        let (child, member) = (self.child(), self.member());
        if let Some(way) = Way::of(request.kind)
            && member.limits_any(way)
        {
            member.pass(io, way, request.len).await;
        }
        child.handle(io, request).await
    }
}

/// The group that a node's options name.
///
/// # Errors
/// There is none.
pub(crate) fn group_of(options: &ThrottleOptions) -> Result<Arc<ThrottleGroup>, GraphError> {
    let missing = || GraphError::Options(format!("Throttle group '{}' does not exist", options.group_name));
    options.group.clone().ok_or_else(missing)
}

/// As long as this lives, nothing waits at the throttles that requests to some nodes come through.
#[derive(Default)]
pub struct Released(Vec<Arc<Member>>);

impl Released {
    /// Below these nodes, and where points in time of them are kept.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Arc<Node>>) -> Self {
        let mut found: Vec<Arc<Node>> = Vec::new();
        nodes.into_iter().for_each(|node| add(&mut found, node));
        let members: Vec<_> = found.iter().filter_map(|node| node.throttle()).map(Throttle::member).collect();
        members.iter().for_each(|member| member.release());
        Self(members)
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.0.iter().for_each(|member| member.hold_back());
    }
}

/// Adds a node and all that its requests may reach, each once.
fn add(found: &mut Vec<Arc<Node>>, node: &Arc<Node>) {
    if found.iter().any(|other| Arc::ptr_eq(other, node)) {
        return;
    }
    found.push(node.clone());
    node.adopted().for_each(|child| add(found, &child));
    let kept = match node.driver() {
        Driver::CopyBeforeWrite(filter) => Some(filter.copy().target().clone()),
        _ => None,
    };
    let hooks = node.points().hooks();
    hooks.copies.iter().map(|copy| copy.target().clone()).chain(kept).for_each(|target| add(found, &target));
}

impl Node {
    fn throttle(&self) -> Option<&Throttle> {
        match self.driver() {
            Driver::Throttle(throttle) => Some(throttle),
            _ => None,
        }
    }
}
