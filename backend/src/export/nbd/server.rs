//! The one NBD server of the daemon: its address, its exports by name, and everybody who is connected.

use super::clients::Clients;
use super::export::NbdExport;
use super::listener::Listener;
use super::options::NbdServerOptions;
use super::pool::Pool;
use crate::export::ExportError;
use crate::graph::Graph;
use crate::io::{FileTable, Workers};
use crate::tls;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What connections know of their server.
pub struct ServerShared {
    graph: Arc<Graph>,
    exports: Mutex<Vec<Arc<NbdExport>>>,
    clients: Arc<Clients>,
    max_connections: usize,
    /// With credentials every client has to speak TLS before anything else.
    pub tls: Option<Arc<tls::Server>>,
    /// A client that has not chosen an export by then is disconnected.
    pub handshake_max: Option<Duration>,
}

impl ServerShared {
    /// A server that nobody is connected to and that has no exports.
    pub fn new(options: &NbdServerOptions, graph: Arc<Graph>) -> Arc<Self> {
        Arc::new(Self {
            graph,
            exports: Mutex::default(),
            clients: Arc::default(),
            max_connections: usize::try_from(options.max_connections).unwrap_or(usize::MAX),
            tls: options.tls.clone(),
            handshake_max: options.handshake_max,
        })
    }

    /// The open files.
    pub fn files(&self) -> &Arc<FileTable> {
        self.graph.files()
    }

    /// Who is connected.
    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Whether a client may connect several times.
    pub fn allows_several(&self) -> bool {
        self.max_connections != 1
    }

    /// Waits until one more client may connect, or nobody may.
    pub fn wait_for_room(&self) {
        if self.max_connections > 0 {
            self.clients.wait_below(self.max_connections);
        }
    }

    /// Its exports, oldest first.
    pub fn exports(&self) -> Vec<Arc<NbdExport>> {
        self.lock().clone()
    }

    /// The export of that name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<NbdExport>> {
        self.lock().iter().find(|export| export.name.as_bytes() == name).cloned()
    }

    /// Shows an export to clients. Its name is not taken.
    pub fn add(&self, export: &Arc<NbdExport>) {
        self.lock().push(export.clone());
    }

    /// Shows it no longer.
    pub fn remove(&self, export: &Arc<NbdExport>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, export));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<NbdExport>>> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server.
pub struct NbdServer {
    shared: Arc<ServerShared>,
    listener: Listener,
    pool: Arc<Pool>,
}

impl NbdServer {
    /// Starts listening.
    ///
    /// # Errors
    /// The address cannot be listened on, or no thread started.
    pub fn start(options: NbdServerOptions, graph: Arc<Graph>, workers: Arc<Workers>) -> Result<Self, ExportError> {
        let shared = ServerShared::new(&options, graph.clone());
        let pool = Pool::new(graph, workers);
        let listener = Listener::start(options.address, shared.clone(), pool.clone())?;
        Ok(Self { shared, listener, pool })
    }

    /// What its connections see of it.
    pub fn shared(&self) -> &Arc<ServerShared> {
        &self.shared
    }

    /// Where TCP clients connect.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// Disconnects everybody and ends its threads. Its exports have been removed.
    pub fn stop(&self) {
        // First: the listener may be waiting for a client to leave.
        self.shared.clients().close();
        self.listener.stop();
        self.shared.clients().wait_empty();
        self.pool.end();
    }
}
