//! A guest with two queues that sends requests at random and remembers what it sent.

use super::image::{Kind as ImageKind, Made};
use super::past::Past;
use super::snapshots::Points;
use crate::io::sim::Faults;
use crate::io::{Buf, Memory};
use crate::node::qcow2::open::Options;
use crate::node::qcow2::tests::machine::{Machine, Slot};
use crate::node::qcow2::tests::model::{SECTOR, bytes};
use crate::node::{Kind, Outcome, Request};
use std::ops::Range;

/// A request under way.
struct Flight {
    kind: Kind,
    fua: bool,
    sectors: Range<usize>,
    /// Of a flush and a read.
    covered: Vec<usize>,
    slot: Slot<Outcome>,
}

/// The guest and its machine.
pub struct Guest {
    pub random: fastrand::Rng,
    pub machine: Machine,
    pub past: Past,
    pub points: Points,
    flights: Vec<Flight>,
    written: u64,
    kind: ImageKind,
    /// Requests may fail.
    pub faulty: bool,
    pass_discard: bool,
}

impl Guest {
    /// A guest of this image, which is open. What it writes is numbered from `written` on.
    pub fn new(seed: u64, kind: ImageKind, made: &Made, written: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let machine = Machine::new(seed, &made.files, 1);
        let past = Past::new(&made.content);
        let pass_discard = kind == ImageKind::Discards || random.bool();
        let (points, flights) = (Points::default(), Vec::new());
        let mut guest = Self { random, machine, past, points, flights, written, kind, faulty: false, pass_discard };
        guest.open(made.backing, made.data);
        guest
    }

    fn open(&mut self, backing: Option<usize>, data: Option<usize>) {
        let options = Options {
            read_only: false,
            l2_cache_bytes: 0,
            refcount_cache_bytes: 0,
            pass_discard: self.pass_discard,
            journal: None,
            changes: None,
        };
        let node = |number: Option<usize>| number.map(|number| self.machine.file(number));
        let (data, backing) = (node(data), node(backing));
        self.machine.open_over(data, backing, options).unwrap();
    }

    /// From now on the storage is as the kind of the image wants it: always, and while the L1 table is written.
    pub fn begin_faults(&mut self) -> (Faults, Faults) {
        let rate = |random: &mut fastrand::Rng, most: u16| random.u16(1..=most);
        let random = &mut self.random;
        // Of other kinds, some have errors too.
        let errors = matches!(self.kind, ImageKind::WriteErrors | ImageKind::SnapshotErrors) || random.u8(0..4) == 0;
        let reliable =
            matches!(self.kind, ImageKind::Slow | ImageKind::Resized | ImageKind::TableErrors | ImageKind::Snapshots);
        let quiet = Faults { short: rate(random, 100), no_zero: random.bool(), ..Faults::default() };
        let faults = match self.kind {
            ImageKind::FlushErrors => Faults { flush_error: random.u16(150..400), ..quiet },
            ImageKind::Slow => Faults { long_delay: rate(random, 300), ..quiet },
            _ if errors && !reliable => Faults {
                write_error: rate(random, 60),
                no_space: rate(random, 20),
                read_error: rate(random, 5),
                ..quiet
            },
            _ => quiet,
        };
        let failing = matches!(self.kind, ImageKind::FlushErrors | ImageKind::TableErrors);
        self.faulty = failing || (errors && !reliable);
        self.machine.set_faults(faults);
        let of_table = if self.kind == ImageKind::TableErrors { 700 } else { faults.write_error };
        (faults, Faults { write_error: of_table, ..faults })
    }

    pub fn event(&self) -> usize {
        self.machine.world.recorded()
    }

    fn draw(&mut self) -> Kind {
        let discards = matches!(self.kind, ImageKind::Discards | ImageKind::Slow);
        match self.random.u8(0..16) {
            0..=6 => Kind::Write,
            7..=8 => Kind::Read,
            9 => Kind::Zero { unmap: true },
            10 => Kind::Zero { unmap: false },
            11..=12 => Kind::Discard,
            13 if discards => Kind::Discard,
            14 if !discards => Kind::Write,
            _ => Kind::Flush,
        }
    }

    pub fn request(&mut self) {
        let all = self.past.len();
        let start = self.random.usize(0..all);
        // Where the L1 table cannot be written the guest takes new clusters all along.
        let [many, more] = if self.kind == ImageKind::TableErrors { [32; 2] } else { [64, all] };
        let most = *self.random.choice(&[8, many, more]).unwrap();
        let sectors = start..start + self.random.usize(1..=most.min(all - start));
        let kind = self.draw();
        // Guests seldom send two requests to one place; what they find there then is theirs all the same.
        let crowded = self.kind == ImageKind::Slow || self.random.u8(0..4) == 0;
        if kind == Kind::Flush || crowded || self.past.is_idle(sectors.clone()) {
            self.begin(kind, sectors);
        }
    }

