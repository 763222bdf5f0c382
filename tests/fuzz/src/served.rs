//! A node behind an NBD server on a socket, and a client that does nothing wrong.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tidemark_backend::export::Exports;
use tidemark_backend::export::nbd::{NbdAddress, NbdOptions, NbdServerOptions};
use tidemark_backend::graph::Graph;
use tidemark_backend::nbd_wire::handshake::{OptionHeader, encode_info_request, option};
use tidemark_backend::nbd_wire::transmission::{Command, Headers, Request};
use tidemark_backend::node::NodeOptions;
use tidemark_backend::node::options::{Discard, DriverOptions};

/// Nothing takes as long.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A server with an export `disk` that can be written.
pub struct Served {
    dir: TempDir,
    graph: Arc<Graph>,
    exports: Arc<Exports>,
}

impl Served {
    /// Without an export.
    pub fn empty() -> Self {
        let dir = TempDir::new_in("/dev/shm").expect("a directory");
        let graph = Graph::new();
        let exports = Exports::new(graph.clone(), Arc::new(|_| ()));
        let address = NbdAddress::Unix(dir.path().join("nbd"));
        let options = NbdServerOptions { address, tls: None, max_connections: 0, handshake_max: None };
        exports.start_nbd_server(options).expect("a server");
        Self { dir, graph, exports }
    }

    /// Exports a node; false if it cannot be opened.
    pub fn add(&self, driver: DriverOptions) -> bool {
        let options =
            NodeOptions { node_name: Some("disk".into()), discard: Discard::Unmap, ..NodeOptions::new(driver) };
        if self.graph.open(&options).is_err() {
            return false;
        }
        let (id, node, name) = ("disk".to_owned(), "disk".to_owned(), "disk".to_owned());
        let options = NbdOptions {
            id,
            node,
            name,
            description: None,
            writable: true,
            writethrough: false,
            bitmaps: Vec::new(),
            allocation_depth: true,
        };
        self.exports.add_nbd(options).is_ok()
    }

    /// A connection on which nothing was said.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("nbd")).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a time limit");
        stream
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Whoever is connected is not any more; the node may not have been there.
        let _ = self.exports.stop_nbd_server();
        let _ = self.graph.close("disk");
    }
}

/// Agrees on the export with simple replies.
pub fn choose(stream: &mut UnixStream) {
    let request = encode_info_request("disk", &[]);
    let len = u32::try_from(request.len()).unwrap_or(0);
    let go = [&[0, 0, 0, 3][..], &OptionHeader { option: option::GO, len }.encode(), &request].concat();
    stream.write_all(&go).expect("a handshake");
    // The greeting, the export, its sizes, and that this is all.
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    let mut kind = 0;
    while kind != 1 {
        let mut head = [0; 20];
        stream.read_exact(&mut head).expect("a reply");
        kind = u32::from_be_bytes([head[12], head[13], head[14], head[15]]);
        let mut data = vec![0; usize::from(head[19])];
        stream.read_exact(&mut data).expect("its data");
    }
}

/// Sends a request and waits for its reply; whether it was done.
pub fn ask(stream: &mut UnixStream, command: Command, offset: u64, len: u64, payload: &[u8]) -> bool {
    let head = Request { flags: 0, command, cookie: 1, offset, len }.encode(Headers::Simple);
    stream.write_all(&[&head[..], payload].concat()).expect("a request");
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).expect("a reply in time");
    reply[4..8] == [0; 4]
}

/// Reads, if that can be done.
pub fn read(stream: &mut UnixStream, offset: u64, len: usize) -> Option<Vec<u8>> {
    let mut data = vec![0; len];
    ask(stream, Command::Read, offset, len as u64, &[]).then(|| stream.read_exact(&mut data).expect("data"))?;
    Some(data)
}
