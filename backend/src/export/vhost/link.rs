//! The current connection of an export, as others than its session see it: to end it, or to tell its front-end that the
//! configuration space has changed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG: request 2, version 1, no payload (vhost-user.rst, "Back-end message types").
const CONFIG_CHANGE: [u32; 3] = [2, 1, 0];

#[derive(Default)]
struct State {
    stream: Option<UnixStream>,
    backend_channel: Option<OwnedFd>,
}

/// See the module's description.
#[derive(Default)]
pub struct Link {
    state: Mutex<State>,
}

impl Link {
    /// A session has begun on `stream`.
    pub fn connected(&self, stream: UnixStream) {
        *self.lock() = State { stream: Some(stream), backend_channel: None };
    }

    /// The session has ended.
    pub fn disconnected(&self) {
        *self.lock() = State::default();
    }

    /// Whether a front-end is connected.
    pub fn is_connected(&self) -> bool {
        self.lock().stream.is_some()
    }

    /// The front-end gave its channel for messages from the back-end (VHOST_USER_SET_BACKEND_REQ_FD).
    pub fn set_backend_channel(&self, channel: OwnedFd) {
        self.lock().backend_channel = Some(channel);
    }

    /// Ends the connection: the session's next read finds the end of the stream.
    pub fn disconnect(&self) {
        if let Some(stream) = &self.lock().stream {
            // An error means that it is closed already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Tells the front-end to read the configuration space again, if it can be told.
    pub fn config_changed(&self) {
        let state = self.lock();
        let Some(channel) = &state.backend_channel else { return };
        let mut message = [0u8; 12];
        for (bytes, word) in message.chunks_exact_mut(4).zip(CONFIG_CHANGE) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        if let Err(error) = rustix::net::send(channel.as_fd(), &message, flags) {
            tracing::warn!(%error, "could not tell the front-end of a configuration change");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
