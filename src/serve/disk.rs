//! A disk and its socket, as `DISK:SOCKET` names them.

use crate::image::Image;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A disk to serve.
#[derive(Debug)]
pub struct Disk {
    /// What node and export are called.
    pub name: String,
    /// The image.
    pub image: Image,
    /// Where virtual machines connect.
    pub socket: PathBuf,
    /// The serial number, if not the name.
    pub serial: Option<String>,
}

/// Takes `DISK:SOCKET` apart. Names may have colons: what exists as a whole is a disk, otherwise the last colon counts.
pub fn split(target: &OsString) -> (PathBuf, Option<PathBuf>) {
    split_unless(target, Path::exists)
}

fn split_unless(target: &OsString, exists: impl Fn(&Path) -> bool) -> (PathBuf, Option<PathBuf>) {
    let whole = Path::new(target);
    let bytes = target.as_bytes();
    let colon = bytes.iter().rposition(|byte| *byte == b':');
    let Some((disk, [_, socket @ ..])) = colon.and_then(|at| bytes.split_at_checked(at)) else {
        return (whole.into(), None);
    };
    if disk.is_empty() || socket.is_empty() || exists(whole) {
        return (whole.into(), None);
    }
    let path = |bytes| PathBuf::from(OsStr::from_bytes(bytes));
    (path(disk), Some(path(socket)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_colon_separates_unless_the_whole_name_exists() {
        let check = |target: &str, existing: &str, disk: &str, socket: Option<&str>| {
            let found = split_unless(&target.into(), |path| path == Path::new(existing));
            assert_eq!(found, (disk.into(), socket.map(PathBuf::from)), "{target}");
        };
        check("a.raw", "a.raw", "a.raw", None);
        check("a.raw:/run/a", "a.raw", "a.raw", Some("/run/a"));
        check("a:b.raw", "a:b.raw", "a:b.raw", None);
        check("a:b.raw:s", "a:b.raw", "a:b.raw", Some("s"));
        check("missing", "", "missing", None);
        check("missing:s", "", "missing", Some("s"));
        check("a:", "", "a:", None);
        check(":a", "", ":a", None);
    }
}
