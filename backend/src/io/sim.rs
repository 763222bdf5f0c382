//! A simulated kernel: disks with a volatile cache, faults, delays and a clock that moves only as events make it.
//!
//! Several [`SimIo`], each the `Io` of one reactor, share a [`World`] in one OS thread. Whoever owns the reactors steps
//! the awake ones in any order and calls [`World::advance`] when all sleep; if nothing is left to wait for then, a
//! wake-up was lost. Everything random comes from the seed, so the same seed and the same calls give the same trace.
//! An operation takes effect at one moment between submission and completion and completes in any order. The world
//! knows no guests and judges nothing.

mod disk;
mod faults;
mod port;
pub mod recorded;
mod sockets;

pub use faults::{Faults, Lie};
pub use port::{PortId, SimIo};

use super::{Completion, FileId, Op, OpKind, Socket, Token};
use crate::error::IoError;
use disk::Disk;
use port::Port;
use recorded::{Event, Record};
use sockets::Sockets;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What happens to an operation, and when.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Effect,
    Done,
}

/// An operation between submission and completion.
struct Flight {
    port: PortId,
    op: Op,
    token: Token,
    /// What a flush covers: every change of its file up to this number.
    covers: u64,
    /// The same, by the number of an event.
    covers_events: usize,
    fault: Option<IoError>,
    result: Option<Result<u64, IoError>>,
}

struct State {
    random: fastrand::Rng,
    now: u64,
    faults: Faults,
    /// Of disks that have their own.
    own_faults: BTreeMap<FileId, Faults>,
    disks: BTreeMap<FileId, Disk>,
    sockets: Sockets,
    ports: Vec<Port>,
    flights: BTreeMap<u64, Flight>,
    agenda: BTreeMap<(u64, u64), (u64, Step)>,
    count: u64,
    operations: u64,
    trace: u64,
    record: Record,
}

/// The simulated machine.
#[derive(Clone)]
pub struct World(Rc<RefCell<State>>);

