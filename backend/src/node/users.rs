//! Who uses a node: parents, exports and jobs, with the image locks that they need together.

use super::{Driver, Node};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Node {
    /// Parents and exports.
    pub(crate) fn users(&self) -> usize {
        self.users.load(Ordering::Acquire)
    }

    /// Takes the node into use by an export: image locks are taken by the strongest need of all users.
    ///
    /// # Errors
    /// [`GraphError::Locked`] when another process has the image, [`GraphError::ReadOnly`] for `writable` on a
    /// read-only node.
    pub fn acquire(&self, writable: bool) -> Result<(), GraphError> {
        if writable && self.read_only {
            return Err(GraphError::ReadOnly);
        }
        self.acquire_for(Access::of_export(writable))
    }

    /// Undoes one [`Node::acquire`].
    pub fn release(&self, writable: bool) {
        self.release_for(Access::of_export(writable));
    }

    /// Takes the node into use by a job or a filter.
    ///
    /// # Errors
    /// [`GraphError::Locked`] when another process has the image, [`GraphError::NotWritable`] if it is to be written
    /// and read-only.
    pub fn acquire_for(&self, access: Access) -> Result<(), GraphError> {
        if access != Access::Read && self.read_only {
            return Err(GraphError::NotWritable);
        }
        self.lock(access)?;
        self.adopt();
        Ok(())
    }

    /// Undoes one [`Node::acquire_for`].
    pub fn release_for(&self, access: Access) {
        self.users.fetch_sub(1, Ordering::AcqRel);
        self.unlock(access);
    }

    /// Why the node as a whole is in use, if it is: QEMU's words for the reason.
    pub fn busy(&self) -> Option<&'static str> {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what concerns the node as a whole (closing it, a job on it), or no longer does.
    pub fn set_busy(&self, reason: Option<&'static str>) {
        *self.busy.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Counts a parent.
    pub(crate) fn adopt(&self) {
        self.users.fetch_add(1, Ordering::AcqRel);
    }

    fn lock(&self, access: Access) -> Result<(), GraphError> {
        match &self.driver {
            Driver::File(file) => file.lock(access),
            _ => self.child().map_or(Ok(()), |child| child.lock(access)),
        }
    }

    fn unlock(&self, access: Access) {
        match &self.driver {
            Driver::File(file) => file.unlock(access),
            _ => self.child().into_iter().for_each(|child| child.unlock(access)),
        }
    }
}
