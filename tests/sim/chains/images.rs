//! The images of a disk: files on the simulated machine that outlive the process.

use super::errands::Errands;
use crate::oracle::SECTOR;
use crate::process::file_of;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tempfile::NamedTempFile;
use tidemark_backend::error::GraphError;
use tidemark_backend::graph::Graph;
use tidemark_backend::io::FileId;
use tidemark_backend::io::sim::World;
use tidemark_backend::node::options::{
    Backing, ChildRef, DetectZeroes, Discard, DriverOptions, FileOptions, Locking, Qcow2Options,
};
use tidemark_backend::node::qcow2::create::{CreateOptions, layout};
use tidemark_backend::node::{Node, NodeOptions};

/// What the bytes of a file mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The disk.
    Raw,
    /// An image.
    Qcow2 {
        /// Bits of an offset in a cluster.
        cluster_bits: u32,
        /// 2 or 3; the latter outlives a kill with what was not flushed.
        version: u32,
    },
}

/// How nodes are opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Discards reach the storage.
    pub unmap: bool,
    /// Writes of zeroes become zero requests.
    pub detect_zeroes: bool,
    /// Nobody writes.
    pub read_only: bool,
}

/// A file with an image in it.
pub struct Image {
    /// The name of its node.
    pub name: String,
    /// What its bytes mean.
    pub format: Format,
    /// The file's number in the process, while there is one.
    pub file: Option<FileId>,
    content: Vec<u8>,
    stands_for: NamedTempFile,
}

impl Image {
    /// A file with this content.
    pub fn new(name: String, format: Format, content: Vec<u8>) -> Self {
        Self { name, format, file: None, content, stands_for: NamedTempFile::new().unwrap() }
    }

    /// An image of a disk of zeroes, or one that shows what is below.
    pub fn empty(name: String, format: Format, sectors: usize) -> Self {
        let size = (sectors * SECTOR) as u64;
        let content = match format {
            Format::Raw => vec![0; sectors * SECTOR],
            Format::Qcow2 { cluster_bits, version } => {
                let options = CreateOptions { size, cluster_size: 1 << cluster_bits, version, ..Default::default() };
                let layout = layout(&options).unwrap();
                let mut bytes = vec![0; usize::try_from(layout.length).unwrap()];
                for (offset, written) in layout.writes() {
                    let at = usize::try_from(offset).unwrap();
                    bytes.resize(bytes.len().max(at + written.len()), 0);
                    bytes[at..at + written.len()].copy_from_slice(&written);
                }
                bytes
            }
        };
        Self::new(name, format, content)
    }

    /// Opens it over the node `below`.
    pub fn open(
        &mut self,
        world: &World,
        graph: &Arc<Graph>,
        below: Option<&str>,
        opened: Opened,
    ) -> Result<Arc<Node>, GraphError> {
        self.stands_for.as_file().set_len(self.content.len() as u64).unwrap();
        let filename = self.stands_for.path().to_owned();
        let file = DriverOptions::File(FileOptions { filename, locking: Locking::Off, device: false });
        if self.format == Format::Raw {
            let node = graph.open(&options(&self.name, file, opened))?;
            self.add_to(world, &node);
            return Ok(node);
        }
        let name = format!("{}.file", self.name);
        // Others may come to write to the image.
        let below_image = options(&name, file, Opened { detect_zeroes: false, read_only: false, ..opened });
        let node = graph.open(&NodeOptions { auto_read_only: true.into(), ..below_image })?;
        self.add_to(world, &node);
        let backing = below.map_or(Backing::None, |below| Backing::Node(ChildRef::Name(below.to_owned())));
        let image = Qcow2Options { backing, ..Qcow2Options::new(ChildRef::Name(name)) };
        graph.open_on(&Errands(world), &options(&self.name, DriverOptions::Qcow2(Box::new(image)), opened))
    }

    fn add_to(&mut self, world: &World, node: &Node) {
        let file = file_of(node);
        world.add_disk(file, std::mem::take(&mut self.content), 1);
        self.file = Some(file);
    }

    /// The process is about to be gone: whoever looks then for journals that nobody needs reads in the file which one the
    /// image names.
    pub fn show(&self, world: &World) {
        let content = self.file.map(|file| world.content(file)).unwrap_or_default();
        self.stands_for.as_file().write_all_at(&content, 0).unwrap();
    }

    /// The process is gone, and this is left. After a power cut it is a file that no journal in memory knows.
    pub fn leave(&mut self, content: Vec<u8>, power_cut: bool) {
        (self.content, self.file) = (content, None);
        if power_cut {
            self.stands_for = NamedTempFile::new().unwrap();
        }
    }
}

fn options(name: &str, driver: DriverOptions, opened: Opened) -> NodeOptions {
    NodeOptions {
        node_name: Some(name.to_owned()),
        read_only: opened.read_only.into(),
        discard: if opened.unmap { Discard::Unmap } else { Discard::Ignore },
        detect_zeroes: if opened.detect_zeroes { DetectZeroes::Unmap } else { DetectZeroes::Off },
        ..NodeOptions::new(driver)
    }
}
