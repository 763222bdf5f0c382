//! What a node has hanging on its requests, and who has to be held to change that.
//!
//! Hooks are replaced as a whole, under a hold of every seat that reaches the node. Whoever takes a seat does so before
//! it looks at the hooks, so it is either held or sees the new ones. A seat is known to every node that its requests may
//! reach, also to those below images, where nothing hangs that it minds.

use super::copy_before_write::CopyBeforeWrite;
use super::gate::Gate;
use super::mirroring::Mirroring;
use super::qcow2::image::Image;
use super::recording::Recording;
use super::{Door, Driver, Node};
use crate::bitmaps::{NotKept, Tracking};
use crate::epoch::{Grace, Hold, Seat};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tidemark_cbt::Granularity;
use tidemark_cbt::journal::Areas;

/// A hold that is not complete by then is given up.
const HOLD_MAX: Duration = Duration::from_millis(50);

/// What a changing request has to mind.
#[derive(Default)]
pub struct Hooks {
    /// What is recorded of it.
    pub(super) recording: Arc<Recording>,
    /// Copies that a write must not overtake.
    pub(super) copies: Vec<Arc<CopyBeforeWrite>>,
    /// Gates that it has to pass.
    pub(super) gates: Vec<Arc<Gate>>,
    /// Mirrors that get what changes.
    pub(super) mirrors: Vec<Arc<Mirroring>>,
    /// Nodes that are flushed whenever this one is.
    pub(super) flushed_along: Vec<Arc<Node>>,
}

/// The hooks of one node, what they are made of, and the seats of the roots that reach it.
#[derive(Default)]
pub struct Points {
    tracking: Tracking,
    copies: Mutex<Vec<Arc<CopyBeforeWrite>>>,
    gates: Mutex<Vec<Arc<Gate>>>,
    mirrors: Mutex<Vec<Arc<Mirroring>>>,
    flushed_along: Mutex<Vec<Arc<Node>>>,
    areas: Mutex<Option<Arc<Areas>>>,
    hooks: Mutex<Arc<Hooks>>,
    seats: Mutex<Vec<Weak<Seat>>>,
    doors: Mutex<Doors>,
}

/// The exports of a node.
#[derive(Default)]
struct Doors {
    open: Vec<Weak<Door>>,
    /// Another node takes this one's place: no more come.
    leaving: bool,
}

impl Points {
    /// The node's named bitmaps. Whoever changes what they record does so inside [`hold`].
    pub fn tracking(&self) -> &Tracking {
        &self.tracking
    }

    /// Puts a copy in the way of writes; inside [`hold`], or before the node has roots.
    pub(super) fn add_copy(&self, copy: Arc<CopyBeforeWrite>) {
        locked(&self.copies).push(copy);
    }

    /// Takes it out of the way; inside [`hold`].
    pub(super) fn remove_copy(&self, copy: &Arc<CopyBeforeWrite>) {
        locked(&self.copies).retain(|other| !Arc::ptr_eq(other, copy));
    }

    /// Puts a gate in the way of whatever changes something; inside [`hold`].
    pub fn add_gate(&self, gate: Arc<Gate>) {
        locked(&self.gates).push(gate);
    }

    /// Takes it away; inside [`hold`].
    pub fn remove_gate(&self, gate: &Arc<Gate>) {
        locked(&self.gates).retain(|other| !Arc::ptr_eq(other, gate));
    }

    /// Has a mirror get what changes; inside [`hold`].
    pub(super) fn add_mirror(&self, mirror: Arc<Mirroring>) {
        locked(&self.mirrors).push(mirror);
    }

    /// It gets it no longer; inside [`hold`].
    pub(super) fn remove_mirror(&self, mirror: &Arc<Mirroring>) {
        locked(&self.mirrors).retain(|other| !Arc::ptr_eq(other, mirror));
    }

    /// Has `node` flushed whenever this one is, and whenever something is to be stable here; inside [`hold`].
    pub fn flush_along(&self, node: Arc<Node>) {
        locked(&self.flushed_along).push(node);
    }

