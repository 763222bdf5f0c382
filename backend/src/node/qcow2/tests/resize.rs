//! Disks that get another size while guests write to them: what both sizes have stays, what is new is zero, and a power
//! cut at any step leaves the old size or the new one.

use super::machine::{Machine, Slot};
use super::model::{Model, SECTOR, bytes};
use super::random::check;
use crate::error::GraphError;
use crate::io::sim::Faults;
use crate::io::{Buf, Memory};
use crate::node::qcow2::open::Options;
use crate::node::{Driver, Kind, Node, Outcome, Request};
use std::process::Command;
use std::sync::Arc;

fn qemu_img(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is there");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A guest's disk, and what it knows of it.
struct Disk {
    random: fastrand::Rng,
    machine: Machine,
    model: Model,
    /// Sectors of the backing file.
    backing: usize,
    old: bool,
    /// Log2 of sectors in a cluster.
    shift: u32,
    written: u64,
    faulty: bool,
}

impl Disk {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let directory = tempfile::tempdir().unwrap();
        let (path, base) = (directory.path().join("image"), directory.path().join("base"));
        let cluster_bits: u32 = random.choice([9, 9, 10, 12, 16]).unwrap();
        let old = random.u8(0..5) == 0;
        let compat = if old { "0.10" } else { "1.1" };
        let options = format!("cluster_size={},compat={compat}", 1 << cluster_bits);
        let (sectors, backing) = (random.usize(0..3000), if random.bool() { random.usize(1..3000) } else { 0 });
        let (image, below) = (path.to_str().unwrap(), base.to_str().unwrap());
        let size = (sectors * SECTOR).to_string();
        let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", &options, image, &size];
        let mut content: Vec<u64> = (1..=backing as u64).map(|value| value << 32).collect();
        if backing > 0 {
            let raw: Vec<u8> = content.iter().flat_map(|value| bytes(*value, 1)).collect();
            std::fs::write(&base, raw).unwrap();
            arguments.extend(["-b", below, "-F", "raw"]);
        }
        qemu_img(&arguments);
        content.resize(sectors, 0);
        let files: Vec<_> = [path, base].iter().filter_map(|path| std::fs::read(path).ok()).collect();
        let machine = Machine::new(seed, &files, 1);
        let faulty = random.u8(0..4) == 0;
        let shift = cluster_bits - 9;
        let mut disk = Self { random, machine, model: Model::new(&content), backing, old, shift, written: 0, faulty };
        disk.open();
        disk
    }

    fn open(&mut self) {
        let pass_discard = self.random.bool();
        let options = Options {
            read_only: false,
            l2_cache_bytes: 0,
            refcount_cache_bytes: 0,
            pass_discard,
            journal: None,
            changes: None,
        };
        self.machine.set_faults(Faults::default());
        self.machine.open(options).unwrap();
    }

    fn node(&self) -> &Arc<Node> {
        self.machine.node.as_ref().unwrap()
    }

    fn sectors(&self) -> usize {
        usize::try_from(self.node().length()).unwrap() / SECTOR
    }

    fn send(&mut self, kind: Kind, sectors: std::ops::Range<usize>, memory: Memory) -> Slot<Outcome> {
        let (offset, len) = ((sectors.start * SECTOR) as u64, (sectors.len() * SECTOR) as u64);
        let reactor = self.random.usize(0..2);
        self.machine.begin(reactor, Request { kind, fua: false, offset, len, memory })
    }

    fn write(&mut self, sectors: std::ops::Range<usize>) -> Slot<Outcome> {
        self.written += 1;
        self.model.begin(sectors.clone(), self.written);
        let mut buf = Buf::new(sectors.len() * SECTOR);
        buf.as_mut_slice().copy_from_slice(&bytes(self.written, sectors.len()));
        self.send(Kind::Write, sectors, Memory::from(buf))
    }

    /// Sectors of the first `end`, not too many, if there are any.
    fn some(&mut self, end: usize) -> Option<std::ops::Range<usize>> {
        let start = (end > 0).then(|| self.random.usize(0..end))?;
        Some(start..start + self.random.usize(1..=40.min(end - start)))
    }

    fn finish<T>(&mut self, slot: &Slot<T>) -> T {
        while slot.borrow().is_none() {
            assert!(self.machine.step() || slot.borrow().is_some(), "a hang");
        }
        slot.take().unwrap()
    }

    fn flush(&mut self) {
        let covered = self.model.covered();
        let slot = self.send(Kind::Flush, 0..0, Memory::empty());
        if self.finish(&slot).1.is_ok() {
            self.model.flushed(&covered);
        }
    }

    /// Writes, discards and flushes here and there.
    fn load(&mut self) {
        for _ in 0..self.random.usize(0..12) {
            let Some(sectors) = self.some(self.sectors()) else { return };
            if self.random.u8(0..5) == 0 {
                self.model.begin(sectors.clone(), 0);
                let slot = self.send(Kind::Zero { unmap: true }, sectors.clone(), Memory::empty());
                let ended = self.finish(&slot).1.is_ok();
                self.model.end(sectors, ended);
                continue;
            }
            let slot = self.write(sectors.clone());
            let ended = self.finish(&slot).1.is_ok();
            self.model.end(sectors, ended);
            if self.random.u8(0..4) == 0 {
                self.flush();
            }
        }
    }

    fn begin_resize(&mut self, sectors: usize) -> Slot<Result<(), GraphError>> {
        let node = self.node().clone();
        self.machine.begin_task(|io, graph| async move { graph.resize(&io, &node, (sectors * SECTOR) as u64).await })
    }

    /// Another size, with a write of the guest's on its way; with `steps`, the power goes after that many.
    fn resize(&mut self, steps: Option<usize>) {
        let old = self.sectors();
        let new = self.other_size(old);
        self.resize_to(new, steps);
    }

    fn other_size(&mut self, old: usize) -> usize {
        match self.random.u8(0..3) {
            0 => old + self.random.usize(0..1 + (2 << self.shift)),
            1 => old.saturating_sub(self.random.usize(0..1 + (2 << self.shift))),
            _ => self.random.usize(0..6000),
        }
    }

    fn resize_to(&mut self, new: usize, steps: Option<usize>) {
        let old = self.sectors();
        if self.faulty {
            let faults = Faults { flush_error: 0, ..Faults::random(&mut self.random) };
            self.machine.set_faults(faults);
        }
        let both = self.some(old.min(new));
        let write = both.clone().map(|sectors| self.write(sectors));
        for _ in 0..self.random.usize(0..4) {
            self.machine.step();
        }
        let resize = self.begin_resize(new);
        if let Some(steps) = steps {
            for _ in 0..steps {
                self.machine.step();
            }
            drop((resize, write));
            return self.cut(old, new);
        }
        let result = self.finish(&resize);
        if let (Some(write), Some(sectors)) = (write, both) {
            let ended = self.finish(&write).1;
            assert!(ended.is_ok() || self.faulty, "{ended:?}");
            self.model.end(sectors, ended.is_ok());
        }
        self.machine.set_faults(Faults::default());
        self.ended(old, new, &result);
    }

    fn ended(&mut self, old: usize, new: usize, result: &Result<(), GraphError>) {
        let hidden = new > old && self.backing > old;
        match result {
            Ok(()) => {
                assert!(!(self.old && hidden), "version 2 has no zero clusters");
                assert_eq!(self.sectors(), new);
                self.model.resize(new);
            }
            Err(error) if self.old && hidden => {
                assert_eq!(error.to_string(), "Failed to zero out new clusters: Operation not supported");
            }
            Err(error) => {
                assert!(self.faulty, "{old} -> {new}: {error}");
                assert_eq!(self.sectors(), old);
                // What was to go may have gone. All that is found from here on is to be there after a power cut.
                let flush = self.send(Kind::Flush, 0..0, Memory::empty());
                assert_eq!(self.finish(&flush).1, Ok(()));
                self.model.resize(new.min(old));
                let content = self.content();
                self.model.resize(old);
                self.adopt(new.min(old), &content);
            }
        }
    }

    /// What is there from a sector on counts.
    fn adopt(&mut self, from: usize, content: &[u8]) {
        let mut kept = self.model.clone();
        kept.resize(from);
        assert_eq!(kept.judge(0, &content[..from * SECTOR], true), None);
        self.model.adopt(content);
    }

    fn cut(&mut self, old: usize, new: usize) {
        let seed = self.random.u64(..);
        let machine = std::mem::replace(&mut self.machine, Machine::new(seed, &[], 1));
        let files = machine.cut_power();
        assert_eq!(check(&files).1, 0, "{old} -> {new}: after a power cut");
        self.machine = Machine::new(seed, &files, 1);
        self.open();
        let found = self.sectors();
        assert!(found == old || found == new, "{old} -> {new}: found {found}");
        let content = self.content();
        if found == new && new > old {
            assert!(content[old * SECTOR..].iter().all(|byte| *byte == 0), "{old} -> {new}: what is new is zero");
        }
        self.model.resize(found);
        self.adopt(old.min(new), &content);
    }

    fn content(&mut self) -> Vec<u8> {
        let sectors = self.sectors();
        let slot = self.send(Kind::Read, 0..sectors, Memory::from(Buf::new(sectors * SECTOR)));
        let (memory, result) = self.finish(&slot);
        result.unwrap();
        memory.into_buf().unwrap().as_slice().to_vec()
    }

    fn verify(&mut self) {
        let content = self.content();
        assert_eq!(content.len(), self.model.len() * SECTOR);
        assert_eq!(self.model.judge(0, &content, false), None);
    }

    /// Closed in order; QEMU sees the same, and leaks only where there was a power cut or a fault.
    fn close(mut self, clean: bool) {
        let content = self.content();
        self.machine.close().unwrap();
        let files = self.machine.contents();
        let (leaks, corruptions) = check(&files);
        assert!(corruptions == 0 && (leaks == 0 || !clean), "{leaks} leaks, {corruptions} corruptions");
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<_> = ["image", "base", "raw"].map(|name| directory.path().join(name)).to_vec();
        paths.iter().zip(&files).for_each(|(path, content)| std::fs::write(path, content).unwrap());
        let [image, base, raw] = [0, 1, 2].map(|number: usize| paths[number].to_str().unwrap());
        if self.backing > 0 {
            qemu_img(&["rebase", "-u", "-f", "qcow2", "-b", base, "-F", "raw", image]);
        }
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", image, raw]);
        assert!(std::fs::read(raw).unwrap() == content, "QEMU sees something else");
    }
}

