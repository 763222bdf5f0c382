//! One virtqueue as the session knows it: what the front-end has told about it, and the queue thread while it runs.
//!
//! The ring lifecycle is vhost-user.rst, "Ring states". A ring runs here from the moment its size, addresses and kick
//! descriptor are known until GET_VRING_BASE; whether requests may be fetched is the queue thread's business, which
//! looks at the ring when it is enabled, so a kick that came before is not lost.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::super::ExportShared;
use super::super::inflight::InflightArea;
use super::super::memory::MemTable;
use super::super::queue::{QueueHandle, RingStart};
use super::super::ring::{MAX_QUEUE_SIZE, RingConfig};

/// An eventfd that the session and a queue thread hold.
type Event = Option<Arc<OwnedFd>>;

/// What all queues of a session have in common.
pub(super) struct Common<'a> {
    pub export: &'a Arc<ExportShared>,
    pub memory: &'a Arc<MemTable>,
    pub inflight: Option<&'a Arc<InflightArea>>,
    pub features: u64,
}

/// Front-end addresses of the parts of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Addresses {
    pub desc: u64,
    pub used: u64,
    pub avail: u64,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Vring {
    index: u16,
    size: u16,
    addresses: Option<Addresses>,
    base: u16,
    /// Set once SET_VRING_KICK came; the inner one is absent when we shall poll.
    kick: Option<Event>,
    call: Event,
    err: Event,
    enabled: bool,
    queue: Option<QueueHandle>,
}

impl Vring {
    /// Queue `index`, of which nothing is known yet.
    pub(super) fn new(index: u16) -> Vring {
        Vring { index, ..Vring::default() }
    }

    /// SET_VRING_NUM.
    pub(super) fn set_size(&mut self, size: u32) -> io::Result<()> {
        let size = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= MAX_QUEUE_SIZE);
        let size = size.ok_or_else(|| invalid("virtqueue size is not a power of two from 1 to 32768"))?;
        self.refuse_while_running(size == self.size)?;
        self.size = size;
        Ok(())
    }

    /// SET_VRING_ADDR. The same again is no change.
    pub(super) fn set_addresses(&mut self, addresses: Addresses) -> io::Result<()> {
        self.refuse_while_running(self.addresses == Some(addresses))?;
        self.addresses = Some(addresses);
        Ok(())
    }

    /// SET_VRING_BASE.
    pub(super) fn set_base(&mut self, base: u32) -> io::Result<()> {
        let base = u16::try_from(base).map_err(|_| invalid("virtqueue base is beyond 65535"))?;
        self.refuse_while_running(false)?;
        self.base = base;
        Ok(())
    }

    fn refuse_while_running(&self, is_same: bool) -> io::Result<()> {
        match &self.queue {
            Some(_) if !is_same => Err(invalid("virtqueue is running")),
            _ => Ok(()),
        }
    }

    /// SET_VRING_KICK: replaces the descriptor, and starts the ring if it is known.
    pub(super) fn set_kick(&mut self, file: Option<File>, common: &Common<'_>) -> io::Result<()> {
        let kick = event(file)?;
        self.kick = Some(kick.clone());
        match &self.queue {
            Some(queue) => queue.set_kick(kick),
            None => self.start_if_known(common)?,
        }
        Ok(())
    }

    /// SET_VRING_CALL.
    pub(super) fn set_call(&mut self, file: Option<File>) -> io::Result<()> {
        self.call = event(file)?;
        if let Some(queue) = &self.queue {
            queue.set_call(self.call.clone());
        }
        Ok(())
    }

    /// SET_VRING_ERR.
    pub(super) fn set_err(&mut self, file: Option<File>) -> io::Result<()> {
        self.err = event(file)?;
        if let Some(queue) = &self.queue {
            queue.set_err(self.err.clone());
        }
        Ok(())
    }

    /// SET_VRING_ENABLE; the messages that make a ring known may come in any order.
    pub(super) fn set_enabled(&mut self, enabled: bool, common: &Common<'_>) -> io::Result<()> {
        self.enabled = enabled;
        match &self.queue {
            Some(queue) => queue.set_enabled(enabled),
            None if enabled => self.start_if_known(common)?,
            None => {}
        }
        Ok(())
    }

    /// Gives a running queue another memory table; returns once it uses it.
    pub(super) fn set_memory(&self, memory: &Arc<MemTable>) {
        if let Some(queue) = &self.queue {
            queue.set_memory(memory.clone());
        }
    }

    /// Asks a running queue to fetch no more, without waiting.
    pub(super) fn disable(&mut self) {
        self.enabled = false;
        if let Some(queue) = &self.queue {
            queue.set_enabled(false);
        }
    }

    /// GET_VRING_BASE: stops the ring, waits for its I/O, and returns the next available index. The kick descriptor is
    /// given up, so that only a new one starts the ring again.
    pub(super) fn stop(&mut self) -> u16 {
        if let Some(queue) = self.queue.take() {
            self.base = queue.stop();
        }
        self.kick = None;
        self.base
    }

    /// Starts the ring if enough of it is known. A queue has a thread only while its ring runs.
    fn start_if_known(&mut self, common: &Common<'_>) -> io::Result<()> {
        let (Some(addresses), Some(kick), 1..) = (self.addresses, &self.kick, self.size) else { return Ok(()) };
        let Addresses { desc, used, avail } = addresses;
        let features = common.features;
        let config = RingConfig { size: self.size, desc, avail, used, next_avail: self.base, features };
        let start = RingStart {
            config,
            memory: common.memory.clone(),
            kick: kick.clone(),
            call: self.call.clone(),
            err: self.err.clone(),
            inflight: common.inflight.map(|area| area.region(self.index)).transpose().map_err(io::Error::other)?,
            enabled: self.enabled,
        };
        let queue = QueueHandle::spawn(self.index, common.export.clone()).map_err(io::Error::other)?;
        if let Err(error) = queue.start(start) {
            signal(&self.err);
            return Err(io::Error::other(error));
        }
        // The last process may have died between publishing and notifying.
        signal(&self.call);
        self.queue = Some(queue);
        Ok(())
    }
}

/// Takes an eventfd (or pipe) of the front-end. It must not be able to block us by filling it up.
fn event(file: Option<File>) -> io::Result<Event> {
    let Some(file) = file else { return Ok(None) };
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
    Ok(Some(Arc::new(OwnedFd::from(file))))
}

fn signal(event: &Event) {
    if let Some(event) = event {
        // An error means that it is full, which is as good, or that nobody can hear it.
        let _ = rustix::io::write(event, &1u64.to_ne_bytes());
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
