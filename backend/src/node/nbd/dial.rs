//! Connecting: by a thread of its own, because the system may take minutes over it.

use super::options::NbdServer;
use crate::error::errno_text;
use crate::io::{FileTable, Socket};
use crate::reactor::promise;
use rustix::net::sockopt;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;

/// An attempt under way; why it failed is for a human.
pub(super) type Dialing = Pin<Box<dyn Future<Output = Result<Socket, String>>>>;

/// A way to the server.
pub(super) trait Dial {
    /// Begins an attempt.
    fn dial(&self) -> Dialing;
}

/// The kernel's.
pub(super) struct KernelDial {
    server: NbdServer,
    files: Arc<FileTable>,
}

impl KernelDial {
    pub(super) fn new(server: NbdServer, files: Arc<FileTable>) -> Self {
        Self { server, files }
    }
}

impl Dial for KernelDial {
    fn dial(&self) -> Dialing {
        let (ticket, connected) = promise();
        let (server, files) = (self.server.clone(), self.files.clone());
        let work = move || {
            let name = |fd| Socket::new(&files, fd).map_err(|error| errno_text(&error));
            ticket.keep(connect(&server).and_then(name));
        };
        let started = std::thread::Builder::new().name("nbd-connect".into()).spawn(work);
        Box::pin(async move {
            started.map_err(|error| errno_text(&error))?;
            connected.await.unwrap_or_else(|| Err("The attempt to connect ended by a bug".to_owned()))
        })
    }
}

fn connect(server: &NbdServer) -> Result<OwnedFd, String> {
    let fail = |address: &str, error: &io::Error| format!("Failed to connect to '{address}': {}", errno_text(error));
    match server {
        NbdServer::Unix(path) => match UnixStream::connect(path) {
            Ok(socket) => Ok(socket.into()),
            Err(error) => Err(fail(&path.display().to_string(), &error)),
        },
        NbdServer::Tcp { host, port } => {
            let address = format!("{host}:{port}");
            let unresolved = |reason: &str| format!("address resolution failed for {address}: {reason}");
            let number: u16 = port.parse().map_err(|_| unresolved("Servname not supported for ai_socktype"))?;
            match TcpStream::connect((host.as_str(), number)) {
                Ok(socket) => tuned(socket.into()).map_err(|error| fail(&address, &error)),
                // What comes of the system's resolver has no number.
                Err(error) if error.raw_os_error().is_none() => {
                    let text = error.to_string();
                    Err(unresolved(text.rsplit(": ").next().unwrap_or(&text)))
                }
                Err(error) => Err(fail(&address, &error)),
            }
        }
    }
}

/// Replies are waited for, so nothing is gained by sending less often; a server that is gone is found out some time.
fn tuned(socket: OwnedFd) -> io::Result<OwnedFd> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    Ok(socket)
}
