//! Mirrors of a disk that a guest writes to, on a simulated machine: whatever order things happen in, every byte of the
//! guest's disk is the one that it wrote last, before, during and after the pivot.
//!
//! `MIRRORS` in the environment says how many seeds are tried.

mod parting;

use crate::context::OnError;
use crate::mirror::{CopyMode, MirrorOptions, MirrorSync, begin};
use crate::*;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use tempfile::NamedTempFile;
use tidemark_backend::error::IoError;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::sim::{Faults, PortId, World};
use tidemark_backend::io::{Buf, FileId, Memory, Wait};
use tidemark_backend::node::options::{Discard, DriverOptions, FileOptions, Locking};
use tidemark_backend::node::{Door, Kind, Map, Node, NodeOptions, Outcome, Request, Root};
use tidemark_backend::reactor::Reactor;

/// Bytes of the disk.
const LEN: usize = 512 << 10;
/// Requests of the guest at a time.
const DEPTH: usize = 6;
const SECTOR: u64 = 512;

/// Numbers by chance, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

type Slot = Rc<RefCell<Option<Outcome>>>;

/// A request of the guest, and what its range has then.
struct Asked {
    slot: Slot,
    kind: Kind,
    range: Range<usize>,
    byte: u8,
}

/// Two disks, the job thread, and a guest on a thread of its own.
struct Machine {
    world: World,
    engine: Engine,
    engine_port: PortId,
    guest: Reactor,
    guest_port: PortId,
    graph: Arc<Graph>,
    door: Arc<Door>,
    root: Rc<Root>,
    files: [FileId; 2],
    dice: Dice,
    model: Vec<u8>,
    /// Where there may be zeroes instead.
    discarded: Vec<bool>,
    asked: Vec<Asked>,
    completed: u64,
    _images: [NamedTempFile; 2],
}

fn open(graph: &Graph, name: &str, image: &NamedTempFile, world: &World) -> (Arc<Node>, FileId) {
    std::fs::write(image.path(), vec![0; LEN]).unwrap();
    let driver =
        DriverOptions::File(FileOptions { filename: image.path().into(), locking: Locking::Auto, device: false });
    let options = NodeOptions { node_name: Some(name.into()), discard: Discard::Unmap, ..NodeOptions::new(driver) };
    let node = graph.open(&options).unwrap();
    let read = Request { kind: Kind::Read, fua: false, offset: 0, len: 512, memory: Memory::from(Buf::new(512)) };
    let Map::File { file, .. } = node.map(&read) else { unreachable!("a file") };
    world.add_disk(file, vec![0; LEN], 1);
    (node, file)
}

impl Machine {
    fn new(seed: u64) -> Self {
        let (world, graph) = (World::new(seed), Graph::new());
        let images = [(); 2].map(|()| NamedTempFile::new().unwrap());
        let (source, first) = open(&graph, "d", &images[0], &world);
        let (_, second) = open(&graph, "t", &images[1], &world);
        let (io, guest_io) = (world.io(32), world.io(32));
        let (engine_port, guest_port) = (io.port(), guest_io.port());
        let engine = Engine::new(Reactor::new(Box::new(io)).unwrap(), Arc::new(|_| ()));
        let guest = Reactor::new(Box::new(guest_io)).unwrap();
        let door = Door::open(&source, true).unwrap();
        let root = Root::of_sleeper(&door, guest.bell());
        Self {
            files: [first, second],
            dice: Dice(seed),
            model: vec![0; LEN],
            discarded: vec![false; LEN],
            asked: Vec::new(),
            completed: 0,
            _images: images,
            world,
            engine,
            engine_port,
            guest,
            guest_port,
            graph,
            door,
            root,
        }
    }

    /// One more request, away from those under way: a write, zeroes, or a read.
    fn ask(&mut self) {
        let sectors = LEN as u64 / SECTOR;
        let most = if self.dice.below(4) == 0 { 256 } else { 16 };
        let len = 1 + self.dice.below(most);
        let first = self.dice.below(sectors - len);
        let range = usize::try_from(first * SECTOR).unwrap()..usize::try_from((first + len) * SECTOR).unwrap();
        if self.asked.iter().any(|other| other.range.start < range.end && range.start < other.range.end) {
            return;
        }
        let (kind, byte) = match self.dice.below(8) {
            0 => (Kind::Zero { unmap: self.dice.below(2) == 0 }, 0),
            1 | 2 => (Kind::Read, 0),
            3 => (Kind::Discard, 0),
            _ => (Kind::Write, 1 + u8::try_from(self.dice.below(255)).unwrap()),
        };
        self.send(kind, range, byte);
    }

