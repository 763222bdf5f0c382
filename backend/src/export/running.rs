//! An export that is there, whatever its kind.

use super::ExportInfo;
use super::nbd::NbdExport;
use super::vhost::VhostExport;
use crate::node::Node;
use std::sync::Arc;

/// See the module's description.
#[derive(Clone)]
pub(super) enum Running {
    /// A virtio-blk disk over vhost-user.
    Vhost(Arc<VhostExport>),
    /// A name of the NBD server.
    Nbd(Arc<NbdExport>),
}

impl Running {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Vhost(export) => export.id(),
            Self::Nbd(export) => &export.id,
        }
    }

    /// Whether both are the same export.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vhost(export), Self::Vhost(other)) => Arc::ptr_eq(export, other),
            (Self::Nbd(export), Self::Nbd(other)) => Arc::ptr_eq(export, other),
            _ => false,
        }
    }

    pub(super) fn info(&self) -> ExportInfo {
        match self {
            Self::Vhost(export) => export.info(),
            Self::Nbd(export) => export.info(),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::Vhost(export) => export.is_connected(),
            Self::Nbd(export) => export.clients.count() > 0,
        }
    }

    /// Ends it and its I/O; false if that was done before.
    pub(super) fn stop(&self) -> bool {
        match self {
            Self::Vhost(export) => export.stop(),
            Self::Nbd(export) => export.stop(),
        }
    }

    /// Waits until it accepts nobody any more.
    pub(super) fn wait_finished(&self) {
        match self {
            Self::Vhost(export) => export.wait_finished(),
            Self::Nbd(export) => export.clients.wait_closed(),
        }
    }

    /// Waits until somebody was connected and nobody is any more, or it accepts nobody.
    pub(super) fn wait_used(&self) {
        match self {
            // Its front-end comes back when it likes.
            Self::Vhost(export) => export.wait_finished(),
            Self::Nbd(export) => export.clients.wait_used(),
        }
    }

    /// The length of a node has changed. Clients of NBD learn it when they connect.
    pub(super) fn node_resized(&self, node: &Arc<Node>) {
        match self {
            Self::Vhost(export) if Arc::ptr_eq(&export.node(), node) => export.config_changed(),
            Self::Vhost(_) | Self::Nbd(_) => {}
        }
    }
}