/// Some changes of one disk's size.
fn live(seed: u64) {
    let mut disk = Disk::new(seed);
    let mut clean = !disk.faulty;
    for _ in 0..disk.random.usize(1..7) {
        disk.load();
        let steps = (disk.random.u8(0..3) == 0).then(|| disk.random.usize(0..150));
        clean &= steps.is_none();
        disk.resize(steps);
        disk.verify();
    }
    disk.load();
    disk.verify();
    disk.close(clean);
}

#[test]
fn disks_keep_what_both_sizes_have_and_grow_by_zeroes() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (start, seeds) = (number("START", 1), number("SEEDS", 40u64));
    for seed in start..start + seeds {
        let result = std::panic::catch_unwind(|| live(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_power_cut_at_any_step_leaves_one_size_or_the_other() {
    // Clusters of one sector: an L1 table is soon too short, and each step of its replacement is met.
    let is_such = |disk: &Disk| disk.shift == 0 && !disk.old && !disk.faulty;
    let seeds = (1..).filter(|seed| is_such(&Disk::new(*seed))).take(1);
    for (seed, steps) in seeds.flat_map(|seed| (0..80).map(move |steps| (seed, steps))) {
        let mut disk = Disk::new(seed);
        disk.load();
        let (small, large) = (disk.sectors(), disk.sectors() + 5000);
        disk.resize_to(large, Some(steps));
        disk.resize_to(large, None);
        disk.load();
        disk.flush();
        disk.resize_to(small / 2, Some(steps));
        disk.verify();
        disk.close(false);
    }
}

#[test]
fn a_file_becomes_shorter_with_its_disk_while_guests_write() {
    for seed in (1..).filter(|seed| !Disk::new(*seed).faulty).take(12) {
        let mut disk = Disk::new(seed);
        disk.resize_to(if disk.old && disk.backing > 0 { disk.sectors() } else { 9000 }, None);
        let all = disk.sectors();
        let slot = disk.write(0..all);
        disk.finish(&slot).1.unwrap();
        disk.model.end(0..all, true);
        let before = disk.machine.contents()[0].len();
        disk.resize_to(all / 9, None);
        let after = disk.machine.contents()[0].len();
        assert!(after <= before - all / 2 * SECTOR, "seed {seed}: {before} bytes, then {after}");
        disk.load();
        disk.verify();
        disk.close(true);
    }
}

#[test]
fn sizes_that_an_image_cannot_have_are_refused() {
    let refused = |options: &str, snapshot: bool, size: u64| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        let image = path.to_str().unwrap();
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, image, "1M"]);
        if snapshot {
            qemu_img(&["snapshot", "-c", "one", image]);
        }
        let mut machine = Machine::new(1, &[std::fs::read(&path).unwrap()], 1);
        let [l2_cache_bytes, refcount_cache_bytes] = [0; 2];
        machine
            .open(Options {
                read_only: false,
                l2_cache_bytes,
                refcount_cache_bytes,
                pass_discard: false,
                journal: None,
                changes: None,
            })
            .unwrap();
        let node = machine.node.clone().unwrap();
        let Driver::Qcow2(image) = node.driver() else { unreachable!("an image") };
        image.check_size(size).unwrap_err().to_string()
    };
    assert_eq!(refused("compat=1.1", false, 100), "The new size must be a multiple of 512");
    assert_eq!(refused("compat=1.1", false, 1 << 62), "Failed to grow the L1 table: File too large");
    assert_eq!(refused("compat=0.10", true, 2 << 20), "Can't resize a v2 image which has snapshots");
}
