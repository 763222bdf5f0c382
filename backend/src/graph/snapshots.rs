//! Internal snapshots of images that nobody uses, for whoever manages them without a daemon. Texts are qemu-img's.

use super::Graph;
use super::errand::run;
use crate::error::GraphError;
use crate::node::qcow2::image::Image;
use crate::node::qcow2::snapshot::share::SnapshotFault;
use crate::node::qcow2::snapshot::{Description, SnapshotError};
use crate::node::{Driver, Node, NodeOptions};
use crate::reactor::Handle;
use std::sync::Arc;
use std::time::SystemTime;

/// What is to be done. Snapshots are named by their id or else their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotChange {
    /// Keep the disk as it is, under this name.
    Create(String),
    /// Make the disk what it was.
    Apply(String),
    /// Forget it.
    Delete(String),
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotChangeError {
    /// The image cannot be opened or closed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// It can be, and that is all.
    #[error("Could not {verb} snapshot '{name}': {why}")]
    Refused {
        /// What was to be done.
        verb: &'static str,
        /// To which snapshot.
        name: String,
        /// Why not.
        why: String,
    },
}

impl SnapshotChange {
    fn refused(&self, why: &dyn std::fmt::Display) -> SnapshotChangeError {
        let (verb, name) = match self {
            Self::Create(name) => ("create", name),
            Self::Apply(name) => ("apply", name),
            Self::Delete(name) => ("delete", name),
        };
        SnapshotChangeError::Refused { verb, name: name.clone(), why: why.to_string() }
    }

    fn why(&self, fault: &SnapshotFault) -> SnapshotChangeError {
        match (self, fault) {
            (Self::Apply(_), SnapshotFault::Snapshot(SnapshotError::NotFound(_))) => {
                self.refused(&"Failed to load snapshot: No such file or directory")
            }
            (Self::Apply(_), SnapshotFault::Outside) => self.refused(&format!("Failed to load snapshot: {fault}")),
            (Self::Delete(_), SnapshotFault::Outside | SnapshotFault::Snapshot(SnapshotError::NotFound(_))) => {
                self.refused(&"snapshot not found")
            }
            (_, fault) => self.refused(fault),
        }
    }
}

impl Graph {
    /// Changes the snapshots of an image, which is opened with `options` for that, under their name, and closed again.
    ///
    /// # Errors
    /// Somebody else has the image; see [`SnapshotChangeError`]. The image is what it was.
    pub fn change_snapshots(&self, options: &NodeOptions, change: &SnapshotChange) -> Result<(), SnapshotChangeError> {
        let node = self.open(options)?;
        let changed = self.change_snapshots_of(&node, change);
        let version = match node.driver() {
            Driver::Qcow2(image) => image.header().version,
            _ => 0,
        };
        let name = node.name().to_owned();
        drop(node);
        self.close(&name)?;
        changed?;
        if !matches!(change, SnapshotChange::Apply(_)) {
            return Ok(());
        }
        // Counts and flags are made right when it is opened; version 2 does not say that they have to be.
        let node = self.open(options)?;
        let settled = if version < 3 { self.settle(&node, change) } else { Ok(()) };
        drop(node);
        self.close(&name)?;
        settled
    }

    fn change_snapshots_of(&self, node: &Arc<Node>, change: &SnapshotChange) -> Result<(), SnapshotChangeError> {
        let (of, what) = (node.clone(), change.clone());
        let changed = run(&self.ring(), move |io| async move {
            match of.driver() {
                Driver::Qcow2(image) => Some(make(&io, image, &of, &what).await),
                _ => None,
            }
        })?;
        match (changed, change) {
            (Some(changed), _) => changed.map_err(|fault| change.why(&fault)),
            (None, SnapshotChange::Create(_)) => Err(change.refused(&"Operation not supported")),
            (None, SnapshotChange::Apply(_)) => Err(change.refused(&"Block driver does not support snapshots")),
            (None, SnapshotChange::Delete(_)) => Err(change.refused(&"snapshot not found")),
        }
    }

    fn settle(&self, node: &Arc<Node>, change: &SnapshotChange) -> Result<(), SnapshotChangeError> {
        let of = node.clone();
        let settled = run(&self.ring(), move |io| async move {
            match of.driver() {
                Driver::Qcow2(image) => image.settle_after_apply(&io).await,
                _ => Ok(()),
            }
        })?;
        settled.map_err(|error| change.refused(&error))
    }
}

async fn make(io: &Handle, image: &Image, node: &Node, change: &SnapshotChange) -> Result<(), SnapshotFault> {
    let points = node.points();
    match change {
        SnapshotChange::Create(name) => {
            let date = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let taking = image.begin_snapshot(io, points).await?;
            image.take_snapshot(io, taking, &Description { name: name.clone(), date }, points).await.map(drop)
        }
        SnapshotChange::Apply(wanted) => image.apply_snapshot(io, wanted, points).await,
        SnapshotChange::Delete(wanted) => {
            let (id, name) = {
                let table = image.snapshots();
                let found = table.find(wanted)?;
                (found.id.clone(), found.name.clone())
            };
            image.delete_snapshot(io, Some(&id), Some(&name), points).await.map(drop)
        }
    }
}
