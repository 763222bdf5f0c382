//! Whether a living process has an image open, as far as /proc shows.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Who else has a file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A living process, or another node of this one.
    Living,
    /// Nobody: what is left is the kernel's, of a process that died.
    Nobody,
    /// There are processes that this one may not look at.
    Unknown,
}

/// Who has `fd`'s file open but `fd` itself.
pub fn find(fd: &OwnedFd) -> Holder {
    let (Ok(stat), Ok(processes)) = (rustix::fs::fstat(fd), fs::read_dir("/proc")) else { return Holder::Unknown };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let (mut count, mut hidden) = (0, false);
    for pid in pids {
        match opens(pid, stat.st_dev, stat.st_ino) {
            Ok(found) => count += found,
            Err(error) => hidden |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    match (count, hidden) {
        // Our own descriptor is one.
        (2.., _) => Holder::Living,
        (_, true) => Holder::Unknown,
        _ => Holder::Nobody,
    }
}

/// How many descriptors of a process are this file.
fn opens(pid: u32, device: u64, inode: u64) -> io::Result<usize> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let is_file = |path: PathBuf| fs::metadata(path).is_ok_and(|meta| meta.dev() == device && meta.ino() == inode);
    Ok(descriptors.flatten().filter(|entry| is_file(entry.path())).count())
}
