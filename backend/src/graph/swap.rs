//! Another node takes a node's place, while guests run: whoever came to the one comes to the other.
//!
//! Exports are led by their doors, nodes above by the link to what is below. Both nodes are in use for all of them from
//! when it is prepared until nobody is under way to the first one any more. Knows no jobs and no snapshots.

use super::moved::Moved;
use super::{Graph, reaches};
use crate::epoch::Passage;
use crate::error::GraphError;
use crate::node::options::{Backing, ChildRef, DriverOptions};
use crate::node::{Door, Driver, Node, NodeOptions, Released};
use crate::reactor::Handle;
use std::sync::Arc;

/// Between two looks whether requests have ended, in nanoseconds.
const LOOK_NS: u64 = 100_000;

/// A node that is about to take another one's place.
pub struct Swap {
    from: Arc<Node>,
    to: Arc<Node>,
    doors: Vec<Led>,
    parents: Vec<Parent>,
    held: Vec<Arc<Node>>,
}

/// An export, with the node that it does not come to in use for it: the new one, then the old one.
struct Led {
    door: Arc<Door>,
    apart: Arc<Node>,
}

/// A node above.
struct Parent {
    node: Arc<Node>,
    edge: Edge,
    moved: Moved,
}

/// What a node is to the one above it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    File,
    Backing,
}

impl Graph {
    /// Looks who comes to `from`, and takes `to` into use for all of them. Nodes that `to` leads to stay where they are.
    /// Nothing changes before [`Swap::commit`]; if that does not come, drop it.
    ///
    /// # Errors
    /// With QEMU's texts: somebody may not come to `to`. [`GraphError::InUse`] if `from` is used by what cannot be led
    /// elsewhere.
    pub fn prepare_swap(&self, from: &Arc<Node>, to: &Arc<Node>) -> Result<Swap, GraphError> {
        let all = self.nodes();
        let mut swap =
            Swap { from: from.clone(), to: to.clone(), doors: Vec::new(), parents: Vec::new(), held: Vec::new() };
        for door in from.points().leave() {
            if door.is_writable() && to.is_read_only() {
                return Err(GraphError::ReadOnly);
            }
            to.acquire_for(door.access())?;
            swap.doors.push(Led { door, apart: to.clone() });
        }
        check_points(from, &all)?;
        for parent in all.iter().filter(|parent| !reaches(to, parent)) {
            swap.parents.extend(Parent::prepare(parent, from, to)?);
        }
        let reach = |node: &&Arc<Node>| reaches(node, from) || reaches(node, to);
        swap.held = all.iter().filter(reach).cloned().collect();
        to.points().take_seats_of(from.points());
        Ok(swap)
    }
}

/// Refuses to leave somebody behind who comes to `from` through what stands for the point in time of a job.
fn check_points(from: &Arc<Node>, all: &[Arc<Node>]) -> Result<(), GraphError> {
    let is_over = |above: &Arc<Node>, node: &Arc<Node>| above.child().is_some_and(|child| Arc::ptr_eq(&child, node));
    let stands = |node: &&Arc<Node>| matches!(node.driver(), Driver::CopyBeforeWrite(filter) if !filter.is_own());
    let comes = |filter: &&Arc<Node>| {
        let reads = |above: &Arc<Node>| matches!(above.driver(), Driver::SnapshotAccess(_));
        filter.points().has_doors() || all.iter().any(|above| is_over(above, filter) && !reads(above))
    };
    match all.iter().filter(|node| is_over(node, from)).filter(stands).find(comes) {
        Some(filter) => {
            let (name, reason) = (from.name().to_owned(), filter.busy().unwrap_or("a job's point in time is in use"));
            Err(GraphError::Busy { name, reason })
        }
        None => Ok(()),
    }
}

