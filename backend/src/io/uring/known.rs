//! What a ring knows of files, by their numbers. Most operations go to the file of the one before.

use super::entry::Target;
use crate::io::{FileId, FileInfo};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Numbers that are counted up, spread over a table's buckets: nobody chooses them.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A file.
pub struct Entry {
    id: FileId,
    pub target: Target,
    pub info: FileInfo,
}

/// See the module's description.
#[derive(Default)]
pub struct Known {
    entries: Vec<Entry>,
    places: HashMap<FileId, usize, BuildHasherDefault<Spread>>,
    /// Where the last one is that was looked for.
    last: usize,
}

impl Known {
    /// Where a file is, if it is known.
    #[inline]
    pub fn place(&mut self, id: FileId) -> Option<usize> {
        if self.entries.get(self.last).is_none_or(|entry| entry.id != id) {
            self.last = *self.places.get(&id)?;
        }
        Some(self.last)
    }

    /// What is at a place.
    #[inline]
    pub fn at(&self, place: usize) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// Adds a file that is not known; returns its place.
    pub fn add(&mut self, id: FileId, target: Target, info: FileInfo) -> usize {
        let place = self.entries.len();
        self.entries.push(Entry { id, target, info });
        self.places.insert(id, place);
        place
    }

    /// Takes a file out.
    pub fn remove(&mut self, id: FileId) -> Option<Entry> {
        let place = self.places.remove(&id)?;
        let entry = self.entries.swap_remove(place);
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.id, place);
        }
        Some(entry)
    }

    /// The numbers of those that are not `current`.
    pub fn outdated(&self, current: impl Fn(FileId, &FileInfo) -> bool) -> Vec<FileId> {
        self.entries.iter().filter(|entry| !current(entry.id, &entry.info)).map(|entry| entry.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::AtOnce;
    use io_uring::types::Fd;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn what_was_added_is_found_until_it_is_removed_in_any_order() {
        let fd = Arc::new(std::os::fd::OwnedFd::from(tempfile::tempfile().unwrap()));
        let info = || FileInfo { fd: fd.clone(), block_device: false, direct: false, at_once: AtOnce::Nothing };
        let (mut known, mut model) = (Known::default(), BTreeMap::new());
        let mut random = fastrand::Rng::with_seed(1);
        for step in 0..5000 {
            let id = random.u32(0..40);
            match (random.bool(), model.contains_key(&id)) {
                (true, false) => {
                    known.add(FileId(id), Target::Fd(Fd(step)), info());
                    model.insert(id, step);
                }
                (false, true) if random.u8(0..3) == 0 => {
                    assert!(known.remove(FileId(id)).is_some());
                    model.remove(&id);
                }
                _ => {}
            }
            let asked = random.u32(0..40);
            let found = known.place(FileId(asked)).and_then(|place| known.at(place));
            let found = found.map(|entry| match entry.target {
                Target::Fd(Fd(number)) => number,
                Target::Fixed(_) => unreachable!("none was added"),
            });
            assert_eq!(found, model.get(&asked).copied(), "step {step}");
        }
    }
}
