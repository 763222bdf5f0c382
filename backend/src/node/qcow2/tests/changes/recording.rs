//! A recording: an image, what a guest and an operator did with it, and what the disks saw of that.

use super::disk::{SECTOR, SECTORS};
use super::operator::{Operator, Phases};
use super::rig::{Files, JOURNAL_FILE, Rig};
use super::start::{Shape, Start};
use super::truth::{Action, Truth};
use crate::io::sim::Faults;
use crate::io::sim::recorded::Event;
use crate::io::{Buf, Memory};
use crate::node::qcow2::tests::machine::Slot;
use crate::node::qcow2::tests::model::bytes;
use crate::node::{Kind, Outcome, Request};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Names that bitmaps are given.
const NAMES: [&str; 5] = ["b0", "b1", "b2", "b3", "b4"];
/// Requests under way at once.
const DEPTH: usize = 6;

/// What was recorded.
pub struct Recording {
    pub seed: u64,
    pub shape: Shape,
    pub files: Files,
    pub events: Vec<Event>,
    pub phases: Phases,
    pub truth: Truth,
    /// When the journal's file was made or removed.
    presence: Vec<(usize, bool)>,
}

struct Flight {
    number: Option<usize>,
    bytes: Range<u64>,
    sure: bool,
    slot: Slot<Outcome>,
}

/// A guest, an operator, and their machine.
struct Play {
    rig: Rig,
    shape: Shape,
    random: fastrand::Rng,
    truth: Rc<RefCell<Truth>>,
    phases: Phases,
    flights: Vec<Flight>,
    task: Option<Slot<()>>,
    release: Option<Slot<()>>,
    presence: Vec<(usize, bool)>,
    written: u64,
    /// Of six checkpoints so many have their bitmaps stored.
    stored: u8,
    /// The guest flushes nothing.
    lazy: bool,
}

impl Recording {
    /// Has an image used, closed and opened again.
    pub fn make(seed: u64, start: Start) -> Self {
        let Start { shape, files, windows, content, bitmaps } = start;
        let rig = Rig::new(seed, &files);
        let world = rig.world();
        // As the data file's state is another here.
        let files = rig.files();
        let truth = Rc::new(RefCell::new(Truth::new(windows, &content, bitmaps)));
        let mut play = Play {
            rig,
            shape,
            random: fastrand::Rng::with_seed(seed),
            truth,
            phases: Phases::default(),
            flights: Vec::new(),
            task: None,
            release: None,
            presence: vec![(0, files.journal)],
            written: seed << 32,
            stored: if seed.is_multiple_of(3) { 1 } else { 5 },
            lazy: seed % 5 < 2,
        };
        // Where some requests take long, points in time have to wait for them.
        let long_delay = if seed % 7 < 3 { 100 } else { 0 };
        world.set_faults(Faults { long_delay, ..Faults::default() });
        world.record();
        play.open();
        let sessions = if play.random.bool() { 2 } else { 1 };
        for session in 0..sessions {
            if session > 0 {
                play.reopen();
            }
            play.load(if sessions == 1 { 160 } else { 90 });
            play.close();
        }
        let Play { rig, phases, truth, presence, .. } = play;
        let events = world.end_record();
        drop(rig);
        let truth = Rc::into_inner(truth).expect("nobody is at work").into_inner();
        Self { seed, shape, files, events, phases, truth, presence }
    }

    /// Whether the journal's file is there after a power cut; what was removed may be there again.
    pub fn has_journal_file(&self, event: usize, random: &mut fastrand::Rng) -> bool {
        let last = self.presence.iter().rposition(|(since, _)| *since <= event).unwrap();
        self.presence[last].1 || (last > 0 && random.bool())
    }
}

impl Play {
    fn event(&self) -> usize {
        self.rig.machine.world.recorded()
    }

    fn operator(&self) -> Operator {
        let (truth, phases) = (self.truth.clone(), self.phases.clone());
        Operator { node: self.rig.node(), world: self.rig.world(), truth, phases }
    }

    fn open(&mut self) {
        let before = self.event();
        self.rig.open().unwrap();
        // It is made before anything is written to it, and removed when the image does not need it.
        let event = if self.rig.has_journal_file() { before } else { self.event() };
        self.look(event);
        self.operator().say("load");
    }

    /// Looks for the journal's file.
    fn look(&mut self, event: usize) {
        let there = self.rig.has_journal_file();
        if self.presence.last().unwrap().1 != there {
            self.presence.push((event, there));
        }
    }

