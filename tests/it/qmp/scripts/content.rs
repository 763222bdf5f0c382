//! What is in files. Knows no daemon.

use std::fs;
use std::path::Path;

/// Each so many bytes of a new disk are alike.
const RUN: u64 = 64 << 10;

/// Makes a disk in which each 64 KiB have a byte of their own, never zero, so that a chunk in a wrong place is seen.
pub fn create_disk(path: &Path, len: u64) {
    let byte = |at: u64| u8::try_from(at / RUN % 251 + 1).unwrap();
    fs::write(path, (0..len).map(byte).collect::<Vec<_>>()).unwrap();
}

/// Makes a file that is one hole.
pub fn create_hole(path: &Path, len: u64) {
    fs::File::create(path).unwrap().set_len(len).unwrap();
}

/// The bytes of a file: runs of one value, as `LEN:BYTE`.
pub fn shown(path: &Path) -> String {
    runs(&fs::read(path).unwrap())
}

/// Runs of one value, as `LEN:BYTE`.
pub fn runs(bytes: &[u8]) -> String {
    let runs = bytes.chunk_by(|a, b| a == b).map(|run| format!("{}:{:02x}", run.len(), run[0]));
    runs.collect::<Vec<_>>().join(" ")
}

/// Where two files differ first.
pub fn difference(one: &Path, other: &Path) -> Option<usize> {
    let (one, other) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    let at = one.iter().zip(&other).position(|(a, b)| a != b);
    at.or((one.len() != other.len()).then_some(one.len().min(other.len())))
}