impl Parent {
    /// The ways from `parent` to `from`, each to lead to `to`.
    fn prepare(parent: &Arc<Node>, from: &Arc<Node>, to: &Arc<Node>) -> Result<Vec<Self>, GraphError> {
        let is = |node: Option<Arc<Node>>| node.is_some_and(|node| Arc::ptr_eq(&node, from));
        let mut ways = Vec::new();
        // What is listed for a job shows what the job copies, and leads nobody there.
        let is_listed = matches!(parent.driver(), Driver::CopyBeforeWrite(filter) if !filter.is_own());
        if is(parent.child()) && !is_listed {
            if !parent.has_movable_child() {
                return Err(GraphError::InUse(from.name().to_owned()));
            }
            let mut moved = Moved::new(Some(from.clone()), Some(to.clone()))?;
            moved.enter_file(parent)?;
            ways.push(Self { node: parent.clone(), edge: Edge::File, moved });
        }
        if let Driver::Qcow2(image) = parent.driver() {
            if is(image.data_file()) {
                return Err(GraphError::InUse(from.name().to_owned()));
            }
            if is(image.backing()) {
                let mut moved = Moved::new(Some(from.clone()), Some(to.clone()))?;
                moved.enter_backing()?;
                ways.push(Self { node: parent.clone(), edge: Edge::Backing, moved });
            }
        }
        Ok(ways)
    }

    fn commit(&mut self, to: &Arc<Node>) {
        self.node.lead_child(self.edge == Edge::Backing, to);
        self.moved.settle();
        if self.edge == Edge::Backing {
            self.node.points().tracking().forget_past();
        }
    }
}

impl Swap {
    /// What to hold for [`Swap::commit`]: both nodes and all above them.
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.held
    }

    /// Everybody comes to the other node from now on; inside [`crate::node::points::hold`] of [`Swap::nodes`].
    pub fn commit(&mut self) {
        for led in &mut self.doors {
            if led.door.lead(&self.to) {
                led.apart = self.from.clone();
            }
        }
        self.parents.iter_mut().for_each(|parent| parent.commit(&self.to));
    }

    /// After the hold: waits until all that was under way has ended, and gives the first node back. Nobody is under way
    /// to it for those who came to it before.
    pub async fn conclude(mut self, graph: &Graph, io: &Handle) {
        let _released = Released::of([&self.from]);
        let seats = self.from.points().seats();
        let mut passage = Passage::with_flushes(seats);
        while !passage.is_over() {
            io.sleep_until(io.read_clock().saturating_add(LOOK_NS)).await;
        }
        for Parent { node, moved, .. } in std::mem::take(&mut self.parents) {
            moved.leave(&node);
        }
        for node in &self.held {
            graph.follow_length(node);
        }
        if self.from.length() != self.to.length() {
            graph.tell(&self.to);
        }
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        self.doors.iter().for_each(|led| led.apart.release_for(led.door.access()));
        self.from.points().stay();
    }
}

impl Node {
    /// Whether what is below it can be another node.
    fn has_movable_child(&self) -> bool {
        let own = |driver: &Driver| matches!(driver, Driver::Raw(_) | Driver::Qcow2(_));
        own(self.driver()) || matches!(self.driver(), Driver::BlkDebug(_) | Driver::Throttle(_) | Driver::Passing(_))
    }

    /// Has `to` below it, as backing or as file, also as far as its options tell; inside
    /// [`crate::node::points::hold`].
    pub fn lead_child(&self, backing: bool, to: &Arc<Node>) {
        match self.driver() {
            Driver::Raw(raw) => raw.lead(to),
            Driver::BlkDebug(filter) => filter.lead(to),
            Driver::Throttle(filter) => filter.lead(to),
            Driver::Passing(filter) => filter.lead(to),
            Driver::Qcow2(image) if backing => image.change_backing(Some(to.clone())),
            Driver::Qcow2(image) => image.change_file(to.clone()),
            _ => return,
        }
        self.change_options(|options| relink(options, backing, ChildRef::Name(to.name().to_owned())));
    }
}

/// Says of another node what is below.
fn relink(options: &mut NodeOptions, backing: bool, child: ChildRef) {
    match (&mut options.driver, backing) {
        (DriverOptions::Qcow2(qcow2), true) => qcow2.backing = Backing::Node(child),
        (driver, _) => driver.file_mut().into_iter().for_each(|file| *file = child.clone()),
    }
}
