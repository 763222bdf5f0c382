//! A root: one user's way to a node, on one thread. Whatever comes through it belongs to one side of every point in
//! time, is marked in the bitmaps of its side and waits for the copies that it must not overtake.
//!
//! Where it leads to is looked up with what hangs there, so that a request goes to the node of its side to its end, even
//! if another node has taken that one's place since. Every request is counted until it has ended, also one that only
//! reads: what nobody counted is in may be closed or used anew.
//!
//! A changing request marks its range when it is stamped: so a bitmap that was swapped out is complete at once. Whoever
//! reads one waits for the grace first, and then finds what was marked on the disk, too.

#[cfg(any(test, feature = "sim"))]
mod sim;

use super::copy_before_write::CopyBeforeWrite;
use super::mirroring::Active;
use super::points::reached;
use super::view::View;
use super::{Door, Kind, Map, Node, Outcome, Released, Request};
use crate::epoch::{Seat, Traffic, parity};
use crate::error::IoError;
use crate::io::Memory;
use crate::reactor::{EventBell, Handle};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// One user's way to a node.
pub struct Root {
    way: Way,
    seat: Arc<Seat>,
    epoch: Cell<u64>,
    view: RefCell<Rc<View>>,
    /// Changing requests under way, by the epoch's parity.
    changes: [Cell<u64>; 2],
    /// All requests but flushes, by round.
    passing: [Cell<u64>; 2],
    /// Flushes under way, by rounds of their own.
    flushes: [Cell<u64>; 2],
    hurried: Cell<bool>,
    /// Throttles that nothing waits for any more.
    released: RefCell<Released>,
}

/// Where a root leads.
enum Way {
    /// Always to the same node.
    Node(Arc<Node>),
    /// Where its export's door does.
    Door(Arc<Door>),
}

/// The epoch and round of a request under way; to be given back to [`Root::end`]. The default is that of a request that
/// does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(u8);

impl Stamp {
    /// A changing request; the next bit is its epoch's parity.
    const CHANGE: u8 = 1;
    /// One that counts in rounds; the next bit is its round's parity.
    const PASS: u8 = 4;
    /// A flush; the next bit is its round's parity.
    const FLUSH: u8 = 16;

    /// Also counted as `what`, on the side of `parity`.
    #[inline]
    fn with(self, what: u8, parity: usize) -> Self {
        let odd = if parity & 1 == 0 { 0 } else { what << 1 };
        Self(self.0 | what | odd)
    }

    /// The parity on whose side it is counted as `what`.
    #[inline]
    fn side(self, what: u8) -> Option<usize> {
        (self.0 & what != 0).then_some(usize::from(self.0 & what << 1 != 0))
    }
}

impl Root {
    /// Through `door`, for a thread that sleeps: its bell has it look when something hangs there or no longer does.
    pub fn of_sleeper(door: &Arc<Door>, bell: Arc<EventBell>) -> Rc<Self> {
        Self::seated(Way::Door(door.clone()), Seat::new(Some(Box::new(move || bell.call()))))
    }

    /// To `node`, for a thread that is awake often enough.
    pub fn new(node: &Arc<Node>) -> Rc<Self> {
        Self::seated(Way::Node(node.clone()), Seat::new(None))
    }

    fn seated(way: Way, seat: Arc<Seat>) -> Rc<Self> {
        let root = Self {
            epoch: Cell::new(seat.epoch()),
            seat,
            view: RefCell::new(Rc::new(View::bare(way.node()))),
            way,
            changes: Default::default(),
            passing: Default::default(),
            flushes: Default::default(),
            hurried: Cell::new(false),
            released: RefCell::default(),
        };
        root.look();
        Rc::new(root)
    }

    /// The node that it leads to now.
    pub fn node(&self) -> Arc<Node> {
        self.way.node()
    }

