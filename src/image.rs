//! A disk image named by a path, for whoever has no wish to describe nodes: looked at, then opened as `raw` or `qcow2`
//! over `file`.
//!
//! Every failure names the file and the reason. An image whose content says that it is not raw is not taken for raw
//! unless somebody said so; and as long as nobody did, the guest cannot make it look like another format either.

use anyhow::{Context as _, anyhow, bail};
use clap::ValueEnum;
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tidemark_backend::error::{GraphError, errno_text};
use tidemark_backend::export::ExportError;
use tidemark_backend::graph::{Graph, ImageFormat};
use tidemark_backend::node::options::{
    ChildRef, CrashSafe, Discard, DriverOptions, FileOptions, Locking, Qcow2Options, RawOptions,
};
use tidemark_backend::node::qcow2::header::bits;
use tidemark_backend::node::{Driver, Node, NodeOptions};

/// The first bytes of a qcow2 image (QEMU, docs/interop/qcow2.rst).
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";
/// A disk's smallest unit, and so the shortest disk there is, in bytes.
const SECTOR: u64 = 512;

/// What the file's content means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's image format.
    Qcow2,
}

impl Format {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    /// What headers of images call it.
    pub fn in_headers(self) -> ImageFormat {
        match self {
            Self::Raw => ImageFormat::Raw,
            Self::Qcow2 => ImageFormat::Qcow2,
        }
    }
}

/// Whether the host's page cache takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// O_DIRECT where the file system has it.
    Auto,
    /// O_DIRECT or fail.
    Direct,
    /// The page cache.
    Buffered,
}

/// A disk image to open.
#[derive(Clone, Debug)]
pub struct Image {
    /// The file or block device.
    pub path: PathBuf,
    /// Its format; `None` is raw unless it looks like something else.
    pub format: Option<Format>,
    /// Whether nobody may write.
    pub read_only: bool,
    /// How the host caches it.
    pub cache: Cache,
    /// The image that keeps the bitmaps of a raw disk.
    pub meta: Option<PathBuf>,
    /// What changes that its bitmaps have recorded survive.
    pub changes: Changes,
    /// An internal snapshot of a qcow2 image, instead of the disk as it is.
    pub snapshot: Option<String>,
}

/// How recorded changes are kept from being lost in a crash.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What they survive; what can be had if `None`.
    pub crash_safe: Option<CrashSafe>,
    /// The file of the journal; beside the image if `None`.
    pub journal: Option<PathBuf>,
}

impl Changes {
    fn of(&self, options: Qcow2Options) -> DriverOptions {
        let Self { crash_safe, journal } = self.clone();
        DriverOptions::Qcow2(Box::new(Qcow2Options { crash_safe, change_journal: journal, ..options }))
    }
}

impl Image {
    /// Opens the image as node `name` over node `name-file`.
    ///
    /// # Errors
    /// One line that names the file and the reason.
    pub fn open(&self, graph: &Graph, name: &str) -> anyhow::Result<Arc<Node>> {
        let device = self.inspect()?;
        let open = |direct| graph.open(&self.node(name, device, direct));
        let opened = match self.cache {
            Cache::Direct => open(true),
            Cache::Buffered => open(false),
            Cache::Auto => match open(true) {
                Err(error) if is_without_direct(&error) => {
                    tracing::info!("'{}': no O_DIRECT here, going through the page cache", self.path.display());
                    open(false)
                }
                other => other,
            },
        };
        let node = opened.map_err(|error| self.refusal(&error))?;
        match self.check_meta(&node) {
            Ok(()) => Ok(node),
            Err(error) => {
                drop(node);
                graph.close(name)?;
                Err(error)
            }
        }
    }

    /// The one line about an image that cannot be exported.
    pub fn export_refusal(&self, error: &ExportError) -> anyhow::Error {
        match error {
            ExportError::Node(error) => self.refusal(error),
            other => anyhow!("'{}': {other}", self.path.display()),
        }
    }

    fn refusal(&self, error: &GraphError) -> anyhow::Error {
        // What is wrong with more than a file is wrong with the image.
        let path = self.meta.as_ref().unwrap_or(&self.path).display();
        match error {
            GraphError::Open { path, source } if source.kind() == ErrorKind::InvalidInput => {
                anyhow!("cannot open '{path}' with O_DIRECT: {}", errno_text(source))
            }
            GraphError::Open { path, source } => cannot_open(path, source),
            GraphError::Locked(conflict) => anyhow!("'{path}': {error}. {}", conflict.hint()),
            other => anyhow!("'{path}': {other}"),
        }
    }

