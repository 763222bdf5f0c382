//! What an image begins as: made by QEMU's tools, of every kind they make, over chains of other images; and what a guest
//! finds on it then, by sector.

use super::super::model::{SECTOR, bytes};
use super::qemu::Qemu;
use std::path::Path;

/// Where the guest's clusters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// In the image.
    Inside,
    /// In a file of their own.
    Outside,
    /// In one that is the guest's disk byte for byte.
    Raw,
}

/// An image of the chain below.
#[derive(Clone, Debug)]
pub struct Layer {
    pub name: String,
    pub raw: bool,
}

/// The image `disk` in a directory of its own.
#[derive(Debug)]
pub struct Origin {
    pub qemu: Qemu,
    pub cluster_bits: u32,
    pub version: u32,
    pub refcount_bits: u32,
    pub zstd: bool,
    /// Entries tell of parts of clusters.
    pub extended: bool,
    pub data: Data,
    /// The chain below, the image's own backing file first.
    pub layers: Vec<Layer>,
    /// Some clusters are compressed.
    pub compressed: bool,
    /// What the guest finds.
    pub content: Vec<u64>,
}

/// The number in sectors that `qemu-io` has filled with a byte.
fn filled(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Bits of a cluster size, sectors of a disk with such clusters.
fn shape(random: &mut fastrand::Rng) -> (u32, usize) {
    let bits = match random.u8(0..33) {
        0..=9 => 9,
        10..=16 => 12,
        17..=22 => 16,
        _ => random.choice([10, 11, 13, 14, 15, 17, 18, 19, 20, 21]).unwrap_or_default(),
    };
    let most = match bits {
        // Their refcount table has to grow.
        9 if random.u8(0..10) == 0 => 7000,
        9 => 600,
        10..=14 => 60,
        15..=17 => 12,
        18..=20 => 5,
        _ => 3,
    };
    let clusters = random.usize(2..=most);
    (bits, (clusters << (bits - 9)) + random.usize(0..5))
}

/// Writes of a program to an image, and what they leave in `content`. QEMU compresses only into clusters that have none,
/// and spoils an image (QEMU 10.0) if it compresses after it has written something else.
pub fn scribble(random: &mut fastrand::Rng, image: &Image, content: &mut [u64]) -> Vec<String> {
    let unit = 1 << (image.cluster_bits - 9);
    let mut taken = vec![!image.may_compress; content.len().div_ceil(unit)];
    let mut command = |compressed: bool| {
        let byte = random.u8(1..);
        let start = random.usize(0..content.len());
        let end = start + random.usize(1..=(content.len() - start).min(4 * unit));
        let clusters = start / unit..end.div_ceil(unit);
        let whole = clusters.start * unit..(clusters.end * unit).min(content.len());
        let (range, command, value) = match random.u8(0..4) {
            _ if compressed && taken[clusters.clone()].contains(&true) => return None,
            _ if compressed => (whole, format!("write -c -P {byte}"), filled(byte)),
            0 => (whole, "write -z -u".into(), 0),
            1 => (start..end, "write -z".into(), 0),
            _ => (start..end, format!("write -P {byte}"), filled(byte)),
        };
        taken[clusters].fill(true);
        content[range.clone()].fill(value);
        Some(format!("{command} {} {}", range.start * SECTOR, range.len() * SECTOR))
    };
    [true, true, true, false, false, false].into_iter().filter_map(&mut command).collect()
}

/// What [`scribble`] has to know.
pub struct Image {
    pub cluster_bits: u32,
    /// Nothing was written to it yet.
    pub may_compress: bool,
}

impl Origin {
    /// An image of some kind.
    pub fn new(random: &mut fastrand::Rng) -> Self {
        let qemu = Qemu::new();
        let (cluster_bits, sectors) = shape(random);
        let version = if random.u8(0..6) == 0 { 2 } else { 3 };
        let data = match random.u8(0..10) {
            0 if version == 3 => Data::Outside,
            1 if version == 3 => Data::Raw,
            _ => Data::Inside,
        };
        let depth = if data == Data::Raw { 0 } else { random.choice([0, 0, 1, 1, 2, 3]).unwrap_or_default() };
        let (layers, mut content) = chain(random, &qemu, depth, sectors);
        content.resize(sectors, 0);
        let refcount_bits = if version == 2 { 16 } else { 1 << random.u32(0..7) };
        let zstd = version == 3 && data == Data::Inside && random.u8(0..4) == 0;
        let extended = version == 3 && cluster_bits >= 14 && random.u8(0..3) == 0;
        let compressed = false;
        let mut origin =
            Self { qemu, cluster_bits, version, refcount_bits, zstd, extended, data, layers, compressed, content };
        origin.make(random);
        origin
    }

    /// Options for `qemu-img`.
    fn options(&self, random: &mut fastrand::Rng) -> String {
        let mut options = format!("cluster_size={}", 1 << self.cluster_bits);
        if self.version == 2 {
            return options + ",compat=0.10";
        }
        options += &format!(",compat=1.1,refcount_bits={}", self.refcount_bits);
        options += if self.zstd { ",compression_type=zstd" } else { "" };
        options += if self.extended { ",extended_l2=on" } else { "" };
        options += if random.u8(0..6) == 0 { ",lazy_refcounts=on" } else { "" };
        options += match self.data {
            Data::Inside => "",
            Data::Outside => ",data_file=data",
            Data::Raw => ",data_file=data,data_file_raw=on",
        };
        options
    }

    fn make(&mut self, random: &mut fastrand::Rng) {
        let options = self.options(random);
        match random.u8(0..8) {
            0 if self.data == Data::Inside => return self.convert(random, &options),
            1 if self.layers.is_empty() => self.create(&format!("{options},preallocation=metadata")),
            2 | 3 => self.create(&options),
            _ => {
                self.create(&options);
                self.scribble(random, true);
            }
        }
        if random.u8(0..8) == 0 {
            // Somebody has made the file longer than the image needs.
            let file = std::fs::File::options().write(true).open(self.qemu.path("disk")).unwrap();
            let len = file.metadata().unwrap().len();
            file.set_len(len + random.u64(1..200_000)).unwrap();
        }
    }

    fn create(&self, options: &str) {
        let size = (self.content.len() * SECTOR).to_string();
        create(&self.qemu, "disk", options, &size, self.layers.first());
    }

    /// Writes of another program, while nobody else has the image open; `new`: to an image that nobody has written to.
    pub fn scribble(&mut self, random: &mut fastrand::Rng, new: bool) {
        let may_compress = new && self.data == Data::Inside;
        let image = Image { cluster_bits: self.cluster_bits, may_compress };
        let commands = scribble(random, &image, &mut self.content);
        self.compressed |= commands.iter().any(|command| command.starts_with("write -c"));
        self.qemu.io("disk", &commands);
    }

    /// The image as a copy of another disk, compressed.
    fn convert(&mut self, random: &mut fastrand::Rng, options: &str) {
        let unit = 1 << (self.cluster_bits - 9);
        for run in self.content.chunks_mut(unit * 2) {
            let value = random.u64(1..1 << 32) << 32;
            run.fill(if random.u8(0..4) == 0 { 0 } else { value });
        }
        write_raw(&self.qemu.path("origin"), &self.content);
        let mut arguments = vec!["convert", "-t", "unsafe", "-c", "-f", "raw", "-O", "qcow2", "-o", options];
        if let Some(layer) = self.layers.first() {
            arguments.extend(["-B", &layer.name, "-F", layer.format()]);
        }
        arguments.extend(["origin", "disk"]);
        self.qemu.img(&arguments);
        self.compressed = true;
    }
}

impl Layer {
    fn format(&self) -> &'static str {
        if self.raw { "raw" } else { "qcow2" }
    }
}

