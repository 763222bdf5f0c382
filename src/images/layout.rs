//! Where the bytes of a disk are, run by run: in which image of a chain, and where in its file.

use qmp_lite::block::image::MapEntry;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use tidemark_backend::error::IoError;
use tidemark_backend::node::qcow2::image::Image;
use tidemark_backend::node::qcow2::status::Own;
use tidemark_backend::node::{Driver, Node};
use tidemark_backend::reactor::Handle;

/// Bytes of the blocks that `stat` counts.
const STAT_BLOCK: u64 = 512;

/// A run, and the file that it is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// As programs are told of it.
    pub entry: MapEntry,
    /// The file's path.
    pub file: Option<String>,
}

/// See the module.
pub struct Layout {
    top: Arc<Node>,
    /// Images, by their depth, whose clusters may be holes of their file.
    sparse: BTreeMap<u64, bool>,
}

impl Layout {
    /// Of the disk of an image.
    pub fn of(top: Arc<Node>) -> Self {
        Self { top, sparse: BTreeMap::new() }
    }

    /// What is at an offset, down to the image that has it.
    ///
    /// # Errors
    /// The storage's; an image is corrupt there.
    pub async fn run_at(&mut self, io: &Handle, offset: u64, len: u64) -> Result<Run, IoError> {
        let (mut node, mut depth, mut len) = (self.top.clone(), 0, len);
        loop {
            let run = |length, present, zero, data| MapEntry {
                start: offset,
                length,
                depth,
                present,
                zero,
                data,
                compressed: false,
                offset: None,
            };
            let below = match node.driver() {
                Driver::Qcow2(image) => {
                    let (found, own) = image.own(io, offset, len).await?;
                    len = found.min(len);
                    let file = || image.data_file().unwrap_or_else(|| image.file());
                    let zeroes = run(len, true, true, false);
                    match own {
                        Own::Data { host } => {
                            let (len, zero) = match self.is_sparse(io, image, depth).await {
                                true => holes(io, &file(), host, len).await?,
                                false => (len, false),
                            };
                            return Ok(Run::in_file(run(len, true, zero, true), host, &file()));
                        }
                        Own::Zero { host: Some(host) } => return Ok(Run::in_file(zeroes, host, &file())),
                        Own::Zero { host: None } => return Ok(Run::nowhere(zeroes)),
                        Own::Compressed => {
                            let entry = MapEntry { compressed: true, ..run(len, true, false, true) };
                            return Ok(Run { entry, file: name(&file()) });
                        }
                        Own::Nothing => image.backing().filter(|backing| offset < backing.length()),
                    }
                }
                _ => {
                    let status = node.status(io, offset, len).await?;
                    let entry = run(status.len, true, status.zero, status.data);
                    return Ok(Run::in_file(entry, offset, &node));
                }
            };
            let Some(below) = below else { return Ok(Run::nowhere(run(len, false, true, false))) };
            len = len.min(below.length() - offset);
            (node, depth) = (below, depth + 1);
        }
    }

    /// Whether many more clusters of an image are counted than its file has space for, as where they were given places
    /// before they were written. To ask the file of every cluster would take too long where it is of no use.
    async fn is_sparse(&mut self, io: &Handle, image: &Image, depth: u64) -> bool {
        if let Some(known) = self.sparse.get(&depth) {
            return *known;
        }
        let taken = name(&image.file()).and_then(|path| std::fs::metadata(path).ok());
        let sparse = match taken.map(|file| file.blocks() * STAT_BLOCK / image.cluster_size()) {
            // A tenth, and two clusters.
            Some(clusters) => {
                let many = (clusters * 10 / 9).max(clusters + 2);
                image.count_clusters(io, many).await.is_ok_and(|counted| counted >= many)
            }
            None => false,
        };
        self.sparse.insert(depth, sparse);
        sparse
    }
}

/// How far a file is all hole or may be data from `host` on, of at most `len` bytes, and whether it is a hole. Past its
/// end there are zeroes.
async fn holes(io: &Handle, file: &Arc<Node>, host: u64, len: u64) -> Result<(u64, bool), IoError> {
    let inside = file.length().saturating_sub(host).min(len);
    if inside == 0 {
        return Ok((len, true));
    }
    let status = file.status(io, host, inside).await?;
    let to_its_end = status.zero && status.len >= inside;
    Ok((if to_its_end { len } else { status.len }, status.zero))
}

impl Run {
    /// Where there is nothing to tell of.
    pub fn none(start: u64) -> Self {
        let (length, depth, present, zero, data, compressed) = (0, 0, false, false, false, false);
        Self::nowhere(MapEntry { start, length, depth, present, zero, data, compressed, offset: None })
    }

    fn in_file(entry: MapEntry, offset: u64, file: &Arc<Node>) -> Self {
        Self { entry: MapEntry { offset: Some(offset), ..entry }, file: name(file) }
    }

    fn nowhere(entry: MapEntry) -> Self {
        Self { entry, file: None }
    }

    /// Whether `next` is more of the same.
    pub fn goes_on_in(&self, next: &Self) -> bool {
        let same = |run: &Self| MapEntry { start: 0, length: 0, offset: None, ..run.entry.clone() };
        let offset = self.entry.offset.map(|offset| offset.saturating_add(self.entry.length));
        same(self) == same(next) && offset == next.entry.offset && self.file == next.file
    }
}

/// The file at the bottom of a node.
fn name(node: &Arc<Node>) -> Option<String> {
    match node.driver() {
        Driver::File(file) => Some(file.path().to_owned()),
        _ => name(&node.child()?),
    }
}
