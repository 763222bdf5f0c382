//! A connected socket that operations can name.
//!
//! Shutting it down ends what is under way on it, from any thread: receives find the end, sends fail. Dropping it does
//! that too, and gives its number up; the descriptor is closed when the last operation on it has ended.

use super::{AtOnce, FileId, FileInfo, FileTable};
use rustix::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::Arc;
#[cfg(any(test, feature = "sim"))]
use std::sync::atomic::{AtomicBool, Ordering};

/// One end of a connection.
#[derive(Debug)]
pub struct Socket {
    id: FileId,
    end: End,
}

#[derive(Debug)]
enum End {
    Kernel {
        fd: Arc<OwnedFd>,
        files: Arc<FileTable>,
    },
    /// The world of the simulator looks at this.
    #[cfg(any(test, feature = "sim"))]
    Simulated(Arc<AtomicBool>),
}

impl Socket {
    /// Names a connected stream socket.
    ///
    /// # Errors
    /// The system's, when it is none.
    pub fn new(files: &Arc<FileTable>, fd: OwnedFd) -> std::io::Result<Self> {
        // A ring does not wait for what a socket that does not block is not ready for.
        rustix::io::ioctl_fionbio(&fd, false)?;
        let fd = Arc::new(fd);
        let info = FileInfo { fd: fd.clone(), block_device: false, direct: false, at_once: AtOnce::Nothing };
        Ok(Self { id: files.insert(info), end: End::Kernel { fd, files: files.clone() } })
    }

    /// One of the simulator's; it is shut down when the flag is set.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn simulated(id: FileId, shut: Arc<AtomicBool>) -> Self {
        Self { id, end: End::Simulated(shut) }
    }

    /// Its name.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Ends what is under way on it and whatever is begun later. From any thread.
    pub fn shutdown(&self) {
        match &self.end {
            // Fails when the other side was faster.
            End::Kernel { fd, .. } => drop(rustix::net::shutdown(fd, Shutdown::Both)),
            #[cfg(any(test, feature = "sim"))]
            End::Simulated(shut) => shut.store(true, Ordering::Release),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.shutdown();
        match &self.end {
            End::Kernel { files, .. } => files.remove(self.id),
            #[cfg(any(test, feature = "sim"))]
            End::Simulated(_) => {}
        }
    }
}
