//! Exports: what hands a node to the world. Knows nodes; does not know QMP or the command line.

mod error;
pub mod vhost;

pub use error::ExportError;

use crate::event::{Event, EventSink};
use crate::graph::Graph;
use crate::io::Workers;
use crate::node::Node;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vhost::{VhostExport, VhostOptions};

/// Whether an export with a client may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveMode {
    /// Only if no client is connected.
    Safe,
    /// Clients are disconnected.
    Hard,
}

/// What a management client asks about an export.
#[derive(Clone, Debug)]
pub struct ExportInfo {
    /// Its id.
    pub id: String,
    /// Its QEMU type name, `vhost-user-blk`.
    pub kind: &'static str,
    /// The node it serves.
    pub node: Arc<Node>,
    /// Whether guests may write.
    pub writable: bool,
    /// Whether it is being removed.
    pub shutting_down: bool,
    /// What its guests have done so far.
    pub stats: vhost::Totals,
}

/// All exports of the daemon.
pub struct Exports {
    graph: Arc<Graph>,
    workers: Arc<Workers>,
    events: EventSink,
    running: Mutex<Vec<Arc<VhostExport>>>,
}

impl Exports {
    /// No exports. Events go to `events`, from any thread.
    pub fn new(graph: Arc<Graph>, events: EventSink) -> Arc<Self> {
        let sink = events.clone();
        graph.on_corruption(Box::new(move |node, corruption| {
            sink(Event::ImageCorrupted { node: node.to_owned(), corruption: corruption.clone() });
        }));
        let exports = Arc::new(Self { graph, workers: Workers::new(), events, running: Mutex::default() });
        let weak = Arc::downgrade(&exports);
        exports.graph.on_resize(Box::new(move |node| {
            if let Some(exports) = weak.upgrade() {
                exports.node_resized(node);
            }
        }));
        exports
    }

    /// Creates a vhost-user-blk export and starts listening.
    ///
    /// # Errors
    /// With QEMU's texts; see [`ExportError`].
    pub fn add_vhost(&self, options: VhostOptions) -> Result<(), ExportError> {
        let mut running = self.lock();
        if !crate::graph::is_identifier(&options.id) {
            return Err(ExportError::InvalidId);
        }
        if running.iter().any(|export| export.id() == options.id) {
            return Err(ExportError::IdTaken(options.id));
        }
        let export = VhostExport::start(options, self.graph.clone(), self.workers.clone(), self.events.clone())?;
        running.push(export);
        Ok(())
    }

    /// Ends an export: its listener, its session and all I/O of it. Reports [`Event::ExportDeleted`].
    ///
    /// # Errors
    /// [`ExportError::NotFound`]; [`ExportError::InUse`] in safe mode with a client connected;
    /// [`ExportError::ShuttingDown`] when it is being removed already.
    pub fn remove(&self, id: &str, mode: RemoveMode) -> Result<(), ExportError> {
        let export = self.find(id).ok_or_else(|| ExportError::NotFound(id.to_owned()))?;
        if mode == RemoveMode::Safe && export.is_connected() {
            return Err(ExportError::InUse(id.to_owned()));
        }
        if !export.stop() {
            return Err(ExportError::ShuttingDown(id.to_owned()));
        }
        self.lock().retain(|other| !Arc::ptr_eq(other, &export));
        (self.events)(Event::ExportDeleted { id: id.to_owned() });
        Ok(())
    }

    /// Ends all exports.
    pub fn remove_all(&self) {
        for export in self.list() {
            // One that somebody else is removing needs no second removal.
            let _ = self.remove(&export.id, RemoveMode::Hard);
        }
    }

    /// All exports, oldest first.
    pub fn list(&self) -> Vec<ExportInfo> {
        self.lock().iter().map(|export| export.info()).collect()
    }

    /// Waits until an export accepts no front-end any more: it is being removed, or it was given a connected socket and
    /// that connection has ended. Returns at once if there is no such export.
    pub fn wait_finished(&self, id: &str) {
        if let Some(export) = self.find(id) {
            export.wait_finished();
        }
    }

    fn find(&self, id: &str) -> Option<Arc<VhostExport>> {
        self.lock().iter().find(|export| export.id() == id).cloned()
    }

    fn node_resized(&self, node: &Arc<Node>) {
        for export in self.lock().iter().filter(|export| Arc::ptr_eq(export.node(), node)) {
            export.config_changed();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<VhostExport>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
