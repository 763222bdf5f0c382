//! Who uses a node: parents, exports and jobs, with the image locks that they need together.

use super::claims::{Edge, User};
use super::{Driver, Node};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

impl Node {
    /// Whether it has parents or is exported.
    pub fn is_used(&self) -> bool {
        self.users() > 0
    }

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
        if access.writes() && !self.is_writable() {
            return Err(GraphError::NotWritable);
        }
        self.lock(&User::Root(access))?;
        self.adopt();
        Ok(())
    }

    /// Whether writes get through to where the node's content is.
    pub(crate) fn is_writable(&self) -> bool {
        !self.is_read_only()
            && match &self.driver {
                // An image is not writable over files that are not.
                Driver::Qcow2(_) => true,
                _ => self.child().is_none_or(|child| child.is_writable()),
            }
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
    pub fn adopted(&self) -> impl Iterator<Item = Arc<Node>> + use<> {
        let (data, backing) = match &self.driver {
            Driver::Qcow2(image) => (image.data_file(), image.backing()),
            _ => (None, None),
        };
        self.child().into_iter().chain(data).chain(backing)
    }

    /// The way to the node below.
    pub(super) fn edge(&self) -> Edge {
        let role = if matches!(&self.driver, Driver::BlkDebug(_)) { "image" } else { "file" };
        Edge { parent: self.name.clone(), role }
    }

    /// Refuses a user whom others do not let in; takes the locks that it needs.
    pub(super) fn lock(&self, user: &User) -> Result<(), GraphError> {
        self.lock_through(user, None)
    }

    /// As [`Node::lock`], for one that comes from a node above.
    pub(super) fn lock_through(&self, user: &User, edge: Option<&Edge>) -> Result<(), GraphError> {
        self.claims().enter(&self.name, user, edge)?;
        let below = match &self.driver {
            Driver::File(file) => file.lock(user.access()),
            // An image holds what it needs from when it is opened.
            Driver::Qcow2(_) => Ok(()),
            _ => self.child().map_or(Ok(()), |child| child.lock_through(user, Some(&self.edge()))),
        };
        if below.is_err() {
            self.claims().leave(user, edge);
        }
        below
    }

    /// Takes the locks of one user instead of those of another, without a gap.
    pub(super) fn exchange(&self, last: &User, user: &User) -> Result<(), GraphError> {
        if last == user { Ok(()) } else { self.exchange_through(last, user, None) }
    }

    fn exchange_through(&self, last: &User, user: &User, edge: Option<&Edge>) -> Result<(), GraphError> {
        self.claims().exchange(&self.name, (last, user), edge)?;
        let below = match &self.driver {
            Driver::File(file) => file.lock(user.access()).map(|()| file.unlock(last.access())),
            Driver::Qcow2(_) => Ok(()),
            _ => self.child().map_or(Ok(()), |child| child.exchange_through(last, user, Some(&self.edge()))),
        };
        if below.is_err() {
            self.claims().exchange(&self.name, (user, last), edge)?;
        }
        below
    }

    pub(super) fn unlock(&self, user: &User) {
        self.unlock_through(user, None);
    }

    /// As [`Node::unlock`], for one that comes from a node above.
    pub(super) fn unlock_through(&self, user: &User, edge: Option<&Edge>) {
        self.claims().leave(user, edge);
        match &self.driver {
            Driver::File(file) => file.unlock(user.access()),
            Driver::Qcow2(_) => {}
            _ => self.child().into_iter().for_each(|child| child.unlock_through(user, Some(&self.edge()))),
        }
    }
}

impl Node {
    /// Nobody uses the nodes below through this one any more, nor limits or a target for it; the second time nothing.
    pub(crate) fn abandon_children(&self) {
        if !self.abandoned.swap(true, Ordering::AcqRel) {
            self.adopted().for_each(|child| child.abandon());
            match &self.driver {
                Driver::Throttle(throttle) => throttle.leave(),
                Driver::CopyBeforeWrite(filter) => filter.let_go(),
                _ => {}
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.abandon_children();
    }
}
