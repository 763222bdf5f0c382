//! UNIX sockets that exports and monitors listen on.

use super::ExportError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{self, Read as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long somebody who has a socket and does not serve it may take to be gone.
const LEAVING: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// A socket at `path` with this mode and group, or those that the process gives its files. It does not block.
///
/// # Errors
/// Somebody listens there, or the system refuses.
pub(super) fn listen(path: &Path, mode: Option<u32>, group: Option<u32>) -> Result<UnixListener, ExportError> {
    let shown = || path.display().to_string();
    remove_dead(path).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ExportError::SocketLive(shown()),
        _ => ExportError::Bind { path: shown(), source },
    })?;
    bind(path, mode, group).map_err(|source| ExportError::Bind { path: shown(), source })
}

/// Removes a socket that nobody listens on: it is left over from a process that died. Any other file stays; whoever binds
/// hears of it. A process that was killed has its sockets for a while longer, so one that takes a connection and closes it is
/// looked at again.
///
/// # Errors
/// [`Errno::ADDRINUSE`]: somebody listens. The system's, if the file cannot be removed.
pub fn remove_dead(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    let deadline = Instant::now() + LEAVING;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) if is_closed(&stream, deadline) && Instant::now() < deadline => std::thread::sleep(LOOK),
            Ok(_) => return Err(Errno::ADDRINUSE.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
            Err(_) => return Ok(()),
        }
    }
    match std::fs::remove_file(path) {
        // Its owner has done it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Whether the other end closes a connection before `deadline` and before it says anything.
fn is_closed(mut stream: &UnixStream, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now()).max(LOOK);
    let read = stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut [0]));
    match read {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
    }
}

/// The socket never exists with more permissions than asked for: the mode is set before it has a name.
fn bind(path: &Path, mode: Option<u32>, group: Option<u32>) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let mode = mode.map(rustix::fs::Mode::from_raw_mode);
    if let Some(mode) = mode {
        rustix::fs::fchmod(&socket, mode)?;
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    if let Some(group) = group {
        rustix::fs::chown(path, None, Some(rustix::fs::Gid::from_raw(group)))?;
    }
    if let Some(mode) = mode {
        // The umask may have taken bits away.
        rustix::fs::chmod(path, mode)?;
    }
    rustix::net::listen(&socket, 16)?;
    Ok(UnixListener::from(socket))
}