    /// Undoes one [`Points::flush_along`]; inside [`hold`].
    pub fn flush_alone(&self, node: &Arc<Node>) {
        let mut nodes = locked(&self.flushed_along);
        let position = nodes.iter().position(|other| Arc::ptr_eq(other, node));
        position.into_iter().for_each(|position| drop(nodes.swap_remove(position)));
    }

    /// Has changing requests covered by the change journal that an image keeps now, if it keeps one and has a bitmap to
    /// keep it for, or has kept it so far; inside [`hold`], or before the node has roots.
    pub(super) fn keep_changes(&self, image: &Image) {
        let needed = self.needs_changes(image) || locked(&self.areas).is_some();
        let journal = image.changes().journal().filter(|_| needed);
        journal.iter().for_each(|journal| journal.begin_covering());
        *locked(&self.areas) = journal.map(|journal| journal.areas());
    }

    /// Has them wait for no journal any more, if there is no bitmap to keep it for; inside [`hold`].
    fn end_changes(&self, image: &Image) {
        if !self.needs_changes(image) {
            *locked(&self.areas) = None;
        }
    }

    /// Whether a crash would lose something without the journal. A bitmap that has left the node counts as long as the
    /// file has it.
    fn needs_changes(&self, image: &Image) -> bool {
        self.tracking.has_persistent() || image.has_stored_bitmaps()
    }

    /// What requests mind from now on.
    pub(super) fn hooks(&self) -> Arc<Hooks> {
        locked(&self.hooks).clone()
    }

    /// Makes the hooks what tracking and copies say.
    pub(super) fn refresh(&self) {
        let (copies, areas) = (locked(&self.copies).clone(), locked(&self.areas).clone());
        let recording = Recording::new(self.tracking.recording(), areas, &self.hooks().recording);
        let gates = locked(&self.gates).clone();
        let (mirrors, flushed_along) = (locked(&self.mirrors).clone(), locked(&self.flushed_along).clone());
        let hooks = Hooks { recording, copies, gates, mirrors, flushed_along };
        *locked(&self.hooks) = Arc::new(hooks);
    }

    /// An export comes to the node.
    ///
    /// # Errors
    /// Another node is taking this one's place.
    pub(super) fn add_door(&self, door: &Arc<Door>) -> Result<(), NotHeld> {
        let mut doors = locked(&self.doors);
        if doors.leaving {
            return Err(NotHeld);
        }
        doors.take(door);
        Ok(())
    }

    /// Whether exports come to the node.
    pub(crate) fn has_doors(&self) -> bool {
        locked(&self.doors).open.iter().any(|door| door.strong_count() > 0)
    }

    /// An export is led to the node.
    pub(super) fn take_door(&self, door: &Arc<Door>) {
        locked(&self.doors).take(door);
    }

    /// An export is led away.
    pub(super) fn forget_door(&self, door: &Arc<Door>) {
        locked(&self.doors).open.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(door)));
    }

    /// The exports of the node; none comes before [`Points::stay`].
    pub(crate) fn leave(&self) -> Vec<Arc<Door>> {
        let mut doors = locked(&self.doors);
        doors.leaving = true;
        doors.open.iter().filter_map(Weak::upgrade).collect()
    }

    /// Exports may come again.
    pub(crate) fn stay(&self) {
        locked(&self.doors).leaving = false;
    }

    /// Who reaches `other` reaches this node from now on; inside [`hold`] of both.
    pub(crate) fn take_seats_of(&self, other: &Points) {
        other.seats().iter().for_each(|seat| self.take_seat(seat));
    }

    /// The seats of all roots that reach the node.
    pub fn seats(&self) -> Vec<Arc<Seat>> {
        living(&locked(&self.seats))
    }

    /// A root reaches the node, if that is not known.
    pub(super) fn take_seat(&self, seat: &Arc<Seat>) {
        let mut seats = locked(&self.seats);
        seats.retain(|seat| seat.strong_count() > 0);
        if !seats.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(seat))) {
            seats.push(Arc::downgrade(seat));
        }
    }
}

impl Doors {
    fn take(&mut self, door: &Arc<Door>) {
        self.open.retain(|door| door.strong_count() > 0);
        self.open.push(Arc::downgrade(door));
    }
}

