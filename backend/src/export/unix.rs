//! UNIX sockets that exports listen on.

use super::ExportError;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A socket at `path` with this mode and group, or those that the process gives its files. It does not block.
///
/// # Errors
/// Somebody listens there, or the system refuses.
pub(super) fn listen(path: &Path, mode: Option<u32>, group: Option<u32>) -> Result<UnixListener, ExportError> {
    remove_dead(path)?;
    bind(path, mode, group).map_err(|source| ExportError::Bind { path: path.display().to_string(), source })
}

/// A socket that nobody listens on is left over from a process that died; any other file stays.
fn remove_dead(path: &Path) -> Result<(), ExportError> {
    use std::os::unix::fs::FileTypeExt;
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    let shown = path.display().to_string();
    match UnixStream::connect(path) {
        Ok(_) => Err(ExportError::SocketLive(shown)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ExportError::Bind { path: shown, source })
        }
        Err(_) => Ok(()),
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
