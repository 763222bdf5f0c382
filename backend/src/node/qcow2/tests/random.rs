//! Random requests of two queues to images of every kind: what a guest reads is what it wrote, a crash at any moment
//! loses nothing that was flushed, and QEMU finds nothing wrong with the image.

use super::machine::{Machine, Slot};
use super::model::{Model, SECTOR, bytes};
use crate::error::IoError;
use crate::io::sim::Faults;
use crate::io::{Buf, Memory};
use crate::node::qcow2::journal::{MOST, Place};
use crate::node::qcow2::open::Options;
use crate::node::{Driver, Kind, Outcome, Request, Root};
use std::process::Command;
use tempfile::TempDir;

/// A request under way.
struct Flight {
    kind: Kind,
    sectors: std::ops::Range<usize>,
    /// Of a flush.
    covered: Vec<usize>,
    slot: Slot<Outcome>,
}

/// One image, its guest and what the guest knows.
struct Run {
    random: fastrand::Rng,
    machine: Machine,
    model: Model,
    flights: Vec<Flight>,
    /// Ranges that are being made the image's own.
    populating: Vec<Slot<Result<(), IoError>>>,
    written: u64,
    faulty: bool,
    /// What is there until the power is cut.
    memory: TempDir,
}

fn qemu_img(arguments: &[&str]) -> std::process::Output {
    Command::new("qemu-img").args(arguments).output().expect("qemu-img is there")
}

/// An empty image of some kind and its backing file; the guest's content, by sector.
fn image(random: &mut fastrand::Rng) -> (Vec<Vec<u8>>, Vec<u64>) {
    let directory = tempfile::tempdir().unwrap();
    let (path, base) = (directory.path().join("image"), directory.path().join("base"));
    let cluster_bits = random.choice([9, 10, 12, 16]).unwrap();
    let refcount_bits = 1 << random.u32(0..7);
    let old = random.u8(0..6) == 0;
    // Small clusters have small tables: then there are more of them than memory takes.
    let clusters = if cluster_bits == 9 { random.usize(2..3000) } else { random.usize(2..150) };
    let sectors = (clusters << (cluster_bits - 9)) + random.usize(0..5);
    let mut options = format!("cluster_size={}", 1 << cluster_bits);
    match old {
        true => options += ",compat=0.10",
        false => options += &format!(",refcount_bits={refcount_bits}"),
    }
    let size = (sectors * SECTOR).to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", &options];
    let mut content = vec![0; sectors];
    let (path, base) = (path.to_str().unwrap(), base.to_str().unwrap());
    if random.bool() {
        let backed = random.usize(1..=sectors);
        content[..backed].iter_mut().for_each(|value| *value = random.u64(1..1 << 32) << 32);
        let raw: Vec<u8> = content[..backed].iter().flat_map(|value| bytes(*value, 1)).collect();
        std::fs::write(base, &raw).unwrap();
        arguments.extend(["-b", base, "-F", "raw"]);
    }
    arguments.extend([path, &size]);
    let made = qemu_img(&arguments);
    assert!(made.status.success(), "{made:?}");
    let files = [path, base].into_iter().filter_map(|path| std::fs::read(path).ok()).collect();
    (files, content)
}

