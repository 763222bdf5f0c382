//! What a stage says of bitmaps as the actions so far leave them. Changes nothing.

use super::Stage;
use crate::bitmaps::persistent::Use;
use crate::bitmaps::{BitmapError, NotKept, Tracked};
use std::sync::Arc;
use tidemark_cbt::Granularity;

impl<T: Tracked> Stage<T> {
    /// Whether the node has such a bitmap.
    pub fn contains(&mut self, node: &Arc<T>, name: &str) -> bool {
        self.find(node, name).is_some()
    }

    /// Whether a backup may use it.
    ///
    /// # Errors
    /// [`BitmapError::NotFound`], [`BitmapError::Busy`].
    pub fn check_backup(&mut self, node: &Arc<T>, name: &str) -> Result<(), BitmapError> {
        self.free(node, name, Use::Read).map(|_| ())
    }

    /// Whether what it marks may be changed.
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn check_change(&mut self, node: &Arc<T>, name: &str) -> Result<(), BitmapError> {
        self.free(node, name, Use::Change).map(|_| ())
    }

    /// Bytes per bit of a bitmap that may be read.
    ///
    /// # Errors
    /// As QEMU refuses it.
    pub fn granularity(&mut self, node: &Arc<T>, name: &str) -> Result<u64, BitmapError> {
        self.free(node, name, Use::Read).map(|entry| entry.granularity.bytes())
    }

    /// The nodes that get persistent bitmaps.
    pub fn keeping(&self) -> Vec<Arc<T>> {
        let mut nodes: Vec<Arc<T>> = Vec::new();
        for entry in self.0.iter().filter(|entry| entry.persistent && entry.original.is_none() && !entry.removed) {
            if !nodes.iter().any(|node| Arc::ptr_eq(node, &entry.node)) {
                nodes.push(entry.node.clone());
            }
        }
        nodes
    }

    /// The persistent bitmaps that are removed, with their nodes: their images have to forget them.
    pub fn leaving(&self) -> Vec<(Arc<T>, String)> {
        let leaving = self.0.iter().filter(|entry| entry.removed && entry.persistent && entry.original.is_some());
        leaving.map(|entry| (entry.node.clone(), entry.name.clone())).collect()
    }

    /// Whether the node can keep a new bitmap, in the order in which QEMU asks.
    pub(super) fn check_storable(
        &self,
        node: &Arc<T>,
        name: &str,
        granularity: Granularity,
        known: bool,
    ) -> Result<(), BitmapError> {
        let records = node.tracking().lock();
        let kept = records.iter().filter(|record| record.persistent).map(|record| record.name.as_str());
        let staged = self.0.iter().filter(|entry| Arc::ptr_eq(&entry.node, node));
        let added = staged.filter(|entry| entry.persistent && entry.original.is_none());
        let others: Vec<&str> = kept.chain(added.map(|entry| entry.name.as_str())).collect();
        match node.check_storable(name, granularity, &others) {
            Err(NotKept::Never) => Err(BitmapError::CannotStore(node.name().to_owned())),
            _ if known => Err(BitmapError::Exists(name.to_owned())),
            Err(NotKept::Refused(reason)) => {
                let (name, node) = (name.to_owned(), node.name().to_owned());
                Err(BitmapError::NotStorable { name, node, reason })
            }
            Ok(()) => Ok(()),
        }
    }
}