    /// Whether it is a block device rather than a file; an error if it cannot be a disk.
    fn inspect(&self) -> anyhow::Result<bool> {
        let path = self.path.display();
        let fail = |error: io::Error| cannot_open(&path, &error);
        // Before it is opened: a pipe would wait for its other end.
        let kind = fs::metadata(&self.path).map_err(fail)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            bail!("'{path}' is neither a regular file nor a block device");
        }
        let mut file = File::open(&self.path).map_err(fail)?;
        let length = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if length < SECTOR {
            bail!("'{path}' is too short for a disk: {length} bytes, and a sector has {SECTOR}");
        }
        if self.format.is_none() && begins_with_qcow2(&mut file).with_context(|| format!("cannot read '{path}'"))? {
            bail!(
                "'{path}' looks like a qcow2 image; say --format qcow2 to serve the disk in it, or --format raw to \
                 serve the bytes of the file themselves"
            );
        }
        Ok(kind.is_block_device())
    }

    /// Whether the image that was opened for its bitmaps is one of this disk, as far as that can be seen.
    fn check_meta(&self, node: &Node) -> anyhow::Result<()> {
        let (Some(meta), Driver::Qcow2(image)) = (&self.meta, node.driver()) else { return Ok(()) };
        let (path, meta) = (self.path.display(), meta.display());
        if image.header().autoclear & bits::AUTOCLEAR_RAW_DATA == 0 {
            bail!("'{meta}' does not track a raw disk: `tidemark track` makes an image that does");
        }
        let length = image.data_file().map_or(0, |data| data.length());
        if length != node.length() {
            bail!(
                "'{meta}' tracks a disk of {} bytes, and '{path}' has {length}: it is another disk, or its size was \
                 changed without that image; then remove the image, track the disk again and begin with a full backup",
                node.length()
            );
        }
        Ok(())
    }

    fn node(&self, name: &str, device: bool, direct: bool) -> NodeOptions {
        let plain = |filename: &Path, name: String, device| {
            let file = FileOptions { filename: filename.to_owned(), locking: Locking::Auto, device };
            let file = NodeOptions { node_name: Some(name), ..NodeOptions::new(DriverOptions::File(file)) };
            ChildRef::Inline(Box::new(file))
        };
        let file = plain(&self.path, format!("{name}-file"), device);
        let driver = match (&self.meta, self.format) {
            (Some(meta), _) => {
                let meta = Qcow2Options::new(plain(meta, format!("{name}-meta"), false));
                self.changes.of(Qcow2Options { data_file: Some(file), ..meta })
            }
            (None, Some(Format::Qcow2)) => {
                self.changes.of(Qcow2Options { snapshot: self.snapshot.clone(), ..Qcow2Options::new(file) })
            }
            (None, Some(Format::Raw) | None) => {
                DriverOptions::Raw(RawOptions { file, offset: 0, size: None, guard_format: self.format.is_none() })
            }
        };
        NodeOptions {
            node_name: Some(name.to_owned()),
            read_only: self.read_only.into(),
            discard: Discard::Unmap,
            cache_direct: direct.into(),
            ..NodeOptions::new(driver)
        }
    }
}

/// Whether a block device takes no writes, whoever opens it; of a file that is seen when it is opened.
pub fn is_write_protected(path: &Path) -> bool {
    let Ok(device) = fs::metadata(path).map(|meta| meta.rdev()) else { return false };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).is_ok_and(|text| text.trim() == "1")
}

fn cannot_open(path: impl Display, error: &io::Error) -> anyhow::Error {
    anyhow!("cannot open '{path}': {}", errno_text(error))
}

/// Whether a file could not be opened because its file system has no O_DIRECT.
fn is_without_direct(error: &GraphError) -> bool {
    match error {
        GraphError::Open { source, .. } => source.kind() == ErrorKind::InvalidInput,
        GraphError::Backing(error) => is_without_direct(error),
        _ => false,
    }
}

/// Whether a file's first bytes say that it is a qcow2 image.
///
/// # Errors
/// It cannot be read.
pub fn begins_with_qcow2(file: &mut File) -> io::Result<bool> {
    let mut first = QCOW2_MAGIC;
    file.rewind()?;
    file.read_exact(&mut first)?;
    Ok(first == QCOW2_MAGIC)
}

/// The block size to show to guests: what the storage writes in one go, if the disk is made of such pieces. An image
/// that moves from one storage to another is the same disk there: its blocks are the sectors that all take.
pub fn logical_block_size(node: &Node) -> u32 {
    if matches!(node.driver(), Driver::Qcow2(_)) {
        return 512;
    }
    let wanted = node.request_alignment().max(512);
    let fits = wanted.is_power_of_two() && node.length().is_multiple_of(u64::from(wanted));
    if fits { wanted } else { 512 }
}
