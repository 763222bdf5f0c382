//! How an image is when a recording begins: as QEMU's tools make it, or as a power cut has left it.

use super::disk::{Marks, SECTOR, SECTORS, Windows};
use super::rig::{DATA, Files, Rig};
use super::truth::{Begun, Said};
use super::verdict::{Found, look};
use crate::node::qcow2::tests::bitmaps::opened::options;
use crate::node::qcow2::tests::model::bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

/// What is special about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Every cluster is there already: what is written is seen at once.
    Mapped,
    /// None is.
    Sparse,
    /// The disk is a raw file beside the image.
    Raw,
    /// The disk becomes longer.
    Grown,
    /// The journal has several sectors of areas, and gets more.
    Large,
    /// The journal cannot be written at times.
    Failing,
    /// One of its bitmaps is inconsistent already.
    Lost,
    /// It has none, and its journal begins with the first.
    Bare,
}

/// All of them.
pub const SHAPES: [Shape; 8] =
    [Shape::Mapped, Shape::Raw, Shape::Sparse, Shape::Grown, Shape::Large, Shape::Failing, Shape::Lost, Shape::Bare];

impl Shape {
    /// Bytes per bit of some bitmap of such an image.
    pub fn granularity(self, random: &mut fastrand::Rng) -> u64 {
        match self {
            Self::Large => random.choice([1 << 16, 1 << 18]).unwrap(),
            _ => random.choice([512, 4096, 1 << 16, 1 << 18]).unwrap(),
        }
    }
}

/// The beginning of a recording.
pub struct Start {
    pub shape: Shape,
    pub files: Files,
    pub windows: Windows,
    pub content: Vec<u64>,
    pub bitmaps: BTreeMap<String, Begun>,
}

impl Start {
    /// An image with a bitmap that records and one that does not.
    pub fn new(shape: Shape, random: &mut fastrand::Rng) -> Self {
        let size = match shape {
            Shape::Large => random.u64(3000 << 20..3900 << 20) / SECTOR * SECTOR,
            // With more areas fewer are written to again and again.
            Shape::Sparse => random.u64((20 << 20) / SECTOR..(40 << 20) / SECTOR) * SECTOR,
            Shape::Raw => random.u64((5 << 20) / SECTOR..(8 << 20) / SECTOR) * SECTOR,
            _ => random.u64((2 << 20) / SECTOR..(5 << 20) / SECTOR) * SECTOR,
        };
        let reach = match shape {
            Shape::Large => size + (2 << 30),
            Shape::Grown => size + (2 << 20),
            _ => size,
        };
        let windows = windows(size, reach, random);
        let files = make(shape, size, &windows, random);
        let found = look(1, &files, &windows).expect("QEMU has made it");
        let begun = |(name, bitmap): (String, super::verdict::Bitmap)| {
            let said = match (bitmap.inconsistent, bitmap.recording) {
                (true, _) => Said::Lost,
                (_, recording) => Said::Exact { must: bitmap.marks.clone(), recording },
            };
            (name, Begun { granularity: bitmap.granularity, said, may: bitmap.marks })
        };
        let bitmaps = found.bitmaps.into_iter().map(begun).collect();
        let mut start = Self { shape, files, windows, content: found.content, bitmaps };
        start.record();
        start
    }

    /// What a power cut has left, and was found right.
    pub fn after(shape: Shape, files: Files, windows: Windows, found: Found, said: BTreeMap<String, Begun>) -> Self {
        let mut start = Self { shape, files, windows, content: found.content, bitmaps: said };
        start.record();
        start
    }

    /// Bitmaps that record mark what will not be any more what it is now.
    fn record(&mut self) {
        let base = Rc::new(self.content.iter().map(|value| vec![*value]).collect::<Vec<_>>());
        for begun in self.bitmaps.values_mut() {
            if let Said::Exact { must, recording: true } = &begun.said {
                begun.said = Said::Recording { base: base.clone(), must: must.clone() };
            }
        }
    }
}