/// A node and all below it that its changing requests reach.
pub(super) fn chain(node: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> + use<> {
    std::iter::successors(Some(node.clone()), |node| match node.driver() {
        // Where an image's clusters are is its own matter.
        Driver::SnapshotAccess(_) | Driver::Qcow2(_) => None,
        _ => node.child(),
    })
}

/// A node and all below it that any request to it may reach.
pub(super) fn reached(node: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut found = vec![node.clone()];
    let mut at = 0;
    while let Some(node) = found.get(at) {
        for below in node.adopted().collect::<Vec<_>>() {
            if !found.iter().any(|other| Arc::ptr_eq(other, &below)) {
                found.push(below);
            }
        }
        at += 1;
    }
    found
}

/// Nobody's requests to these nodes had ended, or somebody did not leave the stamp section in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHeld;

/// The requests from before the last hold of any of these nodes.
pub fn grace(nodes: &[Arc<Node>]) -> Grace {
    Grace::of(nodes.iter().flat_map(|node| living(&locked(&node.points.seats))).collect())
}

/// Runs `edit` while no root that reaches one of `nodes` stamps a request, and lets all go on with the hooks as they
/// are then. Waits for no I/O. What the requests from before still do is over when the grace is.
///
/// # Errors
/// [`NotHeld`] when the last grace is not over or a root stayed in its stamp section for 50 ms; nothing has happened.
pub fn hold(nodes: &[Arc<Node>], edit: &mut dyn FnMut()) -> Result<Grace, NotHeld> {
    let guards: Vec<_> = nodes.iter().map(|node| locked(&node.points.seats)).collect();
    let mut seats: Vec<Arc<Seat>> = Vec::new();
    for seat in guards.iter().flat_map(living) {
        if !seats.iter().any(|other| Arc::ptr_eq(other, &seat)) {
            seats.push(seat);
        }
    }
    if !Grace::of(seats.clone()).is_over() {
        return Err(NotHeld);
    }
    let deadline = Instant::now() + HOLD_MAX;
    let patient = || {
        std::thread::yield_now();
        Instant::now() < deadline
    };
    let hold = Hold::begin(seats.clone(), patient).ok_or(NotHeld)?;
    edit();
    nodes.iter().for_each(|node| node.points.refresh());
    let grace = hold.release();
    // Whoever sleeps lets go of what it had in view.
    seats.iter().for_each(|seat| seat.nudge());
    Ok(grace)
}

fn living(seats: &MutexGuard<'_, Vec<Weak<Seat>>>) -> Vec<Arc<Seat>> {
    seats.iter().filter_map(Weak::upgrade).collect()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes from a node's beginning to where its child's bytes of the same content are.
pub(super) fn shift(node: &Node) -> u64 {
    match node.driver() {
        Driver::Raw(raw) => raw.offset(),
        _ => 0,
    }
}

impl Node {
    /// Has requests covered by the change journal that the node's image keeps now, if it keeps one; inside [`hold`].
    pub fn keep_changes(&self) {
        if let Driver::Qcow2(image) = self.driver() {
            self.points.keep_changes(image);
        }
    }

    /// Has requests wait for no change journal any more, if the last bitmap that it was kept for is gone from the node
    /// and from the file, stably; inside [`hold`].
    pub fn end_changes(&self) {
        if let Driver::Qcow2(image) = self.driver() {
            self.points.end_changes(image);
        }
    }
}

impl crate::bitmaps::Tracked for Node {
    fn name(&self) -> &str {
        Node::name(self)
    }

    fn length(&self) -> u64 {
        Node::length(self)
    }

    fn tracking(&self) -> &Tracking {
        &self.points.tracking
    }

    fn cluster_size(&self) -> Option<u64> {
        match self.driver() {
            Driver::Qcow2(image) => Some(image.cluster_size()),
            _ => None,
        }
    }

    fn check_storable(&self, name: &str, granularity: Granularity, others: &[&str]) -> Result<(), NotKept> {
        let Driver::Qcow2(image) = self.driver() else { return Err(NotKept::Never) };
        let granularity_bits = u8::try_from(granularity.bits()).unwrap_or(u8::MAX);
        let storable = image.check_storable(name, granularity_bits, others.iter().copied());
        storable.map_err(|reason| NotKept::Refused(reason.to_string()))
    }
}
