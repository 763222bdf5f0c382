//! A transaction's actions on bitmaps, evaluated in order before anything happens.
//!
//! What a bitmap holds is kept as a list of *leaves*: what other bitmaps (or it itself) hold at the point in time that
//! is still to come. A leaf is known by its place in the stage. At the point in time each bitmap that is a leaf, or no
//! longer just itself, is swapped for an empty one; later the leaves are merged into what they belong to. So the point
//! in time costs a pointer per bitmap, however large it is.

mod checks;
mod leaf;
mod recorded;

use super::history::Cause;
use super::persistent::{State, Use, check};
use super::recorded::Recorded;
use super::unsettled::Counted;
use super::{BitmapError, Record, Successor, Tracked, granularity};
use leaf::Leaf;
use std::sync::{Arc, Weak};
use tidemark_cbt::{Bitmap, Granularity};

/// The longest name in bytes, as the qcow2 format has it.
const NAME_MAX: usize = 1023;

/// A bitmap as the actions so far leave it.
struct Entry<T> {
    node: Arc<T>,
    name: String,
    /// What it is now; `None` if the transaction adds it.
    original: Option<Arc<Bitmap>>,
    /// What it has now of its node's history.
    recorded: Recorded,
    granularity: Granularity,
    len: u64,
    enabled: bool,
    persistent: bool,
    read_only: bool,
    inconsistent: bool,
    busy: bool,
    removed: bool,
    frozen: bool,
    value: Vec<Leaf>,
    /// What it becomes, if it is swapped or added.
    fresh: Option<Arc<Bitmap>>,
    /// What records while it is frozen.
    successor: Option<Arc<Bitmap>>,
}

/// The actions so far.
pub struct Stage<T>(Vec<Entry<T>>);

/// The content of a bitmap at the point in time.
#[derive(Debug)]
pub struct Frozen(Vec<Arc<Bitmap>>);

impl Frozen {
    /// What it is made of; complete as soon as the point in time has come.
    pub fn leaves(&self) -> &[Arc<Bitmap>] {
        &self.0
    }
}

/// What is left to do after grace.
#[must_use]
pub struct Committed(Vec<(Arc<Bitmap>, Leaves, Counted)>);

/// Bitmaps to merge, each in blocks as coarse as its way was.
type Leaves = Vec<(Arc<Bitmap>, Granularity)>;

impl Committed {
    /// Merges the leaves into what they belong to, while writes go on.
    pub fn settle(self) {
        for (target, leaves, _counted) in self.0 {
            leaves.iter().for_each(|(leaf, block)| leaf::merge(&target, leaf, *block));
        }
    }
}

impl<T> Default for Stage<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Tracked> Stage<T> {
    /// No actions.
    pub fn new() -> Self {
        Self::default()
    }

    /// `block-dirty-bitmap-add`
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn add(
        &mut self,
        node: &Arc<T>,
        name: &str,
        bytes: Option<u64>,
        persistent: bool,
        disabled: bool,
    ) -> Result<(), BitmapError> {
        if name.is_empty() {
            return Err(BitmapError::NoName);
        }
        let granularity = granularity(bytes, node.cluster_size())?;
        let known = self.find(node, name).is_some();
        if persistent {
            self.check_storable(node, name, granularity, known)?;
        }
        if known {
            return Err(BitmapError::Exists(name.to_owned()));
        }
        if name.len() > NAME_MAX {
            return Err(BitmapError::NameTooLong(name.to_owned()));
        }
        self.0.push(Entry {
            node: node.clone(),
            name: name.to_owned(),
            original: None,
            recorded: Recorded::nothing(),
            granularity,
            len: node.length(),
            enabled: !disabled,
            persistent,
            read_only: false,
            inconsistent: false,
            busy: false,
            removed: false,
            frozen: false,
            value: Vec::new(),
            fresh: None,
            successor: None,
        });
        Ok(())
    }

    /// `block-dirty-bitmap-remove`
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn remove(&mut self, node: &Arc<T>, name: &str) -> Result<(), BitmapError> {
        let entry = self.free(node, name, Use::Remove)?;
        // The name stays taken until the transaction is done.
        (entry.removed, entry.busy) = (true, true);
        Ok(())
    }

