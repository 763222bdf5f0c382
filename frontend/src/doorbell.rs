//! The eventfds of one queue: kick to the device, call and error from it.
//!
//! It moves no data and knows no ring; a clone rings the same bell. The kick outlives the back-end, as the one of a
//! guest does, so that a restarted back-end is handed the same eventfd.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::{Error, Result};

/// The eventfds of a queue.
#[derive(Clone, Debug)]
pub struct Doorbell {
    kick: Arc<EventFd>,
    call: Arc<Watched>,
    error: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    event: EventFd,
    epoll: Epoll,
}

impl Doorbell {
    /// Three fresh eventfds.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no descriptors left.
    pub fn new() -> Result<Doorbell> {
        Ok(Doorbell { kick: Arc::new(eventfd()?), call: Arc::new(Watched::new()?), error: Arc::new(Watched::new()?) })
    }

    /// Tells the device to look at the avail ring.
    ///
    /// # Errors
    /// [`Error::System`] if the eventfd cannot be written; a full counter is success, the device has been told.
    #[inline]
    pub fn kick(&self) -> Result<()> {
        match self.kick.write(1) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(Error::system("kick")(e)),
            _ => Ok(()),
        }
    }

    /// Waits for a used buffer notification and consumes it; false at the timeout.
    ///
    /// # Errors
    /// [`Error::System`] if polling fails.
    pub fn wait_call(&self, timeout: Duration) -> Result<bool> {
        self.call.wait(timeout)
    }

    /// Waits until the device reports a broken queue; false at the timeout.
    ///
    /// # Errors
    /// [`Error::System`] if polling fails.
    pub fn wait_error(&self, timeout: Duration) -> Result<bool> {
        self.error.wait(timeout)
    }

    pub(crate) fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    pub(crate) fn call_fd(&self) -> &EventFd {
        &self.call.event
    }

    pub(crate) fn error_fd(&self) -> &EventFd {
        &self.error.event
    }
}

impl Watched {
    fn new() -> Result<Watched> {
        let event = eventfd()?;
        let epoll = Epoll::new().map_err(Error::system("epoll_create"))?;
        let fd = event.as_raw_fd();
        epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).map_err(Error::system("epoll_ctl"))?;
        Ok(Watched { event, epoll })
    }

    fn wait(&self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        let mut events = [EpollEvent::default()];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            match self.epoll.wait(millis, &mut events) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(self.event.read().is_ok()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::system("epoll_wait")(e)),
            }
        }
    }
}

fn eventfd() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::system("eventfd"))
}
