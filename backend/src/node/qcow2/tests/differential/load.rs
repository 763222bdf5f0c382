//! What two queues ask for, some of it at the same time, and what a model says of the answers.

use super::super::machine::{Machine, Slot};
use super::super::model::{Model, SECTOR, bytes};
use super::coverage::Coverage;
use crate::io::{Buf, Memory};
use crate::node::qcow2::entry::Entry;
use crate::node::{Driver, Kind, Node, Outcome, Request};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Requests that are under way at the same time at most.
const DEPTH: usize = 8;

/// A request under way.
struct Flight {
    kind: Kind,
    fua: bool,
    /// What it changes or reads.
    sectors: Range<usize>,
    /// Of a flush.
    covered: Vec<usize>,
    slot: Slot<Outcome>,
}

/// The guest of one image.
pub struct Load {
    pub machine: Machine,
    pub model: Model,
    flights: Vec<Flight>,
    written: u64,
    /// Log2 of sectors in a cluster.
    unit_bits: u32,
    /// What a discard takes away reads as zeroes; version 2 can say that only where nothing is below.
    discards: bool,
}

impl Load {
    pub fn new(machine: Machine, content: &[u64], unit_bits: u32, discards: bool) -> Self {
        Self { machine, model: Model::new(content), flights: Vec::new(), written: 0, unit_bits, discards }
    }

    /// Somewhere on the disk: parts of clusters, whole ones, and both.
    fn place(&self, random: &mut fastrand::Rng) -> Range<usize> {
        let (all, unit) = (self.model.len(), 1 << self.unit_bits);
        let start = random.usize(0..all);
        let most = |most: usize| most.min(all - start);
        match random.u8(0..16) {
            0..=4 => start..start + random.usize(1..=most(8)),
            5..=8 => {
                let first = start / unit * unit;
                first..(first + unit * random.choice([1, 1, 1, 2, 3, 4]).unwrap_or(1)).min(all)
            }
            9..=11 => start..start + random.usize(1..=most(3 * unit)),
            12 => start / unit * unit..start + random.usize(1..=most(2 * unit)),
            13 => start..(start + random.usize(1..=2 * unit)).next_multiple_of(unit).min(all),
            14 => start..start + random.usize(1..=most(64 * unit)),
            _ => start..all,
        }
    }

    /// Sends one request, if what it is for is not busy.
    fn request(&mut self, random: &mut fastrand::Rng, coverage: &mut Coverage) -> bool {
        let sectors = self.place(random);
        let kind = match random.u8(0..16) {
            0..=5 => Kind::Write,
            6..=7 => Kind::Read,
            8..=9 => Kind::Zero { unmap: true },
            10..=12 => Kind::Zero { unmap: false },
            13..=14 => Kind::Discard,
            _ => Kind::Flush,
        };
        self.model.is_idle(sectors.clone()) && self.send(random, kind, sectors, coverage)
    }

    /// Zeroes some clusters that keep their space, which few others do.
    pub fn zero_some(&mut self, random: &mut fastrand::Rng, coverage: &mut Coverage) {
        let unit = 1 << self.unit_bits;
        for _ in 0..6 {
            let first = random.usize(0..self.model.len()) / unit * unit;
            let sectors = first..(first + random.usize(1..=4) * unit).min(self.model.len());
            if self.model.is_idle(sectors.clone()) {
                self.send(random, Kind::Zero { unmap: false }, sectors, coverage);
            }
        }
    }

    fn send(&mut self, random: &mut fastrand::Rng, kind: Kind, sectors: Range<usize>, coverage: &mut Coverage) -> bool {
        let fua = kind == Kind::Write && random.u8(0..5) == 0;
        let offsets = (sectors.start * SECTOR) as u64..(sectors.end * SECTOR) as u64;
        self.note(coverage, (kind, fua), &offsets);
        let (memory, changed) = self.prepare(kind, &sectors);
        let offsets = if kind == Kind::Flush { 0..0 } else { offsets };
        let request = Request { kind, fua, offset: offsets.start, len: offsets.end - offsets.start, memory };
        let slot = self.machine.begin(random.usize(0..2), request);
        let covered = if kind == Kind::Flush { self.model.covered() } else { Vec::new() };
        self.flights.push(Flight { kind, fua, sectors: changed, covered, slot });
        true
    }