    /// `block-dirty-bitmap-clear`
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn clear(&mut self, node: &Arc<T>, name: &str) -> Result<(), BitmapError> {
        self.free(node, name, Use::Change)?.value.clear();
        Ok(())
    }

    /// `block-dirty-bitmap-enable`
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn enable(&mut self, node: &Arc<T>, name: &str) -> Result<(), BitmapError> {
        self.free(node, name, Use::Read)?.enabled = true;
        Ok(())
    }

    /// `block-dirty-bitmap-disable`
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn disable(&mut self, node: &Arc<T>, name: &str) -> Result<(), BitmapError> {
        self.free(node, name, Use::Read)?.enabled = false;
        Ok(())
    }

    /// `block-dirty-bitmap-merge`
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn merge(&mut self, node: &Arc<T>, target: &str, sources: &[(Arc<T>, String)]) -> Result<(), BitmapError> {
        let not_found = |name: &str| BitmapError::NotFound(name.to_owned());
        let target = self.find(node, target).ok_or_else(|| not_found(target))?;
        let find = |(node, name): &(Arc<T>, String)| self.find(node, name).ok_or_else(|| not_found(name));
        let sources = sources.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        for source in sources {
            self.0[target].check(Use::Change)?;
            self.0[source].check(Use::Read)?;
            let [target_len, source_len] = [target, source].map(|at| self.0[at].len);
            if target_len != source_len {
                return Err(BitmapError::Sizes { target_len, source_len });
            }
            let passed = self.0[source].granularity;
            let more: Vec<_> = self.0[source].value.iter().map(|leaf| leaf.through(passed)).collect();
            more.into_iter().for_each(|leaf| self.0[target].take_in(leaf));
        }
        Ok(())
    }

    /// A backup takes it, to change it at its end or not: it keeps what it holds, and a successor records. Returns what
    /// it holds.
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn freeze(&mut self, node: &Arc<T>, name: &str, changes: bool) -> Result<Frozen, BitmapError> {
        let entry = self.free(node, name, if changes { Use::Change } else { Use::Read })?;
        (entry.frozen, entry.busy) = (true, true);
        let value = entry.value.clone();
        Ok(Frozen(value.iter().filter_map(|leaf| self.0[leaf.at].original.clone()).collect()))
    }

    /// The nodes to hold.
    pub fn nodes(&self) -> Vec<Arc<T>> {
        let mut nodes: Vec<Arc<T>> = Vec::new();
        for entry in &self.0 {
            if !nodes.iter().any(|node| Arc::ptr_eq(node, &entry.node)) {
                nodes.push(entry.node.clone());
            }
        }
        nodes
    }

    /// Gets the memory that the point in time needs.
    ///
    /// # Errors
    /// There is none.
    pub fn prepare(&mut self) -> Result<(), BitmapError> {
        for at in 0..self.0.len() {
            let entry = &self.0[at];
            let swapped = !entry.removed && self.is_swapped(at);
            let entry = &mut self.0[at];
            let empty = || Bitmap::new(entry.len, entry.granularity).map(Arc::new);
            let fresh = swapped.then(empty).transpose()?;
            let successor = entry.frozen.then(empty).transpose()?;
            (entry.fresh, entry.successor) = (fresh, successor);
        }
        Ok(())
    }

    /// Whether somebody else needs what it holds, or it is to hold something else.
    fn is_swapped(&self, at: usize) -> bool {
        let entry = &self.0[at];
        let is_itself = entry.original.is_some() && entry.value == [entry.leaf(at)];
        let others = self.0.iter().enumerate().filter(|(other, _)| *other != at);
        let is_leaf =
            others.filter(|(_, other)| !other.removed).any(|(_, other)| other.value.iter().any(|leaf| leaf.at == at));
        // A frozen one that is just itself is no longer marked: its successor is.
        !is_itself || (is_leaf && !entry.frozen)
    }

