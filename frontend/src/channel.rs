//! The back-end's channel to the front-end (SET_BACKEND_REQ_FD), as far as a block device uses it: configuration changes.
//!
//! Whoever owns it polls it; there is no thread. Any other message is refused as the specification wants.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vhost::vhost_user::{FrontendReqHandler, HandlerResult, VhostUserFrontendReqHandler};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::error::{Error, Result};

#[derive(Default)]
struct Changes(AtomicU64);

impl VhostUserFrontendReqHandler for Changes {
    fn handle_config_change(&self) -> HandlerResult<u64> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(0)
    }
}

/// The front-end's end of the channel.
pub struct BackendChannel {
    handler: FrontendReqHandler<Changes>,
    changes: Arc<Changes>,
    epoll: Epoll,
}

impl BackendChannel {
    /// A channel not yet given to anybody; `reply_ack` as negotiated.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel has no descriptors left.
    pub(crate) fn new(reply_ack: bool) -> Result<BackendChannel> {
        let changes = Arc::new(Changes::default());
        let broken = |e| Error::Message { message: "SET_BACKEND_REQ_FD", source: vhost::Error::VhostUserProtocol(e) };
        let mut handler = FrontendReqHandler::new(Arc::clone(&changes)).map_err(broken)?;
        handler.set_reply_ack_flag(reply_ack);
        let epoll = Epoll::new().map_err(Error::system("epoll_create"))?;
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, handler.as_raw_fd(), event).map_err(Error::system("epoll_ctl"))?;
        Ok(BackendChannel { handler, changes, epoll })
    }

    /// The socket for the back-end.
    pub(crate) fn backend_end(&self) -> impl AsRawFd {
        self.handler.get_tx_raw_fd()
    }

    /// Waits for a configuration change; false at the timeout.
    ///
    /// # Errors
    /// [`Error::Message`] if the back-end sent something else or the channel broke.
    pub fn wait_config_change(&mut self, timeout: Duration) -> Result<bool> {
        let seen = self.changes.0.load(Ordering::Relaxed);
        let mut events = [EpollEvent::default()];
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        match self.epoll.wait(millis, &mut events) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(e) => return Err(Error::system("epoll_wait")(e)),
        }
        let source = |e| Error::Message { message: "backend request", source: vhost::Error::VhostUserProtocol(e) };
        self.handler.handle_request().map_err(source)?;
        Ok(self.changes.0.load(Ordering::Relaxed) > seen)
    }
}