/// Windows in areas of their own and across their borders; those past `size` are there when the disk is longer.
fn windows(size: u64, reach: u64, random: &mut fastrand::Rng) -> Windows {
    let last = |end: u64| (end / SECTOR - SECTORS) * SECTOR;
    let mut starts: Vec<u64> = (0..8).map(|_| random.u64(0..=last(size) / SECTOR) * SECTOR).collect();
    starts.extend((0..3).map(|_| random.u64(1..=size >> 20) << 20).map(|border| last(border) + SECTORS / 2 * SECTOR));
    if reach > size {
        starts.extend((0..8).map(|_| random.u64(size / SECTOR..=last(reach) / SECTOR) * SECTOR));
    }
    Windows::new(starts)
}

fn tool(directory: &Path, tool: &str, arguments: &str) {
    let output = Command::new(tool).args(arguments.split_whitespace()).current_dir(directory).output();
    let output = output.expect("it is there");
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("failed"), "{tool} {arguments}: {text}");
}

fn make(shape: Shape, size: u64, windows: &Windows, random: &mut fastrand::Rng) -> Files {
    let directory = tempfile::tempdir().unwrap();
    let tool = |program, arguments: &str| tool(directory.path(), program, arguments);
    let cluster = match shape {
        Shape::Large => 1 << 16,
        _ => random.choice([4096, 1 << 16]).unwrap(),
    };
    let mapped = !matches!(shape, Shape::Sparse | Shape::Large | Shape::Raw);
    let mut options = format!("cluster_size={cluster}");
    if mapped {
        options += ",preallocation=metadata";
    }
    if shape == Shape::Raw {
        options += ",data_file=data,data_file_raw=on";
    }
    tool("qemu-img", &format!("create -q -f qcow2 -o {options} image {size}"));
    let mut write = || {
        for (first, bytes) in windows.within(size).into_iter().filter(|_| random.bool()) {
            let content: Vec<u8> = (0..SECTORS).flat_map(|at| self::bytes((first as u64 + at + 1) << 40, 1)).collect();
            std::fs::write(directory.path().join("piece"), content).unwrap();
            write_in(directory.path(), &format!("write -q -s piece {} {}", bytes.start, bytes.end - bytes.start));
        }
    };
    write();
    if shape != Shape::Bare {
        tool("qemu-img", "bitmap --add -g 65536 image b0");
    }
    if !matches!(shape, Shape::Bare | Shape::Lost) {
        tool("qemu-img", &format!("bitmap --add -g {} image b1", if shape == Shape::Large { 1 << 17 } else { 4096 }));
        write();
        tool("qemu-img", "bitmap --disable image b1");
    }
    let mut contents = vec![std::fs::read(directory.path().join("image")).unwrap(), Vec::new()];
    if shape == Shape::Raw {
        contents.insert(DATA, std::fs::read(directory.path().join("data")).unwrap());
    }
    let files = Files { contents, journal: false };
    if shape == Shape::Lost { killed(&files) } else { files }
}

/// Writes as a guest of QEMU does.
fn write_in(directory: &Path, command: &str) {
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", command, "image"]).current_dir(directory).output();
    let output = output.expect("it is there");
    assert!(output.status.success(), "{command}: {output:?}");
}

/// The image after somebody has opened it who keeps no journal, and was killed.
fn killed(files: &Files) -> Files {
    let mut rig = Rig::new(1, files);
    rig.open_with(options(false)).unwrap();
    let files = rig.files();
    rig.machine.kill();
    files
}

/// The blocks of bitmaps that differ from what they are to be told apart from.
pub fn changed(windows: &Windows, base: &[Vec<u64>], content: &[u64], size: u64, granularity: u64) -> Marks {
    let mut marks = Marks::new(granularity);
    for (first, bytes) in windows.within(size) {
        let sectors = usize::try_from((bytes.end - bytes.start) / SECTOR).unwrap();
        for sector in (first..first + sectors).filter(|sector| !base[*sector].contains(&content[*sector])) {
            marks.mark(&windows.place(sector));
        }
    }
    marks
}
