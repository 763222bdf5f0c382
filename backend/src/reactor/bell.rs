//! The reactor's bell: an eventfd that its ring watches.

use crate::mailbox::{Bell, Ring};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Rings by writing to an eventfd.
#[derive(Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// The eventfd to watch.
    pub fn fd(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }
}

impl Ring for Waker {
    fn ring(&self) {
        // Fails only when 2^64 rings were never read; then it is ringing anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// The bell of one reactor.
pub type EventBell = Bell<Waker>;

pub(super) fn new() -> std::io::Result<Arc<EventBell>> {
    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
    Ok(Arc::new(Bell::new(Waker(Arc::new(fd)))))
}
