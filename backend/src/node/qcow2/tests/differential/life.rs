//! One image's life: opened, used, closed in order, changed by QEMU in between, and judged by all who can read it.

use super::super::machine::Machine;
use super::super::model::{Model, SECTOR};
use super::load::Load;
use super::origin::{Data, Origin};
use super::{Total, imago};
use crate::node::qcow2::open::Options;
use std::fs;

/// The image, and what was kept of it.
struct Life {
    random: fastrand::Rng,
    seed: u64,
    origin: Origin,
    /// Of each snapshot, what the guest had.
    snapshots: Vec<(String, Vec<u64>)>,
}

/// What a sequence with this seed does.
pub fn live(seed: u64, total: &mut Total) {
    let mut random = fastrand::Rng::with_seed(seed);
    let origin = Origin::new(&mut random);
    let mut life = Life { random, seed, origin, snapshots: Vec::new() };
    let below = life.below();
    let openings = life.random.choice([1, 2, 2, 3, 3]).unwrap_or(1);
    let operations = life.random.usize(50..90);
    for opening in 1..=openings {
        life.open_and_use(operations.div_ceil(openings), total);
        if opening < openings {
            life.change_by_qemu(total);
        }
    }
    total.operations += operations.div_ceil(openings) as u64 * openings as u64;
    life.judge(total);
    assert!(life.below() == below, "the chain below was written to");
}