    fn send(&mut self, kind: Kind, range: Range<usize>, byte: u8) {
        let mut buf = Buf::new(range.len());
        buf.as_mut_slice().fill(byte);
        let memory = if kind.moves() { Memory::from(buf) } else { Memory::empty() };
        let (offset, len) = (range.start as u64, range.len() as u64);
        let (slot, root, io) = (Slot::default(), self.root.clone(), self.guest.handle().clone());
        let result = slot.clone();
        self.guest.handle().spawn(async move {
            let outcome = root.handle(&io, Request { kind, fua: false, offset, len, memory }).await;
            *result.borrow_mut() = Some(outcome);
        });
        self.asked.push(Asked { slot, kind, range, byte });
    }

    /// Whether the disk may hold these bytes from `first` on.
    fn may_hold(&self, first: usize, bytes: &[u8]) -> bool {
        let known = self.model[first..].iter().zip(&self.discarded[first..]);
        bytes.iter().zip(known).all(|(byte, (written, discarded))| byte == written || *discarded && *byte == 0)
    }

    /// Whether a file is the disk.
    fn is_disk(&self, file: FileId) -> bool {
        self.may_hold(0, &self.world.content(file))
    }

    /// Takes what has ended and asks for more.
    fn guest_turns(&mut self, asks: bool) {
        let (ended, asked) = self.asked.drain(..).partition::<Vec<_>, _>(|asked| asked.slot.borrow().is_some());
        self.asked = asked;
        for Asked { slot, kind, range, byte } in ended {
            let (memory, result) = slot.take().expect("it has ended");
            assert_eq!(result, Ok(()), "the guest is told of what is not its concern");
            self.completed += 1;
            match kind {
                Kind::Read => {
                    let found = memory.into_buf().expect("all of it");
                    assert!(self.may_hold(range.start, found.as_slice()), "a read of {range:?} found something else");
                }
                Kind::Discard => self.discarded[range].fill(true),
                _ => {
                    self.model[range.clone()].fill(byte);
                    self.discarded[range].fill(false);
                }
            }
        }
        while asks && self.asked.len() < DEPTH && self.dice.below(3) > 0 {
            self.ask();
        }
    }

    fn step(&mut self, asks: bool) {
        self.guest_turns(asks);
        let mut stepped = false;
        if self.world.is_awake(self.engine_port) || self.engine.has_work() {
            assert!(self.engine.step());
            stepped = true;
        }
        if self.world.is_awake(self.guest_port) || self.guest.has_ready_tasks() {
            self.guest.turn(Wait::Forever, || false, |_| ());
            stepped = true;
        }
        assert!(stepped || self.world.advance() || asks, "everybody sleeps");
    }

    /// Goes on until so many more requests have completed.
    fn steps(&mut self, count: u64) {
        let end = self.completed + count;
        while self.completed < end {
            self.step(true);
        }
    }

    /// Goes on until something is true, with the guest at work.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        // A job that ignores an error sleeps a tenth of a second.
        let end = self.world.now() + 5_000_000_000;
        while !holds(self) {
            self.step(true);
            let info = || self.engine.registry().query_block_jobs();
            assert!(self.world.now() < end, "never: {what}, {:?}", info());
        }
    }

    /// Goes on until the mirror is ready; one that the guest outruns blocks writes after a while.
    fn until_ready(&mut self) {
        let patience = self.completed + 2000;
        while self.status() == Some(Status::Running) && self.completed < patience {
            self.step(true);
        }
        if self.status() == Some(Status::Running) {
            self.command(Command::Change(CopyMode::WriteBlocking));
        }
        self.until("ready", |machine| machine.status() == Some(Status::Ready));
    }

    fn drain(&mut self) {
        while !self.asked.is_empty() {
            self.step(false);
        }
    }

    fn status(&self) -> Option<Status> {
        self.engine.registry().find("j").map(|job| job.status())
    }

    fn mirror(&mut self, options: MirrorOptions) {
        let (registry, graph) = (self.engine.registry().clone(), self.graph.clone());
        let begun = Rc::new(RefCell::new(None));
        let result = begun.clone();
        self.engine.registry().io().spawn(async move {
            let started = begin(&registry, &graph, options, None).await;
            *result.borrow_mut() = Some(started.map_err(|error| error.to_string()));
        });
        while begun.borrow().is_none() {
            self.step(true);
        }
        assert_eq!(begun.take(), Some(Ok(())));
    }

    fn command(&mut self, command: Command) {
        let registry = self.engine.registry().clone();
        self.engine.registry().io().spawn(async move {
            registry.command(Family::BlockJob, "j", command).await.unwrap();
        });
    }
}