    /// The point in time, under a hold of [`Stage::nodes`]. Swaps pointers, allocates next to nothing and cannot fail.
    pub fn commit(self) -> Committed {
        self.nodes().iter().for_each(|node| node.tracking().begin_point());
        let (recorded, mut left) = (self.recorded(), Vec::new());
        for entry in &self.0 {
            if let Some(fresh) = &entry.fresh {
                let leaves =
                    entry.value.iter().filter_map(|leaf| Some((self.0[leaf.at].original.clone()?, leaf.block)));
                left.push((fresh.clone(), leaves.collect(), entry.node.tracking().unsettled.count()));
            }
        }
        self.0.into_iter().zip(recorded).for_each(|(entry, recorded)| entry.commit(recorded));
        Committed(left)
    }

    /// The entry of a bitmap that may be used like this.
    fn free(&mut self, node: &Arc<T>, name: &str, wanted: Use) -> Result<&mut Entry<T>, BitmapError> {
        let at = self.find(node, name).ok_or_else(|| BitmapError::NotFound(name.to_owned()))?;
        let entry = &mut self.0[at];
        entry.check(wanted)?;
        Ok(entry)
    }

    /// The entry of a bitmap, made when it is first looked for.
    fn find(&mut self, node: &Arc<T>, name: &str) -> Option<usize> {
        let known = self.0.iter().position(|entry| Arc::ptr_eq(&entry.node, node) && entry.name == name);
        if known.is_some() {
            return known;
        }
        let records = node.tracking().lock();
        let record = records.iter().find(|record| record.name == name)?;
        let at = self.0.len();
        self.0.push(Entry {
            node: node.clone(),
            name: name.to_owned(),
            original: Some(record.bits.clone()),
            recorded: record.recorded.clone(),
            granularity: record.bits.granularity(),
            len: record.bits.len(),
            enabled: record.enabled,
            persistent: record.persistent,
            read_only: record.read_only,
            inconsistent: record.inconsistent,
            busy: record.is_busy(),
            removed: false,
            frozen: false,
            value: vec![Leaf { at, block: record.bits.granularity() }],
            fresh: None,
            successor: None,
        });
        Some(at)
    }
}

impl<T> Entry<T> {
    /// What it holds itself, if its place is `at`.
    fn leaf(&self, at: usize) -> Leaf {
        Leaf { at, block: self.granularity }
    }

    fn check(&self, wanted: Use) -> Result<(), BitmapError> {
        let state = State { busy: self.busy, read_only: self.read_only, inconsistent: self.inconsistent };
        check(&self.name, state, wanted)
    }

    fn take_in(&mut self, leaf: Leaf) {
        match self.value.iter_mut().find(|known| known.at == leaf.at) {
            Some(known) => known.block = known.block.max(leaf.block),
            None => self.value.push(leaf),
        }
    }
}

impl<T: Tracked> Entry<T> {
    fn commit(self, recorded: Recorded) {
        let node = self.node.clone();
        let mut records = node.tracking().lock();
        let known = records.iter().position(|record| record.name == self.name);
        match known {
            Some(at) if self.removed => {
                self.note_loss(&Recorded::nothing(), Cause::Removed);
                drop(records.remove(at));
            }
            Some(at) => self.change(&mut records[at], recorded),
            None if self.removed => {}
            None => records.extend(self.added(recorded)),
        }
    }

    fn added(self, recorded: Recorded) -> Option<Record> {
        let mut record = Record {
            name: self.name.clone(),
            bits: self.fresh.clone()?,
            recorded: Recorded::nothing(),
            enabled: false,
            persistent: self.persistent,
            read_only: false,
            inconsistent: false,
            successor: None,
            held: Weak::new(),
        };
        self.change(&mut record, recorded);
        Some(record)
    }

    fn change(self, record: &mut Record, recorded: Recorded) {
        if record.successor.is_some() {
            // In use by somebody else: the transaction has only looked at it.
            return;
        }
        let since = self.node.tracking().history().generation;
        let begun = Recorded::from(since, self.enabled);
        self.note_loss(&recorded, Cause::Cleared);
        record.recorded = recorded;
        if let Some(fresh) = self.fresh {
            record.bits = fresh;
        }
        record.successor = self.successor.map(|bits| Successor { bits, recorded: begun, since, enabled: self.enabled });
        record.enabled = self.enabled && record.successor.is_none();
    }
}
