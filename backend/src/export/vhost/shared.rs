//! What the threads of one export share: the listener, the session and the queues.

use super::options::{Polling, QUEUES_MAX, VhostOptions};
use crate::error::IoError;
use crate::event::{Event, EventSink};
use crate::export::ExportError;
use crate::export::stats::Stats;
use crate::graph::Graph;
use crate::io::{Uring, Workers};
use crate::node::{Door, Node};
use crate::reactor::Reactor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Facts of an export, and the few things of it that change.
pub struct ExportShared {
    /// The export's id.
    pub id: String,
    /// The way to the node it serves.
    pub door: Arc<Door>,
    /// Whether guests may write.
    pub writable: bool,
    /// Bytes of a logical block.
    pub logical_block_size: u32,
    /// Virtqueues offered.
    pub num_queues: u16,
    /// The answer to GET_ID, padded with zeroes.
    pub serial: [u8; 20],
    /// Whether a write cache is in effect (config space `wce`): without it every write is stable before it completes.
    pub wce: AtomicBool,
    /// The value of `wce` at the start of a session.
    pub writethrough: bool,
    /// How queue threads wait for work.
    pub polling: Polling,
    /// CPUs for the queue threads.
    pub cpus: Vec<usize>,
    /// Counters by queue.
    pub stats: Box<[Stats]>,
    graph: Arc<Graph>,
    workers: Arc<Workers>,
    events: EventSink,
}

impl ExportShared {
    /// Checks the options, takes the node into use and makes the facts of an export of them.
    ///
    /// # Errors
    /// With QEMU's texts; see [`ExportError`].
    pub fn new(
        options: &VhostOptions,
        graph: Arc<Graph>,
        workers: Arc<Workers>,
        events: EventSink,
    ) -> Result<Self, ExportError> {
        if options.num_queues == 0 {
            return Err(ExportError::NoQueues);
        }
        if options.num_queues > QUEUES_MAX {
            return Err(ExportError::TooManyQueues { max: QUEUES_MAX });
        }
        if !options.logical_block_size.is_power_of_two() || !(512..=2_097_152).contains(&options.logical_block_size) {
            return Err(ExportError::BlockSize);
        }
        let serial = serial(options)?;
        Ok(Self {
            id: options.id.clone(),
            door: Door::open(&options.node, options.writable)?,
            writable: options.writable,
            logical_block_size: options.logical_block_size,
            num_queues: options.num_queues,
            serial,
            wce: AtomicBool::new(!options.writethrough),
            writethrough: options.writethrough,
            polling: options.polling,
            cpus: options.cpus.clone(),
            stats: (0..options.num_queues).map(|_| Stats::default()).collect(),
            graph,
            workers,
            events,
        })
    }

    /// The node it serves.
    pub fn node(&self) -> Arc<Node> {
        self.door.node()
    }

    /// Whether writes may be acknowledged before they are stable.
    pub fn has_write_cache(&self) -> bool {
        self.wce.load(Ordering::Relaxed)
    }

    /// A reactor for the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses io_uring.
    pub fn reactor(&self) -> Result<Reactor, ExportError> {
        let ring = Uring::new(self.graph.files().clone(), self.workers.clone())?;
        Reactor::new(Box::new(ring)).map_err(|source| ExportError::Thread { id: self.id.clone(), source })
    }

    /// Looks whether the device below has grown; the session is told by the graph if so.
    pub fn refresh_length(&self) {
        self.graph.refresh_length(&self.node());
    }

    /// Reports a guest's failed request.
    pub fn report(&self, write: bool, error: IoError) {
        let (export, node) = (self.id.clone(), self.node().name().to_owned());
        (self.events)(Event::IoError { export, node, write, error });
    }
}

fn serial(options: &VhostOptions) -> Result<[u8; 20], ExportError> {
    let mut bytes = [0; 20];
    match &options.serial {
        Some(text) if text.len() > bytes.len() => return Err(ExportError::Serial(text.clone())),
        Some(text) => bytes[..text.len()].copy_from_slice(text.as_bytes()),
        None => {
            let id = options.id.as_bytes();
            let len = id.len().min(bytes.len());
            bytes[..len].copy_from_slice(&id[..len]);
        }
    }
    Ok(bytes)
}
