//! What a backup directory says of itself: its points in time, the files that each disk's chain is made of, and the
//! files that belong to none.
//!
//! Does no I/O. A manifest that was read is believed only after [`Manifest::check`]: names are those of files in the
//! directory itself, every parent is there and older. The manifest is the only truth: a file or a bitmap that it does
//! not name is of no use to anybody, and one that it names as garbage may be removed by whoever holds the lock.

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use qmp_lite::document;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};

/// What the document is called.
const FORMAT: &str = "tidemark-backup";
/// The version that is written, and the only one that is read.
const VERSION: u32 = 1;
/// What checksums are: the first 128 bits of SHA-256.
pub const ALGORITHM: &str = "sha256-128";
/// Bytes that one checksum is of.
pub const BLOCK: u64 = 64 << 10;
/// Bytes of a file name, at most (Linux, NAME_MAX).
const NAME_MAX: usize = 255;

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    format: String,
    version: u32,
    /// Drawn when the directory was made; bitmaps, jobs and nodes of this directory have it in their names.
    pub id: String,
    /// The number of the next point, which no file was ever named after.
    pub next: u64,
    /// Oldest first.
    pub points: Vec<Point>,
    /// Files that may be there and belong to no point.
    pub garbage: Vec<String>,
}

/// A point in time, of one disk or of several at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Point {
    /// Its name for people.
    pub number: u64,
    /// When it was, as RFC 3339 has it.
    pub time: String,
    /// Its disks.
    pub disks: Vec<Entry>,
}

/// One disk at a point in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Entry {
    /// The disk's node.
    pub disk: String,
    /// The qcow2 image with what has changed since the parent, or with all.
    pub file: String,
    /// The image below; none of a full backup.
    pub parent: Option<String>,
    /// Bytes of the disk.
    pub size: u64,
    /// Of the clusters of `file`.
    pub checksums: Checksums,
    /// Records what has changed since.
    pub bitmap: Option<Bitmap>,
    /// The daemon's name for the point, while its node is open.
    pub change_id: Option<String>,
    /// Why it is no incremental one.
    pub full_because: Option<String>,
    /// The images below are being merged into one, which then gets the name `file`.
    pub merging: Option<Merging>,
}

/// Where checksums are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Checksums {
    /// The file, see `sums`.
    pub file: String,
    /// What they are.
    pub algorithm: String,
    /// Bytes of the disk that each is of.
    pub block: u64,
    /// SHA-256 of that file.
    pub sha256: String,
}

/// A bitmap of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of a bit.
    pub granularity: u64,
    /// Whether it is kept in the disk's image.
    pub persistent: bool,
}

/// What is left of a chain whose older points were removed, until it is one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Merging {
    /// The full image at the bottom, which all else goes into. While it is there, `file` still has its parents.
    pub base: String,
    /// The images between it and `file`, lowest first.
    pub layers: Vec<String>,
    /// Of the whole.
    pub checksums: Checksums,
    /// Checksums that are of no use then.
    pub spent: Vec<String>,
}

/// As much as says whether the rest can be read.
#[derive(Deserialize)]
struct Head {
    format: Option<String>,
    version: Option<u64>,
}

