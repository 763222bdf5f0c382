//! The power is cut at any moment of an image's life: its bitmaps are right or in use then, and never gone but for
//! those that were being removed.

use super::made::Made;
use super::opened::{Opened, image, options};
use crate::io::sim::Faults;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::open::{Files, read_header};
use crate::node::qcow2::tests::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};

/// What a bitmap is to be.
#[derive(Clone, Default)]
struct Expected {
    granularity: u64,
    enabled: bool,
    /// Numbers of the blocks that it marks.
    blocks: BTreeSet<u64>,
    /// The file has it.
    stored: bool,
    /// Somebody has begun to remove it.
    leaving: bool,
    inconsistent: bool,
}

impl Expected {
    fn mark(&mut self, offset: u64, len: u64) {
        if self.enabled && !self.inconsistent {
            self.blocks.extend(offset / self.granularity..(offset + len).div_ceil(self.granularity));
        }
    }
}

/// An image, and what its bitmaps are to be.
struct Life {
    random: fastrand::Rng,
    seed: u64,
    size: u64,
    file: Made,
    /// The name in its header.
    backing: Option<String>,
    bitmaps: BTreeMap<String, Expected>,
    names: u32,
    crashes: u32,
}

/// When the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Open,
    Load,
    Remove,
    Store,
    Never,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let cluster = random.choice([512, 4096, 65536]).unwrap();
        let size = random.u64(1..8 << 11) * 512;
        let name = "n".repeat(random.usize(1..300));
        let backing = (cluster > 512 && random.bool()).then_some(name);
        let backed = backing.as_ref().map_or(String::new(), |name| format!("-b {name} -F raw -u"));
        let file = Made::create(&format!("-o cluster_size={cluster} {backed}"), size);
        let mut life = Self { backing, random, seed, size, file, bitmaps: BTreeMap::new(), names: 0, crashes: 0 };
        for _ in 0..life.random.u8(0..3) {
            let (name, expected) = life.invent();
            let disabled = if expected.enabled { "" } else { "--disable" };
            life.file.add(&format!("{disabled} -g {}", expected.granularity), &name);
            life.bitmaps.insert(name, Expected { stored: true, ..expected });
        }
        life
    }

    fn invent(&mut self) -> (String, Expected) {
        self.names += 1;
        let granularity = 1 << self.random.u32(9..18);
        let enabled = self.random.u8(0..4) > 0;
        // Directories of one sector and of several.
        let pad = "x".repeat(self.random.choice([0, 0, 200, 1000]).unwrap());
        (format!("b{}{pad}", self.names), Expected { granularity, enabled, ..Expected::default() })
    }

    /// Opens the image, uses it and closes it, as far as it comes.
    fn session(&mut self, moment: Moment) {
        let seed = self.seed * 100 + u64::from(self.crashes);
        let mut machine = Machine::new(seed, &[self.file.bytes()], 1);
        let write_back = self.random.choice([0, 100, 400]).unwrap();
        machine.set_faults(Faults { write_back, ..Faults::default() });
        if moment == Moment::Open {
            let file = machine.file(0);
            let _opened = machine.start(move |io| async move {
                let header = read_header(&io, &file).await.unwrap();
                Image::open(&io, &header, Files { file, data: None, backing: None }, &options(false)).await.is_ok()
            });
            return self.cut(machine, 40);
        }
        machine.open(options(false)).unwrap();
        let mut opened = Opened { machine };
        self.load(&mut opened);
        match moment {
            Moment::Load => {
                let (offset, len) = self.range();
                let _write = opened.begin(offset, len, 1);
                self.cut(opened.machine, 20);
            }
            Moment::Remove => self.remove(opened),
            Moment::Store => {
                let node = opened.node();
                let _stored = opened.machine.start(move |io| async move {
                    image(&node).store_bitmaps(&io, node.points()).await.unwrap();
                    image(&node).close(&io, node.points()).await.unwrap();
                });
                self.bitmaps.values_mut().for_each(|bitmap| bitmap.leaving = false);
                self.cut(opened.machine, 120);
            }
            Moment::Open | Moment::Never => {
                self.file = opened.close();
                for bitmap in self.bitmaps.values_mut() {
                    bitmap.stored = true;
                    // What was stored is right, and is there.
                    bitmap.leaving = false;
                }
                self.judge(true);
            }
        }
    }

    fn range(&mut self) -> (u64, u64) {
        let offset = self.random.u64(0..self.size / 512);
        let len = self.random.u64(1..=(self.size / 512 - offset).min(200));
        (offset * 512, len * 512)
    }

    fn any(&mut self) -> Option<String> {
        let names: Vec<&String> = self.bitmaps.keys().collect();
        self.random.choice(names).cloned()
    }

    /// A guest writes, an operator changes bitmaps.
    fn load(&mut self, opened: &mut Opened) {
        for _ in 0..self.random.u8(1..12) {
            match (self.random.u8(0..8), self.any()) {
                (0, _) => {
                    let (name, expected) = self.invent();
                    opened.add(&name, expected.granularity, !expected.enabled);
                    self.bitmaps.insert(name, expected);
                }
                (1, Some(name)) if !self.bitmaps[&name].inconsistent => {
                    opened.edit(|stage, node| stage.clear(node, &name));
                    self.bitmaps.get_mut(&name).unwrap().blocks.clear();
                }
                (2, Some(name)) if !self.bitmaps[&name].inconsistent => {
                    opened.edit(|stage, node| stage.disable(node, &name));
                    self.bitmaps.get_mut(&name).unwrap().enabled = false;
                }
                (3, Some(name)) => {
                    opened.edit(|stage, node| stage.remove(node, &name));
                    self.bitmaps.remove(&name);
                }
                _ => {
                    let (offset, len) = self.range();
                    opened.write(offset, len);
                    self.bitmaps.values_mut().for_each(|bitmap| bitmap.mark(offset, len));
                }
            }
        }
    }

    fn remove(&mut self, opened: Opened) {
        if let Some(name) = self.any() {
            self.bitmaps.get_mut(&name).unwrap().leaving = true;
            let node = opened.node();
            let _removed = opened.machine.start(move |io| async move { image(&node).remove_bitmap(&io, &name).await });
        }
        self.cut(opened.machine, 60);
    }

    /// The power fails after at most so many steps.
    fn cut(&mut self, mut machine: Machine, steps: usize) {
        for _ in 0..self.random.usize(0..steps) {
            machine.step();
        }
        self.file = Made::of(&machine.cut_power()[0]);
        self.crashes += 1;
        self.judge(false);
    }

    /// Looks at the bitmaps that the file has.
    fn judge(&mut self, closed: bool) {
        let (leaks, corruptions) = self.file.check();
        assert_eq!(corruptions, 0);
        assert!(leaks == 0 || self.crashes > 0, "{leaks} clusters leaked");
        let opened = Opened::new(&self.file, true);
        let named = image(&opened.node()).header().backing.clone().map(|backing| (backing.file, backing.format));
        assert_eq!(named, self.backing.clone().map(|name| (name, Some("raw".to_owned()))), "the backing file");
        let list = opened.list();
        let theirs: Vec<_> = self.file.told().into_iter().map(|told| (told.name, told.in_use)).collect();
        let ours: Vec<_> = list.iter().map(|info| (info.name.clone(), info.inconsistent)).collect();
        assert_eq!(ours, theirs, "as we see it and as QEMU does");
        for info in &list {
            let expected = self.bitmaps.get_mut(&info.name).unwrap_or_else(|| panic!("{} was removed", info.name));
            expected.stored = true;
            assert!(!(info.inconsistent && closed) || expected.inconsistent, "{} was stored", info.name);
            expected.inconsistent |= info.inconsistent;
            if info.inconsistent {
                continue;
            }
            assert!(!expected.inconsistent, "{} was not right, and nobody has made it right", info.name);
            let bits = opened.marked(&info.name);
            let block =
                |run: std::ops::Range<u64>| run.start / expected.granularity..run.end.div_ceil(expected.granularity);
            let blocks: BTreeSet<u64> = bits.into_iter().flat_map(block).collect();
            assert_eq!(blocks, expected.blocks, "{}", info.name);
            assert_eq!(info.recording, expected.enabled, "{}", info.name);
        }
        let there = |name: &str| list.iter().any(|info| info.name == name);
        for (name, expected) in &self.bitmaps {
            assert!(there(name) || !expected.stored || expected.leaving, "{name} is gone");
        }
        self.bitmaps.retain(|name, _| there(name));
        self.bitmaps.values_mut().for_each(|bitmap| bitmap.leaving = false);
    }
}

fn live(seed: u64) {
    let mut life = Life::new(seed);
    for _ in 0..life.random.u8(1..6) {
        let moments = [Moment::Open, Moment::Load, Moment::Remove, Moment::Store, Moment::Store, Moment::Never];
        let moment = life.random.choice(moments).unwrap();
        life.session(moment);
    }
    life.session(Moment::Never);
}

#[test]
fn bitmaps_are_right_or_in_use_whenever_the_power_is_cut() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (start, seeds) = (number("START", 1), number("SEEDS", 60u64));
    for seed in start..start + seeds {
        let result = std::panic::catch_unwind(|| live(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
