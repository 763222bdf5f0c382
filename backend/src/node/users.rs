//! Who uses a node: parents, exports and jobs, with the image locks that they need together.

use super::claims::{Edge, User};
use super::{Driver, Node, Stake};
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

/// In the number of users: the node is being closed, and nobody takes it into use any more.
const GONE: usize = !(usize::MAX >> 1);

/// A node that nobody closes until this is dropped.
pub(crate) struct Kept(Option<Arc<Node>>);

impl Kept {
    /// # Errors
    /// [`GraphError::NotFound`]: it is being closed.
    pub(crate) fn new(node: &Arc<Node>) -> Result<Self, GraphError> {
        let kept = Self(Some(node.clone()));
        node.adopt().map(|()| kept)
    }

    /// It is for the caller to abandon it.
    pub(crate) fn hand_over(mut self) -> Option<Arc<Node>> {
        self.0.take()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.iter().for_each(|node| node.abandon());
    }
}

impl Node {
    /// Whether it has parents or is exported.
    pub fn is_used(&self) -> bool {
        self.users() > 0
    }

    /// Parents and exports.
    pub(crate) fn users(&self) -> usize {
        self.users.load(Ordering::Acquire) & !GONE
    }

    /// Takes the node into use by an export: image locks are taken by the strongest need of all users.
    ///
    /// # Errors
    /// [`GraphError::Locked`] when another process has the image, [`GraphError::ReadOnly`] for `writable` on a
    /// read-only node, [`GraphError::NotFound`] when it is being closed.
    pub fn acquire(self: &Arc<Self>, writable: bool) -> Result<(), GraphError> {
        if writable && self.is_read_only() {
            return Err(GraphError::ReadOnly);
        }
        self.acquire_for(Access::of_export(writable))
    }

    /// Undoes one [`Node::acquire`].
    pub fn release(&self, writable: bool) {
        self.release_for(Access::of_export(writable));
    }

    /// Takes the node into use by somebody who shares it with all others.
    ///
    /// # Errors
    /// As [`Node::hold_for`]; a permission conflict.
    pub fn acquire_for(self: &Arc<Self>, access: Access) -> Result<(), GraphError> {
        if access.writes() && !self.is_writable() {
            return Err(GraphError::NotWritable);
        }
        let stake = Stake::of_access(access);
        self.add_stake(stake.clone())?;
        self.hold_for(access).inspect_err(|_| self.unstake(&stake))
    }

    /// Takes the node into use, apart from the stake that its user has in it.
    ///
    /// # Errors
    /// [`GraphError::Locked`] when another process has the image, [`GraphError::NotWritable`] if it is to be written
    /// and read-only, [`GraphError::NotFound`] when it is being closed.
    pub fn hold_for(&self, access: Access) -> Result<(), GraphError> {
        if access.writes() && !self.is_writable() {
            return Err(GraphError::NotWritable);
        }
        self.adopt().and_then(|()| self.lock(&User::Root(access))).inspect_err(|_| self.abandon())
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
        self.unstake(&Stake::of_access(access));
        self.let_go_for(access);
    }

    /// Undoes one [`Node::hold_for`].
    pub fn let_go_for(&self, access: Access) {
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

    /// Counts a parent, who has to abandon the node, after an error too.
    ///
    /// # Errors
    /// [`GraphError::NotFound`]: it is being closed.
    pub(crate) fn adopt(&self) -> Result<(), GraphError> {
        match self.users.fetch_add(1, Ordering::AcqRel) & GONE {
            0 => Ok(()),
            _ => Err(GraphError::NotFound(self.name.clone())),
        }
    }

    /// Counts the node as the parent of those below.
    ///
    /// # Errors
    /// As [`Node::adopt`]; whoever drops it abandons them all.
    pub(crate) fn adopt_children(&self) -> Result<(), GraphError> {
        self.adopted().map(|child| child.adopt()).fold(Ok(()), Result::and)
    }

    /// If nobody uses the node, nobody ever does any more; whether that is so from now on.
    pub fn retire(&self) -> bool {
        self.users.compare_exchange(0, GONE, Ordering::AcqRel, Ordering::Acquire).is_ok()
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
                Driver::SnapshotAccess(reader) => reader.let_go(),
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