    /// Sends a request.
    pub fn begin(&mut self, kind: Kind, sectors: Range<usize>) {
        let (offset, len) = (sectors.start * SECTOR, sectors.len() * SECTOR);
        let mut memory = Memory::empty();
        let mut covered = Vec::new();
        match kind {
            Kind::Write => {
                self.written += 1;
                let mut buf = Buf::new(len);
                buf.as_mut_slice().copy_from_slice(&bytes(self.written, sectors.len()));
                memory = Memory::from(buf);
                self.past.begin(sectors.clone(), self.written, self.event());
            }
            Kind::Read => {
                memory = Memory::from(Buf::new(len));
                covered = self.past.covered(sectors.clone());
            }
            Kind::Zero { .. } | Kind::Discard => self.past.begin(sectors.clone(), 0, self.event()),
            Kind::Flush => covered = self.past.covered(0..self.past.len()),
        }
        let fua = matches!(kind, Kind::Write | Kind::Zero { .. }) && self.random.u8(0..12) == 0;
        let range = if kind == Kind::Flush { (0, 0) } else { (offset as u64, len as u64) };
        let request = Request { kind, fua, offset: range.0, len: range.1, memory };
        let slot = self.machine.begin(self.random.usize(0..2), request);
        self.flights.push(Flight { kind, fua, sectors, covered, slot });
    }

    /// Looks at what has ended.
    pub fn settle(&mut self) {
        for index in (0..self.flights.len()).rev() {
            let Some((memory, result)) = self.flights[index].slot.take() else { continue };
            let Flight { kind, fua, sectors, covered, .. } = self.flights.swap_remove(index);
            assert!(result.is_ok() || self.faulty, "{kind:?} of {sectors:?}: {result:?}");
            match kind {
                Kind::Read if result.is_ok() => {
                    let data = memory.into_buf().unwrap();
                    let wrong = self.past.judge_read(sectors.start, data.as_slice(), &covered);
                    assert_eq!(wrong, None, "read of {sectors:?}");
                }
                Kind::Read => {}
                Kind::Flush if result.is_ok() => self.past.flushed(0, &covered, self.event()),
                Kind::Flush => {}
                _ => {
                    // A discard may leave what was there.
                    self.past.end(sectors.clone(), result.is_ok() && kind != Kind::Discard);
                    if fua && result.is_ok() {
                        let covered = self.past.covered(sectors.clone());
                        self.past.flushed(sectors.start, &covered, self.event());
                    }
                }
            }
        }
    }

    /// Sends `count` requests, some of them at the same time.
    pub fn load(&mut self, count: usize) {
        for _ in 0..count {
            if self.flights.len() < 8 {
                self.request();
            }
            for _ in 0..self.random.usize(0..6) {
                self.machine.step();
                self.settle();
            }
        }
    }

    /// The disk is made longer while requests are under way.
    pub fn grow(&mut self) {
        let sectors = self.past.len() + self.random.usize(1..2000);
        let node = self.machine.node.clone().unwrap();
        self.past.begin_growth(sectors, self.event());
        let size = (sectors * SECTOR) as u64;
        let slot = self.machine.begin_task(|io, graph| async move { graph.resize(&io, &node, size).await });
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "a hang");
            self.settle();
        }
        slot.take().unwrap().unwrap();
        self.past.end_growth(self.event());
    }

    /// How many requests are under way.
    pub fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// Waits for all that is under way.
    pub fn finish(&mut self) {
        while !self.flights.is_empty() {
            assert!(self.machine.step() || self.flights.iter().all(|flight| flight.slot.borrow().is_some()), "a hang");
            self.settle();
        }
    }

    /// The whole disk, as a guest reads it.
    pub fn content(&mut self) -> Vec<u8> {
        let len = usize::try_from(self.machine.node.as_ref().unwrap().length()).unwrap();
        let memory = Memory::from(Buf::new(len));
        let request = Request { kind: Kind::Read, fua: false, offset: 0, len: len as u64, memory };
        let slot = self.machine.begin(0, request);
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "a hang");
        }
        let (memory, result) = slot.take().unwrap();
        result.unwrap();
        memory.into_buf().unwrap().as_slice().to_vec()
    }

    /// Reads all of the disk and judges it.
    pub fn verify(&mut self) {
        self.finish();
        self.machine.set_faults(Faults::default());
        let covered = self.past.covered(0..self.past.len());
        let content = self.content();
        assert_eq!(self.past.judge_read(0, &content, &covered), None, "the whole disk");
    }

    /// Closes the image in order; false if that failed, as it may where storage does.
    pub fn close(&mut self) -> bool {
        let result = self.machine.close();
        assert!(result.is_ok() || self.faulty, "{result:?}");
        result.is_ok()
    }
}