    fn step(&mut self) {
        assert!(self.rig.machine.step() || !self.is_waiting(), "a hang");
        let event = self.event();
        self.look(event);
        for index in (0..self.flights.len()).rev() {
            let Some((_, result)) = self.flights[index].slot.take() else { continue };
            let Flight { number, sure, bytes, .. } = self.flights.swap_remove(index);
            assert!(result.is_ok(), "{bytes:x?}: {result:?}");
            if let Some(number) = number {
                self.truth.borrow_mut().end(number, sure, event);
            }
        }
        for task in [&mut self.task, &mut self.release] {
            task.take_if(|slot| slot.borrow().is_some());
        }
    }

    /// Whether all that is under way waits for somebody else.
    fn is_waiting(&self) -> bool {
        let tasks = || self.task.iter().chain(&self.release);
        let is_told = self.flights.iter().any(|flight| flight.slot.borrow().is_some())
            || tasks().any(|slot| slot.borrow().is_some());
        !is_told && (!self.flights.is_empty() || tasks().next().is_some())
    }

    fn load(&mut self, requests: usize) {
        let faults_at = self.random.usize(0..requests);
        for number in 0..requests {
            if self.flights.len() < DEPTH {
                self.request();
            }
            if self.shape == Shape::Failing && number == faults_at {
                let event = self.event();
                self.truth.borrow_mut().unsafe_since.push(event..usize::MAX);
                let faults = Faults { write_error: self.random.choice([300, 1024]).unwrap(), ..Faults::default() };
                self.rig.machine.world.set_faults_of(JOURNAL_FILE, faults);
            }
            self.operate(number);
            for _ in 0..self.random.usize(0..6) {
                self.step();
            }
        }
    }

    /// Sends a request to sectors that nobody else is at.
    fn request(&mut self) {
        let size = self.rig.node().length();
        let windows = self.truth.borrow().windows.within(size);
        let window = self.random.choice(&windows).unwrap().1.clone();
        let start = window.start + self.random.u64(0..SECTORS) * SECTOR;
        let mut bytes = start..self.random.u64(start / SECTOR + 1..=window.end / SECTOR) * SECTOR;
        let kind = match self.random.u8(0..16) {
            0..=9 => Kind::Write,
            10 => Kind::Zero { unmap: self.random.bool() },
            11..=12 => Kind::Discard,
            _ if self.lazy => Kind::Write,
            _ => Kind::Flush,
        };
        // Some go over many areas.
        if matches!(kind, Kind::Zero { .. } | Kind::Discard) && self.random.u8(0..4) == 0 {
            bytes.end = bytes.end.max(self.random.choice(&windows).unwrap().1.end);
        }
        let is_apart = |flight: &Flight| bytes.end <= flight.bytes.start || flight.bytes.end <= bytes.start;
        if kind == Kind::Flush || self.flights.iter().all(is_apart) {
            self.begin(kind, bytes);
        }
    }

    fn begin(&mut self, kind: Kind, bytes: Range<u64>) {
        let len = bytes.end - bytes.start;
        let (mut memory, mut value) = (Memory::empty(), 0);
        if kind == Kind::Write {
            self.written += 1;
            value = self.written;
            let mut buf = Buf::new(usize::try_from(len).unwrap());
            buf.as_mut_slice().copy_from_slice(&self::bytes(value, usize::try_from(len / SECTOR).unwrap()));
            memory = buf.into();
        }
        let fua = kind == Kind::Write && !self.lazy && self.random.u8(0..8) == 0;
        let bytes = if kind == Kind::Flush { 0..0 } else { bytes };
        let number = kind.changes().then(|| self.truth.borrow_mut().begin(bytes.clone(), value, self.event()));
        let request = Request { kind, fua, offset: bytes.start, len: bytes.end - bytes.start, memory };
        let slot = self.rig.machine.begin(self.random.usize(0..2), request);
        self.flights.push(Flight { number, bytes, sure: kind != Kind::Discard, slot });
    }

    /// Begins what an operator does now and then. The first is to add a bitmap.
    fn operate(&mut self, number: usize) {
        self.end_backup();
        if self.task.is_some() || (number > 0 && self.random.u8(0..3) > 0) {
            return;
        }
        let operator = self.operator();
        let stores = self.random.u8(0..6) < self.stored;
        self.task = Some(match self.random.u8(0..12) {
            0..=4 if number > 0 => self.rig.machine.start(move |io| operator.checkpoint(io, stores)),
            5 if self.can_grow() => {
                let size = self.grown();
                self.rig.machine.begin_task(move |io, graph| operator.grow(io, graph, size))
            }
            _ => {
                let actions = self.actions(number);
                if actions.is_empty() {
                    return;
                }
                self.rig.machine.start(move |io| operator.transact(io, actions))
            }
        });
    }

