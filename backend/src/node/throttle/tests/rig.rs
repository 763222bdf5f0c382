//! A machine with throttled disks that have no storage: what takes time is the throttle.

use crate::graph::Graph;
use crate::io::sim::{PortId, World};
use crate::io::{Buf, Memory, Wait};
use crate::node::options::{ChildRef, Discard, DriverOptions, NullOptions, ThrottleOptions};
use crate::node::throttle::bucket::Limit;
use crate::node::throttle::{Rates, ThrottleGroup, ThrottleLimits};
use crate::node::{Kind, Node, NodeOptions, Request};
use crate::reactor::{Handle, Reactor};
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

pub const SECOND: u64 = 1_000_000_000;

/// The machine.
pub struct Rig {
    pub world: World,
    pub graph: Arc<Graph>,
    reactors: Vec<(PortId, Reactor)>,
    disks: usize,
}

/// When a request has ended.
pub type Ended = Rc<Cell<Option<u64>>>;

pub fn iops(avg: u64, max: u64, max_length: u64) -> ThrottleLimits {
    let total = Limit { avg, max, max_length };
    ThrottleLimits { iops: Rates { total, ..Rates::default() }, ..ThrottleLimits::default() }
}

pub fn group(limits: ThrottleLimits) -> Arc<ThrottleGroup> {
    ThrottleGroup::new("g".into(), limits).unwrap()
}

impl Rig {
    /// With so many threads.
    pub fn new(threads: usize) -> Self {
        let world = World::new(1);
        let reactor = |_| {
            let io = world.io(16);
            (io.port(), Reactor::new(Box::new(io)).unwrap())
        };
        let reactors = (0..threads).map(reactor).collect();
        Self { world, graph: Graph::new(), reactors, disks: 0 }
    }

    /// A disk in a group of its own.
    pub fn disk(&mut self, limits: ThrottleLimits) -> Arc<Node> {
        self.disk_of(&group(limits))
    }

    /// Another disk of a group.
    pub fn disk_of(&mut self, group: &Arc<ThrottleGroup>) -> Arc<Node> {
        self.disks += 1;
        let null = NullOptions { size: 1 << 30, read_zeroes: false, latency_ns: 0 };
        let file = ChildRef::Inline(Box::new(NodeOptions {
            discard: Discard::Unmap,
            ..NodeOptions::new(DriverOptions::Null(null))
        }));
        let throttle = ThrottleOptions { file, group_name: "g".into(), group: Some(group.clone()) };
        let options = NodeOptions::new(DriverOptions::Throttle(throttle));
        let name = Some(format!("t{}", self.disks));
        self.graph.open(&NodeOptions { node_name: name, discard: Discard::Unmap, ..options }).unwrap()
    }

    pub fn handle(&self, thread: usize) -> Handle {
        self.reactors[thread].1.handle().clone()
    }

    /// Starts a request on a thread.
    pub fn begin(&self, thread: usize, disk: &Arc<Node>, kind: Kind, len: u64) -> Ended {
        let ended = Ended::default();
        let (disk, io, world, slot) = (disk.clone(), self.handle(thread), self.world.clone(), ended.clone());
        self.handle(thread).spawn(async move {
            disk.handle(&io, request(kind, len)).await.1.unwrap();
            slot.set(Some(world.now()));
        });
        ended
    }

    /// Has a thread keep so many requests to a disk under way until `end`; counts those that have ended.
    pub fn load(
        &self,
        thread: usize,
        disk: &Arc<Node>,
        (kind, len): (Kind, u64),
        depth: usize,
        end: u64,
    ) -> Rc<Cell<u64>> {
        let count = Rc::new(Cell::new(0));
        for _ in 0..depth {
            let (disk, io, world, count) = (disk.clone(), self.handle(thread), self.world.clone(), count.clone());
            self.handle(thread).spawn(async move {
                loop {
                    disk.handle(&io, request(kind, len)).await.1.unwrap();
                    if world.now() >= end {
                        return;
                    }
                    count.set(count.get() + 1);
                }
            });
        }
        count
    }

    /// Starts a request that is given up when the slot is emptied.
    pub fn begin_revocable(&self, thread: usize, disk: &Arc<Node>, kind: Kind, len: u64) -> Revocable {
        let slot: Revocable = Rc::default();
        let (disk, io) = (disk.clone(), self.handle(thread));
        *slot.borrow_mut() = Some(Box::pin(async move {
            disk.handle(&io, request(kind, len)).await.1.unwrap();
        }));
        let task = slot.clone();
        self.handle(thread).spawn(async move {
            std::future::poll_fn(|cx| match &mut *task.borrow_mut() {
                Some(task) => task.as_mut().poll(cx),
                None => Poll::Ready(()),
            })
            .await;
        });
        slot
    }

    /// Steps everybody who has something to do, without time passing.
    pub fn settle(&mut self) {
        loop {
            let mut stepped = false;
            for (port, reactor) in &mut self.reactors {
                if self.world.is_awake(*port) || reactor.has_ready_tasks() {
                    reactor.turn(Wait::Forever, || false, |_| ());
                    stepped = true;
                }
            }
            if !stepped {
                return;
            }
        }
    }

    /// Lets time pass, to this moment or a little more.
    pub fn pass_until(&mut self, time: u64) {
        self.settle();
        while self.world.now() < time && self.world.advance() {
            self.settle();
        }
    }

    /// Waits for requests; returns when they ended, in order and in milliseconds: a simulated thread wakes up a little late.
    pub fn finish(&mut self, ended: Vec<Ended>) -> Vec<u64> {
        self.settle();
        while ended.iter().any(|ended| ended.get().is_none()) {
            assert!(self.world.advance(), "everybody sleeps");
            self.settle();
        }
        ended.iter().map(|ended| ended.get().unwrap() / (SECOND / 1000)).collect()
    }
}

/// A request that may be given up.
pub type Revocable = Rc<RefCell<Option<Pin<Box<dyn Future<Output = ()>>>>>>;

fn request(kind: Kind, len: u64) -> Request {
    let memory = if kind.moves() { Memory::from(Buf::new(usize::try_from(len).unwrap())) } else { Memory::empty() };
    Request { kind, fua: false, offset: 0, len, memory }
}