fn options(dice: &mut Dice) -> MirrorOptions {
    MirrorOptions {
        job_id: Some("j".into()),
        device: "d".into(),
        target: "t".into(),
        replaces: None,
        sync: MirrorSync::Full,
        speed: 0,
        granularity: [0, 512, 4096, 65536][usize::try_from(dice.below(4)).unwrap()],
        buf_size: [0, 1][usize::try_from(dice.below(2)).unwrap()],
        on_source_error: OnError::Ignore,
        on_target_error: OnError::Ignore,
        unmap: dice.below(2) == 0,
        filter_node_name: None,
        copy_mode: if dice.below(2) == 0 { CopyMode::Background } else { CopyMode::WriteBlocking },
        auto_finalize: true,
        auto_dismiss: true,
    }
}

fn seeds() -> Range<u64> {
    0..std::env::var("MIRRORS").map_or(10, |count| count.parse().expect("a number"))
}

#[test]
fn after_a_pivot_the_disk_is_the_target_with_every_byte_that_the_guest_wrote() {
    for seed in seeds() {
        let mut machine = Machine::new(seed);
        machine.steps(50);
        let options = options(&mut machine.dice);
        let changes = machine.dice.below(2) == 0;
        machine.mirror(options);
        machine.until_ready();
        machine.steps(30);
        if changes {
            machine.command(Command::Change(CopyMode::WriteBlocking));
            machine.steps(30);
        }
        machine.command(Command::Complete);
        machine.until("the pivot", |machine| machine.status().is_none());
        assert_eq!(machine.door.node().name(), "t", "seed {seed}");
        machine.steps(30);
        machine.drain();
        assert!(machine.is_disk(machine.files[1]), "seed {seed}: the target is not the disk");
    }
}

#[test]
fn a_target_that_fails_now_and_then_is_brought_up_and_the_guest_is_told_nothing() {
    for seed in seeds() {
        let mut machine = Machine::new(seed);
        machine.steps(50);
        let options = options(&mut machine.dice);
        let (target, faults) = (machine.files[1], Faults { write_error: 60, ..Faults::default() });
        machine.world.set_faults_of(target, faults);
        machine.mirror(options);
        machine.steps(200);
        machine.world.set_faults_of(target, Faults::default());
        machine.until_ready();
        machine.world.set_faults_of(target, faults);
        machine.steps(100);
        machine.world.set_faults_of(target, Faults::default());
        machine.command(Command::Complete);
        machine.until("the pivot", |machine| machine.status().is_none());
        machine.drain();
        assert_eq!(machine.door.node().name(), "t", "seed {seed}");
        assert!(machine.is_disk(target), "seed {seed}: the target is not the disk");
    }
}

#[test]
fn a_cancelled_mirror_leaves_the_disk_where_it_was() {
    for seed in seeds() {
        let mut machine = Machine::new(seed);
        machine.steps(20);
        let options = options(&mut machine.dice);
        machine.mirror(options);
        if machine.dice.below(2) == 0 {
            machine.until_ready();
        }
        let force = machine.dice.below(2) == 0;
        machine.command(Command::Cancel { force });
        machine.until("the end", |machine| machine.status().is_none());
        assert_eq!(machine.door.node().name(), "d", "seed {seed}");
        machine.steps(30);
        machine.drain();
        assert!(machine.is_disk(machine.files[0]), "seed {seed}");
        for name in ["d", "t"] {
            assert_eq!(machine.graph.find(name).and_then(|node| node.busy()), None, "seed {seed}");
        }
    }
}

#[test]
fn a_job_whose_target_fails_at_last_does_not_pivot() {
    let mut machine = Machine::new(3);
    machine.steps(20);
    let options = MirrorOptions {
        copy_mode: CopyMode::WriteBlocking,
        on_target_error: OnError::Report,
        auto_finalize: false,
        auto_dismiss: false,
        ..options(&mut Dice(3))
    };
    machine.mirror(options);
    machine.until_ready();
    machine.command(Command::Complete);
    machine.until("pending", |machine| machine.status() == Some(Status::Pending));
    let broken = Faults { write_error: 1024, ..Faults::default() };
    machine.world.set_faults_of(machine.files[1], broken);
    machine.steps(20);
    machine.command(Command::Finalize);
    machine.until("the end", |machine| machine.status() == Some(Status::Concluded));
    let job = machine.engine.registry().find("j").expect("it was not dismissed");
    assert_eq!(job.error_text().as_deref(), Some(IoError::Io.to_string().as_str()));
    assert_eq!(machine.door.node().name(), "d");
    machine.steps(30);
    machine.drain();
    assert!(machine.is_disk(machine.files[0]));
}