impl World {
    /// A machine without disks whose every choice follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(State {
            random: fastrand::Rng::with_seed(seed),
            now: 0,
            faults: Faults::default(),
            own_faults: BTreeMap::new(),
            disks: BTreeMap::new(),
            sockets: Sockets::default(),
            ports: Vec::new(),
            flights: BTreeMap::new(),
            agenda: BTreeMap::new(),
            count: 0,
            operations: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            record: Record::default(),
        })))
    }

    /// The disk behind `file`: its content, all of it stable. Offsets and lengths of reads and writes have to be
    /// multiples of `alignment`, as with O_DIRECT; 1 is a file in the page cache.
    pub fn add_disk(&self, file: FileId, content: Vec<u8>, alignment: u32) {
        self.0.borrow_mut().disks.insert(file, Disk::new(content, alignment));
    }

    /// Two connected sockets.
    pub fn socket_pair(&self) -> (Socket, Socket) {
        self.0.borrow_mut().sockets.pair()
    }

    /// Cuts a connection when so many more bytes have been sent from this end.
    pub fn cut_after(&self, socket: FileId, bytes: u64) {
        self.0.borrow_mut().sockets.cut_after(socket, bytes);
    }

    /// Kernel I/O for one more reactor, with room for `capacity` operations.
    pub fn io(&self, capacity: usize) -> SimIo {
        let mut state = self.0.borrow_mut();
        state.ports.push(Port::new(capacity));
        SimIo::new(self.clone(), PortId(state.ports.len() - 1))
    }

    /// What goes wrong from now on, with disks that have no faults of their own.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// What goes wrong with one disk from now on.
    pub fn set_faults_of(&self, file: FileId, faults: Faults) {
        self.0.borrow_mut().own_faults.insert(file, faults);
    }

    /// The clock in nanoseconds.
    pub fn now(&self) -> u64 {
        self.0.borrow().now
    }

    /// Whether the reactor on `port` has something to do: it did not sleep, or what it sleeps for has come.
    pub fn is_awake(&self, port: PortId) -> bool {
        self.0.borrow_mut().is_awake(port)
    }

    /// Moves the clock to the next event. False if nothing will ever happen by itself: all wait for somebody else.
    pub fn advance(&self) -> bool {
        let mut state = self.0.borrow_mut();
        state.hear();
        let event = state.agenda.first_key_value().map(|((time, _), _)| *time);
        let deadline = state.ports.iter().filter_map(Port::deadline).min();
        let Some(time) = event.into_iter().chain(deadline).min() else { return false };
        state.now = state.now.max(time);
        state.run_due();
        true
    }

    /// Operations of `port` that have not been handed back yet.
    pub fn in_flight(&self, port: PortId) -> usize {
        let state = self.0.borrow();
        state.flights.values().filter(|flight| flight.port == port).count() + state.ports[port.0].ready.len()
    }

    /// Operations on `file` that may still take effect.
    pub fn under_way(&self, file: FileId) -> usize {
        let state = self.0.borrow();
        state.flights.values().filter(|flight| flight.op.file == file && flight.result.is_none()).count()
    }

    /// All processes are killed: what they had under way happens now or never.
    pub fn kill(&self) {
        let mut state = self.0.borrow_mut();
        (0..state.ports.len()).for_each(|port| state.abandon(PortId(port)));
    }

    /// The power fails: of what is not stable each sector survives or is lost by itself. Drop the reactors first.
    pub fn crash(&self) {
        let State { disks, random, trace, .. } = &mut *self.0.borrow_mut();
        let survival = random.u32(0..=4);
        for disk in disks.values_mut() {
            disk.crash(random, survival);
            fold(trace, disk.live());
        }
    }

    /// The content of a disk as a program would read it.
    pub fn content(&self, file: FileId) -> Vec<u8> {
        self.0.borrow().disks.get(&file).map(|disk| disk.live().to_vec()).unwrap_or_default()
    }

    /// The content of a disk that the worst power cut would leave.
    pub fn stable_content(&self, file: FileId) -> Vec<u8> {
        self.0.borrow().disks.get(&file).map(|disk| disk.durable().to_vec()).unwrap_or_default()
    }

    /// The content that a power cut now might leave of a disk, by `random`; nothing happens to the disk.
    pub fn content_after_cut(&self, file: FileId, random: &mut fastrand::Rng) -> Vec<u8> {
        let Some(mut disk) = self.0.borrow().disks.get(&file).cloned() else { return Vec::new() };
        let survival = random.u32(0..=4);
        disk.crash(random, survival);
        disk.live().to_vec()
    }

    /// Records from now on what happens to disks. They count as stable as they are now.
    pub fn record(&self) {
        self.0.borrow_mut().record.begin();
    }

    /// Events recorded so far.
    pub fn recorded(&self) -> usize {
        self.0.borrow().record.len()
    }

    /// Ends recording: all events.
    pub fn end_record(&self) -> Vec<Event> {
        self.0.borrow_mut().record.end()
    }

    /// A hash of everything that has happened so far, in order.
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }

    /// Operations completed so far.
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }
}

impl State {
    fn note(&mut self, what: &[u64]) {
        for word in what {
            fold(&mut self.trace, &word.to_le_bytes());
        }
    }

    fn submit(&mut self, port: PortId, op: Op, token: Token) {
        let faults = self.faults_of(op.file);
        let (effect, done) = self.delays(&faults);
        self.count += 1;
        let id = self.count;
        let fault = faults.draw(&mut self.random, op.kind);
        let covers = self.disks.get(&op.file).map_or(0, Disk::changes);
        let covers_events = self.record.len();
        self.note(&[1, port.0 as u64, u64::from(op.file.0), code(op.kind), op.offset, op.len, token.0]);
        self.agenda.insert((self.now + effect, 2 * id), (id, Step::Effect));
        // What a socket does it does when the other end lets it.
        if !self.sockets.contains(op.file) {
            self.agenda.insert((self.now + done, 2 * id + 1), (id, Step::Done));
        }
        self.flights.insert(id, Flight { port, op, token, covers, covers_events, fault, result: None });
    }

    fn faults_of(&self, file: FileId) -> Faults {
        self.own_faults.get(&file).copied().unwrap_or(self.faults)
    }

    /// When an operation takes effect and when it completes, from now.
    fn delays(&mut self, faults: &Faults) -> (u64, u64) {
        let most = match faults.hits(&mut self.random, faults.long_delay) {
            true => 50_000_000,
            false => [1, 1_000, 100_000][self.random.usize(0..3)],
        };
        let done = self.random.u64(0..most);
        (self.random.u64(0..=done), done)
    }

    fn run_due(&mut self) {
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= self.now
        {
            let (id, step) = entry.remove();
            match step {
                Step::Effect => self.take_effect(id),
                Step::Done => self.finish(id),
            }
        }
    }