impl Manifest {
    /// That of an empty directory.
    pub fn new(id: String) -> Self {
        let (format, version) = (FORMAT.to_owned(), VERSION);
        Self { format, version, id, next: 1, points: Vec::new(), garbage: Vec::new() }
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is none, of another version, or contradicts itself.
    pub fn parse(text: &str) -> Result<Self> {
        let head: Head =
            document::decode(text).map_err(|error| anyhow::anyhow!("it is no manifest: {}", error.desc))?;
        ensure!(head.format.as_deref() == Some(FORMAT), "it is not the manifest of a backup directory");
        match head.version {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => bail!("it has version {version}, and this program knows version {VERSION}"),
            None => bail!("it does not say its version"),
        }
        let manifest: Self = document::decode(text).map_err(|error| anyhow::anyhow!("{}", error.desc))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Its text.
    ///
    /// # Errors
    /// None in practice: all of it are texts and numbers.
    pub fn text(&self) -> Result<String> {
        document::encode(self).map_err(|error| anyhow::anyhow!("{}", error.desc))
    }

    /// Whether it may be believed.
    ///
    /// # Errors
    /// It may not; the text says which point and why.
    fn check(&self) -> Result<()> {
        let hex = self.id.len() == 8 && self.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(hex, "its id is not 8 hexadecimal digits");
        let mut names = HashSet::new();
        let mut tops: HashMap<&str, &Entry> = HashMap::new();
        let mut last = 0;
        for point in &self.points {
            let number = point.number;
            ensure!(number > last && number < self.next, "point {number} is out of order");
            last = number;
            point.timestamp()?;
            let mut disks = HashSet::new();
            for entry in &point.disks {
                ensure!(disks.insert(&entry.disk), "point {number} has disk '{}' twice", entry.disk);
                let below = tops.insert(&entry.disk, entry);
                entry.check(below).map_err(|error| error.context(format!("point {number}, disk '{}'", entry.disk)))?;
                for file in entry.files() {
                    ensure!(names.insert(file), "'{file}' is named twice");
                }
            }
        }
        for file in &self.garbage {
            check_name(file)?;
            ensure!(names.insert(file), "'{file}' is named twice");
        }
        Ok(())
    }

    /// The newest entry of a disk.
    pub fn last(&self, disk: &str) -> Option<&Entry> {
        self.points.iter().rev().find_map(|point| point.disk(disk))
    }

    /// The entries of all points.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.points.iter().flat_map(|point| &point.disks)
    }

    /// The chain that ends with this entry, its full backup first. Whoever checked the manifest knows that it is whole.
    pub fn chain<'a>(&'a self, entry: &'a Entry) -> Vec<&'a Entry> {
        let mut chain = vec![entry];
        while let Some(parent) =
            chain.last().filter(|entry| entry.merging.is_none()).and_then(|top| top.parent.as_ref())
            && let Some(below) = self.entries().find(|candidate| candidate.file == *parent)
            && chain.len() <= self.points.len()
        {
            chain.push(below);
        }
        chain.reverse();
        chain
    }

    /// The point of this number, or the newest one.
    ///
    /// # Errors
    /// There is none; the text says which there are.
    pub fn point(&self, number: Option<u64>) -> Result<&Point> {
        let found = match number {
            None => self.points.last(),
            Some(number) => self.points.iter().find(|point| point.number == number),
        };
        let Some(point) = found else {
            let all: Vec<_> = self.points.iter().map(|point| point.number.to_string()).collect();
            match number {
                _ if all.is_empty() => bail!("there is no point in time yet"),
                None => bail!("there is no point in time"),
                Some(number) => bail!("there is no point {number}; there are {}", all.join(", ")),
            }
        };
        Ok(point)
    }

    /// These files belong to no point any more, or not yet.
    pub fn discard(&mut self, files: impl IntoIterator<Item = String>) {
        for file in files {
            if !self.garbage.contains(&file) {
                self.garbage.push(file);
            }
        }
    }

    /// These files belong to points now.
    pub fn adopt(&mut self, files: &[&str]) {
        self.garbage.retain(|file| !files.contains(&file.as_str()));
    }
}

impl Point {
    /// When it was.
    ///
    /// # Errors
    /// What it says is no time.
    pub fn timestamp(&self) -> Result<Timestamp> {
        let Self { number, time, .. } = self;
        time.parse().with_context(|| format!("point {number} has no time: '{}'", crate::inspect::printable(time)))
    }

    /// A disk of it.
    pub fn disk(&self, name: &str) -> Option<&Entry> {
        self.disks.iter().find(|entry| entry.disk == name)
    }
}

impl Entry {
    /// The files that are its own.
    pub fn files(&self) -> Vec<&str> {
        let mut files = vec![self.file.as_str(), &self.checksums.file];
        if let Some(merging) = &self.merging {
            files.extend([merging.base.as_str(), &merging.checksums.file]);
            files.extend(merging.layers.iter().chain(&merging.spent).map(String::as_str));
        }
        files
    }

    /// `below` is the entry of the same disk before this one.
    fn check(&self, below: Option<&Self>) -> Result<()> {
        self.files().into_iter().try_for_each(check_name)?;
        ensure!(self.size.is_multiple_of(512) && i64::try_from(self.size).is_ok(), "no disk has {} bytes", self.size);
        self.checksums.check()?;
        self.merging.iter().try_for_each(|merging| merging.checksums.check())?;
        match (&self.merging, &self.parent) {
            (Some(merging), Some(parent)) => {
                ensure!(below.is_none(), "images below one that is not the first are being merged");
                ensure!(merging.layers.last().unwrap_or(&merging.base) == parent, "'{parent}' is not being merged");
                Ok(())
            }
            (Some(_), None) => bail!("a full backup is being merged"),
            (None, None) => Ok(()),
            (None, Some(parent)) => match below {
                Some(below) if below.file == *parent && below.size == self.size => Ok(()),
                Some(below) if below.file == *parent => bail!("its size differs from that of its parent"),
                _ => bail!("its parent '{parent}' is not the point before it"),
            },
        }
    }
}

impl Checksums {
    fn check(&self) -> Result<()> {
        let Self { algorithm, block, .. } = self;
        ensure!(algorithm == ALGORITHM && *block == BLOCK, "checksums '{algorithm}' of {block} bytes are not known");
        Ok(())
    }
}

/// A name of a file in the directory, and of nothing else.
fn check_name(name: &str) -> Result<()> {
    let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0']) && name.len() <= NAME_MAX;
    // What QEMU takes for a protocol when an image names it as the one below.
    let path = plain && !name.contains(':');
    let own = !name.starts_with(super::directory::MANIFEST) && name != super::directory::LOCK;
    ensure!(path && own, "'{}' is no name of a file of a backup", crate::inspect::printable(name));
    Ok(())
}

#[cfg(test)]
pub mod tests;
