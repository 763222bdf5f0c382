//! The vhost-user-blk export: a listener, one session at a time, and a thread per virtqueue the guest starts.
//!
//! From the outside in: `listener` accepts, `session` speaks vhost-user with the front-end, `queue` serves rings.

pub mod config;
pub mod inflight;
mod link;
mod listener;
pub mod memory;
mod options;
pub mod queue;
pub mod request;
pub mod ring;
mod session;
mod shared;

pub use super::stats::{Stats, Total, Totals};
pub use link::Link;
pub use options::{Address, Polling, QUEUES_MAX, VhostOptions};
pub use shared::ExportShared;

use super::{ExportError, ExportInfo};
use crate::event::EventSink;
use crate::graph::Graph;
use crate::io::Workers;
use crate::node::Node;
use listener::Listener;
use std::sync::Arc;

/// A running export.
pub struct VhostExport {
    shared: Arc<ExportShared>,
    link: Arc<Link>,
    listener: Listener,
}

impl VhostExport {
    /// Takes the node into use and starts listening.
    pub(super) fn start(
        options: VhostOptions,
        graph: Arc<Graph>,
        workers: Arc<Workers>,
        events: EventSink,
    ) -> Result<Arc<Self>, ExportError> {
        let shared = Arc::new(ExportShared::new(&options, graph, workers, events)?);
        // A kernel without io_uring is found out now, not when a guest connects.
        drop(shared.reactor()?);
        let link = Arc::new(Link::default());
        let listener = Listener::start(options.address, shared.clone(), link.clone())?;
        Ok(Arc::new(Self { shared, link, listener }))
    }

    /// Ends the listener and the session, waits for their I/O and gives the node back; false if that was done before.
    pub(super) fn stop(&self) -> bool {
        let first = self.listener.stop(&self.link);
        if first {
            self.shared.door.close();
        }
        first
    }

    pub(super) fn id(&self) -> &str {
        &self.shared.id
    }

    pub(super) fn node(&self) -> Arc<Node> {
        self.shared.node()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    pub(super) fn wait_finished(&self) {
        self.listener.wait_finished();
    }

    /// Tells the front-end to read the configuration space again.
    pub(super) fn config_changed(&self) {
        self.link.config_changed();
    }

    pub(super) fn info(&self) -> ExportInfo {
        ExportInfo {
            id: self.shared.id.clone(),
            kind: "vhost-user-blk",
            node: self.shared.node(),
            writable: self.shared.writable,
            shutting_down: self.listener.is_stopping(),
            stats: Totals::of(&self.shared.stats),
        }
    }
}