    /// Sockets that were shut down tell whoever waits.
    fn hear(&mut self) {
        let woken = self.sockets.hear();
        self.wake(woken);
    }

    fn wake(&mut self, flights: Vec<u64>) {
        for id in flights {
            let (delay, _) = self.delays(&Faults::default());
            self.agenda.insert((self.now + delay, 2 * id), (id, Step::Effect));
        }
    }

    fn run_socket(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let Some((result, woken)) = self.sockets.run(id, &mut flight.op, &mut self.random) else { return };
        flight.result = Some(result);
        self.wake(woken);
        let (delay, _) = self.delays(&Faults::default());
        self.agenda.insert((self.now + delay, 2 * id + 1), (id, Step::Done));
    }

    fn take_effect(&mut self, id: u64) {
        let Some(file) = self.flights.get(&id).map(|flight| flight.op.file) else { return };
        if self.sockets.contains(file) {
            return self.run_socket(id);
        }
        let faults = &self.faults_of(file);
        let State { flights, disks, random, record, .. } = self;
        let Some(flight) = flights.get_mut(&id) else { return };
        let Some(disk) = disks.get_mut(&file) else { return };
        if faults.hits(random, faults.write_back) {
            disk.write_back(random);
        }
        let result = disk.run(&mut flight.op, flight.fault, flight.covers, faults, random);
        record.add(disk.take_changes().into_iter().map(|change| Event::Change { file, change }));
        record.add(made_stable(flight, result, record.len()));
        flight.result = Some(result);
        if let OpKind::Write { .. } = flight.op.kind {
            let mut head = [0; 16];
            flight.op.memory.copy_to(0, &mut head);
            fold(&mut self.trace, &head);
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(Flight { port, op, token, result, .. }) = self.flights.remove(&id) else { return };
        let mut result = result.unwrap_or(Err(IoError::Io));
        if op.kind == OpKind::Flush
            && let Some(disk) = self.disks.get_mut(&op.file)
        {
            result = disk.end_flush(result);
        }
        self.operations += 1;
        self.note(&[2, port.0 as u64, token.0, self.now, result.map_or(u64::MAX, |moved| moved)]);
        self.ports[port.0].ready.push(Completion { token, op: Some(op), result });
    }

    /// The process behind a port has died: what it had under way happens now or never.
    fn abandon(&mut self, port: PortId) {
        let ids: Vec<u64> = self.flights.iter().filter(|(_, flight)| flight.port == port).map(|(id, _)| *id).collect();
        for id in ids {
            if self.flights[&id].result.is_none() && self.random.bool() {
                self.take_effect(id);
            }
            self.flights.remove(&id);
        }
        self.agenda.retain(|_, (id, _)| self.flights.contains_key(id));
        self.ports[port.0].close();
    }

    fn is_awake(&mut self, port: PortId) -> bool {
        self.hear();
        let now = self.now;
        self.ports[port.0].look(now)
    }
}

/// What an operation that has just taken effect has made stable, when so many events have been recorded.
fn made_stable(flight: &Flight, result: Result<u64, IoError>, recorded: usize) -> Option<Event> {
    let Flight { op, fault, covers_events, .. } = flight;
    match op.kind {
        OpKind::Flush if fault.is_some() => Some(Event::GivenUp { file: op.file, before: *covers_events }),
        OpKind::Flush => Some(Event::Stable { file: op.file, before: *covers_events, bytes: 0..u64::MAX }),
        OpKind::Write { stable: true } => {
            let bytes = op.offset..op.offset + result.ok()?;
            Some(Event::Stable { file: op.file, before: recorded, bytes })
        }
        _ => None,
    }
}

/// One number per kind, for the trace.
fn code(kind: OpKind) -> u64 {
    match kind {
        OpKind::Read => 0,
        OpKind::Write { stable } => 1 + u64::from(stable),
        OpKind::Flush => 3,
        OpKind::Discard => 4,
        OpKind::Zero { unmap } => 5 + u64::from(unmap),
        OpKind::Extent { .. } => 7,
        OpKind::Grow => 8,
        OpKind::Cut => 9,
        OpKind::Receive => 10,
        OpKind::Send => 11,
    }
}

/// FNV-1a, eight bytes at a time.
fn fold(hash: &mut u64, bytes: &[u8]) {
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        *hash = (*hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
}

#[cfg(test)]
mod tests;
