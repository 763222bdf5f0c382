//! The thread that accepts clients.

use super::connection::Arrival;
use super::options::NbdAddress;
use super::pool::Pool;
use super::server::ServerShared;
use crate::export::{ExportError, unix};
use crate::io::Socket;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// After this long without a word from the other end of a TCP connection it is asked for one.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often it is asked, and how many times before it counts as gone.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMES: u32 = 6;
/// Bytes of replies that wait in a UNIX socket; the system counts them twice. In what it gives by default a reply of
/// 256 KiB, as clients that copy disks ask for, has no room: it would wait half-way for the client.
const SEND_BUFFER: usize = 2 * 1024 * 1024;

struct Stop {
    event: OwnedFd,
    is_set: AtomicBool,
}

/// See the module's description.
pub struct Listener {
    stop: Arc<Stop>,
    /// The socket we created, to be removed again.
    path: Option<PathBuf>,
    addresses: Vec<SocketAddr>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Listens, and gives who connects to `pool`.
    ///
    /// # Errors
    /// The address cannot be listened on, or the thread not started.
    pub fn start(address: NbdAddress, server: Arc<ServerShared>, pool: Arc<Pool>) -> Result<Self, ExportError> {
        let failed = |source: io::Error| ExportError::Thread { id: "nbd-server".into(), source };
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let stop = Arc::new(Stop { event, is_set: AtomicBool::new(false) });
        let Listening { sockets, path, addresses } = open(address)?;
        let run = {
            let stop = stop.clone();
            move || accept_all(&sockets, &stop, &server, &pool)
        };
        let thread = std::thread::Builder::new().name("nbd".into()).spawn(run).map_err(failed)?;
        Ok(Self { stop, path, addresses, thread: Mutex::new(Some(thread)) })
    }

    /// Where TCP clients connect, with the ports that were free.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts nobody any more.
    pub fn stop(&self) {
        self.stop.is_set.store(true, Ordering::Release);
        // Fails only when the counter is full; then it is signalled.
        let _ = rustix::io::write(&self.stop.event, &1u64.to_ne_bytes());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the NBD server's listener ended by a bug");
        }
        if let Some(path) = &self.path {
            // Somebody may have removed it before us.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn accept_all(sockets: &[OwnedFd], stop: &Stop, server: &Arc<ServerShared>, pool: &Arc<Pool>) {
    while let Some(connection) = accept(sockets, stop, server) {
        if let Err(error) = greet(connection, server, pool) {
            tracing::warn!(%error, "an NBD client could not be taken");
            // Out of descriptors or memory, mostly: do not spin until there are some.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn greet(connection: OwnedFd, server: &Arc<ServerShared>, pool: &Arc<Pool>) -> io::Result<()> {
    // Fails for a UNIX socket, which has neither delays nor ends that nobody is told of.
    if sockopt::set_tcp_nodelay(&connection, true).is_ok() {
        sockopt::set_tcp_keepidle(&connection, KEEPALIVE_AFTER)?;
        sockopt::set_tcp_keepintvl(&connection, KEEPALIVE_EVERY)?;
        sockopt::set_tcp_keepcnt(&connection, KEEPALIVE_TIMES)?;
        sockopt::set_socket_keepalive(&connection, true)?;
    } else {
        // As much as the system allows, even if that is less.
        let _ = sockopt::set_socket_send_buffer_size(&connection, SEND_BUFFER);
    }
    let socket = Arc::new(Socket::new(server.files(), connection)?);
    // None once the server is being stopped.
    match server.clients().enter(&socket, None) {
        Some(client) => pool.give(Arrival { socket, client, server: server.clone() }),
        None => Ok(()),
    }
}

/// The next connection, once there is room for one; `None` once told to stop.
fn accept(sockets: &[OwnedFd], stop: &Stop, server: &ServerShared) -> Option<OwnedFd> {
    loop {
        server.wait_for_room();
        let watched = std::iter::once(&stop.event).chain(sockets);
        let mut fds: Vec<PollFd<'_>> = watched.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        match rustix::event::poll(&mut fds, None) {
            Err(error) if error != Errno::INTR => {
                tracing::error!(%error, "cannot wait for NBD clients");
                return None;
            }
            _ if stop.is_set.load(Ordering::Acquire) => return None,
            _ => {}
        }
        let ready = sockets.iter().zip(&fds[1..]).filter(|(_, fd)| !fd.revents().is_empty());
        for (socket, _) in ready {
            match rustix::net::accept_with(socket, SocketFlags::CLOEXEC) {
                Ok(connection) => return Some(connection),
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    tracing::warn!(%error, "an NBD client could not be accepted");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }
}

/// What clients connect to.
struct Listening {
    sockets: Vec<OwnedFd>,
    path: Option<PathBuf>,
    addresses: Vec<SocketAddr>,
}

fn open(address: NbdAddress) -> Result<Listening, ExportError> {
    match address {
        NbdAddress::Unix(path) => {
            let socket = unix::listen(&path, None, None)?;
            Ok(Listening { sockets: vec![socket.into()], path: Some(path), addresses: Vec::new() })
        }
        NbdAddress::Tcp { host, port } => open_tcp(&host, &port),
        NbdAddress::Fd(fd) => {
            let number = fd.as_raw_fd();
            let fail = |source: io::Error| ExportError::ListenFd { fd: number, source };
            match sockopt::socket_acceptconn(&fd) {
                Ok(true) => {}
                Ok(false) => return Err(fail(Errno::INVAL.into())),
                Err(error) => return Err(fail(error.into())),
            }
            rustix::io::ioctl_fionbio(&fd, true).map_err(|error| fail(error.into()))?;
            Ok(Listening { sockets: vec![fd], path: None, addresses: Vec::new() })
        }
    }
}

/// Listens on every address of the host; with a port that is free, on the first.
fn open_tcp(host: &str, port: &str) -> Result<Listening, ExportError> {
    let mut listening = Listening { sockets: Vec::new(), path: None, addresses: Vec::new() };
    let mut failure = None;
    for address in resolve(host, port)? {
        match listen(address) {
            Ok((socket, address)) => {
                listening.sockets.push(socket);
                listening.addresses.push(address);
                // An empty host: what takes both families leaves nothing to the other.
                if host.is_empty() || port == "0" {
                    return Ok(listening);
                }
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(source) if listening.sockets.is_empty() => Err(ExportError::Listen { source }),
        _ => Ok(listening),
    }
}

fn listen(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    Ok((socket.into(), address))
}

fn resolve(host: &str, port: &str) -> Result<Vec<SocketAddr>, ExportError> {
    let fail = |reason: String| ExportError::Resolve { address: format!("{host}:{port}"), reason };
    let number: u16 = port.parse().map_err(|_| fail("Servname not supported for ai_socktype".into()))?;
    let any = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let addresses: Vec<_> = match host {
        "" => any.map(|address| SocketAddr::new(address, number)).to_vec(),
        _ => (host, number).to_socket_addrs().map_err(|error| fail(resolver_text(&error)))?.collect(),
    };
    match addresses.is_empty() {
        true => Err(fail("Name or service not known".into())),
        false => Ok(addresses),
    }
}

/// The resolver's words, without whose they are.
fn resolver_text(error: &io::Error) -> String {
    let text = error.to_string();
    text.rsplit(": ").next().unwrap_or(&text).to_owned()
}