    /// What counts as a request as long as it lives, for whoever asks the node for something else.
    pub fn visit(&self) -> Visit<'_> {
        let section = self.enter();
        let stamp = section.pass(Stamp::default());
        Visit { node: section.view.node().clone(), _under_way: UnderWay { root: self, stamp } }
    }

    /// Lets no request wait for a copy much longer, nor for a throttle, because its user is to end.
    pub fn hurry(&self) {
        self.hurried.set(true);
        *self.released.borrow_mut() = Released::of([&self.way.node()]);
    }

    /// Whether waiting for copies is to end.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurried.get()
    }

    /// Looks what hangs on the nodes, if that may have changed. Not inside a section.
    #[inline]
    pub fn refresh(&self) {
        if self.seat.epoch() != self.epoch.get() {
            self.look();
        }
    }

    #[cold]
    fn look(&self) {
        // Before it looks: what changes after that moves the epoch on once more.
        let epoch = self.seat.epoch();
        let node = self.sit_down();
        let view = View::new(&node, &self.view.borrow());
        *self.view.borrow_mut() = Rc::new(view);
        self.epoch.set(epoch);
    }

    /// Takes a seat at every node that it reaches; the first one of them. A seat that is taken is held by whoever leads the
    /// way elsewhere after that, so that another look tells whether somebody did before.
    fn sit_down(&self) -> Arc<Node> {
        loop {
            let way = reached(&self.way.node());
            way.iter().for_each(|node| node.points.take_seat(&self.seat));
            let now = reached(&self.way.node());
            let same = way.len() == now.len() && way.iter().zip(&now).all(|(one, other)| Arc::ptr_eq(one, other));
            if let (true, Some(node)) = (same, now.first()) {
                return node.clone();
            }
        }
    }

    /// Enters the stamp section; waits while the node is held.
    #[inline]
    pub fn enter(&self) -> Section<'_> {
        loop {
            self.refresh();
            if self.seat.enter() {
                if self.seat.epoch() == self.epoch.get() {
                    return Section { root: self, view: self.view.borrow().clone(), settled: Cell::new(NOWHERE) };
                }
                self.seat.leave();
            } else {
                // A hold swaps pointers; it is over in microseconds unless its thread is not running.
                std::thread::yield_now();
            }
        }
    }

    /// A stamped request has ended, well or not.
    #[inline]
    pub fn end(&self, stamp: Stamp) {
        if let Some(half) = stamp.side(Stamp::PASS) {
            self.count_passing(half, |count| count - 1);
        }
        if let Some(parity) = stamp.side(Stamp::CHANGE) {
            self.count(parity, self.changes[parity].get() - 1);
        }
        if let Some(half) = stamp.side(Stamp::FLUSH) {
            self.count_flushes(half, |count| count - 1);
        }
    }

    #[cold]
    fn count_flushes(&self, half: usize, change: impl FnOnce(u64) -> u64) {
        let count = change(self.flushes[half].get());
        self.flushes[half].set(count);
        self.seat.set_passing(Traffic::Flushes, half, count);
    }

    #[inline]
    fn count_passing(&self, half: usize, change: impl FnOnce(u64) -> u64) {
        let count = change(self.passing[half].get());
        self.passing[half].set(count);
        self.seat.set_passing(Traffic::Requests, half, count);
    }

    #[inline]
    fn count(&self, parity: usize, count: u64) {
        self.changes[parity].set(count);
        self.seat.set_changes(parity, count);
    }

    /// Discards a range that `copy` has copied and still has claimed, so that nobody waits here for `copy`. What other
    /// points in time still need stays: a discard is advice, and two copies that waited for each other would wait for
    /// ever.
    ///
    /// # Errors
    /// The storage's.
    pub async fn discard_copied(
        &self,
        io: &Handle,
        copy: &Arc<CopyBeforeWrite>,
        range: Range<u64>,
    ) -> Result<(), IoError> {
        let (kind, offset, len) = (Kind::Discard, range.start, range.end - range.start);
        let request = Request { kind, fua: false, offset, len, memory: Memory::empty() };
        let section = self.enter();
        section.view.node().check(&request)?;
        let view = &section.view;
        if view.is_owed_to_others(&request, copy) || !view.covers(&request) || view.is_mirrored(request.kind) {
            return Ok(());
        }
        let (stamp, view) = (section.stamp(&request), section.view.clone());
        drop(section);
        let _under_way = UnderWay { root: self, stamp };
        view.handle(io, request, None).await.1
    }

    /// Runs a request to its end, whatever it has to wait for.
    pub async fn handle(&self, io: &Handle, request: Request) -> Outcome {
        let (stamp, view, active) = match self.acquire(io, &request).await {
            Ok(stamped) => stamped,
            Err(error) => return (request.memory, Err(error)),
        };
        let _under_way = UnderWay { root: self, stamp };
        view.handle(io, request, active).await
    }

    /// Waits for all that a request needs, and stamps it; with the view in which it is done.
    async fn acquire(&self, io: &Handle, request: &Request) -> Result<(Stamp, Rc<View>, Option<Active>), IoError> {
        loop {
            self.refresh();
            let view = self.view.borrow().clone();
            view.node().check(request)?;
            if request.kind.changes() {
                view.copy_before(io, request, self).await?;
                view.cover(io, request).await?;
            }
            let active = view.hold_mirrored(request).await;
            let section = self.enter();
            // The hooks may have moved while it waited.
            let view = &section.view;
            let has_all = view.mirrors_as(request.kind, active.as_ref()) && !view.owes(request) && view.covers(request);
            if !request.kind.changes() || has_all {
                return Ok((section.stamp(request), view.clone(), active));
            }
        }
    }
}

