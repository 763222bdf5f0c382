//! Who uses a node: parents, exports and jobs, with the image locks that they need together.

use super::claims::User;
use super::{Driver, Node};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

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
        if writable && self.is_read_only() {
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
        if access.writes() && self.is_read_only() {
            return Err(GraphError::NotWritable);
        }
        self.lock(&User::Root(access))?;
        self.adopt();
        Ok(())
    }

    /// Undoes one [`Node::acquire_for`].
    pub fn release_for(&self, access: Access) {
        self.users.fetch_sub(1, Ordering::AcqRel);
        self.unlock(&User::Root(access));
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

    /// Counts one less.
    pub(crate) fn abandon(&self) {
        self.users.fetch_sub(1, Ordering::AcqRel);
    }

    /// The nodes below that this one has adopted.
    pub fn adopted(&self) -> impl Iterator<Item = &Arc<Node>> {
        let image = match &self.driver {
            Driver::Qcow2(image) => Some(image),
            _ => None,
        };
        let others = image.into_iter().flat_map(|image| image.data_file().into_iter().chain(image.backing()));
        self.child().into_iter().chain(others)
    }

    /// Refuses a user whom others do not let in; takes the locks that it needs.
    pub(super) fn lock(&self, user: &User) -> Result<(), GraphError> {
        self.claims().enter(&self.name, user)?;
        let below = match &self.driver {
            Driver::File(file) => file.lock(user.access()),
            // An image holds what it needs from when it is opened.
            Driver::Qcow2(_) => Ok(()),
            _ => self.child().map_or(Ok(()), |child| child.lock(user)),
        };
        if below.is_err() {
            self.claims().leave(user);
        }
        below
    }

    pub(super) fn unlock(&self, user: &User) {
        self.claims().leave(user);
        match &self.driver {
            Driver::File(file) => file.unlock(user.access()),
            Driver::Qcow2(_) => {}
            _ => self.child().into_iter().for_each(|child| child.unlock(user)),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in self.adopted() {
            child.users.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
