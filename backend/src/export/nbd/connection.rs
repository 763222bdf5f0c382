//! One client, from its connection to its last I/O.

use super::clients::Client;
use super::server::ServerShared;
use crate::io::Socket;
use crate::reactor::{EventBell, Handle};
use std::sync::Arc;

/// A client that has just connected.
pub struct Arrival {
    /// Its connection.
    pub socket: Arc<Socket>,
    /// Its place among the clients of the server.
    pub client: Client,
    /// The server.
    pub server: Arc<ServerShared>,
}

/// Serves a client until it leaves, on thread `thread` of the pool. All its I/O has ended when this returns.
pub async fn serve(_io: &Handle, _bell: &Arc<EventBell>, arrival: Arrival, _thread: usize) {
    arrival.socket.shutdown();
}
