//! The vhost-user conversation with one front-end.
//!
//! One plain thread per connection, because handling a message may wait: GET_VRING_BASE is answered when the queue's
//! I/O has ended. The thread waits for messages and for a fault in guest memory; what messages mean is in
//! [`device`] and, per queue, in [`vring`]. It never touches a ring: that is for the queue threads.
//!
//! Invariant: when [`serve`] returns, no queue of the session runs and no I/O of it is in flight, however it ended.

mod channel;
mod device;
#[cfg(test)]
mod tests;
mod vring;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error};

use super::memory::MemoryFault;
use super::{ExportShared, Link};
use device::Device;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the front-end closed the connection")]
    Closed,
    #[error("guest memory was taken away: a memory file was truncated")]
    MemoryLost,
    #[error("cannot wait for messages: {0}")]
    Wait(#[from] io::Error),
    #[error("{0}: {1}")]
    Message(String, Error),
}

/// Serves one front-end until it leaves; all I/O has ended when this returns.
pub fn serve(stream: UnixStream, export: &Arc<ExportShared>, link: &Arc<Link>) {
    tracing::info!(export = %export.id, peer = %peer(&stream), "front-end connected");
    match converse(stream, export, link) {
        Ok(()) | Err(End::Closed) => tracing::info!(export = %export.id, "front-end disconnected"),
        Err(error) => tracing::error!(export = %export.id, %error, "vhost-user session ended"),
    }
}

fn converse(stream: UnixStream, export: &Arc<ExportShared>, link: &Arc<Link>) -> Result<(), End> {
    // An inherited socket may have been made for a program with an event loop.
    stream.set_nonblocking(false)?;
    let fault = MemoryFault::new()?;
    // Its drop ends the queues, on every way out of here.
    let device = Arc::new(Mutex::new(Device::new(export.clone(), fault.clone())));
    let mut requests = BackendReqHandler::from_stream(stream.try_clone()?, device.clone());
    loop {
        wait(&stream, &fault)?;
        let header = channel::peek_header(&stream)?.ok_or(End::Closed)?;
        let backend_channel = match header.request() {
            Some(FrontendReq::SET_BACKEND_REQ_FD) => channel::peek_fd(&stream)?,
            _ => None,
        };
        match requests.handle_request() {
            Ok(()) => backend_channel.into_iter().for_each(|channel| link.set_backend_channel(channel)),
            // Also when it was killed while we answered.
            Err(Error::Disconnected | Error::SocketBroken(_)) => return Err(End::Closed),
            Err(error) if lock(&device).may_go_on(&header, &error) => {
                tracing::error!(export = %export.id, request = %header, %error, "vhost-user request failed");
            }
            Err(error) => return Err(End::Message(header.to_string(), error)),
        }
    }
}

fn lock(device: &Mutex<Device>) -> MutexGuard<'_, Device> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a message or the end of the connection.
fn wait(stream: &UnixStream, fault: &MemoryFault) -> Result<(), End> {
    let event = fault.event();
    let mut fds = [PollFd::new(stream, PollFlags::IN), PollFd::new(&event, PollFlags::IN)];
    loop {
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(End::Wait(error.into())),
            Ok(_) if fault.is_set() => return Err(End::MemoryLost),
            Ok(_) => return Ok(()),
        }
    }
}

/// Who is at the other end, for the log.
fn peer(stream: &UnixStream) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => format!("pid {} uid {}", peer.pid.as_raw_nonzero(), peer.uid.as_raw()),
        Err(error) => format!("unknown ({error})"),
    }
}