fn write_raw(path: &Path, content: &[u64]) {
    let raw: Vec<u8> = content.iter().flat_map(|value| bytes(*value, 1)).collect();
    std::fs::write(path, raw).unwrap();
}

fn create(qemu: &Qemu, name: &str, options: &str, size: &str, backing: Option<&Layer>) {
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", options];
    if let Some(layer) = backing {
        arguments.extend(["-b", &layer.name, "-F", layer.format()]);
    }
    arguments.extend([name, size]);
    qemu.img(&arguments);
}

/// A chain of images, the uppermost first, and what that shows.
fn chain(random: &mut fastrand::Rng, qemu: &Qemu, depth: usize, sectors: usize) -> (Vec<Layer>, Vec<u64>) {
    let (mut layers, mut content) = (Vec::<Layer>::new(), Vec::new());
    for number in (0..depth).rev() {
        let layer = Layer { name: format!("layer{number}"), raw: number == depth - 1 && random.bool() };
        content.resize(random.usize(1..=sectors + sectors / 4), 0);
        if layer.raw {
            content.iter_mut().for_each(|value| *value = random.u64(1..1 << 32) << 32);
            write_raw(&qemu.path(&layer.name), &content);
        } else {
            let image = Image { cluster_bits: random.u32(9..=16), may_compress: true };
            let size = (content.len() * SECTOR).to_string();
            create(qemu, &layer.name, &format!("cluster_size={}", 1 << image.cluster_bits), &size, layers.first());
            qemu.io(&layer.name, &scribble(random, &image, &mut content));
        }
        layers.insert(0, layer);
    }
    (layers, content)
}
