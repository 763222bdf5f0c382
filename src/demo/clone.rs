//! Copies of a restore point: shared with it where the file system can, else as sparse as it is.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{SeekFrom, copy_file_range, fstat, ftruncate, ioctl_ficlone, seek};
use rustix::io::Errno;

/// Makes `copy` hold what `original` holds; true if they share it.
///
/// # Errors
/// Those of the system.
pub fn clone(original: &Path, copy: &Path) -> io::Result<bool> {
    let (from, to) = (File::open(original)?, File::create_new(copy)?);
    if ioctl_ficlone(&to, &from).is_ok() {
        return Ok(true);
    }
    copy_data(&from, &to)?;
    Ok(false)
}

/// Copies what is not a hole.
fn copy_data(from: &File, to: &File) -> Result<(), Errno> {
    let size = u64::try_from(fstat(from)?.st_size).unwrap_or(0);
    ftruncate(to, size)?;
    let mut end = 0;
    while end < size {
        let mut begin = match seek(from, SeekFrom::Data(end)) {
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => return Ok(()),
            found => found?,
        };
        end = seek(from, SeekFrom::Hole(begin))?;
        let mut at = begin;
        while begin < end {
            let len = usize::try_from(end - begin).unwrap_or(usize::MAX);
            if copy_file_range(from, Some(&mut begin), to, Some(&mut at), len)? == 0 {
                return Err(Errno::IO);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (original, copy) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create_new(&original).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(&[7; 5000], 1 << 20).unwrap();
        file.write_all_at(&[8; 1], (6 << 20) + 3).unwrap();
        clone(&original, &copy).unwrap();
        assert!(std::fs::read(&original).unwrap() == std::fs::read(&copy).unwrap());
        let blocks = std::fs::metadata(&copy).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
        let again = clone(&original, &copy).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists, "a copy never goes over a file");
    }
}