    /// A backup ends when it has begun, whatever else is going on.
    fn end_backup(&mut self) {
        let in_use = self.truth.borrow().in_use();
        let begun =
            |name: &String| self.truth.borrow().lives[name].versions.last().is_some_and(|last| last.acked.is_some());
        if let Some(name) = in_use.filter(begun)
            && self.release.is_none()
            && self.random.u8(0..8) == 0
        {
            let (operator, replace) = (self.operator(), self.random.u8(0..3) > 0);
            self.release = Some(self.rig.machine.start(move |io| operator.release(io, name, replace)));
        }
    }

    fn can_grow(&self) -> bool {
        let truth = self.truth.borrow();
        matches!(self.shape, Shape::Grown | Shape::Large)
            && truth.in_use().is_none()
            && self.release.is_none()
            && truth.lost().is_empty()
    }

    fn grown(&mut self) -> u64 {
        let more = if self.shape == Shape::Large { 1 << 30 } else { 1 << 20 };
        self.rig.node().length() + self.random.u64(1..=more / SECTOR) * SECTOR
    }

    /// Actions of a transaction: most often one.
    fn actions(&mut self, number: usize) -> Vec<(String, Action)> {
        let truth = self.truth.borrow();
        let (usable, lost, in_use) = (truth.usable(), truth.lost(), truth.in_use());
        drop(truth);
        let taken = |name: &&str| {
            usable.iter().any(|(known, _)| known == name) || lost.iter().chain(&in_use).any(|known| known == name)
        };
        let free = NAMES.into_iter().find(|name| !taken(name));
        let granularity = self.shape.granularity(&mut self.random);
        let some = self.random.choice(&usable).cloned();
        let mut actions = Vec::new();
        match (self.random.u8(0..10), some, free) {
            (_, _, Some(name)) if number == 0 => {
                actions.push((name.to_owned(), Action::Add { granularity, recording: true }));
            }
            (0, _, _) if !lost.is_empty() => actions.push((lost[0].clone(), Action::Remove)),
            (0..=1, Some((name, _)), _) if usable.len() > 2 => actions.push((name, Action::Remove)),
            (2, Some((name, _)), Some(new)) => {
                // As backups begin: the new one goes on where the old one ends.
                actions.push((new.to_owned(), Action::Add { granularity, recording: true }));
                actions.push((name, Action::Disable));
            }
            (3..=4, Some((name, true)), _) => actions.push((name, Action::Clear)),
            (5, Some((name, recording)), _) => {
                actions.push((name, if recording { Action::Disable } else { Action::Enable }));
            }
            (6, Some((name, _)), _) => {
                let source = self.random.choice(&usable).unwrap().0.clone();
                if source != name {
                    actions.push((name, Action::Merge { source: source.clone() }));
                    if self.random.bool() {
                        actions.push((source, Action::Clear));
                    }
                }
            }
            (7..=8, Some((name, _)), _) if in_use.is_none() => actions.push((name, Action::Freeze)),
            (_, _, Some(name)) if usable.len() < 4 => {
                let recording = self.random.u8(0..4) > 0;
                actions.push((name.to_owned(), Action::Add { granularity, recording }));
            }
            _ => {}
        }
        actions
    }

    /// Waits for all that is under way, and ends a backup.
    fn finish(&mut self) {
        loop {
            while !self.flights.is_empty() || self.task.is_some() || self.release.is_some() {
                self.step();
            }
            let Some(name) = self.truth.borrow().in_use() else { return };
            let operator = self.operator();
            self.release = Some(self.rig.machine.start(move |io| operator.release(io, name, true)));
        }
    }

    fn close(&mut self) {
        self.finish();
        let operator = self.operator();
        operator.say("closing");
        let event = self.event();
        self.truth.borrow_mut().closing(event);
        drop(operator);
        self.rig.close();
        let event = self.event();
        self.truth.borrow_mut().closed(event);
        self.look(event);
    }

    fn reopen(&mut self) {
        self.rig.machine.world.set_faults_of(JOURNAL_FILE, Faults::default());
        let event = self.event();
        self.phases.say(event, "opening");
        self.truth.borrow_mut().opening(event);
        self.open();
    }
}
