//! Bitmaps as QEMU documents them: sets of block numbers, edited one after the other. An action takes effect where it
//! stands in the list; whoever wants a transaction works on a clone and throws it away on an error.

use super::past::{Knowledge, Past};
use crate::bitmaps::BitmapInfo;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that are marked, by blocks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Marks {
    pub block: u64,
    pub blocks: BTreeSet<u64>,
}

impl Marks {
    pub fn mark(&mut self, offset: u64, len: u64, disk: u64) {
        let end = (offset + len).min(disk);
        let block = self.block;
        self.blocks.extend((0..disk.div_ceil(block)).filter(|at| offset.max(at * block) < end.min((at + 1) * block)));
    }

    pub fn merge(&mut self, other: &Marks, disk: u64) {
        other.blocks.iter().for_each(|at| self.mark(at * other.block, other.block, disk));
    }

    pub fn offsets(&self) -> Vec<u64> {
        self.blocks.iter().map(|at| at * self.block).collect()
    }
}

/// A named bitmap.
#[derive(Clone, Debug)]
pub struct Named {
    age: usize,
    pub marks: Marks,
    pub enabled: bool,
    /// Removed by a transaction that is not over.
    removed: bool,
    /// What records while a job uses the bitmap, and whether it does.
    pub successor: Option<(Marks, bool)>,
    pub knowledge: Knowledge,
}

/// Disk and name.
pub type Key = (usize, String);

/// Disks with bitmaps.
#[derive(Clone, Debug)]
pub struct Naive {
    pub lens: Vec<u64>,
    pub bitmaps: BTreeMap<Key, Named>,
    pub pasts: Vec<Past>,
    added: usize,
}

type Refused = Result<(), String>;

impl Naive {
    pub fn new(lens: &[u64]) -> Self {
        let pasts = lens.iter().map(|len| Past::new(*len)).collect();
        Self { lens: lens.to_vec(), bitmaps: BTreeMap::new(), pasts, added: 0 }
    }

    pub fn write(&mut self, disk: usize, offset: u64, len: u64) {
        let end = self.lens[disk];
        self.pasts[disk].write(offset, len);
        for named in self.bitmaps.iter_mut().filter(|(key, _)| key.0 == disk).map(|(_, named)| named) {
            match &mut named.successor {
                Some((marks, true)) => marks.mark(offset, len, end),
                None if named.enabled => named.marks.mark(offset, len, end),
                _ => {}
            }
        }
    }

    pub fn add(&mut self, key: &Key, block: u64, disabled: bool) -> Refused {
        if key.1.is_empty() {
            return Err("Bitmap name cannot be empty".into());
        }
        if !block.is_power_of_two() || block < 512 {
            return Err("Granularity must be power of 2 and at least 512".into());
        }
        if self.bitmaps.contains_key(key) {
            return Err(format!("Bitmap already exists: {}", key.1));
        }
        self.added += 1;
        let marks = Marks { block, ..Marks::default() };
        let knowledge = Knowledge::from(self.pasts[key.0].next());
        let named = Named { age: self.added, marks, enabled: !disabled, removed: false, successor: None, knowledge };
        self.bitmaps.insert(key.clone(), named);
        Ok(())
    }

    /// The bitmap, if an action may use it.
    pub fn free(&mut self, key: &Key) -> Result<&mut Named, String> {
        let named = self.bitmaps.get_mut(key).ok_or_else(|| format!("Dirty bitmap '{}' not found", key.1))?;
        if named.removed || named.successor.is_some() {
            return Err(format!("Bitmap '{}' is currently in use by another operation and cannot be used", key.1));
        }
        Ok(named)
    }

    pub fn clear(&mut self, key: &Key) -> Refused {
        let next = self.pasts[key.0].next();
        let named = self.free(key)?;
        named.marks.blocks.clear();
        named.knowledge = Knowledge::from(next);
        Ok(())
    }

    pub fn remove(&mut self, key: &Key) -> Refused {
        self.free(key).map(|named| named.removed = true)
    }