    /// Tells the model; the request's memory, and what the model is to be told of at the end.
    fn prepare(&mut self, kind: Kind, sectors: &Range<usize>) -> (Memory, Range<usize>) {
        let len = sectors.len() * SECTOR;
        match kind {
            Kind::Write => {
                self.written += 1;
                let mut buf = Buf::new(len);
                buf.as_mut_slice().copy_from_slice(&bytes(self.written, sectors.len()));
                self.model.begin(sectors.clone(), self.written);
                (Memory::from(buf), sectors.clone())
            }
            Kind::Read => {
                let mut buf = Buf::new(len);
                // What is not filled in is not taken for zeroes.
                buf.as_mut_slice().fill(0xee);
                self.model.begin_read(sectors.clone());
                (Memory::from(buf), sectors.clone())
            }
            Kind::Zero { .. } => {
                self.model.begin(sectors.clone(), 0);
                (Memory::empty(), sectors.clone())
            }
            Kind::Discard => {
                let taken = self.taken(sectors);
                self.model.begin(taken.clone(), 0);
                (Memory::empty(), taken)
            }
            Kind::Flush => (Memory::empty(), 0..0),
        }
    }

    /// The whole clusters of a discard, which go; the last one of a disk may be short.
    fn taken(&self, sectors: &Range<usize>) -> Range<usize> {
        let (all, unit) = (self.model.len(), 1 << self.unit_bits);
        let first = sectors.start.next_multiple_of(unit);
        let last = if sectors.end == all { all } else { sectors.end / unit * unit };
        if self.discards && first < last { first..last } else { sectors.start..sectors.start }
    }

    fn note(&mut self, coverage: &mut Coverage, what: (Kind, bool), offsets: &Range<u64>) {
        let node = self.machine.node.clone().unwrap();
        let Driver::Qcow2(image) = node.driver() else { unreachable!("made by the machine") };
        let geometry = image.geometry;
        let last = geometry.l1_index(offsets.end - 1);
        let mut tables = BTreeMap::new();
        for index in geometry.l1_index(offsets.start)..=last {
            if let Some(words) = self.table(&node, index) {
                tables.insert(index, words);
            }
        }
        let entry = |offset| {
            let words = tables.get(&geometry.l1_index(offset));
            words.map_or(Entry::Unallocated, |words| geometry.decode(words[geometry.l2_index(offset)]))
        };
        coverage.note(image, what, offsets, entry);
    }

    /// The words of an L2 table, from memory or from the file.
    fn table(&mut self, node: &Arc<Node>, index: usize) -> Option<Vec<u64>> {
        let Driver::Qcow2(image) = node.driver() else { unreachable!("made by the machine") };
        if let Some(pin) = image.tables.pin(index) {
            return Some(pin.copy());
        }
        let node = node.clone();
        self.machine.run(move |io| async move {
            let Driver::Qcow2(image) = node.driver() else { unreachable!("made by the machine") };
            image.tables.read_table(&io, index).await.unwrap()
        })
    }

    /// Looks at what has ended.
    fn settle(&mut self) {
        for index in (0..self.flights.len()).rev() {
            let Some((memory, result)) = self.flights[index].slot.take() else { continue };
            let Flight { kind, fua, sectors, covered, .. } = self.flights.swap_remove(index);
            assert!(result.is_ok(), "{kind:?} of sectors {sectors:?}: {result:?}");
            match kind {
                Kind::Read => {
                    let data = memory.into_buf().unwrap();
                    self.model.end(sectors.clone(), false);
                    let wrong = self.model.judge(sectors.start, data.as_slice(), false);
                    assert_eq!(wrong, None, "read of sectors {sectors:?}");
                }
                Kind::Flush => self.model.flushed(&covered),
                _ => {
                    self.model.end(sectors.clone(), true);
                    if fua {
                        self.model.stable(sectors);
                    }
                }
            }
        }
    }

    /// Sends `count` requests and leaves some under way.
    pub fn run(&mut self, random: &mut fastrand::Rng, count: usize, coverage: &mut Coverage) {
        let mut sent = 0;
        while sent < count {
            if self.flights.len() < DEPTH {
                sent += usize::from(self.request(random, coverage));
            }
            for _ in 0..random.usize(0..6) {
                self.machine.step();
            }
            self.settle();
        }
    }

    /// Waits for everything.
    pub fn finish(&mut self) {
        while !self.flights.is_empty() {
            assert!(self.machine.step() || self.flights.iter().all(|flight| flight.slot.borrow().is_some()), "a hang");
            self.settle();
        }
    }

    /// The whole disk, as a guest reads it, which is right.
    pub fn content(&mut self) -> Vec<u8> {
        let len = self.model.len() * SECTOR;
        let memory = Memory::from(Buf::new(len));
        let request = Request { kind: Kind::Read, fua: false, offset: 0, len: len as u64, memory };
        let slot = self.machine.begin(0, request);
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "a hang");
        }
        let (memory, result) = slot.take().unwrap();
        result.unwrap();
        let content = memory.into_buf().unwrap().as_slice().to_vec();
        assert_eq!(self.model.judge(0, &content, false), None, "the whole disk");
        content
    }
}
