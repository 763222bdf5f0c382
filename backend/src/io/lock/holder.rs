//! Whether a living process holds locks on an image, as far as /proc shows.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Who else has a file locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A living process, or another node of this one.
    Living,
    /// Nobody: what is left is the kernel's, of a process that died.
    Nobody,
    /// There are processes that this one may not look at.
    Unknown,
}

/// Who has locks on `fd`'s file but `fd` itself. To have the file open is no lock.
pub fn find(fd: &OwnedFd) -> Holder {
    let (Ok(stat), Ok(processes)) = (rustix::fs::fstat(fd), fs::read_dir("/proc")) else { return Holder::Unknown };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let me = (std::process::id(), fd.as_raw_fd());
    let mut hidden = false;
    for pid in pids {
        match locks(pid, (stat.st_dev, stat.st_ino), me) {
            Ok(true) => return Holder::Living,
            Ok(false) => {}
            Err(error) => hidden |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    if hidden { Holder::Unknown } else { Holder::Nobody }
}

/// Whether a process has the file (device, inode) open with locks on it, by another descriptor than `me`.
fn locks(pid: u32, file: (u64, u64), me: (u32, i32)) -> io::Result<bool> {
    let process = Path::new("/proc").join(pid.to_string());
    for entry in fs::read_dir(process.join("fd"))?.flatten() {
        let name = entry.file_name();
        let is_file = fs::metadata(entry.path()).is_ok_and(|meta| (meta.dev(), meta.ino()) == file);
        let is_mine = pid == me.0 && name.to_str() == Some(&me.1.to_string());
        if is_file && !is_mine {
            // A descriptor that was closed meanwhile holds nothing.
            let info = fs::read_to_string(process.join("fdinfo").join(&name)).unwrap_or_default();
            if has_lock(&info) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether `fdinfo` (proc_pid_fdinfo(5)) lists a lock of bytes: of the open file description, or of the process.
fn has_lock(fdinfo: &str) -> bool {
    let of_bytes = |line: &str| ["OFDLCK", "POSIX"].iter().any(|kind| line.contains(kind));
    fdinfo.lines().any(|line| line.starts_with("lock:") && of_bytes(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::lock::{Access, Lock};
    use std::sync::Arc;

    #[test]
    fn whoever_has_a_file_open_without_a_lock_holds_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || Arc::new(OwnedFd::from(fs::OpenOptions::new().read(true).write(true).open(file.path()).unwrap()));
        let (mine, other) = (open(), open());
        assert_ne!(find(&mine), Holder::Living);
        let lock = Lock::new(other, "image".into(), true);
        lock.acquire(Access::Write).unwrap();
        assert_eq!(find(&mine), Holder::Living);
        lock.release(Access::Write);
        assert_ne!(find(&mine), Holder::Living);
    }

    #[test]
    fn a_lock_of_a_process_is_a_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mine = Arc::new(OwnedFd::from(fs::File::open(file.path()).unwrap()));
        let other = fs::File::open(file.path()).unwrap();
        rustix::fs::fcntl_lock(&other, rustix::fs::FlockOperation::NonBlockingLockShared).unwrap();
        assert_eq!(find(&mine), Holder::Living);
    }
}
