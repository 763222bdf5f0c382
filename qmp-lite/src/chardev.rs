//! Character devices: the sockets that monitors talk over.
//!
//! Knows how a socket comes to be (listening, connecting, inherited) and hands out one client after
//! the other; knows nothing of what is said.

mod options;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};

use tidemark_backend::export::remove_dead;

use crate::error::QmpError;
use crate::inherited;
use options::{Address, Options};

/// How long to wait for descriptors or memory before the next client is accepted.
const RETRY: Duration = Duration::from_millis(100);

/// A socket device.
#[derive(Debug)]
pub struct Chardev {
    id: String,
    /// A client that is there before anybody asks for one.
    first: Mutex<Option<OwnedFd>>,
    listener: Option<OwnedFd>,
    /// The socket file, removed at the end.
    file: Option<PathBuf>,
    closed: AtomicBool,
}

impl Chardev {
    /// Makes what the argument of `--chardev` describes. With `wait=on`, the default for servers,
    /// waits for a first client.
    ///
    /// # Errors
    /// QEMU's text for an option that makes no sense, and the system's reasons.
    pub fn open(option: &str) -> Result<Self, QmpError> {
        let options = Options::parse(option)?;
        let mut chardev = Self {
            id: options.id.clone(),
            first: Mutex::default(),
            listener: None,
            file: None,
            closed: AtomicBool::new(false),
        };
        if options.server {
            chardev.listener = Some(listen(&options.address)?);
            if let Address::Path(path) = &options.address {
                chardev.file = Some(path.into());
            }
            if options.wait {
                tracing::info!("waiting for a connection on chardev {}", chardev.id);
                let client = chardev.accept();
                chardev.first = Mutex::new(client);
            }
        } else {
            chardev.first = Mutex::new(Some(connect(&options.address)?));
        }
        Ok(chardev)
    }

    /// The device's name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The next client; waits for one. `None` when there will be none.
    pub fn accept(&self) -> Option<OwnedFd> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if first.is_some() {
            return first;
        }
        let listener = self.listener.as_ref()?;
        while !self.closed.load(Ordering::Acquire) {
            match accept_with(listener, SocketFlags::CLOEXEC) {
                Ok(client) => return Some(client),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    std::thread::sleep(RETRY);
                }
                Err(error) => {
                    if !self.closed.load(Ordering::Acquire) {
                        tracing::error!("chardev {}: {error}", self.id);
                    }
                    return None;
                }
            }
        }
        None
    }

    /// No more clients; whoever waits for one is woken. The socket's file disappears.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(listener) = &self.listener {
            // A listener that is being closed cannot be helped any further.
            let _ = shutdown(listener, Shutdown::Both);
        }
        if let Some(file) = &self.file
            && let Err(error) = std::fs::remove_file(file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", file.display());
        }
    }
}

fn listen(address: &Address) -> Result<OwnedFd, QmpError> {
    let bind_error = |error: io::Error| failed("bind socket to", address, &error);
    match address {
        Address::Path(path) => {
            let bound = remove_dead(Path::new(path)).and_then(|()| UnixListener::bind(path));
            bound.map(Into::into).map_err(bind_error)
        }
        Address::Abstract(name) => {
            let address = SocketAddr::from_abstract_name(name);
            let bound = address.and_then(|address| UnixListener::bind_addr(&address));
            bound.map(Into::into).map_err(bind_error)
        }
        Address::Inet(host, port) => {
            let bound =
                options::resolve(host, port).and_then(|addresses| TcpListener::bind(&*addresses).map_err(bind_error));
            bound.map(Into::into)
        }
        Address::Fd(number) => {
            let socket = inherited::socket(number)?;
            match socket_acceptconn(&socket) {
                Ok(true) => Ok(socket),
                _ => Err(QmpError::generic(format!("File descriptor '{number}' is not listening"))),
            }
        }
    }
}

fn connect(address: &Address) -> Result<OwnedFd, QmpError> {
    let connect_error = |error: io::Error| failed("connect to", address, &error);
    match address {
        Address::Path(path) => UnixStream::connect(path).map(Into::into).map_err(connect_error),
        Address::Abstract(name) => {
            let address = SocketAddr::from_abstract_name(name);
            let connected = address.and_then(|address| UnixStream::connect_addr(&address));
            connected.map(Into::into).map_err(connect_error)
        }
        Address::Inet(host, port) => {
            let connected = options::resolve(host, port)
                .and_then(|addresses| TcpStream::connect(&*addresses).map_err(connect_error));
            connected.map(Into::into)
        }
        Address::Fd(number) => inherited::socket(number),
    }
}

fn failed(what: &str, address: &Address, error: &io::Error) -> QmpError {
    let reason = tidemark_backend::error::errno_text(error);
    let quote = if what == "connect to" { "'" } else { "" };
    QmpError::generic(format!("Failed to {what} {quote}{address}{quote}: {reason}"))
}