    pub fn merge(&mut self, target: &Key, sources: &[Key]) -> Refused {
        let missing = |key: &&Key| !self.bitmaps.contains_key(key);
        if let Some(key) = std::iter::once(target).chain(sources).find(missing) {
            return Err(format!("Dirty bitmap '{}' not found", key.1));
        }
        let len = self.lens[target.0];
        let mut sum = self.bitmaps[target].marks.clone();
        let mut knowledge = self.bitmaps[target].knowledge.clone();
        for source in sources {
            self.free(target)?;
            let marks = self.free(source)?.marks.clone();
            let other = self.lens[source.0];
            if len != other {
                let sizes = format!("destination size is {len}, source size is {other}");
                return Err(format!("Bitmaps are of different sizes ({sizes}) and can't be merged"));
            }
            sum.merge(&marks, len);
            knowledge.merge(source.0 == target.0, &self.bitmaps[source].knowledge);
            self.pasts[target.0].note_merge();
        }
        self.bitmaps.entry(target.clone()).and_modify(|named| (named.marks, named.knowledge) = (sum, knowledge));
        Ok(())
    }

    /// A job takes it: what it holds.
    pub fn freeze(&mut self, key: &Key) -> Result<Marks, String> {
        let next = self.pasts[key.0].next();
        let named = self.free(key)?;
        named.knowledge.freeze(next);
        let successor = Marks { block: named.marks.block, ..Marks::default() };
        named.successor = Some((successor, named.enabled));
        named.enabled = false;
        Ok(named.marks.clone())
    }

    /// The job ends; `left` is what it could not use although it used up the bitmap.
    pub fn release(&mut self, key: &Key, used_up: bool, left: Option<&Marks>) {
        let len = self.lens[key.0];
        let Some(named) = self.bitmaps.get_mut(key) else { return };
        let Some((successor, enabled)) = named.successor.take() else { return };
        named.enabled = enabled;
        named.knowledge.release(used_up, left.is_some());
        if used_up {
            named.marks.blocks.clear();
        }
        named.marks.merge(&successor, len);
        left.into_iter().for_each(|left| named.marks.merge(left, len));
    }

    pub fn resize(&mut self, disk: usize, len: u64) -> Refused {
        let busy = self.bitmaps.iter().filter(|(key, named)| key.0 == disk && named.successor.is_some());
        if let Some(((_, name), _)) = busy.min_by_key(|(_, named)| named.age) {
            return Err(format!("Bitmap '{name}' is currently in use by another operation and cannot be used"));
        }
        self.lens[disk] = len;
        self.pasts[disk].resize(len);
        for (_, named) in self.bitmaps.iter_mut().filter(|(key, _)| key.0 == disk) {
            let blocks = len.div_ceil(named.marks.block);
            named.marks.blocks.retain(|at| *at < blocks);
        }
        Ok(())
    }

    /// A transaction is over that concerned these disks.
    pub fn commit(&mut self, disks: impl IntoIterator<Item = usize>) {
        self.bitmaps.retain(|_, named| !named.removed);
        for disk in disks {
            let now = self.pasts[disk].begin();
            for (_, named) in self.bitmaps.iter_mut().filter(|(key, _)| key.0 == disk) {
                named.knowledge.begin(
                    now,
                    named.enabled,
                    named.successor.as_ref().is_some_and(|(_, enabled)| *enabled),
                );
            }
        }
    }

    /// What is told of a disk's bitmaps, newest first.
    pub fn list(&self, disk: usize) -> Vec<BitmapInfo> {
        let mut all: Vec<_> = self.bitmaps.iter().filter(|(key, _)| key.0 == disk).collect();
        all.sort_by_key(|(_, named)| std::cmp::Reverse(named.age));
        let info = |((_, name), named): (&Key, &Named)| BitmapInfo {
            name: name.clone(),
            count: named.marks.blocks.len() as u64 * named.marks.block,
            granularity: u32::try_from(named.marks.block).unwrap(),
            recording: named.successor.as_ref().map_or(named.enabled, |(_, enabled)| *enabled),
            busy: named.successor.is_some(),
            persistent: false,
            inconsistent: false,
            since: None,
        };
        all.into_iter().map(info).collect()
    }
}