/// What `qemu-img check` says: leaks, and everything worse.
pub(super) fn check(files: &[Vec<u8>]) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, &files[0]).unwrap();
    let file = format!(r#""file": {{"driver": "file", "filename": "{}"}}"#, path.display());
    let alone = format!(r#"json:{{"driver": "qcow2", "backing": null, {file}}}"#);
    let output = qemu_img(&["check", "--output", "json", &alone]);
    let text = String::from_utf8(output.stdout).unwrap();
    let number = |name: &str| {
        let (_, after) = text.split_once(&format!("\"{name}\": "))?;
        after.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    assert!(number("check-errors") == Some(0), "{text} {:?}", String::from_utf8_lossy(&output.stderr));
    (number("leaks").unwrap_or(0), number("corruptions").unwrap_or(0))
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (files, content) = image(&mut random);
        let machine = Machine::new(seed, &files, 1);
        let faulty = random.u8(0..4) == 0;
        let (model, memory) = (Model::new(&content), tempfile::tempdir().unwrap());
        let (flights, populating) = (Vec::new(), Vec::new());
        let mut run = Self { random, machine, model, flights, populating, written: 0, faulty, memory };
        run.open();
        run
    }

    fn open(&mut self) {
        self.machine.set_faults(Faults::default());
        let options = self.options();
        self.machine.open(options).unwrap();
        if self.faulty {
            let faults = Faults { flush_error: 0, ..Faults::random(&mut self.random) };
            self.machine.set_faults(faults);
        }
    }

    fn options(&mut self) -> Options {
        let journal =
            Place { directory: self.memory.path().to_owned(), slots: MOST + self.random.usize(0..64), changes: 0 };
        let pass_discard = self.random.bool();
        let journal = Some(journal);
        Options { read_only: false, l2_cache_bytes: 0, refcount_cache_bytes: 0, pass_discard, journal, changes: None }
    }

    fn request(&mut self) {
        let all = self.model.len();
        let start = self.random.usize(0..all);
        let most = if self.random.bool() { 8 } else { all };
        let sectors = start..start + self.random.usize(1..=most.min(all - start));
        if !self.model.is_idle(sectors.clone()) {
            return;
        }
        let kind = match self.random.u8(0..16) {
            0..=5 => Kind::Write,
            6..=9 => Kind::Read,
            10 => Kind::Zero { unmap: true },
            11 => Kind::Zero { unmap: false },
            12..=13 => Kind::Discard,
            _ => Kind::Flush,
        };
        self.begin(kind, sectors);
    }

    /// Has what shows from below in some range copied, which nobody is to notice.
    fn populate(&mut self) {
        let first = self.random.usize(0..self.model.len());
        let most = self.model.len() - first;
        let len = if self.random.bool() { most } else { self.random.usize(1..=most.min(64)) };
        self.populate_range(first * SECTOR, len * SECTOR);
    }

    fn populate_range(&mut self, offset: usize, len: usize) {
        let node = self.machine.node.clone().expect("an open image");
        let slot = self.machine.start(move |io| async move {
            let root = Root::new(&node);
            let node = root.visit();
            node.populate(&io, offset as u64, len as u64, &mut None).await
        });
        self.populating.push(slot);
    }

    fn begin(&mut self, kind: Kind, sectors: std::ops::Range<usize>) {
        let (offset, len) = (sectors.start * SECTOR, sectors.len() * SECTOR);
        let mut memory = Memory::empty();
        match kind {
            Kind::Write => {
                self.written += 1;
                let mut buf = Buf::new(len);
                buf.as_mut_slice().copy_from_slice(&bytes(self.written, sectors.len()));
                memory = Memory::from(buf);
                self.model.begin(sectors.clone(), self.written);
            }
            Kind::Read => {
                memory = Memory::from(Buf::new(len));
                self.model.begin_read(sectors.clone());
            }
            Kind::Zero { .. } | Kind::Discard => self.model.begin(sectors.clone(), 0),
            Kind::Flush => {}
        }
        let fua = kind == Kind::Write && self.random.u8(0..8) == 0;
        let range = if kind == Kind::Flush { (0, 0) } else { (offset as u64, len as u64) };
        let request = Request { kind, fua, offset: range.0, len: range.1, memory };
        let slot = self.machine.begin(self.random.usize(0..2), request);
        self.flights.push(Flight { kind, sectors, covered: self.model.covered(), slot });
    }

    /// Looks at what has ended.
    fn settle(&mut self) {
        let ended = self.populating.extract_if(.., |slot| slot.borrow().is_some());
        let failed = ended.filter_map(|slot| slot.take()).find_map(Result::err);
        assert!(failed.is_none() || self.faulty, "copying from below: {failed:?}");
        for index in (0..self.flights.len()).rev() {
            let Some((memory, result)) = self.flights[index].slot.take() else { continue };
            let Flight { kind, sectors, covered, .. } = self.flights.swap_remove(index);
            assert!(result.is_ok() || self.faulty, "{kind:?} of {sectors:?}: {result:?}");
            match kind {
                Kind::Read => {
                    self.model.end(sectors.clone(), false);
                    if result.is_ok() {
                        let data = memory.into_buf().unwrap();
                        let wrong = self.model.judge(sectors.start, data.as_slice(), false);
                        assert_eq!(wrong, None, "read of {sectors:?}");
                    }
                }
                Kind::Flush if result.is_ok() => self.model.flushed(&covered),
                Kind::Flush => {}
                // A discard may leave what was there.
                _ => self.model.end(sectors, result.is_ok() && kind != Kind::Discard),
            }
        }
    }

    /// Sends `count` requests, some of them at the same time, and leaves some under way.
    fn load(&mut self, count: usize) {
        for _ in 0..count {
            if self.flights.len() < 8 {
                self.request();
            }
            if self.populating.len() < 2 && self.random.u8(0..8) == 0 {
                self.populate();
            }
            for _ in 0..self.random.usize(0..6) {
                self.machine.step();
            }
            self.settle();
        }
    }

    fn finish(&mut self) {
        while !self.flights.is_empty() || !self.populating.is_empty() {
            let ended = |run: &Self| {
                run.flights.iter().all(|flight| flight.slot.borrow().is_some())
                    && run.populating.iter().all(|slot| slot.borrow().is_some())
            };
            assert!(self.machine.step() || ended(self), "a hang");
            self.settle();
        }
    }

    /// The whole disk, as a guest reads it.
    fn content(&mut self) -> Vec<u8> {
        self.machine.set_faults(Faults::default());
        let len = self.model.len() * SECTOR;
        let request =
            Request { kind: Kind::Read, fua: false, offset: 0, len: len as u64, memory: Memory::from(Buf::new(len)) };
        let slot = self.machine.begin(0, request);
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "a hang");
        }
        let (memory, result) = slot.take().unwrap();
        result.unwrap();
        memory.into_buf().unwrap().as_slice().to_vec()
    }

    fn verify(&mut self, crashed: bool) {
        let content = self.content();
        assert_eq!(self.model.judge(0, &content, crashed), None, "crashed: {crashed}");
        if crashed {
            self.model.adopt(&content);
        }
    }

    /// The process is killed, and perhaps the next ones while they open the image.
    fn kill(&mut self) {
        self.flights.clear();
        self.populating.clear();
        let noted = self.journals();
        self.machine.kill();
        self.machine.set_faults(Faults::default());
        for _ in 0..self.random.usize(0..3) {
            let (options, steps) = (self.options(), self.random.usize(0..200));
            self.machine.open_and_kill(options, steps);
        }
        let (_, corruptions) = check(&self.machine.contents());
        assert_eq!(corruptions, 0, "after it was killed");
        self.open();
        // An image that cannot name a journal is as after its last flush; with one everything is stable when it is open.
        self.verify(noted == 0);
        if noted == 0 {
            self.begin(Kind::Flush, 0..0);
            self.finish();
        }
        let content = self.content();
        self.model.adopt(&content);
    }

    fn journals(&self) -> usize {
        std::fs::read_dir(self.memory.path()).unwrap().count()
    }

    fn crash(&mut self, seed: u64) {
        self.memory = tempfile::tempdir().unwrap();
        self.flights.clear();
        self.populating.clear();
        let next = Machine::new(seed, &[], 1);
        let files = std::mem::replace(&mut self.machine, next).cut_power();
        let (_, corruptions) = check(&files);
        assert_eq!(corruptions, 0, "after the power was cut");
        self.machine = Machine::new(seed, &files, 1);
        self.open();
        self.verify(true);
        if self.faulty {
            self.machine.set_faults(Faults { flush_error: 0, ..Faults::random(&mut self.random) });
        }
    }

    /// With all of it copied from below the image shows the same without it.
    fn leave_backing(&mut self) {
        self.populate_range(0, self.model.len() * SECTOR);
        self.finish();
        let node = self.machine.node.clone().expect("an open image");
        let Driver::Qcow2(image) = node.driver() else { unreachable!("made in open") };
        image.change_backing(None);
        self.verify(false);
    }

    fn close(&mut self) {
        self.finish();
        self.verify(false);
        if self.random.bool() && !self.faulty {
            self.leave_backing();
        }
        self.machine.close().unwrap();
        let found = check(&self.machine.contents());
        // What was taken when storage failed may have been lost track of; what an earlier crash leaked, too.
        assert_eq!(found.1, 0, "after it was closed");
    }
}

/// One image's life: loads, crashes, and an orderly end.
fn live(seed: u64) {
    let mut run = Run::new(seed);
    let crashes = run.random.usize(0..3);
    for crash in 0..crashes {
        let count = run.random.usize(1..60);
        run.load(count);
        match run.random.bool() {
            true => run.crash(seed.wrapping_add(crash as u64 + 1)),
            false => run.kill(),
        }
    }
    let count = run.random.usize(1..100);
    run.load(count);
    let clean = crashes == 0 && !run.faulty;
    run.close();
    let leaks = check(&run.machine.contents()).0;
    assert!(leaks == 0 || !clean, "{leaks} clusters leaked by an image that was always closed in order");
}

#[test]
fn images_keep_what_guests_write_whatever_happens() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (start, seeds) = (number("START", 1), number("SEEDS", 150u64));
    for seed in start..start + seeds {
        let result = std::panic::catch_unwind(|| live(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
