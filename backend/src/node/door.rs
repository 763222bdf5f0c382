//! An export's way to a node, which may come to lead to another one while guests run.
//!
//! A door is known to the node that it leads to, so that whoever takes the node's place finds all who come to it.
//! Invariant: as long as it is open its node is in use, with the locks that its user needs.

use super::Node;
use crate::error::GraphError;
use crate::io::lock::Access;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An export's way to a node.
pub struct Door {
    place: Mutex<Place>,
    writable: bool,
}

struct Place {
    node: Arc<Node>,
    open: bool,
}

impl Door {
    /// Takes `node` into use.
    ///
    /// # Errors
    /// As [`Node::acquire`]; [`GraphError::Busy`] while another node is taking its place.
    pub fn open(node: &Arc<Node>, writable: bool) -> Result<Arc<Self>, GraphError> {
        node.acquire(writable)?;
        let door = Arc::new(Self { place: Mutex::new(Place { node: node.clone(), open: true }), writable });
        // An error closes it.
        node.points().add_door(&door).map_err(|_| GraphError::Busy {
            name: node.name().to_owned(),
            reason: "another node is about to take its place",
        })?;
        Ok(door)
    }

    /// The node it leads to.
    pub fn node(&self) -> Arc<Node> {
        self.place().node.clone()
    }

    /// Whether its user may write.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// What its user needs of files.
    pub(crate) fn access(&self) -> Access {
        Access::of_export(self.writable)
    }

    /// Leads to `node` from now on, which is in use for it already; inside [`super::points::hold`]. The node before
    /// stays in use, for whoever called this to release. False if it was closed.
    pub(crate) fn lead(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        let mut place = self.place();
        if place.open {
            place.node.points().forget_door(self);
            place.node = node.clone();
            node.points().take_door(self);
        }
        place.open
    }

    /// Gives the node back; the second time nothing.
    pub fn close(&self) {
        let mut place = self.place();
        if std::mem::take(&mut place.open) {
            place.node.release_for(self.access());
        }
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}