impl Life {
    /// The files, in the order of the machine's disks: the image, its data file, the chain below.
    fn names(&self) -> Vec<&str> {
        let data = (self.origin.data != Data::Inside).then_some("data");
        let layers = self.origin.layers.iter().map(|layer| layer.name.as_str());
        ["disk"].into_iter().chain(data).chain(layers).collect()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.origin.qemu.path(name)).unwrap()
    }

    /// The files of the chain below.
    fn below(&self) -> Vec<Vec<u8>> {
        self.origin.layers.iter().map(|layer| self.read(&layer.name)).collect()
    }

    fn open(&mut self) -> Machine {
        let contents: Vec<Vec<u8>> = self.names().into_iter().map(|name| self.read(name)).collect();
        let mut machine = Machine::new(self.seed, &contents, 1);
        let pass_discard = self.random.bool();
        // As little memory as there can be: tables come and go.
        let options = Options {
            read_only: false,
            l2_cache_bytes: 0,
            refcount_cache_bytes: 0,
            pass_discard,
            journal: None,
            changes: None,
        };
        let own = contents.len() - self.origin.layers.len();
        let mut backing = None;
        for (number, layer) in self.origin.layers.iter().enumerate().rev() {
            let file = machine.file(own + number);
            backing = Some(match layer.raw {
                true => file,
                false => machine.open_below(file, backing, options.clone()).unwrap(),
            });
        }
        let data = (own == 2).then(|| machine.file(1));
        machine.open_over(data, backing, options).unwrap();
        machine
    }

    /// From an opening to an orderly end, after which nothing is wrong with the image.
    fn open_and_use(&mut self, operations: usize, total: &mut Total) {
        let machine = self.open();
        let discards = self.origin.version > 2 || self.origin.layers.is_empty();
        let mut load = Load::new(machine, &self.origin.content, self.origin.cluster_bits - 9, discards);
        let before = self.random.usize(0..operations);
        load.run(&mut self.random, before, &mut total.coverage);
        if self.random.u8(0..3) == 0 {
            self.judge_copy(&load, total);
        }
        load.run(&mut self.random, operations - before, &mut total.coverage);
        load.zero_some(&mut self.random, &mut total.coverage);
        load.finish();
        load.content();
        load.machine.close().unwrap();
        for (name, content) in self.names().into_iter().zip(load.machine.contents()) {
            fs::write(self.origin.qemu.path(name), content).unwrap();
        }
        self.origin.content = load.model.values();
        assert_eq!(self.origin.qemu.check("disk"), (0, 0), "leaks and corruptions after it was closed");
    }

    /// A copy of the files under load is what is left of an image whose daemon was killed.
    fn judge_copy(&self, load: &Load, total: &mut Total) {
        let _ = fs::remove_dir_all(self.origin.qemu.path("copy"));
        let qemu = self.origin.qemu.inside("copy");
        for (name, content) in self.names().into_iter().zip(load.machine.contents()) {
            fs::write(qemu.path(name), content).unwrap();
        }
        assert_eq!(qemu.check("disk").1, 0, "corruptions of a copy under load");
        let content = qemu.content("disk", None);
        assert_eq!(load.model.judge(0, &content, true), None, "a copy under load");
        total.copies += 1;
    }

    /// What QEMU's tools do to images that are closed.
    fn change_by_qemu(&mut self, total: &mut Total) {
        let choice = self.random.u8(0..13);
        match choice {
            0..=6 if self.may_have_snapshots() => {
                let name = format!("s{}", total.snapshots);
                self.origin.qemu.img(&["snapshot", "-c", &name, "disk"]);
                self.snapshots.push((name, self.origin.content.clone()));
                total.snapshots += 1;
            }
            7 if !self.snapshots.is_empty() => {
                let (name, content) = self.snapshots[self.random.usize(0..self.snapshots.len())].clone();
                self.origin.qemu.img(&["snapshot", "-a", &name, "disk"]);
                self.origin.content = content;
            }
            8 if !self.snapshots.is_empty() => {
                let (name, _) = self.snapshots.swap_remove(self.random.usize(0..self.snapshots.len()));
                self.origin.qemu.img(&["snapshot", "-d", &name, "disk"]);
            }
            9 | 10 if self.may_grow() => self.resize(),
            11 => self.origin.scribble(&mut self.random, false),
            _ => {}
        }
        assert_eq!(self.origin.qemu.check("disk"), (0, 0), "leaks and corruptions after QEMU's {choice}");
    }

    /// Reference counts have to have room for them, and compressed clusters count much by themselves.
    fn may_have_snapshots(&self) -> bool {
        let Origin { data, refcount_bits, compressed, .. } = self.origin;
        let most = match refcount_bits {
            1 => 0,
            2 | 4 if compressed => 0,
            _ => 2,
        };
        data == Data::Inside && self.snapshots.len() < most
    }

    /// Version 2 cannot say that what a longer backing file has is not shown, nor of snapshots how long they are.
    fn may_grow(&self) -> bool {
        self.snapshots.is_empty() && (self.origin.version > 2 || self.origin.layers.is_empty())
    }

    /// What comes to the disk is zero, even where the backing file has something.
    fn resize(&mut self) {
        let sectors = self.origin.content.len() + self.random.usize(1..200);
        self.origin.qemu.img(&["resize", "-q", "-f", "qcow2", "disk", &(sectors * SECTOR).to_string()]);
        self.origin.content.resize(sectors, 0);
    }

    /// At the end all have to agree.
    fn judge(&mut self, total: &mut Total) {
        let Origin { qemu, content, zstd, extended, data, .. } = &self.origin;
        let model = Model::new(content);
        assert_eq!(model.judge(0, &qemu.content("disk", None), false), None, "as QEMU reads it");
        match *zstd || *extended {
            true => total.not_by_imago += 1,
            false => {
                total.imago += 1;
                assert_eq!(model.judge(0, &imago::content(qemu).unwrap(), false), None, "as imago reads it");
            }
        }
        if *data == Data::Raw {
            assert_eq!(model.judge(0, &self.read("data"), false), None, "the data file itself");
        }
        for (name, content) in &self.snapshots {
            let found = qemu.content("disk", Some(name));
            let shown = found.len().min(content.len() * SECTOR);
            let wrong = Model::new(content).judge(0, &found[..shown], false);
            assert_eq!(wrong, None, "the snapshot {name}");
        }
    }
}
