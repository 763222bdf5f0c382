//! Exports: what hands a node to the world. Knows nodes; does not know QMP or the command line.

mod error;
pub mod nbd;
mod running;
mod stats;
mod unix;
pub mod vhost;

pub use error::ExportError;
pub use stats::{Stats, Total, Totals};
pub use unix::remove_dead;

use crate::event::{Event, EventSink};
use crate::graph::Graph;
use crate::io::Workers;
use crate::node::Node;
use nbd::{NbdExport, NbdOptions, NbdServer, NbdServerOptions};
use running::Running;
use std::net::SocketAddr;
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
    /// Its QEMU type name, `vhost-user-blk` or `nbd`.
    pub kind: &'static str,
    /// The node it serves.
    pub node: Arc<Node>,
    /// Whether guests or clients may write.
    pub writable: bool,
    /// Whether it is being removed.
    pub shutting_down: bool,
    /// What its guests or clients have done so far.
    pub stats: Totals,
}

/// All exports of the daemon.
pub struct Exports {
    graph: Arc<Graph>,
    workers: Arc<Workers>,
    events: EventSink,
    running: Mutex<Vec<Running>>,
    /// Locked before `running`.
    server: Mutex<Option<NbdServer>>,
}

impl Exports {
    /// No exports. Events go to `events`, from any thread.
    pub fn new(graph: Arc<Graph>, events: EventSink) -> Arc<Self> {
        let sink = events.clone();
        graph.on_corruption(Box::new(move |node, corruption| {
            sink(Event::ImageCorrupted { node: node.to_owned(), corruption: corruption.clone() });
        }));
        let workers = Workers::new();
        let exports = Arc::new(Self { graph, workers, events, running: Mutex::default(), server: Mutex::default() });
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
        check_id(&options.id, &running)?;
        let export = VhostExport::start(options, self.graph.clone(), self.workers.clone(), self.events.clone())?;
        running.push(Running::Vhost(export));
        Ok(())
    }

    /// Starts the NBD server. It has no exports.
    ///
    /// # Errors
    /// [`ExportError::ServerRunning`], or the address cannot be listened on.
    pub fn start_nbd_server(&self, options: NbdServerOptions) -> Result<(), ExportError> {
        let mut server = self.server();
        if server.is_some() {
            return Err(ExportError::ServerRunning);
        }
        *server = Some(NbdServer::start(options, self.graph.clone(), self.workers.clone())?);
        Ok(())
    }

    /// Whether there is an NBD server.
    pub fn has_nbd_server(&self) -> bool {
        self.server().is_some()
    }

    /// Ends the NBD server, its connections and its exports; reports [`Event::ExportDeleted`] for each.
    ///
    /// # Errors
    /// [`ExportError::ServerNotRunning`].
    pub fn stop_nbd_server(&self) -> Result<(), ExportError> {
        let server = self.server().take().ok_or(ExportError::ServerNotRunning)?;
        // One that somebody else is removing needs no second removal.
        server.shared().exports().iter().for_each(|export| drop(self.remove(&export.id, RemoveMode::Hard)));
        server.stop();
        Ok(())
    }

    /// Where the NBD server listens for TCP clients, with the ports that were free.
    pub fn nbd_addresses(&self) -> Vec<SocketAddr> {
        self.server().as_ref().map_or_else(Vec::new, |server| server.addresses().to_vec())
    }

    /// Has the NBD server show a node under a name.
    ///
    /// # Errors
    /// With QEMU's texts; see [`ExportError`].
    pub fn add_nbd(&self, options: NbdOptions) -> Result<(), ExportError> {
        let server = self.server();
        let mut running = self.lock();
        check_id(&options.id, &running)?;
        let node = self.graph.find(&options.node);
        let node = node.ok_or_else(|| ExportError::NodeNotFound(options.node.clone()))?;
        if options.writable && node.is_read_only() {
            return Err(crate::error::GraphError::ReadOnly.into());
        }
        let server = server.as_ref().ok_or(ExportError::ServerNotRunning)?;
        let export = NbdExport::new(options, node, server.shared().clone(), &self.graph)?;
        running.push(Running::Nbd(export));
        Ok(())
    }

    /// Says why an export could not be made of a node that is still to come, as far as that does not depend on the node.
    ///
    /// # Errors
    /// As [`Exports::add_nbd`].
    pub fn check_nbd(&self, options: &NbdOptions) -> Result<(), ExportError> {
        let server = self.server();
        check_id(&options.id, &self.lock())?;
        let server = server.as_ref().ok_or(ExportError::ServerNotRunning)?;
        NbdExport::check(options, server.shared())
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
        self.lock().retain(|other| !other.is(&export));
        self.graph.let_go(export.info().node);
        (self.events)(Event::ExportDeleted { id: id.to_owned() });
        Ok(())
    }

    /// Ends all exports, and the NBD server.
    pub fn remove_all(&self) {
        for export in self.list() {
            // One that somebody else is removing needs no second removal.
            let _ = self.remove(&export.id, RemoveMode::Hard);
        }
        // Without one there is nothing to end.
        let _ = self.stop_nbd_server();
    }

    /// All exports, oldest first.
    pub fn list(&self) -> Vec<ExportInfo> {
        self.lock().iter().map(|export| export.info()).collect()
    }

    /// Waits until an export accepts nobody any more: it is being removed, or it was given a connected socket and that
    /// connection has ended. Returns at once if there is no such export.
    pub fn wait_finished(&self, id: &str) {
        if let Some(export) = self.find(id) {
            export.wait_finished();
        }
    }

    /// Waits until an export has had a client and has none any more, or is being removed. Returns at once if there is no
    /// such export.
    pub fn wait_used(&self, id: &str) {
        if let Some(export) = self.find(id) {
            export.wait_used();
        }
    }

    fn find(&self, id: &str) -> Option<Running> {
        self.lock().iter().find(|export| export.id() == id).cloned()
    }

    fn node_resized(&self, node: &Arc<Node>) {
        self.lock().iter().for_each(|export| export.node_resized(node));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> MutexGuard<'_, Option<NbdServer>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_id(id: &str, running: &[Running]) -> Result<(), ExportError> {
    if !crate::graph::is_well_formed(id) {
        return Err(ExportError::InvalidId);
    }
    match running.iter().any(|export| export.id() == id) {
        true => Err(ExportError::IdTaken(id.to_owned())),
        false => Ok(()),
    }
}