impl Way {
    fn node(&self) -> Arc<Node> {
        match self {
            Self::Node(node) => node.clone(),
            Self::Door(door) => door.node(),
        }
    }
}

/// A node that somebody asks for something: it is not closed meanwhile.
pub struct Visit<'a> {
    node: Arc<Node>,
    _under_way: UnderWay<'a>,
}

impl std::ops::Deref for Visit<'_> {
    type Target = Arc<Node>;

    fn deref(&self) -> &Arc<Node> {
        &self.node
    }
}

/// Ends a request even if its future is dropped.
struct UnderWay<'a> {
    root: &'a Root,
    stamp: Stamp,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.root.end(self.stamp);
    }
}

/// The stamp section: no point in time passes while it lasts. Short, and without waiting for anything.
pub struct Section<'a> {
    root: &'a Root,
    view: Rc<View>,
    /// Where the request begins that was looked at last and has nothing left to record.
    settled: Cell<u64>,
}

/// No request begins here.
const NOWHERE: u64 = u64::MAX;

impl Section<'_> {
    /// Where a request leads without waiting; a task if something has to be copied before.
    #[inline]
    pub fn map(&self, request: &Request) -> Map {
        let map = self.view.node().map(request);
        let moves = !matches!(map, Map::Ended(Err(_)) | Map::Task);
        if moves && request.is_stable() && self.view.flushes_along() {
            return Map::Task;
        }
        if !moves || !request.kind.changes() {
            return map;
        }
        let settled = self.view.is_settled(request);
        self.settled.set(if settled { request.offset } else { NOWHERE });
        let waits =
            self.view.owes(request) || !(settled || self.view.covers(request)) || self.view.is_mirrored(request.kind);
        if waits { Map::Task } else { map }
    }

    /// Stamps a request that is submitted now.
    #[inline]
    pub fn stamp(&self, request: &Request) -> Stamp {
        if request.kind == Kind::Flush {
            let half = self.root.seat.round(Traffic::Flushes);
            self.root.count_flushes(half, |count| count + 1);
            return Stamp::default().with(Stamp::FLUSH, half);
        }
        let mut stamp = self.pass(Stamp::default());
        if request.kind.changes() {
            if self.settled.replace(NOWHERE) != request.offset {
                self.view.mark(request.kind, request.offset, request.len);
            }
            // The section has been entered in this epoch.
            let parity = parity(self.root.epoch.get());
            self.root.count(parity, self.root.changes[parity].get() + 1);
            stamp = stamp.with(Stamp::CHANGE, parity);
        }
        stamp
    }

    /// Counts something that is under way, whatever it is.
    #[inline]
    fn pass(&self, stamp: Stamp) -> Stamp {
        let half = self.root.seat.round(Traffic::Requests);
        self.root.count_passing(half, |count| count + 1);
        stamp.with(Stamp::PASS, half)
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        self.root.seat.leave();
    }
}
