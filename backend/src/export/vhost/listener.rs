//! Accepts front-ends on an export's socket, one after the other: the next session starts when all I/O of the last has
//! ended.

use super::options::Address;
use super::session;
use super::{ExportShared, Link};
use crate::export::ExportError;
use crate::export::unix;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What a connection comes from.
enum Source {
    Listening(UnixListener),
    Connected(UnixStream),
}

struct State {
    stop: OwnedFd,
    stopping: AtomicBool,
    finished: Mutex<bool>,
    end: Condvar,
}

/// An export's listening thread.
pub struct Listener {
    state: Arc<State>,
    /// The socket we created, to be removed again.
    path: Option<PathBuf>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Listener {
    /// Listens, or serves the one connection of an inherited socket.
    ///
    /// # Errors
    /// The socket cannot be made, is live, or is no socket.
    pub fn start(address: Address, export: Arc<ExportShared>, link: Arc<Link>) -> Result<Self, ExportError> {
        let id = export.id.clone();
        let failed = |source: io::Error| ExportError::Thread { id, source };
        let stop = match rustix::event::eventfd(0, EventfdFlags::CLOEXEC) {
            Ok(stop) => stop,
            Err(error) => return Err(failed(error.into())),
        };
        let (source, path) = open(address)?;
        let state =
            Arc::new(State { stop, stopping: AtomicBool::new(false), finished: Mutex::default(), end: Condvar::new() });
        let run = {
            let state = state.clone();
            move || serve(source, &state, &export, &link)
        };
        let thread = std::thread::Builder::new().name("vhost-user".into()).spawn(run).map_err(failed)?;
        Ok(Self { state, path, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the session and the thread; false if that was done before.
    pub fn stop(&self, link: &Link) -> bool {
        if self.state.stopping.swap(true, Ordering::AcqRel) {
            return false;
        }
        // Fails only when the counter is full; then it is signalled.
        let _ = rustix::io::write(&self.state.stop, &1u64.to_ne_bytes());
        link.disconnect();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a vhost-user session ended by a bug");
        }
        if let Some(path) = &self.path {
            // Somebody may have removed it before us.
            let _ = std::fs::remove_file(path);
        }
        true
    }

    /// Whether it is ending or has ended.
    pub fn is_stopping(&self) -> bool {
        self.state.stopping.load(Ordering::Acquire)
    }

    /// Waits until it accepts no front-end any more: it was stopped, or its only connection has ended.
    pub fn wait_finished(&self) {
        let mut finished = self.state.finished.lock().unwrap_or_else(PoisonError::into_inner);
        while !*finished {
            finished = self.state.end.wait(finished).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn serve(source: Source, state: &State, export: &Arc<ExportShared>, link: &Arc<Link>) {
    match source {
        Source::Connected(stream) => converse(stream, state, export, link),
        Source::Listening(listener) => {
            while let Some(stream) = accept(&listener, state) {
                converse(stream, state, export, link);
            }
        }
    }
    *state.finished.lock().unwrap_or_else(PoisonError::into_inner) = true;
    state.end.notify_all();
}

/// One session from its first message to the end of its I/O.
fn converse(stream: UnixStream, state: &State, export: &Arc<ExportShared>, link: &Arc<Link>) {
    match stream.try_clone() {
        Ok(clone) => link.connected(clone),
        Err(error) => return tracing::error!(export = %export.id, %error, "cannot take a connection"),
    }
    // A stop that came before the link knew the stream.
    if state.stopping.load(Ordering::Acquire) {
        link.disconnect();
    }
    session::serve(stream, export, link);
    link.disconnected();
}

/// The next connection; `None` once told to stop.
fn accept(listener: &UnixListener, state: &State) -> Option<UnixStream> {
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&state.stop, PollFlags::IN)];
        if let Err(error) = rustix::event::poll(&mut fds, None)
            && error != rustix::io::Errno::INTR
        {
            tracing::error!(%error, "cannot wait for connections");
            return None;
        }
        if state.stopping.load(Ordering::Acquire) {
            return None;
        }
        if !fds[0].revents().is_empty() {
            match listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Out of descriptors, mostly: do not spin until some are free.
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    }
}

fn open(address: Address) -> Result<(Source, Option<PathBuf>), ExportError> {
    match address {
        Address::Path { path, mode, group } => {
            let listener = unix::listen(&path, Some(mode), group)?;
            Ok((Source::Listening(listener), Some(path)))
        }
        Address::Fd(fd) => {
            let number = fd.as_raw_fd();
            let fail = |error: rustix::io::Errno| ExportError::Fd { fd: number, source: error.into() };
            let listening = rustix::net::sockopt::socket_acceptconn(&fd).map_err(fail)?;
            match listening {
                true => {
                    let listener = UnixListener::from(fd);
                    listener.set_nonblocking(true).map_err(|source| ExportError::Fd { fd: number, source })?;
                    Ok((Source::Listening(listener), None))
                }
                false => Ok((Source::Connected(UnixStream::from(fd)), None)),
            }
        }
    }
}
