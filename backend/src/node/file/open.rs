//! Opening a file node: flags, alignment of direct I/O, length, locks.

use super::mode::{CurrentMode, Mode};
use super::{File, Opened};
use crate::error::GraphError;
use crate::io::lock::Lock;
use crate::io::{AtOnce, FileInfo, FileTable};
use crate::node::NodeOptions;
use crate::node::options::{FileOptions, Locking};
use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// `f_type` of tmpfs and ramfs (linux/magic.h).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// `f_type` of ext2, ext3 and ext4, which have no write into the page cache that does not wait.
const EXT4: u64 = 0xef53;

impl File {
    /// Opens the file and adds it to `table`; returns it and its length in bytes.
    ///
    /// # Errors
    /// With QEMU's texts: the file is missing, not permitted, a directory; O_DIRECT is not supported here.
    pub fn open(node: &NodeOptions, options: &FileOptions, table: &Arc<FileTable>) -> Result<(Self, u64), GraphError> {
        let path = options.filename.display().to_string();
        let fail = |source: io::Error| GraphError::Open { path: path.clone(), source };
        let direct = node.cache_direct.is_on();
        let (fd, read_only) = open(node, options, direct).map_err(fail)?;
        let kind = check_kind(&fd, options, &path)?;
        let block_device = kind == FileType::BlockDevice;
        let (memory_alignment, alignment) = if direct { alignments(&fd, block_device) } else { (1, 1) };
        let fd = Arc::new(fd);
        let id = table.insert(info(&fd, block_device, direct));
        let length = length(&fd).map_err(fail)?;
        let lock = (options.locking != Locking::Off && !node.force_share)
            .then(|| Lock::new(fd.clone(), path.clone(), options.locking == Locking::On));
        let file = Self {
            table: table.clone(),
            opened: Mutex::new(Opened { fd: Some(fd), ids: if direct { [None, Some(id)] } else { [Some(id), None] } }),
            mode: CurrentMode::new(Mode { id, direct, read_only, alignment, memory_alignment }),
            path: path.clone(),
            device: options.device,
            block_device,
            lock,
            ranges: Default::default(),
            growing: Default::default(),
            flushes: Default::default(),
            poisoned: AtomicBool::new(false),
            cannot_unmap: AtomicBool::new(false),
            cannot_zero: AtomicBool::new(false),
            discards: Default::default(),
            known: Default::default(),
        };
        Ok((file, length))
    }

    /// The length in bytes as the system has it now, rounded up to whole sectors.
    ///
    /// # Errors
    /// What the system says.
    pub fn current_length(&self) -> io::Result<u64> {
        length(&self.fd()?.as_fd())
    }

    /// Gives a regular file another length; of a block device, finds out the one it has.
    ///
    /// # Errors
    /// With QEMU's texts.
    pub fn resize(&self, size: u64) -> Result<u64, GraphError> {
        let fail = |what, source| GraphError::File { what, path: self.path.clone(), source };
        if !self.block_device {
            let resized = self.fd().and_then(|fd| Ok(rustix::fs::ftruncate(fd, size)?));
            resized.map_err(|error| fail("Could not resize", error))?;
            return Ok(size);
        }
        let real = self.current_length().map_err(|error| fail("Could not get the size of", error))?;
        match real.cmp(&size) {
            std::cmp::Ordering::Less => Err(GraphError::Options("Cannot grow device files".into())),
            _ => Ok(size),
        }
    }
}

pub(super) fn open(node: &NodeOptions, options: &FileOptions, direct: bool) -> io::Result<(OwnedFd, bool)> {
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK;
    flags.set(OFlags::DIRECT, direct);
    let attempt = |mode| rustix::fs::open(&options.filename, flags | mode, rustix::fs::Mode::empty());
    if node.read_only.is_on() {
        return Ok((attempt(OFlags::RDONLY)?, true));
    }
    match attempt(OFlags::RDWR) {
        Ok(fd) => Ok((fd, false)),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS | rustix::io::Errno::PERM)
            if node.auto_read_only.is_on() =>
        {
            Ok((attempt(OFlags::RDONLY)?, true))
        }
        Err(error) => Err(error.into()),
    }
}

fn check_kind(fd: &OwnedFd, options: &FileOptions, path: &str) -> Result<FileType, GraphError> {
    let fail = |source: rustix::io::Errno| GraphError::Open { path: path.to_owned(), source: source.into() };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).map_err(fail)?.st_mode);
    let (driver, wanted) = match options.device {
        true => ("host_device", "either a character or block device"),
        false => ("file", "a regular file"),
    };
    let fits = match options.device {
        true => kind == FileType::BlockDevice,
        // QEMU's driver `file` takes block devices too, with a warning.
        false => matches!(kind, FileType::RegularFile | FileType::BlockDevice),
    };
    match fits {
        true => Ok(kind),
        false => Err(GraphError::Options(format!("'{driver}' driver requires '{path}' to be {wanted}"))),
    }
}

/// Alignment of addresses and of offsets for direct I/O: what the kernel says, else what QEMU assumes.
pub(super) fn alignments(fd: &OwnedFd, block_device: bool) -> (u32, u32) {
    let known = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok();
    if let Some(known) = known
        && known.stx_dio_offset_align.is_power_of_two()
        && known.stx_dio_mem_align.is_power_of_two()
    {
        return (known.stx_dio_mem_align, known.stx_dio_offset_align.max(512));
    }
    let block = if block_device { rustix::fs::ioctl_blksszget(fd).unwrap_or(4096) } else { 4096 };
    (4096, block.clamp(512, 4096).next_power_of_two())
}

/// An open file as rings need it.
pub(super) fn info(fd: &Arc<OwnedFd>, block_device: bool, direct: bool) -> FileInfo {
    let at_once = if direct || block_device { AtOnce::Nothing } else { at_once(fd) };
    FileInfo { fd: fd.clone(), block_device, direct, at_once }
}

fn at_once(fd: &OwnedFd) -> AtOnce {
    match rustix::fs::fstatfs(fd.as_fd()).map(|stat| stat.f_type.cast_unsigned()) {
        Ok(kind) if IN_MEMORY.contains(&kind) => AtOnce::All,
        Ok(EXT4) => AtOnce::Writes,
        _ => AtOnce::Nothing,
    }
}

fn length(fd: &impl AsFd) -> io::Result<u64> {
    let end = rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0))?;
    end.checked_next_multiple_of(512).filter(|end| i64::try_from(*end).is_ok()).ok_or(io::ErrorKind::InvalidData.into())
}
